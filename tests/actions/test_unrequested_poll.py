"""Up to 5.10 a POLL reply tells the attributes of an instance that has started, and clears those of a stopped one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from one_provider_mad.actions import unrequested_poll
from one_provider_mad.calls.cloud import Cloud
from tests.actions.fakes import Desk, World, a_desk, identity_of, turns, until

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize(
    ("release", "lcm_state", "lines"),
    [
        pytest.param("5.10", 18, ["POLL SUCCESS 7 STATE=- ADDRESS=[]", "SHUTDOWN SUCCESS 7 -"], id="power-off"),
        pytest.param("5.10", 29, ["POLL SUCCESS 7 STATE=- ADDRESS=[]", "SHUTDOWN SUCCESS 7 -"], id="undeploy"),
        pytest.param("5.10", 12, ["SHUTDOWN SUCCESS 7 -"], id="terminate"),
        pytest.param("7.4", 18, ["SHUTDOWN SUCCESS 7 -"], id="reported-by-monitoring"),
    ],
)
async def test_up_to_5_10_a_poll_reply_with_empty_attributes_precedes_the_reply_to_a_power_off(
    desk: Desk, release: Any, lcm_state: int, lines: list[str]
) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.instances[deploy_id].attributes = {"ADDRESS": "203.0.113.9"}
    desk.ask("POLL", release="5.10", deploy_id=deploy_id)
    await desk.settled()
    desk.world.provider.instances[deploy_id].attributes = {}
    desk.ask("SHUTDOWN", release=release, lcm_state=lcm_state, deploy_id=deploy_id)
    await desk.settled()
    assert desk.replies() == ['POLL SUCCESS 7 STATE=a ADDRESS="203.0.113.9"', *lines]


async def test_up_to_5_10_a_powered_off_vm_does_not_show_what_a_running_one_costs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unrequested_poll, "PriceSource", type(desk.world.provider))
    deploy_id = desk.world.provider.add(identity_of())
    desk.ask("SHUTDOWN", release="5.10", lcm_state=18, deploy_id=deploy_id)
    await desk.settled()
    costs = "PROVIDER_PRICE_HOUR=[] PROVIDER_COST=[] PROVIDER_CURRENCY=[]"
    assert desk.replies() == [f"POLL SUCCESS 7 STATE=- {costs}", "SHUTDOWN SUCCESS 7 -"]


async def test_a_power_off_succeeds_although_the_poll_reply_before_its_own_exceeds_the_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_desk(world, timeout=8) as desk:
        deploy_id = world.provider.add(identity_of())
        world.provider.instances[deploy_id].attributes = {"ADDRESS": "203.0.113.9"}
        desk.ask("POLL", release="5.10", deploy_id=deploy_id)
        await desk.settled()
        desk.ask("SHUTDOWN", release="5.10", lcm_state=18, deploy_id=deploy_id)
        await until(lambda: world.provider.count("stop") == 1)
        monkeypatch.setattr(Cloud, "lookup_one", lambda *_: asyncio.Event().wait())
        assert await desk.reply("SHUTDOWN") == "SUCCESS -"


@pytest.mark.parametrize(
    ("release", "action", "lcm_state", "answers"),
    [
        pytest.param("5.10", "DEPLOY", 2, ['POLL SUCCESS 7 STATE=- ADDRESS="203.0.113.9"'], id="deploy"),
        pytest.param("5.10", "DEPLOY", 20, ['POLL SUCCESS 7 STATE=- ADDRESS="203.0.113.9"'], id="resume"),
        pytest.param("5.10", "RESTORE", 21, ['POLL SUCCESS 7 STATE=- ADDRESS="203.0.113.9"'], id="restore"),
        pytest.param("7.4", "DEPLOY", 2, [], id="reported-by-monitoring"),
    ],
)
async def test_up_to_5_10_a_poll_reply_with_the_address_precedes_the_reply_to_a_start(
    desk: Desk, release: Any, action: Any, lcm_state: int, answers: list[str]
) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.instances[deploy_id].attributes = {"ADDRESS": "203.0.113.9"}
    desk.ask(action, release=release, lcm_state=lcm_state, deploy_id=deploy_id)
    await desk.settled()
    *before, last = desk.replies()
    assert (before, last.split()[:3]) == (answers, [action, "SUCCESS", "7"])


async def test_a_start_that_is_replaced_while_its_instance_is_looked_up_sends_no_poll_reply(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.instances[deploy_id].attributes = {"ADDRESS": "203.0.113.9"}
    began, may_end, looked_up = asyncio.Event(), asyncio.Event(), unrequested_poll._instance

    async def slow_lookup(*arguments: Any) -> Any:
        began.set()
        await may_end.wait()
        return await looked_up(*arguments)

    monkeypatch.setattr(unrequested_poll, "_instance", slow_lookup)
    desk.ask("DEPLOY", release="5.10", lcm_state=20, deploy_id=deploy_id)
    await began.wait()
    desk.ask("DEPLOY", release="5.10", lcm_state=20, deploy_id=deploy_id)
    await turns()
    may_end.set()
    await desk.settled()
    assert [line.split()[:2] for line in desk.replies()] == [["POLL", "SUCCESS"], ["DEPLOY", "SUCCESS"]]
