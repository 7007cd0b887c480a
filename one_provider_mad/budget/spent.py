"""What a NAME's ledger has booked in a month, by user and group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from one_provider_mad.budget.months import Month
from one_provider_mad.domain import Value
from one_provider_mad.ledger.reader import open_spans, read_spans
from one_provider_mad.ledger.records import Span


class Spent(Value, frozen=True, kw_only=True):
    """What was spent in a month.

    Attributes:
        as_of: time of the latest booked listing, seconds since the epoch; 0 without a ledger.
        costs: units of currency by user and group, what nobody saw included.
    """

    as_of: float
    costs: Mapping[tuple[str, str], float]


def read_spent(path: Path, month: Month) -> Spent:
    """Return what a ledger has for a month; nothing without a ledger. Raises LedgerError."""
    as_of, _ = open_spans(path)
    return Spent(as_of=as_of, costs=costs_of(read_spans(path, since=month.begin, until=as_of), month, until=as_of))


def costs_of(spans: list[Span], month: Month, *, until: float) -> Mapping[tuple[str, str], float]:
    """Return what spans cost from the begin of a month to `until`, by user and group."""
    costs: defaultdict[tuple[str, str], float] = defaultdict(float)
    for span in spans:
        seconds = min(span.end, until, month.end) - max(span.begin, month.begin)
        if seconds > 0:
            costs[span.owner.user, span.owner.group] += span.known * seconds / 3600
    return costs
