"""Which spans follow from listings: changes, gaps, ends that nobody saw, and clocks that are set."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import InstanceState, VmOwner
from one_provider_mad.ledger.booking import UNSEEN_AFTER, Book
from one_provider_mad.ledger.records import INSTANCE, Span
from one_provider_mad.ledger.schema import Row
from one_provider_mad.ledger.sighting import Sighting, Thing
from one_provider_mad.pricing.values import UNKNOWN, Item, Kind, Part, Price

T = 1_800_000_000.0
"""Time of a test's beginning; the times below count from it."""

KEY = (INSTANCE, "i-1")
ADA, EVE = VmOwner(user_id=1, user="ada"), VmOwner(user_id=2, user="eve")


def price(amount: float, *, unknown: bool = False) -> Price:
    item = Item(kind=Kind.COMPUTE, name="large")
    parts = [Part(item=item, amount=amount)]
    if unknown:
        parts.append(Part(item=Item(kind=Kind.DISK, name="disk"), amount=None))
    return Price(parts=tuple(parts), currency="USD")


PRICES = {"pending": price(0.5), "running": price(1.0), "stopping": price(1.0), "stopped": price(0.25)}


def seen(state: str = "running", *, since: float = -T, made: float = 0.0, **more: Any) -> Sighting:
    """An instance, created at T unless said otherwise; `since` is what the cloud tells, unset for nothing."""
    more.setdefault("price", PRICES.get(state, price(0)))
    values = {"thing": "i-1", "vm_id": 7, "stime": 50, "type_name": "large", "market": "on-demand", **more}
    return Sighting(state=state, state_since=T + since, created_at=T + made, has_ended=state == "terminated", **values)


class Told:
    """A book, and the rows that a file would have."""

    def __init__(self) -> None:
        self.book = Book("sky")
        self.file: dict[int, Row] = {}

    def at(self, after: float, *listed: Sighting, ended: Mapping[Thing, float] | None = None) -> Told:
        unknown = [each.key for each in self.book.unknown(listed)]
        ends = {key: max((row.span.end for row in self.file.values()), default=0.0) for key in unknown}
        self.book.learn_ends(unknown, ends if self.file else {})
        self.book.observe(
            listed,
            now=T + after,
            price_as=lambda _seen, state: PRICES[state.value],
            ended_at=lambda _: {key: T + at for key, at in (ended or {}).items()},
        )
        self._write()
        return self

    def _write(self) -> None:
        book = self.book
        for number in book.removed:
            self.file.pop(number, None)
        if (at := book.cut_at) is not None:
            opened = {row.span.thing for row in self.file.values() if row.span.is_open}
            for number, row in list(self.file.items()):
                if not row.span.is_open and row.span.thing in opened and row.span.end > at:
                    del self.file[number]
                    if row.span.begin < at:
                        self.file[number] = Row(id=number, span=_ending(row.span, at))
        for (_, thing), end in book.cuts.items():
            late = {number: row for number, row in self.file.items() if row.span.thing == thing and row.span.end > end}
            self.file = {number: row for number, row in self.file.items() if number not in late}
            self.file |= {n: Row(id=n, span=_ending(row.span, end)) for n, row in late.items() if row.span.begin < end}
        self.file.update(book.rows)
        book.written()

    def restart(self) -> Told:
        rows = [row for row in self.spans_by_id() if row.span.is_open]
        self.book = Book("sky", as_of=self.book.as_of, next_id=max(self.file, default=0) + 1, rows=rows)
        return self

    def spans_by_id(self) -> list[Row]:
        found = [self.file[number] for number in sorted(self.file)]
        return [
            Row(id=row.id, span=_ending(row.span, self.book.as_of)) if self._is_current(row) else row for row in found
        ]

    def _is_current(self, row: Row) -> bool:
        entry = self.book.open.get((row.span.kind, row.span.thing))
        return row.span.is_open and (entry is None or not entry.absent_since)

    @property
    def spans(self) -> list[Span]:
        return sorted((row.span for row in self.spans_by_id()), key=lambda span: span.begin)

    @property
    def told(self) -> list[str]:
        """Each span as state, begin, end and price; `?` after the state of one that nobody saw, `+` for an open one."""
        return [_shown(span) for span in self.spans]


def _shown(span: Span) -> str:
    state, end = f"{span.state}{'' if span.is_seen else '?'}", f"{span.end - T:g}{'+' if span.is_open else ''}"
    return f"{state} {span.begin - T:g}-{end} {'?' if span.amount is None else f'{span.amount:g}'}"


def _ending(span: Span, end: float) -> Span:
    return msgspec.structs.replace(span, end=end)


# What is listed


def test_an_instance_costs_from_its_creation() -> None:
    assert Told().at(30, seen()).at(60, seen()).told == ["running 0-60+ 1"]


def test_the_time_until_it_ran_has_the_price_of_a_pending_instance() -> None:
    assert Told().at(60, seen(since=40)).told == ["pending 0-40 0.5", "running 40-60+ 1"]


def test_without_creation_time_it_costs_from_the_first_listing() -> None:
    assert Told().at(30, seen(made=-T)).at(60, seen(made=-T)).told == ["running 30-60+ 1"]


def test_a_change_of_state_is_booked_when_the_cloud_says_it_happened() -> None:
    told = Told().at(30, seen()).at(60, seen("stopped", since=45))
    assert told.told == ["running 0-45 1", "stopped 45-60+ 0.25"]


def test_without_its_word_a_change_of_state_is_booked_when_it_is_seen() -> None:
    assert Told().at(30, seen()).at(60, seen("stopped")).told == ["running 0-60 1", "stopped 60-60+ 0.25"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"price": price(2.0)}, id="price-list"),
        pytest.param({"type_name": "xlarge", "price": price(2.0)}, id="resize"),
        pytest.param({"market": "spot", "price": price(2.0)}, id="market"),
    ],
)
def test_a_change_of_price_while_it_runs_begins_a_span(change: dict[str, Any]) -> None:
    told = Told().at(30, seen()).at(60, seen(**change)).at(90, seen(**change))
    assert told.told == ["running 0-60 1", "running 60-90+ 2"]


def test_a_resize_with_a_restart_counts_from_the_restart() -> None:
    told = Told().at(30, seen(since=5)).at(90, seen(since=70, type_name="xlarge", price=price(2.0)))
    assert told.told[-2:] == ["running 5-70 1", "running 70-90+ 2"]


def test_a_first_price_counts_from_the_beginning() -> None:
    told = Told().at(30, seen(price=UNKNOWN)).at(60, seen(price=price(1.0, unknown=True)))
    assert told.told == ["running 0-60+ ?"]
    assert told.at(90, seen()).told == ["running 0-90+ 1"]


def test_a_price_that_is_unknown_after_a_start_stays_what_it_was() -> None:
    told = Told().at(30, seen()).restart().at(60, seen(price=UNKNOWN)).at(90, seen(price=UNKNOWN)).at(120, seen())
    assert told.told == ["running 0-120+ 1"]


def test_an_unknown_price_of_another_state_is_unknown() -> None:
    told = Told().at(30, seen()).at(60, seen("stopped", price=UNKNOWN)).at(90, seen("stopped", price=UNKNOWN))
    assert told.told == ["running 0-60 1", "stopped 60-90+ ?"]


def test_a_first_owner_is_written_into_the_span_and_a_new_one_begins_another() -> None:
    told = Told().at(30, seen()).at(60, seen(owner=ADA)).at(90, seen()).at(120, seen(owner=EVE))
    assert [(span.owner, span.begin - T, span.end - T) for span in told.spans] == [(ADA, 0, 120), (EVE, 120, 120)]


def test_a_sweep_without_changes_writes_nothing() -> None:
    told = Told().at(30, seen())
    told.book.observe([seen()], now=T + 60, price_as=lambda *_: UNKNOWN)
    assert (told.book.rows, told.book.removed, told.book.cut_at) == ({}, set(), None)


# What nobody saw


DAY = 86400


def test_a_gap_is_booked_as_unseen_at_the_price_from_before() -> None:
    told = Told().at(30, seen()).restart().at(DAY, seen()).at(DAY + 30, seen())
    assert told.told == ["running 0-30 1", "running? 30-86400 1", "running 86400-86430+ 1"]


def test_no_gap_where_the_cloud_says_that_nothing_has_changed() -> None:
    told = Told().at(30, seen(since=0)).restart().at(DAY, seen(since=0))
    assert told.told == ["running 0-86400+ 1"]


def test_what_the_cloud_says_narrows_a_gap() -> None:
    told = Told().at(30, seen()).at(DAY, seen("stopped", since=5000))
    assert told.told == ["running 0-30 1", "running? 30-5000 1", "stopped 5000-86400+ 0.25"]


def test_a_restart_within_a_gap_narrows_it() -> None:
    told = Told().at(30, seen(since=0)).at(DAY, seen(since=5000))
    assert told.told == ["running 0-30 1", "running? 30-5000 1", "running 5000-86400+ 1"]


def test_a_new_ledger_assumes_that_an_old_instance_ran() -> None:
    assert Told().at(DAY, seen()).told == ["running? 0-86400 1", "running 86400-86400+ 1"]
    assert Told().at(DAY, seen(since=0)).told == ["running? 0-86400 1", "running 86400-86400+ 1"]
    assert Told().at(DAY, seen("stopped", since=5000)).told == [
        "running? 0-5000 1",
        "stopped? 5000-86400 0.25",
        "stopped 86400-86400+ 0.25",
    ]


# Ends


@pytest.mark.parametrize(
    ("at", "since", "ended", "expected"),
    [
        pytest.param(60, 45, {}, ["running 0-45 1"], id="the-cloud-says"),
        pytest.param(60, -T, {}, ["running 0-60 1"], id="nobody-says"),
        pytest.param(60, -T, {KEY: 40}, ["running 0-40 1"], id="the-action-driver-knows"),
        pytest.param(DAY, 5000, {}, ["running 0-30 1", "running? 30-5000 1"], id="in-a-gap"),
    ],
)
def test_a_terminated_instance_costs_until_its_end(
    at: float, since: float, ended: Mapping[Thing, float], expected: list[str]
) -> None:
    told = Told().at(30, seen()).at(at, seen("terminated", since=since), ended=ended)
    assert told.told == expected
    assert told.restart().at(at + 30, seen("terminated", since=since)).at(at + 60).told == expected


def test_a_vanished_instance_has_ended_when_the_action_driver_ended_it() -> None:
    assert Told().at(30, seen()).at(60, ended={KEY: 40}).told == ["running 0-40 1"]
    assert Told().at(30, seen()).at(DAY, ended={KEY: 5000}).told == ["running 0-30 1", "running? 30-5000 1"]


def test_an_earlier_end_of_the_vm_is_not_this_instances() -> None:
    told = Told().at(DAY, seen(made=DAY - 10)).at(DAY + 30, ended={KEY: DAY - 20})
    assert told.told == ["running 86390-86400+ 1"]


def test_an_instance_has_ended_after_three_listings_without_it() -> None:
    told = Told().at(30, seen()).at(60).at(90)
    assert told.told == ["running 0-30+ 1"]
    assert told.at(120).told == ["running 0-60 1"]


def test_an_instance_that_listings_lacked_for_a_while_goes_on() -> None:
    assert Told().at(30, seen()).at(60).at(90).at(120, seen()).told == ["running 0-120+ 1"]
    came_back = Told().at(30, seen()).at(60).at(90).at(120).at(150, seen())
    assert came_back.told == ["running 0-60 1", "running 60-150+ 1"]


def test_an_instance_that_vanished_in_a_gap_is_assumed_until_the_first_listing_without_it() -> None:
    told = Told().at(30, seen()).restart().at(DAY).at(DAY + 30).at(DAY + 60)
    assert told.told == ["running 0-30 1", "running? 30-86400 1"]


def test_a_life_between_two_listings_is_booked_if_the_cloud_tells_of_it() -> None:
    told = Told().at(0).at(DAY, seen("terminated", made=100, since=5000))
    assert told.told == ["running? 100-5000 1"]
    assert told.at(DAY + 30, seen("terminated", made=100, since=5000)).told == ["running? 100-5000 1"]
    assert Told().at(DAY, seen("terminated")).told == []


# Loose resources

VOLUME = Sighting(thing="vol-1", kind="volume", price=price(0.1), vm_id=7, stime=50)
LOOSE = frozenset({"volume"})


def test_loose_resources_are_booked_apart_from_instances() -> None:
    book = Book("sky")
    for now, volumes in ((T, [VOLUME]), (T + 900, [VOLUME]), (T + 1800, [])):
        book.observe(volumes, now=now, price_as=lambda *_: UNKNOWN, kinds=LOOSE)
        book.observe([seen()], now=now + 5, price_as=lambda *_: UNKNOWN)
    (span,) = [row.span for row in book.rows.values() if row.span.kind == "volume"]
    assert (span.begin - T, span.end - T, span.is_open, span.amount) == (0, 1800, False, 0.1)
    assert list(book.open) == [KEY]


# The clock


def test_a_clock_that_is_set_back_cuts_what_lies_beyond() -> None:
    told = Told().at(0, seen()).at(30, seen("stopped")).at(5000, seen("stopped")).at(1000, seen("stopped"))
    assert told.spans[-1].end == T + 1000
    assert sum(span.end - span.begin for span in told.spans) == 1000


def test_a_clock_that_jumps_ahead_and_back_leaves_no_trace_in_the_total() -> None:
    told = Told().at(0, seen()).at(60, seen()).at(3660, seen()).at(3690, seen()).restart().at(150, seen())
    assert [span.is_seen for span in told.spans] == [True, False, True]
    assert sum(span.end - span.begin for span in told.spans) == pytest.approx(150 - 0, abs=1)


def test_an_ended_instance_keeps_its_cost_when_the_clock_is_set_back() -> None:
    other = seen(thing="i-2", made=500)
    told = Told().at(30, seen()).at(600, seen("terminated", since=590), other).at(100, other)
    assert "running 0-590 1" in told.told
    assert sum(span.end - span.begin for span in told.spans if span.thing == "i-2") == 0


def test_an_end_before_a_clock_that_was_ahead_leaves_no_trace_of_it() -> None:
    told = Told().at(0, seen()).at(30, seen()).at(10_800, seen()).at(10_830, seen("terminated", since=60))
    assert told.told == ["running 0-30 1", "running? 30-60 1"]


def test_a_price_whose_begin_the_clock_moved_has_not_held() -> None:
    told = Told().at(30, seen(since=0)).at(DAY, seen(since=0)).at(DAY + 30, seen(since=0, price=price(2.0)))
    told.at(DAY - 10_000, seen(since=0, price=price(2.0))).at(DAY + 60, seen(since=0, price=price(2.0)))
    assert [(span.amount, span.is_seen) for span in told.spans] == [(1.0, True), (2.0, False), (2.0, True)]


@pytest.mark.parametrize("since", [100, 170])
def test_a_new_ledger_has_not_seen_a_young_instance(since: float) -> None:
    """It may have been stopped and started, or resized, before the former ledger was lost."""
    told = Told().at(200, seen(since=since))
    assert next((span.end - span.begin, span.is_seen) for span in told.spans if span.end > span.begin) == (since, False)
    assert sum(span.end - span.begin for span in told.spans if span.is_seen) <= 60


def test_a_ledger_that_lacked_an_instance_before_has_seen_it_from_its_creation() -> None:
    told = Told().at(0).at(300, seen(made=10, since=20))
    assert told.told == ["pending 10-20 0.5", "running 20-300+ 1"]


# Any history

STATES = ("running", "stopped")


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[float, str]], float | None, list[float]]:
    """Times of changes of state, the end, and the times of listings, seconds after the creation."""
    moments = sorted(draw(st.lists(st.integers(1, 20 * 3600), max_size=6, unique=True)))
    changes = [(float(at), STATES[number % 2]) for number, at in enumerate([0, *moments])]
    last = changes[-1][0]
    end = draw(st.none() | st.integers(1, 10_000).map(lambda more: last + more))
    gaps = draw(st.lists(st.integers(5, 30) | st.integers(600, 4 * 3600), min_size=1, max_size=300))
    listings = [float(sum(gaps[:number])) for number in range(1, len(gaps) + 1)]
    after = max(listings[-1], end or 0, last) + 1
    return changes, end, [*listings, after, after + 30, after + 60]


@given(histories(), st.randoms(use_true_random=False))
def test_a_things_total_is_right_whatever_was_not_seen(
    history: tuple[list[tuple[float, str]], float | None, list[float]], chance: random.Random
) -> None:
    """Where the cloud tells since when an instance is in its state, only states between two listings are lost."""
    changes, end, listings = history
    told = Told()
    for at in listings:
        if chance.random() < 0.1:
            told.restart()
        since, state = max(change for change in changes if change[0] <= at)
        listed = seen("terminated", since=end) if end is not None and end <= at else seen(state, since=since)
        told.at(at, listed)
    spans = told.spans
    assert spans[0].begin == T
    assert spans[-1].end == T + (listings[-1] if end is None else end)
    assert all(before.end == after.begin for before, after in pairwise(spans))
    assert all(span.begin < span.end or span.is_open for span in spans)
    for span in spans:
        if span.is_seen and span.end - span.begin > UNSEEN_AFTER + 30:
            middle = (span.begin + span.end) / 2 - T
            truth = max(change for change in changes if change[0] <= middle)[1]
            assert span.state in (truth, InstanceState.PENDING.value) or _is_short(changes, span)


def _is_short(changes: list[tuple[float, str]], span: Span) -> bool:
    """True when the state changed twice within the span: nobody can have seen both."""
    return sum(span.begin < T + at < span.end for at, _ in changes) > 1
