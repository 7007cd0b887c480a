"""Several hosts and their probes: they do not affect each other, and messages are sent in order and not in excess."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from one_provider_mad.monitor import probes as probes_module
from one_provider_mad.monitor.sender import Sender, Stamps
from one_provider_mad.protocol.im import format_message
from one_provider_mad.protocol.im_messages import Kind, Message, Monitor
from tests.monitor.decoder import read_modern
from tests.monitor.probed_front_end import (
    LONG,
    MODERN,
    Listener,
    ProbedFrontEnd,
    come,
    front_end,
    reporting,
    systems,
    texts,
    without_error,
)

OTHER = msgspec.structs.replace(MODERN, host_id=4, host="eu-west-1")
LEGACY = Monitor(host_id=3, host="us-east-1")
TREES = ("host/system", "host/monitor", "host/beacon", "vm/status", "vm/monitor")
KINDS = (Kind.SYSTEM_HOST, Kind.MONITOR_HOST, Kind.BEACON_HOST, Kind.STATE_VM, Kind.MONITOR_VM)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[ProbedFrontEnd]:
    with front_end(tmp_path) as found:
        yield found


# The start


async def test_a_host_is_reported_monitored_before_its_slow_probe_has_ended(front: ProbedFrontEnd) -> None:
    front.probe("cloud-probes.d/host/system/slow", "sleep 60")
    async with reporting(front) as said:
        await come(lambda: said)
    assert said[0] == Message(kind=Kind.SYSTEM_HOST, host_id=3, timestamp=0, text='PROVIDER_ERROR="-"\n')


async def test_a_second_start_monitor_repeats_the_last_probe_results_at_once(front: ProbedFrontEnd) -> None:
    flag = front.root / "broken"
    front.probe("cloud-probes.d/host/system/one", f"[ -e {flag} ] && exit 3; echo A=1")
    probes = front.probes()
    async with reporting(front, probes=probes) as said:
        await come(lambda: systems(said))
        flag.touch()
        async with reporting(front, probes=probes) as again:
            await come(lambda: len(texts(again, Kind.SYSTEM_HOST)) > 1)
    assert without_error(again[0].text) == ["A=1"]
    assert texts(again, Kind.SYSTEM_HOST)[1].startswith('A=1\nPROVIDER_ERROR="probe one: ')


async def test_a_start_monitor_that_replaces_an_earlier_one_keeps_the_last_probe_results(front: ProbedFrontEnd) -> None:
    flag = front.root / "broken"
    front.probe("cloud-probes.d/host/system/one", f"[ -e {flag} ] && exit 3; echo A=1")
    probes, before, after = front.probes(), Listener(), Listener()
    first = asyncio.create_task(probes.report(MODERN, before, lambda: None))
    await come(lambda: systems(before.said))
    flag.touch()
    first.cancel()
    async with reporting(front, probes=probes, listener=after) as said:
        await come(lambda: len(texts(said, Kind.SYSTEM_HOST)) > 1)
    assert first.cancelled()
    assert texts(said, Kind.SYSTEM_HOST)[1].startswith('A=1\nPROVIDER_ERROR="probe one: ')


async def test_a_changed_heartbeat_applies_without_another_start_monitor(
    front: ProbedFrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("one_provider_mad.monitor.probed_host.CHECK_SECONDS", 0.02)
    front.settings(heartbeat=3600)
    async with reporting(front) as said:
        await come(lambda: texts(said, Kind.MONITOR_HOST))
        front.settings(heartbeat=0.05)
        await come(lambda: len(texts(said, Kind.MONITOR_HOST)) >= 5)


async def test_on_reported_is_called_after_every_probe_folder_has_run(front: ProbedFrontEnd) -> None:
    go = front.root / "go"
    front.probe("cloud-probes.d/host/system/one", f"while [ ! -e {go} ]; do sleep 0.02; done; exit 3")
    for tree in TREES[1:]:
        front.probe(f"cloud-probes.d/{tree}/one", "echo A=1")
    known: list[bool] = []
    async with reporting(front, on_reported=lambda: known.append(go.exists())) as said:
        await come(lambda: {message.kind for message in said if "A=1" in message.text} >= set(KINDS[1:]))
        go.touch()
        await come(lambda: known)
    assert known == [True]


# The end


async def test_probe_results_and_errors_are_forgotten_when_monitoring_ends(front: ProbedFrontEnd) -> None:
    front.settings(host_error_after=50)
    front.probe("cloud-probes.d/host/system/good", "[ $2 = 3 ] && echo A=1")
    front.probe("cloud-probes.d/vm/status/bad", "exit 3")
    probes = front.probes()
    async with reporting(front, probes=probes) as said:
        await come(lambda: probes.errors(3) and systems(said))
    front.now = 100
    front.probe("cloud-probes.d/host/system/good", "exit 4")
    async with reporting(front, probes=probes) as said:
        await come(lambda: len(probes.errors(3)) == 2 and systems(said))
    assert all(message.is_success for message in said), "its errors begin with its monitoring"
    assert not any("A=1" in message.text for message in said)


async def test_a_new_host_that_reuses_the_id_of_another_gets_none_of_its_probe_results(front: ProbedFrontEnd) -> None:
    flag = front.root / "broken"
    front.probe("cloud.d/1", f"[ -e {flag} ] && exit 4; echo A=1")
    probes = front.probes()
    await probes.answer(LEGACY)
    flag.touch()
    assert "A=1" in await probes.answer(LEGACY)
    assert await probes.answer(msgspec.structs.replace(LEGACY, host="eu-west-1")) == ""


async def test_a_forgotten_host_gets_no_earlier_probe_results(front: ProbedFrontEnd) -> None:
    flag = front.root / "broken"
    front.probe("cloud.d/1", f"[ -e {flag} ] && exit 4; echo A=1")
    probes = front.probes()
    await probes.answer(LEGACY)
    flag.touch()
    probes.forget(3)
    probes.forget(3)
    assert await probes.answer(LEGACY) == ""


# Hosts and folders side by side


async def test_hanging_probes_of_one_host_do_not_delay_another_host(
    front: ProbedFrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes_module, "_SLOT_SECONDS", 0.05)
    for tree in TREES:
        front.probe(f"cloud-probes.d/{tree}/one", "[ $2 = 3 ] && sleep 60; echo A=1")
    probes = front.probes(threads=1)
    async with reporting(front, probes=probes) as said:
        await come(lambda: said)
        async with reporting(front, OTHER, probes=probes) as others:
            await come(lambda: {message.kind for message in others if "A=1" in message.text} >= set(KINDS))
    assert not any("A=1" in message.text for message in said)


async def test_hanging_probes_in_one_folder_do_not_delay_other_folders(
    front: ProbedFrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes_module, "_SLOT_SECONDS", 60)
    front.probe("cloud-probes.d/vm/status/one", "sleep 60")
    front.probe("cloud-probes.d/host/system/one", "echo A=1")
    probes = front.probes(threads=1)
    async with reporting(front, probes=probes) as said, reporting(front, OTHER, probes=probes) as others:
        await come(lambda: systems(said) and systems(others))


async def test_probes_run_for_as_many_hosts_at_once_as_t_in_arguments_says(front: ProbedFrontEnd) -> None:
    lock = front.root / "lock"
    front.probe("cloud-probes.d/vm/status/one", f"mkdir {lock} || exit 1; sleep 0.2; rmdir {lock}; echo A=$2")
    probes = front.probes(threads=1)
    async with reporting(front, probes=probes) as said, reporting(front, OTHER, probes=probes) as others:
        await come(lambda: front.warnings or (texts(said, Kind.STATE_VM) and texts(others, Kind.STATE_VM)))
    assert front.warnings == []


async def test_an_exception_in_reporting_one_probe_folder_is_named_and_stops_no_other_report(
    front: ProbedFrontEnd,
) -> None:
    front.settings(heartbeat=0.05, state_period=0.05)
    front.probe("cloud-probes.d/host/system/one", "echo A=1")
    front.probe("cloud-probes.d/vm/status/one", "echo 'VM=[ID=7]'")
    listener = Listener()
    listener.breaking.add(Kind.STATE_VM)
    problem = "vm/status: internal error (ZeroDivisionError), the driver's log has the details"
    async with reporting(front, listener=listener) as said:
        await come(lambda: sum(problem in text for text in texts(said, Kind.MONITOR_HOST)) > 2)
        listener.breaking.clear()
        await come(lambda: texts(said, Kind.STATE_VM))
        await come(lambda: texts(said, Kind.MONITOR_HOST)[-1] == 'PROVIDER_ERROR="-"\n')
    assert front.warnings == [f"host 3: {problem}"]


async def test_the_heartbeat_continues_after_an_exception(front: ProbedFrontEnd) -> None:
    front.settings(heartbeat=0.05)
    listener = Listener()
    listener.breaking.update((Kind.SYSTEM_HOST, Kind.MONITOR_HOST))
    async with reporting(front, listener=listener) as said:
        await come(lambda: any(warning.startswith("host 3: heartbeat: ") for warning in front.warnings))
        listener.breaking.clear()
        await come(lambda: texts(said, Kind.MONITOR_HOST))
    assert said[0].kind is Kind.SYSTEM_HOST


async def test_an_unreadable_probe_folder_is_named_in_a_warning(front: ProbedFrontEnd) -> None:
    front.probe("cloud-probes.d/host/system/one", "echo A=1")
    folder = front.root / "var/remotes/im/cloud-probes.d/vm/status"
    folder.parent.mkdir()
    folder.symlink_to(folder)
    async with reporting(front) as said:
        await come(lambda: front.warnings and systems(said))
    reason = "Too many levels of symbolic links"
    assert front.warnings == [f"host 3: the probes of {folder} cannot be listed: {reason}"]


# Order, and messages that are not read


async def test_a_newer_message_does_not_overtake_a_long_message_that_is_still_being_sent(front: ProbedFrontEnd) -> None:
    front.settings(heartbeat=0.02, state_period=0.02)
    first, go, runs = (front.root / name for name in ("first", "go", "runs"))
    wait = f"[ -e {first} ] && {{ n=2; while [ ! -e {go} ]; do sleep 0.02; done; }}"
    front.probe("cloud-probes.d/host/monitor/one", f"n=1; {wait}; : > {first}; echo N=$n; printf 'A=%0{LONG}d\\n' 1")
    front.probe("cloud-probes.d/vm/status/silent", f"echo >> {runs}")
    periods = msgspec.structs.replace(MODERN.periods, monitor_host=0.02)
    listener = Listener()
    async with reporting(front, msgspec.structs.replace(MODERN, periods=periods), listener=listener) as said:
        await come(lambda: numbers(said))
        listener.gate.clear()
        await come(lambda: listener.is_holding)  # a heartbeat
        go.touch()
        runs.write_text("")
        await come(lambda: len(runs.read_text()) > 10)  # time enough for a newer message to overtake it
        listener.gate.set()
        await come(lambda: numbers(said)[-1] == 2)
    assert numbers(said) == sorted(numbers(said))


def numbers(said: list[Message]) -> list[int]:
    lines = [line for text in texts(said, Kind.MONITOR_HOST) for line in text.splitlines()]
    return [int(line.removeprefix("N=")) for line in lines if line.startswith("N=")]


async def test_a_probe_does_not_run_again_while_its_last_message_is_unread(front: ProbedFrontEnd) -> None:
    front.settings(heartbeat=0.02, state_period=0.02)
    runs = front.root / "runs"
    front.probe("cloud-probes.d/vm/status/one", f"echo . >> {runs}; echo 'VM=[ID=7]'")
    listener = Listener()
    listener.waiting.update((Kind.STATE_VM, Kind.SYSTEM_HOST))
    async with reporting(front, listener=listener) as said:
        await come(lambda: len(texts(said, Kind.MONITOR_HOST)) > 5)
        assert not runs.exists()
        listener.waiting.clear()
        await come(lambda: texts(said, Kind.STATE_VM))
        await come(lambda: texts(said, Kind.SYSTEM_HOST))  # was pending all the while


class Lines:
    """Collects the lines of the real sender."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        self.lines.append(data)
        if on_written is not None:
            on_written()

    def log(self, data: bytes) -> None:
        self.send(data)


async def test_a_long_text_is_compressed_outside_the_event_loop_thread(
    front: ProbedFrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.probe("cloud-probes.d/vm/status/one", "yes 'VM=[ID=7]' | head -n 100000")
    packed: dict[Kind, threading.Thread] = {}
    pack = format_message

    def noted(message: Message) -> bytes:
        packed[message.kind] = threading.current_thread()
        return pack(message)

    monkeypatch.setattr("one_provider_mad.monitor.sender.format_message", noted)
    output = Lines()
    async with reporting(front, listener=Sender(output, Stamps(lambda: 1.0))):
        await come(lambda: Kind.STATE_VM in packed and any(line.startswith(b"STATE_VM") for line in output.lines))
    assert packed[Kind.SYSTEM_HOST] is threading.main_thread()
    assert packed[Kind.STATE_VM] is not threading.main_thread()
    [line] = [read_modern(line) for line in output.lines if line.startswith(b"STATE_VM")]
    assert len(line.text) == 1_000_000
