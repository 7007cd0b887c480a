"""Both drivers run with watched event loops: no code of the project makes a blocking call there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.blocking import ROOT
from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import Console, configure, monitored
from tests.end_to_end.oned import Driver, Place
from tests.end_to_end.script_folder import NAME, ScriptPlace, altered
from tests.monitor.decoder import monitor, read_modern, start_monitor
from tests.waiting import until

IM_PROGRAM = ROOT / "bin" / "one_im_provider"
WATCHED = (sys.executable, "-I", str(ROOT / "tests" / "blocking.py"))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Arguments of Driver that watch its event loop; fails at the end if a driver made a blocking call."""
    noted = tmp_path / "blocking"
    yield {"via": WATCHED, "environ": {"BLOCKING": str(noted)}}
    assert not noted.exists(), noted.read_text()


def test_the_guard_detects_a_blocking_call_in_an_event_loop(tmp_path: Path) -> None:
    program, noted = tmp_path / "program", tmp_path / "blocking"
    program.write_text(
        "import asyncio, os\n"
        "from pathlib import Path\n"
        "from one_provider_mad.monitor.state import StateFile\n"
        f"file = StateFile(Path({str(program)!r}))\n"
        "async def main():\n"
        "    try:\n"
        "        file.load()\n"
        "    except Exception:\n"
        "        pass\n"
        "asyncio.run(main())\n"
        "os._exit(0)\n"
    )
    subprocess.run([*WATCHED, program], env={"BLOCKING": str(noted)}, check=True)
    assert "monitor/state.py" in noted.read_text()


def test_vm_life_on_the_embedded_cloud_never_blocks_an_event_loop(place: Place, watched: dict[str, Any]) -> None:
    configuration = configure(place, monitor={"sync_period": 0.1})
    console = Console(place)
    console.run_many(range(100, 120))
    wild = console.run(name="untagged")
    with monitored(place, **watched) as reports, Driver(place, **watched) as actions:
        reports.start()
        reports.sync(vm100="RUNNING")
        deploy_id = actions.created(oned_requests.deploy(7, host_id=3))
        reports.sync(vm7="RUNNING")
        for line in (
            oned_requests.poll(7, deploy_id),
            oned_requests.reboot(7, deploy_id, host_id=3),
            oned_requests.power_off(7, deploy_id, host_id=3),
            oned_requests.resume(7, deploy_id, host_id=3),
        ):
            assert actions.ask(line).startswith("SUCCESS")
        good = configuration.read_text()
        configuration.write_text("provider = ")
        until(lambda: "is not TOML" in reports.next().text)
        actions.ask(oned_requests.poll(7, deploy_id))
        configuration.write_text(good.replace("[monitor]", "[monitor]\nmissing_after = 2"))
        console.terminate(wild)
        reports.start(4)
        reports.sync(4)
        assert actions.ask(oned_requests.terminate(7, deploy_id, host_id=3)) == "SUCCESS -"
    with monitored(place, **watched) as successor:
        successor.sync(vm100="RUNNING")


def test_legacy_reports_never_block_the_event_loop(place: Place, watched: dict[str, Any]) -> None:
    configure(place)
    Console(place).run_many(range(100, 120))
    with monitored(place, is_legacy=True, **watched) as reports:
        for _ in range(3):
            reports.send(monitor(3))
            assert reports.next().status == "SUCCESS"


def test_scripts_and_probes_never_block_an_event_loop(tmp_path: Path, watched: dict[str, Any]) -> None:
    place = ScriptPlace(tmp_path / "one")
    place.plain_script(f"im/{NAME}.d/one", "#!/bin/sh\necho HYPERVISOR=cloud\n")
    place.plain_script(f"im/{NAME}.d/broken", "#!/bin/sh\nexit 3\n")
    with Driver(place, f"-t 15 -r 0 -p {NAME}", **watched) as actions:
        deploy_id = actions.created(
            altered(oned_requests.deploy(7), LOCAL_DEPLOYMENT_FILE=str(place.deployment_file(7)))
        )
        place.on_action("reboot", 7, "echo no such host >&2; exit 1")
        assert actions.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS")
        assert actions.ask(oned_requests.reboot(7, deploy_id)).startswith("FAILURE")
        assert actions.ask(oned_requests.terminate(7, deploy_id)).startswith("SUCCESS")
    with Driver(place, NAME, program=IM_PROGRAM, **watched) as probes:
        probes.send(start_monitor(3))
        probes.wait_for(lambda line: "HYPERVISOR" in read_modern(line.encode() + b"\n").text)
    with Driver(place, NAME, program=IM_PROGRAM, **watched) as probes:
        probes.send(monitor(3))
        probes.wait_for(lambda line: line.startswith("MONITOR SUCCESS"))
