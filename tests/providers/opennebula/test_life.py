"""The action driver over real pipes, with a partner OpenNebula as its cloud."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.domain import Template
from tests.conftest import assert_spoke_properly
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Driver, Place
from tests.providers.opennebula.partner_provider import credentials
from tests.waiting import until
from tests.xmlrpc.partner import RELEASES, Partner, Release

NAME = "burst"
BURSTING = Template(
    values={
        "CPU": ("1",),
        "MEMORY": ("256",),
        "PUBLIC_CLOUD": ({"TYPE": "opennebula", "TEMPLATE_NAME": "ubuntu server"},),
    }
)


def configure(place: Place, partner: Partner, **settings: object) -> None:
    table = {
        "endpoints": partner.urls,
        "credentials_file": str(credentials(place.root)),
        "watch_interval": 0.01,
        "visibility_grace": 5,
        **settings,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    head = ['provider = "opennebula"', 'owner = "one-test"', 'hypervisor = "opennebula"', "[opennebula]"]
    place.configure("\n".join([*head, *lines, ""]), name=NAME)


@pytest.fixture
def release() -> Release:
    return "7.4.0"


@pytest.fixture
def partner(release: Release) -> Iterator[Partner]:
    with Partner(release, delay=0.005, front_ends=2) as partner:
        yield partner


@pytest.fixture
def burst(place: Place, partner: Partner) -> Iterator[Driver]:
    """Started without INIT, as by a person, so that it does not search for creates of another front-end."""
    configure(place, partner)
    with Driver(place, f"-t 15 -r 0 {NAME}", init=False) as driver:
        yield driver
    assert_spoke_properly(driver)


def deploy(vm_id: int, *, release: Release) -> bytes:
    return oned_requests.deploy(vm_id, release="5.10" if release == "5.10.5" else "7.4", template=BURSTING)


def word(partner: Partner, number: int = 0) -> str:
    partner.vms[number].catch_up()
    return partner.vms[number].word


@pytest.mark.parametrize("release", RELEASES)
def test_a_vm_at_a_partner_from_deploy_to_terminate(burst: Driver, partner: Partner) -> None:
    deploy_id = burst.created(deploy(7, release=partner.release))
    assert deploy_id == "opennebula-hybrid-0"
    assert word(partner) == "RUNNING"
    assert partner.vms[0].user_template["ONE_PROVIDER_VM_ID"] == ["7"]
    assert burst.ask(oned_requests.reboot(7, deploy_id)) == "SUCCESS -"
    assert burst.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a")
    assert burst.ask(oned_requests.power_off(7, deploy_id)) == "SUCCESS -"
    assert word(partner) == "POWEROFF"
    assert burst.ask(oned_requests.resume(7, deploy_id)) == f"SUCCESS {deploy_id}"
    assert burst.ask(oned_requests.line("SAVE", 7, "SAVE_SUSPEND", deploy_id=deploy_id)) == "SUCCESS -"
    assert word(partner) == "SUSPENDED"
    assert burst.ask(oned_requests.line("RESTORE", 7, "BOOT_SUSPENDED", deploy_id=deploy_id)).startswith("SUCCESS")
    disk = {"DISK_ID": "1", "SIZE": "1024", "TARGET": "vdb"}
    assert burst.ask(oned_requests.line("ATTACHDISK", 7, deploy_id=deploy_id, operand=disk)) == "SUCCESS -"
    assert len(partner.vms[0].sections("DISK")) == 1
    assert burst.ask(oned_requests.line("DETACHDISK", 7, deploy_id=deploy_id, operand=disk)) == "SUCCESS -"
    snapshot = {"SNAPSHOT_ID": "4", "NAME": "before"}
    assert burst.ask(oned_requests.line("SNAPSHOTCREATE", 7, deploy_id=deploy_id, operand=snapshot)) == "SUCCESS 0"
    assert burst.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
    assert word(partner) == "DONE"
    assert len(partner.vms) == 1


def test_a_retried_deploy_adopts_the_existing_instance(burst: Driver, partner: Partner) -> None:
    assert burst.created(deploy(7, release=partner.release)) == burst.created(deploy(7, release=partner.release))
    assert len(partner.vms) == 1


def test_a_deploy_adopts_the_instance_of_a_create_with_a_lost_answer(burst: Driver, partner: Partner) -> None:
    partner.order("lost-answer", "one.template.instantiate")
    burst.send(deploy(7, release=partner.release))
    if burst.reply("DEPLOY", 7).startswith("FAILURE"):
        assert burst.created(deploy(7, release=partner.release)) == "opennebula-hybrid-0"
    assert len(partner.vms) == 1


def test_cleanup_without_a_deploy_id_terminates_the_instance(burst: Driver, partner: Partner) -> None:
    burst.created(deploy(7, release=partner.release))
    assert burst.ask(oned_requests.cleanup(7)) == "SUCCESS -"
    assert word(partner) == "DONE"


def test_a_deploy_beyond_the_partners_quota_fails_with_the_quota(burst: Driver, partner: Partner) -> None:
    partner.users["oneadmin:secret"].quota = {"VMS": "1"}
    burst.created(deploy(7, release=partner.release))
    reply = burst.ask(deploy(8, release=partner.release))
    assert reply.startswith("FAILURE the partner's OpenNebula refuses: limit of 1 reached for VMS")


def test_deploys_and_terminates_succeed_after_the_partners_leader_changes(burst: Driver, partner: Partner) -> None:
    first = burst.created(deploy(7, release=partner.release))
    partner.front_ends[0].state, partner.front_ends[1].state = 2, 3
    second = burst.created(deploy(8, release=partner.release))
    assert (first, second) == ("opennebula-hybrid-0", "opennebula-hybrid-1")
    assert burst.ask(oned_requests.terminate(7, first)) == "SUCCESS -"


def test_a_driver_killed_and_restarted_during_a_deploy_leaves_one_instance(place: Place, partner: Partner) -> None:
    partner.delay = 0.3
    configure(place, partner)
    with Driver(place, f"-t 15 -r 0 {NAME}") as killed:
        killed.send(deploy(7, release=partner.release))
        until(lambda: partner.vms)
        killed.kill()
    partner.delay = 0.005
    with Driver(place, f"-t 15 -r 0 {NAME}") as driver:
        assert driver.reply("DEPLOY", 7) == "SUCCESS opennebula-hybrid-0"
    assert len(partner.vms) == 1


def test_a_front_end_that_takes_over_during_a_create_leaves_one_instance(
    place: Place, partner: Partner, tmp_path: Path
) -> None:
    """The journal stays on the front-end that died, and the partner is still at work on its create."""
    successor = Place(tmp_path / "successor")
    for front_end in (place, successor):
        configure(front_end, partner)
    partner.order("held", "one.template.instantiate")
    with Driver(place, f"-t 15 -r 0 {NAME}") as dead:
        dead.send(deploy(7, release=partner.release))
        until(lambda: partner.held)
        dead.kill()
    with Driver(successor, f"-t 15 -r 0 {NAME}") as driver:
        listings = partner.count("one.vmpool.infoextended")
        driver.send(deploy(7, release=partner.release))
        until(lambda: partner.vms or partner.count("one.vmpool.infoextended") > listings + 2)
        partner.go_on()
        assert driver.reply("DEPLOY", 7) == "SUCCESS opennebula-hybrid-0"
        until(lambda: len(partner.vms) >= 1)
    assert len(partner.vms) == 1


def test_a_deploy_with_wrong_credentials_fails_and_succeeds_once_they_are_corrected(
    place: Place, tmp_path: Path
) -> None:
    with Partner() as partner:
        configure(place, partner, credentials_file=str(tmp_path / "missing"))
        with Driver(place, NAME, init=False) as driver:
            assert driver.ask(deploy(7, release="7.4.0")).startswith(
                "FAILURE missing does not exist: write user:password"
            )
            configure(place, partner, credentials_file=str(credentials(tmp_path, "oneadmin:hunter2")))
            reply = driver.ask(deploy(7, release="7.4.0"))
            assert reply.startswith(
                f"FAILURE the partner's OpenNebula at {partner.place} refuses the login of oneadmin"
            )
            assert "hunter2" not in place.log(NAME)
            configure(place, partner)
            assert driver.created(deploy(7, release="7.4.0")) == "opennebula-hybrid-0"
