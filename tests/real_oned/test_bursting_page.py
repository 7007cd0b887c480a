"""docs/bursting.md, step by step: from one host at home to a third VM in EC2, whose login is printed, and its end.

EC2 is the simulated one, so the last step of a login, ssh, is in test_template_to_shell.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.lab.demo_ec2 import ec2_stage
from tests.end_to_end.oned import ROOT
from tests.real_oned.front_end import FrontEnd, running_front_end
from tests.real_oned.hook_manager import hook_manager
from tests.real_oned.world import Vm
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(600)]

PAGE = ROOT / "docs" / "bursting.md"

SETTINGS = """
[ec2.defaults]
INSTANCETYPE = "t3.small"
"""
"""What the page's `install` writes beside the table [capacity], which the demonstration has."""

IMAGES = 'TM_MAD = "dummy"\nDS_MAD = "dummy"\nDATASTORE_CAPACITY_CHECK = "NO"\n'
"""For the shipped datastore of images: its images need no files, and the stand-in at home copies none."""

NETWORK = (
    'NAME = "office"\nVN_MAD = "dummy"\nBRIDGE = "br0"\nAR = [ TYPE = "IP4", IP = "192.168.50.100", SIZE = "50" ]\n'
)

TEMPLATE = """
NAME = "web"
CPU = "1"
MEMORY = "1024"
DISK = [ IMAGE = "debian-12", IMAGE_UNAME = "oneadmin" ]
NIC = [ NETWORK = "office", NETWORK_UNAME = "oneadmin" ]
CONTEXT = [ NETWORK = "YES", SSH_PUBLIC_KEY = "$USER[SSH_PUBLIC_KEY]", SET_HOSTNAME = "$NAME" ]
"""

KEY = 'SSH_PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDemo ada@desk"\n'

AS_ADA = "--user ada --password secret-secret"

CLUSTERS_ONLY = ("onecluster", "oneuser addgroup", "one-provider install ec2 --datastore")
"""Commands of the page that only 7.0 and later need."""


@pytest.fixture
def zone(tmp_path: Path) -> Iterator[FrontEnd]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    with ec2_stage(tmp_path) as play:
        zone = FrontEnd(installed, tmp_path / "one", clouds={"ec2": "ec2"}, environ=play.environ)
        zone.place.configure(play.settings + SETTINGS, name="ec2")
        with running_front_end(zone), hook_manager(zone):
            zone.add_home("kvm1")
            yield zone
    shutil.rmtree(tmp_path / "one")


class Page:
    """The commands of the page's section "Ten minutes", which are run in their order.

    Args:
        zone: the front-end.
    """

    def __init__(self, zone: FrontEnd) -> None:
        section = PAGE.read_text().split("\n## Ten minutes\n")[1].split("\n## ")[0]
        blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", section, re.DOTALL | re.MULTILINE)
        self._zone = zone
        self._lines = [line.strip() for block in blocks for line in block.splitlines()]

    def run(self, begun: str, *, replaced: tuple[str, str] = ("", ""), more: str = "") -> str:
        """Run the page's next command that begins so, unless this release does not need it; returns its output."""
        line = next(line for line in self._lines if line.startswith(begun))
        self._lines.remove(line)
        if self._zone.release < (7, 0) and line.startswith(CLUSTERS_ONLY):
            return ""
        return self.ran(re.sub(rf"\b{replaced[0]}\b", replaced[1], line) if replaced[0] else line, more=more)

    def ran(self, line: str, *, more: str = "") -> str:
        """Run a command; output that goes to a file is written into the zone's folder."""
        command, _, file = line.partition(" > ")
        words = shlex.split(f"{command} {more}")
        if words[0] == "one-provider":
            words[0] = str(ROOT / "bin" / "one-provider")
        environ, folder = self._zone.environ, self._zone.folder
        done = subprocess.run(words, env=environ, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        if file:
            (folder / file).write_text(done.stdout)
        return done.stdout

    def write(self, name: str, text: str) -> str:
        """Write a file for a command; returns its name."""
        (self._zone.folder / name).write_text(text)
        return name


def make_home(zone: FrontEnd, page: Page) -> str:
    """What the page takes for granted: a template with an image and a network at home; returns its number."""
    page.ran(f"onedatastore update default {page.write('images.ds', IMAGES)} --append")
    page.ran("oneimage create --name debian-12 --path /etc/hostname --type OS --datastore default")
    until(lambda: zone.document("one.imagepool.info", -2, -1, -1).findtext("IMAGE/STATE") == "1")
    page.ran(f"onevnet create {page.write('office.net', NETWORK)}")
    until(lambda: zone.document("one.vnpool.info", -2, -1, -1).findtext("VNET/STATE") in (None, "1"))
    number = page.ran(f"onetemplate create {page.write('home.tmpl', TEMPLATE)}").split()[-1]
    for command in ("oneimage chmod debian-12 644", "onevnet chmod office 644", f"onetemplate chmod {number} 644"):
        page.ran(command)
    page.ran("oneuser create ada secret-secret")
    page.write("ada.key", KEY)
    return number


def map_image_and_network(zone: FrontEnd, page: Page) -> None:
    """Step 3, with the printed lines."""
    images, networks = page.run("one-provider images"), page.run("one-provider networks")
    lines = images.partition('[images."')[2].partition("\n\n")[0]
    lines = lines.replace("NAME OF YOURS", "debian-12").replace('# datastore = "DATASTORE"', 'datastore = "default"')
    subnet = re.findall(r"^subnet = .*$", networks, re.MULTILINE)[0]
    path = zone.folder / "etc" / "one_provider_mad" / "ec2.toml"
    path.write_text(f'{path.read_text()}\n[images."{lines}\n[networks.office]\n{subnet}\naddresses = "cloud"\n')


def test_the_page_leads_from_a_full_home_to_a_vm_in_ec2_and_to_its_end(zone: FrontEnd) -> None:
    page = Page(zone)
    number = make_home(zone, page)
    map_image_and_network(zone, page)
    page.run("one-provider install ec2 --datastore")
    page.run("onecluster addvnet")
    page.run("one-provider install ec2 --recreate-hook")
    page.run("one-provider keep-place --install")
    checked = json.loads(page.ran("one-provider check ec2 --json"))
    assert {each["what"] for each in checked if each["is_well"]} >= {"home", "home first", "credentials"}

    page.run("one-provider template 5", replaced=("5", number))
    page.run("onetemplate update 5", replaced=("5", number))
    page.run("oneuser update")
    page.run("oneuser addgroup")
    made = page.run("onetemplate instantiate 5", replaced=("5", number), more=AS_ADA)
    vms = [Vm(zone, int(found)) for found in re.findall(r"VM ID: (\d+)", made)]
    assert len(vms) == 3
    for vm in vms:
        vm.reach("RUNNING")
    places = {vm: vm.shown("HISTORY_RECORDS/HISTORY/HOSTNAME") for vm in vms}
    assert sorted(places.values()) == ["ec2", "kvm1", "kvm1"]

    away = next(vm for vm, host in places.items() if host == "ec2")
    reach = until(lambda: _reached(page, away.number))
    assert re.search(r"ssh \w+@198\.18\.", reach)
    page.run("onevm terminate 9", replaced=("9", str(away.number)))
    away.reach("DONE")
    assert str(away.number) not in page.run("one-provider instances ec2").split()
    assert zone.errors() == []


def _reached(page: Page, number: int) -> str:
    """What `reach` prints once the instance has an address, "" before."""
    command = [str(ROOT / "bin" / "one-provider"), "reach", "ec2", "--vm", str(number)]
    done = subprocess.run(command, env=page._zone.environ, capture_output=True, text=True, timeout=60)
    return done.stdout if "ssh " in done.stdout else ""
