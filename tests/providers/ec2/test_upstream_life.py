"""VMs that upstream's driver deployed on EC2 are adopted, through both drivers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Place
from tests.providers.ec2.drivers import NAME, OWNER, MonitoredEc2, configuration, started
from tests.providers.ec2.faulty_endpoint import FaultyEc2

AS_UPSTREAM = {
    "ImageId": "ami-1",
    "InstanceType": "t3.small",
    "MinCount": "1",
    "MaxCount": "1",
    "TagSpecification.1.ResourceType": "instance",
    "TagSpecification.1.Tag.1.Key": "ONE_ID",
    "TagSpecification.1.Tag.1.Value": "7",
}


@pytest.fixture
def ec2() -> Iterator[FaultyEc2]:
    with FaultyEc2().running() as ec2:
        yield ec2


def test_a_vm_deployed_by_upstreams_driver_is_monitored_powered_off_and_terminated(
    ec2: FaultyEc2, place: Place
) -> None:
    deploy_id = deployed_by_upstream(ec2)
    more = "adopt_upstream = true"
    place.configure(configuration(ec2, more=more).replace("[monitor]", "[monitor]\nsync_period = 0.1"), name=NAME)
    core = MonitoredEc2(place)
    try:
        core.start()
        assert core.sync(vm7="RUNNING") == {7: "RUNNING"}, "before any action on it"
        with started(place) as driver:
            assert driver.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a")
            assert driver.ask(oned_requests.terminate(8, deploy_id)).startswith(
                f"FAILURE instance {deploy_id} is VM 7's by upstream's tag: it is left alone"
            )
            assert tags(ec2, deploy_id) == {"ONE_ID": "7"}
            assert driver.ask(oned_requests.power_off(7, deploy_id, host_id=3)) == "SUCCESS -"
        assert tags(ec2, deploy_id)["ONE_PROVIDER_OWNER"] == OWNER
        assert core.sync(vm7="POWEROFF") == {7: "POWEROFF"}
        with started(place) as driver:
            assert driver.ask(oned_requests.resume(7, deploy_id, host_id=3)) == f"SUCCESS {deploy_id}"
            assert core.sync(vm7="RUNNING") == {7: "RUNNING"}
            assert driver.ask(oned_requests.terminate(7, deploy_id, host_id=3)) == "SUCCESS -"
        assert {each.word for each in ec2.account.instances.values()} == {"terminated"}
    finally:
        core.driver.leave()


def deployed_by_upstream(ec2: FaultyEc2) -> str:
    """Create an instance as upstream's driver does, running and with one tag."""
    ec2.account.act("RunInstances", AS_UPSTREAM)
    [deploy_id] = [each.id for each in ec2.account.alive]
    return deploy_id


def tags(ec2: FaultyEc2, deploy_id: str) -> dict[str, str]:
    return dict(ec2.account.instances[deploy_id].tags)
