"""Deadlines of actions."""

from __future__ import annotations

import asyncio

import pytest

from one_provider_mad.errors import Throttled
from tests.actions.fakes import World, a_desk, identity_of, now, pass_time

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize(
    ("action", "operation", "seconds", "expected"),
    [
        pytest.param("DEPLOY", "create", None, 600, id="deploy"),
        pytest.param("SHUTDOWN", "destroy", None, 300, id="shutdown"),
        pytest.param("REBOOT", "reboot", None, 300, id="reboot"),
        pytest.param("DEPLOY", "create", 10, 10, id="deploy-w-10"),
        pytest.param("SHUTDOWN", "destroy", 10, 10, id="shutdown-w-10"),
    ],
)
async def test_an_action_fails_at_its_deadline_and_names_the_call_it_waited_for(
    world: World, action: str, operation: str, seconds: float | None, expected: int
) -> None:
    world.set_cloud(call_timeout=10_000)
    world.provider.always[operation] = asyncio.Event()
    deploy_id = "" if action == "DEPLOY" else world.provider.add(identity_of())
    word = {"destroy": "terminate"}.get(operation, operation)
    async with a_desk(world, timeout=seconds) as desk:
        answer = await desk.answer(action, release="5.10", deploy_id=deploy_id)
    assert answer == f"FAILURE gave up after {expected} s waiting for the cloud's answer to {word}"
    assert expected <= now() < expected + 10


@pytest.mark.parametrize(("seconds", "expected"), [(None, 300), (10, 10)], ids=["poll", "poll-w-10"])
async def test_a_hanging_poll_reports_no_change_at_its_deadline(
    world: World, seconds: float | None, expected: int
) -> None:
    world.set_cloud(call_timeout=10_000)
    world.provider.always["describe"] = asyncio.Event()
    deploy_id = world.provider.add(identity_of())
    async with a_desk(world, timeout=seconds) as desk:
        assert await desk.answer("POLL", release="5.10", deploy_id=deploy_id) == "SUCCESS STATE=-"
    assert expected <= now() < expected + 10


async def test_a_deploy_that_exceeds_its_deadline_names_the_instances_state(world: World) -> None:
    world.provider.boot_time = 100_000
    async with a_desk(world, timeout=60) as desk:
        assert await desk.answer("DEPLOY") == "FAILURE gave up after 60 s waiting for i-1 to be running (it is pending)"


async def test_an_action_has_no_time_limit_with_w_0(world: World) -> None:
    world.provider.boot_time = 700  # a deploy's own deadline is 600
    async with a_desk(world, timeout=0) as desk:
        assert await desk.answer("DEPLOY") == "SUCCESS i-1"
    assert now() >= 700


@pytest.mark.parametrize("seconds", [None, 0, 10], ids=["default", "none", "ten"])
async def test_a_timeout_error_of_a_provider_is_not_mistaken_for_the_deadline(
    world: World, seconds: float | None
) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.always["describe"] = TimeoutError("somewhere inside")
    async with a_desk(world, timeout=seconds) as desk:
        assert await desk.answer("POLL", release="5.10", deploy_id=deploy_id) == "SUCCESS STATE=-"
        answer = await desk.answer("SHUTDOWN", release="5.10", deploy_id=deploy_id)
        assert answer == "FAILURE internal error (TimeoutError), the driver's log has the details"
    assert now() < 5


async def test_time_in_the_queue_does_not_count_against_the_deadline(world: World) -> None:
    world.provider.boot_time = 50
    async with a_desk(world, threads=1, timeout=60) as desk:
        for vm_id in range(4):
            desk.ask("DEPLOY", vm_id)
        await desk.settled()
        assert [reply.split()[1] for reply in desk.replies()] == ["SUCCESS"] * 4


async def test_a_throttled_create_is_not_retried_after_the_deadline(world: World) -> None:
    """Otherwise an instance would be created after the deploy was answered with a failure."""
    world.provider.always["create"] = Throttled("slow down")
    async with a_desk(world, timeout=60) as desk:
        answer = await desk.answer("DEPLOY")
        assert answer.startswith("FAILURE gave up after 60 s waiting for the cloud's answer to create")
        tries = world.provider.count("create")
        assert tries > 3
        await pass_time(600)
        assert world.provider.count("create") <= tries + 1
        del world.provider.always["create"]
        await pass_time(600)
        assert world.provider.instances == {}
