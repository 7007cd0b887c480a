from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.actions.recovery import Recovery
from one_provider_mad.cli.driver_message import wire_line
from one_provider_mad.domain import InstanceState
from one_provider_mad.errors import JournalError, PermissionDenied
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.journal.writer import Journal
from one_provider_mad.processes import Process
from one_provider_mad.protocol.messages import Action, Request
from one_provider_mad.protocol.vmm import parse_line
from tests.actions.fakes import EPOCH, STIME, Desk, World, a_desk, a_world, identity_of, pass_time, until

pytestmark = pytest.mark.looptime

SENTENCE = (
    "the driver ended before it was done: look at the instance, then ask again, a deploy with onevm recover --retry"
)
ONED = Process.parent()
"""Who has started this process, and the earlier one unless a test says otherwise."""

DEAD = Process(pid=4_000_000, start="an earlier time")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    async with a_desk(world) as desk:
        yield desk


@pytest.fixture
def living() -> Iterator[subprocess.Popen[bytes]]:
    """An earlier driver that has not ended yet."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def now() -> float:
    return asyncio.get_running_loop().time()


def request(action: str = "DEPLOY", vm_id: int = 7, **details: Any) -> Request:
    parsed = parse_line(wire_line(action, vm_id=vm_id, stime=STIME, host_id=3, **details).rstrip(b"\n"))
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
    """Write to the journal what an earlier process wrote: these requests, so many seconds ago, and then it died."""
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
                is_two_blank=each.is_two_blank,
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
    """The desk's output is always open."""
    return Recovery(
        desk.world.journal,
        desk.dispatcher,
        open_output=lambda: None,
        core_is_up=desk.dispatcher.core_is_up,
        clock=desk.world.clock,
    )


async def recover(desk: Desk) -> None:
    """Everything that an earlier process left, and all that follows from it."""
    async with asyncio.timeout(10_000):
        await recovery_of(desk).run()
        await desk.settled()
    await desk.world.journal.sync()


async def left_over(world: World) -> list[str]:
    return [each.action for each in await world.journal.open_requests()]


# Carried out again


async def test_a_deploy_that_was_not_answered_is_carried_out_and_answered_once(desk: Desk) -> None:
    await leave(desk.world, request("DEPLOY"))
    await recover(desk)
    assert desk.lines == ["DEPLOY SUCCESS 7 i-1"]
    assert await left_over(desk.world) == []
    assert [writer.process for writer in await desk.world.journal.writers()] == [Process.current()]


async def test_a_deploy_whose_instance_exists_already_is_answered_with_it(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    await leave(desk.world, request("DEPLOY"))
    await recover(desk)
    assert desk.lines == [f"DEPLOY SUCCESS 7 {deploy_id}"]
    assert desk.world.provider.count("create") == 0


async def test_a_deploy_whose_create_was_never_answered_is_sent_again_as_it_was(desk: Desk) -> None:
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
async def test_what_brings_an_instance_to_a_state_is_carried_out_again(
    desk: Desk, action: str, lcm_state: int, before: InstanceState, after: InstanceState
) -> None:
    deploy_id = desk.world.provider.add(identity_of(), before)
    await leave(desk.world, request(action, lcm_state=lcm_state, deploy_id=deploy_id))
    await recover(desk)
    assert desk.replies() == [f"{action} SUCCESS 7 -"]
    assert desk.world.provider.state(deploy_id) is after


async def test_of_two_requests_of_one_vm_only_the_last_is_still_waited_for(desk: Desk) -> None:
    """oned asks anew when it has its answer: the first was answered, and its end had not reached the disk."""
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
async def test_what_two_deaths_have_left_does_not_undo_what_came_after_it(desk: Desk, *, is_later_first: bool) -> None:
    """SAVE was answered, and its process killed; the next one was asked to RESTORE, and killed as well."""
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
            id="a-security-group-beside-a-disk",
        ),
        pytest.param(
            request("UPDATESG", lcm_state=3, deploy_id="i-1", operand=SECURITY_GROUP),
            request("SHUTDOWN", lcm_state=18, deploy_id="i-1"),
            f"UPDATESG FAILURE 7 104 {SENTENCE}",
            id="a-security-group-before-a-power-off",
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
            id="a-backup-that-is-called-off",
        ),
    ],
)
@pytest.mark.parametrize("is_asked_anew", [False, True], ids=["both-left", "the-other-asked-anew"])
async def test_what_is_waited_for_beside_something_else_is_answered(
    desk: Desk, waiting: Request, beside: Request, answer: str, *, is_asked_anew: bool
) -> None:
    desk.world.provider.add(identity_of(), deploy_id="i-1")
    if is_asked_anew:
        await leave(desk.world, waiting)
        desk.dispatcher.accept(beside)
    else:
        await leave(desk.world, waiting, beside)
    await recover(desk)
    assert answer in desk.replies()
    assert len(desk.replies()) == 2


async def test_of_two_devices_one_after_the_other_only_the_last_is_still_waited_for(desk: Desk) -> None:
    """The attaching hung, a person recovered the VM and detached: a late answer to the first would end the second."""
    disk = {"DISK_ID": "1"}
    attach = request("ATTACHDISK", lcm_state=17, deploy_id="i-1", operand=disk)
    await leave(desk.world, attach, request("DETACHDISK", lcm_state=17, deploy_id="i-1", operand=disk))
    await recover(desk)
    assert desk.replies() == [f"DETACHDISK FAILURE 7 {SENTENCE}"]


async def test_what_a_person_has_tried_by_hand_replaces_nothing_of_oneds(desk: Desk) -> None:
    desk.world.provider.add(identity_of(), deploy_id="i-1")
    await leave(desk.world, request("SHUTDOWN", lcm_state=18, deploy_id="i-1"))
    person, shell = Process(pid=4_000_009, start="a while ago"), Process(pid=4_000_010, start="a while ago")
    await leave(desk.world, request("RESET", deploy_id="i-1"), writer=person, parent=shell)
    await recover(desk)
    assert "SHUTDOWN SUCCESS 7 -" in desk.replies()


async def test_the_order_of_requests_does_not_hang_on_the_clock(desk: Desk) -> None:
    """The clock was an hour ahead when SAVE came; RESTORE came to the next process, and both were killed."""
    desk.world.provider.add(identity_of(), InstanceState.STOPPED, deploy_id="i-1")
    first, second = (Process(pid=pid, start="an earlier time") for pid in (4_000_001, 4_000_002))
    await leave(desk.world, request("SAVE", lcm_state=5, deploy_id="i-1"), writer=first)
    with closing(sqlite3.connect(desk.world.journal.path, isolation_level=None)) as db:
        db.execute("UPDATE requests SET id = id + 3600 * 1000000000")
    await leave(desk.world, request("RESTORE", lcm_state=22, deploy_id="i-1"), writer=second)
    await recover(desk)
    assert desk.replies() == ["RESTORE SUCCESS 7 -"]


async def test_what_cannot_be_taken_over_is_answered_and_hinders_nothing_else(
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


async def test_nothing_is_written_so_soon_that_it_could_be_read_with_the_answer_to_init(desk: Desk) -> None:
    """oned reads the answer to INIT with one read, and throws the rest of it away (include/Driver.h)."""
    desk.world.provider.boot_time = 0
    await leave(desk.world, request("DEPLOY", 1), request("REBOOT", 2, deploy_id="i-1"))
    begun = now()
    recovering = asyncio.create_task(recovery_of(desk).run())
    await until(lambda: bool(desk.replies("DEPLOY")))
    assert 1.0 <= now() - begun <= 2.0
    await until(lambda: bool(desk.replies("REBOOT")))
    assert 3.0 <= now() - begun <= 4.0
    await recovering


async def test_the_output_is_opened_for_what_nobody_has_asked_for(desk: Desk) -> None:
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


async def test_without_anything_left_nothing_is_written_and_nothing_opened(desk: Desk) -> None:
    recovery = Recovery(
        desk.world.journal,
        desk.dispatcher,
        open_output=pytest.fail,
        core_is_up=desk.dispatcher.core_is_up,
        clock=desk.world.clock,
    )
    await recovery.run()
    assert desk.lines == []


# Failed instead


@pytest.mark.parametrize(
    ("age", "seen", "is_repeated"),
    [
        pytest.param(5, None, True, id="a-moment-ago"),
        pytest.param(59, None, True, id="within-a-minute"),
        pytest.param(62, None, False, id="longer-ago"),
        pytest.param(500, 20, True, id="long-ago-and-alive-until-a-moment-ago"),
        pytest.param(500, 400, False, id="long-ago-and-dead-since"),
        pytest.param(-100, -100, False, id="in-the-future"),
    ],
)
async def test_only_what_was_left_within_a_minute_is_carried_out_again(
    desk: Desk, age: float, seen: float | None, *, is_repeated: bool
) -> None:
    await leave(desk.world, request("DEPLOY"), age=age, seen=seen)
    await recover(desk)
    assert desk.lines == ["DEPLOY SUCCESS 7 i-1" if is_repeated else f"DEPLOY FAILURE 7 {SENTENCE}"]
    assert bool(desk.world.provider.instances) is is_repeated
    assert await left_over(desk.world) == []


async def test_what_another_oned_asked_for_is_not_carried_out_again(desk: Desk) -> None:
    await leave(desk.world, request("DEPLOY"), parent=Process(pid=ONED.pid, start="another time"))
    begun = now()
    await recover(desk)
    assert desk.lines == [f"DEPLOY FAILURE 7 {SENTENCE}"]
    assert 3.0 <= now() - begun <= 4.0
    assert desk.world.provider.calls == []


@pytest.mark.parametrize("action", ["REBOOT", "RESET", "ATTACHDISK", "SNAPSHOTCREATE", "RESIZE"])
async def test_what_would_be_done_twice_is_not_carried_out_again(desk: Desk, action: str) -> None:
    operand = {"DISK_ID": "1"} if action == "ATTACHDISK" else {}
    await leave(desk.world, request(action, deploy_id="i-1", operand=operand))
    await recover(desk)
    assert desk.replies() == [f"{action} FAILURE 7 {SENTENCE}"]
    assert desk.world.provider.calls == []
    assert await left_over(desk.world) == []


@pytest.mark.parametrize(("release", "is_told"), [("5.10", False), ("7.4", True)])
async def test_a_reboot_that_fails_is_told_where_its_answer_is_dropped(
    desk: Desk, release: str, *, is_told: bool
) -> None:
    await leave(desk.world, request("REBOOT", deploy_id="i-1", release=release))
    await recover(desk)
    assert desk.logs() == ([f"LOG E 7 REBOOT: {SENTENCE}"] if is_told else [])


async def test_a_security_group_update_that_fails_begins_with_the_groups_number(desk: Desk) -> None:
    await leave(desk.world, request("UPDATESG", deploy_id="i-1", operand={"SECURITY_GROUP_ID": "104"}))
    await recover(desk)
    assert desk.lines == [f"UPDATESG FAILURE 7 104 {SENTENCE}"]


async def test_a_payload_that_cannot_be_read_any_more_is_a_failure(desk: Desk) -> None:
    spoilt = Request(action=Action.DEPLOY, vm_id=identity_of().vm_id, payload=b"!!!!", is_two_blank=True)
    await leave(desk.world, spoilt)
    await recover(desk)
    assert len(desk.lines) == 1
    assert desk.lines[0].startswith("DEPLOY FAILURE 7 payload is not base64")
    assert await left_over(desk.world) == []


async def leave_after(world: World, takers: int, left: Request) -> None:
    """Leave a request that so many processes have taken over, each of which died."""
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


async def test_a_request_that_has_outlived_very_many_drivers_is_not_given_to_another_one(desk: Desk) -> None:
    """It may be what they died of."""
    desk.world.provider.add(identity_of())
    await leave_after(desk.world, 30, request("DEPLOY"))
    await recover(desk)
    assert desk.lines == [f"DEPLOY FAILURE 7 {SENTENCE}"]
    assert desk.world.provider.calls == []


@pytest.mark.parametrize("takers", [3, 10])
async def test_an_instance_is_looked_for_once_more_before_its_deploy_fails(desk: Desk, takers: int) -> None:
    """Drivers that are killed in a row have mostly made it all the same."""
    deploy_id = desk.world.provider.add(identity_of())
    await leave_after(desk.world, takers, request("DEPLOY"))
    await recover(desk)
    assert desk.lines == [f"DEPLOY SUCCESS 7 {deploy_id}"]
    assert await left_over(desk.world) == []


async def test_nothing_is_carried_out_by_the_last_look(desk: Desk) -> None:
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
async def test_a_power_off_is_answered_by_the_state_that_the_last_look_shows(
    desk: Desk, state: InstanceState, answer: str
) -> None:
    deploy_id = desk.world.provider.add(identity_of(), state)
    await leave_after(desk.world, 3, request("SHUTDOWN", lcm_state=18, deploy_id=deploy_id))
    await recover(desk)
    assert desk.lines[0].startswith(f"SHUTDOWN {answer}")
    assert desk.world.provider.count("stop") == 0


# A newer request comes first


@pytest.mark.parametrize("is_repeated", [True, False], ids=["carried-out-again", "failed"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_newer_request_is_the_only_one_that_is_answered(desk: Desk, when: str, *, is_repeated: bool) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    old = request("SHUTDOWN", lcm_state=18, deploy_id=deploy_id)
    await leave(desk.world, old, age=5 if is_repeated else 500)
    if when == "before":
        desk.ask("REBOOT", deploy_id=deploy_id)
    recovering = asyncio.create_task(recover(desk))
    if when == "meanwhile":
        await pass_time(0.7)
        desk.ask("REBOOT", deploy_id=deploy_id)
    await recovering
    assert [reply.split()[0] for reply in desk.replies()] == ["REBOOT"]
    assert await left_over(desk.world) == []


async def test_a_newer_request_comes_first_though_the_old_one_is_being_carried_out(desk: Desk) -> None:
    desk.world.provider.boot_time = 60
    await leave(desk.world, request("DEPLOY"))
    recovering = asyncio.create_task(recover(desk))
    await pass_time(30)
    desk.ask("DEPLOY")
    await recovering
    assert desk.replies() == ["DEPLOY SUCCESS 7 i-1"]
    assert desk.world.provider.count("create") == 1


async def test_an_undeploy_that_nobody_waits_for_any_more_takes_no_vm_off_its_host(desk: Desk) -> None:
    """It was answered with a failure, and its process killed; oned powers the VM off instead, meanwhile."""
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.stop_time = 60
    await leave(desk.world, request("SHUTDOWN", lcm_state=29, deploy_id=deploy_id))
    recovering = asyncio.create_task(recover(desk))
    await until(lambda: desk.world.provider.count("stop") == 1)
    desk.ask("SHUTDOWN", lcm_state=18, deploy_id=deploy_id)
    await recovering
    assert desk.replies() == ["SHUTDOWN SUCCESS 7 -"]
    assert await desk.world.journal.parked() == set()


async def test_what_was_asked_before_the_journal_was_read_is_not_undone_by_what_is_older(desk: Desk) -> None:
    """The old power off must not be carried out after the new resume."""
    deploy_id = desk.world.provider.add(identity_of(), InstanceState.STOPPED)
    await leave(desk.world, request("SHUTDOWN", lcm_state=18, deploy_id=deploy_id))
    desk.ask("DEPLOY", lcm_state=20, deploy_id=deploy_id, seq=1)
    await recover(desk)
    assert desk.replies() == [f"DEPLOY SUCCESS 7 {deploy_id}"]
    assert desk.world.provider.state(deploy_id) is InstanceState.RUNNING


async def test_a_cancellation_is_newer_too(desk: Desk) -> None:
    desk.world.provider.boot_time = 60
    await leave(desk.world, request("DEPLOY"))
    recovering = asyncio.create_task(recover(desk))
    await pass_time(10)
    desk.ask("DRIVER_CANCEL")
    await recovering
    assert desk.replies() == []


async def test_a_poll_is_nothing_newer(desk: Desk) -> None:
    """oned polls whatever it was doing; the answer to the action is still missing."""
    await leave(desk.world, request("DEPLOY", release="5.10"))
    recovering = asyncio.create_task(recover(desk))
    await pass_time(0.5)
    desk.ask("POLL", release="5.10", deploy_id="i-1")
    await recovering
    assert [reply.split()[0] for reply in desk.replies()] == ["DEPLOY", "POLL"]


async def test_a_newer_request_of_another_vm_calls_nothing_off(desk: Desk) -> None:
    await leave(desk.world, request("DEPLOY", 7))
    desk.ask("DEPLOY", 8)
    await recover(desk)
    assert sorted(reply.split()[2] for reply in desk.replies()) == ["7", "8"]


# A writer that still lives


async def test_a_driver_that_goes_on_living_is_left_alone(desk: Desk, living: subprocess.Popen[bytes]) -> None:
    writer = Process.of(living.pid)
    assert writer is not None
    await leave(desk.world, request("DEPLOY"), writer=writer)
    await recover(desk)
    assert desk.lines == []
    assert await left_over(desk.world) == ["DEPLOY"], "it will answer that itself"
    assert writer in [each.process for each in await desk.world.journal.writers()]


async def test_a_driver_that_ends_a_little_later_is_succeeded_then(desk: Desk, living: subprocess.Popen[bytes]) -> None:
    """Up to 5.12 oned does not kill it; it has FINALIZE and ends by itself (src/mad/Mad.cc)."""
    writer = Process.of(living.pid)
    assert writer is not None
    await leave(desk.world, request("DEPLOY"), writer=writer)
    recovering = asyncio.create_task(recover(desk))
    await pass_time(5)
    assert desk.lines == []
    living.kill()
    living.wait()
    await recovering
    assert desk.lines == ["DEPLOY SUCCESS 7 i-1"]


async def test_a_request_that_came_while_the_old_driver_lived_comes_first(
    desk: Desk, living: subprocess.Popen[bytes]
) -> None:
    writer = Process.of(living.pid)
    assert writer is not None
    deploy_id = desk.world.provider.add(identity_of())
    await leave(desk.world, request("SHUTDOWN", lcm_state=18, deploy_id=deploy_id), writer=writer)
    recovering = asyncio.create_task(recover(desk))
    await pass_time(5)
    assert await desk.answer("REBOOT", deploy_id=deploy_id) == "SUCCESS -"
    living.kill()
    living.wait()
    await recovering
    assert desk.replies() == ["REBOOT SUCCESS 7 -"]
    assert desk.world.provider.state(deploy_id) is InstanceState.RUNNING


async def test_what_several_dead_drivers_left_is_settled_beside_what_this_one_does(desk: Desk) -> None:
    for number in (1, 2, 3):
        writer = Process(pid=4_000_000 + number, start="an earlier time")
        await leave(desk.world, request("DEPLOY", number), writer=writer)
    desk.world.provider.boot_time = 30
    desk.ask("DEPLOY", 4)
    await recover(desk)
    assert sorted(reply.split()[2] for reply in desk.replies()) == ["1", "2", "3", "4"]
    assert len(await desk.world.journal.writers()) == 1


# Called off and not over


async def test_a_deploy_that_was_called_off_is_owed_and_not_answered(desk: Desk) -> None:
    attempt = await desk.world.add_attempt(AttemptState.OPEN, age=10)
    await leave(desk.world, request("DEPLOY"), is_called_off=True)
    await recover(desk)
    [debt] = await desk.world.journal.debts()
    assert debt.token == attempt.token
    assert desk.lines == []
    assert await left_over(desk.world) == []


async def test_a_deploy_that_was_called_off_is_owed_before_a_newer_one_can_take_it_over(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    await desk.world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id, age=10)
    await leave(desk.world, request("DEPLOY"), is_called_off=True)
    await recovery_of(desk).forget_called_off()
    desk.ask("DEPLOY")
    await recover(desk)
    assert desk.replies() == ["DEPLOY SUCCESS 7 i-2"]


@pytest.mark.parametrize("action", ["SHUTDOWN", "REBOOT"])
async def test_anything_else_that_was_called_off_is_forgotten(desk: Desk, action: str) -> None:
    await leave(desk.world, request(action, deploy_id="i-1"), is_called_off=True)
    await recover(desk)
    assert desk.lines == []
    assert await desk.world.journal.debts() == []
    assert await left_over(desk.world) == []


# When things go wrong


def hide(world: World, table: str) -> None:
    with closing(sqlite3.connect(world.journal.path, isolation_level=None)) as db:
        db.execute(f"ALTER TABLE {table} RENAME TO hidden")


@pytest.mark.parametrize("table", ["requests", "writers"])
async def test_a_journal_that_cannot_be_read_hinders_nothing_else(desk: Desk, table: str) -> None:
    await leave(desk.world, request("DEPLOY"))
    hide(desk.world, table)
    await recovery_of(desk).forget_called_off()
    await recovery_of(desk).run()
    deploy_id = desk.world.provider.add(identity_of(8))
    desk.ask("POLL", 8, release="5.10", deploy_id=deploy_id)
    await desk.settled()
    assert desk.replies() == ["POLL SUCCESS 8 STATE=a"]


async def test_a_request_that_fails_again_is_answered_with_the_failure(desk: Desk) -> None:
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


async def test_a_driver_shows_now_and_then_that_it_lives(desk: Desk) -> None:
    async with showing_life(desk):
        await pass_time(100)
        [writer] = await desk.world.journal.writers()
        assert 0 <= desk.world.clock() - writer.seen_at <= 16


async def test_a_sign_of_life_that_cannot_be_written_is_not_the_last(desk: Desk) -> None:
    async with showing_life(desk):
        await pass_time(10)
        hide(desk.world, "writers")
        await pass_time(20)
        with closing(sqlite3.connect(desk.world.journal.path, isolation_level=None)) as db:
            db.execute("ALTER TABLE hidden RENAME TO writers")
        await pass_time(30)
        [writer] = await desk.world.journal.writers()
        assert 0 <= desk.world.clock() - writer.seen_at <= 16
