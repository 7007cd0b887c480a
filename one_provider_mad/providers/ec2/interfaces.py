"""NIC hotplug with network interfaces: each is made for one NIC_ID of one instance, tagged so, and deleted with it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from one_provider_mad.domain import TAG_PREFIX, DeployId, Value, VmRequest, whole_number
from one_provider_mad.errors import BadParameter, PermissionDenied, ProviderError, ProviderUnavailable, WrongState
from one_provider_mad.providers.ec2.attributes import words
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.disks import INSTANCE_TAG, Disks, release_each
from one_provider_mad.providers.ec2.gathered import Gathered, grouped
from one_provider_mad.providers.ec2.group_rules import mirrored_groups
from one_provider_mad.providers.ec2.groups import Groups
from one_provider_mad.providers.ec2.instances import Details, read_tags
from one_provider_mad.providers.ec2.launch_interfaces import (
    NICS_TAG,
    LaunchInterface,
    asked_address,
    launched_nic,
    mirrored_numbers,
    refused_address,
)
from one_provider_mad.providers.ec2.query import filtered, numbered, pairs, tagged
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.mapped_networks import MappedNetwork, mapped_network, plain_nics
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

NIC_TAG = f"{TAG_PREFIX}NIC_ID"
"""Tag of a network interface made for a VM's NIC, besides those of its instance."""

_PAUSE = 1.0
"""Longest pause in seconds between two lookups of an interface."""


class Interface(Value, frozen=True, kw_only=True):
    """One network interface.

    Attributes:
        interface_id: EC2's id.
        instance_id: instance that it is attached to or is being detached from, "" for none.
        attachment_id: EC2's id of the attachment, "" for none.
        index: device index at the instance.
        ends_with_instance: it is deleted with its instance.
        nic_id: NIC_ID of its NIC, "" for none.
        is_tagged: it has the tags of one NIC, and not only that of its launch.
        made_for: instance in its tags, "" for none.
        vpc: its VPC.
        groups: ids of its security groups.
    """

    interface_id: str
    instance_id: str = ""
    attachment_id: str = ""
    index: int = 0
    ends_with_instance: bool = False
    nic_id: str = ""
    is_tagged: bool = False
    made_for: str = ""
    vpc: str = ""
    groups: frozenset[str] = frozenset()

    @property
    def is_first(self) -> bool:
        """Return True for the first interface of an instance, which it cannot be without."""
        return bool(self.instance_id) and self.index == 0


def read_interfaces(root: Element) -> list[Interface]:
    """Return every interface of a DescribeNetworkInterfaces answer."""
    if root.find("networkInterfaceSet") is None:
        raise ProviderUnavailable("EC2: the answer to DescribeNetworkInterfaces has no list, not even an empty one")
    return [_interface(item) for item in elements_at(root, "networkInterfaceSet/item")]


def _interface(item: Element) -> Interface:
    tags = read_tags(elements_at(item, "tagSet/item"))
    attachment_id = text_of(element_at(item, "attachment/attachmentId"))
    index = whole_number(text_of(element_at(item, "attachment/deviceIndex"))) or 0
    return Interface(
        interface_id=text_of(item.find("networkInterfaceId")),
        instance_id=text_of(element_at(item, "attachment/instanceId")),
        attachment_id=attachment_id,
        index=index,
        ends_with_instance=text_of(element_at(item, "attachment/deleteOnTermination")) == "true",
        nic_id=tags.get(NIC_TAG) or (launched_nic(tags, index) if attachment_id else ""),
        is_tagged=NIC_TAG in tags,
        made_for=tags.get(INSTANCE_TAG, ""),
        vpc=text_of(item.find("vpcId")),
        groups=frozenset(text_of(each) for each in elements_at(item, "groupSet/item/groupId")),
    )


class Interfaces:
    """The network interfaces of instances.

    Args:
        client: the connection to the cloud.
        disks: looks up an instance.
        groups: OpenNebula's security groups in EC2.
        context: the cloud's tables.
        settings: the table `[ec2]`.
    """

    def __init__(
        self, client: Client, disks: Disks, groups: Groups, context: ProviderContext, settings: Ec2Settings
    ) -> None:
        self._client = client
        self._disks = disks
        self._groups = groups
        self._context = context
        self._pause = min(settings.watch_interval, _PAUSE)
        self._tags = settings.tags
        self._tagged = Gathered(self._tagged_interfaces, name="interfaces of instances")

    async def prepare(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Make the security groups of the NIC that is about to be attached, as the VM's document has them."""
        nic = request.operand
        network = mapped_network(nic, self._context) or MappedNetwork()
        numbers = self._numbers(nic, network)
        if numbers:
            subnet = await self._subnet_for(await self._disks.details(deploy_id), nic, network)
            await self._groups.put(mirrored_groups(request, numbers), await self._groups.vpc_of(subnet))

    def _numbers(self, nic: Mapping[str, str], network: MappedNetwork) -> tuple[str, ...] | None:
        return None if nic.get("SECURITYGROUPIDS") else mirrored_numbers(nic, network, self._context)

    async def set_groups(self, deploy_id: DeployId, request: VmRequest, launched: Sequence[LaunchInterface]) -> bool:
        """Bring OpenNebula's security groups, and which interface has which, to what the VM's document says.

        Args:
            deploy_id: the instance.
            request: the VM.
            launched: the interfaces of its launch, as its document has them now.

        Returns:
            False when no interface has OpenNebula's groups, since others are named for it.

        Raises:
            BadParameter: EC2 refuses a group or its rules.
        """
        planned = {each.nic.get("NIC_ID", ""): each for each in launched}
        nics = {nic.get("NIC_ID", ""): nic for nic in plain_nics(request)}
        is_any = False
        for interface in await self._list({"attachment.instance-id": [deploy_id]}):
            # A cloud may keep no tags of a launch's interfaces; the first one's NIC is known all the same.
            nic_id = interface.nic_id or (launched[0].nic.get("NIC_ID", "") if launched and interface.is_first else "")
            nic = nics.get(nic_id)
            if nic is None:
                continue
            plan = planned.get(nic_id)
            network = mapped_network(nic, self._context) or MappedNetwork()
            numbers = plan.groups if plan else self._numbers(nic, network)
            if numbers is not None:
                is_any = True
                ids = await self._groups.put(mirrored_groups(request, numbers), interface.vpc)
                others = plan.network.security_groups if plan else ()
                wanted = list(ids.values()) or others or [await self._groups.default(interface.vpc)]
                await self._set_groups(interface, wanted)
        return is_any

    async def _set_groups(self, interface: Interface, wanted: Sequence[str]) -> None:
        if interface.groups != frozenset(wanted):
            call = {"NetworkInterfaceId": interface.interface_id, **numbered("SecurityGroupId", wanted)}
            await self._client.call("ModifyNetworkInterfaceAttribute", call, read=lambda _: None)

    async def attach(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Make an interface, unless there is one, and attach it, unless it is attached.

        Raises:
            BadParameter: the NIC is an alias.
            WrongState: the instance is gone.
        """
        nic_id = _nic_id(nic)
        if nic.get("PARENT") or nic.get("PARENT_ID"):
            raise BadParameter(f"interface {nic_id} is an alias, which EC2 lacks: attach an interface of its own")
        details = await self._disks.details(deploy_id)
        made = await self._made_for(deploy_id, nic_id)
        interface = next((each for each in made if each.instance_id), made[0] if made else None)
        interface = interface or await self._make(details, nic_id, nic)
        if interface.instance_id != deploy_id:
            interface = await self._attached(deploy_id, interface)
        if not interface.ends_with_instance:
            await self._end_with_instance(interface)

    async def _attached(self, deploy_id: DeployId, interface: Interface) -> Interface:
        """Attach the interface to the instance at the first index after its present interfaces."""
        there = await self._list({"attachment.instance-id": [deploy_id]})
        index = 1 + max((each.index for each in there), default=0)
        call = {"NetworkInterfaceId": interface.interface_id, "InstanceId": deploy_id, "DeviceIndex": str(index)}
        try:
            attachment = await self._client.call(
                "AttachNetworkInterface", call, read=lambda root: text_of(root.find("attachmentId"))
            )
        except ProviderError as error:
            if error.definite and not error.is_paced:
                with suppress(ProviderError):  # OpenNebula forgets the interface; EC2 deletes no attached interface
                    await self._delete(interface)
            raise
        return Interface(interface_id=interface.interface_id, instance_id=deploy_id, attachment_id=attachment)

    async def detach(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Detach the NIC's interface and delete it; no interface is fine."""
        made = await self._made_for(deploy_id, _nic_id(nic))
        if not made:
            await self._disks.details(deploy_id)
        for interface in made:
            if interface.is_first:
                raise BadParameter(
                    f"interface {interface.nic_id} is the first one of instance {deploy_id}, which cannot be detached"
                )
            if not interface.is_tagged:
                await self._tag(deploy_id, interface)
            if interface.attachment_id:
                call = {"AttachmentId": interface.attachment_id}
                await self._client.call("DetachNetworkInterface", call, read=lambda _: None)
                await self._wait_until_detached(interface)
            await self._delete(interface)

    async def made_for(self, deploy_id: DeployId) -> frozenset[str]:
        """Return the NIC_IDs of all interfaces made for an instance, attached or not, without its first one."""
        return frozenset(each.nic_id for each in await self._all_of(deploy_id) if each.nic_id and not each.is_first)

    async def release_all(self, deploy_id: DeployId) -> list[str]:
        """Make sure that no interface made for an instance outlives it; called just before it is terminated.

        There is work only after an attach or detach that was cut short. Instances that end at the same time share the
        call that looks for their interfaces.

        Returns:
            A sentence for each interface that could not be released.

        Raises:
            ProviderError: a later call may succeed.
        """
        try:
            made = (await self._tagged.ask(deploy_id)).get(deploy_id, [])
        except (PermissionDenied, BadParameter):
            made = []  # where EC2 refuses the listing, none was made
        return await release_each({each.interface_id: self._release(each) for each in made})

    async def _release(self, interface: Interface) -> None:
        if not interface.attachment_id:
            await self._delete(interface)
        elif not interface.ends_with_instance:
            await self._end_with_instance(interface)

    async def _all_of(self, deploy_id: DeployId) -> list[Interface]:
        """Return all interfaces made for an instance; none where EC2 refuses the listing, and so did not make any."""
        try:
            return await self._made_for(deploy_id)
        except (PermissionDenied, BadParameter):
            return []

    async def _made_for(self, deploy_id: DeployId, nic_id: str = "") -> list[Interface]:
        """Return the interfaces made for NICs of an instance: those with its tag, and those of its launch."""
        tagged_ones = (await self._tagged_interfaces({deploy_id})).get(deploy_id, [])
        launched = await self._list({"attachment.instance-id": [deploy_id], "tag-key": [NICS_TAG]})
        found = [*tagged_ones, *(each for each in launched if each.nic_id and not each.is_tagged)]
        return [each for each in found if not nic_id or each.nic_id == nic_id]

    async def _tagged_interfaces(self, deploy_ids: Collection[DeployId]) -> Mapping[str, list[Interface]]:
        """Return the interfaces with the tags of a NIC of these instances; those of a launch end with it anyway."""
        interfaces = await self._list({f"tag:{INSTANCE_TAG}": sorted(deploy_ids)})
        return grouped(interfaces, lambda each: each.made_for)

    async def _tag(self, deploy_id: DeployId, interface: Interface) -> None:
        """Give an interface of the launch the tags of its NIC, by which it is still known when it is detached.

        That matters only for a detach that is cut short, so a missing right does not stop it.
        """
        tags = {INSTANCE_TAG: deploy_id, NIC_TAG: interface.nic_id}
        with suppress(PermissionDenied):
            await self._client.call(
                "CreateTags", {"ResourceId.1": interface.interface_id, **pairs("Tag", tags)}, read=lambda _: None
            )

    async def _list(self, filters: Mapping[str, Sequence[str]]) -> list[Interface]:
        pages = self._client.pages("DescribeNetworkInterfaces", filtered(filters), read=read_interfaces)
        return [interface async for page in pages for interface in page]

    async def _make(self, details: Details, nic_id: str, nic: Mapping[str, str]) -> Interface:
        """Create the interface in the subnet and groups of the NIC, of its mapped network, or of the instance.

        Raises:
            BadParameter: EC2 refuses them, or has no subnet of the network in the instance's zone.
            WrongState: the address is in use.
        """
        instance, network = details.instance, mapped_network(nic, self._context) or MappedNetwork()
        subnet = await self._subnet_for(details, nic, network)
        groups: Sequence[str] = (
            words(nic.get("SECURITYGROUPIDS", ""))
            or network.security_groups
            or await self._mirrored(nic, network, subnet)
            or words(instance.attributes.get("AWS_SECURITY_GROUPS", ""))
        )
        address = "" if nic.get("SUBNETID") else asked_address(nic, network)
        owner = instance.identity.tags() if instance.identity else {}
        tags = {**self._tags, **owner, INSTANCE_TAG: instance.deploy_id, NIC_TAG: nic_id}
        call = {
            "SubnetId": subnet,
            **({"PrivateIpAddress": address} if address else {}),
            **numbered("SecurityGroupId", groups),
            **tagged("TagSpecification.1", "network-interface", tags),
        }
        try:
            made = await self._client.call(
                "CreateNetworkInterface",
                call,
                read=lambda root: text_of(element_at(root, "networkInterface/networkInterfaceId")),
            )
        except (BadParameter, WrongState) as error:
            if sentence := refused_address(call, str(error)):
                raise type(error)(sentence) from error
            raise
        return Interface(interface_id=made)

    async def _mirrored(self, nic: Mapping[str, str], network: MappedNetwork, subnet: str) -> list[str]:
        numbers = self._numbers(nic, network)
        return await self._groups.known(numbers, await self._groups.vpc_of(subnet)) if numbers else []

    async def _subnet_for(self, details: Details, nic: Mapping[str, str], network: MappedNetwork) -> str:
        return nic.get("SUBNETID") or await self._subnet(details, network)

    async def _subnet(self, details: Details, network: MappedNetwork) -> str:
        """Return the network's subnet in the zone of the instance; the instance's own for a network without any."""
        own = details.instance.attributes.get("AWS_SUBNET_ID", "")
        if not network.subnets or own in network.subnets:
            return own
        if len(network.subnets) == 1:
            return network.subnets[0]
        zones = await self._client.call("DescribeSubnets", numbered("SubnetId", network.subnets), read=_zones)
        for subnet in network.subnets:
            if zones.get(subnet) == details.zone:
                return subnet
        raise BadParameter(
            f"none of the network's subnets is in {details.zone}, the zone of instance {details.instance.deploy_id}:"
            f" {', '.join(network.subnets)}"
        )

    async def _wait_until_detached(self, interface: Interface) -> None:
        """Return once the interface is attached to nothing: that takes some seconds, and the caller has a deadline."""
        only = {"network-interface-id": [interface.interface_id]}
        while True:
            if not any(each.attachment_id for each in await self._list(only)):
                return
            await asyncio.sleep(self._pause)

    async def _delete(self, interface: Interface) -> None:
        call = {"NetworkInterfaceId": interface.interface_id}
        await self._client.call("DeleteNetworkInterface", call, read=lambda _: None)

    async def _end_with_instance(self, interface: Interface) -> None:
        """Have the interface deleted with its instance, or it would count against the account's limit."""
        call = {
            "NetworkInterfaceId": interface.interface_id,
            "Attachment.AttachmentId": interface.attachment_id,
            "Attachment.DeleteOnTermination": "true",
        }
        await self._client.call("ModifyNetworkInterfaceAttribute", call, read=lambda _: None)


def _zones(root: Element) -> dict[str, str]:
    """Return the zone of each subnet of a DescribeSubnets answer."""
    return {
        text_of(item.find("subnetId")): text_of(item.find("availabilityZone"))
        for item in elements_at(root, "subnetSet/item")
    }


def _nic_id(nic: Mapping[str, str]) -> str:
    nic_id = nic.get("NIC_ID", "")
    if not nic_id:
        raise BadParameter("NIC_ID is missing: nothing was done")
    return nic_id
