"""Terminate instances: all of a VM for an intent, one for a debt; wait until the cloud shows them terminated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from one_provider_mad.actions.intents import LCM_STATES
from one_provider_mad.actions.work import Work
from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, Instance, InstanceState
from one_provider_mad.errors import InstanceNotFound, JournalError, WrongState
from one_provider_mad.ownership.destroying import to_destroy
from one_provider_mad.providers.interface import SoftTerminate
from one_provider_mad.timestamps import Timestamp

_GUESTS_SECONDS = 120.0
"""Seconds for a guest to shut down: a terminate requested again after them ends the instance by force."""

_SURE = 2
_SURELY_FAILED = 10
"""Lookups in a row that must show that an instance will not end; more where it was never shown as ending."""

_TERMINATED = frozenset({InstanceState.TERMINATED})


async def destroy(work: Work, *, is_soft: bool = False) -> str:
    """Terminate all instances of the VM; return once each is terminated, or is certainly not in the cloud any more."""
    await work.warn_if_unwritten(work.journal.sync())
    async for instances in to_destroy(work.vm, deadline=work.deadline):
        asked = {each.deploy_id for each in instances if is_soft and await _is_guests_turn(work, each.deploy_id)}
        for instance in instances:
            await terminate(work.cloud, instance, is_soft=instance.deploy_id in asked)
            if instance.deploy_id in asked:
                await work.warn_if_unwritten(work.journal.note_soft_end(instance.deploy_id, Timestamp.now(work.clock)))
        for instance in instances:
            if instance.deploy_id in asked:
                await _ended_by_guest(work, instance.deploy_id)
            else:
                await terminated(work.cloud, instance.deploy_id)
    if LCM_STATES.get(work.request.lcm_state or 0) != "CLEANUP_RESUBMIT":  # a recreated VM's count goes on
        await work.warn_if_unwritten(work.journal.forget_recreation(work.request.vm_id))
    return "-"


async def _is_guests_turn(work: Work, deploy_id: DeployId) -> bool:
    """True when a soft terminate may wait for the guest to shut down: no earlier request has waited in vain."""
    if not isinstance(work.cloud.provider, SoftTerminate):
        return False
    try:
        before = await work.journal.soft_end(deploy_id)
    except JournalError as error:
        work.warn(str(error))
        return True
    if before is None:
        return True
    first, is_refused = before
    if first.at >= work.requested_at:
        return True  # this very request asked the guest, before the driver's process ended
    return not is_refused and Timestamp.now(work.clock).since(first) < _GUESTS_SECONDS


async def _ended_by_guest(work: Work, deploy_id: DeployId) -> None:
    """Return once an instance, whose guest was asked to shut down, is terminated.

    Raises:
        WrongState: the instance still runs, or it has failed to end.
    """
    try:
        await terminated(work.cloud, deploy_id, cause="its guest did not shut down; ask again to end it")
    except WrongState:
        await work.warn_if_unwritten(work.journal.refuse_soft_end(deploy_id))
        raise


def needs_asking(cloud: Cloud, instance: Instance, *, is_soft: bool = False) -> bool:
    """True when a terminate must be sent: a hard one also while a guest may still refuse an earlier soft one."""
    can_wait = isinstance(cloud.provider, SoftTerminate)
    is_finished = is_soft or not can_wait or instance.state is InstanceState.TERMINATED
    return not (instance.state.is_gone and is_finished)


async def terminate(cloud: Cloud, instance: Instance, *, is_soft: bool = False) -> None:
    """Send a terminate, unless the instance is ending already and no guest can delay that."""
    provider = cloud.provider
    if not needs_asking(cloud, instance, is_soft=is_soft):
        return
    end = provider.shut_down if is_soft and isinstance(provider, SoftTerminate) else provider.destroy
    try:
        await cloud.call("terminate", partial(end, instance.deploy_id))
    except InstanceNotFound:
        return  # it ended between the lookup and the call


async def terminated(cloud: Cloud, deploy_id: DeployId, *, cause: str = "the cloud did not end it") -> None:
    """Return once the cloud shows an instance terminated, or does not know it any more.

    Args:
        cloud: where it is.
        deploy_id: the instance, for which a terminate was sent.
        cause: why the instance still runs, for the error's sentence.

    Raises:
        WrongState: the instance runs again after it was ending, or it has failed to end.
    """
    try:
        await cloud.watch(deploy_id, _TERMINATED, goal="terminated", check=_will_end(cloud, cause))
    except InstanceNotFound:
        return


def _will_end(cloud: Cloud, cause: str) -> Callable[[Instance], None]:
    """Return a check for `watch` that fails once lookups in a row show that the instance will not end.

    One lookup may be outdated. An instance that had failed before the terminate may be shown as failed until the cloud
    begins to end it. Where no guest is asked, no instance runs again: a lookup that shows one running is outdated.
    """
    can_come_back = isinstance(cloud.provider, SoftTerminate)
    was_leaving, running, failed = False, 0, 0

    def check(instance: Instance) -> None:
        nonlocal was_leaving, running, failed
        if not can_come_back:
            return
        was_leaving = was_leaving or instance.state.is_gone
        running = running + 1 if was_leaving and instance.state is InstanceState.RUNNING else 0
        failed = failed + 1 if instance.state is InstanceState.UNKNOWN and instance.reason else 0
        if running == _SURE:
            raise WrongState(f"instance {instance.deploy_id} runs on: {cause}")
        if failed == (_SURE if was_leaving else _SURELY_FAILED):
            raise WrongState(f"instance {instance.deploy_id} is {instance.raw_state}: {instance.reason}")

    return check
