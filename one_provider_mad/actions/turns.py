"""Choose the lane that runs next: in the order they came, with an extra place for each idle host (decision 7)."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Generic, TypeVar

_Lane = TypeVar("_Lane")


class Turns(Generic[_Lane]):
    """The lanes that wait for a place, that is, for their next job to start.

    Upstream's drivers run one action on a host at a time, so that hanging scripts of one host never delay another one
    (OpenNebula/one#1702). Where jobs name their hosts, one host may still use all places, but each idle host has
    one extra place, up to as many again.

    Args:
        places: how many may run at once.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: OrderedDict[_Lane, str | None] = OrderedDict()
        self._waiting_of: OrderedDict[str, OrderedDict[_Lane, None]] = OrderedDict()
        self._running_of: Counter[str] = Counter()

    def wait(self, lane: _Lane, host: str | None) -> None:
        """Put a lane at the end of the queue; `host` is the host of its next job, None where jobs name none."""
        self._waiting[lane] = host
        if host is not None:
            self._waiting_of.setdefault(host, OrderedDict())[lane] = None

    def leave(self, lane: _Lane) -> None:
        """Remove a lane from the queue, if it waits there."""
        host = self._waiting.pop(lane, None)
        if host is not None:
            lanes = self._waiting_of[host]
            del lanes[lane]
            if not lanes:
                del self._waiting_of[host]

    def take(self, running: int) -> _Lane | None:
        """Remove and return the lane whose turn it is while `running` jobs run; None when no lane may start."""
        if running < self._places:
            lane = next(iter(self._waiting), None)
        elif running < 2 * self._places:
            lane = self._first_of_idle_host()
        else:
            return None
        if lane is not None:
            self.leave(lane)
        return lane

    def _first_of_idle_host(self) -> _Lane | None:
        for host, lanes in self._waiting_of.items():
            if host not in self._running_of:
                self._waiting_of.move_to_end(host)  # its next action comes after those of other hosts
                return next(iter(lanes))
        return None

    def begin(self, host: str | None) -> None:
        """Note that a job for this host has started."""
        if host is not None:
            self._running_of[host] += 1

    def end(self, host: str | None) -> None:
        """Note that a job for this host has ended."""
        if host is not None:
            self._running_of[host] -= 1
            if not self._running_of[host]:
                del self._running_of[host]
