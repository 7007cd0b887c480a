"""A zone with three clouds and a VM on an ordinary host, and the partner's zone, which is one of the clouds."""

from __future__ import annotations

import base64
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from one_provider_mad.lab.ec2.topology import SUBNET
from tests.real_oned.zone import Zone, tail
from tests.waiting import until

CLOUDS = {"simulated": "simulated", "ec2": "ec2", "partner": "opennebula"}
"""Kind of provider by NAME."""

QUICK = "[monitor]\nheartbeat = 1\nstate_period = 1\nvm_period = 1\nmin_list_interval = 0.5\n"

SIMULATED = f"""
provider = "simulated"
owner = "test-oned"
[simulated]
latency = 0.05
boot_time = 1.0
stop_time = 1.0
destroy_time = 1.0
{QUICK}"""

PARTNER = f"""
provider = "opennebula"
owner = "test-oned"
[opennebula]
endpoints = ["{{url}}"]
credentials_file = "{{auth}}"
{QUICK}"""

MAPPED = """
[ec2.defaults]
INSTANCETYPE = "t3.small"
[images.debian-12]
image = "ami-0deb"
datastore = "burst"
[security_groups]
mirror = true
"""

STATES = {
    "RUNNING": (3, 3),
    "STOPPED": (4, 0),
    "SUSPENDED": (5, 0),
    "DONE": (6, 0),
    "POWEROFF": (8, 0),
    "UNDEPLOYED": (9, 0),
}
"""STATE and LCM_STATE of lasting states (OpenNebula include/VirtualMachine.h)."""

_EPILOG, _SUCCESS = 11, 1
"""An LCM_STATE, and the operation of `onevm recover --success`."""

FAILURES = {36, 37, 38, 39, 40, 41, 42, 44, 46, 47, 48, 49, 50, 61}
"""LCM_STATEs that a VM leaves only when a user recovers it."""


class Vm:
    """A VM of a zone.

    Args:
        zone: where it is.
        number: its id.
    """

    def __init__(self, zone: Zone, number: int) -> None:
        self.zone = zone
        self.number = number

    def state(self) -> tuple[int, int]:
        """STATE and LCM_STATE."""
        vm = self.zone.document("one.vm.info", self.number)
        return int(vm.findtext("STATE") or -1), int(vm.findtext("LCM_STATE") or 0)

    def ask(self, action: str) -> None:
        """Ask OpenNebula for an action on it."""
        self.zone.call("one.vm.action", action, self.number)

    def finish_epilog(self) -> None:
        """Answer for the transfer driver, whose reply is lost if oned died while it waited for it."""
        if self.state() == (3, _EPILOG):
            self.zone.call("one.vm.recover", self.number, _SUCCESS)

    def reach(self, *names: str) -> None:
        """Wait until it is in one of these lasting states; fail with its log if it ends in a failure state."""

        def has_reached() -> bool:
            state = self.state()
            assert state[1] not in FAILURES, f"VM {self.number} is in {state}: {self.log()}"
            return state in {STATES[name] for name in names}

        try:
            until(has_reached, seconds=60, pause=0.1)
        except AssertionError as error:
            pytest.fail(f"VM {self.number} is {self.state()}, not {names}: {error}\n{self.log()}")

    def log(self) -> str:
        """The end of its log."""
        var = self.zone.folder / "var"
        return tail(var / "vms" / str(self.number) / "vm.log")

    def shown(self, path: str) -> str:
        """A value of its document, "" for none."""
        return self.zone.document("one.vm.info", self.number).findtext(path) or ""

    def monitored(self, name: str) -> str:
        """An attribute of its monitoring, "" for none."""
        return self.shown(f"MONITORING/{name}")

    def monitored_at(self) -> int:
        """The time of its last monitoring, in seconds since the epoch; 0 for never."""
        vm = self.zone.document("one.vm.info", self.number)
        return int(vm.findtext("MONITORING/TIMESTAMP") or vm.findtext("LAST_POLL") or 0)


class World:
    """The zone whose drivers are tested, with three clouds, and a VM on an ordinary host.

    Args:
        zone: is running.
    """

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.ordinary_host = add_ordinary_host(zone)
        zone.follow_recipe()
        self.ordinary = Vm(zone, zone.call("one.vm.allocate", 'NAME = "ordinary"\nCPU = 0.1\nMEMORY = 64\n', True))
        deploy_on_ordinary_host(zone, self.ordinary.number)
        self.ordinary.reach("RUNNING")

    def add_image_and_network(self) -> int:
        """An image in the datastore `burst` and a network, both with upstream's dummy drivers.

        Returns:
            The number of the network's security group.
        """
        zone = self.zone
        group = int(zone.call("one.secgroup.allocate", f'NAME = "web"\n{rule_for(22)}'))
        unmeasured = 'DS_MAD = "dummy"\nTM_MAD = "dummy"\nDATASTORE_CAPACITY_CHECK = "NO"\n'
        store = zone.call("one.datastore.allocate", f'NAME = "burst"\n{unmeasured}', -1)
        if zone.release >= (7, 0):
            zone.one_provider("install", "ec2", "--datastore", "burst")
        image = zone.call("one.image.allocate", 'NAME = "debian-12"\nTYPE = "OS"\nPATH = "/etc/hostname"\n', store)
        until(lambda: zone.document("one.image.info", image).findtext("STATE") == "1", seconds=60)
        leases = 'AR = [ TYPE = "IP4", IP = "10.0.0.50", SIZE = "20" ]\n'
        own = f'PROVIDER_SUBNET = "ec2={SUBNET}"\nPROVIDER_ADDRESSES = "opennebula"\nSECURITY_GROUPS = "{group}"\n'
        text = f'NAME = "private"\nVN_MAD = "dummy"\nBRIDGE = "none"\n{leases}{own}'
        network = zone.call("one.vn.allocate", text, -1)
        # Networks have states from 6.4 on; before READY there is no lease.
        until(lambda: zone.document("one.vn.info", network).findtext("STATE") in (None, "1"), seconds=60)
        host = zone.document("one.host.info", zone.number_of("host", "ec2"))
        if zone.release >= (7, 0):  # the recipe has a cluster for the cloud; a NIC is attached from the VM's own only
            zone.call("one.cluster.addvnet", int(host.findtext("CLUSTER_ID") or 0), network)
        return group

    def groups(self) -> dict[str, list[int]]:
        """The ports that each security group of an interface in EC2 lets in, by its number at home; -1 for all."""
        query = (
            "SELECT DISTINCT name, rules FROM ec2_group JOIN ec2_interface"
            " ON instr(ec2_interface.groups, ec2_group.id) WHERE instance_id <> ''"
        )
        with closing(sqlite3.connect(self.zone.folder.parent / "ec2-cloud.db")) as db:
            lines = db.execute(query).fetchall()
        return {
            name.rpartition(" ")[2]: sorted({first for is_egress, _, first, *_ in json.loads(rules) if not is_egress})
            for name, rules in lines
        }

    def create(self, cloud: str) -> Vm:
        """A VM of the template that `oned-conf` created, on hold, since there is no scheduler."""
        template = self.zone.number_of("template", f"in-{cloud}")
        return Vm(self.zone, self.zone.call("one.template.instantiate", template, "", True, "", False))

    def deploy(self, vm: Vm, cloud: str) -> None:
        """Place it as the scheduler would. From 7.0 on that includes the cloud's own system datastore."""
        deploy(self.zone, vm, cloud)

    def run(self, cloud: str) -> Vm:
        """A VM that runs."""
        vm = self.create(cloud)
        self.deploy(vm, cloud)
        vm.reach("RUNNING")
        return vm

    def instances(self, cloud: str) -> dict[str, str]:
        """The instances of this zone in a cloud: id and state."""
        return {each["deploy_id"]: each["state"] for each in self.zone.place.instances(name=cloud)}


def rule_for(port: int) -> str:
    """A rule of a security group, in template text."""
    return f'RULE = [ PROTOCOL = "TCP", RULE_TYPE = "inbound", RANGE = "{port}" ]\n'


def add_ordinary_host(zone: Zone) -> int:
    """Create an ordinary host and a datastore for it, both with upstream's dummy drivers."""
    zone.call("one.datastore.allocate", 'NAME = "home-system"\nTYPE = "SYSTEM_DS"\nTM_MAD = "dummy"\n', -1)
    return int(zone.call("one.host.allocate", "home", "dummy", "dummy", -1))


def deploy(zone: Zone, vm: Vm, host: str) -> None:
    """Place a VM as the scheduler would. From 7.0 on that includes the cloud's own system datastore."""
    name = f"{host}-system" if zone.release >= (7, 0) else "home-system"
    zone.call("one.vm.deploy", vm.number, zone.number_of("host", host), False, zone.number_of("datastore", name))


def deploy_on_ordinary_host(zone: Zone, number: int) -> None:
    deploy(zone, Vm(zone, number), "home")


def user_data(zone: Zone, vm: Vm) -> bytes:
    """The user data that the VM's instance on the EC2 endpoint got; its account is beside the zone's folder."""
    query = (
        "SELECT json_extract(hardware, '$.details.UserData') FROM instance"
        " WHERE json_extract(tags, '$.ONE_PROVIDER_VM_ID') = ?"
    )
    with closing(sqlite3.connect(zone.folder.parent / "ec2-cloud.db")) as db:
        ((encoded,),) = db.execute(query, (str(vm.number),)).fetchall()
    return base64.b64decode(encoded)


class Placement:
    """Deploys every pending VM of a zone on its ordinary host, in place of a scheduler.

    Args:
        zone: the partner's.
    """

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_stopped.wait(0.2):
            pending = self._zone.document("one.vmpool.info", -2, -1, -1, 1).iterfind("VM/ID")
            for number in pending:
                deploy_on_ordinary_host(self._zone, int(number.text or -1))


@contextmanager
def running(zone: Zone) -> Iterator[Zone]:
    zone.configure()
    try:
        zone.start()
        yield zone
    finally:
        zone.stop()


@contextmanager
def partner_zone(installed: Path, folder: Path) -> Iterator[Zone]:
    """A second OpenNebula, in which VMs of the first one are created from template 0."""
    with running(Zone(installed, folder, clouds={})) as zone:
        add_ordinary_host(zone)
        assert zone.call("one.template.allocate", 'NAME = "bursting"\nCPU = 0.1\nMEMORY = 64\n') == 0
        with Placement(zone):
            yield zone
