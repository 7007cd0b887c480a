"""Clouds without idempotency tokens: one instance kept although answers are lost (decisions 12 and 14)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.actions.debts import pay
from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.errors import AmbiguousInstance, ProviderUnavailable
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.monitor.attribution import latest_attempts
from one_provider_mad.ownership.adoption import adopt
from one_provider_mad.ownership.creating import Creation, Order
from one_provider_mad.ownership.duplicates import Duplicates, sort_duplicates
from one_provider_mad.providers.interface import CreateCall
from one_provider_mad.timestamps import Timestamp
from tests.actions.fakes import EPOCH, FakeCloud, World, a_world, identity_of, pass_time, request_of

GRACE = 10.0
SECONDS_APART = 5.0


class Partner(FakeCloud):
    """Pretends to be a cloud without tokens that reports when its instances were created.

    `fates` holds for each create in turn the seconds after which it is carried out without ever being answered, or None
    for one that is answered at once. `looks` and `creates` hold the times of its calls.
    """

    name: str = "partner"

    def __init__(self) -> None:
        super().__init__()
        self.is_create_repeatable = False
        self.visibility_grace = GRACE
        self.boot_time = 0.0
        self.fates: list[float | None] = []
        self.looks: list[float] = []
        self.creates: list[float] = []
        self.is_down = False

    async def create(self, call: CreateCall) -> DeployId:
        self.creates.append(now())
        fate = self.fates.pop(0) if self.fates else None
        deploy_id = await super().create(call)
        if fate is None:
            return deploy_id
        self.instances[deploy_id].visible_at = now() + fate
        raise ProviderUnavailable("partner did not answer")

    async def find(self, *, owner: str, vm_id: VmId) -> Sequence[Instance]:
        self.looks.append(now())
        if self.is_down:
            raise ProviderUnavailable("partner is down")
        return await super().find(owner=owner, vm_id=vm_id)

    def _visible(self) -> list[Instance]:
        """The creation time of an instance is the time at which it becomes visible."""
        return [
            msgspec.structs.replace(each, created_at=EPOCH + self.instances[each.deploy_id].visible_at)
            for each in super()._visible()
        ]


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path, Partner()) as world:
        yield world


def partner(world: World) -> Partner:
    assert isinstance(world.provider, Partner)
    return world.provider


async def deploy(world: World, *, leads_since: Timestamp | None = None, **fields: Any) -> DeployId:
    request = request_of(**fields)
    vm, order = world.vm(request), Order(request=request)
    adopted = await adopt(vm, may_import=False, leads_since=leads_since)
    return adopted or await Creation(vm=vm, order=order).create()


async def pay_all(world: World) -> None:
    for debt in await world.journal.debts():
        await pay(world.engine(), debt, clock=world.clock)
        await world.journal.pay_debt(debt)


# Lost answers


@pytest.mark.looptime
async def test_a_deploy_finds_the_instance_of_its_own_unanswered_create(world: World) -> None:
    partner(world).fates = [4.0]
    deploy_id = await deploy(world)
    assert (world.provider.alive(), len(partner(world).creates)) == ([deploy_id], 1)


@pytest.mark.looptime
async def test_a_deploy_fails_if_its_unanswered_create_made_no_instance(world: World) -> None:
    world.provider.before["create"].append(ProviderUnavailable("partner did not answer"))
    with pytest.raises(ProviderUnavailable, match="partner did not answer"):
        await deploy(world)
    assert len(partner(world).creates) == 1
    assert now() >= GRACE
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.OPEN]


@pytest.mark.looptime
async def test_a_deploy_fails_with_the_create_error_if_the_following_lookups_fail(world: World) -> None:
    partner(world).fates = [1000.0]
    looking = asyncio.create_task(deploy(world))
    while not partner(world).creates:
        await pass_time(0.05)
    partner(world).is_down = True
    with pytest.raises(ProviderUnavailable, match="partner did not answer"):
        await looking
    assert world.warnings == ["cannot look for the instance of the unanswered create: partner is down"]


@pytest.mark.looptime
@pytest.mark.parametrize("interval", [0.5, 7.0])
async def test_a_second_create_is_sent_only_after_two_lookups_five_seconds_apart(world: World, interval: float) -> None:
    """Even for an old attempt: an overloaded front-end of the cloud may still be working on it."""
    world.provider.watch_interval = interval
    await world.add_attempt(AttemptState.OPEN, age=1000)
    await deploy(world)
    [created] = partner(world).creates
    before = [look for look in partner(world).looks if look <= created]
    assert before[-1] - before[0] >= SECONDS_APART
    assert [attempt.state for attempt in await world.attempts()] == [AttemptState.GONE, AttemptState.CREATED]


@pytest.mark.looptime
async def test_an_instance_that_appears_between_the_two_lookups_is_adopted(world: World) -> None:
    partner(world).fates = [1003.0]
    made = world.provider.create(CreateCall(identity=identity_of(), token="lost", parameters={}))
    with suppress(ProviderUnavailable):
        await made
    await world.add_attempt(AttemptState.OPEN, age=0)
    await pass_time(1000)
    [deploy_id] = world.provider.alive()
    assert await deploy(world) == deploy_id
    assert len(partner(world).creates) == 1


# After an election


async def take_over(world: World, *, led_for: float = 0.0) -> DeployId:
    """Deploy a VM that the journal does not know, `led_for` seconds after this front-end began to lead."""
    since = Timestamp.now(world.clock)
    await pass_time(led_for)
    return await deploy(world, leads_since=since)


@pytest.mark.looptime
async def test_an_instance_that_the_former_leader_was_creating_is_adopted(world: World) -> None:
    theirs = world.provider.add(identity_of())
    world.provider.instances[theirs].visible_at = now() + 4
    assert await take_over(world) == theirs
    assert partner(world).creates == []
    assert [(attempt.deploy_id, attempt.state) for attempt in await world.attempts()] == [
        (theirs, AttemptState.CREATED)
    ]


@pytest.mark.looptime
async def test_an_instance_that_the_former_leader_created_meanwhile_becomes_a_debt(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        create = partner(world).create

        async def create_beside(call: CreateCall) -> DeployId:
            made = await create(call)
            await pass_time(1)
            world.provider.instances[world.provider.add(identity_of())].visible_at = now()
            return made

        patch.setattr(world.provider, "create", create_beside)
        own = await take_over(world)
    [theirs] = [each for each in world.provider.alive() if each != own]
    assert [debt.deploy_id for debt in await world.journal.debts()] == [theirs]
    await pay_all(world)
    assert await deploy(world) == own


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("led_for", "seconds"), [(0.0, GRACE), (GRACE - 2, SECONDS_APART), (100.0, SECONDS_APART)], ids=str
)
async def test_lookups_of_a_new_leader_last_until_the_grace_since_the_election_has_passed(
    world: World, led_for: float, seconds: float
) -> None:
    begun = now() + led_for
    await take_over(world, led_for=led_for)
    [created] = partner(world).creates
    assert seconds <= created - begun <= seconds + 2


@pytest.mark.looptime
@pytest.mark.parametrize("case", ["leads for long", "has tokens", "knows the VM"])
async def test_a_deploy_creates_at_once_if_no_former_leader_can_have_a_create_under_way(
    world: World, case: str
) -> None:
    world.provider.is_create_repeatable = case == "has tokens"
    if case == "knows the VM":
        await world.add_attempt(AttemptState.REFUSED)
    begun = now()
    await deploy(world, leads_since=None if case == "leads for long" else Timestamp.now(world.clock))
    assert partner(world).creates == [pytest.approx(begun, abs=0.01)]


# Duplicates


async def two_creates(world: World, *, late: float) -> DeployId:
    """Let a create take effect only after a second one was sent; return the second DEPLOY's instance."""
    partner(world).fates = [late]
    with pytest.raises(ProviderUnavailable):
        await deploy(world)
    return await deploy(world)


@pytest.mark.looptime
async def test_the_younger_of_two_instances_for_one_vm_becomes_a_debt(world: World) -> None:
    await two_creates(world, late=40.0)
    await pass_time(60)
    late, answered = world.provider.alive()
    assert await deploy(world) == answered, "the instance that was created first"
    [debt] = await world.journal.debts()
    assert (debt.deploy_id, debt.identity) == (late, identity_of())
    assert debt.reason == f"a duplicate of {answered}, made by a create whose answer was lost"
    assert world.warnings[-1] == f"instance {late} is {debt.reason}; it will be terminated"
    await pay_all(world)
    assert world.provider.alive() == [answered]
    assert await deploy(world) == answered


@pytest.mark.looptime
async def test_the_older_instance_stays_although_the_younger_ones_id_was_returned(world: World) -> None:
    """Reports on the VM follow: the journal's latest attempt is the one that made the older instance."""
    partner(world).fates = [1000.0]
    with pytest.raises(ProviderUnavailable):
        await deploy(world)
    older = world.provider.alive()[0]
    await pass_time(300)
    with pytest.MonkeyPatch.context() as patch:
        create = partner(world).create

        async def create_meanwhile(call: CreateCall) -> DeployId:
            world.provider.instances[older].visible_at = now() - 1  # carried out just before this one
            return await create(call)

        patch.setattr(world.provider, "create", create_meanwhile)
        assert await deploy(world) == older
    answered = world.provider.alive()[1]
    assert [debt.deploy_id for debt in await world.journal.debts()] == [answered]
    assert [(attempt.deploy_id, attempt.state) for attempt in await world.attempts()] == [
        (answered, AttemptState.CREATED),
        (older, AttemptState.CREATED),
    ]
    assert latest_attempts(await world.attempts())[VmId(7)].deploy_id == older
    await pay_all(world)
    assert world.provider.alive() == [older]
    assert [(attempt.deploy_id, attempt.state) for attempt in await world.attempts()] == [
        (answered, AttemptState.GONE),
        (older, AttemptState.CREATED),
    ]


@pytest.mark.looptime
async def test_an_instance_beyond_the_number_of_attempts_makes_the_deploy_fail_and_is_kept(world: World) -> None:
    own = await deploy(world)
    copy = world.provider.add(identity_of())
    with pytest.raises(AmbiguousInstance, match=f"{own} and {copy} are both VM 7's"):
        await deploy(world)
    assert await world.journal.debts() == []


@pytest.mark.looptime
async def test_deploy_fails_on_two_instances_in_a_cloud_with_tokens(world: World) -> None:
    await two_creates(world, late=40.0)
    await pass_time(60)
    world.provider.is_create_repeatable = True
    with pytest.raises(AmbiguousInstance):
        await deploy(world)
    assert await world.journal.debts() == []


@pytest.mark.looptime
async def test_a_deploy_succeeds_although_the_lookup_for_a_duplicate_fails(world: World) -> None:
    await world.add_attempt(AttemptState.GONE, age=1000)
    create = partner(world).create
    with pytest.MonkeyPatch.context() as patch:

        async def create_and_go_down(call: CreateCall) -> DeployId:
            deploy_id = await create(call)
            partner(world).is_down = True
            return deploy_id

        patch.setattr(world.provider, "create", create_and_go_down)
        deploy_id = await deploy(world)
    assert world.provider.alive() == [deploy_id]
    assert world.warnings == ["cannot look for a second instance of an earlier create: partner is down"]


LATE = [None, None, 0.0, 3.0, 9.0, 12.0, 30.0, 200.0]


@pytest.mark.looptime
async def test_one_instance_is_left_after_random_lost_answers(tmp_path: Path) -> None:
    for seed in range(12):
        fates = random.Random(seed)
        async with a_world(tmp_path / f"{seed}", Partner()) as world:
            cloud = partner(world)
            cloud.fates = fates.choices(LATE, k=4)
            shown = f"seed {seed}: {cloud.fates}"
            for _ in range(5):
                with suppress(ProviderUnavailable):
                    await deploy(world)
                await pass_time(fates.choice([0.1, 6.0, 50.0]))
            for first, second in zip(cloud.creates, cloud.creates[1:], strict=False):
                between = [look for look in cloud.looks if first < look <= second]
                assert between[-1] - between[0] >= SECONDS_APART, shown
            await pass_time(300)  # all late creates have taken effect
            deploy_id = await deploy(world)
            await pay_all(world)
            assert world.provider.alive() == [deploy_id], shown
            assert await deploy(world) == deploy_id, shown


# Which instance kept


def an_instance(number: int, *, at: float = 0.0, **fields: Any) -> Instance:
    return Instance(
        **{
            "deploy_id": DeployId(f"i-{number}"),
            "state": InstanceState.RUNNING,
            "raw_state": "",
            "identity": identity_of(),
            "created_at": at,
            **fields,
        }
    )


def an_attempt(number: int, *, at: float, deploy_id: str = "", state: AttemptState = AttemptState.GONE) -> Attempt:
    attempt = Attempt.new(identity_of(), number, {})
    return msgspec.structs.replace(attempt, sent_at=at, deploy_id=DeployId(deploy_id), state=state)


def staying(*instances: Instance, attempts: Sequence[Attempt]) -> str | None:
    duplicates: Duplicates | None = sort_duplicates(instances, attempts, now=Timestamp(at=5000.0))
    if duplicates is None:
        return None
    assert {each.deploy_id for each in (duplicates.kept, *duplicates.others)} == {each.deploy_id for each in instances}
    return duplicates.kept.deploy_id


LOST = an_attempt(1, at=1000.0)
MADE = an_attempt(2, at=1030.0, deploy_id="i-2", state=AttemptState.CREATED)


def test_of_duplicates_the_oldest_instance_stays() -> None:
    assert staying(an_instance(1, at=1040), an_instance(2, at=1031), attempts=[LOST, MADE]) == "i-2"
    assert staying(an_instance(1, at=1020), an_instance(2, at=1031), attempts=[LOST, MADE]) == "i-1"


def test_of_equally_old_duplicates_the_journaled_one_stays() -> None:
    assert staying(an_instance(1, at=1031), an_instance(2, at=1031), attempts=[LOST, MADE]) == "i-2"
    assert staying(an_instance(1), an_instance(2, at=1031), attempts=[LOST, MADE]) == "i-2", "one has no creation time"


def test_of_duplicates_a_failed_instance_does_not_stay() -> None:
    failed = an_instance(1, at=1020, state=InstanceState.UNKNOWN, reason="no space left")
    assert staying(failed, an_instance(2, at=1031), attempts=[LOST, MADE]) == "i-2"


def test_no_duplicate_is_chosen_among_more_instances_than_attempts() -> None:
    three = [an_instance(number, at=1031) for number in (1, 2, 3)]
    assert staying(*three, attempts=[LOST, MADE]) is None


def test_no_duplicate_is_chosen_if_an_instance_was_created_at_another_time_than_its_attempt() -> None:
    assert staying(an_instance(1, at=9000), an_instance(2, at=1031), attempts=[LOST, MADE]) is None


def test_no_duplicate_is_chosen_if_one_of_the_attempts_was_refused() -> None:
    refused = msgspec.structs.replace(LOST, state=AttemptState.REFUSED)
    assert staying(an_instance(1, at=1020), an_instance(2, at=1031), attempts=[refused, MADE]) is None
