"""The parameters of a create, as in the journal, and the RunInstances call made of them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from one_provider_mad.domain import Identity
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.group_rules import MirroredGroup
from one_provider_mad.providers.ec2.launch_disks import NO_DISKS, DiskVolume, ImageDisks, block_devices
from one_provider_mad.providers.ec2.launch_interfaces import NICS_TAG
from one_provider_mad.providers.ec2.query import tagged
from one_provider_mad.providers.interface import Parameters

SPOT = "spot"
"""The market of spot instances; that of on-demand instances is ""."""


NO_SNAPSHOTS: Mapping[str, int] = {}


class Launch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """All parameters of RunInstances but the identity and the token.

    Attributes:
        parameters: names and values of the Query API, flat.
        tags: the VM's own and the configuration's, for instance and volumes.
        root_volume: `Ebs` attributes of the root volume; its device is the image's, known to EC2 only.
        root_disk: DISK_ID of the root volume, "" for none.
        least_root: GiB of the root volume if the image's is smaller; 0 for the image's, or that in `root_volume`.
        volumes: for the disks after the first.
        nics: NIC_IDs of the interfaces in `parameters`, in the order of their device indexes.
        groups: OpenNebula's security groups that EC2 is to have.
        nic_groups: their numbers for each of `nics`, none for an interface with other groups.
    """

    parameters: dict[str, str]
    tags: dict[str, str] = {}
    root_volume: dict[str, str] = {}
    root_disk: str = ""
    least_root: int = 0
    volumes: tuple[DiskVolume, ...] = ()
    nics: tuple[str, ...] = ()
    groups: tuple[MirroredGroup, ...] = ()
    nic_groups: tuple[tuple[str, ...], ...] = ()

    @property
    def needs_image(self) -> bool:
        """Return True when the call depends on the volumes of the image."""
        return bool(self.root_volume or self.least_root or self.volumes)

    @property
    def snapshots(self) -> tuple[str, ...]:
        """Return the snapshots that volumes are made from, each once."""
        return tuple(dict.fromkeys(each.snapshot for each in self.volumes if each.snapshot))

    @property
    def subnet(self) -> str:
        """Return the subnet of the first interface, "" where EC2 takes its default one."""
        return self.parameters.get("SubnetId") or self.parameters.get("NetworkInterface.1.SubnetId", "")

    @property
    def place(self) -> Place:
        """Return the combination of instance type, subnet or zone, and market that the call is for."""
        return Place(
            kind=self.parameters.get("InstanceType", ""),
            where=self.subnet or self.parameters.get("Placement.AvailabilityZone", ""),
            market=self.parameters.get("InstanceMarketOptions.MarketType", ""),
        )


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A combination of type, location and market for which EC2 may lack capacity while others have it.

    Attributes:
        kind: instance type.
        where: subnet or zone, "" for any.
        market: `spot`, or "" for on demand.
    """

    kind: str
    where: str
    market: str

    def __str__(self) -> str:
        market = f"{self.market} " if self.market else ""
        return f"{market}{self.kind}{f' in {self.where}' if self.where else ''}"


def read_launch(parameters: Parameters) -> Launch:
    """Decode a create's parameters.

    Raises:
        BadParameter: a plan of this provider never has such parameters.
    """
    try:
        return msgspec.convert(parameters, Launch)
    except msgspec.ValidationError as error:
        raise BadParameter(f"the create parameters are not valid for EC2: {error}") from error


def run_instances(
    launch: Launch,
    *,
    identity: Identity,
    token: str,
    image: ImageDisks = NO_DISKS,
    snapshots: Mapping[str, int] = NO_SNAPSHOTS,
) -> dict[str, str]:
    """Return the call's parameters: exactly one instance, tagged in the same call.

    Args:
        launch: the parameters of the create.
        identity: the VM's identity.
        token: its idempotency token.
        image: the image's volumes, where the launch needs them.
        snapshots: GiB of the snapshots that volumes are made from.

    Raises:
        BadParameter: EC2 has no device left for a volume.
    """
    devices, disks_tag = block_devices(
        launch.volumes,
        image=image,
        root=_root_volume(launch, image),
        root_disk_id=launch.root_disk,
        taken=[device for name, device in launch.parameters.items() if name.endswith(".DeviceName")],
        snapshots=snapshots,
    )
    call = {**launch.parameters, **devices, "MinCount": "1", "MaxCount": "1", "ClientToken": token}
    resources = {"instance": {}, "volume": disks_tag}
    if launch.place.market == SPOT:
        resources["spot-instances-request"] = {}
    if launch.nics:
        resources["network-interface"] = {NICS_TAG: " ".join(f"{at}={nic}" for at, nic in enumerate(launch.nics))}
    for number, (resource, own) in enumerate(resources.items(), 1):
        call |= tagged(f"TagSpecification.{number}", resource, {**launch.tags, **identity.tags(), **own})
    return call


def _root_volume(launch: Launch, image: ImageDisks) -> Mapping[str, str]:
    """Return `Ebs` attributes of the root volume; its size is the section's, or else at least that of the image.

    The disk gives none to an AMI whose root is no EBS volume, as with `instance-store`: EC2 would refuse the create.
    """
    device = image.root_device.removeprefix("/dev/")
    is_mapped = any(
        name.endswith(".DeviceName") and text.removeprefix("/dev/") == device
        for name, text in launch.parameters.items()
    )
    if not launch.least_root or "VolumeSize" in launch.root_volume or not image.root_size or is_mapped:
        return launch.root_volume
    size = str(max(launch.least_root, image.root_size))
    return {"DeleteOnTermination": "true", **launch.root_volume, "VolumeSize": size}
