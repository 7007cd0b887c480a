"""Answer each request of oned or monitord once, and run one schedule of reports for each monitored host."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence

import msgspec
import structlog

from one_provider_mad import metrics
from one_provider_mad.domain import VmId
from one_provider_mad.errors import MadError, internal_error
from one_provider_mad.monitor.cloud_source import CloudSource
from one_provider_mad.monitor.costs import with_costs
from one_provider_mad.monitor.gone import GoneVms
from one_provider_mad.monitor.host import Load, configured_capacity, letter_of, report_of
from one_provider_mad.monitor.host_attributes import HostAttributes
from one_provider_mad.monitor.inference import InferredVm
from one_provider_mad.monitor.room_watch import RoomWatch, Shown
from one_provider_mad.monitor.schedule import HostSchedule
from one_provider_mad.monitor.sender import Output, Sender, Stamps
from one_provider_mad.monitor.sweep import Sweep, Sweeper, in_thread_if_large
from one_provider_mad.protocol import reports
from one_provider_mad.protocol.im import format_legacy_reply, format_log, refuse, word_and_era
from one_provider_mad.protocol.im_messages import (
    Era,
    HostLog,
    ImRequest,
    Kind,
    LegacyReply,
    Monitor,
    StartMonitor,
    StopMonitor,
    Unreadable,
)
from one_provider_mad.protocol.messages import Severity
from one_provider_mad.protocol.reports import HostReport, LegacyVm, VmWord
from one_provider_mad.tasks import is_cancelled

log = structlog.get_logger()

_STUMBLE_SECONDS = 5.0
"""Seconds until reporting on a host starts again after an unexpected error; monitord waits three minutes for a sign of
life."""


class RequestHandler:
    """Answers the requests of oned or monitord, and starts and stops the reports on hosts.

    Args:
        sweeper: lists the cloud.
        source: the configuration.
        output: where lines go.
        stamps: timestamps.
        on_hosts: called when the monitored hosts have changed.
        host_attributes: tells what to write of HOSTNAME, PRIORITY and VERSION of hosts.

    Attributes:
        is_silent: True while another front-end leads: no report is sent, and no cloud is called (decision 21).
        core_is_up: set once OpenNebula has started; before, no MONITOR is answered (decision 27).
    """

    def __init__(
        self,
        *,
        sweeper: Sweeper,
        source: CloudSource,
        output: Output,
        stamps: Stamps,
        on_hosts: Callable[[], None] = lambda: None,
        host_attributes: HostAttributes | None = None,
    ) -> None:
        self._sweeper = sweeper
        self._source = source
        self._output = output
        self._stamps = stamps
        self._sender = Sender(output, stamps)
        self._on_hosts = on_hosts
        self._host_attributes = host_attributes or HostAttributes()
        self._era: Era | None = None
        self._unsent: list[HostLog] = []
        self._hosts: dict[int, HostSchedule] = {}
        self._gone: dict[int, GoneVms] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._stopped_at: dict[int, float] = {}
        self._unconfirmed: set[int] = set()
        self._ran: dict[int, frozenset[VmId]] = {}
        self._asked: dict[int, Monitor] = {}
        self._room_watch = RoomWatch(has_news=self._has_room_news, report=self._report_room)
        self._loop = asyncio.get_running_loop()
        self.is_silent = False
        self.core_is_up = asyncio.Event()
        self.core_is_up.set()

    @property
    def hosts(self) -> tuple[StartMonitor, ...]:
        """Return the START_MONITOR of each monitored host, in the order of host IDs."""
        return tuple(self._hosts[host_id].request for host_id in sorted(self._hosts))

    # Requests

    def accept(self, request: ImRequest | Unreadable) -> None:
        """Take one request, without blocking. It is answered later, also if the driver has a defect.

        After an unexpected error in START_MONITOR the error is raised, which ends the process: answering FAILURE would
        put the host into ERROR, where host hooks may delete its VMs (decision 19).
        """
        try:
            self._take(request)
        except Exception as error:
            if isinstance(request, StartMonitor | Unreadable):
                raise
            log.exception("request not taken", host=request.host_id)
            word, era = word_and_era(request)
            self._refuse(Unreadable(reason=internal_error(error), word=word, host_id=request.host_id, era=era))

    def _take(self, request: ImRequest | Unreadable) -> None:
        self._know_era(_era_of(request))
        match request:
            case Unreadable(word=Kind.START_MONITOR.value, host_id=int(host_id)):
                self._monitor_despite_error(request, host_id)
            case Unreadable():
                self._refuse(request)
            case Monitor():
                self._spawn(self._answer(request), f"monitor host {request.host_id}")
            case StartMonitor():
                self._sender.send(Kind.START_MONITOR, request.host_id)
                self.start(request)
            case StopMonitor():
                self._stop(request)

    def resume(self, hosts: Iterable[StartMonitor]) -> None:
        """Report again on the hosts of a dead process, except those that a request has started or stopped since."""
        self._know_era(Era.MODERN)
        for request in hosts:
            if request.host_id not in self._hosts and request.host_id not in self._stopped_at:
                log.info("host taken up again", host=request.host_id)
                self.start(request)
        self._stopped_at.clear()
        self._on_hosts()

    def start_wanted_hosts(self, wanted: Collection[StartMonitor], *, asked_at: float) -> None:
        """Report on the hosts in OpenNebula's host pool; a STOP_MONITOR since the pool was requested takes precedence.

        When this front-end leads again, hosts of its earlier term that are not in the pool are dropped: their
        STOP_MONITOR went to the front-end that led meanwhile.

        Args:
            wanted: a START_MONITOR for each host in the pool.
            asked_at: loop time at which the pool was requested.
        """
        self._know_era(Era.MODERN)
        for request in wanted:
            was_stopped = self._stopped_at.get(request.host_id, -math.inf) >= asked_at
            if request.host_id not in self._hosts and not was_stopped:
                log.info("host taken up", host=request.host_id, host_name=request.host)
                self.start(request)
        for host_id in self._unconfirmed - {request.host_id for request in wanted}:
            log.info("host no longer in OpenNebula", host=host_id)
            self._end(host_id)
        self._unconfirmed.clear()
        self._on_hosts()

    def start(self, request: StartMonitor, *, trouble: str = "") -> None:
        """Report on a host from now on; an earlier schedule of the host ends.

        Args:
            request: monitord's request.
            trouble: an error in the request, for the host to show; "" for none.
        """
        self._end(request.host_id)
        self._unconfirmed.discard(request.host_id)
        self._stopped_at.pop(request.host_id, None)
        schedule = HostSchedule(
            request,
            sweeper=self._sweeper,
            source=self._source,
            sender=self._sender,
            host_attributes=self._host_attributes,
            trouble=trouble,
        )
        self._hosts[request.host_id] = schedule
        self._sweeper.hosts |= {request.host_id}
        if self.is_silent:
            schedule.has_reported.set()
        else:
            self._running[request.host_id] = asyncio.create_task(
                self._run(schedule), name=f"monitor host {request.host_id}"
            )
        log.info("host monitored", host=request.host_id, host_name=request.host, is_silent=self.is_silent)
        self._on_hosts()

    async def _run(self, schedule: HostSchedule) -> None:
        """Report on a host until cancelled; after an unexpected error start again some seconds later."""
        while True:
            try:
                await self._report(schedule)
            except (Exception, asyncio.CancelledError) as error:
                if is_cancelled(error):
                    raise
                log.exception("monitoring failed, and goes on", host=schedule.request.host_id)
            schedule.has_reported.set()  # or FINALIZE would wait for it for ever
            await asyncio.sleep(_STUMBLE_SECONDS)

    async def _report(self, schedule: HostSchedule) -> None:
        await schedule.run()
        if (probes := self._source.probes()) is not None:
            await probes.report(schedule.request, self._sender, schedule.has_reported.set)

    def set_silent(self, *, is_silent: bool) -> None:
        """Stop the reports while another front-end leads; start them again for all hosts when this one does."""
        if is_silent == self.is_silent:
            return
        self.is_silent = is_silent
        self._sweeper.stale_names.forget()  # another front-end may report other attributes
        for request in self.hosts:
            self.start(request)
        self._unconfirmed = set() if is_silent else set(self._hosts)

    def _monitor_despite_error(self, request: Unreadable, host_id: int) -> None:
        """Monitor a host despite an unreadable START_MONITOR, with its earlier or the shipped periods (decision 19)."""
        before = self._hosts.get(host_id)
        log.warning("monitoring as before", host=host_id, reason=request.reason, is_new=before is None)
        self._sender.send(Kind.START_MONITOR, host_id)
        self.write_log(
            Severity.ERROR,
            f"host {host_id} is monitored {'as before' if before else 'with the shipped periods'}: {request.reason}",
        )
        self.start(before.request if before else StartMonitor(host_id=host_id), trouble=request.reason)

    def _stop(self, request: StopMonitor) -> None:
        was_monitored = self._end(request.host_id)
        # A host of a dead process may still be waiting to be resumed.
        self._stopped_at[request.host_id] = self._loop.time()
        log.info("host no longer monitored", host=request.host_id, was_monitored=was_monitored)
        if (probes := self._source.probes()) is not None:
            probes.forget(request.host_id)
        if request.era is Era.LEGACY:
            self._output.send(format_legacy_reply(LegacyReply(word="STOPMONITOR", host_id=request.host_id)))
        else:
            self._sender.send(Kind.STOP_MONITOR, request.host_id)
        self._on_hosts()

    def _end(self, host_id: int) -> bool:
        task = self._running.pop(host_id, None)
        if task is not None:
            task.cancel()
        self._sweeper.hosts -= {host_id}
        self._ran.pop(host_id, None)
        self._asked.pop(host_id, None)
        self._room_watch.forget(host_id)
        return self._hosts.pop(host_id, None) is not None

    def _refuse(self, request: Unreadable) -> None:
        log.warning("request refused", word=request.word, host=request.host_id, reason=request.reason)
        lines = refuse(request, timestamp=self._stamps.now())
        for line in lines:
            self._output.send(line)
        if not lines:
            self.write_log(Severity.ERROR, f"ignored a line that is no request: {request.reason}")

    # Legacy

    async def _answer(self, request: Monitor) -> None:
        """Answer one MONITOR of oned up to 5.10 with exactly one reply."""
        self._sweeper.hosts |= {request.host_id}
        self._asked[request.host_id] = request
        await self.core_is_up.wait()  # a listing from before would be outdated then
        is_success, text = True, ""  # oned ignores an empty report
        try:
            probes = None if self.is_silent else self._source.probes()
            if probes is not None:
                text = await probes.answer(request)
            elif not self.is_silent:
                text = await self._legacy_report(request)
        except MadError as error:
            is_success, text = False, str(error)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            log.exception("monitoring failed unexpectedly", host=request.host_id)
            is_success, text = False, internal_error(error)
        reply = LegacyReply(word="MONITOR", host_id=request.host_id, text=text, is_success=is_success)
        self._output.send(await in_thread_if_large(len(text), lambda: format_legacy_reply(reply)))

    async def _legacy_report(self, request: Monitor) -> str:
        try:
            sweep = await self._sweeper.sweep()
        except MadError as error:
            return self._held_report(request, error)
        report = await self._with_own(request, self._capacity_report(request, sweep))
        self._room_watch.reported(request.host_id, (report.total_cpu, report.total_memory, sweep.warning))
        return await self._legacy_text(request, sweep, report)

    async def _has_room_news(self) -> bool:
        """Return True if a report may be due. While another front-end leads, neither cloud nor OpenNebula is asked."""
        return not self.is_silent and await self._sweeper.has_room_news()

    async def _report_room(self, host_id: int, reported: Shown) -> Shown:
        """Send a report that oned has not asked for, if the host shows no longer what was reported."""
        request = self._asked.get(host_id)
        if request is None or self.is_silent or self._source.probes() is not None:
            return reported
        sweep = await self._sweeper.sweep()
        report = self._capacity_report(request, sweep)
        shown = report.total_cpu, report.total_memory, sweep.warning
        if shown != reported:
            report = await self._with_own(request, report)
            log.info("host reported unasked", host=host_id, total_cpu=report.total_cpu)
            text = await self._legacy_text(request, sweep, report)
            reply = LegacyReply(word="MONITOR", host_id=host_id, text=text)
            self._output.send(await in_thread_if_large(len(text), lambda: format_legacy_reply(reply)))
        return shown

    def _capacity_report(self, request: Monitor, sweep: Sweep) -> HostReport:
        return report_of(
            self._source.report_settings(),
            sweep.capacities.get(request.host_id),
            sweep.load(request.host_id),
            wilds=sweep.wilds,
            warning=sweep.warning,
            costs=self._sweeper.costs.of_host(request.host_id),
        )

    async def _with_own(self, request: Monitor, report: HostReport) -> HostReport:
        """Return the report with HOSTNAME, PRIORITY and VERSION, for which OpenNebula is asked."""
        priority = self._sweeper.priority_text
        own = await self._host_attributes.to_write(request.host_id, name=request.host, priority=priority)
        return msgspec.structs.replace(report, own=own or {})

    async def _legacy_text(self, request: Monitor, sweep: Sweep, report: HostReport) -> str:
        is_old = self._source.report_settings().monitor.is_before_4_14
        seen, now = sweep.vms(request.host_id), asyncio.get_running_loop().time()
        # Up to 4.12 `e` makes a VM FAILED for ever, and a VM that is left out UNKNOWN.
        gone = {} if is_old else self._gone.setdefault(request.host_id, GoneVms()).letters(seen, now=now)

        def write() -> str:
            vms = _legacy_vms(seen, gone, self._sweeper)
            self._note_reported(request.host_id, vms)
            return reports.legacy_report(report, vms, is_before_4_14=is_old)

        return await in_thread_if_large(len(seen), write)

    def _note_reported(self, host_id: int, vms: Collection[LegacyVm]) -> None:
        """Record the attributes that a report has of each VM, so that they can be removed later.

        OpenNebula has certainly taken those of a VM that also ran in the last report, and may have ignored the others:
        oned takes figures of VMs in ACTIVE only (src/vmm/VirtualMachineManagerDriver.cc, process_poll), and a VM that
        was powered off is ACTIVE once oned has read the first report that it runs.
        """
        names, ran = self._sweeper.stale_names, self._ran.get(host_id, frozenset())
        for vm in vms:
            is_taken = vm.state_letter == "a" and vm.vm_id in ran
            (names.reported if is_taken else names.may_show)(vm.vm_id, vm.attributes, vm.usage)
        self._ran[host_id] = frozenset(vm.vm_id for vm in vms if vm.state_letter == "a")

    def _held_report(self, request: Monitor, error: MadError) -> str:
        """Return a report that names every VM without a state, since the cloud does not answer.

        oned powers off a VM that two reports in a row leave out. Until a first listing the report is empty: oned
        ignores it, and asks again later.
        """
        settings, memory = self._source.report_settings(), self._sweeper.memory
        since, limit = self._sweeper.failing_since, settings.monitor.host_error_after
        if limit and since is not None and asyncio.get_running_loop().time() - since >= limit:
            raise error
        if not memory.listed_at:
            return ""
        # A missing VM is left out only where leaving it out is how it is reported (see `_legacy_report`).
        are_gone_named = not settings.monitor.is_before_4_14 and settings.monitor.missing_word is not VmWord.POWEROFF
        vms = [
            LegacyVm(vm_id=known.vm_id, deploy_id=known.deploy_id, state_letter="-")
            for known in memory.vms.values()
            if known.host_id == request.host_id
            and not known.is_parked
            and (are_gone_named or known.misses < settings.monitor.missing_after)
        ]
        report = report_of(settings, configured_capacity(settings.capacity), Load(), error=str(error))
        return reports.legacy_report(report, vms, is_before_4_14=settings.monitor.is_before_4_14)

    # Sending

    async def measure(self, recorder: metrics.Recorder) -> None:
        """Set the metric of how many hosts are reported on."""
        recorder.monitored(0 if self.is_silent else len(self._sweeper.hosts))

    def write_log(self, severity: Severity, text: str) -> None:
        """Write a LOG line for OpenNebula's log; before a first request shows which form it needs, keep it."""
        log.info("log line sent", severity=severity.value, text=text)
        line = HostLog(severity=severity, text=text)
        if self._era is None:
            self._unsent.append(line)
        else:
            self._output.log(format_log(line, era=self._era, timestamp=self._stamps.now()))

    def dropped(self, count: int) -> bytes:
        """Return the LOG line that says how many LOG lines were dropped."""
        line = HostLog(
            severity=Severity.WARNING, text=f"{count} log lines were dropped because OpenNebula did not read them"
        )
        return format_log(line, era=self._era or Era.MODERN, timestamp=self._stamps.now())

    def _know_era(self, era: Era) -> None:
        self._era = era
        unsent, self._unsent = self._unsent, []
        for line in unsent:
            self._output.log(format_log(line, era=era, timestamp=self._stamps.now()))

    # Ending

    async def drained(self) -> None:
        """Wait until every request is answered, and every monitored host has been reported on once."""
        while self._answering:
            await asyncio.wait(self._answering)
        for schedule in list(self._hosts.values()):
            await schedule.has_reported.wait()

    async def stop(self) -> None:
        """Cancel all reports, answers and sweeps; `hosts` stays as it is, for the next process to resume."""
        tasks = [*self._running.values(), *self._answering]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._room_watch.stop(), self._sweeper.stop(), return_exceptions=True)

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)


def _era_of(request: ImRequest | Unreadable) -> Era:
    if isinstance(request, Monitor):
        return Era.LEGACY
    return Era.MODERN if isinstance(request, StartMonitor) else request.era


def _legacy_vms(vms: Sequence[InferredVm], gone: Mapping[VmId, str], sweeper: Sweeper) -> list[LegacyVm]:
    """Return the VMs to name in a report up to 5.10; oned powers off those left out.

    A missing VM is named only if `gone` has a letter for it.
    """
    return [
        _legacy_vm(vm, gone.get(vm.state.vm_id, ""), sweeper) for vm in vms if vm.is_listed or vm.state.vm_id in gone
    ]


def _legacy_vm(vm: InferredVm, gone: str, sweeper: Sweeper) -> LegacyVm:
    vm_id, instance = vm.state.vm_id, vm.instance
    if instance is None:
        return LegacyVm(vm_id=vm_id, deploy_id=vm.state.deploy_id, state_letter=gone or "-")
    attributes = with_costs(instance, sweeper.costs, is_legacy=True)
    return LegacyVm(
        vm_id=vm_id,
        deploy_id=vm.state.deploy_id,
        state_letter=gone or ("-" if vm.state.state is VmWord.UNKNOWN else letter_of(instance.state)),
        name=instance.name,
        usage=instance.usage,
        attributes=attributes,
        stale=sweeper.stale_names.of(vm_id, attributes, instance.usage),
    )
