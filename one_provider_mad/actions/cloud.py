"""Call a provider safely: each call is bounded and retried, and lookups are shared."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from enum import Enum
from functools import partial
from typing import TypeVar

from one_provider_mad import metrics
from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.errors import (
    InstanceNotFound,
    MadError,
    NotReached,
    ProviderError,
    ProviderUnavailable,
    RequestRefused,
    Throttled,
    TokenSpent,
    WrongState,
)
from one_provider_mad.listings import by_id
from one_provider_mad.protocol.stale_names import StaleNames
from one_provider_mad.providers.interface import CreateCall, NamedAttributes, Provider

_Result = TypeVar("_Result")

waiting_for: contextvars.ContextVar[str] = contextvars.ContextVar("waiting_for", default="the cloud")
"""What the running action waits for; the sentence of a missed deadline names it."""


class Patience(Enum):
    """Errors after which the running action asks again until its deadline; these tries do not count as retries."""

    SHORT = "throttled"
    """Throttling: for a POLL or a debt, which may come back later."""

    OUTAGE = "not carried out"
    """Errors that certainly had no effect: an outage is no try."""

    ANY = "passing"
    """Every error that passes: stopping or terminating twice does no harm."""


patience: contextvars.ContextVar[Patience] = contextvars.ContextVar("patience", default=Patience.SHORT)
"""Patience of the running action."""

resting: contextvars.ContextVar[Callable[[float], Awaitable[None]]] = contextvars.ContextVar(
    "resting", default=asyncio.sleep
)
"""How the running action waits until it asks again: other actions have its place meanwhile."""

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 20.0
"""Seconds between tries: doubled from the first to the longest, with as much again of jitter."""


def serve_several() -> None:
    """Let the running task ask for several actions, each of which has its own patience and place."""
    patience.set(Patience.SHORT)
    resting.set(asyncio.sleep)


def goes_on(error: ProviderError) -> bool:
    """True when the running action asks again after this error, with no limit on the tries."""
    match patience.get():
        case Patience.SHORT:
            return isinstance(error, Throttled)
        case Patience.OUTAGE:
            return error.is_paced
        case Patience.ANY:
            return error.retryable


class SettingsReplaced(Exception):
    """The settings have changed while the running action waits for the cloud."""


async def persist(
    operation: str, ask: Callable[[], Awaitable[_Result]], *, keep_on: Callable[[], None] = lambda: None
) -> _Result:
    """Ask until there is an answer, for as long as the running action goes on.

    Args:
        operation: its name in sentences.
        ask: asks once, with its own retries.
        keep_on: raises when it makes no sense to ask again.

    Raises:
        ProviderError: an error after which the action does not go on.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return await ask()
        except ProviderError as error:
            if not goes_on(error):
                raise
            waiting_for.set(f"{operation}: {error}")
            asked = error.retry_after
        pause = await _rest(pause, asked)
        keep_on()


async def _rest(pause: float, asked: float | None) -> float:
    """Wait between two tries, as long as the cloud asks for; return the pause after the next one."""
    await resting.get()(asked or pause + random.uniform(0, _FIRST_PAUSE))  # noqa: S311 - jitter is no secret
    return min(2 * pause, _LONGEST_PAUSE)


class Knowledge:
    """Knowledge that outlives a change of settings, which replaces the `Cloud`.

    Attributes:
        tasks: creates under way, by token: each is sent once for all its waiters.
        waiters: number of waiters, by token.
        troubles: why a create does not reach the cloud, by token.
        shown: instances that the cloud has shown, and not shown as gone since.
        stale_names: attributes in answers to POLLs, which the core may still show.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[DeployId]] = {}
        self.waiters: Counter[str] = Counter()
        self.troubles: dict[str, str] = {}
        self.shown: set[DeployId] = set()
        self.stale_names = StaleNames()

    def note(self, found: Mapping[DeployId, Instance]) -> None:
        """Remember the instances of a lookup, and forget those that are gone."""
        self.shown.update(found)
        self.shown.difference_update(id_ for id_, instance in found.items() if instance.state.is_gone)


class Cloud:
    """One provider, as the actions use it.

    Args:
        provider: the adapter, already open.
        owner: owner in the tags of our instances.
        retries: further tries of a call that failed transiently (`-r`).
        call_timeout: seconds one call may take.
        knowledge: shared by all Clouds of a driver, since one may replace another.
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
        self._retries = retries
        self._call_timeout = call_timeout
        self._wanted: set[DeployId] = set()
        self._next_look: asyncio.Future[Mapping[DeployId, Instance]] | None = None
        self._looking: asyncio.Task[None] | None = None
        self.knowledge = Knowledge() if knowledge is None else knowledge
        if isinstance(provider, NamedAttributes):
            self.knowledge.stale_names.expect(provider.attribute_names)
        self._is_current = is_current
        self._started: set[asyncio.Task[DeployId]] = set()

    async def call(
        self, operation: str, send: Callable[[], Awaitable[_Result]], *, is_repeatable: bool = True
    ) -> _Result:
        """Send one call, again where that is allowed, and return its result.

        Args:
            operation: its name in sentences.
            send: makes the call, once.
            is_repeatable: repeating it after an uncertain answer does no harm.

        Raises:
            ProviderError: the cloud's last answer.
        """
        waiting_for.set(f"the cloud's answer to {operation}")
        failures, pause = 0, _FIRST_PAUSE
        while True:
            try:
                return await self._once(operation, send)
            except ProviderError as error:
                is_free = goes_on(error) and (is_repeatable or error.definite)
                failures += not is_free
                if not (is_free or self._may_retry(error, is_repeatable=is_repeatable, failures=failures)):
                    raise
                asked = error.retry_after
                if is_free and not isinstance(error, Throttled):
                    waiting_for.set(f"{operation}: {error}")
                # The error itself is not kept: its traceback holds this very frame, and both would stay in memory.
            pause = await _rest(pause, asked)
            if is_free:
                self.keep_on()
            if metrics.recorder is not None:
                metrics.recorder.repeated(operation)

    def keep_on(self) -> None:
        """Raise SettingsReplaced in an action that waits for this cloud, once its settings are no longer in force."""
        if patience.get() is not Patience.SHORT and not self._is_current():
            raise SettingsReplaced

    async def _once(self, operation: str, send: Callable[[], Awaitable[_Result]]) -> _Result:
        sent = self._in_time(operation, send)
        return await (sent if metrics.recorder is None else metrics.recorder.timed(operation, sent))

    async def _in_time(self, operation: str, send: Callable[[], Awaitable[_Result]]) -> _Result:
        limit = asyncio.timeout(self._call_timeout)
        try:
            async with limit:
                return await send()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ProviderUnavailable(
                f"{self.provider.name} did not answer {operation} within {self._call_timeout:g} s"
            ) from error

    def _may_retry(self, error: ProviderError, *, is_repeatable: bool, failures: int) -> bool:
        if not (error.retryable and failures <= self._retries):
            return False
        return is_repeatable or error.definite  # a call that was not sent is sent for the first time

    # Looking up

    async def look(self, deploy_ids: Iterable[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances; callers that come meanwhile share the next call.

        Ids that the cloud does not know are absent; further ids may be present.
        """
        wanted = tuple(deploy_ids)
        waiting_for.set("the cloud's answer to describe")
        return await persist("describe", lambda: self._look_once(wanted), keep_on=self.keep_on)

    async def _look_once(self, deploy_ids: Iterable[DeployId]) -> Mapping[DeployId, Instance]:
        self._wanted.update(deploy_ids)
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().create_future()
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_all(), name="look")
        return await asyncio.shield(self._next_look)

    async def _look_for_all(self) -> None:
        serve_several()
        try:
            while self._next_look is not None:
                await asyncio.sleep(0)  # let every caller that is about to ask ask
                wanted, self._wanted = self._wanted, set()
                answer, self._next_look = self._next_look, None
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
        """Look up these instances in a call of their own. Ids that the cloud does not know are absent."""
        found = await self.call("describe", partial(self.provider.describe, deploy_ids))
        self.knowledge.note(found)
        return found

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
        loop = asyncio.get_running_loop()
        visible_by = loop.time() + grace
        waiting_for.set("the cloud's answer to describe")
        while True:
            looked_at = loop.time()  # its answer may come late
            try:
                instance = (await self._look_once((deploy_id,))).get(deploy_id)
            except ProviderError as error:
                if not error.retryable:
                    raise
                self.keep_on()
                # An error is no state: keep waiting, the action's deadline bounds it.
                waiting_for.set(f"{deploy_id} to be {goal} (last answer: {error})")
            else:
                if arrived := _arrived(deploy_id, instance, wanted, is_young=looked_at < visible_by):
                    return arrived
                if instance is not None:
                    check(instance)
                state = f"{instance.raw_state}{_because(instance)}" if instance else "not visible yet"
                waiting_for.set(f"{deploy_id} to be {goal} (it is {state})")
            await asyncio.sleep(self.provider.watch_interval)

    # Creating

    async def create(self, call: CreateCall, *, record: Callable[[DeployId | None], Awaitable[None]]) -> DeployId:
        """Send a create; callers that send the same one meanwhile share its answer.

        The call goes on when the caller is cancelled: only its answer shows what there is to terminate.

        Args:
            call: what to send.
            record: records the id before any caller gets it; None when the answer is in doubt.
        """
        task = self.knowledge.tasks.get(call.token)
        if task is None:
            task = asyncio.create_task(self._create(call, record), name=f"create for vm {call.identity.vm_id}")
            self.knowledge.tasks[call.token] = task
            self._started.add(task)
            task.add_done_callback(lambda done: self._created(call.token, done))
        waiting_for.set("the cloud's answer to create")
        self.knowledge.waiters[call.token] += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if trouble := self.knowledge.troubles.get(call.token):
                waiting_for.set(f"create: {trouble}")
            raise
        finally:
            self.knowledge.waiters[call.token] -= 1
            self.knowledge.waiters += Counter()  # forget those at zero

    async def _create(self, call: CreateCall, record: Callable[[DeployId | None], Awaitable[None]]) -> DeployId:
        is_in_doubt = False
        tries = 0

        async def send() -> DeployId:
            nonlocal tries, is_in_doubt
            tries += 1
            if tries > 1 and not self.knowledge.waiters[call.token]:
                raise RequestRefused("the create is not sent again, since its request is over")
            try:
                return await self.provider.create(call)
            except (ProviderError, asyncio.CancelledError) as error:
                # A try that runs out of time is cancelled.
                is_in_doubt |= not (isinstance(error, ProviderError) and error.definite)
                if isinstance(error, NotReached):
                    self.knowledge.troubles[call.token] = str(error)
                raise

        try:
            deploy_id = await self.call("create", send, is_repeatable=self.provider.is_create_repeatable)
        except (MadError, SettingsReplaced) as error:
            if is_in_doubt:
                await record(None)
            is_refusal = isinstance(error, ProviderError) and error.definite and not isinstance(error, TokenSpent)
            if is_in_doubt and is_refusal:
                # The refusal concerns the last try only; the one before may have made an instance.
                raise ProviderUnavailable(f"{error} (and an earlier try was not answered)") from error
            raise
        await record(deploy_id)
        return deploy_id

    def _created(self, token: str, done: asyncio.Task[DeployId]) -> None:
        del self.knowledge.tasks[token]
        self.knowledge.troubles.pop(token, None)
        self._started.discard(done)
        if not done.cancelled():
            done.exception()  # its callers may be gone

    async def create_under_way(self, token: str) -> DeployId | None:
        """Wait for a create that was sent and not answered yet; None when there is none or it failed."""
        task = self.knowledge.tasks.get(token)
        if task is None:
            return None
        try:
            return await asyncio.shield(task)
        except (MadError, SettingsReplaced):
            return None

    async def close(self) -> None:
        """End the calls under way and close the provider."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        tasks = [*self._started, *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.provider.close()


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
