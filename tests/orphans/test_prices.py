"""The search for orphans records what orphans, unused parts and parked instances cost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.domain import DeployId, Instance, VmId
from one_provider_mad.errors import MadError, ProviderUnavailable
from one_provider_mad.orphans.reconciler import ORPHANS
from one_provider_mad.pricing.values import Item, Kind, Part, Price
from one_provider_mad.providers.interface import UnusedResource
from one_provider_mad.settings import OrphanPolicy
from tests.actions.fakes import World, a_world
from tests.fixed_prices import FixedPrices
from tests.orphans.reconciler_setup import CloudOfParts, FrontEnd, end

COSTS = Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name="s"), amount=0.25),), currency="EUR")
SHOWN = {"amount": 0.25, "known": 0.25, "currency": "EUR", "text": "0.2500"}


class PricedCloud(FixedPrices, CloudOfParts):
    """Pretends to be a cloud that knows prices.

    Attributes:
        readings: the instances of each reading of prices.
        reading_error: raised by the next readings.
    """

    price = COSTS

    def __init__(self) -> None:
        super().__init__()
        self.readings: list[int] = []
        self.reading_error: MadError | None = None

    async def read_prices(self, instances: Collection[Instance]) -> None:
        self.readings.append(len(instances))
        if self.reading_error is not None:
            raise self.reading_error


@pytest.fixture
def cloud() -> PricedCloud:
    return PricedCloud()


@pytest.fixture
async def world(tmp_path: Path, cloud: PricedCloud) -> AsyncIterator[World]:
    async with a_world(tmp_path, provider=cloud) as world:
        yield world


@pytest.fixture
async def front(world: World) -> FrontEnd:
    front = FrontEnd(world)
    front.policy = OrphanPolicy()
    for vm_id in (7, 8):
        await front.create(f"i-{vm_id}", vm_id=vm_id)
        front.opennebula.vm(vm_id, f"i-{vm_id}")
    return front


async def found(front: FrontEnd) -> dict[str, Any]:
    await front.look()
    result: dict[str, Any] = json.loads(await front.world.journal.fact(ORPHANS) or "")
    return result


async def test_orphans_parts_and_parked_instances_have_their_price(front: FrontEnd, cloud: PricedCloud) -> None:
    end(front, 7)
    await front.world.journal.park(DeployId("i-8"), VmId(8))
    cloud.parts = [UnusedResource(part_id="vol-1", kind="volume", price=COSTS), UnusedResource(part_id="v", kind="x")]
    result = await found(front)
    assert [(each["deploy_id"], each["price"]) for each in result["orphans"]] == [("i-7", SHOWN)]
    assert [(each["id"], each["price"]) for each in result["parts"]] == [("vol-1", SHOWN), ("v", None)]
    assert result["parked"] == [{"deploy_id": "i-8", "vm_id": 8, "price": SHOWN}]
    assert cloud.readings == [2]


async def test_without_orphans_and_parked_instances_no_prices_are_read(front: FrontEnd, cloud: PricedCloud) -> None:
    assert (await found(front))["parked"] == []
    assert cloud.readings == []


async def test_a_parked_orphan_and_a_parked_instance_that_is_gone_are_not_counted_as_parked(front: FrontEnd) -> None:
    for deploy_id in ("i-7", "i-9"):
        await front.world.journal.park(DeployId(deploy_id), VmId(7))
    end(front, 7)
    result = await found(front)
    assert (len(result["orphans"]), result["parked"]) == (1, [])


async def test_prices_that_cannot_be_read_do_not_stop_the_search(front: FrontEnd, cloud: PricedCloud) -> None:
    end(front, 7)
    cloud.reading_error = ProviderUnavailable("no prices today")
    assert [each["deploy_id"] for each in (await found(front))["orphans"]] == ["i-7"]
