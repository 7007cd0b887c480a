"""Reads a VM again right before it is powered off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from one_provider_mad.domain import VmId
from one_provider_mad.idle.rules import Machine
from one_provider_mad.protocol.messages import Severity


class OpenNebula(Protocol):
    """What is asked of the local OpenNebula (idle/core.py)."""

    async def open(self) -> None:
        """Read the credentials. Raises SettingsError where there are none."""

    async def may_act(self) -> bool:
        """True when this front-end has no peers, or leads them."""

    async def release(self) -> tuple[int, ...]:
        """Return the release of OpenNebula as numbers."""

    async def running(self, name: str, /) -> Mapping[VmId, Machine]:
        """Return the running VMs of a driver, by ID."""

    async def machine(self, vm_id: VmId, name: str, /) -> Machine | None:
        """Return a VM of a driver if it runs."""

    async def power_off(self, vm_id: VmId, /) -> None:
        """Ask OpenNebula to power off a VM."""


class OperatorLog(Protocol):
    """Writes a line to the log of a VM."""

    def __call__(self, severity: Severity, text: str, vm_id: VmId | None = None, /) -> None:
        """Write a line."""


async def confirmed(
    opennebula: OpenNebula, listed: Machine, *, name: str, is_busy: Callable[[VmId], bool]
) -> Machine | None:
    """Return a VM as it is now, if it runs the instance that was listed, no action of it is open, and this one leads.

    Args:
        opennebula: the local OpenNebula.
        listed: the VM as it was listed.
        name: NAME, the driver of the VM.
        is_busy: true while an action of a VM is open.

    Raises:
        ProviderError: OpenNebula did not answer.
    """
    if is_busy(listed.vm_id):
        return None
    latest = await opennebula.machine(listed.vm_id, name)
    if latest is None or (latest.stime, latest.deploy_id) != (listed.stime, listed.deploy_id):
        return None
    is_free = await opennebula.may_act() and not is_busy(listed.vm_id)
    return latest if is_free else None
