"""Remembers types and places without room, so that the next VM tries others first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from one_provider_mad.providers.ec2.launch import Place, read_launch
from one_provider_mad.providers.interface import Parameters


class Shortages:
    """Types and places that had no room lately.

    Args:
        memory: seconds for which one is remembered.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, *, memory: float, clock: Callable[[], float]) -> None:
        self._memory = memory
        self._clock = clock
        self._until: dict[Place, float] = {}

    def note(self, place: Place) -> None:
        """Remember that the place had no room."""
        now = self._clock()
        self._until = {each: end for each, end in self._until.items() if end > now}
        self._until[place] = now + self._memory

    def forget(self, place: Place) -> None:
        """Forget a shortage: the place had room."""
        self._until.pop(place, None)

    def ordered(self, alternatives: Sequence[Parameters]) -> tuple[Parameters, ...]:
        """Return all the alternatives, those with a recent shortage last; each may have room by now."""
        if not self._until:
            return tuple(alternatives)
        now = self._clock()
        return tuple(sorted(alternatives, key=lambda each: self._until.get(read_launch(each).place, 0.0) > now))
