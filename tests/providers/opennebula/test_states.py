"""The instance state for every pair of STATE and LCM_STATE."""

from __future__ import annotations

import itertools

import pytest

from one_provider_mad.domain import InstanceState
from one_provider_mad.providers.opennebula.states import ACTIVE, LCM_STATES, STATES, read_state

S = InstanceState
STATE_NUMBERS, LCM_NUMBERS = range(12), range(72)
"""Every number that any release has (include/VirtualMachine.h)."""


def test_every_state_and_lcm_state_number_is_mapped() -> None:
    assert list(STATES) == list(STATE_NUMBERS)
    assert list(LCM_STATES) == list(LCM_NUMBERS)


@pytest.mark.parametrize("state", STATE_NUMBERS)
def test_lcm_state_decides_the_state_of_an_active_vm_only(state: int) -> None:
    for lcm_state in LCM_NUMBERS:
        found = read_state(state, lcm_state)
        word, meaning = LCM_STATES[lcm_state] if state == ACTIVE else STATES[state]
        assert (found.word, found.meaning, found.is_known) == (word, meaning, True)


@pytest.mark.parametrize(
    ("state", "lcm_state", "meaning", "word"),
    [
        (1, 0, S.PENDING, "PENDING"),
        (2, 0, S.PENDING, "HOLD"),
        (4, 0, S.SUSPENDED, "STOPPED"),
        (5, 0, S.SUSPENDED, "SUSPENDED"),
        (6, 0, S.TERMINATED, "DONE"),
        (8, 0, S.STOPPED, "POWEROFF"),
        (9, 0, S.STOPPED, "UNDEPLOYED"),
        (3, 2, S.PENDING, "BOOT"),
        (3, 3, S.RUNNING, "RUNNING"),
        (3, 17, S.RUNNING, "HOTPLUG"),
        (3, 18, S.STOPPING, "SHUTDOWN_POWEROFF"),
        (3, 6, S.SUSPENDING, "SAVE_SUSPEND"),
        (3, 12, S.TERMINATING, "SHUTDOWN"),
        (3, 11, S.TERMINATING, "EPILOG"),
        (3, 16, S.UNKNOWN, "UNKNOWN"),
        (3, 36, S.UNKNOWN, "BOOT_FAILURE"),
        (3, 65, S.STOPPED, "HOTPLUG_NIC_POWEROFF"),
    ],
)
def test_state_and_lcm_state_become_an_instance_state_and_a_word(
    state: int, lcm_state: int, meaning: InstanceState, word: str
) -> None:
    found = read_state(state, lcm_state)
    assert (found.meaning, found.word) == (meaning, word)


@pytest.mark.parametrize("lcm_state", LCM_NUMBERS)
def test_a_failed_lcm_state_is_unknown_and_not_busy(lcm_state: int) -> None:
    found = read_state(ACTIVE, lcm_state)
    assert found.is_failure == ("FAILURE" in found.word)
    if found.is_failure:
        assert found.meaning is S.UNKNOWN
        assert not found.is_busy


def test_only_state_done_counts_as_terminated() -> None:
    terminated = {
        pair for pair in itertools.product(STATE_NUMBERS, LCM_NUMBERS) if read_state(*pair).meaning is S.TERMINATED
    }
    assert {state for state, _ in terminated} == {6}


@pytest.mark.parametrize(
    ("state", "lcm_state", "word"), [(12, 0, "STATE 12"), (-1, -1, "STATE -1"), (3, 99, "LCM_STATE 99")]
)
def test_an_unmapped_state_number_is_unknown(state: int, lcm_state: int, word: str) -> None:
    found = read_state(state, lcm_state)
    assert (found.meaning, found.word, found.is_known) == (S.UNKNOWN, word, False)
