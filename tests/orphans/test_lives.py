"""Whole lives beside an OpenNebula that tells its drivers nothing, as it does when a VM that is off is terminated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.end_to_end import wire
from tests.end_to_end.oned import OWNER, Driver, Place
from tests.orphans.local import FOLLOWER, LEADER, LocalOned
from tests.waiting import until

Run = Callable[..., Driver]


@pytest.fixture
def opennebula() -> Iterator[LocalOned]:
    with LocalOned() as opennebula:
        yield opennebula


def configure(place: Place, policy: str = "terminate-done", **orphans: Any) -> None:
    settings = {"policy": policy, "interval": 1, "grace": 0, **orphans}
    lines = [f"{key} = {value!r}" for key, value in settings.items()]
    cloud = ['provider = "simulated"', f'owner = "{OWNER}"', "[simulated]", "boot_time = 0.05", "stop_time = 0.05"]
    place.configure("\n".join([*cloud, "[orphans]", *lines, ""]))


def test_a_vm_that_is_terminated_while_it_is_off_leaves_nothing(
    place: Place, driver: Run, opennebula: LocalOned
) -> None:
    configure(place)
    one = driver(environ=opennebula.environ(place.root))
    deploy_id = one.created(wire.deploy(7))
    one.ask(wire.power_off(7, deploy_id))
    (instance,) = place.instances()
    opennebula.know(instance).end(int(time.time()) - 5)
    until(lambda: not place.instances(), seconds=20)
    assert "orphan is terminated" in place.log()


def test_a_front_end_that_does_not_lead_destroys_nothing(place: Place, driver: Run, opennebula: LocalOned) -> None:
    """Neither an orphan nor a debt: whoever leads sees to both."""
    configure(place)
    front_end = opennebula.front_ends[0]
    one = driver(environ=opennebula.environ(place.root))
    deploy_id = one.created(wire.deploy(7))
    one.ask(wire.power_off(7, deploy_id))
    front_end.state = LEADER
    one.kill()
    two = driver(environ=opennebula.environ(place.root))
    until(lambda: '"LEADER"' in place.log())
    front_end.state = FOLLOWER
    until(lambda: '"FOLLOWER"' in place.log())
    opennebula.know(place.instances()[0]).end(int(time.time()) - 5)
    asked = opennebula.count("one.vmpool.info")
    until(lambda: opennebula.count("one.vmpool.info") >= asked + 3, seconds=20)
    assert [entry["debt"] for entry in place.instances()] == [False]
    front_end.state = LEADER
    until(lambda: not place.instances(), seconds=20)
    assert two.process.poll() is None
