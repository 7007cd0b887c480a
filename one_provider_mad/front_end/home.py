"""How many VMs have room at home, and why they would start in the cloud nevertheless. Calls nothing.

Schedulers skip a host for the state it is in, and for the system datastores of its cluster: a shared one that was never
monitored or is full, one on the host's own disks where the host has none free, a disabled one (5.10 to 6.10:
src/scheduler/src/sched/Scheduler.cc, match_system_ds and dispatch; 7.x: src/schedm_mad/remotes/rank/src/sched/
Scheduler.cc). None of them looks at transfer drivers: there oned refuses the deployment (VirtualMachineDisks::
check_tm_mad), up to 6.10 the scheduler takes the next host, and 7.x tries the same one for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from statistics import median
from typing import NamedTuple

from one_provider_mad.domain import Value
from one_provider_mad.front_end.pools import Datastore, FrontEnd, Host

IMAGES = 0
SYSTEM = 1
"""Kinds of datastores (include/Datastore.h, DatastoreType)."""

_SCHEDULED = {1, 2}
"""Values of HOST/STATE whose hosts schedulers use: MONITORED, and 1 while it is asked again (HostPoolXML.h)."""

_STATES = {0: "INIT", 3: "ERROR", 4: "DISABLED", 5: "ERROR", 6: "INIT", 7: "DISABLED", 8: "OFFLINE"}
"""HOST/STATE of hosts that schedulers skip; 5 to 7 while the host is asked again (include/Host.h)."""

_BY_HAND = {"DISABLED", "OFFLINE"}
_NEW = "INIT"

_CORE = 100
_GIB = 1024 * 1024
_LEAST_FREE = 1024
"""MiB below which a datastore counts as full: hardly any VM's disks need less."""

FAULT_SECONDS = 60.0
"""Seconds for which a fault must last before it is reported: `onehost enable` makes the host INIT for some."""

NEW_SECONDS = 600.0
"""As FAULT_SECONDS, of hosts that were never monitored: they may be being set up."""

_SHOWN = 3
"""Most hosts and most faults that one sentence names."""


class VmSize(NamedTuple):
    """Size of a VM.

    Attributes:
        cpu: percent, 100 is one core.
        memory: KiB.
    """

    cpu: float = _CORE
    memory: float = _GIB

    def __str__(self) -> str:
        return f"{self.cpu / _CORE:.3g} CPU and {self.memory / _GIB:.3g} GiB"


class Fault(Value, frozen=True, kw_only=True):
    """A reason why hosts with room take no VM.

    Attributes:
        found: the reason, as a clause.
        remedy: what to do.
        patience: seconds for which it must last before it is reported.
    """

    found: str
    remedy: str
    patience: float = FAULT_SECONDS


class Home(Value, frozen=True, kw_only=True):
    """The hosts that are not a cloud's.

    Attributes:
        hosts: their number.
        size: the usual size of a VM.
        room: how many VMs of that size have room by CPU and memory.
        usable: how many of these can be placed.
        takes_any: False if no host can be used by the scheduler, whatever their room.
        faults: why the others cannot be placed.
    """

    hosts: int = 0
    size: VmSize = VmSize()
    room: int = 0
    usable: int = 0
    takes_any: bool = True
    faults: tuple[Fault, ...] = ()

    @property
    def is_at_fault(self) -> bool:
        """True if there are hosts with room, and no VM can be placed there; not of a home that is full or has none."""
        return bool(self.faults) and not self.usable and (self.room > 0 or not self.takes_any)

    @property
    def patience(self) -> float:
        """Seconds for which this must last before it is reported."""
        return min((fault.patience for fault in self.faults), default=FAULT_SECONDS)

    @property
    def sentence(self) -> str:
        """What is wrong and what to do, "" if nothing is."""
        if not self.is_at_fault:
            return ""
        shown = "; ".join(f"{fault.found}: {fault.remedy}" for fault in self.faults[:_SHOWN])
        more = len(self.faults) - _SHOWN
        return f"{self.beginning}: {shown}{f'; and {more} more' if more > 0 else ''}"

    @property
    def beginning(self) -> str:
        """What is wrong, without the reasons."""
        if not self.room:
            return "home takes no VM"
        return f"home has room for {_count(self.room, 'VM')} and takes none"


def home_of(front_end: FrontEnd, *, vm_mads: Collection[str]) -> Home:
    """Return what home has room for, and why it takes none of it.

    Args:
        front_end: OpenNebula's hosts, datastores and clusters.
        vm_mads: virtualization drivers of clouds; a host that reports PUBLIC_CLOUD=YES is a cloud as well.
    """
    hosts = home_hosts(front_end, vm_mads=vm_mads)
    size = usual_size(hosts)
    scheduled = [each for each in hosts if each.state in _SCHEDULED]
    skipped = [each for each in hosts if each.state not in _SCHEDULED and (not scheduled or not _is_by_hand(each))]
    roomy = [each for each in scheduled if room_on(each, size)]
    usable = [each for each in roomy if _is_usable(each, front_end)]
    unused = [each for each in roomy if each not in usable]
    closed = [each for each in skipped if not scheduled or room_on(each, size)]
    return Home(
        hosts=len(hosts),
        size=size,
        room=sum(room_on(each, size) for each in (*roomy, *closed)),
        usable=sum(room_on(each, size) for each in usable),
        takes_any=bool(scheduled) or not hosts,
        faults=(*_datastore_faults(unused, front_end), *_host_faults(closed)),
    )


def _is_by_hand(host: Host) -> bool:
    """True for a host that somebody has disabled: beside others at work that is no fault."""
    return _STATES.get(host.state) in _BY_HAND


def home_hosts(front_end: FrontEnd, *, vm_mads: Collection[str]) -> list[Host]:
    """Return the hosts that are no cloud's."""
    return [each for each in front_end.hosts if not is_cloud(each, vm_mads=vm_mads)]


def is_cloud(host: Host, *, vm_mads: Collection[str]) -> bool:
    """True for a host of one of these drivers, and for one that reports PUBLIC_CLOUD=YES, as upstream's do."""
    return host.vm_mad in vm_mads or host.is_public


def usual_size(hosts: Iterable[Host]) -> VmSize:
    """Return the median of the hosts' average VMs; one core and one GiB where no VM runs."""
    busy = [each for each in hosts if each.vms and each.taken_memory > 0]
    if not busy:
        return VmSize()
    return VmSize(
        cpu=median(each.taken_cpu / each.vms for each in busy),
        memory=median(each.taken_memory / each.vms for each in busy),
    )


def room_on(host: Host, size: VmSize) -> int:
    """Return how many VMs of a size a host has room for by CPU and memory."""
    pairs = ((host.cpu - host.taken_cpu, size.cpu), (host.memory - host.taken_memory, size.memory))
    return max(0, min(int(free / each) for free, each in pairs if each > 0))


# Datastores


def _is_usable(host: Host, front_end: FrontEnd) -> bool:
    """True if the host's cluster has a system datastore with room there, which works with the cluster's images."""
    images = _image_datastores(host.cluster_id, front_end)
    return any(
        _fits(each, host) and _works_with(each, images) for each in front_end.datastores_in(host.cluster_id, SYSTEM)
    )


def _image_datastores(cluster_id: int, front_end: FrontEnd) -> list[Datastore]:
    """Return a cluster's image datastores that are in use; the one that a fresh OpenNebula has may be of no use."""
    return [each for each in front_end.datastores_in(cluster_id, IMAGES) if each.images]


def _fits(system: Datastore, host: Host) -> bool:
    if not system.is_enabled:
        return False
    if system.is_shared:
        return system.is_monitored and system.free >= _LEAST_FREE
    return host.free_in(system.datastore_id) >= _LEAST_FREE


def _works_with(system: Datastore, images: Collection[Datastore]) -> bool:
    return not images or any(each.supports(system.tm_mad) for each in images)


def _datastore_faults(hosts: Iterable[Host], front_end: FrontEnd) -> Iterator[Fault]:
    """Yield the faults of the system datastores of hosts that cannot be used for them."""
    inside: dict[int, list[Host]] = {}
    for host in hosts:
        inside.setdefault(host.cluster_id, []).append(host)
    faults = (fault for cluster_id in inside for fault in _cluster_faults(cluster_id, inside[cluster_id], front_end))
    yield from dict.fromkeys(faults)  # a datastore may be in several clusters


def _cluster_faults(cluster_id: int, hosts: Collection[Host], front_end: FrontEnd) -> Iterator[Fault]:
    cluster, systems = front_end.cluster_name(cluster_id), front_end.datastores_in(cluster_id, SYSTEM)
    if not systems:
        remedy = f"onecluster adddatastore {cluster} DATASTORE adds one"
        yield Fault(found=f"cluster {cluster} has no system datastore", remedy=remedy)
    for system in systems:
        full = [each for each in hosts if not _fits(system, each)]
        images = _image_datastores(cluster_id, front_end)
        yield _system_fault(system, full) if full else _image_fault(system, images)


def _system_fault(system: Datastore, hosts: Collection[Host]) -> Fault:
    """Return why hosts cannot use a system datastore."""
    name, number = f"system datastore {_label(system)}", system.datastore_id
    if not system.is_enabled:
        return Fault(found=f"{name} is disabled", remedy=f"onedatastore enable {number}")
    if not system.is_shared:
        remedy = "free some of their disk, or see why their monitoring does not report it"
        return Fault(found=f"{_names(hosts)} {_have(hosts)} less than 1 GiB free for {name}", remedy=remedy)
    if not system.is_monitored:
        return Fault(
            found=f"{name} is not monitored",
            remedy=f"oned.log has the reason after Error monitoring datastore {number}",
        )
    place = "free some, or enlarge it" if system.limit is None else "free some, or raise its LIMIT_MB"
    return Fault(found=f"{name} has less than 1 GiB free", remedy=place)


def _image_fault(system: Datastore, images: Iterable[Datastore]) -> Fault:
    """Return why images cannot be used in a system datastore."""
    modes = ", ".join(f"image datastore {_label(each)} with TM_MAD={each.tm_mad}" for each in images)
    return Fault(
        found=f"{modes} does not support TM_MAD={system.tm_mad} of system datastore {_label(system)}",
        remedy=f"a system datastore with the same TM_MAD, or {system.tm_mad} in TM_MAD_SYSTEM, with its targets",
    )


def _label(datastore: Datastore) -> str:
    return f"{datastore.datastore_id} ({datastore.name})"


# Hosts


def _host_faults(hosts: Iterable[Host]) -> Iterator[Fault]:
    """Yield the faults of hosts that schedulers skip, those in one state together."""
    inside: dict[str, list[Host]] = {}
    for host in hosts:
        inside.setdefault(_STATES.get(host.state, "UNKNOWN"), []).append(host)
    for state, closed in inside.items():
        first = closed[0].name
        if state in _BY_HAND:
            yield Fault(found=f"{_names(closed)} {_are(closed)} {state}", remedy=f"onehost enable {first}")
        elif state == _NEW:
            found = f"{_names(closed)} {_have(closed)} not been monitored yet"
            yield Fault(found=found, remedy=f"onehost show {first} says why", patience=NEW_SECONDS)
        else:
            yield Fault(found=f"{_names(closed)} {_are(closed)} in {state}", remedy=f"onehost show {first} says why")


def _names(hosts: Collection[Host]) -> str:
    names = [each.name for each in hosts]
    more = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN])
    return f"{'host' if len(names) == 1 else 'hosts'} {shown}{f' and {more} more' if more > 0 else ''}"


def _are(hosts: Collection[Host]) -> str:
    return "is" if len(hosts) == 1 else "are"


def _have(hosts: Collection[Host]) -> str:
    return "has" if len(hosts) == 1 else "have"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
