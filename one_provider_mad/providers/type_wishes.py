"""Reads what a VM asks of its type: CPU, VCPU and MEMORY of the template, filters in its PUBLIC_CLOUD section."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

from one_provider_mad.domain import Template, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.pricing.selection import (
    AUTO,
    Candidate,
    IsUsual,
    PriceOfType,
    candidates,
    cheapest,
    is_usual,
    obstacle,
)
from one_provider_mad.pricing.settings import SizeCheck
from one_provider_mad.pricing.size_check import TemplateSize, size_remark
from one_provider_mad.pricing.values import ON_DEMAND
from one_provider_mad.providers.interface import InstanceType, TypeWish
from one_provider_mad.providers.public_cloud import SECTION, Section

FILTERS = ("GPU", "ARCH", "ALLOWEDTYPES", "EXCLUDEDTYPES")
"""Attributes of a PUBLIC_CLOUD section that count where the type is `auto`. EC2's own names for the last two are
AllowedInstanceTypes and ExcludedInstanceTypes (API_InstanceRequirementsRequest)."""

MOST_TYPES = 10
"""Most types to try for one VM: the tenth is some times as expensive as the first."""

_ARCHITECTURES = {"aarch64": "arm64", "amd64": "x86_64", "i686": "i386"}
"""Architectures in the words of OS/ARCH of OpenNebula's templates and of Linux, each with EC2's."""

_GPU = re.compile(r"(?:(?P<count>[0-9]{1,3})(?!\S))?\s*(?P<model>\S.*)?")
_PATTERN = re.compile(r"[A-Za-z0-9_.*-]{1,64}")
_MOST_PATTERNS = 100


def is_auto(names: Sequence[str], *, attribute: str) -> bool:
    """Return True when the only name of a type is `auto`. Raises BadParameter when there are others beside it."""
    if AUTO not in [name.lower() for name in names]:
        return False
    if len(names) > 1:
        raise BadParameter(f"{attribute}={','.join(names)[:80]} has auto beside other types: name either it or types")
    return True


def number(text: str, *, name: str) -> float:
    """Return a number of the template, such as the SIZE of a disk. Raises BadParameter."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found >= 0):
        raise BadParameter(f"{name}={text[:40]} of the template is not a number: write a figure that is not negative")
    return found


def figure(template: Template, name: str) -> float:
    """Return an attribute of the template that is a number, such as CPU; 0 where it has none. Raises BadParameter."""
    return number(template.text(name) or "0", name=name)


def template_size(request: VmRequest) -> TemplateSize:
    """Return CPU, VCPU and MEMORY (MiB) of the VM's template. Raises BadParameter."""
    template = request.template
    return TemplateSize(cpu=figure(template, "CPU"), vcpu=figure(template, "VCPU"), memory=figure(template, "MEMORY"))


def wish_of(
    request: VmRequest,
    section: Section,
    *,
    image_architecture: str = "",
    permitted: tuple[str, ...] | None = None,
) -> TypeWish:
    """Return what the VM asks of its type.

    Args:
        request: the VM.
        section: its PUBLIC_CLOUD section, completed by the configuration's defaults.
        image_architecture: of the image, which decides; "" when unknown: then ARCH counts, else ARCH of OS.
        permitted: patterns of the types that any VM may get; None for all.

    Raises:
        BadParameter: with the sentence for the user.
    """
    size = template_size(request)
    gpus, gpu = _gpu(section.text("GPU"))
    return TypeWish(
        cpu=size.cores,
        memory=size.memory,
        gpus=gpus,
        gpu=gpu,
        architecture=_architecture(request, section, image_architecture),
        allowed=_patterns("ALLOWEDTYPES", section),
        excluded=_patterns("EXCLUDEDTYPES", section),
        permitted=permitted,
    )


def _architecture(request: VmRequest, section: Section, of_image: str) -> str:
    asked = architecture(section.text("ARCH"))
    if of_image and asked and asked != of_image:
        raise BadParameter(
            f"ARCH={asked} and the image, which is for {of_image}, exclude each other: leave ARCH out, or name another"
            " image"
        )
    in_os = next((each.get("ARCH", "") for each in request.template.vectors("OS")), "")
    return of_image or asked or architecture(in_os)


def architecture(text: str) -> str:
    """Return an architecture in EC2's words: `arm64` for `aarch64`."""
    lower = text.strip().lower()
    return _ARCHITECTURES.get(lower, lower)


def _gpu(text: str) -> tuple[int, str]:
    """Return number and model of `2`, `T4` or `2 T4`."""
    if text.upper() in ("", "NO"):
        return 0, ""
    if text.upper() == "YES":
        return 1, ""
    match = _GPU.fullmatch(text)
    if match is None:
        raise BadParameter(f"GPU={text[:40]}: write a number, a model, or both, as 2 T4")
    count = int(match["count"] or 1)
    return count, (match["model"] or "") if count else ""


def _patterns(name: str, section: Section) -> tuple[str, ...]:
    found = tuple(filter(None, (each.strip() for each in section.text(name).lower().split(","))))
    for each in found:
        if not _PATTERN.fullmatch(each):
            raise BadParameter(f"{name} has {each[:40]!r}: write types or families with commas between, as m5,c6*")
    if len(found) > _MOST_PATTERNS:
        raise BadParameter(f"{name} has {len(found)} patterns: name {_MOST_PATTERNS} at most")
    return found


def chosen(
    types: Mapping[str, InstanceType],
    wish: TypeWish,
    price_of: PriceOfType,
    *,
    markets: Sequence[str] = (ON_DEMAND,),
    usual: IsUsual = is_usual,
    cloud: str,
) -> list[Candidate]:
    """Return all types that hold the VM, the cheapest first.

    Args:
        types: the known types by name.
        wish: what the VM asks.
        price_of: returns the price of a type in a market.
        markets: the markets to buy in.
        usual: whether a type may be taken that no pattern names.
        cloud: name of the provider, for the error.

    Raises:
        BadParameter: there is none.
    """
    found = candidates(types, wish, price_of, markets=markets, usual=usual)
    if not found:
        raise BadParameter(
            f"no instance type of the {cloud} cloud has {wish.text}: {obstacle(types, wish, usual=usual)}; lower CPU,"
            f" VCPU or MEMORY, or change {', '.join(FILTERS)}"
        )
    return found


def first_choices(found: Sequence[Candidate], *, most: int = 2 * MOST_TYPES) -> list[Candidate]:
    """Return the candidates to try: the cheapest of each market, `MOST_TYPES` of each and `most` in all at the most."""
    markets = len({each.market for each in found})
    return cheapest(found, most=max(1, min(MOST_TYPES, most // markets)))


def filters_without_auto(section: Section) -> tuple[str, ...]:
    """Return a warning, as a tuple, for filters in the section of a VM that names its types."""
    given = [name for name in FILTERS if section.text(name)]
    return (f"{', '.join(given)} of the {SECTION} section count only where the type is auto",) if given else ()


def check_sizes(
    request: VmRequest, names: Collection[str], types: Mapping[str, InstanceType], *, mode: SizeCheck
) -> tuple[str, ...]:
    """Return a warning for each type that the template names and that is smaller or far larger than the template.

    Args:
        request: the VM.
        names: the types that it names.
        types: the known types; others are not compared.
        mode: `size_check` of `[policy]`.

    Raises:
        BadParameter: there is such a type, and they are refused.
    """
    if mode == "off":
        return ()
    size = template_size(request)
    remarks = tuple(filter(None, (size_remark(types[name], size) for name in names if name in types)))
    if remarks and mode == "refuse":
        raise BadParameter(f"{remarks[0]} (policy.size_check)")
    return remarks
