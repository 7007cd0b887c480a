"""Prices are read beside the sweeps, and rank the host where `priority = "price"` says so."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from one_provider_mad.domain import Instance
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.monitor.host_attributes import HostAttributes, HostTemplate
from one_provider_mad.monitor.price_reader import PERIOD
from one_provider_mad.monitor.settings import CapacitySettings, MonitorSettings
from one_provider_mad.pricing.values import UNKNOWN, Item, Kind, Part, Price
from one_provider_mad.providers.interface import PriceSource, UsualPrice
from tests.actions.fakes import FakeCloud, pass_time, turns, until
from tests.fixed_prices import FixedPrices
from tests.monitor.virtual_driver import VirtualDriver

pytestmark = pytest.mark.looptime

BY_PRICE = MonitorSettings(priority="price")


def a_price(amount: float) -> Price:
    return Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name="small"), amount=amount),), currency="EUR")


class PricedCloud(FixedPrices, FakeCloud):
    """Pretends to be a cloud with prices, whose list is answered when `may_answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.readings: list[int] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None
        self.usual: Mapping[tuple[str, ...], Price] = {(): a_price(0.0416)}
        self.is_cancelled = False

    async def read_prices(self, instances: Collection[Instance]) -> None:
        self.readings.append(len(instances))
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        if self.error is not None:
            raise self.error

    def usual_price(self, types: Collection[str]) -> Price:
        return self.usual.get(tuple(types), UNKNOWN)


@pytest.fixture
async def cloud() -> PricedCloud:
    return PricedCloud()


@pytest.fixture
async def one(tmp_path: Path, cloud: PricedCloud) -> VirtualDriver:
    driver = VirtualDriver(tmp_path, cloud, min_list_interval=1.0)
    driver.source.settings = replace(driver.source.settings, monitor=replace(BY_PRICE, min_list_interval=1.0))
    return driver


def test_the_cloud_of_these_tests_has_the_capabilities() -> None:
    assert issubclass(PricedCloud, PriceSource)
    assert issubclass(PricedCloud, UsualPrice)


async def swept(one: VirtualDriver) -> str | None:
    """PRIORITY after another sweep, and after the reading that it has started."""
    await one.sweeper.sweep()
    await until(lambda: not any(task.get_name() == "read prices" for task in asyncio.all_tasks()))
    return one.sweeper.priority_text


async def test_no_sweep_waits_for_prices_and_they_are_read_again_after_a_period(
    one: VirtualDriver, cloud: PricedCloud
) -> None:
    one.add(7)
    cloud.may_answer.clear()
    async with asyncio.timeout(0.5):
        await one.sweeper.sweep()
        await turns()
    assert (cloud.readings, one.sweeper.priority_text) == ([1], None)
    await pass_time(2 * PERIOD)
    await one.sweeper.sweep()
    await turns()
    assert cloud.readings == [1]
    cloud.may_answer.set()
    assert await swept(one) == "-1.0416"
    await pass_time(PERIOD)
    await swept(one)
    assert cloud.readings == [1, 1]


async def test_the_priority_is_that_of_the_configured_types_and_minus_one_while_no_price_is_known(
    one: VirtualDriver, cloud: PricedCloud
) -> None:
    cloud.usual = {("large",): a_price(0.5)}
    assert await swept(one) == "-1"
    one.source.settings = replace(one.source.settings, capacity=CapacitySettings(instance_types={"large": 3}))
    await pass_time(PERIOD)
    assert await swept(one) == "-1.5"


async def test_a_cloud_without_prices_has_minus_one_and_a_given_priority_counts_at_once(tmp_path: Path) -> None:
    one = VirtualDriver(tmp_path, priority="price")
    assert one.sweeper.priority_text is None
    assert await swept(one) == "-1"
    one.source.settings = replace(one.source.settings, monitor=MonitorSettings(priority=-3))
    assert one.sweeper.priority_text == "-3"


@pytest.mark.parametrize("error", [ProviderUnavailable("no answer"), ZeroDivisionError()], ids=["known", "defect"])
async def test_a_failed_reading_is_logged_and_leaves_the_prices_that_there_are(
    one: VirtualDriver, cloud: PricedCloud, error: Exception
) -> None:
    cloud.error = error
    with capture_logs() as logs:
        assert await swept(one) == "-1.0416"
        await pass_time(PERIOD)
        await swept(one)
    events = [each for each in logs if "prices" in each["event"]]
    assert events[0]["log_level"] == ("warning" if isinstance(error, ProviderUnavailable) else "error")
    if isinstance(error, ProviderUnavailable):
        assert [each["reason"] for each in events] == ["no answer"]
    assert len(cloud.readings) == 2


async def test_after_an_edit_the_new_cloud_reads_at_once_and_the_former_reading_is_cancelled(
    one: VirtualDriver, cloud: PricedCloud
) -> None:
    cloud.may_answer.clear()
    await one.sweeper.sweep()
    await turns()
    other = PricedCloud()
    other.usual = {(): a_price(0.2)}
    one.source.watched = replace(one.source.watched, provider=other)
    await pass_time(2)
    assert await swept(one) == "-1.2"
    assert (cloud.is_cancelled, len(other.readings)) == (True, 1)


async def test_stopping_ends_a_reading(one: VirtualDriver, cloud: PricedCloud) -> None:
    cloud.may_answer.clear()
    await one.sweeper.sweep()
    await turns()
    await one.sweeper.stop()
    assert cloud.is_cancelled


@pytest.mark.parametrize(("before", "shown"), [("-1.03", "-1.03"), ("", "-1")], ids=["with-one", "new-host"])
async def test_until_prices_are_read_a_host_keeps_the_priority_that_it_has(
    tmp_path: Path, cloud: PricedCloud, before: str, shown: str
) -> None:
    attributes = HostAttributes()
    own = {"PRIORITY": before} if before else {}

    async def template(host_id: int) -> HostTemplate:
        return HostTemplate(name="ec2", attributes=own, sent=own)

    attributes.templates = template
    kept = await attributes.to_write(3, name="ec2", priority=None)
    assert kept is not None
    assert kept["PRIORITY"] == shown


async def test_a_new_price_is_reported_with_the_next_listing(tmp_path: Path, cloud: PricedCloud) -> None:
    attributes = HostAttributes()
    attributes.may_ask = False
    one = VirtualDriver(tmp_path, cloud, host_attributes=attributes, priority="price", min_list_interval=1.0)
    one.start()
    await pass_time(20)
    cloud.usual = {(): a_price(0.05)}
    await pass_time(PERIOD + 20)
    await one.handler.stop()
    written = [line.values["PRIORITY"] for line in one.lines("SYSTEM_HOST") if "PRIORITY" in line.values]
    assert [value for [value] in written[-2:]] == ["-1.0416", "-1.05"]
