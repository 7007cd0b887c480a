"""The rows of the tables: what each group costs now, in this month, at its end, and in all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum

from one_provider_mad.budget.months import Month
from one_provider_mad.costs.cost import Cost, sum_of
from one_provider_mad.costs.grouping import Group
from one_provider_mad.domain import Value
from one_provider_mad.ledger.records import Span
from one_provider_mad.ledger.totals import HOUR, total


class Row(Value, frozen=True, kw_only=True):
    """One row.

    Attributes:
        cells: what tells its group from the others.
        currency: ISO 4217 code, "" for none.
        hour: what its things cost an hour at present.
        month: what they have cost in this month of UTC so far.
        forecast: what they will have cost at the month's end if all stays as it is.
        total: what they have cost within the time that was asked for.
    """

    cells: tuple[str, ...]
    currency: str
    hour: Cost
    month: Cost
    forecast: Cost
    total: Cost


def row_of(group: Group, *, month: Month, now: float, since: float, until: float) -> Row:
    """Return a group's row.

    Args:
        group: its spans.
        month: the month of `now`.
        now: seconds since the epoch; nothing later counts but in the forecast.
        since: begin of the total, seconds since the epoch.
        until: end of the total, seconds since the epoch.
    """
    hour = rate_of(group.spans)
    to_date = cost_of(group.spans, since=month.begin, until=now)
    return Row(
        cells=group.cells,
        currency=group.currency,
        hour=hour,
        month=to_date,
        forecast=to_date.plus(hour.times(max(0.0, month.end - now) / HOUR)),
        total=cost_of(group.spans, since=since, until=min(until, now)),
    )


def sums_of(rows: Sequence[Row], cells: tuple[str, ...]) -> list[Row]:
    """Return the sum of the rows of each currency."""
    return [_sum_of([row for row in rows if row.currency == currency], cells) for currency in _currencies(rows)]


def sorted_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the rows by currency, the most expensive first."""
    return sorted(rows, key=lambda row: (row.currency, -row.forecast.known, -row.total.known, row.cells))


def rate_of(spans: Iterable[Span]) -> Cost:
    """Return what spans cost an hour at present: the open ones."""
    present = [span for span in spans if span.is_open]
    return Cost(known=fsum(span.known for span in present), is_whole=all(span.amount is not None for span in present))


def cost_of(spans: Iterable[Span], *, since: float, until: float) -> Cost:
    """Return what spans cost between two times."""
    found = total(spans, since=since, until=until)
    return Cost(known=found.booked + found.assumed, is_whole=not found.unpriced_seconds, assumed=found.assumed)


def _currencies(rows: Iterable[Row]) -> list[str]:
    return sorted({row.currency for row in rows})


def _sum_of(rows: Sequence[Row], cells: tuple[str, ...]) -> Row:
    return Row(
        cells=cells,
        currency=rows[0].currency,
        hour=sum_of(row.hour for row in rows),
        month=sum_of(row.month for row in rows),
        forecast=sum_of(row.forecast for row in rows),
        total=sum_of(row.total for row in rows),
    )
