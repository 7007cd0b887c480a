"""When to check for orphans: by the interval in force, across restarts, and sooner after a failure.

`one-provider orphans` reads it from the journal, to show when the next check is due.
"""

from __future__ import annotations

from collections.abc import Callable

from one_provider_mad.domain import Value

TROUBLE = "orphans-trouble"
"""Key of the journal's fact: why the latest check failed, as JSON of a `Trouble`."""

CHECK_SECONDS = 5.0
"""Longest pause until the configuration is read again: an edited interval counts within this time."""

_FIRST_RETRY_SECONDS = 30.0
"""Pause after a failed check; it doubles with each further one, up to the interval."""


class Trouble(Value, frozen=True, kw_only=True):
    """A failed check.

    Attributes:
        at: when, seconds since the epoch.
        reason: why, as a sentence.
        retry: seconds until the next one; None where there is none before the driver is restarted.
    """

    at: float
    reason: str
    retry: float | None


class Timetable:
    """Tells when the next check is due.

    Args:
        clock: seconds since the epoch.
        looked_at: when the last complete check was, of an earlier process perhaps; None for never.
    """

    def __init__(self, clock: Callable[[], float], *, looked_at: float | None = None) -> None:
        self._clock = clock
        self._looked_at = looked_at
        self._failed_at = 0.0
        self.failures = 0

    def note_search(self) -> None:
        """Note a complete check."""
        self._looked_at, self.failures = self._clock(), 0

    def failed(self) -> None:
        """Note a failed check."""
        self._failed_at = self._clock()
        self.failures += 1

    def retry(self, interval: float) -> float:
        """Return the pause after the latest failure, in seconds."""
        return min(interval, _FIRST_RETRY_SECONDS * 2.0 ** min(self.failures - 1, 10))

    def seconds_left(self, interval: float) -> float:
        """Return the seconds until the next check is due, 0 or less when it is."""
        now = self._clock()
        if self.failures:
            self._failed_at = min(self._failed_at, now)  # a clock that was set back must not delay checks
            return self._failed_at + self.retry(interval) - now
        if self._looked_at is None:
            return 0.0
        self._looked_at = min(self._looked_at, now)
        return self._looked_at + interval - now
