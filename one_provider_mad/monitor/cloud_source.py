"""What reports are made from, for the daemon to provide: a cloud to list, or probe scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from one_provider_mad.domain import Value
from one_provider_mad.monitor.budget_watch import ReadLevels
from one_provider_mad.monitor.sender import Sender
from one_provider_mad.monitor.settings import CapacitySettings, MonitorSettings
from one_provider_mad.protocol.im_messages import Monitor, StartMonitor
from one_provider_mad.providers.interface import Provider


class ReportSettings(Value, frozen=True, kw_only=True):
    """The settings of reports; the defaults until a configuration could be read.

    Attributes:
        hypervisor: HYPERVISOR of every host.
        kind: kind of provider, "" while unknown.
        monitor: the table `[monitor]`.
        capacity: the table `[capacity]`.
    """

    hypervisor: str
    kind: str = ""
    monitor: MonitorSettings = MonitorSettings()
    capacity: CapacitySettings = CapacitySettings()


class OpenCloud(Value, frozen=True, kw_only=True):
    """One cloud, ready to be listed.

    Attributes:
        provider: the adapter, already open.
        owner: the owner that the tags of our instances name.
        call_timeout: seconds one call may take.
        journal: path of the action driver's journal, which may not exist.
        name: NAME.
        ledger: path of the ledger of costs; None to keep none.
        budget: reads how far the limits of `[budget]` are used; None without limits.
        caution: why listings of this cloud may be incomplete: unknown settings; "" when they are not.
    """

    provider: Provider
    owner: str
    call_timeout: float
    journal: Path
    name: str = ""
    ledger: Path | None = None
    budget: ReadLevels | None = None
    caution: str = ""


class ProbeSource(Protocol):
    """Reports on hosts by running the operator's probe scripts instead of listing a cloud."""

    async def answer(self, request: Monitor) -> str:
        """Return the report that answers a MONITOR of oned up to 5.10. Raises MadError with the text for a FAILURE."""

    async def report(self, request: StartMonitor, sender: Sender, on_reported: Callable[[], None]) -> None:
        """Send messages about a host until cancelled, after its START_MONITOR was answered.

        Args:
            request: monitord's request.
            sender: writes messages.
            on_reported: called once when every kind of message has been sent for the first time.
        """

    def forget(self, host_id: int) -> None:
        """Forget a host that is no longer monitored. Never raises."""


class CloudSource(Protocol):
    """Returns the cloud to list and the settings of its reports, both as the configuration file now says."""

    def report_settings(self) -> ReportSettings:
        """Return the settings of reports. Never raises."""

    def probes(self) -> ProbeSource | None:
        """Return the probe scripts of a driver that runs those; None for one that lists a cloud."""

    async def current(self) -> OpenCloud:
        """Return the cloud of the present configuration, open.

        Raises:
            MadError: no cloud could be opened; the hosts show the error's sentence.
        """
