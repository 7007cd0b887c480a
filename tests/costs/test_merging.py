"""Merging ledgers: each second of each thing is counted once, and the best-known state of it wins."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from one_provider_mad.costs.merging import Ledger, continued, merged, thing_of
from one_provider_mad.ledger.records import Span

MOMENTS = 40


def span(begin: float, end: float, *, thing: str = "i-1", known: float | None = 1.0, **more: object) -> Span:
    span = Span(name="sky", thing=thing, vm_id=7, stime=5, begin=begin, end=end, amount=known, known=known or 0.0)
    return replace(span, **more)


def ledger(*spans: Span, as_of: float = 0.0) -> Ledger:
    return Ledger(label="sky", as_of=as_of or max((each.end for each in spans), default=0.0), spans=spans)


def outline(spans: Sequence[Span]) -> list[tuple[float, float, bool, bool]]:
    return [(each.begin, each.end, each.is_seen, each.is_open) for each in spans]


@pytest.mark.parametrize(
    ("ledgers", "expected"),
    [
        pytest.param([ledger(span(0, 10, is_open=True))], [(0, 10, True, True)], id="one-ledger"),
        pytest.param([ledger(), ledger(span(0, 10))], [(0, 10, True, False)], id="an-empty-one-beside-it"),
        pytest.param(
            [ledger(span(0, 10, is_seen=False)), ledger(span(4, 6))],
            [(0, 4, False, False), (4, 6, True, False), (6, 10, False, False)],
            id="seen-wins-over-unseen",
        ),
        pytest.param(
            [ledger(span(0, 10, is_open=True)), ledger(span(2, 30, is_open=True))],
            [(0, 2, True, False), (2, 30, True, True)],
            id="the-new-leader-goes-on",
        ),
        pytest.param(
            [ledger(span(0, 30, is_open=True)), ledger(span(0, 40), as_of=90)],
            [(0, 40, True, False)],
            id="what-has-ended-is-open-nowhere",
        ),
        pytest.param(
            [
                ledger(span(0, 30, is_open=True), span(0, 30, thing="i-2", is_open=True)),
                ledger(span(0, 90, thing="i-2", is_open=True)),
            ],
            [(0, 30, True, False), (0, 90, True, True)],
            id="what-ended-during-a-failover-is-not-open",
        ),
        pytest.param(
            [ledger(span(0, 30, is_open=True)), ledger(span(0, 90, vm_id=8, is_open=True))],
            [(0, 30, True, True), (0, 90, True, True)],
            id="one-id-in-two-clouds-is-two-instances",
        ),
        pytest.param(
            [ledger(span(0, 10, known=None)), ledger(span(0, 10, known=2.0))],
            [(0, 10, True, False)],
            id="the-same-time-twice",
        ),
    ],
)
def test_merged_counts_overlaps_once(ledgers: list[Ledger], expected: list[tuple[float, float, bool, bool]]) -> None:
    assert outline(merged(ledgers)) == expected


def test_a_known_price_wins_over_an_unknown_one() -> None:
    (found,) = merged([ledger(span(0, 10, known=None)), ledger(span(0, 10, known=2.0))])
    assert found.amount == 2.0


SPANS = st.builds(
    lambda begin, length, thing, is_seen, known, is_open: span(
        begin, begin + length, thing=thing, is_seen=is_seen, known=known, is_open=is_open
    ),
    st.integers(0, MOMENTS - 10),
    st.integers(1, 10),
    st.sampled_from(["i-1", "i-2"]),
    st.booleans(),
    st.sampled_from([None, 1.0, 2.0]),
    st.booleans(),
)
LEDGERS = st.lists(st.lists(SPANS, max_size=6).map(lambda spans: ledger(*spans)), min_size=1, max_size=3)


@given(LEDGERS)
def test_each_second_has_one_span_of_the_best_kind_that_any_ledger_has(ledgers: list[Ledger]) -> None:
    found = merged(ledgers)
    for thing in {thing_of(each) for one in ledgers for each in one.spans}:
        for second in range(MOMENTS):
            given = [each for one in ledgers for each in one.spans if is_in(each, thing, second)]
            left = [each for each in found if is_in(each, thing, second)]
            assert len(left) == bool(given)
            if given:
                best = min((not each.is_seen, each.amount is None) for each in given)
                assert (not left[0].is_seen, left[0].amount is None) == best


def is_in(each: Span, thing: object, second: int) -> bool:
    return thing_of(each) == thing and each.begin <= second < each.end


@given(LEDGERS)
def test_only_the_last_span_of_a_thing_is_open(ledgers: list[Ledger]) -> None:
    found = merged(ledgers)
    for each in found:
        assert not each.is_open or each.end == max(one.end for one in found if thing_of(one) == thing_of(each))


@given(LEDGERS)
def test_merging_what_is_merged_changes_nothing(ledgers: list[Ledger]) -> None:
    once = merged(ledgers)
    assert merged([ledger(*once)]) == once


def test_an_open_span_of_a_silent_ledger_is_assumed_to_last() -> None:
    silent, fresh, ended = span(0, 10, is_open=True), span(0, 95, thing="i-2", is_open=True), span(0, 10, thing="i-3")
    found = list(continued([silent, fresh, ended], until=100, patience=10))
    assert outline(found) == [
        (0, 10, True, False),
        (10, 100, False, True),
        (0, 95, True, True),
        (0, 10, True, False),
    ]
