"""Detects that the OpenNebula that started this driver has finished starting (decision 27).

oned processes its drivers' lines from the first one on, but sets up most of its managers nearly last: from 4.14 to 7.4
a reply in between crashes it (src/nebula/Nebula.cc, start: vmm->load_drivers and lcm->init_managers). It listens for
its API right after that point, so a listening socket is the sign that replies are safe.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from one_provider_mad.core_settings import listening_at

_CORE = "oned"
"""The kernel's name of OpenNebula's daemon (proc(5), comm)."""

_CHECK_SECONDS = 0.1
"""Seconds between two checks while oned starts, which takes some seconds."""

_OLD_SECONDS = 120.0
"""Seconds after which a running oned counts as started even without a sign: the slowest start seen took 10."""

_CONNECT_SECONDS = 1.0

_TCP_LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp (proc(5))."""

_MOST_ANCESTORS = 64


class CoreUp:
    """Waits until oned accepts replies without a crash.

    Args:
        proc: directory of the kernel's process information.
        parent: the process that started this one.

    Attributes:
        is_up: set once replies are safe.
    """

    def __init__(self, *, proc: str = "/proc", parent: int | None = None) -> None:
        self._proc = proc
        self._parent = os.getppid() if parent is None else parent
        self._begun = time.monotonic()
        self.is_up = asyncio.Event()

    def has_core(self) -> bool:
        """True when oned has started this process; without it (a person at a pipe) replies need not wait."""
        ancestors = list(self._ancestors())
        is_complete = bool(ancestors) and ancestors[-1][2] == 0
        return not is_complete or any(name == _CORE for _, name, _ in ancestors)

    async def watch(self, config: Callable[[], str]) -> None:
        """Return once oned listens for its API, or is old enough to have started.

        Args:
            config: returns the path of the file in OpenNebula's var directory to which oned writes its settings before
                it starts drivers.
        """
        while not self.is_up.is_set():
            if await asyncio.to_thread(self.has_sign, config()):
                self.is_up.set()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CHECK_SECONDS):
                        await self.is_up.wait()

    def has_sign(self, config: str) -> bool:
        """True when oned listens for its API or is old enough; `config` is the path of oned's settings. Blocks."""
        cores = [pid for pid, name, _ in self._ancestors() if name == _CORE]
        starters = [self._parent, *cores]
        if any(self._is_listening(pid) for pid in starters) or self._age(starters[-1]) >= _OLD_SECONDS:
            return True
        # Readable descriptors have shown no listening socket; without any the port in oned's settings is tried.
        is_seen = any(self._sockets(pid) is not None for pid in cores)
        return not is_seen and _is_port_open(config)

    def _ancestors(self) -> Iterator[tuple[int, str, int]]:
        """Yield pid, name and parent's pid of the parent, its parent, and so on, as far as they can be read."""
        pid = self._parent
        for _ in range(_MOST_ANCESTORS):
            if (stat := self._stat(pid)) is None:
                return
            name, fields = stat
            parent = int(fields[1])
            yield pid, name, parent
            if parent <= 0:
                return
            pid = parent

    def _age(self, pid: int) -> float:
        """Return the age in seconds of a process older than this one; at least this process's own age.

        In a container /proc may show the container's uptime (lxcfs) beside start times that count from the host's boot.
        """
        ours = time.monotonic() - self._begun
        stat, uptime = self._stat(pid), _read(f"{self._proc}/uptime").split()
        if stat is None or not uptime:
            return ours
        return max(ours, float(uptime[0]) - int(stat[1][19]) / os.sysconf("SC_CLK_TCK"))

    def _stat(self, pid: int) -> tuple[str, list[str]] | None:
        """Return the command's name, which may hold parentheses, and the fields after it (proc(5), stat)."""
        text = _read(f"{self._proc}/{pid}/stat")
        start, end = text.find("("), text.rfind(")")
        return (text[start + 1 : end], text[end + 2 :].split()) if 0 <= start < end else None

    def _is_listening(self, pid: int) -> bool:
        """Return True when one of a process's sockets is a listening TCP socket."""
        sockets = self._sockets(pid) or set()
        return bool(sockets) and not sockets.isdisjoint(self._listening())

    def _sockets(self, pid: int) -> set[str] | None:
        """Return the inodes of a process's sockets, None when its descriptors may not be read."""
        folder = f"{self._proc}/{pid}/fd"
        found: set[str] = set()
        try:
            for name in os.listdir(folder):  # noqa: PTH208 - pathlib is not loaded
                with suppress(FileNotFoundError):  # closed meanwhile
                    kind, _, inode = os.readlink(f"{folder}/{name}").partition(":[")
                    if kind == "socket":
                        found.add(inode.removesuffix("]"))
        except OSError:
            return None
        return found

    def _listening(self) -> Iterator[str]:
        """Yield the inodes of all listening TCP sockets."""
        for table in ("tcp", "tcp6"):
            for row in _read(f"{self._proc}/self/net/{table}").splitlines()[1:]:
                fields = row.split()
                if fields[3] == _TCP_LISTEN:
                    yield fields[9]


def _is_port_open(config: str) -> bool:
    """Return True when the port in oned's settings accepts a connection. Blocks."""
    if (at := listening_at(config)) is None:
        return False
    try:
        with socket.create_connection(at, timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _read(path: str) -> str:
    """Return the content of a file, "" when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
