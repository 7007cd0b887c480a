"""Runs scripts without a shell, each in its own process group, with bounded output and time."""

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
from one_provider_mad.scripting.descendants import MARK, Descendants
from one_provider_mad.scripting.leftovers import Leftovers

MAX_OUTPUT = 1024 * 1024
"""Bytes kept of what a script writes to each of stdout (its beginning) and stderr (its end)."""

_LINGER_SECONDS = 0.5
"""Seconds to read on after a script has ended: its background processes may hold its pipes forever."""

_STARTS_AT_ONCE = 8
"""Most simultaneous starts of processes; each start stops the loop for 2 to 5 ms."""

_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
_SCARCE_SECONDS = 0.05
"""Seconds to pause when no descriptors or processes are left, while running scripts will free some."""

_MANY_FILES = 16_384
"""Descriptors to ask for: a script takes four, so the usual 1024 would suffice for 250 at once."""

_SHELL = "/bin/sh"

_TERM_SECONDS = 2.0
"""Seconds that a process group may take to end after SIGTERM; then it is killed."""


class Finished(Value, frozen=True, kw_only=True):
    """The result of a script.

    Attributes:
        code: exit code, 128 + the signal's number for one that was killed.
        stdout: the first MAX_OUTPUT bytes of its standard output.
        stderr: the last MAX_OUTPUT bytes of its error output.
        is_timeout: it ran out of time, and was ended.
        is_cut: its standard output was longer than the kept part.
        raw: the bytes of stdout when they are not UTF-8; b"" when `stdout` holds them all.
    """

    code: int
    stdout: str = ""
    stderr: str = ""
    is_timeout: bool = False
    is_cut: bool = False
    raw: bytes = b""


class CannotRun(Exception):
    """A script could not be started; the message begins with its path and gives the reason."""


class Runner:
    """Runs scripts, and keeps track of the running ones.

    Args:
        directory: their working directory.
        environment: their whole environment.
        leftovers: records the scripts that must not run twice.
        descendants: ends the descendants of a script after its end; None to let them run.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        *,
        leftovers: Leftovers | None = None,
        descendants: Descendants | None = None,
    ) -> None:
        self._directory = directory
        self.environment = environment
        self._leftovers = leftovers
        self._descendants = descendants
        self._running: set[_Script] = set()
        self._unwanted: set[asyncio.Task[None]] = set()
        self._starts = asyncio.Semaphore(_STARTS_AT_ONCE)

    @property
    def is_busy(self) -> bool:
        """Return True while a script runs."""
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
        """Run a script and wait for its end. A cancelled call first ends the script and its descendants.

        Args:
            path: the script.
            arguments: its arguments.
            stdin: its standard input; None for none.
            seconds: how long it may run before it and its descendants are ended; None for no limit.
            directory: its working directory, None for the runner's.
            is_remembered: record it, so that the next driver ends it if this one is killed.
            kept: bytes of its standard output to keep.

        Raises:
            CannotRun: the script is missing, not executable, or cannot be started.
        """
        script = await self._start(path, arguments, stdin, directory or self._directory)
        script.kept = kept
        if is_remembered and self._leftovers is not None:
            self._leftovers.note(script.pid, script.mark)
        is_over = is_timeout = False  # over: the script has ended and may leave processes
        try:
            try:
                async with asyncio.timeout(seconds):
                    await script.ended.wait()
            except TimeoutError:
                is_timeout = True
                await script.end(_TERM_SECONDS)
            is_over = self._descendants is None
            await self._end_descendants(script)
            await script.wait_for_output(_LINGER_SECONDS)
        except asyncio.CancelledError:
            # The script must end before the next action of this VM, also after a second cancellation.
            ending = asyncio.ensure_future(self._end(script))
            while not ending.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(ending)
            raise
        finally:
            if not is_over:
                script.send_signal(signal.SIGKILL)
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
        """Kill all scripts and their descendants at once."""
        for script in self._running:
            found = descendants(script.pid)
            script.send_signal(signal.SIGKILL)
            for descendant in found:
                descendant.kill()
        if self._descendants is not None:
            self._descendants.kill()

    async def _end(self, script: _Script) -> None:
        await script.end(_TERM_SECONDS)
        await self._end_descendants(script)

    async def _end_descendants(self, script: _Script) -> None:
        """End the background processes of a script that has ended, where this runner is set to do so."""
        if self._descendants is not None:
            script.send_signal(signal.SIGKILL)
            await self._descendants.end(script.mark)

    async def _start(self, path: Path, arguments: Sequence[str], stdin: bytes | None, directory: Path) -> _Script:
        command = [str(path), *arguments]
        while True:
            try:
                return await self._spawn_unless_called_off(command, stdin, directory)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError):
                    if error.errno == errno.ENOEXEC and command[0] != _SHELL:
                        # A file without a `#!` line is run by a shell, as execvp(3) does.
                        command = [_SHELL, *command]
                        continue
                    if error.errno in _SCARCE and self._running:
                        await asyncio.sleep(_SCARCE_SECONDS)  # until another one has ended
                        continue
                raise CannotRun(_why_not(path, directory, error)) from error

    async def _spawn_unless_called_off(self, command: Sequence[str], stdin: bytes | None, directory: Path) -> _Script:
        # Starting a process stops the loop for some milliseconds: other tasks run in between.
        async with self._starts:
            spawning = asyncio.ensure_future(self._spawn(command, stdin, directory))
            try:
                return await asyncio.shield(spawning)
            except asyncio.CancelledError:
                spawning.add_done_callback(self._end_unwanted)
                raise

    async def _spawn(self, command: Sequence[str], stdin: bytes | None, directory: Path) -> _Script:
        if self._descendants is None:
            return await self._spawn_in(self.environment, command, stdin, directory)
        mark = self._descendants.begin()
        try:
            script = await self._spawn_in({**self.environment, MARK: mark}, command, stdin, directory)
        except BaseException:
            await self._descendants.end(mark)
            raise
        script.mark = mark
        self._descendants.began(mark, script.pid)
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
            pipe.close()  # takes effect once all is written; a script need not read it
        return script

    def _end_unwanted(self, spawning: asyncio.Future[_Script]) -> None:
        """Kill a script whose caller was cancelled during its start."""
        if not spawning.cancelled() and spawning.exception() is None:
            script = spawning.result()
            script.send_signal(signal.SIGKILL)
            script.close()
            if self._descendants is not None:
                task = asyncio.ensure_future(self._bury(script))
                self._unwanted.add(task)
                task.add_done_callback(self._unwanted.discard)

    async def _bury(self, script: _Script) -> None:
        await script.ended.wait()
        await self._end_descendants(script)


class _Script(asyncio.SubprocessProtocol):
    """One running process; collects its output."""

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
        """Return the exit code as a shell reports it."""
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
        """Wait until the pipes are closed, at most for so many seconds."""
        if not self._closed.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closed.wait()

    async def end(self, seconds: float) -> None:
        """End the process group and all descendants: SIGTERM to the group, then SIGKILL to all."""
        found = self._descendants()
        self.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        found += self._descendants()
        self.send_signal(signal.SIGKILL)
        for descendant in found:
            descendant.kill()
        await self.ended.wait()
        await self.wait_for_output(_LINGER_SECONDS)

    def _descendants(self) -> list[Process]:
        return [] if self.ended.is_set() else descendants(self.pid)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group, which may outlive its first process."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        """Stop tracking the script and close its pipes."""
        self._running.discard(self)
        self._transport.close()


def prepare_for_many() -> None:
    """Prepare this process and its loop for many scripts at once; call it once, before the first script."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        # Without this Python starts a thread for each child to wait for its end.
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)


def _why_not(path: Path, directory: Path, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):  # a NUL in an argument
        return f"{path} cannot be run: {error}"
    if not os.path.lexists(path):  # unlike Path.exists, it accepts invalid names
        if os.path.isdir(path.parent) and not os.access(path.parent, os.X_OK):
            return f"{path} cannot be run: this user may not search {path.parent}"
        return f"{path} does not exist"
    if not directory.is_dir():
        return f"{directory}, the working directory of scripts, is not a directory"
    if not os.path.isfile(path):
        return f"{path} is not a file" if os.path.exists(path) else f"{path} is a link to a missing file"
    if not os.access(path, os.X_OK):
        return f"{path} is not executable: run chmod +x {path}"
    if error.errno == errno.ENOENT:
        return f"{path} cannot be run: the interpreter in its first line does not exist{_hint(path)}"
    return f"{path} cannot be run: {error.strerror}"


def _hint(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        if file.readline(4096).endswith(b"\r\n"):
            return ": the line ends with CR LF, as on Windows"
    return ""
