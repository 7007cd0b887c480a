"""Scheduled events and spot interruptions are reported and warned of once; figures do not depend on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from itertools import count
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, VmId
from one_provider_mad.providers.ec2.batches import BATCH
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.interface import Figures, FigureSource, Size
from tests.providers.ec2.conftest import OWNER, make
from tests.providers.ec2.scripted_server import Answer, Form, Meter, Scripted, events, interruptions

RETIREMENT = "instance-retirement|2026-12-01T00:00:00.000Z|The instance is running on degraded hardware"
RUNNING = InstanceState.RUNNING


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    answers: dict[str, Answer] = {
        "DescribeInstanceStatus": events(),
        "DescribeSpotInstanceRequests": interruptions(),
        "GetMetricData": Meter(),
    }
    async with Scripted(answers=answers).served() as served:
        yield served


@pytest.fixture
async def provider(server: Scripted) -> AsyncIterator[Ec2Provider]:
    async for each in opened(server):
        yield each


async def opened(server: Scripted, **settings: Any) -> AsyncIterator[Ec2Provider]:
    """A provider whose clock advances by a minute with each reading."""
    provider = make(server.url, **settings)
    provider._watch._clock = count(step=60.0).__next__
    await provider.open()
    yield provider
    await provider.close()


@pytest.fixture
async def measuring(server: Scripted) -> AsyncIterator[Ec2Provider]:
    async for each in opened(server, cloudwatch=True):
        yield each


def an_instance(number: int = 1, state: InstanceState = RUNNING, *, owner: str = OWNER, **attributes: str) -> Instance:
    return Instance(
        deploy_id=DeployId(f"i-{number}"),
        state=state,
        raw_state=state.value,
        identity=Identity(owner=owner, vm_id=VmId(70 + number), stime=1, seq=0, host_id=0) if owner else None,
        attributes={"AWS_INSTANCE_TYPE": "t3.small", **attributes},
    )


def warned(provider: Ec2Provider) -> list[str]:
    sentences: list[str] = provider.warned  # type: ignore[attr-defined] # make's
    return sentences


async def shown(provider: Ec2Provider, *instances: Instance) -> dict[str, dict[str, str]]:
    return {str(key): dict(each.attributes) for key, each in (await provider.figures(instances)).items()}


async def test_a_scheduled_event_is_reported_and_warned_of_once(server: Scripted, provider: Ec2Provider) -> None:
    server.answers["DescribeInstanceStatus"] = events(i_1=RETIREMENT)
    for _ in range(2):
        assert await shown(provider, an_instance(1), an_instance(2)) == {
            "i-1": {
                "AWS_SCHEDULED_EVENT": "instance-retirement",
                "AWS_SCHEDULED_EVENT_FROM": "2026-12-01T00:00:00.000Z",
                "AWS_SCHEDULED_EVENT_TEXT": "The instance is running on degraded hardware",
            }
        }
    assert warned(provider) == [
        (
            "instance i-1 of VM 71 has a scheduled event, instance-retirement from 2026-12-01T00:00:00.000Z on:"
            " The instance is running on degraded hardware"
        )
    ]
    server.answers["DescribeInstanceStatus"] = events(i_1=RETIREMENT.replace("12-01", "12-08"))
    await shown(provider, an_instance(1))
    assert len(warned(provider)) == 2
    server.answers["DescribeInstanceStatus"] = events()
    assert await shown(provider, an_instance(1)) == {}


async def test_a_completed_or_cancelled_event_is_not_reported(server: Scripted, provider: Ec2Provider) -> None:
    server.answers["DescribeInstanceStatus"] = events(
        i_1="system-reboot|2026-12-01T00:00:00.000Z|[Completed] scheduled reboot",
        i_2="system-reboot|2026-12-01T00:00:00.000Z|[Canceled] scheduled reboot",
    )
    assert await shown(provider, an_instance(1), an_instance(2)) == {}
    assert warned(provider) == []


async def test_a_spot_interruption_is_reported_and_warned_of_once(server: Scripted, provider: Ec2Provider) -> None:
    spot = an_instance(1, AWS_INSTANCE_LIFECYCLE="spot")
    server.answers["DescribeSpotInstanceRequests"] = interruptions(
        i_1="marked-for-termination|2026-11-22T10:00:00.000Z"
    )
    for _ in range(2):
        assert await shown(provider, spot) == {
            "i-1": {
                "AWS_SPOT_INTERRUPTION": "marked-for-termination",
                "AWS_SPOT_INTERRUPTION_SINCE": "2026-11-22T10:00:00.000Z",
            }
        }
    ended = an_instance(1, InstanceState.TERMINATED, AWS_STATE_REASON="Server.SpotInstanceTermination")
    server.answers["DescribeSpotInstanceRequests"] = interruptions(
        i_1="instance-terminated-no-capacity|2026-11-22T10:02:01.000Z"
    )
    for _ in range(2):
        assert await shown(provider, ended) == {
            "i-1": {
                "AWS_SPOT_INTERRUPTION": "instance-terminated-no-capacity",
                "AWS_SPOT_INTERRUPTION_SINCE": "2026-11-22T10:02:01.000Z",
            }
        }
    server.answers["DescribeSpotInstanceRequests"] = interruptions()  # EC2 has forgotten the request
    assert await shown(provider, ended) == {"i-1": {"AWS_SPOT_INTERRUPTION": "Server.SpotInstanceTermination"}}
    assert warned(provider) == [
        (
            "instance i-1 of VM 71 is being taken back by EC2 within two minutes, marked-for-termination since"
            " 2026-11-22T10:00:00.000Z"
        ),
        "instance i-1 of VM 71 was taken back by EC2: Server.SpotInstanceTermination",
    ]


async def test_without_spot_instances_spot_requests_are_not_described(server: Scripted, provider: Ec2Provider) -> None:
    await shown(provider, an_instance(1))
    assert [action for action, _ in server.calls] == ["DescribeInstanceStatus"]


@pytest.mark.parametrize(
    ("state", "lifecycle", "period"),
    [
        pytest.param(RUNNING, "spot", 4.5, id="a-spot-instance"),
        pytest.param(InstanceState.TERMINATED, "spot", 60.0, id="an-ended-one"),
        pytest.param(RUNNING, "", 60.0, id="on-demand-alone"),
    ],
)
def test_interruptions_are_asked_for_often_only_while_there_are_spot_instances(
    provider: Ec2Provider, state: InstanceState, lifecycle: str, period: float
) -> None:
    provider._watch.expect_spot([an_instance(1), an_instance(2, state, AWS_INSTANCE_LIFECYCLE=lifecycle)])
    assert provider.figures_period == period


async def test_between_two_requests_for_events_interruptions_are_asked_for(server: Scripted) -> None:
    provider = make(server.url)
    await provider.open()
    for seconds in range(0, 60, 5):
        provider._watch._clock = partial(float, seconds)
        await provider.figures([an_instance(1, AWS_INSTANCE_LIFECYCLE="spot")])
    counts = [len(server.asked(each)) for each in ("DescribeSpotInstanceRequests", "DescribeInstanceStatus")]
    assert counts == [12, 2]
    await provider.close()


@pytest.mark.parametrize(
    ("state_reason", "reason"),
    [
        pytest.param("Server.SpotInstanceTermination", "Server.SpotInstanceTermination", id="taken-back"),
        pytest.param("Client.UserInitiatedShutdown", None, id="terminated-by-a-person"),
        pytest.param("Server.InsufficientInstanceCapacity", None, id="never-ran"),
    ],
)
def test_only_an_instance_that_ec2_took_back_counts_as_interrupted(
    provider: Ec2Provider, state_reason: str, reason: str | None
) -> None:
    ended = an_instance(1, InstanceState.TERMINATED, AWS_STATE_REASON=state_reason)
    found = provider.interruption(msgspec.structs.replace(ended, reason=state_reason))
    assert (found.reason if found else None) == reason


async def test_instances_of_other_owners_cause_no_calls_and_no_warnings(
    server: Scripted, measuring: Ec2Provider
) -> None:
    server.answers["DescribeInstanceStatus"] = events(i_1=RETIREMENT, i_2=RETIREMENT)
    assert await shown(measuring, an_instance(1, owner="another"), an_instance(2, owner="")) == {}
    assert warned(measuring) == []
    assert server.calls == []


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        pytest.param({"cloudwatch": True}, (60.0, 10, 2), id="default-periods"),
        pytest.param(
            {"cloudwatch": True, "cloudwatch_period": 60.0, "events_period": 300.0}, (60.0, 2, 10), id="other-periods"
        ),
        pytest.param({"cloudwatch": True, "events": False}, (300.0, 0, 2), id="figures-only"),
        pytest.param({"events": False}, (3600.0, 0, 0), id="nothing"),
    ],
)
async def test_figures_and_events_are_read_at_their_own_periods(
    server: Scripted, settings: dict[str, Any], asked: tuple[float, int, int]
) -> None:
    """In ten readings, one a minute; values that are not read anew are kept."""
    server.answers["DescribeInstanceStatus"] = events(i_1=RETIREMENT)
    provider = make(server.url, **settings)
    await provider.open()
    assert isinstance(provider, FigureSource)
    for minute in range(10):
        provider._watch._clock = partial(float, 60 * minute)
        (found,) = (await provider.figures([an_instance(1)])).values() or (Figures(),)
        assert ("AWS_SCHEDULED_EVENT" in found.attributes) is settings.get("events", True)
        assert (found.usage is not None) is settings.get("cloudwatch", False)
    readings = [
        form for form in server.asked("GetMetricData") if form["MetricDataQueries.member.1.MetricStat.Period"] == "300"
    ]
    assert (provider.figures_period, len(server.asked("DescribeInstanceStatus")), len(readings)) == asked
    await provider.close()


async def test_metrics_are_read_for_running_instances_only(server: Scripted, measuring: Ec2Provider) -> None:
    found = await measuring.figures([an_instance(1, InstanceState.STOPPED), an_instance(2)])
    asked = {
        value for form in server.asked("GetMetricData") for name, value in form.items() if name.endswith("1.Value")
    }
    assert asked == {"i-2"}
    assert list(found) == ["i-2"]


async def test_a_running_instance_uses_the_capacity_of_its_type(provider: Ec2Provider) -> None:
    assert provider.size_of(an_instance()) == Size(cpu=2, memory=2048)
    assert provider.size_of(an_instance(state=InstanceState.PENDING)) == Size(cpu=2, memory=2048)
    assert provider.size_of(an_instance(state=InstanceState.STOPPED)) is None
    assert provider.size_of(an_instance(AWS_INSTANCE_TYPE="z9.huge")) is None


async def test_without_cloudwatch_no_metrics_are_read(server: Scripted, provider: Ec2Provider) -> None:
    await provider.figures([an_instance(1)])
    assert server.asked("GetMetricData") == []


def refuse(form: Form) -> str:
    raise PermissionError(f"You are not authorized to perform {form['Action']}")


async def test_figures_are_read_without_the_right_to_read_events_with_one_warning(
    server: Scripted, measuring: Ec2Provider
) -> None:
    meter = server.answers["GetMetricData"]
    assert isinstance(meter, Meter)
    meter.add("i-1", "CPUUtilization", (time.time() // 300 - 1) * 300, 25.0)
    server.answers["DescribeInstanceStatus"] = refuse
    for _ in range(2):
        (figures,) = (await measuring.figures([an_instance(1)])).values()
        assert figures.usage is not None
        assert figures.usage.cpu == 50.0
    assert warned(measuring) == [
        (
            "EC2's plans for instances are not known: EC2: You are not authorized to perform"
            " DescribeInstanceStatus (DescribeInstanceStatus, UnauthorizedOperation)"
        )
    ]


async def test_events_are_reported_if_metrics_cannot_be_read(server: Scripted, measuring: Ec2Provider) -> None:
    server.answers["DescribeInstanceStatus"] = events(i_1=RETIREMENT)
    server.answers["GetMetricData"] = refuse
    assert "AWS_SCHEDULED_EVENT" in (await shown(measuring, an_instance(1)))["i-1"]
    assert any(sentence.startswith("no new figures of instances: ") for sentence in warned(measuring))


async def test_figures_of_many_instances_yield_to_other_tasks(server: Scripted) -> None:
    """Other tasks have a turn after each few hundred instances."""
    provider = make(server.url, events=False)  # so that no call is awaited
    instances = [an_instance(number) for number in range(2000)]
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(another())
    await provider.figures(instances)
    busy.cancel()
    assert turns >= 2 * len(instances) / BATCH - 2
