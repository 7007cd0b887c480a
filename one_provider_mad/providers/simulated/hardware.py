"""An instance's hardware, and the changes of its disks, interfaces and snapshots; no I/O.

Every change returns new hardware; a repeated change returns the same again. An impossible one raises BadParameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from one_provider_mad.errors import BadParameter

_Thing = TypeVar("_Thing")

DISKS, NICS, NETWORKS, SNAPSHOTS = "SIM_DISKS", "SIM_NICS", "SIM_NETWORKS", "SIM_SNAPSHOTS"
MARKET = "SIM_MARKET"
PASSING_FACTS = (DISKS, NICS, NETWORKS, SNAPSHOTS, MARKET)
"""Attributes for monitoring that are left out when empty."""

SUBNET, ADDRESS = "SIM_SUBNET", "SIM_ADDRESS"
"""Attributes of an interface whose network `[networks]` maps: subnet, and the leased address if it is asked for."""


class Disk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A disk of an instance.

    Attributes:
        size: MB.
        target: device name, "" when the request had none.
        snapshots: its size at each snapshot, oldest first.
    """

    size: int = 0
    target: str = ""
    snapshots: tuple[int, ...] = ()


class Hardware(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The hardware of an instance.

    Attributes:
        cpu: cores.
        memory: MiB.
        context: the instance's context, as text.
        disks: by DISK_ID.
        nics: attributes by NIC_ID.
        snapshots: the disks at each snapshot, by snapshot id.
        rules: number of applied rules of each security group, by its id.
        details: further parameters of its create, in the words of the API that made it.
        market: `spot`, or "" for an instance on demand.
    """

    cpu: float
    memory: int
    context: str = ""
    disks: dict[str, Disk] = {}
    nics: dict[str, dict[str, str]] = {}
    snapshots: dict[str, dict[str, Disk]] = {}
    rules: dict[str, int] = {}
    details: dict[str, str] = {}
    market: str = ""

    def attach_disk(self, disk_id: str, disk: Disk) -> Hardware:
        """Add a disk; an existing one stays as it is."""
        return replace(self, disks={disk_id: disk, **self.disks})

    def detach_disk(self, disk_id: str) -> Hardware:
        """Remove a disk, if it exists."""
        return replace(self, disks=_without(self.disks, disk_id))

    def resize_disk(self, disk_id: str, size: int) -> Hardware:
        """Enlarge a disk to so many MB."""
        disk = self._disk(disk_id)
        if size < disk.size:
            raise BadParameter(f"disk {disk_id} has {disk.size} MB and cannot shrink to {size}, ask for more")
        return self._with_disk(disk_id, replace(disk, size=size))

    def snapshot_disk(self, disk_id: str) -> Hardware:
        """Remember a disk's size."""
        disk = self._disk(disk_id)
        return self._with_disk(disk_id, replace(disk, snapshots=(*disk.snapshots, disk.size)))

    def revert_disk(self, disk_id: str) -> Hardware:
        """Revert a disk to its latest snapshot."""
        disk = self._disk(disk_id)
        if not disk.snapshots:
            raise BadParameter(f"disk {disk_id} has no snapshot to go back to, take one first")
        return self._with_disk(disk_id, replace(disk, size=disk.snapshots[-1]))

    def attach_nic(self, nic_id: str, nic: Mapping[str, str]) -> Hardware:
        """Add an interface; an existing one stays as it is."""
        return replace(self, nics={nic_id: dict(nic), **self.nics})

    def detach_nic(self, nic_id: str) -> Hardware:
        """Remove an interface, if it exists."""
        return replace(self, nics=_without(self.nics, nic_id))

    def update_nics(self, nics: Mapping[str, Mapping[str, str]]) -> Hardware:
        """Give interfaces new attributes; unknown interfaces are skipped."""
        return replace(self, nics={nic_id: {**nic, **nics.get(nic_id, {})} for nic_id, nic in self.nics.items()})

    def take_snapshot(self, snapshot_id: str) -> Hardware:
        """Remember the disks under an id; an existing snapshot stays as it is."""
        return replace(self, snapshots={snapshot_id: self.disks, **self.snapshots})

    def revert_snapshot(self, snapshot_id: str) -> Hardware:
        """Revert the disks to a snapshot."""
        if snapshot_id not in self.snapshots:
            raise BadParameter(f"there is no snapshot {snapshot_id}, {_there_are(self.snapshots)}")
        return replace(self, disks=self.snapshots[snapshot_id])

    def delete_snapshot(self, snapshot_id: str) -> Hardware:
        """Delete a snapshot, if it exists."""
        return replace(self, snapshots=_without(self.snapshots, snapshot_id))

    def apply_rules(self, group_id: str, count: int) -> Hardware:
        """Apply so many rules of a security group instead of the earlier ones."""
        return replace(self, rules={**self.rules, group_id: count})

    def resize(self, *, cpu: float, memory: int) -> Hardware:
        """Set the number of cores and MiB."""
        return replace(self, cpu=cpu, memory=memory)

    def update_context(self, context: str) -> Hardware:
        """Replace the context."""
        return replace(self, context=context)

    def release(self) -> Hardware:
        """Remove everything that can be removed."""
        return replace(self, disks={}, nics={}, snapshots={}, rules={})

    def facts(self) -> dict[str, str]:
        """Return the attributes for monitoring."""
        facts = {"SIM_CPU": f"{self.cpu:g}", "SIM_MEMORY": str(self.memory)}
        if self.disks:
            facts[DISKS] = ",".join(f"{disk_id}:{disk.size}" for disk_id, disk in sorted(self.disks.items()))
        if self.nics:
            facts[NICS] = ",".join(sorted(self.nics))
        mapped = {nic_id: nic for nic_id, nic in sorted(self.nics.items()) if nic.get(SUBNET)}
        if mapped:
            facts[NETWORKS] = ",".join(
                ":".join(filter(None, (nic_id, nic[SUBNET], nic.get(ADDRESS)))) for nic_id, nic in mapped.items()
            )
        if self.snapshots:
            facts[SNAPSHOTS] = ",".join(sorted(self.snapshots))
        if self.market:
            facts[MARKET] = self.market
        return facts

    def _disk(self, disk_id: str) -> Disk:
        try:
            return self.disks[disk_id]
        except KeyError:
            raise BadParameter(f"there is no disk {disk_id}, {_there_are(self.disks)}") from None

    def _with_disk(self, disk_id: str, disk: Disk) -> Hardware:
        return replace(self, disks={**self.disks, disk_id: disk})


def _without(things: Mapping[str, _Thing], key: str) -> dict[str, _Thing]:
    return {other: thing for other, thing in things.items() if other != key}


def _there_are(ids: Mapping[str, object]) -> str:
    return f"there are {', '.join(sorted(ids)) or 'none'}"
