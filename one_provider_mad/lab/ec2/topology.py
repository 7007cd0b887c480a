"""The VPC, subnets, routes and rules of an account, as in docs.aws.amazon.com, "Amazon EC2 API Reference".

One default VPC, as every account has: its subnets have a route to the internet, and its default group lets nobody in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2.answers import Answer, tag_set
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal
from one_provider_mad.lab.ec2.resources import Resources

VPC, SUBNET, GROUP, GATEWAY = "vpc-default", "subnet-default", "sg-default", "igw-default"

_ALLOW_ALL = (
    {"ruleNumber": 100, "protocol": "-1", "ruleAction": "allow", "egress": False, "cidrBlock": "0.0.0.0/0"},
    {"ruleNumber": 32767, "protocol": "-1", "ruleAction": "deny", "egress": False, "cidrBlock": "0.0.0.0/0"},
    {"ruleNumber": 100, "protocol": "-1", "ruleAction": "allow", "egress": True, "cidrBlock": "0.0.0.0/0"},
    {"ruleNumber": 32767, "protocol": "-1", "ruleAction": "deny", "egress": True, "cidrBlock": "0.0.0.0/0"},
)


class Topology:
    """The networks of one account. Its lists hold elements as answers have them, and may be changed at any time.

    Args:
        resources: the account.

    Attributes:
        vpcs: `Vpc` elements.
        subnets: `Subnet` elements.
        groups: `SecurityGroup` elements.
        tables: `RouteTable` elements.
        acls: `NetworkAcl` elements.
    """

    def __init__(self, resources: Resources) -> None:
        owner = resources.number
        self.vpcs: list[Answer] = [
            {
                "vpcId": VPC,
                "ownerId": owner,
                "state": "available",
                "cidrBlock": "10.0.0.0/16",
                "isDefault": True,
                "tagSet": tag_set({}),
            }
        ]
        self.subnets: list[Answer] = [
            {
                "subnetId": SUBNET,
                "vpcId": VPC,
                "state": "available",
                "cidrBlock": "10.0.0.0/20",
                "availableIpAddressCount": 4091,
                "availabilityZone": resources.zone,
                "defaultForAz": True,
                "mapPublicIpOnLaunch": True,
                "tagSet": tag_set({"Name": "public"}),
            }
        ]
        self.groups: list[Answer] = [self.group(GROUP, "default", [])]
        self.tables: list[Answer] = [
            {
                "routeTableId": "rtb-default",
                "vpcId": VPC,
                "routeSet": [
                    {"destinationCidrBlock": "10.0.0.0/16", "gatewayId": "local", "state": "active"},
                    {"destinationCidrBlock": "0.0.0.0/0", "gatewayId": GATEWAY, "state": "active"},
                ],
                "associationSet": [
                    {"routeTableAssociationId": "rtbassoc-0", "routeTableId": "rtb-default", "main": True}
                ],
                "tagSet": [],
            }
        ]
        self.acls: list[Answer] = [
            {
                "networkAclId": "acl-default",
                "vpcId": VPC,
                "default": True,
                "entrySet": list(_ALLOW_ALL),
                "associationSet": [
                    {"networkAclAssociationId": "aclassoc-0", "networkAclId": "acl-default", "subnetId": SUBNET}
                ],
                "tagSet": [],
            }
        ]

    @staticmethod
    def group(group_id: str, name: str, allowed: Sequence[tuple[int, str]]) -> Answer:
        """Return a `SecurityGroup` element that lets TCP in.

        Args:
            group_id: its id.
            name: its name.
            allowed: port and CIDR of each rule.
        """
        return {
            "ownerId": "123456789012",
            "groupId": group_id,
            "groupName": name,
            "groupDescription": name,
            "vpcId": VPC,
            "ipPermissions": [
                {"ipProtocol": "tcp", "fromPort": port, "toPort": port, "ipRanges": [{"cidrIp": cidr}]}
                for port, cidr in allowed
            ],
            "ipPermissionsEgress": [{"ipProtocol": "-1", "ipRanges": [{"cidrIp": "0.0.0.0/0"}]}],
            "tagSet": [],
        }

    async def describe_vpcs(self, form: Form) -> Answer:
        """Carry out DescribeVpcs."""
        return self._page(form, "VpcId", "vpcSet", self.vpcs, {"vpc-id": _text("vpcId")})

    async def describe_subnets(self, form: Form) -> Answer:
        """Carry out DescribeSubnets."""
        fields = {
            "subnet-id": _text("subnetId"),
            "vpc-id": _text("vpcId"),
            "default-for-az": lambda item: "true" if item.get("defaultForAz") else "false",
        }
        return self._page(form, "SubnetId", "subnetSet", self.subnets, fields)

    def groups_page(self, form: Form, made: Sequence[Answer]) -> Answer:
        """Return the answer to DescribeSecurityGroups: our groups, and those that calls have made."""
        fields = {"group-id": _text("groupId"), "group-name": _text("groupName"), "vpc-id": _text("vpcId")}
        return self._page(form, "GroupId", "securityGroupInfo", [*self.groups, *made], fields)

    async def describe_tables(self, form: Form) -> Answer:
        """Carry out DescribeRouteTables."""
        fields = {
            "route-table-id": _text("routeTableId"),
            "vpc-id": _text("vpcId"),
            "association.subnet-id": _associated("subnetId"),
            "association.main": lambda item: "true" if any(each.get("main") for each in item["associationSet"]) else "",
        }
        return self._page(form, "RouteTableId", "routeTableSet", self.tables, fields)

    async def describe_acls(self, form: Form) -> Answer:
        """Carry out DescribeNetworkAcls."""
        fields = {
            "network-acl-id": _text("networkAclId"),
            "vpc-id": _text("vpcId"),
            "association.subnet-id": _associated("subnetId"),
        }
        return self._page(form, "NetworkAclId", "networkAclSet", self.acls, fields)

    @staticmethod
    def _page(
        form: Form, ids: str, element: str, items: list[Answer], fields: Mapping[str, Callable[[Answer], str]]
    ) -> Answer:
        page = forms.Page.of(form, named=ids)
        asked = forms.listed(form, ids)
        name = f"{ids[0].lower()}{ids[1:]}"
        for each in asked:
            if each not in [item[name] for item in items]:
                raise Refusal(f"Invalid{ids.removesuffix('Id')}ID.NotFound", f"The {ids} '{each[:80]}' does not exist")
        chosen = [item for item in items if not asked or item[name] in asked]
        wanted = forms.matching(chosen, forms.filters(form), tags=_tags, fields=fields)
        rows, more = page.cut(list(enumerate(wanted, 1)), lambda numbered: numbered[0])
        return {element: [item for _, item in rows], **more}


def _text(name: str) -> Callable[[Answer], str]:
    return lambda item: str(item[name])


def _associated(name: str) -> Callable[[Answer], str]:
    """Return a function for the first association with this value; the tables here have one subnet each."""
    return lambda item: next((str(each[name]) for each in item["associationSet"] if each.get(name)), "")


def _tags(item: Mapping[str, Any]) -> dict[str, str]:
    return {each["key"]: each["value"] for each in item["tagSet"]}
