"""One task for each host of monitord: send each report when it is due, without waiting for the cloud."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from itertools import chain

import structlog

from one_provider_mad.domain import DeployId, Instance, VmId
from one_provider_mad.errors import MadError
from one_provider_mad.monitor.changes import Changes
from one_provider_mad.monitor.cloud_source import CloudSource
from one_provider_mad.monitor.host import Load, configured_capacity, report_of
from one_provider_mad.monitor.inference import SeenVm
from one_provider_mad.monitor.sender import Sender
from one_provider_mad.monitor.settings import CHECK_SECONDS, MonitorSettings, ReportPeriods
from one_provider_mad.monitor.sweep import Sweep, Sweeper, in_thread_if_large, retrieve_exception
from one_provider_mad.protocol import reports
from one_provider_mad.protocol.im_messages import Kind, StartMonitor
from one_provider_mad.protocol.reports import FiguresText, HostReport, VmFigures

log = structlog.get_logger()

FIGURES_PAUSE = 0.5
"""Seconds from a MONITOR_VM of 200 VMs to the next one, of any host: while oned writes 200 rows, others wait for its
database (a fifth of a second on a small machine)."""

_SHARE_OF_PERIOD = 0.8
"""Part of the period into which all lines of a round fit, with shorter pauses if need be."""


_TICK = 0.001
"""Shortest pause in seconds; being a millisecond late does no harm."""

_AGAIN = 1.0
"""Seconds until another try while monitord does not read."""


class Due:
    """A recurring time.

    Args:
        now: its first occurrence.
    """

    def __init__(self, now: float) -> None:
        self.at = now

    def take(self, now: float, period: float) -> bool:
        """True when it has come; then the next one is a period later, and missed ones are skipped."""
        if now < self.at:
            self.at = min(self.at, now + period)  # the period may have become shorter
            return False
        self.at = max(self.at + period, now)
        return True


class HostSchedule:
    """The reports on one host.

    Args:
        request: monitord's request.
        sweeper: lists the cloud.
        source: the configuration.
        sender: writes messages.
        trouble: an error in monitord's request, for the host to show; "" for none.
    """

    def __init__(
        self, request: StartMonitor, *, sweeper: Sweeper, source: CloudSource, sender: Sender, trouble: str = ""
    ) -> None:
        self.request = request
        self._sweeper = sweeper
        self._source = source
        self._sender = sender
        self._stale_names = sweeper.stale_names
        self._trouble = trouble
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._heartbeat, self._system, self._look = Due(now), Due(now), Due(now)
        self._sync, self._figures = Due(now), Due(now)
        self._changes = Changes()
        self._sweeping: asyncio.Task[Sweep] | None = None
        self._sweep: Sweep | None = None
        self._error = sweeper.error
        self._is_in_error = False
        self._said_system: HostReport | None = None
        self._said_system_at = 0.0
        self._lines: deque[FiguresText] = deque()
        self._line_pause = FIGURES_PAUSE
        self.has_reported = asyncio.Event()

    async def run(self) -> None:
        """Report until cancelled, or until probes take over."""
        try:
            while self._source.probes() is None:
                report_periods = self._source.report_settings().monitor.report_periods(self.request.periods)
                await self._say_what_is_due(report_periods)
                if self._sweeping is not None and self._sweeping.done():
                    await self._take_sweep(self._sweeping, report_periods)
                await self._wait()
        finally:
            if self._sweeping is not None:
                self._sweeping.cancel()  # only the wait for it: the sweep goes on

    async def _say_what_is_due(self, report_periods: ReportPeriods) -> None:
        now = self._loop.time()
        if self._system.take(now, report_periods.system):
            await self._say_system()
        if self._heartbeat.take(now, report_periods.heartbeat):
            self._say_monitor()
        if self._sweeping is None and self._look.take(now, report_periods.state):
            self._sweeping = asyncio.create_task(self._sweeper.sweep(), name=f"sweep for host {self.request.host_id}")
            self._sweeping.add_done_callback(retrieve_exception)
        if self._lines and now >= self._sender.figures_at and self._is_waiting(Kind.MONITOR_VM):
            self._sender.figures_at = now + _AGAIN
        elif self._lines and now >= self._sender.figures_at:
            line = self._lines.popleft()
            share = len(line.vms) / reports.VMS_IN_A_LINE
            self._sender.figures_at = now + share * self._line_pause
            await self._tell(Kind.MONITOR_VM, line.text)
            for vm in line.vms:
                self._stale_names.reported(vm.vm_id, vm.attributes, vm.usage)

    async def _wait(self) -> None:
        times = [self._heartbeat.at, self._system.at]
        if self._sweeping is None:
            times.append(self._look.at)
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
        )

    async def _say_system(self) -> None:
        """Send SYSTEM_HOST, unless the host is to be in ERROR: nothing else makes a host MONITORED (decision 20)."""
        self._enter_error_if_due()
        if self._is_in_error:
            return
        if self._is_waiting(Kind.SYSTEM_HOST):
            self._system.at = self._loop.time() + _AGAIN
            return
        report = self._report()
        self._said_system, self._said_system_at = report, self._loop.time()
        await self._tell(
            Kind.SYSTEM_HOST, await in_thread_if_large(len(report.wilds), lambda: reports.host_system(report))
        )

    def _say_monitor(self) -> None:
        if not self._is_waiting(Kind.MONITOR_HOST):
            self._sender.send(Kind.MONITOR_HOST, self.request.host_id, reports.host_monitor(self._report()))

    def _enter_error_if_due(self) -> None:
        """Only where the operator wants it: host hooks may delete every VM of a host in ERROR (decision 19)."""
        limit, since = self._source.report_settings().monitor.host_error_after, self._sweeper.failing_since
        if limit and since is not None and not self._is_in_error and self._loop.time() - since >= limit:
            self._is_in_error = True
            self._sender.send(Kind.MONITOR_HOST, self.request.host_id, self._sweeper.error, is_success=False)

    def _is_waiting(self, kind: Kind) -> bool:
        return self._sender.is_waiting(kind, self.request.host_id)

    async def _tell(self, kind: Kind, text: str) -> None:
        if text:
            await self._sender.send_long(kind, self.request.host_id, text)

    # Reporting sweeps

    async def _take_sweep(self, sweeping: asyncio.Task[Sweep], report_periods: ReportPeriods) -> None:
        self._sweeping = None
        try:
            sweep = sweeping.result()
        except MadError as error:
            await self._cannot_look(str(error))
        except Exception as error:
            log.exception("sweep failed unexpectedly", host=self.request.host_id)
            await self._cannot_look(f"internal error ({type(error).__name__}), the driver's log has the details")
        else:
            await self._report_vms(sweep, report_periods)
        self.has_reported.set()

    async def _cannot_look(self, sentence: str) -> None:
        """Hold the VM states, and show on the host that the cloud does not answer."""
        is_news = sentence != self._error
        self._error = sentence
        self._enter_error_if_due()
        if is_news and not self._is_in_error:
            await self._say_system()
            self._say_monitor()

    async def _report_vms(self, sweep: Sweep, report_periods: ReportPeriods) -> None:
        is_recovery = bool(self._error) or self._is_in_error
        before, self._sweep = self._sweep, sweep
        self._error, self._is_in_error = "", False
        now = self._loop.time()
        if is_recovery:
            self._sync.at = now
        if is_recovery or self._is_news_of_host(now, report_periods):
            await self._say_system()
            self._say_monitor()
        vms = sweep.vms(self.request.host_id)
        if not self._is_waiting(Kind.STATE_VM):
            await self._say_states(sweep, vms, report_periods, now)
        if not self._lines and self._figures.take(now, report_periods.figures):
            self._lines.extend(await in_thread_if_large(len(vms), lambda: self._figures_of(sweep)))
            self._line_pause = min(FIGURES_PAUSE, _SHARE_OF_PERIOD * report_periods.figures / max(1, len(self._lines)))
        if before is not None and before is not sweep:
            await in_thread_if_large(len(vms), lambda: before.let_go(self.request.host_id))

    async def _say_states(self, sweep: Sweep, vms: list[SeenVm], report_periods: ReportPeriods, now: float) -> None:
        settings = self._source.report_settings().monitor
        is_synced = self.request.host_id not in sweep.inference.unsynced and self._sync.take(now, report_periods.sync)
        text = await in_thread_if_large(len(vms), lambda: self._states(sweep, settings, is_synced=is_synced))
        await self._tell(Kind.STATE_VM, text)

    def _is_news_of_host(self, now: float, report_periods: ReportPeriods) -> bool:
        """True when capacity or warnings have changed; for wild instances, which come and go, after a while."""
        said, report = self._said_system, self._report()
        if said is None or _basics(said) != _basics(report):
            return True
        return said.wilds != report.wilds and now - self._said_system_at >= min(
            report_periods.heartbeat, 10 * report_periods.state
        )

    def _states(self, sweep: Sweep, settings: MonitorSettings, *, is_synced: bool) -> str:
        vms = sweep.vms(self.request.host_id)
        answered, now = sweep.answered, sweep.inferred_at
        if not is_synced:
            return reports.vm_states(self._changes.see(vms, answered, now=now))
        self._changes.all_reported(vms, answered, now=now)
        listed = [vm.state for vm in vms if vm.is_listed]
        return reports.synced_vm_states(listed, missing_state=settings.missing_word)

    def _figures_of(self, sweep: Sweep) -> tuple[FiguresText, ...]:
        """Return figures of existing instances only: OpenNebula keeps a row for any VM ID that it gets.

        For a VM whose instance is gone, or stopped for an undeploy, reported attributes are taken back.
        """
        there = (
            self._figures_there(vm, vm.instance)
            for vm in sweep.vms(self.request.host_id)
            if vm.instance is not None and vm.is_listed and not vm.instance.state.is_gone
        )
        left = (self._figures_left(vm_id, deploy_id) for vm_id, deploy_id in self._left(sweep))
        return reports.vm_figures(chain(there, left))

    def _figures_there(self, vm: SeenVm, instance: Instance) -> VmFigures:
        return VmFigures(
            vm_id=vm.state.vm_id,
            deploy_id=vm.state.deploy_id,
            usage=instance.usage,
            attributes=instance.attributes,
            stale=self._stale_names.of(vm.state.vm_id, instance.attributes, instance.usage),
        )

    def _figures_left(self, vm_id: VmId, deploy_id: DeployId) -> VmFigures:
        return VmFigures(vm_id=vm_id, deploy_id=deploy_id, stale=self._stale_names.of(vm_id, {}, None))

    def _left(self, sweep: Sweep) -> Iterator[tuple[VmId, DeployId]]:
        """Yield the VMs of this host without an instance, or with one that is stopped for an undeploy."""
        for vm in sweep.vms(self.request.host_id):
            if not vm.is_listed:
                yield vm.state.vm_id, vm.state.deploy_id
        for known in sweep.inference.memory.vms.values():
            if known.is_parked and known.host_id == self.request.host_id:
                yield known.vm_id, known.deploy_id


def _basics(report: HostReport) -> tuple[object, ...]:
    return report.hypervisor, report.total_cpu, report.total_memory, report.attributes
