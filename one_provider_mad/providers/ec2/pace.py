"""Limits the rate of calls: within EC2's budgets, and slower still while EC2 refuses.

EC2 counts calls for each account, region and action, in buckets that fill up again by the second
(docs.aws.amazon.com, "Request throttling for the Amazon EC2 API"). A bucket of our own for each action avoids refusals,
and leaves calls for other users of the account. A refusal slows its whole class of calls down, reads apart from writes:
without that the refusals would last longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from one_provider_mad.errors import Throttled
from one_provider_mad.providers.ec2.budgets import Budget, Tokens, buckets_of, class_of

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
"""Longest pause in seconds between two calls of a class; each refusal doubles the pause, each success halves it."""

LONGEST_WAIT = 5.0
"""Longest wait of a call in seconds; beyond it the call is refused, to be tried again later."""


NO_BUDGETS: Mapping[str, Budget] = {}


class _Bucket:
    """Our share of one token bucket; `full_at` is when it will be full again.

    Args:
        tokens: the account's bucket.
        share: our part of it.
    """

    def __init__(self, tokens: Tokens, share: float) -> None:
        self._seconds_a_call = 1 / (share * tokens.per_second)
        self._burst = max(1.0, share * tokens.burst)
        self._full_at = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until a call is allowed."""
        return max(0.0, self._full_at - now - (self._burst - 1) * self._seconds_a_call)

    def take(self, now: float) -> None:
        self._full_at = max(self._full_at, now) + self._seconds_a_call


class _Lane:
    def __init__(self) -> None:
        self.pause = 0.0
        self.free_at = 0.0


class Pace:
    """Limits the rate of calls.

    Args:
        share: our part of the account's token buckets.
        budgets: buckets by action that are not Amazon's for a new account.
        is_usual: actions without a budget have Amazon's buckets for a new account; else they have no limit.
    """

    def __init__(
        self, *, share: float = 1.0, budgets: Mapping[str, Budget] = NO_BUDGETS, is_usual: bool = False
    ) -> None:
        self._share = share
        self._budgets = budgets
        self._is_usual = is_usual
        self._lanes: dict[str, _Lane] = {}
        self._buckets: dict[str, list[_Bucket]] = {}

    @asynccontextmanager
    async def turn(self, action: str) -> AsyncIterator[None]:
        """Wait for this call's turn, and adjust the rate by its outcome.

        While a class of calls is slowed down, they go one after the other with a pause between two.

        Raises:
            Throttled: the wait would be too long; the call was not sent.
        """
        loop = asyncio.get_running_loop()
        lane = self._lanes.setdefault(class_of(action), _Lane())
        await self._wait(action, lane)
        try:
            yield
        except Throttled as error:
            lane.pause = min(max(FIRST_PAUSE, 2 * lane.pause, error.retry_after or 0.0), LONGEST_PAUSE)
            lane.free_at = max(lane.free_at, loop.time() + lane.pause)
            raise
        lane.pause = lane.pause / 2 if lane.pause > FIRST_PAUSE else 0.0

    async def _wait(self, action: str, lane: _Lane) -> None:
        now = asyncio.get_running_loop().time()
        buckets = self._buckets_of(action)
        waits = [bucket.wait(now) for bucket in buckets]
        wait = max(0.0, *waits, lane.free_at - now if lane.pause else 0.0)
        if wait > LONGEST_WAIT:
            # The caller has a deadline; a call that was never sent must not count as unanswered.
            # It is tried again in time for edited settings.
            pause = min(wait, LONGEST_PAUSE)
            raise Throttled(f"EC2: too many calls wait for {action} already", retry_after=pause)
        for bucket in buckets:
            bucket.take(now)
        if lane.pause:
            lane.free_at = now + wait + lane.pause
        if wait > 0 or lane.pause:
            await asyncio.sleep(wait)

    def _buckets_of(self, action: str) -> list[_Bucket]:
        if not (self._is_usual or action in self._budgets):
            return []
        if action not in self._buckets:
            tokens = buckets_of(action, self._budgets)
            self._buckets[action] = [_Bucket(each, self._share) for each in tokens]
        return self._buckets[action]
