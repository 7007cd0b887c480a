"""The SQLite file of a budget, which the action drivers of all NAMEs that share it write.

Each admission is one transaction that locks the file: what is admitted counts for the next one at once, in this
process and in all others.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from one_provider_mad.budget import transactions
from one_provider_mad.budget.months import Month
from one_provider_mad.budget.records import Observed, Wish
from one_provider_mad.budget.rules import Refusal, Scope, Terms, Use
from one_provider_mad.budget.schema import PRAGMAS, prepare
from one_provider_mad.database import Database
from one_provider_mad.domain import DeployId, Identity
from one_provider_mad.errors import BudgetError
from one_provider_mad.pricing.values import Price
from one_provider_mad.processes import Process
from one_provider_mad.timestamps import Timestamp


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
        self._opening = asyncio.Lock()
        self._is_open = False
        self._database = Database(
            path,
            pragmas=PRAGMAS,
            prepare=prepare,
            unusable=self._unusable,
            on_moved=lambda what: on_moved(f"the file of the budget {what} ({path})"),
        )

    def _unusable(self, error: Exception) -> Exception:
        return BudgetError(f"the file of the budget cannot be used: {error} ({self.path})")

    async def _opened(self) -> Database:
        """Open the file, creating it when it is missing; again with each call, until that succeeds."""
        async with self._opening:
            if not self._is_open:
                await self._database.open()
                self._is_open = True
        return self._database

    async def close(self) -> None:
        """Close the file."""
        if self._is_open:
            await self._database.close()

    async def admit(self, wish: Wish, *, scopes: Iterable[Scope], terms: Terms, at: Timestamp) -> Refusal | None:
        """Commit what is wished if all limits admit it; else return why not."""

        def admit(db: sqlite3.Connection) -> Refusal | None:
            return transactions.admit(db, wish, name=self.name, scopes=scopes, terms=terms, at=at, me=self._me)

        return await (await self._opened()).write(admit)

    async def settle(self, key: str, *, at: Timestamp, wait: float, deploy_id: str = "") -> None:
        """Note that no call for a commitment is under way any more; `wait` is as in transactions.py."""

        def settle(db: sqlite3.Connection) -> None:
            transactions.settle(db, key, name=self.name, deploy_id=deploy_id, wait=wait, at=at)

        await (await self._opened()).write(settle)

    async def release(self, key: str) -> None:
        """Forget the commitment of a create that certainly made nothing."""
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

        def reconcile(db: sqlite3.Connection) -> None:
            transactions.reconcile(db, observed, name=self.name, begun=begun, at=at, grace=grace)

        await (await self._opened()).write(reconcile)

    async def book(self, costs: Mapping[tuple[str, str], float], *, as_of: float, month: Month) -> None:
        """Record what this NAME's ledger has booked in a month, by user and group."""
        await (await self._opened()).write(
            lambda db: transactions.book(db, costs, name=self.name, as_of=as_of, month=month)
        )

    async def use_of(self, scope: Scope, month: Month) -> Use:
        """Return what the instances of a scope use."""
        return await (await self._opened()).read(lambda db: transactions.use_of(db, scope, month))

    async def use_until(self, scope: Scope, month: Month, *, until: float) -> tuple[Use, frozenset[str]]:
        """Return what the instances of a scope use, in the month until this time; and which are this NAME's."""

        def use(db: sqlite3.Connection) -> tuple[Use, frozenset[str]]:
            found = transactions.use_of(db, scope, month, until=until)
            return found, transactions.deploy_ids(db, scope, name=self.name)

        return await (await self._opened()).read(use)

    async def has_looked(self) -> bool:
        """Return True when the store was compared with the cloud of this NAME before."""
        return await (await self._opened()).read(lambda db: transactions.has_looked(db, self.name))

    async def waiting_tokens(self) -> list[str]:
        """Return the tokens of creates of dead processes whose instance is not known."""
        return await (await self._opened()).read(lambda db: transactions.waiting_tokens(db, self.name))
