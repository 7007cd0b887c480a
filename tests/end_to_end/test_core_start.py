"""A starting oned crashes when it reads a reply (docs/protocol.md), so replies are held until oned is up."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end import oned_requests
from tests.end_to_end.oned import Driver, Place
from tests.waiting import until

CORE = [sys.executable, str(Path(__file__).with_name("starting_core.py"))]

Start = Callable[[], Driver]


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    """Start the driver under a starting oned."""
    place.simulate(boot_time=0.2)
    begun: list[Driver] = []

    def begin() -> Driver:
        begun.append(Driver(place, via=CORE))
        return begun[-1]

    yield begin
    for one in begun:
        one.leave()


def listen(driver: Driver) -> None:
    driver.process.send_signal(signal.SIGUSR1)


def has_logged(place: Place, event: str) -> bool:
    return any(entry["event"] == event for entry in place.events())


def test_reply_after_recovery_is_held_until_oned_listens(place: Place, start: Start) -> None:
    place.simulate(boot_time=3600)
    with Driver(place) as dead:
        dead.send(oned_requests.deploy(7))
        until(lambda: place.has_attempts() and place.unanswered() == ["DEPLOY"])
        dead.kill()
    one = start()
    until(lambda: has_logged(place, "request of an earlier core"))
    one.silence(1.5)  # longer than the pause between INIT and replies after recovery
    assert place.unanswered() == ["DEPLOY"]
    listen(one)
    assert one.reply("DEPLOY", 7).startswith("FAILURE the driver ended before it was done")
    until(lambda: place.unanswered() == [])


def test_reply_to_a_poll_is_held_until_oned_listens(place: Place, start: Start) -> None:
    one = start()
    one.send("POLL 7 x")
    until(lambda: has_logged(place, "request refused"))
    one.silence()
    listen(one)
    assert one.reply("POLL", 7).startswith("FAILURE payload is not base64")


def test_held_replies_are_written_before_the_reply_to_a_request_that_arrives(place: Place, start: Start) -> None:
    one = start()
    one.send("POLL 7 x")
    until(lambda: has_logged(place, "request refused"))
    one.silence()
    assert one.ask(oned_requests.deploy(8)).startswith("SUCCESS sim-")
    assert [line.split()[:3] for line in one.lines[1:]] == [["POLL", "FAILURE", "7"], ["DEPLOY", "SUCCESS", "8"]]


def test_end_of_stdin_releases_held_replies(start: Start) -> None:
    one = start()
    one.send(oned_requests.poll(7, "sim-x"))
    assert one.process.stdin is not None
    one.process.stdin.close()
    assert one.rest()[-1].startswith("POLL FAILURE 7 ")


def test_information_driver_holds_its_reply_to_monitor_until_oned_listens(place: Place) -> None:
    program = Path(__file__).resolve().parents[2] / "bin" / "one_im_provider"
    with Driver(place, "simulated", program=program, via=CORE) as one:
        one.send("MONITOR 4 cloud")
        one.silence(1.0)
        listen(one)
        one.wait_for(lambda line: line.startswith("MONITOR SUCCESS 4 "))
