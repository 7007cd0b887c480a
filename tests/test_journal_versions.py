"""Journals that earlier releases wrote, from their own SQL (journal_versions/): read as they are, and upgraded."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad import database
from one_provider_mad.database import connect
from one_provider_mad.domain import DeployId, Identity, OwnedVm, VmId, VmOwner
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.reader import (
    owners,
    read_attempts,
    read_debts,
    read_fact,
    read_open_requests,
    read_outline,
    read_recreations,
    read_vm_ids,
    read_writers,
)
from one_provider_mad.journal.records import (
    Answered,
    Attempt,
    AttemptState,
    Debt,
    OpenRequest,
    Recreation,
    Writer,
)
from one_provider_mad.journal.schema import VERSION, prepare
from one_provider_mad.journal.upkeep import forget_fact, try_to_write
from one_provider_mad.journal.writer import Journal
from one_provider_mad.processes import Process
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.timestamps import Timestamp

SCRIPTS = Path(__file__).parent / "journal_versions"
UNNUMBERED = range(1, 10)
"""Versions whose files all say 1."""

NOW = 1_800_000_000.0
PAYLOAD = b"PFhNTD4="
WRITER = Process(pid=4_000_000, start="12")
PARENT = Process(pid=3_999_999, start="7")
IDENTITY = Identity(owner="harbour", vm_id=VmId(7), stime=5, seq=2, host_id=3)
OPEN, CREATED, GONE = AttemptState.OPEN, AttemptState.CREATED, AttemptState.GONE

versions = pytest.mark.parametrize("version", range(1, VERSION))


def fill(db: sqlite3.Connection, version: int) -> None:
    """Write records as a release of this version did."""
    insert(db, "facts", "account", "harbour/west")
    insert(db, "writers", WRITER.pid, WRITER.start, PARENT.pid, PARENT.start, NOW)
    # Numbers were random up to version 3.
    numbers = (91, 17) if version < 4 else (17, 91)
    for number, vm_id, action in zip(numbers, (7, 8), ("DEPLOY", "SHUTDOWN"), strict=True):
        request = (number, vm_id, action, 1, zlib.compress(PAYLOAD, 1), NOW + vm_id, WRITER.pid, WRITER.start)
        insert(db, "requests", *request, *((2,) if version >= 2 else ()))
    for number, (token, state, deploy_id, at) in enumerate(
        [("gone", GONE, "i-1", NOW + 10), ("created", CREATED, "i-2", NOW + 20), ("open", OPEN, "", NOW + 30)], 1
    ):
        answered = (0.0 if state is OPEN else at,) if version >= 3 else ()
        identity = (IDENTITY.owner, IDENTITY.vm_id, IDENTITY.stime, IDENTITY.seq, IDENTITY.host_id)
        insert(db, "attempts", token, *identity, number, '{"size": "s"}', state.value, deploy_id, at, *answered, "why")
    insert(db, "debts", 4, "i-1", "gone", "harbour", 7, 5, 2, 3, "it has to go", NOW, 6, "no answer")
    insert(db, "parked", "i-3", 9, NOW)
    insert(db, "imported", "i-4", 11, 12)
    if version >= 4:
        insert(db, "answered", 13, "CLEANUP", NOW, *((1,) if version >= 5 else ()))
    if version >= 6:
        insert(db, "moments", "created", NOW + 21, 1.0, "boot")
    if version >= 7:
        insert(db, "soft_ends", "i-2", NOW + 40, 2.0, "boot", 1)
    if version >= 9:
        insert(db, "asked", "open", 1, "of the attempt")
        insert(db, "asked", "i-2", 0, "of the created one")
        insert(db, "asked", "i-4", 0, "of the imported one")
    if version >= 10:
        for deploy_id, vm_id in (("i-2", 7), ("i-4", 11)):
            insert(db, "instances", deploy_id, vm_id, 0)
    if version >= 11:
        insert(db, "recreations", 14, 15, 1, NOW, "no room", 1, 2, 1, NOW)


def insert(db: sqlite3.Connection, table: str, *values: object) -> None:
    """Insert a row by the places of its columns, as every release has done."""
    db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def write_earlier(path: Path, version: int, fill: Callable[[sqlite3.Connection, int], None] = fill) -> Path:
    """Make a journal of an earlier version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript((SCRIPTS / f"{version}.sql").read_text())
        db.execute("BEGIN")
        fill(db, version)
        db.execute("COMMIT")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "one_provider_mad_x.journal"


async def opened(path: Path) -> Journal:
    journal = Journal(path, clock=lambda: NOW, on_lost=pytest.fail)
    await journal.open()
    return journal


def open_and_close(path: Path) -> None:
    async def start_and_end() -> None:
        await (await opened(path)).close()

    asyncio.run(start_and_end())


def expected_attempts(*, latest: bool) -> list[Attempt]:
    """Return the attempts of `fill`; `latest`: with the timestamps that only the writer reads."""
    moment = Timestamp(at=NOW + 21, steady=1.0, boot="boot") if latest else None

    def an_attempt(token: str, state: AttemptState, number: int, at: float, **fields: Any) -> Attempt:
        base = {"identity": IDENTITY, "parameters": {"size": "s"}, "sent_at": at, "detail": "why", **fields}
        return Attempt(token=token, state=state, number=number, **base)

    return [
        an_attempt("gone", GONE, 1, NOW + 10, answered_at=NOW + 10, deploy_id=DeployId("i-1")),
        an_attempt("created", CREATED, 2, NOW + 20, answered_at=NOW + 20, deploy_id=DeployId("i-2"), latest=moment),
        an_attempt("open", OPEN, 3, NOW + 30),
    ]


DEBT = Debt(
    id=4, deploy_id=DeployId("i-1"), token="gone", identity=IDENTITY, reason="it has to go", since=NOW, tries=6,
    last_error="no answer",
)  # fmt: skip


def expected_requests(version: int, *numbers: int) -> list[OpenRequest]:
    return [
        OpenRequest(
            id=number,
            action=action,
            vm_id=VmId(vm_id),
            dialect=Dialect.SINCE_6_0,
            payload=PAYLOAD,
            opened_at=NOW + vm_id,
            writer=WRITER,
            takers=0 if version == 1 else 2,
        )
        for number, vm_id, action in zip(numbers, (7, 8), ("DEPLOY", "SHUTDOWN"), strict=True)
    ]


def recreations(version: int) -> list[Recreation]:
    loss = Recreation(
        vm_id=VmId(14), stime=15, seq=1, at=NOW, reason="no room", is_interrupted=True, tries=2, recreated_seq=1,
        recreated_at=NOW,
    )  # fmt: skip
    return [loss] if version >= 11 else []


def answers(version: int) -> dict[VmId, Answered]:
    """Up to version 4 it is unknown which actions have destroyed an instance."""
    return {VmId(13): Answered(action="CLEANUP", at=NOW, has_ended=True)} if version >= 5 else {}


def structure(path: Path) -> dict[str, object]:
    """Return tables with their columns, indexes with theirs, triggers, and how the file is kept."""
    with closing(sqlite3.connect(path)) as db:
        found: dict[str, object] = {"pragmas": [db.execute(f"PRAGMA {name}").fetchone() for name in KEPT]}
        for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
            columns = db.execute(f"PRAGMA {'index' if kind == 'index' else 'table'}_info({name})").fetchall()
            found[f"{kind} {name}"] = (columns, re.findall(r"WHERE .*", sql or ""))
    return found


KEPT = ("user_version", "auto_vacuum")


# Upgrading


@versions
async def test_an_earlier_journal_is_upgraded_with_all_its_records(path: Path, version: int) -> None:
    journal = await opened(write_earlier(path, version))
    try:
        numbers = (1, 2) if version < 4 else (17, 91)
        assert await journal.open_requests() == expected_requests(version, *numbers)
        assert await journal.attempts(owner="harbour", vm_id=VmId(7)) == expected_attempts(latest=version >= 6)
        assert await journal.debts() == [DEBT]
        assert await journal.parked_since() == {DeployId("i-3"): (VmId(9), NOW)}
        assert await journal.imported_for(DeployId("i-4")) == (VmId(11), 12)
        assert await journal.fact("account") == "harbour/west"
        assert Writer(process=WRITER, parent=PARENT, seen_at=NOW) in await journal.writers()
        soft_end = (Timestamp(at=NOW + 40, steady=2.0, boot="boot"), True) if version >= 7 else None
        assert await journal.soft_end(DeployId("i-2")) == soft_end
        found = [
            await journal.specification(DeployId(each), owner="harbour", vm_id=VmId(7)) for each in ("", "i-2", "i-4")
        ]
        wanted = ["of the attempt", "of the created one", "of the imported one"]
        assert found == (wanted if version >= 9 else [None] * 3)
        assert read_outline(path, since=0).answered == answers(version)
        assert read_recreations(path) == recreations(version)
        ada = VmOwner(user_id=3, user="ada", group_id=1, group="users")
        journal.note_owners([OwnedVm(vm_id=VmId(7), stime=5, owner=ada)])
        await journal.debts()
        assert owners(path) == {(7, 5): ada}
    finally:
        await journal.close()


@versions
async def test_an_upgraded_journal_has_the_tables_of_a_new_one(path: Path, tmp_path: Path, version: int) -> None:
    for each in (write_earlier(path, version), tmp_path / "new"):
        await (await opened(each)).close()
    assert structure(path) == structure(tmp_path / "new")
    assert structure(path)["pragmas"] == [(VERSION,), (2,)]


async def test_new_requests_come_after_those_of_an_upgraded_journal(path: Path) -> None:
    journal = await opened(write_earlier(path, 1))
    journal.open_request(action="REBOOT", vm_id=VmId(1), dialect=Dialect.SINCE_6_0, payload=b"")
    await journal.sync()
    assert [each.action for each in await journal.open_requests()] == ["DEPLOY", "SHUTDOWN", "REBOOT"]
    await journal.close()


@versions
async def test_many_may_open_one_earlier_journal_at_once(path: Path, version: int) -> None:
    write_earlier(path, version)
    journals = await asyncio.gather(*(opened(path) for _ in range(4)))
    assert [await each.debts() for each in journals] == [[DEBT]] * 4
    for each in journals:
        await each.close()


LARGE = 200
"""Attempts that no cache holds: half an upgrade is in the file when it is cut short."""


def fill_much(db: sqlite3.Connection, version: int) -> None:
    fill(db, version)
    rows = "WITH RECURSIVE row (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM row WHERE n < ?)"
    db.execute(
        f"INSERT INTO attempts {rows} SELECT 'large ' || n, 'else', n, 1, 1, 1, 1, '{{}}', 'created', 'e-' || n, 1.0,"
        " hex(zeroblob(1000)) FROM row",
        (LARGE,),
    )


KILLS = 10

DIE = """
import asyncio, os, shutil, signal, sys
from pathlib import Path
from one_provider_mad import database
from one_provider_mad.journal import writer

writer.PRAGMAS = writer.PRAGMAS[:1]  # what is killed needs no synchronisation
made, calls, deadly = database.connect, 0, 0

def connect(*args, **options):
    connection = made(*args, **options)
    connection.execute("PRAGMA cache_size = 10")
    connection.set_progress_handler(work, 100)
    return connection

def work():
    global calls
    calls += 1
    if calls == deadly:
        os.kill(os.getpid(), signal.SIGKILL)

database.connect = connect
original, tries = Path(sys.argv[1]), int(sys.argv[2])

def upgrade(copy):
    shutil.copy(original, copy)
    async def run():
        journal = writer.Journal(copy, clock=lambda: 0.0, on_lost=print)
        await journal.open()
        await journal.close()
    asyncio.run(run())

upgrade(original.with_name("whole"))
whole = calls
for number in range(tries):
    child = os.fork()
    if child == 0:
        calls, deadly = 0, 1 + whole * number // tries
        upgrade(original.with_name(f"cut-{number}"))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


def test_an_upgrade_that_is_killed_at_any_time_loses_nothing(path: Path) -> None:
    write_earlier(path, 1, fill_much)
    subprocess.run([sys.executable, "-c", DIE, path, str(KILLS)], check=True)
    cuts = [path.with_name(f"cut-{number}") for number in range(KILLS)]
    kept = [Path(f"{cut}-journal").stat().st_size for cut in cuts if Path(f"{cut}-journal").exists()]
    assert max(kept) > 100_000, "half an upgrade is to be undone"
    for cut in cuts:
        for _ in ("as it was left", "upgraded"):
            assert [each for each in read_attempts(cut) if each.identity == IDENTITY] == expected_attempts(latest=False)
            assert (len(read_attempts(cut)), read_debts(cut)) == (LARGE + 3, [DEBT])
            open_and_close(cut)
        assert structure(cut) == structure(path.with_name("whole"))


def connect_and(prepare: Callable[[sqlite3.Connection], None], *args: Any, **options: Any) -> sqlite3.Connection:
    """Open a file as `database.connect` does, and do this with the connection."""
    connection = connect(*args, **options)
    prepare(connection)
    return connection


def test_an_upgrade_on_a_full_disk_leaves_the_journal_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_earlier(path, 2, fill_much)
    before = path.read_bytes()

    def fill_disk(connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA max_page_count = {len(before) // 4096}")

    with monkeypatch.context() as full:
        full.setattr(database, "connect", partial(connect_and, fill_disk))
        with pytest.raises(JournalError, match="the journal cannot be used: database or disk is full"):
            open_and_close(path)
    assert path.read_bytes() == before
    open_and_close(path)
    assert (len(read_attempts(path)), read_debts(path)) == (LARGE + 3, [DEBT])


async def test_a_file_that_vacuum_cannot_rewrite_is_used_and_rewritten_at_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_earlier(path, 9)

    def refuse_to_rewrite(connection: sqlite3.Connection) -> None:
        denied = sqlite3.SQLITE_ATTACH  # VACUUM attaches the file that it writes
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action == denied else sqlite3.SQLITE_OK)

    with monkeypatch.context() as full:
        full.setattr(database, "connect", partial(connect_and, refuse_to_rewrite))
        journal = await opened(path)
        assert await journal.debts() == [DEBT]
        await journal.prune()
        await journal.close()
    assert structure(path)["pragmas"] == [(VERSION,), (0,)]
    await (await opened(path)).close()
    assert structure(path)["pragmas"] == [(VERSION,), (2,)]


# Reading


@versions
def test_an_earlier_journal_is_read_without_being_changed(path: Path, version: int) -> None:
    write_earlier(path, version)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert read_attempts(path) == expected_attempts(latest=False)
    assert read_debts(path) == [DEBT]
    requests = expected_requests(version, 91, 17) if version < 4 else expected_requests(version, 17, 91)
    assert sorted(read_open_requests(path), key=lambda each: each.vm_id) == requests
    assert read_vm_ids(path) == [7, 8, 9, 11]
    assert read_writers(path) == [Writer(process=WRITER, parent=PARENT, seen_at=NOW)]
    assert read_fact(path, "account") == "harbour/west"
    outline = read_outline(path, since=NOW + 15)
    assert outline.attempts == tuple(expected_attempts(latest=False)[1:])
    assert outline.unanswered == {WRITER: frozenset({VmId(7), VmId(8)})}
    assert (*outline.parked, *outline.owed) == ("i-3", "i-1")
    assert outline.answered == answers(version)
    assert read_recreations(path) == recreations(version)
    assert owners(path) == {}
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@versions
def test_a_journal_is_read_while_it_is_being_upgraded(path: Path, version: int) -> None:
    write_earlier(path, version)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        prepare(db)
        assert read_attempts(path) == expected_attempts(latest=False)
        db.execute("COMMIT")
    assert read_attempts(path) == expected_attempts(latest=False)
    assert read_outline(path, since=0).answered == answers(version)


LATER = rf"a later release has upgraded it to version {VERSION + 1}, .*: install that release"


def write_later(path: Path, *changes: str) -> bytes:
    """Make a journal of a later release, and return its content."""
    write_earlier(path, 9)
    open_and_close(path)
    with closing(sqlite3.connect(path)) as db:
        for change in (*changes, f"PRAGMA user_version = {VERSION + 1}"):
            db.execute(change)
        db.commit()
    return path.read_bytes()


@pytest.mark.parametrize("mode", ["TRUNCATE", "WAL"])
def test_a_journal_of_a_later_release_is_not_written_and_left_as_it_is(path: Path, mode: str) -> None:
    before = write_later(path, f"PRAGMA journal_mode = {mode}")
    for use in (partial(forget_fact, name="account"), try_to_write, open_and_close):
        with pytest.raises(JournalError, match=LATER):
            use(path)
    assert path.read_bytes() == before


def test_a_journal_of_a_later_release_is_read_without_what_that_added(path: Path) -> None:
    """Reports go on after a downgrade."""
    more = ("CREATE TABLE more (x)", "ALTER TABLE attempts ADD COLUMN more", "ALTER TABLE debts ADD COLUMN more")
    before = write_later(path, *more)
    assert read_attempts(path) == expected_attempts(latest=False)
    assert read_debts(path) == [DEBT]
    assert read_open_requests(path) == expected_requests(9, 17, 91)
    assert read_fact(path, "account") == "harbour/west"
    assert read_vm_ids(path)
    outline = read_outline(path, since=0)
    assert (*outline.parked, *outline.owed) == ("i-3", "i-1")
    assert re.search(LATER, outline.caution)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("ALTER TABLE attempts RENAME TO creates", id="a-table-renamed"),
        pytest.param("ALTER TABLE attempts DROP COLUMN detail", id="a-column-dropped"),
        pytest.param("UPDATE attempts SET parameters = '<'", id="another-form"),
    ],
)
def test_a_journal_of_a_later_release_that_cannot_be_read_is_refused(path: Path, change: str) -> None:
    write_later(path, change)
    for read in (read_attempts, partial(read_outline, since=0)):
        with pytest.raises(JournalError, match=LATER):
            read(path)


# Beside a process of the previous release, and back to it


def write_as_before(db: sqlite3.Connection) -> None:
    """Write one record of each kind as a release of version 9 does."""
    fill(db, 9)
    insert(db, "answered", 14, "CLEANUP", NOW, 1)
    db.execute("UPDATE requests SET pid = 1, start = '1', takers = takers + 1 WHERE id = 17")


async def test_a_running_process_of_the_previous_release_can_write_an_upgraded_journal(path: Path) -> None:
    """oned may start the new driver while the old one is still ending."""
    write_earlier(path, 9, lambda _db, _version: None)
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute("SELECT * FROM attempts").fetchall()
        journal = await opened(path)
        write_as_before(old)
        assert await journal.attempts(owner="harbour", vm_id=VmId(7)) == expected_attempts(latest=True)
        assert await journal.debts() == [DEBT]
        await journal.prune()
        assert await journal.specification(DeployId("i-4"), owner="harbour", vm_id=VmId(11)) == "of the imported one"
        await journal.close()


async def test_the_previous_release_can_use_an_upgraded_journal_once_its_number_is_set_back(path: Path) -> None:
    """As docs/troubleshooting.md says."""
    await (await opened(write_earlier(path, 9))).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute("PRAGMA user_version = 1")
        old.executescript((SCRIPTS / "9.sql").read_text())
        write_as_before(old)
    journal = await opened(path)
    assert await journal.attempts(owner="harbour", vm_id=VmId(7)) == expected_attempts(latest=True)
    await journal.close()
