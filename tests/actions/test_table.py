from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.actions.table import CREATES_OR_DESTROYS, FIRST_WORDS, HANDLERS
from one_provider_mad.domain import InstanceState
from one_provider_mad.errors import NotSupported, RequestRefused
from one_provider_mad.protocol.messages import Action
from tests.actions.fakes import World, a_world, identity_of, request_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


async def perform(world: World, word: str, **fields: Any) -> str:
    return await HANDLERS[Action(word)](world.work(request_of(**fields), deadline=math.inf))


def test_every_action_but_poll_and_driver_cancel_has_a_handler() -> None:
    assert {action.value for action in Action} - {action.value for action in HANDLERS} == {"POLL", "DRIVER_CANCEL"}


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("word", "lcm_state", "before", "calls", "after"),
    [
        pytest.param("DEPLOY", 20, InstanceState.STOPPED, ["start"], InstanceState.RUNNING, id="resume"),
        pytest.param("RESTORE", 21, InstanceState.STOPPED, ["start"], InstanceState.RUNNING, id="restore"),
        pytest.param("SHUTDOWN", 18, InstanceState.RUNNING, ["stop"], InstanceState.STOPPED, id="power-off"),
        pytest.param("SHUTDOWN", 12, InstanceState.RUNNING, ["destroy"], InstanceState.TERMINATED, id="terminate"),
        pytest.param("CANCEL", 18, InstanceState.RUNNING, ["stop hard"], InstanceState.STOPPED, id="power-off-hard"),
        pytest.param("CANCEL", 12, InstanceState.RUNNING, ["destroy"], InstanceState.TERMINATED, id="terminate-hard"),
        pytest.param("SAVE", 6, InstanceState.RUNNING, ["stop"], InstanceState.STOPPED, id="suspend"),
        pytest.param("CLEANUP", 0, InstanceState.RUNNING, ["destroy"], InstanceState.TERMINATED, id="delete"),
        pytest.param("REBOOT", 3, InstanceState.RUNNING, ["reboot"], InstanceState.RUNNING, id="reboot"),
        pytest.param("RESET", 3, InstanceState.RUNNING, ["reboot hard"], InstanceState.RUNNING, id="reset"),
        pytest.param(
            "REBOOT", None, InstanceState.RUNNING, ["reboot"], InstanceState.RUNNING, id="reboot-without-lcm-state"
        ),
    ],
)
async def test_each_action_makes_its_call_and_reaches_its_state(
    world: World, word: str, lcm_state: int | None, before: InstanceState, calls: list[str], after: InstanceState
) -> None:
    deploy_id = world.provider.add(identity_of(), before)
    await perform(world, word, deploy_id=deploy_id, lcm_state=lcm_state)
    assert [name for name, _ in world.provider.calls if name not in ("describe", "find")] == calls
    assert world.provider.state(deploy_id) is after


@pytest.mark.looptime
async def test_a_deploy_in_boot_creates_an_instance(world: World) -> None:
    assert await perform(world, "DEPLOY", lcm_state=2) == "i-1"


@pytest.mark.looptime
async def test_an_action_without_intent_in_its_lcm_state_is_refused(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    with pytest.raises(RequestRefused, match="nothing was done"):
        await perform(world, "SHUTDOWN", deploy_id=deploy_id, lcm_state=3)
    assert world.provider.calls == []


@pytest.mark.looptime
async def test_a_migration_is_refused_in_every_lcm_state(world: World) -> None:
    for lcm_state in (4, 3, None):
        with pytest.raises(RequestRefused, match="migration is not supported: use onevm undeploy and deploy"):
            await perform(world, "MIGRATE", lcm_state=lcm_state)


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("BACKUP", "backups"),
        ("BACKUPCANCEL", "backups"),
        ("EXEC", "commands inside the VM"),
        ("EXEC_CANCEL", "commands inside the VM"),
    ],
)
async def test_actions_that_no_cloud_supports_are_refused_as_unsupported(world: World, word: str, what: str) -> None:
    with pytest.raises(NotSupported) as caught:
        await perform(world, word)
    assert str(caught.value) == f"provider fake does not support {what}"


def test_actions_repeated_after_a_crash_are_those_that_create_destroy_start_or_stop() -> None:
    assert {action.value for action in CREATES_OR_DESTROYS} == {
        "DEPLOY",
        "RESTORE",
        "SHUTDOWN",
        "CANCEL",
        "SAVE",
        "CLEANUP",
    }


def test_replies_to_updatesg_and_updatenic_begin_with_the_security_group_or_network_id() -> None:
    request = request_of(security_group_id="100", virtual_network_id="4")
    first_words = {action.value: first(request) for action, first in FIRST_WORDS.items()}
    assert first_words == {"UPDATESG": "100", "UPDATENIC": "4"}
