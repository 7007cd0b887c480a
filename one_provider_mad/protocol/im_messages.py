"""What an information driver reads and writes, as values; protocol/im.py converts them from and to lines."""

from __future__ import annotations

from enum import Enum

from one_provider_mad.domain import Value
from one_provider_mad.protocol.messages import Control, Severity


class Era(Enum):
    """Whether oned up to 5.10 or monitord is at the other end; the first request shows it."""

    LEGACY = "legacy"
    """oned itself, up to 5.10: requests each report with MONITOR, and accepts replies at any time."""

    MODERN = "modern"
    """monitord, 5.12 and later: requests reports on a host once, with START_MONITOR, and accepts messages from then
    on."""


class Monitor(Value, frozen=True, kw_only=True):
    """MONITOR of oned up to 5.10: a request for one report on a host, at once.

    Attributes:
        host_id: the host's number (0 to 2147483647).
        host: its name, "" when the line had none.
        datastore_location: directory of the datastores on the front-end, "" before 4.4.
        is_first: True if the host was never monitored before; upstream then copies the probes to it.
    """

    host_id: int
    host: str = ""
    datastore_location: str = ""
    is_first: bool = False


class Periods(Value, frozen=True, kw_only=True):
    """Seconds between two reports of each kind, as monitord requests them (PROBES_PERIOD of monitord.conf); at least 1.

    A period that a release does not send has the value of the shipped monitord.conf (5.12 to 7.0 have another name for
    STATE_VM in their defaults).

    Attributes:
        beacon_host: signs of life.
        system_host: facts of a host that hardly change.
        monitor_host: figures of a host.
        state_vm: states of VMs.
        sync_state_vm: states of all VMs.
        monitor_vm: figures of VMs.
        exec_vm: results of EXEC (7.2 and later).
    """

    beacon_host: int = 30
    system_host: int = 600
    monitor_host: int = 120
    state_vm: int = 5
    sync_state_vm: int = 180
    monitor_vm: int = 30
    exec_vm: int = 5


class StartMonitor(Value, frozen=True, kw_only=True):
    """START_MONITOR of monitord: a request to report on a host from now on. A later one for the host replaces it.

    Attributes:
        host_id: the host's number (0 to 2147483647).
        host: its name, "" when the message had none.
        state: HOST/STATE, None when absent.
        im_mad: NAME of the information driver.
        vm_mad: NAME of the virtualization driver.
        cluster_id: number of its cluster, None when absent.
        cluster: name of its cluster.
        datastore_location: directory of the datastores on the front-end.
        periods: the periods of the reports.
        interval: seconds without a sign of life after which monitord sends START_MONITOR again.
        timer: seconds between two checks of all hosts by monitord.
        document: the XML element MONITOR_CONFIGURATION unchanged, at most 16 MiB; probes read it on stdin. b"" when the
            message had none.
    """

    host_id: int
    host: str = ""
    state: int | None = None
    im_mad: str = ""
    vm_mad: str = ""
    cluster_id: int | None = None
    cluster: str = ""
    datastore_location: str = ""
    periods: Periods = Periods()
    interval: int = 180
    timer: int = 15
    document: bytes = b""


class StopMonitor(Value, frozen=True, kw_only=True):
    """STOPMONITOR or STOP_MONITOR: a request to stop reporting on a host, which is deleted or offline.

    Attributes:
        host_id: the host's number (0 to 2147483647).
        era: LEGACY for STOPMONITOR, MODERN for STOP_MONITOR.
    """

    host_id: int
    era: Era


class Unreadable(Value, frozen=True, kw_only=True):
    """A line that is no known request.

    Attributes:
        reason: the problem, in one sentence.
        word: the first word in a form that fits into an answer (upper case, printable ASCII), "" when there was none.
        host_id: the host's number when one could be read, else None: then the line gets no answer.
        era: the sender, inferred from the first word, else from the line's form.
    """

    reason: str
    word: str = ""
    host_id: int | None = None
    era: Era = Era.MODERN


ImRequest = Monitor | StartMonitor | StopMonitor
ImLine = ImRequest | Control | Unreadable
"""The result of reading a line."""


class Kind(Enum):
    """First word of a message to monitord (OpenNebula src/monitor/include/MonitorDriverMessages.h)."""

    START_MONITOR = "START_MONITOR"
    """The answer to START_MONITOR; a success has an empty text."""

    STOP_MONITOR = "STOP_MONITOR"
    """The answer to STOP_MONITOR, which monitord ignores; upstream's driver sends it, too."""

    SYSTEM_HOST = "SYSTEM_HOST"
    """The only message that sets a host to MONITORED, also from ERROR."""

    MONITOR_HOST = "MONITOR_HOST"
    """Figures of a host, which monitord takes for a sign of life; a FAILURE puts the host into ERROR."""

    BEACON_HOST = "BEACON_HOST"
    """A sign of life, which monitord ignores when it comes from a driver's stdout; MONITOR_HOST serves instead
    (decision 20)."""

    STATE_VM = "STATE_VM"
    """States of VMs."""

    MONITOR_VM = "MONITOR_VM"
    """Figures of VMs."""

    EXEC_VM = "EXEC_VM"
    """Results of EXEC (7.2 and later)."""


class Message(Value, frozen=True, kw_only=True):
    """One message to monitord.

    Attributes:
        kind: the line's first word.
        host_id: the host it is about.
        timestamp: seconds since the epoch; monitord drops a message older than the last of its kind and host, and
            always accepts 0.
        text: the payload as template text (protocol/reports.py), or the sentence of a failure; "" for none.
        is_success: SUCCESS or FAILURE.
    """

    kind: Kind
    host_id: int
    timestamp: int
    text: str = ""
    is_success: bool = True


class LegacyReply(Value, frozen=True, kw_only=True):
    """One reply to oned up to 5.10; a MONITOR reply may also be sent without a request.

    Attributes:
        word: MONITOR, STOPMONITOR, or the word of a refused line.
        host_id: the host it is about.
        text: the report as template text (protocol/reports.py), or the sentence of a failure; "" for none.
        is_success: SUCCESS or FAILURE. A failed MONITOR puts the host into ERROR.
    """

    word: str
    host_id: int
    text: str = ""
    is_success: bool = True


class HostLog(Value, frozen=True, kw_only=True):
    """A line for OpenNebula's log; a host has no log of its own.

    Attributes:
        severity: I, W, E or D.
        text: the text.
        host_id: the host it is about, None for no particular one.
    """

    severity: Severity
    text: str
    host_id: int | None = None
