"""Changing a stopped instance to its VM's present template; network interfaces for NICs, which end with the VM."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, InstanceState, Template, VmRequest
from one_provider_mad.errors import BadParameter, NotReached, ProviderUnavailable, WrongState
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.interface import Attached
from one_provider_mad.testing.conformance import describe_one, reach
from tests.providers.ec2.account import ADDRESSES
from tests.providers.ec2.conftest import OWNER, Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.vms import a_vm, launched

NIC = {"NIC_ID": "1", "NETWORK": "home", "MAC": "02:00:0a:00:00:05"}


async def stopped(provider: Ec2Provider, request: VmRequest | None = None) -> DeployId:
    deploy_id = await launched(provider, request)
    await provider.stop(deploy_id, hard=True)
    await reach(provider, deploy_id, InstanceState.STOPPED)
    return deploy_id


def with_context(request: VmRequest, **context: str) -> VmRequest:
    return msgspec.structs.replace(request, template=Template(values={"CONTEXT": (context,)}))


def user_data(ec2: FaultyEc2, deploy_id: DeployId) -> str:
    shown = ec2.account.act("DescribeInstanceAttribute", {"InstanceId": deploy_id, "Attribute": "userData"})
    return base64.b64decode(shown["userData"].get("value", "")).decode()


def interfaces(ec2: FaultyEc2) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ec2.account.act("DescribeNetworkInterfaces", {})["networkInterfaceSet"]
    return found


class TestSection:
    async def test_user_data_is_changed_to_the_vms_present_context(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        deploy_id = await stopped(provider, with_context(a_vm(), KEY="first"))
        assert user_data(ec2, deploy_id) == 'KEY="first"\n'
        await provider.update_context(deploy_id, with_context(a_vm(), KEY="second"))
        assert user_data(ec2, deploy_id) == 'KEY="second"\n'
        await provider.update_context(deploy_id, a_vm())
        assert user_data(ec2, deploy_id) == ""
        unusable = with_context(a_vm(GUEST="cloud-init"), USERNAME="no name", SET_HOSTNAME="web")
        (sentence,) = await provider.update_context(deploy_id, unusable)
        assert "USERNAME is left out" in sentence

    async def test_user_data_of_the_section_has_precedence_over_the_context(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        deploy_id = await stopped(provider)
        asked = with_context(a_vm(USERDATA=base64.b64encode(b"#!/bin/sh").decode()), KEY="second")
        await provider.reconfigure(deploy_id, asked, "USERDATA")
        assert user_data(ec2, deploy_id) == "#!/bin/sh"

    @pytest.mark.parametrize(
        ("listed", "kind"),
        [
            pytest.param("m5.large,t3.small", "t3.small", id="present-type-listed"),
            pytest.param("m5.large,t3.medium", "m5.large", id="present-type-not-listed"),
        ],
    )
    async def test_a_stopped_instance_gets_the_first_listed_type_unless_its_type_is_listed(
        self, connect: Open, listed: str, kind: str
    ) -> None:
        provider = await connect()
        deploy_id = await stopped(provider)
        await provider.reconfigure(deploy_id, a_vm(INSTANCETYPE=listed), "INSTANCETYPE")
        instance = await describe_one(provider, deploy_id)
        assert instance is not None
        assert instance.attributes["AWS_INSTANCE_TYPE"] == kind

    @pytest.mark.parametrize("name", ["CPU", "VCPU", "MEMORY"])
    @pytest.mark.parametrize("text", ["nan", "inf", "-1", "two"])
    async def test_resize_refuses_a_figure_that_is_no_number(self, connect: Open, name: str, text: str) -> None:
        provider = await connect()
        deploy_id = await stopped(provider)
        asked = msgspec.structs.replace(a_vm(), template=Template(values={name: (text,)}))
        with pytest.raises(BadParameter) as caught:
            await provider.resize(deploy_id, asked)
        sentence = f"{name}={text} of the template is not a number: write a figure that is not negative"
        assert str(caught.value) == sentence

    async def test_security_groups_ebs_optimized_tags_and_address_are_changed(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        address = next(iter(ADDRESSES))
        edited: dict[str, Any] = {
            "SECURITYGROUPIDS": "sg-a,sg-b",
            "EBS_OPTIMIZED": "YES",
            "TAGS": "role=db",
            "ELASTICIP": address,
        }
        deploy_id = await stopped(provider, a_vm(SECURITYGROUPIDS="sg-old"))
        for name in edited:
            await provider.reconfigure(deploy_id, a_vm(**edited), name)
        (instance,) = ec2.account.act("DescribeInstances", {"InstanceId.1": deploy_id})["reservationSet"][0][
            "instancesSet"
        ]
        assert [group["groupId"] for group in instance["groupSet"]] == ["sg-a", "sg-b"]
        assert (instance["ebsOptimized"], instance["ipAddress"]) == ("true", address)
        tags = {each["key"]: each["value"] for each in instance["tagSet"]}
        assert tags["role"] == "db"
        assert a_vm().identity(owner=OWNER).tags().items() <= tags.items()

    async def test_ec2_declares_its_changeable_attributes_and_refuses_to_change_others(self, connect: Open) -> None:
        provider = await connect()
        deploy_id = await stopped(provider)
        assert provider.changeable_attributes == {
            *(
                "INSTANCETYPE",
                "SECURITYGROUPIDS",
                "EBS_OPTIMIZED",
                "USERDATA",
                "CLOUD_INIT",
                "GUEST",
                "TAGS",
                "ELASTICIP",
            )
        }
        with pytest.raises(BadParameter, match="AMI counts only when an instance is created"):
            await provider.reconfigure(deploy_id, a_vm(AMI="ami-0new"), "AMI")

    @pytest.mark.parametrize("name", ["SECURITYGROUPIDS", "ELASTICIP"])
    async def test_removing_security_groups_or_the_elastic_ip_is_refused(self, connect: Open, name: str) -> None:
        provider = await connect()
        with pytest.raises(BadParameter, match=name):
            await provider.reconfigure(await stopped(provider), a_vm(), name)

    async def test_a_type_change_of_a_running_instance_is_refused(self, connect: Open) -> None:
        provider = await connect()
        with pytest.raises(WrongState, match=r"EC2 changes the type of stopped ones only, to t3\.large"):
            await provider.reconfigure(await launched(provider), a_vm(INSTANCETYPE="t3.large"), "INSTANCETYPE")

    async def test_the_section_of_a_vm_is_returned_without_defaults_and_unknown_attributes(self, connect: Open) -> None:
        provider = await connect(defaults={"KEYPAIR": "ops", "INSTANCETYPE": "t3.nano"})
        assert provider.section_of(a_vm(TYPE="ec2", HOST="cloud", COLOUR="red")) == {
            "AMI": "ami-0abc",
            "INSTANCETYPE": "t3.small",
        }


class TestInterfaces:
    @pytest.mark.parametrize("is_running", [True, False])
    async def test_an_attached_nic_is_a_tagged_network_interface_that_ends_with_the_instance(
        self, ec2: FaultyEc2, connect: Open, *, is_running: bool
    ) -> None:
        provider = await connect()
        asked = a_vm(SUBNETID="subnet-7", SECURITYGROUPIDS="sg-a,sg-b")
        deploy_id = await (launched if is_running else stopped)(provider, asked)
        for _ in range(2):
            await provider.attach_nic(deploy_id, NIC)
        (interface,) = interfaces(ec2)
        assert (interface["subnetId"], [each["groupId"] for each in interface["groupSet"]]) == (
            "subnet-7",
            ["sg-a", "sg-b"],
        )
        attachment = interface["attachment"]
        assert (attachment["instanceId"], attachment["deviceIndex"]) == (deploy_id, 1)
        tags = {each["key"]: each["value"] for each in interface["tagSet"]}
        assert a_vm().identity(owner=OWNER).tags().items() <= tags.items()
        assert await provider.attached(deploy_id) == Attached(nics=frozenset({"1"}))
        await provider.destroy(deploy_id)
        assert interfaces(ec2) == []

    async def test_a_nic_is_created_in_the_subnet_and_groups_that_it_names(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        await provider.attach_nic(deploy_id, {**NIC, "SUBNETID": "subnet-9", "SECURITYGROUPIDS": "sg-9"})
        (interface,) = interfaces(ec2)
        assert (interface["subnetId"], interface["groupSet"][0]["groupId"]) == ("subnet-9", "sg-9")

    async def test_detaching_a_nic_detaches_only_the_interface_created_for_it(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        for nic_id in ("1", "2"):
            await provider.attach_nic(deploy_id, {**NIC, "NIC_ID": nic_id})
        foreign = ec2.account.act("CreateNetworkInterface", {"SubnetId": "subnet-1"})
        ec2.account.act(
            "AttachNetworkInterface",
            {
                "NetworkInterfaceId": foreign["networkInterface"]["networkInterfaceId"],
                "InstanceId": deploy_id,
                "DeviceIndex": "3",
            },
        )
        for nic_id in ("1", "3", "0"):
            await provider.detach_nic(deploy_id, {"NIC_ID": nic_id})
        assert [each["attachment"]["deviceIndex"] for each in interfaces(ec2)] == [2, 3]

    async def test_a_network_interface_that_cannot_be_attached_is_deleted(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        ec2.order("AttachNetworkInterface", code="AttachmentLimitExceeded", message="Full.", status=400)
        with pytest.raises(BadParameter, match=r"Full\."):
            await provider.attach_nic(deploy_id, NIC)
        assert interfaces(ec2) == []

    async def test_a_repeated_attach_after_a_lost_answer_creates_no_second_interface(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        ec2.order("AttachNetworkInterface", is_done=True)
        with pytest.raises(Exception, match="internal error"):
            await provider.attach_nic(deploy_id, NIC)
        await provider.attach_nic(deploy_id, NIC)
        (interface,) = interfaces(ec2)
        assert interface["attachment"]["deleteOnTermination"] is True

    @pytest.mark.parametrize("is_done", [True, False])
    async def test_an_interface_of_an_attach_with_a_lost_answer_ends_with_the_instance(
        self, ec2: FaultyEc2, connect: Open, *, is_done: bool
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        ec2.order("AttachNetworkInterface", is_done=is_done)
        with pytest.raises(ProviderUnavailable):
            await provider.attach_nic(deploy_id, NIC)
        await provider.destroy(deploy_id)
        assert interfaces(ec2) == []

    async def test_an_interface_is_reused_after_an_attach_call_that_was_not_carried_out(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        ec2.order("AttachNetworkInterface", code="Unavailable", message="Overloaded.", status=503)
        with pytest.raises(NotReached):
            await provider.attach_nic(deploy_id, NIC)
        (made,) = interfaces(ec2)
        await provider.attach_nic(deploy_id, NIC)
        assert [each["networkInterfaceId"] for each in interfaces(ec2)] == [made["networkInterfaceId"]]

    async def test_attaching_a_nic_alias_is_refused(self, connect: Open) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        with pytest.raises(BadParameter, match="interface 1 is an alias"):
            await provider.attach_nic(deploy_id, {**NIC, "PARENT": "NIC0"})

    async def test_attached_disks_are_listed_without_the_right_to_list_interfaces(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        deploy_id = await launched(provider)
        await provider.attach_disk(deploy_id, {"DISK_ID": "2", "SIZE": "1024"})
        ec2.order("DescribeNetworkInterfaces", code="UnauthorizedOperation", message="No.", status=403)
        assert await provider.attached(deploy_id) == Attached(disks=frozenset({"2"}))


async def test_a_create_warns_of_nics_that_it_does_not_create(connect: Open) -> None:
    provider = await connect()
    template = Template(values={"NIC": ({"NIC_ID": "0", "NETWORK": "private"},)})
    (warning,) = provider.plan(msgspec.structs.replace(a_vm(), template=template)).warnings
    assert warning.startswith("the instance is made without the template's interfaces (0)")
