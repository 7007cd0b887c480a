"""`one-provider tail`: readable log lines, filtered by VM and level, and followed through a rotation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import COMMAND, lines_on_a_terminal, on_a_terminal, output_of, surroundings
from tests.end_to_end.oned import Place
from tests.waiting import HANG, until


def entry(event: str, **more: Any) -> str:
    return json.dumps({"event": event, "level": "info", "timestamp": "2026-03-04T05:06:07Z", **more}) + "\n"


@pytest.fixture
def log(place: Place) -> Path:
    path = place.var / "one_vmm_provider_cloud.log"
    path.write_text(
        entry("started", pid=12)
        + entry("deployed", vm=7, deploy_id="sim-1", took=0.25)
        + entry("looked", level="debug", vm=7)
        + entry("no room", level="warning", vm=8, text="two words", what={"a": 1})
        + "Traceback of another program\n"
        + entry("sent \x1b[31m", level="error", vm=7)
    )
    return path


def test_tail_prints_entries_as_readable_lines(place: Place, log: Path) -> None:
    lines = output_of(place.root, "tail", "cloud").splitlines()
    assert [line[16:] for line in lines if "sent" not in line and "Traceback" not in line] == [
        "-        started  pid=12",
        "VM 7     deployed  deploy_id=sim-1 took=0.25",
        'VM 8     no room  text="two words" what={"a": 1}',
    ]
    here = datetime.fromisoformat("2026-03-04T05:06:07Z").astimezone()
    assert lines[0].startswith(here.strftime("%m-%d %H:%M:%S  "))
    assert "Traceback of another program" in lines[3]
    assert "\x1b" not in lines[4]
    assert "sent" in lines[4]


def test_tail_answers_a_mistyped_name_with_the_one_that_is_known(place: Place, log: Path) -> None:
    place.configure('provider = "simulated"\nowner = "o"\n', name="cloud")
    missing = place.var / "one_vmm_provider_clod.log"
    assert output_of(place.root, "tail", "clod", code=1) == (
        "one-provider tail: there is no log of one_vmm_provider for clod yet: the running driver writes it, on its"
        f" machine ({missing}); did you mean cloud?\n"
    )


@pytest.mark.parametrize(
    ("options", "events"),
    [
        (("--vm", "7"), ["deployed", "sent"]),
        (("--level", "debug", "--vm", "7"), ["deployed", "looked", "sent"]),
        (("--level", "warning"), ["no room", "Traceback", "sent"]),
        (("-n", "1"), ["sent"]),
        (("-n", "0"), []),
    ],
)
def test_tail_filters_by_vm_level_and_number(
    place: Place, log: Path, options: tuple[str, ...], events: list[str]
) -> None:
    lines = output_of(place.root, "tail", "cloud", "--json", *options).splitlines()
    shown = [json.loads(line)["event"] for line in lines]
    assert len(shown) == len(events)
    assert all(text.startswith(event) for text, event in zip(shown, events, strict=True))


def test_tail_im_reads_the_information_drivers_log(place: Place, log: Path) -> None:
    sentence = output_of(place.root, "tail", "cloud", "--im", code=1)
    im = log.with_name("one_im_provider_cloud.log")
    assert sentence == (
        "one-provider tail: there is no log of one_im_provider for cloud yet: the running driver writes it, on its"
        f" machine ({im})\n"
    )
    im.write_text(entry("swept"))
    assert "swept" in output_of(place.root, "tail", "cloud", "--im")


def test_tail_colours_warnings_on_a_terminal(place: Place, log: Path) -> None:
    code, printed = on_a_terminal(place.root, "tail", "cloud")
    assert code == 0
    assert "\x1b[33m" in next(line for line in printed.splitlines() if "no room" in line)
    assert "\x1b" not in next(line for line in printed.splitlines() if "deployed" in line)


def test_tail_reads_the_latest_rotated_log_until_the_driver_writes_a_new_one(place: Place, log: Path) -> None:
    for number, name in enumerate(("-20260301-1", "-20260308-2", "-20260215-0.gz")):
        rotated = log.with_name(log.name + name)
        rotated.write_text(entry(f"week {number}"))
        os.utime(rotated, (number, number))
    log.unlink()
    assert output_of(place.root, "tail", "cloud").split()[-2:] == ["week", "1"]
    with following(place) as followed:
        assert followed.saw("week 1")
        log.write_text(entry("new week"))
        assert followed.saw("week 1", "new week")


def test_tail_wraps_long_entries_between_words_on_a_terminal(place: Place, log: Path) -> None:
    append(log, entry("reply sent", vm=7, reason="the cloud did not answer within the time", path="/x" * 50))
    lines = lines_on_a_terminal(place.root, "tail", "cloud", "-n", "1", columns=80)
    assert [line[14:] for line in lines] == [
        '  VM 7     reply sent  reason="the cloud did not answer within the',
        '  time"',
        f"  path={'/x' * 50}",
    ]


class Followed:
    """The events that a process following the log has written so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.events.extend(json.loads(line)["event"] for line in self.process.stdout)

    def saw(self, *events: str) -> bool:
        return until(lambda: self.events[-len(events) :] == list(events))


@contextmanager
def following(place: Place, *options: str) -> Iterator[Followed]:
    # Tests that run in the background ignore SIGINT, and their child processes inherit that.
    command = ["env", "--default-signal=INT", *COMMAND, "tail", "cloud", "-f", "--json", *options]
    environ = surroundings(place.root)
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        followed = Followed(process)
        try:
            yield followed
        finally:
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(HANG) == 130
            finally:
                process.kill()
            followed._thread.join(HANG)
            assert process.stderr is not None
            assert process.stderr.read().strip() == ""


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_tail_f_follows_partial_lines_rotation_and_truncation(place: Place, log: Path) -> None:
    append(log, entry("half begun")[:20])
    with following(place, "-n", "1", "--vm", "7") as followed:
        assert followed.saw("sent \x1b[31m")
        append(log, entry("half begun")[20:] + entry("other", vm=8) + entry("one", vm=7))
        assert followed.saw("sent \x1b[31m", "one")
        old = log.with_suffix(".log.1")
        log.rename(old)
        append(old, entry("still to the old one", vm=7))
        assert followed.saw("one", "still to the old one")
        log.write_text(entry("two", vm=7))
        assert followed.saw("still to the old one", "two")
        append(log, entry("three", vm=7))
        assert followed.saw("two", "three")
        os.truncate(log, 0)
        append(log, entry("4", vm=7))
        assert followed.saw("three", "4")
