from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, VmRequest
from one_provider_mad.errors import (
    AmbiguousInstance,
    AuthenticationRefused,
    BadParameter,
    CannotTell,
    InstanceNotFound,
    JournalError,
    NoCapacity,
    NotOurs,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    Throttled,
    TokenMismatch,
    TokenSpent,
)
from one_provider_mad.journal.reader import read_outline
from one_provider_mad.journal.records import Attempt, AttemptState, Debt
from one_provider_mad.ownership.adoption import adopt
from one_provider_mad.ownership.creating import Creation, Order
from one_provider_mad.ownership.debt_scope import covers_attempt, covers_instance
from one_provider_mad.providers.interface import CreateCall
from tests.actions.fakes import STIME, World, a_world, identity_of, pass_time, request_of, turns, until

pytestmark = pytest.mark.looptime


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


async def adopt_or_create(world: World, *, may_import: bool = False, **fields: Any) -> DeployId:
    request = request_of(**fields)
    vm, order = world.vm(request), Order(request=request)
    adopted = await adopt(vm, may_import=may_import, leads_since=None)
    return adopted or await Creation(vm=vm, order=order).create()


def sent(world: World) -> list[CreateCall]:
    return [call for name, call in world.provider.calls if name == "create"]


async def states(world: World) -> list[AttemptState]:
    return [attempt.state for attempt in await world.attempts()]


async def debts(world: World) -> list[str]:
    return [debt.deploy_id for debt in await world.journal.debts()]


# Creating


async def test_create_sets_the_identity_tags_in_the_same_call(world: World) -> None:
    deploy_id = await adopt_or_create(world, seq=4, host_id=9)
    [call] = sent(world)
    assert call.identity == identity_of(seq=4, host_id=9)
    assert world.provider.identity(deploy_id) == identity_of(seq=4, host_id=9)
    assert call.parameters == {"size": "small"}


async def test_the_attempt_is_journaled_before_the_create_is_sent(world: World) -> None:
    is_answered = asyncio.Event()
    world.provider.before["create"].append(is_answered)
    creating = asyncio.create_task(adopt_or_create(world))
    await until(lambda: bool(sent(world)))
    [attempt] = await world.attempts()
    [call] = sent(world)
    assert (attempt.token, attempt.identity, attempt.parameters) == (call.token, call.identity, call.parameters)
    assert (attempt.state, attempt.deploy_id, attempt.number) == (AttemptState.OPEN, "", 1)
    assert abs(attempt.sent_at - world.clock()) < 5
    is_answered.set()
    deploy_id = await creating
    [attempt] = await world.attempts()
    assert (attempt.state, attempt.deploy_id) == (AttemptState.CREATED, deploy_id)


async def test_no_instance_is_created_if_the_journal_cannot_be_written(world: World) -> None:
    with closing(sqlite3.connect(world.journal.path)) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with pytest.raises(JournalError, match="disk is full"):
        await adopt_or_create(world)
    assert sent(world) == []


async def test_warnings_of_the_create_plan_are_passed_to_the_action(world: World) -> None:
    world.provider.warnings = ("an unknown attribute",)
    await adopt_or_create(world)
    assert world.warnings == ["an unknown attribute"]


async def test_a_failed_plan_leaves_no_attempt_and_no_create(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_request: VmRequest) -> None:
        raise BadParameter("there is no size huge")

    monkeypatch.setattr(world.provider, "plan", refuse)
    with pytest.raises(BadParameter, match="there is no size huge"):
        await adopt_or_create(world)
    assert (sent(world), await world.attempts()) == ([], [])


async def test_the_next_alternative_is_tried_after_a_lack_of_capacity(world: World) -> None:
    world.provider.alternatives = ({"size": "small"}, {"size": "medium"}, {"size": "large"})
    world.provider.before["create"].extend([NoCapacity("no room for small"), NoCapacity("no room for medium")])
    deploy_id = await adopt_or_create(world)
    assert world.provider.instances[deploy_id].parameters == {"size": "large"}
    assert [(attempt.number, attempt.state, attempt.detail) for attempt in await world.attempts()] == [
        (1, AttemptState.REFUSED, "no room for small"),
        (2, AttemptState.REFUSED, "no room for medium"),
        (3, AttemptState.CREATED, ""),
    ]
    assert len({call.token for call in sent(world)}) == 3, "each one has a token of its own"
    assert world.warnings == ["no room for small", "no room for medium"]


async def test_the_last_refusal_is_raised_if_no_alternative_has_capacity(world: World) -> None:
    world.provider.alternatives = ({"size": "small"}, {"size": "medium"})
    world.provider.before["create"].extend([NoCapacity("no room for small"), NoCapacity("no room for medium")])
    with pytest.raises(NoCapacity, match="no room for medium"):
        await adopt_or_create(world)
    assert await states(world) == [AttemptState.REFUSED, AttemptState.REFUSED]


@pytest.mark.parametrize("error", [QuotaExceeded("no more"), BadParameter("no"), PermissionDenied("no")])
async def test_no_further_alternative_is_tried_after_other_refusals(world: World, error: ProviderError) -> None:
    world.provider.alternatives = ({"size": "small"}, {"size": "medium"})
    world.provider.before["create"].append(error)
    with pytest.raises(type(error)):
        await adopt_or_create(world)
    assert len(sent(world)) == 1
    assert await states(world) == [AttemptState.REFUSED]


@pytest.mark.parametrize(
    ("error", "is_limit", "is_general"),
    [
        (QuotaExceeded("no more", is_general=True), True, True),
        (QuotaExceeded("no more of this family"), True, False),
        (NoCapacity("no room"), False, False),
    ],
    ids=["general-limit", "specific-limit", "no-capacity"],
)
async def test_a_capacity_or_quota_refusal_is_recorded_for_the_host_report(
    world: World, error: ProviderError, *, is_limit: bool, is_general: bool
) -> None:
    world.provider.before["create"].append(error)
    with pytest.raises(type(error)):
        await adopt_or_create(world)
    noted = read_outline(world.journal.path, since=0).refusal
    assert noted is not None
    assert (noted.text, noted.vm_id, noted.is_limit, noted.is_general) == (str(error), 7, is_limit, is_general)
    assert abs(noted.at - world.clock()) < 5


async def test_a_bad_parameter_is_not_recorded_for_the_host_report(world: World) -> None:
    world.provider.before["create"].append(BadParameter("no such image"))
    with pytest.raises(BadParameter):
        await adopt_or_create(world)
    assert read_outline(world.journal.path, since=0).refusal is None


async def test_a_spent_token_leads_to_a_new_attempt(world: World) -> None:
    world.provider.before["create"].append(TokenSpent("the token made i-0, which is terminated"))
    await adopt_or_create(world)
    assert [call.parameters for call in sent(world)] == [{"size": "small"}] * 2
    assert await states(world) == [AttemptState.GONE, AttemptState.CREATED]
    assert world.warnings == ["the token made i-0, which is terminated: a new attempt is made"]


async def test_deploy_fails_after_eleven_spent_tokens(world: World) -> None:
    world.provider.before["create"].extend(TokenSpent("spent") for _ in range(100))
    with pytest.raises(TokenSpent):
        await adopt_or_create(world)
    assert len(sent(world)) == 11


async def test_the_deploy_after_a_refusal_opens_a_new_attempt(world: World) -> None:
    world.provider.before["create"].append(QuotaExceeded("no more"))
    with pytest.raises(QuotaExceeded):
        await adopt_or_create(world)
    world.provider.alternatives = ({"size": "tiny"},)
    deploy_id = await adopt_or_create(world)
    assert world.provider.instances[deploy_id].parameters == {"size": "tiny"}
    assert [attempt.number for attempt in await world.attempts()] == [1, 2]


async def test_an_unanswered_create_leaves_its_attempt_open(world: World) -> None:
    world.provider.after["create"].append(ProviderUnavailable("no answer"))
    with pytest.raises(ProviderUnavailable):
        await adopt_or_create(world)
    assert await states(world) == [AttemptState.OPEN]
    assert len(world.provider.alive()) == 1


async def test_the_create_of_a_cancelled_deploy_is_still_recorded_when_answered(world: World) -> None:
    is_answered = asyncio.Event()
    world.provider.before["create"].append(is_answered)
    creating = asyncio.create_task(adopt_or_create(world))
    await until(lambda: bool(sent(world)))
    creating.cancel()
    await turns()
    is_answered.set()
    await until(lambda: bool(world.provider.instances))
    await pass_time(1)
    [attempt] = await world.attempts()
    assert (attempt.state, [attempt.deploy_id]) == (AttemptState.CREATED, world.provider.alive())


async def test_the_visibility_grace_of_an_unanswered_create_starts_when_it_times_out(world: World) -> None:
    world.provider.visibility_grace = 30
    world.set_cloud(call_timeout=50)
    world.provider.always["create"] = asyncio.Event()
    with pytest.raises(ProviderUnavailable):
        await adopt_or_create(world)
    [attempt] = await world.attempts()
    assert attempt.state is AttemptState.OPEN
    assert 49 <= attempt.answered_at - attempt.sent_at <= 52
    vm = world.vm(request_of())
    assert vm.is_young(attempt, vm.now())


async def test_a_create_answered_after_its_attempt_was_closed_becomes_a_debt(world: World) -> None:
    is_answered = asyncio.Event()
    world.provider.before["create"].append(is_answered)
    creating = asyncio.create_task(adopt_or_create(world))
    await until(lambda: bool(sent(world)))
    [attempt] = await world.attempts()
    await world.vm(request_of()).close(attempt, AttemptState.GONE, "not found after the grace")
    is_answered.set()
    deploy_id = await creating
    [debt] = await world.journal.debts()
    assert (debt.deploy_id, debt.token) == (deploy_id, attempt.token)
    assert debt.reason == "its create was answered after the VM was given up"


async def test_deploy_fails_on_an_instance_with_damaged_tags(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy_id = world.provider.add(None)

    async def find_damaged(**_: object) -> list[Instance]:
        return [an_instance(deploy_id)]

    monkeypatch.setattr(world.provider, "find", find_damaged)
    with pytest.raises(AmbiguousInstance) as caught:
        await adopt_or_create(world)
    assert str(caught.value) == f"instance {deploy_id} has damaged tags of VM 7: mend them, or terminate it"
    assert sent(world) == []


# A token whose instance the journal lacks


async def test_after_a_token_mismatch_the_instance_of_the_token_is_adopted(world: World) -> None:
    world.provider.visibility_grace = 30
    world.provider.lag = 10
    token = Attempt.new(identity_of(), 1, {}).token
    made = await world.provider.create(CreateCall(identity=identity_of(), token=token, parameters={"size": "old"}))
    assert await adopt_or_create(world) == made
    assert len(world.provider.instances) == 1


async def test_a_token_mismatch_is_raised_after_the_grace_if_no_instance_appears(world: World) -> None:
    world.provider.visibility_grace = 30
    world.provider.before["create"].append(TokenMismatch("the token was used with other parameters"))
    with pytest.raises(TokenMismatch):
        await adopt_or_create(world)
    assert await states(world) == [AttemptState.REFUSED]
    assert asyncio.get_running_loop().time() >= 30
    await adopt_or_create(world)
    assert len({call.token for call in sent(world)}) == 2, "the next deploy has another token"


# The same VM again


async def test_two_deploys_make_one_instance(world: World) -> None:
    assert await adopt_or_create(world) == await adopt_or_create(world)
    assert len(sent(world)) == 1


async def test_an_instance_with_the_same_identity_is_adopted(world: World) -> None:
    deploy_id = world.provider.add(identity_of(seq=2))
    assert await adopt_or_create(world, seq=2) == deploy_id
    assert sent(world) == []


async def test_the_instance_of_an_unanswered_create_is_found_by_its_tags_and_journaled(world: World) -> None:
    """The journal then names the instance as if the create had been answered."""
    await world.add_attempt(AttemptState.OPEN, age=60)
    deploy_id = world.provider.add(identity_of())
    assert await adopt_or_create(world) == deploy_id
    (attempt,) = await world.attempts()
    assert (attempt.state, attempt.deploy_id, attempt.answered_at) == (AttemptState.CREATED, deploy_id, world.clock())


@pytest.mark.parametrize("has_tokens", [True, False])
async def test_a_create_that_times_out_keeps_the_instance_that_was_found_by_tags(
    world: World, *, has_tokens: bool
) -> None:
    """The first DEPLOY is cancelled while its create is under way; a second one finds the instance by its tags."""
    world.provider.is_create_repeatable = has_tokens
    world.provider.visibility_grace = 300
    world.provider.after["create"].append(asyncio.Event())
    first = asyncio.create_task(adopt_or_create(world))
    await until(lambda: bool(world.provider.instances))
    await pass_time(1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    deploy_id = await adopt_or_create(world)
    await pass_time(200)
    (attempt,) = await world.attempts()
    assert (attempt.state, attempt.deploy_id) == (AttemptState.CREATED, deploy_id)


async def test_deploy_fails_if_two_instances_have_the_same_identity(world: World) -> None:
    for deploy_id in ("i-b", "i-a"):
        world.provider.add(identity_of(), deploy_id=deploy_id)
    with pytest.raises(AmbiguousInstance) as caught:
        await adopt_or_create(world)
    assert str(caught.value) == "i-a and i-b are both VM 7's: terminate one in the cloud"
    assert sent(world) == []


@pytest.mark.parametrize("state", [InstanceState.TERMINATED, InstanceState.TERMINATING])
async def test_a_terminated_instance_is_not_adopted(world: World, state: InstanceState) -> None:
    gone = world.provider.add(identity_of(), state)
    assert await adopt_or_create(world) != gone


async def test_an_instance_of_another_stime_is_neither_adopted_nor_touched(world: World) -> None:
    stranger = world.provider.add(identity_of(stime=STIME - 5))
    deploy_id = await adopt_or_create(world)
    assert deploy_id != stranger
    assert world.provider.state(stranger) is InstanceState.RUNNING
    assert await debts(world) == []
    assert world.warnings == [f"instance {stranger} is of another VM 7: it is left alone"]


async def test_an_instance_from_before_a_recreate_becomes_a_debt_and_is_not_adopted(world: World) -> None:
    leftover = world.provider.add(identity_of(seq=1))
    deploy_id = await adopt_or_create(world, seq=3)
    assert deploy_id != leftover
    [debt] = await world.journal.debts()
    assert (debt.deploy_id, debt.identity) == (leftover, identity_of(seq=1))
    assert debt.reason == "left over from before a recreate"
    assert world.warnings == [f"instance {leftover} is left over from before a recreate: it will be terminated"]


async def test_an_instance_of_a_later_life_is_left_alone(world: World) -> None:
    later = world.provider.add(identity_of(seq=5))
    assert await adopt_or_create(world, seq=3) != later
    assert await debts(world) == []
    assert world.warnings == [f"instance {later} is of a later life of VM 7: it is left alone"]


@pytest.mark.parametrize("operation", ["find", "describe"])
@pytest.mark.parametrize("error", [ProviderUnavailable("no answer"), PermissionDenied("no"), Throttled("slow")])
async def test_no_instance_is_created_while_lookups_fail(world: World, operation: str, error: Exception) -> None:
    world.provider.always[operation] = error
    await world.add_attempt(AttemptState.CREATED, deploy_id="i-1")
    with pytest.raises((type(error), TimeoutError)):
        async with asyncio.timeout(60):
            await adopt_or_create(world)
    assert sent(world) == []


# Debts are not adopted


@pytest.mark.parametrize("is_by_id", [True, False], ids=["by-id", "by-identity"])
async def test_an_instance_with_a_debt_is_not_adopted(world: World, *, is_by_id: bool) -> None:
    owed = world.provider.add(identity_of())
    await world.add_debt(owed if is_by_id else "")
    assert await adopt_or_create(world) != owed
    assert len(world.provider.alive()) == 2


async def test_a_debt_of_another_vm_does_not_prevent_adoption(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await world.add_debt("i-404", vm_id=8)
    assert await adopt_or_create(world) == deploy_id


@pytest.mark.parametrize("state", [AttemptState.OPEN, AttemptState.CREATED])
@pytest.mark.parametrize("is_by_token", [True, False], ids=["by-token", "by-identity"])
async def test_an_attempt_with_a_debt_is_not_repeated(world: World, state: AttemptState, *, is_by_token: bool) -> None:
    world.provider.visibility_grace = 60
    attempt = await world.add_attempt(state, deploy_id="i-9" if state is AttemptState.CREATED else "", age=1)
    await world.add_debt(token=attempt.token if is_by_token else "")
    deploy_id = await adopt_or_create(world)
    assert deploy_id != "i-9"
    [call] = sent(world)
    assert call.token != attempt.token


# Attempts in the journal


async def test_a_journaled_instance_that_is_not_visible_yet_is_adopted(world: World) -> None:
    world.provider.visibility_grace = 60
    await world.add_attempt(AttemptState.CREATED, deploy_id="i-9", age=10)
    assert await adopt_or_create(world) == "i-9"
    assert sent(world) == []


async def test_a_journaled_instance_that_is_visible_only_by_id_is_adopted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_nothing(**_: object) -> list[object]:
        return []

    monkeypatch.setattr(world.provider, "find", find_nothing)
    deploy_id = world.provider.add(identity_of())
    await world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id, age=1000)
    assert await adopt_or_create(world) == deploy_id


async def test_the_same_create_is_repeated_if_its_instance_is_not_listed_after_the_grace(world: World) -> None:
    attempt = await world.add_attempt(AttemptState.CREATED, deploy_id=DeployId("i-9"), age=1000)
    await adopt_or_create(world)
    [call] = sent(world)
    assert (call.token, call.parameters) == (attempt.token, attempt.parameters)
    assert await states(world) == [AttemptState.CREATED]


@pytest.mark.parametrize("error", [None, BadParameter("no such image"), ProviderUnavailable("no answer")])
async def test_deploy_fails_if_a_journaled_instance_is_unlisted_and_its_create_cannot_be_repeated(
    world: World, error: ProviderError | None
) -> None:
    world.provider.is_create_repeatable = error is not None
    if error is not None:
        world.provider.always["create"] = error
    await world.add_attempt(AttemptState.CREATED, deploy_id=DeployId("i-9"), age=1000)
    with pytest.raises(CannotTell, match=r"^instance i-9 was made for VM 7 and is not listed: "):
        await adopt_or_create(world)
    assert await states(world) == [AttemptState.CREATED]
    assert world.provider.alive() == []


async def test_a_new_attempt_is_made_if_the_journaled_instance_is_terminated(world: World) -> None:
    gone = world.provider.add(identity_of(), InstanceState.TERMINATED)
    await world.add_attempt(AttemptState.CREATED, deploy_id=gone, age=1000)
    deploy_id = await adopt_or_create(world)
    assert deploy_id != gone
    assert await states(world) == [AttemptState.GONE, AttemptState.CREATED]


async def test_an_unanswered_create_is_repeated_with_identical_parameters(world: World) -> None:
    world.provider.after["create"].append(ProviderUnavailable("no answer"))
    world.provider.lag = 1000
    with pytest.raises(ProviderUnavailable):
        await adopt_or_create(world)
    world.provider.alternatives = ({"size": "another by now"},)
    deploy_id = await adopt_or_create(world)
    first, second = sent(world)
    assert first == second
    assert world.provider.alive() == [deploy_id]
    assert await states(world) == [AttemptState.CREATED]


async def test_a_new_attempt_is_made_if_the_token_of_a_repeated_create_is_spent(world: World) -> None:
    attempt = await world.add_attempt(AttemptState.OPEN, age=10)
    world.provider.before["create"].append(TokenSpent("its instance is terminated"))
    await adopt_or_create(world)
    assert [call.token == attempt.token for call in sent(world)] == [True, False]
    assert await states(world) == [AttemptState.GONE, AttemptState.CREATED]


@pytest.mark.parametrize("error", [AuthenticationRefused("bad key"), PermissionDenied("no"), ProviderUnavailable("?")])
async def test_an_inconclusive_error_of_a_repeated_create_leaves_the_attempt_open(
    world: World, error: ProviderError
) -> None:
    attempt = await world.add_attempt(AttemptState.OPEN, age=10)
    world.provider.before["create"].append(error)
    with pytest.raises(type(error)):
        await adopt_or_create(world)
    [call] = sent(world)
    assert call.token == attempt.token
    assert await states(world) == [AttemptState.OPEN]


@pytest.mark.parametrize("error", [NoCapacity("no room"), QuotaExceeded("no more"), BadParameter("no")])
async def test_a_refused_retry_does_not_invalidate_the_first_create(world: World, error: ProviderError) -> None:
    """The first one may have made an instance that is not visible yet, and that may even use up the quota."""
    world.provider.visibility_grace = 60
    world.provider.lag = 30
    attempt = await world.add_attempt(AttemptState.OPEN, age=10)
    made = await world.provider.create(CreateCall(identity=identity_of(), token="as sent before", parameters={}))
    world.provider.before["create"].append(error)
    assert await adopt_or_create(world) == made
    assert [call.token for call in sent(world)] == ["as sent before", attempt.token]


async def test_a_new_attempt_is_made_after_the_grace_if_the_retry_was_refused(world: World) -> None:
    world.provider.visibility_grace = 60
    attempt = await world.add_attempt(AttemptState.OPEN, age=10)
    world.provider.before["create"].append(NoCapacity("no room"))
    await adopt_or_create(world)
    assert [call.token == attempt.token for call in sent(world)] == [True, False]
    assert await states(world) == [AttemptState.GONE, AttemptState.CREATED]
    assert asyncio.get_running_loop().time() >= 50


# Clouds without tokens


async def test_without_tokens_an_unanswered_create_is_looked_up_and_not_repeated(world: World) -> None:
    world.provider.is_create_repeatable = False
    world.provider.visibility_grace = 60
    world.provider.lag = 30
    world.provider.after["create"].append(ProviderUnavailable("no answer"))
    deploy_id = await adopt_or_create(world)
    assert world.provider.alive() == [deploy_id]
    assert await adopt_or_create(world) == deploy_id
    assert len(sent(world)) == 1


async def test_without_tokens_a_new_attempt_is_opened_only_after_the_grace(world: World) -> None:
    world.provider.is_create_repeatable = False
    world.provider.visibility_grace = 60
    world.provider.before["create"].append(ProviderUnavailable("no answer"))
    with pytest.raises(ProviderUnavailable):
        await adopt_or_create(world)
    await adopt_or_create(world)
    assert asyncio.get_running_loop().time() >= 60
    assert await states(world) == [AttemptState.GONE, AttemptState.CREATED]
    assert len(world.provider.alive()) == 1


async def test_repeated_lookups_log_each_warning_once(world: World) -> None:
    world.provider.is_create_repeatable = False
    world.provider.visibility_grace = 60
    world.provider.add(identity_of(stime=STIME - 5))
    await world.add_attempt(AttemptState.OPEN)
    await adopt_or_create(world)
    assert len(world.warnings) == len(set(world.warnings))


# A DEPLOY that names an instance


async def test_the_named_instance_is_adopted_before_another_one_with_the_same_identity(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.add(identity_of())
    assert await adopt_or_create(world, deploy_id=deploy_id) == deploy_id
    assert sent(world) == []


async def test_a_named_instance_from_before_a_recreate_becomes_a_debt_and_is_replaced(world: World) -> None:
    leftover = world.provider.add(identity_of(seq=1), InstanceState.STOPPED)
    deploy_id = await adopt_or_create(world, deploy_id=leftover, seq=3)
    assert deploy_id != leftover
    assert await debts(world) == [leftover]


STRANGERS = [
    pytest.param(identity_of(8), "instance i-1 belongs to VM 8: it is left alone", id="another-vm"),
    pytest.param(identity_of(owner="quay"), "instance i-1 belongs to owner quay: it is left alone", id="another-owner"),
    pytest.param(
        identity_of(stime=STIME - 1), "instance i-1 belongs to an earlier VM 7: it is left alone", id="earlier-life"
    ),
    pytest.param(identity_of(seq=9), "instance i-1 is of a later life of VM 7 (SEQ 9)", id="later-life"),
    pytest.param(
        None,
        "instance i-1 has no tags of ours: set policy.allow_import to let VMs adopt it",
        id="untagged-without-allow-import",
    ),
]


@pytest.mark.parametrize(("identity", "sentence"), STRANGERS)
async def test_deploy_fails_if_the_named_instance_is_not_this_vms(
    world: World, identity: Identity | None, sentence: str
) -> None:
    deploy_id = world.provider.add(identity)
    with pytest.raises(NotOurs) as caught:
        await adopt_or_create(world, deploy_id=deploy_id)
    assert str(caught.value) == sentence
    assert world.provider.identity(deploy_id) == identity
    assert (sent(world), await debts(world)) == ([], [])


async def test_allow_import_imports_and_tags_an_untagged_instance(world: World) -> None:
    deploy_id = world.provider.add(None)
    assert await adopt_or_create(world, deploy_id=deploy_id, seq=2, may_import=True) == deploy_id
    assert world.provider.identity(deploy_id) == identity_of(seq=2)
    assert await world.journal.imported_for(deploy_id) == (7, STIME)
    assert sent(world) == []


async def test_no_import_is_recorded_if_tagging_is_refused(world: World) -> None:
    deploy_id = world.provider.add(None)
    world.provider.before["retag"].append(PermissionDenied("tags may not be written"))
    with pytest.raises(PermissionDenied):
        await adopt_or_create(world, deploy_id=deploy_id, may_import=True)
    assert await world.journal.imported_for(deploy_id) is None


async def test_only_one_of_two_concurrent_imports_gets_the_instance(world: World) -> None:
    deploy_id = world.provider.add(None)
    imports = [adopt_or_create(world, vm_id=vm_id, deploy_id=deploy_id, may_import=True) for vm_id in (7, 8)]
    answers = await asyncio.gather(*imports, return_exceptions=True)
    refusals = [str(answer) for answer in answers if isinstance(answer, NotOurs)]
    assert refusals == [f"instance {deploy_id} was taken over by another VM before: it is left alone"]
    [winner] = [vm_id for vm_id, answer in zip((7, 8), answers, strict=True) if answer == deploy_id]
    assert world.provider.identity(deploy_id) == identity_of(winner)
    assert await world.journal.imported_for(deploy_id) == (winner, STIME)
    assert world.provider.count("retag") == 1


async def test_another_vm_can_import_an_instance_after_a_refused_import(world: World) -> None:
    deploy_id = world.provider.add(None)
    world.provider.before["retag"].append(PermissionDenied("tags may not be written"))
    with pytest.raises(PermissionDenied):
        await adopt_or_create(world, deploy_id=deploy_id, may_import=True)
    assert await adopt_or_create(world, vm_id=8, deploy_id=deploy_id, may_import=True) == deploy_id


@pytest.mark.parametrize("then", [None, PermissionDenied("no")], ids=["twice-unanswered", "unanswered-then-refused"])
async def test_an_unanswered_import_reserves_the_instance_for_its_vm(world: World, then: Exception | None) -> None:
    """Its tags may have been written."""
    world.set_cloud(retries=1)
    deploy_id = world.provider.add(None)
    no_answer = ProviderUnavailable("no answer")
    world.provider.before["retag"].extend([no_answer, then or no_answer])
    with pytest.raises(ProviderError):
        await adopt_or_create(world, deploy_id=deploy_id, may_import=True)
    with pytest.raises(NotOurs, match="was taken over by another VM before"):
        await adopt_or_create(world, vm_id=8, deploy_id=deploy_id, may_import=True)
    world.provider.before["retag"].append(PermissionDenied("not now"))
    with pytest.raises(PermissionDenied):
        await adopt_or_create(world, deploy_id=deploy_id, may_import=True)
    assert await adopt_or_create(world, deploy_id=deploy_id, may_import=True) == deploy_id


async def test_an_imported_instance_that_lost_its_tags_can_be_imported_again(world: World) -> None:
    deploy_id = world.provider.add(None)
    await adopt_or_create(world, deploy_id=deploy_id, may_import=True)
    world.provider.instances[deploy_id].identity = None
    assert await adopt_or_create(world, deploy_id=deploy_id, may_import=True) == deploy_id


async def test_an_instance_that_was_imported_for_another_vm_is_refused(world: World) -> None:
    deploy_id = world.provider.add(None)
    world.provider.always["retag"] = PermissionDenied("tags may not be written")
    await world.journal.record_import(deploy_id, vm_id=identity_of(8).vm_id, stime=STIME)
    with pytest.raises(NotOurs):
        await adopt_or_create(world, deploy_id=deploy_id, may_import=True)
    assert await world.journal.imported_for(deploy_id) == (8, STIME)


async def test_allow_import_does_not_allow_adopting_another_vms_instance(world: World) -> None:
    deploy_id = world.provider.add(identity_of(8))
    with pytest.raises(NotOurs):
        await adopt_or_create(world, deploy_id=deploy_id, may_import=True)


@pytest.mark.parametrize("is_shown", [True, False], ids=["terminated", "unknown"])
async def test_deploy_fails_if_the_named_instance_is_unknown_or_gone_and_never_was_this_vms(
    world: World, *, is_shown: bool
) -> None:
    if is_shown:
        world.provider.add(None, InstanceState.TERMINATED, deploy_id="i-404")
    with pytest.raises(InstanceNotFound) as caught:
        await adopt_or_create(world, deploy_id="i-404")
    assert str(caught.value) == "instance i-404, which the VM names as its own, does not exist"
    assert sent(world) == []


@pytest.mark.parametrize("is_shown", [True, False], ids=["terminated", "forgotten"])
async def test_a_new_instance_is_created_if_the_vms_named_instance_is_gone(world: World, *, is_shown: bool) -> None:
    gone = DeployId("i-9")
    if is_shown:
        world.provider.add(identity_of(), InstanceState.TERMINATED, deploy_id=gone)
    else:
        await world.add_attempt(AttemptState.CREATED, deploy_id=gone, age=1000)
    assert await adopt_or_create(world, deploy_id=gone) != gone
    assert len(sent(world)) == 1


# Scope of a debt


def an_instance(deploy_id: str = "i-1", identity: Identity | None = None) -> Instance:
    return Instance(deploy_id=DeployId(deploy_id), state=InstanceState.RUNNING, raw_state="running", identity=identity)


def a_debt(**fields: Any) -> Debt:
    return Debt(**{"deploy_id": DeployId(""), "identity": identity_of(seq=2), "reason": "r", "since": 100.0, **fields})


def an_attempt(**fields: Any) -> Attempt:
    return msgspec.structs.replace(Attempt.new(identity_of(seq=2), 1, {}), **{"sent_at": 50.0, **fields})


@pytest.mark.parametrize(
    ("debt", "instance", "attempts", "expected"),
    [
        pytest.param(a_debt(deploy_id="i-1"), an_instance(), [], True, id="same-id"),
        pytest.param(a_debt(deploy_id="i-2"), an_instance("i-1", identity_of()), [], False, id="another-id"),
        pytest.param(a_debt(), an_instance(identity=identity_of(seq=2)), [], True, id="same-life"),
        pytest.param(a_debt(), an_instance(identity=identity_of(seq=1)), [], True, id="before-a-resume"),
        pytest.param(a_debt(), an_instance(identity=identity_of(seq=3)), [], False, id="after-a-recreate"),
        pytest.param(a_debt(), an_instance(identity=identity_of(8)), [], False, id="another-vm"),
        pytest.param(a_debt(), an_instance(identity=identity_of(stime=1)), [], False, id="another-stime"),
        pytest.param(a_debt(), an_instance(identity=None), [], False, id="untagged"),
        pytest.param(
            a_debt(),
            an_instance("i-1", identity_of(seq=2)),
            [an_attempt(deploy_id="i-1", sent_at=99.0)],
            True,
            id="made-before",
        ),
        pytest.param(
            a_debt(),
            an_instance("i-1", identity_of(seq=2)),
            [an_attempt(deploy_id="i-1", sent_at=101.0)],
            False,
            id="made-after",
        ),
    ],
)
def test_a_debt_covers_instances_that_existed_when_it_was_recorded(
    debt: Debt, instance: Instance, attempts: list[Attempt], *, expected: bool
) -> None:
    assert covers_instance(debt, instance, attempts) is expected


@pytest.mark.parametrize(
    ("debt", "attempt", "expected"),
    [
        pytest.param(a_debt(token=an_attempt().token), an_attempt(), True, id="same-token"),
        pytest.param(a_debt(token="another"), an_attempt(), False, id="another-token"),
        pytest.param(a_debt(deploy_id="i-1"), an_attempt(deploy_id="i-1"), True, id="same-id"),
        pytest.param(a_debt(deploy_id="i-2"), an_attempt(deploy_id="i-1"), False, id="another-id"),
        pytest.param(a_debt(), an_attempt(), True, id="same-life"),
        pytest.param(a_debt(), an_attempt(identity=identity_of(seq=3)), False, id="after-a-recreate"),
        pytest.param(a_debt(), an_attempt(identity=identity_of(stime=1)), False, id="another-stime"),
        pytest.param(a_debt(), an_attempt(sent_at=101.0), False, id="sent-after"),
        pytest.param(a_debt(), an_attempt(state=AttemptState.REFUSED), False, id="refused"),
        pytest.param(a_debt(), an_attempt(state=AttemptState.GONE), False, id="gone"),
        pytest.param(a_debt(), an_attempt(state=AttemptState.CREATED), True, id="created"),
    ],
)
def test_a_debt_covers_attempts_made_before_it_was_recorded(debt: Debt, attempt: Attempt, *, expected: bool) -> None:
    assert covers_attempt(debt, attempt) is expected
