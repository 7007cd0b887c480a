"""DISKs of a template become the root volume and further volumes of the instance, each known by its DISK_ID."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, InstanceState, Template, VmRequest
from one_provider_mad.errors import BadParameter, NotReached
from one_provider_mad.mappings import ImageMapping, Mappings
from one_provider_mad.providers.ec2.launch import read_launch, run_instances
from one_provider_mad.providers.ec2.launch_disks import DISKS_TAG, ImageDisks
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.interface import Attached
from one_provider_mad.testing.conformance import reach
from tests.providers.ec2.conftest import Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.model import unknown_parameters
from tests.providers.ec2.vms import a_call, a_vm, launched

IMAGES = Mappings(
    images={
        "debian-12": ImageMapping(image="ami-0deb", smallest_disk=10),
        "data": ImageMapping(image="snap-1"),
        "alma-9": ImageMapping(image="ami-0a1a"),
    }
)

ROOT = {"DISK_ID": "0", "IMAGE": "debian-12", "IMAGE_ID": "7", "SIZE": "2252", "TARGET": "vda"}
SCRATCH = {"DISK_ID": "1", "TYPE": "fs", "FORMAT": "raw", "SIZE": "20480", "TARGET": "vdb"}
DATA = {"DISK_ID": "2", "IMAGE": "data", "IMAGE_ID": "8", "SIZE": "1024", "TARGET": "vdc", "TYPE": "FILE"}

AMI = ImageDisks(root_device="/dev/sda1", root_size=8, devices=("/dev/sda1", "/dev/sdf"))


def vm(*disks: Mapping[str, str], **section: str) -> VmRequest:
    """A VM with these disks; its section names no AMI unless it is given."""
    attributes = {"INSTANCETYPE": "t3.small", **section}
    values: dict[str, Any] = {"DISK": disks}
    user_template = Template(values={"PUBLIC_CLOUD": (attributes,)})
    return msgspec.structs.replace(a_vm(), template=Template(values=values), user_template=user_template)


def call(provider: Ec2Provider, request: VmRequest, image: ImageDisks = AMI, **snapshots: int) -> dict[str, str]:
    """The RunInstances call for a VM."""
    launch = read_launch(provider.plan(request).alternatives[0])
    sizes = {name.replace("_", "-"): size for name, size in snapshots.items()}
    sent = run_instances(launch, identity=request.identity(owner="me"), token="t", image=image, snapshots=sizes)
    assert unknown_parameters("RunInstances", sent) == []
    return sent


def volumes_of(sent: Mapping[str, str]) -> list[dict[str, str]]:
    """The BlockDeviceMappings of a call, in order."""
    count = sum(name.endswith(".DeviceName") for name in sent)
    prefixes = [f"BlockDeviceMapping.{at}." for at in range(1, count + 1)]
    return [
        {name.removeprefix(prefix): text for name, text in sent.items() if name.startswith(prefix)}
        for prefix in prefixes
    ]


async def test_the_first_disk_is_the_mapped_image_with_the_largest_of_all_sizes(connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    for disk_size, image_size, expected in (("2252", 8, "10"), ("40960", 8, "40"), ("2252", 30, "30")):
        image = ImageDisks(root_device="/dev/sda1", root_size=image_size, devices=("/dev/sda1",))
        sent = call(provider, vm({**ROOT, "SIZE": disk_size}), image)
        assert sent["ImageId"] == "ami-0deb"
        assert volumes_of(sent) == [
            {"DeviceName": "/dev/sda1", "Ebs.VolumeSize": expected, "Ebs.DeleteOnTermination": "true"}
        ]


async def test_the_section_comes_before_image_and_size_of_the_disk(connect: Open) -> None:
    provider = await connect(mappings=IMAGES, defaults={"AMI": "ami-default"})
    sent = call(provider, vm(ROOT, AMI="ami-own", VOLUMESIZE="9", VOLUMETYPE="io2"))
    assert sent["ImageId"] == "ami-own"
    (root,) = volumes_of(sent)
    assert (root["Ebs.VolumeSize"], root["Ebs.VolumeType"]) == ("9", "io2")
    assert call(provider, vm(ROOT))["ImageId"] == "ami-0deb"
    assert call(provider, vm({**ROOT, "IMAGE": "other"}))["ImageId"] == "ami-default"


async def test_a_root_device_in_blockdevicemapping_is_not_mapped_twice(connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    sent = call(provider, vm(ROOT, BLOCKDEVICEMAPPING="/dev/sda1=:50"))
    assert [each["Ebs.VolumeSize"] for each in volumes_of(sent)] == ["50"]
    assert "/dev/sda1=0=root" in sent.values()


async def test_further_disks_are_volumes_at_devices_that_follow_from_template_and_image(connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    request = vm(ROOT, SCRATCH, DATA, BLOCKDEVICEMAPPING="/dev/sdg=:5")
    sent = call(provider, request, snap_1=30)
    assert sent == call(provider, request, snap_1=30)
    assert volumes_of(sent)[2:] == [
        {
            "DeviceName": "/dev/sdh",
            "Ebs.VolumeSize": "20",
            "Ebs.VolumeType": "gp3",
            "Ebs.DeleteOnTermination": "true",
        },
        {
            "DeviceName": "/dev/sdi",
            "Ebs.SnapshotId": "snap-1",
            "Ebs.VolumeSize": "30",
            "Ebs.VolumeType": "gp3",
            "Ebs.DeleteOnTermination": "true",
        },
    ]
    assert "/dev/sda1=0=root /dev/sdh=1 /dev/sdi=2" in sent.values()


@pytest.mark.parametrize(
    ("disk", "warning"),
    [
        pytest.param(
            {"DISK_ID": "1", "IMAGE": "rescue", "IMAGE_ID": "9", "TYPE": "RBD_CDROM", "SIZE": "700"},
            "disk 1 is not made: image rescue (9) is a CD-ROM, which EC2 lacks",
            id="cdrom",
        ),
        pytest.param(
            {"DISK_ID": "1", "IMAGE": "alma-9", "IMAGE_ID": "9", "TYPE": "FILE", "SIZE": "700"},
            "disk 1 is not made: image alma-9 (9) stands for ami-0a1a, and a disk after the first needs a snapshot"
            " (snap-...)",
            id="an-ami",
        ),
        pytest.param(
            {"DISK_ID": "1", "IMAGE": "backup", "IMAGE_ID": "9", "TYPE": "FILE", "SIZE": "700"},
            "disk 1 is not made: no snapshot stands for image backup (9): [images] of the configuration can name one",
            id="unmapped",
        ),
        pytest.param(
            {"DISK_ID": "1", "TYPE": "fs"}, "disk 1 is not made: it has no DISK_ID or no SIZE", id="without-a-size"
        ),
        pytest.param(
            {"DISK_ID": "1", "TYPE": "swap", "SIZE": "1024"},
            "disk 1 is an empty volume in EC2: the guest formats it",
            id="swap",
        ),
        pytest.param(
            {**DATA, "DISK_ID": "1", "PERSISTENT": "YES"},
            "disk 1: image data (8) is persistent at home only, what the instance writes is lost when the VM ends",
            id="persistent",
        ),
    ],
)
async def test_a_disk_that_is_not_as_at_home_is_one_sentence_in_the_vms_log(
    connect: Open, disk: Mapping[str, str], warning: str
) -> None:
    provider = await connect(mappings=IMAGES)
    assert provider.plan(vm(ROOT, disk)).warnings == (warning,)


async def test_a_template_with_known_disks_only_causes_no_warning(connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    assert provider.plan(vm(ROOT, SCRATCH, DATA)).warnings == ()


async def test_an_unmapped_first_image_without_ami_fails_with_its_name(connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    with pytest.raises(BadParameter) as caught:
        provider.plan(vm({**ROOT, "IMAGE": "alma-8"}))
    assert str(caught.value) == (
        "the PUBLIC_CLOUD section names no AMI, and [ec2.defaults] has none either, nor [images] for image alma-8 (7)"
    )


async def test_more_disks_than_devices_are_refused_before_ec2_is_asked(connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    with pytest.raises(BadParameter, match="the template has 12 disks besides its first one, EC2 takes 11"):
        provider.plan(vm(ROOT, *({**SCRATCH, "DISK_ID": str(at)} for at in range(1, 13))))


# The volumes of a running instance


async def a_running(provider: Ec2Provider, *disks: Mapping[str, str]) -> DeployId:
    return await launched(provider, vm(*(disks or (ROOT, SCRATCH, DATA))))


def volumes(ec2: FaultyEc2, deploy_id: str) -> dict[str, dict[str, Any]]:
    """The volumes of an instance by device, as another client sees them."""
    asked = {"Filter.1.Name": "attachment.instance-id", "Filter.1.Value.1": deploy_id}
    found = ec2.account.act("DescribeVolumes", asked)["volumeSet"]
    return {each["attachmentSet"][0]["device"]: each for each in found}


async def test_a_repeated_create_is_the_same_call_even_by_another_process(ec2: FaultyEc2, connect: Open) -> None:
    first, second = await connect(mappings=IMAGES), await connect(mappings=IMAGES)
    request = vm(ROOT, SCRATCH, DATA)
    assert await first.create(a_call(first, request)) == await second.create(a_call(second, request))
    (deploy_id,) = ec2.account.instances
    assert {device: each["size"] for device, each in volumes(ec2, deploy_id).items()} == {
        "/dev/xvda": 10,
        "/dev/sdf": 20,
        "/dev/sdg": 8,
    }


async def test_launched_volumes_are_known_by_disk_id_and_the_root_volume_is_not_to_be_detached(
    ec2: FaultyEc2, connect: Open
) -> None:
    provider = await connect(mappings=IMAGES)
    deploy_id = await a_running(provider)
    assert await provider.attached(deploy_id) == Attached(disks=frozenset({"1", "2"}))
    with pytest.raises(BadParameter, match="disk 0 is the root volume of instance"):
        await provider.detach_disk(deploy_id, ROOT)
    assert len(volumes(ec2, deploy_id)) == 3


async def test_an_attach_of_a_launched_disk_makes_no_second_volume(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    deploy_id = await a_running(provider)
    for disk in (SCRATCH, DATA):
        await provider.attach_disk(deploy_id, disk)
    assert len(volumes(ec2, deploy_id)) == 3
    assert ec2.account.volumes == {}


async def test_a_launched_disk_grows_and_is_detached_like_an_attached_one(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    deploy_id = await a_running(provider)
    await provider.resize_disk(deploy_id, {**ROOT, "SIZE": "51200"})
    await provider.resize_disk(deploy_id, {**SCRATCH, "SIZE": "30720"})
    assert [each["size"] for each in volumes(ec2, deploy_id).values()] == [50, 30, 8]
    await provider.detach_disk(deploy_id, SCRATCH)
    assert sorted(volumes(ec2, deploy_id)) == ["/dev/sdg", "/dev/xvda"]
    assert await provider.attached(deploy_id) == Attached(disks=frozenset({"2"}))
    assert ec2.account.count("DeleteVolume") == 1
    await provider.attach_disk(deploy_id, {**SCRATCH, "SIZE": "1024"})
    assert await provider.attached(deploy_id) == Attached(disks=frozenset({"1", "2"}))


async def test_a_root_volume_that_is_larger_than_its_disk_already_stays_when_the_disk_grows(
    ec2: FaultyEc2, connect: Open
) -> None:
    provider = await connect(mappings=IMAGES)
    deploy_id = await a_running(provider)
    await provider.resize_disk(deploy_id, {**ROOT, "SIZE": "5120"})
    with pytest.raises(BadParameter, match="disk 1 has 20 GiB and cannot shrink to 5 GiB"):
        await provider.resize_disk(deploy_id, {**SCRATCH, "SIZE": "5120"})
    assert ec2.account.count("ModifyVolume") == 0


async def test_a_detach_of_a_launched_disk_that_was_cut_short_is_completed(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    deploy_id = await a_running(provider)
    ec2.order("DeleteVolume", code="InternalError", message="An internal error", status=500)
    with pytest.raises(Exception, match="internal error"):
        await provider.detach_disk(deploy_id, SCRATCH)
    await (await connect(mappings=IMAGES)).detach_disk(deploy_id, SCRATCH)
    assert len(ec2.account.act("DescribeVolumes", {})["volumeSet"]) == 2


async def test_all_launched_volumes_end_with_the_instance(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    deploy_id = await a_running(provider)
    await provider.attached(deploy_id)
    await provider.destroy(deploy_id)
    await reach(provider, deploy_id, InstanceState.TERMINATED)
    assert ec2.account.act("DescribeVolumes", {})["volumeSet"] == []


async def test_a_root_volume_that_the_section_keeps_stays_when_the_vm_ends(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    deploy_id = await launched(provider, vm(ROOT, DELETEONTERMINATION="NO"))
    await provider.resize_disk(deploy_id, {**ROOT, "SIZE": "51200"})
    await provider.destroy(deploy_id)
    await reach(provider, deploy_id, InstanceState.TERMINATED)
    (kept,) = ec2.account.act("DescribeVolumes", {})["volumeSet"]
    assert (kept["size"], DISKS_TAG in {each["key"] for each in kept["tagSet"]}) == (50, True)


async def test_a_mapped_data_image_is_attached_from_its_snapshot(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    deploy_id = await a_running(provider, ROOT)
    await provider.attach_disk(deploy_id, {**DATA, "SOURCE": "/var/lib/one/datastores/1/abc"})
    (form,) = [form for action, form in ec2.account.calls if action == "CreateVolume"]
    assert (form["SnapshotId"], form["Size"]) == ("snap-1", "8")


async def test_an_ami_without_a_root_volume_has_no_size_by_the_disk(connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    sent = call(provider, vm(ROOT, SCRATCH), ImageDisks())
    assert [each["DeviceName"] for each in volumes_of(sent)] == ["/dev/sdf"]


async def test_an_ami_whose_root_is_no_ebs_volume_has_no_size_by_the_disk(connect: Open) -> None:
    provider = await connect(mappings=IMAGES)
    sent = call(provider, vm(ROOT, SCRATCH), ImageDisks(root_device="/dev/sda1"))
    assert [each["DeviceName"] for each in volumes_of(sent)] == ["/dev/sdf"]


@pytest.mark.parametrize("lookup", ["DescribeImages", "DescribeSnapshots"])
async def test_a_create_whose_lookups_fail_was_certainly_not_sent(ec2: FaultyEc2, connect: Open, lookup: str) -> None:
    provider = await connect(mappings=IMAGES)
    ec2.order(lookup, code="InternalError", message="An internal error", status=500)
    with pytest.raises(NotReached, match=r"nothing was created: .*internal error"):
        await provider.create(a_call(provider, vm(ROOT, DATA)))
    assert ec2.account.count("RunInstances") == 0


async def test_template_disks_off_leaves_the_volumes_of_the_ami_and_the_section(connect: Open) -> None:
    provider = await connect(mappings=IMAGES, template_disks=False)
    request = vm({**ROOT, "SIZE": "40960"}, SCRATCH, DATA)
    sent = call(provider, request)
    assert (sent["ImageId"], volumes_of(sent)) == ("ami-0deb", [])
    warnings = provider.plan(request).warnings
    assert any("without the template's disks (0, 1, 2)" in each for each in warnings)
    assert volumes_of(call(provider, vm(SCRATCH, AMI="ami-1", VOLUMESIZE="20")))[0]["Ebs.VolumeSize"] == "20"


@pytest.mark.parametrize(("given", "expected"), [({"VOLUMEENCRYPTED": "YES"}, ["true"] * 3), ({}, [None] * 3)])
async def test_all_volumes_are_encrypted_with_the_root_volume(
    connect: Open, given: dict[str, str], expected: list[str | None]
) -> None:
    provider = await connect(mappings=IMAGES, defaults=given)
    sent = call(provider, vm(ROOT, SCRATCH, DATA), snap_1=4)
    assert [each.get("Ebs.Encrypted") for each in volumes_of(sent)] == expected
