"""Look up instances by id: actions that ask at the same time share one call."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from functools import partial

from one_provider_mad.calls.knowledge import Knowledge
from one_provider_mad.calls.sending import Sender
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import DeployId, Instance
from one_provider_mad.providers.interface import Provider


class Lookups:
    """The lookups of all actions in one cloud.

    Args:
        provider: the adapter, already open.
        sender: sends the calls.
        knowledge: gets the instances that the cloud shows.
    """

    def __init__(self, provider: Provider, sender: Sender, knowledge: Knowledge) -> None:
        self._provider = provider
        self._sender = sender
        self._knowledge = knowledge
        self._wanted: set[DeployId] = set()
        self._next: asyncio.Future[Mapping[DeployId, Instance]] | None = None
        self._running: asyncio.Task[None] | None = None

    async def lookup(self, deploy_ids: Iterable[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances once; callers that come while a call is under way share the next one.

        Ids that the cloud does not know are absent; further ids may be present.
        """
        self._wanted.update(deploy_ids)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="shared lookup")
        return await asyncio.shield(self._next)

    async def _run(self) -> None:
        try:
            while self._next is not None:
                await asyncio.sleep(0)  # callers in the same turn of the event loop share the call
                wanted, self._wanted = self._wanted, set()
                answer, self._next = self._next, None
                try:
                    found = await self.describe(wanted)
                except asyncio.CancelledError:
                    answer.cancel()
                    raise
                except Exception as error:  # noqa: BLE001 - the waiters have to deal with it
                    answer.set_exception(error)
                    answer.exception()  # the waiters may be gone
                else:
                    answer.set_result(found)
                    del found
                del answer  # its error's traceback holds this very frame
        finally:
            self._running = None

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances in a call that no other caller shares. Ids that the cloud does not know are absent.

        It has SHORT patience: it may serve several actions, and each of them repeats it by its own.
        """
        found = await self._sender.call("describe", partial(self._provider.describe, deploy_ids), Waiting())
        self._knowledge.note(found)
        return found

    async def close(self) -> None:
        """Cancel the lookup under way."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
