"""VMs in a stable state whose instance was terminated in the cloud: their log names this and the remedy once."""

from __future__ import annotations

from typing import Any

import pytest

from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.protocol.messages import Severity
from tests.orphans.reconciler_setup import POWEROFF, FrontEnd

RUNNING, UNKNOWN = 3, 16


def terminate(front: FrontEnd, deploy_id: str = "i-7", state: InstanceState = InstanceState.TERMINATED) -> None:
    front.cloud.instances[DeployId(deploy_id)].state = state


@pytest.mark.parametrize(
    ("vm", "remedy"),
    [
        pytest.param({"lcm_state": RUNNING}, "onevm recover --recreate makes a new one", id="running"),
        pytest.param({"lcm_state": UNKNOWN}, "onevm recover --recreate makes a new one", id="unknown"),
        pytest.param(
            {"state": POWEROFF},
            "onevm recover --recreate makes a new one (before 6.10 onevm undeploy first)",
            id="poweroff",
        ),
        pytest.param(
            {"state": 5}, "onevm recover --recreate makes a new one (before 6.10 onevm stop first)", id="suspended"
        ),
        pytest.param({"state": 9}, "onevm recover --recreate makes a new one", id="undeployed"),
    ],
)
async def test_the_vms_log_says_once_that_its_instance_is_terminated_and_how_to_recreate_it(
    front: FrontEnd, vm: dict[str, Any], remedy: str
) -> None:
    front.opennebula.vm(7, "i-7", **vm)
    assert await front.look(2) == set()
    assert not front.vm_logs
    terminate(front)
    assert await front.look(3) == set()
    assert front.vm_logs == [(7, Severity.ERROR, f"instance i-7 is terminated for good: {remedy}")]


@pytest.mark.parametrize(
    ("release", "remedy"),
    [
        pytest.param((5, 10, 5), "onevm undeploy, then onevm recover --recreate makes a new one", id="5.10"),
        pytest.param((6, 8, 0), "onevm undeploy, then onevm recover --recreate makes a new one", id="6.8"),
        pytest.param((6, 10, 0), "onevm recover --recreate makes a new one", id="6.10"),
        pytest.param((7, 4, 0), "onevm recover --recreate makes a new one", id="7.4"),
    ],
)
async def test_the_recreate_commands_depend_on_the_release(
    front: FrontEnd, monkeypatch: pytest.MonkeyPatch, release: tuple[int, ...], remedy: str
) -> None:
    async def release_of_oned() -> tuple[int, ...]:
        return release

    monkeypatch.setattr(front.opennebula, "release", release_of_oned)
    front.opennebula.vm(7, "i-7", state=POWEROFF)
    terminate(front)
    await front.run(1)
    assert [text for _, _, text in front.vm_logs] == [f"instance i-7 is terminated for good: {remedy}"]


async def test_a_terminated_instance_that_the_listing_lacks_is_looked_up(
    front: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An OpenNebula as cloud keeps terminated VMs for ever, and lists none of them."""
    front.opennebula.vm(7, "i-7", lcm_state=RUNNING)
    await front.look()
    terminate(front)
    every = front.cloud.list_instances

    async def alive() -> Any:
        return [each for each in await every() if not each.state.is_gone]

    monkeypatch.setattr(front.cloud, "list_instances", alive)
    await front.look(2)
    assert len(front.vm_logs) == 1


@pytest.mark.parametrize(
    "vm",
    [
        pytest.param({"lcm_state": 12}, id="being-terminated"),
        pytest.param({"lcm_state": 2}, id="being-deployed"),
        pytest.param({"lcm_state": RUNNING, "stime": 1}, id="another-life"),
        pytest.param({"lcm_state": RUNNING, "deploy_id": "i-8"}, id="another-instance"),
        pytest.param({"state": 6, "etime": 1}, id="done"),
    ],
)
async def test_nothing_is_logged_for_vms_that_opennebula_has_ended_or_is_changing(
    front: FrontEnd, vm: dict[str, Any]
) -> None:
    front.opennebula.vm(7, **{"deploy_id": "i-7", **vm})
    terminate(front)
    await front.look(2)
    assert not front.vm_logs


async def test_nothing_is_logged_during_an_action_or_while_the_instance_is_terminating(front: FrontEnd) -> None:
    front.opennebula.vm(7, "i-7", lcm_state=RUNNING)
    terminate(front, state=InstanceState.TERMINATING)
    await front.look()
    terminate(front)
    front.busy.add(7)
    await front.look()
    assert not front.vm_logs
    front.busy.clear()
    await front.look()
    assert len(front.vm_logs) == 1
