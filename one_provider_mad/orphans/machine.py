"""Which machine this is: a copy of a front-end, with its journal and its configuration, is another one.

A clone that is started beside the original, or a backup that is restored for a look, has an OpenNebula of its own: what
somebody terminates there is alive and needed here.
"""

from __future__ import annotations

import socket
import uuid
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from one_provider_mad.journal.writer import Journal

MACHINE = "machine"
"""Name of the journal's fact: on which machine it is written."""

_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
"""Made once at installation (systemd, machine-id(5)); a cloned disk has the same, so that it is not enough."""

_DEVICES = Path("/sys/class/net")
"""Network devices; one that is made of software has no `device` in it (Documentation/ABI/testing/sysfs-class-net)."""

_IS_MADE_UP = 1 << 40
"""Bit of a hardware address that Python sets in one that it has made up (uuid.getnode)."""


def machine() -> str:
    """A short text that is the same on this machine only. Reads files: not for the event loop."""
    parts = [socket.gethostname()]
    for path in _MACHINE_IDS:
        try:
            parts.append(path.read_text().strip())
            break
        except OSError:
            continue
    if address := _hardware_address():
        parts.append(address)
    return sha256("\0".join(parts).encode()).hexdigest()[:16]


def _hardware_address() -> str:
    """Twelve hexadecimal digits, "" where there is none that stays.

    What Python tells is the first device's that has an IPv4 address, so another one's, or none, while the network
    comes up: a driver starts with the machine.
    """
    found: list[tuple[int, str]] = []
    with suppress(OSError):
        for each in _DEVICES.iterdir():
            with suppress(OSError, ValueError):
                if (each / "device").exists():
                    address = (each / "address").read_text().strip().replace(":", "")
                    found.append((int((each / "ifindex").read_text()), address))
    if found:
        return min(found)[1]
    number = uuid.getnode()  # a container has nothing but software
    return "" if number & _IS_MADE_UP else f"{number:012x}"


async def note_machine(journal: Journal, here: str) -> bool:
    """Record on which machine a journal is written, where that was not done yet; True unless it is another one.

    Raises:
        JournalError: it cannot be read or written.
    """
    recorded = await journal.fact(MACHINE)
    if recorded is None:
        await journal.set_fact(MACHINE, here)
    return recorded in (None, here)
