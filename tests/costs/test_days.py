"""Costs of days, compared with the totals of the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.budget.months import month_of
from one_provider_mad.costs.days import costs_of_days
from one_provider_mad.costs.periods import DAY, day_name, read_moment
from one_provider_mad.costs.rows import cost_of
from one_provider_mad.ledger.records import Span

MOMENTS = st.one_of(st.integers(0, 8).map(lambda day: day * DAY), st.floats(0, 8 * DAY))


def span_of(begin: float, end: float, *, known: float, is_seen: bool, is_priced: bool) -> Span:
    amount = known if is_priced else None
    return Span(name="sky", thing="i", begin=begin, end=max(begin, end), is_seen=is_seen, amount=amount, known=known)


SPANS = st.lists(
    st.builds(span_of, MOMENTS, MOMENTS, known=st.floats(0, 9), is_seen=st.booleans(), is_priced=st.booleans()),
    max_size=8,
)


@given(SPANS, MOMENTS, MOMENTS)
def test_a_days_cost_is_the_total_of_that_day(spans: list[Span], since: float, until: float) -> None:
    found = costs_of_days(spans, since=since, until=until)
    for day in range(9):
        begin, end = max(since, day * DAY), min(until, (day + 1) * DAY)
        expected = cost_of(spans, since=begin, until=end)
        cost = found.get(day, cost_of((), since=0, until=1))
        assert cost.known == pytest.approx(expected.known, abs=1e-6)
        assert cost.assumed == pytest.approx(expected.assumed, abs=1e-6)
        assert cost.is_whole == expected.is_whole or expected.known < 1e-6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("2026-12", 1796083200.0, id="month"),
        pytest.param("2026-12-01", 1796083200.0, id="day"),
        pytest.param("2026-12-01T06:00", 1796104800.0, id="time"),
        pytest.param("2026-12-01T06:00+01:00", 1796101200.0, id="time-with-offset"),
        pytest.param("12h", 1796083200.0 - 43200, id="hours-ago"),
        pytest.param("2w", 1796083200.0 - 14 * DAY, id="weeks-ago"),
    ],
)
def test_moments_are_of_utc(text: str, expected: float) -> None:
    assert read_moment(text, now=1796083200.0) == expected


@pytest.mark.parametrize("text", ["yesterday", "2026-13", "12", "12h30", "", "٣d", "0001-01-01T00:00+14:00"])
def test_other_texts_are_no_moment(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - datetime's own sentences are not shown
        read_moment(text, now=0.0)


@pytest.mark.parametrize(
    ("moment", "name", "days"),
    [
        pytest.param("2024-02-29T23:59:59", "2024-02", 29, id="leap-year"),
        pytest.param("2026-12-31T23:59:59", "2026-12", 31, id="december"),
        pytest.param("2026-11-01", "2026-11", 30, id="first-second"),
    ],
)
def test_months_are_of_utc(moment: str, name: str, days: int) -> None:
    month = month_of(read_moment(moment, now=0.0))
    assert (month.text, (month.end - month.begin) / DAY) == (name, days)


def test_a_day_has_its_date_as_name() -> None:
    assert day_name(int(1796083200 // DAY)) == "2026-12-01"
