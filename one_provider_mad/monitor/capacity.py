"""Compute each host's capacity: configured or from the cloud's limits, less what other instances take.

OpenNebula's scheduler compares TOTALCPU and TOTALMEMORY of a host with what its VMs there ask for (HOST_SHARE), not
with USEDCPU. So the capacity that other instances take comes off the total, and the total of a full host is what
OpenNebula has allocated on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import structlog

from one_provider_mad.domain import DeployId, Instance, InstanceState, Value, VmId
from one_provider_mad.errors import MadError
from one_provider_mad.journal.records import Refusal
from one_provider_mad.monitor.cloud_source import OpenCloud
from one_provider_mad.monitor.host import UNLIMITED, Load, capacity_of
from one_provider_mad.monitor.inference import Inference
from one_provider_mad.monitor.settings import CapacitySettings
from one_provider_mad.providers.interface import (
    Capacity,
    CapacitySource,
    ImportHints,
    ImportSource,
    Provider,
    Size,
    SizedInstances,
)

log = structlog.get_logger()

_Answer = TypeVar("_Answer")

CAPACITY_SECONDS = 60.0
"""How often the cloud is asked for its limits, and OpenNebula for its allocations."""

LIMIT_SECONDS = 600.0
"""How long a limit counts that only a refusal has shown: it may have been raised since."""

URGENT_SECONDS = 2.0
"""How long a sweep waits for an urgent answer: up to 5.10 the next report is minutes away."""

_RUNNING = (InstanceState.PENDING, InstanceState.RUNNING)


class Allocation(Value, frozen=True, kw_only=True):
    """OpenNebula's allocations on a host.

    Attributes:
        load: of its CPU and memory.
        vm_ids: the VMs on it.
    """

    load: Load
    vm_ids: frozenset[VmId]


Allocations = Callable[[Collection[int]], Awaitable[Mapping[int, Allocation]]]
"""Returns OpenNebula's allocations on these hosts; raises MadError."""


class Limits(Value, frozen=True, kw_only=True):
    """Known limits, to be applied to a listing.

    Attributes:
        settings: the table `[capacity]`.
        sizes: instance types of the provider.
        reported: the cloud's answer; None before the first.
        elsewhere: use of it by others than a host's VMs, where the cloud reports what is in use.
        most: how many instances may exist, None for any number.
        most_running: how many may run, as a refusal has shown; None for any number.
        allocations: OpenNebula's, by host, as far as known.
        orphans: instances of VMs that OpenNebula did not have on their host when it was asked.
    """

    settings: CapacitySettings
    sizes: Mapping[str, Size] = {}
    reported: Capacity | None = None
    elsewhere: Mapping[int, Size] = {}
    most: int | None = None
    most_running: int | None = None
    allocations: Mapping[int, Allocation] = {}
    orphans: frozenset[DeployId] = frozenset()

    @property
    def is_any(self) -> bool:
        """True when anything limits the capacity."""
        reported, settings = self.reported or Capacity(), self.settings
        known = (self.most, self.most_running, reported.cpu, reported.memory, settings.cpu, settings.memory)
        return any(each is not None for each in known) or bool(settings.instance_types)


class SweepResult(Value, frozen=True, kw_only=True):
    """Result of a sweep.

    Attributes:
        provider: the cloud.
        listed: everything in the account.
        hosts: monitored hosts.
        inference: the VMs of each.
    """

    provider: Provider
    listed: Sequence[Instance]
    hosts: Collection[int]
    inference: Inference

    def own(self, host_id: int) -> list[Instance]:
        """The instances of a host's VMs."""
        return [vm.instance for vm in self.inference.hosts.get(host_id, ()) if vm.instance is not None]

    def alive(self) -> frozenset[DeployId]:
        """Return the instances of all hosts' VMs that are not gone."""
        return frozenset(
            each.deploy_id for host_id in self.hosts for each in self.own(host_id) if not each.state.is_gone
        )

    def taken(self, instances: Iterable[Instance]) -> Size:
        """Return the size of these instances, as far as it is known."""
        sizes = [size for each in instances if not each.state.is_gone and (size := self._size_of(each)) is not None]
        return Size(cpu=sum(each.cpu for each in sizes), memory=sum(each.memory for each in sizes))

    def _size_of(self, instance: Instance) -> Size | None:
        if isinstance(self.provider, SizedInstances):
            return self.provider.size_of(instance)
        hints = hints_of(instance, self.provider)
        return hints.size if hints is not None else None

    @property
    def count(self) -> int:
        """Return how many instances there are."""
        return sum(not each.state.is_gone for each in self.listed)

    @property
    def running(self) -> int:
        """Return how many run, or begin to."""
        return sum(each.state in _RUNNING for each in self.listed)


def hints_of(instance: Instance, provider: Provider) -> ImportHints | None:
    """Return the provider's import hints for an instance; None when the provider fails on an odd one."""
    if not isinstance(provider, ImportSource):
        return None
    try:
        return provider.import_hints(instance)
    except Exception:
        log.exception("no import hints for an instance", deploy_id=instance.deploy_id)
        return None


def capacities_of(limits: Limits, swept: SweepResult) -> Mapping[int, Size]:
    """Return the capacity of each host; hosts of unknown capacity are left out. PURE."""
    whole = _whole(limits)
    if whole is None:
        return {}
    if not limits.is_any:
        return dict.fromkeys(swept.hosts, whole)
    places = places_left(limits, swept)
    return {host_id: _capacity_on(host_id, whole, places, limits, swept) for host_id in swept.hosts}


def places_left(limits: Limits, swept: SweepResult) -> int | None:
    """Return how many more instances may be created, None for any number. PURE."""
    left = []
    if limits.most is not None:
        left.append(limits.most - swept.count)
    if limits.most_running is not None:
        left.append(limits.most_running - swept.running)
    return max(0, min(left)) if left else None


def _whole(limits: Limits) -> Size | None:
    settings, reported = limits.settings, limits.reported
    is_set = settings.instance_types or (settings.cpu is not None and settings.memory is not None)
    if reported is None and not is_set:
        return None
    cpu = reported.cpu if reported is not None and reported.cpu is not None else UNLIMITED.cpu
    memory = reported.memory if reported is not None and reported.memory is not None else UNLIMITED.memory
    return capacity_of(settings, limits.sizes, Size(cpu=cpu, memory=memory))


def _capacity_on(host_id: int, whole: Size, places: int | None, limits: Limits, swept: SweepResult) -> Size:
    capacity = _less(whole, _taken_by_others(host_id, limits, swept))
    if places is None:
        return capacity
    if not places and host_id not in limits.allocations:
        return Size(cpu=0, memory=0)  # full, and the allocations are unknown
    held, count = _held(host_id, limits, swept)
    each = _largest(limits) or Size(cpu=held.cpu / max(1, count), memory=held.memory // max(1, count))
    if places and not each.cpu:
        return capacity  # no size is known
    return Size(
        cpu=min(capacity.cpu, held.cpu + places * each.cpu),
        memory=min(capacity.memory, held.memory + places * each.memory),
    )


def _taken_by_others(host_id: int, limits: Limits, swept: SweepResult) -> Size:
    """Return what comes off the whole: of a cloud's own limit all but this host's instances, else its orphans."""
    if host_id in limits.elsewhere:
        return limits.elsewhere[host_id]
    own, reported = swept.own(host_id), limits.reported or Capacity()
    if reported.cpu is None and reported.memory is None:
        return swept.taken(each for each in own if each.deploy_id in limits.orphans)
    ours = {each.deploy_id for each in own} - limits.orphans
    return swept.taken(each for each in swept.listed if each.deploy_id not in ours)


def _largest(limits: Limits) -> Size | None:
    """Return the largest of the cloud's types, where it has a limit on instances."""
    if limits.most is None or not limits.sizes:
        return None
    sizes = limits.sizes.values()
    return Size(cpu=max(each.cpu for each in sizes), memory=max(each.memory for each in sizes))


def _held(host_id: int, limits: Limits, swept: SweepResult) -> tuple[Size, int]:
    """Return OpenNebula's allocations on a host and their number of VMs; without them, those of its instances."""
    given = limits.allocations.get(host_id)
    if given is not None:
        return Size(cpu=given.load.cpu / 100, memory=given.load.memory // 1024), len(given.vm_ids)
    own = swept.own(host_id)
    return swept.taken(own), len(own)


def _less(whole: Size, taken: Size) -> Size:
    return Size(cpu=max(0.0, whole.cpu - taken.cpu), memory=max(0, whole.memory - taken.memory))


class CapacityReader:
    """Asks the cloud for limits and OpenNebula for allocations, and remembers refusals.

    Args:
        time: seconds that never go backwards.
        clock: seconds since the epoch.

    Attributes:
        allocations: asks OpenNebula; None where it cannot be asked.
    """

    def __init__(self, *, time: Callable[[], float], clock: Callable[[], float]) -> None:
        self._time = time
        self._clock = clock
        self._of: object = None
        self._answer: Capacity | None = None
        self._reported: Capacity | None = None
        self._elsewhere: Mapping[int, Size] = {}
        self._most: int | None = None
        self._due_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._refusal: Refusal | None = None
        self._refused_until = 0.0
        self._most_running: int | None = None
        self._given: Mapping[int, Allocation] = {}
        self._orphans: frozenset[DeployId] = frozenset()
        self._given_due_at = 0.0
        self._given_of: frozenset[DeployId] = frozenset()
        self._asking_core: asyncio.Task[None] | None = None
        self._is_urgent = True
        self.allocations: Allocations | None = None

    # Asking the cloud

    def ask(self, watched: OpenCloud) -> None:
        """Ask for limits beside the listing, if it is time; mostly a later sweep has the answer."""
        provider = watched.provider
        if provider is not self._of:  # another one, after an edit of the configuration
            self._of, self._due_at = provider, 0.0
        if not isinstance(provider, CapacitySource):
            self._reported, self._elsewhere, self._most = Capacity(), {}, None
        elif self._asking is None and self._time() >= self._due_at:
            self._due_at = self._time() + CAPACITY_SECONDS
            self._asking = asyncio.create_task(self._learn(provider, watched.call_timeout), name="ask for capacity")

    async def _learn(self, provider: CapacitySource, patience: float) -> None:
        try:
            answer = await _answered(provider.capacity(), patience, "capacity not known")
        finally:
            self._asking = None
        if provider is not self._of:  # of settings that were replaced meanwhile
            return
        if not isinstance(answer, _Silence):
            self._answer = (
                Capacity(cpu=answer.cpu, memory=answer.memory) if isinstance(answer, Size) else answer or Capacity()
            )
        elif self._reported is None:
            self._due_at = 0.0

    def note(self, refusal: Refusal | None, watched: OpenCloud) -> None:
        """Take the refusal that the action driver has noted; after a new one the cloud is asked at once."""
        if refusal is None or refusal == self._refusal:
            return
        self._refusal, self._most_running = refusal, None
        age = max(0.0, self._clock() - refusal.at)
        self._refused_until = self._time() + LIMIT_SECONDS - age if refusal.is_limit else 0.0
        if age < LIMIT_SECONDS:
            self._due_at = self._given_due_at = 0.0
            self._is_urgent = True
            self.ask(watched)

    async def settled(self, limits: Limits, swept: SweepResult) -> bool:
        """Wait briefly for urgent answers: the first, one after a refusal, and allocations where instances are limited.

        Returns:
            True when there is a new answer.
        """
        wanted = [self._asking if self._is_urgent else None]
        wanted.append(self._asking_core if places_left(limits, swept) is not None else None)
        pending = [task for task in wanted if task is not None]
        done = (await asyncio.wait(pending, timeout=URGENT_SECONDS))[0] if pending else set()
        return bool(done) or (self._is_urgent and self._answer is not None)

    # Computing

    def capacities(self, settings: CapacitySettings, swept: SweepResult) -> tuple[Limits, Mapping[int, Size]]:
        """Return the known limits, and the capacity of each host. Slow with many instances: not for the event loop."""
        if self._answer is not None:
            self._take(self._answer, swept)
        if self._is_limited:
            self._most_running = max(self._most_running or 0, swept.running)
        limits = Limits(
            settings=settings,
            sizes=swept.provider.instance_sizes() if isinstance(swept.provider, CapacitySource) else {},
            reported=self._reported,
            elsewhere=self._elsewhere,
            most=self._most,
            most_running=self._most_running if self._is_limited else None,
            allocations=self._given,
            orphans=self._orphans,
        )
        return limits, capacities_of(limits, swept)

    def _take(self, answer: Capacity, swept: SweepResult) -> None:
        """Turn an answer about the present instances into limits that hold as instances come and go."""
        self._answer, self._reported, used, self._is_urgent = None, answer, answer.used, False
        self._most = answer.most if answer.left is None else swept.count + answer.left
        self._elsewhere = (
            {host_id: _less(used, swept.taken(self._known_own(host_id, swept))) for host_id in swept.hosts}
            if used is not None
            else {}
        )

    def _known_own(self, host_id: int, swept: SweepResult) -> list[Instance]:
        return [each for each in swept.own(host_id) if each.deploy_id not in self._orphans]

    @property
    def _is_limited(self) -> bool:
        """True when a recent refusal has shown a limit that holds for every VM."""
        refusal = self._refusal
        return refusal is not None and refusal.is_general and self._time() < self._refused_until

    def warning(self, limits: Limits, swept: SweepResult) -> str:
        """Return a warning about limits for the operator, "" for none."""
        refusal, is_full = self._refusal, places_left(limits, swept) == 0
        if refusal is not None and self._time() < self._refused_until:
            if not refusal.is_general:
                return f"VM {refusal.vm_id} was refused by a limit: {refusal.text}"
            if is_full:
                return f"no further instance can be made: {refusal.text}"
        alive = {each.deploy_id for each in swept.listed if not each.state.is_gone} if is_full else set()
        if left_over := sorted(self._orphans & alive):
            many = f" and {len(left_over) - 1} more" if len(left_over) > 1 else ""
            return (
                f"the cloud is full, and its instance {left_over[0]}{many} may be an orphan: see one-provider orphans"
            )
        return ""

    # Asking OpenNebula

    def ask_core(self, limits: Limits, swept: SweepResult) -> None:
        """Ask OpenNebula for its allocations, beside the sweeps.

        Where the number of instances is limited, that is with each sweep while hosts are full, and when instances have
        come or gone: the allocations and the remaining places have to be of the same time.
        """
        if not limits.is_any or self.allocations is None or self._asking_core is not None:
            return
        places = places_left(limits, swept)
        alive = swept.alive() if places else frozenset()
        if self._time() < self._given_due_at and (places is None or (places > 0 and alive == self._given_of)):
            return
        self._given_due_at, self._given_of = self._time() + CAPACITY_SECONDS, alive
        vms = {
            host_id: [(vm.state.vm_id, vm.state.deploy_id) for vm in swept.inference.hosts.get(host_id, ())]
            for host_id in swept.hosts
        }
        self._asking_core = asyncio.create_task(self._learn_given(self.allocations, vms), name="ask for allocations")

    async def _learn_given(self, allocations: Allocations, vms: Mapping[int, Sequence[tuple[VmId, DeployId]]]) -> None:
        """Take the allocations; an instance that was listed before, and whose VM is not among them, is an orphan."""
        try:
            given = await _answered(allocations(list(vms)), CAPACITY_SECONDS, "allocations not known")
        finally:
            self._asking_core = None
        if isinstance(given, _Silence):
            return
        self._given, before = given, self._orphans
        self._orphans = frozenset(
            deploy_id
            for host_id, pairs in vms.items()
            if host_id in given
            for vm_id, deploy_id in pairs
            if vm_id not in given[host_id].vm_ids
        )
        if self._orphans != before:
            self._due_at = 0.0  # the use elsewhere was computed without them


class _Silence:
    """There was no answer."""


async def _answered(question: Awaitable[_Answer], patience: float, loss: str) -> _Answer | _Silence:
    try:
        async with asyncio.timeout(patience):
            return await question
    except (MadError, TimeoutError) as error:
        log.warning(loss, reason=str(error) or f"no answer within {patience:g} s")
    except Exception:
        log.exception(loss)
    return _Silence()
