"""The embedded EC2 endpoint serves other clients too: an unmodified botocore client uses each of its actions."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.lab.ec2.offers import EC2_TYPES
from one_provider_mad.lab.ec2.refusals import Refusal
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.price_list import read_page
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.simulated.cloud import Launch
from one_provider_mad.providers.simulated.provider import SimulatedProvider
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from one_provider_mad.safe_xml import text_of
from one_provider_mad.testing.conformance import until
from tests.providers.ec2.account import NUMBER, Instance
from tests.providers.ec2.conftest import make
from tests.providers.ec2.faulty_endpoint import KEY, REGION, SECRET, FaultyEc2

RUN = {"ImageId": "ami-1", "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1}
TAG = {"Key": "Name", "Value": "web & <1>"}
ZONE = f"{REGION}a"


class Botocore:
    """botocore's client of a service, with its calls in threads and without retries."""

    session = Session()

    def __init__(
        self, url: str, service: str = "ec2", *, secret: str = SECRET, region: str = REGION, **config: Any
    ) -> None:
        self._client: Any = self.session.create_client(
            service,
            region_name=region,
            endpoint_url=url,
            aws_access_key_id=KEY,
            aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}, **config),
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(**arguments: Any) -> Any:
            return await asyncio.to_thread(getattr(self._client, name), **arguments)

        return call

    async def pages(self, operation: str, **arguments: Any) -> list[Any]:
        """Every page that botocore's own paginator returns."""
        paginator = self._client.get_paginator(operation)
        return await asyncio.to_thread(lambda: list(paginator.paginate(**arguments)))

    async def run(self, **arguments: Any) -> str:
        made = await self.run_instances(**{**RUN, **arguments})
        return str(made["Instances"][0]["InstanceId"])

    async def instance(self, instance_id: str) -> Any:
        answer = await self.describe_instances(Filters=[{"Name": "instance-id", "Values": [instance_id]}])
        return answer["Reservations"][0]["Instances"][0]

    async def reaches(self, instance_id: str, state: str) -> None:
        async def is_there() -> bool:
            return bool((await self.instance(instance_id))["State"]["Name"] == state)

        await until(is_there, state)


@pytest.fixture
async def botocore(ec2: FaultyEc2) -> Botocore:
    return await asyncio.to_thread(Botocore, ec2.url)


def named(*values: str, by: str) -> list[dict[str, Any]]:
    return [{"Name": by, "Values": list(values)}]


async def test_botocore_launches_stops_resizes_starts_and_terminates_an_instance(
    ec2: FaultyEc2, botocore: Botocore
) -> None:
    ec2.account.lag = 3600
    hidden = await botocore.run()
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        await botocore.describe_instances(InstanceIds=[hidden])
    assert not (await botocore.describe_instances())["Reservations"]
    ec2.account.lag, ec2.account.boot = 0, 1.0
    once = {"ClientToken": "once", "TagSpecifications": [{"ResourceType": "instance", "Tags": [TAG]}]}
    begun = datetime.now(UTC)
    made = (await botocore.run_instances(**RUN, **once))["Instances"][0]
    number = made["InstanceId"]
    assert (made["State"]["Name"], made["Tags"]) == ("pending", [TAG])
    ec2.account.boot = 0.02
    await botocore.reaches(number, "running")
    assert await botocore.run(**once) == number
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        await botocore.run(**once, KeyName="another")

    instance = await botocore.instance(number)
    assert instance["Placement"]["AvailabilityZone"] == ZONE
    assert instance["PublicIpAddress"] in instance["PublicDnsName"].replace("-", ".")
    assert begun - timedelta(seconds=1) <= instance["LaunchTime"] <= datetime.now(UTC), "EC2 cuts off parts of a second"
    assert [each["DeviceName"] for each in instance["BlockDeviceMappings"]] == ["/dev/xvda"]
    found = await botocore.describe_instances(
        Filters=[*named("web*", by="tag:Name"), *named("running", by="instance-state-name")]
    )
    assert len(found["Reservations"]) == 1
    assert not (await botocore.describe_instances(Filters=named("web", by="tag:Name")))["Reservations"]

    await botocore.stop_instances(InstanceIds=[number])
    await botocore.reaches(number, "stopped")
    await botocore.modify_instance_attribute(InstanceId=number, InstanceType={"Value": "t3.large"})
    started = await botocore.start_instances(InstanceIds=[number])
    assert started["StartingInstances"][0]["PreviousState"] == {"Code": 80, "Name": "stopped"}
    await botocore.reaches(number, "running")
    assert (await botocore.instance(number))["InstanceType"] == "t3.large"
    with pytest.raises(ClientError, match="IncorrectInstanceState"):
        await botocore.modify_instance_attribute(InstanceId=number, InstanceType={"Value": "t3.nano"})
    await botocore.reboot_instances(InstanceIds=[number])

    changed = (await botocore.terminate_instances(InstanceIds=[number]))["TerminatingInstances"]
    assert changed[0]["PreviousState"]["Name"] == "running"
    await botocore.reaches(number, "terminated")
    assert "PublicIpAddress" not in await botocore.instance(number)
    with pytest.raises(ClientError, match="IdempotentInstanceTerminated"):
        await botocore.run(**once)


async def test_botocore_creates_attaches_and_removes_volumes_addresses_and_tags(
    ec2: FaultyEc2, botocore: Botocore
) -> None:
    number, other = await botocore.run(), await botocore.run()
    await botocore.reaches(number, "running")
    volume = (await botocore.create_volume(AvailabilityZone=ZONE, Size=1, ClientToken="v"))["VolumeId"]

    async def is_available() -> bool:
        shown = await botocore.describe_volumes(VolumeIds=[volume])
        return bool(shown["Volumes"][0]["State"] == "available")

    await until(is_available, "the volume")
    assert (await botocore.create_volume(AvailabilityZone=ZONE, Size=1, ClientToken="v"))["VolumeId"] == volume
    await botocore.attach_volume(VolumeId=volume, InstanceId=number, Device="/dev/sdf")
    with pytest.raises(ClientError, match="VolumeInUse"):
        await botocore.delete_volume(VolumeId=volume)
    await botocore.modify_volume(VolumeId=volume, Size=3)
    attached = await botocore.describe_volumes(Filters=named(number, by="attachment.instance-id"))
    assert {each["Size"] for each in attached["Volumes"]} == {8, 3}
    await botocore.detach_volume(VolumeId=volume)
    await botocore.delete_volume(VolumeId=volume)
    with pytest.raises(ClientError, match=r"InvalidVolume\.NotFound"):
        await botocore.describe_volumes(VolumeIds=[volume])

    address = await botocore.allocate_address(Domain="vpc")
    given = await botocore.associate_address(AllocationId=address["AllocationId"], InstanceId=number)
    assert (await botocore.instance(number))["PublicIpAddress"] == address["PublicIp"]
    await botocore.reaches(other, "running")
    with pytest.raises(ClientError, match=r"Resource\.AlreadyAssociated"):
        await botocore.associate_address(PublicIp=address["PublicIp"], InstanceId=other, AllowReassociation=False)
    with pytest.raises(ClientError, match=r"InvalidIPAddress\.InUse"):
        await botocore.release_address(AllocationId=address["AllocationId"])
    await botocore.disassociate_address(AssociationId=given["AssociationId"])
    await botocore.release_address(AllocationId=address["AllocationId"])
    assert address["PublicIp"] not in str((await botocore.describe_addresses())["Addresses"])

    await botocore.create_tags(Resources=[number, other], Tags=[TAG, {"Key": "role", "Value": "web"}])
    await botocore.delete_tags(Resources=[number], Tags=[{"Key": "role"}])
    tags = (await botocore.describe_tags(Filters=named(number, by="resource-id")))["Tags"]
    assert [(each["ResourceType"], each["Key"]) for each in tags] == [("instance", "Name")]
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        await botocore.create_tags(Resources=[number, "i-0123"], Tags=[{"Key": "lost", "Value": ""}])
    assert (await botocore.instance(number))["Tags"] == [TAG]  # all or nothing


async def test_types_images_zones_and_regions_are_described(botocore: Botocore) -> None:
    types = (await botocore.describe_instance_types(InstanceTypes=["t3.small"]))["InstanceTypes"]
    assert (types[0]["VCpuInfo"]["DefaultVCpus"], types[0]["MemoryInfo"]["SizeInMiB"]) == (2, 2048)
    assert (await botocore.describe_images(ImageIds=["ami-1"]))["Images"][0]["RootDeviceName"] == "/dev/xvda"
    zones = (await botocore.describe_availability_zones())["AvailabilityZones"]
    assert [zone["ZoneName"] for zone in zones] == [f"{REGION}{letter}" for letter in "abc"]
    assert [region["RegionName"] for region in (await botocore.describe_regions())["Regions"]] == [REGION]


async def test_scheduled_events_and_spot_interruptions_are_described(ec2: FaultyEc2, botocore: Botocore) -> None:
    number, spot = await botocore.run(), await botocore.run(InstanceMarketOptions={"MarketType": "spot"})
    await botocore.reaches(number, "running")
    ec2.account.plan_event(number, "instance-retirement", "degraded hardware", time.time() + 3600)
    status = (await botocore.describe_instance_status(Filters=named("instance-*", by="event.code")))["InstanceStatuses"]
    assert [(each["InstanceId"], each["Events"][0]["Code"]) for each in status] == [(number, "instance-retirement")]
    ec2.account.plan_event(spot, "marked-for-termination", "two minutes left", time.time())
    requests = (await botocore.describe_spot_instance_requests())["SpotInstanceRequests"]
    assert [(each["InstanceId"], each["Status"]["Code"]) for each in requests] == [(spot, "marked-for-termination")]
    with pytest.raises(ClientError, match="UnsupportedOperation"):
        await botocore.stop_instances(InstanceIds=[spot])


async def test_an_interrupted_spot_instance_is_marked_and_ends_with_the_reason(
    ec2: FaultyEc2, botocore: Botocore
) -> None:
    spot = await botocore.run(InstanceMarketOptions={"MarketType": "spot"})
    await botocore.reaches(spot, "running")

    async def code() -> str:
        (request,) = (await botocore.describe_spot_instance_requests())["SpotInstanceRequests"]
        return str(request["Status"]["Code"])

    ec2.account.interrupt(spot, notice=0.5)
    assert await code() == "marked-for-termination"
    await botocore.reaches(spot, "terminated")
    assert await code() == "instance-terminated-no-capacity"
    (reservation,) = (await botocore.describe_instances(InstanceIds=[spot]))["Reservations"]
    assert reservation["Instances"][0]["StateReason"]["Code"] == "Server.SpotInstanceTermination"


async def test_only_an_instance_launched_with_hibernation_can_be_hibernated(botocore: Botocore) -> None:
    plain, ready = await botocore.run(), await botocore.run(HibernationOptions={"Configured": True})
    await botocore.reaches(ready, "running")
    with pytest.raises(ClientError, match="UnsupportedHibernationConfiguration"):
        await botocore.stop_instances(InstanceIds=[plain, ready], Hibernate=True)
    await botocore.stop_instances(InstanceIds=[ready], Hibernate=True)
    await botocore.reaches(ready, "stopped")


async def test_botocore_and_the_driver_read_the_same_cloudwatch_figures(ec2: FaultyEc2, botocore: Botocore) -> None:
    """botocore calls CloudWatch in JSON, the driver by the Query API."""
    hour = 3600.0
    ec2.account.instances["i-1"] = Instance(
        id="i-1",
        token="",
        asked={"ImageId": "ami-1"},
        tags={},
        kind="t3.small",
        zone=ZONE,
        launched_at=time.time() - hour,
        state="running",
        ready_at=time.time() - hour,
    )
    watch = await asyncio.to_thread(Botocore, ec2.url, "cloudwatch")
    now = datetime.now(UTC)

    def query(name: str, instance_id: str) -> dict[str, Any]:
        metric = {
            "Namespace": "AWS/EC2",
            "MetricName": name,
            "Dimensions": [{"Name": "InstanceId", "Value": instance_id}],
        }
        return {"Id": name.lower(), "MetricStat": {"Metric": metric, "Period": 300, "Stat": "Average"}}

    queries = [query("CPUUtilization", "i-1"), query("NetworkIn", "i-1"), query("Nonsense", "i-2")]
    asked = {"StartTime": now - timedelta(minutes=20), "EndTime": now, "MetricDataQueries": queries}
    cpu, network, nothing = (await watch.get_metric_data(**asked))["MetricDataResults"]
    assert len(cpu["Values"]) == len(cpu["Timestamps"]) == len(network["Values"]) >= 3
    assert all(0 <= value <= 100 for value in cpu["Values"])
    assert all(value > 0 for value in network["Values"])
    assert cpu["Timestamps"] == sorted(cpu["Timestamps"], reverse=True)
    assert nothing["Values"] == []
    with pytest.raises(ClientError, match="StartTime must be less"):
        await watch.get_metric_data(**{**asked, "StartTime": now, "EndTime": now})
    intruder = await asyncio.to_thread(Botocore, ec2.url, "cloudwatch", secret="wrong")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        await intruder.get_metric_data(**asked)

    metric = "MetricDataQueries.member.1.MetricStat"
    form = {
        "StartTime": (now - timedelta(minutes=20)).isoformat(),
        "EndTime": now.isoformat(),
        "ScanBy": "TimestampAscending",
        "MetricDataQueries.member.1.Id": "cpu",
        f"{metric}.Period": "300",
        f"{metric}.Stat": "Average",
        f"{metric}.Metric.MetricName": "CPUUtilization",
        f"{metric}.Metric.Dimensions.member.1.Name": "InstanceId",
        f"{metric}.Metric.Dimensions.member.1.Value": "i-1",
    }
    client = Client(make(ec2.url)._settings)
    await client.open()
    shown = await client.call("GetMetricData", form, read=lambda root: root)
    await client.close()
    points = {
        name: [text_of(each) for each in shown.iterfind(f"GetMetricDataResult/MetricDataResults/member/{name}/member")]
        for name in ("Timestamps", "Values")
    }
    assert [float(value) for value in points["Values"]] == cpu["Values"][::-1]
    assert [datetime.fromisoformat(at) for at in points["Timestamps"]] == cpu["Timestamps"][::-1]


async def test_a_signed_caller_is_identified_and_a_bad_signature_is_refused(ec2: FaultyEc2, botocore: Botocore) -> None:
    sts = await asyncio.to_thread(Botocore, ec2.url, "sts")
    assert (await sts.get_caller_identity())["Account"] == NUMBER
    for service, method in (("ec2", "describe_instances"), ("sts", "get_caller_identity")):
        intruder = await asyncio.to_thread(Botocore, ec2.url, service, secret="wrong")
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            await getattr(intruder, method)()
    with pytest.raises(ClientError, match="DryRunOperation"):
        await botocore.run(DryRun=True)
    elsewhere = await asyncio.to_thread(Botocore, ec2.url, region="us-east-1")
    with pytest.raises(ClientError, match=f"SignatureDoesNotMatch.*scoped to {REGION}"):
        await elsewhere.describe_instances()
    unsigned = await asyncio.to_thread(Botocore, ec2.url, signature_version=UNSIGNED)
    with pytest.raises(ClientError, match="MissingAuthenticationToken"):
        await unsigned.describe_instances()
    ec2.account._account.resources.clock = lambda: time.time() + 1000
    with pytest.raises(ClientError, match="RequestExpired"):
        await botocore.describe_instances()


async def test_the_endpoint_and_the_simulated_provider_share_one_cloud(
    ec2: FaultyEc2, botocore: Botocore, tmp_path: Path
) -> None:
    context = ProviderContext(name="x", hypervisor="x", owner="x", state_directory=tmp_path, warn=pytest.fail)
    provider = SimulatedProvider(context, SimulatedSettings(database=str(ec2.path), boot_time=0, stop_time=0))
    await provider.open()
    theirs = await provider.cloud.launch(Launch(type="small_256mb", image="default"), tags={"a": "b"})
    ours = await botocore.run()
    assert {each.deploy_id for each in await provider.list_instances()} == {theirs, ours}
    assert (await botocore.instance(theirs))["Tags"] == [{"Key": "a", "Value": "b"}]
    await botocore.stop_instances(InstanceIds=[theirs], Force=True)
    assert (await provider.describe([theirs]))[theirs].state is InstanceState.STOPPED
    await provider.destroy(DeployId(ours))
    await botocore.reaches(ours, "terminated")
    await provider.close()


def test_a_call_without_parameters_is_refused_or_answered_for_every_action(ec2: FaultyEc2) -> None:
    for action in ec2.account._account._actions:
        try:
            answer = ec2.account.act(action, {})
        except Refusal as refusal:
            assert refusal.status < 500  # noqa: PT017 - some of them are answered
        else:
            assert isinstance(answer, dict)
    with pytest.raises(Refusal, match="InvalidAction"):
        ec2.account.act("Nonsense", {})


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"ImageId": "image"}, r"InvalidAMIID\.Malformed"),
        ({"InstanceType": "t3.huge"}, "InvalidParameterValue"),
        ({"MinCount": 2}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
    ],
    ids=str,
)
async def test_an_invalid_launch_is_refused_with_ec2s_code(
    botocore: Botocore, asked: dict[str, Any], code: str
) -> None:
    with pytest.raises(ClientError, match=code):
        await botocore.run(**asked)
    assert not (await botocore.describe_instances())["Reservations"]


async def test_a_listing_of_1200_instances_comes_in_pages_without_gaps(ec2: FaultyEc2, botocore: Botocore) -> None:
    ec2.account.instances.fill(
        Instance(
            id=f"i-{number:017x}",
            token="",
            asked={"ImageId": "ami-1"},
            tags={"Name": f"vm-{number}", "ONE_PROVIDER_OWNER": "one"},
            kind="t3.small",
            zone=ZONE,
            launched_at=0.0,
            state="running",
            ready_at=0.0,
        )
        for number in range(1200)
    )
    pages = await botocore.pages("describe_instances", PaginationConfig={"PageSize": 500})
    assert [len(page["Reservations"]) for page in pages] == [500, 500, 200]
    ids = [each["InstanceId"] for page in pages for one in page["Reservations"] for each in one["Instances"]]
    assert ids == list(ec2.account.instances)
    with pytest.raises(ClientError, match="InvalidParameterCombination"):
        await botocore.describe_instances(MaxResults=5, InstanceIds=ids[:1])


async def test_botocore_lists_public_images_networks_and_consoles(ec2: FaultyEc2, botocore: Botocore) -> None:
    images = await botocore.pages("describe_images", Owners=["136693071363"], PaginationConfig={"PageSize": 5})
    assert {each["OwnerId"] for page in images for each in page["Images"]} == {"136693071363"}
    (debian,) = (
        await botocore.describe_images(Filters=named("debian-13-arm64-*", by="name"), Owners=["136693071363"])
    )["Images"]
    assert (debian["Architecture"], debian["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]) == ("arm64", 8)

    (subnet,) = (await botocore.describe_subnets())["Subnets"]
    assert (subnet["CidrBlock"], subnet["MapPublicIpOnLaunch"], subnet["VpcId"]) == ("10.0.0.0/20", True, "vpc-default")
    assert [each["IsDefault"] for each in (await botocore.describe_vpcs())["Vpcs"]] == [True]
    account = ec2.account._account
    account.topology.groups[:] = [account.topology.group("sg-1", "web", [(22, "192.0.2.0/24")])]
    (group,) = (await botocore.describe_security_groups(GroupIds=["sg-1"]))["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"], rule["IpRanges"]) == (22, 22, [{"CidrIp": "192.0.2.0/24"}])
    with pytest.raises(ClientError, match=r"InvalidGroupID\.NotFound"):
        await botocore.describe_security_groups(GroupIds=["sg-2"])
    (table,) = (await botocore.describe_route_tables(Filters=named("true", by="association.main")))["RouteTables"]
    assert [each["GatewayId"] for each in table["Routes"]] == ["local", "igw-default"]
    (acl,) = (await botocore.describe_network_acls(Filters=named("subnet-default", by="association.subnet-id")))[
        "NetworkAcls"
    ]
    assert [each["RuleNumber"] for each in acl["Entries"] if each["Egress"]] == [100, 32767]

    number = await botocore.run()
    await botocore.reaches(number, "running")
    assert (await botocore.get_console_output(InstanceId=number, Latest=True))["Output"].endswith("login: ")
    assert base64.b64decode((await botocore.get_console_screenshot(InstanceId=number))["ImageData"])[:2] == b"\xff\xd8"
    assert (await botocore.get_password_data(InstanceId=number))["PasswordData"] == ""


async def test_prices_are_listed_as_botocore_expects_them(ec2: FaultyEc2, botocore: Botocore) -> None:
    pricing = await asyncio.to_thread(Botocore, ec2.url, "pricing", region="us-east-1")

    def filters(**wanted: str) -> list[dict[str, str]]:
        return [{"Type": "TERM_MATCH", "Field": field, "Value": text} for field, text in wanted.items()]

    asked = {
        "ServiceCode": "AmazonEC2",
        "Filters": filters(regionCode=REGION, operatingSystem="Linux"),
        "MaxResults": 3,
    }
    pages = await pricing.pages("get_products", **asked)
    assert len(pages) > 1
    products = [json.loads(each) for page in pages for each in page["PriceList"]]
    assert {each["product"]["attributes"]["instanceType"] for each in products} == set(EC2_TYPES)
    found = [price for page in pages for price in read_page(json.dumps(page).encode()).prices]
    assert {each.name: each.amount for each in found}["m5.large"] == 0.096
    vpc = await pricing.get_products(ServiceCode="AmazonVPC", Filters=filters(group="VPCPublicIPv4Address"))
    assert len(vpc["PriceList"]) == 2
    with pytest.raises(ClientError, match="InvalidNextTokenException"):
        await pricing.get_products(ServiceCode="AmazonEC2", NextToken="x")
    elsewhere = await asyncio.to_thread(Botocore, ec2.url, "pricing", region=REGION)
    with pytest.raises(ClientError, match="scoped to us-east-1"):
        await elsewhere.get_products(ServiceCode="AmazonEC2")


async def test_types_spot_prices_and_platforms_are_told_as_botocore_expects_them(botocore: Botocore) -> None:
    (page,) = await botocore.pages("describe_instance_types", InstanceTypes=["t3.small"])
    (kind,) = page["InstanceTypes"]
    assert (kind["VCpuInfo"]["DefaultVCpus"], kind["MemoryInfo"]["SizeInMiB"]) == (2, 2048)
    assert (kind["ProcessorInfo"]["SupportedArchitectures"], kind["CurrentGeneration"]) == (["x86_64"], True)
    asked = {"StartTime": datetime.now(UTC), "ProductDescriptions": ["Linux/UNIX"], "InstanceTypes": ["m5.large"]}
    spot = (await botocore.describe_spot_price_history(**asked))["SpotPriceHistory"]
    assert {each["AvailabilityZone"]: each["SpotPrice"] for each in spot} == {
        f"{REGION}a": "0.033600",
        f"{REGION}b": "0.038400",
        f"{REGION}c": "0.028800",
    }
    pages = await botocore.pages("describe_spot_price_history", MaxResults=10, StartTime=datetime.now(UTC))
    assert sum(len(each["SpotPriceHistory"]) for each in pages) == 2 * 3 * 8
    root = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "gp3", "Iops": 4000, "Throughput": 250}}
    instance_id = await botocore.run(BlockDeviceMappings=[root])
    assert (await botocore.instance(instance_id))["PlatformDetails"] == "Linux/UNIX"
    (volume,) = (await botocore.describe_volumes())["Volumes"]
    assert (volume["VolumeType"], volume["Iops"], volume["Throughput"]) == ("gp3", 4000, 250)
    await botocore.reaches(instance_id, "running")
    await botocore.stop_instances(InstanceIds=[instance_id])
    assert re.fullmatch(
        r"User initiated \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d GMT\)",
        (await botocore.instance(instance_id))["StateTransitionReason"],
    )
