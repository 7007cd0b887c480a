"""Carry out the actions of capabilities.py on a live instance: disks, interfaces, snapshots, sizes, context, rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from one_provider_mad.actions.capabilities import CAPABILITIES
from one_provider_mad.actions.lifecycle import resumption_of
from one_provider_mad.actions.policy import check_change
from one_provider_mad.actions.spending import spending
from one_provider_mad.actions.work import Work
from one_provider_mad.domain import DeployId
from one_provider_mad.errors import NotSupported, RequestRefused
from one_provider_mad.ownership.locating import locate
from one_provider_mad.protocol.messages import Action
from one_provider_mad.providers.interface import SharedGroups

_NOT_REPEATABLE = frozenset({Action.SNAPSHOTCREATE, Action.DISKSNAPSHOTCREATE})
"""Actions whose call is not sent again after an uncertain answer, since both might take effect."""

_GROUPED = frozenset({Action.ATTACHNIC, Action.UPDATESG})
"""Actions that change security groups."""


async def perform_capability(work: Work, action: Action) -> str:
    """Carry out an optional action on the VM's instance.

    Returns:
        The reply's payload: the snapshot's id for SNAPSHOTCREATE, else `-`.

    Raises:
        NotSupported: the provider lacks the action's protocol.
        RequestRefused: the message marks no device or snapshot that the action is for, or the policy forbids it.
    """
    capability, request = CAPABILITIES[action], work.request
    provider = work.cloud.provider
    if not isinstance(provider, capability.protocol):
        raise NotSupported(provider.name, capability.what)
    if capability.operand and not request.operand:
        raise RequestRefused(f"the message marks no {capability.operand} for {action.value}: nothing was done")
    check_change(work.policy, action, request)
    instance = await locate(work.vm)
    method: Callable[[DeployId, Any], Awaitable[Any]] = getattr(provider, capability.method)
    subject: Any = request.operand if capability.operand else request
    if action is Action.UPDATECONF:
        subject = await work.complete(request)
    shared = provider if isinstance(provider, SharedGroups) and action in _GROUPED else None
    for warning in shared.group_warnings(request) if shared else ():
        work.vm.warn_once(warning)

    async def send() -> Any:
        if shared and action is Action.ATTACHNIC:
            await shared.prepare_nic(instance.deploy_id, request)
        return await method(instance.deploy_id, subject)

    resumption = resumption_of(work)
    spec = await resumption.recorded(instance.deploy_id)
    async with spending(work.budget, action, instance, request, operand=request.operand, spec=spec):
        await resumption.note_begun(action, instance.deploy_id)
        result = await work.cloud.call(action.value, send, is_repeatable=action not in _NOT_REPEATABLE)
    await resumption.note_action(action, instance.deploy_id)
    if action is Action.UPDATECONF:
        for sentence in result or ():  # entry points of release 0.1 return None
            work.vm.warn_once(sentence)
        return "-"
    return result or "-"
