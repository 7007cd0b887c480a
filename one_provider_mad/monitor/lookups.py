"""Looks up by id what a listing lacks: a cloud's listing may look whole and lag behind what it knows by id.

EC2's is eventually consistent (docs.aws.amazon.com, "Eventual consistency in the Amazon EC2 API"): 30 % of all running
instances were seen to be left out for some seconds. What is not found by its id either is missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import structlog

from one_provider_mad.domain import DeployId, Instance, Value
from one_provider_mad.errors import MadError
from one_provider_mad.monitor.cloud_source import Watched
from one_provider_mad.monitor.truth import Memory

log = structlog.get_logger()

MOST_LOOKED_UP = 1000
"""Instances of one listing; the rest are not missed yet, and are looked up after a later one."""


class Lookup(Value, frozen=True, kw_only=True):
    """What is known by id of instances that a listing lacks.

    Attributes:
        found: those that are there, or of which the cloud knows that they are gone.
        unasked: those of which nothing is known.
    """

    found: Mapping[DeployId, Instance] = {}
    unasked: frozenset[DeployId] = frozenset()


def lacking(memory: Memory, listed: Collection[DeployId], *, missing_after: int) -> list[DeployId]:
    """Instances of VMs that a listing lacks, unless they are missing, held or parked; what was missed most, first.

    Args:
        memory: what is known of the listings before.
        listed: what this one has.
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


async def look_up(watched: Watched, deploy_ids: Collection[DeployId]) -> Lookup:
    """Look these instances up, the first of them where they are many. Never raises: then nothing is known."""
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
