"""VMs are powered off at the limit of a month: a fake OpenNebula, a real budget, the simulated cloud's prices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.actions.engine import Engine
from one_provider_mad.budget.admission import Limited, Plan
from one_provider_mad.budget.settings import BudgetSettings
from one_provider_mad.budget.store import Store
from one_provider_mad.calls.cloud import SharedCloud
from one_provider_mad.domain import DeployId, Identity, VmId, VmOwner
from one_provider_mad.errors import WrongState
from one_provider_mad.idle.rules import Figure, Machine
from one_provider_mad.over_budget.watcher import Watcher
from one_provider_mad.protocol.messages import Severity
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.simulated.cloud import Launch
from one_provider_mad.providers.simulated.provider import SimulatedProvider
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.actions.fakes import OWNER, FakeEngines, World, a_world
from tests.idle.fakes import FakeOpenNebula

POWEROFF = {"at_limit": "poweroff", "max_per_month": 0.02}
"""Two VMs of 0.005 USD an hour have cost that after two hours."""

OLD, NEW = VmId(7), VmId(5)


class Place:
    """A front-end whose VMs 7 (of ada) and 5 (of bob, the newer one) run in the simulated cloud."""

    def __init__(self, world: World, provider: SimulatedProvider, path: Path) -> None:
        self.world, self.provider = world, provider
        self.shared = SharedCloud(provider, owner=OWNER, retries=0, call_timeout=60.0)
        self.store = Store(path / "budget", "sim")
        self.opennebula = FakeOpenNebula()
        self.busy: set[VmId] = set()
        self.logged: list[tuple[VmId | None, str]] = []
        self.now = 1_700_000_000.0
        self.owners = {(int(OLD), 1): VmOwner(user="ada"), (int(NEW), 2): VmOwner(user="bob")}
        self.limit()
        engines = FakeEngines(world)
        engines.current = self._current  # type: ignore[method-assign]
        self.watcher = Watcher(
            engines,
            self.opennebula,
            name="sim",
            write_log=self._log,
            is_busy=lambda vm_id: vm_id in self.busy,
            clock=lambda: self.now,
            learn_release=lambda _release: None,
            core_is_up=asyncio.Event(),
        )

    def limit(self, **settings: Any) -> None:
        """Put other limits in force."""
        self.settings = msgspec.convert(POWEROFF | settings, BudgetSettings)
        plan = Plan(
            settings=self.settings,
            name="sim",
            file="sim.toml",
            owner=OWNER,
            provider=self.provider,
            list_instances=self.provider.list_instances,
            unsent=self._unsent,
            ledger=Path("/nonexistent"),
            owners=self._owners,
            clock=lambda: self.now,
        )
        self.budget = Limited(plan, self.store)

    async def _unsent(self, _tokens: Sequence[str]) -> Sequence[str]:
        return ()

    async def _owners(self) -> dict[tuple[int, int], VmOwner]:
        return self.owners

    def _log(self, _severity: Severity, text: str, vm_id: VmId | None = None) -> None:
        self.logged.append((vm_id, text))

    async def _current(self) -> Engine:
        engine = self.world.engine()
        settings = msgspec.structs.replace(engine.configuration.settings, budget=self.settings, owner=OWNER)
        configuration = msgspec.structs.replace(engine.configuration, settings=settings)
        return msgspec.structs.replace(engine, configuration=configuration, cloud=self.shared, budget=self.budget)

    async def run_vm(self, vm_id: VmId, stime: int, *, owner: str = OWNER, kind: str = "small_256mb") -> None:
        identity = Identity(owner=owner, vm_id=vm_id, stime=stime, seq=0, host_id=0)
        deploy_id = await self.provider.cloud.launch(Launch(type=kind, image="i"), tags=identity.tags())
        self.opennebula.machines[vm_id] = Machine(
            vm_id=vm_id,
            stime=stime,
            deploy_id=DeployId(deploy_id),
            group_id=100,
            started_at=self.now,
            asked=None,
            warning="",
            figure=Figure(self.now, 0.0),
        )

    async def after(self, minutes: float) -> None:
        """Check once after so many minutes."""
        self.now += minutes * 60
        await self.watcher.check_if_due()

    def told(self, vm_id: VmId | None) -> list[str]:
        return [text for number, text in self.logged if number == vm_id]


@pytest.fixture
async def place(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    context = ProviderContext(name="sim", hypervisor="sim", owner=OWNER, state_directory=tmp_path, warn=print)
    prices = {"disk": 0, "address": 0, **getattr(request, "param", {})}
    types = {"unpriced": {"cpu": 1, "memory": 256}}
    settings = msgspec.convert({"boot_time": 0, "prices": prices, "instance_types": types}, SimulatedSettings)
    provider = SimulatedProvider(context, settings)
    await provider.open()
    async with a_world(tmp_path) as world:
        place = Place(world, provider, tmp_path)
        await place.run_vm(OLD, 1)
        await place.run_vm(NEW, 2)
        await place.budget.look()
        yield place
        await place.store.close()
    await provider.close()


async def test_vms_are_warned_within_the_hour_and_powered_off_at_the_limit_newest_first(place: Place) -> None:
    await place.after(50)
    assert place.logged == []
    await place.after(20)
    assert [vm_id for vm_id, _ in place.logged] == [None, NEW, OLD]
    [warning] = place.told(OLD)
    assert warning.startswith("max_per_month of sim, 0.0200 USD, will be reached at 20")
    assert warning.endswith(
        " the VM is powered off then, and onevm resume 7 starts it once a new month or limit allows that"
    )
    await place.after(49)
    assert (len(place.logged), place.opennebula.off) == (3, [])
    await place.after(2)
    assert place.opennebula.off == [NEW, OLD]
    assert place.told(OLD)[1] == (
        "powered off, since max_per_month of sim, 0.0200 USD, is reached; onevm resume 7 starts it once a new month or"
        " limit allows that"
    )
    assert [text.split(":")[0] for text in place.told(None)][1:] == ["max_per_month of sim, 0.0200 USD, is reached"]


async def test_a_limit_that_is_lowered_warns_first_and_a_raised_one_calls_the_power_off_off(place: Place) -> None:
    await place.after(30)
    place.limit(max_per_month=0.001)
    await place.after(1)
    assert place.opennebula.off == []
    assert place.told(NEW)[0].startswith("max_per_month of sim, 0.0010 USD, is reached: the VM is powered off in 60 s")
    place.limit(max_per_month=5)
    await place.after(1)
    assert place.told(NEW)[1] == "the VM is not powered off: no limit of the month is near any more"
    place.limit(max_per_month=0.001)
    await place.after(1)
    await place.after(1)
    assert place.opennebula.off == [NEW, OLD]


async def test_a_users_limit_concerns_the_users_vms_alone(place: Place) -> None:
    place.limit(max_per_month=None, users={"ada": {"max_per_month": 0.01}})
    await place.after(70)
    await place.after(60)
    assert place.opennebula.off == [OLD]
    assert place.told(NEW) == []


@pytest.mark.parametrize("place", [{"stopped": 1}], indirect=True)
async def test_nothing_is_powered_off_where_a_stopped_instance_costs_as_much(place: Place) -> None:
    await place.after(130)
    await place.after(1)
    assert (place.opennebula.off, place.told(OLD)) == ([], [])
    assert "0 VMs are powered off then through OpenNebula, the newest first, and 2 VMs are left" in place.told(None)[0]


async def test_instances_that_are_not_ours_or_have_no_price_are_left_alone(place: Place) -> None:
    await place.run_vm(VmId(8), 3, owner="another")
    await place.run_vm(VmId(9), 4, kind="unpriced")
    await place.budget.look()
    await place.after(130)
    await place.after(1)
    assert place.opennebula.off == [NEW, OLD]


async def test_a_busy_or_changed_vm_is_not_powered_off_and_a_refusal_concerns_one_vm(place: Place) -> None:
    await place.after(130)
    place.busy.add(NEW)
    changed = msgspec.structs.replace(place.opennebula.machines[OLD], stime=99)
    place.opennebula.changed[OLD] = changed
    await place.after(1)
    assert place.opennebula.off == []
    place.busy.clear()
    place.opennebula.changed.clear()
    place.opennebula.refusal = WrongState("VM 5 is locked")
    await place.after(1)
    place.opennebula.refusal = None
    await place.after(1)
    assert place.opennebula.off == [NEW, OLD]


@pytest.mark.parametrize("settings", [{"at_limit": "refuse"}, {"max_per_month": None}], ids=str)
async def test_nothing_is_done_unless_asked_for(place: Place, settings: dict[str, Any]) -> None:
    place.limit(**settings)
    await place.after(130)
    await place.after(1)
    assert (place.logged, place.opennebula.off) == ([], [])


async def test_a_follower_powers_off_nothing(place: Place) -> None:
    place.opennebula.leads = False
    await place.after(130)
    await place.after(1)
    assert (place.logged, place.opennebula.off) == ([], [])
