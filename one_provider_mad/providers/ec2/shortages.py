"""A memory of what had no room, so that the next VM does not ask there first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from one_provider_mad.providers.ec2.launch import Place, read_launch
from one_provider_mad.providers.interface import Parameters


class Shortages:
    """Types and places that were short lately.

    Args:
        memory: seconds for which one is remembered.
        clock: seconds of any clock that goes on.
    """

    def __init__(self, *, memory: float, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._clock = clock
        self._until: dict[Place, float] = {}

    def note(self, place: Place) -> None:
        """There was no room."""
        now = self._clock()
        self._until = {each: end for each, end in self._until.items() if end > now}
        self._until[place] = now + self._memory

    def forget(self, place: Place) -> None:
        """There was room after all."""
        self._until.pop(place, None)

    def ordered(self, alternatives: Sequence[Parameters]) -> tuple[Parameters, ...]:
        """The same alternatives, those that were short lately last; none is left out, for it may have room by now."""
        if not self._until:
            return tuple(alternatives)
        now = self._clock()
        return tuple(sorted(alternatives, key=lambda each: self._until.get(read_launch(each).place, 0.0) > now))
