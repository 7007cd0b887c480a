"""The tables `[monitor]` and `[capacity]` of a configuration: what is reported, how often, how carefully."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from one_provider_mad.protocol.im_messages import Periods
from one_provider_mad.protocol.reports import VmWord
from one_provider_mad.settings import Configuration, convert

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]

UNLIMITED_CPU = 1000.0
UNLIMITED_MEMORY = 1024 * 1024
"""MiB that a cloud without any known limit shows as its memory: more than any VM asks for, so that the scheduler can
place every VM, and less than 2^31 KiB."""


CHECK_SECONDS = 5.0
"""Most seconds until the configuration is read again: an edited period takes effect within this time."""


class MonitorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[monitor]`. A period that is not set is the one that monitord requests."""

    heartbeat: Seconds | None = None
    """Seconds between two signs of life (MONITOR_HOST). Unset: BEACON_HOST of monitord's request. After three minutes
    without one monitord starts the monitoring of the host again."""

    system_period: Seconds | None = None
    """Seconds between two SYSTEM_HOST messages. Unset: SYSTEM_HOST of monitord's request."""

    state_period: Seconds | None = None
    """Seconds between two checks of the VMs' states. Unset: STATE_VM of monitord's request."""

    sync_period: Seconds | None = None
    """Seconds between two reports of all VMs' states. Unset: SYNC_STATE_VM of monitord's request."""

    vm_period: Seconds | None = None
    """Seconds between two reports of the VMs' figures. Unset: MONITOR_VM of monitord's request."""

    min_list_interval: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    """Least seconds between two listings of the cloud, even with shorter periods: clouds count calls. Reports that are
    due meanwhile use the last listing."""

    missing_state: Literal["UNKNOWN", "POWEROFF"] = "UNKNOWN"
    """State that a VM gets whose instance is gone. UNKNOWN ends by itself when the instance comes back; POWEROFF would
    also complete a SHUTDOWN that is under way."""

    missing_after: Annotated[int, msgspec.Meta(ge=1)] = 3
    """Number of complete listings in a row that must lack an instance, without a lookup by id finding it, before it
    counts as gone; the provider's `visibility_grace` must have passed as well."""

    unusual_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """When more than this share of all instances vanishes at once, none counts as missing for now: an incomplete
    listing is likelier. 1 turns it off."""

    unusual_count: Annotated[int, msgspec.Meta(ge=1)] = 5
    """Smallest number of vanished instances that counts as unusual."""

    unusual_hold: Annotated[float, msgspec.Meta(ge=0)] = 1800.0
    """Seconds for which the VMs of an unusual number of vanished instances keep their states; after that, instances
    that have not come back count as missing."""

    host_error_after: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds after which a cloud that does not answer puts its host into ERROR; 0: never. Mind the host hook
    `ft/host_error.rb`: where it is set up, it deletes or moves every VM of a host in ERROR."""

    report_wilds: bool = True
    """Whether instances without tags of ours are reported, to be imported."""

    watch_home: bool = True
    """Whether the cloud's host and OpenNebula's log show that home has room for VMs and takes none. For that OpenNebula
    is asked once a minute for its hosts, datastores and clusters."""

    priority: Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)] | Literal["price"] = -1.0
    """PRIORITY of the host, by which schedulers rank hosts: hosts of the highest come first, and hosts at home have
    none, which counts as 0. `"price"` is -1 less the hourly price of the cheapest instance type of
    `[capacity.instance_types]`, else of the provider's defaults, else of the cloud, on demand and without disks, so
    that the cheapest cloud comes first; -1 while that is unknown. All NAMEs need the same currency:
    `prices.currency` and `prices.rate`. A PRIORITY that an administrator has written into the host's template stays."""

    is_before_4_14: bool = False
    """True for OpenNebula before 4.14, whose requests look the same, but which expects other attribute names in
    reports."""

    def priority_text(self, price: float | None) -> str:
        """Return the host's PRIORITY as OpenNebula reads numbers, without an exponent.

        Args:
            price: units of currency an hour of a usual instance; None when unknown.
        """
        figure = -1.0 - (price or 0.0) if self.priority == "price" else self.priority
        return f"{figure:.6f}".rstrip("0").rstrip(".")

    @property
    def missing_word(self) -> VmWord:
        """The value of `missing_state` as a STATE of STATE_VM."""
        return VmWord(self.missing_state)

    def report_periods(self, asked: Periods) -> ReportPeriods:
        """Return the periods of reports: each as configured, else as monitord requested it."""
        return ReportPeriods(
            heartbeat=self.heartbeat or asked.beacon_host,
            system=self.system_period or asked.system_host,
            state=self.state_period or asked.state_vm,
            sync=self.sync_period or asked.sync_state_vm,
            figures=self.vm_period or asked.monitor_vm,
        )


class ReportPeriods(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds between two reports of each kind.

    Attributes:
        heartbeat: MONITOR_HOST.
        system: SYSTEM_HOST.
        state: STATE_VM of what has changed.
        sync: STATE_VM of all VMs.
        figures: MONITOR_VM.
    """

    heartbeat: float
    system: float
    state: float
    sync: float
    figures: float


class CapacitySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[capacity]`: the capacity that the host reports. Without it: the cloud's own limits."""

    cpu: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Cores of the host."""

    memory: Count | None = None
    """Memory of the host in MiB."""

    instance_types: dict[str, Count] = {}
    """Instance types and how many of each there may be; an unset `cpu` or `memory` is computed from these."""


def read_tables(configuration: Configuration) -> tuple[MonitorSettings, CapacitySettings]:
    """Return both tables of a configuration, checked.

    Raises:
        SettingsError: an unknown key, or a value of the wrong kind.
    """
    path = configuration.path
    return (
        convert(configuration.settings.monitor, MonitorSettings, path=path, prefix="monitor."),
        convert(configuration.settings.capacity, CapacitySettings, path=path, prefix="capacity."),
    )
