"""The capacity of a host, from the cloud's limits, their usage by others, and OpenNebula's allocations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.journal.records import Refusal
from one_provider_mad.journal.writer import Journal
from one_provider_mad.monitor.capacity import Allocation, Limits, SweepResult, capacities_of
from one_provider_mad.monitor.host import Load
from one_provider_mad.monitor.inference import Inference, InferredVm, Memory
from one_provider_mad.monitor.settings import CapacitySettings
from one_provider_mad.monitor.shortages import LIMIT_SECONDS
from one_provider_mad.protocol.reports import VmState, VmWord
from one_provider_mad.providers.interface import Capacity, ImportHints, Size
from tests.actions.fakes import FakeCloud, pass_time
from tests.monitor.builders import instance_of, wild
from tests.monitor.virtual_driver import VirtualDriver

GIB = 1024
SIZES = {"small": Size(cpu=1, memory=GIB), "large": Size(cpu=4, memory=4 * GIB)}
UNLIMITED = Size(cpu=1000, memory=1024 * GIB)


class SizedCloud(FakeCloud):
    """Pretends to be a cloud whose running instances have 2 cores and 2 GiB each."""

    answer: Capacity | Size | None = None

    def instance_sizes(self) -> Mapping[str, Size]:
        return {}

    async def capacity(self) -> Capacity | Size | None:
        await self._travel("capacity", None)
        return self.answer

    def size_of(self, instance: Instance) -> Size | None:
        return Size(cpu=2, memory=2 * GIB) if instance.state is InstanceState.RUNNING else None


def given(*vm_ids: int, cpu: float = 100, memory: int = 1024 * 1024) -> Allocation:
    """OpenNebula's allocations to these VMs, one core and a GiB each unless set otherwise."""
    load = Load(cpu=cpu * len(vm_ids), memory=memory * len(vm_ids))
    return Allocation(load=load, vm_ids=frozenset(map(VmId, vm_ids)))


def shown(*instances: Instance, hosts: Collection[int] = (3,)) -> SweepResult:
    seen: dict[int, list[InferredVm]] = {}
    for each in instances:
        if each.identity is not None:
            state = VmState(vm_id=each.identity.vm_id, deploy_id=each.deploy_id, state=VmWord.RUNNING)
            seen.setdefault(each.identity.host_id, []).append(InferredVm(state=state, instance=each))
    inference = Inference(memory=Memory(), hosts=seen)
    return SweepResult(provider=SizedCloud(), listed=instances, hosts=hosts, inference=inference)


def limits(reported: Capacity | None = None, **known: Any) -> Limits:
    return Limits(settings=CapacitySettings(), reported=reported or Capacity(), **known)


ORPHAN = frozenset({DeployId("i-9")})
TEN = Capacity(cpu=10, memory=10 * GIB)


@pytest.mark.parametrize(
    ("known", "seen", "capacity"),
    [
        pytest.param(limits(), shown(instance_of(7), wild("i-x")), UNLIMITED, id="without-a-limit"),
        pytest.param(
            limits(TEN), shown(instance_of(7)), Size(cpu=10, memory=10 * GIB), id="vms-of-this-host-reduce-nothing"
        ),
        pytest.param(limits(TEN), shown(wild("i-x")), Size(cpu=8, memory=8 * GIB), id="wild-instances-reduce-it"),
        pytest.param(
            limits(TEN),
            shown(instance_of(7, host_id=4)),
            Size(cpu=8, memory=8 * GIB),
            id="vms-of-another-host-reduce-it",
        ),
        pytest.param(
            limits(TEN, orphans=ORPHAN), shown(instance_of(9)), Size(cpu=8, memory=8 * GIB), id="an-orphan-reduces-it"
        ),
        pytest.param(
            limits(TEN),
            shown(wild("i-x", InstanceState.TERMINATED)),
            Size(cpu=10, memory=10 * GIB),
            id="a-terminated-wild-instance-reduces-nothing",
        ),
        pytest.param(
            limits(TEN, elsewhere={3: Size(cpu=3, memory=0)}),
            shown(wild("i-x")),
            Size(cpu=7, memory=10 * GIB),
            id="usage-reported-by-the-cloud",
        ),
        pytest.param(
            Limits(settings=CapacitySettings(cpu=6, memory=6 * GIB), orphans=ORPHAN),
            shown(instance_of(9), wild("i-x")),
            Size(cpu=4, memory=4 * GIB),
            id="configured-capacity-is-reduced-by-orphans-only",
        ),
        pytest.param(
            limits(most=2, allocations={3: given(7)}),
            shown(instance_of(7), instance_of(9)),
            Size(cpu=1, memory=GIB),
            id="full-cloud-has-the-allocated-size",
        ),
        pytest.param(
            limits(most=2),
            shown(instance_of(7), instance_of(9)),
            Size(cpu=0, memory=0),
            id="full-cloud-of-unknown-size",
        ),
        pytest.param(
            limits(most=3, sizes=SIZES, allocations={3: given(7)}),
            shown(instance_of(7), instance_of(9)),
            Size(cpu=5, memory=5 * GIB),
            id="one-more-instance-may-be-of-the-largest-type",
        ),
        pytest.param(
            limits(most_running=3, sizes=SIZES, allocations={3: given(7, 9)}),
            shown(instance_of(7), instance_of(9), instance_of(8, InstanceState.STOPPED)),
            Size(cpu=3, memory=3 * GIB),
            id="one-more-instance-has-the-average-size-of-the-others",
        ),
        pytest.param(
            limits(most_running=0), shown(), Size(cpu=0, memory=0), id="account-without-any-instances-allowed"
        ),
        pytest.param(limits(most=1), shown(), UNLIMITED, id="instance-limit-without-known-sizes"),
    ],
)
def test_capacity_of_a_host_is_the_clouds_limit_less_what_other_instances_use(
    known: Limits, seen: SweepResult, capacity: Size
) -> None:
    assert capacities_of(known, seen) == {3: capacity}


def test_a_host_has_no_capacity_until_it_is_configured_or_the_cloud_has_answered() -> None:
    assert capacities_of(Limits(settings=CapacitySettings(cpu=4)), shown()) == {}
    assert capacities_of(Limits(settings=CapacitySettings(cpu=4, memory=8)), shown()) == {3: Size(cpu=4, memory=8)}


class Core:
    """Pretends to be the local OpenNebula, which returns its allocations."""

    def __init__(self) -> None:
        self.given: Allocation | None = given()
        self.asked = 0

    async def allocations(self, host_ids: Collection[int]) -> Mapping[int, Allocation]:
        self.asked += 1
        if self.given is None:
            raise ProviderUnavailable("OpenNebula is away")
        return dict.fromkeys(host_ids, self.given)


async def seen_on(one: VirtualDriver, seconds: float = 5) -> Size:
    """The capacity of the host some sweeps later."""
    for _ in range(2):
        await pass_time(seconds)
        await one.sweeper.sweep()
    await pass_time(seconds)
    return (await one.sweeper.sweep()).capacities[3]


def driver(path: Path, cloud: FakeCloud, core: Core | None = None) -> VirtualDriver:
    one = VirtualDriver(path, cloud)
    one.sweeper.hosts = frozenset({3})
    if core is not None:
        one.sweeper.set_allocations(core.allocations)
    return one


@pytest.mark.looptime
async def test_an_orphan_that_fills_an_instance_limit_reduces_capacity_and_causes_a_warning(tmp_path: Path) -> None:
    cloud, core = SizedCloud(), Core()
    cloud.answer = Capacity(most=2)
    one = driver(tmp_path, cloud, core)
    one.add(7)
    one.add(8)
    core.given = given(7, 8)
    assert await seen_on(one) == Size(cpu=2, memory=2 * GIB)
    core.given = given(8)  # VM 7 was powered off and terminated: no driver was informed
    assert await seen_on(one) == Size(cpu=1, memory=GIB)
    warning = (await one.sweeper.sweep()).warning
    assert warning == "the cloud is full, and its instance i-7 may be an orphan: see one-provider orphans"
    del cloud.instances[DeployId("i-7")]
    assert (await seen_on(one)).cpu == 2, "one core is allocated, and one more VM of that size fits"


@pytest.mark.looptime
async def test_capacity_stays_the_same_when_an_instance_and_its_vm_end(tmp_path: Path) -> None:
    cloud, core = SizedCloud(), Core()
    cloud.answer = Capacity(most=4)
    one = driver(tmp_path, cloud, core)
    one.add(7)
    one.add(8)
    core.given = given(7, 8)
    assert await seen_on(one) == Size(cpu=4, memory=4 * GIB)
    asked = core.asked
    assert await seen_on(one) == Size(cpu=4, memory=4 * GIB)
    assert core.asked == asked, "no VM has changed"
    del cloud.instances[DeployId("i-7")]
    core.given = given(8)
    assert (await one.sweeper.sweep()).capacities[3] == Size(cpu=4, memory=4 * GIB)
    await pass_time(5)
    assert (await one.sweeper.sweep()).capacities[3] == Size(cpu=4, memory=4 * GIB), (
        "one VM is allocated, and three more fit"
    )


@pytest.mark.looptime
async def test_a_vm_newer_than_opennebulas_last_answer_is_no_orphan(tmp_path: Path) -> None:
    cloud, core = SizedCloud(), Core()
    cloud.answer = TEN
    one = driver(tmp_path, cloud, core)
    core.given = given(7)
    one.add(7)
    assert await seen_on(one) == Size(cpu=10, memory=10 * GIB)
    one.add(8)
    assert await seen_on(one) == Size(cpu=10, memory=10 * GIB)
    assert core.asked == 1


class OddCloud(FakeCloud):
    """Pretends to be a cloud with a defect in import_hints."""

    def instance_sizes(self) -> Mapping[str, Size]:
        return {}

    async def capacity(self) -> Capacity | Size | None:
        return TEN

    def import_hints(self, instance: Instance) -> ImportHints:
        raise ValueError(f"{instance.deploy_id} is odd")


async def test_an_instance_whose_size_cannot_be_read_does_not_prevent_the_sweep(tmp_path: Path) -> None:
    one = driver(tmp_path, OddCloud())
    one.add(7)
    one.cloud.add(None, deploy_id="i-odd")
    sweep = await one.sweeper.sweep()
    assert (sweep.capacities, len(sweep.vms(3))) == ({3: Size(cpu=10, memory=10 * GIB)}, 1)


@pytest.mark.looptime
async def test_usage_of_a_quota_by_others_reduces_capacity_while_the_cloud_reports_it(tmp_path: Path) -> None:
    cloud = SizedCloud()
    cloud.answer = Capacity(cpu=10, memory=10 * GIB, used=Size(cpu=5, memory=5 * GIB), left=1)
    one = driver(tmp_path, cloud)
    one.add(7)
    assert await seen_on(one) == Size(cpu=4, memory=4 * GIB), "its own VM, and one more as large"
    cloud.answer = Capacity(cpu=10, memory=10 * GIB, used=Size(cpu=5, memory=5 * GIB))
    assert await seen_on(one, 30) == Size(cpu=7, memory=7 * GIB), "of 5 cores in use 2 are this host's"


def refusal(at: float, **fields: Any) -> Refusal:
    known = Refusal(at=at, text="EC2: no more", vm_id=VmId(9), is_limit=True, is_general=True)
    return msgspec.structs.replace(known, **fields)


async def noted(journal: Path, refusal: Refusal) -> None:
    """Let the action driver note a refusal."""
    writer = Journal(journal, clock=lambda: refusal.at, on_lost=pytest.fail)
    await writer.open()
    await writer.note_refusal(refusal)
    await writer.close()


async def test_after_a_refusal_by_a_general_limit_capacity_is_read_at_once_and_the_host_is_full(tmp_path: Path) -> None:
    cloud, core = SizedCloud(), Core()
    one = driver(tmp_path, cloud, core)
    one.set(min_list_interval=0)
    one.add(7)
    core.given = given(7, 9)
    await one.sweeper.sweep()
    assert (await one.sweeper.sweep()).capacities == {3: UNLIMITED}
    await noted(tmp_path / "journal", refusal(one.clock()))
    await one.sweeper.sweep()
    sweep = await one.sweeper.sweep()
    assert cloud.count("capacity") == 2
    assert sweep.capacities == {3: Size(cpu=2, memory=2 * GIB)}, "what is allocated, also to the refused VM"
    assert sweep.warning == "no further instance can be made: EC2: no more"
    del cloud.instances[DeployId("i-7")]
    assert (await one.sweeper.sweep()).warning == "", "one more instance fits again"


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"is_general": False}, "VM 9 was refused by a limit: EC2: no more"),
        ({"is_general": False, "is_limit": False}, ""),
    ],
    ids=["special-limit", "no-capacity-at-that-time"],
)
async def test_a_refusal_that_is_not_general_does_not_change_capacity(
    tmp_path: Path, fields: dict[str, bool], warning: str
) -> None:
    cloud = SizedCloud()
    one = driver(tmp_path, cloud)
    one.set(min_list_interval=0)
    await noted(tmp_path / "journal", refusal(one.clock(), **fields))
    await one.sweeper.sweep()
    sweep = await one.sweeper.sweep()
    assert (sweep.capacities, sweep.warning) == ({3: UNLIMITED}, warning)


async def test_a_refusal_older_than_its_time_limit_is_ignored(tmp_path: Path) -> None:
    one = driver(tmp_path, SizedCloud())
    one.set(min_list_interval=0)
    await noted(tmp_path / "journal", refusal(one.clock() - LIMIT_SECONDS))
    await one.sweeper.sweep()
    sweep = await one.sweeper.sweep()
    assert (sweep.capacities, sweep.warning) == ({3: UNLIMITED}, "")


@pytest.mark.looptime
async def test_allocations_are_read_again_after_opennebula_did_not_answer(tmp_path: Path) -> None:
    cloud, core = SizedCloud(), Core()
    cloud.answer, core.given = Capacity(most=1), None
    one = driver(tmp_path, cloud, core)
    one.add(7)
    assert await seen_on(one) == Size(cpu=0, memory=0), "no capacity is reported"
    core.given = given(7)
    assert await seen_on(one) == Size(cpu=1, memory=GIB)
