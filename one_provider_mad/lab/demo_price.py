"""Shows what the demonstration's instance costs an hour, part by part."""

from __future__ import annotations

from one_provider_mad.cli.asked_cloud import Cloud
from one_provider_mad.domain import VmId
from one_provider_mad.pricing.values import UNKNOWN, Price, figure
from one_provider_mad.providers.interface import PriceSource


async def price_of_vm(cloud: Cloud, vm_id: int) -> Price:
    """Ask the cloud for a VM's instance and its prices; return what the instance costs, UNKNOWN without prices."""
    instance = await cloud.instance_of(VmId(vm_id))
    provider = cloud.provider
    if not isinstance(provider, PriceSource):
        return UNKNOWN
    await provider.read_prices([instance])
    return provider.price_of(instance)


def price_line(price: Price) -> str:
    """Return a price for a person: `0.0210 USD an hour: t3.small 0.0200, gp3 0.0010`."""
    parts = ", ".join(f"{each.item.name} {'?' if each.amount is None else figure(each.amount)}" for each in price.parts)
    return f"{price.text}{f' {price.currency}' if price.currency else ''} an hour{f': {parts}' if parts else ''}"
