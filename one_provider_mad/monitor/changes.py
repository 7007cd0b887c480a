"""PURE: which VMs of a host are to be told of between two reports of all of them."""

from __future__ import annotations

from collections.abc import Iterable

from one_provider_mad.domain import VmId
from one_provider_mad.monitor.truth import SeenVm
from one_provider_mad.protocol.reports import VmState, VmWord


class Changes:
    """The VMs of one host whose state has changed since all of them were reported.

    A change is told again and again until then: OpenNebula from 7.0.1 on is deaf for the first 30 s after a VM was
    started or stopped (src/im/InformationManager.cc), and before it just as well may be in the midst of something.
    """

    def __init__(self) -> None:
        self._told: dict[VmId, VmWord] = {}
        self._changed: set[VmId] = set()

    def see(self, vms: Iterable[SeenVm]) -> tuple[VmState, ...]:
        """Take the present states, and return those that are to be told now."""
        current = {vm.state.vm_id: vm.state for vm in vms if vm.state.state is not VmWord.UNKNOWN}
        for vm_id, state in current.items():
            if self._told.get(vm_id) is not state.state:
                self._told[vm_id] = state.state
                self._changed.add(vm_id)
        return tuple(state for vm_id, state in current.items() if vm_id in self._changed)

    def all_told(self, vms: Iterable[SeenVm]) -> None:
        """All of them have just been reported."""
        self._told = {vm.state.vm_id: vm.state.state for vm in vms if vm.state.state is not VmWord.UNKNOWN}
        self._changed.clear()
