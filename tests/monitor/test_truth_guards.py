"""What keeps a VM from being called something that it is not: one test for each condition that no other test proves."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.journal.records import Answered, Attempt, AttemptState
from one_provider_mad.monitor.activity import Activity
from one_provider_mad.monitor.truth import Judgement, Listing, Memory, Rules, judge, set_back
from one_provider_mad.monitor.whose import Known
from one_provider_mad.protocol.reports import VmWord
from tests.monitor.worlds import (
    IDLE,
    NOW,
    OWNER,
    all_vms,
    attempt_of,
    busy_with,
    instance_of,
    listing_of,
    seen_then,
    through,
    wild,
    words,
)

GRACE = Rules(owner=OWNER, grace=300)
DEAD = InstanceState.TERMINATED

Look = tuple[Listing, Activity]


def look_at(*instances: Instance, after: float, activity: Activity = IDLE) -> Look:
    return listing_of(*instances, after=after), activity


def fleet(*numbers: int, state: InstanceState = InstanceState.RUNNING) -> list[Instance]:
    return [instance_of(number, state) for number in numbers]


def parked(*vm_ids: int, busy: Iterable[int] = ()) -> Activity:
    return Activity(parked=frozenset(DeployId(f"i-{vm_id}") for vm_id in vm_ids), busy=frozenset(map(VmId, busy)))


def named(judgement: Judgement) -> list[tuple[str, VmWord]]:
    """The instances that VMs are spoken of by, and what is said."""
    return [(vm.state.deploy_id, vm.state.state) for vm in all_vms(judgement)]


def ended(vm_id: int, *, after: float, attempts: tuple[Attempt, ...] = (), action: str = "CLEANUP") -> Activity:
    """The instance of a VM was destroyed so many seconds after the first listing began."""
    answer = Answered(action=action, at=NOW + after, has_ended=True)
    return Activity(attempts=attempts, answered={VmId(vm_id): answer})


# What was created


def test_what_was_created_and_destroyed_again_is_not_named_for_the_grace() -> None:
    made = attempt_of(8, AttemptState.CREATED, after=3, deploy_id="i-8")
    later = look_at(after=10, activity=ended(8, after=8, attempts=(made,), action="SHUTDOWN"))
    assert seen_then(later, rules=GRACE) == {}


@pytest.mark.parametrize("answered_at", [0.0, NOW + 12.5], ids=["sent", "answered"])
def test_the_end_of_the_instance_before_is_not_that_of_the_one_made_right_after_it(answered_at: float) -> None:
    """A CLEANUP and the DEPLOY after it may be answered within the same tenth of a second."""
    made = attempt_of(7, AttemptState.CREATED, after=12.1, deploy_id="i-new", seq=1)
    made = msgspec.structs.replace(made, answered_at=answered_at)
    activity = ended(7, after=12, attempts=(made,))
    steps = [look_at(instance_of(7), after=0), look_at(instance_of(7, DEAD), after=10, activity=activity)]
    assert named(through(steps)) == [("i-new", VmWord.UNKNOWN)]
    steps = [look_at(instance_of(7), after=0), look_at(after=30, activity=activity)]
    assert named(through(steps)) == [("i-new", VmWord.UNKNOWN)], "nor once it should be shown"


def test_a_create_that_took_longer_than_what_happened_meanwhile_has_made_the_instance() -> None:
    made = msgspec.structs.replace(
        attempt_of(7, AttemptState.CREATED, after=-50, deploy_id="i-new", seq=1), answered_at=NOW + 12
    )
    activity = ended(7, after=5, attempts=(made,))
    steps = [look_at(instance_of(7), after=0), look_at(after=10, activity=activity)]
    assert named(through(steps)) == [("i-new", VmWord.UNKNOWN)]


def test_a_create_that_was_sent_after_an_end_keeps_its_host_from_being_synced() -> None:
    for sent in (12.1, 20):
        opened = attempt_of(7, AttemptState.OPEN, after=sent, seq=1)
        activity = ended(7, after=12, attempts=(opened,))
        judgement = through([look_at(instance_of(7), after=0), look_at(after=10, activity=activity)])
        assert (judgement.unsynced, words(judgement)) == (frozenset({3}), {7: "UNKNOWN"})


def test_a_create_that_is_tried_again_is_not_the_dead_instance_of_the_first_try() -> None:
    again = msgspec.structs.replace(attempt_of(7, AttemptState.OPEN, after=12), number=2)
    look = look_at(instance_of(7, DEAD), after=10, activity=Activity(attempts=(again,)))
    assert judge(Memory(), *look, Rules(owner=OWNER)).unsynced == {3}


def test_a_create_that_a_listing_would_show_keeps_no_host_from_being_synced() -> None:
    opened = Activity(attempts=(attempt_of(8, AttemptState.OPEN, after=3),))
    steps = [look_at(instance_of(7), after=0), look_at(instance_of(7), after=30, activity=opened)]
    assert through(steps).unsynced == frozenset()


@pytest.mark.parametrize("order", [1, -1], ids=["older-first", "newer-first"])
@pytest.mark.parametrize(
    ("latest", "others"),
    [
        pytest.param({"seq": 1}, {"state": AttemptState.CREATED, "deploy_id": "i-old"}, id="an-earlier-life"),
        pytest.param({"number": 2}, {"state": AttemptState.OPEN}, id="an-earlier-try"),
        pytest.param({}, {"state": AttemptState.REFUSED, "number": 2}, id="a-later-try-in-vain"),
    ],
)
def test_of_several_attempts_the_last_that_may_have_made_something_counts(
    latest: dict[str, int], others: dict[str, object], order: int
) -> None:
    made = attempt_of(8, AttemptState.CREATED, after=12, deploy_id="i-new", seq=latest.get("seq", 0))
    made = msgspec.structs.replace(made, number=latest.get("number", 1))
    other = msgspec.structs.replace(attempt_of(8, AttemptState.CREATED, after=11), **others)
    judgement = judge(Memory(), *look_at(after=10, activity=Activity(attempts=(made, other)[::order])), GRACE)
    assert (named(judgement), judgement.unsynced) == ([("i-new", VmWord.UNKNOWN)], frozenset())


def test_a_slow_create_is_as_young_as_its_answer() -> None:
    made = msgspec.structs.replace(attempt_of(8, AttemptState.CREATED, after=-50, deploy_id="i-8"), answered_at=NOW + 1)
    assert words(through([look_at(after=0, activity=Activity(attempts=(made,)))])) == {8: "UNKNOWN"}


def test_what_the_cloud_need_not_show_yet_is_not_missed_however_often_it_is_listed() -> None:
    made = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=5, deploy_id="i-8"),))
    later = [look_at(after=10.0 * n, activity=made) for n in range(1, 9)]
    assert seen_then(*later, rules=GRACE) == {8: "UNKNOWN"}


def test_a_vm_whose_next_instance_has_no_id_yet_is_not_missed_either() -> None:
    opened = Activity(attempts=(attempt_of(7, AttemptState.OPEN, after=5, seq=1),))
    later = [look_at(after=10.0 * n, activity=opened) for n in range(1, 9)]
    assert seen_then(*later, first=[instance_of(7)], rules=GRACE) == {7: "UNKNOWN"}


def test_what_was_seen_of_an_instance_since_its_create_is_not_forgotten_for_what_the_create_said() -> None:
    made = Activity(attempts=(attempt_of(7, AttemptState.CREATED, after=1, deploy_id="i-7"),))
    steps = [look_at(instance_of(7, host_id=4), after=10, activity=made), look_at(after=20, activity=made)]
    judgement = through(steps, rules=GRACE)
    assert (words(judgement, 3), words(judgement, 4)) == ({}, {7: "UNKNOWN"})


def test_a_create_of_an_earlier_life_does_not_take_the_place_of_a_later_one() -> None:
    made = Activity(attempts=(attempt_of(7, AttemptState.CREATED, after=1, deploy_id="i-mid", seq=1),))
    steps = [look_at(instance_of(7, seq=2), after=0), look_at(after=10, activity=made)]
    assert named(through(steps)) == [("i-7", VmWord.UNKNOWN)]


def test_an_instance_that_was_made_and_has_a_successor_is_not_wild_before_its_tags_show() -> None:
    attempts = [
        attempt_of(8, AttemptState.CREATED, after=1, deploy_id=deploy_id, seq=seq)
        for seq, deploy_id in enumerate(["i-old", "i-new"])
    ]
    activity = Activity(attempts=tuple(attempts))
    assert judge(Memory(), *look_at(wild("i-old"), after=0, activity=activity), GRACE).wilds == []


# Whose


def test_a_copy_of_an_instance_is_not_its_vm() -> None:
    copy = instance_of(7, InstanceState.STOPPED, deploy_id="i-copy")
    steps = [look_at(instance_of(7), after=0), look_at(copy, instance_of(7), after=10)]
    assert named(through(steps)) == [("i-7", VmWord.RUNNING)]


def test_a_copy_of_an_instance_whose_tags_were_rewritten_is_not_its_vm() -> None:
    copy = msgspec.structs.replace(instance_of(7, InstanceState.STOPPED, deploy_id="i-copy", seq=1), created_at=9.0)
    for pair in ([copy, instance_of(7, seq=1)], [instance_of(7, seq=1), copy]):
        steps = [look_at(instance_of(7), after=0), look_at(*pair, after=10)]
        assert named(through(steps)) == [("i-7", VmWord.RUNNING)]


@pytest.mark.parametrize("order", [1, -1], ids=["older-first", "newer-first"])
def test_of_two_that_nobody_has_seen_before_the_one_made_last_counts(order: int) -> None:
    older = msgspec.structs.replace(instance_of(7, InstanceState.STOPPED, deploy_id="i-older"), created_at=1.0)
    newer = msgspec.structs.replace(instance_of(7, deploy_id="i-newer"), created_at=2.0)
    assert named(through([look_at(*[older, newer][::order], after=0)])) == [("i-newer", VmWord.RUNNING)]


# Parked


def test_a_parked_instance_that_is_not_listed_is_neither_named_nor_missed() -> None:
    away = [look_at(after=10.0 * n, activity=parked(7)) for n in range(1, 9)]
    back = look_at(after=90, activity=parked(7, busy=(7,)))
    assert seen_then(*away, first=[instance_of(7)]) == {}
    assert seen_then(*away, back, first=[instance_of(7)]) == {7: "UNKNOWN"}
    assert seen_then(*away, back, look_at(after=100), first=[instance_of(7)]) == {7: "UNKNOWN"}


@pytest.mark.parametrize("shown", [fleet(7, state=InstanceState.STOPPED), []], ids=["listed", "not-listed"])
def test_it_is_remembered_which_instances_are_parked(shown: list[Instance]) -> None:
    """For reports while the cloud cannot be asked: what is named then would be a zombie."""
    steps = [look_at(instance_of(7), after=0), look_at(*shown, after=10, activity=parked(7))]
    assert through(steps).memory.vms[VmId(7)].is_parked
    for later in (look_at(*shown, after=20), look_at(instance_of(7), after=20)):
        assert not through([*steps, later]).memory.vms[VmId(7)].is_parked


def test_a_parked_instance_that_is_terminated_is_missing_like_any_other() -> None:
    stopped = look_at(instance_of(7, InstanceState.STOPPED), after=10, activity=parked(7))
    later = [look_at(instance_of(7, DEAD), after=20), look_at(after=30)]
    assert seen_then(stopped, *later, first=[instance_of(7)]) == {7: "(FAILURE)"}


# What is missing


def test_an_action_under_way_names_what_was_missing_however_little_it_takes_to_be_missing() -> None:
    away = [look_at(after=10.0 * n) for n in range(1, 5)]
    assert seen_then(*away, look_at(after=60, activity=busy_with(7)), first=[instance_of(7)]) == {7: "UNKNOWN"}
    rules = Rules(owner=OWNER, missing_after=1)
    busy = look_at(after=10, activity=busy_with(7))
    assert seen_then(busy, first=[instance_of(7)], rules=rules) == {7: "UNKNOWN"}


@pytest.mark.parametrize("shown", [fleet(7, state=DEAD), []], ids=["terminated", "not-listed"])
def test_an_instance_that_was_ended_is_named_while_another_action_is_under_way(shown: list[Instance]) -> None:
    activity = msgspec.structs.replace(ended(7, after=5), busy=frozenset({VmId(7)}))
    assert seen_then(look_at(*shown, after=10, activity=activity), first=[instance_of(7)]) == {7: "UNKNOWN"}


def test_an_instance_that_was_terminated_stays_missing_when_the_cloud_shows_it_no_more() -> None:
    terminated = look_at(instance_of(7, DEAD), after=10)
    assert seen_then(terminated, look_at(after=20), first=[instance_of(7)]) == {7: "(FAILURE)"}


@pytest.mark.parametrize("shown", [fleet(7, state=DEAD), []], ids=["terminated", "not-listed"])
def test_what_is_missing_is_forgotten_an_hour_after_it_came_to_be_so(shown: list[Instance]) -> None:
    away = [look_at(*shown, after=seconds) for seconds in (10, 20, 30, 2000, 3600)]
    assert seen_then(*away, first=[instance_of(7)]) == {7: "(FAILURE)"}
    assert seen_then(*away, look_at(*shown, after=3700), first=[instance_of(7)]) == {}


def test_the_hour_begins_when_an_instance_counts_as_missing_and_not_when_it_was_missed_first() -> None:
    away = [look_at(after=seconds) for seconds in (10, 3000, 3605, 3620)]
    assert seen_then(*away, first=[instance_of(7)]) == {7: "(FAILURE)"}


@pytest.mark.parametrize("shown", [fleet(7, state=DEAD), []], ids=["terminated", "not-listed"])
def test_it_is_the_last_look_that_showed_an_instance_after_which_an_end_explains_that_it_is_gone(
    shown: list[Instance],
) -> None:
    rules = Rules(owner=OWNER, missing_after=1)
    steps = [look_at(instance_of(7), after=0), look_at(*shown, after=10), look_at(*shown, after=20)]
    for at, said in ((5, {}), (-5, {7: "(FAILURE)"})):
        look = look_at(*shown, after=30, activity=ended(7, after=at))
        assert words(through([*steps, look], rules=rules)) == said


def test_an_end_before_an_instance_was_seen_again_does_not_explain_that_it_is_gone() -> None:
    steps = [look_at(instance_of(7), after=0), look_at(after=10), look_at(after=20, activity=busy_with(7))]
    steps += [look_at(instance_of(7), after=30), look_at(after=40, activity=ended(7, after=15))]
    assert words(through(steps)) == {7: "UNKNOWN"}


def test_what_was_missing_before_an_action_does_not_hasten_what_is_missing_after_it() -> None:
    away = [look_at(after=10.0 * n) for n in range(1, 4)]
    again = [
        look_at(after=40, activity=busy_with(7)),
        *[look_at(after=seconds) for seconds in (4000, 4010, 4020, 4030)],
    ]
    assert seen_then(*away, *again, first=[instance_of(7)]) == {7: "(FAILURE)"}


def test_what_was_missed_before_anything_else_was_remembered_is_missed_anew_once_it_was_seen() -> None:
    made = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=-90, deploy_id="i-8"),))
    steps = [look_at(after=0, activity=made), look_at(instance_of(8), after=10, activity=made)]
    assert words(through([*steps, *[look_at(after=10.0 * n, activity=made) for n in (2, 3)]])) == {8: "UNKNOWN"}


def test_what_was_created_is_missed_by_the_first_listing_that_should_show_it() -> None:
    made = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=3, deploy_id="i-8"),))
    rules = Rules(owner=OWNER, missing_after=1)
    assert seen_then(look_at(after=30, activity=made), rules=rules) == {8: "(FAILURE)"}


def test_that_an_earlier_instance_is_young_does_not_make_the_latest_one_so() -> None:
    made = Activity(attempts=(attempt_of(7, AttemptState.CREATED, after=200, deploy_id="i-mid", seq=1),))
    away = [look_at(after=after, activity=made) for after in (10, 20, 310)]
    assert seen_then(*away, first=[instance_of(7, seq=2)], rules=GRACE) == {7: "(FAILURE)"}


def test_a_leftover_never_becomes_its_vms_instance_however_long_the_later_one_is_missing() -> None:
    left, own = instance_of(7), instance_of(7, seq=2, deploy_id="i-new")
    away = [look_at(left, after=seconds) for seconds in (10, 20, 30, 3700, 3710)]
    assert named(through([look_at(left, own, after=0), *away])) == [("i-new", VmWord.FAILURE)]


def test_a_leftover_never_becomes_its_vms_instance_however_long_the_later_one_is_terminated() -> None:
    left, own, dead = instance_of(7), instance_of(7, seq=2, deploy_id="i-new"), instance_of(7, DEAD, seq=2)
    dead = msgspec.structs.replace(dead, deploy_id=own.deploy_id)
    steps = [look_at(own, after=0), look_at(dead, after=10), look_at(left, dead, after=3700), look_at(left, after=3710)]
    assert named(through(steps)) == [("i-new", VmWord.UNKNOWN)]


def test_a_leftover_does_not_become_its_vms_instance_when_the_later_one_has_lost_its_tags() -> None:
    left = instance_of(7, InstanceState.STOPPED, deploy_id="i-left", seq=1)
    steps = [look_at(instance_of(7, seq=2), after=0), look_at(after=10), look_at(wild("i-7"), after=20)]
    assert named(through([*steps, look_at(wild("i-7"), left, after=30)])) == [("i-7", VmWord.RUNNING)]


def test_a_leftover_does_not_become_its_vms_instance_when_the_tags_of_the_later_one_were_rewritten() -> None:
    left = instance_of(7, InstanceState.STOPPED, deploy_id="i-left", seq=1)
    steps = [look_at(instance_of(7), after=0), look_at(instance_of(7, seq=2), after=10), look_at(left, after=20)]
    assert named(through(steps)) == [("i-7", VmWord.UNKNOWN)]


# The clock


def test_a_clock_that_is_set_back_sets_back_whatever_is_remembered_by_it() -> None:
    def memory(at: float, *, never: float = 0.0) -> Memory:
        known = Known(vm_id=VmId(7), host_id=3, deploy_id=DeployId("i-7"), misses=3)
        one = msgspec.structs.replace(known, made_at=at, seen_at=at + 1, missing_since=at + 2, held_since=at + 3)
        two = msgspec.structs.replace(known, vm_id=VmId(8), made_at=never, held_since=never)
        return Memory(vms={each.vm_id: each for each in (one, two)}, listed_at=at + 4, held_since=at + 3)

    assert set_back(memory(NOW), 100.0) == memory(NOW - 100)
    assert set_back(Memory(), 100.0) == Memory(), "what has not happened has not happened earlier either"


def test_what_was_created_before_a_listing_of_tomorrow_is_named_as_well() -> None:
    """What is remembered is of an earlier process, since which the clock was set back."""
    made = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=1, deploy_id="i-8"),))
    judgement = judge(Memory(listed_at=NOW + 1000), *look_at(after=0, activity=made), Rules(owner=OWNER))
    assert words(judgement) == {8: "UNKNOWN"}
