"""One SQLite file behind one thread: the event loop never waits for the disk, and many operations share one commit.

Operations that arrive while a transaction runs are carried out together in the next one, each in a savepoint of its
own, so that a failing one takes nobody with it. An operation's result is delivered only after its commit.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_Result = TypeVar("_Result")

Operation = Callable[[sqlite3.Connection], _Result]
"""Runs inside a transaction, in the database's thread. Must not commit."""

_BATCH = 512
"""Operations that share a commit at most, so that the first of a flood is not kept waiting for the last."""

_BUSY_SECONDS = 30.0
"""How long to wait for another process that writes. Writers hold the lock for milliseconds."""


class _Job:
    __slots__ = ("error", "future", "operation", "result")

    def __init__(self, operation: Operation[Any], future: asyncio.Future[Any]) -> None:
        self.operation = operation
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None

    def deliver(self) -> None:
        if self.future.done():
            return  # nobody waits any more
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Database:
    """An SQLite file, opened and used by one thread of its own.

    Args:
        path: the file; made with mode 0600, its directory too, when missing.
        prepare: sets pragmas and makes the tables; runs in the thread, once, outside any transaction.
    """

    def __init__(self, path: Path, *, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self._path = path
        self._prepare = prepare
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Start the thread and open the file.

        Raises:
            OSError, sqlite3.Error: the file cannot be made, opened or prepared.
        """
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        # A daemon thread: a process that must end now does not wait for a disk. What was committed stays.
        self._thread = threading.Thread(target=self._serve, args=(opened,), name=f"db {self._path.name}", daemon=True)
        self._thread.start()
        await opened

    async def close(self) -> None:
        """Finish what was submitted, close the file, end the thread. Closing twice is fine."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    def submit(self, operation: Operation[_Result]) -> asyncio.Future[_Result]:
        """Carry out an operation; the future has its result once it is committed, or its own exception."""
        if self._thread is None or self._loop is None:
            raise sqlite3.ProgrammingError(f"{self._path} is not open")
        future: asyncio.Future[_Result] = self._loop.create_future()
        self._jobs.put(_Job(operation, future))
        return future

    def _serve(self, opened: asyncio.Future[None]) -> None:
        try:
            connection = self._connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller of open() must hear of it
            self._call(_fail, opened, error)
            return
        self._call(_succeed, opened)
        try:
            while (job := self._jobs.get()) is not None:
                jobs, is_last = self._more(job)
                self._carry_out(connection, jobs)
                self._call(_deliver, jobs)
                if is_last:
                    break
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _more(self, first: _Job) -> tuple[list[_Job], bool]:
        """Everything that waits by now, and whether the end was asked for."""
        jobs = [first]
        while len(jobs) < _BATCH:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    @staticmethod
    def _carry_out(connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                connection.execute("SAVEPOINT job")
                try:
                    job.result = job.operation(connection)
                except Exception as error:  # noqa: BLE001 - belongs to whoever waits for this job
                    job.error = error
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            for job in jobs:
                job.error = job.error or error
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None  # noqa: S101 - open() set it before it started this thread
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return  # the loop is closed: nobody is left to tell


def _deliver(jobs: list[_Job]) -> None:
    for job in jobs:
        job.deliver()


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
