"""A cloud's prices for tests, which are the same for all it has."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from one_provider_mad.domain import Instance, InstanceState, VmRequest
from one_provider_mad.pricing.values import UNKNOWN, Price
from one_provider_mad.providers.interface import Parameters


class FixedPrices:
    """A PriceSource in which everything costs `price`, unknown by default."""

    price: Price = UNKNOWN

    async def read_prices(self, instances: Collection[Instance]) -> None:
        pass

    def price_of(self, instance: Instance, *, state: InstanceState | None = None) -> Price:
        return self.price

    def kind_of(self, instance: Instance) -> tuple[str, str]:
        return "", ""

    def type_of_create(self, parameters: Parameters) -> str:
        return ""

    def price_of_create(self, parameters: Parameters) -> Price:
        return self.price

    def price_of_disk(self, disk: Mapping[str, str]) -> Price:
        return self.price

    def price_of_resize(self, instance: Instance, request: VmRequest) -> Price:
        return self.price

    def disk_size(self, parameters: Parameters) -> float | None:
        return None
