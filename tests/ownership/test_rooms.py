"""Which refusals of the cloud the journal keeps, and which creates end them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId, VmRequest
from one_provider_mad.errors import JournalError, NoCapacity, ProviderError, QuotaExceeded
from one_provider_mad.journal.reader import read_outline
from one_provider_mad.journal.records import ANY_ROOM, Outline
from one_provider_mad.journal.shortages import MOST_SHORTAGES
from one_provider_mad.ownership.creating import Creation, Order
from one_provider_mad.providers.interface import Parameters
from tests.actions.fakes import FakeCloud, World, a_world, pass_time, request_of, until

pytestmark = pytest.mark.looptime


class RoomyCloud(FakeCloud):
    """Pretends to be a cloud with a room of each size; `exotic` is a special wish."""

    shortage_memory = 600.0

    def usual_rooms(self, types: Collection[str]) -> Collection[str]:
        return types or ("small", "medium")

    def room_of(self, request: VmRequest, parameters: Parameters) -> str:
        size = str(parameters["size"])
        return "" if size == "exotic" else size


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path, provider=RoomyCloud()) as world:
        yield world


async def create(world: World, vm_id: int, *sizes: str, refused: Sequence[ProviderError] = ()) -> None:
    """Creates a VM that may have any of these sizes; the cloud refuses the first ones so."""
    world.provider.alternatives = tuple({"size": size} for size in sizes)
    world.provider.before["create"].extend(refused)
    request = request_of(vm_id)
    with suppress(*map(type, refused)):
        await Creation(vm=world.vm(request), order=Order(request=request)).create()


def outline(world: World) -> Outline:
    return read_outline(world.journal.path, since=0)


def short(world: World) -> list[str]:
    return [each.room for each in outline(world).shortages]


async def test_each_refused_room_is_recorded_with_the_clouds_sentence(world: World) -> None:
    refused = [NoCapacity("no small"), NoCapacity("no medium")]
    await create(world, 7, "small", "medium", refused=refused)
    found = outline(world).shortages
    assert [(each.room, each.text, each.is_limit) for each in found] == [
        ("small", "no small", False),
        ("medium", "no medium", False),
    ]
    assert abs(found[0].at - world.clock()) < 5


@pytest.mark.parametrize(
    ("size", "error", "rooms"),
    [
        pytest.param("exotic", NoCapacity("none"), [], id="special-wish"),
        pytest.param("exotic", NoCapacity("none at all", is_general=True), [ANY_ROOM], id="no-room-at-all"),
        pytest.param("small", QuotaExceeded("no more"), ["small"], id="limit"),
        pytest.param("exotic", QuotaExceeded("no more"), [], id="limit-of-a-special-wish"),
    ],
)
async def test_what_is_recorded_depends_on_what_the_cloud_refused(
    world: World, size: str, error: NoCapacity | QuotaExceeded, rooms: list[str]
) -> None:
    await create(world, 7, size, refused=[error])
    assert short(world) == rooms


async def test_a_repeated_refusal_replaces_the_earlier_one(world: World) -> None:
    await create(world, 7, "small", refused=[NoCapacity("first")])
    await create(world, 8, "small", refused=[NoCapacity("second")])
    assert [each.text for each in outline(world).shortages] == ["second"]


async def test_a_create_ends_the_shortage_of_its_room_and_of_the_whole_cloud(world: World) -> None:
    await create(world, 7, "small", "medium", refused=[NoCapacity("no small"), NoCapacity("no medium")])
    await create(world, 8, "large", refused=[NoCapacity("none at all", is_general=True)])
    await pass_time(1)
    await create(world, 9, "small")
    assert short(world) == ["medium"]


async def test_a_create_with_a_special_wish_ends_no_shortage(world: World) -> None:
    await create(world, 7, "small", refused=[NoCapacity("no small")])
    await pass_time(1)
    await create(world, 8, "exotic")
    assert short(world) == ["small"]


async def test_a_create_sent_before_a_refusal_does_not_end_it(world: World) -> None:
    is_answered = asyncio.Event()
    world.provider.before["create"].append(is_answered)
    first = asyncio.create_task(create(world, 7, "small"))
    await until(lambda: world.provider.count("create") == 1)
    await pass_time(1)
    await create(world, 8, "small", refused=[NoCapacity("no small")])
    is_answered.set()
    await first
    assert short(world) == ["small"]


async def test_a_create_ends_the_refusal_by_a_general_limit_of_the_same_room(world: World) -> None:
    await create(world, 7, "small", refused=[QuotaExceeded("no more", is_general=True)])
    await pass_time(1)
    await create(world, 8, "medium")
    refusal = outline(world).refusal
    assert refusal is not None
    assert (refusal.is_general, refusal.room) == (True, "small")
    await create(world, 9, "small")
    assert outline(world).refusal is None


async def test_only_the_latest_shortages_are_kept(world: World) -> None:
    for number in range(MOST_SHORTAGES + 1):
        await create(world, number, f"size-{number}", refused=[NoCapacity("none")])
    assert short(world) == [f"size-{number}" for number in range(1, MOST_SHORTAGES + 1)]


async def test_a_create_is_not_delayed_by_a_journal_that_takes_no_shortage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(world, 7, "small", refused=[NoCapacity("no small")])
    await pass_time(1)
    monkeypatch.setattr(world.journal, "end_shortages", refuse)
    await create(world, 8, "small")
    [attempt] = await world.attempts(8)
    assert attempt.deploy_id != DeployId("")


async def refuse(*_arguments: object, **_more: object) -> None:
    raise JournalError("the disk is full")
