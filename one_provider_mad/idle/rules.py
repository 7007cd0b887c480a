"""What makes a VM idle or too old, and what is due then; no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from typing import NamedTuple

import msgspec

from one_provider_mad.domain import DeployId, Value, VmId
from one_provider_mad.idle.settings import IdleSettings

ASK = "PROVIDER_IDLE"
"""Attribute by which a VM, or its group, asks to be watched: YES, NO, or a vector with figures of its own."""

MOST_BLIND_SECONDS = 1800.0
"""Longest time between two figures of a VM; after a longer one its CPU before counts as used."""

Attribute = str | Mapping[str, str]


class Figure(NamedTuple):
    """The CPU of a VM at some time, as OpenNebula has it.

    Attributes:
        at: seconds since the epoch.
        cpu: per cent of one core; None where the cloud does not tell.
    """

    at: float
    cpu: float | None


class Machine(Value, frozen=True, kw_only=True):
    """A running VM of this driver.

    Attributes:
        vm_id: its number.
        stime: STIME, its creation.
        deploy_id: its instance.
        group_id: number of its group.
        started_at: RSTIME of its latest history record, seconds since the epoch; 0 when unknown.
        asked: PROVIDER_IDLE of its user template, None without it.
        warning: its PROVIDER_IDLE_WARNING, "" for none.
        figure: its latest figure.
    """

    vm_id: VmId
    stime: int
    deploy_id: DeployId
    group_id: int
    started_at: float
    asked: Attribute | None
    warning: str
    figure: Figure


class Limits(Value, frozen=True, kw_only=True):
    """The figures that count for a VM; the names and units are those of `[idle]`."""

    cpu: float
    after: float
    lifetime: float
    notice: float


class UnreadableError(ValueError):
    """PROVIDER_IDLE has a value that is not understood."""


def limits_of(asked: Attribute | None, of_group: Attribute | None, settings: IdleSettings) -> Limits | None:
    """Return the figures that count for a VM; None if neither it nor its group asks to be watched.

    Raises:
        UnreadableError: the attribute that counts is not understood.
    """
    attribute = of_group if asked is None else asked
    usual = Limits(cpu=settings.cpu, after=settings.after, lifetime=settings.lifetime, notice=settings.notice)
    if attribute is None:
        return None
    if isinstance(attribute, Mapping):
        return msgspec.structs.replace(usual, **dict(map(_own_figure, attribute, attribute.values())))
    if attribute.strip().upper() not in ("YES", "NO"):
        raise UnreadableError(f"{ASK}={attribute[:40]} is neither YES nor NO")
    return usual if attribute.strip().upper() == "YES" else None


def _own_figure(name: str, text: str) -> tuple[str, float]:
    key = name.lower()
    if key not in Limits.__struct_fields__:
        known = ", ".join(each.upper() for each in Limits.__struct_fields__)
        raise UnreadableError(f"{ASK} has {name[:40]}, which is not known; known are {known}")
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return key, float(text)
    raise UnreadableError(f"{name} of {ASK} is {text[:40]!r}, not a number from 0")


class Watched(Value, frozen=True, kw_only=True):
    """What is known of a VM that asks to be watched; kept in the journal between two checks.

    Attributes:
        stime: STIME of the VM.
        started_at: since when it runs, seconds since the epoch.
        used_at: when its CPU was last above the figure, or was not known.
        seen_at: time of its latest figure.
        warned_at: when it was warned, 0 if it is not.
    """

    stime: int
    started_at: float
    used_at: float
    seen_at: float
    warned_at: float = 0.0


def first_seen(machine: Machine, *, now: float) -> Watched:
    """Return the state of a VM that is watched from now on: it was used until now."""
    return Watched(stime=machine.stime, started_at=machine.started_at or now, used_at=now, seen_at=now)


def with_figures(watched: Watched, figures: Iterable[Figure], *, cpu: float) -> Watched:
    """Return the state after further figures, in any order; earlier ones that show a use count, too."""
    used_at, seen_at = watched.used_at, watched.seen_at
    for figure in sorted(figures):
        if figure.cpu is None:
            continue
        if figure.cpu > cpu or figure.at - seen_at > MOST_BLIND_SECONDS:
            used_at = max(used_at, figure.at)
        seen_at = max(seen_at, figure.at)
    return msgspec.structs.replace(watched, used_at=used_at, seen_at=seen_at)


class Due(Enum):
    """What is to be done with a VM now."""

    NOTHING = "nothing"
    WARN = "warn"
    POWEROFF = "poweroff"
    CLEAR = "clear"
    """The warning is over: the VM was used again, or its figures were raised."""


class Judgement(NamedTuple):
    """What is due, why, and when the VM is to be powered off.

    Attributes:
        due: what is due.
        reason: a text that continues "the VM"; "" where the VM is well.
        off_at: seconds since the epoch; 0 where the VM is well.
    """

    due: Due
    reason: str = ""
    off_at: float = 0.0


def judge(watched: Watched, limits: Limits, *, now: float) -> Judgement:
    """Return what is due for a VM."""
    reason, earliest = _reason(watched, limits, now)
    if not reason:
        return Judgement(Due.CLEAR if watched.warned_at else Due.NOTHING)
    if not watched.warned_at:
        return Judgement(Due.WARN, reason, max(earliest, now + limits.notice))
    off_at = max(earliest, watched.warned_at + limits.notice)
    return Judgement(Due.POWEROFF if now >= off_at else Due.NOTHING, reason, off_at)


def _reason(watched: Watched, limits: Limits, now: float) -> tuple[str, float]:
    """Return why a VM is to be powered off, "" for no reason, and the earliest time for it."""
    end = watched.started_at + limits.lifetime
    if limits.lifetime and now >= end - limits.notice:
        return f"may run for {span(limits.lifetime)} and was started {span(now - watched.started_at)} ago", end
    idle = watched.seen_at - watched.used_at
    if limits.after and idle >= limits.after and now - watched.seen_at <= MOST_BLIND_SECONDS:
        return f"has used at most {limits.cpu:g} % of a core for {span(idle)}", 0.0
    return "", 0.0


def span(seconds: float) -> str:
    """Return a time for a person: `45 s`, `30 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{round(seconds / 3600, 1):g} h"
