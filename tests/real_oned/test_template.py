"""`one-provider template` and `one-provider keep-place` with a real OpenNebula, its scheduler and its hooks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.cli.keep_place_hooks import check_hooks
from one_provider_mad.xmlrpc.local import LocalCore
from tests.end_to_end.oned import ROOT
from tests.real_oned.hook_manager import hook_manager
from tests.real_oned.scheduled_zone import ScheduledZone
from tests.real_oned.world import SIMULATED, STATES, Vm
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(600)]

AT_HOME = r"""
NAME = "app"
CPU = "4"
MEMORY = "128"
DESCRIPTION = "says \"hello\" and
a second line"
EMPTY = ""
CONTEXT = [ NETWORK = "YES", PASSWORD = "a password", EMPTY = "" ]
SCHED_REQUIREMENTS = "HYPERVISOR = \"kvm\" & CLUSTER_ID = 0"
SCHED_RANK = "FREE_CPU"
SCHED_DS_REQUIREMENTS = "NAME = \"home-system\""
"""
"""A template for hosts at home, where two of its VMs have room."""

ONE_PROVIDER = ROOT / "bin" / "one-provider"
_REPLACE, _ENABLE, _DISABLE, _APPEND, _RECREATE = 0, 0, 1, 1, 4


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScheduledZone]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    zone = ScheduledZone(installed, tmp_path_factory.mktemp("zone") / "one", clouds={"sim": "simulated"})
    zone.place.configure(SIMULATED, name="sim")
    zone.configure()
    try:
        zone.start()
        zone.follow_recipe()
        zone.add_home()
        zone.wait_for_host("sim")
        zone.call("one.host.update", zone.number_of("host", "sim"), 'PRIORITY = "-1"', _APPEND)
        # Up to 5.12.0 the scheduler takes any number for a host without it.
        zone.call("one.cluster.update", 0, 'PRIORITY = "0"', _APPEND)
        with hook_manager(zone):
            zone.run(f"{ONE_PROVIDER} keep-place --install")
            yield zone
    finally:
        zone.stop()


@pytest.fixture(scope="module")
def template(zone: ScheduledZone) -> int:
    """A template that was made able to burst: what `one-provider template` prints for it, as onetemplate takes it."""
    file = zone.folder / "app.txt"
    file.write_text(AT_HOME)
    zone.run(f"onetemplate create {file}")
    number = zone.number_of("template", "app")
    before = values_of(zone, number)
    file.write_text(printed(zone, number))
    zone.run(f"onetemplate update {number} {file}")
    after = values_of(zone, number)
    changed = {"SCHED_REQUIREMENTS", "SCHED_RANK", "SCHED_DS_REQUIREMENTS", "PUBLIC_CLOUD/TYPE"}
    assert {name: text for name, text in after.items() if name not in changed} == {
        name: text for name, text in before.items() if name not in changed
    }
    assert after["SCHED_REQUIREMENTS"] == '(HYPERVISOR = "kvm" & CLUSTER_ID = 0) | HYPERVISOR = "sim"'
    assert after["PUBLIC_CLOUD/TYPE"] == "sim"
    assert printed(zone, number) == file.read_text(), "it changes its own output"
    _create_from_file(zone, after)
    return number


def _create_from_file(zone: ScheduledZone, expected: dict[str, str]) -> None:
    """`onetemplate create` takes what is printed for a file, and makes the same template of it."""
    file = zone.folder / "file.txt"
    file.write_text(AT_HOME)
    file.write_text(zone.run(f"{ONE_PROVIDER} template {file} --for sim").replace('"app"', '"from-file"'))
    zone.run(f"onetemplate create {file}")
    made = values_of(zone, zone.number_of("template", "from-file"))
    encrypted = "CONTEXT/PASSWORD"
    assert {**made, encrypted: ""} == {**expected, encrypted: ""}


def printed(zone: ScheduledZone, number: int) -> str:
    return zone.run(f"{ONE_PROVIDER} template {number} --for sim")


def values_of(zone: ScheduledZone, number: int) -> dict[str, str]:
    """All values of a template, by path."""
    root = zone.document("one.template.info", number).find("TEMPLATE")
    assert root is not None
    return {
        f"{each.tag}/{inner.tag}" if inner is not each else each.tag: inner.text or ""
        for each in root
        for inner in (list(each) or [each])
    }


def expected(zone: ScheduledZone, number: int) -> dict[str, Any]:
    """What --dry-run says of the scheduler."""
    found: dict[str, Any] = json.loads(zone.run(f"{ONE_PROVIDER} template {number} --for sim --dry-run --json"))
    assert found["changes"] == []
    assert found["clouds"][0]["refused"] is None
    placement: dict[str, Any] = found["placement"]
    ranks = {each["name"]: each["rank"] for each in placement["hosts"]}
    assert ranks["home"] >= 0 > ranks["sim"], "PRIORITY comes before FREE_CPU, of which the cloud has more"
    return {"chosen": placement["chosen"], **{each["name"]: each["obstacle"] for each in placement["hosts"]}}


def start(zone: ScheduledZone, template: int, name: str) -> Vm:
    """A VM that the scheduler has placed, and that runs."""
    vm = Vm(zone, zone.call("one.template.instantiate", template, name, False, "", False))
    vm.reach("RUNNING")
    return vm


def host_of(vm: Vm) -> str:
    return vm.zone.document("one.vm.info", vm.number).findall("HISTORY_RECORDS/HISTORY/HOSTNAME")[-1].text or ""


def end(*vms: Vm) -> None:
    for vm in vms:
        vm.ask("terminate-hard")
    for vm in vms:
        vm.reach("DONE")


def test_the_scheduler_places_vms_of_the_printed_template_as_the_dry_run_says(
    zone: ScheduledZone, template: int
) -> None:
    assert expected(zone, template) == {"chosen": "home", "home": None, "sim": None}
    first = start(zone, template, "first")
    second = start(zone, template, "second")
    assert [host_of(first), host_of(second)] == ["home", "home"]
    full = "it has 0 CPU free, and the VM takes 4"
    assert expected(zone, template) == {"chosen": "sim", "home": full, "sim": None}
    third = start(zone, template, "third")
    assert host_of(third) == "sim"
    end(first, second, third)


def test_an_undeployed_vm_is_resumed_where_its_disk_is_and_a_recreated_one_may_go_to_either(
    zone: ScheduledZone, template: int
) -> None:
    at_home, other = start(zone, template, "at-home"), start(zone, template, "other")
    in_cloud = start(zone, template, "in-cloud")
    assert [host_of(each) for each in (at_home, other, in_cloud)] == ["home", "home", "sim"]
    own = at_home.shown("USER_TEMPLATE/SCHED_REQUIREMENTS")
    for vm, action, state in ((at_home, "undeploy", "UNDEPLOYED"), (in_cloud, "stop", "STOPPED")):
        vm.ask(action)
        vm.reach(state)
    end(other)
    until(lambda: all(each.shown("USER_TEMPLATE/PROVIDER_PLACE") for each in (at_home, in_cloud)), pause=0.2)
    home = zone.number_of("host", "home")
    zone.call("one.host.status", home, _DISABLE)
    at_home.ask("resume")
    # mm_sched names requirements or capacity, whichever it looks at first.
    until(lambda: "host" in at_home.shown("USER_TEMPLATE/SCHED_MESSAGE").lower(), pause=0.5)
    assert at_home.state() == (1, 0), "pending, while the cloud has room"
    zone.call("one.host.status", home, _ENABLE)
    in_cloud.ask("resume")
    for vm, host in ((at_home, "home"), (in_cloud, "sim")):
        vm.reach("RUNNING")
        assert host_of(vm) == host
    assert len(zone.place.instances(name="sim")) == 1

    zone.call("one.vm.recover", in_cloud.number, _RECREATE)
    until(lambda: not in_cloud.shown("USER_TEMPLATE/PROVIDER_PLACE"), pause=0.2)
    in_cloud.reach("RUNNING")
    assert in_cloud.shown("USER_TEMPLATE/SCHED_REQUIREMENTS") == own
    end(at_home, in_cloud)
    until(lambda: not zone.place.instances(name="sim"), pause=0.5)


def test_a_vm_that_no_cloud_could_take_is_left_as_it_is(zone: ScheduledZone) -> None:
    text = 'NAME = "plain"\nCPU = 1\nMEMORY = 64\nSCHED_REQUIREMENTS = "HYPERVISOR = kvm"\n'
    text += 'SCHED_DS_REQUIREMENTS = "NAME = \\"home-system\\""\n'
    vm = Vm(zone, zone.call("one.vm.allocate", text, False))
    vm.reach("RUNNING")
    vm.ask("undeploy")
    vm.reach("UNDEPLOYED")
    done = zone.run(f"{ONE_PROVIDER} keep-place {vm.number}")
    assert done == f"VM {vm.number} is left as it is: it can go to no other kind of host than those of dummy\n"
    assert vm.shown("USER_TEMPLATE/SCHED_REQUIREMENTS") == "HYPERVISOR = kvm"
    assert vm.state() == STATES["UNDEPLOYED"]


def test_the_hooks_are_made_once_and_removed(zone: ScheduledZone) -> None:
    assert zone.run(f"{ONE_PROVIDER} keep-place --install").count("is there already") == 3
    assert [each.is_well for each in check_hooks(LocalCore(zone.environ))] == [True]
    assert zone.run(f"{ONE_PROVIDER} keep-place --remove").count("was removed") == 3
    assert [each.is_well for each in check_hooks(LocalCore(zone.environ))] == [None]
    assert zone.run(f"{ONE_PROVIDER} keep-place --remove") == "there are no such hooks\n"
