"""Ask the cloud for usage figures that its listing lacks; sweeps never wait for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from one_provider_mad.domain import DeployId, Instance
from one_provider_mad.errors import MadError
from one_provider_mad.monitor.cloud_source import OpenCloud
from one_provider_mad.providers.interface import Figures, FigureSource, Provider

log = structlog.get_logger()

_CURRENT_PERIODS = 3.0
"""Periods after which CPU counts as unknown while asking fails; bytes and memory stay as they were."""


class FigureKeeper:
    """Asks a cloud for its instances' usage figures now and then, and keeps the latest.

    Args:
        time: seconds that never go backwards.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._known: Mapping[DeployId, Figures] = {}
        self._of: Provider | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = 0.0
        self._learnt_at = time()
        self._error = ""

    def ask(self, watched: OpenCloud, instances: Sequence[Instance]) -> None:
        """Start asking for the figures of the listed instances if due. Does not wait: later sweeps use the answer.

        After an edit of the configuration the new provider is asked at once.
        """
        provider = watched.provider
        if not isinstance(provider, FigureSource):
            self._known = {}
            return
        is_due = provider is not self._of or self._time() - self._asked_at >= provider.figures_period
        if is_due and self._asking is None:
            self._of, self._asked_at = provider, self._time()
            # The provider may need many calls for all figures, hence more time than for one call.
            limit = max(watched.call_timeout, provider.figures_period)
            self._asking = asyncio.create_task(self._learn(provider, instances, limit), name="ask for figures")

    async def _learn(self, provider: FigureSource, instances: Sequence[Instance], limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                self._known = await provider.figures(instances)
            self._learnt_at, self._error = self._time(), ""
        except (MadError, TimeoutError) as error:
            if self._time() - self._learnt_at >= _CURRENT_PERIODS * provider.figures_period:
                self._known = await asyncio.to_thread(_without_cpu, self._known)
            self._failed(str(error) or f"no answer within {limit:g} s")
        except Exception:
            log.exception("asking for figures failed unexpectedly")
        finally:
            self._asking = None

    def _failed(self, sentence: str) -> None:
        if sentence != self._error:
            self._error = sentence
            log.warning("figures not known", reason=sentence)

    def calls_under_way(self) -> list[asyncio.Task[None]]:
        """Return the task that asks the cloud, if there is one."""
        return [self._asking] if self._asking is not None else []

    def known(self) -> Mapping[DeployId, Figures]:
        """Return the latest figures, by instance. Callers must not change the mapping."""
        return self._known


def _without_cpu(known: Mapping[DeployId, Figures]) -> Mapping[DeployId, Figures]:
    return {
        deploy_id: msgspec.structs.replace(each, usage=each.usage and msgspec.structs.replace(each.usage, cpu=None))
        for deploy_id, each in known.items()
    }


def with_figures(instances: Sequence[Instance], known: Mapping[DeployId, Figures]) -> Sequence[Instance]:
    """Return the instances with the known figures filled in. Calls nothing."""
    if not known:
        return instances
    return [_with(each, known[each.deploy_id]) if each.deploy_id in known else each for each in instances]


def _with(instance: Instance, figures: Figures) -> Instance:
    return msgspec.structs.replace(
        instance,
        usage=figures.usage or instance.usage,
        attributes={**instance.attributes, **figures.attributes},
    )
