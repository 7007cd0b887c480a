"""PURE: the capacity that a host reports, how much of it is in use, and its further attributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from one_provider_mad.domain import Instance, InstanceState, Usage, Value
from one_provider_mad.monitor.cloud_source import ReportSettings
from one_provider_mad.monitor.settings import UNLIMITED_CPU, UNLIMITED_MEMORY, CapacitySettings
from one_provider_mad.protocol.reports import HostReport, Wild
from one_provider_mad.providers.interface import ImportHints, Provider, Size, SizedInstances

NOTHING = "-"
"""PROVIDER_WARNING without a warning: an attribute of a host stays until it is reported again."""

LETTERS: dict[InstanceState, str] = {
    InstanceState.RUNNING: "a",
    InstanceState.STOPPED: "d",
    InstanceState.SUSPENDED: "p",
}
"""Letter of each state in the legacy report; every other state is `-`, which changes nothing."""

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
    """Return a host's capacity: configured, else the cloud's, else more than any VM asks for.

    Args:
        settings: the table `[capacity]`.
        sizes: instance types of the provider, to count those of the configuration.
        limit: the cloud's, None for none.
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
    """Return the capacity if the configuration sets all of it, else None."""
    if settings.cpu is None or settings.memory is None:
        return None
    return Size(cpu=settings.cpu, memory=settings.memory)


def unknown_types(settings: CapacitySettings, sizes: Mapping[str, Size]) -> list[str]:
    """Return names in `[capacity.instance_types]` that the cloud does not have: probably typing errors."""
    return sorted(set(settings.instance_types) - set(sizes))


def load_of(usages: Iterable[Usage | None]) -> Load:
    """Return the sum of the instances' use."""
    found = [usage for usage in usages if usage is not None]
    return Load(cpu=sum(usage.cpu for usage in found), memory=sum(usage.memory for usage in found))


def taken_by(instances: Iterable[Instance], provider: Provider) -> Load:
    """Return the capacity that instances take: the size of their types where the provider knows it, else their use."""
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
) -> HostReport:
    """Return the report on a host.

    Args:
        settings: the configuration.
        capacity: its capacity; None while unknown: then none is offered to the scheduler.
        load: what is in use.
        wilds: wild instances.
        error: why the cloud cannot be asked, "" when it can.
        warning: for the operator, "" for none.
    """
    return HostReport(
        hypervisor=settings.hypervisor,
        total_cpu=round(100 * capacity.cpu) if capacity else None,
        total_memory=1024 * capacity.memory if capacity else None,
        used_cpu=load.cpu,
        used_memory=load.memory,
        error=error,
        attributes={"PROVIDER_KIND": settings.kind or NOTHING, "PROVIDER_WARNING": warning or NOTHING},
        wilds=wilds,
    )


def wild_of(instance: Instance, hints: ImportHints | None) -> Wild:
    """Return a wild instance ready for import, as far as the provider knows its size and template."""
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
    """Return the letter of a state in the legacy report."""
    return LETTERS.get(state, "-")
