"""Look up by id the instances that a listing lacks, since a listing may lag behind although it looks complete.

EC2 is eventually consistent (docs.aws.amazon.com, "Eventual consistency in the Amazon EC2 API"): 30 % of all running
instances were seen to be left out of a listing for some seconds. Only an instance that
the lookup does not find either counts as missed by that listing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import structlog

from one_provider_mad.domain import DeployId, Instance, Value
from one_provider_mad.errors import MadError
from one_provider_mad.monitor.cloud_source import OpenCloud
from one_provider_mad.monitor.inference import Memory

log = structlog.get_logger()

MOST_LOOKED_UP = 1000
"""Most instances that are looked up after one listing; the rest do not count as missed, and are looked up after a later
listing."""


class Lookup(Value, frozen=True, kw_only=True):
    """Result of looking up instances that a listing lacks.

    Attributes:
        found: the instances that the cloud returned, terminated ones included.
        not_looked_up: instances that could not be looked up, so that nothing is known about them.
    """

    found: Mapping[DeployId, Instance] = {}
    not_looked_up: frozenset[DeployId] = frozenset()


def lacking(memory: Memory, listed: Collection[DeployId], *, missing_after: int) -> list[DeployId]:
    """Return known instances that a listing lacks, the most often missed first; not those missing, held or parked.

    Args:
        memory: what earlier listings have shown.
        listed: ids of the instances in this listing.
        missing_after: number of misses from which on a VM is missing.
    """
    absent = [
        (-known.misses, known.deploy_id)
        for known in memory.vms.values()
        if known.deploy_id not in listed
        and known.misses < missing_after
        and not (known.is_parked or known.is_terminated or known.held_since)
    ]
    return [deploy_id for _, deploy_id in sorted(absent)]


async def look_up(watched: OpenCloud, deploy_ids: Collection[DeployId]) -> Lookup:
    """Look up these instances by id, the first MOST_LOOKED_UP of them. On an error none counts as looked up."""
    asked = list(deploy_ids)[:MOST_LOOKED_UP]
    if not asked:
        return Lookup()
    try:
        async with asyncio.timeout(watched.call_timeout):
            found = await watched.provider.describe(asked)
    except (MadError, TimeoutError) as error:
        reason = str(error) or f"no answer within {watched.call_timeout:g} s"
        log.warning("instances that a listing lacks cannot be looked up", count=len(asked), reason=reason)
        return Lookup(not_looked_up=frozenset(deploy_ids))
    except Exception:
        log.exception("looking up instances failed unexpectedly", count=len(asked))
        return Lookup(not_looked_up=frozenset(deploy_ids))
    log.info("instances that a listing lacks were looked up", count=len(asked), found=len(found))
    return Lookup(found=found, not_looked_up=frozenset(deploy_ids).difference(asked))
