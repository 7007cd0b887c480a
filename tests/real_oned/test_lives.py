"""Whole lives of VMs under a real OpenNebula, in three clouds at once, with kill -9 of drivers and core.

`make test-oned ONE=/opt/one-7.4.0` runs this; ONE is the directory of an installed OpenNebula, its ONE_LOCATION.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from one_provider_mad.lab.demo_ec2 import ec2_stage
from one_provider_mad.lab.ec2.topology import SUBNET
from tests.real_oned.world import (
    CLOUDS,
    MAPPED,
    PARTNER,
    SIMULATED,
    STATES,
    Vm,
    World,
    deploy_on_ordinary_host,
    partner_zone,
    rule_for,
    running,
)
from tests.real_oned.zone import Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    root = tmp_path_factory.mktemp("oned")
    failed = request.session.testsfailed
    with ExitStack() as stack:
        play = stack.enter_context(ec2_stage(root))
        partner = stack.enter_context(partner_zone(installed, root / "partner"))
        zone = Zone(installed, root / "one", clouds=CLOUDS, environ=play.environ)
        zone.place.configure(SIMULATED)
        zone.place.configure(play.settings + MAPPED, name="ec2")
        auth = partner.folder / ".one" / "one_auth"
        zone.place.configure(PARTNER.format(url=partner.url, auth=auth), name="partner")
        stack.enter_context(running(zone))
        yield World(zone)
    if request.session.testsfailed == failed:
        shutil.rmtree(root)


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_vm_goes_through_its_whole_life_with_one_instance(world: World, cloud: str) -> None:
    vm = world.run(cloud)
    assert len(world.instances(cloud)) == 1
    until(vm.monitored_at, seconds=60)
    for actions in (("poweroff", "POWEROFF"), ("suspend", "SUSPENDED", "POWEROFF")):  # EC2 stops instead of suspending
        vm.ask(actions[0])
        vm.reach(*actions[1:])
        vm.ask("resume")
        vm.reach("RUNNING")
    vm.ask("reboot")
    for action, state in {"undeploy": "UNDEPLOYED", "stop": "STOPPED"}.items():
        vm.ask(action)
        vm.reach(state)
        world.deploy(vm, cloud)
        vm.reach("RUNNING")
    assert len(world.instances(cloud)) == 1
    vm.ask("terminate")
    vm.reach("DONE")
    assert world.instances(cloud) == {}


def test_a_vm_shows_its_address_while_it_runs(world: World) -> None:
    """Sunstone and FireEdge show this attribute. EC2 gives the address of a stopped instance to others."""
    vm = world.run("ec2")
    until(lambda: vm.monitored("AWS_PUBLIC_IP_ADDRESS"), seconds=60, pause=0.1)
    vm.ask("poweroff")
    vm.reach("POWEROFF")
    until(lambda: not vm.monitored("AWS_PUBLIC_IP_ADDRESS"), seconds=60, pause=0.1)
    vm.ask("resume")
    vm.reach("RUNNING")
    until(lambda: vm.monitored("AWS_PUBLIC_IP_ADDRESS"), seconds=60, pause=0.1)
    vm.ask("terminate")
    vm.reach("DONE")


def test_a_template_with_image_and_network_runs_at_home_and_in_the_cloud(world: World) -> None:
    """The image is mapped by the configuration, the network by attributes of its own, which the core hands on.

    Up to 6.10 the core places a VM in a cloud only by a PUBLIC_CLOUD section.
    """
    group = world.add_image_and_network()
    section = "" if world.zone.release >= (7, 0) else 'PUBLIC_CLOUD = [ TYPE = "ec2" ]\n'
    disks = 'DISK = [ IMAGE = "debian-12" ]\nDISK = [ TYPE = "fs", FORMAT = "raw", SIZE = "2048" ]\n'
    text = f'NAME = "web"\nCPU = 0.1\nMEMORY = 64\n{disks}NIC = [ NETWORK = "private" ]\n{section}'
    number = world.zone.call("one.template.allocate", text)
    at_home, burst = (
        Vm(world.zone, world.zone.call("one.template.instantiate", number, "", True, "", False)) for _ in range(2)
    )
    if not section:
        deploy_on_ordinary_host(world.zone, at_home.number)
        at_home.reach("RUNNING")
    world.deploy(burst, "ec2")
    burst.reach("RUNNING")
    leased = world.zone.document("one.vm.info", burst.number).findtext("TEMPLATE/NIC/IP")
    assert leased
    until(lambda: burst.monitored("AWS_PRIVATE_IP_ADDRESS") == leased, seconds=60)
    assert burst.monitored("AWS_IMAGE_ID") == "ami-0deb"
    assert burst.monitored("AWS_SUBNET_ID") == SUBNET
    assert [each.partition(":")[0] for each in burst.monitored("AWS_VOLUMES").split(",")] == ["/dev/xvda", "/dev/sdf"]
    at_home.ask("terminate-hard")
    at_home.reach("DONE")
    everything, changed = {"0": [-1]}, {str(group): [80]}  # the core gives every network its group 0, too
    assert world.groups() == {**everything, str(group): [22]}
    world.zone.call("one.secgroup.update", group, rule_for(80), 0)
    until(lambda: world.groups() == {**everything, **changed}, seconds=60)
    if world.zone.release >= (7, 0):
        world.zone.call("one.vm.detachsg", burst.number, 0, 0)
        until(lambda: world.groups() == changed, seconds=60)
        world.zone.call("one.vm.attachsg", burst.number, 0, 0)
        until(lambda: world.groups() == {**everything, **changed}, seconds=60)
    database = world.zone.call("one.secgroup.allocate", f'NAME = "database"\n{rule_for(5432)}')
    nic = f'NIC = [ NETWORK = "private", SECURITY_GROUPS = "{database}" ]'
    world.zone.call("one.vm.attachnic", burst.number, nic)
    until(lambda: world.groups() == {**everything, **changed, str(database): [5432]}, seconds=60)
    burst.reach("RUNNING")
    burst.ask("terminate-hard")
    burst.reach("DONE")
    assert world.instances("ec2") == {}


def test_actions_interrupted_by_killing_the_driver_are_completed(world: World, cloud: str) -> None:
    vm = world.create(cloud)

    def interrupt(ask: Callable[[], None], state: str) -> None:
        ask()
        until(lambda: world.zone.place.unanswered(name=cloud), seconds=30, pause=0)
        world.zone.kill_driver("one_vmm_provider", cloud)
        vm.reach(state)

    interrupt(lambda: world.deploy(vm, cloud), "RUNNING")
    assert len(world.instances(cloud)) == 1
    interrupt(lambda: vm.ask("poweroff"), "POWEROFF")
    interrupt(lambda: vm.ask("resume"), "RUNNING")
    assert len(world.instances(cloud)) == 1
    interrupt(lambda: vm.ask("terminate"), "DONE")
    until(lambda: not world.instances(cloud), seconds=30)


def test_actions_interrupted_by_killing_oned_are_completed(world: World) -> None:
    """In all clouds at once. Requests that had not begun when oned died would fail, so all have begun."""
    vms = {cloud: world.create(cloud) for cloud in CLOUDS}

    def interrupt(ask: Callable[[Vm, str], None], state: str) -> None:
        before = {cloud: world.instances(cloud) for cloud in CLOUDS}
        for cloud, vm in vms.items():
            ask(vm, cloud)
        until(lambda: all(world.instances(cloud) != before[cloud] for cloud in CLOUDS), seconds=60, pause=0)
        world.zone.kill()
        world.zone.start()
        for vm in vms.values():
            vm.finish_epilog()
            vm.reach(state)

    interrupt(world.deploy, "RUNNING")
    assert [len(world.instances(cloud)) for cloud in CLOUDS] == [1, 1, 1]
    interrupt(lambda vm, _: vm.ask("poweroff"), "POWEROFF")
    interrupt(lambda vm, _: vm.ask("resume"), "RUNNING")
    assert [len(world.instances(cloud)) for cloud in CLOUDS] == [1, 1, 1]
    interrupt(lambda vm, _: vm.ask("terminate"), "DONE")
    until(lambda: not any(world.instances(cloud) for cloud in CLOUDS), seconds=30)


def until_reported(vm: Vm) -> None:
    """Return right after a report of this VM."""
    first = until(vm.monitored_at, seconds=90)
    until(lambda: vm.monitored_at() > first, seconds=90, pause=0.1)


def test_vms_are_monitored_again_after_the_information_driver_was_killed(world: World) -> None:
    vms = {cloud: world.run(cloud) for cloud in CLOUDS}
    before = {}
    for cloud, vm in vms.items():
        # Right after a report: up to 5.10 oned waits 300 s for the answer to an open MONITOR
        # (src/im/InformationManager.cc, monitor_expire).
        until_reported(vm)
        world.zone.kill_driver("one_im_provider", cloud)
        before[cloud] = vm.monitored_at()
    until(lambda: all(vm.monitored_at() > before[cloud] for cloud, vm in vms.items()), seconds=90, pause=0.2)
    for vm in vms.values():
        vm.ask("terminate")
        vm.reach("DONE")


def test_vm_on_an_ordinary_host_was_not_changed(world: World) -> None:
    document = world.zone.document("one.vm.info", world.ordinary.number)
    assert (world.ordinary.state(), len(document.findall("HISTORY_RECORDS/HISTORY"))) == (STATES["RUNNING"], 1)
    world.ordinary.ask("terminate")
    world.ordinary.reach("DONE")


def test_driver_logs_have_no_unexpected_error(world: World) -> None:
    logs = sorted((world.zone.folder / "var").glob("one_*_provider_*.log"))
    assert len(logs) == len(CLOUDS) * 2
    defects = [
        line for log in logs for line in log.read_text().splitlines() if "unexpected" in line or "Traceback" in line
    ]
    assert defects == []
