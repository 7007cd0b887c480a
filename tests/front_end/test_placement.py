"""Where the scheduler may place a VM, and why not elsewhere."""

from __future__ import annotations

import pytest
from lxml import etree

from one_provider_mad.front_end.devices import Used
from one_provider_mad.front_end.placement import (
    Wanted,
    attributes_of,
    candidates,
    cluster_of,
    system_datastores,
    unranked,
    with_monitoring,
)
from one_provider_mad.template_text.strict_reader import read_template

CLUSTERS = etree.fromstring(
    "<CLUSTER_POOL><CLUSTER><ID>0</ID><TEMPLATE><PRIORITY>0</PRIORITY><ZONE>a</ZONE></TEMPLATE></CLUSTER></CLUSTER_POOL>"
)
CLOUD = "<HYPERVISOR>ec2</HYPERVISOR><PUBLIC_CLOUD>YES</PUBLIC_CLOUD><PRIORITY>-1</PRIORITY>"


def host(attributes: str, *, cluster: int = 0, state: int = 2, pci: str = "", used: int = 0) -> etree._Element:
    return etree.fromstring(
        f"<HOST_POOL><HOST><ID>4</ID><NAME>h</NAME><STATE>{state}</STATE><VM_MAD>d</VM_MAD><CLUSTER_ID>{cluster}"
        f"</CLUSTER_ID><CLUSTER>c</CLUSTER><TEMPLATE>{attributes}</TEMPLATE><HOST_SHARE><MAX_CPU>400</MAX_CPU><CPU_USAGE>0"
        f"</CPU_USAGE><MAX_MEM>1048576</MAX_MEM><MEM_USAGE>{used}</MEM_USAGE><FREE_CPU>300</FREE_CPU>{pci}</HOST_SHARE>"
        "<MONITORING><CAPACITY><FREE_MEMORY>77</FREE_MEMORY></CAPACITY></MONITORING></HOST></HOST_POOL>"
    )


def obstacle(pool: etree._Element, text: str, *used: Used, release: tuple[int, ...] = (7, 4, 0)) -> str:
    wanted = Wanted(template=read_template(f"CPU = 1\nMEMORY = 128\n{text}"), used=used, release=release)
    (found,) = candidates(pool, CLUSTERS, wanted)
    return found.obstacle


@pytest.mark.parametrize(
    ("pool", "text", "release", "expected"),
    [
        pytest.param(host(""), "", (7, 4), "", id="fits"),
        pytest.param(host("", state=3), "", (7, 4), "it is in ERROR", id="in-error"),
        pytest.param(host("", state=0), "", (7, 4), "it is not monitored yet", id="new"),
        pytest.param(host(CLOUD), "", (6, 10), "no PUBLIC_CLOUD section with TYPE=ec2", id="no-section"),
        pytest.param(host(CLOUD), "PUBLIC_CLOUD = [ TYPE = ec2 ]", (6, 10), "", id="with-a-section"),
        pytest.param(host(CLOUD), "", (7, 4), "", id="7.x-knows-no-public-clouds"),
        pytest.param(
            host(CLOUD), "TOPOLOGY = [ PIN_POLICY = CORE ]", (7, 4), "only VMs with pinned CPUs", id="pinned-elsewhere"
        ),
        pytest.param(host("<PIN_POLICY>PINNED</PIN_POLICY>"), "", (7, 4), "only VMs with pinned", id="pinned-host"),
        pytest.param(
            host("<KVM_CPU_FEATURES>sse,avx</KVM_CPU_FEATURES>"),
            "CPU_MODEL = [ FEATURES = avx2 ]",
            (7, 4),
            "its KVM_CPU_FEATURES lack avx2",
            id="features",
        ),
        pytest.param(
            host(""), "SCHED_REQUIREMENTS = 'NAME = g'".replace("'", '"'), (7, 4), "NAME = g", id="requirements"
        ),
        pytest.param(host(""), 'SCHED_REQUIREMENTS = "ZONE = a & FREE_CPU > 200"', (7, 4), "", id="of-its-cluster"),
        pytest.param(host("", used=1000000), "", (7, 4), "it has 47 MB free, and the VM takes 128", id="memory"),
        pytest.param(host(""), "PCI = [ CLASS = 0300 ]", (7, 4), "it has no PCI devices", id="no-gpu"),
        pytest.param(
            host("", pci="<PCI_DEVICES><PCI/></PCI_DEVICES>"), "PCI = [ CLASS = 0300 ]", (7, 4), "", id="with-a-gpu"
        ),
    ],
)
def test_a_host_is_passed_over_for_a_reason(
    pool: etree._Element, text: str, release: tuple[int, ...], expected: str
) -> None:
    found = obstacle(pool, text, release=release)
    assert expected in found
    assert bool(expected) is bool(found)


def test_what_a_vm_uses_must_be_in_the_hosts_cluster_but_for_a_cloud_up_to_6_10() -> None:
    used = Used(what="datastore d of disk 0", clusters=frozenset({"5"}))
    text = "PUBLIC_CLOUD = [ TYPE = ec2 ]"
    assert "its cluster c lacks datastore d of disk 0" in obstacle(host(CLOUD), text, used)
    assert not obstacle(host(CLOUD), text, used, release=(6, 10, 0))
    assert "its cluster c lacks datastore d" in obstacle(host(""), text, used, release=(6, 10, 0))
    assert not obstacle(host("", cluster=5), text, used)


def test_a_hosts_own_attributes_come_before_those_of_its_cluster() -> None:
    own = next(host(CLOUD).iterchildren())
    search = attributes_of(own, cluster_of(own, CLUSTERS))
    assert [search(name) for name in ("PRIORITY", "ZONE", "FREE_MEMORY", "NAME", "no such, name")] == [
        ["-1"],
        ["a"],
        ["77"],
        ["h"],
        [],
    ]
    assert attributes_of(own, None, are_lasting=True)("FREE_CPU") == []


def test_attributes_that_no_host_has_are_told_for_a_rank() -> None:
    assert unranked(host(""), CLUSTERS, "PRIORITY * 10 + SPEED") == {"SPEED": ["h"]}


def test_system_datastores_are_those_that_are_ready_in_a_shared_cluster_and_meet_requirements() -> None:
    store = (
        "<DATASTORE><ID>{}</ID><NAME>{}</NAME><TYPE>{}</TYPE><STATE>{}</STATE><CLUSTERS><ID>{}</ID></CLUSTERS>"
        "<TEMPLATE><TM_MAD>ssh</TM_MAD></TEMPLATE></DATASTORE>"
    )
    rows = [(0, "a", 1, 0, 0), (1, "b", 0, 0, 0), (2, "c", 1, 1, 0), (3, "d", 1, 0, 9), (4, "e", 1, 0, 0)]
    pool = etree.fromstring(f"<DATASTORE_POOL>{''.join(store.format(*row) for row in rows)}</DATASTORE_POOL>")
    text = 'SCHED_DS_REQUIREMENTS = "TM_MAD = ssh & NAME != e"'
    used = [Used(what="", clusters=frozenset({"0"}))]
    assert system_datastores(pool, Wanted(template=read_template(text), used=used, release=(7, 4))) == ["0"]
    assert system_datastores(pool, Wanted(template=read_template(text), used=[], release=(7, 4))) == ["0", "3"]


def test_a_host_has_what_was_monitored_last() -> None:
    record = "<MONITORING><ID>4</ID><CAPACITY><FREE_MEMORY>5</FREE_MEMORY></CAPACITY></MONITORING>"
    other = "<MONITORING><ID>9</ID><CAPACITY><FREE_MEMORY>6</FREE_MEMORY></CAPACITY></MONITORING>"
    pool = with_monitoring(host(""), etree.fromstring(f"<MONITORING_DATA>{record}{other}</MONITORING_DATA>"))
    assert attributes_of(next(pool.iterchildren()), None)("FREE_MEMORY") == ["5"]
