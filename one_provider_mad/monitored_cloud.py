"""Builds the monitored cloud from the configuration, and again after an edit (decisions 3, 16, 24).

Counterpart of engines.py, which builds the action driver's engine from the same file. This module writes nothing but
its providers' own files: the journal, and the account in it, belong to the action driver.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from one_provider_mad.errors import MadError, ProviderUnavailable, SettingsError, WrongAccount
from one_provider_mad.journal.reader import read_fact
from one_provider_mad.monitor.cloud_source import ProbeSource, Told, Watched
from one_provider_mad.monitor.settings import read_tables
from one_provider_mad.options import Options
from one_provider_mad.providers.interface import Provider, VerbatimDriver
from one_provider_mad.providers.registry import build
from one_provider_mad.settings import Configuration, Places, SettingsSource

if TYPE_CHECKING:
    from one_provider_mad.monitor.probes import Probes

log = structlog.get_logger()

_ACCOUNT = "account"
_SCRIPTS = "scripts"

_RETIRE_SECONDS = 300.0
"""How long the provider of earlier settings stays open: longer than any listing that may still use it."""


class MonitoredCloud:
    """The cloud of one NAME; satisfies monitor/cloud_source.py's CloudSource.

    Args:
        options: ARGUMENTS.
        places: the directories of configuration and state.
        warn: sends the operator one sentence.
    """

    def __init__(self, options: Options, places: Places, *, warn: Callable[[str], None]) -> None:
        self._options = options
        self._places = places
        self._warn = warn
        self._probes: Probes | None = None
        self._source = SettingsSource(options.name, places, check=self._check, warn=self._warn_once)
        self._told = Told(hypervisor=options.name)
        self._told_by: Configuration | None = None
        self._watched: tuple[Configuration, Watched] | None = None
        self._retired: dict[asyncio.Task[None], Provider] = {}
        self._lock = asyncio.Lock()

    def _check(self, configuration: Configuration) -> None:
        build(configuration, self._places, self._warn)
        read_tables(configuration)

    def _warn_once(self, sentence: str) -> None:
        log.warning("operator warned", reason=sentence)
        self._warn(sentence)

    async def load(self) -> None:
        """Read the configuration for the first time in a thread; later calls of `told` are quick."""
        await asyncio.to_thread(self.told)

    def told(self) -> Told:
        """Return the configuration's facts; the last usable ones, or defaults, while it cannot be used."""
        try:
            configuration = self._source.current()
            if configuration is not self._told_by:
                monitor, capacity = read_tables(configuration)
                settings = configuration.settings
                self._told = Told(
                    hypervisor=settings.hypervisor, kind=settings.provider, monitor=monitor, capacity=capacity
                )
                self._told_by = configuration
        except SettingsError:
            pass  # `current` raises it
        return self._told

    def probes(self) -> ProbeSource | None:
        """Return the probes of `scripts`, None for other clouds; created once, as they keep their last output."""
        if self._probes is None and self.told().kind == _SCRIPTS:
            from one_provider_mad.monitor.probes import Probes
            from one_provider_mad.scripting.runner import prepare_for_many

            prepare_for_many()
            self._probes = Probes(
                name=self._options.name,
                places=self._places,
                told=self.told,
                options=self._options,
                warn=self._warn,
            )
        return self._probes

    async def current(self) -> Watched:
        """Return the cloud in force, built anew after an edit of the configuration.

        Raises:
            SettingsError: the configuration cannot be used, and no earlier one is in force.
            WrongAccount: the credentials belong to another account than the action driver's.
            ProviderError: the cloud does not say which account the credentials belong to.
        """
        async with self._lock:
            configuration = self._source.current()
            if self._watched is not None and self._watched[0] is configuration:
                return self._watched[1]
            before = self._watched
            try:
                watched = await self._make(configuration)
            except MadError as error:
                self._source.fall_back(error)
                if before is None:
                    raise
                return before[1]
            if before is not None:
                self._retire(before[1].provider)
            self._watched = (configuration, watched)
            gc.freeze()  # a provider's imports stay forever, so garbage collections need not scan them
            self._source.put_in_force(configuration)
            return watched

    async def _make(self, configuration: Configuration) -> Watched:
        provider = await asyncio.to_thread(build, configuration, self._places, self._warn)
        if isinstance(provider, VerbatimDriver):
            raise SettingsError(
                f"{configuration.name}: provider {provider.name} cannot list instances, so hosts are not reported"
            )
        watched = Watched(
            provider=provider,
            owner=configuration.settings.owner,
            call_timeout=configuration.settings.call_timeout,
            journal=self._places.journal(configuration),
        )
        try:
            await provider.open()
            await self._confirm_account(watched, configuration.name)
        except BaseException as error:
            await provider.close()
            if isinstance(error, OSError):
                raise SettingsError(f"{configuration.name}: the provider cannot be opened: {error}") from error
            raise
        return watched

    async def _confirm_account(self, watched: Watched, name: str) -> None:
        """Refuse credentials of another account, where all our instances would seem to be gone (decision 16)."""
        try:
            async with asyncio.timeout(watched.call_timeout):
                account = await watched.provider.account()
        except TimeoutError as error:
            raise ProviderUnavailable(
                f"{watched.provider.name} did not say which account the credentials belong to"
            ) from error
        recorded = await asyncio.to_thread(read_fact, watched.journal, _ACCOUNT)
        if recorded not in (None, account):
            raise WrongAccount(
                f"credentials now belong to account {account}, expected {recorded}: restore them, or run"
                f" one-provider journal accept {name} if that account is meant"
            )

    def _retire(self, provider: Provider) -> None:
        task = asyncio.create_task(_close_later(provider), name="retire a provider")
        self._retired[task] = provider
        task.add_done_callback(lambda done: self._retired.pop(done, None))

    def kill(self) -> None:
        """End running probes at once."""
        if self._probes is not None:
            self._probes.close()

    async def close(self) -> None:
        """Close every provider."""
        self.kill()
        providers = [*self._retired.values(), *([self._watched[1].provider] if self._watched else [])]
        for task in list(self._retired):
            task.cancel()
        for provider in providers:
            await provider.close()


async def _close_later(provider: Provider) -> None:
    await asyncio.sleep(_RETIRE_SECONDS)
    await provider.close()
