"""What the information driver remembers across its own death: hosts, what was listed, the latest timestamp.

monitord starts a dead driver anew and says nothing more (OpenNebula include/Driver.h, stop_driver): its hosts would go
unmonitored until their interval has run out. So they are taken up again, but only when the same monitord started both:
another one starts the hosts that it wants (decision 21).
"""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

from one_provider_mad.belongings import replace_file
from one_provider_mad.domain import Value
from one_provider_mad.monitor.truth import Memory
from one_provider_mad.processes import Process
from one_provider_mad.protocol.im_messages import StartMonitor

VERSION = 1


class State(Value, frozen=True, kw_only=True):
    """What is kept in the file.

    Attributes:
        version: of this layout.
        parent: who started the process that wrote it.
        hosts: what monitord asked for, by host.
        memory: what was listed; it does not depend on who asks.
        timestamp: the latest one that was written on a message.
        reported_names: attributes that were ever reported of a VM: the core shows them until they are taken back.
    """

    version: int = VERSION
    parent: Process
    hosts: tuple[StartMonitor, ...] = ()
    memory: Memory = Memory()
    timestamp: int = 0
    reported_names: tuple[str, ...] = ()


class StateFile:
    """The file of one NAME, replaced as a whole.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()

    def load(self) -> tuple[State | None, str]:
        """What was kept, and a sentence when it cannot be used: then everything begins anew."""
        try:
            state = msgspec.json.decode(self.path.read_bytes(), type=State)
        except FileNotFoundError:
            return None, ""
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            return None, f"what was monitored before cannot be read: {error} ({self.path})"
        if state.version != VERSION:
            return None, f"what was monitored before was written by another version: {state.version} ({self.path})"
        return state, ""

    def save(self, state: State) -> str:
        """Put this state into the file, for good; a sentence when that fails, as on a full disk."""
        content = msgspec.json.encode(state)
        # At the end a second one may come while the last one is still being written.
        with self._writing:
            try:
                replace_file(self.path, content, beside=f"{self.path.name}.new", is_lasting=True)
            except OSError as error:
                return f"what is monitored cannot be written down: {error.strerror} ({self.path})"
        return ""
