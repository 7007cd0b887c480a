"""The users, groups and names of VMs: the SQL of their records, and those that wait to be written.

A row that changes is written anew, with an `id` above all earlier ones, so that a reader may ask for changes alone.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from one_provider_mad.database import Database
from one_provider_mad.domain import OwnedVm, VmId, VmOwner
from one_provider_mad.errors import JournalError

_RENEWED_SECONDS = 86400.0
"""Seconds after which the time of an unchanged record is written anew."""

_COLUMNS = "vm_id, stime, user_id, user_name, group_id, group_name, name"

_VALUES = ", ".join(
    f"json_extract(value, '$[{place}]') AS {column}" for place, column in enumerate(_COLUMNS.split(", "))
)

_NOTED = f"SELECT {_VALUES} FROM json_each(:rows)"  # noqa: S608 - nothing from outside


class OwnerChanges(NamedTuple):
    """What has changed in the records of VMs' owners.

    Attributes:
        latest: number of the latest change.
        owners: user and group by VM ID and STIME, of the changed records alone.
    """

    latest: int
    owners: Mapping[tuple[int, int], VmOwner]


def note_owners(db: sqlite3.Connection, vms: Iterable[OwnedVm], now: float) -> None:
    """Write the user, group and name of VMs where they differ from what is recorded, or are new."""
    # One step of SQLite for each statement, for any number of VMs (database.py says why).
    rows = json.dumps([_row(vm) for vm in vms])
    values = {"rows": rows, "now": now, "before": now - _RENEWED_SECONDS}
    db.execute(
        f"INSERT OR REPLACE INTO owners ({_COLUMNS}, seen_at) SELECT {_COLUMNS}, :now FROM ({_NOTED})"  # noqa: S608
        f" WHERE ({_COLUMNS}) NOT IN (SELECT {_COLUMNS} FROM owners WHERE vm_id IN (SELECT vm_id FROM ({_NOTED})))",
        values,
    )
    db.execute(
        f"UPDATE owners SET seen_at = :now WHERE (vm_id, stime) IN (SELECT vm_id, stime FROM ({_NOTED}))"  # noqa: S608
        " AND seen_at NOT BETWEEN :before AND :now",
        values,
    )


def _row(vm: OwnedVm) -> tuple[object, ...]:
    owner = vm.owner
    texts = (_plain(owner.user), owner.group_id, _plain(owner.group), _plain(vm.name))
    return (vm.vm_id, vm.stime, owner.user_id, *texts)


def _plain(text: str) -> str:
    """Return the text without lone surrogates, which SQLite refuses, and NUL, at which it ends a text in JSON."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def prune_owners(db: sqlite3.Connection, values: Mapping[str, object]) -> int:
    """Delete records from before `:before` of VMs and instances without other records; return how many of one table.

    Args:
        db: the journal.
        values: `before`, seconds since the epoch, and `most`, the most records to delete.
    """
    kept = " UNION ALL ".join(f"SELECT vm_id FROM {table}" for table in _OF_INSTANCES)  # noqa: S608
    old = f"SELECT id FROM owners WHERE seen_at < :before AND vm_id NOT IN ({kept}) LIMIT :most"  # noqa: S608
    owners = db.execute(f"DELETE FROM owners WHERE id IN ({old})", values).rowcount  # noqa: S608
    kept = "SELECT deploy_id FROM attempts UNION ALL SELECT deploy_id FROM instances"
    old = f"SELECT deploy_id FROM cloud_tags WHERE seen_at < :before AND deploy_id NOT IN ({kept}) LIMIT :most"  # noqa: S608
    return max(owners, db.execute(f"DELETE FROM cloud_tags WHERE deploy_id IN ({old})", values).rowcount)  # noqa: S608


_OF_INSTANCES = ("attempts", "debts", "parked", "imported", "instances")
"""Tables whose rows say that an instance of the VM exists, or ended less than a month ago."""


def select_owners(db: sqlite3.Connection, *, after: int = 0) -> list[OwnerChanges]:
    """Return user and group of each VM whose record was written after this change, in a list of one."""
    rows = db.execute(f"SELECT id, {_COLUMNS} FROM owners WHERE id > ? ORDER BY id", (after,)).fetchall()  # noqa: S608
    owners = {(row[1], row[2]): VmOwner(user_id=row[3], user=row[4], group_id=row[5], group=row[6]) for row in rows}
    return [OwnerChanges(rows[-1][0] if rows else after, owners)]


def select_owned_vms(db: sqlite3.Connection) -> list[OwnedVm]:
    """Return every record, in the order of the VMs' numbers and times."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM owners ORDER BY vm_id, stime").fetchall()  # noqa: S608
    return [
        OwnedVm(
            vm_id=VmId(vm_id),
            stime=stime,
            owner=VmOwner(user_id=user_id, user=user, group_id=group_id, group=group),
            name=name,
        )
        for vm_id, stime, user_id, user, group_id, group, name in rows
    ]


class OwnerNotes:
    """Writes users, groups and names of VMs in the background: those noted during one write go into the next together.

    Those of a failed write (a full disk, of which the journal's other writes warn) go into the next one, too.

    Args:
        database: the journal's file.
        clock: seconds since the epoch.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._unwritten: dict[tuple[VmId, int], OwnedVm] = {}
        self._write: asyncio.Future[None] | None = None

    def note(self, vms: Iterable[OwnedVm]) -> None:
        """Record the present user, group and name of VMs; those whose user and group are unknown are left out."""
        self._unwritten |= {(vm.vm_id, vm.stime): vm for vm in vms if vm.owner != VmOwner()}
        self._write_soon()

    async def close(self) -> None:
        """Return once all notes are written, or could not be."""
        while self._write is not None:
            await asyncio.wait([self._write])

    def _write_soon(self) -> None:
        if self._write is not None or not self._unwritten:
            return
        vms, self._unwritten, now = self._unwritten, {}, self._clock()
        try:
            write = self._database.submit(lambda db: note_owners(db, vms.values(), now))
        except JournalError:  # the journal is closed
            return
        self._write = write
        write.add_done_callback(lambda _done: self._written(write, vms))

    def _written(self, write: asyncio.Future[None], vms: dict[tuple[VmId, int], OwnedVm]) -> None:
        self._write = None
        if write.cancelled() or write.exception() is not None:
            self._unwritten = vms | self._unwritten
        else:
            self._write_soon()
