"""The cloud as the actions use it: a provider whose calls have time limits, retries and shared answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from one_provider_mad.calls.creates import Creates, Record, Unmade, ignore_unmade
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
    """One provider, with the lookups and creates that all actions share.

    Args:
        provider: the adapter, already open.
        owner: owner in the tags of our instances.
        retries: further tries of a call after a passing error (`-r`).
        call_timeout: seconds after which a call fails.
        knowledge: what outlives this object when the settings change; all clouds of a driver share it.
        is_current: true while the provider's settings are in force.
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
        """Return a `Cloud` for one action."""
        return Cloud(self, waiting)

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances in a call that no other action shares. Ids unknown to the cloud are absent."""
        return await self.lookups.describe(deploy_ids)

    async def close(self) -> None:
        """End the calls under way and close the provider."""
        await self.lookups.close()
        await self.creates.close()
        await self.provider.close()


class Cloud:
    """One provider, as one action uses it: its calls are repeated by the action's patience, and note what it waits for.

    Args:
        shared: what all actions share.
        waiting: what the action waits for, and its patience.
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
        """Send one call, repeat it after a passing error where that is allowed, and return its result.

        Args:
            operation: the call's name in messages.
            send: sends the call, once.
            is_repeatable: the call may be repeated after an uncertain answer.

        Raises:
            ProviderError: the cloud's last answer.
        """
        return self.shared.sender.call(operation, send, self.waiting, is_repeatable=is_repeatable)

    def persist(self, operation: str, ask: Callable[[], Awaitable[_Result]]) -> Coroutine[Any, Any, _Result]:
        """Repeat `ask` until it succeeds, after every error that the action waits out, while the settings are in force.

        Args:
            operation: the call's name in messages.
            ask: sends the call, with its own retries.

        Raises:
            ProviderError: an error that the action does not wait out.
        """
        self.waiting.reason = f"the cloud's answer to {operation}"
        return self.waiting.persist(operation, ask, check_settings=self.check_settings)

    def check_settings(self) -> None:
        """Raise SettingsReplaced once the provider's settings are replaced, unless the action's patience is SHORT."""
        self.shared.sender.check_settings(self.waiting)

    # Looking up

    async def lookup(self, deploy_ids: Iterable[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances; actions that ask while a call is under way share the next one.

        Ids that the cloud does not know are absent; further ids may be present.
        """
        wanted, lookups = tuple(deploy_ids), self.shared.lookups
        return await self.persist("describe", lambda: lookups.lookup(wanted))

    async def lookup_one(self, deploy_id: DeployId) -> Instance | None:
        """Look up one instance; None when the cloud does not know it."""
        return (await self.lookup((deploy_id,))).get(deploy_id)

    async def find(self, vm_id: VmId) -> list[Instance]:
        """Return every instance with our tags for this VM ID, terminated ones too; an incomplete answer is an error."""

        async def find() -> list[Instance]:
            return list(by_id(await self.provider.find(owner=self.owner, vm_id=vm_id)).values())

        return await self.call("find by tags", find)

    async def list_instances(self) -> list[Instance]:
        """Return every instance of the account and region; an incomplete answer is an error."""

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
            goal: name of the wanted states, for the sentence of a missed deadline.
            grace: seconds for which the cloud may not know the id yet.
            check: receives the instance in each other state; raises when it will not reach a wanted one.

        Raises:
            InstanceNotFound: the cloud does not know the id, or not any more.
            WrongState: the instance is terminated, or unknown with a reason from the cloud.
        """
        loop, waiting = asyncio.get_running_loop(), self.waiting
        visible_by = loop.time() + grace
        waiting.reason = "the cloud's answer to describe"
        while True:
            looked_at = loop.time()  # its answer may come late
            try:
                instance = (await self.shared.lookups.lookup((deploy_id,))).get(deploy_id)
            except ProviderError as error:
                if not error.retryable:
                    raise
                self.check_settings()
                # An error shows no state: keep waiting, until the action's deadline at most.
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

    def create(
        self, call: CreateCall, *, record: Record, unmade: Unmade = ignore_unmade
    ) -> Coroutine[Any, Any, DeployId]:
        """Send a create; actions that send one with the same create token meanwhile share its answer.

        The call is not cancelled with the action: only its answer shows which instance must be terminated.

        Args:
            call: the create's parameters and token.
            record: records the answer in the journal.
            unmade: called when the create certainly had no effect.

        Raises:
            ProviderError: the cloud's last answer.
        """
        return self.shared.creates.create(call, self.waiting, record=record, unmade=unmade)

    def create_under_way(self, token: str) -> Coroutine[Any, Any, DeployId | None]:
        """Wait for the answer of a create under way with this token; None when there is none, or the create failed."""
        return self.shared.creates.under_way(token)


def _arrived(
    deploy_id: DeployId, instance: Instance | None, wanted: frozenset[InstanceState], *, is_young: bool
) -> Instance | None:
    """Return the instance if it is in a wanted state, None while it may still reach one; raise when it will not."""
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
