from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path

import pytest

from one_provider_mad.actions.shared_lookups import SharedLookups
from one_provider_mad.domain import DeployId, Instance
from one_provider_mad.errors import ProviderUnavailable
from tests.actions.fakes import Desk, FakeCloud, World, a_desk, a_world, identity_of, pass_time

pytestmark = pytest.mark.looptime

LATENCY = 0.1
THREADS = 15


class SlowCloud(FakeCloud):
    """Pretends to be a cloud whose lookups and reboots take a tenth of a second each."""

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        await pass_time(LATENCY)
        return await super().describe(deploy_ids)

    async def reboot(self, deploy_id: DeployId, *, hard: bool) -> None:
        await super().reboot(deploy_id, hard=hard)
        await pass_time(LATENCY)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path, SlowCloud()) as world:
        yield world


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    async with a_desk(world, threads=THREADS) as desk:
        yield desk


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("action", ["REBOOT", "RESET"])
async def test_simultaneous_reboots_share_one_describe_call_even_those_that_wait_for_a_slot(
    desk: Desk, action: str
) -> None:
    count, begun = 150, now()
    for vm_id in range(count):
        desk.ask(action, vm_id, deploy_id=desk.world.provider.add(identity_of(vm_id)), lcm_state=3)
    await desk.settled()
    assert len(desk.replies()) == count
    assert desk.world.provider.count("describe") == 1
    assert now() - begun == pytest.approx(LATENCY * (1 + count / THREADS), abs=0.01)


async def test_reboots_arriving_during_a_lookup_share_the_next_lookup(desk: Desk) -> None:
    begun = now()
    for vm_id in range(2 * THREADS):
        if vm_id == THREADS:
            await pass_time(LATENCY / 2)
        desk.ask("REBOOT", vm_id, deploy_id=desk.world.provider.add(identity_of(vm_id)))
    await desk.settled()
    assert desk.world.provider.count("describe") == 2
    assert now() - begun == pytest.approx(3 * LATENCY, abs=0.01)


async def test_a_reboot_does_not_use_a_lookup_that_began_before_it_arrived(world: World) -> None:
    lookups, ids = SharedLookups(), [world.provider.add(identity_of(vm_id)) for vm_id in (7, 8)]
    for deploy_id in ids:
        lookups.expect(deploy_id)
    await lookups.lookup_one(world.cloud, ids[0])
    world.provider.instances[ids[1]].identity = identity_of(9)  # and its action was cancelled meanwhile
    lookups.expect(ids[1])
    seen = await lookups.lookup_one(world.cloud, ids[1])
    assert seen is not None
    assert seen.identity == identity_of(9)


@pytest.mark.parametrize(("waited", "count"), [(29, 1), (31, 2)])
async def test_a_shared_lookup_is_used_for_half_a_minute(world: World, waited: float, count: int) -> None:
    lookups, ids = SharedLookups(), [world.provider.add(identity_of(vm_id)) for vm_id in (7, 8)]
    for deploy_id in ids:
        lookups.expect(deploy_id)
    for deploy_id in ids:
        assert await lookups.lookup_one(world.cloud, deploy_id)
        await pass_time(waited)
    assert world.provider.count("describe") == count


async def test_a_failed_lookup_fails_its_reboots_and_the_next_reboot_makes_a_new_one(desk: Desk) -> None:
    world = desk.world
    world.provider.before["describe"].append(ProviderUnavailable("fake did not answer"))
    desk.ask("REBOOT", 7, deploy_id=world.provider.add(identity_of()))
    desk.ask("REBOOT", 8, deploy_id=world.provider.add(identity_of(8)))
    await desk.settled()
    assert [line.split(" ", 3)[1:] for line in desk.replies()] == [
        ["FAILURE", "7", "fake did not answer"],
        ["FAILURE", "8", "fake did not answer"],
    ]
    assert await desk.answer("REBOOT", 9, deploy_id=world.provider.add(identity_of(9))) == "SUCCESS -"
    assert world.provider.count("reboot") == 1
