"""Answer all waiting POLLs from one lookup (decision 10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

import structlog

from one_provider_mad.actions.accepted import Accepted
from one_provider_mad.actions.deadlines import Deadlines, exceeded
from one_provider_mad.actions.engine import WAITING_FOR_ENGINE, EngineSource
from one_provider_mad.actions.lanes import Lanes
from one_provider_mad.actions.recreating import gone_for_good
from one_provider_mad.actions.replies import Replies
from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId, VmRequest
from one_provider_mad.errors import CannotTell, MadError, RequestRefused, SettingsError, internal_error
from one_provider_mad.ownership.locating import missing
from one_provider_mad.protocol.messages import Action, Reply
from one_provider_mad.protocol.poll import format_poll
from one_provider_mad.tasks import is_cancelled

log = structlog.get_logger()

STATE_LETTERS: dict[InstanceState, str] = {
    InstanceState.PENDING: "-",
    InstanceState.RUNNING: "a",
    InstanceState.STOPPING: "-",
    InstanceState.STOPPED: "d",
    InstanceState.SUSPENDING: "-",
    InstanceState.SUSPENDED: "p",
    InstanceState.UNKNOWN: "-",
}
"""POLL's letter by state. A transition is `-`, no news: else oned would end an action before its reply."""

NO_NEWS = "STATE=-"
"""The answer that changes nothing in any release (src/vmm/VirtualMachineManagerDriver.cc, process_poll)."""

_AT_ONCE = 64
"""POLLs answered in a row before the event loop gets a turn."""

_UNUSUAL_COUNT = 4
"""Missing instances from which on a listing counts as incomplete, if it lacks most of those looked up."""


async def poll(
    cloud: Cloud, requests: Sequence[VmRequest], *, is_certain: bool = True
) -> AsyncIterator[tuple[VmRequest, Reply]]:
    """Answer POLLs from one lookup, in the order they came.

    After a failed lookup the answer is "no news", since oned makes every VM UNKNOWN whose POLL fails, even after a
    power off that has just failed (src/vmm/VirtualMachineManagerDriver.cc, protocol).

    Args:
        cloud: where the instances are.
        requests: the POLLs.
        is_certain: the cloud's account is the one of before; else an instance that is absent or ended is no news.
    """
    try:
        found = await cloud.lookup({request.deploy_id for request in requests if request.deploy_id})
    except MadError as error:
        log_no_news(requests, error)
        for request in requests:
            yield request, _no_news(request)
        return
    lost = [request for request in requests if request.deploy_id not in found]
    found_by_tags = await _by_tags(cloud, lost) if lost else {}
    if isinstance(found_by_tags, MadError):
        log_no_news(lost, found_by_tags)
    is_unusual = not isinstance(found_by_tags, MadError) and _is_unusual(cloud, requests, found.keys())
    for request in requests:
        instance = found.get(request.deploy_id)
        if instance is not None:
            yield request, answer(cloud, request, instance, is_certain=is_certain)
        elif isinstance(found_by_tags, MadError):
            yield request, _no_news(request)
        elif (instance := found_by_tags.get(request.vm_id)) is not None:
            yield request, answer(cloud, request, instance)
        elif not is_certain or (is_unusual and request.deploy_id in cloud.knowledge.shown):
            yield request, _no_news(request)
        else:
            cloud.knowledge.shown.discard(request.deploy_id)
            yield request, _failure(request, missing(request.vm_id, request.deploy_id))


def log_no_news(requests: Sequence[VmRequest], error: MadError) -> None:
    """Log why the POLLs of these VMs are answered with no news."""
    log.warning("POLLs answered without news", vms=len(requests), first=requests[0].vm_id, reason=str(error))


def _is_unusual(cloud: Cloud, requests: Sequence[VmRequest], found: Collection[DeployId]) -> bool:
    """True when most of the known instances are missing at once, which shows an incomplete listing (decision 18)."""
    known = {request.deploy_id for request in requests} & cloud.knowledge.shown
    missing = sum(deploy_id not in found for deploy_id in known)
    if missing < _UNUSUAL_COUNT or missing <= len(known) / 2:
        return False
    log.warning("most instances are missing at once, so none is called missing", missing=missing, known=len(known))
    return True


async def _by_tags(cloud: Cloud, requests: Sequence[VmRequest]) -> dict[VmId, Instance] | MadError:
    """Return the live instance of each VM whose id finds none, by its tags, in one call for all VMs."""
    identities = {request.vm_id: request.identity(owner=cloud.owner) for request in requests}
    try:
        if len(identities) == 1:
            instances = await cloud.find(requests[0].vm_id)
        else:
            instances = await cloud.list_instances()
    except MadError as error:
        return error
    return {
        instance.identity.vm_id: instance
        for instance in instances
        if instance.identity is not None
        and not instance.state.is_gone
        and (wanted := identities.get(instance.identity.vm_id)) is not None
        and wanted.is_same_life(instance.identity)
    }


def answer(cloud: Cloud, request: VmRequest, instance: Instance, *, is_certain: bool = True) -> Reply:
    """Return the reply to a POLL from the VM's instance."""
    if not _is_of(cloud, request, instance):
        return _failure(request, f"instance {instance.deploy_id} is not VM {request.vm_id}'s, so no state is reported")
    letter = STATE_LETTERS.get(instance.state)
    if letter is None and not is_certain:
        return _no_news(request)
    if letter is None:
        # Not POWEROFF, which up to 6.8 cannot be recreated: UNKNOWN, and this sentence says how.
        return _failure(request, gone_for_good(instance))
    known, usage, attributes = cloud.knowledge.stale_names, instance.usage, instance.attributes
    stale = known.of(request.vm_id, attributes, usage)
    info = format_poll(letter, usage, attributes, stale=stale, is_legacy=request.is_legacy_poll)
    is_running = instance.state is InstanceState.RUNNING  # in RUNNING oned accepts figures for certain
    (known.reported if is_running else known.may_show)(request.vm_id, attributes, usage)
    return Reply(word=Action.POLL.value, vm_id=request.vm_id, is_success=True, info=info)


def _is_of(cloud: Cloud, request: VmRequest, instance: Instance) -> bool:
    identity = instance.identity
    return identity is None or request.identity(owner=cloud.owner).is_same_life(identity)


class Polls:
    """Answers the POLLs of one driver.

    Args:
        engines: gives the cloud.
        replies: sends the answers.
        deadlines: limits the time of a batch.
    """

    def __init__(self, engines: EngineSource, replies: Replies, deadlines: Deadlines) -> None:
        self._engines = engines
        self._replies = replies
        self._deadlines = deadlines

    async def answer(self, requests: list[VmRequest], lanes: Lanes) -> None:
        """Answer a batch of POLLs from one lookup, except POLLs that an action of their VM has overtaken."""
        waiting = Waiting()
        waiting.reason = WAITING_FOR_ENGINE
        unanswered = dict.fromkeys(range(len(requests)))
        seconds = self._deadlines.seconds(Action.POLL)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                source = await self._engines.poll_source()
                if source.cloud is None:
                    raise SettingsError("the configuration changed meanwhile")
                number, cloud = 0, source.cloud.for_action(waiting)
                async for request, reply in poll(cloud, requests, is_certain=source.is_certain):
                    del unanswered[number]
                    number += 1
                    if lanes.is_listed(request):
                        self._replies.send(reply)
                        lanes.answered(request)
                    if number % _AT_ONCE == 0:
                        await asyncio.sleep(0)
        except MadError as error:
            reason: MadError = error
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            if isinstance(error, TimeoutError) and limit.expired():
                late = sum(lanes.is_listed(requests[number]) for number in unanswered)
                reason = exceeded(Action.POLL, seconds, waiting, late)
            else:
                log.exception("poll failed unexpectedly")
                reason = CannotTell(internal_error(error))
        else:
            return
        log_no_news([requests[number] for number in unanswered], reason)
        for number in unanswered:
            if lanes.is_listed(requests[number]):
                self.answer_no_news(requests[number])

    def answer_no_news(self, request: VmRequest) -> None:
        """Answer a POLL with no news, since an action has overtaken it, or the cloud does not answer."""
        self._replies.send(_no_news(request))

    def is_without_news(self, accepted: Accepted, error: MadError) -> bool:
        """True for a POLL that failed since the cloud did not answer; a POLL that is refused reports its VM lost."""
        if accepted.action is not Action.POLL or self._engines.is_verbatim or isinstance(error, RequestRefused):
            return False
        log.warning("POLL answered without news", vm=accepted.vm_id, reason=str(error))
        return True


async def poll_alone(cloud: Cloud, request: VmRequest, *, is_certain: bool) -> str:
    """Return the payload of the answer to one POLL, which is not part of a batch.

    Raises:
        RequestRefused: its VM is lost.
    """
    async for _, reply in poll(cloud, [request], is_certain=is_certain):
        if not reply.is_success:
            raise RequestRefused(reply.info)
        return reply.info
    raise AssertionError("a lookup for one POLL gave no answer")


def _no_news(request: VmRequest) -> Reply:
    return Reply(word=Action.POLL.value, vm_id=request.vm_id, is_success=True, info=NO_NEWS)


def _failure(request: VmRequest, sentence: str) -> Reply:
    return Reply(word=Action.POLL.value, vm_id=request.vm_id, is_success=False, info=sentence)
