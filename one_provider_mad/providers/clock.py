"""Compares this machine's clock with that of an HTTP server."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from one_provider_mad.providers.interface import CheckResult

_NOTHING = 10.0
"""Seconds by which two clocks that count as equal may differ: `Date` has whole seconds, and an answer takes time."""


def skew(answered: tuple[str, float]) -> float | None:
    """Return the seconds by which this machine's clock is ahead of the server's; None without a readable `Date`.

    Args:
        answered: the answer's header `Date` (RFC 9110, 6.6.1), and when it was read, in seconds since the epoch.
    """
    date, read_at = answered
    try:
        return read_at - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def check_clock(answered: tuple[str, float], *, peer: str, at_most: float | None) -> list[CheckResult]:
    """Return the result of comparing the two clocks; no result without a readable `Date`.

    Args:
        answered: as `skew` takes it.
        peer: owner of the other clock, `EC2`.
        at_most: seconds of difference from which on calls are refused; None for no such limit.
    """
    seconds = skew(answered)
    if seconds is None:
        return []
    size = abs(seconds)
    if size < _NOTHING:
        return [CheckResult(what="clock", is_well=True, found=f"as {peer}'s")]
    found = f"{size:.0f} s {'ahead of' if seconds > 0 else 'behind'} {peer}'s"
    is_refused = at_most is not None and size >= at_most
    remedy = "set it by NTP (chronyc tracking, timedatectl)"
    if is_refused:
        remedy += f": {peer} refuses calls that are signed {at_most:g} s off"
    return [CheckResult(what="clock", is_well=False if is_refused else None, found=found, remedy=remedy)]
