from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable

import pytest

from one_provider_mad.calls.cloud import Cloud, SharedCloud
from one_provider_mad.calls.knowledge import Knowledge
from one_provider_mad.calls.waiting import Patience, SettingsReplaced, Waiting
from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    InstanceNotFound,
    NoCapacity,
    NotReached,
    NotSupported,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    Throttled,
    TokenMismatch,
    TokenSpent,
    WrongState,
)
from one_provider_mad.providers.interface import CreateCall
from tests.actions.fakes import OWNER, FakeCloud, identity_of, pass_time, turns, until

pytestmark = pytest.mark.looptime

RUNNING = frozenset({InstanceState.RUNNING})
STOPPED = frozenset({InstanceState.STOPPED})
TERMINATED = frozenset({InstanceState.TERMINATED})


@pytest.fixture
def provider() -> FakeCloud:
    return FakeCloud()


def cloud_of(
    provider: FakeCloud,
    *,
    retries: int = 0,
    call_timeout: float = 60.0,
    knowledge: Knowledge | None = None,
    patience: Patience = Patience.SHORT,
    is_current: Callable[[], bool] = lambda: True,
) -> Cloud:
    """The cloud of one action."""
    shared = SharedCloud(
        provider, owner=OWNER, retries=retries, call_timeout=call_timeout, knowledge=knowledge, is_current=is_current
    )
    return shared.for_action(Waiting(patience=patience))


def unavailable() -> ProviderUnavailable:
    return ProviderUnavailable("fake did not answer")


def now() -> float:
    return asyncio.get_running_loop().time()


# Retries


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
async def test_an_unanswered_call_is_retried_as_often_as_configured(provider: FakeCloud, retries: int) -> None:
    provider.always["find"] = unavailable()
    with pytest.raises(ProviderUnavailable, match="fake did not answer"):
        await cloud_of(provider, retries=retries).find(identity_of().vm_id)
    assert provider.count("find") == 1 + retries


async def test_a_call_that_succeeds_on_the_last_retry_returns_its_result(provider: FakeCloud) -> None:
    deploy_id = provider.add(identity_of())
    provider.before["find"].extend([unavailable(), unavailable()])
    found = await cloud_of(provider, retries=2).find(identity_of().vm_id)
    assert [instance.deploy_id for instance in found] == [deploy_id]
    assert provider.count("find") == 3


async def test_pauses_between_retries_grow_up_to_a_limit(provider: FakeCloud) -> None:
    provider.always["find"] = unavailable()
    sent: list[float] = []
    cloud = cloud_of(provider, retries=12)

    async def send() -> None:
        sent.append(now())
        raise unavailable()

    with pytest.raises(ProviderUnavailable):
        await cloud.call("find", send)
    pauses = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert pauses[0] >= 0.2
    assert all(pause <= 20.5 for pause in pauses)
    assert pauses[-1] > 10 * pauses[0]


DEFINITE = [
    AuthenticationRefused("no"),
    PermissionDenied("no"),
    BadParameter("no"),
    NoCapacity("no"),
    QuotaExceeded("no"),
    InstanceNotFound("no"),
    WrongState("no"),
    TokenSpent("no"),
    TokenMismatch("no"),
    NotSupported("fake", "this"),
]


@pytest.mark.parametrize("error", DEFINITE, ids=lambda error: type(error).__name__)
async def test_a_refused_call_is_not_retried(provider: FakeCloud, error: ProviderError) -> None:
    provider.always["find"] = error
    with pytest.raises(type(error)):
        await cloud_of(provider, retries=5).find(identity_of().vm_id)
    assert provider.count("find") == 1
    assert now() == 0


async def test_a_refusal_after_a_retry_ends_the_retries(provider: FakeCloud) -> None:
    provider.before["find"].extend([unavailable(), PermissionDenied("no")])
    with pytest.raises(PermissionDenied):
        await cloud_of(provider, retries=5).find(identity_of().vm_id)
    assert provider.count("find") == 2


async def test_an_unexpected_exception_is_not_retried(provider: FakeCloud) -> None:
    provider.always["find"] = KeyError("reservations")
    with pytest.raises(KeyError):
        await cloud_of(provider, retries=5).find(identity_of().vm_id)
    assert provider.count("find") == 1


# Throttling


async def test_a_throttled_call_is_repeated_beyond_the_retries(provider: FakeCloud) -> None:
    provider.before["find"].extend(Throttled("slow down") for _ in range(30))
    assert await cloud_of(provider, retries=0).find(identity_of().vm_id) == []
    assert provider.count("find") == 31


@pytest.mark.parametrize("place", [0, 1], ids=["first-refusal", "second-refusal"])
async def test_a_throttled_call_waits_for_the_retry_after_time(provider: FakeCloud, place: int) -> None:
    provider.before["find"].extend([Throttled("slow down") for _ in range(place)])
    provider.before["find"].append(Throttled("slow down", retry_after=17.0))
    sent: list[float] = []
    cloud = cloud_of(provider)

    async def send() -> None:
        sent.append(now())
        await provider.find(owner=OWNER, vm_id=identity_of().vm_id)

    await cloud.call("find", send)
    assert sent[place + 1] - sent[place] == pytest.approx(17.0)


@pytest.mark.parametrize("asked", [9999.0, 0.0], ids=["hours", "none"])
async def test_a_retry_after_time_is_limited_to_half_a_minute(provider: FakeCloud, asked: float) -> None:
    deploy_id = provider.add(identity_of(), state=InstanceState.RUNNING)
    provider.before["describe"].extend(Throttled("slow down", retry_after=asked) for _ in range(2))
    cloud = cloud_of(provider)
    begun = now()
    shared = await asyncio.gather(*(cloud.lookup_one(deploy_id) for _ in range(3)))
    assert all(shared)
    assert 0.4 <= now() - begun <= 60


async def test_throttling_between_failures_does_not_use_up_retries(provider: FakeCloud) -> None:
    provider.before["find"].extend([Throttled("slow"), unavailable(), Throttled("slow"), unavailable()])
    assert await cloud_of(provider, retries=2).find(identity_of().vm_id) == []
    provider.before["find"].extend([Throttled("slow"), unavailable(), Throttled("slow"), unavailable()])
    with pytest.raises(ProviderUnavailable):
        await cloud_of(provider, retries=1).find(identity_of().vm_id)


async def test_throttled_retries_end_at_the_callers_deadline(provider: FakeCloud) -> None:
    provider.always["find"] = Throttled("slow down")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(90):
            await cloud_of(provider).find(identity_of().vm_id)
    calls = provider.count("find")
    assert calls > 5
    assert now() == pytest.approx(90)
    await pass_time(600)
    assert provider.count("find") == calls


# Time limit of each call


async def test_a_call_that_exceeds_its_time_limit_counts_as_unanswered(provider: FakeCloud) -> None:
    provider.always["find"] = asyncio.Event()
    with pytest.raises(ProviderUnavailable) as caught:
        await cloud_of(provider, call_timeout=30).find(identity_of().vm_id)
    assert str(caught.value) == "fake did not answer find by tags within 30 s"
    assert now() == pytest.approx(30)


async def test_a_call_that_exceeds_its_time_limit_is_retried(provider: FakeCloud) -> None:
    provider.before["find"].append(asyncio.Event())
    assert await cloud_of(provider, retries=1, call_timeout=30).find(identity_of().vm_id) == []
    assert provider.count("find") == 2


async def test_a_timeout_error_of_a_provider_is_not_mistaken_for_the_time_limit(provider: FakeCloud) -> None:
    provider.always["find"] = TimeoutError("somewhere inside")
    with pytest.raises(TimeoutError, match="somewhere inside"):
        await cloud_of(provider, retries=3).find(identity_of().vm_id)
    assert now() == 0


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        pytest.param(lambda cloud: cloud.find(identity_of().vm_id), "find by tags", id="find"),
        pytest.param(lambda cloud: cloud.lookup_one(DeployId("i-1")), "describe", id="look"),
        pytest.param(lambda cloud: cloud.watch(DeployId("i-1"), RUNNING, goal="running"), "describe", id="watch"),
    ],
)
async def test_waiting_reason_names_the_call_that_an_action_waits_for(
    provider: FakeCloud, ask: Callable[[Cloud], object], words: str
) -> None:
    for operation in ("find", "describe"):
        provider.always[operation] = Throttled("slow down")
    cloud = cloud_of(provider)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await ask(cloud)  # type: ignore[misc]
    assert words in cloud.waiting.reason
    await cloud.shared.close()


async def test_one_action_waits_out_an_outage_while_another_on_the_same_cloud_fails_at_once(
    provider: FakeCloud,
) -> None:
    provider.always["find"] = NotReached("no route")
    cloud = cloud_of(provider)
    patient = cloud.shared.for_action(Waiting(patience=Patience.OUTAGE))
    going_on = asyncio.create_task(patient.find(identity_of().vm_id))
    with pytest.raises(NotReached):
        await cloud.find(identity_of().vm_id)
    await pass_time(30)
    assert patient.waiting.reason == "find by tags: no route"
    assert cloud.waiting.reason == "the cloud's answer to find by tags"
    provider.always.clear()
    assert await going_on == []


# Looking instances up by id


async def test_simultaneous_lookups_share_one_describe_call(provider: FakeCloud) -> None:
    ids = [provider.add() for _ in range(100)]
    cloud = cloud_of(provider)
    seen = await asyncio.gather(*(cloud.lookup_one(deploy_id) for deploy_id in ids))
    assert [instance and instance.deploy_id for instance in seen] == ids
    assert provider.calls == [("describe", sorted(ids))]


async def test_lookups_during_a_describe_call_share_the_next_one(provider: FakeCloud) -> None:
    first, *others = [provider.add() for _ in range(10)]
    is_answered = asyncio.Event()
    provider.before["describe"].append(is_answered)
    cloud = cloud_of(provider)
    begun = asyncio.create_task(cloud.lookup_one(first))
    await turns()
    later = [asyncio.create_task(cloud.lookup_one(deploy_id)) for deploy_id in others]
    await turns()
    assert provider.count("describe") == 1, "the call under way may have read the states before they asked"
    is_answered.set()
    await asyncio.gather(begun, *later)
    assert provider.calls == [("describe", [first]), ("describe", sorted(others))]


async def test_a_lookup_of_an_unknown_id_returns_none(provider: FakeCloud) -> None:
    assert await cloud_of(provider).lookup_one(DeployId("i-404")) is None


async def test_a_failed_describe_fails_the_lookups_that_share_it_and_no_later_one(provider: FakeCloud) -> None:
    deploy_id = provider.add()
    provider.before["describe"].append(PermissionDenied("no"))
    cloud = cloud_of(provider)
    results = await asyncio.gather(*(cloud.lookup_one(deploy_id) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [PermissionDenied] * 5
    assert provider.count("describe") == 1
    assert await cloud.lookup_one(deploy_id) is not None


async def test_a_lookup_succeeds_after_one_with_an_unexpected_exception(provider: FakeCloud) -> None:
    deploy_id = provider.add()
    provider.before["describe"].append(KeyError("reservations"))
    cloud = cloud_of(provider)
    with pytest.raises(KeyError):
        await cloud.lookup_one(deploy_id)
    assert await cloud.lookup_one(deploy_id) is not None


async def test_a_cancelled_lookup_does_not_cancel_the_shared_call(provider: FakeCloud) -> None:
    deploy_id = provider.add()
    is_answered = asyncio.Event()
    provider.before["describe"].append(is_answered)
    cloud = cloud_of(provider)
    hasty = asyncio.create_task(cloud.lookup_one(deploy_id))
    patient = asyncio.create_task(cloud.lookup_one(deploy_id))
    await turns()
    hasty.cancel()
    await turns()
    is_answered.set()
    assert await patient is not None
    assert provider.count("describe") == 1


async def test_a_describe_that_fails_after_all_its_lookups_were_cancelled_logs_no_stray_error(
    provider: FakeCloud,
) -> None:
    stray: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
    is_answered = asyncio.Event()
    provider.before["describe"].extend([is_answered, PermissionDenied("no")])
    cloud = cloud_of(provider)
    looker = asyncio.create_task(cloud.lookup_one(DeployId("i-1")))
    await turns()
    second = asyncio.create_task(cloud.lookup_one(DeployId("i-2")))
    await turns()
    for task in (looker, second):
        task.cancel()
    is_answered.set()
    await turns(50)
    gc.collect()
    await turns()
    assert provider.count("describe") == 2
    assert not stray


# Waiting for a state


async def test_watch_returns_when_the_instance_reaches_the_state(provider: FakeCloud) -> None:
    deploy_id = await provider.create(CreateCall(identity=identity_of(), token="t", parameters={}))
    instance = await cloud_of(provider).watch(deploy_id, RUNNING, goal="running")
    assert instance.state is InstanceState.RUNNING
    assert 5.0 <= now() <= 6.0


async def test_simultaneous_watches_share_describe_calls(provider: FakeCloud) -> None:
    ids = [
        await provider.create(CreateCall(identity=identity_of(vm_id), token=f"t{vm_id}", parameters={}))
        for vm_id in range(50)
    ]
    cloud = cloud_of(provider)
    await asyncio.gather(*(cloud.watch(deploy_id, RUNNING, goal="running") for deploy_id in ids))
    assert provider.count("describe") <= 7


async def test_watch_outlasts_an_outage(provider: FakeCloud) -> None:
    deploy_id = provider.add(state=InstanceState.RUNNING)
    provider.before["describe"].extend(unavailable() for _ in range(100))
    instance = await cloud_of(provider, retries=0).watch(deploy_id, RUNNING, goal="running")
    assert instance.state is InstanceState.RUNNING
    assert provider.count("describe") == 101


async def test_waiting_reason_names_the_last_error_or_state_of_a_watch(provider: FakeCloud) -> None:
    deploy_id = provider.add(state=InstanceState.STOPPING, reason="the host is slow")
    provider.before["describe"].append(unavailable())
    reasons, cloud = [], cloud_of(provider)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await cloud.watch(deploy_id, STOPPED, goal="stopped")
    reasons.append(cloud.waiting.reason)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await cloud.watch(deploy_id, STOPPED | TERMINATED, goal="stopped")
    reasons.append(cloud.waiting.reason)
    assert reasons == [
        f"{deploy_id} to be stopped (last answer: fake did not answer)",
        f"{deploy_id} to be stopped (it is stopping: the host is slow)",
    ]


@pytest.mark.parametrize("error", [AuthenticationRefused("bad key"), PermissionDenied("no")], ids=["key", "rights"])
async def test_watch_ends_with_a_permanent_error(provider: FakeCloud, error: ProviderError) -> None:
    deploy_id = provider.add()
    provider.always["describe"] = error
    with pytest.raises(type(error)):
        await cloud_of(provider).watch(deploy_id, STOPPED, goal="stopped")


async def test_watch_waits_for_an_invisible_id_within_the_grace(provider: FakeCloud) -> None:
    provider.lag = 8.0
    deploy_id = await provider.create(CreateCall(identity=identity_of(), token="t", parameters={}))
    assert (await cloud_of(provider).watch(deploy_id, RUNNING, goal="running", grace=10)).deploy_id == deploy_id


async def test_watch_fails_if_the_id_is_still_invisible_after_the_grace(provider: FakeCloud) -> None:
    with pytest.raises(InstanceNotFound, match="i-404 is not known to the cloud any more"):
        await cloud_of(provider).watch(DeployId("i-404"), RUNNING, goal="running", grace=10)
    assert 10 <= now() <= 11


async def test_watch_without_grace_fails_at_once_for_an_unknown_id(provider: FakeCloud) -> None:
    with pytest.raises(InstanceNotFound):
        await cloud_of(provider).watch(DeployId("i-404"), RUNNING, goal="running")
    assert now() == 0


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        pytest.param("out of quota", "instance i-1 is terminated: out of quota", id="with-a-reason"),
        pytest.param("", "instance i-1 is terminated", id="without"),
    ],
)
async def test_watch_raises_the_reason_of_an_instance_that_terminates(
    provider: FakeCloud, reason: str, sentence: str
) -> None:
    provider.add(state=InstanceState.TERMINATED, reason=reason)
    with pytest.raises(WrongState) as caught:
        await cloud_of(provider).watch(DeployId("i-1"), RUNNING, goal="running")
    assert str(caught.value) == sentence


async def test_watch_for_terminated_waits_while_the_instance_is_terminating(provider: FakeCloud) -> None:
    deploy_id = provider.add()
    await provider.destroy(deploy_id)
    instance = await cloud_of(provider).watch(deploy_id, TERMINATED, goal="terminated")
    assert instance.state is InstanceState.TERMINATED
    assert now() >= 5


# Creating


PASSES = asyncio.Event()
PASSES.set()
"""Lets one call pass before the next order in the queue."""

CALL = CreateCall(identity=identity_of(), token="token-1", parameters={"size": "small"})


class Book:
    """Records deploy ids, and counts creates without a certain answer; each record takes a second."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.doubts = 0

    async def record(self, deploy_id: DeployId | None) -> None:
        await pass_time(1)
        if deploy_id is None:
            self.doubts += 1
        else:
            self.ids.append(deploy_id)


async def test_create_returns_the_id_after_it_is_recorded(provider: FakeCloud) -> None:
    book = Book()
    deploy_id = await cloud_of(provider).create(CALL, record=book.record)
    assert book.ids == [deploy_id]


async def test_simultaneous_creates_with_the_same_token_share_one_call(provider: FakeCloud) -> None:
    book = Book()
    cloud = cloud_of(provider)
    ids = await asyncio.gather(*(cloud.create(CALL, record=book.record) for _ in range(5)))
    assert set(ids) == set(provider.instances)
    assert provider.count("create") == 1
    assert len(book.ids) == 1


async def test_a_create_that_did_not_reach_the_cloud_is_retried_even_without_tokens(provider: FakeCloud) -> None:
    provider.is_create_repeatable = False
    provider.before["create"].append(NotReached("fake is not there"))
    cloud = cloud_of(provider, retries=1)
    assert await cloud.create(CALL, record=Book().record) in provider.alive()


async def test_an_unanswered_create_with_token_is_retried(provider: FakeCloud) -> None:
    provider.after["create"].append(unavailable())
    deploy_id = await cloud_of(provider, retries=1).create(CALL, record=Book().record)
    assert provider.alive() == [deploy_id]
    assert provider.count("create") == 2


async def test_an_unanswered_create_without_token_is_not_retried(provider: FakeCloud) -> None:
    provider.is_create_repeatable = False
    provider.after["create"].append(unavailable())
    with pytest.raises(ProviderUnavailable):
        await cloud_of(provider, retries=5).create(CALL, record=Book().record)
    assert provider.count("create") == 1


async def test_a_throttled_create_without_token_is_retried(provider: FakeCloud) -> None:
    provider.is_create_repeatable = False
    provider.before["create"].extend([Throttled("slow"), Throttled("slow")])
    await cloud_of(provider, retries=0).create(CALL, record=Book().record)
    assert provider.count("create") == 3
    assert len(provider.alive()) == 1


async def test_a_create_is_recorded_although_its_caller_was_cancelled(provider: FakeCloud) -> None:
    is_answered = asyncio.Event()
    provider.before["create"].append(is_answered)
    cloud, book = cloud_of(provider), Book()
    caller = asyncio.create_task(cloud.create(CALL, record=book.record))
    await turns()
    caller.cancel()
    await turns()
    assert caller.cancelled()
    is_answered.set()
    await until(lambda: bool(book.ids), "the record")
    assert book.ids == provider.alive()


async def test_create_under_way_returns_the_id_when_the_create_is_answered(provider: FakeCloud) -> None:
    is_answered = asyncio.Event()
    provider.before["create"].append(is_answered)
    cloud, book = cloud_of(provider), Book()
    caller = asyncio.create_task(cloud.create(CALL, record=book.record))
    await turns()
    waiting = asyncio.create_task(cloud.create_under_way(CALL.token))
    caller.cancel()
    await turns()
    assert not waiting.done()
    is_answered.set()
    assert await waiting == book.ids[0]
    assert await cloud.create_under_way(CALL.token) is None, "the create has ended"


async def test_create_under_way_returns_none_if_the_create_fails(provider: FakeCloud) -> None:
    is_answered = asyncio.Event()
    provider.before["create"].extend([is_answered])
    provider.after["create"].append(QuotaExceeded("no more"))
    cloud = cloud_of(provider)
    caller = asyncio.create_task(cloud.create(CALL, record=Book().record))
    await turns()
    waiting = asyncio.create_task(cloud.create_under_way(CALL.token))
    await turns()
    is_answered.set()
    assert await waiting is None
    with pytest.raises(QuotaExceeded):
        await caller


async def test_create_under_way_returns_none_if_the_settings_are_replaced(provider: FakeCloud) -> None:
    """A debt, for example, waits only for the instance of the create, and does not retry with other settings."""
    provider.before["create"].append(NotReached("refused"))
    cloud = cloud_of(provider, patience=Patience.OUTAGE, is_current=lambda: False)
    caller = asyncio.create_task(cloud.create(CALL, record=Book().record))
    await turns()
    assert await cloud.create_under_way(CALL.token) is None
    with pytest.raises(SettingsReplaced):
        await caller


async def test_a_create_that_fails_after_its_caller_was_cancelled_logs_no_stray_error(provider: FakeCloud) -> None:
    stray: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
    is_answered = asyncio.Event()
    provider.before["create"].append(is_answered)
    provider.after["create"].append(QuotaExceeded("no more"))
    caller = asyncio.create_task(cloud_of(provider).create(CALL, record=Book().record))
    await turns()
    caller.cancel()
    is_answered.set()
    await turns(50)
    gc.collect()
    await turns()
    assert not stray


@pytest.mark.parametrize("refusal", [QuotaExceeded("no more"), NoCapacity("no room"), BadParameter("no")])
async def test_a_refused_retry_of_an_unanswered_create_counts_as_unanswered(
    provider: FakeCloud, refusal: ProviderError
) -> None:
    """The first try may have made the instance that now uses up the quota."""
    provider.after["create"].append(unavailable())
    provider.before["create"].extend([PASSES, refusal])
    book = Book()
    with pytest.raises(ProviderUnavailable) as caught:
        await cloud_of(provider, retries=1).create(CALL, record=book.record)
    assert str(caught.value) == f"{refusal} (and an earlier try was not answered)"
    assert (len(provider.alive()), book.doubts) == (1, 1)


async def test_a_refused_retry_of_a_create_that_timed_out_counts_as_unanswered(provider: FakeCloud) -> None:
    provider.after["create"].append(asyncio.Event())
    provider.before["create"].extend([PASSES, QuotaExceeded("no more")])
    book = Book()
    with pytest.raises(ProviderUnavailable):
        await cloud_of(provider, retries=1).create(CALL, record=book.record)
    assert (len(provider.alive()), book.doubts) == (1, 1)


async def test_a_spent_token_at_the_retry_of_an_unanswered_create_is_raised_as_such(provider: FakeCloud) -> None:
    provider.after["create"].append(unavailable())
    provider.before["create"].extend([PASSES, TokenSpent("its instance is terminated")])
    with pytest.raises(TokenSpent):
        await cloud_of(provider, retries=1).create(CALL, record=Book().record)


async def test_a_create_that_stays_unanswered_is_recorded_as_uncertain(provider: FakeCloud) -> None:
    provider.always["create"] = unavailable()
    book = Book()
    with pytest.raises(ProviderUnavailable):
        await cloud_of(provider, retries=2).create(CALL, record=book.record)
    assert (book.ids, book.doubts) == ([], 1)


async def test_a_refused_create_is_not_recorded_as_uncertain(provider: FakeCloud) -> None:
    provider.always["create"] = QuotaExceeded("no more")
    book = Book()
    with pytest.raises(QuotaExceeded):
        await cloud_of(provider, retries=2).create(CALL, record=book.record)
    assert (book.ids, book.doubts) == ([], 0)


@pytest.mark.parametrize("error", [Throttled("slow"), unavailable()], ids=["throttled", "unavailable"])
async def test_a_create_is_not_retried_after_its_caller_was_cancelled(
    provider: FakeCloud, error: ProviderError
) -> None:
    provider.always["create"] = error
    book = Book()
    caller = asyncio.create_task(cloud_of(provider, retries=1000).create(CALL, record=book.record))
    await pass_time(30)
    caller.cancel()
    await turns()
    tries = provider.count("create")
    await pass_time(1000)
    assert provider.count("create") == tries
    assert book.ids == []


async def test_after_an_edit_of_the_settings_a_create_under_way_is_shared_and_not_repeated(provider: FakeCloud) -> None:
    """Editing the configuration makes a second Cloud while a create is under way."""
    knowledge = Knowledge()
    before = cloud_of(provider, knowledge=knowledge)
    after = cloud_of(provider, knowledge=knowledge)
    is_answered = asyncio.Event()
    provider.before["create"].append(is_answered)
    book = Book()
    first = asyncio.create_task(before.create(CALL, record=book.record))
    await turns()
    second = asyncio.create_task(after.create(CALL, record=book.record))
    third = asyncio.create_task(after.create_under_way(CALL.token))
    await turns()
    is_answered.set()
    assert {await first, await second, await third} == set(provider.instances)
    assert provider.count("create") == 1


async def test_closing_one_cloud_cancels_only_its_own_creates(provider: FakeCloud) -> None:
    knowledge = Knowledge()
    before = cloud_of(provider, knowledge=knowledge)
    after = cloud_of(provider, knowledge=knowledge)
    is_answered = asyncio.Event()
    provider.always["create"] = is_answered
    other = CreateCall(identity=identity_of(8), token="token-2", parameters={})
    kept = asyncio.create_task(after.create(other, record=Book().record))
    ended = asyncio.create_task(before.create(CALL, record=Book().record))
    await turns()
    await before.shared.close()
    await turns()
    is_answered.set()
    assert await kept in provider.instances
    assert ended.cancelled()


# Closing


async def test_closing_cancels_calls_under_way_and_closes_the_provider(provider: FakeCloud) -> None:
    provider.always["describe"] = asyncio.Event()
    provider.always["create"] = asyncio.Event()
    cloud = cloud_of(provider, call_timeout=1000)
    waiting = [
        asyncio.create_task(cloud.lookup_one(DeployId("i-1"))),
        asyncio.create_task(cloud.create(CALL, record=Book().record)),
    ]
    await turns()
    waiting.append(asyncio.create_task(cloud.lookup_one(DeployId("i-2"))))
    await turns()
    await cloud.shared.close()
    async with asyncio.timeout(1):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError | ProviderError) for result in results)
    assert provider.is_closed
    assert now() == 0


async def test_watch_fails_at_once_if_the_cloud_reports_the_instance_failed(provider: FakeCloud) -> None:
    cloud = cloud_of(provider)
    deploy_id = provider.add(identity_of(), InstanceState.UNKNOWN, reason="no host fits")
    with pytest.raises(WrongState, match=f"^instance {deploy_id} is .*: no host fits$"):
        await cloud.watch(deploy_id, frozenset({InstanceState.RUNNING}), goal="running")
    await cloud.shared.close()
