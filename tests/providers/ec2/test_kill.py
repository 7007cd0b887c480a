"""kill -9 anywhere in a deploy on EC2 buys no second instance (tests/end_to_end/test_kill.py tests it in detail)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest
from msgspec.structs import replace

from one_provider_mad.domain import VmId
from one_provider_mad.providers.simulated.settings import DelayOrder, FaultSettings
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Driver, Place, replies
from tests.end_to_end.test_kill import (
    INSIDE,
    POINTS,
    QUICKLY,
    Landed,
    Remains,
    attempts,
    copied,
    has_reached,
    open_actions,
    print_points,
)
from tests.providers.ec2.account import SETTINGS
from tests.providers.ec2.drivers import ENVIRON, NAME, configuration, started, template
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.waiting import until

SEED = 20260102
VMS = tuple(map(VmId, range(7, 11)))
"""Each is deployed when the one before has reached some point, so that one kill hits each at a point of its own."""

BOOT, LAG = 0.2, 0.2
"""Seconds that an instance boots, and that it is not visible."""

SLOW = replace(SETTINGS, latency=0.05, faults=FaultSettings(late_answers=DelayOrder(seconds=0.05)))
"""Calls and answers are delayed, so that kills hit calls under way."""


def deploy(vm_id: VmId) -> bytes:
    return oned_requests.deploy(vm_id, template=template())


class Killer:
    """Kills drivers in the middle of deploys, each in an OpenNebula of its own on the same endpoint."""

    def __init__(self, root: Path, ec2: FaultyEc2) -> None:
        self.landed: Counter[Landed] = Counter()
        self.count = 0
        self._root = root
        self._ec2 = ec2
        self._random = random.Random(SEED)
        self._points = cycle(self._random.sample(POINTS, len(POINTS)))

    def place(self) -> Place:
        """A new OpenNebula, and an empty account."""
        self.count += 1
        account = self._ec2.account
        account.reset()
        account.boot, account.lag = BOOT, LAG
        place = Place(self._root / str(self.count))
        place.configure(configuration(self._ec2, grace=LAG + 0.3), name=NAME)
        return place

    def kill(self, place: Place) -> list[Remains]:
        """Kill one; one in five has not imported EC2's modules yet, the others have."""
        journal = place.var / f"one_provider_mad_{NAME}.journal"
        with Driver(place, f"-t 15 -r 0 {NAME}", environ=ENVIRON) as driver:
            if self.count % 5 != 1:
                driver.ask(oned_requests.poll(99, "i-0"))
            for vm_id in VMS:
                driver.send(deploy(vm_id))
                point = next(self._points) if vm_id == VMS[-1] else self._random.choice(INSIDE)
                until(partial(has_reached, point, journal, vm_id, self._owners), pause=QUICKLY)
            driver.kill()
            remains = self._remains(driver)
        self.landed.update(each.landed for each in remains)
        return remains

    def _owners(self) -> list[VmId]:
        """The VMs of all instances; one for each instance."""
        return [VmId(int(each.tags["ONE_PROVIDER_VM_ID"])) for each in list(self._ec2.account.instances.values())]

    def _remains(self, driver: Driver) -> list[Remains]:
        place = driver.place
        written = [line.split(" ") for line in replies(driver.rest())]
        journal = copied(place.var / f"one_provider_mad_{NAME}.journal", place.root / "remains")
        made = self._owners()
        return [
            Remains(
                vm_id=vm_id,
                open_actions=open_actions(journal, vm_id),
                attempts=attempts(journal, vm_id),
                instances=[None] * made.count(vm_id),  # type: ignore[list-item] # only how many matters
                written=[words[0] for words in written if words[2] == str(vm_id)],
            )
            for vm_id in VMS
        ]


@pytest.mark.parametrize("kills", [pytest.param(5, id="20"), pytest.param(50, id="200", marks=pytest.mark.soak)])
def test_a_driver_killed_anywhere_in_a_deploy_buys_one_instance(tmp_path: Path, kills: int) -> None:
    """Four VMs for each kill; the next driver gets each deploy again, and answers with the VM's only instance."""
    with FaultyEc2(settings=SLOW).running() as ec2:
        killer = Killer(tmp_path, ec2)
        for _ in range(kills):
            place = killer.place()
            killer.kill(place)
            with started(place) as driver:
                driver.write(b"".join(map(deploy, VMS)))
                answered = answers(driver, VMS)
            assert [each.id for each in ec2.account.alive] == list(ec2.account.instances)
            assert sorted(answered.values()) == sorted(ec2.account.instances)
            for vm_id, deploy_id in answered.items():
                assert ec2.account.instances[deploy_id].tags["ONE_PROVIDER_VM_ID"] == str(vm_id)
        print_points(f"EC2, seed {SEED}", killer.landed, count=killer.count)


def answers(driver: Driver, vm_ids: Sequence[VmId]) -> dict[VmId, str]:
    """The deploy id in the one answer for each of these VMs."""
    found: dict[VmId, str] = {}
    while len(found) < len(vm_ids):
        line = driver.wait_for(lambda text: not text.startswith("LOG "))
        word, result, number, deploy_id = line.split(" ", 3)
        assert (word, result) == ("DEPLOY", "SUCCESS"), line
        assert VmId(int(number)) in set(vm_ids) - set(found), line
        found[VmId(int(number))] = deploy_id
    return found
