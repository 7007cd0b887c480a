"""A provider as the actions use it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from one_provider_mad.calls.creates import Creates, Record
from one_provider_mad.calls.knowledge import Knowledge
from one_provider_mad.calls.lookups import Lookups
from one_provider_mad.calls.sending import Sender
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.errors import InstanceNotFound, ProviderError, WrongState
from one_provider_mad.listings import by_id
from one_provider_mad.providers.interface import CreateCall, NamedAttributes, Provider

_Result = TypeVar("_Result")


class SharedCloud:
    """One provider, and what all actions share: lookups, creates under way, and what is known.

    Args:
        provider: the adapter, already open.
        owner: owner in the tags of our instances.
        retries: further tries of a call that failed transiently (`-r`).
        call_timeout: seconds one call may take.
        knowledge: shared by all clouds of a driver, since one may replace another.
        is_current: true while its settings are in force.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        owner: str,
        retries: int,
        call_timeout: float,
        knowledge: Knowledge | None = None,
        is_current: Callable[[], bool] = lambda: True,
    ) -> None:
        self.provider = provider
        self.owner = owner
        self.knowledge = Knowledge() if knowledge is None else knowledge
        if isinstance(provider, NamedAttributes):
            self.knowledge.stale_names.expect(provider.attribute_names)
        self.sender = Sender(provider.name, retries=retries, call_timeout=call_timeout, is_current=is_current)
        self.lookups = Lookups(provider, self.sender, self.knowledge)
        self.creates = Creates(provider, self.sender, self.knowledge)

    def for_action(self, waiting: Waiting) -> Cloud:
        """Return the cloud as one action uses it."""
        return Cloud(self, waiting)

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances in a call of their own. Ids that the cloud does not know are absent."""
        return await self.lookups.describe(deploy_ids)

    async def close(self) -> None:
        """End the calls under way and close the provider."""
        await self.lookups.close()
        await self.creates.close()
        await self.provider.close()


class Cloud:
    """One provider, as one action uses it: each call takes its patience, and leaves what it waits for.

    Args:
        shared: what all actions share.
        waiting: the action's.
    """

    __slots__ = ("knowledge", "owner", "provider", "shared", "waiting")

    def __init__(self, shared: SharedCloud, waiting: Waiting) -> None:
        self.shared = shared
        self.waiting = waiting
        self.provider = shared.provider
        self.owner = shared.owner
        self.knowledge = shared.knowledge

    def call(
        self, operation: str, send: Callable[[], Awaitable[_Result]], *, is_repeatable: bool = True
    ) -> Coroutine[Any, Any, _Result]:
        """Send one call, again where that is allowed, and return its result.

        Args:
            operation: its name in sentences.
            send: makes the call, once.
            is_repeatable: repeating it after an uncertain answer does no harm.

        Raises:
            ProviderError: the cloud's last answer.
        """
        return self.shared.sender.call(operation, send, self.waiting, is_repeatable=is_repeatable)

    def persist(self, operation: str, ask: Callable[[], Awaitable[_Result]]) -> Coroutine[Any, Any, _Result]:
        """Ask until there is an answer, for as long as the action goes on and its settings are in force.

        Args:
            operation: its name in sentences.
            ask: asks once, with its own retries.

        Raises:
            ProviderError: an error after which the action does not go on.
        """
        self.waiting.reason = f"the cloud's answer to {operation}"
        return self.waiting.persist(operation, ask, keep_on=self.keep_on)

    def keep_on(self) -> None:
        """Raise SettingsReplaced in an action that waits for this cloud, once its settings are no longer in force."""
        self.shared.sender.keep_on(self.waiting)

    # Looking up

    async def look(self, deploy_ids: Iterable[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances; actions that ask meanwhile share the next call.

        Ids that the cloud does not know are absent; further ids may be present.
        """
        wanted, lookups = tuple(deploy_ids), self.shared.lookups
        return await self.persist("describe", lambda: lookups.look(wanted))

    async def look_at(self, deploy_id: DeployId) -> Instance | None:
        """Look up one instance; None when the cloud does not know it."""
        return (await self.look((deploy_id,))).get(deploy_id)

    async def find(self, vm_id: VmId) -> list[Instance]:
        """Return every instance with our tags for this VM ID, gone ones included; complete or an error."""

        async def find() -> list[Instance]:
            return list(by_id(await self.provider.find(owner=self.owner, vm_id=vm_id)).values())

        return await self.call("find by tags", find)

    async def list_instances(self) -> list[Instance]:
        """Return every instance of the account and region; complete or an error."""

        async def list_all() -> list[Instance]:
            return list(by_id(await self.provider.list_instances()).values())

        return await self.call("list", list_all)

    async def watch(
        self,
        deploy_id: DeployId,
        wanted: frozenset[InstanceState],
        *,
        goal: str,
        grace: float = 0.0,
        check: Callable[[Instance], None] = lambda _: None,
    ) -> Instance:
        """Wait until an instance is in one of the wanted states.

        Args:
            deploy_id: the instance.
            wanted: states to wait for.
            goal: name of the wanted state, for the deadline's sentence.
            grace: seconds for which the cloud may not know the id yet.
            check: receives each other state on the way; raises when the goal is out of reach.

        Raises:
            InstanceNotFound: the cloud does not know it (any more).
            WrongState: it is terminated, or its state is unknown for a reason that the cloud gives.
        """
        loop, waiting = asyncio.get_running_loop(), self.waiting
        visible_by = loop.time() + grace
        waiting.reason = "the cloud's answer to describe"
        while True:
            looked_at = loop.time()  # its answer may come late
            try:
                instance = (await self.shared.lookups.look((deploy_id,))).get(deploy_id)
            except ProviderError as error:
                if not error.retryable:
                    raise
                self.keep_on()
                # An error is no state: keep waiting, the action's deadline bounds it.
                waiting.reason = f"{deploy_id} to be {goal} (last answer: {error})"
            else:
                if arrived := _arrived(deploy_id, instance, wanted, is_young=looked_at < visible_by):
                    return arrived
                if instance is not None:
                    check(instance)
                state = f"{instance.raw_state}{_because(instance)}" if instance else "not visible yet"
                waiting.reason = f"{deploy_id} to be {goal} (it is {state})"
            await asyncio.sleep(self.provider.watch_interval)

    # Creating

    def create(self, call: CreateCall, *, record: Record) -> Coroutine[Any, Any, DeployId]:
        """Send a create; actions that send the same one meanwhile share its answer.

        The call goes on when the action is cancelled: only its answer shows what there is to terminate.

        Args:
            call: what to send.
            record: records the answer.

        Raises:
            ProviderError: the cloud's last answer.
        """
        return self.shared.creates.create(call, self.waiting, record=record)

    def create_under_way(self, token: str) -> Coroutine[Any, Any, DeployId | None]:
        """Wait for a create that was sent and not answered yet; None when there is none or it failed."""
        return self.shared.creates.under_way(token)


def _arrived(
    deploy_id: DeployId, instance: Instance | None, wanted: frozenset[InstanceState], *, is_young: bool
) -> Instance | None:
    """Return the instance once it is in a wanted state, None while it may still get there."""
    if instance is None:
        if is_young:
            return None
        raise InstanceNotFound(f"instance {deploy_id} is not known to the cloud any more")
    if instance.state in wanted:
        return instance
    is_failed = instance.state is InstanceState.UNKNOWN and instance.reason != ""
    if (instance.state.is_gone or is_failed) and InstanceState.TERMINATED not in wanted:
        raise WrongState(f"instance {deploy_id} is {instance.raw_state}{_because(instance)}")
    return None


def _because(instance: Instance) -> str:
    return f": {instance.reason}" if instance.reason else ""
