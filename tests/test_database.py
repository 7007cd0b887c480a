from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from one_provider_mad.database import Database
from one_provider_mad.errors import JournalError


def a_database(directory: Path, prepare: Callable[[sqlite3.Connection], None]) -> Database:
    return Database(
        directory / "any.db",
        pragmas=("journal_mode = TRUNCATE",),
        prepare=prepare,
        unusable=lambda error: JournalError(f"unusable: {error}"),
    )


async def test_an_operation_that_fails_halfway_is_undone_and_harms_no_other(tmp_path: Path) -> None:
    def prepare(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE t (n)")

    database = a_database(tmp_path, prepare)
    await database.open()

    def insert(number: int) -> Callable[[sqlite3.Connection], int]:
        def operation(db: sqlite3.Connection) -> int:
            db.execute("INSERT INTO t VALUES (?)", (number,))
            if number % 2:
                raise ValueError(number)
            return number

        return operation

    results = await asyncio.gather(*(database.write(insert(n)) for n in range(6)), return_exceptions=True)
    rows = await database.read(lambda db: db.execute("SELECT n FROM t ORDER BY n").fetchall())
    await database.close()
    assert [results[n] for n in (0, 2, 4)] == [0, 2, 4]
    assert all(isinstance(results[n], ValueError) for n in (1, 3, 5))
    assert rows == [(0,), (2,), (4,)]


@pytest.mark.parametrize("statement", ["ROLLBACK", "SELECT nonsense"])
async def test_when_sqlite_fails_the_caller_is_told_and_the_next_call_works(tmp_path: Path, statement: str) -> None:
    database = a_database(tmp_path, lambda _: None)
    await database.open()
    with pytest.raises(JournalError, match="unusable"):
        await database.write(lambda db: db.execute(statement))
    assert await database.write(lambda db: db.execute("SELECT 1").fetchone()) == (1,)
    await database.close()
