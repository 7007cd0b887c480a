"""Derive the intent of DEPLOY, SHUTDOWN, CANCEL, SAVE and RESTORE from the VM's LCM_STATE (decision 9).

The numbers are OpenNebula's (include/VirtualMachine.h, LcmState). A state outside the table is refused: a person can
repair an action that was refused, but not a VM that was terminated instead of stopped.
"""

from __future__ import annotations

from enum import Enum

from one_provider_mad.errors import RequestRefused
from one_provider_mad.protocol.messages import Action


class Intent(Enum):
    """What an action does to the VM's instance."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    STOP_HARD = "stop at once"
    PARK = "stop, and leave the host"
    PARK_HARD = "stop at once, and leave the host"
    SUSPEND = "suspend"
    DESTROY = "destroy"


_NAMES = """
LCM_INIT PROLOG BOOT RUNNING MIGRATE SAVE_STOP SAVE_SUSPEND SAVE_MIGRATE PROLOG_MIGRATE PROLOG_RESUME
EPILOG_STOP EPILOG SHUTDOWN CANCEL FAILURE CLEANUP_RESUBMIT UNKNOWN HOTPLUG SHUTDOWN_POWEROFF
BOOT_UNKNOWN BOOT_POWEROFF BOOT_SUSPENDED BOOT_STOPPED CLEANUP_DELETE HOTPLUG_SNAPSHOT HOTPLUG_NIC
HOTPLUG_SAVEAS HOTPLUG_SAVEAS_POWEROFF HOTPLUG_SAVEAS_SUSPENDED SHUTDOWN_UNDEPLOY EPILOG_UNDEPLOY
PROLOG_UNDEPLOY BOOT_UNDEPLOY HOTPLUG_PROLOG_POWEROFF HOTPLUG_EPILOG_POWEROFF BOOT_MIGRATE BOOT_FAILURE
BOOT_MIGRATE_FAILURE PROLOG_MIGRATE_FAILURE PROLOG_FAILURE EPILOG_FAILURE EPILOG_STOP_FAILURE
EPILOG_UNDEPLOY_FAILURE PROLOG_MIGRATE_POWEROFF PROLOG_MIGRATE_POWEROFF_FAILURE PROLOG_MIGRATE_SUSPEND
PROLOG_MIGRATE_SUSPEND_FAILURE BOOT_UNDEPLOY_FAILURE BOOT_STOPPED_FAILURE PROLOG_RESUME_FAILURE
PROLOG_UNDEPLOY_FAILURE DISK_SNAPSHOT_POWEROFF DISK_SNAPSHOT_REVERT_POWEROFF
DISK_SNAPSHOT_DELETE_POWEROFF DISK_SNAPSHOT_SUSPENDED DISK_SNAPSHOT_REVERT_SUSPENDED
DISK_SNAPSHOT_DELETE_SUSPENDED DISK_SNAPSHOT DISK_SNAPSHOT_REVERT DISK_SNAPSHOT_DELETE
PROLOG_MIGRATE_UNKNOWN PROLOG_MIGRATE_UNKNOWN_FAILURE DISK_RESIZE DISK_RESIZE_POWEROFF
DISK_RESIZE_UNDEPLOYED HOTPLUG_NIC_POWEROFF HOTPLUG_RESIZE HOTPLUG_SAVEAS_UNDEPLOYED
HOTPLUG_SAVEAS_STOPPED BACKUP BACKUP_POWEROFF RESTORE
"""

LCM_STATES: dict[int, str] = dict(enumerate(_NAMES.split()))
"""Number to name, 4.4 to 7.4. Numbers never change their meaning between releases."""

_STATES_OF = {name: number for number, name in LCM_STATES.items()}


def _table(rows: dict[Intent, str]) -> dict[int, Intent]:
    return {_STATES_OF[name]: intent for intent, names in rows.items() for name in names.split()}


INTENTS: dict[Action, dict[int, Intent]] = {
    Action.DEPLOY: _table(
        {
            Intent.CREATE: "BOOT BOOT_FAILURE",
            # 4.4 re-sends DEPLOY for the last three; later releases send RESTORE for them.
            Intent.START: "BOOT_UNKNOWN BOOT_POWEROFF BOOT_UNDEPLOY BOOT_SUSPENDED BOOT_STOPPED BOOT_MIGRATE",
        }
    ),
    Action.RESTORE: _table({Intent.START: "BOOT_SUSPENDED BOOT_STOPPED BOOT_MIGRATE BOOT_UNDEPLOY"}),
    Action.SHUTDOWN: _table(
        {Intent.DESTROY: "SHUTDOWN", Intent.STOP: "SHUTDOWN_POWEROFF", Intent.PARK: "SHUTDOWN_UNDEPLOY"}
    ),
    Action.CANCEL: _table(
        {
            Intent.DESTROY: "SHUTDOWN CANCEL",
            # Also sent by `recover --retry` of a soft power off: it never means terminate here.
            Intent.STOP_HARD: "SHUTDOWN_POWEROFF",
            Intent.PARK_HARD: "SHUTDOWN_UNDEPLOY",
        }
    ),
    Action.SAVE: _table({Intent.SUSPEND: "SAVE_SUSPEND", Intent.PARK: "SAVE_STOP"}),
}
"""Intent by action and LCM_STATE. Every pair that is absent is refused."""

_MIGRATIONS = frozenset(_STATES_OF[name] for name in ("SAVE_MIGRATE", "MIGRATE"))


def intent_of(action: Action, lcm_state: int | None, *, has_deploy_id: bool) -> Intent:
    """Return the intent of an action in this state.

    Args:
        action: one of the keys of INTENTS, or CLEANUP.
        lcm_state: VM/LCM_STATE of the request, None without one.
        has_deploy_id: the request names an instance.

    Raises:
        RequestRefused: the state is absent or unknown, or no intent of this action is known for it.
    """
    if action is Action.CLEANUP:
        return Intent.DESTROY
    if lcm_state is None:
        if action is Action.DEPLOY and not has_deploy_id:
            return Intent.CREATE
        raise RequestRefused(f"the request has no LCM_STATE, and without it {action.value} has no certain meaning")
    intent = INTENTS[action].get(lcm_state)
    if intent is not None:
        return intent
    if lcm_state in _MIGRATIONS:
        raise migration_refused()
    name = LCM_STATES.get(lcm_state, "unknown")
    raise RequestRefused(f"{action.value} has no meaning in LCM_STATE {lcm_state} ({name}), nothing was done")


def migration_refused() -> RequestRefused:
    """Return the error that answers every request of a migration."""
    return RequestRefused("migration is not supported: use onevm undeploy and deploy, within one cloud")


_AWAITED = {
    _STATES_OF[name]: action
    for action, names in {
        Action.DEPLOY: "BOOT BOOT_UNKNOWN BOOT_POWEROFF BOOT_UNDEPLOY BOOT_MIGRATE",
        Action.RESTORE: "BOOT_SUSPENDED BOOT_STOPPED",
        Action.SHUTDOWN: "SHUTDOWN SHUTDOWN_POWEROFF SHUTDOWN_UNDEPLOY",
        Action.CANCEL: "CANCEL",
        Action.SAVE: "SAVE_STOP SAVE_SUSPEND SAVE_MIGRATE",
        Action.MIGRATE: "MIGRATE",
        Action.CLEANUP: "CLEANUP_RESUBMIT CLEANUP_DELETE",
        Action.DISKSNAPSHOTCREATE: "DISK_SNAPSHOT",
        Action.DISKSNAPSHOTREVERT: "DISK_SNAPSHOT_REVERT",
        Action.RESIZEDISK: "DISK_RESIZE",
        Action.RESIZE: "HOTPLUG_RESIZE",
        Action.BACKUP: "BACKUP",
    }.items()
    for name in names.split()
}
"""The action whose answer oned awaits, by LCM_STATE; oned treats the answers of SHUTDOWN and CANCEL alike."""

_AWAITED_BY_HISTORY = {
    21: Action.ATTACHDISK,
    22: Action.DETACHDISK,
    23: Action.ATTACHNIC,
    24: Action.DETACHNIC,
    37: Action.SNAPSHOTCREATE,
    38: Action.SNAPSHOTDELETE,
    39: Action.SNAPSHOTREVERT,
    46: Action.ATTACHNIC,
    47: Action.DETACHNIC,
}
"""The awaited action by the history record's ACTION (include/VMActions.h), for states that actions share."""

_SHARED_STATES = frozenset(_STATES_OF[name] for name in ("HOTPLUG", "HOTPLUG_NIC", "HOTPLUG_SNAPSHOT"))


def awaited_action(lcm_state: int, closed_by: int) -> Action | None:
    """Return the action whose answer oned awaits for a VM in this state; None for no action or an unknown one.

    Args:
        lcm_state: VM/LCM_STATE of a VM that is ACTIVE.
        closed_by: ACTION of the history record before the last one, which a device action closes
            (src/dm/DispatchManagerActions.cc, close_cp_history); 0 for none.
    """
    if lcm_state in _SHARED_STATES:
        return _AWAITED_BY_HISTORY.get(closed_by)
    return _AWAITED.get(lcm_state)


def may_wait(lcm_state: int) -> bool:
    """True for an LCM_STATE in which oned may wait for an answer of the VM's virtualization driver."""
    return lcm_state in _AWAITED or lcm_state in _SHARED_STATES


def is_awaited(action: Action, lcm_state: int) -> bool:
    """True when oned may wait for this action's answer in this state."""
    if lcm_state in _SHARED_STATES:
        return action in _AWAITED_BY_HISTORY.values() or action in (Action.UPDATECONF, Action.UPDATENIC)
    awaited = _AWAITED.get(lcm_state)
    return awaited is not None and (action is awaited or {action, awaited} <= _ENDS or {action, awaited} <= _STARTS)


_ENDS = frozenset({Action.SHUTDOWN, Action.CANCEL})
_STARTS = frozenset({Action.DEPLOY, Action.RESTORE})


def is_end(action: Action, lcm_state: int | None) -> bool:
    """True when this action, once it has succeeded, has destroyed the VM's instance."""
    return action is Action.CLEANUP or INTENTS.get(action, {}).get(lcm_state or 0) is Intent.DESTROY
