"""A cloud that has no room, under a real OpenNebula and its own scheduler: no VM is sent there until it has room again.

`make test-oned ONE=/opt/one-7.4.0` runs this too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from one_provider_mad.lab.ec2.account import Account
from one_provider_mad.lab.ec2.answers import Answer
from one_provider_mad.lab.ec2.background import Background
from one_provider_mad.lab.ec2.offers import EC2_TYPES
from one_provider_mad.lab.ec2.refusals import Refusal
from one_provider_mad.lab.ec2.server import Call, Server
from one_provider_mad.lab.ec2.signatures import Key
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.real_oned.world import Vm, add_ordinary_host, running
from tests.real_oned.zone import Zone, tail
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(600)]

SETTINGS = """provider = "simulated"
owner = "test-oned"
[simulated]
shortage_memory = 45
[simulated.faults]
full = "{full}"
"""

EC2_SETTINGS = """provider = "ec2"
owner = "test-oned"
[ec2]
region = "eu-west-1"
endpoint_url = "{url}"
access_key_id = "AKIDEXAMPLE"
secret_access_key = "not-much-of-a-secret"
watch_interval = 0.1
visibility_grace = 5.0
shortage_memory = 45
[ec2.defaults]
INSTANCETYPE = "t3.small,t3a.small"
"""

DEFAULT_TYPES = 'PUBLIC_CLOUD = [ TYPE = "ec2", AMI = "ami-0123456789abcdef0" ]'
"""For the recipe's template, which names a type of its own."""

SCHEDULER = """
SCHED_MAD = [ EXECUTABLE = "one_sched", ARGUMENTS = "-t 15 -p rank -o one_drs" ]
SCHED_RETRY_TIME = 60
SCHED_MAX_WND_TIME = 2
SCHED_MAX_WND_LENGTH = 100
"""
"""From 7.0 on the scheduler is a driver of oned's: as shipped."""

_PENDING, _BOOT_FAILURE, _RECOVER_DELETE = (1, 0), (3, 36), 3


class ShortEc2(Server):
    """EC2's API on the simulated cloud; some types have no capacity.

    Args:
        folder: for the account's file.

    Attributes:
        short: these types.
    """

    def __init__(self, folder: Path) -> None:
        offered = SimulatedSettings(account="123456789012", region="eu-west-1", instance_types=dict(EC2_TYPES))
        super().__init__(Account(folder / "ec2.db", offered), keys={"AKIDEXAMPLE": Key("not-much-of-a-secret")})
        self.short: frozenset[str] = frozenset()

    async def perform(self, call: Call) -> Answer:
        kind = call.form.get("InstanceType", "")
        if call.action == "RunInstances" and kind in self.short:
            raise Refusal("InsufficientInstanceCapacity", f"There is no {kind}.", status=500)
        return await super().perform(call)


@pytest.fixture(scope="module")
def ec2(tmp_path_factory: pytest.TempPathFactory) -> ShortEc2:
    return ShortEc2(tmp_path_factory.mktemp("ec2"))


@pytest.fixture(scope="module")
def zone(ec2: ShortEc2, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Zone]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    root = tmp_path_factory.mktemp("oned")
    failed = request.session.testsfailed
    zone = Zone(installed, root / "one", clouds={"sim": "simulated", "ec2": "ec2"})
    zone.settings = SCHEDULER if zone.release >= (7, 0) else ""
    zone.place.configure(SETTINGS.format(full=""), name="sim")
    with Background(ec2) as endpoint:
        zone.place.configure(EC2_SETTINGS.format(url=endpoint.url), name="ec2")
        with running(zone):
            add_ordinary_host(zone)
            zone.follow_recipe()
            with scheduler(zone):
                yield zone
    if request.session.testsfailed == failed:
        shutil.rmtree(root)


@contextmanager
def scheduler(zone: Zone) -> Iterator[None]:
    """Run the scheduler of up to 6.10, which is a program of its own, for this oned."""
    if zone.release >= (7, 0):
        yield
        return
    path = zone.folder / "etc" / "sched.conf"
    path.write_text(re.sub(r"(?m)^ONE_XMLRPC\s*=.*$", f'ONE_XMLRPC = "{zone.url}"', path.read_text()))
    program, var = str(zone.folder / "bin" / "mm_sched"), zone.folder / "var"
    with (
        (var / "sched.out").open("ab") as out,
        subprocess.Popen(
            [program], env=zone.environ, cwd=var, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        ) as running_scheduler,
    ):
        try:
            yield
        finally:
            running_scheduler.kill()


class Cloud:
    """A cloud and its host, which are open when the test begins."""

    def __init__(self, zone: Zone, name: str, *, more: str = "") -> None:
        self.zone = zone
        self.more = more
        self.host = zone.number_of("host", name)
        self.template = zone.number_of("template", f"in-{name}")
        until(lambda: self.free() > 0, seconds=60)

    def be(self, full: str) -> None:
        self.zone.place.configure(SETTINGS.format(full=full), name="sim")

    def create(self) -> Vm:
        return Vm(self.zone, self.zone.call("one.template.instantiate", self.template, "", False, self.more, False))

    def free(self) -> int:
        """CPU that the scheduler may still give to VMs, in percent of a core."""
        share = self.zone.document("one.host.info", self.host).find("HOST_SHARE")
        assert share is not None
        return int(share.findtext("MAX_CPU") or 0) - int(share.findtext("CPU_USAGE") or 0)

    def shown(self, name: str) -> str:
        return self.zone.document("one.host.info", self.host).findtext(f"TEMPLATE/{name}") or ""

    def message(self, vm: Vm) -> str:
        """The scheduler's reason why a VM is pending."""
        return vm.shown("USER_TEMPLATE/SCHED_MESSAGE")


@pytest.fixture
def cloud(zone: Zone) -> Cloud:
    return Cloud(zone, "sim")


def becomes(cloud: Cloud, vm: Vm, state: tuple[int, int], seconds: float) -> None:
    """Wait until a VM is in this state."""
    try:
        until(lambda: vm.state() == state, seconds=seconds, pause=0.2)
    except AssertionError as error:
        logs = "\n".join(tail(cloud.zone.folder / "var" / name) for name in ("oned.log", "sched.log"))
        pytest.fail(f"VM {vm.number} is {vm.state()}: {cloud.message(vm)} {error}\n{vm.log()}\n{logs}")


def test_after_a_refusal_no_vm_is_sent_to_a_cloud_without_capacity_until_it_has_some(cloud: Cloud) -> None:
    becomes(cloud, cloud.create(), (3, 3), 120)
    cloud.be("NoCapacity")
    refused = cloud.create()
    becomes(cloud, refused, _BOOT_FAILURE, 120)
    until(lambda: cloud.free() <= 0, seconds=40)
    assert "the simulated cloud is full just now" in cloud.shown("PROVIDER_WARNING")
    waiting = cloud.create()
    until(lambda: cloud.message(waiting), seconds=90)
    assert waiting.state() == _PENDING
    cloud.zone.call("one.vm.recover", refused.number, _RECOVER_DELETE)
    until(lambda: refused.state() == (6, 0), seconds=60)
    assert cloud.free() <= 0, "what was allocated to the refused VM is no room"
    cloud.be("")
    until(lambda: cloud.free() > 0, seconds=120)
    becomes(cloud, waiting, (3, 3), 90)
    assert cloud.shown("PROVIDER_WARNING") == "-"


def test_a_cloud_whose_quota_is_used_up_takes_vms_again_as_soon_as_the_quota_is_free(cloud: Cloud) -> None:
    cloud.be("QuotaExceeded")
    until(lambda: cloud.free() <= 0, seconds=90)
    waiting = cloud.create()
    until(lambda: cloud.message(waiting), seconds=90)
    assert waiting.state() == _PENDING
    cloud.be("")
    until(lambda: cloud.free() > 0, seconds=90)
    becomes(cloud, waiting, (3, 3), 90)


def test_ec2s_host_closes_only_when_every_type_of_the_defaults_was_refused(zone: Zone, ec2: ShortEc2) -> None:
    cloud = Cloud(zone, "ec2", more=DEFAULT_TYPES)
    ec2.short = frozenset({"t3.small"})
    becomes(cloud, cloud.create(), (3, 3), 120)
    assert cloud.free() > 0, "there is t3a.small"
    ec2.short = frozenset({"t3.small", "t3a.small"})
    becomes(cloud, cloud.create(), _BOOT_FAILURE, 120)
    until(lambda: cloud.free() <= 0, seconds=40)
    assert cloud.shown("PROVIDER_WARNING").startswith("the cloud has no room for t3.small, t3a.small: ")
    waiting = cloud.create()
    until(lambda: cloud.message(waiting), seconds=90)
    assert waiting.state() == _PENDING
    ec2.short = frozenset()
    until(lambda: cloud.free() > 0, seconds=120)
    becomes(cloud, waiting, (3, 3), 90)
