"""Carry out one action with the engine in force, within its deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial

import structlog

from one_provider_mad.actions.accepted import Accepted
from one_provider_mad.actions.billing import keep_tags
from one_provider_mad.actions.deadlines import Deadlines, exceeded
from one_provider_mad.actions.engine import WAITING_FOR_ENGINE, Engine, EngineSource
from one_provider_mad.actions.leading import Lead
from one_provider_mad.actions.log_lines import MOST_WARNINGS, LogLines, at_most
from one_provider_mad.actions.outcomes import UNREPEATED, settle
from one_provider_mad.actions.polling import poll_alone
from one_provider_mad.actions.replacing import success_of_both
from one_provider_mad.actions.replies import Replies, with_first_word
from one_provider_mad.actions.shared_lookups import SharedLookups
from one_provider_mad.actions.table import (
    CREATES_OR_DESTROYS,
    FIRST_WORDS,
    HANDLERS,
    NEEDS_ONLY_TAGS,
    STOPS_OR_DESTROYS,
)
from one_provider_mad.actions.unrequested_poll import unrequested_poll
from one_provider_mad.actions.work import FindEarlierHost, Work
from one_provider_mad.calls.waiting import Patience, SettingsReplaced
from one_provider_mad.domain import VmId, VmRequest
from one_provider_mad.errors import JournalError, RequestRefused
from one_provider_mad.journal.writer import Journal
from one_provider_mad.masking import forget_vm_secrets
from one_provider_mad.ownership.creating import Complete
from one_provider_mad.protocol.messages import Action, Severity
from one_provider_mad.protocol.vmm import deploy_id_problem
from one_provider_mad.providers.interface import VerbatimDriver, VerbatimRequest

log = structlog.get_logger()


class Execution:
    """Carries out actions.

    Args:
        engines: the cloud and the journal.
        deadlines: how long each may take.
        replies: sends the POLL answer that precedes the answer of a start or stop, up to 5.10 (unrequested_poll.py).
        log_lines: the VMs' logs.
        lead: tells whether creates of an earlier leader may still be under way.
        complete: completes requests, for calls that send their attributes to the cloud.
        earlier_host: asks the core for the host of another driver that has a VM's disk.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        engines: EngineSource,
        *,
        deadlines: Deadlines,
        replies: Replies,
        log_lines: LogLines,
        lead: Lead,
        complete: Complete,
        earlier_host: FindEarlierHost,
        clock: Callable[[], float],
    ) -> None:
        self._engines = engines
        self._deadlines = deadlines
        self._replies = replies
        self._log_lines = log_lines
        self._lead = lead
        self._complete = complete
        self._earlier_host = earlier_host
        self._clock = clock
        self._lookups = SharedLookups()

    def expect(self, action: Action, content: VmRequest) -> None:
        """Announce an action that waits for its turn: the next shared lookup includes its instance."""
        if action in NEEDS_ONLY_TAGS and content.deploy_id:
            self._lookups.expect(content.deploy_id)

    async def carry_out(self, accepted: Accepted) -> str:
        """Carry out an action, or see from the cloud whether it has happened; return the payload of its SUCCESS.

        Raises:
            MadError: it failed; DeadlineExceeded where it took too long.
        """
        forget_vm_secrets()
        seconds = self._deadlines.seconds(accepted.action, is_settled=accepted.is_settled)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._carry_out(accepted, limit.when() or math.inf)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise exceeded(accepted.action, seconds, accepted.waiting) from error

    async def _carry_out(self, accepted: Accepted, deadline: float) -> str:
        is_read, waiting = accepted.known is not None, accepted.waiting
        request, message = await accepted.content.read()
        waiting.reason = WAITING_FOR_ENGINE
        if accepted.action is Action.POLL:
            return await self._poll(accepted, request, message)
        if not is_read:
            self.expect(accepted.action, request)
        engine = await waiting.persist("account", self._engines.current)
        waiting.reason = "the journal" if engine.verbatim is None else "its script"
        if engine.verbatim is not None:
            if (success := success_of_both(accepted, request)) is not None:
                return success
            if accepted.is_settled:
                raise RequestRefused(UNREPEATED)  # no cloud shows whether a script has run
            await self._be_on_record(accepted, engine.journal)
            return await self._perform(engine.verbatim, accepted, request, message)
        engine.journal.note_owners([request.owned_vm])
        try:
            work = self._work(engine, request, deadline, accepted)
            info = await (settle(work, accepted.action) if accepted.is_settled else HANDLERS[accepted.action](work))
        except SettingsReplaced:
            log.info("action starts again with the new settings", action=accepted.action.value, vm=accepted.vm_id)
            return await self._carry_out(accepted, deadline)
        waiting.patience = Patience.SHORT  # the action has succeeded: no step below may wait, or begin it anew
        await keep_tags(work, accepted.action, info)
        takes_polls = accepted.dialect.takes_answers_to_poll and not accepted.is_replaced
        poll = await unrequested_poll(work, accepted.action, info) if takes_polls else None
        if poll is not None and not accepted.is_replaced:  # during that lookup a newer request may have come
            self._replies.send(poll)
        if accepted.action is Action.DEPLOY and (problem := deploy_id_problem(info)):
            raise RequestRefused(f"the cloud's id {info!r} cannot be kept by OpenNebula: {problem}")
        if first := FIRST_WORDS.get(accepted.action):
            return first(request)
        # The core keeps DEPLOY's id; an id in the answer to RESTORE would only mislead a reader of the line.
        return "-" if accepted.action is Action.RESTORE else info

    async def _poll(self, accepted: Accepted, request: VmRequest, message: bytes) -> str:
        """Answer one POLL outside a batch: a script's, or one too large to be parsed when it came."""
        source = await self._engines.poll_source()
        if source.verbatim is not None:
            return await self._perform(source.verbatim, accepted, request, message)
        if source.cloud is None:
            raise AssertionError("there is a cloud or a verbatim driver")
        return await poll_alone(source.cloud.for_action(accepted.waiting), request, is_certain=source.is_certain)

    async def _perform(self, driver: VerbatimDriver, accepted: Accepted, request: VmRequest, message: bytes) -> str:
        verbatim = VerbatimRequest(
            action=accepted.action.value, request=request, message=message, dialect=accepted.dialect
        )
        info = await driver.perform(verbatim, partial(self._log, accepted.vm_id))
        return with_first_word(accepted.action, request, info)

    async def _be_on_record(self, accepted: Accepted, journal: Journal) -> None:
        """Record the request before its script begins: after a crash only the record gets the VM an answer."""
        try:
            if accepted.action in CREATES_OR_DESTROYS:
                await journal.sync()
            else:
                await journal.recorded(accepted.number)
        except JournalError as error:
            self._log_lines.write(Severity.WARNING, str(error), accepted.vm_id)

    def _work(self, engine: Engine, request: VmRequest, deadline: float, accepted: Accepted) -> Work:
        if engine.cloud is None:
            raise AssertionError("an engine has a cloud or is verbatim")
        settings = engine.configuration.settings
        needs_section = settings.policy.needs_section(costs_money=engine.costs_money)
        return Work(
            cloud=engine.cloud.for_action(accepted.waiting),
            journal=engine.journal,
            policy=settings.policy,
            mappings=settings.mappings,
            budget=engine.budget,
            request=request,
            deadline=deadline,
            clock=self._clock,
            warn=at_most(MOST_WARNINGS, lambda text: self._log_lines.write(Severity.WARNING, text, request.vm_id)),
            inform=at_most(MOST_WARNINGS, lambda text: self._log_lines.write(Severity.INFO, text, request.vm_id)),
            is_stale=lambda: accepted.is_replaced,
            required_type=settings.hypervisor if needs_section else "",
            requested_at=math.inf if accepted.recovered is None else accepted.recovered.requested_at,
            lookups=self._lookups,
            leads_since=self._lead.recent_start(),
            complete=partial(self._completed, accepted),
            earlier_host=self._earlier_host,
        )

    async def _completed(self, accepted: Accepted, request: VmRequest) -> VmRequest:
        before, accepted.waiting.reason = accepted.waiting.reason, "the local OpenNebula"
        completed = await self._complete(request)
        accepted.waiting.reason = before
        return completed

    def _log(self, vm_id: VmId, letter: str, text: str) -> None:
        self._log_lines.write(Severity(letter), text, vm_id)


def patience_of(action: Action) -> Patience:
    """Return the errors of the cloud after which this action repeats its call until the deadline."""
    if action is Action.POLL:
        return Patience.SHORT
    return Patience.ANY if action in STOPS_OR_DESTROYS else Patience.OUTAGE
