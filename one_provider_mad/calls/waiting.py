"""The errors of a cloud that an action waits out until its deadline, and the reason why it waits."""

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
"""Seconds between two tries of a call, from the first pause, doubled each time, to the longest; plus some jitter."""

_DOUBLED_AT_MOST = 10
"""Doublings of the first pause after which the longest is reached: it limits the exponent."""


class Patience(Enum):
    """Errors that an action waits out: it repeats its call until its deadline; these tries do not count as retries."""

    SHORT = "throttled"
    """Throttling only: for a POLL or a debt, which is tried again later anyway."""

    OUTAGE = "not carried out"
    """Errors of calls that certainly had no effect, as in an outage."""

    ANY = "passing"
    """Every passing error: for stopping and terminating, which may be repeated."""


class SettingsReplaced(Exception):
    """The settings have changed while an action waited for the cloud: it begins again with the new ones."""


class Waiting:
    """What one action waits for, and which errors of the cloud it waits out.

    Args:
        patience: errors that it waits out.
        rest: waits so many seconds between two tries; the lane's place may be given to another action meanwhile.

    Attributes:
        reason: what it waits for at present, for the sentence of a missed deadline.
    """

    __slots__ = ("patience", "reason", "rest")

    def __init__(
        self, *, patience: Patience = Patience.SHORT, rest: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.patience = patience
        self.rest = rest
        self.reason = "its turn"

    def waits_out(self, error: ProviderError) -> bool:
        """True for an error that the action waits out, with no limit on the number of tries."""
        match self.patience:
            case Patience.SHORT:
                return isinstance(error, Throttled)
            case Patience.OUTAGE:
                return error.is_paced
            case Patience.ANY:
                return error.retryable

    async def persist(
        self,
        operation: str,
        ask: Callable[[], Awaitable[_Result]],
        *,
        check_settings: Callable[[], None] = lambda: None,
    ) -> _Result:
        """Repeat `ask` until it succeeds, after every error that the action waits out.

        Args:
            operation: the call's name in messages.
            ask: sends the call, with its own retries.
            check_settings: called before each repetition; raises when the settings are no longer in force.

        Raises:
            ProviderError: an error that the action does not wait out.
        """
        pauses = 0
        while True:
            try:
                return await ask()
            except ProviderError as error:
                if not self.waits_out(error):
                    raise
                self.reason = f"{operation}: {error}"
                asked = error.retry_after
            await self.pause(pauses, asked)
            pauses += 1
            check_settings()

    async def pause(self, before: int, asked: float | None) -> None:
        """Wait between two tries.

        Args:
            before: how many pauses there were before this one.
            asked: seconds that the cloud asks for (Retry-After) instead of the pause, None when it does not.
        """
        seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(before, _DOUBLED_AT_MOST))
        await self.rest(asked or seconds + random.uniform(0, _FIRST_PAUSE))  # noqa: S311 - jitter is no secret
