"""The meaning of a remote VM's STATE and LCM_STATE, for every pair of numbers (include/VirtualMachine.h).

The word is OpenNebula's own, so that POWEROFF, SUSPENDED, UNDEPLOYED and STOPPED stay apart for a reader.
"""

from __future__ import annotations

from functools import cache

from one_provider_mad.domain import InstanceState, Value

_PENDING, _RUNNING = InstanceState.PENDING, InstanceState.RUNNING
_STOPPING, _STOPPED = InstanceState.STOPPING, InstanceState.STOPPED
_SUSPENDING, _SUSPENDED = InstanceState.SUSPENDING, InstanceState.SUSPENDED
_TERMINATING, _TERMINATED = InstanceState.TERMINATING, InstanceState.TERMINATED
_UNKNOWN = InstanceState.UNKNOWN

ACTIVE = 3

STATES: dict[int, tuple[str, InstanceState]] = {
    0: ("INIT", _PENDING),
    1: ("PENDING", _PENDING),
    2: ("HOLD", _PENDING),
    3: ("ACTIVE", _PENDING),  # LCM_STATE says more
    4: ("STOPPED", _SUSPENDED),  # the memory is kept, as in SUSPENDED
    5: ("SUSPENDED", _SUSPENDED),
    6: ("DONE", _TERMINATED),
    7: ("FAILED", _UNKNOWN),  # up to 4.12
    8: ("POWEROFF", _STOPPED),
    9: ("UNDEPLOYED", _STOPPED),
    10: ("CLONING", _PENDING),
    11: ("CLONING_FAILURE", _UNKNOWN),
}

LCM_STATES: dict[int, tuple[str, InstanceState]] = {
    0: ("LCM_INIT", _PENDING),
    1: ("PROLOG", _PENDING),
    2: ("BOOT", _PENDING),
    3: ("RUNNING", _RUNNING),
    4: ("MIGRATE", _RUNNING),
    5: ("SAVE_STOP", _SUSPENDING),
    6: ("SAVE_SUSPEND", _SUSPENDING),
    7: ("SAVE_MIGRATE", _PENDING),  # a cold migration: it will run again
    8: ("PROLOG_MIGRATE", _PENDING),
    9: ("PROLOG_RESUME", _PENDING),
    10: ("EPILOG_STOP", _SUSPENDING),
    11: ("EPILOG", _TERMINATING),
    12: ("SHUTDOWN", _TERMINATING),
    13: ("CANCEL", _TERMINATING),
    14: ("FAILURE", _UNKNOWN),
    15: ("CLEANUP_RESUBMIT", _PENDING),
    16: ("UNKNOWN", _UNKNOWN),
    17: ("HOTPLUG", _RUNNING),
    18: ("SHUTDOWN_POWEROFF", _STOPPING),
    19: ("BOOT_UNKNOWN", _PENDING),
    20: ("BOOT_POWEROFF", _PENDING),
    21: ("BOOT_SUSPENDED", _PENDING),
    22: ("BOOT_STOPPED", _PENDING),
    23: ("CLEANUP_DELETE", _TERMINATING),
    24: ("HOTPLUG_SNAPSHOT", _RUNNING),
    25: ("HOTPLUG_NIC", _RUNNING),
    26: ("HOTPLUG_SAVEAS", _RUNNING),
    27: ("HOTPLUG_SAVEAS_POWEROFF", _STOPPED),
    28: ("HOTPLUG_SAVEAS_SUSPENDED", _SUSPENDED),
    29: ("SHUTDOWN_UNDEPLOY", _STOPPING),
    30: ("EPILOG_UNDEPLOY", _STOPPING),
    31: ("PROLOG_UNDEPLOY", _PENDING),
    32: ("BOOT_UNDEPLOY", _PENDING),
    33: ("HOTPLUG_PROLOG_POWEROFF", _STOPPED),
    34: ("HOTPLUG_EPILOG_POWEROFF", _STOPPED),
    35: ("BOOT_MIGRATE", _PENDING),
    36: ("BOOT_FAILURE", _UNKNOWN),
    37: ("BOOT_MIGRATE_FAILURE", _UNKNOWN),
    38: ("PROLOG_MIGRATE_FAILURE", _UNKNOWN),
    39: ("PROLOG_FAILURE", _UNKNOWN),
    40: ("EPILOG_FAILURE", _UNKNOWN),
    41: ("EPILOG_STOP_FAILURE", _UNKNOWN),
    42: ("EPILOG_UNDEPLOY_FAILURE", _UNKNOWN),
    43: ("PROLOG_MIGRATE_POWEROFF", _STOPPED),
    44: ("PROLOG_MIGRATE_POWEROFF_FAILURE", _UNKNOWN),
    45: ("PROLOG_MIGRATE_SUSPEND", _SUSPENDED),
    46: ("PROLOG_MIGRATE_SUSPEND_FAILURE", _UNKNOWN),
    47: ("BOOT_UNDEPLOY_FAILURE", _UNKNOWN),
    48: ("BOOT_STOPPED_FAILURE", _UNKNOWN),
    49: ("PROLOG_RESUME_FAILURE", _UNKNOWN),
    50: ("PROLOG_UNDEPLOY_FAILURE", _UNKNOWN),
    51: ("DISK_SNAPSHOT_POWEROFF", _STOPPED),
    52: ("DISK_SNAPSHOT_REVERT_POWEROFF", _STOPPED),
    53: ("DISK_SNAPSHOT_DELETE_POWEROFF", _STOPPED),
    54: ("DISK_SNAPSHOT_SUSPENDED", _SUSPENDED),
    55: ("DISK_SNAPSHOT_REVERT_SUSPENDED", _SUSPENDED),
    56: ("DISK_SNAPSHOT_DELETE_SUSPENDED", _SUSPENDED),
    57: ("DISK_SNAPSHOT", _RUNNING),
    58: ("DISK_SNAPSHOT_REVERT", _RUNNING),
    59: ("DISK_SNAPSHOT_DELETE", _RUNNING),
    60: ("PROLOG_MIGRATE_UNKNOWN", _PENDING),
    61: ("PROLOG_MIGRATE_UNKNOWN_FAILURE", _UNKNOWN),
    62: ("DISK_RESIZE", _RUNNING),
    63: ("DISK_RESIZE_POWEROFF", _STOPPED),
    64: ("DISK_RESIZE_UNDEPLOYED", _STOPPED),
    65: ("HOTPLUG_NIC_POWEROFF", _STOPPED),
    66: ("HOTPLUG_RESIZE", _RUNNING),
    67: ("HOTPLUG_SAVEAS_UNDEPLOYED", _STOPPED),
    68: ("HOTPLUG_SAVEAS_STOPPED", _SUSPENDED),
    69: ("BACKUP", _RUNNING),
    70: ("BACKUP_POWEROFF", _STOPPED),
    71: ("RESTORE", _STOPPED),
}

_AT_REST = frozenset({3, 16})
"""LCM states in which the remote accepts actions: RUNNING and UNKNOWN."""


class RemoteState(Value, frozen=True, kw_only=True):
    """A remote VM's state.

    Attributes:
        meaning: our state.
        word: OpenNebula's word; the number, if no known release has it.
        is_failure: the remote has given up until an administrator recovers the VM; its ERROR attribute has the reason.
        is_busy: a change is under way, and most actions are refused until it is over.
        is_known: this module knows the numbers.
    """

    meaning: InstanceState
    word: str
    is_failure: bool = False
    is_busy: bool = False
    is_known: bool = True


@cache
def read_state(state: int, lcm_state: int) -> RemoteState:
    """Return the meaning of the pair of numbers. LCM_STATE counts only while the VM is ACTIVE. Never raises."""
    found = (LCM_STATES.get(lcm_state) if state == ACTIVE else STATES.get(state)) or None
    if found is None:
        word = f"LCM_STATE {lcm_state}" if state == ACTIVE else f"STATE {state}"
        return RemoteState(meaning=_UNKNOWN, word=word, is_known=False)
    word, meaning = found
    is_failure = word in ("FAILED", "FAILURE") or word.endswith("_FAILURE")
    is_busy = state == ACTIVE and lcm_state not in _AT_REST and not is_failure
    return RemoteState(meaning=meaning, word=word, is_failure=is_failure, is_busy=is_busy)
