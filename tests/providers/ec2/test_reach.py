"""Obstacles on the way to an instance: each is found, with a remedy, and calls that EC2 refuses are findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from one_provider_mad.domain import DeployId
from one_provider_mad.errors import InstanceNotFound
from one_provider_mad.lab.ec2.topology import GROUP, Topology
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.interface import CheckResult, Reachability
from tests.providers.ec2.conftest import Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.vms import a_vm, launched

Change = Callable[[Topology], object]


def allow(*rules: tuple[int, str]) -> Change:
    def change(topology: Topology) -> None:
        topology.groups[:] = [topology.group(GROUP, "default", rules)]

    return change


def permission(**values: Any) -> Change:
    def change(topology: Topology) -> None:
        topology.groups[:] = [{**topology.group(GROUP, "default", []), "ipPermissions": [values]}]

    return change


def route(**values: str) -> Change:
    """Let the main route table have this route beside the local one."""

    def change(topology: Topology) -> None:
        local = topology.tables[0]["routeSet"][0]
        topology.tables[0]["routeSet"] = [local, values] if values else [local]

    return change


def own_table(topology: Topology) -> None:
    """Give the subnet a route table of its own, without a route to the internet."""
    main = topology.tables[0]
    association = [{"routeTableAssociationId": "rtbassoc-1", "routeTableId": "rtb-1", "subnetId": "subnet-default"}]
    own = {**main, "routeTableId": "rtb-1", "routeSet": main["routeSet"][:1], "associationSet": association}
    topology.tables.append(own)


def entries(*rules: tuple[int, str, bool, str, str, tuple[int, int]]) -> Change:
    """Let the network ACL have these rules: number, protocol, outward, action, CIDR, ports."""

    def change(topology: Topology) -> None:
        topology.acls[0]["entrySet"] = [
            {
                "ruleNumber": number,
                "protocol": protocol,
                "ruleAction": action,
                "egress": is_outward,
                "cidrBlock": cidr,
                "portRange": {"from": ports[0], "to": ports[1]},
            }
            for number, protocol, is_outward, action, cidr, ports in rules
        ]

    return change


def nothing(_: Topology) -> None:
    """Change nothing."""


HIGH = (1024, 65535)
OUT = (100, "6", True, "allow", "0.0.0.0/0", HIGH)
ANY = "0.0.0.0/0"


async def found(provider: Ec2Provider, deploy_id: DeployId, *, has_key: bool | None = True) -> dict[str, CheckResult]:
    assert isinstance(provider, Reachability)
    return {each.what: each for each in await provider.obstacles(deploy_id, has_key=has_key)}


async def running(ec2: FaultyEc2, provider: Ec2Provider) -> DeployId:
    deploy_id = await launched(provider)
    assert ec2.account.instances[deploy_id].word == "running"
    return deploy_id


@pytest.fixture
def topology(ec2: FaultyEc2) -> Topology:
    topology: Topology = ec2.account._account.topology
    return topology


@pytest.mark.parametrize(
    ("change", "what", "is_well", "sentence"),
    [
        (allow((22, ANY)), "rule for port 22", True, "from anywhere, in sg-default"),
        (allow((22, "192.0.2.0/24")), "rule for port 22", None, "only from 192.0.2.0/24, in sg-default"),
        (allow((80, ANY)), "rule for port 22", False, "none in sg-default"),
        (permission(ipProtocol="-1", ipRanges=[{"cidrIp": ANY}]), "rule for port 22", True, "from anywhere"),
        (
            permission(ipProtocol="tcp", fromPort=1, toPort=1000, groups=[{"groupId": "sg-2"}]),
            "rule for port 22",
            None,
            "only from sg-2",
        ),
        (
            permission(ipProtocol="udp", fromPort=22, toPort=22, ipRanges=[{"cidrIp": ANY}]),
            "rule for port 22",
            False,
            "",
        ),
        (nothing, "route", True, "0.0.0.0/0 of subnet-default leads to igw-default"),
        (own_table, "route", False, "subnet subnet-default has no route to the internet"),
        (route(), "route", False, "has no route to the internet"),
        (
            route(destinationCidrBlock=ANY, natGatewayId="nat-1", state="active"),
            "route",
            False,
            "0.0.0.0/0 leads to nat-1, a NAT gateway: the instance gets out, and nobody gets in",
        ),
        (
            route(destinationCidrBlock=ANY, gatewayId="igw-1", state="blackhole"),
            "route",
            False,
            "0.0.0.0/0 leads to igw-1, which is gone (blackhole)",
        ),
        (route(destinationCidrBlock=ANY, transitGatewayId="tgw-1", state="active"), "route", None, "leads to tgw-1"),
        (nothing, "network ACL", True, "lets port 22 in, and answers out"),
        (entries(OUT), "network ACL", False, "refuses port 22 from anywhere"),
        (entries((90, "6", False, "allow", ANY, (22, 22)), OUT), "network ACL", True, ""),
        (entries((90, "6", False, "allow", ANY, (22, 22))), "network ACL", False, "refuses answers to high ports"),
        (
            entries((80, "-1", False, "deny", ANY, (0, 65535)), (90, "6", False, "allow", ANY, (22, 22)), OUT),
            "network ACL",
            False,
            "refuses port 22 from anywhere",
        ),
        (entries((90, "6", False, "allow", "192.0.2.0/24", (22, 22)), OUT), "network ACL", None, "only some addresses"),
        (entries((90, "17", False, "allow", ANY, (22, 22)), OUT), "network ACL", False, "refuses port 22"),
    ],
)
async def test_routes_and_rules_that_stand_in_the_way_are_found(
    ec2: FaultyEc2, connect: Open, topology: Topology, change: Change, what: str, sentence: str, *, is_well: bool | None
) -> None:
    provider = await connect()
    deploy_id = await running(ec2, provider)
    change(topology)
    result = (await found(provider, deploy_id))[what]
    assert (result.is_well, sentence in result.found) == (is_well, True), result
    assert bool(result.remedy) is not is_well or is_well is None


@pytest.mark.parametrize(
    ("pair", "has_key", "is_well"),
    [("", True, True), ("", False, False), ("", None, None), ("ops", False, True)],
)
async def test_a_key_comes_from_the_context_or_a_key_pair(
    connect: Open, *, pair: str, has_key: bool | None, is_well: bool | None
) -> None:
    provider = await connect()
    deploy_id = await launched(provider, a_vm(KEYPAIR=pair))
    assert (await found(provider, deploy_id, has_key=has_key))["key"].is_well is is_well


async def test_a_stopped_instance_is_an_obstacle_and_a_gone_one_the_only(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    deploy_id = await running(ec2, provider)
    await provider.stop(deploy_id, hard=True)
    stopped = await found(provider, deploy_id)
    assert (stopped["instance"].is_well, stopped["instance"].remedy) == (False, "start it: onevm resume")
    assert stopped["public address"].is_well is None
    await provider.destroy(deploy_id)
    gone = await found(provider, deploy_id)
    assert [(each.what, each.is_well) for each in gone.values()] == [("instance", False)]
    with pytest.raises(InstanceNotFound):
        await provider.obstacles(DeployId("i-00000000000000000"), has_key=True)


@pytest.mark.parametrize(
    ("action", "what"),
    [
        ("DescribeInstanceStatus", "status checks"),
        ("DescribeRouteTables", "route"),
        ("DescribeSecurityGroups", "security groups"),
        ("DescribeNetworkAcls", "network ACL"),
    ],
)
async def test_a_missing_right_is_named_and_the_other_checks_go_on(
    ec2: FaultyEc2, connect: Open, action: str, what: str
) -> None:
    provider = await connect()
    deploy_id = await running(ec2, provider)
    ec2.order(action, code="UnauthorizedOperation", message="You are not authorized", status=403)
    results = await found(provider, deploy_id)
    assert results[what].is_well is None
    assert results[what].remedy.startswith(f"allow ec2:{action}")
    assert "key" in results


async def test_reach_changes_nothing(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    deploy_id = await running(ec2, provider)
    asked = len(ec2.account.calls)
    await provider.obstacles(deploy_id, has_key=True)
    await provider.login_place(deploy_id)
    await provider.console_text(deploy_id)
    assert {name for name, _ in ec2.account.calls[asked:] if not name.startswith(("Describe", "Get"))} == set()
