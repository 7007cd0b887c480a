"""Hosts of a cloud that lacks room: no free capacity within one sweep, until there may be room again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from msgspec.structs import replace

from one_provider_mad.database import Database
from one_provider_mad.domain import VmId, VmRequest
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.journal.records import ANY_ROOM, Refusal, Shortage
from one_provider_mad.journal.writer import Journal
from one_provider_mad.monitor.host import UNLIMITED
from one_provider_mad.monitor.host_attributes import HostAttributes, HostTemplate
from one_provider_mad.monitor.settings import CapacitySettings
from one_provider_mad.monitor.shortages import LIMIT_SECONDS
from one_provider_mad.providers.interface import Capacity, Parameters, Size
from tests.actions.fakes import FakeCloud, pass_time, promise_while_the_clock_stands
from tests.monitor.decoder import plain, vectors
from tests.monitor.test_capacity import Core, SizedCloud, given
from tests.monitor.virtual_driver import VirtualDriver

pytestmark = pytest.mark.looptime

GIB = 1024
MEMORY = 120.0


class RoomyCloud(FakeCloud):
    """Pretends to be a cloud whose VMs usually get the types `small` and `medium`."""

    shortage_memory = MEMORY

    def instance_sizes(self) -> dict[str, Size]:
        return {"small": Size(cpu=1, memory=GIB), "huge": Size(cpu=64, memory=64 * GIB)}

    async def capacity(self) -> Capacity | None:
        return None

    def usual_rooms(self, types: Collection[str]) -> Collection[str]:
        return types or ("small", "medium")

    def room_of(self, request: VmRequest, parameters: Parameters) -> str:
        return str(parameters["size"])


class ActionDriver:
    """The journal as the action driver writes it."""

    def __init__(self, journal: Journal, driver: VirtualDriver) -> None:
        self.journal = journal
        self._driver = driver

    async def is_refused(self, *rooms: str, is_limit: bool = False) -> None:
        for room in rooms:
            at = self._driver.clock()
            await self.journal.note_shortage(Shortage(room=room, at=at, text=f"no {room}", is_limit=is_limit))

    async def succeeds(self, room: str) -> None:
        await self.journal.end_shortages(room, before=self._driver.clock() + 1)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[VirtualDriver]:
    one = VirtualDriver(tmp_path, RoomyCloud())
    yield one
    await one.handler.stop()


@pytest.fixture
async def actions(driver: VirtualDriver, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ActionDriver]:
    monkeypatch.setattr(Database, "_promise", promise_while_the_clock_stands)
    journal = Journal(driver.source.watched.journal, clock=driver.clock, on_lost=pytest.fail)
    await journal.open()
    yield ActionDriver(journal, driver)
    await journal.close()


def latest(driver: VirtualDriver) -> tuple[str, str]:
    """TOTALCPU and PROVIDER_WARNING of the latest SYSTEM_HOST."""
    values = driver.lines("SYSTEM_HOST")[-1].values
    return plain(values, "TOTALCPU"), plain(values, "PROVIDER_WARNING")


OPEN = (str(100 * round(UNLIMITED.cpu)), "-")
CLOSED = "the cloud has no room for {}: this host shows no free CPU for 120 s, or until an instance is created; {}"


async def test_a_host_closes_with_the_next_sweep_and_opens_when_the_shortage_is_forgotten(
    driver: VirtualDriver, actions: ActionDriver
) -> None:
    driver.start()
    await pass_time(11)
    assert latest(driver) == OPEN
    await actions.is_refused("small")
    await pass_time(6)
    assert latest(driver) == OPEN, "there is medium"
    await actions.is_refused("medium")
    await pass_time(6)
    assert latest(driver) == ("0", CLOSED.format("medium, small", "no medium"))
    await pass_time(MEMORY - 20)
    assert latest(driver)[0] == "0"
    await pass_time(20)
    assert latest(driver) == OPEN


async def test_a_host_opens_with_the_next_sweep_after_a_create(driver: VirtualDriver, actions: ActionDriver) -> None:
    await actions.is_refused("small", "medium")
    driver.start()
    await pass_time(11)
    assert latest(driver)[0] == "0"
    await actions.succeeds("small")
    await pass_time(6)
    assert latest(driver) == OPEN


async def test_a_cloud_without_room_for_anything_closes_its_host(driver: VirtualDriver, actions: ActionDriver) -> None:
    await actions.is_refused(ANY_ROOM)
    driver.start()
    await pass_time(11)
    assert latest(driver) == ("0", CLOSED.format("another instance", "no *"))


@pytest.mark.parametrize(
    ("room", "types", "cpu"),
    [
        pytest.param("small", {"small": 4}, "0", id="the-only-type-of-capacity"),
        pytest.param("huge", {"small": 4}, "400", id="a-type-that-a-vm-asked-for-by-itself"),
        pytest.param("small", {"small": 4, "no-such-type": 4}, "0", id="an-unknown-type-does-not-count"),
        pytest.param("small", {"small": 4, "huge": 1}, "6800", id="another-type-of-capacity"),
    ],
)
async def test_the_types_of_capacity_decide(
    driver: VirtualDriver, actions: ActionDriver, room: str, types: dict[str, int], cpu: str
) -> None:
    driver.source.settings = replace(driver.source.settings, capacity=CapacitySettings(instance_types=types))
    await actions.is_refused(room)
    driver.start()
    await pass_time(11)
    assert latest(driver)[0] == cpu


async def test_a_limit_of_all_usual_types_closes_the_host_for_ten_minutes(
    driver: VirtualDriver, actions: ActionDriver
) -> None:
    await actions.is_refused("small", "medium", is_limit=True)
    driver.start()
    await pass_time(LIMIT_SECONDS - 20)
    assert latest(driver)[0] == "0"
    await pass_time(40)
    assert latest(driver) == OPEN


async def test_a_closed_host_has_what_is_allocated_to_vms_with_an_instance(
    driver: VirtualDriver, actions: ActionDriver
) -> None:
    """The refused VM 9 will be recreated: what was allocated to it must not look like room."""
    core = Core()
    core.given = given(7, 8, 9)
    driver.sweeper.set_allocations(core.allocations)
    driver.add(7)
    driver.add(8)
    await actions.is_refused("small", "medium")
    driver.start()
    await pass_time(11)
    assert latest(driver)[0] == "200"


async def test_a_host_is_open_again_once_the_clouds_own_quota_shows_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "_promise", promise_while_the_clock_stands)
    cloud = SizedCloud()
    cloud.answer = Capacity(left=0)
    one = VirtualDriver(tmp_path, cloud)
    journal = Journal(tmp_path / "journal", clock=one.clock, on_lost=pytest.fail)
    await journal.open()
    refusal = Refusal(at=one.clock(), text="no more", vm_id=VmId(9), is_limit=True, is_general=True)
    await journal.note_refusal(refusal)
    one.start()
    await pass_time(11)
    assert latest(one) == ("0", "no further instance can be made: no more")
    cloud.answer = Capacity(left=5)
    await pass_time(70)
    assert latest(one) == OPEN
    await one.handler.stop()
    await journal.close()


# Up to 5.10


async def test_up_to_5_10_a_host_that_closes_or_opens_is_reported_without_being_asked_for(
    driver: VirtualDriver, actions: ActionDriver
) -> None:
    driver.add(7)
    driver.ask()
    await pass_time(60)
    assert totals(driver) == [OPEN[0]], "nothing has changed"
    await actions.is_refused("small", "medium")
    await pass_time(11)
    assert totals(driver) == [OPEN[0], "0"]
    last = driver.lines("MONITOR")[-1]
    assert "VM_POLL" in last.values, "all VMs are named: oned powers off those that two reports leave out"
    assert [vm["ID"] for vm in vectors(last.values, "VM")] == ["7"]
    await pass_time(MEMORY)
    assert totals(driver) == [OPEN[0], "0", OPEN[0]]


async def test_up_to_5_10_a_host_that_is_no_longer_monitored_is_not_reported(
    driver: VirtualDriver, actions: ActionDriver
) -> None:
    driver.ask()
    await pass_time(10)
    driver.tell(b"STOPMONITOR 3 cloud-3 \n")
    await actions.is_refused("small", "medium")
    await pass_time(30)
    assert totals(driver) == [OPEN[0]]


async def test_up_to_5_10_the_watch_goes_on_after_a_cloud_that_did_not_answer(
    driver: VirtualDriver, actions: ActionDriver
) -> None:
    driver.ask()
    await pass_time(10)
    driver.source.error = ProviderUnavailable("the cloud is away")
    await pass_time(30)
    driver.source.error = None
    await actions.is_refused("small", "medium")
    await pass_time(40)
    assert totals(driver) == [OPEN[0], "0"]


async def test_up_to_5_10_a_quota_that_is_free_again_is_reported_without_being_asked_for(tmp_path: Path) -> None:
    cloud = SizedCloud()
    cloud.answer = Capacity(left=0)
    one = VirtualDriver(tmp_path, cloud)
    one.ask()
    await pass_time(30)
    assert totals(one)[-1] == "0"
    cloud.answer = Capacity(left=5)
    await pass_time(90)
    assert totals(one)[-1] == OPEN[0]
    await one.handler.stop()


async def test_up_to_5_10_opennebula_is_asked_for_a_host_only_when_that_is_reported(tmp_path: Path) -> None:
    cloud, asked = SizedCloud(), [0]
    cloud.answer = Capacity(left=0)

    async def template(_host_id: int) -> HostTemplate:
        asked[0] += 1
        return HostTemplate()

    attributes = HostAttributes()
    attributes.templates = template
    one = VirtualDriver(tmp_path, cloud, host_attributes=attributes)
    one.ask()
    await pass_time(120)
    assert asked == [len(one.lines("MONITOR"))], "a full cloud is looked at every five seconds"
    await one.handler.stop()


def totals(driver: VirtualDriver) -> list[str]:
    """TOTALCPU of each answer to MONITOR, and of each report that was not asked for."""
    return [plain(line.values, "TOTALCPU") for line in driver.lines("MONITOR")]
