"""The full host at home in the demonstration, and the choice that OpenNebula's scheduler makes because of it.

The scheduler takes, of the hosts with room for the VM, the one with the highest rank; with the RANK that
`one-provider oned-conf` prints, a host's PRIORITY comes first (OpenNebula src/scheduler and src/schedm; policy 3).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from one_provider_mad.domain import Value


class Host(Value, frozen=True, kw_only=True):
    """One host of OpenNebula.

    Attributes:
        name: its name.
        priority: its PRIORITY; 0 if it has none.
        cpus: CPUs that no VM has.
    """

    name: str
    priority: float = 0.0
    cpus: float


HOME = Host(name="home", cpus=2)
"""The host at home: room for two of the demonstration's VMs."""


def cloud_host(name: str, report: str) -> Host:
    """Return the cloud's host, from the text of its SYSTEM_HOST."""
    return Host(name=name, priority=_figure("PRIORITY", report), cpus=_figure("TOTALCPU", report) / 100)


def placed(hosts: Sequence[Host]) -> Host | None:
    """Return the host that the scheduler takes for a VM with one CPU; None when none has room."""
    fit = [each for each in hosts if each.cpus >= 1]
    return max(fit, key=lambda each: each.priority, default=None)


def placements(cloud: Host, vm_ids: Sequence[int]) -> list[str]:
    """Return a line for each VM: the CPUs that are free, and where the scheduler places it."""
    home, lines = HOME, []
    for vm_id in vm_ids:
        chosen = placed((home, cloud))
        lines.append(f"VM {vm_id}: {_room(home)}, {_room(cloud)} -> {chosen.name if chosen else 'waits'}")
        if chosen is home:
            home = Host(name=home.name, priority=home.priority, cpus=home.cpus - 1)
    return lines


def _room(host: Host) -> str:
    return f"{host.name} (PRIORITY {host.priority:g}, {host.cpus:g} CPU)"


def _figure(name: str, report: str) -> float:
    match = re.search(rf'^{name} *= *"?(-?[0-9.]+)', report, re.MULTILINE)
    return float(match[1]) if match else 0.0
