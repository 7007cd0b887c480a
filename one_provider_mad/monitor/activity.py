"""Read from the action driver's journal, which is never written here, the activity that reports depend on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from one_provider_mad.domain import DeployId, Value, VmId
from one_provider_mad.journal.reader import read_outline
from one_provider_mad.journal.records import Answered, Attempt, AttemptState, Outline, Refusal
from one_provider_mad.processes import Process

SLACK_SECONDS = 0.25
"""Tolerance between the times of a journal and of a listing: both are of one machine, whose clock may be adjusted in
between."""

DEAD_SECONDS = 10.0
"""How long open requests of a dead process count as under way: oned starts it anew within a second or two, and the
new process answers them (decision 13)."""


class Activity(Value, frozen=True, kw_only=True):
    """Present and recent activity of the action driver.

    Attributes:
        busy: VMs with an open action.
        answered: by VM, the action that was answered last.
        attempts: recent attempts to create.
        parked: instances of VMs that are on no host.
        owed: instances with a debt.
        refusal: the latest create that was refused for lack of capacity or by a limit.
    """

    busy: frozenset[VmId] = frozenset()
    answered: Mapping[VmId, Answered] = {}
    attempts: tuple[Attempt, ...] = ()
    parked: frozenset[DeployId] = frozenset()
    owed: frozenset[DeployId] = frozenset()
    refusal: Refusal | None = None

    def is_given_up(self, vm_id: VmId, deploy_id: DeployId) -> bool:
        """True when OpenNebula has taken the VM off this live instance: it ignores a failed CLEANUP."""
        answered = self.answered.get(vm_id)
        return deploy_id in self.owed or (answered is not None and answered.action == "CLEANUP")

    def is_settled_since(self, vm_id: VmId, since: float) -> bool:
        """True when an action of this VM was answered since then: an earlier listing may be outdated."""
        answered = self.answered.get(vm_id)
        return answered is not None and answered.at >= since - SLACK_SECONDS

    def is_ended(self, vm_id: VmId, *, since: float, slack: float = SLACK_SECONDS) -> bool:
        """True when an action that was answered since then has ended the instance."""
        answered = self.answered.get(vm_id)
        return answered is not None and answered.has_ended and answered.at >= since - slack

    @staticmethod
    def is_since(attempt: Attempt, since: float) -> bool:
        """True when the attempt was sent or answered since then."""
        latest = max(attempt.sent_at, attempt.answered_at)
        return attempt.state in (AttemptState.OPEN, AttemptState.CREATED) and latest >= since - SLACK_SECONDS


class ActivityReader:
    """Reads the journal of the action driver.

    Args:
        monotonic: seconds that never go backwards.
        clock: seconds since the epoch.
    """

    def __init__(self, monotonic: Callable[[], float], clock: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._clock = clock
        self._dead: dict[Process, float] = {}
        self._future: dict[float, float] = {}

    async def read(self, path: Path, *, since: float) -> Activity:
        """Return the present activity.

        Args:
            path: the journal; without one there is no activity.
            since: attempts that ended earlier, in seconds since the epoch, are left out.

        Raises:
            JournalError: it exists and cannot be read, so the activity is unknown.
        """
        outline = await asyncio.to_thread(read_outline, path, since=since - SLACK_SECONDS)
        answered, attempts = self._without_future(outline)
        return Activity(
            busy=self._busy(outline),
            answered=answered,
            attempts=attempts,
            parked=outline.parked,
            owed=outline.owed,
            refusal=outline.refusal,
        )

    def _without_future(self, outline: Outline) -> tuple[Mapping[VmId, Answered], tuple[Attempt, ...]]:
        """Return answers and attempts with times from the future, after the clock was set back, moved to the past.

        A time from the future would count as recent until the clock gets there. The latest of them is taken for the
        time at which it is first seen, and the others keep their distance to it.
        """
        now, before = self._clock(), self._future
        times = [answered.at for answered in outline.answered.values()]
        times += [moment for attempt in outline.attempts for moment in (attempt.sent_at, attempt.answered_at)]
        ahead = max((at for at in times if at not in before), default=now) - now
        self._future = {at: before.get(at, at - ahead) for at in times if at in before or at > now + SLACK_SECONDS}
        if not self._future:
            return outline.answered, outline.attempts
        past = self._future
        return (
            {
                vm_id: msgspec.structs.replace(each, at=past.get(each.at, each.at))
                for vm_id, each in outline.answered.items()
            },
            tuple(
                msgspec.structs.replace(
                    each,
                    sent_at=past.get(each.sent_at, each.sent_at),
                    answered_at=past.get(each.answered_at, each.answered_at),
                )
                for each in outline.attempts
            ),
        )

    def _busy(self, outline: Outline) -> frozenset[VmId]:
        now = self._monotonic()
        self._dead = {process: self._dead.get(process, now) for process in outline.unanswered if not process.is_alive()}
        return frozenset(
            vm_id
            for process, vms in outline.unanswered.items()
            if process not in self._dead or now - self._dead[process] < DEAD_SECONDS
            for vm_id in vms
        )
