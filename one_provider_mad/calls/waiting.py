"""How long an action goes on asking a cloud that does not answer, and what it waits for meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

from one_provider_mad.errors import ProviderError, Throttled

_Result = TypeVar("_Result")

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 20.0
"""Seconds between tries: doubled from the first to the longest, and some jitter."""

_DOUBLED_AT_MOST = 10
"""Times; the longest pause has come by then."""


class Patience(Enum):
    """Errors after which an action asks again until its deadline; these tries do not count as retries."""

    SHORT = "throttled"
    """Throttling: for a POLL or a debt, which may come back later."""

    OUTAGE = "not carried out"
    """Errors that certainly had no effect: an outage is no try."""

    ANY = "passing"
    """Every error that passes: stopping or terminating twice does no harm."""


class SettingsReplaced(Exception):
    """The settings have changed while the action waits for the cloud."""


class Waiting:
    """What one action waits for, and how it waits.

    Args:
        patience: errors after which it asks again.
        rest: waits for so many seconds between two tries; other actions may have its place meanwhile.

    Attributes:
        reason: what it waits for now, for the sentence of a missed deadline.
    """

    __slots__ = ("patience", "reason", "rest")

    def __init__(
        self, *, patience: Patience = Patience.SHORT, rest: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.patience = patience
        self.rest = rest
        self.reason = "its turn"

    def goes_on(self, error: ProviderError) -> bool:
        """True when the action asks again after this error, with no limit on the tries."""
        match self.patience:
            case Patience.SHORT:
                return isinstance(error, Throttled)
            case Patience.OUTAGE:
                return error.is_paced
            case Patience.ANY:
                return error.retryable

    async def persist(
        self, operation: str, ask: Callable[[], Awaitable[_Result]], *, keep_on: Callable[[], None] = lambda: None
    ) -> _Result:
        """Ask until there is an answer, for as long as the action goes on.

        Args:
            operation: its name in sentences.
            ask: asks once, with its own retries.
            keep_on: raises when it makes no sense to ask again.

        Raises:
            ProviderError: an error after which the action does not go on.
        """
        pauses = 0
        while True:
            try:
                return await ask()
            except ProviderError as error:
                if not self.goes_on(error):
                    raise
                self.reason = f"{operation}: {error}"
                asked = error.retry_after
            await self.pause(pauses, asked)
            pauses += 1
            keep_on()

    async def pause(self, before: int, asked: float | None) -> None:
        """Wait between two tries.

        Args:
            before: how many pauses there were before this one.
            asked: seconds that the cloud asks for instead; None when it does not.
        """
        seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(before, _DOUBLED_AT_MOST))
        await self.rest(asked or seconds + random.uniform(0, _FIRST_PAUSE))  # noqa: S311 - jitter is no secret
