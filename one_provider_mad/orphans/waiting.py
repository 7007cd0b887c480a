"""Read from the local OpenNebula which VMs wait for a driver, for `actions/settling.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

from lxml import etree

from one_provider_mad.actions.intents import may_wait
from one_provider_mad.actions.settling import WaitingDocument, WaitingVm
from one_provider_mad.domain import VmId
from one_provider_mad.errors import InstanceNotFound, NotSupported, PermissionDenied, ProviderUnavailable
from one_provider_mad.options import parse_arguments
from one_provider_mad.orphans.documents import number_at
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.xmlrpc.local import LocalCore

_Answer = TypeVar("_Answer")

_PROGRAM = "one_vmm_provider"
_ALL_USERS, _FROM_FIRST, _TO_LAST, _ACTIVE = -2, -1, -1, 3
"""Arguments of one.vmpool.info for all ACTIVE VMs: only such ones wait for a driver (include/VirtualMachine.h)."""


class WaitingVms:
    """Asks the local OpenNebula about waiting VMs; satisfies settling.Core.

    Args:
        core: sends calls to the local OpenNebula.
    """

    def __init__(self, core: LocalCore) -> None:
        self._core = core

    async def may_act(self) -> bool:
        """True when this front-end has no peers, or leads them. Raises MadError."""
        return (await asyncio.to_thread(self._core.raft_state)).may_act

    async def driver_names(self, name: str) -> Collection[str]:
        """Return the NAMEs of VM_MADs whose ARGUMENTS name this configuration; `name` itself where there is none."""
        try:
            found = await self._read(_drivers, "one.system.config")
        except (NotSupported, PermissionDenied):
            return {name}  # 4.x has no such method, and later releases answer administrators only
        return {mad for mad, arguments in found if parse_arguments([arguments]).name == name} or {name}

    async def waiting(self) -> Mapping[VmId, WaitingVm]:
        """Return the VMs in a state in which oned may wait for a driver, by number. Raises MadError."""
        arguments = (_ALL_USERS, _FROM_FIRST, _TO_LAST, _ACTIVE)
        found = await self._read(_waiting, "one.vmpool.info", *arguments)
        for vm in [vm for vm in found.values() if not vm.driver]:
            del found[vm.vm_id]
            if (document := await self.waiting_document(vm.vm_id)) is not None:
                found[vm.vm_id] = document.vm  # the pool of 5.x has no VM_MAD, so each VM is read
        return found

    async def waiting_document(self, vm_id: VmId) -> WaitingDocument | None:
        """Return a VM as oned has it now; None when it does not wait for a driver. Raises MadError."""
        try:
            found = await self._read(_document, "one.vm.info", vm_id)
        except InstanceNotFound:
            return None
        return found if found.vm.vm_id == vm_id and may_wait(found.vm.lcm_state) else None

    async def _read(self, read: Callable[[Element], _Answer], method: str, *arguments: int) -> _Answer:
        return await asyncio.to_thread(lambda: read(self._core.document(method, *arguments)))


def _waiting(pool: Element) -> dict[VmId, WaitingVm]:
    # A VM without history was never on a host, so it waits for no driver.
    vms = [_vm(element) for element in pool.iterchildren("VM") if next(_records(element), None) is not None]
    return {vm.vm_id: vm for vm in vms if may_wait(vm.lcm_state)}


def _document(element: Element) -> WaitingDocument:
    records = list(_records(element))
    return WaitingDocument(
        vm=_vm(element),
        host=text_of(_last_record(element).find("HOSTNAME")).strip(),
        closed_by=number_at(records[-2], "ACTION") if len(records) > 1 else 0,
        document=etree.tostring(element),
    )


def _vm(element: Element) -> WaitingVm:
    record = _last_record(element)
    driver = next(record.iterchildren("VM_MAD", "VMMMAD"), None)  # 4.x calls it VMMMAD
    return WaitingVm(
        vm_id=VmId(number_at(element, "ID")),
        lcm_state=number_at(element, "LCM_STATE") if number_at(element, "STATE") == _ACTIVE else 0,
        stime=number_at(element, "STIME"),
        seq=number_at(record, "SEQ"),
        driver=text_of(driver).strip(),
    )


def _records(vm: Element) -> Iterator[Element]:
    return elements_at(vm, "HISTORY_RECORDS/HISTORY")


def _last_record(vm: Element) -> Element:
    records = list(_records(vm))
    if not records:
        raise ProviderUnavailable("an active VM of the local OpenNebula has no history")
    return records[-1]


def _drivers(configuration: Element) -> list[tuple[str, str]]:
    """Return NAME and ARGUMENTS of each VM_MAD in oned.conf that starts one_vmm_provider."""
    return [
        (text_of(mad.find("NAME")).strip(), text_of(mad.find("ARGUMENTS")))
        for mad in configuration.iterchildren("VM_MAD")
        if text_of(mad.find("EXECUTABLE")).strip().rpartition("/")[2] == _PROGRAM
    ]
