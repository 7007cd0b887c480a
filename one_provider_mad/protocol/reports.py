"""Writes reports on a host and its VMs as template text, in the names and units that oned or monitord expects.

Units are OpenNebula's: CPU in percent (100 is one core), memory in KiB, network in bytes since the instance started.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import TypeVar

from one_provider_mad.characters import clean
from one_provider_mad.domain import DeployId, Usage, Value, VmId
from one_provider_mad.protocol.poll import format_poll, format_removals
from one_provider_mad.protocol.vmm import MAX_VM_ID, NOTHING, deploy_id_problem
from one_provider_mad.template_text.adapting_writer import (
    Plain,
    attribute,
    fit_name,
    fit_value,
    in_base64,
    lines,
    vector,
)

VMS_IN_A_LINE = 200
"""Most VMs in one MONITOR_VM line; further VMs go into further lines. Each VM blocks oned 7.4 for a millisecond."""

PREFIX = "PROVIDER_"
"""Prefix of a host's attributes: others might overwrite attributes that an administrator has set."""

SENT = "PROVIDER_SENT"
"""The host's attribute that says which values of HOSTNAME, PRIORITY and VERSION are the driver's: any other value is
the administrator's."""

ERROR = "PROVIDER_ERROR"
"""The host's attribute that says why the cloud does not answer, `-` if it does. It is always reported: an attribute
that a report lacks stays (src/host/Host.cc)."""

# Names that a requirement may compare with; `*` and `?` would match other names too.
_WORD = re.compile(r"[A-Za-z0-9_.-]+")

# Characters that some release refuses in a VM's name (include/PoolObjectSQL.h, name_is_valid), and the longest name.
_UNFIT_IN_VM_NAME = re.compile(r"[&|:\\;/'#{}()$<>\"]")
_VM_NAME_LENGTH = 128


class VmWord(Enum):
    """STATE of a VM in STATE_VM (OpenNebula src/im/InformationManager.cc, _vm_state)."""

    RUNNING = "RUNNING"
    POWEROFF = "POWEROFF"
    SUSPENDED = "SUSPENDED"
    FAILURE = "FAILURE"
    UNKNOWN = "UNKNOWN"
    """The VM is named without a state, and stays as it is."""


class Wild(Value, frozen=True, kw_only=True):
    """The report on a live instance without tags of ours, which OpenNebula offers to import.

    Attributes:
        deploy_id: the cloud's id.
        name: its name in the cloud, "" for none.
        cpu: percent, 100 is one core; 0 when unknown, then it is imported with one core.
        memory: KiB; 0 when unknown, then it is imported with 1 MiB, the least that OpenNebula accepts.
        public_cloud: attributes of the imported VM's PUBLIC_CLOUD section, without TYPE.
        state_letter: its state for reports up to 5.10: `a`, `p`, `e`, `d` or `-`.
    """

    deploy_id: DeployId
    name: str = ""
    cpu: float = 0.0
    memory: int = 0
    public_cloud: Mapping[str, str] = {}
    state_letter: str = "-"


class HostReport(Value, frozen=True, kw_only=True):
    """The values of a report on a host.

    Attributes:
        hypervisor: HYPERVISOR, the TYPE of PUBLIC_CLOUD sections.
        total_cpu: percent, 100 for each core of the cloud's capacity; None when unknown, then it is not reported. A
            full cloud reports 0, since OpenNebula keeps the last reported total.
        total_memory: KiB of the cloud's capacity; None when unknown, then it is not reported.
        used_cpu: percent in use.
        used_memory: KiB in use.
        error: why the cloud does not answer, "" when it does; PROVIDER_ERROR of the host.
        attributes: further attributes. Only names that begin with PROVIDER_ are written: OpenNebula lets reported ones
            overwrite those that an administrator has set (CAPACITY, REGION_NAME, credentials).
        costs: what the host's instances cost; names as those of `attributes`.
        own: HOSTNAME, PRIORITY and VERSION, without those that are the administrator's (monitor/host_attributes.py).
        wilds: every wild instance; OpenNebula forgets those that the next report lacks.
    """

    hypervisor: str
    total_cpu: int | None = None
    total_memory: int | None = None
    used_cpu: float = 0.0
    used_memory: int = 0
    error: str = ""
    attributes: Mapping[str, str] = {}
    costs: Mapping[str, str] = {}
    own: Mapping[str, str] = {}
    wilds: tuple[Wild, ...] = ()


class VmState(Value, frozen=True, kw_only=True):
    """The state of one VM.

    Attributes:
        vm_id: the VM's number.
        deploy_id: the instance's id, exactly as in the answer to DEPLOY.
        state: the reported state.
    """

    vm_id: VmId
    deploy_id: DeployId
    state: VmWord


class VmFigures(Value, frozen=True, kw_only=True, gc=False):
    """Figures and further attributes of one VM.

    Attributes:
        vm_id: the VM's number; it must exist, since OpenNebula keeps rows for any number.
        deploy_id: the instance's id, exactly as in the answer to DEPLOY.
        usage: the VM's figures, None when there are none.
        attributes: further attributes, as in POLL (protocol/poll.py).
        stale: attributes to remove from the VM (protocol/stale_names.py).
    """

    vm_id: VmId
    deploy_id: DeployId
    usage: Usage | None = None
    attributes: Mapping[str, str] = {}
    stale: tuple[str, ...] = ()


class FiguresText(Value, frozen=True, kw_only=True):
    """The text of one MONITOR_VM message, and the VMs in it.

    Attributes:
        text: template text.
        vms: the VMs that the text reports.
    """

    text: str
    vms: tuple[VmFigures, ...]


class LegacyVm(Value, frozen=True, kw_only=True):
    """One VM in a report to oned up to 5.10.

    Attributes:
        vm_id: the VM's number.
        deploy_id: the instance's id, exactly as in the answer to DEPLOY.
        state_letter: `a`, `p`, `e`, `d` or `-`, as in POLL (protocol/poll.py).
        name: the instance's name, "" for none.
        usage: the VM's figures, None when there are none.
        attributes: further attributes; only those whose value is one plain word are written.
        stale: attributes to remove from the VM (protocol/stale_names.py).
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
    """Return the text of SYSTEM_HOST: attributes that hardly change, and every wild instance."""
    wilds = (_wild(wild, report.hypervisor) for wild in report.wilds)
    return lines(*_identity(report), *_totals(report), *_own(report), *_facts(report), *wilds)


def host_monitor(report: HostReport) -> str:
    """Return the text of MONITOR_HOST: used and free capacity."""
    return lines(*_usage(report))


def vm_states(vms: Iterable[VmState]) -> str:
    """Return the text of a STATE_VM for these VMs alone; "" when there are none."""
    return lines(*(_state(vm) for vm in _known(vms) if _can_be_kept(vm.deploy_id)))


def synced_vm_states(vms: Iterable[VmState], *, missing_state: VmWord) -> str:
    """Return the text of a STATE_VM for all VMs of the host: unlisted ones get the missing state.

    A VM whose deploy id OpenNebula cannot store would have to be left out, and would then be powered off. With such a
    VM the text covers only the VMs that it lists, as the text of `vm_states`.

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
    """Return the texts of MONITOR_VM messages, up to 200 VMs in each; VMs that have nothing to report are left out."""
    written = [(vm, line) for vm in _known(vms) if _can_be_kept(vm.deploy_id) and (line := _figures(vm))]
    chunks = (written[start : start + VMS_IN_A_LINE] for start in range(0, len(written), VMS_IN_A_LINE))
    return tuple(
        FiguresText(text=lines(*(line for _, line in chunk)), vms=tuple(vm for vm, _ in chunk)) for chunk in chunks
    )


def legacy_report(report: HostReport, vms: Iterable[LegacyVm], *, is_before_4_14: bool = False) -> str:
    """Return the text of a successful MONITOR for oned up to 5.10: the host, its VMs and the wild instances.

    Args:
        report: the host.
        vms: every VM of the host; one that is left out twice in a row is powered off (src/im/MonitorThread.cc). While
            the cloud does not answer, these are the VMs of the last report, with `-`.
        is_before_4_14: write figures under the names of these releases, where CPU and MEMORY would overwrite the VM's
            own capacity. Both kinds of releases send the same request.
    """
    return lines(
        *_identity(report),
        *_totals(report),
        *_usage(report),
        *_own(report),
        *_facts(report),
        attribute("VM_POLL", "YES"),  # without this attribute oned takes every VM for missing
        *(_legacy_vm(vm, is_before_4_14=is_before_4_14) for vm in _known(vms)),
        *(_wild(wild, report.hypervisor, has_poll=True) for wild in report.wilds),
    )


def _identity(report: HostReport) -> tuple[str, ...]:
    return attribute("HYPERVISOR", report.hypervisor), attribute("PUBLIC_CLOUD", "YES")


def _own(report: HostReport) -> Iterator[str]:
    written = {name: attribute(name, value) for name, value in report.own.items()}
    yield from written.values()
    yield vector(SENT, {name: report.own[name] for name, text in written.items() if text})


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
    facts = {fit_name(name): value for name, value in {**report.attributes, **report.costs}.items()}
    facts[ERROR] = clean(report.error) or NOTHING
    for name, value in facts.items():
        if name.startswith(PREFIX):
            yield attribute(name, value)


def _state(vm: VmState) -> str:
    return vector("VM", {"ID": vm.vm_id, "DEPLOY_ID": vm.deploy_id, "STATE": vm.state.value})


def _figures(vm: VmFigures) -> str:
    # The POLL answer of 4.14 and later is a template with the same names; MONITOR has no STATE in it.
    text = format_poll(NOTHING, vm.usage, vm.attributes, stale=vm.stale, is_legacy=False)
    _, _, figures = text.partition(" ")
    if not figures:
        return ""
    return vector("VM", {"ID": vm.vm_id, "DEPLOY_ID": vm.deploy_id, "MONITOR": in_base64(f"{figures}\n")})


def _legacy_vm(vm: LegacyVm, *, is_before_4_14: bool) -> str:
    # oned finds the VM by its ID; deploy id and name are for people.
    deploy_id = vm.deploy_id if _can_be_kept(vm.deploy_id) else ""
    values: dict[str, Plain] = {
        "ID": vm.vm_id,
        "DEPLOY_ID": deploy_id,
        "VM_NAME": vm.name or deploy_id,
        "POLL": _poll(vm, is_before_4_14=is_before_4_14),
    }
    return vector("VM", values)


def _poll(vm: LegacyVm, *, is_before_4_14: bool) -> str:
    """Return the POLL attribute of a VM, without quotes inside, since its value is in quotes.

    Escaped quotes work only from 4.14 on, so attributes have the older form: one plain word each.
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
    """Return the template for importing a wild instance as a VM: CPU in cores and MEMORY in MiB.

    Releases read the deploy id under different names (IMPORT_VM_ID up to 5.10, DEPLOY_ID from 6.0 on), and keep the
    other as an ordinary attribute.
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
    """Return a requirement that keeps the scheduler of 7.0 and later from placing an imported VM on another host.

    That scheduler does not know clouds. Names with a dash or a dot need quotes in an expression
    (src/parsers/expr_parser.l), which are escaped here.
    """
    return f'SCHED_REQUIREMENTS="HYPERVISOR=\\"{hypervisor}\\""' if _WORD.fullmatch(hypervisor) else ""


def _name(wild: Wild) -> str:
    return fit_value(clean(wild.name)) or wild.deploy_id


def _can_be_kept(deploy_id: DeployId) -> bool:
    """Return True if the deploy id can be written unchanged: OpenNebula would store a changed one instead."""
    return deploy_id_problem(deploy_id) is None and fit_value(deploy_id) == deploy_id


def _known(vms: Iterable[_Vm]) -> list[_Vm]:
    """Return the VMs without invalid numbers (OpenNebula would show VM -1 as a zombie) and without repeated ones."""
    found: dict[int, _Vm] = {}
    for vm in vms:
        if 0 <= vm.vm_id <= MAX_VM_ID:
            found.setdefault(vm.vm_id, vm)
    return list(found.values())


def _whole(figure: float) -> int:
    return max(0, round(figure)) if math.isfinite(figure) else 0
