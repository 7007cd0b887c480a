"""Decides which VM states of a host to report between two reports of all VMs; calls nothing.

From 7.0.1 on OpenNebula is deaf to reports on a VM for 30 s after the VM was started or stopped, by an action or by a
report: it ignores them, and writes "Ignoring VM state update" into its log for each (src/im/InformationManager.cc,
test_and_trigger). A VM that a report of all VMs leaves out counts as missing all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

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


class _Sent(msgspec.Struct, frozen=True, kw_only=True):
    """The report of a state that made OpenNebula deaf to further ones."""

    word: VmWord
    at: float
    """Seconds since the epoch."""
    is_perhaps_ignored: bool
    """OpenNebula may have been deaf to it already; then the next report of the state makes it deaf."""


class Changes:
    """Remembers the changed VM states of one host until OpenNebula has certainly taken them.

    A change is reported at once, and every half minute until a report of all VMs: OpenNebula may be deaf, or changing
    the VM just then. A state that an action's answer has set is reported when OpenNebula is no longer deaf, and so is a
    state that the VM had before the action and has again: its user may have started the instance in the same second.
    FAILURE is reported once, since each is a line in the VM's log: a report of all VMs then leaves the VM out.
    """

    def __init__(self) -> None:
        self._reported: dict[VmId, VmWord] = {}
        self._sent: dict[VmId, _Sent] = {}
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
            elif now < (overruled_until := _overruled_until(answered.get(vm_id), state.state)):
                self._due.setdefault(vm_id, overruled_until)
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
            is_overruled = now < _overruled_until(answered.get(vm_id), word)
            if not vm.is_listed or (was is word and vm_id not in due and not is_overruled):
                continue
            deaf_until, is_changed = self._deaf_until(vm_id, answered), was is not None and was is not word
            if now < deaf_until:
                self._due[vm_id] = deaf_until
            elif is_changed:
                self._due[vm_id] = now + DEAF_SECONDS
            if is_changed or vm_id in due:
                self._note_sent(vm_id, word, answered, now=now, is_deaf=now < deaf_until)
        self._sent = {vm_id: said for vm_id, said in self._sent.items() if said.at <= now < said.at + DEAF_SECONDS}

    def _note_report(self, vm_id: VmId, word: VmWord, answered: Mapping[VmId, Answered], *, now: float) -> None:
        is_deaf = now < self._deaf_until(vm_id, answered)
        if word is VmWord.FAILURE and not is_deaf:
            del self._due[vm_id]
        else:
            self._due[vm_id] = now + DEAF_SECONDS
        self._note_sent(vm_id, word, answered, now=now, is_deaf=is_deaf)

    def _note_sent(
        self, vm_id: VmId, word: VmWord, answered: Mapping[VmId, Answered], *, now: float, is_deaf: bool
    ) -> None:
        last, sent = answered.get(vm_id), self._sent.get(vm_id)
        if now < _confirmed_until(last, word) + DEAF_SECONDS:
            return  # reporting a state that the VM has in OpenNebula already does not make OpenNebula deaf
        is_overtaken = sent is not None and last is not None and sent.at < last.at
        if sent is None or sent.word is not word or sent.is_perhaps_ignored or is_overtaken:
            self._sent[vm_id] = _Sent(word=word, at=now, is_perhaps_ignored=is_deaf)

    def _deaf_until(self, vm_id: VmId, answered: Mapping[VmId, Answered]) -> float:
        """Return until when OpenNebula is deaf to reports on the VM, in seconds since the epoch; 0 if it is not."""
        last, sent = answered.get(vm_id), self._sent.get(vm_id)
        said_at = sent.at if sent is not None else 0.0
        acted_at = last.at if last is not None and last.action in _LEADS_TO else 0.0
        return max(said_at, acted_at) + DEAF_SECONDS if said_at or acted_at else 0.0


def _confirmed_until(answered: Answered | None, word: VmWord) -> float:
    """Return until when OpenNebula is deaf because the answered action gave the VM this state; 0 if it did not."""
    return answered.at + DEAF_SECONDS if answered is not None and _LEADS_TO.get(answered.action) is word else 0.0


def _overruled_until(answered: Answered | None, word: VmWord) -> float:
    """Return until when OpenNebula is deaf because the answered action gave the VM another state; 0 if it did not."""
    led_to = _LEADS_TO.get(answered.action) if answered is not None else None
    return answered.at + DEAF_SECONDS if answered is not None and led_to not in (None, word) else 0.0
