"""Builds the action driver's engine from the configuration, and again after an edit (decisions 3, 16, 24)."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from one_provider_mad.actions.cloud import Cloud, Knowledge, waiting_for
from one_provider_mad.actions.engine import Engine, Sight
from one_provider_mad.actions.finding import Finder
from one_provider_mad.errors import JournalError, MadError, ProviderUnavailable, SettingsError, WrongAccount
from one_provider_mad.journal.writer import Journal
from one_provider_mad.options import Options
from one_provider_mad.providers.interface import Arguments, Provider, VerbatimDriver
from one_provider_mad.providers.registry import build, costs_money
from one_provider_mad.settings import Configuration, Places, SettingsSource

log = structlog.get_logger()

_ACCOUNT = "account"

_PATIENCE_FOR_NEW = 5.0
"""Seconds from the first action after an edit in which actions wait for the account of the credentials; after that they
use the earlier settings until the cloud has answered. A far away STS takes a second or two."""

_PATIENCE_FOR_JOURNAL = 1.0
"""Seconds a POLL waits for a journal that is being opened; another process may lock it for a minute."""

_RETIRE_SECONDS = 3600.0
"""How long the provider of earlier settings stays open: longer than any action that may still use it."""


class Engines:
    """The engine of one NAME; satisfies actions/engine.py's EngineSource.

    Args:
        options: ARGUMENTS.
        places: the directories of configuration and state.
        warn: sends the operator one sentence.
    """

    def __init__(self, options: Options, places: Places, *, warn: Callable[[str], None]) -> None:
        self._options = options
        self._places = places
        self._warn = warn
        self._arguments = Arguments(
            local_actions=options.local_actions, timeout=options.timeout or None, proxy=options.proxy or ""
        )
        self.journal: Journal | None = None
        self.is_journal_open = asyncio.Event()
        self._is_verbatim: bool | None = None
        self.owner = ""
        self._engine: Engine | None = None
        self._opened: tuple[Configuration, Sight] | None = None
        self._retired: dict[asyncio.Task[None], Engine | Sight] = {}
        self._lock = asyncio.Lock()
        self._journal_lock = asyncio.Lock()
        self._told = ""
        self._making: asyncio.Task[Engine] | None = None
        self._making_since = 0.0
        self._knowledge = Knowledge()
        self._source = SettingsSource(options.name, places, check=self._check, warn=self._warn_once)

    @property
    def is_verbatim(self) -> bool:
        """Return True when the configuration names a verbatim driver."""
        if self._is_verbatim is None:
            # No configuration was usable so far: this request may be the first one after its correction.
            with suppress(MadError):
                self._source.current()
        return bool(self._is_verbatim)

    def _check(self, configuration: Configuration) -> None:
        # Set before the first request is accepted, since it decides whether POLLs share a listing.
        self._is_verbatim = isinstance(self._build(configuration), VerbatimDriver)

    def _build(self, configuration: Configuration) -> Provider | VerbatimDriver:
        return build(configuration, self._places, self._warn, self._arguments)

    def _warn_once(self, sentence: str) -> None:
        log.warning("operator warned", reason=sentence)
        self._warn(sentence)

    async def open_journal(self) -> None:
        """Open the journal, if usable settings give its path; every action tries again until it is open."""
        try:
            async with self._lock:
                configuration = await asyncio.to_thread(self._source.current)
            await self._journal_for(configuration)  # without the lock: a locked file must not delay POLLs
        except MadError as error:
            log.warning("journal not opened yet", reason=str(error))
        if self.is_verbatim:
            self._make_soon()  # ends the scripts of an earlier process at once

    async def _journal_for(self, configuration: Configuration) -> Journal:
        self.owner = configuration.settings.owner
        async with self._journal_lock:
            return await self._open_journal_for(configuration)

    async def _open_journal_for(self, configuration: Configuration) -> Journal:
        path = self._places.journal(configuration)
        if self.journal is not None and self.journal.path != path:
            # The journal was opened for settings that never came into force.
            await self.journal.close()
            self.journal = None
        if self.journal is None:
            journal = Journal(path, clock=time.time, on_lost=self._lost, on_moved=self._warn_once)
            await journal.open()
            self.journal = journal
            self.is_journal_open.set()
        return self.journal

    def _lost(self, sentence: str) -> None:
        log.error("journal record not written", reason=sentence)

    async def current(self) -> Engine:
        """Return the engine in force, built anew after an edit of the configuration.

        Raises:
            SettingsError: the configuration cannot be used, and no earlier one is in force.
            JournalError: the journal cannot be opened.
            WrongAccount: the credentials belong to another account than before.
            ProviderError: the cloud does not say which account the credentials belong to.
        """
        if self._engine is not None and self._source.current() is self._engine.configuration:
            return self._engine
        waiting_for.set("the cloud to say which account the credentials belong to")
        making = self._make_soon()
        if self._engine is not None:
            left = self._making_since + _PATIENCE_FOR_NEW - time.monotonic()
            await asyncio.wait([making], timeout=max(0.0, left))
            if not making.done():
                return self._engine
        return await asyncio.shield(making)

    async def sight(self) -> Sight:
        """Return the source of POLL answers: the engine in force, or the cloud alone while the journal is unusable.

        Raises:
            MadError: as `current`, but for a JournalError.
        """
        try:
            making = self._make_soon() if self._engine is None else None
            while making is not None and not making.done():
                await asyncio.wait([making], timeout=_PATIENCE_FOR_JOURNAL)
                if not making.done() and self._opened is not None and self.journal is None:
                    return self._opened[1]
            engine = await self.current()
        except JournalError as error:
            if self._opened is None:
                raise
            if self._told != str(error):
                self._told = str(error)
                self._warn_once(f"{error}; POLLs are answered meanwhile, all other actions fail")
            return self._opened[1]
        return Sight(cloud=engine.cloud, verbatim=engine.verbatim)

    def _is_in_force(self, configuration: Configuration) -> bool:
        """Return False once other settings are in force; newly edited ones are tried first.

        Until the edited ones work, a call that waits for the cloud would start again and again with the same settings.
        """
        if self._source.current() is not configuration:
            self._make_soon()
        return self._engine is None or self._engine.configuration is configuration

    def _make_soon(self) -> asyncio.Task[Engine]:
        """Return the task that builds the engine, shared by all callers; cancelling one does not stop it."""
        if self._making is None:
            self._making_since = time.monotonic()
            self._making = asyncio.create_task(self._renew(), name="make an engine")
            self._making.add_done_callback(self._made)
        return self._making

    async def _renew(self) -> Engine:
        async with self._lock:
            configuration = await asyncio.to_thread(self._source.current)
            if self._engine is None or self._engine.configuration is not configuration:
                self._engine = await self._replacement(configuration)
                gc.freeze()  # a provider's imports stay forever, so garbage collections need not scan them
            return self._engine

    def _made(self, making: asyncio.Task[Engine]) -> None:
        self._making = None
        if not making.cancelled():
            making.exception()  # mark it as retrieved: the waiting callers get it

    async def _replacement(self, configuration: Configuration) -> Engine:
        """Return the engine of new settings; while these do not work, the engine of the earlier ones."""
        before = self._engine
        try:
            engine = await self._make(configuration)
        except MadError as error:
            self._source.fall_back(error)
            if before is None:
                raise
            return before
        if before is not None:
            self._retire(before)
        self._source.put_in_force(configuration)
        return engine

    async def _make(self, configuration: Configuration) -> Engine:
        sight = await self._sight_of(configuration)
        try:
            journal = await self._journal_for(configuration)
            if sight.cloud is not None:
                await self._confirm_account(sight.cloud.provider, configuration, journal)
        except JournalError:
            raise  # POLLs need no journal: the open provider stays for them, and for the next try
        except BaseException:
            self._opened = None
            await _close(sight)
            raise
        self._opened, self._told = None, ""
        if sight.cloud is None:
            return Engine(configuration=configuration, journal=journal, verbatim=sight.verbatim)
        return Engine(
            configuration=configuration,
            journal=journal,
            cloud=sight.cloud,
            finder=Finder(sight.cloud, journal, time.time),
            costs_money=costs_money(configuration),
        )

    async def _sight_of(self, configuration: Configuration) -> Sight:
        """Return the opened provider of these settings, reusing one that was opened while the journal was unusable."""
        if self._opened is not None:
            opened_for, sight = self._opened
            if opened_for is configuration:
                return sight
            self._opened = None
            self._retire(sight)
        sight = await self._open(configuration)
        self._opened = (configuration, sight)
        return sight

    async def _open(self, configuration: Configuration) -> Sight:
        provider = await asyncio.to_thread(self._build, configuration)
        try:
            await provider.open()
        except BaseException as error:
            await provider.close()
            if isinstance(error, OSError):
                raise SettingsError(f"{configuration.name}: the provider cannot be opened: {error}") from error
            raise
        if isinstance(provider, VerbatimDriver):
            return Sight(verbatim=provider, is_certain=False)
        cloud = Cloud(
            provider,
            owner=configuration.settings.owner,
            retries=self._options.retries,
            call_timeout=configuration.settings.call_timeout,
            knowledge=self._knowledge,
            is_current=lambda: self._is_in_force(configuration),
        )
        return Sight(cloud=cloud, is_certain=False)

    async def _confirm_account(self, provider: Provider, configuration: Configuration, journal: Journal) -> None:
        """Refuse credentials of another account, where all our instances would seem to be gone (decision 16)."""
        try:
            async with asyncio.timeout(configuration.settings.call_timeout):
                account = await provider.account()
        except TimeoutError as error:
            raise ProviderUnavailable(f"{provider.name} did not say which account the credentials belong to") from error
        recorded = await journal.fact(_ACCOUNT)
        if recorded is None:
            await journal.set_fact(_ACCOUNT, account)
        elif recorded != account:
            raise WrongAccount(
                f"credentials now belong to account {account}, expected {recorded}: restore them, or run"
                f" one-provider journal accept {configuration.name} if that account is meant"
            )

    def _retire(self, engine: Engine | Sight) -> None:
        """Close an engine once every action that may use it has ended."""
        task = asyncio.create_task(_close_later(engine), name="retire an engine")
        self._retired[task] = engine
        task.add_done_callback(lambda done: self._retired.pop(done, None))

    async def close(self) -> None:
        """End running scripts, close the journal, which must record the answered requests, and then all providers."""
        opened = [self._opened[1]] if self._opened else []
        engines = [*self._retired.values(), *opened, *([self._engine] if self._engine else [])]
        for engine in engines:
            if engine.verbatim is not None:
                await engine.verbatim.close()
        if self.journal is not None:
            await self.journal.close()
        for task in list(self._retired):
            task.cancel()
        for engine in engines:
            if engine.cloud is not None:
                await engine.cloud.close()


async def _close_later(engine: Engine | Sight) -> None:
    await asyncio.sleep(_RETIRE_SECONDS)
    while engine.verbatim is not None and engine.verbatim.is_busy:  # noqa: ASYNC110 - an hour later is soon enough
        await asyncio.sleep(_RETIRE_SECONDS)  # scripts have no time limit
    await _close(engine)


async def _close(engine: Engine | Sight) -> None:
    if engine.cloud is not None:
        await engine.cloud.close()
    if engine.verbatim is not None:
        await engine.verbatim.close()
