"""Actions on security groups, as in docs.aws.amazon.com, "Amazon EC2 API Reference".

Those that a test puts into `Topology.groups` are shown and not changed; those that a call makes are in the account's
file.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2 import interfaces as attached
from one_provider_mad.lab.ec2.answers import Answer, tag_set
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal, invalid
from one_provider_mad.lab.ec2.resources import Resources
from one_provider_mad.lab.ec2.topology import VPC, Topology
from one_provider_mad.providers.simulated import table

MOST_RULES = 60
"""Most rules of a group in one direction, for IPv4 and for IPv6 each ("Amazon VPC quotas")."""

_NAME = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")
"""Names and descriptions in a VPC (API_CreateSecurityGroup)."""

_SOURCES = (
    ("IpRanges", "CidrIp", "ipRanges", "cidrIp"),
    ("Ipv6Ranges", "CidrIpv6", "ipv6Ranges", "cidrIpv6"),
    ("Groups", "GroupId", "groups", "groupId"),
    ("PrefixListIds", "PrefixListId", "prefixListIds", "prefixListId"),
)
"""List and member of each kind of source in a call, and in an answer."""

_NUMBERS = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}


class Rule(NamedTuple):
    """One rule of a group.

    Attributes:
        is_egress: it is about packets that leave.
        protocol: as in answers.
        first: port or ICMP type, -1 for all.
        last: port or ICMP code, -1 for all.
        kind: its place in `_SOURCES`.
        peer: the source or destination.
    """

    is_egress: bool
    protocol: str
    first: int
    last: int
    kind: int
    peer: str


_OPEN = Rule(is_egress=True, protocol="-1", first=-1, last=-1, kind=0, peer="0.0.0.0/0")
"""The rule of every new group."""


class Group(NamedTuple):
    """A line of the table `ec2_group`, its columns in order."""

    number: int
    id: str
    vpc: str
    name: str
    description: str
    tags: str
    rules: str

    def allowed(self) -> list[Rule]:
        """Return its rules."""
        return [Rule(*each) for each in json.loads(self.rules)]


class SecurityGroups:
    """The security groups of one account.

    Args:
        resources: the account.
        topology: has the VPC, and groups that no call can change.
    """

    def __init__(self, resources: Resources, topology: Topology) -> None:
        self._resources = resources
        self._topology = topology

    async def create(self, form: Form) -> Answer:
        """Carry out CreateSecurityGroup."""
        name, description = forms.value(form, "GroupName"), forms.value(form, "GroupDescription")
        for parameter, text in (("GroupName", name), ("GroupDescription", description)):
            if not _NAME.fullmatch(text):
                raise invalid(parameter, text)
        vpc = form.get("VpcId", VPC)
        if vpc not in [each["vpcId"] for each in self._topology.vpcs]:
            raise Refusal("InvalidVpcID.NotFound", f"The vpc ID '{vpc[:80]}' does not exist")
        made = Group(
            number=0,
            id=f"sg-{os.urandom(9).hex()[:17]}",
            vpc=vpc,
            name=name,
            description=description,
            tags=table.encode(forms.specified(form, "security-group")),
            rules=table.encode([_OPEN]),
        )
        fixed = {(each["vpcId"], each["groupName"]) for each in self._topology.groups}

        def operation(db: sqlite3.Connection) -> Answer:
            if (vpc, name) in {*fixed, *((each.vpc, each.name) for each in _all(db))}:
                text = f"The security group '{name}' already exists for VPC '{vpc}'"
                raise Refusal("InvalidGroup.Duplicate", text)
            _put(db, made)
            return {"return": True, "groupId": made.id, "tagSet": tag_set(table.decode_tags(made.tags))}

        return await self._resources.write(operation)

    async def describe(self, form: Form) -> Answer:
        """Carry out DescribeSecurityGroups."""
        made = await self._resources.read(_all)
        return self._topology.groups_page(form, [_shown(each, self._resources.number) for each in made])

    async def delete(self, form: Form) -> Answer:
        """Carry out DeleteSecurityGroup, unless an interface has the group."""
        group_id = forms.value(form, "GroupId")
        now = self._resources.clock()

        def operation(db: sqlite3.Connection) -> Answer:
            group = _one(db, group_id)
            if group_id in attached.groups_in_use(db, now):
                raise Refusal("DependencyViolation", f"resource {group_id} has a dependent object")
            db.execute("DELETE FROM ec2_group WHERE id = ?", (group.id,))
            return {"return": True}

        return await self._resources.write(operation)

    async def authorize_in(self, form: Form) -> Answer:
        """Carry out AuthorizeSecurityGroupIngress."""
        return await self._change(form, is_egress=False, change=_with)

    async def authorize_out(self, form: Form) -> Answer:
        """Carry out AuthorizeSecurityGroupEgress."""
        return await self._change(form, is_egress=True, change=_with)

    async def revoke_in(self, form: Form) -> Answer:
        """Carry out RevokeSecurityGroupIngress."""
        return await self._change(form, is_egress=False, change=_without)

    async def revoke_out(self, form: Form) -> Answer:
        """Carry out RevokeSecurityGroupEgress."""
        return await self._change(form, is_egress=True, change=_without)

    async def _change(
        self, form: Form, *, is_egress: bool, change: Callable[[list[Rule], list[Rule]], list[Rule]]
    ) -> Answer:
        group_id, given = forms.value(form, "GroupId"), list(_given(form, is_egress=is_egress))

        def operation(db: sqlite3.Connection) -> Answer:
            group = _one(db, group_id)
            _put(db, group._replace(rules=table.encode(change(group.allowed(), given))))
            return {"return": True}

        return await self._resources.write(operation)


def _with(rules: list[Rule], added: list[Rule]) -> list[Rule]:
    for each in added:
        if each in rules:
            raise Refusal("InvalidPermission.Duplicate", f'the specified rule "peer: {each.peer}" already exists')
    changed = [*rules, *added]
    for each in added:
        alike = [rule for rule in changed if (rule.is_egress, rule.kind) == (each.is_egress, each.kind)]
        if len(alike) > MOST_RULES:
            text = "The maximum number of rules per security group has been reached."
            raise Refusal("RulesPerSecurityGroupLimitExceeded", text)
    return changed


def _without(rules: list[Rule], removed: list[Rule]) -> list[Rule]:
    for each in removed:
        if each not in rules:
            text = "The specified rule does not exist in this security group."
            raise Refusal("InvalidPermission.NotFound", text)
    return [each for each in rules if each not in removed]


def _given(form: Form, *, is_egress: bool) -> Iterator[Rule]:
    for permission in forms.structures(form, "IpPermissions"):
        named = forms.value(permission, "IpProtocol")
        protocol = _NUMBERS.get(named, named)
        has_ports = protocol in _NUMBERS.values()
        first, last = (permission.get(name, "-1") if has_ports else "-1" for name in ("FromPort", "ToPort"))
        if protocol in ("tcp", "udp") and not 0 <= int(first) <= int(last) <= 65535:
            raise invalid("port range", f"{first}-{last}")
        for kind, (many, member, _, _) in enumerate(_SOURCES):
            for each in forms.structures(permission, many):
                yield Rule(is_egress, protocol, int(first), int(last), kind, _peer(kind, each[member]))


def _peer(kind: int, text: str) -> str:
    if kind > 1:
        return text
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Refusal("InvalidParameterValue", f"CIDR block {text[:80]} is malformed") from None
    if network.version != (4, 6)[kind]:
        raise Refusal("InvalidParameterValue", f"CIDR block {text[:80]} is malformed")
    return str(network)


def _shown(group: Group, owner: str) -> Answer:
    """Return a `SecurityGroup` element."""
    rules = group.allowed()
    return {
        "ownerId": owner,
        "groupId": group.id,
        "groupName": group.name,
        "groupDescription": group.description,
        "vpcId": group.vpc,
        "ipPermissions": _permissions([each for each in rules if not each.is_egress]),
        "ipPermissionsEgress": _permissions([each for each in rules if each.is_egress]),
        "tagSet": tag_set(table.decode_tags(group.tags)),
    }


def _permissions(rules: Iterable[Rule]) -> list[Answer]:
    found: dict[tuple[str, int, int], Answer] = {}
    for each in rules:
        ports = {"fromPort": each.first, "toPort": each.last} if each.protocol in _NUMBERS.values() else {}
        key = (each.protocol, each.first, each.last)
        element = found.setdefault(key, {"ipProtocol": each.protocol, **ports})
        _, _, many, member = _SOURCES[each.kind]
        element.setdefault(many, []).append({member: each.peer})
    return list(found.values())


def _all(db: sqlite3.Connection) -> list[Group]:
    return [Group._make(line) for line in db.execute("SELECT * FROM ec2_group ORDER BY number").fetchall()]


def _one(db: sqlite3.Connection, group_id: str) -> Group:
    line = db.execute("SELECT * FROM ec2_group WHERE id = ?", (group_id,)).fetchone()
    if line is None:
        raise attached.no_group(group_id)
    return Group._make(line)


def _put(db: sqlite3.Connection, group: Group) -> None:
    db.execute("INSERT OR REPLACE INTO ec2_group VALUES (?, ?, ?, ?, ?, ?, ?)", (group.number or None, *group[1:]))
