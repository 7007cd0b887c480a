"""Hosts, and the VMs for which they have room. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from one_provider_mad.domain import Value
from one_provider_mad.safe_xml import Element, elements_at

MONITORED = 2
"""STATE of a host that is enabled and monitored (OpenNebula include/Host.h)."""


class Size(Value, frozen=True, kw_only=True):
    """What a VM asks for.

    Attributes:
        cpu: cores.
        memory: MiB.
    """

    cpu: float
    memory: int


class Host(Value, frozen=True, kw_only=True):
    """A host as OpenNebula shows it.

    Attributes:
        number: its id.
        name: its NAME.
        vm_mad: the driver of its VMs.
        is_cloud: it reports PUBLIC_CLOUD=YES.
        state: STATE.
        cpu: free, in percent of a core.
        memory: free, in KiB.
        total_cpu: of the host, in percent of a core, with what RESERVED_CPU keeps back.
    """

    number: int
    name: str
    vm_mad: str
    is_cloud: bool
    state: int
    cpu: int
    memory: int
    total_cpu: int

    def room_for(self, size: Size) -> int:
        """Return the number of further VMs of a size that fit."""
        if self.state != MONITORED:
            return 0
        by_cpu = self.cpu // round(size.cpu * 100) if size.cpu else self.memory
        return max(0, int(min(by_cpu, self.memory // (size.memory * 1024))))


def hosts_of(pool: Element) -> Iterator[Host]:
    """Yield the hosts of a HOST_POOL."""
    for host in elements_at(pool, "HOST"):
        share = {name: int(float(host.findtext(f"HOST_SHARE/{name}") or 0)) for name in _SHARE}
        yield Host(
            number=int(host.findtext("ID") or -1),
            name=host.findtext("NAME") or "",
            vm_mad=host.findtext("VM_MAD") or "",
            is_cloud=(host.findtext("TEMPLATE/PUBLIC_CLOUD") or "").upper() == "YES",
            state=int(host.findtext("STATE") or -1),
            cpu=share["MAX_CPU"] - share["CPU_USAGE"],
            memory=share["MAX_MEM"] - share["MEM_USAGE"],
            total_cpu=share["TOTAL_CPU"],
        )


_SHARE = ("TOTAL_CPU", "MAX_CPU", "CPU_USAGE", "MAX_MEM", "MEM_USAGE")


def rooms(hosts: Iterable[Host], size: Size) -> Mapping[str, int]:
    """Return for each host by name the number of further VMs that fit."""
    return {host.name: host.room_for(size) for host in hosts}
