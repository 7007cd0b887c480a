from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.actions.debts import pay
from one_provider_mad.actions.intents import Intent
from one_provider_mad.actions.lifecycle import perform_intent, reboot
from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, Template, VmId
from one_provider_mad.errors import (
    CannotTell,
    InstanceNotFound,
    NoCapacity,
    NotOurs,
    PermissionDenied,
    ProviderUnavailable,
    RequestRefused,
    WrongState,
)
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.providers.interface import CreateCall, Parameters
from one_provider_mad.settings import Policy
from tests.actions.fakes import STIME, AbleCloud, FakeCloud, World, a_world, identity_of, pass_time, request_of, until

pytestmark = pytest.mark.looptime

RUNNING, STOPPED, PENDING = InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.PENDING
STOPPING, SUSPENDED, SUSPENDING = InstanceState.STOPPING, InstanceState.SUSPENDED, InstanceState.SUSPENDING
TERMINATED, TERMINATING, UNKNOWN = InstanceState.TERMINATED, InstanceState.TERMINATING, InstanceState.UNKNOWN

SOMEBODY_ELSE = [identity_of(8), identity_of(stime=STIME - 1), identity_of(owner="quay"), None]


@pytest.fixture(params=[FakeCloud], ids=["plain"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    make: Callable[[], FakeCloud] = request.param
    async with a_world(tmp_path, make()) as world:
        yield world


able = pytest.mark.parametrize("world", [AbleCloud], indirect=True, ids=["able"])


async def perform(world: World, intent: Intent, **fields: Any) -> str:
    """What the action answers; within ten minutes, as everything does."""
    async with asyncio.timeout(600):
        return await perform_intent(world.work(request_of(**fields)), intent)


def asked(world: World) -> list[str]:
    """What the cloud was asked to do, looks left out."""
    return [name for name, _ in world.provider.calls if name not in ("describe", "find")]


def on_the_way(world: World, state: InstanceState, to: InstanceState, *, seconds: float = 5.0) -> DeployId:
    """An instance of VM 7 that is on its way to a state."""
    deploy_id = world.provider.add(identity_of(), state)
    world.provider.instances[deploy_id].then = (seconds, to)
    return deploy_id


# Create


async def test_a_create_answers_the_id_once_the_instance_runs(world: World) -> None:
    deploy_id = await perform(world, Intent.CREATE)
    assert world.provider.state(deploy_id) is RUNNING
    assert asyncio.get_running_loop().time() >= 5


async def test_an_instance_that_ends_before_it_runs_says_why_and_the_next_deploy_makes_another(world: World) -> None:
    world.provider.first_state = TERMINATED
    with pytest.raises(WrongState, match="instance i-1 is terminated"):
        await perform(world, Intent.CREATE)
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE]
    world.provider.first_state = PENDING
    assert await perform(world, Intent.CREATE) == "i-2"


async def test_an_instance_that_was_taken_over_stopped_is_started(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), STOPPED)
    assert await perform(world, Intent.CREATE) == deploy_id
    assert asked(world) == ["start"]
    assert world.provider.state(deploy_id) is RUNNING


async def test_an_instance_that_was_taken_over_and_cannot_be_started_is_still_there(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), STOPPED)
    await world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id)
    world.provider.before["start"].append(WrongState("it is being backed up"))
    with pytest.raises(WrongState, match="it is being backed up"):
        await perform(world, Intent.CREATE)
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.CREATED]


def a_section(**attributes: str) -> Template:
    return Template(values={"PUBLIC_CLOUD": (attributes,)})


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"user_template": a_section(IAM_PROFILE="admin", TYPE="fake")}, id="upper-case"),
        pytest.param({"user_template": a_section(iam_profile="admin")}, id="lower-case"),
        pytest.param({"template": a_section(IAM_PROFILE="admin")}, id="in-the-template"),
    ],
)
async def test_what_the_policy_forbids_fails_the_deploy_wherever_it_stands(
    world: World, fields: dict[str, Template]
) -> None:
    world.policy = Policy(forbidden_attributes=("iam_profile", "USERDATA"))
    with pytest.raises(RequestRefused) as caught:
        await perform(world, Intent.CREATE, **fields)
    assert str(caught.value) == "PUBLIC_CLOUD may not set IAM_PROFILE here: remove it from the template"
    assert asked(world) == []


async def test_the_section_of_4_x_is_bound_by_the_policy_too(world: World) -> None:
    world.policy = Policy(forbidden_attributes=("IAM_PROFILE",))
    with pytest.raises(RequestRefused, match=r"^EC2 may not set IAM_PROFILE here"):
        await perform(world, Intent.CREATE, template=Template(values={"EC2": ({"IAM_PROFILE": "admin"},)}))


async def test_every_forbidden_attribute_is_named_at_once(world: World) -> None:
    world.policy = Policy(forbidden_attributes=("B", "A", "C"))
    with pytest.raises(RequestRefused, match="PUBLIC_CLOUD may not set A, B here"):
        await perform(world, Intent.CREATE, user_template=a_section(B="1", A="2", D="3"))


async def test_what_the_policy_does_not_forbid_is_taken(world: World) -> None:
    world.policy = Policy(forbidden_attributes=("IAM_PROFILE",))
    await perform(world, Intent.CREATE, user_template=a_section(TYPE="fake"))


@pytest.mark.parametrize("may_import", [True, False])
async def test_the_policy_decides_about_imports(world: World, *, may_import: bool) -> None:
    world.policy = Policy(allow_import=may_import)
    deploy_id = world.provider.add(None)
    if may_import:
        assert await perform(world, Intent.CREATE, deploy_id=deploy_id) == deploy_id
    else:
        with pytest.raises(NotOurs):
            await perform(world, Intent.CREATE, deploy_id=deploy_id)


async def test_nothing_is_bought_for_a_vm_that_does_not_ask_for_this_cloud(world: World) -> None:
    world.required_type = "fake"
    with pytest.raises(RequestRefused, match=r'^the template has no PUBLIC_CLOUD section with TYPE="fake": add one'):
        await perform(world, Intent.CREATE)
    assert (asked(world), await world.attempts()) == ([], [])
    assert await perform(world, Intent.CREATE, user_template=a_section(TYPE="fake")) == "i-1"


async def test_an_instance_that_is_there_needs_no_section(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), STOPPED)
    world.required_type = "fake"
    assert await perform(world, Intent.CREATE) == deploy_id
    world.provider.instances[deploy_id].state = STOPPED
    assert await perform(world, Intent.START, deploy_id=deploy_id) == deploy_id


async def test_a_create_that_was_sent_and_not_answered_is_repeated_without_a_section(world: World) -> None:
    await world.add_attempt(AttemptState.OPEN)
    world.required_type = "fake"
    assert await perform(world, Intent.CREATE) == "i-1"


async def test_an_import_needs_no_section(world: World) -> None:
    world.policy, world.required_type = Policy(allow_import=True), "fake"
    deploy_id = world.provider.add(None)
    assert await perform(world, Intent.CREATE, deploy_id=deploy_id) == deploy_id


async def test_a_refused_attempt_entitles_a_vm_to_no_other(world: World) -> None:
    await world.add_attempt(AttemptState.REFUSED)
    world.required_type = "fake"
    with pytest.raises(RequestRefused, match="the template has no PUBLIC_CLOUD section"):
        await perform(world, Intent.CREATE)
    assert asked(world) == []


# Start


@pytest.mark.parametrize("state", [STOPPED, SUSPENDED])
async def test_a_start_answers_the_same_id_once_it_runs(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await perform(world, Intent.START, deploy_id=deploy_id, seq=3) == deploy_id
    assert asked(world) == ["start"]
    assert world.provider.state(deploy_id) is RUNNING


async def test_a_running_instance_is_not_started_again(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    assert await perform(world, Intent.START, deploy_id=deploy_id) == deploy_id
    assert asked(world) == []


async def test_an_instance_that_is_starting_is_waited_for(world: World) -> None:
    deploy_id = on_the_way(world, PENDING, RUNNING)
    assert await perform(world, Intent.START, deploy_id=deploy_id) == deploy_id
    assert asked(world) == []
    assert world.provider.state(deploy_id) is RUNNING


@pytest.mark.parametrize(("state", "to"), [(STOPPING, STOPPED), (SUSPENDING, SUSPENDED)])
async def test_an_instance_that_is_still_stopping_is_started_afterwards(
    world: World, state: InstanceState, to: InstanceState
) -> None:
    deploy_id = on_the_way(world, state, to)
    assert await perform(world, Intent.START, deploy_id=deploy_id) == deploy_id
    assert asked(world) == ["start"]


@pytest.mark.parametrize(
    ("lcm_state", "remedy"),
    [
        pytest.param(19, "", id="from-unknown"),
        pytest.param(20, " (before 6.10 onevm undeploy first)", id="from-poweroff"),
        pytest.param(21, " (before 6.10 onevm stop first)", id="from-suspended"),
        pytest.param(32, "", id="from-undeployed"),
    ],
)
async def test_what_is_gone_for_good_says_how_the_vm_is_recreated(world: World, lcm_state: int, remedy: str) -> None:
    deploy_id = world.provider.add(identity_of(), TERMINATED)
    with pytest.raises(WrongState) as caught:
        await perform(world, Intent.START, deploy_id=deploy_id, lcm_state=lcm_state)
    expected = f"instance {deploy_id} is terminated for good: onevm recover --recreate makes a new one{remedy}"
    assert str(caught.value) == expected


@pytest.mark.parametrize("state", [TERMINATED, TERMINATING])
async def test_an_instance_that_is_gone_cannot_be_started_and_nothing_is_made(
    world: World, state: InstanceState
) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    with pytest.raises(WrongState) as caught:
        await perform(world, Intent.START, deploy_id=deploy_id)
    assert str(caught.value).startswith(f"instance {deploy_id} is {state.value} for good: ")
    assert asked(world) == []


@pytest.mark.parametrize("named", ["", "i-404"])
async def test_a_start_of_what_is_not_there_never_makes_anything(world: World, named: str) -> None:
    with pytest.raises(InstanceNotFound):
        await perform(world, Intent.START, deploy_id=named)
    assert asked(world) == []


async def test_a_vm_that_moved_to_another_host_has_it_in_its_tags(world: World) -> None:
    deploy_id = world.provider.add(identity_of(seq=2, host_id=3), STOPPED)
    await perform(world, Intent.START, deploy_id=deploy_id, host_id=9, seq=4)
    assert world.provider.identity(deploy_id) == identity_of(seq=2, host_id=9), "the SEQ of the create stays"
    assert asked(world) == ["retag", "start"]


@pytest.mark.parametrize("host_id", [3, -1], ids=["same", "unknown"])
async def test_a_vm_that_did_not_move_keeps_its_tags(world: World, host_id: int) -> None:
    deploy_id = world.provider.add(identity_of(host_id=3), STOPPED)
    await perform(world, Intent.START, deploy_id=deploy_id, host_id=host_id)
    assert asked(world) == ["start"]


async def test_an_imported_instance_without_tags_is_started_without_them(world: World) -> None:
    deploy_id = world.provider.add(None, STOPPED)
    await world.journal.record_import(deploy_id, vm_id=identity_of().vm_id, stime=STIME)
    assert await perform(world, Intent.START, deploy_id=deploy_id, host_id=9) == deploy_id
    assert asked(world) == ["start"]


# Stop


@pytest.mark.parametrize(
    ("intent", "call", "is_parked"),
    [
        pytest.param(Intent.STOP, "stop", False, id="power-off"),
        pytest.param(Intent.STOP_HARD, "stop hard", False, id="power-off-hard"),
        pytest.param(Intent.PARK, "stop", True, id="undeploy"),
        pytest.param(Intent.PARK_HARD, "stop hard", True, id="undeploy-hard"),
        pytest.param(Intent.SUSPEND, "stop", False, id="suspend-where-memory-cannot-be-kept"),
    ],
)
async def test_a_stop_keeps_the_instance_and_answers_once_it_has_stopped(
    world: World, intent: Intent, call: str, *, is_parked: bool
) -> None:
    deploy_id = world.provider.add(identity_of())
    assert await perform(world, intent, deploy_id=deploy_id) == "-"
    assert asked(world) == [call]
    assert world.provider.state(deploy_id) is STOPPED
    assert await world.journal.parked() == ({deploy_id} if is_parked else set())


@pytest.mark.parametrize("intent", [Intent.STOP, Intent.STOP_HARD, Intent.SUSPEND])
async def test_a_vm_that_is_stopped_on_its_host_is_on_it(world: World, intent: Intent) -> None:
    deploy_id = world.provider.add(identity_of())
    await world.journal.park(deploy_id, VmId(7))
    await perform_intent(world.work(request_of(deploy_id=deploy_id)), intent)
    assert await world.journal.parked() == set()


@pytest.mark.parametrize("what", ["describe", "stop"])
async def test_an_undeploy_that_is_repeated_and_fails_leaves_the_vm_where_it_is(world: World, what: str) -> None:
    """The process before had stopped it, marked it, answered and was killed; or somebody has started it since."""
    is_stopped = what == "describe"
    deploy_id = world.provider.add(identity_of(), InstanceState.STOPPED if is_stopped else InstanceState.RUNNING)
    await world.journal.park(deploy_id, VmId(7))
    world.provider.before[what].append(ProviderUnavailable("an outage"))
    with pytest.raises(ProviderUnavailable):
        await perform_intent(world.work(request_of(deploy_id=deploy_id, lcm_state=29)), Intent.PARK)
    assert await world.journal.parked() == ({deploy_id} if is_stopped else set())


async def test_a_parked_instance_that_is_started_is_on_a_host_again(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await perform(world, Intent.PARK, deploy_id=deploy_id)
    await perform(world, Intent.START, deploy_id=deploy_id)
    assert await world.journal.parked() == set()


async def test_an_instance_that_could_not_be_stopped_is_on_its_host_still(world: World) -> None:
    """OpenNebula takes the VM for running then; left out of a report, it would be powered off there."""
    deploy_id = world.provider.add(identity_of())
    world.provider.before["stop"].append(PermissionDenied("stopping is not allowed"))
    with pytest.raises(PermissionDenied):
        await perform(world, Intent.PARK, deploy_id=deploy_id)
    assert await world.journal.parked() == set()


@pytest.mark.parametrize("state", [STOPPED, SUSPENDED])
@pytest.mark.parametrize("intent", [Intent.STOP, Intent.STOP_HARD, Intent.SUSPEND])
async def test_what_is_stopped_is_not_stopped_again(world: World, state: InstanceState, intent: Intent) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await perform(world, intent, deploy_id=deploy_id) == "-"
    assert asked(world) == []


async def test_an_instance_that_is_starting_is_stopped_when_it_runs(world: World) -> None:
    deploy_id = on_the_way(world, PENDING, RUNNING)
    assert await perform(world, Intent.STOP, deploy_id=deploy_id) == "-"
    assert world.provider.state(deploy_id) is STOPPED


async def test_an_instance_in_a_state_nobody_knows_is_asked_to_stop(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), UNKNOWN)
    assert await perform(world, Intent.STOP, deploy_id=deploy_id) == "-"
    assert asked(world) == ["stop"]


async def test_a_soft_stop_under_way_is_waited_for(world: World) -> None:
    deploy_id = on_the_way(world, STOPPING, STOPPED)
    assert await perform(world, Intent.STOP, deploy_id=deploy_id) == "-"
    assert asked(world) == []


async def test_a_hard_stop_cuts_a_soft_one_short_that_does_not_end(world: World) -> None:
    """`recover --retry` of a power off that hangs in the guest sends CANCEL."""
    deploy_id = on_the_way(world, STOPPING, STOPPED, seconds=100_000)
    assert await perform(world, Intent.STOP_HARD, deploy_id=deploy_id) == "-"
    assert asked(world) == ["stop hard"]


@pytest.mark.parametrize("intent", [Intent.STOP, Intent.PARK, Intent.SUSPEND])
async def test_an_instance_that_is_gone_cannot_be_stopped(world: World, intent: Intent) -> None:
    deploy_id = world.provider.add(identity_of(), TERMINATED)
    with pytest.raises(WrongState, match=f"instance {deploy_id} is terminated"):
        await perform(world, intent, deploy_id=deploy_id)
    assert await world.journal.parked() == set()


async def test_an_instance_that_ends_while_it_stops_is_told(world: World) -> None:
    deploy_id = on_the_way(world, STOPPING, TERMINATED)
    with pytest.raises(WrongState, match=f"instance {deploy_id} is terminated"):
        await perform(world, Intent.STOP, deploy_id=deploy_id)


# Suspend


class CrampedCloud(FakeCloud):
    """Pretends to be a cloud that accepts what it has no room for, and tells of it by the instance that ends."""

    name: str = "cramped"

    def __init__(self) -> None:
        super().__init__()
        self.alternatives = ({"size": "small"}, {"size": "medium"}, {"size": "large"})
        self.short = {"small", "medium"}
        self.end = TERMINATED
        self.reason = "no room"

    async def create(self, call: CreateCall) -> DeployId:
        deploy_id = await super().create(call)
        if call.parameters["size"] in self.short:
            instance = self.instances[deploy_id]
            instance.then, instance.reason = (asyncio.get_running_loop().time() + 2, self.end), self.reason
        return deploy_id

    def lacked_room(self, instance: Instance, parameters: Parameters) -> bool:
        return instance.reason == "no room" and parameters["size"] in self.short


cramped = pytest.mark.parametrize("world", [CrampedCloud], indirect=True, ids=["cramped"])


@cramped
@pytest.mark.parametrize("end", [TERMINATED, TERMINATING, UNKNOWN])
async def test_an_instance_that_ends_for_want_of_room_is_owed_and_gives_way_to_the_next_alternative(
    world: World, end: InstanceState
) -> None:
    assert isinstance(world.provider, CrampedCloud)
    world.provider.end, world.provider.warnings = end, ("an attribute nobody knows",)
    world.provider.before["create"].append(NoCapacity("none small either"))
    world.provider.short = {"medium"}
    assert await perform(world, Intent.CREATE) == "i-2"
    sizes = [attempt.parameters["size"] for attempt in await world.attempts()]
    assert sizes == ["small", "medium", "large"], "each alternative once"
    assert world.told == [
        "an attribute nobody knows",
        "none small either",
        f"instance i-1 is {end.value}: no room",
    ]
    [debt] = await world.journal.debts()
    assert (debt.deploy_id, debt.reason) == ("i-1", f"there was no room for it: instance i-1 is {end.value}: no room")
    if end is not TERMINATING:  # nothing ends it in this cloud
        await pay(world.engine(), debt)
        assert world.provider.alive() == ["i-2"]


@cramped
async def test_when_the_instances_of_all_alternatives_end_for_want_of_room_the_last_is_told(world: World) -> None:
    assert isinstance(world.provider, CrampedCloud)
    world.provider.short = {"small", "medium", "large"}
    with pytest.raises(NoCapacity, match="instance i-3 is terminated: no room"):
        await perform(world, Intent.CREATE)
    assert [debt.deploy_id for debt in await world.journal.debts()] == ["i-1", "i-2", "i-3"]
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE] * 3


@cramped
async def test_an_instance_that_ends_for_another_reason_fails_the_deploy(world: World) -> None:
    assert isinstance(world.provider, CrampedCloud)
    world.provider.reason = "the image is damaged"
    with pytest.raises(WrongState, match="instance i-1 is terminated: the image is damaged"):
        await perform(world, Intent.CREATE)
    assert (world.provider.count("create"), await world.journal.debts()) == (1, [])


@able
@pytest.mark.parametrize("state", [RUNNING, UNKNOWN])
async def test_a_cloud_that_keeps_memory_suspends(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await perform(world, Intent.SUSPEND, deploy_id=deploy_id) == "-"
    assert asked(world) == ["suspend"]
    assert world.provider.state(deploy_id) is SUSPENDED


@able
async def test_an_instance_that_is_starting_is_suspended_when_it_runs(world: World) -> None:
    deploy_id = on_the_way(world, PENDING, RUNNING)
    await perform(world, Intent.SUSPEND, deploy_id=deploy_id)
    assert asked(world) == ["suspend"]


@able
@pytest.mark.parametrize("state", [STOPPED, SUSPENDED])
async def test_what_is_suspended_is_not_suspended_again(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await perform(world, Intent.SUSPEND, deploy_id=deploy_id) == "-"
    assert asked(world) == []


# Destroy


@pytest.mark.parametrize("state", [RUNNING, STOPPED, SUSPENDED, PENDING, UNKNOWN, STOPPING])
async def test_a_destroy_answers_once_the_instance_is_terminated(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await perform(world, Intent.DESTROY, deploy_id=deploy_id) == "-"
    assert asked(world) == ["destroy"]
    assert world.provider.state(deploy_id) is TERMINATED


async def test_a_destroyed_vm_that_is_gone_counts_as_success(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), TERMINATED)
    assert await perform(world, Intent.DESTROY, deploy_id=deploy_id) == "-"
    assert await perform(world, Intent.DESTROY) == "-"
    assert asked(world) == []


async def test_an_instance_on_its_way_out_is_waited_for_and_not_asked_again(world: World) -> None:
    deploy_id = on_the_way(world, TERMINATING, TERMINATED)
    assert await perform(world, Intent.DESTROY, deploy_id=deploy_id) == "-"
    assert asked(world) == []
    assert world.provider.state(deploy_id) is TERMINATED


async def test_without_an_id_everything_of_this_vm_is_destroyed_and_nothing_else(world: World) -> None:
    mine = [world.provider.add(identity_of()), world.provider.add(identity_of(seq=2), STOPPED)]
    others = [
        world.provider.add(identity_of(8)),
        world.provider.add(identity_of(stime=STIME - 1)),
        world.provider.add(identity_of(owner="quay")),
        world.provider.add(None),
    ]
    await perform(world, Intent.DESTROY)
    assert [world.provider.state(deploy_id) for deploy_id in mine] == [TERMINATED] * 2
    assert [world.provider.state(deploy_id) for deploy_id in others] == [RUNNING] * 4


async def test_an_instance_that_vanishes_between_look_and_call_is_gone(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.before["destroy"].append(InstanceNotFound("no such instance"))
    destroying = asyncio.create_task(perform(world, Intent.DESTROY, deploy_id=deploy_id))
    await until(lambda: bool(asked(world)))
    world.provider.instances.clear()
    assert await destroying == "-"


async def test_a_named_instance_of_somebody_else_is_never_destroyed(world: World) -> None:
    deploy_id = world.provider.add(identity_of(8))
    with pytest.raises(NotOurs):
        await perform(world, Intent.DESTROY, deploy_id=deploy_id)
    assert world.provider.state(deploy_id) is RUNNING


async def test_an_imported_instance_is_destroyed_like_any_other(world: World) -> None:
    deploy_id = world.provider.add(None)
    await world.journal.record_import(deploy_id, vm_id=identity_of().vm_id, stime=STIME)
    await perform(world, Intent.DESTROY, deploy_id=deploy_id)
    assert world.provider.state(deploy_id) is TERMINATED


async def test_what_was_destroyed_is_parked_no_more_and_its_attempts_are_over(world: World) -> None:
    deploy_id = await perform(world, Intent.CREATE)
    await perform(world, Intent.PARK, deploy_id=deploy_id)
    await perform(world, Intent.DESTROY, deploy_id=deploy_id)
    assert await world.journal.parked() == set()
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE]


async def test_a_second_instance_of_an_unanswered_create_is_destroyed_with_the_first(world: World) -> None:
    deploy_id = await perform(world, Intent.CREATE)
    world.provider.visibility_grace = 60
    twin = world.provider.add(identity_of())
    await world.add_attempt(AttemptState.OPEN, number=2)
    await perform(world, Intent.DESTROY, deploy_id=deploy_id)
    assert [world.provider.state(each) for each in (deploy_id, twin)] == [TERMINATED] * 2


async def test_without_certainty_nothing_is_called_gone(world: World) -> None:
    world.provider.always["find"] = ProviderUnavailable("fake did not answer")
    with pytest.raises(CannotTell, match="cannot tell whether VM 7's instance still exists: fake did not answer"):
        await perform(world, Intent.DESTROY)


async def test_the_deadline_is_kept_while_waiting_for_certainty(world: World) -> None:
    world.provider.visibility_grace = 1000
    await world.add_attempt(AttemptState.OPEN)
    deadline = asyncio.get_running_loop().time() + 300
    with pytest.raises(CannotTell, match="wait 1000 s and try again"):
        await perform_intent(world.work(request_of(), deadline=deadline), Intent.DESTROY)


async def test_a_full_disk_is_no_reason_to_keep_an_instance(world: World) -> None:
    deploy_id = await perform(world, Intent.CREATE)
    with closing(sqlite3.connect(world.journal.path)) as db:
        for table, what in (("attempts", "INSERT"), ("parked", "DELETE"), ("requests", "INSERT")):
            db.execute(
                f"CREATE TRIGGER full_{table} BEFORE {what} ON {table}"
                " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
            )
    world.journal.open_request(action="CLEANUP", vm_id=identity_of().vm_id, is_two_blank=True, payload=b"")
    assert await perform(world, Intent.DESTROY, deploy_id=deploy_id) == "-"
    assert world.provider.state(deploy_id) is TERMINATED
    assert world.told
    assert set(world.told) == {f"the journal cannot be used: database or disk is full ({world.journal.path})"}


@pytest.mark.parametrize("is_listed", [True, False], ids=["terminated", "not-listed-any-more"])
async def test_what_is_destroyed_is_let_go(world: World, *, is_listed: bool) -> None:
    deploy_id = world.provider.add(identity_of(), RUNNING)
    await world.cloud.look_at(deploy_id)
    assert world.cloud.knowledge.shown == {deploy_id}
    if not is_listed:
        del world.provider.instances[deploy_id]
    await perform(world, Intent.DESTROY, deploy_id=deploy_id)
    assert world.cloud.knowledge.shown == set()


async def test_the_request_is_on_disk_before_the_cloud_hears_of_a_destroy(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.always["destroy"] = asyncio.Event()
    world.journal.open_request(action="CLEANUP", vm_id=identity_of().vm_id, is_two_blank=True, payload=b"UEFZ")
    destroying = asyncio.create_task(perform(world, Intent.DESTROY, deploy_id=deploy_id))
    await until(lambda: bool(asked(world)))
    with closing(sqlite3.connect(world.journal.path)) as db:
        assert db.execute("SELECT action FROM requests").fetchall() == [("CLEANUP",)]
    destroying.cancel()
    await pass_time(1)


# What only a create's answer calls the VM's


@pytest.mark.parametrize("whose", SOMEBODY_ELSE, ids=str)
async def test_an_instance_that_the_journal_calls_the_vms_is_not_destroyed_against_its_tags(
    world: World, whose: Identity | None
) -> None:
    theirs = world.provider.add(whose)
    await world.add_attempt(AttemptState.CREATED, deploy_id=theirs)
    with pytest.raises(
        NotOurs, match=f"instance {theirs}, which the cloud's answer calls VM 7's, .*: it is left alone"
    ):
        await perform(world, Intent.DESTROY)
    assert asked(world) == []


async def test_beside_its_own_instance_a_vm_ends_without_the_one_that_an_answer_named(world: World) -> None:
    theirs, own = world.provider.add(identity_of(8)), world.provider.add(identity_of())
    await world.add_attempt(AttemptState.CREATED, deploy_id=theirs)
    assert await perform(world, Intent.DESTROY, deploy_id=own) == "-"
    assert [world.provider.state(each) for each in (theirs, own)] == [RUNNING, TERMINATED]
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE]


@pytest.mark.parametrize("whose", SOMEBODY_ELSE, ids=str)
async def test_a_deploy_fails_whose_create_answers_the_id_of_somebody_elses_instance(
    world: World, monkeypatch: pytest.MonkeyPatch, whose: Identity | None
) -> None:
    world.provider.visibility_grace = 30
    theirs = world.provider.add(whose, STOPPED)
    create = world.provider.create

    async def create_and_misname(call: CreateCall) -> DeployId:
        await create(call)
        return theirs

    monkeypatch.setattr(world.provider, "create", create_and_misname)
    with pytest.raises(NotOurs, match=f"instance {theirs}, which the cloud's answer calls VM 7's"):
        await perform(world, Intent.CREATE)
    assert asked(world) == ["create"], "and it is not started"
    [own] = [each for each in world.provider.alive() if each != theirs]
    assert await perform(world, Intent.CREATE) == own, "which its tags tell"
    assert await perform(world, Intent.DESTROY) == "-"
    assert [world.provider.state(each) for each in (theirs, own)] == [STOPPED, TERMINATED]


async def test_a_new_instance_whose_tags_show_later_is_waited_for(world: World) -> None:
    world.provider.visibility_grace = 30
    deploy = asyncio.create_task(perform(world, Intent.CREATE))
    await until(lambda: bool(world.provider.instances))
    world.provider.instances[DeployId("i-1")].identity = None
    await pass_time(15)
    world.provider.instances[DeployId("i-1")].identity = identity_of()
    assert await deploy == "i-1"


# Reboot


@pytest.mark.parametrize(("is_hard", "call"), [(False, "reboot"), (True, "reboot hard")], ids=["soft", "hard"])
@pytest.mark.parametrize("named", [True, False], ids=["by-id", "by-tags"])
async def test_a_reboot_reaches_the_vms_instance(world: World, call: str, *, is_hard: bool, named: bool) -> None:
    deploy_id = world.provider.add(identity_of())
    request = request_of(deploy_id=deploy_id if named else "")
    assert await reboot(world.work(request), is_hard=is_hard) == "-"
    assert [made for made in world.provider.calls if made[0].startswith("reboot")] == [(call, deploy_id)]


@pytest.mark.parametrize("is_hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("whose", SOMEBODY_ELSE, ids=str)
async def test_a_reboot_never_reaches_somebody_elses_instance(
    world: World, whose: Identity | None, *, is_hard: bool
) -> None:
    deploy_id = world.provider.add(whose)
    with pytest.raises(NotOurs):
        await reboot(world.work(request_of(deploy_id=deploy_id)), is_hard=is_hard)
    assert asked(world) == []


async def test_an_id_that_leads_nowhere_is_looked_up_by_tags(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await reboot(world.work(request_of(deploy_id="i-404")), is_hard=False)
    assert world.provider.calls[-1] == ("reboot", deploy_id)


async def test_an_instance_that_is_not_there_cannot_be_rebooted(world: World) -> None:
    with pytest.raises(InstanceNotFound):
        await reboot(world.work(request_of(deploy_id="i-404")), is_hard=False)
