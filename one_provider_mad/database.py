"""One SQLite file behind one thread: the event loop never waits for the disk, and many operations share one commit.

Operations submitted in one turn of the loop go to the thread together; all that have arrived when the thread is free
run in one transaction, and their answers go back to the loop in one call. So a thousand calls at once cost one lock and
one commit. An operation may run twice before it is committed (when another one of its transaction fails halfway), so it
must do nothing but work on the connection.

Between two steps of SQLite the thread releases the interpreter, and a busy event loop gives it back only after 5 ms.
An operation that must be quick beside a busy loop therefore takes one step, as a listing does.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from one_provider_mad.file_owner import check_file, make_directory, open_file

Result = TypeVar("Result")
Operation = Callable[[sqlite3.Connection], Result]
_making = threading.Lock()
"""Lock of the threads that create a file and close it again: closing it drops this process's locks on it, also those of
another connection (fcntl(2)), and none can exist before this lock is free."""

_BESIDE = ("-journal", "-wal", "-shm")
"""Suffixes of the files that SQLite keeps beside a database; it opens them without following links (os_unix.c)."""

PATIENCE = 60.0
"""Seconds to wait while another process locks the file, mostly for milliseconds; then the operation fails."""


class Job(NamedTuple):
    """One submitted operation and the future of its result."""

    operation: Operation[Any]
    is_write: bool
    future: asyncio.Future[Any]


class Outcome(NamedTuple):
    """The result of a job."""

    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class _Spoilt(Exception):
    """An operation failed after a change: its transaction is rolled back, and each of its jobs runs again alone."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Database:
    """A SQLite file shared by several tasks and several processes.

    Args:
        path: the file; when it is missing it is created with its directories, readable by its owner only.
        pragmas: pragmas such as `journal_mode = WAL`.
        prepare: creates or upgrades the schema, and may refuse the file; runs in a transaction of its own.
        adapt: called before the pragmas and `prepare`, outside a transaction; may refuse the file, too.
        unusable: returns the exception to raise for an error of SQLite or the file system.
        on_moved: called, with a text that continues a sentence after the file's name, when the file was removed or
            replaced and has been opened again; None to keep using a moved file.
        patience: seconds to wait while another process locks the file.
        may_begin_anew: an unreadable file that was removed is created again without its content.
    """

    def __init__(
        self,
        path: Path,
        *,
        pragmas: Sequence[str],
        prepare: Callable[[sqlite3.Connection], None],
        unusable: Callable[[Exception], Exception],
        adapt: Callable[[sqlite3.Connection], None] = lambda _: None,
        on_moved: Callable[[str], None] | None = None,
        patience: float = PATIENCE,
        may_begin_anew: bool = False,
    ) -> None:
        self._path = path
        self._pragmas = pragmas
        self._prepare = prepare
        self._adapt = adapt
        self._unusable = unusable
        self._on_moved = on_moved
        self._patience = patience
        self._may_begin_anew = may_begin_anew
        self._file: tuple[int, int] | None = None
        self._inbox: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._collected: list[Job] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Open the file. Raises the exception of `unusable` or `prepare`."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        self._loop, self._ended = loop, loop.create_future()
        thread = threading.Thread(
            target=self._serve, args=(loop, opened, self._ended), name=f"database {self._path.name}"
        )
        thread.daemon = True  # an ending driver must not wait for a database
        try:
            thread.start()
        except RuntimeError as error:  # a limit on processes or memory
            self._loop = None
            raise self._unusable(error) from error
        try:
            await opened
        except Exception:
            self._loop = None  # the thread has ended; a cancelled open leaves it to `close`
            raise

    async def close(self) -> None:
        """Finish the submitted operations, close the file and end the thread."""
        if self._loop is None or self._ended is None:
            return
        self._send()
        self._loop = None
        self._inbox.put(None)
        await self._ended

    async def read(self, operation: Operation[Result]) -> Result:
        """Run an operation that changes nothing, and return its result."""
        future: asyncio.Future[Result] = self._promise()
        self._collect(Job(operation, is_write=False, future=future))
        return await future

    async def write(self, operation: Operation[Result]) -> Result:
        """Run an operation and return its result; when it raises, its changes are undone."""
        return await self.submit(operation)

    def submit(self, operation: Operation[Result]) -> asyncio.Future[Result]:
        """Submit an operation as `write` does, without waiting; the future has the result once it is committed."""
        future: asyncio.Future[Result] = self._promise()
        self._collect(Job(operation, is_write=True, future=future))
        return future

    def _promise(self) -> asyncio.Future[Any]:
        if self._loop is None:
            raise self._unusable(sqlite3.ProgrammingError("it is closed"))
        return self._loop.create_future()

    def _collect(self, job: Job) -> None:
        if not self._collected:
            job.future.get_loop().call_soon(self._send)
        self._collected.append(job)

    def _send(self) -> None:
        """Hand over the jobs of this turn of the loop, except cancelled ones."""
        jobs = [job for job in self._collected if not job.future.done()]
        self._collected = []
        if jobs:
            self._inbox.put(jobs)

    # From here on: the thread.

    def _serve(
        self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[None], ended: asyncio.Future[None]
    ) -> None:
        try:
            connection = self._connect()
        except Exception as error:  # noqa: BLE001 - `open` waits for an answer to any error
            _answer(loop, [Outcome(opened, error=error), Outcome(ended)])
            return
        _answer(loop, [Outcome(opened)])
        while jobs := self._next_jobs():
            if self._on_moved is not None and _file_at(self._path) != self._file:
                connection = self._follow(connection, loop, self._on_moved)
            _answer(loop, self._safely(connection, jobs))
        connection.close()
        _answer(loop, [Outcome(ended)])

    def _follow(
        self, before: sqlite3.Connection, loop: asyncio.AbstractEventLoop, on_moved: Callable[[str], None]
    ) -> sqlite3.Connection:
        """Open the file that is now at the path; if that fails keep the earlier one, whose writes SQLite refuses."""
        try:
            if _holds_something(self._path):
                told = "was replaced by another file while it was in use: the new file is used now"
                connection = self._connect()
            else:
                connection, told = self._copied(before)
        except Exception:  # noqa: BLE001 - the next jobs try again, and SQLite refuses these
            return before
        before.close()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(on_moved, told)
        return connection

    def _copied(self, before: sqlite3.Connection) -> tuple[sqlite3.Connection, str]:
        """Open a new file with the content of the removed one; without where that is unreadable and may be lost."""
        if self._may_begin_anew and not _is_intact(before):  # copying pages would not notice it
            told = "was removed while it was in use: it is created again, without its content, which could not be read"
            return self._connect(), told
        told = "was removed while it was in use: it is created again, with its whole content"
        return self._connect(before), told

    def _safely(self, connection: sqlite3.Connection, jobs: list[Job]) -> list[Outcome]:
        """Run all jobs, and turn any error into their outcome: if the thread ended, callers would wait for ever."""
        try:
            return self._transact(connection, jobs)
        except Exception as error:  # noqa: BLE001 - each caller gets the error
            return [Outcome(job.future, error=self._unusable(error)) for job in jobs]

    def _next_jobs(self) -> list[Job]:
        """Wait for jobs and return all that have arrived; an empty list means the end."""
        jobs = list(self._inbox.get() or ())
        while jobs:
            try:
                more = self._inbox.get_nowait()
            except Empty:
                break
            if more is None:  # the end comes after these
                self._inbox.put(None)
                break
            jobs += more
        return jobs

    def _transact(self, connection: sqlite3.Connection, jobs: list[Job]) -> list[Outcome]:
        """Run all jobs in one transaction; none of them takes effect before the commit."""
        if not any(job.is_write for job in jobs):
            return self._attempt_all(connection, jobs)
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = self._attempt_all(connection, jobs)
            connection.execute("COMMIT")
        except _Spoilt as spoilt:
            with suppress(sqlite3.Error):  # on a full disk SQLite has rolled back by itself
                connection.execute("ROLLBACK")
            if len(jobs) == 1:
                return [Outcome(jobs[0].future, error=spoilt.error)]
            return [self._transact(connection, [job])[0] for job in jobs]
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")
            return [Outcome(job.future, error=self._unusable(error)) for job in jobs]
        return outcomes

    def _attempt_all(self, connection: sqlite3.Connection, jobs: list[Job]) -> list[Outcome]:
        return [Outcome(job.future, *self._attempt(connection, job.operation)) for job in jobs]

    def _attempt(
        self, connection: sqlite3.Connection, operation: Operation[Result]
    ) -> tuple[Result | None, Exception | None]:
        """Run one operation. A failure before any change, such as a refusal, does not affect the other operations."""
        changes, was_in_transaction = connection.total_changes, connection.in_transaction
        try:
            return operation(connection), None
        except sqlite3.Error as sqlite_error:
            error: Exception = self._unusable(sqlite_error)
        except Exception as defect_or_refusal:  # noqa: BLE001 - the caller gets the error, not the thread
            error = defect_or_refusal
        if connection.total_changes != changes or connection.in_transaction != was_in_transaction:
            raise _Spoilt(error)
        return None, error

    def _connect(self, before: sqlite3.Connection | None = None) -> sqlite3.Connection:
        """Open and prepare the file, also while another process does the same.

        Args:
            before: the connection whose content is copied into a new file.
        """
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._try_to_connect(before)
            except OSError as error:
                raise self._unusable(error) from error
            except sqlite3.Error as error:
                # Turning WAL on needs exclusive access, and SQLite does not wait for that itself.
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise self._unusable(error) from error
            time.sleep(0.005)

    def _try_to_connect(self, before: sqlite3.Connection | None) -> sqlite3.Connection:
        make_directory(self._path.parent)
        with _making, suppress(FileExistsError):
            os.close(open_file(self._path, os.O_RDWR | os.O_EXCL))
        connection = connect(self._path, timeout=self._patience)
        file = _file_at(self._path)
        try:
            if before is not None:
                before.backup(connection)
            self._adapt(connection)  # before the pragmas: setting a journal mode changes the file
            for pragma in self._pragmas:
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN IMMEDIATE")
            self._prepare(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._file = file  # only now: after a failure the next jobs try again
        return connection


def connect(path: Path, *, timeout: float, mode: str = "rwc") -> sqlite3.Connection:
    """Open an existing SQLite file; as root refuse a file that another user has planted.

    Args:
        path: the file.
        timeout: seconds to wait for another process's lock.
        mode: `ro`, `rw` or `rwc`; only `rwc` follows a link to a missing file, and not for root.

    Raises:
        OSError: another user has planted a file in its place.
        sqlite3.Error: the file cannot be opened.
    """
    is_root = os.geteuid() == 0
    wanted = check_file(path)
    if is_root:
        mode = "rw" if mode == "rwc" else mode
        for name in _BESIDE:
            check_file(path.with_name(path.name + name))
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None)
    # SQLite opens by name, which may lead to another file since the check.
    if is_root and wanted is not None and not _has_open(wanted):
        connection.close()
        raise OSError(errno.ELOOP, "another file was put in its place while root opened it", str(path))
    return connection


def _has_open(wanted: os.stat_result) -> bool:
    """Return True when this process has this file open."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile, as the descriptor of this listing
            if os.path.samestat(descriptor.stat(), wanted):
                return True
    return False


def _is_intact(connection: sqlite3.Connection) -> bool:
    try:
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.Error:
        return False


def _file_at(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file at a path; None for no file or an inaccessible one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _holds_something(path: Path) -> bool:
    """False for no file, and for the empty file of a connection that could not be opened."""
    try:
        return bool(path.stat().st_size)
    except OSError:
        return False


def _is_busy(error: sqlite3.Error) -> bool:
    """Return True when another process has locked the file."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY


def _answer(loop: asyncio.AbstractEventLoop, outcomes: list[Outcome]) -> None:
    """Hand the outcomes to the event loop, unless it was closed before the database."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_deliver, outcomes)


def _deliver(outcomes: Iterable[Outcome]) -> None:
    """Set the results of the futures that were not cancelled; runs on the event loop."""
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
