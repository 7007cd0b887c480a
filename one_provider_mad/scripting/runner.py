"""Runs one script: no shell, a process group of its own, bounded output, bounded time."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from one_provider_mad.domain import Value
from one_provider_mad.processes import Process, descendants
from one_provider_mad.scripting.leftovers import Leftovers
from one_provider_mad.scripting.offspring import MARK, Offspring

MAX_OUTPUT = 1024 * 1024
"""Bytes kept of what a script writes to each of stdout (its beginning) and stderr (its end)."""

_LINGER_SECONDS = 0.5
"""How long to read on after a script has ended: what it left behind in the background may hold its pipes for ever."""

_STARTS_AT_ONCE = 8
"""Processes that may be in the middle of being started; each start stops the loop for 2 to 5 ms."""

_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
_SCARCE_SECONDS = 0.05
"""How long to wait when there are no descriptors or processes left, as long as scripts run that will free some."""

_MANY_FILES = 16_384
"""Descriptors to ask for: a script takes four, and 1024, as usual, would do for 250 at once."""

_SHELL = "/bin/sh"

_TERM_SECONDS = 2.0
"""How long a process group that was told to end may take before it is killed."""


class Finished(Value, frozen=True, kw_only=True):
    """How a script ended.

    Attributes:
        code: exit code, 128 + the signal's number for one that was killed.
        stdout: what it wrote there, at most MAX_OUTPUT bytes of it.
        stderr: the same.
        is_timeout: it ran out of time, and was ended.
        is_cut: it wrote more to stdout than is kept.
        raw: the bytes of stdout where these are not UTF-8; b"" where `stdout` has them all.
    """

    code: int
    stdout: str = ""
    stderr: str = ""
    is_timeout: bool = False
    is_cut: bool = False
    raw: bytes = b""


class CannotRun(Exception):
    """A script could not be started; the sentence says why, its path first."""


class Runner:
    """Runs scripts, and knows those that run.

    Args:
        directory: their working directory.
        environment: all of their environment.
        leftovers: remembers those that must not be begun twice.
        offspring: ends what a script leaves behind when it has ended, wherever that went; None to let it go on.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        *,
        leftovers: Leftovers | None = None,
        offspring: Offspring | None = None,
    ) -> None:
        self._directory = directory
        self.environment = environment
        self._leftovers = leftovers
        self._offspring = offspring
        self._running: set[_Script] = set()
        self._unwanted: set[asyncio.Task[None]] = set()
        self._starts = asyncio.Semaphore(_STARTS_AT_ONCE)

    @property
    def is_busy(self) -> bool:
        """True while a script runs."""
        return bool(self._running)

    async def run(
        self,
        path: Path,
        arguments: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float | None = None,
        directory: Path | None = None,
        is_remembered: bool = False,
        kept: int = MAX_OUTPUT,
    ) -> Finished:
        """Run a script and wait for its end. Cancelled, it ends the script and all that belongs to it first.

        Args:
            path: the script.
            arguments: what follows it on the command line.
            stdin: what it reads; None for nothing.
            seconds: how long it may run before it and its descendants are ended; None for as long as it likes.
            directory: its working directory, None for that of all.
            is_remembered: the next driver ends it, should this one be killed.
            kept: bytes to keep of what it writes to stdout.

        Raises:
            CannotRun: it is missing, may not be executed, or cannot be started.
        """
        script = await self._start(path, arguments, stdin, directory or self._directory)
        script.kept = kept
        if is_remembered and self._leftovers is not None:
            self._leftovers.note(script.pid, script.mark)
        is_over = is_timeout = False  # over: what it has left behind may go on
        try:
            try:
                async with asyncio.timeout(seconds):
                    await script.ended.wait()
            except TimeoutError:
                is_timeout = True
                await script.end(_TERM_SECONDS)
            is_over = self._offspring is None
            await self._end_offspring(script)
            await script.wait_for_output(_LINGER_SECONDS)
        except asyncio.CancelledError:
            # The next action of this VM must not meet it, however often this one is called off.
            ending = asyncio.ensure_future(self._end(script))
            while not ending.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(ending)
            raise
        finally:
            if not is_over:
                script.tell(signal.SIGKILL)
            script.close()
            if is_remembered and self._leftovers is not None:
                self._leftovers.forget(script.pid)
        stdout, raw = script.stdout()
        return Finished(
            code=script.code,
            stdout=stdout,
            stderr=script.stderr(),
            is_timeout=is_timeout,
            is_cut=script.is_cut,
            raw=raw,
        )

    def kill(self) -> None:
        """End everything at once."""
        for script in self._running:
            strays = descendants(script.pid)
            script.tell(signal.SIGKILL)
            for stray in strays:
                stray.kill()
        if self._offspring is not None:
            self._offspring.kill()

    async def _end(self, script: _Script) -> None:
        await script.end(_TERM_SECONDS)
        await self._end_offspring(script)

    async def _end_offspring(self, script: _Script) -> None:
        """What a script that has ended leaves in the background ends, too, if that is what is wanted here."""
        if self._offspring is not None:
            script.tell(signal.SIGKILL)
            await self._offspring.end(script.mark)

    async def _start(self, path: Path, arguments: Sequence[str], stdin: bytes | None, directory: Path) -> _Script:
        command = [str(path), *arguments]
        while True:
            try:
                return await self._spawn_unless_called_off(command, stdin, directory)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError):
                    if error.errno == errno.ENOEXEC and command[0] != _SHELL:
                        # No `#!` line: a shell that is handed such a file runs it itself.
                        command = [_SHELL, *command]
                        continue
                    if error.errno in _SCARCE and self._running:
                        await asyncio.sleep(_SCARCE_SECONDS)  # until another one has ended
                        continue
                raise CannotRun(_why_not(path, directory, error)) from error

    async def _spawn_unless_called_off(self, command: Sequence[str], stdin: bytes | None, directory: Path) -> _Script:
        # Starting a process stops the loop for some milliseconds: others get their turn in between.
        async with self._starts:
            spawning = asyncio.ensure_future(self._spawn(command, stdin, directory))
            try:
                return await asyncio.shield(spawning)
            except asyncio.CancelledError:
                spawning.add_done_callback(self._end_unwanted)
                raise

    async def _spawn(self, command: Sequence[str], stdin: bytes | None, directory: Path) -> _Script:
        if self._offspring is None:
            return await self._spawn_in(self.environment, command, stdin, directory)
        mark = self._offspring.begin()
        try:
            script = await self._spawn_in({**self.environment, MARK: mark}, command, stdin, directory)
        except BaseException:
            await self._offspring.end(mark)
            raise
        script.mark = mark
        self._offspring.began(mark, script.pid)
        return script

    async def _spawn_in(
        self, environment: Mapping[str, str], command: Sequence[str], stdin: bytes | None, directory: Path
    ) -> _Script:
        loop = asyncio.get_running_loop()
        transport, script = await loop.subprocess_exec(
            lambda: _Script(self._running),
            *command,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=environment,
            process_group=0,
        )
        if stdin is not None:
            pipe = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
            pipe.write(stdin)
            pipe.close()  # once all is written; a script that does not read it is no error
        return script

    def _end_unwanted(self, spawning: asyncio.Future[_Script]) -> None:
        """Whoever wanted this script was called off while it was being started."""
        if not spawning.cancelled() and spawning.exception() is None:
            script = spawning.result()
            script.tell(signal.SIGKILL)
            script.close()
            if self._offspring is not None:
                task = asyncio.ensure_future(self._bury(script))
                self._unwanted.add(task)
                task.add_done_callback(self._unwanted.discard)

    async def _bury(self, script: _Script) -> None:
        await script.ended.wait()
        await self._end_offspring(script)


class _Script(asyncio.SubprocessProtocol):
    """One process while it runs: collects what it writes."""

    def __init__(self, running: set[_Script]) -> None:
        self._running = running
        self.ended = asyncio.Event()
        self.mark = ""
        self.kept = MAX_OUTPUT
        self.is_cut = False
        self._closed = asyncio.Event()
        self._output: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self._open_pipes = {1, 2}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self._transport.get_pid()
        self._running.add(self)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        output = self._output[fd]
        output += data
        if fd == 1 and len(output) > self.kept:
            self.is_cut = True
            del output[self.kept :]
        elif fd != 1 and len(output) > MAX_OUTPUT:
            del output[:-MAX_OUTPUT]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        del exc
        self._open_pipes.discard(fd)
        if not self._open_pipes:
            self._closed.set()

    def process_exited(self) -> None:
        self.ended.set()

    @property
    def code(self) -> int:
        """The exit code, as a shell tells it."""
        code = self._transport.get_returncode()
        return 128 - code if code is not None and code < 0 else code or 0

    def stdout(self) -> tuple[str, bytes]:
        output = self._output[1]
        try:
            return output.decode(), b""
        except UnicodeDecodeError:
            return output.decode("utf-8", "replace"), bytes(output)

    def stderr(self) -> str:
        return self._output[2].decode("utf-8", "replace")

    async def wait_for_output(self, seconds: float) -> None:
        """Wait until the pipes are closed, but not for ever on those who hold them."""
        if not self._closed.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closed.wait()

    async def end(self, seconds: float) -> None:
        """End the process group, and descendants that have left it: ask, then insist."""
        strays = self._descendants()
        self.tell(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        strays += self._descendants()
        self.tell(signal.SIGKILL)
        for stray in strays:
            stray.kill()
        await self.ended.wait()
        await self.wait_for_output(_LINGER_SECONDS)

    def _descendants(self) -> list[Process]:
        return [] if self.ended.is_set() else descendants(self.pid)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group; it outlives the process that began it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        """Let go of it."""
        self._running.discard(self)
        self._transport.close()


def prepare_for_many() -> None:
    """Ready this process and its loop for many scripts at once; once, before the first one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        # Else Python starts a thread for each child, to learn of its end.
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)


def _why_not(path: Path, directory: Path, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):  # a NUL in an argument
        return f"{path} cannot be run: {error}"
    if not os.path.lexists(path):  # unlike Path.exists, it does not mind names that no file can have
        if os.path.isdir(path.parent) and not os.access(path.parent, os.X_OK):
            return f"{path} cannot be looked for: this user may not look into {path.parent}"
        return f"{path} does not exist"
    if not directory.is_dir():
        return f"{directory}, where scripts run, is no directory"
    if not os.path.isfile(path):
        return f"{path} is no file" if os.path.exists(path) else f"{path} is a link to nothing"
    if not os.access(path, os.X_OK):
        return f"{path} may not be executed: run chmod +x {path}"
    if error.errno == errno.ENOENT:
        return f"{path} names an interpreter in its first line that does not exist{_hint(path)}"
    return f"{path} cannot be run: {error.strerror}"


def _hint(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        if file.readline(4096).endswith(b"\r\n"):
            return ": the line ends with CR LF, as on Windows"
    return ""
