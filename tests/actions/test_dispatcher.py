from __future__ import annotations

import asyncio
import base64
import re
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import looptime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from one_provider_mad.actions import queued
from one_provider_mad.domain import DeployId, InstanceState
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
from one_provider_mad.providers.interface import CreateCall
from tests import oned_lines
from tests.actions.fakes import LARGE, PATIENCE, Desk, World, a_desk, a_world, identity_of, large, pass_time, until

pytestmark = pytest.mark.looptime


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


# Invalid requests


BAD_PAYLOADS = [
    pytest.param(b"", "the request has no payload", id="none"),
    pytest.param(b"!!!!", "payload is not base64", id="no-base64"),
    pytest.param(base64.b64encode(b"<VMM"), "payload is not the XML of a driver message", id="no-xml"),
    pytest.param(base64.b64encode(b"\xff"), "payload is not UTF-8", id="no-utf-8"),
    pytest.param(
        base64.b64encode(oned_lines.document("DEPLOY", 8)), "the message is about VM 8, the line about VM 7", id="id"
    ),
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


async def test_a_large_request_keeps_its_turn_among_the_actions_of_its_vm(desk: Desk) -> None:
    desk.world.provider.boot_time = 0
    desk.ask("DEPLOY", template=large())
    desk.ask("REBOOT")
    desk.ask("RESET", template=large())
    await desk.settled()
    assert desk.replies() == ["DEPLOY SUCCESS 7 i-1", "REBOOT SUCCESS 7 -", "RESET SUCCESS 7 -"]


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
        assert await desk.open_requests() == ["DEPLOY"], "only VM 1's DEPLOY is open"


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


REPLACED = " was unanswered, and is answered for both"


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
    with tempfile.TemporaryDirectory() as directory, closing(looptime.new_event_loop(noop_cycles=0)) as loop:
        loop.run_until_complete(live_through(steps, Path(directory), is_repeatable=is_repeatable, lag=lag))
        # asyncio.Runner waits for the threads too, but for 300 s of a clock that jumps.
        loop.run_until_complete(loop.shutdown_default_executor())
