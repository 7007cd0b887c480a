"""What is reported about a host and its VMs: plain values in, template text out, in the names and units of each era.

Units are OpenNebula's: CPU in percent (100 is one core), memory in KiB, network in bytes since the instance began.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import TypeVar

from one_provider_mad.domain import DeployId, Usage, Value, VmId
from one_provider_mad.protocol.poll import format_poll, format_removals
from one_provider_mad.protocol.template_text import Plain, attribute, fit_name, fit_value, in_base64, lines, vector
from one_provider_mad.protocol.vmm import MAX_VM_ID, NOTHING, clean, deploy_id_problem

VMS_IN_A_LINE = 200
"""How many VMs one MONITOR_VM line speaks of: oned 7.4 does nothing else for a millisecond for each of them."""

PREFIX = "PROVIDER_"
"""Facts about a host begin so: the core lets what is reported overwrite what an administrator has set."""

ERROR = "PROVIDER_ERROR"
"""Why the cloud cannot be asked. Always said: an attribute that is not said any more stays (src/host/Host.cc)."""

# What an expression may compare with; `*` and `?` would match other names too.
_WORD = re.compile(r"[A-Za-z0-9_.-]+")

# What the name of a VM may not hold in one release or another (include/PoolObjectSQL.h, name_is_valid), and its length.
_UNFIT_IN_VM_NAME = re.compile(r"[&|:\\;/'#{}()$<>\"]")
_VM_NAME_LENGTH = 128


class VmWord(Enum):
    """STATE of a VM in STATE_VM (OpenNebula src/im/InformationManager.cc, _vm_state)."""

    RUNNING = "RUNNING"
    POWEROFF = "POWEROFF"
    SUSPENDED = "SUSPENDED"
    FAILURE = "FAILURE"
    UNKNOWN = "UNKNOWN"
    """Listed, and nothing is said: the VM stays as it is."""


class Wild(Value, frozen=True, kw_only=True):
    """A live instance that belongs to no VM.

    Attributes:
        deploy_id: the cloud's id.
        name: the cloud's name of it, "" for none.
        cpu: percent, 100 is one core; 0 when nobody knows, then it is imported with one.
        memory: KiB; 0 when nobody knows, then it is imported with 1 MiB, the least OpenNebula takes.
        public_cloud: attributes of the PUBLIC_CLOUD section of the VM that it would be imported as, without TYPE.
        state_letter: for the legacy report: `a`, `p`, `e`, `d` or `-`.
    """

    deploy_id: DeployId
    name: str = ""
    cpu: float = 0.0
    memory: int = 0
    public_cloud: Mapping[str, str] = {}
    state_letter: str = "-"


class HostReport(Value, frozen=True, kw_only=True):
    """What is said of a host.

    Attributes:
        hypervisor: HYPERVISOR, the TYPE that PUBLIC_CLOUD sections carry.
        total_cpu: percent, 100 for each core the cloud has room for; None when nobody knows, which says nothing of it.
            A full cloud has 0, which has to be said: OpenNebula keeps the total that it was told last.
        total_memory: KiB the cloud has room for; None as above.
        used_cpu: percent in use.
        used_memory: KiB in use.
        error: why the cloud cannot be asked, "" when it can; PROVIDER_ERROR of the host.
        attributes: further facts. Only names that begin with PROVIDER_ are written: the core lets what is reported
            overwrite what an administrator has set (CAPACITY, REGION_NAME, credentials).
        wilds: every live instance that belongs to no VM; OpenNebula forgets those that are not said again.
    """

    hypervisor: str
    total_cpu: int | None = None
    total_memory: int | None = None
    used_cpu: float = 0.0
    used_memory: int = 0
    error: str = ""
    attributes: Mapping[str, str] = {}
    wilds: tuple[Wild, ...] = ()


class VmState(Value, frozen=True, kw_only=True):
    """The state of one VM.

    Attributes:
        vm_id: the VM's number.
        deploy_id: exactly what DEPLOY was answered with.
        state: the word for it.
    """

    vm_id: VmId
    deploy_id: DeployId
    state: VmWord


class VmFigures(Value, frozen=True, kw_only=True, gc=False):
    """Figures and facts of one VM.

    Attributes:
        vm_id: the VM's number; it must exist, OpenNebula keeps rows for any number.
        deploy_id: exactly what DEPLOY was answered with.
        usage: figures, None when there are none.
        attributes: further facts, as in POLL (protocol/poll.py).
        stale: attributes that the core is to show no more (protocol/stale_names.py).
    """

    vm_id: VmId
    deploy_id: DeployId
    usage: Usage | None = None
    attributes: Mapping[str, str] = {}
    stale: tuple[str, ...] = ()


class FiguresText(Value, frozen=True, kw_only=True):
    """Text of one MONITOR_VM.

    Attributes:
        text: the text.
        vms: those that it speaks of.
    """

    text: str
    vms: tuple[VmFigures, ...]


class LegacyVm(Value, frozen=True, kw_only=True):
    """One VM in the report of the legacy era.

    Attributes:
        vm_id: the VM's number.
        deploy_id: exactly what DEPLOY was answered with.
        state_letter: `a`, `p`, `e`, `d` or `-`, as in POLL (protocol/poll.py).
        name: the instance's name, "" for none.
        usage: figures, None when there are none.
        attributes: further facts; only those that are one plain word each are written.
        stale: attributes that the core is to show no more (protocol/stale_names.py).
    """

    vm_id: VmId
    deploy_id: DeployId
    state_letter: str
    name: str = ""
    usage: Usage | None = None
    attributes: Mapping[str, str] = {}
    stale: tuple[str, ...] = ()


_Vm = TypeVar("_Vm", VmState, VmFigures, LegacyVm)


def host_system(report: HostReport) -> str:
    """Text of SYSTEM_HOST: what hardly changes, and every wild instance."""
    wilds = (_wild(wild, report.hypervisor) for wild in report.wilds)
    return lines(*_identity(report), *_totals(report), *_facts(report), *wilds)


def host_monitor(report: HostReport) -> str:
    """Text of MONITOR_HOST: what is used and what is free."""
    return lines(*_usage(report))


def vm_states(vms: Iterable[VmState]) -> str:
    """Text of a STATE_VM that speaks of these VMs and of no other; "" when there are none."""
    return lines(*(_state(vm) for vm in _known(vms) if _can_be_kept(vm.deploy_id)))


def synced_vm_states(vms: Iterable[VmState], *, missing_state: VmWord) -> str:
    """Text of a STATE_VM that speaks of all VMs of the host: those that it leaves out get the missing state.

    A VM whose deploy id OpenNebula could not keep would have to be left out, and be powered off for it: then the text
    speaks only of the VMs that it names, as that of `vm_states` does.

    Args:
        vms: every VM of the host, from a complete listing.
        missing_state: POWEROFF where "not found" is certain, or UNKNOWN (decision 18). Any other word counts as
            UNKNOWN, for the core would take it for POWEROFF.
    """
    known = _known(vms)
    if not all(_can_be_kept(vm.deploy_id) for vm in known):
        return vm_states(known)
    missing = VmWord.POWEROFF if missing_state is VmWord.POWEROFF else VmWord.UNKNOWN
    head = (attribute("SYNC_STATE", "yes"), attribute("MISSING_STATE", missing.value))
    return lines(*head, *map(_state, known))


def vm_figures(vms: Iterable[VmFigures]) -> tuple[FiguresText, ...]:
    """Texts of as many MONITOR_VM as it takes, each of at most 200 VMs; VMs of which nothing is said are left out."""
    written = [(vm, line) for vm in _known(vms) if _can_be_kept(vm.deploy_id) and (line := _figures(vm))]
    chunks = (written[start : start + VMS_IN_A_LINE] for start in range(0, len(written), VMS_IN_A_LINE))
    return tuple(
        FiguresText(text=lines(*(line for _, line in chunk)), vms=tuple(vm for vm, _ in chunk)) for chunk in chunks
    )


def legacy_report(report: HostReport, vms: Iterable[LegacyVm], *, is_before_4_14: bool = False) -> str:
    """Text of a MONITOR that succeeded: the host, its VMs and the wild instances.

    Args:
        report: the host.
        vms: every VM of the host; one that is left out twice in a row is powered off (src/im/MonitorThread.cc). While
            the cloud cannot be asked, that is every VM that was there before, with `-`.
        is_before_4_14: figures of VMs under the names of these releases, where CPU and MEMORY would overwrite the VM's
            own capacity. Both kinds send the same request.
    """
    return lines(
        *_identity(report),
        *_totals(report),
        *_usage(report),
        *_facts(report),
        attribute("VM_POLL", "YES"),  # without it the report counts as a miss of every VM
        *(_legacy_vm(vm, is_before_4_14=is_before_4_14) for vm in _known(vms)),
        *(_wild(wild, report.hypervisor, has_poll=True) for wild in report.wilds),
    )


def _identity(report: HostReport) -> tuple[str, ...]:
    return attribute("HYPERVISOR", report.hypervisor), attribute("PUBLIC_CLOUD", "YES")


def _totals(report: HostReport) -> tuple[str, ...]:
    return _known_figure("TOTALCPU", report.total_cpu), _known_figure("TOTALMEMORY", report.total_memory)


def _usage(report: HostReport) -> tuple[str, ...]:
    cpu, memory = report.total_cpu, report.total_memory
    return (
        attribute("USEDCPU", _whole(report.used_cpu)),
        attribute("USEDMEMORY", _whole(report.used_memory)),
        _known_figure("FREECPU", None if cpu is None else cpu - report.used_cpu),
        _known_figure("FREEMEMORY", None if memory is None else memory - report.used_memory),
    )


def _known_figure(name: str, figure: float | None) -> str:
    return "" if figure is None else attribute(name, _whole(figure))


def _facts(report: HostReport) -> Iterator[str]:
    facts = {fit_name(name): value for name, value in report.attributes.items()}
    facts[ERROR] = clean(report.error) or NOTHING
    for name, value in facts.items():
        if name.startswith(PREFIX):
            yield attribute(name, value)


def _state(vm: VmState) -> str:
    return vector("VM", {"ID": vm.vm_id, "DEPLOY_ID": vm.deploy_id, "STATE": vm.state.value})


def _figures(vm: VmFigures) -> str:
    # POLL of 4.14 and later is a template too, of the same names; monitoring has no STATE in it.
    text = format_poll(NOTHING, vm.usage, vm.attributes, stale=vm.stale, is_legacy=False)
    _, _, figures = text.partition(" ")
    if not figures:
        return ""
    return vector("VM", {"ID": vm.vm_id, "DEPLOY_ID": vm.deploy_id, "MONITOR": in_base64(f"{figures}\n")})


def _legacy_vm(vm: LegacyVm, *, is_before_4_14: bool) -> str:
    # The core looks VMs up by ID; the deploy id and the name are for people.
    deploy_id = vm.deploy_id if _can_be_kept(vm.deploy_id) else ""
    values: dict[str, Plain] = {
        "ID": vm.vm_id,
        "DEPLOY_ID": deploy_id,
        "VM_NAME": vm.name or deploy_id,
        "POLL": _poll(vm, is_before_4_14=is_before_4_14),
    }
    return vector("VM", values)


def _poll(vm: LegacyVm, *, is_before_4_14: bool) -> str:
    """Write the POLL of a VM without a quote in it: the text stands between quotes itself.

    Escaped quotes would do from 4.14 on only, so facts are written as before: one plain word each.
    """
    _, _, facts = format_poll(NOTHING, None, vm.attributes, is_legacy=True).partition(" ")
    removals = format_removals(vm.stale, vm.usage, vm.attributes) if vm.stale and not is_before_4_14 else ()
    figures = format_poll(vm.state_letter, vm.usage, {}, is_legacy=is_before_4_14)
    return " ".join(filter(None, (figures, facts, *removals)))


def _wild(wild: Wild, hypervisor: str, *, has_poll: bool = False) -> str:
    if not _can_be_kept(wild.deploy_id):
        return ""
    values: dict[str, Plain] = {
        "ID": -1,
        "DEPLOY_ID": wild.deploy_id,
        "VM_NAME": _name(wild),
        "IMPORT_TEMPLATE": in_base64(_import_template(wild, hypervisor)),
        "POLL": format_poll(wild.state_letter, None, {}, is_legacy=True) if has_poll else "",
    }
    return vector("VM", values)


def _import_template(wild: Wild, hypervisor: str) -> str:
    """Write the VM that the instance would be: CPU in cores and MEMORY in MiB here.

    Each era reads the deploy id under a name of its own (IMPORT_VM_ID up to 5.10, DEPLOY_ID from 6.0 on), and keeps the
    other as a note.
    """
    cores = max(wild.cpu / 100, 0.01) if math.isfinite(wild.cpu) and wild.cpu > 0 else 1.0
    section = {"TYPE": hypervisor, **{key: value for key, value in wild.public_cloud.items() if key.upper() != "TYPE"}}
    return lines(
        attribute("NAME", _UNFIT_IN_VM_NAME.sub("_", _name(wild))[:_VM_NAME_LENGTH]),
        attribute("CPU", cores),
        attribute("VCPU", math.ceil(cores)),
        attribute("MEMORY", max(_whole(wild.memory) // 1024, 1)),
        attribute("HYPERVISOR", hypervisor),
        vector("PUBLIC_CLOUD", section),
        attribute("IMPORT_VM_ID", wild.deploy_id),
        attribute("DEPLOY_ID", wild.deploy_id),
        _requirements(hypervisor),
    )


def _requirements(hypervisor: str) -> str:
    """Keep the scheduler of 7.0 and later, which knows no clouds, from running the VM anywhere else.

    Names with a dash or a dot need quotes in an expression (src/parsers/expr_parser.l), hence the escaped ones.
    """
    return f'SCHED_REQUIREMENTS="HYPERVISOR=\\"{hypervisor}\\""' if _WORD.fullmatch(hypervisor) else ""


def _name(wild: Wild) -> str:
    return fit_value(clean(wild.name)) or wild.deploy_id


def _can_be_kept(deploy_id: DeployId) -> bool:
    """True when the id can be said exactly as it is: whatever else is said would be stored in its place."""
    return deploy_id_problem(deploy_id) is None and fit_value(deploy_id) == deploy_id


def _known(vms: Iterable[_Vm]) -> list[_Vm]:
    """Leave out what is no VM's number (-1 would be a zombie called -1), and of two with one number the second."""
    found: dict[int, _Vm] = {}
    for vm in vms:
        if 0 <= vm.vm_id <= MAX_VM_ID:
            found.setdefault(vm.vm_id, vm)
    return list(found.values())


def _whole(figure: float) -> int:
    return max(0, round(figure)) if math.isfinite(figure) else 0
