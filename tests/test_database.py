from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from one_provider_mad.database import Database
from tests.waiting import HANG, until

FORGETFUL = ("journal_mode = WAL", "synchronous = OFF")
CAREFUL = ("journal_mode = TRUNCATE", "synchronous = FULL")


class Unusable(Exception):
    """The error that the user of a database raises for SQLite's errors."""


def unusable(error: Exception) -> Unusable:
    return Unusable(f"cannot be used: {error}")


def prepare(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS lines (text TEXT UNIQUE)")


def a_database(
    path: Path, *, pragmas: Sequence[str] = FORGETFUL, prepare: Callable[[sqlite3.Connection], None] = prepare
) -> Database:
    return Database(path, pragmas=pragmas, prepare=prepare, unusable=unusable)


def add(text: str) -> Callable[[sqlite3.Connection], None]:
    def operation(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO lines VALUES (?)", (text,))

    return operation


def everything(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("SELECT text FROM lines ORDER BY rowid")]


def seen_by_others(path: Path) -> list[str]:
    """The lines that another process would read."""
    db = sqlite3.connect(path)
    try:
        return everything(db)
    finally:
        db.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def make_file(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "file.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    database = a_database(path)
    await database.open()
    yield database
    await database.close()


class Traffic:
    """Keeps the database's thread busy, so that operations submitted meanwhile wait together."""

    def __init__(self, database: Database) -> None:
        self._may_go_on = threading.Event()
        self._has_begun = threading.Event()
        self._busy = database.submit(self._wait)

    def _wait(self, _db: sqlite3.Connection) -> None:
        self._has_begun.set()
        self._may_go_on.wait(HANG)

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self._has_begun.wait, 10)

    async def go_on(self) -> None:
        await asyncio.sleep(0)  # operations submitted in this turn of the loop are sent at its end
        await asyncio.sleep(0)
        self._may_go_on.set()
        await self._busy


# The file


async def test_the_database_file_has_mode_600(database: Database, path: Path) -> None:
    assert mode(path) == 0o600


async def test_an_existing_file_keeps_its_mode_and_content(path: Path) -> None:
    make_file(path, b"", 0o640)
    for text in ("one", "two"):
        database = a_database(path)
        await database.open()
        await database.write(add(text))
        await database.close()
    assert (mode(path), seen_by_others(path)) == (0o640, ["one", "two"])


@pytest.mark.parametrize(
    ("pragmas", "expected"),
    [pytest.param(FORGETFUL, ("wal", 0), id="wal-not-synced"), pytest.param(CAREFUL, ("truncate", 2), id="synced")],
)
async def test_the_pragmas_set_journal_mode_and_synchronous(
    path: Path, pragmas: Sequence[str], expected: tuple[str, int]
) -> None:
    database = a_database(path, pragmas=pragmas)
    await database.open()
    found = [
        (await database.read(lambda db, name=name: db.execute(f"PRAGMA {name}").fetchone()))[0]  # type: ignore[misc]
        for name in ("journal_mode", "synchronous")
    ]
    await database.close()
    assert tuple(found) == expected


async def test_open_raises_the_error_of_prepare(path: Path) -> None:
    def refuse(_db: sqlite3.Connection) -> None:
        raise PermissionError("of another kind")

    with pytest.raises(Unusable, match="of another kind"):
        await a_database(path, prepare=refuse).open()

    def raise_lookup_error(_db: sqlite3.Connection) -> None:
        raise LookupError("unknown owner")

    with pytest.raises(LookupError, match="unknown owner"):
        await a_database(path, prepare=raise_lookup_error).open()


async def test_changes_of_a_failed_prepare_are_rolled_back(path: Path) -> None:
    def refuse(db: sqlite3.Connection) -> None:
        prepare(db)
        add("half")(db)
        raise LookupError("unknown owner")

    database = a_database(path, prepare=refuse)
    with pytest.raises(LookupError):
        await database.open()
    await database.close()
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        seen_by_others(path)


OBSTACLES: list[object] = [
    pytest.param(lambda path: path.parent.write_text("in the way"), id="a-file-for-the-directory"),
    pytest.param(lambda path: path.mkdir(parents=True), id="a-directory-for-the-file"),
    pytest.param(lambda path: make_file(path, b"something else " * 100, 0o600), id="a-file-of-another-kind"),
]


@pytest.mark.parametrize("obstruct", OBSTACLES)
async def test_a_file_that_cannot_be_opened_raises_unusable(path: Path, obstruct: Callable[[Path], None]) -> None:
    obstruct(path)
    database = a_database(path)
    with pytest.raises(Unusable, match="cannot be used"):
        await database.open()
    with pytest.raises(Unusable, match="it is closed"):
        await database.read(everything)
    await database.close()


async def test_open_fails_without_a_thread_and_can_be_repeated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    database = a_database(path)
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(Unusable, match="can't start new thread"):
            await database.open()
    await database.open()
    assert await database.read(lambda db: db.execute("SELECT 7").fetchone()) == (7,)
    await database.close()


async def test_several_databases_can_open_one_new_file_at_once(path: Path) -> None:
    databases = [a_database(path) for _ in range(8)]
    await asyncio.gather(*(database.open() for database in databases))
    await asyncio.gather(*(database.write(add(str(number))) for number, database in enumerate(databases)))
    await asyncio.gather(*(database.close() for database in databases))
    assert sorted(seen_by_others(path)) == sorted(map(str, range(8)))


# Operations


async def test_read_returns_the_result_of_its_operation(database: Database) -> None:
    await database.write(add("one"))
    assert await database.read(everything) == ["one"]


async def test_a_finished_write_is_in_the_file(database: Database, path: Path) -> None:
    await database.write(add("one"))
    assert seen_by_others(path) == ["one"]


async def test_operations_run_in_order_of_submission(database: Database) -> None:
    await asyncio.gather(*(database.write(add(str(number))) for number in range(1000)))
    assert await database.read(everything) == [str(number) for number in range(1000)]


async def test_a_read_sees_the_writes_submitted_before_it(database: Database) -> None:
    _, seen, _ = await asyncio.gather(
        database.write(add("before")), database.read(everything), database.write(add("after"))
    )
    assert seen == ["before"]


async def test_waiting_operations_share_a_commit(database: Database, path: Path) -> None:
    statements: list[str] = []
    await database.read(lambda db: db.set_trace_callback(statements.append))
    traffic = Traffic(database)
    await traffic.has_begun()
    futures = [database.submit(add(str(number))) for number in range(100)]
    await traffic.go_on()
    await asyncio.gather(*futures)
    assert statements.count("COMMIT") == 2, "one for the busy operation, one for all others"
    assert len(seen_by_others(path)) == 100


async def test_reads_alone_open_no_transaction(database: Database) -> None:
    statements: list[str] = []
    await database.read(lambda db: db.set_trace_callback(statements.append))
    await asyncio.gather(*(database.read(everything) for _ in range(5)))
    assert not [statement for statement in statements if statement.startswith(("BEGIN", "COMMIT"))]


async def test_a_failed_write_in_a_batch_is_rolled_back_alone(database: Database) -> None:
    def fail(db: sqlite3.Connection) -> None:
        add("half")(db)
        raise ValueError("changed my mind")

    def refuse(_db: sqlite3.Connection) -> None:
        raise LookupError("not there")

    results = await asyncio.gather(
        database.write(add("one")),
        database.write(fail),
        database.write(refuse),
        database.write(add("one")),
        database.write(add("two")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), ValueError, LookupError, Unusable, type(None)]
    assert await database.read(everything) == ["one", "two"]


async def test_a_single_failed_write_is_rolled_back(database: Database) -> None:
    def fail(db: sqlite3.Connection) -> None:
        add("half")(db)
        raise ValueError("changed my mind")

    with pytest.raises(ValueError, match="changed my mind"):
        await database.write(fail)
    assert await database.read(everything) == []


async def test_the_database_stays_usable_after_a_read_that_wrote_and_failed(database: Database) -> None:
    def misbehave(db: sqlite3.Connection) -> None:
        add("half")(db)
        raise ValueError("this was to be a read")

    with pytest.raises(Unusable):
        await database.read(misbehave)
    await database.write(add("one"))
    assert "one" in await database.read(everything)


async def test_a_failed_commit_fails_all_its_operations(path: Path) -> None:
    def prepare_with_a_trap(db: sqlite3.Connection) -> None:
        prepare(db)
        db.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        db.execute("CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")

    def orphan(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO child VALUES (404)")  # found out at COMMIT only

    database = a_database(path, pragmas=["foreign_keys = ON", *FORGETFUL], prepare=prepare_with_a_trap)
    await database.open()
    results = await asyncio.gather(
        database.write(add("one")), database.write(orphan), database.read(everything), return_exceptions=True
    )
    assert [type(result) for result in results] == [Unusable] * 3
    await database.write(add("afterwards"))
    assert await database.read(everything) == ["afterwards"]
    await database.close()


async def test_an_operation_cancelled_before_it_was_sent_does_not_run(database: Database) -> None:
    abandoned, kept = database.submit(add("one")), database.submit(add("two"))
    abandoned.cancel()
    await kept
    assert await database.read(everything) == ["two"]


async def test_an_operation_cancelled_after_it_was_sent_still_runs(database: Database) -> None:
    traffic = Traffic(database)
    await traffic.has_begun()
    abandoned = asyncio.create_task(database.write(add("one")))
    kept = database.submit(add("two"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    abandoned.cancel()
    await traffic.go_on()
    await kept
    assert abandoned.cancelled()
    assert sorted(await database.read(everything)) == ["one", "two"], "it was sent already"


async def test_two_databases_can_write_to_one_file(database: Database, path: Path) -> None:
    other = a_database(path)
    await other.open()
    await asyncio.gather(
        *(database.write(add(f"ours {number}")) for number in range(50)),
        *(other.write(add(f"theirs {number}")) for number in range(50)),
    )
    await other.close()
    assert len(seen_by_others(path)) == 100


# The end


async def test_close_finishes_all_submitted_operations(path: Path) -> None:
    database = a_database(path)
    await database.open()
    futures = [database.submit(add(str(number))) for number in range(600)]
    await database.close()
    assert len(seen_by_others(path)) == 600
    await asyncio.gather(*futures)


async def test_close_may_be_called_twice_and_before_open(path: Path) -> None:
    database = a_database(path)
    await database.close()
    await database.open()
    await database.close()
    await database.close()


async def test_operations_on_a_closed_database_raise_unusable(path: Path) -> None:
    database = a_database(path)
    with pytest.raises(Unusable, match="it is closed"):
        database.submit(everything)
    await database.open()
    await database.close()
    with pytest.raises(Unusable, match="it is closed"):
        await database.read(everything)


def test_an_operation_commits_although_the_loop_ended_before_it(path: Path) -> None:
    """The process may end while an operation is under way: its commit stays, and no future is resolved."""
    may_go_on = threading.Event()

    def wait_and_add(db: sqlite3.Connection) -> None:
        may_go_on.wait(HANG)
        add("one")(db)

    async def leave() -> None:
        database = a_database(path)
        await database.open()
        database.submit(wait_and_add)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(leave())
    may_go_on.set()
    assert until(lambda: seen_by_others(path)) == ["one"]


# A file that is removed or replaced while it is in use


def remove(path: Path) -> None:
    path.unlink()


def put_away(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.old"))


class Followed:
    """A database that follows its path, and the messages of its `on_moved`."""

    def __init__(self, path: Path) -> None:
        self.messages: list[str] = []
        self.database = Database(
            path, pragmas=CAREFUL, prepare=prepare, unusable=unusable, on_moved=self.messages.append
        )

    async def moved_messages(self) -> list[str]:
        await asyncio.sleep(0)
        return self.messages


@pytest.fixture
async def followed(path: Path) -> AsyncIterator[Followed]:
    followed = Followed(path)
    await followed.database.open()
    await followed.database.write(add("before"))
    yield followed
    await followed.database.close()


async def test_a_removed_file_is_created_again_with_its_content_and_reported_once(
    followed: Followed, path: Path
) -> None:
    remove(path)
    for text in ("one", "two"):
        await followed.database.write(add(text))
    assert seen_by_others(path) == ["before", "one", "two"]
    assert await followed.moved_messages() == [
        "was removed while it was in use: it is created again, with its whole content"
    ]


async def test_a_replaced_file_is_used_as_it_is_and_reported_once(followed: Followed, path: Path) -> None:
    put_away(path)
    other = a_database(path, pragmas=CAREFUL)
    await other.open()
    await other.write(add("of another"))
    await other.close()
    for text in ("one", "two"):
        await followed.database.write(add(text))
    assert seen_by_others(path) == ["of another", "one", "two"]
    assert seen_by_others(path.with_name(f"{path.name}.old")) == ["before"]
    assert await followed.moved_messages() == [
        "was replaced by another file while it was in use: the new file is used now"
    ]


async def test_creating_a_removed_file_again_is_retried_until_it_succeeds(followed: Followed, path: Path) -> None:
    remove(path)
    put_away(path.parent)
    make_file(path.parent, b"", 0o600)  # a file instead of the directory: no file can be created in it
    with pytest.raises(Unusable, match="readonly"):
        await followed.database.write(add("lost"))
    assert await followed.database.read(everything) == ["before"]
    remove(path.parent)
    await followed.database.write(add("kept"))
    assert seen_by_others(path) == ["before", "kept"]
    assert len(await followed.moved_messages()) == 1
