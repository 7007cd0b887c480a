"""Send creates: each once for all actions with its token, and awaited to its answer even when all were cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from one_provider_mad.calls.knowledge import Knowledge
from one_provider_mad.calls.sending import Sender
from one_provider_mad.calls.waiting import SettingsReplaced, Waiting
from one_provider_mad.domain import DeployId
from one_provider_mad.errors import MadError, NotReached, ProviderError, ProviderUnavailable, RequestRefused, TokenSpent
from one_provider_mad.providers.interface import CreateCall, Provider

Record = Callable[[DeployId | None], Awaitable[None]]
"""Records the id of a new instance before any action gets it; called with None when the answer is uncertain."""


Unmade = Callable[[MadError | SettingsReplaced], Awaitable[None]]
"""Called with the reason when a create certainly had no effect, also after its action was cancelled."""


async def ignore_unmade(_: MadError | SettingsReplaced) -> None:
    """Do nothing."""


class Creates:
    """The creates that are sent to one cloud.

    Args:
        provider: the adapter, already open.
        sender: sends the calls.
        knowledge: has the creates under way, also those sent with earlier settings.
    """

    def __init__(self, provider: Provider, sender: Sender, knowledge: Knowledge) -> None:
        self._provider = provider
        self._sender = sender
        self._knowledge = knowledge
        self._started: set[asyncio.Task[DeployId]] = set()

    async def create(
        self, call: CreateCall, waiting: Waiting, *, record: Record, unmade: Unmade = ignore_unmade
    ) -> DeployId:
        """Send a create; callers that send one with the same create token meanwhile share its answer.

        The call is not cancelled with the caller: only its answer shows which instance must be terminated.

        Args:
            call: the create's parameters and token.
            waiting: the reason and the patience of the action that needs the instance.
            record: records the answer in the journal.
            unmade: called when the create certainly had no effect.
        """
        known = self._knowledge
        task = known.tasks.get(call.token)
        if task is None:
            task = known.tasks[call.token] = self._start(call, waiting, record, unmade)
        waiting.reason = "the cloud's answer to create"
        known.waiters[call.token] += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if trouble := known.troubles.get(call.token):
                waiting.reason = f"create: {trouble}"
            raise
        finally:
            known.waiters[call.token] -= 1
            known.waiters += Counter()  # forget those at zero

    def _start(self, call: CreateCall, waiting: Waiting, record: Record, unmade: Unmade) -> asyncio.Task[DeployId]:
        own = Waiting(patience=waiting.patience, rest=waiting.rest)  # it may outlive the action
        task = asyncio.create_task(self._create(call, own, record, unmade), name=f"create for vm {call.identity.vm_id}")
        self._started.add(task)
        task.add_done_callback(lambda done: self._created(call.token, done))
        return task

    async def _create(self, call: CreateCall, waiting: Waiting, record: Record, unmade: Unmade) -> DeployId:
        is_in_doubt = False
        tries = 0

        async def send() -> DeployId:
            nonlocal tries, is_in_doubt
            tries += 1
            if tries > 1 and not self._knowledge.waiters[call.token]:
                raise RequestRefused("the create is not repeated, since its request was cancelled or answered")
            try:
                return await self._provider.create(call)
            except (ProviderError, asyncio.CancelledError) as error:
                # A try that runs out of time is cancelled.
                is_in_doubt |= not (isinstance(error, ProviderError) and error.definite)
                if isinstance(error, NotReached):
                    self._knowledge.troubles[call.token] = str(error)
                raise

        try:
            is_repeatable = self._provider.is_create_repeatable
            deploy_id = await self._sender.call("create", send, waiting, is_repeatable=is_repeatable)
        except (MadError, SettingsReplaced) as error:
            await (record(None) if is_in_doubt else unmade(error))
            is_refusal = isinstance(error, ProviderError) and error.definite and not isinstance(error, TokenSpent)
            if is_in_doubt and is_refusal:
                # The refusal concerns the last try only; the one before may have made an instance.
                raise ProviderUnavailable(f"{error} (and an earlier try was not answered)") from error
            raise
        await record(deploy_id)
        return deploy_id

    def _created(self, token: str, done: asyncio.Task[DeployId]) -> None:
        del self._knowledge.tasks[token]
        self._knowledge.troubles.pop(token, None)
        self._started.discard(done)
        if not done.cancelled():
            done.exception()  # its callers may have been cancelled

    async def under_way(self, token: str) -> DeployId | None:
        """Wait for the answer of a create under way with this token; None when there is none, or the create failed."""
        task = self._knowledge.tasks.get(token)
        if task is None:
            return None
        try:
            return await asyncio.shield(task)
        except (MadError, SettingsReplaced):
            return None

    async def close(self) -> None:
        """Cancel the creates under way that this object has sent."""
        tasks = list(self._started)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
