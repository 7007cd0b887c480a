"""Replace an unanswered request by a newer one for the same VM: only the newer one is answered (decision 6).

oned does not match replies to requests: a late reply is taken for the answer that the VM waits for by then
(src/lcm/LifeCycleStates.cc). So when a person has recovered a VM and asks again, only the newer request is answered.
The older one's job is awaited, so that the newer begins at its end, or cancelled where the newer does not need its
effect.
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
    """What becomes of the job of a replaced request."""

    AWAITED = "awaited"
    """The job runs to its end, now or when its turn comes; the newer request waits for that."""

    BROKEN_OFF = "broken off"
    """The job runs and is cancelled; the newer request begins once it has ended."""

    DROPPED = "dropped"
    """The job has not begun, and never begins."""


def replace_older(lanes: Lanes, newer: RequestJob, *, is_verbatim: bool) -> list[str]:
    """Let a newly submitted request replace its VM's older ones; return a message for each, for the VM's log."""
    told: list[str] = []
    for job in lanes.open_jobs(newer.vm_id):
        if not isinstance(job, RequestJob) or not _takes_place_of(newer, job):
            continue
        older = job.accepted
        is_told = older.progress.replaced_by is not None
        older.progress.replaced_by = newer.accepted.action
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
    """Note with a request the unanswered one that runs before it, whose success may answer both."""
    match lanes.open_jobs(newer.vm_id):
        case [RequestJob() as job, last] if job.task is not None and last is newer and job.accepted.is_replaced:
            newer.accepted.progress.follows = job.accepted


def _takes_place_of(newer: RequestJob, job: RequestJob) -> bool:
    is_open = job is not newer and not (job.is_called_off or job.accepted.progress.is_finished)
    return is_open and takes_place_of(newer.accepted.action, job.accepted.action)


def _sentence(job: RequestJob, newer: RequestJob, fate: Fate) -> str:
    old, new = job.accepted.action.value, newer.accepted.action.value
    sentence = f"{new} came while {old} was unanswered, and is answered for both"
    if fate is not Fate.AWAITED:
        return f"{sentence}; {old} is {fate.value}"
    if job.task is None:
        return f"{sentence}, once {old} was carried out"
    return f"{sentence}, once {old} has ended, which waits for {job.accepted.waiting.reason}"


def success_of_both(accepted: Accepted, request: VmRequest) -> str | None:
    """Return the output of a script that an older, replaced request has just run with the same effect, else None.

    A second `deploy` would buy a second instance, and a second `shutdown` would fail without the instance.
    """
    older = accepted.progress.follows
    if older is None or older.progress.succeeded is None or accepted.action not in CREATES_OR_DESTROYS:
        return None
    known = older.known
    is_same_vm = known is not None and _life(known) == _life(request)
    return older.progress.succeeded if older.action is accepted.action and is_same_vm else None


def _life(request: VmRequest) -> tuple[object, ...]:
    return request.host, request.lcm_state, request.stime, request.seq


def fate_of(older: Accepted, newer: Accepted, *, has_begun: bool, is_verbatim: bool) -> Fate:
    """Return what becomes of the older request's job."""
    if has_begun:
        is_broken_off = not is_verbatim and _may_break_off(older, newer)
        return Fate.BROKEN_OFF if is_broken_off else Fate.AWAITED
    return Fate.DROPPED if _may_drop(older, newer, is_verbatim=is_verbatim) else Fate.AWAITED


def _may_break_off(older: Accepted, newer: Accepted) -> bool:
    """True when a running older request may be cancelled: the newer one includes its effect, or reverses it.

    Only a request to terminate breaks off a deploy, since it alone waits for an instance that may still be created
    (ownership/destroying.py). A request that is settled changes nothing, except for a CLEANUP, which terminates.
    """
    if older.is_settled and older.action is not Action.CLEANUP:
        return True
    if _ends(newer):
        return not (_ends(older) and (_is_soft(newer) or not _is_soft(older)))
    if _intent(newer) in _HARD_STOPS and _intent(older) in _SOFT_STOPS:
        return True
    return _is_reversible(older)


def _may_drop(older: Accepted, newer: Accepted, *, is_verbatim: bool) -> bool:
    """True when the newer request has its effect although the older one is not carried out."""
    if is_same(older, newer):
        return True
    if older.action is Action.CLEANUP:
        return _ends(newer) and not is_verbatim  # a deploy after a recreate terminates no instance
    return _ends(newer) or _is_reversible(older)


def is_same(older: Accepted, newer: Accepted) -> bool:
    """True when both requests have the same effect, as far as is known before they are parsed."""
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


def _is_reversible(older: Accepted) -> bool:
    """True for a stop or an end that a person may reverse by a newer request; a CLEANUP's instance must go."""
    return _ends(older) and older.action is not Action.CLEANUP


def _intent(request: Accepted) -> Intent | None:
    return INTENTS.get(request.action, {}).get(request.content.heading.lcm_state or 0)


def _ends(request: Accepted) -> bool:
    return is_end(request.action, request.content.heading.lcm_state)


def _is_soft(request: Accepted) -> bool:
    return request.action is Action.SHUTDOWN
