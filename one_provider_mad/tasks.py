"""Keeps tasks running after errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds until failed work is started again: twice as long each time, up to a minute."""


def is_cancelled(error: BaseException) -> bool:
    """Return True when this task was cancelled; a CancelledError that a library raises by itself is a defect."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def keep_running(
    work: Callable[[], Awaitable[None]], *, on_error: Callable[[BaseException, float], None]
) -> None:
    """Run work, again after every error, until it returns.

    Args:
        work: the work; it is called again after any error.
        on_error: called with each error and the seconds until the next call.
    """
    loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
    while True:
        begun = loop.time()
        try:
            await work()
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            if loop.time() - begun > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE  # it ran well for a while
            on_error(error, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            return
