"""Tell OpenNebula 4.14 to 5.10 the attributes of an instance that an action has started or stopped, with its answer.

These releases ask for attributes only every minute or so, and accept them of a VM in ACTIVE only
(src/vmm/VirtualMachineManagerDriver.cc, process_poll): a VM that has just started would not show the address to log in
to, and one that is powered off would show, until it is resumed, the earlier address, which the cloud gives to others,
and what a running instance costs. A POLL's answer that was not requested is taken like any other, just before
the action's own answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from one_provider_mad.actions.intents import is_end
from one_provider_mad.actions.work import Work
from one_provider_mad.domain import DeployId, Instance, InstanceState, Usage
from one_provider_mad.errors import MadError
from one_provider_mad.protocol.messages import Action, Reply
from one_provider_mad.protocol.poll import format_poll
from one_provider_mad.protocol.stale_names import COST_NAMES
from one_provider_mad.providers.interface import PriceSource

_STARTS = frozenset({Action.DEPLOY, Action.RESTORE})
_STOPS = frozenset({Action.SHUTDOWN, Action.CANCEL, Action.SAVE})
_STOPPED = frozenset({InstanceState.STOPPED, InstanceState.SUSPENDED})

_CHECK_SECONDS = 5.0
"""Seconds by which this lookup may delay the answer of the action, which has succeeded; the deadline limits it, too."""


async def unrequested_poll(work: Work, action: Action, info: str) -> Reply | None:
    """Return a POLL answer without a state, with the instance's attributes; None if there is nothing to tell.

    Args:
        work: the action, which has succeeded.
        action: its kind.
        info: the payload of its answer: of a DEPLOY or RESTORE the deploy id.
    """
    if work.request.is_legacy_poll:
        return None
    if action in _STARTS:
        instance = await _instance(work, DeployId(info))
        return None if instance is None else _started(work, instance)
    if action not in _STOPS or is_end(action, work.request.lcm_state):
        return None
    if not work.request.deploy_id or not _outdated(work, {}):
        return None
    instance = await _instance(work, work.request.deploy_id)
    return None if instance is None or instance.state not in _STOPPED else _stopped(work, instance)


async def _instance(work: Work, deploy_id: DeployId) -> Instance | None:
    left = work.deadline - asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(_CHECK_SECONDS, max(0.0, left / 2))):
            return await work.cloud.lookup_one(deploy_id)
    except (MadError, TimeoutError):
        return None


def _started(work: Work, instance: Instance) -> Reply | None:
    """Return the answer with all attributes."""
    vm_id, names = work.request.vm_id, work.cloud.knowledge.stale_names
    if not instance.attributes:
        return None
    stale = names.of(vm_id, instance.attributes, instance.usage)
    names.may_show(vm_id, instance.attributes, instance.usage)
    return _reply(work, format_poll("-", instance.usage, instance.attributes, stale=stale, is_legacy=False))


def _stopped(work: Work, instance: Instance) -> Reply | None:
    """Return the answer that empties the attributes that the instance has lost; None if it lost none."""
    stale = _outdated(work, instance.attributes, instance.usage)
    return _reply(work, format_poll("-", None, {}, stale=stale, is_legacy=False)) if stale else None


def _outdated(work: Work, attributes: Mapping[str, str], usage: Usage | None = None) -> tuple[str, ...]:
    """Return the attributes that a stopped instance of which this is known makes untrue: costs are of a running one."""
    stale = work.cloud.knowledge.stale_names.of(work.request.vm_id, attributes, usage)
    return (*stale, *COST_NAMES) if isinstance(work.cloud.provider, PriceSource) else stale


def _reply(work: Work, info: str) -> Reply:
    return Reply(word=Action.POLL.value, vm_id=work.request.vm_id, is_success=True, info=info)
