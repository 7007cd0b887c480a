"""Take requests, run them in their lanes, and answer each exactly once (decision 6)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Protocol

import msgspec
import structlog

from one_provider_mad import metrics
from one_provider_mad.actions.accepted import Accepted, Recovered, RequestJob
from one_provider_mad.actions.cloud import Patience, SettingsReplaced, patience, persist, resting, waiting_for
from one_provider_mad.actions.debts import Confirm, Debts
from one_provider_mad.actions.engine import Engine, EngineSource
from one_provider_mad.actions.intents import is_end
from one_provider_mad.actions.lanes import Job, Lanes
from one_provider_mad.actions.last_poll import last_poll
from one_provider_mad.actions.lifecycle import Work
from one_provider_mad.actions.looks import SharedLooks
from one_provider_mad.actions.outcomes import UNREPEATED, settle
from one_provider_mad.actions.polling import NO_NEWS, poll, tell_unknown
from one_provider_mad.actions.queued import Backlog, Content
from one_provider_mad.actions.replacing import follow_unanswered, replace_older, success_of_both
from one_provider_mad.actions.table import (
    CREATES_OR_DESTROYS,
    FIRST_WORDS,
    HANDLERS,
    NEEDS_ONLY_TAGS,
    STOPS_OR_DESTROYS,
    replaces,
)
from one_provider_mad.domain import VmId, VmRequest
from one_provider_mad.errors import (
    CannotTell,
    DeadlineExceeded,
    JournalError,
    MadError,
    RequestRefused,
    SettingsError,
    internal_error,
)
from one_provider_mad.journal.writer import Journal
from one_provider_mad.options import Options
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import Action, LogLine, Malformed, Reply, Request, Severity
from one_provider_mad.protocol.payload import read_payload
from one_provider_mad.protocol.vmm import deploy_id_problem, format_log, format_reply
from one_provider_mad.providers.interface import VerbatimDriver, VerbatimRequest
from one_provider_mad.tasks import is_cancelled
from one_provider_mad.timestamps import Timestamp

log = structlog.get_logger()

DEADLINES = {Action.DEPLOY: 600.0}
OTHER_DEADLINE = 300.0
"""Seconds an action may take without `-w`. oned itself never gives up on one; a new instance may well take minutes."""

_POLLS_AT_ONCE = 64
"""POLL answers written before others get a turn."""


class Output(Protocol):
    """Where lines go (transport.Writer)."""

    def send(self, data: bytes, *, on_written: Callable[[], None] | None = None) -> None:
        """Write a line that must not be lost."""

    def log(self, data: bytes) -> None:
        """Write a LOG line."""


class _LaneError(Exception):
    """A lane failed while it took this job: the journal has it, and the next process settles it."""


MOST_WARNINGS = 60
"""Lines that one request may write into its VM's log: the template and the cloud's answers determine their number. A
create that finds no capacity has one for each of 50 types and places."""


def at_most(lines: int, warn: Callable[[str], None]) -> Callable[[str], None]:
    """Return `warn`, limited to so many lines; the last one says that there are more."""
    left = lines

    def warn_while_any_are_left(text: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            warn(text if left else "there are more warnings, which are left out here")

    return warn_while_any_are_left


class Dispatcher:
    """Turns requests into replies.

    Args:
        options: ARGUMENTS.
        engines: the cloud and the journal.
        output: where lines go.
        clock: seconds since the epoch.

    Attributes:
        core_is_up: set once the core may be answered (decision 27).
    """

    def __init__(self, options: Options, *, engines: EngineSource, output: Output, clock: Callable[[], float]) -> None:
        self._options = options
        self._engines = engines
        self._output = output
        self._clock = clock
        self._dialect = Dialect.SINCE_6_0
        self._untold: list[LogLine] | None = []
        self._cancelled: set[VmId] = set()
        self._recovered: dict[VmId, list[Recovered]] = {}
        self._asked: dict[VmId, set[Action]] | None = {}
        self.is_settled = asyncio.Event()
        self.core_is_up = asyncio.Event()
        self.core_is_up.set()
        self._looks = SharedLooks()
        self._led_since: Timestamp | None = None
        self._backlog = Backlog()
        self._debts = Debts(engines, tell=self.tell, clock=clock)
        self.lanes = Lanes(
            options.threads,
            poll=self._poll,
            let_go=self._let_go,
            calling_off=self._calling_off,
            called_off=self._called_off,
        )

    # Taking requests

    def accept(self, request: Request | Malformed) -> None:
        """Take one line's content. Never blocks; the answer follows by itself, also after a defect.

        A defect of a lane is raised: then it is unknown whether the lane will answer.
        """
        try:
            self._take(request)
        except _LaneError:
            raise
        except Exception as error:
            log.exception("request not taken", vm=request.vm_id)
            self._refuse(_untaken(request, error))

    def _take(self, request: Request | Malformed) -> None:
        if request.dialect is Dialect.UP_TO_5_12 and request.vm_id is not None:
            self._dialect = request.dialect
        self._tell_untold()
        if isinstance(request, Malformed):
            self._refuse(request)
            return
        self._supersede(request.vm_id, request.action)
        if request.action is Action.DRIVER_CANCEL:
            self._call_off(request.vm_id)
            return
        taken = self._backlog.take(request, is_verbatim=self._engines.is_verbatim)
        if isinstance(taken, Malformed):
            self._refuse(taken)
        elif isinstance(taken, VmRequest):
            self.lanes.submit_poll(taken)
        else:
            self._submit(request, taken)

    def take_over(self, request: Request, *, number: int, asked_at: float) -> None:
        """Take a request that an earlier process left unanswered, unless a newer one for its VM replaces it.

        Args:
            request: as the core sent it.
            number: its record in the journal.
            asked_at: when the core sent it, seconds since the epoch.
        """
        recovered = self.await_newer(request.vm_id, request.action, asked_at=asked_at)
        if recovered.is_superseded:
            self._close(number)
        else:
            self._take_again(request, recovered, number=number)

    def _take_again(self, request: Request, recovered: Recovered, *, number: int, is_settled: bool = False) -> None:
        try:
            taken = self._backlog.take_again(request, is_verbatim=self._engines.is_verbatim)
        except Exception as error:
            log.exception("request not taken over", vm=request.vm_id)
            taken = _untaken(request, error)
        if isinstance(taken, Malformed):
            self.fail(taken.word, request.vm_id, taken.reason, dialect=request.dialect, number=number)
        else:
            self._submit(request, taken, recovered=recovered, number=number, is_settled=is_settled)

    def settle(self, request: Request, *, number: int = 0) -> None:
        """Answer a request that the core still awaits by what the cloud shows; a newer one for its VM comes first.

        Args:
            request: as the core would send it now.
            number: its record in the journal, 0 for none.
        """
        recovered = Recovered(request.action, math.inf)
        self._recovered.setdefault(request.vm_id, []).append(recovered)
        self._take_again(request, recovered, number=number, is_settled=True)

    def await_newer(self, vm_id: VmId, action: Action, *, asked_at: float = math.inf) -> Recovered:
        """Return an object whose `is_superseded` becomes true when a newer request for this VM comes, or has come."""
        recovered = Recovered(action, asked_at)
        recovered.is_superseded = self._asked is None or any(
            replaces(newer, action) for newer in self._asked.get(vm_id, ())
        )
        self._recovered.setdefault(vm_id, []).append(recovered)
        return recovered

    def end_recovery(self) -> None:
        """Note that nothing more is taken over, so that requests since the start need not be remembered any more."""
        self._asked = None

    def _supersede(self, vm_id: VmId, action: Action) -> None:
        if self._asked is not None:
            self._asked.setdefault(vm_id, set()).add(action)
        for recovered in self._recovered.get(vm_id, ()):
            recovered.is_superseded = recovered.is_superseded or replaces(action, recovered.action)

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
            self._expect_look(request.action, content.known)
        is_after_cancel = request.vm_id in self._cancelled
        self._cancelled.discard(request.vm_id)
        accepted = Accepted(
            action=request.action,
            vm_id=request.vm_id,
            dialect=request.dialect,
            content=content,
            number=number or self._record(request, is_verbatim=is_verbatim),
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
            self.tell(Severity.INFO, sentence, request.vm_id)

    def _expect_look(self, action: Action, content: VmRequest) -> None:
        if action in NEEDS_ONLY_TAGS and content.deploy_id:
            self._looks.expect(content.deploy_id)

    def _record(self, request: Request, *, is_verbatim: bool) -> int:
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

    def _close(self, number: int, *, has_ended: bool = False) -> None:
        if number and self._engines.journal is not None:
            self._engines.journal.close_request(number, has_ended=has_ended)

    # DRIVER_CANCEL

    def _call_off(self, vm_id: VmId) -> None:
        """Cancel what waits or runs for this VM. It gets no answer: that would be taken for a newer request's."""
        if self.lanes.call_off(vm_id):
            self._cancelled.add(vm_id)
            self.tell(Severity.INFO, f"Driver command for {vm_id} cancelled", vm_id)

    def _calling_off(self, job: Job) -> None:
        if job.number and self._engines.journal is not None:
            self._engines.journal.call_off_request(job.number)

    def _called_off(self, job: Job) -> None:
        has_begun = job.task is not None and not job.task.cancelled()
        if metrics.recorder is not None and not has_begun:  # _answer counts jobs that had begun
            metrics.recorder.called_off(job.name.partition(" ")[0].upper())
        self._close(job.number)
        if isinstance(job, RequestJob):
            job.accepted.content.let_go()

    async def forget_called_off(self, request: Request) -> None:
        """Record a debt for a deploy whose cancellation an earlier process did not complete."""
        read = read_payload(msgspec.structs.replace(request, action=Action.DEPLOY))
        if not isinstance(read, Malformed):
            await self._debts.forget_create(Action.DEPLOY, read[0])

    # Answering

    async def _answer(self, accepted: Accepted, job: Job) -> None:
        """Carry out one request and send its reply. Only cancellation escapes."""
        waiting_for.set("its turn")
        begun = monotonic()
        try:
            is_success, info = await self._outcome(accepted)
            if not is_success:
                info = _with_first_word(accepted.action, accepted.known, info)
            if accepted.recovered is not None and not accepted.is_settled:
                await self.is_settled.wait()
        except asyncio.CancelledError:
            if not (job.is_called_off or job.is_broken_off):
                raise
            if job.is_called_off:
                await self._debts.forget_create(accepted.action, accepted.known)
            if metrics.recorder is not None:
                metrics.recorder.called_off(accepted.action.value)
        else:
            self._finish(accepted, info, begun, is_success=is_success)
        finally:
            accepted.standing.follows = None
            accepted.content.let_go()

    async def _outcome(self, accepted: Accepted) -> tuple[bool, str]:
        """Return whether it succeeded, and the reply's payload."""
        try:
            return True, await self._within_deadline(accepted)
        except MadError as error:
            if self._is_unknown(accepted, error):
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

    def _is_unknown(self, accepted: Accepted, error: MadError) -> bool:
        """True for a POLL without news, since the cloud does not answer; a refused POLL reports its VM lost."""
        if accepted.action is not Action.POLL or self._engines.is_verbatim or isinstance(error, RequestRefused):
            return False
        log.warning("POLL answered without news", vm=accepted.vm_id, reason=str(error))
        return True

    async def _note_debt(self, accepted: Accepted, error: MadError) -> None:
        if _is_last_end(accepted):
            await self._debts.note_failure(accepted.action, accepted.known, error)

    async def _within_deadline(self, accepted: Accepted) -> str:
        seconds = self._deadline(accepted.action)
        if accepted.is_settled and seconds is None:
            # `-w 0` lets work take its time; here no work is done, and a cloud may never show the outcome.
            seconds = DEADLINES.get(accepted.action, OTHER_DEADLINE)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._carry_out(accepted, limit.when() or math.inf)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineExceeded(_gave_up(accepted.action, seconds)) from error

    def _deadline(self, action: Action) -> float | None:
        if self._engines.is_verbatim:
            return None  # there `-w` bounds each script of an action, as upstream does it
        if self._options.timeout is not None:
            return self._options.timeout or None
        return DEADLINES.get(action, OTHER_DEADLINE)

    async def _carry_out(self, accepted: Accepted, deadline: float) -> str:
        is_read = accepted.known is not None
        patience.set(_patience_of(accepted.action))
        resting.set(self.lanes.rest)
        request, message = await accepted.content.read()
        if accepted.action is Action.POLL:
            return await self._poll_alone(accepted, request, message)
        if not is_read:
            self._expect_look(accepted.action, request)
        engine = await persist("account", self._engines.current)
        if engine.verbatim is not None:
            if (success := success_of_both(accepted, request)) is not None:
                return success
            if accepted.is_settled:
                raise RequestRefused(UNREPEATED)  # scripts cannot tell whether it has happened
            await self._be_on_record(accepted, engine.journal)
            return await self._perform(engine.verbatim, accepted, request, message)
        try:
            work = self._work(engine, request, deadline, accepted)
            info = await (settle(work, accepted.action) if accepted.is_settled else HANDLERS[accepted.action](work))
        except SettingsReplaced:
            log.info("action begins anew with other settings", action=accepted.action.value, vm=accepted.vm_id)
            return await self._carry_out(accepted, deadline)
        patience.set(Patience.SHORT)  # it has succeeded: nothing after this may wait, or begin it anew
        takes_back = accepted.dialect.takes_answers_to_poll and not accepted.is_replaced
        if takes_back and (last := await last_poll(work, accepted.action)) is not None:
            self._send(last)
        if accepted.action is Action.DEPLOY and (problem := deploy_id_problem(info)):
            raise RequestRefused(f"the cloud's id {info!r} cannot be kept by OpenNebula: {problem}")
        if first := FIRST_WORDS.get(accepted.action):
            return first(request)
        # The core keeps DEPLOY's id; an id in the answer to RESTORE would only mislead a reader of the line.
        return "-" if accepted.action is Action.RESTORE else info

    async def _perform(self, driver: VerbatimDriver, accepted: Accepted, request: VmRequest, message: bytes) -> str:
        verbatim = VerbatimRequest(
            action=accepted.action.value, request=request, message=message, dialect=accepted.dialect
        )
        info = await driver.perform(verbatim, partial(self._tell_as, accepted.vm_id))
        return _with_first_word(accepted.action, request, info)

    async def _be_on_record(self, accepted: Accepted, journal: Journal) -> None:
        """Record a script before it begins: unknown to the next process, its VM would wait for ever."""
        try:
            if accepted.action in CREATES_OR_DESTROYS:
                await journal.sync()
            else:
                await journal.recorded(accepted.number)
        except JournalError as error:
            self.tell(Severity.WARNING, str(error), accepted.vm_id)

    def _work(self, engine: Engine, request: VmRequest, deadline: float, accepted: Accepted) -> Work:
        if engine.cloud is None or engine.finder is None:
            raise AssertionError("an engine has a cloud or is verbatim")
        settings = engine.configuration.settings
        needs_section = settings.policy.needs_section(costs_money=engine.costs_money)
        return Work(
            cloud=engine.cloud,
            journal=engine.journal,
            finder=engine.finder,
            policy=settings.policy,
            request=request,
            deadline=deadline,
            clock=self._clock,
            warn=at_most(MOST_WARNINGS, lambda text: self.tell(Severity.WARNING, text, request.vm_id)),
            inform=at_most(MOST_WARNINGS, lambda text: self.tell(Severity.INFO, text, request.vm_id)),
            is_stale=lambda: accepted.is_replaced,
            required_type=settings.hypervisor if needs_section else "",
            asked_at=math.inf if accepted.recovered is None else accepted.recovered.asked_at,
            looks=self._looks,
            leads_since=self._leads_since(),
        )

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
        accepted.standing.is_over = True
        accepted.standing.succeeded = info if is_success else None
        if accepted.is_replaced:
            self._close(accepted.number, has_ended=has_ended)
            self._tell_unanswered(accepted, info, is_success=is_success)
            return
        word, vm_id, number = accepted.action.value, accepted.vm_id, accepted.number
        if is_success:
            self._reply(word, vm_id, info, is_success=True, number=number, has_ended=has_ended)
        else:
            self._reply_failure(word, vm_id, info, dialect=accepted.dialect, number=number)

    def _tell_unanswered(self, accepted: Accepted, info: str, *, is_success: bool) -> None:
        """Log in the VM's log how a request has ended that a newer one replaces."""
        if metrics.recorder is not None:
            metrics.recorder.called_off(accepted.action.value)
        if (newer := accepted.standing.replaced_by) is not None:
            result = "SUCCESS" if is_success else "FAILURE"
            sentence = f"{accepted.action.value} has ended with {result} {info}; {newer.value} is answered instead"
            self.tell(Severity.INFO, sentence, accepted.vm_id)

    def _reply_failure(self, word: str, vm_id: VmId, sentence: str, *, dialect: Dialect, number: int = 0) -> None:
        if word == Action.REBOOT.value and dialect.drops_answers_to_reboot:
            self.tell(Severity.ERROR, f"REBOOT: {sentence}", vm_id)
        self._reply(word, vm_id, sentence, is_success=False, number=number)

    def _reply(
        self, word: str, vm_id: VmId, info: str, *, is_success: bool, number: int = 0, has_ended: bool = False
    ) -> None:
        reply = Reply(word=word, vm_id=vm_id, is_success=is_success, info=info)
        self._send(reply, on_written=partial(self._close, number, has_ended=has_ended) if number else None)

    def _send(self, reply: Reply, *, on_written: Callable[[], None] | None = None) -> None:
        if metrics.recorder is not None:
            action = reply.word if reply.word in Action.__members__ else metrics.OTHER
            metrics.recorder.answered(action, is_success=reply.is_success)
        self._output.send(format_reply(reply), on_written=on_written)

    def fail(self, word: str, vm_id: VmId, sentence: str, *, dialect: Dialect, number: int = 0) -> None:
        """Answer a request that is not carried out with a FAILURE; `number` is its record in the journal."""
        log.warning("request refused", action=word, vm=vm_id, reason=sentence)
        self._reply_failure(word, vm_id, sentence, dialect=dialect, number=number)

    async def drop(self, request: Request, *, number: int, asked_at: float) -> None:
        """Close a request of an earlier process without an answer; a CLEANUP, which is never repeated, becomes a debt.

        Args:
            request: as the core sent it.
            number: its record in the journal.
            asked_at: when the core sent it, seconds since the epoch.
        """
        if request.action is Action.CLEANUP:
            read = read_payload(request)
            if not isinstance(read, Malformed):
                await self._debts.note_failure(request.action, read[0], CannotTell(UNREPEATED), since=asked_at)
        self._close(number)

    async def fail_unrepeated(self, request: Request, sentence: str, *, number: int, asked_at: float) -> None:
        """Answer a request of an earlier process that is not repeated with a FAILURE; `number` is its record."""
        if request.action is Action.CLEANUP:
            await self.drop(request, number=0, asked_at=asked_at)
        if request.payload:
            read = read_payload(request)
            content = None if isinstance(read, Malformed) else read[0]
            sentence = _with_first_word(request.action, content, sentence)
        self.fail(request.action.value, request.vm_id, sentence, dialect=request.dialect, number=number)

    def _refuse(self, malformed: Malformed) -> None:
        if malformed.vm_id is not None and malformed.word:
            self.fail(malformed.word, malformed.vm_id, malformed.reason, dialect=malformed.dialect)
        else:
            self.tell(Severity.ERROR, f"ignored a line that is no request: {malformed.reason}")

    def dropped(self, count: int) -> bytes:
        """Return the line that reports lost LOG lines."""
        text = f"{count} log lines were dropped because OpenNebula did not read them"
        return format_log(LogLine(severity=Severity.WARNING, text=text), self._dialect)

    def tell(self, severity: Severity, text: str, vm_id: VmId | None = None) -> None:
        """Write a line to the VM's log, or to oned's own."""
        log.info("log line sent", severity=severity.value, vm=vm_id, text=text)
        line = LogLine(severity=severity, text=text, vm_id=vm_id)
        if vm_id is None and self._untold is not None:
            self._untold.append(line)  # the first request shows the id of oned's own log
        else:
            self._output.log(format_log(line, self._dialect))

    def _tell_untold(self) -> None:
        untold, self._untold = self._untold, None
        for line in untold or ():
            self._output.log(format_log(line, self._dialect))

    def learn_release(self, release: tuple[int, ...]) -> None:
        """Write lines for oned's log that wait for the first request: the release, known earlier, sets their form."""
        if self._untold is not None:
            self._dialect = Dialect.of_release(release)
            self._tell_untold()

    def _tell_as(self, vm_id: VmId, letter: str, text: str) -> None:
        self.tell(Severity(letter), text, vm_id)

    # POLL

    async def _poll(self, requests: list[VmRequest]) -> None:
        """Answer a batch of POLLs from one lookup."""
        await self.core_is_up.wait()  # an earlier lookup would be outdated by then
        patience.set(Patience.SHORT)
        waiting_for.set("its turn")
        unanswered = dict.fromkeys(range(len(requests)))
        seconds = self._deadline(Action.POLL)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                sight = await self._engines.sight()
                if sight.cloud is None:
                    raise SettingsError("the configuration changed meanwhile")
                number = 0
                async for request, reply in poll(sight.cloud, requests, is_certain=sight.is_certain):
                    del unanswered[number]
                    number += 1
                    if self.lanes.is_listed(request):
                        self._send(reply)
                        self.lanes.answered(request)
                    if number % _POLLS_AT_ONCE == 0:
                        await asyncio.sleep(0)
        except MadError as error:
            reason: MadError = error
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            if isinstance(error, TimeoutError) and limit.expired():
                late = sum(self.lanes.is_listed(requests[number]) for number in unanswered)
                reason = DeadlineExceeded(_gave_up(Action.POLL, seconds, late))
            else:
                log.exception("poll failed unexpectedly")
                reason = CannotTell(internal_error(error))
        else:
            return
        tell_unknown([requests[number] for number in unanswered], reason)
        for number in unanswered:
            if self.lanes.is_listed(requests[number]):
                self._let_go(requests[number])

    async def pay_debts(self) -> None:
        """Pay debts for as long as the driver runs."""
        await self._debts.pay_for_ever(self.lanes)

    def abandon(self) -> None:
        """Leave open requests unanswered: another front-end has begun to lead, and settles them.

        Requests that have not begun are dropped: the new leader answers to a deploy that there is no instance, and to
        an end that it has to be requested again. The end of an instance that is never requested again goes on.
        """
        for job in self.lanes.every_open_job():
            if isinstance(job, RequestJob):
                job.accepted.standing.is_abandoned = True
                if job.task is None and not _is_last_end(job.accepted):
                    self.lanes.drop(job)
        for recovered in (each for found in self._recovered.values() for each in found):
            recovered.is_superseded = True

    def is_to_be_answered(self, vm_id: VmId) -> bool:
        """True while a request of this VM is open and will be answered."""
        jobs = self.lanes.open_jobs(vm_id)
        return any(isinstance(job, RequestJob) and not job.accepted.standing.is_abandoned for job in jobs)

    def hold_debts(self, *, is_held: bool) -> None:
        """Stop paying debts while another front-end leads, and go on when this one does.

        Not called for a driver that a person runs on a pipe: there is no earlier leader.
        """
        self._debts.is_held = is_held
        self._led_since = Timestamp.now(self._clock)
        if self._engines.journal is not None:
            self._engines.journal.has_new_debt.set()

    def _leads_since(self) -> Timestamp | None:
        """Return when this front-end began to lead or to run; None once creates of an earlier leader must have ended.

        While another one is said to lead, a request shows that this one leads now: only a leader's oned sends requests.
        """
        now = Timestamp.now(self._clock)
        if self._debts.is_held:
            return now
        since = self._led_since
        return since if since is not None and now.since(since) < DEADLINES[Action.DEPLOY] else None

    async def measure(self, recorder: metrics.Recorder) -> None:
        """Record how many requests wait and run, and how many debts there are."""
        waiting, running = self.lanes.depth()
        recorder.queue(waiting=waiting, running=running)
        if self._engines.journal is not None:
            with suppress(JournalError):
                recorder.owed(len(await self._engines.journal.debts()))

    def confirm_debts(self, confirm: Confirm) -> None:
        """Set the check that is called right before an instance is terminated for a debt."""
        self._debts.confirm = confirm

    async def _poll_alone(self, accepted: Accepted, request: VmRequest, message: bytes) -> str:
        """Answer a POLL of a verbatim driver, or one that was too large to be read at once."""
        sight = await self._engines.sight()
        if sight.verbatim is not None:
            return await self._perform(sight.verbatim, accepted, request, message)
        if sight.cloud is None:
            raise AssertionError("there is a cloud or a verbatim driver")
        async for _, reply in poll(sight.cloud, [request], is_certain=sight.is_certain):
            if not reply.is_success:
                raise RequestRefused(reply.info)
            return reply.info
        raise AssertionError("one POLL, one answer")

    def _let_go(self, request: VmRequest) -> None:
        """Answer a POLL without news: an action has overtaken it, or the cloud does not answer."""
        self._reply(Action.POLL.value, request.vm_id, NO_NEWS, is_success=True)


def _patience_of(action: Action) -> Patience:
    if action is Action.POLL:
        return Patience.SHORT
    return Patience.ANY if action in STOPS_OR_DESTROYS else Patience.OUTAGE


def _is_last_end(accepted: Accepted) -> bool:
    """True for the end of an instance that the core does not request again, even after a failure."""
    return accepted.action is Action.CLEANUP or (accepted.action is Action.CANCEL and accepted.is_after_cancel)


def _untaken(request: Request | Malformed, error: Exception) -> Malformed:
    """Return the refusal of a request that a defect, or a lack of memory, keeps from being taken."""
    is_answered = not isinstance(request, Request) or request.action is not Action.DRIVER_CANCEL
    word = request.action.value if isinstance(request, Request) else request.word
    return Malformed(
        reason=internal_error(error),
        word=word if is_answered else "",
        vm_id=request.vm_id,
        dialect=request.dialect,
    )


def _gave_up(action: Action, seconds: float | None, count: int = 1) -> str:
    if metrics.recorder is not None:
        metrics.recorder.overdue(action.value, count)
    return f"gave up after {seconds or 0:g} s waiting for {waiting_for.get()}"


def _with_first_word(action: Action, content: VmRequest | None, sentence: str) -> str:
    """Put the number first by which oned goes on after UPDATESG and UPDATENIC, after a success or a failure."""
    first = FIRST_WORDS.get(action)
    return sentence if first is None or content is None else f"{first(content)} {sentence}"
