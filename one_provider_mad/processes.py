"""Unique identities of processes: a pid may be reused, a pid with its start time is not."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from one_provider_mad.domain import Value


class Process(Value, frozen=True, kw_only=True):
    """One process of this machine.

    Attributes:
        pid: its process id.
        start: clock ticks from boot to its start (proc(5), field 22 of /proc/<pid>/stat), with the boot's id.
    """

    pid: int
    start: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process that has this pid now; None when there is none."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                content = file.read()
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                boot = file.read().strip()
        except OSError:
            return None
        # The command's name, in parentheses, may hold blanks and parentheses: fields count from the last one.
        fields = content[content.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X"):
            return None
        return cls(pid=pid, start=f"{boot}/{fields[19].decode()}")

    @classmethod
    def current(cls) -> Process:
        """Return this process."""
        return cls.of(os.getpid()) or cls(pid=os.getpid(), start="")

    @classmethod
    def parent(cls) -> Process:
        """Return the process that started this one (usually oned)."""
        return cls.of(os.getppid()) or cls(pid=os.getppid(), start="")

    def is_alive(self) -> bool:
        """Return True while this process exists."""
        return Process.of(self.pid) == self

    def kill(self) -> None:
        """Send SIGKILL to this process, if it exists and may be killed."""
        if self.is_alive():
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


def children(pid: int) -> list[int] | None:
    """Return the children of a process, including ended ones that were not waited for.

    None where the kernel does not list them (proc(5), /proc/<pid>/task/<tid>/children: CONFIG_PROC_CHILDREN), and for a
    missing process.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - Path.iterdir reads it piece by piece from 3.13 on
    except OSError:
        return None
    found: list[int] | None = None
    for thread in threads:
        with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # some may have ended
            found = [*(found or ()), *map(int, file.read().split())]
    return found


def descendants(pid: int) -> list[Process]:
    """Return the children of a process, their children, and so on, as far as the kernel lists them.

    A process whose parent has ended is not found.
    """
    found: list[Process] = []
    for child in children(pid) or ():
        if (process := Process.of(child)) is not None:
            found += [process, *descendants(child)]
    return found
