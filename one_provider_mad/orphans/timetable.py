"""When the next search for orphans is due: by the interval in force, also after a restart, sooner after a failure.

`one-provider orphans` reads the `Trouble` of a failed search from the journal.
"""

from __future__ import annotations

from collections.abc import Callable

from one_provider_mad.domain import Value

TROUBLE = "orphans-trouble"
"""Name of the journal's fact that holds why the latest search failed, a `Trouble` as JSON."""

CHECK_SECONDS = 5.0
"""Longest pause in seconds until the configuration is read again, so that an edited interval takes effect."""

_FIRST_RETRY_SECONDS = 30.0
"""Seconds between a failed search and the next; the pause doubles with each further failure, up to the interval."""


class Trouble(Value, frozen=True, kw_only=True):
    """A failed search for orphans.

    Attributes:
        at: time of the failure, seconds since the epoch.
        reason: cause, as a sentence.
        retry: seconds until the next search; None where there is none before the driver is restarted.
    """

    at: float
    reason: str
    retry: float | None


class Timetable:
    """Tells when the next search for orphans is due.

    Args:
        clock: seconds since the epoch.
        searched_at: time of the last complete search, by an earlier process perhaps; None for none.
    """

    def __init__(self, clock: Callable[[], float], *, searched_at: float | None = None) -> None:
        self._clock = clock
        self._searched_at = searched_at
        self._failed_at = 0.0
        self.failures = 0

    def note_search(self) -> None:
        """Note a complete search."""
        self._searched_at, self.failures = self._clock(), 0

    def failed(self) -> None:
        """Note a failed search."""
        self._failed_at = self._clock()
        self.failures += 1

    def retry(self, interval: float) -> float:
        """Return the pause after the latest failure, in seconds."""
        return min(interval, _FIRST_RETRY_SECONDS * 2.0 ** min(self.failures - 1, 10))

    def seconds_left(self, interval: float) -> float:
        """Return the seconds until the next search is due, 0 or less when it is due."""
        now = self._clock()
        if self.failures:
            self._failed_at = min(self._failed_at, now)  # a clock that was set back must not delay the search
            return self._failed_at + self.retry(interval) - now
        if self._searched_at is None:
            return 0.0
        self._searched_at = min(self._searched_at, now)
        return self._searched_at + interval - now
