"""`one-provider upgrade --check`: files, settings, ARGUMENTS, requests, debts and running drivers of each NAME."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad import __version__
from one_provider_mad.cli.check import NOT_WELL
from one_provider_mad.journal.schema import VERSION
from tests.cli.running import json_of, output_of, ran
from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import ROOT, Driver, Place
from tests.waiting import until

VERSION_9 = ROOT / "tests" / "journal_versions" / "9.sql"


def journal(place: Place) -> Path:
    return place.var / "one_provider_mad_simulated.journal"


def write_journal(place: Place, *statements: str) -> None:
    """Write a journal of version 9, and run further statements on it."""
    with closing(sqlite3.connect(journal(place))) as db:
        db.executescript(VERSION_9.read_text())
        for statement in statements:
            db.execute(statement)
        db.commit()


def found(place: Place, *, code: int = 0) -> dict[str, Any]:
    """The findings on `simulated`, the only NAME."""
    shown = json_of(place.root, "upgrade", "--check", code=code)
    assert shown["release"] == __version__
    assert shown["is_ready"] == (code == 0)
    (one,) = shown["names"]
    assert one["name"] == "simulated"
    return dict(one)


def check(findings: dict[str, Any], what: str) -> dict[str, Any]:
    (one,) = [each for each in findings["checks"] if each["what"] == what]
    return dict(one)


def test_earlier_journal_may_be_upgraded_and_the_way_back_is_named(place: Place) -> None:
    place.simulate()
    write_journal(place)
    before = journal(place).read_bytes()
    one = found(place)
    assert one["files"] == [{"what": "journal", "path": str(journal(place)), "version": 9, "becomes": VERSION}]
    assert f"upgrades to {VERSION}" in check(one, "journal")["found"]
    assert "an earlier release refuses the upgraded journal" in check(one, "way back")["found"]
    assert journal(place).read_bytes() == before
    assert sorted(path.name for path in place.var.iterdir()) == [journal(place).name]


def test_files_of_this_version_leave_the_way_back_open(place: Place, driver: StartDriver) -> None:
    place.simulate(boot_time=0)
    one = driver()
    one.created(oned_requests.deploy(7))
    one.finalize()
    (place.var / "one_im_provider_simulated.state").write_text('{"version": 1}')
    for kind in ("ledger", "budget"):
        with closing(sqlite3.connect(place.var / f"one_provider_mad_simulated.{kind}")) as db:
            db.execute("PRAGMA user_version = 1")
    findings = found(place)
    assert [(each["what"], each["version"], each["becomes"]) for each in findings["files"]] == [
        ("journal", VERSION, VERSION),
        ("monitoring state", 1, 1),
        ("embedded cloud", 1, 1),
        ("ledger", 1, 1),
        ("budget", 1, 1),
    ]
    assert check(findings, "way back")["found"] == "install the earlier release again: no file changes its version"


@pytest.mark.parametrize("what", ["journal", "monitoring state"])
def test_files_of_a_later_release_are_named(place: Place, what: str) -> None:
    place.simulate()
    write_journal(place, f"PRAGMA user_version = {VERSION + 1 if what == 'journal' else 1}")
    if what != "journal":
        (place.var / "one_im_provider_simulated.state").write_text('{"version": 2}')
    shown = check(found(place, code=NOT_WELL), what)
    assert shown["is_well"] is False
    assert ", of a later release: " in shown["found"]


def test_unreadable_files_are_named(place: Place) -> None:
    place.simulate()
    journal(place).write_bytes(b"no database " * 1000)
    (place.var / "one_im_provider_simulated.state").write_text("[]")
    checks = found(place, code=NOT_WELL)["checks"]
    assert {each["what"] for each in checks if each["is_well"] is False} == {"journal", "monitoring state"}


def test_each_unknown_setting_is_shown_with_its_line_and_what_to_write(place: Place) -> None:
    path = place.configure(
        'provider = "simulated"\n'
        'owner = "one-test"\n'
        "nothing_like_it = 1\n"
        "[simulated]\n"
        "# latncy = 1\n"
        "latncy = 1\n"
        "[simulated.faults]\n"
        'transient = { calls = ["create"], tmes = 1 }\n'
        "[monitor]\n"
        "stat_period = 5\n"
    )
    one = found(place, code=NOT_WELL)
    assert [(each["line"], each["key"], each["alike"]) for each in one["unknown_settings"]] == [
        (3, "nothing_like_it", None),
        (6, "simulated.latncy", "simulated.latency"),
        (8, "simulated.faults.transient.tmes", None),
        (10, "monitor.stat_period", "monitor.state_period"),
    ]
    shown = [each for each in one["checks"] if each["what"] == "settings"]
    assert (
        shown[1]["found"] == f"{path}, line 6: simulated.latncy is no setting of {__version__}: all actions would fail"
    )
    assert shown[1]["remedy"] == "write simulated.latency if that is meant; else put a # before it"
    assert shown[0]["remedy"] == "put a # before it"
    assert shown[3]["found"].endswith("no VM would be reported missing")


def test_a_wrong_value_is_shown(place: Place) -> None:
    place.configure('provider = "simulated"\nowner = "one-test"\ncall_timeout = 0\n')
    assert "call_timeout: expected" in check(found(place, code=NOT_WELL), "settings")["found"]


def test_arguments_that_this_release_does_not_understand_are_shown_with_their_line(place: Place) -> None:
    place.simulate()
    (place.root / "etc" / "oned.conf").write_text(
        'VM_MAD = [ NAME = "kvm", EXECUTABLE = "one_vmm_exec", ARGUMENTS = "-t 15 -z kvm" ]\n'
        '# VM_MAD = [ EXECUTABLE = "one_vmm_provider", ARGUMENTS = "--old simulated" ]\n'
        "VM_MAD = [\n"
        '    NAME = "simulated", EXECUTABLE = "one_vmm_provider",\n'
        '    ARGUMENTS = "-t 15 --later simulated" ]\n'
    )
    (place.root / "etc" / "monitord.conf").write_text(
        'IM_MAD = [ NAME = "simulated", EXECUTABLE = "one_im_provider", ARGUMENTS = "simulated" ]\n'
    )
    one = found(place)
    assert [(each["section"], each["line"], each["arguments"]) for each in one["arguments"]] == [
        ("VM_MAD", 3, "-t 15 --later simulated"),
        ("IM_MAD", 1, "simulated"),
    ]
    shown = [each for each in one["checks"] if each["what"] == "ARGUMENTS"]
    assert [each["is_well"] for each in shown] == [None, True]
    assert shown[0]["found"].endswith("oned.conf, line 3, VM_MAD: option '--later' is unknown: ignored")


def test_requests_in_flight_and_the_running_driver_are_shown(place: Place, driver: StartDriver) -> None:
    place.simulate(boot_time=600)
    before = time.time()
    one = driver()
    one.send(oned_requests.deploy(7))
    until(place.unanswered)
    findings = found(place)
    assert [(each["action"], each["vm_id"], each["is_writer_alive"]) for each in findings["requests"]] == [
        ("DEPLOY", 7, True)
    ]
    assert check(findings, "requests")["is_well"] is None
    (running,) = findings["drivers"]
    assert (running["program"], running["pid"]) == ("one_vmm_provider", one.process.pid)
    assert (running["release"], running["folder"]) == (__version__, str(ROOT / "one_provider_mad"))
    assert before - 2 < running["since"] < time.time()
    assert running["is_replaced"] is False


def test_a_request_that_no_other_process_carries_out_has_to_be_awaited(place: Place) -> None:
    place.simulate()
    row = "'DISKSAVEAS', 1, x'', 1.0, 1, '1', 0"
    write_journal(place, f"INSERT INTO requests VALUES (1, 7, {row})")
    shown = check(found(place, code=NOT_WELL), "requests")
    assert shown["found"] == "1 in flight: DISKSAVEAS of VM 7"
    assert shown["remedy"].startswith("wait for DISKSAVEAS, which would fail when the driver is restarted")


def test_debts_are_shown(place: Place) -> None:
    place.simulate()
    write_journal(place, "INSERT INTO debts VALUES (1, 'sim-1', '', 'one-test', 7, 1, 0, 3, 'cancelled', 1.0, 2, 'no')")
    one = found(place)
    assert one["debts"] == [{"vm_id": 7, "deploy_id": "sim-1", "since": 1.0, "reason": "cancelled"}]
    assert check(one, "debts")["found"] == "1 to terminate: sim-1 of VM 7"


def test_a_driver_whose_files_were_replaced_has_to_be_restarted(
    place: Place, driver: StartDriver, tmp_path: Path
) -> None:
    """As after pip install --upgrade under a running OpenNebula."""
    release = tmp_path / "release"
    (release / "bin").mkdir(parents=True)
    (release / ".venv").symlink_to(ROOT / ".venv")
    (release / "bin" / "one_vmm_provider").write_bytes((ROOT / "bin" / "one_vmm_provider").read_bytes())
    (release / "bin" / "one_vmm_provider").chmod(0o755)
    (release / "one_provider_mad").symlink_to(ROOT / "one_provider_mad")
    place.simulate(boot_time=0)
    one = driver(program=release / "bin" / "one_vmm_provider")
    begun = time.time()
    one.created(oned_requests.deploy(7))
    (release / "one_provider_mad").unlink()
    (release / "one_provider_mad").mkdir()
    fresh = release / "one_provider_mad" / "__init__.py"
    fresh.write_text('__version__ = "9.9.9"\n')

    def is_younger() -> bool:
        fresh.touch()
        return fresh.stat().st_ctime > begun + 6

    until(is_younger, pause=0.5)
    findings = found(place, code=NOT_WELL)
    (running,) = findings["drivers"]
    assert (running["is_replaced"], running["release"]) == (True, __version__)
    assert "replaced or removed since" in check(findings, "one_vmm_provider")["found"]


def test_a_driver_that_a_package_starts_by_its_environment_is_found(place: Place, tmp_path: Path) -> None:
    place.simulate()
    wrapper = tmp_path / "one_vmm_provider"
    code = "from one_provider_mad.programs import one_vmm_provider; one_vmm_provider()"
    wrapper.write_text(f"#!/bin/sh\nexec {ROOT}/.venv/bin/python -I -c '{code}' \"$@\"\n")
    wrapper.chmod(0o755)
    with Driver(place, program=wrapper) as one:
        until(place.log)
        (running,) = found(place)["drivers"]
    assert (running["program"], running["pid"], running["release"]) == (
        "one_vmm_provider",
        one.process.pid,
        __version__,
    )


def test_drivers_of_another_opennebula_are_left_out(place: Place, driver: StartDriver, tmp_path: Path) -> None:
    place.simulate()
    driver()
    other = Place(tmp_path / "other")
    other.simulate()
    assert found(other)["drivers"] == []


def test_only_the_given_names_are_checked(place: Place) -> None:
    place.simulate()
    place.configure("nonsense", name="broken")
    assert ran(place.root, "upgrade", "--check", "simulated")[0] == 0
    assert ran(place.root, "upgrade", "--check")[0] == NOT_WELL
    assert ran(place.root, "upgrade", "--check", "../x")[0] == 1
    assert ran(place.root, "upgrade")[0] == 2


def test_the_text_ends_with_the_result(place: Place) -> None:
    place.simulate()
    text = output_of(place.root, "upgrade", "--check")
    assert text.startswith(f"release {__version__}\n\nsimulated\n✓ settings: ")
    assert text.endswith("\nthe upgrade may be done now\n")
    place.configure("nonsense")
    assert output_of(place.root, "upgrade", "--check", code=NOT_WELL).endswith("something must be done first, see ✗\n")
    (place.conf / "simulated.toml").unlink()
    assert "no NAME is configured here" in output_of(place.root, "upgrade", "--check")
    assert not list(place.var.iterdir())
