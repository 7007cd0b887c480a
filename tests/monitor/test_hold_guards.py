"""When many instances vanish at once: which count as vanished, which as present, and how long they are held."""

from __future__ import annotations

from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.monitor.activity import Activity
from one_provider_mad.monitor.inference import Inference, Listing, Rules
from tests.monitor.builders import IDLE, OWNER, answered, attempt_of, busy_with, instance_of, listing_of, through, words

DEAD = InstanceState.TERMINATED
Look = tuple[Listing, Activity]

GRACE = Rules(owner=OWNER, grace=300)
SHORT = Rules(owner=OWNER, unusual_hold=60)


def look_at(live: range, *others: Instance, after: float, activity: Activity = IDLE) -> Look:
    """A complete listing with the instances of these VMs running, and some others."""
    return listing_of(*[instance_of(number) for number in live], *others, after=after), activity


def dead(vm_ids: range) -> list[Instance]:
    return [instance_of(number, DEAD) for number in vm_ids]


def parked(vm_ids: range) -> Activity:
    return Activity(parked=frozenset(DeployId(f"i-{number}") for number in vm_ids))


def held_after(*steps: Look, rules: Rules = SHORT) -> set[int]:
    return set(through(steps, rules=rules).held)


# Present instances


def test_parked_instances_do_not_count_as_present() -> None:
    activity = parked(range(10, 20))
    steps = [look_at(range(20), after=0), look_at(range(20), after=10, activity=activity)]
    stopped = [instance_of(number, InstanceState.STOPPED) for number in range(10, 20)]
    assert held_after(*steps, look_at(range(4), *stopped, after=20, activity=activity)) == set(range(4, 10))


def test_terminated_instances_do_not_count_as_present() -> None:
    gone = dead(range(10, 20))
    steps = [look_at(range(20), after=0), look_at(range(10), *gone, after=10), look_at(range(4), *gone, after=20)]
    assert held_after(*steps) == set(range(4, 10))


def test_instances_missing_for_minutes_do_not_count_as_present() -> None:
    away = [look_at(range(11), after=seconds) for seconds in (10, 20, 30, 200)]
    assert held_after(look_at(range(20), after=0), *away, look_at(range(5), after=210)) == set(range(5, 11))


def test_instances_within_the_visibility_grace_do_not_count_as_present() -> None:
    made = Activity(
        attempts=tuple(attempt_of(n, AttemptState.CREATED, after=5, deploy_id=f"i-{n}") for n in range(10, 20))
    )
    steps = [look_at(range(10), after=0), look_at(range(4), after=10, activity=made)]
    assert held_after(*steps, rules=GRACE) == set(range(4, 10))


# Vanished instances: of ten, six with an explanation and one without


def test_parked_instances_do_not_count_as_vanished() -> None:
    activity = parked(range(6))
    steps = [look_at(range(10), after=0), look_at(range(10), after=10, activity=activity)]
    assert held_after(*steps, look_at(range(7, 10), after=20, activity=activity)) == set()


def test_terminated_instances_do_not_count_as_vanished_once_the_cloud_drops_them() -> None:
    steps = [look_at(range(10), after=0), look_at(range(6, 10), *dead(range(6)), after=10)]
    assert held_after(*steps, look_at(range(7, 10), after=20)) == set()


def test_instances_with_an_action_under_way_do_not_count_as_vanished() -> None:
    steps = [look_at(range(10), after=0), look_at(range(7, 10), after=10, activity=busy_with(*range(6)))]
    assert held_after(*steps) == set()


def test_instances_of_vms_that_are_being_recreated_do_not_count_as_vanished() -> None:
    opened = Activity(attempts=tuple(attempt_of(n, AttemptState.OPEN, after=12, seq=1) for n in range(6)))
    steps = [look_at(range(10), after=0), look_at(range(7, 10), after=10, activity=opened)]
    assert held_after(*steps) == set()


def test_instances_missing_for_minutes_do_not_count_as_newly_vanished() -> None:
    away = [look_at(range(11), after=seconds) for seconds in (10, 20, 30, 200)]
    assert held_after(look_at(range(20), after=0), *away, look_at(range(6), after=210)) == set()


# Duration


def test_vms_already_missing_are_not_held_when_many_others_vanish() -> None:
    away = [look_at(range(11), after=10.0 * n) for n in range(1, 4)]
    inference = through([look_at(range(20), after=0), *away, look_at(range(6), after=40)])
    assert inference.held == set(range(6, 11))
    assert {words(inference)[number] for number in range(11, 20)} == {"(FAILURE)"}


def test_held_vms_are_not_held_longer_when_others_vanish() -> None:
    steps = [look_at(range(20), after=0), look_at(range(8), after=10), look_at(range(7), after=50)]
    assert held_after(*steps) == set(range(7, 20))
    assert held_after(*steps, look_at(range(7), after=75)) == {7}


def test_the_hold_ends_by_time_and_not_by_the_number_of_listings() -> None:
    steps = [look_at(range(10), after=0), *[look_at(range(0), after=10.0 * n) for n in range(1, 7)]]
    assert held_after(*steps) == set(range(10))
    assert held_after(*steps, look_at(range(0), after=75)) == set()


def test_vms_that_came_back_and_vanish_again_are_held_for_the_full_time() -> None:
    steps = [look_at(range(10), after=0), look_at(range(0), after=10), look_at(range(10), after=20)]
    assert held_after(*steps, look_at(range(0), after=75)) == set(range(10))


def test_vms_that_were_terminated_and_then_had_an_action_count_as_vanished_again() -> None:
    steps = [look_at(range(10), after=0), look_at(range(6, 10), *dead(range(6)), after=10)]
    steps.append(look_at(range(6, 10), after=20, activity=busy_with(*range(6))))
    assert held_after(*steps, look_at(range(6, 10), after=30)) == set(range(6))


def counted() -> list[Look]:
    """Five of ten were missed once, which is not unusual; then the other five are terminated."""
    steps = [look_at(range(10), after=0), look_at(range(5), after=10), look_at(range(0), *dead(range(5)), after=20)]
    assert held_after(*steps) == set()
    return steps


def test_vms_missed_before_become_missing_although_all_others_vanish() -> None:
    inference = through([*counted(), look_at(range(0), after=30)])
    assert inference.held == frozenset()
    assert {words(inference)[number] for number in range(5, 10)} == {"(FAILURE)"}


def test_a_vm_already_counted_as_missed_is_not_held_when_others_are_held() -> None:
    rules = Rules(owner=OWNER, missing_after=4)
    more = range(100, 130)
    others = [instance_of(number) for number in more]
    steps = [look_at(range(20), after=0), look_at(range(9), after=10), look_at(range(9), *others, after=20)]
    steps += [look_at(range(7), *others, after=30), look_at(range(7), *dead(more), after=40)]
    assert held_after(*steps, look_at(range(7), after=50), rules=rules) == set(range(9, 20))


def test_a_held_vm_whose_instance_was_terminated_is_not_held_again() -> None:
    steps = [look_at(range(10), after=0), look_at(range(0), after=10), look_at(range(1, 10), *dead(range(1)), after=20)]
    steps.append(look_at(range(1, 10), after=30, activity=answered(0, "DEPLOY", after=25)))
    inference: Inference = through([*steps, *[look_at(range(1, 10), after=10.0 * n) for n in (4, 5)]])
    assert (inference.held, words(inference)[0]) == (frozenset(), "(FAILURE)")
    assert VmId(0) in inference.memory.vms
