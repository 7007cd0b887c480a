"""Reads what a partner's showback charges: the costs of templates and VMs, and of its oned.conf. Pure.

`oneshowback` adds up, for the hours of each history record, CPU_COST * CPU + MEMORY_COST * MEMORY + DISK_COST * (SIZE
of all disks and of their snapshots), both sizes in MB, with the costs of DEFAULT_COST where the VM has none
(src/vm/VirtualMachinePool.cc, calculate_showback). A record lasts while the VM is on a host, also powered off or
suspended; with SHOWBACK_ONLY_RUNNING, which 6.2 and later have, CPU and memory count only while it runs.
MEMORY_UNIT_COST is how Sunstone shows MEMORY_COST, which is per MB in any case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from one_provider_mad.domain import Value
from one_provider_mad.safe_xml import Element, element_at, text_of

COSTS = ("CPU_COST", "MEMORY_COST", "DISK_COST")
"""Attributes of templates and VMs."""

OFF_HOST = frozenset(
    {"INIT", "PENDING", "HOLD", "CLONING", "CLONING_FAILURE", "STOPPED", "UNDEPLOYED"}
    | {"DISK_RESIZE_UNDEPLOYED", "HOTPLUG_SAVEAS_UNDEPLOYED", "HOTPLUG_SAVEAS_STOPPED"}
)
"""States of a VM that is on no host: it has no open history record, and showback charges nothing."""


class Costs(Value, frozen=True, kw_only=True):
    """Costs an hour in the partner's currency, which it does not name.

    Attributes:
        cpu: of a core; None for none.
        memory: of a MB; None for none.
        disk: of a MB; None for none.
    """

    cpu: float | None = None
    memory: float | None = None
    disk: float | None = None

    @property
    def is_any(self) -> bool:
        """True if any of them is given."""
        return any(each is not None for each in (self.cpu, self.memory, self.disk))

    @property
    def is_charged(self) -> bool:
        """True if any of them is more than 0."""
        return any((self.cpu, self.memory, self.disk))


class Rules(Value, frozen=True, kw_only=True):
    """The partner's oned.conf.

    Attributes:
        default: DEFAULT_COST; all None while unknown.
        is_only_running: SHOWBACK_ONLY_RUNNING.
    """

    default: Costs = Costs()
    is_only_running: bool = False

    def completed(self, own: Costs) -> Costs:
        """Return a VM's costs, with those of DEFAULT_COST in place of the ones that it lacks.

        oned.conf is shipped with three zeros. They count only for a VM that has a cost of its own: one without any, at
        a partner that has not set DEFAULT_COST, has an unknown price and is not free.
        """
        default = self.default
        if not own.is_any and not default.is_charged:
            return Costs()
        return Costs(
            cpu=default.cpu if own.cpu is None else own.cpu,
            memory=default.memory if own.memory is None else own.memory,
            disk=default.disk if own.disk is None else own.disk,
        )


class TemplateFacts(Value, frozen=True, kw_only=True):
    """What a remote template says of its VMs' costs.

    Attributes:
        name: its name.
        costs: its own.
        values: CPU and MEMORY, as they stand there.
        disks: its DISKs.
    """

    name: str
    costs: Costs = Costs()
    values: Mapping[str, str] = {}
    disks: tuple[Mapping[str, str], ...] = ()


class ImageFacts(Value, frozen=True, kw_only=True):
    """An image of the partner.

    Attributes:
        name: its name.
        user: name of its owner.
        size: MB.
    """

    name: str
    user: str
    size: float | None


def read_costs(values: Mapping[str, str]) -> Costs:
    """Return the costs among the attributes of a template or VM; what is not a number counts as not given."""
    cpu, memory, disk = (number(values.get(name, "")) for name in COSTS)
    return Costs(cpu=cpu, memory=memory, disk=disk)


def read_rules(configuration: Element) -> Rules:
    """Return the rules in an answer to one.system.config, which other users than oneadmin get in part."""
    section = configuration.find("DEFAULT_COST")
    values = {} if section is None else {each.tag: text_of(each) for each in section}
    only_running = text_of(configuration.find("SHOWBACK_ONLY_RUNNING")).strip().upper()
    return Rules(default=read_costs(values), is_only_running=only_running in ("YES", "TRUE"))


def read_template(template: Element) -> TemplateFacts:
    """Return the facts of a row of one.templatepool.info."""
    body = element_at(template, "TEMPLATE")
    plain = {} if body is None else {each.tag: text_of(each).strip() for each in body if not len(each)}
    disks = [] if body is None else [{part.tag: text_of(part) for part in each} for each in body.iterfind("DISK")]
    return TemplateFacts(
        name=text_of(template.find("NAME")),
        costs=read_costs(plain),
        values={name: plain[name] for name in ("CPU", "MEMORY") if name in plain},
        disks=tuple(disks),
    )


def read_image(image: Element) -> ImageFacts:
    """Return the facts of a row of one.imagepool.info."""
    return ImageFacts(
        name=text_of(image.find("NAME")), user=text_of(image.find("UNAME")), size=number(text_of(image.find("SIZE")))
    )


def size_of(disk: Mapping[str, str], images: Mapping[int, ImageFacts], *, user: str) -> float | None:
    """Return the MB of a DISK: its SIZE, else that of its image; None when unknown.

    Args:
        disk: attributes of a DISK.
        images: of the partner.
        user: the remote user, whose image is meant where the DISK names no other owner.
    """
    if disk.get("SIZE", "").strip():
        return number(disk["SIZE"])
    if (image_id := disk.get("IMAGE_ID", "").strip()).isdecimal():
        found = images.get(int(image_id))
        return None if found is None else found.size
    owner = disk.get("IMAGE_UNAME") or user
    named = [each.size for each in images.values() if (each.name, each.user) == (disk.get("IMAGE"), owner)]
    return named[0] if len(named) == 1 else None


def total(sizes: Iterable[float | None]) -> float | None:
    """Return the sum of sizes; None when one is unknown."""
    known = list(sizes)
    return None if None in known else math.fsum(each for each in known if each is not None)


def number(text: str) -> float | None:
    """Return a number that is not negative; None for any other text."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0 else None
