"""Requests to Amazon have the form and the signature of botocore's, and error codes become our error classes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qsl

import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.credentials import Credentials
from botocore.session import Session
from yarl import URL

from one_provider_mad.domain import DeployId, Template, VmId, VmRequest
from one_provider_mad.errors import ProviderError
from one_provider_mad.providers.ec2.pace import Pace
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.ec2.refusals import CODES
from tests.providers.ec2.conftest import OWNER, make
from tests.providers.ec2.faulty_endpoint import KEY, REGION, SECRET
from tests.providers.ec2.vms import a_call, a_vm

AMAZON = f"https://ec2.{REGION}.amazonaws.com/"
MADE = (
    "<RunInstancesResponse><instancesSet><item><instanceId>i-1</instanceId><instanceState><name>pending</name>"
    "</instanceState></item></instancesSet></RunInstancesResponse>"
)
IMAGE = "<DescribeImagesResponse><item><rootDeviceName>/dev/xvda</rootDeviceName></item></DescribeImagesResponse>"


class Answer(ClientResponse):
    """aioresponses 0.7.9 does not pass an argument that aiohttp's responses require from 3.14 on."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, stream_writer=Mock(output_size=0), **named)


class Wire:
    """The requests that a provider sends, and the answers that it gets.

    Args:
        mocked: replaces connections.
    """

    def __init__(self, mocked: aioresponses) -> None:
        self._mocked = mocked

    def answer(self, body: str, *, status: int = 200, url: str = AMAZON) -> None:
        self._mocked.post(url, body=body, status=status, response_class=Answer)

    @property
    def last(self) -> AWSRequest:
        """The last request, as botocore's value."""
        (method, url), calls = list(self._mocked.requests.items())[-1]
        return AWSRequest(method, str(url), headers=calls[-1].kwargs["headers"], data=calls[-1].kwargs["data"])


@pytest.fixture
def wire() -> Iterator[Wire]:
    with aioresponses() as mocked:
        yield Wire(mocked)


@pytest.fixture
async def amazon() -> AsyncIterator[Ec2Provider]:
    provider = make("", max_spot_price="0.05")
    await provider.open()
    yield provider
    await provider.close()


SESSION = Session()


def botocores_form(operation: str, **arguments: Any) -> dict[str, str]:
    """The form that botocore's own client sends for the same call."""
    client: Any = SESSION.create_client("ec2", REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET)
    sent: list[str] = []

    def stop_here(request: Any, **_: Any) -> AWSResponse:
        sent.append(request.body)
        return AWSResponse(request.url, 200, {}, Mock(stream=lambda: iter([f"<{operation}Response/>".encode()])))

    client.meta.events.register("before-send.ec2", stop_here)
    client._make_api_call(operation, arguments)
    return dict(parse_qsl(sent[0], keep_blank_values=True))


def form_of(request: AWSRequest) -> dict[str, str]:
    return dict(parse_qsl(request.data.decode(), keep_blank_values=True))


def tags(**further: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in {**further, **a_vm().identity(owner=OWNER).tags()}.items()]


ALWAYS: dict[str, Any] = {
    "ImageId": "ami-0abc",
    "InstanceType": "t3.small",
    "MinCount": 1,
    "MaxCount": 1,
    "ClientToken": "token-7",
    "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
}

UPSTREAMS = {
    "KEYPAIR": "one",
    "SECURITYGROUPIDS": "sg-1,sg-2",
    "SUBNETID": "subnet-1",
    "PRIVATEIP": "10.0.0.9",
    "EBS_OPTIMIZED": "YES",
    "TENANCY": "dedicated",
    "PLACEMENTGROUP": "near",
    "BLOCKDEVICEMAPPING": "/dev/sdf=snap-1:20:false:io2:300 /dev/sdg=none",
    "TAGS": "team=ops & dev,note=ü=1",
    "USERDATA": "aGVsbG8=",
}
UPSTREAMS_CALL: dict[str, Any] = {
    "KeyName": "one",
    "SecurityGroupIds": ["sg-1", "sg-2"],
    "SubnetId": "subnet-1",
    "PrivateIpAddress": "10.0.0.9",
    "EbsOptimized": True,
    "Placement": {"Tenancy": "dedicated", "GroupName": "near"},
    "BlockDeviceMappings": [
        {
            "DeviceName": "/dev/sdf",
            "Ebs": {
                "SnapshotId": "snap-1",
                "VolumeSize": 20,
                "DeleteOnTermination": False,
                "VolumeType": "io2",
                "Iops": 300,
            },
        },
        {"DeviceName": "/dev/sdg", "NoDevice": ""},
    ],
    "UserData": "hello",
}
SPOT = {"SPOT": "YES", "SPOTPRICE": "0.05", "AVAILABILITYZONE": "eu-west-1b", "VOLUMESIZE": "30", "VOLUMETYPE": "gp3"}
SPOT_CALL: dict[str, Any] = {
    "Placement": {"AvailabilityZone": "eu-west-1b"},
    "InstanceMarketOptions": {
        "MarketType": "spot",
        "SpotOptions": {
            "MaxPrice": "0.05",
            "SpotInstanceType": "one-time",
            "InstanceInterruptionBehavior": "terminate",
        },
    },
    "BlockDeviceMappings": [
        {"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": True, "VolumeSize": 30, "VolumeType": "gp3"}}
    ],
}


@pytest.mark.parametrize(
    ("section", "call", "named", "kinds"),
    [
        pytest.param({}, {}, {}, ("instance", "volume"), id="minimal"),
        pytest.param(
            UPSTREAMS, UPSTREAMS_CALL, {"team": "ops & dev", "note": "ü=1"}, ("instance", "volume"), id="upstreams"
        ),
        pytest.param(SPOT, SPOT_CALL, {}, ("instance", "volume", "spot-instances-request"), id="spot"),
    ],
)
async def test_a_create_is_sent_with_the_same_form_as_botocore_sends(
    wire: Wire,
    amazon: Ec2Provider,
    section: dict[str, Any],
    call: dict[str, Any],
    named: dict[str, str],
    kinds: tuple[str, ...],
) -> None:
    if "VOLUMESIZE" in section:
        wire.answer(IMAGE)
    wire.answer(MADE)
    assert await amazon.create(a_call(amazon, a_vm(**section))) == "i-1"
    tagged = [{"ResourceType": kind, "Tags": tags(Name="vm-7", **named)} for kind in kinds]
    wanted = botocores_form("RunInstances", **ALWAYS, **call, TagSpecifications=tagged)
    assert form_of(wire.last) == wanted


async def test_an_ec2_section_of_4_x_gives_the_same_call_as_a_public_cloud_section(
    wire: Wire, amazon: Ec2Provider
) -> None:
    section = {"AMI": "ami-0abc", "INSTANCETYPE": "t3.small"}
    template = Template(values={"EC2": (section,)})
    old = VmRequest(vm_id=VmId(7), name="vm-7", stime=5, seq=0, host_id=3, template=template)
    sent = []
    for request in (old, a_vm()):
        wire.answer(MADE)
        await amazon.create(a_call(amazon, request))
        sent.append(form_of(wire.last))
    assert sent[0] == sent[1]


async def test_a_sent_request_has_botocores_signature(wire: Wire, amazon: Ec2Provider) -> None:
    wire.answer("<StopInstancesResponse/>")
    await amazon.stop(DeployId("i-1"), hard=True)
    sent = wire.last
    assert form_of(sent) == botocores_form("StopInstances", InstanceIds=["i-1"], Force=True)
    assert URL(sent.url).host == f"ec2.{REGION}.amazonaws.com"
    signer = SigV4Auth(Credentials(KEY, SECRET), "ec2", REGION)
    # Only headers that were set before signing are signed.
    same = AWSRequest("POST", sent.url, data=sent.data, headers={"Content-Type": sent.headers["Content-Type"]})
    same.context["timestamp"] = same.headers["X-Amz-Date"] = sent.headers["X-Amz-Date"]
    signature = signer.signature(signer.string_to_sign(same, signer.canonical_request(same)), same)
    assert sent.headers["Authorization"].endswith(f"Signature={signature}")


async def test_every_error_code_in_an_answer_raises_its_error_class(wire: Wire) -> None:
    provider = make("https://cloud.example/")
    await provider.open()
    found = {}
    for code in CODES:
        error = f"<Code>{code}</Code><Message>No &amp; no.</Message>"
        wire.answer(
            f"<Response><Errors><Error>{error}</Error></Errors></Response>", status=400, url="https://cloud.example/"
        )
        with pytest.raises(ProviderError) as caught:
            await provider.list_instances()
        found[code] = type(caught.value)
        assert f"No & no. (DescribeInstances, {code})" in str(caught.value)
        provider._client._pace = Pace()  # so that no call is delayed
    assert found == CODES
    await provider.close()
