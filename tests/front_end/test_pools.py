"""Hosts, datastores and clusters in OpenNebula's answers, as 5.10.5, 6.10.0 and 7.4.0 give them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from one_provider_mad.front_end.pools import (
    Cluster,
    Datastore,
    FrontEnd,
    Host,
    read_cluster,
    read_datastore,
    read_front_end,
    read_host,
)
from tests.front_end.pool_documents import FakeCore, host

HOME = "<NAME>home1</NAME><STATE>2</STATE><IM_MAD>dummy</IM_MAD><VM_MAD>dummy</VM_MAD><CLUSTER_ID>0</CLUSTER_ID>"
USED = "<MEM_USAGE>2097152</MEM_USAGE><CPU_USAGE>150</CPU_USAGE><MAX_MEM>16777216</MAX_MEM><MAX_CPU>800</MAX_CPU>"
VMS = "<VMS><ID>7</ID><ID>9</ID></VMS>"
DISKS = "<DATASTORES><FREE_DISK>20480</FREE_DISK><DS><ID>104</ID><FREE_MB>5</FREE_MB></DS></DATASTORES>"


@pytest.mark.parametrize(
    ("share", "free"),
    [
        pytest.param(f"{USED}<FREE_DISK>20480</FREE_DISK><DATASTORES/>", {0: 20480, 104: 20480}, id="5.10.5"),
        pytest.param(f"{USED}{DISKS}", {0: 20480, 104: 5}, id="6.10.0-and-7.4.0"),
        pytest.param(USED, {0: 0, 104: 0}, id="without-disks"),
    ],
)
def test_a_host_is_read_from_the_pool_of_each_release(share: str, free: dict[int, int]) -> None:
    found = read_host(etree.fromstring(f"<HOST><ID>0</ID>{HOME}<HOST_SHARE>{share}</HOST_SHARE>{VMS}</HOST>"))
    assert (found.name, found.cluster_id, found.state, found.vm_mad, found.vms) == ("home1", 0, 2, "dummy", 2)
    assert (found.cpu, found.memory, found.taken_cpu, found.taken_memory) == (800, 16777216, 150, 2097152)
    assert {number: found.free_in(number) for number in free} == free


def test_a_host_tells_that_it_is_a_cloud_and_its_priority() -> None:
    texts = ("<PUBLIC_CLOUD>YES</PUBLIC_CLOUD><PRIORITY>-1</PRIORITY>", "<PRIORITY>x</PRIORITY>")
    found = [read_host(etree.fromstring(f"<HOST><TEMPLATE>{text}</TEMPLATE></HOST>")) for text in texts]
    assert [(each.is_public, each.priority) for each in found] == [(True, -1.0), (False, None)]


SIZES = "<TOTAL_MB>{}</TOTAL_MB><FREE_MB>{}</FREE_MB><USED_MB>{}</USED_MB>"


@pytest.mark.parametrize(
    ("inside", "is_monitored", "is_shared", "free"),
    [
        pytest.param(SIZES.format(0, 0, 0) + "<TEMPLATE/>", False, True, 0, id="never-monitored"),
        pytest.param(SIZES.format(0, 0, 0) + "<TEMPLATE><SHARED>NO</SHARED></TEMPLATE>", False, False, 0, id="local"),
        pytest.param(SIZES.format(9000, 0, 9000) + "<TEMPLATE/>", True, True, 0, id="full"),
        pytest.param(
            SIZES.format(9000, 5000, 4000) + "<TEMPLATE><LIMIT_MB>4100</LIMIT_MB></TEMPLATE>",
            True,
            True,
            100,
            id="limited",
        ),
        pytest.param(
            SIZES.format(9000, 50, 8950) + "<TEMPLATE><LIMIT_MB>99999</LIMIT_MB></TEMPLATE>",
            True,
            True,
            50,
            id="limited-beyond-its-size",
        ),
        pytest.param(
            SIZES.format(9000, 5000, 4000) + "<TEMPLATE><LIMIT_MB>10</LIMIT_MB></TEMPLATE>",
            True,
            True,
            0,
            id="over-its-limit",
        ),
    ],
)
def test_a_datastores_room_is_what_schedulers_count(
    *, inside: str, is_monitored: bool, is_shared: bool, free: int
) -> None:
    found = read_datastore(etree.fromstring(f"<DATASTORE>{inside}</DATASTORE>"))
    assert (found.is_monitored, found.is_shared, found.free) == (is_monitored, is_shared, free)


def test_an_image_datastore_supports_its_own_mode_and_those_with_all_targets() -> None:
    targets = "".join(f"<{name}>SYSTEM</{name}>" for name in ("CLONE_TARGET_SSH", "LN_TARGET_SSH", "LN_TARGET_LOCAL"))
    template = f"<TEMPLATE>{targets}<DISK_TYPE_SSH>FILE</DISK_TYPE_SSH><DISK_TYPE_LOCAL></DISK_TYPE_LOCAL></TEMPLATE>"
    found = read_datastore(
        etree.fromstring(f"<DATASTORE><TM_MAD>qcow2</TM_MAD><IMAGES><ID>3</ID></IMAGES>{template}</DATASTORE>")
    )
    assert [mode for mode in ("qcow2", "ssh", "local", "shared") if found.supports(mode)] == ["qcow2", "ssh"]
    assert found.images == 1


def test_a_datastore_up_to_4_14_may_be_in_any_cluster() -> None:
    found = read_datastore(etree.fromstring("<DATASTORE/>"))
    none = read_datastore(etree.fromstring("<DATASTORE><CLUSTERS/></DATASTORE>"))
    assert (found.is_in(5), none.is_in(5)) == (True, False)


def test_a_host_without_priority_has_that_of_its_cluster() -> None:
    texts = (
        "<ID>0</ID><NAME>default</NAME><TEMPLATE><PRIORITY>5</PRIORITY></TEMPLATE>",
        "<ID>1</ID><NAME>other</NAME>",
    )
    clusters = tuple(read_cluster(etree.fromstring(f"<CLUSTER>{text}</CLUSTER>")) for text in texts)
    assert clusters == (
        Cluster(cluster_id=0, name="default", priority=5.0),
        Cluster(cluster_id=1, name="other"),
    )
    found = FrontEnd(clusters={each.cluster_id: each for each in clusters})
    hosts = (host(), host(priority=-2.0), host(cluster_id=1), host(cluster_id=9))
    assert [found.priority(each) for each in hosts] == [5.0, -2.0, 0.0, 0.0]


def test_the_front_end_is_asked_for_three_pools_and_no_vm() -> None:
    core = FakeCore(
        host="<HOST><ID>4</ID></HOST>",
        datastore="<DATASTORE><ID>5</ID><TYPE>1</TYPE></DATASTORE>",
        cluster="<CLUSTER><ID>6</ID><NAME>c</NAME></CLUSTER>",
    )
    found = read_front_end(core)
    assert [each.host_id for each in found.hosts] == [4]
    assert [each.datastore_id for each in found.datastores] == [5]
    assert found.cluster_name(6) == "c"
    assert found.cluster_name(7) == "7"


NAMES = st.sampled_from(
    ["ID", "STATE", "TYPE", "HOST_SHARE", "MAX_CPU", "DATASTORES", "DS", "FREE_MB", "TEMPLATE", "PRIORITY", "CLUSTERS"]
)


def _written(name: str, inside: str) -> str:
    return f"<{name}>{inside}</{name}>"


TREES = st.recursive(
    st.builds(_written, NAMES, st.text(alphabet="0123456789-.eEnaif ", max_size=30)),
    lambda inner: st.builds(_written, NAMES, st.lists(inner, max_size=4).map("".join)),
    max_leaves=12,
)


@given(st.lists(TREES, max_size=4).map("".join))
def test_no_pool_is_too_odd_to_be_read(inside: str) -> None:
    assert isinstance(read_host(etree.fromstring(f"<HOST>{inside}</HOST>")), Host)
    assert isinstance(read_datastore(etree.fromstring(f"<DATASTORE>{inside}</DATASTORE>")), Datastore)
    assert isinstance(read_cluster(etree.fromstring(f"<CLUSTER>{inside}</CLUSTER>")), Cluster)
