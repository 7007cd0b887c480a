"""Keep requests in the journal until their answers are written, for the process after a crash (decision 13)."""

from __future__ import annotations

from one_provider_mad.actions.engine import EngineSource
from one_provider_mad.actions.lanes import Job
from one_provider_mad.actions.table import CREATES_OR_DESTROYS, FIRST_WORDS
from one_provider_mad.protocol.messages import Request


class RequestRecords:
    """Writes the records of unanswered requests; without a journal there are none.

    Args:
        engines: gives the journal.
    """

    def __init__(self, engines: EngineSource) -> None:
        self._engines = engines

    def open(self, request: Request, *, is_verbatim: bool) -> int:
        """Record a request, with its payload where a later process may repeat it; return the record's number."""
        journal = self._engines.journal
        if journal is None:
            return 0
        is_kept = request.action in FIRST_WORDS or (request.action in CREATES_OR_DESTROYS and not is_verbatim)
        return journal.open_request(
            action=request.action.value,
            vm_id=request.vm_id,
            dialect=request.dialect,
            payload=request.payload if is_kept else b"",
        )

    def close(self, number: int, *, has_ended: bool = False) -> None:
        """Remove a record (0: none exists); `has_ended`: the request has terminated its VM's instance."""
        if number and self._engines.journal is not None:
            self._engines.journal.close_request(number, has_ended=has_ended)

    def call_off(self, job: Job) -> None:
        """Mark a running job's request as cancelled by DRIVER_CANCEL: no later process answers it."""
        if job.number and self._engines.journal is not None:
            self._engines.journal.call_off_request(job.number)
