"""The task that watches for idle VMs: a fake OpenNebula, a real journal, and the simulated cloud with its prices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.actions.engine import Engine
from one_provider_mad.calls.cloud import SharedCloud
from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.errors import ProviderUnavailable, WrongState
from one_provider_mad.idle.rules import Attribute, Figure, Machine
from one_provider_mad.idle.settings import IdleSettings
from one_provider_mad.idle.watcher import IDLE, Watcher
from one_provider_mad.protocol.messages import Severity
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.simulated.cloud import Launch
from one_provider_mad.providers.simulated.provider import SimulatedProvider
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.actions.fakes import OWNER, FakeEngines, World, a_world
from tests.idle.fakes import FakeOpenNebula

VM = VmId(7)
POWEROFF = IdleSettings(action="poweroff", after=600.0, notice=300.0)


class Place:
    """A front-end with one VM, 7, in the simulated cloud.

    Attributes:
        busy: VMs with an open action.
        logged: lines of VMs' logs.
    """

    def __init__(self, world: World, provider: SimulatedProvider) -> None:
        self.world = world
        self.shared = SharedCloud(provider, owner=OWNER, retries=0, call_timeout=60.0)
        self.provider = provider
        self.opennebula = FakeOpenNebula()
        self.settings = POWEROFF
        self.busy: set[VmId] = set()
        self.logged: list[str] = []
        self.now = 1_700_000_000.0
        self.restart()

    def restart(self) -> None:
        """Replace the process: the new one has the journal alone."""
        engines = FakeEngines(self.world)
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

    def _log(self, _severity: Severity, text: str, vm_id: VmId | None = None) -> None:
        assert vm_id == VM
        self.logged.append(text)

    async def _current(self) -> Engine:
        engine = self.world.engine()
        settings = msgspec.structs.replace(engine.configuration.settings, idle=self.settings)
        configuration = msgspec.structs.replace(engine.configuration, settings=settings)
        return msgspec.structs.replace(engine, configuration=configuration, cloud=self.shared)

    async def run_vm(self, *, kind: str = "small_256mb", asked: Attribute | None = "YES") -> None:
        deploy_id = await self.provider.cloud.launch(Launch(type=kind, image="i"), tags={})
        self.opennebula.machines[VM] = Machine(
            vm_id=VM,
            stime=1,
            deploy_id=DeployId(deploy_id),
            group_id=100,
            started_at=self.now,
            asked=asked,
            warning="",
            figure=Figure(self.now, 0.0),
        )

    async def passes(self, minutes: int, *, cpu: float | None = 0.0) -> None:
        """Check once a minute."""
        for _ in range(minutes):
            self.now += 60.0
            for vm_id, machine in self.opennebula.machines.items():
                figure = Figure(self.now - 5, cpu)
                self.opennebula.machines[vm_id] = msgspec.structs.replace(machine, figure=figure)
            await self.watcher.check_if_due()

    @property
    def warnings(self) -> list[str]:
        return [text for _, text in self.opennebula.told if text]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    context = ProviderContext(name="sim", hypervisor="sim", owner=OWNER, state_directory=tmp_path, warn=print)
    settings = msgspec.convert(
        {"boot_time": 0, "instance_types": {"unpriced": {"cpu": 1, "memory": 256}}}, SimulatedSettings
    )
    provider = SimulatedProvider(context, settings)
    await provider.open()
    async with a_world(tmp_path) as world:
        yield Place(world, provider)
    await provider.close()


async def test_an_idle_vm_is_warned_and_then_powered_off_through_opennebula(place: Place) -> None:
    await place.run_vm()
    await place.passes(10)
    assert place.opennebula.told == []
    await place.passes(2)
    [warning] = place.warnings
    assert (
        warning
        == place.logged[0]
        == (
            "the VM has used at most 5 % of a core for 11 min: it is powered off at 2023-11-14 22:30 UTC, which saves"
            " 0.0050 USD an hour; to prevent that set PROVIDER_IDLE=NO: onevm update 7"
        )
    )
    await place.passes(4)
    assert place.opennebula.off == []
    await place.passes(1)
    assert place.opennebula.off == [VM]
    assert place.logged[1] == place.warnings[1]
    assert place.warnings[1].startswith(
        "powered off, since the VM has used at most 5 % of a core for 16 min; onevm resume 7"
    )


async def test_a_restarted_driver_goes_on_counting(place: Place) -> None:
    await place.run_vm()
    for _ in range(17):
        place.restart()
        await place.passes(1)
    assert (len(place.warnings), place.opennebula.off) == (2, [VM])


async def test_a_vm_of_a_group_that_asks_is_watched_and_one_that_nobody_asks_for_is_not(place: Place) -> None:
    await place.run_vm(asked=None)
    await place.passes(30)
    assert place.opennebula.told == []
    place.opennebula.wishes[100] = {"AFTER": "60", "NOTICE": "60"}
    await place.passes(5)
    assert place.opennebula.off[0] == VM


@pytest.mark.parametrize(
    ("kind", "more", "outlook"),
    [
        pytest.param("unpriced", {}, "it is not powered off, since its price is not known; terminate it", id="unknown"),
        pytest.param("small_256mb", {"action": "warn"}, "power it off if nobody needs it", id="warn only"),
    ],
)
async def test_a_vm_is_only_warned_where_a_power_off_is_not_wanted_or_not_known_to_save_money(
    place: Place, kind: str, more: dict[str, Any], outlook: str
) -> None:
    place.settings = msgspec.structs.replace(POWEROFF, **more)
    await place.run_vm(kind=kind)
    await place.passes(40)
    [warning] = place.warnings
    assert outlook in warning
    assert place.opennebula.off == []


async def test_a_use_after_the_warning_ends_it_also_one_that_only_the_history_shows(place: Place) -> None:
    await place.run_vm()
    await place.passes(12)
    await place.passes(1, cpu=50.0)
    assert place.opennebula.told[-1] == (VM, "")
    assert place.logged[-1] == "the VM is not idle any more, its warning is over"
    await place.passes(12)
    assert len(place.warnings) == 2
    place.opennebula.history = [Figure(place.now, 80.0)]
    await place.passes(6)
    assert place.opennebula.off == []


@pytest.mark.parametrize("cpu", [None, 6.0])
async def test_a_vm_that_is_used_or_has_no_figures_is_left_alone(place: Place, cpu: float | None) -> None:
    await place.run_vm()
    await place.passes(100, cpu=cpu)
    assert place.opennebula.told == []


async def test_nothing_is_done_on_a_follower_nor_with_the_action_off(place: Place) -> None:
    await place.run_vm()
    place.opennebula.leads = False
    await place.passes(30)
    place.opennebula.leads, place.settings = True, IdleSettings()
    await place.passes(30)
    assert (place.opennebula.told, await place.world.journal.fact(IDLE)) == ([], None)


async def test_a_vm_with_an_open_action_or_that_has_changed_meanwhile_is_not_powered_off(place: Place) -> None:
    await place.run_vm()
    place.busy.add(VM)
    await place.passes(20)
    place.busy.clear()
    machine = place.opennebula.machines[VM]
    for changed in (None, msgspec.structs.replace(machine, asked="NO"), msgspec.structs.replace(machine, stime=2)):
        place.opennebula.changed[VM] = changed
        await place.passes(2)
    assert place.opennebula.off == []
    place.opennebula.changed.clear()
    await place.passes(1)
    assert place.opennebula.off == [VM]


async def test_an_error_of_opennebula_delays_a_check_and_a_refusal_concerns_one_vm(place: Place) -> None:
    await place.run_vm()
    await place.passes(12)
    place.opennebula.error = ProviderUnavailable("no answer")
    await place.passes(10)
    place.opennebula.error, place.opennebula.refusal = None, WrongState("VM 7 is not running")
    await place.passes(3)
    assert (len(place.warnings), place.opennebula.off) == (1, [])
    place.opennebula.refusal = None
    await place.passes(1)
    assert place.opennebula.off == [VM]


async def test_a_wish_that_is_not_understood_is_told_once_in_the_vms_log(place: Place) -> None:
    await place.run_vm(asked="perhaps")
    await place.passes(30)
    assert place.logged == ["the VM is not watched for idleness: PROVIDER_IDLE=perhaps is neither YES nor NO"]
    assert place.opennebula.told == []


async def test_the_warning_of_an_earlier_run_is_removed(place: Place) -> None:
    await place.run_vm()
    machine = msgspec.structs.replace(place.opennebula.machines[VM], warning="powered off, since it was idle")
    place.opennebula.machines[VM] = machine
    await place.passes(2)
    assert place.opennebula.told == [(VM, "")]


async def test_a_journal_of_another_release_begins_anew(place: Place) -> None:
    await place.world.journal.set_fact(IDLE, '{"7": {"other": 1}}')
    await place.run_vm()
    await place.passes(12)
    assert len(place.warnings) == 1
