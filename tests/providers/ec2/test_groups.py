"""OpenNebula's security groups as groups of EC2: at the create, with NICs attached later, changed, and removed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import InstanceState, Template, VmId, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.mappings import Mappings, NetworkMapping, SecurityGroupSettings
from one_provider_mad.providers.ec2 import groups as module
from one_provider_mad.providers.interface import UnusedResource
from one_provider_mad.testing.conformance import reach
from tests.providers.ec2.conftest import OWNER, Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.vms import SECTION, a_call, launched

MIRROR = Mappings(
    networks={
        "private": NetworkMapping(subnet="subnet-default"),
        "managed": NetworkMapping(subnet="subnet-default", security_groups=("sg-theirs",)),
    },
    security_groups=SecurityGroupSettings(mirror=True),
)

WEB = {"SECURITY_GROUP_ID": "100", "SECURITY_GROUP_NAME": "web", "RULE_TYPE": "INBOUND", "PROTOCOL": "TCP"}
OUT = {"SECURITY_GROUP_ID": "100", "SECURITY_GROUP_NAME": "web", "RULE_TYPE": "OUTBOUND", "PROTOCOL": "ALL"}
SSH = {**WEB, "RANGE": "22", "IP": "192.0.2.0", "SIZE": "256"}


def nic(number: int = 0, groups: str = "100", network: str = "private") -> dict[str, str]:
    return {"NIC_ID": str(number), "NETWORK": network, "SECURITY_GROUPS": groups}


def vm(
    *nics: Mapping[str, str], rules: tuple[Mapping[str, str], ...] = (SSH, OUT), vm_id: int = 7, **section: str
) -> VmRequest:
    return VmRequest(
        vm_id=VmId(vm_id),
        name=f"vm-{vm_id}",
        stime=5,
        host_id=3,
        template=Template(values={"NIC": nics or (nic(),), "SECURITY_GROUP_RULE": rules}),
        user_template=Template(values={"PUBLIC_CLOUD": ({**SECTION, **section},)}),
    )


def made(ec2: FaultyEc2) -> list[dict[str, Any]]:
    """Return the groups that calls have made."""
    found: list[dict[str, Any]] = ec2.account.act("DescribeSecurityGroups", {})["securityGroupInfo"]
    return [each for each in found if each["groupName"] != "default"]


def rules(group: Mapping[str, Any]) -> set[tuple[str, str, int, int, str]]:
    """Return direction, protocol, ports and CIDR of each rule."""
    return {
        (direction, each["ipProtocol"], each.get("fromPort", -1), each.get("toPort", -1), cidr)
        for direction, name in (("in", "ipPermissions"), ("out", "ipPermissionsEgress"))
        for each in group[name]
        for many, member in (("ipRanges", "cidrIp"), ("ipv6Ranges", "cidrIpv6"))
        for cidr in (source[member] for source in each.get(many, ()))
    }


def interfaces(ec2: FaultyEc2) -> list[list[str]]:
    """Return the ids of the groups of each interface."""
    found = ec2.account.act("DescribeNetworkInterfaces", {})["networkInterfaceSet"]
    return [[group["groupId"] for group in each["groupSet"]] for each in found]


ALL_OUT = {("out", "-1", -1, -1, "0.0.0.0/0"), ("out", "-1", -1, -1, "::/0")}


async def test_a_launch_makes_the_nics_group_once_and_gives_it_to_each_interface(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    await launched(provider, vm())
    await launched(provider, vm(vm_id=8))
    (group,) = made(ec2)
    assert group["groupName"] == f"OpenNebula {OWNER} 100"
    assert {each["key"]: each["value"] for each in group["tagSet"]} == {
        "Name": "web",
        "ONE_PROVIDER_OWNER": OWNER,
        "ONE_PROVIDER_SECURITY_GROUP": "100",
    }
    assert rules(group) == {("in", "tcp", 22, 22, "192.0.2.0/24"), *ALL_OUT}
    assert interfaces(ec2) == [[group["groupId"]]] * 2


async def test_twenty_creates_at_once_by_two_drivers_make_one_group(ec2: FaultyEc2, connect: Open) -> None:
    providers = [await connect(mappings=MIRROR), await connect(mappings=MIRROR)]
    calls = [(providers[number % 2], vm(vm_id=number)) for number in range(20)]
    await asyncio.gather(*(provider.create(a_call(provider, request)) for provider, request in calls))
    (group,) = made(ec2)
    assert interfaces(ec2) == [[group["groupId"]]] * 20
    assert rules(group) == {("in", "tcp", 22, 22, "192.0.2.0/24"), *ALL_OUT}


async def test_a_launch_brings_the_rules_of_a_group_to_those_of_the_vms_document(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    await launched(provider, vm())
    await launched(provider, vm(rules=({**WEB, "RANGE": "80,8000:8010"},), vm_id=8))
    (group,) = made(ec2)
    assert rules(group) == {
        ("in", "tcp", first, last, cidr) for first, last in ((80, 80), (8000, 8010)) for cidr in ("0.0.0.0/0", "::/0")
    }


async def test_a_group_without_rules_lets_nothing_in_or_out(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    await launched(provider, vm(rules=()))
    (group,) = made(ec2)
    assert rules(group) == set()


async def test_a_repeated_create_is_the_same_call_after_the_rules_have_changed(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    call = a_call(provider, vm())
    deploy_id = await provider.create(call)
    await launched(provider, vm(rules=(OUT,), vm_id=8))
    assert await provider.create(call) == deploy_id
    assert len(made(ec2)) == 1


async def test_a_group_that_another_deletes_before_the_launch_is_made_again(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    send, is_deleted = provider._client.call, False

    async def call(action: str, *args: Any, **options: Any) -> Any:
        nonlocal is_deleted
        if action == "RunInstances" and not is_deleted:
            is_deleted = True
            (group,) = made(ec2)
            ec2.account.act("DeleteSecurityGroup", {"GroupId": group["groupId"]})
        return await send(action, *args, **options)

    provider._client.call = call  # type: ignore[method-assign] # another driver, just in time
    await launched(provider, vm())
    (group,) = made(ec2)
    assert is_deleted
    assert interfaces(ec2) == [[group["groupId"]]]


@pytest.mark.parametrize(
    ("request_", "groups"),
    [
        pytest.param(vm(SECURITYGROUPIDS="sg-own"), ["sg-own"], id="section"),
        pytest.param(vm(nic(network="managed")), ["sg-theirs"], id="network"),
    ],
)
async def test_groups_named_by_section_or_network_come_first(
    ec2: FaultyEc2, connect: Open, request_: VmRequest, groups: list[str]
) -> None:
    provider = await connect(mappings=MIRROR)
    await launched(provider, request_)
    assert interfaces(ec2) == [groups]
    assert made(ec2) == []
    sentence = "security group 100 of interface 0 is not in EC2: PUBLIC_CLOUD or the network names other groups"
    assert sentence in provider.plan(request_).warnings


async def test_the_defaults_groups_come_after_opennebulas(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR, defaults={"SECURITYGROUPIDS": "sg-d"})
    await launched(provider, vm(nic(), nic(1, groups="")))
    (group,) = made(ec2)
    assert interfaces(ec2) == [[group["groupId"]], ["sg-d"]]


async def test_without_mirror_the_call_is_as_before(connect: Open) -> None:
    without = msgspec.structs.replace(MIRROR, security_groups=SecurityGroupSettings())
    provider = await connect(mappings=without)
    (parameters,) = provider.plan(vm()).alternatives
    assert not {"groups", "nic_groups"} & parameters.keys()


async def test_a_rule_that_ec2_cannot_have_is_a_sentence_in_the_vms_log(connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    request = vm(rules=(OUT, {**WEB, "SIZE": "5", "MAC": "02:00:0a:00:00:01"}))
    sentence = (
        "EC2 cannot have this rule of security group 100, which is left out: MAC=02:00:0a:00:00:01, PROTOCOL=TCP,"
        " RULE_TYPE=INBOUND, SIZE=5"
    )
    assert sentence in provider.plan(request).warnings
    assert provider.group_warnings(request) == (sentence,)


async def test_too_many_rules_fail_the_create_with_ec2s_sentence_and_are_no_limit_of_instances(
    connect: Open,
) -> None:
    provider = await connect(mappings=MIRROR)
    many = tuple({**WEB, "RANGE": str(port)} for port in range(61))
    with pytest.raises(BadParameter, match=r"maximum number of rules per security group has been reached"):
        await provider.create(a_call(provider, vm(rules=many)))


async def test_a_group_of_others_with_our_name_is_not_touched(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    name = f"OpenNebula {OWNER} 100"
    ec2.account.act("CreateSecurityGroup", {"GroupName": name, "GroupDescription": "by hand"})
    with pytest.raises(BadParameter, match=rf"is named {name} and lacks the tag ONE_PROVIDER_OWNER={OWNER}: tag it"):
        await provider.create(a_call(provider, vm()))
    (group,) = made(ec2)
    assert rules(group) == {("out", "-1", -1, -1, "0.0.0.0/0")}


# Changes to a running instance


def updated(request: VmRequest, number: str = "100") -> VmRequest:
    return msgspec.structs.replace(request, security_group_id=number)


async def test_an_update_changes_the_rules_and_authorizes_before_it_revokes(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    deploy_id = await launched(provider, vm())
    before = len(ec2.account.calls)
    request = vm(rules=(SSH, {**WEB, "RULE_TYPE": "OUTBOUND", "PROTOCOL": "ICMP", "ICMP_TYPE": "8"}))
    await provider.update_security_group(deploy_id, updated(request))
    await provider.update_security_group(deploy_id, updated(request))
    (group,) = made(ec2)
    assert rules(group) == {("in", "tcp", 22, 22, "192.0.2.0/24"), ("out", "icmp", 8, -1, "0.0.0.0/0")}
    changes = [action for action, _ in ec2.account.calls[before:] if not action.startswith("Describe")]
    assert changes == ["AuthorizeSecurityGroupEgress", "RevokeSecurityGroupEgress"]


async def test_sg_attach_and_sg_detach_change_the_groups_of_the_interface(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    deploy_id = await launched(provider, vm())
    both = vm(nic(groups="0,100"), rules=(SSH, OUT, {**OUT, "SECURITY_GROUP_ID": "0"}))
    await provider.update_security_group(deploy_id, updated(both, "0"))
    ids = {each["groupName"].rpartition(" ")[2]: each["groupId"] for each in made(ec2)}
    assert interfaces(ec2) == [[ids["0"], ids["100"]]]
    await provider.update_security_group(deploy_id, updated(vm(nic(groups="0")), "100"))
    assert interfaces(ec2) == [[ids["0"]]]
    await provider.update_security_group(deploy_id, updated(vm(nic(groups=""))))
    assert interfaces(ec2) == [["sg-default"]], "EC2 demands one"


async def test_an_update_of_a_vm_with_other_groups_is_refused(connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    request = vm(SECURITYGROUPIDS="sg-own")
    deploy_id = await launched(provider, request)
    with pytest.raises(BadParameter, match=r"group 100 is not in EC2: PUBLIC_CLOUD or \[networks\] names other groups"):
        await provider.update_security_group(deploy_id, updated(request))


async def test_a_nic_that_is_attached_later_gets_its_groups(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    deploy_id = await launched(provider, vm())
    attached = nic(1, groups="101")
    rule = {**OUT, "SECURITY_GROUP_ID": "101", "SECURITY_GROUP_NAME": "db"}
    request = msgspec.structs.replace(vm(nic(), attached, rules=(SSH, OUT, rule)), operand=attached)
    for _ in range(2):
        await provider.prepare_nic(deploy_id, request)
        await provider.attach_nic(deploy_id, attached)
    ids = {each["groupName"].rpartition(" ")[2]: each["groupId"] for each in made(ec2)}
    assert interfaces(ec2) == [[ids["100"]], [ids["101"]]]
    await provider.update_security_group(deploy_id, updated(request, "101"))
    assert interfaces(ec2) == [[ids["100"]], [ids["101"]]]


async def test_a_stopped_instances_groups_get_the_present_rules_before_its_start(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=MIRROR)
    deploy_id = await launched(provider, vm())
    await provider.stop(deploy_id, hard=False)
    await reach(provider, deploy_id, InstanceState.STOPPED)
    await provider.prepare_start(deploy_id, vm(rules=(OUT,)))
    (group,) = made(ec2)
    assert rules(group) == ALL_OUT


# Removal


async def test_a_group_is_removed_after_the_last_instance_with_it(ec2: FaultyEc2, connect: Open) -> None:
    provider, other = await connect(mappings=MIRROR), await connect(mappings=MIRROR)
    deploy_ids = [await launched(provider, vm(vm_id=vm_id)) for vm_id in (7, 8)]
    for deploy_id in deploy_ids:
        await other.remove_unused(owner=OWNER)
        assert len(made(ec2)) == 1
        await provider.destroy(deploy_id)
        await reach(provider, deploy_id, InstanceState.TERMINATED)
    (group,) = made(ec2)
    assert await other.unused_resources(owner=OWNER) == [
        UnusedResource(part_id=group["groupId"], kind="security group", detail="for security group 100 in vpc-default")
    ]
    await other.remove_unused(owner=OWNER)
    assert made(ec2) == []
    assert await other.unused_resources(owner=OWNER) == []


async def test_a_group_that_an_action_is_about_to_use_is_not_removed(
    ec2: FaultyEc2, connect: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await connect(mappings=MIRROR)
    deploy_id = await launched(provider, vm())
    await provider.destroy(deploy_id)
    await reach(provider, deploy_id, InstanceState.TERMINATED)
    await provider.remove_unused(owner=OWNER)
    assert len(made(ec2)) == 1, "it was looked for a moment ago"
    monkeypatch.setattr(module, "_SOON", 0.0)
    await provider.remove_unused(owner=OWNER)
    assert made(ec2) == []
