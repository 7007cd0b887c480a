"""The way to the simulated cloud and back: as long as the settings say, and with the faults that they order."""

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
    """What one client's calls meet on their way.

    Args:
        settings: the table `[simulated]`.
        crashes: the file that counts crashes.
        clock: seconds since the epoch.
        warn: told when a crash cannot be counted, and so does not take place.
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
        """Send a call; with neither latency nor faults it takes not even a turn of the loop.

        `account` is answered at once: it is asked when the settings were edited, and actions would go on with the
        settings from before while a long latency lasts.

        Args:
            name: one of `CALLS` (settings.py).
            send: has the effect, and returns the answer.

        Raises:
            ProviderError: what the cloud, or a fault, answered.
        """
        if (self._latency or self._jitter) and name != ACCOUNT:
            extra = random.uniform(0, self._jitter)  # noqa: S311 chance, not secrecy
            await asyncio.sleep(self._latency + extra)
        return await (send() if self._faults is None else self._faults.meet(name, send))

    def shown(self, name: str, instances: Sequence[Instance]) -> Sequence[Instance]:
        """What a listing shows of what there is.

        Raises:
            ProviderUnavailable: a page has failed, so that the listing would not be whole.
        """
        return instances if self._faults is None else self._faults.shown(name, instances)
