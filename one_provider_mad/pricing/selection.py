"""Choose the instance types that hold a VM, the cheapest first; pure, no I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase, translate
from functools import lru_cache

from one_provider_mad.domain import Value
from one_provider_mad.pricing.values import ON_DEMAND, Price
from one_provider_mad.providers.interface import InstanceType, TypeWish

AUTO = "auto"
"""The value of a type's attribute that leaves the choice to the driver."""

_MOST_COMPILED = 64
"""Most lists of patterns that are kept compiled."""

PriceOfType = Callable[[str, str], Price]
"""Returns the price of a type, by its name, in a market."""

IsUsual = Callable[[InstanceType], bool]
"""Tells whether a type may be taken that no pattern names."""


class Candidate(Value, frozen=True, kw_only=True):
    """A type that holds the VM, in one market.

    Attributes:
        type: the type.
        market: ON_DEMAND or SPOT (pricing/values.py).
        price: what it costs an hour, without disks and addresses.
        bound: units of currency an hour that it costs at most, by which candidates are sorted; infinite when unknown.
    """

    type: InstanceType
    market: str = ON_DEMAND
    price: Price
    bound: float = math.inf


_Match = Callable[[str], object]


@lru_cache(_MOST_COMPILED)
def _any_of(patterns: Sequence[str]) -> _Match:
    """Return a function that tells whether a name matches one of the patterns.

    Args:
        patterns: as in a file's name, with `*`.
    """
    return re.compile("|".join(map(translate, patterns))).match


def matches(kind: InstanceType, patterns: tuple[str, ...]) -> bool:
    """Return True when a type's name or family matches one: `m5` and `m5.*` are a family, `m5*` some more."""
    if not patterns:
        return False
    match = _any_of(patterns)
    return bool(match(kind.name) or (kind.family and match(kind.family)))


def is_usual(kind: InstanceType) -> bool:
    """Return True unless the cloud advises against the type."""
    return kind.is_current


def is_allowed(kind: InstanceType, wish: TypeWish, *, usual: IsUsual = is_usual) -> bool:
    """Return True for a type that may be taken: one of the patterns, or without patterns a usual one.

    One with GPUs is not usual for a VM that asks for none: clouds limit them apart, and a new account may have none.

    Args:
        kind: the type.
        wish: has the patterns.
        usual: whether a type may be taken that no pattern names.
    """
    if wish.permitted is not None and not any(fnmatchcase(kind.name, pattern) for pattern in wish.permitted):
        return False
    if matches(kind, wish.excluded):
        return False
    if wish.allowed:
        return matches(kind, wish.allowed)
    return usual(kind) and (wish.gpus > 0 or not kind.gpus)


def holds(kind: InstanceType, wish: TypeWish) -> bool:
    """Return True for a type that has all that is asked, whether it is allowed or not."""
    return has_machine(kind, wish) and has_room(kind, wish)


def has_machine(kind: InstanceType, wish: TypeWish) -> bool:
    """Return True for a type with the architecture, unless the cloud names none, and the GPUs that are asked for."""
    is_of_architecture = not (wish.architecture and kind.architectures) or wish.architecture in kind.architectures
    return is_of_architecture and kind.gpus >= wish.gpus and _names(kind.gpu, wish.gpu)


def _names(gpu: str, wished: str) -> bool:
    """Return True when maker and model have the wished words, whole ones: a T4g is no T4."""
    return not wished or f" {wished} ".casefold() in f" {gpu} ".casefold()


def has_room(kind: InstanceType, wish: TypeWish) -> bool:
    """Return True for a type with as many cores and as much memory as asked."""
    return kind.cpu >= wish.cpu and kind.memory >= wish.memory


def ranked(
    types: Iterable[InstanceType], price_of: PriceOfType, *, markets: Sequence[str] = (ON_DEMAND,)
) -> list[Candidate]:
    """Return each type in each market, the cheapest first.

    An unknown price comes last, and the smallest type first among those. A spot instance whose price is unknown counts
    as one on demand, which no cloud exceeds; of equal prices the market that is named first comes first.

    Args:
        types: the types to compare.
        price_of: returns the price of a type in a market.
        markets: the markets to buy in.
    """
    found = [_candidate(kind, market, price_of) for kind in types for market in markets]
    return sorted(found, key=lambda each: (each.bound, each.type.gpus, _size(each.type), markets.index(each.market)))


def _size(kind: InstanceType) -> tuple[float, float, str]:
    return kind.memory, kind.cpu, kind.name


def _candidate(kind: InstanceType, market: str, price_of: PriceOfType) -> Candidate:
    price = price_of(kind.name, market)
    bound = price.amount
    if bound is None and market != ON_DEMAND:
        bound = price_of(kind.name, ON_DEMAND).amount
    return Candidate(type=kind, market=market, price=price, bound=math.inf if bound is None else bound)


def candidates(
    types: Mapping[str, InstanceType],
    wish: TypeWish,
    price_of: PriceOfType,
    *,
    markets: Sequence[str] = (ON_DEMAND,),
    usual: IsUsual = is_usual,
) -> list[Candidate]:
    """Return the allowed types that hold a VM, in each market, the cheapest first; `obstacle` says why there is none.

    Args:
        types: the known types by name.
        wish: what the VM asks.
        price_of: returns the price of a type in a market.
        markets: the markets to buy in.
        usual: as for `is_allowed`.
    """
    fit = [each for each in types.values() if holds(each, wish) and is_allowed(each, wish, usual=usual)]
    return ranked(fit, price_of, markets=markets)


def cheapest(found: Sequence[Candidate], *, most: int) -> list[Candidate]:
    """Return the first candidates of each market, at most so many of one, in their order."""
    counts: dict[str, int] = {}
    chosen = []
    for each in found:
        counts[each.market] = counts.get(each.market, 0) + 1
        if counts[each.market] <= most:
            chosen.append(each)
    return chosen


def obstacle(types: Mapping[str, InstanceType], wish: TypeWish, *, usual: IsUsual = is_usual) -> str:
    """Return why no type is both allowed and large enough, as a clause; "" when one is.

    Args:
        types: the known types by name.
        wish: what is asked.
        usual: as for `is_allowed`.
    """
    every = list(types.values())
    fit = [each for each in every if holds(each, wish)]
    if any(is_allowed(each, wish, usual=usual) for each in fit):
        return ""
    if fit:
        shown = ", ".join(each.name for each in sorted(fit, key=_size)[:3])
        return f"the types that would hold it, such as {shown}, are not allowed"
    if not every:
        return "no type is known"
    machines = [each for each in every if has_machine(each, wish)]
    if not machines:
        return "none has that GPU and architecture" if wish.gpus or wish.gpu else f"none is for {wish.architecture}"
    largest = max(machines, key=lambda each: (each.memory, each.cpu))
    return f"the largest is {largest.name} with {largest.cpu:g} cores and {largest.memory} MiB"


def unknown_price_remark(found: Sequence[Candidate]) -> str:
    """Return a sentence when the price of the first candidate is unknown, "" otherwise."""
    if not found or found[0].price.amount is not None:
        return ""
    name = found[0].type.name
    if math.isinf(found[0].bound):
        return f"{name} is taken as the smallest type that holds the VM: the price of no such type is known"
    return f"the spot price of {name} is unknown: it counts as its price on demand"
