"""Old records are deleted from the journal while the driver runs, and the file shrinks."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Identity, VmId
from one_provider_mad.journal import writer
from one_provider_mad.journal.records import Attempt, AttemptState, Debt
from one_provider_mad.journal.schema import PRAGMAS
from one_provider_mad.journal.writer import Journal
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.timestamps import Timestamp

NOW = 1_800_000_000.0
DAY = 86400.0
CREATED, GONE, REFUSED = AttemptState.CREATED, AttemptState.GONE, AttemptState.REFUSED


class Clock:
    """Shows the time that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait neither between two steps nor for the disk."""
    monkeypatch.setattr(writer, "_PAUSE", 0.0)
    monkeypatch.setattr(writer, "PRAGMAS", PRAGMAS[:1])


@pytest.fixture
async def journal(tmp_path: Path, clock: Clock) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path / "x.journal", clock=clock, on_lost=pytest.fail)
    await journal.open()
    yield journal
    await journal.close()


def an_identity(vm_id: int) -> Identity:
    return Identity(owner="harbour", vm_id=VmId(vm_id), stime=5, seq=0, host_id=3)


async def save(journal: Journal, vm_id: int, state: AttemptState, *, at: float, **fields: Any) -> Attempt:
    """Save an attempt that was sent at this time, with its timestamp and requested attributes."""
    attempt = Attempt.new(an_identity(vm_id), 1, {}, specification="at first").sent(Timestamp(at=at))
    attempt = msgspec.structs.replace(attempt, state=state, deploy_id=DeployId(f"i-{vm_id}"), **fields)
    await journal.save_attempt(attempt)
    return attempt


async def answer(journal: Journal, vm_id: int, action: str, *, has_ended: bool = False) -> None:
    number = journal.open_request(action=action, vm_id=VmId(vm_id), dialect=Dialect.SINCE_6_0, payload=b"")
    await journal.sync()
    journal.close_request(number, has_ended=has_ended)
    await journal.sync()


def keys(journal: Journal, query: str) -> list[Any]:
    """Return the first column of a query on the file."""
    with closing(sqlite3.connect(journal.path)) as db:
        return sorted(row[0] for row in db.execute(query).fetchall())


# Kept, and deleted


async def test_finished_attempts_are_deleted_after_a_month_with_their_timestamps_and_attributes(
    journal: Journal, clock: Clock
) -> None:
    for vm_id, state in enumerate((GONE, REFUSED, CREATED, AttemptState.OPEN)):
        await save(journal, vm_id, state, at=NOW - 31 * DAY)
    await save(journal, 4, GONE, at=NOW - 400 * DAY, answered_at=NOW - 29 * DAY)
    await journal.prune()
    assert keys(journal, "SELECT vm_id FROM attempts") == [2, 3, 4]
    assert len(keys(journal, "SELECT token FROM moments")) == 3
    assert len(keys(journal, "SELECT key FROM asked WHERE is_token")) == 3
    clock.now += 2 * DAY
    await journal.prune()
    assert keys(journal, "SELECT vm_id FROM attempts") == [2, 3]


async def test_an_attempt_with_a_debt_is_kept_until_it_is_paid(journal: Journal) -> None:
    attempt = await save(journal, 7, GONE, at=NOW - 99 * DAY)
    await journal.add_debt(
        Debt(deploy_id=DeployId("i-7"), token=attempt.token, identity=an_identity(7), reason="late", since=0)
    )
    await journal.prune()
    [debt] = await journal.debts()
    assert keys(journal, "SELECT vm_id FROM attempts") == [7]
    await journal.pay_debt(debt)
    await journal.prune()
    assert keys(journal, "SELECT vm_id FROM attempts") == []


async def test_imports_and_requested_attributes_are_deleted_a_month_after_the_vms_end(
    journal: Journal, clock: Clock
) -> None:
    for vm_id in (7, 8):
        await journal.record_import(DeployId(f"i-{vm_id}"), vm_id=VmId(vm_id), stime=5)
        await journal.note_specification(DeployId(f"i-{vm_id}"), "by now", vm_id=VmId(vm_id))
        await answer(journal, vm_id, "SHUTDOWN", has_ended=vm_id == 7)
    clock.now += 29 * DAY
    await journal.prune()
    assert keys(journal, "SELECT deploy_id FROM imported") == ["i-7", "i-8"]
    clock.now += 2 * DAY
    await journal.prune()
    for query in ("deploy_id FROM imported", "key FROM asked", "deploy_id FROM instances"):
        assert keys(journal, f"SELECT {query}") == ["i-8"]


async def test_a_recreated_vm_keeps_the_records_of_its_new_instance(journal: Journal, clock: Clock) -> None:
    await journal.note_specification(DeployId("i-1"), "by now", vm_id=VmId(7))
    await answer(journal, 7, "CLEANUP", has_ended=True)
    await answer(journal, 7, "DEPLOY")
    await journal.note_specification(DeployId("i-2"), "by now", vm_id=VmId(7))
    clock.now += 31 * DAY
    await journal.prune()
    assert keys(journal, "SELECT key FROM asked") == ["i-2"]


async def test_requested_attributes_stay_if_another_vm_uses_the_instance_after_its_vms_end(
    journal: Journal, clock: Clock
) -> None:
    await journal.note_specification(DeployId("i-1"), "by now", vm_id=VmId(7))
    await answer(journal, 7, "SHUTDOWN", has_ended=True)
    await journal.note_specification(DeployId("i-1"), "once more", vm_id=VmId(8))
    clock.now += 31 * DAY
    await journal.prune()
    assert keys(journal, "SELECT asked FROM asked") == ["once more"]


async def test_open_requests_debts_parked_and_living_instances_are_never_deleted(
    journal: Journal, clock: Clock
) -> None:
    journal.open_request(action="DEPLOY", vm_id=VmId(7), dialect=Dialect.SINCE_6_0, payload=b"PFhNTD4=")
    await journal.park(DeployId("i-3"), VmId(3))
    await journal.add_debt(Debt(deploy_id=DeployId("i-4"), identity=an_identity(4), reason="late", since=NOW))
    await journal.set_fact("account", "harbour/west")
    await save(journal, 5, CREATED, at=NOW)
    clock.now += 3650 * DAY
    await journal.prune()
    assert [each.vm_id for each in await journal.open_requests()] == [7]
    assert await journal.parked() == {"i-3"}
    assert [each.deploy_id for each in await journal.debts()] == ["i-4"]
    assert await journal.fact("account") == "harbour/west"
    assert await journal.specification(DeployId("i-5"), owner="harbour", vm_id=VmId(5)) == "at first"


async def test_answers_are_deleted_after_an_hour_and_shutdown_requests_after_a_month(
    journal: Journal, clock: Clock
) -> None:
    for vm_id in (1, 2):
        await answer(journal, vm_id, "SHUTDOWN")
        await journal.note_soft_end(DeployId(f"i-{vm_id}"), Timestamp(at=clock()))
        clock.now += 3601
    clock.now = NOW
    await journal.prune()
    assert keys(journal, "SELECT vm_id FROM answered") == [2], (
        "counted from the last answer, also after the clock was set"
    )
    assert keys(journal, "SELECT deploy_id FROM soft_ends") == ["i-1", "i-2"]
    clock.now = NOW + 30 * DAY + 1
    await journal.prune()
    assert keys(journal, "SELECT deploy_id FROM soft_ends") == ["i-2"]


# The file

OLD = 100_000


def add_old(path: Path) -> None:
    """Write many attempts that ended long ago, and for every tenth one that has an instance."""
    rows = "WITH RECURSIVE row (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM row WHERE n + 1 < ?)"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        db.execute(
            f"INSERT INTO attempts {rows} SELECT 'old-' || n, 'harbour', n, 1, 0, 0, 1, '{{}}',"
            " iif(n % 10, 'gone', 'created'), 'i-' || n, 1.0, 1.0, hex(zeroblob(200)) FROM row",
            (OLD,),
        )
        db.execute("INSERT INTO moments SELECT token, 1.0, 1.0, 'boot' FROM attempts")
        db.execute("COMMIT")


def pragma(journal: Journal, name: str) -> Any:
    return keys(journal, f"PRAGMA {name}")[0]


async def test_a_large_file_shrinks_and_no_write_waits_for_more_than_two_steps(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_ROWS", 500)
    await asyncio.to_thread(add_old, journal.path)
    before = pragma(journal, "page_count")
    pruning = asyncio.create_task(journal.prune())
    left, most = OLD, 0
    while not pruning.done():
        await save(journal, OLD, CREATED, at=NOW)
        now = keys(journal, "SELECT count(*) FROM attempts")[0] - 1
        left, most = now, max(most, left - now)
    assert left == OLD // 10, "those with an instance"
    assert most <= 2 * 500
    assert len(keys(journal, "SELECT token FROM moments")) == left + 1
    size = pragma(journal, "page_count")
    assert size < before / 7
    assert pragma(journal, "freelist_count") <= size // 10
    assert pragma(journal, "integrity_check") == "ok"
    assert journal.path.stat().st_size == size * pragma(journal, "page_size")


async def live(journal: Journal, vm_id: int) -> None:
    """Let a VM be deployed, resized, and terminated; half of the VMs have imported their instance."""
    deploy_id = DeployId(f"i-{vm_id}")
    if vm_id % 2:
        await journal.record_import(deploy_id, vm_id=VmId(vm_id), stime=5)
    else:
        await save(journal, vm_id, CREATED, at=journal._clock())
    await journal.note_specification(deploy_id, "by now", vm_id=VmId(vm_id))
    await journal.note_soft_end(deploy_id, Timestamp(at=journal._clock()))
    if not vm_id % 2:
        await save(journal, vm_id, GONE, at=journal._clock())
    await answer(journal, vm_id, "SHUTDOWN", has_ended=True)


async def test_the_file_stops_growing_under_steady_traffic(journal: Journal, clock: Clock) -> None:
    daily, pages = 12, []
    for day in range(80):
        await asyncio.gather(*(live(journal, day * daily + number) for number in range(daily)))
        await journal.prune()
        pages.append(pragma(journal, "page_count"))
        clock.now += DAY
    assert max(pages[40:]) <= 1.1 * max(pages[:40])
    for table in ("attempts", "moments", "asked", "imported", "instances", "soft_ends", "answered"):
        assert keys(journal, f"SELECT count(*) FROM {table}")[0] <= 48 * daily, table


async def test_a_vm_that_may_be_recreated_is_forgotten_after_a_month(journal: Journal, clock: Clock) -> None:
    for vm_id, age in ((1, 31), (2, 29)):
        clock.now = NOW - age * DAY
        await journal.note_refused_vm(an_identity(vm_id), "no room")
    clock.now = NOW
    await journal.prune()
    assert keys(journal, "SELECT vm_id FROM recreations") == [2]
