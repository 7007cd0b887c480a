"""Tell from the refusals in the journal whether the cloud lacks room for the instances that VMs usually get."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from one_provider_mad.domain import Value
from one_provider_mad.journal.records import ANY_ROOM, Shortage
from one_provider_mad.providers.interface import Provider, RoomSource

LIMIT_SECONDS = 600.0
"""Seconds for which a limit counts that the driver knows only from a refused create: it may have been raised since."""


_MOST_NAMED = 4
"""Most types and places that a warning names."""


class Closure(Value, frozen=True, kw_only=True):
    """The reason why a host has no room.

    Attributes:
        shortage: the latest of the refusals that leave none.
        rooms: what the cloud has no room for, empty for anything.
        seconds: for how long each of the refusals counts.
    """

    shortage: Shortage
    rooms: tuple[str, ...]
    seconds: float

    @property
    def sentence(self) -> str:
        """The warning that the host shows."""
        named = ", ".join(self.rooms[:_MOST_NAMED]) + (", …" if len(self.rooms) > _MOST_NAMED else "")
        return (
            f"the cloud has no room for {named or 'another instance'}: this host shows no free CPU for"
            f" {self.seconds:g} s, or until an instance is created; {self.shortage.text}"
        )


class Shortages:
    """The refusals of the action driver that still count.

    Args:
        time: seconds that never go backwards.
        clock: seconds since the epoch.
    """

    def __init__(self, *, time: Callable[[], float], clock: Callable[[], float]) -> None:
        self._time = time
        self._clock = clock
        self._begun: dict[Shortage, float] = {}

    def note(self, shortages: Sequence[Shortage]) -> None:
        """Take all refusals in the journal; the age of each is measured once, since the clock may be set."""
        now, clock = self._time(), self._clock()
        self._begun = {each: self._begun.get(each, now - max(0.0, clock - each.at)) for each in shortages}

    def has(self, shortages: Sequence[Shortage]) -> bool:
        """Return True if these are the refusals that were taken last."""
        return self._begun.keys() == set(shortages)

    def closure(self, provider: Provider, types: Collection[str]) -> Closure | None:
        """Return why no usual VM finds room in the cloud, None while one may. Calls nothing.

        Args:
            provider: the cloud.
            types: the instance types of `[capacity]`.
        """
        short = {each.room: each for each in self._begun if self._counts(each, provider)}
        whole = short.get(ANY_ROOM)
        usual = set(provider.usual_rooms(types)) if isinstance(provider, RoomSource) else set()
        if whole is None and not (usual and usual <= short.keys()):
            return None
        latest = whole or max((short[room] for room in usual), key=lambda each: each.at)
        rooms = () if whole is not None else tuple(sorted(usual))
        return Closure(shortage=latest, rooms=rooms, seconds=_memory(latest, provider))

    def _counts(self, shortage: Shortage, provider: Provider) -> bool:
        return self._time() < self._begun[shortage] + _memory(shortage, provider)


def _memory(shortage: Shortage, provider: Provider) -> float:
    if shortage.is_limit or not isinstance(provider, RoomSource):
        return LIMIT_SECONDS
    return provider.shortage_memory
