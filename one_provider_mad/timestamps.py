"""Timestamps whose difference is right although the wall clock is set in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from one_provider_mad.domain import Value


class Timestamp(Value, frozen=True, kw_only=True):
    """One time, on the wall clock and on the machine's steady clock.

    Attributes:
        at: seconds since the epoch on the wall clock: NTP or a person may set it, in either direction.
        steady: seconds on the event loop's clock, which cannot be set: all processes of one boot share it
            (CLOCK_MONOTONIC, clock_gettime(2)).
        boot: id of the boot that `steady` belongs to, "" when unknown.
    """

    at: float
    steady: float = 0.0
    boot: str = ""

    @classmethod
    def now(cls, clock: Callable[[], float]) -> Timestamp:
        """Return the current time; needs a running loop.

        Args:
            clock: the wall clock, seconds since the epoch.
        """
        return cls(at=clock(), steady=asyncio.get_running_loop().time(), boot=_BOOT)

    def since(self, earlier: Timestamp) -> float:
        """Return the seconds from an earlier timestamp; by the wall clock only when the machine booted in between."""
        if self.boot and self.boot == earlier.boot and self.steady >= earlier.steady:
            return self.steady - earlier.steady
        seconds = self.at - earlier.at
        # Negative when the wall clock was set back: then at least the time since the boot has passed.
        return seconds if seconds >= 0 or not self.boot else self.steady


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


_BOOT = _boot()
