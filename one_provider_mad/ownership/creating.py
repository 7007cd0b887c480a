"""Create the instance of a VM that certainly has none, and give up one that failed for lack of capacity."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import msgspec

from one_provider_mad.domain import DeployId, Instance, Value, VmRequest
from one_provider_mad.errors import (
    BudgetExceeded,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    TokenSpent,
    WrongState,
)
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.ownership.billing import note_created
from one_provider_mad.ownership.rooms import note_refusal, note_room, note_shortage, room_of
from one_provider_mad.ownership.sending import send_new
from one_provider_mad.ownership.vm import Vm
from one_provider_mad.providers.interface import (
    CreatePlan,
    ImageReader,
    InterruptionSource,
    Parameters,
    PriceSource,
    Provider,
    ShortageSource,
    TypeChooser,
    TypeSource,
)

_MOST_SPENT = 10
"""Create tokens in a row that the cloud may call spent, by earlier recreates; after so many the deploy fails."""


Complete = Callable[[VmRequest], Awaitable[VmRequest]]
"""Returns the request with the values that only the local core can give. Raises RequestRefused without them."""


class Call(Protocol):
    """Sends a call to the cloud, within the limits of the sender."""

    async def __call__(self, what: str, send: Callable[[], Awaitable[None]], /) -> None:
        """Send the call named `what`."""


async def as_sent(request: VmRequest) -> VmRequest:
    """Return the request unchanged, for a driver that may not ask the core."""
    return request


class Order(Value, frozen=True, kw_only=True):
    """The request from which a new instance is created, and the check before it.

    Attributes:
        request: the VM, from which the provider plans the instance.
        specification: the specification of the instance, as text for the journal.
        check: raises RequestRefused when no instance may be created for the VM.
        complete: completes the request before the provider plans the instance.
    """

    request: VmRequest
    specification: str = ""
    check: Callable[[], None] = lambda: None
    complete: Complete = as_sent


async def planned(order: Order, provider: Provider, *, call: Call) -> CreatePlan:
    """Return how the instance may be created.

    Args:
        order: the request.
        provider: the cloud's.
        call: sends a call to the cloud.

    Raises:
        RequestRefused: no instance may be created for the VM, or the core does not complete its request.
        ProviderError: the VM's template does not allow it, or the cloud does not tell what the plan depends on.
    """
    order.check()
    request = await order.complete(order.request)
    if isinstance(provider, ImageReader):
        await call("read image", partial(provider.read_image, request))
    if isinstance(provider, TypeChooser) and provider.chooses_type(request):
        await _read_offers(provider, call=call)
        # A cloud has a thousand types, and the user's own patterns decide how long it takes to compare them.
        return await asyncio.to_thread(provider.plan, request)
    return provider.plan(request)


async def _read_offers(provider: object, *, call: Call) -> None:
    """Read types and prices, on which the choice of a type depends; without an answer the plan says what is unknown."""
    if isinstance(provider, TypeSource):
        with suppress(ProviderError):
            await call("read instance types", provider.read_types)
    if isinstance(provider, PriceSource):
        with suppress(ProviderError):
            await call("read prices", partial(provider.read_prices, ()))


class Creation(Value, frozen=True, kw_only=True):
    """Creates the instance of one VM; tries no alternative (type, zone) again that had no capacity.

    Attributes:
        vm: the VM.
        order: the request from which the instance is created.
        short: alternatives for which there was no capacity, with the cloud's answer.
    """

    vm: Vm
    order: Order
    short: list[tuple[Parameters, NoCapacity]] = msgspec.field(default_factory=list)

    async def create(self) -> DeployId:
        """Send a create for each alternative until the cloud accepts one; return the new instance's id.

        An alternative that a limit of `[budget]` does not admit is skipped: a later one may be cheaper.

        Raises:
            RequestRefused: no instance may be created for the VM, or the core does not complete its request.
            BudgetExceeded: no alternative is admitted.
            ProviderError: the cloud refused, or its answer is uncertain; the attempt is in the journal.
        """
        beyond: list[str] = []
        plan = await planned(self.order, self.vm.cloud.provider, call=self.vm.cloud.call)
        for warning in plan.warnings:
            self.vm.warn_once(warning)
        for parameters in await self._without_interruptions(plan.alternatives):
            attempt = await self._open(parameters)
            if any(attempt.parameters == short for short, _ in self.short):
                continue
            room, sent_at = room_of(self.vm, self.order.request, parameters), self.vm.clock()
            try:
                deploy_id = await self._send_attempts(attempt)
            except BudgetExceeded as error:
                beyond.append(str(error))
            except NoCapacity as error:
                self.short.append((attempt.parameters, error.with_traceback(None)))
                self.vm.warn(f"{error}")
                await note_shortage(self.vm, room, error)
            except QuotaExceeded as error:
                await note_shortage(self.vm, room, error)
                await note_refusal(self.vm, room, error)
                raise
            else:
                await note_room(self.vm, room, sent_at=sent_at)
                await note_created(self.vm.cloud, self.vm.journal, deploy_id, self.order.request.owned_vm)
                if beyond:
                    self.vm.warn_once(f"a cheaper alternative was created: {beyond[0]}")
                return deploy_id
        if beyond and not self.short:
            raise BudgetExceeded(beyond[0])
        for sentence in beyond:
            self.vm.warn_once(sentence)
        await note_refusal(self.vm, "", self.short[-1][1])
        raise self.short.pop()[1]  # a plan has an alternative; popped, as the error's traceback keeps this frame

    async def _without_interruptions(self, alternatives: Sequence[Parameters]) -> Sequence[Parameters]:
        """Return the alternatives that the cloud will not take back, if it has taken back the VM's instance before."""
        provider, identity = self.vm.cloud.provider, self.vm.identity
        if not isinstance(provider, InterruptionSource):
            return alternatives
        record = await self.vm.journal.recreation(identity.vm_id)
        is_interrupted = record is not None and record.is_interrupted and record.stime == identity.stime
        return provider.lasting(alternatives) if is_interrupted else alternatives

    async def fall_back(self, deploy_id: DeployId, error: WrongState) -> None:
        """Give up an instance that never ran for lack of capacity, so that `create` tries the next alternative.

        Args:
            deploy_id: the instance.
            error: the reason why it does not run.

        Raises:
            WrongState: the instance failed for another reason; the same error. A later deploy adopts it while it
                exists; once it is gone its token is spent, and a later deploy is a new attempt.
        """
        short = await give_up(self.vm, deploy_id, error)
        for attempt in short:
            refusal = NoCapacity(f"{error}")
            self.short.append((attempt.parameters, refusal))
            await note_shortage(self.vm, room_of(self.vm, self.order.request, attempt.parameters), refusal)
        if not short:
            raise error

    async def _open(self, parameters: Parameters) -> Attempt:
        number = 1 + max((attempt.number for attempt in await self.vm.own_attempts()), default=0)
        return Attempt.new(self.vm.identity, number, parameters, specification=self.order.specification)

    async def _send_attempts(self, attempt: Attempt) -> DeployId:
        """Send an attempt; while the cloud calls its token spent, send a new one, after `_MOST_SPENT` the last."""
        for _ in range(_MOST_SPENT):
            try:
                return await send_new(self.vm, attempt)
            except TokenSpent as error:
                self.vm.warn(f"{error}: a new attempt is made")
            attempt = await self._open(attempt.parameters)
        return await send_new(self.vm, attempt)


async def give_up(vm: Vm, deploy_id: DeployId, error: WrongState) -> list[Attempt]:
    """Give up an instance that will not run: record a debt where it failed for lack of capacity.

    Args:
        vm: the VM.
        deploy_id: the instance.
        error: the reason why it does not run.

    Returns:
        The instance's attempts that failed for lack of capacity, empty for any other reason.
    """
    instance = await vm.cloud.lookup_one(deploy_id)
    made = [attempt for attempt in await vm.attempts() if attempt.deploy_id == deploy_id]
    short = [attempt for attempt in made if instance is not None and _lacked_capacity(vm, instance, attempt)]
    for attempt in short:
        reason = f"the cloud had no capacity for it: {error}"
        await vm.record_debt(attempt.deploy_id, reason, identity=attempt.identity, token=attempt.token)
        vm.warn(f"{error}")
    if instance is None or instance.state.is_gone:
        for attempt in made:
            await vm.close(attempt, AttemptState.GONE, "ended before it ran")
    return short


def _lacked_capacity(vm: Vm, instance: Instance, attempt: Attempt) -> bool:
    provider = vm.cloud.provider
    return isinstance(provider, ShortageSource) and provider.lacked_capacity(instance, attempt.parameters)
