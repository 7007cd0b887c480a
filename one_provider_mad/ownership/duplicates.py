"""Choose which of a VM's duplicate instances it keeps, in a cloud without create tokens.

There the cloud may carry out a create whose answer was lost although another one was sent since: then one VM has two
instances with the same tags. Where the journal has an attempt for each duplicate, the VM keeps the oldest and the
others become debts; a further instance was copied in the cloud, and a person has to choose (decision 14).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from one_provider_mad.domain import Instance, InstanceState, Value
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.timestamps import Timestamp

_ABOUT_THEN = 900.0
"""Most seconds between sending an attempt and the creation time of its instance, as the clocks differ by minutes."""


class Duplicates(Value, frozen=True, kw_only=True):
    """The instance that a VM keeps, and its duplicates.

    Attributes:
        kept: the VM's instance.
        others: its duplicates, which become debts.
        attempts: attempts to record again, now with the ids of their instances.
    """

    kept: Instance
    others: tuple[Instance, ...]
    attempts: tuple[Attempt, ...]


def unanswered(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Return attempts that the cloud has not answered with an id, also those that were given up."""
    return [each for each in attempts if not each.deploy_id and each.state in (AttemptState.OPEN, AttemptState.GONE)]


def sort_duplicates(instances: Sequence[Instance], attempts: Sequence[Attempt], *, now: Timestamp) -> Duplicates | None:
    """Choose the instance that the VM keeps: the oldest; of the same age, one whose id the journal has.

    Args:
        instances: live ones of one identity, at least one.
        attempts: every attempt of the same identity.
        now: the present time.

    Returns:
        None when there is an instance that none of the attempts can have created: it was copied in the cloud.
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

    kept, *others = sorted(instances, key=rank)
    own = found[kept.deploy_id]
    # Monitoring takes the attempt with the highest number for the one that counts.
    latest = max(each.number for each in attempts)
    found[kept.deploy_id] = msgspec.structs.replace(own, number=own.number if own.number == latest else latest + 1)
    changed = tuple(each for each in found.values() if each not in attempts)
    return Duplicates(kept=kept, others=tuple(others), attempts=changed)


def _may_have_made(attempt: Attempt, instance: Instance) -> bool:
    return not instance.created_at or abs(instance.created_at - attempt.sent_at) <= _ABOUT_THEN
