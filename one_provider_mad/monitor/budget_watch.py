"""Reads beside the sweeps how far the limits of `[budget]` are used, for hosts to show; no sweep waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from one_provider_mad import metrics
from one_provider_mad.errors import MadError

if TYPE_CHECKING:
    from one_provider_mad.budget.records import Level

log = structlog.get_logger()

LOOK_SECONDS = 30.0
"""Least seconds between two looks; the action driver writes what is spent every minute."""

ReadLevels = Callable[[], "Sequence[Level]"]
"""Reads how far limits are used; it reads files, and raises MadError."""


class BudgetWatch:
    """Knows how far limits are used.

    Args:
        time: seconds that never go backwards.

    Attributes:
        warning: which limits are used to 80 or 100 per cent, for hosts to show; "" for none.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._due_at = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._complaint = ""
        self.warning = ""

    def ask(self, read: ReadLevels | None) -> None:
        """Start a look if one is due, and do not wait: a later sweep shows what it has found.

        Args:
            read: reads how far limits are used; None where there are none.
        """
        if read is None:
            self._set(())
        elif self._reading is None and self._time() >= self._due_at:
            self._due_at = self._time() + LOOK_SECONDS
            self._reading = asyncio.create_task(self._look(read), name="look at the budget")

    def calls_under_way(self) -> list[asyncio.Task[None]]:
        """Return the task that reads."""
        return [self._reading] if self._reading is not None else []

    async def _look(self, read: ReadLevels) -> None:
        try:
            levels = await asyncio.to_thread(read)
            self._set(levels)
            self._complaint = ""
            if not levels:
                self._due_at = 0.0  # the action driver has not made its file yet
        except MadError as error:
            if str(error) != self._complaint:
                log.warning("use of limits not known", reason=str(error))
            self._complaint = str(error)
            self._set(())
        except Exception:
            log.exception("use of limits not known")
        finally:
            self._reading = None

    def _set(self, levels: Sequence[Level]) -> None:
        self.warning = _standing(levels) if levels else ""
        if metrics.recorder is not None:
            metrics.recorder.limited((f"{each.table}.{each.key}", each.used, each.limit) for each in levels)


def _standing(levels: Sequence[Level]) -> str:
    from one_provider_mad.budget.levels import standing  # only where there are limits

    return standing(levels)
