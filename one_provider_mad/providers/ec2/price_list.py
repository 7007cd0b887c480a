"""AWS's price list of one region, as the service GetProducts answers it; no I/O.

From docs.aws.amazon.com, API_pricing_GetProducts, "Finding services and products" and "AMI billing information fields":
each product is JSON within a string; a product of EC2 or EBS is recognised by the end of its `usagetype`, whose
beginning names the region.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from one_provider_mad.domain import Value
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.pricing.values import MONTH_HOURS, Item, Kind, UnitPrice
from one_provider_mad.providers.ec2.price_items import (
    GP3_IOPS,
    GP3_THROUGHPUT,
    IO1_IOPS,
    IO2_IOPS,
    PUBLIC_IPV4,
    SNAPSHOT_NAME,
)

SOURCE = "AWS price list"
"""Source of these prices, for a person."""

OPERATIONS: Mapping[str, str] = {
    "": "RunInstances",
    "Windows": "RunInstances:0002",
    "Windows BYOL": "RunInstances:0800",
    "Windows with SQL Server Web": "RunInstances:0202",
    "Windows with SQL Server Standard": "RunInstances:0006",
    "Windows with SQL Server Enterprise": "RunInstances:0102",
    "SQL Server Web": "RunInstances:0200",
    "SQL Server Standard": "RunInstances:0004",
    "SQL Server Enterprise": "RunInstances:0100",
    "Red Hat Enterprise Linux": "RunInstances:0010",
    "Red Hat Enterprise Linux with HA": "RunInstances:1010",
    "Red Hat Enterprise Linux with SQL Server Web": "RunInstances:0210",
    "Red Hat Enterprise Linux with SQL Server Standard": "RunInstances:0014",
    "Red Hat Enterprise Linux with SQL Server Enterprise": "RunInstances:0110",
    "Red Hat Enterprise Linux with SQL Server Standard and HA": "RunInstances:1014",
    "Red Hat Enterprise Linux with SQL Server Enterprise and HA": "RunInstances:1110",
    "SUSE Linux": "RunInstances:000g",
    "Ubuntu Pro": "RunInstances:0g00",
    "Red Hat BYOL Linux": "RunInstances:00g0",
}
"""Operating system, as EC2's platform details name it, to the operation by which it is charged."""

PARTS: Mapping[str, str] = {
    "EBS:VolumeUsage": "standard",
    "EBS:VolumeUsage.gp2": "gp2",
    "EBS:VolumeUsage.gp3": "gp3",
    "EBS:VolumeUsage.piops": "io1",
    "EBS:VolumeUsage.io2": "io2",
    "EBS:VolumeUsage.st1": "st1",
    "EBS:VolumeUsage.sc1": "sc1",
    "EBS:VolumeP-IOPS.gp3": GP3_IOPS,
    "EBS:VolumeP-Throughput.gp3": GP3_THROUGHPUT,
    "EBS:VolumeP-IOPS.piops": IO1_IOPS,
    "EBS:VolumeP-IOPS.io2": IO2_IOPS[0],
    "EBS:VolumeP-IOPS.io2.tier2": IO2_IOPS[1],
    "EBS:VolumeP-IOPS.io2.tier3": IO2_IOPS[2],
    "EBS:SnapshotUsage": SNAPSHOT_NAME,
    "PublicIPv4:InUseAddress": PUBLIC_IPV4,
}
"""End of a usage type to the name of what it charges for."""

_REGION_PREFIX = re.compile(r"[A-Z0-9]{2,8}-")

_UNITS: Mapping[str, float] = {
    "hrs": 1.0,
    "gb-mo": 1 / MONTH_HOURS,
    "gb-month": 1 / MONTH_HOURS,
    "iops-mo": 1 / MONTH_HOURS,
    "mibps-mo": 1 / MONTH_HOURS,
    "gibps-mo": 1 / MONTH_HOURS / 1024,
}
"""Unit of a price to the factor for an hour and a GiB, IOPS or MiB/s."""


PART = "parts"
"""What is asked for beside operating systems."""


class Query(Value, frozen=True, kw_only=True):
    """One question to the price list service.

    Attributes:
        service: service code.
        filters: field to value; all must match.
    """

    service: str
    filters: Mapping[str, str]

    def written(self, token: str) -> dict[str, Any]:
        """Return the parameters of GetProducts for one page."""
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": text} for field, text in self.filters.items()]
        wanted = {"ServiceCode": self.service, "Filters": filters, "FormatVersion": "aws_v1", "MaxResults": 100}
        return {**wanted, "NextToken": token} if token else wanted


def queries(region: str, asked: str) -> list[Query]:
    """Return the questions for PART, or for all types with an operating system."""
    return part_queries(region) if asked == PART else compute_queries(region, asked)


def compute_queries(region: str, system: str) -> list[Query]:
    """Return the questions for all types with an operating system; none for a system without an operation.

    A bare metal instance is listed as one of dedicated tenancy, and costs no more for that.
    """
    if system not in OPERATIONS:
        return []
    common = {"regionCode": region, "operation": OPERATIONS[system]}
    common |= {"capacitystatus": "Used", "marketoption": "OnDemand"}
    shared = {**common, "tenancy": "Shared", "productFamily": "Compute Instance"}
    metal = {**common, "tenancy": "Dedicated", "productFamily": "Compute Instance (bare metal)"}
    return [Query(service="AmazonEC2", filters=each) for each in (shared, metal)]


def part_queries(region: str) -> list[Query]:
    """Return the questions for volumes, their IOPS and throughput, snapshots and addresses."""
    families = ("Storage", "System Operation", "Provisioned Throughput", "Storage Snapshot")
    return [
        *(Query(service="AmazonEC2", filters={"regionCode": region, "productFamily": each}) for each in families),
        Query(service="AmazonVPC", filters={"regionCode": region, "group": "VPCPublicIPv4Address"}),
    ]


# Reading


class _Dimension(msgspec.Struct):
    unit: str = ""
    begin_range: str = msgspec.field(name="beginRange", default="0")
    per_unit: dict[str, str] = msgspec.field(name="pricePerUnit", default_factory=dict)


class _Term(msgspec.Struct):
    dimensions: dict[str, _Dimension] = msgspec.field(name="priceDimensions", default_factory=dict)


class _Terms(msgspec.Struct):
    on_demand: dict[str, _Term] = msgspec.field(name="OnDemand", default_factory=dict)


class _Product(msgspec.Struct):
    attributes: dict[str, str] = {}


class _Entry(msgspec.Struct):
    product: _Product = msgspec.field(default_factory=_Product)
    terms: _Terms = msgspec.field(default_factory=_Terms)
    published: str = msgspec.field(name="publicationDate", default="")


class _Page(msgspec.Struct):
    entries: list[str] = msgspec.field(name="PriceList", default_factory=list)
    token: str | None = msgspec.field(name="NextToken", default=None)


class Listed(Value, frozen=True, kw_only=True):
    """One price of a page.

    Attributes:
        name: instance type, or the name of a part.
        amount: units of currency an hour.
        currency: ISO 4217 code.
        date: the day when AWS published the list, "" when unknown.
    """

    name: str
    amount: float
    currency: str
    date: str


class ListPage(Value, frozen=True, kw_only=True):
    """One page of an answer.

    Attributes:
        prices: its prices.
        token: of the next page, "" for none.
    """

    prices: Sequence[Listed]
    token: str


_ENTRY = msgspec.json.Decoder(_Entry)
_PAGE = msgspec.json.Decoder(_Page)


def read_page(body: bytes) -> ListPage:
    """Return the prices of an answer to GetProducts; products of other kinds are left out.

    Raises:
        ProviderUnavailable: it is another document.
    """
    try:
        page = _PAGE.decode(body)
        entries = [_ENTRY.decode(each) for each in page.entries]
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProviderUnavailable(f"AWS price list: the answer to GetProducts cannot be read: {error}") from error
    return ListPage(prices=[each for entry in entries for each in _listed(entry)], token=page.token or "")


def _listed(entry: _Entry) -> Iterator[Listed]:
    name = _name(entry.product.attributes)
    for term in entry.terms.on_demand.values() if name else ():
        for dimension in term.dimensions.values():
            if (found := _amount(dimension)) is not None:
                amount, currency = found
                yield Listed(name=name, amount=amount, currency=currency, date=entry.published[:10])


def _name(attributes: Mapping[str, str]) -> str:
    """Return the instance type of a product, or the name of a part; "" for a product of another kind."""
    usage = attributes.get("usagetype", "")
    if part := PARTS.get(usage) or PARTS.get(_REGION_PREFIX.sub("", usage, count=1)):
        return part
    return attributes.get("instanceType", "") if "operatingSystem" in attributes else ""


def _amount(dimension: _Dimension) -> tuple[float, str] | None:
    """Return the price an hour of the first tier and its currency; None for another tier, unit or a price of zero.

    Nothing in EC2 costs zero: where the list says so, the price is elsewhere, as of a reservation's unused hours.
    """
    factor = _UNITS.get(dimension.unit.lower())
    if factor is None or dimension.begin_range not in ("", "0"):
        return None
    for currency, text in dimension.per_unit.items():
        try:
            amount = float(text)
        except ValueError:
            continue
        if 0 < amount < 1e9:
            return amount * factor, currency
    return None


# Keeping


class PriceList(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The prices of one region; written to a file as JSON.

    Attributes:
        endpoint: of the service that was asked, "" for Amazon's.
        region: the region.
        compute: amount an hour by operating system ("" for Linux) and type.
        parts: amount an hour of one unit by the part's name.
        currency: ISO 4217 code.
        date: the day when AWS published the list.
        source: where the figures come from, for a person.
        read_at: when the list was read, seconds since the epoch; 0 for one that ships with the package.
    """

    endpoint: str = ""
    region: str
    compute: dict[str, dict[str, float]] = {}
    parts: dict[str, float] = {}
    currency: str = ""
    date: str = ""
    source: str = SOURCE
    read_at: float = 0.0

    def unit(self, item: Item) -> UnitPrice:
        """Return the price of one unit of an item on demand; unknown where the list has none."""
        amount = (
            self.compute.get(item.system, {}).get(item.name) if item.kind is Kind.COMPUTE else self.parts.get(item.name)
        )
        if amount is None:
            return UnitPrice()
        return UnitPrice(amount=amount, currency=self.currency, source=self.source, date=self.date)

    def renewed(self, other: PriceList) -> PriceList:
        """Return the list with the other's prices, which replace those of the same operating system, or of all parts.

        Raises:
            ProviderUnavailable: the other's are in another currency.
        """
        if self.currency and other.currency and self.currency != other.currency:
            raise _in_several({self.currency, other.currency})
        return msgspec.structs.replace(
            self,
            compute={**self.compute, **other.compute},
            parts=other.parts or self.parts,
            currency=other.currency or self.currency,
            date=max(self.date, other.date),
        )

    def only(self, asked: Collection[str], *, read_at: float) -> PriceList:
        """Return the list with the prices of these operating systems alone, as read at this time."""
        compute = {system: prices for system, prices in self.compute.items() if system in asked}
        return msgspec.structs.replace(self, compute=compute, read_at=read_at)


def _in_several(currencies: Collection[str]) -> ProviderUnavailable:
    return ProviderUnavailable(f"AWS price list: prices in several currencies, {', '.join(sorted(currencies))}")


def collected(prices: Mapping[str, Sequence[Listed]], *, blank: PriceList) -> PriceList:
    """Return a list with the prices of all pages.

    Args:
        prices: of types, by operating system, and under PART of volumes and the like.
        blank: the list without prices.

    Raises:
        ProviderUnavailable: there are prices in several currencies.
    """
    every = [each for listed in prices.values() for each in listed]
    currencies = {each.currency for each in every}
    if len(currencies) > 1:
        raise _in_several(currencies)
    by_name = {system: {each.name: each.amount for each in listed} for system, listed in prices.items()}
    return msgspec.structs.replace(
        blank,
        parts=by_name.pop(PART, {}),
        compute=by_name,
        currency=next(iter(currencies), ""),
        date=max((each.date for each in every), default=blank.date),
    )
