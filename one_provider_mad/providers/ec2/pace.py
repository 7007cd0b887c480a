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
from typing import NamedTuple

from one_provider_mad.errors import Throttled

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
"""Longest pause in seconds between two calls of a class; each refusal doubles the pause, each success halves it."""

LONGEST_WAIT = 5.0
"""Longest wait of a call in seconds; beyond it the call is refused, to be tried again later."""


class Budget(NamedTuple):
    """Allowed rate of one action for an account in a region.

    Attributes:
        burst: calls at once.
        rate: calls a second in the long run.
    """

    burst: float
    rate: float


READS = Budget(burst=100, rate=20)
WRITES = Budget(burst=50, rate=5)
SPECIAL: Mapping[str, Budget] = {
    "RunInstances": Budget(burst=5, rate=2),
    "StartInstances": Budget(burst=5, rate=2),
    "GetMetricData": Budget(burst=50, rate=50),
}
"""EC2's and CloudWatch's budgets for accounts without an increase."""


class _Bucket:
    """Our share of one action's budget; `full_at` is when it will be full again.

    Args:
        budget: the account's.
        share: our part of it.
    """

    def __init__(self, budget: Budget, share: float) -> None:
        self._seconds_a_call = 1 / (share * budget.rate)
        self._burst = max(1.0, share * budget.burst)
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
        share: our part of the account's budgets; 0 for a cloud with unknown budgets.
    """

    def __init__(self, *, share: float = 0.0) -> None:
        self._share = share
        self._lanes: dict[str, _Lane] = {}
        self._buckets: dict[str, _Bucket] = {}

    @asynccontextmanager
    async def turn(self, action: str) -> AsyncIterator[None]:
        """Wait for this call's turn, and adjust the rate by its outcome.

        While a class of calls is slowed down, they go one after the other with a pause between two.

        Raises:
            Throttled: the wait would be too long; the call was not sent.
        """
        loop = asyncio.get_running_loop()
        lane = self._lanes.setdefault(_class_of(action), _Lane())
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
        bucket = self._bucket(action)
        wait = max(bucket.wait(now) if bucket else 0.0, lane.free_at - now if lane.pause else 0.0)
        if wait > LONGEST_WAIT:
            # The caller has a deadline; a call that was never sent must not count as unanswered.
            raise Throttled(f"EC2: too many calls wait for {action} already", retry_after=wait)
        if bucket:
            bucket.take(now)
        if lane.pause:
            lane.free_at = now + wait + lane.pause
        if wait > 0 or lane.pause:
            await asyncio.sleep(wait)

    def _bucket(self, action: str) -> _Bucket | None:
        if not self._share:
            return None
        if action not in self._buckets:
            usual = READS if _class_of(action) == "read" else WRITES
            self._buckets[action] = _Bucket(SPECIAL.get(action, usual), self._share)
        return self._buckets[action]


def _class_of(action: str) -> str:
    """Return the class of calls that EC2 slows down together; CloudWatch and STS are separate services."""
    if action.startswith("Get"):
        return action
    return "read" if action.startswith("Describe") else "write"
