"""What the operator's commands show of the simulated cloud: images, a network, what a login needs; no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network

from one_provider_mad.domain import Instance, InstanceState
from one_provider_mad.providers.interface import CheckResult, CloudImage, CloudNetwork, CloudRange

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


def obstacles(instance: Instance, *, has_key: bool | None) -> Iterator[CheckResult]:
    """Yield what a login would need: a running instance, and a key."""
    found = f"{instance.deploy_id} is {instance.raw_state}"
    if instance.state is InstanceState.RUNNING:
        yield CheckResult(what="instance", is_well=True, found=found)
    elif instance.state is InstanceState.PENDING:
        yield CheckResult(what="instance", is_well=None, found=found, remedy="wait until it runs")
    elif instance.state.is_gone:
        remedy = "make a new one: onevm recover --recreate"
        yield CheckResult(what="instance", is_well=False, found=found, remedy=remedy)
    else:
        yield CheckResult(what="instance", is_well=False, found=found, remedy="start it: onevm resume")
    if has_key is not None:
        remedy = "" if has_key else "set SSH_PUBLIC_KEY in CONTEXT of the template, and make a new VM"
        words = "CONTEXT has a key or a password" if has_key else "CONTEXT has neither a key nor a password"
        yield CheckResult(what="key", is_well=has_key, found=words, remedy=remedy)
    yield CheckResult(what="guest", is_well=None, found="a simulated instance has none", remedy="nothing to log in to")
