"""Reporting changed states so that an OpenNebula that ignores reports for half a minute still learns of each change."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.journal.records import Answered
from one_provider_mad.monitor.changes import Changes
from one_provider_mad.monitor.inference import InferredVm
from one_provider_mad.protocol.reports import VmState, VmWord
from tests.monitor.builders import NOW

VM = VmId(7)
RUNNING, POWEROFF, SUSPENDED, FAILURE = VmWord.RUNNING, VmWord.POWEROFF, VmWord.SUSPENDED, VmWord.FAILURE


def seen(word: VmWord) -> InferredVm:
    state = VmState(vm_id=VM, deploy_id=DeployId("i-7"), state=word)
    return InferredVm(state=state, is_listed=word is not FAILURE)


def answer(action: str, *, at: float) -> dict[VmId, Answered]:
    return {VM: Answered(action=action, at=NOW + at)}


def told(
    changes: Changes, word: VmWord, *times: float, answered: dict[VmId, Answered] | None = None
) -> dict[float, str]:
    """The states of the VM that are reported, by the second at which they are."""
    found = {at: changes.states_to_report([seen(word)], answered or {}, now=NOW + at) for at in times}
    return {at: states[0].state.value for at, states in found.items() if states}


def begun(word: VmWord = RUNNING) -> Changes:
    """Changes, a minute after a report of all VMs."""
    changes = Changes()
    changes.note_full_report([seen(word)], {}, now=NOW - 60)
    return changes


def test_a_change_is_reported_at_once_and_again_after_every_half_minute() -> None:
    expected = {0: "POWEROFF", 35: "POWEROFF", 70: "POWEROFF"}
    assert told(begun(), POWEROFF, *range(0, 100, 5)) == expected


def test_a_failure_is_reported_once_since_each_report_is_a_line_in_the_vm_log() -> None:
    assert told(begun(), FAILURE, *range(0, 100, 5)) == {0: "FAILURE"}


@pytest.mark.parametrize(
    ("action", "word"), [("DEPLOY", RUNNING), ("RESTORE", RUNNING), ("CANCEL", POWEROFF), ("SAVE", SUSPENDED)]
)
def test_a_state_brought_by_an_answered_action_is_reported_thirty_seconds_later(action: str, word: VmWord) -> None:
    other = POWEROFF if word is RUNNING else RUNNING
    assert told(begun(other), word, *range(0, 40, 5), answered=answer(action, at=-2)) == {30: word.value}


@pytest.mark.parametrize("word", [POWEROFF, FAILURE])
def test_a_state_that_contradicts_the_answered_action_is_reported_at_once_and_again_later(word: VmWord) -> None:
    """Releases up to 7.0.0 do not ignore the first report."""
    found = told(begun(), word, *range(0, 40, 5), answered=answer("DEPLOY", at=-2))
    assert found == {0: word.value, 35: word.value}


def test_a_failure_after_a_repeated_state_of_an_answered_action_is_reported_once() -> None:
    changes, deployed = begun(POWEROFF), answer("DEPLOY", at=-2)
    assert told(changes, RUNNING, *range(0, 50, 5), answered=deployed) == {30: "RUNNING"}
    assert told(changes, FAILURE, *range(50, 100, 5), answered=deployed) == {50: "FAILURE"}


def test_a_failure_soon_after_a_start_in_the_console_is_reported_twice() -> None:
    changes, deployed = begun(POWEROFF), answer("DEPLOY", at=-3600)
    assert told(changes, RUNNING, 0, answered=deployed) == {0: "RUNNING"}
    assert told(changes, FAILURE, *range(5, 100, 5), answered=deployed) == {5: "FAILURE", 40: "FAILURE"}


def test_a_failure_soon_after_an_attached_disk_is_reported_once() -> None:
    assert told(begun(), FAILURE, *range(0, 100, 5), answered=answer("ATTACHDISK", at=-2)) == {0: "FAILURE"}


def test_a_change_that_a_sync_has_repeated_is_not_reported_again() -> None:
    changes = begun()
    told(changes, POWEROFF, 0)
    changes.note_full_report([seen(POWEROFF)], {}, now=NOW + 40)
    assert told(changes, POWEROFF, *range(45, 100, 5)) == {}


def test_a_change_that_oned_may_have_ignored_in_a_sync_is_reported_again() -> None:
    changes = begun()
    told(changes, POWEROFF, 0)
    changes.note_full_report([seen(RUNNING)], {}, now=NOW + 5)
    assert told(changes, RUNNING, *range(10, 100, 5)) == {35: "RUNNING", 70: "RUNNING"}


def test_after_its_start_a_driver_repeats_only_states_that_may_have_been_ignored() -> None:
    changes = Changes()
    changes.note_full_report([seen(RUNNING)], {}, now=NOW)
    assert told(changes, RUNNING, *range(0, 100, 5)) == {}
    changes = Changes()
    changes.note_full_report([seen(POWEROFF)], answer("DEPLOY", at=-5), now=NOW)
    assert told(changes, POWEROFF, 5, 10, 30) == {30: "POWEROFF"}


def test_a_clock_set_back_by_an_hour_delays_no_report_of_a_change() -> None:
    changes = begun()
    assert told(changes, POWEROFF, 0, -3600, -3595, -3565) == {0: "POWEROFF", -3600: "POWEROFF", -3565: "POWEROFF"}


def test_an_instance_that_runs_again_in_the_second_of_its_shutdown_is_reported_when_opennebula_listens() -> None:
    changes, stopped = begun(), answer("SHUTDOWN", at=-1)
    assert told(changes, RUNNING, *range(0, 60, 5), answered=stopped) == {30: "RUNNING"}


def test_an_instance_that_runs_again_before_a_report_of_all_vms_is_reported_once_more() -> None:
    changes, stopped = begun(), answer("SHUTDOWN", at=-1)
    changes.note_full_report([seen(RUNNING)], stopped, now=NOW)
    assert told(changes, RUNNING, *range(5, 60, 5), answered=stopped) == {30: "RUNNING"}


@dataclass
class Core:
    """Pretends to be OpenNebula 7.4 with one VM, whose reports it ignores for 30 s after a start or stop."""

    word: VmWord = RUNNING
    deaf_until: float = 0.0
    ignored: int = 0
    errors: int = 0
    answered: dict[VmId, Answered] = field(default_factory=dict)

    def act(self, action: str, word: VmWord, now: float) -> None:
        """An action is answered with success."""
        self.word, self.deaf_until = word, now + 30
        self.answered = {VM: Answered(action=action, at=now)}

    def hear(self, word: VmWord, now: float, *, is_sync: bool = False) -> None:
        """A STATE_VM reports the VM, or leaves it out."""
        if is_sync and word is FAILURE:
            self.word = FAILURE if self.word is RUNNING else self.word
        elif now < self.deaf_until:
            self.ignored += 1
        elif word is FAILURE:
            self.errors += self.word in (RUNNING, FAILURE)
            self.word = FAILURE if self.word is RUNNING else self.word
        elif word is not self.word and (word is RUNNING or self.word in (RUNNING, FAILURE)):
            self.word, self.deaf_until = word, now + 30


ACTIONS = {"DEPLOY": RUNNING, "SHUTDOWN": POWEROFF, "SAVE": SUSPENDED}

events = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from(["DEPLOY", "SHUTDOWN", "SAVE", RUNNING, POWEROFF, FAILURE])),
    max_size=6,
)


@example(events=[(191, "SHUTDOWN"), (191, RUNNING)], sync_at=40)
@given(events=events, sync_at=st.integers(0, 179))
def test_opennebula_learns_of_every_change_in_the_end_and_ignores_few_reports(
    events: list[tuple[int, str | VmWord]], sync_at: int
) -> None:
    core, changes, instance = Core(), begun(), RUNNING
    pending = sorted(events, key=lambda event: event[0])
    for second in range(0, 400, 5):
        now = NOW + second
        while pending and pending[0][0] <= second:
            what = pending.pop(0)[1]
            if isinstance(what, VmWord):
                instance = what
            else:
                instance = ACTIONS[what]
                core.act(what, instance, now - 1)
        if second % 180 == sync_at // 5 * 5:
            changes.note_full_report([seen(instance)], core.answered, now=now)
            core.hear(instance, now, is_sync=True)
        else:
            for state in changes.states_to_report([seen(instance)], core.answered, now=now):
                core.hear(state.state, now)
    unreachable = {POWEROFF, SUSPENDED}  # only RUNNING leads out of them
    assert core.word is instance or (core.word in unreachable and instance in {FAILURE, *unreachable})
    assert core.ignored <= len(events) + 3, "only reports of all VMs, and of changes shortly after an action"
    assert core.errors <= sum(what is FAILURE for _, what in events) * 2
