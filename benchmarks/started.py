"""A program under measurement: started as oned starts a driver, and talked to in bulk."""

from __future__ import annotations

import os
import re
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from tests.end_to_end.oned import PROGRAM, Driver, Place

HERE = Path(__file__).resolve().parent
BARE_ACTIONS = HERE / "bare_actions.py"
BARE_POLLS = HERE / "bare_polls.py"
IM_PROGRAM = PROGRAM.with_name("one_im_provider")
_WATCHED = HERE / "watched.py"
_LISTINGS = HERE / "listings.py"
_PATIENCE = 60.0
"""Seconds without a single line after which a measurement is given up."""


class Answers:
    """What a program writes, line by line, read in the thread that measures: no queue, no second thread."""

    def __init__(self, driver: Driver) -> None:
        stdout = driver.process.stdout
        if stdout is None:
            raise AssertionError("a driver writes to a pipe")
        self._descriptor = stdout.fileno()
        self._rest = b""
        self._waiting: deque[bytes] = deque()

    def next_line(self) -> bytes:
        """Wait until there is a whole line and return it."""
        if not self._waiting:
            self._waiting.extend(self.next_lines())
        return self._waiting.popleft()

    def next_lines(self) -> list[bytes]:
        """Wait until there are whole lines and return them."""
        if self._waiting:
            lines = list(self._waiting)
            self._waiting.clear()
            return lines
        while True:
            if not select.select([self._descriptor], [], [], _PATIENCE)[0]:
                raise RuntimeError(f"no line came within {_PATIENCE:g} s")
            data = os.read(self._descriptor, 262144)
            if not data:
                raise RuntimeError("the program ended")
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                return lines


@dataclass(frozen=True)
class Exchange:
    """Lines sent at once, and their answers.

    Attributes:
        begun: the monotonic clock when the first byte was sent.
        seconds: from then to the last answer.
        processor_seconds: how long all threads of the program ran meanwhile, on any processor.
        answers: the answers, without LOG lines.
        times: the monotonic clock when each of them was read, where that matters.
    """

    begun: float
    seconds: float
    processor_seconds: float
    answers: list[bytes]
    times: tuple[float, ...] = ()


class Started:
    """One running program that has answered INIT.

    Attributes:
        driver: its process.
        seconds_to_init: from exec to the answer.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._answers = Answers(driver)
        driver.send("INIT")
        line = self._answers.next_lines()
        self.seconds_to_init = time.monotonic() - driver.started
        if line != [b"INIT SUCCESS"]:
            raise RuntimeError(f"INIT was answered with {line!r}")

    def exchange(self, lines: bytes, *, count: int) -> Exchange:
        """Send lines, read their answers; every one of them must be a success."""
        answers: list[bytes] = []
        sender = threading.Thread(target=self.driver.write, args=(lines,), daemon=True)
        used, begun = self._processor_seconds(), time.monotonic()
        sender.start()
        while len(answers) < count:
            answers += [line for line in self._answers.next_lines() if not line.startswith(b"LOG ")]
        seconds, used = time.monotonic() - begun, self._processor_seconds() - used
        sender.join()
        failed = next((line for line in answers if line.split(None, 2)[1] != b"SUCCESS"), None)
        if failed is not None or len(answers) > count:
            raise RuntimeError(f"{count} lines had {len(answers)} answers, one of them {failed!r}")
        return Exchange(begun, seconds, used, answers)

    def hear(self, lines: bytes, word: bytes, *, count: int) -> Exchange:
        """Send lines, and read until so many that begin like this have come, what comes between them included."""
        answers: list[bytes] = []
        times: list[float] = []
        used, begun = self._processor_seconds(), time.monotonic()
        self.driver.write(lines)
        while count > 0:
            line = self._answers.next_line()
            if not line.startswith(b"LOG "):
                answers.append(line)
                times.append(time.monotonic())
            count -= line.startswith(word)
        seconds, used = time.monotonic() - begun, self._processor_seconds() - used
        return Exchange(begun, seconds, used, answers, tuple(times))

    def _processor_seconds(self) -> float:
        content = Path(f"/proc/{self.driver.process.pid}/stat").read_text()
        user, system = content[content.rindex(")") :].split()[12:14]  # proc(5), fields 14 and 15, in ticks
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def memory(self, field: str) -> float:
        """`VmRSS`, what it has now, or `VmHWM`, the most it ever had; MB of 1,000,000 bytes."""
        status = Path(f"/proc/{self.driver.process.pid}/status").read_text()
        match = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
        if match is None:
            raise RuntimeError(f"/proc has no {field}")
        return int(match[1]) * 1024 / 1e6


class Starter:
    """Starts programs in one OpenNebula directory of their own.

    Args:
        root: an empty directory.
    """

    def __init__(self, root: Path) -> None:
        self.place = Place(root)
        self._root = root

    @contextmanager
    def ours(
        self,
        arguments: str,
        *,
        program: Path = PROGRAM,
        stalls: Path | None = None,
        listings: Path | None = None,
        is_booking: bool = True,
    ) -> Iterator[Started]:
        """A driver itself, with nothing left to it by an earlier one.

        Args:
            arguments: ARGUMENTS.
            program: which one; the action driver where nothing is said.
            stalls: a file for the stalls of its loop; None when it is not watched.
            listings: a file for its listings (benchmarks/listings.py); None when it is not watched.
            is_booking: False: it keeps no ledger; only with `listings`.
        """
        for left in [*self.place.var.glob("*.journal*"), *self.place.var.glob("*.state")]:
            left.unlink()
        environ: dict[str, str | None] = {}
        if stalls is not None:
            program, environ = self._watched(program, stalls)
        elif listings is not None:
            environ = {"BENCHMARK_PROGRAM": str(program), "BENCHMARK_LISTINGS": str(listings)}
            environ["BENCHMARK_LEDGER"] = "yes" if is_booking else "no"
            program = self._launcher(_LISTINGS)
        with Driver(self.place, arguments, program=program, environ=environ, init=False, reading=False) as driver:
            yield Started(driver)

    @contextmanager
    def bare(self, source: Path, arguments: str = "", *, stalls: Path | None = None) -> Iterator[Started]:
        """A bare program of this folder, by the same interpreter and through a shell as ours."""
        launcher = self._launcher(source)
        program, environ = (launcher, {}) if stalls is None else self._watched(source, stalls)
        with Driver(
            self.place, arguments or None, program=program, environ=environ, init=False, reading=False
        ) as driver:
            yield Started(driver)

    def _launcher(self, source: Path) -> Path:
        launcher = self._root / source.stem
        if not launcher.exists():
            launcher.write_text(f'#!/bin/sh\nexec {quote(sys.executable)} -I {quote(str(source))} "$@"\n')
            launcher.chmod(0o700)
        return launcher

    def _watched(self, program: Path, stalls: Path) -> tuple[Path, dict[str, str | None]]:
        return self._launcher(_WATCHED), {"BENCHMARK_PROGRAM": str(program), "BENCHMARK_STALLS": str(stalls)}


def longest_stall(path: Path, exchange: Exchange) -> float:
    """The longest stall in seconds that overlaps the exchange; 0 when the loop was never late."""
    if not path.exists():
        return 0.0
    noted = [tuple(map(float, line.split())) for line in path.read_text().splitlines()]
    until = exchange.begun + exchange.seconds
    return max((late for now, late in noted if now >= exchange.begun and now - late <= until), default=0.0)
