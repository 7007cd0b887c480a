"""Attributes of a VM that no longer apply are removed from OpenNebula, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.domain import DeployId, InstanceState
from tests.actions.fakes import pass_time
from tests.monitor.decoder import Line, Values, read_template, unpacked, vectors
from tests.monitor.virtual_driver import VirtualDriver

pytestmark = pytest.mark.looptime

Make = Callable[..., VirtualDriver]

ADDRESS = {"AWS_PUBLIC_IP_ADDRESS": "203.0.113.9"}
REASON = {"AWS_STATE_REASON": "Client.UserInitiatedShutdown"}
NO_USAGE: Values = {"CPU": [{}], "MEMORY": [{}], "NETRX": [{}], "NETTX": [{}]}


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes drivers, which are closed in the end."""
    made: list[VirtualDriver] = []

    def make(**options: Any) -> VirtualDriver:
        made.append(VirtualDriver(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        await one.handler.stop()


def attributes_of(line: Line, vm_id: int = 7) -> Values:
    """The attributes of one VM in a MONITOR_VM."""
    (vm,) = [vm for vm in vectors(line.values, "VM") if vm["ID"] == str(vm_id)]
    return read_template(unpacked(vm["MONITOR"]))


def become(one: VirtualDriver, state: InstanceState, attributes: dict[str, str]) -> None:
    """Let VM 7's instance be in this state, with these attributes."""
    instance = one.cloud.instances[DeployId("i-7")]
    instance.state, instance.attributes = state, attributes
    if state is not InstanceState.RUNNING:
        instance.usage = None


async def test_the_address_of_a_stopped_instance_is_removed_once(driver: Make) -> None:
    one = driver()
    one.add(7)
    become(one, InstanceState.RUNNING, ADDRESS)
    one.start(STATE_VM=5, MONITOR_VM=10)
    await pass_time(11)
    become(one, InstanceState.STOPPED, REASON)
    await pass_time(20)
    first, _, removed, after, *_ = map(attributes_of, one.lines("MONITOR_VM"))
    assert first["AWS_PUBLIC_IP_ADDRESS"] == ["203.0.113.9"]
    assert removed == {
        "AWS_STATE_REASON": ["Client.UserInitiatedShutdown"],
        "AWS_PUBLIC_IP_ADDRESS": [{}],
        **NO_USAGE,
    }
    assert after == {"AWS_STATE_REASON": ["Client.UserInitiatedShutdown"]}, "it is removed once"


async def test_the_state_reason_of_a_stopped_instance_is_removed_when_it_runs(driver: Make) -> None:
    one = driver()
    one.add(7, InstanceState.STOPPED)
    become(one, InstanceState.STOPPED, REASON)
    one.start(STATE_VM=5, MONITOR_VM=10)
    await pass_time(6)
    become(one, InstanceState.RUNNING, ADDRESS)
    await pass_time(11)
    assert attributes_of(one.lines("MONITOR_VM")[-1]) == {
        "AWS_PUBLIC_IP_ADDRESS": ["203.0.113.9"],
        "AWS_STATE_REASON": [{}],
    }


async def test_all_attributes_of_a_terminated_instance_are_removed_once(driver: Make) -> None:
    one = driver()
    one.add(7)
    become(one, InstanceState.RUNNING, ADDRESS)
    one.start(STATE_VM=5, MONITOR_VM=10)
    await pass_time(11)
    become(one, InstanceState.TERMINATED, ADDRESS)
    await pass_time(30)
    lines = one.lines("MONITOR_VM")
    assert attributes_of(lines[-1]) == {**NO_USAGE, "AWS_PUBLIC_IP_ADDRESS": [{}]}
    assert len(lines) == 3, "they are removed once"


TAKEN = {"AWS_SPOT_INTERRUPTION": "marked-for-termination", "AWS_SPOT_INTERRUPTION_SINCE": "2026-12-01T12:00:00.000Z"}
ENDED = {**TAKEN, "AWS_SPOT_INTERRUPTION": "instance-terminated-no-capacity"}


async def test_an_interruption_is_reported_at_once_and_kept_when_the_instance_has_ended(driver: Make) -> None:
    one = driver()
    one.add(7)
    become(one, InstanceState.RUNNING, ADDRESS)
    one.start(STATE_VM=5, MONITOR_VM=600)
    await pass_time(6)
    become(one, InstanceState.RUNNING, {**ADDRESS, **TAKEN})
    await pass_time(6)
    assert attributes_of(one.lines("MONITOR_VM")[-1])["AWS_SPOT_INTERRUPTION"] == ["marked-for-termination"]
    become(one, InstanceState.TERMINATED, {**REASON, **ENDED})
    await pass_time(6)
    assert attributes_of(one.lines("MONITOR_VM")[-1]) == {
        "AWS_SPOT_INTERRUPTION": ["instance-terminated-no-capacity"],
        "AWS_SPOT_INTERRUPTION_SINCE": ["2026-12-01T12:00:00.000Z"],
        "AWS_PUBLIC_IP_ADDRESS": [{}],
        **NO_USAGE,
    }


async def test_a_removal_that_was_not_read_before_a_new_start_monitor_is_repeated(driver: Make) -> None:
    one = driver()
    one.add(7)
    become(one, InstanceState.RUNNING, ADDRESS)
    one.start(STATE_VM=5, MONITOR_VM=10)
    await pass_time(11)
    become(one, InstanceState.STOPPED, {})
    one.is_read = False
    await pass_time(40)
    one.is_read = True
    one.read()
    one.start(STATE_VM=5, MONITOR_VM=10)
    await pass_time(11)
    assert any(attributes_of(line).get("AWS_PUBLIC_IP_ADDRESS") == [{}] for line in one.lines("MONITOR_VM"))


async def test_after_start_monitor_every_attribute_of_the_provider_that_a_vm_lacks_is_removed(driver: Make) -> None:
    """Another front-end, or an earlier release, may have reported them: the provider knows their names."""
    one = driver()
    one.cloud.attribute_names = ("AWS_SPOT_INTERRUPTION",)  # type: ignore[attr-defined]
    one.add(7)
    become(one, InstanceState.RUNNING, ADDRESS)
    one.start(STATE_VM=5, MONITOR_VM=10)
    await pass_time(11)
    first, second = map(attributes_of, one.lines("MONITOR_VM"))
    assert first["AWS_SPOT_INTERRUPTION"] == [{}]
    assert "AWS_SPOT_INTERRUPTION" not in second


async def test_a_removal_is_repeated_to_a_legacy_oned_until_the_vm_runs(driver: Make) -> None:
    """It reads attributes only of a VM in ACTIVE, so that one that is powered off keeps its old ones."""
    one = driver()
    one.add(7)
    for state, attributes in [
        *[(InstanceState.RUNNING, ADDRESS)] * 2,
        *[(InstanceState.STOPPED, {})] * 2,
        *[(InstanceState.RUNNING, {})] * 3,
    ]:
        become(one, state, attributes)
        one.ask()
        await pass_time(60)
    polls = [vectors(line.values, "VM")[0]["POLL"] for line in one.lines("MONITOR")]
    assert ["AWS_PUBLIC_IP_ADDRESS=[]" in poll for poll in polls] == [False, False, True, True, True, True, False]


async def test_an_attribute_of_a_stopping_instance_is_removed_from_a_legacy_oned(driver: Make) -> None:
    one = driver()
    one.add(7)
    for state, attributes in [
        *[(InstanceState.RUNNING, {})] * 2,
        (InstanceState.STOPPING, REASON),
        *[(InstanceState.RUNNING, {})] * 3,
    ]:
        become(one, state, attributes)
        one.ask()
        await pass_time(60)
    polls = [vectors(line.values, "VM")[0]["POLL"] for line in one.lines("MONITOR")]
    assert ["AWS_STATE_REASON=[]" in poll for poll in polls] == [False, False, False, True, True, False]
