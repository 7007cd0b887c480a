"""The journal as the action driver has it open: unanswered requests, attempts, debts and parked instances.

Creates and destroys are on disk before the cloud hears of them; other requests are recorded behind the scenes, and
never at all when they are answered before their turn to be written comes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from one_provider_mad.database import Database
from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.records import Attempt, Debt, OpenRequest, Refusal, Writer
from one_provider_mad.journal.schema import PRAGMAS, prepare
from one_provider_mad.journal.statements import (
    CALLED_OFF,
    REFUSAL,
    Row,
    add_debt,
    claim_import,
    forget_writer,
    packed,
    prune,
    save_attempt,
    select_asked,
    select_attempts_of_vm,
    select_debts,
    select_import,
    select_open_requests,
    select_writers,
    show_life,
    sign_in,
    storable,
    write_requests,
)
from one_provider_mad.moments import Moment
from one_provider_mad.processes import Process

_LARGE_PAYLOAD = 128 * 1024
"""Bytes from which on a payload is packed by the thread that writes it: packing 12 MB takes half a second."""


_AGAIN_SECONDS = 5.0
"""How long to wait after a write that failed, such as on a full disk."""


_KEPT_SECONDS = 30 * 86400.0
"""How long attempts that came to nothing are kept: longer than any cloud remembers an idempotency token."""


class Journal:
    """The journal of one NAME, open for writing. Any method may raise JournalError.

    Args:
        path: the file.
        clock: seconds since the epoch.
        on_lost: told when a record that nobody waits for could not be written.
        on_moved: told when the file was removed or replaced, and which one is used from then on.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        on_lost: Callable[[str], None],
        on_moved: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.path = path
        self._clock = clock
        self._on_lost = on_lost
        self._database = Database(
            path,
            pragmas=PRAGMAS,
            prepare=self._prepare,
            unusable=self._unusable,
            on_moved=lambda what: on_moved(f"the journal {what} ({path})"),
        )
        self._me, self._parent = Process.current(), Process.parent()
        self._unwritten: dict[int, Row] = {}
        self._writing: dict[int, Row] = {}
        self._closed: list[int] = []
        self._ended: set[int] = set()
        self._called_off: list[int] = []
        self._is_failing = False
        self._last_number = 0
        self._flush: asyncio.Future[None] | None = None
        self.has_new_debt = asyncio.Event()

    async def open(self) -> None:
        """Open the file, making it when it is missing."""
        await self._database.open()
        await self._database.write(lambda db: prune(db, self._clock() - _KEPT_SECONDS))
        # Whatever the clock says: what is asked from now on is newer than what is there.
        self._last_number = await self._database.read(
            lambda db: int(db.execute("SELECT coalesce(max(id), 0) FROM requests").fetchone()[0])
        )

    async def close(self) -> None:
        """Write what is due and close the file."""
        self._flush_soon()
        while self._flush is not None:
            await asyncio.wait([self._flush])
        await self._database.close()

    def _prepare(self, db: sqlite3.Connection) -> None:
        prepare(db)
        sign_in(db, self._me, self._parent, self._clock())

    def _unusable(self, error: Exception) -> JournalError:
        return JournalError(f"the journal cannot be used: {error} ({self.path})")

    # Unanswered requests

    def open_request(self, *, action: str, vm_id: VmId, is_two_blank: bool, payload: bytes) -> int:
        """Record, some time soon, that a request waits for its answer. Returns the record's number."""
        # In the order they came, also when they come in the same moment.
        number = self._last_number = max(self._last_number + 1, time.time_ns())
        kept: bytes | memoryview = memoryview(payload) if len(payload) > _LARGE_PAYLOAD else packed(payload)
        self._unwritten[number] = (
            number, vm_id, action, is_two_blank, kept, self._clock(), self._me.pid, self._me.start,
        )  # fmt: skip
        self._flush_soon()
        return number

    def close_request(self, number: int, *, has_ended: bool = False) -> None:
        """The request was answered (or called off); `has_ended`: it has destroyed its VM's instance."""
        if self._unwritten.pop(number, None) is None:
            self._closed.append(number)
            if has_ended:
                self._ended.add(number)
            self._flush_soon()

    async def recorded(self, number: int) -> None:
        """Return once this record is written, though perhaps not on disk yet. A crash of this process leaves it."""
        while number in self._unwritten or number in self._writing:
            if self._flush is None:
                raise JournalError(f"the request is not in the journal, which cannot be written now ({self.path})")
            await asyncio.wait([self._flush])

    def call_off_request(self, number: int) -> None:
        """DRIVER_CANCEL: nobody wants the request's answer any more, though its work is not over yet."""
        if number in self._unwritten:
            row = list(self._unwritten[number])
            row[2] = CALLED_OFF
            self._unwritten[number] = tuple(row)
        else:
            self._called_off.append(number)
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Write what is due, unless a write is under way: then its end starts the next one."""
        if self._flush is not None or not (self._unwritten or self._closed or self._called_off):
            return
        rows = self._writing = self._unwritten
        self._unwritten = {}
        called_off, self._called_off = self._called_off, []
        closed, self._closed = self._closed, []
        ended = [number for number in closed if number in self._ended] if self._ended else []
        try:
            now = self._clock()
            flush = self._database.submit(lambda db: write_requests(db, rows.values(), called_off, closed, ended, now))
        except JournalError as error:
            self._put_back(rows, called_off, closed, error)
            return
        self._flush = flush
        flush.add_done_callback(lambda _done: self._flushed(flush, rows, called_off, closed))

    def _flushed(
        self, flush: asyncio.Future[None], rows: dict[int, Row], called_off: list[int], closed: list[int]
    ) -> None:
        self._flush = None
        self._writing = {}
        error = None if flush.cancelled() else flush.exception()
        if error is not None:
            self._put_back(rows, called_off, closed, error)
            return
        self._is_failing = False
        self._ended.difference_update(closed)
        self._flush_soon()

    def _put_back(self, rows: dict[int, Row], called_off: list[int], closed: list[int], error: BaseException) -> None:
        """It could not be written: an answered request must not stand there for ever, so try again in a while."""
        if not self._is_failing:
            self._is_failing = True
            self._on_lost(str(error))
        over = {*closed, *self._closed}
        self._unwritten = {**{number: row for number, row in rows.items() if number not in over}, **self._unwritten}
        self._called_off = [*called_off, *self._called_off]
        self._closed = sorted(over - rows.keys())
        asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._flush_soon)

    async def sync(self) -> None:
        """Everything recorded so far is on disk when this returns."""
        for _ in range(2):  # what is being written now, and then what has come since
            self._flush_soon()
            if self._flush is not None:
                flush = self._flush
                await asyncio.wait([flush])
                flush.result()

    async def open_requests(self) -> list[OpenRequest]:
        """Every unanswered request of any writer, oldest first."""
        return await self._database.read(select_open_requests)

    async def take_request(self, number: int, *, takers: int = 1) -> None:
        """Make an unanswered request of a dead writer this writer's; `takers`: as how many takers that counts."""
        query = "UPDATE requests SET pid = ?, start = ?, takers = takers + ? WHERE id = ?"
        await self._database.write(lambda db: db.execute(query, (self._me.pid, self._me.start, takers, number)))

    async def writers(self) -> list[Writer]:
        """Every process that wrote here and has not been forgotten."""
        return await self._database.read(select_writers)

    async def show_life(self) -> None:
        """Record that this writer is alive."""
        await self._database.write(lambda db: show_life(db, self._me, self._clock()))

    async def forget_writer(self, process: Process) -> None:
        """Forget a dead writer and its unanswered requests."""
        await self._database.write(lambda db: forget_writer(db, process))

    # Attempts

    async def attempts(self, *, owner: str, vm_id: VmId) -> list[Attempt]:
        """Every attempt ever made for this VM number, oldest first."""
        return await self._database.read(lambda db: select_attempts_of_vm(db, owner, vm_id))

    async def save_attempt(self, attempt: Attempt) -> None:
        """Write an attempt as it is now; on disk when this returns."""
        await self._database.write(lambda db: save_attempt(db, attempt))

    async def note_refusal(self, refusal: Refusal) -> None:
        """Tell those who report on hosts that there was no room; the latest refusal counts."""
        kept = msgspec.structs.replace(refusal, text=storable(refusal.text))
        await self.set_fact(REFUSAL, msgspec.json.encode(kept).decode())

    # Debts

    async def debts(self) -> list[Debt]:
        """Everything that must still be destroyed, oldest first."""
        return await self._database.read(select_debts)

    async def add_debt(self, debt: Debt) -> None:
        """Note a debt; noting the same one again makes it reach as far as the newer one does."""
        await self._database.write(lambda db: add_debt(db, debt))
        self.has_new_debt.set()

    async def note_try(self, debt: Debt, error: str) -> None:
        """A debt could not be paid this time."""
        await self._database.write(
            lambda db: db.execute(
                "UPDATE debts SET tries = tries + 1, last_error = ? WHERE id = ?", (storable(error), debt.id)
            )
        )

    async def pay_debt(self, debt: Debt) -> None:
        """The debt's instance was seen terminated, or is gone for certain."""
        await self._database.write(lambda db: db.execute("DELETE FROM debts WHERE id = ?", (debt.id,)))

    # Instances

    async def park(self, deploy_id: DeployId, vm_id: VmId) -> None:
        """The instance is stopped for an undeploy or a stop: OpenNebula has it on no host."""
        await self._database.write(
            lambda db: db.execute("INSERT OR REPLACE INTO parked VALUES (?, ?, ?)", (deploy_id, vm_id, self._clock()))
        )

    async def unpark(self, deploy_id: DeployId) -> None:
        """The instance is on a host again, or gone."""
        await self._database.write(lambda db: db.execute("DELETE FROM parked WHERE deploy_id = ?", (deploy_id,)))

    async def parked(self) -> set[DeployId]:
        """Instances that are stopped for an undeploy or a stop."""
        rows = await self._database.read(lambda db: db.execute("SELECT deploy_id FROM parked").fetchall())
        return {DeployId(row[0]) for row in rows}

    async def parked_since(self) -> dict[DeployId, tuple[VmId, float]]:
        """Of each parked instance whose it is, and since when, in seconds since the epoch."""
        rows = await self._database.read(lambda db: db.execute("SELECT deploy_id, vm_id, since FROM parked").fetchall())
        return {DeployId(deploy_id): (VmId(vm_id), since) for deploy_id, vm_id, since in rows}

    async def soft_end(self, deploy_id: DeployId) -> tuple[Moment, bool] | None:
        """When the guest was asked first to end its instance, and whether it has refused; None when it never was."""
        select = "SELECT at, steady, boot, is_refused FROM soft_ends WHERE deploy_id = ?"
        row = await self._database.read(lambda db: db.execute(select, (deploy_id,)).fetchone())
        return (Moment(at=row[0], steady=row[1], boot=row[2]), bool(row[3])) if row else None

    async def note_soft_end(self, deploy_id: DeployId, now: Moment) -> None:
        """The guest is asked to end its instance; it is the first time that counts."""
        row = (deploy_id, now.at, now.steady, now.boot)
        await self._database.write(lambda db: db.execute("INSERT OR IGNORE INTO soft_ends VALUES (?, ?, ?, ?, 0)", row))

    async def refuse_soft_end(self, deploy_id: DeployId) -> None:
        """The guest was asked to end its instance, and runs on."""
        await self._database.write(
            lambda db: db.execute("UPDATE soft_ends SET is_refused = 1 WHERE deploy_id = ?", (deploy_id,))
        )

    async def record_import(self, deploy_id: DeployId, *, vm_id: VmId, stime: int) -> tuple[VmId, int]:
        """Claim an untagged instance for this VM unless another VM has it; the number and STIME of the VM that has it.

        Of two VMs that ask at once one gets it. It is on disk when this returns.
        """
        return await self._database.write(lambda db: claim_import(db, deploy_id, vm_id, stime))

    async def forget_import(self, deploy_id: DeployId, *, vm_id: VmId, stime: int) -> None:
        """Give back an untagged instance that this VM has claimed and certainly did not get."""
        query = "DELETE FROM imported WHERE deploy_id = ? AND vm_id = ? AND stime = ?"
        await self._database.write(lambda db: db.execute(query, (deploy_id, vm_id, stime)))

    async def imported_for(self, deploy_id: DeployId) -> tuple[VmId, int] | None:
        """The number and STIME of the VM that has taken this untagged instance over; None when none has."""
        return await self._database.read(lambda db: select_import(db, deploy_id))

    # What was last asked

    async def asked(self, deploy_id: DeployId, *, owner: str, vm_id: VmId) -> str | None:
        """What was last asked for and carried out on an instance of this VM; None when that is not known."""
        return await self._database.read(lambda db: select_asked(db, deploy_id, owner, vm_id))

    async def note_asked(self, deploy_id: DeployId, asked: str) -> None:
        """This is what the instance has from now on; on disk when this returns."""
        write = "INSERT OR REPLACE INTO asked VALUES (?, 0, ?)"
        await self._database.write(lambda db: db.execute(write, (deploy_id, asked)))

    # Facts

    async def fact(self, name: str) -> str | None:
        """A single remembered value, such as the account."""
        row = await self._database.read(
            lambda db: db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        )
        return None if row is None else str(row[0])

    async def set_fact(self, name: str, value: str) -> None:
        """Remember a single value."""
        await self._database.write(lambda db: db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value)))
