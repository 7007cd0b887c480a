"""Base class of both drivers: reads and writes lines, starts and ends the process.

Almost nothing is imported before INIT is answered; the rest is imported afterwards in a thread (decision 2). The end
follows decision 4: at once when the core has closed the pipe; with a person at the pipe, once everything is answered.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Generic, TypeVar

from one_provider_mad import __version__
from one_provider_mad.cannot_start import answer_instead
from one_provider_mad.core_up import CoreUp
from one_provider_mad.errors import internal_error
from one_provider_mad.masking import keep_url_secret
from one_provider_mad.options import Options
from one_provider_mad.protocol.framing import HEAD, LineBuffer, Oversized
from one_provider_mad.protocol.handshake import INIT_SUCCESS
from one_provider_mad.protocol.messages import Control
from one_provider_mad.tasks import keep_running
from one_provider_mad.transport import Reader, Writer
from one_provider_mad.workers import Workers

if TYPE_CHECKING:
    from one_provider_mad.metrics import Recorder
    from one_provider_mad.metrics_file import MetricsFile
    from one_provider_mad.settings import Places

ModulesT = TypeVar("ModulesT")

RequestT = TypeVar("RequestT")
"""The parsed form of a line other than INIT and FINALIZE."""

_STDIN, _STDOUT = 0, 1

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
"""Environment variables that may hold a proxy's URL with its password."""

_WATCH_SECONDS = 0.1
"""Seconds between two checks, while the driver ends, whether oned still reads: oned kills it a second after closing."""

_YOUNG_OBJECTS = 10_000
"""New objects after which Python collects garbage; its default of 700 means once for every dozen requests."""

_SWITCH_SECONDS = 0.001
"""Seconds that a computing thread keeps the interpreter while the event loop waits; Python's default is 0.005."""

_METRICS_SECONDS = 0.1
"""Seconds for the last write of metrics when the driver ends: the rest of the second before oned kills it."""

_TERM_SECONDS = 5.0
"""Seconds after SIGTERM in which FINALIZE or the end of input is awaited: systemd signals oned and drivers together."""


class Serving(ABC, Generic[RequestT]):
    """Base class of both drivers: serves oned until oned ends the driver.

    Args:
        options: ARGUMENTS.
        has_stderr: stderr was open at the start, so a person may be reading it.
        is_initialised: INIT came and was answered.
    """

    def __init__(self, options: Options, *, has_stderr: bool, is_initialised: bool) -> None:
        self._options = options
        self._has_stderr = has_stderr
        self._lines = LineBuffer()
        self._early: list[RequestT] | None = []
        self._is_initialised = is_initialised
        self._is_ending = asyncio.Event()
        self._is_terminated = asyncio.Event()
        self._is_defective = asyncio.Event()
        self._first_line = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._metrics: MetricsFile | None = None
        self._core = CoreUp()
        self._has_core = self._core.has_core()  # reads /proc, so it is called before the loop runs

    # Implemented by each program

    @abstractmethod
    def _parse(self, line: bytes | Oversized) -> RequestT | Control:
        """Parse one line of input; return an object for a malformed one, too."""

    @abstractmethod
    def _shows_core_is_up(self, asked: RequestT) -> bool:
        """True for a request that oned sends only once it has finished starting."""

    @abstractmethod
    def _accept(self, asked: RequestT) -> None:
        """Accept a request, or answer it with a FAILURE; never blocks. If it raises, the process ends."""

    @abstractmethod
    async def _set_up(self) -> None:
        """Import the modules and open everything, then call `_begin_to_take`; requests wait until then."""

    @abstractmethod
    async def _drain(self) -> None:
        """Return once every request is answered; never called before the set-up."""

    @abstractmethod
    def _hold(self) -> None:
        """Start no new actions after SIGTERM; never called before the set-up."""

    @abstractmethod
    async def _shut_down(self) -> None:
        """Stop and close everything in less than a second, also during the set-up."""

    def _short(self, asked: RequestT) -> str:  # noqa: ARG002 - the information driver's requests wait for no answer
        """Return the line of a request that has to be answered, cut after the VM's id; "" for any other."""
        return ""

    # The beginning and the end

    async def serve(self, begun: bytes) -> int:
        """Serve until the end of input, and return the exit code, unless the process is ended from here.

        Args:
            begun: the input read so far, without INIT.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_stray_error)
        loop.set_default_executor(Workers(name="worker"))
        self._writer = Writer(_STDOUT)
        self._reader = Reader(_STDIN, self._feed)
        self._begin_to_wait_for_core()
        loop.add_signal_handler(signal.SIGTERM, self._is_terminated.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # programs.py blocked it until now
        if self._is_initialised:
            self._first_line.set()
        if begun:
            self._feed(begun)
        self._reader.start()
        # A terminal that hangs up must not interrupt actions; the end of oned closes stdin.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        ends = (self._is_ending, self._is_terminated, self._is_defective)
        await self._first_of(self._first_line, *ends)
        await self._set_up_unless_over()
        await self._first_of(*ends)
        if self._is_defective.is_set():
            await self._close(1)
        elif self._is_terminated.is_set() and not self._is_ending.is_set():
            await self._end_by_signal()
        else:
            await self._end_by_core()
        return 0

    def _begin_to_wait_for_core(self) -> None:
        """Hold replies until oned has finished starting; without oned (a person at a pipe) send them at once."""
        if self._has_core:
            self._writer.hold_replies()
            self._start(self._wait_for_core, "wait for the core")
        else:
            self._core.is_up.set()

    async def _wait_for_core(self) -> None:
        await self._core.watch(_core_settings)
        self._core_is_up()

    def _core_is_up(self) -> None:
        self._core.is_up.set()
        self._writer.let_replies_go()

    async def _first_of(self, *events: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _imported(self, modules: Callable[[], ModulesT]) -> ModulesT:
        """Import the driver's modules in a thread; if they cannot be, another process answers in place of this one."""
        try:
            return await asyncio.to_thread(modules)
        except (ImportError, OSError) as error:
            requests = [short for asked in self._early or () if (short := self._short(asked))]
            answer_instead(error, is_initialised=self._is_initialised, requests=requests)

    async def _set_up_unless_over(self) -> None:
        """Run `_set_up`, but cancel it when oned has ended: a locked journal may take long to open."""
        set_up = asyncio.create_task(self._set_up(), name="set-up")
        while not set_up.done() and not (self._is_terminated.is_set() or self._is_defective.is_set()):
            await asyncio.wait([set_up], timeout=_WATCH_SECONDS)
            if self._is_ending.is_set() and not self._writer.is_read():
                break
        if set_up.done():
            set_up.result()
        else:
            set_up.cancel()

    @property
    def _is_taking(self) -> bool:
        return self._early is None

    def _begin_to_take(self) -> None:
        """Accept the waiting requests, and later ones at once."""
        early, self._early = self._early, None
        for asked in early or ():
            self._accept(asked)
        # Imported modules stay: a garbage collection that scanned them would stop the loop for 10 to 30 ms.
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
        # A computing thread (a listing of thousands) makes the loop wait this long, several times in a row.
        sys.setswitchinterval(_SWITCH_SECONDS)

    async def _end_by_core(self) -> None:
        """End after FINALIZE or the end of input: drain while the output is read, else stop within a second."""
        if self._is_taking:
            drained = asyncio.create_task(self._drain(), name="drain")
            while not drained.done() and self._writer.is_read() and not self._is_terminated.is_set():
                await asyncio.wait([drained], timeout=_WATCH_SECONDS)
            drained.cancel()
        await self._close()

    async def _end_by_signal(self) -> None:
        """End after SIGTERM: start no new actions, wait for FINALIZE, and leave open requests to the journal."""
        if self._is_taking:
            self._hold()
        try:
            async with asyncio.timeout(_TERM_SECONDS):
                await self._is_ending.wait()
        except TimeoutError:
            pass
        await self._close()

    async def _close(self, code: int = 0) -> None:
        try:
            self._reader.stop()
            for task in self._background:
                task.cancel()
            await self._shut_down()
            await self._end_metrics()
            self._writer.flush()
        except Exception as error:  # noqa: BLE001 - the process ends in any case
            _log_error("the driver did not end in order", error)
        finally:
            # Threads that wait for a cloud or for the reader must not keep the process: oned kills after a second.
            os._exit(code)

    # Lines

    def _feed(self, data: bytes) -> None:
        """Process a chunk of the input. An error in it ends the process, since a request might be lost.

        oned starts the driver again, and that process answers the requests in the journal.
        """
        if not data:
            self._core_is_up()  # the core has closed the pipe, so no reply can harm it
        if self._is_ending.is_set() or self._is_defective.is_set():
            return
        try:
            for line in self._lines.feed(data) if data else self._lines.close():
                self._take(line)
        except Exception as error:  # noqa: BLE001 - the state of the request is unknown
            self._is_defective.set()
            _log_error("the driver ends, since it could not process its input", error)
        if not data:
            self._is_ending.set()

    def _take(self, line: bytes | Oversized) -> None:
        if self._is_ending.is_set():
            return  # input after FINALIZE is ignored
        parsed = self._read(line)
        if parsed is Control.FINALIZE:
            self._is_ending.set()
        elif parsed is Control.INIT:
            self._is_initialised = True
            self._writer.send_first(INIT_SUCCESS)
        elif not isinstance(parsed, Control):
            self._writer.open()
            if self._shows_core_is_up(parsed):
                self._core_is_up()
            if self._early is None:
                self._accept(parsed)
            else:
                self._early.append(parsed)
        self._first_line.set()

    def _read(self, line: bytes | Oversized) -> RequestT | Control:
        """Parse one line; if that fails for a defect or lack of memory, parse its head only, for a FAILURE."""
        try:
            return self._parse(line)
        except Exception as error:
            if isinstance(line, Oversized):
                raise
            _log_error("a request line was not read", error)
            return self._parse(Oversized(head=line[:HEAD], trouble=internal_error(error)))

    # The log

    def _begin_log(self, program: str, modules: CommonModules, places: Places) -> str | None:
        """Open the log and log the start; return a warning for the operator, None when the log is open."""
        for url in (self._options.proxy or "", *(os.environ.get(name, "") for name in _PROXIES)):
            keep_url_secret(url)
        problem = modules.configure(
            program,
            self._options.name,
            places,
            has_stderr=self._has_stderr,
            is_verbose=bool(os.environ.get("ONE_MAD_DEBUG")),
        )
        log = modules.get_logger()
        log.info(
            "started",
            pid=os.getpid(),
            parent=os.getppid(),
            name=self._options.name,
            threads=self._options.threads,
            release=__version__,
        )
        for warning in self._options.warnings:
            log.warning("invalid arguments", warning=warning)
        return problem

    async def _may_ask_opennebula(self) -> bool:
        """True when there are credentials for the local OpenNebula; else the modules for it are not imported."""
        # In a thread: while another thread imports what it needs, too, the loop would wait for that thread.
        await asyncio.to_thread(import_module, "one_provider_mad.xmlrpc.session")
        from one_provider_mad.errors import SettingsError
        from one_provider_mad.xmlrpc.session import read_session

        try:
            await asyncio.to_thread(read_session, file="", environ=os.environ)
        except SettingsError as error:
            import structlog

            log = structlog.get_logger()
            log.warning("orphans are not looked for, leadership is not checked", reason=str(error))
            return False
        return True

    # Metrics

    async def _begin_metrics(
        self,
        program: str,
        places: Places,
        *,
        warn: Callable[[str], None],
        measure: Callable[[Recorder], Awaitable[None]],
    ) -> None:
        """Start metrics, if they are turned on, before the first request; a person at a pipe gets none."""
        if self._is_initialised:
            from one_provider_mad.metrics_file import MetricsFile

            self._metrics = MetricsFile(self._options.name, program, places, warn=warn, measure=measure)
            await self._metrics.begin()
            self._start(self._metrics.keep, "metrics")

    async def _end_metrics(self) -> None:
        """Write the metrics a last time, without waiting for a directory that does not respond."""
        if self._metrics is not None:
            try:
                async with asyncio.timeout(_METRICS_SECONDS):
                    await self._metrics.end()
            except TimeoutError:
                import structlog

                structlog.get_logger().info("metrics not written at the end", seconds=_METRICS_SECONDS)

    # Background work

    def _start(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Run work in the background, and start it again after any error."""
        self._start_once(keep_running(work, on_error=partial(self._stumbled, name)), name)

    def _start_once(self, work: Coroutine[object, object, None], name: str) -> None:
        self._keep(asyncio.get_running_loop().create_task(work, name=name))

    @staticmethod
    def _stumbled(name: str, error: BaseException, pause: float) -> None:
        message = f"{name} ended unexpectedly, and starts again in {pause:g} s"
        asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{task.get_name()} ended unexpectedly", "exception": error}
            )


class CommonModules:
    """The modules that both programs import after INIT."""

    def __init__(self) -> None:
        from one_provider_mad import logs  # first: it keeps structlog from importing rich

        self.configure = logs.configure
        logs.import_structlog()
        import structlog

        from one_provider_mad.settings import Places

        self.get_logger = structlog.get_logger
        self.Places = Places


def _core_settings() -> str:
    """Return the path of the file to which oned writes its settings before it starts drivers."""
    from one_provider_mad.settings import Places

    return str(Places.from_environment(os.environ).var / "config")


def _log_error(message: str, error: Exception) -> None:
    """Log a handled error; a failure to log it, as without memory, is ignored."""
    with suppress(Exception):
        log_stray_error(asyncio.get_running_loop(), {"message": message, "exception": error})


def log_stray_error(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Write an uncaught error to the log, never to stdout."""
    import structlog

    error = context.get("exception")
    structlog.get_logger().error(
        "unexpected error",
        message=context.get("message"),
        exc_info=error if isinstance(error, BaseException) else None,
    )
