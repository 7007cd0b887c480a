"""What the action driver is doing, as far as it matters to reports: read from its journal, which is never written."""

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
"""How far the times of a journal and of a listing may be off: both are of one machine, whose clock may be
adjusted meanwhile."""

DEAD_SECONDS = 10.0
"""How long the requests of a process that died still count as under way: oned starts it anew within a second or two,
and the new one answers them (decision 13)."""


class Activity(Value, frozen=True, kw_only=True):
    """What the action driver is doing and has done of late.

    Attributes:
        busy: VMs with an action under way.
        answered: by VM, the action that was answered last.
        attempts: young attempts to create.
        parked: instances of VMs that are on no host.
        owed: instances that are to be destroyed and could not be, yet.
        refusal: the latest create that was refused for want of room or by a limit.
    """

    busy: frozenset[VmId] = frozenset()
    answered: Mapping[VmId, Answered] = {}
    attempts: tuple[Attempt, ...] = ()
    parked: frozenset[DeployId] = frozenset()
    owed: frozenset[DeployId] = frozenset()
    refusal: Refusal | None = None

    def is_given_up(self, vm_id: VmId, deploy_id: DeployId) -> bool:
        """True when OpenNebula has taken the VM off this instance, which lives on: it ignores a CLEANUP that fails."""
        answered = self.answered.get(vm_id)
        return deploy_id in self.owed or (answered is not None and answered.action == "CLEANUP")

    def is_settled_since(self, vm_id: VmId, since: float) -> bool:
        """True when an action of this VM was answered then or later: what was seen before may be over."""
        answered = self.answered.get(vm_id)
        return answered is not None and answered.at >= since - SLACK_SECONDS

    def is_ended(self, vm_id: VmId, *, since: float, slack: float = SLACK_SECONDS) -> bool:
        """True when the action that was answered then or later has ended the instance."""
        answered = self.answered.get(vm_id)
        return answered is not None and answered.has_ended and answered.at >= since - slack

    @staticmethod
    def is_since(attempt: Attempt, since: float) -> bool:
        """True when the attempt was sent, or answered, then or later."""
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
        """What is being done now.

        Args:
            path: the journal; when there is none, nothing is being done.
            since: attempts that were over before, in seconds since the epoch, are left out.

        Raises:
            JournalError: it is there and cannot be read, so that nobody can tell.
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
        """What is done and asked, where the clock was set back since: from the future, it would be new for as long.

        The latest of it has happened by the time it is seen first, and the rest so much earlier as it was; that stays.
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
