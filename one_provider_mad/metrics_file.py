"""Keeps a program's metrics in a file for node_exporter's textfile collector, where `[metrics]` says so.

The collector reads every `*.prom` of its directory when it is scraped, so a file is written beside and renamed: half of
one is never seen (https://github.com/prometheus/node_exporter#textfile-collector). All that touches files runs in a
thread. Nothing that goes wrong here stops anything else; the operator is told once.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

import structlog

from one_provider_mad import __version__, metrics
from one_provider_mad.belongings import open_file, replace_file
from one_provider_mad.errors import SettingsError
from one_provider_mad.settings import MetricsSettings, Places, load

log = structlog.get_logger()

_LOOK_SECONDS = 2.0
"""How often to see whether somebody has turned metrics on, or what they write off."""

_GLANCE_SECONDS = 5.0
"""Longest pause until the configuration is read again: an edited interval counts within this time."""

_TURN_SECONDS = 1.0
"""How often to see whether the process that writes the file has ended."""

_PATIENCE = 5.0
"""Seconds for which that is no news: a driver that is started anew may meet the one before, which is ending."""

_MODE = 0o644
"""node_exporter runs as a user of its own; there is nothing secret in it."""


class InUseError(Exception):
    """Another process writes this file; the argument is its number, "" where nobody knows."""


class MetricsFile:
    """The file of one program.

    Args:
        name: NAME.
        program: the program.
        places: where the configuration is.
        warn: tells the operator one sentence.
        measure: asked before each writing to tell the recorder what is counted only then.
    """

    def __init__(
        self,
        name: str,
        program: str,
        places: Places,
        *,
        warn: Callable[[str], None],
        measure: Callable[[metrics.Recorder], Awaitable[None]],
    ) -> None:
        self._name = name
        self._program = program
        self._places = places
        self._warn = warn
        self._measure = measure
        self._seen: tuple[int, ...] | None = None
        self._settings = MetricsSettings()
        self._file: Textfile | None = None
        self._awaited_since: float | None = None
        self._complaint = ""

    async def begin(self) -> None:
        """Count from now on, if the configuration says so. Never raises."""
        await self._carefully(self._obey)

    async def keep(self) -> None:
        """Write for as long as the driver runs, while metrics are on."""
        while True:
            await self._carefully(self._obey_and_write)
            ended = monotonic()
            while (left := ended + self._pause() - monotonic()) > 0:
                await asyncio.sleep(min(left, _GLANCE_SECONDS))
                if left > _GLANCE_SECONDS:
                    await self._carefully(self._obey)

    def _pause(self) -> float:
        pause = _LOOK_SECONDS if self._file is None else self._settings.interval
        return pause if self._awaited_since is None else min(pause, _TURN_SECONDS)

    async def end(self) -> None:
        """Write what was counted up to the end; `keep` must have been cancelled. Never raises."""
        await self._carefully(self._write)

    async def _carefully(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what may fail in many ways, none of which is to be felt elsewhere."""
        try:
            await work()
        except ImportError:
            self._complain(
                f"prometheus-client is not installed for {sys.executable};"
                " pip install 'one-provider-mad[metrics]', or take [metrics] out of the configuration"
            )
        except InUseError as error:
            if self._awaited_since is None:
                self._awaited_since = monotonic()
            if monotonic() - self._awaited_since >= _PATIENCE:
                self._complain(
                    f"another {self._program} of {self._name}, process {error.args[0] or 'unknown'}, writes"
                    f" {self._file.path if self._file else 'them'} already; end the one that is too many"
                )
        except OSError as error:
            self._complain(
                f"{self._settings.textfile_directory}: {error.strerror}; make that directory, which [metrics] names,"
                f" and let user {os.geteuid()} write there"
            )
        except Exception as error:
            if self._complain(f"internal error ({type(error).__name__}), the driver's log has the details"):
                log.exception("metrics failed")

    async def _obey(self) -> None:
        """Do as the configuration says by now."""
        await asyncio.to_thread(self._look)
        directory = self._settings.textfile_directory
        path = Path(directory) / f"{self._program}_{self._name}.prom" if directory else None
        if path != (self._file.path if self._file is not None else None):
            old, self._file = self._file, Textfile(path) if path is not None else None
            self._awaited_since = None
            if old is not None:
                await asyncio.to_thread(old.remove)
        if path is None:
            metrics.recorder = None
        elif metrics.recorder is None:
            metrics.recorder = await asyncio.to_thread(
                metrics.Recorder, name=self._name, program=self._program, version=__version__
            )

    async def _obey_and_write(self) -> None:
        await self._obey()
        await self._write()

    async def _write(self) -> None:
        recorder, file = metrics.recorder, self._file
        if recorder is not None and file is not None:
            await self._measure(recorder)
            await asyncio.to_thread(file.write, recorder.text)
            self._complaint, self._awaited_since = "", None

    def _look(self) -> None:
        """Read the settings again if the file has changed; while they cannot be used, those from before stay."""
        try:
            status = (self._places.conf / f"{self._name}.toml").stat()
            seen: tuple[int, ...] = (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
        except OSError as error:
            seen = (error.errno or 0,)
        if seen != self._seen:
            self._seen = seen
            with suppress(SettingsError):
                self._settings = load(self._name, self._places).settings.metrics

    def _complain(self, reason: str) -> bool:
        """Tell the operator, unless that was the last thing told; true when it was not."""
        is_news = reason != self._complaint
        if is_news:
            self._complaint = reason
            log.warning("metrics are not written", reason=reason)
            self._warn(f"metrics are not written: {reason}")
        return is_news


class Textfile:
    """One file that one process at a time may write; used in threads, by one of them at a time.

    A second driver of the same NAME, a mistake or one that is just ending, would write its own figures over those of
    the first every few seconds: counters would jump to and fro. So whoever writes holds a lock, which the kernel takes
    from the dead (flock(2)), and which no child gets: descriptors are closed when another program is started.

    Args:
        path: the file; a lock and what is being written stand beside it, under names that the collector does not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._lock: int | None = None
        self._turn = threading.Lock()

    def write(self, render: Callable[[], bytes]) -> None:
        """Replace the file by what is rendered.

        Raises:
            InUseError: another process writes it.
            OSError: it cannot be written.
        """
        with self._turn:  # what a cancelled task has begun goes on in its thread
            self._hold()
            replace_file(self.path, render(), beside=f".{self.path.name}.new", mode=_MODE)

    def remove(self) -> None:
        """What is written no more is not to be scraped for ever. Never raises; what others write is left to them."""
        with self._turn, suppress(OSError):
            if self._lock is not None and self._is_there(self._lock):
                self.path.unlink(missing_ok=True)
                self._lock_path.unlink()
            self._release()

    def _hold(self) -> None:
        """Hold the lock, whoever may have cleaned up the directory meanwhile."""
        if self._lock is not None and self._is_there(self._lock):
            return
        self._release()
        descriptor = open_file(self._lock_path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_there(descriptor):
                raise BlockingIOError  # its holder has just removed it
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise InUseError(holder) from None
        except OSError:
            os.close(descriptor)
            raise
        self._lock = descriptor
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())

    def _is_there(self, descriptor: int) -> bool:
        """True while the lock's name leads to the file that is open."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._lock_path.stat())
        except FileNotFoundError:
            return False

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
