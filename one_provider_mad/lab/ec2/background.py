"""Serves the EC2 endpoint in a thread of its own, for programs that do other work: the demonstration, tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from one_provider_mad.lab.ec2.server import Server

_Result = TypeVar("_Result")

PATIENCE = 30.0
"""Most seconds to wait for a request to the thread; then it fails."""


class Background:
    """Serves within a `with` statement.

    Args:
        server: its account is opened and closed by the thread.
        port: port on loopback, 0 for any free one.

    Attributes:
        url: the server's URL, once it serves.
    """

    def __init__(self, server: Server, *, port: int = 0) -> None:
        self.url = ""
        self._server = server
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="EC2 endpoint", daemon=True)
        self._ready: Future[str] = Future()

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = self._ready.result(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._leave is not None:
            self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join(PATIENCE)

    def submit(self, work: Coroutine[Any, Any, _Result]) -> Future[_Result]:
        """Run a coroutine in the thread."""
        assert self._loop is not None  # noqa: S101 - it was entered
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, function: Callable[[], object]) -> None:
        """Have the thread's event loop call a function, and do not wait for it."""
        assert self._loop is not None  # noqa: S101 - it was entered
        self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._leave = asyncio.get_running_loop(), asyncio.Event()
        async with AsyncExitStack() as stack:
            try:
                await self._server.account.open()
                stack.push_async_callback(self._server.account.close)
                url = await stack.enter_async_context(self._server.served(port=self._port))
            except Exception as error:  # noqa: BLE001 - the waiting thread raises it
                self._ready.set_exception(error)
                return
            self._ready.set_result(url)
            await self._leave.wait()
