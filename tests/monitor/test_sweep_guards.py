"""Conditions that keep a sweep from reporting outdated states: one test for each that no other test proves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, InstanceState, VmId
from one_provider_mad.journal.records import Answered, Attempt, AttemptState
from one_provider_mad.journal.writer import Journal
from one_provider_mad.monitor.activity import Activity
from one_provider_mad.monitor.sweep import Sweep
from tests.actions.fakes import EPOCH, pass_time
from tests.monitor.builders import identity_of, words
from tests.monitor.virtual_driver import VirtualDriver

pytestmark = pytest.mark.looptime


class FakeReader:
    """Pretends to read the journal: returns `activity`, once the next gate is open."""

    def __init__(self) -> None:
        self.activity = Activity()
        self.gates: deque[asyncio.Event] = deque()

    async def read(self, path: Path, *, since: float) -> Activity:
        if self.gates:
            await self.gates.popleft().wait()
        return self.activity


class Clock:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> float:
        return EPOCH + self._loop.time() + self.offset


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[VirtualDriver]:
    """A running driver on a fake cloud, in virtual time."""
    driver = VirtualDriver(tmp_path, clock=Clock())
    yield driver
    await driver.handler.stop()


@pytest.fixture
def reader(one: VirtualDriver) -> FakeReader:
    """The reader that the sweeps use in place of the journal's."""
    fake = FakeReader()
    one.sweeper._activity = fake  # type: ignore[assignment]
    return fake


@pytest.fixture
async def journal(one: VirtualDriver, tmp_path: Path) -> AsyncIterator[Journal]:
    """The action driver's journal, on the same clock."""
    journal = Journal(tmp_path / "journal", clock=one.clock, on_lost=pytest.fail)
    await journal.open()
    yield journal
    await journal.close()


def created(at: float) -> Attempt:
    return msgspec.structs.replace(
        Attempt.new(identity_of(8), 1, {}), state=AttemptState.CREATED, deploy_id=DeployId("i-8"), sent_at=at
    )


def sweep(one: VirtualDriver, said: list[dict[int, str]]) -> asyncio.Task[None]:
    """Sweep, and append the inferred states in the order in which sweeps end."""

    async def note() -> None:
        said.append(words((await one.sweeper.sweep()).inference))

    return asyncio.create_task(note())


async def sweep_again(one: VirtualDriver) -> Sweep:
    """A sweep with a new listing."""
    await pass_time(one.source.settings.monitor.min_list_interval + 1)
    return await one.sweeper.sweep()


# Order


async def test_an_older_listing_is_never_returned_after_a_newer_one(one: VirtualDriver, reader: FakeReader) -> None:
    gate = asyncio.Event()
    reader.gates.append(gate)
    one.add(7)
    said: list[dict[int, str]] = []
    first = sweep(one, said)
    await pass_time(10)
    one.set_state(7, InstanceState.STOPPED)
    second = sweep(one, said)
    await pass_time(1)
    gate.set()
    await asyncio.gather(first, second)
    assert said == [{7: "RUNNING"}, {7: "POWEROFF"}]
    assert one.sweeper.memory.listed_at == EPOCH + 10


async def test_callers_that_waited_get_the_latest_listing(one: VirtualDriver, reader: FakeReader) -> None:
    gate = asyncio.Event()
    reader.gates.append(gate)
    one.add(7)
    said: list[dict[int, str]] = []
    waiting = [sweep(one, said)]
    for state in (InstanceState.SUSPENDED, InstanceState.STOPPED):
        await pass_time(10)
        one.set_state(7, state)
        waiting.append(sweep(one, said))
    await pass_time(1)
    gate.set()
    await asyncio.gather(*waiting)
    assert said == [{7: "RUNNING"}, {7: "POWEROFF"}, {7: "POWEROFF"}]


async def test_an_answer_during_a_slow_listing_makes_its_vm_unknown(one: VirtualDriver, reader: FakeReader) -> None:
    gate = asyncio.Event()
    one.cloud.before["list"].append(gate)
    one.add(7, InstanceState.STOPPED)
    said: list[dict[int, str]] = []
    asked = sweep(one, said)
    await pass_time(10)
    answer = Answered(action="DEPLOY", at=one.clock())
    reader.activity = Activity(answered={VmId(7): answer})
    await pass_time(10)
    gate.set()
    await asked
    assert said == [{7: "UNKNOWN"}], "it may have been listed before it was started"


async def test_an_attempt_since_the_previous_listing_is_in_the_next_sweep(one: VirtualDriver, journal: Journal) -> None:
    await one.sweeper.sweep()
    await pass_time(2)
    await journal.save_attempt(created(one.clock()))
    assert words((await sweep_again(one)).inference) == {8: "UNKNOWN"}


async def test_an_attempt_within_the_visibility_grace_is_in_the_next_sweep(
    one: VirtualDriver, journal: Journal
) -> None:
    one.cloud.visibility_grace = 300
    await one.sweeper.sweep()
    await journal.save_attempt(created(one.clock() - 200))
    assert words((await sweep_again(one)).inference) == {8: "UNKNOWN"}


@pytest.mark.parametrize("wait", [1, 61], ids=["after-it-was-listed", "while-it-is-listed"])
async def test_an_attempt_is_still_read_when_the_clock_is_set_back_around_a_listing(
    one: VirtualDriver, journal: Journal, wait: int
) -> None:
    one.set(min_list_interval=60)
    one.add(7)
    await one.sweeper.sweep()
    await journal.save_attempt(created(one.clock() + wait + 1 - 100))  # the clock will show that time by then
    await pass_time(wait)
    gate = asyncio.Event()
    one.cloud.before["list"].append(gate)
    asked = asyncio.create_task(one.sweeper.sweep())
    await pass_time(1)
    assert isinstance(one.clock, Clock)
    one.clock.offset = -100
    gate.set()
    sweeps = [await asked, await one.sweeper.sweep()]
    assert words(sweeps[0 if wait > 60 else 1].inference) == {7: "RUNNING", 8: "UNKNOWN"}


async def test_an_answer_after_the_clock_was_set_back_is_still_newer_than_the_listing(
    one: VirtualDriver, reader: FakeReader
) -> None:
    one.set(min_list_interval=60)
    one.add(7, InstanceState.STOPPED)
    await one.sweeper.sweep()
    await pass_time(1)
    assert isinstance(one.clock, Clock)
    one.clock.offset = -100
    reader.activity = Activity(answered={VmId(7): Answered(action="DEPLOY", at=one.clock())})
    await pass_time(1)
    assert words((await one.sweeper.sweep()).inference) == {7: "UNKNOWN"}


# Settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({}, ["UNKNOWN", "UNKNOWN", "(FAILURE)"], id="defaults"),
        pytest.param({"missing_after": 1}, ["(FAILURE)"], id="missing_after"),
        pytest.param({"missing_after": 1, "missing_state": "POWEROFF"}, ["(POWEROFF)"], id="missing_state"),
        pytest.param({"missing_after": 1, "unusual_count": 1}, ["UNKNOWN"] * 4, id="unusual_count"),
        pytest.param(
            {"missing_after": 1, "unusual_count": 1, "unusual_share": 1.0}, ["(FAILURE)"] * 2, id="unusual_share"
        ),
        pytest.param(
            {"missing_after": 1, "unusual_count": 1, "unusual_hold": 9},
            ["UNKNOWN"] * 2 + ["(FAILURE)"],
            id="unusual_hold",
        ),
    ],
)
async def test_settings_decide_when_a_vanished_vm_is_missing_and_with_which_state(
    one: VirtualDriver, settings: dict[str, Any], said: list[str]
) -> None:
    one.set(**settings)
    one.add(7)
    await one.sweeper.sweep()
    one.cloud.instances.clear()
    assert [words((await sweep_again(one)).inference)[7] for _ in said] == said


async def test_with_report_wilds_false_wild_instances_are_not_reported(one: VirtualDriver) -> None:
    one.cloud.add(deploy_id="i-web")
    assert len((await one.sweeper.sweep()).wilds) == 1
    one.set(report_wilds=False)
    assert (await one.sweeper.sweep()).wilds == ()
