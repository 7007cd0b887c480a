"""Throttling slows everyone down: calls of a class that EC2 has just refused wait, reads apart from writes.

EC2 counts calls for each account, region and class of action (docs.aws.amazon.com, "Request throttling for the Amazon
EC2 API"); a caller that goes on as before only makes the refusals last longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from one_provider_mad.errors import Throttled

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
"""Seconds that a class of calls waits after a refusal: doubled each time, halved by each success."""

LONGEST_WAIT = 5.0
"""Seconds that a call waits here; rather than longer it is refused, and comes again."""


class _Lane:
    def __init__(self) -> None:
        self.pause = 0.0
        self.free_at = 0.0


class Pace:
    """How fast calls may be sent."""

    def __init__(self) -> None:
        self._lanes = {True: _Lane(), False: _Lane()}

    @asynccontextmanager
    async def turn(self, action: str) -> AsyncIterator[None]:
        """Wait for this call's turn, and learn from how it went.

        While a class of calls is slowed down its calls go one after the other, a pause between two.
        """
        loop = asyncio.get_running_loop()
        lane = self._lanes[action.startswith(("Describe", "Get"))]
        if lane.pause:
            begin = max(lane.free_at, loop.time())
            if (wait := begin - loop.time()) > LONGEST_WAIT:
                # Whoever asks bounds each call in time; one that was never sent must not look unanswered.
                raise Throttled(f"EC2: too many calls wait for {action} already", retry_after=wait)
            lane.free_at = begin + lane.pause
            await asyncio.sleep(wait)
        try:
            yield
        except Throttled as error:
            lane.pause = min(max(FIRST_PAUSE, 2 * lane.pause, error.retry_after or 0.0), LONGEST_PAUSE)
            lane.free_at = max(lane.free_at, loop.time() + lane.pause)
            raise
        lane.pause = lane.pause / 2 if lane.pause > FIRST_PAUSE else 0.0
