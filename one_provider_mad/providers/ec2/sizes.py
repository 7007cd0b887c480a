"""The sizes of EC2's instance types; no I/O.

From docs.aws.amazon.com, "Specifications for Amazon EC2 instance types". A type's name has its family and its step;
within a family cores and memory double from step to step, so the table holds one line a family. Further types and
other sizes come from `[ec2.instance_types]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from one_provider_mad.domain import Instance
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.settings import Ec2Settings, InstanceType
from one_provider_mad.providers.interface import ImportHints, Size

_STEPS = {"large": 1, "xlarge": 2, "2xlarge": 4, "4xlarge": 8, "8xlarge": 16, "12xlarge": 24, "16xlarge": 32}

_BURSTABLE = {"nano": 0.5, "micro": 1, "small": 2, "medium": 4, "large": 8, "xlarge": 16, "2xlarge": 32}
"""GiB of t3, t3a and t4g; each has 2 virtual cores, 4 and 8 in the last two."""

_GIB_A_CORE = {
    **dict.fromkeys(("c5a", "c6a", "c6i", "c6g", "c7a", "c7i", "c7g", "c8g"), 2),
    **dict.fromkeys(("m5", "m5a", "m6a", "m6i", "m6g", "m7a", "m7i", "m7g", "m8g"), 4),
    **dict.fromkeys(("r5", "r5a", "r6a", "r6i", "r6g", "r7a", "r7i", "r7g", "r8g"), 8),
}
"""Families; `large` has 2 cores. Each has all the steps."""

_OLD = {
    "t1.micro": (1, 0.613),
    "t2.nano": (1, 0.5),
    "t2.micro": (1, 1),
    "t2.small": (1, 2),
    "t2.medium": (2, 4),
    "t2.large": (2, 8),
    "t2.xlarge": (4, 16),
    "t2.2xlarge": (8, 32),
    "m1.small": (1, 1.7),
    "m1.medium": (1, 3.75),
    "m1.large": (2, 7.5),
    "m1.xlarge": (4, 15),
    "m3.medium": (1, 3.75),
    "m3.large": (2, 7.5),
    "m3.xlarge": (4, 15),
    "m3.2xlarge": (8, 30),
    "m4.large": (2, 8),
    "m4.xlarge": (4, 16),
    "m4.2xlarge": (8, 32),
    "m4.4xlarge": (16, 64),
}
"""Cores and GiB of types with irregular names; upstream's ec2_driver.conf has many of them."""


def _built_in() -> dict[str, Size]:
    sizes = {name: _size(cpu, gib) for name, (cpu, gib) in _OLD.items()}
    for family in ("t3", "t3a", "t4g"):
        for step, gib in _BURSTABLE.items():
            sizes[f"{family}.{step}"] = _size({"xlarge": 4, "2xlarge": 8}.get(step, 2), gib)
    for family, gib_a_core in _GIB_A_CORE.items():
        for step, factor in _STEPS.items():
            sizes[f"{family}.{step}"] = _size(2 * factor, 2 * factor * gib_a_core)
    return sizes


def _size(cpu: float, gib: float) -> Size:
    return Size(cpu=cpu, memory=round(gib * 1024))


BUILT_IN: Mapping[str, Size] = _built_in()


def sizes(settings: Ec2Settings) -> dict[str, Size]:
    """Return the size of each known type."""
    own: Mapping[str, InstanceType] = settings.instance_types
    return {**BUILT_IN, **{name: _size(kind.cpu, kind.memory) for name, kind in own.items()}}


_STANDARD = re.compile(r"(?:[acdhimrtz]|im|is)\d")
"""Families that share one limit, "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"."""


def is_standard(name: str) -> bool:
    """Return True for a type of the families that share EC2's standard limit."""
    return _STANDARD.match(name) is not None


def resized(name: str, known: Mapping[str, Size], *, cpu: float, memory: float) -> str:
    """Return the smallest type of the same family with so many cores and MiB.

    Raises:
        BadParameter: the family is not known, or has no type so large.
    """
    family = name.partition(".")[0]
    kin = {each: size for each, size in known.items() if each.partition(".")[0] == family}
    fitting = [(size.memory, size.cpu, each) for each, size in kin.items() if size.cpu >= cpu and size.memory >= memory]
    if not kin:
        raise BadParameter(f"sizes of the instance family {family} are not known: set them in [ec2.instance_types]")
    if not fitting:
        raise BadParameter(
            f"no instance type of the family {family} has CPU={cpu:g} and MEMORY={memory:g}, known are {', '.join(kin)}"
        )
    return min(fitting)[2]


def import_hints(instance: Instance, known: Mapping[str, Size]) -> ImportHints:
    """Return the template values of a VM that imports this instance."""
    name = instance.attributes.get("AWS_INSTANCE_TYPE", "")
    return ImportHints(
        size=known.get(name, Size(cpu=1.0, memory=1024)),
        public_cloud={"AMI": instance.attributes.get("AWS_IMAGE_ID", ""), "INSTANCETYPE": name},
    )
