"""Share lookups among REBOOTs and RESETs, which only need the tags of their instances."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from one_provider_mad.calls.cloud import Cloud, SharedCloud
from one_provider_mad.domain import DeployId, Instance, Value

_FRESH_SECONDS = 30.0
"""Seconds from the begin of a lookup for which its result is used; later the action waits for the next lookup."""

_APART_SECONDS = 0.02
_AT_ONCE = 4
"""Most lookups at a time, and the seconds between their begins; further actions wait, and share the next lookup. A
burst of a thousand actions, which takes a while to arrive, costs a few lookups."""


class _Lookup(Value, frozen=True, kw_only=True):
    begun: float
    task: asyncio.Task[Mapping[DeployId, Instance]]


class SharedLookups:
    """Looks up the instances of all waiting actions, in calls that they share.

    A lookup includes actions that have no place in the lanes yet. An action never gets the result of a lookup
    that began before its request.
    """

    def __init__(self) -> None:
        self._expected: set[DeployId] = set()
        self._wanted: set[DeployId] = set()
        self._lookups: dict[DeployId, _Lookup] = {}
        self._next: asyncio.Task[Mapping[DeployId, Instance]] | None = None
        self._tasks: set[asyncio.Task[Mapping[DeployId, Instance]]] = set()
        self._begun = -math.inf
        self._gate = asyncio.Semaphore(_AT_ONCE)

    def expect(self, deploy_id: DeployId) -> None:
        """Announce an action on this instance: the next lookup includes it, and earlier ones do not count."""
        self._lookups.pop(deploy_id, None)
        self._expected.add(deploy_id)

    async def lookup_one(self, cloud: Cloud, deploy_id: DeployId) -> Instance | None:
        """Return the instance of an action whose turn has come; None when the cloud does not know the id.

        Raises:
            ProviderError: the lookup failed.
        """
        return await cloud.persist("describe", lambda: self._lookup_one(cloud.shared, deploy_id))

    async def _lookup_one(self, cloud: SharedCloud, deploy_id: DeployId) -> Instance | None:
        lookup = self._lookups.pop(deploy_id, None)
        if lookup is not None and asyncio.get_running_loop().time() - lookup.begun <= _FRESH_SECONDS:
            task = lookup.task
        else:
            self._expected.discard(deploy_id)
            self._wanted.add(deploy_id)
            task = self._next or self._start(cloud)
        return (task.result() if task.done() else await asyncio.shield(task)).get(deploy_id)

    def _start(self, cloud: SharedCloud) -> asyncio.Task[Mapping[DeployId, Instance]]:
        task = self._next = asyncio.create_task(self._run(cloud), name="shared lookup")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Mapping[DeployId, Instance]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # all actions that wait for it may have been cancelled

    async def _run(self, cloud: SharedCloud) -> Mapping[DeployId, Instance]:
        await asyncio.sleep(max(0.0, self._begun + _APART_SECONDS - asyncio.get_running_loop().time()))
        async with self._gate:
            found = await cloud.describe(self._begin())
        if self._expected and self._next is None:
            self._start(cloud)
        return found

    def _begin(self) -> set[DeployId]:
        """Begin a lookup: return the ids of all instances that it includes."""
        now = self._begun = asyncio.get_running_loop().time()
        # A cancelled action never fetches its lookup.
        self._lookups = {id_: lookup for id_, lookup in self._lookups.items() if now - lookup.begun <= _FRESH_SECONDS}
        if self._next is not None:
            self._lookups.update(dict.fromkeys(self._expected, _Lookup(begun=now, task=self._next)))
        wanted = self._wanted | self._expected
        self._wanted, self._expected, self._next = set(), set(), None
        return wanted
