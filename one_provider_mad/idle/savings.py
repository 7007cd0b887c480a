"""Computes what a power off saves an hour."""

from __future__ import annotations

from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, InstanceState, Value
from one_provider_mad.pricing.values import Kind, Price, figure
from one_provider_mad.providers.interface import PriceSource


class Saving(Value, frozen=True, kw_only=True):
    """What an instance costs less while it is stopped.

    Attributes:
        amount: units of currency an hour; None when unknown.
        currency: ISO 4217 code, "" where the cloud names none.
    """

    amount: float | None = None
    currency: str = ""

    @property
    def is_worth_it(self) -> bool:
        """True if a stopped instance is known to cost less."""
        return self.amount is not None and self.amount > 0

    @property
    def text(self) -> str:
        """Return the amount an hour for a person."""
        return "?" if self.amount is None else f"{figure(self.amount)} {self.currency}".strip()


async def saving_of(cloud: Cloud, deploy_id: DeployId) -> Saving:
    """Return what the power off of an instance saves. Raises ProviderError."""
    provider = cloud.provider
    if not isinstance(provider, PriceSource):
        return Saving()
    instance = await cloud.lookup_one(deploy_id)
    if instance is None:
        return Saving()
    await provider.read_prices([instance])
    running = provider.price_of(instance, state=InstanceState.RUNNING)
    return difference(running, provider.price_of(instance, state=InstanceState.STOPPED))


def difference(running: Price, stopped: Price) -> Saving:
    """Return the difference of two prices; other parts than the type's may be unknown in both, such as a disk's."""
    is_known = (
        _is_type_known(running) and _is_type_known(stopped) and sorted(running.unknown) == sorted(stopped.unknown)
    )
    if not is_known or (stopped.known and stopped.currency != running.currency):
        return Saving()
    return Saving(amount=running.known - stopped.known, currency=running.currency)


def _is_type_known(price: Price) -> bool:
    of_type = [part.amount for part in price.parts if part.item.kind is Kind.COMPUTE]
    return not price.is_unknown and None not in of_type
