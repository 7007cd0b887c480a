"""The kinds of instances that VMs usually get, and the kind of each create, by type, place and market; no I/O.

EC2 lacks capacity for a type in a zone. Zones and subnets count as `[networks]` names them, else `[ec2.defaults]`;
where neither does, EC2 chooses the place, and the type alone counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import product

import msgspec

from one_provider_mad.errors import BadParameter
from one_provider_mad.mappings import NetworkMapping
from one_provider_mad.pricing.selection import AUTO
from one_provider_mad.providers.ec2.attributes import PREFERRED, is_spot, words
from one_provider_mad.providers.ec2.launch import SPOT, Place, read_launch
from one_provider_mad.providers.interface import Parameters

_WISHES = frozenset({"TENANCY", "PLACEMENTGROUP", "SPOTPRICE", "PRIVATEIP"})
"""Attributes for which EC2 may have no instance of a type while it has others of the same type."""

_PLACES = ("SUBNETID", "AVAILABILITYZONE")

_NO_OFFERS: frozenset[str] = frozenset()


def usual_rooms(
    types: Collection[str], *, defaults: Mapping[str, str], networks: Mapping[str, NetworkMapping]
) -> frozenset[str]:
    """Return the rooms of VMs without special wishes.

    Args:
        types: those of `[capacity]`; without any, those of the defaults.
        defaults: `[ec2.defaults]`.
        networks: `[networks]`.
    """
    # With auto the cheapest type of a VM depends on its size: no type is usual.
    kinds = types or [kind for kind in words(defaults.get("INSTANCETYPE", "")) if kind.lower() != AUTO]
    places = usual_places(defaults=defaults, networks=networks) or ("",)
    try:
        markets = _markets(defaults)
    except BadParameter:  # then no VM is created
        return _NO_OFFERS
    return frozenset(
        str(Place(kind=kind, where=where, market=market)) for kind, where, market in product(kinds, places, markets)
    )


def usual_places(*, defaults: Mapping[str, str], networks: Mapping[str, NetworkMapping]) -> tuple[str, ...]:
    """Return the subnets of `[networks]`, else those of the defaults, else their zones; none if EC2 chooses."""
    mapped = [subnet for each in networks.values() for subnet in words(each.subnet)]
    return tuple(dict.fromkeys(mapped)) or next(filter(None, (words(defaults.get(name, "")) for name in _PLACES)), ())


def room_of(
    parameters: Parameters,
    *,
    own: Mapping[str, str],
    defaults: Mapping[str, str],
    networks: Mapping[str, NetworkMapping],
) -> str:
    """Return the room of a create, "" if the VM's own section asks for something special.

    Args:
        parameters: of the create.
        own: attributes of the VM's section, without defaults.
        defaults: `[ec2.defaults]`.
        networks: `[networks]`.
    """
    place = read_launch(parameters).place
    wishes = {name for name, text in own.items() if text.strip() and text != defaults.get(name)}
    if wishes & _WISHES:
        return ""
    known = usual_places(defaults=defaults, networks=networks)
    if place.where in known:
        return str(place)
    if known or not wishes.isdisjoint(_PLACES):
        return ""
    return str(msgspec.structs.replace(place, where=""))


def _markets(defaults: Mapping[str, str]) -> tuple[str, ...]:
    wish = defaults.get("SPOT", "")
    if not is_spot(wish, defaults.get("SPOTPRICE", "")):
        return ("",)
    return (SPOT, "") if wish.upper() == PREFERRED else (SPOT,)
