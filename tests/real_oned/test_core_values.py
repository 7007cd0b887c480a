"""Passwords that a real OpenNebula encrypts, and OneGate tokens, reach the instance; upstream's OneGate accepts them.

OneGate needs Debian's packages ruby-sinatra and ruby-ipaddress. `make test-oned ONE=/opt/one-7.4.0` runs this.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from passlib.hash import sha512_crypt

from one_provider_mad.lab.demo_ec2 import ec2_stage
from tests.real_oned.onegate import ENCRYPTED, ONEGATE, free_port, onegate, report_ready
from tests.real_oned.world import PARTNER, SIMULATED, Vm, World, partner_zone, running, user_data
from tests.real_oned.zone import Zone, tail
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(300)]

CLOUDS = {"simulated": "simulated", "ec2": "ec2", "partner": "opennebula"}
PASSWORD = "correct horse/battery+staple"
ANOTHER = "wholly other/password+now"

BOOT_FAILURE, RETRY = 36, 2
"""An LCM_STATE, and the operation of `onevm recover --retry`."""


@pytest.fixture(scope="module")
def onegate_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def partner(tmp_path_factory: pytest.TempPathFactory, onegate_port: int) -> Iterator[Zone]:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    root = tmp_path_factory.mktemp("partner")
    with partner_zone(installed, root / "one") as zone:
        yield zone
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def world(
    partner: Zone, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, onegate_port: int
) -> Iterator[World]:
    root = tmp_path_factory.mktemp("oned")
    failed = request.session.testsfailed
    installed = Path(os.environ["ONE"])
    with ec2_stage(root) as play:
        zone = Zone(installed, root / "one", clouds=CLOUDS, environ=play.environ)
        settings = ONEGATE.format(url=f"http://127.0.0.1:{onegate_port}")
        zone.settings = settings if zone.release >= (5, 12) else settings + ENCRYPTED
        zone.place.configure(SIMULATED)
        zone.place.configure(play.settings, name="ec2")
        auth = partner.folder / ".one" / "one_auth"
        zone.place.configure(PARTNER.format(url=partner.url, auth=auth), name="partner")
        with running(zone):
            yield World(zone)
    if request.session.testsfailed == failed:
        shutil.rmtree(root)


def create(world: World, cloud: str, context: Mapping[str, str]) -> Vm:
    """A VM with this CONTEXT, on hold."""
    inner = ", ".join(f'{name} = "{value}"' for name, value in context.items())
    template = world.zone.number_of("template", f"in-{cloud}")
    text = f"CONTEXT = [ {inner} ]"
    return Vm(world.zone, world.zone.call("one.template.instantiate", template, "", True, text, False))


def run(world: World, cloud: str, context: Mapping[str, str]) -> Vm:
    vm = create(world, cloud, context)
    world.deploy(vm, cloud)
    vm.reach("RUNNING")
    return vm


def shown_password(zone: Zone, number: int, *, is_decrypted: bool = False) -> str | None:
    return zone.document("one.vm.info", number, is_decrypted).findtext("TEMPLATE/CONTEXT/PASSWORD")


def given(world: World, vm: Vm) -> dict[str, str]:
    """CONTEXT as the VM's simulated instance got it."""
    (text,) = world.zone.place.contexts(vm.number)
    return dict(line.split("=", 1) for line in shlex.split(text))


def end(*vms: Vm) -> None:
    for vm in vms:
        vm.ask("terminate")
    for vm in vms:
        vm.reach("DONE")


def test_instance_gets_the_password_that_opennebula_shows_encrypted(world: World) -> None:
    vm = run(world, "simulated", {"PASSWORD": PASSWORD, "USERNAME": "ada"})
    assert given(world, vm)["PASSWORD"] == PASSWORD
    shown = shown_password(world.zone, vm.number)
    assert shown not in (None, PASSWORD)
    for path in world.zone.folder.joinpath("var").glob("*.log"):
        assert PASSWORD not in path.read_text(errors="replace"), path
    vm.ask("poweroff")
    vm.reach("POWEROFF")
    vm.ask("resume")
    vm.reach("RUNNING")
    assert "context" not in vm.log(), "an unchanged password is no change of the context"
    end(vm)


def test_instance_on_ec2_gets_the_password_in_its_user_data(world: World) -> None:
    vm = run(world, "ec2", {"PASSWORD": PASSWORD})
    [found] = re.findall(r'"hashed_passwd": "([^"]+)"', user_data(world.zone, vm).decode())
    assert sha512_crypt.verify(PASSWORD, found)
    assert shown_password(world.zone, vm.number) != PASSWORD
    end(vm)


def test_changed_password_reaches_the_stopped_instance(world: World) -> None:
    vm = run(world, "simulated", {"PASSWORD": PASSWORD})
    vm.ask("poweroff")
    vm.reach("POWEROFF")
    world.zone.call("one.vm.updateconf", vm.number, f'CONTEXT = [ PASSWORD = "{ANOTHER}" ]')
    vm.ask("resume")
    vm.reach("RUNNING")
    assert given(world, vm)["PASSWORD"] == ANOTHER
    end(vm)


def test_partner_decrypts_the_same_password(world: World, partner: Zone) -> None:
    vm = run(world, "partner", {"PASSWORD": PASSWORD})
    (deploy_id,) = world.instances("partner")
    remote = int(re.findall(r"\d+", deploy_id)[0])
    assert shown_password(partner, remote, is_decrypted=True) == PASSWORD
    assert partner.release < (5, 12) or shown_password(partner, remote) != PASSWORD
    vm.ask("poweroff")
    vm.reach("POWEROFF")
    world.zone.call("one.vm.updateconf", vm.number, f'CONTEXT = [ PASSWORD = "{ANOTHER}", USERNAME = "ada" ]')
    vm.ask("resume")
    vm.reach("RUNNING")
    assert shown_password(partner, remote, is_decrypted=True) == ANOTHER
    vm.ask("poweroff")
    vm.reach("POWEROFF")
    world.zone.call("one.vm.updateconf", vm.number, f'CONTEXT = [ PASSWORD = "{ANOTHER}", USERNAME = "bob" ]')
    vm.ask("resume")
    vm.reach("RUNNING")
    assert shown_password(partner, remote, is_decrypted=True) == ANOTHER
    end(vm)


def test_upstreams_onegate_accepts_the_token(world: World, onegate_port: int) -> None:
    vm = run(world, "simulated", {"TOKEN": "YES", "REPORT_READY": "YES"})
    other = run(world, "simulated", {"TOKEN": "YES"})
    context = given(world, vm)
    with onegate(world.zone, onegate_port):
        assert report_ready(context, token=given(world, other)["ONEGATE_TOKEN"]) == 401
        assert report_ready(context) == 200, tail(world.zone.folder / "var" / "onegate.log")
    document = world.zone.document("one.vm.info", vm.number)
    assert document.findtext("USER_TEMPLATE/READY") == "YES"
    end(vm, other)


def test_partner_gets_the_token_of_the_local_onegate(world: World, partner: Zone, onegate_port: int) -> None:
    vm = run(world, "partner", {"TOKEN": "YES"})
    (deploy_id,) = world.instances("partner")
    remote = partner.document("one.vm.info", int(re.findall(r"[0-9]+", deploy_id)[0]))
    context = {each.tag: each.text or "" for each in remote.iterfind("TEMPLATE/CONTEXT/*")}
    assert (context["VMID"], context.get("TOKEN")) == (str(vm.number), None)
    with onegate(world.zone, onegate_port):
        assert report_ready(context) == 200, tail(world.zone.folder / "var" / "onegate.log")
    assert world.zone.document("one.vm.info", vm.number).findtext("USER_TEMPLATE/READY") == "YES"
    end(vm)


def test_deploy_without_the_right_to_decrypt_fails_and_makes_nothing(world: World) -> None:
    world.zone.call("one.user.allocate", "plain", "secret", "")
    vm = create(world, "simulated", {"PASSWORD": PASSWORD, "TOKEN": "YES"})
    auth = world.zone.folder / ".one" / "one_auth"
    login = auth.read_text()
    auth.write_text("plain:secret\n")
    try:
        world.deploy(vm, "simulated")
        until(lambda: vm.state()[1] == BOOT_FAILURE, seconds=30)
    finally:
        auth.write_text(login)
    assert "CONTEXT/PASSWORD cannot be decrypted" in vm.log()
    assert world.zone.place.contexts(vm.number) == []
    world.zone.call("one.vm.recover", vm.number, RETRY)
    vm.reach("RUNNING")
    assert given(world, vm)["PASSWORD"] == PASSWORD
    end(vm)
