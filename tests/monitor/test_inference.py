"""Decision 18: unknown is not absent, and no report completes an action before its answer."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.journal.records import Answered, Attempt, AttemptState
from one_provider_mad.monitor.activity import Activity
from one_provider_mad.monitor.inference import WORDS, Listing, Memory, Rules, infer_states, with_clock_set_back
from one_provider_mad.protocol.reports import VmState, VmWord
from tests.monitor.builders import (
    IDLE,
    NOW,
    OWNER,
    RULES,
    all_vms,
    answered,
    attempt_of,
    busy_with,
    instance_of,
    listing_of,
    seen_then,
    through,
    wild,
    words,
)

GONE = (listing_of(after=10), IDLE)


def say(*instances: Instance, activity: Activity = IDLE, rules: Rules = RULES) -> dict[int, str]:
    """The states of the VMs of host 3, inferred from one listing of these instances."""
    return words(infer_states(Memory(), listing_of(*instances), activity, rules))


# Listed instances


def test_every_instance_state_but_terminated_has_a_reported_state() -> None:
    assert set(WORDS) == set(InstanceState) - {InstanceState.TERMINATED}


@pytest.mark.parametrize(
    ("state", "word"),
    [
        pytest.param(InstanceState.RUNNING, "RUNNING", id="running"),
        pytest.param(InstanceState.STOPPED, "POWEROFF", id="stopped"),
        pytest.param(InstanceState.SUSPENDED, "SUSPENDED", id="suspended"),
        pytest.param(InstanceState.PENDING, "UNKNOWN", id="pending"),
        pytest.param(InstanceState.STOPPING, "UNKNOWN", id="stopping"),
        pytest.param(InstanceState.SUSPENDING, "UNKNOWN", id="suspending"),
        pytest.param(InstanceState.UNKNOWN, "UNKNOWN", id="unknown"),
    ],
)
def test_running_stopped_and_suspended_are_reported_and_transitions_are_unknown(
    state: InstanceState, word: str
) -> None:
    assert say(instance_of(7, state)) == {7: word}


@pytest.mark.parametrize("state", InstanceState, ids=lambda state: state.value)
def test_a_vm_with_an_action_under_way_is_unknown_in_every_instance_state(state: InstanceState) -> None:
    assert say(instance_of(7, state), activity=busy_with(7)) == {7: "UNKNOWN"}


@pytest.mark.parametrize(
    "activity",
    [
        pytest.param(answered(7, "CLEANUP", after=-60, has_failed=True), id="a-cleanup-that-failed"),
        pytest.param(Activity(with_debt=frozenset({DeployId("i-7")})), id="pending-termination"),
    ],
)
def test_an_instance_left_over_by_a_recreate_does_not_make_its_vm_running(activity: Activity) -> None:
    """The VM is about to be deployed again: RUNNING would complete that deploy before it has begun."""
    assert say(instance_of(7), activity=activity) == {7: "UNKNOWN"}


def test_a_state_listed_before_an_action_was_answered_is_reported_as_unknown() -> None:
    stopped = instance_of(7, InstanceState.STOPPED)
    assert say(stopped, activity=answered(7, "DEPLOY", after=0.5)) == {7: "UNKNOWN"}
    assert say(stopped, activity=answered(7, "DEPLOY", after=-5)) == {7: "POWEROFF"}


def test_a_vm_whose_instance_was_created_during_the_listing_is_unknown() -> None:
    young = Activity(attempts=(attempt_of(7, AttemptState.CREATED, after=0.2, deploy_id="i-7"),))
    assert say(instance_of(7), activity=young) == {7: "UNKNOWN"}


def test_a_vm_is_reported_on_the_host_that_its_tags_name() -> None:
    inference = infer_states(Memory(), listing_of(instance_of(7), instance_of(8, host_id=4)), IDLE, RULES)
    assert (words(inference, 3), words(inference, 4)) == ({7: "RUNNING"}, {8: "RUNNING"})


def test_instances_of_other_owners_are_neither_reported_nor_wild() -> None:
    inference = infer_states(Memory(), listing_of(instance_of(7, owner="quay")), IDLE, RULES)
    assert (inference.hosts, inference.wilds) == ({}, [])


@pytest.mark.parametrize("order", [1, -1], ids=["older-first", "newer-first"])
def test_of_two_instances_of_a_vm_the_later_life_is_reported_and_the_other_an_anomaly(order: int) -> None:
    old, new = instance_of(7, InstanceState.STOPPED, deploy_id="i-old"), instance_of(7, seq=2, deploy_id="i-new")
    inference = infer_states(Memory(), listing_of(*[old, new][::order]), IDLE, RULES)
    assert words(inference) == {7: "RUNNING"}
    assert list(inference.anomalies) == ["i-old"]


@pytest.mark.parametrize("order", [1, -1], ids=["dead-first", "live-first"])
def test_a_terminated_instance_does_not_hide_a_live_one_of_the_same_life(order: int) -> None:
    dead = instance_of(7, InstanceState.TERMINATED, deploy_id="i-dead")
    inference = infer_states(Memory(), listing_of(*[dead, instance_of(7)][::order]), IDLE, RULES)
    assert (words(inference), inference.anomalies) == ({7: "RUNNING"}, {})


@pytest.mark.parametrize("before", [(), (instance_of(7, seq=2, deploy_id="i-new"),)], ids=["never-seen", "seen"])
def test_a_live_instance_of_an_earlier_life_makes_its_vm_unknown_and_is_an_anomaly(
    before: tuple[Instance, ...],
) -> None:
    dead = instance_of(7, InstanceState.TERMINATED, seq=2, deploy_id="i-new")
    inference = through([(listing_of(*before), IDLE), (listing_of(dead, instance_of(7), after=10), IDLE)])
    assert [vm.state for vm in all_vms(inference)] == [
        VmState(vm_id=VmId(7), deploy_id=DeployId("i-new"), state=VmWord.UNKNOWN)
    ]
    assert list(inference.anomalies) == ["i-7"]


def test_an_instance_with_copied_tags_does_not_replace_the_vms_instance() -> None:
    copy = instance_of(7, InstanceState.STOPPED, deploy_id="i-copy")
    looks = [(listing_of(copy, *own, after=10.0 * n), IDLE) for n, own in enumerate([[instance_of(7)], []], start=1)]
    inference = through([(listing_of(instance_of(7)), IDLE), *looks])
    assert [(vm.state.deploy_id, vm.state.state) for vm in all_vms(inference)] == [("i-7", VmWord.UNKNOWN)]
    assert list(inference.anomalies) == ["i-copy"]


# Parked


def parked(*deploy_ids: str, busy: tuple[int, ...] = ()) -> Activity:
    return Activity(parked=frozenset(map(DeployId, deploy_ids)), busy=frozenset(map(VmId, busy)))


def test_a_vm_with_a_parked_instance_is_left_out_of_reports() -> None:
    stopped = instance_of(7, InstanceState.STOPPED)
    assert say(stopped, activity=parked("i-7")) == {}
    assert seen_then((listing_of(stopped, after=10), parked("i-7")), first=[instance_of(7)]) == {}


def test_a_vm_with_a_parked_instance_and_an_action_under_way_is_unknown() -> None:
    assert say(instance_of(7, InstanceState.STOPPED), activity=parked("i-7", busy=(7,))) == {7: "UNKNOWN"}


def test_an_instance_destroyed_by_a_recreate_after_the_listing_is_no_anomaly() -> None:
    """It is alive in a listing from before the CLEANUP, and its VM has another instance by now."""
    recreated = msgspec.structs.replace(
        answered(7, "DEPLOY", after=2),
        attempts=(attempt_of(7, AttemptState.CREATED, after=1, deploy_id="i-new", seq=1),),
    )
    assert infer_states(Memory(), listing_of(instance_of(7, deploy_id="i-old")), recreated, RULES).anomalies == {}


def test_a_parked_instance_that_runs_is_an_anomaly() -> None:
    inference = infer_states(Memory(), listing_of(instance_of(7)), parked("i-7"), RULES)
    assert (words(inference), list(inference.anomalies)) == ({}, ["i-7"])


@pytest.mark.parametrize(
    ("after", "strange"),
    [
        pytest.param(-1, ["i-7"], id="answered-before-the-listing"),
        pytest.param(1, [], id="answered-during-the-listing"),
    ],
)
def test_a_parked_instance_is_no_anomaly_in_a_listing_older_than_its_undeploy(after: float, strange: list[str]) -> None:
    """States of a second host are inferred from a listing older than the undeploy, which was answered since."""
    undeployed = msgspec.structs.replace(answered(7, "SHUTDOWN", after=after), parked=frozenset({DeployId("i-7")}))
    assert list(infer_states(Memory(), listing_of(instance_of(7)), undeployed, RULES).anomalies) == strange


@pytest.mark.parametrize("is_watched", [True, False], ids=["listed-meanwhile", "not-listed-meanwhile"])
def test_a_vm_deployed_again_after_parking_is_missing_no_sooner_than_others(*, is_watched: bool) -> None:
    stopped = listing_of(instance_of(7, InstanceState.STOPPED), after=10)
    looks = [(listing_of(instance_of(7)), IDLE), (stopped, parked("i-7"))]
    if is_watched:
        looks.append((listing_of(after=20), busy_with(7)))
        assert words(through(looks)) == {7: "UNKNOWN"}
    looks.append((listing_of(after=30), answered(7, "DEPLOY", after=25)))
    assert words(through(looks)) == {7: "UNKNOWN"}


def test_a_missing_vm_is_unknown_again_after_an_answered_deploy() -> None:
    missing = [(listing_of(after=10.0 * n), IDLE) for n in range(1, 5)]
    look = (listing_of(after=50), answered(7, "DEPLOY", after=45))
    assert seen_then(*missing, first=[instance_of(7)]) == {7: "(FAILURE)"}
    assert seen_then(*missing, look, first=[instance_of(7)]) == {7: "UNKNOWN"}


# Missing VMs


def test_a_vm_is_missing_only_after_three_complete_listings() -> None:
    steps = [(listing_of(instance_of(7)), IDLE)]
    said = []
    for number in range(1, 5):
        steps.append((listing_of(after=10.0 * number), IDLE))
        said.append(words(through(steps)))
    assert said == [{7: "UNKNOWN"}, {7: "UNKNOWN"}, {7: "(FAILURE)"}, {7: "(FAILURE)"}]


def test_a_listing_used_for_several_inferences_counts_once() -> None:
    steps = [(listing_of(instance_of(7)), IDLE), *[GONE] * 9]
    assert words(through(steps)) == {7: "UNKNOWN"}


def test_a_vm_listed_again_after_two_misses_is_counted_anew() -> None:
    back = [(listing_of(instance_of(7), after=30), IDLE), *[(listing_of(after=40.0 + n), IDLE) for n in range(2)]]
    assert seen_then(GONE, (listing_of(after=20), IDLE), *back, first=[instance_of(7)]) == {7: "UNKNOWN"}


def test_with_missing_state_poweroff_a_missing_vm_is_reported_as_poweroff() -> None:
    rules = Rules(owner=OWNER, missing_after=1, missing_word=VmWord.POWEROFF)
    assert seen_then(GONE, first=[instance_of(7)], rules=rules) == {7: "(POWEROFF)"}


def test_a_vm_that_was_never_listed_cannot_be_missing() -> None:
    assert through([GONE]).hosts == {}


def test_a_vm_is_unknown_and_not_counted_as_missed_while_an_action_is_under_way() -> None:
    later = [(listing_of(after=10.0 * n), busy_with(7)) for n in range(1, 9)]
    assert seen_then(*later, first=[instance_of(7)]) == {7: "UNKNOWN"}
    assert seen_then(*later, (listing_of(after=100), IDLE), first=[instance_of(7)]) == {7: "UNKNOWN"}


@pytest.mark.parametrize("action", ["SHUTDOWN", "CANCEL", "CLEANUP"])
@pytest.mark.parametrize(
    "later",
    [
        pytest.param([instance_of(7, InstanceState.TERMINATED)], id="shown-as-terminated"),
        pytest.param([instance_of(7, InstanceState.TERMINATING)], id="terminating"),
        pytest.param([], id="not-shown"),
    ],
)
def test_a_vm_whose_instance_an_action_has_ended_is_left_out(action: str, later: list[Instance]) -> None:
    look = (listing_of(*later, after=10), answered(7, action, after=5))
    assert seen_then(look, first=[instance_of(7)]) == {}


def test_a_vm_whose_instance_vanishes_after_a_reboot_is_counted_as_missed() -> None:
    look = (listing_of(after=10), answered(7, "REBOOT", after=5))
    assert seen_then(look, first=[instance_of(7)]) == {7: "UNKNOWN"}


@pytest.mark.parametrize("action", ["SHUTDOWN", "CANCEL", "CLEANUP"])
def test_a_failed_end_does_not_explain_a_missing_instance(action: str) -> None:
    look = (listing_of(after=10), answered(7, action, after=5, has_failed=True))
    assert seen_then(look, first=[instance_of(7)]) == {7: "UNKNOWN"}


def test_a_missed_vm_is_not_left_out_if_an_action_ended_it_before_it_was_last_listed() -> None:
    looks = [(listing_of(instance_of(7), after=100.0), IDLE), (listing_of(after=110), answered(7, "CLEANUP", after=50))]
    assert seen_then(*looks, first=[instance_of(7)]) == {7: "UNKNOWN"}


def test_a_vm_whose_instance_is_listed_as_terminated_is_missing_at_once() -> None:
    look = (listing_of(instance_of(7, InstanceState.TERMINATED), after=10), IDLE)
    assert seen_then(look, first=[instance_of(7)]) == {7: "(FAILURE)"}


def test_a_vm_whose_instance_was_terminated_before_the_first_listing_is_left_out() -> None:
    assert say(instance_of(7, InstanceState.TERMINATED), instance_of(8, InstanceState.TERMINATING)) == {}


def test_a_missing_vm_is_forgotten_after_an_hour() -> None:
    looks = [(listing_of(after=seconds), IDLE) for seconds in (10, 20, 30, 3700)]
    inference = through([(listing_of(instance_of(7)), IDLE), *looks])
    assert (inference.hosts, inference.memory.vms) == ({}, {})


def test_time_without_listings_makes_no_vm_missing_or_forgotten() -> None:
    looks = [(listing_of(after=seconds), IDLE) for seconds in (10, 4000)]
    assert seen_then(*looks, first=[instance_of(7)]) == {7: "UNKNOWN"}


def test_a_vm_with_a_terminating_instance_is_unknown() -> None:
    look = (listing_of(instance_of(7, InstanceState.TERMINATING), after=10), IDLE)
    assert seen_then(look, first=[instance_of(7)]) == {7: "UNKNOWN"}


def test_a_moved_vm_is_counted_as_missed_on_its_new_host() -> None:
    moved = through(
        [
            (listing_of(instance_of(7)), IDLE),
            (listing_of(instance_of(7, host_id=4), after=10), IDLE),
            (listing_of(after=20), IDLE),
        ]
    )
    assert words(moved, 3) == {}
    assert words(moved, 4) == {7: "UNKNOWN"}


def test_a_vm_missed_twice_is_left_out_only_if_an_action_ended_it_after_it_was_last_listed() -> None:
    steps = [(listing_of(instance_of(7)), IDLE), (listing_of(after=10), IDLE)]
    assert words(through([*steps, (listing_of(after=20), answered(7, "SHUTDOWN", after=-5))])) == {7: "UNKNOWN"}
    assert words(through([*steps, (listing_of(after=20), answered(7, "SHUTDOWN", after=5))])) == {}


# An unusual number of vanished instances


def fleet(*numbers: int) -> list[Instance]:
    return [instance_of(number) for number in numbers]


def look_at(*numbers: int, after: float) -> tuple[Listing, Activity]:
    return listing_of(*fleet(*numbers), after=after), IDLE


def test_vms_are_held_if_more_than_half_of_the_instances_vanish_at_once() -> None:
    later = [look_at(0, 1, 2, after=10.0 * n) for n in range(1, 9)]
    inference = through([look_at(*range(10), after=0), *later])
    assert inference.held == set(range(3, 10))
    assert words(inference) == {n: "RUNNING" if n < 3 else "UNKNOWN" for n in range(10)}


@pytest.mark.parametrize(
    "left",
    [pytest.param(range(5, 10), id="half"), pytest.param(range(1, 10), id="one")],
)
def test_half_of_the_instances_or_fewer_are_counted_as_missed(left: range) -> None:
    later = [look_at(*left, after=10.0 * n) for n in range(1, 4)]
    inference = through([look_at(*range(10), after=0), *later])
    assert not inference.held
    assert words(inference) == {n: "RUNNING" if n in left else "(FAILURE)" for n in range(10)}


def test_four_vanished_instances_of_four_are_too_few_to_be_held() -> None:
    later = [look_at(after=10.0 * n) for n in range(1, 4)]
    inference = through([look_at(0, 1, 2, 3, after=0), *later])
    assert words(inference) == dict.fromkeys(range(4), "(FAILURE)")


def test_held_vms_count_as_missing_once_the_setting_unusual_hold_has_passed() -> None:
    rules = Rules(owner=OWNER, unusual_hold=60)
    times = [10.0, 40.0, 69.0]
    steps = [look_at(*range(10), after=0), *[look_at(after=time) for time in times]]
    assert len(through(steps, rules=rules).held) == 10
    steps += [look_at(after=time) for time in (70.0, 80.0, 90.0)]
    assert words(through(steps, rules=rules)) == dict.fromkeys(range(10), "(FAILURE)")


def test_held_vms_stay_held_when_new_instances_appear() -> None:
    later = [look_at(*range(4), *range(100, 105), after=10.0 * n) for n in range(2, 9)]
    inference = through([look_at(*range(10), after=0), look_at(*range(4), after=10), *later])
    assert inference.held == set(range(4, 10))
    assert words(inference)[9] == "UNKNOWN"


def test_vms_that_vanish_in_several_listings_are_held_together() -> None:
    steps = [look_at(*range(20), after=0), look_at(*range(11), after=10)]
    assert not through(steps).held
    steps += [look_at(*range(6), after=10.0 * n) for n in range(2, 9)]
    assert through(steps).held == set(range(6, 20))


def test_time_without_listings_does_not_end_a_hold() -> None:
    rules = Rules(owner=OWNER, missing_after=1)
    steps = [look_at(*range(10), after=0), look_at(after=10), look_at(after=4000)]
    assert len(through(steps, rules=rules).held) == 10


def test_held_vms_that_are_listed_again_are_running_and_not_held() -> None:
    steps = [look_at(*range(10), after=0), look_at(after=10), look_at(*range(10), after=20)]
    inference = through(steps)
    assert (set(words(inference).values()), inference.held, inference.memory.held_since) == (
        {"RUNNING"},
        frozenset(),
        0,
    )


def test_vms_whose_instances_actions_have_ended_do_not_count_as_vanished() -> None:
    ended = {VmId(n): Answered(action="SHUTDOWN", at=NOW + 5, has_ended=True) for n in range(9)}
    inference = through([look_at(*range(10), after=0), (listing_of(after=10), Activity(answered=ended))])
    assert (inference.held, words(inference)) == (frozenset(), {9: "UNKNOWN"})


# Instances too young to be listed


def test_a_vm_created_after_the_listing_began_is_unknown_in_it() -> None:
    young = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=1, deploy_id="i-8"),))
    inference = infer_states(Memory(), listing_of(instance_of(7)), young, RULES)
    assert words(inference) == {7: "RUNNING", 8: "UNKNOWN"}
    assert all_vms(inference)[1].state.deploy_id == "i-8"
    assert not inference.unsynced


def test_a_vm_created_within_the_visibility_grace_is_unknown() -> None:
    young = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=-50, deploy_id="i-8"),))
    memory = Memory(listed_at=NOW - 10)
    assert words(infer_states(memory, listing_of(), young, Rules(owner=OWNER, grace=60))) == {8: "UNKNOWN"}
    assert words(infer_states(memory, listing_of(), young, Rules(owner=OWNER, grace=30))) == {}


def test_without_a_state_file_vms_of_the_journal_are_missed_and_held_too() -> None:
    """The state file is lost, and the first listing lacks half of all VMs that the journal has."""
    created = Activity(
        attempts=tuple(attempt_of(n, AttemptState.CREATED, after=-9e5, deploy_id=f"i-{n}") for n in range(10, 20))
    )
    steps = [(listing_of(*map(instance_of, range(10, 14)), after=10.0 * n), created) for n in range(3)]
    said = {vm_id: "RUNNING" if vm_id < 14 else "UNKNOWN" for vm_id in range(10, 20)}
    assert [words(through(steps[:n])) for n in (1, 2, 3)] == [said] * 3
    assert through(steps).held == frozenset(map(VmId, range(14, 20)))
    ended = msgspec.structs.replace(created, answered=answered(15, "CANCEL", after=-30).answered)
    assert 15 not in words(infer_states(Memory(), steps[0][0], ended, RULES))


def test_created_vms_that_listings_never_show_are_missing_after_three_listings() -> None:
    young = Activity(
        attempts=tuple(attempt_of(n, AttemptState.CREATED, after=1, deploy_id=f"i-{n}") for n in range(10, 60))
    )
    steps = [look_at(7, after=0), (listing_of(instance_of(7)), young)]
    half = [look_at(7, *range(10, 35), after=10.0 * n) for n in range(1, 4)]
    assert len(words(through([*steps, half[0]]))) == 51
    assert set(words(through([*steps, *half[:2]])).values()) == {"RUNNING", "UNKNOWN"}
    assert words(through([*steps, *half]))[59] == "(FAILURE)"


@pytest.mark.parametrize("grace", [0, 5], ids=["no-grace", "grace"])
def test_a_vm_created_between_two_listings_is_unknown_if_the_second_lacks_it(grace: float) -> None:
    made = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=3, deploy_id="i-8"),))
    steps = [look_at(7, after=0), (listing_of(instance_of(7), after=30), made)]
    assert words(through(steps, rules=Rules(owner=OWNER, grace=grace))) == {7: "RUNNING", 8: "UNKNOWN"}


def test_a_create_without_an_id_prevents_the_sync_of_its_host() -> None:
    opened = attempt_of(8, AttemptState.OPEN, after=1, host_id=4)
    assert infer_states(Memory(), listing_of(), Activity(attempts=(opened,)), RULES).unsynced == {4}


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(attempt_of(8, AttemptState.OPEN, after=-90), id="old"),
        pytest.param(attempt_of(8, AttemptState.REFUSED, after=1), id="refused"),
        pytest.param(attempt_of(8, AttemptState.GONE, after=1, deploy_id="i-8"), id="gone"),
        pytest.param(attempt_of(8, AttemptState.OPEN, after=1, owner="quay"), id="of-another-owner"),
        pytest.param(attempt_of(7, AttemptState.OPEN, after=1), id="of-a-vm-that-is-listed"),
    ],
)
def test_refused_old_or_foreign_attempts_prevent_no_sync(attempt: Attempt) -> None:
    inference = infer_states(Memory(), listing_of(instance_of(7)), Activity(attempts=(attempt,)), RULES)
    assert (inference.unsynced, set(words(inference))) == (frozenset(), {7})


# Wild instances


def test_live_instances_without_tags_are_wild() -> None:
    dead = wild("i-dead", InstanceState.TERMINATED)
    inference = infer_states(Memory(), listing_of(wild("i-web"), dead, instance_of(7)), IDLE, RULES)
    assert [instance.deploy_id for instance in inference.wilds] == ["i-web"]


def test_an_instance_that_has_lost_its_tags_still_reports_its_vm_and_is_an_anomaly() -> None:
    inference = through([(listing_of(instance_of(7)), IDLE), (listing_of(wild("i-7"), after=10), IDLE)])
    assert (words(inference), inference.wilds, list(inference.anomalies)) == ({7: "RUNNING"}, [], ["i-7"])


def test_an_instance_being_created_is_not_wild_before_its_tags_are_visible() -> None:
    young = Activity(attempts=(attempt_of(8, AttemptState.CREATED, after=1, deploy_id="i-8"),))
    assert infer_states(Memory(), listing_of(wild("i-8")), young, RULES).wilds == []


# Arbitrary histories

VMS = tuple(map(VmId, range(6)))


@dataclass
class Step:
    """One listing: the states of the VMs' instances (None: not listed), and the activity of the action driver.

    It comes some seconds after the one before, or after an outage; the clock may have been set back first.
    """

    states: list[InstanceState | None]
    busy: set[VmId]
    parked: set[VmId]
    answered: dict[VmId, tuple[str, int, bool]]
    is_repeated: bool
    pause: int
    clock_set_back_by: int

    def listing(self, now: float) -> Listing:
        found = [instance_of(vm_id, state) for vm_id, state in zip(VMS, self.states, strict=True) if state is not None]
        return listing_of(*found, after=now - NOW)

    def activity(self, now: float) -> Activity:
        return Activity(
            busy=frozenset(self.busy),
            parked=frozenset(DeployId(f"i-{vm_id}") for vm_id in self.parked),
            answered={
                vm_id: Answered(action=action, at=now + at, has_ended=has_ended)
                for vm_id, (action, at, has_ended) in self.answered.items()
            },
        )

    def has_ended(self, vm_id: VmId) -> bool:
        return self.answered.get(vm_id, ("", 0, False))[2]


SOME_VMS = st.sets(st.sampled_from(VMS))
STATES = st.lists(st.sampled_from([None, *InstanceState]), min_size=len(VMS), max_size=len(VMS))
ANSWERS = st.one_of(
    st.tuples(st.just("SHUTDOWN"), st.integers(-20, 20), st.booleans()),
    st.tuples(st.sampled_from(["REBOOT", "DEPLOY"]), st.integers(-20, 20), st.sampled_from([False])),
)
STEP = st.builds(
    Step,
    states=STATES,
    busy=SOME_VMS,
    parked=SOME_VMS,
    answered=st.dictionaries(st.sampled_from(VMS), ANSWERS),
    is_repeated=st.booleans(),
    pause=st.sampled_from([10, 10, 10, 3700]),
    clock_set_back_by=st.sampled_from([0, 0, 0, 5, 5000]),
)
ANY_RULES = st.builds(
    Rules,
    owner=st.just(OWNER),
    missing_after=st.integers(1, 4),
    unusual_share=st.sampled_from([0.3, 0.5, 1.0]),
    unusual_count=st.integers(1, 5),
    missing_word=st.sampled_from([VmWord.UNKNOWN, VmWord.POWEROFF]),
)


def looks_without(state: InstanceState | None, *, before: int) -> int:
    """The number of listings in a row that lack an instance; a terminated one counts as never listed."""
    if state is None:
        return before + 1
    return 99 if state is InstanceState.TERMINATED else 0


@given(steps=st.lists(STEP, max_size=8), rules=ANY_RULES)
def test_in_any_history_a_vm_is_missing_only_after_enough_complete_listings_without_it(
    steps: list[Step], rules: Rules
) -> None:
    memory, now, listing = Memory(), NOW, listing_of()
    states: dict[VmId, InstanceState | None] = {}
    unseen = dict.fromkeys(VMS, 0)
    for step in steps:
        if not (step.is_repeated and memory.listed_at):
            memory, now = (
                with_clock_set_back(memory, step.clock_set_back_by),
                now + step.pause - step.clock_set_back_by,
            )
            listing, states = step.listing(now), dict(zip(VMS, step.states, strict=True))
            unseen = {vm_id: looks_without(states[vm_id], before=unseen[vm_id]) for vm_id in VMS}
        before, activity = memory, step.activity(now)
        inference = infer_states(before, listing, activity, rules)
        memory = inference.memory
        said = {vm.state.vm_id: vm for vm in all_vms(inference)}
        assert len(said) == len(all_vms(inference)), "no VM is reported twice"
        for vm_id in VMS:
            vm = said.get(vm_id)
            if vm_id in step.busy and (vm_id in before.vms or states[vm_id]):
                assert vm is not None
                assert (vm.state.state, vm.is_listed) == (VmWord.UNKNOWN, True)
            elif vm_id in step.parked:
                assert vm is None
            if vm is not None and not vm.is_listed and vm.instance is None:
                assert unseen[vm_id] >= rules.missing_after, "so many complete listings lack it"
                assert vm_id not in inference.held
        for vm_id in set(before.vms) - {vm_id for vm_id, vm in said.items() if vm.is_listed}:
            state = states[vm_id]
            is_terminated = state is not None and state.is_gone
            is_long_gone = unseen[vm_id] >= rules.missing_after
            is_explained = vm_id in step.parked or step.has_ended(vm_id)
            assert is_explained or is_terminated or is_long_gone, "left out without a reason"


@given(steps=st.lists(STEP, min_size=1, max_size=5), rules=ANY_RULES)
def test_the_inference_memory_is_read_back_from_json_unchanged(steps: list[Step], rules: Rules) -> None:
    memory, now = Memory(), NOW
    for step in steps:
        now += 10
        memory = infer_states(memory, step.listing(now), step.activity(now), rules).memory
        assert msgspec.json.decode(msgspec.json.encode(memory), type=Memory) == memory
