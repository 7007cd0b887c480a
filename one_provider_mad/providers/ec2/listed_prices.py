"""The prices of one region as they are known: AWS's price list, spot prices, and the table that ships with the package.

Each is read in its own period, and kept when it cannot be read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from one_provider_mad.errors import ProviderError
from one_provider_mad.pricing.values import SPOT, Item, Kind, UnitPrice
from one_provider_mad.providers.ec2.built_in import built_in_prices
from one_provider_mad.providers.ec2.client import MOST_PAGES, Client, price_region
from one_provider_mad.providers.ec2.kept_lists import load, save
from one_provider_mad.providers.ec2.losses import pause_after, say_loss
from one_provider_mad.providers.ec2.price_list import (
    OPERATIONS,
    PART,
    Listed,
    PriceList,
    Query,
    collected,
    queries,
    read_page,
)
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.ec2.spot_prices import SpotPrices, spot_prices
from one_provider_mad.providers.ec2.types import DAY, PATIENCE, SOON, is_due

HOUR = 3600.0

NOTHING_STOPPED = "EC2 charges nothing for a stopped instance itself"
"""Source of the price of a stopped instance's processor and memory."""


class ListedPrices:
    """The prices of the region of an account.

    Args:
        client: the connection to EC2 and the price list service.
        settings: the table `[ec2]`.
        path: the file for the price list.
        clock: seconds since the epoch.
        warn: sends the operator one sentence.
    """

    def __init__(
        self,
        client: Client,
        settings: Ec2Settings,
        *,
        path: Path,
        clock: Callable[[], float],
        warn: Callable[[str], None],
    ) -> None:
        self._client = client
        self._settings = settings
        self._path = path
        self._clock = clock
        self._warn = warn
        self._table: PriceList | None = None
        self._is_table_read = False
        self._list = PriceList(endpoint=settings.pricing_endpoint_url, region=settings.region)
        self._spot = SpotPrices()
        self._wanted = {""}
        self._renewed: set[str] = set()
        self._next: dict[str, float] = {}
        self._failures: dict[str, str] = {}

    def unit(self, item: Item) -> UnitPrice:
        """Return the price of one unit of an item; unknown where no list has it. Pure."""
        if item.kind is Kind.COMPUTE and not item.is_running:
            return UnitPrice(amount=0.0, currency=self._currency, source=NOTHING_STOPPED)
        if item.kind is Kind.COMPUTE and item.market == SPOT:
            return self._spot.unit(item)
        found = self._list.unit(item)
        return found if found.amount is not None or self._table is None else self._table.unit(item)

    @property
    def _currency(self) -> str:
        return self._list.currency or (self._table.currency if self._table else "")

    def want(self, systems: Collection[str]) -> None:
        """Have the prices of these operating systems read from now on."""
        self._wanted |= {each for each in systems if each in OPERATIONS}

    @property
    def lists(self) -> tuple[object, ...]:
        """Return what prices are taken from: other objects once a price may have changed."""
        return self._list, self._spot, self._table

    async def read(self, *, has_spot: bool) -> None:
        """Read what is due.

        Args:
            has_spot: whether a failure to read spot prices concerns anyone.
        """
        if not self._is_table_read:
            await asyncio.to_thread(self._read_table)
        if price_region(self._settings):
            await self._read_list()
        if self._is_due("spot"):
            await self._try("spot", self._read_spot, "spot prices are not known", period=HOUR, is_said=has_spot)

    def _read_table(self) -> None:
        # A compatible cloud has Amazon's types at best, not its prices.
        self._table = None if self._settings.endpoint_url else built_in_prices(self._settings.region)
        self._is_table_read = True

    # AWS's price list

    async def _read_list(self) -> None:
        if not (self._missing() and self._is_due("list")):
            return
        await asyncio.to_thread(self._load)
        if self._missing():
            table = f" but for those of this release's table, of {self._table.date}" if self._table else ""
            loss = f"on-demand prices of {self._settings.region} are not known{table}"
            await self._try("list", self._ask, loss)

    def _missing(self) -> list[str]:
        """Return what must be asked for: all once a day, else what is wanted and was never asked for."""
        everything = {PART, *self._wanted}
        if is_due(self._clock(), self._list.read_at + DAY):
            return sorted(everything)
        return sorted(everything - {PART, *self._list.compute})

    def _load(self) -> None:
        kept = load(self._path, PriceList)
        if kept is None or (kept.endpoint, kept.region) != (self._list.endpoint, self._list.region):
            return
        if self._list.read_at < kept.read_at <= self._clock() + 1 or kept.compute.keys() > self._list.compute.keys():
            self._list = kept
            self._renewed.clear()

    async def _ask(self) -> None:
        """Ask for one operating system after the other: what has come counts, even if the rest does not come."""
        missing = self._missing()
        is_whole = PART in missing
        for asked in missing:
            if asked not in self._renewed:
                self._list = self._list.renewed(await self._fresh(asked))
            if is_whole:
                self._renewed.add(asked)
        if is_whole:
            self._renewed.clear()
            self._list = self._list.only(missing, read_at=self._clock())
        with suppress(OSError):  # it is only a cache
            await asyncio.to_thread(save, self._path, self._list)

    async def _fresh(self, asked: str) -> PriceList:
        blank = msgspec.structs.replace(self._list, compute={}, parts={}, currency="", date="")
        return collected({asked: await self._ask_all(queries(self._settings.region, asked))}, blank=blank)

    async def _ask_all(self, wanted: Sequence[Query]) -> list[Listed]:
        return [each for query in wanted for each in await self._pages(query)]

    async def _pages(self, query: Query) -> list[Listed]:
        found: list[Listed] = []
        token = ""
        for _ in range(MOST_PAGES):
            page = await self._client.products(query.written(token), read=read_page)
            found += page.prices
            if not (token := page.token):
                break
        return found

    # Spot

    async def _read_spot(self) -> None:
        self._spot = await spot_prices(self._client, self._wanted, region=self._settings.region, now=self._clock())

    # Failures

    def _is_due(self, name: str) -> bool:
        return is_due(self._clock(), self._next.get(name, 0.0))

    async def _try(
        self, name: str, ask: Callable[[], Awaitable[None]], loss: str, *, period: float = 0.0, is_said: bool = True
    ) -> None:
        """Call `ask`, and not again within the period; after an error, which is said once, not for some minutes."""
        self._next[name] = self._clock() + SOON  # for one whose caller gives up
        try:
            async with asyncio.timeout(PATIENCE):
                await ask()
        except (ProviderError, TimeoutError) as error:
            self._next[name] = self._clock() + pause_after(error)
            sentence = str(error) or f"there was no whole answer within {PATIENCE:g} s"
            if is_said and self._failures.get(name) != sentence:
                self._failures[name] = sentence
                say_loss(f"{loss}: {sentence}", error, warn=self._warn)
        else:
            self._next[name] = self._clock() + period
            self._failures.pop(name, None)
