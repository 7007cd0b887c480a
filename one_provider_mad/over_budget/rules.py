"""When a limit of costs a month is reached, and which VMs are to be powered off then; no I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime

from one_provider_mad.budget.months import Month
from one_provider_mad.budget.records import MonthUse
from one_provider_mad.domain import DeployId, Value, VmId
from one_provider_mad.idle.rules import Machine
from one_provider_mad.pricing.values import figure

FORESEEN_SECONDS = 3600.0
"""Seconds before a limit is expected to be reached from which on the VMs are warned."""

NOTICE_SECONDS = 60.0
"""Least seconds from the warning of a VM to its power off, also where its limit was lowered meanwhile."""


class Reach(Value, frozen=True, kw_only=True):
    """A limit that is reached, or will be within the hour.

    Attributes:
        use: how far it is used.
        at: when it is reached, seconds since the epoch; in the past if it was.
    """

    use: MonthUse
    at: float

    @property
    def limit(self) -> str:
        """Return the limit for a person: `max_per_month of user ada, 100 USD,`."""
        amount = f"{figure(self.use.limit)} {self.use.currency}".rstrip()
        return f"max_per_month of {self.use.whom}, {amount},"


def reached(use: MonthUse, *, now: float, month: Month) -> Reach | None:
    """Return when a limit is reached; None if not within the hour, or not before the month ends."""
    if use.spent >= use.limit:
        return Reach(use=use, at=now)
    if use.per_hour <= 0:
        return None
    at = now + (use.limit - use.spent) / use.per_hour * 3600
    return Reach(use=use, at=at) if at <= now + FORESEEN_SECONDS and at < month.end else None


class Target(Value, frozen=True, kw_only=True):
    """A running VM that a reached limit counts.

    Attributes:
        machine: the VM.
        reach: the limit of those that count it that is reached first.
    """

    machine: Machine
    reach: Reach


def targets(machines: Iterable[Machine], reaches: Collection[Reach], *, worth: Collection[DeployId]) -> list[Target]:
    """Return the VMs to power off, the newest first.

    Args:
        machines: the running VMs of this NAME.
        reaches: the limits.
        worth: instances of ours that are known to cost less while they are stopped.
    """
    found = []
    for machine in sorted(machines, key=lambda each: (each.stime, each.vm_id), reverse=True):
        own = [each for each in reaches if machine.deploy_id in each.use.deploy_ids]
        if own and machine.deploy_id in worth:
            found.append(Target(machine=machine, reach=min(own, key=lambda each: each.at)))
    return found


class Warned(Value, frozen=True, kw_only=True):
    """A VM that was warned.

    Attributes:
        stime: its STIME.
        deploy_id: its instance.
        at: when, seconds since the epoch.
    """

    stime: int
    deploy_id: DeployId
    at: float


def is_due(target: Target, warned: Mapping[VmId, Warned], *, now: float) -> bool:
    """Return True when a warned VM is to be powered off now."""
    before = known(target.machine, warned)
    return before is not None and now >= target.reach.at and not 0 <= now - before.at < NOTICE_SECONDS


def known(machine: Machine, warned: Mapping[VmId, Warned]) -> Warned | None:
    """Return the warning of a VM; None if it was not warned, or runs another instance now."""
    before = warned.get(machine.vm_id)
    is_same = before is not None and (before.stime, before.deploy_id) == (machine.stime, machine.deploy_id)
    return before if is_same else None


# Sentences


def warning(target: Target, *, now: float) -> str:
    """Return the sentence for the log of a VM that is warned."""
    reach, vm_id = target.reach, target.machine.vm_id
    if reach.at <= now:
        when = f"is reached: the VM is powered off in {NOTICE_SECONDS:.0f} s"
    else:
        when = f"will be reached at {_time(reach.at)}: the VM is powered off then"
    return f"{reach.limit} {when}, and onevm resume {vm_id} starts it once a new month or limit allows that"


def outlook(reach: Reach, *, count: int, left: int, now: float) -> str:
    """Return the sentence for the driver's log and oned.log about a limit.

    Args:
        reach: the limit.
        count: VMs that are powered off.
        left: running VMs that go on, since no saving is known.
        now: seconds since the epoch.
    """
    when = "is reached" if reach.at <= now else f"will be reached at {_time(reach.at)}"
    left_running = f", and {_vms(left)} left running, since no saving by that is known" if left else ""
    return (
        f"{reach.limit} {when}: {_vms(count)} powered off then through OpenNebula, the newest first{left_running}; an"
        f" administrator may change {reach.use.table}.max_per_month, or at_limit in [budget]"
    )


def powered_off(target: Target) -> str:
    """Return the sentence for the log of a VM that is powered off."""
    return (
        f"powered off, since {target.reach.limit} is reached; onevm resume {target.machine.vm_id} starts it once a new"
        " month or limit allows that"
    )


def _vms(count: int) -> str:
    return f"{count} VM{' is' if count == 1 else 's are'}"


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
