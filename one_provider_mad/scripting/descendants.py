"""Finds and ends the descendants of scripts, also daemons, which leave their process group and their parent.

Two facts identify such a process. Orphaned processes become children of this process instead of init's (prctl(2),
PR_SET_CHILD_SUBREAPER), so none escapes; and each process has its script's mark in its environment (proc(5),
/proc/<pid>/environ), unless it wiped that, so its script is known.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import structlog

from one_provider_mad.processes import children

log = structlog.get_logger()

MARK = "ONE_PROVIDER_MAD_SCRIPT"
"""The environment variable that holds the mark of a process's script."""

_PR_SET_CHILD_SUBREAPER = 36

_END_SECONDS = 2.0
"""Seconds to wait for killed processes: one that the kernel holds up is reaped later."""

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class Descendants:
    """The descendants of this process's scripts; they end with their scripts.

    Once it is created this process adopts all orphaned processes below it, and must start nothing but scripts: only the
    children that it had before are spared.
    """

    def __init__(self) -> None:
        self._is_reaper = _become_reaper()
        self._spared = set(children(os.getpid()) or ())
        self._running: dict[str, int] = {}
        self._suspects: dict[int, frozenset[str]] = {}

    def begin(self) -> str:
        """Return a mark for a script that is about to be started."""
        mark = uuid4().hex
        self._running[mark] = 0  # its pid is not known yet
        return mark

    def began(self, mark: str, pid: int) -> None:
        """Record the process id of a started script."""
        self._running[mark] = pid

    async def end(self, mark: str) -> None:
        """End the descendants of a script that has ended and was waited for. A second call does no harm."""
        self._running.pop(mark, None)
        orphans = self._orphans()
        if orphans is None:
            await asyncio.to_thread(end_marked, {mark})
            return
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + _END_SECONDS, _FIRST_PAUSE
        while _bury(orphans) and loop.time() < deadline:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            orphans = self._orphans() or []  # the list now has the children of the killed processes

    def kill(self) -> None:
        """Kill all children at once; their own children, which are orphaned by this, need a further call."""
        found = children(os.getpid()) if self._is_reaper else None
        if found is None:
            end_marked(self._running)
            return
        for pid in found:
            if pid not in self._spared:
                _kill(pid)

    def _orphans(self) -> list[int] | None:
        """Return the children that belong to no running script; None where the kernel does not list children."""
        found = children(os.getpid()) if self._is_reaper else None
        if found is None:
            return None
        self._spared.intersection_update(found)
        self._suspects = {pid: marks for pid, marks in self._suspects.items() if pid in found}
        others = self._spared.union(self._running.values())
        return [pid for pid in found if pid not in others and not self._is_needed(pid)]

    def _is_needed(self, pid: int) -> bool:
        mark = _mark_of(pid)
        if mark is not None:
            return mark in self._running
        # Ended, or its environment was wiped: it belongs to one of the scripts that ran when it was first seen, or to
        # one that had ended by then. So it is needed no longer once these scripts have ended.
        suspects = self._suspects.setdefault(pid, frozenset(self._running))
        return not suspects.isdisjoint(self._running)


def end_marked(marks: Collection[str]) -> int:
    """End all processes of this user with one of these marks, and return their number; blocks for milliseconds."""
    if not marks:
        return 0
    ended: set[int] = set()
    deadline, pause = time.monotonic() + _END_SECONDS, _FIRST_PAUSE
    while found := [pid for pid in _processes() if _mark_of(pid) in marks]:  # more than once: they may have forked
        for pid in found:
            _kill(pid)
        ended.update(found)
        if time.monotonic() >= deadline:
            break
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return len(ended)


def _become_reaper() -> bool:
    """Make this process adopt all orphaned processes below it; return False where the kernel cannot do that."""
    try:
        prctl: Callable[..., int] = ctypes.CDLL(None).prctl
        is_reaper = prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except (OSError, AttributeError):
        is_reaper = False
    if not is_reaper:
        log.warning("orphaned processes are found by their environment only")
    return is_reaper


def _bury(orphans: Collection[int]) -> bool:
    """Kill orphaned processes and reap those that have ended; return True when another pass is due.

    A process that has ended at once, as on a busy machine, has left children of its own, which were not listed yet.
    """
    is_due = False
    for pid in orphans:
        is_ending = _kill(pid)
        with suppress(ChildProcessError):
            is_gone = os.waitpid(pid, os.WNOHANG)[0] == pid
            is_due = is_due or is_gone or is_ending
    return is_due


def _kill(pid: int) -> bool:
    """Kill a process; return False when it belongs to another user, as after sudo."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return True


def _mark_of(pid: int) -> str | None:
    """Return the mark of a process; None when it has none, has ended, or belongs to another user."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            content = file.read()
    except OSError:
        return None
    name = f"{MARK}=".encode()
    for pair in content.split(b"\0"):
        if pair.startswith(name):
            return pair[len(name) :].decode("ascii", "replace")
    return None


def _processes() -> Iterator[int]:
    with suppress(OSError):
        yield from (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal())
