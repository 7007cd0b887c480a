"""Reads running VMs and their figures from the local OpenNebula, and asks it to power one off."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from one_provider_mad.domain import DeployId, VmId, whole_number
from one_provider_mad.errors import NotSupported
from one_provider_mad.idle.rules import ASK, Attribute, Figure, Machine
from one_provider_mad.orphans.documents import LocalOpenNebula, number_at
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of
from one_provider_mad.template_text.exact_writer import attribute
from one_provider_mad.xmlrpc.pool import read_pool

WARNING = "PROVIDER_IDLE_WARNING"
"""Attribute of a VM that is warned: the sentence."""

_ALL_USERS, _ACTIVE, _RUNNING = -2, 3, 3
_PAGE_SIZE = 500
_APPEND = 1
"""Kind of one.vm.update that leaves other attributes as they are."""

_MONITORD = (5, 12)
_LATEST_ONLY = 0
"""Instead of seconds of history."""

_UNKNOWN = "PROVIDER_CPU_UNKNOWN"
"""Attribute of a VM whose CPU is 0 only because the cloud does not tell it (monitor/costs.py)."""

_FIGURES = ("CPU", "MEMORY", "NETRX", "NETTX")


class IdleOpenNebula(LocalOpenNebula):
    """Client of the local OpenNebula, for VMs that nobody uses."""

    async def running(self, name: str) -> Mapping[VmId, Machine]:
        """Return the running VMs of a driver, by ID. An incomplete answer raises ProviderError.

        Args:
            name: NAME, as VM_MAD of the VM's host.
        """
        read = partial(
            read_pool,
            self._client,
            before=(_ALL_USERS,),
            after=(_ACTIVE,),
            page_size=_PAGE_SIZE,
            read_row=partial(read_machine, name=name),
        )
        try:
            rows = await read("one.vmpool.infoextended")
        except NotSupported:
            rows = await read("one.vmpool.info")  # up to 5.6 it has all attributes
        return {row.vm_id: row for row in rows.values() if row is not None}

    async def latest(self) -> Mapping[VmId, Figure]:
        """Return the latest figure of each VM, by ID; none up to 5.10, where the VMs themselves have it.

        From 5.12 on monitord writes figures into a table of their own (src/vm/VirtualMachinePool.cc, dump_monitoring).

        Raises:
            ProviderError: OpenNebula did not answer.
        """
        if await self.release() < _MONITORD:
            return {}
        entries = await self._client.read("one.vmpool.monitoring", _ALL_USERS, _LATEST_ONLY, read=_read_latest)
        return {VmId(number): figure for number, figure in entries}

    async def machine(self, vm_id: VmId, name: str) -> Machine | None:
        """Return a VM of a driver if it runs. Raises ProviderError."""
        return await self._client.read("one.vm.info", vm_id, read=partial(read_machine, name=name))

    async def groups(self) -> Mapping[int, Attribute]:
        """Return PROVIDER_IDLE of the groups that have it, by number. Raises ProviderError."""
        return await self._client.read("one.grouppool.info", read=_read_groups)

    async def figures(self, vm_id: VmId) -> list[Figure]:
        """Return the figures of a VM that OpenNebula keeps, by default of four hours. Raises ProviderError."""
        return await self._client.read("one.vm.monitoring", vm_id, read=lambda root: list(map(read_figure, root)))

    async def power_off(self, vm_id: VmId) -> None:
        """Ask OpenNebula to power off a VM. Raises ProviderError."""
        await self._client.call("one.vm.action", "poweroff", vm_id, is_repeatable=False)

    async def note(self, vm_id: VmId, text: str) -> None:
        """Set PROVIDER_IDLE_WARNING of a VM. Raises ProviderError."""
        await self._client.call("one.vm.update", vm_id, attribute(WARNING, text), _APPEND)


def read_machine(vm: Element, *, name: str) -> Machine | None:
    """Read a `<VM>` of a driver; None for another driver's, and for one that does not run."""
    records = list(elements_at(vm, "HISTORY_RECORDS/HISTORY"))
    if not records or text_of(records[-1].find("VM_MAD")).strip() != name:
        return None
    if (number_at(vm, "STATE"), number_at(vm, "LCM_STATE")) != (_ACTIVE, _RUNNING):
        return None
    user_template = vm.find("USER_TEMPLATE")
    return Machine(
        vm_id=VmId(number_at(vm, "ID")),
        stime=number_at(vm, "STIME"),
        deploy_id=DeployId(text_of(vm.find("DEPLOY_ID")).strip()),
        group_id=number_at(vm, "GID"),
        started_at=float(whole_number(text_of(records[-1].find("RSTIME")).strip()) or 0),
        asked=_asked(user_template),
        warning=text_of(user_template.find(WARNING)).strip() if user_template is not None else "",
        figure=read_figure(vm),
    )


def read_figure(element: Element) -> Figure:
    """Read a figure from a `<VM>`, or from an entry of one.vm.monitoring: up to 5.10 a `<VM>`, then a `<MONITORING>`.

    A figure in which everything is 0 is none: the cloud does not tell. Nor is one that the information driver has
    marked.
    """
    inner = element.find("MONITORING")
    monitoring = element if inner is None else inner
    at = text_of(element.find("LAST_POLL")) or text_of(monitoring.find("TIMESTAMP"))
    values = {name: _figure(monitoring.find(name)) for name in _FIGURES}
    is_told = any(values.values()) and not text_of(monitoring.find(_UNKNOWN)).strip()
    return Figure(at=float(whole_number(at.strip()) or 0), cpu=values["CPU"] if is_told else None)


def _read_latest(root: Element) -> list[tuple[int, Figure]]:
    return [(number_at(entry, "ID"), read_figure(entry)) for entry in root]


def _figure(element: Element | None) -> float | None:
    with suppress(ValueError):
        return float(text_of(element))
    return None


def _read_groups(pool: Element) -> dict[int, Attribute]:
    found = ((number_at(group, "ID"), _asked(element_at(group, "TEMPLATE"))) for group in elements_at(pool, "GROUP"))
    return {number: asked for number, asked in found if asked is not None}


def _asked(template: Element | None) -> Attribute | None:
    element = None if template is None else template.find(ASK)
    if element is None:
        return None
    return {child.tag: text_of(child).strip() for child in element} if len(element) else text_of(element).strip()
