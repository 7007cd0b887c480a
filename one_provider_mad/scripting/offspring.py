"""What scripts have started, wherever it went: a process that makes itself a daemon leaves its group and its parent.

Two things lead back to it. Orphans become children of this process instead of init's (prctl(2),
PR_SET_CHILD_SUBREAPER), so nothing gets away; and each process has its script's mark in its environment (proc(5),
/proc/<pid>/environ), unless it wiped that, so it is known whose it is.
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
"""The variable that names the script which a process comes from."""

_PR_SET_CHILD_SUBREAPER = 36

_END_SECONDS = 2.0
"""How long to wait for processes that were killed: one that the kernel holds up is buried later."""

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class Offspring:
    """The processes that scripts of this process have started; they end with their scripts.

    From its making on this process is the parent of all orphans below it, and what it starts must be scripts: of its
    children only those are spared that it had before.
    """

    def __init__(self) -> None:
        self._is_reaper = _become_reaper()
        self._spared = set(children(os.getpid()) or ())
        self._running: dict[str, int] = {}
        self._suspects: dict[int, frozenset[str]] = {}

    def begin(self) -> str:
        """A mark for a script that is about to be started."""
        mark = uuid4().hex
        self._running[mark] = 0  # its pid is not known yet
        return mark

    def began(self, mark: str, pid: int) -> None:
        """The script has been started."""
        self._running[mark] = pid

    async def end(self, mark: str) -> None:
        """The script has ended, and was waited for: end what it has left behind. Twice does no harm."""
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
            orphans = self._orphans() or []  # among them those of the killed

    def kill(self) -> None:
        """Kill everything at once; what then becomes an orphan needs a further call."""
        found = children(os.getpid()) if self._is_reaper else None
        if found is None:
            end_marked(self._running)
            return
        for pid in found:
            if pid not in self._spared:
                _kill(pid)

    def _orphans(self) -> list[int] | None:
        """Children of this process that no running script needs; None where the kernel does not tell."""
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
        # Ended, or its environment was wiped: it is of one of the scripts that ran when it was seen first, or of one
        # that had ended by then. So when these have ended nobody needs it.
        suspects = self._suspects.setdefault(pid, frozenset(self._running))
        return not suspects.isdisjoint(self._running)


def end_marked(marks: Collection[str]) -> int:
    """End all processes of this user that have one of these marks, and return how many; blocks for milliseconds."""
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
    """Become the parent of all orphans below this process; False where there is no such thing."""
    try:
        prctl: Callable[..., int] = ctypes.CDLL(None).prctl
        is_reaper = prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except (OSError, AttributeError):
        is_reaper = False
    if not is_reaper:
        log.warning("orphans are found by their environment only")
    return is_reaper


def _bury(orphans: Collection[int]) -> bool:
    """Kill orphans and ask for those that have ended; True where another look is due.

    One that has ended at once, as on a busy machine, has left its own children behind: nobody has seen these yet.
    """
    is_due = False
    for pid in orphans:
        is_ending = _kill(pid)
        with suppress(ChildProcessError):
            is_gone = os.waitpid(pid, os.WNOHANG)[0] == pid
            is_due = is_due or is_gone or is_ending
    return is_due


def _kill(pid: int) -> bool:
    """False when it is not ours to be killed: sudo has made it another user's."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return True


def _mark_of(pid: int) -> str | None:
    """The mark of a process; None when it has none, has ended, or belongs to somebody else."""
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
