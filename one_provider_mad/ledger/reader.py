"""Read the ledger in processes other than the information driver, without changing it or blocking its writer."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TypeVar

from one_provider_mad.database import connect
from one_provider_mad.errors import LedgerError
from one_provider_mad.ledger.records import Span
from one_provider_mad.ledger.schema import AS_OF, facts_of, select_spans, version_of

_Result = TypeVar("_Result")

_WAIT_SECONDS = 5.0
"""Seconds to wait while the information driver commits."""


def read_spans(path: Path, *, since: float = 0.0, until: float = inf) -> list[Span]:
    """Return every span of which a part lies between two times, whole; none without a ledger.

    Args:
        path: the ledger.
        since: seconds since the epoch.
        until: seconds since the epoch.

    Raises:
        LedgerError: there is a ledger and it cannot be read.
    """
    return read_ledger(path, since=since, until=until)[1]


def read_ledger(path: Path, *, since: float = 0.0, until: float = inf) -> tuple[float, list[Span]]:
    """Return the time of the latest booked listing as well, seconds since the epoch; else as `read_spans`."""
    condition = 'begin < ? AND ("end" > ? OR "end" IS NULL)'
    found = _look(path, lambda db: (_as_of(db), select_spans(db, condition, (until, since))))
    return found or (0.0, [])


def open_spans(path: Path) -> tuple[float, list[Span]]:
    """Return the time of the latest booked listing, seconds since the epoch, and the open spans; 0 without a ledger.

    Raises:
        LedgerError: there is a ledger and it cannot be read.
    """
    found = _look(path, lambda db: (_as_of(db), select_spans(db, "is_open")))
    return found or (0.0, [])


def _as_of(db: sqlite3.Connection) -> float:
    return float(facts_of(db).get(AS_OF, 0.0))


def _look(path: Path, query: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
    """Run a query on the file; None when there is none, or one that is just being created.

    The file is opened for writing where possible: after a crash SQLite must roll back half a commit before it reads. A
    file of a later release is read as far as this release understands it.
    """
    try:
        if not path.exists():
            return None
        db = connect(path, timeout=_WAIT_SECONDS, mode="rw" if os.access(path, os.W_OK) else "ro")
        try:
            db.execute("PRAGMA query_only = 1")
            db.execute("BEGIN")  # one consistent snapshot
            return query(db) if version_of(db) else None
        finally:
            db.close()
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(f"the ledger cannot be read: {error} ({path})") from error
