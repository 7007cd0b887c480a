"""One driver under kill -9, and an oned that restarts it each time and never blocks on reading."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.end_to_end.oned import Driver, Place


class KilledDriver:
    """A driver that is restarted whenever it is killed, as oned does.

    Args:
        place: its OpenNebula.
        arguments: ARGUMENTS.
        program: what to start.

    Attributes:
        ready_at: when INIT was answered, 0 while it is not.
    """

    def __init__(self, place: Place, arguments: str, *, program: Path) -> None:
        self._place, self._arguments, self._program = place, arguments, program
        self._waiting: list[bytes] = []
        self._rest = b""
        self.ready_at = 0.0
        self.driver = self._start()

    def _start(self) -> Driver:
        driver = Driver(self._place, self._arguments, init=False, reading=False, program=self._program)
        assert driver.process.stdout is not None
        os.set_blocking(driver.process.stdout.fileno(), False)
        driver.send("INIT")
        return driver

    @property
    def descriptor(self) -> int:
        assert self.driver.process.stdout is not None
        return self.driver.process.stdout.fileno()

    def send(self, line: bytes) -> None:
        """Write a line, once INIT was answered."""
        if self.ready_at:
            self.driver.send(line)
        else:
            self._waiting.append(line)

    def hear(self) -> list[str]:
        """The whole lines that have arrived."""
        try:
            data = os.read(self.descriptor, 1 << 20)
        except BlockingIOError:
            return []
        assert data, f"the driver ended by itself\n{self._place.log()[-2000:]}"
        return self._lines(data)

    def _lines(self, data: bytes) -> list[str]:
        if not self.ready_at:
            assert data == b"INIT SUCCESS\n", "oned loses everything that is read together with INIT SUCCESS"
            self.ready_at = time.time()
            for line in self._waiting:
                self.driver.send(line)
            self._waiting.clear()
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode() for line in lines]

    def kill(self) -> list[str]:
        """Kill the driver and restart it at once; returns the lines that the killed one had written."""
        self.driver.kill()
        lines: list[str] = []
        while data := os.read(self.descriptor, 1 << 20):
            lines += self._lines(data)
        assert not self._rest, "half a line spoils the first one of the next process"
        self.driver.leave()
        self.ready_at = 0.0
        self.driver = self._start()
        return lines
