"""The table `[idle]`: what counts as a VM that nobody uses, and what happens to it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(ge=0)]


class IdleSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """VMs that nobody uses. Only VMs with PROVIDER_IDLE, their own or their group's, are concerned."""

    action: Literal["off", "warn", "poweroff"] = "off"
    """`warn` writes a warning to the VM's log and PROVIDER_IDLE_WARNING into its attributes; `poweroff` also powers it
    off after the notice, through OpenNebula, where a stopped instance costs less than a running one; `off` does
    neither."""

    cpu: Annotated[float, Meta(ge=0)] = 5.0
    """Per cent of one core; a VM whose CPU is never above this counts as idle."""

    after: Seconds = 7200.0
    """Seconds for which a VM must be idle before it is warned; 0: CPU does not count."""

    lifetime: Seconds = 0.0
    """Seconds that a VM may run from its start; 0: any time."""

    notice: Seconds = 1800.0
    """Seconds from the warning to the power off; a lifetime is warned of so long before its end."""

    interval: Annotated[float, Meta(ge=1)] = 60.0
    """Seconds between two checks; each lists the running VMs of OpenNebula, and its groups, once."""
