"""Keeps the monitored cloud, or the probes in its place, and the configuration of reports (decisions 3, 16, 24).

It writes nothing but its providers' own files: the journal, and the account in it, belong to the action driver.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from one_provider_mad.budget.settings import BudgetSettings
from one_provider_mad.errors import SettingsError
from one_provider_mad.journal.reader import read_fact
from one_provider_mad.live_provider import ACCOUNT, LiveProvider
from one_provider_mad.monitor.budget_watch import ReadLevels
from one_provider_mad.monitor.cloud_source import OpenCloud, ProbeSource, ReportSettings
from one_provider_mad.monitor.settings import read_tables
from one_provider_mad.options import Options
from one_provider_mad.providers.interface import VerbatimDriver
from one_provider_mad.settings import Configuration, Places

if TYPE_CHECKING:
    from one_provider_mad.budget.records import Level
    from one_provider_mad.monitor.probes import Probes

_SCRIPTS = "scripts"

_RETIRE_SECONDS = 300.0
"""Seconds until the provider of earlier settings is closed: longer than any listing that may still use it."""


class MonitoredCloud(LiveProvider[OpenCloud, OpenCloud]):
    """Opens the cloud of one configuration NAME; satisfies monitor/cloud_source.py's CloudSource.

    Args:
        options: the options in ARGUMENTS.
        places: the directories of configuration and state.
        warn: writes a warning to the driver's log and to oned's or monitord's.
    """

    def __init__(self, options: Options, places: Places, *, warn: Callable[[str], None]) -> None:
        super().__init__(options.name, places, warn=warn, retire_after=_RETIRE_SECONDS)
        self._options = options
        self._probes: Probes | None = None
        self._report_settings = ReportSettings(hypervisor=options.name)
        self._settings_of: Configuration | None = None

    def _check(self, configuration: Configuration) -> None:
        self._build(configuration)
        read_tables(configuration)

    async def load(self) -> None:
        """Read the configuration for the first time in a thread; later calls of `report_settings` are quick."""
        await asyncio.to_thread(self.report_settings)

    def report_settings(self) -> ReportSettings:
        """Return the settings for reports; while the configuration cannot be used, the last usable ones or defaults."""
        try:
            configuration = self._source.current()
            if configuration is not self._settings_of:
                monitor, capacity = read_tables(configuration)
                settings = configuration.settings
                self._report_settings = ReportSettings(
                    hypervisor=settings.hypervisor, kind=settings.provider, monitor=monitor, capacity=capacity
                )
                self._settings_of = configuration
        except SettingsError:
            pass  # `current` raises it
        return self._report_settings

    def probes(self) -> ProbeSource | None:
        """Return the probes of `scripts`, None for other clouds; created once, as they keep their last output."""
        if self._probes is None and self.report_settings().kind == _SCRIPTS:
            from one_provider_mad.monitor.probes import Probes
            from one_provider_mad.scripting.runner import prepare_for_many

            prepare_for_many()
            self._probes = Probes(
                name=self._options.name,
                places=self._places,
                settings=self.report_settings,
                options=self._options,
                warn=self._warn,
            )
        return self._probes

    async def current(self) -> OpenCloud:
        """Return the cloud in force; after an edit of the configuration open it anew.

        Raises:
            SettingsError: the configuration cannot be used, and no earlier one is in force.
            WrongAccount: the credentials belong to another account than the action driver's.
            ProviderError: the cloud does not say which account the credentials belong to.
        """
        watched = self._up_to_date()
        return watched if watched is not None else await asyncio.shield(self._make_soon())

    async def _open(self, configuration: Configuration) -> OpenCloud:
        provider = await asyncio.to_thread(self._build, configuration)
        if isinstance(provider, VerbatimDriver):
            raise SettingsError(
                f"{configuration.name}: provider {provider.name} cannot list instances, so hosts are not reported"
            )
        await self._open_provider(provider)
        return OpenCloud(
            provider=provider,
            owner=configuration.settings.owner,
            call_timeout=configuration.settings.call_timeout,
            journal=self._places.journal(configuration),
            name=configuration.name,
            ledger=self._places.ledger(configuration),
            budget=self._levels_of(configuration),
            caution=configuration.caution,
        )

    def _levels_of(self, configuration: Configuration) -> ReadLevels | None:
        """Return what reads how far the limits of a configuration are used; None without `[budget]`."""
        settings = configuration.settings.budget
        if settings == BudgetSettings():
            return None
        return partial(_read_levels, self._places.budget(configuration), settings, configuration.name)

    async def _confirm(self, configuration: Configuration, opened: OpenCloud) -> OpenCloud:
        await self._confirm_account(
            configuration, opened.provider, lambda _account: asyncio.to_thread(read_fact, opened.journal, ACCOUNT)
        )
        return opened

    async def _close(self, opened: OpenCloud) -> None:
        await opened.provider.close()

    def kill(self) -> None:
        """End running probes at once."""
        if self._probes is not None:
            self._probes.close()

    async def close(self) -> None:
        """Close every provider."""
        self.kill()
        for opened in self._stop():
            await self._close(opened)
        await self._stopped()


def _read_levels(path: Path, settings: BudgetSettings, name: str) -> Sequence[Level]:
    from one_provider_mad.budget.reader import read_levels  # only where there are limits

    return read_levels(path, settings, name=name, now=time.time())
