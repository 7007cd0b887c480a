"""Decide from the journal, without asking the cloud, which instances and attempts a debt covers (decision 17)."""

from __future__ import annotations

from one_provider_mad.domain import Instance
from one_provider_mad.journal.records import Attempt, AttemptState, Debt


def covers_instance(debt: Debt, instance: Instance, attempts: list[Attempt]) -> bool:
    """True when the debt covers this instance: the one that it names by id, token or identity, never a newer one.

    Newer is an instance whose attempt was sent after the debt was recorded, by our own clock, as a cloud's may differ.
    """
    if debt.deploy_id:
        return debt.deploy_id == instance.deploy_id
    identity = instance.identity
    if debt.token and any(each.deploy_id == instance.deploy_id and each.token != debt.token for each in attempts):
        return False
    return (
        identity is not None
        and debt.identity.is_same_life(identity)
        and identity.seq <= debt.identity.seq
        and all(attempt.deploy_id != instance.deploy_id or attempt.sent_at <= debt.since for attempt in attempts)
    )


def covers_attempt(debt: Debt, attempt: Attempt) -> bool:
    """True when the debt covers the instance that this attempt has created, or may have created."""
    if attempt.state not in (AttemptState.OPEN, AttemptState.CREATED):
        return False
    if debt.token:
        return attempt.token == debt.token
    if attempt.sent_at > debt.since:
        return False
    if debt.deploy_id:
        return attempt.deploy_id == debt.deploy_id
    return debt.identity.is_same_life(attempt.identity) and attempt.identity.seq <= debt.identity.seq
