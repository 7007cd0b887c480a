"""A front-end for the tests: a fake cloud, a real journal, a fake OpenNebula, and a reconciler."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from one_provider_mad.actions.engine import Engine
from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, VmId
from one_provider_mad.errors import MadError
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.orphans.reconciler import Reconciler
from one_provider_mad.orphans.verdicts import DONE_STATE, VmDocument
from one_provider_mad.protocol.messages import Severity
from one_provider_mad.providers.interface import UnusedResource
from one_provider_mad.settings import OrphanPolicy
from tests.actions.fakes import OWNER, STIME, FakeCloud, FakeEngines, FakeInstance, World, identity_of

ACTIVE, POWEROFF = 3, 8
TERMINATE = OrphanPolicy(policy="terminate-done", grace=0)


class FakeOpenNebula:
    """Pretends to be the local OpenNebula.

    Attributes:
        vms: its VMs by id.
        error: raised by every call.
        refusal: raised when it is opened.
        deaf: VMs whose documents it does not return.
        hidden: VMs that the pool lacks.
        leads: True if it has no peers, or leads them.
        asked: the VMs whose documents each call requested.
        on_look: called when a check begins.
    """

    def __init__(self) -> None:
        self.vms: dict[int, VmDocument] = {}
        self.error: MadError | None = None
        self.refusal: MadError | None = None
        self.deaf: set[int] = set()
        self.hidden: set[int] = set()
        self.leads = True
        self.asked: list[set[VmId]] = []
        self.on_look: Callable[[], None] = lambda: None

    def vm(self, vm_id: int, deploy_id: str, *, state: int = ACTIVE, **details: Any) -> None:
        """Add a VM in this state, or replace it."""
        fields = {"stime": STIME, "hosts": (3,), **details}
        self.vms[vm_id] = VmDocument(vm_id=VmId(vm_id), state=state, deploy_id=DeployId(deploy_id), **fields)

    def end(self, vm_id: int, *, at: float) -> None:
        """Terminate a VM without a request to any driver."""
        self.vms[vm_id] = msgspec.structs.replace(self.vms[vm_id], state=DONE_STATE, etime=int(at))

    async def open(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def may_act(self) -> bool:
        self._obey()
        return self.leads

    async def release(self) -> tuple[int, ...]:
        self._obey()
        return (7, 4, 0)

    async def living(self) -> Mapping[VmId, VmDocument]:
        self.on_look()
        self._obey()
        return {vm.vm_id: vm for vm in self.vms.values() if vm.state != DONE_STATE and vm.vm_id not in self.hidden}

    async def documents(self, vm_ids: Collection[VmId]) -> Mapping[VmId, VmDocument | None]:
        self._obey()
        self.asked.append(set(vm_ids))
        return {vm_id: self.vms.get(vm_id) for vm_id in vm_ids if vm_id not in self.deaf}

    def _obey(self) -> None:
        if self.error is not None:
            raise self.error


class Dated(FakeInstance):
    """Pretends to be an instance of a cloud that reports creation times.

    Attributes:
        created_at: seconds since the epoch.
    """

    created_at = 0.0

    def shown(self) -> Instance:
        return msgspec.structs.replace(super().shown(), created_at=self.created_at)


class CloudOfParts(FakeCloud):
    """Pretends to be a cloud that has parts beside instances, such as volumes.

    Attributes:
        parts: parts that no instance uses.
        refusal: raised when they are listed.
        removable: parts that `remove_unused` removes.
        removal_refusal: raised instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[UnusedResource] = []
        self.refusal: MadError | None = None
        self.removable: set[str] = set()
        self.removal_refusal: MadError | None = None

    async def remove_unused(self, *, owner: str) -> None:
        assert owner == OWNER
        if self.removal_refusal is not None:
            raise self.removal_refusal
        self.parts = [part for part in self.parts if part.part_id not in self.removable]

    async def unused_resources(self, *, owner: str) -> Sequence[UnusedResource]:
        assert owner == OWNER
        if self.refusal is not None:
            raise self.refusal
        return self.parts


class FrontEnd:
    """A front-end: a cloud, a journal, an OpenNebula, and a reconciler.

    Args:
        world: the cloud and the journal.

    Attributes:
        begun_at: time of its start, by the reconciler's clock.
        looks: time at which each check began, by the same clock.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.cloud = world.provider
        self.opennebula = FakeOpenNebula()
        self.policy = TERMINATE
        self.machine = "here"
        self.busy: set[int] = set()
        self.warnings: list[str] = []
        self.vm_logs: list[tuple[VmId, Severity, str]] = []
        self.set_by = 0.0
        self.learned: list[tuple[int, ...]] = []
        self.looks: list[float] = []
        self.begun_at = self.now()
        self.core_is_up = asyncio.Event()
        self.core_is_up.set()
        self.opennebula.on_look = lambda: self.looks.append(self.now())
        self.restart()

    def restart(self) -> None:
        """Replace the process: the new one has the journal alone."""
        self.engines = FakeEngines(self.world)
        self.engines.current = self._current  # type: ignore[method-assign]
        self.reconciler = Reconciler(
            self.engines,
            self.opennebula,
            write_log=self._tell,
            is_busy=lambda vm_id: vm_id in self.busy,
            clock=self.now,
            machine=lambda: self.machine,
            learn_release=self.learned.append,
            core_is_up=self.core_is_up,
        )

    def _tell(self, severity: Severity, text: str, vm_id: VmId | None = None) -> None:
        if vm_id is not None:
            self.vm_logs.append((vm_id, severity, text))
            return
        assert severity is Severity.WARNING
        self.warnings.append(text)

    async def _current(self) -> Engine:
        return self.engine()

    def engine(self) -> Engine:
        engine = self.world.engine()
        settings = msgspec.structs.replace(engine.configuration.settings, orphans=self.policy)
        configuration = msgspec.structs.replace(engine.configuration, settings=settings)
        return msgspec.structs.replace(engine, configuration=configuration)

    async def create(
        self, deploy_id: str, *, vm_id: int = 7, seq: int = 0, is_known: bool = True, ago: float = 0.0, **tags: Any
    ) -> None:
        """Add an instance; if `is_known`, with its attempt in the journal."""
        identity = identity_of(vm_id, seq=seq, **tags)
        dated = Dated(DeployId(deploy_id), identity, InstanceState.RUNNING)
        dated.created_at = self.world.clock() - ago
        self.cloud.instances[dated.deploy_id] = dated
        if is_known:
            await self.attempt(identity, deploy_id=deploy_id)

    async def attempt(
        self, identity: Identity, *, deploy_id: str = "", state: AttemptState = AttemptState.CREATED
    ) -> None:
        """Write an attempt to the journal."""
        attempt = Attempt.new(identity, len(self.cloud.instances), {})
        created = msgspec.structs.replace(
            attempt, state=state, deploy_id=DeployId(deploy_id), sent_at=self.world.clock()
        )
        await self.world.journal.save_attempt(created)

    async def run(
        self, looks: int = 99, *, seconds: float = math.inf, edits: Mapping[float, OrphanPolicy] = {}
    ) -> None:
        """Run as the driver does, for a number of checks, complete or failed, or for a time.

        Args:
            looks: the number of checks.
            seconds: the time, by the reconciler's clock.
            edits: policies, by the second from which the configuration has them.
        """
        begun, tries = self.now(), len(self.looks)
        to_come = dict(edits)

        async def pause(length: float) -> None:
            if len(self.looks) - tries >= looks or self.now() - begun + length > seconds:
                raise asyncio.CancelledError
            self.set_by += length
            for at in [at for at in to_come if at <= self.now() - begun]:
                self.policy = to_come.pop(at)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "sleep", pause)
            with suppress(asyncio.CancelledError):
                await self.reconciler.run()

    def now(self) -> float:
        """The reconciler's clock."""
        return self.world.clock() + self.set_by

    async def look(self, times: int = 1) -> set[str]:
        """Check `times` times; return the ids of the instances that have a debt."""
        for _ in range(times):
            await self.reconciler.search(self.engine())
        return {debt.deploy_id for debt in await self.world.journal.debts()}


def end(front: FrontEnd, vm_id: int = 7, *, ago: float = 5) -> None:
    front.opennebula.end(vm_id, at=front.world.clock() - ago)
