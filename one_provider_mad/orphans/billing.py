"""Learn the users, groups and names of all VMs with each search for orphans, and correct the tags of `[tags]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog

from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, Instance, OwnedVm, VmId
from one_provider_mad.errors import BadParameter, InstanceNotFound, PermissionDenied, ProviderError, WrongState
from one_provider_mad.journal.writer import Journal
from one_provider_mad.orphans.verdicts import VmDocument
from one_provider_mad.ownership.billing import Correction, correct, corrections

log = structlog.get_logger()

_MOST = 200
"""Most instances whose tags one search corrects: each is a call to the cloud, which limits them."""


_MOST_REFUSALS = 3
"""Refusals in a row after which a search corrects no more tags: the cloud refuses them all."""


class TagKeeper:
    """Corrects the tags of instances whose VM has another user, group or name by now.

    Args:
        may_act: tells whether this front-end leads, or has no peers.
        warn: sends the operator one sentence.
    """

    def __init__(self, *, may_act: Callable[[], Awaitable[bool]], warn: Callable[[str], None]) -> None:
        self._may_act = may_act
        self._warn = warn
        self._is_refusal_reported = False
        self._refused: set[DeployId] = set()

    async def keep(
        self, cloud: Cloud, journal: Journal, instances: Iterable[Instance], living: Mapping[VmId, VmDocument]
    ) -> None:
        """Record the users, groups and names of the VMs with an instance, and correct tags, at most `_MOST`."""
        vms = vms_of(instances, living, owner=cloud.owner)
        journal.note_owners(vms.values())
        found = await corrections(cloud, journal, vms)
        if not found or not await self._may_act():
            return
        # Those that were refused before come last: one full of a user's tags must not keep all others from theirs.
        found.sort(key=lambda each: each.deploy_id in self._refused)
        self._refused.intersection_update(each.deploy_id for each in found)
        try:
            refusal = await self._correct(cloud, journal, found[:_MOST])
        except ProviderError as error:
            refusal = error
        if refusal is not None:
            self._report(refusal)
            return
        self._is_refusal_reported = False
        log.info("tags corrected", instances=len(found[:_MOST]), left=len(found[_MOST:]))

    async def _correct(self, cloud: Cloud, journal: Journal, found: Sequence[Correction]) -> ProviderError | None:
        """Correct the tags of instances; return the last refusal that concerns one of them alone.

        Raises:
            ProviderError: the cloud does not answer, or refuses one instance after the other.
        """
        refusals, refusal = 0, None
        for each in found:
            try:
                await correct(cloud, journal, each)
            except ProviderError as error:
                self._refused.add(each.deploy_id)
                if not isinstance(error, (InstanceNotFound, WrongState)):
                    refusals, refusal = refusals + 1, error.with_traceback(None)
                    if refusals > _MOST_REFUSALS or not isinstance(error, (BadParameter, PermissionDenied)):
                        raise
                log.info("tags not corrected", vm=each.vm.vm_id, deploy_id=each.deploy_id, reason=str(error))
            else:
                refusals = 0
                self._refused.discard(each.deploy_id)
        return refusal

    def _report(self, error: ProviderError) -> None:
        """Log a failure; the operator hears once of a missing right."""
        log.info("tags not corrected", reason=str(error))
        if isinstance(error, PermissionDenied) and not self._is_refusal_reported:
            self._is_refusal_reported = True
            self._warn(f"tags of [tags] are not corrected: {error}")


def vms_of(instances: Iterable[Instance], living: Mapping[VmId, VmDocument], *, owner: str) -> dict[DeployId, OwnedVm]:
    """Return the VM of each instance that is certainly a living VM's present one, by id."""
    found = {}
    for each in instances:
        identity = each.identity
        vm = living.get(identity.vm_id) if identity is not None and identity.owner == owner else None
        if vm is None or identity is None or each.state.is_gone:
            continue
        if (vm.stime, vm.deploy_id) == (identity.stime, each.deploy_id):
            found[each.deploy_id] = vm.owned_vm
    return found
