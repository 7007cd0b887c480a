"""Changes that a person may make in a journal beside a running driver, and a test that it is writable."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from one_provider_mad.database import connect
from one_provider_mad.errors import JournalError
from one_provider_mad.file_owner import open_file
from one_provider_mad.journal.schema import PRAGMAS, check_version


def forget_fact(path: Path, name: str) -> str | None:
    """Delete one fact, also while a driver writes the journal; return its value, None when there was none.

    Raises:
        JournalError: the journal cannot be written.
    """
    if not path.exists():
        return None
    try:
        db = connect(path, timeout=5, mode="rw")
        try:
            if not check_version(db):  # a driver is just creating it
                return None
            row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            db.execute("DELETE FROM facts WHERE name = ?", (name,))
        finally:
            db.close()
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be written: {error} ({path})") from error
    return None if row is None else str(row[0])


def try_to_write(path: Path) -> None:
    """Check that a driver can write the journal, or its directory while there is none; nothing written stays.

    Raises:
        JournalError: a driver could not write it.
    """
    try:
        directory = next(each for each in path.absolute().parents if each.exists())
        if os.geteuid() == 0 and not os.statvfs(directory).f_bavail:
            raise OSError(errno.ENOSPC, "the free space is reserved for root", str(directory))
        if path.exists():
            _write_and_forget(path)
        else:
            _write_into(directory, path.name)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be written: {error} ({path})") from error


_FILLER = "-" * 16_384
"""Text for the trial: it is larger than the free pages of a small journal, so that the file has to grow."""


def _write_and_forget(path: Path) -> None:
    db = connect(path, timeout=5, mode="rw")
    try:
        version = check_version(db)  # first: a pragma may change a later release's file
        for pragma in PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        if version:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('tried', ?)", (_FILLER,))
            db.execute("DELETE FROM facts WHERE name = 'tried'")
    finally:
        db.close()


def _write_into(directory: Path, name: str) -> None:
    trial = directory / f".{name}.{os.getpid()}.tried"
    descriptor = open_file(trial, os.O_WRONLY | os.O_EXCL)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(_FILLER)
    finally:
        trial.unlink()
