"""Keeps the ledger of one NAME: books each listing, writes it, and tells what VMs and hosts cost. Blocks; in a thread.

A file that cannot be written, as on a full disk, keeps nothing else from working: what it lacks is written with the
next listing, and reports have the costs meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from one_provider_mad.domain import VmOwner
from one_provider_mad.errors import LedgerError
from one_provider_mad.ledger.booking import Book, EndedAt, PriceAs
from one_provider_mad.ledger.records import INSTANCE
from one_provider_mad.ledger.sighting import Sighting
from one_provider_mad.ledger.tally import HostCosts, Running, Tally, Vm
from one_provider_mad.ledger.writer import LedgerFile

_WRITE_SECONDS = 20.0
"""Seconds after which a listing without any change is written; only its time is new."""

_MOST_UNWRITTEN = 200_000
"""Most rows that wait in memory for a file that cannot be written; then the file is read anew, once it can be."""


class Costs(NamedTuple):
    """What is known of costs after a booking.

    Attributes:
        vms: what each instance's VM has cost and costs, by the instance's id.
        hosts: what each host's instances cost, by the host's number.
    """

    vms: Mapping[str, Running] = {}
    hosts: Mapping[int, HostCosts] = {}


class LedgerKeeper:
    """Books listings into one file.

    Args:
        path: the ledger.
        name: NAME.
        warn: takes one sentence for the operator.
    """

    def __init__(self, path: Path, name: str, *, warn: Callable[[str], None]) -> None:
        self.path = path
        self._name = name
        self._file = LedgerFile(path, name, warn=warn)
        self._book: Book | None = None
        self._tally = Tally(0.0)
        self._written_at = 0.0

    def book(
        self,
        sightings: Collection[Sighting],
        *,
        now: float,
        price_as: PriceAs,
        ended_at: EndedAt = lambda _: {},
        kinds: frozenset[str] = frozenset({INSTANCE}),
    ) -> Costs:
        """Book a complete listing, and write what is new; the booking stays in memory if that fails.

        Args:
            sightings: everything that the listing has of these kinds.
            now: when it was requested, seconds since the epoch.
            price_as: what an instance would cost in another state.
            ended_at: asks the action driver's journal when things ended; called for those that need it, if any.
            kinds: the kinds that the listing covers.

        Raises:
            LedgerError: another process writes the file, or it cannot be read.
        """
        book = self._loaded(now)
        if book.as_of == now and INSTANCE in kinds:
            return self._costs(book, now)  # this listing is booked already
        self._look_up(book, sightings)
        book.observe(sightings, now=now, price_as=price_as, ended_at=ended_at, kinds=kinds)
        self._tally.begin_month(now)
        self._tally.add(book.closed)
        return self._costs(book, now)

    def write(self) -> None:
        """Write what is booked and not written yet.

        Raises:
            LedgerError: the file cannot be written; the next call writes it.
        """
        book = self._book
        if book is None:
            return
        is_cut = bool(book.cut_at is not None or book.cuts)
        is_news = book.rows or book.removed or is_cut
        if not is_news and 0 <= book.as_of - self._written_at < _WRITE_SECONDS:
            return
        if len(book.rows) > _MOST_UNWRITTEN:
            self._book = None
            raise LedgerError(f"the ledger {self.path} could not be written for so long that its bookings are dropped")
        self._file.write(book.pending(), book.removed, as_of=book.as_of, cut_at=book.cut_at, cuts=book.cuts)
        self._written_at = book.as_of
        if is_cut:
            self._book = None  # the sums of its closed spans have changed: they are read anew
        book.written()

    def learn_owners(self, owners: Mapping[Vm, VmOwner]) -> None:
        """Write the owners of VMs that had none when their spans were booked. Raises LedgerError."""
        if owners:
            self._file.learn_owners(owners)

    def close(self) -> None:
        """Leave the file to another process."""
        self._file.close()

    def _loaded(self, now: float) -> Book:
        """Return the book; read it from the file at first, and when another file is in its place."""
        if self._book is not None and not self._file.is_replaced:
            return self._book
        contents = self._file.load()
        book = Book(self._name, as_of=contents.as_of, next_id=contents.next_id, rows=contents.rows)
        self._tally = Tally(now)
        vms = {(row.span.vm_id, row.span.stime) for row in contents.rows}
        self._tally.load(self._file.spent_by_vm(vms), self._file.spent_by_host(self._tally.month))
        self._book, self._written_at = book, contents.as_of
        return book

    def _look_up(self, book: Book, sightings: Collection[Sighting]) -> None:
        """Learn from the file what it has of things that the book does not know."""
        if unknown := book.unknown(sightings):
            things = {each.key for each in unknown}
            book.learn_ends(things, self._file.last_ends(things))
            vms = {(each.vm_id, each.stime) for each in unknown}
            self._tally.load(self._file.spent_by_vm(self._tally.lacking(vms)))

    def _costs(self, book: Book, now: float) -> Costs:
        self._tally.follow(book)
        return Costs(vms=self._tally.running, hosts=self._tally.hosts(now))
