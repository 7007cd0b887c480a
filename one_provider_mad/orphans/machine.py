"""Identify the machine of the front-end, to notice a journal that was copied to another machine.

A cloned or restored front-end has an OpenNebula of its own: a VM that is DONE there may be alive in the original, so
the copy must not terminate its instance.
"""

from __future__ import annotations

import socket
import uuid
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from one_provider_mad.journal.writer import Journal

MACHINE = "machine"
"""Name of the journal's fact that holds the identity of the machine on which the journal was begun."""

_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
"""Files with the machine id (machine-id(5)); a cloned disk has the same id, so the hardware address is added to it."""

_DEVICES = Path("/sys/class/net")
"""Network devices: the address is taken of one with a `device` entry, as software devices change (sysfs-class-net)."""

_IS_MADE_UP = 1 << 40
"""Bit that is set in an address that uuid.getnode invented for lack of a real one: it changes at each start."""


def machine() -> str:
    """Return a short text that identifies this machine; it reads files, so call it in a thread."""
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
    """Return the hardware address of the first network card as twelve hexadecimal digits, "" without a permanent one.

    Not uuid.getnode's, which is of the first device that has an IPv4 address: while the network comes up, which is when
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
    number = uuid.getnode()  # a container has no other devices
    return "" if number & _IS_MADE_UP else f"{number:012x}"


async def note_machine(journal: Journal, here: str) -> bool:
    """Record `here` as the machine of a journal without one; return False when another machine is recorded.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    recorded = await journal.fact(MACHINE)
    if recorded is None:
        await journal.set_fact(MACHINE, here)
    return recorded in (None, here)
