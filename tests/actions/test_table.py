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


def test_every_action_has_a_handler_except_those_that_are_no_work_of_one_vm() -> None:
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
        pytest.param("REBOOT", None, InstanceState.RUNNING, ["reboot"], InstanceState.RUNNING, id="whatever-the-state"),
    ],
)
async def test_an_action_does_what_it_means(
    world: World, word: str, lcm_state: int | None, before: InstanceState, calls: list[str], after: InstanceState
) -> None:
    deploy_id = world.provider.add(identity_of(), before)
    await perform(world, word, deploy_id=deploy_id, lcm_state=lcm_state)
    assert [name for name, _ in world.provider.calls if name not in ("describe", "find")] == calls
    assert world.provider.state(deploy_id) is after


@pytest.mark.looptime
async def test_a_deploy_in_boot_creates(world: World) -> None:
    assert await perform(world, "DEPLOY", lcm_state=2) == "i-1"


@pytest.mark.looptime
async def test_an_action_that_means_nothing_in_its_state_does_nothing(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    with pytest.raises(RequestRefused, match="nothing was done"):
        await perform(world, "SHUTDOWN", deploy_id=deploy_id, lcm_state=3)
    assert world.provider.calls == []


@pytest.mark.looptime
async def test_a_migration_is_refused_in_whatever_state(world: World) -> None:
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
async def test_what_no_cloud_can_do_is_refused_like_what_this_one_cannot(world: World, word: str, what: str) -> None:
    with pytest.raises(NotSupported) as caught:
        await perform(world, word)
    assert str(caught.value) == f"provider fake does not support {what}"


def test_what_is_carried_out_again_after_a_crash_brings_an_instance_to_a_state() -> None:
    assert {action.value for action in CREATES_OR_DESTROYS} == {
        "DEPLOY",
        "RESTORE",
        "SHUTDOWN",
        "CANCEL",
        "SAVE",
        "CLEANUP",
    }


def test_replies_that_must_begin_with_a_number_do() -> None:
    request = request_of(security_group_id="100", virtual_network_id="4")
    first_words = {action.value: first(request) for action, first in FIRST_WORDS.items()}
    assert first_words == {"UPDATESG": "100", "UPDATENIC": "4"}
