"""What only some clouds can do to a live instance: disks, interfaces, snapshots, sizes, context, rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from one_provider_mad.actions.lifecycle import Work
from one_provider_mad.domain import DeployId, Value
from one_provider_mad.errors import NotSupported, RequestRefused
from one_provider_mad.protocol.messages import Action
from one_provider_mad.providers import interface


class Capability(Value, frozen=True, kw_only=True):
    """How an action is carried out by those providers that can.

    Attributes:
        protocol: the optional protocol of providers/interface.py.
        method: its method; takes the deploy id and the operand or the request.
        what: what it is called in sentences.
        operand: what the message must hold for it, "" when the whole request is handed on.
    """

    protocol: type
    method: str
    what: str
    operand: str = ""


CAPABILITIES: dict[Action, Capability] = {
    Action.ATTACHDISK: Capability(
        protocol=interface.DiskHotplug, method="attach_disk", what="attaching disks", operand="DISK"
    ),
    Action.DETACHDISK: Capability(
        protocol=interface.DiskHotplug, method="detach_disk", what="detaching disks", operand="DISK"
    ),
    Action.ATTACHNIC: Capability(
        protocol=interface.NicHotplug, method="attach_nic", what="attaching interfaces", operand="NIC"
    ),
    Action.DETACHNIC: Capability(
        protocol=interface.NicHotplug, method="detach_nic", what="detaching interfaces", operand="NIC"
    ),
    Action.SNAPSHOTCREATE: Capability(
        protocol=interface.Snapshots, method="create_snapshot", what="snapshots", operand="SNAPSHOT"
    ),
    Action.SNAPSHOTREVERT: Capability(
        protocol=interface.Snapshots, method="revert_snapshot", what="snapshots", operand="SNAPSHOT"
    ),
    Action.SNAPSHOTDELETE: Capability(
        protocol=interface.Snapshots, method="delete_snapshot", what="snapshots", operand="SNAPSHOT"
    ),
    Action.DISKSNAPSHOTCREATE: Capability(
        protocol=interface.DiskSnapshots, method="create_disk_snapshot", what="disk snapshots", operand="DISK"
    ),
    Action.DISKSNAPSHOTREVERT: Capability(
        protocol=interface.DiskSnapshots, method="revert_disk_snapshot", what="disk snapshots", operand="DISK"
    ),
    Action.RESIZEDISK: Capability(
        protocol=interface.DiskResize, method="resize_disk", what="resizing disks", operand="DISK"
    ),
    Action.RESIZE: Capability(protocol=interface.Resizable, method="resize", what="resizing a live VM"),
    Action.UPDATECONF: Capability(
        protocol=interface.ContextUpdate, method="update_context", what="changing the context of a live VM"
    ),
    Action.UPDATESG: Capability(
        protocol=interface.NetworkRules, method="update_security_group", what="updating security groups"
    ),
    Action.UPDATENIC: Capability(protocol=interface.NetworkRules, method="update_nic", what="updating networks"),
}
"""Every action that a provider may or may not be able to carry out."""

_NOT_REPEATABLE = frozenset({Action.SNAPSHOTCREATE, Action.DISKSNAPSHOTCREATE})
"""Actions that would do it twice when they are sent again after an uncertain answer."""


async def perform_capability(work: Work, action: Action) -> str:
    """Carry out an optional action on the VM's instance.

    Returns:
        The reply's payload: the snapshot's id for SNAPSHOTCREATE, else `-`.

    Raises:
        NotSupported: this provider cannot.
        RequestRefused: the message does not say what to act on.
    """
    capability, request = CAPABILITIES[action], work.request
    provider = work.cloud.provider
    if not isinstance(provider, capability.protocol):
        raise NotSupported(provider.name, capability.what)
    if capability.operand and not request.operand:
        raise RequestRefused(f"the message marks no {capability.operand} for {action.value}: nothing was done")
    instance = await work.finder.locate(request)
    method: Callable[[DeployId, Any], Awaitable[str | None]] = getattr(provider, capability.method)
    subject = request.operand if capability.operand else request
    result = await work.cloud.call(
        action.value, lambda: method(instance.deploy_id, subject), is_repeatable=action not in _NOT_REPEATABLE
    )
    return result or "-"
