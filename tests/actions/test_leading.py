"""After an election a deploy waits for creates of the former leader that may still be under way."""

from __future__ import annotations

import pytest

from tests.actions.fakes import Desk, World, a_desk, now, pass_time

pytestmark = pytest.mark.looptime


async def test_for_ten_minutes_after_an_election_a_deploy_waits_for_creates_of_another_front_end(world: World) -> None:
    """Ten minutes is the longest time an action takes. In a cloud with create tokens no deploy waits."""
    world.provider.is_create_repeatable, world.provider.boot_time = False, 0.0

    async def seconds(desk: Desk, vm_id: int) -> float:
        begun = now()
        assert (await desk.answer("DEPLOY", vm_id)).startswith("SUCCESS")
        return round(now() - begun, 6)  # 4.999999999999999 counts as 5

    async with a_desk(world) as desk:
        assert await seconds(desk, 1) < 1, "without an election there was no other leader"
        desk.dispatcher.note_leader(is_elsewhere=True)
        assert await seconds(desk, 2) > 4.99, "only a leader's oned sends requests: the driver has missed the election"
        desk.dispatcher.note_leader(is_elsewhere=False)
        assert await seconds(desk, 3) > 4.99
        await pass_time(580)
        assert await seconds(desk, 4) > 4.99
        await pass_time(20)
        assert await seconds(desk, 5) < 1
        desk.dispatcher.note_leader(is_elsewhere=False)
        assert await seconds(desk, 6) > 4.99, "this front-end was elected again"
