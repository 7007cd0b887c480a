"""Runs one script: no shell, a process group of its own, bounded output, bounded time."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from one_provider_mad.domain import Value

MAX_OUTPUT = 1024 * 1024
"""Bytes kept of what a script writes to each of stdout (its beginning) and stderr (its end)."""

_LINGER_SECONDS = 0.5
"""How long to read on after a script has ended: what it left behind in the background may hold its pipes for ever."""

_TERM_SECONDS = 2.0
"""How long a process group that was told to end may take before it is killed."""


class Finished(Value, frozen=True, kw_only=True):
    """How a script ended.

    Attributes:
        code: exit code, 128 + the signal's number for one that was killed.
        stdout: what it wrote there, at most MAX_OUTPUT bytes of it.
        stderr: the same.
        is_timeout: it ran out of time, and was ended.
    """

    code: int
    stdout: str = ""
    stderr: str = ""
    is_timeout: bool = False


class CannotRun(Exception):
    """A script could not be started; the sentence says why, its path first."""


class Runner:
    """Runs scripts, and knows those that run.

    Args:
        directory: their working directory.
        environment: all of their environment.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self.environment = environment
        self._running: set[_Script] = set()

    async def run(
        self, path: Path, arguments: Sequence[str], *, stdin: bytes | None = None, seconds: float | None = None
    ) -> Finished:
        """Run a script and wait for its end. Cancelled, it ends the script and all that belongs to it.

        Args:
            path: the script.
            arguments: what follows it on the command line.
            stdin: what it reads; None for nothing.
            seconds: how long it may run before its process group is ended; None for as long as it likes.

        Raises:
            CannotRun: it is missing, may not be executed, or cannot be started.
        """
        script = await self._start(path, arguments, stdin)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await script.ended.wait()
                await script.wait_for_output(_LINGER_SECONDS)
        except TimeoutError:
            if not limit.expired():
                raise
            await script.end(_TERM_SECONDS)
            return Finished(code=script.code, stdout=script.stdout(), stderr=script.stderr(), is_timeout=True)
        except asyncio.CancelledError:
            # The next action of this VM must not meet it.
            await script.end(_TERM_SECONDS)
            raise
        finally:
            script.close()
        return Finished(code=script.code, stdout=script.stdout(), stderr=script.stderr())

    def kill(self) -> None:
        """End everything at once."""
        for script in self._running:
            script.tell(signal.SIGKILL)

    async def _start(self, path: Path, arguments: Sequence[str], stdin: bytes | None) -> _Script:
        command = [str(path), *arguments]
        try:
            try:
                return await self._spawn(command, stdin)
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
                # No `#!` line: a shell that is handed such a file runs it itself.
                return await self._spawn(["/bin/sh", *command], stdin)
        except (OSError, ValueError) as error:
            raise CannotRun(_why_not(path, self._directory, error)) from error

    async def _spawn(self, command: Sequence[str], stdin: bytes | None) -> _Script:
        loop = asyncio.get_running_loop()
        transport, script = await loop.subprocess_exec(
            lambda: _Script(self._running),
            *command,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._directory,
            env=self.environment,
            process_group=0,
        )
        if stdin is not None:
            pipe = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
            pipe.write(stdin)
            pipe.close()  # once all is written; a script that does not read it is no error
        return script


class _Script(asyncio.SubprocessProtocol):
    """One process while it runs: collects what it writes."""

    def __init__(self, running: set[_Script]) -> None:
        self._running = running
        self.ended = asyncio.Event()
        self._closed = asyncio.Event()
        self._output: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self._open_pipes = {1, 2}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._pid = self._transport.get_pid()
        self._running.add(self)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept = self._output[fd]
        kept += data
        if len(kept) > MAX_OUTPUT:
            if fd == 1:
                del kept[MAX_OUTPUT:]
            else:
                del kept[:-MAX_OUTPUT]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        del exc
        self._open_pipes.discard(fd)
        if not self._open_pipes:
            self._closed.set()

    def process_exited(self) -> None:
        self._running.discard(self)
        self.ended.set()

    @property
    def code(self) -> int:
        """The exit code, as a shell tells it."""
        code = self._transport.get_returncode()
        return 128 - code if code is not None and code < 0 else code or 0

    def stdout(self) -> str:
        return self._output[1].decode("utf-8", "replace")

    def stderr(self) -> str:
        return self._output[2].decode("utf-8", "replace")

    async def wait_for_output(self, seconds: float) -> None:
        """Wait until the pipes are closed, but not for ever on those who hold them."""
        if not self._closed.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closed.wait()

    async def end(self, seconds: float) -> None:
        """End the process group: ask, then insist."""
        self.tell(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        self.tell(signal.SIGKILL)
        await self.ended.wait()
        await self.wait_for_output(_LINGER_SECONDS)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group; it outlives the process that began it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)

    def close(self) -> None:
        """Let go of the pipes."""
        self._transport.close()


def use_quick_watcher() -> None:
    """Learn of ended children through pidfds: Python before 3.12 would start a thread for each."""
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)


def _why_not(path: Path, directory: Path, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):  # a NUL in an argument
        return f"{path} cannot be run: {error}"
    if not path.exists():
        return f"{path} does not exist"
    if not directory.is_dir():
        return f"{directory}, where scripts run, is no directory"
    if not os.access(path, os.X_OK):
        return f"{path} may not be executed: run chmod +x {path}"
    if error.errno == errno.ENOENT:
        return f"{path} names an interpreter in its first line that does not exist"
    return f"{path} cannot be run: {error.strerror}"
