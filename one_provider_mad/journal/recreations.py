"""The VMs that may be recreated: the SQL of their records, and access for commands beside a running driver.

The action driver writes that a VM was refused for want of room, and deletes the record when the VM runs or ends. The
command `recreate` undertakes the recreation: of several at once, one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from one_provider_mad.database import connect
from one_provider_mad.domain import Identity, VmId
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.records import UNDERTAKEN_SECONDS, Recreation
from one_provider_mad.journal.schema import PRAGMAS, VERSION, check_version
from one_provider_mad.journal.statements import Row, storable

_Result = TypeVar("_Result")

_BUSY_SECONDS = 30.0
"""Seconds to wait for the driver's writes: a hook that gives up leaves its VM to a person."""


_COLUMNS = "vm_id, stime, seq, at, reason, is_interrupted, tries, recreated_seq, recreated_at"


def select_recreation(db: sqlite3.Connection, vm_id: VmId) -> Recreation | None:
    """Return the record of a VM; None when there is none."""
    row = db.execute(f"SELECT {_COLUMNS} FROM recreations WHERE vm_id = ?", (vm_id,)).fetchone()  # noqa: S608
    return None if row is None else _recreation(row)


def select_recreations(db: sqlite3.Connection) -> list[Recreation]:
    """Return every record, in the order of the VMs' numbers."""
    return [_recreation(row) for row in db.execute(f"SELECT {_COLUMNS} FROM recreations ORDER BY vm_id")]  # noqa: S608


def _recreation(row: Row) -> Recreation:
    vm_id, stime, seq, at, reason, is_interrupted, tries, recreated_seq, recreated_at = row
    return Recreation(
        vm_id=VmId(vm_id),
        stime=stime,
        seq=seq,
        at=at,
        reason=reason,
        is_interrupted=bool(is_interrupted),
        tries=tries,
        recreated_seq=recreated_seq,
        recreated_at=recreated_at,
    )


def note_loss(db: sqlite3.Connection, who: Identity, *, at: float, reason: str, is_interrupted: bool = False) -> None:
    """Record that a create of the VM was refused for want of room, or that the cloud took its instance back.

    The count of recreations stays, since the VM has not run; a VM of another STIME begins anew.
    """
    db.execute("DELETE FROM recreations WHERE vm_id = ? AND stime != ?", (who.vm_id, who.stime))
    db.execute(
        "INSERT INTO recreations VALUES (?, ?, ?, ?, ?, ?, 0, -1, 0) ON CONFLICT (vm_id) DO UPDATE SET"
        " seq = excluded.seq, at = excluded.at, reason = excluded.reason,"
        " is_interrupted = max(is_interrupted, excluded.is_interrupted)",
        (who.vm_id, who.stime, who.seq, at, storable(reason), is_interrupted),
    )


def forget_recreation(db: sqlite3.Connection, vm_id: VmId) -> None:
    """Delete the record of a VM that runs, or has ended."""
    db.execute("DELETE FROM recreations WHERE vm_id = ?", (vm_id,))


def read_recreation(path: Path, vm_id: VmId) -> Recreation | None:
    """Return the record of a VM, opening the journal for this read only; None without journal or record.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _on(path, lambda db: select_recreation(db, vm_id))


def undertake(path: Path, wanted: Recreation, *, tries: int, now: float) -> bool:
    """Record that this process recreates a VM; False when another does, or when the record has changed.

    Args:
        path: the journal.
        wanted: the record, as it was read.
        tries: how often in a row the VM will have been recreated then.
        now: seconds since the epoch.

    Raises:
        JournalError: the journal cannot be written.
    """
    values = {
        "vm_id": wanted.vm_id, "stime": wanted.stime, "seq": wanted.seq, "tries": tries, "now": now,
        "seconds": UNDERTAKEN_SECONDS,
    }  # fmt: skip
    query = (
        "UPDATE recreations SET tries = CASE recreated_seq WHEN :seq THEN tries ELSE :tries END, recreated_seq = :seq,"
        " recreated_at = :now WHERE vm_id = :vm_id AND stime = :stime AND seq = :seq"
        " AND NOT (recreated_seq = :seq AND :now - recreated_at BETWEEN 0 AND :seconds)"
    )
    return bool(_on(path, lambda db: db.execute(query, values).rowcount))


def undertake_interrupted(path: Path, who: Identity, *, at: float, reason: str, now: float) -> bool:
    """Record that this process recreates a VM whose instance its cloud took back; False when another does.

    Raises:
        JournalError: there is no journal of the present version, or it cannot be written.
    """

    def write(db: sqlite3.Connection) -> bool:
        known = select_recreation(db, who.vm_id)
        if known is not None and (known.stime, known.seq) == (who.stime, who.seq) and known.is_undertaken(now):
            return False
        note_loss(db, who, at=at, reason=reason, is_interrupted=True)
        db.execute("UPDATE recreations SET recreated_seq = seq, recreated_at = ? WHERE vm_id = ?", (now, who.vm_id))
        return True

    done = _on(path, write)
    if done is None:
        raise JournalError(f"the journal is missing, or was not opened since an upgrade: start its driver ({path})")
    return done


def give_back(path: Path, vm_id: VmId) -> None:
    """Record that this process did not recreate a VM after all, so that another may at once.

    Raises:
        JournalError: the journal cannot be written.
    """
    _on(path, lambda db: db.execute("UPDATE recreations SET recreated_at = 0 WHERE vm_id = ?", (vm_id,)))


def _on(path: Path, work: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
    """Run this on the journal in one transaction; None without a journal of the present version or a later one."""
    if not path.exists():
        return None
    try:
        db = connect(path, timeout=_BUSY_SECONDS, mode="rw")
        try:
            if check_version(db) < VERSION:
                return None  # its driver has not been started since the upgrade, and marks no VM
            for pragma in PRAGMAS:
                db.execute(f"PRAGMA {pragma}")
            db.execute("BEGIN IMMEDIATE")
            found = work(db)
            db.execute("COMMIT")
        finally:
            db.close()
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be used: {error} ({path})") from error
    return found
