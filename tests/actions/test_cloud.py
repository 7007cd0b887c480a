from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable

import pytest

from one_provider_mad.actions.cloud import Cloud, Knowledge, Patience, SettingsReplaced, patience, waiting_for
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


def cloud_of(provider: FakeCloud, *, retries: int = 0, call_timeout: float = 60.0) -> Cloud:
    return Cloud(provider, owner=OWNER, retries=retries, call_timeout=call_timeout)


def unavailable() -> ProviderUnavailable:
    return ProviderUnavailable("fake did not answer")


def now() -> float:
    return asyncio.get_running_loop().time()


# Again, or not


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
async def test_a_call_without_answer_is_sent_so_many_more_times_as_retries_say(
    provider: FakeCloud, retries: int
) -> None:
    provider.always["find"] = unavailable()
    with pytest.raises(ProviderUnavailable, match="fake did not answer"):
        await cloud_of(provider, retries=retries).find(identity_of().vm_id)
    assert provider.count("find") == 1 + retries


async def test_a_call_that_succeeds_at_last_is_a_success(provider: FakeCloud) -> None:
    deploy_id = provider.add(identity_of())
    provider.before["find"].extend([unavailable(), unavailable()])
    found = await cloud_of(provider, retries=2).find(identity_of().vm_id)
    assert [instance.deploy_id for instance in found] == [deploy_id]
    assert provider.count("find") == 3


async def test_pauses_between_tries_grow_and_stay_bounded(provider: FakeCloud) -> None:
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
async def test_a_definite_refusal_is_never_sent_again(provider: FakeCloud, error: ProviderError) -> None:
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


async def test_a_defect_of_a_provider_is_not_sent_again(provider: FakeCloud) -> None:
    provider.always["find"] = KeyError("reservations")
    with pytest.raises(KeyError):
        await cloud_of(provider, retries=5).find(identity_of().vm_id)
    assert provider.count("find") == 1


# Throttled


async def test_a_throttled_call_is_paced_without_counting_as_a_retry(provider: FakeCloud) -> None:
    provider.before["find"].extend(Throttled("slow down") for _ in range(30))
    assert await cloud_of(provider, retries=0).find(identity_of().vm_id) == []
    assert provider.count("find") == 31


@pytest.mark.parametrize("place", [0, 1], ids=["at first", "later"])
async def test_the_pause_that_the_cloud_asks_for_is_kept(provider: FakeCloud, place: int) -> None:
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
async def test_one_throttled_look_keeps_nobody_waiting_for_more_than_half_a_minute(
    provider: FakeCloud, asked: float
) -> None:
    deploy_id = provider.add(identity_of(), state=InstanceState.RUNNING)
    provider.before["describe"].extend(Throttled("slow down", retry_after=asked) for _ in range(2))
    cloud = cloud_of(provider)
    begun = now()
    shared = await asyncio.gather(*(cloud.look_at(deploy_id) for _ in range(3)))
    assert all(shared)
    assert 0.4 <= now() - begun <= 60


async def test_being_throttled_uses_up_no_retry(provider: FakeCloud) -> None:
    provider.before["find"].extend([Throttled("slow"), unavailable(), Throttled("slow"), unavailable()])
    assert await cloud_of(provider, retries=2).find(identity_of().vm_id) == []
    provider.before["find"].extend([Throttled("slow"), unavailable(), Throttled("slow"), unavailable()])
    with pytest.raises(ProviderUnavailable):
        await cloud_of(provider, retries=1).find(identity_of().vm_id)


async def test_pacing_ends_with_the_callers_deadline(provider: FakeCloud) -> None:
    provider.always["find"] = Throttled("slow down")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(90):
            await cloud_of(provider).find(identity_of().vm_id)
    calls = provider.count("find")
    assert calls > 5
    assert now() == pytest.approx(90)
    await pass_time(600)
    assert provider.count("find") == calls


# Each call is bounded


async def test_a_call_that_hangs_counts_as_unanswered(provider: FakeCloud) -> None:
    provider.always["find"] = asyncio.Event()
    with pytest.raises(ProviderUnavailable) as caught:
        await cloud_of(provider, call_timeout=30).find(identity_of().vm_id)
    assert str(caught.value) == "fake did not answer find by tags within 30 s"
    assert now() == pytest.approx(30)


async def test_a_call_that_hangs_is_retried_like_any_unanswered_one(provider: FakeCloud) -> None:
    provider.before["find"].append(asyncio.Event())
    assert await cloud_of(provider, retries=1, call_timeout=30).find(identity_of().vm_id) == []
    assert provider.count("find") == 2


async def test_a_providers_own_timeout_error_is_its_defect_not_our_limit(provider: FakeCloud) -> None:
    provider.always["find"] = TimeoutError("somewhere inside")
    with pytest.raises(TimeoutError, match="somewhere inside"):
        await cloud_of(provider, retries=3).find(identity_of().vm_id)
    assert now() == 0


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        pytest.param(lambda cloud: cloud.find(identity_of().vm_id), "find by tags", id="find"),
        pytest.param(lambda cloud: cloud.look_at(DeployId("i-1")), "describe", id="look"),
        pytest.param(lambda cloud: cloud.watch(DeployId("i-1"), RUNNING, goal="running"), "describe", id="watch"),
    ],
)
async def test_who_waits_can_tell_what_for(provider: FakeCloud, ask: Callable[[Cloud], object], words: str) -> None:
    for operation in ("find", "describe"):
        provider.always[operation] = Throttled("slow down")
    cloud = cloud_of(provider)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await ask(cloud)  # type: ignore[misc]
    assert words in waiting_for.get()
    await cloud.close()


# Looking


async def test_those_who_look_at_once_share_one_call(provider: FakeCloud) -> None:
    ids = [provider.add() for _ in range(100)]
    cloud = cloud_of(provider)
    seen = await asyncio.gather(*(cloud.look_at(deploy_id) for deploy_id in ids))
    assert [instance and instance.deploy_id for instance in seen] == ids
    assert provider.calls == [("describe", sorted(ids))]


async def test_those_who_look_meanwhile_share_the_next_call(provider: FakeCloud) -> None:
    first, *others = [provider.add() for _ in range(10)]
    is_answered = asyncio.Event()
    provider.before["describe"].append(is_answered)
    cloud = cloud_of(provider)
    begun = asyncio.create_task(cloud.look_at(first))
    await turns()
    later = [asyncio.create_task(cloud.look_at(deploy_id)) for deploy_id in others]
    await turns()
    assert provider.count("describe") == 1, "what is under way may have looked before they asked"
    is_answered.set()
    await asyncio.gather(begun, *later)
    assert provider.calls == [("describe", [first]), ("describe", sorted(others))]


async def test_an_id_that_the_cloud_does_not_know_is_none(provider: FakeCloud) -> None:
    assert await cloud_of(provider).look_at(DeployId("i-404")) is None


async def test_a_failing_look_fails_all_who_wait_for_it_and_nobody_else(provider: FakeCloud) -> None:
    deploy_id = provider.add()
    provider.before["describe"].append(PermissionDenied("no"))
    cloud = cloud_of(provider)
    results = await asyncio.gather(*(cloud.look_at(deploy_id) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [PermissionDenied] * 5
    assert provider.count("describe") == 1
    assert await cloud.look_at(deploy_id) is not None


async def test_a_defect_while_looking_fails_those_who_wait_and_the_next_look_works(provider: FakeCloud) -> None:
    deploy_id = provider.add()
    provider.before["describe"].append(KeyError("reservations"))
    cloud = cloud_of(provider)
    with pytest.raises(KeyError):
        await cloud.look_at(deploy_id)
    assert await cloud.look_at(deploy_id) is not None


async def test_who_stops_waiting_takes_the_look_from_nobody(provider: FakeCloud) -> None:
    deploy_id = provider.add()
    is_answered = asyncio.Event()
    provider.before["describe"].append(is_answered)
    cloud = cloud_of(provider)
    hasty = asyncio.create_task(cloud.look_at(deploy_id))
    patient = asyncio.create_task(cloud.look_at(deploy_id))
    await turns()
    hasty.cancel()
    await turns()
    is_answered.set()
    assert await patient is not None
    assert provider.count("describe") == 1


async def test_a_look_that_fails_when_everybody_has_gone_is_no_stray_error(provider: FakeCloud) -> None:
    stray: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
    is_answered = asyncio.Event()
    provider.before["describe"].extend([is_answered, PermissionDenied("no")])
    cloud = cloud_of(provider)
    looker = asyncio.create_task(cloud.look_at(DeployId("i-1")))
    await turns()
    second = asyncio.create_task(cloud.look_at(DeployId("i-2")))
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


async def test_a_watch_ends_when_the_state_has_come(provider: FakeCloud) -> None:
    deploy_id = await provider.create(CreateCall(identity=identity_of(), token="t", parameters={}))
    instance = await cloud_of(provider).watch(deploy_id, RUNNING, goal="running")
    assert instance.state is InstanceState.RUNNING
    assert 5.0 <= now() <= 6.0


async def test_those_who_watch_at_once_share_the_looks(provider: FakeCloud) -> None:
    ids = [
        await provider.create(CreateCall(identity=identity_of(vm_id), token=f"t{vm_id}", parameters={}))
        for vm_id in range(50)
    ]
    cloud = cloud_of(provider)
    await asyncio.gather(*(cloud.watch(deploy_id, RUNNING, goal="running") for deploy_id in ids))
    assert provider.count("describe") <= 7


async def test_a_watch_outlives_an_outage(provider: FakeCloud) -> None:
    deploy_id = provider.add(state=InstanceState.RUNNING)
    provider.before["describe"].extend(unavailable() for _ in range(100))
    instance = await cloud_of(provider, retries=0).watch(deploy_id, RUNNING, goal="running")
    assert instance.state is InstanceState.RUNNING
    assert provider.count("describe") == 101


async def test_a_watch_tells_of_the_outage_and_of_the_state(provider: FakeCloud) -> None:
    deploy_id = provider.add(state=InstanceState.STOPPING, reason="the host is slow")
    provider.before["describe"].append(unavailable())
    told = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await cloud_of(provider).watch(deploy_id, STOPPED, goal="stopped")
    told.append(waiting_for.get())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await cloud_of(provider).watch(deploy_id, STOPPED | TERMINATED, goal="stopped")
    told.append(waiting_for.get())
    assert told == [
        f"{deploy_id} to be stopped (last answer: fake did not answer)",
        f"{deploy_id} to be stopped (it is stopping: the host is slow)",
    ]


@pytest.mark.parametrize("error", [AuthenticationRefused("bad key"), PermissionDenied("no")], ids=["key", "rights"])
async def test_a_watch_ends_with_an_error_that_will_not_pass(provider: FakeCloud, error: ProviderError) -> None:
    deploy_id = provider.add()
    provider.always["describe"] = error
    with pytest.raises(type(error)):
        await cloud_of(provider).watch(deploy_id, STOPPED, goal="stopped")


async def test_an_id_that_is_not_visible_yet_is_waited_for_within_the_grace(provider: FakeCloud) -> None:
    provider.lag = 8.0
    deploy_id = await provider.create(CreateCall(identity=identity_of(), token="t", parameters={}))
    assert (await cloud_of(provider).watch(deploy_id, RUNNING, goal="running", grace=10)).deploy_id == deploy_id


async def test_an_id_that_is_not_visible_after_the_grace_is_unknown(provider: FakeCloud) -> None:
    with pytest.raises(InstanceNotFound, match="i-404 is not known to the cloud any more"):
        await cloud_of(provider).watch(DeployId("i-404"), RUNNING, goal="running", grace=10)
    assert 10 <= now() <= 11


async def test_without_grace_an_unknown_id_is_unknown_at_once(provider: FakeCloud) -> None:
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
async def test_an_instance_that_ends_while_watched_says_why(provider: FakeCloud, reason: str, sentence: str) -> None:
    provider.add(state=InstanceState.TERMINATED, reason=reason)
    with pytest.raises(WrongState) as caught:
        await cloud_of(provider).watch(DeployId("i-1"), RUNNING, goal="running")
    assert str(caught.value) == sentence


async def test_whoever_waits_for_the_end_waits_until_it_has_come(provider: FakeCloud) -> None:
    deploy_id = provider.add()
    await provider.destroy(deploy_id)
    instance = await cloud_of(provider).watch(deploy_id, TERMINATED, goal="terminated")
    assert instance.state is InstanceState.TERMINATED
    assert now() >= 5


# Creating


PASSES = asyncio.Event()
PASSES.set()
"""An order that lets a call pass, before one that does not."""

CALL = CreateCall(identity=identity_of(), token="token-1", parameters={"size": "small"})


class Book:
    """Remembers the ids that it was told, and how often the answer was in doubt; takes its time over it."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.doubts = 0

    async def record(self, deploy_id: DeployId | None) -> None:
        await pass_time(1)
        if deploy_id is None:
            self.doubts += 1
        else:
            self.ids.append(deploy_id)


async def test_an_id_is_written_down_before_anybody_is_told(provider: FakeCloud) -> None:
    book = Book()
    deploy_id = await cloud_of(provider).create(CALL, record=book.record)
    assert book.ids == [deploy_id]


async def test_those_who_send_the_same_create_share_its_answer(provider: FakeCloud) -> None:
    book = Book()
    cloud = cloud_of(provider)
    ids = await asyncio.gather(*(cloud.create(CALL, record=book.record) for _ in range(5)))
    assert set(ids) == set(provider.instances)
    assert provider.count("create") == 1
    assert len(book.ids) == 1


async def test_a_create_that_reached_nobody_is_sent_again_wherever(provider: FakeCloud) -> None:
    provider.is_create_repeatable = False
    provider.before["create"].append(NotReached("fake is not there"))
    cloud = cloud_of(provider, retries=1)
    assert await cloud.create(CALL, record=Book().record) in provider.alive()


async def test_a_create_without_answer_is_sent_again_where_it_is_repeatable(provider: FakeCloud) -> None:
    provider.after["create"].append(unavailable())
    deploy_id = await cloud_of(provider, retries=1).create(CALL, record=Book().record)
    assert provider.alive() == [deploy_id]
    assert provider.count("create") == 2


async def test_a_create_without_answer_is_not_sent_again_where_that_would_make_two(provider: FakeCloud) -> None:
    provider.is_create_repeatable = False
    provider.after["create"].append(unavailable())
    with pytest.raises(ProviderUnavailable):
        await cloud_of(provider, retries=5).create(CALL, record=Book().record)
    assert provider.count("create") == 1


async def test_a_throttled_create_is_sent_again_even_so_since_it_was_not_carried_out(provider: FakeCloud) -> None:
    provider.is_create_repeatable = False
    provider.before["create"].extend([Throttled("slow"), Throttled("slow")])
    await cloud_of(provider, retries=0).create(CALL, record=Book().record)
    assert provider.count("create") == 3
    assert len(provider.alive()) == 1


async def test_a_create_goes_on_and_is_recorded_when_its_caller_is_cancelled(provider: FakeCloud) -> None:
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


async def test_a_create_under_way_can_be_waited_for(provider: FakeCloud) -> None:
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
    assert await cloud.create_under_way(CALL.token) is None, "it is over"


async def test_a_create_under_way_that_fails_yields_no_id(provider: FakeCloud) -> None:
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


async def test_a_create_under_way_that_gives_way_to_other_settings_yields_no_id(provider: FakeCloud) -> None:
    """Who waits for it only wants to know what it has made: a debt, say, that knows no settings."""
    provider.before["create"].append(NotReached("refused"))
    cloud = Cloud(provider, owner=OWNER, retries=0, call_timeout=60, is_current=lambda: False)
    patience.set(Patience.OUTAGE)
    caller = asyncio.create_task(cloud.create(CALL, record=Book().record))
    await turns()
    assert await cloud.create_under_way(CALL.token) is None
    with pytest.raises(SettingsReplaced):
        await caller


async def test_a_create_that_fails_when_its_caller_has_gone_is_no_stray_error(provider: FakeCloud) -> None:
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
async def test_a_refusal_after_a_doubtful_try_proves_nothing(provider: FakeCloud, refusal: ProviderError) -> None:
    """The first try may have made the very instance for which there is no room any more."""
    provider.after["create"].append(unavailable())
    provider.before["create"].extend([PASSES, refusal])
    book = Book()
    with pytest.raises(ProviderUnavailable) as caught:
        await cloud_of(provider, retries=1).create(CALL, record=book.record)
    assert str(caught.value) == f"{refusal} (and an earlier try was not answered)"
    assert (len(provider.alive()), book.doubts) == (1, 1)


async def test_a_refusal_after_a_try_that_timed_out_proves_nothing(provider: FakeCloud) -> None:
    provider.after["create"].append(asyncio.Event())
    provider.before["create"].extend([PASSES, QuotaExceeded("no more")])
    book = Book()
    with pytest.raises(ProviderUnavailable):
        await cloud_of(provider, retries=1).create(CALL, record=book.record)
    assert (len(provider.alive()), book.doubts) == (1, 1)


async def test_a_spent_token_after_a_doubtful_try_is_proof(provider: FakeCloud) -> None:
    provider.after["create"].append(unavailable())
    provider.before["create"].extend([PASSES, TokenSpent("its instance is terminated")])
    with pytest.raises(TokenSpent):
        await cloud_of(provider, retries=1).create(CALL, record=Book().record)


async def test_a_create_that_stays_without_answer_is_written_down_as_doubtful(provider: FakeCloud) -> None:
    provider.always["create"] = unavailable()
    book = Book()
    with pytest.raises(ProviderUnavailable):
        await cloud_of(provider, retries=2).create(CALL, record=book.record)
    assert (book.ids, book.doubts) == ([], 1)


async def test_a_refused_create_leaves_no_doubt(provider: FakeCloud) -> None:
    provider.always["create"] = QuotaExceeded("no more")
    book = Book()
    with pytest.raises(QuotaExceeded):
        await cloud_of(provider, retries=2).create(CALL, record=book.record)
    assert (book.ids, book.doubts) == ([], 0)


@pytest.mark.parametrize("error", [Throttled("slow"), unavailable()], ids=["throttled", "unavailable"])
async def test_a_create_is_not_sent_again_when_nobody_waits_for_it_any_more(
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


async def test_clouds_of_one_driver_share_what_is_being_created(provider: FakeCloud) -> None:
    """An edit of the configuration makes another one while a create is under way."""
    knowledge = Knowledge()
    before = Cloud(provider, owner=OWNER, retries=0, call_timeout=60, knowledge=knowledge)
    after = Cloud(provider, owner=OWNER, retries=0, call_timeout=60, knowledge=knowledge)
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


async def test_closing_one_cloud_ends_only_the_creates_that_it_has_sent(provider: FakeCloud) -> None:
    knowledge = Knowledge()
    before = Cloud(provider, owner=OWNER, retries=0, call_timeout=60, knowledge=knowledge)
    after = Cloud(provider, owner=OWNER, retries=0, call_timeout=60, knowledge=knowledge)
    is_answered = asyncio.Event()
    provider.always["create"] = is_answered
    other = CreateCall(identity=identity_of(8), token="token-2", parameters={})
    kept = asyncio.create_task(after.create(other, record=Book().record))
    ended = asyncio.create_task(before.create(CALL, record=Book().record))
    await turns()
    await before.close()
    await turns()
    is_answered.set()
    assert await kept in provider.instances
    assert ended.cancelled()


# Closing


async def test_closing_ends_what_is_under_way_and_closes_the_provider(provider: FakeCloud) -> None:
    provider.always["describe"] = asyncio.Event()
    provider.always["create"] = asyncio.Event()
    cloud = cloud_of(provider, call_timeout=1000)
    waiting = [
        asyncio.create_task(cloud.look_at(DeployId("i-1"))),
        asyncio.create_task(cloud.create(CALL, record=Book().record)),
    ]
    await turns()
    waiting.append(asyncio.create_task(cloud.look_at(DeployId("i-2"))))
    await turns()
    await cloud.close()
    async with asyncio.timeout(1):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError | ProviderError) for result in results)
    assert provider.is_closed
    assert now() == 0


async def test_an_instance_that_the_cloud_calls_failed_is_not_waited_for(provider: FakeCloud) -> None:
    cloud = Cloud(provider, owner=OWNER, retries=0, call_timeout=60)
    deploy_id = provider.add(identity_of(), InstanceState.UNKNOWN, reason="no host fits")
    with pytest.raises(WrongState, match=f"^instance {deploy_id} is .*: no host fits$"):
        await cloud.watch(deploy_id, frozenset({InstanceState.RUNNING}), goal="running")
    await cloud.close()
