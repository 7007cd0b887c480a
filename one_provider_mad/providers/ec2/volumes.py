"""Converts a template's attributes for volumes to EC2's parameters; no I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.attributes import flag, number
from one_provider_mad.providers.public_cloud import Section

_DEVICE = re.compile(r"(/dev/)?[a-z][a-z0-9]{1,15}")
_TARGET = re.compile(r"(?:/dev/)?(?:x?vd|sd|hd)([a-z])")

LETTERS = "fghijklmnop"
"""Devices that EC2 recommends for volumes, `/dev/sdf` to `/dev/sdp` (docs.aws.amazon.com, "Device names")."""


def device_mappings(text: str) -> dict[str, str]:
    """Parse upstream's BLOCKDEVICEMAPPING: `dev=none`, or `dev=snapshot:size:delete:type:iops`, blanks between.

    Raises:
        BadParameter: it is not of that form.
    """
    written: dict[str, str] = {}
    for at, item in enumerate(text.split(), 1):
        device, is_mapped, what = item.partition("=")
        if not is_mapped or not _DEVICE.fullmatch(device):
            raise BadParameter(
                f"BLOCKDEVICEMAPPING of the PUBLIC_CLOUD section: {item[:40]} is not"
                " /dev/sdf=snapshot:size:delete:type:iops"
            )
        prefix = f"BlockDeviceMapping.{at}"
        written[f"{prefix}.DeviceName"] = device
        if what == "none":
            written[f"{prefix}.NoDevice"] = ""
        elif what.startswith("ephemeral"):
            written[f"{prefix}.VirtualName"] = what
        else:
            written |= {f"{prefix}.Ebs.{name}": value for name, value in _ebs(what).items()}
    return written


def _ebs(what: str) -> dict[str, str]:
    snapshot, size, delete, kind, iops, *rest = [*what.split(":"), "", "", "", "", ""]
    if any(rest):
        raise BadParameter(f"BLOCKDEVICEMAPPING of the PUBLIC_CLOUD section: {what[:40]} has too many parts")
    ebs = {
        "SnapshotId": snapshot,
        "VolumeSize": number("BLOCKDEVICEMAPPING", size) if size else "",
        # A volume that is never deleted costs for ever.
        "DeleteOnTermination": "true" if flag("BLOCKDEVICEMAPPING", delete or "true") else "false",
        "VolumeType": kind,
        "Iops": number("BLOCKDEVICEMAPPING", iops) if iops else "",
    }
    return {name: value for name, value in ebs.items() if value}


def root_volume(section: Section) -> dict[str, str]:
    """Return the section's values for the root volume; empty: as in the image.

    Raises:
        BadParameter: a value is of the wrong form.
    """
    ebs = {}
    for name, parameter in (("VOLUMESIZE", "VolumeSize"), ("VOLUMEIOPS", "Iops"), ("VOLUMETHROUGHPUT", "Throughput")):
        if text := section.text(name):
            ebs[parameter] = number(name, text)
    if kind := section.text("VOLUMETYPE"):
        ebs["VolumeType"] = kind
    for name, parameter in (("VOLUMEENCRYPTED", "Encrypted"), ("DELETEONTERMINATION", "DeleteOnTermination")):
        if text := section.text(name):
            ebs[parameter] = "true" if flag(name, text) else "false"
    return {"DeleteOnTermination": "true", **ebs} if ebs else {}


def volume_size(disk: Mapping[str, str]) -> int:
    """Return the GiB of a disk with SIZE in MB.

    Raises:
        BadParameter: it has no size.
    """
    try:
        size = float(disk.get("SIZE", ""))
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        raise BadParameter(f"SIZE={disk.get('SIZE', '')[:40]} of the disk is not a number of MB")
    return math.ceil(size / 1024)


def device_for(disk: Mapping[str, str], taken: Collection[str]) -> str:
    """Return the device for a disk: its TARGET if that is free and recommended by EC2, else the first free one.

    Raises:
        BadParameter: no device is free.
    """
    used = {match[1] for device in taken if (match := _TARGET.fullmatch(device))}
    match = _TARGET.fullmatch(disk.get("TARGET", ""))
    wanted = [match[1]] if match and match[1] in LETTERS else []
    for letter in (*wanted, *LETTERS):
        if letter not in used:
            return f"/dev/sd{letter}"
    raise BadParameter(f"the instance has {len(LETTERS)} volumes attached already: detach one first")
