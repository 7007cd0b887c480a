"""kill -9 anywhere in a deploy on EC2 buys no second instance (tests/end_to_end/test_kill.py has the whole story)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from one_provider_mad.domain import VmId
from one_provider_mad.providers.simulated.settings import DelayOrder, FaultSettings
from tests.end_to_end import wire
from tests.end_to_end.oned import Driver, Place, replies
from tests.end_to_end.test_kill import INSIDE, Landed, Remains, attempts, copied, open_actions, run_on, tell_where
from tests.providers.ec2.account import SETTINGS
from tests.providers.ec2.drivers import ENVIRON, NAME, configuration, started, template
from tests.providers.ec2.face import Face

SEED = 20260102
VMS = tuple(map(VmId, range(7, 11)))
"""Deployed at once, each a bit later than the one before, so that one kill hits each at a point of its own."""

BOOT, LAG = 0.2, 0.2
"""Seconds: so long an instance boots and cannot be seen."""

SLOW = replace(SETTINGS, latency=0.05, faults=FaultSettings(late_answers=DelayOrder(seconds=0.05)))
"""Every call takes as long on its way there as on its way back, so that kills come while it travels."""

MORE_KILLS = 7
"""How many further kills may be needed until a third of the points lies inside, on a machine whose speed changes."""


def deploy(vm_id: VmId) -> bytes:
    return wire.deploy(vm_id, template=template())


class Killer:
    """Kills drivers in the middle of deploys, each in an OpenNebula of its own on the same endpoint."""

    def __init__(self, root: Path, face: Face) -> None:
        self.landed: Counter[Landed] = Counter()
        self.count = 0
        self._root = root
        self._face = face
        self._random = random.Random(SEED)
        self._first, self._other = self._measured()

    def place(self) -> Place:
        """A new OpenNebula, and an empty account."""
        self.count += 1
        account = self._face.account
        account.reset()
        account.boot, account.lag = BOOT, LAG
        place = Place(self._root / str(self.count))
        place.configure(configuration(self._face, grace=LAG + 0.3), name=NAME)
        return place

    def _measured(self) -> tuple[float, float]:
        """Seconds of the first deploy of a process, and of any other."""
        with started(self.place()) as driver:
            begun = time.monotonic()
            driver.created(deploy(VMS[0]))
            between = time.monotonic()
            driver.created(deploy(VMS[1]))
            return between - begun, time.monotonic() - between

    def is_enough(self, kills: int) -> bool:
        inside = sum(self.landed[where] for where in INSIDE)
        return self.count > kills + MORE_KILLS or (self.count > kills and 3 * inside >= self.landed.total())

    def kill(self, place: Place) -> list[Remains]:
        """Kill one; one in five has everything to load yet, the others are warm."""
        longest = self._random.uniform(0.4, 1.1)
        shares = [longest * ((number + self._random.random()) / len(VMS)) ** 1.5 for number in range(len(VMS))]
        is_cold = self.count % 5 == 0
        ages = [share * (self._first if is_cold else self._other) for share in sorted(shares, reverse=True)]
        lives = max(ages)
        with Driver(place, f"-t 15 -r 0 {NAME}", environ=ENVIRON) as driver:
            if not is_cold:
                driver.ask(wire.poll(99, "i-0"))
            begun = time.monotonic()
            for vm_id, age in sorted(zip(VMS, ages, strict=True), key=lambda each: -each[1]):
                run_on(driver, begun + lives - age - time.monotonic())
                driver.send(deploy(vm_id))
            run_on(driver, begun + lives - time.monotonic())
            driver.kill()
            remains = self._remains(driver)
        self.landed.update(each.landed for each in remains)
        return remains

    def _remains(self, driver: Driver) -> list[Remains]:
        place = driver.place
        written = [line.split(" ") for line in replies(driver.rest())]
        journal = copied(place.var / f"one_provider_mad_{NAME}.journal", place.root / "remains")
        made = [each.tags["ONE_PROVIDER_VM_ID"] for each in self._face.account.instances.values()]
        return [
            Remains(
                vm_id=vm_id,
                open_actions=open_actions(journal, vm_id),
                attempts=attempts(journal, vm_id),
                instances=[None] * made.count(str(vm_id)),  # type: ignore[list-item] # only how many matters
                written=[words[0] for words in written if words[2] == str(vm_id)],
            )
            for vm_id in VMS
        ]


@pytest.mark.parametrize("kills", [pytest.param(5, id="20"), pytest.param(50, id="200", marks=pytest.mark.soak)])
def test_a_driver_killed_anywhere_in_a_deploy_buys_one_instance(tmp_path: Path, kills: int) -> None:
    """Four VMs a kill; whoever comes next is told again of each, and answers with the only instance there ever was."""
    with Face(settings=SLOW).running() as face:
        killer = Killer(tmp_path, face)
        while not killer.is_enough(kills):
            place = killer.place()
            killer.kill(place)
            with started(place) as driver:
                driver.write(b"".join(map(deploy, VMS)))
                answered = answers(driver, VMS)
            assert [each.id for each in face.account.alive] == list(face.account.instances)
            assert sorted(answered.values()) == sorted(face.account.instances)
            for vm_id, deploy_id in answered.items():
                assert face.account.instances[deploy_id].tags["ONE_PROVIDER_VM_ID"] == str(vm_id)
        tell_where(f"EC2, seed {SEED}", killer.landed, count=killer.count - 1)
        assert 3 * sum(killer.landed[where] for where in INSIDE) >= killer.landed.total()


def answers(driver: Driver, vm_ids: Sequence[VmId]) -> dict[VmId, str]:
    """The deploy id that each of these VMs was answered with, once each."""
    found: dict[VmId, str] = {}
    while len(found) < len(vm_ids):
        line = driver.wait_for(lambda text: not text.startswith("LOG "))
        word, result, number, deploy_id = line.split(" ", 3)
        assert (word, result) == ("DEPLOY", "SUCCESS"), line
        assert VmId(int(number)) in set(vm_ids) - set(found), line
        found[VmId(int(number))] = deploy_id
    return found
