"""What is reported on, as the composition root hands it to the sweeps: a cloud to list, or somebody else's probes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from one_provider_mad.domain import Value
from one_provider_mad.monitor.saying import Saying
from one_provider_mad.monitor.settings import CapacitySettings, MonitorSettings
from one_provider_mad.protocol.im_messages import Monitor, StartMonitor
from one_provider_mad.providers.interface import Provider


class Told(Value, frozen=True, kw_only=True):
    """What the configuration says about reporting; defaults while there never was a usable one.

    Attributes:
        hypervisor: HYPERVISOR of every host.
        kind: kind of provider, "" while nobody knows.
        monitor: the table `[monitor]`.
        capacity: the table `[capacity]`.
    """

    hypervisor: str
    kind: str = ""
    monitor: MonitorSettings = MonitorSettings()
    capacity: CapacitySettings = CapacitySettings()


class Watched(Value, frozen=True, kw_only=True):
    """One cloud, ready to be listed.

    Attributes:
        provider: the adapter, already open.
        owner: whose instances are ours.
        call_timeout: seconds one call may take.
        journal: where the action driver's journal is, if there is one.
    """

    provider: Provider
    owner: str
    call_timeout: float
    journal: Path


class ProbeSource(Protocol):
    """A driver that has probes of its own: what they print is passed on, and nothing is listed."""

    async def answer(self, request: Monitor) -> str:
        """Text of the report for a legacy MONITOR. Raises MadError with the sentence of a failure."""

    async def report(self, request: StartMonitor, saying: Saying, on_reported: Callable[[], None]) -> None:
        """Say messages about a host until cancelled; the answer to START_MONITOR was given already.

        Args:
            request: what monitord asked for.
            saying: writes messages.
            on_reported: called once everything there is to say was said once.
        """

    def forget(self, host_id: int) -> None:
        """The host is no longer monitored: nothing that was known of it is true any more. Never raises."""


class CloudSource(Protocol):
    """Where the cloud in force comes from; it changes when the configuration file does."""

    def told(self) -> Told:
        """What the configuration says. Never raises."""

    def probes(self) -> ProbeSource | None:
        """The probes that take the place of sweeps; None for a cloud that is listed."""

    async def current(self) -> Watched:
        """The cloud in force.

        Raises:
            MadError: there is none, with the sentence that its hosts are to show.
        """
