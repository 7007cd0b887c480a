"""Decisions 14 and 18: a VM's state is that of its latest instance, also while the cloud does not show that one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.journal.records import Answered, Attempt, AttemptState
from one_provider_mad.monitor.activity import Activity
from one_provider_mad.monitor.inference import Inference, Listing, Memory, Rules, infer_states, with_clock_set_back
from one_provider_mad.protocol.reports import VmState, VmWord
from tests.monitor.builders import (
    IDLE,
    NOW,
    OWNER,
    all_vms,
    attempt_of,
    instance_of,
    listing_of,
    through,
    words,
)

# Recreated VMs

RECREATED = Activity(
    attempts=(attempt_of(7, AttemptState.CREATED, after=12, deploy_id="i-new", seq=1),),
    answered={VmId(7): Answered(action="DEPLOY", at=NOW + 14)},
)
"""VM 7, with the instance i-7, got another one twelve seconds after the first listing."""

UNKNOWN_AS_NEW = [VmState(vm_id=VmId(7), deploy_id=DeployId("i-new"), state=VmWord.UNKNOWN)]


@pytest.mark.parametrize(("after", "grace"), [(10, 0), (20, 300)], ids=["listed-before-the-create", "within-the-grace"])
@pytest.mark.parametrize(
    "shown",
    [
        pytest.param([instance_of(7, InstanceState.TERMINATED)], id="terminated"),
        pytest.param([instance_of(7, InstanceState.TERMINATING)], id="terminating"),
        pytest.param([instance_of(7)], id="leftover-running"),
        pytest.param([instance_of(7, InstanceState.STOPPED)], id="leftover-stopped"),
        pytest.param([instance_of(7, stime=9)], id="of-an-earlier-stime"),
        pytest.param([], id="not-listed"),
    ],
)
@pytest.mark.parametrize(
    "earlier",
    [
        pytest.param([instance_of(7)], id="ran"),
        pytest.param([instance_of(7, InstanceState.TERMINATED)], id="was-terminated-in-the-console"),
        pytest.param([], id="was-missing"),
    ],
)
def test_a_recreated_vm_is_reported_with_its_new_instance_while_listings_show_only_the_old(
    earlier: list[Instance], shown: list[Instance], after: float, grace: float
) -> None:
    rules = Rules(owner=OWNER, grace=grace)
    looks = [(listing_of(*earlier, after=2.0 * n), IDLE) for n in range(1, 5)]
    inference = through(
        [(listing_of(instance_of(7)), IDLE), *looks, (listing_of(*shown, after=after), RECREATED)], rules=rules
    )
    assert [vm.state for vm in all_vms(inference) if vm.is_listed] == UNKNOWN_AS_NEW
    assert not inference.unsynced


@pytest.mark.parametrize("state", [InstanceState.TERMINATED, InstanceState.RUNNING], ids=["dead", "leftover"])
def test_an_old_instance_does_not_replace_a_new_one_that_a_later_listing_lacks(
    state: InstanceState,
) -> None:
    steps = [(listing_of(instance_of(7)), IDLE), (listing_of(instance_of(7, state), after=60), RECREATED)]
    assert [vm.state for vm in all_vms(through(steps)) if vm.is_listed] == UNKNOWN_AS_NEW


def test_an_open_create_prevents_the_sync_of_its_host_while_the_old_instance_is_listed() -> None:
    opened = Activity(attempts=(attempt_of(7, AttemptState.OPEN, after=12, seq=1),))
    for state in (InstanceState.TERMINATED, InstanceState.RUNNING, InstanceState.STOPPED):
        inference = through([(listing_of(instance_of(7)), IDLE), (listing_of(instance_of(7, state), after=10), opened)])
        assert inference.unsynced == {3}
        assert words(inference) == {7: "UNKNOWN"}


def test_a_recreated_vm_that_was_terminated_since_is_left_out() -> None:
    made = RECREATED.attempts
    ended = Activity(attempts=made, answered={VmId(7): Answered(action="SHUTDOWN", at=NOW + 16, has_ended=True)})
    assert words(through([(listing_of(after=10), ended), (listing_of(after=20), ended)])) == {}


# Arbitrary histories

VMS = tuple(map(VmId, range(8)))
GRACE = 20.0
LIVE = st.sampled_from([InstanceState.RUNNING, InstanceState.STOPPED])


@dataclass
class World:
    """A cloud whose VMs are recreated, with leftovers and failures, and whose listings omit some now and then.

    Some creates have no id for a while, some VMs end for good, and the clock is set back now and then.
    """

    rules: Rules
    now: float = NOW
    memory: Memory = field(default_factory=Memory)
    current: dict[VmId, Instance] = field(default_factory=dict)
    made_at: dict[VmId, float] = field(default_factory=dict)
    others: list[Instance] = field(default_factory=list)
    attempts: dict[VmId, Attempt] = field(default_factory=dict)
    answered: dict[VmId, Answered] = field(default_factory=dict)
    omitted: dict[VmId, int] = field(default_factory=dict)
    listing: Listing = field(default_factory=listing_of)
    busy: set[VmId] = field(default_factory=set)
    ended: set[VmId] = field(default_factory=set)
    lives: Counter[VmId] = field(default_factory=Counter)

    def send(self, vm_id: VmId) -> None:
        """A create is under way: it has no id yet."""
        self.now += 1
        self.busy.add(vm_id)
        self.ended.discard(vm_id)
        self.attempts[vm_id] = attempt_of(vm_id, AttemptState.OPEN, after=self.now - NOW, seq=self.lives[vm_id])

    def create(self, vm_id: VmId, state: InstanceState) -> None:
        """The create that is under way, or else a new one, is answered."""
        if vm_id not in self.busy:
            self.send(vm_id)
        seq, self.lives[vm_id] = self.lives[vm_id], self.lives[vm_id] + 1
        made = instance_of(vm_id, state, seq=seq, deploy_id=f"i-{vm_id}-{seq}")
        self.now += 1
        self.attempts[vm_id] = msgspec.structs.replace(
            self.attempts[vm_id], state=AttemptState.CREATED, deploy_id=made.deploy_id, answered_at=self.now
        )
        self.current[vm_id], self.made_at[vm_id], self.omitted[vm_id] = made, self.now, 0
        self.now += 1
        self.busy.discard(vm_id)
        self.answer(vm_id, "DEPLOY")

    def clean_up(self, vm_id: VmId, action: str, *, is_cleaned: bool) -> None:
        """End the VM's instance: it is destroyed, or left over."""
        old = self.current.pop(vm_id, None)
        if old is not None:
            gone = instance_of(vm_id, InstanceState.TERMINATED, seq=_seq(old), deploy_id=old.deploy_id)
            self.others.append(gone if is_cleaned else old)
            self.answer(vm_id, action, has_ended=is_cleaned)

    def set_clock_back(self, by: float) -> None:
        """Set the clock back; times that are then in the future become the present."""
        self.now -= by
        self.memory = with_clock_set_back(self.memory, by)
        self.listing = msgspec.structs.replace(self.listing, began_at=self.listing.began_at - by)
        self.made_at = {vm_id: at - by for vm_id, at in self.made_at.items()}
        times = [each.at for each in self.answered.values()]
        times += [at for each in self.attempts.values() for at in (each.sent_at, each.answered_at)]
        by = max(0.0, max(times, default=0.0) - self.now)
        past = {at: at - by if at > self.now else at for at in times}
        for vm_id, done in self.answered.items():
            self.answered[vm_id] = msgspec.structs.replace(done, at=past[done.at])
        for vm_id, each in self.attempts.items():
            moved = {"sent_at": past[each.sent_at], "answered_at": past[each.answered_at]}
            self.attempts[vm_id] = msgspec.structs.replace(each, **moved)

    def answer(self, vm_id: VmId, action: str, *, has_ended: bool = False) -> None:
        self.answered[vm_id] = Answered(action=action, at=self.now, has_ended=has_ended)

    def look(self, omitted: set[VmId], *, meanwhile: Step | None = None) -> None:
        """Take a listing, during which a step may happen."""
        began_at = self.now = self.now + 5
        is_shown = {vm_id: vm_id not in omitted for vm_id in self.current}
        shown = [each for vm_id, each in self.current.items() if is_shown[vm_id]]
        self.listing = listing_of(*self.others, *shown, after=began_at - NOW)
        for vm_id in self.current:
            if is_shown[vm_id]:
                self.omitted[vm_id] = 0
            elif began_at > self.made_at[vm_id] + GRACE:
                self.omitted[vm_id] += 1
        if meanwhile is not None:
            self.now += 1
            meanwhile.act(self)

    def infer_states(self) -> Inference:
        activity = Activity(attempts=tuple(self.attempts.values()), answered=self.answered, busy=frozenset(self.busy))
        inference = infer_states(self.memory, self.listing, activity, self.rules)
        self.memory = inference.memory
        return inference


@dataclass
class Step:
    """An event, or a passage of time, and then a listing, unless `is_looked` is false."""

    kind: str
    vm_id: VmId
    state: InstanceState
    is_cleaned: bool
    omitted: set[VmId]
    is_slow: bool
    is_looked: bool

    def act(self, world: World) -> None:
        if self.kind == "recreate":
            world.clean_up(self.vm_id, "CLEANUP", is_cleaned=self.is_cleaned)
            world.create(self.vm_id, self.state)
        elif self.kind == "recreate-slowly" and self.vm_id not in world.busy:
            world.clean_up(self.vm_id, "CLEANUP", is_cleaned=self.is_cleaned)
            world.send(self.vm_id)
        elif self.kind == "end" and self.vm_id in world.current:
            world.now += 1
            world.clean_up(self.vm_id, "SHUTDOWN", is_cleaned=True)
            world.ended.add(self.vm_id)
        elif self.kind == "set-back":
            world.set_clock_back(5 if self.is_cleaned else 5000)
        elif self.kind == "fail-to-end" and self.vm_id in world.current:
            world.now += 1
            world.answer(self.vm_id, "SHUTDOWN")
        elif self.kind == "outage":
            world.now += 4000


STEPS = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from(["recreate", "recreate-slowly", "end", "fail-to-end", "outage", "set-back", "nothing"]),
        vm_id=st.sampled_from(VMS),
        state=LIVE,
        is_cleaned=st.booleans(),
        omitted=st.sets(st.sampled_from(VMS)),
        is_slow=st.booleans(),
        is_looked=st.booleans(),
    ),
    max_size=14,
)


@given(steps=STEPS, missing_after=st.integers(1, 4), missing_word=st.sampled_from([VmWord.UNKNOWN, VmWord.POWEROFF]))
def test_in_any_history_every_existing_vm_is_reported_with_its_latest_instance(
    steps: list[Step], missing_after: int, missing_word: VmWord
) -> None:
    rules = Rules(owner=OWNER, grace=GRACE, missing_after=missing_after, missing_word=missing_word)
    world = World(rules)
    for vm_id in VMS[:6]:
        world.create(vm_id, InstanceState.RUNNING)
    world.look(set())
    world.infer_states()
    for step in steps:
        if not step.is_slow:
            step.act(world)
        if step.is_looked:
            world.look(step.omitted, meanwhile=step if step.is_slow else None)
            check(world, world.infer_states())
    check(world, world.infer_states())


def check(world: World, inference: Inference) -> None:
    said = {vm.state.vm_id: vm for vm in all_vms(inference)}
    assert len(said) == len(all_vms(inference)), "no VM is reported twice"
    for vm_id, instance in world.current.items():
        vm = said.get(vm_id)
        if vm is None or not vm.is_listed:
            assert world.omitted[vm_id] >= world.rules.missing_after, "left out though it exists"
            assert vm_id not in inference.held
        if vm is not None:
            assert vm.state.deploy_id == instance.deploy_id, "it is reported by its own instance"
            is_seen = vm.is_listed and vm.state.state is not VmWord.UNKNOWN
            assert not is_seen or vm.instance == instance, "and with that instance's state only"
    for vm_id in world.busy | world.ended:
        assert vm_id not in said or said[vm_id].state.state is VmWord.UNKNOWN, "it has no known state for now"
    since = world.listing.began_at - GRACE
    is_pending = any(world.attempts[vm_id].sent_at >= since for vm_id in world.busy)
    assert not is_pending or inference.unsynced == {3}, "an instance without an id cannot be reported"


def _seq(instance: Instance) -> int:
    return instance.identity.seq if instance.identity is not None else -1
