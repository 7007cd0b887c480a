"""Actions on network interfaces, as in docs.aws.amazon.com, "Amazon EC2 API Reference".

The first interface of an instance is in the table `ec2_interface` only if its RunInstances has a NetworkInterface.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.errors import InstanceNotFound
from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2 import resources as accounts
from one_provider_mad.lab.ec2.answers import Answer, tag_set
from one_provider_mad.lab.ec2.forms import Form, zone_of
from one_provider_mad.lab.ec2.refusals import Refusal, not_found
from one_provider_mad.lab.ec2.resources import Resources
from one_provider_mad.providers.simulated import table

MOST_GROUPS = 5
"""Most security groups of an interface ("Amazon VPC quotas")."""

_MADE_GROUP = re.compile(r"sg-[0-9a-f]{17}")
"""Ids of groups that a call has made; others are taken as they are."""


class Interface(NamedTuple):
    """A line of the table `ec2_interface`, its columns in order."""

    number: int
    id: str
    subnet: str
    groups: str
    tags: str
    instance_id: str
    attachment_id: str
    device_index: int
    ends_with_instance: int
    address: str = ""

    def detached(self) -> Interface:
        """Return the line without an attachment."""
        return self._replace(instance_id="", attachment_id="", device_index=0, ends_with_instance=0)

    @property
    def private_ip(self) -> str:
        """Return the requested address, or one that follows from its number."""
        return self.address or f"172.31.{200 + self.number // 250 % 50}.{1 + self.number % 250}"


class Interfaces:
    """Network interfaces of one account.

    Args:
        resources: the account.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def create(self, form: Form) -> Answer:
        """Carry out CreateNetworkInterface."""
        made = Interface(
            number=0,
            id=f"eni-{os.urandom(9).hex()[:17]}",
            subnet=forms.value(form, "SubnetId"),
            groups=",".join(forms.listed(form, "SecurityGroupId")),
            tags=table.encode(forms.specified(form, "network-interface")),
            instance_id="",
            attachment_id="",
            device_index=0,
            ends_with_instance=0,
            address=form.get("PrivateIpAddress", ""),
        )

        def operation(db: sqlite3.Connection) -> Answer:
            check_address(db, made.address, self._resources.clock())
            _check_groups(db, forms.listed(form, "SecurityGroupId"))
            _put(db, made)
            return {"networkInterface": _shown(_one(db, made.id, self._resources.clock()))}

        return await self._resources.write(operation)

    async def describe(self, form: Form) -> Answer:
        """Carry out DescribeNetworkInterfaces."""
        page = forms.Page.of(form, named="NetworkInterfaceId")
        now = self._resources.clock()
        found = await self._resources.write(lambda db: _settled(db, now))
        if ids := forms.listed(form, "NetworkInterfaceId"):
            found = [each for each in found if each.id in ids]
        filters = forms.filters(form)
        if groups := set(filters.pop("group-id", ())):
            found = [each for each in found if groups & set(each.groups.split(","))]
        wanted = forms.matching(
            found,
            filters,
            tags=lambda each: table.decode_tags(each.tags),
            fields={
                "network-interface-id": lambda each: each.id,
                "subnet-id": lambda each: each.subnet,
                "status": lambda each: "in-use" if each.instance_id else "available",
                "attachment.instance-id": lambda each: each.instance_id,
                "private-ip-address": lambda each: each.private_ip,
            },
        )
        rows, more = page.cut(wanted, lambda each: each.number)
        return {"networkInterfaceSet": [_shown(each) for each in rows], **more}

    async def attach(self, form: Form) -> Answer:
        """Carry out AttachNetworkInterface, to a running or stopped instance."""
        interface_id, instance_id = forms.value(form, "NetworkInterfaceId"), forms.value(form, "InstanceId")
        index = forms.number(form, "DeviceIndex", 0)
        accounts.check_id(instance_id)

        def operation(db: sqlite3.Connection) -> Answer:
            now = self._resources.clock()
            interface = _one(db, interface_id, now)
            _check_at_rest(db, instance_id, now)
            if interface.instance_id:
                raise Refusal("InvalidNetworkInterface.InUse", f"Interface: [{interface_id}] in use.")
            _check_zone(interface, instance_id, db, now, self._resources.zone)
            if index in {0, *(each.device_index for each in _settled(db, now) if each.instance_id == instance_id)}:
                text = f"Instance '{instance_id}' already has an interface attached at device index '{index}'."
                raise Refusal("InvalidParameterValue", text)
            attachment = f"eni-attach-{os.urandom(9).hex()[:17]}"
            _put(db, interface._replace(instance_id=instance_id, attachment_id=attachment, device_index=index))
            return {"attachmentId": attachment}

        return await self._resources.write(operation)

    async def detach(self, form: Form) -> Answer:
        """Carry out DetachNetworkInterface."""
        attachment = forms.value(form, "AttachmentId")

        def operation(db: sqlite3.Connection) -> Answer:
            for interface in _settled(db, self._resources.clock()):
                if interface.attachment_id == attachment:
                    if interface.device_index == 0:
                        text = "The network interface at device index 0 cannot be detached."
                        raise Refusal("OperationNotPermitted", text)
                    _put(db, interface.detached())
                    return {"return": True}
            text = f"The interface attachment '{attachment[:80]}' does not exist."
            raise Refusal("InvalidAttachmentID.NotFound", text)

        return await self._resources.write(operation)

    async def delete(self, form: Form) -> Answer:
        """Carry out DeleteNetworkInterface."""
        interface_id = forms.value(form, "NetworkInterfaceId")

        def operation(db: sqlite3.Connection) -> Answer:
            interface = _one(db, interface_id, self._resources.clock())
            if interface.instance_id:
                text = f"Network interface '{interface_id}' is currently in use."
                raise Refusal("InvalidNetworkInterface.InUse", text)
            _drop(db, [interface.id])
            return {"return": True}

        return await self._resources.write(operation)

    async def modify(self, form: Form) -> Answer:
        """Carry out ModifyNetworkInterfaceAttribute: security groups, or DeleteOnTermination of the attachment."""
        interface_id = forms.value(form, "NetworkInterfaceId")
        groups = forms.listed(form, "SecurityGroupId")
        is_ending = forms.is_true(form, "Attachment.DeleteOnTermination")

        def operation(db: sqlite3.Connection) -> Answer:
            interface = _one(db, interface_id, self._resources.clock())
            if groups:
                _check_groups(db, groups)
                _put(db, interface._replace(groups=",".join(groups)))
                return {"return": True}
            if interface.attachment_id != forms.value(form, "Attachment.AttachmentId"):
                raise Refusal("InvalidAttachmentID.NotFound", f"{interface_id} has no such attachment.")
            _put(db, interface._replace(ends_with_instance=int(is_ending)))
            return {"return": True}

        return await self._resources.write(operation)


def launch(db: sqlite3.Connection, form: Form, deploy_id: DeployId, now: float) -> None:
    """Add the interfaces that a RunInstances asks for. Raises Refusal for an address that the subnet cannot give."""
    asked = forms.structures(form, "NetworkInterface")
    if asked and {"SubnetId", "SecurityGroupId.1", "SecurityGroup.1", "PrivateIpAddress"} & form.keys():
        text = "Network interfaces and an instance-level subnet ID or security groups may not be specified together"
        raise Refusal("InvalidParameterCombination", text)
    if len(asked) > 1 and any("AssociatePublicIpAddress" in each for each in asked):
        text = "The associatePublicIPAddress parameter cannot be specified when launching with multiple interfaces."
        raise Refusal("InvalidParameterCombination", text)
    check_address(db, form.get("PrivateIpAddress", ""), now, besides=deploy_id)
    for each in asked:
        check_address(db, each.get("PrivateIpAddress", ""), now)
        _check_groups(db, forms.listed(each, "SecurityGroupId"))
        made = Interface(
            number=0,
            id=f"eni-{os.urandom(9).hex()[:17]}",
            subnet=each.get("SubnetId", "subnet-default"),
            groups=",".join(forms.listed(each, "SecurityGroupId")) or "sg-default",
            tags=table.encode(forms.specified(form, "network-interface")),
            instance_id=deploy_id,
            attachment_id=f"eni-attach-{os.urandom(9).hex()[:17]}",
            device_index=forms.number(each, "DeviceIndex", 0),
            ends_with_instance=int(each.get("DeleteOnTermination", "true") != "false"),
            address=each.get("PrivateIpAddress", ""),
        )
        _put(db, made)


def check_address(db: sqlite3.Connection, address: str, now: float, *, besides: str = "") -> None:
    """Refuse a private address outside of 10.0.0.0/8, where all subnets lie here, or one in use; "" is fine."""
    if not address:
        return
    if not address.startswith("10."):
        text = f"Address {address[:40]} does not fall within the subnet's address range"
        raise Refusal("InvalidParameterValue", text)
    used = {each.address for each in _settled(db, now)}
    for line in db.execute("SELECT * FROM instance"):
        row = table.Row._make(line)
        if row.id != besides and row.is_known(now) and not row.state_at(now).is_gone:
            used.add(table.decode_hardware(row.hardware).details.get("PrivateIpAddress", ""))
    if address in used:
        raise Refusal("InvalidIPAddress.InUse", f"Address {address} is in use.")


def no_group(group_id: str) -> Refusal:
    """Return the error for an unknown security group."""
    return Refusal("InvalidGroup.NotFound", f"The security group '{group_id[:80]}' does not exist")


def groups_in_use(db: sqlite3.Connection, now: float) -> set[str]:
    """Return the ids of the groups that an interface has."""
    return {group for each in _settled(db, now) for group in each.groups.split(",")}


def _check_groups(db: sqlite3.Connection, ids: Collection[str]) -> None:
    if len(ids) > MOST_GROUPS:
        text = "You have exceeded the number of security groups allowed per network interface."
        raise Refusal("SecurityGroupsPerInterfaceLimitExceeded", text)
    made = {line[0] for line in db.execute("SELECT id FROM ec2_group").fetchall()}
    for each in ids:
        if _MADE_GROUP.fullmatch(each) and each not in made:
            raise no_group(each)


def _check_zone(interface: Interface, instance_id: str, db: sqlite3.Connection, now: float, first: str) -> None:
    row = table.load(db, DeployId(instance_id), now)
    there = zone_of(table.decode_hardware(row.hardware).details, first)
    if zone_of({"SubnetId": interface.subnet}, first) != there:
        text = f"You may not attach a network interface in another zone than {there}."
        raise Refusal("InvalidParameterCombination", text)


def _settled(db: sqlite3.Connection, now: float) -> list[Interface]:
    """Return every interface, after deleting or detaching those of gone instances."""
    found = [Interface._make(line) for line in db.execute("SELECT * FROM ec2_interface ORDER BY number").fetchall()]
    instances = accounts.owners(db, {each.instance_id for each in found if each.instance_id}, now)
    alive = {id_ for id_, row in instances.items() if not row.state_at(now).is_gone}
    left = [each for each in found if each.instance_id and each.instance_id not in alive]
    _drop(db, [each.id for each in left if each.ends_with_instance])
    for each in left:
        if not each.ends_with_instance:
            _put(db, each.detached())
    if not left:
        return found
    return [Interface._make(line) for line in db.execute("SELECT * FROM ec2_interface ORDER BY number").fetchall()]


def _one(db: sqlite3.Connection, interface_id: str, now: float) -> Interface:
    for each in _settled(db, now):
        if each.id == interface_id:
            return each
    text = f"The networkInterface ID '{interface_id[:80]}' does not exist"
    raise Refusal("InvalidNetworkInterfaceID.NotFound", text)


def _put(db: sqlite3.Connection, interface: Interface) -> None:
    values = (interface.number or None, *interface[1:])
    db.execute("INSERT OR REPLACE INTO ec2_interface VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def _drop(db: sqlite3.Connection, interface_ids: Collection[str]) -> None:
    if interface_ids:
        these = "DELETE FROM ec2_interface WHERE id IN (SELECT value FROM json_each(?))"
        db.execute(these, (table.encode(list(interface_ids)),))


def _check_at_rest(db: sqlite3.Connection, instance_id: str, now: float) -> None:
    try:
        row = table.load(db, DeployId(instance_id), now)
    except InstanceNotFound:
        raise not_found(instance_id) from None
    if row.state_at(now) not in (InstanceState.RUNNING, InstanceState.STOPPED):
        raise Refusal("IncorrectInstanceState", f"Instance '{instance_id}' is neither running nor stopped.")


def _shown(interface: Interface) -> Answer:
    """Return a `NetworkInterface` element."""
    groups = interface.groups.split(",")
    attachment = {
        "attachmentId": interface.attachment_id,
        "instanceId": interface.instance_id,
        "deviceIndex": interface.device_index,
        "status": "attached",
        "deleteOnTermination": bool(interface.ends_with_instance),
    }
    return {
        "networkInterfaceId": interface.id,
        "subnetId": interface.subnet,
        "vpcId": "vpc-default",
        "status": "in-use" if interface.instance_id else "available",
        "privateIpAddress": interface.private_ip,
        "groupSet": [{"groupId": each, "groupName": each} for each in groups],
        "tagSet": tag_set(table.decode_tags(interface.tags)),
        **({"attachment": attachment} if interface.instance_id else {}),
    }
