"""The capacity of the simulated cloud, from its limits in the settings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from one_provider_mad.domain import Instance
from one_provider_mad.providers.interface import Capacity, CheckResult, ImportHints, Size
from one_provider_mad.providers.simulated.settings import SimulatedSettings


def sizes(settings: SimulatedSettings) -> dict[str, Size]:
    """Return the size of each instance type."""
    return {name: Size(cpu=kind.cpu, memory=kind.memory) for name, kind in settings.offer.types.items()}


def whole_capacity(settings: SimulatedSettings) -> Capacity | None:
    """Return the capacity for the largest set of instances within the limits; None when a type has no limit."""
    largest_first = sorted(settings.offer.types.items(), key=lambda item: (item[1].memory, item[1].cpu), reverse=True)
    left = settings.max_instances or None
    cpu, memory = 0.0, 0
    for name, kind in largest_first:
        count = settings.capacity.get(name, left)
        if count is None:
            return None
        count = count if left is None else min(count, left)
        cpu, memory = cpu + count * kind.cpu, memory + count * kind.memory
        left = None if left is None else left - count
    return Capacity(cpu=cpu, memory=memory, most=settings.max_instances or None)


def limits(settings: SimulatedSettings) -> Capacity | None:
    """Return the capacity within the limits, and how many more instances a fault allows; None for no limit."""
    whole = whole_capacity(settings)
    return msgspec.structs.replace(whole or Capacity(), left=0) if settings.faults.full == "QuotaExceeded" else whole


def import_hints(instance: Instance) -> ImportHints:
    """Return the template values of a VM that imports this instance."""
    facts = instance.attributes
    return ImportHints(
        size=Size(cpu=float(facts.get("SIM_CPU", "0")), memory=int(facts.get("SIM_MEMORY", "0"))),
        public_cloud={
            "PROVIDER_INSTANCE_TYPE": facts.get("SIM_INSTANCE_TYPE", ""),
            "PROVIDER_IMAGE_ID": facts.get("SIM_IMAGE_ID", ""),
        },
    )


def check(settings: SimulatedSettings, database: Path, instances: Iterable[Instance]) -> Iterator[CheckResult]:
    """Yield results: whether the database is writable, and how many instances the limits still allow."""
    is_writable = os.access(database, os.W_OK) and os.access(database.parent, os.W_OK | os.X_OK)
    yield CheckResult(
        what="database",
        is_well=is_writable,
        found=f"{database} {'can' if is_writable else 'cannot'} be written",
        remedy="" if is_writable else "give the file and its directory to the user that runs the driver",
    )
    used = Counter(each.attributes.get("SIM_INSTANCE_TYPE", "") for each in instances if not each.state.is_gone)
    if settings.max_instances:
        yield _limit("instances", used.total(), settings.max_instances)
    for name, limit in settings.capacity.items():
        yield _limit(f"instances of {name}", used[name], limit)


def _limit(what: str, used: int, limit: int) -> CheckResult:
    left = max(0, limit - used)
    remedy = "" if left else "terminate some, or raise max_instances or capacity in [simulated]"
    return CheckResult(what=what, is_well=left > 0, found=f"{left} of {limit} left", remedy=remedy)
