"""The composition root: wires the parts together, and ends them in the right order.

What happens before INIT is answered loads next to nothing; everything else is imported off the loop afterwards
(decision 2). How it ends is decision 4: with nobody left to read, at once; with a person at the other end of the pipe,
when everything is answered.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from one_provider_mad.options import Options
from one_provider_mad.protocol.framing import LineBuffer, Oversized
from one_provider_mad.protocol.handshake import INIT_SUCCESS
from one_provider_mad.protocol.messages import Control, Malformed, Request, Severity
from one_provider_mad.protocol.vmm import parse_line, parse_oversized
from one_provider_mad.transport import Reader, Writer

if TYPE_CHECKING:
    from one_provider_mad.actions.dispatcher import Dispatcher
    from one_provider_mad.engines import Engines

_STDIN, _STDOUT = 0, 1

PROGRAM = "one_vmm_provider"

_WATCH_SECONDS = 0.1
"""How often to see whether somebody still reads, once the end has begun: oned kills after a second."""

_CANCEL_SECONDS = 0.3
"""How long actions may take to end when they are cancelled; the journal knows them anyhow."""

_CLOSE_SECONDS = 0.45
"""How long the journal may take to note what was answered; with the two above it is less than oned's second."""

_JOURNAL_SECONDS = 2.0
"""How long requests wait for the journal to open; then they are taken, and each tries to open it again."""

_YOUNG_OBJECTS = 10_000
"""How many new objects start a garbage collection; Python's own 700 makes one of every dozen requests."""

_TERM_SECONDS = 5.0
"""How long SIGTERM waits for FINALIZE or the end of input: systemd signals oned and its drivers together."""


def run(options: Options, *, has_stderr: bool, is_initialised: bool, begun: bytes) -> int:
    """Serve until the end of input; returns the exit code.

    Args:
        options: ARGUMENTS.
        has_stderr: stderr was open at the start, so a person may be reading it.
        is_initialised: INIT came and was answered.
        begun: what else was read of the input.
    """
    daemon = _Daemon(options, has_stderr=has_stderr, is_initialised=is_initialised)
    return asyncio.run(daemon.serve(begun))


class _Daemon:
    def __init__(self, options: Options, *, has_stderr: bool, is_initialised: bool) -> None:
        self._options = options
        self._has_stderr = has_stderr
        self._lines = LineBuffer()
        self._early: list[Request | Malformed] = []
        self._dispatcher: Dispatcher | None = None
        self._engines: Engines | None = None
        self._is_initialised = is_initialised
        self._is_ending = asyncio.Event()
        self._is_terminated = asyncio.Event()
        self._first_line = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    async def serve(self, begun: bytes) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_stray_error)
        self._writer = Writer(_STDOUT)
        self._reader = Reader(_STDIN, self._feed)
        loop.add_signal_handler(signal.SIGTERM, self._is_terminated.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # programs.py blocked it until now
        if self._is_initialised:
            self._first_line.set()
        if begun:
            self._feed(begun)
        self._reader.start()
        # A terminal that hangs up is no reason to leave actions half done; oned's end shows at stdin.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        await self._first_of(self._first_line, self._is_ending, self._is_terminated)
        await self._set_up_unless_over()
        await self._first_of(self._is_ending, self._is_terminated)
        if self._is_terminated.is_set() and not self._is_ending.is_set():
            await self._end_by_signal()
        else:
            await self._end_by_core()
        return 0

    async def _first_of(self, *events: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    # Lines

    def _feed(self, data: bytes) -> None:
        if self._is_ending.is_set():
            return
        for line in self._lines.feed(data) if data else self._lines.close():
            self._take(line)
        if not data:
            self._is_ending.set()

    def _take(self, line: bytes | Oversized) -> None:
        if self._is_ending.is_set():
            return  # nothing counts after FINALIZE
        parsed = parse_oversized(line) if isinstance(line, Oversized) else parse_line(line)
        if parsed is Control.FINALIZE:
            self._is_ending.set()
        elif parsed is Control.INIT:
            self._is_initialised = True
            self._writer.send_first(INIT_SUCCESS)
        elif not isinstance(parsed, Control):
            self._writer.open()
            if self._dispatcher is None:
                self._early.append(parsed)
            else:
                self._dispatcher.accept(parsed)
        self._first_line.set()

    # Beginning

    async def _set_up_unless_over(self) -> None:
        """Set up, but not for oned's sake when oned is gone already: a locked disk may take long to open."""
        set_up = asyncio.create_task(self._set_up(), name="set-up")
        while not set_up.done() and not self._is_terminated.is_set():
            await asyncio.wait([set_up], timeout=_WATCH_SECONDS)
            if self._is_ending.is_set() and not self._writer.is_read():
                break
        if set_up.done():
            set_up.result()
        else:
            set_up.cancel()

    async def _set_up(self) -> None:
        """Import and open everything; requests that come meanwhile wait."""
        modules = await asyncio.to_thread(_import)
        places = modules.Places.from_environment(os.environ)
        problem = modules.configure(
            PROGRAM,
            self._options.name,
            places,
            has_stderr=self._has_stderr,
            is_verbose=bool(os.environ.get("ONE_MAD_DEBUG")),
        )
        log = modules.get_logger()
        log.info(
            "started", pid=os.getpid(), parent=os.getppid(), name=self._options.name, threads=self._options.threads
        )
        for warning in self._options.warnings:
            log.warning("arguments", warning=warning)
        self._engines = modules.Engines(self._options, places, warn=self._warn)
        dispatcher = modules.Dispatcher(self._options, engines=self._engines, output=self._writer, clock=time.time)
        self._writer.dropped = dispatcher.dropped
        await self._open_journal(modules, self._engines, dispatcher)
        # From here on requests are taken as they come.
        self._dispatcher = dispatcher
        if problem:
            self._warn(problem)
        for request in self._early:
            dispatcher.accept(request)
        self._early.clear()
        self._start(dispatcher.pay_debts(), "debts")
        # What was imported stays for ever: looking through it all would stop the loop for 10 to 30 ms now and then.
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS, 20, 20)

    async def _open_journal(self, modules: _Modules, engines: Engines, dispatcher: Dispatcher) -> None:
        """Open the journal, and know what it owes, before a request is taken; a locked one is not waited for long."""
        opening = asyncio.create_task(engines.open_journal(), name="open the journal")
        self._keep(opening)
        if not self._is_initialised:
            await asyncio.wait([opening], timeout=_JOURNAL_SECONDS)
            dispatcher.end_recovery()
            return
        ready = asyncio.Event()
        self._start(self._recover(modules, engines, dispatcher, ready), "recovery")
        await asyncio.wait([opening], timeout=_JOURNAL_SECONDS)
        if engines.journal is not None:
            await ready.wait()

    async def _recover(self, modules: _Modules, engines: Engines, dispatcher: Dispatcher, ready: asyncio.Event) -> None:
        """Deal with what an earlier process left open, as soon as there is a journal to read it from."""
        await engines.is_journal_open.wait()
        if engines.journal is None:
            return
        recovery = modules.Recovery(engines.journal, dispatcher, open_output=self._writer.open, clock=time.time)
        try:
            await recovery.forget_called_off()
        finally:
            ready.set()
        self._start(recovery.show_life(), "signs of life")
        await recovery.run()

    def _start(self, work: Coroutine[object, object, None], name: str) -> None:
        self._keep(asyncio.get_running_loop().create_task(work, name=name))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{task.get_name()} ended unexpectedly", "exception": error}
            )

    def _warn(self, sentence: str) -> None:
        """Tell the operator: our log, and oned's."""
        if self._dispatcher is not None:
            self._dispatcher.tell(Severity.WARNING, sentence)

    # Ending

    async def _end_by_core(self) -> None:
        """FINALIZE or the end of input: drain while somebody reads, else stop within a second."""
        if self._dispatcher is not None:
            drained = asyncio.create_task(self._drain(self._dispatcher), name="drain")
            while not drained.done() and self._writer.is_read() and not self._is_terminated.is_set():
                await asyncio.wait([drained], timeout=_WATCH_SECONDS)
            drained.cancel()
        await self._close()

    async def _drain(self, dispatcher: Dispatcher) -> None:
        await dispatcher.lanes.drained()
        await self._writer.drained()

    async def _end_by_signal(self) -> None:
        """SIGTERM: start nothing new, wait a little for FINALIZE, and leave what is open to the journal."""
        if self._dispatcher is not None:
            self._dispatcher.lanes.hold()
        try:
            async with asyncio.timeout(_TERM_SECONDS):
                await self._is_ending.wait()
        except TimeoutError:
            pass
        await self._close()

    async def _close(self) -> None:
        self._reader.stop()
        for task in self._background:
            task.cancel()
        if self._dispatcher is not None:
            await self._dispatcher.lanes.stop(_CANCEL_SECONDS)
        if self._engines is not None:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._engines.close()
            except TimeoutError:
                pass
        # Whatever thread still waits for a cloud or for a reader must not keep the process: oned kills after a second.
        os._exit(0)


class _Modules:
    """What is imported after INIT."""

    def __init__(self) -> None:
        from one_provider_mad import logs  # first: it keeps structlog from importing rich

        self.configure = logs.configure
        logs.import_structlog()
        import structlog

        from one_provider_mad.actions.dispatcher import Dispatcher
        from one_provider_mad.actions.recovery import Recovery
        from one_provider_mad.engines import Engines
        from one_provider_mad.settings import Places

        self.get_logger = structlog.get_logger
        self.Dispatcher = Dispatcher
        self.Recovery = Recovery
        self.Engines = Engines
        self.Places = Places


def _import() -> _Modules:
    return _Modules()


def _log_stray_error(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Whatever nobody caught goes to the log, never to stdout."""
    import structlog

    error = context.get("exception")
    structlog.get_logger().error(
        "unexpected", message=context.get("message"), exc_info=error if isinstance(error, BaseException) else None
    )
