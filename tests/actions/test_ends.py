"""Clouds that can ask the guest to shut down before a termination, and park the instance of an undeployed VM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.actions.debts import pay
from one_provider_mad.domain import DeployId, Instance, InstanceState
from one_provider_mad.errors import CannotTell, PermissionDenied
from one_provider_mad.journal.records import ORPHAN, Debt
from one_provider_mad.protocol.messages import Request
from one_provider_mad.protocol.vmm import parse_line
from one_provider_mad.timestamps import Timestamp
from tests import oned_lines
from tests.actions.fakes import STIME, Desk, FakeCloud, World, a_desk, a_world, identity_of, pass_time, until

pytestmark = pytest.mark.looptime


class PartnerCloud(FakeCloud):
    """Pretends to be a cloud that asks guests and parks instances."""

    async def shut_down(self, deploy_id: DeployId) -> None:
        await self._travel("shut down", deploy_id)
        instance = self._known(deploy_id)
        if not instance.state.is_gone:
            instance.state = InstanceState.TERMINATING
            instance.then = (asyncio.get_running_loop().time() + self.destroy_time, InstanceState.TERMINATED)

    async def park(self, deploy_id: DeployId, *, hard: bool, keeps_memory: bool) -> None:
        await self._travel(f"park{' hard' if hard else ''}{' with memory' if keeps_memory else ''}", deploy_id)
        self._known(deploy_id).state = InstanceState.STOPPED


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path, PartnerCloud()) as world:
        yield world


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    async with a_desk(world) as desk:
        yield desk


def now() -> float:
    return asyncio.get_running_loop().time()


def asked(world: World) -> list[str]:
    return [name for name, _ in world.provider.calls if name not in ("describe", "find")]


@pytest.mark.parametrize(
    ("action", "lcm_state", "call"),
    [
        pytest.param("SHUTDOWN", 12, "shut down", id="terminate"),
        pytest.param("CANCEL", 12, "destroy", id="terminate-hard"),
        pytest.param("CLEANUP", 23, "destroy", id="delete"),
        pytest.param("SHUTDOWN", 18, "stop", id="power-off"),
        pytest.param("SHUTDOWN", 29, "park", id="undeploy"),
        pytest.param("CANCEL", 29, "park hard", id="undeploy-hard"),
        pytest.param("SAVE", 5, "park with memory", id="stop"),
    ],
)
async def test_each_action_makes_the_call_for_its_lcm_state(desk: Desk, action: str, lcm_state: int, call: str) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    assert await desk.answer(action, deploy_id=deploy_id, lcm_state=lcm_state) == "SUCCESS -"
    assert asked(desk.world) == [call]
    assert await desk.world.journal.parked() == ({deploy_id} if call.startswith("park") else set())


async def test_terminate_hard_cuts_a_hanging_guest_shutdown_short(desk: Desk) -> None:
    desk.world.provider.destroy_time = 100_000
    deploy_id = desk.world.provider.add(identity_of())
    desk.ask("SHUTDOWN", deploy_id=deploy_id, lcm_state=12)
    await until(lambda: asked(desk.world) == ["shut down"])
    desk.ask("DRIVER_CANCEL")
    desk.world.provider.instances[deploy_id].then = None
    desk.ask("CANCEL", deploy_id=deploy_id, lcm_state=12)
    await until(lambda: asked(desk.world) == ["shut down", "destroy"])
    desk.world.provider.instances[deploy_id].state = InstanceState.TERMINATED
    assert await desk.reply("CANCEL") == "SUCCESS -"


async def test_terminate_does_not_repeat_a_guest_shutdown_under_way(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of(), InstanceState.TERMINATING)
    desk.world.provider.instances[deploy_id].then = (5.0, InstanceState.TERMINATED)
    assert await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=12) == "SUCCESS -"
    assert asked(desk.world) == []


async def test_a_guest_that_does_not_shut_down_fails_the_action_and_the_next_one_destroys(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.ask("SHUTDOWN", deploy_id=deploy_id, lcm_state=12)
    await until(lambda: asked(desk.world) == ["shut down"])
    desk.world.provider.instances[deploy_id].then = (now() + 20.0, InstanceState.RUNNING)
    begun = now()
    assert await desk.reply("SHUTDOWN") == (
        f"FAILURE instance {deploy_id} runs on: its guest did not shut down; ask again to end it"
    )
    assert now() - begun < 60, "the slot is free long before the deadline"
    assert await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=12) == "SUCCESS -"
    assert asked(desk.world) == ["shut down", "destroy"]


async def test_a_second_terminate_destroys_an_instance_whose_guest_exceeded_its_shutdown_time(tmp_path: Path) -> None:
    """Also in the next process: the journal records that the guest was asked."""
    async with a_world(tmp_path, PartnerCloud()) as world, a_desk(world) as desk:
        world.provider.destroy_time = 100_000
        deploy_id = world.provider.add(identity_of())
        assert (await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=12)).startswith("FAILURE")
        assert asked(world) == ["shut down"]
    async with a_world(tmp_path, world.provider) as world, a_desk(world) as desk:
        desk.ask("SHUTDOWN", deploy_id=deploy_id, lcm_state=12)
        await until(lambda: asked(world) == ["shut down", "destroy"])
        world.provider.instances[deploy_id].state = InstanceState.TERMINATED
        assert await desk.reply("SHUTDOWN") == "SUCCESS -"


async def test_a_refused_guest_shutdown_is_requested_again(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.before["shut down"].append(PermissionDenied("not allowed"))
    assert await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=12) == "FAILURE not allowed"
    await pass_time(1000)
    assert await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=12) == "SUCCESS -"
    assert asked(desk.world) == ["shut down", "shut down"]


@pytest.mark.parametrize("action", ["SHUTDOWN", "CANCEL"])
async def test_a_termination_that_fails_in_the_cloud_is_answered_at_once_with_the_reason(
    desk: Desk, action: str
) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.ask(action, deploy_id=deploy_id, lcm_state=12)
    await until(lambda: len(asked(desk.world)) == 1)
    instance = desk.world.provider.instances[deploy_id]
    instance.reason, instance.then = "no such datastore", (now() + 20.0, InstanceState.UNKNOWN)
    begun = now()
    assert await desk.reply(action) == f"FAILURE instance {deploy_id} is unknown: no such datastore"
    assert now() - begun < 60
    assert await desk.answer("CANCEL", deploy_id=deploy_id, lcm_state=12) == "SUCCESS -", (
        "a failed instance can be terminated"
    )


async def test_terminate_hard_waits_until_a_failed_instance_begins_to_terminate(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of(), InstanceState.UNKNOWN, reason="no such bridge")

    async def slow(deploy_id: DeployId) -> None:
        desk.world.provider.instances[deploy_id].then = (now() + 8.0, InstanceState.TERMINATED)

    desk.world.provider.destroy = slow  # type: ignore[method-assign]
    assert await desk.answer("CANCEL", deploy_id=deploy_id, lcm_state=12) == "SUCCESS -"


async def test_a_terminate_repeated_soon_still_waits_for_the_guest(desk: Desk) -> None:
    desk.world.provider.destroy_time = 60
    deploy_id = desk.world.provider.add(identity_of())
    desk.ask("SHUTDOWN", deploy_id=deploy_id, lcm_state=12)
    await until(lambda: asked(desk.world) == ["shut down"])
    desk.ask("DRIVER_CANCEL")
    assert await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=12) == "SUCCESS -"
    assert asked(desk.world) == ["shut down"]


@pytest.mark.parametrize("is_refused", [False, True], ids=["hangs", "refuses"])
async def test_a_terminate_resumed_by_the_next_process_still_waits_for_the_guest(
    desk: Desk, *, is_refused: bool
) -> None:
    """No second request has come: the guest gets its full time, however long the dead driver waited for it."""
    journal, deploy_id = desk.world.journal, desk.world.provider.add(identity_of())
    requested_at = desk.world.clock()
    await pass_time(1)
    await journal.note_soft_end(deploy_id, Timestamp.now(desk.world.clock))
    if is_refused:
        await journal.refuse_soft_end(deploy_id)
    await pass_time(200)
    line = oned_lines.line("SHUTDOWN", 7, stime=STIME, host_id=3, deploy_id=deploy_id, lcm_state=12)
    request = parse_line(line.rstrip(b"\n"))
    assert isinstance(request, Request)
    desk.dispatcher.take_over(request, number=0, requested_at=requested_at)
    desk.dispatcher.recovered.may_be_answered.set()
    assert await desk.reply("SHUTDOWN") == "SUCCESS -"
    assert asked(desk.world) == ["shut down"]


async def test_a_debt_for_an_instance_in_use_again_does_not_cut_its_guest_shutdown_short(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), InstanceState.TERMINATING)
    world.provider.instances[deploy_id].then = (now() + 20.0, InstanceState.TERMINATED)
    await world.add_debt(deploy_id)
    [debt] = await world.journal.debts()

    async def refuse(debt: Debt, instance: Instance) -> None:
        raise CannotTell(f"VM {debt.identity.vm_id} lives on {instance.deploy_id} again")

    with pytest.raises(CannotTell, match="lives on"):
        await pay(world.engine(), debt, confirm=refuse, clock=world.clock)
    orphan = msgspec.structs.replace(debt, reason=f"{ORPHAN}done)")
    with pytest.raises(CannotTell, match="asked first"):
        await pay(world.engine(), orphan, clock=world.clock)
    assert asked(world) == []


async def test_a_debt_destroys_its_instance_without_asking_the_guest(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await world.add_debt(deploy_id)
    [debt] = await world.journal.debts()
    await pay(world.engine(), debt, clock=world.clock)
    assert asked(world) == ["destroy"]
    assert world.provider.state(deploy_id) is InstanceState.TERMINATED
