"""max_per_month: what the ledger has booked, what was spent since, and what runs until the month's end in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.domain import InstanceState
from one_provider_mad.errors import BudgetError, BudgetExceeded
from one_provider_mad.ledger.records import Span
from one_provider_mad.ledger.writer import write_spans
from tests.budget.small_cloud import ADA, Front, SmallCloud

HOUR = 3600.0
BEGIN = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
END = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
NOW = END - 100 * HOUR


def span(begin: float, end: float, amount: float | None = 1.0, **more: Any) -> Span:
    """Hours of one instance that was stopped or terminated since, unless `thing` says otherwise."""
    values: dict[str, Any] = {"thing": "i-0", "type_name": "small", "market": "on-demand", "state": "running"}
    values |= {"owner": ADA, "currency": "USD", "known": amount or 0.0} | more
    return Span(name="one", begin=begin, end=end, amount=amount, **values)


def refusal(used: float, *, limit: float = 250, asked: float = 100, day: str = "2026-12-31") -> str:
    sentence = (
        f"max_per_month of one is {limit:.4f} USD, {used:.4f} USD is booked or will be by {day}, and an instance small"
        f" would add {asked:.4f} USD; an administrator may change budget.max_per_month in one.toml"
    )
    return f"^{re.escape(sentence)}$"


async def test_a_create_is_admitted_by_what_is_booked_and_what_runs_until_the_months_end(tmp_path: Path) -> None:
    front = Front(tmp_path, SmallCloud(), now=NOW, max_per_month=250)
    write_spans(front.ledger, "one", [span(BEGIN - 10 * HOUR, BEGIN + 40 * HOUR)], as_of=NOW)
    await front.create(1)
    await front.create(2)  # 40 booked, 100 and 100 to come
    with pytest.raises(BudgetExceeded, match=refusal(240)):
        await front.admit(3)
    front.cloud.make(2, state=InstanceState.STOPPED)
    await front.create(3)


async def test_the_limit_begins_anew_with_the_utc_month(tmp_path: Path) -> None:
    front = Front(tmp_path, SmallCloud(), now=END - HOUR, max_per_month=744)
    write_spans(front.ledger, "one", [span(BEGIN, BEGIN + 744 * HOUR)], as_of=END - HOUR)
    await front.create(1)
    with pytest.raises(BudgetExceeded, match=refusal(744, limit=744, asked=1)):
        await front.admit(2)
    front.now = END
    with pytest.raises(BudgetExceeded, match=refusal(744, limit=744, asked=744, day="2027-01-31")):
        await front.admit(2)
    front.cloud.make(1, state=InstanceState.TERMINATED)
    await front.admit(2)


async def test_instances_count_as_running_while_the_ledger_is_silent(tmp_path: Path) -> None:
    front = Front(tmp_path, SmallCloud(), now=NOW, max_per_month=250)
    front.cloud.make(1, created_at=NOW - 60 * HOUR)
    write_spans(front.ledger, "one", [span(NOW - 60 * HOUR, NOW - 50 * HOUR, thing="i-1")], as_of=NOW - 50 * HOUR)
    with pytest.raises(BudgetExceeded, match=refusal(160)):  # 10 booked, 50 since, and 100 to come
        await front.admit(2)
    front.cloud.make(1, state=InstanceState.TERMINATED)
    await front.create(2)  # what it has cost until now counts all the same
    with pytest.raises(BudgetExceeded, match=refusal(160)):
        await front.admit(3)


async def test_without_a_ledger_instances_count_from_their_creation(tmp_path: Path) -> None:
    front = Front(tmp_path, SmallCloud(), now=NOW, max_per_month=250)
    front.cloud.make(1, created_at=NOW - 60 * HOUR)
    with pytest.raises(BudgetExceeded, match=refusal(160)):
        await front.admit(2)


async def test_hours_without_a_price_count_as_the_same_instance_at_another_time(tmp_path: Path) -> None:
    front = Front(tmp_path, SmallCloud(), now=NOW, max_per_month=100)
    spans = [span(BEGIN, BEGIN + HOUR, None), span(BEGIN + HOUR, BEGIN + 3 * HOUR)]
    write_spans(front.ledger, "one", spans, as_of=NOW)
    with pytest.raises(BudgetExceeded, match=refusal(3, limit=100)):
        await front.admit(1)


UNKNOWN = (
    "the price of 1.5 hours booked in 2026-12 is unknown, and budget.max_per_month counts it; an administrator may set"
    ' unknown_price = "allow" in [budget] in one.toml'
)


async def test_hours_whose_price_nobody_knows_refuse_creates_unless_they_are_allowed(tmp_path: Path) -> None:
    front = Front(tmp_path, SmallCloud(), now=NOW, max_per_month=1000)
    write_spans(front.ledger, "one", [span(BEGIN, BEGIN + 1.5 * HOUR, None)], as_of=NOW)
    with pytest.raises(BudgetExceeded, match=f"^{re.escape(UNKNOWN)}$"):
        await front.admit(1)
    await Front(tmp_path, SmallCloud(), now=NOW, max_per_month=1000, unknown_price="allow").admit(1)
    await Front(tmp_path, SmallCloud(), now=END, max_per_month=2000).admit(2)


async def test_a_ledger_that_cannot_be_read_refuses_creates_until_its_costs_were_taken_over_once(
    tmp_path: Path,
) -> None:
    front = Front(tmp_path, SmallCloud(), now=NOW, max_per_month=1000)
    front.ledger.write_bytes(b"no ledger" * 100)
    with pytest.raises(BudgetError, match=r"and max_per_month in \[budget\] counts what it has booked$"):
        await front.admit(1)
    front.ledger.unlink()
    await front.admit(1)
    front.ledger.write_bytes(b"no ledger" * 100)
    await front.admit(2)
