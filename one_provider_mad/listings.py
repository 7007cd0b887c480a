"""Refuses a listing in which two rows contradict each other on one instance (decision 18)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from one_provider_mad.domain import DeployId, Instance
from one_provider_mad.errors import ProviderUnavailable

_LONGEST = 64


def by_id(instances: Iterable[Instance]) -> dict[DeployId, Instance]:
    """Return a listing by deploy id; rows with the same facts on an instance count as one.

    A row may move between two pages and be listed twice: that is no contradiction, nor are usage figures, which change
    by the second. Two states or two owners are a contradiction, since it is unknown which one is true.

    Raises:
        ProviderUnavailable: the rows of one instance differ, so that the whole listing is unreliable.
    """
    rows = list(instances)
    found = {row.deploy_id: row for row in rows}
    if len(found) < len(rows):
        for row in rows:
            other = found[row.deploy_id]
            if row != other and _facts(row) != _facts(other):
                raise ProviderUnavailable(
                    "the cloud's listing contradicts itself: it has two different rows for instance"
                    f" {row.deploy_id[:_LONGEST]!a}"
                )
    return found


def _facts(instance: Instance) -> Instance:
    return msgspec.structs.replace(instance, usage=None)
