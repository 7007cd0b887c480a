"""Take requests, run them in their lanes, and answer each exactly once (decision 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic

import structlog

from one_provider_mad import metrics
from one_provider_mad.actions.accepted import Accepted, Recovered, RequestJob
from one_provider_mad.actions.deadlines import Deadlines
from one_provider_mad.actions.debts import Debts
from one_provider_mad.actions.engine import EngineSource
from one_provider_mad.actions.execution import Execution, patience_of
from one_provider_mad.actions.intents import is_end
from one_provider_mad.actions.lanes import Job, Lanes
from one_provider_mad.actions.leading import Lead
from one_provider_mad.actions.log_lines import LogLines
from one_provider_mad.actions.polling import NO_NEWS, Polls
from one_provider_mad.actions.queued import Backlog, Content
from one_provider_mad.actions.recovered import RecoveredRequests
from one_provider_mad.actions.replacing import follow_unanswered, replace_older
from one_provider_mad.actions.replies import Output, Replies, with_first_word
from one_provider_mad.actions.request_records import RequestRecords
from one_provider_mad.actions.work import FindEarlierHost, no_earlier_host
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import VmId, VmRequest
from one_provider_mad.errors import CannotTell, MadError, internal_error
from one_provider_mad.options import Options
from one_provider_mad.ownership.creating import Complete, as_sent
from one_provider_mad.protocol.messages import Action, Malformed, Request, Severity
from one_provider_mad.tasks import is_cancelled

log = structlog.get_logger()


class _LaneError(Exception):
    """A defect in a lane while it took a job: the journal has the request, and the driver's next process answers it."""


class Dispatcher:
    """Takes oned's requests, has them carried out, and sends one reply to each.

    Args:
        options: the options in the driver's ARGUMENTS in oned.conf.
        engines: the cloud and the journal.
        output: takes the lines for oned.
        clock: seconds since the epoch.
        complete: completes requests with what only the core knows, for calls that send their attributes to the cloud.
        earlier_host: asks the core for the host of another driver that has a VM's disk.

    Attributes:
        core_is_up: set once the core may be answered (decision 27).
        log_lines: the VMs' logs and oned's own.
        debts: pending terminations.
        recovered: requests that an earlier process has left.
        lanes: the jobs that wait and run.
    """

    def __init__(
        self,
        options: Options,
        *,
        engines: EngineSource,
        output: Output,
        clock: Callable[[], float],
        complete: Complete = as_sent,
        earlier_host: FindEarlierHost = no_earlier_host,
    ) -> None:
        self._engines = engines
        self._cancelled: set[VmId] = set()
        self.core_is_up = asyncio.Event()
        self.core_is_up.set()
        self._backlog = Backlog()
        self._lead = Lead(clock)
        self._records = RequestRecords(engines)
        self.log_lines = LogLines(output.log)
        self._replies = Replies(output, self.log_lines, self._records)
        self.debts = Debts(engines, write_log=self.log_lines.write, lead=self._lead, clock=clock)
        self.recovered = RecoveredRequests(self._records, self._replies, self.debts)
        deadlines = Deadlines(options.timeout, engines)
        self._polls = Polls(engines, self._replies, deadlines)
        self.lanes = Lanes(
            options.threads,
            poll=self._answer_polls,
            answer_no_news=self._polls.answer_no_news,
            calling_off=self._records.call_off,
            called_off=self._called_off,
        )
        self._execution = Execution(
            engines,
            deadlines=deadlines,
            replies=self._replies,
            log_lines=self.log_lines,
            lead=self._lead,
            complete=complete,
            earlier_host=earlier_host,
            clock=clock,
        )

    # Taking requests

    def accept(self, request: Request | Malformed) -> None:
        """Take one of oned's lines, parsed. Never blocks: the answer is sent later, even after a defect.

        Only a defect in the VM's lane is raised, since it is unknown then whether the lane will answer.
        """
        try:
            self._take(request)
        except _LaneError:
            raise
        except Exception as error:
            log.exception("request not taken", vm=request.vm_id)
            self._replies.refuse(_untaken(request, error))

    def _take(self, request: Request | Malformed) -> None:
        self.log_lines.learn_from(request)
        if isinstance(request, Malformed):
            self._replies.refuse(request)
            return
        self.recovered.supersede(request.vm_id, request.action)
        if request.action is Action.DRIVER_CANCEL:
            self._call_off(request.vm_id)
            return
        taken = self._backlog.take(request, is_verbatim=self._engines.is_verbatim)
        if isinstance(taken, Malformed):
            self._replies.refuse(taken)
        elif isinstance(taken, VmRequest):
            self.lanes.submit_poll(taken)
        else:
            self._submit(request, taken)

    def take_over(self, request: Request, *, number: int, requested_at: float) -> None:
        """Take a request that an earlier process left unanswered, unless a newer one for its VM replaces it.

        Args:
            request: as the core sent it.
            number: its record in the journal.
            requested_at: when the core sent it, seconds since the epoch.
        """
        recovered = self.recovered.await_newer(request.vm_id, request.action, requested_at=requested_at)
        if recovered.is_superseded:
            self._records.close(number)
        else:
            self._take_again(request, recovered, number=number)

    def settle(self, request: Request, *, number: int = 0) -> None:
        """Answer a request of a dead process by what the cloud shows, unless a newer request for its VM replaces it.

        Args:
            request: as oned would send it now.
            number: its record in the journal, 0 for none.
        """
        recovered = self.recovered.await_next(request.vm_id, request.action)
        self._take_again(request, recovered, number=number, is_settled=True)

    def _take_again(self, request: Request, recovered: Recovered, *, number: int, is_settled: bool = False) -> None:
        try:
            taken = self._backlog.take_again(request, is_verbatim=self._engines.is_verbatim)
        except Exception as error:
            log.exception("request not taken over", vm=request.vm_id)
            taken = _untaken(request, error)
        if isinstance(taken, Malformed):
            self._replies.refuse(taken, number=number)
        else:
            self._submit(request, taken, recovered=recovered, number=number, is_settled=is_settled)

    def _submit(
        self,
        request: Request,
        content: Content,
        *,
        recovered: Recovered | None = None,
        number: int = 0,
        is_settled: bool = False,
    ) -> None:
        is_verbatim = self._engines.is_verbatim
        if not is_verbatim and content.known is not None:
            self._execution.expect(request.action, content.known)
        is_after_cancel = request.vm_id in self._cancelled
        self._cancelled.discard(request.vm_id)
        accepted = Accepted(
            action=request.action,
            vm_id=request.vm_id,
            dialect=request.dialect,
            content=content,
            waiting=Waiting(patience=patience_of(request.action), rest=self.lanes.rest),
            number=number or self._records.open(request, is_verbatim=is_verbatim),
            is_after_cancel=is_after_cancel,
            recovered=recovered,
            is_settled=is_settled,
        )
        host = content.heading.host if is_verbatim else None
        job = RequestJob(accepted, partial(self._answer, accepted), host=host)
        try:
            self.lanes.submit(job)
            told = replace_older(self.lanes, job, is_verbatim=is_verbatim) if recovered is None else ()
            if is_settled:
                follow_unanswered(self.lanes, job)
        except Exception as error:
            raise _LaneError(job.name) from error
        for sentence in told:
            self.log_lines.write(Severity.INFO, sentence, request.vm_id)

    # DRIVER_CANCEL

    def _call_off(self, vm_id: VmId) -> None:
        """Cancel all requests of a VM without an answer, which oned would take for a newer request's."""
        if self.lanes.call_off(vm_id):
            self._cancelled.add(vm_id)
            self.log_lines.write(Severity.INFO, f"Driver command for {vm_id} cancelled", vm_id)

    def _called_off(self, job: Job) -> None:
        has_begun = job.task is not None and not job.task.cancelled()
        if metrics.recorder is not None and not has_begun:  # _answer counts jobs that had begun
            metrics.recorder.called_off(job.name.partition(" ")[0].upper())
        self._records.close(job.number)
        if isinstance(job, RequestJob):
            job.accepted.content.release()

    # Answering

    async def _answer(self, accepted: Accepted, job: Job) -> None:
        """Carry out one request and send its reply; every error but a cancellation becomes a FAILURE."""
        begun = monotonic()
        try:
            is_success, info = await self._outcome(accepted)
            if not is_success:
                info = with_first_word(accepted.action, accepted.known, info)
            if accepted.recovered is not None and not accepted.is_settled:
                await self.recovered.may_be_answered.wait()
        except asyncio.CancelledError:
            if not (job.is_called_off or job.is_broken_off):
                raise
            if job.is_called_off:
                await self.debts.record_cancelled_deploy(accepted.action, accepted.known)
            if metrics.recorder is not None:
                metrics.recorder.called_off(accepted.action.value)
        else:
            self._finish(accepted, info, begun, is_success=is_success)
        finally:
            accepted.progress.follows = None
            accepted.content.release()

    async def _outcome(self, accepted: Accepted) -> tuple[bool, str]:
        """Carry out one request; return whether it succeeded, and its reply's payload."""
        try:
            return True, await self._execution.carry_out(accepted)
        except MadError as error:
            if self._polls.is_without_news(accepted, error):
                return True, NO_NEWS
            await self._note_debt(accepted, error)
            return False, str(error)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            log.exception("action failed unexpectedly", action=accepted.action.value, vm=accepted.vm_id)
            sentence = internal_error(error)
            await self._note_debt(accepted, CannotTell(sentence))
            return False, sentence

    async def _note_debt(self, accepted: Accepted, error: MadError) -> None:
        if accepted.is_last_end:
            await self.debts.note_failure(accepted.action, accepted.known, error)

    def _finish(self, accepted: Accepted, info: str, begun: float, *, is_success: bool) -> None:
        if metrics.recorder is not None:
            metrics.recorder.took(accepted.action.value, monotonic() - begun)
        log.info(
            "action answered",
            action=accepted.action.value,
            vm=accepted.vm_id,
            success=is_success,
            info=info,
            seconds=round(monotonic() - begun, 4),
        )
        content = accepted.known
        has_ended = is_success and content is not None and is_end(accepted.action, content.lcm_state)
        accepted.progress.is_finished = True
        accepted.progress.succeeded = info if is_success else None
        if accepted.is_replaced:
            self._replies.withhold(accepted, info, is_success=is_success, has_ended=has_ended)
        else:
            self._replies.answer(accepted, info, is_success=is_success, has_ended=has_ended)

    async def _answer_polls(self, requests: list[VmRequest]) -> None:
        await self.core_is_up.wait()  # an earlier lookup would be outdated by then
        await self._polls.answer(requests, self.lanes)

    # Another front-end

    def note_leader(self, *, is_elsewhere: bool) -> None:
        """Note whether another front-end leads its peers, and pays the debts, or this one does.

        Not called for a driver that a person runs by hand, which has no peers.
        """
        self._lead.note(is_elsewhere=is_elsewhere)
        self.debts.retry_all_now()

    def abandon(self) -> None:
        """Leave the open requests unanswered: another front-end has begun to lead, and answers them.

        Requests that have not begun are dropped: the new leader answers a deploy with "no instance", and an end with
        "ask again". The end of an instance that oned never requests again is carried out all the same.
        """
        for job in self.lanes.every_open_job():
            if isinstance(job, RequestJob):
                job.accepted.progress.is_abandoned = True
                if job.task is None and not job.accepted.is_last_end:
                    self.lanes.drop(job)
        self.recovered.supersede_all()

    def is_to_be_answered(self, vm_id: VmId) -> bool:
        """True while a request of this VM is open and will be answered."""
        jobs = self.lanes.open_jobs(vm_id)
        return any(isinstance(job, RequestJob) and not job.accepted.progress.is_abandoned for job in jobs)

    async def measure(self, recorder: metrics.Recorder) -> None:
        """Record how many requests wait and run, and how many debts there are."""
        waiting, running = self.lanes.depth()
        recorder.queue(waiting=waiting, running=running)
        await self.debts.measure(recorder)


def _untaken(request: Request | Malformed, error: Exception) -> Malformed:
    """Return the FAILURE for a request that could not be taken because of a defect or a lack of memory."""
    is_answered = not isinstance(request, Request) or request.action is not Action.DRIVER_CANCEL
    word = request.action.value if isinstance(request, Request) else request.word
    return Malformed(
        reason=internal_error(error),
        word=word if is_answered else "",
        vm_id=request.vm_id,
        dialect=request.dialect,
    )
