"""The tables of the ledger's file, and its rows as values.

An open span whose thing was in the latest listing has no `end` of its own: it ends, for now, at the fact `as_of`. So a
sweep in which nothing changes writes one fact, whatever the number of instances.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from one_provider_mad.domain import Value, VmOwner
from one_provider_mad.ledger.records import Span

VERSION = 1

# A rollback journal and full synchronisation, as the action driver's journal: a commit survives a power cut.
PRAGMAS = ("journal_mode = TRUNCATE", "synchronous = FULL")

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL);
CREATE TABLE spans (
    id INTEGER PRIMARY KEY, thing TEXT NOT NULL, kind TEXT NOT NULL, vm_id INTEGER NOT NULL, stime INTEGER NOT NULL,
    host_id INTEGER NOT NULL, user_id INTEGER NOT NULL, user TEXT NOT NULL, group_id INTEGER NOT NULL,
    group_name TEXT NOT NULL, type_name TEXT NOT NULL, market TEXT NOT NULL, state TEXT NOT NULL, begin REAL NOT NULL,
    "end" REAL, is_open INTEGER NOT NULL, is_seen INTEGER NOT NULL, amount REAL, known REAL NOT NULL,
    currency TEXT NOT NULL);
CREATE INDEX spans_of_thing ON spans (thing);
CREATE INDEX spans_of_vm ON spans (vm_id, stime);
CREATE INDEX spans_ended ON spans ("end");
CREATE INDEX spans_open ON spans (is_open) WHERE is_open
"""

COLUMNS = (
    "id, thing, kind, vm_id, stime, host_id, user_id, user, group_id, group_name, type_name, market, state, begin,"
    ' "end", is_open, is_seen, amount, known, currency'
)

AS_OF, NAME = "as_of", "name"
"""Facts: time of the latest listing that was booked, seconds since the epoch; NAME of the driver."""


class Row(Value, frozen=True, kw_only=True, gc=False):
    """One row of the table `spans`.

    Attributes:
        id: its number in this file.
        host_id: number of the OpenNebula host in the instance's tags, -1 for none.
        span: what it says; an open span's `end` is when its thing was last seen.
    """

    id: int
    host_id: int = -1
    span: Span


def prepare(db: sqlite3.Connection) -> None:
    """Create the tables of a new file; runs in one transaction.

    Raises:
        sqlite3.DatabaseError: the file is of a later release.
    """
    if sentence := later_release(db):
        raise sqlite3.DatabaseError(sentence)
    if not version_of(db):
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")


def version_of(db: sqlite3.Connection) -> int:
    """Return the version of a file, 0 for a new one."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


def later_release(db: sqlite3.Connection) -> str:
    """Return a sentence that says that a later release has written the file; "" if none has."""
    version = version_of(db)
    if version <= VERSION:
        return ""
    return f"a later release has written it (version {version}, this release writes {VERSION}): install that release"


def facts_of(db: sqlite3.Connection) -> dict[str, Any]:
    """Return all facts by name."""
    return dict(db.execute("SELECT name, value FROM facts").fetchall())


def write_facts(db: sqlite3.Connection, facts: dict[str, Any]) -> None:
    """Write facts; others stay."""
    db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())


def write_rows(db: sqlite3.Connection, rows: Iterable[Row], *, as_of: float) -> None:
    """Insert rows, or replace those with the same numbers."""
    marks = ", ".join("?" * len(COLUMNS.split(",")))
    db.executemany(f"INSERT OR REPLACE INTO spans VALUES ({marks})", (_values(row, as_of) for row in rows))  # noqa: S608


def select_rows(db: sqlite3.Connection, condition: str, values: tuple[object, ...] = ()) -> list[Row]:
    """Return the rows that meet a condition, in the order of their numbers."""
    numbers = db.execute(f"SELECT id, host_id FROM spans WHERE {condition} ORDER BY id", values).fetchall()  # noqa: S608
    spans = select_spans(db, condition, values)
    return [Row(id=number, host_id=host, span=span) for (number, host), span in zip(numbers, spans, strict=True)]


_SPAN_COLUMNS = (
    'thing, kind, vm_id, stime, user_id, user, group_id, group_name, type_name, market, state, begin, "end", is_open,'
    " is_seen, amount, known, currency"
)


def select_spans(db: sqlite3.Connection, condition: str, values: tuple[object, ...] = ()) -> list[Span]:
    """Return the spans that meet a condition, in the order of their numbers."""
    facts = facts_of(db)
    name, as_of = str(facts.get(NAME, "")), float(facts.get(AS_OF, 0.0))
    found = db.execute(f"SELECT {_SPAN_COLUMNS} FROM spans WHERE {condition} ORDER BY id", values)  # noqa: S608
    return list(_spans(found.fetchall(), name, as_of))


def _spans(rows: Iterable[tuple[Any, ...]], name: str, as_of: float) -> Iterator[Span]:
    """Yield rows as spans: one loop without a call for each, since a year of 10,000 VMs has a million."""
    owners: dict[tuple[int, str, int, str], VmOwner] = {}
    for row in rows:
        thing, kind, vm_id, stime, user_id, user, group_id, group, type_name, market, state, *rest = row
        begin, end, is_open, is_seen, amount, known, currency = rest
        key = (user_id, user, group_id, group)
        owner = owners.get(key)
        if owner is None:
            owner = owners[key] = VmOwner(user_id=user_id, user=user, group_id=group_id, group=group)
        yield Span(
            name=name,
            thing=thing,
            kind=kind,
            vm_id=vm_id,
            stime=stime,
            owner=owner,
            type_name=type_name,
            market=market,
            state=state,
            begin=begin,
            end=max(begin, as_of) if end is None else end,
            is_open=is_open == 1,
            is_seen=is_seen == 1,
            amount=amount,
            known=known,
            currency=currency,
        )


def _values(row: Row, as_of: float) -> tuple[object, ...]:
    span, owner = row.span, row.span.owner
    end = None if span.is_open and span.end >= as_of else span.end
    return (
        *(row.id, span.thing, span.kind, span.vm_id, span.stime, row.host_id),
        *(owner.user_id, owner.user, owner.group_id, owner.group),
        *(span.type_name, span.market, span.state, span.begin, end, span.is_open, span.is_seen),
        *(span.amount, span.known, span.currency),
    )
