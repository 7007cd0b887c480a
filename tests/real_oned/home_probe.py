"""An information driver for hosts at home: it answers as a probe of KVM would, with figures that never change.

Upstream's probe of a dummy host leaves a daemon, and a file in /tmp that two zones would share. OpenNebula starts this
one as `home_probe.py RELEASE [CPU]`, and its releases ask in two ways (docs/protocol.md).
"""

from __future__ import annotations

import base64
import sys
import threading
import time
import zlib
from collections.abc import Iterable

MONITORD = (5, 12)
"""First release in which monitord asks; before, oned asks for each report."""

PERIOD = 5.0
"""Seconds between reports."""

RELEASE, *_more = sys.argv[1].split() if len(sys.argv) > 1 else [""]
CPU = _more[0] if _more else "800"
"""OpenNebula's release, and percent of a core that the host has: oned passes ARGUMENTS as one."""

ALWAYS = f"HYPERVISOR=kvm\nTOTALCPU={CPU}\nCPUSPEED=2200\nTOTALMEMORY=16777216\n"
NOW = f"USEDCPU=0\nFREECPU={CPU}\nUSEDMEMORY=0\nFREEMEMORY=16777216\n"


class Probe:
    """Answers lines, and reports on monitored hosts, as probes do, every few seconds.

    Args:
        release: OpenNebula's.
    """

    def __init__(self, release: str) -> None:
        self._is_modern = tuple(map(int, release.split("."))) >= MONITORD
        self._hosts: set[str] = set()

    def run(self) -> None:
        """Answer every line of stdin until it ends."""
        threading.Thread(target=self._report, daemon=True).start()
        for line in sys.stdin:
            self._send((self._modern if self._is_modern else legacy)(line.split()))

    def _send(self, lines: Iterable[str]) -> None:
        """Write lines at once: two threads do."""
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()

    def _report(self) -> None:
        while not threading.Event().wait(PERIOD):
            self._send([line for host in sorted(self._hosts) for line in reports(host)])

    def _modern(self, words: list[str]) -> list[str]:
        """Answers to monitord."""
        match words:
            case ["INIT", *_]:
                return [f"INIT SUCCESS - {int(time.time())} -"]
            case ["START_MONITOR", _, host, *_]:
                self._hosts.add(host)
                return [message("START_MONITOR", host, ""), *reports(host)]
            case ["STOP_MONITOR", _, host, *_]:
                self._hosts.discard(host)
                return [message("STOP_MONITOR", host, "")]
        return []


def reports(host: str) -> list[str]:
    return [message("SYSTEM_HOST", host, ALWAYS), message("MONITOR_HOST", host, NOW)]


def message(kind: str, host: str, text: str) -> str:
    """A message to monitord, with a time and a packed payload."""
    return f"{kind} SUCCESS {host} {int(time.time())} {packed(text)}"


def packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode())).decode() if text else ""


def legacy(words: list[str]) -> list[str]:
    """Answers to oned."""
    match words:
        case ["INIT", *_]:
            return ["INIT SUCCESS - -"]
        case ["MONITOR", number, *_]:
            return [f"MONITOR SUCCESS {number} {base64.b64encode((ALWAYS + NOW).encode()).decode()}"]
        case ["STOPMONITOR", number, *_]:
            return [f"STOPMONITOR SUCCESS {number} -"]
    return []


if __name__ == "__main__":
    Probe(RELEASE).run()
