"""What the account's region costs: GetProducts of AWS's price list service, and DescribeSpotPriceHistory.

A type of Linux has the price that it has in the simulated cloud, or else that of us-east-1 in the package's own table;
the rest has the prices of us-east-1. A test or trial may set others. From docs.aws.amazon.com, API_pricing_GetProducts
and API_DescribeSpotPriceHistory.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2.answers import Answer, moment
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal
from one_provider_mad.lab.ec2.resources import Resources
from one_provider_mad.providers.ec2.built_in import built_in_prices, built_in_types

SERVICE_REGION = "us-east-1"
"""Region of the price list service, which has no endpoint in most regions."""

LIKE = "us-east-1"

MOST_PRODUCTS = 100

WINDOWS_A_CORE = 0.046
"""Dollars an hour by which a virtual CPU costs more with Windows."""

LINUX, WINDOWS = "Linux/UNIX", "Windows"

_OPERATIONS = {LINUX: ("RunInstances", "Linux"), WINDOWS: ("RunInstances:0002", "Windows")}
"""Platform details to the operation and the operating system of their products."""

PARTS: Mapping[str, tuple[str, str, float]] = {
    "EBS:VolumeUsage": ("Storage", "GB-Mo", 0.05),
    "EBS:VolumeUsage.gp2": ("Storage", "GB-Mo", 0.10),
    "EBS:VolumeUsage.gp3": ("Storage", "GB-Mo", 0.08),
    "EBS:VolumeUsage.piops": ("Storage", "GB-Mo", 0.125),
    "EBS:VolumeUsage.io2": ("Storage", "GB-Mo", 0.125),
    "EBS:VolumeUsage.st1": ("Storage", "GB-Mo", 0.045),
    "EBS:VolumeUsage.sc1": ("Storage", "GB-Mo", 0.015),
    "EBS:VolumeP-IOPS.gp3": ("System Operation", "IOPS-Mo", 0.005),
    "EBS:VolumeP-IOPS.piops": ("System Operation", "IOPS-Mo", 0.065),
    "EBS:VolumeP-IOPS.io2": ("System Operation", "IOPS-Mo", 0.065),
    "EBS:VolumeP-IOPS.io2.tier2": ("System Operation", "IOPS-Mo", 0.0455),
    "EBS:VolumeP-IOPS.io2.tier3": ("System Operation", "IOPS-Mo", 0.03185),
    "EBS:VolumeIOUsage": ("System Operation", "IOs", 0.00000005),
    "EBS:VolumeP-Throughput.gp3": ("Provisioned Throughput", "GiBps-mo", 40.96),
    "EBS:SnapshotUsage": ("Storage Snapshot", "GB-Mo", 0.05),
    "EBS:SnapshotArchiveStorage": ("Storage Snapshot", "GB-Mo", 0.0125),
    "PublicIPv4:InUseAddress": ("", "Hrs", 0.005),
    "PublicIPv4:IdleAddress": ("", "Hrs", 0.005),
    "PublicIPv4:ContiguousBlock": ("", "Hrs", 0.008),
}
"""End of a usage type to product family, unit, and dollars a unit."""

_SPOT_SHARES = {"a": 0.35, "b": 0.4, "c": 0.3}
"""Zone to the part of the on-demand price that a spot instance costs in it."""


class PriceLists:
    """The prices of the served region.

    Args:
        resources: the account.

    Attributes:
        on_demand: dollars an hour by platform details and type, where they are not the usual ones.
        spot: dollars an hour by type and zone, where they are not the usual ones.
        parts: family, unit and dollars a unit by the end of a usage type.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self.on_demand: dict[tuple[str, str], float] = {}
        self.spot: dict[tuple[str, str], float] = {}
        self.parts = dict(PARTS)
        self._usual: dict[tuple[str, str], float] | None = None

    async def products(self, form: Form) -> Answer:
        """Carry out GetProducts: the products that all filters name, at most 100 a page."""
        service = forms.value(form, "ServiceCode")
        if form.get("FormatVersion", "aws_v1") != "aws_v1":
            raise Refusal("InvalidParameterException", "Input Parameters are invalid. Format Version is not valid")
        size = forms.number(form, "MaxResults", MOST_PRODUCTS)
        if not 1 <= size <= MOST_PRODUCTS:
            raise Refusal("InvalidParameterException", f"MaxResults must be at most {MOST_PRODUCTS}")
        begin = _begin(form.get("NextToken", ""))
        filters = list(_filters(form))
        found = [each for each in await self._products(service) if _passes(each["product"], filters)]
        page, more = found[begin : begin + size], len(found) > begin + size
        return {
            "FormatVersion": "aws_v1",
            "PriceList": [json.dumps(each) for each in page],
            **({"NextToken": f"products-{begin + size}:0"} if more else {}),
        }

    async def history(self, form: Form) -> Answer:
        """Carry out DescribeSpotPriceHistory: the price in force of each type in each zone, changed an hour ago."""
        now = self._resources.clock()
        platforms = forms.listed(form, "ProductDescription") or [LINUX, WINDOWS]
        types, zones = forms.listed(form, "InstanceType"), forms.filters(form).get("availability-zone", [])
        if (zone := form.get("AvailabilityZone")) is not None:
            zones = [zone]
        prices = [
            {
                "instanceType": type_name,
                "productDescription": platform,
                "spotPrice": f"{amount:.6f}",
                "timestamp": moment(now - 3600),
                "availabilityZone": zone,
            }
            for platform, type_name, zone, amount in await self._spot_prices()
            if platform in platforms and type_name in (types or [type_name]) and zone in (zones or [zone])
        ]
        page, more = forms.Page.of(form).cut(list(enumerate(prices, 1)), lambda numbered: numbered[0])
        return {"spotPriceHistorySet": [price for _, price in page], **more}

    async def _spot_prices(self) -> list[tuple[str, str, str, float]]:
        """Return platform, type, zone and price."""
        prices = await self._on_demand()
        return [
            (platform, type_name, zone, self.spot.get((type_name, zone), share * amount))
            for (platform, type_name), amount in prices.items()
            for letter, share in _SPOT_SHARES.items()
            for zone in [f"{self._resources.region}{letter}"]
        ]

    async def _on_demand(self) -> dict[tuple[str, str], float]:
        """Return the prices of the types on offer by platform details and type."""
        if self._usual is None:
            self._usual = await asyncio.to_thread(_usual_prices)
        offered = self._resources.settings.offer.types
        set_prices = {(LINUX, name): kind.price for name, kind in offered.items() if kind.price and "." in name}
        prices = {**self._usual, **set_prices, **self.on_demand}
        return {key: amount for key, amount in sorted(prices.items()) if key[1] in offered}

    async def _products(self, service: str) -> list[Answer]:
        if service == "AmazonVPC":
            return list(self._part_products(addresses=True))
        if service != "AmazonEC2":
            return []
        prices = await self._on_demand()
        return [
            *(self._compute(*key, amount) for key, amount in prices.items()),
            *self._part_products(addresses=False),
        ]

    def _compute(self, platform: str, type_name: str, amount: float) -> Answer:
        operation, system = _OPERATIONS[platform]
        is_metal = ".metal" in type_name
        attributes = {
            "servicecode": "AmazonEC2",
            "instanceType": type_name,
            "operatingSystem": system,
            "operation": operation,
            "preInstalledSw": "NA",
            "tenancy": "Dedicated" if is_metal else "Shared",
            "capacitystatus": "Used",
            "marketoption": "OnDemand",
            "usagetype": f"{self._prefix}BoxUsage:{type_name}",
        }
        family = "Compute Instance (bare metal)" if is_metal else "Compute Instance"
        return self._product(family, attributes, "Hrs", amount)

    def _part_products(self, *, addresses: bool) -> Iterator[Answer]:
        for usage, (family, unit, amount) in self.parts.items():
            if usage.startswith("PublicIPv4") is addresses:
                attributes = {"usagetype": f"{self._prefix}{usage}"}
                if addresses and not usage.endswith("ContiguousBlock"):
                    attributes["group"] = "VPCPublicIPv4Address"
                yield self._product(family, attributes, unit, amount)

    def _product(self, family: str, attributes: Mapping[str, str], unit: str, amount: float) -> Answer:
        """Return one entry of the list; AWS has the terms of reservations in it as well."""
        sku = re.sub(r"\W", "", attributes["usagetype"]).upper()[-16:]
        dimension = {
            "unit": unit,
            "beginRange": "0",
            "endRange": "Inf",
            "description": f"${amount} per {unit}",
            "appliesTo": [],
            "rateCode": f"{sku}.JRTCKXETXF.6YS6EN2CT7",
            "pricePerUnit": {"USD": f"{amount:.10f}"},
        }
        term = {"sku": sku, "offerTermCode": "JRTCKXETXF", "priceDimensions": {dimension["rateCode"]: dimension}}
        return {
            "product": {
                **({"productFamily": family} if family else {}),
                "attributes": {"regionCode": self._resources.region, **attributes},
                "sku": sku,
            },
            "serviceCode": attributes.get("servicecode", "AmazonVPC"),
            "terms": {"OnDemand": {f"{sku}.JRTCKXETXF": term}, "Reserved": {}},
            "publicationDate": moment(self._resources.clock()),
        }

    @property
    def _prefix(self) -> str:
        """Return the beginning of usage types, which us-east-1 alone has not."""
        return "" if self._resources.region == LIKE else "EU-"


def _usual_prices() -> dict[tuple[str, str], float]:
    listed = built_in_prices(LIKE)
    linux = listed.compute[""] if listed is not None else {}
    types = built_in_types()
    windows = {name: amount + WINDOWS_A_CORE * types[name].cpu for name, amount in linux.items() if name in types}
    return {
        **{(LINUX, name): amount for name, amount in linux.items()},
        **{(WINDOWS, name): amount for name, amount in windows.items()},
    }


def _filters(form: Form) -> Iterator[tuple[str, str]]:
    at = 1
    while (field := form.get(f"Filters.member.{at}.Field")) is not None:
        if form.get(f"Filters.member.{at}.Type") != "TERM_MATCH":
            raise Refusal("InvalidParameterException", "Filter Type must be TERM_MATCH")
        yield field, form.get(f"Filters.member.{at}.Value", "")
        at += 1


def _passes(product: Mapping[str, Any], filters: Sequence[tuple[str, str]]) -> bool:
    known = {**product["attributes"], "productFamily": product.get("productFamily", "")}
    return all(known.get(field) == text for field, text in filters)


def _begin(token: str) -> int:
    match = re.fullmatch(r"products-(\d{1,9}):0", token)
    if token and match is None:
        raise Refusal("InvalidNextTokenException", "Invalid NextToken")
    return int(match[1]) if match else 0
