"""Calls keep within EC2's rate limits, each action within its own, and none waits longer than a limit."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.errors import Throttled
from one_provider_mad.providers.ec2 import budgets
from one_provider_mad.providers.ec2.budgets import ACTIONS, READS, RESOURCES, SPECIAL, WRITES, Budget
from one_provider_mad.providers.ec2.pace import LONGEST_WAIT, Pace
from one_provider_mad.providers.ec2.settings import Ec2Settings
from tests.actions.fakes import pass_time

pytestmark = pytest.mark.looptime


async def sent(pace: Pace, action: str, count: int) -> list[float]:
    """The times at which so many simultaneous calls are sent; refused ones are left out."""
    times = []

    async def one() -> None:
        async with pace.turn(action):
            times.append(round(asyncio.get_running_loop().time(), 3))

    outcomes = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
    assert all(isinstance(each, Throttled) for each in outcomes if each is not None)
    return sorted(times)


async def test_creates_are_sent_in_a_burst_of_five_and_then_two_per_second() -> None:
    times = await sent(Pace(share=1.0, is_usual=True), "RunInstances", 100)
    assert times == [0.0] * 5 + [
        0.5 * number for number in range(1, 11)
    ]  # the others would wait longer than five seconds


@pytest.mark.parametrize(
    ("action", "burst", "rate"),
    [
        pytest.param("DescribeInstances", READS.burst, READS.per_second, id="read"),
        pytest.param("StopInstances", WRITES.burst, WRITES.per_second, id="write"),
        pytest.param("StartInstances", *SPECIAL["StartInstances"], id="start"),
        pytest.param("GetMetricData", *SPECIAL["GetMetricData"], id="metric-data"),
    ],
)
async def test_each_kind_of_action_has_its_burst_and_rate(action: str, burst: float, rate: float) -> None:
    times = await sent(Pace(share=1.0, is_usual=True), action, 500)
    assert times.count(0.0) == burst
    assert len(times) == pytest.approx(burst + LONGEST_WAIT * rate, abs=1)


async def test_calls_use_only_the_configured_share_of_a_rate_limit() -> None:
    times = await sent(Pace(share=0.5, is_usual=True), "DescribeInstances", 500)
    assert times.count(0.0) == READS.burst / 2
    assert len(times) == pytest.approx((READS.burst + LONGEST_WAIT * READS.per_second) / 2, abs=1)


async def test_a_minute_without_calls_refills_the_burst() -> None:
    pace = Pace(share=1.0, is_usual=True)
    await sent(pace, "RunInstances", 100)
    await pass_time(60)
    assert len(await sent(pace, "RunInstances", 100)) == 15


async def test_calls_of_one_action_do_not_use_the_rate_limit_of_another() -> None:
    pace = Pace(share=1.0, is_usual=True)
    await sent(pace, "DescribeInstances", 500)
    now = asyncio.get_running_loop().time()
    assert await sent(pace, "DescribeVolumes", 1) == [round(now, 3)]


async def test_a_call_refused_by_the_rate_limit_gets_a_retry_after() -> None:
    pace = Pace(share=1.0, is_usual=True)
    outcomes = await asyncio.gather(*(sent_or_refused(pace) for _ in range(30)))
    waits = [each.retry_after for each in outcomes if each is not None]
    assert len(waits) == 15
    assert all(wait is not None and wait > LONGEST_WAIT for wait in waits)


async def sent_or_refused(pace: Pace) -> Throttled | None:
    try:
        async with pace.turn("RunInstances"):
            return None
    except Throttled as refused:
        return refused


async def test_a_throttled_read_delays_other_reads_and_no_write() -> None:
    pace = Pace(share=1.0, is_usual=True)
    with pytest.raises(Throttled):
        async with pace.turn("DescribeInstances"):
            raise Throttled("slow down", retry_after=2.0)
    assert await sent(pace, "GetMetricData", 1) == [0.0]  # a service of its own
    assert await sent(pace, "StopInstances", 1) == [0.0]
    assert await sent(pace, "DescribeVolumes", 1) == [2.0]


async def test_a_throttled_cloudwatch_call_delays_only_cloudwatch() -> None:
    pace = Pace(share=1.0, is_usual=True)
    with pytest.raises(Throttled):
        async with pace.turn("GetMetricData"):
            raise Throttled("slow down", retry_after=2.0)
    assert await sent(pace, "DescribeInstances", 1) == [0.0]
    assert await sent(pace, "TerminateInstances", 1) == [0.0]
    assert await sent(pace, "GetMetricData", 1) == [2.0]


async def test_without_known_limits_calls_are_not_paced() -> None:
    assert await sent(Pace(), "RunInstances", 500) == [0.0] * 500


RAISED = {"RunInstances": Budget(burst=100, per_second=20)}


async def test_a_budget_replaces_amazons_limit_for_its_action_alone() -> None:
    pace = Pace(budgets=RAISED, is_usual=True)
    assert len(await sent(pace, "RunInstances", 500)) == pytest.approx(100 + LONGEST_WAIT * 20, abs=1)
    now = round(asyncio.get_running_loop().time(), 3)
    assert (await sent(pace, "StartInstances", 100)).count(now) == 5


async def test_call_share_applies_to_a_budget_too() -> None:
    assert (await sent(Pace(share=0.5, budgets=RAISED), "RunInstances", 500)).count(0.0) == 50


async def test_where_no_limit_is_known_a_budget_limits_its_action_alone() -> None:
    pace = Pace(budgets=RAISED)
    assert len(await sent(pace, "RunInstances", 500)) == pytest.approx(100 + LONGEST_WAIT * 20, abs=1)
    assert await sent(pace, "StopInstances", 500) == [round(asyncio.get_running_loop().time(), 3)] * 500


@pytest.mark.parametrize(
    ("budget", "burst", "rate"),
    [
        pytest.param(Budget(burst=2000, per_second=100), 1000, 2, id="amazons-own"),
        pytest.param(
            Budget(burst=2000, per_second=100, resource_burst=1500, resource_per_second=10), 1500, 10, id="raised"
        ),
    ],
)
async def test_instances_are_launched_within_the_resource_bucket_as_well(
    budget: Budget, burst: float, rate: float
) -> None:
    times = await sent(Pace(budgets={"RunInstances": budget}), "RunInstances", 2000)
    assert times.count(0.0) == burst
    assert len(times) == pytest.approx(burst + LONGEST_WAIT * rate, abs=1)


def settings(**budgets: dict[str, float]) -> Ec2Settings:
    return msgspec.convert({"region": "eu-west-1", "budgets": budgets}, Ec2Settings)


@pytest.mark.parametrize(
    ("action", "budget", "sentence"),
    [
        pytest.param(
            "RunInstance",
            {"burst": 5, "per_second": 2},
            "budgets: the driver calls no action RunInstance, did you mean RunInstances?",
            id="misspelt",
        ),
        pytest.param(
            "LaunchRockets", {"burst": 5, "per_second": 2}, "budgets: the driver calls no action LaunchRockets", id="no"
        ),
        pytest.param(
            "CreateTags",
            {"burst": 5, "per_second": 2, "resource_burst": 9},
            "budgets: CreateTags has no resource bucket, remove resource_burst and resource_per_second",
            id="no-resources",
        ),
        pytest.param("RunInstances", {"burst": 5}, "missing required field `per_second`", id="half"),
        pytest.param("RunInstances", {"burst": 0.5, "per_second": 2}, ">= 1.0", id="less-than-one-call"),
        pytest.param("RunInstances", {"burst": 5, "per_second": 0}, "> 0.0", id="none-ever"),
    ],
)
def test_a_budget_without_effect_is_refused(action: str, budget: dict[str, float], sentence: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(sentence)):
        settings(**{action: budget})


def test_a_budget_may_be_given_for_every_action_that_the_driver_calls() -> None:
    verbs = "Associate Attach Authorize Create Delete Describe Detach Get Modify Reboot Revoke Run Start Stop Terminate"
    pattern = re.compile(rf'f?"((?:{"|".join(verbs.split())})[A-Z]\w+)"')
    folder = Path(budgets.__file__).parent
    named = {name for file in folder.glob("*.py") for name in pattern.findall(file.read_text())}
    groups = {f"{word}SecurityGroup{way}" for word in ("Authorize", "Revoke") for way in ("Ingress", "Egress")}
    assert named - {"DeleteOnTermination", "StartTime"} | groups == ACTIONS
    assert RESOURCES.keys() < ACTIONS


def test_only_amazons_endpoint_has_amazons_limits_by_default() -> None:
    there, here = Ec2Settings(region="eu-west-1"), Ec2Settings(region="eu-west-1", endpoint_url="http://cloud/")
    assert (there.share_of_budget, there.has_amazons_limits) == (0.9, True)
    assert (here.share_of_budget, here.has_amazons_limits) == (0.9, False)
    shared = Ec2Settings(region="eu-west-1", endpoint_url="http://cloud/", call_share=0.5)
    assert (shared.share_of_budget, shared.has_amazons_limits) == (0.5, True)
