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


def total(spans: Iterable[Span], *, since: float = 0.0, until: float = inf) -> Total:
    """Return what spans cost from `since` to `until`, seconds since the epoch.

    Amounts of two currencies have no sum: spans in another currency than the most common one count as unpriced.
    `totals_by_currency` keeps them apart.
    """
    clipped = _clipped(spans, since, until)
    currencies = {each.span.currency for each in clipped if each.span.currency}
    if len(currencies) < 2:  # the usual case: nothing to leave out
        return _added(clipped, "".join(currencies))
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
    found = []
    for span in spans:  # no function is called for each: there may be a million
        begin, end = span.begin, span.end
        if begin < since:
            begin = since
        if end > until:
            end = until
        if end > begin:
            found.append(_Clipped(span, end - begin))
    return found


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
    booked, assumed, unpriced, unseen = [], [], [], []
    for span, seconds in clipped:
        if span.is_seen:
            booked.append(span.known * seconds / HOUR)
        else:
            assumed.append(span.known * seconds / HOUR)
            unseen.append(seconds)
        if span.amount is None:
            unpriced.append(seconds)
    return Total(
        booked=fsum(booked),
        assumed=fsum(assumed),
        unpriced_seconds=fsum(unpriced),
        seconds=fsum([seconds for _, seconds in clipped]),
        unseen_seconds=fsum(unseen),
        currency=currency,
    )
