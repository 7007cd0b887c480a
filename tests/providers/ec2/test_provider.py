"""Behaviour of EC2's provider that the conformance suite does not test."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from one_provider_mad.domain import DeployId, InstanceState, VmId
from one_provider_mad.errors import (
    BadParameter,
    InstanceNotFound,
    NoCapacity,
    ProviderUnavailable,
    QuotaExceeded,
    TokenSpent,
)
from one_provider_mad.providers.ec2.instances import UPSTREAM_TAG
from one_provider_mad.providers.ec2.launch import Place, read_launch
from one_provider_mad.providers.ec2.shortages import Shortages
from one_provider_mad.providers.ec2.sizes import resized
from one_provider_mad.providers.ec2.states import STATES, state_of
from one_provider_mad.providers.interface import CapacitySource, CreateCall, ImportSource, Size
from one_provider_mad.testing.conformance import describe_one, reach
from tests.providers.ec2.account import Instance as Shown
from tests.providers.ec2.conftest import OWNER, Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.table import SIZES
from tests.providers.ec2.vms import a_call, a_vm, launched


class TestCreating:
    async def test_a_type_and_zone_without_capacity_are_tried_last_until_they_succeed(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        vm = a_vm(INSTANCETYPE="t3.small,t3a.small", AVAILABILITYZONE="eu-west-1a,eu-west-1b")

        def order() -> list[tuple[str, str]]:
            asked = [each["parameters"] for each in provider.plan(vm).alternatives]
            return [(each["InstanceType"], each["Placement.AvailabilityZone"][-1]) for each in asked]

        assert order() == [("t3.small", "a"), ("t3.small", "b"), ("t3a.small", "a"), ("t3a.small", "b")]
        ec2.account.short = {("t3.small", "eu-west-1a")}
        with pytest.raises(NoCapacity, match=r"t3\.small in eu-west-1a: EC2: We currently do not have sufficient"):
            await provider.create(a_call(provider, vm))
        assert order() == [("t3.small", "b"), ("t3a.small", "a"), ("t3a.small", "b"), ("t3.small", "a")]
        ec2.account.short.clear()
        await provider.create(a_call(provider, vm, at=3))
        assert order()[0] == ("t3.small", "a")  # it has capacity after all

    async def test_a_vm_without_wishes_of_its_own_gets_the_usual_rooms(self, connect: Open) -> None:
        usual = {"INSTANCETYPE": "t3.small,t3a.small", "AVAILABILITYZONE": "eu-west-1a,eu-west-1b", "SPOT": "PREFERRED"}
        provider = await connect(defaults=usual)
        vm = a_vm(INSTANCETYPE="")
        rooms = {provider.room_of(vm, each) for each in provider.plan(vm).alternatives}
        assert rooms == set(provider.usual_rooms([]))
        assert len(rooms) == 8

    def test_a_shortage_is_forgotten_after_ten_minutes(self) -> None:
        now = 0.0
        memory = Shortages(memory=600, clock=lambda: now)
        one, two = ({"parameters": {"InstanceType": name}} for name in ("a", "b"))
        memory.note(Place(kind="a", where="", market=""))
        assert memory.ordered([one, two]) == (two, one)
        now = 601.0
        assert memory.ordered([one, two]) == (one, two)

    async def test_a_spot_limit_lets_a_create_continue_on_demand(self, ec2: FaultyEc2, connect: Open) -> None:
        provider, vm = await connect(), a_vm(SPOT="PREFERRED")
        ec2.order("RunInstances", code="MaxSpotInstanceCountExceeded", status=400)
        with pytest.raises(NoCapacity, match="MaxSpotInstanceCountExceeded"):
            await provider.create(a_call(provider, vm))
        first, second = provider.plan(vm).alternatives
        assert (read_launch(first).place.market, read_launch(second).place.market) == (
            "",
            "spot",
        )  # spot is tried last for now
        ec2.order("RunInstances", code="VcpuLimitExceeded", status=400)
        with pytest.raises(QuotaExceeded):
            await provider.create(a_call(provider, a_vm()))

    @pytest.mark.parametrize(
        ("code", "kind", "is_general"),
        [
            ("VcpuLimitExceeded", "t3.small", True),
            ("InstanceLimitExceeded", "im4gn.large", True),
            ("VcpuLimitExceeded", "p4d.24xlarge", False),
            ("InstanceLimitExceeded", "inf2.xlarge", False),
            ("VolumeLimitExceeded", "t3.small", False),
        ],
    )
    async def test_only_an_instance_limit_of_standard_families_concerns_all_instance_types(
        self, ec2: FaultyEc2, connect: Open, code: str, kind: str, *, is_general: bool
    ) -> None:
        provider = await connect()
        ec2.order("RunInstances", code=code, status=400)
        with pytest.raises(QuotaExceeded, match=code) as caught:
            await provider.create(a_call(provider, a_vm(INSTANCETYPE=kind)))
        assert caught.value.is_general is is_general

    async def test_a_token_answered_with_a_terminated_instance_is_spent(self, ec2: FaultyEc2, connect: Open) -> None:
        """EC2 answered so until January 2025, and compatible clouds may still."""
        ec2.account.answers_spent_tokens = True
        provider = await connect()
        deploy_id = await launched(provider)
        await provider.destroy(deploy_id)
        with pytest.raises(TokenSpent, match=f"belongs to instance {deploy_id}, which is (shutting-down|terminated)"):
            await provider.create(a_call(provider, a_vm()))

    async def test_the_root_volumes_device_is_read_from_the_image_once(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        call = a_call(provider, a_vm(VOLUMESIZE="30"))
        deploy_id = await provider.create(call)
        other = await connect()
        assert await other.create(call) == deploy_id
        assert await provider.create(call) == deploy_id
        assert ec2.account.count("DescribeImages") == 2  # one for each of the two
        assert ec2.account.instances[deploy_id].asked["BlockDeviceMapping.1.DeviceName"] == "/dev/xvda"
        body = "<DescribeImagesResponse><imagesSet/></DescribeImagesResponse>"
        ec2.order("DescribeImages", body=body, status=200)
        with pytest.raises(BadParameter, match="AMI ami-2 has no root volume"):
            await provider.create(a_call(provider, a_vm(AMI="ami-2", VOLUMESIZE="30")))

    @pytest.mark.parametrize("token", ["", "x" * 65, "é"])
    async def test_an_empty_too_long_or_non_ascii_token_is_refused_without_a_call(
        self, ec2: FaultyEc2, connect: Open, token: str
    ) -> None:
        provider = await connect()
        call = a_call(provider, a_vm())
        with pytest.raises(BadParameter, match="an idempotency token has 1 to 64 ASCII characters"):
            await provider.create(CreateCall(identity=call.identity, token=token, parameters=call.parameters))
        assert not ec2.account.calls

    async def test_a_create_answered_without_an_instance_is_unavailable(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        ec2.order("RunInstances", body="<RunInstancesResponse/>", status=200)
        with pytest.raises(ProviderUnavailable, match="names 0 instances instead of one"):
            await provider.create(a_call(provider, a_vm()))

    async def test_an_instance_that_ec2_does_not_show_yet_is_not_found(self, ec2: FaultyEc2, connect: Open) -> None:
        ec2.account.lag = 60.0
        provider = await connect()
        deploy_id = await provider.create(a_call(provider, a_vm()))
        assert await describe_one(provider, deploy_id) is None
        assert await provider.find(owner=OWNER, vm_id=VmId(7)) == []
        for attempt in (provider.stop(deploy_id, hard=False), provider.destroy(deploy_id)):
            with pytest.raises(InstanceNotFound):
                await attempt
        assert await provider.create(a_call(provider, a_vm())) == deploy_id


class TestAddress:
    async def test_the_elastic_ip_is_associated_when_the_instance_has_booted(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        for address in ("198.51.100.7", "eipalloc-1"):
            vm = a_vm(ELASTICIP=address)
            deploy_id = await launched(provider, vm)
            for _ in range(2):
                await provider.finish_boot(deploy_id, vm)
            assert ec2.account.instances[deploy_id].address == address

    async def test_without_an_elastic_ip_no_call_is_made_after_the_boot(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        await provider.finish_boot(DeployId("i-1"), a_vm())
        assert not ec2.account.calls


class TestListing:
    async def test_a_thousand_instances_are_described_by_one_call(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        ids = [fill(ec2, number, ONE_PROVIDER_OWNER=OWNER) for number in range(1000)]
        found = await provider.describe(ids)
        assert set(found) == set(ids)
        assert ec2.account.count("DescribeInstances") == 1

    async def test_instances_without_our_tags_are_described_by_a_second_call_with_ids(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        ours = [fill(ec2, number, ONE_PROVIDER_OWNER=OWNER) for number in range(300)]
        imported = fill(ec2, 300)
        found = await provider.describe([*ours, imported, DeployId("i-unknown")])
        assert set(found) == {*ours, imported}
        assert ec2.account.count("DescribeInstances") == 2

    async def test_two_hundred_instances_are_described_by_their_ids(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        ids = [fill(ec2, number) for number in range(200)]
        fill(ec2, 200, ONE_PROVIDER_OWNER=OWNER)
        assert set(await provider.describe(ids)) == set(ids)
        assert ec2.account.count("DescribeInstances") == 1

    async def test_an_instance_has_the_attributes_that_upstreams_driver_reports(self, connect: Open) -> None:
        begun = time.time()
        provider = await connect()
        vm = a_vm(KEYPAIR="mine", SUBNETID="subnet-3", SECURITYGROUPIDS="sg-1,sg-2")
        instance = await describe_one(provider, await launched(provider, vm))
        assert instance is not None
        attributes = dict(instance.attributes)
        assert attributes.pop("AWS_VOLUMES").startswith("/dev/xvda:vol-")
        assert attributes == {
            "AWS_PUBLIC_DNS_NAME": "ec2-198-18-0-1.eu-west-1.compute.example.com",
            "AWS_PRIVATE_DNS_NAME": "ip-10-0-0-1.eu-west-1.compute.internal",
            "AWS_KEY_NAME": "mine",
            "AWS_VPC_ID": "vpc-default",
            "AWS_PRIVATE_IP_ADDRESS": "10.0.0.1",
            "AWS_PUBLIC_IP_ADDRESS": "198.18.0.1",
            "AWS_SUBNET_ID": "subnet-3",
            "AWS_INSTANCE_TYPE": "t3.small",
            "AWS_IMAGE_ID": "ami-0abc",
            "AWS_AVAILABILITY_ZONE": "eu-west-1a",
            "AWS_SECURITY_GROUPS": "sg-1,sg-2",
        }
        assert (instance.name, instance.reason, instance.raw_state) == ("vm-7", "", "running")
        assert begun - 1 <= instance.created_at <= time.time(), "EC2 cuts off parts of a second"

    async def test_an_undocumented_state_is_unknown_with_one_warning(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        one = "<item><instanceId>i-1</instanceId><instanceState><name>dreaming</name></instanceState></item>"
        body = f"<reservationSet><item><instancesSet>{one}</instancesSet></item></reservationSet>"
        body = f"<DescribeInstancesResponse>{body}</DescribeInstancesResponse>"
        ec2.order("DescribeInstances", body=body, status=200, times=2)
        for _ in range(2):
            (instance,) = await provider.list_instances()
            assert instance.state is InstanceState.UNKNOWN
        warned: list[str] = provider.warned  # type: ignore[attr-defined] # conftest puts it there
        assert [("'dreaming'" in each) for each in warned] == [True]

    @pytest.mark.parametrize("word", Shown.CODES)
    def test_every_documented_state_is_mapped(self, word: str) -> None:
        assert state_of(word) is not InstanceState.UNKNOWN
        assert set(STATES) == set(Shown.CODES)


def fill(ec2: FaultyEc2, number: int, **tags: str) -> DeployId:
    """Add an instance without a launch."""
    deploy_id = f"i-{number}"
    ec2.account.instances[deploy_id] = Shown(
        id=deploy_id,
        token="",
        asked={"ImageId": "ami-1"},
        tags=tags,
        kind="t3.small",
        zone="eu-west-1a",
        launched_at=0.0,
        state="running",
        ready_at=0.0,
    )
    return DeployId(deploy_id)


class TestUpstream:
    @pytest.mark.parametrize(
        ("tags", "settings", "vm_id"),
        [
            pytest.param({UPSTREAM_TAG: "42"}, {"adopt_upstream": True}, 42, id="tag-alone"),
            pytest.param({UPSTREAM_TAG: "42"}, {}, None, id="adopt-upstream-not-set"),
            pytest.param({UPSTREAM_TAG: "x"}, {"adopt_upstream": True}, None, id="no-number"),
            pytest.param({}, {"adopt_upstream": True}, None, id="no-tag"),
            pytest.param(
                {UPSTREAM_TAG: "42", "ONE_PROVIDER_OWNER": "b"},
                {"adopt_upstream": True},
                None,
                id="with-one-of-our-tags",
            ),
        ],
    )
    async def test_the_vm_id_of_upstreams_tag_is_read_if_adopt_upstream_is_set(
        self, ec2: FaultyEc2, connect: Open, tags: dict[str, str], settings: dict[str, Any], vm_id: int | None
    ) -> None:
        provider = await connect(**settings)
        fill(ec2, 1, **tags)
        (instance,) = await provider.list_instances()
        assert provider.upstream_vm_id(instance) == vm_id

    async def test_an_instance_with_our_tags_does_not_count_as_the_upstream_drivers_any_more(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect(adopt_upstream=True)
        deploy_id = fill(ec2, 1, ONE_ID="7")
        await provider.retag(deploy_id, a_vm().identity(owner=OWNER))
        (instance,) = await provider.find(owner=OWNER, vm_id=VmId(7))
        assert provider.upstream_vm_id(instance) is None
        assert ec2.account.instances[deploy_id].tags[UPSTREAM_TAG] == "7"


class TestSizes:
    @pytest.mark.parametrize(
        ("name", "cpu", "gib"),
        [
            ("t3.nano", 2, 0.5),
            ("t3a.2xlarge", 8, 32),
            ("m5.large", 2, 8),
            ("m6i.4xlarge", 16, 64),
            ("c6g.xlarge", 4, 8),
            ("r5.16xlarge", 64, 512),
            ("t2.micro", 1, 1),
            ("m6id.large", 2, 8),
        ],
    )
    def test_built_in_cpu_and_memory_of_instance_types_are_those_of_ec2(
        self, name: str, cpu: float, gib: float
    ) -> None:
        assert SIZES[name] == Size(cpu=cpu, memory=round(gib * 1024))

    async def test_configured_instance_types_are_added_to_the_sizes(self, connect: Open) -> None:
        provider = await connect(instance_types={"x9.huge": {"cpu": 64, "memory": 1024}})
        assert provider.instance_sizes()["x9.huge"] == Size(cpu=64, memory=1024 * 1024)
        assert isinstance(provider, CapacitySource)
        assert await provider.capacity() is None

    def test_a_resize_chooses_the_smallest_type_of_the_family_that_fits(self) -> None:
        assert resized("t3.small", SIZES, cpu=2, memory=3000) == "t3.medium"
        assert resized("m5.large", SIZES, cpu=5, memory=0) == "m5.2xlarge"
        with pytest.raises(BadParameter, match="no instance type of the family t3 has CPU=100"):
            resized("t3.small", SIZES, cpu=100, memory=1)
        with pytest.raises(BadParameter, match="sizes of the instance family z9 are not known"):
            resized("z9.small", SIZES, cpu=1, memory=1)

    async def test_import_hints_of_a_listed_instance_have_its_size_image_and_type(
        self, ec2: FaultyEc2, connect: Open
    ) -> None:
        provider = await connect()
        fill(ec2, 1)
        (instance,) = await provider.list_instances()
        assert isinstance(provider, ImportSource)
        hints = provider.import_hints(instance)
        assert (hints.size, dict(hints.public_cloud)) == (
            SIZES["t3.small"],
            {"AMI": "ami-1", "INSTANCETYPE": "t3.small"},
        )


class TestFurther:
    async def test_a_hard_stop_after_a_soft_one_stops_the_instance_at_once(self, ec2: FaultyEc2, connect: Open) -> None:
        ec2.account.stop = 60.0
        provider = await connect()
        deploy_id = await launched(provider)
        await provider.stop(deploy_id, hard=False)
        assert not ec2.account.instances[deploy_id].forced
        await provider.stop(deploy_id, hard=True)
        await reach(provider, deploy_id, InstanceState.STOPPED)

    async def test_a_configured_account_is_returned_without_a_call_to_sts(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect(account="private")
        assert await provider.account() == "private/eu-west-1"
        assert not ec2.account.calls

    async def test_forty_simultaneous_creates_share_four_connections(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect(max_connections=4)
        ids = await asyncio.gather(*(provider.create(a_call(provider, a_vm(number))) for number in range(40)))
        assert len(set(ids)) == 40
        assert len(ec2.connections) <= 4
