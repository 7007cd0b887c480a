"""Writes a program's metrics to a file for node_exporter's textfile collector, where `[metrics]` turns it on.

The collector reads every `*.prom` of its directory at each scrape, so the file is replaced by a rename and is never
read half-written (https://github.com/prometheus/node_exporter#textfile-collector). File operations run in a thread. A
failure here affects nothing else; the operator gets one warning.

prometheus_client only renders the text (`generate_latest`): a file of its `write_to_textfile` (0.26) has the mode that
the umask leaves and the owner of the process, and its temporary file may be opened through a planted link, and stays
when the process is killed.
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
from one_provider_mad.errors import SettingsError, UnknownSetting
from one_provider_mad.file_owner import open_file, replace_file
from one_provider_mad.settings import MetricsSettings, Places, load

log = structlog.get_logger()

_CHECK_SECONDS = 2.0
"""Seconds between two reads of the configuration while metrics are off."""

_GLANCE_SECONDS = 5.0
"""Longest pause in seconds until the configuration is read again, so that an edited interval takes effect."""

_TURN_SECONDS = 1.0
"""Seconds between two checks whether another process that writes the file has ended."""

_PATIENCE = 5.0
"""Seconds until a warning about another process that writes the file: it may be an earlier driver, just ending."""

_MODE = 0o644
"""Readable for node_exporter, which runs as another user; the file holds no secrets."""


class InUseError(Exception):
    """Another process writes this file; the argument is its process id, "" when unknown."""


class MetricsFile:
    """Writes the metrics of one program to its file.

    Args:
        name: NAME.
        program: the program.
        places: the directory of the configuration.
        warn: writes a warning to the driver's log and to oned.log.
        measure: called before each write to set the recorder's gauges.
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
        """Start counting, if the configuration turns metrics on. Never raises."""
        await self._carefully(self._obey)

    async def keep(self) -> None:
        """Write the file until cancelled, while metrics are on."""
        while True:
            await self._carefully(self._obey_and_write)
            ended = monotonic()
            while (left := ended + self._pause() - monotonic()) > 0:
                await asyncio.sleep(min(left, _GLANCE_SECONDS))
                if left > _GLANCE_SECONDS:
                    await self._carefully(self._obey)

    def _pause(self) -> float:
        pause = _CHECK_SECONDS if self._file is None else self._settings.interval
        return pause if self._awaited_since is None else min(pause, _TURN_SECONDS)

    async def end(self) -> None:
        """Write the file a last time; `keep` must have been cancelled. Never raises."""
        await self._carefully(self._write)

    async def _carefully(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run work on the file, and turn any failure into a warning."""
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
                    f" {self._file.path if self._file else 'them'} already; end one of the two"
                )
        except OSError as error:
            self._complain(
                f"{self._settings.textfile_directory}: {error.strerror}; create that directory, or correct [metrics],"
                f" and let user {os.geteuid()} write to it"
            )
        except Exception as error:
            if self._complain(f"internal error ({type(error).__name__}), the driver's log has the details"):
                log.exception("metrics failed")

    async def _obey(self) -> None:
        """Turn metrics on or off, and choose the file, by the current configuration."""
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
        """Read the settings again after an edit; unusable ones are ignored."""
        try:
            status = (self._places.conf / f"{self._name}.toml").stat()
            seen: tuple[int, ...] = (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
        except OSError as error:
            seen = (error.errno or 0,)
        if seen != self._seen:
            self._seen = seen
            with suppress(SettingsError):
                self._settings = self._load()

    def _load(self) -> MetricsSettings:
        try:
            return load(self._name, self._places).settings.metrics
        except UnknownSetting as error:  # the drivers report, and so count, with such a file (decision 32)
            return load(self._name, self._places, left_out=error.paths).settings.metrics

    def _complain(self, reason: str) -> bool:
        """Warn the operator, unless the last warning was the same; return True for a new one."""
        is_news = reason != self._complaint
        if is_news:
            self._complaint = reason
            log.warning("metrics are not written", reason=reason)
            self._warn(f"metrics are not written: {reason}")
        return is_news


class Textfile:
    """A file for one writing process at a time; its methods run in threads, one at a time.

    A second driver of the same NAME, started by mistake or just ending, would overwrite the first one's figures every
    few seconds: counters would jump to and fro. So the writer holds a lock, which the kernel releases when the process
    ends (flock(2)), and which children do not inherit: descriptors are closed on exec.

    Args:
        path: the file; its lock and its temporary file are beside it, under names that the collector ignores.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._lock: int | None = None
        self._turn = threading.Lock()

    def write(self, render: Callable[[], bytes]) -> None:
        """Replace the file with the rendered text.

        Raises:
            InUseError: another process writes the file.
            OSError: the file cannot be written.
        """
        with self._turn:  # a thread may still be running for a cancelled task
            self._hold()
            replace_file(self.path, render(), beside=f".{self.path.name}.new", mode=_MODE)

    def remove(self) -> None:
        """Remove the file, so that it is not scraped forever, unless another process writes it. Never raises."""
        with self._turn, suppress(OSError):
            if self._lock is not None and self._is_there(self._lock):
                self.path.unlink(missing_ok=True)
                self._lock_path.unlink()
            self._release()

    def _hold(self) -> None:
        """Take the lock of this file; take it anew if the lock's file was removed meanwhile."""
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
        """Return True while the lock's path leads to the open file."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._lock_path.stat())
        except FileNotFoundError:
            return False

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
