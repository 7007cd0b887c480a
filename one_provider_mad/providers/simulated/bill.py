"""The simulated cloud's own bill: each instance's time in each state, as the cloud has changed it, and what it costs.

Triggers of the file write an entry for each change of an instance, in the same transaction: no process can change one
without an entry, not even one of release 0.1.0, which shares files without the bill's tables and knows nothing of them.
An entry has the instance's new transition and its end, so that the state that follows without a change is billed, too.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from one_provider_mad.database import PATIENCE, Database, connect
from one_provider_mad.domain import InstanceState
from one_provider_mad.providers.simulated.table import TRANSITIONS, encode
from one_provider_mad.providers.simulated.tariff import Tariff

_Result = TypeVar("_Result")

KEPT_SECONDS = 400 * 86400.0
"""Seconds for which the bill keeps the entries of a terminated instance: thirteen months."""

_NOW = "(julianday('now') - 2440587.5) * 86400.0"
"""Seconds since the epoch, in SQL: SQLite's unixepoch() has whole seconds only, before 3.42."""


def _entry(at: str, row: str) -> str:
    """Return the SQL that writes an entry.

    Args:
        at: SQL of the entry's time.
        row: the instance's row in SQL.
    """
    return f"""INSERT INTO bill (id, at, transition, ends_at, type, market, disk, name, vm_id) SELECT
        {row}.id, {at}, {row}.transition, {row}.ends_at, {row}.type,
        coalesce(json_extract({row}.hardware, '$.market'), ''),
        (SELECT total(json_extract(value, '$.size')) FROM json_each({row}.hardware, '$.disks')),
        {row}.name, coalesce(json_extract({row}.tags, '$.ONE_PROVIDER_VM_ID'), '')"""  # noqa: S608 of our own words


_SCHEMA = (
    """CREATE TABLE bill (
        entry INTEGER PRIMARY KEY,
        id TEXT NOT NULL,          -- of the instance
        at REAL NOT NULL,          -- when the cloud changed it, seconds since the epoch
        transition TEXT NOT NULL,  -- as in the table instance, from then on
        ends_at REAL NOT NULL,
        type TEXT NOT NULL,
        market TEXT NOT NULL,      -- spot, or empty
        disk REAL NOT NULL,        -- MB of all disks
        name TEXT NOT NULL,
        vm_id TEXT NOT NULL        -- empty without a VM's tags
    )""",
    "CREATE TABLE bill_tariff (at REAL NOT NULL, tariff TEXT NOT NULL)  -- JSON; in force from that time on",
    "CREATE INDEX bill_id ON bill (id)",
    f"CREATE TRIGGER bill_create AFTER INSERT ON instance BEGIN {_entry('new.created_at', 'new')}; END",
    f"""CREATE TRIGGER bill_change AFTER UPDATE OF transition, ends_at, type, hardware ON instance
        WHEN (old.transition, old.ends_at, old.type, old.hardware)
        IS NOT (new.transition, new.ends_at, new.type, new.hardware)
        BEGIN {_entry(_NOW, "new")}; END""",
)


_TIMES_OF_STATES = """SELECT json_group_object(id, begun) FROM (
    SELECT instance.id, CASE instance.transition
        WHEN 'interrupted' THEN max(bill.ends_at) FILTER (WHERE bill.transition = 'pending')
        ELSE min(bill.at) FILTER (WHERE bill.transition = instance.transition AND bill.ends_at = instance.ends_at)
        END AS begun
    FROM json_each(?) AS wanted JOIN instance ON instance.id = wanted.value JOIN bill ON bill.id = instance.id
    GROUP BY instance.id) WHERE begun IS NOT NULL"""
"""One step of SQLite, as a listing (table.py). An instance that is taken back runs on, since it was started."""


class Stretch(NamedTuple):
    """A time for which an instance was in one state, with one type and disks of one size.

    Attributes:
        id: the instance's id.
        name: its name.
        vm_id: its VM's number in its tags when it was created, "" for none.
        state: its state.
        type: its type.
        market: `spot`, or "" for an instance on demand.
        disk: MB of its disks.
        begin: seconds since the epoch.
        end: seconds since the epoch.
    """

    id: str
    name: str
    vm_id: str
    state: InstanceState
    type: str
    market: str
    disk: float
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Return its length."""
        return self.end - self.begin


class Line(NamedTuple):
    """One instance in the bill.

    Attributes:
        id: the instance's id.
        name: its name.
        vm_id: its VM's number in its tags when it was created, "" for none.
        running: seconds in which it was starting or running.
        resting: seconds in which it was stopping, stopped, suspending or suspended.
        amount: units of currency; None when the price of a type is unknown, or the currency has changed.
        currency: ISO 4217 code.
    """

    id: str
    name: str
    vm_id: str
    running: float
    resting: float
    amount: float | None
    currency: str

    @property
    def seconds(self) -> float:
        """Return the seconds from its create until it was terminated."""
        return self.running + self.resting


class _Entry(NamedTuple):
    """A row of the table `bill`, its columns in order."""

    entry: int
    id: str
    at: float
    transition: str
    ends_at: float
    type: str
    market: str
    disk: float
    name: str
    vm_id: str


class BilledDatabase(Database):
    """The cloud's file. The triggers date entries by the machine's clock; here they get the time of the cloud's clock.

    Args:
        path: as of `Database`.
        clock: the cloud's clock; seconds since the epoch.
        pragmas: as of `Database`.
        prepare: as of `Database`.
        unusable: as of `Database`.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        pragmas: tuple[str, ...],
        prepare: Callable[[sqlite3.Connection], None],
        unusable: Callable[[Exception], Exception],
    ) -> None:
        super().__init__(path, pragmas=pragmas, prepare=prepare, unusable=unusable)
        self._clock = clock

    async def write(self, operation: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Run an operation, and date the entries that it makes."""
        if self._clock is time.time:  # the machine's
            return await super().write(operation)

        def dated(db: sqlite3.Connection) -> _Result:
            latest = db.execute("SELECT coalesce(max(entry), 0) FROM bill").fetchone()[0]
            result = operation(db)
            db.execute("UPDATE bill SET at = ? WHERE entry > ?", (self._clock(), latest))
            return result

        return await super().write(dated)


def prepare(db: sqlite3.Connection, tariff: Tariff, now: float) -> None:
    """Create the bill in a file without one, drop old entries, and bill by these prices from now on."""
    _bring_up(db, now)
    text = encode(tariff)
    latest = db.execute("SELECT tariff FROM bill_tariff ORDER BY rowid DESC LIMIT 1").fetchone()
    if latest is None or latest[0] != text:
        db.execute("INSERT INTO bill_tariff VALUES (?, ?)", (now, text))


def _bring_up(db: sqlite3.Connection, now: float) -> None:
    """Create the bill's tables in a file without them, with an entry for each instance that exists.

    What instances of a file of an earlier release did before is not known: their bill begins now.
    """
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'bill'").fetchone() is None:
        for statement in _SCHEMA:
            db.execute(statement)
        db.execute(f"{_entry('?', 'instance')} FROM instance", (now,))
        return
    db.execute(
        "DELETE FROM bill WHERE id IN (SELECT id FROM bill WHERE transition IN ('terminating', 'interrupted')"
        " AND ends_at < ?)",
        (now - KEPT_SECONDS,),
    )


def times_of_states(db: sqlite3.Connection, moving: Sequence[str]) -> dict[str, float]:
    """Return by id when instances entered the state that their latest transition will end, as far as it is known.

    Args:
        db: the cloud's file.
        moving: ids of instances whose latest transition has not ended.
    """
    if not moving:
        return {}
    times: dict[str, float] = msgspec.json.decode(db.execute(_TIMES_OF_STATES, (encode(moving),)).fetchone()[0])
    return times


def stretches(db: sqlite3.Connection, *, now: float) -> Iterator[Stretch]:
    """Yield the stretches of all instances until `now`, each instance's in order; none once it is terminating."""
    entries = map(_Entry._make, db.execute("SELECT * FROM bill ORDER BY id, entry"))
    for _, of_one in groupby(entries, key=lambda entry: entry.id):
        for stretch in _of_instance(list(of_one), now):
            if not stretch.state.is_gone and stretch.seconds > 0:
                yield stretch


def _of_instance(entries: list[_Entry], now: float) -> Iterator[Stretch]:
    """Yield two stretches for each entry: until the transition's end, and until the next entry."""
    for entry, end in zip(entries, [*(entry.at for entry in entries[1:]), now], strict=True):
        turn = min(max(entry.ends_at, entry.at), end)
        for state, (begin, until) in zip(TRANSITIONS[entry.transition], pairwise((entry.at, turn, end)), strict=True):
            yield Stretch(
                id=entry.id,
                name=entry.name,
                vm_id=entry.vm_id,
                state=state,
                type=entry.type,
                market=entry.market,
                disk=entry.disk,
                begin=begin,
                end=until,
            )


def cut(all_stretches: Iterable[Stretch], *, since: float, until: float) -> Iterator[Stretch]:
    """Yield the parts of stretches between two times."""
    for stretch in all_stretches:
        begin, end = max(stretch.begin, since), min(stretch.end, until)
        if begin < end:
            yield stretch._replace(begin=begin, end=end)


def read_bill(path: Path, *, now: float, since: float = 0.0, until: float = math.inf) -> dict[str, Line]:
    """Return the bill of the cloud in a file, by instance id, of the time between `since` and `until`.

    Args:
        path: the cloud's file; a process may have it open.
        now: the time until which instances that exist are billed, by the cloud's clock.
        since: seconds since the epoch.
        until: seconds since the epoch.

    Raises:
        sqlite3.Error: there is no file with a bill.
    """
    db = connect(path, timeout=PATIENCE, mode="ro")
    try:
        wanted = list(cut(stretches(db, now=now), since=since, until=until))
        prices = [(at, _decode_tariff(text)) for at, text in db.execute("SELECT * FROM bill_tariff ORDER BY rowid")]
    finally:
        db.close()
    periods = _periods(prices)
    by_id = groupby(wanted, key=lambda stretch: stretch.id)
    return {deploy_id: _line(list(of_one), periods) for deploy_id, of_one in by_id}


RUNNING = (InstanceState.PENDING, InstanceState.RUNNING)
"""States in which a running instance's price is charged; it is lower while the instance rests."""

_Period = tuple[float, float, Tariff]
"""Begin and end of a time with the same prices."""

_decode_tariff = msgspec.json.Decoder(Tariff).decode


def _periods(prices: Sequence[tuple[float, Tariff]]) -> list[_Period]:
    """Return the times of each tariff; the first counts for all times before it, too."""
    begins = [0.0, *(at for at, _ in prices[1:]), math.inf]
    return [(begin, end, tariff) for (begin, end), (_, tariff) in zip(pairwise(begins), prices, strict=True)]


def _line(of_one: list[Stretch], periods: Sequence[_Period]) -> Line:
    first = of_one[0]
    amounts, currencies = zip(*_charges(of_one, periods), strict=True)
    is_known = len(set(currencies)) == 1 and None not in amounts
    return Line(
        id=first.id,
        name=first.name,
        vm_id=first.vm_id,
        running=math.fsum(stretch.seconds for stretch in of_one if stretch.state in RUNNING),
        resting=math.fsum(stretch.seconds for stretch in of_one if stretch.state not in RUNNING),
        amount=math.fsum(amounts) if is_known else None,
        currency=currencies[-1],
    )


def _charges(of_one: list[Stretch], periods: Sequence[_Period]) -> Iterator[tuple[float | None, str]]:
    """Yield amount and currency of each stretch, for each tariff that was in force meanwhile."""
    for begin, end, tariff in periods:
        for stretch in cut(of_one, since=begin, until=end):
            hour = tariff.hour(
                stretch.type, market=stretch.market, disk=stretch.disk, is_running=stretch.state in RUNNING
            )
            yield None if hour is None else hour * stretch.seconds / 3600, tariff.currency
