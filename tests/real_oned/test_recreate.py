"""VMs that a cloud refuses, or takes back, are recreated by OpenNebula's own hook, under a real OpenNebula."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId
from one_provider_mad.lab.demo_ec2 import ec2_stage
from one_provider_mad.lab.ec2 import plans
from one_provider_mad.lab.ec2.resources import Resources
from one_provider_mad.providers.simulated.cloud import Cloud
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.end_to_end.oned import ROOT
from tests.real_oned.hook_manager import hook_manager, hook_output
from tests.real_oned.world import QUICK, STATES, Vm, add_ordinary_host, deploy, running
from tests.real_oned.zone import CoreError, Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(300)]

FULL = f"""
provider = "simulated"
owner = "test-recreate"
[simulated]
boot_time = 0.2
destroy_time = 0.2
[simulated.faults]
no_capacity = ["small_256mb"]
{QUICK}"""

ROOMY = FULL.replace('no_capacity = ["small_256mb"]', "")
OFF = ROOMY + 'missing_state = "POWEROFF"\n[spot]\ninterrupted = "recreate"\n'
"""OpenNebula powers off a VM whose instance ends."""

EC2 = """
[spot]
interrupted = "recreate"
[ec2.defaults]
INSTANCETYPE = "t3.small"
AMI = "ami-0abc"
"""
"""Monitored at OpenNebula's periods."""

WRONG = 'PUBLIC_CLOUD = [ TYPE = "roomy", PROVIDER_INSTANCE_TYPE = "unheard_of" ]\n'
"""A template that no recreation makes right."""

VM = 'NAME = "burst"\nCPU = 0.1\nMEMORY = 64\n'
BOOT_FAILURE, UNKNOWN = (3, 36), (3, 16)


def tool(zone: Zone, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one-provider as the zone's user."""
    command = [sys.executable, str(ROOT / "bin" / "one-provider"), *words]
    return subprocess.run(command, env=zone.environ, cwd=zone.folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Zone]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    root = tmp_path_factory.mktemp("recreate")
    failed = request.session.testsfailed
    with ExitStack() as stack:
        play = stack.enter_context(ec2_stage(root))
        clouds = {"full": "simulated", "roomy": "simulated", "off": "simulated", "ec2": "ec2"}
        zone = Zone(installed, root / "one", clouds=clouds, environ=play.environ)
        of_ec2 = play.settings.partition("[monitor]")[0] + EC2
        for name, settings in {"full": FULL, "roomy": ROOMY, "off": OFF, "ec2": of_ec2}.items():
            zone.place.configure(settings, name=name)
        stack.enter_context(running(zone))
        add_ordinary_host(zone)
        zone.follow_recipe()
        done = tool(zone, "install", "full", "--recreate-hook")
        assert done.returncode == 0, done.stderr
        stack.enter_context(hook_manager(zone))
        yield zone
    if request.session.testsfailed == failed:
        shutil.rmtree(root)


@contextmanager
def scheduler(zone: Zone, choose: Callable[[int], str]) -> Iterator[None]:
    """Deploy every pending VM, in place of a scheduler.

    Args:
        zone: is running.
        choose: the host for a VM with so many records in its history.
    """
    is_stopped = threading.Event()

    def run() -> None:
        while not is_stopped.wait(0.2):
            for vm in zone.document("one.vmpool.info", -2, -1, -1, 1).iterfind("VM"):
                number = int(vm.findtext("ID") or -1)
                history = zone.document("one.vm.info", number).findall("HISTORY_RECORDS/HISTORY")
                with suppress(CoreError):  # its user has ended it meanwhile
                    deploy(zone, Vm(zone, number), choose(len(history)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_stopped.set()
        thread.join()


def create(zone: Zone, section: str = "") -> Vm:
    return Vm(zone, zone.call("one.vm.allocate", VM + section, False))


def end(vm: Vm) -> None:
    vm.ask("terminate-hard")
    until(lambda: vm.state() == STATES["DONE"], seconds=60, pause=0.2)


def interrupt_spot(zone: Zone, vm: Vm, *, notice: float) -> None:
    """Have EC2 take back the VM's instance; the account is beside the zone's folder."""

    async def run() -> None:
        account = Resources(zone.folder.parent / "ec2-cloud.db", SimulatedSettings(), clock=time.time)
        await account.open()
        try:
            await plans.interrupt(account, vm.shown("DEPLOY_ID"), notice=notice)
        finally:
            await account.close()

    asyncio.run(run())


def interrupt(zone: Zone, vm: Vm, *, notice: float) -> None:
    """Have the simulated cloud take back the VM's instance."""
    (name,) = hosts(vm)

    async def run() -> None:
        cloud = Cloud(zone.folder / "var" / f"{name}.db", SimulatedSettings(), clock=time.time)
        await cloud.open()
        try:
            await cloud.interrupt(DeployId(vm.shown("DEPLOY_ID")), notice=notice)
        finally:
            await cloud.close()

    asyncio.run(run())


def hosts(vm: Vm) -> list[str]:
    """The hosts on which the VM was, one after the other."""
    document = vm.zone.document("one.vm.info", vm.number)
    return [each.findtext("HOSTNAME") or "" for each in document.iterfind("HISTORY_RECORDS/HISTORY")]


def test_a_vm_that_is_refused_for_want_of_room_runs_on_the_next_host(zone: Zone) -> None:
    with scheduler(zone, lambda records: "roomy" if records else "full"):
        vm = create(zone)
        until(lambda: vm.state() == (3, 3), seconds=60, pause=0.2)
    assert hosts(vm) == ["full", "roomy"]
    end(vm)


def test_a_vm_that_no_cloud_has_room_for_is_recreated_three_times_at_most(zone: Zone) -> None:
    with scheduler(zone, lambda _: "full"):
        vm = create(zone)
        until(lambda: len(hosts(vm)) == 4 and vm.state() == BOOT_FAILURE, seconds=200, pause=0.5)
    sentence = f"VM {vm.number} is left in BOOT_FAILURE: it was recreated 3 times in a row, and found no room: "
    until(lambda: sentence in hook_output(zone), seconds=60, pause=0.5)
    said = tool(zone, "recreate", str(vm.number), "--dry-run")
    assert (said.returncode, said.stdout.startswith(sentence)) == (1, True)
    assert hosts(vm) == ["full"] * 4
    end(vm)


def test_other_failed_and_stopped_vms_are_left_alone(zone: Zone) -> None:
    """A wrong template, a power off on request, and a VM of another driver."""
    with scheduler(zone, lambda _: "roomy"):
        wrong, off = create(zone, WRONG), create(zone)
        until(lambda: (wrong.state(), off.state()) == (BOOT_FAILURE, STATES["RUNNING"]), seconds=60, pause=0.2)
    with scheduler(zone, lambda _: "home"):
        at_home = create(zone)
        until(lambda: at_home.state() == STATES["RUNNING"], seconds=60, pause=0.2)
    for vm in (off, at_home):
        vm.ask("poweroff")
        vm.reach("POWEROFF")
    for sentence in (
        f"VM {wrong.number} is left in BOOT_FAILURE: its cloud did not refuse it for want of room",
        f"VM {off.number} is left alone: it was powered off on request",
    ):
        until(lambda sentence=sentence: sentence in hook_output(zone), seconds=60, pause=0.5)  # type: ignore[misc]
    said = tool(zone, "recreate", str(at_home.number))
    assert "is left alone: no driver of ours serves its host (VM_MAD: dummy)" in said.stdout
    vms = (wrong, off, at_home)
    assert [vm.state() for vm in vms] == [BOOT_FAILURE, STATES["POWEROFF"], STATES["POWEROFF"]]
    assert [len(hosts(vm)) for vm in vms] == [1, 1, 1]
    for vm in vms:
        end(vm)


def test_a_vm_whose_instance_its_cloud_takes_back_shows_that_and_is_recreated(zone: Zone) -> None:
    with scheduler(zone, lambda records: "full" if records else "roomy"):
        vm = create(zone, 'PUBLIC_CLOUD = [ TYPE = "roomy", INTERRUPTED = "recreate" ]\n')
        left = create(zone, 'PUBLIC_CLOUD = [ TYPE = "roomy", INTERRUPTED = "report" ]\n')
        for each in (vm, left):
            until(lambda each=each: each.state() == STATES["RUNNING"], seconds=60, pause=0.2)  # type: ignore[misc]
        zone.place.configure(ROOMY, name="full")
        for each in (vm, left):
            interrupt(zone, each, notice=8.0 if zone.release >= (5, 12) else 40.0)  # before, oned asks when it wants
        until(lambda: vm.monitored("SIM_INTERRUPTION_SINCE"), seconds=60, pause=0.1)
        assert vm.state() == STATES["RUNNING"]
        until(lambda: hosts(vm) == ["roomy", "full"] and vm.state() == STATES["RUNNING"], seconds=100, pause=0.2)
    assert f"VM {vm.number} was recreated: taken back by the cloud since 20" in hook_output(zone)
    until(lambda: left.state() == UNKNOWN, seconds=60, pause=0.2)
    until(lambda: left.monitored("SIM_INTERRUPTION") == "taken-back", seconds=60, pause=0.2)
    assert hosts(left) == ["roomy"]
    zone.place.configure(FULL, name="full")
    for each in (vm, left):
        end(each)


def test_a_vm_that_its_cloud_took_back_is_recreated_from_poweroff(zone: Zone) -> None:
    """Up to 6.8 OpenNebula recreates it only once it is undeployed, and then with the DEPLOY_ID of its old instance."""
    next_host = "roomy" if zone.release >= (6, 10) else "off"
    with scheduler(zone, lambda records: next_host if records else "off"):
        vm = create(zone)
        until(lambda: vm.state() == STATES["RUNNING"], seconds=60, pause=0.2)
        interrupt(zone, vm, notice=1.0)
        until(lambda: hosts(vm) == ["off", next_host] and vm.state() == STATES["RUNNING"], seconds=120, pause=0.2)
    assert "New state is POWEROFF" in vm.log()
    end(vm)


def test_a_spot_instance_that_ec2_takes_back_is_reported_at_once_and_recreated_on_demand(zone: Zone) -> None:
    with scheduler(zone, lambda _: "ec2"):
        vm = create(zone, 'PUBLIC_CLOUD = [ TYPE = "ec2", SPOT = "PREFERRED" ]\n')
        until(lambda: vm.monitored("AWS_INSTANCE_LIFECYCLE") == "spot", seconds=120, pause=0.2)
        first = vm.shown("DEPLOY_ID")
        interrupt_spot(zone, vm, notice=40.0)
        until(lambda: vm.monitored("AWS_SPOT_INTERRUPTION") == "marked-for-termination", seconds=40, pause=0.1)
        assert vm.monitored("AWS_SPOT_INTERRUPTION_SINCE").startswith("20")
        assert vm.state() == STATES["RUNNING"]
        until(lambda: hosts(vm) == ["ec2", "ec2"] and vm.state() == STATES["RUNNING"], seconds=120, pause=0.2)
    assert vm.shown("DEPLOY_ID") != first
    assert f"VM {vm.number} was recreated: Server.SpotInstanceTermination: Spot instance term" in hook_output(zone)
    until(lambda: not vm.monitored("AWS_INSTANCE_LIFECYCLE"), seconds=120, pause=0.2)
    end(vm)


def test_the_hook_is_removed(zone: Zone) -> None:
    done = tool(zone, "install", "full", "--recreate-hook", "--remove")
    assert (done.returncode, done.stdout.count("removed: ")) == (0, 4)
    assert not hook_output(zone)
