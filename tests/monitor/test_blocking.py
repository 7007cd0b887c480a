"""An information driver's parts on a real cloud, journal and state file never block the event loop.

tests/end_to_end/test_blocking.py tests the real programs; here are sizes and failures that they do not meet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from blockbuster import BlockingError

from one_provider_mad.domain import VmId
from one_provider_mad.journal.reader import read_outline
from one_provider_mad.journal.writer import Journal
from one_provider_mad.monitor.requests import RequestHandler
from one_provider_mad.monitor.sender import Stamps
from one_provider_mad.monitor.state import State, StateFile
from one_provider_mad.monitor.sweep import MANY, Sweeper
from one_provider_mad.monitored_cloud import MonitoredCloud
from one_provider_mad.options import Options
from one_provider_mad.processes import Process
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.im import parse_line
from one_provider_mad.protocol.im_messages import Monitor, StartMonitor, StopMonitor, Unreadable
from one_provider_mad.settings import Places
from tests.blocking import nothing_blocks
from tests.end_to_end.information_driver import Console, configure, states
from tests.end_to_end.oned import Place
from tests.monitor.decoder import Line, monitor, plain, read_legacy, read_modern, start_monitor, stop_monitor, vectors
from tests.waiting import HANG

HOST = 3
BUSY = 7
"""A VM with an action under way."""


def order(place: Place, **faults: object) -> None:
    """Change the configuration: short periods, and these faults."""
    configure(place, monitor={"heartbeat": 0.1, "sync_period": 0.1, "system_period": 0.1}, faults=faults)


class Inside:
    """The parts that monitor_daemon.py assembles, with their lines in a list."""

    def __init__(self, places: Places) -> None:
        self.said: list[Line] = []
        self.has_spoken = asyncio.Event()
        self.warnings: list[str] = []
        self.cloud = MonitoredCloud(Options(name="simulated"), places, warn=self.warnings.append)
        self.sweeper = Sweeper(self.cloud, clock=time.time)
        self.stamps = Stamps(time.time)
        self.handler = RequestHandler(sweeper=self.sweeper, source=self.cloud, output=self, stamps=self.stamps)

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        is_legacy = data.startswith((b"MONITOR SUCCESS", b"MONITOR FAILURE"))
        self.said.append((read_legacy if is_legacy else read_modern)(data))
        self.has_spoken.set()
        if on_written is not None:
            on_written()

    def log(self, data: bytes) -> None:
        self.send(data)

    def tell(self, line: bytes) -> None:
        request = parse_line(line.rstrip(b"\n"))
        assert isinstance(request, Monitor | StartMonitor | StopMonitor | Unreadable)
        self.handler.accept(request)

    async def hear(self, word: str, matches: Callable[[Line], bool] = lambda _line: True) -> Line:
        """The next such line, after those that were returned or skipped before."""
        async with asyncio.timeout(HANG):
            while True:
                while self.said:
                    line = self.said.pop(0)
                    if line.word == word and matches(line):
                        return line
                self.has_spoken.clear()
                await self.has_spoken.wait()


@pytest.fixture
def places(place: Place) -> Places:
    return Places(conf=place.conf, var=place.var, log=place.var, etc=place.root / "etc")


@pytest.fixture
def crowd(place: Place) -> list[str]:
    """So many VMs on host 3 that threads process them, and two wild instances."""
    order(place)
    console = Console(place)
    for name in ("wild", "wild too"):
        console.run(name=name)
    return console.run_many(range(MANY + 10))


@pytest.fixture
async def inside(crowd: list[str], places: Places) -> AsyncIterator[Inside]:
    """A running driver, in an event loop that may not be blocked."""
    journal = Journal(places.var / "one_provider_mad_simulated.journal", clock=time.time, on_lost=pytest.fail)
    await journal.open()
    journal.open_request(action="SHUTDOWN", vm_id=VmId(BUSY), dialect=Dialect.SINCE_6_0, payload=b"x")
    await journal.sync()
    with nothing_blocks():
        one = Inside(places)
        await one.cloud.load()
        yield one
        await one.handler.stop()
        await one.cloud.close()
    await journal.close()


async def test_many_vms_are_reported_without_blocking_the_event_loop(inside: Inside, crowd: list[str]) -> None:
    inside.tell(start_monitor(HOST))
    seen = states(await inside.hear("STATE_VM", lambda line: "SYNC_STATE" in line.values))
    assert len(seen) == len(crowd)
    assert (seen[BUSY], seen[0]) == ("UNKNOWN", "RUNNING")
    assert vectors((await inside.hear("MONITOR_VM")).values, "VM")
    system = await inside.hear("SYSTEM_HOST", lambda line: "IMPORT_TEMPLATE" in line.text)
    assert len([vm for vm in vectors(system.values, "VM") if "IMPORT_TEMPLATE" in vm]) == 2
    inside.tell(monitor(HOST))
    assert (await inside.hear("MONITOR")).status == "SUCCESS"
    inside.tell(stop_monitor(HOST))
    await inside.hear("STOP_MONITOR")


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"transient": {"calls": ["list_instances"]}}, id="refused-listing"),
        pytest.param({"broken_listings": {}}, id="broken-listing"),
    ],
)
async def test_an_outage_and_a_recovery_are_reported_without_blocking_the_event_loop(
    inside: Inside, place: Place, crowd: list[str], faults: dict[str, object]
) -> None:
    inside.tell(start_monitor(HOST))
    await inside.hear("STATE_VM")
    order(place, **faults)
    await inside.hear("SYSTEM_HOST", lambda line: plain(line.values, "PROVIDER_ERROR") != "-")
    inside.tell(monitor(HOST))
    assert plain((await inside.hear("MONITOR")).values, "PROVIDER_ERROR") != "-", "every VM is held"
    order(place)
    await inside.hear("SYSTEM_HOST", lambda line: plain(line.values, "PROVIDER_ERROR") == "-")
    assert len(states(await inside.hear("STATE_VM", lambda line: "SYNC_STATE" in line.values))) == len(crowd)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda path: StateFile(path).load(), id="loads"),
        pytest.param(lambda path: StateFile(path).save(State(parent=Process.current())), id="saves"),
        pytest.param(lambda path: read_outline(path, since=0.0), id="reads-the-journal"),
    ],
)
async def test_a_blocking_call_is_detected_even_if_its_exception_is_suppressed(
    tmp_path: Path, work: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(AssertionError, match="one_provider_mad"), nothing_blocks(), suppress(BlockingError):
        work(path)
