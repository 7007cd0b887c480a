"""Admission before calls: what it counts, and what it does when the cloud, the disk or the caller fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.budget import admission, transactions
from one_provider_mad.budget.admission import Limited, Plan
from one_provider_mad.budget.settings import BudgetSettings, Limits
from one_provider_mad.budget.store import Store
from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, VmId, VmOwner, VmRequest
from one_provider_mad.errors import BudgetExceeded, PermissionDenied, ProviderError, ProviderUnavailable
from one_provider_mad.pricing.values import UNKNOWN, Item, Kind, Part, Price
from one_provider_mad.providers.interface import InstanceType
from tests.actions.fakes import turns

ADA = VmOwner(user_id=7, user="ada", group_id=1, group="users")
OF_INSTANCE = Price(parts=(Part(item=Item(kind=Kind.COMPUTE, name="m1"), amount=1.0),), currency="USD")
OF_DISK = Price(parts=(Part(item=Item(kind=Kind.DISK, name="gp3"), amount=0.5),), currency="USD")


class Sky:
    """A cloud whose instances cost 1 an hour while they run, and nothing while they are stopped."""

    visibility_grace = 60.0

    def __init__(self) -> None:
        self.instances: list[Instance] = []
        self.listings = 0
        self.listing_error: ProviderError | None = None
        self.price_error: ProviderError | None = None

    async def list_instances(self) -> Sequence[Instance]:
        self.listings += 1
        if self.listing_error is not None:
            raise self.listing_error
        return self.instances

    async def read_prices(self, _instances: Collection[Instance]) -> None:
        if self.price_error is not None:
            raise self.price_error

    def price_of(self, instance: Instance, *, state: InstanceState | None = None) -> Price:
        return OF_INSTANCE if (state or instance.state) is InstanceState.RUNNING else Price(currency="USD")

    def type_of_create(self, _parameters: object) -> str:
        return "m1"

    def price_of_create(self, _parameters: object) -> Price:
        return OF_INSTANCE

    def price_of_resize(self, _instance: Instance, _request: VmRequest) -> Price:
        return OF_INSTANCE

    def price_of_disk(self, _disk: Mapping[str, str]) -> Price:
        return OF_DISK

    def kind_of(self, _instance: Instance) -> tuple[str, str]:
        return "m1", "on-demand"

    async def read_types(self) -> None:
        """Nothing: an existing instance can get another type, which makes the cloud a TypeSource."""

    def instance_types(self) -> Mapping[str, InstanceType]:
        return {}

    def price_of_type(self, _name: str, *, market: str) -> Price:
        return OF_INSTANCE if market else UNKNOWN

    def disk_size(self, _parameters: object) -> float | None:
        return 0.0


def identity(vm_id: int) -> Identity:
    return Identity(owner="one", vm_id=VmId(vm_id), stime=1, seq=0, host_id=0)


def instance(vm_id: int, state: InstanceState = InstanceState.RUNNING) -> Instance:
    return Instance(deploy_id=DeployId(f"i-{vm_id}"), state=state, raw_state=state.value, identity=identity(vm_id))


class Office:
    """One NAME with its budget's file; `limited` is a process's view of it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "x.budget"
        self.sky = Sky()
        self.now = 1_000_000.0
        self.owners: dict[tuple[int, int], VmOwner] = {}
        self.stores: list[Store] = []

    def limited(self, settings: BudgetSettings) -> Limited:
        store = Store(self.path, "x")
        self.stores.append(store)

        async def nothing(_tokens: Sequence[str]) -> Sequence[str]:
            return ()

        async def owners() -> Mapping[tuple[int, int], VmOwner]:
            return self.owners

        plan = Plan(
            settings=settings,
            name="x",
            file="x.toml",
            owner="one",
            provider=self.sky,  # type: ignore[arg-type]
            list_instances=self.sky.list_instances,
            unsent=nothing,
            ledger=self.path.with_name("x.ledger"),
            owners=owners,
            clock=lambda: self.now,
        )
        return Limited(plan, store)

    def rows(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute("SELECT key, known, added, wait FROM commitments ORDER BY key").fetchall()


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.fixture(autouse=True)
async def _closed(office: Office, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(admission, "_LISTS_EVERY", 0.0)
    yield
    for store in office.stores:
        await store.close()


async def create(limited: Limited, vm_id: int) -> None:
    await limited.admit_create(f"token-{vm_id}", identity=identity(vm_id), owner=ADA, parameters={})


ONE = BudgetSettings(max_per_hour=1.0)


async def test_instances_from_before_the_budget_count_for_their_user(office: Office) -> None:
    office.sky.instances, office.owners = [instance(1)], {(1, 1): ADA}
    limited = office.limited(BudgetSettings(users={"ada": Limits(max_instances=1)}))
    with pytest.raises(BudgetExceeded, match="max_instances of user ada is 1, 1 exist"):
        await create(limited, 2)


async def test_a_new_process_counts_what_was_created_while_the_budget_was_out_of_force(office: Office) -> None:
    await office.limited(ONE).look()
    office.sky.instances = [instance(1)]
    with pytest.raises(BudgetExceeded, match=r"max_per_hour of x is 1\.0000 USD, 1\.0000 USD is in use"):
        await create(office.limited(ONE), 2)


async def test_a_listing_that_fails_delays_one_create_only(office: Office) -> None:
    await office.limited(ONE).look()
    office.sky.listings, office.sky.listing_error = 0, ProviderUnavailable("no route")
    limited = office.limited(BudgetSettings(max_per_hour=3.0))
    for vm_id in (1, 2, 3):
        await create(limited, vm_id)
    assert office.sky.listings == 1


async def test_nothing_is_created_before_the_first_listing_of_all(office: Office) -> None:
    office.sky.listing_error = ProviderUnavailable("no route")
    with pytest.raises(ProviderUnavailable):
        await create(office.limited(ONE), 1)


async def test_prices_that_cannot_be_read_refuse_nothing_whose_price_is_known(office: Office) -> None:
    office.sky.price_error = PermissionDenied("ec2:DescribeVolumes is not allowed")
    limited = office.limited(ONE)
    await create(limited, 1)
    office.sky.instances = [instance(1)]
    await limited.created("token-1", "i-1")
    await limited.look()
    with pytest.raises(BudgetExceeded):
        await create(limited, 2)


async def test_a_create_cancelled_while_it_is_admitted_leaves_nothing_that_counts_for_ever(office: Office) -> None:
    limited = office.limited(ONE)
    await limited.look()
    task = asyncio.create_task(create(limited, 1))
    with closing(sqlite3.connect(office.path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")  # the admission waits for it in the database's thread
        await turns()
        task.cancel()
        db.execute("ROLLBACK")
    with pytest.raises(asyncio.CancelledError):
        await task
    await limited.look()
    assert [wait for *_, wait in office.rows()] == [60.0], "it counts until the cloud would list its instance"


async def test_a_start_that_succeeded_does_not_fail_because_the_budgets_disk_is_full(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.sky.instances = [instance(1, InstanceState.STOPPED)]
    limited = office.limited(ONE)

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        async with limited.starting(instance(1, InstanceState.STOPPED), VmRequest(vm_id=VmId(1), owner=ADA)):
            broken.setattr(transactions, "settle", full)
    assert [(known, wait) for _, known, _, wait in office.rows()] == [(1.0, None)]
    office.sky.instances = [instance(1, InstanceState.STOPPED)]
    await limited.look()
    assert [wait for *_, wait in office.rows()] == [60.0], (
        "for all that the file tells, the call may yet have an effect"
    )


async def test_a_stopped_instance_whose_type_a_user_has_changed_is_not_started_with_a_forbidden_one(
    office: Office,
) -> None:
    office.sky.instances = [stopped := instance(1, InstanceState.STOPPED)]
    limited = office.limited(BudgetSettings(allowed_types=("t3.*",)))
    with pytest.raises(
        BudgetExceeded, match=r"allowed_types of x is t3\.\*, and starting instance i-1 would be of type m1"
    ):
        async with limited.starting(stopped, VmRequest(vm_id=VmId(1), owner=ADA)):
            pytest.fail("it was started")
