"""Rules of OpenNebula's security groups as EC2 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from one_provider_mad.domain import Template, VmId, VmRequest
from one_provider_mad.lab.ec2.groups import Rule as LabRule
from one_provider_mad.lab.ec2.groups import _given, _permissions
from one_provider_mad.providers.ec2.group_rules import (
    MirroredGroup,
    Rule,
    group_numbers,
    mirrored_groups,
    permissions,
    read_rules,
    rule_warnings,
)

ANY = ("0.0.0.0/0", "::/0")


def converted(**rule: str) -> list[Rule]:
    """Return EC2's rules for one of OpenNebula's."""
    (group,) = mirrored_groups(document(rule), ["7"])
    return list(group.rules)


def document(*rules: dict[str, str]) -> VmRequest:
    given = tuple({"SECURITY_GROUP_ID": "7", "SECURITY_GROUP_NAME": "web", **rule} for rule in rules)
    return VmRequest(vm_id=VmId(1), template=Template(values={"SECURITY_GROUP_RULE": given}))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(
            {"RULE_TYPE": "inbound", "PROTOCOL": "TCP", "RANGE": "22,80:90"},
            [Rule(True, "tcp", first, last, peer) for first, last in ((22, 22), (80, 90)) for peer in ANY],  # noqa: FBT003
            id="ports",
        ),
        pytest.param(
            {"RULE_TYPE": "OUTBOUND", "PROTOCOL": "udp"},
            [Rule(False, "udp", 0, 65535, peer) for peer in ANY],  # noqa: FBT003
            id="every-port",
        ),
        pytest.param(
            {"RULE_TYPE": "OUTBOUND", "PROTOCOL": "ALL"},
            [Rule(False, "-1", -1, -1, peer) for peer in ANY],  # noqa: FBT003
            id="all",
        ),
        pytest.param(
            {"RULE_TYPE": "INBOUND", "PROTOCOL": "ICMP", "ICMP_TYPE": "8"},
            [Rule(True, "icmp", 8, -1, "0.0.0.0/0")],  # noqa: FBT003
            id="icmp-type",
        ),
        pytest.param(
            {"RULE_TYPE": "INBOUND", "PROTOCOL": "ICMP", "ICMP_TYPE": "3/4"},
            [Rule(True, "icmp", 3, 4, "0.0.0.0/0")],  # noqa: FBT003
            id="icmp-code",
        ),
        pytest.param(
            {"RULE_TYPE": "INBOUND", "PROTOCOL": "ICMPV6"},
            [Rule(True, "icmpv6", -1, -1, "::/0")],  # noqa: FBT003
            id="icmpv6",
        ),
        pytest.param(
            {"RULE_TYPE": "INBOUND", "PROTOCOL": "IPSEC"},
            [Rule(True, "50", -1, -1, peer) for peer in ANY],  # noqa: FBT003
            id="ipsec-is-esp",
        ),
        pytest.param(
            {"RULE_TYPE": "INBOUND", "PROTOCOL": "TCP", "RANGE": "22", "IP": "10.0.0.4", "SIZE": "6"},
            [Rule(True, "tcp", 22, 22, peer) for peer in ("10.0.0.4/30", "10.0.0.8/31")],  # noqa: FBT003
            id="range-of-addresses",
        ),
        pytest.param(
            {
                "RULE_TYPE": "INBOUND",
                "PROTOCOL": "ALL",
                "IP": "10.0.0.1",
                "SIZE": "1",
                "IP6_GLOBAL": "2001:DB8::10",
                "IP6_ULA": "fd00::10",
                "NETWORK_ID": "4",
            },
            [Rule(True, "-1", -1, -1, peer) for peer in ("10.0.0.1/32", "2001:db8::10/128", "fd00::10/128")],  # noqa: FBT003
            id="network",
        ),
    ],
)
def test_each_rule_becomes_ec2s(rule: dict[str, str], expected: list[Rule]) -> None:
    assert converted(**rule) == sorted(expected)
    assert list(rule_warnings(document(rule), ["7"])) == []


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param({"RULE_TYPE": "INBOUND", "PROTOCOL": "TCP", "SIZE": "8", "MAC": "02:00:00:00:00:01"}, id="mac"),
        pytest.param({"RULE_TYPE": "INBOUND", "PROTOCOL": "ICMP", "IP": "fd00::1", "SIZE": "1"}, id="icmp-of-ipv6"),
        pytest.param({"RULE_TYPE": "INBOUND", "PROTOCOL": "GRE"}, id="protocol"),
        pytest.param({"RULE_TYPE": "BOTH", "PROTOCOL": "ALL"}, id="direction"),
        pytest.param({"RULE_TYPE": "INBOUND", "PROTOCOL": "ALL", "IP": "255.255.255.255", "SIZE": "2"}, id="size"),
        pytest.param({"RULE_TYPE": "INBOUND", "PROTOCOL": "ALL", "IP": "somewhere", "SIZE": "2"}, id="address"),
        pytest.param({"RULE_TYPE": "INBOUND", "PROTOCOL": "ICMP", "ICMP_TYPE": "echo"}, id="icmp-word"),
        pytest.param({"RULE_TYPE": "INBOUND", "PROTOCOL": "TCP", "RANGE": "90:80"}, id="ports"),
    ],
)
def test_a_rule_that_ec2_cannot_have_is_left_out_and_told(rule: dict[str, str]) -> None:
    assert converted(**rule) == []
    (sentence,) = rule_warnings(document(rule), ["7"])
    assert sentence.startswith("EC2 cannot have this rule of security group 7, which is left out: ")
    assert f"PROTOCOL={rule['PROTOCOL']}" in sentence


def test_groups_are_told_apart_and_one_without_rules_has_none() -> None:
    request = document({"RULE_TYPE": "INBOUND", "PROTOCOL": "ALL"}, {"SECURITY_GROUP_ID": "8", "PROTOCOL": "ALL"})
    first, second = mirrored_groups(request, ["100", "7", "100"])
    assert (first.number, first.name, len(first.rules)) == ("7", "web", 2)
    assert second == MirroredGroup(number="100")


def test_numbers_of_a_nic_are_in_their_order() -> None:
    assert group_numbers({"SECURITY_GROUPS": "100, 0,7"}) == ("0", "7", "100")
    assert group_numbers({}) == ()


peers = st.one_of(
    st.ip_addresses(v=4, network="10.0.0.0/8").map(lambda each: f"{each}/32"),
    st.ip_addresses(v=6, network="2001:db8::/32").map(lambda each: f"{each}/128"),
    st.sampled_from([*ANY, "sg-1", "pl-1"]),
)
shapes = st.one_of(
    st.tuples(st.sampled_from(["tcp", "udp"]), st.integers(0, 100), st.integers(100, 65535)),
    st.tuples(st.sampled_from(["icmp", "icmpv6"]), st.integers(-1, 255), st.integers(-1, 255)),
    st.tuples(st.sampled_from(["-1", "50"]), st.just(-1), st.just(-1)),
)


inbound = st.builds(lambda shape, peer: Rule(True, shape[0], shape[1], shape[2], peer), shapes, peers)  # noqa: FBT003


@given(st.sets(inbound, max_size=20))
def test_every_rule_in_a_call_is_read_back_from_the_answer(rules: set[Rule]) -> None:
    allowed: list[LabRule] = list(_given(permissions(rules), is_egress=False))
    assert read_rules(_element("group", {"ipPermissions": _permissions(allowed)})) == rules


def _element(name: str, content: object) -> etree._Element:
    """Return an answer's content as EC2 writes it."""
    element = etree.Element(name)
    if isinstance(content, dict):
        element.extend([_element(key, part) for key, part in content.items()])
    elif isinstance(content, list):
        element.extend([_element("item", part) for part in content])
    else:
        element.text = str(content)
    return element
