from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import msgspec
import pytest

from one_provider_mad.actions.debts import confirm_all_but_orphans, pay
from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState
from one_provider_mad.errors import (
    CannotTell,
    MadError,
    PermissionDenied,
    ProviderUnavailable,
    SettingsError,
)
from one_provider_mad.journal.records import AttemptState, Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.providers.interface import CreateCall
from tests.actions.fakes import STIME, Desk, World, a_desk, identity_of, pass_time, turns, until

pytestmark = pytest.mark.looptime

RUNNING, TERMINATED = InstanceState.RUNNING, InstanceState.TERMINATED


@asynccontextmanager
async def paying(desk: Desk) -> AsyncIterator[None]:
    """Pay debts in the background, as a running driver does."""
    task = asyncio.create_task(desk.dispatcher.debts.pay_for_ever(desk.lanes))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def now() -> float:
    return asyncio.get_running_loop().time()


async def only_debt(world: World) -> Debt:
    [debt] = await world.journal.debts()
    return debt


async def pay_off(world: World) -> None:
    async with asyncio.timeout(1000):
        await pay(world.engine(), await only_debt(world), clock=world.clock)


async def settled(world: World) -> None:
    """Wait until the journal has no debt."""
    begun = now()
    async with asyncio.timeout(10_000):
        while await world.journal.debts():
            await pass_time(max(1, (now() - begun) / 50))


# One payment


async def test_paying_a_debt_terminates_the_instance_and_waits_until_it_is_terminated(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await world.journal.park(deploy_id, identity_of().vm_id)
    await world.add_debt(deploy_id)
    await pay_off(world)
    assert world.provider.state(deploy_id) is TERMINATED
    assert await world.journal.parked() == set()


async def test_a_debt_for_a_terminated_instance_makes_no_destroy_call(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), TERMINATED)
    await world.add_debt(deploy_id)
    await pay_off(world)
    assert world.provider.count("destroy") == 0


async def test_a_debt_for_an_unknown_instance_counts_as_paid(world: World) -> None:
    await world.add_debt("i-404")
    await pay_off(world)


@pytest.mark.parametrize(
    "identity", [identity_of(8), identity_of(stime=STIME - 1), identity_of(owner="quay"), None], ids=str
)
async def test_a_debt_does_not_terminate_an_instance_with_another_identity(world: World, identity: object) -> None:
    deploy_id = world.provider.add(identity)  # type: ignore[arg-type]
    await world.add_debt(deploy_id)
    await pay_off(world)
    assert world.provider.state(deploy_id) is RUNNING


async def test_a_debt_terminates_an_imported_instance_that_lost_its_tags(world: World) -> None:
    deploy_id = world.provider.add(None)
    await world.journal.record_import(deploy_id, vm_id=identity_of().vm_id, stime=STIME)
    await world.add_debt(deploy_id)
    await pay_off(world)
    assert world.provider.state(deploy_id) is TERMINATED


async def test_a_debt_without_instance_id_terminates_only_instances_up_to_its_seq(world: World) -> None:
    old = [world.provider.add(identity_of(seq=0)), world.provider.add(identity_of(seq=2), InstanceState.STOPPED)]
    await world.add_debt(seq=2)
    newer = world.provider.add(identity_of(seq=3))
    others = [world.provider.add(identity_of(8)), world.provider.add(identity_of(stime=STIME - 1))]
    await pay_off(world)
    assert [world.provider.state(each) for each in old] == [TERMINATED] * 2
    assert [world.provider.state(each) for each in (newer, *others)] == [RUNNING] * 3


async def test_a_debt_does_not_terminate_an_instance_created_after_it_was_recorded(world: World) -> None:
    """A recover --retry of a deploy that was cancelled has the same SEQ."""
    owed = world.provider.add(identity_of())
    await world.add_attempt(AttemptState.CREATED, deploy_id=owed, age=10)
    await world.add_debt()
    await pass_time(5)
    newer = world.provider.add(identity_of())
    await world.add_attempt(AttemptState.CREATED, deploy_id=newer, number=2)
    await pay_off(world)
    assert world.provider.state(owed) is TERMINATED
    assert world.provider.state(newer) is RUNNING
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE, AttemptState.CREATED]


async def test_paying_a_debt_closes_the_attempt_of_its_token(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    attempt = await world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id, age=1)
    await world.add_debt(deploy_id, token=attempt.token)
    await pay_off(world)
    assert world.provider.state(deploy_id) is TERMINATED
    assert [each.state for each in await world.attempts()] == [AttemptState.GONE]


async def test_a_debt_waits_for_a_create_under_way_and_terminates_its_instance(world: World) -> None:
    is_answered = asyncio.Event()
    world.provider.before["create"].append(is_answered)
    attempt = await world.add_attempt(AttemptState.OPEN, age=1)

    async def record(deploy_id: DeployId | None) -> None:
        assert deploy_id is not None
        await world.journal.save_attempt(
            msgspec.structs.replace(attempt, state=AttemptState.CREATED, deploy_id=deploy_id)
        )

    call = CreateCall(identity=attempt.identity, token=attempt.token, parameters=attempt.parameters)
    creating = asyncio.create_task(world.cloud.create(call, record=record))
    await turns()
    creating.cancel()
    await world.add_debt(token=attempt.token)
    payment = asyncio.create_task(pay_off(world))
    await pass_time(30)
    assert not payment.done()
    is_answered.set()
    await payment
    assert [world.provider.state(each) for each in world.provider.instances] == [TERMINATED]


@pytest.mark.parametrize("is_by_token", [True, False], ids=["by-token", "by-identity"])
async def test_a_debt_is_not_paid_while_its_instance_may_still_appear(world: World, *, is_by_token: bool) -> None:
    world.provider.visibility_grace = 60
    attempt = await world.add_attempt(AttemptState.OPEN, age=1)
    await world.add_debt(token=attempt.token if is_by_token else "")
    with pytest.raises(CannotTell, match="cannot tell yet whether VM 7's instance exists"):
        await pay_off(world)
    await pass_time(60)
    await pay_off(world)
    assert [each.state for each in await world.attempts()] == [AttemptState.GONE]


@pytest.mark.parametrize("operation", ["describe", "find", "destroy"])
async def test_a_debt_is_not_paid_if_the_cloud_does_not_answer(world: World, operation: str) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.before[operation].append(ProviderUnavailable("no answer"))
    await world.add_debt(deploy_id)
    with pytest.raises(ProviderUnavailable):
        await pay_off(world)


async def test_a_debt_of_another_owner_is_an_error_and_terminates_nothing(world: World) -> None:
    deploy_id = world.provider.add(identity_of(owner="quay"))
    await world.add_debt(deploy_id)
    debt = msgspec.structs.replace(await only_debt(world), identity=identity_of(owner="quay"))
    with pytest.raises(SettingsError, match="belongs to owner quay, and this driver serves harbour now"):
        await pay(world.engine(), debt, clock=world.clock)
    assert world.provider.state(deploy_id) is RUNNING


async def test_a_debt_without_owner_is_paid_with_the_configured_owner(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await world.add_debt(deploy_id)
    debt = msgspec.structs.replace(await only_debt(world), identity=identity_of(owner=""))
    await pay(world.engine(), debt, clock=world.clock)
    assert world.provider.state(deploy_id) is TERMINATED


async def test_paying_a_debt_fails_if_the_provider_is_scripts(world: World) -> None:
    class Scripts:
        name = "scripts"

    await world.add_debt("i-1")
    with pytest.raises(SettingsError, match="a directory of scripts"):
        await pay(world.engine(Scripts()), await only_debt(world), clock=world.clock)  # type: ignore[arg-type]


# Paying for as long as the driver runs


@pytest.mark.parametrize(
    ("identity", "state"),
    [(identity_of(), TERMINATED), (identity_of(8), InstanceState.RUNNING)],
    ids=["tagged-for-this-vm", "tagged-for-another-vm"],
)
async def test_an_instance_hidden_during_cleanup_is_terminated_once_visible_if_tagged_for_this_vm(
    desk: Desk, identity: Identity, state: InstanceState
) -> None:
    deploy_id = desk.world.provider.add(identity)
    desk.world.provider.instances[deploy_id].visible_at = now() + 600
    await desk.world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id)
    assert await desk.answer("CLEANUP") == (
        "FAILURE cannot tell whether VM 7's instance still exists:"
        f" the cloud has made instance {deploy_id} and does not show it"
    )
    async with paying(desk):
        await pass_time(590)
        assert desk.world.provider.count("destroy") == 0, "an instance that is not visible is not destroyed"
        await settled(desk.world)
    assert desk.world.provider.state(deploy_id) is state
    assert [attempt.state for attempt in await desk.world.attempts()] == [AttemptState.GONE]


async def test_a_debt_is_dropped_if_its_instance_stays_invisible_for_an_hour(desk: Desk) -> None:
    await desk.world.add_attempt(AttemptState.CREATED, deploy_id="i-404", age=4000)
    assert await desk.answer("CLEANUP") == "SUCCESS -"
    async with paying(desk):
        await pass_time(3590)
        debt = await only_debt(desk.world)
        assert debt.last_error == "the cloud does not show instance i-404, which it has made: nothing is destroyed"
        await settled(desk.world)
    assert now() < 4200
    assert desk.world.provider.count("destroy") == 0
    assert [attempt.state for attempt in await desk.world.attempts()] == [AttemptState.GONE]


async def test_debts_are_paid_after_a_restart(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    await desk.world.add_debt(deploy_id)
    async with paying(desk):
        await settled(desk.world)
    assert desk.world.provider.state(deploy_id) is TERMINATED
    assert desk.lines == [], "oned sent no request"


async def test_a_debt_recorded_while_the_driver_runs_is_paid_at_once(desk: Desk) -> None:
    async with paying(desk):
        await pass_time(200)
        await desk.world.add_debt(desk.world.provider.add(identity_of()))
        await settled(desk.world)
        assert now() < 215


async def test_a_failing_debt_is_retried_with_growing_pauses(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    tried: list[float] = []
    destroy = desk.world.provider.destroy

    async def destroy_and_note(deploy_id: DeployId) -> None:
        tried.append(now())
        await destroy(deploy_id)

    desk.world.provider.destroy = destroy_and_note  # type: ignore[method-assign]
    desk.world.provider.before["destroy"].extend(ProviderUnavailable("no answer") for _ in range(10))
    await desk.world.add_debt(deploy_id)
    async with paying(desk):
        await settled(desk.world)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert len(pauses) == 10
    assert all(a <= b + 1 for a, b in itertools.pairwise(pauses))
    assert pauses[0] <= 6
    assert 290 <= pauses[-1] <= 310
    assert desk.world.provider.state(deploy_id) is TERMINATED


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        pytest.param(PermissionDenied("not allowed"), "not allowed", id="refused"),
        pytest.param(KeyError("reservations"), "internal error (KeyError)", id="defect"),
        pytest.param(TimeoutError(), "out of time", id="timeout"),
        pytest.param(asyncio.CancelledError(), "internal error (CancelledError)", id="cancelled"),
    ],
)
async def test_a_failed_payment_records_its_error_and_keeps_the_debt(
    desk: Desk, error: BaseException, noted: str
) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.before["destroy"].append(error)
    await desk.world.add_debt(deploy_id)
    async with paying(desk):
        await pass_time(1.5)
        debt = await only_debt(desk.world)
        assert (debt.tries, debt.last_error) == (1, noted)
        await settled(desk.world)
    assert desk.world.provider.state(deploy_id) is TERMINATED


async def test_a_debt_is_not_paid_if_leadership_is_lost_right_before_the_termination(desk: Desk) -> None:
    """The cloud may take minutes to answer, and OpenNebula may elect another leader in that time."""
    deploy_id = desk.world.provider.add(identity_of())
    await desk.world.add_debt(deploy_id)

    async def lose_an_election(debt: Debt, instance: Instance) -> None:
        assert (debt.deploy_id, instance.deploy_id) == (deploy_id, deploy_id)
        desk.dispatcher.note_leader(is_elsewhere=True)

    desk.dispatcher.debts.confirm = lose_an_election
    async with paying(desk):
        await pass_time(1.5)
        assert (await only_debt(desk.world)).last_error.startswith("another front-end leads")
        assert desk.world.provider.state(deploy_id) is RUNNING
        desk.dispatcher.debts.confirm = confirm_all_but_orphans
        desk.dispatcher.note_leader(is_elsewhere=False)
        await settled(desk.world)
    assert desk.world.provider.state(deploy_id) is TERMINATED


async def test_one_try_to_pay_a_debt_takes_five_minutes_at_most(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.destroy_time = 100_000
    await desk.world.add_debt(deploy_id)
    async with paying(desk):
        await pass_time(302)
        debt = await only_debt(desk.world)
        assert (debt.tries, debt.last_error) == (1, "out of time")


@pytest.mark.parametrize("error", [SettingsError("x.toml: owner is missing"), ProviderUnavailable("no answer")])
async def test_debts_wait_for_a_usable_configuration_and_cloud(desk: Desk, error: MadError) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    await desk.world.add_debt(deploy_id)
    desk.engines.error = error
    async with paying(desk):
        await pass_time(10)
        assert (await only_debt(desk.world)).last_error == str(error)
        desk.engines.error = None
        await settled(desk.world)


async def test_debts_wait_until_the_journal_is_open(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    await desk.world.add_debt(deploy_id)
    journal: Journal = desk.world.journal
    desk.engines.journal = None
    desk.engines.is_journal_open.clear()
    async with paying(desk):
        await pass_time(100)
        assert desk.world.provider.count("destroy") == 0
        desk.engines.journal = journal
        desk.engines.is_journal_open.set()
        await settled(desk.world)


async def test_a_debt_is_retried_even_if_the_failed_try_cannot_be_recorded(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.before["destroy"].append(ProviderUnavailable("no answer"))
    await desk.world.add_debt(deploy_id)
    with closing(sqlite3.connect(desk.world.journal.path)) as db:
        db.execute("CREATE TRIGGER full BEFORE UPDATE ON debts BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    async with paying(desk):
        await settled(desk.world)
    assert desk.world.provider.state(deploy_id) is TERMINATED


async def test_reading_debts_is_retried_after_a_database_error(desk: Desk) -> None:
    deploy_id = desk.world.provider.add(identity_of())
    await desk.world.add_debt(deploy_id)
    with closing(sqlite3.connect(desk.world.journal.path)) as db:
        db.execute("ALTER TABLE debts RENAME TO hidden")
    async with paying(desk):
        await pass_time(10)
        with closing(sqlite3.connect(desk.world.journal.path)) as db:
            db.execute("ALTER TABLE hidden RENAME TO debts")
        await settled(desk.world)


@pytest.mark.parametrize("is_open", [True, False], ids=["unreadable", "none"])
async def test_a_cancelled_deploy_becomes_a_debt_even_if_its_attempts_cannot_be_read(
    desk: Desk, *, is_open: bool
) -> None:
    desk.world.provider.boot_time = 1000
    desk.ask("DEPLOY")
    await until(lambda: bool(desk.world.provider.instances))
    await pass_time(1)
    with closing(sqlite3.connect(desk.world.journal.path)) as db:
        db.execute("ALTER TABLE attempts RENAME TO hidden")
    if not is_open:
        desk.engines.journal = None
    desk.ask("DRIVER_CANCEL")
    await desk.settled()
    owed = [(debt.deploy_id, debt.token, debt.reason) for debt in await desk.world.journal.debts()]
    assert owed == ([("", "", "its deploy was cancelled")] if is_open else [])


# Beside oned's requests


async def test_a_debt_waits_for_the_running_action_of_its_vm(desk: Desk) -> None:
    is_answered = asyncio.Event()
    desk.world.provider.before["reboot"].append(is_answered)
    deploy_id = desk.world.provider.add(identity_of())
    desk.ask("REBOOT", deploy_id=deploy_id)
    await desk.world.add_debt("i-404", seq=0)
    async with paying(desk):
        await pass_time(20)
        assert desk.world.provider.count("find") == 0
        is_answered.set()
        await settled(desk.world)
    assert desk.replies() == ["REBOOT SUCCESS 7 -"]


async def test_driver_cancel_does_not_cancel_a_debt(desk: Desk) -> None:
    may_end = asyncio.Event()
    deploy_id = desk.world.provider.add(identity_of())
    desk.world.provider.before["destroy"].append(may_end)
    await desk.world.add_debt(deploy_id)
    async with paying(desk):
        await until(lambda: desk.world.provider.count("destroy") == 1)
        desk.ask("DRIVER_CANCEL")
        may_end.set()
        await settled(desk.world)
    assert desk.lines == []


async def test_debts_leave_one_of_the_t_slots_free_for_requests(world: World) -> None:
    world.set_cloud(call_timeout=10_000)
    world.provider.always["destroy"] = asyncio.Event()
    for vm_id in range(100, 110):
        await world.add_debt(world.provider.add(identity_of(vm_id)), vm_id=vm_id)
    async with a_desk(world, threads=3) as desk, paying(desk):
        await pass_time(10)
        assert world.provider.count("destroy") == 2
        assert await desk.answer("REBOOT", deploy_id=world.provider.add(identity_of())) == "SUCCESS -"


async def test_debts_of_busy_vms_do_not_delay_debts_of_other_vms(world: World) -> None:
    world.set_cloud(call_timeout=100_000)
    world.provider.always["reboot"] = asyncio.Event()
    async with a_desk(world, timeout=0) as desk, paying(desk):
        for vm_id in (1, 2, 3):
            desk.ask("REBOOT", vm_id, deploy_id=world.provider.add(identity_of(vm_id)))
        await pass_time(1)
        for vm_id in (1, 2, 3):
            await world.add_debt(f"i-404-{vm_id}", vm_id=vm_id)
        deploy_id = world.provider.add(identity_of())
        await world.add_debt(deploy_id)
        await pass_time(200)
        assert world.provider.state(deploy_id) is TERMINATED


# From the request to the terminated instance


async def test_the_instance_of_a_cancelled_deploy_is_terminated_without_another_request(desk: Desk) -> None:
    is_answered = asyncio.Event()
    desk.world.provider.before["create"].append(is_answered)
    async with paying(desk):
        desk.ask("DEPLOY")
        await until(lambda: desk.world.provider.count("create") == 1)
        desk.ask("DRIVER_CANCEL")
        await pass_time(30)
        is_answered.set()
        await until(lambda: bool(desk.world.provider.instances))
        await settled(desk.world)
    assert desk.world.provider.alive() == []
    assert desk.replies() == []


async def test_the_instance_of_a_failed_cleanup_is_terminated_without_another_request(desk: Desk) -> None:
    desk.world.provider.before["destroy"].extend(PermissionDenied("not allowed") for _ in range(3))
    deploy_id = desk.world.provider.add(identity_of())
    async with paying(desk):
        assert await desk.answer("CLEANUP", deploy_id=deploy_id) == "FAILURE not allowed"
        await settled(desk.world)
    assert desk.world.provider.state(deploy_id) is TERMINATED


async def test_a_vm_that_was_recreated_keeps_its_new_instance(desk: Desk) -> None:
    """CLEANUP fails, oned deploys anew nevertheless, and the debt is paid later."""
    old = desk.world.provider.add(identity_of(seq=0))
    desk.world.provider.before["destroy"].extend(PermissionDenied("not allowed") for _ in range(3))
    async with paying(desk):
        await desk.answer("CLEANUP", lcm_state=15, deploy_id=old)
        answer = await desk.answer("DEPLOY", seq=1)
        new = answer.removeprefix("SUCCESS ")
        await settled(desk.world)
    assert (answer.split()[0], new != old) == ("SUCCESS", True)
    assert desk.world.provider.state(old) is TERMINATED
    assert desk.world.provider.state(new) is RUNNING


async def test_the_debt_payer_ends_at_once_for_a_verbatim_driver(world: World) -> None:
    async with a_desk(world) as desk:
        desk.engines.is_verbatim = True
        await world.add_debt("i-1")
        async with asyncio.timeout(10):
            await desk.dispatcher.debts.pay_for_ever(desk.lanes)
    assert world.provider.calls == []
