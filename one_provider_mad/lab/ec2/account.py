"""An account of EC2, STS, CloudWatch and the price list on the simulated cloud: every action, with faults on order."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from one_provider_mad.errors import ProviderError
from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2.addresses import Addresses
from one_provider_mad.lab.ec2.answers import Answer
from one_provider_mad.lab.ec2.consoles import Consoles
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.groups import SecurityGroups
from one_provider_mad.lab.ec2.instances import Instances
from one_provider_mad.lab.ec2.interfaces import Interfaces
from one_provider_mad.lab.ec2.metrics import Metrics
from one_provider_mad.lab.ec2.offers import Offers
from one_provider_mad.lab.ec2.plans import Plans
from one_provider_mad.lab.ec2.price_lists import PriceLists
from one_provider_mad.lab.ec2.public_images import PublicImages
from one_provider_mad.lab.ec2.refusals import AnswerLost, Refusal, refusal_of
from one_provider_mad.lab.ec2.resources import Resources
from one_provider_mad.lab.ec2.tags import Tags
from one_provider_mad.lab.ec2.topology import Topology
from one_provider_mad.lab.ec2.volumes import Volumes
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from one_provider_mad.providers.simulated.traffic import Traffic

Handler = Callable[[Form], Awaitable[Answer]]


class Action(NamedTuple):
    """One action of an API.

    Attributes:
        service: the service with this action.
        call: the simulated cloud's name for it (`CALLS` of its settings.py), used to order faults.
        handler: carries it out.
    """

    service: str
    call: str
    handler: Handler


class Account:
    """One account in one region, as its APIs see it.

    Args:
        database: the simulated cloud's file; the `simulated` provider may have it open too.
        settings: the table `[simulated]`: offers, durations and faults. `account` and `region` name the account (twelve
            digits, or made from the text) and the region.
        clock: seconds since the epoch.
        warn: called when a crash cannot be counted, and so does not take place.

    Attributes:
        resources: its instances and volumes.
        topology: its networks.
        consoles: what guests have written.
        images: the images of other accounts, and its own.
        prices: what the region costs.
    """

    def __init__(
        self,
        database: Path,
        settings: SimulatedSettings,
        *,
        clock: Callable[[], float] = time.time,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.resources = Resources(database, settings, clock=clock)
        self.topology = Topology(self.resources)
        self.consoles = Consoles(self.resources)
        self.prices = PriceLists(self.resources)
        self.images = PublicImages(self.resources, Offers(self.resources))
        crashes = database.with_name(f"{database.name}.crashes")
        self._traffic = Traffic(settings, crashes=crashes, clock=clock, warn=warn)
        self._actions = self._known_actions()

    def _known_actions(self) -> dict[str, Action]:
        resources = self.resources
        instances, volumes = Instances(resources, self._traffic), Volumes(resources)
        interfaces, groups = Interfaces(resources), SecurityGroups(resources, self.topology)
        addresses, tags, offers = Addresses(resources), Tags(resources), Offers(resources)
        plans = Plans(resources, instances)
        ec2: dict[str, tuple[str, Handler]] = {
            "RunInstances": ("create", instances.run),
            "DescribeInstances": ("list_instances", instances.describe),
            "DescribeInstanceStatus": ("list_instances", plans.status),
            "DescribeSpotInstanceRequests": ("list_instances", plans.spot_requests),
            "StartInstances": ("start", instances.start),
            "StopInstances": ("stop", instances.stop),
            "RebootInstances": ("reboot", instances.reboot),
            "TerminateInstances": ("destroy", instances.terminate),
            "ModifyInstanceAttribute": ("resize", instances.modify),
            "DescribeInstanceAttribute": ("describe", instances.attribute),
            "CreateTags": ("retag", tags.create),
            "DeleteTags": ("retag", tags.delete),
            "DescribeTags": ("list_instances", tags.describe),
            "CreateVolume": ("attach_disk", volumes.create),
            "AttachVolume": ("attach_disk", volumes.attach),
            "DetachVolume": ("detach_disk", volumes.detach),
            "DeleteVolume": ("detach_disk", volumes.delete),
            "ModifyVolume": ("resize_disk", volumes.modify),
            "DescribeVolumes": ("list_instances", volumes.describe),
            "DescribeSnapshots": ("list_instances", volumes.snapshots),
            "CreateNetworkInterface": ("attach_nic", interfaces.create),
            "AttachNetworkInterface": ("attach_nic", interfaces.attach),
            "ModifyNetworkInterfaceAttribute": ("attach_nic", interfaces.modify),
            "DetachNetworkInterface": ("detach_nic", interfaces.detach),
            "DeleteNetworkInterface": ("detach_nic", interfaces.delete),
            "DescribeNetworkInterfaces": ("list_instances", interfaces.describe),
            "AllocateAddress": ("attach_nic", addresses.allocate),
            "AssociateAddress": ("attach_nic", addresses.associate),
            "DisassociateAddress": ("detach_nic", addresses.disassociate),
            "ReleaseAddress": ("detach_nic", addresses.release),
            "DescribeAddresses": ("list_instances", addresses.describe),
            "DescribeImages": ("list_instances", self.images.describe),
            "DescribeVpcs": ("list_instances", self.topology.describe_vpcs),
            "DescribeSubnets": ("list_instances", self.topology.describe_subnets),
            "DescribeSecurityGroups": ("list_instances", groups.describe),
            "CreateSecurityGroup": ("update_security_group", groups.create),
            "DeleteSecurityGroup": ("update_security_group", groups.delete),
            "AuthorizeSecurityGroupIngress": ("update_security_group", groups.authorize_in),
            "AuthorizeSecurityGroupEgress": ("update_security_group", groups.authorize_out),
            "RevokeSecurityGroupIngress": ("update_security_group", groups.revoke_in),
            "RevokeSecurityGroupEgress": ("update_security_group", groups.revoke_out),
            "DescribeRouteTables": ("list_instances", self.topology.describe_tables),
            "DescribeNetworkAcls": ("list_instances", self.topology.describe_acls),
            "GetConsoleOutput": ("describe", self.consoles.output),
            "GetConsoleScreenshot": ("describe", self.consoles.screenshot),
            "GetPasswordData": ("describe", self.consoles.password),
            "DescribeInstanceTypes": ("list_instances", offers.instance_types),
            "DescribeSpotPriceHistory": ("list_instances", self.prices.history),
            "DescribeAvailabilityZones": ("list_instances", offers.zones),
            "DescribeRegions": ("list_instances", offers.regions),
        }
        return {
            **{name: Action("ec2", call, handler) for name, (call, handler) in ec2.items()},
            "GetCallerIdentity": Action("sts", "account", self._identity),
            "GetProducts": Action("pricing", "list_instances", self.prices.products),
            "GetMetricData": Action("monitoring", "list_instances", Metrics(resources).data),
        }

    async def open(self) -> None:
        """Open the file. Raises ProviderError when it cannot be used."""
        await self.resources.open()

    async def close(self) -> None:
        """Close the file."""
        await self.resources.close()

    def service_of(self, action: str) -> str:
        """Return the service of an action; "" for an unknown one."""
        return self._actions[action].service if action in self._actions else ""

    async def perform(self, action: str, form: Form) -> Answer:
        """Carry out one action, with all faults of the settings.

        Raises:
            Refusal: EC2's error instead of an answer.
            AnswerLost: the action was carried out, but there is no answer.
        """
        known = self._actions.get(action)
        if known is None:
            raise Refusal("InvalidAction", f"The action {action[:80]} is not valid for this web service.")
        is_done = False

        async def send() -> Answer:
            nonlocal is_done
            if forms.is_true(form, "DryRun"):
                raise Refusal("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
            answer = await known.handler(form)
            is_done = True
            return answer

        try:
            return await self._traffic.call(self._call_of(known, form), send)
        except ProviderError as error:
            if is_done:
                raise AnswerLost from error
            raise refusal_of(error) from error

    @staticmethod
    def _call_of(action: Action, form: Form) -> str:
        """Return the simulated cloud's name of an action: it depends on a listing's filters, and on `Hibernate`."""
        if action.call == "list_instances":
            names = {text for name, text in form.items() if name.startswith("Filter.") and name.endswith(".Name")}
            if "instance-id" in names or "InstanceId.1" in form:
                return "describe"
            return "find" if "tag:ONE_PROVIDER_VM_ID" in names else "list_instances"
        if action.call == "stop" and forms.is_true(form, "Hibernate"):
            return "suspend"
        return action.call

    async def _identity(self, form: Form) -> Answer:  # noqa: ARG002 - it says nothing
        number = self.resources.number
        return {"Arn": f"arn:aws:iam::{number}:user/opennebula", "UserId": "AIDA00000000000000000", "Account": number}
