"""The parameters of a create as they stand in the journal, and the call that they become."""

from __future__ import annotations

import msgspec

from one_provider_mad.domain import Identity
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.query import tagged
from one_provider_mad.providers.interface import Parameters

SPOT = "spot"
"""The market of spot instances; on demand has no name."""


class Launch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that RunInstances is told, but whose the instance is and the token.

    Attributes:
        parameters: in the words of the Query API, flat.
        tags: the VM's own and the configuration's, of instance and volumes.
        root_volume: `Ebs` attributes of the root volume; its device is the image's, which only EC2 knows.
    """

    parameters: dict[str, str]
    tags: dict[str, str] = {}
    root_volume: dict[str, str] = {}

    @property
    def place(self) -> Place:
        """What may have no room."""
        return Place(
            kind=self.parameters.get("InstanceType", ""),
            where=self.parameters.get("SubnetId") or self.parameters.get("Placement.AvailabilityZone", ""),
            market=self.parameters.get("InstanceMarketOptions.MarketType", ""),
        )


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Of what EC2 may run short, each by itself.

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
    """Read a create's parameters back.

    Raises:
        BadParameter: they are not what a plan of this provider makes.
    """
    try:
        return msgspec.convert(parameters, Launch)
    except msgspec.ValidationError as error:
        raise BadParameter(f"the create parameters are not what EC2 takes: {error}") from error


def run_instances(launch: Launch, *, identity: Identity, token: str, root_device: str) -> dict[str, str]:
    """The call: exactly one instance, whose tags are there from its first moment.

    Args:
        launch: what it is to be.
        identity: whose it is.
        token: its idempotency token.
        root_device: the image's, "" when the launch says nothing of the root volume.
    """
    call = {**launch.parameters, "MinCount": "1", "MaxCount": "1", "ClientToken": token}
    if launch.root_volume:
        number = 1 + sum(name.endswith(".DeviceName") for name in launch.parameters)
        call[f"BlockDeviceMapping.{number}.DeviceName"] = root_device
        call |= {f"BlockDeviceMapping.{number}.Ebs.{name}": value for name, value in launch.root_volume.items()}
    resources = ["instance", "volume"]
    if launch.place.market == SPOT:
        resources.append("spot-instances-request")
    for number, resource in enumerate(resources, 1):
        call |= tagged(f"TagSpecification.{number}", resource, {**launch.tags, **identity.tags()})
    return call
