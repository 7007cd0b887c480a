"""Read the journal in processes other than the action driver, without changing it or blocking its writer."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from one_provider_mad.database import connect
from one_provider_mad.domain import DeployId, OwnedVm, VmId, VmOwner
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.owners import OwnerChanges, select_owned_vms, select_owners
from one_provider_mad.journal.records import (
    Attempt,
    Debt,
    OpenRequest,
    Outline,
    Recreation,
    Refusal,
    Shortage,
    Writer,
)
from one_provider_mad.journal.recreations import select_recreations
from one_provider_mad.journal.schema import later_release, show_as_latest, version_of
from one_provider_mad.journal.shortages import select_refusal, select_shortages
from one_provider_mad.journal.statements import (
    select_attempts,
    select_debts,
    select_ends,
    select_live_imports,
    select_open_requests,
    select_outline,
    select_vm_ids,
    select_writers,
)

_Result = TypeVar("_Result")


def read_fact(path: Path, name: str) -> str | None:
    """Return one fact, opening the journal for this read only; None when there is no journal or no such fact.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    try:
        row = _look(path, lambda db: db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone())
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be read: {error} ({path})") from error
    return None if row is None else str(row[0])


def read_version(path: Path) -> int:
    """Return the version of a journal, also of a later release's (journal/schema.py); 0 when there is no journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    try:
        return _look(path, version_of) or 0
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be read: {error} ({path})") from error


def read_debts(path: Path) -> list[Debt]:
    """Return every open debt, opening the journal for this read only; none when there is no journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, select_debts)


def read_live_imports(path: Path) -> list[tuple[DeployId, VmId]]:
    """Return imported instances that were not terminated, each with its VM; none when there is no journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, select_live_imports)


def read_ends(path: Path, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, float]:
    """Return when the action driver ended these instances, seconds since the epoch, as far as it has ended them.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return dict(_read_all(path, lambda db: select_ends(db, deploy_ids)))


def read_open_requests(path: Path) -> list[OpenRequest]:
    """Return the unanswered requests, oldest first, opening the journal for this read only; none without a journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, select_open_requests)


def read_writers(path: Path) -> list[Writer]:
    """Return every process that has written the journal, opening it for this read only; none without a journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, select_writers)


def read_attempts(path: Path) -> list[Attempt]:
    """Return every attempt, opening the journal for this read only; none without a journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, lambda db: select_attempts(db, "1 = 1", {}))


def read_recreations(path: Path) -> list[Recreation]:
    """Return every VM that may be recreated, opening the journal for this read only; none without a journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, select_recreations)


def read_refusals(path: Path) -> tuple[Refusal | None, tuple[Shortage, ...]]:
    """Return the latest refusal, and the kinds of instances that were refused, as an `Outline` has them.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    found = _read_all(path, lambda db: [(select_refusal(db), select_shortages(db))])
    return found[0] if found else (None, ())


def read_vm_ids(path: Path) -> list[VmId]:
    """Return the VMs that have a record, in order, opening the journal for this read only; none without a journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, select_vm_ids)


def owners(path: Path) -> Mapping[tuple[int, int], VmOwner]:
    """Return user and group of each VM by VM ID and STIME, opening the journal for this read only; none without it.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return owner_changes(path, after=0).owners


def owner_changes(path: Path, *, after: int) -> OwnerChanges:
    """Return the users and groups that were recorded, or changed, after the change of this number.

    Args:
        path: the journal; without one nothing has changed.
        after: `latest` of an earlier answer, 0 for all. A journal that was replaced counts anew: when `latest` is
            lower than before, ask for all.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    found = _read_all(path, lambda db: select_owners(db, after=after))
    return found[0] if found else OwnerChanges(0, {})


def read_owned_vms(path: Path) -> list[OwnedVm]:
    """Return user, group and name of each VM, opening the journal for this read only; none without a journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, select_owned_vms)


def _read_all(path: Path, query: Callable[[sqlite3.Connection], list[_Result]]) -> list[_Result]:
    try:
        return _look(path, query) or []
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be read: {error} ({path})") from error


def read_outline(path: Path, *, since: float) -> Outline:
    """Return the action driver's current work in one short read; an empty outline without a journal.

    Args:
        path: the journal.
        since: leave out attempts that were sent and answered before this time, in seconds since the epoch.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    try:
        return _look(path, lambda db: _outline(db, since)) or Outline()
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be read: {error} ({path})") from error


def _outline(db: sqlite3.Connection, since: float) -> Outline:
    outline = select_outline(db, since)
    sentence = later_release(db)
    return msgspec.structs.replace(outline, caution=f"the journal: {sentence}") if sentence else outline


def _look(path: Path, query: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
    """Run a query on the journal at the path, and close it; None when there is no file.

    The file is opened for writing where possible: after a crash SQLite must roll back half a commit before it reads.
    """
    if not path.exists():
        return None
    mode = "rw" if os.access(path, os.W_OK) else "ro"
    db = connect(path, timeout=5, mode=mode)
    try:
        db.execute("BEGIN")  # one consistent snapshot, of one version
        if not show_as_latest(db):
            return None
        db.execute("PRAGMA query_only = 1")
        try:
            return query(db)
        except Exception as error:  # a later release may write anything
            if sentence := later_release(db):
                raise sqlite3.DatabaseError(sentence) from error
            raise
    finally:
        db.close()
