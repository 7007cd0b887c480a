"""Hosts, datastores and clusters of the OpenNebula that the drivers serve, from the answers to three of its calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Protocol

from one_provider_mad.domain import Value, whole_number
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

_TARGETS = ("CLONE_TARGET_", "LN_TARGET_", "DISK_TYPE_")
"""Attributes that an image datastore needs for each transfer driver but its own (Datastore::get_tm_mad_targets)."""


class Pools(Protocol):
    """Asks OpenNebula for pools: LocalCore."""

    def entries(self, method: str, name: str, /) -> Iterator[Element]:
        """Yield the elements of a pool. Raises MadError."""


class Host(Value, frozen=True, kw_only=True):
    """A host, of home or of a cloud.

    Attributes:
        host_id: its number.
        name: its name.
        cluster_id: number of its cluster.
        state: HOST/STATE (include/Host.h, HostState).
        vm_mad: its virtualization driver.
        is_public: a driver reported PUBLIC_CLOUD=YES.
        priority: PRIORITY of its template, None for none.
        cpu: percent that its VMs may take, of HOST_SHARE; 100 is one core.
        memory: KiB that its VMs may take.
        taken_cpu: percent that is allocated to VMs.
        taken_memory: KiB that is allocated to VMs.
        vms: number of its VMs.
        free_disk: MiB that are free in its own datastores.
        free_disks: MiB that are free in single datastores, by number, where the host reports that.
    """

    host_id: int
    name: str
    cluster_id: int
    state: int
    vm_mad: str = ""
    is_public: bool = False
    priority: float | None = None
    cpu: int = 0
    memory: int = 0
    taken_cpu: int = 0
    taken_memory: int = 0
    vms: int = 0
    free_disk: int = 0
    free_disks: Mapping[int, int] = {}

    def free_in(self, datastore_id: int) -> int:
        """Return the MiB that are free in a datastore on the host's own disks, as schedulers count (HostXML.h)."""
        return self.free_disks.get(datastore_id, self.free_disk)


class Datastore(Value, frozen=True, kw_only=True):
    """A datastore.

    Attributes:
        datastore_id: its number.
        name: its name.
        kind: DATASTORE/TYPE (include/Datastore.h, DatastoreType): 0 images, 1 system.
        tm_mad: its transfer driver.
        is_enabled: False after `onedatastore disable`.
        clusters: numbers of its clusters; None up to 4.14, where any may be meant.
        is_shared: False for one on the hosts' own disks; schedulers count one without SHARED as shared.
        is_monitored: its monitor script has reported a size.
        free: MiB that are free in it, of its LIMIT_MB if it has one.
        limit: LIMIT_MB, None for none.
        targets: transfer drivers, in capitals, for which it has all attributes.
        images: number of its images.
    """

    datastore_id: int
    name: str
    kind: int
    tm_mad: str = ""
    is_enabled: bool = True
    clusters: frozenset[int] | None = frozenset()
    is_shared: bool = True
    is_monitored: bool = True
    free: int = 0
    limit: int | None = None
    targets: frozenset[str] = frozenset()
    images: int = 0

    def is_in(self, cluster_id: int) -> bool:
        """True if hosts of a cluster may use it."""
        return self.clusters is None or cluster_id in self.clusters

    def supports(self, tm_mad: str) -> bool:
        """True if images of this datastore can be used in a system datastore with a transfer driver."""
        return tm_mad.upper() == self.tm_mad.upper() or tm_mad.upper() in self.targets


class Cluster(Value, frozen=True, kw_only=True):
    """A cluster.

    Attributes:
        cluster_id: its number.
        name: its name.
        priority: PRIORITY of its template, which counts for hosts without one; None for none.
    """

    cluster_id: int
    name: str
    priority: float | None = None


class FrontEnd(Value, frozen=True, kw_only=True):
    """What OpenNebula's scheduler places VMs on.

    Attributes:
        hosts: all hosts.
        datastores: all datastores.
        clusters: clusters by number.
    """

    hosts: tuple[Host, ...] = ()
    datastores: tuple[Datastore, ...] = ()
    clusters: Mapping[int, Cluster] = {}

    def priority(self, host: Host) -> float:
        """Return the PRIORITY by which a host is ranked: its own, else its cluster's, else 0."""
        cluster = self.clusters.get(host.cluster_id)
        inherited = cluster.priority if cluster is not None else None
        return next((each for each in (host.priority, inherited) if each is not None), 0.0)

    def cluster_name(self, cluster_id: int) -> str:
        """Return a cluster's name, or its number if OpenNebula does not name it."""
        cluster = self.clusters.get(cluster_id)
        return cluster.name if cluster is not None else str(cluster_id)

    def datastores_in(self, cluster_id: int, kind: int) -> list[Datastore]:
        """Return a cluster's datastores of one kind."""
        return [each for each in self.datastores if each.kind == kind and each.is_in(cluster_id)]


def read_front_end(core: Pools) -> FrontEnd:
    """Ask OpenNebula for its hosts, datastores and clusters, and for no VM. Blocks.

    Raises:
        MadError: OpenNebula did not answer.
    """
    clusters = map(read_cluster, core.entries("one.clusterpool.info", "CLUSTER"))
    return FrontEnd(
        hosts=tuple(map(read_host, core.entries("one.hostpool.info", "HOST"))),
        datastores=tuple(map(read_datastore, core.entries("one.datastorepool.info", "DATASTORE"))),
        clusters={each.cluster_id: each for each in clusters},
    )


def read_host(element: Element) -> Host:
    """Return a host of the answer to one.hostpool.info."""
    share = element_at(element, "HOST_SHARE")
    taken = share if share is not None else element
    return Host(
        host_id=_number(element, "ID", -1),
        name=_text(element, "NAME"),
        cluster_id=_number(element, "CLUSTER_ID", -1),
        state=_number(element, "STATE", -1),
        vm_mad=_text(element, "VM_MAD"),
        is_public=_text(element, "TEMPLATE/PUBLIC_CLOUD").upper() == "YES",
        priority=_float(element, "TEMPLATE/PRIORITY"),
        cpu=_number(taken, "MAX_CPU"),
        memory=_number(taken, "MAX_MEM"),
        taken_cpu=_number(taken, "CPU_USAGE"),
        taken_memory=_number(taken, "MEM_USAGE"),
        vms=sum(1 for _ in elements_at(element, "VMS/ID")),
        # Up to 5.10 in HOST_SHARE itself.
        free_disk=_number(taken, "DATASTORES/FREE_DISK", _number(taken, "FREE_DISK")),
        free_disks={_number(each, "ID", -1): _number(each, "FREE_MB") for each in elements_at(taken, "DATASTORES/DS")},
    )


def read_datastore(element: Element) -> Datastore:
    """Return a datastore of the answer to one.datastorepool.info."""
    total, used, free = (_number(element, name) for name in ("TOTAL_MB", "USED_MB", "FREE_MB"))
    limit = whole_number(_text(element, "TEMPLATE/LIMIT_MB"))
    return Datastore(
        datastore_id=_number(element, "ID", -1),
        name=_text(element, "NAME"),
        kind=_number(element, "TYPE", -1),
        tm_mad=_text(element, "TM_MAD"),
        is_enabled=_text(element, "STATE") in ("", "0"),
        clusters=_clusters_of(element),
        is_shared=(_text(element, "TEMPLATE/SHARED") or "YES").upper() == "YES",
        is_monitored=any((total, used, free)),
        free=free if limit is None else max(0, min(free, limit - used)),
        limit=limit,
        targets=_targets(element),
        images=sum(1 for _ in elements_at(element, "IMAGES/ID")),
    )


def _clusters_of(element: Element) -> frozenset[int] | None:
    if element_at(element, "CLUSTERS") is None:
        return None
    return frozenset(_numbers(elements_at(element, "CLUSTERS/ID")))


def _targets(element: Element) -> frozenset[str]:
    names = [str(each.tag) for each in elements_at(element, "TEMPLATE/*") if text_of(each).strip()]
    found = ({name.removeprefix(target) for name in names if name.startswith(target)} for target in _TARGETS)
    return frozenset.intersection(*map(frozenset, found))


def read_cluster(element: Element) -> Cluster:
    """Return a cluster of the answer to one.clusterpool.info."""
    return Cluster(
        cluster_id=_number(element, "ID", -1),
        name=_text(element, "NAME"),
        priority=_float(element, "TEMPLATE/PRIORITY"),
    )


def _text(element: Element, path: str) -> str:
    return text_of(element_at(element, path)).strip()


def _number(element: Element, path: str, otherwise: int = 0) -> int:
    found = whole_number(_text(element, path))
    return otherwise if found is None else found


def _numbers(elements: Iterable[Element]) -> list[int]:
    found = (whole_number(text_of(each).strip()) for each in elements)
    return [each for each in found if each is not None]


def _float(element: Element, path: str) -> float | None:
    with suppress(ValueError):
        return float(_text(element, path))
    return None
