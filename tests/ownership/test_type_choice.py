"""Types and prices are read before the plan of a VM that leaves its type to the driver, and of no other VM."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.domain import Instance, VmRequest
from one_provider_mad.errors import BadParameter, NoCapacity, PermissionDenied, ProviderUnavailable, Throttled
from one_provider_mad.ownership.creating import Creation, Order
from one_provider_mad.pricing.values import UNKNOWN, Price
from one_provider_mad.providers.interface import CreatePlan, InstanceType, PriceSource, TypeSource, TypeWish
from tests.actions.fakes import FakeCloud, World, a_world, request_of
from tests.fixed_prices import FixedPrices

pytestmark = pytest.mark.looptime

READS = ["read_types", "read_prices"]


class PricedCloud(FixedPrices, FakeCloud):
    """Pretends to be a cloud whose `plan` chooses the cheapest size, once types and prices have been read."""

    def __init__(self, *, leaves_it: bool) -> None:
        super().__init__()
        self.leaves_it = leaves_it
        self.planned_in: list[threading.Thread] = []

    def chooses_type(self, request: VmRequest) -> bool:
        return self.leaves_it

    def choice_attributes(self) -> Mapping[str, str]:
        return {}

    def wish_of(self, request: VmRequest) -> TypeWish:
        return TypeWish()

    def is_usual_type(self, kind: InstanceType) -> bool:
        return True

    async def read_types(self) -> None:
        await self._travel("read_types", None)

    async def read_prices(self, instances: Collection[Instance]) -> None:
        await self._travel("read_prices", tuple(instances))

    def instance_types(self) -> Mapping[str, InstanceType]:
        return {}

    def price_of_type(self, name: str, *, market: str) -> Price:
        return UNKNOWN

    def plan(self, request: VmRequest) -> CreatePlan:
        self.calls.append(("plan", None))
        self.planned_in.append(threading.current_thread())
        return super().plan(request)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path, provider=PricedCloud(leaves_it=True)) as world:
        yield world


async def created(world: World) -> list[str]:
    """Creates an instance, and returns the calls."""
    request = request_of(7)
    await Creation(vm=world.vm(request), order=Order(request=request)).create()
    return [name for name, _ in world.provider.calls]


def test_the_fake_has_types_and_prices() -> None:
    assert isinstance(PricedCloud(leaves_it=True), TypeSource)
    assert isinstance(PricedCloud(leaves_it=True), PriceSource)


async def test_types_and_prices_are_read_before_the_plan(world: World) -> None:
    assert await created(world) == [*READS, "plan", "create"]
    assert ("read_prices", ()) in world.provider.calls


async def test_types_are_compared_in_a_thread(world: World) -> None:
    await created(world)
    assert isinstance(world.provider, PricedCloud)
    assert threading.main_thread() not in world.provider.planned_in


async def test_a_vm_that_names_its_type_waits_for_no_price(tmp_path: Path) -> None:
    async with a_world(tmp_path, provider=PricedCloud(leaves_it=False)) as world:
        assert await created(world) == ["plan", "create"]


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize(
    "error", [PermissionDenied("not allowed"), BadParameter("no"), ProviderUnavailable("no answer"), Throttled("later")]
)
async def test_an_instance_is_created_without_what_cannot_be_read(world: World, name: str, error: Any) -> None:
    world.provider.before[name].extend([error] * 9)
    calls = await created(world)
    assert calls[-2:] == ["plan", "create"]
    assert set(calls) == {*READS, "plan", "create"}


async def test_the_next_cheapest_is_tried_after_a_shortage(world: World) -> None:
    world.provider.alternatives = ({"size": "cheap"}, {"size": "next"}, {"size": "dear"})
    world.provider.before["create"].append(NoCapacity("no cheap one"))
    await created(world)
    tried = [call.parameters["size"] for name, call in world.provider.calls if name == "create"]
    assert tried == ["cheap", "next"]
    assert "no cheap one" in world.warnings
