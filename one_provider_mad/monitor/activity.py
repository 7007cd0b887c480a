"""Read what the action driver is doing, or did of late, from its journal; reports depend on it. Never writes there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from one_provider_mad.domain import DeployId, Value, VmId
from one_provider_mad.journal.reader import read_outline
from one_provider_mad.journal.records import Answered, Attempt, AttemptState, Outline, Refusal, Shortage
from one_provider_mad.processes import Process

SLACK_SECONDS = 0.25
"""Seconds by which a time in the journal may precede a listing's and still count as the later one: both come from one
clock, which may be adjusted in between."""

DEAD_SECONDS = 10.0
"""Seconds for which a dead action driver's open requests still count as under way: oned starts the driver anew within a
second or two, and the new process answers them. After that their VMs are reported as if there were no action."""


class Activity(Value, frozen=True, kw_only=True):
    """What the action driver is doing, and has done lately.

    Attributes:
        busy: VMs with an action that is not answered yet.
        answered: the last answered action of each VM.
        attempts: recent calls to create an instance (glossary: attempt).
        parked: stopped instances whose VM is undeployed or stopped, so that it is on no host.
        with_debt: instances with a pending termination (glossary: debt).
        refusal: the latest create that was refused for lack of capacity or by a limit.
        shortages: the kinds of instances that were refused, and not created since.
        caution: why all this may be incomplete; "" when it is not.
    """

    busy: frozenset[VmId] = frozenset()
    answered: Mapping[VmId, Answered] = {}
    attempts: tuple[Attempt, ...] = ()
    parked: frozenset[DeployId] = frozenset()
    with_debt: frozenset[DeployId] = frozenset()
    refusal: Refusal | None = None
    shortages: tuple[Shortage, ...] = ()
    caution: str = ""

    def is_given_up(self, vm_id: VmId, deploy_id: DeployId) -> bool:
        """True when OpenNebula no longer counts this instance as the VM's.

        That is: the instance has a debt, or the VM's last action was a CLEANUP, whose failure oned ignores.
        """
        answered = self.answered.get(vm_id)
        return deploy_id in self.with_debt or (answered is not None and answered.action == "CLEANUP")

    def is_answered_since(self, vm_id: VmId, since: float) -> bool:
        """True when the VM's last action was answered after `since`: a listing from before that may be outdated."""
        answered = self.answered.get(vm_id)
        return answered is not None and answered.at >= since - SLACK_SECONDS

    def has_ended_since(self, vm_id: VmId, *, since: float, slack: float = SLACK_SECONDS) -> bool:
        """True when the VM's last action was answered after `since`, and ended its instance (terminated it, say)."""
        answered = self.answered.get(vm_id)
        return answered is not None and answered.has_ended and answered.at >= since - slack

    @staticmethod
    def is_sent_or_answered_since(attempt: Attempt, since: float) -> bool:
        """True when this create is open or succeeded, and was sent or answered after `since`."""
        latest = max(attempt.sent_at, attempt.answered_at)
        return attempt.state in (AttemptState.OPEN, AttemptState.CREATED) and latest >= since - SLACK_SECONDS


class ActivityReader:
    """Reads the action driver's journal, as often as reports need it.

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
        """Return what the action driver does at present, and did since `since`.

        Args:
            path: the journal; without one there is no activity.
            since: creates that ended earlier are left out; seconds since the epoch.

        Raises:
            JournalError: the journal exists and cannot be read, so the activity is unknown.
        """
        outline = await asyncio.to_thread(read_outline, path, since=since - SLACK_SECONDS)
        answered, attempts = self._without_future(outline)
        return Activity(
            busy=self._busy(outline),
            answered=answered,
            attempts=attempts,
            parked=outline.parked,
            with_debt=outline.owed,
            refusal=outline.refusal,
            shortages=outline.shortages,
            caution=outline.caution,
        )

    def _without_future(self, outline: Outline) -> tuple[Mapping[VmId, Answered], tuple[Attempt, ...]]:
        """Return answers and creates; times from before the clock was set back, which seem future, become past ones.

        A future time would count as recent until the clock reaches it. When future times are first read, the latest of
        them becomes the present time, and the others stay as many seconds before it as they were.
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
