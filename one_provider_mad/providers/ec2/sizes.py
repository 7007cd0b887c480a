"""Families of EC2's instance types, and the type that a resize takes; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping

from one_provider_mad.domain import Instance
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.interface import ImportHints, Size

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
