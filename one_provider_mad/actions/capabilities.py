"""The actions that only some clouds support, and the optional protocol by which a provider supports each of them."""

from __future__ import annotations

from one_provider_mad.domain import Value
from one_provider_mad.protocol.messages import Action
from one_provider_mad.providers import interface


class Capability(Value, frozen=True, kw_only=True):
    """How a provider carries out an optional action.

    Attributes:
        protocol: the optional protocol of providers/interface.py.
        method: its method; takes the deploy id and the operand or the request.
        what: the action's name in messages to people.
        operand: element that oned marks in the message, as a DISK to attach; "" when the method takes the request.
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
    Action.UPDATENIC: Capability(protocol=interface.NicUpdates, method="update_nic", what="updating networks"),
}
"""Every optional action of a provider."""
