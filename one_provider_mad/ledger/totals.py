"""Adds spans up: what they cost within some time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import fsum, inf
from typing import NamedTuple

from one_provider_mad.ledger.records import Span, Total

HOUR = 3600.0
"""Seconds in an hour; prices are units of currency an hour."""


def month_begin(now: float) -> float:
    """Return when the present month began, in UTC as clouds bill, seconds since the epoch."""
    moment = datetime.fromtimestamp(now, UTC)
    return datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp()


class _Clipped(NamedTuple):
    """A span, and the seconds of it that count."""

    span: Span
    seconds: float

    @property
    def cost(self) -> float:
        """Return what the known parts of the price cost in this time."""
        return self.span.known * self.seconds / HOUR


def total(spans: Iterable[Span], *, since: float = 0.0, until: float = inf) -> Total:
    """Return what spans cost from `since` to `until`, seconds since the epoch.

    Amounts of two currencies have no sum: spans in another currency than the most common one count as unpriced.
    `totals_by_currency` keeps them apart.
    """
    clipped = _clipped(spans, since, until)
    currency = _most_common(clipped)
    return _added([each if _is_in(each.span, currency) else _unpriced(each) for each in clipped], currency)


def totals_by_currency(spans: Iterable[Span], *, since: float = 0.0, until: float = inf) -> Mapping[str, Total]:
    """Return what spans cost from `since` to `until`, by currency; spans of no currency count towards the first one."""
    clipped = _clipped(spans, since, until)
    groups: dict[str, list[_Clipped]] = {}
    for each in clipped:
        groups.setdefault(each.span.currency, []).append(each)
    neutral = groups.pop("", [])
    first = max(groups, key=lambda currency: len(groups[currency]), default="")
    if neutral:
        groups.setdefault(first, []).extend(neutral)
    return {currency: _added(group, currency) for currency, group in groups.items()}


def _clipped(spans: Iterable[Span], since: float, until: float) -> list[_Clipped]:
    clipped = (_Clipped(span, min(span.end, until) - max(span.begin, since)) for span in spans)
    return [each for each in clipped if each.seconds > 0]


def _most_common(clipped: Iterable[_Clipped]) -> str:
    counts: dict[str, float] = {}
    for span, seconds in clipped:
        if span.currency:
            counts[span.currency] = counts.get(span.currency, 0.0) + seconds
    return max(counts, key=counts.__getitem__, default="")


def _is_in(span: Span, currency: str) -> bool:
    return span.currency in ("", currency)


def _unpriced(clipped: _Clipped) -> _Clipped:
    span = clipped.span
    return _Clipped(
        Span(name=span.name, thing=span.thing, begin=span.begin, end=span.end, is_seen=span.is_seen, amount=None),
        clipped.seconds,
    )


def _added(clipped: list[_Clipped], currency: str) -> Total:
    return Total(
        booked=fsum(each.cost for each in clipped if each.span.is_seen),
        assumed=fsum(each.cost for each in clipped if not each.span.is_seen),
        unpriced_seconds=fsum(each.seconds for each in clipped if each.span.amount is None),
        seconds=fsum(each.seconds for each in clipped),
        unseen_seconds=fsum(each.seconds for each in clipped if not each.span.is_seen),
        currency=currency,
    )
