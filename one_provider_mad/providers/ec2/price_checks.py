"""Self-check of the rights to read prices: what is missing, and what then is unknown. Nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from one_provider_mad.errors import PermissionDenied, ProviderError
from one_provider_mad.providers.ec2.built_in import built_in_prices
from one_provider_mad.providers.ec2.client import Client, price_region
from one_provider_mad.providers.ec2.price_list import PART, queries, read_page
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.interface import CheckResult

WHAT = "prices"

_HELD = "DryRunOperation"

_LOSSES: Mapping[str, str] = {
    "DescribeInstanceTypes": "types are those of this release's table",
    "DescribeSpotPriceHistory": "prices of spot instances are unknown",
    "DescribeAddresses": "one public address of an instance is counted at most",
    "DescribeSubnets": "each new instance is priced with a public address",
}
"""Action to what is unknown without the right to it."""


async def price_checks(client: Client, settings: Ec2Settings) -> list[CheckResult]:
    """Check the rights to read prices; none are needed where a cloud has no price list of AWS's."""
    if settings.endpoint_url and not settings.pricing_endpoint_url:
        return []
    listed = await _price_list(client, settings)
    missing = [action for action in _LOSSES if await _is_refused(client, action)]
    losses = [_unknown(f"{action} is not held", f"allow ec2:{action}, or {_LOSSES[action]}") for action in missing]
    return [*listed, *losses]


async def _is_refused(client: Client, action: str) -> bool:
    """Return True when EC2 refuses the action for want of a right; another error says nothing about that."""
    try:
        await client.call(action, {"DryRun": "true"}, read=lambda _: None)
    except PermissionDenied:
        return True
    except ProviderError:
        return False
    return False


async def _price_list(client: Client, settings: Ec2Settings) -> list[CheckResult]:
    region = settings.region
    table = await asyncio.to_thread(built_in_prices, region)
    instead = (
        f"only Linux on demand has prices, those of this release's table of {table.date}"
        if table
        else f"prices on demand are unknown in {region}"
    )
    if not price_region(settings):
        found = f"AWS's price list service does not serve {region}: {instead}"
        return [_unknown(found, "set the prices of your types and disks in [prices]")]
    query = next(each for each in queries(region, PART) if each.filters.get("productFamily") == "Storage")
    try:
        page = await client.products({**query.written(""), "MaxResults": 1}, read=read_page)
    except PermissionDenied:
        remedy = f"allow pricing:GetProducts, or set prices in [prices]; until then {instead}"
        return [_unknown("GetProducts is not held", remedy)]
    except ProviderError as error:
        remedy = f"let this machine reach the service, or set prices in [prices]; until then {instead}"
        return [_unknown(str(error), remedy)]
    if not page.prices:
        found = f"AWS's price list has nothing of {region}: {instead}"
        return [_unknown(found, "correct region in [ec2], or set prices in [prices]")]
    return [CheckResult(what=WHAT, is_well=True, found=f"the price list of {region} can be read")]


def _unknown(found: str, remedy: str) -> CheckResult:
    return CheckResult(what=WHAT, is_well=None, found=found, remedy=remedy)
