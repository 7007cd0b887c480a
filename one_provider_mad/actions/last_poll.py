"""Remove attributes that a stopped instance no longer has from its VM before the VM is powered off, up to 5.10.

These releases accept attributes of a VM in ACTIVE only (src/vmm/VirtualMachineManagerDriver.cc, process_poll): a VM
that is powered off would show the address of its instance, which the cloud gives to others, until it is resumed. A
POLL's answer that was not requested is taken like any other, just before the action's own answer.
"""

from __future__ import annotations

import asyncio

from one_provider_mad.actions.intents import is_end
from one_provider_mad.actions.work import Work
from one_provider_mad.domain import InstanceState
from one_provider_mad.errors import MadError
from one_provider_mad.protocol.messages import Action, Reply
from one_provider_mad.protocol.poll import format_poll

_STOPS = frozenset({Action.SHUTDOWN, Action.CANCEL, Action.SAVE})
_STOPPED = frozenset({InstanceState.STOPPED, InstanceState.SUSPENDED})

_CHECK_SECONDS = 5.0
"""Seconds by which this check may delay the answer of the action, which has succeeded; the deadline limits it, too."""


async def last_poll(work: Work, action: Action) -> Reply | None:
    """Return a POLL answer without a state that empties the attributes the instance has lost; None if it lost none."""
    request, names = work.request, work.cloud.knowledge.stale_names
    if action not in _STOPS or is_end(action, request.lcm_state) or request.is_legacy_poll or not request.deploy_id:
        return None
    if not names.of(request.vm_id, {}, None):
        return None
    left = work.deadline - asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(_CHECK_SECONDS, max(0.0, left / 2))):
            instance = await work.cloud.lookup_one(request.deploy_id)
    except (MadError, TimeoutError):
        return None
    if instance is None or instance.state not in _STOPPED:
        return None
    stale = names.of(request.vm_id, instance.attributes, instance.usage)
    if not stale:
        return None
    info = format_poll("-", None, {}, stale=stale, is_legacy=False)
    return Reply(word=Action.POLL.value, vm_id=request.vm_id, is_success=True, info=info)
