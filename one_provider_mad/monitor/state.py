"""Keep hosts, listed instances and the latest timestamp when the information driver dies.

monitord starts a dead driver anew and repeats no request (OpenNebula include/Driver.h, stop_driver): its hosts would
stay unmonitored until their interval has run out. So they are taken up again, but only under the same monitord: another
one starts the hosts that it wants (decision 21).
"""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

from one_provider_mad.domain import Value
from one_provider_mad.file_owner import replace_file
from one_provider_mad.monitor.inference import Memory
from one_provider_mad.processes import Process
from one_provider_mad.protocol.im_messages import StartMonitor

VERSION = 1


class State(Value, frozen=True, kw_only=True):
    """Content of the file.

    Attributes:
        version: of this layout.
        parent: the parent of the process that wrote it.
        hosts: monitord's requests, by host.
        memory: of the listings, for any monitord.
        timestamp: the latest one that was written.
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
        """Return the saved state, and a sentence when it cannot be used: then everything begins anew."""
        try:
            state = msgspec.json.decode(self.path.read_bytes(), type=State)
        except FileNotFoundError:
            return None, ""
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            return None, f"the saved monitoring state cannot be read: {error} ({self.path})"
        if state.version != VERSION:
            return None, f"the saved monitoring state is of another version: {state.version} ({self.path})"
        return state, ""

    def save(self, state: State) -> str:
        """Write the state durably; return a sentence on failure, as on a full disk."""
        content = msgspec.json.encode(state)
        # At the end a second state may come while the last one is still being written.
        with self._writing:
            try:
                replace_file(self.path, content, beside=f"{self.path.name}.new", is_lasting=True)
            except OSError as error:
                return f"the monitoring state cannot be written: {error.strerror} ({self.path})"
        return ""
