"""Volumes, snapshots and addresses that EC2 charges for after their instance has gone."""

from __future__ import annotations

import msgspec

from one_provider_mad.domain import Identity, VmId
from one_provider_mad.providers.interface import UnusedResource
from tests.providers.ec2.conftest import OWNER, make
from tests.providers.ec2.scripted_server import Form, Scripted

OURS = Identity(owner=OWNER, vm_id=VmId(7), stime=1_760_000_000, seq=2, host_id=3)
TAGS = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in OURS.tags().items())


def volumes(form: Form) -> str:
    """Two pages of one volume each."""
    number, more = ("2", "") if "NextToken" in form else ("1", "<nextToken>more</nextToken>")
    return (
        f"<volumeSet><item><volumeId>vol-{number}</volumeId><size>8</size><volumeType>gp3</volumeType>"
        f"<status>available</status><tagSet>{TAGS}</tagSet></item></volumeSet>{more}"
    )


def snapshots(_form: Form) -> str:
    return (
        "<snapshotSet><item><snapshotId>snap-1</snapshotId><volumeId>vol-1</volumeId><volumeSize>8</volumeSize><fullSnapshotSizeInBytes>1610612736</fullSnapshotSizeInBytes>"
        f"<tagSet>{TAGS}</tagSet></item></snapshotSet>"
    )


def addresses(_form: Form) -> str:
    owner = f"<item><key>ONE_PROVIDER_OWNER</key><value>{OWNER}</value></item>"
    return (
        "<addressesSet><item><allocationId>eipalloc-1</allocationId><publicIp>203.0.113.1</publicIp>"
        f"<tagSet>{owner}</tagSet></item><item><allocationId>eipalloc-2</allocationId><publicIp>203.0.113.2</publicIp>"
        f"<associationId>eipassoc-2</associationId><tagSet>{owner}</tagSet></item></addressesSet>"
    )


async def test_resources_with_our_tags_that_no_instance_uses_are_listed_with_their_vm() -> None:
    answers = {"DescribeVolumes": volumes, "DescribeSnapshots": snapshots, "DescribeAddresses": addresses}
    async with Scripted(answers=answers).served() as cloud:
        provider = make(cloud.url)
        await provider.open()
        listed = await provider.unused_resources(owner=OWNER)
        await provider.close()
    prices = {each.part_id: each.price for each in listed}
    assert {part: price.parts[0].item.quantity for part, price in prices.items() if price is not None} == {
        "vol-1": 8,
        "vol-2": 8,
        "snap-1": 1.5,
        "eipalloc-1": 1,
    }
    found = [msgspec.structs.replace(each, price=None) for each in listed]
    detail = "8 GiB, gp3, available"
    assert found == [
        UnusedResource(part_id="vol-1", kind="volume", identity=OURS, detail=detail),
        UnusedResource(part_id="vol-2", kind="volume", identity=OURS, detail=detail),
        UnusedResource(part_id="snap-1", kind="snapshot", identity=OURS, detail="of vol-1, 8 GiB"),
        UnusedResource(part_id="eipalloc-1", kind="address", identity=None, detail="203.0.113.1"),
    ]
    first, second = cloud.asked("DescribeVolumes")
    assert (first["Filter.1.Name"], first["Filter.1.Value.1"]) == ("tag:ONE_PROVIDER_OWNER", OWNER)
    assert second["NextToken"] == "more"
    (asked,) = cloud.asked("DescribeSnapshots")
    assert asked["Owner.1"] == "self", "others may share snapshots with the same tags"
