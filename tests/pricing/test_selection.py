"""What is chosen holds what was asked, and nothing that is allowed and available is cheaper."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.pricing.selection import (
    Candidate,
    candidates,
    cheapest,
    is_allowed,
    matches,
    obstacle,
    unknown_price_remark,
)
from one_provider_mad.pricing.values import ON_DEMAND, SPOT, UNKNOWN, Item, Kind, Part, Price
from one_provider_mad.providers.interface import InstanceType, TypeWish

FAMILIES = ("m5", "m5a", "g4dn", "t3")
ARCHITECTURES = ("x86_64", "arm64")
GPUS = ("NVIDIA T4", "NVIDIA T4g", "NVIDIA A10G")
MARKETS = ((ON_DEMAND,), (SPOT,), (SPOT, ON_DEMAND))
PATTERNS = ("*", "m5", "m5*", "m5.*", "t3.2", "*.1", "x*")

Prices = Mapping[tuple[str, str], float | None]


def a_type(name: str = "m5.large", **values: object) -> InstanceType:
    given = {"cpu": 2.0, "memory": 8192, "family": name.partition(".")[0], **values}
    return InstanceType(name=name, **given)  # type: ignore[arg-type]


def a_price(name: str, amount: float | None) -> Price:
    return UNKNOWN if amount is None else Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name=name), amount=amount),))


def priced(prices: Prices, name: str, market: str) -> Price:
    return a_price(name, prices.get((name, market)))


@st.composite
def clouds(draw: st.DrawFn) -> tuple[dict[str, InstanceType], Prices]:
    names = draw(st.lists(st.tuples(st.sampled_from(FAMILIES), st.integers(0, 5)), unique=True, max_size=12))
    types = [draw(kinds(family, step)) for family, step in names]
    amounts = st.none() | st.sampled_from((0.0, 0.01, 0.02, 0.5)) | st.floats(0, 9)
    prices = {(each.name, market): draw(amounts) for each in types for market in (ON_DEMAND, SPOT)}
    return {each.name: each for each in types}, prices


@st.composite
def kinds(draw: st.DrawFn, family: str, step: int) -> InstanceType:
    gpus = draw(st.sampled_from((0, 0, 1, 4)))
    return InstanceType(
        name=f"{family}.{step}",
        family=family,
        cpu=draw(st.sampled_from((1.0, 2.0, 4.0, 96.0))),
        memory=draw(st.sampled_from((512, 1024, 4096, 16384))),
        gpus=gpus,
        gpu=draw(st.sampled_from(GPUS)) if gpus else "",
        architectures=tuple(draw(st.lists(st.sampled_from(ARCHITECTURES), unique=True))),
        is_current=draw(st.booleans()),
    )


wishes = st.builds(
    TypeWish,
    cpu=st.sampled_from((0.0, 0.1, 1.0, 2.5, 97.0)),
    memory=st.sampled_from((0.0, 512.0, 1025.0, 16384.0)),
    gpus=st.sampled_from((0, 0, 1, 2)),
    gpu=st.sampled_from(("", "", "t4")),
    architecture=st.sampled_from(("", *ARCHITECTURES)),
    allowed=st.lists(st.sampled_from(PATTERNS), max_size=2).map(tuple),
    excluded=st.lists(st.sampled_from(PATTERNS[1:]), max_size=1).map(tuple),
    permitted=st.sampled_from((None, None, ("*",), ("m5.*", "t3.1"), ())),
)


def would_do(kind: InstanceType, wish: TypeWish) -> bool:
    """What a person would check, without the code under test."""
    named = [kind.name, kind.family]
    families = {"*": FAMILIES, "m5": ("m5",), "m5*": ("m5", "m5a"), "m5.*": ("m5",), "x*": ()}

    def is_meant(pattern: str) -> bool:
        if pattern in families:
            return kind.family in families[pattern]
        return pattern in named or (pattern == "*.1" and kind.name.endswith(".1"))

    if wish.permitted is not None and not (
        "*" in wish.permitted or (wish.permitted and (kind.family == "m5" or kind.name == "t3.1"))
    ):
        return False
    is_usual = kind.is_current and (wish.gpus > 0 or kind.gpus == 0)
    if any(map(is_meant, wish.excluded)) or not (any(map(is_meant, wish.allowed)) if wish.allowed else is_usual):
        return False
    return (
        kind.cpu >= wish.cpu
        and kind.memory >= wish.memory
        and kind.gpus >= wish.gpus
        and (not wish.gpu or kind.gpu == "NVIDIA T4")
        and (not wish.architecture or not kind.architectures or wish.architecture in kind.architectures)
    )


@given(clouds(), wishes, st.sampled_from(MARKETS))
def test_what_is_chosen_holds_what_was_asked_and_nothing_allowed_is_cheaper(
    cloud: tuple[dict[str, InstanceType], Prices], wish: TypeWish, markets: tuple[str, ...]
) -> None:
    types, prices = cloud
    found = candidates(types, wish, lambda name, market: priced(prices, name, market), markets=markets)
    fit = {name for name, kind in types.items() if would_do(kind, wish)}
    assert {(each.type.name, each.market) for each in found} == {(name, market) for name in fit for market in markets}
    assert (obstacle(types, wish) == "") is bool(fit)
    if not found:
        return
    known = [prices[name, market] for name in fit for market in markets]
    at_most = found[0].price.amount if found[0].price.amount is not None else found[0].bound
    assert all(at_most <= amount for amount in known if amount is not None)
    is_known = [not math.isinf(each.bound) for each in found]
    assert is_known == sorted(is_known, reverse=True), "those of unknown price come last"
    assert bool(unknown_price_remark(found)) is (found[0].price.amount is None), "and that is said"


@given(clouds(), st.sampled_from(MARKETS), st.integers(1, 4))
def test_the_next_alternatives_are_the_next_cheapest_of_each_market(
    cloud: tuple[dict[str, InstanceType], Prices], markets: tuple[str, ...], most: int
) -> None:
    types, prices = cloud
    found = candidates(types, TypeWish(), lambda name, market: priced(prices, name, market), markets=markets)
    chosen = cheapest(found, most=most)
    assert [each for each in found if each in chosen] == chosen
    for market in markets:
        of_market = [each for each in found if each.market == market]
        assert [each for each in chosen if each.market == market] == of_market[:most]


def in_order(prices: Prices, *types: InstanceType, markets: tuple[str, ...] = (ON_DEMAND,)) -> list[Candidate]:
    by_name = {each.name: each for each in types}
    return candidates(by_name, TypeWish(), lambda name, market: priced(prices, name, market), markets=markets)


def test_without_any_price_the_smallest_type_comes_first() -> None:
    large, small = a_type("m5.large"), a_type("t3.small", memory=2048)
    found = in_order({}, large, small)
    assert [each.type for each in found] == [small, large]
    assert unknown_price_remark(found) == (
        "t3.small is taken as the smallest type that holds the VM: the price of no such type is known"
    )


def test_a_spot_instance_of_unknown_price_counts_as_one_on_demand() -> None:
    prices = {("m5.large", ON_DEMAND): 0.1, ("t3.small", ON_DEMAND): 0.02, ("m5.large", SPOT): 0.03}
    found = in_order(prices, a_type("m5.large"), a_type("t3.small"), markets=(SPOT, ON_DEMAND))
    assert [(each.type.name, each.market) for each in found] == [
        ("t3.small", SPOT),
        ("t3.small", ON_DEMAND),
        ("m5.large", SPOT),
        ("m5.large", ON_DEMAND),
    ]
    assert unknown_price_remark(found) == "the spot price of t3.small is unknown: it counts as its price on demand"
    assert unknown_price_remark(found[1:]) == ""
    assert unknown_price_remark([]) == ""


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("m5", True), ("m5.*", True), ("m5.large", True), ("m*", True), ("m5a", False), ("large", False), ("", False)],
)
def test_a_pattern_names_a_type_or_its_family(pattern: str, *, expected: bool) -> None:
    assert matches(a_type("m5.large"), (pattern,)) is expected


def test_one_of_several_patterns_is_enough() -> None:
    assert matches(a_type("m5.large"), ("c*", "m5"))
    assert not matches(a_type("m5.large"), ("c*", "m6"))
    assert not matches(a_type("m5.large"), ())


def test_in_a_cloud_without_families_a_pattern_names_a_type() -> None:
    assert matches(a_type("large_4gb", family=""), ("large*",))
    assert not matches(a_type("large_4gb", family=""), ("",))


def test_a_type_that_the_cloud_advises_against_is_taken_only_by_name() -> None:
    old = a_type("m1.small", is_current=False)
    assert not is_allowed(old, TypeWish())
    assert is_allowed(old, TypeWish(allowed=("m1",)))
    assert not is_allowed(old, TypeWish(allowed=("m1",), excluded=("m1.small",)))


def test_a_type_with_gpus_is_taken_only_by_name_or_for_a_vm_that_asks_for_one() -> None:
    graphics = a_type("g4dn.xlarge", gpus=1, gpu="NVIDIA T4")
    assert not is_allowed(graphics, TypeWish())
    assert is_allowed(graphics, TypeWish(gpus=1))
    assert is_allowed(graphics, TypeWish(allowed=("g4dn",)))


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (TypeWish(cpu=3), "the largest is m5.large with 2 cores and 8192 MiB"),
        (TypeWish(gpus=1), "none has that GPU and architecture"),
        (TypeWish(architecture="arm64"), "none is for arm64"),
        (TypeWish(excluded=("m5",)), "the types that would hold it, such as m5.large, are not allowed"),
        (TypeWish(cpu=2, memory=8192), ""),
    ],
)
def test_the_reason_why_no_type_is_left_names_the_first_filter_that_leaves_none(wish: TypeWish, reason: str) -> None:
    assert obstacle({"m5.large": a_type()}, wish) == reason


def test_without_any_type_that_is_the_reason() -> None:
    assert obstacle({}, TypeWish(cpu=1)) == "no type is known"


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (TypeWish(cpu=4, memory=16384), "4 cores and 16384 MiB"),
        (TypeWish(cpu=0.5, memory=512, gpus=1, architecture="arm64"), "0.5 cores, 512 MiB and 1 GPU for arm64"),
        (TypeWish(cpu=4, memory=1, gpus=2, gpu="T4"), "4 cores, 1 MiB and 2 GPUs T4"),
    ],
)
def test_a_wish_is_a_part_of_a_sentence(wish: TypeWish, text: str) -> None:
    assert wish.text == text
