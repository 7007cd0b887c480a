"""Have the cloud's provider read prices beside the sweeps, and rank the host by the price of a usual instance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from one_provider_mad.domain import Instance
from one_provider_mad.errors import MadError
from one_provider_mad.monitor.cloud_source import OpenCloud, ReportSettings
from one_provider_mad.pricing.values import UNKNOWN, Price
from one_provider_mad.providers.interface import PriceSource, Provider, UsualPrice

log = structlog.get_logger()

PERIOD = 60.0
"""Seconds between two readings; the provider itself decides what is old enough to be asked of the cloud again."""

_LIMIT = 600.0
"""Most seconds that a reading may take: a region's price list is many pages long."""


class PriceReader:
    """Calls `read_prices` now and then, and keeps the price of a usual instance.

    Args:
        time: seconds that never go backwards.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._of: Provider | None = None
        self._asked_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._ended: set[asyncio.Task[None]] = set()
        self._usual: Price | None = None
        self._error = ""

    def ask(self, watched: OpenCloud, instances: Sequence[Instance], settings: ReportSettings) -> None:
        """Start a reading if one is due. Does not wait: later sweeps have the prices.

        After an edit of the configuration the new provider reads at once; a reading of the former one is cancelled.
        """
        provider = watched.provider
        if provider is not self._of:
            self._replace(provider)
        elif self._asking is not None or self._time() - self._asked_at < PERIOD:
            return
        if not isinstance(provider, PriceSource):
            self._usual = UNKNOWN
            return
        self._asked_at = self._time()
        self._asking = asyncio.create_task(self._read(provider, instances, settings), name="read prices")
        self._asking.add_done_callback(self._end)

    def priority_text(self, settings: ReportSettings) -> str | None:
        """Return PRIORITY of the host; None while prices have not been read, for the one that it has.

        With `priority = "price"` it is -1 less the price of a usual instance, -1 if that is unknown.
        """
        monitor = settings.monitor
        if monitor.priority != "price":
            return monitor.priority_text(None)
        return None if self._usual is None else monitor.priority_text(self._usual.amount)

    def calls_under_way(self) -> list[asyncio.Task[None]]:
        """Return the tasks that read prices."""
        return [*self._ended, *([self._asking] if self._asking is not None else [])]

    def _replace(self, provider: Provider) -> None:
        self._of, self._error = provider, ""
        if self._asking is not None:
            self._asking.cancel()
            self._ended.add(self._asking)
            self._asking = None

    def _end(self, task: asyncio.Task[None]) -> None:
        self._ended.discard(task)
        if task is self._asking:
            self._asking = None

    async def _read(self, provider: PriceSource, instances: Sequence[Instance], settings: ReportSettings) -> None:
        try:
            async with asyncio.timeout(_LIMIT):
                await provider.read_prices(instances)
            self._error = ""
        except (MadError, TimeoutError) as error:
            self._complain(str(error) or f"no answer within {_LIMIT:g} s")
        except Exception:
            log.exception("reading prices failed unexpectedly")
        if settings.monitor.priority == "price":
            self._usual = await _usual_price(provider, settings)

    def _complain(self, sentence: str) -> None:
        if sentence != self._error:
            self._error = sentence
            log.warning("prices not read", reason=sentence)


async def _usual_price(provider: PriceSource, settings: ReportSettings) -> Price:
    """Return the price of a usual instance. A cloud has a thousand types: they are compared in a thread."""
    if not isinstance(provider, UsualPrice):
        return UNKNOWN
    try:
        return await asyncio.to_thread(provider.usual_price, tuple(settings.capacity.instance_types))
    except Exception:
        log.exception("the price of a usual instance is not known")
        return UNKNOWN
