"""Failed terminations and cancelled deploys become debts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from one_provider_mad.domain import InstanceState, Template
from one_provider_mad.errors import PermissionDenied, ProviderUnavailable, SettingsError
from one_provider_mad.journal.records import AttemptState
from tests.actions.fakes import Desk, World, a_desk, identity_of, large, pass_time, until

pytestmark = pytest.mark.looptime


def of(template: Template | None) -> dict[str, Any]:
    """Details of a message with this template, or with the default one."""
    return {} if template is None else {"template": template}


async def debts(world: World) -> list[tuple[str, str]]:
    return [(debt.deploy_id, debt.reason) for debt in await world.journal.debts()]


@pytest.mark.parametrize("state", [AttemptState.OPEN, AttemptState.CREATED])
@pytest.mark.parametrize("template", [None, large()], ids=["small", "large"])
async def test_a_cancelled_deploy_becomes_a_debt_for_its_attempt(
    desk: Desk, state: AttemptState, template: Template | None
) -> None:
    desk.world.provider.boot_time = 100_000
    if state is AttemptState.OPEN:
        desk.world.provider.before["create"].append(asyncio.Event())
    desk.ask("DEPLOY", **of(template))
    await until(lambda: desk.world.provider.count("create") == 1)
    await pass_time(2)
    desk.ask("DRIVER_CANCEL")
    await desk.settled()
    [attempt] = await desk.world.attempts()
    [debt] = await desk.world.journal.debts()
    assert (debt.token, debt.deploy_id, debt.reason) == (attempt.token, attempt.deploy_id, "its deploy was cancelled")
    assert attempt.state is state


async def test_a_deploy_cancelled_before_its_create_leaves_no_debt(desk: Desk) -> None:
    desk.world.provider.before["find"].append(asyncio.Event())
    desk.ask("DEPLOY")
    await until(lambda: desk.world.provider.count("find") == 1)
    desk.ask("DRIVER_CANCEL")
    await desk.settled()
    assert await debts(desk.world) == []


@pytest.mark.parametrize(
    ("action", "lcm_state"), [("SHUTDOWN", 18), ("SHUTDOWN", 12), ("DEPLOY", 20)], ids=["stop", "terminate", "start"]
)
async def test_a_cancelled_action_that_creates_nothing_leaves_no_debt(desk: Desk, action: str, lcm_state: int) -> None:
    desk.world.provider.always["describe"] = asyncio.Event()
    deploy_id = desk.world.provider.add(identity_of(), InstanceState.STOPPED)
    await desk.world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id)
    desk.ask(action, lcm_state=lcm_state, deploy_id=deploy_id)
    await until(lambda: desk.world.provider.count("describe") == 1)
    desk.ask("DRIVER_CANCEL")
    await desk.settled()
    assert await debts(desk.world) == []
    assert desk.replies() == []


PASSING = [
    pytest.param(ProviderUnavailable("no answer"), id="unavailable"),
    pytest.param(PermissionDenied("not allowed"), id="refused"),
    pytest.param(KeyError("a defect"), id="defect"),
]


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("template", [None, large()], ids=["small", "large"])
async def test_a_failed_cleanup_becomes_a_debt(desk: Desk, error: Exception, template: Template | None) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.always["destroy"] = error
    assert (await desk.answer("CLEANUP", deploy_id=deploy_id, **of(template))).startswith("FAILURE ")
    owed = await debts(desk.world)
    assert {id_ for id_, _ in owed} == {deploy_id, ""}
    assert all(reason.startswith("CLEANUP failed: ") for _, reason in owed)


async def test_a_cleanup_that_exceeds_its_deadline_becomes_a_debt(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.destroy_time = 100_000
    async with a_desk(world, timeout=60) as desk:
        answer = await desk.answer("CLEANUP", deploy_id=deploy_id)
        assert answer == f"FAILURE gave up after 60 s waiting for {deploy_id} to be terminated (it is terminating)"
    assert deploy_id in {id_ for id_, _ in await debts(world)}


@pytest.mark.parametrize("template", [None, large()], ids=["small", "large"])
async def test_a_cleanup_without_a_usable_configuration_becomes_a_debt(desk: Desk, template: Template | None) -> None:
    desk.engines.error = SettingsError("x.toml: owner is missing")
    await desk.answer("CLEANUP", deploy_id="i-1", **of(template))
    assert {id_ for id_, _ in await debts(desk.world)} == {"i-1", ""}


async def test_a_cleanup_that_names_another_vms_instance_leaves_no_debt(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of(8))
    assert (await desk.answer("CLEANUP", deploy_id=deploy_id)).startswith("FAILURE instance i-1 belongs to VM 8")
    assert await debts(desk.world) == []


@pytest.mark.parametrize("is_after_cancel", [True, False], ids=["after-a-cancellation", "by-itself"])
async def test_a_failed_terminate_hard_becomes_a_debt_only_after_a_driver_cancel(
    desk: Desk, *, is_after_cancel: bool
) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.always["destroy"] = PermissionDenied("not allowed")
    if is_after_cancel:
        desk.world.provider.always["stop"] = asyncio.Event()
        desk.ask("SHUTDOWN", lcm_state=18, deploy_id=deploy_id)
        await until(lambda: desk.world.provider.count("stop") == 1)
        desk.ask("DRIVER_CANCEL")
    await desk.answer("CANCEL", lcm_state=12, deploy_id=deploy_id)
    assert bool(await debts(desk.world)) is is_after_cancel


async def test_a_failed_power_off_leaves_no_debt(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.always["stop hard"] = PermissionDenied("not allowed")
    desk.world.provider.always["stop"] = asyncio.Event()
    desk.ask("SHUTDOWN", lcm_state=18, deploy_id=deploy_id)
    await until(lambda: desk.world.provider.count("stop") == 1)
    desk.ask("DRIVER_CANCEL")
    assert (await desk.answer("CANCEL", lcm_state=18, deploy_id=deploy_id)).startswith("FAILURE")
    assert await debts(desk.world) == []


async def test_a_debt_that_cannot_be_journaled_is_logged(desk: Desk) -> None:
    desk.engines.journal = None
    desk.engines.error = SettingsError("x.toml: owner is missing")
    await desk.answer("CLEANUP", deploy_id="i-1")
    assert desk.logs()[0] == (
        "LOG E 7 an instance of this VM may be left in the cloud, terminate it there: there is no journal to note it in"
    )
