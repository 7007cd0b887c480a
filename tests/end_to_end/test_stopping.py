"""The end of the driver by FINALIZE, end of input and signals, and the next process with its unanswered requests."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import Console
from tests.end_to_end.oned import PROGRAM, ROOT, Driver, Place, replies
from tests.waiting import HANG, until

# tests/test_daemon.py proves in virtual time that a driver ends within the second that oned leaves it (OpenNebula
# include/Driver.h, stop_driver). Here calls and boots take an hour, and the driver ends all the same.


def created(driver: Driver, count: int) -> list[str]:
    """Deploy the VMs from 0 on, and return their deploy ids."""
    return [driver.created(oned_requests.deploy(vm_id)) for vm_id in range(count)]


# oned closes the pipes


def close_pipes(driver: Driver) -> int:
    """Close both pipes without FINALIZE."""
    driver.stop_reading()
    assert driver.process.stdin is not None
    assert driver.process.stdout is not None
    driver.process.stdin.close()
    driver.process.stdout.close()
    return driver.process.wait(HANG)


POLLS = [oned_requests.poll(1000, "sim-x")] * 50


@pytest.mark.parametrize("end", [Driver.drop, close_pipes], ids=["finalize", "end-of-input"])
@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        pytest.param({}, [], id="idle"),
        pytest.param(
            {"latency": 3600}, [*[oned_requests.reboot(n, "sim-x") for n in range(50)], *POLLS], id="long-queue"
        ),
    ],
)
def test_driver_ends_before_oned_kills_it_when_both_pipes_close(
    driver: StartDriver, place: Place, settings: dict[str, float], lines: Sequence[bytes], end: Callable[[Driver], int]
) -> None:
    place.simulate(**settings)
    one = driver()
    assert one.ask(oned_requests.unknown(1))
    one.write(b"".join(lines))
    until(lambda: len(place.unanswered()) == sum(not line.startswith(b"POLL") for line in lines))
    assert end(one) == 0


def test_driver_with_a_full_stdout_ends_before_oned_kills_it(stalled: Driver) -> None:
    stalled.write(b"".join(oned_requests.unknown(n) for n in range(500)) + oned_requests.deploy(7))
    until(stalled.place.instances)
    assert stalled.drop() == 0


def test_driver_ends_right_after_init(driver: StartDriver) -> None:
    one = driver()
    assert one.drop() == 0


def test_driver_ends_before_init(driver: StartDriver) -> None:
    one = driver(init=False)
    assert one.drop() == 0
    assert bytes(one.raw) == b""


# A person's pipe ends


@pytest.mark.parametrize("has_finalize", [True, False], ids=["finalize", "end-of-input"])
def test_open_requests_are_answered_before_the_end_while_stdout_is_read(
    driver: StartDriver, place: Place, *, has_finalize: bool
) -> None:
    place.simulate(boot_time=0, latency=0.02)
    one = driver("-t 3 simulated")
    ids = created(one, 4)
    one.write(
        b"".join(oned_requests.reboot(n % 4, ids[n % 4]) + oned_requests.poll(n % 4, ids[n % 4]) for n in range(12))
    )
    assert one.process.stdin is not None
    if has_finalize:
        one.write(b"FINALIZE\n" + oned_requests.terminate(0, ids[0]))
    else:
        one.process.stdin.close()
    found = replies(one.rest())
    assert sorted(" ".join(line.split(" ")[:3]) for line in found) == sorted(
        f"{action} SUCCESS {n}" for action in ("REBOOT", "POLL") for n in range(4) for _ in range(3)
    )
    assert one.process.wait(HANG) == 0
    assert len(place.instances()) == 4, "requests after FINALIZE are ignored"


@pytest.mark.parametrize(
    "ending", [b"", b"FINALIZE\n", b"FINALIZE"], ids=["none", "finalize", "finalize-without-line-feed"]
)
def test_driver_reads_requests_from_a_file_and_writes_replies_to_another(
    driver: StartDriver, place: Place, tmp_path: Path, ending: bytes
) -> None:
    lines = b"INIT\n" + b"".join(oned_requests.deploy(n) for n in range(5)) + oned_requests.unknown(6) + ending
    (tmp_path / "in").write_bytes(lines if ending else lines.removesuffix(b"\n"))
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        one = driver(init=False, stdin=source.fileno(), stdout=target.fileno())
        assert one.process.wait(HANG) == 0
    first, *found = (tmp_path / "out").read_text().splitlines()
    assert first == "INIT SUCCESS"
    assert sorted(line.split(" sim-")[0] for line in found) == [
        *(f"DEPLOY SUCCESS {n}" for n in range(5)),
        "FROBNICATE FAILURE 6 Action FROBNICATE not supported",
    ]


def test_pipeline_of_encode_driver_and_decode_works_in_a_shell(place: Place) -> None:
    bin_, program = shlex.quote(str(ROOT / "bin")), shlex.quote(str(PROGRAM))
    command = (
        f"{bin_}/one-provider encode DEPLOY --vm-id 7 | {program} '-t 15 -r 0 simulated' | {bin_}/one-provider decode"
    )
    environ = {"PATH": os.environ["PATH"], "ONE_LOCATION": str(place.root)}
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stderr) == (0, "")
    [entry] = place.instances()
    assert entry["deploy_id"] in done.stdout


def test_driver_works_with_stdout_on_dev_null(driver: StartDriver, place: Place) -> None:
    with Path(os.devnull).open("wb") as nowhere:
        one = driver(init=False, stdout=nowhere.fileno())
        one.write(b"INIT\n" + oned_requests.deploy(7))
        assert one.finalize() == 0
    assert len(place.instances()) == 1


# Signals


def test_after_sigterm_no_action_is_started_and_finalize_ends_the_driver(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0, stop_time=3600)
    one = driver("-t 1 simulated")
    ids = created(one, 3)
    one.write(oned_requests.power_off(0, ids[0]) + oned_requests.power_off(1, ids[1]))
    until(lambda: "stopping" in states(place) and len(place.unanswered()) == 2)
    one.process.send_signal(signal.SIGTERM)
    one.send(oned_requests.power_off(2, ids[2]))
    until(lambda: len(place.unanswered()) == 3)
    Console(place).complete()
    assert one.next_line() == "SHUTDOWN SUCCESS 0 -", "a running action is completed"
    assert one.finalize() == 0
    assert replies(one.rest()) == []
    assert states(place) == ["stopped", "running", "running"]


def states(place: Place) -> list[str]:
    """The state of each VM's instance, by the number of the VM."""
    return [entry["state"] for entry in sorted(place.instances(), key=lambda entry: entry["vm_id"])]


def test_sigterm_alone_ends_the_driver_after_five_seconds(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=3600)
    one = driver()
    one.send(oned_requests.deploy(7))
    until(place.instances)
    begun = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(HANG) == 0
    assert time.monotonic() - begun > 4.9
    assert replies(one.rest()) == []


def test_sigterm_ends_a_driver_that_finishes_open_requests(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=3600)
    one = driver()
    one.send(oned_requests.deploy(7))
    until(place.instances)
    assert one.process.stdin is not None
    one.process.stdin.close()
    one.silence(0.2)
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(HANG) == 0


def test_sigint_ends_the_driver_without_a_traceback(place: Place) -> None:
    place.simulate(boot_time=3600)
    environ = {"PATH": os.environ["PATH"], "ONE_LOCATION": str(place.root)}
    pipe = subprocess.PIPE
    # Tests that run in the background ignore SIGINT, and their child processes inherit that.
    command = ["env", "--default-signal=INT", str(PROGRAM), "simulated"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environ) as one:
        assert one.stdin is not None
        one.stdin.write(b"INIT\n" + oned_requests.deploy(7))
        one.stdin.flush()
        until(place.instances)
        one.send_signal(signal.SIGINT)
        assert one.wait(HANG) == 128 + signal.SIGINT
        assert one.communicate() == (b"INIT SUCCESS\n", b"")


def test_killed_driver_leaves_whole_lines_in_a_full_pipe(stalled: Driver) -> None:
    stalled.write(b"".join(oned_requests.unknown(n) for n in range(500)) + oned_requests.deploy(7))
    until(stalled.place.instances)
    stalled.kill()
    stalled.begin_reading()
    assert 1 < len(stalled.rest()) < 500, "the pipe was full"
    assert bytes(stalled.raw).endswith(b"Action FROBNICATE not supported\n")


# The next process


def kill_during_boot(driver: StartDriver, place: Place, *vm_ids: int) -> None:
    """Start a driver, and kill it while it waits for these VMs' instances to boot."""
    one = driver()
    one.write(b"".join(oned_requests.deploy(vm_id) for vm_id in vm_ids))
    until(lambda: place.has_attempts(len(vm_ids)) and len(place.instances()) == len(vm_ids))
    one.kill()


def only_instance(place: Place) -> str:
    """The deploy id of the only instance ever created."""
    [entry] = place.instances(is_all=True)
    return str(entry["deploy_id"])


def test_next_process_answers_a_deploy_killed_while_its_instance_booted(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=3600)
    kill_during_boot(driver, place, 7)
    two = driver()
    until(lambda: "request taken over" in place.log())
    two.silence(0.2)
    assert bytes(two.raw) == b"INIT SUCCESS\n"
    Console(place).complete()
    assert two.next_line() == f"DEPLOY SUCCESS 7 {only_instance(place)}"
    assert two.is_quiet()
    assert place.unanswered() == []


def test_next_process_answers_a_deploy_killed_during_its_create_with_one_instance(
    driver: StartDriver, place: Place
) -> None:
    place.simulate('late_answers = { calls = ["create"], seconds = 3600 }')
    one = driver()
    one.send(oned_requests.deploy(7))
    until(place.instances)
    one.kill()
    place.simulate()
    two = driver()
    assert two.next_line().startswith("DEPLOY SUCCESS 7 sim-")
    assert two.lines[-1].endswith(only_instance(place))


def test_next_process_completes_requests_that_were_open_at_finalize(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    deploy_id = one.created(oned_requests.deploy(1))
    place.simulate(boot_time=3600, stop_time=3600)
    one.write(oned_requests.power_off(1, deploy_id) + oned_requests.deploy(2))
    until(lambda: len(place.instances()) == 2 and len(place.unanswered()) == 2)
    assert one.drop() == 0
    assert place.unanswered() == ["SHUTDOWN", "DEPLOY"]
    Console(place).complete()
    two = driver()
    found = {two.next_line() for _ in range(2)}
    [second] = [entry["deploy_id"] for entry in place.instances() if entry["vm_id"] == 2]
    assert found == {"SHUTDOWN SUCCESS 1 -", f"DEPLOY SUCCESS 2 {second}"}
    assert {entry["vm_id"]: entry["state"] for entry in place.instances()} == {1: "stopped", 2: "running"}


def test_next_process_completes_a_request_that_came_right_before_finalize(driver: StartDriver, place: Place) -> None:
    one = driver()
    assert one.is_quiet()
    one.send(oned_requests.deploy(7))
    assert one.drop() == 0
    two = driver()
    assert two.next_line() == f"DEPLOY SUCCESS 7 {only_instance(place)}"
    assert two.is_quiet()


def test_third_process_completes_a_request_after_the_second_was_killed_too(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=3600)
    kill_during_boot(driver, place, 7)
    two = driver()
    until(lambda: "request taken over" in place.log())
    two.kill()
    Console(place).complete()
    three = driver()
    assert three.next_line() == f"DEPLOY SUCCESS 7 {only_instance(place)}"
    assert three.is_quiet()


def test_new_process_waits_until_the_old_one_has_ended(driver: StartDriver, place: Place) -> None:
    """Up to 5.12 a reload starts the new process beside the old one (OpenNebula src/mad/Mad.cc, reload)."""
    place.simulate(boot_time=3600)
    one = driver()
    one.send(oned_requests.deploy(7))
    until(lambda: place.has_attempts() and place.instances())
    two = driver()
    assert two.is_quiet(), "it leaves the request to the old process"
    assert "request taken over" not in place.log()
    assert one.drop() == 0
    Console(place).complete()
    assert two.next_line() == f"DEPLOY SUCCESS 7 {only_instance(place)}"
    assert two.is_quiet()


def test_answered_requests_are_not_repeated_by_the_next_process(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    deploy_id = one.created(oned_requests.deploy(7))
    assert one.ask(oned_requests.power_off(7, deploy_id)) == "SUCCESS -"
    place.simulate(boot_time=3600)
    one.send(oned_requests.deploy(8))
    until(lambda: len(place.instances()) == 2)
    assert one.drop() == 0
    Console(place).complete()
    two = driver()
    assert two.next_line().startswith("DEPLOY SUCCESS 8 sim-"), "by then the recovery is over"
    assert place.log().count("request taken over") == 1


def is_started(_place: Place) -> bool:
    """True at once, since INIT is answered."""
    return True


def is_taken_over(place: Place) -> bool:
    """True once the new process has taken over the requests of the old one."""
    return place.log().count("request taken over") == 3


@pytest.mark.parametrize(
    "has_reached", [pytest.param(is_started, id="at-once"), pytest.param(is_taken_over, id="during-recovery")]
)
def test_newer_requests_are_answered_instead_of_recovered_ones(
    driver: StartDriver, place: Place, has_reached: Callable[[Place], bool]
) -> None:
    place.simulate(boot_time=3600, destroy_time=0)
    kill_during_boot(driver, place, 1, 2, 3)
    two = driver()
    until(lambda: has_reached(place))
    two.write(
        oned_requests.deploy(1)
        + oned_requests.driver_cancel(2)
        + oned_requests.cleanup(2)
        + oned_requests.terminate(3, "")
    )
    found = [two.wait_for(lambda text: not text.startswith("LOG ")) for _ in range(2)]
    Console(place).complete()
    found.append(two.wait_for(lambda text: not text.startswith("LOG ")))
    until(lambda: place.unanswered() == [])
    assert two.finalize() == 0
    found += replies(two.rest())
    assert sorted(" ".join(line.split(" ")[:3]) for line in found) == [
        "CLEANUP SUCCESS 2",
        "DEPLOY SUCCESS 1",
        "SHUTDOWN SUCCESS 3",
    ]
    assert {entry["vm_id"]: entry["state"] for entry in place.instances(is_all=True)} == {
        1: "running",
        2: "terminated",
        3: "terminated",
    }


SENTENCE = (
    "the driver ended before it was done: look at the instance, then ask again, a deploy with onevm recover --retry"
)


def test_unrepeatable_requests_fail_three_seconds_after_init(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    ids = created(one, 4)
    place.simulate(boot_time=0, latency=3600)
    disk = {"DISK_ID": "1", "SIZE": "1"}
    one.write(oned_requests.reboot(0, ids[0], release="5.10") + oned_requests.reboot(1, ids[1], release="7.4"))
    one.write(
        oned_requests.line("ATTACHDISK", 2, deploy_id=ids[2], operand=disk)
        + oned_requests.reboot(3, ids[3], release="5.10")
    )
    until(lambda: len(place.unanswered()) == 4)
    one.kill()
    place.simulate(boot_time=0)
    two = driver()
    assert two.ask(oned_requests.reboot(3, ids[3], release="5.10")) == "SUCCESS -"
    found = [two.next_line() for _ in range(4)]
    assert time.monotonic() - two.started > 3
    assert sorted(found) == [
        f"ATTACHDISK FAILURE 2 {SENTENCE}",
        f"LOG E 1 REBOOT: {SENTENCE}",
        f"REBOOT FAILURE 0 {SENTENCE}",
        f"REBOOT FAILURE 1 {SENTENCE}",
    ], "VM 3 got the reply to its newer request only"
    assert found.index(f"LOG E 1 REBOOT: {SENTENCE}") < found.index(f"REBOOT FAILURE 1 {SENTENCE}")
    assert two.is_quiet()


def test_request_of_a_dead_oned_fails_with_a_remedy_and_its_vm_can_be_deleted(
    driver: StartDriver, place: Place
) -> None:
    """A shell as parent process stands for a restarted oned, which did not send the deploy."""
    place.simulate(boot_time=3600)
    kill_during_boot(driver, place, 7)
    place.simulate(boot_time=0)
    two = driver(via=["sh", "-c", '"$@"; exit $?', "sh"])
    assert two.next_line() == f"DEPLOY FAILURE 7 {SENTENCE}"
    assert time.monotonic() - two.started > 3
    assert [entry["state"] for entry in place.instances()] == ["pending"], "the instance was not changed"
    assert two.ask(oned_requests.cleanup(7)) == "SUCCESS -"
    assert place.instances() == []


def test_driver_started_by_hand_does_not_disturb_oneds_driver_of_the_same_name(
    driver: StartDriver, place: Place
) -> None:
    """A person may try out a NAME by hand while oned has a driver for it."""
    place.simulate(boot_time=3600)
    one = driver()
    one.send(oned_requests.deploy(7))
    until(lambda: place.has_attempts() and place.instances())
    command = [sys.executable, str(PROGRAM), "simulated"]
    environ = {"PATH": os.environ["PATH"], "ONE_LOCATION": str(place.root)}
    done = subprocess.run(command, input=oned_requests.unknown(1), env=environ, capture_output=True, timeout=HANG)
    assert (done.stdout, done.stderr) == (b"FROBNICATE FAILURE 1 Action FROBNICATE not supported\n", b"")
    assert place.unanswered() == ["DEPLOY"]
    Console(place).complete()
    assert one.next_line() == f"DEPLOY SUCCESS 7 {only_instance(place)}"
    assert one.is_quiet()
