"""The most that a spot instance may cost an hour: MaxPrice of RunInstances; no I/O.

Without MaxPrice EC2's limit is the price of the same instance on demand (docs.aws.amazon.com, API_SpotMarketOptions).
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_DOWN, Decimal

from one_provider_mad.domain import Value
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.attributes import price

_DIGITS = Decimal("0.000001")


class SpotLimits(Value, frozen=True, kw_only=True):
    """The limits on the price of a VM's spot instance, in the currency of EC2's prices an hour.

    Attributes:
        requested: SPOTPRICE of the VM, "" for none.
        configured: `max_spot_price` of `[ec2]`, "" for none: then the price on demand is a limit.
        budget: the least `max_spot_price` of `[budget]` for the VM; None for none.
    """

    requested: str = ""
    configured: str = ""
    budget: float | None = None

    @property
    def depend_on_price(self) -> bool:
        """Return True where MaxPrice depends on the price on demand."""
        return bool(self.requested) and not self.configured


def check_limits(limits: SpotLimits) -> None:
    """Raise BadParameter when SPOTPRICE is no price, or is more than the configuration allows."""
    if not limits.requested:
        return
    requested = float(price("SPOTPRICE", limits.requested))
    if limits.configured and requested > float(limits.configured):
        raise BadParameter(
            f"SPOTPRICE={limits.requested} is more than the configuration allows: {limits.configured} an hour"
        )


def max_price(limits: SpotLimits, on_demand: float | None) -> str:
    """Return MaxPrice of a type, "" to leave it out.

    Args:
        limits: the VM's.
        on_demand: the type's price on demand; None when unknown.
    """
    if is_unbounded(limits, on_demand):
        return ""
    asked = limits.requested or limits.configured
    figures = [
        *([Decimal(asked)] if asked else []),
        *([Decimal(repr(limits.budget))] if limits.budget is not None else []),
        *([Decimal(repr(on_demand))] if on_demand is not None and not limits.configured else []),
    ]
    least = min(figures) if asked or limits.budget is not None else None
    if least is None:
        return ""
    return asked if asked and least == Decimal(asked) else _text(least)


def is_unbounded(limits: SpotLimits, on_demand: float | None) -> bool:
    """Return True when nothing but EC2 could keep SPOTPRICE from exceeding the price on demand, which is unknown."""
    return limits.depend_on_price and on_demand is None and limits.budget is None


def spot_warnings(limits: SpotLimits, types: list[str], on_demand: Callable[[str], float | None]) -> tuple[str, ...]:
    """Return a sentence for the VM's log that names the types for which SPOTPRICE is not sent."""
    unknown = [each for each in dict.fromkeys(types) if is_unbounded(limits, on_demand(each))]
    if not unknown:
        return ()
    told = (
        f"SPOTPRICE={limits.requested} is not sent to EC2 for {', '.join(unknown)}, since the price on demand is"
        " unknown: EC2 limits the price to that on demand; set max_spot_price in [ec2] of the configuration for"
        " SPOTPRICE to count"
    )
    return (told,)


def _text(amount: Decimal) -> str:
    return f"{amount.quantize(_DIGITS, rounding=ROUND_DOWN).normalize():f}"
