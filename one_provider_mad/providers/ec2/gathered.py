"""Gathers what many tasks look for at the same time into one call, with as many filter values as EC2 takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Generic, TypeVar

from one_provider_mad.masking import forget_vm_secrets
from one_provider_mad.providers.ec2.client import MOST_VALUES

_Key = TypeVar("_Key")
_Answer = TypeVar("_Answer")
_Row = TypeVar("_Row")

AT_ONCE = 4
"""Calls at a time of one kind: so many, and not one, since an answer may take seconds."""

LONGEST_TURN = 2.0
"""Longest wait in seconds for one of these calls to end; then another one is sent all the same. The `call_timeout` of
those who wait counts meanwhile, and a slow cloud's answer needs most of it."""


class _Batch(Generic[_Key, _Answer]):
    def __init__(self) -> None:
        self.keys: set[_Key] = set()
        self.waiting = 0
        self.task: asyncio.Task[_Answer] | None = None


class Gathered(Generic[_Key, _Answer]):
    """Shares a call among all who have asked since the one before began.

    Each call begins after its questions were asked, so that no answer is older than its question. An error is raised
    for all who wait for the call. A call that nobody waits for any more is cancelled. Calls that are slow or hang hold
    up others for LONGEST_TURN at most.

    Args:
        send: calls once for all these keys.
        name: of the tasks that call.
        most: keys in one call.
    """

    def __init__(self, send: Callable[[set[_Key]], Awaitable[_Answer]], *, name: str, most: int = MOST_VALUES) -> None:
        self._send = send
        self._name = name
        self._most = most
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._next: _Batch[_Key, _Answer] | None = None
        self._tasks: set[asyncio.Task[_Answer]] = set()

    async def ask(self, key: _Key) -> _Answer:
        """Return the answer of a call that begins from now on and has this key, and perhaps others."""
        batch = self._next or self._begin()
        batch.keys.add(key)
        if len(batch.keys) == self._most:
            self._close(batch)
        batch.waiting += 1
        task = batch.task
        assert task is not None  # noqa: S101 - a batch begins with its task
        try:
            return await asyncio.shield(task)
        finally:
            batch.waiting -= 1
            if not batch.waiting:
                task.cancel()
                self._close(batch)
            del batch, task  # an error's traceback holds this frame

    def _begin(self) -> _Batch[_Key, _Answer]:
        batch = self._next = _Batch()
        batch.task = asyncio.create_task(self._run(batch), name=self._name)
        self._tasks.add(batch.task)
        batch.task.add_done_callback(self._tasks.discard)
        return batch

    async def _run(self, batch: _Batch[_Key, _Answer]) -> _Answer:
        forget_vm_secrets()  # those of the first VM that asked, which would be masked in the others' errors
        is_counted = await self._is_turn()
        try:
            await asyncio.sleep(0)  # those who ask in the same turn of the event loop share the call
            self._close(batch)
            keys = batch.keys
            del batch  # an error's traceback holds this frame
            return await self._send(keys)
        finally:
            if is_counted:
                self._gate.release()

    async def _is_turn(self) -> bool:
        """Wait for one of AT_ONCE places; return False when none became free in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_TURN):
                return await self._gate.acquire()
        return False

    def _close(self, batch: _Batch[_Key, _Answer]) -> None:
        """Have those who ask from now on wait for another call."""
        if self._next is batch:
            self._next = None


def grouped(rows: Iterable[_Row], key: Callable[[_Row], _Key]) -> Mapping[_Key, list[_Row]]:
    """Return rows by their key, in order."""
    found: dict[_Key, list[_Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found
