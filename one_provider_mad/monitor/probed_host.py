"""Report on one host by running its probe scripts periodically and sending their output."""

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
"""The host's attribute that lists failing probes, `-` while all work."""

_SYNC = frozenset({"SYNC_STATE", "MISSING_STATE"})
"""Attributes by which OpenNebula takes a report of VM states for one of all VMs."""

_SNAPSHOT_SECONDS = 60.0
"""Period of the probes in vm/snapshot, in seconds; monitord sends none, and upstream's monitord-client.rb has this
one."""

_STUMBLE_SECONDS = 10.0
"""Most seconds until probes run again after an unexpected error; monitord waits three minutes for a sign of life."""

_UNREAD_SECONDS = 1.0
"""Seconds until another check whether monitord has read the last message."""

_LARGE = 64 * 1024


class Printed(Value, frozen=True, kw_only=True):
    """Output of all probes in a folder.

    Attributes:
        text: all of it, in the order of the files' names.
        errors: for each failed probe a text whose first line the host shows, and whose further lines go into the log.
        is_complete: True if `text` has output of every probe; a failed probe's earlier output counts if it may be sent
            again.
    """

    text: str
    errors: tuple[str, ...] = ()
    is_complete: bool = True


class ProbeRuns(Protocol):
    """Runs the probes of a host, and knows which of them fail (monitor/probes.py)."""

    async def print_tree(self, tree: Tree, request: StartMonitor) -> Printed:
        """Run the probes of one kind, and note failures."""

    def note(self, host_id: int, folder: str, errors: tuple[str, ...]) -> None:
        """Note which probes of a folder fail, () for none."""

    def errors(self, host_id: int) -> tuple[str, ...]:
        """Return one line for each probe of the host that fails now."""

    def is_error_due(self, host_id: int) -> bool:
        """True when probes have failed for so long that the configuration wants the host in ERROR."""


class MessageSender(Protocol):
    """Writes messages to monitord (monitor/sender.py)."""

    def is_waiting(self, kind: Kind, host_id: int) -> bool:
        """True while monitord has not read the last message of this kind about the host."""

    def send(self, kind: Kind, host_id: int, text: str = "", *, is_success: bool = True) -> None:
        """Write a short message at once."""

    async def send_long(self, kind: Kind, host_id: int, text: str) -> None:
        """Write a message that may be long, without blocking the event loop."""


class ProbedHost:
    """Reports on one host with its probes' output.

    Args:
        runs: runs its probes.
        request: monitord's request.
        sender: writes messages.
        printed: the probes' latest output about the host, by kind of message; updated here.
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
        self._needs_system_host = True

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
                self._repeat("heartbeat", self._send_sign_of_life, lambda: report_periods().heartbeat), name="heartbeat"
            )
            for tree, period in periods.items():
                turn = partial(self._run_and_send, tree)
                group.create_task(self._repeat(tree.folder, turn, period), name=f"probes {tree.folder}")

    async def _repeat(self, name: str, work: Callable[[], Awaitable[bool]], period: Callable[[], float]) -> None:
        """Call `work` periodically, never twice at once; after an unexpected error report it, and go on."""
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
            await asyncio.sleep(0)  # let other tasks run, even if the work took longer than its period
            while (left := begun + min(period(), limit) - loop.time()) > 0:  # noqa: ASYNC110 - the period may change
                await asyncio.sleep(min(left, CHECK_SECONDS))

    def _note_defect(self, name: str, problems: tuple[str, ...]) -> None:
        host_id = self._request.host_id
        was_in_order = not self._runs.errors(host_id)
        self._runs.note(host_id, f"{name}, said", problems)
        if not was_in_order and not self._runs.errors(host_id):
            self._needs_system_host = True  # only SYSTEM_HOST takes a host out of ERROR

    def _note_reported(self, name: str) -> None:
        if name in self._unreported:
            self._unreported.discard(name)
            if not self._unreported:
                self._on_reported()

    async def _send_sign_of_life(self) -> bool:
        """Send MONITOR_HOST, the sign of life, at once, with the probes' last output about the host and failures."""
        if self._needs_system_host and not self._runs.is_error_due(self._request.host_id):
            await self._send_host(Kind.SYSTEM_HOST)
        await self._send_host(Kind.MONITOR_HOST)
        return True

    async def _run_and_send(self, tree: Tree) -> bool:
        """Run the probes of one kind, and send their output.

        Returns:
            False if monitord has not read the last output yet; then the probes do not run.
        """
        host_id = self._request.host_id
        if self._sender.is_waiting(tree.kind, host_id):
            return False
        was_in_order = not self._runs.errors(host_id)
        printed = await self._runs.print_tree(tree, self._request)
        if tree in (SYSTEM, HOST):
            self._needs_system_host = self._needs_system_host or tree is SYSTEM
            self._printed[tree.kind] = printed.text
            await self._send_host(tree.kind)
        else:
            # OpenNebula would power off the VMs that a failed probe does not report, if the report were one of all VMs.
            is_sent_whole = printed.is_complete or tree is not STATE
            text = printed.text if is_sent_whole else await _without_sync(printed.text)
            if text.strip():
                async with self._in_order:
                    await self._sender.send_long(tree.kind, host_id, text)
        if not was_in_order and not self._runs.errors(host_id) and tree is not SYSTEM:
            self._needs_system_host = True  # only SYSTEM_HOST takes a host out of ERROR
            await self._send_host(Kind.SYSTEM_HOST)
        return True

    async def _send_host(self, kind: Kind) -> None:
        host_id = self._request.host_id
        async with self._in_order:  # messages are packed in threads, and must still be sent in order
            is_error_due = self._runs.is_error_due(host_id)
            if self._sender.is_waiting(Kind.MONITOR_HOST if is_error_due else kind, host_id):
                return
            errors = self._runs.errors(host_id)
            if is_error_due:
                self._sender.send(Kind.MONITOR_HOST, host_id, "; ".join(errors), is_success=False)
                return
            await self._sender.send_long(kind, host_id, with_failures(self._printed.get(kind, ""), errors))
            if kind is Kind.SYSTEM_HOST:
                self._needs_system_host = False


def with_failures(text: str, errors: tuple[str, ...]) -> str:
    """Return the probes' output with PROVIDER_ERROR, the attribute that lists failures, added."""
    return f"{text.rstrip()}\n{attribute(ERROR, '; '.join(errors) or '-')}\n".lstrip("\n")


async def split(text: str) -> list[tuple[str, str]] | str:
    """Return name and text of each attribute in a template text; of other text, return where it cannot be read."""
    if len(text) < _LARGE:
        return split_attributes(f"{text}\n")
    return await asyncio.to_thread(split_attributes, f"{text}\n")


async def _without_sync(text: str) -> str:
    attributes = await split(text)
    if isinstance(attributes, str):
        return ""
    return "".join(f"{written}\n" for name, written in attributes if name not in _SYNC)
