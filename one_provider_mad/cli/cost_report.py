"""Shows the report of `one-provider cost`: rows, sums and remarks, as tables, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence

import click

from one_provider_mad.budget.months import Month
from one_provider_mad.cli.tables import show_table
from one_provider_mad.cli.wrapping import wrapped
from one_provider_mad.costs.cost import Cost
from one_provider_mad.costs.days import costs_of_days
from one_provider_mad.costs.grouping import COLUMNS, UNKNOWN, Grouping, by_currency, groups_of
from one_provider_mad.costs.periods import day_name, moment_name
from one_provider_mad.costs.rows import Row, row_of, sorted_rows, sums_of
from one_provider_mad.domain import Value
from one_provider_mad.ledger.records import INSTANCE, Span

FIGURES = ("hour", "month", "forecast", "total")
"""Names of a row's costs."""

_HEADS = {"hour": "NOW/HOUR", "month": "THIS MONTH", "forecast": "FORECAST", "total": "TOTAL"}
_MOST_NAMED = 5


class Period(Value, frozen=True, kw_only=True):
    """The times that a report is about, seconds since the epoch.

    Attributes:
        now: the present.
        month: its month.
        since: begin of the total.
        until: end of the total.
    """

    now: float
    month: Month
    since: float
    until: float


class Report(Value, frozen=True, kw_only=True):
    """What is shown.

    Attributes:
        by: how the rows are grouped.
        period: the times.
        rows: the rows, in order; of days `total` alone counts.
        sums: the sum of each currency.
        remarks: sentences about them.
    """

    by: Grouping
    period: Period
    rows: Sequence[Row]
    sums: Sequence[Row]
    remarks: Sequence[str]

    @property
    def figures(self) -> tuple[str, ...]:
        """Return the names of the costs that its rows have."""
        return FIGURES if self.by != "day" else ("total",)

    @property
    def currencies(self) -> list[str]:
        """Return the currencies, each once."""
        return [row.currency for row in self.sums]


def report_on(
    spans: Sequence[Span], *, by: Grouping, period: Period, orphans: Collection[str], remarks: Sequence[str]
) -> Report:
    """Return the report on merged spans."""
    rows = list(_days(spans, period)) if by == "day" else _groups(spans, by=by, period=period, orphans=orphans)
    return Report(
        by=by,
        period=period,
        rows=rows,
        sums=sums_of(rows, ("all", *[""] * (len(COLUMNS[by]) - 1))),
        remarks=[*remarks, *_unpriced(spans, period), *_assumed(rows, by)],
    )


def _groups(spans: Sequence[Span], *, by: Grouping, period: Period, orphans: Collection[str]) -> list[Row]:
    return sorted_rows(
        row_of(group, month=period.month, now=period.now, since=period.since, until=period.until)
        for group in groups_of(spans, by, orphans=orphans)
    )


def _days(spans: Sequence[Span], period: Period) -> Iterator[Row]:
    for currency, part in sorted(by_currency(spans).items()):
        days = costs_of_days(part, since=period.since, until=min(period.until, period.now))
        for number, cost in sorted(days.items()):
            yield Row(
                cells=(day_name(number),), currency=currency, hour=Cost(), month=Cost(), forecast=Cost(), total=cost
            )


def _unpriced(spans: Sequence[Span], period: Period) -> Iterator[str]:
    begin = min(period.month.begin, period.since)
    names = {
        (span.type_name or UNKNOWN) if span.kind == INSTANCE else span.kind
        for span in spans
        if span.amount is None and span.end > begin
    }
    if names:
        further = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        yield (
            "Where a ? stands, a part of the price is unknown, and the figure before it is the known part: a price in"
            f" [prices] of the configuration closes this gap from then on ({', '.join(sorted(names)[:_MOST_NAMED])}"
            f"{further})."
        )


def _assumed(rows: Sequence[Row], by: Grouping) -> Iterator[str]:
    for row in sums_of(rows, ()):
        assumed = row.total.assumed if by == "day" else max(row.month.assumed, row.total.assumed)
        if assumed:
            cost = Cost(known=assumed)
            yield (
                f"{cost.text()}{_of(row.currency)} of it is assumed: for some time the information driver saw nothing,"
                " and the state and price from before are taken to have lasted."
            )


# As tables


def show(report: Report) -> None:
    """Write the report to stdout as a table, and its remarks."""
    named = "" if len(report.currencies) != 1 else _in(report.currencies[0])
    click.echo(f"{_title(report)}{named}")
    if report.rows:
        click.echo()
        show_table(_head(report), _aligned([*report.rows, *(report.sums if len(report.rows) > 1 else ())], report))
    for remark in report.remarks:
        click.echo(f"\n{wrapped(remark, further=0)}")


def _title(report: Report) -> str:
    period = report.period
    total = f"total from {moment_name(period.since)}" if period.since else "total from the ledger's begin"
    if period.until < period.now:
        total += f" to {moment_name(period.until)}"
    if report.by == "day":
        return f"Costs by day of UTC, {total}"
    return f"Costs at {moment_name(period.now)}, month {period.month.text} of UTC, {total}"


def _of(currency: str) -> str:
    return f" {currency}" if currency else ""


def _in(currency: str) -> str:
    return f", in {currency}" if currency else ""


def _head(report: Report) -> list[str]:
    names = [name.upper() for name in COLUMNS[report.by]]
    currency = ["CURRENCY"] if len(report.currencies) > 1 else []
    return [*names, *currency, *(_HEADS[name] for name in report.figures)]


def _aligned(rows: Sequence[Row], report: Report) -> list[list[str]]:
    """Return the cells of rows, with each column of amounts flush at its decimal point."""
    columns = [_flush([_text(row, name) for row in rows], _HEADS[name]) for name in report.figures]
    currency = len(report.currencies) > 1
    return [
        [*row.cells, *([row.currency or "-"] if currency else []), *(column[place] for column in columns)]
        for place, row in enumerate(rows)
    ]


def _text(row: Row, name: str) -> str:
    cost: Cost = getattr(row, name)
    return cost.text(of_hour=name == "hour")


def _flush(texts: Sequence[str], head: str) -> list[str]:
    heads, tails = zip(*(_parted(text) for text in texts), strict=True)
    before, after = max(map(len, heads)), max(map(len, tails))
    return [f"{a.rjust(max(before, len(head) - after))}{b}" for a, b in zip(heads, tails, strict=True)]


def _parted(text: str) -> tuple[str, str]:
    whole, point, rest = text.partition(".")
    return whole, point + rest


# As CSV and JSON


def show_json(report: Report) -> None:
    """Write the report to stdout as one JSON object."""
    period = report.period
    found = {
        "now": period.now,
        "month": period.month.text,
        "since": period.since,
        "until": min(period.until, period.now),
        "by": report.by,
        "rows": [_entry(row, report) for row in report.rows],
        "sums": [_entry(row, report, cells=()) for row in report.sums],
        "remarks": list(report.remarks),
    }
    click.echo(json.dumps(found, indent=2))


def show_csv(report: Report) -> None:
    """Write the rows to stdout as CSV with a line of names; an unknown amount is empty."""
    text = io.StringIO()
    columns = [*COLUMNS[report.by], "currency", *(key for name in report.figures for key in _keys(name))]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_entry(row, report) for row in report.rows)
    click.echo(text.getvalue(), nl=False)


def _keys(name: str) -> tuple[str, ...]:
    return (name, f"{name}_known") if name in ("hour", "forecast") else (name, f"{name}_known", f"{name}_assumed")


def _entry(row: Row, report: Report, *, cells: Sequence[str] | None = None) -> Mapping[str, object]:
    names = COLUMNS[report.by] if cells is None else ()
    found: dict[str, object] = dict(zip(names, row.cells if names else (), strict=True))
    found["currency"] = row.currency
    for name in report.figures:
        cost: Cost = getattr(row, name)
        values = (_rounded(cost.amount), _rounded(cost.known), _rounded(cost.assumed))
        found |= dict(zip(_keys(name), values, strict=False))
    return found


def _rounded(amount: float | None) -> float | None:
    return None if amount is None else round(amount, 8)
