"""A fake of the local OpenNebula, for tasks that have it power off VMs."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from one_provider_mad.domain import VmId
from one_provider_mad.errors import MadError
from one_provider_mad.idle.rules import Attribute, Figure, Machine


class FakeOpenNebula:
    """Pretends to be the local OpenNebula.

    Attributes:
        machines: its running VMs.
        wishes: PROVIDER_IDLE of its groups.
        history: the figures that it keeps of every VM.
        told: texts of `note`, by VM.
        off: VMs that it was asked to power off.
        leads: True if it leads its peers.
        error: raised by every call.
        refusal: raised by `power_off`.
        changed: what `machine` returns instead of the listed VM.
    """

    def __init__(self) -> None:
        self.machines: dict[VmId, Machine] = {}
        self.wishes: dict[int, Attribute] = {}
        self.history: list[Figure] = []
        self.told: list[tuple[VmId, str]] = []
        self.off: list[VmId] = []
        self.leads = True
        self.error: MadError | None = None
        self.refusal: MadError | None = None
        self.changed: dict[VmId, Machine | None] = {}

    async def open(self) -> None:
        pass

    async def may_act(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.leads

    async def release(self) -> tuple[int, ...]:
        return (7, 4, 0)

    async def running(self, name: str, /) -> Mapping[VmId, Machine]:
        assert name == "sim"
        return self.machines

    async def latest(self) -> Mapping[VmId, Figure]:
        return {}

    async def machine(self, vm_id: VmId, name: str, /) -> Machine | None:
        assert name == "sim"
        return self.changed.get(vm_id, self.machines.get(vm_id))

    async def groups(self) -> Mapping[int, Attribute]:
        return self.wishes

    async def figures(self, vm_id: VmId, /) -> list[Figure]:
        assert vm_id in self.machines
        return self.history

    async def power_off(self, vm_id: VmId, /) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.off.append(vm_id)

    async def note(self, vm_id: VmId, text: str, /) -> None:
        self.told.append((vm_id, text))
        self.machines[vm_id] = msgspec.structs.replace(self.machines[vm_id], warning=text)
