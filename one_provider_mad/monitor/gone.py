"""What oned up to 5.10 is told of VMs whose instances are gone: `e`, which makes them UNKNOWN.

A VM that a report leaves out is powered off there (src/im/MonitorThread.cc), and one that is powered off cannot be
recreated (src/dm/DispatchManagerActions.cc, delete_recreate); from UNKNOWN it can. Each `e` is a line in the VM's log,
so that it is said once, and rarely again: of a VM that is just being changed oned takes no notice.
"""

from __future__ import annotations

from collections.abc import Iterable

from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.monitor.truth import SeenVm
from one_provider_mad.protocol.reports import VmWord

AGAIN_SECONDS = 900.0
"""Seconds until it is said again of an instance that is still remembered."""

LOST, NO_NEWS = "e", "-"


class GoneVms:
    """The VMs of one host whose instances are gone, and when that was said of them."""

    def __init__(self) -> None:
        self._said: dict[tuple[VmId, DeployId], float] = {}

    def letters(self, vms: Iterable[SeenVm], *, now: float) -> dict[VmId, str]:
        """The letter of each VM whose instance is gone; none of those that `missing_state` powers off.

        Args:
            vms: all of the host.
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
