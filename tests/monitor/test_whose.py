"""Decisions 14 and 18: a VM is what its latest instance is, also while the cloud does not show that one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.journal import Answered, Attempt, AttemptState
from one_provider_mad.monitor.activity import Activity
from one_provider_mad.monitor.truth import Judgement, Listing, Memory, Rules, judge
from one_provider_mad.protocol.reports import VmState, VmWord
from tests.monitor.worlds import (
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

# Created anew

RECREATED = Activity(
    attempts=(attempt_of(7, AttemptState.CREATED, after=12, deploy_id="i-new", seq=1),),
    answered={VmId(7): Answered(action="DEPLOY", at=NOW + 14)},
)
"""VM 7, whose instance was i-7, has another one since twelve seconds after the first listing."""

UNKNOWN_AS_NEW = [VmState(vm_id=VmId(7), deploy_id=DeployId("i-new"), state=VmWord.UNKNOWN)]


@pytest.mark.parametrize(
    ("after", "grace"), [(10, 0), (20, 300)], ids=["listed-before-the-create", "not-shown-by-the-cloud-yet"]
)
@pytest.mark.parametrize(
    "shown",
    [
        pytest.param([instance_of(7, InstanceState.TERMINATED)], id="terminated"),
        pytest.param([instance_of(7, InstanceState.TERMINATING)], id="on-its-way"),
        pytest.param([instance_of(7)], id="left-over-and-running"),
        pytest.param([instance_of(7, InstanceState.STOPPED)], id="left-over-and-stopped"),
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
def test_a_vm_that_was_created_anew_is_named_by_its_new_instance_whatever_is_listed_of_the_old(
    earlier: list[Instance], shown: list[Instance], after: float, grace: float
) -> None:
    rules = Rules(owner=OWNER, grace=grace)
    looks = [(listing_of(*earlier, after=2.0 * n), IDLE) for n in range(1, 5)]
    judgement = through(
        [(listing_of(instance_of(7)), IDLE), *looks, (listing_of(*shown, after=after), RECREATED)], rules=rules
    )
    assert [vm.state for vm in all_vms(judgement) if vm.is_listed] == UNKNOWN_AS_NEW
    assert not judgement.unsynced


@pytest.mark.parametrize("state", [InstanceState.TERMINATED, InstanceState.RUNNING], ids=["dead", "left-over"])
def test_a_new_instance_that_one_listing_omits_long_after_does_not_give_way_to_the_old_one(
    state: InstanceState,
) -> None:
    steps = [(listing_of(instance_of(7)), IDLE), (listing_of(instance_of(7, state), after=60), RECREATED)]
    assert [vm.state for vm in all_vms(through(steps)) if vm.is_listed] == UNKNOWN_AS_NEW


def test_a_create_without_an_id_yet_keeps_its_host_from_being_synced_while_the_old_instance_is_listed() -> None:
    opened = Activity(attempts=(attempt_of(7, AttemptState.OPEN, after=12, seq=1),))
    for state in (InstanceState.TERMINATED, InstanceState.RUNNING, InstanceState.STOPPED):
        judgement = through([(listing_of(instance_of(7)), IDLE), (listing_of(instance_of(7, state), after=10), opened)])
        assert judgement.unsynced == {3}
        assert words(judgement) == {7: "UNKNOWN"}


def test_a_vm_that_was_terminated_since_it_was_created_is_not_spoken_of() -> None:
    made = RECREATED.attempts
    ended = Activity(attempts=made, answered={VmId(7): Answered(action="SHUTDOWN", at=NOW + 16, has_ended=True)})
    assert words(through([(listing_of(after=10), ended), (listing_of(after=20), ended)])) == {}


# Whatever happens

VMS = tuple(map(VmId, range(8)))
GRACE = 20.0
LIVE = st.sampled_from([InstanceState.RUNNING, InstanceState.STOPPED])


@dataclass
class World:
    """A cloud whose VMs are created anew, with leftovers and failures, and whose listings omit some now and then."""

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

    def create(self, vm_id: VmId, state: InstanceState) -> None:
        seq = sum(each.identity is not None and each.identity.vm_id == vm_id for each in self.others)
        made = instance_of(vm_id, state, seq=seq, deploy_id=f"i-{vm_id}-{seq}")
        self.now += 1
        self.attempts[vm_id] = attempt_of(
            vm_id, AttemptState.CREATED, after=self.now - NOW, deploy_id=made.deploy_id, seq=seq
        )
        self.current[vm_id], self.made_at[vm_id], self.omitted[vm_id] = made, self.now, 0
        self.now += 1
        self.answer(vm_id, "DEPLOY")

    def recreate(self, vm_id: VmId, state: InstanceState, *, is_cleaned: bool) -> None:
        old = self.current.pop(vm_id, None)
        if old is not None:
            gone = instance_of(vm_id, InstanceState.TERMINATED, seq=_seq(old), deploy_id=old.deploy_id)
            self.others.append(gone if is_cleaned else old)
            self.answer(vm_id, "CLEANUP", has_ended=is_cleaned)
        self.create(vm_id, state)

    def answer(self, vm_id: VmId, action: str, *, has_ended: bool = False) -> None:
        self.answered[vm_id] = Answered(action=action, at=self.now, has_ended=has_ended)

    def look(self, omitted: set[VmId], *, meanwhile: Step | None = None) -> None:
        """Take a listing; while a slow one is under way something happens."""
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

    def judge(self) -> Judgement:
        activity = Activity(attempts=tuple(self.attempts.values()), answered=self.answered)
        judgement = judge(self.memory, self.listing, activity, self.rules)
        self.memory = judgement.memory
        return judgement


@dataclass
class Step:
    """Something happens, or time passes; then there is a look, unless nobody looks just now."""

    kind: str
    vm_id: VmId
    state: InstanceState
    is_cleaned: bool
    omitted: set[VmId]
    is_slow: bool
    is_looked: bool

    def act(self, world: World) -> None:
        if self.kind == "recreate":
            world.recreate(self.vm_id, self.state, is_cleaned=self.is_cleaned)
        elif self.kind == "fail-to-end" and self.vm_id in world.current:
            world.now += 1
            world.answer(self.vm_id, "SHUTDOWN")
        elif self.kind == "outage":
            world.now += 4000


STEPS = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from(["recreate", "fail-to-end", "outage", "nothing", "nothing"]),
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
def test_whatever_happens_no_vm_is_left_out_that_exists_and_none_gets_the_word_of_another_instance(
    steps: list[Step], missing_after: int, missing_word: VmWord
) -> None:
    rules = Rules(owner=OWNER, grace=GRACE, missing_after=missing_after, missing_word=missing_word)
    world = World(rules)
    for vm_id in VMS[:6]:
        world.create(vm_id, InstanceState.RUNNING)
    world.look(set())
    world.judge()
    for step in steps:
        if not step.is_slow:
            step.act(world)
        if step.is_looked:
            world.look(step.omitted, meanwhile=step if step.is_slow else None)
            check(world, world.judge())
    check(world, world.judge())


def check(world: World, judgement: Judgement) -> None:
    said = {vm.state.vm_id: vm for vm in all_vms(judgement)}
    assert len(said) == len(all_vms(judgement)), "no VM is spoken of twice"
    for vm_id, instance in world.current.items():
        vm = said.get(vm_id)
        if vm is None or not vm.is_listed:
            assert world.omitted[vm_id] >= world.rules.missing_after, "left out though it exists"
            assert vm_id not in judgement.held
        if vm is not None:
            assert vm.state.deploy_id == instance.deploy_id, "it is spoken of by its own instance"
            is_seen = vm.is_listed and vm.state.state is not VmWord.UNKNOWN
            assert not is_seen or vm.instance == instance, "and by nothing else"


def _seq(instance: Instance) -> int:
    return instance.identity.seq if instance.identity is not None else -1
