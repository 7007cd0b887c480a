"""tools/burst: what it says of a front-end, measures and removes; the core here places VMs at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.end_to_end.oned import ROOT, Place, aside
from tests.placing_core import PlacingCore
from tests.waiting import HANG, until
from tests.xmlrpc.local_core import environment, local_core
from tools.bursting.command import command
from tools.bursting.hosts import Host, Size
from tools.bursting.result import Result as Burst
from tools.bursting.result import Seen
from tools.bursting.vms import Vm


@pytest.fixture
def core() -> Iterator[PlacingCore]:
    placing = PlacingCore()
    with local_core(placing):
        yield placing


@pytest.fixture
def environ(core: PlacingCore, place: Place) -> dict[str, str]:
    place.simulate()
    return environment(core, place.root)


def burst(environ: dict[str, str], *options: str) -> Result:
    words = ["--name", "simulated", *options]
    result: Result = aside(lambda: CliRunner().invoke(command, words, env=environ))
    return result


def test_a_dry_run_says_where_the_vms_should_go_and_makes_nothing(core: PlacingCore, environ: dict[str, str]) -> None:
    result = burst(environ, "--vms", "100", "--dry-run")
    assert result.exit_code == 0
    assert result.output.splitlines()[:2] == [
        "100 VMs of 1 CPU and 128 MiB would be created. Room at home: home0 for 2, home1 for 2.",
        "4 should go home, 96 to simulated.",
    ]
    assert {method for method, *_ in core.calls} == {"one.system.version", "one.hostpool.info"}


def test_a_burst_that_fits_at_home_is_well_and_nothing_of_it_is_left(
    core: PlacingCore, environ: dict[str, str]
) -> None:
    result = burst(environ, "--vms", "3", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["problems"]) == (0, [])
    assert (told["hosts"], told["running"], told["next_host"]) == ({"home0": 2, "home1": 1}, 3, "home0")
    assert (core.placed, core.templates) == ({}, {})


def test_vms_that_run_in_the_cloud_without_an_instance_are_a_problem(environ: dict[str, str]) -> None:
    result = burst(environ, "--vms", "5")
    assert result.exit_code == 1
    assert "WRONG: VM 5 on host simulated has 0 instances in the cloud, not 1." in result.stdout


def test_vms_that_are_not_placed_are_given_up_with_the_schedulers_reason(
    core: PlacingCore, environ: dict[str, str]
) -> None:
    core.is_idle = True
    result = burst(environ, "--vms", "2", "--wait", "0.1")
    assert result.exit_code == 1
    assert "WRONG: 2 of 2 VMs are not RUNNING but PENDING: no host has enough CPU." in result.stdout
    assert (core.placed, core.templates) == ({}, {})


def test_a_burst_that_is_terminated_removes_what_it_has_made(core: PlacingCore, environ: dict[str, str]) -> None:
    core.is_idle = True
    words = [str(ROOT / "tools" / "burst"), "--name", "simulated", "--vms", "2"]
    everything = {**os.environ, **environ}
    with subprocess.Popen(words, env=everything, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: len(core.placed) == 2)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert "Interrupted: all that was made is being removed." in told
    assert (core.placed, core.templates) == ({}, {})


def test_what_a_killed_run_has_left_is_removed(core: PlacingCore, environ: dict[str, str]) -> None:
    core.templates[0] = "one-provider-burst-77"
    core.templates[1] = "mine"
    core.make_vm(0, "one-provider-burst-77-vm0")
    core.make_vm(1, "mine")
    assert burst(environ, "--remove").exit_code == 0
    assert ([vm.name for vm in core.placed.values()], list(core.templates.values())) == (["mine"], ["mine"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param(("--name", "other"), "burst: no host has the driver other: one-provider oned-conf", id="no-cloud"),
        pytest.param(("--home", "attic"), "burst: there is no host attic; onehost list shows all", id="no-such-host"),
        pytest.param(("--cloud", "AMI"), "burst: --cloud AMI is not KEY=VALUE", id="no-value"),
    ],
)
def test_wrong_wishes_are_one_sentence(environ: dict[str, str], options: tuple[str, ...], problem: str) -> None:
    result = burst(environ, *options, "--dry-run")
    assert result.exit_code == 1
    assert result.stderr.startswith(problem)


def host(**values: Any) -> Host:
    of_one = {"number": 1, "name": "h", "vm_mad": "kvm", "is_cloud": False, "state": 2, "total_cpu": 400}
    return Host(**{**of_one, "cpu": 400, "memory": 1024 * 1024, **values})


@pytest.mark.parametrize(
    ("free", "room"),
    [
        pytest.param(host(), 4, id="cpu"),
        pytest.param(host(memory=256 * 1024), 2, id="memory"),
        pytest.param(host(cpu=-100), 0, id="overcommitted"),
        pytest.param(host(state=4), 0, id="disabled"),
    ],
)
def test_room_is_what_the_scarcer_of_cpu_and_memory_admits(free: Host, room: int) -> None:
    assert free.room_for(Size(cpu=1, memory=128)) == room


def seen(number: int, host: str, after: float | None = 1.0) -> Seen:
    state = (3, 3) if after is not None else (1, 0)
    return Seen(vm=Vm(number=number, name="", state=state, host=host, message=""), running_after=after)


FIT = [seen(1, "home"), seen(2, "home")]


@pytest.mark.parametrize(
    ("vms", "instances", "next_host", "problem"),
    [
        pytest.param([seen(1, "cloud")], {1: 1}, "home", "0 of 1 VMs are at home, which had room for 1", id="strayed"),
        pytest.param(FIT, {2: 1}, "home", "VM 2 on host home has 1 instances in the cloud, not 0", id="left-over"),
        pytest.param([*FIT, seen(3, "cloud")], {3: 2}, "home", "VM 3 on host cloud has 2 instances", id="duplicate"),
        pytest.param([seen(1, "home", 31.0)], {}, "home", "1 VMs were RUNNING only after 30 s", id="slow"),
        pytest.param(FIT, {}, "cloud", "home had room again, and the next VM went to cloud", id="next"),
        pytest.param(FIT, {}, "home", None, id="well"),
    ],
)
def test_a_problem_is_told_by_its_sentence(
    vms: list[Seen], instances: dict[int, int], next_host: str, problem: str | None
) -> None:
    result = Burst(
        release="7.4.0",
        cloud=["cloud"],
        rooms={"home": 2},
        created_in=0.1,
        seen=vms,
        instances=instances,
        next_host=next_host,
    )
    problems = list(result.problems(30.0))
    assert [each.startswith(problem) for each in problems] == [True] if problem else problems == []
