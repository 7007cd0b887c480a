"""Guards against terminating wrong instances and paying for unused ones (decisions 11, 12, 14 to 17)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.actions import debts
from one_provider_mad.calls import waiting
from one_provider_mad.domain import Identity, Template
from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    NoCapacity,
    NotReached,
    PermissionDenied,
    ProviderError,
    QuotaExceeded,
)
from tests import oned_lines
from tests.actions.faulty_cloud import (
    NO_ANSWER,
    REFUSED,
    VM,
    Console,
    Moods,
    PipelessDriver,
    configure,
    identity,
    journal_path,
    moods,
    until,
)
from tests.end_to_end.oned import Place

__all__ = ["moods"]

Request = tuple[str, oned_lines.Details]
"""An action, and the details of its message."""

TERMINATE: Request = ("SHUTDOWN", {"lcm_state": 12})
TERMINATE_HARD: Request = ("CANCEL", {"lcm_state": 12})
DELETE: Request = ("CLEANUP", {"lcm_state": 23})
RECREATE: Request = ("CLEANUP", {"lcm_state": 15})
POWEROFF: Request = ("SHUTDOWN", {"lcm_state": 18})
SUSPEND: Request = ("SAVE", {"lcm_state": 6})
RESUME: Request = ("DEPLOY", {"lcm_state": 20})
RESUME_UNDEPLOYED: Request = ("DEPLOY", {"lcm_state": 32})
RESUME_SUSPENDED: Request = ("RESTORE", {"lcm_state": 21})
RESUME_STOPPED: Request = ("RESTORE", {"lcm_state": 22})

DESTROYERS = {
    "terminate": TERMINATE,
    "terminate-hard": TERMINATE_HARD,
    "delete": DELETE,
    "recreate": RECREATE,
}
ENDERS = {**DESTROYERS, "poweroff": POWEROFF, "suspend": SUSPEND}
STARTERS = {
    "resume": RESUME,
    "resume-undeployed": RESUME_UNDEPLOYED,
    "resume-suspended": RESUME_SUSPENDED,
    "resume-stopped": RESUME_STOPPED,
}

FOREIGN_IDENTITIES: Mapping[str, Identity | None] = {
    "another-vm": identity(vm_id=8),
    "another-owner": identity(owner="another-owner"),
    "an-earlier-vm-of-that-id": identity(stime=oned_lines.STIME - 1000),
    "untagged": None,
}


def by_name(table: Mapping[str, Any]) -> Any:
    return [pytest.param(value, id=name) for name, value in table.items()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    configure(place)
    return place


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debts and calls are retried after 0.1 seconds."""
    monkeypatch.setattr(debts, "_FIRST_PAUSE", 0.1)
    monkeypatch.setattr(waiting, "_FIRST_PAUSE", 0.1)


@pytest.fixture
def console(place: Place) -> Console:
    return Console(place)


# (a) Does the instance belong to the VM?


@pytest.mark.parametrize("foreign", by_name(FOREIGN_IDENTITIES))
@pytest.mark.parametrize("request_", by_name(ENDERS))
async def test_an_action_with_a_stale_id_leaves_a_foreign_instance_running(
    place: Place, console: Console, request_: Request, foreign: Identity | None
) -> None:
    theirs = await console.launch(foreign)
    async with PipelessDriver(place) as front:
        reply = await front.ask_about(theirs, request_)
    assert reply.startswith(f"FAILURE instance {theirs} ")
    assert reply.endswith("it is left alone")
    assert (await console.instances())[theirs].state.value == "running"


@pytest.mark.parametrize("request_", by_name(DESTROYERS))
async def test_a_terminate_without_id_destroys_only_the_instance_with_this_identity(
    place: Place, console: Console, request_: Request
) -> None:
    theirs = {await console.launch(foreign) for foreign in FOREIGN_IDENTITIES.values()}
    ours = await console.launch(identity())
    action, details = request_
    async with PipelessDriver(place) as front:
        assert await front.ask(action, **details) == "SUCCESS -"
    assert ours in await console.instances()
    assert await console.alive() == theirs


@pytest.mark.usefixtures("short_pauses")
async def test_a_debt_does_not_terminate_an_instance_retagged_for_another_vm(
    place: Place, console: Console, moods: Moods
) -> None:
    async with PipelessDriver(place) as front:
        deploy_id = await front.deployed()
        moods.failing["destroy"] = REFUSED
        assert (await front.ask("CLEANUP", deploy_id=deploy_id)).startswith("FAILURE")
        assert await front.debts()
    moods.failing.clear()
    await console.retag(deploy_id, identity(vm_id=8))
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {deploy_id}


async def is_free_of_debts(front: PipelessDriver) -> bool:
    return not await front.debts()


async def is_tried(front: PipelessDriver) -> bool:
    return any(debt.tries for debt in await front.debts())


# (b) Is the lookup complete?


@pytest.mark.parametrize("request_", by_name(DESTROYERS))
async def test_a_terminate_fails_if_the_lookup_by_tags_is_refused(
    place: Place, console: Console, moods: Moods, request_: Request
) -> None:
    action, details = request_
    async with PipelessDriver(place) as front:
        deploy_id = await front.deployed()
        moods.failing["find"] = REFUSED
        reply = await front.ask(action, **details)
    assert reply.startswith("FAILURE cannot tell whether VM 7's instance still exists")
    assert await console.alive() == {deploy_id}


@pytest.mark.parametrize("request_", by_name(DESTROYERS))
async def test_a_terminate_fails_if_the_lookup_by_id_is_refused(
    place: Place, console: Console, moods: Moods, request_: Request
) -> None:
    async with PipelessDriver(place) as front:
        deploy_id = await front.deployed()
        moods.failing["describe"] = REFUSED
        reply = await front.ask_about(deploy_id, request_)
    assert reply.startswith(f"FAILURE cannot tell whether instance {deploy_id} still exists")
    assert await console.alive() == {deploy_id}


async def test_a_cleanup_finds_an_instance_that_the_listing_lacks_by_its_journaled_id(
    place: Place, console: Console, moods: Moods
) -> None:
    async with PipelessDriver(place) as front:
        deploy_id = await front.deployed()
        moods.hidden.add(deploy_id)
        assert await front.ask("CLEANUP") == "SUCCESS -"
    assert deploy_id in await console.instances()
    assert await console.alive() == set()


async def test_a_deploy_creates_nothing_if_the_lookup_by_tags_fails(
    place: Place, console: Console, moods: Moods
) -> None:
    ours = await console.launch(identity())
    moods.failing["find"] = NO_ANSWER
    async with PipelessDriver(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE the simulated cloud does not answer")
        assert await console.alive() == {ours}
        moods.failing.clear()
        assert await front.deployed() == ours
    assert await console.alive() == {ours}


# (c) Could an instance still appear?


LAG = {"listing_lag": 0.3, "visibility_grace": 0.5}


@pytest.mark.parametrize("request_", by_name(DESTROYERS))
async def test_a_terminate_waits_for_the_instance_of_an_unanswered_create(
    place: Place, console: Console, moods: Moods, request_: Request
) -> None:
    configure(place, **LAG)
    moods.losing.add("create")
    action, details = request_
    async with PipelessDriver(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        assert len(await console.alive()) == 1
        assert await front.ask(action, **details) == "SUCCESS -"
    assert await console.alive() == set()


async def test_a_cleanup_waits_for_an_instance_that_is_not_visible_yet(place: Place, console: Console) -> None:
    configure(place, listing_lag=2.4, visibility_grace=3.2)
    async with PipelessDriver(place, deadline=1) as front:
        assert "waiting for" in await front.ask("DEPLOY")
    async with PipelessDriver(place) as front:
        assert await front.ask("CLEANUP") == "SUCCESS -"
    assert len(await console.instances()) == 1
    assert await console.alive() == set()


async def test_a_cleanup_fails_if_its_deadline_ends_before_the_visibility_grace(
    place: Place, console: Console, moods: Moods
) -> None:
    configure(place, listing_lag=60, visibility_grace=60)
    moods.losing.add("create")
    async with PipelessDriver(place, deadline=1) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        assert (await front.ask("CLEANUP")).startswith(
            "FAILURE cannot tell whether VM 7's instance still exists: wait "
        )
        assert len(await front.debts()) == 1
    assert len(await console.alive()) == 1


async def test_a_cleanup_terminates_a_visible_instance_and_one_that_appears_later(
    place: Place, console: Console, moods: Moods
) -> None:
    """The VM's former instance is visible; the create of its new one was not answered."""
    former = await console.launch(identity())
    configure(place, **LAG)
    moods.hidden.add(former)  # lest the deploy terminates it as a leftover
    moods.losing.add("create")
    async with PipelessDriver(place) as front:
        assert (await front.ask("DEPLOY", seq=1)).startswith("FAILURE")
        moods.hidden.clear()
        assert len(await console.alive()) == 2
        assert await front.ask("CLEANUP", seq=1) == "SUCCESS -"
    assert former in await console.instances()
    assert await console.alive() == set()


# (d) Does the instance belong to this STIME and SEQ?


async def test_a_deploy_adopts_the_instance_with_the_same_seq(place: Place, console: Console) -> None:
    ours = await console.launch(identity(seq=3))
    async with PipelessDriver(place) as front:
        assert await front.deployed(seq=3) == ours
    assert await console.alive() == {ours}


@pytest.mark.usefixtures("short_pauses")
async def test_an_instance_from_before_a_recreate_is_terminated_and_not_adopted(place: Place, console: Console) -> None:
    former = await console.launch(identity(seq=0))
    async with PipelessDriver(place) as front:
        ours = await front.deployed(seq=1)
        await until(lambda: is_free_of_debts(front))
    assert ours != former
    assert former in await console.instances()
    assert await console.alive() == {ours}


@pytest.mark.parametrize("foreign", [pytest.param(identity(seq=9), id="a-later-seq"), *by_name(FOREIGN_IDENTITIES)])
async def test_a_deploy_leaves_a_foreign_instance_alone(
    place: Place, console: Console, foreign: Identity | None
) -> None:
    theirs = await console.launch(foreign)
    before = (await console.instances())[theirs]
    async with PipelessDriver(place) as front:
        ours = await front.deployed()
        assert await front.debts() == []
    assert ours != theirs
    assert await console.alive() == {theirs, ours}
    assert (await console.instances())[theirs].identity == before.identity


async def test_a_deploy_fails_and_names_two_instances_with_the_same_identity(place: Place, console: Console) -> None:
    both = {await console.launch(identity()), await console.launch(identity())}
    async with PipelessDriver(place) as front:
        reply = await front.ask("DEPLOY")
    assert reply.startswith("FAILURE ")
    assert all(deploy_id in reply for deploy_id in both)
    assert await console.alive() == both


# (e) Spent tokens


async def test_a_deploy_replaces_an_instance_that_was_terminated(place: Place, console: Console) -> None:
    async with PipelessDriver(place) as front:
        former = await front.deployed()
        await console.terminate(former)
        ours = await front.deployed()
    assert await console.alive() == {ours}


async def test_a_deploy_replaces_an_instance_whose_create_got_no_answer_and_that_was_terminated(
    place: Place, console: Console, moods: Moods
) -> None:
    moods.losing.add("create")
    async with PipelessDriver(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        moods.losing.clear()
        [former] = await console.alive()
        await console.terminate(former)
        ours = await front.deployed()
    assert await console.alive() == {ours}
    assert ours != former


async def test_a_deploy_without_its_journal_replaces_a_terminated_instance_whose_token_is_spent(
    place: Place, console: Console
) -> None:
    async with PipelessDriver(place) as front:
        former = await front.deployed()
    await console.terminate(former)
    journal_path(place).unlink()
    async with PipelessDriver(place) as front:
        ours = await front.deployed()
    assert await console.alive() == {ours}
    assert ours != former


# (f) Which account?


ANYTHING = {"deploy": ("DEPLOY", {}), **ENDERS, **STARTERS, "reboot": ("REBOOT", {})}


@pytest.mark.parametrize(
    ("elsewhere", "request_"),
    [
        pytest.param({"region": "other"}, DELETE, id="region-delete"),
        *(pytest.param({"account": "other"}, request, id=f"account-{name}") for name, request in ANYTHING.items()),
    ],
)
async def test_every_action_fails_with_credentials_of_another_account_or_region(
    place: Place, console: Console, elsewhere: Mapping[str, str], request_: Request
) -> None:
    async with PipelessDriver(place) as front:
        deploy_id = await front.deployed()
    configure(place, **elsewhere)
    async with PipelessDriver(place) as front:
        reply = await front.ask_about(deploy_id, request_)
    assert reply.startswith("FAILURE credentials now belong to account ")
    assert (await console.instances())[deploy_id].state.value == "running"
    assert await console.alive() == {deploy_id}


# (g) Instances named by a template


async def test_an_untagged_instance_named_by_a_template_is_not_adopted(place: Place, console: Console) -> None:
    theirs = await console.launch(None)
    async with PipelessDriver(place) as front:
        reply = await front.ask("DEPLOY", deploy_id=theirs)
    assert reply.startswith(f"FAILURE instance {theirs} has no tags of ours")
    assert (await console.instances())[theirs].identity is None
    assert await console.alive() == {theirs}


async def test_an_untagged_instance_is_imported_if_the_policy_allows_it(place: Place, console: Console) -> None:
    configure(place, policy={"allow_import": True})
    theirs = await console.launch(None)
    async with PipelessDriver(place) as front:
        assert await front.deployed(deploy_id=theirs) == theirs
    assert (await console.instances())[theirs].identity == identity()


@pytest.mark.parametrize("foreign", by_name({name: foreign for name, foreign in FOREIGN_IDENTITIES.items() if foreign}))
async def test_a_foreign_instance_named_by_a_template_is_never_adopted(
    place: Place, console: Console, foreign: Identity
) -> None:
    configure(place, policy={"allow_import": True})
    theirs = await console.launch(foreign)
    async with PipelessDriver(place) as front:
        assert (await front.ask("DEPLOY", deploy_id=theirs)).startswith(f"FAILURE instance {theirs} ")
    assert (await console.instances())[theirs].identity == foreign
    assert await console.alive() == {theirs}


# (h) A start never creates


@pytest.mark.parametrize("deploy_id", ["sim-000000000000", ""], ids=["unknown-id", "no-id"])
@pytest.mark.parametrize("request_", by_name(STARTERS))
async def test_a_resume_without_instance_fails_and_creates_none(
    place: Place, console: Console, request_: Request, deploy_id: str
) -> None:
    async with PipelessDriver(place) as front:
        reply = await front.ask_about(deploy_id, request_)
    assert reply.startswith("FAILURE ")
    assert reply.endswith(f"{deploy_id} of VM {VM} does not exist" if deploy_id else f"VM {VM} has no instance")
    assert await console.instances() == {}


async def test_a_resume_of_a_terminated_instance_fails_and_creates_none(place: Place, console: Console) -> None:
    async with PipelessDriver(place) as front:
        deploy_id = await front.deployed()
        await console.terminate(deploy_id)
        assert (await front.ask("DEPLOY", lcm_state=20, deploy_id=deploy_id)).startswith("FAILURE ")
    assert await console.alive() == set()


# (i) No create without the journal


async def test_nothing_is_created_while_the_journal_cannot_be_written(place: Place, console: Console) -> None:
    async with PipelessDriver(place) as front:
        with closing(sqlite3.connect(journal_path(place), isolation_level=None)) as db:
            db.execute(
                "CREATE TRIGGER full BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
            )
            assert "the disk is full" in await front.ask("DEPLOY")
            assert await console.instances() == {}
            db.execute("DROP TRIGGER full")
        ours = await front.deployed()
    assert await console.alive() == {ours}


async def test_nothing_is_created_while_the_journal_cannot_be_opened(place: Place, console: Console) -> None:
    journal_path(place).mkdir()
    async with PipelessDriver(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE the journal ")
        assert await console.instances() == {}
        journal_path(place).rmdir()
        ours = await front.deployed()
    assert await console.alive() == {ours}


# (j) A retry repeats the same call

VAGUE = Template(values={"CPU": ("1",), "MEMORY": ("256",)})
OTHER_SIZES = {"tiny": {"cpu": 1, "memory": 256}, "small_256mb": {"cpu": 4, "memory": 512}}


@pytest.mark.parametrize("is_made", [True, False], ids=["made", "not-made"])
async def test_a_retry_repeats_the_journaled_call_although_the_settings_have_changed(
    place: Place, console: Console, moods: Moods, *, is_made: bool
) -> None:
    if is_made:
        moods.losing.add("create")
    else:
        moods.failing["create"] = NO_ANSWER
    configure(place, **LAG)
    async with PipelessDriver(place) as front:
        assert (await front.ask("DEPLOY", template=VAGUE)).startswith("FAILURE")
        moods.losing.clear()
        moods.failing.clear()
        configure(place, instance_types=OTHER_SIZES, **LAG)
        ours = await front.deployed(template=VAGUE)
    [instance] = (await console.instances()).values()
    assert instance.deploy_id == ours
    assert instance.attributes["SIM_INSTANCE_TYPE"] == "small_256mb"
    assert (instance.attributes["SIM_CPU"], instance.attributes["SIM_MEMORY"]) == ("1", "256")


REFUSALS = [
    AuthenticationRefused("the key was withdrawn"),
    PermissionDenied("the role may not launch any more"),
    NotReached("no connection is accepted"),
    BadParameter("the image is gone"),
    QuotaExceeded("the quota was lowered"),
    NoCapacity("the zone is full"),
]


@pytest.mark.parametrize("refusal", [pytest.param(error, id=type(error).__name__) for error in REFUSALS])
async def test_after_a_refused_retry_the_next_deploy_finds_the_first_attempts_instance(
    place: Place, console: Console, moods: Moods, refusal: ProviderError
) -> None:
    configure(place, **LAG)
    moods.losing.add("create")
    async with PipelessDriver(place, deadline=5) as front:  # a cloud that is out of reach is asked until then
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        moods.losing.clear()
        moods.failing["create"] = refusal
        first = await front.ask("DEPLOY")
        moods.failing.clear()
        ours = await front.deployed()
        assert first.startswith("FAILURE") or first == f"SUCCESS {ours}"
    assert set(await console.instances()) == {ours}


@pytest.mark.parametrize("refusal", [pytest.param(error, id=type(error).__name__) for error in REFUSALS[3:]])
async def test_a_deploy_whose_retry_is_refused_finds_the_first_instance_and_creates_no_other(
    place: Place, console: Console, moods: Moods, refusal: ProviderError
) -> None:
    configure(place, **LAG)
    moods.losing.add("create")
    async with PipelessDriver(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        moods.losing.clear()
        moods.failing_once["create"] = refusal
        ours = await front.deployed()
    assert set(await console.instances()) == {ours}


@pytest.mark.parametrize("refusal", [pytest.param(error, id=type(error).__name__) for error in REFUSALS])
@pytest.mark.usefixtures("short_pauses")
async def test_a_create_refused_at_its_retry_makes_one_instance_if_the_first_try_was_unanswered(
    place: Place, console: Console, moods: Moods, refusal: ProviderError
) -> None:
    configure(place, listing_lag=0.4, visibility_grace=0.6)
    moods.losing_once.add("create")
    moods.failing_once["create"] = refusal
    async with PipelessDriver(place, retries=1) as front:
        first = await front.ask("DEPLOY")
        ours = await front.deployed()
        assert first.startswith("FAILURE") or first == f"SUCCESS {ours}"
    assert set(await console.instances()) == {ours}


async def test_a_cleanup_after_a_refused_retry_terminates_the_first_attempts_instance(
    place: Place, console: Console, moods: Moods
) -> None:
    configure(place, **LAG)
    moods.losing.add("create")
    async with PipelessDriver(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        moods.failing["create"] = AuthenticationRefused("the key was withdrawn")
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        assert await front.ask("CLEANUP") == "SUCCESS -"
    assert len(await console.instances()) == 1
    assert await console.alive() == set()


# (k) Debts


@pytest.mark.usefixtures("short_pauses")
async def test_a_debt_survives_a_restart(place: Place, console: Console, moods: Moods) -> None:
    async with PipelessDriver(place) as front:
        deploy_id = await front.deployed()
        moods.failing["destroy"] = REFUSED
        assert (await front.ask("CLEANUP", deploy_id=deploy_id)).startswith("FAILURE")
    assert await console.alive() == {deploy_id}
    moods.failing.clear()
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == set()


@pytest.mark.usefixtures("short_pauses")
async def test_a_debt_does_not_terminate_an_instance_with_a_later_seq(
    place: Place, console: Console, moods: Moods
) -> None:
    async with PipelessDriver(place) as front:
        former = await front.deployed()
        moods.failing["destroy"] = REFUSED
        assert (await front.ask("CLEANUP", deploy_id=former, lcm_state=15)).startswith("FAILURE")
        ours = await front.deployed(seq=1)
        assert await console.alive() == {former, ours}
    moods.failing.clear()
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {ours}


async def test_a_debt_without_instance_id_does_not_terminate_an_instance_with_a_later_seq(
    place: Place, console: Console, moods: Moods
) -> None:
    async with PipelessDriver(place) as front:
        former = await front.deployed()
        moods.failing["destroy"] = moods.failing["find"] = REFUSED
        assert (await front.ask("CLEANUP", lcm_state=15)).startswith("FAILURE cannot tell")
        del moods.failing["find"]
        ours = await front.deployed(seq=1)
        assert await console.alive() == {former, ours}
    moods.failing.clear()
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {ours}


async def test_a_debt_without_instance_id_does_not_terminate_a_newer_instance_with_the_same_seq(
    place: Place, console: Console, moods: Moods
) -> None:
    async with PipelessDriver(place) as front:
        former = await front.deployed()
        moods.failing["destroy"] = moods.failing["find"] = REFUSED
        assert (await front.ask("CLEANUP")).startswith("FAILURE cannot tell")
        await until(lambda: is_tried(front))  # and will not be again before long
        await console.terminate(former)
        del moods.failing["find"]
        ours = await front.deployed()
        assert await front.debts()
        assert await console.alive() == {ours}
    moods.failing.clear()
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {ours}


async def test_a_debt_with_an_instance_id_terminates_only_this_instance(
    place: Place, console: Console, moods: Moods
) -> None:
    former = await console.launch(identity())
    async with PipelessDriver(place) as front:
        moods.failing["destroy"] = REFUSED
        ours = await front.deployed(seq=1)
        assert [debt.deploy_id for debt in await front.debts()] == [former]
    other = await console.launch(identity())
    moods.failing.clear()
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {ours, other}


async def test_a_debt_without_instance_id_keeps_an_unjournaled_instance_with_a_later_seq(
    place: Place, console: Console, moods: Moods
) -> None:
    async with PipelessDriver(place) as front:
        await front.deployed()
        moods.failing["destroy"] = moods.failing["find"] = REFUSED
        assert (await front.ask("CLEANUP", lcm_state=15)).startswith("FAILURE cannot tell")
    later = await console.launch(identity(seq=1))
    moods.failing.clear()
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {later}


@pytest.mark.usefixtures("short_pauses")
async def test_a_debt_without_instance_id_is_paid_only_after_all_instances_of_the_vm_have_appeared(
    place: Place, console: Console, moods: Moods
) -> None:
    former = await console.launch(identity())
    configure(place, **LAG)
    moods.hidden.add(former)
    moods.losing.add("create")
    async with PipelessDriver(place) as front:
        assert (await front.ask("DEPLOY", seq=1)).startswith("FAILURE")
        moods.failing["find"] = REFUSED
        assert (await front.ask("CLEANUP", seq=1)).startswith("FAILURE cannot tell")
    assert len(await console.alive()) == 2
    moods.hidden.clear()
    moods.failing.clear()
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert former in await console.instances()
    assert await console.alive() == set()


@pytest.mark.usefixtures("short_pauses")
async def test_a_cleanup_without_time_to_wait_makes_a_debt_for_an_instance_that_appears_later(
    place: Place, console: Console, moods: Moods
) -> None:
    """The former instance, which the CLEANUP names, is terminated in time; the new one is not visible yet."""
    former = await console.launch(identity())
    configure(place, **LAG)
    moods.hidden.add(former)
    moods.losing.add("create")
    async with PipelessDriver(place, deadline=0.3) as front:
        assert (await front.ask("DEPLOY", seq=1)).startswith("FAILURE")
        moods.hidden.clear()
        assert (await front.ask("CLEANUP", seq=1, deploy_id=former)).startswith("FAILURE cannot tell")
    assert len(await console.alive()) == 1
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == set()


@pytest.mark.usefixtures("short_pauses")
async def test_a_debt_waits_until_its_owner_is_configured_again(place: Place, console: Console, moods: Moods) -> None:
    async with PipelessDriver(place) as front:
        deploy_id = await front.deployed()
        moods.failing["destroy"] = REFUSED
        assert (await front.ask("CLEANUP", deploy_id=deploy_id)).startswith("FAILURE")
    moods.failing.clear()
    configure(place, owner="new-owner")
    async with PipelessDriver(place) as front:
        await until(lambda: is_tried(front))
        assert await console.alive() == {deploy_id}
    configure(place)
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == set()


async def test_a_deploy_does_not_adopt_an_instance_with_a_debt(place: Place, console: Console, moods: Moods) -> None:
    async with PipelessDriver(place) as front:
        former = await front.deployed()
        moods.failing["destroy"] = REFUSED
        assert (await front.ask("CLEANUP")).startswith("FAILURE")
        ours = await front.deployed()
        assert await console.alive() == {former, ours}
    moods.failing.clear()
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {ours}


@pytest.mark.usefixtures("short_pauses")
async def test_the_instance_of_a_cancelled_create_is_terminated(place: Place, console: Console, moods: Moods) -> None:
    configure(place, latency=0.1)
    async with PipelessDriver(place) as front:
        front.send("DEPLOY")
        await until(lambda: is_creating(moods))
        front.send("DRIVER_CANCEL")
        await until(console.instances)

        async def is_gone() -> bool:
            return not await console.alive() and await is_free_of_debts(front)

        await until(is_gone)


@pytest.mark.usefixtures("short_pauses")
async def test_an_instance_created_after_a_cleanup_exceeded_its_deadline_is_terminated(
    place: Place, console: Console, moods: Moods
) -> None:
    """The deploy exceeds its deadline, too, and its create is answered after both."""
    configure(place, visibility_grace=1.5)
    moods.slow["create"] = 1.0
    async with PipelessDriver(place, deadline=0.3) as front:
        assert "waiting for the cloud's answer to create" in await front.ask("DEPLOY")
        assert (await front.ask("CLEANUP")).startswith("FAILURE")
        await until(console.instances)
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == set()


@pytest.mark.usefixtures("short_pauses")
async def test_the_instance_of_a_cancelled_deploy_is_terminated_and_the_next_deploys_stays(
    place: Place, console: Console, moods: Moods
) -> None:
    configure(place, latency=0.1, **LAG)
    async with PipelessDriver(place) as front:
        moods.failing["destroy"] = REFUSED
        front.send("DEPLOY")
        await until(lambda: is_creating(moods))
        front.send("DRIVER_CANCEL")
        ours = await front.deployed()
        [former] = await console.alive() - {ours}
    moods.failing.clear()
    async with PipelessDriver(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert former in await console.instances()
    assert await console.alive() == {ours}


async def is_creating(moods: Moods) -> bool:
    return "create" in moods.calls


# One answer to a POLL


async def test_each_poll_is_answered_once_although_an_action_arrives_while_answers_are_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of one listing are written in portions, and the action arrives between two of them."""
    vm_ids = range(100, 300)
    async with PipelessDriver(place) as front:
        write = front.output.send
        answered = 0

        def send(data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
            nonlocal answered
            answered += 1
            write(data, on_written=on_written)
            if answered == 1:
                asyncio.get_running_loop().call_soon(partial(front.send_about, vm_ids[0], "REBOOT"))

        monkeypatch.setattr(front.output, "send", send)
        for vm_id in vm_ids:
            front.send_about(vm_id, "POLL")
        await front.dispatcher.lanes.drained()
    replies = Counter(reply.split(" ")[2] for reply in front.output.drained() if reply.startswith("POLL "))
    assert replies == Counter(map(str, vm_ids))
