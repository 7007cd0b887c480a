"""VMs that wait in OpenNebula without an open request here are answered once, by what the cloud shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager

import pytest

from one_provider_mad.actions.intents import LCM_STATES
from one_provider_mad.actions.settling import Settling, WaitingDocument, WaitingVm
from one_provider_mad.domain import InstanceState, VmId
from one_provider_mad.errors import JournalError, ProviderUnavailable
from one_provider_mad.journal.records import AttemptState, Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.processes import Process
from tests import oned_lines
from tests.actions.fakes import STIME, Desk, FakeScripts, World, a_desk, identity_of, pass_time, until
from tests.actions.test_recovery import leave, recovery_of, request

pytestmark = pytest.mark.looptime

STATES = {name: number for number, name in LCM_STATES.items()}
OTHER_CORE = Process(pid=4_000_001, start="an earlier time")


class FakeCore:
    """Pretends to be the local OpenNebula, with VMs that wait by VM id; with `is_silent` it does not answer."""

    def __init__(self) -> None:
        self.vms: dict[VmId, WaitingDocument] = {}
        self.leads = True
        self.is_silent = False

    def wait(
        self,
        state: str,
        vm_id: int = 7,
        *,
        deploy_id: str = "",
        closed_by: int = 0,
        driver: str = "ec2",
        seq: int = 0,
        host: str = "a&b",
    ) -> None:
        """Let a VM wait in this state."""
        number = STATES[state]
        vm = WaitingVm(vm_id=VmId(vm_id), lcm_state=number, stime=STIME, seq=seq, driver=driver)
        xml = (
            f"<VM><ID>{vm_id}</ID><NAME>one</NAME><STATE>3</STATE><LCM_STATE>{number}</LCM_STATE><STIME>{STIME}</STIME>"
            f"<DEPLOY_ID>{deploy_id}</DEPLOY_ID><TEMPLATE/><USER_TEMPLATE/><HISTORY_RECORDS><HISTORY><SEQ>{seq}</SEQ>"
            "<HID>3</HID></HISTORY></HISTORY_RECORDS></VM>"
        )
        self.vms[vm.vm_id] = WaitingDocument(vm=vm, host=host, closed_by=closed_by, document=xml.encode())

    async def may_act(self) -> bool:
        if self.is_silent:
            raise ProviderUnavailable("OpenNebula cannot be asked")
        return self.leads

    async def driver_names(self, name: str) -> Collection[str]:
        return {name}

    async def waiting(self) -> Mapping[VmId, WaitingVm]:
        return {vm_id: found.vm for vm_id, found in self.vms.items()}

    async def waiting_document(self, vm_id: VmId) -> WaitingDocument | None:
        return self.vms.get(vm_id)


@pytest.fixture
def core() -> FakeCore:
    return FakeCore()


def settling_of(desk: Desk) -> Settling:
    return Settling(
        desk.dispatcher,
        desk.engines,
        name="ec2",
        core_is_up=desk.dispatcher.core_is_up,
        open_output=lambda: None,
    )


@asynccontextmanager
async def settling(desk: Desk, core: FakeCore | None, *, leads: bool | None = True) -> AsyncIterator[Settling]:
    """Run recovery and settling as a new driver of VM_MAD ec2, after the one of another core."""
    one = settling_of(desk)
    recovery = recovery_of(desk)
    recovery._hand_over = one.take
    if leads is not None:
        one.lead(leads=leads)
    running = asyncio.create_task(one.run(core))
    await recovery.run()
    yield one
    running.cancel()


async def settled(desk: Desk, core: FakeCore, *, leads: bool = True) -> list[str]:
    """Let settling run to its end, and return all replies."""
    async with settling(desk, core, leads=leads):
        await pass_time(30)
        await desk.settled()
    return desk.replies()


@pytest.mark.parametrize(
    ("waits", "shown", "reply"),
    [
        pytest.param("BOOT", InstanceState.RUNNING, "DEPLOY SUCCESS 7 i-1", id="deployed"),
        pytest.param("BOOT", None, "DEPLOY FAILURE 7 no instance was made before the driver or", id="not-deployed"),
        pytest.param("BOOT_POWEROFF", InstanceState.RUNNING, "DEPLOY SUCCESS 7 i-1", id="resumed"),
        pytest.param(
            "BOOT_POWEROFF",
            InstanceState.STOPPED,
            "DEPLOY FAILURE 7 instance i-1 is stopped: it was not started before",
            id="not-resumed",
        ),
        pytest.param("BOOT_SUSPENDED", InstanceState.RUNNING, "RESTORE SUCCESS 7 -", id="restored"),
        pytest.param("SHUTDOWN", InstanceState.TERMINATED, "SHUTDOWN SUCCESS 7 -", id="terminated"),
        pytest.param(
            "SHUTDOWN",
            InstanceState.RUNNING,
            "SHUTDOWN FAILURE 7 instance i-1 is running: it was not terminated before",
            id="not-terminated",
        ),
        pytest.param("SHUTDOWN_POWEROFF", InstanceState.STOPPED, "SHUTDOWN SUCCESS 7 -", id="powered-off"),
        pytest.param(
            "SHUTDOWN_POWEROFF",
            InstanceState.RUNNING,
            "SHUTDOWN FAILURE 7 instance i-1 is running: it was not stopped before",
            id="not-powered-off",
        ),
        pytest.param("SHUTDOWN_UNDEPLOY", InstanceState.STOPPED, "SHUTDOWN SUCCESS 7 -", id="undeployed"),
        pytest.param("SAVE_SUSPEND", InstanceState.STOPPED, "SAVE SUCCESS 7 -", id="suspended"),
        pytest.param("CLEANUP_RESUBMIT", InstanceState.RUNNING, "CLEANUP SUCCESS 7 -", id="recreated"),
    ],
)
async def test_a_waiting_vm_is_answered_by_the_state_of_its_instance(
    desk: Desk, core: FakeCore, waits: str, shown: InstanceState | None, reply: str
) -> None:
    deploy_id = "" if shown is None else desk.world.provider.add(identity_of(), shown)
    core.wait(waits, deploy_id="" if waits == "BOOT" else deploy_id)
    found = await settled(desk, core)
    assert len(found) == 1
    assert found[0].startswith(reply)
    assert desk.world.provider.count("create") == 0
    assert await desk.open_requests() == []


@pytest.mark.parametrize(
    ("waits", "shown", "then", "reply"),
    [
        pytest.param("BOOT", InstanceState.PENDING, InstanceState.RUNNING, "DEPLOY SUCCESS 7 i-1", id="boots"),
        pytest.param(
            "SHUTDOWN_POWEROFF", InstanceState.STOPPING, InstanceState.STOPPED, "SHUTDOWN SUCCESS 7 -", id="stops"
        ),
        pytest.param(
            "SHUTDOWN", InstanceState.TERMINATING, InstanceState.TERMINATED, "SHUTDOWN SUCCESS 7 -", id="ends"
        ),
    ],
)
async def test_a_vm_in_transition_is_answered_when_the_transition_ends(
    desk: Desk, core: FakeCore, waits: str, shown: InstanceState, then: InstanceState, reply: str
) -> None:
    deploy_id = desk.world.provider.add(identity_of(), shown)
    core.wait(waits, deploy_id="" if waits == "BOOT" else deploy_id)
    async with settling(desk, core):
        await pass_time(20)
        assert desk.replies() == []
        desk.world.provider.instances[deploy_id].state = then
        await until(lambda: desk.replies() == [reply])


async def test_a_vm_in_boot_is_answered_when_its_instance_appears_within_the_grace(desk: Desk, core: FakeCore) -> None:
    desk.world.provider.visibility_grace = 40.0
    core.wait("BOOT")
    async with settling(desk, core):
        await pass_time(30)
        assert desk.replies() == []
        desk.world.provider.add(identity_of())
        await until(lambda: desk.replies() == ["DEPLOY SUCCESS 7 i-1"])


async def test_settling_repeats_a_failed_lookup(desk: Desk, core: FakeCore) -> None:
    desk.world.provider.add(identity_of())
    desk.world.provider.before["find"].append(ProviderUnavailable("no answer"))
    core.wait("BOOT")
    assert await settled(desk, core) == ["DEPLOY SUCCESS 7 i-1"]


@pytest.mark.parametrize(
    ("waits", "closed_by", "reply"),
    [
        pytest.param("HOTPLUG", 21, "ATTACHDISK FAILURE 7 the driver ended before", id="attach"),
        pytest.param("HOTPLUG", 22, "DETACHDISK FAILURE 7 the driver ended before", id="detach"),
        pytest.param("HOTPLUG_NIC", 46, "ATTACHNIC FAILURE 7 the driver ended before", id="alias"),
        pytest.param("HOTPLUG_SNAPSHOT", 39, "SNAPSHOTREVERT FAILURE 7 the driver ended before", id="revert"),
        pytest.param("HOTPLUG_RESIZE", 0, "RESIZE FAILURE 7 the driver ended before", id="resize"),
    ],
)
async def test_a_device_action_fails_under_the_action_in_the_vms_history(
    desk: Desk, core: FakeCore, waits: str, closed_by: int, reply: str
) -> None:
    core.wait(waits, deploy_id=desk.world.provider.add(identity_of()), closed_by=closed_by)
    found = await settled(desk, core)
    assert len(found) == 1
    assert found[0].startswith(reply)


async def test_a_waiting_device_action_is_not_answered_if_the_history_does_not_name_it(
    desk: Desk, core: FakeCore
) -> None:
    core.wait("HOTPLUG", deploy_id=desk.world.provider.add(identity_of()), closed_by=33)
    assert await settled(desk, core) == []


async def test_a_waiting_vm_of_another_driver_gets_no_answer(desk: Desk, core: FakeCore) -> None:
    core.wait("BOOT", driver="kvm")
    assert await settled(desk, core) == []


async def test_a_waiting_vm_with_a_request_under_way_is_answered_only_by_that_request(
    desk: Desk, core: FakeCore
) -> None:
    desk.world.provider.boot_time = 60
    desk.ask("DEPLOY")
    core.wait("BOOT")
    assert await settled(desk, core) == ["DEPLOY SUCCESS 7 i-1"]


async def test_a_waiting_vm_whose_seq_changes_between_two_reads_gets_no_answer(desk: Desk, core: FakeCore) -> None:
    core.wait("BOOT")
    async with settling(desk, core):
        await pass_time(3)
        core.wait("BOOT", seq=1)
        await pass_time(30)
    assert desk.replies() == []


async def test_only_a_newer_request_is_answered_if_it_arrives_during_settling(desk: Desk, core: FakeCore) -> None:
    deploy_id = desk.world.provider.add(identity_of(), InstanceState.PENDING)
    core.wait("BOOT")
    async with settling(desk, core):
        await until(lambda: desk.lanes.is_busy(VmId(7)))
        desk.ask("CLEANUP", deploy_id=deploy_id)
        desk.world.provider.instances[deploy_id].state = InstanceState.RUNNING
        await desk.settled()
    assert desk.replies() == ["CLEANUP SUCCESS 7 -"]


class RacingCore(FakeCore):
    """Pretends to be a local OpenNebula that sends a request while it returns a VM's document."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.ask: Callable[[], object] = lambda: desk.ask("DEPLOY")

    async def waiting_document(self, vm_id: VmId) -> WaitingDocument | None:
        ask, self.ask = self.ask, lambda: None
        ask()
        return await super().waiting_document(vm_id)


@pytest.mark.parametrize("is_left", [False, True], ids=["no-request", "left-by-an-earlier-core"])
async def test_a_request_that_arrives_while_oned_returns_the_vm_is_answered_once(desk: Desk, *, is_left: bool) -> None:
    """`onevm recover --retry` at that moment: oned would take a second answer for the answer to its next request."""
    desk.world.provider.add(identity_of())
    if is_left:
        await leave(desk.world, request("DEPLOY"), parent=OTHER_CORE)
    core = RacingCore(desk)
    core.wait("BOOT")
    assert await settled(desk, core) == ["DEPLOY SUCCESS 7 i-1"]


async def test_without_a_journal_a_waiting_vm_and_new_requests_are_answered(desk: Desk, core: FakeCore) -> None:
    """Recovery, which releases recovered answers, does not run without a journal."""
    desk.engines.journal, desk.engines.error = None, JournalError("the journal cannot be opened")
    core.wait("BOOT")
    one = settling_of(desk)
    one.lead(leads=True)
    running = asyncio.create_task(one.run(core))
    await until(lambda: len(desk.replies()) == 1)
    assert await desk.answer("DEPLOY") == "FAILURE the journal cannot be opened"
    running.cancel()


async def test_a_terminate_fails_if_another_instance_of_the_vm_still_runs(desk: Desk, core: FakeCore) -> None:
    """After SHUTDOWN's SUCCESS the VM is DONE: a running instance would cost money without a VM."""
    provider = desk.world.provider
    named, other = provider.add(identity_of(), InstanceState.TERMINATING), provider.add(identity_of())
    core.wait("SHUTDOWN", deploy_id=named)
    async with settling(desk, core):
        await pass_time(20)
        provider.instances[named].state = InstanceState.TERMINATED
        await until(lambda: bool(desk.replies()))
    assert desk.replies()[0].startswith(f"SHUTDOWN FAILURE 7 instance {other} is running: it was not terminated")


async def test_a_settled_terminate_closes_the_attempt(desk: Desk, core: FakeCore) -> None:
    made = desk.world.provider.add(identity_of(), InstanceState.TERMINATED)
    await desk.world.add_attempt(AttemptState.CREATED, deploy_id=made)
    core.wait("SHUTDOWN", deploy_id=made)
    assert await settled(desk, core) == ["SHUTDOWN SUCCESS 7 -"]
    assert [each.state for each in await desk.world.attempts()] == [AttemptState.GONE]


async def test_a_waiting_deploy_is_not_answered_with_an_instance_that_has_a_debt(desk: Desk, core: FakeCore) -> None:
    """The instance will be terminated: the VM would lose it right after DEPLOY's SUCCESS."""
    made = desk.world.provider.add(identity_of())
    attempt = await desk.world.add_attempt(AttemptState.CREATED, deploy_id=made)
    await desk.world.add_debt(made, token=attempt.token)
    core.wait("BOOT")
    found = await settled(desk, core)
    assert len(found) == 1
    assert found[0].startswith("DEPLOY FAILURE 7 no instance was made before")


async def test_settling_gives_up_after_ten_minutes_even_with_w_0(world: World, core: FakeCore) -> None:
    await world.add_attempt(AttemptState.CREATED, deploy_id="i-9", age=4000)
    core.wait("BOOT")
    async with a_desk(world, timeout=0) as desk, settling(desk, core):
        await pass_time(700)
        assert len(desk.replies()) == 1
    assert desk.replies()[0].startswith(
        "DEPLOY FAILURE 7 gave up after 600 s waiting for the cloud to show the outcome"
    )


async def test_a_new_deploy_runs_although_settling_its_vm_has_no_outcome_yet(desk: Desk, core: FakeCore) -> None:
    await desk.world.add_attempt(AttemptState.CREATED, deploy_id="i-9", age=4000)
    core.wait("BOOT")
    async with settling(desk, core):
        await pass_time(60)
        desk.ask("DEPLOY")
        await pass_time(30)
    assert desk.replies() == ["DEPLOY SUCCESS 7 i-1"]


# Requests left by a dead process of another core


async def test_a_request_of_an_earlier_core_is_settled_and_not_repeated(desk: Desk, core: FakeCore) -> None:
    await leave(desk.world, request("DEPLOY"), parent=OTHER_CORE)
    core.wait("BOOT")
    found = await settled(desk, core)
    assert len(found) == 1
    assert found[0].startswith("DEPLOY FAILURE 7 no instance was made before")
    assert desk.world.provider.count("create") == 0
    assert await desk.open_requests() == []


async def test_a_request_of_an_earlier_core_is_not_repeated_after_a_second_crash(
    desk: Desk, core: FakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver that took it over was started by the present core and died; the VM may be DONE long ago."""
    await leave(desk.world, request("DEPLOY"), parent=OTHER_CORE, age=3600)
    requests = await desk.world.journal.open_requests()
    with monkeypatch.context() as patch:
        patch.setattr(Process, "current", lambda: Process(pid=4_000_003, start="a moment ago"))
        journal = Journal(desk.world.journal.path, clock=desk.world.clock, on_lost=pytest.fail)
        await journal.open()
    patch.setattr(desk.engines, "journal", journal)
    await settling_of(desk).take(requests)
    patch.undo()
    await journal.close()
    await settled(desk, core)
    assert desk.world.provider.count("create") == 0
    assert await desk.open_requests() == []


async def test_a_vm_is_answered_once_although_oned_keeps_listing_it_as_waiting(desk: Desk, core: FakeCore) -> None:
    await leave(desk.world, request("ATTACHDISK", deploy_id="i-1"), parent=OTHER_CORE)
    core.wait("HOTPLUG", deploy_id="i-1", closed_by=21)
    found = await settled(desk, core)
    assert [line.split(" the ")[0] for line in found] == ["ATTACHDISK FAILURE 7"]


async def test_requests_of_an_earlier_core_without_a_waiting_vm_are_dropped(desk: Desk, core: FakeCore) -> None:
    await leave(desk.world, request("DEPLOY"), request("REBOOT", vm_id=8), parent=OTHER_CORE)
    assert await settled(desk, core) == []
    assert await desk.open_requests() == []


async def test_an_interrupted_updatesg_fails_although_no_vm_waits_for_it(desk: Desk, core: FakeCore) -> None:
    """No VM state shows that oned waits; without an answer the security group's other VMs are never updated."""
    group = {"SECURITY_GROUP_ID": "104"}
    await leave(desk.world, request("UPDATESG", deploy_id="i-1", operand=group), parent=OTHER_CORE)
    found = await settled(desk, core)
    assert len(found) == 1
    assert found[0].startswith("UPDATESG FAILURE 7 104 the driver ended before it was done")
    assert await desk.open_requests() == []


async def test_a_follower_answers_no_waiting_vm_and_drops_open_requests(desk: Desk, core: FakeCore) -> None:
    desk.world.provider.add(identity_of())
    await leave(desk.world, request("DEPLOY"), parent=OTHER_CORE)
    core.wait("BOOT")
    core.wait("BOOT", vm_id=8)
    assert await settled(desk, core, leads=False) == []
    assert await desk.open_requests() == []


async def test_a_front_end_that_lost_leadership_settles_nothing(desk: Desk, core: FakeCore) -> None:
    """Leadership is lost in the seconds between the two reads that have to agree."""
    desk.world.provider.add(identity_of())
    core.wait("BOOT")
    async with settling(desk, core) as one:
        await pass_time(3)
        one.lead(leads=False)
        await pass_time(30)
        await desk.settled()
    assert desk.replies() == []


async def test_a_front_end_that_begins_to_lead_settles_waiting_vms(desk: Desk, core: FakeCore) -> None:
    desk.world.provider.add(identity_of())
    core.wait("BOOT")
    async with settling(desk, core, leads=False) as one:
        await pass_time(30)
        assert desk.replies() == []
        one.lead(leads=True)
        await until(lambda: desk.replies() == ["DEPLOY SUCCESS 7 i-1"])


async def test_open_requests_are_not_answered_after_leadership_was_lost(desk: Desk, core: FakeCore) -> None:
    """A late answer would be taken for the answer to the new leader's request."""
    async with settling(desk, core) as one:
        desk.ask("DEPLOY")
        await until(lambda: desk.world.provider.count("create") == 1)
        one.lead(leads=False)
        await desk.settled()
        assert desk.replies() == []
        assert await desk.open_requests() == []
        core.wait("BOOT")
        one.lead(leads=True)
        await until(lambda: desk.replies() == ["DEPLOY SUCCESS 7 i-1"])


async def test_a_script_that_still_runs_when_leadership_returns_is_answered_with_its_result(world: World) -> None:
    """Only its result shows what the script did: after a FAILURE, the retry would buy a second machine."""
    scripts, core = FakeScripts(), FakeCore()
    scripts.gate, scripts.answer = asyncio.Event(), "i-5"
    core.wait("BOOT", host=oned_lines.HOST)
    async with a_desk(world, verbatim=scripts) as desk, settling(desk, core) as one:
        desk.ask("DEPLOY")
        await until(lambda: len(scripts.requests) == 1)
        one.lead(leads=False)
        one.lead(leads=True)
        await until(lambda: len(desk.lanes.open_jobs(VmId(7))) == 2)
        scripts.gate.set()
        await desk.settled()
        assert (len(scripts.requests), desk.replies()) == (1, ["DEPLOY SUCCESS 7 i-5"])


async def test_a_deploy_that_still_runs_when_leadership_returns_is_answered_once(desk: Desk, core: FakeCore) -> None:
    desk.world.provider.boot_time = 60
    async with settling(desk, core) as one:
        desk.ask("DEPLOY")
        await until(lambda: desk.world.provider.count("create") == 1)
        core.wait("BOOT")
        one.lead(leads=False)
        await pass_time(1)
        one.lead(leads=True)
        await until(lambda: desk.replies() == ["DEPLOY SUCCESS 7 i-1"])
        await desk.settled()
    assert desk.replies() == ["DEPLOY SUCCESS 7 i-1"]


async def test_queued_deploys_are_dropped_and_cleanups_carried_out_after_leadership_was_lost(world: World) -> None:
    """The new leader answers that there is no instance: one created minutes later would have no VM."""
    world.provider.boot_time = 60
    gone = world.provider.add(identity_of(9))
    async with a_desk(world, threads=1) as desk, settling(desk, FakeCore()) as one:
        desk.ask("DEPLOY")
        desk.ask("DEPLOY", vm_id=8)
        desk.ask("POLL", vm_id=8)
        desk.ask("CLEANUP", vm_id=9, deploy_id=gone)
        await until(lambda: world.provider.count("create") == 1)
        one.lead(leads=False)
        await desk.settled()
        assert desk.replies() == ["POLL FAILURE 8 VM 8 has no instance"]
        assert world.provider.count("create") == 1
        assert world.provider.state(gone) is InstanceState.TERMINATED  # no other request repeats it
        assert await desk.open_requests() == []


async def test_an_open_cleanup_of_an_earlier_core_becomes_a_debt(desk: Desk, core: FakeCore) -> None:
    """`onevm recover --delete` made the VM DONE at once: oned does not request the termination again."""
    deploy_id = desk.world.provider.add(identity_of())
    await leave(desk.world, request("CLEANUP", deploy_id=deploy_id), parent=OTHER_CORE)
    assert await settled(desk, core) == []
    assert [debt.deploy_id for debt in await desk.world.journal.debts()] == [deploy_id, ""]


async def test_settling_repeats_its_calls_to_an_unreachable_oned(desk: Desk, core: FakeCore) -> None:
    desk.world.provider.add(identity_of())
    core.wait("BOOT")
    core.is_silent = True
    async with settling(desk, core):
        await pass_time(60)
        assert desk.replies() == []
        core.is_silent = False
        await until(lambda: desk.replies() == ["DEPLOY SUCCESS 7 i-1"])


async def test_open_requests_of_an_earlier_core_fail_if_oned_stays_unreachable(desk: Desk, core: FakeCore) -> None:
    """The XML-RPC credentials may be outdated: then the driver never learns which VMs wait."""
    await leave(desk.world, request("DEPLOY"), parent=OTHER_CORE)
    core.is_silent = True
    async with settling(desk, core):
        await until(lambda: bool(desk.replies()))
    assert desk.replies()[0].startswith("DEPLOY FAILURE 7 the driver ended before it was done")


async def test_open_requests_of_an_earlier_core_fail_without_xmlrpc_access(desk: Desk) -> None:
    await leave(desk.world, request("DEPLOY"), parent=OTHER_CORE)
    async with settling(desk, None):
        await until(lambda: bool(desk.replies()))
    assert desk.replies()[0].startswith("DEPLOY FAILURE 7 the driver ended before it was done")
    assert await desk.open_requests() == []


async def test_settling_a_failed_deploy_closes_its_attempt(desk: Desk, core: FakeCore) -> None:
    """The next deploy opens a new attempt, and does not repeat the old call."""
    desk.world.provider.always["create"] = ProviderUnavailable("no answer")
    await desk.answer("DEPLOY")
    core.wait("BOOT")
    async with settling(desk, core):
        await until(lambda: len(desk.replies()) == 2)
    attempts = await desk.world.journal.attempts(owner=identity_of().owner, vm_id=VmId(7))
    assert [attempt.state for attempt in attempts] == [AttemptState.GONE]


async def test_a_request_taken_over_while_the_failure_of_another_is_recorded_is_answered_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old process may outlive another by some seconds: its requests may arrive while a debt is written."""
    await leave(desk.world, request("CLEANUP"), parent=OTHER_CORE)
    await leave(desk.world, request("DEPLOY", vm_id=8), parent=OTHER_CORE, writer=Process(pid=4_000_002, start="then"))
    first, *later = await desk.world.journal.open_requests()
    one, add_debt = settling_of(desk), desk.world.journal.add_debt

    async def hand_over_meanwhile(debt: Debt) -> None:
        await one.take([later.pop()] if later else [])
        await add_debt(debt)

    monkeypatch.setattr(desk.world.journal, "add_debt", hand_over_meanwhile)
    await one.take([first])
    running = asyncio.create_task(one.run(None))
    await pass_time(30)
    running.cancel()
    assert [line.split(" the ")[0] for line in desk.replies()] == ["CLEANUP FAILURE 7", "DEPLOY FAILURE 8"]
    assert await desk.open_requests() == []


async def test_every_request_is_answered_although_the_journal_cannot_record_the_takeover(
    desk: Desk, core: FakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave(desk.world, request("DEPLOY"), request("DEPLOY", vm_id=8), parent=OTHER_CORE)
    core.wait("BOOT")
    core.wait("BOOT", vm_id=8)

    async def refuse(_number: int, **_: int) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr(desk.world.journal, "take_request", refuse)
    found = await settled(desk, core)
    assert [line.split(" no ")[0] for line in found] == ["DEPLOY FAILURE 7", "DEPLOY FAILURE 8"]
