"""Says why one cannot log in to an instance: its state, addresses, routes, rules and keys. Nothing is changed.

Routes and rules are those of docs.aws.amazon.com, Amazon VPC User Guide: a subnet without a route table of its own has
the VPC's main one; rules of security groups only allow, and all of an interface's groups count; the rules of a network
ACL are tried in the order of their numbers until one matches, and answers need a rule of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from one_provider_mad.domain import DeployId
from one_provider_mad.errors import InstanceNotFound, PermissionDenied, ProviderError
from one_provider_mad.mappings import ImageMapping
from one_provider_mad.providers.ec2.catalogue import read_images
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.query import filtered, numbered
from one_provider_mad.providers.interface import CheckResult, LoginPlace
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

SSH, RDP = 22, 3389

_ANYWHERE = "0.0.0.0/0"
_EPHEMERAL = (32768, 60999)
"""Ports from which a Linux client connects (net.ipv4.ip_local_port_range); those of others lie in 1024 to 65535."""

_TCP, _EVERY_PROTOCOL = ("tcp", "6"), "-1"


class Seen(NamedTuple):
    """The facts of an instance that its login depends on.

    Attributes:
        instance_id: EC2's id.
        state: EC2's word.
        reason: why it is not running, "" when it is.
        image: its AMI.
        key: name of its key pair, "" for none.
        is_windows: whether it runs Windows.
        subnet: subnet of its first interface.
        vpc: VPC of that subnet.
        public: its public IPv4 address, "" for none.
        private: its private IPv4 address.
        groups: ids of its security groups.
    """

    instance_id: str
    state: str
    reason: str
    image: str
    key: str
    is_windows: bool
    subnet: str
    vpc: str
    public: str
    private: str
    groups: tuple[str, ...]

    @property
    def port(self) -> int:
        """Return the port of its login."""
        return RDP if self.is_windows else SSH


async def look(client: Client, deploy_id: DeployId) -> Seen:
    """Return the facts of an instance.

    Raises:
        InstanceNotFound: there is no such instance.
        ProviderError: EC2 refused, or did not answer.
    """
    requested = filtered({"instance-id": [deploy_id]})
    found = await client.call("DescribeInstances", requested, read=_read_seen)
    if not found:
        raise InstanceNotFound(f"instance {deploy_id} does not exist in this account and region")
    return found[0]


def _read_seen(root: Element) -> list[Seen]:
    return [
        Seen(
            instance_id=text_of(item.find("instanceId")),
            state=text_of(element_at(item, "instanceState/name")),
            reason=text_of(element_at(item, "stateReason/message")),
            image=text_of(item.find("imageId")),
            key=text_of(item.find("keyName")),
            is_windows=text_of(item.find("platform")).lower() == "windows",
            subnet=text_of(item.find("subnetId")),
            vpc=text_of(item.find("vpcId")),
            public=text_of(item.find("ipAddress")),
            private=text_of(item.find("privateIpAddress")),
            groups=tuple(text_of(group) for group in elements_at(item, "groupSet/item/groupId")),
        )
        for item in elements_at(root, "reservationSet/item/instancesSet/item")
    ]


async def login_place(client: Client, deploy_id: DeployId, images: Iterable[ImageMapping]) -> LoginPlace:
    """Return address, user and port; the user is the one in `[images]`, else that of the image's publisher.

    Raises:
        InstanceNotFound: there is no such instance.
        ProviderError: EC2 refused, or did not answer.
    """
    seen = await look(client, deploy_id)
    user = next((each.user for each in images if each.image == seen.image and each.user), "")
    if not user and seen.image:
        try:
            found = await client.call("DescribeImages", numbered("ImageId", [seen.image]), read=read_images)
        except ProviderError:
            found = []  # the image may be gone, or the account's no more
        user = found[0].user if found else ""
    return LoginPlace(address=seen.public or seen.private, user=user, port=seen.port)


class Obstacles:
    """Looks for obstacles on the way to one instance.

    Args:
        client: the connection to EC2.
        seen: the instance.
    """

    def __init__(self, client: Client, seen: Seen) -> None:
        self._client = client
        self._seen = seen

    async def run(self, *, has_key: bool | None) -> Sequence[CheckResult]:
        """Look for all of them; a call that EC2 refuses is a finding."""
        found = [self._state()]
        if self._seen.state in ("shutting-down", "terminated"):
            return found
        if self._seen.state == "running":
            found += await self._asked("DescribeInstanceStatus", self._status)
        found.append(self._address())
        if self._seen.subnet:
            found += await self._asked("DescribeRouteTables", self._route)
            found += await self._asked("DescribeSecurityGroups", self._rules)
            found += await self._asked("DescribeNetworkAcls", self._acl)
        found.append(self._key(has_key=has_key))
        return found

    async def _asked(self, action: str, check: Callable[[str], Awaitable[CheckResult]]) -> list[CheckResult]:
        try:
            return [await check(action)]
        except PermissionDenied:
            remedy = f"allow ec2:{action}: docs/ec2.md has the statement"
            return [CheckResult(what=_SUBJECTS[action], is_well=None, found="cannot be looked up", remedy=remedy)]
        except ProviderError as error:
            return [CheckResult(what=_SUBJECTS[action], is_well=None, found=str(error), remedy="try again")]

    # The instance

    def _state(self) -> CheckResult:
        seen, what = self._seen, "instance"
        found = f"{seen.instance_id} is {seen.state}" + (f": {seen.reason}" if seen.reason else "")
        if seen.state == "running":
            return _well(what, found)
        if seen.state == "pending":
            return CheckResult(what=what, is_well=None, found=found, remedy="wait until it runs")
        if seen.state in ("stopping", "stopped"):
            return _wrong(what, found, "start it: onevm resume")
        return _wrong(what, found, "make a new one: onevm recover --recreate")

    async def _status(self, action: str) -> CheckResult:
        """Return what EC2's own two checks say: of the machine, and of the guest's network."""
        named = numbered("InstanceId", [self._seen.instance_id])
        states = await self._client.call(action, named, read=_read_status)
        what = _SUBJECTS[action]
        found = ", ".join(f"{name} {state}" for name, state in states.items()) or "none yet"
        if states.get("system") == "impaired":
            return _wrong(what, found, "the machine below it is at fault: power off and resume, which moves it")
        if states.get("instance") == "impaired":
            return _wrong(what, found, "the guest does not answer ARP: see its console, and whether it boots")
        if set(states.values()) == {"ok"}:
            return _well(what, found)
        return CheckResult(what=what, is_well=None, found=found, remedy="wait: they take some minutes after a start")

    def _address(self) -> CheckResult:
        seen, what = self._seen, "public address"
        if seen.public:
            return _well(what, seen.public)
        if seen.state != "running":
            return CheckResult(what=what, is_well=None, found="none while it does not run", remedy="see above")
        return _wrong(
            what,
            f"none, only the private one {seen.private}" if seen.private else "none, and no private one",
            "reach the private one by VPN; or set public_address = true in [networks] and recreate it, or ELASTICIP",
        )

    def _key(self, *, has_key: bool | None) -> CheckResult:
        seen, what = self._seen, "key"
        if seen.is_windows:
            if seen.key:
                return _well(what, f"key pair {seen.key}, which decrypts the password: one-provider console --password")
            return _wrong(what, "the instance has no key pair, so EC2 shows no password", "set KEYPAIR and recreate")
        if has_key or seen.key:
            held = ["CONTEXT has one"] if has_key else []
            return _well(what, " and ".join([*held, *([f"key pair {seen.key}"] if seen.key else [])]))
        if has_key is None:
            found = "the instance has no key pair, and whether CONTEXT gives the guest a key is not known here"
            remedy = "run this on the front-end as OpenNebula's user; USER_DATA may hold a key, too"
            return CheckResult(what=what, is_well=None, found=found, remedy=remedy)
        return _wrong(
            what,
            "neither CONTEXT nor the instance has one",
            'set SSH_PUBLIC_KEY = "$USER[SSH_PUBLIC_KEY]" in CONTEXT of the template and a key in the user\'s settings,'
            " and make a new VM: onevm recover --recreate keeps CONTEXT as it is",
        )

    # The network

    async def _route(self, action: str) -> CheckResult:
        seen, what = self._seen, _SUBJECTS[action]
        own = filtered({"association.subnet-id": [seen.subnet]})
        routes = await self._client.call(action, own, read=_read_routes)
        if routes is None:
            main = filtered({"vpc-id": [seen.vpc], "association.main": ["true"]})
            routes = await self._client.call(action, main, read=_read_routes) or []
        target = next((route for route in routes if route.destination == _ANYWHERE), None)
        remedy = f"route 0.0.0.0/0 of {seen.subnet} to an internet gateway, or use another subnet; a VPN needs its own"
        if target is None:
            return _wrong(what, f"subnet {seen.subnet} has no route to the internet", remedy)
        if target.state != "active":
            return _wrong(what, f"0.0.0.0/0 leads to {target.target}, which is gone ({target.state})", remedy)
        if target.target.startswith("igw-"):
            return _well(what, f"0.0.0.0/0 of {seen.subnet} leads to {target.target}")
        if target.target.startswith("nat-"):
            found = f"0.0.0.0/0 leads to {target.target}, a NAT gateway: the instance gets out, and nobody gets in"
            return _wrong(what, found, remedy)
        found = f"0.0.0.0/0 of {seen.subnet} leads to {target.target}"
        return CheckResult(what=what, is_well=None, found=found, remedy="check that this target lets you in")

    async def _rules(self, action: str) -> CheckResult:
        seen, what = self._seen, f"rule for port {self._seen.port}"
        rules = await self._client.call(action, filtered({"group-id": list(seen.groups)}), read=_read_rules)
        sources = list(dict.fromkeys(source for rule in rules if rule.covers(seen.port) for source in rule.sources))
        groups = ", ".join(seen.groups)
        if _ANYWHERE in sources:
            return _well(what, f"from anywhere, in {groups}")
        if sources:
            found = f"only from {', '.join(sources)}, in {groups}"
            return CheckResult(what=what, is_well=None, found=found, remedy="fine if you come from there")
        remedy = f"allow TCP {seen.port} from your address in one of these groups, or name another group in [networks]"
        return _wrong(what, f"none in {groups}", remedy)

    async def _acl(self, action: str) -> CheckResult:
        seen, what = self._seen, _SUBJECTS[action]
        requested = filtered({"association.subnet-id": [seen.subnet]})
        entries = await self._client.call(action, requested, read=_read_entries)
        remedy = f"change the network ACL of {seen.subnet}"
        if not entries:
            return CheckResult(what=what, is_well=None, found=f"none found for {seen.subnet}", remedy=remedy)
        inward, outward = _verdict(entries, seen.port, is_egress=False), _verdict(entries, _EPHEMERAL, is_egress=True)
        if inward == outward == "allow":
            return _well(what, f"lets port {seen.port} in, and answers out")
        if "deny" in (inward, outward):
            which = f"port {seen.port} from anywhere" if inward == "deny" else "answers to high ports"
            return _wrong(what, f"refuses {which}", remedy)
        return CheckResult(what=what, is_well=None, found="lets only some addresses through", remedy="fine from there")


_SUBJECTS = {
    "DescribeInstanceStatus": "status checks",
    "DescribeRouteTables": "route",
    "DescribeSecurityGroups": "security groups",
    "DescribeNetworkAcls": "network ACL",
}
"""What each call is about."""


def _well(what: str, found: str) -> CheckResult:
    return CheckResult(what=what, is_well=True, found=found)


def _wrong(what: str, found: str, remedy: str) -> CheckResult:
    return CheckResult(what=what, is_well=False, found=found, remedy=remedy)


def _read_status(root: Element) -> dict[str, str]:
    item = element_at(root, "instanceStatusSet/item")
    if item is None:
        return {}
    return {name: text_of(element_at(item, f"{name}Status/status")) for name in ("system", "instance")}


class _Route(NamedTuple):
    destination: str
    target: str
    state: str


_TARGETS = ("gatewayId", "natGatewayId", "transitGatewayId", "networkInterfaceId", "vpcPeeringConnectionId")


def _read_routes(root: Element) -> list[_Route] | None:
    """Return the routes of the first table; None for no table."""
    table = element_at(root, "routeTableSet/item")
    if table is None:
        return None
    return [
        _Route(
            destination=text_of(item.find("destinationCidrBlock")),
            target=next((text for name in _TARGETS if (text := text_of(item.find(name)))), "an unknown target"),
            state=text_of(item.find("state")),
        )
        for item in elements_at(table, "routeSet/item")
    ]


class _Rule(NamedTuple):
    protocol: str
    first: int
    last: int
    sources: tuple[str, ...]

    def covers(self, port: int) -> bool:
        """Return whether the rule is about a TCP port."""
        return self.protocol == _EVERY_PROTOCOL or (self.protocol in _TCP and self.first <= port <= self.last)


def _read_rules(root: Element) -> list[_Rule]:
    """Return the rules for what comes in, of every group."""
    return [
        _Rule(
            protocol=text_of(item.find("ipProtocol")),
            first=_port(item.find("fromPort"), 0),
            last=_port(item.find("toPort"), 65535),
            sources=tuple(
                text_of(source)
                for path in ("ipRanges/item/cidrIp", "ipv6Ranges/item/cidrIpv6", "groups/item/groupId")
                for source in elements_at(item, path)
            )
            + tuple(text_of(each) for each in elements_at(item, "prefixListIds/item/prefixListId")),
        )
        for item in elements_at(root, "securityGroupInfo/item/ipPermissions/item")
    ]


def _port(element: Element | None, default: int) -> int:
    text = text_of(element)
    return int(text) if text.isdecimal() else default


class _Entry(NamedTuple):
    number: int
    protocol: str
    is_egress: bool
    action: str
    cidr: str
    first: int
    last: int


def _read_entries(root: Element) -> list[_Entry]:
    """Return the rules of the first network ACL, in the order in which they are tried."""
    return sorted(
        _Entry(
            number=_port(item.find("ruleNumber"), 32767),
            protocol=text_of(item.find("protocol")),
            is_egress=text_of(item.find("egress")) == "true",
            action=text_of(item.find("ruleAction")),
            cidr=text_of(item.find("cidrBlock")),
            first=_port(element_at(item, "portRange/from"), 0),
            last=_port(element_at(item, "portRange/to"), 65535),
        )
        for item in elements_at(root, "networkAclSet/item/entrySet/item")
    )


def _verdict(entries: Sequence[_Entry], ports: int | tuple[int, int], *, is_egress: bool) -> str:
    """Return `allow` or `deny` for packets of every address, `some` if that depends on the address."""
    first, last = (ports, ports) if isinstance(ports, int) else ports
    lets_some_through = False
    for entry in entries:
        is_about_them = entry.protocol in (*_TCP, _EVERY_PROTOCOL) and entry.first <= first and last <= entry.last
        if entry.is_egress is not is_egress or not entry.cidr or not is_about_them:
            continue
        if entry.cidr == _ANYWHERE:
            return "some" if lets_some_through and entry.action == "deny" else entry.action
        lets_some_through = lets_some_through or entry.action == "allow"
    return "some" if lets_some_through else "deny"
