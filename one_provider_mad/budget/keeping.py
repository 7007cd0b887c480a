"""Keeps the store of a budget in line with the cloud and the ledger while a driver runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from one_provider_mad.budget.admission import Budget, Limited
from one_provider_mad.budget.levels import Warned
from one_provider_mad.errors import MadError

log = structlog.get_logger()

PERIOD = 60.0
"""Seconds between two listings; before a refusal there is one more."""

_CHECK_SECONDS = 5.0
"""Seconds until the settings in force are asked for again."""


async def keep(current: Callable[[], Awaitable[Budget]], *, warn: Callable[[str], None]) -> None:
    """Bring the budget in force up to date every minute, for ever; a failure is logged once for each reason.

    Args:
        current: returns the budget in force. Raises MadError while there is none.
        warn: tells the operator that a limit is used to 80 or 100 per cent.
    """
    told, looked_at, warned = "", float("-inf"), Warned()
    while True:
        try:
            budget = await current()
            if isinstance(budget, Limited) and time.monotonic() - looked_at >= PERIOD:
                looked_at = time.monotonic()
                await budget.look()
                await budget.book()  # a ledger that cannot be read is no reason to forget what has ended
                for sentence in warned.news(await budget.levels()):
                    warn(sentence)
            told = ""
        except MadError as error:
            if str(error) != told:
                told = str(error)
                log.warning("budget not up to date", reason=told)
        await asyncio.sleep(_CHECK_SECONDS)
