"""Requests, replies and log lines of an action driver, as values; protocol/vmm.py converts them from and to lines."""

from __future__ import annotations

from enum import Enum

from one_provider_mad.domain import Value, VmId
from one_provider_mad.protocol.dialect import Dialect


class Action(Enum):
    """Every action of oned, in any release, for a virtualization driver (OpenNebula include/ProtocolMessages.h)."""

    DEPLOY = "DEPLOY"
    SHUTDOWN = "SHUTDOWN"
    CANCEL = "CANCEL"
    SAVE = "SAVE"
    RESTORE = "RESTORE"
    MIGRATE = "MIGRATE"
    REBOOT = "REBOOT"
    RESET = "RESET"
    POLL = "POLL"
    CLEANUP = "CLEANUP"
    DRIVER_CANCEL = "DRIVER_CANCEL"
    ATTACHDISK = "ATTACHDISK"
    DETACHDISK = "DETACHDISK"
    ATTACHNIC = "ATTACHNIC"
    DETACHNIC = "DETACHNIC"
    SNAPSHOTCREATE = "SNAPSHOTCREATE"
    SNAPSHOTREVERT = "SNAPSHOTREVERT"
    SNAPSHOTDELETE = "SNAPSHOTDELETE"
    DISKSNAPSHOTCREATE = "DISKSNAPSHOTCREATE"
    DISKSNAPSHOTREVERT = "DISKSNAPSHOTREVERT"
    RESIZE = "RESIZE"
    RESIZEDISK = "RESIZEDISK"
    UPDATECONF = "UPDATECONF"
    UPDATESG = "UPDATESG"
    UPDATENIC = "UPDATENIC"
    BACKUP = "BACKUP"
    BACKUPCANCEL = "BACKUPCANCEL"
    EXEC = "EXEC"
    EXEC_CANCEL = "EXEC_CANCEL"


class Control(Enum):
    """The two requests that are about the driver itself and not about a VM."""

    INIT = "INIT"
    FINALIZE = "FINALIZE"


class Severity(Enum):
    """First word of a LOG line; oned reads the single letter only."""

    INFO = "I"
    WARNING = "W"
    ERROR = "E"
    DEBUG = "D"


class Request(Value, frozen=True, kw_only=True):
    """One request of oned: an action of a VM. The payload is not decoded yet.

    Attributes:
        action: the action.
        vm_id: the VM's number (0 to 2147483647, oned's int).
        payload: base64 unchanged from the line, b"" for none.
        dialect: OpenNebula's releases, as the line's form shows.
    """

    action: Action
    vm_id: VmId
    payload: bytes
    dialect: Dialect


class Malformed(Value, frozen=True, kw_only=True):
    """A line that is no known request.

    Attributes:
        reason: the problem, in one sentence.
        word: the action's word in a form that fits into an answer (upper case, printable ASCII), "" for none.
        vm_id: the id when one could be read, else None.
        dialect: OpenNebula's releases, as the line's form shows; the later ones if it shows none.
    """

    reason: str
    word: str = ""
    vm_id: VmId | None = None
    dialect: Dialect = Dialect.SINCE_6_0


class Reply(Value, frozen=True, kw_only=True):
    """The one answer to a request.

    Attributes:
        word: the action's word, upper case.
        vm_id: the VM's number.
        is_success: SUCCESS or FAILURE.
        info: the text after the VM ID; any text becomes one clean line (protocol/vmm.py).
    """

    word: str
    vm_id: VmId
    is_success: bool
    info: str = "-"


class LogLine(Value, frozen=True, kw_only=True):
    """A line for oned's logs.

    Attributes:
        severity: I, W, E or D.
        text: the text.
        vm_id: number of the VM whose log gets the line, or None for oned's own log.
    """

    severity: Severity
    text: str
    vm_id: VmId | None = None
