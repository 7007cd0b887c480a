"""What the operator's commands show of the simulated cloud: images, a network, consoles of instances; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from one_provider_mad.providers.interface import CloudImage, CloudNetwork, CloudRange

_BLOCK = IPv4Network("10.0.0.0/20")
"""The addresses of the first 4,000 instances (table.py)."""

_FIRST = 2
"""The first address of an instance: the network and its router come before. The last is the broadcast address."""


def images(names: Sequence[str], match: str) -> list[CloudImage]:
    """Return the images of these names that contain a text."""
    found = [name for name in names if match.casefold() in name.casefold()]
    return [CloudImage(image_id=name, name=name, publisher="simulated") for name in found]


def networks() -> list[CloudNetwork]:
    """Return the one network."""
    size = _BLOCK.num_addresses - _FIRST - 1
    return [
        CloudNetwork(
            network_id="sim-net",
            place=str(_BLOCK),
            ranges=(CloudRange(first=str(_BLOCK[_FIRST]), size=size),),
            gateway=str(_BLOCK[1]),
            mask=str(_BLOCK.netmask),
        )
    ]
