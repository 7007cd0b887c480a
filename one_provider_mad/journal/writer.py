"""The action driver's journal, open for writing: unanswered requests, attempts, debts and parked instances.

An attempt is on disk before its create is sent to the cloud. Requests are written in the background, or not at all when
they are answered before their turn to be written comes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from one_provider_mad.database import Database
from one_provider_mad.domain import DeployId, Identity, OwnedVm, VmId, VmOwner
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.cloud_tags import note_cloud_tags, select_cloud_tags
from one_provider_mad.journal.owners import OwnerNotes, select_owners
from one_provider_mad.journal.records import (
    Attempt,
    Debt,
    OpenRequest,
    Recreation,
    Refusal,
    Shortage,
    Writer,
)
from one_provider_mad.journal.recreations import forget_recreation, note_loss, select_recreation
from one_provider_mad.journal.schema import PRAGMAS, make_shrinkable, prepare
from one_provider_mad.journal.shortages import REFUSAL, add_shortage, end_shortages
from one_provider_mad.journal.statements import (
    CALLED_OFF,
    Row,
    add_debt,
    claim_import,
    forget_writer,
    note_specification,
    packed,
    prune,
    save_attempt,
    select_attempts_of_vm,
    select_debts,
    select_import,
    select_open_requests,
    select_specification,
    select_writers,
    show_life,
    shrink,
    sign_in,
    storable,
    write_requests,
)
from one_provider_mad.processes import Process
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.timestamps import Timestamp

_LARGE_PAYLOAD = 128 * 1024
"""Bytes above which a payload is compressed in the writing thread, not on the event loop: 12 MB take half a second."""


_AGAIN_SECONDS = 5.0
"""Seconds after a failed write (a full disk) before the pending records are written again."""


_PRUNED_EVERY = 3600.0
"""Seconds between the end of one pruning and the next."""


_ROWS = 100
"""Most records of each kind that one step of pruning deletes."""


_SHRINK_SECONDS = 0.01
"""Seconds that one step of shrinking the file takes."""


_PAUSE = 0.2
"""Seconds between two steps of pruning or shrinking, in which other writes have their turn."""


class Journal:
    """The journal of one configuration NAME, open for writing. Any method may raise JournalError.

    Args:
        path: the file.
        clock: seconds since the epoch.
        on_lost: called with a message when a background write fails.
        on_moved: called with a message when the file was removed or replaced, which says the file used from then on.
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
            adapt=make_shrinkable,
            on_moved=lambda what: on_moved(f"the journal {what} ({path})"),
        )
        self._owner_notes = OwnerNotes(self._database, clock=clock)
        self._me, self._parent = Process.current(), Process.parent()
        self._unwritten: dict[int, Row] = {}
        self._writing: dict[int, Row] = {}
        self._closed: list[int] = []
        self._ended: set[int] = set()
        self._called_off: list[int] = []
        self._is_failing = False
        self._last_number = 0
        self._flush: asyncio.Future[None] | None = None
        self._may_have_shortages = True
        self.has_new_debt = asyncio.Event()

    async def open(self) -> None:
        """Open the file, creating it when it is missing."""
        await self._database.open()
        # Numbers of later requests are higher than the recorded ones even after the clock was set back.
        self._last_number = await self._database.read(
            lambda db: int(db.execute("SELECT coalesce(max(id), 0) FROM requests").fetchone()[0])
        )

    async def close(self) -> None:
        """Write all pending records and close the file."""
        self._flush_soon()
        while self._flush is not None:
            await asyncio.wait([self._flush])
        await self._owner_notes.close()
        await self._database.close()

    async def keep_small(self) -> None:
        """Prune now and every hour, for as long as the driver runs; after a failure (a full disk) again in an hour."""
        while True:
            with suppress(JournalError):
                await self.prune()
            await asyncio.sleep(_PRUNED_EVERY)

    async def prune(self) -> None:
        """Delete all old records (decision 31), and give their space back to the file system.

        It takes steps of milliseconds with pauses in between, so that other writes hardly wait.
        """
        await self._repeat(lambda db: prune(db, self._clock(), most=_ROWS))
        await self._repeat(lambda db: shrink(db, seconds=_SHRINK_SECONDS))

    async def _repeat(self, step: Callable[[sqlite3.Connection], bool]) -> None:
        is_left = await self._database.write(step)
        while is_left:
            await asyncio.sleep(_PAUSE)
            is_left = await self._database.write(step)

    def _prepare(self, db: sqlite3.Connection) -> None:
        prepare(db)
        sign_in(db, self._me, self._parent, self._clock())

    def _unusable(self, error: Exception) -> JournalError:
        return JournalError(f"the journal cannot be used: {error} ({self.path})")

    # Unanswered requests

    def open_request(self, *, action: str, vm_id: VmId, dialect: Dialect, payload: bytes) -> int:
        """Record an unanswered request in the background, and return the record's number."""
        # Numbers keep the order of arrival, also within one tick of the clock.
        number = self._last_number = max(self._last_number + 1, time.time_ns())
        kept: bytes | memoryview = memoryview(payload) if len(payload) > _LARGE_PAYLOAD else packed(payload)
        self._unwritten[number] = (
            number, vm_id, action, dialect.has_status_field, kept, self._clock(), self._me.pid, self._me.start,
        )  # fmt: skip
        self._flush_soon()
        return number

    def close_request(self, number: int, *, has_ended: bool = False) -> None:
        """Remove an answered or cancelled request; `has_ended`: the request has terminated its VM's instance."""
        if self._unwritten.pop(number, None) is None:
            self._closed.append(number)
            if has_ended:
                self._ended.add(number)
            self._flush_soon()

    async def recorded(self, number: int) -> None:
        """Return once a request's record survives a crash of this process: it is written, though perhaps not synced."""
        while number in self._unwritten or number in self._writing:
            if self._flush is None:
                raise JournalError(f"the request is not in the journal, which cannot be written now ({self.path})")
            await asyncio.wait([self._flush])

    def call_off_request(self, number: int) -> None:
        """Mark a request as cancelled by DRIVER_CANCEL, for the time until its action has ended: it gets no answer."""
        if number in self._unwritten:
            row = list(self._unwritten[number])
            row[2] = CALLED_OFF
            self._unwritten[number] = tuple(row)
        else:
            self._called_off.append(number)
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Begin to write the pending records; while a write is under way, they are written once it has ended."""
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
        """Queue the records and removals of a failed write again, so that no answered request stays in the journal."""
        if not self._is_failing:
            self._is_failing = True
            self._on_lost(str(error))
        over = {*closed, *self._closed}
        self._unwritten = {**{number: row for number, row in rows.items() if number not in over}, **self._unwritten}
        self._called_off = [*called_off, *self._called_off]
        self._closed = sorted(over - rows.keys())
        asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._flush_soon)

    async def sync(self) -> None:
        """Return once every record so far is on disk."""
        for _ in range(2):  # the write under way, and then the records that came since
            self._flush_soon()
            if self._flush is not None:
                flush = self._flush
                await asyncio.wait([flush])
                flush.result()

    async def open_requests(self) -> list[OpenRequest]:
        """Return every writer's unanswered requests, oldest first."""
        return await self._database.read(select_open_requests)

    async def take_request(self, number: int, *, takers: int = 1) -> None:
        """Make this process the writer of a dead one's unanswered request; `takers` is added to its count of takers."""
        query = "UPDATE requests SET pid = ?, start = ?, takers = takers + ? WHERE id = ?"
        await self._database.write(lambda db: db.execute(query, (self._me.pid, self._me.start, takers, number)))

    async def writers(self) -> list[Writer]:
        """Return every process recorded as a writer."""
        return await self._database.read(select_writers)

    async def show_life(self) -> None:
        """Record that this process is alive now."""
        await self._database.write(lambda db: show_life(db, self._me, self._clock()))

    async def forget_writer(self, process: Process) -> None:
        """Delete the records of a dead process and of its unanswered requests."""
        await self._database.write(lambda db: forget_writer(db, process))

    # Attempts

    async def unsent(self, tokens: Sequence[str]) -> list[str]:
        """Return those of some create tokens that made nothing: they were refused, or not even recorded."""
        known = "SELECT 1 FROM attempts WHERE token = ? AND state <> 'refused'"

        def select(db: sqlite3.Connection) -> list[str]:
            return [token for token in tokens if db.execute(known, (token,)).fetchone() is None]

        return await self._database.read(select)

    async def attempts(self, *, owner: str, vm_id: VmId) -> list[Attempt]:
        """Return every attempt for this VM ID, oldest first."""
        return await self._database.read(lambda db: select_attempts_of_vm(db, owner, vm_id))

    async def save_attempt(self, attempt: Attempt) -> None:
        """Write an attempt; it is on disk when this returns."""
        await self._database.write(lambda db: save_attempt(db, attempt))

    async def note_refusal(self, refusal: Refusal) -> None:
        """Record the latest refused create, by which the information driver reports the host's free capacity."""
        kept = msgspec.structs.replace(refusal, text=storable(refusal.text), room=storable(refusal.room))
        self._may_have_shortages = True
        await self.set_fact(REFUSAL, msgspec.json.encode(kept).decode())

    async def note_shortage(self, shortage: Shortage) -> None:
        """Record that the cloud refused another instance of a kind."""
        kept = msgspec.structs.replace(shortage, room=storable(shortage.room), text=storable(shortage.text))
        self._may_have_shortages = True
        await self._database.write(lambda db: add_shortage(db, kept))

    async def end_shortages(self, room: str, *, before: float) -> None:
        """Delete what a successful create has disproved; nothing is written while there is nothing.

        Args:
            room: the kind of the created instance.
            before: when its create was sent; later refusals stay.
        """
        if not self._may_have_shortages:
            return
        self._may_have_shortages = False
        is_none_left = await self._database.write(lambda db: end_shortages(db, storable(room), before=before))
        self._may_have_shortages |= not is_none_left

    # VMs that may be recreated

    async def recreation(self, vm_id: VmId) -> Recreation | None:
        """Return the record of a VM that may be recreated; None when there is none."""
        return await self._database.read(lambda db: select_recreation(db, vm_id))

    async def note_refused_vm(self, identity: Identity, reason: str) -> None:
        """Record that a VM's create was refused for want of room, so that the VM may be recreated."""
        await self._database.write(lambda db: note_loss(db, identity, at=self._clock(), reason=reason))

    async def forget_recreation(self, vm_id: VmId) -> None:
        """Delete the record of a VM that runs, or has ended."""
        await self._database.write(lambda db: forget_recreation(db, vm_id))

    # Owners of VMs

    def note_owners(self, vms: Iterable[OwnedVm]) -> None:
        """Record the present user, group and name of VMs in the background."""
        self._owner_notes.note(vms)

    async def owners(self) -> Mapping[tuple[int, int], VmOwner]:
        """Return the recorded user and group of each VM, by VM ID and STIME."""
        return (await self._database.read(select_owners))[0].owners

    # Tags of `[tags]`

    async def note_cloud_tags(self, deploy_id: DeployId, tags: Mapping[str, str]) -> None:
        """Record the tags of `[tags]` that an instance has now."""
        await self._database.write(lambda db: note_cloud_tags(db, deploy_id, tags, self._clock()))

    async def cloud_tags(self, deploy_ids: Collection[DeployId]) -> dict[DeployId, Mapping[str, str]]:
        """Return the tags of `[tags]` that these instances were last given, as far as they are recorded."""
        return await self._database.read(lambda db: select_cloud_tags(db, deploy_ids))

    # Debts

    async def debts(self) -> list[Debt]:
        """Return every open debt, oldest first."""
        return await self._database.read(select_debts)

    async def add_debt(self, debt: Debt) -> None:
        """Record a debt; where it exists already, its record gets the later SEQ and time of both."""
        await self._database.write(lambda db: add_debt(db, debt))
        self.has_new_debt.set()

    async def note_try(self, debt: Debt, error: str) -> None:
        """Record a failed try to pay a debt."""
        await self._database.write(
            lambda db: db.execute(
                "UPDATE debts SET tries = tries + 1, last_error = ? WHERE id = ?", (storable(error), debt.id)
            )
        )

    async def pay_debt(self, debt: Debt) -> None:
        """Delete a debt whose instance is terminated, or certainly not in the cloud any more."""
        await self._database.write(lambda db: db.execute("DELETE FROM debts WHERE id = ?", (debt.id,)))

    # Instances

    async def park(self, deploy_id: DeployId, vm_id: VmId) -> None:
        """Mark an instance as stopped for an undeploy or a stop: OpenNebula has its VM on no host."""
        await self._database.write(
            lambda db: db.execute("INSERT OR REPLACE INTO parked VALUES (?, ?, ?)", (deploy_id, vm_id, self._clock()))
        )

    async def unpark(self, deploy_id: DeployId) -> None:
        """Remove the mark of `park` from an instance that is on a host again, or terminated."""
        await self._database.write(lambda db: db.execute("DELETE FROM parked WHERE deploy_id = ?", (deploy_id,)))

    async def parked(self) -> set[DeployId]:
        """Return the parked instances."""
        rows = await self._database.read(lambda db: db.execute("SELECT deploy_id FROM parked").fetchall())
        return {DeployId(row[0]) for row in rows}

    async def parked_since(self) -> dict[DeployId, tuple[VmId, float]]:
        """Return the VM of each parked instance, and since when it is parked, in seconds since the epoch."""
        rows = await self._database.read(lambda db: db.execute("SELECT deploy_id, vm_id, since FROM parked").fetchall())
        return {DeployId(deploy_id): (VmId(vm_id), since) for deploy_id, vm_id, since in rows}

    async def soft_end(self, deploy_id: DeployId) -> tuple[Timestamp, bool] | None:
        """Return when the guest was first asked to shut down, and whether it ignored that; None if never asked."""
        select = "SELECT at, steady, boot, is_refused FROM soft_ends WHERE deploy_id = ?"
        row = await self._database.read(lambda db: db.execute(select, (deploy_id,)).fetchone())
        return (Timestamp(at=row[0], steady=row[1], boot=row[2]), bool(row[3])) if row else None

    async def note_soft_end(self, deploy_id: DeployId, now: Timestamp) -> None:
        """Record that the instance's guest is asked to shut down; an earlier record stays."""
        row = (deploy_id, now.at, now.steady, now.boot)
        await self._database.write(lambda db: db.execute("INSERT OR IGNORE INTO soft_ends VALUES (?, ?, ?, ?, 0)", row))

    async def refuse_soft_end(self, deploy_id: DeployId) -> None:
        """Record that the instance's guest was asked to shut down, and has ignored it."""
        await self._database.write(
            lambda db: db.execute("UPDATE soft_ends SET is_refused = 1 WHERE deploy_id = ?", (deploy_id,))
        )

    async def record_import(self, deploy_id: DeployId, *, vm_id: VmId, stime: int) -> tuple[VmId, int]:
        """Record an untagged instance as this VM's import, unless it is another's; return ID and STIME of its VM.

        Of VMs that call at the same time one gets the instance. The record is on disk when this returns.
        """
        return await self._database.write(lambda db: claim_import(db, deploy_id, vm_id, stime))

    async def forget_import(self, deploy_id: DeployId, *, vm_id: VmId, stime: int) -> None:
        """Delete the record of an import whose tags were certainly not written."""
        query = "DELETE FROM imported WHERE deploy_id = ? AND vm_id = ? AND stime = ?"
        await self._database.write(lambda db: db.execute(query, (deploy_id, vm_id, stime)))

    async def imported_for(self, deploy_id: DeployId) -> tuple[VmId, int] | None:
        """Return ID and STIME of the VM that has imported this untagged instance; None when none has."""
        return await self._database.read(lambda db: select_import(db, deploy_id))

    # Specifications of instances

    async def specification(self, deploy_id: DeployId, *, owner: str, vm_id: VmId) -> str | None:
        """Return the specification of this VM's instance (actions/instance_spec.py); None when there is none."""
        return await self._database.read(lambda db: select_specification(db, deploy_id, owner, vm_id))

    async def note_specification(self, deploy_id: DeployId, specification: str, *, vm_id: VmId) -> None:
        """Record the specification that this VM's instance now has; it is on disk when this returns."""
        await self._database.write(lambda db: note_specification(db, deploy_id, vm_id, specification))

    # Facts

    async def fact(self, name: str) -> str | None:
        """Return the text recorded under a name, such as the account's; None when there is none."""
        row = await self._database.read(
            lambda db: db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        )
        return None if row is None else str(row[0])

    async def set_fact(self, name: str, value: str) -> None:
        """Record a text under a name."""
        await self._database.write(lambda db: db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value)))
