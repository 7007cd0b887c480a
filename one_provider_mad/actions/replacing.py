"""Replace an open request by a newer one for the same VM: one reply answers both (decision 6).

oned does not match replies to requests: a late reply is taken for the answer that the VM waits for by then
(src/lcm/LifeCycleStates.cc). So when a person has recovered a VM and asks again, only the newer request is answered.
The work of the older one is awaited, so that the newer begins at its end, or broken off where the newer does not need
its end.
"""

from __future__ import annotations

from enum import Enum

from one_provider_mad.actions.accepted import Accepted, RequestJob
from one_provider_mad.actions.intents import INTENTS, Intent, is_end
from one_provider_mad.actions.lanes import Lanes
from one_provider_mad.actions.table import CREATES_OR_DESTROYS, takes_place_of
from one_provider_mad.domain import VmRequest
from one_provider_mad.protocol.messages import Action

_SOFT_STOPS = frozenset({Intent.STOP, Intent.PARK})
_HARD_STOPS = frozenset({Intent.STOP_HARD, Intent.PARK_HARD})


class Fate(Enum):
    """How the work of a replaced request ends."""

    AWAITED = "awaited"
    """It runs, or will, to its end; the newer request waits for that."""

    BROKEN_OFF = "broken off"
    """It runs and is cancelled; the newer request begins once it has ended."""

    DROPPED = "dropped"
    """It has not begun, and never will."""


def replace_older(lanes: Lanes, newer: RequestJob, *, is_verbatim: bool) -> list[str]:
    """Let a newly submitted request be answered for older ones; return sentences for the VM's log."""
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
    """Link a request to the unanswered one that runs before it: its success may be the answer to both."""
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
    return f"{sentence}, once {old} has ended, which waits for {job.accepted.waiting.reason}"


def success_of_both(accepted: Accepted, request: VmRequest) -> str | None:
    """Return the output of a script that has just done the same for an older request: once is enough.

    A second `deploy` would buy a second machine, and a second `shutdown` would fail without the machine.
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
    """Return the fate of the older request's work."""
    if has_begun:
        is_broken_off = not is_verbatim and _has_no_use_for_the_end_of(older, newer)
        return Fate.BROKEN_OFF if is_broken_off else Fate.AWAITED
    return Fate.DROPPED if _does_without(older, newer, is_verbatim=is_verbatim) else Fate.AWAITED


def _has_no_use_for_the_end_of(older: Accepted, newer: Accepted) -> bool:
    """True when the newer request need not wait: it goes further, or reverses an end that may not have come yet.

    Every end of a VM waits for what may have been created (ownership/destroying.py), and nothing else does: only
    an end breaks off a deploy. A request that is settled only looks, except for a CLEANUP, which terminates.
    """
    if older.is_settled and older.action is not Action.CLEANUP:
        return True
    if _ends(newer):
        return not (_ends(older) and (_is_soft(newer) or not _is_soft(older)))
    if _intent(newer) in _HARD_STOPS and _intent(older) in _SOFT_STOPS:
        return True
    return _may_be_taken_back(older)


def _does_without(older: Accepted, newer: Accepted, *, is_verbatim: bool) -> bool:
    """True when the newer request comes to its own end without the older one."""
    if is_same(older, newer):
        return True
    if older.action is Action.CLEANUP:
        return _ends(newer) and not is_verbatim  # a recreate's next life does not clean up after the one before
    return _ends(newer) or _may_be_taken_back(older)


def is_same(older: Accepted, newer: Accepted) -> bool:
    """True when both request the same, as far as that is known before they are parsed."""
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
    """True for an end that a person may reverse; the instance of a CLEANUP is given up for good."""
    return _ends(older) and older.action is not Action.CLEANUP


def _intent(request: Accepted) -> Intent | None:
    return INTENTS.get(request.action, {}).get(request.content.heading.lcm_state or 0)


def _ends(request: Accepted) -> bool:
    return is_end(request.action, request.content.heading.lcm_state)


def _is_soft(request: Accepted) -> bool:
    return request.action is Action.SHUTDOWN
