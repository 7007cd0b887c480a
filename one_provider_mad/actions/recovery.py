"""Answer the requests that a dead process left, since oned starts the driver again and re-sends nothing (decision 13).

A request is carried out again when the same oned started both processes within a minute, and twice does what once
does; after several processes have begun it, it is answered by what the cloud shows. All others get a FAILURE that says
what to do. After a newer request for the VM the old one is never answered, since oned would take its answer for the
newer one's. Requests of an earlier oned are answered by what the cloud shows (actions/settling.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import structlog

from one_provider_mad.actions.dispatcher import Dispatcher
from one_provider_mad.actions.outcomes import UNREPEATED
from one_provider_mad.actions.table import CREATES_OR_DESTROYS, replaces
from one_provider_mad.domain import Value
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.records import OpenRequest, Writer
from one_provider_mad.journal.writer import Journal
from one_provider_mad.processes import Process
from one_provider_mad.protocol.messages import Action, Request
from one_provider_mad.tasks import keep_running

log = structlog.get_logger()

RESTART_SECONDS = 60.0
"""Seconds after a dead process's last sign of life until which this process counts as its restart; oned needs one."""

SETTLED_AFTER = 1.0
"""Seconds from INIT's answer to the next unrequested line: oned reads that answer with one read (include/Driver.h)."""

FAILURES_AFTER = 3.0
"""Seconds after INIT before requests of a dead process get a FAILURE; a newer request until then replaces them."""

MOST_TAKERS = 3
"""Most processes that carry out the same request: it may be the request that kills them. Later ones only look."""

MOST_LOOKERS = 30
"""Most processes that take the same request, those included that only look for its outcome in the cloud; after them it
fails. Looking changes nothing, and the request is rarely the reason for which so many were killed."""

_LINGER_SECONDS = 15.0
"""Seconds that a process may live on after FINALIZE; up to 5.12 oned does not kill it (src/mad/Mad.cc, reload)."""

SIGN_OF_LIFE_SECONDS = 15.0
"""Seconds between two records in the journal that this process lives: well within RESTART_SECONDS."""


class _Dead(Value, frozen=True, kw_only=True):
    writer: Writer
    requests: list[OpenRequest]


class Recovery:
    """Answers, repeats or drops the requests that earlier processes left unanswered.

    Args:
        journal: holds the requests.
        dispatcher: carries requests out, or fails them.
        open_output: lets lines be sent although no request has come since INIT.
        core_is_up: set once the core may be answered (decision 27).
        clock: seconds since the epoch.
        hand_over: takes requests of an earlier oned, which may not be awaited any more; None: they get a FAILURE.
    """

    def __init__(
        self,
        journal: Journal,
        dispatcher: Dispatcher,
        *,
        open_output: Callable[[], None],
        core_is_up: asyncio.Event,
        clock: Callable[[], float],
        hand_over: Callable[[list[OpenRequest]], Awaitable[None]] | None = None,
    ) -> None:
        self._journal = journal
        self._dispatcher = dispatcher
        self._recovered = dispatcher.recovered
        self._debts = dispatcher.debts
        self._open_output = open_output
        self._core_is_up = core_is_up
        self._hand_over = hand_over
        self._clock = clock
        self._begun = asyncio.get_running_loop().time()
        self._has_taken = False
        self._asked: dict[int, OpenRequest] = {}
        self._dealt_with: set[int] = set()
        self._parents: dict[Process, Process] = {}

    async def run(self) -> None:
        """Answer, repeat or drop every request of dead processes. Called once, right after INIT."""
        try:
            self._parents = {each.process: each.parent for each in await self._journal.writers()}
            self._note(await self._journal.open_requests())
            async with asyncio.TaskGroup() as group:
                for dead in await self._others():
                    settling = keep_running(partial(self._settle_if_possible, dead), on_error=_stumbled)
                    group.create_task(settling, name=f"recover {dead.writer.process.pid}")
        except JournalError as error:
            log.warning("unanswered requests not recovered", error=str(error))
        finally:
            # In any case: requests that were taken over, and their lanes, wait for this.
            await self._let_out_answers()
            self._recovered.end()

    async def forget_called_off(self) -> None:
        """Record debts for deploys that DRIVER_CANCEL cancelled in dead processes, before newer requests are taken."""
        try:
            for dead in await self._others():
                if not dead.writer.process.is_alive():
                    await self._forget([each for each in dead.requests if each.action == Action.DRIVER_CANCEL.value])
        except JournalError as error:
            log.warning("called-off requests not read", error=str(error))
        except Exception:
            log.exception("called-off requests not read")

    async def _let_out_answers(self) -> None:
        if self._has_taken:
            await self._until(SETTLED_AFTER)
            await self._core_is_up.wait()
            self._open_output()
        self._recovered.may_be_answered.set()

    async def _others(self) -> list[_Dead]:
        me = Process.current()
        requests = await self._journal.open_requests()
        return [
            _Dead(writer=writer, requests=[request for request in requests if request.writer == writer.process])
            for writer in await self._journal.writers()
            if writer.process != me
        ]

    async def _settle_if_possible(self, dead: _Dead) -> None:
        """Deal with the requests of one dead process; a failing journal is logged, and the next process comes."""
        try:
            await self._settle(dead)
        except JournalError as error:
            log.warning("unanswered requests not recovered", pid=dead.writer.process.pid, error=str(error))

    async def _settle(self, dead: _Dead) -> None:
        process = dead.writer.process
        until = self._now() + _LINGER_SECONDS
        while process.is_alive():
            if self._now() > until:
                return  # another driver of the same NAME, in its own right
            await asyncio.sleep(0.1)
        every = await self._journal.open_requests()
        self._note(every)
        left = [each for each in every if each.writer == process and each.id not in self._dealt_with]
        called_off = [request for request in left if request.action == Action.DRIVER_CANCEL.value]
        await self._forget(called_off)
        replaced = [request for request in left if self._is_replaced(request)]
        for request in replaced:
            self._close(request)
        left = [request for request in left if request not in called_off and request not in replaced]
        again = [request for request in left if self._may_repeat(dead.writer, request)]
        await self._repeat(again)
        left = [request for request in left if request not in again]
        looked_for = [request for request in left if self._may_look_for(dead.writer, request)]
        await self._look_for(looked_for)
        left = [request for request in left if request not in looked_for]
        if self._hand_over is not None and dead.writer.parent != Process.parent():
            await self._hand_over(left)
        else:
            await self._fail(left)
        await self._journal.forget_writer(process)

    def _note(self, requests: list[OpenRequest]) -> None:
        """Remember the requests of all dead processes, before any of them is answered and its record removed."""
        self._asked.update((each.id, msgspec.structs.replace(each, payload=b"")) for each in requests)

    def _is_replaced(self, request: OpenRequest) -> bool:
        """True when the same oned has sent a newer request for the VM, so that it awaits no answer to this one.

        Carrying out the older of two requests that dead processes left would undo the newer one, answered or not.
        """
        parent = self._parents.get(request.writer)
        return any(
            other.vm_id == request.vm_id
            and other.id > request.id
            and other.action != Action.DRIVER_CANCEL.value
            and self._parents.get(other.writer) == parent
            and replaces(Action(other.action), Action(request.action))
            for other in self._asked.values()
        )

    def _may_repeat(self, writer: Writer, request: OpenRequest) -> bool:
        return request.takers < MOST_TAKERS and self._is_restart(writer, request)

    def _may_look_for(self, writer: Writer, request: OpenRequest) -> bool:
        return MOST_TAKERS <= request.takers < MOST_LOOKERS and self._is_restart(writer, request)

    def _is_restart(self, writer: Writer, request: OpenRequest) -> bool:
        """True when the same oned started both processes within a minute, and repeating the request is harmless."""
        if not request.payload or Action(request.action) not in CREATES_OR_DESTROYS:
            return False
        last_sign = max(writer.seen_at, request.opened_at)
        return writer.parent == Process.parent() and 0 <= self._clock() - last_sign <= RESTART_SECONDS

    async def _forget(self, requests: list[OpenRequest]) -> None:
        """Remove cancelled requests without an answer; the instances of their deploys become debts."""
        for request in requests:
            await self._debts.forget_called_off(as_sent(request))
            self._close(request)

    def _close(self, request: OpenRequest) -> None:
        self._dealt_with.add(request.id)  # the record stays until the journal has written its removal
        self._journal.close_request(request.id)

    async def _repeat(self, requests: list[OpenRequest]) -> None:
        try:
            for request in requests:
                await self._take_over(request)
        finally:
            await self._let_out_answers()

    async def _take_over(self, request: OpenRequest) -> None:
        # Ours from now on: if this process dies too, the request is still recorded once, not twice.
        self._has_taken = True
        try:
            await self._journal.take_request(request.id)
        except JournalError as error:
            log.warning("request not taken over", action=request.action, vm=request.vm_id, error=str(error))
            await self._fail([request])  # oned is answered in any case
            return
        log.info("request taken over", action=request.action, vm=request.vm_id)
        self._dispatcher.take_over(as_sent(request), number=request.id, requested_at=request.opened_at)

    async def _look_for(self, requests: list[OpenRequest]) -> None:
        """Answer requests that MOST_TAKERS processes have begun by what the cloud shows: most were carried out."""
        waiting = [(each, self._recovered.await_newer(each.vm_id, Action(each.action))) for each in requests]
        if not waiting:
            return
        await self._until(FAILURES_AFTER)
        await self._core_is_up.wait()
        self._open_output()
        for request, newer in waiting:
            if newer.is_superseded:
                self._close(request)
                continue
            try:
                await self._journal.take_request(request.id)
            except JournalError as error:
                log.warning(
                    "outcome of a request not looked for", action=request.action, vm=request.vm_id, error=str(error)
                )
                await self._fail([request])
                continue
            log.info("outcome of a request looked for", action=request.action, vm=request.vm_id, takers=request.takers)
            self._dispatcher.settle(as_sent(request), number=request.id)

    async def _fail(self, requests: list[OpenRequest]) -> None:
        waiting = [(each, self._recovered.await_newer(each.vm_id, Action(each.action))) for each in requests]
        if waiting:
            await self._until(FAILURES_AFTER)
            await self._core_is_up.wait()
            self._open_output()
        for request, newer in waiting:
            if newer.is_superseded:
                self._close(request)
            else:
                self._dealt_with.add(request.id)
                await self._recovered.fail(
                    as_sent(request), UNREPEATED, number=request.id, requested_at=request.opened_at
                )

    async def _until(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, self._begun + seconds - self._now()))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def show_life(self) -> None:
        """Record in the journal every SIGN_OF_LIFE_SECONDS that this process lives."""
        while True:
            await asyncio.sleep(SIGN_OF_LIFE_SECONDS)
            try:
                await self._journal.show_life()
            except JournalError as error:
                log.warning("sign of life not written", error=str(error))


def _stumbled(error: BaseException, pause: float) -> None:
    log.error("unanswered requests not recovered, tried again", seconds=pause, exc_info=error)


def as_sent(request: OpenRequest) -> Request:
    """Return a request of the journal in the form in which oned sent it."""
    return Request(
        action=Action(request.action),
        vm_id=request.vm_id,
        payload=request.payload,
        dialect=request.dialect,
    )
