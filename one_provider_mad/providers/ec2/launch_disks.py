"""Converts the DISKs of a VM to the volumes that an instance is launched with; no I/O.

RunInstances tags all volumes alike, so one tag says which DISK_ID each device is: no crash can leave a volume unnamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from one_provider_mad.domain import TAG_PREFIX, Value, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.volume_facts import VolumeFacts
from one_provider_mad.providers.ec2.volumes import LETTERS, device_for, volume_size
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.mapped_images import further_disks, image_name, is_cdrom, mapped_image, root_disk

DISKS_TAG = f"{TAG_PREFIX}DISKS"
"""Tag of all volumes of a launch: `/dev/xvda=0=root /dev/sdf=1`, device and DISK_ID of each disk of the VM."""

_ROOT = "root"

SNAPSHOT = "snap-"
"""Prefix of a snapshot's id, as `[images]` names it for data images."""


class DiskVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A volume that is made with the instance and ends with it, for a disk after the first.

    Attributes:
        disk_id: DISK_ID.
        size: GiB.
        snapshot: its content, "" for an empty volume.
        target: TARGET of the disk, "" for none.
    """

    disk_id: str
    size: int
    snapshot: str = ""
    target: str = ""


class ImageDisks(Value, frozen=True, kw_only=True):
    """The volumes that an AMI brings.

    Attributes:
        root_device: device of the root volume, "" for an AMI without one.
        root_size: GiB of its snapshot, 0 for a root that is no EBS volume.
        devices: devices of all volumes.
        volumes: device and facts of each of its EBS volumes.
        platform: EC2's platform details, `Linux/UNIX`; "" when unknown.
        architecture: of the machines that run it, in EC2's words; "" when unknown.
    """

    root_device: str = ""
    root_size: int = 0
    devices: tuple[str, ...] = ()
    volumes: tuple[tuple[str, VolumeFacts], ...] = ()
    platform: str = ""
    architecture: str = ""


NO_DISKS = ImageDisks()


def root_size(request: VmRequest, context: ProviderContext) -> int:
    """Return the GiB that the root volume has at least by the first DISK; 0 where it has no image or no size.

    Raises:
        BadParameter: SIZE, or PROVIDER_SMALLEST_DISK of the image, is no number.
    """
    disk = root_disk(request)
    if not disk:
        return 0
    asked = volume_size(disk) if disk.get("SIZE") else 0
    return max(asked, mapped_image(disk, context).smallest_disk)


def further_volumes(request: VmRequest, context: ProviderContext) -> tuple[DiskVolume, ...]:
    """Return the volumes for the VM's further disks: empty ones, and those of mapped data images.

    Raises:
        BadParameter: a disk has no size, or there are more than EC2 has devices for.
    """
    made = [_volume(disk, context) for disk in further_disks(request) if not _reason(disk, context)]
    if len(made) > len(LETTERS):
        raise BadParameter(f"the template has {len(made)} disks besides its first one, EC2 takes {len(LETTERS)}")
    return tuple(made)


def _volume(disk: Mapping[str, str], context: ProviderContext) -> DiskVolume:
    mapped = mapped_image(disk, context)
    return DiskVolume(
        disk_id=disk.get("DISK_ID", ""),
        size=max(volume_size(disk), mapped.smallest_disk),
        snapshot=mapped.image,
        target=disk.get("TARGET", ""),
    )


def disk_warnings(request: VmRequest, context: ProviderContext) -> Iterator[str]:
    """Yield a sentence for each disk that is not made, or is not what it is at home."""
    root = root_disk(request)
    for disk in request.template.vectors("DISK"):
        disk_id = disk.get("DISK_ID", "")
        if disk is not root and (reason := _reason(disk, context)):
            yield f"disk {disk_id} is not made: {reason}"
        elif disk.get("PERSISTENT", "").upper() == "YES":
            yield (
                f"disk {disk_id}: image {image_name(disk)} is persistent at home only, what the instance writes is lost"
                " when the VM ends"
            )
        elif disk.get("TYPE", "").upper() == "SWAP" or disk.get("FS"):
            yield f"disk {disk_id} is an empty volume in EC2: the guest formats it"


def _reason(disk: Mapping[str, str], context: ProviderContext) -> str:
    """Return why EC2 makes no volume for a disk after the first one, "" where it does."""
    image, name = mapped_image(disk, context).image, image_name(disk)
    if not (disk.get("DISK_ID") and disk.get("SIZE")):
        return "it has no DISK_ID or no SIZE"
    if image.startswith(SNAPSHOT) or not name:
        return ""
    if is_cdrom(disk):
        return f"image {name} is a CD-ROM, which EC2 lacks"
    if image:
        return f"image {name} stands for {image}, and a disk after the first needs a snapshot ({SNAPSHOT}...)"
    return f"no snapshot stands for image {name}: [images] of the configuration can name one"


def block_devices(
    volumes: Sequence[DiskVolume],
    *,
    image: ImageDisks,
    root: Mapping[str, str],
    root_disk_id: str,
    taken: Sequence[str],
    snapshots: Mapping[str, int],
) -> tuple[dict[str, str], dict[str, str]]:
    """Return BlockDeviceMapping parameters, and the tag that names the disks; both follow from the arguments alone.

    Args:
        volumes: for the disks after the first.
        image: what the AMI brings; it never changes.
        root: `Ebs` attributes of the root volume, empty: as in the image; whether it is encrypted counts for all.
        root_disk_id: DISK_ID of the root volume, "" for none.
        taken: devices of mappings that the call has already.
        snapshots: GiB of each snapshot that the volumes are made from.

    Raises:
        BadParameter: no device is free.
    """
    call: dict[str, str] = {}
    number = len(taken)
    used = [*taken, *image.devices, image.root_device]
    names: list[str] = []
    encryption = {name: text for name, text in root.items() if name == "Encrypted"}
    if root:
        number += 1
        call |= _mapping(number, image.root_device, root)
    if root_disk_id and image.root_device:
        names.append(f"{image.root_device}={root_disk_id}={_ROOT}")
    for volume in volumes:
        number += 1
        device = device_for({"TARGET": volume.target}, used)
        used.append(device)
        ebs = {"SnapshotId": volume.snapshot} if volume.snapshot else {}
        size = max(volume.size, snapshots.get(volume.snapshot, 0))
        ebs |= {"VolumeSize": str(size), "VolumeType": "gp3", "DeleteOnTermination": "true", **encryption}
        call |= _mapping(number, device, ebs)
        names.append(f"{device}={volume.disk_id}")
    return call, {DISKS_TAG: " ".join(names)} if names else {}


def _mapping(number: int, device: str, ebs: Mapping[str, str]) -> dict[str, str]:
    prefix = f"BlockDeviceMapping.{number}"
    return {f"{prefix}.DeviceName": device, **{f"{prefix}.Ebs.{name}": value for name, value in ebs.items()}}


class LaunchedDisk(Value, frozen=True, kw_only=True):
    """The disk that a volume of a launch is.

    Attributes:
        disk_id: DISK_ID.
        is_root: it is the root volume.
    """

    disk_id: str
    is_root: bool = False


def launched_disk(tags: Mapping[str, str], device: str) -> LaunchedDisk | None:
    """Return the disk that the launch made the volume at `device` for; None for a volume of the AMI or the section."""
    for item in tags.get(DISKS_TAG, "").split():
        name, _, rest = item.partition("=")
        disk_id, _, role = rest.partition("=")
        if name == device and disk_id:
            return LaunchedDisk(disk_id=disk_id, is_root=role == _ROOT)
    return None
