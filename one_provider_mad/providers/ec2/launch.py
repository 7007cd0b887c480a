"""The parameters of a create, as in the journal, and the RunInstances call made of them."""

from __future__ import annotations

import msgspec

from one_provider_mad.domain import Identity
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.query import tagged
from one_provider_mad.providers.interface import Parameters

SPOT = "spot"
"""The market of spot instances; that of on-demand instances is ""."""


class Launch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All parameters of RunInstances but the identity and the token.

    Attributes:
        parameters: names and values of the Query API, flat.
        tags: the VM's own and the configuration's, for instance and volumes.
        root_volume: `Ebs` attributes of the root volume; its device is the image's, known to EC2 only.
    """

    parameters: dict[str, str]
    tags: dict[str, str] = {}
    root_volume: dict[str, str] = {}

    @property
    def place(self) -> Place:
        """Return the combination of instance type, subnet or zone, and market that the call is for."""
        return Place(
            kind=self.parameters.get("InstanceType", ""),
            where=self.parameters.get("SubnetId") or self.parameters.get("Placement.AvailabilityZone", ""),
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


def run_instances(launch: Launch, *, identity: Identity, token: str, root_device: str) -> dict[str, str]:
    """Return the call's parameters: exactly one instance, tagged in the same call.

    Args:
        launch: the parameters of the create.
        identity: the VM's identity.
        token: its idempotency token.
        root_device: the image's, "" when the launch has no root volume attributes.
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
