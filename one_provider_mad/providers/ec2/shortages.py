"""Remembers where EC2 lacked capacity for an instance type, so that the next VM tries others first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from one_provider_mad.providers.ec2.launch import Place, read_launch
from one_provider_mad.providers.interface import Parameters


class Shortages:
    """Instance types and their zones or subnets for which EC2 lacked capacity lately.

    Args:
        memory: seconds for which one is remembered.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, *, memory: float, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._clock = clock
        self._until: dict[Place, float] = {}

    def note(self, place: Place) -> None:
        """Remember that EC2 lacked capacity for this type, location and market."""
        now = self._clock()
        self._until = {each: end for each, end in self._until.items() if end > now}
        self._until[place] = now + self._memory

    def forget(self, place: Place) -> None:
        """Forget a shortage, after a create that succeeded."""
        self._until.pop(place, None)

    def ordered(self, alternatives: Sequence[Parameters]) -> tuple[Parameters, ...]:
        """Return all the alternatives, those with a recent shortage last: EC2 may have capacity again."""
        if not self._until:
            return tuple(alternatives)
        now = self._clock()
        return tuple(sorted(alternatives, key=lambda each: self._until.get(read_launch(each).place, 0.0) > now))
