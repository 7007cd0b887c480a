"""Knows which attributes of a VM OpenNebula still shows although they are no longer reported; calls nothing.

From 5.2 on OpenNebula merges a report into the earlier ones (up to 5.10 include/VirtualMachineMonitorInfo.h, `update`;
from 5.12 on src/vm/VirtualMachineMonitorInfo.cc, `from_template`), so that the address of a stopped instance would stay
forever. An empty vector, `NAME=[]`, removes it: `Template::merge` (src/template/Template.cc) erases every name in the
report, and stores no vector without values. Its parser accepts that form from 4.12 on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from one_provider_mad.domain import Usage, VmId

USAGE_NAMES = ("CPU", "MEMORY", "NETRX", "NETTX")
"""Names of the attributes that report a VM's figures (`Usage`)."""

COST_NAMES = ("PROVIDER_PRICE_HOUR", "PROVIDER_COST", "PROVIDER_CURRENCY")
"""Names of the attributes that report what a VM costs; the information driver alone knows their values."""

_MOST_VMS = 100_000

_MOST_NAMES = 500

_Shown = tuple[frozenset[str], bool]


class StaleNames:
    """Tracks which attributes OpenNebula may show for each VM, from the reports sent so far.

    A VM that was not reported yet may show any attribute: an earlier process or another front-end may have reported it.

    Args:
        names: attributes that were ever reported for any VM, figures included.

    Attributes:
        names: the same, and those reported since.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self.names = frozenset(names)
        self._shown: dict[VmId, _Shown] = {}
        self._shared: dict[frozenset[str], frozenset[str]] = {}

    def expect(self, names: Collection[str]) -> None:
        """Treat these attributes as reported earlier for every VM that was not reported yet."""
        self.names = self.names.union(names)

    def forget(self) -> None:
        """Treat every VM as not reported yet, since another front-end may have reported other attributes."""
        self._shown.clear()

    def of(self, vm_id: VmId, attributes: Mapping[str, str], usage: Usage | None) -> tuple[str, ...]:
        """Return the stale attributes of a VM: names that OpenNebula may show and that this report lacks, sorted."""
        has_usage = usage is not None
        shown = self._shown.get(vm_id)
        if shown is None:
            names, had_usage = self.names.difference(USAGE_NAMES), not self.names.isdisjoint(USAGE_NAMES)
        elif shown[0] == attributes.keys() and shown[1] <= has_usage:
            return ()  # the usual case
        else:
            names, had_usage = shown
        stale = sorted(names - attributes.keys())
        return (*(USAGE_NAMES if had_usage and not has_usage else ()), *stale)

    def may_show(self, vm_id: VmId, attributes: Mapping[str, str], usage: Usage | None) -> None:
        """Record a report on a VM that OpenNebula may have ignored: it may show earlier attributes and these."""
        names, had_usage = self._shown.get(vm_id, (frozenset(), False))
        if vm_id not in self._shown:
            self.expect(attributes.keys())
        elif not names >= attributes.keys() or (usage is not None and not had_usage):
            self._shown[vm_id] = names.union(attributes), had_usage or usage is not None

    def reported(self, vm_id: VmId, attributes: Mapping[str, str], usage: Usage | None) -> None:
        """Record a report on a VM that OpenNebula has taken: it shows exactly these attributes."""
        shown = self._shown.get(vm_id)
        has_usage = usage is not None
        if shown is not None and shown[0] == attributes.keys() and shown[1] is has_usage:
            return
        names = frozenset(attributes)
        if names not in self._shared:
            if len(self._shared) >= _MOST_NAMES:
                self._shared.clear()
            self._shared[names] = names
            if len(self.names) < _MOST_NAMES:
                self.names |= names
        if has_usage:
            self.names = self.names.union(USAGE_NAMES)
        self._shown[vm_id] = self._shared[names], has_usage
        if len(self._shown) > _MOST_VMS:
            self._shown.clear()  # most of these VMs are long gone; for the others removals are sent once more
