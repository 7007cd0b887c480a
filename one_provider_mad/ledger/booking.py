"""Turns listings into spans. Pure: it calls nothing, reads no clock and writes no file.

Every span ends where the next one of its thing begins, and none ends in the future: so what is booked of a thing that
still exists is always the time from its creation until now, by the wall clock as it is now. A clock that was set ahead
makes a gap that nobody saw; one that was set back cuts what is booked beyond the present time. The present time is
never before a time that the cloud tells: while this machine's clock is behind, no time passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from one_provider_mad.domain import InstanceState
from one_provider_mad.ledger.records import INSTANCE, Span
from one_provider_mad.ledger.schema import Row
from one_provider_mad.ledger.sighting import NOBODY, Sighting, Thing
from one_provider_mad.pricing.values import Price

UNSEEN_AFTER = 600.0
"""Seconds between two listings after which the time between them counts as unseen: what looks the same at both ends may
have been another in between. OpenNebula up to 5.10 asks for a report every three minutes, by default."""

LOOSE_UNSEEN_AFTER = 7200.0
"""The same for volumes, addresses and snapshots, which are listed more rarely."""

HIDDEN_SECONDS = 60.0
"""Seconds between two listings after which the time counts as unseen if something has changed in it, and the cloud does
not tell when: a price, say, or a state that began anew."""

AHEAD_SECONDS = 86400.0
"""Seconds by which the cloud's clock may be ahead of this machine's; a later time is not believed."""

BACK_SECONDS = 2.0
"""Seconds by which the clock may fall back, as NTP's small corrections make it, without being set."""

GONE_AFTER = 3
"""Number of listings in a row that lack an instance after which it has ended."""

_FIRST_STATES = ("", InstanceState.PENDING.value, InstanceState.RUNNING.value)
"""States that a thing may have been in since its creation."""

_MOST_ENDS = 50_000
"""Most ended things that are remembered; after that the file is asked again."""

EndedAt = Callable[[Collection["Entry"]], Mapping[Thing, float]]
"""Returns when things ended, as far as it is known."""

Amounts = tuple[float | None, float, str]
"""Of a price: `amount`, `known` and `currency`."""

PriceAs = Callable[[Sighting, InstanceState], Price]
"""Returns what an instance would cost in another state."""


class Entry(msgspec.Struct, gc=False):
    """The open span of one thing.

    Attributes:
        id: number of its row.
        host_id: number of its OpenNebula host.
        span: the span; its `end` is not kept up to date.
        price: the latest price seen, None after a start.
        seen_at: time of the latest listing that had the thing, seconds since the epoch.
        absent_since: time of the first of the latest listings that lack it; 0 while it is listed.
        misses: number of those listings.
        sighting: what the latest listing showed, if that was no change; the same object again is none, either.
        turn: number of the latest listing that had the thing, counted by its book.
    """

    id: int
    host_id: int
    span: Span
    seen_at: float
    price: Price | None = None
    absent_since: float = 0.0
    misses: int = 0
    sighting: Sighting | None = None
    turn: int = 0

    def row(self) -> Row:
        """Return the row of the open span, which ends when the thing was last seen."""
        span = msgspec.structs.replace(self.span, end=max(self.seen_at, self.span.begin), is_open=True)
        return Row(id=self.id, host_id=self.host_id, span=span)


class Book:
    """The open spans of all things, and the rows that a file lacks yet.

    Args:
        name: NAME.
        as_of: time of the latest listing of instances that was booked, seconds since the epoch; 0 for a new ledger.
        next_id: number of the next new row.
        rows: the open rows.

    Attributes:
        as_of: time of the latest listing of instances that was booked.
        open: the open spans.
        ends: when things ended that have no open span; 0 for one without any span.
        rows: new and changed rows, by their numbers, which the file lacks.
        removed: numbers of rows that the file may have and should not have.
        closed: the spans that the latest listing has closed, each with the number of its host.
        touched: the things whose open span is new, another or gone since the latest listing.
        cut_at: time after which the file should have no closed span of a thing that has an open one; None for any.
        cuts: times after which the file should have no span of a thing: it had ended before the ledger's clock said.
    """

    def __init__(self, name: str, *, as_of: float = 0.0, next_id: int = 1, rows: Iterable[Row] = ()) -> None:
        self.name = name
        self.as_of = as_of
        self.open = {
            (row.span.kind, row.span.thing): Entry(
                id=row.id, host_id=row.host_id, span=row.span, seen_at=min(row.span.end, as_of)
            )
            for row in rows
        }
        self.ends: dict[Thing, float] = {}
        self.rows: dict[int, Row] = {}
        self.removed: set[int] = set()
        self.cut_at: float | None = None
        self.cuts: dict[Thing, float] = {}
        self.closed: list[tuple[int, Span]] = []
        self.touched: set[Thing] = set()
        self._turn = 0
        self._next_id = next_id

    def unknown(self, sightings: Iterable[Sighting]) -> list[Sighting]:
        """Return what is seen of things of which this book knows neither an open span nor an end: the file may."""
        is_open, ends = self.open, self.ends
        strange = [each for each in sightings if (each.kind, each.thing) not in is_open]
        return [each for each in strange if each.key not in ends]

    def learn_ends(self, asked: Iterable[Thing], ends: Mapping[Thing, float]) -> None:
        """Take the ends that the file has of things; those without any span end at 0."""
        if len(self.ends) > _MOST_ENDS:
            self.ends.clear()
        self.ends.update({key: ends.get(key, 0.0) for key in asked})

    def pending(self) -> list[Row]:
        """Return the rows that the file lacks, open ones as they are now: they may have waited for some listings."""
        open_rows = {entry.id: entry for entry in self.open.values() if entry.id in self.rows}
        return [open_rows[number].row() if number in open_rows else row for number, row in self.rows.items()]

    def written(self) -> None:
        """Forget the changes: the file has them."""
        self.rows, self.removed, self.cut_at, self.cuts = {}, set(), None, {}

    def observe(
        self,
        sightings: Collection[Sighting],
        *,
        now: float,
        price_as: PriceAs,
        ended_at: EndedAt = lambda _: {},
        kinds: frozenset[str] = frozenset({INSTANCE}),
    ) -> None:
        """Book a complete listing.

        Args:
            sightings: everything that it has of these kinds.
            now: when it was requested, seconds since the epoch.
            price_as: what an instance would cost in another state.
            ended_at: asks the action driver when things ended; called for those that need it, if any.
            kinds: the kinds that the listing covers; things of other kinds stay as they are.
        """
        self.closed, self.touched = [], set()
        now = self._without_step(_latest(sightings, now))
        self._turn = turn = self._turn + 1
        is_open, earliest = self.open, now - UNSEEN_AFTER
        for each in sightings:  # of the usual 10,000 hardly any gets beyond the first comparison
            entry = is_open.get((each.kind, each.thing))
            if entry is None:
                self._begin(each, now, price_as)
                continue
            entry.turn = turn
            if entry.sighting is each and entry.seen_at >= earliest and not entry.absent_since:
                entry.seen_at = now
            else:
                self._look(entry, each, now, ended_at)
        self._miss_all([entry for entry in is_open.values() if entry.turn != turn], kinds, now, ended_at)
        if INSTANCE in kinds:
            self.as_of = now

    def _look(self, entry: Entry, seen: Sighting, now: float, ended_at: EndedAt) -> None:
        """Book a thing that has an open span and may have changed."""
        if seen.has_ended:
            told = _told(seen.state_since, now) or self._known_end(seen.key, entry, ended_at([entry]))
            self._finish(seen.key, entry, min(told, now) or now)
        elif _is_unchanged(entry, seen, now):
            entry.seen_at, entry.price, entry.sighting = now, seen.price, seen
            if entry.absent_since:
                entry.absent_since, entry.misses = 0.0, 0
                self._keep(entry)
        else:
            entry.sighting = None
            self._change(entry, seen, now)

    # Things that are listed

    def _change(self, entry: Entry, seen: Sighting, now: float) -> None:
        """Book a change of state, type, market, price, owner or VM, or a gap; amend the span where nothing changed."""
        span, last = entry.span, entry.seen_at
        seen = _completed(seen, span)
        is_same, told = _has_facts_of(span, seen), _told(seen.state_since, now)
        # Until a new process has read the lists every price is unknown, and nothing has changed.
        is_lost = is_same and seen.price.amount is None and span.amount is not None
        amounts = _booked(span) if is_lost else _amounts(seen.price)
        begin = max(told if told and (not is_same or told > last + 1) else now, span.begin)
        # A span that began later than its state began with a price, whose time only this machine's clock tells.
        is_whole_state = 0 < told <= last + 1 and span.begin <= told + HIDDEN_SECONDS
        has_held = is_same and is_whole_state and amounts == _booked(span)
        is_told = bool(told) and not is_same
        is_gap = begin - last > (_patience(seen.kind) if is_told else HIDDEN_SECONDS) and not has_held
        entry.misses, entry.absent_since = 0, 0.0
        if is_same and not is_gap and _may_amend(span, seen, amounts):
            self._amend(entry, seen, amounts, now)
            return
        if is_gap:
            self._close(entry, last)
            self._add_closed(span, entry.host_id, last, begin, is_seen=False)
        else:
            self._close(entry, begin)
        self._begin_span(seen, amounts, begin, now)

    def _amend(self, entry: Entry, seen: Sighting, amounts: Amounts, now: float) -> None:
        """Complete the open span with what has become known: a first price, the VM's owner, its present host."""
        amount, known, currency = amounts
        before = entry.span, entry.host_id
        entry.span = msgspec.structs.replace(
            entry.span,
            owner=seen.owner,
            type_name=seen.type_name,
            market=seen.market,
            amount=amount,
            known=known,
            currency=currency,
        )
        entry.price, entry.host_id, entry.seen_at = seen.price, seen.host_id, now
        if (entry.span, entry.host_id) != before:
            self._keep(entry)

    def _begin(self, seen: Sighting, now: float, price_as: PriceAs) -> None:
        """Book a thing that has no open span: from its creation, or from where the ledger last had it."""
        key, told = seen.key, _told(seen.state_since, now)
        made, before = seen.created_at if 0 < seen.created_at <= now else 0.0, self.ends.get(key, 0.0)
        start = max(made or told or now, before)
        if seen.has_ended:
            if made and told > start:
                self._begin_earlier(seen, InstanceState.RUNNING, price_as, (start, told), is_seen=False)
            self.ends[key] = max(told, before)
            return
        patience = self._first_patience(seen.kind, start, before)
        is_young = now - start <= patience
        since = max(told, start) if told else start if is_young and seen.state in _FIRST_STATES else now
        is_boot = is_young and not before and seen.state == InstanceState.RUNNING.value
        earlier = InstanceState.PENDING if is_boot else InstanceState.RUNNING
        # Between its creation and its present state it may have been in others, at other prices.
        self._begin_earlier(seen, earlier, price_as, (start, since), is_seen=since - start <= HIDDEN_SECONDS)
        self.ends.pop(key, None)
        if now - since > patience:  # another front-end, or a lost ledger, may have seen it
            amounts, begin = _amounts(seen.price), since
            self._add_closed(_span(self.name, seen, amounts, begin), seen.host_id, begin, now, is_seen=False)
            since = now
        self._begin_span(seen, _amounts(seen.price), since, now)

    def _first_patience(self, kind: str, start: float, before: float) -> float:
        """Return the seconds before the first listing of a thing that count as seen.

        Few when the thing existed before the ledger's latest listing, or the ledger is new: its price may have changed.
        """
        is_watched = before or 0 < self.as_of <= start + HIDDEN_SECONDS
        return _patience(kind) if is_watched else HIDDEN_SECONDS

    def _begin_earlier(
        self,
        seen: Sighting,
        state: InstanceState,
        price_as: PriceAs,
        time: tuple[float, float],
        *,
        is_seen: bool,
    ) -> None:
        """Book the time before a thing was first listed, at the price of the state that it must have been in."""
        begin, end = time
        if end > begin:
            is_instance = seen.kind == INSTANCE
            before = seen._replace(state=state.value) if is_instance else seen
            amounts = _amounts(price_as(seen, state) if is_instance else seen.price)
            self._add_closed(_span(self.name, before, amounts, begin), seen.host_id, begin, end, is_seen=is_seen)

    # Things that are not listed, or not any more

    def _miss_all(self, lacking: list[Entry], kinds: Collection[str], now: float, ended_at: EndedAt) -> None:
        missing = [entry for entry in lacking if entry.span.kind in kinds]
        ends = ended_at(missing) if missing else {}
        for entry in missing:
            self._miss((entry.span.kind, entry.span.thing), now, ends)

    def _miss(self, key: Thing, now: float, ended_at: Mapping[Thing, float]) -> None:
        """Book that a listing lacks a thing: it has ended when the action driver ended it, else after some listings."""
        entry = self.open[key]
        if known := self._known_end(key, entry, ended_at):
            self._finish(key, entry, min(known, now))
            return
        if now > self.as_of or not entry.misses or key[0] != INSTANCE:
            entry.misses += 1
        if not entry.absent_since:
            entry.absent_since = now
            self._keep(entry)
        if entry.misses >= GONE_AFTER or key[0] != INSTANCE:
            self._finish(key, entry, entry.absent_since)

    @staticmethod
    def _known_end(key: Thing, entry: Entry, ended_at: Mapping[Thing, float]) -> float:
        """Return when the action driver ended a thing; 0 when it did not, or before the thing was last seen."""
        known = ended_at.get(key, 0.0)
        return known if known >= entry.span.begin and known >= entry.seen_at - UNSEEN_AFTER else 0.0

    def _finish(self, key: Thing, entry: Entry, end: float) -> None:
        """Close the last span of a thing; the time since it was last seen is unseen if it is long.

        One that ended before that span began was booked while this machine's clock was ahead: nothing after its end
        counts.
        """
        last = entry.seen_at
        if end < entry.span.begin:
            self._cut_thing(key, end)
        if end - last > _patience(key[0]):
            self._close(entry, last)
            self._add_closed(entry.span, entry.host_id, last, end, is_seen=False)
        else:
            self._close(entry, end)
        del self.open[key]
        self.touched.add(key)
        self.ends[key] = end

    # The clock

    def _without_step(self, now: float) -> float:
        """Return the time of a listing; after the clock was set back, cut what is booked beyond it."""
        if now >= self.as_of - BACK_SECONDS:
            return max(now, self.as_of)
        self.cut_at = now if self.cut_at is None else min(now, self.cut_at)
        for row in [row for row in self.rows.values() if row.span.end > now]:
            if (row.span.kind, row.span.thing) in self.open and not row.span.is_open:
                self._cut(row, now)
        for entry in self.open.values():
            if entry.span.begin > now:
                entry.span = msgspec.structs.replace(entry.span, begin=now)
            entry.sighting = None
            entry.seen_at, entry.absent_since = min(entry.seen_at, now), min(entry.absent_since, now)
            self._keep(entry)
        self.as_of = now
        return now

    def _cut_thing(self, key: Thing, at: float) -> None:
        self.cuts[key] = at
        for row in [row for row in self.rows.values() if row.span.end > at and (row.span.kind, row.span.thing) == key]:
            self._cut(row, at)

    def _cut(self, row: Row, now: float) -> None:
        if row.span.begin < now:
            self.rows[row.id] = msgspec.structs.replace(row, span=msgspec.structs.replace(row.span, end=now))
        else:
            del self.rows[row.id]
            self.removed.add(row.id)

    # Rows

    def _keep(self, entry: Entry) -> None:
        self.rows[entry.id] = entry.row()
        self.touched.add((entry.span.kind, entry.span.thing))

    def _begin_span(self, seen: Sighting, amounts: Amounts, begin: float, now: float) -> None:
        span = _span(self.name, seen, amounts, begin)
        entry = Entry(
            id=self._number(), host_id=seen.host_id, span=span, price=seen.price, seen_at=now, turn=self._turn
        )
        self.open[seen.key] = entry
        self._keep(entry)

    def _close(self, entry: Entry, end: float) -> None:
        """Close an open span; one without any time is removed."""
        if end > entry.span.begin:
            self._put_closed(entry.id, entry.host_id, msgspec.structs.replace(entry.span, end=end, is_open=False))
        else:
            self.rows.pop(entry.id, None)
            self.removed.add(entry.id)

    def _add_closed(self, like: Span, host_id: int, begin: float, end: float, *, is_seen: bool) -> None:
        span = msgspec.structs.replace(like, begin=begin, end=end, is_open=False, is_seen=is_seen)
        self._put_closed(self._number(), host_id, span)

    def _put_closed(self, number: int, host_id: int, span: Span) -> None:
        self.rows[number] = Row(id=number, host_id=host_id, span=span)
        self.closed.append((host_id, span))

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id - 1


def _is_unchanged(entry: Entry, seen: Sighting, now: float) -> bool:
    """True in the usual case: nothing has changed, and nobody has missed anything."""
    span = entry.span
    return (
        (seen.price is entry.price or _amounts(seen.price) == _booked(span))
        and seen.state == span.state
        and (seen.type_name == span.type_name or not seen.type_name)
        and (seen.market == span.market or not seen.market)
        and seen.vm_id == span.vm_id
        and seen.stime == span.stime
        and (seen.owner is NOBODY or seen.owner == span.owner)
        and seen.host_id == entry.host_id
        and seen.state_since <= entry.seen_at + HIDDEN_SECONDS
        and (
            now - entry.seen_at <= _patience(seen.kind)
            or (0 < seen.state_since <= entry.seen_at + 1 and span.begin <= seen.state_since + HIDDEN_SECONDS)
        )
    )


def _latest(sightings: Collection[Sighting], now: float) -> float:
    """Return the present time: this machine's, or a later one that the cloud tells."""
    made = [each.created_at for each in sightings if each.created_at > now]
    since = [each.state_since for each in sightings if each.state_since > now]
    return max((at for at in (*made, *since) if at <= now + AHEAD_SECONDS), default=now)


def _patience(kind: str) -> float:
    return UNSEEN_AFTER if kind == INSTANCE else LOOSE_UNSEEN_AFTER


def _told(moment: float, now: float) -> float:
    """Return a time that the cloud tells; 0 when it tells none that can be right."""
    return moment if moment <= now else 0.0


def _completed(seen: Sighting, span: Span) -> Sighting:
    """Return what is seen with what was known before and is not told now: owner, type and market."""
    is_owner_known = seen.owner is NOBODY and (seen.vm_id, seen.stime) == (span.vm_id, span.stime)
    return seen._replace(
        owner=span.owner if is_owner_known else seen.owner,
        type_name=seen.type_name or span.type_name,
        market=seen.market or span.market,
    )


def _has_facts_of(span: Span, seen: Sighting) -> bool:
    """True when state, VM, type and market are those of the span; what the span lacks cannot differ."""
    return (
        (seen.state, seen.vm_id, seen.stime) == (span.state, span.vm_id, span.stime)
        and span.type_name in ("", seen.type_name)
        and span.market in ("", seen.market)
    )


def _may_amend(span: Span, seen: Sighting, amounts: Amounts) -> bool:
    """True when price and owner are those of the span, or the first that are known."""
    is_first_price = span.amount is None and (not span.known or amounts[0] is not None)
    is_first_owner = span.owner == NOBODY
    return (is_first_price or amounts == _booked(span)) and (is_first_owner or seen.owner == span.owner)


def _amounts(price: Price) -> Amounts:
    return price.amount, price.known, price.currency


def _booked(span: Span) -> Amounts:
    return span.amount, span.known, span.currency


def _span(name: str, seen: Sighting, amounts: Amounts, begin: float) -> Span:
    amount, known, currency = amounts
    return Span(
        name=name,
        thing=seen.thing,
        kind=seen.kind,
        vm_id=seen.vm_id,
        stime=seen.stime,
        owner=seen.owner,
        type_name=seen.type_name,
        market=seen.market,
        state=seen.state,
        begin=begin,
        end=begin,
        amount=amount,
        known=known,
        currency=currency,
    )
