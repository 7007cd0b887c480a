"""Processes told apart for certain: a pid alone may be used again, a pid with its start time is not."""

from __future__ import annotations

import os

from one_provider_mad.domain import Value


class Process(Value, frozen=True, kw_only=True):
    """One process of this machine.

    Attributes:
        pid: its number.
        start: clock ticks from boot to its start (proc(5), field 22 of /proc/<pid>/stat), with the boot's id.
    """

    pid: int
    start: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this number now; None when there is none."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                content = file.read()
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                boot = file.read().strip()
        except OSError:
            return None
        # The command's name, in parentheses, may itself hold blanks and parentheses: count from the last one.
        fields = content[content.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X"):
            return None
        return cls(pid=pid, start=f"{boot}/{fields[19].decode()}")

    @classmethod
    def current(cls) -> Process:
        """This process."""
        return cls.of(os.getpid()) or cls(pid=os.getpid(), start="")

    @classmethod
    def parent(cls) -> Process:
        """The process that started this one (oned, as a rule)."""
        return cls.of(os.getppid()) or cls(pid=os.getppid(), start="")

    def is_alive(self) -> bool:
        """True while this very process exists."""
        return Process.of(self.pid) == self
