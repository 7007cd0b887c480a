"""Follows VMs through replies and reports, and compares each reported state with the true state in the cloud."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping

from one_provider_mad.domain import InstanceState
from tests.end_to_end.cloud_states import GONE, CloudStates
from tests.end_to_end.core_vms import UNREAD, CoreVm, after_absence, after_report
from tests.monitor.decoder import Values, read_modern, vectors

STALE = 3.0
"""Seconds for which a report may be behind the cloud: a late listing, and the next one."""

MEANINGS = {
    "RUNNING": frozenset({InstanceState.RUNNING}),
    "POWEROFF": frozenset({InstanceState.STOPPED}),
    "SUSPENDED": frozenset({InstanceState.SUSPENDED}),
    "FAILURE": GONE,
}
"""The states of an instance in which a reported state of its VM is true."""


class ReportChecker:
    """Reads reports, applies them to OpenNebula's VMs, and notes false ones.

    Args:
        title: of every story.
        vms: OpenNebula's VMs; reports change them.
        truth: the cloud.
        missing_state: the state that is reported for missing instances.

    Attributes:
        errors: everything that must not happen and did, each with the VM's story.
        counts: number of events by kind.
        ready_at: since when the action driver reads, 0 while none does.
        synced: the states of the last report of all VMs, by number.
        is_monitored: there was such a report.
    """

    def __init__(self, title: str, vms: Mapping[int, CoreVm], *, states: CloudStates, missing_state: str) -> None:
        self._title = title
        self._vms = vms
        self._states = states
        self._missing_state = missing_state
        self._begun = time.time()
        self._stories: dict[int, list[tuple[float, str]]] = {}
        self._news: list[tuple[float, str]] = []
        self._said: dict[int, str] = {}
        self._stamps: dict[str, int] = {}
        self.errors: list[str] = []
        self.counts: Counter[str] = Counter()
        self.ready_at = 0.0
        self.synced: dict[int, str] = {}
        self.is_monitored = False

    # Stories of failures

    def note(self, vm_id: int | None, what: str) -> None:
        """Record an event of a VM, or of all of them."""
        (self._news if vm_id is None else self._stories.setdefault(vm_id, [])).append((time.time(), what))

    def story(self, vm_id: int) -> str:
        """The events of a VM and of all VMs up to now, as text."""
        events = sorted([*self._stories.get(vm_id, []), *self._news])[-60:]
        lines = "\n".join(f"  {at - self._begun:7.3f}  {what}" for at, what in events)
        return f"{self._title}, VM {vm_id}, {time.time() - self._begun:.3f} s after the beginning:\n{lines}"

    def accuse(self, vm_id: int, what: str) -> None:
        """Record an error with the VM's story."""
        self.note(vm_id, f"WRONG: {what}")
        self.errors.append(f"{what}\n{self.story(vm_id)}")

    # Reports

    def take(self, lines: Iterable[str]) -> None:
        """Take lines of the information driver."""
        for text in lines:
            word, _, _, stamp, _ = text.split(" ", 4)
            if int(stamp) < self._stamps.get(word, 0):
                self.accuse(-1, f"the time goes backwards: {text}")
            self._stamps[word] = int(stamp)
            self.counts[f"{word} read"] += 1
            if word == "STATE_VM":
                self._take_states(read_modern(f"{text}\n".encode()).values)

    def _take_states(self, values: Values) -> None:
        reported = {int(vm["ID"]): (vm["STATE"], vm["DEPLOY_ID"]) for vm in vectors(values, "VM")}
        for number, (word, deploy_id) in reported.items():
            if number not in self._vms:
                self.accuse(number, "there is no such VM")
            elif self._vms[number].is_on_host:
                self._take_word(self._vms[number], word, deploy_id)
        if "SYNC_STATE" not in values:
            return
        self.synced = {number: word for number, (word, _) in reported.items()}
        self.is_monitored = True
        self.counts["reports of all VMs"] += 1
        for vm in self._vms.values():
            if vm.is_on_host and vm.number not in reported:
                self._take_absence(vm, str(values["MISSING_STATE"][0]))

    def _take_word(self, vm: CoreVm, word: str, deploy_id: str) -> None:
        after = after_report(vm.state, word)
        if self._said.get(vm.number) != word or after != vm.state:
            self._said[vm.number] = word
            self.note(vm.number, f"report: {word}; {vm.state} -> {after}")
        if not vm.is_waiting and vm.deploy_id not in ("", deploy_id):
            self._judge_id(vm, word, deploy_id)
        if word != "UNKNOWN":
            self._judge(vm, word, deploy_id, after)
        if after != vm.state:
            self.counts["VMs moved by a report"] += 1
            vm.state, vm.deploy_id = after, deploy_id

    def _judge_id(self, vm: CoreVm, word: str, deploy_id: str) -> None:
        """Up to 6.10 a reported id replaces the stored one in every state: so it has to be the VM's."""
        if self._states.live(vm.number) == [deploy_id]:
            self.counts["ids corrected by a report"] += 1
            vm.deploy_id = deploy_id
        else:
            self.accuse(vm.number, f"{word} of {deploy_id}, the VM's instance is {vm.deploy_id}")

    def _take_absence(self, vm: CoreVm, missing_state: str) -> None:
        after = after_absence(vm.state, missing_state)
        if self._said.get(vm.number) != "left out" or after != vm.state:
            self._said[vm.number] = "left out"
            self.note(vm.number, f"report: left out; {vm.state} -> {after}")
        is_parked = vm.state.startswith(("BOOT_UNDEPLOY", "BOOT_STOPPED"))
        if vm.deploy_id and not is_parked:
            self._judge(vm, "FAILURE", vm.deploy_id, after)
        if after != vm.state:
            self.counts["VMs moved by being left out"] += 1
            vm.state = after

    def _judge(self, vm: CoreVm, word: str, deploy_id: str, after: str) -> None:
        """Compare a reported state with the true states of the instance since the last reply, and within STALE."""
        now = time.time()
        since = max(now - STALE, vm.replied_at)
        had = self._states.states(deploy_id, since)
        wanted = MEANINGS[word] | (GONE if word == self._missing_state else frozenset())
        if not had & wanted:
            names = " or ".join(sorted(state.value for state in had)) or "nowhere"
            self.accuse(vm.number, f"false {word} in {vm.state}: {deploy_id} was {names}")
        elif vm.is_waiting and after != vm.state:
            # A state from before the request may be reported while the request is on its way: it is not read yet.
            is_unread = vm.is_perhaps_lost or not self.ready_at or now - max(vm.asked_at, self.ready_at) < UNREAD
            if is_unread and self._states.states(deploy_id, since, vm.asked_at) & wanted:
                self.counts["true reports that crossed a request"] += 1
            else:
                self.accuse(vm.number, f"early {word} in {vm.state}")
