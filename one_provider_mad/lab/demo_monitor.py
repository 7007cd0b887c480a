"""The information driver in the demonstration: its messages about the VM, read as by monitord."""

from __future__ import annotations

import base64
import queue
import re
import subprocess
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress

from one_provider_mad.domain import Value

HOST_ID = 0

_MESSAGE = re.compile(rb"([A-Z_]+) (SUCCESS|FAILURE) ([0-9]+) [0-9]+ ([A-Za-z0-9+/=]*)")
_PERIODS = {
    "BEACON_HOST": 30, "SYSTEM_HOST": 600, "MONITOR_HOST": 120, "STATE_VM": 5, "SYNC_STATE_VM": 180, "MONITOR_VM": 30
}  # fmt: skip
_START = (
    "<MONITOR_DRIVER_ACTION><HOST><ID>0</ID><NAME>demo</NAME><STATE>0</STATE><IM_MAD>simulated</IM_MAD>"
    "<VM_MAD>simulated</VM_MAD></HOST><MONITOR_CONFIGURATION><PROBES_PERIOD>"
    + "".join(f"<{name}>{seconds}</{name}>" for name, seconds in _PERIODS.items())
    + "</PROBES_PERIOD></MONITOR_CONFIGURATION></MONITOR_DRIVER_ACTION>"
)
"""Payload that monitord sends for a new host, with the elements that the driver reads."""


class Report(Value, frozen=True, kw_only=True):
    """One message of the driver: its first word, and its payload as text."""

    word: str
    text: str


class Watcher:
    """A running information driver that reports on one host, and a reader of its messages.

    Args:
        process: the driver, started with pipes.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="stdout of the information driver", daemon=True).start()

    def say(self, line: bytes) -> None:
        """Send one line."""
        if self._process.stdin is not None:
            self._process.stdin.write(line + b"\n")

    def start(self) -> bytes:
        """Ask for reports on the host, as monitord does; return the line."""
        line = b"START_MONITOR - %d 0 %s" % (HOST_ID, base64.b64encode(zlib.compress(_START.encode())))
        self.say(line)
        return line

    def wait(self, is_wanted: Callable[[Report], bool], seconds: float) -> Report | None:
        """Return the next report of the wanted kind; None when the time is up."""
        until = time.monotonic() + seconds
        while True:
            try:
                report = self._reports.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None
            if report is None or is_wanted(report):
                return report

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was started with a pipe
        with suppress(OSError, ValueError):  # the demonstration has closed it, and waits no longer
            for line in self._process.stdout:
                self._take(line.rstrip(b"\n"))
        self._reports.put(None)

    def _take(self, line: bytes) -> None:
        if match := _MESSAGE.fullmatch(line):
            payload = base64.b64decode(match[4])
            text = zlib.decompress(payload).decode() if payload else ""
            self._reports.put(Report(word=match[1].decode(), text=text))
