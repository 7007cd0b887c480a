"""The keeper of a ledger: sums for reports, a disk that is full for a while, a file that breaks while it is in use."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.errors import LedgerError
from one_provider_mad.ledger import writer
from one_provider_mad.ledger.keeper import Costs, LedgerKeeper
from one_provider_mad.ledger.reader import open_spans, read_spans
from one_provider_mad.ledger.sighting import Sighting
from one_provider_mad.ledger.totals import month_begin
from one_provider_mad.pricing.values import UNKNOWN, Item, Kind, Part, Price

HOUR = 3600.0
MAY = 1_777_593_600.0
"""1 May 2026, 0:00 UTC."""

DEAR = Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name="large"), amount=2.0),), currency="USD")
FREE = Price(currency="USD")


def seen(thing: str = "i-1", price: Price = DEAR, *, vm_id: int = 7, **more: object) -> Sighting:
    return Sighting(thing=thing, price=price, vm_id=vm_id, stime=5, host_id=3, **more)  # type: ignore[arg-type]


def book(keeper: LedgerKeeper, now: float, *sightings: Sighting) -> Costs:
    costs = keeper.book(sightings, now=now, price_as=lambda *_: DEAR)
    keeper.write()
    return costs


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def keeper(tmp_path: Path, said: list[str]) -> Iterator[LedgerKeeper]:
    keeper = LedgerKeeper(tmp_path / "sky.ledger", "sky", warn=said.append)
    yield keeper
    keeper.close()


def test_months_begin_in_utc() -> None:
    assert [month_begin(MAY + seconds) for seconds in (-1, 0, 31 * 86400 - 1)] == [MAY - 30 * 86400, MAY, MAY]


def test_a_vms_cost_has_all_its_instances_and_a_hosts_the_month(keeper: LedgerKeeper) -> None:
    """From 23:00 in April; another instance of the VM from 1:00 in May."""
    for minute in range(-60, 60, 5):
        book(keeper, MAY + 60 * minute, seen())
    second = seen("i-2", created_at=MAY + HOUR)
    book(keeper, MAY + HOUR, seen(state="stopped", price=FREE), second)
    costs = book(keeper, MAY + HOUR + 300, seen(state="stopped", price=FREE), second)
    assert costs.vms["i-2"].cost_text(MAY + 2 * HOUR) == "6.0000"
    assert costs.hosts[3].month.cost == pytest.approx(2 + 2 * 300 / HOUR)
    assert costs.hosts[3].hour_text == "2.0000"
    june = book(keeper, MAY + 31 * 86400 + HOUR, second)
    assert june.hosts[3].month.cost == pytest.approx(2 + 0)


def test_a_new_process_has_the_same_sums(keeper: LedgerKeeper) -> None:
    for minute in range(0, 120, 5):
        book(keeper, MAY + 60 * minute, seen(state="running" if minute < 60 else "stopped"))
    before = book(keeper, MAY + 2 * HOUR, seen(state="stopped"))
    keeper.close()
    again = LedgerKeeper(keeper.path, "sky", warn=pytest.fail)
    after = book(again, MAY + 2 * HOUR + 30, seen(state="stopped"))
    again.close()
    texts = [costs.vms["i-1"].cost_text(MAY + 3 * HOUR) for costs in (before, after)]
    assert texts == ["6.0000", "6.0000"]


def test_an_unknown_price_is_shown_as_such(keeper: LedgerKeeper) -> None:
    costs = book(keeper, MAY, seen(price=UNKNOWN), seen("i-2", vm_id=8))
    assert (costs.vms["i-1"].price_text, costs.vms["i-1"].cost_text(MAY + HOUR)) == ("?", "?")
    assert (costs.hosts[3].hour_text, costs.hosts[3].unpriced) == ("2.0000+?", 1)


def test_what_a_full_disk_refused_is_written_later(keeper: LedgerKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    book(keeper, MAY, seen())
    with monkeypatch.context() as full:

        def refuse(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        full.setattr(writer, "write_rows", refuse)
        for at in (60.0, 120.0):
            keeper.book([seen(state="stopped", price=FREE)], now=MAY + at, price_as=lambda *_: DEAR)
            with pytest.raises(LedgerError, match="disk is full"):
                keeper.write()
    assert [span.state for span in read_spans(keeper.path)] == [""]
    book(keeper, MAY + 180, seen(state="stopped", price=FREE))
    assert [(span.state, span.end - MAY) for span in read_spans(keeper.path)] == [("", 60.0), ("stopped", 180.0)]


def test_a_file_that_breaks_in_use_is_set_aside(keeper: LedgerKeeper, said: list[str]) -> None:
    """What is open is in the new file, too, though nothing has changed."""
    other = seen("i-2", vm_id=8)
    book(keeper, MAY, seen(), other)
    keeper.path.write_bytes(b"no database" * 1000)
    book(keeper, MAY + 60, seen(state="stopped"), other)
    book(keeper, MAY + 120, seen(state="stopped"), other)
    as_of, spans = open_spans(keeper.path)
    assert as_of == MAY + 120
    assert [span.state for span in spans] == ["stopped", ""]
    assert len(said) == 1
