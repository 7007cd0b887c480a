"""Instances of upstream's driver are attributed to their VMs by upstream's tag, before they have ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.monitor.inference import Inference, Listing, Memory
from tests.actions.fakes import FakeCloud
from tests.monitor.builders import IDLE, NOW, identity_of, instance_of, listing_of, through, wild, words
from tests.monitor.virtual_driver import VirtualDriver


def listing(*instances: Instance, hosts: tuple[int, ...] = (3,), after: float = 0.0) -> Listing:
    """A listing in which i-7 and i-70 have only upstream's tag of VM 7."""
    upstreams = {
        each.deploy_id: VmId(7) for each in instances if each.identity is None and each.deploy_id in ("i-7", "i-70")
    }
    return msgspec.structs.replace(listing_of(*instances, after=after), upstreams=upstreams, hosts=frozenset(hosts))


def inferred(*listings: Listing, memory: Memory | None = None) -> Inference:
    return through([(each, IDLE) for each in listings], memory=memory)


@pytest.mark.parametrize(
    ("state", "word"),
    [(InstanceState.RUNNING, "RUNNING"), (InstanceState.STOPPED, "POWEROFF"), (InstanceState.PENDING, "UNKNOWN")],
)
def test_an_upstream_instance_reports_its_vm_on_the_only_monitored_host(state: InstanceState, word: str) -> None:
    inference = inferred(listing(wild("i-7", state), wild("i-8")))
    assert words(inference) == {7: word}
    assert [each.deploy_id for each in inference.wilds] == ["i-8"]
    assert (inference.anomalies, inference.unsynced) == ({}, frozenset())


def test_a_vm_is_missing_when_its_upstream_instance_is_no_longer_listed() -> None:
    looks = [listing(wild("i-8"), after=10.0 * count) for count in range(1, 4)]
    assert words(inferred(listing(wild("i-7")), *looks)) == {7: "(FAILURE)"}


def test_an_upstream_vm_is_reported_on_the_monitored_host_until_its_tags_name_another() -> None:
    inference = inferred(listing(wild("i-7")), listing(wild("i-7"), hosts=(4,), after=10))
    assert (words(inference, 3), words(inference, 4)) == ({}, {7: "RUNNING"})
    tagged = instance_of(7, deploy_id="i-7", host_id=5)
    inference = inferred(listing(wild("i-7")), listing(tagged, hosts=(4, 5), after=10))
    assert (words(inference, 4), words(inference, 5)) == ({}, {7: "RUNNING"})


def test_with_several_monitored_hosts_an_upstream_vm_is_unknown_on_each_and_no_host_synced() -> None:
    """A report of all VMs without it would lose it on its host, and one with it makes it a zombie on another."""
    looks = [listing(wild("i-7"), instance_of(8), hosts=(3, 4), after=10.0 * count) for count in range(1, 5)]
    inference = inferred(listing(wild("i-7")), *looks)
    assert [len(inference.hosts[host_id]) for host_id in (3, 4)] == [2, 1]
    assert (words(inference, 3), words(inference, 4)) == ({7: "UNKNOWN", 8: "RUNNING"}, {7: "UNKNOWN"})
    assert inference.unsynced == {3, 4}
    assert inference.wilds == []
    assert inference.anomalies == {"i-7": "is VM 7's by upstream's tag, which names no host: power it off and on once"}


def test_a_terminated_upstream_instance_is_not_reported_and_prevents_no_sync() -> None:
    inference = inferred(listing(wild("i-7", InstanceState.TERMINATED), hosts=(3, 4)))
    assert (words(inference, 3), words(inference, 4), inference.unsynced) == ({}, {}, frozenset())


def test_an_upstream_instance_beside_one_with_our_tags_is_an_anomaly() -> None:
    inference = inferred(listing(instance_of(7, deploy_id="i-1"), wild("i-7"), hosts=(3, 4)))
    assert words(inference) == {7: "RUNNING"}
    assert inference.anomalies == {"i-7": "is a second live instance of VM 7, beside i-1"}


def test_of_two_upstream_instances_the_younger_reports_the_vm_and_the_other_is_an_anomaly() -> None:
    young = msgspec.structs.replace(wild("i-70"), created_at=NOW)
    inference = inferred(listing(wild("i-7"), young))
    assert words(inference) == {7: "RUNNING"}
    assert inference.anomalies == {"i-7": "is a second live instance of VM 7, beside i-70"}


class UpstreamsCloud(FakeCloud):
    """Pretends to be a cloud in which every untagged instance is VM 7's by upstream's tag."""

    def upstream_vm_id(self, instance: Instance) -> VmId | None:
        return VmId(7) if instance.identity is None else None


@pytest.mark.looptime
async def test_an_upstream_vm_follows_starts_and_stops_of_monitored_hosts(tmp_path: Path) -> None:
    cloud = UpstreamsCloud()
    deploy_id: DeployId = cloud.add(None)
    driver = VirtualDriver(tmp_path, cloud)

    async def told() -> dict[int, dict[int, Any]]:
        sweep = await driver.sweeper.sweep()
        return {host_id: words(sweep.inference, host_id) for host_id in (3, 4)}

    driver.start(3)
    assert await told() == {3: {7: "RUNNING"}, 4: {}}
    driver.start(4)
    assert await told() == {3: {7: "UNKNOWN"}, 4: {7: "UNKNOWN"}}
    driver.stop(3)
    assert await told() == {3: {}, 4: {7: "RUNNING"}}
    driver.start(3)
    cloud.instances[deploy_id].identity = identity_of(7)
    driver.sweeper._listing = None
    assert await told() == {3: {7: "RUNNING"}, 4: {}}
    await driver.handler.stop()
