"""Decides which VM states of a host to report between two reports of all VMs; calls nothing.

From 7.0.1 on OpenNebula is deaf to reports on a VM for 30 s after the VM was started or stopped, by an action or by a
report: it ignores them, and writes "Ignoring VM state update" into its log for each (src/im/InformationManager.cc,
test_and_trigger). A VM that a report of all VMs leaves out counts as missing all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from one_provider_mad.domain import VmId
from one_provider_mad.journal.records import Answered
from one_provider_mad.monitor.inference import InferredVm
from one_provider_mad.protocol.reports import VmState, VmWord

DEAF_SECONDS = 31.0
"""Seconds after a VM was started or stopped until OpenNebula takes reports on the VM again: 30, and one since its clock
counts whole seconds."""

_LEADS_TO = {
    "DEPLOY": VmWord.RUNNING,
    "RESTORE": VmWord.RUNNING,
    "MIGRATE": VmWord.RUNNING,
    "SHUTDOWN": VmWord.POWEROFF,
    "CANCEL": VmWord.POWEROFF,
    "SAVE": VmWord.SUSPENDED,
}
"""Actions after which OpenNebula is deaf to reports on the VM, and the state that the successful action gives the
VM."""


class Changes:
    """Remembers the changed VM states of one host until OpenNebula has certainly taken them.

    A change is reported at once, and every half minute until a report of all VMs: OpenNebula may be deaf, or changing
    the VM just then. A state that an action's answer has set is reported when OpenNebula is no longer deaf.
    FAILURE is reported once, since each is a line in the VM's log: a report of all VMs then leaves the VM out.
    """

    def __init__(self) -> None:
        self._reported: dict[VmId, VmWord] = {}
        self._sent: dict[VmId, tuple[VmWord, float]] = {}  # with the time of the state's first report
        self._due: dict[VmId, float] = {}

    def states_to_report(
        self, vms: Iterable[InferredVm], answered: Mapping[VmId, Answered], *, now: float
    ) -> tuple[VmState, ...]:
        """Take the present states of all VMs, and return those to report now.

        Args:
            vms: the VMs of the host.
            answered: the last answered action of each VM.
            now: seconds since the epoch.
        """
        current = {vm.state.vm_id: vm.state for vm in vms if vm.state.state is not VmWord.UNKNOWN}
        for vm_id, state in current.items():
            if self._reported.get(vm_id) is not state.state:
                self._reported[vm_id] = state.state
                self._due[vm_id] = _confirmed_until(answered.get(vm_id), state.state) or now
        # A due time further ahead than that comes from before the clock was set back.
        due = [vm_id for vm_id, at in self._due.items() if vm_id in current and not now < at <= now + DEAF_SECONDS]
        for vm_id in due:
            self._note_report(vm_id, current[vm_id].state, answered, now=now)
        return tuple(current[vm_id] for vm_id in due)

    def note_full_report(self, vms: Iterable[InferredVm], answered: Mapping[VmId, Answered], *, now: float) -> None:
        """Note that all VMs are being reported; a state that OpenNebula may have been deaf to becomes due again.

        Args: as those of `states_to_report`.
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
        self._sent = {vm_id: said for vm_id, said in self._sent.items() if said[1] <= now < said[1] + DEAF_SECONDS}

    def _note_report(self, vm_id: VmId, word: VmWord, answered: Mapping[VmId, Answered], *, now: float) -> None:
        is_deaf = now < self._deaf_until(vm_id, answered)
        if word is VmWord.FAILURE and not is_deaf:
            del self._due[vm_id]
        else:
            self._due[vm_id] = now + DEAF_SECONDS
        # Reporting a state that the VM has in OpenNebula already does not make OpenNebula deaf.
        is_news = now >= _confirmed_until(answered.get(vm_id), word) + DEAF_SECONDS
        if is_news and (vm_id not in self._sent or self._sent[vm_id][0] is not word):
            self._sent[vm_id] = word, now

    def _deaf_until(self, vm_id: VmId, answered: Mapping[VmId, Answered]) -> float:
        """Return until when OpenNebula is deaf to reports on the VM, in seconds since the epoch; 0 if it is not."""
        last, (_, said_at) = answered.get(vm_id), self._sent.get(vm_id, (None, 0.0))
        acted_at = last.at if last is not None and last.action in _LEADS_TO else 0.0
        return max(said_at, acted_at) + DEAF_SECONDS if said_at or acted_at else 0.0


def _confirmed_until(answered: Answered | None, word: VmWord) -> float:
    """Return until when OpenNebula is deaf because the answered action gave the VM this state; 0 if it did not."""
    return answered.at + DEAF_SECONDS if answered is not None and _LEADS_TO.get(answered.action) is word else 0.0
