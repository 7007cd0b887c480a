"""Answer requests that OpenNebula awaits after a restart, or after another front-end led (decision 13).

oned repeats no request: a VM whose request or reply went to a dead process waits for ever, and on 7.x its placement
plan blocks all others. oned lists the VMs that wait; each gets one answer, by what the cloud shows
(actions/outcomes.py). Requests in this front-end's journal that OpenNebula no longer awaits are dropped.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import structlog
from lxml import etree

from one_provider_mad.actions.accepted import Recovered
from one_provider_mad.actions.dispatcher import Dispatcher
from one_provider_mad.actions.engine import EngineSource
from one_provider_mad.actions.intents import awaited_action, is_awaited
from one_provider_mad.actions.outcomes import UNREPEATED
from one_provider_mad.actions.recovery import FAILURES_AFTER, MOST_TAKERS, SETTLED_AFTER, as_sent
from one_provider_mad.actions.table import CREATES_OR_DESTROYS, FIRST_WORDS
from one_provider_mad.domain import Value, VmId
from one_provider_mad.errors import MadError
from one_provider_mad.journal.records import OpenRequest
from one_provider_mad.processes import Process
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import Action, Request

log = structlog.get_logger()

_APART_SECONDS = 5.0
"""Seconds between two reads of a VM that must both show it waiting: its request or answer may just be on its way."""

_AGAIN_SECONDS = 5.0
"""Seconds after which oned, when it did not answer, is asked again for the waiting VMs."""


_PATIENCE_SECONDS = 60.0
"""Seconds without an answer of oned after which the requests of a dead process get a FAILURE."""


class WaitingVm(Value, frozen=True, kw_only=True):
    """A VM in a state in which oned may wait for an answer of its driver.

    Attributes:
        vm_id: its number.
        lcm_state: VM/LCM_STATE.
        stime: VM/STIME.
        seq: SEQ of its latest history record.
        driver: VM_MAD of that record.
    """

    vm_id: VmId
    lcm_state: int
    stime: int
    seq: int
    driver: str


class WaitingDocument(Value, frozen=True, kw_only=True):
    """A waiting VM, with its document, as oned has it.

    Attributes:
        vm: the VM.
        host: name of its host.
        closed_by: ACTION of the history record before the latest one, 0 for none.
        document: its `<VM>` element as XML.
    """

    vm: WaitingVm
    host: str
    closed_by: int
    document: bytes


class Core(Protocol):
    """What the local OpenNebula is asked about waiting VMs."""

    async def may_act(self) -> bool:
        """True when this front-end has no peers, or leads them. Raises ProviderError."""

    async def driver_names(self, name: str) -> Collection[str]:
        """Return NAMEs of the VM_MADs in oned.conf that use the configuration of this name. Raises ProviderError."""

    async def waiting(self) -> Mapping[VmId, WaitingVm]:
        """Return the VMs in a state in which oned may wait (`may_wait`), by number. Raises ProviderError."""

    async def waiting_document(self, vm_id: VmId) -> WaitingDocument | None:
        """Return one VM as oned has it now; None when it does not wait for a driver. Raises ProviderError."""


class Settling:
    """Gives an answer, by what the cloud shows, to each VM that waits for one of a dead process.

    Args:
        dispatcher: answers requests by what the cloud shows.
        engines: gives the journal.
        name: the configuration's NAME.
        core_is_up: set once oned may be answered (decision 27).
        open_output: lets lines be sent although no request has come since INIT.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        engines: EngineSource,
        *,
        name: str,
        core_is_up: asyncio.Event,
        open_output: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._recovered = dispatcher.recovered
        self._engines = engines
        self._name = name
        self._core_is_up = core_is_up
        self._open_output = open_output
        self._left: dict[int, tuple[OpenRequest, Recovered]] = {}
        self._leads: bool | None = None
        self._silent_for = 0.0
        self._is_due = asyncio.Event()

    # Input

    async def take(self, requests: list[OpenRequest]) -> None:
        """Take requests that a dead process left and that an earlier oned, not the present one, had sent.

        Raises:
            JournalError: the requests cannot be marked in the journal as this process's.
        """
        for request in requests:
            newer = self._recovered.await_newer(request.vm_id, Action(request.action))
            self._left[request.id] = request, newer
            log.info("request of an earlier core", action=request.action, vm=request.vm_id)
        try:
            if (journal := self._engines.journal) is not None:
                for request in requests:
                    # If this process dies too, the next one, of this very core, must not carry it out.
                    await journal.take_request(request.id, takers=MOST_TAKERS)
        finally:
            self._is_due.set()  # the VMs that wait are answered in any case

    def lead(self, *, leads: bool) -> None:
        """Note that this front-end leads its peers or has none, or that another one leads."""
        if not leads:
            self._dispatcher.abandon()
        self._leads = leads
        self._is_due.set()

    # Settling

    async def run(self, core: Core | None) -> None:
        """Answer the VMs that wait now, and again whenever this front-end begins to lead.

        Args:
            core: the local OpenNebula, None where the configuration does not let the driver ask it.
        """
        await asyncio.sleep(FAILURES_AFTER if core is None else SETTLED_AFTER)
        await self._core_is_up.wait()
        self._is_due.set()  # after a defect, the remaining requests are due
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            self._open_output()
            if core is None:
                await self._fail_left()
            elif self._leads is False:
                await self._drop_left("another front-end leads")
            elif self._leads:
                await self._settle_in_time(core)

    async def _settle_in_time(self, core: Core) -> None:
        """Answer the waiting VMs once; while oned does not answer, try again for as long as this front-end leads."""
        try:
            await self._settle(core)
        except MadError as error:
            log.warning("waiting VMs not settled", reason=str(error))
            self._silent_for += _AGAIN_SECONDS
            if self._silent_for >= _PATIENCE_SECONDS:
                await self._fail_left()
            try:
                async with asyncio.timeout(_AGAIN_SECONDS):
                    await self._is_due.wait()
            except TimeoutError:
                self._is_due.set()
        else:
            self._silent_for = 0.0

    async def _settle(self, core: Core) -> None:
        if not await core.may_act():
            return
        names = await core.driver_names(self._name)
        first = {vm_id: vm for vm_id, vm in (await core.waiting()).items() if vm.driver in names}
        answered = await self._settle_left(core, first)
        asked = {vm_id: vm for vm_id, vm in first.items() if vm_id not in answered}
        silent = {vm_id: vm for vm_id, vm in asked.items() if not await self._is_open(vm_id)}
        if not silent:
            return
        await asyncio.sleep(_APART_SECONDS)
        second = await core.waiting()
        for vm_id, vm in silent.items():
            if second.get(vm_id) == vm and not await self._is_open(vm_id):
                await self._settle_silent(core, vm)

    async def _settle_left(self, core: Core, waiting: Mapping[VmId, WaitingVm]) -> set[VmId]:
        """Answer the requests that a dead process left, and drop those that OpenNebula no longer awaits.

        Returns:
            The VMs that have their answer, though oned may need a while to read it.
        """
        answered: set[VmId] = set()
        for request, newer in [*self._left.values()]:
            action = Action(request.action)
            found = await self._still_waiting(core, action, waiting.get(request.vm_id))
            if newer.is_superseded:
                await self._drop(request, "a newer request came, or another front-end leads")
            elif action in FIRST_WORDS:
                await self._fail(request)  # no state of the VM shows that oned awaits this answer
            elif found is None:
                await self._drop(request, "OpenNebula does not wait for it any more")
            elif action in CREATES_OR_DESTROYS:
                answered.add(request.vm_id)
                self._dispatcher.settle(_request(found, action), number=request.id)
                self._left.pop(request.id, None)
            else:
                answered.add(request.vm_id)
                await self._fail(request)
        return answered

    @staticmethod
    async def _still_waiting(core: Core, action: Action, vm: WaitingVm | None) -> WaitingDocument | None:
        """Return the VM as oned has it now; None when it does not wait for this action any more."""
        if vm is None or not is_awaited(action, vm.lcm_state):
            return None
        found = await core.waiting_document(vm.vm_id)
        return found if found is not None and found.vm == vm else None

    async def _settle_silent(self, core: Core, vm: WaitingVm) -> None:
        """Answer a waiting VM whose request is in no journal here."""
        found = await core.waiting_document(vm.vm_id)
        is_answered = not self._leads or self._dispatcher.is_to_be_answered(vm.vm_id)
        if is_answered or found is None or found.vm != vm:
            return
        action = awaited_action(vm.lcm_state, found.closed_by)
        if action is None:
            log.warning("VM waits for an unknown action", vm=vm.vm_id, lcm_state=vm.lcm_state)
            return
        log.warning("waiting VM settled", vm=vm.vm_id, lcm_state=vm.lcm_state, action=action.value)
        self._dispatcher.settle(_request(found, action))

    async def _is_open(self, vm_id: VmId) -> bool:
        """True while a request of the VM will be answered, by this process or by an earlier one that still runs."""
        if self._dispatcher.is_to_be_answered(vm_id):
            return True
        journal, me = self._engines.journal, Process.current()
        requests = [] if journal is None else await journal.open_requests()
        return any(request.vm_id == vm_id and request.writer != me for request in requests)

    async def _drop(self, request: OpenRequest, reason: str) -> None:
        log.info("request dropped", vm=request.vm_id, action=request.action, reason=reason)
        await self._recovered.drop(as_sent(request), number=request.id, requested_at=request.opened_at)
        self._left.pop(request.id, None)

    async def _fail(self, request: OpenRequest) -> None:
        await self._recovered.fail(as_sent(request), UNREPEATED, number=request.id, requested_at=request.opened_at)
        self._left.pop(request.id, None)

    async def _drop_left(self, reason: str) -> None:
        for request, _ in [*self._left.values()]:
            await self._drop(request, reason)

    async def _fail_left(self) -> None:
        """Answer the remaining requests with a FAILURE, since oned does not say which VMs wait."""
        for request, newer in [*self._left.values()]:
            if newer.is_superseded:
                await self._drop(request, "a newer request came")
            else:
                await self._fail(request)


def _request(found: WaitingDocument, action: Action) -> Request:
    """Return the request that oned would send for a waiting VM now."""
    host = etree.Element("HOST")
    host.text = found.host
    document = b"<VMM_DRIVER_ACTION_DATA>" + etree.tostring(host) + found.document + b"</VMM_DRIVER_ACTION_DATA>"
    return Request(
        action=action,
        vm_id=found.vm.vm_id,
        payload=base64.b64encode(document),
        dialect=Dialect.SINCE_6_0,  # the release is unknown here: no unrequested answer to POLL is sent
    )
