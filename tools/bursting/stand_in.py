"""Hosts that stand in for hosts at home: OpenNebula's dummy drivers, with room for a few VMs."""

from __future__ import annotations

import time
from collections.abc import Callable

from one_provider_mad.domain import Value
from one_provider_mad.errors import SettingsError
from tools.bursting.core import Core
from tools.bursting.hosts import MONITORED, Host, Size

_SECONDS = 400.0
"""Until a new host and a new datastore are measured; MONITORING_INTERVAL_DATASTORE is 300 s as shipped."""

_DEFAULT_CLUSTER = 0


class StandIn(Value, frozen=True, kw_only=True):
    """The hosts to make.

    Attributes:
        count: how many.
        room: VMs for which each has room.
        im_mad: NAME of their information driver in OpenNebula's configuration.
        vm_mad: NAME of their action driver.
    """

    count: int
    room: int
    im_mad: str
    vm_mad: str


def make(core: Core, wanted: StandIn, *, prefix: str, size: Size, tell: Callable[[str], None]) -> list[Host]:
    """Create the hosts and a system datastore for them, and return them once the scheduler can use them.

    Raises:
        SettingsError: OpenNebula has no such drivers, or the hosts are not monitored in time.
    """
    text = f'NAME = "{prefix}-system"\nTYPE = "SYSTEM_DS"\nTM_MAD = "dummy"\n'
    store = core.make_datastore(text, cluster=_DEFAULT_CLUSTER)
    names = [f"{prefix}-home{number}" for number in range(wanted.count)]
    for name in names:
        core.make_host(name, im_mad=wanted.im_mad, vm_mad=wanted.vm_mad, cluster=_DEFAULT_CLUSTER)
    tell(f"waiting until OpenNebula has measured {', '.join(names)} and their datastore {store}")
    for host in _awaited(lambda: _monitored(core, names), f"hosts {', '.join(names)} are not monitored"):
        kept = host.total_cpu - round(wanted.room * size.cpu * 100)
        if kept:
            core.write_to_host(host.number, f'RESERVED_CPU = "{kept}"\n')
    what = f"the hosts do not show room for {wanted.room} VMs, or their datastore {store} is not measured"
    return _awaited(lambda: _ready(core, names, wanted, size, store), what)


def _monitored(core: Core, names: list[str]) -> list[Host]:
    hosts = [host for host in core.hosts() if host.name in names]
    return hosts if all(host.state == MONITORED and host.total_cpu for host in hosts) else []


def _ready(core: Core, names: list[str], wanted: StandIn, size: Size, store: int) -> list[Host]:
    hosts = _monitored(core, names)
    is_ready = all(host.room_for(size) == wanted.room for host in hosts) and core.is_measured(store)
    return hosts if is_ready else []


def _awaited(look: Callable[[], list[Host]], problem: str) -> list[Host]:
    deadline = time.monotonic() + _SECONDS
    while not (found := look()):
        if time.monotonic() > deadline:
            raise SettingsError(
                f"{problem} after {_SECONDS:g} s: oned.log and monitor.log say why; OpenNebula's configuration needs a"
                " VM_MAD and an IM_MAD of the given names, and `dummy` in what DATASTORE_MAD names after -s"
            )
        time.sleep(1)
    return found
