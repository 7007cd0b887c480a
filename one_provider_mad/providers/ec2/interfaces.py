"""NIC hotplug with network interfaces: each is made for one NIC_ID of one instance, tagged so, and deleted with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from one_provider_mad.domain import TAG_PREFIX, DeployId, Instance, Value, whole_number
from one_provider_mad.errors import BadParameter, PermissionDenied, ProviderError, ProviderUnavailable
from one_provider_mad.providers.ec2.attributes import words
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.disks import INSTANCE_TAG, Disks, release_each
from one_provider_mad.providers.ec2.instances import read_tags
from one_provider_mad.providers.ec2.query import filtered, numbered, tagged
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
    """

    interface_id: str
    instance_id: str = ""
    attachment_id: str = ""
    index: int = 0
    ends_with_instance: bool = False
    nic_id: str = ""


def read_interfaces(root: Element) -> list[Interface]:
    """Return every interface of a DescribeNetworkInterfaces answer."""
    if root.find("networkInterfaceSet") is None:
        raise ProviderUnavailable("EC2: the answer to DescribeNetworkInterfaces has no list, not even an empty one")
    return [
        Interface(
            interface_id=text_of(item.find("networkInterfaceId")),
            instance_id=text_of(element_at(item, "attachment/instanceId")),
            attachment_id=text_of(element_at(item, "attachment/attachmentId")),
            index=whole_number(text_of(element_at(item, "attachment/deviceIndex"))) or 0,
            ends_with_instance=text_of(element_at(item, "attachment/deleteOnTermination")) == "true",
            nic_id=read_tags(elements_at(item, "tagSet/item")).get(NIC_TAG, ""),
        )
        for item in elements_at(root, "networkInterfaceSet/item")
    ]


class Interfaces:
    """The network interfaces of instances.

    Args:
        client: the connection to the cloud.
        disks: looks up an instance.
        pause: seconds between two lookups while an interface changes its state.
        tags: the configuration's tags, for every interface.
    """

    def __init__(self, client: Client, disks: Disks, *, pause: float, tags: Mapping[str, str]) -> None:
        self._client = client
        self._disks = disks
        self._pause = min(pause, _PAUSE)
        self._tags = tags

    async def attach(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Make an interface, unless there is one, and attach it, unless it is attached.

        Raises:
            BadParameter: the NIC is an alias.
            WrongState: the instance is gone.
        """
        nic_id = _nic_id(nic)
        if nic.get("PARENT") or nic.get("PARENT_ID"):
            raise BadParameter(f"interface {nic_id} is an alias, which EC2 lacks: attach an interface of its own")
        instance = (await self._disks.details(deploy_id)).instance
        made = await self._made_for(deploy_id, nic_id)
        interface = next((each for each in made if each.instance_id), made[0] if made else None)
        interface = interface or await self._make(instance, nic_id, nic)
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
            if interface.attachment_id:
                call = {"AttachmentId": interface.attachment_id}
                await self._client.call("DetachNetworkInterface", call, read=lambda _: None)
                await self._wait_until_detached(interface)
            await self._delete(interface)

    async def made_for(self, deploy_id: DeployId) -> frozenset[str]:
        """Return the NIC_IDs of all interfaces made for an instance, attached or not."""
        return frozenset(each.nic_id for each in await self._all_of(deploy_id) if each.nic_id)

    async def release_all(self, deploy_id: DeployId) -> list[str]:
        """Make sure that no interface made for an instance outlives it; called just before it is terminated.

        There is work only after an attach or detach that was cut short.

        Returns:
            A sentence for each interface that could not be released.

        Raises:
            ProviderError: a later call may succeed.
        """
        made = await self._all_of(deploy_id)
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
        return await self._list(
            {f"tag:{INSTANCE_TAG}": [deploy_id], **({f"tag:{NIC_TAG}": [nic_id]} if nic_id else {})}
        )

    async def _list(self, filters: Mapping[str, Sequence[str]]) -> list[Interface]:
        pages = self._client.pages("DescribeNetworkInterfaces", filtered(filters), read=read_interfaces)
        return [interface async for page in pages for interface in page]

    async def _make(self, instance: Instance, nic_id: str, nic: Mapping[str, str]) -> Interface:
        """Create the interface in the instance's subnet and groups, unless the NIC has others."""
        subnet = nic.get("SUBNETID") or instance.attributes.get("AWS_SUBNET_ID", "")
        groups = nic.get("SECURITYGROUPIDS") or instance.attributes.get("AWS_SECURITY_GROUPS", "")
        owner = instance.identity.tags() if instance.identity else {}
        tags = {**self._tags, **owner, INSTANCE_TAG: instance.deploy_id, NIC_TAG: nic_id}
        call = {
            "SubnetId": subnet,
            **numbered("SecurityGroupId", words(groups)),
            **tagged("TagSpecification.1", "network-interface", tags),
        }
        made = await self._client.call(
            "CreateNetworkInterface",
            call,
            read=lambda root: text_of(element_at(root, "networkInterface/networkInterfaceId")),
        )
        return Interface(interface_id=made)

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


def _nic_id(nic: Mapping[str, str]) -> str:
    nic_id = nic.get("NIC_ID", "")
    if not nic_id:
        raise BadParameter("NIC_ID is missing: nothing was done")
    return nic_id
