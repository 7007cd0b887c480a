"""An amount of money that may have unknown parts."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum

from one_provider_mad.domain import Value
from one_provider_mad.pricing.values import figure


class Cost(Value, frozen=True, kw_only=True):
    """What something costs, or costs an hour.

    Attributes:
        known: sum of the known parts, units of currency; 0 where nothing is known.
        is_whole: every part is known.
        assumed: the part of `known` that nobody saw, at the price from before.
    """

    known: float = 0.0
    is_whole: bool = True
    assumed: float = 0.0

    @property
    def amount(self) -> float | None:
        """Return the amount; None when a part is unknown."""
        return self.known if self.is_whole else None

    def text(self, *, of_hour: bool = False) -> str:
        """Return it for a person: `12.30`, `12.30+?` with an unknown part, `?`; an hour's with four decimals."""
        decimals = 4 if of_hour or 0 < self.known < _SMALL else 2
        shown = figure(self.known) if 0 < self.known < _TINY else f"{self.known:.{decimals}f}"
        if self.is_whole:
            return shown
        return f"{shown}+?" if self.known else "?"

    def plus(self, other: Cost) -> Cost:
        """Return the sum of two costs."""
        return Cost(
            known=self.known + other.known,
            is_whole=self.is_whole and other.is_whole,
            assumed=self.assumed + other.assumed,
        )

    def times(self, factor: float) -> Cost:
        """Return a multiple; none of something unknown is nothing."""
        return Cost(known=self.known * factor, is_whole=self.is_whole or not factor, assumed=self.assumed * factor)


_SMALL, _TINY = 0.1, 0.001
"""Amounts below these are shown with more decimals."""


def sum_of(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs of one currency."""
    all_costs = list(costs)
    return Cost(
        known=fsum(each.known for each in all_costs),
        is_whole=all(each.is_whole for each in all_costs),
        assumed=fsum(each.assumed for each in all_costs),
    )
