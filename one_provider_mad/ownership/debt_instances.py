"""Find the instances that must be terminated for a debt (decision 17)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import structlog

from one_provider_mad.domain import DeployId, Instance, InstanceState
from one_provider_mad.errors import CannotTell
from one_provider_mad.journal.records import AttemptState, Debt
from one_provider_mad.ownership.debt_scope import covers_attempt, covers_instance
from one_provider_mad.ownership.vm import UNLISTED_SECONDS, Vm

log = structlog.get_logger()


async def debt_instances(vm: Vm, debt: Debt) -> AsyncIterator[Instance]:
    """Yield each instance that must be terminated for a debt; end once there certainly is none left.

    The caller terminates each instance before it asks for the next one.

    Args:
        vm: the VM in the debt.
        debt: the debt.

    Raises:
        CannotTell: an instance may exist that the cloud does not list.
        ProviderError: the cloud does not answer.
    """
    if debt.token:
        await vm.cloud.create_under_way(debt.token)
    gone: set[DeployId] = set()
    while instances := await _left(vm, debt, gone):
        for instance in instances:
            gone.add(instance.deploy_id)
            is_untagged = instance.identity is None
            if vm.is_named_by(instance) or (is_untagged and await vm.is_imported(instance.deploy_id)):
                yield instance
            else:
                log.warning("debt dropped: the instance is not the VM's", instance=instance.deploy_id)


async def _left(vm: Vm, debt: Debt, gone: set[DeployId]) -> list[Instance]:
    """Return the debt's instances that are not terminated yet; an empty list means that certainly none is left."""
    looked_at = vm.now()
    every = await vm.attempts()
    attempts = [attempt for attempt in every if covers_attempt(debt, attempt)]
    ids = {debt.deploy_id} if debt.deploy_id else {attempt.deploy_id for attempt in attempts if attempt.deploy_id}
    looked = await vm.cloud.lookup(ids) if ids else {}
    found = {id_: instance for id_, instance in looked.items() if id_ in ids}
    for instance in await vm.cloud.find(vm.identity.vm_id):
        if covers_instance(debt, instance, every):
            found.setdefault(instance.deploy_id, instance)
    gone |= {id_ for id_, instance in found.items() if instance.state is InstanceState.TERMINATED}
    alive = [instance for id_, instance in found.items() if id_ not in gone]
    if not alive:
        unsettled = [attempt for attempt in attempts if attempt.deploy_id not in gone]
        if any(vm.is_young(attempt, looked_at) for attempt in unsettled):
            raise CannotTell(f"cannot tell yet whether VM {vm.number}'s instance exists")
        unlisted = [attempt.deploy_id for attempt in unsettled if attempt.state is AttemptState.CREATED]
        if unlisted and looked_at.at - debt.since < UNLISTED_SECONDS:
            # Without its tags nothing shows which VM it belongs to.
            raise CannotTell(f"the cloud does not show instance {unlisted[0]}, which it has made: nothing is destroyed")
        for attempt in attempts:
            await vm.close(attempt, AttemptState.GONE, "destroyed, or not found after the grace")
    return alive
