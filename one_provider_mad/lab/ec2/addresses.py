"""Actions on Elastic IP addresses, as in docs.aws.amazon.com, "Amazon EC2 API Reference"."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping

from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.errors import InstanceNotFound
from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2.answers import Answer, tag_set
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal, needed, not_found
from one_provider_mad.lab.ec2.resources import Address, Resources, check_id, owners
from one_provider_mad.providers.simulated import table

MOST_ADDRESSES = 250
"""EC2 begins with five a region; these are all of 203.0.113.0/24 (RFC 5737: not routed)."""


class Addresses:
    """Addresses of one account.

    Args:
        resources: the account.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def allocate(self, form: Form) -> Answer:
        """Carry out AllocateAddress."""
        tags = forms.specified(form, "elastic-ip")

        def operation(db: sqlite3.Connection) -> Answer:
            taken = {address.public_ip for address in _all(db)}
            free = (ip for number in range(1, MOST_ADDRESSES + 1) if (ip := f"203.0.113.{number}") not in taken)
            public_ip = next(free, "")
            if not public_ip:
                raise Refusal("AddressLimitExceeded", "The maximum number of addresses has been reached.")
            made = add_address(db, public_ip, tags=tags)
            return {"publicIp": public_ip, "domain": "vpc", "allocationId": made.id}

        return await self._resources.write(operation)

    async def describe(self, form: Form) -> Answer:
        """Carry out DescribeAddresses."""
        now = self._resources.clock()
        found = await self._resources.read(lambda db: _settled(db, now))
        for name, field in (("AllocationId", "id"), ("PublicIp", "public_ip")):
            if wanted := forms.listed(form, name):
                for each in set(wanted) - {getattr(address, field) for address in found}:
                    raise _unknown(name, each)
                found = [address for address in found if getattr(address, field) in wanted]
        shown = forms.matching(
            found,
            forms.filters(form),
            tags=lambda address: table.decode_tags(address.tags),
            fields={
                "allocation-id": lambda address: address.id,
                "association-id": lambda address: address.association_id,
                "public-ip": lambda address: address.public_ip,
                "instance-id": lambda address: address.instance_id,
                "domain": lambda address: "vpc",  # noqa: ARG005 - there is one kind
            },
        )
        return {"addressesSet": [_shown(address) for address in shown]}

    async def associate(self, form: Form) -> Answer:
        """Carry out AssociateAddress; also from another instance, unless AllowReassociation is false."""
        interface_id = form.get("NetworkInterfaceId", "")
        named = "" if interface_id else forms.value(form, "InstanceId")
        if named:
            check_id(named)

        def operation(db: sqlite3.Connection) -> Answer:
            now = self._resources.clock()
            address = _named(db, form, now)
            instance_id = named or _instance_with(db, interface_id)
            if named and len(_interfaces_of(db, named)) > 1:
                text = f"There are multiple interfaces attached to instance '{named}'. Please specify an interface ID."
                raise Refusal("InvalidInstanceID", text)
            self._check_instance(db, instance_id, now)
            is_elsewhere = address.instance_id not in ("", instance_id)
            if is_elsewhere and form.get("AllowReassociation", "true") == "false":
                text = f"resource {address.id} is already associated with associate-id {address.association_id}"
                raise Refusal("Resource.AlreadyAssociated", text)
            is_same = address.instance_id == instance_id
            association = address.association_id if is_same else f"eipassoc-{os.urandom(9).hex()[:17]}"
            # An instance has one address: the earlier one is free again.
            db.execute(
                "UPDATE ec2_address SET instance_id = '', association_id = '' WHERE instance_id = ?", (instance_id,)
            )
            _associate(db, address.id, instance_id, association)
            return {"return": True, "associationId": association}

        return await self._resources.write(operation)

    def _check_instance(self, db: sqlite3.Connection, instance_id: str, now: float) -> None:
        try:
            row = table.load(db, DeployId(instance_id), now)
        except InstanceNotFound:
            raise not_found(instance_id) from None
        if row.visible_at > now:
            raise not_found(instance_id)
        if row.state_at(now) not in (InstanceState.RUNNING, InstanceState.STOPPED):
            text = f"The instance '{instance_id}' is not in a valid state for this operation."
            raise Refusal("IncorrectInstanceState", text)

    async def disassociate(self, form: Form) -> Answer:
        """Carry out DisassociateAddress."""

        def operation(db: sqlite3.Connection) -> Answer:
            association = form.get("AssociationId", "")
            if association:
                found = [each for each in _settled(db, self._resources.clock()) if each.association_id == association]
                if not found:
                    text = f"The association ID '{association[:80]}' does not exist"
                    raise Refusal("InvalidAssociationID.NotFound", text)
                address = found[0]
            else:
                address = _named(db, form, self._resources.clock())
            _associate(db, address.id, "", "")
            return {"return": True}

        return await self._resources.write(operation)

    async def release(self, form: Form) -> Answer:
        """Carry out ReleaseAddress."""

        def operation(db: sqlite3.Connection) -> Answer:
            address = _named(db, form, self._resources.clock())
            if address.instance_id:
                raise Refusal("InvalidIPAddress.InUse", f"Address {address.public_ip} is in use.")
            db.execute("DELETE FROM ec2_address WHERE id = ?", (address.id,))
            return {"return": True}

        return await self._resources.write(operation)


def add_address(
    db: sqlite3.Connection, public_ip: str, *, tags: Mapping[str, str] | None = None, allocation_id: str = ""
) -> Address:
    """Give the account an address."""
    made = Address(
        number=0,
        id=allocation_id or f"eipalloc-{os.urandom(9).hex()[:17]}",
        public_ip=public_ip,
        tags=table.encode(tags or {}),
        association_id="",
        instance_id="",
    )
    db.execute("INSERT INTO ec2_address VALUES (NULL, ?, ?, ?, ?, ?)", made[1:])
    return made


def _interfaces_of(db: sqlite3.Connection, instance_id: str) -> list[str]:
    return [line[0] for line in db.execute("SELECT id FROM ec2_interface WHERE instance_id = ?", (instance_id,))]


def _instance_with(db: sqlite3.Connection, interface_id: str) -> str:
    line = db.execute("SELECT instance_id FROM ec2_interface WHERE id = ?", (interface_id,)).fetchone()
    if line is None:
        text = f"The networkInterface ID '{interface_id[:80]}' does not exist"
        raise Refusal("InvalidNetworkInterfaceID.NotFound", text)
    return str(line[0])


def _all(db: sqlite3.Connection) -> list[Address]:
    return [Address._make(line) for line in db.execute("SELECT * FROM ec2_address ORDER BY number")]


def _settled(db: sqlite3.Connection, now: float) -> list[Address]:
    """Return the addresses; those of gone instances are associated with nothing."""
    found = _all(db)
    instances = owners(db, {address.instance_id for address in found if address.instance_id}, now)
    alive = {each for each, row in instances.items() if not row.state_at(now).is_gone}
    return [
        address if address.instance_id in alive else address._replace(instance_id="", association_id="")
        for address in found
    ]


def _named(db: sqlite3.Connection, form: Form, now: float) -> Address:
    for name, field in (("AllocationId", "id"), ("PublicIp", "public_ip")):
        if (wanted := form.get(name)) is not None:
            for address in _settled(db, now):
                if getattr(address, field) == wanted:
                    return address
            raise _unknown(name, wanted)
    raise needed("AllocationId")


def _unknown(name: str, text: str) -> Refusal:
    if name == "AllocationId":
        return Refusal("InvalidAllocationID.NotFound", f"The allocation ID '{text[:80]}' does not exist")
    return Refusal("InvalidAddress.NotFound", f"Address '{text[:80]}' not found.")


def _associate(db: sqlite3.Connection, address_id: str, instance_id: str, association_id: str) -> None:
    db.execute(
        "UPDATE ec2_address SET instance_id = ?, association_id = ? WHERE id = ?",
        (instance_id, association_id, address_id),
    )


def _shown(address: Address) -> Answer:
    associated = {"associationId": address.association_id, "instanceId": address.instance_id}
    return {
        "publicIp": address.public_ip,
        "allocationId": address.id,
        "domain": "vpc",
        "publicIpv4Pool": "amazon",
        **(associated if address.instance_id else {}),
        "tagSet": tag_set(table.decode_tags(address.tags)),
    }
