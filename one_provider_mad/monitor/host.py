"""Computes the report on a host: its capacity, how much of it is in use, and further attributes; calls nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from one_provider_mad.domain import Instance, InstanceState, Usage, Value
from one_provider_mad.monitor.cloud_source import ReportSettings
from one_provider_mad.monitor.settings import UNLIMITED_CPU, UNLIMITED_MEMORY, CapacitySettings
from one_provider_mad.protocol.reports import HostReport, Wild
from one_provider_mad.providers.interface import ImportHints, Provider, Size, SizedInstances

NOTHING = "-"
"""Value of PROVIDER_WARNING when there is no warning: an attribute of a host stays until it is reported again, so an
old warning has to be overwritten."""

LETTERS: dict[InstanceState, str] = {
    InstanceState.RUNNING: "a",
    InstanceState.STOPPED: "d",
    InstanceState.SUSPENDED: "p",
}
"""Letter of an instance's state in reports up to 5.10; every other state is `-`, which leaves the VM as it is."""

UNLIMITED = Size(cpu=UNLIMITED_CPU, memory=UNLIMITED_MEMORY)


class Load(Value, frozen=True, kw_only=True):
    """CPU and memory in use.

    Attributes:
        cpu: percent, 100 is one core.
        memory: KiB.
    """

    cpu: float = 0.0
    memory: int = 0


def capacity_of(settings: CapacitySettings, sizes: Mapping[str, Size], limit: Size | None) -> Size:
    """Return a host's capacity: the configured one, else the cloud's limit, else UNLIMITED.

    Args:
        settings: the table `[capacity]`.
        sizes: size of each instance type, for `capacity.instance_types`.
        limit: the cloud's limit, None for none.
    """
    known = {name: count for name, count in settings.instance_types.items() if name in sizes}
    if known:
        counted = Size(
            cpu=sum(sizes[name].cpu * count for name, count in known.items()),
            memory=sum(sizes[name].memory * count for name, count in known.items()),
        )
    else:
        counted = limit or UNLIMITED
    return Size(
        cpu=counted.cpu if settings.cpu is None else settings.cpu,
        memory=counted.memory if settings.memory is None else settings.memory,
    )


def configured_capacity(settings: CapacitySettings) -> Size | None:
    """Return the host's capacity if the configuration sets both CPU and memory, else None."""
    if settings.cpu is None or settings.memory is None:
        return None
    return Size(cpu=settings.cpu, memory=settings.memory)


def unknown_types(settings: CapacitySettings, sizes: Mapping[str, Size]) -> list[str]:
    """Return names in `[capacity.instance_types]` that the cloud does not have: probably typing errors."""
    return sorted(set(settings.instance_types) - set(sizes))


def load_of(usages: Iterable[Usage | None]) -> Load:
    """Return the sum of the instances' CPU and memory in use."""
    found = [usage for usage in usages if usage is not None]
    return Load(cpu=sum(usage.cpu or 0.0 for usage in found), memory=sum(usage.memory for usage in found))


def taken_by(instances: Iterable[Instance], provider: Provider) -> Load:
    """Return CPU and memory that instances take: of each its type's size if the provider knows it, else its use."""
    if not isinstance(provider, SizedInstances):
        return load_of(each.usage for each in instances)
    sizes = [size for each in instances if (size := provider.size_of(each)) is not None]
    return Load(cpu=100 * sum(size.cpu for size in sizes), memory=1024 * sum(size.memory for size in sizes))


def report_of(
    settings: ReportSettings,
    capacity: Size | None,
    load: Load,
    *,
    wilds: tuple[Wild, ...] = (),
    error: str = "",
    warning: str = "",
    costs: Mapping[str, str] | None = None,
    own: Mapping[str, str] | None = None,
) -> HostReport:
    """Return the report on a host.

    Args:
        settings: the configuration.
        capacity: the host's capacity; None while unknown: then the report has no totals.
        load: CPU and memory in use.
        wilds: wild instances.
        error: why the cloud cannot be asked, "" when it can.
        warning: the operator's warning, "" for none.
        costs: what the host's instances cost.
        own: HOSTNAME, PRIORITY and VERSION, as far as they are to be written.
    """
    return HostReport(
        hypervisor=settings.hypervisor,
        total_cpu=round(100 * capacity.cpu) if capacity else None,
        total_memory=1024 * capacity.memory if capacity else None,
        used_cpu=load.cpu,
        used_memory=load.memory,
        error=error,
        attributes={"PROVIDER_KIND": settings.kind or NOTHING, "PROVIDER_WARNING": warning or NOTHING},
        costs=costs or {},
        own=own or {},
        wilds=wilds,
    )


def wild_of(instance: Instance, hints: ImportHints | None) -> Wild:
    """Return the report on a wild instance, with size and template for its import as far as the provider knows them."""
    size = hints.size if hints else Size(cpu=0, memory=0)
    return Wild(
        deploy_id=instance.deploy_id,
        name=instance.name or instance.deploy_id,
        cpu=100 * size.cpu,
        memory=1024 * size.memory,
        public_cloud=hints.public_cloud if hints else {},
        state_letter=letter_of(instance.state),
    )


def letter_of(state: InstanceState) -> str:
    """Return the letter of an instance's state in reports up to 5.10."""
    return LETTERS.get(state, "-")
