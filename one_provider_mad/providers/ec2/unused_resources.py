"""Resources that EC2 charges for beside instances: unused volumes, unassociated addresses, snapshots with our tags."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from one_provider_mad.domain import Identity, whole_number
from one_provider_mad.providers.ec2.address_lookup import is_free
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.instances import read_tags
from one_provider_mad.providers.ec2.prices import FREE, Prices
from one_provider_mad.providers.ec2.query import filtered, numbered
from one_provider_mad.providers.ec2.volume_facts import read_facts
from one_provider_mad.providers.interface import UnusedResource
from one_provider_mad.safe_xml import Element, elements_at, text_of


async def unused_resources(client: Client, prices: Prices, *, owner: str) -> list[UnusedResource]:
    """Return every resource with this owner's tags that no instance uses.

    Raises:
        ProviderError: a part of the list is not available.
    """
    tag = {"tag:ONE_PROVIDER_OWNER": [owner]}
    ours = filtered(tag)
    volumes = filtered({**tag, "status": ["available"]})
    snapshots = {**numbered("Owner", ["self"]), **ours}
    read_address = partial(_address, prices)
    return [
        *await _all(client, "DescribeVolumes", volumes, partial(_volume, prices)),
        *await _all(client, "DescribeSnapshots", snapshots, partial(_snapshot, prices)),
        *await client.call("DescribeAddresses", ours, read=lambda root: list(_rows(root, read_address))),
    ]


async def _all(
    client: Client, action: str, requested: dict[str, str], read_row: Callable[[Element], UnusedResource | None]
) -> list[UnusedResource]:
    pages = client.pages(action, requested, read=lambda root: list(_rows(root, read_row)))
    return [part async for page in pages for part in page]


def _rows(root: Element, read_row: Callable[[Element], UnusedResource | None]) -> Iterator[UnusedResource]:
    for row in elements_at(root, "*/item"):
        if (part := read_row(row)) is not None:
            yield part


def _volume(prices: Prices, row: Element) -> UnusedResource:
    detail = f"{text_of(row.find('size'))} GiB, {text_of(row.find('volumeType'))}, {text_of(row.find('status'))}"
    return UnusedResource(
        part_id=text_of(row.find("volumeId")),
        kind="volume",
        identity=_identity(row),
        detail=detail,
        price=prices.of_volume(read_facts(row, size="size")),
    )


def _snapshot(prices: Prices, row: Element) -> UnusedResource:
    detail = f"of {text_of(row.find('volumeId'))}, {text_of(row.find('volumeSize'))} GiB"
    return UnusedResource(
        part_id=text_of(row.find("snapshotId")),
        kind="snapshot",
        identity=_identity(row),
        detail=detail,
        price=prices.of_snapshot(_stored_gib(row)),
    )


def _stored_gib(row: Element) -> float | None:
    """Return the GiB of a snapshot's blocks, None when EC2 does not tell.

    The bill has at most these: blocks that an earlier snapshot of the volume shares are charged once (API_Snapshot).
    """
    stored = whole_number(text_of(row.find("fullSnapshotSizeInBytes")))
    return None if stored is None else stored / 2**30


def _address(prices: Prices, row: Element) -> UnusedResource | None:
    if text_of(row.find("associationId")):
        return None
    allocation = text_of(row.find("allocationId"))
    return UnusedResource(
        part_id=allocation,
        kind="address",
        identity=_identity(row),
        detail=text_of(row.find("publicIp")),
        price=FREE if is_free(row) else prices.of_address(),
    )


def _identity(row: Element) -> Identity | None:
    tags = row.find("tagSet")
    return Identity.from_tags(read_tags(tags)) if tags is not None else None
