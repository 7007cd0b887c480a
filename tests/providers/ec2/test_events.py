"""Scheduled events and usage of instances reach OpenNebula through the real information driver."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.domain import Identity, VmId
from one_provider_mad.providers.ec2.query import tagged
from tests.end_to_end.oned import Place
from tests.monitor.decoder import Line, read_template, vectors
from tests.providers.ec2.drivers import NAME, OWNER, MonitoredEc2, configuration
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.waiting import until


@pytest.fixture
def ec2() -> Iterator[FaultyEc2]:
    with FaultyEc2().running() as ec2:
        yield ec2


def launched(ec2: FaultyEc2, vm_id: int, **more: str) -> str:
    """An instance of ours on host 3, as a deploy would have made it."""
    identity = Identity(owner=OWNER, vm_id=VmId(vm_id), stime=1_760_000_000, seq=0, host_id=3)
    asked = {
        "ImageId": "ami-0abc",
        "InstanceType": "t3.small",
        **tagged("TagSpecification.1", "instance", identity.tags()),
    }
    answer = ec2.account.act("RunInstances", {**asked, **more})
    return str(answer["instancesSet"][0]["instanceId"])


def shown(line: Line) -> dict[int, dict[str, str]]:
    """The figures of each VM in a MONITOR_VM, without those that it removes."""
    found = {}
    for vm in vectors(line.values, "VM"):
        monitored = read_template(base64.b64decode(vm["MONITOR"]).decode(), is_old=False)
        found[int(vm["ID"])] = {name: str(values[0]) for name, values in monitored.items() if values[0]}
    return found


def test_events_and_figures_are_reported_and_each_event_is_logged_once(ec2: FaultyEc2, tmp_path: Path) -> None:
    place = Place(tmp_path / "one")
    place.configure(configuration(ec2, more="cloudwatch = true\nevents_period = 10"), name=NAME)
    plain = launched(ec2, 7)
    spot = launched(ec2, 8, **{"InstanceMarketOptions.MarketType": "spot"})
    until(lambda: {each.word for each in ec2.account.instances.values()} == {"running"})
    soon = time.time() + 86400
    ec2.account.plan_event(plain, "instance-retirement", "The instance is running on degraded hardware", soon)
    ec2.account.plan_event(spot, "marked-for-termination", "Your Spot Instance has been marked", time.time())
    monitored = MonitoredEc2(place)
    with monitored.driver:
        monitored.start(SYNC_STATE_VM=1, STATE_VM=1)
        line = monitored.wait(
            lambda line: (
                line.word == "MONITOR_VM"
                and "AWS_SCHEDULED_EVENT" in shown(line).get(7, {})
                and "AWS_SPOT_INTERRUPTION" in shown(line).get(8, {})
            )
        )
        seen = shown(line)
        assert seen[7]["AWS_SCHEDULED_EVENT"] == "instance-retirement"
        assert seen[8]["AWS_SPOT_INTERRUPTION"] == "marked-for-termination"
        assert {"CPU", "MEMORY", "NETRX", "NETTX"} <= seen[7].keys()
        assert seen[7]["MEMORY"] == str(2 * 1024 * 1024)
        hosts = [line.values for line in monitored.lines if line.word == "MONITOR_HOST"]
        assert (hosts[-1]["USEDCPU"], hosts[-1]["USEDMEMORY"]) == (["400"], [str(4 * 1024 * 1024)])  # two t3.small
        monitored.wait(lambda line: line.word == "MONITOR_VM")
        logged = [line.text for line in monitored.lines if line.word == "LOG" and line.status == "W"]
        assert (
            sum(f"instance {plain} of VM 7 has a scheduled event, instance-retirement" in text for text in logged) == 1
        )
        assert sum(f"instance {spot} of VM 8 is being taken back by EC2" in text for text in logged) == 1
    asked = ec2.account.count("GetMetricData")
    assert asked == 2  # one for the days before and one for the last minutes, for any number of listings
    assert ec2.account.count("DescribeInstances") > asked
