"""Disks of VMs are volumes, which end with their instance and are never left over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest

from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.errors import BadParameter, ProviderUnavailable
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.testing.conformance import reach, until
from tests.providers.ec2.conftest import OWNER, Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.vms import a_vm, launched


async def all_made(ec2: FaultyEc2) -> bool:
    await asyncio.sleep(0)
    return all(time.time() >= volume.ready_at for volume in ec2.account.volumes.values())


async def shown_volumes(provider: Ec2Provider, deploy_id: DeployId) -> list[str]:
    return (await provider.describe([deploy_id]))[deploy_id].attributes["AWS_VOLUMES"].split(",")


DISK = {"DISK_ID": "2", "SIZE": "1500", "TARGET": "vdf"}


class TestDisks:
    async def test_an_attached_disk_is_a_tagged_volume_that_is_deleted_with_the_instance(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        await provider.attach_disk(deploy_id, DISK)
        (volume,) = ec2.account.volumes.values()
        assert (volume.size, volume.zone, volume.device) == (2, "eu-west-1a", "/dev/sdf")
        assert a_vm().identity(owner=OWNER).tags().items() <= volume.tags.items()
        await provider.destroy(deploy_id)
        assert volume.state == "deleted"

    async def test_device_and_volume_of_a_disk_are_described_while_it_is_attached(self, connect: Open) -> None:
        """OpenNebula names the device TARGET=vdf, and EC2's console names it /dev/sdf."""
        provider = await connect()
        deploy_id = await launched(provider)
        before = await shown_volumes(provider, deploy_id)
        await provider.attach_disk(deploy_id, DISK)
        device, _, volume_id = (await shown_volumes(provider, deploy_id)).pop().partition(":")
        assert device == "/dev/sdf"
        assert volume_id.startswith("vol-")
        await provider.detach_disk(deploy_id, DISK)
        assert await shown_volumes(provider, deploy_id) == before

    async def test_a_detached_disk_is_deleted_and_its_disk_id_can_be_used_again(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        for _ in range(2):
            await provider.attach_disk(deploy_id, DISK)
            await provider.detach_disk(deploy_id, DISK)
        assert [volume.state for volume in ec2.account.volumes.values()] == ["deleted", "deleted"]

    async def test_a_deleted_volume_is_not_mistaken_for_a_new_one_by_another_provider(
        self, ec2: FaultyEc2, connect: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("one_provider_mad.providers.ec2.disks._UNSEEN", 0.05)
        provider, later = await connect(), await connect()
        deploy_id = await launched(provider)
        await provider.attach_disk(deploy_id, DISK)
        await provider.detach_disk(deploy_id, DISK)
        await later.attach_disk(deploy_id, DISK)
        assert [volume.state for volume in ec2.account.volumes.values()] == ["deleted", "in-use"]

    async def test_a_repeated_attach_after_lost_answers_creates_one_volume(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        for action in ("CreateVolume", "AttachVolume", "ModifyInstanceAttribute"):
            ec2.order(action, is_done=True, drop=True)
            with pytest.raises(ProviderUnavailable):
                await provider.attach_disk(deploy_id, DISK)
        await provider.attach_disk(deploy_id, DISK)
        assert [volume.state for volume in ec2.account.volumes.values()] == ["in-use"]

    @pytest.mark.parametrize("action", ["CreateVolume", "AttachVolume"])
    async def test_a_volume_of_an_attach_with_a_lost_answer_is_deleted_with_the_instance(
        self, ec2: FaultyEc2, connect: Open, action: str
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        ec2.order(action, is_done=True, drop=True)
        with pytest.raises(ProviderUnavailable):
            await provider.attach_disk(deploy_id, DISK)
        await provider.destroy(deploy_id)  # a volume that is still being created cannot be deleted yet
        await until(lambda: all_made(ec2), "the volume to be made")
        assert [volume.state for volume in ec2.account.volumes.values()] == ["deleted"]

    async def test_a_volume_that_cannot_be_deleted_does_not_keep_others_from_being_deleted(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        for disk in ("1", "2"):
            ec2.order("AttachVolume", drop=True)
            with pytest.raises(ProviderUnavailable):
                await provider.attach_disk(deploy_id, {**DISK, "DISK_ID": disk})
        ec2.order("DeleteVolume", code="InvalidVolume.NotFound", message="The volume does not exist.", status=400)
        await provider.destroy(deploy_id)
        await reach(provider, deploy_id, InstanceState.TERMINATED)
        left = [volume.id for volume in ec2.account.volumes.values() if volume.state != "deleted"]
        assert (len(left), len(ec2.account.volumes)) == (1, 2)
        warned: list[str] = provider.warned  # type: ignore[attr-defined] # conftest puts it there
        assert [each.partition(": EC2")[0] for each in warned] == [
            f"volumes of instance {deploy_id} may outlive it: {left[0]}"
        ]

    async def test_a_volume_that_could_not_be_attached_is_not_used_for_a_later_disk(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect(tags={"Team": "one"})
        deploy_id = await launched(provider)
        ec2.order("AttachVolume", code="AttachmentLimitExceeded", message="No more.", status=400)
        with pytest.raises(BadParameter, match="No more"):
            await provider.attach_disk(deploy_id, DISK)
        ec2.order("AttachVolume", drop=True)
        with pytest.raises(ProviderUnavailable):
            await provider.attach_disk(deploy_id, DISK)
        await provider.attach_disk(deploy_id, {**DISK, "SIZE": "4096"})
        volumes = [(volume.state, volume.size) for volume in ec2.account.volumes.values()]
        assert volumes == [("deleted", 2), ("deleted", 2), ("in-use", 4)]
        assert {volume.tags["Team"] for volume in ec2.account.volumes.values()} == {"one"}

    async def test_an_attach_gives_up_after_three_volumes_that_are_not_listed(
        self, ec2: FaultyEc2, connect: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("one_provider_mad.providers.ec2.disks._UNSEEN", 0.01)
        provider = await connect()
        deploy_id = await launched(provider)
        nothing = "<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>"
        late = ec2.order("DescribeVolumes", body=nothing, status=200, times=1000)
        with pytest.raises(ProviderUnavailable, match="are not listed"):
            await provider.attach_disk(deploy_id, DISK)
        assert ec2.account.count("CreateVolume") == 3
        late.times = 0
        await provider.destroy(deploy_id)
        await until(lambda: all_made(ec2), "the volumes to be made")
        assert {volume.state for volume in ec2.account.volumes.values()} == {"deleted"}

    async def test_a_disk_of_another_size_can_reuse_the_disk_id_of_a_deleted_volume(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        """EC2 keeps the tokens of deleted volumes, and a restarted driver has no record of them."""
        provider, later = await connect(), await connect()
        deploy_id = await launched(provider)
        await provider.attach_disk(deploy_id, DISK)
        await provider.detach_disk(deploy_id, DISK)
        await later.attach_disk(deploy_id, {**DISK, "SIZE": "4096"})
        assert [volume.state for volume in ec2.account.volumes.values()] == ["deleted", "in-use"]

    async def test_an_instance_is_terminated_without_the_right_to_list_volumes(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        ec2.order("DescribeVolumes", code="UnauthorizedOperation", message="No.", status=403)
        await provider.destroy(deploy_id)
        await reach(provider, deploy_id, InstanceState.TERMINATED)
        warned: list[str] = provider.warned  # type: ignore[attr-defined] # conftest puts it there
        assert warned == [
            f"volumes of instance {deploy_id} may outlive it: EC2: No. (DescribeVolumes, UnauthorizedOperation)"
        ]

    async def test_disks_with_the_same_or_no_target_get_devices_of_their_own(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        for number, target in enumerate(("vdf", "vdf", "vda", "")):
            await provider.attach_disk(deploy_id, {"DISK_ID": str(number), "SIZE": "1", "TARGET": target})
        assert [each.device for each in ec2.account.volumes.values()] == [f"/dev/sd{each}" for each in "fghi"]

    @pytest.mark.parametrize(
        ("disk", "sentence"),
        [
            ({"SIZE": "1"}, "DISK_ID is missing"),
            ({"DISK_ID": "1"}, "SIZE= of the disk is not a number of MB"),
            ({"DISK_ID": "1", "SIZE": "many"}, "SIZE=many of the disk is not a number"),
            ({"DISK_ID": "1", "SIZE": "1", "IMAGE_ID": "3"}, "disk 1 is an image, and no snapshot stands for it"),
        ],
        ids=str,
    )
    async def test_a_disk_without_id_or_size_or_with_an_image_is_refused(
        self, ec2: FaultyEc2, connect: Open, disk: Mapping[str, str], sentence: str
    ) -> None:
        provider = await connect()
        with pytest.raises(BadParameter, match=sentence):
            await provider.attach_disk(DeployId("i-1"), disk)
        assert not ec2.account.calls

    async def test_resizing_a_disk_that_is_not_attached_is_refused(self, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        with pytest.raises(BadParameter, match="has no volume for disk 2: only attached ones can grow"):
            await provider.resize_disk(deploy_id, DISK)
