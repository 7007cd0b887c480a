"""PURE: choose among duplicates of one create, in a cloud without idempotency tokens.

There a create whose answer was lost may still be carried out after another one was sent: one VM, two instances, with
the same tags. Duplicates that our own journal explains are put right (the younger one becomes a debt); copies that it
does not explain were made in the cloud, and a person has to choose (decision 14).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from one_provider_mad.domain import Instance, InstanceState, Value
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.timestamps import Timestamp

_ABOUT_THEN = 900.0
"""Seconds between the sending of an attempt and the creation of its instance, at most: clocks differ by minutes."""


class Duplicates(Value, frozen=True, kw_only=True):
    """Duplicates that one VM's attempts have made.

    Attributes:
        stays: the VM's instance.
        owed: the others, which become debts.
        attempts: those to be recorded anew, since their instances are known now.
    """

    stays: Instance
    owed: tuple[Instance, ...]
    attempts: tuple[Attempt, ...]


def unanswered(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return sent attempts whose instance is unknown, those that were given up included."""
    return [each for each in attempts if not each.deploy_id and each.state in (AttemptState.OPEN, AttemptState.GONE)]


def sort_duplicates(instances: Sequence[Instance], attempts: Sequence[Attempt], *, now: Timestamp) -> Duplicates | None:
    """Choose the instance that stays: the oldest; of equals the one whose id is known.

    Args:
        instances: live ones of one identity, at least one.
        attempts: every attempt of that very identity.
        now: the present time.

    Returns:
        None when the attempts do not account for every instance, so that one was made in the cloud.
    """
    by_id = {each.deploy_id: each for each in attempts if each.deploy_id}
    left = unanswered(attempts)
    found: dict[str, Attempt] = {}
    for instance in sorted(instances, key=lambda each: each.created_at):
        attempt = by_id.get(instance.deploy_id) or next((each for each in left if _may_have_made(each, instance)), None)
        if attempt is None:
            return None
        if not attempt.deploy_id:
            left.remove(attempt)
            attempt = msgspec.structs.replace(
                attempt.answered(now), state=AttemptState.CREATED, deploy_id=instance.deploy_id, detail=""
            )
        found[instance.deploy_id] = attempt
    has_ages = all(instance.created_at for instance in instances)

    def rank(instance: Instance) -> tuple[bool, float, bool, int, str]:
        has_failed = instance.state is InstanceState.UNKNOWN and instance.reason != ""
        age = instance.created_at if has_ages else math.inf
        return has_failed, age, instance.deploy_id not in by_id, len(instance.deploy_id), instance.deploy_id

    stays, *owed = sorted(instances, key=rank)
    own = found[stays.deploy_id]
    # Monitoring takes the attempt with the highest number for the one that counts.
    latest = max(each.number for each in attempts)
    found[stays.deploy_id] = msgspec.structs.replace(own, number=own.number if own.number == latest else latest + 1)
    changed = tuple(each for each in found.values() if each not in attempts)
    return Duplicates(stays=stays, owed=tuple(owed), attempts=changed)


def _may_have_made(attempt: Attempt, instance: Instance) -> bool:
    return not instance.created_at or abs(instance.created_at - attempt.sent_at) <= _ABOUT_THEN
