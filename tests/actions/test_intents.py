from __future__ import annotations

import pytest

from one_provider_mad.actions.intents import Intent, intent_of
from one_provider_mad.errors import RequestRefused
from one_provider_mad.protocol.messages import Action

# The actions that oned sends in each state (src/vm/LifeCycleActions.cc, src/dm/DispatchManagerActions.cc), by number:
# 2 BOOT, 5 SAVE_STOP, 6 SAVE_SUSPEND, 12 SHUTDOWN, 13 CANCEL (up to 4.4), 18 SHUTDOWN_POWEROFF, 19 BOOT_UNKNOWN,
# 20 BOOT_POWEROFF, 21 BOOT_SUSPENDED, 22 BOOT_STOPPED, 29 SHUTDOWN_UNDEPLOY, 32 BOOT_UNDEPLOY, 35 BOOT_MIGRATE,
# 36 BOOT_FAILURE. All other states are to be refused.
MEANINGS = {
    "DEPLOY": {
        2: "create",
        36: "create",
        19: "start",
        20: "start",
        21: "start",
        22: "start",
        32: "start",
        35: "start",
    },
    "RESTORE": {21: "start", 22: "start", 32: "start", 35: "start"},
    "SHUTDOWN": {12: "destroy", 18: "stop", 29: "stop, and leave the host"},
    "CANCEL": {12: "destroy", 13: "destroy", 18: "stop at once", 29: "stop at once, and leave the host"},
    "SAVE": {6: "suspend", 5: "stop, and leave the host"},
}
MIGRATIONS = {4, 7}
"""MIGRATE and SAVE_MIGRATE."""

EVERY_STATE = [*range(72), 72, 999, -1]


def read_as(word: str, lcm_state: int | None, *, has_deploy_id: bool) -> str | None:
    """The intent of an action; None if it is refused."""
    try:
        return intent_of(Action(word), lcm_state, has_deploy_id=has_deploy_id).value
    except RequestRefused:
        return None


@pytest.mark.parametrize("has_deploy_id", [True, False], ids=["with-id", "without-id"])
@pytest.mark.parametrize("word", MEANINGS)
def test_every_lcm_state_has_its_intent_or_is_refused(word: str, *, has_deploy_id: bool) -> None:
    found = {lcm_state: read_as(word, lcm_state, has_deploy_id=has_deploy_id) for lcm_state in EVERY_STATE}
    assert found == {lcm_state: MEANINGS[word].get(lcm_state) for lcm_state in EVERY_STATE}


@pytest.mark.parametrize("has_deploy_id", [True, False], ids=["with-id", "without-id"])
def test_a_cleanup_destroys_in_every_lcm_state(*, has_deploy_id: bool) -> None:
    states = [*EVERY_STATE, None]
    found = {lcm_state: read_as("CLEANUP", lcm_state, has_deploy_id=has_deploy_id) for lcm_state in states}
    assert found == dict.fromkeys(states, Intent.DESTROY.value)


def test_a_deploy_without_lcm_state_and_deploy_id_creates_an_instance() -> None:
    assert intent_of(Action.DEPLOY, None, has_deploy_id=False) is Intent.CREATE


WITHOUT_STATE = [
    pytest.param("DEPLOY", True, id="deploy-of-an-instance"),
    *[
        pytest.param(word, has_deploy_id, id=f"{word.lower()}-{'with' if has_deploy_id else 'without'}-id")
        for word in MEANINGS
        if word != "DEPLOY"
        for has_deploy_id in (True, False)
    ],
]


@pytest.mark.parametrize(("word", "has_deploy_id"), WITHOUT_STATE)
def test_actions_other_than_deploy_are_refused_without_an_lcm_state(word: str, *, has_deploy_id: bool) -> None:
    with pytest.raises(RequestRefused, match=f"no LCM_STATE, and without it {word} has no certain meaning"):
        intent_of(Action(word), None, has_deploy_id=has_deploy_id)


@pytest.mark.parametrize("word", MEANINGS)
@pytest.mark.parametrize("lcm_state", sorted(MIGRATIONS))
def test_a_migration_is_refused_with_the_alternative_commands(word: str, lcm_state: int) -> None:
    with pytest.raises(RequestRefused, match="migration is not supported: use onevm undeploy and deploy"):
        intent_of(Action(word), lcm_state, has_deploy_id=True)


@pytest.mark.parametrize(
    ("lcm_state", "name"),
    [
        pytest.param(3, "RUNNING", id="running"),
        pytest.param(15, "CLEANUP_RESUBMIT", id="cleanup"),
        pytest.param(47, "BOOT_UNDEPLOY_FAILURE", id="last-of-4.14"),
        pytest.param(64, "DISK_RESIZE_UNDEPLOYED", id="last-of-5.10"),
        pytest.param(71, "RESTORE", id="last-of-7.4"),
        pytest.param(72, "unknown", id="of-a-future-release"),
    ],
)
def test_a_refusal_names_the_state_and_says_that_nothing_was_done(lcm_state: int, name: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        intent_of(Action.SHUTDOWN, lcm_state, has_deploy_id=True)
    assert str(caught.value) == f"SHUTDOWN has no meaning in LCM_STATE {lcm_state} ({name}), nothing was done"


def test_no_action_destroys_an_instance_in_a_power_off_or_undeploy_state() -> None:
    """`recover --retry` of a soft power off sends CANCEL with the same state as a hard one."""
    for word in MEANINGS:
        for lcm_state in (18, 29):
            try:
                intent = intent_of(Action(word), lcm_state, has_deploy_id=True)
            except RequestRefused:
                continue
            assert intent is not Intent.DESTROY
