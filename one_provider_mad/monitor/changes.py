"""PURE: choose the VMs of a host to report between two reports of all VMs.

From 7.0.1 on OpenNebula is deaf for a while: for 30 s after a VM was started or stopped, by an action or by a report,
it ignores reports on it, and writes "Ignoring VM state update" into its log for each (src/im/InformationManager.cc,
test_and_trigger). A VM that a report of all VMs leaves out counts as missing all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from one_provider_mad.domain import VmId
from one_provider_mad.journal.records import Answered
from one_provider_mad.monitor.inference import SeenVm
from one_provider_mad.protocol.reports import VmState, VmWord

DEAF_SECONDS = 31.0
"""Seconds until OpenNebula takes reports again: 30 of its clock, which counts whole seconds."""

_LEADS_TO = {
    "DEPLOY": VmWord.RUNNING,
    "RESTORE": VmWord.RUNNING,
    "MIGRATE": VmWord.RUNNING,
    "SHUTDOWN": VmWord.POWEROFF,
    "CANCEL": VmWord.POWEROFF,
    "SAVE": VmWord.SUSPENDED,
}
"""Actions that make OpenNebula deaf, and the state that their answers set."""


class Changes:
    """Changed VM states of one host, until OpenNebula has taken them.

    A change is reported at once, and every half minute until a report of all VMs was taken: before that OpenNebula may
    have been deaf, or in the midst of something. A state that an answer has set is reported when it is no longer deaf.
    FAILURE is reported once, since each is a line in the VM's log: a report of all VMs then leaves the VM out.
    """

    def __init__(self) -> None:
        self._reported: dict[VmId, VmWord] = {}
        self._said: dict[VmId, tuple[VmWord, float]] = {}  # each with the first time
        self._due: dict[VmId, float] = {}

    def see(self, vms: Iterable[SeenVm], answered: Mapping[VmId, Answered], *, now: float) -> tuple[VmState, ...]:
        """Take the present states, and return those to report now.

        Args:
            vms: the VMs of the host.
            answered: by VM, the action that was answered last.
            now: seconds since the epoch.
        """
        current = {vm.state.vm_id: vm.state for vm in vms if vm.state.state is not VmWord.UNKNOWN}
        for vm_id, state in current.items():
            if self._reported.get(vm_id) is not state.state:
                self._reported[vm_id] = state.state
                self._due[vm_id] = _confirmed_until(answered.get(vm_id), state.state) or now
        # A clock that was set back delays nothing.
        due = [vm_id for vm_id, at in self._due.items() if vm_id in current and not now < at <= now + DEAF_SECONDS]
        for vm_id in due:
            self._say(vm_id, current[vm_id].state, answered, now=now)
        return tuple(current[vm_id] for vm_id in due)

    def all_reported(self, vms: Iterable[SeenVm], answered: Mapping[VmId, Answered], *, now: float) -> None:
        """Note a report of all VMs; states to which OpenNebula may have been deaf become due again.

        Args: as those of `see`.
        """
        before, due = self._reported, self._due
        self._reported, self._due = {}, {}
        for vm in vms:
            vm_id, word = vm.state.vm_id, vm.state.state
            if word is VmWord.UNKNOWN:
                continue
            self._reported[vm_id] = word
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
        # A state that OpenNebula has already changes nothing there, nor makes it deaf.
        is_news = now >= _confirmed_until(answered.get(vm_id), word) + DEAF_SECONDS
        if is_news and (vm_id not in self._said or self._said[vm_id][0] is not word):
            self._said[vm_id] = word, now

    def _deaf_until(self, vm_id: VmId, answered: Mapping[VmId, Answered]) -> float:
        """Return when OpenNebula takes reports on the VM again, as far as known; 0 when it does."""
        last, (_, said_at) = answered.get(vm_id), self._said.get(vm_id, (None, 0.0))
        acted_at = last.at if last is not None and last.action in _LEADS_TO else 0.0
        return max(said_at, acted_at) + DEAF_SECONDS if said_at or acted_at else 0.0


def _confirmed_until(answered: Answered | None, word: VmWord) -> float:
    """Return until when OpenNebula is deaf because the answer has set this state; 0 when it has not."""
    return answered.at + DEAF_SECONDS if answered is not None and _LEADS_TO.get(answered.action) is word else 0.0
