"""VMs as OpenNebula's pool shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from one_provider_mad.domain import Value
from one_provider_mad.safe_xml import Element, elements_at

RUNNING = (3, 3)
DONE = 6
"""STATE and LCM_STATE (OpenNebula include/VirtualMachine.h)."""

ENDING = {11, 12, 23}
"""LCM_STATEs of a VM that ends: EPILOG, SHUTDOWN, CLEANUP_DELETE."""

_NAMES = {
    (1, 0): "PENDING",
    (2, 0): "HOLD",
    (3, 1): "PROLOG",
    (3, 2): "BOOT",
    (3, 3): "RUNNING",
    (3, 36): "BOOT_FAILURE",
}
_NAMES |= {
    (3, 39): "PROLOG_FAILURE",
    (3, 16): "UNKNOWN",
    (8, 0): "POWEROFF",
    (10, 0): "CLONING",
    (11, 0): "CLONING_FAILURE",
}


class Vm(Value, frozen=True, kw_only=True):
    """One VM.

    Attributes:
        number: its id.
        name: its NAME.
        state: STATE and LCM_STATE.
        host: the name of its latest host; "" before it is placed.
        message: the reason that OpenNebula shows for its state: of the scheduler, or of a driver.
    """

    number: int
    name: str
    state: tuple[int, int]
    host: str
    message: str

    @property
    def state_name(self) -> str:
        """Return the state as onevm shows it, where it is a usual one."""
        return _NAMES.get(self.state, f"STATE {self.state[0]}, LCM_STATE {self.state[1]}")


def vms_of(pool: Element, prefix: str) -> Iterator[Vm]:
    """Yield the VMs of a VM_POOL whose names begin with a prefix."""
    for vm in elements_at(pool, "VM"):
        name = vm.findtext("NAME") or ""
        if name.startswith(prefix):
            hosts = vm.findall("HISTORY_RECORDS/HISTORY/HOSTNAME")
            yield Vm(
                number=int(vm.findtext("ID") or -1),
                name=name,
                state=(int(vm.findtext("STATE") or -1), int(vm.findtext("LCM_STATE") or 0)),
                host=(hosts[-1].text or "") if hosts else "",
                message=vm.findtext("USER_TEMPLATE/SCHED_MESSAGE") or vm.findtext("USER_TEMPLATE/ERROR") or "",
            )
