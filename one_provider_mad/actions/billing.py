"""Correct the tags of `[tags]` after an action whose request names another user, group or name of the VM."""

from __future__ import annotations

import asyncio

import structlog

from one_provider_mad.actions.table import STOPS_OR_DESTROYS
from one_provider_mad.actions.work import Work
from one_provider_mad.domain import DeployId
from one_provider_mad.errors import MadError
from one_provider_mad.ownership.billing import correct, corrections
from one_provider_mad.protocol.messages import Action

log = structlog.get_logger()

_SECONDS = 10.0
"""Most seconds that an answer waits for this; the search for orphans corrects what is left."""

_ADDS_PARTS = frozenset({Action.ATTACHDISK})
"""Actions that may add a volume, which has no such tags yet."""


async def keep_tags(work: Work, action: Action, info: str) -> None:
    """Write the instance's tags if they are not as the request's VM demands; a failure goes to the driver's log.

    Args:
        work: the action, which has succeeded.
        action: its word.
        info: the payload of its answer, which is the instance's id after a DEPLOY.
    """
    deploy_id = DeployId(info) if action is Action.DEPLOY else work.request.deploy_id
    if action in STOPS_OR_DESTROYS or not deploy_id:
        return
    vms = {deploy_id: work.request.owned_vm}
    try:
        async with asyncio.timeout(_SECONDS):
            for each in await corrections(work.cloud, work.journal, vms, is_forced=action in _ADDS_PARTS):
                await correct(work.cloud, work.journal, each)
                log.info("tags corrected", vm=each.vm.vm_id, deploy_id=deploy_id)
    except (MadError, TimeoutError) as error:
        log.info("tags not corrected yet", vm=work.request.vm_id, deploy_id=deploy_id, reason=str(error))
    except Exception:  # the action has succeeded, whatever an entry point's provider raises here
        log.exception("correcting tags failed unexpectedly", vm=work.request.vm_id, deploy_id=deploy_id)
