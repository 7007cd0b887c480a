"""Probe folders served by the real information driver: as they were found on a front-end, for both cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from one_provider_mad.processes import Process
from tests.end_to_end.oned import Driver, Place
from tests.monitor.decoder import Line, monitor, read_legacy, read_modern, start_monitor
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
    """The next message of that kind with that text in it."""
    while True:
        line = read_modern(driver.next_line().encode() + b"\n")
        if line.word == word and text in line.text:
            return line


def test_the_guides_probe_makes_a_public_cloud_up_to_5_10(place: Place) -> None:
    probe(place, f"{NAME}.d/public_cloud.sh", GUIDE)
    with monitored(place) as one:
        one.send(monitor(3, "us-east-1", is_first=True))
        line = read_legacy(one.next_line().encode() + b"\n")
    assert (line.word, line.status, line.host_id) == ("MONITOR", "SUCCESS", 3)
    assert {"PUBLIC_CLOUD": ["YES"], "HYPERVISOR": ["provider_name"]}.items() <= line.values.items()


def test_the_guides_probe_makes_a_public_cloud_from_5_12_on(place: Place) -> None:
    probe(place, f"{NAME}.d/public_cloud.sh", GUIDE)
    with monitored(place) as one:
        one.send(start_monitor(3, "us-east-1"))
        line = modern(one, "SYSTEM_HOST")
    assert line.status == "SUCCESS"
    assert {"PUBLIC_CLOUD": ["YES"], "HYPERVISOR": ["provider_name"]}.items() <= line.values.items()


def test_trees_of_probes_fill_their_messages(place: Place) -> None:
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
def test_a_probe_that_does_not_work_is_named_and_stops_nobody(place: Place, text: str) -> None:
    probe(place, f"{NAME}-probes.d/host/system/broken", text)
    probe(place, f"{NAME}-probes.d/host/system/fine", "echo TOTALCPU=400")
    with monitored(place, f"-w 1 {NAME}") as one:
        one.send(start_monitor(3, "us-east-1"))
        line = modern(one, "SYSTEM_HOST")
    assert line.status == "SUCCESS", "the host is not put into ERROR"
    assert line.values["TOTALCPU"] == ["400"]
    [error] = line.values["PROVIDER_ERROR"]
    assert str(error).startswith("probe broken")


def test_nothing_runs_on_when_the_core_has_gone(place: Place) -> None:
    probe(
        place, f"{NAME}-probes.d/vm/status/slow", f"trap '' TERM\necho $$ > {place.root}/pid\nsleep 60 & wait; sleep 60"
    )
    file = place.root / "pid"
    with monitored(place) as one:
        one.send(start_monitor(3, "us-east-1"))
        until(lambda: file.exists() and file.read_text().strip())
        assert one.drop() == 0
    until(lambda: Process.of(int(file.read_text())) is None)
