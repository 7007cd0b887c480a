"""Computes what each day of UTC has cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from one_provider_mad.costs.cost import Cost
from one_provider_mad.costs.periods import DAY
from one_provider_mad.ledger.records import Span
from one_provider_mad.ledger.totals import HOUR

_PLACES = 9
"""Decimals that are kept of a day's seconds and money."""


class _Days:
    """Seconds and money of successive days.

    A span adds to its first and last day, and one change of rate before and after the days between them, so that a
    year is as quick as a day.
    """

    def __init__(self, first: int, count: int) -> None:
        self._first = first
        self._parts = [0.0] * count
        self._changes = [0.0] * (count + 1)

    def add(self, begin: float, end: float, weight: float) -> None:
        """Add a weight for each second between two times."""
        head, tail = int(begin // DAY), int(end // DAY)
        if head == tail:
            self._parts[head - self._first] += weight * (end - begin)
            return
        self._parts[head - self._first] += weight * ((head + 1) * DAY - begin)
        if end > tail * DAY:
            self._parts[tail - self._first] += weight * (end - tail * DAY)
        self._changes[head + 1 - self._first] += weight
        self._changes[tail - self._first] -= weight

    def sums(self) -> list[float]:
        """Return the sum of each day."""
        whole = accumulate(self._changes)
        sums = (part + rate * DAY for part, rate in zip(self._parts, whole, strict=False))
        return [max(0.0, round(each, _PLACES)) for each in sums]  # rates that come and go leave rounding errors


def costs_of_days(spans: Sequence[Span], *, since: float, until: float) -> Mapping[int, Cost]:
    """Return the cost of each day, by its number since the epoch; days on which nothing existed are left out.

    Args:
        spans: merged spans of one currency.
        since: seconds since the epoch.
        until: seconds since the epoch.
    """
    clipped = [
        (span, begin, end) for span in spans if (begin := max(span.begin, since)) < (end := min(span.end, until))
    ]
    if not clipped:
        return {}
    first = int(min(begin for _, begin, _ in clipped) // DAY)
    count = int(max(end for _, _, end in clipped) // DAY) - first + 1
    known, assumed, unpriced, seconds = (_Days(first, count) for _ in range(4))
    for span, begin, end in clipped:
        seconds.add(begin, end, 1.0)
        known.add(begin, end, span.known / HOUR)
        if not span.is_seen:
            assumed.add(begin, end, span.known / HOUR)
        if span.amount is None:
            unpriced.add(begin, end, 1.0)
    days = zip(known.sums(), assumed.sums(), unpriced.sums(), seconds.sums(), strict=True)
    return {
        first + place: Cost(known=amount, is_whole=not unknown, assumed=unseen)
        for place, (amount, unseen, unknown, there) in enumerate(days)
        if there
    }
