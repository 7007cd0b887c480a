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
"""Cores and MiB of a cloud whose room nobody knows: more than any VM asks for, so that the scheduler can place it, and
less than 2^31 KiB."""


GLANCE_SECONDS = 5.0
"""Longest pause until the configuration is read again: an edited period counts within this time."""


class MonitorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[monitor]`. A period that is not set is what monitord asks for."""

    heartbeat: Seconds | None = None
    """Seconds between signs of life (MONITOR_HOST); else BEACON_HOST of the message. monitord loses patience after
    three minutes."""

    system_period: Seconds | None = None
    """Seconds between two SYSTEM_HOST; else SYSTEM_HOST of the message."""

    state_period: Seconds | None = None
    """Seconds between two looks at the states of VMs; else STATE_VM of the message."""

    sync_period: Seconds | None = None
    """Seconds between two reports of all states; else SYNC_STATE_VM of the message."""

    vm_period: Seconds | None = None
    """Seconds between two reports of the figures of VMs; else MONITOR_VM of the message."""

    min_list_interval: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    """Seconds between two listings, whatever the periods say: clouds count calls. What is due meanwhile is answered
    from the last one."""

    missing_state: Literal["UNKNOWN", "POWEROFF"] = "UNKNOWN"
    """What a VM becomes whose instance is gone. UNKNOWN can be taken back; POWEROFF completes a SHUTDOWN."""

    missing_after: Annotated[int, msgspec.Meta(ge=1)] = 3
    """Complete listings in a row without an instance, which its id does not lead to either, until it counts as gone;
    the provider's `visibility_grace` must have passed as well."""

    unusual_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """When more than this share of all instances vanishes at once, none counts as missing for now: half a listing that
    looks whole is likelier than that. 1 turns it off."""

    unusual_count: Annotated[int, msgspec.Meta(ge=1)] = 5
    """Fewer than so many that vanish at once are nothing unusual."""

    unusual_hold: Annotated[float, msgspec.Meta(ge=0)] = 1800.0
    """Seconds for which they are held; if they have not come back by then, they count as missing."""

    host_error_after: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds after which a cloud that cannot be asked puts its host into ERROR; 0 is never. Mind the host hook
    `ft/host_error.rb`: where it is set up, it deletes or moves every VM of a host in ERROR."""

    report_wilds: bool = True
    """Whether instances that belong to no VM are reported, to be imported."""

    is_before_4_14: bool = False
    """OpenNebula is older than 4.14: its requests look the same, and it wants other names."""

    @property
    def missing_word(self) -> VmWord:
        """`missing_state` as STATE_VM has it."""
        return VmWord(self.missing_state)

    def rhythm(self, asked: Periods) -> Rhythm:
        """The periods in force: what the configuration says, else what monitord asks for."""
        return Rhythm(
            heartbeat=self.heartbeat or asked.beacon_host,
            system=self.system_period or asked.system_host,
            state=self.state_period or asked.state_vm,
            sync=self.sync_period or asked.sync_state_vm,
            figures=self.vm_period or asked.monitor_vm,
        )


class Rhythm(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds between two of each kind of report.

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
    """The table `[capacity]`: how much room the host is said to have. Empty: what the provider knows."""

    cpu: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Cores."""

    memory: Count | None = None
    """MiB."""

    instance_types: dict[str, Count] = {}
    """Instance types and how many of each there may be; where `cpu` or `memory` is not set, it follows from these."""


def read_tables(configuration: Configuration) -> tuple[MonitorSettings, CapacitySettings]:
    """Both tables of a configuration, checked.

    Raises:
        SettingsError: a key that there is not, or a value of the wrong kind.
    """
    path = configuration.path
    return (
        convert(configuration.settings.monitor, MonitorSettings, path=path, prefix="monitor."),
        convert(configuration.settings.capacity, CapacitySettings, path=path, prefix="capacity."),
    )
