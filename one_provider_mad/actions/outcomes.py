"""Tell from the cloud whether an action has happened, without carrying anything out (decision 13).

OpenNebula repeats no request. So a request whose driver or core has ended since is answered by what the cloud shows:
the action has happened, it has not, or it is waited for while it is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from one_provider_mad.actions.intents import INTENTS, Intent, intent_of
from one_provider_mad.actions.lifecycle import (
    RUNNING,
    STOPPED,
    be_on_host,
    bring_up,
    move_to_host,
)
from one_provider_mad.actions.terminating import destroy, terminated
from one_provider_mad.actions.work import Work
from one_provider_mad.domain import Instance, InstanceState
from one_provider_mad.errors import CannotTell, ProviderError, RequestRefused, WrongState
from one_provider_mad.ownership.deploying import instance_of_earlier_deploy
from one_provider_mad.ownership.destroying import to_destroy
from one_provider_mad.ownership.locating import locate
from one_provider_mad.protocol.messages import Action

UNREPEATED = (
    "the driver ended before it was done: look at the instance, then ask again, a deploy with onevm recover --retry"
)
"""The FAILURE for a request of a dead process that is not carried out again."""

_PAUSE = 5.0
"""Seconds until the cloud is asked again after an unclear answer."""


async def settle(work: Work, action: Action) -> str:
    """Return the payload of SUCCESS for an action of a dead process, as the cloud shows its outcome.

    Raises:
        MadError: the action has not happened, or its outcome is unknown; the sentence says what to do.
    """
    if action is Action.CLEANUP:
        return await destroy(work)  # oned gives the instance up after any answer
    if action not in INTENTS:
        raise RequestRefused(UNREPEATED)
    request = work.request
    return await observe(work, intent_of(action, request.lcm_state, has_deploy_id=bool(request.deploy_id)))


async def observe(work: Work, intent: Intent) -> str:
    """Return the payload of SUCCESS for an intent that the cloud shows carried out; nothing is changed.

    A cloud with an unclear answer is asked again until the action's deadline.

    Raises:
        MadError: the action has not happened; the sentence says what to do.
    """
    while True:
        try:
            return await _OBSERVE[intent](work)
        except ProviderError as error:
            if not error.retryable:
                raise
            reason = str(error)
        except CannotTell as error:
            reason = str(error)
        work.cloud.waiting.reason = f"the cloud to show the outcome (last answer: {reason})"
        await asyncio.sleep(_PAUSE)


async def _created(work: Work) -> str:
    return await instance_of_earlier_deploy(
        work.vm, bring_up=partial(bring_up, work), may_import=work.policy.allow_import
    )


async def _started(work: Work) -> str:
    instance = await locate(work.vm)
    if instance.state is InstanceState.PENDING:
        instance = await work.cloud.watch(instance.deploy_id, RUNNING | STOPPED, goal="running")
    if instance.state is not InstanceState.RUNNING:
        raise _not_done(instance, "started", "resume the VM again")
    await move_to_host(work, instance)
    await work.journal.unpark(instance.deploy_id)
    return instance.deploy_id


async def _stopped(work: Work, *, is_parked: bool = False) -> str:
    instance = await locate(work.vm)
    if instance.state in (InstanceState.STOPPING, InstanceState.SUSPENDING):
        instance = await work.cloud.watch(instance.deploy_id, STOPPED, goal="stopped")
    if instance.state not in STOPPED:
        raise _not_done(instance, "stopped", "ask again")
    if is_parked and not work.is_stale():
        await work.journal.park(instance.deploy_id, work.request.vm_id)
    elif not is_parked:
        await be_on_host(work, instance.deploy_id)
    return "-"


async def _destroyed(work: Work) -> str:
    async for instances in to_destroy(work.vm, deadline=work.deadline):
        for instance in instances:
            if not instance.state.is_gone:
                raise _not_done(instance, "terminated", "terminate the VM again")
            await terminated(work.cloud, instance.deploy_id)
    return "-"


def _not_done(instance: Instance, done: str, remedy: str) -> WrongState:
    return WrongState(
        f"instance {instance.deploy_id} is {instance.raw_state}: it was not {done} before the driver or OpenNebula"
        f" ended; {remedy}"
    )


_OBSERVE: dict[Intent, Callable[[Work], Awaitable[str]]] = {
    Intent.CREATE: _created,
    Intent.START: _started,
    Intent.STOP: _stopped,
    Intent.STOP_HARD: _stopped,
    Intent.PARK: partial(_stopped, is_parked=True),
    Intent.PARK_HARD: partial(_stopped, is_parked=True),
    Intent.SUSPEND: _stopped,
    Intent.DESTROY: _destroyed,
}
