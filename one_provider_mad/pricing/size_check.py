"""Compare an instance type that a template names with the template's own CPU, VCPU and MEMORY; pure."""

from __future__ import annotations

from one_provider_mad.domain import Value
from one_provider_mad.providers.interface import InstanceType

FAR = 4.0
"""A type with more than so many times the CPU or MEMORY of the template is far larger: quotas and the host's room,
which count the template's, are then void. EC2's smallest current types have two cores, so that less would be noise."""


class TemplateSize(Value, frozen=True, kw_only=True):
    """The size that a template asks for, and that OpenNebula counts.

    Attributes:
        cpu: CPU, which quotas count.
        vcpu: VCPU, the cores that the guest is to see; 0 for none.
        memory: MEMORY, MiB.
    """

    cpu: float = 0.0
    vcpu: float = 0.0
    memory: float = 0.0

    @property
    def cores(self) -> float:
        """Return the cores that an instance must have."""
        return max(self.cpu, self.vcpu)

    def named(self) -> dict[str, float]:
        """Return the attributes of the template that are set."""
        return {name: value for name, value in self._all().items() if value}

    def _all(self) -> dict[str, float]:
        return {"CPU": self.cpu, "VCPU": self.vcpu, "MEMORY": self.memory}


def size_remark(kind: InstanceType, size: TemplateSize) -> str:
    """Return a sentence if a type is smaller or far larger than the template, "" otherwise."""
    has = {"CPU": kind.cpu, "VCPU": kind.cpu, "MEMORY": float(kind.memory)}
    described = f"instance type {kind.name} has {kind.cpu:g} cores and {kind.memory} MiB"
    if lacking := [name for name, asked in size.named().items() if has[name] < asked]:
        return f"{described}, less than {_shown(lacking, size)} of the template: name a larger type, or auto"
    if beyond := [name for name, asked in size.named().items() if name != "VCPU" and has[name] > FAR * asked]:
        remedy = " and ".join(f"{name}={has[name]:g}" for name in beyond)
        return (
            f"{described}, more than {FAR:g} times {_shown(beyond, size)} of the template, which quotas and the host's"
            f" room count: set {remedy}, or name a smaller type, or auto"
        )
    return ""


def _shown(names: list[str], size: TemplateSize) -> str:
    return " and ".join(f"{name}={size.named()[name]:g}" for name in names)
