"""How fast calls may be sent: within EC2's budgets, and slower still while it refuses.

EC2 counts calls for each account, region and action, in buckets that fill up again by the second
(docs.aws.amazon.com, "Request throttling for the Amazon EC2 API"). A bucket of our own for each action keeps us from
being refused, and leaves something to others in the account. A refusal slows its whole class of calls down, reads apart
from writes: a caller that goes on as before only makes the refusals last longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from one_provider_mad.errors import Throttled

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
"""Seconds that a class of calls waits after a refusal: doubled each time, halved by each success."""

LONGEST_WAIT = 5.0
"""Seconds that a call waits here; rather than longer it is refused, and comes again."""


class Budget(NamedTuple):
    """How many calls of one action an account may make in a region.

    Attributes:
        burst: at once.
        rate: a second, for ever.
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
"""EC2's and CloudWatch's budgets where nobody has asked for more."""


class _Bucket:
    """One action's share of its budget; `full_at` is when it will be full again.

    Args:
        budget: as the account has it.
        share: the part of it that is ours.
    """

    def __init__(self, budget: Budget, share: float) -> None:
        self._seconds_a_call = 1 / (share * budget.rate)
        self._burst = max(1.0, share * budget.burst)
        self._full_at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until there is a call to be had."""
        return max(0.0, self._full_at - now - (self._burst - 1) * self._seconds_a_call)

    def take(self, now: float) -> None:
        self._full_at = max(self._full_at, now) + self._seconds_a_call


class _Lane:
    def __init__(self) -> None:
        self.pause = 0.0
        self.free_at = 0.0


class Pace:
    """How fast calls may be sent.

    Args:
        share: the part of the account's budgets that is ours; 0 for a cloud whose budgets nobody knows.
    """

    def __init__(self, *, share: float = 0.0) -> None:
        self._share = share
        self._lanes: dict[str, _Lane] = {}
        self._buckets: dict[str, _Bucket] = {}

    @asynccontextmanager
    async def turn(self, action: str) -> AsyncIterator[None]:
        """Wait for this call's turn, and learn from how it went.

        While a class of calls is slowed down its calls go one after the other, a pause between two.

        Raises:
            Throttled: its turn is too far away; it was not sent.
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
            # Whoever asks bounds each call in time; one that was never sent must not look unanswered.
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
    """What EC2 slows down together; CloudWatch and STS are services of their own."""
    if action.startswith("Get"):
        return action
    return "read" if action.startswith("Describe") else "write"
