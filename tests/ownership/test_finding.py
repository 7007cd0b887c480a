from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from one_provider_mad.actions.intents import Intent
from one_provider_mad.actions.lifecycle import perform_intent
from one_provider_mad.domain import DeployId, Identity, InstanceState, VmId
from one_provider_mad.errors import (
    AmbiguousInstance,
    AuthenticationRefused,
    CannotTell,
    InstanceNotFound,
    JournalError,
    NotOurs,
    ProviderUnavailable,
)
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.ownership import destroying
from one_provider_mad.ownership.locating import locate
from one_provider_mad.providers.interface import CreateCall
from one_provider_mad.timestamps import Timestamp
from tests.actions.fakes import STIME, World, a_world, identity_of, pass_time, request_of, turns

pytestmark = pytest.mark.looptime


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


def now() -> float:
    return asyncio.get_running_loop().time()


async def to_destroy(world: World, *, deploy_id: str = "", deadline: float = math.inf) -> list[str]:
    """The instances that are to be terminated first."""
    async for instances in destroying.to_destroy(world.vm(request_of(deploy_id=deploy_id)), deadline=deadline):
        return [instance.deploy_id for instance in instances]
    return []


# One instance


async def test_locate_finds_the_instance_that_the_request_names(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.add(identity_of())
    assert (await locate(world.vm(request_of(deploy_id=deploy_id)))).deploy_id == deploy_id
    assert world.provider.count("find") == 0, "one call is enough"


async def test_locate_accepts_an_instance_tagged_with_an_older_seq_and_host(world: World) -> None:
    deploy_id = world.provider.add(identity_of(seq=1, host_id=3))
    request = request_of(deploy_id=deploy_id, seq=5, host_id=9)
    assert (await locate(world.vm(request))).deploy_id == deploy_id


OTHERS = [
    pytest.param(identity_of(8), "instance i-1 belongs to VM 8: it is left alone", id="another-vm"),
    pytest.param(identity_of(owner="quay"), "instance i-1 belongs to owner quay: it is left alone", id="another-owner"),
    pytest.param(
        identity_of(stime=STIME - 1), "instance i-1 belongs to an earlier VM 7: it is left alone", id="earlier-life"
    ),
    pytest.param(None, "instance i-1 has no tags of ours: it is left alone", id="untagged"),
]


@pytest.mark.parametrize(("identity", "sentence"), OTHERS)
async def test_another_vms_instance_is_refused_although_the_request_names_it(
    world: World, identity: Identity | None, sentence: str
) -> None:
    deploy_id = world.provider.add(identity)
    world.provider.add(identity_of())
    with pytest.raises(NotOurs) as caught:
        await locate(world.vm(request_of(deploy_id=deploy_id)))
    assert str(caught.value) == sentence
    with pytest.raises(NotOurs) as caught:
        await to_destroy(world, deploy_id=deploy_id)
    assert str(caught.value) == sentence


async def test_an_untagged_instance_that_was_imported_for_this_vm_is_accepted(world: World) -> None:
    deploy_id = world.provider.add(None)
    await world.journal.record_import(deploy_id, vm_id=identity_of().vm_id, stime=STIME)
    assert (await locate(world.vm(request_of(deploy_id=deploy_id)))).deploy_id == deploy_id
    assert await to_destroy(world, deploy_id=deploy_id) == [deploy_id]
    with pytest.raises(NotOurs):
        await locate(world.vm(request_of(deploy_id=deploy_id, stime=STIME + 1)))


@pytest.mark.parametrize("named", ["", "i-404"], ids=["no-id", "unknown-id"])
async def test_locate_finds_the_instance_by_tags_if_the_id_is_missing_or_unknown(world: World, named: str) -> None:
    world.provider.add(identity_of(8))
    world.provider.add(identity_of(stime=STIME - 1))
    world.provider.add(identity_of(), InstanceState.TERMINATED)
    world.provider.add(None)
    deploy_id = world.provider.add(identity_of(), InstanceState.STOPPED)
    assert (await locate(world.vm(request_of(deploy_id=named)))).deploy_id == deploy_id


async def test_locate_fails_if_the_vm_has_several_instances(world: World) -> None:
    for deploy_id in ("i-b", "i-a"):
        world.provider.add(identity_of(), deploy_id=deploy_id)
    with pytest.raises(AmbiguousInstance) as caught:
        await locate(world.vm(request_of()))
    assert str(caught.value) == "i-a and i-b are all VM 7's: terminate all but one in the cloud"


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        pytest.param("i-404", "instance i-404 of VM 7 does not exist", id="named"),
        pytest.param("", "VM 7 has no instance", id="unnamed"),
    ],
)
async def test_locate_fails_at_once_if_the_instance_does_not_exist(world: World, named: str, sentence: str) -> None:
    with pytest.raises(InstanceNotFound) as caught:
        await locate(world.vm(request_of(deploy_id=named)))
    assert str(caught.value) == sentence
    assert now() < 1, "at once"


async def test_locate_waits_for_an_instance_that_was_just_created(world: World) -> None:
    world.provider.visibility_grace = 30
    world.provider.lag = 20
    await world.add_attempt(AttemptState.OPEN)
    deploy_id = await world.provider.create(CreateCall(identity=identity_of(), token="t", parameters={}))
    assert (await locate(world.vm(request_of()))).deploy_id == deploy_id
    assert 20 <= now() <= 22


async def test_locate_fails_if_the_instance_does_not_appear_within_the_grace(world: World) -> None:
    world.provider.visibility_grace = 30
    await world.add_attempt(AttemptState.CREATED, deploy_id="i-404")
    with pytest.raises(InstanceNotFound):
        await locate(world.vm(request_of(deploy_id="i-404")))
    assert 30 <= now() <= 32


@pytest.mark.parametrize("state", [AttemptState.REFUSED, AttemptState.GONE])
async def test_locate_does_not_wait_after_a_refused_or_closed_attempt(world: World, state: AttemptState) -> None:
    world.provider.visibility_grace = 30
    await world.add_attempt(state)
    with pytest.raises(InstanceNotFound):
        await locate(world.vm(request_of()))
    assert now() < 1, "at once"


async def test_locate_finds_an_instance_without_visible_tags_by_its_journaled_id(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_nothing(**_: object) -> list[object]:
        return []

    monkeypatch.setattr(world.provider, "find", find_nothing)
    deploy_id = world.provider.add(identity_of())
    await world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id)
    assert (await locate(world.vm(request_of()))).deploy_id == deploy_id


async def test_locate_ignores_a_journaled_id_of_another_vms_instance(world: World) -> None:
    deploy_id = world.provider.add(identity_of(8))
    await world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id)
    with pytest.raises(InstanceNotFound):
        await locate(world.vm(request_of()))


@pytest.mark.parametrize("operation", ["describe", "find"])
async def test_locate_raises_the_error_of_a_failed_lookup(world: World, operation: str) -> None:
    world.provider.always[operation] = ProviderUnavailable("fake did not answer")
    with pytest.raises(ProviderUnavailable):
        await locate(world.vm(request_of(deploy_id="i-1")))


async def test_attempts_of_an_earlier_vm_with_the_same_id_are_left_out(world: World) -> None:
    await world.add_attempt(AttemptState.OPEN, seq=0)
    await world.add_attempt(AttemptState.OPEN, seq=4)
    assert len(await world.vm(request_of(seq=9)).attempts()) == 2
    assert await world.vm(request_of(stime=STIME + 1)).attempts() == []


# Instances to destroy


@pytest.mark.parametrize(
    "state", [InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.UNKNOWN, InstanceState.TERMINATING]
)
async def test_the_named_instance_is_to_be_destroyed_until_it_is_terminated(world: World, state: InstanceState) -> None:
    deploy_id = world.provider.add(identity_of(), state)
    assert await to_destroy(world, deploy_id=deploy_id) == [deploy_id]


async def test_a_terminated_instance_is_not_to_be_destroyed(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), InstanceState.TERMINATED)
    assert await to_destroy(world, deploy_id=deploy_id) == []


@pytest.mark.parametrize("named", ["", "i-404"], ids=["no-id", "unknown-id"])
async def test_all_instances_tagged_as_this_vms_and_no_others_are_to_be_destroyed(world: World, named: str) -> None:
    world.provider.add(identity_of(8))
    world.provider.add(identity_of(stime=STIME - 1))
    world.provider.add(identity_of(owner="quay"))
    world.provider.add(None)
    mine = [world.provider.add(identity_of()), world.provider.add(identity_of(seq=3), InstanceState.STOPPED)]
    assert sorted(await to_destroy(world, deploy_id=named)) == sorted(mine)


async def test_a_terminating_instance_found_by_tags_is_not_gone_yet(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await world.provider.destroy(deploy_id)
    assert await to_destroy(world) == [deploy_id]


async def test_nothing_is_to_be_destroyed_if_a_complete_lookup_finds_nothing(world: World) -> None:
    assert await to_destroy(world) == []
    assert now() < 1, "at once"


@pytest.mark.parametrize("error", [ProviderUnavailable("fake did not answer"), AuthenticationRefused("no")])
@pytest.mark.parametrize(
    ("operation", "sentence"),
    [
        pytest.param("describe", "cannot tell whether instance i-1 still exists: ", id="by-id"),
        pytest.param("find", "cannot tell whether VM 7's instance still exists: ", id="by-tags"),
    ],
)
async def test_a_failed_lookup_does_not_prove_that_nothing_is_to_be_destroyed(
    world: World, operation: str, sentence: str, error: Exception
) -> None:
    world.provider.always[operation] = error
    with pytest.raises(CannotTell) as caught:
        await to_destroy(world, deploy_id="i-1")
    assert str(caught.value) == f"{sentence}{error}"


async def test_termination_lookup_waits_until_the_grace_of_an_open_attempt_has_passed(world: World) -> None:
    world.provider.visibility_grace = 30
    await world.add_attempt(AttemptState.OPEN, age=10)
    assert await to_destroy(world) == []
    assert 20 <= now() <= 22
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE]


async def test_termination_lookup_fails_if_a_recently_created_instance_is_invisible_after_the_grace(
    world: World,
) -> None:
    world.provider.visibility_grace = 30
    await world.add_attempt(AttemptState.CREATED, deploy_id="i-404", age=10)
    with pytest.raises(CannotTell) as caught:
        await to_destroy(world)
    assert str(caught.value) == (
        "cannot tell whether VM 7's instance still exists: the cloud has made instance i-404 and does not show it"
    )
    assert 20 <= now() <= 22
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.CREATED]


async def test_an_instance_created_long_ago_and_invisible_counts_as_gone_but_becomes_a_debt(world: World) -> None:
    await world.add_attempt(AttemptState.CREATED, deploy_id="i-404", age=4000)
    assert await to_destroy(world) == []
    assert [debt.deploy_id for debt in await world.journal.debts()] == ["i-404"]
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.CREATED]


async def test_termination_lookup_fails_with_the_time_to_wait_if_the_deadline_is_too_short(world: World) -> None:
    world.provider.visibility_grace = 30
    await world.add_attempt(AttemptState.OPEN)
    with pytest.raises(CannotTell) as caught:
        await to_destroy(world, deadline=now() + 20)
    assert str(caught.value) == "cannot tell whether VM 7's instance still exists: wait 30 s and try again"
    assert now() < 1, "at once"
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.OPEN]


async def test_an_instance_that_appears_within_the_grace_is_to_be_destroyed(world: World) -> None:
    world.provider.visibility_grace = 30
    world.provider.lag = 20
    await world.add_attempt(AttemptState.OPEN)
    deploy_id = await world.provider.create(CreateCall(identity=identity_of(), token="t", parameters={}))
    assert await to_destroy(world) == [deploy_id]


async def test_termination_lookup_waits_for_a_create_under_way(world: World) -> None:
    is_answered = asyncio.Event()
    world.provider.before["create"].append(is_answered)
    attempt = await world.add_attempt(AttemptState.OPEN)

    async def record(deploy_id: DeployId | None) -> None:
        assert deploy_id is not None
        await world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id)

    call = CreateCall(identity=attempt.identity, token=attempt.token, parameters=attempt.parameters)
    creating = asyncio.create_task(world.cloud.create(call, record=record))
    await turns()
    looking = asyncio.create_task(to_destroy(world))
    await pass_time(40)
    assert not looking.done()
    is_answered.set()
    assert await looking == [await creating]


async def test_termination_lookup_needs_no_tag_search_for_a_terminated_id_unless_an_attempt_is_open(
    world: World,
) -> None:
    world.provider.visibility_grace = 30
    deploy_id = world.provider.add(identity_of(), InstanceState.TERMINATED)
    await world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id)
    world.provider.always["find"] = ProviderUnavailable("fake did not answer")
    assert await to_destroy(world, deploy_id=deploy_id) == []
    await world.add_attempt(AttemptState.OPEN, number=2)
    with pytest.raises(CannotTell):
        await to_destroy(world, deploy_id=deploy_id)


async def test_another_instance_beside_the_terminated_one_is_to_be_destroyed(world: World) -> None:
    deploy_id = world.provider.add(identity_of(), InstanceState.TERMINATED)
    other = world.provider.add(identity_of())
    assert await to_destroy(world, deploy_id=deploy_id) == [other]


async def test_the_instance_of_an_unanswered_attempt_beside_a_terminated_one_is_to_be_destroyed(world: World) -> None:
    world.provider.visibility_grace = 30
    deploy_id = world.provider.add(identity_of(), InstanceState.TERMINATED)
    await world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id, number=1)
    await world.add_attempt(AttemptState.OPEN, number=2)
    other = world.provider.add(identity_of())
    assert await to_destroy(world, deploy_id=deploy_id) == [other]


async def test_termination_lookup_unparks_an_instance_that_vanished_in_the_cloud(world: World) -> None:
    deploy_id = DeployId("i-vanished")
    await world.journal.park(deploy_id, VmId(7))
    assert await to_destroy(world, deploy_id=deploy_id) == []
    assert await world.journal.parked() == set()


async def test_termination_lookup_records_that_all_instances_have_ended(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id)
    await world.journal.park(deploy_id, VmId(7))
    async for instances in destroying.to_destroy(world.vm(request_of()), deadline=math.inf):
        assert [instance.deploy_id for instance in instances] == [deploy_id]
        world.provider.add(identity_of(), InstanceState.TERMINATED, deploy_id=deploy_id)
    [attempt] = await world.attempts()
    assert (attempt.state, attempt.detail) == (AttemptState.GONE, "terminated")
    assert await world.journal.parked() == set()
    assert deploy_id not in world.cloud.knowledge.shown


async def test_termination_lookup_records_nothing_if_its_caller_stops_early(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await world.add_attempt(AttemptState.CREATED, deploy_id=deploy_id)
    async for _ in destroying.to_destroy(world.vm(request_of()), deadline=math.inf):
        break
    [attempt] = await world.attempts()
    assert attempt.state is AttemptState.CREATED


async def test_termination_lookup_only_warns_if_the_journal_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy_id = world.provider.add(identity_of(), InstanceState.TERMINATED)

    async def refuse(_: DeployId) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr(world.journal, "unpark", refuse)
    assert await to_destroy(world, deploy_id=deploy_id) == []
    assert world.warnings == ["the disk is full"]


# Clock changes


def test_the_time_between_two_timestamps_does_not_depend_on_wall_clock_changes() -> None:
    sent = Timestamp(at=5000.0, steady=100.0, boot="a")
    assert Timestamp(at=9000.0, steady=110.0, boot="a").since(sent) == 10, "the wall clock was set ahead"
    assert Timestamp(at=1000.0, steady=110.0, boot="a").since(sent) == 10, "the wall clock was set back"
    assert Timestamp(at=5030.0, steady=7.0, boot="b").since(sent) == 30, "the machine was booted"
    assert Timestamp(at=1000.0, steady=7.0, boot="b").since(sent) == 7, (
        "and its wall clock was set back: time since the boot"
    )
    assert Timestamp(at=5030.0, steady=7.0, boot="b").since(Timestamp(at=5000.0)) == 30, (
        "a timestamp of an earlier release"
    )
    assert Timestamp(at=5030.0).since(sent) == 30, "the boot is unknown"


@pytest.mark.parametrize("set_by", [5000.0, -5000.0], ids=["ahead", "back"])
async def test_wall_clock_changes_neither_end_nor_prolong_the_grace(world: World, set_by: float) -> None:
    world.provider.visibility_grace, world.provider.lag = 300, 60
    world.provider.is_create_repeatable = False
    world.provider.after["create"].append(ProviderUnavailable("connection lost"))
    create = asyncio.create_task(perform_intent(world.work(request_of()), Intent.CREATE))
    await pass_time(10)
    create.cancel()
    await asyncio.gather(create, return_exceptions=True)
    steady = world.clock
    world.clock = lambda: steady() + set_by
    with pytest.raises(CannotTell, match=r"wait 2\d\d s and try again"):
        await to_destroy(world, deadline=now() + 1)
    deploy_id = await perform_intent(world.work(request_of()), Intent.CREATE)
    assert (world.provider.alive(), world.provider.count("create")) == ([deploy_id], 1)
    assert await to_destroy(world) == [deploy_id]
