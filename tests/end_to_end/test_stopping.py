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

from tests.conftest import StartDriver, assert_spoke_properly
from tests.end_to_end import wire
from tests.end_to_end.oned import PROGRAM, ROOT, Driver, Place, replies
from tests.waiting import HANG, until

KILLED_AFTER = 1.0
"""Seconds that 6.0 and later leave a driver between FINALIZE and SIGKILL (OpenNebula include/Driver.h, stop_driver)."""

TERMINATED_AFTER = 4.5
"""Seconds after SIGTERM alone in which the driver certainly still waits for its actions: it waits five."""


def created(driver: Driver, count: int) -> list[str]:
    """Deploy the VMs from 0 on, and return their deploy ids."""
    return [driver.created(wire.deploy(vm_id)) for vm_id in range(count)]


# oned closes the pipes


def close_pipes(driver: Driver) -> int:
    """Close both pipes without FINALIZE."""
    driver.stop_reading()
    assert driver.process.stdin is not None
    assert driver.process.stdout is not None
    driver.process.stdin.close()
    driver.process.stdout.close()
    return driver.process.wait(HANG)


def assert_ends_in_time(root: Path, prepare: Callable[[Place], Driver], end: Callable[[Driver], int]) -> None:
    """Assert that a prepared driver ends before oned kills it; the best of three counts, since load delays some."""
    times = []
    for number in range(3):
        one = prepare(Place(root / str(number)))
        begun = time.monotonic()
        assert end(one) == 0
        times.append(time.monotonic() - begun)
        assert_spoke_properly(one)
        if times[-1] < KILLED_AFTER:
            return
    raise AssertionError(f"a driver took {times} s to end")


POLLS = [wire.poll(1000, "sim-x")] * 50


@pytest.mark.parametrize("end", [Driver.drop, close_pipes], ids=["finalize", "end-of-input"])
@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        pytest.param({}, [], id="idle"),
        pytest.param({"boot_time": 60}, [wire.deploy(7), wire.deploy(8)], id="booting"),
        pytest.param({"latency": 60}, [*[wire.reboot(n, "sim-x") for n in range(50)], *POLLS], id="long-queue"),
    ],
)
def test_driver_ends_before_oned_kills_it_when_both_pipes_close(
    tmp_path: Path, settings: dict[str, float], lines: Sequence[bytes], end: Callable[[Driver], int]
) -> None:
    def prepare(place: Place) -> Driver:
        place.simulate(**settings)
        one = Driver(place)
        assert one.ask(wire.unknown(1))
        one.write(b"".join(lines))
        until(lambda: len(place.unanswered()) == sum(not line.startswith(b"POLL") for line in lines))
        return one

    assert_ends_in_time(tmp_path, prepare, end)


def test_driver_with_a_full_stdout_ends_before_oned_kills_it(tmp_path: Path) -> None:
    def prepare(place: Place) -> Driver:
        place.simulate(boot_time=0)
        one = Driver(place, reading=False, init=False)
        one.write(b"INIT\n" + wire.deploy(7))
        until(place.instances)  # the driver has set the size of its pipe
        one.write(b"".join(wire.unknown(n) for n in range(20_000)) + wire.deploy(8))
        until(lambda: len(place.instances()) == 2)
        return one

    assert_ends_in_time(tmp_path, prepare, Driver.drop)


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
    one.write(b"".join(wire.reboot(n % 4, ids[n % 4]) + wire.poll(n % 4, ids[n % 4]) for n in range(12)))
    assert one.process.stdin is not None
    if has_finalize:
        one.write(b"FINALIZE\n" + wire.terminate(0, ids[0]))
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
    lines = b"INIT\n" + b"".join(wire.deploy(n) for n in range(5)) + wire.unknown(6) + ending
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
        one.write(b"INIT\n" + wire.deploy(7))
        assert one.finalize() == 0
    assert len(place.instances()) == 1


# Signals


def test_after_sigterm_no_action_is_started_and_finalize_ends_the_driver(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 1 simulated")
    ids = created(one, 3)
    place.simulate(boot_time=0, latency=0.3)
    assert one.ask(wire.poll(0, ids[0]))
    one.write(wire.reboot(0, ids[0]) + wire.reboot(1, ids[1]))
    until(lambda: place.unanswered() == ["REBOOT", "REBOOT"])
    begun = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    assert one.next_line() == "REBOOT SUCCESS 0 -", "a running action is completed"
    one.send(wire.reboot(2, ids[2]))
    one.silence(0.4)
    assert one.finalize() == 0
    assert time.monotonic() - begun < TERMINATED_AFTER, "FINALIZE has ended it"
    assert replies(one.rest()) == []


def test_sigterm_alone_ends_the_driver_after_five_seconds(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=60)
    one = driver()
    one.send(wire.deploy(7))
    until(place.instances)
    begun = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(HANG) == 0
    assert time.monotonic() - begun > TERMINATED_AFTER
    assert replies(one.rest()) == []


def test_sigterm_ends_a_driver_that_finishes_open_requests(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=60)
    one = driver()
    one.send(wire.deploy(7))
    until(place.instances)
    assert one.process.stdin is not None
    one.process.stdin.close()
    one.silence(0.2)
    begun = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(HANG) == 0
    assert time.monotonic() - begun < TERMINATED_AFTER, "it did not wait as it does after SIGTERM alone"


def test_sigint_ends_the_driver_without_a_traceback(place: Place) -> None:
    place.simulate(boot_time=60)
    environ = {"PATH": os.environ["PATH"], "ONE_LOCATION": str(place.root)}
    pipe = subprocess.PIPE
    # Tests that run in the background ignore SIGINT, and their child processes inherit that.
    command = ["env", "--default-signal=INT", str(PROGRAM), "simulated"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environ) as one:
        assert one.stdin is not None
        one.stdin.write(b"INIT\n" + wire.deploy(7))
        one.stdin.flush()
        until(place.instances)
        one.send_signal(signal.SIGINT)
        assert one.wait(HANG) == 128 + signal.SIGINT
        assert one.communicate() == (b"INIT SUCCESS\n", b"")


def test_killed_driver_leaves_whole_lines_in_a_full_pipe(stalled: Driver) -> None:
    stalled.write(b"".join(wire.unknown(n) for n in range(500)) + wire.deploy(7))
    until(stalled.place.instances)
    stalled.kill()
    stalled.begin_reading()
    assert 10 < len(stalled.rest()) < 500, "the pipe was full"
    assert bytes(stalled.raw).endswith(b"Action FROBNICATE not supported\n")


# The next process


def kill_during_boot(driver: StartDriver, place: Place, *vm_ids: int) -> None:
    """Start a driver, and kill it while it waits for these VMs' instances to boot."""
    one = driver()
    one.write(b"".join(wire.deploy(vm_id) for vm_id in vm_ids))
    until(lambda: place.has_attempts(len(vm_ids)) and len(place.instances()) == len(vm_ids))
    one.kill()


def only_instance(place: Place) -> str:
    """The deploy id of the only instance ever created."""
    [entry] = place.instances(is_all=True)
    return str(entry["deploy_id"])


def test_next_process_answers_a_deploy_killed_while_its_instance_booted(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0.8)
    kill_during_boot(driver, place, 7)
    two = driver()
    two.silence(0.5)
    assert bytes(two.raw) == b"INIT SUCCESS\n"
    assert two.next_line() == f"DEPLOY SUCCESS 7 {only_instance(place)}"
    assert two.is_quiet()
    assert place.unanswered() == []


def test_next_process_answers_a_deploy_killed_during_its_create_with_one_instance(
    driver: StartDriver, place: Place
) -> None:
    place.simulate(boot_time=0.1, latency=0.15)
    one = driver()
    one.send(wire.deploy(7))
    until(place.has_attempts)
    one.kill()
    two = driver()
    assert two.next_line().startswith("DEPLOY SUCCESS 7 sim-")
    assert two.lines[-1].endswith(only_instance(place))


def test_next_process_completes_requests_that_were_open_at_finalize(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=1, stop_time=1)
    one = driver()
    deploy_id = one.created(wire.deploy(1))
    one.write(wire.power_off(1, deploy_id) + wire.deploy(2))
    until(lambda: len(place.instances()) == 2 and len(place.unanswered()) == 2)
    assert one.drop() == 0
    assert place.unanswered() == ["SHUTDOWN", "DEPLOY"]
    place.simulate(boot_time=0, stop_time=0)
    two = driver()
    found = {two.next_line() for _ in range(2)}
    [second] = [entry["deploy_id"] for entry in place.instances() if entry["vm_id"] == 2]
    assert found == {"SHUTDOWN SUCCESS 1 -", f"DEPLOY SUCCESS 2 {second}"}
    assert {entry["vm_id"]: entry["state"] for entry in place.instances()} == {1: "stopped", 2: "running"}


def test_next_process_completes_a_request_that_came_right_before_finalize(driver: StartDriver, place: Place) -> None:
    one = driver()
    assert one.is_quiet()
    one.send(wire.deploy(7))
    assert one.drop() == 0
    two = driver()
    assert two.next_line() == f"DEPLOY SUCCESS 7 {only_instance(place)}"
    assert two.is_quiet()


def test_third_process_completes_a_request_after_the_second_was_killed_too(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=1)
    kill_during_boot(driver, place, 7)
    two = driver()
    until(lambda: "request taken over" in place.log())
    two.kill()
    three = driver()
    assert three.next_line() == f"DEPLOY SUCCESS 7 {only_instance(place)}"
    assert three.is_quiet()


def test_new_process_waits_until_the_old_one_has_ended(driver: StartDriver, place: Place) -> None:
    """Up to 5.12 a reload starts the new process beside the old one (OpenNebula src/mad/Mad.cc, reload)."""
    place.simulate(boot_time=1.5)
    one = driver()
    one.send(wire.deploy(7))
    until(lambda: place.has_attempts() and place.instances())
    two = driver()
    two.silence(0.2)
    assert one.drop() == 0
    assert two.next_line() == f"DEPLOY SUCCESS 7 {only_instance(place)}"
    assert two.is_quiet()


def test_answered_requests_are_not_repeated_by_the_next_process(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    deploy_id = one.created(wire.deploy(7))
    assert one.ask(wire.power_off(7, deploy_id)) == "SUCCESS -"
    assert one.finalize() == 0
    assert place.unanswered() == []
    two = driver()
    two.silence(1.3)
    assert "request taken over" not in place.log()


def is_started(_place: Place) -> bool:
    """True at once, since INIT is answered."""
    return True


def is_taken_over(place: Place) -> bool:
    """True once the new process has taken over the requests of the old one."""
    return place.log().count("request taken over") == 3


def is_done_again(place: Place) -> bool:
    """True once all instances run, while replies are still held after INIT."""
    return is_taken_over(place) and {entry["state"] for entry in place.instances()} == {"running"}


@pytest.mark.parametrize(
    ("boot_time", "has_reached"),
    [
        pytest.param(0.8, is_started, id="at-once"),
        pytest.param(0.8, is_taken_over, id="during-recovery"),
        pytest.param(0.1, is_done_again, id="before-the-recovered-reply"),
    ],
)
def test_newer_requests_are_answered_instead_of_recovered_ones(
    driver: StartDriver, place: Place, boot_time: float, has_reached: Callable[[Place], bool]
) -> None:
    place.simulate(boot_time=boot_time, destroy_time=0)
    kill_during_boot(driver, place, 1, 2, 3)
    two = driver()
    until(lambda: has_reached(place))
    two.write(wire.deploy(1) + wire.driver_cancel(2) + wire.cleanup(2) + wire.terminate(3, ""))
    found = [two.wait_for(lambda text: not text.startswith("LOG ")) for _ in range(3)]
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
    place.simulate(boot_time=0, latency=60)
    disk = {"DISK_ID": "1", "SIZE": "1"}
    one.write(wire.reboot(0, ids[0], release="5.10") + wire.reboot(1, ids[1], release="7.4"))
    one.write(wire.line("ATTACHDISK", 2, deploy_id=ids[2], operand=disk) + wire.reboot(3, ids[3], release="5.10"))
    until(lambda: len(place.unanswered()) == 4)
    one.kill()
    place.simulate(boot_time=0)
    two = driver()
    assert two.ask(wire.reboot(3, ids[3], release="5.10")) == "SUCCESS -"
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
    place.simulate(boot_time=60)
    kill_during_boot(driver, place, 7)
    place.simulate(boot_time=0)
    two = driver(via=["sh", "-c", '"$@"; exit $?', "sh"])
    assert two.next_line() == f"DEPLOY FAILURE 7 {SENTENCE}"
    assert time.monotonic() - two.started > 3
    assert [entry["state"] for entry in place.instances()] == ["pending"], "the instance was not changed"
    assert two.ask(wire.cleanup(7)) == "SUCCESS -"
    assert place.instances() == []


def test_driver_started_by_hand_does_not_disturb_oneds_driver_of_the_same_name(
    driver: StartDriver, place: Place
) -> None:
    """A person may try out a NAME by hand while oned has a driver for it."""
    place.simulate(boot_time=0.8)
    one = driver()
    one.send(wire.deploy(7))
    until(lambda: place.has_attempts() and place.instances())
    command = [sys.executable, str(PROGRAM), "simulated"]
    environ = {"PATH": os.environ["PATH"], "ONE_LOCATION": str(place.root)}
    done = subprocess.run(command, input=wire.unknown(1), env=environ, capture_output=True, timeout=HANG)
    assert (done.stdout, done.stderr) == (b"FROBNICATE FAILURE 1 Action FROBNICATE not supported\n", b"")
    assert one.next_line() == f"DEPLOY SUCCESS 7 {only_instance(place)}"
    assert one.is_quiet()
