"""Choosing OpenNebula's hosts that are monitored without a START_MONITOR."""

from __future__ import annotations

import pytest
from lxml import etree

from one_provider_mad.domain import VmId
from one_provider_mad.monitor.capacity import Allocation
from one_provider_mad.monitor.core_hosts import allocation_of, wanted_hosts
from one_provider_mad.monitor.host import Load
from one_provider_mad.protocol.im_messages import Periods, StartMonitor

KNOWN = StartMonitor(host_id=3, host="old name", im_mad="ours", periods=Periods(state_vm=7), document=b"<M/>")


def host(number: int, *, im_mad: str = "ec2", state: int = 2) -> str:
    return (
        f"<HOST><ID>{number}</ID><NAME>cloud-{number}</NAME><STATE>{state}</STATE><IM_MAD>{im_mad}</IM_MAD>"
        f"<VM_MAD>vmm</VM_MAD><CLUSTER_ID>100</CLUSTER_ID><CLUSTER>clouds</CLUSTER></HOST>"
    )


def wanted(*hosts: str, known: tuple[StartMonitor, ...] = ()) -> tuple[StartMonitor, ...]:
    pool = etree.fromstring(f"<HOST_POOL>{''.join(hosts)}</HOST_POOL>")
    return wanted_hosts(pool, im_mads={"ec2", "ours"}, known=known)


def test_a_host_of_this_driver_is_read_from_the_host_pool_as_start_monitor_describes_it() -> None:
    assert wanted(host(3)) == (
        StartMonitor(host_id=3, host="cloud-3", state=2, im_mad="ec2", vm_mad="vmm", cluster_id=100, cluster="clouds"),
    )


@pytest.mark.parametrize("state", [0, 2, 3, 4])
def test_a_host_that_is_not_offline_is_monitored(state: int) -> None:
    assert [each.host_id for each in wanted(host(3, state=state))] == [3]


def test_an_offline_host_and_one_of_another_driver_are_not_monitored() -> None:
    assert wanted(host(3, state=8), host(4, im_mad="kvm")) == ()


def test_a_monitored_host_keeps_its_periods_and_a_new_host_gets_those_of_a_monitored_host() -> None:
    found = wanted(host(3, im_mad="ours"), host(4), known=(KNOWN,))
    assert [(each.host_id, each.host, each.periods.state_vm, each.document) for each in found] == [
        (3, "cloud-3", 7, b"<M/>"),
        (4, "cloud-4", 7, b"<M/>"),
    ]


def test_the_allocated_cpu_and_memory_of_a_host_are_read_also_beyond_a_tebibyte() -> None:
    """KiB in MEM_USAGE: 1 TiB has ten digits."""
    share = "<HOST_SHARE><CPU_USAGE>12800</CPU_USAGE><MEM_USAGE>1073741824</MEM_USAGE></HOST_SHARE>"
    given = allocation_of(etree.fromstring(f"<HOST>{share}<VMS><ID>7</ID><ID>9</ID></VMS></HOST>"))
    assert given == Allocation(load=Load(cpu=12800, memory=1 << 30), vm_ids=frozenset({VmId(7), VmId(9)}))
