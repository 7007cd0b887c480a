"""Prices as values: the things that a cloud charges for, and what they cost together an hour."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum

from one_provider_mad.domain import Value

MONTH_HOURS = 730.0
"""Hours in a month, as clouds count where they charge by the GiB and month (aws.amazon.com/ebs/pricing)."""


class Kind(Enum):
    """What a cloud charges for."""

    COMPUTE = "compute"
    """An instance's processor and memory; the name is its type."""

    DISK = "disk"
    """A disk; the name is its kind, the quantity is GiB."""

    ADDRESS = "address"
    """A public address."""

    SNAPSHOT = "snapshot"
    """A snapshot; the quantity is GiB."""

    OTHER = "other"
    """A licence, a reserved part, provisioned IOPS; the name says which."""


ON_DEMAND, SPOT = "on-demand", "spot"
"""Markets. A reserved instance counts as on demand: which instance a reservation pays for, only the bill says."""


class UnitPrice(Value, frozen=True, kw_only=True):
    """The price of one unit.

    Attributes:
        amount: units of currency an hour; None when unknown.
        currency: ISO 4217 code such as `USD`; "" where the cloud names none.
        source: where the figure comes from, for a person: `AWS price list`, `[prices]`.
        date: the day of the figure, `2026-12-01`; "" when unknown.
    """

    amount: float | None = None
    currency: str = ""
    source: str = ""
    date: str = ""


class Item(Value, frozen=True, kw_only=True):
    """A thing that a cloud charges for while it exists or runs.

    Attributes:
        kind: its kind.
        name: its type in the cloud's words: `m5.large`, `gp3`.
        quantity: how many of it, of a disk its GiB; None when unknown.
        market: ON_DEMAND or SPOT, of an instance only.
        place: zone, where the price depends on it.
        system: operating system, where the price depends on it: "" for Linux.
        is_running: whether the instance runs or starts; one that is stopped costs 0 in some clouds, as much as before
            in others.
        unit: price of one unit where the listing itself has it; else the provider's list is asked.
    """

    kind: Kind
    name: str
    quantity: float | None = 1.0
    market: str = ON_DEMAND
    place: str = ""
    system: str = ""
    is_running: bool = True
    unit: UnitPrice | None = None


class Part(Value, frozen=True, kw_only=True):
    """One item with its price.

    Attributes:
        item: the item.
        amount: units of currency an hour, for the whole quantity; None when unknown.
        source: where the figure comes from.
        date: the day of the figure, "" when unknown.
    """

    item: Item
    amount: float | None
    source: str = ""
    date: str = ""


class Price(Value, frozen=True, kw_only=True):
    """What something costs an hour, part by part.

    Attributes:
        parts: its parts; none for what costs nothing.
        currency: ISO 4217 code, "" where the cloud names none.
        is_unknown: even its parts are unknown.
    """

    parts: tuple[Part, ...] = ()
    currency: str = ""
    is_unknown: bool = False

    @property
    def known(self) -> float:
        """Return the sum of the known parts, units of currency an hour."""
        return math.fsum(part.amount for part in self.parts if part.amount is not None)

    @property
    def amount(self) -> float | None:
        """Return the whole price an hour; None when a part is unknown: an unknown price is never 0."""
        return None if self.is_unknown or any(part.amount is None for part in self.parts) else self.known

    @property
    def unknown(self) -> tuple[str, ...]:
        """Return the names of the items without a price."""
        return tuple(part.item.name for part in self.parts if part.amount is None)

    @property
    def text(self) -> str:
        """Return the price for a person and for monitoring: `0.0960`, `0.0080+?` with an unknown part, or `?`."""
        if self.amount is not None:
            return figure(self.amount)
        return f"{figure(self.known)}+?" if self.known else "?"


UNKNOWN = Price(is_unknown=True)
"""The price of something of which nothing is known."""


def cheapest(prices: Iterable[Price]) -> Price:
    """Return the lowest of the prices that are known; UNKNOWN for none."""
    known = ((price.amount, place, price) for place, price in enumerate(prices))
    lowest = min(((amount, place, price) for amount, place, price in known if amount is not None), default=None)
    return UNKNOWN if lowest is None else lowest[2]


_CENT, _LEAST_DECIMALS, _MOST_DECIMALS = 0.01, 4, 8


def figure(amount: float) -> str:
    """Return an amount as text with four decimals, below a cent with as many as it needs, up to eight; no exponent."""
    if abs(amount) >= _CENT:
        return f"{amount:.{_LEAST_DECIMALS}f}"
    whole, decimals = f"{amount:.{_MOST_DECIMALS}f}".split(".")
    return f"{whole}.{decimals.rstrip('0').ljust(_LEAST_DECIMALS, '0')}"
