"""Both drivers at work on one cloud and many VMs, and an oned that applies what it is told in the order it comes."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.end_to_end import wire
from tests.end_to_end.monitored import Monitored, configure, monitored
from tests.end_to_end.oned import Driver, Place
from tests.monitor.decoder import read_modern, vectors

VMS = 24
SECONDS = 20.0

Event = tuple[float, str, Any]


class Stamped(queue.Queue[Any]):
    """Pretends to be the queue of a driver's lines, and notes when each one came."""

    def __init__(self, name: str, events: list[Event]) -> None:
        super().__init__()
        self._name = name
        self._events = events

    def put(self, item: Any, *arguments: Any, **options: Any) -> None:
        if item is not None:
            self._events.append((time.monotonic(), self._name, item))
        super().put(item, *arguments, **options)


@contextmanager
def pair(place: Place, events: list[Event]) -> Iterator[tuple[Driver, Monitored]]:
    with Driver(place, "-t 50 simulated") as actions, monitored(place) as reports:
        reports.start()
        actions._queue = Stamped("reply", events)
        reports.driver._queue = Stamped("report", events)
        yield actions, reports


class Vm:
    """A VM as oned knows it: it is sent from one state to the next, and a report may move it as well.

    Args:
        number: its number.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = "boot"
        self.deploy_id = ""
        self.harm: list[str] = []
        self.told = 0

    def request(self) -> bytes:
        """The next thing that somebody does to it."""
        if not self.deploy_id:
            return wire.deploy(self.number, host_id=3)
        if self.state == "running":
            return wire.power_off(self.number, self.deploy_id, host_id=3)
        return wire.resume(self.number, self.deploy_id, host_id=3)

    def send(self) -> None:
        self.state = {"running": "shutdown", "poweroff": "boot"}.get(self.state, self.state)

    def answer(self, info: str) -> None:
        self.state = "running" if self.state == "boot" else "poweroff"
        self.deploy_id = self.deploy_id or info

    def report(self, word: str | None) -> None:
        """What a report does to a VM (OpenNebula src/im/InformationManager.cc), `None` for one that leaves it out."""
        is_wrong = {
            "RUNNING": self.state in ("boot", "poweroff"),
            "POWEROFF": self.state in ("shutdown", "running"),
            "UNKNOWN": False,
            None: self.state in ("shutdown", "running"),
        }.get(word, True)
        self.told += word in ("RUNNING", "POWEROFF")
        if is_wrong:
            self.harm.append(f"{word or 'left out'} in {self.state}")


@pytest.mark.soak
def test_no_report_moves_a_vm_that_an_action_is_moving(place: Place) -> None:
    configure(
        place,
        # A listing is reported again and again while the actions go on: most of what it says is over by then.
        monitor={"state_period": 0.05, "sync_period": 0.05, "min_list_interval": 0.6, "missing_state": "POWEROFF"},
        latency=0.05,
        jitter=0.2,
        boot_time=0.05,
        stop_time=0.05,
    )
    events: list[Event] = []
    vms = [Vm(number) for number in range(VMS)]
    with pair(place, events) as (actions, _):
        asked = drive(actions, vms, events)
    replayed = [Vm(number) for number in range(VMS)]
    replay(sorted([*events, *asked], key=lambda event: event[0]), replayed)
    assert {vm.number: vm.harm for vm in replayed if vm.harm} == {}
    assert all(vm.deploy_id for vm in replayed)
    assert sum(vm.told for vm in replayed) > VMS, "and not by saying nothing"


def drive(actions: Driver, vms: list[Vm], events: list[Event]) -> list[Event]:
    """Do the next thing to each VM a while after the one before is answered; what was asked, and when."""
    asked: list[Event] = []

    def ask(vm: Vm) -> None:
        asked.append((time.monotonic(), "request", vm.number))
        actions.send(vm.request())
        vm.send()

    for vm in vms:
        ask(vm)
    deadline = time.monotonic() + SECONDS
    open_ones, rested = set(range(VMS)), dict.fromkeys(range(VMS), 0.0)
    while open_ones or time.monotonic() < deadline:
        try:
            line = actions.next_line(0.05)
        except AssertionError:
            line = ""
        if line and not line.startswith("LOG"):
            _, status, number, info = line.split(" ", 3)
            assert status == "SUCCESS", line
            vms[int(number)].answer(info)
            open_ones.discard(int(number))
            # Some go on at once, some rest for long enough to be spoken of.
            rested[int(number)] = time.monotonic() + int(number) % 4 * 0.6
        for vm in vms:
            if vm.number not in open_ones and rested[vm.number] <= time.monotonic() < deadline:
                open_ones.add(vm.number)
                ask(vm)
        assert time.monotonic() < deadline + 20
    assert events
    return asked


def replay(events: list[Event], vms: list[Vm]) -> None:
    """Let oned's VMs go through everything in the order in which it came."""
    for _, kind, what in events:
        if kind == "request":
            vms[what].send()
        elif kind == "reply" and not what.startswith("LOG"):
            _, _, number, info = what.split(" ", 3)
            vms[int(number)].answer(info)
        elif kind == "report":
            line = read_modern(f"{what}\n".encode())
            if line.word == "STATE_VM":
                said = {int(vm["ID"]): vm["STATE"] for vm in vectors(line.values, "VM")}
                for vm in vms:
                    if "SYNC_STATE" in line.values or vm.number in said:
                        vm.report(said.get(vm.number))
