"""Read from OpenNebula's host pool which hosts this driver has to report on (decision 21).

monitord sends START_MONITOR only to a host that was silent for MONITORING_INTERVAL_HOST, and every VM that comes to a
host or leaves it counts as a sign of life (src/monitor/src/data_model/HostBase.cc, init_attributes). So after a
restart, or on a new leader, a busy host is never named to the driver.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from one_provider_mad.domain import VmId, whole_number
from one_provider_mad.monitor.capacity import Allocation
from one_provider_mad.monitor.host import Load
from one_provider_mad.monitor.host_attributes import HostTemplate
from one_provider_mad.protocol.im_messages import StartMonitor
from one_provider_mad.protocol.reports import SENT
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

FIRST_WITH_MONITORD = (5, 12)
"""First release in which monitord asks for reports; before, oned asks for each."""

_OFFLINE = "8"
"""HOST/STATE of a host that is not to be monitored, OFFLINE (include/Host.h, HostState)."""


def wanted_hosts(pool: Element, *, im_mads: Collection[str], known: Iterable[StartMonitor]) -> tuple[StartMonitor, ...]:
    """Return for each host of these information drivers, unless offline, the START_MONITOR that monitord would send.

    Args:
        pool: the answer to one.hostpool.info.
        im_mads: NAMEs of our IM_MADs.
        known: monitord's earlier requests; a new host takes the periods of one of them.
    """
    before = {request.host_id: request for request in known}
    usual = next(iter(before.values()), StartMonitor(host_id=-1))
    found = []
    for host in pool.iterchildren("HOST"):
        if _text(host, "IM_MAD") not in im_mads or _text(host, "STATE") == _OFFLINE:
            continue
        host_id = _number(host, "ID")
        if host_id is not None:
            found.append(
                msgspec.structs.replace(
                    before.get(host_id, usual),
                    host_id=host_id,
                    host=_text(host, "NAME"),
                    state=_number(host, "STATE"),
                    im_mad=_text(host, "IM_MAD"),
                    vm_mad=_text(host, "VM_MAD"),
                    cluster_id=_number(host, "CLUSTER_ID"),
                    cluster=_text(host, "CLUSTER"),
                )
            )
    return tuple(found)


def allocation_of(host: Element) -> Allocation:
    """Return OpenNebula's allocation on a host, from the answer to one.host.info."""
    vm_ids = (whole_number(text_of(each).strip()) for each in elements_at(host, "VMS/ID"))
    return Allocation(
        load=Load(cpu=_number(host, "HOST_SHARE/CPU_USAGE") or 0, memory=_number(host, "HOST_SHARE/MEM_USAGE") or 0),
        vm_ids=frozenset(VmId(vm_id) for vm_id in vm_ids if vm_id is not None),
    )


def template_of(host: Element) -> HostTemplate:
    """Return name and template of a host, from the answer to one.host.info."""
    attributes = list(elements_at(host, "TEMPLATE"))
    return HostTemplate(
        name=_text(host, "NAME"),
        attributes=_texts(each for template in attributes for each in template.iterchildren() if not len(each)),
        sent=_texts(elements_at(host, f"TEMPLATE/{SENT}/*")),
    )


def _texts(elements: Iterable[Element]) -> dict[str, str]:
    return {str(each.tag): text_of(each).strip() for each in elements}


def _text(host: Element, name: str) -> str:
    return text_of(element_at(host, name)).strip()


def _number(host: Element, name: str) -> int | None:
    return whole_number(_text(host, name))
