"""Tables of actions and releases: which releases send an action, with which LCM_STATE, for which part of a VM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from one_provider_mad.actions.intents import LCM_STATES
from one_provider_mad.domain import Value

Release = Literal["4.4", "5.10", "7.4"]
"""A release for each form of the document: 4.4 stands for 4.x, 5.10 for 5.x, 7.4 for 6.x and 7.x."""

RELEASES: tuple[Release, ...] = get_args(Release)
_OLD: tuple[Release, ...] = ("4.4", "5.10")
_MIDDLE: tuple[Release, ...] = ("5.10", "7.4")
_NEW: tuple[Release, ...] = ("7.4",)

CONTROLS = ("INIT", "FINALIZE")
"""Requests of one word, without a VM."""

LCM_NUMBERS: Mapping[str, int] = {name: number for number, name in LCM_STATES.items()}
"""The number of each LCM_STATE, by name."""

ACTIVE, DONE = 3, 6
"""The values of VM/STATE in requests."""


class Verb(Value, frozen=True, kw_only=True):
    """Properties of one action.

    Attributes:
        lcm_state: name of its most frequent LCM_STATE.
        operand: the vector of the VM's template that the action is about, "" for none.
        flag: the key that is YES in that vector, so that the driver finds it.
        key: the key that has that vector's number.
        fields: names of operands that are not vectors.
        releases: the releases that send it.
    """

    lcm_state: str
    operand: str = ""
    flag: str = ""
    key: str = ""
    fields: tuple[str, ...] = ()
    releases: tuple[Release, ...] = RELEASES


def _disk(lcm_state: str, flag: str, releases: tuple[Release, ...]) -> Verb:
    return Verb(lcm_state=lcm_state, operand="DISK", flag=flag, key="DISK_ID", releases=releases)


_NIC = Verb(lcm_state="HOTPLUG_NIC", operand="NIC", flag="ATTACH", key="NIC_ID")
_SNAPSHOT = Verb(lcm_state="HOTPLUG_SNAPSHOT", operand="SNAPSHOT", flag="ACTIVE", key="SNAPSHOT_ID")

VERBS: Mapping[str, Verb] = {
    "DEPLOY": Verb(lcm_state="BOOT"),
    "SHUTDOWN": Verb(lcm_state="SHUTDOWN"),
    "CANCEL": Verb(lcm_state="SHUTDOWN"),
    "SAVE": Verb(lcm_state="SAVE_SUSPEND"),
    "RESTORE": Verb(lcm_state="BOOT_SUSPENDED"),
    "MIGRATE": Verb(lcm_state="MIGRATE", fields=("MIGR_HOST",)),
    "REBOOT": Verb(lcm_state="RUNNING"),
    "RESET": Verb(lcm_state="RUNNING"),
    "POLL": Verb(lcm_state="RUNNING", releases=_OLD),
    "CLEANUP": Verb(lcm_state="CLEANUP_DELETE", fields=("MIGR_HOST",)),
    "DRIVER_CANCEL": Verb(lcm_state="LCM_INIT"),
    "ATTACHDISK": _disk("HOTPLUG", "ATTACH", RELEASES),
    "DETACHDISK": _disk("HOTPLUG", "ATTACH", RELEASES),
    "ATTACHNIC": _NIC,
    "DETACHNIC": _NIC,
    "SNAPSHOTCREATE": _SNAPSHOT,
    "SNAPSHOTREVERT": _SNAPSHOT,
    "SNAPSHOTDELETE": _SNAPSHOT,
    "DISKSNAPSHOTCREATE": _disk("DISK_SNAPSHOT", "DISK_SNAPSHOT_ACTIVE", _MIDDLE),
    "DISKSNAPSHOTREVERT": _disk("DISK_SNAPSHOT_REVERT", "DISK_SNAPSHOT_ACTIVE", ()),  # only 4.14 sent it
    "RESIZE": Verb(lcm_state="HOTPLUG_RESIZE", fields=("CPU", "VCPU", "MEMORY"), releases=_NEW),
    "RESIZEDISK": _disk("DISK_RESIZE", "RESIZE", _MIDDLE),
    "UPDATECONF": Verb(lcm_state="HOTPLUG", operand="CONTEXT", releases=_MIDDLE),
    "UPDATESG": Verb(lcm_state="RUNNING", fields=("SECURITY_GROUP_ID",), releases=_MIDDLE),
    "UPDATENIC": Verb(lcm_state="RUNNING", fields=("VIRTUAL_NETWORK_ID",), releases=_NEW),
    "BACKUP": Verb(lcm_state="BACKUP", operand="BACKUP_CONFIG", releases=_NEW),
    "BACKUPCANCEL": Verb(lcm_state="BACKUP", releases=_NEW),
    "EXEC": Verb(lcm_state="RUNNING", operand="QEMU_GA_EXEC", releases=_NEW),
    "EXEC_CANCEL": Verb(lcm_state="RUNNING", operand="QEMU_GA_EXEC", releases=_NEW),
}
"""The properties of each action."""


class Era(Value, frozen=True, kw_only=True):
    """Values in the document that differ between releases.

    Attributes:
        datastores: the parent directory of deployment files.
        datastore_id: number of the system datastore of a VM on a cloud's host.
        tm_mad: the transfer driver of that datastore.
        cluster_id: number of the host's cluster.
        hard_cancel: LCM_STATE while a terminate --hard is carried out.
        terminate: number in the history for terminate; terminate --hard has the next number.
    """

    datastores: str
    datastore_id: int
    tm_mad: str
    cluster_id: int
    hard_cancel: str
    terminate: int


ERAS: Mapping[Release, Era] = {
    "4.4": Era(
        datastores="/var/lib/one//datastores",
        datastore_id=-1,
        tm_mad="",
        cluster_id=-1,
        hard_cancel="CANCEL",
        terminate=3,
    ),
    "5.10": Era(
        datastores="/var/lib/one/datastores",
        datastore_id=-1,
        tm_mad="",
        cluster_id=0,
        hard_cancel="SHUTDOWN",
        terminate=27,
    ),
    "7.4": Era(
        datastores="/var/lib/one/datastores",
        datastore_id=0,
        tm_mad="dummy",
        cluster_id=0,
        hard_cancel="SHUTDOWN",
        terminate=27,
    ),
}


def taken_as(release: tuple[int, ...]) -> Release:
    """Return the one of RELEASES whose form of the document a release sends."""
    return "4.4" if release < (5,) else "5.10" if release < (6,) else "7.4"


def default_lcm_state(action: str, release: Release) -> int:
    """Return the most frequent LCM_STATE of an action; RUNNING for an unknown action."""
    if action == "CANCEL":
        return LCM_NUMBERS[ERAS[release].hard_cancel]
    return LCM_NUMBERS[VERBS[action].lcm_state if action in VERBS else "RUNNING"]


def latest_release(action: str) -> Release:
    """Return the newest release that sends an action, 7.4 when none does."""
    verb = VERBS.get(action)
    return verb.releases[-1] if verb is not None and verb.releases else RELEASES[-1]


_HISTORY: Mapping[tuple[str, str], int] = {
    ("SHUTDOWN", "SHUTDOWN_POWEROFF"): 19,
    ("CANCEL", "SHUTDOWN_POWEROFF"): 20,
    ("SHUTDOWN", "SHUTDOWN_UNDEPLOY"): 5,
    ("CANCEL", "SHUTDOWN_UNDEPLOY"): 6,
    ("SAVE", "SAVE_STOP"): 9,
    ("SAVE", "SAVE_SUSPEND"): 10,
    ("RESTORE", "BOOT_SUSPENDED"): 11,
    ("RESTORE", "BOOT_STOPPED"): 11,
    ("DEPLOY", "BOOT_POWEROFF"): 11,
    ("DEPLOY", "BOOT_UNDEPLOY"): 11,
    ("DEPLOY", "BOOT_UNKNOWN"): 11,
}


def history_action(action: str, lcm_state: int, release: Release) -> int:
    """Return the user's operation as in the history (OpenNebula include/History.h, VMAction); 0 for none."""
    state = LCM_STATES.get(lcm_state, "")
    if action in ("SHUTDOWN", "CANCEL") and state in ("SHUTDOWN", "CANCEL"):
        return ERAS[release].terminate + (action == "CANCEL")
    return _HISTORY.get((action, state), 0)
