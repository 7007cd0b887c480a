"""The price book: what items cost by `[prices]`, else by the cloud's own list."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from one_provider_mad.pricing.settings import PriceSettings, TypePrice
from one_provider_mad.pricing.values import MONTH_HOURS, SPOT, UNKNOWN, Item, Kind, Part, Price, UnitPrice

CONFIGURED = "[prices]"
"""Source of a price from the configuration."""

_MOST_KEPT = 20_000
"""Most prices that are kept; then all are computed anew."""


class PriceBook:
    """Computes what items cost together; the same items have the same `Price` object until the lists change.

    Args:
        settings: the table `[prices]`.
        listed: returns the cloud's own price of one unit of an item.
    """

    def __init__(self, settings: PriceSettings, listed: Callable[[Item], UnitPrice]) -> None:
        self._settings = settings
        self._listed = listed
        self._kept: dict[tuple[Item, ...], Price] = {}

    def changed(self) -> None:
        """Forget all prices; call it after the cloud's list has changed.

        A thread that computes a price from the list before it keeps that in the mapping that is dropped here.
        """
        self._kept = {}

    def price(self, items: tuple[Item, ...] | None) -> Price:
        """Return what these items cost together an hour; UNKNOWN for None."""
        if items is None:
            return UNKNOWN
        kept = self._kept
        if (price := kept.get(items)) is not None:
            return price
        price = self._computed(items)
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        return kept.setdefault(items, price)

    def _computed(self, items: tuple[Item, ...]) -> Price:
        units = [self._unit(item) for item in items]
        currencies = {unit.currency for unit in units if unit.currency and unit.amount is not None}
        currency = currencies.pop() if len(currencies) == 1 else ""
        parts = (_part(item, unit) for item, unit in zip(items, units, strict=True))
        if currencies:  # amounts of several currencies have no sum
            return Price(parts=tuple(Part(item=item, amount=None, source="several currencies") for item in items))
        return Price(parts=tuple(parts), currency=self._settings.currency or currency)

    def _unit(self, item: Item) -> UnitPrice:
        """Return the price of one unit in the currency of `[prices]`."""
        if (amount := self._configured(item)) is not None:
            return UnitPrice(amount=amount, currency=self._settings.currency, source=CONFIGURED)
        listed = item.unit or self._listed(item)
        if listed.amount is None:
            return listed
        if self._lacks_rate(listed):
            return UnitPrice(source=f"{listed.source}, in {listed.currency}: set rate in [prices]")
        amount = listed.amount * (1 - self._settings.discount / 100) * (self._settings.rate or 1)
        return msgspec.structs.replace(listed, amount=amount, currency=self._settings.currency or listed.currency)

    def _lacks_rate(self, listed: UnitPrice) -> bool:
        """Return True for a price in another currency that cannot be converted; nothing is nothing in all of them."""
        wanted = self._settings.currency
        is_other = bool(wanted and listed.currency) and wanted != listed.currency
        return is_other and self._settings.rate is None and listed.amount != 0

    def _configured(self, item: Item) -> float | None:
        """Return the price of one unit an hour that `[prices]` has for the item, None for none."""
        settings = self._settings
        match item.kind:
            case Kind.COMPUTE:
                return _of_type(settings.types.get(item.name), item)
            case Kind.DISK:
                a_month = settings.disks.get(item.name, settings.disks.get("*"))
                return None if a_month is None else a_month / MONTH_HOURS
            case Kind.SNAPSHOT:
                return None if settings.snapshots is None else settings.snapshots / MONTH_HOURS
            case Kind.ADDRESS:
                return settings.address
            case _:
                return None


def listed_price(amount: float | None, settings: PriceSettings) -> float | None:
    """Return the price on the cloud's own list that becomes this one by `[prices]`; None for None, or for any price."""
    share = (1 - settings.discount / 100) * (settings.rate or 1.0)
    return None if amount is None or not share else round(amount / share, 9)


def _of_type(price: float | TypePrice | None, item: Item) -> float | None:
    if price is None:
        return None
    prices = price if isinstance(price, TypePrice) else TypePrice(running=price)
    if not item.is_running:
        return prices.stopped
    return prices.spot if item.market == SPOT else prices.running


def _part(item: Item, unit: UnitPrice) -> Part:
    amount = None if unit.amount is None or item.quantity is None else unit.amount * item.quantity
    return Part(item=item, amount=amount, source=unit.source, date=unit.date)
