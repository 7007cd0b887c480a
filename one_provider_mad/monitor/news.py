"""Tells which VMs have news to report at once: other addresses, or an interruption; calls nothing."""

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

INTERRUPTIONS = ("AWS_SPOT_INTERRUPTION", "AWS_SPOT_INTERRUPTION_SINCE", "SIM_INTERRUPTION", "SIM_INTERRUPTION_SINCE")
"""Attributes of a VM whose instance its cloud takes back within minutes, or has taken back."""


class News:
    """Remembers addresses and interruptions of a host's VMs as they were last reported."""

    def __init__(self) -> None:
        self._reported: dict[VmId, tuple[str, ...]] = {}

    def changed(self, vms: Iterable[InferredVm]) -> frozenset[VmId]:
        """Return the VMs whose news differ from those last reported, and count them as reported.

        Args:
            vms: all VMs of the host; one that is left out is forgotten.
        """
        before = self._reported
        self._reported = {vm.state.vm_id: news_in(vm.instance.attributes) for vm in vms if vm.instance is not None}
        return frozenset(vm_id for vm_id, shown in self._reported.items() if before.get(vm_id, ()) != shown)


def news_in(attributes: Mapping[str, str]) -> tuple[str, ...]:
    """Return names and values of what is reported at once among these attributes, in a fixed order."""
    return tuple(f"{name}={value}" for name in (*SHOWN, *INTERRUPTIONS) if (value := attributes.get(name)))


def last_words(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that a VM keeps when its instance has ended: how its cloud took it back."""
    return {name: attributes[name] for name in INTERRUPTIONS if name in attributes}
