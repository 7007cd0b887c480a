"""Makes the action driver's engine of the live provider and the journal (decisions 3, 16, 24)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from one_provider_mad.actions.engine import Engine, PollSource
from one_provider_mad.budget.admission import UNLIMITED, Budget, Limited, Plan
from one_provider_mad.budget.rules import has_limits
from one_provider_mad.budget.store import Store
from one_provider_mad.calls.cloud import SharedCloud
from one_provider_mad.calls.knowledge import Knowledge
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.errors import JournalError, MadError, SettingsError
from one_provider_mad.journal.writer import Journal
from one_provider_mad.live_provider import ACCOUNT, LiveProvider
from one_provider_mad.options import Options
from one_provider_mad.providers.interface import Arguments, VerbatimDriver
from one_provider_mad.providers.registry import costs_money
from one_provider_mad.settings import Configuration, Places

log = structlog.get_logger()

_PATIENCE_FOR_NEW = 5.0
"""Seconds from the first action after an edit for which actions wait for the account of the new credentials; after them
actions use the earlier settings until the cloud has answered. A far away STS takes a second or two."""

_PATIENCE_FOR_JOURNAL = 1.0
"""Seconds that a POLL waits for the journal to open; after them it is answered without the journal."""

_RETIRE_SECONDS = 3600.0
"""Seconds until the provider of earlier settings is closed: longer than any action that may still use it."""


class Engines(LiveProvider[PollSource, Engine]):
    """Makes the engine of one configuration NAME; satisfies actions/engine.py's EngineSource.

    Args:
        options: the options in ARGUMENTS.
        places: the directories of configuration and state.
        warn: writes a warning to the driver's log and to oned.log.
    """

    def __init__(self, options: Options, places: Places, *, warn: Callable[[str], None]) -> None:
        super().__init__(
            options.name,
            places,
            warn=warn,
            arguments=Arguments(
                local_actions=options.local_actions, timeout=options.timeout or None, proxy=options.proxy or ""
            ),
            retire_after=_RETIRE_SECONDS,
        )
        self._retries = options.retries
        self.journal: Journal | None = None
        self.is_journal_open = asyncio.Event()
        self._is_verbatim: bool | None = None
        self.owner = ""
        self._journal_lock = asyncio.Lock()
        self._budgets: dict[Path, Store] = {}
        self._told = ""
        self._knowledge = Knowledge()

    @property
    def is_verbatim(self) -> bool:
        """Return True when the configuration names a verbatim driver."""
        if self._is_verbatim is None:
            # No configuration was usable so far: this may be the first request after its correction.
            with suppress(MadError):
                self._source.current()
        return bool(self._is_verbatim)

    def _check(self, configuration: Configuration) -> None:
        # Set before the first request is accepted, since it decides whether POLLs share a listing.
        self._is_verbatim = isinstance(self._build(configuration), VerbatimDriver)

    # The journal

    async def open_journal(self) -> None:
        """Open the journal, if usable settings give its path; until it is open, every action tries that again."""
        try:
            await self._journal_for(await self._read())
        except MadError as error:
            log.warning("journal not opened yet", reason=str(error))
        if self.is_verbatim:
            self._make_soon()  # ends the scripts of an earlier process at once

    async def _journal_for(self, configuration: Configuration) -> Journal:
        self.owner = configuration.settings.owner
        async with self._journal_lock:
            path = self._places.journal(configuration)
            if self.journal is not None and self.journal.path != path:
                # The journal was opened for settings that never came into force.
                await self.journal.close()
                self.journal = None
            if self.journal is None:
                journal = Journal(path, clock=time.time, on_lost=self._lost, on_moved=self._log_and_warn)
                await journal.open()
                self.journal = journal
                self.is_journal_open.set()
            return self.journal

    def _lost(self, sentence: str) -> None:
        log.error("journal record not written", reason=sentence)

    # The engine in force

    async def current(self) -> Engine:
        """Return the engine in force; after an edit of the configuration make a new one.

        Raises:
            SettingsError: the configuration cannot be used, and no earlier one is in force; or it has unknown keys.
            JournalError: the journal cannot be opened.
            WrongAccount: the credentials belong to another account than before.
            ProviderError: the cloud does not say which account the credentials belong to.
        """
        engine = await self._current()
        if engine.configuration.caution:
            raise SettingsError(engine.configuration.caution)
        return engine

    async def _current(self) -> Engine:
        """Return the engine in force, also one that is good for POLLs only. Raises as `current`."""
        engine = self._up_to_date()
        if engine is not None:
            return engine
        making = self._make_soon()
        if self._live is not None:
            left = self._making_since + _PATIENCE_FOR_NEW - time.monotonic()
            await asyncio.wait([making], timeout=max(0.0, left))
            if not making.done():
                return self._live.made
        return await asyncio.shield(making)

    async def poll_source(self) -> PollSource:
        """Return the engine's cloud or driver for POLLs, which is there even while the journal cannot be used.

        Raises:
            MadError: as `current`, except for JournalError.
        """
        try:
            making = self._make_soon() if self._live is None else None
            while making is not None and not making.done():
                await asyncio.wait([making], timeout=_PATIENCE_FOR_JOURNAL)
                if not making.done() and self._unconfirmed is not None and self.journal is None:
                    return self._unconfirmed[1]
            engine = await self._current()
        except JournalError as error:
            if self._unconfirmed is None:
                raise
            if self._told != str(error):
                self._told = str(error)
                self._log_and_warn(f"{error}; POLLs are answered meanwhile, all other actions fail")
            return self._unconfirmed[1]
        is_certain = not engine.configuration.caution
        return PollSource(cloud=engine.cloud, verbatim=engine.verbatim, is_certain=is_certain)

    # Making and closing

    async def _open(self, configuration: Configuration) -> PollSource:
        provider = await asyncio.to_thread(self._build, configuration)
        await self._open_provider(provider)
        if isinstance(provider, VerbatimDriver):
            return PollSource(verbatim=provider, is_certain=False)
        cloud = SharedCloud(
            provider,
            owner=configuration.settings.owner,
            retries=self._retries,
            call_timeout=configuration.settings.call_timeout,
            knowledge=self._knowledge,
            is_current=lambda: self._is_in_force(configuration),
        )
        return PollSource(cloud=cloud, is_certain=False)

    def _is_in_force(self, configuration: Configuration) -> bool:
        """True while these settings are in force; settings that were just edited are tried first.

        Otherwise a call that waits for the cloud would begin again and again with the same settings meanwhile.
        """
        if self._source.current() is not configuration:
            self._make_soon()
        return self._live is None or self._live.configuration is configuration

    async def _confirm(self, configuration: Configuration, opened: PollSource) -> Engine:
        journal = await self._journal_for(configuration)
        if opened.cloud is None:
            engine = Engine(configuration=configuration, journal=journal, verbatim=opened.verbatim)
        else:
            # An unknown key may be the misspelt one that names the account: it is recorded without such keys only.
            recorded = partial(_recorded, journal, may_record=not configuration.caution)
            await self._confirm_account(configuration, opened.cloud.provider, recorded)
            engine = Engine(
                configuration=configuration,
                journal=journal,
                cloud=opened.cloud,
                costs_money=costs_money(configuration),
                budget=self._budget_for(configuration, opened.cloud, journal),
            )
        self._told = ""
        return engine

    # The budget

    def _budget_for(self, configuration: Configuration, cloud: SharedCloud, journal: Journal) -> Budget:
        """Return the limits of a configuration; its file is opened with the first action that they concern."""
        settings = configuration.settings
        if not _is_limited(configuration):
            return UNLIMITED
        path = self._places.budget(configuration)
        store = self._budgets.get(path)
        if store is None:
            store = self._budgets[path] = Store(path, configuration.name, on_moved=self._log_and_warn)
        plan = Plan(
            settings=settings.budget,
            name=configuration.name,
            file=f"{configuration.name}.toml",
            owner=settings.owner,
            provider=cloud.provider,
            list_instances=cloud.for_action(Waiting()).list_instances,
            unsent=journal.unsent,
            ledger=self._places.ledger(configuration),
            owners=journal.owners,
            clock=time.time,
        )
        return Limited(plan, store)

    async def budget(self) -> Budget:
        """Return the budget in force. Raises MadError as `current`.

        A driver without limits opens no provider for that before its first action.
        """
        if self._live is None and not _is_limited(await self._read()):
            return UNLIMITED
        return (await self.current()).budget

    def _is_busy(self, opened: PollSource) -> bool:
        return opened.verbatim is not None and opened.verbatim.is_busy

    async def _close(self, opened: PollSource) -> None:
        if opened.cloud is not None:
            await opened.cloud.close()
        if opened.verbatim is not None:
            await opened.verbatim.close()

    async def close(self) -> None:
        """End running scripts, close the journal, which must record the answered requests, and then all providers."""
        opened = self._stop()
        for source in opened:
            if source.verbatim is not None:
                await source.verbatim.close()
        if self.journal is not None:
            await self.journal.close()
        for store in self._budgets.values():
            await store.close()
        for source in opened:
            if source.cloud is not None:
                await source.cloud.close()
        await self._stopped()


async def _recorded(journal: Journal, account: str, *, may_record: bool) -> str | None:
    """Return the account that the journal has; where it has none, record the given one if that is allowed."""
    recorded = await journal.fact(ACCOUNT)
    if recorded is None and may_record:
        await journal.set_fact(ACCOUNT, account)
    return recorded


def _is_limited(configuration: Configuration) -> bool:
    """Return True when a configuration has limits, or shares those of others."""
    budget = configuration.settings.budget
    return has_limits(budget) or bool(budget.share)
