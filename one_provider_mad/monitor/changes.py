"""PURE: which VMs of a host are to be told of between two reports of all of them.

From 7.0.1 on OpenNebula is deaf to reports on a VM for 30 s after it was started or stopped, by an action or by a
report, and writes "Ignoring VM state update" into the VM's log for each (src/im/InformationManager.cc,
test_and_trigger). What a report of all VMs leaves out it hears all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from one_provider_mad.domain import VmId
from one_provider_mad.journal.records import Answered
from one_provider_mad.monitor.truth import SeenVm
from one_provider_mad.protocol.reports import VmState, VmWord

DEAF_SECONDS = 31.0
"""Seconds after which what was said is heard: 30 of OpenNebula's clock, which counts whole ones."""

_LEADS_TO = {
    "DEPLOY": VmWord.RUNNING,
    "RESTORE": VmWord.RUNNING,
    "MIGRATE": VmWord.RUNNING,
    "SHUTDOWN": VmWord.POWEROFF,
    "CANCEL": VmWord.POWEROFF,
    "SAVE": VmWord.SUSPENDED,
}
"""Actions that make OpenNebula deaf, and what their answer has told it."""


class Changes:
    """The VMs of one host whose state has changed, until they are heard of.

    A change is told at once, and again after half a minute for as long as no report of all VMs was heard: before that
    OpenNebula may have been deaf, or in the midst of something. What an answer has told is told when it is no longer
    deaf. FAILURE is told once, since each is a line in the VM's log: a report of all VMs then leaves the VM out.
    """

    def __init__(self) -> None:
        self._told: dict[VmId, VmWord] = {}
        self._said: dict[VmId, tuple[VmWord, float]] = {}  # each with the first time
        self._due: dict[VmId, float] = {}

    def see(self, vms: Iterable[SeenVm], answered: Mapping[VmId, Answered], *, now: float) -> tuple[VmState, ...]:
        """Take the present states, and return those that are to be told now.

        Args:
            vms: the VMs of the host.
            answered: by VM, the action that was answered last.
            now: seconds since the epoch.
        """
        current = {vm.state.vm_id: vm.state for vm in vms if vm.state.state is not VmWord.UNKNOWN}
        for vm_id, state in current.items():
            if self._told.get(vm_id) is not state.state:
                self._told[vm_id] = state.state
                self._due[vm_id] = _confirmed_until(answered.get(vm_id), state.state) or now
        # A clock that was set back makes nothing wait longer.
        due = [vm_id for vm_id, at in self._due.items() if vm_id in current and not now < at <= now + DEAF_SECONDS]
        for vm_id in due:
            self._say(vm_id, current[vm_id].state, answered, now=now)
        return tuple(current[vm_id] for vm_id in due)

    def all_told(self, vms: Iterable[SeenVm], answered: Mapping[VmId, Answered], *, now: float) -> None:
        """All of them have just been reported: what OpenNebula may have been deaf to is told once more.

        Args: as those of `see`.
        """
        before, due = self._told, self._due
        self._told, self._due = {}, {}
        for vm in vms:
            vm_id, word = vm.state.vm_id, vm.state.state
            if word is VmWord.UNKNOWN:
                continue
            self._told[vm_id] = word
            was = before.get(vm_id)
            if not vm.is_listed or (was is word and vm_id not in due):
                continue
            deaf_until = self._deaf_until(vm_id, answered)
            if now < deaf_until:
                self._due[vm_id] = deaf_until
            elif was is not None and was is not word:
                self._due[vm_id] = now + DEAF_SECONDS
        self._said = {vm_id: said for vm_id, said in self._said.items() if said[1] <= now < said[1] + DEAF_SECONDS}

    def _say(self, vm_id: VmId, word: VmWord, answered: Mapping[VmId, Answered], *, now: float) -> None:
        is_deaf = now < self._deaf_until(vm_id, answered)
        if word is VmWord.FAILURE and not is_deaf:
            del self._due[vm_id]
        else:
            self._due[vm_id] = now + DEAF_SECONDS
        # What is known already changes nothing there, nor makes it deaf.
        is_news = now >= _confirmed_until(answered.get(vm_id), word) + DEAF_SECONDS
        if is_news and (vm_id not in self._said or self._said[vm_id][0] is not word):
            self._said[vm_id] = word, now

    def _deaf_until(self, vm_id: VmId, answered: Mapping[VmId, Answered]) -> float:
        """When OpenNebula hears of the VM again, as far as that is known; 0 when it does."""
        last, (_, said_at) = answered.get(vm_id), self._said.get(vm_id, (None, 0.0))
        acted_at = last.at if last is not None and last.action in _LEADS_TO else 0.0
        return max(said_at, acted_at) + DEAF_SECONDS if said_at or acted_at else 0.0


def _confirmed_until(answered: Answered | None, word: VmWord) -> float:
    """Until when OpenNebula is deaf to what the answer has told it; 0 when there is none that has told this."""
    return answered.at + DEAF_SECONDS if answered is not None and _LEADS_TO.get(answered.action) is word else 0.0
