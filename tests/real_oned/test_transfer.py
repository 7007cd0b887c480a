"""The transfer driver `one_provider` under a real OpenNebula: copies at home, none in the cloud, and refusals.

An image lies in a datastore of OpenNebula's own drivers `fs` and, on 7.x, `local`, which copies it to hosts by ssh. The
zone's ssh runs commands for the host `home` on this machine, reaches no other host, and notes which were asked for.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.real_oned.world import SIMULATED, STATES, Vm, running
from tests.real_oned.zone import Zone, tail
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(300)]

CLOUD = "simulated"
DELETE, RECREATE = 3, 4
"""Operations of `onevm recover`: --delete, --recreate."""

PENDING = 1
"""STATE (include/VirtualMachine.h)."""

PROLOG_UNDEPLOY_FAILURE = 50
"""LCM_STATE."""

CONF = """
TM_MAD_CONF = [
    NAME = "one_provider", LN_TARGET = "NONE", CLONE_TARGET = "SYSTEM", SHARED = "YES",
    DS_MIGRATE = "NO", DS_LIVE_MIGRATE = "NO", DS_MIGRATE_SNAP = "NO" ]
MONITORING_INTERVAL_DATASTORE = 5
"""

SSH = """#!/bin/sh
echo "$*" >>"{log}"
while [ $# -gt 0 ]; do
    case $1 in -[opiFlbcDeEIJLmORSwW]) shift 2 ;; -*) shift ;; *) break ;; esac
done
host=$1
shift
[ "${{host#*@}}" = home ] || [ "${{host#*@}}" = "{here}" ] || exit 255
[ $# -gt 0 ] || exec sh
exec sh -c "$*"
"""

SCP = """#!/bin/sh
echo "$*" >>"{log}"
exec cp -r "${{2#*:}}" "${{3#*:}}"
"""

QEMU_IMG = """#!/bin/sh
for file; do :; done
size=$(stat -L -c %s "$file" 2>/dev/null || echo 1048576)
case $* in
    *json*) echo "{\\"format\\": \\"raw\\", \\"virtual-size\\": $size}" ;;
    *) printf 'file format: raw\\nvirtual size: 1 MiB (%s bytes)\\n' "$size" ;;
esac
"""
"""Tells OpenNebula the format and size of an image."""

VM = 'NAME = "web"\nCPU = 0.1\nMEMORY = 64\nDISK = [ IMAGE = "debian-12" ]\n'
CLOUD_SECTION = f'PUBLIC_CLOUD = [ TYPE = "{CLOUD}", PROVIDER_INSTANCE_TYPE = "small_256mb" ]\n'
MADE = 'DISK = [ TYPE = "swap", SIZE = 1 ]\nCONTEXT = [ HOSTNAME = "web" ]\n'
"""Disks that OpenNebula makes itself, at home with tools that this machine may lack."""

WITH_IMAGES = """[images.debian-12]
image = "img-alma-9"
"""


class Transfers(Zone):
    """A zone with the transfer driver in oned.conf, and an ssh of its own."""

    @property
    def ssh_log(self) -> Path:
        """The ssh commands that were asked for, a line each."""
        return self.folder / "ssh.log"

    def configure(self) -> None:
        """Write its configuration, its ssh and its qemu-img."""
        super().configure()
        oned = self.folder / "etc" / "oned.conf"
        text = oned.read_text().replace("-d dummy,local,ssh", "-d dummy,local,ssh,one_provider")
        text = text.replace("-d dummy -s dummy", "-d dummy,fs -s dummy,one_provider")
        oned.write_text(re.sub(r"^MONITORING_INTERVAL_DATASTORE.*\n", "", text, flags=re.MULTILINE) + CONF)
        here = os.uname().nodename
        self.ssh_log.touch()
        ours = {"ssh": SSH, "scp": SCP, "qemu-img": QEMU_IMG.replace("{", "{{").replace("}", "}}")}
        for name, text in ours.items():
            path = self.folder / "bin" / name
            path.write_text(text.format(log=self.ssh_log, here=here))
            path.chmod(0o755)

    def install_transfer_driver(self) -> None:
        """Leave that to the tests, which also remove it."""

    def tree(self) -> dict[str, bytes]:
        """All files of OpenNebula's transfer drivers, and the templates of its datastores but for their sizes."""
        remotes = self.folder / "var" / "remotes"
        files = {str(each.relative_to(remotes)): each.read_bytes() for each in remotes.rglob("*") if each.is_file()}
        folders = {f"{each.relative_to(remotes)}/": b"" for each in remotes.rglob("*") if each.is_dir()}
        stores = {}
        for each in self.document("one.datastorepool.info"):
            parts = [ET.tostring(part) for part in (each.find("TEMPLATE"), each.find("CLUSTERS")) if part is not None]
            stores[each.findtext("NAME") or ""] = b"".join(re.sub(rb">\s+<", b"><", part) for part in parts)
        return {**files, **folders, **stores}


@pytest.fixture(scope="module")
def installed() -> Path:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    return installed


@pytest.fixture(scope="module")
def zone(installed: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Zone]:
    root = tmp_path_factory.mktemp("transfer")
    failed = request.session.testsfailed
    programs = root / "one" / "bin"
    ours = {"SSH": f"{programs}/ssh", "SSH_FWD": f"{programs}/ssh", "SCP": f"{programs}/scp"}
    # OpenNebula's scripts look into /usr/bin first
    zone = Transfers(installed, root / "one", clouds={CLOUD: "simulated"}, environ=ours)
    zone.place.configure(SIMULATED + WITH_IMAGES)
    with running(zone):
        add_home(zone)
        yield zone
    if request.session.testsfailed == failed:
        shutil.rmtree(root)


def add_home(zone: Zone) -> None:
    """A host, its datastores, and an image, all with OpenNebula's own transfer driver; and a cluster for the cloud."""
    driver = "local" if zone.release >= (7, 0) else "ssh"
    zone.call("one.host.allocate", "home", "dummy", "dummy", -1)
    zone.call("one.datastore.allocate", f'NAME = "home-system"\nTYPE = "SYSTEM_DS"\nTM_MAD = "{driver}"\n', 0)
    directories = 'SAFE_DIRS = "/"\nRESTRICTED_DIRS = ""\nDATASTORE_CAPACITY_CHECK = "NO"\n'
    drivers = f'TYPE = "IMAGE_DS"\nDS_MAD = "fs"\nTM_MAD = "{driver}"\n'
    text = f'NAME = "images"\n{drivers}{directories}NOTE = "kept, \\"as it is\\""\n'
    store = zone.call("one.datastore.allocate", text, 0)
    file = zone.folder / "disk.raw"
    file.write_bytes(b"the image's content\n".ljust(1 << 20, b"."))
    image = f'NAME = "debian-12"\nTYPE = "OS"\nPATH = "{file}"\nFORMAT = "raw"\nDRIVER = "raw"\n'
    number = zone.call("one.image.allocate", image, store)

    def is_ready() -> bool:
        found = zone.document("one.image.info", number)
        assert found.findtext("STATE") != "5", ET.tostring(found).decode() + tail(zone.folder / "var" / "oned.log")
        return found.findtext("STATE") == "1"

    until(is_ready, seconds=60)
    cluster = zone.call("one.cluster.allocate", "cloud") if zone.release >= (7, 0) else 0
    cloud = zone.call("one.host.allocate", CLOUD, CLOUD, CLOUD, cluster)
    until(lambda: zone.document("one.host.info", cloud).findtext("TEMPLATE/PUBLIC_CLOUD") == "YES", seconds=60)


def add_system_datastore(zone: Zone) -> int:
    """The cloud's, in its cluster alone."""
    text = 'NAME = "cloud-system"\nTYPE = "SYSTEM_DS"\nTM_MAD = "one_provider"\n'
    return int(zone.call("one.datastore.allocate", text, zone.number_of("cluster", "cloud")))


def deploy(zone: Zone, vm: Vm, host: str, store: str) -> None:
    zone.call("one.vm.deploy", vm.number, zone.number_of("host", host), False, zone.number_of("datastore", store))


def create(zone: Zone, more: str = "") -> Vm:
    return Vm(zone, zone.call("one.vm.allocate", VM + more, True))


def ends_with(vm: Vm, sentence: str) -> None:
    """Wait until the VM's error and log show a refusal."""
    until(lambda: sentence in vm.log(), seconds=60)
    assert sentence[:60] in vm.shown("USER_TEMPLATE/ERROR")


@pytest.fixture
def burst(zone: Transfers) -> Iterator[Transfers]:
    """The zone with the driver installed, and a system datastore; removed afterwards, without a trace."""
    if zone.release < (7, 0):
        pytest.skip("OpenNebula calls transfer drivers for a cloud from 7.0 on")
    before = zone.tree()
    zone.one_provider("install", CLOUD, "--datastore", "images")
    store = add_system_datastore(zone)
    yield zone
    zone.call("one.datastore.delete", store)
    zone.one_provider("install", CLOUD, "--remove")
    after = zone.tree()
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    assert {key: (before.get(key), after.get(key)) for key in changed} == {}


def test_an_image_is_copied_at_home_and_not_in_the_cloud(burst: Transfers) -> None:
    at_home, away = create(burst), create(burst, CLOUD_SECTION + MADE)
    deploy(burst, at_home, "home", "home-system")
    at_home.reach("RUNNING")
    disk = burst.folder / "var" / "datastores" / str(burst.number_of("datastore", "home-system"))
    copied = disk / str(at_home.number) / "disk.0"
    assert copied.read_bytes().startswith(b"the image's content")
    burst.ssh_log.write_text("")
    cloud_store = burst.number_of("datastore", "cloud-system")
    until(lambda: burst.document("one.datastore.info", cloud_store).findtext("FREE_MB") == str(1 << 30), seconds=60)
    deploy(burst, away, CLOUD, "cloud-system")
    away.reach("RUNNING")
    away.ask("poweroff")
    away.reach("POWEROFF")
    refuse_what_only_the_core_would_do(burst, away)
    burst.call("one.vm.diskresize", away.number, 0, "2048")
    away.reach("POWEROFF")
    away.ask("resume")
    away.reach("RUNNING")
    away.ask("undeploy")
    away.reach("UNDEPLOYED")
    away.ask("resume")
    until(lambda: away.state()[0] == PENDING, seconds=60)
    assert 'TM_MAD = "one_provider"' in away.shown("TEMPLATE/AUTOMATIC_DS_REQUIREMENTS")
    deploy(burst, away, CLOUD, "cloud-system")
    away.reach("RUNNING")
    with pytest.raises(AssertionError, match="VMs in a cloud have images of images"):
        burst.one_provider("install", CLOUD, "--remove", "--datastore", "images")
    away.ask("undeploy")
    away.reach("UNDEPLOYED")
    assert burst.ssh_log.read_text() == ""
    away.ask("resume")
    until(lambda: away.state()[0] == PENDING, seconds=60)
    deploy(burst, away, "home", "home-system")
    until(lambda: away.state()[1] == PROLOG_UNDEPLOY_FAILURE, seconds=60)
    ends_with(away, f"VM {away.number} has its disks in system datastore {cloud_store}, not in ")
    burst.call("one.vm.recover", away.number, DELETE)
    until(lambda: away.state() == STATES["DONE"], seconds=60)
    at_home.ask("terminate-hard")
    at_home.reach("DONE")
    assert burst.ssh_log.read_text()
    assert not copied.exists()


def refuse_what_only_the_core_would_do(zone: Zone, vm: Vm) -> None:
    zone.call("one.vm.disksaveas", vm.number, 0, "copy", "", -1)
    ends_with(vm, "the cloud has this disk, disk-saveas cannot copy it: make the image with the cloud's own tools")
    vm.reach("POWEROFF")
    zone.call("one.vm.disksnapshotcreate", vm.number, 0, "before")
    ends_with(vm, "disk snapshots in a cloud are made and deleted only while the VM runs: resume it first")
    vm.reach("POWEROFF")
    remote = 'RSYNC_HOST = "home"\nRSYNC_USER = "oneadmin"\nDATASTORE_CAPACITY_CHECK = "NO"\n'
    store = zone.call("one.datastore.allocate", f'NAME = "backups"\nTYPE = "BACKUP_DS"\nDS_MAD = "rsync"\n{remote}', 0)
    zone.call("one.vm.backup", vm.number, store, False)
    until(lambda: f"BACKUP: provider {CLOUD} does not support backups" in vm.log(), seconds=60)
    vm.reach("POWEROFF")
    zone.call("one.datastore.delete", store)


def test_a_vm_that_is_recreated_at_home_after_the_cloud_gets_its_disk_there(burst: Transfers) -> None:
    """Its disk keeps TM_MAD_SYSTEM=one_provider, so one_tm asks for clone.one_provider at home as well."""
    vm = create(burst, CLOUD_SECTION)
    deploy(burst, vm, CLOUD, "cloud-system")
    vm.reach("RUNNING")
    burst.call("one.vm.recover", vm.number, RECREATE)
    until(lambda: vm.state()[0] == PENDING, seconds=60)
    assert vm.shown("TEMPLATE/DISK/TM_MAD_SYSTEM") == "one_provider"
    deploy(burst, vm, "home", "home-system")
    vm.reach("RUNNING")
    store = burst.number_of("datastore", "home-system")
    copied = burst.folder / "var" / "datastores" / str(store) / str(vm.number) / "disk.0"
    assert copied.read_bytes().startswith(b"the image's content")
    vm.ask("terminate-hard")
    vm.reach("DONE")
    assert not copied.exists()


def test_up_to_6_10_nothing_of_it_is_called(zone: Transfers) -> None:
    if zone.release >= (7, 0):
        pytest.skip("this release calls it")
    zone.one_provider("install", CLOUD)
    refusal = zone.one_provider("install", CLOUD, "--datastore", "images", code=1)
    assert "calls no transfer driver for a cloud: leave out --datastore" in refusal
    called = zone.folder / "called"
    driver = zone.folder / "var" / "remotes" / "tm" / "one_provider"
    (driver / "answer").write_text(f'#!/bin/sh\necho "$*" >>"{called}"\n')
    at_home, away = create(zone), create(zone, CLOUD_SECTION)
    deploy(zone, at_home, "home", "home-system")
    deploy(zone, away, CLOUD, "home-system")
    for vm in (at_home, away):
        vm.reach("RUNNING")
        vm.ask("terminate-hard")
        vm.reach("DONE")
    assert not called.exists()
    zone.one_provider("install", CLOUD, "--remove")
    assert not driver.exists()
