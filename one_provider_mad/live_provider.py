"""Keeps one provider open for the configuration file as it stands, for both daemons (decisions 3, 16, 24).

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
"""An open provider whose account may not be confirmed yet, in the form that the daemon uses."""

Made = TypeVar("Made")
"""What the daemon works with once the account is confirmed."""


class _Live(NamedTuple, Generic[Opened, Made]):
    configuration: Configuration
    opened: Opened
    made: Made


class LiveProvider(ABC, Generic[Opened, Made]):
    """The open provider of one NAME.

    Args:
        name: NAME.
        places: the directories of configuration and state.
        warn: sends the operator one sentence.
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
        """Raise SettingsError for faults in the tables of a configuration that was just read."""

    @abstractmethod
    async def _open(self, configuration: Configuration) -> Opened:
        """Build a provider (`_build`, in a thread) and open it (`_open_provider`)."""

    @abstractmethod
    async def _confirm(self, configuration: Configuration, opened: Opened) -> Made:
        """Confirm the account of an open provider (`_confirm_account`); called again after a JournalError."""

    @abstractmethod
    async def _close(self, opened: Opened) -> None:
        """Close an open provider."""

    def _is_busy(self, _opened: Opened) -> bool:
        """Return True while a provider of earlier settings must not be closed: scripts have no time limit."""
        return False

    # The provider in force

    def _up_to_date(self) -> Made | None:
        """Return what was made of the file's settings; None if nothing was, or not yet since an edit."""
        if self._live is not None and self._source.current() is self._live.configuration:
            return self._live.made
        return None

    async def _read(self) -> Configuration:
        """Return the file's settings. Until some are in force, reading them may import a provider: for a thread."""
        if self._live is not None:
            return self._source.current()  # it may warn of an edit, which only the loop may do
        async with self._reading:  # a second thread would get the result from before the edit
            return await asyncio.to_thread(self._source.current)

    def _make_soon(self) -> asyncio.Task[Made]:
        """Return the task that makes anew what was edited, shared by all callers: wait for it, or shield it.

        Its result is of the earlier settings while the file's fail; without earlier ones it raises their MadError.
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
        gc.freeze()  # a provider's imports stay forever, so garbage collections need not scan them
        return live.made

    async def _make(self, configuration: Configuration) -> _Live[Opened, Made]:
        try:
            opened = await self._opened_for(configuration)
            made = await self._confirm(configuration, opened)
        except Exception as error:  # not when `_stop` cancels it: its caller closes the provider
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
        """Return the open provider of these settings, if possible the one of the last try."""
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
        """Refuse credentials of another account, where all our instances would seem to be gone (decision 16).

        Args:
            configuration: the provider's settings.
            provider: the provider, already open.
            recorded: is given the account of the credentials, and returns the recorded one, None for none.
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
        """Close a provider once no call can use it."""
        task = asyncio.create_task(self._close_later(opened), name="retire a provider")
        self._retired[task] = opened
        task.add_done_callback(lambda done: self._retired.pop(done, None))

    async def _close_later(self, opened: Opened) -> None:
        await asyncio.sleep(self._retire_after)
        while self._is_busy(opened):  # noqa: ASYNC110 - after another such time is soon enough
            await asyncio.sleep(self._retire_after)
        await self._close(opened)

    def _stop(self) -> list[Opened]:
        """Stop making and retiring, and return every open provider, for the caller to close."""
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
