"""Admit by the budget those actions on an existing instance that may raise its price."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from one_provider_mad.actions.instance_spec import InstanceSpec
from one_provider_mad.budget.admission import Admission, Budget
from one_provider_mad.domain import Instance, VmRequest
from one_provider_mad.protocol.messages import Action


def spending(
    budget: Budget,
    action: Action,
    instance: Instance,
    request: VmRequest,
    *,
    operand: Mapping[str, str],
    spec: InstanceSpec | None,
) -> Admission:
    """Return the admission of an action: entering it raises BudgetExceeded where a limit does not admit the action.

    Args:
        budget: the limits in force.
        action: the action.
        instance: the VM's instance.
        request: the VM.
        operand: the disk of a disk action.
        spec: what the instance has, which tells the size of a disk before it is enlarged; None when unknown.
    """
    match action:
        case Action.RESIZE:
            return budget.resizing(instance, request)
        case Action.ATTACHDISK:
            return budget.with_disk(instance, request, operand)
        case Action.RESIZEDISK:
            return budget.with_disk(instance, request, operand, before=_size(spec, operand))
        case _:
            return nullcontext()


def _size(spec: InstanceSpec | None, operand: Mapping[str, str]) -> float | None:
    """Return the MB of a disk as the instance has it; None when unknown."""
    disk = None if spec is None else spec.disks.get(operand.get("DISK_ID", ""))
    return float(disk.size) if disk is not None and disk.size.isdigit() else None
