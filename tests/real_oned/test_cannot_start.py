"""Drivers without an environment under a real OpenNebula: they stay, say the cause, and start once they can."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.oned import ROOT
from tests.real_oned.world import SIMULATED, World, running
from tests.real_oned.zone import OURS, Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(300)]

BOOT_FAILURE = (3, 36)
"""STATE and LCM_STATE (OpenNebula include/VirtualMachine.h)."""

RETRY = 2
"""The operation of `onevm recover --retry`."""


def test_drivers_without_environment_fail_a_deploy_with_the_cause_and_start_once_they_can(tmp_path: Path) -> None:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    checkout = tmp_path / "checkout"
    for name in ("bin", "one_provider_mad"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", checkout)  # without it, it is an environment of pip's
    zone = Zone(installed, tmp_path / "one", clouds={"simulated": "simulated"}, checkout=checkout)
    zone.place.configure(SIMULATED)
    cause = f"the driver cannot start: {checkout}/.venv does not exist"
    with running(zone):
        until(lambda: cause in (zone.folder / "var" / "oned.log").read_text(), seconds=30)
        first = {program: min(zone.processes("cannot_start.sh", program)) for program in OURS}
        world = World(zone)
        vm = world.create("simulated")
        world.deploy(vm, "simulated")
        until(lambda: vm.state() == BOOT_FAILURE, seconds=30)
        assert cause in vm.log()
        error = zone.document("one.vm.info", vm.number).findtext("USER_TEMPLATE/ERROR") or ""
        assert cause[:40] in error
        log = "monitor.log" if zone.release >= (5, 12) else "oned.log"
        until(lambda: (zone.folder / "var" / log).read_text().count(f"E]: {cause}") > 0, seconds=30)
        assert first == {program: min(zone.processes("cannot_start.sh", program)) for program in OURS}, "none restarted"
        (checkout / ".venv").symlink_to(ROOT / ".venv")
        until(lambda: not zone.processes("cannot_start.sh"), seconds=60)
        until(lambda: all(zone.processes(program, "simulated") for program in OURS), seconds=60)
        zone.call("one.vm.recover", vm.number, RETRY)
        vm.reach("RUNNING")
        assert len(world.instances("simulated")) == 1
    shutil.rmtree(tmp_path)
