"""Faults that the settings order, for calls to the simulated cloud, before and after a call takes effect.

Before: an outage, throttling, an error without effect, no return. Then the call takes effect. After: an answer that is
late or lost, a page of a listing that fails, instances missing in a listing.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog

from one_provider_mad import errors
from one_provider_mad.domain import Instance
from one_provider_mad.errors import NotReached, ProviderError, ProviderUnavailable, Throttled
from one_provider_mad.file_owner import open_file
from one_provider_mad.providers.simulated.settings import ACCOUNT, LISTINGS, Crash, FaultSettings, Order, Unseen

log = structlog.get_logger()

_Result = TypeVar("_Result")

_SECOND = 1.0


class Faults:
    """The faults for one client of the cloud.

    Args:
        settings: the table `[simulated.faults]`; at least one fault is ordered.
        crashes: the file with the count of crashes.
        clock: seconds since the epoch.
        warn: called when a crash cannot be counted, and so does not take place.
    """

    def __init__(
        self, settings: FaultSettings, *, crashes: Path, clock: Callable[[], float], warn: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._crashes = crashes
        self._clock = clock
        self._warn = warn
        self._throttle = Throttle(settings.calls_a_second, clock=clock)
        self._transient = Dice("transient", settings.transient, seed=settings.seed)
        self._permanent = Dice("permanent", settings.permanent, seed=settings.seed)
        self._hangs = Dice("hangs", settings.hangs, seed=settings.seed)
        self._lost_answers = Dice("lost_answers", settings.lost_answers, seed=settings.seed)
        self._late_answers = Dice("late_answers", settings.late_answers, seed=settings.seed)
        self._broken_listings = Dice("broken_listings", settings.broken_listings, seed=settings.seed)

    async def meet(self, call: str, send: Callable[[], Awaitable[_Result]]) -> _Result:
        """Send a call through all ordered faults, and return its answer.

        Raises:
            ProviderError: the cloud's error, or a fault's.
        """
        if call != ACCOUNT:
            if self._is_outage():
                raise NotReached(f"simulated did not answer {call}: an outage, by order of [simulated.faults]")
            self._throttle.admit(call)
        if self._transient.hits(call):
            raise ProviderUnavailable(f"simulated did not answer {call}, {self._transient.by_order}")
        if self._permanent.hits(call):
            raise self._refusal(call)
        if self._hangs.hits(call):
            await asyncio.get_running_loop().create_future()
        self._crash(f"before-{call}")
        answer = await send()
        self._crash(f"after-{call}")
        if self._settings.late_answers is not None and self._late_answers.hits(call):
            await asyncio.sleep(self._settings.late_answers.seconds)
        if self._lost_answers.hits(call):
            raise ProviderUnavailable(f"simulated did not answer {call}, {self._lost_answers.by_order}")
        return answer

    def shown(self, call: str, instances: Sequence[Instance]) -> Sequence[Instance]:
        """Return the instances that a listing shows.

        Raises:
            ProviderUnavailable: a page has failed, so the listing would be incomplete.
        """
        if self._broken_listings.hits(call):
            part = f"{(len(instances) + 1) // 2} of {len(instances)} instances"
            raise ProviderUnavailable(f"simulated answered {call} in part, {part}, {self._broken_listings.by_order}")
        unseen = self._settings.unseen
        if unseen is None or call not in (unseen.calls or LISTINGS):
            return instances
        return [instance for instance in instances if not self._is_unseen(instance, unseen)]

    def _is_unseen(self, instance: Instance, unseen: Unseen) -> bool:
        """Return True if listings leave the instance out: by its id alone, so that all processes' listings agree."""
        return zlib.crc32(f"{self._settings.seed} {instance.deploy_id}".encode()) < unseen.share * 2**32

    def _is_outage(self) -> bool:
        settings = self._settings
        if not settings.outages:
            return settings.outage
        now = datetime.fromtimestamp(self._clock(), tz=UTC).astimezone().time()
        return settings.outage or any(now in window for window in settings.outages)

    def _refusal(self, call: str) -> ProviderError:
        assert self._settings.permanent is not None  # noqa: S101 - its dice hit
        kind: type[ProviderError] = getattr(errors, self._settings.permanent.error)
        return kind(f"simulated refused {call}, {self._permanent.by_order}")

    def _crash(self, point: str) -> None:
        crash = self._settings.crash
        if crash is not None and crash.at == point and self._may_crash(crash):
            os.kill(os.getpid(), signal.SIGKILL)

    def _may_crash(self, crash: Crash) -> bool:
        """Return True when another crash is due; it is counted on disk first, since the process dies then."""
        if not crash.times:
            return True
        try:
            descriptor = open_file(self._crashes, os.O_RDWR | os.O_APPEND)
            with os.fdopen(descriptor, "r+") as file:
                file.seek(0)
                if file.read().split().count(crash.at) >= crash.times:
                    return False
                file.write(f"{crash.at}\n")
        except OSError as error:
            self._warn(f"crash {crash.at} left out, since it cannot be counted: {error}")
            return False
        return True


class Dice:
    """Decides which calls a fault hits.

    Args:
        name: the fault's key.
        order: names and number of the calls, None for none.
        seed: makes the decisions repeatable; None does not.
    """

    def __init__(self, name: str, order: Order | None, *, seed: int | str | None) -> None:
        self.by_order = f"by order of `{name}` in [simulated.faults]"
        self._name = name
        self._order = order
        self._seed = seed
        self._hits = 0
        self._random: dict[str, random.Random] = {}

    def hits(self, call: str) -> bool:
        """Return True when the fault hits this call; it counts as one hit then."""
        order = self._order
        if order is None or (call not in order.calls if order.calls else call == ACCOUNT):
            return False
        if order.times and self._hits >= order.times:
            return False
        if self._throw(call) >= order.rate:
            return False
        self._hits += 1
        log.info("fault by order", fault=self._name, call=call)
        return True

    def _throw(self, call: str) -> float:
        """Return the next random number for this call; each call name has a series of its own."""
        series = self._random.get(call)
        if series is None:
            seed = None if self._seed is None else f"{self._seed} {self._name} {call}"
            series = self._random[call] = random.Random(seed)  # noqa: S311 chance, not secrecy
        return series.random()


class Throttle:
    """Limits the calls in any one second.

    Args:
        limit: calls, 0 for any number.
        clock: seconds since the epoch.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._limit = limit
        self._admitted: deque[float] = deque(maxlen=limit)

    def admit(self, call: str) -> None:
        """Count a call. Raises Throttled above the limit, with the seconds to wait."""
        if not self._limit:
            return
        now = self._clock()
        if len(self._admitted) == self._limit:
            age = now - self._admitted[0]
            if 0 <= age < _SECOND:  # after the clock was set back the count starts anew
                raise Throttled(
                    f"simulated throttles {call}: more than {self._limit} calls a second, by order of"
                    " `calls_a_second` in [simulated.faults]",
                    retry_after=_SECOND - age,
                )
        self._admitted.append(now)
