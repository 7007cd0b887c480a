"""One template, with no more than Sunstone's fields, runs at home and in EC2, up to a shell in the instance.

The instance is a Debian in namespaces, whose cloud-init reads what the EC2 endpoint was given. Needs root, the guest's
files of `make test-guest`, and Debian's packages ruby-sinatra and ruby-ipaddress.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from one_provider_mad.lab.demo_ec2 import ec2_stage
from tests.end_to_end.oned import ROOT
from tests.real_guest.cloud_init import boot, shell
from tests.real_guest.guest import image, started, why_not
from tests.real_oned.namespaces import forwarded
from tests.real_oned.onegate import ENCRYPTED, ONEGATE, free_port, onegate, why_no_onegate
from tests.real_oned.world import Vm, add_ordinary_host, deploy, running, user_data
from tests.real_oned.zone import Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(300)]

PASSWORD = "correct horse"
SCRIPT = '#!/bin/bash\necho "$(hostname) has started" > /root/started\n'

TEMPLATE = """
NAME = "web"
CPU = "1"
VCPU = "1"
MEMORY = "1024"
HYPERVISOR = "kvm"
DISK = [ IMAGE = "debian-12", IMAGE_UNAME = "oneadmin" ]
NIC = [ NETWORK = "ec2-public", NETWORK_UNAME = "oneadmin" ]
OS = [ ARCH = "x86_64" ]
GRAPHICS = [ LISTEN = "0.0.0.0", TYPE = "VNC" ]
CONTEXT = [
    NETWORK = "YES",
    SSH_PUBLIC_KEY = "$USER[SSH_PUBLIC_KEY]",
    SET_HOSTNAME = "$NAME",
    START_SCRIPT_BASE64 = "{script}",
    PASSWORD = "{password}",
    TOKEN = "YES",
    REPORT_READY = "YES" ]
"""
"""As Sunstone writes it, the script with its box for base64 ticked."""

MONITORED = "2"
"""STATE of a host that reports (include/Host.h)."""

SECTION = 'PUBLIC_CLOUD = [ TYPE = "ec2" ]\n'
"""Up to 6.10 the core places no VM without a section in a cloud (VirtualMachine::automatic_requirements)."""

EC2_PAGE = ROOT / "docs" / "ec2.md"
HEADING = "\n## From a template to a shell in the cloud\n"

ONLY_7 = ("onecluster", "oneuser addgroup")
"""Commands of that section for clusters, which keep VMs at home from 7.0 on."""

NO_FILES = 'DS_MAD = "dummy"\nDATASTORE_CAPACITY_CHECK = "NO"\n'
"""For the shipped datastore of images: its images need no files. Its transfer driver stays."""


@pytest.fixture
def files() -> Path:
    """The guest's files."""
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(os.environ.get("ROOTS", "dist/roots")).resolve()
    if not (folder / "bookworm-guest").exists():
        pytest.skip(f"{folder} has no files of a guest: make test-guest makes them, ROOTS names another folder")
    return image(folder)


@pytest.fixture
def zone(files: Path, tmp_path: Path) -> Iterator[Zone]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    with ec2_stage(tmp_path) as play:
        zone = Zone(installed, tmp_path / "one", clouds={"ec2": "ec2"}, environ=play.environ)
        settings = ONEGATE.format(url=f"http://{GATEWAY}:{ONEGATE_PORT}")
        zone.settings = settings if zone.release >= (5, 12) else settings + ENCRYPTED
        zone.place.configure(play.settings, name="ec2")
        with running(zone):
            add_ordinary_host(zone)
            zone.follow_recipe()
            yield zone
    shutil.rmtree(tmp_path / "one")


GATEWAY, ONEGATE_PORT = "10.0.0.1", 5030
"""The address of OneGate for instances: the subnet's gateway stands in for the way to the front-end."""


def ours(zone: Zone, command: str) -> str:
    """Run `one-provider`; returns its output."""
    words = [str(ROOT / "bin" / "one-provider"), *shlex.split(command)[1:]]
    done = subprocess.run(words, env=zone.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def instantiated(zone: Zone, command: str) -> Vm:
    """A VM that ada makes by this command."""
    return Vm(zone, int(zone.run(f"{command} --user ada --password secret-secret").split()[-1]))


def write(zone: Zone, name: str, text: str) -> str:
    """Write a file for a command; returns its name."""
    (zone.folder / name).write_text(text)
    return name


def documented(word: str) -> list[str]:
    """The commands of that section of docs/ec2.md that begin with this word."""
    section = EC2_PAGE.read_text().split(HEADING)[1].split("\n## ")[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", section, re.DOTALL | re.MULTILINE)
    found = [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith(word)]
    assert found, f"{EC2_PAGE} has no command {word} in that section"
    return found


def follow(zone: Zone, *words: str) -> None:
    """Run these documented commands, without those that the release does not need."""
    for line in [line for word in words for line in documented(word)]:
        if zone.release >= (7, 0) or not line.startswith(ONLY_7):
            zone.run(line)


def map_image_and_network(zone: Zone) -> None:
    """Steps 1 and 2 of the section, after an image and with the printed network."""
    zone.run(f"onedatastore update default {write(zone, 'no-files', NO_FILES)} --append")
    zone.run("oneimage create --name debian-12 --path /etc/hostname --type OS --datastore default")
    until(lambda: zone.document("one.imagepool.info", -2, -1, -1).findtext("IMAGE/STATE") == "1")
    zone.run("oneimage chmod debian-12 644")
    images, networks = (ours(zone, line) for line in documented("one-provider")[:2])
    lines = images.partition('[images."')[2].partition("\n\n")[0]
    lines = lines.replace("NAME OF YOURS", "debian-12").replace('# datastore = "DATASTORE"', 'datastore = "default"')
    path = zone.folder / "etc" / "one_provider_mad" / "ec2.toml"
    more = f'[ec2.defaults]\nINSTANCETYPE = "t3.small"\n[images."{lines}\n'
    path.write_text(path.read_text() + more + networks[networks.index("\n[networks.") :])

    write(zone, "ec2-public.net", networks.partition("# for ec2.toml")[0])
    follow(zone, "onevnet", "onecluster")
    if zone.release >= (7, 0):
        ours(zone, documented("one-provider install")[0])
    until(lambda: zone.document("one.vnpool.info", -2, -1, -1).findtext("VNET/STATE") in (None, "1"))
    zone.run("onevnet chmod ec2-public 644")
    if zone.release >= (7, 0):
        results = json.loads(ours(zone, "one-provider check ec2 --json"))
        assert [each["is_well"] for each in results if each["what"] == "image datastore"] == [True]


def test_one_template_runs_at_home_and_up_to_a_shell_in_ec2(zone: Zone, files: Path, tmp_path: Path) -> None:
    map_image_and_network(zone)
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada@home", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text().strip()
    zone.run("oneuser create ada secret-secret")
    write(zone, "ada.key", f'SSH_PUBLIC_KEY = "{public}"')
    follow(zone, "oneuser")
    encoded = base64.b64encode(SCRIPT.encode()).decode()
    text = TEMPLATE.format(script=encoded, password=PASSWORD) + ("" if zone.release >= (7, 0) else SECTION)
    zone.run(f"onetemplate create {write(zone, 'web.tmpl', text)}")
    zone.run("onetemplate chmod web 644")

    (instantiate,) = documented("onetemplate")
    home = instantiated(zone, instantiate.replace("web-ec2", "web-home"))
    deploy(zone, home, "home")
    away = instantiated(zone, instantiate)
    # Before its first report the core takes the cloud for an ordinary host, up to 6.10.
    until(lambda: zone.document("one.host.info", zone.number_of("host", "ec2")).findtext("STATE") == MONITORED)
    command, _ = documented("onevm")
    zone.run(command if zone.release >= (7, 0) else command.removesuffix(" ec2-system"))
    home.reach("RUNNING")
    away.reach("RUNNING")

    address = until(lambda: away.monitored("AWS_PRIVATE_IP_ADDRESS"))  # of DescribeInstances
    assert away.shown("TEMPLATE/NIC/IP") == address
    assert home.shown("TEMPLATE/NIC/IP") != address

    with ExitStack() as stack:
        given = user_data(zone, away)
        guest = stack.enter_context(started(files, tmp_path / "guest", given, tokens="required", address=address))
        guest.run("ip", "address", "add", f"{GATEWAY}/32", "dev", "lo")
        if has_onegate := not why_no_onegate(zone):
            url = stack.enter_context(onegate(zone, free_port()))
            stack.enter_context(forwarded(guest, (GATEWAY, ONEGATE_PORT), url))
        boot(guest, fails="" if has_onegate else "zz-report-ready")
        told = shell(guest, key, "debian", "whoami; hostname; sudo -n cat /root/started")
        assert told.splitlines() == ["debian", "web-ec2", "web-ec2 has started"]
        check = (
            f"import crypt, spwd; hash = spwd.getspnam('root').sp_pwdp; assert crypt.crypt({PASSWORD!r}, hash) == hash"
        )
        guest.run("python3", "-W", "ignore", "-c", check)
    assert away.shown("USER_TEMPLATE/READY") == ("YES" if has_onegate else "")
    assert home.shown("USER_TEMPLATE/READY") == ""

    away.ask("undeploy")
    away.reach("UNDEPLOYED")
    deploy(zone, away, "ec2")
    away.reach("RUNNING")
    for vm in (home, away):
        vm.ask("terminate")
        vm.reach("DONE")
    assert zone.place.instances(name="ec2") == []
