"""Scripts as processes: their number, order, time limit and end."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from one_provider_mad.domain import Template
from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Driver
from tests.end_to_end.script_cases import CASES, request
from tests.end_to_end.script_folder import HOST, NAME, ScriptPlace, Served, altered
from tests.waiting import until

NOTE_PID = "echo $$ >>@PLACE@/pids"
"""Note the pid."""

FOR_LONG = "sleep 50"
"""Longer than any test; a process that still sleeps at its end was left behind."""


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


def is_running(pid: int) -> bool:
    """True for a running process that is not a zombie."""
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return False


def running(place: ScriptPlace) -> list[int]:
    return [pid for pid in pids(place) if is_running(pid)]


def reboot(vm_id: int) -> bytes:
    return oned_requests.reboot(vm_id, f"i-{vm_id}", host=HOST)


def have_started(place: ScriptPlace, count: int) -> Callable[[], bool]:
    return lambda: len(pids(place)) >= count


SLEEPS = f"{NOTE_PID}; sleep 50 & echo $! >>@PLACE@/pids; wait"
"""A script that keeps running, with a child."""


# Number and order


def test_scripts_of_different_vms_run_side_by_side_on_one_host(place: ScriptPlace, driver: StartDriver) -> None:
    waits = "while [ ! -e @PLACE@/from.{0} ]; do :; sleep 0.02; done"
    place.on_action("reboot", 1, ": >@PLACE@/from.1; " + waits.format(2))
    place.on_action("reboot", 2, ": >@PLACE@/from.2; " + waits.format(1))
    one = driver(f"-t 15 -r 0 {NAME}")  # without -p
    one.send(reboot(1) + reboot(2))
    assert {one.wait_for(lambda line: line.startswith("REBOOT ")) for _ in range(2)} == {
        "REBOOT SUCCESS 1 -",
        "REBOOT SUCCESS 2 -",
    }


def test_t_option_limits_how_many_scripts_run_at_once(place: ScriptPlace, driver: StartDriver) -> None:
    for vm_id in (1, 2, 3):
        place.on_action("reboot", vm_id, f"{NOTE_PID}; while [ ! -e @PLACE@/go.{vm_id} ]; do sleep 0.02; done")
    one = driver(f"-t 2 -r 0 -p {NAME}")
    one.send(reboot(1) + reboot(2) + reboot(3))
    until(have_started(place, 2))
    assert one.is_quiet()
    assert len(pids(place)) == 2
    place.note("go.2").touch()
    assert one.reply("REBOOT", 2) == "SUCCESS -"
    until(have_started(place, 3))
    for vm_id in (1, 3):
        place.note(f"go.{vm_id}").touch()
    assert {one.wait_for(lambda line: line.startswith("REBOOT ")) for _ in range(2)} == {
        "REBOOT SUCCESS 1 -",
        "REBOOT SUCCESS 3 -",
    }


def test_scripts_of_one_vm_run_one_after_the_other(place: ScriptPlace, driver: StartDriver) -> None:
    for script in ("reboot", "reset", "shutdown"):
        place.on_action(
            script, 1, f"echo {script} begins >>@PLACE@/events; sleep 0.05; echo {script} ends >>@PLACE@/events"
        )
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(reboot(1) + oned_requests.line("RESET", 1, deploy_id="i-1") + oned_requests.terminate(1, "i-1"))
    assert one.reply("SHUTDOWN", 1) == "SUCCESS -"
    events = [f"{script} {word}" for script in ("reboot", "reset", "shutdown") for word in ("begins", "ends")]
    assert place.note("events").read_text().splitlines() == events


def test_each_poll_runs_its_script(place: ScriptPlace, driver: StartDriver) -> None:
    for vm_id in range(1, 6):
        place.on_action("poll", vm_id, f"echo STATE=a CPU={vm_id}.5 'NAME=\"a b\"'")
    one = driver(f"-t 3 -r 0 -p {NAME}")
    one.write(b"".join(oned_requests.poll(vm_id, f"i-{vm_id}") for vm_id in range(1, 6)))
    answers = {one.wait_for(lambda line: line.startswith("POLL ")) for _ in range(5)}
    assert answers == {f'POLL SUCCESS {vm_id} STATE=a CPU={vm_id}.5 NAME="a b"' for vm_id in range(1, 6)}
    assert len(place.take()) == 5


# Time


def test_script_that_exceeds_w_is_ended_with_its_child_processes(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("reboot", 1, f"trap 'echo ended >@PLACE@/terminated; exit 0' TERM; {SLEEPS}")
    place.on_action("reboot", 2, f"trap '' TERM; {SLEEPS}")
    place.on_action("reboot", 3, f"echo output; echo INFO: half way >&2; {SLEEPS}")
    one = driver(f"-t 15 -r 0 -w 1 -p {NAME}")
    one.send(reboot(1) + reboot(2) + reboot(3) + reboot(4))
    assert one.reply("REBOOT", 4) == "SUCCESS -"
    for _ in range(3):
        line = one.wait_for(lambda line: line.startswith("REBOOT "))
        vm_id = line.split()[2]
        command = f"{place.remotes}/vmm/{NAME}/reboot i-{vm_id} {HOST} {vm_id} {HOST}"
        assert line == f"REBOOT FAILURE {vm_id} Timeout executing {command}"
    assert place.note("terminated").read_text() == "ended\n"
    until(lambda: not running(place))
    assert len(pids(place)) == 6
    assert one.ask(reboot(4)) == "SUCCESS -"


def test_network_script_that_exceeds_w_is_ended_and_the_deploy_undone(place: ScriptPlace, driver: StartDriver) -> None:
    place.network("net", post=FOR_LONG)
    place.transfer("store")
    served = Served(place, driver(f"-t 15 -r 0 -w 1 -p {NAME}"))
    outcome = served.perform(request(place, "DEPLOY", 7, "7.4", CASES["DEPLOY"]))
    assert re.match(f"FAILURE .*Timeout executing {place.remotes}/vnm/net/post", outcome.reply)
    assert [record.script for record in outcome.seen[-2:]] == ["vmm/cloud/cancel", "vnm/net/clean"]


def test_reply_does_not_wait_for_background_processes_of_a_script(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("reboot", 1, "sleep 50 & echo $! >>@PLACE@/pids; echo done")
    assert driver(f"-t 15 -r 0 {NAME}").ask(reboot(1)) == "SUCCESS done"
    assert is_running(pids(place)[0]), "the background process still runs"


def test_timeout_does_not_wait_for_a_child_in_another_session(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("reboot", 1, f"setsid {FOR_LONG} & echo $! >>@PLACE@/pids; {FOR_LONG}")
    reply = driver(f"-t 15 -r 0 -w 1 {NAME}").ask(reboot(1))
    assert reply.startswith("FAILURE Timeout executing ")


def test_reply_waits_for_a_script_that_closes_its_output_early(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("reboot", 1, "echo early; exec >&- 2>&-; sleep 0.3; : >@PLACE@/late; exit 0")
    assert driver(f"-t 15 -r 0 {NAME}").ask(reboot(1)) == "SUCCESS early"
    assert place.note("late").exists()


@pytest.mark.parametrize("options", ["-w 0 -p", "-w -p", "-p"])
def test_script_without_a_time_limit_is_not_ended(place: ScriptPlace, driver: StartDriver, options: str) -> None:
    place.on_action("reboot", 1, "sleep 0.1; echo done")
    assert driver(f"-t 15 -r 0 {options} {NAME}").ask(reboot(1)) == "SUCCESS done"


# Large output and requests


def test_megabytes_of_script_output_do_not_delay_others_and_are_shortened(
    place: ScriptPlace, driver: StartDriver
) -> None:
    much = "head -c 3000000 /dev/zero | tr '\\000' 'x' | fold -w 1000"
    place.on_action("reboot", 1, f"{much}; echo; {much} >&2; exit 0")
    place.on_action("reboot", 2, f"{much} >&2; {much}; echo no such image >&2; exit 1")
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(reboot(1) + reboot(2) + reboot(3))
    answers = {line.split(" ", 3)[2]: line for line in (one.wait_for(is_reply) for _ in range(3))}
    assert answers["1"].startswith("REBOOT SUCCESS 1 xxx")
    assert answers["2"].startswith("REBOOT FAILURE 2 ")
    assert len(answers["1"]) < 2_000_000
    others = [line for line in one.lines if line != answers["1"]]
    assert max(map(len, others)) < 8_000, "log lines and failures, which OpenNebula stores, are short"
    assert len(others) < 500


def is_reply(line: str) -> bool:
    return line.startswith("REBOOT ")


def test_large_payload_reaches_its_script_or_is_dropped_if_the_script_does_not_read_it(
    place: ScriptPlace, driver: StartDriver
) -> None:
    place.plain_script(f"vmm/{NAME}/reset", "#!/bin/sh\nexit 0\n")
    place.plain_script(f"vmm/{NAME}/resize", "#!/bin/sh\nexec <&-\nexit 0\n")
    template = Template(values={"CPU": ("1",), "NOTES": ("x" * 1_000_000,)})
    served = Served(place, driver(f"-t 15 -r 0 -p {NAME}"))
    line = oned_requests.reboot(1, "i-1", template=template)
    (record,) = served.perform(line).seen
    assert record.content() == oned_requests.document(line)
    for action in ("RESET", "RESIZE"):
        assert served.perform(oned_requests.line(action, 1, deploy_id="i-1", template=template)).reply == "SUCCESS -"


def test_payload_too_large_for_an_argument_fails_and_names_the_script(place: ScriptPlace, driver: StartDriver) -> None:
    place.transfer("store")
    served = Served(place, driver(f"-t 15 -r 0 -p {NAME}"))
    line = altered(request(place, "ATTACHDISK", 1, "7.4", CASES["ATTACHDISK"]), MONITORING="x" * 200_000)
    assert re.match("FAILURE .*attach_disk", served.perform(line).reply)


# DRIVER_CANCEL


def test_driver_cancel_ends_the_script_and_its_action_is_not_answered(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("reboot", 7, SLEEPS)
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(reboot(7))
    until(have_started(place, 2))
    one.send(oned_requests.driver_cancel(7))
    assert one.next_line() == "LOG I 7 Driver command for 7 cancelled"
    until(lambda: not running(place))
    assert one.ask(oned_requests.line("RESET", 7, deploy_id="i-7")) == "SUCCESS -"
    assert [line for line in one.lines if line.startswith("REBOOT")] == []


def test_no_further_step_of_an_action_runs_after_its_running_step_is_cancelled(
    place: ScriptPlace, driver: StartDriver
) -> None:
    place.network("net")
    place.transfer("store")
    place.on_action("deploy", 7, SLEEPS)
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(request(place, "DEPLOY", 7, "7.4", CASES["DEPLOY"]))
    until(have_started(place, 2))
    one.send(oned_requests.driver_cancel(7))
    assert one.ask(altered(oned_requests.cleanup(7), TM_COMMAND="DELETE store a 7 0")) == "SUCCESS -"
    ran = [record.script for record in place.take()]
    assert ran == ["tm/store/context", "vnm/net/pre", "vmm/cloud/deploy", "tm/store/delete"]
    assert [line for line in one.lines if line.startswith("DEPLOY")] == []
    assert not running(place)


def test_cancelled_action_that_waits_for_its_turn_never_runs(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("reboot", 1, f"{NOTE_PID}; while [ ! -e @PLACE@/go ]; do sleep 0.02; done")
    one = driver(f"-t 1 -r 0 -p {NAME}")
    one.send(reboot(1) + reboot(2))
    until(have_started(place, 1))
    one.send(oned_requests.driver_cancel(2))
    assert one.next_line() == "LOG I 2 Driver command for 2 cancelled"
    place.note("go").touch()
    assert one.reply("REBOOT", 1) == "SUCCESS -"
    assert one.ask(reboot(3)) == "SUCCESS -"
    assert [record.arguments[0] for record in place.take()] == ["i-1", "i-3"]


def test_actions_cancelled_while_they_start_leave_no_process(place: ScriptPlace, driver: StartDriver) -> None:
    vms = range(1, 41)
    for vm_id in vms:
        place.on_action("reboot", vm_id, f"{FOR_LONG} & wait")
    one = driver(f"-t 8 -r 0 -p {NAME}")
    for vm_id in vms:
        one.send(reboot(vm_id) + (oned_requests.driver_cancel(vm_id) if vm_id % 2 else b""))
    for vm_id in vms[1::2]:
        one.send(oned_requests.driver_cancel(vm_id))
    cancelled = {one.wait_for(lambda line: line.endswith(" cancelled")).split()[2] for _ in vms}
    assert cancelled == {str(vm_id) for vm_id in vms}
    assert one.ask(reboot(99)) == "SUCCESS -"  # all turns are free again
    until(lambda: not below(place))
    assert [line for line in one.lines if line.startswith("REBOOT")] == ["REBOOT SUCCESS 99 -"]


def below(place: ScriptPlace) -> list[str]:
    """The command lines of all running processes that name this place's scripts."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_text(errors="replace")
            if str(place.remotes) in command:
                found.append(command)
    return found


def test_child_in_another_session_ends_with_a_cancelled_script(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("reboot", 7, f"{NOTE_PID}; setsid sh -c 'echo $$ >>@PLACE@/pids; {FOR_LONG}' & wait")
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(reboot(7))
    until(have_started(place, 2))
    one.send(oned_requests.driver_cancel(7))
    assert one.next_line() == "LOG I 7 Driver command for 7 cancelled"
    until(lambda: not running(place))


def test_daemon_started_by_a_successful_script_keeps_running(place: ScriptPlace, driver: StartDriver) -> None:
    daemon = f"(setsid sh -c 'echo $$ >>@PLACE@/pids; exec {FOR_LONG}' >/dev/null 2>&1 &)"
    place.on_action("reboot", 1, f"{daemon}; while [ ! -s @PLACE@/pids ]; do sleep 0.02; done; echo done")
    one = driver(f"-t 15 -r 0 -w 5 {NAME}")
    assert one.ask(reboot(1)) == "SUCCESS done"
    one.drop()
    assert len(running(place)) == 1, "upstream leaves it running too"


# The driver's own end


@pytest.fixture
def busy(place: ScriptPlace, driver: StartDriver) -> Driver:
    """A driver that runs a script with a child."""
    place.on_action("reboot", 7, f"trap '' TERM; {SLEEPS}")
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(reboot(7))
    until(have_started(place, 2))
    return one


def test_running_script_ends_with_oned(place: ScriptPlace, busy: Driver) -> None:
    busy.drop()
    until(lambda: not running(place))


def test_running_script_ends_after_sigterm_and_the_end_of_oned(place: ScriptPlace, busy: Driver) -> None:
    busy.process.send_signal(signal.SIGTERM)
    busy.drop()
    until(lambda: not running(place))


def test_script_of_a_request_from_a_pipe_runs_to_its_end(place: ScriptPlace, driver: StartDriver) -> None:
    place.on_action("reboot", 7, "sleep 0.2; echo done")
    one = driver(f"-t 15 -r 0 -p {NAME}")
    one.send(reboot(7))
    assert one.finalize() == 0
    assert one.rest()[-1] == "REBOOT SUCCESS 7 done"


def test_action_interrupted_by_a_crash_fails_and_its_script_is_not_run_again(
    place: ScriptPlace, busy: Driver, driver: StartDriver
) -> None:
    busy.kill()
    place.take()
    again = driver(f"-t 15 -r 0 -p {NAME}")
    assert again.reply("REBOOT", 7).startswith("FAILURE ")
    assert not place.take()
