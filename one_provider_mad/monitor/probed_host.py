"""Report on one host from the output of its probes, at their periods."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import structlog

from one_provider_mad.domain import Value
from one_provider_mad.errors import internal_error
from one_provider_mad.monitor.probe_folders import (
    BEACON,
    FIGURES,
    HOST,
    RESULTS,
    SNAPSHOTS,
    STATE,
    SYSTEM,
    TREES,
    Tree,
)
from one_provider_mad.monitor.settings import CHECK_SECONDS, ReportPeriods
from one_provider_mad.protocol.im_messages import Kind, StartMonitor
from one_provider_mad.tasks import is_cancelled
from one_provider_mad.template_text.adapting_writer import attribute
from one_provider_mad.template_text.lenient_reader import split_attributes

log = structlog.get_logger()

ERROR = "PROVIDER_ERROR"
"""The attribute of the host that names failing probes, `-` while all work."""

_SYNC = frozenset({"SYNC_STATE", "MISSING_STATE"})
"""Attributes that make a report of VM states one of all VMs."""

_SNAPSHOT_SECONDS = 60.0
"""Period of vm/snapshot, which monitord does not send (monitord-client.rb)."""

_STUMBLE_SECONDS = 10.0
"""Longest pause after a defect; monitord waits for three minutes."""

_UNREAD_SECONDS = 1.0
"""Pause until it is checked again whether monitord has read the last message."""

_LARGE = 64 * 1024


class Printed(Value, frozen=True, kw_only=True):
    """Output of the probes of a folder.

    Attributes:
        text: all of it, in the order of the files' names.
        errors: of each failed probe, one line for people and further lines for the log.
        is_complete: every probe has printed, now or, where old output may be sent again, earlier.
    """

    text: str
    errors: tuple[str, ...] = ()
    is_complete: bool = True


class ProbeRuns(Protocol):
    """Runs the probes of a host, and knows which of them fail (monitor/probes.py)."""

    async def print_tree(self, tree: Tree, request: StartMonitor) -> Printed:
        """Run one folder; failures are noted."""

    def note(self, host_id: int, folder: str, errors: tuple[str, ...]) -> None:
        """Note the failures in a folder, () for none."""

    def errors(self, host_id: int) -> tuple[str, ...]:
        """Return all present failures of a host, a line each."""

    def is_error_due(self, host_id: int) -> bool:
        """True when probes have failed for so long that the configuration wants the host in ERROR."""


class MessageSender(Protocol):
    """Writes messages to monitord (monitor/sender.py)."""

    def is_waiting(self, kind: Kind, host_id: int) -> bool:
        """True while monitord has not read the last such message about this host."""

    def send(self, kind: Kind, host_id: int, text: str = "", *, is_success: bool = True) -> None:
        """Write a short message at once."""

    async def send_long(self, kind: Kind, host_id: int, text: str) -> None:
        """Write a message that may be long; the loop goes on meanwhile."""


class ProbedHost:
    """The reports on one host.

    Args:
        runs: runs its probes.
        request: monitord's request.
        sender: writes messages.
        printed: latest output about the host; kept up to date.
        on_reported: called once every folder has run.
    """

    def __init__(
        self,
        runs: ProbeRuns,
        request: StartMonitor,
        *,
        sender: MessageSender,
        printed: dict[Kind, str],
        on_reported: Callable[[], None],
    ) -> None:
        self._runs = runs
        self._request = request
        self._sender = sender
        self._printed = printed
        self._on_reported = on_reported
        self._unreported = {tree.folder for tree in TREES}
        self._in_order = asyncio.Lock()
        # A host that is new, or was in ERROR, is not monitored before a SYSTEM_HOST (decision 20), and the slowest
        # probe takes a minute. HYPERVISOR is left to the probes: a value from here would overwrite theirs.
        self._owes_system = True

    async def report(self, report_periods: Callable[[], ReportPeriods]) -> None:
        """Report until cancelled, at the periods in force."""
        asked = self._request.periods
        periods: dict[Tree, Callable[[], float]] = {
            SYSTEM: lambda: report_periods().system,
            HOST: lambda: asked.monitor_host,
            BEACON: lambda: asked.beacon_host,
            STATE: lambda: report_periods().state,
            FIGURES: lambda: report_periods().figures,
            SNAPSHOTS: lambda: _SNAPSHOT_SECONDS,
            RESULTS: lambda: asked.exec_vm,
        }
        async with asyncio.TaskGroup() as group:
            group.create_task(
                self._repeat("heartbeat", self._beat, lambda: report_periods().heartbeat), name="heartbeat"
            )
            for tree, period in periods.items():
                turn = partial(self._tell, tree)
                group.create_task(self._repeat(tree.folder, turn, period), name=f"probes {tree.folder}")

    async def _repeat(self, name: str, work: Callable[[], Awaitable[bool]], period: Callable[[], float]) -> None:
        """Run work at its period, never twice at once; a defect is reported and stops nothing else."""
        loop = asyncio.get_running_loop()
        while True:
            begun, limit, is_done = loop.time(), math.inf, True
            try:
                is_done = await work()
                self._note_defect(name, ())
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled(error):
                    raise
                log.exception("probes failed, and go on", host=self._request.host_id, folder=name)
                self._note_defect(name, (f"{name}: {internal_error(error)}",))
                limit = _STUMBLE_SECONDS
            if is_done:
                self._note_reported(name)
            else:
                limit = _UNREAD_SECONDS
            await asyncio.sleep(0)  # a turn for the others, also where the work took longer than its period
            while (left := begun + min(period(), limit) - loop.time()) > 0:  # noqa: ASYNC110 - the period may change
                await asyncio.sleep(min(left, CHECK_SECONDS))

    def _note_defect(self, name: str, problems: tuple[str, ...]) -> None:
        host_id = self._request.host_id
        was_in_order = not self._runs.errors(host_id)
        self._runs.note(host_id, f"{name}, said", problems)
        if not was_in_order and not self._runs.errors(host_id):
            self._owes_system = True  # nothing else takes a host out of ERROR

    def _note_reported(self, name: str) -> None:
        if name in self._unreported:
            self._unreported.discard(name)
            if not self._unreported:
                self._on_reported()

    async def _beat(self) -> bool:
        """Send a sign of life without waiting for probes: their last output about the host, with the failures."""
        if self._owes_system and not self._runs.is_error_due(self._request.host_id):
            await self._tell_host(Kind.SYSTEM_HOST)
        await self._tell_host(Kind.MONITOR_HOST)
        return True

    async def _tell(self, tree: Tree) -> bool:
        """Run a folder, and send its output.

        Returns:
            False while its last output is unread: then it does not run, so nothing piles up, or is lost.
        """
        host_id = self._request.host_id
        if self._sender.is_waiting(tree.kind, host_id):
            return False
        was_in_order = not self._runs.errors(host_id)
        printed = await self._runs.print_tree(tree, self._request)
        if tree in (SYSTEM, HOST):
            self._owes_system = self._owes_system or tree is SYSTEM
            self._printed[tree.kind] = printed.text
            await self._tell_host(tree.kind)
        else:
            # A report of all VMs that lacks those of a failed probe would power these off.
            is_said = printed.is_complete or tree is not STATE
            text = printed.text if is_said else await _without_sync(printed.text)
            if text.strip():
                async with self._in_order:
                    await self._sender.send_long(tree.kind, host_id, text)
        if not was_in_order and not self._runs.errors(host_id) and tree is not SYSTEM:
            self._owes_system = True  # as above
            await self._tell_host(Kind.SYSTEM_HOST)
        return True

    async def _tell_host(self, kind: Kind) -> None:
        host_id = self._request.host_id
        async with self._in_order:  # a long text is packed meanwhile, and the newest must come last
            is_error_due = self._runs.is_error_due(host_id)
            if self._sender.is_waiting(Kind.MONITOR_HOST if is_error_due else kind, host_id):
                return
            errors = self._runs.errors(host_id)
            if is_error_due:
                self._sender.send(Kind.MONITOR_HOST, host_id, "; ".join(errors), is_success=False)
                return
            await self._sender.send_long(kind, host_id, joined(self._printed.get(kind, ""), errors))
            if kind is Kind.SYSTEM_HOST:
                self._owes_system = False


def joined(text: str, errors: tuple[str, ...]) -> str:
    """Return the probes' output with the attribute that names failures."""
    return f"{text.rstrip()}\n{attribute(ERROR, '; '.join(errors) or '-')}\n".lstrip("\n")


async def split(text: str) -> list[tuple[str, str]] | str:
    """Return the attributes of a template text, by name and as written; of other text, the part that is none."""
    if len(text) < _LARGE:
        return split_attributes(f"{text}\n")
    return await asyncio.to_thread(split_attributes, f"{text}\n")


async def _without_sync(text: str) -> str:
    attributes = await split(text)
    if isinstance(attributes, str):
        return ""
    return "".join(f"{written}\n" for name, written in attributes if name not in _SYNC)
