"""OpenNebula's security groups in the words of EC2: rules of a VM's document, and of EC2's answers and calls. Pure.

OpenNebula's rules are those of src/secgroup/SecurityGroup.cc; what each means on a host of its own is in
src/vnm_mad/remotes/lib/security_groups.rb and security_groups_iptables.rb: answers pass in both directions, and
all that no rule allows is dropped, as in EC2. EC2's are those of docs.aws.amazon.com, API_IpPermission.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from one_provider_mad.domain import Value, VmRequest, whole_number
from one_provider_mad.providers.ec2.attributes import words
from one_provider_mad.providers.ec2.query import numbered
from one_provider_mad.safe_xml import Element, elements_at, text_of

EVERY = "-1"
"""EC2's word for all protocols."""

_PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "ICMP": "icmp", "ICMPV6": "icmpv6", "IPSEC": "50", "ALL": EVERY}
"""PROTOCOL to EC2's word or number; OpenNebula's hosts take IPSEC for ESP alone, and so does this."""

_WORDS = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}
"""Numbers of the protocols that EC2 also has words for."""

_ANYWHERE = ("0.0.0.0/0", "::/0")

_ADDRESSES = ("IP", "IP6", "IP6_GLOBAL", "IP6_ULA")
"""First addresses of a rule's range; those of IPv6 are the ones of a network that the rule names (NETWORK_ID)."""


class Rule(NamedTuple):
    """One rule of a security group.

    Attributes:
        is_inbound: it is about packets to the instance.
        protocol: EC2's word, or the protocol's number.
        first: first port, or ICMP type; -1 for all.
        last: last port, or ICMP code; -1 for all.
        peer: the other side's CIDR, or EC2's id of a group (`sg-`) or prefix list (`pl-`).
    """

    is_inbound: bool
    protocol: str
    first: int
    last: int
    peer: str


class MirroredGroup(Value, frozen=True, kw_only=True):
    """One of OpenNebula's security groups as it is to be in EC2.

    Attributes:
        number: its number in OpenNebula.
        name: its name there, "" when unknown: the document of a VM names a group only with its rules.
        rules: in a fixed order, without duplicates.
    """

    number: str
    name: str = ""
    rules: tuple[Rule, ...] = ()


def group_numbers(nic: Mapping[str, str]) -> tuple[str, ...]:
    """Return the numbers of a NIC's security groups, in their order."""
    return tuple(sorted(filter(str.isdecimal, words(nic.get("SECURITY_GROUPS", ""))), key=int))


def mirrored_groups(request: VmRequest, numbers: Iterable[str]) -> tuple[MirroredGroup, ...]:
    """Return these groups with the rules that the VM's document has for them."""
    return tuple(_group(request, number) for number in sorted(set(numbers), key=int))


def _group(request: VmRequest, number: str) -> MirroredGroup:
    vectors = _rules_of(request, number)
    name = next((each.get("SECURITY_GROUP_NAME", "") for each in vectors), "")
    rules = {rule for each in vectors for rule in _rules(each)}
    return MirroredGroup(number=number, name=name, rules=tuple(sorted(rules)))


def rule_warnings(request: VmRequest, numbers: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for the VM's log for each rule of these groups that EC2 cannot have."""
    for number in sorted(set(numbers), key=int):
        for each in _rules_of(request, number):
            if not any(True for _ in _rules(each)):
                said = ", ".join(f"{name}={text}" for name, text in sorted(each.items()) if name in _SHOWN)
                yield f"EC2 cannot have this rule of security group {number}, which is left out: {said[:200]}"


_SHOWN = frozenset({"PROTOCOL", "RULE_TYPE", "RANGE", "ICMP_TYPE", "ICMPV6_TYPE", "SIZE", "MAC", *_ADDRESSES})


def _rules_of(request: VmRequest, number: str) -> list[Mapping[str, str]]:
    found = request.template.vectors("SECURITY_GROUP_RULE")
    return [each for each in found if each.get("SECURITY_GROUP_ID") == number]


def _rules(vector: Mapping[str, str]) -> Iterator[Rule]:
    """Yield EC2's rules for one of OpenNebula's; none for one that EC2 cannot have."""
    protocol = _PROTOCOLS.get(vector.get("PROTOCOL", "").upper())
    direction = vector.get("RULE_TYPE", "").upper()
    if protocol is None or direction not in ("INBOUND", "OUTBOUND"):
        return
    for peer in _peers(vector):
        # EC2 takes ICMP for IPv4 alone, and ICMPv6 for IPv6 alone.
        if (protocol, ":" in peer) not in {("icmp", True), ("icmpv6", False)}:
            for first, last in _ports(protocol, vector):
                yield Rule(direction == "INBOUND", protocol, first, last, peer)


def _peers(vector: Mapping[str, str]) -> tuple[str, ...]:
    """Return the CIDRs of a rule's range; of a range without addresses none, as on OpenNebula's own hosts."""
    if not vector.get("IP") and not vector.get("SIZE"):
        return _ANYWHERE
    size = whole_number(vector.get("SIZE", "")) or 0
    return tuple(cidr for name in _ADDRESSES if vector.get(name) for cidr in _cidrs(vector[name], size))


def _cidrs(first: str, size: int) -> list[str]:
    try:
        start = ipaddress.ip_address(first.strip())
        return [str(each) for each in ipaddress.summarize_address_range(start, start + (size - 1))] if size else []
    except ValueError:  # AddressValueError is one, too
        return []


def _ports(protocol: str, vector: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Yield first and last port of each part of RANGE, or type and code of ICMP."""
    if protocol in ("tcp", "udp"):
        for item in words(vector.get("RANGE", "")) or ("0:65535",):
            first, _, last = item.partition(":")
            ports = whole_number(first), whole_number(last or first)
            if ports[0] is not None and ports[1] is not None and 0 <= ports[0] <= ports[1] <= 65535:
                yield ports[0], ports[1]
    elif protocol in ("icmp", "icmpv6"):
        kind, _, code = vector.get("ICMP_TYPE" if protocol == "icmp" else "ICMPV6_TYPE", "").partition("/")
        numbers = (whole_number(kind or "-1"), whole_number(code or "-1"))
        if numbers[0] is not None and numbers[1] is not None:
            yield numbers[0], numbers[1]
    else:
        yield -1, -1


# EC2's words


def permissions(rules: Collection[Rule]) -> dict[str, str]:
    """Return the parameters `IpPermissions` of AuthorizeSecurityGroupIngress and the like."""
    grouped: dict[tuple[str, int, int], list[str]] = {}
    for rule in sorted(rules):
        grouped.setdefault((rule.protocol, rule.first, rule.last), []).append(rule.peer)
    call: dict[str, str] = {}
    for number, ((protocol, first, last), peers) in enumerate(grouped.items(), 1):
        prefix = f"IpPermissions.{number}"
        call[f"{prefix}.IpProtocol"] = protocol
        if protocol in _WORDS.values():
            call |= {f"{prefix}.FromPort": str(first), f"{prefix}.ToPort": str(last)}
        elif protocol != EVERY:
            # EC2 ignores ports of other protocols, and moto demands some.
            call |= {f"{prefix}.FromPort": "0", f"{prefix}.ToPort": "0"}
        for (many, member), of_kind in _by_kind(peers).items():
            call |= {f"{at}.{member}": peer for at, peer in numbered(f"{prefix}.{many}", of_kind).items()}
    return call


def _by_kind(peers: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for peer in peers:
        kind = ("IpRanges", "CidrIp")
        if peer.startswith("sg-"):
            kind = ("Groups", "GroupId")
        elif peer.startswith("pl-"):
            kind = ("PrefixListIds", "PrefixListId")
        elif ":" in peer:
            kind = ("Ipv6Ranges", "CidrIpv6")
        found.setdefault(kind, []).append(peer)
    return found


def read_rules(group: Element) -> frozenset[Rule]:
    """Return the rules of a `SecurityGroup` element."""
    return frozenset(
        rule
        for name, is_inbound in (("ipPermissions", True), ("ipPermissionsEgress", False))
        for item in elements_at(group, f"{name}/item")
        for rule in _read_permission(item, is_inbound=is_inbound)
    )


def _read_permission(item: Element, *, is_inbound: bool) -> Iterator[Rule]:
    named = text_of(item.find("ipProtocol"))
    protocol = _WORDS.get(named, named)
    first, last = -1, -1
    if protocol in _WORDS.values():
        first, last = (_number(text_of(item.find(name))) for name in ("fromPort", "toPort"))
    for path in ("ipRanges/item/cidrIp", "ipv6Ranges/item/cidrIpv6", "groups/item/groupId"):
        for peer in elements_at(item, path):
            yield Rule(is_inbound, protocol, first, last, _canonical(text_of(peer)))
    for peer in elements_at(item, "prefixListIds/item/prefixListId"):
        yield Rule(is_inbound, protocol, first, last, text_of(peer))


def _number(text: str) -> int:
    found = whole_number(text)
    return -1 if found is None else found


def _canonical(peer: str) -> str:
    try:
        return str(ipaddress.ip_network(peer, strict=False))
    except ValueError:
        return peer
