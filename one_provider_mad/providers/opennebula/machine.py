"""One remote VM, read from its `<VM>` document. Pure.

`one.vm.info` and `one.vmpool.infoextended` write the same elements (src/vm/VirtualMachine.cc, to_xml_extended); which
of them exist differs from release to release, so they are found by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from one_provider_mad.domain import TAG_PREFIX, DeployId, Identity, Instance, InstanceState, Usage, Value, whole_number
from one_provider_mad.masking import masked
from one_provider_mad.providers.opennebula.costs import COSTS, number, total
from one_provider_mad.providers.opennebula.states import RemoteState, read_state
from one_provider_mad.safe_xml import Element, text_of
from one_provider_mad.template_text.grammar import ELEMENT

DEPLOY_ID_PREFIX = "opennebula-hybrid-"
"""Prefix of ids of upstream's driver; VMs that it deployed keep their ids."""

UPSTREAM_ATTRIBUTE = "REMOTE_OPENNEBULA_VM_ID"
"""Attribute of USER_TEMPLATE with the VM's number, written by upstream's driver, and by this
driver besides its own tags."""

FACT = "REMOTE_OPENNEBULA_"
"""Prefix of the attributes with facts of the remote VM: CPU, MEMORY, TEMPLATE_ID, its costs, DISK_SIZE."""

DISK_SIZE = "DISK_SIZE"
"""MB of all disks and their snapshots, as the partner's showback counts them; left out when there are none."""

ADDRESS, ADDRESSES = "GUEST_IP", "GUEST_IP_ADDRESSES"

_DISK_SIZES = ("SIZE", "DISK_SNAPSHOT_TOTAL_SIZE")

_DEPLOY_ID = re.compile(rf"{DEPLOY_ID_PREFIX}(0|[1-9][0-9]{{0,9}})")

_LARGEST_ID = 2**31 - 1

_FIGURES = frozenset({"CPU", "MEMORY", "NETRX", "NETTX", "STATE", "TIMESTAMP", "ID", "OID", "VMID", "LAST_POLL"})
_NAME = re.compile(ELEMENT)
_MOST_FACTS = 64
_LONGEST_FACT = 1024
_LONGEST_REASON = 400


class ListedVm(Value, frozen=True, kw_only=True, gc=False):
    """A remote VM as in a listing. There are thousands: garbage collection need not walk through them.

    Attributes:
        number: the remote's number.
        instance: the same as an instance.
        owner: ONE_PROVIDER_OWNER, even if the rest of the identity is damaged.
        vm_id: ONE_PROVIDER_VM_ID, likewise.
        state: its state in full.
        user_id: number of its remote user, -1 where that is not shown.
        user: that user's name.
    """

    number: int
    instance: Instance
    owner: str
    vm_id: str
    state: RemoteState
    user_id: int = -1
    user: str = ""


class Machine(Value, frozen=True, kw_only=True):
    """A remote VM with its disks, interfaces, snapshots and configuration.

    Attributes:
        seen: as in a listing.
        error: the remote's ERROR attribute, "" for none.
        capacity: CPU, VCPU and MEMORY as they stand in its template.
        disks: its DISK sections.
        nics: its NIC sections, aliases included.
        snapshots: ids of its snapshots.
        disk_snapshots: DISK_ID to ids of that disk's snapshots, oldest first.
        sections: OS, GRAPHICS... and CONTEXT, by name.
    """

    seen: ListedVm
    error: str
    capacity: Mapping[str, str]
    disks: tuple[Mapping[str, str], ...]
    nics: tuple[Mapping[str, str], ...]
    snapshots: tuple[str, ...]
    disk_snapshots: Mapping[str, tuple[str, ...]]
    sections: Mapping[str, tuple[Mapping[str, str], ...]]


CONFIGURATION = ("OS", "FEATURES", "INPUT", "GRAPHICS", "VIDEO", "RAW", "CPU_MODEL", "CONTEXT")
"""The sections that `one.vm.updateconf` changes."""


def deploy_id_of(number: int) -> DeployId:
    """Return the deploy id of a remote VM."""
    return DeployId(f"{DEPLOY_ID_PREFIX}{number}")


def number_of(deploy_id: DeployId) -> int | None:
    """Return the remote's number in an id; None for an id of another provider."""
    match = _DEPLOY_ID.fullmatch(deploy_id)
    number = int(match[1]) if match else _LARGEST_ID + 1
    return number if number <= _LARGEST_ID else None


def read_listed_vm(vm: Element) -> ListedVm:
    """Read a VM as in a listing."""
    parts = {child.tag: child for child in vm}
    number = _number(parts.get("ID"), default=-1)
    state = read_state(_number(parts.get("STATE"), default=-1), _number(parts.get("LCM_STATE"), default=-1))
    tags = {child.tag: child.text or "" for child in parts.get("USER_TEMPLATE", ()) if not len(child)}
    monitoring = {child.tag: child.text or "" for child in parts.get("MONITORING", ()) if not len(child)}
    deploy_id = deploy_id_of(number)
    instance = Instance(
        deploy_id=deploy_id,
        state=state.meaning,
        raw_state=state.word,
        identity=Identity.from_tags(tags),
        name=text_of(parts.get("NAME")),
        created_at=float(_number(parts.get("STIME"), default=0)),
        state_since=_state_since(state, parts),
        reason=_reason(state, tags),
        usage=_usage(monitoring),
        attributes=dict(_attributes(deploy_id, parts.get("TEMPLATE"), tags, monitoring)),
    )
    return ListedVm(
        number=number,
        instance=instance,
        owner=tags.get("ONE_PROVIDER_OWNER", ""),
        vm_id=tags.get("ONE_PROVIDER_VM_ID", ""),
        state=state,
        user_id=_number(parts.get("UID"), default=-1),
        user=text_of(parts.get("UNAME")),
    )


def read_machine(vm: Element) -> Machine:
    """Read a `<VM>` with its disks, interfaces, snapshots and configuration."""
    template = vm.find("TEMPLATE")
    sections = list(template) if template is not None else []
    user_template = vm.find("USER_TEMPLATE")
    return Machine(
        seen=read_listed_vm(vm),
        error=text_of(user_template.find("ERROR")).strip() if user_template is not None else "",
        capacity={each.tag: text_of(each).strip() for each in sections if each.tag in ("CPU", "VCPU", "MEMORY")},
        disks=tuple(flat(each) for each in sections if each.tag == "DISK"),
        nics=tuple(flat(each) for each in sections if each.tag in ("NIC", "NIC_ALIAS")),
        snapshots=tuple(text_of(each.find("SNAPSHOT_ID")).strip() for each in sections if each.tag == "SNAPSHOT"),
        disk_snapshots=dict(_disk_snapshots(vm)),
        sections={
            name: tuple(flat(each) for each in sections if each.tag == name)
            for name in CONFIGURATION
            if any(each.tag == name for each in sections)
        },
    )


def flat(section: Element) -> dict[str, str]:
    """Return a section's attributes; the first of several with one name counts."""
    values: dict[str, str] = {}
    for child in section:
        values.setdefault(child.tag, text_of(child))
    return values


def _disk_snapshots(vm: Element) -> Iterator[tuple[str, tuple[str, ...]]]:
    for disk in vm.iterfind("SNAPSHOTS"):
        ids = (whole_number(text_of(snapshot.find("ID")).strip()) for snapshot in disk.iterfind("SNAPSHOT"))
        known = sorted(number for number in ids if number is not None)
        yield text_of(disk.find("DISK_ID")).strip(), tuple(map(str, known))


_TIME_OF_STATE = {
    InstanceState.RUNNING: "RSTIME",  # its boot is included, and counted anew after each change of disks or interfaces
    InstanceState.STOPPED: "RETIME",
    InstanceState.SUSPENDED: "RETIME",
}
"""The time in the latest history record at which a state began (src/lcm/LifeCycleStates.cc, src/dm)."""


def _state_since(state: RemoteState, parts: Mapping[str, Element]) -> float:
    """Return the time from which the VM has been in its state at the latest; 0 where the remote does not tell."""
    if state.meaning is InstanceState.TERMINATED:
        return float(_number(parts.get("ETIME"), default=0))
    name = _TIME_OF_STATE.get(state.meaning)
    records = parts.get("HISTORY_RECORDS")
    if name is None or records is None or not len(records):
        return 0.0
    return float(_number(records[-1].find(name), default=0))


def _reason(state: RemoteState, tags: Mapping[str, str]) -> str:
    """Return why a failed VM has failed, or why a pending one has no host yet.

    ERROR and SCHED_MESSAGE outlive their occasion, so they are not read for VMs in other states.
    """
    if state.word == "PENDING":
        return _flat(tags.get("SCHED_MESSAGE", ""))
    if not state.is_failure:
        return ""
    return _flat(tags.get("ERROR", "")) or "the partner's OpenNebula gives no reason"


def _flat(text: str) -> str:
    return masked(" ".join(text.split()))[:_LONGEST_REASON]


def _usage(monitoring: Mapping[str, str]) -> Usage | None:
    if not any(name in monitoring for name in ("CPU", "MEMORY", "NETRX", "NETTX")):
        return None
    return Usage(
        cpu=_figure(monitoring["CPU"]) if "CPU" in monitoring else None,
        memory=int(_figure(monitoring.get("MEMORY", ""))),
        net_rx=int(_figure(monitoring.get("NETRX", ""))),
        net_tx=int(_figure(monitoring.get("NETTX", ""))),
    )


def _attributes(
    deploy_id: DeployId, template: Element | None, tags: Mapping[str, str], monitoring: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Return attributes for monitoring: those that upstream's driver forwarded, then the VM's own."""
    forwarded = ((name, value) for name, value in monitoring.items() if name not in _FIGURES and _NAME.fullmatch(name))
    for _, (name, value) in zip(range(_MOST_FACTS), forwarded, strict=False):
        if value:
            yield name, masked(value)[:_LONGEST_FACT]
    yield "REMOTE_OPENNEBULA", "YES"
    yield UPSTREAM_ATTRIBUTE, _upstream_tag(tags)
    yield "REMOTE_OPENNEBULA_DEPLOY_ID", deploy_id
    if template is None:
        return
    addresses = [text for name in ("NIC", "NIC_ALIAS") for nic in template.iterfind(name) for text in _addresses(nic)]
    if addresses and ADDRESS not in monitoring:
        yield ADDRESS, addresses[0]
    if addresses and ADDRESSES not in monitoring:
        yield ADDRESSES, ",".join(addresses)[:_LONGEST_FACT]
    for name in ("CPU", "MEMORY", "TEMPLATE_ID", *COSTS):
        if value := text_of(template.find(name)).strip():
            yield f"{FACT}{name}", value[:_LONGEST_FACT]
    if size := _disk_size(template):
        yield f"{FACT}{DISK_SIZE}", size


def _disk_size(template: Element) -> str:
    """Return the MB of all disks and their snapshots, "" for none; "?" when one is no number."""
    sizes = [number(text_of(part)) for disk in template.iterfind("DISK") for part in disk if part.tag in _DISK_SIZES]
    size = total(sizes)
    return "?" if size is None else f"{size:.0f}" if size else ""


def _upstream_tag(tags: Mapping[str, str]) -> str:
    """Return the local VM's number in upstream's tag; -1 for none, or if tags of ours are there but damaged."""
    if any(name.startswith(TAG_PREFIX) for name in tags) and Identity.from_tags(tags) is None:
        return "-1"
    return tags.get(UPSTREAM_ATTRIBUTE) or tags.get("ONE_PROVIDER_VM_ID", "-1")


def _addresses(nic: Element) -> Iterator[str]:
    for name in ("IP", "IP6", "IP6_GLOBAL"):
        if text := text_of(nic.find(name)).strip():
            yield text


def _number(element: Element | None, *, default: int) -> int:
    number = whole_number(text_of(element).strip())
    return default if number is None else number


def _figure(text: str) -> float:
    try:
        figure = float(text)
    except ValueError:
        return 0.0
    return max(0.0, figure) if math.isfinite(figure) else 0.0
