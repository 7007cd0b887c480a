"""The ledger of a real information driver: what it books and reports, after kill -9, and beside a second driver."""

from __future__ import annotations

import base64
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import pairwise
from math import isclose
from pathlib import Path

from one_provider_mad.ledger.reader import open_spans, read_spans
from one_provider_mad.ledger.totals import total
from one_provider_mad.providers.simulated.bill import read_bill
from tests.end_to_end.information_driver import Console, Monitored, configure, monitored
from tests.end_to_end.oned import Place
from tests.monitor.decoder import vectors
from tests.waiting import until

SMALL = "small_256mb"


def ledger_of(place: Place) -> Path:
    return place.var / "one_provider_mad_simulated.ledger"


def costs_of_vm(driver: Monitored) -> str:
    """The text of the next report that has what a VM costs."""

    def text() -> str:
        line = driver.message("MONITOR_VM")
        return "".join(base64.b64decode(vm["MONITOR"]).decode() for vm in vectors(line.values, "VM"))

    while 'PROVIDER_COST="' not in (found := text()):
        pass
    return found


def test_what_runs_is_booked_reported_and_continued_after_kill_9(place: Place) -> None:
    configure(place)
    with (place.conf / "simulated.toml").open("a") as file:
        file.write(f'[prices]\ncurrency = "EUR"\naddress = 0\ndisks = {{ "*" = 0 }}\n[prices.types]\n{SMALL} = 0.5\n')
    console = Console(place)
    first = console.run(vm_id=7)
    with monitored(place) as one:
        one.start()
        text = costs_of_vm(one)
        assert 'PROVIDER_PRICE_HOUR="0.5000"' in text
        assert 'PROVIDER_CURRENCY="EUR"' in text
        with monitored(place) as second:  # of the same NAME
            second.start()
            until(lambda: "another process writes the ledger" in second.log())
        one.driver.kill()
    before = open_spans(ledger_of(place))[0]
    console.terminate(first)
    console.run(vm_id=8)
    with monitored(place) as one:
        one.start()
        until(lambda: sorted(span.is_open for span in read_spans(ledger_of(place))) == [False, True])
        until(lambda: open_spans(ledger_of(place))[0] > before)
        assert one.system(PROVIDER_PRICE_HOUR="0.5000")["PROVIDER_CURRENCY"] == ["EUR"]
    ended, running = sorted(read_spans(ledger_of(place)), key=lambda span: span.is_open)
    assert (ended.thing, ended.vm_id, ended.type_name, ended.amount) == (first, 7, SMALL, 0.5)
    assert (running.vm_id, running.is_seen, running.currency) == (8, True, "EUR")
    assert isclose(total([ended]).booked, 0.5 * (ended.end - ended.begin) / 3600)


SEED = 20261201
PRECISION = 0.1
"""Seconds: the bill's times, and the cloud's, are those of two clock readings."""


def write_stamp(place: Place) -> tuple[int, ...]:
    """Another value as soon as a commit has begun: SQLite writes the rollback journal first."""
    paths = (ledger_of(place), ledger_of(place).with_name(f"{ledger_of(place).name}-journal"))
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)


def is_written(place: Place, before: tuple[int, ...]) -> bool:
    return write_stamp(place) != before


def test_drivers_killed_at_random_moments_leave_a_right_ledger(place: Place) -> None:
    """Some die after a few lines, the others in the middle of a commit, or right after it."""
    configure(place)
    console, chance = Console(place), random.Random(SEED)
    first, second, third = console.run_many([7, 8, 9])
    acts: list[Callable[[], object]] = [
        partial(console.stop, first),
        partial(console.start, first),
        partial(console.stop, second),
        partial(console.terminate, third),
        partial(console.terminate, first),
        partial(console.run, vm_id=10),
    ]
    for act in acts:
        with monitored(place) as one:
            one.start()
            before = write_stamp(place)
            act()
            if chance.random() < 0.4:
                one.next_lines(chance.randint(1, 5))
            else:
                until(partial(is_written, place, before), pause=chance.uniform(0.0002, 0.002))
            one.driver.kill()
    with monitored(place) as one:
        one.start()
        last = console.run(vm_id=11)
        until(lambda: any(span.thing == last for span in read_spans(ledger_of(place))))
    with closing(sqlite3.connect(ledger_of(place))) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    as_of, spans = open_spans(ledger_of(place))[0], read_spans(ledger_of(place))
    bill = read_bill(place.var / "simulated.db", now=as_of)
    assert {span.thing for span in spans} - {last} == bill.keys() - {last}
    for thing, line in bill.items():
        own = sorted((span for span in spans if span.thing == thing), key=lambda span: span.begin)
        assert isclose(total(own).seconds, line.seconds, abs_tol=PRECISION), (line, own)
        assert all(earlier.end == later.begin for earlier, later in pairwise(own)), own


def test_a_persons_trial_writes_no_ledger(place: Place) -> None:
    configure(place)
    Console(place).run(vm_id=7)
    with monitored(place, init=False) as one:
        one.start()
        one.sync(vm7="RUNNING")
    assert not ledger_of(place).exists()
