"""A cloud out of room, and one that takes an instance back: with OpenNebula's scheduler and the hook, nobody steps in.

`make test-oned ONE=/opt/one-7.4.0` runs this too. tests/real_oned/test_burst.py has the datastore of home that fails.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId
from one_provider_mad.providers.simulated.cloud import Cloud
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.real_oned.front_end import FrontEnd, running_front_end
from tests.real_oned.hook_manager import hook_manager
from tests.real_oned.world import QUICK, STATES, Vm
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(900)]

SETTINGS = """
provider = "simulated"
owner = "test-misfortunes"
[simulated]
boot_time = 0.5
destroy_time = 0.2
shortage_memory = 60
[simulated.faults]
full = "{full}"
"""

PRIORITIES = {"near": -1, "far": -2}
"""Of two clouds the scheduler prefers the first."""


def settings(name: str, *, full: str = "") -> str:
    return f"{SETTINGS.format(full=full)}{QUICK}priority = {PRIORITIES[name]}\n"


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[FrontEnd]:
    """Two clouds, no room at home, and the hook."""
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    root = tmp_path_factory.mktemp("misfortunes")
    failed = request.session.testsfailed
    zone = FrontEnd(installed, root / "one", clouds=dict.fromkeys(PRIORITIES, "simulated"))
    for name in PRIORITIES:
        zone.place.configure(settings(name), name=name)
    with running_front_end(zone):
        zone.tool("install near --recreate-hook")
        with hook_manager(zone):
            yield zone
    if request.session.testsfailed == failed:
        shutil.rmtree(root)


def create(zone: FrontEnd, more: str = "") -> Vm:
    """A VM that any of the clouds may run."""
    attributes = f"PROVIDER_IMAGE_ID = img-alma-9, PROVIDER_INSTANCE_TYPE = small_256mb{more}"
    sections = "".join(f"PUBLIC_CLOUD = [ TYPE = {name}, {attributes} ]\n" for name in PRIORITIES)
    return Vm(zone, zone.call("one.vm.allocate", f'NAME = "burst"\nCPU = 1\nMEMORY = 128\n{sections}', False))


def hosts(vm: Vm) -> list[str]:
    """The hosts on which the VM was, one after the other."""
    document = vm.zone.document("one.vm.info", vm.number)
    return [each.findtext("HOSTNAME") or "" for each in document.iterfind("HISTORY_RECORDS/HISTORY")]


def interrupt(zone: FrontEnd, vm: Vm) -> None:
    """Have the cloud near take back the VM's instance, after a notice."""

    async def run() -> None:
        cloud = Cloud(zone.folder / "var" / "near.db", SimulatedSettings(), clock=time.time)
        await cloud.open()
        try:
            await cloud.interrupt(DeployId(vm.shown("DEPLOY_ID")), notice=5.0)
        finally:
            await cloud.close()

    asyncio.run(run())


def end(vm: Vm) -> None:
    vm.ask("terminate-hard")
    until(lambda: vm.state() == STATES["DONE"], seconds=60, pause=0.2)


def test_a_vm_that_a_cloud_out_of_room_refuses_runs_in_the_next_cloud(zone: FrontEnd) -> None:
    zone.place.configure(settings("near", full="NoCapacity"), name="near")
    refused, near = create(zone), zone.number_of("host", "near")
    until(lambda: refused.state() == STATES["RUNNING"], seconds=240, pause=0.2)
    assert hosts(refused)[0] == "near"
    assert hosts(refused)[-1] == "far"
    until(lambda: zone.free_cpu(near) <= 0, seconds=60, pause=0.2)
    after = create(zone)
    until(lambda: after.state() == STATES["RUNNING"], seconds=120, pause=0.2)
    assert hosts(after) == ["far"]
    zone.place.configure(settings("near"), name="near")
    until(lambda: zone.free_cpu(near) > 0, seconds=240, pause=0.5)
    for vm in (refused, after):
        end(vm)


def test_a_vm_whose_instance_is_taken_back_runs_again(zone: FrontEnd) -> None:
    vm = create(zone, ", INTERRUPTED = recreate")
    until(lambda: vm.state() == STATES["RUNNING"], seconds=120, pause=0.2)
    assert hosts(vm) == ["near"]
    first = vm.shown("DEPLOY_ID")
    interrupt(zone, vm)
    until(lambda: len(hosts(vm)) == 2 and vm.state() == STATES["RUNNING"], seconds=240, pause=0.2)
    assert vm.shown("DEPLOY_ID") != first
    end(vm)
