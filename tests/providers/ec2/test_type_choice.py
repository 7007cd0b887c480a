"""INSTANCETYPE=auto becomes the cheapest types that hold the VM, and a named type is compared with the template."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.pricing.settings import SizeCheck
from one_provider_mad.pricing.values import ON_DEMAND, SPOT, UNKNOWN, Item, Kind, Part, Price
from one_provider_mad.providers.ec2.built_in import built_in_prices, built_in_types
from one_provider_mad.providers.ec2.launch import read_launch
from one_provider_mad.providers.ec2.price_list import PriceList
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.ec2.template import MOST_ALTERNATIVES, plan
from one_provider_mad.providers.ec2.type_choice import Offers
from one_provider_mad.providers.interface import CreatePlan, InstanceType
from one_provider_mad.providers.type_wishes import MOST_TYPES
from tests.providers.contexts import a_context

X86, ARM = ("x86_64",), ("arm64",)
DOLLARS = {
    "t3.small": (2, 2048, X86, 0.0208),
    "t4g.small": (2, 2048, ARM, 0.0168),
    "c6a.large": (2, 4096, X86, 0.0765),
    "m5.large": (2, 8192, X86, 0.096),
    "m5.xlarge": (4, 16384, X86, 0.192),
    "m1.small": (1, 1740, X86, 0.01),
    "x1e.xlarge": (4, 124928, X86, 0.05),
    "c6a.metal": (192, 393216, X86, 0.001),
    "g4dn.xlarge": (4, 16384, X86, 0.526),
    "g5.xlarge": (4, 16384, X86, 1.006),
}
"""Cores, MiB, architectures and dollars an hour; three of them are cheaper than they are, to be tempting."""

SPOT_DOLLARS = {"t3.small": 0.0062, "m5.large": 0.033, "m5.xlarge": 0.12}
GPUS = {"g4dn.xlarge": "NVIDIA T4", "g5.xlarge": "NVIDIA A10G"}
TYPES = {
    name: InstanceType(
        name=name,
        family=name.partition(".")[0],
        cpu=cpu,
        memory=memory,
        architectures=architectures,
        gpus=1 if name in GPUS else 0,
        gpu=GPUS.get(name, ""),
        is_current=name != "m1.small",
    )
    for name, (cpu, memory, architectures, _) in DOLLARS.items()
}


def price_of(name: str, market: str) -> Price:
    amount = SPOT_DOLLARS.get(name) if market == SPOT else DOLLARS[name][3]
    return Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name=name, market=market), amount=amount),))


def offers(architecture: str = "x86_64", **values: Any) -> Offers:
    return Offers(**{"types": TYPES, "price_of": price_of, "architecture": architecture, **values})


def planned(
    section: Mapping[str, str],
    *,
    size: Mapping[str, Any] | None = None,
    given: Offers | None = None,
    mode: SizeCheck = "warn",
    defaults: Mapping[str, str] | None = None,
) -> CreatePlan:
    template = {"CPU": ("1",), "MEMORY": ("2048",), **(size or {})}
    request = VmRequest(
        vm_id=VmId(7),
        template=Template(values=template),
        user_template=Template(values={"PUBLIC_CLOUD": ({"TYPE": "ec2", "AMI": "ami-1", **section},)}),
    )
    settings = Ec2Settings(region="eu-west-1", defaults=dict(defaults or {}))
    context = msgspec.structs.replace(a_context(), size_check=mode)
    return plan(request, settings, context, offers_of=lambda _: offers() if given is None else given)


def tried(made: CreatePlan) -> list[str]:
    return [str(read_launch(each).place) for each in made.alternatives]


AUTO = {"INSTANCETYPE": "auto"}


@pytest.mark.parametrize(
    ("section", "size", "expected"),
    [
        pytest.param({}, {}, ["t3.small", "c6a.large", "m5.large", "m5.xlarge"], id="cheapest-first"),
        pytest.param({}, {"MEMORY": ("5000",)}, ["m5.large", "m5.xlarge"], id="memory"),
        pytest.param({}, {"CPU": ("2.5",)}, ["m5.xlarge"], id="cpu"),
        pytest.param({}, {"CPU": ("0.1",), "VCPU": ("4",)}, ["m5.xlarge"], id="vcpu"),
        pytest.param({"INSTANCETYPE": "AUTO"}, {"CPU": ("4",)}, ["m5.xlarge"], id="upper-case"),
        pytest.param(
            {"ALLOWEDTYPES": "m5, c6*"}, {}, ["c6a.metal", "c6a.large", "m5.large", "m5.xlarge"], id="allowed"
        ),
        pytest.param({"EXCLUDEDTYPES": "t*,c6a"}, {}, ["m5.large", "m5.xlarge"], id="excluded"),
        pytest.param({"ALLOWEDTYPES": "M1"}, {"MEMORY": ("512",)}, ["m1.small"], id="a-previous-generation-by-name"),
        pytest.param({"ALLOWEDTYPES": "x1e"}, {}, ["x1e.xlarge"], id="a-family-with-its-own-limit-by-name"),
        pytest.param({"GPU": "1"}, {}, ["g4dn.xlarge", "g5.xlarge"], id="gpu"),
        pytest.param({"GPU": "YES", "EXCLUDEDTYPES": "g4dn"}, {}, ["g5.xlarge"], id="any-gpu"),
        pytest.param({"GPU": "a10g"}, {}, ["g5.xlarge"], id="model"),
        pytest.param({"GPU": "1 NVIDIA T4"}, {}, ["g4dn.xlarge"], id="number-and-model"),
        pytest.param({"GPU": "0"}, {"CPU": ("4",)}, ["m5.xlarge"], id="no-gpu"),
        pytest.param(
            {"SPOT": "YES"},
            {"MEMORY": ("4000",)},
            ["spot m5.large", "spot c6a.large", "spot m5.xlarge"],
            id="spot-and-unknown-as-on-demand",
        ),
        pytest.param(
            {"SPOT": "PREFERRED", "EXCLUDEDTYPES": "c6a"},
            {"MEMORY": ("4000",)},
            ["spot m5.large", "m5.large", "spot m5.xlarge", "m5.xlarge"],
            id="cheapest-of-both-markets",
        ),
        pytest.param(
            {"SUBNETID": "subnet-1,subnet-2"},
            {"MEMORY": ("5000",)},
            ["m5.large in subnet-1", "m5.large in subnet-2", "m5.xlarge in subnet-1", "m5.xlarge in subnet-2"],
            id="each-place-before-the-next-type",
        ),
    ],
)
def test_auto_tries_the_types_that_hold_the_vm_by_price(
    section: dict[str, str], size: dict[str, Any], expected: list[str]
) -> None:
    made = planned({**AUTO, **section}, size=size)
    assert tried(made) == expected
    assert made.warnings == ()


def test_auto_of_the_defaults_counts_with_their_filters() -> None:
    assert tried(planned({}, defaults={**AUTO, "ALLOWEDTYPES": "m5"})) == ["m5.large", "m5.xlarge"]


@pytest.mark.parametrize(
    ("architecture", "section", "size", "expected"),
    [
        pytest.param("arm64", {}, {}, "t4g.small", id="of-the-image"),
        pytest.param("x86_64", {}, {"OS": ({"ARCH": "aarch64"},)}, "t3.small", id="the-image-decides"),
        pytest.param("", {"ARCH": "aarch64"}, {}, "t4g.small", id="of-the-section"),
        pytest.param("", {}, {"OS": ({"ARCH": "aarch64"},)}, "t4g.small", id="of-the-template"),
    ],
)
def test_auto_takes_types_for_the_architecture(
    architecture: str, section: dict[str, str], size: dict[str, Any], expected: str
) -> None:
    made = planned({**AUTO, **section}, size=size, given=offers(architecture))
    assert tried(made)[0] == expected
    assert made.warnings == ()


def test_a_type_that_the_budget_permits_to_no_vm_is_not_chosen() -> None:
    assert tried(planned(AUTO, given=offers(permitted=("m5.*", "g*")))) == ["m5.large", "m5.xlarge"]
    with pytest.raises(BadParameter, match=r"such as t3\.small, c6a\.large, m5\.large, are not allowed"):
        planned(AUTO, given=offers(permitted=()))


def test_an_unknown_architecture_is_assumed_and_said() -> None:
    made = planned(AUTO, given=offers(""))
    assert tried(made)[0] == "t3.small"
    assert made.warnings == ("the architecture of AMI ami-1 is unknown: x86_64 is assumed, set ARCH otherwise",)


def test_without_prices_the_smallest_type_is_taken_and_that_is_said() -> None:
    made = planned({**AUTO, "EXCLUDEDTYPES": "t3"}, given=offers(price_of=lambda _name, _market: UNKNOWN))
    assert tried(made) == ["c6a.large", "m5.large", "m5.xlarge"]
    assert made.warnings == (
        "c6a.large is taken as the smallest type that holds the VM: the price of no such type is known",
    )


@pytest.mark.parametrize("places", [1, 3, 25])
def test_the_types_to_try_are_few_and_cheap_in_each_market(places: int) -> None:
    many = {f"m5.{n}": InstanceType(name=f"m5.{n}", family="m5", cpu=n, memory=4096) for n in range(1, 99)}
    given = offers(types=many, price_of=dearer)
    zones = ",".join(f"z{n}" for n in range(places))
    made = planned({**AUTO, "SPOT": "PREFERRED", "AVAILABILITYZONE": zones}, given=given)
    kinds = [(place.market, place.kind) for each in made.alternatives for place in [read_launch(each).place]]
    most = {1: MOST_TYPES, 3: 8, 25: 1}[places]
    assert set(kinds) == {(market, f"m5.{n}") for market in ("spot", "") for n in range(1, most + 1)}
    assert len(kinds) == 2 * most * places <= MOST_ALTERNATIVES


def dearer(name: str, market: str) -> Price:
    amount = float(name.partition(".")[2]) * (1 if market == ON_DEMAND else 0.3)
    return Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name=name), amount=amount),))


@pytest.mark.parametrize(
    ("section", "size", "sentence"),
    [
        pytest.param(
            AUTO,
            {"CPU": ("400",)},
            "no instance type of the ec2 cloud has 400 cores and 2048 MiB for x86_64: the largest is c6a.metal with 192"
            " cores and 393216 MiB; lower CPU, VCPU or MEMORY, or change GPU, ARCH, ALLOWEDTYPES, EXCLUDEDTYPES",
            id="too-large",
        ),
        pytest.param(
            AUTO,
            {"MEMORY": ("100000",)},
            "the types that would hold it, such as x1e.xlarge, c6a.metal, are not allowed",
            id="only-unusual",
        ),
        pytest.param(
            {**AUTO, "GPU": "H100"}, {}, "has 1 cores, 2048 MiB and 1 GPU H100 for x86_64: none has", id="gpu"
        ),
        pytest.param({"INSTANCETYPE": "auto,t3.small"}, {}, "has auto beside other types", id="auto-and-a-type"),
        pytest.param({**AUTO, "ARCH": "arm64"}, {}, "the image, which is for x86_64, exclude each other", id="image"),
        pytest.param({**AUTO, "ALLOWEDTYPES": "m5 c5"}, {}, "ALLOWEDTYPES has 'm5 c5': write types", id="pattern"),
        pytest.param({**AUTO, "EXCLUDEDTYPES": "a," * 101}, {}, "has 101 patterns: name 100 at most", id="patterns"),
        pytest.param(AUTO, {"CPU": ("two",)}, "CPU=two of the template is not a number", id="no-number"),
        pytest.param({}, {}, "names no INSTANCETYPE: set one, or auto for the cheapest", id="none"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(section: dict[str, str], size: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadParameter, match=re.escape(sentence)):
        planned(section, size=size)


def test_a_filter_beside_a_named_type_has_no_effect_and_says_so() -> None:
    made = planned({"INSTANCETYPE": "t3.small", "GPU": "1", "ARCH": "arm64"})
    assert made.warnings == ("GPU, ARCH of the PUBLIC_CLOUD section count only where the type is auto",)


SMALLER = (
    "instance type t3.small has 2 cores and 2048 MiB, less than MEMORY=4096 of the template: name a larger type, or"
    " auto"
)
LARGER = (
    "instance type m5.xlarge has 4 cores and 16384 MiB, more than 4 times CPU=0.5 of the template, which quotas and the"
    " host's room count: set CPU=4, or name a smaller type, or auto"
)


def of_another_size(mode: SizeCheck) -> CreatePlan:
    size = {"CPU": ("0.5",), "MEMORY": ("4096",)}
    return planned({"INSTANCETYPE": "t3.small,m5.large,m5.xlarge,u9.huge"}, size=size, mode=mode)


def test_a_named_type_of_another_size_is_warned_of() -> None:
    assert of_another_size("warn").warnings == (SMALLER, LARGER)


def test_a_named_type_of_another_size_is_refused_where_the_policy_says_so() -> None:
    with pytest.raises(BadParameter, match=re.escape(f"{SMALLER} (policy.size_check)")):
        of_another_size("refuse")


def test_a_named_type_of_another_size_is_not_looked_at_where_the_policy_says_so() -> None:
    assert of_another_size("off").warnings == ()
    assert planned({"INSTANCETYPE": "t3.small"}, size={"CPU": ("bad",)}, mode="off").warnings == ()


REAL = built_in_types()
REAL_PRICES = built_in_prices("us-east-1") or PriceList(region="")
REAL_DOLLARS = {name: REAL_PRICES.unit(Item(kind=Kind.COMPUTE, name=name)).amount for name in REAL}
STANDARD = "acdhimrtz"


def real_price(name: str, _market: str) -> Price:
    return Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name=name), amount=REAL_DOLLARS[name]),))


def may_be_bought(kind: InstanceType, *, cpu: float, memory: float, gpus: int, without: str) -> bool:
    """What docs/ec2.md says of the types that may be taken, in other words than the code."""
    family = kind.name.split(".")[0]
    is_standard = (family[0] in STANDARD and family[1].isdigit()) or family[:3] in ("im4", "is4")
    is_of_usual_kind = kind.gpus > 0 if gpus else is_standard and not kind.gpus
    is_large = kind.cpu >= cpu and kind.memory >= memory and kind.gpus >= gpus
    is_excluded = bool(without) and family.startswith(without)
    generation = int("".join(each for each in family[1:3] if each.isdigit()) or 0)
    is_usual = (kind.is_current or generation > 3) and "metal" not in kind.name and is_of_usual_kind
    return is_usual and is_large and not is_excluded and "x86_64" in kind.architectures


@given(
    cpu=st.sampled_from((0.1, 1.0, 3.0, 8.0, 100.0)),
    memory=st.sampled_from((64, 1024, 5000, 16384, 400_000)),
    gpus=st.sampled_from((0, 0, 1, 4)),
    without=st.sampled_from(("", "t", "m", "c6")),
    short=st.sets(st.integers(0, MOST_TYPES), max_size=4),
)
def test_of_ec2s_real_types_the_cheapest_that_has_room_is_bought(
    cpu: float, memory: int, gpus: int, without: str, short: set[int]
) -> None:
    section = {**AUTO, "GPU": str(gpus), "EXCLUDEDTYPES": f"{without}*" if without else ""}
    size = {"CPU": (str(cpu),), "MEMORY": (str(memory),)}
    made = planned(section, size=size, given=Offers(types=REAL, price_of=real_price, architecture="x86_64"))
    names = [read_launch(each).place.kind for each in made.alternatives]
    fit = {
        name for name, kind in REAL.items() if may_be_bought(kind, cpu=cpu, memory=memory, gpus=gpus, without=without)
    }
    assert set(names) <= fit
    assert len(names) == min(MOST_TYPES, len(fit))
    lacking = {name for at, name in enumerate(names) if at in short}
    bought = next((name for name in names if name not in lacking), None)
    if bought is not None and (paid := REAL_DOLLARS[bought]) is not None:
        assert [name for name in fit - lacking if (REAL_DOLLARS[name] or math.inf) < paid] == []
