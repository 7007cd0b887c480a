"""The ledger agrees with the simulated cloud's own bill, whatever the information driver has missed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId, Identity, InstanceState, VmId
from one_provider_mad.ledger.booking import Entry
from one_provider_mad.ledger.keeper import LedgerKeeper
from one_provider_mad.ledger.reader import read_spans
from one_provider_mad.ledger.records import INSTANCE, Span
from one_provider_mad.ledger.totals import total
from one_provider_mad.monitor.cost_sightings import instance_sightings, prices_as
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.simulated.bill import read_bill
from one_provider_mad.providers.simulated.cloud import Cloud, Launch
from one_provider_mad.providers.simulated.hardware import Disk
from one_provider_mad.providers.simulated.provider import SimulatedProvider
from one_provider_mad.providers.simulated.settings import SimulatedSettings

BEGIN = 1_800_000_000.0
OWNER = "harbour"
MINUTE = 60.0
SLOW = {"boot_time": 20, "stop_time": 10, "suspend_time": 10, "destroy_time": 15}
LAUNCH = Launch(type="small_256mb", image="default", disks={"0": Disk(size=2048)})

ACTS: dict[str, Callable[[Cloud, DeployId], Awaitable[object]]] = {
    "start": lambda cloud, one: cloud.start(one),
    "stop": lambda cloud, one: cloud.stop(one, hard=False),
    "suspend": lambda cloud, one: cloud.suspend(one),
    "terminate": lambda cloud, one: cloud.terminate(one),
    "resize": lambda cloud, one: cloud.change_type(one, "large_8gb"),
    "enlarge": lambda cloud, one: cloud.rework(one, lambda hardware: hardware.resize_disk("0", 8192)),
}

UNTOLD = ("resize", "enlarge")
"""Acts of which no cloud tells when they happened: the ledger has the time of the driver's clock alone."""

MISHAPS = ("none", "none", "none", "kill", "outage", "long outage", "clock ahead", "clock behind", "new file")


class World:
    """A cloud with a clock of its own, and an information driver that books it.

    Attributes:
        skew: seconds by which the driver's clock is ahead of the cloud's.
        ends: when the action driver ended instances.
        lost: instances whose end only the ledger that was lost, or a wrong clock, has told so far.
    """

    def __init__(self, folder: Path) -> None:
        self.now = BEGIN
        self.skew = 0.0
        self.ends: dict[tuple[str, str], float] = {}
        self.lost: set[str] = set()
        self.warnings: list[str] = []
        self._folder = folder
        self.ledger = folder / "one_provider_mad_sky.ledger"
        self.bill = folder / "cloud.db"
        self.keeper = self.new_keeper()
        self.provider = SimulatedProvider(
            ProviderContext(
                name="sky",
                hypervisor="sky",
                owner=OWNER,
                state_directory=folder,
                warn=self.warnings.append,
            ),
            msgspec.convert({**SLOW, "database": str(self.bill)}, SimulatedSettings),
            clock=lambda: self.now,
        )

    def new_keeper(self) -> LedgerKeeper:
        return LedgerKeeper(self.ledger, "sky", warn=self.warnings.append)

    def kill(self) -> None:
        """The driver dies between two listings; the new one knows what is in the file."""
        self.keeper.close()
        self.keeper = self.new_keeper()

    async def launch(self, number: int) -> DeployId:
        identity = Identity(owner=OWNER, vm_id=VmId(number), stime=int(self.now), seq=0, host_id=3)
        return await self.provider.cloud.launch(LAUNCH, tags=identity.tags())

    async def sweep(self, seconds: float) -> None:
        """Let time pass, and book a listing."""
        self.now += seconds
        listed = await self.provider.list_instances()
        self.lost.difference_update(each.deploy_id for each in listed if each.state is InstanceState.TERMINATED)
        seen = instance_sightings(listed, self.provider, owner=OWNER, owners={})
        self.keeper.book(
            seen,
            now=self.now + self.skew,
            price_as=prices_as(listed, self.provider),
            ended_at=lambda missing: {key: self.ends[key] for key in map(key_of, missing) if key in self.ends},
        )
        self.keeper.write()

    async def act(self, word: str, one: DeployId) -> None:
        try:
            await ACTS[word](self.provider.cloud, one)
        except Exception:  # noqa: BLE001 - the cloud refuses what an instance in its state cannot do
            return
        if word == "terminate":
            self.ends.setdefault((INSTANCE, one), self.now + self.skew)
            if self.skew:
                self.lost.add(one)

    async def mishap(self, word: str) -> None:
        match word:
            case "kill":
                self.kill()
            case "outage":
                self.now += 7 * MINUTE
            case "long outage":
                self.kill()
                self.now += 30 * 3600
            case "clock ahead":
                self.skew = 0.0 if self.skew else 3 * 3600.0
            case "clock behind":
                self.skew = 0.0 if self.skew else -3 * 3600.0
            case "new file":
                self.ledger.unlink(missing_ok=True)
                self.lost.update(thing for _, thing in self.ends)


def key_of(entry: Entry) -> tuple[str, str]:
    return entry.span.kind, entry.span.thing


STEP = st.tuples(
    st.sampled_from(["none", *ACTS]),
    st.integers(0, 2),
    st.sampled_from(MISHAPS),
    st.integers(1, 4),
    st.integers(20, 30),
)
"""An act on one of three instances, what happens to the driver, and listings with the seconds before each."""


async def play(world: World, steps: list[tuple[str, int, str, int, int]]) -> list[DeployId]:
    await world.provider.open()
    try:
        instances = [await world.launch(7), await world.launch(8)]
        for act, number, mishap, listings, seconds in steps:
            if len(instances) == 2 and number == 2:
                instances.append(await world.launch(9))
            is_untold = act in UNTOLD and (world.skew or mishap.startswith("clock"))
            if act != "none" and number < len(instances) and not is_untold:
                await world.act(act, instances[number])
            await world.mishap(mishap)
            for _ in range(listings):
                await world.sweep(seconds)
        world.skew = 0.0
        for _ in range(4):
            await world.sweep(25)
        return instances
    finally:
        await world.provider.close()
        world.keeper.close()


def differences(world: World, deploy_id: DeployId) -> list[str]:
    """What the ledger and the bill say differently of one instance, to a minute."""
    spans = [span for span in read_spans(world.ledger) if span.thing == deploy_id]
    billed = read_bill(world.bill, now=world.now).get(deploy_id)
    booked, seconds = total(spans).seconds, billed.seconds if billed else 0.0
    found = []
    if abs(booked - seconds) > MINUTE:
        found.append(f"{deploy_id}: {booked:.0f} s booked, {seconds:.0f} s billed")
    seen = [span for span in spans if span.is_seen]
    cost, price = total(seen).booked, max((span.known for span in seen), default=0.0)
    by_bill = sum(amount_in(world, span) for span in seen)
    if abs(cost - by_bill) > price * MINUTE / 3600:
        found.append(f"{deploy_id}: {cost:.6f} booked, {by_bill:.6f} billed in the same time")
    return found


def amount_in(world: World, span: Span) -> float:
    """What the bill has of a span's instance in the span's time."""
    lines = read_bill(world.bill, now=world.now, since=span.begin, until=span.end)
    line = lines.get(span.thing)
    return (line.amount or 0.0) if line else 0.0


QUICK = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where each commit needs no disk."""


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEP, min_size=1, max_size=6))
def test_every_instances_total_is_right_to_a_minute(steps: list[tuple[str, int, str, int, int]]) -> None:
    """Its seconds always; its cost in all times that were seen.

    Two things cannot hold, and are left out. A price that changes while the driver's clock is wrong is booked from the
    wrong time, since the cloud does not tell when. An instance that ended, and that the cloud had forgotten by the next
    listing, has the end that the action driver noted, by a clock that may be wrong; nothing brings it back into a new
    file.
    """
    with tempfile.TemporaryDirectory(dir=QUICK) as folder:
        world = World(Path(folder))
        instances = asyncio.run(play(world, steps))
        found = [line for one in instances if one not in world.lost for line in differences(world, one)]
        assert not found, [*found, *map(str, read_spans(world.ledger))]
    assert not world.warnings


def test_a_stop_seen_when_the_clock_is_right_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    steps = [("none", 0, "clock ahead", 1, 20), ("stop", 0, "clock ahead", 1, 20)]
    instances = asyncio.run(play(world, steps))
    assert [line for deploy_id in instances for line in differences(world, deploy_id)] == []


def test_a_young_instance_that_was_started_again_when_the_ledger_was_lost(tmp_path: Path) -> None:
    """It looks like one that has just booted, but it was stopped meanwhile, and cost less."""
    world = World(tmp_path)
    steps = [("none", 2, "none", 1, 30), ("stop", 2, "none", 12, 30), ("start", 2, "new file", 1, 30)]
    instances = asyncio.run(play(world, steps))
    assert [line for deploy_id in instances for line in differences(world, deploy_id)] == []


@pytest.mark.parametrize("mishap", sorted(set(MISHAPS)))
def test_a_stop_during_each_mishap(mishap: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    steps = [("none", 0, "none", 3, 30), ("stop", 0, mishap, 3, 30), ("terminate", 1, mishap, 3, 30)]
    instances = asyncio.run(play(world, steps))
    assert [line for deploy_id in instances for line in differences(world, deploy_id)] == []
