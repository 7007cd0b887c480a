"""Writes the ledger's file. Everything here blocks: the information driver calls it in a thread.

Each write opens the file anew, so that a file which was removed, replaced or spoilt meanwhile is noticed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from one_provider_mad.database import connect
from one_provider_mad.domain import Value, VmOwner
from one_provider_mad.errors import LedgerError
from one_provider_mad.file_owner import make_directory, open_file
from one_provider_mad.ledger.records import Span
from one_provider_mad.ledger.schema import (
    AS_OF,
    NAME,
    PRAGMAS,
    Row,
    facts_of,
    later_release,
    prepare,
    select_rows,
    write_facts,
    write_rows,
)
from one_provider_mad.ledger.tally import Spent, Vm, spent_by_host, spent_by_vm

_Result = TypeVar("_Result")

_WAIT_SECONDS = 10.0
"""Seconds to wait while a reader has the file locked."""

_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""SQLite's codes for a file that is no usable database."""


class Contents(Value, frozen=True, kw_only=True):
    """What the next booking needs of a file.

    Attributes:
        as_of: time of the latest booked listing, seconds since the epoch; 0 for a new file.
        next_id: number of the next new row.
        rows: the open rows, in the order of their numbers.
    """

    as_of: float = 0.0
    next_id: int = 1
    rows: tuple[Row, ...] = ()


class LedgerFile:
    """The file of one NAME's ledger, for the one process that writes it.

    Args:
        path: the file.
        name: NAME.
        warn: takes one sentence for the operator.
    """

    def __init__(self, path: Path, name: str, *, warn: Callable[[str], None] = lambda _: None) -> None:
        self.path = path
        self._name = name
        self._warn = warn
        self._lock: int | None = None
        self._file: tuple[int, int] | None = None
        self._began_anew = False

    @property
    def is_replaced(self) -> bool:
        """Return True if the file is not the one that was last loaded."""
        return self._began_anew or (self._file is not None and self._file != self._identity())

    def load(self) -> Contents:
        """Take the file for this process and read it; create a new one if there is none or it is broken.

        Raises:
            LedgerError: another process writes it, or it cannot be created or read.
        """
        with self._errors():
            self._take()
            contents = self._in_file(_contents)
        self._began_anew = False
        return contents

    def last_ends(self, things: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], float]:
        """Return when the latest span of each thing, by kind and id, ends; things without a span are absent.

        Raises:
            LedgerError: the file cannot be read.
        """
        if not things:
            return {}
        with self._errors():
            return self._in_file(lambda db: _last_ends(db, things))

    def write(
        self,
        rows: Collection[Row],
        removed: Collection[int] = (),
        *,
        as_of: float,
        cut_at: float | None = None,
        cuts: Mapping[tuple[str, str], float] = MappingProxyType({}),
    ) -> None:
        """Write rows and the time of the latest listing in one transaction; nothing is written if that fails.

        Args:
            rows: new rows, and changed ones, which replace those with the same numbers.
            removed: numbers of rows to remove.
            as_of: time of the latest listing, seconds since the epoch.
            cut_at: time after which no closed span of a thing that has an open one may reach; None for any.
            cuts: time after which no span of a thing may reach, by kind and id.

        Raises:
            LedgerError: the file cannot be written.
        """

        def work(db: sqlite3.Connection) -> None:
            if cut_at is not None:  # first: open rows that are removed tell which things were open
                _cut(db, cut_at)
            for thing, at in cuts.items():
                _cut_thing(db, *thing, at)
            db.executemany("DELETE FROM spans WHERE id = ?", [(number,) for number in removed])
            write_rows(db, rows, as_of=as_of)
            write_facts(db, {NAME: self._name, AS_OF: as_of})

        with self._errors():
            self._in_file(work)

    def spent_by_vm(self, vms: Collection[Vm]) -> Mapping[Vm, Spent]:
        """Return what closed spans of these VMs' instances cost. Raises LedgerError."""
        if not vms:
            return {}
        with self._errors():
            return self._in_file(lambda db: spent_by_vm(db, vms))

    def spent_by_host(self, since: float) -> Mapping[int, Spent]:
        """Return what closed spans of each host's instances cost since a time. Raises LedgerError."""
        with self._errors():
            return self._in_file(lambda db: spent_by_host(db, since))

    def learn_owners(self, owners: Mapping[tuple[int, int], VmOwner]) -> None:
        """Set the owner of the rows that have none yet, by VM ID and STIME.

        Raises:
            LedgerError: the file cannot be written.
        """
        with self._errors():
            self._in_file(lambda db: _learn_owners(db, owners))

    def close(self) -> None:
        """Leave the file to another process."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # The file

    def _take(self) -> None:
        """Lock the file beside the ledger, which stays locked until this process ends."""
        if self._lock is not None:
            return
        make_directory(self.path.parent)
        lock = open_file(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if not isinstance(error, BlockingIOError):
                raise  # a file system without locks, as some NFS servers have
            raise LedgerError(
                f"another process writes the ledger {self.path}: this one books no costs until that has ended"
            ) from error
        self._lock = lock

    def _in_file(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        try:
            return self._attempt(work)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _BROKEN:
                raise
            self._set_aside(error)
            return self._attempt(work)

    def _attempt(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        with suppress(FileExistsError):
            os.close(open_file(self.path, os.O_RDWR | os.O_EXCL))
            self._began_anew = True
        with closing(connect(self.path, timeout=_WAIT_SECONDS)) as db:
            if sentence := later_release(db):
                raise LedgerError(f"the ledger {self.path} is not written: {sentence}")
            for pragma in PRAGMAS:
                db.execute(f"PRAGMA {pragma}")
            with _transaction(db):
                prepare(db)
                result = work(db)
        self._file = self._identity()
        return result

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Rename a broken file, so that a new one can begin."""
        aside = self.path.with_name(f"{self.path.name}.broken-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
        with suppress(FileNotFoundError):
            self.path.rename(aside)
        with suppress(FileNotFoundError):  # a rollback journal of the broken file would spoil the new one
            self.path.with_name(f"{self.path.name}-journal").rename(aside.with_name(f"{aside.name}-journal"))
        self._warn(
            f"the ledger {self.path} is broken ({error}): it is kept as {aside.name}, and a new one begins;"
            " costs from before are assumed from the instances' creation times"
        )

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"the ledger cannot be written: {error} ({self.path})") from error


def write_spans(path: Path, name: str, spans: Collection[Span], *, as_of: float) -> None:
    """Add spans to a ledger, as the information driver's bookings would. Raises LedgerError."""
    file = LedgerFile(path, name)
    first = file.load().next_id
    file.write([Row(id=number, span=span) for number, span in enumerate(spans, start=first)], (), as_of=as_of)
    file.close()


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # on a full disk SQLite has rolled back by itself
            db.execute("ROLLBACK")
        raise


def _contents(db: sqlite3.Connection) -> Contents:
    next_id = db.execute("SELECT coalesce(max(id), 0) + 1 FROM spans").fetchone()[0]
    rows = select_rows(db, "is_open")
    return Contents(as_of=float(facts_of(db).get(AS_OF, 0.0)), next_id=next_id, rows=tuple(rows))


def _last_ends(db: sqlite3.Connection, things: Collection[tuple[str, str]]) -> dict[tuple[str, str], float]:
    query = 'SELECT max("end") FROM spans WHERE thing = ? AND kind = ?'
    found = {(kind, thing): db.execute(query, (thing, kind)).fetchone()[0] for kind, thing in things}
    return {key: float(end) for key, end in found.items() if end is not None}


def _cut(db: sqlite3.Connection, at: float) -> None:
    """Let no closed span of a thing that has an open one reach beyond a time: the clock was set back."""
    beyond = '"end" > :at AND NOT is_open AND (kind, thing) IN (SELECT kind, thing FROM spans WHERE is_open)'
    db.execute(f"DELETE FROM spans WHERE begin >= :at AND {beyond}", {"at": at})  # noqa: S608
    db.execute(f'UPDATE spans SET "end" = :at WHERE {beyond}', {"at": at})  # noqa: S608


def _cut_thing(db: sqlite3.Connection, kind: str, thing: str, at: float) -> None:
    """Let no closed span of a thing reach beyond its end."""
    beyond = 'thing = :thing AND kind = :kind AND "end" > :at AND NOT is_open'
    values = {"kind": kind, "thing": thing, "at": at}
    db.execute(f"DELETE FROM spans WHERE begin >= :at AND {beyond}", values)  # noqa: S608
    db.execute(f'UPDATE spans SET "end" = :at WHERE {beyond}', values)  # noqa: S608


def _learn_owners(db: sqlite3.Connection, owners: Mapping[tuple[int, int], VmOwner]) -> None:
    db.executemany(
        "UPDATE spans SET user_id = ?, user = ?, group_id = ?, group_name = ?"
        " WHERE vm_id = ? AND stime = ? AND user_id = -1",
        [(owner.user_id, owner.user, owner.group_id, owner.group, *vm) for vm, owner in owners.items()],
    )
