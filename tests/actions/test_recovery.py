from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from itertools import count
from typing import Any

import pytest

from one_provider_mad.actions.recovery import Recovery
from one_provider_mad.domain import InstanceState
from one_provider_mad.errors import JournalError, PermissionDenied
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.journal.writer import Journal
from one_provider_mad.processes import Process
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import Action, Request
from one_provider_mad.protocol.vmm import parse_line
from tests import oned_lines
from tests.actions.fakes import EPOCH, STIME, Desk, World, identity_of, pass_time, until

pytestmark = pytest.mark.looptime

SENTENCE = (
    "the driver ended before it was done: look at the instance, then ask again, a deploy with onevm recover --retry"
)
ONED = Process.parent()
"""The parent of this process, and of the earlier one unless a test says otherwise."""

DEAD = Process(pid=4_000_000, start="an earlier time")


@pytest.fixture
def living_driver() -> Iterator[subprocess.Popen[bytes]]:
    """The process of an earlier driver that is still alive."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def now() -> float:
    return asyncio.get_running_loop().time()


def request(action: str = "DEPLOY", vm_id: int = 7, **details: Any) -> Request:
    parsed = parse_line(oned_lines.line(action, vm_id, stime=STIME, host_id=3, **details).rstrip(b"\n"))
    assert isinstance(parsed, Request)
    return parsed


async def leave(
    world: World,
    *requests: Request,
    writer: Process = DEAD,
    parent: Process = ONED,
    age: float = 5.0,
    seen: float | None = None,
    is_called_off: bool = False,
) -> None:
    """Write these requests to the journal as an earlier process did, `age` seconds ago, before it died."""
    moments = count(EPOCH + now() - age, 0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Process, "current", lambda: writer)
        patch.setattr(Process, "parent", lambda: parent)
        journal = Journal(world.journal.path, clock=lambda: next(moments), on_lost=pytest.fail)
        await journal.open()
        patch.undo()
        for each in requests:
            is_kept = each.action.value in ("DEPLOY", "SHUTDOWN", "CANCEL", "SAVE", "RESTORE", "CLEANUP", "UPDATESG")
            number = journal.open_request(
                action=each.action.value,
                vm_id=each.vm_id,
                dialect=each.dialect,
                payload=each.payload if is_kept else b"",
            )
            await journal.sync()
            if is_called_off:
                journal.call_off_request(number)
        await journal.close()
    if seen is not None:
        with closing(sqlite3.connect(world.journal.path, isolation_level=None)) as db:
            db.execute("UPDATE writers SET seen_at = ? WHERE pid = ?", (EPOCH + now() - seen, writer.pid))


def recovery_of(desk: Desk) -> Recovery:
    """A recovery for a desk, whose output is always open."""
    return Recovery(
        desk.world.journal,
        desk.dispatcher,
        open_output=lambda: None,
        core_is_up=desk.dispatcher.core_is_up,
        clock=desk.world.clock,
    )


async def recover(desk: Desk) -> None:
    """Run the recovery, and wait until its requests have ended."""
    async with asyncio.timeout(10_000):
        await recovery_of(desk).run()
        await desk.settled()
    await desk.world.journal.sync()


async def left_over(world: World) -> list[str]:
    return [each.action for each in await world.journal.open_requests()]


# Repeated requests


async def test_an_unanswered_deploy_is_repeated_and_answered_once(desk: Desk) -> None:
    await leave(desk.world, request("DEPLOY"))
    await recover(desk)
    assert desk.lines == ["DEPLOY SUCCESS 7 i-1"]
    assert await left_over(desk.world) == []
    assert [writer.process for writer in await desk.world.journal.writers()] == [Process.current()]


async def test_an_unanswered_deploy_is_answered_with_the_existing_instance(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    await leave(desk.world, request("DEPLOY"))
    await recover(desk)
    assert desk.lines == [f"DEPLOY SUCCESS 7 {deploy_id}"]
    assert desk.world.provider.count("create") == 0


async def test_a_repeated_deploy_repeats_its_unanswered_create(desk: Desk) -> None:
    attempt = await desk.world.add_attempt(AttemptState.OPEN, age=3)
    await leave(desk.world, request("DEPLOY"))
    await recover(desk)
    [call] = [detail for name, detail in desk.world.provider.calls if name == "create"]
    assert call.token == attempt.token
    assert desk.lines == ["DEPLOY SUCCESS 7 i-1"]


@pytest.mark.parametrize(
    ("action", "lcm_state", "before", "after"),
    [
        ("SHUTDOWN", 18, InstanceState.RUNNING, InstanceState.STOPPED),
        ("SHUTDOWN", 12, InstanceState.RUNNING, InstanceState.TERMINATED),
        ("CANCEL", 12, InstanceState.TERMINATED, InstanceState.TERMINATED),
        ("SAVE", 6, InstanceState.STOPPED, InstanceState.STOPPED),
        ("RESTORE", 21, InstanceState.STOPPED, InstanceState.RUNNING),
        ("CLEANUP", 23, InstanceState.RUNNING, InstanceState.TERMINATED),
    ],
)
async def test_actions_that_bring_an_instance_to_a_state_are_repeated(
    desk: Desk, action: str, lcm_state: int, before: InstanceState, after: InstanceState
) -> None:
    deploy_id = desk.world.provider.add(identity_of(), before)
    await leave(desk.world, request(action, lcm_state=lcm_state, deploy_id=deploy_id))
    await recover(desk)
    assert desk.replies() == [f"{action} SUCCESS 7 -"]
    assert desk.world.provider.state(deploy_id) is after


async def test_only_the_last_of_two_open_requests_of_a_vm_is_answered(desk: Desk) -> None:
    """oned sends the next request after an answer: the first one was answered, but that was not on disk yet."""
    desk.world.provider.add(identity_of(), deploy_id="i-1")
    await leave(
        desk.world,
        request("DEPLOY"),
        request("SHUTDOWN", lcm_state=18, deploy_id="i-1"),
    )
    await recover(desk)
    assert desk.lines == ["SHUTDOWN SUCCESS 7 -"]
    assert await left_over(desk.world) == []


@pytest.mark.parametrize("is_later_first", [False, True])
async def test_the_older_request_of_two_dead_drivers_is_not_repeated_after_the_newer_one(
    desk: Desk, *, is_later_first: bool
) -> None:
    """SAVE was answered before its process was killed; the next process got RESTORE, and was killed as well."""
    desk.world.provider.add(identity_of(), InstanceState.STOPPED, deploy_id="i-1")
    pids = (4_000_002, 4_000_001) if is_later_first else (4_000_001, 4_000_002)
    for pid, each in zip(
        pids,
        (request("SAVE", lcm_state=5, deploy_id="i-1"), request("RESTORE", lcm_state=22, deploy_id="i-1")),
        strict=True,
    ):
        await leave(desk.world, each, writer=Process(pid=pid, start="an earlier time"))
    await recover(desk)
    assert desk.replies() == ["RESTORE SUCCESS 7 -"]
    assert desk.world.provider.state("i-1") is InstanceState.RUNNING
    assert await left_over(desk.world) == []


SECURITY_GROUP = {"SECURITY_GROUP_ID": "104"}


@pytest.mark.parametrize(
    ("waiting", "beside", "answer"),
    [
        pytest.param(
            request("ATTACHDISK", lcm_state=17, deploy_id="i-1", operand={"DISK_ID": "1"}),
            request("UPDATESG", lcm_state=17, deploy_id="i-1", operand=SECURITY_GROUP),
            f"ATTACHDISK FAILURE 7 {SENTENCE}",
            id="security-group-beside-disk",
        ),
        pytest.param(
            request("UPDATESG", lcm_state=3, deploy_id="i-1", operand=SECURITY_GROUP),
            request("SHUTDOWN", lcm_state=18, deploy_id="i-1"),
            f"UPDATESG FAILURE 7 104 {SENTENCE}",
            id="security-group-before-power-off",
        ),
        pytest.param(
            request("UPDATESG", lcm_state=3, deploy_id="i-1", operand=SECURITY_GROUP),
            request("UPDATESG", lcm_state=3, deploy_id="i-1", operand={"SECURITY_GROUP_ID": "105"}),
            f"UPDATESG FAILURE 7 104 {SENTENCE}",
            id="two-security-groups",
        ),
        pytest.param(
            request("BACKUP", lcm_state=69, deploy_id="i-1"),
            request("BACKUPCANCEL", lcm_state=69, deploy_id="i-1"),
            f"BACKUP FAILURE 7 {SENTENCE}",
            id="cancelled-backup",
        ),
    ],
)
@pytest.mark.parametrize("is_other_new", [False, True], ids=["both-left", "one-left-one-new"])
async def test_both_open_requests_of_a_vm_are_answered_if_oned_waits_for_both(
    desk: Desk, waiting: Request, beside: Request, answer: str, *, is_other_new: bool
) -> None:
    desk.world.provider.add(identity_of(), deploy_id="i-1")
    if is_other_new:
        await leave(desk.world, waiting)
        desk.dispatcher.accept(beside)
    else:
        await leave(desk.world, waiting, beside)
    await recover(desk)
    assert answer in desk.replies()
    assert len(desk.replies()) == 2


async def test_only_the_last_of_two_open_device_actions_is_answered(desk: Desk) -> None:
    """Attaching hung, a person recovered the VM and detached: a late answer to the first would end the second."""
    disk = {"DISK_ID": "1"}
    attach = request("ATTACHDISK", lcm_state=17, deploy_id="i-1", operand=disk)
    await leave(desk.world, attach, request("DETACHDISK", lcm_state=17, deploy_id="i-1", operand=disk))
    await recover(desk)
    assert desk.replies() == [f"DETACHDISK FAILURE 7 {SENTENCE}"]


async def test_a_request_of_a_driver_started_in_a_shell_does_not_replace_a_request_of_oned(desk: Desk) -> None:
    desk.world.provider.add(identity_of(), deploy_id="i-1")
    await leave(desk.world, request("SHUTDOWN", lcm_state=18, deploy_id="i-1"))
    person, shell = Process(pid=4_000_009, start="a while ago"), Process(pid=4_000_010, start="a while ago")
    await leave(desk.world, request("RESET", deploy_id="i-1"), writer=person, parent=shell)
    await recover(desk)
    assert "SHUTDOWN SUCCESS 7 -" in desk.replies()


async def test_the_order_of_requests_does_not_depend_on_the_clock(desk: Desk) -> None:
    """The clock was an hour ahead when SAVE came; the next process got RESTORE, and both were killed."""
    desk.world.provider.add(identity_of(), InstanceState.STOPPED, deploy_id="i-1")
    first, second = (Process(pid=pid, start="an earlier time") for pid in (4_000_001, 4_000_002))
    await leave(desk.world, request("SAVE", lcm_state=5, deploy_id="i-1"), writer=first)
    with closing(sqlite3.connect(desk.world.journal.path, isolation_level=None)) as db:
        db.execute("UPDATE requests SET id = id + 3600 * 1000000000")
    await leave(desk.world, request("RESTORE", lcm_state=22, deploy_id="i-1"), writer=second)
    await recover(desk)
    assert desk.replies() == ["RESTORE SUCCESS 7 -"]


async def test_a_request_fails_if_the_journal_cannot_record_its_takeover_and_others_are_answered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Process(pid=pid, start="an earlier time") for pid in (4_000_001, 4_000_002))
    await leave(desk.world, request("DEPLOY"), writer=first)
    await leave(desk.world, request("REBOOT", 8, deploy_id="i-1"), writer=second)

    async def full(_number: int) -> None:
        raise JournalError("the journal cannot be used: database or disk is full")

    monkeypatch.setattr(desk.world.journal, "take_request", full)
    await recover(desk)
    assert sorted(desk.replies()) == [f"DEPLOY FAILURE 7 {SENTENCE}", f"REBOOT FAILURE 8 {SENTENCE}"]


async def test_the_first_replies_come_a_second_after_the_answer_to_init(desk: Desk) -> None:
    """oned reads the answer to INIT with one read, and drops the rest of that read (include/Driver.h)."""
    desk.world.provider.boot_time = 0
    await leave(desk.world, request("DEPLOY", 1), request("REBOOT", 2, deploy_id="i-1"))
    begun = now()
    recovering = asyncio.create_task(recovery_of(desk).run())
    await until(lambda: bool(desk.replies("DEPLOY")))
    assert 1.0 <= now() - begun <= 2.0
    await until(lambda: bool(desk.replies("REBOOT")))
    assert 3.0 <= now() - begun <= 4.0
    await recovering


async def test_recovery_opens_the_output_a_second_after_it_begins(desk: Desk) -> None:
    opened: list[float] = []
    await leave(desk.world, request("DEPLOY"))
    recovery = Recovery(
        desk.world.journal,
        desk.dispatcher,
        open_output=lambda: opened.append(now()),
        core_is_up=desk.dispatcher.core_is_up,
        clock=desk.world.clock,
    )
    begun = now()
    await recovery.run()
    await desk.settled()
    assert opened
    assert round(opened[0] - begun, 3) >= 1.0


async def test_recovery_without_open_requests_writes_nothing_and_leaves_the_output_closed(desk: Desk) -> None:
    recovery = Recovery(
        desk.world.journal,
        desk.dispatcher,
        open_output=pytest.fail,
        core_is_up=desk.dispatcher.core_is_up,
        clock=desk.world.clock,
    )
    await recovery.run()
    assert desk.lines == []


# Requests that fail


@pytest.mark.parametrize(
    ("age", "seen", "is_repeated"),
    [
        pytest.param(5, None, True, id="five-seconds-ago"),
        pytest.param(59, None, True, id="within-a-minute"),
        pytest.param(62, None, False, id="longer-ago"),
        pytest.param(500, 20, True, id="long-ago-but-alive-until-recently"),
        pytest.param(500, 400, False, id="long-ago-and-dead-for-long"),
        pytest.param(-100, -100, False, id="in-the-future"),
    ],
)
async def test_a_request_is_repeated_only_if_its_process_lived_within_the_last_minute(
    desk: Desk, age: float, seen: float | None, *, is_repeated: bool
) -> None:
    await leave(desk.world, request("DEPLOY"), age=age, seen=seen)
    await recover(desk)
    assert desk.lines == ["DEPLOY SUCCESS 7 i-1" if is_repeated else f"DEPLOY FAILURE 7 {SENTENCE}"]
    assert bool(desk.world.provider.instances) is is_repeated
    assert await left_over(desk.world) == []


async def test_a_request_of_another_oned_fails_after_three_seconds(desk: Desk) -> None:
    await leave(desk.world, request("DEPLOY"), parent=Process(pid=ONED.pid, start="another time"))
    begun = now()
    await recover(desk)
    assert desk.lines == [f"DEPLOY FAILURE 7 {SENTENCE}"]
    assert 3.0 <= now() - begun <= 4.0
    assert desk.world.provider.calls == []


@pytest.mark.parametrize("action", ["REBOOT", "RESET", "ATTACHDISK", "SNAPSHOTCREATE", "RESIZE"])
async def test_actions_that_cannot_be_repeated_fail(desk: Desk, action: str) -> None:
    operand = {"DISK_ID": "1"} if action == "ATTACHDISK" else {}
    await leave(desk.world, request(action, deploy_id="i-1", operand=operand))
    await recover(desk)
    assert desk.replies() == [f"{action} FAILURE 7 {SENTENCE}"]
    assert desk.world.provider.calls == []
    assert await left_over(desk.world) == []


@pytest.mark.parametrize(("release", "is_logged"), [("5.10", False), ("7.4", True)])
async def test_an_interrupted_reboot_is_logged_for_releases_that_ignore_its_answer(
    desk: Desk, release: str, *, is_logged: bool
) -> None:
    await leave(desk.world, request("REBOOT", deploy_id="i-1", release=release))
    await recover(desk)
    assert desk.logs() == ([f"LOG E 7 REBOOT: {SENTENCE}"] if is_logged else [])


async def test_the_failure_of_an_interrupted_updatesg_begins_with_the_group_id(desk: Desk) -> None:
    await leave(desk.world, request("UPDATESG", deploy_id="i-1", operand={"SECURITY_GROUP_ID": "104"}))
    await recover(desk)
    assert desk.lines == [f"UPDATESG FAILURE 7 104 {SENTENCE}"]


async def test_a_request_with_an_unreadable_payload_fails(desk: Desk) -> None:
    spoilt = Request(action=Action.DEPLOY, vm_id=identity_of().vm_id, payload=b"!!!!", dialect=Dialect.SINCE_6_0)
    await leave(desk.world, spoilt)
    await recover(desk)
    assert len(desk.lines) == 1
    assert desk.lines[0].startswith("DEPLOY FAILURE 7 payload is not base64")
    assert await left_over(desk.world) == []


async def leave_after(world: World, takers: int, left: Request) -> None:
    """Leave a request that `takers` processes have taken over, each of which died."""
    await leave(world, left)
    died = Process(pid=4_100_000, start="an earlier time")
    await leave(world, writer=died)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Process, "current", lambda: died)
        journal = Journal(world.journal.path, clock=world.clock, on_lost=pytest.fail)
    await journal.open()
    [left_one] = await journal.open_requests()
    await journal.take_request(left_one.id, takers=takers)
    await journal.forget_writer(DEAD)
    await journal.close()


async def test_a_request_that_thirty_drivers_did_not_survive_fails_without_a_lookup(desk: Desk) -> None:
    """The request may have crashed them."""
    desk.world.provider.add(identity_of())
    await leave_after(desk.world, 30, request("DEPLOY"))
    await recover(desk)
    assert desk.lines == [f"DEPLOY FAILURE 7 {SENTENCE}"]
    assert desk.world.provider.calls == []


@pytest.mark.parametrize("takers", [3, 10])
async def test_a_deploy_that_killed_three_drivers_is_answered_with_its_existing_instance(
    desk: Desk, takers: int
) -> None:
    """One of the killed drivers has usually created it."""
    deploy_id = desk.world.provider.add(identity_of())
    await leave_after(desk.world, takers, request("DEPLOY"))
    await recover(desk)
    assert desk.lines == [f"DEPLOY SUCCESS 7 {deploy_id}"]
    assert await left_over(desk.world) == []


async def test_a_deploy_that_killed_three_drivers_creates_no_instance(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of(8))
    await leave_after(desk.world, 3, request("DEPLOY"))
    await recover(desk)
    [answer] = desk.lines
    assert answer.startswith("DEPLOY FAILURE 7 no instance was made before the driver or OpenNebula ended")
    assert desk.world.provider.count("create") == 0
    assert desk.world.provider.alive() == [deploy_id]


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        (InstanceState.STOPPED, "SUCCESS 7 -"),
        (InstanceState.RUNNING, "FAILURE 7 instance i-1 is running: it was not stopped"),
    ],
)
async def test_a_power_off_that_killed_three_drivers_is_answered_by_the_instances_state(
    desk: Desk, state: InstanceState, answer: str
) -> None:
    deploy_id = desk.world.provider.add(identity_of(), state)
    await leave_after(desk.world, 3, request("SHUTDOWN", lcm_state=18, deploy_id=deploy_id))
    await recover(desk)
    assert desk.lines[0].startswith(f"SHUTDOWN {answer}")
    assert desk.world.provider.count("stop") == 0


# Newer requests


@pytest.mark.parametrize("is_repeated", [True, False], ids=["repeated", "failed"])
@pytest.mark.parametrize("when", ["before", "meanwhile", "done"])
async def test_a_new_request_before_or_during_the_recovery_replaces_the_old_request_of_its_vm(
    desk: Desk, when: str, *, is_repeated: bool
) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.stop_time = 0.1 if when == "done" else 5.0  # then its answer waits for the second after INIT
    old = request("SHUTDOWN", lcm_state=18, deploy_id=deploy_id)
    await leave(desk.world, old, age=5 if is_repeated else 500)
    if when == "before":
        desk.ask("REBOOT", deploy_id=deploy_id)
    recovering = asyncio.create_task(recover(desk))
    if when != "before":
        await pass_time(0.7)
        desk.ask("REBOOT", deploy_id=deploy_id)
    await recovering
    assert [reply.split()[0] for reply in desk.replies()] == ["REBOOT"]
    assert await left_over(desk.world) == []


async def test_a_newer_deploy_replaces_the_old_one_that_is_being_repeated(desk: Desk) -> None:
    desk.world.provider.boot_time = 60
    await leave(desk.world, request("DEPLOY"))
    recovering = asyncio.create_task(recover(desk))
    await pass_time(30)
    desk.ask("DEPLOY")
    await recovering
    assert desk.replies() == ["DEPLOY SUCCESS 7 i-1"]
    assert desk.world.provider.count("create") == 1


async def test_a_repeated_undeploy_that_a_newer_power_off_replaces_leaves_no_parked_mark(desk: Desk) -> None:
    """The undeploy was answered with a failure before its process was killed; oned now powers the VM off."""
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.stop_time = 60
    await leave(desk.world, request("SHUTDOWN", lcm_state=29, deploy_id=deploy_id))
    recovering = asyncio.create_task(recover(desk))
    await until(lambda: desk.world.provider.count("stop") == 1)
    desk.ask("SHUTDOWN", lcm_state=18, deploy_id=deploy_id)
    await recovering
    assert desk.replies() == ["SHUTDOWN SUCCESS 7 -"]
    assert await desk.world.journal.parked() == set()


async def test_an_old_power_off_is_not_repeated_after_a_resume_that_came_before_the_recovery(desk: Desk) -> None:
    """The old power off must not be carried out after the new resume."""
    deploy_id = desk.world.provider.add(identity_of(), InstanceState.STOPPED)
    await leave(desk.world, request("SHUTDOWN", lcm_state=18, deploy_id=deploy_id))
    desk.ask("DEPLOY", lcm_state=20, deploy_id=deploy_id, seq=1)
    await recover(desk)
    assert desk.replies() == [f"DEPLOY SUCCESS 7 {deploy_id}"]
    assert desk.world.provider.state(deploy_id) is InstanceState.RUNNING


async def test_driver_cancel_replaces_the_old_request(desk: Desk) -> None:
    desk.world.provider.boot_time = 60
    await leave(desk.world, request("DEPLOY"))
    recovering = asyncio.create_task(recover(desk))
    await pass_time(10)
    desk.ask("DRIVER_CANCEL")
    await recovering
    assert desk.replies() == []


async def test_a_poll_does_not_replace_the_old_request(desk: Desk) -> None:
    """oned polls VMs in every state, and still waits for the answer to the action."""
    await leave(desk.world, request("DEPLOY", release="5.10"))
    recovering = asyncio.create_task(recover(desk))
    await pass_time(0.5)
    desk.ask("POLL", release="5.10", deploy_id="i-1")
    await recovering
    assert [reply.split()[0] for reply in desk.replies()] == ["DEPLOY", "POLL"]


async def test_a_request_of_another_vm_does_not_replace_the_old_one(desk: Desk) -> None:
    await leave(desk.world, request("DEPLOY", 7))
    desk.ask("DEPLOY", 8)
    await recover(desk)
    assert sorted(reply.split()[2] for reply in desk.replies()) == ["7", "8"]


# A driver that is still alive


async def test_the_requests_of_a_driver_that_stays_alive_are_left_to_it(
    desk: Desk, living_driver: subprocess.Popen[bytes]
) -> None:
    writer = Process.of(living_driver.pid)
    assert writer is not None
    await leave(desk.world, request("DEPLOY"), writer=writer)
    await recover(desk)
    assert desk.lines == []
    assert await left_over(desk.world) == ["DEPLOY"], "the living driver answers it"
    assert writer in [each.process for each in await desk.world.journal.writers()]


async def test_the_requests_of_a_driver_are_taken_over_once_it_ends(
    desk: Desk, living_driver: subprocess.Popen[bytes]
) -> None:
    """Up to 5.12 oned does not kill the driver; it gets FINALIZE and ends by itself (src/mad/Mad.cc)."""
    writer = Process.of(living_driver.pid)
    assert writer is not None
    await leave(desk.world, request("DEPLOY"), writer=writer)
    recovering = asyncio.create_task(recover(desk))
    await pass_time(5)
    assert desk.lines == []
    living_driver.kill()
    living_driver.wait()
    await recovering
    assert desk.lines == ["DEPLOY SUCCESS 7 i-1"]


async def test_a_request_that_came_while_the_old_driver_lived_replaces_the_old_one(
    desk: Desk, living_driver: subprocess.Popen[bytes]
) -> None:
    writer = Process.of(living_driver.pid)
    assert writer is not None
    deploy_id = desk.world.provider.add(identity_of())
    await leave(desk.world, request("SHUTDOWN", lcm_state=18, deploy_id=deploy_id), writer=writer)
    recovering = asyncio.create_task(recover(desk))
    await pass_time(5)
    assert await desk.answer("REBOOT", deploy_id=deploy_id) == "SUCCESS -"
    living_driver.kill()
    living_driver.wait()
    await recovering
    assert desk.replies() == ["REBOOT SUCCESS 7 -"]
    assert desk.world.provider.state(deploy_id) is InstanceState.RUNNING


async def test_the_requests_of_several_dead_drivers_are_repeated_beside_new_ones(desk: Desk) -> None:
    for number in (1, 2, 3):
        writer = Process(pid=4_000_000 + number, start="an earlier time")
        await leave(desk.world, request("DEPLOY", number), writer=writer)
    desk.world.provider.boot_time = 30
    desk.ask("DEPLOY", 4)
    await recover(desk)
    assert sorted(reply.split()[2] for reply in desk.replies()) == ["1", "2", "3", "4"]
    assert len(await desk.world.journal.writers()) == 1


# Cancelled requests that had not ended


async def test_a_cancelled_deploy_of_a_dead_driver_becomes_a_debt_and_is_not_answered(desk: Desk) -> None:
    attempt = await desk.world.add_attempt(AttemptState.OPEN, age=10)
    await leave(desk.world, request("DEPLOY"), is_called_off=True)
    await recover(desk)
    [debt] = await desk.world.journal.debts()
    assert debt.token == attempt.token
    assert desk.lines == []
    assert await left_over(desk.world) == []


async def test_a_cancelled_deploys_instance_becomes_a_debt_before_a_newer_deploy_could_adopt_it(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    await desk.world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id, age=10)
    await leave(desk.world, request("DEPLOY"), is_called_off=True)
    await recovery_of(desk).forget_called_off()
    desk.ask("DEPLOY")
    await recover(desk)
    assert desk.replies() == ["DEPLOY SUCCESS 7 i-2"]


@pytest.mark.parametrize("action", ["SHUTDOWN", "REBOOT"])
async def test_a_cancelled_request_that_creates_no_instance_is_dropped_after_a_crash(desk: Desk, action: str) -> None:
    await leave(desk.world, request(action, deploy_id="i-1"), is_called_off=True)
    await recover(desk)
    assert desk.lines == []
    assert await desk.world.journal.debts() == []
    assert await left_over(desk.world) == []


# Errors


def hide(world: World, table: str) -> None:
    with closing(sqlite3.connect(world.journal.path, isolation_level=None)) as db:
        db.execute(f"ALTER TABLE {table} RENAME TO hidden")


@pytest.mark.parametrize("table", ["requests", "writers"])
async def test_new_requests_are_answered_although_the_journal_cannot_be_read(desk: Desk, table: str) -> None:
    await leave(desk.world, request("DEPLOY"))
    hide(desk.world, table)
    await recovery_of(desk).forget_called_off()
    await recovery_of(desk).run()
    deploy_id = desk.world.provider.add(identity_of(8))
    desk.ask("POLL", 8, release="5.10", deploy_id=deploy_id)
    await desk.settled()
    assert desk.replies() == ["POLL SUCCESS 8 STATE=a"]


async def test_a_repeated_request_that_fails_is_answered_with_its_error(desk: Desk) -> None:
    desk.world.provider.before["create"].append(PermissionDenied("creating is not allowed"))
    await leave(desk.world, request("DEPLOY"))
    await recover(desk)
    assert desk.lines == ["DEPLOY FAILURE 7 creating is not allowed"]


# Signs of life


@asynccontextmanager
async def showing_life(desk: Desk) -> AsyncIterator[None]:
    task = asyncio.create_task(recovery_of(desk).show_life())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_driver_records_every_15_seconds_that_it_is_alive(desk: Desk) -> None:
    async with showing_life(desk):
        await pass_time(100)
        [writer] = await desk.world.journal.writers()
        assert 0 <= desk.world.clock() - writer.seen_at <= 16


async def test_the_driver_goes_on_recording_that_it_is_alive_after_a_write_has_failed(desk: Desk) -> None:
    async with showing_life(desk):
        await pass_time(10)
        hide(desk.world, "writers")
        await pass_time(20)
        with closing(sqlite3.connect(desk.world.journal.path, isolation_level=None)) as db:
            db.execute("ALTER TABLE hidden RENAME TO writers")
        await pass_time(30)
        [writer] = await desk.world.journal.writers()
        assert 0 <= desk.world.clock() - writer.seen_at <= 16
