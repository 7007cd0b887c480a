"""Prices the instances and parts that a search for orphans has found, as far as the provider knows prices."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import structlog

from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, Instance
from one_provider_mad.errors import MadError
from one_provider_mad.pricing.values import Price
from one_provider_mad.providers.interface import PriceSource

log = structlog.get_logger()

_SECONDS = 120.0
"""Most seconds that a search waits for prices; without them it tells none, and the next one asks again."""


async def prices_of(
    cloud: Cloud, instances: Sequence[Instance], wanted: Collection[DeployId]
) -> Mapping[DeployId, Price]:
    """Return what the wanted ones of the listed instances cost an hour; none where the provider knows no prices.

    Nothing is asked of the cloud unless an instance is wanted. No failure stops the search.
    """
    provider = cloud.provider
    named = [each for each in instances if each.deploy_id in wanted]
    if not named or not isinstance(provider, PriceSource):
        return {}
    try:
        async with asyncio.timeout(_SECONDS):
            await provider.read_prices(instances)
    except (MadError, TimeoutError) as error:
        log.info("prices not read", reason=str(error) or f"no answer within {_SECONDS:g} s")
    # In a thread: of thousands, each at its first price, that takes some tenths of a second.
    return await asyncio.to_thread(lambda: {each.deploy_id: provider.price_of(each) for each in named})


def price_entry(price: Price | None) -> Mapping[str, object] | None:
    """Return a price for the record of the search, as JSON takes it; None for none.

    `amount` is in units of currency an hour, None when a part is unknown; `known` is the sum of the known parts.
    """
    if price is None:
        return None
    return {"amount": price.amount, "known": price.known, "currency": price.currency, "text": price.text}
