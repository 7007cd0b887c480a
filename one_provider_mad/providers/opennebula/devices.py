"""Disks, interfaces, snapshots, size and context of a remote VM: the optional capabilities.

Numbers differ on both sides: a remote disk or interface has the local number as an attribute of its own. A method
returns once the remote has carried the change out, since later steps do not check it. A call that the remote would
refuse a second time is sent once: after an uncertain answer the method is called again, and checks the outcome first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from one_provider_mad.domain import DeployId, InstanceState, SnapshotId, VmRequest, whole_number
from one_provider_mad.errors import BadParameter, NoCapacity, PermissionDenied
from one_provider_mad.providers.interface import Attached, ProviderContext
from one_provider_mad.providers.mapped_networks import mapped_network
from one_provider_mad.providers.opennebula.launch import (
    LOCAL_DISK_ID,
    LOCAL_NIC_ID,
    figure,
    lost_sentence,
    mapped_nic,
    merged_context,
    network_of,
    portable_context,
    remote_disk,
    without_written,
)
from one_provider_mad.providers.opennebula.machine import Machine
from one_provider_mad.providers.opennebula.remote import Remote, known_number, needed
from one_provider_mad.template_text.exact_writer import UnwritableError, attribute, vector

_INTERFACE = ("MODEL", "MAC", "IP")

_MERGED_CONFIGURATION = (6, 0)
"""The first release with an `append` argument of `one.vm.updateconf`, which keeps all other sections."""


class Devices:
    """Changes disks, interfaces, snapshots, size and context of remote VMs; base class of the provider."""

    def __init__(self, remote: Remote, context: ProviderContext) -> None:
        self._remote = remote
        self._context = context

    # Suspending

    async def suspend(self, deploy_id: DeployId) -> None:
        """Suspend a running VM; the remote keeps its memory."""
        done = (InstanceState.SUSPENDING, InstanceState.SUSPENDED)
        await self._remote.act(known_number(deploy_id), "suspend", is_done=lambda seen: seen.instance.state in done)

    # Disks and interfaces that this driver has attached

    async def attached(self, deploy_id: DeployId) -> Attached:
        """Return the disks and interfaces with a local number; those of the remote template have none."""
        machine = await self._remote.settled(known_number(deploy_id))
        return Attached(
            disks=frozenset(each[LOCAL_DISK_ID] for each in machine.disks if each.get(LOCAL_DISK_ID)),
            nics=frozenset(each[LOCAL_NIC_ID] for each in machine.nics if each.get(LOCAL_NIC_ID)),
        )

    # Snapshots of a VM

    async def create_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> SnapshotId:
        """Take a snapshot and return the remote's number of it."""
        number = known_number(deploy_id)
        await self._remote.machine(number)
        name = snapshot.get("NAME", "")
        taken = await self._remote.order(number, "one.vm.snapshotcreate", number, name, is_repeatable=False)
        machine = await self._remote.outcome(number)
        if str(taken) not in machine.snapshots:
            raise _undone(machine, "the snapshot was not taken")
        return SnapshotId(str(taken))

    async def revert_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> None:
        """Revert to a snapshot."""
        number = known_number(deploy_id)
        machine = await self._remote.machine(number)
        snapshot_id = needed(dict(snapshot), "HYPERVISOR_ID")
        if snapshot_id not in machine.snapshots:
            raise BadParameter(
                f"snapshot {snapshot_id} does not exist, instance {deploy_id} has {_list(machine.snapshots)}"
            )
        await self._remote.order(number, "one.vm.snapshotrevert", number, _snapshot_number(snapshot_id))
        await self._remote.outcome(number)

    async def delete_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> None:
        """Delete a snapshot."""
        number = known_number(deploy_id)
        machine = await self._remote.settled(number)
        snapshot_id = needed(dict(snapshot), "HYPERVISOR_ID")
        if snapshot_id in machine.snapshots:
            remote_id = _snapshot_number(snapshot_id)
            await self._remote.order(number, "one.vm.snapshotdelete", number, remote_id, is_repeatable=False)
            await self._remote.outcome(number)

    # Disks

    async def attach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Attach a new empty disk, or the remote image in the disk's REMOTE_IMAGE_ID or REMOTE_IMAGE."""
        number, local_id = known_number(deploy_id), needed(dict(disk), "DISK_ID")
        machine = await self._remote.machine(number)
        if _find(machine.disks, LOCAL_DISK_ID, local_id) is None:
            text = _written("DISK", {**remote_disk(disk, self._context), LOCAL_DISK_ID: local_id})
            await self._remote.order(number, "one.vm.attach", number, text, is_repeatable=False)
        machine = await self._remote.outcome(number)
        if _find(machine.disks, LOCAL_DISK_ID, local_id) is None:
            raise _undone(machine, f"disk {local_id} was not attached")

    async def detach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Detach a disk that this driver attached; it is deleted then, unless it is a persistent remote image."""
        number, local_id = known_number(deploy_id), needed(dict(disk), "DISK_ID")
        attached = _find((await self._remote.settled(number)).disks, LOCAL_DISK_ID, local_id)
        if attached is None:
            return
        await self._remote.order(number, "one.vm.detach", number, _id(attached, "DISK_ID"), is_repeatable=False)
        machine = await self._remote.outcome(number)
        if _find(machine.disks, LOCAL_DISK_ID, local_id) is not None:
            raise _undone(machine, f"disk {local_id} was not detached")

    async def resize_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Enlarge a disk that this driver attached."""
        number, local_id = known_number(deploy_id), needed(dict(disk), "DISK_ID")
        size = int(figure(needed(dict(disk), "SIZE"), "SIZE"))
        attached = _attached(await self._remote.settled(number), local_id)
        present = int(figure(attached.get("SIZE") or "0", "SIZE"))
        if size < present:
            raise BadParameter(f"disk {local_id} has {present} MB and cannot shrink to {size} MB")
        if size > present:
            disk_id = _id(attached, "DISK_ID")
            await self._remote.order(number, "one.vm.diskresize", number, disk_id, str(size), is_repeatable=False)
            machine = await self._remote.outcome(number)
            if int(figure(_attached(machine, local_id).get("SIZE") or "0", "SIZE")) < size:
                raise _undone(machine, f"disk {local_id} was not resized")

    async def create_disk_snapshot(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Take a snapshot of a disk that this driver attached."""
        number, local_id = known_number(deploy_id), needed(dict(disk), "DISK_ID")
        machine = await self._remote.machine(number)
        disk_id = _id(_attached(machine, local_id), "DISK_ID")
        name = f"local disk {local_id}"
        taken = await self._remote.order(
            number, "one.vm.disksnapshotcreate", number, disk_id, name, is_repeatable=False
        )
        machine = await self._remote.outcome(number)
        if str(taken) not in machine.disk_snapshots.get(str(disk_id), ()):
            raise _undone(machine, f"no snapshot of disk {local_id} was taken")

    async def revert_disk_snapshot(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Revert a disk to its latest snapshot; from 5.0 on the remote VM must be off."""
        number, local_id = known_number(deploy_id), needed(dict(disk), "DISK_ID")
        machine = await self._remote.machine(number)
        disk_id = _id(_attached(machine, local_id), "DISK_ID")
        taken = machine.disk_snapshots.get(str(disk_id), ())
        if not taken:
            raise BadParameter(f"disk {local_id} has no snapshot to go back to")
        await self._remote.order(number, "one.vm.disksnapshotrevert", number, disk_id, _snapshot_number(taken[-1]))
        await self._remote.outcome(number)

    # Interfaces

    async def attach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Attach an interface to the remote network configured for the local one."""
        number, local_id = known_number(deploy_id), needed(dict(nic), "NIC_ID")
        machine = await self._remote.machine(number)
        if _find(machine.nics, LOCAL_NIC_ID, local_id) is None:
            await self._attach_nic(number, {**self._nic(nic), LOCAL_NIC_ID: local_id})
        machine = await self._remote.outcome(number)
        if _find(machine.nics, LOCAL_NIC_ID, local_id) is None:
            raise _undone(machine, f"interface {local_id} was not attached")

    async def _attach_nic(self, number: int, nic: Mapping[str, str]) -> None:
        """Attach the interface; without its MAC if the user may not choose one, as with most partners.

        MAC is among the VM_RESTRICTED_ATTR that oned.conf comes with, in every release.
        """
        try:
            await self._remote.order(number, "one.vm.attachnic", number, _written("NIC", nic), is_repeatable=False)
        except PermissionDenied:
            if "MAC" not in nic:
                raise
            await self._attach_nic(number, {name: value for name, value in nic.items() if name != "MAC"})

    async def detach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Detach an interface that this driver attached."""
        number, local_id = known_number(deploy_id), needed(dict(nic), "NIC_ID")
        attached = _find((await self._remote.settled(number)).nics, LOCAL_NIC_ID, local_id)
        if attached is None:
            return
        await self._remote.order(number, "one.vm.detachnic", number, _id(attached, "NIC_ID"), is_repeatable=False)
        machine = await self._remote.outcome(number)
        if _find(machine.nics, LOCAL_NIC_ID, local_id) is not None:
            raise _undone(machine, f"interface {local_id} was not detached")

    def _nic(self, nic: Mapping[str, str]) -> dict[str, str]:
        if number := nic.get("REMOTE_NETWORK_ID", ""):
            return {"NETWORK_ID": number}
        mapped = mapped_network(nic, self._context)
        if mapped and not nic.get("REMOTE_NETWORK"):
            return mapped_nic(nic, mapped)
        local = nic.get("NETWORK", "")
        name = nic.get("REMOTE_NETWORK") or self._remote.settings.networks.get(local, "")
        if name:
            return {**network_of(name), **({"MODEL": nic["MODEL"]} if nic.get("MODEL") else {})}
        if not local:
            raise BadParameter("the interface names no NETWORK: a partner has only networks with a name")
        # With an equal name at both ends the network is the same: then the addresses are kept, too.
        return {"NETWORK": local, **{key: nic[key] for key in _INTERFACE if nic.get(key)}}

    # Size and context

    async def _set_size(self, number: int, figures: Mapping[str, str]) -> None:
        """Set CPU, VCPU and MEMORY as far as they are given; before 6.0 the remote VM must be off."""
        wanted = {name: value for name, value in figures.items() if value and figure(value, name)}
        machine = await self._remote.machine(number)
        if _has(machine, wanted):
            return
        text = "\n".join(attribute(name, value) for name, value in wanted.items())
        try:
            await self._remote.order(number, "one.vm.resize", number, text, True)  # noqa: FBT003 - as the API has it
        except NoCapacity as error:
            raise BadParameter(f"the size was refused: {error}") from error
        machine = await self._remote.outcome(number)
        if not _has(machine, wanted):
            raise _undone(machine, "the size was not changed")

    async def update_context(self, deploy_id: DeployId, request: VmRequest) -> Sequence[str]:
        """Add the request's CONTEXT to the remote VM's, unless `context` is none; up to 5.12 the VM must be off.

        An attribute that cannot go to a partner is an error.
        """
        if self._remote.settings.context == "none":
            return ()
        number = known_number(deploy_id)
        machine = await self._remote.machine(number)
        given = {name: value for section in request.template.vectors("CONTEXT") for name, value in section.items()}
        ours, lost = portable_context(given)
        if lost:
            raise BadParameter(lost_sentence(lost[0]))
        context = merged_context(without_written(next(iter(machine.sections.get("CONTEXT", ())), {})), ours)
        # Releases without `append` drop every section that is missing in this call.
        kept = [(name, values) for name, several in machine.sections.items() for values in several if name != "CONTEXT"]
        text = "\n".join(
            _written(name, values) for name, values in [*kept, ("CONTEXT", context)] if any(values.values())
        )
        merge = (1,) if await self._remote.version() >= _MERGED_CONFIGURATION else ()
        await self._remote.order(number, "one.vm.updateconf", number, text, *merge)
        await self._remote.outcome(number)
        return ()


def _written(name: str, values: Mapping[str, str]) -> str:
    try:
        return vector(name, values)
    except UnwritableError as error:
        raise BadParameter(f"{name}: {error}") from error


def _find(parts: Iterable[Mapping[str, str]], name: str, local_id: str) -> Mapping[str, str] | None:
    return next((part for part in parts if part.get(name) == local_id), None)


def _attached(machine: Machine, local_id: str) -> Mapping[str, str]:
    disk = _find(machine.disks, LOCAL_DISK_ID, local_id)
    if disk is None:
        raise BadParameter(f"disk {local_id} was not attached by this driver, so its remote counterpart is not known")
    return disk


def _id(part: Mapping[str, str], name: str) -> int:
    return int(figure(part.get(name, ""), name))


def _snapshot_number(text: str) -> int:
    number = whole_number(text)
    if number is None:
        raise BadParameter(f"the partner names a snapshot {text[:40]!r}, which is not a number")
    return number


def _has(machine: Machine, wanted: Mapping[str, str]) -> bool:
    present = machine.capacity
    return all(figure(present.get(name) or "0", name) == figure(value, name) for name, value in wanted.items())


def _undone(machine: Machine, what: str) -> BadParameter:
    """Return the error for a change that the remote accepted and then undid; the reason is in the VM's ERROR."""
    return BadParameter(f"{what}: {machine.error or 'the partner gives no reason'}")


def _list(ids: tuple[str, ...]) -> str:
    return ", ".join(ids) or "none"
