"""A provider made safe to call: each call bounded and retried as told, one look at the cloud for all who wait."""

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
"""What the running action waits for; its deadline's sentence says so."""


class Patience(Enum):
    """After which errors the running action asks again until its deadline; none of that is a retry."""

    SHORT = "throttled"
    """Nothing waits for the answer that could not come back later: a POLL, a debt."""

    OUTAGE = "not carried out"
    """Whatever certainly had no effect: an outage is no try."""

    ANY = "passing"
    """Every error that passes: stopping or terminating twice does no harm."""


patience: contextvars.ContextVar[Patience] = contextvars.ContextVar("patience", default=Patience.SHORT)
"""How long the running action goes on asking."""

resting: contextvars.ContextVar[Callable[[float], Awaitable[None]]] = contextvars.ContextVar(
    "resting", default=asyncio.sleep
)
"""How the running action lets time pass until it asks again: others have its place meanwhile."""

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 20.0
"""Seconds between tries: doubled from the first to the longest, with as much again of jitter."""


def be_nobodys() -> None:
    """What the running task waits for, several actions wait for: each of them has a patience and a place of its own."""
    patience.set(Patience.SHORT)
    resting.set(asyncio.sleep)


def goes_on(error: ProviderError) -> bool:
    """True when the running action asks again after this error, however often it has done so."""
    match patience.get():
        case Patience.SHORT:
            return isinstance(error, Throttled)
        case Patience.OUTAGE:
            return error.is_paced
        case Patience.ANY:
            return error.retryable


class SettingsReplaced(Exception):
    """Other settings are in force than those with which the running action waits for the cloud."""


async def persist(
    operation: str, ask: Callable[[], Awaitable[_Result]], *, keep_on: Callable[[], None] = lambda: None
) -> _Result:
    """Ask until there is an answer, for as long as the running action goes on.

    Args:
        operation: what it is called in sentences.
        ask: asks once, with whatever retries it has itself.
        keep_on: raises where it makes no sense to ask again.

    Raises:
        ProviderError: one after which the action does not go on.
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
    """Wait between two tries, as long as the cloud asks for; the pause after the next."""
    await resting.get()(asked or pause + random.uniform(0, _FIRST_PAUSE))  # noqa: S311 - jitter is no secret
    return min(2 * pause, _LONGEST_PAUSE)


class Knowledge:
    """What outlives a change of settings, which replaces the `Cloud`.

    Attributes:
        tasks: creates under way, by token: each is sent once, however many wait for it.
        waiters: how many wait, by token.
        troubles: why a create is not taken, by token.
        shown: instances that the cloud has shown, and that are not known to be gone.
        stale_names: attributes that POLLs were answered with, and that the core may still show.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[DeployId]] = {}
        self.waiters: Counter[str] = Counter()
        self.troubles: dict[str, str] = {}
        self.shown: set[DeployId] = set()
        self.stale_names = StaleNames()

    def note(self, found: Mapping[DeployId, Instance]) -> None:
        """Remember what a look has shown, and let go of what it shows as gone."""
        self.shown.update(found)
        self.shown.difference_update(id_ for id_, instance in found.items() if instance.state.is_gone)


class Cloud:
    """One provider, as the actions use it.

    Args:
        provider: the adapter, already open.
        owner: whose instances are ours.
        retries: further tries of a call that failed transiently (`-r`).
        call_timeout: seconds one call may take.
        knowledge: shared by every Cloud of a driver, since one may replace another meanwhile.
        is_current: tells whether its settings are in force still.
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
            operation: what it is called in sentences.
            send: makes the call, once.
            is_repeatable: sending it again after an uncertain answer does no harm.

        Raises:
            ProviderError: what the cloud answered in the end.
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
        """Raise SettingsReplaced in an action that waits for this cloud, while its settings are in force no more."""
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
        return is_repeatable or error.definite  # what was not even sent is sent for the first time

    # Looking

    async def look(self, deploy_ids: Iterable[DeployId]) -> Mapping[DeployId, Instance]:
        """Look at these instances; everybody who asks meanwhile shares the next call.

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
        be_nobodys()
        try:
            while self._next_look is not None:
                await asyncio.sleep(0)  # let everybody who is about to ask ask
                wanted, self._wanted = self._wanted, set()
                answer, self._next_look = self._next_look, None
                try:
                    found = await self.describe(wanted)
                except asyncio.CancelledError:
                    answer.cancel()
                    raise
                except Exception as error:  # noqa: BLE001 - whoever waits has to deal with it
                    answer.set_exception(error)
                    answer.exception()  # they may all have gone
                else:
                    answer.set_result(found)
                    del found
                del answer  # its error's traceback holds this very frame
        finally:
            self._looking = None

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        """Look at these instances in a call that nobody else shares. Ids that the cloud does not know are absent."""
        found = await self.call("describe", partial(self.provider.describe, deploy_ids))
        self.knowledge.note(found)
        return found

    async def look_at(self, deploy_id: DeployId) -> Instance | None:
        """Look at one instance; None when the cloud does not know it."""
        return (await self.look((deploy_id,))).get(deploy_id)

    async def find(self, vm_id: VmId) -> list[Instance]:
        """Every instance that carries our tags for this VM number, gone ones included; complete or an error."""

        async def find() -> list[Instance]:
            return list(by_id(await self.provider.find(owner=self.owner, vm_id=vm_id)).values())

        return await self.call("find by tags", find)

    async def list_instances(self) -> list[Instance]:
        """Every instance of the account and region; complete or an error."""

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
            goal: the one that is hoped for, for the deadline's sentence.
            grace: seconds for which the cloud may not know the id yet.
            check: given what was seen on the way; raises when it will not get there.

        Raises:
            InstanceNotFound: the cloud does not know it (any more).
            WrongState: it is terminated, or the cloud says why nobody can tell its state: it will not get there.
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
                # Not knowing is no news: keep waiting, the action's deadline bounds it.
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
        """Send a create; whoever sends the same one meanwhile shares its answer.

        The call goes on when the caller is cancelled: only its answer tells what there is to destroy.

        Args:
            call: what to send.
            record: writes the id down, before anybody is told of it; given None when the answer is in doubt.
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
                raise RequestRefused("nobody waits for the create any more, so it is not sent again")
            try:
                return await self.provider.create(call)
            except (ProviderError, asyncio.CancelledError) as error:
                # Cancelled is what a try is whose time has run out.
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
                # The refusal speaks of the last try only; the one before may have made an instance.
                raise ProviderUnavailable(f"{error} (and an earlier try was not answered)") from error
            raise
        await record(deploy_id)
        return deploy_id

    def _created(self, token: str, done: asyncio.Task[DeployId]) -> None:
        del self.knowledge.tasks[token]
        self.knowledge.troubles.pop(token, None)
        self._started.discard(done)
        if not done.cancelled():
            done.exception()  # whoever sent it may have gone

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
        """End what is under way and close the provider."""
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
    """The instance once it is where it should be, None while it may still get there."""
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
