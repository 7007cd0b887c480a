"""Computes which volumes a launch will have, of the AMI and of its own parameters; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping

from one_provider_mad.domain import Identity, VmId, whole_number
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.launch import Launch, run_instances
from one_provider_mad.providers.ec2.launch_disks import ImageDisks
from one_provider_mad.providers.ec2.volume_facts import VolumeFacts

_MAPPING = re.compile(r"BlockDeviceMapping\.(\d+)\.(.+)")

_NOBODY = Identity(owner="", vm_id=VmId(0), stime=0, seq=0, host_id=-1)

_USUAL_KIND = "gp2"
"""Type of a volume whose mapping names none (docs.aws.amazon.com, API_EbsBlockDevice)."""


def launched_volumes(launch: Launch, image: ImageDisks, snapshots: Mapping[str, int]) -> list[VolumeFacts] | None:
    """Return the EBS volumes of a new instance; None when EC2 would refuse the launch.

    Args:
        launch: the parameters of the create.
        image: the AMI's volumes.
        snapshots: GiB of the snapshots that are known.
    """
    try:
        call = run_instances(launch, identity=_NOBODY, token="", image=image, snapshots=snapshots)
    except BadParameter:
        return None
    volumes = {device.removeprefix("/dev/"): facts for device, facts in image.volumes}
    for mapping in _mappings(call).values():
        device = mapping.get("DeviceName", "").removeprefix("/dev/")
        before = volumes.pop(device, None)
        if not ("NoDevice" in mapping or "VirtualName" in mapping):
            volumes[device] = _mapped(mapping, before, snapshots)
    return list(volumes.values())


def _mappings(call: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the block device mappings of a call by number."""
    found: dict[str, dict[str, str]] = {}
    for name, text in call.items():
        if match := _MAPPING.fullmatch(name):
            found.setdefault(match[1], {})[match[2]] = text
    return found


def _mapped(mapping: Mapping[str, str], before: VolumeFacts | None, snapshots: Mapping[str, int]) -> VolumeFacts:
    """Return the volume of a mapping; what it does not say is as in the AMI, or as in its snapshot."""
    usual = before or VolumeFacts(kind=_USUAL_KIND, size=None)
    kind = mapping.get("Ebs.VolumeType") or usual.kind
    is_same = kind == usual.kind
    return VolumeFacts(
        kind=kind,
        size=whole_number(mapping.get("Ebs.VolumeSize", ""))
        or snapshots.get(mapping.get("Ebs.SnapshotId", ""))
        or usual.size,
        iops=whole_number(mapping.get("Ebs.Iops", "")) or (usual.iops if is_same else 0),
        throughput=whole_number(mapping.get("Ebs.Throughput", "")) or (usual.throughput if is_same else 0),
    )
