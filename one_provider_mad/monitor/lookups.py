"""Look up by id instances that a listing lacks: a listing may look complete and lag behind.

EC2 is eventually consistent (docs.aws.amazon.com, "Eventual consistency in the Amazon EC2 API"): 30 % of all running
instances were seen to be left out of a listing for some seconds. An instance that its id does not find either is
missed.
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
"""Instances of one listing to look up; the others are not missed yet, and are looked up after a later one."""


class Lookup(Value, frozen=True, kw_only=True):
    """Result of looking up instances that a listing lacks.

    Attributes:
        found: instances that exist, or that the cloud knows to be gone.
        unasked: instances of which nothing is known.
    """

    found: Mapping[DeployId, Instance] = {}
    unasked: frozenset[DeployId] = frozenset()


def lacking(memory: Memory, listed: Collection[DeployId], *, missing_after: int) -> list[DeployId]:
    """Return instances of VMs that a listing lacks, unless missing, held or parked; most often missed first.

    Args:
        memory: of earlier listings.
        listed: ids in this one.
        missing_after: misses from which on an instance is missing.
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
    """Look up the first of these instances, up to MOST_LOOKED_UP. Never raises: then nothing is known."""
    asked = list(deploy_ids)[:MOST_LOOKED_UP]
    if not asked:
        return Lookup()
    try:
        async with asyncio.timeout(watched.call_timeout):
            found = await watched.provider.describe(asked)
    except (MadError, TimeoutError) as error:
        reason = str(error) or f"no answer within {watched.call_timeout:g} s"
        log.warning("instances that a listing lacks cannot be looked up", count=len(asked), reason=reason)
        return Lookup(unasked=frozenset(deploy_ids))
    except Exception:
        log.exception("looking up instances failed unexpectedly", count=len(asked))
        return Lookup(unasked=frozenset(deploy_ids))
    log.info("instances that a listing lacks were looked up", count=len(asked), found=len(found))
    return Lookup(found=found, unasked=frozenset(deploy_ids).difference(asked))
