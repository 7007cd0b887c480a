"""Home is full, so VMs start in the cloud by themselves: files as shipped, with what `oned-conf` prints.

`make test-oned ONE=/opt/one-7.4.0` runs this too. What tools/burst has measured is in the report of each test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.lab.ec2.account import Account
from one_provider_mad.lab.ec2.background import Background
from one_provider_mad.lab.ec2.offers import EC2_TYPES
from one_provider_mad.lab.ec2.server import Server
from one_provider_mad.lab.ec2.signatures import Key
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.end_to_end.oned import ROOT
from tests.real_oned.front_end import HOME, FrontEnd, running_front_end
from tests.real_oned.world import STATES, Vm
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(1800)]

SIMULATED = """
provider = "simulated"
owner = "test-burst"
[simulated]
latency = 0.2
boot_time = 0.6
"""
"""A cloud that answers in a second; monitored at OpenNebula's periods."""

EC2 = """
provider = "ec2"
owner = "test-burst"
[ec2]
region = "eu-west-1"
endpoint_url = "{url}"
access_key_id = "AKIDEXAMPLE"
secret_access_key = "not-much-of-a-secret"
call_share = 1.0
[ec2.defaults]
INSTANCETYPE = "t3.small"
AMI = "ami-0123456789abcdef0"
"""
"""An account that is paced as a new one: RunInstances 5, then 2 a second."""

ROOM = "[capacity]\ninstance_types = {{ small_256mb = {} }}\n"
"""What the cloud's host has room for."""

PENDING = (1, 0)

VMS = int(os.environ.get("BURST") or 100)
"""How many VMs are created at once."""


@pytest.fixture(scope="module")
def installed() -> Path:
    folder = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (folder / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    return folder


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that is kept after a failure."""
    failed = request.session.testsfailed
    yield tmp_path
    if request.session.testsfailed == failed:
        shutil.rmtree(tmp_path)


@contextmanager
def front_end(
    installed: Path, root: Path, *, own: Mapping[str, str] | None = None, **settings: str
) -> Iterator[FrontEnd]:
    """A running front-end with these clouds, each named as its kind of provider."""
    zone = FrontEnd(installed, root / "one", clouds={name: name for name in settings}, own=own)
    for name, text in settings.items():
        zone.place.configure(text, name=name)
    with running_front_end(zone):
        yield zone


@contextmanager
def ec2_endpoint(root: Path) -> Iterator[str]:
    """EC2's API on a simulated cloud that takes a second for a call, and five for a boot; yields its URL."""
    offered = SimulatedSettings(
        account="123456789012", region="eu-west-1", latency=1.0, boot_time=5.0, instance_types=dict(EC2_TYPES)
    )
    server = Server(Account(root / "ec2.db", offered), keys={"AKIDEXAMPLE": Key("not-much-of-a-secret")})
    with Background(server) as endpoint:
        yield endpoint.url


def burst(zone: FrontEnd, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run tools/burst to its end."""
    command = [str(ROOT / "tools" / "burst"), "--name", name, *options]
    return subprocess.run(command, env=zone.environ, cwd=zone.folder, capture_output=True, text=True, timeout=800)


def measured(zone: FrontEnd, name: str, *options: str) -> Mapping[str, Any]:
    """What a burst with stand-ins for hosts at home has shown."""
    stand_in = ("--stand-in", "2", "--stand-in-drivers", HOME, HOME)
    done = burst(zone, name, "--json", *stand_in, *options)
    sys.stderr.write(f"{done.stderr}{done.stdout}")
    assert done.stdout, done.stderr
    result: Mapping[str, Any] = json.loads(done.stdout)
    assert (result["problems"], done.returncode) == ([], 0)
    return result


def assert_home_is_full_and_the_rest_in_the_cloud(result: Mapping[str, Any], name: str) -> None:
    at_home = [result["hosts"].get(host) for host in result["home"]]
    assert (at_home, result["hosts"][name], result["instances"]) == ([2, 2], VMS - 4, VMS - 4)
    assert result["running"] == VMS
    assert result["next_host"] in result["home"]


def test_of_100_vms_at_once_home_takes_what_fits_and_the_simulated_cloud_the_rest(installed: Path, root: Path) -> None:
    with front_end(installed, root, simulated=SIMULATED) as zone:
        assert_home_is_full_and_the_rest_in_the_cloud(measured(zone, "simulated", "--vms", str(VMS)), "simulated")
        assert zone.errors() == []


def test_of_100_vms_at_once_home_takes_what_fits_and_ec2_the_rest(installed: Path, root: Path) -> None:
    with ec2_endpoint(root) as url, front_end(installed, root, ec2=EC2.format(url=url)) as zone:
        assert_home_is_full_and_the_rest_in_the_cloud(measured(zone, "ec2", "--vms", str(VMS)), "ec2")
        assert zone.errors() == []


# Home, VM by VM


def vm_template(zone: FrontEnd) -> int:
    """A template without images and networks, which runs at home and in the cloud."""
    section = f"PUBLIC_CLOUD = [ TYPE = simulated, {', '.join(IN_THE_CLOUD)} ]"
    return int(zone.call("one.template.allocate", f'NAME = "burst"\nCPU = 1\nMEMORY = 128\n{section}\n'))


IN_THE_CLOUD = ("PROVIDER_IMAGE_ID = img-alma-9", "PROVIDER_INSTANCE_TYPE = small_256mb")


def create(zone: FrontEnd, template: int) -> Vm:
    return Vm(zone, zone.call("one.template.instantiate", template, "", False, "", False))


def started(vm: Vm) -> str:
    """The host on which a VM runs, as soon as it does."""
    until(lambda: vm.state() == STATES["RUNNING"], seconds=120, pause=0.2)
    return vm.shown("HISTORY_RECORDS/HISTORY/HOSTNAME")


@pytest.mark.parametrize(("policy", "hosts"), [pytest.param(0, 1, id="packing"), pytest.param(1, 2, id="striping")])
def test_at_home_vms_are_packed_or_spread_by_the_administrators_own_policy(
    installed: Path, root: Path, policy: int, hosts: int
) -> None:
    own = dict.fromkeys(("sched.conf", "schedulers/rank.conf"), f"DEFAULT_SCHED = [ POLICY = {policy} ]\n")
    with front_end(installed, root, own=own, simulated=SIMULATED) as zone:
        zone.add_home("home0", "home1")
        template = vm_template(zone)
        at_home = {started(create(zone, template)) for _ in range(2)}
        assert at_home <= {"home0", "home1"}
        assert len(at_home) == hosts


def test_a_full_cloud_lets_vms_wait_with_the_reason_until_it_or_home_has_room(installed: Path, root: Path) -> None:
    with front_end(installed, root, simulated=SIMULATED + ROOM.format(1)) as zone:
        zone.add_home("home0")
        template, cloud = vm_template(zone), zone.number_of("host", "simulated")
        placed = [create(zone, template) for _ in range(3)]
        assert sorted(map(started, placed)) == ["home0", "home0", "simulated"]
        waiting = create(zone, template)
        until(lambda: "host" in waiting.shown("USER_TEMPLATE/SCHED_MESSAGE").lower(), seconds=90, pause=0.5)
        assert waiting.state() == PENDING
        zone.place.configure(SIMULATED + ROOM.format(2), name="simulated")
        until(lambda: zone.free_cpu(cloud) > 0, seconds=300, pause=0.5)
        until(lambda: waiting.state() == STATES["RUNNING"], seconds=90, pause=0.2)
        assert waiting.shown("HISTORY_RECORDS/HISTORY/HOSTNAME") == "simulated"
        waiting = create(zone, template)
        until(lambda: waiting.shown("USER_TEMPLATE/SCHED_MESSAGE"), seconds=90, pause=0.5)
        at_home = next(vm for vm in placed if started(vm) == "home0")
        at_home.ask("terminate-hard")
        assert started(waiting) == "home0"
        assert zone.errors() == []


def test_a_datastore_of_home_that_fails_is_named_while_vms_start_in_the_cloud(installed: Path, root: Path) -> None:
    with front_end(installed, root, simulated=SIMULATED) as zone:
        zone.add_home("home0")
        template, cloud = vm_template(zone), zone.number_of("host", "simulated")
        store = zone.number_of("datastore", "home-system")
        zone.call("one.datastore.enable", store, False)
        assert started(create(zone, template)) == "simulated"
        # Up to 5.10 oned asks every 180 s, and an answer has what was found after the one before.
        until(lambda: "home-system" in zone.shown_of("host", cloud, "TEMPLATE/PROVIDER_WARNING"), seconds=600, pause=1)
        zone.call("one.datastore.enable", store, True)
        assert started(create(zone, template)) == "home0"
        until(lambda: zone.shown_of("host", cloud, "TEMPLATE/PROVIDER_WARNING") == "-", seconds=600, pause=1)
