"""`one-provider instances`, on the simulated cloud."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from one_provider_mad.domain import DeployId, Identity, VmId, VmRequest
from one_provider_mad.journal.records import Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.providers import registry
from one_provider_mad.providers.interface import CreateCall, VerbatimDriver
from one_provider_mad.settings import Places, load
from tests.cli.running import on_a_terminal
from tests.end_to_end.oned import COVERAGE
from tests.waiting import HANG

_Result = TypeVar("_Result")

NAME = "cloud"
CONFIGURATION = 'provider = "simulated"\nowner = "mine"\n[simulated]\ndestroy_time = 0\n'


@pytest.fixture
def location(tmp_path: Path) -> Path:
    """A self-contained OpenNebula with a configured cloud."""
    conf = tmp_path / "etc" / "one_provider_mad"
    conf.mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (conf / f"{NAME}.toml").write_text(CONFIGURATION)
    return tmp_path


def instances(location: Path, *arguments: str, name: str = NAME) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command as a process of its own."""
    environ = {key: value for key, value in os.environ.items() if key not in {"ONE_PROVIDER_MAD_CONF", *COVERAGE}}
    done = subprocess.run(
        [sys.executable, "-m", "one_provider_mad.cli.main", "instances", name, *arguments],
        env={**environ, "ONE_LOCATION": str(location)},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    return done.returncode, done.stdout, done.stderr


def listed(location: Path, *arguments: str) -> list[dict[str, Any]]:
    code, printed, errors = instances(location, "--json", *arguments)
    assert (code, errors) == (0, "")
    entries: list[dict[str, Any]] = json.loads(printed)
    return entries


def identity(vm_id: int, owner: str = "mine") -> Identity:
    return Identity(owner=owner, vm_id=VmId(vm_id), stime=1000 + vm_id, seq=2, host_id=5)


def finished(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of a coroutine, run by an event loop in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result(HANG)


def populate(location: Path, *, owners: Mapping[int, str], destroyed: tuple[int, ...] = ()) -> dict[int, DeployId]:
    """Create an instance for each VM; some are destroyed again."""
    return finished(_populate(location, owners, destroyed))


async def _populate(location: Path, owners: Mapping[int, str], destroyed: tuple[int, ...]) -> dict[int, DeployId]:
    places = Places.from_environment({"ONE_LOCATION": str(location)})
    provider = registry.build(load(NAME, places), places, print)
    assert not isinstance(provider, VerbatimDriver)
    await provider.open()
    made = {}
    for vm_id, owner in owners.items():
        plan = provider.plan(VmRequest(vm_id=VmId(vm_id), name=f"vm-{vm_id}", host="h"))
        call = CreateCall(identity=identity(vm_id, owner), token=f"t{vm_id}", parameters=plan.alternatives[0])
        made[vm_id] = await provider.create(call)
    for vm_id in destroyed:
        await provider.destroy(made[vm_id])
    await provider.close()
    return made


def add_debts(location: Path, *debts: Debt) -> None:
    """Write debts to the journal, as the driver does."""
    finished(_add_debts(location, debts))


async def _add_debts(location: Path, debts: tuple[Debt, ...]) -> None:
    places = Places.from_environment({"ONE_LOCATION": str(location)})
    journal = Journal(places.journal(load(NAME, places)), clock=time.time, on_lost=print)
    await journal.open()
    for debt in debts:
        await journal.add_debt(debt)
    await journal.close()


def test_instances_prints_no_instances_for_an_empty_cloud(location: Path) -> None:
    assert listed(location) == []
    assert instances(location) == (0, "no instances\n", "")


def test_instances_lists_only_this_owners_instances_with_their_tags(location: Path) -> None:
    begun = time.time()
    made = populate(location, owners={7: "mine", 8: "another-owner"})
    (entry,) = listed(location)
    assert entry.pop("state") in ("pending", "running")
    assert begun - 1 <= entry.pop("created_at") <= time.time()
    assert entry == {
        "vm_id": 7,
        "deploy_id": made[7],
        "name": "vm-7",
        "owner": "mine",
        "stime": 1007,
        "seq": 2,
        "host_id": 5,
        "debt": False,
    }


def test_instances_all_also_lists_foreign_and_terminated_instances(location: Path) -> None:
    made = populate(location, owners={7: "mine", 8: "another-owner", 9: "mine"}, destroyed=(9,))
    assert [entry["vm_id"] for entry in listed(location)] == [7]
    found = {entry["deploy_id"]: (entry["vm_id"], entry["owner"]) for entry in listed(location, "--all")}
    assert found == {made[7]: (7, "mine"), made[8]: (None, "another-owner"), made[9]: (9, "mine")}
    states = {entry["deploy_id"]: entry["state"] for entry in listed(location, "--all")}
    assert states[made[9]] == "terminated"


def test_instances_prints_a_table(location: Path) -> None:
    made = populate(location, owners={7: "mine", 123: "mine"})
    code, printed, _ = instances(location)
    head, *rows = printed.splitlines()
    assert code == 0
    assert head.split() == ["VM", "DEPLOY", "ID", "STATE", "NAME", "CREATED"]
    assert sorted(row.split()[:2] for row in rows) == sorted([["7", made[7]], ["123", made[123]]])
    assert len({row.index("vm-") for row in rows}) == 1


def test_instances_prints_a_ruled_table_without_truncation_on_a_terminal(location: Path) -> None:
    made = populate(location, owners={7: "mine"})
    code, printed = on_a_terminal(location, "instances", NAME, columns=200)
    assert (code, "─" in printed) == (0, True)
    assert made[7] in printed
    narrow = on_a_terminal(location, "instances", NAME, columns=30)[1]
    assert "…" not in narrow


def test_instances_does_not_print_log_lines_of_the_provider(location: Path) -> None:
    path = location / "etc" / "one_provider_mad" / f"{NAME}.toml"
    path.write_text(f"{CONFIGURATION}[simulated.faults.late_answers]\nseconds = 0\n")
    assert listed(location) == []


def test_instances_shows_debts_with_and_without_a_listed_instance(location: Path) -> None:
    made = populate(location, owners={7: "mine", 8: "mine"})
    add_debts(
        location,
        Debt(deploy_id=made[7], identity=identity(7), reason="CLEANUP could not destroy it", since=1_760_000_000.0),
        Debt(deploy_id=DeployId("sim-gone"), identity=identity(3), reason="left over", since=1_760_000_000.0),
        Debt(deploy_id=DeployId(""), token="t", identity=identity(4), reason="never named", since=1_760_000_000.0),
    )
    entries = {entry["vm_id"]: entry for entry in listed(location)}
    assert {vm_id: entry["debt"] for vm_id, entry in entries.items()} == {7: True, 8: False, 3: True, 4: True}
    assert entries[7]["state"] in ("pending", "running")
    assert entries[7]["reason"] == "CLEANUP could not destroy it"
    assert (entries[3]["state"], entries[3]["deploy_id"]) == ("debt", "sim-gone")
    assert (entries[4]["state"], entries[4]["deploy_id"]) == ("debt", None)
    printed = instances(location)[1]
    table, debts = printed.split("\ndebts (pending terminations)\n")
    assert len(table.splitlines()) == 3
    assert [line.split(",")[0] for line in debts.splitlines()] == ["  VM 7", "  VM 3", "  VM 4"]
    assert "sim-gone, since 2025-10-09" in debts


def test_instances_with_an_unreadable_journal_fails_with_one_sentence(location: Path) -> None:
    (location / "var" / f"one_provider_mad_{NAME}.journal").write_text("this is no database, only long enough" * 20)
    code, printed, complaint = instances(location)
    assert (code, printed) == (1, "")
    assert complaint.startswith("one-provider instances: the journal ")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("other", "one-provider instances: other.toml does not exist: create "),
        ("../x", "one-provider instances: ARGUMENTS name no provider ('../x')"),
    ],
)
def test_instances_of_an_unconfigured_name_fails_with_one_sentence(location: Path, name: str, sentence: str) -> None:
    code, printed, complaint = instances(location, name=name)
    assert (code, printed) == (1, "")
    assert complaint.startswith(sentence)
    assert complaint.count("\n") == 1
