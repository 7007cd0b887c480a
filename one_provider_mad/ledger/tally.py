"""Keeps the sums of closed spans that reports need: of each VM since its creation, of each host since the month began.

Pure but for the two queries, which a start needs once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from one_provider_mad.ledger.booking import Book, Entry
from one_provider_mad.ledger.records import INSTANCE, Span
from one_provider_mad.ledger.totals import HOUR, month_begin
from one_provider_mad.pricing.values import figure

Vm = tuple[int, int]
"""VM ID and STIME."""


def amount_text(known: float, *, is_partly_unknown: bool) -> str:
    """Return an amount of which a part may be unknown, as `Price.text` has it."""
    if not is_partly_unknown:
        return figure(known)
    return f"{figure(known)}+?" if known else "?"


class Spent(NamedTuple):
    """What was spent.

    Attributes:
        cost: units of currency, of the known parts of prices.
        is_partly_unknown: a part of a price was unknown for some time.
    """

    cost: float = 0.0
    is_partly_unknown: bool = False

    @property
    def text(self) -> str:
        """Return the sum for a person and for monitoring: `1.2500`, `1.2500+?` with an unknown part, or `?`."""
        return amount_text(self.cost, is_partly_unknown=self.is_partly_unknown)

    def plus(self, cost: float, *, is_partly_unknown: bool) -> Spent:
        """Return the sum."""
        return Spent(self.cost + cost, self.is_partly_unknown or is_partly_unknown)


class Running(NamedTuple):
    """What an instance has cost, and what it costs now.

    Attributes:
        spent: of its VM, before `begin`.
        begin: time from which the present price counts, seconds since the epoch.
        known: known parts of the present price, units of currency an hour.
        is_unknown: a part of the present price is unknown.
        currency: ISO 4217 code, "" where the cloud names none.
        price_text: the present price for a person and for monitoring.
    """

    spent: Spent
    begin: float
    known: float
    is_unknown: bool
    currency: str
    price_text: str

    def cost_text(self, now: float) -> str:
        """Return what the VM has cost until a time, seconds since the epoch, for a person and for monitoring."""
        cost, is_partly_unknown = self.spent
        cost += self.known * max(0.0, now - self.begin) / HOUR
        return amount_text(cost, is_partly_unknown=is_partly_unknown or self.is_unknown)


class HostCosts(NamedTuple):
    """What the instances of a host cost.

    Attributes:
        hour: units of currency an hour, of the known parts of prices.
        month: what they have cost since the month began, in UTC.
        currency: ISO 4217 code, "" for none and for several.
        unpriced: number of instances whose price is not wholly known.
    """

    hour: float = 0.0
    month: Spent = Spent()
    currency: str = ""
    unpriced: int = 0

    @property
    def hour_text(self) -> str:
        """Return the price an hour for a person and for monitoring."""
        return amount_text(self.hour, is_partly_unknown=self.unpriced > 0)


class _Rate(NamedTuple):
    """What the open spans of a host cost together, so that a listing without changes adds nothing up.

    Attributes:
        hour: units of currency an hour, of the known parts of prices.
        offset: what they would have cost from the month's begin until each began.
        currency: as of HostCosts.
        unpriced: as of HostCosts.
    """

    hour: float = 0.0
    offset: float = 0.0
    currency: str = ""
    unpriced: int = 0


class Tally:
    """The sums of closed spans, and the prices of open ones.

    Args:
        now: seconds since the epoch.

    Attributes:
        running: what each instance has cost and costs, by its id; another mapping after each change.
    """

    def __init__(self, now: float) -> None:
        self.month = month_begin(now)
        self._vms: dict[Vm, Spent] = {}
        self._hosts: dict[int, Spent] = {}
        self._rates: dict[int, _Rate] | None = None
        self.running: Mapping[str, Running] = {}

    def load(self, vms: Mapping[Vm, Spent], hosts: Mapping[int, Spent] | None = None) -> None:
        """Take sums that the file has."""
        self._vms.update(vms)
        self._hosts.update(hosts or {})

    def lacking(self, vms: Iterable[Vm]) -> set[Vm]:
        """Return the VMs whose sum is not known yet."""
        return {vm for vm in vms if vm not in self._vms}

    def add(self, closed: Iterable[tuple[int, Span]]) -> None:
        """Add spans that were closed just now, each with the number of its host."""
        for host_id, span in closed:
            if span.kind != INSTANCE:
                continue
            is_unknown, vm = span.amount is None, (span.vm_id, span.stime)
            cost = span.known * (span.end - span.begin) / HOUR
            self._vms[vm] = self._vms.get(vm, Spent()).plus(cost, is_partly_unknown=is_unknown)
            if span.end > self.month:
                cost = span.known * (span.end - max(span.begin, self.month)) / HOUR
                self._hosts[host_id] = self._hosts.get(host_id, Spent()).plus(cost, is_partly_unknown=is_unknown)

    def begin_month(self, now: float) -> None:
        """Forget the sums of hosts if a month has begun since."""
        if (month := month_begin(now)) != self.month:
            self.month, self._hosts, self._rates = month, {}, None

    def follow(self, book: Book) -> None:
        """Take what the latest listing has changed in a book, which is always the same."""
        if self._rates is None or book.touched:
            is_first = not self.running
            self._rates = self._added_up(book.open.values())
            touched = book.open.values() if is_first else filter(None, map(book.open.get, book.touched))
            closed = {(span.vm_id, span.stime) for _, span in book.closed}
            others = (entry for entry in book.open.values() if (entry.span.vm_id, entry.span.stime) in closed)
            found = dict(self.running)
            for kind, thing in book.touched - book.open.keys():
                if kind == INSTANCE:
                    found.pop(thing, None)
            for entry in (*touched, *(others if closed else ())):
                if entry.span.kind == INSTANCE:
                    found[entry.span.thing] = self._running(entry.span)
            self.running = found

    def _running(self, span: Span) -> Running:
        spent = self._vms.get((span.vm_id, span.stime), Spent())
        is_unknown = span.amount is None
        text = amount_text(span.known, is_partly_unknown=is_unknown)
        return Running(spent, span.begin, span.known, is_unknown, span.currency, text)

    def hosts(self, now: float) -> dict[int, HostCosts]:
        """Return what the instances of each host cost, and have cost this month; ended ones count for the month."""
        rates = self._rates or {}
        return {host_id: self._host(host_id, rates.get(host_id, _Rate()), now) for host_id in {*self._hosts, *rates}}

    def _host(self, host_id: int, rate: _Rate, now: float) -> HostCosts:
        cost = (rate.hour * (now - self.month) - rate.offset) / HOUR
        return HostCosts(
            hour=rate.hour,
            month=self._hosts.get(host_id, Spent()).plus(cost, is_partly_unknown=rate.unpriced > 0),
            currency=rate.currency,
            unpriced=rate.unpriced,
        )

    def _added_up(self, entries: Iterable[Entry]) -> dict[int, _Rate]:
        groups: dict[int, list[Span]] = {}
        for entry in entries:
            if entry.span.kind == INSTANCE:
                groups.setdefault(entry.host_id, []).append(entry.span)
        return {host_id: self._rate(spans) for host_id, spans in groups.items()}

    def _rate(self, spans: list[Span]) -> _Rate:
        month = self.month
        currencies = {span.currency for span in spans if span.currency}
        return _Rate(
            hour=sum(span.known for span in spans),
            offset=sum(span.known * (span.begin - month) for span in spans if span.begin > month),
            currency=currencies.pop() if len(currencies) == 1 else "",
            unpriced=sum(span.amount is None for span in spans),
        )


_SUMS = 'sum(known * ("end" - max(begin, ?))) / 3600, max(amount IS NULL)'


def spent_by_vm(db: sqlite3.Connection, vms: Collection[Vm]) -> dict[Vm, Spent]:
    """Return what the closed spans of these VMs' instances cost; every VM has an answer."""
    query = f"SELECT {_SUMS} FROM spans WHERE vm_id = ? AND stime = ? AND NOT is_open AND kind = 'instance'"  # noqa: S608
    return {vm: _spent(db.execute(query, (0.0, *vm)).fetchone()) for vm in vms}


def spent_by_host(db: sqlite3.Connection, since: float) -> dict[int, Spent]:
    """Return what the closed spans of each host's instances cost since a time, seconds since the epoch."""
    query = f"SELECT host_id, {_SUMS} FROM spans WHERE \"end\" > ? AND NOT is_open AND kind = 'instance'"  # noqa: S608
    rows = db.execute(f"{query} GROUP BY host_id", (since, since)).fetchall()
    return {host_id: _spent(sums) for host_id, *sums in rows}


def _spent(sums: Iterable[float | None]) -> Spent:
    cost, is_unknown = sums
    return Spent(cost or 0.0, bool(is_unknown))
