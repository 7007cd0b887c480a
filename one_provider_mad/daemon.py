"""The composition root of the action driver: connects the parts, and ends them in the right order."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from one_provider_mad.options import Options
from one_provider_mad.protocol.framing import Oversized
from one_provider_mad.protocol.messages import Action, Control, Malformed, Request, Severity
from one_provider_mad.protocol.vmm import parse_line, parse_oversized
from one_provider_mad.serving import CommonModules, Serving

if TYPE_CHECKING:
    from one_provider_mad.actions.dispatcher import Dispatcher
    from one_provider_mad.actions.settling import Settling
    from one_provider_mad.core_values import CoreValues
    from one_provider_mad.domain import EarlierHost, Instance, VmId, VmRequest
    from one_provider_mad.engines import Engines
    from one_provider_mad.idle.watcher import Watcher as IdleWatcher
    from one_provider_mad.journal.records import Debt
    from one_provider_mad.orphans.revalidation import Revalidation
    from one_provider_mad.over_budget.watcher import Watcher as LimitWatcher
    from one_provider_mad.xmlrpc.leadership import Leadership

PROGRAM = "one_vmm_provider"

_CANCEL_SECONDS = 0.3
"""Seconds for cancelled actions to end when the driver ends; the journal has the requests in any case."""

_CLOSE_SECONDS = 0.45
"""Seconds for the journal to record the answered requests when the driver ends; with _CANCEL_SECONDS and the period of
serving.py less than the second after which oned kills it."""

_SETTLED_SECONDS = 1.0
"""Seconds from the start to the first search for orphans, which requests of oned's precede."""

_JOURNAL_SECONDS = 2.0
"""Seconds that requests wait for the journal to open; after them requests are accepted, and each tries to open it."""


def run(options: Options, *, has_stderr: bool, is_initialised: bool, begun: bytes) -> int:
    """Serve until the end of input, and return the exit code.

    Args:
        options: ARGUMENTS.
        has_stderr: stderr was open at the start, so a person may be reading it.
        is_initialised: INIT came and was answered.
        begun: the input read so far, without INIT.
    """
    daemon = _Daemon(options, has_stderr=has_stderr, is_initialised=is_initialised)
    return asyncio.run(daemon.serve(begun))


class _Daemon(Serving[Request | Malformed]):
    def __init__(self, options: Options, *, has_stderr: bool, is_initialised: bool) -> None:
        super().__init__(options, has_stderr=has_stderr, is_initialised=is_initialised)
        self._dispatcher: Dispatcher | None = None
        self._engines: Engines | None = None
        self._begun_at = time.time()
        self._asks_opennebula = False
        self._revalidation: Revalidation | None = None
        self._settling: Settling | None = None
        self._core_values: CoreValues | None = None
        self._core_values_lock = asyncio.Lock()
        self._is_copy_told = False

    def _parse(self, line: bytes | Oversized) -> Request | Malformed | Control:
        return parse_oversized(line) if isinstance(line, Oversized) else parse_line(line)

    def _shows_core_is_up(self, asked: Request | Malformed) -> bool:
        # oned's timer sends POLLs while it starts (src/vmm/VirtualMachineManager.cc, timer_action).
        if isinstance(asked, Request):
            return asked.action is not Action.POLL
        return asked.word != Action.POLL.value

    def _short(self, asked: Request | Malformed) -> str:
        word = asked.action.value if isinstance(asked, Request) else asked.word
        blank = " " if asked.dialect.has_status_field else ""
        return "" if asked.vm_id is None else f"{word} {blank}{asked.vm_id}"

    def _accept(self, asked: Request | Malformed) -> None:
        if self._dispatcher is None:
            raise AssertionError("a request was accepted before the set-up")
        self._dispatcher.accept(asked)

    # Beginning

    async def _set_up(self) -> None:
        """Import the modules and open cloud and journal; requests wait until this returns."""
        modules = await self._imported(Modules)
        places = modules.Places.from_environment(os.environ)
        problem = self._begin_log(PROGRAM, modules, places)
        self._engines = modules.Engines(self._options, places, warn=self._warn)
        dispatcher = modules.Dispatcher(
            self._options,
            engines=self._engines,
            output=self._writer,
            clock=time.time,
            complete=self._complete,
            earlier_host=self._earlier_host,
        )
        self._writer.dropped = dispatcher.log_lines.dropped
        dispatcher.core_is_up = self._core.is_up
        self._settling = modules.Settling(
            dispatcher,
            self._engines,
            name=self._options.name,
            core_is_up=self._core.is_up,
            open_output=self._writer.open,
        )
        await self._open_journal(modules, self._engines, dispatcher)
        self._dispatcher = dispatcher
        if problem:
            self._warn(problem)
        await self._begin_metrics(PROGRAM, places, warn=self._warn, measure=dispatcher.measure)
        self._begin_to_take()
        if self._is_initialised:  # not for a person at a pipe
            # A front-end that restarts as a follower terminates nothing: the leader may use the instances of its debts.
            dispatcher.note_leader(is_elsewhere=True)
            self._start(partial(self._note_machine, self._engines), "note the machine")
            self._start(self._prepare_core_values, "core values")
            self._start(partial(self._know_opennebula, self._engines, dispatcher, self._settling), "know OpenNebula")
        dispatcher.debts.confirm = self._confirm
        self._start(partial(dispatcher.debts.pay_for_ever, dispatcher.lanes), "debts")
        self._start(partial(self._keep_budget, self._engines), "budget")

    async def _complete(self, request: VmRequest) -> VmRequest:
        """Complete a request with what only the local core knows (core_values.py). Raises RequestRefused."""
        return await (self._core_values or await self._open_core_values()).complete(request)

    async def _earlier_host(self, vm_id: VmId) -> EarlierHost | None:
        """Ask the local core for the host of another driver that has a VM's disk (core_values.py)."""
        return await (self._core_values or await self._open_core_values()).earlier_host(vm_id)

    async def _prepare_core_values(self) -> None:
        """Load what a create needs, so that the first one need not wait for it."""
        await self._open_core_values()

    async def _open_core_values(self) -> CoreValues:
        async with self._core_values_lock:
            if self._core_values is None:
                await asyncio.to_thread(import_module, "one_provider_mad.core_values")
                from one_provider_mad.core_values import CoreValues

                self._core_values = await asyncio.to_thread(CoreValues, os.environ, core_is_up=self._core.is_up)
            return self._core_values

    async def _know_opennebula(self, engines: Engines, dispatcher: Dispatcher, settling: Settling) -> None:
        """Watch which front-end leads, answer waiting VMs, search for orphans: all with oned's credentials only."""
        if not await self._may_ask_opennebula():
            dispatcher.note_leader(is_elsewhere=False)
            self._start(partial(settling.run, None), "settle")
            return
        await asyncio.to_thread(import_module, "one_provider_mad.xmlrpc.leadership")
        from one_provider_mad.xmlrpc.leadership import Leadership

        def lead(held: bool) -> None:  # noqa: FBT001 - Leadership's own form
            dispatcher.note_leader(is_elsewhere=held)
            settling.lead(leads=not held)

        self._asks_opennebula = True
        leadership = Leadership(os.environ, warn=self._warn)
        await asyncio.to_thread(import_module, "one_provider_mad.orphans.waiting")
        from one_provider_mad.orphans.waiting import WaitingVms
        from one_provider_mad.xmlrpc.local import LocalCore

        self._start(partial(self._watch_leadership, leadership, lead), "leadership")
        self._start(partial(settling.run, WaitingVms(LocalCore(os.environ))), "settle")
        self._start(partial(self._look_for_orphans, engines, dispatcher), "orphans")
        self._start(partial(self._watch_idle_vms, engines, dispatcher), "idle VMs")
        self._start(partial(self._watch_limits, engines, dispatcher), "limits of a month")

    async def _watch_leadership(self, leadership: Leadership, lead: Callable[[bool], None]) -> None:
        await self._core.is_up.wait()  # until then nothing answers, and the pauses between tries grow
        await leadership.watch(lead)

    async def _look_for_orphans(self, engines: Engines, dispatcher: Dispatcher) -> None:
        await asyncio.sleep(_SETTLED_SECONDS)
        await engines.is_journal_open.wait()
        if engines.is_verbatim:
            return
        await asyncio.to_thread(import_module, "one_provider_mad.orphans.documents")
        await asyncio.to_thread(import_module, "one_provider_mad.orphans.reconciler")
        from one_provider_mad.orphans.documents import LocalOpenNebula
        from one_provider_mad.orphans.machine import machine
        from one_provider_mad.orphans.reconciler import Reconciler

        opennebula = LocalOpenNebula(os.environ)
        reconciler = Reconciler(
            engines,
            opennebula,
            write_log=dispatcher.log_lines.write,
            is_busy=dispatcher.lanes.is_busy,
            clock=time.time,
            machine=machine,
            learn_release=self._learn_release,
            core_is_up=self._core.is_up,
        )
        self._revalidation = reconciler.revalidation
        try:
            await reconciler.run()
        finally:
            await opennebula.close()

    async def _watch_idle_vms(self, engines: Engines, dispatcher: Dispatcher) -> None:
        """Warn and power off VMs that nobody uses."""
        if await self._has_cloud(engines):
            await asyncio.to_thread(import_module, "one_provider_mad.idle.watcher")
            from one_provider_mad.idle.watcher import Watcher

            await self._watch_running_vms(Watcher, engines, dispatcher)

    async def _watch_limits(self, engines: Engines, dispatcher: Dispatcher) -> None:
        """Warn and power off VMs whose limit of a month is reached."""
        if await self._has_cloud(engines):
            await asyncio.to_thread(import_module, "one_provider_mad.over_budget.watcher")
            from one_provider_mad.over_budget.watcher import Watcher

            await self._watch_running_vms(Watcher, engines, dispatcher)

    async def _has_cloud(self, engines: Engines) -> bool:
        """Wait until the driver has settled, and return True unless it runs scripts."""
        await asyncio.sleep(_SETTLED_SECONDS)
        await engines.is_journal_open.wait()
        return not engines.is_verbatim

    async def _watch_running_vms(
        self, kind: type[IdleWatcher | LimitWatcher], engines: Engines, dispatcher: Dispatcher
    ) -> None:
        """Run a watcher, which may have OpenNebula power off VMs."""
        await asyncio.to_thread(import_module, "one_provider_mad.idle.core")
        from one_provider_mad.idle.core import IdleOpenNebula

        opennebula = IdleOpenNebula(os.environ)
        watcher = kind(
            engines,
            opennebula,
            name=self._options.name,
            write_log=dispatcher.log_lines.write,
            is_busy=dispatcher.lanes.is_busy,
            clock=time.time,
            learn_release=self._learn_release,
            core_is_up=self._core.is_up,
        )
        try:
            await watcher.run()
        finally:
            await opennebula.close()

    def _learn_release(self, release: tuple[int, ...]) -> None:
        """Store OpenNebula's release. oned, which gave it, has read INIT's answer: unrequested lines are safe now."""
        if self._dispatcher is not None:
            self._dispatcher.log_lines.learn_release(release)
            self._writer.open()

    async def _keep_budget(self, engines: Engines) -> None:
        """Keep the budget in line with the cloud and the ledger, also for instances that no action concerns."""
        await asyncio.sleep(_SETTLED_SECONDS)
        await engines.is_journal_open.wait()
        if engines.is_verbatim:
            return
        await asyncio.to_thread(import_module, "one_provider_mad.budget.keeping")
        from one_provider_mad.budget.keeping import keep

        await keep(engines.budget, warn=self._warn)

    async def _note_machine(self, engines: Engines) -> None:
        """Record this machine in the journal, so that a copy of the journal on another machine is noticed later."""
        await asyncio.sleep(_SETTLED_SECONDS)
        await engines.is_journal_open.wait()
        from one_provider_mad.errors import JournalError
        from one_provider_mad.orphans.machine import machine, note_machine

        if engines.journal is not None and not engines.is_verbatim:
            with suppress(JournalError):
                await note_machine(engines.journal, await asyncio.to_thread(machine))

    async def _confirm(self, debt: Debt, instance: Instance) -> None:
        """Check right before a debt's instance is terminated that no VM uses it, and that the journal is no copy.

        Raises:
            MadError: the instance must not be terminated, or that cannot be decided now.
        """
        from one_provider_mad.actions.debts import confirm_all_but_orphans
        from one_provider_mad.errors import CannotTell
        from one_provider_mad.orphans.machine import machine, note_machine

        journal = self._engines.journal if self._engines is not None else None
        if journal is None:
            return
        if debt.since < self._begun_at and not await note_machine(journal, await asyncio.to_thread(machine)):
            sentence = (
                "instances of earlier debts are not terminated: the journal comes from another machine (a restored or"
                " cloned front-end?); if this one has taken its place, run one-provider journal accept"
                f" {self._options.name}"
            )
            if not self._is_copy_told:
                self._is_copy_told = True
                self._warn(sentence)
            raise CannotTell(sentence)
        if self._revalidation is None:
            if self._asks_opennebula:
                raise CannotTell("the local OpenNebula has not answered yet whether a VM needs the instance")
            await confirm_all_but_orphans(debt, instance)
        elif debt.is_orphan:
            await self._revalidation.confirm(debt)
        elif debt.since < self._begun_at:
            await self._revalidation.refuse_needed(debt, instance.deploy_id)

    async def _open_journal(self, modules: Modules, engines: Engines, dispatcher: Dispatcher) -> None:
        """Open the journal and read its debts before requests are accepted, in at most _JOURNAL_SECONDS."""
        opening = asyncio.create_task(engines.open_journal(), name="open the journal")
        self._keep(opening)
        if not self._is_initialised:
            await asyncio.wait([opening], timeout=_JOURNAL_SECONDS)
            dispatcher.recovered.end()
            return
        ready = asyncio.Event()
        self._start_once(self._recover(modules, engines, dispatcher, ready), "recovery")
        await asyncio.wait([opening], timeout=_JOURNAL_SECONDS)
        if engines.journal is not None:
            await ready.wait()

    async def _recover(self, modules: Modules, engines: Engines, dispatcher: Dispatcher, ready: asyncio.Event) -> None:
        """Answer requests that earlier processes left unanswered (actions/recovery.py), once the journal is open."""
        await engines.is_journal_open.wait()
        if engines.journal is None:
            return
        recovery = modules.Recovery(
            engines.journal,
            dispatcher,
            open_output=self._writer.open,
            core_is_up=self._core.is_up,
            clock=time.time,
            hand_over=self._settling.take if self._settling is not None else None,
        )
        try:
            await recovery.forget_called_off()
        finally:
            ready.set()
        self._start(recovery.show_life, "signs of life")
        self._start(engines.journal.keep_small, "pruning of the journal")
        await recovery.run()

    def _warn(self, sentence: str) -> None:
        """Write a warning to this driver's log and to oned.log."""
        if self._dispatcher is not None:
            self._dispatcher.log_lines.write(Severity.WARNING, sentence)

    # Ending

    async def _drain(self) -> None:
        if self._dispatcher is not None:
            await self._dispatcher.lanes.drained()
        await self._writer.drained()

    def _hold(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.lanes.hold()

    async def _shut_down(self) -> None:
        if self._dispatcher is not None:
            await self._dispatcher.lanes.stop(_CANCEL_SECONDS)
        if self._engines is not None:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._engines.close()
            except TimeoutError:
                pass


class Modules(CommonModules):
    """The modules that are imported after INIT. Raises ImportError, or OSError for a file that cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        from one_provider_mad.actions.dispatcher import Dispatcher
        from one_provider_mad.actions.recovery import Recovery
        from one_provider_mad.actions.settling import Settling
        from one_provider_mad.engines import Engines

        self.Dispatcher = Dispatcher
        self.Recovery = Recovery
        self.Settling = Settling
        self.Engines = Engines
