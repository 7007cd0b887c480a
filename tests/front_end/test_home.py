"""How many VMs have room at home, why they would start in the cloud nevertheless, and when nothing is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.front_end.home import FAULT_SECONDS, NEW_SECONDS, Home, VmSize, home_of, room_on, usual_size
from one_provider_mad.front_end.pools import Datastore, FrontEnd, Host
from tests.front_end.pool_documents import GIB, cloud, front_end, host, images, local, system

EIGHT = "home has room for 8 VMs and takes none: "
FULL = host(taken_cpu=800, taken_memory=8 * GIB, vms=8)


def home(*parts: Host | Datastore) -> Home:
    return home_of(front_end(*parts), vm_mads={"ec2"})


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param(
            (host(),),
            "cluster default has no system datastore: onecluster adddatastore default DATASTORE adds one",
            id="no-system-datastore",
        ),
        pytest.param(
            (host(), system(clusters=frozenset({100}))),
            "cluster default has no system datastore: onecluster adddatastore default DATASTORE adds one",
            id="in-another-cluster",
        ),
        pytest.param(
            (host(), system(is_enabled=False)),
            "system datastore 0 (system) is disabled: onedatastore enable 0",
            id="disabled",
        ),
        pytest.param(
            (host(), system(is_monitored=False, free=0)),
            "system datastore 0 (system) is not monitored: oned.log has the reason after Error monitoring datastore 0",
            id="never-monitored",
        ),
        pytest.param(
            (host(), system(free=1023)),
            "system datastore 0 (system) has less than 1 GiB free: free some, or enlarge it",
            id="full",
        ),
        pytest.param(
            (host(), system(free=0, limit=5000)),
            "system datastore 0 (system) has less than 1 GiB free: free some, or raise its LIMIT_MB",
            id="limit-reached",
        ),
        pytest.param(
            (host(free_disk=0), local()),
            "host home1 has less than 1 GiB free for system datastore 0 (system): free some of their disk, or see why"
            " their monitoring does not report it",
            id="local-full",
        ),
        pytest.param(
            (host(free_disks={0: 5}), local()),
            "host home1 has less than 1 GiB free for system datastore 0 (system): free some of their disk, or see why"
            " their monitoring does not report it",
            id="local-full-in-its-own-folder",
        ),
        pytest.param(
            (host(), system(), images(tm_mad="qcow2")),
            "image datastore 1 (default) with TM_MAD=qcow2 does not support TM_MAD=shared of system datastore 0"
            " (system): a system datastore with the same TM_MAD, or shared in TM_MAD_SYSTEM, with its targets",
            id="images-of-another-mode",
        ),
        pytest.param((host(state=3), system()), "host home1 is in ERROR: onehost show home1 says why", id="error"),
        pytest.param((host(state=4), system()), "host home1 is DISABLED: onehost enable home1", id="all-disabled"),
        pytest.param(
            (FULL, host("home2", state=3, cpu=900, memory=99 * GIB, taken_cpu=100), system()),
            "host home2 is in ERROR: onehost show home2 says why",
            id="one-full-one-in-error",
        ),
    ],
)
def test_each_fault_is_named_with_its_remedy(parts: tuple[Host | Datastore, ...], expected: str) -> None:
    found = home(*parts, cloud())
    assert (found.sentence, found.room, found.usable) == (EIGHT + expected, 8, 0)
    assert found.patience == FAULT_SECONDS


def test_hosts_that_are_offline_have_no_room_and_are_named_all_the_same() -> None:
    off = host("home1", state=8, cpu=0, memory=0), host("home2", state=8, cpu=0, memory=0)
    expected = "home takes no VM: hosts home1, home2 are OFFLINE: onehost enable home1"
    assert home(*off, system(), cloud()).sentence == expected


def test_a_new_host_gets_ten_minutes_to_be_monitored() -> None:
    found = home(host(state=0, cpu=0, memory=0), system())
    assert found.sentence == "home takes no VM: host home1 has not been monitored yet: onehost show home1 says why"
    assert found.patience == NEW_SECONDS


def test_many_faults_and_hosts_are_counted() -> None:
    hosts = [host(f"home{number}", free_disk=0) for number in range(1, 6)]
    stores = [system(datastore_id=number, is_enabled=False) for number in range(2, 5)]
    sentence = home(*hosts, local(), *stores).sentence
    assert sentence.startswith(
        "home has room for 40 VMs and takes none: hosts home1, home2, home3 and 2 more have less than 1 GiB free for"
    )
    assert sentence.endswith("onedatastore enable 3; and 1 more")


def test_a_datastore_in_two_clusters_is_named_once() -> None:
    both = system(is_enabled=False, clusters=frozenset({0, 1}))
    assert len(home(host(), host("home2", cluster_id=1), both).faults) == 1


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((), id="nothing-at-all"),
        pytest.param((cloud(), system(is_enabled=False)), id="no-host-at-home"),
        pytest.param((cloud("a"), cloud("b", vm_mad="other"), system(clusters=frozenset())), id="several-clouds"),
        pytest.param((cloud(is_public=False), cloud(is_public=False, state=0)), id="a-cloud-that-is-being-set-up"),
        pytest.param((host(), system()), id="a-home-without-vms"),
        pytest.param((host(), system(), images(tm_mad="qcow2", images=0)), id="an-image-datastore-without-images"),
        pytest.param((host(), system(), images(tm_mad="qcow2"), images(datastore_id=5)), id="one-of-two-modes"),
        pytest.param((host(), system(), images(tm_mad="ceph", targets=frozenset({"SHARED"}))), id="targets"),
        pytest.param((host(), local(), images(tm_mad="ssh")), id="local-datastores-have-no-size"),
        pytest.param((host(free_disk=0, free_disks={0: 9000}), local()), id="local-in-a-folder-of-its-own"),
        pytest.param((host(), system(is_enabled=False), local(datastore_id=4)), id="one-datastore-of-two"),
        pytest.param((FULL, system(is_enabled=False)), id="full-and-disabled"),
        pytest.param((FULL, system()), id="full"),
        pytest.param((FULL, host("home2", state=4), system()), id="full-and-one-host-in-maintenance"),
        pytest.param((FULL, host("home2", state=0, cpu=0, memory=0), system()), id="full-and-one-host-new"),
        pytest.param((host(state=1), system()), id="a-host-that-is-asked-again"),
    ],
)
def test_ordinary_use_is_no_fault(parts: tuple[Host | Datastore, ...]) -> None:
    found = home(*parts)
    assert (found.sentence, found.is_at_fault) == ("", False)


def test_one_host_that_can_be_used_is_enough() -> None:
    found = home(host(), host("home2", free_disk=0), local())
    assert (found.room, found.usable, found.is_at_fault) == (16, 8, False)
    assert len(found.faults) == 1, "check shows what is lost"


def test_the_usual_vm_is_the_median_of_the_hosts() -> None:
    busy = [host(vms=2, taken_cpu=cpu, taken_memory=memory * GIB) for cpu, memory in ((100, 2), (400, 8), (2000, 9))]
    assert usual_size([*busy, host()]) == VmSize(cpu=200, memory=4 * GIB)
    assert usual_size([host(), cloud()]) == VmSize(cpu=100, memory=GIB)
    assert str(usual_size(busy)) == "2 CPU and 4 GiB"


def test_room_is_limited_by_cpu_and_by_memory() -> None:
    assert room_on(host(), VmSize(cpu=100, memory=4 * GIB)) == 4
    assert room_on(host(), VmSize(cpu=300, memory=GIB)) == 2
    assert room_on(host(taken_cpu=900), VmSize()) == 0, "OpenNebula allows to lower a host's capacity under its VMs"
    assert room_on(host(), VmSize(cpu=0, memory=GIB)) == 16


FIGURES = st.integers(min_value=0, max_value=2_000_000)
HOSTS = st.builds(
    host,
    st.sampled_from(["home1", "home2"]),
    state=st.integers(min_value=-1, max_value=9),
    cluster_id=st.sampled_from([-1, 0, 1]),
    is_public=st.booleans(),
    cpu=FIGURES,
    memory=FIGURES,
    taken_cpu=FIGURES,
    taken_memory=FIGURES,
    vms=st.integers(min_value=0, max_value=5),
    free_disk=FIGURES,
)
DATASTORES = st.builds(
    system,
    datastore_id=st.integers(min_value=0, max_value=3),
    kind=st.sampled_from([0, 1, 2]),
    tm_mad=st.sampled_from(["shared", "ssh"]),
    is_enabled=st.booleans(),
    is_shared=st.booleans(),
    is_monitored=st.booleans(),
    clusters=st.sampled_from([None, frozenset(), frozenset({0}), frozenset({0, 1})]),
    free=FIGURES,
    images=st.integers(min_value=0, max_value=1),
)


@given(st.lists(HOSTS, max_size=4), st.lists(DATASTORES, max_size=4))
def test_a_fault_is_reported_exactly_if_room_at_home_is_lost(hosts: list[Host], stores: list[Datastore]) -> None:
    found = home_of(FrontEnd(hosts=tuple(hosts), datastores=tuple(stores)), vm_mads=())
    assert 0 <= found.usable <= found.room
    assert bool(found.sentence) == found.is_at_fault
    if found.usable or not found.hosts:
        assert not found.is_at_fault
    elif found.room:
        assert found.is_at_fault
        assert found.faults, "room that is lost always has a reason"
