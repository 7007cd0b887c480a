"""Random sequences of events: no instance is terminated that its VM needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_provider_mad.domain import DeployId
from one_provider_mad.errors import MadError, ProviderUnavailable
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.orphans.verdicts import DONE_STATE, VmDocument
from one_provider_mad.settings import OrphanPolicy
from tests.actions.fakes import STIME, a_world, identity_of
from tests.orphans.reconciler_setup import ACTIVE, POWEROFF, TERMINATE, FrontEnd

PASSING = ("deaf", "silent", "partial", "follow", "busy", "hidden", "foreign", "report")
"""Faults that last for one check."""

LASTING = ("restore", "reuse", "restart", "back", "ahead", "copy", "peer")
LIFE = ("end", "end", "off", "resume", "recreate", "deploying", "deployed", "duplicate", "rewind", "nothing", "nothing")


@given(st.lists(st.tuples(st.sampled_from([*LIFE, *PASSING, *LASTING]), st.integers(1, 2)), min_size=4, max_size=16))
def test_no_sequence_of_mishaps_terminates_an_instance_that_is_needed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    asyncio.run(_play(tmp_path_factory.mktemp("front"), steps))


async def _play(path: Path, steps: list[tuple[str, int]]) -> None:
    async with a_world(path) as world:
        play = Play(FrontEnd(world))
        for vm_id in (1, 2):
            await play.begin(vm_id)
        for step, vm_id in [("nothing", 1), *steps]:
            await play.do(step, vm_id)
            assert not await play.confirmed() & set(play.needed.values())
            try:
                owed = await play.front.look()
            except MadError as error:
                await play.front.reconciler.note_failure(str(error))
                continue  # the next check withdraws the debt
            assert not owed & set(play.needed.values())


class Play:
    """Two VMs and their instances.

    Args:
        front: the front-end.

    Attributes:
        needed: instances that must not be terminated, by VM, or by their own id for those of others.
    """

    def __init__(self, front: FrontEnd) -> None:
        self.front = front
        self.needed: dict[object, str] = {}
        self._own = front.opennebula.vms

    async def begin(self, vm_id: int) -> None:
        """Let a VM run."""
        self.needed[vm_id] = f"i-{vm_id}-0"
        await self.front.create(self.needed[vm_id], vm_id=vm_id)
        self.front.opennebula.vm(vm_id, self.needed[vm_id])

    async def do(self, step: str, vm_id: int) -> None:
        """Let one event happen, after the faults of the last check have ended."""
        opennebula = self.front.opennebula
        opennebula.error, opennebula.leads, opennebula.vms = None, True, self._own
        opennebula.deaf, opennebula.hidden, self.front.busy = set(), set(), set()
        self.front.cloud.before["list"].clear()
        self.front.policy = TERMINATE
        if step in PASSING:
            _PASSING[step](self.front, vm_id)
        elif step in LASTING:
            await self._last(step, vm_id)
        elif (vm := self._own.get(vm_id)) is not None and (step == "end" or self._is_mine(vm)):
            await self._live(step, vm)

    async def confirmed(self) -> set[str]:
        """The instances of the debts that would be paid at this moment."""
        found = set[str]()
        for debt in await self.front.world.journal.debts():
            with suppress(MadError):
                await self.front.reconciler.revalidation.confirm(debt)
                found.add(debt.deploy_id)
        return found

    def _is_mine(self, vm: VmDocument) -> bool:
        """True if this OpenNebula created the instances, in this life of the VM."""
        return vm.stime == STIME and self.front.machine == "here"

    async def _live(self, step: str, vm: VmDocument) -> None:
        """Let a person or OpenNebula change a VM."""
        vm_id, seq = vm.vm_id, len(self.front.cloud.instances)
        fresh = DeployId(f"i-{vm_id}-{seq}")
        is_done = vm.state == DONE_STATE
        if step == "end":
            if not is_done:
                self.front.opennebula.end(vm_id, at=self.front.world.clock())
            if self._is_mine(vm):
                self.needed.pop(vm_id, None)  # otherwise another VM has ended
        elif step == "rewind" and is_done:
            # OpenNebula is restored from a backup in which the VM was not terminated yet.
            self._own[vm_id] = msgspec.structs.replace(vm, state=POWEROFF, etime=0)
            self.needed[vm_id] = vm.deploy_id
        elif is_done:
            return
        elif step in ("off", "resume"):
            self._own[vm_id] = msgspec.structs.replace(vm, state=POWEROFF if step == "off" else ACTIVE)
        elif step == "recreate":
            await self.front.create(fresh, vm_id=vm_id, seq=seq)
            self._own[vm_id] = msgspec.structs.replace(vm, deploy_id=fresh)
            self.needed[vm_id] = fresh
        elif step == "deploying":
            # The cloud has created it, but its answer has not come, or is lost.
            await self.front.create(fresh, vm_id=vm_id, seq=seq, is_known=False)
            await self.front.attempt(identity_of(vm_id, seq=seq), state=AttemptState.OPEN)
            self.needed[vm_id] = fresh
        elif step == "deployed":
            self._own[vm_id] = msgspec.structs.replace(vm, deploy_id=DeployId(self.needed[vm_id]))
        elif step == "duplicate":
            instance = self.front.cloud.instances.get(vm.deploy_id)
            if instance is not None and instance.identity is not None:
                await self.front.create(fresh, vm_id=vm_id, seq=instance.identity.seq)

    async def _last(self, step: str, vm_id: int) -> None:
        """Let a lasting event happen to the front-end or to OpenNebula."""
        front = self.front
        if step == "restore":  # from a backup made before the VM was created
            self._own.pop(vm_id, None)
        elif step == "reuse" and vm_id not in self._own:
            front.opennebula.vm(vm_id, f"i-{vm_id}-0", stime=STIME + 1000)
        elif step == "restart":
            front.restart()
            await front.reconciler.take_up()
        elif step == "copy":
            front.machine = "a copy"
        elif step == "peer":
            # Another OpenNebula with the same owner has a VM with this id, created in the same second; or a person has
            # copied the instance with all its tags.
            deploy_id = f"i-{vm_id}-{len(front.cloud.instances)}-of-a-peer"
            instance = front.cloud.instances.get(DeployId(self.needed.get(vm_id, "")))
            seq = instance.identity.seq if instance is not None and instance.identity is not None else 0
            await front.create(deploy_id, vm_id=vm_id, seq=seq, is_known=False)
            self.needed[deploy_id] = deploy_id
        else:
            front.set_by += {"back": -5000.0, "ahead": 5000.0}.get(step, 0.0)


def _of_another_cluster(front: FrontEnd, vm_id: int) -> None:
    """Let the driver ask an OpenNebula that has DONE VMs with the same ids, created in the same second."""
    front.opennebula.vms = {}
    front.opennebula.vm(vm_id, "i-99", state=DONE_STATE, etime=int(front.world.clock()) - 9)
    front.opennebula.vm(3 - vm_id, "", state=DONE_STATE, etime=int(front.world.clock()) - 9, hosts=(12,))


_PASSING: Mapping[str, Callable[[FrontEnd, int], None]] = {
    "deaf": lambda front, vm_id: front.opennebula.deaf.add(vm_id),
    "silent": lambda front, _: setattr(front.opennebula, "error", ProviderUnavailable("OpenNebula cannot be asked")),
    "partial": lambda front, _: front.cloud.before["list"].append(ProviderUnavailable("only half is listed")),
    "follow": lambda front, _: setattr(front.opennebula, "leads", False),
    "busy": lambda front, vm_id: front.busy.add(vm_id),
    "hidden": lambda front, vm_id: front.opennebula.hidden.add(vm_id),
    "foreign": _of_another_cluster,
    "report": lambda front, _: setattr(front, "policy", OrphanPolicy()),
}
