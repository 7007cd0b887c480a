"""Reading the action driver's journal, while a real journal writes it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.actions.intents import is_end
from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.reader import read_outline
from one_provider_mad.journal.records import Answered, Attempt, AttemptState, Outline
from one_provider_mad.journal.writer import Journal
from one_provider_mad.monitor.activity import DEAD_SECONDS, Activity, ActivityReader
from one_provider_mad.monitor.attribution import latest_time
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import Action
from tests.monitor.builders import identity_of

NOW = 1_800_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """An open journal with a clock that stands still."""
    journal = Journal(path, clock=lambda: NOW, on_lost=pytest.fail)
    await journal.open()
    yield journal
    await journal.close()


async def read_activity(path: Path, *, since: float = 0.0, at: float = 0.0) -> Activity:
    return await ActivityReader(lambda: at, lambda: NOW).read(path, since=since)


def opened(journal: Journal, vm_id: int, action: str = "SHUTDOWN") -> int:
    return journal.open_request(action=action, vm_id=VmId(vm_id), dialect=Dialect.SINCE_6_0, payload=b"x")


def test_without_a_journal_file_there_is_no_activity(path: Path) -> None:
    assert asyncio.run(read_activity(path)) == Activity()
    assert not path.exists(), "and no file is created"


async def test_a_vm_is_busy_until_its_request_is_answered(journal: Journal, path: Path) -> None:
    number = opened(journal, 7)
    await journal.sync()
    assert await read_activity(path) == Activity(busy=frozenset({VmId(7)}))
    journal.close_request(number)
    await journal.sync()
    assert await read_activity(path) == Activity(answered={VmId(7): Answered(action="SHUTDOWN", at=NOW)})


async def test_an_instance_counts_as_ended_only_if_the_journal_marks_the_answer_as_its_end(
    journal: Journal, path: Path
) -> None:
    numbers = [opened(journal, vm_id) for vm_id in (7, 8)]
    await journal.sync()
    journal.close_request(numbers[0], has_ended=True)
    journal.close_request(numbers[1])
    await journal.sync()
    activity = await read_activity(path)
    assert [activity.has_ended_since(VmId(vm_id), since=NOW) for vm_id in (7, 8)] == [True, False]


async def test_a_vm_with_a_cancelled_request_stays_busy_until_its_work_has_ended(journal: Journal, path: Path) -> None:
    number = opened(journal, 7, "DEPLOY")
    await journal.sync()
    journal.call_off_request(number)
    await journal.sync()
    assert (await read_activity(path)).busy == {7}


async def test_of_several_answers_for_a_vm_the_last_is_read(journal: Journal, path: Path) -> None:
    numbers = [opened(journal, 7, action) for action in ("DEPLOY", "REBOOT", "SHUTDOWN")]
    await journal.sync()
    for number in numbers:
        journal.close_request(number)
    await journal.sync()
    assert (await read_activity(path)).answered[VmId(7)].action == "SHUTDOWN"


async def test_parked_instances_are_read_from_the_journal(journal: Journal, path: Path) -> None:
    await journal.park(DeployId("i-7"), VmId(7))
    assert (await read_activity(path)).parked == {"i-7"}
    await journal.unpark(DeployId("i-7"))
    assert (await read_activity(path)).parked == frozenset()


async def test_only_young_attempts_that_are_open_or_created_are_read(journal: Journal, path: Path) -> None:
    states = dict(enumerate(AttemptState))
    for number, state in states.items():
        attempt = Attempt.new(identity_of(number), 1, {"size": "small"})
        fields = {
            **{name: getattr(attempt, name) for name in attempt.__struct_fields__},
            "state": state,
            "sent_at": NOW,
        }
        await journal.save_attempt(Attempt(**fields))
    young = (await read_activity(path, since=NOW)).attempts
    assert {attempt.state for attempt in young} == {AttemptState.OPEN, AttemptState.CREATED}
    assert (await read_activity(path, since=NOW + 60)).attempts == ()


async def test_a_vm_stays_busy_for_a_while_with_a_request_of_a_dead_process(journal: Journal, path: Path) -> None:
    opened(journal, 7)
    await journal.sync()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE requests SET start = 'of another boot'")
    now = 100.0
    reader = ActivityReader(lambda: now, lambda: NOW)
    assert (await reader.read(path, since=0)).busy == {7}
    now += DEAD_SECONDS - 1
    assert (await reader.read(path, since=0)).busy == {7}
    now += 2
    assert (await reader.read(path, since=0)).busy == frozenset()


async def test_answers_from_before_the_clock_was_set_back_get_the_time_of_their_first_reading(
    journal: Journal, path: Path
) -> None:
    number = opened(journal, 7)
    journal.close_request(number)
    await journal.sync()
    clock = NOW - 3600.0
    reader = ActivityReader(time.monotonic, lambda: clock)
    for later in (0.0, 60.0, 3600.0):
        clock = NOW - 3600.0 + later
        answered = (await reader.read(path, since=0)).answered[VmId(7)]
        assert answered.at == NOW - 3600.0, "it has the time of its first reading"


def test_a_file_that_is_no_journal_raises_journal_error(path: Path) -> None:
    path.write_bytes(b"this is no database" * 99)
    with pytest.raises(JournalError, match="the journal cannot be read"):
        asyncio.run(read_activity(path))


def test_an_empty_journal_file_is_read_without_error_and_has_no_records(path: Path) -> None:
    path.touch()
    assert read_outline(path, since=0) == Outline()


async def test_the_journal_is_read_without_write_permission_and_not_changed(journal: Journal, path: Path) -> None:
    opened(journal, 7)
    await journal.sync()
    before = content(path)
    os.chmod(path, 0o400)
    assert (await read_activity(path)).busy == {7}
    assert content(path) == before


def content(path: Path) -> bytes:
    return path.read_bytes()


async def test_a_hundred_reads_do_not_delay_the_writer_of_the_journal(journal: Journal, path: Path) -> None:
    reader = ActivityReader(time.monotonic, lambda: NOW)
    for number in range(100):
        record = opened(journal, number)
        await reader.read(path, since=0)
        journal.close_request(record)
    await journal.sync()
    assert (await read_activity(path)).busy == frozenset()


@pytest.mark.parametrize(
    ("at", "is_settled", "is_ended"),
    [
        pytest.param(10.0, True, True, id="after"),
        pytest.param(-0.1, True, True, id="just-before"),
        pytest.param(-5.0, False, False, id="long-before"),
    ],
)
def test_an_answer_counts_as_after_a_listing_despite_a_small_clock_difference(
    at: float, *, is_settled: bool, is_ended: bool
) -> None:
    activity = Activity(answered={VmId(7): Answered(action="CANCEL", at=NOW + at, has_ended=True)})
    assert activity.is_answered_since(VmId(7), NOW) is is_settled
    assert activity.has_ended_since(VmId(7), since=NOW) is is_ended
    assert not activity.is_answered_since(VmId(8), NOW)


async def test_an_attempt_counts_as_after_a_listing_despite_a_small_clock_difference(
    journal: Journal, path: Path
) -> None:
    times = {7: NOW - 0.1, 8: NOW - 5.0}
    for vm_id, at in times.items():
        attempt = msgspec.structs.replace(Attempt.new(identity_of(vm_id), 1, {}), sent_at=at)
        await journal.save_attempt(attempt)
        assert Activity.is_sent_or_answered_since(attempt, NOW) is (vm_id == 7)
    assert [attempt.identity.vm_id for attempt in (await read_activity(path, since=NOW)).attempts] == [7]


async def test_attempts_from_before_the_clock_was_set_back_get_the_time_of_their_first_reading(
    journal: Journal, path: Path
) -> None:
    for vm_id, times in {7: {"sent_at": NOW}, 8: {"sent_at": NOW - 9000, "answered_at": NOW}}.items():
        await journal.save_attempt(msgspec.structs.replace(Attempt.new(identity_of(vm_id), 1, {}), **times))
    clock = NOW - 3600.0
    reader = ActivityReader(time.monotonic, lambda: clock)
    for later in (0.0, 60.0):
        clock = NOW - 3600.0 + later
        attempts = (await reader.read(path, since=0)).attempts
        assert {latest_time(attempt) for attempt in attempts} == {NOW - 3600.0}
        assert not any(Activity.is_sent_or_answered_since(attempt, NOW - 3590.0) for attempt in attempts)


async def test_an_attempt_that_is_a_tenth_of_a_second_ahead_of_the_clock_keeps_its_time(
    journal: Journal, path: Path
) -> None:
    await journal.save_attempt(msgspec.structs.replace(Attempt.new(identity_of(7), 1, {}), sent_at=NOW + 0.1))
    [attempt] = (await read_activity(path)).attempts
    assert attempt.sent_at == NOW + 0.1


async def test_a_cleanup_and_a_later_create_keep_their_order_when_the_clock_is_set_back(
    journal: Journal, path: Path
) -> None:
    number = opened(journal, 7, "CLEANUP")
    await journal.sync()
    journal.close_request(number, has_ended=True)
    await journal.sync()
    await journal.save_attempt(msgspec.structs.replace(Attempt.new(identity_of(7, seq=1), 1, {}), sent_at=NOW + 1))
    activity = await ActivityReader(time.monotonic, lambda: NOW - 3600.0).read(path, since=0)
    [attempt] = activity.attempts
    assert not activity.has_ended_since(VmId(7), since=latest_time(attempt), slack=0), "destroyed, and created anew"


def test_a_shutdown_that_destroyed_nothing_ends_no_instance() -> None:
    activity = Activity(answered={VmId(7): Answered(action="SHUTDOWN", at=NOW)})
    assert not activity.has_ended_since(VmId(7), since=NOW)


@pytest.mark.parametrize(
    ("action", "lcm_state", "is_so"),
    [
        pytest.param(Action.SHUTDOWN, 12, True, id="shutdown"),
        pytest.param(Action.CANCEL, 12, True, id="shutdown-hard"),
        pytest.param(Action.CANCEL, 13, True, id="cancel"),
        pytest.param(Action.CLEANUP, 24, True, id="cleanup"),
        pytest.param(Action.CLEANUP, None, True, id="cleanup-in-no-state"),
        pytest.param(Action.SHUTDOWN, 18, False, id="power-off"),
        pytest.param(Action.CANCEL, 18, False, id="power-off-hard"),
        pytest.param(Action.SHUTDOWN, 29, False, id="undeploy"),
        pytest.param(Action.SHUTDOWN, None, False, id="in-no-state"),
        pytest.param(Action.REBOOT, 12, False, id="reboot"),
        pytest.param(Action.DEPLOY, 2, False, id="deploy"),
    ],
)
def test_only_terminations_and_cleanups_count_as_the_end_of_an_instance(
    action: Action, lcm_state: int | None, *, is_so: bool
) -> None:
    assert is_end(action, lcm_state) is is_so
