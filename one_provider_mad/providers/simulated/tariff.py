"""What the simulated cloud charges, as its bill keeps it; shares no code with the prices that the drivers compute."""

from __future__ import annotations

import msgspec

from one_provider_mad.providers.simulated.settings import SimulatedSettings

_DISK_HOURS = 1024 * 730
"""MB of a GiB, times the hours of a month."""


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """The cloud's prices from some time on.

    Attributes:
        currency: ISO 4217 code.
        types: price of an hour by instance type; types without a price are left out.
        stopped: part of its type's price that an instance costs while it does not run.
        spot: part of its type's price that an instance of the spot market costs.
        disk: price of a GiB and month.
        address: price of an hour.
    """

    currency: str
    types: dict[str, float]
    stopped: float
    spot: float
    disk: float
    address: float

    def hour(self, type_name: str, *, market: str, disk: float, is_running: bool) -> float | None:
        """Return what an instance with so many MB of disks costs in an hour; None for a type without a price."""
        price = self.types.get(type_name)
        if price is None:
            return None
        price *= (self.spot if market == "spot" else 1.0) * (1.0 if is_running else self.stopped)
        return price + disk * self.disk / _DISK_HOURS + self.address


def tariff_of(settings: SimulatedSettings) -> Tariff:
    """Return the prices of the table `[simulated]`."""
    prices = settings.prices
    return Tariff(
        currency=prices.currency,
        types={name: kind.price for name, kind in settings.offer.types.items() if kind.price is not None},
        stopped=prices.stopped,
        spot=prices.spot,
        disk=prices.disk,
        address=prices.address,
    )
