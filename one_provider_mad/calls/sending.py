"""Send a call to a provider, with a time limit and with retries where they are allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from one_provider_mad import metrics
from one_provider_mad.calls.waiting import Patience, SettingsReplaced, Waiting
from one_provider_mad.errors import ProviderError, ProviderUnavailable, Throttled

_Result = TypeVar("_Result")


class Sender:
    """Sends the calls of all actions to one provider.

    Args:
        name: the provider's name in messages.
        retries: further tries of a call after a passing error (`-r`).
        call_timeout: seconds after which a call fails.
        is_current: true while the provider's settings are in force.
    """

    def __init__(self, name: str, *, retries: int, call_timeout: float, is_current: Callable[[], bool]) -> None:
        self._name = name
        self._retries = retries
        self._call_timeout = call_timeout
        self._is_current = is_current

    async def call(
        self,
        operation: str,
        send: Callable[[], Awaitable[_Result]],
        waiting: Waiting,
        *,
        is_repeatable: bool = True,
    ) -> _Result:
        """Send one call, repeat it after a passing error where that is allowed, and return its result.

        Args:
            operation: the call's name in messages.
            send: sends the call, once.
            waiting: the reason and the patience of the action that needs the answer.
            is_repeatable: the call may be repeated after an uncertain answer.

        Raises:
            ProviderError: the cloud's last answer.
        """
        waiting.reason = f"the cloud's answer to {operation}"
        failures = pauses = 0
        while True:
            try:
                return await self._once(operation, send)
            except ProviderError as error:
                is_free = waiting.waits_out(error) and (is_repeatable or error.definite)
                failures += not is_free
                if not (is_free or self._may_retry(error, is_repeatable=is_repeatable, failures=failures)):
                    raise
                asked = error.retry_after
                if is_free and not isinstance(error, Throttled):
                    waiting.reason = f"{operation}: {error}"
                # The error itself is not kept: its traceback refers to this frame, and both would stay in memory.
            await waiting.pause(pauses, asked)
            pauses += 1
            if is_free:
                self.check_settings(waiting)
            if metrics.recorder is not None:
                metrics.recorder.repeated(operation)

    def check_settings(self, waiting: Waiting) -> None:
        """Raise SettingsReplaced once the provider's settings are replaced, unless the action's patience is SHORT."""
        if waiting.patience is not Patience.SHORT and not self._is_current():
            raise SettingsReplaced

    async def _once(self, operation: str, send: Callable[[], Awaitable[_Result]]) -> _Result:
        sent = self._in_time(operation, send)
        return await (sent if metrics.recorder is None else metrics.recorder.timed(operation, sent))

    async def _in_time(self, operation: str, send: Callable[[], Awaitable[_Result]]) -> _Result:
        limit = asyncio.timeout(self._call_timeout)
        try:
            async with limit:
                return await send()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ProviderUnavailable(
                f"{self._name} did not answer {operation} within {self._call_timeout:g} s"
            ) from error

    def _may_retry(self, error: ProviderError, *, is_repeatable: bool, failures: int) -> bool:
        if not (error.retryable and failures <= self._retries):
            return False
        return is_repeatable or error.definite  # a call that was not sent is sent for the first time
