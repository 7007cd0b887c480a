"""Adds up what orphans, parked instances and unused parts cost, by the record of the latest search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from one_provider_mad.pricing.values import MONTH_HOURS, figure

Entry = Mapping[str, Any]


def price_text(entry: Entry) -> str:
    """Return an entry's price an hour: `0.0960`, or `?` for an unknown one."""
    price = entry.get("price")
    return str(price["text"]) if price else "?"


def together(entries: Iterable[Entry]) -> str:
    """Return what the entries cost together: `0.1042 USD an hour, 76.07 USD in a month of 730 hours`.

    Where a price is unknown the known ones are called the least; without any known price the answer is "?".
    """
    prices = [each.get("price") for each in entries]
    known = [price for price in prices if price is not None and (price["amount"] is not None or price["known"])]
    unknown = sum(price is None or price["amount"] is None for price in prices)
    if prices and not known:
        return "? an hour: their prices are unknown"
    amount = math.fsum(price["known"] for price in known)
    currency = next((f" {price['currency']}" for price in known if price["currency"]), "")
    least = "at least " if unknown else ""
    sentence = (
        f"{least}{figure(amount)}{currency} an hour, {amount * MONTH_HOURS:.2f}{currency} in a month of 730 hours"
    )
    return f"{sentence} ({unknown} of {len(prices)} without a whole price)" if unknown else sentence
