"""Finds what EC2 charges for in an instance, a create, a volume or an address; no I/O.

From aws.amazon.com/ebs/pricing, aws.amazon.com/vpc/pricing ("Public IPv4 Address") and docs.aws.amazon.com, "AMI
billing information fields".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from one_provider_mad.domain import Instance, InstanceState, Value
from one_provider_mad.pricing.values import ON_DEMAND, SPOT, Item, Kind
from one_provider_mad.providers.ec2.instances import PLATFORM, TENANCY, VOLUMES, ZONE
from one_provider_mad.providers.ec2.notices import LIFECYCLE
from one_provider_mad.providers.ec2.volume_facts import UNKNOWN_FACTS, VolumeFacts

LINUX = ("", "Linux/UNIX")
"""Platform details of instances at the plain price of Linux."""

PUBLIC_IPV4 = "public IPv4"
SNAPSHOT_NAME = "snapshot"

GP3_IOPS, GP3_THROUGHPUT, IO1_IOPS = "gp3 IOPS", "gp3 throughput", "io1 IOPS"
IO2_IOPS = ("io2 IOPS", "io2 IOPS over 32000", "io2 IOPS over 64000")
"""Names of what is charged for beside GiB: IOPS, and MiB/s of throughput."""

_FREE_IOPS, _FREE_THROUGHPUT = 3000, 125
"""IOPS and MiB/s of each gp3 volume that its GiB pay for."""

_LOCAL_ZONE = re.compile(r"\d-")
"""In the name of a zone outside its region's data centres: `us-west-2-lax-1a`, `us-east-1-wl1-bos-wlz-1`."""

_IO2_TIERS = (0, 32_000, 64_000)

_RUNS = frozenset({InstanceState.PENDING, InstanceState.RUNNING, InstanceState.UNKNOWN})
"""States that cost as a running instance does; of an undocumented state the higher price is assumed."""


def volume_items(volume: VolumeFacts) -> Iterator[Item]:
    """Yield a volume, and its IOPS and throughput where they are charged for."""
    yield Item(kind=Kind.DISK, name=volume.kind, quantity=volume.size)
    if volume.kind == "gp3":
        yield from _above(GP3_IOPS, volume.iops, _FREE_IOPS)
        yield from _above(GP3_THROUGHPUT, volume.throughput, _FREE_THROUGHPUT)
    elif volume.kind == "io1":
        yield from _above(IO1_IOPS, volume.iops, 0)
    elif volume.kind == "io2":
        for name, start, end in zip(IO2_IOPS, _IO2_TIERS, (*_IO2_TIERS[1:], volume.iops), strict=True):
            yield from _above(name, min(volume.iops, end), start)


def _above(name: str, amount: float, free: float) -> Iterator[Item]:
    if amount > free:
        yield Item(kind=Kind.OTHER, name=name, quantity=amount - free)


def address_item(quantity: float | None = 1.0) -> Item:
    """Return public IPv4 addresses, in use or idle."""
    return Item(kind=Kind.ADDRESS, name=PUBLIC_IPV4, quantity=quantity)


def snapshot_item(gib: float | None) -> Item:
    """Return a snapshot of so many GiB, None when unknown."""
    return Item(kind=Kind.SNAPSHOT, name=SNAPSHOT_NAME, quantity=gib)


def compute_item(
    type_name: str, *, market: str = ON_DEMAND, zone: str = "", platform: str = "", is_running: bool = True
) -> Item:
    """Return an instance's processor and memory; the zone counts for spot instances only."""
    return Item(
        kind=Kind.COMPUTE,
        name=type_name,
        market=market,
        place=zone if market == SPOT else "",
        system=system_of(platform),
        is_running=is_running,
    )


def system_of(platform: str) -> str:
    """Return the operating system as prices name it: "" for EC2's `Linux/UNIX`."""
    return "" if platform in LINUX else platform


def market_of(instance: Instance) -> str:
    """Return the market of a listed instance."""
    return SPOT if instance.attributes.get(LIFECYCLE) == SPOT else ON_DEMAND


def is_running(state: InstanceState) -> bool:
    """Return True in a state that costs as a running instance does."""
    return state in _RUNS


class Look(Value, frozen=True, kw_only=True, gc=False):
    """What the price of a listed instance depends on; the same look has the same price while no list changes.

    Attributes:
        type_name: instance type.
        market: ON_DEMAND or SPOT.
        zone: availability zone.
        platform: EC2's platform details, "" for Linux.
        tenancy: `dedicated` or `host`, "" for the usual one.
        volumes: facts of its attached volumes.
        addresses: number of public IPv4 addresses.
        is_running: whether it runs or starts.
    """

    type_name: str
    market: str
    zone: str
    platform: str
    tenancy: str
    volumes: tuple[VolumeFacts, ...]
    addresses: int
    is_running: bool


def look_of(instance: Instance, *, state: InstanceState, volumes: Mapping[str, VolumeFacts], addresses: int) -> Look:
    """Return what the price of an instance in a state depends on.

    Args:
        instance: the instance.
        state: the state.
        volumes: facts by the volume's id.
        addresses: number of its public IPv4 addresses.
    """
    attributes = instance.attributes
    return Look(
        type_name=attributes.get("AWS_INSTANCE_TYPE", ""),
        market=market_of(instance),
        zone=attributes.get(ZONE, ""),
        platform=attributes.get(PLATFORM, ""),
        tenancy=attributes.get(TENANCY, ""),
        volumes=tuple(volumes.get(each, UNKNOWN_FACTS) for each in volume_ids(attributes.get(VOLUMES, ""))),
        addresses=addresses,
        is_running=is_running(state),
    )


def look_items(look: Look) -> tuple[Item, ...]:
    """Return everything that an instance of this look is charged for."""
    compute = compute_item(
        look.type_name, market=look.market, zone=look.zone, platform=look.platform, is_running=look.is_running
    )
    return (
        compute,
        *(_tenancy(look.tenancy) if look.is_running else ()),
        *_local(look.zone),
        *(item for disk in look.volumes for item in volume_items(disk)),
        *((address_item(float(look.addresses)),) if look.addresses else ()),
    )


def _tenancy(tenancy: str) -> Iterator[Item]:
    """Yield an item without a price for an instance whose hardware is paid for in another way."""
    if tenancy not in ("", "default"):
        yield Item(kind=Kind.OTHER, name=f"{tenancy} tenancy")


def _local(zone: str) -> Iterator[Item]:
    """Yield an item without a price in a local or Wavelength zone, which has prices of its own, above the region's."""
    if _LOCAL_ZONE.search(zone):
        yield Item(kind=Kind.OTHER, name=f"zone {zone}")


def volume_ids(attribute: str) -> list[str]:
    """Return the ids in an instance's attribute of volumes, `/dev/sda1:vol-1,/dev/sdf:vol-2`."""
    return [each.rpartition(":")[2] for each in attribute.split(",") if each]


def create_items(
    type_name: str,
    *,
    market: str,
    zone: str,
    platform: str,
    tenancy: str,
    disks: Sequence[VolumeFacts] | None,
    has_address: bool,
) -> tuple[Item, ...]:
    """Return everything that a new instance will be charged for while it runs.

    Args:
        type_name: instance type.
        market: ON_DEMAND or SPOT.
        zone: availability zone, "" for any.
        platform: platform details of the AMI.
        tenancy: `dedicated` or `host`, "" for the usual one.
        disks: its volumes; None while the AMI's are not known.
        has_address: whether it gets a public IPv4 address.
    """
    compute = compute_item(type_name, market=market, zone=zone, platform=platform)
    known = (UNKNOWN_FACTS,) if disks is None else disks
    return (
        compute,
        *_tenancy(tenancy),
        *_local(zone),
        *(item for disk in known for item in volume_items(disk)),
        *((address_item(),) if has_address else ()),
    )


def with_type(items: Sequence[Item], type_name: str) -> tuple[Item, ...]:
    """Return the items of an instance that is resized to another type."""
    return tuple(msgspec.structs.replace(item, name=type_name) if item.kind is Kind.COMPUTE else item for item in items)
