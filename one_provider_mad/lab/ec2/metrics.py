"""CloudWatch's GetMetricData for instances: figures that follow from an instance's id and the clock.

From docs.aws.amazon.com, "API_GetMetricData" and "CloudWatch metrics for your instances".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from one_provider_mad.domain import Usage
from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2.answers import Answer, Members, Moment
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal, invalid
from one_provider_mad.lab.ec2.resources import Resources
from one_provider_mad.providers.simulated import table

MOST_QUERIES = 500
MOST_DATAPOINTS = 1440
"""Limit of points in one query: CloudWatch gives up to 100,800 in an answer."""

FIGURES: dict[str, Callable[[Usage, Usage, table.Row], float]] = {
    "CPUUtilization": lambda _, after, row: (after.cpu or 0) / max(1.0, _cores(row)),
    "NetworkIn": lambda before, after, _: float((after.net_rx or 0) - (before.net_rx or 0)),
    "NetworkOut": lambda before, after, _: float((after.net_tx or 0) - (before.net_tx or 0)),
    "StatusCheckFailed": lambda *_: 0.0,
}
"""Metric to the function for its value in a period, from the usage at the period's beginning and end."""


class Query(NamedTuple):
    """One of the queries of a call."""

    id: str
    name: str
    instance_id: str
    period: int


class Metrics:
    """Figures of one account's instances.

    Args:
        resources: the account.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def data(self, form: Form) -> Answer:
        """Carry out GetMetricData: one value a period, the latest first unless ScanBy differs."""
        queries = list(_queries(form))
        if len(queries) > MOST_QUERIES:
            raise Refusal(
                "ValidationError", f"The collection MetricDataQueries must not have over {MOST_QUERIES} items"
            )
        begin, end = (_seconds(forms.value(form, name)) for name in ("StartTime", "EndTime"))
        if begin >= end:
            raise Refusal("ValidationError", "The parameter StartTime must be less than the parameter EndTime.")
        ids = table.encode(list({query.instance_id for query in queries}))
        view = await self._resources.view(table.LIST_THESE, ids=ids)
        rows = {row.id: row for row in view.rows}
        is_ascending = form.get("ScanBy") == "TimestampAscending"
        results = Members()
        for query in queries:
            row = rows.get(query.instance_id)
            points = _points(query, row, begin, min(end, view.now)) if row is not None else []
            points = points if is_ascending else points[::-1]
            results.append(
                {
                    "Id": query.id,
                    "Label": query.name,
                    "Timestamps": Members(Moment(at) for at, _ in points),
                    "Values": Members(value for _, value in points),
                    "StatusCode": "Complete",
                }
            )
        return {"MetricDataResults": results, "Messages": Members()}


def _queries(form: Form) -> list[Query]:
    found: list[Query] = []
    while f"MetricDataQueries.member.{len(found) + 1}.Id" in form:
        prefix = f"MetricDataQueries.member.{len(found) + 1}."
        stat = f"{prefix}MetricStat."
        dimensions, at = {}, 1
        while (name := form.get(f"{stat}Metric.Dimensions.member.{at}.Name")) is not None:
            dimensions[name] = form.get(f"{stat}Metric.Dimensions.member.{at}.Value", "")
            at += 1
        period = forms.number(form, f"{stat}Period", 300)
        if period < 1:
            raise invalid(f"{stat}Period", str(period))
        found.append(
            Query(
                id=form[f"{prefix}Id"],
                name=form.get(f"{stat}Metric.MetricName", ""),
                instance_id=dimensions.get("InstanceId", ""),
                period=period,
            )
        )
    return found


def _points(query: Query, row: table.Row, begin: float, end: float) -> list[tuple[float, float]]:
    """Return beginning and value of every period that is over and in which the instance ran, as far as known."""
    figure = FIGURES.get(query.name)
    if figure is None or row.transition != "pending":
        return []
    since = max(begin, row.ends_at, end - MOST_DATAPOINTS * query.period)
    first, last = math.ceil(since / query.period), math.floor(end / query.period)
    return [
        (at * query.period, figure(table.usage(row, at * query.period), table.usage(row, (at + 1) * query.period), row))
        for at in range(first, last)
    ]


def _cores(row: table.Row) -> float:
    return table.decode_hardware(row.hardware).cpu


def _seconds(text: str) -> float:
    """Convert a timestamp of the services' protocols: ISO 8601, or seconds."""
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text):
        return float(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise invalid("StartTime", text) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
