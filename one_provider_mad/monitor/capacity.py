"""Compute each host's capacity: the configured one or the cloud's limits, less what instances outside OpenNebula take.

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
from one_provider_mad.journal.records import Refusal, Shortage
from one_provider_mad.monitor.cloud_source import OpenCloud
from one_provider_mad.monitor.host import UNLIMITED, Load, capacity_of
from one_provider_mad.monitor.inference import Inference, InferredVm
from one_provider_mad.monitor.settings import CapacitySettings
from one_provider_mad.monitor.shortages import LIMIT_SECONDS, Closure, Shortages
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
"""Seconds between two requests to the cloud for its limits, and to OpenNebula for its allocations."""

URGENT_SECONDS = 2.0
"""Most seconds that a sweep waits for the limits or allocations when they are needed at once; then it goes on without
them. Up to 5.10 the next report would be minutes away."""

_RUNNING = (InstanceState.PENDING, InstanceState.RUNNING)


class Allocation(Value, frozen=True, kw_only=True):
    """CPU and memory that OpenNebula has allocated to VMs on a host (HOST_SHARE).

    Attributes:
        load: the allocated CPU and memory.
        vm_ids: the VMs on the host.
    """

    load: Load
    vm_ids: frozenset[VmId]


Allocations = Callable[[Collection[int]], Awaitable[Mapping[int, Allocation]]]
"""A function that asks OpenNebula for its allocations on hosts, given by number; raises MadError."""


class Limits(Value, frozen=True, kw_only=True):
    """What limits the capacity of hosts, as far as known; a listing then tells how much is left.

    Attributes:
        settings: the table `[capacity]`.
        sizes: instance types of the provider.
        reported: the limits that the cloud reported; None before its first answer.
        elsewhere: for each host, the capacity that others than the host's VMs use; empty if the cloud does not report
            how much is in use.
        most: how many instances may exist, None for any number.
        most_running: how many may run: as many as ran when a create was refused; None for any number.
        closure: why no usual VM finds room, None while one may.
        allocations: OpenNebula's allocations on each host, as far as known.
        orphans: instances tagged for a VM that was not on the host when OpenNebula was asked for its allocations.
    """

    settings: CapacitySettings
    sizes: Mapping[str, Size] = {}
    reported: Capacity | None = None
    elsewhere: Mapping[int, Size] = {}
    most: int | None = None
    most_running: int | None = None
    closure: Closure | None = None
    allocations: Mapping[int, Allocation] = {}
    orphans: frozenset[DeployId] = frozenset()

    @property
    def is_any(self) -> bool:
        """True when the configuration, the cloud or a refusal limits the capacity."""
        reported, settings = self.reported or Capacity(), self.settings
        known = (self.most, self.most_running, reported.cpu, reported.memory, settings.cpu, settings.memory)
        is_known = any(each is not None for each in (*known, self.closure))
        return is_known or bool(settings.instance_types)


class SweepResult(Value, frozen=True, kw_only=True):
    """What a sweep has found, for computing capacities.

    Attributes:
        provider: the cloud.
        listed: every instance in the account and region.
        hosts: numbers of the monitored hosts.
        inference: the VMs of each host, with their instances.
    """

    provider: Provider
    listed: Sequence[Instance]
    hosts: Collection[int]
    inference: Inference

    def own(self, host_id: int) -> list[Instance]:
        """Return the listed instances of a host's VMs."""
        return [vm.instance for vm in self.inference.hosts.get(host_id, ()) if vm.instance is not None]

    def alive(self) -> frozenset[DeployId]:
        """Return the ids of all hosts' instances, without terminated ones."""
        return frozenset(
            each.deploy_id for host_id in self.hosts for each in self.own(host_id) if not each.state.is_gone
        )

    def taken(self, instances: Iterable[Instance]) -> Size:
        """Return the sum of the instances' CPU and memory; terminated ones, and those of unknown size, are left out."""
        sizes = [size for each in instances if not each.state.is_gone and (size := self._size_of(each)) is not None]
        return Size(cpu=sum(each.cpu for each in sizes), memory=sum(each.memory for each in sizes))

    def _size_of(self, instance: Instance) -> Size | None:
        if isinstance(self.provider, SizedInstances):
            return self.provider.size_of(instance)
        hints = hints_of(instance, self.provider)
        return hints.size if hints is not None else None

    @property
    def count(self) -> int:
        """Return the number of listed instances, without terminated ones."""
        return sum(not each.state.is_gone for each in self.listed)

    @property
    def running(self) -> int:
        """Return the number of listed instances that run or are starting."""
        return sum(each.state in _RUNNING for each in self.listed)


def hints_of(instance: Instance, provider: Provider) -> ImportHints | None:
    """Return the provider's import hints for an instance; None when it has none or fails."""
    if not isinstance(provider, ImportSource):
        return None
    try:
        return provider.import_hints(instance)
    except Exception:
        log.exception("no import hints for an instance", deploy_id=instance.deploy_id)
        return None


def capacities_of(limits: Limits, swept: SweepResult) -> Mapping[int, Size]:
    """Return the capacity of each host, {} while it is unknown. Calls nothing."""
    whole = _whole(limits)
    if whole is None:
        return {}
    if not limits.is_any:
        return dict.fromkeys(swept.hosts, whole)
    remaining = remaining_instances(limits, swept)
    return {host_id: _capacity_on(host_id, whole, remaining, limits, swept) for host_id in swept.hosts}


def remaining_instances(limits: Limits, swept: SweepResult) -> int | None:
    """Return how many more instances the limits allow, None for any number. Calls nothing."""
    left = [0] if limits.closure is not None else []
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


def _capacity_on(host_id: int, whole: Size, remaining: int | None, limits: Limits, swept: SweepResult) -> Size:
    capacity = _less(whole, _taken_by_others(host_id, limits, swept))
    if remaining is None:
        return capacity
    if not remaining and host_id not in limits.allocations:
        return Size(cpu=0, memory=0)  # no instance can be added, and what OpenNebula has allocated is unknown
    allocated, count = _allocated(host_id, limits, swept)
    each = _largest(limits) or Size(cpu=allocated.cpu / max(1, count), memory=allocated.memory // max(1, count))
    if remaining and not each.cpu:
        return capacity  # the size of one more instance is unknown
    return Size(
        cpu=min(capacity.cpu, allocated.cpu + remaining * each.cpu),
        memory=min(capacity.memory, allocated.memory + remaining * each.memory),
    )


def _taken_by_others(host_id: int, limits: Limits, swept: SweepResult) -> Size:
    """Return the CPU and memory of the instances that are not VMs of this host.

    Where the cloud reports limits, these are all instances but the host's; of a configured capacity, only its orphans.
    """
    if host_id in limits.elsewhere:
        return limits.elsewhere[host_id]
    own, reported = swept.own(host_id), limits.reported or Capacity()
    if reported.cpu is None and reported.memory is None:
        return swept.taken(each for each in own if each.deploy_id in limits.orphans)
    ours = {each.deploy_id for each in own} - limits.orphans
    return swept.taken(each for each in swept.listed if each.deploy_id not in ours)


def _largest(limits: Limits) -> Size | None:
    """Return the most CPU and memory of any instance type; None if the cloud does not limit the number of instances."""
    if limits.most is None or not limits.sizes:
        return None
    sizes = limits.sizes.values()
    return Size(cpu=max(each.cpu for each in sizes), memory=max(each.memory for each in sizes))


def _allocated(host_id: int, limits: Limits, swept: SweepResult) -> tuple[Size, int]:
    """Return CPU and memory allocated on a host, and to how many VMs; if unknown, size and number of its instances."""
    given = limits.allocations.get(host_id)
    if given is not None:
        share = (
            _share_with_instances(given, swept.inference.hosts.get(host_id, ())) if limits.closure is not None else 1.0
        )
        size = Size(cpu=share * given.load.cpu / 100, memory=int(share * given.load.memory) // 1024)
        return size, len(given.vm_ids)
    own = swept.own(host_id)
    return swept.taken(own), len(own)


def _less(whole: Size, taken: Size) -> Size:
    return Size(cpu=max(0.0, whole.cpu - taken.cpu), memory=max(0, whole.memory - taken.memory))


def _share_with_instances(given: Allocation, vms: Iterable[InferredVm]) -> float:
    """Return the part of the VMs on a host that have an instance.

    A VM that was refused leaves the host when it is recreated, seconds before a report can say so: what was allocated
    to it would look like room, and the scheduler would send it there again. OpenNebula tells only the sum for all VMs.
    """
    alive = {vm.state.vm_id for vm in vms if vm.instance is not None and not vm.instance.state.is_gone}
    return len(given.vm_ids & alive) / len(given.vm_ids) if given.vm_ids else 1.0


class CapacityReader:
    """Asks the cloud for its limits and OpenNebula for its allocations, and remembers the latest refused create.

    Args:
        time: seconds that never go backwards.
        clock: seconds since the epoch.

    Attributes:
        allocations: the function that asks OpenNebula; None where OpenNebula cannot be asked.
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
        self._was_exhausted = False
        self._shortages = Shortages(time=time, clock=clock)
        self._types: list[str] = []
        self._closure: Closure | None = None
        self._is_at_limit = False
        self._allocations_known: Mapping[int, Allocation] = {}
        self._orphans: frozenset[DeployId] = frozenset()
        self._allocations_due_at = 0.0
        self._allocations_for: frozenset[DeployId] = frozenset()
        self._asking_core: asyncio.Task[None] | None = None
        self._is_urgent = True
        self.allocations: Allocations | None = None

    # Asking the cloud

    def ask(self, watched: OpenCloud) -> None:
        """Start asking the cloud for its limits if due. Does not wait: usually a later sweep uses the answer."""
        provider = watched.provider
        if provider is not self._of:  # the configuration was edited
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
        if provider is not self._of:  # the configuration was edited meanwhile
            return
        if not isinstance(answer, _NoAnswer):
            self._answer = (
                Capacity(cpu=answer.cpu, memory=answer.memory) if isinstance(answer, Size) else answer or Capacity()
            )
        elif self._reported is None:
            self._due_at = 0.0

    def note(self, refusal: Refusal | None, shortages: Sequence[Shortage], watched: OpenCloud) -> None:
        """Take what the cloud refused from the journal; after a new refusal ask the cloud for its limits at once.

        Args:
            refusal: the latest refused create, None for none.
            shortages: the kinds of instances that were refused, and not created since.
            watched: the cloud.
        """
        self._shortages.note(shortages)
        if refusal == self._refusal:
            return
        self._refusal, self._most_running, self._was_exhausted = refusal, None, False
        if refusal is None:  # an instance of the same kind was created since
            return
        age = max(0.0, self._clock() - refusal.at)
        self._refused_until = self._time() + LIMIT_SECONDS - age if refusal.is_limit else 0.0
        if age < LIMIT_SECONDS:
            self._due_at = self._allocations_due_at = 0.0
            self._is_urgent = True
            self.ask(watched)

    def is_news(self, refusal: Refusal | None, shortages: Sequence[Shortage], provider: Provider) -> bool:
        """Return True if the room may be another than at the last sweep.

        That is if the journal has other refusals, if one of those counts no longer, or if the cloud's limit was
        reached: then it has to be asked.
        """
        if refusal != self._refusal or not self._shortages.has(shortages) or self._is_at_limit:
            return True
        return (self._shortages.closure(provider, self._types) is None) != (self._closure is None)

    async def wait_for_urgent_answers(self, limits: Limits, swept: SweepResult) -> bool:
        """Wait up to URGENT_SECONDS for an urgent answer.

        Urgent are the cloud's first answer, its answer after a refused create, and, where the number of instances is
        limited, OpenNebula's allocations.

        Returns:
            True when an answer has arrived, so that capacities are to be computed anew.
        """
        wanted = [self._asking if self._is_urgent else None]
        wanted.append(self._asking_core if remaining_instances(limits, swept) is not None else None)
        pending = [task for task in wanted if task is not None]
        done = (await asyncio.wait(pending, timeout=URGENT_SECONDS))[0] if pending else set()
        return bool(done) or (self._is_urgent and self._answer is not None)

    def calls_under_way(self) -> list[asyncio.Task[None]]:
        """Return the tasks that ask the cloud for its limits, and OpenNebula for its allocations."""
        return [task for task in (self._asking, self._asking_core) if task is not None]

    # Computing

    def capacities(self, settings: CapacitySettings, swept: SweepResult) -> tuple[Limits, Mapping[int, Size]]:
        """Return the known limits, and the capacity of each host. Slow with many instances: use a thread."""
        if self._answer is not None:
            self._take(self._answer, swept)
        if self._is_limited:
            self._most_running = max(self._most_running or 0, swept.running)
        sizes = swept.provider.instance_sizes() if isinstance(swept.provider, CapacitySource) else {}
        self._types = [name for name in settings.instance_types if name in sizes]
        self._closure = self._shortages.closure(swept.provider, self._types)
        limits = Limits(
            settings=settings,
            sizes=sizes,
            reported=self._reported,
            elsewhere=self._elsewhere,
            most=self._most,
            most_running=self._most_running if self._is_limited else None,
            closure=self._closure,
            allocations=self._allocations_known,
            orphans=self._orphans,
        )
        self._is_at_limit = limits.closure is None and remaining_instances(limits, swept) == 0
        return limits, capacities_of(limits, swept)

    def _take(self, answer: Capacity, swept: SweepResult) -> None:
        """Turn the cloud's answer about its present instances into limits that hold when instances come and go."""
        self._answer, self._reported, used, self._is_urgent = None, answer, answer.used, False
        self._most = answer.most if answer.left is None else swept.count + answer.left
        self._see_quota(answer, swept)
        self._elsewhere = (
            {host_id: _less(used, swept.taken(self._known_own(host_id, swept))) for host_id in swept.hosts}
            if used is not None
            else {}
        )

    def _see_quota(self, answer: Capacity, swept: SweepResult) -> None:
        """End a refusal by a limit once the cloud, after it has shown that the limit is reached, shows room again."""
        is_exhausted = _is_exhausted(answer, count=swept.count)
        if self._was_exhausted and not is_exhausted:
            self._refused_until = 0.0
        self._was_exhausted = is_exhausted

    def _known_own(self, host_id: int, swept: SweepResult) -> list[Instance]:
        return [each for each in swept.own(host_id) if each.deploy_id not in self._orphans]

    @property
    def _is_limited(self) -> bool:
        """True when a create was refused in the last LIMIT_SECONDS by a limit that holds for every VM."""
        refusal = self._refusal
        return refusal is not None and refusal.is_general and self._time() < self._refused_until

    def warning(self, limits: Limits, swept: SweepResult) -> str:
        """Return the warning about reached limits that the host shows, "" for none."""
        if limits.closure is not None:
            return limits.closure.sentence
        refusal, is_full = self._refusal, remaining_instances(limits, swept) == 0
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
        """Start asking OpenNebula for its allocations if that is due. Does not wait for the answer.

        Where the number of instances is limited, that is due whenever instances have come or gone, and with each sweep
        while no more may be created: the allocations must be as new as the number of instances.
        """
        if not limits.is_any or self.allocations is None or self._asking_core is not None:
            return
        remaining = remaining_instances(limits, swept)
        alive = swept.alive() if remaining else frozenset()
        if self._time() < self._allocations_due_at and (
            remaining is None or (remaining > 0 and alive == self._allocations_for)
        ):
            return
        self._allocations_due_at, self._allocations_for = self._time() + CAPACITY_SECONDS, alive
        vms = {
            host_id: [(vm.state.vm_id, vm.state.deploy_id) for vm in swept.inference.hosts.get(host_id, ())]
            for host_id in swept.hosts
        }
        self._asking_core = asyncio.create_task(
            self._take_allocations(self.allocations, vms), name="ask for allocations"
        )

    async def _take_allocations(
        self, allocations: Allocations, vms: Mapping[int, Sequence[tuple[VmId, DeployId]]]
    ) -> None:
        """Store OpenNebula's allocations; of the instances listed before, those of VMs without one are orphans."""
        try:
            given = await _answered(allocations(list(vms)), CAPACITY_SECONDS, "allocations not known")
        finally:
            self._asking_core = None
        if isinstance(given, _NoAnswer):
            return
        self._allocations_known, before = given, self._orphans
        self._orphans = frozenset(
            deploy_id
            for host_id, pairs in vms.items()
            if host_id in given
            for vm_id, deploy_id in pairs
            if vm_id not in given[host_id].vm_ids
        )
        if self._orphans != before:
            self._due_at = 0.0  # orphans count as use elsewhere, which has to be computed anew


def _is_exhausted(answer: Capacity, *, count: int) -> bool:
    """Return True when the cloud's answer says that its account may have nothing more."""
    used = answer.used
    return (
        answer.left == 0
        or (answer.most is not None and count >= answer.most)
        or (used is not None and answer.cpu is not None and used.cpu >= answer.cpu)
        or (used is not None and answer.memory is not None and used.memory >= answer.memory)
    )


class _NoAnswer:
    """Stands for an answer that did not come."""


async def _answered(question: Awaitable[_Answer], patience: float, loss: str) -> _Answer | _NoAnswer:
    try:
        async with asyncio.timeout(patience):
            return await question
    except (MadError, TimeoutError) as error:
        log.warning(loss, reason=str(error) or f"no answer within {patience:g} s")
    except Exception:
        log.exception(loss)
    return _NoAnswer()
