"""Admits creates, starts, resizes and disks before their calls, by the limits of `[budget]`.

Before it refuses for what others use, it lists the cloud once more: instances that have ended count no longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from one_provider_mad.budget.levels import all_scopes, levels
from one_provider_mad.budget.months import month_of
from one_provider_mad.budget.records import Level, MonthUse, Observed, Wish, gib_of
from one_provider_mad.budget.rules import Refusal, Scope, Terms, Unready, Use, scopes_for
from one_provider_mad.budget.settings import BudgetSettings
from one_provider_mad.budget.spent import read_spent
from one_provider_mad.budget.store import Store
from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, Value, VmOwner, VmRequest
from one_provider_mad.errors import BudgetError, BudgetExceeded, LedgerError, MadError, ProviderError
from one_provider_mad.pricing.values import UNKNOWN, Price
from one_provider_mad.providers.interface import Parameters, PriceSource, Provider, TypeSource
from one_provider_mad.timestamps import Timestamp

log = structlog.get_logger()

_LISTS_EVERY = 2.0
"""Fewest seconds between two listings before refusals; all refusals meanwhile share one."""

_OLD_SECONDS = 180.0
"""Seconds after which the store counts as old, since `keep` (budget/keeping.py) could not bring it up to date: creates
of an earlier release, or of another front-end, may be missing in it."""

Owners = Callable[[], Awaitable[Mapping[tuple[int, int], VmOwner]]]
"""Returns user and group of VMs by number and STIME, as far as they are recorded."""


Admission = AbstractAsyncContextManager[None]
"""A commitment for the time of one call: `async with` raises BudgetExceeded, or settles it afterwards."""


class Budget(Protocol):
    """What actions ask before their calls."""

    async def admit_create(self, key: str, *, identity: Identity, owner: VmOwner, parameters: Parameters) -> None:
        """Commit the price of a create, identified by its token. Raises BudgetExceeded, BudgetError."""

    async def created(self, key: str, deploy_id: str) -> None:
        """Note a create's answer, "" for an uncertain one."""

    async def release(self, key: str) -> None:
        """Forget a create that certainly made nothing."""

    async def gone(self, identity: Identity, deploy_ids: Collection[DeployId]) -> None:
        """Forget the instances of a VM that has certainly none any more. Raises BudgetError."""

    async def stopped(self, instance: Instance) -> None:
        """Count an instance that the cloud shows stopped as what it costs now. Raises BudgetError."""

    def starting(self, instance: Instance, request: VmRequest, /) -> Admission:
        """Commit the price of a running instance while it is started."""

    def resizing(self, instance: Instance, request: VmRequest, /) -> Admission:
        """Commit the price of an instance of the request's size while it is resized."""

    def with_disk(
        self, instance: Instance, request: VmRequest, disk: Mapping[str, str], /, *, before: float | None = None
    ) -> Admission:
        """Commit the price of a disk while it is attached or enlarged; `before` are its MB until now."""


class Unlimited:
    """The budget of a configuration without limits: it admits everything, and keeps nothing."""

    async def admit_create(self, key: str, *, identity: Identity, owner: VmOwner, parameters: Parameters) -> None:
        """Admit it."""

    async def created(self, key: str, deploy_id: str) -> None:
        """Do nothing."""

    async def release(self, key: str) -> None:
        """Do nothing."""

    async def gone(self, identity: Identity, deploy_ids: Collection[DeployId]) -> None:
        """Do nothing."""

    async def stopped(self, instance: Instance) -> None:
        """Do nothing."""

    def starting(self, _instance: Instance, _request: VmRequest, /) -> Admission:
        """Admit it."""
        return nullcontext()

    def resizing(self, _instance: Instance, _request: VmRequest, /) -> Admission:
        """Admit it."""
        return nullcontext()

    def with_disk(
        self, _instance: Instance, _request: VmRequest, _disk: Mapping[str, str], /, *, before: float | None = None
    ) -> Admission:
        """Admit it."""
        del before
        return nullcontext()


UNLIMITED = Unlimited()


class Plan(Value, frozen=True, kw_only=True):
    """What the admission of one configuration needs besides the store.

    Attributes:
        settings: `[budget]`.
        name: NAME of the configuration.
        file: the configuration's file, for sentences.
        owner: owner in the tags of our instances.
        provider: the cloud's.
        list_instances: lists the whole cloud.
        unsent: returns those of some create tokens that certainly made nothing, as the journal has them.
        ledger: path of this NAME's ledger.
        owners: user and group of VMs.
        clock: seconds since the epoch.
    """

    settings: BudgetSettings
    name: str
    file: str
    owner: str
    provider: Provider
    list_instances: Callable[[], Awaitable[Sequence[Instance]]]
    unsent: Callable[[Sequence[str]], Awaitable[Sequence[str]]]
    ledger: Path
    owners: Owners
    clock: Callable[[], float]


class Limited:
    """Admits by the limits of one configuration.

    Args:
        plan: settings and cloud.
        store: the budget's file, open.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan = plan
        self._store = store
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = self._latest = -_OLD_SECONDS
        self._tried_at = -_OLD_SECONDS

    # Creates

    async def admit_create(self, key: str, *, identity: Identity, owner: VmOwner, parameters: Parameters) -> None:
        """Commit the price of a create, identified by its token; the same once more is free.

        Args:
            key: the token.
            identity: in the tags of the instance.
            owner: the VM's user and group.
            parameters: one alternative of the plan.

        Raises:
            BudgetExceeded: a limit does not admit it.
            BudgetError: the budget's file cannot be used.
            ProviderError: the cloud does not list its instances, and the budget has never seen them.
        """
        provider, price, gib, type_name = self._plan.provider, UNKNOWN, None, ""
        if isinstance(provider, PriceSource):
            await _read_prices(provider, ())
            price, gib = provider.price_of_create(parameters), provider.disk_size(parameters)
            type_name = provider.type_of_create(parameters)
        wish = Wish(
            key=key,
            identity=identity,
            owner=owner,
            what=f"an instance {type_name}" if type_name else "a new instance",
            price=price,
            gib=gib,
            is_new_type=True,
            type_name=type_name,
        )
        await self._admit(wish)

    async def created(self, key: str, deploy_id: str) -> None:
        """Note a create's answer, "" for an uncertain one: from now on the cloud may take its grace to list it."""
        wait = self._plan.provider.visibility_grace
        await self._store.settle(key, at=self._now(), wait=wait, deploy_id=deploy_id)

    async def release(self, key: str) -> None:
        """Forget a create that certainly made nothing."""
        await self._store.release(key)

    async def gone(self, identity: Identity, deploy_ids: Collection[DeployId]) -> None:
        """Forget the instances of a VM that has certainly none any more."""
        await self._store.gone(identity, deploy_ids, at=self._now())

    # Instances that exist

    async def stopped(self, instance: Instance) -> None:
        """Count an instance that the cloud shows stopped as what it costs now; a listing would do so later."""
        provider = self._plan.provider
        if isinstance(provider, PriceSource):
            await self._store.lower(instance.deploy_id, provider.price_of(instance), at=self._now())

    @asynccontextmanager
    async def starting(self, instance: Instance, request: VmRequest, /) -> AsyncIterator[None]:
        """Commit the price of the running instance; a listing lowers it again after a start that failed."""
        price = await self._price(instance, lambda source: source.price_of(instance, state=InstanceState.RUNNING))
        wish = self._wish(instance, request, f"starting instance {instance.deploy_id}", price)
        # A user may have changed the type in PUBLIC_CLOUD while the instance was stopped.
        async with self._committed(msgspec.structs.replace(wish, is_new_type=self._has_types and wish.kind[0] != "")):
            yield

    @asynccontextmanager
    async def resizing(self, instance: Instance, request: VmRequest, /) -> AsyncIterator[None]:
        """Commit the price of the instance with the size of the request."""
        price = await self._price(instance, lambda source: source.price_of_resize(instance, request))
        wish = self._wish(instance, request, f"resizing instance {instance.deploy_id}", price)
        async with self._committed(msgspec.structs.replace(wish, is_new_type=self._has_types)):
            yield

    @property
    def _has_types(self) -> bool:
        """True where an existing instance can get another type."""
        return isinstance(self._plan.provider, TypeSource)

    @asynccontextmanager
    async def with_disk(
        self, instance: Instance, request: VmRequest, disk: Mapping[str, str], /, *, before: float | None = None
    ) -> AsyncIterator[None]:
        """Commit the price of a disk; of one that is enlarged the part by which it grows, where `before` is known."""
        size = _number(disk.get("SIZE", ""))
        grown = None if size is None else max(0.0, size - (before or 0.0))
        price = UNKNOWN
        if grown is not None:
            only = {**disk, "SIZE": f"{grown:.0f}"}
            price = await self._price(instance, lambda source: source.price_of_disk(only))
        number = disk.get("DISK_ID", "?")
        wish = self._wish(instance, request, f"disk {number} of instance {instance.deploy_id}", price)
        gib = None if grown is None else grown / 1024
        async with self._committed(msgspec.structs.replace(wish, is_part=True, gib=gib)):
            yield

    def _wish(self, instance: Instance, request: VmRequest, what: str, price: Price) -> Wish:
        identity = instance.identity or request.identity(owner=self._plan.owner)
        return Wish(
            deploy_id=instance.deploy_id,
            identity=identity,
            owner=request.owner,
            what=what,
            price=price,
            gib=gib_of(price),
        )

    async def _price(self, instance: Instance, of: Callable[[PriceSource], Price]) -> Price:
        provider = self._plan.provider
        if not isinstance(provider, PriceSource):
            return UNKNOWN
        await _read_prices(provider, (instance,))
        return of(provider)

    @asynccontextmanager
    async def _committed(self, wish: Wish) -> AsyncIterator[None]:
        await self._admit(wish)
        wait = self._plan.provider.visibility_grace
        try:
            yield
            wait = 0.0
        except ProviderError as error:
            if error.definite:
                wait = 0.0
                if wish.is_part:
                    await _told(self._store.withdraw(wish))
            raise
        finally:
            await _told(self._store.settle(wish.deploy_id, at=self._now(), wait=wait))

    # Deciding

    async def _admit(self, wish: Wish) -> None:
        await self._look_if_old()
        begun = asyncio.get_running_loop().time()
        refused = await self._decide(wish)
        if refused is not None and refused.is_by_use:
            with suppress(MadError):  # without a listing the store stays as it is
                await self._look_since(begun)
            refused = await self._decide(wish)
        if refused is not None:
            raise BudgetExceeded(refused.sentence)

    async def _decide(self, wish: Wish) -> Refusal | None:
        """Commit what is wished, or return why not; a new file first learns what exists and what was spent."""
        scopes = scopes_for(self._plan.settings, name=self._plan.name, owner=wish.owner)
        while True:
            now = self._now()
            answer = await self._store.admit(wish, scopes=scopes, terms=self._terms(now.at), at=now)
            match answer:
                case Unready.LOOK:
                    await self._look_since(asyncio.get_running_loop().time())
                case Unready.BOOK:
                    await self._book_for_month()
                case _:
                    return answer

    async def _book_for_month(self) -> None:
        try:
            await self.book()
        except LedgerError as error:
            raise BudgetError(f"{error}, and max_per_month in [budget] counts what it has booked") from error

    def _terms(self, now: float) -> Terms:
        may_be_unknown = self._plan.settings.unknown_price == "allow"
        return Terms(file=self._plan.file, now=now, month=month_of(now), may_be_unknown=may_be_unknown)

    def _now(self) -> Timestamp:
        return Timestamp.now(self._plan.clock)

    # Looking

    async def _look_if_old(self) -> None:
        """Compare the store with the cloud where that was not done for long, as in a new process."""
        now = asyncio.get_running_loop().time()
        if now - max(self._looked_at, self._tried_at) < _OLD_SECONDS:
            return
        try:
            await self._share_look()
        except ProviderError:
            self._tried_at = now  # what is in the store counts; a create need not wait for each listing that fails

    async def _share_look(self) -> None:
        """Return once the listing under way, or a new one, is compared with the store. Raises ProviderError."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_soon(), name="listing for the budget")
        await asyncio.shield(self._looking)

    async def _look_since(self, begun: float) -> None:
        """Return once a listing that began after `begun` (loop time) is compared with the store.

        Raises:
            ProviderError: the cloud does not list its instances.
            BudgetError: the budget's file cannot be used.
        """
        while self._looked_at < begun:
            await self._share_look()

    async def _look_soon(self) -> None:
        try:
            await asyncio.sleep(self._looked_at + _LISTS_EVERY - asyncio.get_running_loop().time())
            await self.look()
        finally:
            self._looking = None

    async def look(self) -> None:
        """List the cloud and bring the store in line with it. Raises ProviderError, BudgetError."""
        begun, began = self._now(), asyncio.get_running_loop().time()
        for key in await self._plan.unsent(await self._store.waiting_tokens()):
            await self._store.release(key)
        listed = await self._plan.list_instances()
        ours = [each for each in listed if each.identity is not None and each.identity.owner == self._plan.owner]
        provider = self._plan.provider
        if isinstance(provider, PriceSource):
            await _read_prices(provider, ours)
        owners = await self._plan.owners()
        observed = await asyncio.to_thread(self._observed, ours, owners)
        grace = provider.visibility_grace
        if began < self._latest:
            return  # a listing that began later has shown what has ended since
        self._latest = began
        await self._store.reconcile(observed, begun=begun, at=self._now(), grace=grace)
        self._looked_at = began

    async def book(self) -> None:
        """Take over what the ledger has booked in this month. Raises LedgerError, BudgetError."""
        month = month_of(self._plan.clock())
        await self._store.book(await asyncio.to_thread(read_spent, self._plan.ledger, month), month)

    async def levels(self) -> list[Level]:
        """Return how far each limit on a sum is used. Raises BudgetError."""
        month = month_of(self._plan.clock())
        found: list[Level] = []
        for scope in all_scopes(self._plan.settings, name=self._plan.name):
            found += levels(scope, await self._store.use_of(scope, month))
        return found

    async def month_uses(self) -> list[MonthUse]:
        """Return how far each limit of costs a month is used until now. Raises BudgetError."""
        now = self._plan.clock()
        found = []
        for scope in all_scopes(self._plan.settings, name=self._plan.name):
            limit = scope.limits.max_per_month
            if limit is not None:
                use, own = await self._store.use_until(scope, month_of(now), until=now)
                found.append(_month_use(scope, limit, use, own))
        return found

    def _observed(self, ours: Sequence[Instance], owners: Mapping[tuple[int, int], VmOwner]) -> list[Observed]:
        return [_observation(each, self._plan.provider, owners) for each in ours]


def _month_use(scope: Scope, limit: float, use: Use, deploy_ids: frozenset[str]) -> MonthUse:
    return MonthUse(
        table=scope.table,
        whom=scope.whom,
        limit=limit,
        spent=use.month,
        per_hour=use.per_hour,
        currency=next(iter(use.currencies)) if len(use.currencies) == 1 else "",
        deploy_ids=deploy_ids,
    )


async def _read_prices(source: PriceSource, instances: Collection[Instance]) -> None:
    """Read prices; those that cannot be read stay as they were, or unknown, which the limits have a rule for."""
    try:
        await source.read_prices(instances)
    except ProviderError as error:
        log.info("prices not read for the budget", reason=str(error))


def _observation(instance: Instance, provider: Provider, owners: Mapping[tuple[int, int], VmOwner]) -> Observed:
    price = provider.price_of(instance) if isinstance(provider, PriceSource) else UNKNOWN
    identity = instance.identity
    if identity is None:
        raise AssertionError("only instances with an identity are observed")
    return Observed(
        deploy_id=instance.deploy_id,
        vm_id=identity.vm_id,
        stime=identity.stime,
        seq=identity.seq,
        is_ended=instance.state is InstanceState.TERMINATED,
        is_ending=instance.state is InstanceState.TERMINATING,
        amount=price.amount,
        known=price.known,
        currency=price.currency,
        gib=gib_of(price),
        created_at=instance.created_at,
        owner=owners.get((identity.vm_id, identity.stime), VmOwner()),
    )


async def _told(telling: Awaitable[None]) -> None:
    """Tell the store of a call's end. Its failure is no failure of the call: the next listing settles it."""
    try:
        await telling
    except BudgetError as error:
        log.warning("end of a call not in the budget", reason=str(error))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
