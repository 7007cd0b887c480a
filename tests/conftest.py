"""Fixtures for all tests: an OpenNebula of its own, and drivers started in it as oned starts them."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import hypothesis
import looptime
import pytest
from coverage import Coverage

import one_provider_mad
from tests.end_to_end.oned import COVERAGE, Driver, Place
from tests.waiting import HANG, until

# Plugins open a loop even for tests that need none, and leave it open; a later test would fail for that.
asyncio.set_event_loop(None)

# A machine that pauses must not fail a property. `make soak` tries each with many more examples.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=15)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("quick")

pytest.register_assert_rewrite("one_provider_mad.testing.conformance")


StartDriver = Callable[..., Driver]

SPOKEN = re.compile(r"INIT SUCCESS|LOG [IWED] (\d+|-1?) .+|[!-~]+ (SUCCESS|FAILURE) \d+ \S.*")


MEASURED = ("test_scripts", "test_actions", "test_monitor_memory", "test_settings_faults", "test_upgrading")
"""The files whose drivers' coverage is measured: the others reach almost no code beyond theirs."""

MEASURED_HERE = (*MEASURED, "test_metrics")
"""The files of end_to_end/ whose tests reach code of their own in the process that runs them."""

UNMEASURED = (
    *("tests/test_documents", "ec2/test_documents", "tests/test_house_rules", "tests/test_layering"),  # they read files
    *("ec2/test_moto", "ec2/test_kill", "ec2/test_whole_life", "ec2/test_upstream_life"),
    *("opennebula/test_life", "opennebula/test_daemons", "orphans/test_lives"),
)
"""The files outside end_to_end/, by folder, whose tests reach no code of their own in the process that runs them."""


FORKED = (
    *("test_faults", "test_journal_faults", "test_options_effect", "test_scripts_hardships", "test_scripts_processes"),
    *("test_monitor", "test_monitor_legacy", "test_monitor_probes", "test_monitor_takeover", "test_monitor_vms"),
    *("test_whole_life", "test_life", "test_daemons", "test_lives", "test_lives_clouds"),
)
"""The files whose drivers a fork server starts, in 0.03 s of processor time in place of 0.17.

They prove what a running driver answers. In all other files the programs of bin/ are really started: the start itself,
the process, kills, the end, the environment, memory, upgrades and measured coverage are proved there.
"""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Pause the coverage while each process collects all tests, which costs two and a half times as much with it.

    The tracer is called for every line, also of pytest. The project's own modules are imported before, measured.
    """
    measuring = Coverage.current()
    if measuring is not None:
        for module in walk_packages(one_provider_mad.__path__, "one_provider_mad."):
            import_module(module.name)
        measuring.stop()
    hypothesis.strategies.text().validate()  # in a fresh checkout it reads all of Unicode, and keeps that in a file
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        if measuring is not None:
            measuring.start()


def pytest_configure(config: pytest.Config) -> None:
    """Replace looptime's plugin by the two hooks below: it spends half a millisecond on each fixture of each test."""
    config.pluginmanager.unregister(name="looptime_plugin")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> Generator[None, object, object]:
    """Prepare the loop of a test that is marked `looptime` before a fixture can take its clock.

    Virtual time passes once no task can run. looptime's default waits for 42 further turns of the loop, in which
    nothing happens: asyncio wakes a task by a callback, and time stands still while one is due.
    """
    with Tracing.on():
        made = yield
    if isinstance(made, asyncio.Runner) and request.node.get_closest_marker("looptime") is not None:
        loop = made.get_loop()
        assert isinstance(loop, asyncio.BaseEventLoop)
        looptime.patch_event_loop(loop, noop_cycles=0, _enabled=False)
    return made


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Measure the test itself, and run it in virtual time if it is so marked; its fixtures run in real time."""
    runner = pyfuncitem.funcargs.get("_function_scoped_runner")
    loop = runner.get_loop() if isinstance(runner, asyncio.Runner) else None
    virtual_time = loop.looptime_enabled() if isinstance(loop, looptime.LoopTimeEventLoop) else nullcontext()
    with virtual_time, Tracing.on():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Decide how a test's drivers are started, and whether the coverage of a test and of its processes is measured.

    Coverage doubles the work of a test, and of the start of a process.
    """
    folder, name = item.path.parent.name, item.path.stem
    Driver.is_measured = name in MEASURED
    Driver.is_forked = name in FORKED
    is_measured = name in MEASURED_HERE if folder == "end_to_end" else f"{folder}/{name}" not in UNMEASURED
    inherited = {} if is_measured else {name: os.environ.pop(name) for name in COVERAGE if name in os.environ}
    Tracing.functions = tracers = sys.gettrace(), threading.gettrace()
    Tracing.is_wanted = is_measured and tracers[0] is not None
    Tracing.use(None, None)
    try:
        return (yield)
    finally:
        Tracing.use(*tracers)
        os.environ.update(inherited)


class Tracing:
    """Turns coverage on for what a test runs, and off for what pytest does around it, which is most of a short test.

    Attributes:
        functions: what coverage has installed to trace this thread, and each that starts.
        is_wanted: in this test.
    """

    functions: tuple[Any, Any] = (None, None)
    is_wanted = False

    @staticmethod
    def use(this_thread: Any, new_threads: Any) -> None:
        sys.settrace(this_thread)
        threading.settrace(new_threads)

    @classmethod
    @contextmanager
    def on(cls) -> Iterator[None]:
        """Trace what runs inside, unless an outer call does."""
        if not cls.is_wanted or sys.gettrace() is not None:
            yield
            return
        cls.use(*cls.functions)
        try:
            yield
        finally:
            cls.use(None, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Measure what fixtures do at the end."""
    with Tracing.on():
        return (yield)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An OpenNebula with nothing configured: NAME `simulated` is the embedded cloud."""
    return Place(tmp_path / "one")


@pytest.fixture
def driver(place: Place) -> Iterator[StartDriver]:
    """Start drivers (the arguments are Driver's without the place), and check their output and logs at the end."""
    started: list[Driver] = []

    def start(*arguments: object, **options: object) -> Driver:
        started.append(Driver(place, *arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.leave()
        assert_spoke_properly(one)


def assert_spoke_properly(driver: Driver) -> None:
    """Check that stdout has only known messages, and the log no unexpected exception."""
    *whole_lines, _ = driver.raw.decode().split("\n")
    unknown = [line for line in whole_lines if not SPOKEN.fullmatch(line)]
    assert not unknown
    for log in filter(Path.is_file, driver.place.var.glob("one_vmm_provider_*.log")):
        defects = [entry for entry in log.read_text().splitlines() if "unexpected" in entry or "Traceback" in entry]
        assert not defects


PAGE = 4096
"""Bytes that fit into the smallest pipe."""


def read_in_time(descriptor: int, size: int, seconds: float = HANG) -> bytes:
    """One read, once there is something to read."""
    assert select.select([descriptor], [], [], seconds)[0], "nothing came"
    return os.read(descriptor, size)


@pytest.fixture
def stalled(place: Place) -> Iterator[Driver]:
    """A driver whose output is not read, through a pipe of the smallest size."""
    place.simulate(boot_time=0)
    with Driver(place, reading=False, init=False) as one:
        one.send("INIT")
        assert one.process.stdout is not None
        assert read_in_time(one.process.stdout.fileno(), PAGE) == b"INIT SUCCESS\n"
        until(place.log)  # by then the driver has asked for a large pipe
        fcntl.fcntl(one.process.stdout, fcntl.F_SETPIPE_SZ, PAGE)
        yield one


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show where the kills of this run have landed (tests/end_to_end/test_kill.py prints it)."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    for line in [line for report in reports for line in report.capstdout.splitlines() if " kills: " in line]:
        terminalreporter.write_line(line)
