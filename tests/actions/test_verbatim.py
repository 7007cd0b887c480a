"""Verbatim drivers."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import AsyncIterator

import pytest

from one_provider_mad.errors import PermissionDenied
from one_provider_mad.protocol.dialect import Dialect
from tests.actions.fakes import Desk, FakeScripts, World, a_desk, large, pass_time, turns

pytestmark = pytest.mark.looptime


@pytest.fixture
def scripts() -> FakeScripts:
    return FakeScripts()


@pytest.fixture
async def verbatim(world: World, scripts: FakeScripts) -> AsyncIterator[Desk]:
    async with a_desk(world, verbatim=scripts) as desk:
        yield desk


@pytest.mark.parametrize("release", ["5.10", "7.4"])
@pytest.mark.parametrize("action", ["DEPLOY", "SHUTDOWN", "POLL", "ATTACHDISK", "MIGRATE", "BACKUP"])
async def test_a_verbatim_driver_gets_the_action_and_message_as_sent(
    verbatim: Desk, scripts: FakeScripts, action: str, release: str
) -> None:
    scripts.answer = "as the script says"
    operand = {"DISK_ID": "1"} if action == "ATTACHDISK" else {}
    request = verbatim.ask(action, release=release, deploy_id="one-7", operand=operand)
    await verbatim.settled()
    assert verbatim.lines == [f"LOG I 7 running {action.lower()}", f"{action} SUCCESS 7 as the script says"]
    [given] = scripts.requests
    assert given.message == binascii.a2b_base64(request.payload)
    dialect = Dialect.SINCE_6_0 if release == "7.4" else Dialect.UP_TO_5_12
    assert (given.action, given.dialect, given.request.vm_id) == (action, dialect, 7)


async def test_a_verbatim_driver_gets_a_large_message_unchanged(verbatim: Desk, scripts: FakeScripts) -> None:
    request = verbatim.ask("DEPLOY", template=large())
    await verbatim.settled()
    assert scripts.requests[0].message == binascii.a2b_base64(request.payload)
    assert len(verbatim.replies()) == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionDenied("deploy: permission denied"), "deploy: permission denied"),
        (KeyError("x"), "internal error (KeyError), the driver's log has the details"),
    ],
)
async def test_a_failed_script_is_answered_with_a_failure(
    verbatim: Desk, scripts: FakeScripts, error: Exception, sentence: str
) -> None:
    scripts.answer = error
    assert await verbatim.answer("DEPLOY") == f"FAILURE {sentence}"


async def test_scripts_have_no_time_limit_by_default(verbatim: Desk, scripts: FakeScripts) -> None:
    scripts.gate = asyncio.Event()
    verbatim.ask("DEPLOY")
    await pass_time(50_000)
    assert verbatim.replies() == []
    scripts.gate.set()
    await verbatim.settled()
    assert verbatim.replies() == ["DEPLOY SUCCESS 7 -"]


async def test_the_time_limit_of_scripts_does_not_limit_the_whole_action(world: World, scripts: FakeScripts) -> None:
    scripts.gate = asyncio.Event()
    async with a_desk(world, verbatim=scripts, timeout=20) as desk:
        desk.ask("DEPLOY")
        await pass_time(1_000)
        assert desk.replies() == []
        scripts.gate.set()
        await desk.settled()


async def test_requests_for_scripts_are_journaled_without_payload(verbatim: Desk, scripts: FakeScripts) -> None:
    scripts.gate = asyncio.Event()
    verbatim.ask("DEPLOY")
    await pass_time(1)
    [record] = await verbatim.world.journal.open_requests()
    assert (record.action, record.payload) == ("DEPLOY", b"")


async def test_a_cancelled_script_is_not_answered_and_leaves_no_debt(verbatim: Desk, scripts: FakeScripts) -> None:
    scripts.gate = asyncio.Event()
    verbatim.ask("DEPLOY")
    await turns()
    verbatim.ask("DRIVER_CANCEL")
    await verbatim.settled()
    assert verbatim.replies() == []
    assert await verbatim.world.journal.debts() == []
