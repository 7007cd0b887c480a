from __future__ import annotations

import asyncio
import base64
import binascii
import re
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import looptime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from one_provider_mad.actions import queued
from one_provider_mad.cli.driver_message import build
from one_provider_mad.domain import DeployId, InstanceState, Template
from one_provider_mad.errors import (
    AuthenticationRefused,
    JournalError,
    MadError,
    NoCapacity,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    SettingsError,
    Throttled,
    WrongAccount,
    WrongEndpoint,
)
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import Reply, Severity
from one_provider_mad.protocol.vmm import parse_reply
from one_provider_mad.providers.interface import CreateCall, VerbatimRequest
from tests.actions.fakes import PATIENCE, AbleCloud, Desk, World, a_desk, a_world, identity_of, pass_time, turns, until

pytestmark = pytest.mark.looptime

LARGE = 200_000
"""Bytes of context in a message that is parsed only when its turn comes."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    async with a_desk(world) as desk:
        yield desk


def large() -> Template:
    """A template with a very large context, for example a long start script."""
    return Template(values={"CPU": ("1",), "CONTEXT": ({"START_SCRIPT": "x" * LARGE},)})


def of(template: Template | None) -> dict[str, Any]:
    """Details of a message with this template, or with the default one."""
    return {} if template is None else {"template": template}


def now() -> float:
    return asyncio.get_running_loop().time()


async def debts(world: World) -> list[tuple[str, str]]:
    return [(debt.deploy_id, debt.reason) for debt in await world.journal.debts()]


# One reply


@pytest.mark.parametrize("release", ["4.4", "5.10", "7.4"])
async def test_a_deploy_is_answered_with_the_deploy_id(desk: Desk, release: str) -> None:
    assert await desk.answer("DEPLOY", release=release) == "SUCCESS i-1"
    assert desk.lines == ["DEPLOY SUCCESS 7 i-1"]


LIFE: list[tuple[str, dict[str, Any], str]] = [
    ("DEPLOY", {"lcm_state": 2}, "SUCCESS i-1"),
    ("REBOOT", {"deploy_id": "i-1"}, "SUCCESS -"),
    ("SHUTDOWN", {"lcm_state": 18, "deploy_id": "i-1"}, "SUCCESS -"),
    ("DEPLOY", {"lcm_state": 20, "deploy_id": "i-1", "seq": 1}, "SUCCESS i-1"),
    ("SAVE", {"lcm_state": 6, "deploy_id": "i-1", "seq": 1}, "SUCCESS -"),
    ("RESTORE", {"lcm_state": 21, "deploy_id": "i-1", "seq": 2}, "SUCCESS -"),
    ("SHUTDOWN", {"lcm_state": 12, "deploy_id": "i-1", "seq": 2}, "SUCCESS -"),
]


async def test_each_action_of_a_vms_life_is_answered_with_success(desk: Desk) -> None:
    for action, details, expected in LIFE:
        assert await desk.answer(action, **details) == expected, action


SENTENCES: list[MadError] = [
    SettingsError("x.toml: owner is missing"),
    JournalError("the journal /var/x cannot be used: disk is full"),
    WrongAccount("the credentials belong to account two, region south"),
    AuthenticationRefused("the key is not accepted"),
    WrongEndpoint("fake cannot be reached: its name cannot be resolved"),
]


@pytest.mark.parametrize("error", SENTENCES, ids=lambda error: type(error).__name__)
async def test_every_action_is_answered_with_the_configuration_error(desk: Desk, error: MadError) -> None:
    desk.engines.error = error
    for action in ("DEPLOY", "SHUTDOWN", "REBOOT", "ATTACHDISK", "CLEANUP"):
        assert await desk.answer(action, deploy_id="i-1") == f"FAILURE {error}", action


@pytest.mark.parametrize("error", SENTENCES, ids=lambda error: type(error).__name__)
async def test_a_poll_reports_no_change_while_the_configuration_is_unusable(desk: Desk, error: MadError) -> None:
    """oned 5.10 polls a VM after a failed power off, and makes it UNKNOWN if the POLL fails, too."""
    desk.engines.error = error
    assert await desk.answer("POLL", release="5.10", deploy_id="i-1") == "SUCCESS STATE=-"
    large: dict[str, Any] = {"user_template": {"NOTE": "x" * 500_000}}
    assert await desk.answer("POLL", release="5.10", deploy_id="i-1", **large) == "SUCCESS STATE=-"


REFUSALS = [QuotaExceeded("the account has reached its limit"), NoCapacity("no room"), PermissionDenied("not allowed")]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
async def test_a_deploy_is_answered_with_the_clouds_refusal(desk: Desk, error: MadError) -> None:
    desk.world.provider.before["create"].append(error)
    assert await desk.answer("DEPLOY") == f"FAILURE {error}"


DEFECTS = [
    KeyError("reservations"),
    ValueError("no such thing"),
    TimeoutError("somewhere inside"),
    asyncio.CancelledError(),
    AssertionError("cannot be"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("action", "operation"),
    [
        ("DEPLOY", "create"),
        ("DEPLOY", "find"),
        ("SHUTDOWN", "describe"),
        ("CLEANUP", "destroy"),
        ("REBOOT", "reboot"),
    ],
)
async def test_an_unexpected_exception_of_a_provider_is_answered_with_a_failure(
    desk: Desk, action: str, operation: str, defect: BaseException
) -> None:
    deploy_id = "" if action == "DEPLOY" else desk.world.provider.add(identity_of())
    desk.world.provider.always[operation] = defect
    answer = await desk.answer(action, deploy_id=deploy_id)
    assert answer == f"FAILURE internal error ({type(defect).__name__}), the driver's log has the details"
    del desk.world.provider.always[operation]
    assert (await desk.answer("REBOOT", 8, deploy_id=desk.world.provider.add(identity_of(8)))) == "SUCCESS -"


async def test_an_unexpected_exception_while_opening_the_cloud_is_answered_with_a_failure(desk: Desk) -> None:
    desk.engines.error = KeyError("region")
    expected = "FAILURE internal error (KeyError), the driver's log has the details"
    for action in ("DEPLOY", "CLEANUP", "UPDATESG"):
        details: dict[str, Any] = {"operand": {"SECURITY_GROUP_ID": "100"}} if action == "UPDATESG" else {}
        assert (await desk.answer(action, **details)).replace("100 ", "") == expected
    assert await desk.answer("POLL", release="5.10") == "SUCCESS STATE=-"


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda error: type(error).__name__)
async def test_a_poll_reports_no_change_after_an_unexpected_exception_of_the_provider(
    desk: Desk, defect: BaseException
) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.before["describe"].append(defect)
    assert await desk.answer("POLL", release="5.10", deploy_id=deploy_id) == "SUCCESS STATE=-"
    assert await desk.answer("POLL", release="5.10", deploy_id=deploy_id) == "SUCCESS STATE=a"


UNUSABLE = {
    "markup": ("<x>", "OpenNebula cannot keep a deploy id with '<' in it: '<x>'"),
    "entity": ("a&b", "OpenNebula cannot keep a deploy id with '&' in it: 'a&b'"),
    "words": ("two words", "OpenNebula cannot keep a deploy id with ' ' in it: 'two words'"),
    "blank": (" ", "OpenNebula cannot keep a deploy id with ' ' in it: ' '"),
    "control": ("i-1\x1b[0m", "OpenNebula cannot keep a deploy id with '\\x1b' in it: 'i-1\\x1b[0m'"),
    "dash": ("-", "the deploy id '-' is a placeholder for no instance"),
    "placeholder": ("one-5", "the deploy id 'one-5' is a placeholder for no instance"),
    "option": ("-rf", "the deploy id would be taken for an option or a path: '-rf'"),
    "path": ("../../../etc/passwd", "the deploy id would be taken for an option or a path: '../../../etc/passwd'"),
    "long": ("i" * 100_000, f"the deploy id has more than 1024 letters: '{'i' * 64}'"),
}


@pytest.mark.parametrize("is_repeatable", [True, False], ids=["tokens", "no-tokens"])
@pytest.mark.parametrize(("deploy_id", "reason"), UNUSABLE.values(), ids=UNUSABLE)
async def test_a_deploy_that_returns_an_unusable_id_fails_and_its_instance_is_terminated(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, deploy_id: str, reason: str, *, is_repeatable: bool
) -> None:
    cloud = desk.world.provider

    async def create(call: CreateCall) -> DeployId:
        return cloud.add(call.identity, deploy_id=deploy_id)

    cloud.is_create_repeatable, cloud.visibility_grace = is_repeatable, 30.0
    with monkeypatch.context() as patch:
        patch.setattr(cloud, "create", create)
        sentence = f"the cloud has answered with an unusable id: {reason}; the instance is looked for by its tags"
        assert await desk.answer("DEPLOY") == f"FAILURE {sentence}, and terminated"
    assert [debt.deploy_id for debt in await desk.world.journal.debts()] == [""]
    assert await desk.answer("DEPLOY") == "SUCCESS i-2", "the instance with a debt is not adopted"
    paying = asyncio.create_task(desk.dispatcher.debts.pay_for_ever(desk.lanes))
    await until(lambda: cloud.alive() == ["i-2"])
    await until_paid(desk)
    paying.cancel()
    assert cloud.alive() == ["i-2"]


async def until_paid(desk: Desk) -> None:
    """Wait until the journal has no debt."""
    async with asyncio.timeout(PATIENCE):
        while await desk.world.journal.debts():
            await pass_time(1)


async def test_a_listed_instance_of_the_vm_with_an_unusable_id_becomes_a_debt(desk: Desk) -> None:
    desk.world.provider.add(identity_of(), deploy_id="-rf")
    assert (await desk.answer("DEPLOY")).startswith("FAILURE the cloud has answered with an unusable id: ")
    [debt] = await desk.world.journal.debts()
    assert (debt.deploy_id, debt.identity) == ("", identity_of())


@pytest.mark.parametrize("action", ["DEPLOY", "CLEANUP", "RESET"])
async def test_an_action_fails_if_a_listing_contradicts_itself(desk: Desk, action: str) -> None:
    cloud = desk.world.provider
    cloud.doubles[cloud.add(identity_of())] = InstanceState.TERMINATED
    reply = await desk.answer(action)
    assert reply.startswith("FAILURE ")
    assert "the cloud's listing contradicts itself: it has two different rows for instance 'i-1'" in reply
    assert {name for name, _ in cloud.calls} == {"find"}


async def test_polls_report_no_change_if_a_listing_contradicts_itself(desk: Desk) -> None:
    cloud = desk.world.provider
    for vm_id in (7, 8):
        cloud.doubles[cloud.add(identity_of(vm_id))] = InstanceState.STOPPED
        desk.ask("POLL", vm_id, deploy_id=f"old-{vm_id}", release="5.10")
    await desk.settled()
    assert sorted(desk.replies("POLL")) == ["POLL SUCCESS 7 STATE=-", "POLL SUCCESS 8 STATE=-"]
    assert cloud.count("list") == 1


async def test_a_reply_is_one_clean_line_although_the_error_has_control_characters(desk: Desk) -> None:
    desk.world.provider.before["create"].append(QuotaExceeded("- no\nroom\0 in ]]> \ud800 the\r\ncloud\x1b[0m"))
    await desk.answer("DEPLOY")
    reply = parse_reply(desk.lines[0].encode())
    assert isinstance(reply, Reply)
    assert not reply.is_success
    assert reply.info.startswith("error: - no room")
    assert "]]>" not in reply.info


# Invalid requests


BAD_PAYLOADS = [
    pytest.param(b"", "the request has no payload", id="none"),
    pytest.param(b"!!!!", "payload is not base64", id="no-base64"),
    pytest.param(base64.b64encode(b"<VMM"), "payload is not the XML of a driver message", id="no-xml"),
    pytest.param(base64.b64encode(b"\xff"), "payload is not UTF-8", id="no-utf-8"),
    pytest.param(base64.b64encode(build("DEPLOY", vm_id=8)), "the message is about VM 8, the line about VM 7", id="id"),
    pytest.param(base64.b64encode(b"x" * LARGE), "payload is not the XML of a driver message", id="large"),
]


@pytest.mark.parametrize(("payload", "reason"), BAD_PAYLOADS)
async def test_an_unreadable_payload_is_answered_with_a_failure(desk: Desk, payload: bytes, reason: str) -> None:
    for count, action in enumerate(("DEPLOY", "POLL", "CLEANUP"), 1):
        desk.write(f"{action} 7 ".encode() + payload)
        assert (await desk.reply(action)).startswith(f"FAILURE {reason}"), action
        assert len(desk.replies()) == count, action


def refuse(*_arguments: object, **_details: object) -> NoReturn:
    raise MemoryError


async def test_a_request_that_hits_a_memory_error_fails_and_the_next_one_succeeds(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "FAILURE internal error (MemoryError), the driver's log has the details"
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as shortage:
        shortage.setattr(loop, "run_in_executor", refuse)
        for vm_id in range(8):
            assert await desk.answer("DEPLOY", vm_id=vm_id, template=large()) == sentence
    with monkeypatch.context() as shortage:
        shortage.setattr(queued, "read_payload", refuse)
        assert await desk.answer("DEPLOY") == sentence
    with monkeypatch.context() as shortage:
        shortage.setattr(desk.world.journal, "open_request", refuse)
        assert await desk.answer("DEPLOY") == sentence
    with monkeypatch.context() as shortage:
        shortage.setattr(desk.lanes, "call_off", refuse)
        desk.ask("DRIVER_CANCEL")  # which is never answered
    assert await desk.answer("DEPLOY") == "SUCCESS i-1"
    assert len(desk.replies()) == 11


async def test_an_unknown_action_is_answered_with_a_failure(desk: Desk) -> None:
    desk.write(b"FROBNICATE  42 QQ==")
    assert desk.lines == ["FROBNICATE FAILURE 42 Action FROBNICATE not supported"]


@pytest.mark.parametrize(
    ("before", "general_id"),
    [
        pytest.param(b"", "-1", id="release-unknown"),
        pytest.param(b"REBOOT  7 ", "-1", id="6.0-and-later"),
        pytest.param(b"REBOOT 7 ", "-", id="up-to-5.12"),
    ],
)
async def test_a_line_without_vm_id_is_logged_in_oneds_log(desk: Desk, before: bytes, general_id: str) -> None:
    if before:
        desk.write(before)
        await desk.settled()
    desk.write(b"DEPLOY x QQ==")
    [line] = [line for line in desk.logs() if "no request" in line]
    assert line.startswith(f"LOG E {general_id} ignored a line that is no request: DEPLOY came with X in place of a VM")


@pytest.mark.parametrize(("release", "general_id"), [((5, 12, 0, 4), "-"), ((6, 0), "-1"), ((6, 10, 0), "-1")])
async def test_early_log_lines_are_sent_once_xmlrpc_returns_the_release(
    desk: Desk, release: tuple[int, ...], general_id: str
) -> None:
    desk.dispatcher.log_lines.tell(Severity.WARNING, "an orphan")
    assert desk.logs() == []
    desk.dispatcher.log_lines.learn_release(release)
    desk.dispatcher.log_lines.tell(Severity.WARNING, "another")
    assert desk.logs() == [f"LOG W {general_id} an orphan", f"LOG W {general_id} another"]


async def test_the_count_of_dropped_log_lines_is_logged_in_oneds_log(desk: Desk) -> None:
    dropped = desk.dispatcher.log_lines.dropped
    assert dropped(3) == b"LOG W -1 3 log lines were dropped because OpenNebula did not read them\n"
    desk.ask("REBOOT", release="5.10")
    assert dropped(3) == b"LOG W - 3 log lines were dropped because OpenNebula did not read them\n"


NASTY = [
    b"",
    b" ",
    b"\0",
    b"DEPLOY",
    b"DEPLOY -1 QQ==",
    b"DEPLOY 99999999999 QQ==",
    b"deploy 7 QQ==",
    b"DEPLOY  7 QQ== QQ==",
    b"DEPLOY\t7\tQQ==",
    b"POLL 7 " + b"A" * 100_000,
    b"\xff\xfe 7 x",
    b"LOG I 7 hello",
    b"DRIVER_CANCEL",
    b"DRIVER_CANCEL x",
    b"INITIALISE 7",
    b"RESTORE 7 -",
]


@pytest.mark.parametrize("line", NASTY, ids=lambda line: ascii(line[:20]))
async def test_a_malformed_line_is_answered_once_if_it_names_a_vm_and_logged_otherwise(desk: Desk, line: bytes) -> None:
    desk.write(line)
    await desk.settled()
    await pass_time(1)
    has_vm = re.match(rb"\s*\S+\s+7(\s|$)", line)
    assert len(desk.replies()) == (1 if has_vm else 0)
    assert len(desk.lines) >= 1, "either a reply or a log line"


# Deadlines


@pytest.mark.parametrize(
    ("action", "operation", "seconds", "expected"),
    [
        pytest.param("DEPLOY", "create", None, 600, id="deploy"),
        pytest.param("SHUTDOWN", "destroy", None, 300, id="shutdown"),
        pytest.param("REBOOT", "reboot", None, 300, id="reboot"),
        pytest.param("DEPLOY", "create", 10, 10, id="deploy-w-10"),
        pytest.param("SHUTDOWN", "destroy", 10, 10, id="shutdown-w-10"),
    ],
)
async def test_an_action_fails_at_its_deadline_and_names_the_call_it_waited_for(
    world: World, action: str, operation: str, seconds: float | None, expected: int
) -> None:
    world.set_cloud(call_timeout=10_000)
    world.provider.always[operation] = asyncio.Event()
    deploy_id = "" if action == "DEPLOY" else world.provider.add(identity_of())
    word = {"destroy": "terminate"}.get(operation, operation)
    async with a_desk(world, timeout=seconds) as desk:
        answer = await desk.answer(action, release="5.10", deploy_id=deploy_id)
    assert answer == f"FAILURE gave up after {expected} s waiting for the cloud's answer to {word}"
    assert expected <= now() < expected + 10


@pytest.mark.parametrize(("seconds", "expected"), [(None, 300), (10, 10)], ids=["poll", "poll-w-10"])
async def test_a_hanging_poll_reports_no_change_at_its_deadline(
    world: World, seconds: float | None, expected: int
) -> None:
    world.set_cloud(call_timeout=10_000)
    world.provider.always["describe"] = asyncio.Event()
    deploy_id = world.provider.add(identity_of())
    async with a_desk(world, timeout=seconds) as desk:
        assert await desk.answer("POLL", release="5.10", deploy_id=deploy_id) == "SUCCESS STATE=-"
    assert expected <= now() < expected + 10


async def test_a_deploy_that_exceeds_its_deadline_names_the_instances_state(world: World) -> None:
    world.provider.boot_time = 100_000
    async with a_desk(world, timeout=60) as desk:
        assert await desk.answer("DEPLOY") == "FAILURE gave up after 60 s waiting for i-1 to be running (it is pending)"


async def test_an_action_has_no_time_limit_with_w_0(world: World) -> None:
    world.provider.boot_time = 700  # a deploy's own deadline is 600
    async with a_desk(world, timeout=0) as desk:
        assert await desk.answer("DEPLOY") == "SUCCESS i-1"
    assert now() >= 700


@pytest.mark.parametrize("seconds", [None, 0, 10], ids=["default", "none", "ten"])
async def test_a_timeout_error_of_a_provider_is_not_mistaken_for_the_deadline(
    world: World, seconds: float | None
) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.always["describe"] = TimeoutError("somewhere inside")
    async with a_desk(world, timeout=seconds) as desk:
        assert await desk.answer("POLL", release="5.10", deploy_id=deploy_id) == "SUCCESS STATE=-"
        answer = await desk.answer("SHUTDOWN", release="5.10", deploy_id=deploy_id)
        assert answer == "FAILURE internal error (TimeoutError), the driver's log has the details"
    assert now() < 5


async def test_time_in_the_queue_does_not_count_against_the_deadline(world: World) -> None:
    world.provider.boot_time = 50
    async with a_desk(world, threads=1, timeout=60) as desk:
        for vm_id in range(4):
            desk.ask("DEPLOY", vm_id)
        await desk.settled()
        assert [reply.split()[1] for reply in desk.replies()] == ["SUCCESS"] * 4


async def test_a_throttled_create_is_not_retried_after_the_deadline(world: World) -> None:
    """Otherwise an instance would be created after the deploy was answered with a failure."""
    world.provider.always["create"] = Throttled("slow down")
    async with a_desk(world, timeout=60) as desk:
        answer = await desk.answer("DEPLOY")
        assert answer.startswith("FAILURE gave up after 60 s waiting for the cloud's answer to create")
        tries = world.provider.count("create")
        assert tries > 3
        await pass_time(600)
        assert world.provider.count("create") <= tries + 1
        del world.provider.always["create"]
        await pass_time(600)
        assert world.provider.instances == {}


# Order and concurrency


async def test_no_more_actions_run_at_once_than_the_threads_argument_allows(world: World) -> None:
    is_answered = asyncio.Event()
    world.provider.always["create"] = is_answered
    async with a_desk(world, threads=3) as desk:
        for vm_id in range(10):
            desk.ask("DEPLOY", vm_id)
        await until(lambda: world.provider.count("create") == 3)
        await pass_time(20)
        assert world.provider.count("create") == 3
        is_answered.set()
        await desk.settled()
        assert len(desk.replies()) == 10


async def test_actions_of_a_vm_are_answered_in_order_of_arrival(desk: Desk) -> None:
    for action in ("DEPLOY", "REBOOT", "RESET", "REBOOT"):
        desk.ask(action)
    await desk.settled()
    assert desk.replies() == [
        "DEPLOY SUCCESS 7 i-1",
        "REBOOT SUCCESS 7 -",
        "RESET SUCCESS 7 -",
        "REBOOT SUCCESS 7 -",
    ]


async def test_a_large_message_keeps_its_place_in_its_vms_lane(desk: Desk) -> None:
    desk.world.provider.boot_time = 0
    desk.ask("DEPLOY", template=large())
    desk.ask("REBOOT")
    desk.ask("RESET", template=large())
    await desk.settled()
    assert desk.replies() == ["DEPLOY SUCCESS 7 i-1", "REBOOT SUCCESS 7 -", "RESET SUCCESS 7 -"]


async def test_a_poll_with_a_large_message_is_answered(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    details: dict[str, Any] = {"release": "5.10", "template": large()}
    assert await desk.answer("POLL", deploy_id=deploy_id, **details) == "SUCCESS STATE=a"
    assert await desk.answer("POLL", deploy_id="i-404", **details) == "SUCCESS STATE=a", "by its tags"
    desk.world.provider.instances.clear()
    expected = "FAILURE instance i-404 of VM 7 does not exist"
    assert await desk.answer("POLL", deploy_id="i-404", **details) == expected


# Replies that begin with the id of a security group or network


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


async def test_the_number_of_warnings_in_the_vms_log_is_limited(desk: Desk) -> None:
    desk.world.provider.warnings = tuple(f"attribute X{number} is not known" for number in range(300_000))
    assert (await desk.answer("DEPLOY")).startswith("SUCCESS")
    assert len(desk.logs()) == 60
    assert desk.logs()[-1] == "LOG W 7 there are more warnings, which are left out here"


async def test_warnings_of_a_deploy_go_to_the_vms_log(desk: Desk) -> None:
    desk.world.provider.warnings = ("attribute X is not known",)
    await desk.answer("DEPLOY")
    assert desk.lines == ["LOG W 7 attribute X is not known", "DEPLOY SUCCESS 7 i-1"]


# The record of a request


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


# DRIVER_CANCEL


async def test_a_cancelled_running_action_is_not_answered(desk: Desk) -> None:
    desk.world.provider.boot_time = 100_000
    desk.ask("DEPLOY")
    await until(lambda: bool(desk.world.provider.instances))
    desk.ask("DRIVER_CANCEL")
    await desk.settled()
    assert desk.lines == ["LOG I 7 Driver command for 7 cancelled"]
    await pass_time(1000)
    assert desk.replies() == []
    assert await desk.open_requests() == []


async def test_a_cancelled_queued_action_is_not_started(world: World) -> None:
    world.provider.always["create"] = asyncio.Event()
    world.set_cloud(call_timeout=10_000)
    async with a_desk(world, threads=1) as desk:
        desk.ask("DEPLOY", 1)
        desk.ask("DEPLOY", 7)
        await until(lambda: world.provider.count("create") == 1)
        desk.ask("DRIVER_CANCEL", 7)
        await pass_time(100)
        assert desk.lines == ["LOG I 7 Driver command for 7 cancelled"]
        assert world.provider.count("create") == 1
        assert await desk.open_requests() == ["DEPLOY"], "VM 1's"


async def test_driver_cancel_without_an_open_action_writes_nothing(desk: Desk) -> None:
    desk.ask("DRIVER_CANCEL")
    desk.ask("DRIVER_CANCEL", release="5.10")
    await pass_time(1)
    assert desk.lines == []


async def test_a_cleanup_after_driver_cancel_is_answered_and_terminates_the_instance(desk: Desk) -> None:
    """Terminate --hard while a deploy hangs: oned sends both at once, and does not know the deploy id."""
    desk.world.provider.boot_time = 100_000
    desk.ask("DEPLOY")
    await until(lambda: bool(desk.world.provider.instances))
    desk.ask("DRIVER_CANCEL")
    desk.ask("CLEANUP")
    await desk.settled()
    assert desk.replies() == ["CLEANUP SUCCESS 7 -"]
    assert desk.world.provider.state("i-1") is InstanceState.TERMINATED


async def test_a_cleanup_waits_for_the_create_of_the_cancelled_deploy(desk: Desk) -> None:
    is_answered = asyncio.Event()
    desk.world.provider.before["create"].append(is_answered)
    desk.ask("DEPLOY")
    await until(lambda: desk.world.provider.count("create") == 1)
    desk.ask("DRIVER_CANCEL")
    desk.ask("CLEANUP")
    await pass_time(30)
    assert desk.replies() == []
    is_answered.set()
    await desk.settled()
    assert desk.replies() == ["CLEANUP SUCCESS 7 -"]
    assert desk.world.provider.alive() == []


@pytest.mark.parametrize("state", [AttemptState.OPEN, AttemptState.CREATED])
@pytest.mark.parametrize("template", [None, large()], ids=["small", "large"])
async def test_a_cancelled_deploy_becomes_a_debt_for_its_attempt(
    desk: Desk, state: AttemptState, template: Template | None
) -> None:
    desk.world.provider.boot_time = 100_000
    if state is AttemptState.OPEN:
        desk.world.provider.before["create"].append(asyncio.Event())
    desk.ask("DEPLOY", **of(template))
    await until(lambda: desk.world.provider.count("create") == 1)
    await pass_time(2)
    desk.ask("DRIVER_CANCEL")
    await desk.settled()
    [attempt] = await desk.world.attempts()
    [debt] = await desk.world.journal.debts()
    assert (debt.token, debt.deploy_id, debt.reason) == (attempt.token, attempt.deploy_id, "its deploy was cancelled")
    assert attempt.state is state


async def test_a_deploy_cancelled_before_its_create_leaves_no_debt(desk: Desk) -> None:
    desk.world.provider.before["find"].append(asyncio.Event())
    desk.ask("DEPLOY")
    await until(lambda: desk.world.provider.count("find") == 1)
    desk.ask("DRIVER_CANCEL")
    await desk.settled()
    assert await debts(desk.world) == []


@pytest.mark.parametrize(
    ("action", "lcm_state"), [("SHUTDOWN", 18), ("SHUTDOWN", 12), ("DEPLOY", 20)], ids=["stop", "terminate", "start"]
)
async def test_a_cancelled_action_that_creates_nothing_leaves_no_debt(desk: Desk, action: str, lcm_state: int) -> None:
    desk.world.provider.always["describe"] = asyncio.Event()
    deploy_id = desk.world.provider.add(identity_of(), InstanceState.STOPPED)
    await desk.world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id)
    desk.ask(action, lcm_state=lcm_state, deploy_id=deploy_id)
    await until(lambda: desk.world.provider.count("describe") == 1)
    desk.ask("DRIVER_CANCEL")
    await desk.settled()
    assert await debts(desk.world) == []
    assert desk.replies() == []


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


# Creates of the front-end that led before


async def test_for_ten_minutes_after_an_election_a_deploy_waits_for_creates_of_another_front_end(world: World) -> None:
    """An action of the other front-end may take so long. Only in a cloud without tokens."""
    world.provider.is_create_repeatable, world.provider.boot_time = False, 0.0

    async def seconds(desk: Desk, vm_id: int) -> float:
        begun = now()
        assert (await desk.answer("DEPLOY", vm_id)).startswith("SUCCESS")
        return round(now() - begun, 6)  # 4.999999999999999 are five

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
        assert await seconds(desk, 6) > 4.99, "it leads again"


# Failed terminations become debts


PASSING = [
    pytest.param(ProviderUnavailable("no answer"), id="unavailable"),
    pytest.param(PermissionDenied("not allowed"), id="refused"),
    pytest.param(KeyError("a defect"), id="defect"),
]


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("template", [None, large()], ids=["small", "large"])
async def test_a_failed_cleanup_becomes_a_debt(desk: Desk, error: Exception, template: Template | None) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.always["destroy"] = error
    assert (await desk.answer("CLEANUP", deploy_id=deploy_id, **of(template))).startswith("FAILURE ")
    owed = await debts(desk.world)
    assert {id_ for id_, _ in owed} == {deploy_id, ""}
    assert all(reason.startswith("CLEANUP failed: ") for _, reason in owed)


async def test_a_cleanup_that_exceeds_its_deadline_becomes_a_debt(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.destroy_time = 100_000
    async with a_desk(world, timeout=60) as desk:
        answer = await desk.answer("CLEANUP", deploy_id=deploy_id)
        assert answer == f"FAILURE gave up after 60 s waiting for {deploy_id} to be terminated (it is terminating)"
    assert deploy_id in {id_ for id_, _ in await debts(world)}


@pytest.mark.parametrize("template", [None, large()], ids=["small", "large"])
async def test_a_cleanup_without_a_usable_configuration_becomes_a_debt(desk: Desk, template: Template | None) -> None:
    desk.engines.error = SettingsError("x.toml: owner is missing")
    await desk.answer("CLEANUP", deploy_id="i-1", **of(template))
    assert {id_ for id_, _ in await debts(desk.world)} == {"i-1", ""}


async def test_a_cleanup_that_names_another_vms_instance_leaves_no_debt(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of(8))
    assert (await desk.answer("CLEANUP", deploy_id=deploy_id)).startswith("FAILURE instance i-1 belongs to VM 8")
    assert await debts(desk.world) == []


@pytest.mark.parametrize("is_after_cancel", [True, False], ids=["after-a-cancellation", "by-itself"])
async def test_a_failed_terminate_hard_becomes_a_debt_only_after_a_driver_cancel(
    desk: Desk, *, is_after_cancel: bool
) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.always["destroy"] = PermissionDenied("not allowed")
    if is_after_cancel:
        desk.world.provider.always["stop"] = asyncio.Event()
        desk.ask("SHUTDOWN", lcm_state=18, deploy_id=deploy_id)
        await until(lambda: desk.world.provider.count("stop") == 1)
        desk.ask("DRIVER_CANCEL")
    await desk.answer("CANCEL", lcm_state=12, deploy_id=deploy_id)
    assert bool(await debts(desk.world)) is is_after_cancel


async def test_a_failed_power_off_leaves_no_debt(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.always["stop hard"] = PermissionDenied("not allowed")
    desk.world.provider.always["stop"] = asyncio.Event()
    desk.ask("SHUTDOWN", lcm_state=18, deploy_id=deploy_id)
    await until(lambda: desk.world.provider.count("stop") == 1)
    desk.ask("DRIVER_CANCEL")
    assert (await desk.answer("CANCEL", lcm_state=18, deploy_id=deploy_id)).startswith("FAILURE")
    assert await debts(desk.world) == []


@pytest.mark.parametrize(
    ("release", "lcm_state", "lines"),
    [
        pytest.param("5.10", 18, ["POLL SUCCESS 7 STATE=- ADDRESS=[]", "SHUTDOWN SUCCESS 7 -"], id="power-off"),
        pytest.param("5.10", 29, ["POLL SUCCESS 7 STATE=- ADDRESS=[]", "SHUTDOWN SUCCESS 7 -"], id="undeploy"),
        pytest.param("5.10", 12, ["SHUTDOWN SUCCESS 7 -"], id="terminate"),
        pytest.param("7.4", 18, ["SHUTDOWN SUCCESS 7 -"], id="reported-by-monitoring"),
    ],
)
async def test_up_to_5_10_a_poll_reply_clears_attributes_before_a_power_off_is_answered(
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


async def test_a_power_off_succeeds_if_only_clearing_attributes_exceeds_the_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_desk(world, timeout=8) as desk:
        deploy_id = world.provider.add(identity_of())
        world.provider.instances[deploy_id].attributes = {"ADDRESS": "203.0.113.9"}
        desk.ask("POLL", release="5.10", deploy_id=deploy_id)
        await desk.settled()
        desk.ask("SHUTDOWN", release="5.10", lcm_state=18, deploy_id=deploy_id)
        await until(lambda: world.provider.count("stop") == 1)
        monkeypatch.setattr(world.cloud, "look_at", lambda _: asyncio.Event().wait())
        assert await desk.reply("SHUTDOWN") == "SUCCESS -"


async def test_a_debt_that_cannot_be_journaled_is_logged(desk: Desk) -> None:
    desk.engines.journal = None
    desk.engines.error = SettingsError("x.toml: owner is missing")
    await desk.answer("CLEANUP", deploy_id="i-1")
    assert desk.logs()[0] == (
        "LOG E 7 an instance of this VM may be left in the cloud, terminate it there: there is no journal to note it in"
    )


# POLL


async def test_many_polls_are_answered_with_few_describe_calls(desk: Desk) -> None:
    ids = [desk.world.provider.add(identity_of(vm_id)) for vm_id in range(500)]
    for vm_id, deploy_id in enumerate(ids):
        desk.ask("POLL", vm_id, release="5.10", deploy_id=deploy_id)
    await desk.settled()
    assert sorted(desk.replies()) == sorted(f"POLL SUCCESS {vm_id} STATE=a" for vm_id in range(500))
    assert desk.world.provider.count("describe") <= 3


async def test_a_poll_reports_no_change_if_an_action_arrives_during_its_listing(desk: Desk) -> None:
    is_answered = asyncio.Event()
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.before["describe"].append(is_answered)
    desk.ask("POLL", release="5.10", deploy_id=deploy_id)
    await until(lambda: desk.world.provider.count("describe") == 1)
    desk.ask("REBOOT", release="5.10", deploy_id=deploy_id)
    is_answered.set()
    await desk.settled()
    assert desk.replies() == ["POLL SUCCESS 7 STATE=-", "REBOOT SUCCESS 7 -"]


async def test_a_poll_after_a_shutdown_reports_the_state_after_it(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.ask("SHUTDOWN", release="5.10", lcm_state=18, deploy_id=deploy_id)
    desk.ask("POLL", release="5.10", deploy_id=deploy_id)
    await desk.settled()
    assert desk.replies() == ["SHUTDOWN SUCCESS 7 -", "POLL SUCCESS 7 STATE=d"]


async def test_a_cancelled_poll_is_not_answered(desk: Desk) -> None:
    desk.world.provider.before["describe"].append(asyncio.Event())
    desk.ask("POLL", 7, release="5.10", deploy_id=desk.world.provider.add(identity_of(7)))
    await until(lambda: desk.world.provider.count("describe") == 1)
    desk.ask("DRIVER_CANCEL", 7, release="5.10")
    await pass_time(1000)
    assert desk.replies() == []


@pytest.mark.parametrize("count", [1, 3])
async def test_every_poll_is_answered_after_an_unexpected_exception_in_a_lookup(desk: Desk, count: int) -> None:
    deploy_id = desk.world.provider.add(identity_of(100))
    desk.world.provider.always["find"] = desk.world.provider.always["list"] = KeyError("reservations")
    for vm_id in range(count):
        desk.ask("POLL", vm_id, release="5.10", deploy_id="i-404")
    desk.ask("POLL", 100, release="5.10", deploy_id=deploy_id)
    await desk.settled()
    assert len(desk.replies()) == count + 1


async def test_queued_polls_report_no_change_while_the_configuration_is_unusable(desk: Desk) -> None:
    desk.engines.error = SettingsError("x.toml: owner is missing")
    for vm_id in range(3):
        desk.ask("POLL", vm_id, release="5.10", deploy_id="i-1")
    await desk.settled()
    assert desk.replies() == [f"POLL SUCCESS {vm_id} STATE=-" for vm_id in range(3)]


# Verbatim drivers


class FakeScripts:
    """Pretends to run a script for each action; keeps the requests, and returns or raises `answer`."""

    name = "scripts"
    is_busy = False

    def __init__(self) -> None:
        self.requests: list[VerbatimRequest] = []
        self.answer: str | BaseException = "-"
        self.gate: asyncio.Event | None = None

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def perform(self, request: VerbatimRequest, log: Callable[[str, str], None]) -> str:
        self.requests.append(request)
        log("I", f"running {request.action.lower()}")
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


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
    assert await debts(verbatim.world) == []


async def test_log_lines_of_every_severity_are_written(world: World, desk: Desk) -> None:
    for severity in Severity:
        desk.dispatcher.log_lines.tell(severity, "text", identity_of().vm_id)
    desk.dispatcher.log_lines.tell(Severity.WARNING, "for oned")
    assert desk.lines == ["LOG I 7 text", "LOG W 7 text", "LOG E 7 text", "LOG D 7 text"]


@pytest.mark.parametrize(("release", "general_id"), [("5.10", "-"), ("7.4", "-1")])
async def test_lines_for_oneds_log_wait_for_the_first_request_to_show_the_release(
    desk: Desk, release: str, general_id: str
) -> None:
    desk.dispatcher.log_lines.tell(Severity.WARNING, "early")
    assert desk.lines == []
    desk.ask("REBOOT", release=release)
    desk.dispatcher.log_lines.tell(Severity.WARNING, "late")
    assert desk.logs()[:2] == [f"LOG W {general_id} early", f"LOG W {general_id} late"]


# Random requests and random errors of the cloud


@dataclass(frozen=True)
class Ask:
    """A request about the VM; `named` if it carries the deploy id."""

    vm_id: int
    what: tuple[str, int]
    named: bool


@dataclass(frozen=True)
class Cancel:
    """DRIVER_CANCEL."""

    vm_id: int


@dataclass(frozen=True)
class Mishap:
    """An error of the next call of this kind: before it takes effect, or instead of its answer."""

    operation: str
    error: type[ProviderError]
    is_after: bool


@dataclass(frozen=True)
class Wait:
    """A pause without requests."""

    seconds: float


Step = Ask | Cancel | Mishap | Wait

VMS = st.integers(1, 3)
ASKED = [
    *[("DEPLOY", 2)] * 4,
    ("DEPLOY", 20),
    ("SHUTDOWN", 18),
    ("SHUTDOWN", 12),
    ("CANCEL", 18),
    ("CANCEL", 12),
    ("SAVE", 5),
    ("RESTORE", 22),
    ("CLEANUP", 23),
    ("CLEANUP", 15),
    ("REBOOT", 3),
    ("POLL", 3),
    ("MIGRATE", 4),
]
OPERATIONS = st.sampled_from(["create", "create", "destroy", "find", "describe", "stop", "start"])
STEPS = st.lists(
    st.one_of(
        st.builds(Ask, VMS, st.sampled_from(ASKED), named=st.booleans()),
        st.builds(Cancel, VMS),
        st.builds(
            Mishap,
            OPERATIONS,
            st.sampled_from([ProviderUnavailable, Throttled, NoCapacity, PermissionDenied]),
            is_after=st.just(value=False),
        ),
        # A refused call has had no effect; an unanswered one may have had it.
        st.builds(Mishap, OPERATIONS, st.just(ProviderUnavailable), is_after=st.just(value=True)),
        st.builds(Wait, st.sampled_from([0.0, 0.5, 3.0, 30.0])),
    ),
    max_size=25,
)


REPLACED = " was open, and is answered for both"


class Core:
    """Counts as oned does: requests sent, answered, replaced and cancelled, and the deploy ids returned."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.asked: Counter[int] = Counter()
        self.called_off: Counter[int] = Counter()
        self.seqs: Counter[int] = Counter()

    def known_id(self, vm_id: int) -> str:
        ids = [reply.split()[3] for reply in self.desk.replies("DEPLOY", vm_id) if " SUCCESS " in reply]
        return ids[-1] if ids else ""

    async def take(self, step: Step) -> None:
        cloud = self.desk.world.provider
        match step:
            case Ask(vm_id, (action, lcm_state), named):
                deploy_id = self.known_id(vm_id) if named and (action, lcm_state) != ("DEPLOY", 2) else ""
                release = "5.10" if action == "POLL" else "7.4"
                self.asked[vm_id] += 1
                self.desk.ask(
                    action, vm_id, lcm_state=lcm_state, deploy_id=deploy_id, seq=self.seqs[vm_id], release=release
                )
                self.seqs[vm_id] += lcm_state in (15, 20)
            case Cancel(vm_id):
                self.called_off[vm_id] = self.asked[vm_id] - self.settled(vm_id)
                self.desk.ask("DRIVER_CANCEL", vm_id)
            case Mishap(operation, error, is_after):
                (cloud.after if is_after else cloud.before)[operation].append(error("a mishap"))
            case Wait(seconds):
                await pass_time(seconds)

    def settled(self, vm_id: int) -> int:
        """The number of requests of a VM that were answered, separately or together with a newer one."""
        replaced = [line for line in self.desk.logs() if line.startswith(f"LOG I {vm_id} ") and REPLACED in line]
        return len(self.desk.replies(vm_id=vm_id)) + len(replaced)

    def check(self) -> None:
        for vm_id, count in self.asked.items():
            assert self.settled(vm_id) == count - self.called_off[vm_id], f"VM {vm_id}: {self.desk.lines}"


async def live_through(steps: list[Step], path: Path, *, is_repeatable: bool, lag: float) -> None:
    """Check that each request is answered once or cancelled, and that no instance is left after a final CLEANUP."""
    async with a_world(path) as world, a_desk(world, threads=2) as desk:
        world.provider.is_create_repeatable = is_repeatable
        world.provider.lag, world.provider.visibility_grace = lag, lag + 1
        world.set_cloud(retries=1)
        debts = asyncio.create_task(desk.dispatcher.debts.pay_for_ever(desk.lanes))
        core = Core(desk)
        for step in steps:
            await core.take(step)
        await desk.settled()
        for orders in (world.provider.before, world.provider.after):
            orders.clear()
        for vm_id in (1, 2, 3):
            await core.take(Ask(vm_id, ("CLEANUP", 23), named=False))
        await desk.settled()
        core.check()
        await pass_time(2000)
        debts.cancel()
        await desk.settled()
        core.check()
        await world.journal.sync()
        assert await desk.open_requests() == []
        assert await world.journal.debts() == []
        assert world.provider.alive() == []


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, is_repeatable=st.booleans(), lag=st.sampled_from([0.0, 10.0]))
def test_random_requests_are_answered_once_and_leave_no_instance_after_cleanup(
    steps: list[Step], *, is_repeatable: bool, lag: float
) -> None:
    with tempfile.TemporaryDirectory() as directory, closing(looptime.new_event_loop()) as loop:
        loop.run_until_complete(live_through(steps, Path(directory), is_repeatable=is_repeatable, lag=lag))
        # asyncio.Runner waits for the threads too, but for 300 s of a clock that jumps.
        loop.run_until_complete(loop.shutdown_default_executor())
