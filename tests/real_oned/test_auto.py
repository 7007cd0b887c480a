"""VMs that leave their type to the driver, and VMs that name one of another size, under a real OpenNebula.

`make test-oned ONE=/opt/one-7.4.0` runs this; ONE is the directory of an installed OpenNebula, its ONE_LOCATION.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_oned.world import SIMULATED, STATES, Vm, add_ordinary_host, deploy, running
from tests.real_oned.zone import Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(300)]

BOOT_FAILURE = (3, 36)

FULL = '\n[simulated.capacity]\nsmall_512mb = 0\n[policy]\nsize_check = "{}"\n'


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zone]:
    """A zone with one cloud, whose second-smallest type is full."""
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    zone = Zone(installed, tmp_path_factory.mktemp("auto") / "one", clouds={"simulated": "simulated"})
    zone.place.configure(SIMULATED + FULL.format("refuse"), name="simulated")
    with running(zone):
        add_ordinary_host(zone)
        zone.follow_recipe()
        yield zone


def deployed(zone: Zone, size: str, section: str) -> Vm:
    """A VM with this size and section that is being deployed."""
    text = f'{size}PUBLIC_CLOUD = [ TYPE = "simulated", PROVIDER_IMAGE_ID = "id-1", {section} ]\n'
    vm = Vm(zone, zone.call("one.vm.allocate", text, True))
    deploy(zone, vm, "simulated")
    return vm


def test_auto_takes_the_cheapest_type_that_holds_the_vm_and_has_room(zone: Zone) -> None:
    vm = deployed(zone, "CPU = 0.5\nVCPU = 1\nMEMORY = 300\n", 'PROVIDER_INSTANCE_TYPE = "auto"')
    vm.reach("RUNNING")
    until(lambda: vm.shown("MONITORING/SIM_INSTANCE_TYPE") == "medium_1gb", seconds=60, pause=0.2)
    assert "has room for 0 instances of type small_512mb" in vm.log()
    vm.ask("terminate-hard")
    until(lambda: vm.state() == STATES["DONE"], seconds=60, pause=0.2)


def test_a_named_type_that_is_far_larger_than_the_template_is_refused_with_a_remedy(zone: Zone) -> None:
    vm = deployed(zone, "CPU = 0.1\nMEMORY = 256\n", 'PROVIDER_INSTANCE_TYPE = "large_8gb"')
    until(lambda: vm.state() == BOOT_FAILURE, seconds=60, pause=0.2)
    assert "instance type large_8gb has 4 cores and 8192 MiB, more than 4 times CPU=0.1 and MEMORY=256" in vm.log()
    assert "set CPU=4 and MEMORY=8192, or name a smaller type, or auto (policy.size_check)" in vm.log()
    assert [each for each in zone.place.instances(name="simulated") if each["vm_id"] == vm.number] == []
