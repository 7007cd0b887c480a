"""VMs as oned keeps them: what a person asks of one, what a reply does to it, and what a report does (5.12 to 6.10).

By OpenNebula's src/im/InformationManager.cc (_vm_state), src/lcm/LifeCycleStates.cc and LifeCycleActions.cc. Of 7.0.1
one thing is left out on purpose: it is deaf for 30 s after a VM was started or stopped, which hides a false report.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tests.end_to_end import wire


class Wait(NamedTuple):
    """A state in which a VM waits: the actions whose answer ends it, how it ends, and what `recover --retry` sends."""

    answers: tuple[str, ...]
    done: str
    failed: str
    retry: str


_BOOTS = ("DEPLOY", "RESTORE")
_STOPS = ("SHUTDOWN", "CANCEL")

WAITS = {
    "BOOT": Wait(_BOOTS, "RUNNING", "BOOT_FAILURE", "DEPLOY"),
    "BOOT_POWEROFF": Wait(_BOOTS, "RUNNING", "POWEROFF", "DEPLOY"),
    "BOOT_UNKNOWN": Wait(_BOOTS, "RUNNING", "UNKNOWN", "DEPLOY"),
    "BOOT_UNDEPLOY": Wait(_BOOTS, "RUNNING", "BOOT_UNDEPLOY_FAILURE", "RESTORE"),
    "BOOT_SUSPENDED": Wait(_BOOTS, "RUNNING", "SUSPENDED", "RESTORE"),
    "BOOT_STOPPED": Wait(_BOOTS, "RUNNING", "BOOT_STOPPED_FAILURE", "RESTORE"),
    "SHUTDOWN": Wait(_STOPS, "DONE", "RUNNING", "SHUTDOWN"),
    "SHUTDOWN_POWEROFF": Wait(_STOPS, "POWEROFF", "RUNNING", "CANCEL"),
    "SHUTDOWN_UNDEPLOY": Wait(_STOPS, "UNDEPLOYED", "RUNNING", "CANCEL"),
    "SAVE_SUSPEND": Wait(("SAVE",), "SUSPENDED", "RUNNING", "SAVE"),
    "SAVE_STOP": Wait(("SAVE",), "STOPPED", "RUNNING", "SAVE"),
    "CLEANUP_RESUBMIT": Wait(("CLEANUP",), "PENDING", "PENDING", "CLEANUP"),
}


class Deed(NamedTuple):
    """What a person (or the scheduler) does to a VM: the action it sends, and the state in which the VM then waits."""

    action: str
    state: str
    begins_anew: bool = False
    """A new history record: SEQ grows."""


DEEDS = {
    "deploy": Deed("DEPLOY", "BOOT", begins_anew=True),
    "retry": Deed("DEPLOY", "BOOT"),
    "poweroff": Deed("SHUTDOWN", "SHUTDOWN_POWEROFF"),
    "poweroff --hard": Deed("CANCEL", "SHUTDOWN_POWEROFF"),
    "resume from poweroff": Deed("DEPLOY", "BOOT_POWEROFF", begins_anew=True),
    "resume from unknown": Deed("DEPLOY", "BOOT_UNKNOWN"),
    "undeploy": Deed("SHUTDOWN", "SHUTDOWN_UNDEPLOY"),
    "deploy again": Deed("DEPLOY", "BOOT_UNDEPLOY", begins_anew=True),
    "retry to deploy again": Deed("RESTORE", "BOOT_UNDEPLOY"),
    "suspend": Deed("SAVE", "SAVE_SUSPEND"),
    "resume": Deed("RESTORE", "BOOT_SUSPENDED", begins_anew=True),
    "stop": Deed("SAVE", "SAVE_STOP"),
    "resume from stopped": Deed("RESTORE", "BOOT_STOPPED", begins_anew=True),
    "retry to resume": Deed("RESTORE", "BOOT_STOPPED"),
    "reboot": Deed("REBOOT", ""),
    "terminate": Deed("SHUTDOWN", "SHUTDOWN"),
    "recreate": Deed("CLEANUP", "CLEANUP_RESUBMIT"),
}

CHOICES: dict[str, dict[str, int]] = {
    "PENDING": {"deploy": 1},
    "BOOT_FAILURE": {"retry": 4, "recreate": 1},
    "BOOT_UNDEPLOY_FAILURE": {"retry to deploy again": 1},
    "BOOT_STOPPED_FAILURE": {"retry to resume": 1},
    "RUNNING": {
        "poweroff": 6, "poweroff --hard": 2, "undeploy": 3, "suspend": 2, "stop": 2, "reboot": 3, "terminate": 2,
        "recreate": 2,
    },
    "POWEROFF": {"resume from poweroff": 9, "recreate": 1},
    "SUSPENDED": {"resume": 9, "recreate": 1},
    "UNDEPLOYED": {"deploy again": 1},
    "STOPPED": {"resume from stopped": 1},
    "UNKNOWN": {"recreate": 4, "resume from unknown": 1, "terminate": 1},
}  # fmt: skip
"""What a person may do in each state, and how likely it is."""

_NOT_ON_HOST = ("PENDING", "UNDEPLOYED", "STOPPED", "DONE", "CLEANUP_RESUBMIT")
"""The host's own list of VMs has no such ones: a report that names one makes it a zombie."""

UNREAD = 1.5
"""Seconds in which a driver has read what was written to it, so that the other one can know of it."""

_JUST = 1.0
"""Seconds in which the journal surely learns that something was answered."""

_SHUTDOWNS = ("SHUTDOWN", "SHUTDOWN_POWEROFF", "SHUTDOWN_UNDEPLOY")


def after_report(state: str, word: str) -> str:
    """The state in which a report leaves a VM."""
    match word:
        case "RUNNING" if state in ("POWEROFF", "SUSPENDED", "UNKNOWN") or state.startswith("BOOT"):
            return "RUNNING"
        case "POWEROFF" if state in _SHUTDOWNS:
            return WAITS[state].done
        case "POWEROFF" | "SUSPENDED" if state in ("RUNNING", "UNKNOWN"):
            return word
        case "FAILURE" if state == "RUNNING":
            return "UNKNOWN"
    return state


def after_absence(state: str, missing_state: str) -> str:
    """The state in which a report of all VMs leaves one that it does not name."""
    if missing_state == "UNKNOWN":
        return "UNKNOWN" if state == "RUNNING" else state
    return after_report(state, "POWEROFF")


class CoreVm:
    """One VM.

    Args:
        number: its number.
        host_id: the host on which it is deployed each time.

    Attributes:
        state: LCM_STATE by name, or STATE where it is not ACTIVE.
        asked_at: when something was last asked of the driver.
        replied_at: when the driver last answered.
        asked: actions that were asked and not answered.
        is_perhaps_lost: what was asked last was written to a process that may have been killed before it read it.
        perhaps: actions that may be answered or not: called off, or sent to a process that was killed.
    """

    def __init__(self, number: int, *, host_id: int = 3) -> None:
        self.number = number
        self.host_id = host_id
        self.state = "PENDING"
        self.deploy_id = ""
        self.seq = -1
        self.asked_at = 0.0
        self.replied_at = 0.0
        self.asked: Counter[str] = Counter()
        self.perhaps: Counter[str] = Counter()
        self.is_perhaps_lost = False
        self._answered_at: dict[str, float] = {}

    @property
    def is_waiting(self) -> bool:
        """Its state is left by an answer."""
        return self.state in WAITS

    @property
    def is_on_host(self) -> bool:
        return self.state not in _NOT_ON_HOST

    def do(self, name: str) -> Iterator[bytes]:
        """Do one of DEEDS to it: the lines that oned writes."""
        deed = DEEDS[name]
        self.seq += deed.begins_anew
        has_instance = self.state in ("POWEROFF", "SUSPENDED")
        self.state = deed.state or self.state
        if deed.action == "CLEANUP":
            yield from self._clean(is_calling_off=not has_instance)
        else:
            yield self._line(deed.action, deed.state)

    def recover(self) -> Iterator[bytes]:
        """`onevm recover --retry` while it waits: `--recreate` where there is no such thing."""
        retry = WAITS[self.state].retry
        if retry == "CLEANUP":
            yield from self._clean(is_calling_off=True)
        else:
            yield self._line(retry, self.state)

    def _clean(self, *, is_calling_off: bool) -> Iterator[bytes]:
        if is_calling_off:
            self.doubt()
            yield wire.driver_cancel(self.number)
        yield self._line("CLEANUP", "CLEANUP_RESUBMIT")

    def _line(self, action: str, lcm_state: str) -> bytes:
        if lcm_state:
            self.doubt()  # it is answered for what is still open (decision 6), unless that was answered meanwhile
        self.asked[action] += 1
        self.is_perhaps_lost = False
        self.asked_at = time.time()
        return wire.line(
            action,
            self.number,
            lcm_state or "RUNNING",
            deploy_id=self.deploy_id,
            seq=self.seq,
            host_id=self.host_id,
        )

    def doubt(self) -> None:
        """Whoever was asked is dead, or the asking was called off: an answer may have been on its way."""
        self.perhaps += self.asked
        self.asked.clear()

    def lose_driver(self, ready_at: float) -> None:
        """The driver was killed: it may not have read what was asked last, nor noted what it has answered.

        Args:
            ready_at: since when it had read anything, 0 for never.
        """
        self.doubt()
        self.is_perhaps_lost |= not ready_at or time.time() - max(self.asked_at, ready_at) < UNREAD
        self.perhaps += Counter(action for action, at in self._answered_at.items() if time.time() - at < _JUST)

    def reply(self, action: str, info: str, *, is_success: bool) -> bool:
        """Take a reply; False when nobody has asked for it."""
        is_asked = bool(self.asked[action] or self.perhaps[action])
        (self.asked if self.asked[action] else self.perhaps)[action] -= 1
        self.replied_at = self._answered_at[action] = time.time()
        if action == "DEPLOY" and is_success and self.state not in ("PENDING", "DONE"):
            self.deploy_id = info.split(" ", 1)[0]
        wait = WAITS.get(self.state)
        if wait is not None and action in wait.answers:
            self.state = wait.done if is_success else wait.failed
        if self.state == "PENDING":
            self.deploy_id = ""
        return is_asked
