from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.actions.debts import pay
from one_provider_mad.actions.intents import Intent
from one_provider_mad.actions.lifecycle import perform_intent, reboot
from one_provider_mad.actions.work import Work
from one_provider_mad.domain import DeployId, EarlierHost, Identity, Instance, InstanceState, Template, VmId
from one_provider_mad.errors import (
    BadParameter,
    CannotTell,
    InstanceNotFound,
    NoCapacity,
    NotOurs,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RequestRefused,
    WrongState,
)
from one_provider_mad.journal.records import AttemptState, Recreation
from one_provider_mad.journal.recreations import undertake_interrupted
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.providers.interface import CreateCall, Interruption, Parameters
from one_provider_mad.settings import Policy
from tests.actions.fakes import STIME, AbleCloud, FakeCloud, World, a_world, identity_of, pass_time, request_of, until

pytestmark = pytest.mark.looptime

RUNNING, STOPPED, PENDING = InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.PENDING
STOPPING, SUSPENDED, SUSPENDING = InstanceState.STOPPING, InstanceState.SUSPENDED, InstanceState.SUSPENDING
TERMINATED, TERMINATING, UNKNOWN = InstanceState.TERMINATED, InstanceState.TERMINATING, InstanceState.UNKNOWN

FOREIGN_IDENTITIES = [identity_of(8), identity_of(stime=STIME - 1), identity_of(owner="quay"), None]


@pytest.fixture(params=[FakeCloud], ids=["plain"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    make: Callable[[], FakeCloud] = request.param
    async with a_world(tmp_path, make()) as world:
        yield world


able = pytest.mark.parametrize("world", [AbleCloud], indirect=True, ids=["able"])


async def perform(world: World, intent: Intent, **fields: Any) -> str:
    """Perform the intent within ten minutes, and return the action's output."""
    async with asyncio.timeout(600):
        return await perform_intent(world.work(request_of(**fields)), intent)


def asked(world: World) -> list[str]:
    """All calls to the cloud but lookups."""
    return [name for name, _ in world.provider.calls if name not in ("describe", "find")]


def in_transition(world: World, state: InstanceState, to: InstanceState, *, seconds: float = 5.0) -> DeployId:
    """Add an instance of VM 7 that is in transition to another state."""
    deploy_id = world.provider.add(identity_of(), state)
    world.provider.instances[deploy_id].then = (seconds, to)
    return deploy_id


# Create


async def test_create_returns_the_id_once_the_instance_runs(world: World) -> None:
    deploy_id = await perform(world, Intent.CREATE)
    assert world.provider.state(deploy_id) is RUNNING
    assert asyncio.get_running_loop().time() >= 5


async def test_create_fails_if_the_instance_terminates_and_the_next_deploy_makes_another(world: World) -> None:
    world.provider.first_state = TERMINATED
    with pytest.raises(WrongState, match="instance i-1 is terminated"):
        await perform(world, Intent.CREATE)
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE]
    world.provider.first_state = PENDING
    assert await perform(world, Intent.CREATE) == "i-2"


async def test_create_starts_an_adopted_instance_that_is_stopped(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), STOPPED)
    assert await perform(world, Intent.CREATE) == deploy_id
    assert asked(world) == ["start"]
    assert world.provider.state(deploy_id) is RUNNING


async def test_create_fails_but_keeps_an_adopted_instance_that_cannot_be_started(world: World) -> None:
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
async def test_a_forbidden_attribute_fails_the_deploy_in_any_template_and_case(
    world: World, fields: dict[str, Template]
) -> None:
    world.policy = Policy(forbidden_attributes=("iam_profile", "USERDATA"))
    with pytest.raises(RequestRefused) as caught:
        await perform(world, Intent.CREATE, **fields)
    assert str(caught.value) == "PUBLIC_CLOUD may not set IAM_PROFILE here: remove it from the template"
    assert asked(world) == []


async def test_a_forbidden_attribute_in_the_ec2_section_of_4_x_fails_the_deploy(world: World) -> None:
    world.policy = Policy(forbidden_attributes=("IAM_PROFILE",))
    with pytest.raises(RequestRefused, match=r"^EC2 may not set IAM_PROFILE here"):
        await perform(world, Intent.CREATE, template=Template(values={"EC2": ({"IAM_PROFILE": "admin"},)}))


async def test_the_refusal_names_all_forbidden_attributes(world: World) -> None:
    world.policy = Policy(forbidden_attributes=("B", "A", "C"))
    with pytest.raises(RequestRefused, match="PUBLIC_CLOUD may not set A, B here"):
        await perform(world, Intent.CREATE, user_template=a_section(B="1", A="2", D="3"))


async def test_attributes_that_the_policy_does_not_forbid_are_accepted(world: World) -> None:
    world.policy = Policy(forbidden_attributes=("IAM_PROFILE",))
    await perform(world, Intent.CREATE, user_template=a_section(TYPE="fake"))


@pytest.mark.parametrize("may_import", [True, False])
async def test_an_untagged_instance_is_imported_only_if_the_policy_allows_it(world: World, *, may_import: bool) -> None:
    world.policy = Policy(allow_import=may_import)
    deploy_id = world.provider.add(None)
    if may_import:
        assert await perform(world, Intent.CREATE, deploy_id=deploy_id) == deploy_id
    else:
        with pytest.raises(NotOurs):
            await perform(world, Intent.CREATE, deploy_id=deploy_id)


async def test_create_fails_without_a_public_cloud_section_of_the_required_type(world: World) -> None:
    world.required_type = "fake"
    with pytest.raises(RequestRefused, match=r'^the template has no PUBLIC_CLOUD section with TYPE="fake": add one'):
        await perform(world, Intent.CREATE)
    assert (asked(world), await world.attempts()) == ([], [])
    assert await perform(world, Intent.CREATE, user_template=a_section(TYPE="fake")) == "i-1"


async def test_an_existing_instance_is_adopted_and_started_without_a_public_cloud_section(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), STOPPED)
    world.required_type = "fake"
    assert await perform(world, Intent.CREATE) == deploy_id
    world.provider.instances[deploy_id].state = STOPPED
    assert await perform(world, Intent.START, deploy_id=deploy_id) == deploy_id


async def test_an_unanswered_create_is_repeated_without_a_public_cloud_section(world: World) -> None:
    await world.add_attempt(AttemptState.OPEN)
    world.required_type = "fake"
    assert await perform(world, Intent.CREATE) == "i-1"


async def test_an_instance_is_imported_without_a_public_cloud_section(world: World) -> None:
    world.policy, world.required_type = Policy(allow_import=True), "fake"
    deploy_id = world.provider.add(None)
    assert await perform(world, Intent.CREATE, deploy_id=deploy_id) == deploy_id


async def test_a_new_attempt_after_a_refused_one_needs_a_public_cloud_section(world: World) -> None:
    await world.add_attempt(AttemptState.REFUSED)
    world.required_type = "fake"
    with pytest.raises(RequestRefused, match="the template has no PUBLIC_CLOUD section"):
        await perform(world, Intent.CREATE)
    assert asked(world) == []


# Start


@pytest.mark.parametrize("state", [STOPPED, SUSPENDED])
async def test_start_returns_the_same_id_once_the_instance_runs(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await perform(world, Intent.START, deploy_id=deploy_id, seq=3) == deploy_id
    assert asked(world) == ["start"]
    assert world.provider.state(deploy_id) is RUNNING


async def test_a_running_instance_is_not_started_again(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    assert await perform(world, Intent.START, deploy_id=deploy_id) == deploy_id
    assert asked(world) == []


async def test_start_waits_for_an_instance_that_is_starting(world: World) -> None:
    deploy_id = in_transition(world, PENDING, RUNNING)
    assert await perform(world, Intent.START, deploy_id=deploy_id) == deploy_id
    assert asked(world) == []
    assert world.provider.state(deploy_id) is RUNNING


@pytest.mark.parametrize(("state", "to"), [(STOPPING, STOPPED), (SUSPENDING, SUSPENDED)])
async def test_start_waits_for_an_instance_that_is_still_stopping_and_starts_it(
    world: World, state: InstanceState, to: InstanceState
) -> None:
    deploy_id = in_transition(world, state, to)
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
async def test_start_of_a_terminated_instance_fails_and_names_the_recreate_command(
    world: World, lcm_state: int, remedy: str
) -> None:
    deploy_id = world.provider.add(identity_of(), TERMINATED)
    with pytest.raises(WrongState) as caught:
        await perform(world, Intent.START, deploy_id=deploy_id, lcm_state=lcm_state)
    expected = f"instance {deploy_id} is terminated for good: onevm recover --recreate makes a new one{remedy}"
    assert str(caught.value) == expected


@pytest.mark.parametrize("state", [TERMINATED, TERMINATING])
async def test_start_of_a_terminated_instance_fails_and_creates_nothing(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    with pytest.raises(WrongState) as caught:
        await perform(world, Intent.START, deploy_id=deploy_id)
    assert str(caught.value).startswith(f"instance {deploy_id} is {state.value} for good: ")
    assert asked(world) == []


@pytest.mark.parametrize("named", ["", "i-404"])
async def test_start_of_a_missing_instance_fails_and_creates_nothing(world: World, named: str) -> None:
    with pytest.raises(InstanceNotFound):
        await perform(world, Intent.START, deploy_id=named)
    assert asked(world) == []


async def test_start_on_another_host_updates_the_host_in_the_tags(world: World) -> None:
    deploy_id = world.provider.add(identity_of(seq=2, host_id=3), STOPPED)
    await perform(world, Intent.START, deploy_id=deploy_id, host_id=9, seq=4)
    assert world.provider.identity(deploy_id) == identity_of(seq=2, host_id=9), "the SEQ of the create stays"
    assert asked(world) == ["retag", "start"]


@pytest.mark.parametrize("host_id", [3, -1], ids=["same", "unknown"])
async def test_start_on_the_same_or_an_unknown_host_keeps_the_tags(world: World, host_id: int) -> None:
    deploy_id = world.provider.add(identity_of(host_id=3), STOPPED)
    await perform(world, Intent.START, deploy_id=deploy_id, host_id=host_id)
    assert asked(world) == ["start"]


async def test_start_does_not_tag_an_imported_instance_without_tags(world: World) -> None:
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
        pytest.param(Intent.SUSPEND, "stop", False, id="suspend-without-saving-memory"),
    ],
)
async def test_each_stop_returns_once_the_instance_is_stopped(
    world: World, intent: Intent, call: str, *, is_parked: bool
) -> None:
    deploy_id = world.provider.add(identity_of())
    assert await perform(world, intent, deploy_id=deploy_id) == "-"
    assert asked(world) == [call]
    assert world.provider.state(deploy_id) is STOPPED
    assert await world.journal.parked() == ({deploy_id} if is_parked else set())


@pytest.mark.parametrize("intent", [Intent.STOP, Intent.STOP_HARD, Intent.SUSPEND])
async def test_a_power_off_or_suspend_clears_the_parked_mark(world: World, intent: Intent) -> None:
    deploy_id = world.provider.add(identity_of())
    await world.journal.park(deploy_id, VmId(7))
    await perform_intent(world.work(request_of(deploy_id=deploy_id)), intent)
    assert await world.journal.parked() == set()


@pytest.mark.parametrize("what", ["describe", "stop"])
async def test_a_repeated_undeploy_that_fails_keeps_the_parked_mark_only_if_the_instance_is_stopped(
    world: World, what: str
) -> None:
    """The dead process stopped, marked and answered; or the instance was started since."""
    is_stopped = what == "describe"
    deploy_id = world.provider.add(identity_of(), InstanceState.STOPPED if is_stopped else InstanceState.RUNNING)
    await world.journal.park(deploy_id, VmId(7))
    world.provider.before[what].append(ProviderUnavailable("an outage"))
    with pytest.raises(ProviderUnavailable):
        await perform_intent(world.work(request_of(deploy_id=deploy_id, lcm_state=29)), Intent.PARK)
    assert await world.journal.parked() == ({deploy_id} if is_stopped else set())


AT_HOME = EarlierHost(name="h-0", driver="kvm", datastore_id=100)


def work_of_one_from(world: World, host: EarlierHost | None, lcm_state: int) -> Work:
    """The work of an action of a VM that has no instance, and was on this host before."""

    async def earlier_host(_: VmId) -> EarlierHost | None:
        return host

    request = request_of(deploy_id="h-0:one-7:kvm", lcm_state=lcm_state, seq=1)
    return msgspec.structs.replace(world.work(request), earlier_host=earlier_host)


@pytest.mark.parametrize(
    ("lcm_state", "sentence"),
    [
        pytest.param(
            32,
            "VM 7 was undeployed on host h-0 of driver kvm, where its disk is, and has no instance in this cloud: bring"
            " it back with onevm recover --success 7, onevm undeploy --hard 7 and onevm deploy 7 h-0 100",
            id="undeployed",
        ),
        pytest.param(
            22,
            "VM 7 was stopped on host h-0 of driver kvm, where its disk is, and has no instance in this cloud: bring it"
            " back with onevm recover --success 7, onevm stop 7 and onevm deploy 7 h-0 100",
            id="stopped",
        ),
        pytest.param(
            20,
            "VM 7 was undeployed on host h-0 of driver kvm, where its disk is, and has no instance in this cloud: bring"
            " it back with onevm undeploy --hard 7 and onevm deploy 7 h-0 100",
            id="recovered-and-powered-off",
        ),
    ],
)
async def test_a_resume_of_a_vm_from_elsewhere_names_the_host_with_its_disk(
    world: World, lcm_state: int, sentence: str
) -> None:
    with pytest.raises(InstanceNotFound) as caught:
        await perform_intent(work_of_one_from(world, AT_HOME, lcm_state), Intent.START)
    assert str(caught.value) == sentence
    assert asked(world) == []


@pytest.mark.parametrize("intent", [Intent.PARK, Intent.PARK_HARD])
async def test_a_vm_from_elsewhere_can_be_undeployed_again(world: World, intent: Intent) -> None:
    assert await perform_intent(work_of_one_from(world, AT_HOME, 29), intent) == "-"
    assert world.warnings == ["VM 7 has no instance in this cloud, its disk is on host h-0"]
    assert await world.journal.parked() == set()


async def test_a_vm_that_this_cloud_had_no_room_for_before_it_went_home_is_one_from_elsewhere(world: World) -> None:
    await world.add_attempt(AttemptState.REFUSED)
    with pytest.raises(InstanceNotFound, match=r"onevm deploy 7 h-0 100$"):
        await perform_intent(work_of_one_from(world, AT_HOME, 32), Intent.START)
    assert await perform_intent(work_of_one_from(world, AT_HOME, 29), Intent.PARK_HARD) == "-"


@pytest.mark.parametrize("intent", [Intent.START, Intent.PARK])
@pytest.mark.parametrize("host", [AT_HOME, None], ids=["lost-instance", "core-does-not-say"])
async def test_a_vm_whose_instance_is_lost_is_not_taken_for_one_from_elsewhere(
    world: World, intent: Intent, host: EarlierHost | None
) -> None:
    if host is not None:
        del world.provider.instances[DeployId(await perform(world, Intent.CREATE))]
        await pass_time(world.provider.visibility_grace + 1)
    with pytest.raises(InstanceNotFound, match=r"^instance h-0:one-7:kvm of VM 7 does not exist$"):
        await perform_intent(work_of_one_from(world, host, 32), intent)


async def test_a_power_off_of_a_vm_from_elsewhere_fails_since_nothing_is_off_afterwards(world: World) -> None:
    with pytest.raises(InstanceNotFound):
        await perform_intent(work_of_one_from(world, AT_HOME, 18), Intent.STOP)


async def test_start_clears_the_parked_mark(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await perform(world, Intent.PARK, deploy_id=deploy_id)
    await perform(world, Intent.START, deploy_id=deploy_id)
    assert await world.journal.parked() == set()


async def test_a_failed_undeploy_leaves_no_parked_mark(world: World) -> None:
    """OpenNebula sets the VM to RUNNING then, and to POWEROFF if a report lacked it."""
    deploy_id = world.provider.add(identity_of())
    world.provider.before["stop"].append(PermissionDenied("stopping is not allowed"))
    with pytest.raises(PermissionDenied):
        await perform(world, Intent.PARK, deploy_id=deploy_id)
    assert await world.journal.parked() == set()


@pytest.mark.parametrize("state", [STOPPED, SUSPENDED])
@pytest.mark.parametrize("intent", [Intent.STOP, Intent.STOP_HARD, Intent.SUSPEND])
async def test_a_stopped_or_suspended_instance_is_not_stopped_again(
    world: World, state: InstanceState, intent: Intent
) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await perform(world, intent, deploy_id=deploy_id) == "-"
    assert asked(world) == []


async def test_stop_waits_for_an_instance_that_is_starting(world: World) -> None:
    deploy_id = in_transition(world, PENDING, RUNNING)
    assert await perform(world, Intent.STOP, deploy_id=deploy_id) == "-"
    assert world.provider.state(deploy_id) is STOPPED


async def test_stop_is_called_on_an_instance_in_an_unknown_state(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), UNKNOWN)
    assert await perform(world, Intent.STOP, deploy_id=deploy_id) == "-"
    assert asked(world) == ["stop"]


async def test_stop_waits_for_a_stop_under_way_and_does_not_repeat_it(world: World) -> None:
    deploy_id = in_transition(world, STOPPING, STOPPED)
    assert await perform(world, Intent.STOP, deploy_id=deploy_id) == "-"
    assert asked(world) == []


async def test_power_off_hard_cuts_a_hanging_power_off_short(world: World) -> None:
    """`recover --retry` of a power off that hangs in the guest sends CANCEL."""
    deploy_id = in_transition(world, STOPPING, STOPPED, seconds=100_000)
    assert await perform(world, Intent.STOP_HARD, deploy_id=deploy_id) == "-"
    assert asked(world) == ["stop hard"]


@pytest.mark.parametrize("intent", [Intent.STOP, Intent.PARK, Intent.SUSPEND])
async def test_stop_of_a_terminated_instance_fails(world: World, intent: Intent) -> None:
    deploy_id = world.provider.add(identity_of(), TERMINATED)
    with pytest.raises(WrongState, match=f"instance {deploy_id} is terminated"):
        await perform(world, intent, deploy_id=deploy_id)
    assert await world.journal.parked() == set()


async def test_stop_fails_if_the_instance_terminates_meanwhile(world: World) -> None:
    deploy_id = in_transition(world, STOPPING, TERMINATED)
    with pytest.raises(WrongState, match=f"instance {deploy_id} is terminated"):
        await perform(world, Intent.STOP, deploy_id=deploy_id)


# Suspend


class CrampedCloud(FakeCloud):
    """Pretends to be a cloud that accepts a create without capacity, and then terminates the instance with a reason."""

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

    def lacked_capacity(self, instance: Instance, parameters: Parameters) -> bool:
        return instance.reason == "no room" and parameters["size"] in self.short


cramped = pytest.mark.parametrize("world", [CrampedCloud], indirect=True, ids=["cramped"])


@cramped
@pytest.mark.parametrize("end", [TERMINATED, TERMINATING, UNKNOWN])
async def test_after_an_instance_ends_for_lack_of_capacity_the_next_alternative_is_created(
    world: World, end: InstanceState
) -> None:
    assert isinstance(world.provider, CrampedCloud)
    world.provider.end, world.provider.warnings = end, ("an unknown attribute",)
    world.provider.before["create"].append(NoCapacity("none small either"))
    world.provider.short = {"medium"}
    assert await perform(world, Intent.CREATE) == "i-2"
    sizes = [attempt.parameters["size"] for attempt in await world.attempts()]
    assert sizes == ["small", "medium", "large"], "each alternative once"
    assert world.warnings == [
        "an unknown attribute",
        "none small either",
        f"instance i-1 is {end.value}: no room",
    ]
    [debt] = await world.journal.debts()
    assert (debt.deploy_id, debt.reason) == (
        "i-1",
        f"the cloud had no capacity for it: instance i-1 is {end.value}: no room",
    )
    if end is not TERMINATING:  # nothing ends it in this cloud
        await pay(world.engine(), debt, clock=world.clock)
        assert world.provider.alive() == ["i-2"]


@cramped
async def test_create_fails_if_the_instances_of_all_alternatives_end_for_lack_of_capacity(world: World) -> None:
    assert isinstance(world.provider, CrampedCloud)
    world.provider.short = {"small", "medium", "large"}
    with pytest.raises(NoCapacity, match="instance i-3 is terminated: no room"):
        await perform(world, Intent.CREATE)
    assert [debt.deploy_id for debt in await world.journal.debts()] == ["i-1", "i-2", "i-3"]
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE] * 3


@cramped
async def test_create_fails_if_the_instance_ends_for_another_reason_than_capacity(world: World) -> None:
    assert isinstance(world.provider, CrampedCloud)
    world.provider.reason = "the image is damaged"
    with pytest.raises(WrongState, match="instance i-1 is terminated: the image is damaged"):
        await perform(world, Intent.CREATE)
    assert (world.provider.count("create"), await world.journal.debts()) == (1, [])


# VMs that may be recreated

CLEANUP_RESUBMIT, CLEANUP_DELETE = 15, 23


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(NoCapacity("no room"), "no room", id="no-room"),
        pytest.param(QuotaExceeded("8 instances at most"), "8 instances at most", id="quota"),
        pytest.param(BadParameter("no such image"), None, id="wrong-template"),
        pytest.param(PermissionDenied("not allowed"), None, id="no-right"),
        pytest.param(ProviderUnavailable("no answer"), None, id="no-answer"),
    ],
)
async def test_a_vm_is_marked_when_it_was_refused_for_want_of_room_alone(
    world: World, error: ProviderError, reason: str | None
) -> None:
    world.provider.always["create"] = error
    with pytest.raises(type(error)):
        await perform(world, Intent.CREATE, seq=4)
    record = await world.journal.recreation(VmId(7))
    expected = (
        None if reason is None else Recreation(vm_id=VmId(7), stime=STIME, seq=4, at=world.clock(), reason=reason)
    )
    assert record == expected


@pytest.mark.parametrize(
    ("intent", "fields", "kept"),
    [
        pytest.param(Intent.CREATE, {"seq": 1}, [], id="it-runs"),
        pytest.param(Intent.DESTROY, {"lcm_state": CLEANUP_DELETE}, [], id="it-ends"),
        pytest.param(Intent.DESTROY, {"lcm_state": CLEANUP_RESUBMIT}, ["no room"], id="it-is-recreated"),
    ],
)
async def test_the_mark_goes_when_the_vm_runs_or_ends(
    world: World, intent: Intent, fields: dict[str, Any], kept: list[str]
) -> None:
    await world.journal.note_refused_vm(identity_of(), "no room")
    await perform(world, intent, **fields)
    record = await world.journal.recreation(VmId(7))
    assert ([record.reason] if record else []) == kept


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        pytest.param(NoCapacity("still no room"), ["still no room"], id="no-room"),
        pytest.param(PermissionDenied("not allowed"), [], id="another-reason"),
    ],
)
async def test_the_mark_goes_when_a_repeated_deploy_fails_for_another_reason(
    world: World, error: ProviderError, kept: list[str]
) -> None:
    await world.journal.note_refused_vm(identity_of(), "no room")
    world.provider.always["create"] = error
    with pytest.raises(type(error)):
        await perform(world, Intent.CREATE, seq=1)
    record = await world.journal.recreation(VmId(7))
    assert ([record.reason] if record else []) == kept


class SpotCloud(FakeCloud):
    """A cloud that may take small instances back."""

    def __init__(self) -> None:
        super().__init__()
        self.alternatives = ({"size": "small"}, {"size": "large"})

    def interruption(self, instance: Instance) -> Interruption | None:
        return None

    def lasting(self, alternatives: Sequence[Parameters]) -> Sequence[Parameters]:
        return [each for each in alternatives if each["size"] != "small"] or alternatives


@pytest.mark.parametrize("world", [SpotCloud], indirect=True, ids=["spot"])
@pytest.mark.parametrize(
    ("stime", "alternatives", "size"),
    [
        pytest.param(STIME, None, "large", id="interrupted"),
        pytest.param(STIME, ({"size": "small"},), "small", id="interrupted-without-another"),
        pytest.param(STIME - 1, None, "small", id="another-life"),
        pytest.param(None, None, "small", id="never-interrupted"),
    ],
)
async def test_after_an_interruption_an_instance_is_created_that_lasts(
    world: World, stime: int | None, alternatives: tuple[Parameters, ...] | None, size: str
) -> None:
    world.provider.alternatives = alternatives or world.provider.alternatives
    if stime is not None:
        who = identity_of(stime=stime)
        assert undertake_interrupted(world.journal.path, who, at=1.0, reason="taken back", now=world.clock())
    deploy_id = await perform(world, Intent.CREATE, seq=1)
    assert world.provider.instances[DeployId(deploy_id)].parameters["size"] == size


@able
@pytest.mark.parametrize("state", [RUNNING, UNKNOWN])
async def test_suspend_calls_suspend_in_a_cloud_that_supports_it(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await perform(world, Intent.SUSPEND, deploy_id=deploy_id) == "-"
    assert asked(world) == ["suspend"]
    assert world.provider.state(deploy_id) is SUSPENDED


@able
async def test_suspend_waits_for_an_instance_that_is_starting(world: World) -> None:
    deploy_id = in_transition(world, PENDING, RUNNING)
    await perform(world, Intent.SUSPEND, deploy_id=deploy_id)
    assert asked(world) == ["suspend"]


@able
@pytest.mark.parametrize("state", [STOPPED, SUSPENDED])
async def test_a_stopped_or_suspended_instance_is_not_suspended_again(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await perform(world, Intent.SUSPEND, deploy_id=deploy_id) == "-"
    assert asked(world) == []


# Destroy


@pytest.mark.parametrize("state", [RUNNING, STOPPED, SUSPENDED, PENDING, UNKNOWN, STOPPING])
async def test_destroy_returns_once_the_instance_is_terminated(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await perform(world, Intent.DESTROY, deploy_id=deploy_id) == "-"
    assert asked(world) == ["destroy"]
    assert world.provider.state(deploy_id) is TERMINATED


async def test_destroy_succeeds_if_the_instance_is_gone_already(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), TERMINATED)
    assert await perform(world, Intent.DESTROY, deploy_id=deploy_id) == "-"
    assert await perform(world, Intent.DESTROY) == "-"
    assert asked(world) == []


async def test_destroy_waits_for_a_terminating_instance_and_does_not_repeat_the_call(world: World) -> None:
    deploy_id = in_transition(world, TERMINATING, TERMINATED)
    assert await perform(world, Intent.DESTROY, deploy_id=deploy_id) == "-"
    assert asked(world) == []
    assert world.provider.state(deploy_id) is TERMINATED


async def test_destroy_without_a_deploy_id_terminates_only_the_instances_of_this_vm(world: World) -> None:
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


async def test_destroy_succeeds_if_the_instance_vanishes_after_its_lookup(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.before["destroy"].append(InstanceNotFound("no such instance"))
    destroying = asyncio.create_task(perform(world, Intent.DESTROY, deploy_id=deploy_id))
    await until(lambda: bool(asked(world)))
    world.provider.instances.clear()
    assert await destroying == "-"


async def test_destroy_does_not_terminate_a_named_instance_of_another_vm(world: World) -> None:
    deploy_id = world.provider.add(identity_of(8))
    with pytest.raises(NotOurs):
        await perform(world, Intent.DESTROY, deploy_id=deploy_id)
    assert world.provider.state(deploy_id) is RUNNING


async def test_destroy_terminates_an_imported_instance_without_tags(world: World) -> None:
    deploy_id = world.provider.add(None)
    await world.journal.record_import(deploy_id, vm_id=identity_of().vm_id, stime=STIME)
    await perform(world, Intent.DESTROY, deploy_id=deploy_id)
    assert world.provider.state(deploy_id) is TERMINATED


async def test_destroy_clears_the_parked_mark_and_closes_the_attempts(world: World) -> None:
    deploy_id = await perform(world, Intent.CREATE)
    await perform(world, Intent.PARK, deploy_id=deploy_id)
    await perform(world, Intent.DESTROY, deploy_id=deploy_id)
    assert await world.journal.parked() == set()
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE]


async def test_destroy_terminates_a_second_instance_of_an_unanswered_create_too(world: World) -> None:
    deploy_id = await perform(world, Intent.CREATE)
    world.provider.visibility_grace = 60
    second = world.provider.add(identity_of())
    await world.add_attempt(AttemptState.OPEN, number=2)
    await perform(world, Intent.DESTROY, deploy_id=deploy_id)
    assert [world.provider.state(each) for each in (deploy_id, second)] == [TERMINATED] * 2


async def test_destroy_fails_if_the_lookup_by_tags_fails(world: World) -> None:
    world.provider.always["find"] = ProviderUnavailable("fake did not answer")
    with pytest.raises(CannotTell, match="cannot tell whether VM 7's instance still exists: fake did not answer"):
        await perform(world, Intent.DESTROY)


async def test_destroy_fails_if_the_visibility_grace_exceeds_the_deadline(world: World) -> None:
    world.provider.visibility_grace = 1000
    await world.add_attempt(AttemptState.OPEN)
    deadline = asyncio.get_running_loop().time() + 300
    with pytest.raises(CannotTell, match="wait 1000 s and try again"):
        await perform_intent(world.work(request_of(), deadline=deadline), Intent.DESTROY)


async def test_destroy_terminates_the_instance_although_the_disk_is_full(world: World) -> None:
    deploy_id = await perform(world, Intent.CREATE)
    with closing(sqlite3.connect(world.journal.path)) as db:
        for table, what in (("attempts", "INSERT"), ("parked", "DELETE"), ("requests", "INSERT")):
            db.execute(
                f"CREATE TRIGGER full_{table} BEFORE {what} ON {table}"
                " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
            )
    world.journal.open_request(action="CLEANUP", vm_id=identity_of().vm_id, dialect=Dialect.SINCE_6_0, payload=b"")
    assert await perform(world, Intent.DESTROY, deploy_id=deploy_id) == "-"
    assert world.provider.state(deploy_id) is TERMINATED
    assert world.warnings
    assert set(world.warnings) == {f"the journal cannot be used: database or disk is full ({world.journal.path})"}


@pytest.mark.parametrize("is_listed", [True, False], ids=["terminated", "not-listed-any-more"])
async def test_destroy_removes_the_instance_from_those_known_to_be_visible(world: World, *, is_listed: bool) -> None:
    deploy_id = world.provider.add(identity_of(), RUNNING)
    await world.cloud.lookup_one(deploy_id)
    assert world.cloud.knowledge.shown == {deploy_id}
    if not is_listed:
        del world.provider.instances[deploy_id]
    await perform(world, Intent.DESTROY, deploy_id=deploy_id)
    assert world.cloud.knowledge.shown == set()


async def test_the_request_is_journaled_before_destroy_is_called(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.always["destroy"] = asyncio.Event()
    world.journal.open_request(action="CLEANUP", vm_id=identity_of().vm_id, dialect=Dialect.SINCE_6_0, payload=b"UEFZ")
    destroying = asyncio.create_task(perform(world, Intent.DESTROY, deploy_id=deploy_id))
    await until(lambda: bool(asked(world)))
    with closing(sqlite3.connect(world.journal.path)) as db:
        assert db.execute("SELECT action FROM requests").fetchall() == [("CLEANUP",)]
    destroying.cancel()
    await pass_time(1)


# Instances known only from the answer to a create


@pytest.mark.parametrize("foreign", FOREIGN_IDENTITIES, ids=str)
async def test_destroy_leaves_a_journaled_instance_whose_tags_name_another_vm(
    world: World, foreign: Identity | None
) -> None:
    theirs = world.provider.add(foreign)
    await world.add_attempt(AttemptState.CREATED, deploy_id=theirs)
    with pytest.raises(
        NotOurs, match=f"instance {theirs}, which the cloud's answer calls VM 7's, .*: it is left alone"
    ):
        await perform(world, Intent.DESTROY)
    assert asked(world) == []


async def test_destroy_terminates_the_tagged_instance_and_leaves_a_wrongly_journaled_one(world: World) -> None:
    theirs, own = world.provider.add(identity_of(8)), world.provider.add(identity_of())
    await world.add_attempt(AttemptState.CREATED, deploy_id=theirs)
    assert await perform(world, Intent.DESTROY, deploy_id=own) == "-"
    assert [world.provider.state(each) for each in (theirs, own)] == [RUNNING, TERMINATED]
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE]


@pytest.mark.parametrize("foreign", FOREIGN_IDENTITIES, ids=str)
async def test_create_fails_if_the_cloud_returns_the_id_of_a_foreign_instance(
    world: World, monkeypatch: pytest.MonkeyPatch, foreign: Identity | None
) -> None:
    world.provider.visibility_grace = 30
    theirs = world.provider.add(foreign, STOPPED)
    create = world.provider.create

    async def create_and_misname(call: CreateCall) -> DeployId:
        await create(call)
        return theirs

    monkeypatch.setattr(world.provider, "create", create_and_misname)
    with pytest.raises(NotOurs, match=f"instance {theirs}, which the cloud's answer calls VM 7's"):
        await perform(world, Intent.CREATE)
    assert asked(world) == ["create"], "and it is not started"
    [own] = [each for each in world.provider.alive() if each != theirs]
    assert await perform(world, Intent.CREATE) == own, "found by its tags"
    assert await perform(world, Intent.DESTROY) == "-"
    assert [world.provider.state(each) for each in (theirs, own)] == [STOPPED, TERMINATED]


async def test_create_waits_for_the_tags_of_a_new_instance(world: World) -> None:
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
async def test_reboot_is_called_on_the_vms_instance(world: World, call: str, *, is_hard: bool, named: bool) -> None:
    deploy_id = world.provider.add(identity_of())
    request = request_of(deploy_id=deploy_id if named else "")
    assert await reboot(world.work(request), is_hard=is_hard) == "-"
    assert [made for made in world.provider.calls if made[0].startswith("reboot")] == [(call, deploy_id)]


@pytest.mark.parametrize("is_hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("foreign", FOREIGN_IDENTITIES, ids=str)
async def test_reboot_is_never_called_on_a_foreign_instance(
    world: World, foreign: Identity | None, *, is_hard: bool
) -> None:
    deploy_id = world.provider.add(foreign)
    with pytest.raises(NotOurs):
        await reboot(world.work(request_of(deploy_id=deploy_id)), is_hard=is_hard)
    assert asked(world) == []


async def test_reboot_finds_the_instance_by_tags_if_its_id_is_unknown(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await reboot(world.work(request_of(deploy_id="i-404")), is_hard=False)
    assert world.provider.calls[-1] == ("reboot", deploy_id)


async def test_reboot_of_a_missing_instance_fails(world: World) -> None:
    with pytest.raises(InstanceNotFound):
        await reboot(world.work(request_of(deploy_id="i-404")), is_hard=False)
