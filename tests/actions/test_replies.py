"""The form of replies, and failures that oned would not show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from one_provider_mad.errors import PermissionDenied, QuotaExceeded, SettingsError
from one_provider_mad.protocol.messages import Reply
from one_provider_mad.protocol.vmm import parse_reply
from tests.actions.fakes import AbleCloud, Desk, a_desk, a_world, identity_of

pytestmark = pytest.mark.looptime


async def test_a_reply_is_one_clean_line_although_the_error_has_control_characters(desk: Desk) -> None:
    desk.world.provider.before["create"].append(QuotaExceeded("- no\nroom\0 in ]]> \ud800 the\r\ncloud\x1b[0m"))
    await desk.answer("DEPLOY")
    reply = parse_reply(desk.lines[0].encode())
    assert isinstance(reply, Reply)
    assert not reply.is_success
    assert reply.info.startswith("error: - no room")
    assert "]]>" not in reply.info


async def test_an_unknown_action_is_answered_with_a_failure(desk: Desk) -> None:
    desk.write(b"FROBNICATE  42 QQ==")
    assert desk.lines == ["FROBNICATE FAILURE 42 Action FROBNICATE not supported"]


@pytest.fixture
async def able_desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with a_world(tmp_path, AbleCloud()) as world, a_desk(world, timeout=10) as desk:
        yield desk


def without_fault(_desk: Desk) -> None:
    """Let the update succeed."""


def refusal_by_the_cloud(desk: Desk) -> None:
    for operation in ("update_security_group", "update_nic"):
        desk.world.provider.always[operation] = PermissionDenied("not allowed")


def unexpected_exception(desk: Desk) -> None:
    for operation in ("update_security_group", "update_nic"):
        desk.world.provider.always[operation] = KeyError("rules")


def call_that_hangs(desk: Desk) -> None:
    for operation in ("update_security_group", "update_nic"):
        desk.world.provider.always[operation] = asyncio.Event()


def missing_instance(desk: Desk) -> None:
    desk.world.provider.instances.clear()


def unusable_configuration(desk: Desk) -> None:
    desk.engines.error = SettingsError("x.toml: owner is missing")


FAULTS = [refusal_by_the_cloud, unexpected_exception, call_that_hangs, missing_instance, unusable_configuration]


@pytest.mark.parametrize("fail", [without_fault, *FAULTS])
@pytest.mark.parametrize(("action", "key"), [("UPDATESG", "SECURITY_GROUP_ID"), ("UPDATENIC", "VIRTUAL_NETWORK_ID")])
async def test_replies_to_updatesg_and_updatenic_begin_with_the_id_after_success_and_failure(
    able_desk: Desk, action: str, key: str, fail: Callable[[Desk], None]
) -> None:
    deploy_id = able_desk.world.provider.add(identity_of())
    fail(able_desk)
    answer = await able_desk.answer(action, deploy_id=deploy_id, operand={key: "104"})
    assert answer.split()[:2] == ["SUCCESS" if fail is without_fault else "FAILURE", "104"]


async def test_the_reply_to_an_unsupported_updatesg_begins_with_the_id(desk: Desk) -> None:
    answer = await desk.answer("UPDATESG", operand={"SECURITY_GROUP_ID": "104"})
    assert answer == "FAILURE 104 provider fake does not support updating security groups"


@pytest.mark.parametrize(
    ("release", "logged"),
    [("5.10", []), ("7.4", ["LOG E 7 REBOOT: instance i-404 of VM 7 does not exist"])],
)
async def test_a_failed_reboot_is_logged_for_releases_that_ignore_its_answer(
    desk: Desk, release: str, logged: list[str]
) -> None:
    answer = await desk.answer("REBOOT", deploy_id="i-404", release=release)
    assert answer == "FAILURE instance i-404 of VM 7 does not exist"
    assert desk.logs() == logged


async def test_a_failed_reset_is_not_logged_beside_its_answer(desk: Desk) -> None:
    await desk.answer("RESET", deploy_id="i-404")
    assert desk.logs() == []
