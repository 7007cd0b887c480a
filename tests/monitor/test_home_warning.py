"""The warning that home has room and takes nothing: on the cloud's host, and once in OpenNebula's log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.front_end.home import Fault, Home
from one_provider_mad.monitor.home_warning import LOOK_SECONDS, OVER
from tests.actions.fakes import pass_time
from tests.monitor.decoder import plain
from tests.monitor.virtual_driver import VirtualDriver

WELL = Home(hosts=2, room=3, usable=3)
FULL = Home(hosts=2)
AT_FAULT = Home(hosts=2, room=3, faults=(Fault(found="datastore 0 is full", remedy="free some"),))
SENTENCE = "home has room for 3 VMs and takes none: datastore 0 is full: free some"
NEW = Home(hosts=1, takes_any=False, faults=(Fault(found="it is new", remedy="wait", patience=600.0),))


class Core:
    """Pretends to be the local OpenNebula, which shows the state of home."""

    def __init__(self, home: Home = WELL) -> None:
        self.home = home
        self.error: Exception | None = None
        self.asked = 0
        self.delay = 0.0

    async def look(self) -> Home:
        self.asked += 1
        await pass_time(self.delay)
        if self.error is not None:
            raise self.error
        return self.home


def driver(path: Path, core: Core) -> tuple[VirtualDriver, list[str]]:
    one, told = VirtualDriver(path), list[str]()
    one.sweeper.hosts = frozenset({3})
    one.sweeper.home.look = core.look
    one.sweeper.home.tell = told.append
    return one, told


async def shown(one: VirtualDriver, seconds: float) -> str:
    """The warning after these seconds, with a sweep every ten."""
    for _ in range(round(seconds / 10)):
        await one.sweeper.sweep()
        await pass_time(10)
    return (await one.sweeper.sweep()).warning


@pytest.mark.looptime
async def test_a_fault_is_shown_once_it_has_lasted_and_told_at_its_beginning_and_end(tmp_path: Path) -> None:
    core = Core(AT_FAULT)
    one, told = driver(tmp_path, core)
    assert await shown(one, 50) == ""
    assert await shown(one, 30) == SENTENCE
    assert await shown(one, 600) == SENTENCE
    assert told == [SENTENCE]
    core.home = WELL
    assert await shown(one, 80) == ""
    assert told == [SENTENCE, OVER]


@pytest.mark.looptime
async def test_opennebula_is_asked_once_a_minute_however_often_the_cloud_is_listed(tmp_path: Path) -> None:
    core = Core()
    one, _ = driver(tmp_path, core)
    await shown(one, 9.5 * LOOK_SECONDS)
    assert core.asked == 10


@pytest.mark.looptime
@pytest.mark.parametrize("home", [WELL, FULL, Home(), NEW], ids=["well", "full", "none", "new"])
async def test_ordinary_use_shows_and_tells_nothing_in_five_minutes(tmp_path: Path, home: Home) -> None:
    one, told = driver(tmp_path, Core(home))
    assert await shown(one, 300) == ""
    assert told == []


@pytest.mark.looptime
async def test_a_host_that_is_never_monitored_is_named_after_ten_minutes(tmp_path: Path) -> None:
    one, told = driver(tmp_path, Core(NEW))
    assert await shown(one, 700) == "home takes no VM: it is new: wait"
    assert told == ["home takes no VM: it is new: wait"]


@pytest.mark.looptime
async def test_a_fault_of_a_moment_is_not_shown(tmp_path: Path) -> None:
    core = Core(AT_FAULT)
    one, told = driver(tmp_path, core)
    await shown(one, 50)
    core.home = WELL
    await shown(one, 60)
    core.home = AT_FAULT
    assert await shown(one, 60) == ""
    assert told == []


@pytest.mark.looptime
async def test_the_words_may_change_without_another_line_in_the_log(tmp_path: Path) -> None:
    core = Core(AT_FAULT)
    one, told = driver(tmp_path, core)
    await shown(one, 100)
    core.home = Home(hosts=2, room=9, faults=AT_FAULT.faults)
    assert await shown(one, 80) == SENTENCE.replace("3 VMs", "9 VMs")
    assert told == [SENTENCE]


@pytest.mark.looptime
async def test_a_warning_of_the_cloud_stands_beside_it(tmp_path: Path) -> None:
    one, _ = driver(tmp_path, Core(AT_FAULT))
    one.add(7)
    one.cloud.add(next(iter(one.cloud.instances.values())).identity, deploy_id="i-duplicate")
    assert (await shown(one, 100)).endswith(f"; {SENTENCE}")


@pytest.mark.looptime
async def test_no_sweep_waits_for_opennebula(tmp_path: Path) -> None:
    core = Core(AT_FAULT)
    core.delay = 50.0
    one, _ = driver(tmp_path, core)
    begun = asyncio.get_running_loop().time()
    await one.sweeper.sweep()
    assert asyncio.get_running_loop().time() == begun


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("error", "delay"),
    [(ProviderUnavailable("OpenNebula is away"), 0.0), (ValueError("a defect"), 0.0), (None, 2 * LOOK_SECONDS)],
    ids=["an-error", "a-defect", "no-answer"],
)
async def test_a_warning_stays_while_opennebula_does_not_answer(
    tmp_path: Path, error: Exception | None, delay: float
) -> None:
    core = Core(AT_FAULT)
    one, told = driver(tmp_path, core)
    await shown(one, 100)
    core.home, core.error, core.delay = WELL, error, delay
    assert await shown(one, 200) == SENTENCE
    core.error, core.delay = None, 0.0
    assert await shown(one, 150) == ""
    assert told == [SENTENCE, OVER]


@pytest.mark.looptime
async def test_watch_home_turns_it_off_at_once(tmp_path: Path) -> None:
    core = Core(AT_FAULT)
    one, told = driver(tmp_path, core)
    await shown(one, 100)
    one.set(watch_home=False)
    asked = core.asked
    assert await shown(one, 200) == ""
    assert (core.asked, told) == (asked, [SENTENCE])


@pytest.mark.looptime
async def test_what_was_asked_is_dropped_when_another_front_end_begins_to_lead(tmp_path: Path) -> None:
    core = Core(AT_FAULT)
    one, told = driver(tmp_path, core)
    await shown(one, 50)
    core.delay = 30.0
    await shown(one, 20)
    one.sweeper.home.forget()
    await pass_time(60)
    assert (one.sweeper.home.warning, told) == ("", [])


@pytest.mark.looptime
async def test_the_driver_stops_while_opennebula_is_being_asked(tmp_path: Path) -> None:
    core = Core()
    core.delay = 50.0
    one, _ = driver(tmp_path, core)
    await one.sweeper.sweep()
    (asking,) = one.sweeper.home.calls_under_way()
    await one.sweeper.stop()
    assert asking.cancelled()
    assert one.sweeper.home.calls_under_way() == []


@pytest.mark.looptime
async def test_the_host_shows_the_warning_in_provider_warning(tmp_path: Path) -> None:
    one, _ = driver(tmp_path, Core(AT_FAULT))
    one.start()
    await pass_time(200)
    assert one.lines("SYSTEM_HOST")[-1].values["PROVIDER_WARNING"] == [SENTENCE]
    await one.handler.stop()


@pytest.mark.looptime
async def test_up_to_5_10_a_fault_is_shown_within_minutes_although_oned_asks_seldom(tmp_path: Path) -> None:
    core = Core(AT_FAULT)
    one, told = driver(tmp_path, core)
    one.ask()
    await pass_time(2 * LOOK_SECONDS + 20)
    warnings = [plain(line.values, "PROVIDER_WARNING") for line in one.lines("MONITOR")]
    assert warnings == ["-", SENTENCE]
    core.home = WELL
    await pass_time(LOOK_SECONDS + 20)
    warnings = [plain(line.values, "PROVIDER_WARNING") for line in one.lines("MONITOR")]
    assert (warnings, told) == (["-", SENTENCE, "-"], [SENTENCE, OVER])
    await one.handler.stop()


@pytest.mark.looptime
async def test_up_to_5_10_a_front_end_that_no_longer_leads_asks_for_nothing(tmp_path: Path) -> None:
    core = Core()
    one, _ = driver(tmp_path, core)
    one.ask()
    await pass_time(10)
    one.handler.set_silent(is_silent=True)
    asked = core.asked
    await pass_time(600)
    assert core.asked == asked > 0
    await one.handler.stop()


@pytest.mark.looptime
async def test_a_look_that_is_dropped_before_it_begins_hinders_no_later_one(tmp_path: Path) -> None:
    core = Core(AT_FAULT)
    one, _ = driver(tmp_path, core)
    one.sweeper.home.ask(is_wanted=True)
    one.sweeper.home.forget()
    assert core.asked == 0
    assert await shown(one, 80) == SENTENCE
