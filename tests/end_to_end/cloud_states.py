"""The true state of each instance of a simulated cloud, now and earlier: from its database, not from a driver."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from one_provider_mad.domain import InstanceState
from one_provider_mad.providers.simulated.table import TRANSITIONS, decode_tags

GONE = frozenset({InstanceState.TERMINATING, InstanceState.TERMINATED})


class _Seen(NamedTuple):
    at: float
    transition: str
    ends_at: float


class CloudStates:
    """Reads the database of one simulated cloud.

    Args:
        path: the file; it is there.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        self._version = -1
        self._seen: dict[str, list[_Seen]] = {}
        self._vms: dict[int, list[str]] = {}

    def close(self) -> None:
        self._db.close()

    def observe(self) -> None:
        """Record changes; to be called often, since states between two calls are lost."""
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return
        self._version = version
        now = time.time()
        for deploy_id, transition, ends_at, tags in self._db.execute(
            "SELECT id, transition, ends_at, tags FROM instance"
        ):
            history = self._seen.get(deploy_id)
            if history is None:
                history = self._seen[deploy_id] = []
                vm_id = decode_tags(tags).get("ONE_PROVIDER_VM_ID", "-1")
                self._vms.setdefault(int(vm_id), []).append(deploy_id)
            if not history or history[-1][1:] != (transition, ends_at):
                history.append(_Seen(now, transition, ends_at))

    def states(self, deploy_id: str, since: float, until: float | None = None) -> frozenset[InstanceState]:
        """Every state of an instance in that time, or since then; empty if it never existed."""
        until = time.time() if until is None else until
        history = self._seen.get(deploy_id, [])
        found: set[InstanceState] = set()
        for seen, after in zip(history, [*history[1:], None], strict=True):
            begin, end = max(seen.at, since), min(after.at if after else until, until)
            first, second = TRANSITIONS[seen.transition]
            if begin <= end:
                found |= {first} if begin < seen.ends_at else set()
                found |= {second} if end >= seen.ends_at else set()
        return frozenset(found)

    def state(self, deploy_id: str) -> InstanceState | None:
        """The current state, None for an instance that never existed."""
        now = time.time()
        return next(iter(self.states(deploy_id, now, now)), None)

    def live(self, vm_id: int) -> list[str]:
        """The instances with a VM's tags that are not terminated."""
        return [each for each in self._vms.get(vm_id, ()) if self.state(each) not in GONE]

    def owners(self) -> Iterable[int]:
        """The VMs that have, or had, an instance."""
        return self._vms
