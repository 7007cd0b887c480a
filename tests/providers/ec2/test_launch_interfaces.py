"""NICs of a template become the interfaces of the instance, in their order, each known by its NIC_ID."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import InstanceState, Template, VmRequest
from one_provider_mad.errors import BadParameter, ProviderError, WrongState
from one_provider_mad.lab.ec2.topology import Topology
from one_provider_mad.mappings import Mappings, NetworkMapping
from one_provider_mad.providers.ec2.launch import read_launch, run_instances
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.interface import Attached
from one_provider_mad.testing.conformance import reach
from tests.providers.ec2.conftest import Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.model import unknown_parameters
from tests.providers.ec2.vms import SECTION, a_call, a_vm, launched

NETWORKS = Mappings(
    networks={
        "private": NetworkMapping(subnet="subnet-1-a", security_groups=("sg-1", "sg-2"), addresses="opennebula"),
        "public": NetworkMapping(subnet="subnet-2-a,subnet-2-b", public_address=True),
        "storage": NetworkMapping(subnet="subnet-3-a,subnet-3-b", public_address=False),
        "wide": NetworkMapping(subnet="a,b,c"),
        "anywhere": NetworkMapping(addresses="opennebula"),
    }
)

PRIVATE = {"NIC_ID": "0", "NETWORK": "private", "NETWORK_ID": "3", "IP": "10.0.0.7", "MAC": "02:00:0a:00:00:07"}
PUBLIC = {"NIC_ID": "1", "NETWORK": "public", "NETWORK_ID": "4", "IP": "192.168.1.9"}
STORAGE = {"NIC_ID": "2", "NETWORK": "storage", "NETWORK_ID": "5"}
UNMAPPED = {"NIC_ID": "3", "NETWORK": "lab", "NETWORK_ID": "6", "IP": "172.16.0.2"}


def vm(*nics: Mapping[str, str], others: Any = None, **section: str) -> VmRequest:
    template = Template(values={"NIC": nics, **(others or {})})
    user_template = Template(values={"PUBLIC_CLOUD": ({**SECTION, **section},)})
    return msgspec.structs.replace(a_vm(), template=template, user_template=user_template)


def calls(provider: Ec2Provider, request: VmRequest) -> list[dict[str, str]]:
    """The network's parameters in the RunInstances call of each alternative."""
    sent = [
        run_instances(read_launch(each), identity=request.identity(owner="me"), token="t")
        for each in provider.plan(request).alternatives
    ]
    assert not [name for each in sent for name in unknown_parameters("RunInstances", each)]
    kinds = ("NetworkInterface.", "SubnetId", "SecurityGroup", "PrivateIpAddress")
    return [{name: text for name, text in each.items() if name.startswith(kinds)} for each in sent]


async def test_a_mapped_network_is_subnet_groups_and_the_leased_address(connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    assert calls(provider, vm(PRIVATE)) == [
        {
            "NetworkInterface.1.DeviceIndex": "0",
            "NetworkInterface.1.DeleteOnTermination": "true",
            "NetworkInterface.1.SubnetId": "subnet-1-a",
            "NetworkInterface.1.SecurityGroupId.1": "sg-1",
            "NetworkInterface.1.SecurityGroupId.2": "sg-2",
            "NetworkInterface.1.PrivateIpAddress": "10.0.0.7",
        }
    ]
    assert provider.plan(vm(PRIVATE)).warnings == ()


async def test_a_single_interface_gets_a_public_address_in_each_subnet_and_its_lease_is_told_not_to_be_used(
    connect: Open,
) -> None:
    provider = await connect(mappings=NETWORKS)
    assert [
        (each["NetworkInterface.1.SubnetId"], each["NetworkInterface.1.AssociatePublicIpAddress"])
        for each in calls(provider, vm(PUBLIC))
    ] == [("subnet-2-a", "true"), ("subnet-2-b", "true")]
    assert provider.plan(vm(PUBLIC)).warnings == (
        "the leased address 192.168.1.9 of interface 1 is not used: EC2 chooses the address",
    )


async def test_several_nics_are_interfaces_in_their_order_with_the_subnets_of_one_zone(connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    request = vm(STORAGE, PRIVATE, PUBLIC)
    assert [
        [each[f"NetworkInterface.{number}.SubnetId"] for number in (1, 2, 3)] for each in calls(provider, request)
    ] == [["subnet-3-a", "subnet-1-a", "subnet-2-a"], ["subnet-3-b", "subnet-1-a", "subnet-2-b"]]
    assert "AssociatePublicIpAddress" not in str(calls(provider, request))
    assert provider.plan(request).warnings == (
        "the leased address 192.168.1.9 of interface 1 is not used: EC2 chooses the address",
        "the instance gets no public address: EC2 gives one only to an instance with one interface, use ELASTICIP",
    )


async def test_the_section_comes_before_the_network_of_the_first_interface(connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    section = {"SUBNETID": "subnet-9", "SECURITYGROUPIDS": "sg-9", "PRIVATEIP": "10.0.0.9"}
    (sent,) = calls(provider, vm(PRIVATE, **section))
    assert sent["NetworkInterface.1.SubnetId"] == "subnet-9"
    assert sent["NetworkInterface.1.SecurityGroupId.1"] == "sg-9"
    assert "NetworkInterface.1.SecurityGroupId.2" not in sent
    assert sent["NetworkInterface.1.PrivateIpAddress"] == "10.0.0.9"


async def test_a_leased_address_is_not_asked_of_another_subnet_of_the_section(connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    (sent,) = calls(provider, vm(PRIVATE, SUBNETID="subnet-9"))
    assert "NetworkInterface.1.PrivateIpAddress" not in sent


async def test_the_defaults_count_where_neither_section_nor_network_says_anything(connect: Open) -> None:
    defaults = {"SECURITYGROUPIDS": "sg-d", "SUBNETID": "subnet-d"}
    provider = await connect(mappings=NETWORKS, defaults=defaults)
    (first, _) = calls(provider, vm(PUBLIC, PRIVATE))
    assert first["NetworkInterface.1.SecurityGroupId.1"] == "sg-d"
    assert first["NetworkInterface.2.SecurityGroupId.1"] == "sg-1"
    assert first["NetworkInterface.1.SubnetId"] == "subnet-2-a"


async def test_without_a_mapped_network_the_call_is_as_without_tables(connect: Open) -> None:
    with_tables, without = await connect(mappings=NETWORKS), await connect()
    request = vm(UNMAPPED, SUBNETID="subnet-9", SECURITYGROUPIDS="sg-9", PRIVATEIP="10.0.0.9")
    assert calls(with_tables, request) == calls(without, request)
    assert calls(without, request) == [
        {"SubnetId": "subnet-9", "SecurityGroupId.1": "sg-9", "PrivateIpAddress": "10.0.0.9"}
    ]
    assert with_tables.plan(request).warnings == without.plan(request).warnings


async def test_an_unmapped_nic_beside_mapped_ones_is_left_out_with_a_sentence(connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    (sent,) = calls(provider, vm(UNMAPPED, PRIVATE))
    assert sent["NetworkInterface.1.SubnetId"] == "subnet-1-a"
    assert not [name for name in sent if name.startswith("NetworkInterface.2")]
    assert provider.plan(vm(UNMAPPED, PRIVATE)).warnings == (
        "interface 3 is not made: nothing stands for network lab (6) in [networks] of the configuration",
    )


async def test_the_sections_subnet_makes_an_unmapped_first_nic_an_interface(connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    (sent,) = calls(provider, vm(UNMAPPED, PRIVATE, SUBNETID="subnet-9"))
    assert (sent["NetworkInterface.1.SubnetId"], sent["NetworkInterface.2.SubnetId"]) == ("subnet-9", "subnet-1-a")
    assert sent["NetworkInterface.2.PrivateIpAddress"] == "10.0.0.7"


async def test_aliases_pci_devices_and_external_nics_are_one_sentence_each(connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    others = {"NIC_ALIAS": ({"NIC_ID": "5"},), "PCI": ({"NIC_ID": "6", "VENDOR": "8086"},)}
    request = vm(PRIVATE, {"NIC_ID": "4", "EXTERNAL": "YES", "NETWORK": "private"}, others=others)
    assert provider.plan(request).warnings == (
        "interface 4 is not made: it is EXTERNAL, which exists at home only",
        "interface 5 is not made: it is an alias, which exists at home only",
        "interface 6 is not made: it is a PCI device, which exists at home only",
    )


@pytest.mark.parametrize(
    ("nics", "section", "sentence"),
    [
        pytest.param(
            (PUBLIC, {"NIC_ID": "5", "NETWORK": "wide"}),
            {},
            "the VM's networks have different numbers of subnets (public (4): 2, wide: 3): name as many for each, in"
            " the same order of zones",
            id="unequal-numbers-of-subnets",
        ),
        pytest.param(
            ({**PRIVATE, "NETWORK": "anywhere", "NETWORK_ID": "8"},),
            {},
            'network anywhere (8): addresses = "opennebula" needs one subnet of EC2 in [networks], and it has none',
            id="an-address-in-no-subnet",
        ),
        pytest.param(
            (PUBLIC,),
            {"SECURITYGROUPS": "web"},
            "SECURITYGROUPS and SUBNETID exclude each other: name ids in SECURITYGROUPIDS",
            id="groups-by-name",
        ),
    ],
)
async def test_networks_that_exclude_each_other_are_refused(
    connect: Open, nics: tuple[Mapping[str, str], ...], section: dict[str, str], sentence: str
) -> None:
    provider = await connect(mappings=NETWORKS)
    with pytest.raises(BadParameter) as caught:
        provider.plan(vm(*nics, **section))
    assert str(caught.value) == sentence


# The interfaces of a running instance


def interfaces(ec2: FaultyEc2) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ec2.account.act("DescribeNetworkInterfaces", {})["networkInterfaceSet"]
    return found


async def test_launched_interfaces_have_the_addresses_and_are_known_by_nic_id(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    deploy_id = await launched(provider, vm(PRIVATE, STORAGE))
    first, second = interfaces(ec2)
    assert (first["privateIpAddress"], first["subnetId"], second["subnetId"]) == (
        "10.0.0.7",
        "subnet-1-a",
        "subnet-3-a",
    )
    facts = (await provider.describe([deploy_id]))[deploy_id].attributes
    assert (facts["AWS_PRIVATE_IP_ADDRESS"], facts["AWS_SUBNET_ID"]) == ("10.0.0.7", "subnet-1-a")
    assert "AWS_PUBLIC_IP_ADDRESS" not in facts
    assert await provider.attached(deploy_id) == Attached(nics=frozenset({"2"}))
    await provider.attach_nic(deploy_id, STORAGE)
    assert len(interfaces(ec2)) == 2


async def test_the_first_interface_cannot_be_detached_and_others_are_deleted(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    deploy_id = await launched(provider, vm(PRIVATE, STORAGE))
    with pytest.raises(BadParameter, match="interface 0 is the first one of instance"):
        await provider.detach_nic(deploy_id, PRIVATE)
    await provider.detach_nic(deploy_id, STORAGE)
    assert [each["privateIpAddress"] for each in interfaces(ec2)] == ["10.0.0.7"]


async def test_a_detach_of_a_launched_interface_that_was_cut_short_is_completed(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    deploy_id = await launched(provider, vm(PRIVATE, STORAGE))
    ec2.order("DeleteNetworkInterface", code="InternalError", message="An internal error", status=500)
    with pytest.raises(ProviderError, match="internal error"):
        await provider.detach_nic(deploy_id, STORAGE)
    await (await connect(mappings=NETWORKS)).detach_nic(deploy_id, STORAGE)
    assert len(interfaces(ec2)) == 1


async def test_interfaces_without_the_right_to_tag_them_are_detached_all_the_same(
    ec2: FaultyEc2, connect: Open
) -> None:
    provider = await connect(mappings=NETWORKS)
    deploy_id = await launched(provider, vm(PRIVATE, STORAGE))
    ec2.order("CreateTags", code="UnauthorizedOperation", message="No.", status=403)
    await provider.detach_nic(deploy_id, STORAGE)
    assert len(interfaces(ec2)) == 1


async def test_launched_interfaces_end_with_the_instance(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    deploy_id = await launched(provider, vm(PRIVATE, STORAGE))
    await provider.destroy(deploy_id)
    await reach(provider, deploy_id, InstanceState.TERMINATED)
    assert interfaces(ec2) == []


@pytest.mark.parametrize(
    ("nic", "kind", "sentence"),
    [
        pytest.param(
            {**PRIVATE, "IP": "192.168.0.7"},
            BadParameter,
            "subnet-1-a of EC2 cannot give the instance the address 192.168.0.7: take it out of the ranges of"
            " OpenNebula's network, or of PRIVATEIP (EC2: Address 192.168.0.7 does not fall within the subnet's address"
            " range (RunInstances, InvalidParameterValue))",
            id="outside-of-the-subnet",
        ),
        pytest.param(
            PRIVATE,
            WrongState,
            "subnet-1-a of EC2 cannot give the instance the address 10.0.0.7: take it out of the ranges of OpenNebula's"
            " network, or of PRIVATEIP (EC2: Address 10.0.0.7 is in use. (RunInstances, InvalidIPAddress.InUse))",
            id="in-use",
        ),
    ],
)
async def test_an_address_that_the_subnet_cannot_give_is_a_clear_sentence(
    connect: Open, nic: Mapping[str, str], kind: type[ProviderError], sentence: str
) -> None:
    provider = await connect(mappings=NETWORKS)
    await launched(provider, vm(PRIVATE))
    other = msgspec.structs.replace(vm(nic), vm_id=8)
    with pytest.raises(kind) as caught:
        await provider.create(a_call(provider, other))
    assert str(caught.value) == sentence


async def test_an_attached_nic_is_in_the_subnet_of_its_network_with_the_leased_address(
    ec2: FaultyEc2, connect: Open
) -> None:
    provider = await connect(mappings=NETWORKS)
    deploy_id = await launched(provider, a_vm())
    await provider.attach_nic(deploy_id, {**PRIVATE, "NIC_ID": "1"})
    (made,) = interfaces(ec2)
    assert (made["subnetId"], made["privateIpAddress"]) == ("subnet-1-a", "10.0.0.7")
    assert [each["groupId"] for each in made["groupSet"]] == ["sg-1", "sg-2"]


async def test_of_several_subnets_an_attached_nic_is_in_that_of_the_instances_zone(
    ec2: FaultyEc2, connect: Open
) -> None:
    topology: Topology = ec2.account._account.topology
    for zone in "ab":
        subnet = {"subnetId": f"subnet-2-{zone}", "availabilityZone": f"eu-west-1{zone}"}
        topology.subnets.append({**topology.subnets[0], **subnet})
    provider = await connect(mappings=NETWORKS)
    deploy_id = await launched(provider, a_vm(SUBNETID="subnet-7-b"))
    await provider.attach_nic(deploy_id, PUBLIC)
    assert [each["subnetId"] for each in interfaces(ec2)] == ["subnet-2-b"]
    elsewhere = await launched(provider, a_vm(8, SUBNETID="subnet-7-c"))
    with pytest.raises(BadParameter, match="none of the network's subnets is in eu-west-1c, the zone of instance"):
        await provider.attach_nic(elsewhere, PUBLIC)


async def test_an_elastic_address_goes_to_the_first_of_several_interfaces(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(mappings=NETWORKS)
    request = vm(PRIVATE, STORAGE, ELASTICIP="198.51.100.7")
    deploy_id = await launched(provider, request)
    await provider.finish_boot(deploy_id, request)
    (form,) = [form for action, form in ec2.account.calls if action == "AssociateAddress"]
    assert form["NetworkInterfaceId"] == interfaces(ec2)[0]["networkInterfaceId"]
    facts = (await provider.describe([deploy_id]))[deploy_id].attributes
    assert facts["AWS_PUBLIC_IP_ADDRESS"] == "198.51.100.7"
