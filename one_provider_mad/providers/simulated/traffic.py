"""Sends calls to the simulated cloud, with the latency and the faults of the settings."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from one_provider_mad.domain import Instance
from one_provider_mad.providers.simulated.faults import Faults
from one_provider_mad.providers.simulated.settings import ACCOUNT, FaultSettings, SimulatedSettings

_Result = TypeVar("_Result")


class Traffic:
    """Sends the calls of one client of the simulated cloud, with the latency and faults of the settings.

    Args:
        settings: the table `[simulated]`.
        crashes: the file with the count of crashes.
        clock: seconds since the epoch.
        warn: called when a crash cannot be counted, and so does not take place.
    """

    def __init__(
        self, settings: SimulatedSettings, *, crashes: Path, clock: Callable[[], float], warn: Callable[[str], None]
    ) -> None:
        self._latency, self._jitter = settings.latency, settings.jitter
        self._faults = (
            Faults(settings.faults, crashes=crashes, clock=clock, warn=warn)
            if settings.faults != FaultSettings()
            else None
        )

    async def call(self, name: str, send: Callable[[], Awaitable[_Result]]) -> _Result:
        """Send a call; with neither latency nor faults it takes no turn of the loop.

        `account` is answered at once: it is called after an edit of the settings, and with a long latency actions would
        go on with the old settings meanwhile.

        Args:
            name: one of `CALLS` (settings.py).
            send: takes effect, and returns the answer.

        Raises:
            ProviderError: the cloud's error, or a fault's.
        """
        if (self._latency or self._jitter) and name != ACCOUNT:
            extra = random.uniform(0, self._jitter)  # noqa: S311 chance, not secrecy
            await asyncio.sleep(self._latency + extra)
        return await (send() if self._faults is None else self._faults.meet(name, send))

    def shown(self, name: str, instances: Sequence[Instance]) -> Sequence[Instance]:
        """Return the instances that a listing shows.

        Raises:
            ProviderUnavailable: a page has failed, so the listing would be incomplete.
        """
        return instances if self._faults is None else self._faults.shown(name, instances)
