"""The CPU_COST, MEMORY_COST and DISK_COST with which OpenNebula's showback shows what a VM of one type costs.

For each hour `oneshowback calculate` adds CPU_COST * CPU, MEMORY_COST * MEMORY, and DISK_COST * the sizes of the DISKs
in MB (OpenNebula src/vm/VirtualMachinePool.cc, calculate_showback). It reads them from the VM's TEMPLATE, which has
them from its creation on, else from DEFAULT_COST of oned.conf.
"""

from __future__ import annotations

from collections.abc import Mapping

MB_PER_GB = 1024
"""SIZE of a DISK is in MB, clouds charge by the GiB."""


def showback_costs(hour: float, *, cpu: float, disk_hour: float | None) -> Mapping[str, str]:
    """Return the lines for a template, by name. All of the price is in CPU_COST: MEMORY_COST must not add to it.

    Args:
        hour: what a running instance of the type costs, units of currency an hour.
        cpu: the template's CPU, above 0.
        disk_hour: what a GiB of an attached disk costs an hour; None when unknown, which leaves DISK_COST out.
    """
    found = {"CPU_COST": _plain(hour / cpu), "MEMORY_COST": "0"}
    if disk_hour is not None:
        found["DISK_COST"] = _plain(disk_hour / MB_PER_GB)
    return found


def _plain(amount: float) -> str:
    """Return a number without an exponent."""
    return f"{amount:.15f}".rstrip("0").rstrip(".") or "0"
