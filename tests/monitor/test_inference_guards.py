"""Conditions that keep a VM from being reported wrongly: one test for each that no other test proves."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.journal.records import Answered, Attempt, AttemptState
from one_provider_mad.monitor.activity import Activity
from one_provider_mad.monitor.attribution import KnownInstance
from one_provider_mad.monitor.inference import Inference, Listing, Memory, Rules, infer_states, with_clock_set_back
from one_provider_mad.protocol.reports import VmWord
from tests.monitor.builders import (
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


def named(inference: Inference) -> list[tuple[str, VmWord]]:
    """The instances by which VMs are reported, with the reported states."""
    return [(vm.state.deploy_id, vm.state.state) for vm in all_vms(inference)]


def ended(vm_id: int, *, after: float, attempts: tuple[Attempt, ...] = (), action: str = "CLEANUP") -> Activity:
    """The instance of a VM was destroyed so many seconds after the first listing began."""
    answer = Answered(action=action, at=NOW + after, has_ended=True)
    return Activity(attempts=attempts, answered={VmId(vm_id): answer})


# Created instances


def test_a_vm_created_and_destroyed_again_within_the_grace_is_left_out() -> None:
    made = attempt_of(8, AttemptState.CREATED, after=3, deploy_id="i-8")
    later = look_at(after=10, activity=ended(8, after=8, attempts=(made,), action="SHUTDOWN"))
    assert seen_then(later, rules=GRACE) == {}


@pytest.mark.parametrize("answered_at", [0.0, NOW + 12.5], ids=["sent", "answered"])
def test_a_cleanup_does_not_end_the_instance_created_right_after_it(answered_at: float) -> None:
    """A CLEANUP and the DEPLOY after it may be answered within the same tenth of a second."""
    made = attempt_of(7, AttemptState.CREATED, after=12.1, deploy_id="i-new", seq=1)
    made = msgspec.structs.replace(made, answered_at=answered_at)
    activity = ended(7, after=12, attempts=(made,))
    steps = [look_at(instance_of(7), after=0), look_at(instance_of(7, DEAD), after=10, activity=activity)]
    assert named(through(steps)) == [("i-new", VmWord.UNKNOWN)]
    steps = [look_at(instance_of(7), after=0), look_at(after=30, activity=activity)]
    assert named(through(steps)) == [("i-new", VmWord.UNKNOWN)], "also in a listing that should show it"


def test_an_end_during_a_slow_create_does_not_end_the_created_instance() -> None:
    made = msgspec.structs.replace(
        attempt_of(7, AttemptState.CREATED, after=-50, deploy_id="i-new", seq=1), answered_at=NOW + 12
    )
    activity = ended(7, after=5, attempts=(made,))
    steps = [look_at(instance_of(7), after=0), look_at(after=10, activity=activity)]
    assert named(through(steps)) == [("i-new", VmWord.UNKNOWN)]


def test_an_open_create_sent_after_an_end_prevents_the_sync_of_its_host() -> None:
    for sent in (12.1, 20):
        opened = attempt_of(7, AttemptState.OPEN, after=sent, seq=1)
        activity = ended(7, after=12, attempts=(opened,))
        inference = through([look_at(instance_of(7), after=0), look_at(after=10, activity=activity)])
        assert (inference.unsynced, words(inference)) == (frozenset({3}), {7: "UNKNOWN"})


def test_a_second_create_under_way_prevents_the_sync_although_the_first_instance_is_terminated() -> None:
    again = msgspec.structs.replace(attempt_of(7, AttemptState.OPEN, after=12), number=2)
    look = look_at(instance_of(7, DEAD), after=10, activity=Activity(attempts=(again,)))
    assert infer_states(Memory(), *look, Rules(owner=OWNER)).unsynced == {3}


def test_an_open_create_that_the_listing_would_show_does_not_prevent_the_sync() -> None:
    opened = Activity(attempts=(attempt_of(8, AttemptState.OPEN, after=3),))
    steps = [look_at(instance_of(7), after=0), look_at(instance_of(7), after=30, activity=opened)]
    assert through(steps).unsynced == frozenset()


@pytest.mark.parametrize("order", [1, -1], ids=["older-first", "newer-first"])
@pytest.mark.parametrize(
    ("latest", "others"),
    [
        pytest.param({"seq": 1}, {"state": AttemptState.CREATED, "deploy_id": "i-old"}, id="an-earlier-life"),
        pytest.param({"number": 2}, {"state": AttemptState.OPEN}, id="an-earlier-try"),
        pytest.param({}, {"state": AttemptState.REFUSED, "number": 2}, id="a-later-refused-try"),
    ],
)
def test_of_several_attempts_the_last_that_was_not_refused_names_the_instance(
    latest: dict[str, int], others: dict[str, object], order: int
) -> None:
    made = attempt_of(8, AttemptState.CREATED, after=12, deploy_id="i-new", seq=latest.get("seq", 0))
    made = msgspec.structs.replace(made, number=latest.get("number", 1))
    other = msgspec.structs.replace(attempt_of(8, AttemptState.CREATED, after=11), **others)
    inference = infer_states(Memory(), *look_at(after=10, activity=Activity(attempts=(made, other)[::order])), GRACE)
    assert (named(inference), inference.unsynced) == ([("i-new", VmWord.UNKNOWN)], frozenset())


def test_the_age_of_a_created_instance_is_counted_from_the_answer_of_its_create() -> None:
    made = msgspec.structs.replace(attempt_of(8, AttemptState.CREATED, after=-50, deploy_id="i-8"), answered_at=NOW + 1)
    assert words(through([look_at(after=0, activity=Activity(attempts=(made,)))])) == {8: "UNKNOWN"}


def test_a_vm_within_the_visibility_grace_is_not_missed_by_any_number_of_listings() -> None:
    made = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=5, deploy_id="i-8"),))
    later = [look_at(after=10.0 * n, activity=made) for n in range(1, 9)]
    assert seen_then(*later, rules=GRACE) == {8: "UNKNOWN"}


def test_a_vm_with_an_open_create_is_not_missed_by_any_number_of_listings() -> None:
    opened = Activity(attempts=(attempt_of(7, AttemptState.OPEN, after=5, seq=1),))
    later = [look_at(after=10.0 * n, activity=opened) for n in range(1, 9)]
    assert seen_then(*later, first=[instance_of(7)], rules=GRACE) == {7: "UNKNOWN"}


def test_the_host_in_an_instances_tags_has_precedence_over_that_of_its_create() -> None:
    made = Activity(attempts=(attempt_of(7, AttemptState.CREATED, after=1, deploy_id="i-7"),))
    steps = [look_at(instance_of(7, host_id=4), after=10, activity=made), look_at(after=20, activity=made)]
    inference = through(steps, rules=GRACE)
    assert (words(inference, 3), words(inference, 4)) == ({}, {7: "UNKNOWN"})


def test_a_create_of_an_earlier_life_does_not_replace_a_later_instance() -> None:
    made = Activity(attempts=(attempt_of(7, AttemptState.CREATED, after=1, deploy_id="i-mid", seq=1),))
    steps = [look_at(instance_of(7, seq=2), after=0), look_at(after=10, activity=made)]
    assert named(through(steps)) == [("i-7", VmWord.UNKNOWN)]


def test_a_replaced_instance_is_not_wild_before_its_tags_are_visible() -> None:
    attempts = [
        attempt_of(8, AttemptState.CREATED, after=1, deploy_id=deploy_id, seq=seq)
        for seq, deploy_id in enumerate(["i-old", "i-new"])
    ]
    activity = Activity(attempts=tuple(attempts))
    assert infer_states(Memory(), *look_at(wild("i-old"), after=0, activity=activity), GRACE).wilds == []


# Copies


def test_a_copy_of_an_instance_does_not_report_its_vm() -> None:
    copy = instance_of(7, InstanceState.STOPPED, deploy_id="i-copy")
    steps = [look_at(instance_of(7), after=0), look_at(copy, instance_of(7), after=10)]
    assert named(through(steps)) == [("i-7", VmWord.RUNNING)]


def test_a_copy_of_an_instance_with_rewritten_tags_does_not_report_its_vm() -> None:
    copy = msgspec.structs.replace(instance_of(7, InstanceState.STOPPED, deploy_id="i-copy", seq=1), created_at=9.0)
    for pair in ([copy, instance_of(7, seq=1)], [instance_of(7, seq=1), copy]):
        steps = [look_at(instance_of(7), after=0), look_at(*pair, after=10)]
        assert named(through(steps)) == [("i-7", VmWord.RUNNING)]


@pytest.mark.parametrize("order", [1, -1], ids=["older-first", "newer-first"])
def test_of_two_new_instances_of_one_life_the_one_created_last_reports_the_vm(order: int) -> None:
    older = msgspec.structs.replace(instance_of(7, InstanceState.STOPPED, deploy_id="i-older"), created_at=1.0)
    newer = msgspec.structs.replace(instance_of(7, deploy_id="i-newer"), created_at=2.0)
    assert named(through([look_at(*[older, newer][::order], after=0)])) == [("i-newer", VmWord.RUNNING)]


# Parked


def test_a_vm_with_a_parked_instance_that_is_not_listed_is_left_out_and_not_missed() -> None:
    away = [look_at(after=10.0 * n, activity=parked(7)) for n in range(1, 9)]
    back = look_at(after=90, activity=parked(7, busy=(7,)))
    assert seen_then(*away, first=[instance_of(7)]) == {}
    assert seen_then(*away, back, first=[instance_of(7)]) == {7: "UNKNOWN"}
    assert seen_then(*away, back, look_at(after=100), first=[instance_of(7)]) == {7: "UNKNOWN"}


@pytest.mark.parametrize("shown", [fleet(7, state=InstanceState.STOPPED), []], ids=["listed", "not-listed"])
def test_the_memory_keeps_which_instances_are_parked(shown: list[Instance]) -> None:
    """It is used during outages, when a report of a VM with a parked instance would make it a zombie."""
    steps = [look_at(instance_of(7), after=0), look_at(*shown, after=10, activity=parked(7))]
    assert through(steps).memory.vms[VmId(7)].is_parked
    for later in (look_at(*shown, after=20), look_at(instance_of(7), after=20)):
        assert not through([*steps, later]).memory.vms[VmId(7)].is_parked


def test_a_vm_whose_parked_instance_is_terminated_is_missing() -> None:
    stopped = look_at(instance_of(7, InstanceState.STOPPED), after=10, activity=parked(7))
    later = [look_at(instance_of(7, DEAD), after=20), look_at(after=30)]
    assert seen_then(stopped, *later, first=[instance_of(7)]) == {7: "(FAILURE)"}


# Missing VMs


def test_a_missing_vm_is_unknown_while_an_action_is_under_way() -> None:
    away = [look_at(after=10.0 * n) for n in range(1, 5)]
    assert seen_then(*away, look_at(after=60, activity=busy_with(7)), first=[instance_of(7)]) == {7: "UNKNOWN"}
    rules = Rules(owner=OWNER, missing_after=1)
    busy = look_at(after=10, activity=busy_with(7))
    assert seen_then(busy, first=[instance_of(7)], rules=rules) == {7: "UNKNOWN"}


@pytest.mark.parametrize("shown", [fleet(7, state=DEAD), []], ids=["terminated", "not-listed"])
def test_a_vm_with_an_ended_instance_is_unknown_while_another_action_is_under_way(shown: list[Instance]) -> None:
    activity = msgspec.structs.replace(ended(7, after=5), busy=frozenset({VmId(7)}))
    assert seen_then(look_at(*shown, after=10, activity=activity), first=[instance_of(7)]) == {7: "UNKNOWN"}


def test_a_terminated_vm_stays_missing_when_its_instance_is_no_longer_listed() -> None:
    terminated = look_at(instance_of(7, DEAD), after=10)
    assert seen_then(terminated, look_at(after=20), first=[instance_of(7)]) == {7: "(FAILURE)"}


@pytest.mark.parametrize("shown", [fleet(7, state=DEAD), []], ids=["terminated", "not-listed"])
def test_a_missing_vm_is_forgotten_an_hour_after_it_became_missing(shown: list[Instance]) -> None:
    away = [look_at(*shown, after=seconds) for seconds in (10, 20, 30, 2000, 3600)]
    assert seen_then(*away, first=[instance_of(7)]) == {7: "(FAILURE)"}
    assert seen_then(*away, look_at(*shown, after=3700), first=[instance_of(7)]) == {}


def test_the_hour_until_a_missing_vm_is_forgotten_begins_when_it_becomes_missing() -> None:
    away = [look_at(after=seconds) for seconds in (10, 3000, 3605, 3620)]
    assert seen_then(*away, first=[instance_of(7)]) == {7: "(FAILURE)"}


@pytest.mark.parametrize("shown", [fleet(7, state=DEAD), []], ids=["terminated", "not-listed"])
def test_an_end_after_the_last_sighting_explains_a_missing_instance(
    shown: list[Instance],
) -> None:
    rules = Rules(owner=OWNER, missing_after=1)
    steps = [look_at(instance_of(7), after=0), look_at(*shown, after=10), look_at(*shown, after=20)]
    for at, said in ((5, {}), (-5, {7: "(FAILURE)"})):
        look = look_at(*shown, after=30, activity=ended(7, after=at))
        assert words(through([*steps, look], rules=rules)) == said


def test_an_end_before_an_instance_was_listed_again_does_not_explain_its_absence() -> None:
    steps = [look_at(instance_of(7), after=0), look_at(after=10), look_at(after=20, activity=busy_with(7))]
    steps += [look_at(instance_of(7), after=30), look_at(after=40, activity=ended(7, after=15))]
    assert words(through(steps)) == {7: "UNKNOWN"}


def test_misses_before_an_action_do_not_count_after_it() -> None:
    away = [look_at(after=10.0 * n) for n in range(1, 4)]
    again = [
        look_at(after=40, activity=busy_with(7)),
        *[look_at(after=seconds) for seconds in (4000, 4010, 4020, 4030)],
    ]
    assert seen_then(*away, *again, first=[instance_of(7)]) == {7: "(FAILURE)"}


def test_misses_of_a_vm_created_but_not_listed_are_cleared_when_it_is_listed() -> None:
    made = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=-90, deploy_id="i-8"),))
    steps = [look_at(after=0, activity=made), look_at(instance_of(8), after=10, activity=made)]
    assert words(through([*steps, *[look_at(after=10.0 * n, activity=made) for n in (2, 3)]])) == {8: "UNKNOWN"}


def test_a_created_vm_is_missed_by_the_first_listing_that_should_show_it() -> None:
    made = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=3, deploy_id="i-8"),))
    rules = Rules(owner=OWNER, missing_after=1)
    assert seen_then(look_at(after=30, activity=made), rules=rules) == {8: "(FAILURE)"}


def test_a_recent_create_of_an_earlier_life_gives_the_latest_instance_no_visibility_grace() -> None:
    made = Activity(attempts=(attempt_of(7, AttemptState.CREATED, after=200, deploy_id="i-mid", seq=1),))
    away = [look_at(after=after, activity=made) for after in (10, 20, 310)]
    assert seen_then(*away, first=[instance_of(7, seq=2)], rules=GRACE) == {7: "(FAILURE)"}


def test_a_leftover_does_not_replace_a_later_instance_that_is_missing_for_an_hour() -> None:
    left, own = instance_of(7), instance_of(7, seq=2, deploy_id="i-new")
    away = [look_at(left, after=seconds) for seconds in (10, 20, 30, 3700, 3710)]
    assert named(through([look_at(left, own, after=0), *away])) == [("i-new", VmWord.FAILURE)]


def test_a_leftover_does_not_replace_a_later_instance_terminated_an_hour_ago() -> None:
    left, own, dead = instance_of(7), instance_of(7, seq=2, deploy_id="i-new"), instance_of(7, DEAD, seq=2)
    dead = msgspec.structs.replace(dead, deploy_id=own.deploy_id)
    steps = [look_at(own, after=0), look_at(dead, after=10), look_at(left, dead, after=3700), look_at(left, after=3710)]
    assert named(through(steps)) == [("i-new", VmWord.UNKNOWN)]


def test_a_leftover_does_not_replace_a_later_instance_that_has_lost_its_tags() -> None:
    left = instance_of(7, InstanceState.STOPPED, deploy_id="i-left", seq=1)
    steps = [look_at(instance_of(7, seq=2), after=0), look_at(after=10), look_at(wild("i-7"), after=20)]
    assert named(through([*steps, look_at(wild("i-7"), left, after=30)])) == [("i-7", VmWord.RUNNING)]


def test_a_leftover_does_not_replace_a_later_instance_with_rewritten_tags() -> None:
    left = instance_of(7, InstanceState.STOPPED, deploy_id="i-left", seq=1)
    steps = [look_at(instance_of(7), after=0), look_at(instance_of(7, seq=2), after=10), look_at(left, after=20)]
    assert named(through(steps)) == [("i-7", VmWord.UNKNOWN)]


# The clock


def test_when_the_clock_is_set_back_every_remembered_time_is_moved_back_too() -> None:
    def memory(at: float, *, never: float = 0.0) -> Memory:
        known = KnownInstance(vm_id=VmId(7), host_id=3, deploy_id=DeployId("i-7"), misses=3)
        one = msgspec.structs.replace(known, made_at=at, seen_at=at + 1, missing_since=at + 2, held_since=at + 3)
        two = msgspec.structs.replace(known, vm_id=VmId(8), made_at=never, held_since=never)
        return Memory(vms={each.vm_id: each for each in (one, two)}, listed_at=at + 4, held_since=at + 3)

    assert with_clock_set_back(memory(NOW), 100.0) == memory(NOW - 100)
    assert with_clock_set_back(Memory(), 100.0) == Memory(), "a time of zero means never, and stays"


def test_a_created_vm_is_unknown_if_the_remembered_listing_is_in_the_future() -> None:
    """The memory is of an earlier process, and the clock was set back since."""
    made = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=1, deploy_id="i-8"),))
    inference = infer_states(Memory(listed_at=NOW + 1000), *look_at(after=0, activity=made), Rules(owner=OWNER))
    assert words(inference) == {8: "UNKNOWN"}
