"""The state of VMs as oned keeps it: how user operations, replies and reports change it (5.12 to 6.10).

By OpenNebula's src/im/InformationManager.cc (_vm_state), src/lcm/LifeCycleStates.cc and LifeCycleActions.cc. One thing
of 7.0.1 is left out on purpose: it ignores reports for 30 s after a VM started or stopped, which hides false ones.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tests.end_to_end import oned_requests


class Wait(NamedTuple):
    """A state that waits for a reply: actions, next states after success and failure, action of `recover --retry`."""

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


class Operation(NamedTuple):
    """A user operation (or the scheduler's): the action that oned sends, and the state in which the VM then waits."""

    action: str
    state: str
    has_new_record: bool = False
    """A new history record: SEQ grows."""


OPERATIONS = {
    "deploy": Operation("DEPLOY", "BOOT", has_new_record=True),
    "retry": Operation("DEPLOY", "BOOT"),
    "poweroff": Operation("SHUTDOWN", "SHUTDOWN_POWEROFF"),
    "poweroff --hard": Operation("CANCEL", "SHUTDOWN_POWEROFF"),
    "resume from poweroff": Operation("DEPLOY", "BOOT_POWEROFF", has_new_record=True),
    "resume from unknown": Operation("DEPLOY", "BOOT_UNKNOWN"),
    "undeploy": Operation("SHUTDOWN", "SHUTDOWN_UNDEPLOY"),
    "deploy again": Operation("DEPLOY", "BOOT_UNDEPLOY", has_new_record=True),
    "retry to deploy again": Operation("RESTORE", "BOOT_UNDEPLOY"),
    "suspend": Operation("SAVE", "SAVE_SUSPEND"),
    "resume": Operation("RESTORE", "BOOT_SUSPENDED", has_new_record=True),
    "stop": Operation("SAVE", "SAVE_STOP"),
    "resume from stopped": Operation("RESTORE", "BOOT_STOPPED", has_new_record=True),
    "retry to resume": Operation("RESTORE", "BOOT_STOPPED"),
    "reboot": Operation("REBOOT", ""),
    "terminate": Operation("SHUTDOWN", "SHUTDOWN"),
    "recreate": Operation("CLEANUP", "CLEANUP_RESUBMIT"),
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
"""Operations that a user may choose in each state, with their weights."""

_NOT_ON_HOST = ("PENDING", "UNDEPLOYED", "STOPPED", "DONE", "CLEANUP_RESUBMIT")
"""States in which a VM is not on its host: a report that names it makes it a zombie."""

UNREAD = 1.5
"""Seconds within which a driver has read a request, so that the other driver can find it in the journal."""

_JUST = 1.0
"""Seconds within which the journal certainly records a reply."""

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
    """The state of a VM after a report of all VMs that lacks it."""
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
        asked_at: when the last request was sent to the driver.
        replied_at: when the driver last answered.
        asked: number of unanswered requests by action.
        is_perhaps_lost: the last request was written to a process that may have been killed before it read it.
        perhaps: number of requests that may or may not be answered, by action: cancelled ones, and ones that were sent
            to a process that was killed.
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
        """True in a state that a reply ends."""
        return self.state in WAITS

    @property
    def is_on_host(self) -> bool:
        return self.state not in _NOT_ON_HOST

    def do(self, name: str) -> Iterator[bytes]:
        """Carry out one of OPERATIONS: yields the lines that oned writes."""
        operation = OPERATIONS[name]
        self.seq += operation.has_new_record
        has_instance = self.state in ("POWEROFF", "SUSPENDED")
        self.state = operation.state or self.state
        if operation.action == "CLEANUP":
            yield from self._clean(is_cancelling=not has_instance)
        else:
            yield self._line(operation.action, operation.state)

    def recover(self) -> Iterator[bytes]:
        """`onevm recover --retry` while it waits; `--recreate` in a state without a retry."""
        retry = WAITS[self.state].retry
        if retry == "CLEANUP":
            yield from self._clean(is_cancelling=True)
        else:
            yield self._line(retry, self.state)

    def _clean(self, *, is_cancelling: bool) -> Iterator[bytes]:
        if is_cancelling:
            self.doubt()
            yield oned_requests.driver_cancel(self.number)
        yield self._line("CLEANUP", "CLEANUP_RESUBMIT")

    def _line(self, action: str, lcm_state: str) -> bytes:
        if lcm_state:
            self.doubt()  # an open request is not answered once a newer one comes (decision 6)
        self.asked[action] += 1
        self.is_perhaps_lost = False
        self.asked_at = time.time()
        return oned_requests.line(
            action,
            self.number,
            lcm_state or "RUNNING",
            deploy_id=self.deploy_id,
            seq=self.seq,
            host_id=self.host_id,
        )

    def doubt(self) -> None:
        """The process that read the requests was killed, or they were cancelled: their replies may come or not."""
        self.perhaps += self.asked
        self.asked.clear()

    def lose_driver(self, ready_at: float) -> None:
        """The driver was killed: it may not have read the last request, nor recorded its last reply.

        Args:
            ready_at: when it answered INIT, 0 if it did not.
        """
        self.doubt()
        self.is_perhaps_lost |= not ready_at or time.time() - max(self.asked_at, ready_at) < UNREAD
        self.perhaps += Counter(action for action, at in self._answered_at.items() if time.time() - at < _JUST)

    def reply(self, action: str, info: str, *, is_success: bool) -> bool:
        """Take a reply; False if no request for it is open."""
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
