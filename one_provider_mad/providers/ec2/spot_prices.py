"""The prices of spot instances, by type, zone and operating system.

From docs.aws.amazon.com, API_DescribeSpotPriceHistory: with the present time as StartTime the answer has the price in
force for each type, product and zone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from one_provider_mad.pricing.values import Item, UnitPrice
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.price_items import system_of
from one_provider_mad.providers.ec2.query import numbered
from one_provider_mad.safe_xml import Element, elements_at, text_of

SOURCE = "EC2 spot price"
"""Source of these prices, for a person."""

DOLLARS, YUAN = "USD", "CNY"

LINUX = "Linux/UNIX"
_VPC = " (Amazon VPC)"
"""End of a product's description for accounts that once had EC2-Classic; the price is the same."""


_SOLD = ("", "Red Hat Enterprise Linux", "SUSE Linux", "Windows")
"""The operating systems with spot prices (API_DescribeSpotPriceHistory, product-description); "" for Linux. EC2 may
refuse a call that names others, and then tell no price at all."""


class SpotPrice(NamedTuple):
    """The price of one type in one zone.

    Attributes:
        type_name: instance type.
        zone: availability zone.
        system: operating system, "" for Linux.
        amount: units of currency an hour.
        at: since when, as EC2 writes it.
    """

    type_name: str
    zone: str
    system: str
    amount: float
    at: str


def read_spot_prices(root: Element) -> list[SpotPrice]:
    """Return the prices of an answer to DescribeSpotPriceHistory; one that cannot be read is left out."""
    return list(_prices(root))


def _prices(root: Element) -> Iterator[SpotPrice]:
    for item in elements_at(root, "spotPriceHistorySet/item"):
        fields = {str(child.tag): text_of(child) for child in item}
        try:
            amount = float(fields.get("spotPrice", ""))
        except ValueError:
            continue
        if 0 < amount < 1e6:
            yield SpotPrice(
                type_name=fields.get("instanceType", ""),
                zone=fields.get("availabilityZone", ""),
                system=system_of(fields.get("productDescription", "").removesuffix(_VPC)),
                amount=amount,
                at=fields.get("timestamp", ""),
            )


async def spot_prices(client: Client, systems: Collection[str], *, region: str, now: float) -> SpotPrices:
    """Return the prices in force for these operating systems.

    Raises:
        ProviderError: a page is not available.
    """
    at = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    products = sorted(name for each in _SOLD if each in systems for name in (each or LINUX, f"{each or LINUX}{_VPC}"))
    asked = {"StartTime": at, "MaxResults": "1000", **numbered("ProductDescription", products)}
    pages = client.pages("DescribeSpotPriceHistory", asked, read=read_spot_prices)
    prices = [price async for page in pages for price in page]
    # In a thread: a region has thousands.
    return await asyncio.to_thread(SpotPrices, prices, currency=currency_of(region), date=at[:10])


def currency_of(region: str) -> str:
    """Return the currency of a region's spot prices: dollars, but in China."""
    return YUAN if region.startswith("cn-") else DOLLARS


class SpotPrices:
    """The prices in force.

    Args:
        prices: each type's in each zone; of several for one the latest counts.
        currency: ISO 4217 code.
        date: the day when they were read.
    """

    def __init__(self, prices: Iterable[SpotPrice] = (), *, currency: str = DOLLARS, date: str = "") -> None:
        self._currency = currency
        self._date = date
        latest: dict[tuple[str, str, str], SpotPrice] = {}
        for price in prices:
            key = (price.system, price.type_name, price.zone)
            if key not in latest or latest[key].at < price.at:
                latest[key] = price
        self._zones: dict[tuple[str, str], dict[str, float]] = {}
        for (system, type_name, zone), price in latest.items():
            self._zones.setdefault((system, type_name), {})[zone] = price.amount

    def unit(self, item: Item) -> UnitPrice:
        """Return the price of an instance; in no certain zone the highest of the zones' prices: it costs no more."""
        zones = self._zones.get((item.system, item.name), {})
        amount = zones.get(item.place) if item.place else max(zones.values(), default=None)
        if amount is None:
            return UnitPrice()
        return UnitPrice(amount=amount, currency=self._currency, source=SOURCE, date=self._date)
