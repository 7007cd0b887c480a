"""Adopt the instance that an earlier deploy of the VM made, here or on another front-end (decisions 12 and 14).

It is looked for in an order that never creates a second one: the instance that the VM names, one by its tags, those in
the journal; then unanswered creates are repeated, or their instances looked for. Only when all of these were definitely
refused or are gone, the VM has none.
"""

from __future__ import annotations

import asyncio

import msgspec

from one_provider_mad.domain import DeployId
from one_provider_mad.errors import CannotTell, InstanceNotFound, NotOurs
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.ownership.checks import check_named
from one_provider_mad.ownership.debt_scope import covers_attempt
from one_provider_mad.ownership.sending import repeat_unanswered, repeat_unlisted
from one_provider_mad.ownership.tagged import LOOKS_APART, adopt_tagged, record_debt_of_leftover
from one_provider_mad.ownership.takeover import take_over, take_over_upstreams, upstream_vm_id
from one_provider_mad.ownership.vm import UNSETTLED, Vm
from one_provider_mad.timestamps import Timestamp


async def adopt(vm: Vm, *, may_import: bool, leads_since: Timestamp | None) -> DeployId | None:
    """Return the id of the VM's instance, which may not run yet; None when the VM certainly has none.

    Args:
        vm: the VM.
        may_import: an instance without our tags that the VM names may be adopted.
        leads_since: when this front-end began to lead or to run, as an earlier leader may have sent creates that this
            journal lacks; None once those must have ended.

    Raises:
        AmbiguousInstance: several instances have exactly the VM's tags.
        NotOurs: the instance that the VM names belongs to another VM, or to none.
        ProviderError: the cloud refused, or its answer is uncertain.
    """
    if named := await _adopt_named(vm, may_import=may_import):
        return named
    if own := await adopt_tagged(vm):
        return own
    await _presume_attempt(vm, leads_since)
    return await _adopt_journaled(vm)


async def adopt_shown(vm: Vm, *, may_import: bool) -> DeployId | None:
    """Return the id of the VM's instance as the cloud shows it, without sending or repeating a create.

    Returns:
        None when the cloud lists no instance, and has had the time in which it lists every new one.

    Raises:
        CannotTell: the journal has an instance that the cloud does not list.
        MadError: as `adopt`.
    """
    if named := await _adopt_named(vm, may_import=may_import):
        return named
    begun = vm.now()
    grace = vm.cloud.provider.visibility_grace
    if not vm.cloud.provider.is_create_repeatable:
        grace = max(grace, LOOKS_APART)
    while True:
        looked_at = vm.now()
        if own := await adopt_tagged(vm):
            return own
        attempts = await _without_debt(vm)
        if own := await _first_shown(vm, attempts):
            return own
        is_young = any(vm.is_young(each, looked_at) for each in attempts)
        if not is_young and looked_at.since(begun) >= grace:
            await _close_all(vm, attempts)
            return None
        vm.wait_for(f"the cloud to show whether VM {vm.number} has an instance")
        await asyncio.sleep(vm.cloud.provider.watch_interval)


async def _without_debt(vm: Vm) -> list[Attempt]:
    """Return the VM's attempts whose instance exists, or may exist, and is not to be terminated for a debt."""
    debts = await vm.journal.debts()
    return [
        attempt
        for attempt in await vm.own_attempts()
        if attempt.state in UNSETTLED and not any(covers_attempt(debt, attempt) for debt in debts)
    ]


async def _first_shown(vm: Vm, attempts: list[Attempt]) -> DeployId | None:
    """Return the first instance of these attempts that the cloud lists alive."""
    for attempt in attempts:
        if attempt.state is AttemptState.CREATED:
            instance = await vm.cloud.lookup_one(attempt.deploy_id)
            if instance is not None and not instance.state.is_gone:
                return attempt.deploy_id
    return None


async def _close_all(vm: Vm, attempts: list[Attempt]) -> None:
    """Close attempts whose instance the cloud does not show, once the grace of each has passed."""
    for attempt in attempts:
        if attempt.state is AttemptState.CREATED and await vm.cloud.lookup_one(attempt.deploy_id) is None:
            raise CannotTell(f"instance {attempt.deploy_id} was made and is not listed: look for it in the cloud")
        await vm.close(attempt, AttemptState.GONE, "not found after the grace")


async def _presume_attempt(vm: Vm, leads_since: Timestamp | None) -> None:
    """Record an attempt for a create that an earlier leader may have sent before it died.

    Only a cloud without create tokens needs it. Its instance is looked for like that of any unanswered create, and once
    more after this front-end's own create (duplicates.py).
    """
    if leads_since is None or vm.cloud.provider.is_create_repeatable or await vm.own_attempts():
        return
    presumed = Attempt.new(vm.identity, 1, {}).sent(leads_since)
    await vm.journal.save_attempt(msgspec.structs.replace(presumed, detail="another front-end may have sent it"))


async def _adopt_named(vm: Vm, *, may_import: bool) -> DeployId | None:
    """Adopt the instance that a DEPLOY in BOOT names: an import, an earlier try's, or one from before a recreate."""
    deploy_id = vm.deploy_id
    if not deploy_id:
        return None
    instance = await vm.cloud.lookup_one(deploy_id)
    if instance is None or instance.state.is_gone:
        if instance is not None and (vm.is_named_by(instance) or upstream_vm_id(vm, instance) == vm.identity.vm_id):
            return None
        if any(attempt.deploy_id == deploy_id for attempt in await vm.attempts()) or await vm.is_imported(deploy_id):
            return None  # the VM's own once, and gone by now
        raise InstanceNotFound(f"instance {deploy_id}, which the VM names as its own, does not exist")
    if instance.identity is None:
        if not await take_over_upstreams(vm, instance):
            await take_over(vm, instance, may_import=may_import)
        return deploy_id
    await check_named(vm, instance)
    if instance.identity.seq == vm.identity.seq:
        return deploy_id
    if instance.identity.seq < vm.identity.seq:
        await record_debt_of_leftover(vm, instance)
        return None
    raise NotOurs(f"instance {deploy_id} is of a later life of VM {vm.number} (SEQ {instance.identity.seq})")


async def _adopt_journaled(vm: Vm) -> DeployId | None:
    """Adopt the instance that the journal has for exactly this identity, though the cloud does not list it yet."""
    debts = await vm.journal.debts()
    for attempt in await vm.own_attempts():
        if any(covers_attempt(debt, attempt) for debt in debts):
            continue
        if attempt.state is AttemptState.CREATED:
            if own := await _adopt_created(vm, attempt):
                return own
        elif attempt.state is AttemptState.OPEN and (own := await repeat_unanswered(vm, attempt)):
            return own
    return None


async def _adopt_created(vm: Vm, attempt: Attempt) -> DeployId | None:
    looked_at = vm.now()
    instance = await vm.cloud.lookup_one(attempt.deploy_id)
    if instance is None and not vm.is_young(attempt, looked_at):
        return await repeat_unlisted(vm, attempt)
    if instance is None or not instance.state.is_gone:
        return attempt.deploy_id  # listed, or the create was answered with this id and the cloud will list it
    await vm.close(attempt, AttemptState.GONE, "terminated")
    return None
