from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Identity, VmId
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.reader import read_debts, read_fact, read_outline
from one_provider_mad.journal.records import Attempt, AttemptState, Debt, OpenRequest
from one_provider_mad.journal.upkeep import forget_fact
from one_provider_mad.journal.writer import Journal
from one_provider_mad.processes import Process
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.timestamps import Timestamp
from tests.waiting import HANG

ROOT = Path(__file__).parent.parent
NOW = 1_800_000_000.0
DAY = 86400.0


class Clock:
    """A clock that shows `now`, which a test may set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "one_provider_mad_x.journal"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
async def journal(path: Path, clock: Clock, lost: list[str]) -> AsyncIterator[Journal]:
    journal = Journal(path, clock=clock, on_lost=lost.append)
    await journal.open()
    yield journal
    await journal.close()


async def reopened(journal: Journal, clock: Clock) -> Journal:
    """Close the journal, and open the same file as the next process does."""
    await journal.close()
    again = Journal(journal.path, clock=clock, on_lost=pytest.fail)
    await again.open()
    return again


def an_identity(**fields: Any) -> Identity:
    return Identity(**{"owner": "harbour", "vm_id": VmId(7), "stime": 1_700_000_000, "seq": 0, "host_id": 3, **fields})


def a_debt(**fields: Any) -> Debt:
    base = {"deploy_id": DeployId("i-1"), "identity": an_identity(), "reason": "it has to go", "since": NOW}
    return Debt(**{**base, **fields})


def open_request(journal: Journal, vm_id: int = 7, action: str = "DEPLOY", payload: bytes = b"PFhNTD4=") -> int:
    return journal.open_request(action=action, vm_id=VmId(vm_id), dialect=Dialect.SINCE_6_0, payload=payload)


async def unanswered(journal: Journal) -> list[OpenRequest]:
    """The open requests in the file after all pending writes: one may be under way, and another wait for it."""
    for _ in range(2):
        await journal.open_requests()
    return await journal.open_requests()


async def actions(journal: Journal) -> dict[int, str]:
    """The actions of the open requests in the file, by id."""
    return {request.id: request.action for request in await journal.open_requests()}


def look(path: Path, query: str) -> list[Any]:
    """Read the file through a separate connection."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


# The file


async def test_the_journal_file_has_mode_600(journal: Journal) -> None:
    assert stat.S_IMODE(os.stat(journal.path).st_mode) == 0o600


async def test_the_journal_uses_truncate_mode_and_syncs_each_commit(journal: Journal) -> None:
    async def pragma(name: str) -> object:
        row = await journal._database.read(lambda db: db.execute(f"PRAGMA {name}").fetchone())
        return row[0]

    assert (await pragma("journal_mode"), await pragma("synchronous")) == ("truncate", 2)


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def write_another_version(path: Path) -> None:
    path.parent.mkdir(parents=True)
    tamper(path, "CREATE TABLE attempts (x)", "PRAGMA user_version = 99")


BROKEN: list[object] = [
    pytest.param(lambda path: write(path, b"no database " * 1000), "file is not a database", id="another-kind"),
    pytest.param(lambda path: path.mkdir(parents=True), "unable to open database file", id="a-directory"),
    pytest.param(lambda path: path.parent.write_bytes(b""), "File exists|Not a directory", id="no-directory"),
    pytest.param(
        write_another_version,
        "a later release has upgraded it to version 99, and this release writes versions up to 12: install ",
        id="another-version",
    ),
]


@pytest.mark.parametrize(("spoil", "reason"), BROKEN)
async def test_opening_an_unusable_file_fails_with_its_path_and_the_reason(
    path: Path, clock: Clock, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(path)
    journal = Journal(path, clock=clock, on_lost=pytest.fail)
    with pytest.raises(JournalError, match=rf"^the journal cannot be used: .*({reason}).* \({path}\)$"):
        await journal.open()
    await journal.close()


async def test_a_journal_of_another_version_is_not_changed(path: Path, clock: Clock) -> None:
    write_another_version(path)
    before = path.read_bytes()  # noqa: ASYNC240 - a small file
    with pytest.raises(JournalError):
        await Journal(path, clock=clock, on_lost=pytest.fail).open()
    assert path.read_bytes() == before  # noqa: ASYNC240


async def test_a_missing_table_raises_journal_error(journal: Journal) -> None:
    tamper(journal.path, "DROP TABLE debts", "DROP TABLE attempts")
    with pytest.raises(JournalError, match=r"^the journal cannot be used: no such table: debts"):
        await journal.debts()
    with pytest.raises(JournalError, match="no such table: attempts"):
        await journal.save_attempt(Attempt.new(an_identity(), 1, {}))


async def test_a_closed_journal_raises_journal_error(path: Path, clock: Clock) -> None:
    journal = Journal(path, clock=clock, on_lost=pytest.fail)
    await journal.open()
    await journal.close()
    await journal.close()
    with pytest.raises(JournalError, match="cannot be used"):
        await journal.set_fact("account", "one")


# Attempts


def test_an_attempt_has_a_token_of_64_hexadecimal_characters() -> None:
    assert re.fullmatch("[0-9a-f]{64}", Attempt.new(an_identity(), 1, {}).token)


def test_the_token_does_not_depend_on_the_host_and_the_parameters() -> None:
    token = Attempt.new(an_identity(host_id=3), 1, {"size": "small"}).token
    assert Attempt.new(an_identity(host_id=9), 1, {"size": "large"}).token == token


@pytest.mark.parametrize(
    ("identity", "number"),
    [
        pytest.param(an_identity(owner="harbour2"), 1, id="owner"),
        pytest.param(an_identity(vm_id=VmId(71)), 1, id="vm"),
        pytest.param(an_identity(stime=1), 1, id="stime"),
        pytest.param(an_identity(seq=1), 1, id="seq"),
        pytest.param(an_identity(), 2, id="number"),
        pytest.param(an_identity(vm_id=VmId(71_700_000_000), stime=0), 1, id="digits-moved-between-fields"),
    ],
)
def test_attempts_with_another_identity_or_number_have_another_token(identity: Identity, number: int) -> None:
    assert Attempt.new(identity, number, {}).token != Attempt.new(an_identity(), 1, {}).token


async def test_an_attempt_is_read_back_unchanged_after_a_restart(journal: Journal, clock: Clock) -> None:
    parameters = {"size": "small", "disks": ({"id": "0"}, {"id": "1"}), "name": "grüße 東京", "n": 1.5, "none": None}
    attempt = Attempt.new(an_identity(seq=4), 2, parameters)
    await journal.save_attempt(attempt)
    again = await reopened(journal, clock)
    assert await again.attempts(owner="harbour", vm_id=VmId(7)) == [attempt]
    assert (attempt.state, attempt.deploy_id) == (AttemptState.OPEN, "")
    await again.close()


@pytest.mark.parametrize("state", AttemptState, ids=lambda state: state.value)
async def test_an_updated_attempt_replaces_its_former_record(journal: Journal, state: AttemptState) -> None:
    first = Attempt.new(an_identity(), 1, {"size": "small"})
    await journal.save_attempt(first)
    later = Attempt(
        token=first.token,
        identity=first.identity,
        number=1,
        parameters=first.parameters,
        state=state,
        deploy_id=DeployId("i-9"),
        sent_at=NOW + 0.25,
        detail="no room",
    )
    await journal.save_attempt(later)
    assert await journal.attempts(owner="harbour", vm_id=VmId(7)) == [later]


async def test_attempts_are_those_of_the_vm_oldest_first(journal: Journal) -> None:
    mine = [
        Attempt.new(an_identity(stime=stime, seq=seq), number, {})
        for stime, seq, number in [(5, 0, 1), (5, 0, 2), (5, 3, 1), (9, 0, 1)]
    ]
    others = [Attempt.new(an_identity(owner="else"), 1, {}), Attempt.new(an_identity(vm_id=VmId(8)), 1, {})]
    for attempt in [*reversed(mine), *others]:
        await journal.save_attempt(attempt)
    assert await journal.attempts(owner="harbour", vm_id=VmId(7)) == mine


@pytest.mark.parametrize(
    ("state", "is_kept"),
    [
        pytest.param(AttemptState.OPEN, True, id="open"),
        pytest.param(AttemptState.CREATED, True, id="created"),
        pytest.param(AttemptState.REFUSED, False, id="refused"),
        pytest.param(AttemptState.GONE, False, id="gone"),
    ],
)
async def test_refused_and_closed_attempts_are_deleted_after_a_month(
    journal: Journal, state: AttemptState, *, is_kept: bool
) -> None:
    old, young = (
        Attempt(
            token=f"token-{age}",
            identity=an_identity(),
            number=age,
            parameters={},
            state=state,
            sent_at=NOW - age * DAY,
        )
        for age in (31, 29)
    )
    await journal.save_attempt(old)
    await journal.save_attempt(young)
    await journal.prune()
    left = await journal.attempts(owner="harbour", vm_id=VmId(7))
    assert left == ([young, old] if is_kept else [young])


# The specification of each instance


async def specification(journal: Journal, deploy_id: str = "i-1", *, vm_id: int = 7) -> str | None:
    return await journal.specification(DeployId(deploy_id), owner="harbour", vm_id=VmId(vm_id))


async def test_a_specification_is_that_of_the_create_until_a_newer_one_is_recorded(
    journal: Journal, clock: Clock
) -> None:
    attempt = Attempt.new(an_identity(), 1, {}, specification="at first")
    await journal.save_attempt(attempt)
    created = msgspec.structs.replace(attempt, state=AttemptState.CREATED, deploy_id=DeployId("i-1"), specification="")
    await journal.save_attempt(created)
    assert await specification(journal) == "at first"
    assert await specification(journal, "i-2") is None
    assert await specification(journal, vm_id=8) is None
    await journal.note_specification(DeployId("i-1"), "by now", vm_id=VmId(7))
    journal = await reopened(journal, clock)
    assert await specification(journal) == "by now"
    await journal.close()


async def test_specifications_are_deleted_with_the_old_attempts_of_gone_instances(
    journal: Journal, clock: Clock
) -> None:
    for number, state in enumerate((AttemptState.GONE, AttemptState.CREATED)):
        deploy_id = DeployId(f"i-{number}")
        attempt = Attempt.new(an_identity(vm_id=VmId(number)), 1, {}, specification="at first")
        moment = Timestamp(at=clock() - 40 * 86400)
        await journal.save_attempt(msgspec.structs.replace(attempt, state=state, deploy_id=deploy_id).sent(moment))
        await journal.note_specification(deploy_id, "by now", vm_id=VmId(number))
    await journal.prune()
    assert [await specification(journal, f"i-{number}", vm_id=number) for number in range(2)] == [None, "by now"]
    await journal.close()
    assert look(journal.path, "SELECT key, is_token FROM asked WHERE NOT is_token") == [("i-1", 0)]
    assert look(journal.path, "SELECT count(*) FROM asked WHERE is_token") == [(1,)]


# Debts


async def test_a_debt_is_read_back_unchanged_after_a_restart(journal: Journal, clock: Clock) -> None:
    debt = a_debt(token="token-1", reason="grüße")
    await journal.add_debt(debt)
    again = await reopened(journal, clock)
    [found] = await again.debts()
    assert found == a_debt(id=found.id, token="token-1", reason="grüße")
    assert found.id > 0
    await again.close()


async def test_the_same_debt_recorded_again_extends_the_existing_one(journal: Journal) -> None:
    await journal.add_debt(a_debt())
    [first] = await journal.debts()
    await journal.note_try(first, "no answer")
    await journal.add_debt(a_debt(reason="again", since=NOW + 5, identity=an_identity(seq=2)))
    await journal.add_debt(a_debt(reason="and again", since=NOW - 5))
    expected = a_debt(id=first.id, tries=1, last_error="no answer", since=NOW + 5, identity=an_identity(seq=2))
    assert await journal.debts() == [expected]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(a_debt(deploy_id=DeployId("i-2")), id="instance"),
        pytest.param(a_debt(token="token-2"), id="token"),
        pytest.param(a_debt(identity=an_identity(vm_id=VmId(8))), id="vm"),
        pytest.param(a_debt(identity=an_identity(stime=1)), id="life"),
    ],
)
async def test_a_debt_with_another_id_token_or_vm_is_a_separate_one(journal: Journal, other: Debt) -> None:
    await journal.add_debt(a_debt())
    await journal.add_debt(other)
    assert len(await journal.debts()) == 2


async def test_debts_are_listed_oldest_first_until_they_are_paid(journal: Journal) -> None:
    for number in range(4):
        await journal.add_debt(a_debt(deploy_id=DeployId(f"i-{number}")))
    debts = await journal.debts()
    assert [debt.deploy_id for debt in debts] == ["i-0", "i-1", "i-2", "i-3"]
    await journal.pay_debt(debts[1])
    await journal.pay_debt(debts[1])
    assert [debt.deploy_id for debt in await journal.debts()] == ["i-0", "i-2", "i-3"]


async def test_a_debt_counts_its_tries_and_keeps_the_last_error(journal: Journal, clock: Clock) -> None:
    await journal.add_debt(a_debt())
    [debt] = await journal.debts()
    for error in ("first", "second"):
        await journal.note_try(debt, error)
    again = await reopened(journal, clock)
    [found] = await again.debts()
    assert (found.tries, found.last_error) == (2, "second")
    await again.close()


async def test_a_new_debt_wakes_the_debt_payer(journal: Journal) -> None:
    assert not journal.has_new_debt.is_set()
    await journal.add_debt(a_debt())
    assert journal.has_new_debt.is_set()


# Unanswered requests


async def test_an_unanswered_request_is_read_back_after_a_crash(journal: Journal, clock: Clock) -> None:
    payload = b"PFhNTD4=" * 10_000
    number = open_request(journal, 7, "DEPLOY", payload)
    again = await reopened(journal, clock)
    assert await again.open_requests() == [
        OpenRequest(
            id=number,
            action="DEPLOY",
            vm_id=VmId(7),
            dialect=Dialect.SINCE_6_0,
            payload=payload,
            opened_at=NOW,
            writer=Process.current(),
        )
    ]
    await again.close()


async def test_a_request_can_be_recorded_without_payload(journal: Journal) -> None:
    open_request(journal, 7, "REBOOT", b"")
    [found] = await journal.open_requests()
    assert (found.action, found.payload) == ("REBOOT", b"")


async def test_an_answered_request_is_deleted(journal: Journal, path: Path) -> None:
    first, second = open_request(journal, 1), open_request(journal, 2)
    assert {request.id for request in await unanswered(journal)} == {first, second}
    journal.close_request(first)
    assert [request.id for request in await unanswered(journal)] == [second]


async def test_unanswered_requests_are_listed_oldest_first(journal: Journal, clock: Clock) -> None:
    for vm_id in (3, 1, 2):
        clock.now += 1
        open_request(journal, vm_id)
    assert [request.vm_id for request in await unanswered(journal)] == [3, 1, 2]


async def test_a_request_answered_before_it_was_written_is_never_written(journal: Journal) -> None:
    may_go_on = threading.Event()
    changes: list[int] = []

    def count_changes(db: sqlite3.Connection) -> None:
        may_go_on.wait(HANG)
        changes.append(db.total_changes)

    open_request(journal, 1)  # its write is under way while the others are opened and closed
    busy = asyncio.create_task(journal._database.read(count_changes))
    await asyncio.sleep(0)
    for vm_id in range(100, 200):
        journal.close_request(open_request(journal, vm_id))
    may_go_on.set()
    await busy
    assert [request.vm_id for request in await unanswered(journal)] == [1]
    changes.append(await journal._database.read(lambda db: db.total_changes))
    assert changes[0] == changes[1]


async def test_thousands_of_requests_cost_a_few_commits(journal: Journal) -> None:
    statements: list[str] = []
    await journal._database.read(lambda db: db.set_trace_callback(statements.append))
    numbers = []
    for vm_id in range(2000):
        numbers.append(open_request(journal, vm_id, payload=b""))
        if vm_id % 50 == 0:
            await asyncio.sleep(0)
    assert len(await unanswered(journal)) == 2000
    for number in numbers:
        journal.close_request(number)
    assert await unanswered(journal) == []
    assert statements.count("COMMIT") < 50


@pytest.mark.parametrize("is_written", [True, False], ids=["written", "not-yet-written"])
async def test_a_cancelled_request_that_has_not_ended_is_recorded_as_driver_cancel(
    journal: Journal, *, is_written: bool
) -> None:
    other = open_request(journal, 1)  # its write is under way when the next one comes
    number = open_request(journal, 7, "DEPLOY", b"UEFZ")
    if is_written:
        await unanswered(journal)
    journal.call_off_request(number)
    found = {request.id: request for request in await unanswered(journal)}
    assert (found[number].action, found[number].payload) == ("DRIVER_CANCEL", b"UEFZ")
    assert found[other].action == "DEPLOY"
    journal.close_request(number)
    assert [request.id for request in await unanswered(journal)] == [other]


async def test_closing_writes_all_pending_records(journal: Journal, path: Path) -> None:
    kept = [open_request(journal, vm_id) for vm_id in range(3)]
    await asyncio.sleep(0)
    kept += [open_request(journal, vm_id) for vm_id in range(3, 6)]
    journal.close_request(kept.pop(0))
    await journal.close()
    assert {row[0] for row in look(path, "SELECT id FROM requests")} == set(kept)


FULL = "CREATE TRIGGER full BEFORE {} ON requests BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
"""Simulates a full disk for one kind of write."""


async def test_failed_request_records_are_reported_once_and_raise_nothing(journal: Journal, lost: list[str]) -> None:
    tamper(journal.path, FULL.format("INSERT"))
    for vm_id in range(5):
        open_request(journal, vm_id)
        assert await unanswered(journal) == []
    assert lost == [f"the journal cannot be used: database or disk is full ({journal.path})"]
    tamper(journal.path, "DROP TRIGGER full")
    open_request(journal, 5)
    assert {request.vm_id for request in await unanswered(journal)} == set(range(6))
    tamper(journal.path, FULL.format("INSERT"))
    open_request(journal, 6)
    await unanswered(journal)
    assert len(lost) == 2, "a second fault is reported again"


@pytest.mark.parametrize("is_pushed", [True, False], ids=["with-the-next-record", "after-a-pause"])
async def test_failed_request_records_are_written_later(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, *, is_pushed: bool
) -> None:
    """Otherwise the next process would repeat answered requests, long after their time."""
    monkeypatch.setattr("one_provider_mad.journal.writer._AGAIN_SECONDS", 60 if is_pushed else 0.01)
    answered, called_off = open_request(journal, 1), open_request(journal, 2)
    await unanswered(journal)
    for what in ("DELETE", "UPDATE", "INSERT"):
        tamper(journal.path, FULL.format(what).replace("full B", f"full_{what} B"))
    journal.close_request(answered)
    journal.call_off_request(called_off)
    fresh, short = open_request(journal, 3), open_request(journal, 4)
    await unanswered(journal)
    journal.close_request(short)
    assert {request.id for request in await unanswered(journal)} == {answered, called_off}
    for what in ("DELETE", "UPDATE", "INSERT"):
        tamper(journal.path, f"DROP TRIGGER full_{what}")
    if is_pushed:
        journal.close_request(open_request(journal, 5))
    async with asyncio.timeout(HANG):
        while await actions(journal) != {called_off: "DRIVER_CANCEL", fresh: "DEPLOY"}:
            pass  # each read of the file lets the journal continue


async def test_a_cancelled_sync_loses_no_record(journal: Journal) -> None:
    answered = open_request(journal, 1)
    await unanswered(journal)
    kept = [open_request(journal, 2)]  # its write is under way while the others wait
    await asyncio.sleep(0)
    kept.append(open_request(journal, 3))
    journal.close_request(answered)
    syncing = asyncio.create_task(journal.sync())
    await asyncio.sleep(0)
    syncing.cancel()
    assert {request.id for request in await unanswered(journal)} == set(kept)


async def test_all_records_are_on_disk_after_sync(journal: Journal, path: Path) -> None:
    numbers = {open_request(journal, vm_id) for vm_id in range(5)}
    await journal.sync()
    assert {row[0] for row in look(path, "SELECT id FROM requests")} == numbers


async def test_a_request_opened_after_closing_is_reported_and_raises_nothing(journal: Journal, lost: list[str]) -> None:
    await journal.close()
    open_request(journal)
    assert len(lost) == 1
    assert lost[0].startswith("the journal cannot be used: ")


# Writers


async def test_opening_records_the_process_and_its_parent(journal: Journal) -> None:
    [writer] = await journal.writers()
    assert (writer.process, writer.parent, writer.seen_at) == (Process.current(), Process.parent(), NOW)


async def test_a_process_records_when_it_was_last_alive(journal: Journal, clock: Clock) -> None:
    clock.now += 15
    await journal.show_life()
    [writer] = await journal.writers()
    assert writer.seen_at == NOW + 15


ANOTHER_PROCESS = """
import asyncio, os, sys
from pathlib import Path
from one_provider_mad.domain import VmId
from one_provider_mad.journal.writer import Journal
from one_provider_mad.protocol.dialect import Dialect

async def write():
    journal = Journal(Path(sys.argv[1]), clock=lambda: 1_800_000_000.0, on_lost=print)
    await journal.open()
    for vm_id in range(40, 45):
        journal.open_request(action="DEPLOY", vm_id=VmId(vm_id), dialect=Dialect.UP_TO_5_12, payload=b"UEFZ")
        await journal.open_requests()
    print(os.getpid(), flush=True)
    os._exit(9)

asyncio.run(write())
"""


def write_and_crash(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ANOTHER_PROCESS, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


async def test_two_processes_share_a_journal_and_one_takes_over_the_others_requests(journal: Journal) -> None:
    child = write_and_crash(journal.path)
    while child.poll() is None:
        number = open_request(journal, 1)
        await journal.open_requests()
        journal.close_request(number)
    output, _ = child.communicate()
    dead = next(writer for writer in await journal.writers() if writer.process.pid == int(output))
    assert dead.parent == Process.current()
    left = [request for request in await journal.open_requests() if request.writer == dead.process]
    assert {request.vm_id for request in left} == set(range(40, 45))
    assert {request.payload for request in left} == {b"UEFZ"}

    await journal.take_request(left[0].id)
    await journal.forget_writer(dead.process)
    ours = [request for request in await journal.open_requests() if request.vm_id >= 40]
    assert [(request.id, request.writer) for request in ours] == [(left[0].id, Process.current())]
    assert [writer.process for writer in await journal.writers()] == [Process.current()]


# Instances and facts


async def test_parked_instances_are_remembered_until_they_are_unparked(journal: Journal, clock: Clock) -> None:
    for deploy_id in ("i-1", "i-2", "i-1"):
        await journal.park(DeployId(deploy_id), VmId(7))
    again = await reopened(journal, clock)
    assert await again.parked() == {"i-1", "i-2"}
    await again.unpark(DeployId("i-1"))
    await again.unpark(DeployId("i-404"))
    assert await again.parked() == {"i-2"}
    await again.close()


async def test_an_import_is_recorded_with_the_vm_and_its_stime(journal: Journal, clock: Clock) -> None:
    await journal.record_import(DeployId("i-1"), vm_id=VmId(7), stime=5)
    again = await reopened(journal, clock)
    assert await again.imported_for(DeployId("i-1")) == (7, 5)
    assert await again.imported_for(DeployId("i-2")) is None
    await again.close()


async def test_a_fact_is_read_back_after_a_restart_and_can_be_replaced(journal: Journal, clock: Clock) -> None:
    assert await journal.fact("account") is None
    await journal.set_fact("account", "one/north")
    await journal.set_fact("account", "two/south")
    again = await reopened(journal, clock)
    assert await again.fact("account") == "two/south"
    await again.close()


# Readers in other processes


async def test_debts_and_facts_can_be_read_while_the_driver_runs(journal: Journal) -> None:
    await journal.add_debt(a_debt())
    await journal.set_fact("account", "one/north")
    assert [debt.deploy_id for debt in read_debts(journal.path)] == ["i-1"]
    assert read_fact(journal.path, "account") == "one/north"
    assert read_fact(journal.path, "weather") is None


async def test_a_fact_can_be_deleted_while_the_driver_runs(journal: Journal) -> None:
    await journal.set_fact("account", "one/north")
    assert forget_fact(journal.path, "account") == "one/north"
    assert forget_fact(journal.path, "account") is None
    assert await journal.fact("account") is None


def test_a_missing_journal_reads_as_empty_and_is_not_created(path: Path) -> None:
    assert read_debts(path) == []
    assert read_fact(path, "account") is None
    assert forget_fact(path, "account") is None
    assert not path.exists(), "reading creates no file"


def test_reading_a_file_that_is_no_journal_raises_journal_error(path: Path) -> None:
    write(path, b"no database " * 1000)
    with pytest.raises(JournalError, match=rf"^the journal cannot be read: file is not a database \({path}\)"):
        read_fact(path, "account")
    with pytest.raises(JournalError, match=rf"^the journal cannot be read: file is not a database \({path}\)"):
        read_debts(path)
    with pytest.raises(JournalError, match=rf"^the journal cannot be written: file is not a database \({path}\)"):
        forget_fact(path, "account")


HALF_A_COMMIT = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN IMMEDIATE")
db.execute("DELETE FROM debts")
for number in range(2000):
    db.execute("INSERT INTO facts VALUES (?, ?)", (str(number), "x" * 500))
os._exit(9)
"""


def die_in_the_middle_of_a_commit(path: Path) -> None:
    subprocess.run([sys.executable, "-c", HALF_A_COMMIT, path], check=False)
    assert Path(f"{path}-journal").stat().st_size > 1000, "half a commit is to be undone"


async def test_readers_roll_back_a_commit_that_a_dead_writer_left_unfinished(journal: Journal, path: Path) -> None:
    await journal.add_debt(a_debt())
    await journal.close()
    die_in_the_middle_of_a_commit(path)
    assert [debt.deploy_id for debt in read_debts(path)] == ["i-1"]
    assert read_fact(path, "5") is None


def ends(path: Path) -> dict[int, bool]:
    """For each VM, whether its last answer ended its instance."""
    return {vm_id: each.has_ended for vm_id, each in read_outline(path, since=0).answered.items()}


async def test_has_ended_of_an_answered_request_is_recorded_after_a_full_disk(
    journal: Journal, path: Path, lost: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [open_request(journal, vm_id, "SHUTDOWN") for vm_id in (1, 2)]
    await journal.sync()
    monkeypatch.setattr("one_provider_mad.journal.writer._AGAIN_SECONDS", 0.01)
    tamper(path, "CREATE TRIGGER full BEFORE DELETE ON requests BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    journal.close_request(numbers[0], has_ended=True)
    with pytest.raises(JournalError, match="disk is full"):
        await journal.sync()
    assert ends(path) == {}
    tamper(path, "DROP TRIGGER full")
    journal.close_request(numbers[1])
    async with asyncio.timeout(HANG):
        while await unanswered(journal):
            pass  # each read of the file lets the journal continue
    assert ends(path) == {1: True, 2: False}
    assert len(lost) == 1
