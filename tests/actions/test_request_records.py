"""Requests are in the journal until they are answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from one_provider_mad.errors import JournalError
from one_provider_mad.protocol.dialect import Dialect
from tests.actions.fakes import Desk, World, a_desk, identity_of, pass_time

pytestmark = pytest.mark.looptime


async def test_a_request_stays_in_the_journal_until_its_reply_is_written(desk: Desk) -> None:
    desk.is_reading = False
    desk.ask("DEPLOY")
    await desk.reply("DEPLOY")
    await pass_time(1)
    assert await desk.open_requests() == ["DEPLOY"]
    desk.read()
    await pass_time(1)
    assert await desk.open_requests() == []


@pytest.mark.parametrize(
    ("action", "is_kept"),
    [
        *[(action, True) for action in ("DEPLOY", "SHUTDOWN", "CANCEL", "SAVE", "RESTORE", "CLEANUP")],
        *[(action, False) for action in ("REBOOT", "RESET", "ATTACHDISK", "MIGRATE", "BACKUP")],
    ],
)
async def test_only_repeatable_actions_are_journaled_with_their_payload(
    world: World, action: str, *, is_kept: bool
) -> None:
    world.provider.always["describe"] = world.provider.always["find"] = asyncio.Event()
    world.set_cloud(call_timeout=10_000)
    async with a_desk(world) as desk:
        desk.is_reading = False
        operand = {"DISK_ID": "1"} if action == "ATTACHDISK" else {}
        request = desk.ask(action, deploy_id="i-1", operand=operand)
        await pass_time(1)
        [record] = await world.journal.open_requests()
        assert (record.action, record.vm_id, record.dialect) == (action, 7, Dialect.SINCE_6_0)
        assert record.payload == (request.payload if is_kept else b"")


async def test_polls_are_not_journaled(world: World) -> None:
    world.provider.always["describe"] = asyncio.Event()
    async with a_desk(world) as desk:
        desk.ask("POLL", release="5.10", deploy_id="i-1")
        await pass_time(1)
        assert await desk.open_requests() == []


async def test_a_deploy_without_a_journal_is_answered_with_a_failure(desk: Desk) -> None:
    desk.engines.journal = None
    desk.engines.error = JournalError("the journal cannot be used")
    assert await desk.answer("DEPLOY") == "FAILURE the journal cannot be used"


async def test_a_cancelled_request_stays_in_the_journal_until_its_task_has_ended(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = asyncio.Event()
    describe = desk.world.provider.describe

    async def describe_stubbornly(deploy_ids: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
        return await describe(deploy_ids)

    monkeypatch.setattr(desk.world.provider, "reboot", lambda deploy_id, hard: describe_stubbornly([deploy_id]))
    desk.ask("REBOOT", deploy_id=desk.world.provider.add(identity_of()))
    await pass_time(1)
    desk.ask("DRIVER_CANCEL")
    await pass_time(1)
    assert await desk.open_requests() == ["DRIVER_CANCEL"]
    may_end.set()
    await desk.settled()
    await pass_time(1)
    assert await desk.open_requests() == []
