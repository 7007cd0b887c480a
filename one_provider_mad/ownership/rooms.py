"""Record which kinds of instances the cloud refuses, so that the information driver reports no room for them."""

from __future__ import annotations

from contextlib import suppress

from one_provider_mad.domain import VmRequest
from one_provider_mad.errors import JournalError, NoCapacity, QuotaExceeded
from one_provider_mad.journal.records import ANY_ROOM, Refusal, Shortage
from one_provider_mad.ownership.vm import Vm
from one_provider_mad.providers.interface import Parameters, RoomSource


def room_of(vm: Vm, request: VmRequest, parameters: Parameters) -> str:
    """Return the room of one alternative, "" for one of a special wish, and where the provider has no rooms."""
    provider = vm.cloud.provider
    return provider.room_of(request, parameters) if isinstance(provider, RoomSource) else ""


async def note_shortage(vm: Vm, room: str, error: NoCapacity | QuotaExceeded) -> None:
    """Record that the cloud refused an instance of this room, or, if the error says so, has none at all."""
    is_limit = isinstance(error, QuotaExceeded)
    if error.is_general and not is_limit:
        room = ANY_ROOM
    if room:
        with suppress(JournalError):  # the cloud's answer matters more to the VM
            await vm.journal.note_shortage(Shortage(room=room, at=vm.clock(), text=str(error), is_limit=is_limit))


async def note_refusal(vm: Vm, room: str, error: NoCapacity | QuotaExceeded) -> None:
    """Record that a VM got no instance, and why; the mark lets OpenNebula's hook recreate the VM elsewhere."""
    is_limit = isinstance(error, QuotaExceeded)
    refusal = Refusal(
        at=vm.clock(),
        text=str(error),
        vm_id=vm.identity.vm_id,
        is_limit=is_limit,
        is_general=is_limit and error.is_general,
        room=room,
    )
    with suppress(JournalError):
        await vm.journal.note_refusal(refusal)
        await vm.journal.note_refused_vm(vm.identity, str(error))


async def note_room(vm: Vm, room: str, *, sent_at: float) -> None:
    """Record that the cloud had room: refusals of this room from before the create was sent count no longer."""
    if room:
        with suppress(JournalError):
            await vm.journal.end_shortages(room, before=sent_at)
