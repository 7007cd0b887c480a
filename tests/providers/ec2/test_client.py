"""The client of the Query API over real connections: answers that are whole, broken, late or missing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import msgspec
import pytest
from structlog.testing import capture_logs

from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    NoCapacity,
    NotReached,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    Throttled,
)
from one_provider_mad.providers.ec2.client import Client, endpoint
from one_provider_mad.providers.ec2.pace import FIRST_PAUSE, Pace
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.safe_xml import Element, text_of
from one_provider_mad.testing.conformance import CloudUnderTest, a_call, until
from tests.end_to_end.oned import ROOT
from tests.providers.ec2.conftest import Open, make
from tests.providers.ec2.faulty_endpoint import KEY, REGION, SECRET, FaultyEc2
from tests.providers.ec2.test_conformance import Ec2Console
from tests.providers.ec2.vms import a_vm


@pytest.mark.parametrize(
    ("service", "settings", "url"),
    [
        ("ec2", {"region": "eu-west-1"}, "https://ec2.eu-west-1.amazonaws.com/"),
        ("sts", {"region": "us-east-1"}, "https://sts.us-east-1.amazonaws.com/"),
        ("ec2", {"region": "cn-north-1"}, "https://ec2.cn-north-1.amazonaws.com.cn/"),
        ("ec2", {"region": "x", "endpoint_url": "http://127.0.0.1:5000"}, "http://127.0.0.1:5000/"),
        ("sts", {"region": "x", "endpoint_url": "http://a/ec2"}, "http://a/ec2"),
        ("sts", {"region": "x", "endpoint_url": "http://a/", "sts_endpoint_url": "http://b/"}, "http://b/"),
        ("ec2", {"region": "x", "sts_endpoint_url": "http://b/"}, "https://ec2.x.amazonaws.com/"),
    ],
    ids=str,
)
def test_the_endpoint_is_that_of_the_region_unless_a_url_is_configured(
    service: str, settings: dict[str, str], url: str
) -> None:
    assert endpoint(service, msgspec.convert(settings, Ec2Settings)) == url


def test_importing_the_ec2_provider_does_not_import_aiohttp_or_botocore() -> None:
    code = (
        "import sys; from one_provider_mad.providers.ec2.provider import factory;"
        "print([name for name in ('aiohttp', 'botocore', 'urllib3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


TAGS = "<item><key>ONE_PROVIDER_VM_ID</key><value>{}</value></item>"


def listed(tags: str, *states: str) -> str:
    """An answer that shows i-1 in each of these states."""
    items = "".join(
        f"<item><instanceId>i-1</instanceId><instanceState><name>{state}</name></instanceState><tagSet>{tags}</tagSet></item>"
        for state in states or ("running",)
    )
    reservation = f"<reservationSet><item><instancesSet>{items}</instancesSet></item></reservationSet>"
    return f"<DescribeInstancesResponse>{reservation}</DescribeInstancesResponse>"


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        pytest.param({"code": "InternalError", "status": 500}, ProviderUnavailable, "An internal error", id="5xx"),
        pytest.param({"code": "Unavailable", "status": 503}, NotReached, "An internal error", id="unavailable"),
        pytest.param(
            {"body": "<html>No server is available to handle this request.", "status": 503},
            NotReached,
            "HTTP status 503",
            id="503-of-a-proxy-without-a-server",
        ),
        pytest.param({"body": "<html>", "status": 503}, ProviderUnavailable, "HTTP status 503", id="a-bare-503"),
        pytest.param(
            {"body": "<html><p>Bad gateway", "status": 502}, ProviderUnavailable, "HTTP status 502", id="html-502"
        ),
        pytest.param({"body": "{}", "status": 403}, PermissionDenied, "HTTP status 403", id="json-403"),
        pytest.param({"body": "gone", "status": 302}, ProviderUnavailable, "HTTP status 302", id="redirect"),
        pytest.param({"body": "", "status": 200}, ProviderUnavailable, "incomplete or no XML", id="empty"),
        pytest.param({"body": "<html>", "status": 200}, ProviderUnavailable, "incomplete or no XML", id="html-200"),
        pytest.param(
            {"body": "<html><p>Pay here</p></html>", "status": 200},
            ProviderUnavailable,
            "another document: html",
            id="portal",
        ),
        pytest.param(
            {"body": "<DescribeInstancesResponse/>", "status": 200}, ProviderUnavailable, "has no list", id="no-list"
        ),
        pytest.param(
            {"body": listed(TAGS.format(7) + TAGS.format(8)), "status": 200},
            ProviderUnavailable,
            "a tag is in it twice, and differently",
            id="two-owners",
        ),
        pytest.param({"is_done": True, "cut": 100}, ProviderUnavailable, "did not answer Describe", id="cut-short"),
        pytest.param({"drop": True}, ProviderUnavailable, "did not answer DescribeInstances", id="dropped"),
        pytest.param(
            {"code": "InsufficientInstanceCapacity", "status": 500}, NoCapacity, "", id="no-capacity-is-a-500"
        ),
        pytest.param({"code": "UnauthorizedOperation", "status": 403}, PermissionDenied, "", id="not-allowed"),
        pytest.param(
            {"code": "RequestLimitExceeded", "status": 503, "headers": {"Retry-After": "1"}},
            Throttled,
            "",
            id="throttled",
        ),
    ],
)
async def test_a_failed_or_malformed_answer_becomes_our_error_class(
    ec2: FaultyEc2, connect: Open, fault: dict[str, object], kind: type[ProviderError], sentence: str
) -> None:
    provider = await connect()
    ec2.order("DescribeInstances", **fault)
    with pytest.raises(kind) as caught:
        await provider.list_instances()
    assert type(caught.value) is kind
    assert sentence in str(caught.value)
    if isinstance(caught.value, Throttled):
        assert caught.value.retry_after == 1
    assert await provider.list_instances() == []  # the next call succeeds


async def test_a_listing_with_two_states_of_one_instance_is_refused(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    ec2.order("DescribeInstances", body=listed("", "running", "stopped"), status=200)
    with pytest.raises(ProviderUnavailable, match="two different rows for instance 'i-1'"):
        await provider.describe([DeployId("i-1")])


async def test_a_retry_after_of_ec2_counts_as_thirty_seconds_at_most(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    ec2.order("DescribeInstances", body="<html>", status=429, headers={"Retry-After": "9999"})
    with pytest.raises(Throttled, match="HTTP status 429") as caught:
        await provider.list_instances()
    assert caught.value.retry_after == 30


async def test_an_endpoint_that_refuses_connections_is_not_reached(ec2: FaultyEc2) -> None:
    provider = make("http://127.0.0.1:9/")
    await provider.open()
    with pytest.raises(NotReached, match=r"^EC2 at 127\.0\.0\.1:9 cannot be reached: connection refused; see"):
        await provider.list_instances()
    await provider.close()
    with pytest.raises(ProviderUnavailable, match="the driver is shutting down"):
        await provider.list_instances()


async def test_an_encoded_authorization_message_is_logged_whole(ec2: FaultyEc2, connect: Open) -> None:
    """STS decodes only the whole message, and then names the policy that refuses."""
    provider = await connect()
    encoded = "-4gIOHlTkIaWH_" * 731  # 10,234 characters, EC2's longest are 10,240
    message = f"You are not authorized to perform this operation. Encoded authorization failure message: {encoded}"
    for action in ("RunInstances", "DescribeInstances"):
        ec2.order(action, code="UnauthorizedOperation", message=message, status=403, times=2)
    with capture_logs() as logged:
        for _ in range(2):
            with pytest.raises(PermissionDenied, match="; the driver's log has the whole encoded message, for aws sts"):
                await provider.create(a_call(provider, a_vm()))
            with pytest.raises(PermissionDenied):
                await provider.list_instances()
    found = [(each["action"], each["encoded_message"]) for each in logged if "encoded_message" in each]
    assert [action for action, _ in found] == ["RunInstances", "DescribeInstances", "RunInstances"], (
        "a listing's message is logged once"
    )
    assert {text for _, text in found} == {encoded}


async def test_an_answer_beyond_max_answer_is_refused(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(max_answer=2048)
    ec2.order("DescribeInstances", body="x" * 100_000, status=200)
    with pytest.raises(ProviderUnavailable, match="has more than 2048 bytes: raise max_answer"):
        await provider.list_instances()


async def test_an_external_entity_in_an_answer_is_not_expanded(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    bomb = f'<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]>{described("&a;")}'
    ec2.order("DescribeInstances", body=bomb, status=200)
    assert await provider.list_instances() == []


async def test_the_client_still_works_after_a_cancelled_call(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(max_connections=1)
    ec2.order("DescribeInstances", hold=asyncio.Event())
    task = asyncio.create_task(provider.list_instances())
    await until(lambda: _called(ec2, "DescribeInstances"), "the call")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await provider.list_instances() == []


async def _called(ec2: FaultyEc2, action: str) -> bool:
    await asyncio.sleep(0)
    return ec2.account.count(action) > 0


async def test_twenty_calls_in_a_row_reuse_one_connection(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    for _ in range(20):
        await provider.list_instances()
    assert len(ec2.connections) == 1


def described(items: str, rest: str = "") -> str:
    return f"<DescribeInstancesResponse><reservationSet>{items}</reservationSet>{rest}</DescribeInstancesResponse>"


def launch(ec2: FaultyEc2, count: int) -> None:
    for _ in range(count):
        ec2.account.act("RunInstances", {"ImageId": "ami-1", "InstanceType": "t3.small"})


class TestPages:
    async def test_all_pages_are_joined_into_one_list(self, ec2: FaultyEc2, connect: Open) -> None:
        launch(ec2, 12)
        provider = await connect(page_size=5)
        assert len(await provider.list_instances()) == 12
        assert ec2.account.count("DescribeInstances") == 3

    async def test_a_listing_fails_if_one_of_its_pages_fails(self, ec2: FaultyEc2, connect: Open) -> None:
        launch(ec2, 12)
        provider = await connect(page_size=5)
        ec2.order("DescribeInstances", after=1, code="Unavailable", status=503)
        with pytest.raises(ProviderUnavailable):
            await provider.list_instances()

    async def test_a_listing_fails_if_the_next_token_repeats(self, ec2: FaultyEc2, connect: Open) -> None:
        provider = await connect()
        again = described("", "<nextToken>again</nextToken>")
        ec2.order("DescribeInstances", body=again, status=200, times=9)
        with pytest.raises(ProviderUnavailable, match="do not come to an end"):
            await provider.list_instances()
        assert ec2.account.count("DescribeInstances") == 2

    @pytest.mark.parametrize(("count", "is_aside"), [(10, False), (400, True)])
    async def test_only_a_large_page_is_parsed_in_a_thread(self, ec2: FaultyEc2, count: int, is_aside: bool) -> None:  # noqa: FBT001
        """So that parsing does not block the event loop."""
        settings = Ec2Settings(region=REGION, endpoint_url=ec2.url, access_key_id=KEY, secret_access_key=SECRET)
        client = Client(settings)
        await client.open()
        threads = []

        def read(root: Element) -> int:
            threads.append(threading.current_thread())
            return len(root.findall("reservationSet/item"))

        ec2.order("DescribeInstances", body=described(_items(count)), status=200)
        assert await client.call("DescribeInstances", read=read) == count
        assert (threads != [threading.current_thread()]) is is_aside
        await client.close()


def _items(count: int) -> str:
    tags = "".join(f"<item><key>k{n}</key><value>v</value></item>" for n in range(20))
    one = (
        "<item><instancesSet><item><instanceId>i-{n}</instanceId><instanceState><code>16</code><name>running</name>"
        f"</instanceState><tagSet>{tags}</tagSet></item></instancesSet></item>"
    )
    return "".join(one.replace("{n}", str(number)) for number in range(count))


class TestThrottling:
    @pytest.mark.looptime
    async def test_after_a_throttled_read_other_reads_wait_and_writes_do_not(self) -> None:
        pace, loop = Pace(), asyncio.get_running_loop()
        with pytest.raises(Throttled):
            async with pace.turn("DescribeInstances"):
                raise Throttled("slow down")
        began = loop.time()
        async with pace.turn("RunInstances"):
            assert loop.time() - began < FIRST_PAUSE / 2
        async with pace.turn("DescribeVolumes"):
            assert loop.time() - began >= FIRST_PAUSE * 0.9
        async with pace.turn("DescribeVolumes"):
            pass
        began = loop.time()
        async with pace.turn("DescribeVolumes"):
            assert loop.time() - began < FIRST_PAUSE / 2  # a call has succeeded since

    async def test_a_call_that_would_wait_too_long_is_throttled_without_being_sent(self) -> None:
        pace = Pace()
        with pytest.raises(Throttled):
            async with pace.turn("RunInstances"):
                raise Throttled("slow down", retry_after=12)
        with pytest.raises(Throttled, match="too many calls wait") as caught:
            async with pace.turn("RunInstances"):
                raise AssertionError("it was sent")
        assert 5 < (caught.value.retry_after or 0) <= 12


async def test_the_endpoint_of_the_tests_refuses_unknown_parameters(ec2: FaultyEc2) -> None:
    """The endpoint has the list of EC2's parameters, so that a misspelt one fails a test."""
    client = Client(make(ec2.url)._settings)
    await client.open()

    def nothing(root: Element) -> str:
        return text_of(root)

    with pytest.raises(BadParameter, match=r"InstanceID\.1 is not recognized"):
        await client.call("DescribeInstances", {"InstanceID.1": "i-1"}, read=nothing)
    await client.close()


async def test_a_wrong_secret_is_refused_in_one_line_without_the_signed_text(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(secret_access_key="wrong")
    with pytest.raises(AuthenticationRefused) as caught:
        await provider.account()
    assert str(caught.value).count("\n") == 0
    assert "Canonical" not in str(caught.value)


async def test_a_repeated_create_after_lost_answers_returns_the_one_instance(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect()
    cloud = CloudUnderTest(
        connect=lambda: provider,
        console=Ec2Console(ec2),
        section={"AMI": "ami-1", "INSTANCETYPE": "t3.small"},
        other_section={},
        unknown_deploy_id=DeployId("i-0"),
    )
    call = a_call(provider, cloud.request(vm_id=VmId(1)))
    for fault in ({"drop": True}, {"cut": 40}, {"status": 500, "body": "oops"}):
        ec2.order("RunInstances", is_done=True, **fault)
        with pytest.raises(ProviderUnavailable):
            await provider.create(call)
    assert await provider.create(call) == next(iter(ec2.account.instances))
    assert len(ec2.account.instances) == 1
