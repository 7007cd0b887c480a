"""Chooses the instance types of a VM with INSTANCETYPE=auto: the cheapest that hold it first; no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import msgspec

from one_provider_mad.domain import Template, Value, VmId, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.pricing.selection import Candidate, PriceOfType, unknown_price_remark
from one_provider_mad.pricing.settings import SizeCheck
from one_provider_mad.pricing.values import ON_DEMAND, UNKNOWN
from one_provider_mad.providers.ec2.attributes import words
from one_provider_mad.providers.ec2.sizes import is_standard
from one_provider_mad.providers.interface import InstanceType
from one_provider_mad.providers.public_cloud import SECTION, Section
from one_provider_mad.providers.type_wishes import (
    check_sizes,
    chosen,
    filters_without_auto,
    first_choices,
    is_auto,
    wish_of,
)

ATTRIBUTE = "INSTANCETYPE"

NO_TYPE = (
    f"the VM names no {ATTRIBUTE}: set one, or auto for the cheapest that holds the VM, in its {SECTION} section, or in"
    " [ec2.defaults] for all VMs"
)
"""The error for a VM without an instance type."""

_FIRST_GENERATION = 4
"""The first generation whose types are usual although EC2 calls them previous."""

_ARCHITECTURE = "x86_64"
"""Architecture of an image that EC2 does not tell, as without the right to DescribeImages."""


class Offers(Value, frozen=True, kw_only=True):
    """The types to choose from, as far as they are known.

    Attributes:
        types: by name.
        price_of: returns the price of a type in a market.
        on_demand: returns the price of a type on demand as EC2 lists it, without `[prices]`; None when unknown.
        architecture: of the VM's AMI, "" when unknown.
        permitted: patterns of the types that any VM may get; None for all.
    """

    types: Mapping[str, InstanceType] = {}
    price_of: PriceOfType = lambda _name, _market: UNKNOWN
    on_demand: Callable[[str], float | None] = lambda _name: None
    architecture: str = ""
    permitted: tuple[str, ...] | None = None


NO_OFFERS = Offers()


class Choice(Value, frozen=True, kw_only=True):
    """The types that hold a VM.

    Attributes:
        candidates: all of them, the cheapest first.
        warnings: sentences for the VM's log.
    """

    candidates: tuple[Candidate, ...]
    warnings: tuple[str, ...] = ()


class TypesToTry(Value, frozen=True, kw_only=True):
    """The types of a VM's create, in the order of trial.

    Attributes:
        pairs: market and name of each.
        warnings: sentences for the VM's log.
    """

    pairs: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()


def types_to_try(
    request: VmRequest, section: Section, offers: Offers, *, markets: Sequence[str], most: int, mode: SizeCheck
) -> TypesToTry:
    """Return the types that the VM names, or with `auto` the cheapest that hold it.

    Args:
        request: the VM.
        section: its PUBLIC_CLOUD section, completed by the configuration's defaults.
        offers: the types to choose from.
        markets: the markets to buy in, in the order of trial for types that are named.
        most: of the types that are chosen at most so many.
        mode: what becomes of a VM that names a type of another size.

    Raises:
        BadParameter: the VM names no type, or one of another size, or no type holds it.
    """
    names = words(section.text(ATTRIBUTE))
    if not names:
        raise BadParameter(NO_TYPE)
    if not chooses_type(section):
        remarks = (*filters_without_auto(section), *check_sizes(request, names, offers.types, mode=mode))
        return TypesToTry(pairs=tuple(product(markets, names)), warnings=remarks)
    choice = choice_of(request, section, offers, markets=markets)
    first = first_choices(choice.candidates, most=most)
    return TypesToTry(pairs=tuple((each.market, each.type.name) for each in first), warnings=choice.warnings)


def chooses_type(section: Section) -> bool:
    """Return True when the section leaves the type to the driver. Raises BadParameter."""
    return is_auto(words(section.text(ATTRIBUTE)), attribute=ATTRIBUTE)


def small_vm(hypervisor: str) -> VmRequest:
    """Return a VM of one core and 1 GiB, with a section that has nothing but the configuration's defaults."""
    template = Template(values={"CPU": ("1",), "MEMORY": ("1024",)})
    section = Template(values={SECTION: ({"TYPE": hypervisor},)})
    return VmRequest(vm_id=VmId(0), template=template, user_template=section)


def choice_of(request: VmRequest, section: Section, offers: Offers, *, markets: Sequence[str] = (ON_DEMAND,)) -> Choice:
    """Return the types for a VM. A spot instance that costs more than its limit is refused by EC2, as a shortage.

    Args:
        request: the VM.
        section: its PUBLIC_CLOUD section, completed by the configuration's defaults.
        offers: the types to choose from.
        markets: the markets to buy in.

    Raises:
        BadParameter: no type holds the VM.
    """
    wish = wish_of(request, section, image_architecture=offers.architecture, permitted=offers.permitted)
    warnings = []
    if not wish.architecture:
        wish = msgspec.structs.replace(wish, architecture=_ARCHITECTURE)
        warnings.append(
            f"the architecture of AMI {section.text('AMI')} is unknown: {_ARCHITECTURE} is assumed, set ARCH otherwise"
        )
    found = chosen(offers.types, wish, offers.price_of, markets=markets, usual=is_usual_type, cloud="ec2")
    remark = unknown_price_remark(found)
    return Choice(candidates=tuple(found), warnings=(*warnings, *([remark] if remark else [])))


def is_usual_type(kind: InstanceType) -> bool:
    """Return True for a type that may be taken although no pattern names it.

    Other families without GPUs have limits of their own, which are 0 in a new account, and bare metal takes many
    minutes to boot. EC2 calls types "previous generation" that are sold everywhere, such as m5 and g5; those before
    the fourth run images of today with difficulty, if at all.
    """
    is_recent = kind.is_current or _generation(kind.name) >= _FIRST_GENERATION
    return is_recent and "metal" not in kind.name and (is_standard(kind.name) or kind.gpus > 0)


def _generation(name: str) -> int:
    """Return the number in the name of a family: 5 for `m5a.large`."""
    found = re.match(r"[a-z]+(\d+)", name)
    return int(found[1]) if found else 0
