"""Says on which hosts OpenNebula's scheduler may place a VM now, and why not on others. Pure.

Source: OpenNebula src/vm/VirtualMachine.cc (automatic_requirements), up to 6.10 src/scheduler/src/sched/Scheduler.cc
(match_host), in 7.x src/schedm/SchedulerManagerDriver.cc (match_hosts, match_system_ds). Permissions are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from one_provider_mad.domain import Template, Value
from one_provider_mad.front_end.arithmetic import Search, names_in, rank_of
from one_provider_mad.front_end.devices import Used
from one_provider_mad.front_end.expressions import is_met, read_requirements
from one_provider_mad.safe_xml import Element, elements_at, text_of

PLANS = (7, 0)
"""First release without public clouds, in which oned matches hosts and `place` chooses among them."""

MONITORED = (5, 12)
"""First release whose host pool comes without what was monitored last; before, it is in HOST_SHARE."""

RANKS_MISSING = (5, 12, 0, 2)
"""First release in which an attribute that a host lacks counts as 0 in a rank. Before, it is whatever number was in
memory (src/parsers/expr_arith.y; seen on 5.10.5: the first VMs went to the cloud)."""

_HOST_PARTS = ("TEMPLATE", "HOST_SHARE", "HOST_SHARE/DATASTORES", "MONITORING/CAPACITY", "MONITORING/SYSTEM", "")
"""Where a host's attributes are (src/host/Host.cc, host_paths); those of its cluster come last."""

_LASTING_PARTS = ("TEMPLATE", "")
"""Those that do not change from one monitoring to the next."""

_ENABLED = frozenset({"1", "2"})
"""STATE of hosts that are monitored (include/Host.h)."""

_STATES = {"3": "is in ERROR", "4": "is disabled", "5": "is in ERROR", "7": "is disabled", "8": "is offline"}

_SYSTEM_DS, _DS_READY = "1", "0"
"""TYPE and STATE of a datastore (include/Datastore.h)."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_/]*")


class Wanted(Value, frozen=True, kw_only=True):
    """What a VM asks of a host.

    Attributes:
        template: the VM's, its DISKs and NICs completed.
        used: its datastores and networks.
        release: OpenNebula's.
        policy: the scheduler's own rank, for VMs without one.
    """

    template: Template
    used: Sequence[Used]
    release: tuple[int, ...]
    policy: str = ""


class Candidate(Value, frozen=True, kw_only=True):
    """A host, as the scheduler sees it for a VM.

    Attributes:
        host_id: its number.
        name: its name.
        vm_mad: NAME of its virtualization driver.
        obstacle: why no VM of the template is placed there now, a sentence's end; "" if it may be.
        rank: the scheduler takes the host with the highest.
    """

    host_id: str
    name: str
    vm_mad: str
    obstacle: str = ""
    rank: int = 0


def candidates(hosts: Element, clusters: Element, wanted: Wanted) -> Iterator[Candidate]:
    """Yield every host of the pool. Raises ExpressionError if OpenNebula cannot read the VM's requirements or rank."""
    rank = wanted.template.text("SCHED_RANK") or wanted.template.text("RANK") or wanted.policy
    for host in elements_at(hosts, "HOST"):
        cluster = cluster_of(host, clusters)
        yield Candidate(
            host_id=text_of(host.find("ID")),
            name=text_of(host.find("NAME")),
            vm_mad=text_of(host.find("VM_MAD")),
            obstacle=_obstacle(host, cluster, wanted),
            rank=rank_of(rank, attributes_of(host, cluster)),
        )


def attributes_of(host: Element, cluster: Element | None, *, are_lasting: bool = False) -> Search:
    """Return how a requirement finds a host's attributes; `are_lasting`: only those that do not change with time."""
    parts = _LASTING_PARTS if are_lasting else _HOST_PARTS

    def search(name: str) -> list[str]:
        if not _NAME.fullmatch(name):
            return []
        found = [text_of(each) for part in parts for each in elements_at(host, f"{part}/{name}".lstrip("/"))]
        return found or (
            [text_of(each) for each in elements_at(cluster, f"TEMPLATE/{name}")] if cluster is not None else []
        )

    return search


def with_monitoring(hosts: Element, monitoring: Element) -> Element:
    """Return the host pool with what was monitored of each host last, as the scheduler has it.

    Args:
        hosts: the answer to one.hostpool.info; it is changed.
        monitoring: the answer to one.hostpool.monitoring, one record for each host.
    """
    latest = {text_of(each.find("ID")): each for each in elements_at(monitoring, "MONITORING")}
    for host in elements_at(hosts, "HOST"):
        record = latest.get(text_of(host.find("ID")))
        if record is not None:
            for empty in list(elements_at(host, "MONITORING")):
                host.remove(empty)
            host.append(record)
    return hosts


def unranked(hosts: Element, clusters: Element, rank: str) -> Mapping[str, Sequence[str]]:
    """Return, for each attribute that a rank names, the names of the hosts that lack it; no entry where none does."""
    found = {
        name: [
            text_of(host.find("NAME"))
            for host in elements_at(hosts, "HOST")
            if not attributes_of(host, cluster_of(host, clusters))(name)
        ]
        for name in sorted(names_in(rank))
    }
    return {name: lacking for name, lacking in found.items() if lacking}


def cluster_of(host: Element, clusters: Element) -> Element | None:
    """Return a host's cluster."""
    number = text_of(host.find("CLUSTER_ID"))
    return next((each for each in elements_at(clusters, "CLUSTER") if text_of(each.find("ID")) == number), None)


def _obstacle(host: Element, cluster: Element | None, wanted: Wanted) -> str:
    state = text_of(host.find("STATE"))
    if state not in _ENABLED:
        return f"it {_STATES.get(state, 'is not monitored yet')}"
    search = attributes_of(host, cluster)
    return (
        _of_clusters(host, search, wanted)
        or _of_automatic(search, wanted)
        or _of_requirements(search, wanted.template)
        or _of_room(host, wanted.template)
    )


def _is_cloud(search: Search) -> bool:
    return "YES" in search("PUBLIC_CLOUD")


def _of_clusters(host: Element, search: Search, wanted: Wanted) -> str:
    """Return what is missing in a host's cluster; up to 6.10 that does not matter for a cloud's host."""
    number, name = text_of(host.find("CLUSTER_ID")), text_of(host.find("CLUSTER"))
    if wanted.release < PLANS and _is_cloud(search):
        return ""
    missing = [each.what for each in wanted.used if number not in each.clusters]
    if not missing:
        return ""
    return (
        f"its cluster {name or number} lacks {', '.join(missing)}: add it there with onecluster adddatastore or addvnet"
        " before the VM is created"
    )


def _of_automatic(search: Search, wanted: Wanted) -> str:
    """Return which of the requirements that the core adds to a VM's is not met."""
    if wanted.release < PLANS and _is_cloud(search):
        own = search("HYPERVISOR")
        types = {each.get("TYPE", "").strip() for each in wanted.template.vectors("PUBLIC_CLOUD")}
        if not types & set(own):
            return f"the template has no PUBLIC_CLOUD section with TYPE={''.join(own[:1])}"
    elif _is_pinned(wanted.template) is not ("PINNED" in search("PIN_POLICY")):
        return "only VMs with pinned CPUs are placed on hosts with PIN_POLICY = PINNED, and they on no others"
    for model in wanted.template.vectors("CPU_MODEL"):
        for feature in filter(None, model.get("FEATURES", "").split(",")):
            if not is_met(read_requirements(f'KVM_CPU_FEATURES = "*{feature}*"'), search):
                return f"its KVM_CPU_FEATURES lack {feature}, which CPU_MODEL asks for"
    return ""


def _is_pinned(template: Template) -> bool:
    policies = {each.get("PIN_POLICY", "").upper() for each in template.vectors("TOPOLOGY")}
    return bool(policies - {"", "NONE"})


def _of_requirements(search: Search, template: Template) -> str:
    text = template.text("SCHED_REQUIREMENTS") or template.text("REQUIREMENTS")
    return "" if is_met(read_requirements(text), search) else f"it does not meet SCHED_REQUIREMENTS: {text}"


def _of_room(host: Element, template: Template) -> str:
    """Return what a host lacks: CPU in hundredths of a core, memory in KiB."""
    share = {name: _number(text_of(host.find(f"HOST_SHARE/{name}"))) for name in _SHARE}
    cpu, memory = 100 * _number(template.text("CPU")), 1024 * _number(template.text("MEMORY"))
    free_cpu, free_memory = share["MAX_CPU"] - share["CPU_USAGE"], share["MAX_MEM"] - share["MEM_USAGE"]
    if cpu > free_cpu:
        return f"it has {max(free_cpu, 0) / 100:g} CPU free, and the VM takes {cpu / 100:g}"
    if memory > free_memory:
        return f"it has {max(free_memory, 0) // 1024:.0f} MB free, and the VM takes {memory / 1024:.0f}"
    if template.vectors("PCI") and host.find("HOST_SHARE/PCI_DEVICES/PCI") is None:
        return "it has no PCI devices"
    return ""


_SHARE = ("MAX_CPU", "CPU_USAGE", "MAX_MEM", "MEM_USAGE")


def _number(text: str) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


# System datastores, in 7.x


def datastore_attributes(store: Element) -> Search:
    """Return how a requirement finds a datastore's attributes (src/datastore/Datastore.cc)."""
    return lambda name: (
        [text_of(each) for part in ("TEMPLATE/", "") for each in elements_at(store, part + name)]
        if _NAME.fullmatch(name)
        else []
    )


def system_datastores(pool: Element, wanted: Wanted) -> list[str]:
    """Return the numbers of the system datastores in which a VM may be placed. Raises ExpressionError."""
    expression = read_requirements(wanted.template.text("SCHED_DS_REQUIREMENTS"))
    shared = _shared_clusters(wanted.used)
    return [
        text_of(each.find("ID"))
        for each in elements_at(pool, "DATASTORE")
        if text_of(each.find("TYPE")) == _SYSTEM_DS
        and text_of(each.find("STATE")) == _DS_READY
        and (shared is None or shared & {text_of(number) for number in elements_at(each, "CLUSTERS/ID")})
        and is_met(expression, datastore_attributes(each))
    ]


def _shared_clusters(used: Sequence[Used]) -> frozenset[str] | None:
    return frozenset.intersection(*(each.clusters for each in used)) if used else None
