from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.domain import InstanceState
from tests.actions.fakes import AbleCloud, Desk, FakeScripts, World, a_desk, a_world, identity_of, pass_time, until

pytestmark = pytest.mark.looptime

Ask = tuple[str, int]
"""An action and the LCM_STATE that oned sends with it."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path, AbleCloud()) as world:
        world.set_cloud(call_timeout=10_000)
        yield world


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    async with a_desk(world) as desk:
        yield desk


def vm_log(desk: Desk) -> list[str]:
    return [line.removeprefix("LOG I 7 ") for line in desk.logs()]


async def test_a_repeated_terminate_is_answered_once_after_the_hanging_one_has_ended(desk: Desk) -> None:
    """`recover --failure`, and a second terminate: oned would take the first answer for the second's."""
    deploy_id = desk.world.provider.add(identity_of())
    hangs = asyncio.Event()
    desk.world.provider.before["destroy"].append(hangs)
    desk.ask("SHUTDOWN", lcm_state=12, deploy_id=deploy_id)
    await until(lambda: desk.world.provider.count("destroy") == 1)
    desk.ask("SHUTDOWN", lcm_state=12, deploy_id=deploy_id)
    await pass_time(60)
    assert desk.replies() == []
    assert await desk.open_requests() == ["SHUTDOWN", "SHUTDOWN"], "the next process has to know of both"
    hangs.set()
    await desk.reply("SHUTDOWN")
    assert desk.world.provider.state(deploy_id) is InstanceState.TERMINATED
    await desk.settled()
    await desk.world.journal.sync()
    assert (desk.replies(), await desk.open_requests()) == (["SHUTDOWN SUCCESS 7 -"], [])
    begun, ended = vm_log(desk)
    assert begun == (
        "SHUTDOWN came while SHUTDOWN was unanswered, and is answered for both, once SHUTDOWN has ended, which waits"
        " for the cloud's answer to terminate"
    )
    assert ended == "SHUTDOWN has ended with SUCCESS -; SHUTDOWN is answered instead"


async def test_a_repeated_deploy_creates_one_instance_and_is_answered_once(desk: Desk) -> None:
    """`recover --retry` of a VM in BOOT: oned sends DEPLOY as often as it is asked to, and cancels nothing."""
    for _ in range(3):
        desk.ask("DEPLOY")
    await desk.settled()
    assert desk.replies() == ["DEPLOY SUCCESS 7 i-1"]
    assert desk.world.provider.count("create") == 1


@pytest.mark.parametrize("newer", [("SHUTDOWN", 12), ("CANCEL", 12), ("CLEANUP", 23)])
@pytest.mark.parametrize("hangs_in", ["create", "find", "describe"])
async def test_a_terminate_during_a_hanging_deploy_leaves_no_instance(desk: Desk, newer: Ask, hangs_in: str) -> None:
    """Without DRIVER_CANCEL, as after `recover --failure`."""
    answer = asyncio.Event()
    desk.world.provider.before[hangs_in].append(answer)
    desk.ask("DEPLOY")
    await until(lambda: desk.world.provider.count(hangs_in) == 1)
    desk.ask(newer[0], lcm_state=newer[1])
    await pass_time(5)
    answer.set()
    await desk.settled()
    assert desk.replies() == [f"{newer[0]} SUCCESS 7 -"]
    await pass_time(100)
    assert desk.world.provider.alive() == []


@pytest.mark.parametrize(
    ("older", "hangs_in", "newer", "calls", "after"),
    [
        pytest.param(
            ("SHUTDOWN", 12), "find", ("SHUTDOWN", 18), ["stop"], InstanceState.STOPPED,
            id="power-off-after-terminate",
        ),
        pytest.param(
            ("SHUTDOWN", 18), "stop", ("CANCEL", 18), ["stop", "stop hard"], InstanceState.STOPPED,
            id="power-off-hard-after-power-off",
        ),
        pytest.param(
            ("SHUTDOWN", 18), "stop", ("SHUTDOWN", 12), ["stop", "destroy"], InstanceState.TERMINATED,
            id="terminate-after-power-off",
        ),
        pytest.param(
            ("ATTACHDISK", 17), "attach_disk", ("CLEANUP", 23), ["attach_disk", "destroy"], InstanceState.TERMINATED,
            id="cleanup-after-attach-disk",
        ),
    ],
)  # fmt: skip
async def test_a_hanging_action_that_is_no_longer_needed_does_not_delay_the_newer_one(
    desk: Desk, older: Ask, hangs_in: str, newer: Ask, calls: list[str], after: InstanceState
) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.before[hangs_in].append(asyncio.Event())
    operand: dict[str, Any] = {"operand": {"DISK_ID": "1"}} if older[0] == "ATTACHDISK" else {}
    named = "" if hangs_in == "find" else deploy_id
    desk.ask(older[0], lcm_state=older[1], deploy_id=named, **operand)
    await until(lambda: desk.world.provider.count(hangs_in) == 1)
    desk.ask(newer[0], lcm_state=newer[1], deploy_id=named)
    await desk.settled()
    await desk.world.journal.sync()
    assert desk.replies() == [f"{newer[0]} SUCCESS 7 -"]
    assert await desk.open_requests() == []
    assert [name for name, _ in desk.world.provider.calls if name not in ("describe", "find")] == calls
    assert desk.world.provider.state(deploy_id) is after


async def test_a_start_waits_for_an_earlier_stop_of_the_same_vm(desk: Desk) -> None:
    """`recover --success` of a power off, and resume: the cloud might carry out an abandoned stop after the start."""
    deploy_id = desk.world.provider.add(identity_of())
    desk.ask("SHUTDOWN", lcm_state=18, deploy_id=deploy_id)
    await until(lambda: desk.world.provider.count("stop") == 1)
    desk.ask("DEPLOY", lcm_state=20, deploy_id=deploy_id, seq=1)
    await desk.settled()
    assert desk.replies() == [f"DEPLOY SUCCESS 7 {deploy_id}"]
    assert desk.world.provider.state(deploy_id) is InstanceState.RUNNING
    assert desk.world.provider.count("start") == 1


@pytest.mark.parametrize(
    ("asked", "calls"),
    [
        pytest.param([("DEPLOY", 2), ("DEPLOY", 2)], ["create"], id="deploy-twice"),
        pytest.param([("DEPLOY", 2), ("CLEANUP", 23)], [], id="cleanup-after-deploy"),
        pytest.param([("DEPLOY", 2), ("SHUTDOWN", 18)], ["create", "stop"], id="power-off-after-deploy"),
        pytest.param([("SHUTDOWN", 12), ("DEPLOY", 2)], ["create"], id="deploy-after-terminate"),
    ],
)
async def test_a_queued_action_is_dropped_if_the_newer_one_does_not_need_it(
    world: World, asked: list[Ask], calls: list[str]
) -> None:
    async with a_desk(world, threads=1) as desk:
        world.provider.before["find"].append(asyncio.Event())
        desk.ask("DEPLOY", 1)
        await until(lambda: world.provider.count("find") == 1)
        for action, lcm_state in asked:
            desk.ask(action, lcm_state=lcm_state)
        desk.ask("DRIVER_CANCEL", 1)
        await desk.settled()
        await world.journal.sync()
        assert [reply.split()[0:2] for reply in desk.replies()] == [[asked[-1][0], "SUCCESS"]]
        assert await desk.open_requests() == []
        made = [name for name, _ in world.provider.calls if name not in ("describe", "find")]
        assert made == calls


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("DEPLOY", "REBOOT"),
        ("DEPLOY", "UPDATESG"),
        ("UPDATESG", "UPDATESG"),
        ("REBOOT", "SHUTDOWN"),
        ("REBOOT", "REBOOT"),
    ],
)
async def test_reboots_and_security_group_updates_are_answered_beside_other_actions(
    desk: Desk, older: str, newer: str
) -> None:
    """oned changes no VM's state when a REBOOT or UPDATESG is answered."""
    deploy_id = "" if older == "DEPLOY" else desk.world.provider.add(identity_of())
    group = {"SECURITY_GROUP_ID": "104"}
    for action in (older, newer):
        details: dict[str, Any] = {"operand": group} if action == "UPDATESG" else {}
        desk.ask(action, deploy_id=deploy_id, **details)
    await desk.settled()
    assert [reply.split()[:2] for reply in desk.replies()] == [[older, "SUCCESS"], [newer, "SUCCESS"]]


async def test_of_two_device_actions_only_the_newer_is_answered(desk: Desk) -> None:
    """Both wait in HOTPLUG: the answer to the attaching would end the detaching."""
    deploy_id = desk.world.provider.add(identity_of())
    answer = asyncio.Event()
    desk.world.provider.before["attach_disk"].append(answer)
    for action in ("ATTACHDISK", "DETACHDISK"):
        desk.ask(action, lcm_state=17, deploy_id=deploy_id, operand={"DISK_ID": "1"})
    await pass_time(30)
    answer.set()
    await desk.settled()
    assert desk.replies() == ["DETACHDISK SUCCESS 7 -"]


async def test_the_newer_terminate_has_its_own_deadline_and_names_the_call_it_waited_for(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.always["destroy"] = asyncio.Event()
    async with a_desk(world, timeout=60) as desk:
        for _ in range(2):
            desk.ask("SHUTDOWN", lcm_state=12, deploy_id=deploy_id)
            await pass_time(1)
        await desk.settled()
        expected = "FAILURE 7 gave up after 60 s waiting for the cloud's answer to terminate"
        assert desk.replies() == [f"SHUTDOWN {expected}"]
        assert 119 <= asyncio.get_running_loop().time() <= 122


async def test_a_cancelled_deploy_that_was_sent_twice_leaves_a_debt(desk: Desk) -> None:
    desk.world.provider.before["create"].append(asyncio.Event())
    desk.ask("DEPLOY")
    await until(lambda: desk.world.provider.count("create") == 1)
    desk.ask("DEPLOY")
    desk.ask("DRIVER_CANCEL")
    await desk.settled()
    assert desk.replies() == []
    assert [debt.reason for debt in await desk.world.journal.debts()] == ["its deploy was cancelled"]


# Scripts


@pytest.fixture
def scripts() -> FakeScripts:
    scripts = FakeScripts()
    scripts.gate = asyncio.Event()
    return scripts


@pytest.mark.parametrize(
    ("newer", "answer", "performed", "replies"),
    [
        pytest.param(("DEPLOY", 2), "i-5", ["DEPLOY"], ["DEPLOY SUCCESS 7 i-5"], id="same-action"),
        pytest.param(("SHUTDOWN", 12), "-", ["DEPLOY", "SHUTDOWN"], ["SHUTDOWN SUCCESS 7 -"], id="another-action"),
        pytest.param(
            ("DEPLOY", 20), "-", ["DEPLOY", "DEPLOY"], ["DEPLOY SUCCESS 7 -"], id="same-action-in-another-lcm-state"
        ),
    ],
)
async def test_a_newer_request_waits_for_the_running_script_and_one_reply_answers_both(
    world: World, scripts: FakeScripts, newer: Ask, answer: str, performed: list[str], replies: list[str]
) -> None:
    """A second machine would be bought, or the machine not be there any more, were the same script run twice."""
    scripts.answer = answer
    assert scripts.gate is not None
    async with a_desk(world, verbatim=scripts) as desk:
        desk.ask("DEPLOY", lcm_state=2)
        await until(lambda: len(scripts.requests) == 1)
        for _ in range(2):
            desk.ask(newer[0], lcm_state=newer[1])
        await pass_time(1000)
        assert (len(scripts.requests), desk.replies()) == (1, [])
        scripts.gate.set()
        await desk.settled()
        assert [request.action for request in scripts.requests] == performed
        assert desk.replies() == replies


async def test_a_failed_script_is_run_again_for_the_newer_request(world: World, scripts: FakeScripts) -> None:
    scripts.answer = KeyError("x")
    assert scripts.gate is not None
    async with a_desk(world, verbatim=scripts) as desk:
        desk.ask("DEPLOY", lcm_state=2)
        await until(lambda: len(scripts.requests) == 1)
        desk.ask("DEPLOY", lcm_state=2)
        scripts.gate.set()
        await desk.settled()
        assert len(scripts.requests) == 2
        assert len(desk.replies()) == 1
