"""An unreachable cloud is waited for beyond `-r`; stops and terminations are repeated after any passing failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.calls.cloud import SharedCloud
from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.errors import NotReached, ProviderError, ProviderUnavailable, WrongEndpoint
from one_provider_mad.journal.records import AttemptState
from tests.actions.fakes import OWNER, AbleCloud, Desk, a_desk, a_world, identity_of, pass_time, until

pytestmark = pytest.mark.looptime

REFUSED = NotReached("fake cannot be reached: Connection refused")
NO_ANSWER = ProviderUnavailable("fake did not answer")

CALLS = ("describe", "find", "list", "create", "start", "stop", "stop hard", "reboot", "destroy", "retag", "suspend")


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A driver with `-r 0`, on a cloud that can do everything."""
    async with a_world(tmp_path, AbleCloud()) as world, a_desk(world) as desk:
        yield desk


def begin(desk: Desk, error: ProviderError = REFUSED) -> None:
    """From now on every call fails with this error."""
    desk.world.provider.always.update(dict.fromkeys(CALLS, error))


def end(desk: Desk) -> None:
    desk.world.provider.always.clear()


ACTIONS: dict[str, tuple[str, dict[str, Any], InstanceState]] = {
    "deploy": ("DEPLOY", {}, InstanceState.RUNNING),
    "resume": ("DEPLOY", {"lcm_state": 20}, InstanceState.STOPPED),
    "poweroff": ("SHUTDOWN", {"lcm_state": 18}, InstanceState.RUNNING),
    "poweroff-hard": ("CANCEL", {"lcm_state": 18}, InstanceState.RUNNING),
    "undeploy": ("SHUTDOWN", {"lcm_state": 29}, InstanceState.RUNNING),
    "suspend": ("SAVE", {"lcm_state": 6}, InstanceState.RUNNING),
    "terminate": ("SHUTDOWN", {"lcm_state": 12}, InstanceState.RUNNING),
    "terminate-hard": ("CANCEL", {"lcm_state": 12}, InstanceState.RUNNING),
    "delete": ("CLEANUP", {"lcm_state": 23}, InstanceState.RUNNING),
    "reboot": ("REBOOT", {}, InstanceState.RUNNING),
}


async def asked_in_an_outage(desk: Desk, name: str, error: ProviderError, seconds: float) -> str:
    """Send the action in an outage of that many seconds, and return its answer."""
    action, details, state = ACTIONS[name]
    deploy_id = DeployId("") if name == "deploy" else desk.world.provider.add(identity_of(), state)
    begin(desk, error)
    desk.ask(action, deploy_id=deploy_id, **details)
    await pass_time(seconds)
    end(desk)
    return await desk.reply(action)


@pytest.mark.parametrize("name", ACTIONS)
async def test_an_action_sent_during_an_outage_succeeds_after_it(desk: Desk, name: str) -> None:
    answer = await asked_in_an_outage(desk, name, REFUSED, 60.0)
    assert answer.startswith("SUCCESS ")
    assert 60 <= now() < 110, "the longest pause is 20 s"


@pytest.mark.parametrize("name", ["poweroff", "poweroff-hard", "undeploy", "suspend", "terminate", "delete"])
async def test_stops_and_terminations_are_retried_after_any_transient_failure(desk: Desk, name: str) -> None:
    assert await asked_in_an_outage(desk, name, NO_ANSWER, 60.0) == "SUCCESS -"


@pytest.mark.parametrize("name", ["deploy", "resume", "reboot"])
async def test_an_unanswered_deploy_resume_or_reboot_fails_after_its_retries(desk: Desk, name: str) -> None:
    assert await asked_in_an_outage(desk, name, NO_ANSWER, 1.0) == "FAILURE fake did not answer"


@pytest.mark.parametrize("name", ACTIONS)
async def test_an_action_fails_at_once_if_the_endpoint_never_answered(desk: Desk, name: str) -> None:
    error = WrongEndpoint("fake cannot be reached: its name cannot be resolved, check endpoint_url")
    action, details, state = ACTIONS[name]
    deploy_id = DeployId("") if name == "deploy" else desk.world.provider.add(identity_of(), state)
    begin(desk, error)
    answer = await desk.answer(action, deploy_id=deploy_id, **details)
    assert answer.startswith("FAILURE ")
    assert str(error) in answer
    assert now() < 1


@pytest.mark.parametrize(
    ("name", "seconds", "call"),
    [("deploy", 600, "find by tags"), ("poweroff", 300, "describe"), ("reboot", 300, "describe")],
)
async def test_the_failure_names_the_outage_that_outlasted_the_deadline(
    desk: Desk, name: str, seconds: int, call: str
) -> None:
    answer = await asked_in_an_outage(desk, name, REFUSED, 1000.0)
    assert answer == f"FAILURE gave up after {seconds} s waiting for {call}: fake cannot be reached: Connection refused"


async def test_one_instance_is_created_if_an_outage_begins_during_create(desk: Desk) -> None:
    desk.world.provider.before["create"].extend([REFUSED] * 4)
    assert await desk.answer("DEPLOY") == "SUCCESS i-1"
    assert len(desk.world.provider.instances) == 1
    assert {attempt.token for attempt in await desk.world.attempts()} == set(desk.world.provider.tokens)


async def test_no_instance_is_created_after_the_deploy_failed_in_an_outage(desk: Desk) -> None:
    desk.world.provider.always["create"] = REFUSED
    assert (await desk.answer("DEPLOY")).startswith("FAILURE gave up after 600 s waiting for create: fake cannot")
    end(desk)
    await pass_time(1000)
    assert desk.world.provider.instances == {}
    assert await desk.answer("DEPLOY") == "SUCCESS i-1"
    assert [each.state for each in await desk.world.attempts()][-1] is AttemptState.CREATED


async def test_a_power_off_waits_out_an_outage_that_begins_while_the_instance_stops(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.ask("SHUTDOWN", deploy_id=deploy_id, lcm_state=18)
    await until(lambda: desk.world.provider.count("stop") == 1)
    begin(desk)
    await pass_time(100)
    end(desk)
    assert await desk.reply("SHUTDOWN") == "SUCCESS -"


async def test_a_driver_started_in_an_outage_deploys_after_it(desk: Desk) -> None:
    desk.engines.error = REFUSED
    desk.ask("DEPLOY")
    await pass_time(60)
    desk.engines.error = None
    assert await desk.reply("DEPLOY") == "SUCCESS i-1"


async def test_a_poll_is_answered_at_once_while_other_actions_wait_for_the_cloud(desk: Desk) -> None:
    ids = [desk.world.provider.add(identity_of(vm_id)) for vm_id in (7, 8)]
    begin(desk)
    desk.ask("SHUTDOWN", deploy_id=ids[0], lcm_state=18)
    await pass_time(10)
    before = now()
    desk.ask("POLL", 8, deploy_id=ids[1], release="5.10")
    assert await desk.reply("POLL", 8) == "SUCCESS STATE=-"
    assert now() - before < 1
    end(desk)
    assert await desk.reply("SHUTDOWN") == "SUCCESS -"


async def test_actions_that_wait_for_the_cloud_do_not_block_other_vms(tmp_path: Path) -> None:
    """Only creates fail; all other calls succeed."""
    async with a_world(tmp_path, AbleCloud()) as world, a_desk(world, threads=2) as desk:
        deploy_id, polled = (world.provider.add(identity_of(vm_id)) for vm_id in (90, 91))
        world.provider.always["create"] = REFUSED
        for vm_id in range(10):
            desk.ask("DEPLOY", vm_id)
        await pass_time(10)
        before = now()
        desk.ask("POLL", 91, deploy_id=polled, release="5.10")
        assert await desk.reply("POLL", 91) == "SUCCESS STATE=a"
        desk.ask("CANCEL", 90, deploy_id=deploy_id, lcm_state=12)
        assert await desk.reply("CANCEL", 90) == "SUCCESS -"
        assert now() - before < 20
        end(desk)
        assert [(await desk.reply("DEPLOY", vm_id))[:8] for vm_id in range(10)] == ["SUCCESS "] * 10
        assert now() < 120


async def test_a_poll_after_a_power_off_that_failed_in_an_outage_reports_no_change(desk: Desk) -> None:
    """oned 5.10 polls the VM then, and makes it UNKNOWN if the POLL fails."""
    deploy_id = desk.world.provider.add(identity_of())
    begin(desk)
    assert (await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=18, release="5.10")).startswith("FAILURE ")
    assert await desk.answer("POLL", deploy_id=deploy_id, release="5.10") == "SUCCESS STATE=-"


@pytest.mark.parametrize("name", ["deploy", "poweroff", "terminate", "reboot"])
async def test_a_waiting_action_continues_with_corrected_settings(desk: Desk, name: str) -> None:
    """An edited configuration, with a corrected endpoint for example, makes a new provider."""
    action, details, state = ACTIONS[name]
    wrong, right = desk.world, AbleCloud()
    deploy_id = DeployId("") if name == "deploy" else right.add(identity_of(), state)
    is_corrected = False
    begin(desk)
    settings = {"owner": OWNER, "retries": 0, "call_timeout": 60.0}
    wrong.shared = SharedCloud(wrong.provider, is_current=lambda: not is_corrected, **settings)  # type: ignore[arg-type]
    desk.ask(action, deploy_id=deploy_id, **details)
    await pass_time(30)
    is_corrected = True
    wrong.shared = SharedCloud(right, **settings)  # type: ignore[arg-type]
    assert (await desk.reply(action)).startswith("SUCCESS ")
    assert now() < 60


async def test_driver_cancel_ends_a_deploy_that_waits_for_the_cloud(desk: Desk) -> None:
    begin(desk)
    desk.ask("DEPLOY")
    await pass_time(30)
    desk.write(b"DRIVER_CANCEL  7 ")
    await desk.settled()
    end(desk)
    await pass_time(1000)
    assert desk.world.provider.instances == {}
    assert desk.replies("DEPLOY") == []
