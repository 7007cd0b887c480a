"""A limit of a month that is reached, under a real OpenNebula: VMs are warned, and powered off through its API.

`make test-oned ONE=/opt/one-7.4.0` runs this too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_oned.world import QUICK, STATES, Vm, add_ordinary_host, deploy, running
from tests.real_oned.zone import Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(600)]

SETTINGS = f"""provider = "simulated"
owner = "test-oned"
{QUICK}[simulated.prices]
disk = 0
address = 0
"""

LIMITED = f"""{SETTINGS}[budget]
at_limit = "poweroff"
max_per_month = 0.000001
"""

RAISED = LIMITED.replace("0.000001", "1000")


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


def deployed(zone: Zone) -> Vm:
    """A running VM in the cloud."""
    vm = Vm(zone, zone.call("one.template.instantiate", zone.number_of("template", "in-sim"), "", True, "", False))
    deploy(zone, vm, "sim")
    vm.reach("RUNNING")
    return vm


def host_warning(zone: Zone) -> str:
    host = zone.document("one.host.info", zone.number_of("host", "sim"))
    return host.findtext("TEMPLATE/PROVIDER_WARNING") or ""


def test_vms_beyond_the_limit_are_warned_and_powered_off_and_run_again_once_it_is_raised(zone: Zone) -> None:
    vms = [deployed(zone), deployed(zone)]
    zone.place.configure(LIMITED, name="sim")
    warning = "max_per_month of sim, 0.000001 USD, is reached: the VM is powered off in 60 s"
    for vm in vms:
        until(lambda vm=vm: warning in vm.log(), seconds=150)  # type: ignore[misc]
    until(lambda: "100 % of budget.max_per_month = 0.000001" in host_warning(zone), seconds=60)
    for vm in reversed(vms):
        until(lambda vm=vm: vm.state() == STATES["POWEROFF"], seconds=150)  # type: ignore[misc]
        until(lambda vm=vm: f"onevm resume {vm.number} starts it once a new month" in vm.log(), seconds=20)  # type: ignore[misc]
    vm = vms[0]
    vm.ask("resume")
    until(lambda: "max_per_month of sim is 0.000001 USD" in vm.log(), seconds=60)
    zone.place.configure(RAISED, name="sim")
    until(lambda: "budget" not in host_warning(zone), seconds=90)
    vm.reach("POWEROFF")
    vm.ask("resume")
    vm.reach("RUNNING")
