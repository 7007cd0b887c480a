"""A cloud that exists in a test's memory only, and the admission of a configuration with limits for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from one_provider_mad.budget.admission import Limited, Plan
from one_provider_mad.budget.settings import BudgetSettings
from one_provider_mad.budget.store import Store
from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, VmId, VmOwner, VmRequest
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.pricing.values import UNKNOWN, Item, Kind, Part, Price
from one_provider_mad.providers.interface import Parameters, Provider

ADA = VmOwner(user="ada", group="staff")


def price(amount: float) -> Price:
    """Of an instance of the type `small`."""
    return Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name="small"), amount=amount),), currency="USD")


def identity(vm_id: int) -> Identity:
    return Identity(owner="one-test", vm_id=VmId(vm_id), stime=vm_id + 1, seq=0, host_id=0)


class SmallCloud:
    """Instances of one type.

    Attributes:
        amount: their price an hour while they run; a stopped one costs nothing.
        instances: what exists.
        listings: how often it was listed.
        is_down: it does not answer.
    """

    name = "small"
    visibility_grace = 0.0

    def __init__(self, amount: float = 1.0) -> None:
        self.amount = amount
        self.instances: dict[int, Instance] = {}
        self.listings = 0
        self.is_down = False

    def make(self, vm_id: int, *, state: InstanceState = InstanceState.RUNNING, created_at: float = 0.0) -> Instance:
        made = Instance(
            deploy_id=DeployId(f"i-{vm_id}"),
            state=state,
            raw_state=state.value,
            identity=identity(vm_id),
            created_at=created_at,
        )
        self.instances[vm_id] = made
        return made

    async def list_instances(self) -> Sequence[Instance]:
        if self.is_down:
            raise ProviderUnavailable("the small cloud did not answer")
        self.listings += 1
        return list(self.instances.values())

    # PriceSource

    async def read_prices(self, instances: Collection[Instance]) -> None:
        pass

    def price_of(self, instance: Instance, *, state: InstanceState | None = None) -> Price:
        return price(self.amount if (state or instance.state) is InstanceState.RUNNING else 0.0)

    def kind_of(self, instance: Instance) -> tuple[str, str]:
        return "small", "on-demand"

    def type_of_create(self, parameters: Parameters) -> str:
        return "small"

    def price_of_create(self, parameters: Parameters) -> Price:
        return price(self.amount)

    def price_of_disk(self, disk: Mapping[str, str]) -> Price:
        return UNKNOWN

    def price_of_resize(self, instance: Instance, request: VmRequest) -> Price:
        return price(self.amount)

    def disk_size(self, parameters: Parameters) -> float | None:
        return 0.0


async def _nobody() -> Mapping[tuple[int, int], VmOwner]:
    return {}


async def _none(tokens: Sequence[str]) -> Sequence[str]:
    return []


class Front:
    """One NAME with limits.

    Args:
        var: the directory of its files.
        cloud: its cloud.
        now: seconds since the epoch; a test may set it.
        limits: keys of `[budget]`.
    """

    def __init__(self, var: Path, cloud: SmallCloud, *, now: float = 1_796_000_000.0, **limits: Any) -> None:
        self.now = now
        self.cloud = cloud
        self.moved: list[str] = []
        self.path = var / "one_provider_mad_one.budget"
        self.ledger = var / "one_provider_mad_one.ledger"
        self.store = Store(self.path, "one", on_moved=self.moved.append)
        plan = Plan(
            settings=BudgetSettings(**limits),
            name="one",
            file="one.toml",
            owner="one-test",
            provider=cast("Provider", cloud),
            list_instances=cloud.list_instances,
            unsent=_none,
            ledger=self.ledger,
            owners=_nobody,
            clock=lambda: self.now,
        )
        self.budget = Limited(plan, self.store)

    async def admit(self, vm_id: int) -> None:
        await self.budget.admit_create(f"token-{vm_id}", identity=identity(vm_id), owner=ADA, parameters={})

    async def create(self, vm_id: int) -> Instance:
        await self.admit(vm_id)
        made = self.cloud.make(vm_id, created_at=self.now)
        await self.budget.created(f"token-{vm_id}", made.deploy_id)
        return made
