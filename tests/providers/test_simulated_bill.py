"""The simulated cloud's bill: it agrees with what listings show, after changes of every process and release."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.errors import ProviderError
from one_provider_mad.pricing.settings import PriceSettings
from one_provider_mad.providers.simulated import table
from one_provider_mad.providers.simulated.bill import KEPT_SECONDS, RUNNING, Line, Stretch, read_bill, stretches
from one_provider_mad.providers.simulated.cloud import Cloud, Launch
from one_provider_mad.providers.simulated.hardware import Disk, Hardware
from one_provider_mad.providers.simulated.prices import Prices
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.waiting import HANG

SLOW = {"boot_time": 3, "stop_time": 2, "suspend_time": 2, "destroy_time": 4}
"""Transitions of whole seconds: between two whole seconds no state changes."""

BEGIN = 1_700_000_000.0
LAUNCH = Launch(type="small_256mb", image="default", disks={"0": Disk(size=2048)})


class Clock:
    """A clock that moves only by assignment."""

    now = BEGIN

    def __call__(self) -> float:
        return self.now


def with_cloud(act: Callable[[Cloud, Clock, Path], Coroutine[Any, Any, None]], **more: Any) -> None:
    """Run a coroutine on a new cloud."""

    async def run(path: Path) -> None:
        clock = Clock()
        cloud = Cloud(path, msgspec.convert({**SLOW, **more}, SimulatedSettings), clock=clock)
        await cloud.open()
        try:
            await act(cloud, clock, path)
        finally:
            await cloud.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "cloud.db"))


ACTS: dict[str, Callable[[Cloud, DeployId], Coroutine[Any, Any, None]]] = {
    "start": lambda cloud, one: cloud.start(one),
    "stop": lambda cloud, one: cloud.stop(one, hard=False),
    "hard stop": lambda cloud, one: cloud.stop(one, hard=True),
    "suspend": lambda cloud, one: cloud.suspend(one),
    "reboot": lambda cloud, one: cloud.reboot(one),
    "terminate": lambda cloud, one: cloud.terminate(one),
    "interrupt": lambda cloud, one: cloud.interrupt(one, notice=3),
    "other type": lambda cloud, one: cloud.change_type(one, "large_8gb"),
    "resize disk": lambda cloud, one: cloud.rework(one, lambda hardware: hardware.resize_disk("0", 4096)),
    "context": lambda cloud, one: cloud.rework(one, lambda hardware: hardware.update_context("A=1")),
}

STEP = st.tuples(st.sampled_from(sorted(ACTS)), st.integers(0, 1), st.integers(0, 5))
"""An act, on one of two instances, and the seconds after it."""


@settings(max_examples=40)
@given(steps=st.lists(STEP, max_size=12))
def test_the_bill_has_each_second_in_the_state_and_type_that_the_cloud_showed_then(
    steps: list[tuple[str, int, int]],
) -> None:
    shown: Counter[tuple[str, str, str]] = Counter()
    seen: dict[str, tuple[InstanceState, float]] = {}

    async def live(cloud: Cloud, clock: Clock, path: Path) -> None:
        async def wait(seconds: int) -> None:
            for _ in range(seconds):
                clock.now += 0.5
                for each in await cloud.list_instances():
                    before = seen.get(each.deploy_id)
                    if before is None or before[0] is not each.state:
                        seen[each.deploy_id] = each.state, clock.now - 0.5
                    assert each.state_since == seen[each.deploy_id][1]
                    if not each.state.is_gone:
                        kind = each.attributes["SIM_INSTANCE_TYPE"], each.attributes["SIM_DISKS"]
                        shown[each.deploy_id, each.state.value, ":".join(kind)] += 1
                clock.now += 0.5

        both = [await cloud.launch(LAUNCH, tags={}), await cloud.launch(LAUNCH, tags={})]
        await wait(4)
        for act, which, seconds in steps:
            with suppress(ProviderError):  # it was not in a state for that
                await ACTS[act](cloud, both[which])
            await wait(seconds)
        billed: Counter[tuple[str, str, str]] = Counter()
        for each in await in_file(path, clock.now):
            assert each.seconds == int(each.seconds)
            billed[each.id, each.state.value, f"{each.type}:0:{each.disk:.0f}"] += int(each.seconds)
        assert billed == shown
        lines = read_bill(path, now=clock.now)
        running = {state.value for state in RUNNING}
        for one in both:
            of_one = [(state, seconds) for (name, state, _), seconds in shown.items() if name == one]
            assert lines[one].running == sum(seconds for state, seconds in of_one if state in running)
            assert lines[one].seconds == sum(seconds for _, seconds in of_one)

    with_cloud(live)


async def in_file(path: Path, now: float) -> list[Stretch]:
    with closing(sqlite3.connect(path)) as db:
        return list(stretches(db, now=now))


def test_the_bill_of_a_time_has_only_the_seconds_within_it() -> None:
    async def live(cloud: Cloud, clock: Clock, path: Path) -> None:
        one = await cloud.launch(LAUNCH, tags={"ONE_PROVIDER_VM_ID": "7"})
        clock.now += 100
        await cloud.stop(one, hard=True)
        clock.now += 50
        amount = 40 * 0.005 / 3600 + 60 * (2 * 0.073 / 730 + 0.005) / 3600
        bill = read_bill(path, now=clock.now, since=BEGIN + 60, until=BEGIN + 120)
        assert bill[one].amount == pytest.approx(amount)
        line = Line(id=one, name="", vm_id="7", running=40.0, resting=20.0, amount=None, currency="USD")
        assert {deploy_id: each._replace(amount=None) for deploy_id, each in bill.items()} == {one: line}
        assert read_bill(path, now=clock.now, since=BEGIN + 150) == {}

    with_cloud(live)


PRICES = {"currency": "EUR", "stopped": 0.5, "spot": 0.25, "disk": 0.0, "address": 0.0}
TYPES = {"free": {"cpu": 1, "memory": 256}, "dear": {"cpu": 1, "memory": 256, "price": 3600.0}}


async def amounts(path: Path, now: float) -> dict[str, float | None]:
    return {line.name: line.amount for line in read_bill(path, now=now).values()}


async def test_prices_count_from_the_time_at_which_a_process_first_opens_the_cloud_with_them(tmp_path: Path) -> None:
    path, clock = tmp_path / "cloud.db", Clock()

    async def opened(**prices: Any) -> Cloud:
        table = {"boot_time": 0, "prices": {**PRICES, **prices}, "instance_types": TYPES}
        cloud = Cloud(path, msgspec.convert(table, SimulatedSettings), clock=clock)
        await cloud.open()
        return cloud

    cloud = await opened()
    ids = {}
    for name, changes in {"a": {}, "s": {"market": "spot"}, "f": {"type": "free"}}.items():
        launch = msgspec.structs.replace(LAUNCH, **{"type": "dear", "name": name, **changes})
        ids[name] = await cloud.launch(launch, tags={})
    clock.now += 10
    assert await amounts(path, clock.now) == {"a": 10.0, "s": 2.5, "f": None}
    await cloud.stop(ids["a"], hard=True)
    await cloud.close()
    clock.now += 10
    cloud = await opened(address=3600.0)
    clock.now += 10
    assert await amounts(path, clock.now) == {"a": 10.0 + 5.0 + 15.0, "s": 5.0 + 12.5, "f": None}
    await cloud.close()
    clock.now += 10
    cloud = await opened(address=3600.0, currency="USD")
    assert (await amounts(path, clock.now))["a"] == 10.0 + 5.0 + 30.0
    clock.now += 10
    assert (await amounts(path, clock.now))["a"] is None
    await cloud.close()


def test_the_bill_is_the_price_that_the_drivers_compute_times_the_hours() -> None:
    async def live(cloud: Cloud, clock: Clock, path: Path) -> None:
        prices = Prices(SimulatedSettings(), PriceSettings())
        one = await cloud.launch(LAUNCH, tags={})
        clock.now += 3600
        [instance] = await cloud.list_instances()
        price = prices.of_instance(instance, instance.state)
        assert read_bill(path, now=clock.now)[one].amount == pytest.approx(price.amount)
        await cloud.stop(one, hard=True)
        [instance] = await cloud.list_instances()
        stopped = prices.of_instance(instance, instance.state)
        clock.now += 3600
        assert read_bill(path, now=clock.now)[one].amount == pytest.approx(price.known + stopped.known)

    with_cloud(live)


def as_release_0_1_0(path: Path) -> sqlite3.Connection:
    """Open a cloud's file as release 0.1.0 does, which knows nothing of the bill; make a new one if there is none."""
    db = sqlite3.connect(path, isolation_level=None)
    if db.execute("PRAGMA user_version").fetchone()[0] == 0:
        db.execute("PRAGMA journal_mode = WAL")
        for statement in table.SCHEMA:
            db.execute(statement)
        db.execute("INSERT INTO account VALUES ('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855')")
        db.execute("PRAGMA user_version = 1")
    return db


def a_row(name: str, *, created_at: float) -> table.Row:
    hardware = table.encode(Hardware(cpu=1, memory=256))
    return table.Row(
        0, name, "pending", created_at + 3, "", "small_256mb", "i", "", "{}", hardware, 0, created_at, 0, None
    )


async def test_a_file_of_release_0_1_0_gets_a_bill_that_begins_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "cloud.db"
    with closing(as_release_0_1_0(path)) as old:
        table.insert(old, a_row("sim-old", created_at=BEGIN - 1000))
        clock = Clock()
        cloud = Cloud(path, SimulatedSettings(), clock=clock)
        await cloud.open()
        clock.now += 10
        assert read_bill(path, now=clock.now)["sim-old"].running == 10.0
        await cloud.close()
        assert old.execute("PRAGMA user_version").fetchone() == (1,)


async def test_the_bill_has_what_a_process_of_release_0_1_0_changes_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "cloud.db"
    cloud = Cloud(path, SimulatedSettings(), clock=Clock())
    await cloud.open()
    with closing(as_release_0_1_0(path)) as old:
        table.insert(old, a_row("sim-new", created_at=BEGIN))
        before = old.execute("SELECT (julianday('now') - 2440587.5) * 86400.0").fetchone()[0]
        old.execute("UPDATE instance SET transition = 'stopping', ends_at = ? WHERE id = 'sim-new'", (before,))
        after = old.execute("SELECT (julianday('now') - 2440587.5) * 86400.0").fetchone()[0]
        running = read_bill(path, now=after + 5)["sim-new"].running
        assert before - BEGIN <= running <= after - BEGIN
        old.execute("BEGIN")
        old.execute("UPDATE instance SET transition = 'pending' WHERE id = 'sim-new'")
        old.execute("ROLLBACK")
        assert read_bill(path, now=after + 5)["sim-new"].running == running
    await cloud.close()


async def test_entries_of_instances_that_ended_over_a_year_ago_are_dropped(tmp_path: Path) -> None:
    clock, lasting = Clock(), []
    for _ in range(2):
        cloud = Cloud(tmp_path / "cloud.db", SimulatedSettings(), clock=clock)
        await cloud.open()
        lasting.append(await cloud.launch(LAUNCH, tags={}))
        await cloud.terminate(await cloud.launch(LAUNCH, tags={}))
        await cloud.close()
        clock.now += KEPT_SECONDS + 60
    left = {each.id for each in await in_file(tmp_path / "cloud.db", clock.now)}
    assert left >= set(lasting)
    with closing(sqlite3.connect(tmp_path / "cloud.db")) as db:
        assert db.execute("SELECT count(DISTINCT id) FROM bill WHERE transition = 'terminating'").fetchone() == (1,)


KILLED = """
import asyncio, os, pathlib, signal, sys, time
from one_provider_mad.providers.simulated.cloud import Cloud
from one_provider_mad.providers.simulated.prices import Prices
from one_provider_mad.providers.simulated.settings import SimulatedSettings

async def main():
    cloud = Cloud(pathlib.Path(sys.argv[1]), SimulatedSettings(), clock=time.time)
    await cloud.open()
    await cloud.stop(sys.argv[2], hard=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_the_bill_has_the_last_change_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "cloud.db"
    clock = Clock()
    cloud = Cloud(path, SimulatedSettings(), clock=clock)
    await cloud.open()
    one = await cloud.launch(LAUNCH, tags={})
    await cloud.close()
    child = subprocess.run([sys.executable, "-c", KILLED, str(path), one], timeout=HANG, check=False)  # noqa: ASYNC221
    assert child.returncode == -signal.SIGKILL
    [line] = read_bill(path, now=1e11).values()
    assert line.running > 0
    assert line.resting > 0


def test_a_file_without_a_bill_is_an_error(tmp_path: Path) -> None:
    as_release_0_1_0(tmp_path / "cloud.db").close()
    with pytest.raises(sqlite3.OperationalError, match="no such table: bill"):
        read_bill(tmp_path / "cloud.db", now=BEGIN)
