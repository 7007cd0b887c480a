"""`one-provider purge --check`: a journal that names instances stays, and the output says what and where they are."""

from __future__ import annotations

import runpy
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.cli.check import NOT_WELL
from tests.cli.running import json_of, output_of
from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import ROOT, Place

VERSION_9 = ROOT / "tests" / "journal_versions" / "9.sql"


def journal(place: Place) -> Path:
    return place.var / "one_provider_mad_simulated.journal"


def found(place: Place, *, code: int = 0) -> dict[str, Any]:
    (one,) = json_of(place.root, "purge", "--check", code=code)
    return dict(one)


def removable(place: Place, *, code: int = 0) -> list[str]:
    return [Path(path).name for path in found(place, code=code)["removable"]]


def test_files_may_be_deleted_once_every_instance_is_terminated(place: Place, driver: StartDriver) -> None:
    place.simulate(boot_time=0, destroy_time=0)
    one = driver()
    deploy_id = one.created(oned_requests.deploy(7))
    assert "still serves it: stop OpenNebula first" in found(place, code=NOT_WELL)["fault"]
    assert removable(place, code=NOT_WELL) == []
    one.finalize()
    kept = found(place, code=NOT_WELL)
    assert kept["where"] == "simulated, account simulated/embedded"
    assert [(each["what"], each["vm_id"], each["deploy_id"]) for each in kept["traces"]] == [("instance", 7, deploy_id)]
    assert str(journal(place)) in kept["kept"]
    assert str(place.conf / "simulated.toml") in kept["kept"], "its owner and credentials find the instances"
    assert removable(place, code=NOT_WELL) == ["one_vmm_provider_simulated.log"]
    one = driver()
    assert one.ask(oned_requests.terminate(7, deploy_id)).startswith("SUCCESS")
    one.finalize()
    assert found(place)["kept"] == []
    assert {"simulated.toml", journal(place).name, "simulated.db", "one_provider_mad_simulated.configured"} <= {
        *removable(place)
    }
    assert journal(place).exists(), "nothing is deleted"


TRACES = [
    pytest.param(
        "INSERT INTO debts VALUES (1, 'sim-1', '', 'one-test', 7, 1, 0, 3, 'cancelled', 1.0, 2, 'no')",
        ("debt", 7, "sim-1", "cancelled"),
        id="debt",
    ),
    pytest.param(
        "INSERT INTO attempts VALUES ('t', 'one-test', 7, 1, 0, 3, 1, '{}', 'open', '', 1.0, 0.0, '')",
        ("create without an answer", 7, None, None),
        id="open-attempt",
    ),
    pytest.param("INSERT INTO imported VALUES ('sim-2', 7, 1)", ("imported instance", 7, "sim-2", None), id="import"),
    pytest.param(
        "INSERT INTO requests VALUES (1, 7, 'DEPLOY', 1, x'', 1.0, 1, '1', 0)",
        ("request without an answer", 7, None, "DEPLOY"),
        id="request",
    ),
]


@pytest.mark.parametrize(("statement", "trace"), TRACES)
def test_a_journal_of_any_version_that_names_an_instance_stays(
    place: Place, statement: str, trace: tuple[object, ...]
) -> None:
    place.simulate()
    with closing(sqlite3.connect(journal(place))) as db:
        db.executescript(VERSION_9.read_text())
        db.execute(statement)
        db.commit()
    one = found(place, code=NOT_WELL)
    assert [(each["what"], each["vm_id"], each["deploy_id"], each["text"]) for each in one["traces"]] == [trace]
    assert removable(place, code=NOT_WELL) == []
    text = output_of(place.root, "purge", "--check", code=NOT_WELL)
    assert f"  {trace[0]}: {trace[2] or 'no id'} of VM 7" in text
    assert f"  must stay: {journal(place)}" in text


def test_a_journal_stays_without_its_configuration_and_if_it_cannot_be_read(place: Place) -> None:
    with closing(sqlite3.connect(journal(place))) as db:
        db.executescript(VERSION_9.read_text())
        db.execute("INSERT INTO parked VALUES ('sim-1', 7, 1.0)")
        db.execute("INSERT INTO attempts VALUES ('t', 'o', 7, 1, 0, 3, 1, '{}', 'created', 'sim-1', 1.0, 1.0, '')")
        db.commit()
    assert [each["deploy_id"] for each in found(place, code=NOT_WELL)["traces"]] == ["sim-1"]
    journal(place).write_bytes(b"no database " * 1000)
    one = found(place, code=NOT_WELL)
    assert one["fault"].startswith("the journal cannot be read: file is not a database")
    assert one["kept"] == [str(journal(place))]


def test_a_database_of_opennebula_is_never_named(place: Place) -> None:
    """A NAME `one` would keep its embedded cloud in one.db."""
    place.configure('provider = "simulated"\nowner = "one-test"\n', name="one")
    with closing(sqlite3.connect(place.var / "one.db")) as db:
        db.execute("CREATE TABLE vm_pool (oid INTEGER PRIMARY KEY)")
    one = found(place)
    assert [Path(path).name for path in one["removable"]] == ["one.toml"]


OF_COSTS = ("budget", "ledger.lock", "prices", "types")


def write_costs(place: Place) -> Path:
    """Write each file about money of the NAME, and the budget that it would share; return its ledger."""
    place.configure('provider = "simulated"\nowner = "one-test"\n', name="simulated")
    for kind in (*OF_COSTS, "ledger"):
        (place.var / f"one_provider_mad_simulated.{kind}").touch()
    (place.var / "one_provider_budget_team.sqlite").touch()
    return place.var / "one_provider_mad_simulated.ledger"


def test_a_ledger_is_kept_and_the_other_files_about_money_may_be_deleted(place: Place) -> None:
    ledger = write_costs(place)
    one = found(place)
    assert one["ledgers"] == [str(ledger)]
    assert {f"one_provider_mad_simulated.{kind}" for kind in OF_COSTS} < {Path(path).name for path in one["removable"]}
    assert f"  only record of costs, kept by a purge: {ledger}" in output_of(place.root, "purge", "--check")


@pytest.mark.parametrize("statement", ["", TRACES[2].values[0]], ids=["without-instances", "with-an-instance"])
def test_the_packages_purge_keeps_the_ledger(place: Place, capsys: pytest.CaptureFixture[str], statement: str) -> None:
    ledger = write_costs(place)
    if statement:
        with closing(sqlite3.connect(journal(place))) as db:
            db.executescript(VERSION_9.read_text())
            db.execute(statement)
            db.commit()
    purge = runpy.run_path(str(ROOT / "packaging" / "deb" / "purge.py"))["main"]
    purge.__globals__.update(CONF=str(place.conf), VAR=str(place.var), LOG=str(place.var))
    purge()
    left = {path.name.removeprefix("one_provider_mad_simulated.") for path in place.var.iterdir()}
    assert ledger.exists()
    removable = {*OF_COSTS, "one_provider_budget_team.sqlite"}
    assert left & removable == (removable if statement else set())
    assert (f"kept {ledger}, the only record" in capsys.readouterr().out) == (not statement)


def test_without_a_name_nothing_is_found(place: Place) -> None:
    assert output_of(place.root, "purge", "--check") == ""
