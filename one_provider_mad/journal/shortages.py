"""SQL for what the cloud has refused of late: the latest refusal, and the kinds of instances of which it had none."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from one_provider_mad.journal.records import ANY_ROOM, Refusal, Shortage

REFUSAL = "refusal"
"""Name of the fact that holds a `Refusal`."""

SHORTAGES = "shortages"
"""Name of the fact that holds a list of `Shortage`, oldest first."""

MOST_SHORTAGES = 200
"""Most shortages that are kept: users may name any types and places."""

_Fact = TypeVar("_Fact")


def select_refusal(db: sqlite3.Connection) -> Refusal | None:
    """Return the latest create refused for lack of capacity or because of a limit, None for none."""
    return _fact(db, REFUSAL, Refusal)


def select_shortages(db: sqlite3.Connection) -> tuple[Shortage, ...]:
    """Return the kinds of instances that were refused and not created since, oldest first."""
    return _fact(db, SHORTAGES, tuple[Shortage, ...]) or ()


def add_shortage(db: sqlite3.Connection, shortage: Shortage) -> None:
    """Record a shortage in place of an earlier one of the same room."""
    others = [each for each in select_shortages(db) if each.room != shortage.room]
    _save(db, [*others, shortage][-MOST_SHORTAGES:])


def end_shortages(db: sqlite3.Connection, room: str, *, before: float) -> bool:
    """Delete what a successful create of this room has disproved; return True if nothing is left that one could.

    Args:
        db: the journal.
        room: the kind of the created instance.
        before: when its create was sent; later refusals stay.
    """
    known, refusal = select_shortages(db), select_refusal(db)
    left = [each for each in known if each.room not in (room, ANY_ROOM) or each.at >= before]
    if len(left) < len(known):
        _save(db, left)
    if refusal is not None and refusal.room == room and refusal.at < before:
        db.execute("DELETE FROM facts WHERE name = ?", (REFUSAL,))
        refusal = None
    return not left and not (refusal and refusal.room)


def _save(db: sqlite3.Connection, shortages: Sequence[Shortage]) -> None:
    db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (SHORTAGES, msgspec.json.encode(shortages).decode()))


def _fact(db: sqlite3.Connection, name: str, kind: type[_Fact]) -> _Fact | None:
    row: tuple[Any, ...] | None = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    try:
        return None if row is None else msgspec.json.decode(row[0], type=kind)
    except msgspec.MsgspecError:
        return None  # another release wrote it in another form
