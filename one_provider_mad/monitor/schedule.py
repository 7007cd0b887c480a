"""One task for each host of monitord: send each report when it is due, without waiting for the cloud."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from itertools import chain

import msgspec
import structlog

from one_provider_mad.domain import DeployId, Instance, VmId
from one_provider_mad.errors import MadError
from one_provider_mad.monitor.changes import Changes
from one_provider_mad.monitor.cloud_source import CloudSource
from one_provider_mad.monitor.costs import with_costs
from one_provider_mad.monitor.host import Load, configured_capacity, report_of
from one_provider_mad.monitor.host_attributes import AGAIN_SECONDS, DEFAULT_PRIORITY, HostAttributes
from one_provider_mad.monitor.inference import InferredVm
from one_provider_mad.monitor.news import News, last_words
from one_provider_mad.monitor.sender import Sender
from one_provider_mad.monitor.settings import CHECK_SECONDS, MonitorSettings, ReportPeriods
from one_provider_mad.monitor.sweep import Sweep, Sweeper, in_thread_if_large, retrieve_exception
from one_provider_mad.protocol import reports
from one_provider_mad.protocol.im_messages import Kind, StartMonitor
from one_provider_mad.protocol.reports import FiguresText, HostReport, VmFigures

log = structlog.get_logger()

FIGURES_PAUSE = 0.5
"""Seconds between two MONITOR_VM messages of 200 VMs, of any hosts: while oned writes 200 rows, everything else waits
for its database (a fifth of a second on a small machine)."""

_SHARE_OF_PERIOD = 0.8
"""Part of `vm_period` within which all of a host's MONITOR_VM messages are sent; if there are many, the pauses between
them get shorter."""


_TICK = 0.001
"""Shortest wait of a schedule in seconds, so that rounding never makes it wait for no time at all."""

_AGAIN = 1.0
"""Seconds until a message is tried again while monitord has not read the last one of its kind."""


class Due:
    """The next time of something periodic.

    Args:
        now: its first occurrence.
    """

    def __init__(self, now: float) -> None:
        self.at = now

    def take(self, now: float, period: float) -> bool:
        """Return True if the time has come, and set the next time one period later; missed times are skipped."""
        if now < self.at:
            self.at = min(self.at, now + period)  # an edit of the configuration may have shortened the period
            return False
        self.at = max(self.at + period, now)
        return True


class HostSchedule:
    """Sends the reports on one host, each when it is due.

    Args:
        request: monitord's request.
        sweeper: lists the cloud.
        source: the configuration.
        sender: writes messages.
        host_attributes: tells what to write of HOSTNAME, PRIORITY and VERSION.
        trouble: an error in monitord's request, shown in PROVIDER_ERROR of the host; "" for none.
    """

    def __init__(
        self,
        request: StartMonitor,
        *,
        sweeper: Sweeper,
        source: CloudSource,
        sender: Sender,
        host_attributes: HostAttributes,
        trouble: str = "",
    ) -> None:
        self.request = request
        self._sweeper = sweeper
        self._source = source
        self._sender = sender
        self._host_attributes = host_attributes
        self._stale_names = sweeper.stale_names
        self._trouble = trouble
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._heartbeat, self._system, self._states_due = Due(now), Due(now), Due(now)
        self._sync, self._figures = Due(now), Due(now)
        self._news, self._changes = News(), Changes()
        self._sweeping: asyncio.Task[Sweep] | None = None
        self._sweep: Sweep | None = None
        self._error = sweeper.error
        self._is_in_error = False
        self._sent_system_host: HostReport | None = None
        self._sent_system_host_at = 0.0
        self._written_priority = ""
        self._own_due_at = now
        self._lines: deque[FiguresText] = deque()
        self._line_pause = FIGURES_PAUSE
        self.has_reported = asyncio.Event()

    async def run(self) -> None:
        """Report until cancelled, or until the configuration names a provider that runs probe scripts."""
        try:
            while self._source.probes() is None:
                report_periods = self._source.report_settings().monitor.report_periods(self.request.periods)
                await self._send_due(report_periods)
                if self._sweeping is not None and self._sweeping.done():
                    await self._take_sweep(self._sweeping, report_periods)
                await self._wait()
        finally:
            if self._sweeping is not None:
                self._sweeping.cancel()  # this cancels only the wait: other hosts share the sweep

    async def _send_due(self, report_periods: ReportPeriods) -> None:
        now = self._loop.time()
        if self._system.take(now, report_periods.system):
            await self._send_system_host()
        if self._heartbeat.take(now, report_periods.heartbeat):
            self._send_monitor_host()
        if self._sweeping is None and self._states_due.take(now, report_periods.state):
            self._sweeping = asyncio.create_task(self._sweeper.sweep(), name=f"sweep for host {self.request.host_id}")
            self._sweeping.add_done_callback(retrieve_exception)
        if self._lines and now >= self._sender.figures_at and self._is_waiting(Kind.MONITOR_VM):
            self._sender.figures_at = now + _AGAIN
        elif self._lines and now >= self._sender.figures_at:
            line = self._lines.popleft()
            share = len(line.vms) / reports.VMS_IN_A_LINE
            self._sender.figures_at = now + share * self._line_pause
            await self._send_long(Kind.MONITOR_VM, line.text)
            for vm in line.vms:
                self._stale_names.reported(vm.vm_id, vm.attributes, vm.usage)

    async def _wait(self) -> None:
        times = [self._heartbeat.at, self._system.at]
        if self._sweeping is None:
            times.append(self._states_due.at)
        if self._lines:
            times.append(self._sender.figures_at)
        pause = min(CHECK_SECONDS, max(_TICK, min(times) - self._loop.time()))
        if self._sweeping is None:
            await asyncio.sleep(pause)
        else:
            await asyncio.wait([self._sweeping], timeout=pause)

    # The host

    def _report(self) -> HostReport:
        sweep = self._sweep
        return report_of(
            self._source.report_settings(),
            sweep.capacities.get(self.request.host_id)
            if sweep
            else configured_capacity(self._source.report_settings().capacity),
            sweep.load(self.request.host_id) if sweep else Load(),
            wilds=sweep.wilds if sweep else (),
            error=self._error or self._trouble,
            warning=sweep.warning if sweep else "",
            costs=self._sweeper.costs.of_host(self.request.host_id),
        )

    async def _send_system_host(self, own: Mapping[str, str] | None = None) -> None:
        """Send SYSTEM_HOST, unless the host is to be in ERROR: nothing else makes a host MONITORED (decision 20).

        Args:
            own: HOSTNAME, PRIORITY and VERSION as far as they are to be written; None to ask OpenNebula first.
        """
        self._enter_error_if_due()
        if self._is_in_error:
            return
        if self._is_waiting(Kind.SYSTEM_HOST):
            self._system.at = self._loop.time() + _AGAIN
            return
        if own is None:
            own = await self._own_attributes()
        report = self._report()
        self._sent_system_host, self._sent_system_host_at = report, self._loop.time()
        report = msgspec.structs.replace(report, own=own)
        await self._send_long(
            Kind.SYSTEM_HOST, await in_thread_if_large(len(report.wilds), lambda: reports.host_system(report))
        )

    async def _own_attributes(self) -> Mapping[str, str]:
        """Return HOSTNAME, PRIORITY and VERSION as far as they are to be written now."""
        priority = self._sweeper.priority_text
        own = await self._host_attributes.to_write(self.request.host_id, name=self.request.host, priority=priority)
        self._own_due_at = self._loop.time() + AGAIN_SECONDS
        self._written_priority = (priority or DEFAULT_PRIORITY) if own is not None else ""
        return own or {}

    async def _own_news(self) -> Mapping[str, str] | None:
        """Return what is to be written after an edit of PRIORITY, or once OpenNebula can be asked; else None."""
        is_news = self._written_priority != (self._sweeper.priority_text or DEFAULT_PRIORITY)
        if not is_news or not self._host_attributes.is_known or self._loop.time() < self._own_due_at:
            return None
        return await self._own_attributes() or None

    def _send_monitor_host(self) -> None:
        if not self._is_waiting(Kind.MONITOR_HOST):
            self._sender.send(Kind.MONITOR_HOST, self.request.host_id, reports.host_monitor(self._report()))

    def _enter_error_if_due(self) -> None:
        """Send a failed MONITOR_HOST, which makes the host ERROR, if the cloud failed for `host_error_after`."""
        limit, since = self._source.report_settings().monitor.host_error_after, self._sweeper.failing_since
        if limit and since is not None and not self._is_in_error and self._loop.time() - since >= limit:
            self._is_in_error = True
            self._sender.send(Kind.MONITOR_HOST, self.request.host_id, self._sweeper.error, is_success=False)

    def _is_waiting(self, kind: Kind) -> bool:
        return self._sender.is_waiting(kind, self.request.host_id)

    async def _send_long(self, kind: Kind, text: str) -> None:
        if text:
            await self._sender.send_long(kind, self.request.host_id, text)

    # Reporting sweeps

    async def _take_sweep(self, sweeping: asyncio.Task[Sweep], report_periods: ReportPeriods) -> None:
        self._sweeping = None
        try:
            sweep = sweeping.result()
        except MadError as error:
            await self._handle_failed_sweep(str(error))
        except Exception as error:
            log.exception("sweep failed unexpectedly", host=self.request.host_id)
            await self._handle_failed_sweep(
                f"internal error ({type(error).__name__}), the driver's log has the details"
            )
        else:
            await self._report_vms(sweep, report_periods)
        self.has_reported.set()

    async def _handle_failed_sweep(self, sentence: str) -> None:
        """After a failed sweep report no VM states, and show the error on the host."""
        is_news = sentence != self._error
        self._error = sentence
        self._enter_error_if_due()
        if is_news and not self._is_in_error:
            await self._send_system_host()
            self._send_monitor_host()

    async def _report_vms(self, sweep: Sweep, report_periods: ReportPeriods) -> None:
        is_recovery = bool(self._error) or self._is_in_error
        before, self._sweep = self._sweep, sweep
        self._error, self._is_in_error = "", False
        now = self._loop.time()
        if is_recovery:
            self._sync.at = now
        own: Mapping[str, str] | None = None
        if is_recovery or self._has_host_changed(now, report_periods) or (own := await self._own_news()):
            await self._send_system_host(own)
            self._send_monitor_host()
        vms = sweep.vms(self.request.host_id)
        if not self._is_waiting(Kind.STATE_VM):
            await self._send_states(sweep, vms, report_periods, now)
        await self._queue_figures(sweep, vms, report_periods, now)
        if before is not None and before is not sweep:
            await in_thread_if_large(len(vms), lambda: before.free_vms(self.request.host_id))

    async def _queue_figures(
        self, sweep: Sweep, vms: list[InferredVm], report_periods: ReportPeriods, now: float
    ) -> None:
        """Queue the figures of all VMs when they are due, and those of VMs with news at once.

        A person waits for the address to log in to, and has two minutes to save what is on a spot instance. The lines
        that are queued already are written anew, or an old address would follow the new one.
        """
        changed = await in_thread_if_large(len(vms), lambda: self._news.changed(vms))
        if not self._lines and self._figures.take(now, report_periods.figures):
            self._lines.extend(await in_thread_if_large(len(vms), lambda: self._figures_of(sweep)))
            self._line_pause = min(FIGURES_PAUSE, _SHARE_OF_PERIOD * report_periods.figures / max(1, len(self._lines)))
        elif changed:
            left = {vm.vm_id for line in self._lines for vm in line.vms} - changed
            first = await in_thread_if_large(len(vms), lambda: self._figures_of(sweep, changed))
            rest = await in_thread_if_large(len(vms), lambda: self._figures_of(sweep, left))
            self._lines = deque((*first, *rest))

    async def _send_states(
        self, sweep: Sweep, vms: list[InferredVm], report_periods: ReportPeriods, now: float
    ) -> None:
        settings = self._source.report_settings().monitor
        is_synced = self.request.host_id not in sweep.inference.unsynced and self._sync.take(now, report_periods.sync)
        text = await in_thread_if_large(len(vms), lambda: self._states(sweep, settings, is_synced=is_synced))
        await self._send_long(Kind.STATE_VM, text)

    def _has_host_changed(self, now: float, report_periods: ReportPeriods) -> bool:
        """True if capacity, attributes or, after a while, wild instances have changed since the last SYSTEM_HOST."""
        said, report = self._sent_system_host, self._report()
        if said is None or _basics(said) != _basics(report):
            return True
        return said.wilds != report.wilds and now - self._sent_system_host_at >= min(
            report_periods.heartbeat, 10 * report_periods.state
        )

    def _states(self, sweep: Sweep, settings: MonitorSettings, *, is_synced: bool) -> str:
        vms = sweep.vms(self.request.host_id)
        answered, now = sweep.answered, sweep.inferred_at
        if not is_synced:
            return reports.vm_states(self._changes.states_to_report(vms, answered, now=now))
        self._changes.note_full_report(vms, answered, now=now)
        listed = [vm.state for vm in vms if vm.is_listed]
        return reports.synced_vm_states(listed, missing_state=settings.missing_word)

    def _figures_of(self, sweep: Sweep, only: Collection[VmId] | None = None) -> tuple[FiguresText, ...]:
        """Return the figures of VMs with an existing instance: OpenNebula would keep a row for any VM ID that it gets.

        For a VM without an instance, or with a parked one, the attributes reported earlier are removed.

        Args:
            sweep: a listing and what follows from it.
            only: these VMs; None for all.
        """
        present = (
            self._figures_of_present(vm, vm.instance)
            for vm in sweep.vms(self.request.host_id)
            if vm.instance is not None
            and vm.is_listed
            and not vm.instance.state.is_gone
            and (only is None or vm.state.vm_id in only)
        )
        removals = (
            self._removals_of(vm_id, deploy_id, kept)
            for vm_id, deploy_id, kept in self._without_instance(sweep)
            if only is None or vm_id in only
        )
        return reports.vm_figures(chain(present, removals))

    def _figures_of_present(self, vm: InferredVm, instance: Instance) -> VmFigures:
        attributes = with_costs(instance, self._sweeper.costs)
        return VmFigures(
            vm_id=vm.state.vm_id,
            deploy_id=vm.state.deploy_id,
            usage=instance.usage,
            attributes=attributes,
            stale=self._stale_names.of(vm.state.vm_id, attributes, instance.usage),
        )

    def _removals_of(self, vm_id: VmId, deploy_id: DeployId, kept: Mapping[str, str]) -> VmFigures:
        stale = self._stale_names.of(vm_id, kept, None)
        return VmFigures(vm_id=vm_id, deploy_id=deploy_id, attributes=kept, stale=stale)

    def _without_instance(self, sweep: Sweep) -> Iterator[tuple[VmId, DeployId, Mapping[str, str]]]:
        """Yield number and id of the host's VMs that are missing or whose instance is parked, and what they keep."""
        for vm in sweep.vms(self.request.host_id):
            if not vm.is_listed:
                kept = last_words(vm.instance.attributes) if vm.instance is not None else {}
                yield vm.state.vm_id, vm.state.deploy_id, kept
        for known in sweep.inference.memory.vms.values():
            if known.is_parked and known.host_id == self.request.host_id:
                yield known.vm_id, known.deploy_id, {}


def _basics(report: HostReport) -> tuple[object, ...]:
    # A new cost alone is no news; the first one is.
    return report.hypervisor, report.total_cpu, report.total_memory, report.attributes, tuple(report.costs)
