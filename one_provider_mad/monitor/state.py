"""Save monitored hosts, known instances and the latest timestamp for the next process of the information driver.

monitord starts a dead driver anew and repeats no request (OpenNebula include/Driver.h, stop_driver): its hosts would
stay unmonitored until monitord's interval has run out. So the new process resumes them, if the same monitord started
both processes; another monitord requests the hosts that it wants (decision 21).
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
"""Version of the file's layout. A later version only adds fields, which this release ignores."""


class State(Value, frozen=True, kw_only=True):
    """Content of the file.

    Attributes:
        version: version of the file's layout.
        parent: the parent of the process that wrote the file: monitord.
        hosts: monitord's START_MONITOR for each monitored host.
        memory: what listings have shown; used under any monitord.
        timestamp: the latest timestamp of a message.
        reported_names: names of attributes that were ever reported of a VM: OpenNebula shows them until they are
            removed.
    """

    version: int = VERSION
    parent: Process
    hosts: tuple[StartMonitor, ...] = ()
    memory: Memory = Memory()
    timestamp: int = 0
    reported_names: tuple[str, ...] = ()


class StateFile:
    """The state file of one NAME; each save replaces the whole file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()

    def load(self) -> tuple[State | None, str]:
        """Return the saved state, None for none; and a sentence if the file cannot be used, else ""."""
        try:
            state = msgspec.json.decode(self.path.read_bytes(), type=State)
        except FileNotFoundError:
            return None, ""
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            return None, f"the saved monitoring state cannot be read: {error} ({self.path})"
        return msgspec.structs.replace(state, version=VERSION), ""

    def save(self, state: State) -> str:
        """Write the state durably; return "", or a sentence that says why it failed (a full disk, say)."""
        content = msgspec.json.encode(state)
        # When the process ends, its last state may come while the one before is still being written.
        with self._writing:
            try:
                replace_file(self.path, content, beside=f"{self.path.name}.new", is_lasting=True)
            except OSError as error:
                return f"the monitoring state cannot be written: {error.strerror} ({self.path})"
        return ""
