"""The specification of an instance: what OpenNebula last asked for and the driver carried out, to compare with the VM.

Only attributes that can change while a VM is off are kept. CONTEXT and the PUBLIC_CLOUD section are kept as digests,
since they may hold passwords.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256

import msgspec

from one_provider_mad.domain import Template, Value, VmRequest
from one_provider_mad.protocol.messages import Action

_SIZE = ("CPU", "VCPU", "MEMORY")

_WRITTEN_BY_CORE = frozenset({"DISK_ID", "TARGET"})
"""Attributes of CONTEXT that oned writes itself, about its context disk: they are no part of the digest."""

_DIGITS = 16

_DISK, _NIC = "DISK_ID", "NIC_ID"

_OF_DEVICES = {
    Action.ATTACHDISK: _DISK,
    Action.DETACHDISK: _DISK,
    Action.ATTACHNIC: _NIC,
    Action.DETACHNIC: _NIC,
}
"""Actions that attach or detach a disk or an interface, each with the attribute that numbers the device."""


class DiskSpec(Value, frozen=True, kw_only=True):
    """A disk of a VM.

    Attributes:
        size: MB, as the template has it.
        image: number of its image, "" for an empty disk.
    """

    size: str = ""
    image: str = ""


class InstanceSpec(Value, frozen=True, kw_only=True):
    """The size, disks, interfaces, context and section that a VM's instance was given.

    Attributes:
        size: CPU, VCPU and MEMORY.
        disks: by DISK_ID.
        nics: the interfaces' MACs by NIC_ID.
        context: digest of CONTEXT, "" for none.
        section: digest of each attribute of the PUBLIC_CLOUD section.
        unsettled: disks and interfaces that it may have or not, since the cloud never answered their attach or detach;
            as `DISK_ID 1`, `NIC_ID 2`.
    """

    size: Mapping[str, str] = {}
    disks: Mapping[str, DiskSpec] = {}
    nics: Mapping[str, str] = {}
    context: str = ""
    section: Mapping[str, str] = {}
    unsettled: tuple[str, ...] = ()

    def written(self) -> str:
        """Return the specification as text for the journal."""
        return msgspec.json.encode(self, order="sorted").decode()


class Change(Value, frozen=True, kw_only=True):
    """One difference between a VM and its instance, as the action that removes it from a running VM.

    Attributes:
        action: RESIZE, ATTACHDISK...
        operand: the disk or interface to attach or detach; empty for other actions.
        what: description for messages, `detaching disk 1`.
    """

    action: Action
    operand: Mapping[str, str] = {}
    what: str

    def waits_for_removal(self, spec: InstanceSpec) -> bool:
        """True for a new disk or interface whose number the instance still uses for the old one."""
        if self.action is Action.ATTACHDISK:
            return self.operand["DISK_ID"] in spec.disks
        return self.action is Action.ATTACHNIC and self.operand["NIC_ID"] in spec.nics


def read_spec(text: str | None) -> InstanceSpec | None:
    """Parse the text of a specification in the journal; None without one, or when a later release wrote it."""
    try:
        return None if text is None else msgspec.json.decode(text, type=InstanceSpec)
    except msgspec.DecodeError:
        return None


def spec_of(request: VmRequest, section: Mapping[str, str]) -> InstanceSpec:
    """Return the specification that the VM's template asks for now.

    Args:
        request: the VM.
        section: attributes of this cloud's section.
    """
    template = request.template
    return InstanceSpec(
        size=_size(template),
        disks={each["DISK_ID"]: _disk(each) for each in _disks(template)},
        nics={each["NIC_ID"]: _nic(each) for each in _nics(template)},
        context=_context(template),
        section={name: _digest(value) for name, value in section.items()},
    )


def changes(before: InstanceSpec, request: VmRequest) -> Iterator[Change]:
    """Yield the changes from `before` to the request, removals first; the PUBLIC_CLOUD section is not compared."""
    template = request.template
    disks = {each["DISK_ID"]: each for each in _disks(template)}
    nics = {each["NIC_ID"]: each for each in _nics(template)}
    new_disks = {key: disk for key, disk in disks.items() if _is_other(before.disks.get(key), _disk(disk))}
    new_nics = {key: nic for key, nic in nics.items() if before.nics.get(key) != _nic(nic)}
    yield from _removals(before, kept_disks=disks.keys() - new_disks.keys(), kept_nics=nics.keys() - new_nics.keys())
    yield from _settlements(before, disks, nics)
    if _differs(before.size, _size(template)):
        asked = " ".join(f"{name}={value}" for name, value in _size(template).items())
        yield Change(action=Action.RESIZE, what=f"resizing to {asked}")
    for key, disk in disks.items():
        if key in new_disks:
            yield Change(action=Action.ATTACHDISK, operand=disk, what=f"attaching disk {key}")
        elif before.disks[key].size != _disk(disk).size:
            yield Change(action=Action.RESIZEDISK, operand=disk, what=f"resizing disk {key} to {disk['SIZE']} MB")
    for key, nic in new_nics.items():
        yield Change(action=Action.ATTACHNIC, operand=nic, what=f"attaching interface {key}")
    if before.context != _context(template):
        yield Change(action=Action.UPDATECONF, what="changing the context")


def _removals(before: InstanceSpec, *, kept_disks: Collection[str], kept_nics: Collection[str]) -> Iterator[Change]:
    yield from (removal(_DISK, key) for key in before.disks if key not in kept_disks)
    yield from (removal(_NIC, key) for key in before.nics if key not in kept_nics)


def _settlements(before: InstanceSpec, disks: Collection[str], nics: Collection[str]) -> Iterator[Change]:
    """Yield a detach for each unsettled device that the VM lacks; one that the VM has counts as new and is attached."""
    for name, _, key in (each.partition(" ") for each in before.unsettled):
        if key not in (disks if name == _DISK else nics):
            yield removal(name, key)


def removal(name: str, key: str) -> Change:
    """Return the change that detaches a disk (`DISK_ID`) or an interface (`NIC_ID`)."""
    is_disk = name == _DISK
    return Change(
        action=Action.DETACHDISK if is_disk else Action.DETACHNIC,
        operand={name: key},
        what=f"detaching {'disk' if is_disk else 'interface'} {key}",
    )


def with_begun(spec: InstanceSpec, action: Action, operand: Mapping[str, str]) -> InstanceSpec:
    """Return the specification of an instance while a device is being attached or detached: the device is unsettled."""
    if action not in _OF_DEVICES:
        return spec
    name = _OF_DEVICES[action]
    key = operand.get(name, "")
    without = _without(spec, name, key)
    return msgspec.structs.replace(without, unsettled=(*without.unsettled, f"{name} {key}"))


def with_finished(spec: InstanceSpec, action: Action, operand: Mapping[str, str], template: Template) -> InstanceSpec:
    """Return the specification of an instance after an action has succeeded.

    Args:
        spec: the specification before.
        action: any; most change nothing here.
        operand: its disk or interface.
        template: the VM's.
    """
    if action in _OF_DEVICES:
        spec = _without(spec, _OF_DEVICES[action], operand.get(_OF_DEVICES[action], ""))
    match action:
        case Action.RESIZE:
            return msgspec.structs.replace(spec, size=_size(template))
        case Action.UPDATECONF:
            return msgspec.structs.replace(spec, context=_context(template))
        case Action.ATTACHDISK | Action.RESIZEDISK:
            return msgspec.structs.replace(spec, disks={**spec.disks, operand.get(_DISK, ""): _disk(operand)})
        case Action.ATTACHNIC:
            return msgspec.structs.replace(spec, nics={**spec.nics, operand.get(_NIC, ""): _nic(operand)})
        case _:
            return spec


def _without(spec: InstanceSpec, name: str, key: str) -> InstanceSpec:
    """Return a copy of the specification without one disk or interface."""
    return msgspec.structs.replace(
        spec,
        disks={each: disk for each, disk in spec.disks.items() if (name, each) != (_DISK, key)},
        nics={each: nic for each, nic in spec.nics.items() if (name, each) != (_NIC, key)},
        unsettled=tuple(each for each in spec.unsettled if each != f"{name} {key}"),
    )


def _disks(template: Template) -> list[Mapping[str, str]]:
    return [each for each in template.vectors("DISK") if each.get("DISK_ID")]


def _nics(template: Template) -> list[Mapping[str, str]]:
    """Return the template's NICs and NIC_ALIASes, which share one numbering, by NIC_ID."""
    found = (*template.vectors("NIC"), *template.vectors("NIC_ALIAS"))
    return [each for each in found if each.get("NIC_ID")]


def _size(template: Template) -> dict[str, str]:
    return {name: text for name in _SIZE if (text := template.text(name).strip())}


def _disk(disk: Mapping[str, str]) -> DiskSpec:
    return DiskSpec(size=disk.get("SIZE", "").strip(), image=disk.get("IMAGE_ID", "").strip())


def _nic(nic: Mapping[str, str]) -> str:
    """Return the MAC by which two interfaces with the same NIC_ID differ: each lease of OpenNebula has its own."""
    return nic.get("MAC") or nic.get("NETWORK_ID") or nic.get("NETWORK", "")


def _is_other(before: DiskSpec | None, now: DiskSpec) -> bool:
    """True when a reused DISK_ID is another disk's now: its image differs, or its size is smaller."""
    return before is None or before.image != now.image or _number(now.size) < _number(before.size)


def _differs(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """True when CPU, VCPU or MEMORY differs and both are given; `1` and `1.0` are equal."""
    return any(_number(before.get(name, "")) != _number(text) for name, text in now.items())


def _number(text: str) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _context(template: Template) -> str:
    pairs = [
        f"{name}={value}"
        for section in template.vectors("CONTEXT")
        for name, value in sorted(section.items())
        if name not in _WRITTEN_BY_CORE
    ]
    return _digest("\0".join(pairs)) if pairs else ""


def _digest(text: str) -> str:
    return sha256(text.encode(errors="replace")).hexdigest()[:_DIGITS]
