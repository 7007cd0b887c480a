"""VMs that nobody uses, under a real OpenNebula: warned, powered off through its API, and started again by their user.

`make test-oned ONE=/opt/one-7.4.0` runs this too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.real_oned.world import QUICK, Vm, add_ordinary_host, deploy, running
from tests.real_oned.zone import Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(400)]

SETTINGS = f"""provider = "simulated"
owner = "test-oned"
[idle]
action = "poweroff"
interval = 1
cpu = 0
{QUICK}"""

ALWAYS_IDLE = 'PROVIDER_IDLE = [ CPU = "100000", AFTER = "4", NOTICE = "4" ]'
"""A simulated instance has a load in waves."""

OLD = 'PROVIDER_IDLE = [ AFTER = "0", LIFETIME = "12", NOTICE = "6" ]'

ONES_OWN_GROUP = 0


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Zone]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    root = tmp_path_factory.mktemp("oned")
    failed = request.session.testsfailed
    zone = Zone(installed, root / "one", clouds={"sim": "simulated"})
    zone.place.configure(SETTINGS, name="sim")
    with running(zone):
        add_ordinary_host(zone)
        zone.follow_recipe()
        yield zone
    if request.session.testsfailed == failed:
        shutil.rmtree(root)


def deployed(zone: Zone, more: str = "") -> Vm:
    """A running VM in the cloud, with further attributes."""
    vm = Vm(zone, zone.call("one.template.instantiate", zone.number_of("template", "in-sim"), "", True, more, False))
    deploy(zone, vm, "sim")
    vm.reach("RUNNING")
    return vm


def warning(vm: Vm) -> str:
    return vm.shown("USER_TEMPLATE/PROVIDER_IDLE_WARNING")


def is_told(vm: Vm) -> bool:
    return warning(vm).startswith("powered off, since the VM")


def test_vms_that_ask_for_it_are_warned_and_powered_off_and_others_run_on(zone: Zone) -> None:
    idle, old, other, used = (
        deployed(zone, ALWAYS_IDLE),
        deployed(zone, OLD),
        deployed(zone),
        deployed(zone, 'PROVIDER_IDLE = "YES"'),
    )
    until(lambda: "the VM has used at most 100000 % of a core for" in warning(idle), seconds=60)
    assert "it is powered off at " in warning(idle)
    assert "which saves 0.005" in warning(idle)
    until(lambda: "the VM may run for 12 s and was started" in warning(old), seconds=60)
    for vm in (idle, old):
        vm.reach("POWEROFF")
        until(partial(is_told, vm), seconds=20)
        assert f"onevm resume {vm.number} starts it again" in vm.log()
        assert "it is powered off at " in vm.log()
    assert (other.state(), warning(other)) == ((3, 3), "")
    assert (used.state(), warning(used)) == ((3, 3), "")
    zone.call("one.vm.update", idle.number, 'PROVIDER_IDLE = "NO"', 1)
    idle.ask("resume")
    idle.reach("RUNNING")
    until(lambda: not warning(idle), seconds=20)


def test_a_group_asks_for_all_its_vms_but_those_that_say_no(zone: Zone) -> None:
    spared = deployed(zone, 'PROVIDER_IDLE = "NO"')
    vm = deployed(zone)
    zone.call("one.group.update", ONES_OWN_GROUP, ALWAYS_IDLE, 1)
    vm.reach("POWEROFF")
    assert (spared.state(), warning(spared)) == ((3, 3), "")
