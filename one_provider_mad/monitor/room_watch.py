"""Up to 5.10: see between oned's requests whether the cloud has room and home takes VMs: MONITOR may be minutes away.

oned accepts a report that it has not asked for (src/im/InformationManagerDriver.cc, protocol), as collectd's are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from one_provider_mad.errors import MadError
from one_provider_mad.monitor.settings import CHECK_SECONDS

log = structlog.get_logger()

Shown = tuple[int | None, int | None, str]
"""TOTALCPU, TOTALMEMORY and the warning of a report."""


class RoomWatch:
    """Has hosts reported whose room or warning has changed since oned has last asked.

    Args:
        has_news: whether the cloud's room, or home, may be another than at the last listing; raises MadError.
        report: reports on a host if it shows no longer the given values, and returns what it shows now.
    """

    def __init__(
        self, *, has_news: Callable[[], Awaitable[bool]], report: Callable[[int, Shown], Awaitable[Shown]]
    ) -> None:
        self._has_news = has_news
        self._report = report
        self._reported: dict[int, Shown] = {}
        self._watching: asyncio.Task[None] | None = None

    def reported(self, host_id: int, shown: Shown) -> None:
        """Take what oned was told of a host; the watch begins with the first one."""
        self._reported[host_id] = shown
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="watch the room")

    def forget(self, host_id: int) -> None:
        """Watch a host no longer."""
        self._reported.pop(host_id, None)

    async def stop(self) -> None:
        """End the watch."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self._look()
            except MadError as error:
                log.info("room not known", reason=str(error))  # the next report says so
            except Exception:
                log.exception("room not known")

    async def _look(self) -> None:
        if not await self._has_news():
            return
        for host_id, shown in list(self._reported.items()):
            now = await self._report(host_id, shown)
            if host_id in self._reported:
                self._reported[host_id] = now
