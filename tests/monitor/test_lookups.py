"""An instance that a listing lacks is looked up by its id before it counts as missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, Instance, VmId
from one_provider_mad.errors import Throttled
from one_provider_mad.monitor.attribution import KnownInstance
from one_provider_mad.monitor.inference import Listing, Memory, Rules, infer_states
from one_provider_mad.monitor.lookups import MOST_LOOKED_UP, lacking, look_up
from tests.actions.fakes import pass_time, until
from tests.monitor.builders import IDLE, NOW, OWNER, instance_of, listing_of, through, words
from tests.monitor.virtual_driver import VirtualDriver

pytestmark = pytest.mark.looptime

Make = Callable[..., VirtualDriver]


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes drivers, which are closed in the end."""
    made: list[VirtualDriver] = []

    def make(**options: Any) -> VirtualDriver:
        made.append(VirtualDriver(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        await one.handler.stop()


def let_listings_lag(one: VirtualDriver, *vm_ids: int) -> None:
    """From now on listings leave out these VMs' instances."""
    listed, hidden = one.cloud.list_instances, {f"i-{vm_id}" for vm_id in vm_ids}

    async def list_instances() -> Sequence[Instance]:
        return [each for each in await listed() if each.deploy_id not in hidden]

    one.cloud.list_instances = list_instances  # type: ignore[method-assign]


def asked(one: VirtualDriver) -> list[list[str]]:
    return [sorted(ids) for name, ids in one.cloud.calls if name == "describe"]


async def test_a_vm_that_listings_lack_stays_running_if_a_lookup_finds_its_instance(driver: Make) -> None:
    one = driver()
    for vm_id in range(10):
        one.add(vm_id)
    one.start(STATE_VM=5, SYNC_STATE_VM=20)
    await pass_time(1)
    let_listings_lag(one, 1, 4, 7)
    await until(lambda: len(one.syncs()) >= 4, "four reports of all")
    assert all(said == dict.fromkeys(range(10), "RUNNING") for _, said in one.syncs())
    assert asked(one)[0] == ["i-1", "i-4", "i-7"], "all of them in one call"


async def test_a_vm_whose_instance_no_lookup_finds_is_missing_and_not_looked_up_again(driver: Make) -> None:
    one = driver(missing_after=3)
    gone = one.add(7)
    one.start(STATE_VM=5, SYNC_STATE_VM=600)
    await pass_time(1)
    del one.cloud.instances[gone]
    await until(lambda: bool(one.changes()), "a report")
    await pass_time(60)
    assert [said for _, said in one.changes()] == [{7: "FAILURE"}]
    assert asked(one) == [["i-7"]] * 3


async def test_a_vm_is_not_missing_while_lookups_of_its_instance_fail(driver: Make) -> None:
    one = driver(missing_after=1)
    gone = one.add(7)
    one.start(STATE_VM=5, SYNC_STATE_VM=600)
    await pass_time(1)
    del one.cloud.instances[gone]
    one.source.watched = msgspec.structs.replace(one.source.watched, call_timeout=1.0)
    for wrong in (Throttled("slow down"), asyncio.Event(), RuntimeError("a defect")):
        one.cloud.always["describe"] = wrong
        before = len(asked(one))
        await until(lambda before=before: len(asked(one)) >= before + 2, "two lookups")  # type: ignore[misc]
        assert one.changes() == []
    del one.cloud.always["describe"]
    await until(lambda: bool(one.changes()), "a report")
    assert [said for _, said in one.changes()] == [{7: "FAILURE"}]


@pytest.mark.parametrize("missing_after", [1, 3])
def test_a_vm_is_missing_only_after_the_visibility_grace(missing_after: int) -> None:
    rules = Rules(owner=OWNER, grace=300.0, missing_after=missing_after)
    memory, said = through([(listing_of(instance_of(7)), IDLE)], rules=rules).memory, {}
    for after in range(5, 400, 5):
        inference = infer_states(memory, listing_of(after=after), IDLE, rules)
        memory, said[after] = inference.memory, words(inference)[7]
    assert next(after for after, word in said.items() if word == "(FAILURE)") == 305


def test_a_vm_that_came_back_within_the_grace_gets_the_whole_grace_again() -> None:
    rules = Rules(owner=OWNER, grace=300.0)
    there, away = (instance_of(7),), ()
    looks = [there, *[away] * 50, there, *[away] * 50]
    steps = [(listing_of(*shown, after=5.0 * number), IDLE) for number, shown in enumerate(looks)]
    assert words(through(steps, rules=rules)) == {7: "UNKNOWN"}


def test_vms_whose_lookup_failed_are_unknown_and_neither_missed_nor_held() -> None:
    everyone = [instance_of(vm_id) for vm_id in range(10)]
    lost = Listing(began_at=NOW + 10, instances=(), not_looked_up=frozenset(each.deploy_id for each in everyone))
    inference = through([(listing_of(*everyone), IDLE), (lost, IDLE)])
    assert set(words(inference).values()) == {"UNKNOWN"}
    assert inference.held == frozenset()
    assert not any(known.misses for known in inference.memory.vms.values())


def known(vm_id: int, **more: Any) -> KnownInstance:
    return KnownInstance(vm_id=VmId(vm_id), host_id=3, deploy_id=DeployId(f"i-{vm_id}"), **more)


def test_only_instances_that_may_become_missing_are_looked_up_most_missed_first() -> None:
    vms = [
        known(0),
        known(1, misses=2),
        known(2),
        known(3, misses=3),
        known(4, is_parked=True),
        known(5, is_terminated=True),
        known(6, held_since=NOW),
    ]
    memory = Memory(vms={each.vm_id: each for each in vms})
    assert lacking(memory, {DeployId("i-2")}, missing_after=3) == ["i-1", "i-0"]


async def test_beyond_a_limit_lacking_instances_are_not_looked_up_and_not_missed(driver: Make) -> None:
    one = driver()
    lost = [DeployId(f"i-{number}") for number in range(MOST_LOOKED_UP + 2)]
    lookup = await look_up(one.source.watched, lost)
    assert lookup.not_looked_up == frozenset(lost[-2:])


async def test_a_complete_listing_causes_no_lookup(driver: Make) -> None:
    one = driver()
    one.add(7)
    one.start(STATE_VM=5)
    await pass_time(100)
    assert asked(one) == []


async def test_an_instance_found_by_lookup_counts_as_listed_with_all_its_fields(driver: Make) -> None:
    """Its state and its end too: a partner's listings lack terminated VMs."""
    one = driver()
    one.add(7)
    described = one.cloud.describe

    async def describe(deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        found = await described(deploy_ids)
        return {each: msgspec.structs.replace(seen, reason="by id") for each, seen in found.items()}

    one.cloud.describe = describe  # type: ignore[method-assign]
    one.start(STATE_VM=5)
    await pass_time(1)
    let_listings_lag(one, 7)
    await pass_time(10)
    (vm,) = (await one.sweeper.sweep()).vms(3)
    assert vm.instance is not None
    assert vm.instance.reason == "by id"
