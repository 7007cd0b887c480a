"""Calls apart from listings: for CloudWatch's figures seldom, since they cost money, for EC2's plans more often."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

from one_provider_mad.domain import DeployId, Instance, InstanceState
from one_provider_mad.errors import ProviderError
from one_provider_mad.providers.ec2.batches import in_batches
from one_provider_mad.providers.ec2.cloudwatch import CloudWatch
from one_provider_mad.providers.ec2.notices import Notices, is_spot_instance
from one_provider_mad.providers.interface import Figures

_ALMOST = 0.9
"""Part of a source's period after which it is called again: after all of it, every other call would be too early."""


_NEVER = 3600.0
"""Seconds between two calls when neither figures nor notices are wanted."""


class Watch:
    """CloudWatch's figures and EC2's plans for instances, each read in its own period, also if the other fails.

    Args:
        cloudwatch: source of the figures, None for none.
        cloudwatch_period: seconds between two requests for figures.
        notices: source of EC2's plans, None for none.
        notices_period: seconds between two requests for scheduled events.
        interruptions_period: seconds between two requests for interruptions, while there are spot instances.
        is_ours: whether an instance is ours; figures are read for these only.
        clock: seconds of a clock that never goes back.
        warn: sends the operator one sentence.
    """

    def __init__(
        self,
        *,
        cloudwatch: CloudWatch | None,
        cloudwatch_period: float,
        notices: Notices | None,
        notices_period: float,
        interruptions_period: float,
        is_ours: Callable[[Instance], bool],
        clock: Callable[[], float],
        warn: Callable[[str], None],
    ) -> None:
        self._cloudwatch = cloudwatch
        self._notices = notices
        self._periods = {
            "figures": cloudwatch_period,
            "notices": notices_period,
            "interruptions": interruptions_period,
        }
        self._has_spot = False
        self._asked_at: dict[str, float] = {}
        self._is_ours = is_ours
        self._clock = clock
        self._warn = warn
        self._failures: dict[str, str] = {}

    async def figures(self, instances: Collection[Instance]) -> Mapping[DeployId, Figures]:
        """Return the figures of our instances so far."""
        ours = await in_batches(list(instances), lambda part: filter(self._is_ours, part))
        alive = await in_batches(ours, lambda part: [each for each in part if not each.state.is_gone])
        if self._notices is not None and ours:
            if self._is_due("interruptions"):
                loss = "interruptions of spot instances are not known"
                await self._try(loss, self._notices.learn_interruptions, ours)
            if self._is_due("notices"):
                await self._try("EC2's plans for instances are not known", self._notices.learn_events, ours)
        if self._cloudwatch is not None:
            self._cloudwatch.keep(alive)
            if self._is_due("figures"):
                running = [each for each in alive if each.state is InstanceState.RUNNING]
                await self._try("no new figures of instances", self._cloudwatch.learn, running)
        return dict(await in_batches(ours, self._figures_of))

    def _figures_of(self, instances: Sequence[Instance]) -> Iterator[tuple[DeployId, Figures]]:
        for each in instances:
            if (figures := self._of(each)) is not None:
                yield each.deploy_id, figures

    def expect_spot(self, instances: Sequence[Instance]) -> None:
        """Take note whether a whole listing has spot instances: only then is EC2 asked often."""
        self._has_spot = self._notices is not None and any(map(is_spot_instance, instances))

    @property
    def period(self) -> float:
        """Return the shortest period in seconds of the wanted sources.

        That of interruptions is as short as a sweep's usual period: a little less, or every other sweep would be too
        early.
        """
        wanted = {"figures": self._cloudwatch, "notices": self._notices}
        periods = [self._periods[name] for name, source in wanted.items() if source is not None]
        often = [_ALMOST * self._periods["interruptions"]] if self._has_spot else []
        return min((*periods, *often), default=_NEVER)

    def _is_due(self, name: str) -> bool:
        now = self._clock()
        if name in self._asked_at and now - self._asked_at[name] < _ALMOST * self._periods[name]:
            return False
        self._asked_at[name] = now
        return True

    async def _try(
        self, loss: str, learn: Callable[[Sequence[Instance]], Awaitable[None]], instances: Sequence[Instance]
    ) -> None:
        """Call `learn`; warn of its error, unless the call before failed with the same."""
        try:
            await learn(instances)
        except ProviderError as error:
            if self._failures.get(loss) != str(error):
                self._failures[loss] = str(error)
                self._warn(f"{loss}: {error}")
        else:
            self._failures.pop(loss, None)

    def _of(self, instance: Instance) -> Figures | None:
        is_running = instance.state is InstanceState.RUNNING
        source = None if instance.state.is_gone else self._cloudwatch
        measured = source.of(instance, is_running=is_running) if source else None
        notices = self._notices.of(instance) if self._notices else {}
        if measured is None:
            return Figures(attributes=notices) if notices else None
        return Figures(usage=measured.usage, attributes={**measured.attributes, **notices})
