"""Calls keep within EC2's rate limits, each action within its own, and none waits longer than a limit."""

from __future__ import annotations

import asyncio

import pytest

from one_provider_mad.errors import Throttled
from one_provider_mad.providers.ec2.pace import LONGEST_WAIT, READS, SPECIAL, WRITES, Pace
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
    times = await sent(Pace(share=1.0), "RunInstances", 100)
    assert times == [0.0] * 5 + [
        0.5 * number for number in range(1, 11)
    ]  # the others would wait longer than five seconds


@pytest.mark.parametrize(
    ("action", "burst", "rate"),
    [
        pytest.param("DescribeInstances", READS.burst, READS.rate, id="read"),
        pytest.param("StopInstances", WRITES.burst, WRITES.rate, id="write"),
        pytest.param("StartInstances", *SPECIAL["StartInstances"], id="start"),
        pytest.param("GetMetricData", *SPECIAL["GetMetricData"], id="metric-data"),
    ],
)
async def test_each_kind_of_action_has_its_burst_and_rate(action: str, burst: float, rate: float) -> None:
    times = await sent(Pace(share=1.0), action, 500)
    assert times.count(0.0) == burst
    assert len(times) == pytest.approx(burst + LONGEST_WAIT * rate, abs=1)


async def test_calls_use_only_the_configured_share_of_a_rate_limit() -> None:
    times = await sent(Pace(share=0.5), "DescribeInstances", 500)
    assert times.count(0.0) == READS.burst / 2
    assert len(times) == pytest.approx((READS.burst + LONGEST_WAIT * READS.rate) / 2, abs=1)


async def test_a_minute_without_calls_refills_the_burst() -> None:
    pace = Pace(share=1.0)
    await sent(pace, "RunInstances", 100)
    await pass_time(60)
    assert len(await sent(pace, "RunInstances", 100)) == 15


async def test_calls_of_one_action_do_not_use_the_rate_limit_of_another() -> None:
    pace = Pace(share=1.0)
    await sent(pace, "DescribeInstances", 500)
    now = asyncio.get_running_loop().time()
    assert await sent(pace, "DescribeVolumes", 1) == [round(now, 3)]


async def test_a_call_refused_by_the_rate_limit_gets_a_retry_after() -> None:
    pace = Pace(share=1.0)
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
    pace = Pace(share=1.0)
    with pytest.raises(Throttled):
        async with pace.turn("DescribeInstances"):
            raise Throttled("slow down", retry_after=2.0)
    assert await sent(pace, "GetMetricData", 1) == [0.0]  # a service of its own
    assert await sent(pace, "StopInstances", 1) == [0.0]
    assert await sent(pace, "DescribeVolumes", 1) == [2.0]


async def test_a_throttled_cloudwatch_call_delays_only_cloudwatch() -> None:
    pace = Pace(share=1.0)
    with pytest.raises(Throttled):
        async with pace.turn("GetMetricData"):
            raise Throttled("slow down", retry_after=2.0)
    assert await sent(pace, "DescribeInstances", 1) == [0.0]
    assert await sent(pace, "TerminateInstances", 1) == [0.0]
    assert await sent(pace, "GetMetricData", 1) == [2.0]


async def test_without_a_share_calls_are_not_rate_limited() -> None:
    assert await sent(Pace(), "RunInstances", 500) == [0.0] * 500


def test_only_amazons_endpoint_is_rate_limited_by_default() -> None:
    there, here = Ec2Settings(region="eu-west-1"), Ec2Settings(region="eu-west-1", endpoint_url="http://cloud/")
    assert (there.share_of_budget, here.share_of_budget) == (0.9, 0.0)
    assert Ec2Settings(region="eu-west-1", endpoint_url="http://cloud/", call_share=0.5).share_of_budget == 0.5
