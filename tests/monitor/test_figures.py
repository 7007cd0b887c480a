"""Usage figures are read beside the sweeps: no listing waits for them, and every report has the latest."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from one_provider_mad.domain import DeployId, Instance, InstanceState, Usage
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.monitor.cloud_source import OpenCloud
from one_provider_mad.monitor.figures import FigureKeeper, with_figures
from one_provider_mad.monitor.host import Load
from one_provider_mad.providers.interface import Figures, Size
from tests.actions.fakes import FakeCloud, pass_time, turns
from tests.monitor.virtual_driver import VirtualDriver

pytestmark = pytest.mark.looptime

PERIOD = 60.0


class MeasuredCloud(FakeCloud):
    """A cloud with figures that its listings lack; a reading of them is answered when `may_answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.figures_period = PERIOD
        self.questions: list[list[DeployId]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    async def figures(self, instances: Collection[Instance]) -> Mapping[DeployId, Figures]:
        self.questions.append([each.deploy_id for each in instances])
        cpu = float(len(self.questions))
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return {
            each.deploy_id: Figures(usage=Usage(cpu=cpu, memory=7), attributes={"EVENT": "soon"}) for each in instances
        }


@pytest.fixture
async def cloud() -> MeasuredCloud:
    return MeasuredCloud()


@pytest.fixture
async def one(tmp_path: Path, cloud: MeasuredCloud) -> VirtualDriver:
    return VirtualDriver(tmp_path, cloud, min_list_interval=1.0)


async def seen(one: VirtualDriver) -> dict[int, tuple[float | None, str]]:
    """CPU percent and event of each VM in the next sweep."""
    sweep = await one.sweeper.sweep()
    await turns()
    found = {vm.state.vm_id: vm.instance for vm in sweep.vms(3) if vm.instance is not None}
    return {
        number: (each.usage.cpu if each.usage else 0.0, each.attributes.get("EVENT", ""))
        for number, each in found.items()
    }


async def test_no_sweep_waits_for_usage_figures_and_later_sweeps_have_them(
    one: VirtualDriver, cloud: MeasuredCloud
) -> None:
    one.add(7)
    cloud.may_answer.clear()
    async with asyncio.timeout(0.5):
        assert await seen(one) == {7: (10.0, "")}  # the listing's own figures
    for _ in range(3):
        await pass_time(2)
        assert await seen(one) == {7: (10.0, "")}
    assert cloud.questions == [["i-7"]]
    cloud.may_answer.set()
    await turns()
    await pass_time(2)
    assert await seen(one) == {7: (1.0, "soon")}


async def test_figures_are_read_once_a_period_and_kept_in_between(one: VirtualDriver, cloud: MeasuredCloud) -> None:
    one.add(7)
    await seen(one)
    for _ in range(29):
        await pass_time(2)
        assert await seen(one) == {7: (1.0, "soon")}
    assert len(cloud.questions) == 1
    await pass_time(3)
    await seen(one)
    assert len(cloud.questions) == 2
    await pass_time(2)
    assert await seen(one) == {7: (2.0, "soon")}


async def test_figures_disappear_with_their_instance_and_a_new_instance_has_none(
    one: VirtualDriver, cloud: MeasuredCloud
) -> None:
    one.add(7)
    one.add(8)
    await seen(one)
    del cloud.instances[DeployId("i-7")]
    one.add(9)
    await pass_time(2)
    found = await seen(one)
    assert (found[8], found[9]) == ((1.0, "soon"), (10.0, ""))
    assert 7 not in found or found[7][1] == ""


@pytest.mark.parametrize("error", [ProviderUnavailable("no answer"), ZeroDivisionError()], ids=["known", "defect"])
async def test_after_a_failed_reading_sweeps_continue_with_the_latest_figures(
    one: VirtualDriver, cloud: MeasuredCloud, error: Exception
) -> None:
    one.add(7)
    await seen(one)
    cloud.error = error
    with capture_logs() as logs:
        for _ in range(3):
            await pass_time(PERIOD)
            assert await seen(one) == {7: (1.0, "soon")}
    assert len(cloud.questions) == 4
    problems = [entry for entry in logs if entry["log_level"] in ("warning", "error")]
    assert len(problems) == (1 if isinstance(error, ProviderUnavailable) else 3)
    assert one.sweeper.error == ""


async def test_cpu_is_unknown_after_three_periods_without_an_answer(one: VirtualDriver, cloud: MeasuredCloud) -> None:
    """A VM must not count as idle by a figure from before."""
    one.add(7)
    await seen(one)
    cloud.error = ProviderUnavailable("no answer")
    found = []
    for _ in range(4):
        await pass_time(PERIOD)
        found.append(await seen(one))
    assert found[-1] == {7: (None, "soon")}
    cloud.error = None
    for _ in range(2):
        await pass_time(PERIOD)
        found.append(await seen(one))
    assert found[-1][7][0] is not None


async def test_a_reading_of_figures_without_an_answer_is_given_up_and_repeated(
    one: VirtualDriver, cloud: MeasuredCloud
) -> None:
    one.add(7)
    cloud.may_answer.clear()
    await seen(one)
    cloud.may_answer = asyncio.Event()
    cloud.may_answer.set()
    await pass_time(PERIOD + 1)
    await seen(one)
    await pass_time(2)
    await seen(one)
    assert await seen(one) == {7: (2.0, "soon")}


async def test_figures_are_not_read_again_while_a_reading_is_under_way(tmp_path: Path, cloud: MeasuredCloud) -> None:
    cloud.may_answer.clear()
    keeper = FigureKeeper(asyncio.get_running_loop().time)
    watched = OpenCloud(provider=cloud, owner="o", call_timeout=10 * PERIOD, journal=tmp_path / "none")
    for _ in range(3):
        keeper.ask(watched, [])
        await pass_time(PERIOD + 1)
    assert len(cloud.questions) == 1
    cloud.may_answer.set()
    await turns()
    keeper.ask(watched, [])
    await turns()
    assert len(cloud.questions) == 2


async def test_figures_of_a_new_provider_are_read_at_once(tmp_path: Path, cloud: MeasuredCloud) -> None:
    loop = asyncio.get_running_loop()
    keeper = FigureKeeper(loop.time)

    def watched(provider: FakeCloud) -> OpenCloud:
        return OpenCloud(provider=provider, owner="o", call_timeout=60.0, journal=tmp_path / "none")

    instance = Instance(deploy_id=DeployId("i-1"), state=InstanceState.RUNNING, raw_state="running")
    keeper.ask(watched(cloud), [instance])
    await turns()
    second = MeasuredCloud()
    keeper.ask(watched(second), [instance])
    await turns()
    assert (len(cloud.questions), len(second.questions)) == (1, 1)
    keeper.ask(watched(FakeCloud()), [instance])
    assert with_figures([instance], keeper.known()) == [instance]


class TypedCloud(MeasuredCloud):
    """A cloud whose running instances all have a type of known size."""

    def size_of(self, instance: Instance) -> Size | None:
        return Size(cpu=2.0, memory=4096) if instance.state is InstanceState.RUNNING else None


async def test_instances_use_the_capacity_of_their_type_regardless_of_their_load(tmp_path: Path) -> None:
    cloud = TypedCloud()
    one = VirtualDriver(tmp_path, cloud, min_list_interval=1.0)
    one.add(7)
    one.add(8)
    one.add(9, InstanceState.STOPPED)
    one.add(10, host_id=4)
    cloud.add(None, InstanceState.RUNNING)  # a wild instance counts for every host
    sweep = await one.sweeper.sweep()
    core, gibibyte = 100, 1024 * 1024
    assert sweep.load(3) == Load(cpu=3 * 2 * core, memory=3 * 4 * gibibyte)
    assert sweep.load(4) == Load(cpu=2 * 2 * core, memory=2 * 4 * gibibyte)
