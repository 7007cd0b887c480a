"""Calendar months in UTC, as clouds bill them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from one_provider_mad.domain import Value


class Month(Value, frozen=True, kw_only=True, gc=False):
    """A calendar month in UTC.

    Attributes:
        begin: its first second, since the epoch.
        end: the first second of the next one.
    """

    begin: float
    end: float

    @property
    def text(self) -> str:
        """Return its name, `2026-12`."""
        return f"{datetime.fromtimestamp(self.begin, UTC):%Y-%m}"

    @property
    def last_day(self) -> str:
        """Return its last day, `2026-12-31`."""
        return f"{datetime.fromtimestamp(self.end - 1, UTC):%Y-%m-%d}"

    def hours_left(self, now: float) -> float:
        """Return the hours from `now` to its end."""
        return max(0.0, self.end - max(now, self.begin)) / 3600


def month_of(at: float) -> Month:
    """Return the month of a time in seconds since the epoch."""
    day = datetime.fromtimestamp(at, UTC)
    begin = day.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (begin + timedelta(days=32)).replace(day=1)
    return Month(begin=begin.timestamp(), end=end.timestamp())
