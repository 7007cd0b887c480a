"""Usage figures from CloudWatch: in OpenNebula's units, in few calls, with counters that never decrease."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId, Instance, InstanceState, Usage
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.cloudwatch import DAY, MOST_METRICS, PERIOD, CloudWatch
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.interface import Figures
from tests.providers.ec2.scripted_server import Meter, Scripted
from tests.providers.ec2.table import SIZES

NOON = 1_800_014_400.0
"""Twelve o'clock, UTC."""

PAGE = (Path(__file__).parents[3] / "docs" / "ec2.md").read_text()


def an_instance(number: int = 1, kind: str = "t3.small") -> Instance:
    return Instance(
        deploy_id=DeployId(f"i-{number}"),
        state=InstanceState.RUNNING,
        raw_state="running",
        attributes={"AWS_INSTANCE_TYPE": kind},
    )


@dataclass
class Measured:
    """A CloudWatch, its client, and the time."""

    server: Scripted
    meter: Meter
    client: Client
    now: float = NOON
    with_disks: bool = False

    def __post_init__(self) -> None:
        self.reader = CloudWatch(self.client, SIZES, with_disks=self.with_disks, clock=lambda: self.now)

    async def learn(self, *instances: Instance) -> list[Figures | None]:
        await self.reader.learn(instances)
        return [self.reader.of(each, is_running=True) for each in instances]

    async def usage(self, instance: Instance) -> Usage:
        (figures,) = await self.learn(instance)
        assert figures is not None
        assert figures.usage is not None
        return figures.usage


@pytest.fixture
async def measured() -> AsyncIterator[Measured]:
    meter = Meter()
    async with Scripted(answers={"GetMetricData": meter}).served() as server:
        client = Client(
            Ec2Settings(region="eu-west-1", endpoint_url=server.url, access_key_id="A", secret_access_key="s")
        )
        await client.open()
        yield Measured(server, meter, client)
        await client.close()


async def test_cpu_percent_of_all_cores_is_converted_to_percent_of_one_core(measured: Measured) -> None:
    measured.meter.add("i-1", "CPUUtilization", NOON - 600, 99.0)
    measured.meter.add("i-1", "CPUUtilization", NOON - 300, 40.0)
    usage = await measured.usage(an_instance())
    assert usage == Usage(cpu=80.0, memory=2 * 1024 * 1024)  # two cores, 2 GiB
    assert set(measured.server.scopes) == {"eu-west-1/monitoring"}


async def test_a_cpu_figure_older_than_an_hour_is_unknown(measured: Measured) -> None:
    measured.meter.add("i-1", "CPUUtilization", NOON - 3600, 40.0)
    assert (await measured.usage(an_instance())).cpu is None


async def test_network_counters_sum_points_of_forty_days(measured: Measured) -> None:
    measured.meter.add("i-1", "NetworkIn", NOON - 40 * DAY, 1_000_000)
    measured.meter.add("i-1", "NetworkIn", NOON - 7200, 200)
    measured.meter.add("i-1", "NetworkOut", NOON - 7200, 7)
    usage = await measured.usage(an_instance())
    assert (usage.net_rx, usage.net_tx) == (1_000_200, 7)


async def test_each_network_point_is_counted_once_and_only_when_it_is_final(measured: Measured) -> None:
    seen = []
    for step in range(12):
        measured.now = NOON + step * 150
        # As on Nitro: the point exists at once, and grows until its five minutes have passed.
        at = measured.now // PERIOD * PERIOD
        measured.meter.add("i-1", "NetworkIn", at, 10.0 if measured.now == at else 100.0)
        seen.append((await measured.usage(an_instance())).net_rx)
    assert seen == sorted(seen)
    measured.now += 2 * PERIOD
    assert (await measured.usage(an_instance())).net_rx == 600


async def test_points_of_three_days_without_reading_are_counted_later(measured: Measured) -> None:
    measured.meter.add("i-1", "NetworkIn", NOON - 900, 5)
    assert (await measured.usage(an_instance())).net_rx == 5
    measured.now += 3 * DAY
    measured.meter.add("i-1", "NetworkIn", NOON + DAY, 50)
    measured.meter.add("i-1", "NetworkIn", measured.now - 900, 500)
    assert (await measured.usage(an_instance())).net_rx == 555


async def test_figures_of_a_thousand_instances_take_seven_calls_in_a_period(measured: Measured) -> None:
    instances = [an_instance(number) for number in range(1000)]
    for number in range(1000):
        measured.meter.add(f"i-{number}", "NetworkOut", NOON - 600, number)
    found = await measured.learn(*instances)
    assert [each.usage.net_tx for each in found if each and each.usage] == list(range(1000))
    assert len(measured.server.calls) == 4 + 7  # two metrics of the days before, then three
    measured.now += PERIOD
    await measured.learn(*instances)
    assert len(measured.server.calls) == 4 + 7 + 7


async def test_pages_of_metric_data_are_joined(measured: Measured) -> None:
    measured.meter.page = 2
    for number in range(3):
        for step in range(5):
            measured.meter.add(f"i-{number}", "NetworkIn", NOON - 600 - step * PERIOD, 1 + number)
            measured.meter.add(f"i-{number}", "CPUUtilization", NOON - step * PERIOD, 10.0 * (5 - step))
    found = await measured.learn(*(an_instance(number) for number in range(3)))
    assert [(each.usage.cpu, each.usage.net_rx) for each in found if each and each.usage] == [
        (80.0, 5),
        (80.0, 10),
        (80.0, 15),
    ]


async def test_a_failed_metric_fails_the_reading_and_its_points_are_counted_later(measured: Measured) -> None:
    measured.meter.add("i-1", "NetworkIn", NOON - 600, 5)
    assert (await measured.usage(an_instance())).net_rx == 5
    measured.now += PERIOD
    measured.meter.add("i-1", "NetworkIn", NOON - 300, 6)
    measured.meter.status = "InternalError"
    with pytest.raises(ProviderUnavailable, match="CloudWatch could not read a metric: InternalError"):
        await measured.learn(an_instance())
    measured.meter.status = "Complete"
    assert (await measured.usage(an_instance())).net_rx == 11


async def test_bytes_of_ebs_and_instance_store_volumes_are_summed(measured: Measured) -> None:
    disks = Measured(measured.server, measured.meter, measured.client, with_disks=True)
    for metric, count in (("EBSReadBytes", 1), ("DiskReadBytes", 2), ("EBSWriteBytes", 4), ("DiskWriteBytes", 8)):
        measured.meter.add("i-1", metric, NOON - 600, count)
    (figures,) = await disks.learn(an_instance())
    assert figures is not None
    assert figures.attributes == {"DISKRDBYTES": "3", "DISKWRBYTES": "12"}


async def test_figures_of_instances_that_are_gone_are_forgotten(measured: Measured) -> None:
    await measured.learn(an_instance(1), an_instance(2))
    measured.reader.keep([an_instance(2)])
    assert measured.reader.of(an_instance(1), is_running=True) is None
    assert measured.reader.of(an_instance(2), is_running=False) is not None


async def test_get_metric_data_is_sent_in_the_same_form_as_botocore_sends_it(measured: Measured) -> None:
    from botocore.serialize import create_serializer
    from botocore.session import Session

    await measured.learn(an_instance())
    sent = measured.server.asked("GetMetricData")[-1]
    operation = Session().get_service_model("cloudwatch").operation_model("GetMetricData")
    metric = {"Namespace": "AWS/EC2", "Dimensions": [{"Name": "InstanceId", "Value": "i-1"}]}
    queries = [
        {"Id": f"m{number}", "MetricStat": {"Metric": {"MetricName": name, **metric}, "Period": 300, "Stat": stat}}
        for number, (name, stat) in enumerate(
            (("CPUUtilization", "Average"), ("NetworkIn", "Sum"), ("NetworkOut", "Sum")), 1
        )
    ]
    given = {key: sent[key] for key in ("StartTime", "EndTime", "ScanBy")}
    asked = create_serializer("query").serialize_to_request({"MetricDataQueries": queries, **given}, operation)
    assert {key: str(value) for key, value in asked["body"].items()} == sent


def test_the_page_about_ec2_names_the_price_of_figures() -> None:
    """$0.01 for 1,000 metrics (aws.amazon.com/cloudwatch/pricing), a month of 30 days."""
    readings = 30 * DAY / PERIOD
    upstreams, all_of_them = 3 * readings / 1000 * 0.01, 7 * readings / 1000 * 0.01
    prices = {
        float(price) for price in re.findall(r"\$(\d+\.\d\d)\b", PAGE.partition("## Costs")[2].partition("##")[0])
    }
    assert {round(upstreams, 2), round(all_of_them, 2)} <= prices
    assert MOST_METRICS == 500
