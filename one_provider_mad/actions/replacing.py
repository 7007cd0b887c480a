"""A newer request for a VM while an older one is open: one line is written for both (decision 6).

oned does not match replies to requests: a late one is taken for the answer to whatever the VM waits for by then
(src/lcm/LifeCycleStates.cc). So when a person has recovered a VM and asks anew, only the newer request is answered.
What the older one has begun is awaited, so that the newer begins where it has ended, or broken off where the newer has
no use for its end.
"""

from __future__ import annotations

from enum import Enum

from one_provider_mad.actions.accepted import Accepted, RequestJob
from one_provider_mad.actions.cloud import waiting_for
from one_provider_mad.actions.intents import INTENTS, Intent, is_end
from one_provider_mad.actions.lanes import Lanes
from one_provider_mad.actions.table import CREATES_OR_DESTROYS, takes_place_of
from one_provider_mad.domain import VmRequest
from one_provider_mad.protocol.messages import Action

_SOFT_STOPS = frozenset({Intent.STOP, Intent.PARK})
_HARD_STOPS = frozenset({Intent.STOP_HARD, Intent.PARK_HARD})


class Fate(Enum):
    """What becomes of the work of a request that is replaced."""

    AWAITED = "awaited"
    """It runs, or will, to its end; the newer request waits for that."""

    BROKEN_OFF = "broken off"
    """It runs and is cancelled; the newer request begins once it has ended."""

    DROPPED = "dropped"
    """It has not begun, and never will."""


def replace_older(lanes: Lanes, newer: RequestJob, *, is_verbatim: bool) -> list[str]:
    """Let a request that was just submitted be the one that is answered; returns what the VM's log should hold."""
    told: list[str] = []
    for job in lanes.open_jobs(newer.vm_id):
        if not isinstance(job, RequestJob) or not _takes_place_of(newer, job):
            continue
        older = job.accepted
        is_told = older.standing.replaced_by is not None
        older.standing.replaced_by = newer.accepted.action
        fate = fate_of(older, newer.accepted, has_begun=job.task is not None, is_verbatim=is_verbatim)
        if fate is Fate.DROPPED:
            lanes.drop(job)
        elif fate is Fate.BROKEN_OFF:
            lanes.break_off(job)
        if not is_told:
            told.append(_sentence(job, newer, fate))
    if is_verbatim:
        follow_unanswered(lanes, newer)
    return told


def follow_unanswered(lanes: Lanes, newer: RequestJob) -> None:
    """Have a request know the one that runs before it and is not answered: its success may be the answer to both."""
    match lanes.open_jobs(newer.vm_id):
        case [RequestJob() as job, last] if job.task is not None and last is newer and job.accepted.is_replaced:
            newer.accepted.standing.follows = job.accepted


def _takes_place_of(newer: RequestJob, job: RequestJob) -> bool:
    is_open = job is not newer and not (job.is_called_off or job.accepted.standing.is_over)
    return is_open and takes_place_of(newer.accepted.action, job.accepted.action)


def _sentence(job: RequestJob, newer: RequestJob, fate: Fate) -> str:
    old, new = job.accepted.action.value, newer.accepted.action.value
    sentence = f"{new} was asked while {old} was open, and is answered for both"
    if fate is not Fate.AWAITED:
        return f"{sentence}; {old} is {fate.value}"
    if job.task is None:
        return f"{sentence}, once {old} has had its turn"
    return f"{sentence}, once {old} has ended, which waits for {job.context.get(waiting_for, 'its turn')}"


def success_of_both(accepted: Accepted, request: VmRequest) -> str | None:
    """What a script has printed that was asked to do the same just before and has done it: once is enough.

    A second `deploy` would buy a second machine, and a second `shutdown` fail for want of the first.
    """
    older = accepted.standing.follows
    if older is None or older.standing.succeeded is None or accepted.action not in CREATES_OR_DESTROYS:
        return None
    known = older.known
    is_same_vm = known is not None and _life(known) == _life(request)
    return older.standing.succeeded if older.action is accepted.action and is_same_vm else None


def _life(request: VmRequest) -> tuple[object, ...]:
    return request.host, request.lcm_state, request.stime, request.seq


def fate_of(older: Accepted, newer: Accepted, *, has_begun: bool, is_verbatim: bool) -> Fate:
    """What becomes of the older request's work."""
    if has_begun:
        is_broken_off = not is_verbatim and _has_no_use_for_the_end_of(older, newer)
        return Fate.BROKEN_OFF if is_broken_off else Fate.AWAITED
    return Fate.DROPPED if _does_without(older, newer, is_verbatim=is_verbatim) else Fate.AWAITED


def _has_no_use_for_the_end_of(older: Accepted, newer: Accepted) -> bool:
    """True when the newer request need not wait: it goes further, or takes an end back that may not have come yet.

    What may have been created is awaited by every end of a VM (actions/finding.py, to_destroy), and by nothing else: a
    deploy is broken off by an end alone. What is settled only looks, but for a CLEANUP, which destroys.
    """
    if older.is_settled and older.action is not Action.CLEANUP:
        return True
    if _ends(newer):
        return not (_ends(older) and (_is_soft(newer) or not _is_soft(older)))
    if _intent(newer) in _HARD_STOPS and _intent(older) in _SOFT_STOPS:
        return True
    return _may_be_taken_back(older)


def _does_without(older: Accepted, newer: Accepted, *, is_verbatim: bool) -> bool:
    """True when the older request need not run first for the newer one to come to its own end."""
    if is_same(older, newer):
        return True
    if older.action is Action.CLEANUP:
        return _ends(newer) and not is_verbatim  # a recreate's next life does not clean up after the one before
    return _ends(newer) or _may_be_taken_back(older)


def is_same(older: Accepted, newer: Accepted) -> bool:
    """True when both ask for the same, so far as that can be told before they are read."""
    one, other = older.content.heading, newer.content.heading
    if older.action is not newer.action or one != other:
        return False
    if older.known is None or newer.known is None:
        return True
    return (older.known.stime, older.known.seq, older.known.operand) == (
        newer.known.stime,
        newer.known.seq,
        newer.known.operand,
    )


def _may_be_taken_back(older: Accepted) -> bool:
    """True for the end of a VM that a person goes on with; a CLEANUP's instance is one that nobody goes on with."""
    return _ends(older) and older.action is not Action.CLEANUP


def _intent(request: Accepted) -> Intent | None:
    return INTENTS.get(request.action, {}).get(request.content.heading.lcm_state or 0)


def _ends(request: Accepted) -> bool:
    return is_end(request.action, request.content.heading.lcm_state)


def _is_soft(request: Accepted) -> bool:
    return request.action is Action.SHUTDOWN
