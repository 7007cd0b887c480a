"""The SQLite file of a budget, which the action drivers of all NAMEs that share it write.

Each admission is one transaction that locks the file: what is admitted counts for the next one at once, in this
process and in all others.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from one_provider_mad.budget import transactions
from one_provider_mad.budget.months import Month
from one_provider_mad.budget.records import Observed, Spent, Wish
from one_provider_mad.budget.rules import Refusal, Scope, Terms, Unready, Use
from one_provider_mad.budget.schema import PRAGMAS, prepare
from one_provider_mad.database import Database
from one_provider_mad.domain import DeployId, Identity
from one_provider_mad.errors import BudgetError
from one_provider_mad.pricing.values import Price
from one_provider_mad.processes import Process
from one_provider_mad.timestamps import Timestamp

PATIENCE = 10.0
"""Seconds to wait while another process locks the file: then a create is refused, and a termination goes on."""

_REMEDIES = {
    sqlite3.SQLITE_BUSY: f"another process has held it for {PATIENCE:.0f} s, `fuser` with this path shows which",
    sqlite3.SQLITE_CORRUPT: "remove it, and it is made again from the cloud and the ledger",
    sqlite3.SQLITE_NOTADB: "remove it, and it is made again from the cloud and the ledger",
}
"""What to do about errors whose own text does not say it, by SQLite's code."""


class Store:
    """A budget's file, as one NAME uses it; it is opened when it is first used. Any method may raise BudgetError.

    Args:
        path: the file.
        name: NAME of the configuration.
        on_moved: called with a message when the file was removed or replaced.
    """

    def __init__(self, path: Path, name: str, *, on_moved: Callable[[str], None] = lambda _: None) -> None:
        self.path = path
        self.name = name
        self._me = Process.current()
        self._calls: set[str] = set()
        self._opening: asyncio.Task[None] | None = None
        self._is_open = False
        self._is_used = False
        self._database = Database(
            path,
            pragmas=PRAGMAS,
            prepare=self._prepare,
            unusable=self._unusable,
            on_moved=lambda what: on_moved(f"the file of the budget {what} ({path})"),
            patience=PATIENCE,
            may_begin_anew=True,
        )

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Prepare the file; one that took the place of another is compared with the cloud before it admits anything."""
        prepare(db)
        if self._is_used:
            transactions.forget_look(db, self.name)
        self._is_used = True

    def _unusable(self, error: Exception) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        remedy = f": {_REMEDIES[code]}" if code in _REMEDIES else ""
        return BudgetError(f"the file of the budget cannot be used: {error}{remedy} ({self.path})")

    async def _opened(self) -> Database:
        """Open the file, creating it when it is missing; again with each call, until that succeeds."""
        if not self._is_open:
            if self._opening is None:
                self._opening = asyncio.create_task(self._open(), name="opening the file of the budget")
                self._opening.add_done_callback(_noted)
            await asyncio.shield(self._opening)  # all calls meanwhile share its answer
        return self._database

    async def _open(self) -> None:
        try:
            await self._database.open()
            self._is_open = True
        finally:
            self._opening = None

    async def close(self) -> None:
        """Close the file."""
        if self._opening is not None:
            await asyncio.wait({self._opening})
        if self._is_open:
            await self._database.close()

    async def admit(
        self, wish: Wish, *, scopes: Iterable[Scope], terms: Terms, at: Timestamp
    ) -> Refusal | Unready | None:
        """Commit what is wished if all limits admit it; else return why not.

        Until `settle` or `release` a call for it counts as under way, unless this is refused or cancelled.
        """

        def admit(db: sqlite3.Connection) -> Refusal | Unready | None:
            return transactions.admit(db, wish, name=self.name, scopes=scopes, terms=terms, at=at, me=self._me)

        key = wish.key or wish.deploy_id
        is_new = key not in self._calls
        self._calls.add(key)
        admitted: Refusal | Unready | None = Unready.LOOK
        try:
            admitted = await (await self._opened()).write(admit)
        finally:
            if admitted is not None and is_new:
                self._calls.discard(key)
        return admitted

    async def settle(self, key: str, *, at: Timestamp, wait: float, deploy_id: str = "") -> None:
        """Note that no call for a commitment is under way any more; `wait` is as in transactions.py."""
        self._calls.discard(key)  # also when the file cannot be written: the next listing settles it then

        def settle(db: sqlite3.Connection) -> None:
            transactions.settle(db, key, name=self.name, deploy_id=deploy_id, wait=wait, at=at)

        await (await self._opened()).write(settle)

    async def release(self, key: str) -> None:
        """Forget the commitment of a create that certainly made nothing."""
        self._calls.discard(key)
        await (await self._opened()).write(lambda db: transactions.release(db, key, name=self.name))

    async def gone(self, identity: Identity, deploy_ids: Collection[DeployId], *, at: Timestamp) -> None:
        """Forget the instances of a VM that has certainly none any more."""

        def gone(db: sqlite3.Connection) -> None:
            transactions.gone(db, identity, deploy_ids, name=self.name, at=at)

        await (await self._opened()).write(gone)

    async def lower(self, deploy_id: DeployId, price: Price, *, at: Timestamp) -> None:
        """Lower the price of an instance to this one, unless a call for it is under way."""
        await (await self._opened()).write(
            lambda db: transactions.lower(db, deploy_id, price, name=self.name, now=at.at)
        )

    async def withdraw(self, wish: Wish) -> None:
        """Take back a disk that certainly was not made."""
        await (await self._opened()).write(lambda db: transactions.withdraw(db, wish, name=self.name))

    async def reconcile(self, observed: Sequence[Observed], *, begun: Timestamp, at: Timestamp, grace: float) -> None:
        """Bring the commitments of this NAME in line with a complete listing."""
        calls = transactions.Calls(me=self._me, keys=frozenset(self._calls))

        def reconcile(db: sqlite3.Connection) -> None:
            transactions.reconcile(db, observed, name=self.name, begun=begun, at=at, grace=grace, calls=calls)

        await (await self._opened()).write(reconcile)

    async def book(self, spent: Spent, month: Month) -> None:
        """Record what this NAME's ledger has booked in a month, by user and group."""
        await (await self._opened()).write(lambda db: transactions.book(db, spent, name=self.name, month=month))

    async def use_of(self, scope: Scope, month: Month) -> Use:
        """Return what the instances of a scope use."""
        return await (await self._opened()).read(lambda db: transactions.use_of(db, scope, month))

    async def use_until(self, scope: Scope, month: Month, *, until: float) -> tuple[Use, frozenset[str]]:
        """Return what the instances of a scope use, in the month until this time; and which are this NAME's."""

        def use(db: sqlite3.Connection) -> tuple[Use, frozenset[str]]:
            found = transactions.use_of(db, scope, month, until=until)
            return found, transactions.deploy_ids(db, scope, name=self.name)

        return await (await self._opened()).read(use)

    async def waiting_tokens(self) -> list[str]:
        """Return the tokens of creates that no process carries out any more and whose instance is not known."""
        calls = transactions.Calls(me=self._me, keys=frozenset(self._calls))
        return await (await self._opened()).read(lambda db: transactions.waiting_tokens(db, self.name, calls))


def _noted(opening: asyncio.Task[None]) -> None:
    """Take note of a failure whose callers were cancelled."""
    if not opening.cancelled():
        opening.exception()
