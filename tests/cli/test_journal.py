"""`one-provider journal`: open requests, debts and attempts; and accepting another account."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId, Identity, VmId
from one_provider_mad.journal.records import Attempt, AttemptState, Debt
from one_provider_mad.journal.writer import Journal
from tests.cli.running import json_of, on_a_terminal, output_of, ran
from tests.end_to_end.oned import Place, aside

IDENTITY = Identity(owner="mine", vm_id=VmId(7), stime=1007, seq=2, host_id=5)
SINCE = 1_760_000_000.0


def journaled(path: Path, *writings: Callable[[Journal], Awaitable[None]]) -> None:
    async def write() -> None:
        journal = Journal(path, clock=lambda: SINCE, on_lost=print)
        await journal.open()
        for writing in writings:
            await writing(journal)
        await journal.close()

    aside(lambda: asyncio.run(write()))


@pytest.fixture
def path(place: Place) -> Path:
    """A journal with an account, an attempt and a debt."""
    path = place.var / "one_provider_mad_simulated.journal"
    attempt = Attempt(
        token="t7",
        identity=IDENTITY,
        number=1,
        parameters={},
        state=AttemptState.REFUSED,
        sent_at=SINCE,
        detail="no room",
    )
    debt = Debt(deploy_id=DeployId("sim-7"), identity=IDENTITY, reason="left over", since=SINCE)
    journaled(
        path,
        lambda journal: journal.set_fact("account", "simulated/elsewhere"),
        lambda journal: journal.save_attempt(attempt),
        lambda journal: journal.add_debt(debt),
    )
    return path


def test_journal_shows_account_requests_debts_and_attempts(place: Place, path: Path) -> None:
    code, printed, errors = ran(place.root, "journal", "simulated", "--json")
    assert (code, errors) == (0, "")
    found = json.loads(printed)
    assert (found["path"], found["account"], found["requests"]) == (str(path), "simulated/elsewhere", [])
    assert found["debts"] == [
        {"vm_id": 7, "deploy_id": "sim-7", "since": SINCE, "tries": 0, "reason": "left over", "last_error": ""}
    ]
    (attempt,) = found["attempts"]
    assert (attempt["vm_id"], attempt["seq"], attempt["number"], attempt["state"]) == (7, 2, 1, "refused")
    assert (attempt["deploy_id"], attempt["detail"]) == (None, "no room")
    plain = output_of(place.root, "journal", "show", "simulated")
    assert "Unanswered requests: none\n" in plain
    assert "\nDebts (pending terminations): 1\nVM  DEPLOY ID" in plain
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(SINCE)) in plain
    assert "─" not in plain
    code, ruled = on_a_terminal(place.root, "journal", "simulated")
    assert (code, "─" in ruled, "sim-7" in ruled) == (0, True, True)


def test_journal_prints_none_for_each_empty_part(place: Place) -> None:
    found = json_of(place.root, "journal", "simulated")
    assert (found["account"], found["requests"], found["debts"], found["attempts"]) == (None, [], [], [])
    assert output_of(place.root, "journal", "simulated").count(": none\n") == 3


def test_journal_shows_vms_that_may_be_recreated_if_there_are_any(place: Place, path: Path) -> None:
    assert "may be recreated" not in output_of(place.root, "journal", "simulated")
    journaled(path, lambda journal: journal.note_refused_vm(IDENTITY, "no room for t3.small"))
    shown = output_of(place.root, "journal", "simulated").partition("VMs that may be recreated: 1\n")[2].splitlines()
    assert [shown[1].split()[each] for each in (0, 1, 4)] == ["7", "2", "0"]
    assert shown[1].endswith("no room for t3.small")
    (entry,) = json_of(place.root, "journal", "show", "simulated")["recreations"]
    assert (entry["vm_id"], entry["since"], entry["is_interrupted"]) == (7, SINCE, False)


def test_journal_accept_forgets_the_recorded_account(place: Place, path: Path) -> None:
    gone = f"{path} no longer insists on simulated/elsewhere: the next action records the credentials' account"
    assert json_of(place.root, "journal", "accept", "simulated") == [gone]
    assert json_of(place.root, "journal", "simulated")["account"] is None
    again = f"{path} has no account recorded: the next action records the credentials' account\n"
    assert output_of(place.root, "journal", "accept", "simulated") == again


def test_unreadable_journal_gives_one_sentence(place: Place) -> None:
    (place.var / "one_provider_mad_simulated.journal").write_text("no database" * 200)
    for arguments in (("journal", "simulated"), ("journal", "accept", "simulated")):
        complaint = output_of(place.root, *arguments, code=1)
        assert complaint.startswith("one-provider journal: the journal ")
        assert complaint.count("\n") == 1
    assert output_of(place.root, "journal", "-h").startswith("Usage: one-provider journal ")


def test_a_mistyped_command_before_a_name_is_no_name(place: Place) -> None:
    code, printed, errors = ran(place.root, "journal", "accpet", "simulated")
    assert (code, printed) == (2, "")
    assert errors.startswith("one-provider journal: No such command 'accpet'.")
