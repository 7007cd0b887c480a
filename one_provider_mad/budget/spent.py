"""What a NAME's ledger has booked in a month, by user and group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from one_provider_mad.budget.months import Month
from one_provider_mad.budget.records import Spent
from one_provider_mad.ledger.reader import open_spans, read_spans
from one_provider_mad.ledger.records import Span


def read_spent(path: Path, month: Month) -> Spent:
    """Return what a ledger has for a month; nothing without a ledger. Raises LedgerError."""
    as_of, _ = open_spans(path)
    return spent_of(read_spans(path, since=month.begin, until=as_of), month, as_of=as_of)


def spent_of(spans: Sequence[Span], month: Month, *, as_of: float) -> Spent:
    """Return what spans cost from the begin of a month to `as_of`, by user and group.

    A span of unknown price, as before the cloud's first answer to a question for prices, counts as the same thing in
    the same state at another time, else as the dearest of its type in that state; else its hours are of unknown price.
    """
    price_of = _prices(spans)
    costs: defaultdict[tuple[str, str], float] = defaultdict(float)
    unpriced: defaultdict[tuple[str, str], float] = defaultdict(float)
    for span in spans:
        hours = (min(span.end, as_of, month.end) - max(span.begin, month.begin)) / 3600
        if hours <= 0:
            continue
        owner, price = (span.owner.user, span.owner.group), price_of(span)
        costs[owner] += max(span.known, price or 0.0) * hours
        if price is None:
            unpriced[owner] += hours
    return Spent(as_of=as_of, costs=costs, unpriced=unpriced)


def _prices(spans: Sequence[Span]) -> Callable[[Span], float | None]:
    of_things: dict[Hashable, float] = {}
    for span in spans:
        for key in _keys(span):
            if span.amount is not None:
                of_things[key] = max(span.amount, of_things.get(key, 0.0))

    def price_of(span: Span) -> float | None:
        if span.amount is not None:
            return span.amount
        return next((of_things[key] for key in _keys(span) if key in of_things), None)

    return price_of


def _keys(span: Span) -> list[Hashable]:
    own: list[Hashable] = [(span.kind, span.thing, span.state)]
    return [*own, (span.kind, span.type_name, span.market, span.state)] if span.type_name else own
