"""Orphans in EC2 and in another OpenNebula: one VM ends without a request, one is only powered off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.domain import Template
from tests.conftest import assert_spoke_properly
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Driver, Place
from tests.orphans.local_oned import POWEROFF, LocalOned, OwnVm
from tests.providers.ec2 import drivers as ec2
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.opennebula import test_daemons as burst
from tests.waiting import until
from tests.xmlrpc.partner import Partner

ORPHANS = '[orphans]\npolicy = "terminate-done"\ninterval = 1\ngrace = 0\n'
STIME = 1_760_000_000


@pytest.fixture
def opennebula() -> Iterator[LocalOned]:
    """An OpenNebula with the VMs 7 and 8, which are to be deployed."""
    with LocalOned() as opennebula:
        opennebula.own = {number: OwnVm(number, STIME, hosts=[0]) for number in (7, 8)}
        yield opennebula


def both_off(driver: Driver, opennebula: LocalOned, template: Template) -> tuple[str, str]:
    """Deploy both VMs, power them off, and then terminate VM 7 without a request to the driver."""
    ids = []
    for vm in opennebula.own.values():
        vm.deploy_id = driver.created(oned_requests.deploy(vm.number, template=template))
        assert driver.ask(oned_requests.power_off(vm.number, vm.deploy_id)) == "SUCCESS -"
        vm.state = POWEROFF
        ids.append(vm.deploy_id)
    opennebula.own[7].end(int(time.time()) - 5)
    return ids[0], ids[1]


def wait_for_checks(opennebula: LocalOned) -> None:
    asked = opennebula.count("one.vmpool.info")
    until(lambda: opennebula.count("one.vmpool.info") >= asked + 2)


def test_the_orphan_of_a_done_vm_is_terminated_in_ec2(place: Place, opennebula: LocalOned) -> None:
    with FaultyEc2().running() as endpoint:
        place.configure(ec2.configuration(endpoint) + ORPHANS, name=ec2.NAME)
        environ = {**ec2.ENVIRON, **opennebula.environ(place.root)}
        with Driver(place, f"-t 15 -r 0 {ec2.NAME}", environ=environ) as driver:
            over, off = both_off(driver, opennebula, ec2.template())
            until(lambda: endpoint.account.instances[over].word == "terminated")
            wait_for_checks(opennebula)
            assert endpoint.account.instances[off].word == "stopped"
        assert_spoke_properly(driver)
        assert endpoint.account.count("TerminateInstances") == 1


def test_the_orphan_of_a_done_vm_is_terminated_in_another_opennebula(
    place: Place, opennebula: LocalOned, tmp_path: Path
) -> None:
    with Partner(delay=0.005) as partner:
        burst.configure(place, partner)
        path = place.conf / f"{burst.NAME}.toml"
        path.write_text(path.read_text() + ORPHANS)
        environ = opennebula.environ(tmp_path)
        with Driver(place, f"-t 15 -r 0 {burst.NAME}", environ=environ) as driver:
            both_off(driver, opennebula, burst.BURSTING)
            until(lambda: burst.word(partner, 0) == "DONE")
            wait_for_checks(opennebula)
            assert burst.word(partner, 1) == "POWEROFF"
        assert_spoke_properly(driver)
