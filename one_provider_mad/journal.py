"""What a crash must not forget: unanswered requests, attempts to create, what was asked, debts, parked instances...

One SQLite file a NAME (decision 12). The action daemon writes it; everybody else reads. Creates and destroys are on
disk before the cloud hears of them; other requests are recorded behind the scenes, and never at all when they are
answered before their turn to be written comes.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from one_provider_mad.belongings import open_file
from one_provider_mad.database import Database, connect
from one_provider_mad.domain import DeployId, Identity, Value, VmId
from one_provider_mad.errors import JournalError
from one_provider_mad.masking import masked
from one_provider_mad.moments import Moment
from one_provider_mad.processes import Process

_Result = TypeVar("_Result")

_VERSION = 1

_ROWS_AT_ONCE = 100
"""Rows in one INSERT: SQLite takes 999 values in a statement everywhere."""

_LARGE_PAYLOAD = 128 * 1024
"""Bytes from which on a payload is packed by the thread that writes it: packing 12 MB takes half a second."""

# A rollback journal and full synchronisation: after a power cut a create that was sent is still known.
_PRAGMAS = ("journal_mode = TRUNCATE", "synchronous = FULL")

_Row = tuple[Any, ...]

_AGAIN_SECONDS = 5.0
"""How long to wait after a write that failed, such as on a full disk."""

_CALLED_OFF = "DRIVER_CANCEL"
"""What the action of a request becomes when it is called off."""

_KEPT_SECONDS = 30 * 86400.0
"""How long attempts that came to nothing are kept: longer than any cloud remembers an idempotency token."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS writers (
    pid INTEGER NOT NULL, start TEXT NOT NULL, parent_pid INTEGER NOT NULL, parent_start TEXT NOT NULL,
    seen_at REAL NOT NULL, PRIMARY KEY (pid, start));
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, vm_id INTEGER NOT NULL, action TEXT NOT NULL, is_two_blank INTEGER NOT NULL,
    payload BLOB NOT NULL, opened_at REAL NOT NULL, pid INTEGER NOT NULL, start TEXT NOT NULL,
    takers INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS attempts (
    token TEXT PRIMARY KEY, owner TEXT NOT NULL, vm_id INTEGER NOT NULL, stime INTEGER NOT NULL, seq INTEGER NOT NULL,
    host_id INTEGER NOT NULL, number INTEGER NOT NULL, parameters TEXT NOT NULL, state TEXT NOT NULL,
    deploy_id TEXT NOT NULL, sent_at REAL NOT NULL, answered_at REAL NOT NULL, detail TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS moments (token TEXT PRIMARY KEY, at REAL NOT NULL, steady REAL NOT NULL, boot TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS attempts_of_vm ON attempts (owner, vm_id);
CREATE INDEX IF NOT EXISTS attempts_sent ON attempts (sent_at);
CREATE INDEX IF NOT EXISTS attempts_answered ON attempts (answered_at);
CREATE TABLE IF NOT EXISTS debts (
    id INTEGER PRIMARY KEY, deploy_id TEXT NOT NULL, token TEXT NOT NULL, owner TEXT NOT NULL, vm_id INTEGER NOT NULL,
    stime INTEGER NOT NULL, seq INTEGER NOT NULL, host_id INTEGER NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL,
    tries INTEGER NOT NULL, last_error TEXT NOT NULL, UNIQUE (deploy_id, token, vm_id, stime));
CREATE TABLE IF NOT EXISTS parked (deploy_id TEXT PRIMARY KEY, vm_id INTEGER NOT NULL, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS soft_ends (
    deploy_id TEXT PRIMARY KEY, at REAL NOT NULL, steady REAL NOT NULL, boot TEXT NOT NULL,
    is_refused INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS imported (deploy_id TEXT PRIMARY KEY, vm_id INTEGER NOT NULL, stime INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS asked (key TEXT PRIMARY KEY, is_token INTEGER NOT NULL, asked TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answered (
    vm_id INTEGER PRIMARY KEY, action TEXT NOT NULL, at REAL NOT NULL, has_ended INTEGER NOT NULL);
"""

_REFUSAL = "refusal"
"""Name of the fact that holds a `Refusal`."""

_ANSWERED_SECONDS = 3600.0
"""How long it is kept which action of a VM was answered last: longer than any listing takes."""


class AttemptState(Enum):
    """How far an attempt to create has come."""

    OPEN = "open"
    """Sent or about to be: the instance may exist."""

    CREATED = "created"
    """The cloud answered with an id."""

    REFUSED = "refused"
    """The cloud certainly made nothing."""

    GONE = "gone"
    """Its instance is terminated, or certainly never came to be."""


class Attempt(Value, frozen=True, kw_only=True):
    """One attempt to create an instance.

    Attributes:
        token: idempotency token, a hash of identity and number.
        identity: whose the instance is to be.
        number: 1 for the first attempt of this identity.
        parameters: exactly what the call sends.
        state: how far it has come.
        deploy_id: the id that the cloud answered, "" until then.
        sent_at: when it was last sent, seconds since the epoch.
        answered_at: when it was answered, or given up on, by the cloud; 0 until then. The grace counts from here.
        detail: why it was refused or is gone.
        latest: the later of the two, on a clock that nobody sets; None when only the wall's is known.
        asked: what the VM asked for, as a resume compares it; "" in one that was read, which changes nothing of it.
    """

    token: str
    identity: Identity
    number: int
    parameters: Mapping[str, Any]
    state: AttemptState
    deploy_id: DeployId = DeployId("")
    sent_at: float = 0.0
    answered_at: float = 0.0
    detail: str = ""
    latest: Moment | None = None
    asked: str = ""

    @classmethod
    def new(cls, identity: Identity, number: int, parameters: Mapping[str, Any], *, asked: str = "") -> Attempt:
        """An attempt about to be sent. Same identity and number, same token: 64 hexadecimal characters."""
        text = f"{identity.owner}\0{identity.vm_id}\0{identity.stime}\0{identity.seq}\0{number}"
        return cls(
            token=sha256(text.encode()).hexdigest(),
            identity=identity,
            number=number,
            # As they will come back from the file: the first sending and every later one are the same call.
            parameters=json.loads(json.dumps(parameters)),
            state=AttemptState.OPEN,
            asked=asked,
        )

    def sent(self, now: Moment) -> Attempt:
        """The attempt, sent at this moment."""
        return msgspec.structs.replace(self, sent_at=now.at, latest=now)

    def answered(self, now: Moment) -> Attempt:
        """The attempt, answered or given up on at this moment."""
        return msgspec.structs.replace(self, answered_at=now.at, latest=now)

    def age(self, now: Moment) -> float:
        """Seconds at that moment since it was last sent or answered, whichever is later."""
        return now.since(self.latest or Moment(at=max(self.sent_at, self.answered_at)))


ORPHAN = "orphan ("
"""How the reason of a debt begins that the look for orphans has noted, and that no request has asked for."""


class Debt(Value, frozen=True, kw_only=True):
    """An instance that must be destroyed and could not be, yet.

    Attributes:
        id: number of the debt.
        deploy_id: the instance, "" when only its identity is known.
        token: the attempt it came from, "" when none is known.
        identity: whose it was.
        reason: why it must go.
        since: seconds since the epoch.
        tries: how often it was tried.
        last_error: what went wrong last.
    """

    id: int = 0
    deploy_id: DeployId
    token: str = ""
    identity: Identity
    reason: str
    since: float
    tries: int = 0
    last_error: str = ""

    @property
    def is_orphan(self) -> bool:
        """True when only the look for orphans says that it must go: it has to be one still when it is terminated."""
        return self.reason.startswith(ORPHAN)


class OpenRequest(Value, frozen=True, kw_only=True):
    """A request that was not answered yet.

    Attributes:
        id: number of the record.
        action: the action's word; DRIVER_CANCEL for whatever was called off and is not over.
        vm_id: the VM's number.
        is_two_blank: form of the line.
        payload: base64 as it came; b"" where the request need not be carried out again.
        opened_at: seconds since the epoch.
        writer: the process that took it.
        takers: how many processes have taken it over.
    """

    id: int
    action: str
    vm_id: VmId
    is_two_blank: bool
    payload: bytes
    opened_at: float
    writer: Process
    takers: int = 0


class Writer(Value, frozen=True, kw_only=True):
    """A process that wrote the journal.

    Attributes:
        process: the process.
        parent: who had started it.
        seen_at: when it last showed a sign of life, seconds since the epoch.
    """

    process: Process
    parent: Process
    seen_at: float


class Answered(Value, frozen=True, kw_only=True):
    """The action of a VM that was answered last.

    Attributes:
        action: its word.
        at: when, seconds since the epoch.
        has_ended: it has succeeded, and the VM's instance was to be destroyed: that it is gone is no surprise.
    """

    action: str
    at: float
    has_ended: bool = False


class Refusal(Value, frozen=True, kw_only=True):
    """A create that the cloud has refused for want of room, or by a limit.

    Attributes:
        at: when, seconds since the epoch.
        text: what the cloud said.
        vm_id: for which VM.
        is_limit: a limit of the account was reached; else there was no room just then.
        is_general: the limit holds for every VM of this cloud.
    """

    at: float
    text: str
    vm_id: VmId
    is_limit: bool
    is_general: bool


class Outline(Value, frozen=True, kw_only=True):
    """What the action driver is doing, for those who report on its instances.

    Attributes:
        unanswered: VMs with unanswered requests, by the process that took them.
        answered: by VM, what was answered within the last hour; what was answered at once need not be here.
        attempts: attempts to create that are open or have made something, sent or answered since the time asked for.
        parked: instances that are stopped for an undeploy or a stop.
        owed: instances that must be destroyed and could not be, yet; "" among them for one without an id.
        refusal: the latest create that was refused for want of room or by a limit, None for none.
    """

    unanswered: Mapping[Process, frozenset[VmId]] = {}
    answered: Mapping[VmId, Answered] = {}
    attempts: tuple[Attempt, ...] = ()
    parked: frozenset[DeployId] = frozenset()
    owed: frozenset[DeployId] = frozenset()
    refusal: Refusal | None = None


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
            pragmas=_PRAGMAS,
            prepare=self._prepare,
            unusable=self._unusable,
            on_moved=lambda what: on_moved(f"the journal {what} ({path})"),
        )
        self._me, self._parent = Process.current(), Process.parent()
        self._unwritten: dict[int, _Row] = {}
        self._writing: dict[int, _Row] = {}
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
        await self._database.write(lambda db: _prune(db, self._clock() - _KEPT_SECONDS))
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
        _prepare(db)
        _sign_in(db, self._me, self._parent, self._clock())

    def _unusable(self, error: Exception) -> JournalError:
        return JournalError(f"the journal cannot be used: {error} ({self.path})")

    # Unanswered requests

    def open_request(self, *, action: str, vm_id: VmId, is_two_blank: bool, payload: bytes) -> int:
        """Record, some time soon, that a request waits for its answer. Returns the record's number."""
        # In the order they came, also when they come in the same moment.
        number = self._last_number = max(self._last_number + 1, time.time_ns())
        kept: bytes | memoryview = memoryview(payload) if len(payload) > _LARGE_PAYLOAD else _packed(payload)
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
            row[2] = _CALLED_OFF
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
            flush = self._database.submit(lambda db: _write_requests(db, rows.values(), called_off, closed, ended, now))
        except JournalError as error:
            self._put_back(rows, called_off, closed, error)
            return
        self._flush = flush
        flush.add_done_callback(lambda _done: self._flushed(flush, rows, called_off, closed))

    def _flushed(
        self, flush: asyncio.Future[None], rows: dict[int, _Row], called_off: list[int], closed: list[int]
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

    def _put_back(self, rows: dict[int, _Row], called_off: list[int], closed: list[int], error: BaseException) -> None:
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
        return await self._database.read(_open_requests)

    async def take_request(self, number: int, *, takers: int = 1) -> None:
        """Make an unanswered request of a dead writer this writer's; `takers`: as how many takers that counts."""
        query = "UPDATE requests SET pid = ?, start = ?, takers = takers + ? WHERE id = ?"
        await self._database.write(lambda db: db.execute(query, (self._me.pid, self._me.start, takers, number)))

    async def writers(self) -> list[Writer]:
        """Every process that wrote here and has not been forgotten."""
        return await self._database.read(_writers)

    async def show_life(self) -> None:
        """Record that this writer is alive."""
        await self._database.write(lambda db: _see(db, self._me, self._clock()))

    async def forget_writer(self, process: Process) -> None:
        """Forget a dead writer and its unanswered requests."""
        await self._database.write(lambda db: _forget(db, process))

    # Attempts

    async def attempts(self, *, owner: str, vm_id: VmId) -> list[Attempt]:
        """Every attempt ever made for this VM number, oldest first."""
        return await self._database.read(lambda db: _attempts(db, owner, vm_id))

    async def save_attempt(self, attempt: Attempt) -> None:
        """Write an attempt as it is now; on disk when this returns."""
        await self._database.write(lambda db: _save_attempt(db, attempt))

    async def note_refusal(self, refusal: Refusal) -> None:
        """Tell those who report on hosts that there was no room; the latest refusal counts."""
        kept = msgspec.structs.replace(refusal, text=_storable(refusal.text))
        await self.set_fact(_REFUSAL, msgspec.json.encode(kept).decode())

    # Debts

    async def debts(self) -> list[Debt]:
        """Everything that must still be destroyed, oldest first."""
        return await self._database.read(_debts)

    async def add_debt(self, debt: Debt) -> None:
        """Note a debt; noting the same one again makes it reach as far as the newer one does."""
        await self._database.write(lambda db: _add_debt(db, debt))
        self.has_new_debt.set()

    async def note_try(self, debt: Debt, error: str) -> None:
        """A debt could not be paid this time."""
        await self._database.write(
            lambda db: db.execute(
                "UPDATE debts SET tries = tries + 1, last_error = ? WHERE id = ?", (_storable(error), debt.id)
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
        return await self._database.write(lambda db: _claim_import(db, deploy_id, vm_id, stime))

    async def forget_import(self, deploy_id: DeployId, *, vm_id: VmId, stime: int) -> None:
        """Give back an untagged instance that this VM has claimed and certainly did not get."""
        query = "DELETE FROM imported WHERE deploy_id = ? AND vm_id = ? AND stime = ?"
        await self._database.write(lambda db: db.execute(query, (deploy_id, vm_id, stime)))

    async def imported_for(self, deploy_id: DeployId) -> tuple[VmId, int] | None:
        """The number and STIME of the VM that has taken this untagged instance over; None when none has."""
        return await self._database.read(lambda db: _imported_for(db, deploy_id))

    # What was last asked

    async def asked(self, deploy_id: DeployId, *, owner: str, vm_id: VmId) -> str | None:
        """What was last asked for and carried out on an instance of this VM; None when that is not known."""
        return await self._database.read(lambda db: _asked(db, deploy_id, owner, vm_id))

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


def read_fact(path: Path, name: str) -> str | None:
    """Look up one fact without keeping the journal open; None when there is no journal or no such fact.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    try:
        row = _look(path, lambda db: db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone())
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be read: {error} ({path})") from error
    return None if row is None else str(row[0])


def read_debts(path: Path) -> list[Debt]:
    """Everything that must still be destroyed, read without keeping the journal open; none without a journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, _debts)


def read_open_requests(path: Path) -> list[OpenRequest]:
    """Requests without an answer, oldest first, read without keeping the journal open; none without a journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, _open_requests)


def read_writers(path: Path) -> list[Writer]:
    """Every process that wrote the journal and was not forgotten, read without keeping it open; none without one.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, _writers)


def read_attempts(path: Path) -> list[Attempt]:
    """Every attempt to create, read without keeping the journal open; none without a journal.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    return _read_all(path, lambda db: _select_attempts(db, "1 = 1", {}))


def _read_all(path: Path, query: Callable[[sqlite3.Connection], list[_Result]]) -> list[_Result]:
    try:
        return _look(path, query) or []
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be read: {error} ({path})") from error


def read_outline(path: Path, *, since: float) -> Outline:
    """What the action driver is doing, in one short look that holds nobody up; nothing without a journal.

    Args:
        path: the journal.
        since: attempts that were sent and answered before are left out; seconds since the epoch.

    Raises:
        JournalError: there is a journal and it cannot be read.
    """
    try:
        return _look(path, lambda db: _outline(db, since)) or Outline()
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be read: {error} ({path})") from error


def _look(path: Path, query: Callable[[sqlite3.Connection], _Result]) -> _Result | None:
    """Read from the file at the path; None when there is none.

    It is opened for writing where that is allowed: after a crash SQLite has to undo half a commit before it can read.
    """
    if not path.exists():
        return None
    mode = "rw" if os.access(path, os.W_OK) else "ro"
    db = connect(path, timeout=5, mode=mode)
    try:
        # A file that a driver is just making has no tables yet: there is nothing in it to read.
        return query(db) if db.execute("PRAGMA user_version").fetchone()[0] else None
    finally:
        db.close()


def forget_fact(path: Path, name: str) -> str | None:
    """Remove one fact, also beside a running writer; returns what it was, None when there was none.

    Raises:
        JournalError: the journal cannot be written.
    """
    if not path.exists():
        return None
    try:
        db = connect(path, timeout=5, mode="rw")
        try:
            row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            db.execute("DELETE FROM facts WHERE name = ?", (name,))
        finally:
            db.close()
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be written: {error} ({path})") from error
    return None if row is None else str(row[0])


def try_to_write(path: Path) -> None:
    """Write into the journal and take it out again, also beside a running writer; without one, into its directory.

    Raises:
        JournalError: a driver could not write it.
    """
    try:
        directory = next(each for each in path.absolute().parents if each.exists())
        if os.geteuid() == 0 and not os.statvfs(directory).f_bavail:
            raise OSError(errno.ENOSPC, "there is room left for root only", str(directory))
        if path.exists():
            _write_and_forget(path)
        else:
            _write_into(directory, path.name)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal cannot be written: {error} ({path})") from error


_FILLER = "-" * 16_384
"""More than the pages of a small journal have room for: the file has to grow."""


def _write_and_forget(path: Path) -> None:
    db = connect(path, timeout=5, mode="rw")
    try:
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        if _check_version(db):  # else a driver is just making it
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


_FORGET_MOMENT = """
CREATE TRIGGER IF NOT EXISTS attempt_without_moment AFTER INSERT ON attempts
BEGIN DELETE FROM moments WHERE token = NEW.token; END
"""
"""An earlier release that writes here after a downgrade knows of no moments: none may outlive what it was of."""


def _packed(payload: bytes | memoryview) -> bytes:
    return zlib.compress(payload, 1) if payload else b""


def _storable(text: str) -> str:
    """A cloud's words may hold a secret of ours, and half a character, which SQLite does not take."""
    return masked(text).encode(errors="replace").decode()


def _check_version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"it was written by another version ({version}, this one reads {_VERSION})")
    return version


def _prepare(db: sqlite3.Connection) -> None:
    _check_version(db)
    if not _tells_ends(db):
        db.execute("DROP TABLE IF EXISTS answered")  # of an earlier release; it reaches back an hour at most
    for statement in _SCHEMA.split(";"):
        db.execute(statement)
    db.execute(_FORGET_MOMENT)
    db.execute(f"PRAGMA user_version = {_VERSION}")


def _tells_ends(db: sqlite3.Connection) -> bool:
    return any(row[1] == "has_ended" for row in db.execute("PRAGMA table_info(answered)").fetchall())


def _sign_in(db: sqlite3.Connection, me: Process, parent: Process, now: float) -> None:
    row = (me.pid, me.start, parent.pid, parent.start, now)
    db.execute("INSERT OR REPLACE INTO writers VALUES (?, ?, ?, ?, ?)", row)


def _prune(db: sqlite3.Connection, before: float) -> None:
    gone = "SELECT deploy_id FROM attempts WHERE state = 'gone'"
    db.execute(f"DELETE FROM asked WHERE NOT is_token AND key IN ({gone})")  # noqa: S608 - nothing from outside
    db.execute("DELETE FROM attempts WHERE state IN ('gone', 'refused') AND sent_at < ?", (before,))
    db.execute("DELETE FROM moments WHERE token NOT IN (SELECT token FROM attempts)")
    db.execute("DELETE FROM asked WHERE is_token AND key NOT IN (SELECT token FROM attempts)")
    db.execute("DELETE FROM answered WHERE at < ?", (before,))
    db.execute("DELETE FROM soft_ends WHERE at < ?", (before,))


def _see(db: sqlite3.Connection, me: Process, now: float) -> None:
    db.execute("UPDATE writers SET seen_at = ? WHERE pid = ? AND start = ?", (now, me.pid, me.start))


def _forget(db: sqlite3.Connection, process: Process) -> None:
    db.execute("DELETE FROM requests WHERE pid = ? AND start = ?", (process.pid, process.start))
    db.execute("DELETE FROM writers WHERE pid = ? AND start = ?", (process.pid, process.start))


def _writers(db: sqlite3.Connection) -> list[Writer]:
    rows = db.execute("SELECT pid, start, parent_pid, parent_start, seen_at FROM writers").fetchall()
    return [
        Writer(
            process=Process(pid=pid, start=start),
            parent=Process(pid=parent_pid, start=parent_start),
            seen_at=seen_at,
        )
        for pid, start, parent_pid, parent_start, seen_at in rows
    ]


def _write_requests(
    db: sqlite3.Connection,
    rows: Iterable[_Row],
    called_off: list[int],
    closed: list[int],
    ended: list[int],
    now: float,
) -> None:
    # A step of SQLite each, however many there are (database.py says why).
    for row in rows:
        if isinstance(row[4], memoryview):
            packed = (*row[:4], _packed(row[4]), *row[5:])
            db.execute("INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)", packed)
    waiting = (row for row in rows if not isinstance(row[4], memoryview))
    while some := list(islice(waiting, _ROWS_AT_ONCE)):
        places = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, 0)"] * len(some))
        db.execute(f"INSERT OR REPLACE INTO requests VALUES {places}", [*chain.from_iterable(some)])  # noqa: S608 - only marks
    if called_off:
        these = "UPDATE requests SET action = ? WHERE id IN (SELECT value FROM json_each(?))"
        db.execute(these, (_CALLED_OFF, json.dumps(called_off)))
    if closed:
        these = "FROM requests WHERE id IN (SELECT value FROM json_each(?))"
        numbers = json.dumps(closed)
        # Whoever lists instances meanwhile has to know that what was listed is not true any more.
        has_ended = "id IN (SELECT value FROM json_each(?))"
        answers = f"INSERT OR REPLACE INTO answered SELECT vm_id, action, ?, {has_ended} {these} ORDER BY id"
        db.execute(answers, (now, json.dumps(ended), numbers))
        db.execute(f"DELETE {these}", (numbers,))


def _open_requests(db: sqlite3.Connection) -> list[OpenRequest]:
    rows = db.execute(
        "SELECT id, vm_id, action, is_two_blank, payload, opened_at, pid, start, takers FROM requests ORDER BY id"
    ).fetchall()
    return [
        OpenRequest(
            id=number,
            vm_id=VmId(vm_id),
            action=action,
            is_two_blank=bool(is_two_blank),
            payload=zlib.decompress(payload) if payload else b"",
            opened_at=opened_at,
            writer=Process(pid=pid, start=start),
            takers=takers,
        )
        for number, vm_id, action, is_two_blank, payload, opened_at, pid, start, takers in rows
    ]


def _outline(db: sqlite3.Connection, since: float) -> Outline:
    db.execute("PRAGMA query_only = 1")
    db.execute("BEGIN")  # all of it as it was at one moment
    unanswered: dict[Process, set[VmId]] = {}
    for pid, start, vm_id in db.execute("SELECT pid, start, vm_id FROM requests").fetchall():
        unanswered.setdefault(Process(pid=pid, start=start), set()).add(VmId(vm_id))
    # A journal that an earlier release has made has no such table before its writer starts anew.
    has_answers = _tells_ends(db)
    answers = "SELECT vm_id, action, at, has_ended FROM answered WHERE at >= (SELECT max(at) FROM answered) - ?"
    rows = db.execute(answers, (_ANSWERED_SECONDS,)).fetchall() if has_answers else []
    young = "state IN ('open', 'created') AND (sent_at >= :since OR answered_at >= :since)"
    outline = Outline(
        unanswered={process: frozenset(vms) for process, vms in unanswered.items()},
        answered={
            VmId(vm_id): Answered(action=action, at=at, has_ended=bool(has_ended))
            for vm_id, action, at, has_ended in rows
        },
        attempts=tuple(_select_attempts(db, young, {"since": since})),
        parked=frozenset(DeployId(row[0]) for row in db.execute("SELECT deploy_id FROM parked").fetchall()),
        owed=frozenset(DeployId(row[0]) for row in db.execute("SELECT deploy_id FROM debts").fetchall()),
        refusal=_refusal(db),
    )
    db.execute("ROLLBACK")
    return outline


def _refusal(db: sqlite3.Connection) -> Refusal | None:
    row = db.execute("SELECT value FROM facts WHERE name = ?", (_REFUSAL,)).fetchone()
    try:
        return None if row is None else msgspec.json.decode(row[0], type=Refusal)
    except msgspec.MsgspecError:
        return None  # another release has written it, in another form


def _imported_for(db: sqlite3.Connection, deploy_id: DeployId) -> tuple[VmId, int] | None:
    row = db.execute("SELECT vm_id, stime FROM imported WHERE deploy_id = ?", (deploy_id,)).fetchone()
    return None if row is None else (VmId(row[0]), int(row[1]))


def _claim_import(db: sqlite3.Connection, deploy_id: DeployId, vm_id: VmId, stime: int) -> tuple[VmId, int]:
    db.execute("INSERT OR IGNORE INTO imported VALUES (?, ?, ?)", (deploy_id, vm_id, stime))
    return _imported_for(db, deploy_id) or (vm_id, stime)


def _asked(db: sqlite3.Connection, deploy_id: DeployId, owner: str, vm_id: VmId) -> str | None:
    """By the instance's id; before anything has changed, by the token of the attempt that has made it."""
    of_attempt = "SELECT token FROM attempts WHERE owner = :owner AND vm_id = :vm_id AND deploy_id = :deploy_id"
    row = db.execute(
        "SELECT asked FROM asked WHERE (NOT is_token AND key = :deploy_id)"  # noqa: S608 - nothing from outside
        f" OR (is_token AND key IN ({of_attempt})) ORDER BY is_token LIMIT 1",
        {"owner": owner, "vm_id": vm_id, "deploy_id": deploy_id},
    ).fetchone()
    return None if row is None else str(row[0])


def _attempts(db: sqlite3.Connection, owner: str, vm_id: VmId) -> list[Attempt]:
    values = {"owner": owner, "vm_id": vm_id}
    found = _select_attempts(db, "owner = :owner AND vm_id = :vm_id", values)
    rows = db.execute(
        "SELECT token, at, steady, boot FROM moments JOIN attempts USING (token)"
        " WHERE owner = :owner AND vm_id = :vm_id",
        values,
    ).fetchall()
    moments = {token: Moment(at=at, steady=steady, boot=boot) for token, at, steady, boot in rows}
    return [msgspec.structs.replace(each, latest=moments.get(each.token)) for each in found]


_ATTEMPT = (
    "SELECT token, owner, vm_id, stime, seq, host_id, number, parameters, state, deploy_id, sent_at, answered_at,"
    " detail FROM attempts"
)


def _select_attempts(db: sqlite3.Connection, which: str, values: Mapping[str, object]) -> list[Attempt]:
    rows = db.execute(f"{_ATTEMPT} WHERE {which} ORDER BY stime, seq, number", values).fetchall()
    return [_attempt(row) for row in rows]


def _attempt(row: _Row) -> Attempt:
    token, owner, vm_id, stime, seq, host_id, number, parameters, state, deploy_id, sent_at, answered_at, detail = row
    return Attempt(
        token=token,
        identity=Identity(owner=owner, vm_id=VmId(vm_id), stime=stime, seq=seq, host_id=host_id),
        number=number,
        parameters=json.loads(parameters),
        state=AttemptState(state),
        deploy_id=DeployId(deploy_id),
        sent_at=sent_at,
        answered_at=answered_at,
        detail=detail,
    )


def _save_attempt(db: sqlite3.Connection, attempt: Attempt) -> None:
    who = attempt.identity
    db.execute(
        "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (attempt.token, who.owner, who.vm_id, who.stime, who.seq, who.host_id, attempt.number,
         json.dumps(attempt.parameters), attempt.state.value, attempt.deploy_id, attempt.sent_at, attempt.answered_at,
         _storable(attempt.detail)),
    )  # fmt: skip
    if attempt.latest is not None:
        moment = (attempt.token, attempt.latest.at, attempt.latest.steady, attempt.latest.boot)
        db.execute("INSERT OR REPLACE INTO moments VALUES (?, ?, ?, ?)", moment)
    if attempt.asked:
        db.execute("INSERT OR REPLACE INTO asked VALUES (?, 1, ?)", (attempt.token, attempt.asked))


def _debts(db: sqlite3.Connection) -> list[Debt]:
    rows = db.execute(
        "SELECT id, deploy_id, token, owner, vm_id, stime, seq, host_id, reason, since, tries, last_error FROM debts"
        " ORDER BY id"
    ).fetchall()
    return [
        Debt(
            id=number,
            deploy_id=DeployId(deploy_id),
            token=token,
            identity=Identity(owner=owner, vm_id=VmId(vm_id), stime=stime, seq=seq, host_id=host_id),
            reason=reason,
            since=since,
            tries=tries,
            last_error=last_error,
        )
        for number, deploy_id, token, owner, vm_id, stime, seq, host_id, reason, since, tries, last_error in rows
    ]


def _add_debt(db: sqlite3.Connection, debt: Debt) -> None:
    who, reason = debt.identity, _storable(debt.reason)
    db.execute(
        "INSERT INTO debts"
        " (deploy_id, token, owner, vm_id, stime, seq, host_id, reason, since, tries, last_error)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '')"
        " ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq), since = max(since, excluded.since),"
        # What a request has asked for is no orphan's debt any more, which may be withdrawn.
        " reason = CASE WHEN substr(reason, 1, ?) = ? THEN excluded.reason ELSE reason END",
        (
            debt.deploy_id,
            debt.token,
            who.owner,
            who.vm_id,
            who.stime,
            who.seq,
            who.host_id,
            reason,
            debt.since,
            len(ORPHAN),
            ORPHAN,
        ),
    )
