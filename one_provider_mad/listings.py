"""PURE: a listing that contradicts itself is a broken one, whatever cloud has given it (decision 18)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from one_provider_mad.domain import DeployId, Instance
from one_provider_mad.errors import ProviderUnavailable

_LONGEST = 64


def by_id(instances: Iterable[Instance]) -> dict[DeployId, Instance]:
    """Index a listing by deploy id; rows that say the same of an instance count as one.

    Between two pages a row may move from one to the other and be shown twice: that is no contradiction, nor are usage
    figures, which change by the second. Two states or two owners are: which one is true nobody can tell.

    Raises:
        ProviderUnavailable: it says two things of one instance, so that nothing it says can be relied on.
    """
    rows = list(instances)
    found = {row.deploy_id: row for row in rows}
    if len(found) < len(rows):
        for row in rows:
            other = found[row.deploy_id]
            if row != other and _facts(row) != _facts(other):
                raise ProviderUnavailable(
                    f"the cloud's listing contradicts itself: instance {row.deploy_id[:_LONGEST]!a} is in it twice,"
                    " and differently"
                )
    return found


def _facts(instance: Instance) -> Instance:
    return msgspec.structs.replace(instance, usage=None)
