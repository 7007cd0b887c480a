"""Days of UTC, as clouds bill them, and the moments that a person writes on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

DAY = 86_400.0
"""Seconds of a day."""

_AGO = re.compile(r"(?P<count>[0-9]{1,5})(?P<unit>[hdw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_MONTH = re.compile(r"[0-9]{4}-[0-9]{2}")


def day_name(number: int) -> str:
    """Return a day's name, `2026-12-01`, from its number since the epoch."""
    return f"{datetime.fromtimestamp(number * DAY, UTC):%Y-%m-%d}"


def moment_name(moment: float) -> str:
    """Return a moment for a person, `2026-12-01 12:00:00 UTC`."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


def read_moment(text: str, *, now: float) -> float:
    """Return the seconds since the epoch of a month, day or time of UTC, or of some hours, days or weeks ago.

    Args:
        text: `2026-11`, `2026-11-03`, `2026-11-03T18:30`, `12h`, `30d`, `4w`; a time may name its offset, `+01:00`.
        now: seconds since the epoch.

    Raises:
        ValueError: it is none of them.
    """
    if ago := _AGO.fullmatch(text):
        return now - int(ago["count"]) * _UNITS[ago["unit"]].total_seconds()
    found = datetime.fromisoformat(f"{text}-01" if _MONTH.fullmatch(text) else text)
    try:
        return (found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except OverflowError as error:
        raise ValueError(f"{text} has no year in UTC") from error
