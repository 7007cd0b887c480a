"""Keeps a provider open for the present configuration file, in both drivers (decisions 3, 16, 24).

New settings come into force once their provider is open and its credentials belong to the recorded account. Until then,
and after a wrong edit, the provider of the earlier settings stays in use; it is closed once no call can use it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

import structlog

from one_provider_mad.errors import JournalError, MadError, ProviderUnavailable, SettingsError, WrongAccount
from one_provider_mad.providers.interface import Arguments, Provider, VerbatimDriver
from one_provider_mad.providers.registry import NO_ARGUMENTS, build
from one_provider_mad.settings import Configuration, Places, SettingsSource

log = structlog.get_logger()

ACCOUNT = "account"
"""Name of the journal's fact that holds the account of the credentials."""

Opened = TypeVar("Opened")
"""The type of an open provider whose account may not be confirmed yet; each daemon has its own."""

Made = TypeVar("Made")
"""The type of the object that a daemon makes of the provider once its account is confirmed."""


class _Live(NamedTuple, Generic[Opened, Made]):
    configuration: Configuration
    opened: Opened
    made: Made


class LiveProvider(ABC, Generic[Opened, Made]):
    """Opens, replaces and closes the provider of one configuration NAME.

    Args:
        name: NAME.
        places: the directories of configuration and state.
        warn: writes a warning to the driver's log and to oned.log.
        arguments: the ARGUMENTS that concern scripts.
        retire_after: seconds until the provider of earlier settings is closed; longer than any call that may use it.
    """

    def __init__(
        self,
        name: str,
        places: Places,
        *,
        warn: Callable[[str], None],
        arguments: Arguments = NO_ARGUMENTS,
        retire_after: float,
    ) -> None:
        self._places = places
        self._warn = warn
        self._arguments = arguments
        self._retire_after = retire_after
        self._source = SettingsSource(name, places, check=self._check, warn=self._log_and_warn)
        self._live: _Live[Opened, Made] | None = None
        self._unconfirmed: tuple[Configuration, Opened] | None = None
        self._retired: dict[asyncio.Task[None], Opened] = {}
        self._making: asyncio.Task[Made] | None = None
        self._making_since = 0.0
        self._reading = asyncio.Lock()

    def _log_and_warn(self, sentence: str) -> None:
        log.warning("operator warned", reason=sentence)
        self._warn(sentence)

    # Implemented by each daemon

    @abstractmethod
    def _check(self, configuration: Configuration) -> None:
        """Raise SettingsError for a wrong value in the tables of a configuration that was just read."""

    @abstractmethod
    async def _open(self, configuration: Configuration) -> Opened:
        """Build a provider (`_build`, in a thread) and open it (`_open_provider`)."""

    @abstractmethod
    async def _confirm(self, configuration: Configuration, opened: Opened) -> Made:
        """Confirm the provider's account and return the daemon's object for it; called again after a JournalError."""

    @abstractmethod
    async def _close(self, opened: Opened) -> None:
        """Close an open provider."""

    def _is_busy(self, _opened: Opened) -> bool:
        """Return True while a provider of earlier settings must not be closed: scripts have no time limit."""
        return False

    # The provider in force

    def _up_to_date(self) -> Made | None:
        """Return the object made of the file's settings; None if they failed, or were edited since."""
        if self._live is not None and self._source.current() is self._live.configuration:
            return self._live.made
        return None

    async def _read(self) -> Configuration:
        """Return the file's settings. Until some are in force this may import a provider, so it runs in a thread."""
        if self._live is not None:
            return self._source.current()  # on the event loop, since it may warn of an edit
        async with self._reading:  # a second thread would get the result from before the edit
            return await asyncio.to_thread(self._source.current)

    def _make_soon(self) -> asyncio.Task[Made]:
        """Return the task that opens the provider of edited settings; all callers share it, so await it shielded.

        While the file's settings fail, its result is that of the earlier ones; without earlier ones it raises MadError.
        """
        if self._making is None:
            self._making_since = time.monotonic()
            self._making = asyncio.create_task(self._renew(), name="make a provider")
            self._making.add_done_callback(self._end_making)
        return self._making

    def _end_making(self, making: asyncio.Task[Made]) -> None:
        self._making = None
        if not making.cancelled():
            making.exception()  # mark it as retrieved: the waiting callers get it

    async def _renew(self) -> Made:
        configuration, before = await self._read(), self._live
        if before is not None and before.configuration is configuration:
            return before.made
        try:
            live = await self._make(configuration)
        except MadError as error:
            self._source.fall_back(error)
            if before is None:
                raise
            return before.made
        if before is not None:
            self._retire(before.opened)
        self._live = live
        self._source.put_in_force(configuration)
        if configuration.caution:
            self._log_and_warn(f"{configuration.caution}; until then VMs are reported, and all actions but POLLs fail")
        gc.freeze()  # a provider's imports stay forever, so garbage collections need not scan them
        return live.made

    async def _make(self, configuration: Configuration) -> _Live[Opened, Made]:
        try:
            opened = await self._opened_for(configuration)
            made = await self._confirm(configuration, opened)
        except Exception as error:  # not when `_stop` cancels this task: the caller of `_stop` closes the provider
            if self._live is None and isinstance(error, JournalError):
                raise  # the open provider stays, for POLLs and for the next try
            if self._unconfirmed is not None:
                (_, opened), self._unconfirmed = self._unconfirmed, None
                await self._close(opened)
            if isinstance(error, OSError):
                raise SettingsError(f"{configuration.name}: the provider cannot be opened: {error}") from error
            raise
        self._unconfirmed = None
        return _Live(configuration, opened, made)

    async def _opened_for(self, configuration: Configuration) -> Opened:
        """Return an open provider of these settings, also one that an earlier, failed try has left open."""
        if self._unconfirmed is not None:
            opened_for, opened = self._unconfirmed
            if opened_for is configuration:
                return opened
            self._unconfirmed = None
            self._retire(opened)
        opened = await self._open(configuration)
        self._unconfirmed = (configuration, opened)
        return opened

    def _build(self, configuration: Configuration) -> Provider | VerbatimDriver:
        return build(configuration, self._places, self._warn, self._arguments)

    @staticmethod
    async def _open_provider(provider: Provider | VerbatimDriver) -> None:
        """Open a provider, and close it again if that fails or is cancelled."""
        try:
            await provider.open()
        except BaseException:
            await provider.close()
            raise

    @staticmethod
    async def _confirm_account(
        configuration: Configuration, provider: Provider, recorded: Callable[[str], Awaitable[str | None]]
    ) -> None:
        """Refuse credentials of another account, in which all our instances would seem to be gone (decision 16).

        Args:
            configuration: the provider's settings.
            provider: the provider, already open.
            recorded: called with the account of the credentials; returns the recorded one, None for none.
        """
        try:
            async with asyncio.timeout(configuration.settings.call_timeout):
                account = await provider.account()
        except TimeoutError as error:
            raise ProviderUnavailable(f"{provider.name} did not say which account the credentials belong to") from error
        expected = await recorded(account)
        if expected not in (None, account):
            raise WrongAccount(
                f"credentials now belong to account {account}, expected {expected}: restore them, or run"
                f" one-provider journal accept {configuration.name} if that account is meant"
            )

    # Closing

    def _retire(self, opened: Opened) -> None:
        """Close a provider after `retire_after`, when no call can use it any more."""
        task = asyncio.create_task(self._close_later(opened), name="retire a provider")
        self._retired[task] = opened
        task.add_done_callback(lambda done: self._retired.pop(done, None))

    async def _close_later(self, opened: Opened) -> None:
        await asyncio.sleep(self._retire_after)
        while self._is_busy(opened):  # noqa: ASYNC110 - after another such time is soon enough
            await asyncio.sleep(self._retire_after)
        await self._close(opened)

    def _stop(self) -> list[Opened]:
        """Cancel opening and closing, and return every open provider, which the caller closes."""
        if self._making is not None:
            self._making.cancel()
        for task in self._retired:
            task.cancel()
        unconfirmed = [self._unconfirmed[1]] if self._unconfirmed is not None else []
        live = [self._live.opened] if self._live is not None else []
        return [*self._retired.values(), *unconfirmed, *live]

    async def _stopped(self) -> None:
        """Wait, after `_stop`, until a provider that was just being opened is closed."""
        if self._making is not None:
            await asyncio.wait([self._making])
