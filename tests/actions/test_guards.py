"""What stands between a mistake and money: each guard, and what happens at it (decisions 11, 12, 14 to 17)."""

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

from one_provider_mad.actions import cloud, debts
from one_provider_mad.cli.driver_message import DEFAULT_STIME, Details
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
from tests.actions.cloud_faces import (
    NO_ANSWER,
    REFUSED,
    VM,
    Console,
    Front,
    Moods,
    configure,
    identity,
    journal_path,
    moods,
    until,
)
from tests.end_to_end.oned import Place

__all__ = ["moods"]

Request = tuple[str, Details]
"""An action, and what its message says."""

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

SOMEBODY_ELSE: Mapping[str, Identity | None] = {
    "another-vm": identity(vm_id=8),
    "another-owner": identity(owner="somebody-else"),
    "an-earlier-vm-of-that-number": identity(stime=DEFAULT_STIME - 1000),
    "nobody": None,
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
    """Debts are tried again, and calls are sent again, after moments."""
    monkeypatch.setattr(debts, "_FIRST_PAUSE", 0.1)
    monkeypatch.setattr(cloud, "_FIRST_PAUSE", 0.1)


@pytest.fixture
def console(place: Place) -> Console:
    return Console(place)


# (a) Whose is it?


@pytest.mark.parametrize("whose", by_name(SOMEBODY_ELSE))
@pytest.mark.parametrize("request_", by_name(ENDERS))
async def test_a_stale_id_ends_nothing_that_is_somebody_elses(
    place: Place, console: Console, request_: Request, whose: Identity | None
) -> None:
    theirs = await console.launch(whose)
    async with Front(place) as front:
        reply = await front.ask_about(theirs, request_)
    assert reply.startswith(f"FAILURE instance {theirs} ")
    assert reply.endswith("it is left alone")
    assert (await console.instances())[theirs].state.value == "running"


@pytest.mark.parametrize("request_", by_name(DESTROYERS))
async def test_a_lookup_by_tags_ends_only_this_life_of_the_vm(
    place: Place, console: Console, request_: Request
) -> None:
    theirs = {await console.launch(whose) for whose in SOMEBODY_ELSE.values()}
    ours = await console.launch(identity())
    action, details = request_
    async with Front(place) as front:
        assert await front.ask(action, **details) == "SUCCESS -"
    assert ours in await console.instances()
    assert await console.alive() == theirs


@pytest.mark.usefixtures("short_pauses")
async def test_a_debt_does_not_end_what_has_become_somebody_elses(place: Place, console: Console, moods: Moods) -> None:
    async with Front(place) as front:
        deploy_id = await front.deployed()
        moods.failing["destroy"] = REFUSED
        assert (await front.ask("CLEANUP", deploy_id=deploy_id)).startswith("FAILURE")
        assert await front.debts()
    moods.failing.clear()
    await console.retag(deploy_id, identity(vm_id=8))
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {deploy_id}


async def is_free_of_debts(front: Front) -> bool:
    return not await front.debts()


async def is_tried(front: Front) -> bool:
    return any(debt.tries for debt in await front.debts())


# (b) Is the lookup complete?


@pytest.mark.parametrize("request_", by_name(DESTROYERS))
async def test_a_lookup_that_failed_does_not_mean_gone(
    place: Place, console: Console, moods: Moods, request_: Request
) -> None:
    action, details = request_
    async with Front(place) as front:
        deploy_id = await front.deployed()
        moods.failing["find"] = REFUSED
        reply = await front.ask(action, **details)
    assert reply.startswith("FAILURE cannot tell whether VM 7's instance still exists")
    assert await console.alive() == {deploy_id}


@pytest.mark.parametrize("request_", by_name(DESTROYERS))
async def test_an_instance_that_cannot_be_looked_at_is_not_gone(
    place: Place, console: Console, moods: Moods, request_: Request
) -> None:
    async with Front(place) as front:
        deploy_id = await front.deployed()
        moods.failing["describe"] = REFUSED
        reply = await front.ask_about(deploy_id, request_)
    assert reply.startswith(f"FAILURE cannot tell whether instance {deploy_id} still exists")
    assert await console.alive() == {deploy_id}


async def test_an_instance_that_a_listing_leaves_out_is_found_by_its_journaled_id(
    place: Place, console: Console, moods: Moods
) -> None:
    async with Front(place) as front:
        deploy_id = await front.deployed()
        moods.hidden.add(deploy_id)
        assert await front.ask("CLEANUP") == "SUCCESS -"
    assert deploy_id in await console.instances()
    assert await console.alive() == set()


async def test_a_lookup_that_failed_does_not_mean_that_there_is_nothing_to_take_over(
    place: Place, console: Console, moods: Moods
) -> None:
    ours = await console.launch(identity())
    moods.failing["find"] = NO_ANSWER
    async with Front(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE the simulated cloud does not answer")
        assert await console.alive() == {ours}
        moods.failing.clear()
        assert await front.deployed() == ours
    assert await console.alive() == {ours}


# (c) Could it still appear?


LAG = {"listing_lag": 0.3, "visibility_grace": 0.5}


@pytest.mark.parametrize("request_", by_name(DESTROYERS))
async def test_a_create_without_an_answer_is_waited_for_before_anything_is_called_gone(
    place: Place, console: Console, moods: Moods, request_: Request
) -> None:
    configure(place, **LAG)
    moods.losing.add("create")
    action, details = request_
    async with Front(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        assert len(await console.alive()) == 1
        assert await front.ask(action, **details) == "SUCCESS -"
    assert await console.alive() == set()


async def test_a_create_whose_instance_is_hidden_yet_is_waited_for_before_anything_is_called_gone(
    place: Place, console: Console
) -> None:
    configure(place, listing_lag=1.2, visibility_grace=1.6)
    async with Front(place, deadline=0.2) as front:
        assert "waiting for" in await front.ask("DEPLOY")
    async with Front(place) as front:
        assert await front.ask("CLEANUP") == "SUCCESS -"
    assert len(await console.instances()) == 1
    assert await console.alive() == set()


async def test_where_there_is_no_time_to_wait_nothing_is_called_gone(
    place: Place, console: Console, moods: Moods
) -> None:
    configure(place, listing_lag=60, visibility_grace=60)
    moods.losing.add("create")
    async with Front(place, deadline=1) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        assert (await front.ask("CLEANUP")).startswith(
            "FAILURE cannot tell whether VM 7's instance still exists: wait "
        )
        assert len(await front.debts()) == 1
    assert len(await console.alive()) == 1


async def test_an_instance_in_sight_does_not_hide_one_that_may_still_appear(
    place: Place, console: Console, moods: Moods
) -> None:
    """The VM's former instance is seen; its new one was made a moment ago, and nobody has heard of it."""
    former = await console.launch(identity())
    configure(place, **LAG)
    moods.hidden.add(former)  # lest the deploy terminates it as a leftover
    moods.losing.add("create")
    async with Front(place) as front:
        assert (await front.ask("DEPLOY", seq=1)).startswith("FAILURE")
        moods.hidden.clear()
        assert len(await console.alive()) == 2
        assert await front.ask("CLEANUP", seq=1) == "SUCCESS -"
    assert former in await console.instances()
    assert await console.alive() == set()


# (d) Which life, which start?


async def test_the_instance_of_this_very_start_is_taken_over(place: Place, console: Console) -> None:
    ours = await console.launch(identity(seq=3))
    async with Front(place) as front:
        assert await front.deployed(seq=3) == ours
    assert await console.alive() == {ours}


@pytest.mark.usefixtures("short_pauses")
async def test_an_instance_from_before_a_recreate_is_terminated_and_not_taken_over(
    place: Place, console: Console
) -> None:
    former = await console.launch(identity(seq=0))
    async with Front(place) as front:
        ours = await front.deployed(seq=1)
        await until(lambda: is_free_of_debts(front))
    assert ours != former
    assert former in await console.instances()
    assert await console.alive() == {ours}


@pytest.mark.parametrize("whose", [pytest.param(identity(seq=9), id="a-later-start"), *by_name(SOMEBODY_ELSE)])
async def test_what_is_not_of_this_start_is_not_taken_over_and_not_touched(
    place: Place, console: Console, whose: Identity | None
) -> None:
    theirs = await console.launch(whose)
    before = (await console.instances())[theirs]
    async with Front(place) as front:
        ours = await front.deployed()
        assert await front.debts() == []
    assert ours != theirs
    assert await console.alive() == {theirs, ours}
    assert (await console.instances())[theirs].identity == before.identity


async def test_two_instances_that_match_in_full_are_for_a_person_to_sort_out(place: Place, console: Console) -> None:
    twins = {await console.launch(identity()), await console.launch(identity())}
    async with Front(place) as front:
        reply = await front.ask("DEPLOY")
    assert reply.startswith("FAILURE ")
    assert all(twin in reply for twin in twins)
    assert await console.alive() == twins


# (e) Tokens that are spent


async def test_an_instance_that_was_terminated_is_replaced(place: Place, console: Console) -> None:
    async with Front(place) as front:
        former = await front.deployed()
        await console.terminate(former)
        ours = await front.deployed()
    assert await console.alive() == {ours}


async def test_an_instance_that_was_terminated_before_its_id_was_known_is_replaced(
    place: Place, console: Console, moods: Moods
) -> None:
    moods.losing.add("create")
    async with Front(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        moods.losing.clear()
        [former] = await console.alive()
        await console.terminate(former)
        ours = await front.deployed()
    assert await console.alive() == {ours}
    assert ours != former


async def test_a_token_that_was_spent_under_a_lost_journal_is_not_the_end(place: Place, console: Console) -> None:
    async with Front(place) as front:
        former = await front.deployed()
    await console.terminate(former)
    journal_path(place).unlink()
    async with Front(place) as front:
        ours = await front.deployed()
    assert await console.alive() == {ours}
    assert ours != former


# (f) Whose credentials?


ANYTHING = {"deploy": ("DEPLOY", {}), **ENDERS, **STARTERS, "reboot": ("REBOOT", {})}


@pytest.mark.parametrize(
    ("elsewhere", "request_"),
    [
        pytest.param({"region": "other"}, DELETE, id="region-delete"),
        *(pytest.param({"account": "other"}, request, id=f"account-{name}") for name, request in ANYTHING.items()),
    ],
)
async def test_other_credentials_do_nothing(
    place: Place, console: Console, elsewhere: Mapping[str, str], request_: Request
) -> None:
    async with Front(place) as front:
        deploy_id = await front.deployed()
    configure(place, **elsewhere)
    async with Front(place) as front:
        reply = await front.ask_about(deploy_id, request_)
    assert reply.startswith("FAILURE credentials now belong to account ")
    assert (await console.instances())[deploy_id].state.value == "running"
    assert await console.alive() == {deploy_id}


# (g) Instances that a template names


async def test_an_untagged_instance_that_a_template_names_is_not_taken_over(place: Place, console: Console) -> None:
    theirs = await console.launch(None)
    async with Front(place) as front:
        reply = await front.ask("DEPLOY", deploy_id=theirs)
    assert reply.startswith(f"FAILURE instance {theirs} has no tags of ours")
    assert (await console.instances())[theirs].identity is None
    assert await console.alive() == {theirs}


async def test_an_untagged_instance_is_taken_over_where_the_operator_allows_it(place: Place, console: Console) -> None:
    configure(place, policy={"allow_import": True})
    theirs = await console.launch(None)
    async with Front(place) as front:
        assert await front.deployed(deploy_id=theirs) == theirs
    assert (await console.instances())[theirs].identity == identity()


@pytest.mark.parametrize("whose", by_name({name: whose for name, whose in SOMEBODY_ELSE.items() if whose}))
async def test_somebody_elses_instance_that_a_template_names_is_never_taken_over(
    place: Place, console: Console, whose: Identity
) -> None:
    configure(place, policy={"allow_import": True})
    theirs = await console.launch(whose)
    async with Front(place) as front:
        assert (await front.ask("DEPLOY", deploy_id=theirs)).startswith(f"FAILURE instance {theirs} ")
    assert (await console.instances())[theirs].identity == whose
    assert await console.alive() == {theirs}


# (h) A start is no create


@pytest.mark.parametrize("deploy_id", ["sim-000000000000", ""], ids=["unknown-id", "no-id"])
@pytest.mark.parametrize("request_", by_name(STARTERS))
async def test_an_instance_that_is_missing_is_not_started_by_making_another(
    place: Place, console: Console, request_: Request, deploy_id: str
) -> None:
    async with Front(place) as front:
        reply = await front.ask_about(deploy_id, request_)
    assert reply.startswith("FAILURE ")
    assert reply.endswith(f"{deploy_id} of VM {VM} does not exist" if deploy_id else f"VM {VM} has no instance")
    assert await console.instances() == {}


async def test_an_instance_that_is_terminated_is_not_started_by_making_another(place: Place, console: Console) -> None:
    async with Front(place) as front:
        deploy_id = await front.deployed()
        await console.terminate(deploy_id)
        assert (await front.ask("DEPLOY", lcm_state=20, deploy_id=deploy_id)).startswith("FAILURE ")
    assert await console.alive() == set()


# (i) Nothing without the journal


async def test_nothing_is_created_while_the_journal_cannot_be_written(place: Place, console: Console) -> None:
    async with Front(place) as front:
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
    async with Front(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE the journal ")
        assert await console.instances() == {}
        journal_path(place).rmdir()
        ours = await front.deployed()
    assert await console.alive() == {ours}


# (j) A retry is the same call

VAGUE = Template(values={"CPU": ("1",), "MEMORY": ("256",)})
OTHER_SIZES = {"tiny": {"cpu": 1, "memory": 256}, "small_256mb": {"cpu": 4, "memory": 512}}


@pytest.mark.parametrize("is_made", [True, False], ids=["made", "not-made"])
async def test_a_retry_repeats_the_journaled_call_whatever_the_settings_say_by_now(
    place: Place, console: Console, moods: Moods, *, is_made: bool
) -> None:
    if is_made:
        moods.losing.add("create")
    else:
        moods.failing["create"] = NO_ANSWER
    configure(place, **LAG)
    async with Front(place) as front:
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
    NotReached("nobody takes a connection"),
    BadParameter("the image is gone"),
    QuotaExceeded("the quota was lowered"),
    NoCapacity("the zone is full"),
]


@pytest.mark.parametrize("refusal", [pytest.param(error, id=type(error).__name__) for error in REFUSALS])
async def test_a_refused_retry_does_not_prove_that_nothing_was_made(
    place: Place, console: Console, moods: Moods, refusal: ProviderError
) -> None:
    configure(place, **LAG)
    moods.losing.add("create")
    async with Front(place, deadline=5) as front:  # a cloud that is out of reach is asked until then
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        moods.losing.clear()
        moods.failing["create"] = refusal
        first = await front.ask("DEPLOY")
        moods.failing.clear()
        ours = await front.deployed()
        assert first.startswith("FAILURE") or first == f"SUCCESS {ours}"
    assert set(await console.instances()) == {ours}


@pytest.mark.parametrize("refusal", [pytest.param(error, id=type(error).__name__) for error in REFUSALS[3:]])
async def test_a_refused_retry_is_no_reason_to_try_something_else(
    place: Place, console: Console, moods: Moods, refusal: ProviderError
) -> None:
    configure(place, **LAG)
    moods.losing.add("create")
    async with Front(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        moods.losing.clear()
        moods.failing_once["create"] = refusal
        ours = await front.deployed()
    assert set(await console.instances()) == {ours}


@pytest.mark.parametrize("refusal", [pytest.param(error, id=type(error).__name__) for error in REFUSALS])
@pytest.mark.usefixtures("short_pauses")
async def test_a_call_that_is_refused_at_its_second_try_may_have_made_something_at_its_first(
    place: Place, console: Console, moods: Moods, refusal: ProviderError
) -> None:
    configure(place, listing_lag=0.4, visibility_grace=0.6)
    moods.losing_once.add("create")
    moods.failing_once["create"] = refusal
    async with Front(place, retries=1) as front:
        first = await front.ask("DEPLOY")
        ours = await front.deployed()
        assert first.startswith("FAILURE") or first == f"SUCCESS {ours}"
    assert set(await console.instances()) == {ours}


async def test_a_refused_retry_does_not_make_gone_what_is_hidden_yet(
    place: Place, console: Console, moods: Moods
) -> None:
    configure(place, **LAG)
    moods.losing.add("create")
    async with Front(place) as front:
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        moods.failing["create"] = AuthenticationRefused("the key was withdrawn")
        assert (await front.ask("DEPLOY")).startswith("FAILURE")
        assert await front.ask("CLEANUP") == "SUCCESS -"
    assert len(await console.instances()) == 1
    assert await console.alive() == set()


# (k) Debts


@pytest.mark.usefixtures("short_pauses")
async def test_a_debt_survives_a_restart(place: Place, console: Console, moods: Moods) -> None:
    async with Front(place) as front:
        deploy_id = await front.deployed()
        moods.failing["destroy"] = REFUSED
        assert (await front.ask("CLEANUP", deploy_id=deploy_id)).startswith("FAILURE")
    assert await console.alive() == {deploy_id}
    moods.failing.clear()
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == set()


@pytest.mark.usefixtures("short_pauses")
async def test_a_debt_is_not_paid_with_the_instance_of_a_later_start(
    place: Place, console: Console, moods: Moods
) -> None:
    async with Front(place) as front:
        former = await front.deployed()
        moods.failing["destroy"] = REFUSED
        assert (await front.ask("CLEANUP", deploy_id=former, lcm_state=15)).startswith("FAILURE")
        ours = await front.deployed(seq=1)
        assert await console.alive() == {former, ours}
    moods.failing.clear()
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {ours}


async def test_a_debt_without_an_id_is_not_paid_with_the_instance_of_a_later_start(
    place: Place, console: Console, moods: Moods
) -> None:
    async with Front(place) as front:
        former = await front.deployed()
        moods.failing["destroy"] = moods.failing["find"] = REFUSED
        assert (await front.ask("CLEANUP", lcm_state=15)).startswith("FAILURE cannot tell")
        del moods.failing["find"]
        ours = await front.deployed(seq=1)
        assert await console.alive() == {former, ours}
    moods.failing.clear()
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {ours}


async def test_a_debt_without_an_id_is_not_paid_with_a_newer_instance_of_the_same_start(
    place: Place, console: Console, moods: Moods
) -> None:
    async with Front(place) as front:
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
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {ours}


async def test_a_debt_with_an_id_is_paid_with_that_instance_alone(place: Place, console: Console, moods: Moods) -> None:
    former = await console.launch(identity())
    async with Front(place) as front:
        moods.failing["destroy"] = REFUSED
        ours = await front.deployed(seq=1)
        assert [debt.deploy_id for debt in await front.debts()] == [former]
    other = await console.launch(identity())
    moods.failing.clear()
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {ours, other}


async def test_a_debt_without_an_id_leaves_later_starts_alone_whoever_made_them(
    place: Place, console: Console, moods: Moods
) -> None:
    async with Front(place) as front:
        await front.deployed()
        moods.failing["destroy"] = moods.failing["find"] = REFUSED
        assert (await front.ask("CLEANUP", lcm_state=15)).startswith("FAILURE cannot tell")
    later = await console.launch(identity(seq=1))
    moods.failing.clear()
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {later}


@pytest.mark.usefixtures("short_pauses")
async def test_a_debt_is_not_paid_while_more_of_it_may_still_appear(
    place: Place, console: Console, moods: Moods
) -> None:
    former = await console.launch(identity())
    configure(place, **LAG)
    moods.hidden.add(former)
    moods.losing.add("create")
    async with Front(place) as front:
        assert (await front.ask("DEPLOY", seq=1)).startswith("FAILURE")
        moods.failing["find"] = REFUSED
        assert (await front.ask("CLEANUP", seq=1)).startswith("FAILURE cannot tell")
    assert len(await console.alive()) == 2
    moods.hidden.clear()
    moods.failing.clear()
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert former in await console.instances()
    assert await console.alive() == set()


@pytest.mark.usefixtures("short_pauses")
async def test_where_there_is_no_time_to_wait_all_that_may_still_appear_is_owed(
    place: Place, console: Console, moods: Moods
) -> None:
    """The former instance, which the CLEANUP names, is terminated in time; the new one is not even seen."""
    former = await console.launch(identity())
    configure(place, **LAG)
    moods.hidden.add(former)
    moods.losing.add("create")
    async with Front(place, deadline=0.3) as front:
        assert (await front.ask("DEPLOY", seq=1)).startswith("FAILURE")
        moods.hidden.clear()
        assert (await front.ask("CLEANUP", seq=1, deploy_id=former)).startswith("FAILURE cannot tell")
    assert len(await console.alive()) == 1
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == set()


@pytest.mark.usefixtures("short_pauses")
async def test_a_debt_outlives_a_change_of_owner(place: Place, console: Console, moods: Moods) -> None:
    async with Front(place) as front:
        deploy_id = await front.deployed()
        moods.failing["destroy"] = REFUSED
        assert (await front.ask("CLEANUP", deploy_id=deploy_id)).startswith("FAILURE")
    moods.failing.clear()
    configure(place, owner="somebody-new")
    async with Front(place) as front:
        await until(lambda: is_tried(front))
        assert await console.alive() == {deploy_id}
    configure(place)
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == set()


async def test_an_instance_that_is_owed_is_not_taken_over(place: Place, console: Console, moods: Moods) -> None:
    async with Front(place) as front:
        former = await front.deployed()
        moods.failing["destroy"] = REFUSED
        assert (await front.ask("CLEANUP")).startswith("FAILURE")
        ours = await front.deployed()
        assert await console.alive() == {former, ours}
    moods.failing.clear()
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == {ours}


@pytest.mark.usefixtures("short_pauses")
async def test_what_a_called_off_deploy_makes_afterwards_goes(place: Place, console: Console, moods: Moods) -> None:
    configure(place, latency=0.1)
    async with Front(place) as front:
        front.send("DEPLOY")
        await until(lambda: is_creating(moods))
        front.send("DRIVER_CANCEL")
        await until(console.instances)

        async def is_gone() -> bool:
            return not await console.alive() and await is_free_of_debts(front)

        await until(is_gone)


@pytest.mark.usefixtures("short_pauses")
async def test_what_is_made_after_a_clean_up_ran_out_of_time_goes(place: Place, console: Console, moods: Moods) -> None:
    """The deploy ran out of time as well, and its create is answered last of all."""
    configure(place, visibility_grace=1.5)
    moods.slow["create"] = 1.0
    async with Front(place, deadline=0.3) as front:
        assert "waiting for the cloud's answer to create" in await front.ask("DEPLOY")
        assert (await front.ask("CLEANUP")).startswith("FAILURE")
        await until(console.instances)
        await until(lambda: is_free_of_debts(front))
    assert await console.alive() == set()


@pytest.mark.usefixtures("short_pauses")
async def test_what_a_called_off_deploy_has_made_goes_and_what_the_next_one_makes_stays(
    place: Place, console: Console, moods: Moods
) -> None:
    configure(place, latency=0.1, **LAG)
    async with Front(place) as front:
        moods.failing["destroy"] = REFUSED
        front.send("DEPLOY")
        await until(lambda: is_creating(moods))
        front.send("DRIVER_CANCEL")
        ours = await front.deployed()
        [former] = await console.alive() - {ours}
    moods.failing.clear()
    async with Front(place) as front:
        await until(lambda: is_free_of_debts(front))
    assert former in await console.instances()
    assert await console.alive() == {ours}


async def is_creating(moods: Moods) -> bool:
    return "create" in moods.calls


# One answer


async def test_a_poll_that_was_answered_is_not_answered_again_when_an_action_comes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of one listing are written in portions; the action comes between two of them."""
    vm_ids = range(100, 300)
    async with Front(place) as front:
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
