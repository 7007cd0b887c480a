"""Resources that EC2 charges for beside instances: unused volumes, unassociated addresses, snapshots with our tags."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from one_provider_mad.domain import Identity
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.instances import read_tags
from one_provider_mad.providers.ec2.query import filtered, numbered
from one_provider_mad.providers.interface import UnusedResource
from one_provider_mad.safe_xml import Element, elements_at, text_of


async def unused_resources(client: Client, *, owner: str) -> list[UnusedResource]:
    """Return every resource with this owner's tags that no instance uses.

    Raises:
        ProviderError: a part of the list is not available.
    """
    tag = {"tag:ONE_PROVIDER_OWNER": [owner]}
    volumes = await _all(client, "DescribeVolumes", filtered({**tag, "status": ["available"]}), _volume)
    snapshots = await _all(client, "DescribeSnapshots", {**numbered("Owner", ["self"]), **filtered(tag)}, _snapshot)
    addresses = await client.call("DescribeAddresses", filtered(tag), read=lambda root: list(_rows(root, _address)))
    return [*volumes, *snapshots, *addresses]


async def _all(
    client: Client, action: str, requested: dict[str, str], read_row: Callable[[Element], UnusedResource | None]
) -> list[UnusedResource]:
    pages = client.pages(action, requested, read=lambda root: list(_rows(root, read_row)))
    return [part async for page in pages for part in page]


def _rows(root: Element, read_row: Callable[[Element], UnusedResource | None]) -> Iterator[UnusedResource]:
    for row in elements_at(root, "*/item"):
        if (part := read_row(row)) is not None:
            yield part


def _volume(row: Element) -> UnusedResource:
    detail = f"{text_of(row.find('size'))} GiB, {text_of(row.find('volumeType'))}, {text_of(row.find('status'))}"
    return UnusedResource(part_id=text_of(row.find("volumeId")), kind="volume", identity=_identity(row), detail=detail)


def _snapshot(row: Element) -> UnusedResource:
    detail = f"of {text_of(row.find('volumeId'))}, {text_of(row.find('volumeSize'))} GiB"
    return UnusedResource(
        part_id=text_of(row.find("snapshotId")), kind="snapshot", identity=_identity(row), detail=detail
    )


def _address(row: Element) -> UnusedResource | None:
    if text_of(row.find("associationId")):
        return None
    allocation = text_of(row.find("allocationId"))
    return UnusedResource(
        part_id=allocation, kind="address", identity=_identity(row), detail=text_of(row.find("publicIp"))
    )


def _identity(row: Element) -> Identity | None:
    tags = row.find("tagSet")
    return Identity.from_tags(read_tags(tags)) if tags is not None else None
