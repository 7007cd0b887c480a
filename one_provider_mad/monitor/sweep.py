"""List the cloud once for all hosts that are due, and infer their VMs' states from the listing (decision 18)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import TypeVar

import msgspec
import structlog

from one_provider_mad import metrics
from one_provider_mad.domain import DeployId, Instance, Value, VmId
from one_provider_mad.errors import MadError, ProviderError, ProviderUnavailable, internal_error
from one_provider_mad.journal.reader import read_refusals
from one_provider_mad.journal.records import Answered
from one_provider_mad.listings import by_id
from one_provider_mad.monitor.activity import Activity, ActivityReader
from one_provider_mad.monitor.budget_watch import BudgetWatch
from one_provider_mad.monitor.capacity import Allocations, CapacityReader, SweepResult, hints_of
from one_provider_mad.monitor.cloud_source import CloudSource, OpenCloud
from one_provider_mad.monitor.costs import CPU_UNKNOWN, CostWatch
from one_provider_mad.monitor.figures import FigureKeeper, with_figures
from one_provider_mad.monitor.home_warning import HomeWatch
from one_provider_mad.monitor.host import Load, taken_by, unknown_types, wild_of
from one_provider_mad.monitor.inference import (
    Inference,
    InferredVm,
    Listing,
    Memory,
    Rules,
    earliest_unlisted_create,
    infer_states,
    with_clock_set_back,
)
from one_provider_mad.monitor.lookups import Lookup, lacking, look_up
from one_provider_mad.monitor.price_reader import PriceReader
from one_provider_mad.monitor.settings import MonitorSettings
from one_provider_mad.protocol.reports import VmWord, Wild
from one_provider_mad.protocol.stale_names import COST_NAMES, StaleNames
from one_provider_mad.protocol.vmm import shown_deploy_id
from one_provider_mad.providers.interface import (
    Figures,
    NamedAttributes,
    PriceSource,
    Provider,
    Size,
    UpstreamTags,
    WarningSource,
)
from one_provider_mad.tasks import is_cancelled

log = structlog.get_logger()

_Result = TypeVar("_Result")

MANY = 500
"""Number of instances from which on work on them is done in a thread: it must not block the event loop for over 5
ms."""

_LONGEST_PAUSE = 30.0
_SHORTEST_PAUSE = 0.1
"""Least and most seconds until a cloud that failed is asked again; the pause begins with `min_list_interval` and
doubles with each failure."""

_FRESH_SHARE = 0.9
"""Part of `min_list_interval` during which a listing is used again: with 1.0, reports with exactly that period would
get a new listing only every other time."""

_FREED_AT_ONCE = 200
"""Number of VMs whose memory is freed at once; then other threads may run."""

_STEP_SECONDS = 1.0
"""Seconds by which the clock must fall behind the elapsed time to count as set back."""

_MANY_WARNINGS = 1000


class Sweep(Value, frozen=True, kw_only=True):
    """The result of one sweep: everything that reports on all hosts need.

    Attributes:
        inference: the inferred states of all hosts' VMs.
        wilds: reports on the wild instances.
        loads: CPU and memory in use by each host's VMs.
        wild_load: CPU and memory in use by the wild instances.
        capacities: capacity of each host, as far as known.
        warning: the warning that hosts show, "" for none.
        states: number of VMs in each reported state; {} unless metrics are on.
        answered: the last answered action of each VM.
        inferred_at: when the states were inferred, seconds since the epoch.
    """

    inference: Inference
    wilds: tuple[Wild, ...] = ()
    loads: Mapping[int, Load] = {}
    wild_load: Load = Load()
    capacities: Mapping[int, Size] = {}
    warning: str = ""
    states: Mapping[str, int] = {}
    answered: Mapping[VmId, Answered] = {}
    inferred_at: float = 0.0

    def vms(self, host_id: int) -> list[InferredVm]:
        """Return the VMs of one host with their states."""
        return list(self.inference.hosts.get(host_id, ()))

    def free_vms(self, host_id: int) -> None:
        """Free the memory of a host's VMs in small steps: 10,000 at once would block the event loop for 15 ms."""
        vms = self.inference.hosts.get(host_id)
        while isinstance(vms, list) and vms:
            del vms[-_FREED_AT_ONCE:]

    def load(self, host_id: int) -> Load:
        """Return CPU and memory in use by a host's VMs and by all wild instances, which take capacity as well."""
        own = self.loads.get(host_id, Load())
        return Load(cpu=own.cpu + self.wild_load.cpu, memory=own.memory + self.wild_load.memory)


class Sweeper:
    """Lists the cloud for all its hosts, and infers the states of their VMs.

    Args:
        source: the cloud, and the configuration.
        clock: seconds since the epoch.
        memory: what listings have shown to an earlier process.
        reported_names: names of attributes that an earlier process has reported of a VM.

    Attributes:
        memory: what listings have shown so far.
        failing_since: loop time of the first of the latest failed sweeps, None if the last one succeeded.
        error: why the last sweep failed, "" if it succeeded.
        hosts: numbers of the monitored hosts.
        stale_names: attributes that OpenNebula may still show for each VM.
        home: looks whether home takes the VMs that it has room for.
        budget: knows how far the limits of `[budget]` are used.
        costs: books listings in the ledger, and knows what VMs and hosts cost.
    """

    def __init__(
        self,
        source: CloudSource,
        *,
        clock: Callable[[], float],
        memory: Memory | None = None,
        reported_names: Collection[str] = (),
    ) -> None:
        self._source = source
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._activity = ActivityReader(self._loop.time, clock)
        self._inferring = asyncio.Lock()
        self._offset = clock() - self._loop.time()
        self._running: asyncio.Task[Sweep] | None = None
        self._sweeps: set[asyncio.Task[Sweep]] = set()
        self._listing: Listing | None = None
        self._listed_at = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._last_error: MadError | None = None
        self._capacity = CapacityReader(time=self._loop.time, clock=clock)
        self._figures = FigureKeeper(self._loop.time)
        self._prices = PriceReader(self._loop.time)
        self._warned: set[str] = set()
        self.memory = memory or Memory()
        self.failing_since: float | None = None
        self.error = ""
        self.hosts: frozenset[int] = frozenset()
        self.stale_names = StaleNames(reported_names)
        self.home = HomeWatch(self._loop.time)
        self.budget = BudgetWatch(self._loop.time)
        self.costs = CostWatch(self._loop.time, clock)
        self._home_shown = ""

    def set_allocations(self, allocations: Allocations) -> None:
        """Set the function that asks OpenNebula for its allocations, which hosts of limited capacity need."""
        self._capacity.allocations = allocations

    async def sweep(self) -> Sweep:
        """List the cloud and infer states. Callers share a running sweep, and a listing that is fresh enough.

        Raises:
            MadError: the cloud did not answer, or not completely, or the journal cannot be read.
        """
        if self._running is None:
            self._running = asyncio.create_task(self._sweep(), name="sweep")
            self._sweeps.add(self._running)
            self._running.add_done_callback(self._sweeps.discard)
            self._running.add_done_callback(retrieve_exception)
        return await asyncio.shield(self._running)

    async def has_room_news(self) -> bool:
        """Return True if the cloud's room, or the warning about home, may be another than at the last sweep.

        Raises:
            MadError: the cloud's settings, or the journal, cannot be read.
        """
        self.home.ask(is_wanted=self._source.report_settings().monitor.watch_home)
        if self.home.warning != self._home_shown:
            return True
        watched = await self._source.current()
        refusal, shortages = await asyncio.to_thread(read_refusals, watched.journal)
        return self._capacity.is_news(refusal, shortages, watched.provider)

    @property
    def priority_text(self) -> str | None:
        """The PRIORITY that hosts are to have; None for the one that they have."""
        return self._prices.priority_text(self._source.report_settings())

    async def stop(self) -> None:
        """Cancel all calls to the cloud and to OpenNebula, and wait for their end: the provider may be closed then."""
        tasks = [
            *self._sweeps,
            *self._capacity.calls_under_way(),
            *self._figures.calls_under_way(),
            *self._prices.calls_under_way(),
            *self.home.calls_under_way(),
            *self.costs.calls_under_way(),
            *self.budget.calls_under_way(),
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _sweep(self) -> Sweep:
        """List and infer; raise MadError even for defects, so that hosts show the error instead of going into ERROR."""
        try:
            return await self._list_and_infer()
        except MadError as error:
            self._failed(error)
            raise
        except asyncio.CancelledError as error:
            if is_cancelled(error):
                raise
            # A provider cancels its listing when it is closed: at the end, or after an edit of the configuration.
            cancelled = ProviderUnavailable("the listing was cancelled before it was complete")
            self._failed(cancelled)
            raise cancelled from error
        except Exception as error:
            log.exception("sweep failed unexpectedly")
            raise self._failed(_defect(error)) from error

    async def _list_and_infer(self) -> Sweep:
        begun = self._loop.time()
        try:
            watched = await self._source.current()
            settings = self._source.report_settings().monitor
            if isinstance(watched.provider, NamedAttributes):
                self.stale_names.expect(watched.provider.attribute_names)
            self.stale_names.expect((CPU_UNKNOWN, *(COST_NAMES if isinstance(watched.provider, PriceSource) else ())))
            self._capacity.ask(watched)
            listing = await self._listed(watched, settings)
            self._figures.ask(watched, listing.instances)
            self._prices.ask(watched, listing.instances, self._source.report_settings())
        finally:
            self._running = None  # callers from now on need a later listing
        async with self._inferring:
            self._handle_clock_set_back()
            listing = self._listing or listing  # while this sweep waited, another may have listed
            listing = msgspec.structs.replace(listing, hosts=self.hosts)
            since = earliest_unlisted_create(self.memory, listing, grace=watched.provider.visibility_grace)
            activity = await self._activity.read(watched.journal, since=since)
            self._capacity.note(activity.refusal, activity.shortages, watched)
            self._log_caution(watched.caution or activity.caution)
            known = self._figures.known()
            sweep = await in_thread_if_large(
                len(listing.instances), lambda: _inferred(self.memory, listing, activity, watched, settings, known)
            )
            sweep = msgspec.structs.replace(sweep, answered=activity.answered, inferred_at=self._clock())
            self.memory = sweep.inference.memory  # before capacities are awaited: meanwhile the clock may be set back
            sweep = await self._with_capacities(sweep, listing, watched)
            self._succeeded(sweep.inference)
            self.costs.ask(watched, listing)  # last, since its thread would take the interpreter from this sweep
            if metrics.recorder is not None:
                seconds = self._loop.time() - begun
                metrics.recorder.swept(listing.began_at, seconds, sweep.states, held=len(sweep.inference.held))
        return sweep

    async def _with_capacities(self, sweep: Sweep, listing: Listing, watched: OpenCloud) -> Sweep:
        capacity = self._source.report_settings().capacity
        shown = SweepResult(
            provider=watched.provider, listed=listing.instances, hosts=listing.hosts, inference=sweep.inference
        )
        limits, capacities = await in_thread_if_large(
            len(listing.instances), lambda: self._capacity.capacities(capacity, shown)
        )
        self._capacity.ask_core(limits, shown)
        self.home.ask(is_wanted=self._source.report_settings().monitor.watch_home)
        if await self._capacity.wait_for_urgent_answers(limits, shown):
            limits, capacities = await in_thread_if_large(
                len(listing.instances), lambda: self._capacity.capacities(capacity, shown)
            )
        if limits.sizes and (strange := unknown_types(capacity, limits.sizes)):
            self._warn_once(f"capacity.instance_types: the cloud has no {', '.join(strange)}")
        self._home_shown = self.home.warning
        self.budget.ask(watched.budget)
        own = sweep.warning or self._capacity.warning(limits, shown)
        warning = _joined(own, self.home.warning, self.budget.warning)
        return msgspec.structs.replace(sweep, capacities=capacities, warning=warning)

    def _handle_clock_set_back(self) -> None:
        """If the clock was set back, shift the remembered times by as much."""
        offset = self._clock() - self._loop.time()
        back, self._offset = self._offset - offset, offset
        if back < _STEP_SECONDS:
            return
        log.warning("the clock was set back", by=round(back, 1))
        self.memory = with_clock_set_back(self.memory, back)
        if self._listing is not None:
            self._listing = msgspec.structs.replace(self._listing, began_at=self._listing.began_at - back)

    # Listing

    async def _listed(self, watched: OpenCloud, settings: MonitorSettings) -> Listing:
        self._handle_clock_set_back()
        now = self._loop.time()
        is_fresh = now - self._listed_at < _FRESH_SHARE * settings.min_list_interval
        if self._listing is not None and is_fresh and not self._failures:
            return self._listing
        if now < self._retry_at and self._last_error is not None:
            raise self._last_error.with_traceback(None)  # otherwise its traceback would grow with each raise
        self._listed_at = now
        began_at = self._clock()
        try:
            async with asyncio.timeout(watched.call_timeout):
                listed = by_id(await watched.provider.list_instances())
        except TimeoutError as error:
            late = f"{watched.provider.name} did not answer within {watched.call_timeout:g} s"
            raise self._back_off(ProviderUnavailable(late), settings) from error
        except MadError as error:
            self._back_off(error, settings)
            raise
        except Exception as error:
            log.exception("listing failed unexpectedly")
            raise self._back_off(_defect(error), settings) from error
        if metrics.recorder is not None:
            metrics.recorder.called("list", self._loop.time() - now)
        lookup = await self._look_up(watched, settings, listed)
        began_at = min(began_at, self._clock() - (self._loop.time() - now))  # the clock may have been set back
        instances = [*listed.values(), *lookup.found.values()]
        self._listing = Listing(began_at=began_at, instances=instances, not_looked_up=lookup.not_looked_up)
        return self._listing

    async def _look_up(
        self, watched: OpenCloud, settings: MonitorSettings, listed: Mapping[DeployId, Instance]
    ) -> Lookup:
        """Look up by id the known instances that the listing lacks, since it may lag behind."""
        memory, missing_after = self.memory, settings.missing_after
        absent = await in_thread_if_large(len(memory.vms), lambda: lacking(memory, listed, missing_after=missing_after))
        return await look_up(watched, absent)

    def _back_off(self, error: MadError, settings: MonitorSettings) -> MadError:
        """Set a longer pause until a failing cloud is asked again, and return the error."""
        if metrics.recorder is not None:
            metrics.recorder.called("list", self._loop.time() - self._listed_at, error)
        self._failures += 1
        pause = max(settings.min_list_interval, _SHORTEST_PAUSE) * 2 ** min(self._failures - 1, 10)
        asked = error.retry_after if isinstance(error, ProviderError) else None
        self._last_error = error
        self._retry_at = self._loop.time() + max(min(pause, _LONGEST_PAUSE), asked or 0.0)
        return error

    def _failed(self, error: MadError) -> MadError:
        if metrics.recorder is not None:
            metrics.recorder.lost()
        self.error = str(error)
        if self.failing_since is None:
            self.failing_since = self._loop.time()
            log.warning("the cloud cannot be asked", reason=str(error))
        return error

    def _succeeded(self, inference: Inference) -> None:
        self._failures, self._last_error, self.error = 0, None, ""
        if self.failing_since is not None:
            log.info("the cloud answers again", after=round(self._loop.time() - self.failing_since, 1))
            self.failing_since = None
        strange = [
            f"instance {shown_deploy_id(deploy_id)} {what}"
            for deploy_id, what in islice(inference.anomalies.items(), _MANY_WARNINGS)
        ]
        if len(self._warned) > 2 * _MANY_WARNINGS:
            self._warned.intersection_update(strange)
        for sentence in strange:
            self._warn_once(sentence)

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            log.warning("instance anomaly", what=sentence)

    def _log_caution(self, caution: str) -> None:
        if caution and caution not in self._warned:
            self._warned.add(caution)
            log.warning("reports are incomplete", reason=_cautious(caution))


def _inferred(
    memory: Memory,
    listing: Listing,
    activity: Activity,
    watched: OpenCloud,
    settings: MonitorSettings,
    known: Mapping[DeployId, Figures],
) -> Sweep:
    caution = watched.caution or activity.caution
    rules = Rules(
        owner=watched.owner,
        grace=watched.provider.visibility_grace,
        missing_word=settings.missing_word,
        missing_after=settings.missing_after,
        unusual_share=settings.unusual_share,
        unusual_count=settings.unusual_count,
        unusual_hold=settings.unusual_hold,
        may_miss=not caution,
    )
    measured = msgspec.structs.replace(
        listing,
        instances=with_figures(listing.instances, known),
        upstreams=_upstreams(listing, watched.provider),
    )
    inference = infer_states(memory, measured, activity, rules)
    return Sweep(
        inference=inference,
        wilds=_wilds(inference, watched) if settings.report_wilds else (),
        loads={
            host_id: taken_by((vm.instance for vm in vms if vm.instance is not None), watched.provider)
            for host_id, vms in inference.hosts.items()
        },
        wild_load=taken_by(inference.wilds, watched.provider),
        warning=_cautious(caution) if caution else _warning(inference, watched.provider),
        states=_states(inference) if metrics.recorder is not None else {},
    )


def _joined(*warnings: str) -> str:
    return "; ".join(filter(None, warnings))


def _cautious(caution: str) -> str:
    return f"{caution}; until then actions fail, and no VM is reported missing"


def _states(inference: Inference) -> dict[str, int]:
    """Return the number of VMs of all hosts in each reported state, zeros included."""
    words = Counter(vm.state.state for vms in inference.hosts.values() for vm in vms)
    return {word.value.lower(): words[word] for word in VmWord}


def _upstreams(listing: Listing, provider: Provider) -> dict[DeployId, VmId]:
    """Return the VM of each instance with tags of upstream's driver only; {} if the provider ignores those."""
    if not isinstance(provider, UpstreamTags):
        return {}
    untagged = (instance for instance in listing.instances if instance.identity is None)
    found = ((instance.deploy_id, provider.upstream_vm_id(instance)) for instance in untagged)
    return {deploy_id: vm_id for deploy_id, vm_id in found if vm_id is not None}


def _wilds(inference: Inference, watched: OpenCloud) -> tuple[Wild, ...]:
    wilds = sorted(inference.wilds, key=lambda instance: instance.deploy_id)
    return tuple(wild_of(each, hints_of(each, watched.provider)) for each in wilds)


def _defect(error: Exception) -> ProviderUnavailable:
    return ProviderUnavailable(internal_error(error))


def _warning(inference: Inference, provider: Provider) -> str:
    if inference.held:
        return (
            f"{len(inference.held)} instances vanished at once: their VMs are left as they are for now;"
            " see unusual_hold in [monitor]"
        )
    anomalies: Mapping[DeployId, str] = inference.anomalies
    if anomalies:
        deploy_id = min(anomalies)
        return f"instance {shown_deploy_id(deploy_id)} {anomalies[deploy_id]}"
    return next(iter(provider.listing_warnings()), "") if isinstance(provider, WarningSource) else ""


async def in_thread_if_large(size: int, work: Callable[[], _Result]) -> _Result:
    """Call `work`, in a thread if it is about MANY things or more, so that the event loop is not blocked."""
    return work() if size < MANY else await asyncio.to_thread(work)


def retrieve_exception(task: asyncio.Task[Sweep]) -> None:
    """Retrieve a sweep task's error, or asyncio would log it if no caller awaits the task."""
    if not task.cancelled():
        task.exception()  # a caller that awaits the task gets it as well
