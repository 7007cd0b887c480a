"""The warning that limits of `[budget]` are nearly used, on the cloud's host and in the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from one_provider_mad import metrics
from one_provider_mad.budget.records import Level
from one_provider_mad.errors import BudgetError
from one_provider_mad.monitor.budget_watch import LOOK_SECONDS, BudgetWatch
from tests.monitor.virtual_driver import VirtualDriver


def hour(used: float) -> list[Level]:
    return [Level(table="budget", key="max_per_hour", used=used, limit=2.5)]


WARNING = "80 % of budget.max_per_hour = 2.5000 is in use"


class Front:
    """A watch with a clock and levels to order."""

    def __init__(self) -> None:
        self.time = 0.0
        self.asked = 0
        self.levels: Sequence[Level] = hour(2.0)
        self.error: BudgetError | None = None
        self.watch = BudgetWatch(lambda: self.time)

    def read(self) -> Sequence[Level]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.levels

    async def after(self, seconds: float) -> str:
        self.time += seconds
        self.watch.ask(self.read)
        await asyncio.gather(*self.watch.calls_under_way())
        return self.watch.warning


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> metrics.Recorder:
    made = metrics.Recorder(name="ec2", program=metrics.REPORTS, version="1")
    monkeypatch.setattr(metrics, "recorder", made)
    return made


async def test_levels_are_read_in_intervals_and_a_file_that_is_not_there_yet_at_once_again() -> None:
    front = Front()
    front.levels = []
    assert await front.after(0) == ""
    front.levels = hour(2.0)
    assert await front.after(1) == WARNING
    assert await front.after(LOOK_SECONDS - 1) == WARNING
    assert front.asked == 2
    front.levels = hour(1.0)
    assert await front.after(1) == ""


async def test_an_unreadable_file_is_logged_once_and_the_warning_is_over() -> None:
    front = Front()
    await front.after(0)
    front.error = BudgetError("the file of the budget cannot be read: it is no database (/var/one.budget)")
    with capture_logs() as logged:
        assert await front.after(LOOK_SECONDS) == ""
        await front.after(LOOK_SECONDS)
    assert [each["event"] for each in logged] == ["use of limits not known"]


async def test_limits_and_their_use_are_gauges_until_the_limits_are_removed(recorder: metrics.Recorder) -> None:
    front = Front()
    await front.after(0)
    labels = '{limit="budget.max_per_hour",name="ec2",program="one_im_provider"}'
    text = recorder.text().decode()
    assert f"one_provider_budget_limit{labels} 2.5\n" in text
    assert f"one_provider_budget_used{labels} 2.0\n" in text
    front.watch.ask(None)
    assert "one_provider_budget_used{" not in recorder.text().decode()
    assert front.watch.warning == ""


async def test_a_sweep_shows_the_warning_on_the_host(tmp_path: Path) -> None:
    driver = VirtualDriver(tmp_path)
    driver.source.watched = msgspec.structs.replace(driver.source.watched, budget=lambda: hour(2.6))
    await driver.sweeper.sweep()
    await asyncio.gather(*driver.sweeper.budget.calls_under_way())
    shown = "100 % of budget.max_per_hour = 2.5000 is in use; nothing that adds to it is admitted"
    assert (await driver.sweeper.sweep()).warning == shown
