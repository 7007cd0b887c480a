"""The cloud of these tests is one for others too: an unmodified botocore client drives a whole life on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.session import Session

from tests.providers.conformance import until
from tests.providers.ec2.face import KEY, REGION, SECRET, Face


class Botocore:
    """botocore's client, its calls in threads."""

    def __init__(self, url: str) -> None:
        self._client: Any = Session().create_client(
            "ec2", region_name=REGION, endpoint_url=url, aws_access_key_id=KEY, aws_secret_access_key=SECRET
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(**arguments: Any) -> Any:
            return await asyncio.to_thread(getattr(self._client, name), **arguments)

        return call

    async def state(self, instance_id: str) -> str:
        filters = [{"Name": "instance-id", "Values": [instance_id]}]
        answer = await self.describe_instances(Filters=filters)
        return str(answer["Reservations"][0]["Instances"][0]["State"]["Name"])


@pytest.fixture
async def botocore(face: Face) -> Botocore:
    return await asyncio.to_thread(Botocore, face.url)


async def test_botocore_lives_a_whole_life(face: Face, botocore: Botocore) -> None:
    face.account.lag = 0.1
    run = {
        "ImageId": "ami-1",
        "InstanceType": "t3.small",
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": "once",
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web & <1>"}]}],
    }
    made = (await botocore.run_instances(**run))["Instances"][0]
    number = made["InstanceId"]
    assert made["State"]["Name"] == "pending"
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        await botocore.describe_instances(InstanceIds=[number])

    async def runs() -> bool:
        seen = await botocore.describe_instances()
        return bool(seen["Reservations"]) and await botocore.state(number) == "running"

    await until(runs, "running")
    assert (await botocore.run_instances(**run))["Instances"][0]["InstanceId"] == number
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        await botocore.run_instances(**{**run, "InstanceType": "t3.large"})

    instance = (await botocore.describe_instances(InstanceIds=[number]))["Reservations"][0]["Instances"][0]
    assert instance["Tags"] == [{"Key": "Name", "Value": "web & <1>"}]
    assert instance["Placement"]["AvailabilityZone"] == "eu-west-1a"
    assert [group["GroupId"] for group in instance["SecurityGroups"]] == ["sg-1", "sg-2"]

    volume = await botocore.create_volume(AvailabilityZone="eu-west-1a", Size=1)

    async def available() -> bool:
        shown = await botocore.describe_volumes(Filters=[{"Name": "volume-id", "Values": [volume["VolumeId"]]}])
        return bool(shown["Volumes"][0]["State"] == "available")

    await until(available, "available")
    await botocore.attach_volume(VolumeId=volume["VolumeId"], InstanceId=number, Device="/dev/sdf")
    await botocore.stop_instances(InstanceIds=[number])
    await until(lambda: _is(botocore, number, "stopped"), "stopped")
    await botocore.start_instances(InstanceIds=[number])
    await until(lambda: _is(botocore, number, "running"), "running again")
    await botocore.reboot_instances(InstanceIds=[number])
    changes = (await botocore.terminate_instances(InstanceIds=[number]))["TerminatingInstances"]
    assert changes[0]["PreviousState"]["Name"] == "running"
    await until(lambda: _is(botocore, number, "terminated"), "terminated")
    with pytest.raises(ClientError, match="IdempotentInstanceTerminated"):
        await botocore.run_instances(**run)


async def _is(botocore: Botocore, number: str, state: str) -> bool:
    return await botocore.state(number) == state


async def test_botocore_reads_pages_and_shortages(face: Face, botocore: Botocore) -> None:
    for _ in range(7):
        face.account.act("RunInstances", {"ImageId": "ami-1", "InstanceType": "t3.small"})
    first = await botocore.describe_instances(MaxResults=5)
    second = await botocore.describe_instances(MaxResults=5, NextToken=first["NextToken"])
    assert (len(first["Reservations"]), len(second["Reservations"])) == (5, 2)
    assert "NextToken" not in second
    face.account.short = {("t3.nano", "")}
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        await botocore.run_instances(ImageId="ami-1", InstanceType="t3.nano", MinCount=1, MaxCount=1)
