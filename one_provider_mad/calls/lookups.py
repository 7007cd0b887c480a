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
        knowledge: is told what the cloud shows.
    """

    def __init__(self, provider: Provider, sender: Sender, knowledge: Knowledge) -> None:
        self._provider = provider
        self._sender = sender
        self._knowledge = knowledge
        self._wanted: set[DeployId] = set()
        self._next: asyncio.Future[Mapping[DeployId, Instance]] | None = None
        self._looking: asyncio.Task[None] | None = None

    async def look(self, deploy_ids: Iterable[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances once; callers that come meanwhile share the next call.

        Ids that the cloud does not know are absent; further ids may be present.
        """
        self._wanted.update(deploy_ids)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_all(), name="look")
        return await asyncio.shield(self._next)

    async def _look_for_all(self) -> None:
        try:
            while self._next is not None:
                await asyncio.sleep(0)  # let every caller that is about to ask ask
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
            self._looking = None

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances in a call of their own. Ids that the cloud does not know are absent.

        It may serve several actions, each of which has its own patience: so this call has little.
        """
        found = await self._sender.call("describe", partial(self._provider.describe, deploy_ids), Waiting())
        self._knowledge.note(found)
        return found

    async def close(self) -> None:
        """End the lookup under way."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
