"""Identify this machine: a copied front-end, with its journal and configuration, is another machine.

A clone that is started beside the original, or a restored backup, has an OpenNebula of its own: a VM that is
terminated there may be alive here.
"""

from __future__ import annotations

import socket
import uuid
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from one_provider_mad.journal.writer import Journal

MACHINE = "machine"
"""Key of the journal's fact: the machine on which it is written."""

_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
"""Made once at installation (systemd, machine-id(5)); a cloned disk has the same id, so it is not enough."""

_DEVICES = Path("/sys/class/net")
"""Network devices; a software device has no `device` entry (Documentation/ABI/testing/sysfs-class-net)."""

_IS_MADE_UP = 1 << 40
"""Bit that Python sets in a hardware address of its own making (uuid.getnode)."""


def machine() -> str:
    """Return a short text that identifies this machine. Reads files: not for the event loop."""
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
    """Return the hardware address as twelve hexadecimal digits, "" without a permanent one.

    Python returns the address of the first device that has an IPv4 address. While the network comes up, which is when
    a driver starts, that may be another device or none.
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
    number = uuid.getnode()  # a container has software devices only
    return "" if number & _IS_MADE_UP else f"{number:012x}"


async def note_machine(journal: Journal, here: str) -> bool:
    """Record the machine that writes a journal, unless recorded; False when it is another machine.

    Raises:
        JournalError: it cannot be read or written.
    """
    recorded = await journal.fact(MACHINE)
    if recorded is None:
        await journal.set_fact(MACHINE, here)
    return recorded in (None, here)
