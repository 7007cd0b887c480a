"""List the cloud once for all hosts, and infer states from it anew for each request (decision 18)."""

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
from one_provider_mad.journal.records import Answered
from one_provider_mad.listings import by_id
from one_provider_mad.monitor.activity import Activity, ActivityReader
from one_provider_mad.monitor.capacity import Allocations, CapacityReader, SweepResult, hints_of
from one_provider_mad.monitor.cloud_source import CloudSource, OpenCloud
from one_provider_mad.monitor.figures import FigureKeeper, with_figures
from one_provider_mad.monitor.host import Load, taken_by, unknown_types, wild_of
from one_provider_mad.monitor.inference import (
    Inference,
    Listing,
    Memory,
    Rules,
    SeenVm,
    infer_states,
    set_back,
    unseen_since_when,
)
from one_provider_mad.monitor.lookups import Lookup, lacking, look_up
from one_provider_mad.monitor.settings import MonitorSettings
from one_provider_mad.protocol.reports import VmWord, Wild
from one_provider_mad.protocol.stale_names import StaleNames
from one_provider_mad.protocol.vmm import shown_deploy_id
from one_provider_mad.providers.interface import (
    Figures,
    NamedAttributes,
    Provider,
    Size,
    UpstreamTags,
    WarningSource,
)
from one_provider_mad.tasks import is_cancelled

log = structlog.get_logger()

_Result = TypeVar("_Result")

MANY = 500
"""Number of instances from which work on them is left to a thread: the loop never stops for more than 5 ms."""

_LONGEST_PAUSE = 30.0
_SHORTEST_PAUSE = 0.1
"""Seconds before a cloud that did not answer is asked again: doubled from min_list_interval up to the longest."""

_AS_GOOD_AS_NEW = 0.9
"""Part of min_list_interval for which a listing is fresh: a period of that length must not miss every other one."""

_FREED_AT_ONCE = 200
"""VMs that are freed before another thread may go on."""

_STEP_SECONDS = 1.0
"""Difference between the clock and the elapsed time from which the clock counts as set."""

_MANY_WARNINGS = 1000


class Sweep(Value, frozen=True, kw_only=True):
    """Present knowledge of the cloud.

    Attributes:
        inference: the states of all hosts' VMs.
        wilds: wild instances, ready to be reported.
        loads: use of the VMs of each host.
        wild_load: use of the wild instances.
        capacities: capacity of each host, as far as known.
        warning: for the operator, "" for none.
        states: VMs by reported state; counted while metrics are on.
        answered: by VM, the action that was answered last.
        inferred_at: when they were inferred, seconds since the epoch.
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

    def vms(self, host_id: int) -> list[SeenVm]:
        """The VMs of one host."""
        return list(self.inference.hosts.get(host_id, ()))

    def let_go(self, host_id: int) -> None:
        """Free a host's VMs step by step: 10,000 at once would stop a loop that runs beside for 15 ms."""
        vms = self.inference.hosts.get(host_id)
        while isinstance(vms, list) and vms:
            del vms[-_FREED_AT_ONCE:]

    def load(self, host_id: int) -> Load:
        """Return the use of a host's VMs and of the wild instances, which take capacity as well."""
        own = self.loads.get(host_id, Load())
        return Load(cpu=own.cpu + self.wild_load.cpu, memory=own.memory + self.wild_load.memory)


class Sweeper:
    """Lists one cloud for all its hosts.

    Args:
        source: the cloud, and the configuration.
        clock: seconds since the epoch.
        memory: of an earlier process.
        reported_names: attributes that an earlier process has reported.

    Attributes:
        memory: present knowledge of the instances.
        failing_since: loop time since which the cloud does not answer, None while it does.
        error: why it does not answer, "" while it does.
        hosts: monitored hosts.
        stale_names: attributes that the core may show of VMs.
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
        self._judging = asyncio.Lock()
        self._offset = clock() - self._loop.time()
        self._running: asyncio.Task[Sweep] | None = None
        self._listing: Listing | None = None
        self._listed_at = 0.0
        self._failures = 0
        self._asked_again_at = 0.0
        self._last_error: MadError | None = None
        self._capacity = CapacityReader(time=self._loop.time, clock=clock)
        self._figures = FigureKeeper(self._loop.time)
        self._warned: set[str] = set()
        self.memory = memory or Memory()
        self.failing_since: float | None = None
        self.error = ""
        self.hosts: frozenset[int] = frozenset()
        self.stale_names = StaleNames(reported_names)

    def know_core(self, allocations: Allocations) -> None:
        """Ask OpenNebula from now on for its allocations on hosts of limited capacity."""
        self._capacity.allocations = allocations

    async def sweep(self) -> Sweep:
        """List and infer states; callers share a sweep that runs, and a fresh listing.

        Raises:
            MadError: the cloud did not answer, or not completely, or the journal cannot be read.
        """
        if self._running is None:
            self._running = asyncio.create_task(self._sweep(), name="sweep")
            self._running.add_done_callback(retrieve_exception)
        return await asyncio.shield(self._running)

    async def _sweep(self) -> Sweep:
        """List and infer states. Any failure counts as the cloud's: no defect is to put a host into ERROR."""
        try:
            return await self._look_and_judge()
        except MadError as error:
            self._failed(error)
            raise
        except asyncio.CancelledError as error:
            if is_cancelled(error):
                raise
            # A provider that is closed, in the end or for new settings, cancels its listing.
            called_off = ProviderUnavailable("the listing was called off before it was complete")
            self._failed(called_off)
            raise called_off from error
        except Exception as error:
            log.exception("sweep failed unexpectedly")
            raise self._failed(_defect(error)) from error

    async def _look_and_judge(self) -> Sweep:
        begun = self._loop.time()
        try:
            watched = await self._source.current()
            settings = self._source.report_settings().monitor
            if isinstance(watched.provider, NamedAttributes):
                self.stale_names.expect(watched.provider.attribute_names)
            self._capacity.ask(watched)
            listing = await self._listed(watched, settings)
            self._figures.ask(watched, listing.instances)
        finally:
            self._running = None  # a later caller needs a later listing
        async with self._judging:
            self._mind_the_clock()
            listing = self._listing or listing  # a later one may have come meanwhile
            listing = msgspec.structs.replace(listing, hosts=self.hosts)
            since = unseen_since_when(self.memory, listing, grace=watched.provider.visibility_grace)
            activity = await self._activity.read(watched.journal, since=since)
            self._capacity.note(activity.refusal, watched)
            known = self._figures.known()
            sweep = await in_thread_if_large(
                len(listing.instances), lambda: _judged(self.memory, listing, activity, watched, settings, known)
            )
            sweep = msgspec.structs.replace(sweep, answered=activity.answered, inferred_at=self._clock())
            self.memory = sweep.inference.memory  # at once: the clock may be set back while the room is waited for
            sweep = await self._with_rooms(sweep, listing, watched)
            self._succeeded(sweep.inference)
            if metrics.recorder is not None:
                seconds = self._loop.time() - begun
                metrics.recorder.swept(listing.began_at, seconds, sweep.states, held=len(sweep.inference.held))
        return sweep

    async def _with_rooms(self, sweep: Sweep, listing: Listing, watched: OpenCloud) -> Sweep:
        capacity = self._source.report_settings().capacity
        shown = SweepResult(
            provider=watched.provider, listed=listing.instances, hosts=listing.hosts, inference=sweep.inference
        )
        limits, capacities = await in_thread_if_large(
            len(listing.instances), lambda: self._capacity.capacities(capacity, shown)
        )
        self._capacity.ask_core(limits, shown)
        if await self._capacity.settled(limits, shown):
            limits, capacities = await in_thread_if_large(
                len(listing.instances), lambda: self._capacity.capacities(capacity, shown)
            )
        if limits.sizes and (strange := unknown_types(capacity, limits.sizes)):
            self._warn_once(f"capacity.instance_types: the cloud has no {', '.join(strange)}")
        warning = sweep.warning or self._capacity.warning(limits, shown)
        return msgspec.structs.replace(sweep, capacities=capacities, warning=warning)

    def _mind_the_clock(self) -> None:
        """Shift remembered times when the clock was set back."""
        offset = self._clock() - self._loop.time()
        back, self._offset = self._offset - offset, offset
        if back < _STEP_SECONDS:
            return
        log.warning("the clock was set back", by=round(back, 1))
        self.memory = set_back(self.memory, back)
        if self._listing is not None:
            self._listing = msgspec.structs.replace(self._listing, began_at=self._listing.began_at - back)

    # Listing

    async def _listed(self, watched: OpenCloud, settings: MonitorSettings) -> Listing:
        self._mind_the_clock()
        now = self._loop.time()
        is_fresh = now - self._listed_at < _AS_GOOD_AS_NEW * settings.min_list_interval
        if self._listing is not None and is_fresh and not self._failures:
            return self._listing
        if now < self._asked_again_at and self._last_error is not None:
            raise self._last_error.with_traceback(None)  # its traceback would grow with each raise
        self._listed_at = now
        began_at = self._clock()
        try:
            async with asyncio.timeout(watched.call_timeout):
                listed = by_id(await watched.provider.list_instances())
        except TimeoutError as error:
            late = f"{watched.provider.name} did not answer within {watched.call_timeout:g} s"
            raise self._paused(ProviderUnavailable(late), settings) from error
        except MadError as error:
            self._paused(error, settings)
            raise
        except Exception as error:
            log.exception("listing failed unexpectedly")
            raise self._paused(_defect(error), settings) from error
        if metrics.recorder is not None:
            metrics.recorder.called("list", self._loop.time() - now)
        lookup = await self._look_up(watched, settings, listed)
        began_at = min(began_at, self._clock() - (self._loop.time() - now))  # the clock may have been set back
        instances = [*listed.values(), *lookup.found.values()]
        self._listing = Listing(began_at=began_at, instances=instances, unasked=lookup.unasked)
        return self._listing

    async def _look_up(
        self, watched: OpenCloud, settings: MonitorSettings, listed: Mapping[DeployId, Instance]
    ) -> Lookup:
        """Look up by id instances that the listing lacks: it may look complete and lag behind."""
        memory, missing_after = self.memory, settings.missing_after
        absent = await in_thread_if_large(len(memory.vms), lambda: lacking(memory, listed, missing_after=missing_after))
        return await look_up(watched, absent)

    def _paused(self, error: MadError, settings: MonitorSettings) -> MadError:
        """Ask a cloud that does not answer less often, and return the error."""
        if metrics.recorder is not None:
            metrics.recorder.called("list", self._loop.time() - self._listed_at, error)
        self._failures += 1
        pause = max(settings.min_list_interval, _SHORTEST_PAUSE) * 2 ** min(self._failures - 1, 10)
        asked = error.retry_after if isinstance(error, ProviderError) else None
        self._last_error = error
        self._asked_again_at = self._loop.time() + max(min(pause, _LONGEST_PAUSE), asked or 0.0)
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


def _judged(
    memory: Memory,
    listing: Listing,
    activity: Activity,
    watched: OpenCloud,
    settings: MonitorSettings,
    known: Mapping[DeployId, Figures],
) -> Sweep:
    rules = Rules(
        owner=watched.owner,
        grace=watched.provider.visibility_grace,
        missing_word=settings.missing_word,
        missing_after=settings.missing_after,
        unusual_share=settings.unusual_share,
        unusual_count=settings.unusual_count,
        unusual_hold=settings.unusual_hold,
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
        warning=_warning(inference, watched.provider),
        states=_states(inference) if metrics.recorder is not None else {},
    )


def _states(inference: Inference) -> dict[str, int]:
    """Return the number of VMs of all hosts in each reported state, zeros included."""
    words = Counter(vm.state.state for vms in inference.hosts.values() for vm in vms)
    return {word.value.lower(): words[word] for word in VmWord}


def _upstreams(listing: Listing, provider: Provider) -> dict[DeployId, VmId]:
    """Return the VMs of instances that carry only the tags of upstream's driver, where these count."""
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
    """Do work on so many things: here where they are few, else in a thread, so that the loop goes on."""
    return work() if size < MANY else await asyncio.to_thread(work)


def retrieve_exception(task: asyncio.Task[Sweep]) -> None:
    """Read a task's error, which asyncio would log when no caller waits any more."""
    if not task.cancelled():
        task.exception()  # a caller that waits gets it as well
