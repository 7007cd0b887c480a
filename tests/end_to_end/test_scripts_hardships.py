"""Scripts under hard conditions: cancelled twice, a locked journal, a killed driver, deployment files that block."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from one_provider_mad.domain import Template
from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Driver
from tests.end_to_end.script_cases import CASES, request
from tests.end_to_end.script_folder import HOST, NAME, ScriptPlace, Served, altered
from tests.oned_lines import Release
from tests.waiting import until

NOTE_PID = "echo $$ >>@PLACE@/pids"
STUBBORN = f"trap '' TERM; {NOTE_PID}; sleep 50 & echo $! >>@PLACE@/pids; wait"
"""A script and its child that ignore SIGTERM."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ScriptPlace]:
    """The OpenNebula in which `driver` starts its drivers, with scripts; processes that they leave are killed."""
    place = ScriptPlace(tmp_path / "one")
    yield place
    for pid in pids(place):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def pids(place: ScriptPlace) -> list[int]:
    """The pids that scripts have noted."""
    note = place.note("pids")
    return [int(word) for word in note.read_text().split()] if note.exists() else []


def running(place: ScriptPlace) -> list[int]:
    """The noted processes that still run, without zombies."""
    found = []
    for pid in pids(place):
        with suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            found += [pid] if state not in "ZX" else []
    return found


def reboot(vm_id: int) -> bytes:
    return oned_requests.reboot(vm_id, f"i-{vm_id}", host=HOST)


def deploy(place: ScriptPlace, vm_id: int, release: Release = "7.4") -> bytes:
    line = oned_requests.deploy(vm_id, release=release, host=HOST)
    return altered(line, LOCAL_DEPLOYMENT_FILE=str(place.deployment_file(vm_id)))


@contextmanager
def locked(place: ScriptPlace, how: str) -> Iterator[None]:
    """Lock the driver's journal from another connection."""
    path = place.var / f"one_provider_mad_{NAME}.journal"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"BEGIN {how}")
        yield


# Scripts of one host that hang


def test_hanging_scripts_of_one_host_do_not_delay_other_hosts(place: ScriptPlace, driver: StartDriver) -> None:
    """OpenNebula/one#1702: upstream's driver runs one action a host at a time, and so protects the others."""
    for vm_id in (1, 2, 3):
        place.on_action("deploy", vm_id, "while [ ! -e @PLACE@/go ]; do sleep 0.05; done")
    one = driver(f"-t 2 -r 0 {NAME}")
    for vm_id in (1, 2, 3):
        one.send(deploy(place, vm_id))
    until(lambda: len(place.recorded()) == 2)
    for vm_id, host in ((4, "second"), (5, "third")):
        line = altered(oned_requests.deploy(vm_id, host=host), LOCAL_DEPLOYMENT_FILE=str(place.deployment_file(vm_id)))
        assert one.ask(line) == f"SUCCESS i-{vm_id}"
    assert len(place.recorded()) == 4, "-t limits the scripts of one host"
    place.note("go").touch()
    assert sorted(one.wait_for(lambda line: line.startswith("DEPLOY")) for _ in range(3)) == [
        f"DEPLOY SUCCESS {vm_id} i-{vm_id}" for vm_id in (1, 2, 3)
    ]


# DRIVER_CANCEL while a script is being ended


@pytest.mark.parametrize("last", ["exit 0", ":"], ids=["script-ends", "script-stays"])
@pytest.mark.parametrize("why", ["timeout", "cancelled"])
def test_driver_cancel_waits_for_a_script_that_is_being_ended(
    place: ScriptPlace, driver: StartDriver, why: str, last: str
) -> None:
    child = "sh -c 'trap \"\" TERM; echo $$ >>@PLACE@/pids; sleep 50'"
    place.on_action("reboot", 7, f"trap ': >@PLACE@/terminated; {last}' TERM; {NOTE_PID}; {child} & wait; wait; wait")
    one = driver(f"-t 15 -r 0 {'-w 1' if why == 'timeout' else ''} -p {NAME}")
    one.send(reboot(7))
    until(lambda: len(pids(place)) == 2)
    if why == "cancelled":
        one.send(oned_requests.driver_cancel(7))
    until(place.note("terminated").exists)
    one.send(oned_requests.driver_cancel(7))
    assert one.ask(oned_requests.cleanup(7)) == "SUCCESS -"
    assert not running(place)
    if why == "cancelled" or last == ":":  # else it may have ended, and been answered, before DRIVER_CANCEL
        assert [line for line in one.lines if line.startswith("REBOOT")] == []


def test_end_of_oned_while_a_script_is_being_ended_leaves_no_process(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("reboot", 7, STUBBORN)
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(reboot(7))
    until(lambda: len(pids(place)) == 2)
    one.send(oned_requests.driver_cancel(7))
    assert one.next_line().endswith("cancelled")
    one.drop()
    until(lambda: not running(place))


# Instances of cancelled deploys


@pytest.mark.parametrize("where", ["post", "cancel-of-undo"])
def test_instance_of_a_cancelled_deploy_script_is_cancelled(
    place: ScriptPlace, driver: StartDriver, where: str
) -> None:
    is_undo = where == "cancel-of-undo"
    place.network("net", post="exit 1" if is_undo else f"{NOTE_PID}; sleep 50")
    if is_undo:
        place.on_action("cancel", 7, f"if [ ! -e @PLACE@/pids ]; then {NOTE_PID}; sleep 50; fi; : >@PLACE@/done")
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(request(place, "DEPLOY", 7, "7.4", CASES["DEPLOY"], TM_COMMAND=""))
    until(lambda: pids(place))
    one.send(oned_requests.driver_cancel(7))
    assert one.ask(oned_requests.cleanup(7, host=HOST)) == "SUCCESS -"
    cancelled = [record.arguments for record in place.take() if record.script == "vmm/cloud/cancel"]
    assert cancelled[-1] == ("i-7", HOST, "7", HOST)
    assert not is_undo or place.note("done").exists()
    assert any(event.get("id") == "i-7" for event in place.events(NAME))
    assert not running(place)


def test_deploy_script_without_output_succeeds_with_a_warning(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("deploy", 7, "exit 0")
    outcome = Served(place, driver(f"-t 15 -r 0 {NAME}")).perform(deploy(place, 7))
    assert outcome.reply == "SUCCESS -"
    assert any(text.startswith("W ") and "no id" in text for text in outcome.log)


# The journal


def test_script_starts_only_after_its_request_is_journaled(place: ScriptPlace, driver: StartDriver) -> None:
    one = driver(f"-t 15 -r 0 -p {NAME}")
    assert one.ask(reboot(1)) == "SUCCESS -"
    place.on_action("deploy", 7, f"{NOTE_PID}; sleep 50")
    with locked(place, "IMMEDIATE"):
        one.send(deploy(place, 7))
        one.silence(0.4)
        assert not pids(place)
    until(lambda: pids(place))
    one.kill()
    assert driver(f"-t 15 -r 0 -p {NAME}").reply("DEPLOY", 7).startswith("FAILURE ")


def test_scripts_end_with_oned_while_the_journal_is_locked(place: ScriptPlace, driver: StartDriver) -> None:
    for vm_id in (1, 2, 3):
        place.on_action("reboot", vm_id, STUBBORN)
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(reboot(1) + reboot(2) + reboot(3))
    until(lambda: len(pids(place)) == 6)
    with locked(place, "EXCLUSIVE"):
        one.send(reboot(4))  # its record cannot be written
        assert one.is_quiet()
        one.drop()
        until(lambda: not running(place))


def test_poll_scripts_run_while_the_journal_is_locked(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("poll", 7, "echo STATE=a")
    one = driver(f"-t 15 -r 0 -p {NAME}")
    assert one.ask(reboot(1)) == "SUCCESS -"
    with locked(place, "IMMEDIATE"):
        assert one.ask(oned_requests.poll(7, "i-7")) == "SUCCESS STATE=a"


def test_next_process_ends_the_script_of_a_killed_driver_before_it_replies(
    place: ScriptPlace, driver: StartDriver
) -> None:
    place.on_action("deploy", 7, STUBBORN)
    first = driver(f"-t 15 -r 0 -p {NAME}")
    first.send(deploy(place, 7))
    until(lambda: len(pids(place)) == 2)
    first.kill()
    place.on_action("deploy", 7, "echo i-second; exit 0")
    again = driver(f"-t 15 -r 0 -p {NAME}")
    assert again.reply("DEPLOY", 7).startswith("FAILURE ")
    assert not running(place)
    assert again.ask(deploy(place, 7)) == "SUCCESS i-second"


@pytest.mark.parametrize(
    ("action", "script", "number"), [("UPDATESG", "update_sg", "101"), ("UPDATENIC", "update_nic", "7")]
)
def test_next_process_fails_an_interrupted_update_and_replies_its_security_group_or_network_id(
    place: ScriptPlace, driver: StartDriver, action: str, script: str, number: str
) -> None:
    place.network("net", **{script: STUBBORN})
    first = driver(f"-t 15 -r 0 -p {NAME}")
    first.send(request(place, action, 7, "7.4", CASES[action]))
    until(lambda: len(pids(place)) == 2)
    first.kill()
    assert driver(f"-t 15 -r 0 -p {NAME}").reply(action, 7).split()[:2] == ["FAILURE", number]


# Deployment files


@pytest.mark.parametrize("release", ["4.4", "5.10", "7.4"])
def test_deploy_without_its_deployment_file_runs_no_script(
    place: ScriptPlace, driver: StartDriver, release: Release
) -> None:
    place.network("net")
    place.transfer("store")
    line = request(place, "DEPLOY", 7, release, CASES["DEPLOY"])
    path = place.deployment_file(7)
    path.unlink()
    outcome = Served(place, driver(f"-t 15 -r 0 {NAME}")).perform(line)
    assert re.match(f"FAILURE .*{re.escape(str(path))}", outcome.reply)
    assert not outcome.seen


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_endless_deployment_files_fail_and_do_not_delay_other_vms(
    place: ScriptPlace, driver: StartDriver, kind: str
) -> None:
    one = driver(f"-t 60 -r 0 -p {NAME}")
    for vm_id in range(10, 50):
        line = deploy(place, vm_id)
        path = place.deployment_file(vm_id)
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        one.send(line)
    assert one.ask(deploy(place, 7)) == "SUCCESS i-7"
    for vm_id in range(10, 50):
        found = next((line for line in one.lines if line.startswith(f"DEPLOY FAILURE {vm_id} ")), "")
        assert str(vm_id) in (found or one.reply("DEPLOY", vm_id))


# Large requests and few descriptors


def test_large_request_of_5_10_does_not_delay_other_vms(place: ScriptPlace, driver: StartDriver) -> None:
    place.plain_script(f"vmm/{NAME}/reset", "#!/bin/sh\nwc -c\n")
    template = Template(values={"CPU": ("1",), "NOTES": ("x" * 4_000_000,)})
    line = oned_requests.line("RESET", 7, release="5.10", deploy_id="i-7", template=template)
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(line)
    assert one.ask(reboot(8)) == "SUCCESS -"
    size = len(b64encode(oned_requests.document(line)))
    assert one.reply("RESET", 7) == f"SUCCESS {size + (size + 59) // 60}"


def test_scripts_wait_for_each_other_if_descriptors_are_scarce(place: ScriptPlace, driver: StartDriver) -> None:
    for vm_id in range(40):
        place.on_action("reboot", vm_id, "sleep 0.1")
    one: Driver = driver(f"-t 40 -r 0 -p {NAME}", via=("/bin/sh", "-c", 'ulimit -n 64; exec "$@"', "sh"))
    one.send(b"".join(map(reboot, range(40))))
    answers = [one.wait_for(lambda line: line.startswith("REBOOT ")) for _ in range(40)]
    assert {line.split(" ", 1)[1] for line in answers} == {f"SUCCESS {vm_id} -" for vm_id in range(40)}


def test_long_arguments_are_shortened_in_the_log(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("snapshot_delete", 7, "exit 1")
    line = oned_requests.line("SNAPSHOTDELETE", 7, deploy_id="i-7", operand={"HYPERVISOR_ID": "s" * 5000})
    outcome = Served(place, driver(f"-t 15 -r 0 {NAME}")).perform(line)
    assert "s" * 50 in outcome.log[0]
    assert "s" * 200 not in "".join(outcome.log)
    assert "s" * 200 not in place.log(NAME)
