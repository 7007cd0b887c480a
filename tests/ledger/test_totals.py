"""What spans cost together within some time."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.ledger.records import Span, Total
from one_provider_mad.ledger.totals import total, totals_by_currency


def span(begin: float, end: float, amount: float | None = 1.0, **more: object) -> Span:
    known = 0.0 if amount is None else amount
    values = {"name": "sky", "thing": "i-1", "known": known, "currency": "USD", **more}
    return Span(begin=begin, end=end, amount=amount, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spans", "since", "until", "expected"),
    [
        pytest.param((), 0, inf, Total(), id="nothing"),
        pytest.param((span(0, 7200, 0.5),), 0, inf, Total(booked=1.0, seconds=7200, currency="USD"), id="two-hours"),
        pytest.param(
            (span(0, 7200, 0.5),), 3600, 5400, Total(booked=0.25, seconds=1800, currency="USD"), id="a-part-of-it"
        ),
        pytest.param((span(0, 7200),), 7200, inf, Total(), id="before"),
        pytest.param(
            (span(0, 3600), span(3600, 7200, is_seen=False)),
            0,
            inf,
            Total(booked=1.0, assumed=1.0, seconds=7200, unseen_seconds=3600, currency="USD"),
            id="unseen",
        ),
        pytest.param(
            (span(0, 3600, None, known=0.25),),
            0,
            inf,
            Total(booked=0.25, unpriced_seconds=3600, seconds=3600, currency="USD"),
            id="a-part-unknown",
        ),
        pytest.param(
            (span(0, 3600, None, currency=""), span(0, 7200)),
            0,
            inf,
            Total(booked=2.0, unpriced_seconds=3600, seconds=10800, currency="USD"),
            id="unknown",
        ),
        pytest.param(
            (span(0, 3600, currency="EUR"), span(0, 7200)),
            0,
            inf,
            Total(booked=2.0, unpriced_seconds=3600, seconds=10800, currency="USD"),
            id="another-currency-is-never-added",
        ),
    ],
)
def test_total(spans: tuple[Span, ...], since: float, until: float, expected: Total) -> None:
    assert total(spans, since=since, until=until) == expected


def test_totals_by_currency() -> None:
    spans = (span(0, 3600, currency="EUR"), span(0, 7200), span(0, 60, None, currency=""))
    found = totals_by_currency(spans)
    assert {currency: each.booked for currency, each in found.items()} == {"EUR": 1.0, "USD": 2.0}
    assert sum(each.unpriced_seconds for each in found.values()) == 60


@st.composite
def spans_of_some_time(draw: st.DrawFn) -> list[Span]:
    times = st.floats(0, 1e9)
    bounds = st.tuples(times, times).map(sorted)
    amounts = st.none() | st.floats(0, 100)
    return [
        span(begin, end, amount, is_seen=is_seen)
        for (begin, end), amount, is_seen in draw(st.lists(st.tuples(bounds, amounts, st.booleans()), max_size=8))
    ]


@given(spans_of_some_time(), st.lists(st.floats(0, 1e9), max_size=5).map(sorted))
def test_the_parts_of_a_time_add_up_to_the_whole(spans: list[Span], cuts: list[float]) -> None:
    def parts() -> Iterator[Total]:
        for since, until in zip([0.0, *cuts], [*cuts, inf], strict=True):
            yield total(spans, since=since, until=until)

    whole, added = total(spans), list(parts())
    for name in ("booked", "assumed", "seconds", "unseen_seconds", "unpriced_seconds"):
        assert isclose(sum(getattr(each, name) for each in added), getattr(whole, name), rel_tol=1e-6, abs_tol=1e-3)
