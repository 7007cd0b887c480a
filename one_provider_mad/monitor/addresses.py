"""Tells which VMs have other addresses than those last reported; calls nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from one_provider_mad.domain import VmId
from one_provider_mad.monitor.inference import InferredVm

SHOWN = (
    *("GUEST_IP", "GUEST_IP_ADDRESSES"),
    *("AWS_IP_ADDRESS", "AWS_PUBLIC_IP_ADDRESS", "AWS_PRIVATE_IP_ADDRESS", "AZ_IPADDRESS", "SL_PRIMARYIPADDRESS"),
)
"""Attributes of monitoring that Sunstone and FireEdge show as a VM's addresses: EXTERNAL_IP_ATTRS of 5.10's
src/sunstone/public/app/opennebula/vm.js and of 7.4's src/fireedge/src/modules/constants/vm.js."""


class Addresses:
    """Remembers the addresses of a host's VMs as they were last reported."""

    def __init__(self) -> None:
        self._reported: dict[VmId, tuple[str, ...]] = {}

    def changed(self, vms: Iterable[InferredVm]) -> frozenset[VmId]:
        """Return the VMs whose addresses differ from those last reported, and count them as reported.

        Args:
            vms: all VMs of the host; one that is left out is forgotten.
        """
        before = self._reported
        self._reported = {vm.state.vm_id: addresses_in(vm.instance.attributes) for vm in vms if vm.instance is not None}
        return frozenset(vm_id for vm_id, shown in self._reported.items() if before.get(vm_id, ()) != shown)


def addresses_in(attributes: Mapping[str, str]) -> tuple[str, ...]:
    """Return names and values of the addresses among these attributes, in a fixed order."""
    return tuple(f"{name}={value}" for name in SHOWN if (value := attributes.get(name)))
