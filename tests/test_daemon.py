"""Reactions to unexpected exceptions in the daemon; end_to_end/ tests the whole program from outside."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from one_provider_mad.daemon import _Daemon
from one_provider_mad.domain import VmId
from one_provider_mad.monitor_daemon import _MonitorDaemon
from one_provider_mad.options import Options
from one_provider_mad.protocol.framing import Oversized
from one_provider_mad.protocol.messages import Malformed, Request
from one_provider_mad.serving import log_stray_error
from tests.actions.fakes import pass_time


@pytest.fixture
async def daemon() -> _Daemon:
    asyncio.get_running_loop().set_exception_handler(log_stray_error)
    return _Daemon(Options(name="x"), has_stderr=False, is_initialised=False)


async def fail() -> None:
    raise KeyError("reservations")


async def wait() -> None:
    await asyncio.Event().wait()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# The end


OPENNEBULA_KILLS_AFTER = 1.0
"""Seconds that 6.0 and later leave a driver between FINALIZE and SIGKILL (OpenNebula include/Driver.h, stop_driver)."""


@pytest.fixture(params=[_Daemon, _MonitorDaemon], ids=["actions", "reports"])
async def stuck(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A daemon whose parts never end and whose output is not read; `ended_at` is when it ended its process."""
    daemon = request.param(Options(name="x"), has_stderr=False, is_initialised=True)
    daemon._early = None
    daemon._reader = SimpleNamespace(stop=lambda: None)
    daemon._writer = SimpleNamespace(is_read=lambda: False, drained=wait)
    daemon._dispatcher = SimpleNamespace(
        lanes=SimpleNamespace(drained=wait, stop=asyncio.sleep, hold=lambda: None), learn_release=None
    )
    daemon._engines = SimpleNamespace(close=wait)
    daemon._desk = SimpleNamespace(drained=wait, stop=wait)
    daemon._cloud = SimpleNamespace(kill=lambda: None, close=wait)
    daemon._keeper = SimpleNamespace(save=wait)
    daemon._metrics = SimpleNamespace(end=wait)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr("one_provider_mad.serving.os._exit", lambda _: setattr(daemon, "ended_at", loop.time()))
    return daemon


@pytest.mark.looptime
async def test_a_daemon_whose_parts_do_not_end_ends_before_opennebula_kills_it(stuck: Any) -> None:
    begun = asyncio.get_running_loop().time()
    await stuck._end_by_core()
    assert stuck.ended_at - begun < OPENNEBULA_KILLS_AFTER


@pytest.mark.looptime
async def test_sigterm_while_answers_are_awaited_ends_a_daemon_before_opennebula_kills_it(stuck: Any) -> None:
    stuck._writer.is_read = lambda: True
    loop = asyncio.get_running_loop()
    ending = asyncio.create_task(stuck._end_by_core())
    await pass_time(60)
    assert not ending.done(), "the reader waits for answers"
    begun = loop.time()
    stuck._is_terminated.set()
    await ending
    assert stuck.ended_at - begun < OPENNEBULA_KILLS_AFTER


@pytest.mark.looptime
@pytest.mark.parametrize("finalized_after", [None, 2.0], ids=["alone", "with-finalize"])
async def test_sigterm_waits_five_seconds_for_finalize(stuck: Any, finalized_after: float | None) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    if finalized_after is not None:
        loop.call_later(finalized_after, stuck._is_ending.set)
    await stuck._end_by_signal()
    expected = begun + (finalized_after or 5.0)
    assert expected <= stuck.ended_at < expected + OPENNEBULA_KILLS_AFTER


# Exceptions


async def test_an_exception_in_background_work_is_logged_and_not_printed(
    daemon: _Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as logged:
        daemon._start_once(fail(), "recovery")
        await turns()
    [entry] = logged
    message = "recovery ended unexpectedly"
    assert (entry["event"], entry["log_level"], entry["message"]) == ("unexpected error", "error", message)
    assert isinstance(entry["exc_info"], KeyError)
    assert capfd.readouterr() == ("", "")


@pytest.mark.looptime
async def test_permanent_background_work_restarts_after_growing_pauses(daemon: _Daemon) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_stray_error)
    errors = [KeyError("odd"), asyncio.CancelledError(), *(MemoryError() for _ in range(6))]
    begun: list[float] = []

    async def work() -> None:
        begun.append(loop.time())
        if len(begun) == 9:
            await pass_time(100)
            raise KeyError("again")
        if len(begun) <= len(errors):
            raise errors[len(begun) - 1]

    with capture_logs() as logged:
        daemon._start(work, "debts")
        [task] = daemon._background
        await task
    pauses = [round(after - before) for before, after in pairwise(begun)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 101], "after a minute without an error the pause is short again"
    messages = [entry["message"] for entry in logged]
    assert messages[0] == "debts ended unexpectedly, and starts again in 1 s"
    assert len(messages) == 9
    assert not daemon._background


async def test_background_work_that_is_cancelled_or_done_is_not_logged(daemon: _Daemon) -> None:
    with capture_logs() as logged:
        daemon._start(wait, "signs of life")
        daemon._start_once(asyncio.sleep(0), "recovery")
        await turns()
        [waiting] = daemon._background
        waiting.cancel()
        await turns()
    assert logged == []
    assert not daemon._background


async def test_an_exception_in_a_callback_is_logged_and_not_printed(
    daemon: _Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    del daemon
    with capture_logs() as logged:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await turns()
    [entry] = logged
    assert isinstance(entry["exc_info"], ZeroDivisionError)
    assert capfd.readouterr() == ("", "")


def test_a_stray_error_without_exception_is_logged() -> None:
    with capture_logs() as logged, asyncio.Runner() as runner:
        log_stray_error(runner.get_loop(), {"message": "a socket was left open"})
    assert logged == [
        {"event": "unexpected error", "log_level": "error", "message": "a socket was left open", "exc_info": None}
    ]


async def test_a_line_that_fails_to_parse_becomes_malformed_with_its_action_and_vm_id(
    daemon: _Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_line: bytes) -> Request:
        raise MemoryError

    monkeypatch.setattr("one_provider_mad.daemon.parse_line", fail)
    with capture_logs() as logged:
        read = daemon._read(b"DEPLOY  7 " + b"A" * 1000)
    assert read == Malformed(
        reason="internal error (MemoryError), the driver's log has the details", word="DEPLOY", vm_id=VmId(7)
    )
    assert [entry["message"] for entry in logged] == ["a request line was not read"]


async def test_an_exception_while_processing_input_ends_the_driver(
    daemon: _Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_line: bytes | Oversized) -> None:
        raise MemoryError

    monkeypatch.setattr(daemon, "_take", fail)
    with capture_logs() as logged:
        daemon._feed(b"DEPLOY  7 \n")
        daemon._feed(b"DEPLOY  8 \n")
    assert daemon._is_defective.is_set()
    assert [entry["message"] for entry in logged] == ["the driver ends, since it could not process its input"]
