"""What the composition root gives to the sweeps: a cloud to list, or probe scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from one_provider_mad.domain import Value
from one_provider_mad.monitor.sender import Sender
from one_provider_mad.monitor.settings import CapacitySettings, MonitorSettings
from one_provider_mad.protocol.im_messages import Monitor, StartMonitor
from one_provider_mad.providers.interface import Provider


class ReportSettings(Value, frozen=True, kw_only=True):
    """The configuration of reports; defaults until there was a usable one.

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
        owner: owner in the tags of our instances.
        call_timeout: seconds one call may take.
        journal: where the action driver's journal is, if there is one.
    """

    provider: Provider
    owner: str
    call_timeout: float
    journal: Path


class ProbeSource(Protocol):
    """A driver with probes of its own: their output is passed on, and nothing is listed."""

    async def answer(self, request: Monitor) -> str:
        """Return the text of the report for a legacy MONITOR. Raises MadError with the sentence of a failure."""

    async def report(self, request: StartMonitor, sender: Sender, on_reported: Callable[[], None]) -> None:
        """Send messages about a host until cancelled; START_MONITOR was answered already.

        Args:
            request: monitord's request.
            sender: writes messages.
            on_reported: called once every message was sent once.
        """

    def forget(self, host_id: int) -> None:
        """Forget a host that is no longer monitored. Never raises."""


class CloudSource(Protocol):
    """Gives the cloud in force, which changes with the configuration file."""

    def report_settings(self) -> ReportSettings:
        """Return the configuration of reports. Never raises."""

    def probes(self) -> ProbeSource | None:
        """Return the probes that take the place of sweeps; None for a cloud that is listed."""

    async def current(self) -> OpenCloud:
        """Return the cloud in force.

        Raises:
            MadError: there is none; the hosts show its sentence.
        """
