"""Checks in this front-end's own files whether its scheduler sends VMs to the cloud once home is full, many at a time.

A fault is only a warning: the drivers work without any of these settings, and `check` may be run before they are made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from one_provider_mad.cli.driver_arguments import sections
from one_provider_mad.cli.oned_conf_scheduler import rank_section
from one_provider_mad.cli.oned_conf_transfer import transfer_settings_missing_in
from one_provider_mad.errors import SettingsError
from one_provider_mad.front_end.files import MONITORD, ONED, RANK, SCHED, FrontEnd, read_front_end
from one_provider_mad.front_end.scheduler import (
    ENOUGH_THREADS,
    OF_6,
    OF_7,
    THREADS,
    Limit,
    policy_in,
    seconds_for,
)
from one_provider_mad.options import parse_arguments
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.settings import Places

_VMS = 20
"""So many VMs at once are the example for what the limits cost."""

_PLACER = re.compile(r"(?<!\S)(?:-p|--placer)[ \t=]*(\S+)")
_RANK_PLACER = "rank"


def check_scheduler(name: str, places: Places) -> Iterator[CheckResult]:
    """Yield results for NAME; none on a machine without oned.conf.

    Args:
        name: NAME of the configuration.
        places: the directories of this OpenNebula.
    """
    try:
        front_end = read_front_end(places.etc)
    except SettingsError as error:
        remedy = "nothing is known of the scheduler's settings until then"
        yield CheckResult(what="scheduler", is_well=None, found=str(error), remedy=remedy)
        return
    if not front_end.is_there:
        return
    threads = _threads(name, places)
    yield from _drivers(name, places, front_end, threads)
    file = RANK if RANK in front_end.settings else SCHED
    if file not in front_end.settings:
        return
    limits = OF_7 if file == RANK else OF_6
    yield from _pace(front_end, limits, threads=threads or THREADS)
    yield from _rank(front_end, file)
    if file == RANK and (missing := transfer_settings_missing_in(front_end)):
        found = f"{places.etc / ONED} lacks one_provider in {', '.join(missing)}: a system datastore with TM_MAD ="
        found += " one_provider cannot be used; one with TM_MAD = dummy goes on working"
        yield CheckResult(what="transfer driver", is_well=None, found=found, remedy=_printed_by(name, file))


def _drivers(name: str, places: Places, front_end: FrontEnd, threads: int | None) -> Iterator[CheckResult]:
    """Yield a result for the sections that start the drivers, and for -t."""
    monitor = MONITORD if MONITORD in front_end.settings else ONED
    wanted = {("VM_MAD", places.etc / ONED), ("IM_MAD", places.etc / monitor)}
    missing = wanted - {(each.kind, each.path) for each in sections(places) if each.name == name}
    file = RANK if RANK in front_end.settings else SCHED
    for kind, path in sorted(missing):
        found = f"{path} has no {kind} with {name} in its ARGUMENTS: OpenNebula does not start that driver"
        yield CheckResult(what=kind, is_well=None, found=found, remedy=_printed_by(name, file))
    if not missing:
        files = " and ".join(dict.fromkeys(str(places.etc / each) for each in (ONED, monitor)))
        found = f"the drivers of {name} are in {files}"
        yield CheckResult(what="driver sections", is_well=True, found=found)
    if threads is not None and threads < ENOUGH_THREADS:
        found = f"-t {threads} in VM_MAD of {name}: {threads} deploys run at once, and the next one waits for the first"
        remedy = f"write -t {THREADS} into its ARGUMENTS in {places.etc / ONED}, and restart OpenNebula"
        yield CheckResult(what="-t", is_well=None, found=found, remedy=remedy)


def _threads(name: str, places: Places) -> int | None:
    """Return -t of NAME's action driver; None without a section."""
    found = [each for each in sections(places) if (each.kind, each.name) == ("VM_MAD", name)]
    return parse_arguments([found[0].arguments]).threads if found else None


def _pace(front_end: FrontEnd, limits: Sequence[Limit], *, threads: int) -> Iterator[CheckResult]:
    """Yield what the limits cost, and each limit that should be changed."""
    unmet = [each for each in limits if not each.is_met_in(front_end)]
    now = _told(seconds_for(_VMS, front_end, limits, threads=threads))
    if not unmet:
        found = f"{_VMS} VMs created at once run in the cloud after about {now}, if it starts each in 3.5 s"
        yield CheckResult(what="scheduler", is_well=True, found=found)
        return
    then = _told(seconds_for(_VMS, front_end, limits, threads=max(threads, THREADS), best=True))
    settings = ", ".join(f"{each.name} = {each.best}" for each in unmet)
    found = f"{_VMS} VMs created at once run in the cloud after about {now}, if it starts each in 3.5 s"
    yield CheckResult(what="scheduler", is_well=None, found=found, remedy=f"set {settings}: then after {then}")
    for each in unmet:
        found = f"{each.found_in(front_end)} in {front_end.etc / each.file}"
        remedy = f"set {each.name} = {each.best}. {each.why}. At home: {each.at_home}"
        yield CheckResult(what=each.name, is_well=None, found=found, remedy=remedy)


def _rank(front_end: FrontEnd, file: str) -> Iterator[CheckResult]:
    """Yield whether the scheduler prefers the hosts at home."""
    path, placer = front_end.etc / file, _placer(front_end)
    if file == RANK and placer != _RANK_PLACER:
        found = (
            f"SCHED_MAD of {front_end.etc / ONED} places VMs by {placer}, which knows no PRIORITY: it does not prefer"
        )
        found += " the hosts at home"
        remedy = f"write -p {_RANK_PLACER} into its ARGUMENTS; -o {placer} may stay, and then balances clusters"
        yield CheckResult(what="rank", is_well=None, found=found, remedy=remedy)
        return
    policy = policy_in(front_end, file)
    if policy.has_priority:
        yield CheckResult(what="rank", is_well=True, found=f"{path} ranks hosts by {policy.expression}")
        return
    found = f"{path} ranks hosts by {policy.expression or 'nothing'}: VMs go to the cloud while home has room"
    remedy = f"set {rank_section(policy)}"
    if file == SCHED and MONITORD not in front_end.settings:
        remedy += ", and PRIORITY = 0 in each cluster at home: up to 5.12 a host without it has any"
    yield CheckResult(what="rank", is_well=None, found=found, remedy=remedy)


def _placer(front_end: FrontEnd) -> str:
    """Return the scheduler that places VMs (src/schedm_mad/one_sched.rb)."""
    found = front_end.of(ONED).vectors("SCHED_MAD")
    match = _PLACER.search(found[0].get("ARGUMENTS", "")) if found else None
    return match[1] if match else _RANK_PLACER


def _printed_by(name: str, file: str) -> str:
    release = "7.4" if file == RANK else "RELEASE"
    return f"one-provider oned-conf {name} --release {release} prints it; then restart OpenNebula"


def _told(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{seconds:.0f} s"
