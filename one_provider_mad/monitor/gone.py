"""Choose the state letter of VMs whose instances are gone, for oned up to 5.10: `e`, which makes a VM UNKNOWN.

There a VM that a report leaves out is powered off (src/im/MonitorThread.cc), and a VM in POWEROFF cannot be recreated
(src/dm/DispatchManagerActions.cc, delete_recreate), while one in UNKNOWN can. Each `e` is a line in the VM's log, so it
is sent once, and rarely again: oned ignores it while an action changes the VM.
"""

from __future__ import annotations

from collections.abc import Iterable

from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.monitor.inference import InferredVm
from one_provider_mad.protocol.reports import VmWord

AGAIN_SECONDS = 900.0
"""Seconds until `e` is sent once more for a VM whose instance is still gone."""

LOST, NO_NEWS = "e", "-"


class GoneVms:
    """The VMs of one host whose instances are gone, and when `e` was last sent for each."""

    def __init__(self) -> None:
        self._said: dict[tuple[VmId, DeployId], float] = {}

    def letters(self, vms: Iterable[InferredVm], *, now: float) -> dict[VmId, str]:
        """Return the state letter of each VM whose instance is gone: `e` when due, else `-`.

        VMs that the setting `missing_state` powers off are left out.

        Args:
            vms: every VM of the host.
            now: seconds that never go backwards.
        """
        gone = [vm.state for vm in vms if not vm.is_listed and vm.state.state is VmWord.FAILURE]
        said, self._said = self._said, {}
        letters: dict[VmId, str] = {}
        for state in gone:
            key = (state.vm_id, state.deploy_id)
            said_at = said.get(key)
            is_due = said_at is None or now - said_at >= AGAIN_SECONDS
            self._said[key] = now if said_at is None or is_due else said_at
            letters[state.vm_id] = LOST if is_due else NO_NEWS
        return letters
