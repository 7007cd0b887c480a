"""Requests that an earlier process left unanswered: each gets one answer at most, and none after a newer request."""

from __future__ import annotations

import asyncio
import math

from one_provider_mad.actions.accepted import Recovered
from one_provider_mad.actions.debts import Debts
from one_provider_mad.actions.outcomes import UNREPEATED
from one_provider_mad.actions.replies import Replies, refusal, with_first_word
from one_provider_mad.actions.request_records import RequestRecords
from one_provider_mad.actions.table import replaces
from one_provider_mad.domain import VmId
from one_provider_mad.errors import CannotTell
from one_provider_mad.protocol.messages import Action, Malformed, Request
from one_provider_mad.protocol.payload import read_payload


class RecoveredRequests:
    """Requests that earlier processes left unanswered, and the newer requests that replace them.

    Args:
        records: removes their records from the journal.
        replies: answers requests that are not carried out again.
        debts: records a debt for a CLEANUP, which oned never sends again.

    Attributes:
        may_be_answered: set once lines may be sent although no request has come since INIT.
    """

    def __init__(self, records: RequestRecords, replies: Replies, debts: Debts) -> None:
        self._records = records
        self._replies = replies
        self._debts = debts
        self._recovered: dict[VmId, list[Recovered]] = {}
        self._asked: dict[VmId, set[Action]] | None = {}
        self.may_be_answered = asyncio.Event()

    def await_newer(self, vm_id: VmId, action: Action, *, requested_at: float = math.inf) -> Recovered:
        """Return an object whose `is_superseded` is set by a newer request for the VM, one since the start included."""
        recovered = self.await_next(vm_id, action, requested_at=requested_at)
        recovered.is_superseded = self._asked is None or any(
            replaces(newer, action) for newer in self._asked.get(vm_id, ())
        )
        return recovered

    def await_next(self, vm_id: VmId, action: Action, *, requested_at: float = math.inf) -> Recovered:
        """Return an object whose `is_superseded` is set by a newer request for the VM, from now on."""
        recovered = Recovered(action, requested_at)
        self._recovered.setdefault(vm_id, []).append(recovered)
        return recovered

    def supersede(self, vm_id: VmId, action: Action) -> None:
        """Note a request of oned's: it replaces older ones for its VM, also those that are taken over later."""
        if self._asked is not None:
            self._asked.setdefault(vm_id, set()).add(action)
        for recovered in self._recovered.get(vm_id, ()):
            recovered.is_superseded = recovered.is_superseded or replaces(action, recovered.action)

    def supersede_all(self) -> None:
        """Mark every request that an earlier process left as superseded: none is answered."""
        for recovered in (each for found in self._recovered.values() for each in found):
            recovered.is_superseded = True

    def end(self) -> None:
        """Note that all requests of earlier processes were taken over, so that newer ones need not be remembered."""
        self._asked = None

    async def drop(self, request: Request, *, number: int, requested_at: float) -> None:
        """Remove a request's record without an answer; a CLEANUP, which oned never sends again, becomes a debt.

        Args:
            request: as the core sent it.
            number: its record in the journal.
            requested_at: when the core sent it, seconds since the epoch.
        """
        await self._owe(request, requested_at)
        self._records.close(number)

    async def fail(self, request: Request, sentence: str, *, number: int, requested_at: float) -> None:
        """Answer a request that is not carried out again with a FAILURE; arguments as for `drop`."""
        await self._owe(request, requested_at)
        if request.payload:
            read = read_payload(request)
            content = None if isinstance(read, Malformed) else read[0]
            sentence = with_first_word(request.action, content, sentence)
        self._replies.refuse(refusal(request, sentence), number=number)

    async def _owe(self, request: Request, requested_at: float) -> None:
        if request.action is not Action.CLEANUP:
            return
        read = read_payload(request)
        if not isinstance(read, Malformed):
            await self._debts.note_failure(request.action, read[0], CannotTell(UNREPEATED), since=requested_at)
