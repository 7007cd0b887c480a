"""Probe directories of a front-end, run by the real information driver, for oned up to 5.10 and for monitord."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from one_provider_mad.processes import Process, children
from tests.end_to_end.oned import Driver, Place
from tests.monitor.decoder import Line, monitor, read_legacy, read_modern, start_monitor, stop_monitor
from tests.waiting import until

NAME = "provider_name"
PROGRAM = Path(__file__).resolve().parents[2] / "bin" / "one_im_provider"
GUIDE = 'echo "PUBLIC_CLOUD=YES"\necho "HYPERVISOR=provider_name"'


def probe(place: Place, path: str, text: str) -> None:
    file = place.var / "remotes" / "im" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def monitored(place: Place, arguments: str = f"-t 15 -r 0 {NAME}") -> Driver:
    return Driver(place, arguments, program=PROGRAM)


def modern(driver: Driver, word: str, text: str = "") -> Line:
    """The next message of this kind that contains this text."""
    while True:
        line = read_modern(driver.next_line().encode() + b"\n")
        if line.word == word and text in line.text:
            return line


def test_probe_of_the_bursting_guide_marks_a_public_cloud_up_to_5_10(place: Place) -> None:
    probe(place, f"{NAME}.d/public_cloud.sh", GUIDE)
    with monitored(place) as one:
        one.send(monitor(3, "us-east-1", is_first=True))
        line = read_legacy(one.next_line().encode() + b"\n")
    assert (line.word, line.status, line.host_id) == ("MONITOR", "SUCCESS", 3)
    assert {"PUBLIC_CLOUD": ["YES"], "HYPERVISOR": ["provider_name"]}.items() <= line.values.items()


def test_probe_of_the_bursting_guide_marks_a_public_cloud_from_5_12_on(place: Place) -> None:
    probe(place, f"{NAME}.d/public_cloud.sh", GUIDE)
    with monitored(place) as one:
        one.send(start_monitor(3, "us-east-1"))
        line = modern(one, "SYSTEM_HOST", "HYPERVISOR")
    assert line.status == "SUCCESS"
    assert {"PUBLIC_CLOUD": ["YES"], "HYPERVISOR": ["provider_name"]}.items() <= line.values.items()


def test_each_probe_directory_fills_its_kind_of_message(place: Place) -> None:
    probe(place, f"{NAME}-probes.d/host/system/one", 'echo "TOTALCPU=$2"')
    probe(place, f"{NAME}-probes.d/host/monitor/one", "echo FREECPU=100")
    probe(place, f"{NAME}-probes.d/vm/status/one", 'grep -c HOST_ID >&2; echo \'VM=[ID="7",STATE="RUNNING"]\'')
    probe(place, f"{NAME}-probes.d/vm/monitor/one", 'echo \'VM=[ID="7",MONITOR="Q1BVPTE="]\'')
    wanted = {"SYSTEM_HOST": "TOTALCPU", "MONITOR_HOST": "FREECPU", "STATE_VM": "VM", "MONITOR_VM": "VM"}
    found: dict[str, object] = {}
    with monitored(place) as one:
        one.send(start_monitor(3, "us-east-1"))
        while found.keys() != wanted.keys():
            line = read_modern(one.next_line().encode() + b"\n")
            if wanted.get(line.word, "?") in line.values:
                found[line.word] = line.values[wanted[line.word]]
    assert found == {
        "SYSTEM_HOST": ["3"],
        "MONITOR_HOST": ["100"],
        "STATE_VM": [{"ID": "7", "STATE": "RUNNING"}],
        "MONITOR_VM": [{"ID": "7", "MONITOR": "Q1BVPTE="}],
    }


@pytest.mark.parametrize("text", ["exit 3", "sleep 60"], ids=["fails", "hangs"])
def test_failing_or_hanging_probe_is_named_and_other_probes_are_reported(place: Place, text: str) -> None:
    probe(place, f"{NAME}-probes.d/host/system/broken", text)
    probe(place, f"{NAME}-probes.d/host/system/fine", "echo TOTALCPU=400")
    with monitored(place, f"-w 1 {NAME}") as one:
        one.send(start_monitor(3, "us-east-1"))
        line = modern(one, "SYSTEM_HOST", "TOTALCPU")
    assert line.status == "SUCCESS", "the host is not put into ERROR"
    assert line.values["TOTALCPU"] == ["400"]
    [error] = line.values["PROVIDER_ERROR"]
    assert str(error).startswith("probe broken")


def test_running_probes_end_when_oned_closes_the_pipes(place: Place) -> None:
    probe(
        place, f"{NAME}-probes.d/vm/status/slow", f"trap '' TERM\necho $$ > {place.root}/pid\nsleep 60 & wait; sleep 60"
    )
    file = place.root / "pid"
    with monitored(place) as one:
        one.send(start_monitor(3, "us-east-1"))
        until(lambda: file.exists() and file.read_text().strip())
        assert one.drop() == 0
    until(lambda: Process.of(int(file.read_text())) is None)


# Background processes of probes

DAEMONS = {
    "in-its-group": "sleep 50 &\necho $! >> @PIDS@",
    "in-a-session": "setsid sh -c 'echo $$ >> @PIDS@; exec sleep 50' &",
    "twice-forked": "(setsid sh -c 'echo $$ >> @PIDS@; sleep 50 & echo $! >> @PIDS@; wait' &)",
    "without-environment": "(env -i setsid sh -c 'echo $$ >> @PIDS@; exec sleep 50' &)",
    "ended-by-itself": "(setsid sh -c 'echo $$ >> @PIDS@' &)",
}
COUNT = len(DAEMONS) + 1
UNTIL_ALL_RUN = f"while [ $(wc -l < @PIDS@) -lt {COUNT} ]; do sleep 0.02; done"


def daemons(place: Place, tree: str, *more: str) -> Path:
    """Write a probe that starts all DAEMONS; returns the file into which they write their pids."""
    pids = place.root / "pids"
    lines = (": > @PIDS@", *DAEMONS.values(), UNTIL_ALL_RUN, *more)
    probe(place, f"{NAME}-probes.d/{tree}/daemons", "\n".join(lines).replace("@PIDS@", str(pids)))
    return pids


def noted(pids: Path, count: int = COUNT) -> list[int]:
    """The pids, once there are as many."""

    def read() -> list[int]:
        found = [int(word) for word in pids.read_text().split()] if pids.exists() else []
        return found if len(found) == count else []

    return until(read)


def processes(pids: Path, count: int = COUNT) -> list[Process]:
    """The processes of these pids that still run."""
    return [process for pid in noted(pids, count) if (process := Process.of(pid)) is not None]


def are_gone(found: list[Process]) -> bool:
    return not any(process.is_alive() for process in found)


def test_background_processes_of_a_probe_end_with_it(place: Place) -> None:
    pids = daemons(place, "host/system", "echo A=1")
    with monitored(place) as one:
        one.send(start_monitor(3, "us-east-1"))
        assert modern(one, "SYSTEM_HOST", "A=1").values["PROVIDER_ERROR"] == ["-"]
        left = processes(pids)
        until(lambda: are_gone(left))
        until(lambda: children(one.process.pid) == [])


def test_exit_code_of_a_failing_probe_with_background_processes_is_reported(place: Place) -> None:
    """A driver that reaps orphaned processes must not reap the probe, or its exit code is lost."""
    daemons(place, "host/system", "exit 7")
    with monitored(place) as one:
        one.send(start_monitor(3, "us-east-1"))
        line = modern(one, "SYSTEM_HOST", "daemons")
    assert "ended with exit code 7" in line.text


def test_end_of_one_probe_leaves_background_processes_of_another_running(place: Place) -> None:
    go, pids = place.root / "go", place.root / "pids"
    needs = f"(env -i setsid sh -c 'echo $$ > {pids}; while [ ! -e {go} ]; do sleep 0.02; done; echo ANSWER=1' &) | cat"
    probe(place, f"{NAME}-probes.d/host/system/needs", needs)
    probe(place, f"{NAME}-probes.d/vm/status/quick", f"while [ ! -s {pids} ]; do sleep 0.02; done; echo 'VM=[ID=7]'")
    with monitored(place) as one:
        one.send(start_monitor(3, "us-east-1", STATE_VM=1))
        modern(one, "STATE_VM")
        modern(one, "STATE_VM")
        go.touch()
        assert modern(one, "SYSTEM_HOST", "ANSWER").values["ANSWER"] == ["1"]


@pytest.mark.parametrize("end", ["stop", "drop"])
def test_cancelled_probes_leave_no_processes(place: Place, end: str) -> None:
    pids = daemons(place, "vm/status", "sleep 50")
    with monitored(place) as one:
        one.send(start_monitor(3, "us-east-1"))
        left = processes(pids)
        assert len(left) >= COUNT - 1
        one.send(stop_monitor(3)) if end == "stop" else one.drop()
        until(lambda: are_gone(left))


def test_next_driver_ends_the_probes_of_a_killed_one(place: Place) -> None:
    pids = daemons(place, "vm/status", f"echo $$ >> {place.root}/pids; sleep 50")
    with monitored(place) as one:
        one.send(start_monitor(3, "us-east-1"))
        left = processes(pids, COUNT + 1)
        one.kill()
    shutil.rmtree(place.var / "remotes/im" / f"{NAME}-probes.d/vm")
    anonymous = [process for process in left if has_no_environment(process)]
    others = [process for process in left if process not in anonymous]
    try:
        assert len(anonymous) == 1
        assert not are_gone(others)
        with monitored(place) as one:
            one.send(start_monitor(3, "us-east-1"))
            until(lambda: are_gone(others))
    finally:
        for process in anonymous:  # without environment nothing shows that a probe started it
            process.kill()


def has_no_environment(process: Process) -> bool:
    return process.is_alive() and b"HOME=" not in Path(f"/proc/{process.pid}/environ").read_bytes()
