from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from one_provider_mad.database import Database
from tests.waiting import until

FORGETFUL = ("journal_mode = WAL", "synchronous = OFF")
CAREFUL = ("journal_mode = TRUNCATE", "synchronous = FULL")


class Unusable(Exception):
    """What the owner of a database makes of SQLite's errors."""


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
    """What another process would see."""
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
    """Keeps the database's thread busy, so that whatever is asked for meanwhile waits together."""

    def __init__(self, database: Database) -> None:
        self._may_go_on = threading.Event()
        self._has_begun = threading.Event()
        self._busy = database.submit(self._wait)

    def _wait(self, _db: sqlite3.Connection) -> None:
        self._has_begun.set()
        self._may_go_on.wait(10)

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self._has_begun.wait, 10)

    async def go_on(self) -> None:
        await asyncio.sleep(0)  # what was asked for in this turn of the loop travels at its end
        await asyncio.sleep(0)
        self._may_go_on.set()
        await self._busy


# The file


async def test_the_file_belongs_to_its_owner_alone(database: Database, path: Path) -> None:
    assert mode(path) == 0o600


async def test_an_existing_file_keeps_its_rights_and_its_content(path: Path) -> None:
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
async def test_a_file_is_kept_as_its_pragmas_say(path: Path, pragmas: Sequence[str], expected: tuple[str, int]) -> None:
    database = a_database(path, pragmas=pragmas)
    await database.open()
    found = [
        (await database.read(lambda db, name=name: db.execute(f"PRAGMA {name}").fetchone()))[0]  # type: ignore[misc]
        for name in ("journal_mode", "synchronous")
    ]
    await database.close()
    assert tuple(found) == expected


async def test_what_prepare_refuses_is_what_opening_raises(path: Path) -> None:
    def refuse(_db: sqlite3.Connection) -> None:
        raise PermissionError("of another kind")

    with pytest.raises(Unusable, match="of another kind"):
        await a_database(path, prepare=refuse).open()

    def refuse_in_other_words(_db: sqlite3.Connection) -> None:
        raise LookupError("nobody knows you")

    with pytest.raises(LookupError, match="nobody knows you"):
        await a_database(path, prepare=refuse_in_other_words).open()


async def test_what_prepare_has_begun_before_it_refuses_is_undone(path: Path) -> None:
    def refuse(db: sqlite3.Connection) -> None:
        prepare(db)
        add("half")(db)
        raise LookupError("nobody knows you")

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
async def test_a_file_that_cannot_be_opened_is_unusable(path: Path, obstruct: Callable[[Path], None]) -> None:
    obstruct(path)
    database = a_database(path)
    with pytest.raises(Unusable, match="cannot be used"):
        await database.open()
    with pytest.raises(Unusable, match="it is closed"):
        await database.read(everything)
    await database.close()


async def test_without_a_thread_the_file_is_unusable_until_it_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


async def test_many_may_open_one_new_file_at_once(path: Path) -> None:
    databases = [a_database(path) for _ in range(8)]
    await asyncio.gather(*(database.open() for database in databases))
    await asyncio.gather(*(database.write(add(str(number))) for number, database in enumerate(databases)))
    await asyncio.gather(*(database.close() for database in databases))
    assert sorted(seen_by_others(path)) == sorted(map(str, range(8)))


# Operations


async def test_an_operation_yields_its_result(database: Database) -> None:
    await database.write(add("one"))
    assert await database.read(everything) == ["one"]


async def test_what_was_answered_is_in_the_file(database: Database, path: Path) -> None:
    await database.write(add("one"))
    assert seen_by_others(path) == ["one"]


async def test_operations_run_in_the_order_they_were_asked_for(database: Database) -> None:
    await asyncio.gather(*(database.write(add(str(number))) for number in range(1000)))
    assert await database.read(everything) == [str(number) for number in range(1000)]


async def test_a_read_sees_what_was_asked_for_before_it(database: Database) -> None:
    _, seen, _ = await asyncio.gather(
        database.write(add("before")), database.read(everything), database.write(add("after"))
    )
    assert seen == ["before"]


async def test_operations_that_wait_share_a_commit(database: Database, path: Path) -> None:
    statements: list[str] = []
    await database.read(lambda db: db.set_trace_callback(statements.append))
    traffic = Traffic(database)
    await traffic.has_begun()
    futures = [database.submit(add(str(number))) for number in range(100)]
    await traffic.go_on()
    await asyncio.gather(*futures)
    assert statements.count("COMMIT") == 2, "one for the traffic, one for everybody else"
    assert len(seen_by_others(path)) == 100


async def test_reads_alone_need_no_transaction(database: Database) -> None:
    statements: list[str] = []
    await database.read(lambda db: db.set_trace_callback(statements.append))
    await asyncio.gather(*(database.read(everything) for _ in range(5)))
    assert not [statement for statement in statements if statement.startswith(("BEGIN", "COMMIT"))]


async def test_an_operation_that_fails_takes_nobody_with_it_and_leaves_nothing(database: Database) -> None:
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


async def test_an_operation_alone_that_fails_leaves_nothing(database: Database) -> None:
    def fail(db: sqlite3.Connection) -> None:
        add("half")(db)
        raise ValueError("changed my mind")

    with pytest.raises(ValueError, match="changed my mind"):
        await database.write(fail)
    assert await database.read(everything) == []


async def test_a_read_that_writes_and_fails_is_told_and_the_database_goes_on(database: Database) -> None:
    def misbehave(db: sqlite3.Connection) -> None:
        add("half")(db)
        raise ValueError("this was to be a read")

    with pytest.raises(Unusable):
        await database.read(misbehave)
    await database.write(add("one"))
    assert "one" in await database.read(everything)


async def test_a_commit_that_fails_is_told_to_everybody_in_it(path: Path) -> None:
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


async def test_who_gave_up_before_it_was_sent_is_not_served(database: Database) -> None:
    given_up, kept = database.submit(add("one")), database.submit(add("two"))
    given_up.cancel()
    await kept
    assert await database.read(everything) == ["two"]


async def test_who_gives_up_later_harms_nobody(database: Database) -> None:
    traffic = Traffic(database)
    await traffic.has_begun()
    given_up = asyncio.create_task(database.write(add("one")))
    kept = database.submit(add("two"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    given_up.cancel()
    await traffic.go_on()
    await kept
    assert given_up.cancelled()
    assert sorted(await database.read(everything)) == ["one", "two"], "it was on its way"


async def test_two_databases_on_one_file_wait_for_each_other(database: Database, path: Path) -> None:
    other = a_database(path)
    await other.open()
    await asyncio.gather(
        *(database.write(add(f"ours {number}")) for number in range(50)),
        *(other.write(add(f"theirs {number}")) for number in range(50)),
    )
    await other.close()
    assert len(seen_by_others(path)) == 100


# In bulk


class Counter:
    """Adds every item as a line, except the one that says no; counts how often it was called."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, db: sqlite3.Connection, items: Sequence[str]) -> dict[str, Exception]:
        self.calls.append(list(items))
        db.executemany("INSERT INTO lines VALUES (?)", [(item,) for item in items if item != "no"])
        return {"no": LookupError("no")} if "no" in items else {}


async def test_one_thing_for_many_is_done_at_once(database: Database) -> None:
    counter = Counter()
    await asyncio.gather(*(database.write_in_bulk(counter, item) for item in "abc"))
    assert counter.calls == [["a", "b", "c"]]
    assert await database.read(everything) == ["a", "b", "c"]


async def test_a_bulk_may_refuse_one_of_many(database: Database) -> None:
    results = await asyncio.gather(
        *(database.write_in_bulk(Counter(), item) for item in ("a",)),
        *(database.write_in_bulk(counter, item) for counter in [Counter()] for item in ("b", "no", "c")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), type(None), LookupError, type(None)]
    assert await database.read(everything) == ["a", "b", "c"]


async def test_a_bulk_that_fails_is_tried_one_by_one(database: Database) -> None:
    counter = Counter()
    await database.write(add("b"))
    results = await asyncio.gather(*(database.write_in_bulk(counter, item) for item in "abc"), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), Unusable, type(None)]
    assert await database.read(everything) == ["b", "a", "c"]


# The end


async def test_what_was_asked_for_is_finished_before_the_file_is_closed(path: Path) -> None:
    database = a_database(path)
    await database.open()
    futures = [database.submit(add(str(number))) for number in range(600)]
    await database.close()
    assert len(seen_by_others(path)) == 600
    await asyncio.gather(*futures)


async def test_closing_twice_or_before_opening_is_fine(path: Path) -> None:
    database = a_database(path)
    await database.close()
    await database.open()
    await database.close()
    await database.close()


async def test_a_database_that_is_not_open_says_so(path: Path) -> None:
    database = a_database(path)
    with pytest.raises(Unusable, match="it is closed"):
        database.submit(everything)
    await database.open()
    await database.close()
    with pytest.raises(Unusable, match="it is closed"):
        await database.read(everything)


def test_a_loop_that_ends_first_is_not_waited_for(path: Path) -> None:
    """The process may end while an operation is under way: what it commits stays, and nobody is told."""
    may_go_on = threading.Event()

    def wait_and_add(db: sqlite3.Connection) -> None:
        may_go_on.wait(10)
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
    """A database that follows its path, and what it has told of that."""

    def __init__(self, path: Path) -> None:
        self.told: list[str] = []
        self.database = Database(path, pragmas=CAREFUL, prepare=prepare, unusable=unusable, on_moved=self.told.append)

    async def has_told(self) -> list[str]:
        await asyncio.sleep(0)
        return self.told


@pytest.fixture
async def followed(path: Path) -> AsyncIterator[Followed]:
    followed = Followed(path)
    await followed.database.open()
    await followed.database.write(add("before"))
    yield followed
    await followed.database.close()


async def test_a_file_that_is_removed_is_made_anew_with_what_it_held_and_told_once(
    followed: Followed, path: Path
) -> None:
    remove(path)
    for text in ("one", "two"):
        await followed.database.write(add(text))
    assert seen_by_others(path) == ["before", "one", "two"]
    assert await followed.has_told() == ["was removed while it was in use: it is created again, with its whole content"]


async def test_a_file_in_the_place_of_the_one_before_is_used_as_it_is_and_told_once(
    followed: Followed, path: Path
) -> None:
    put_away(path)
    other = a_database(path, pragmas=CAREFUL)
    await other.open()
    await other.write(add("of another"))
    await other.close()
    for text in ("one", "two"):
        await followed.database.write(add(text))
    assert seen_by_others(path) == ["of another", "one", "two"]
    assert seen_by_others(path.with_name(f"{path.name}.old")) == ["before"]
    assert await followed.has_told() == ["was replaced by another file while it was in use: the new file is used now"]


async def test_a_file_that_cannot_be_made_anew_is_tried_again_until_it_can(followed: Followed, path: Path) -> None:
    remove(path)
    put_away(path.parent)
    make_file(path.parent, b"", 0o600)  # no directory: nothing can be made in it
    with pytest.raises(Unusable, match="readonly"):
        await followed.database.write(add("lost"))
    assert await followed.database.read(everything) == ["before"]
    remove(path.parent)
    await followed.database.write(add("kept"))
    assert seen_by_others(path) == ["before", "kept"]
    assert len(await followed.has_told()) == 1
