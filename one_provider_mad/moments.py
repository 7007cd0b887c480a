"""Moments whose distance can be told although somebody sets the clock on the wall meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from one_provider_mad.domain import Value


class Moment(Value, frozen=True, kw_only=True):
    """A moment on two clocks.

    Attributes:
        at: seconds since the epoch, as the wall has it: NTP or a person may set it, in either direction.
        steady: seconds on the event loop's clock, which nobody sets: all processes of one boot share it
            (CLOCK_MONOTONIC, clock_gettime(2)).
        boot: id of the boot that `steady` belongs to, "" where it cannot be told.
    """

    at: float
    steady: float = 0.0
    boot: str = ""

    @classmethod
    def now(cls, clock: Callable[[], float]) -> Moment:
        """This moment; needs a running loop.

        Args:
            clock: the wall's, seconds since the epoch.
        """
        return cls(at=clock(), steady=asyncio.get_running_loop().time(), boot=_BOOT)

    def since(self, earlier: Moment) -> float:
        """Seconds from an earlier moment to this one; by the wall's clock only where there has been a boot between."""
        if self.boot and self.boot == earlier.boot and self.steady >= earlier.steady:
            return self.steady - earlier.steady
        seconds = self.at - earlier.at
        # Behind a moment that is past: the wall's clock was set back. No boot is younger than what came before it.
        return seconds if seconds >= 0 or not self.boot else self.steady


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


_BOOT = _boot()
