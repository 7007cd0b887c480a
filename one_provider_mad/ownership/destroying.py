"""Find the instances of a VM that must still be terminated, until all are gone for certain (decision 16)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from one_provider_mad.domain import DeployId, Instance, InstanceState
from one_provider_mad.errors import BudgetError, CannotTell, JournalError, NotOurs, ProviderError
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.ownership.checks import check_made, check_named
from one_provider_mad.ownership.locating import every_instance
from one_provider_mad.ownership.vm import UNLISTED_SECONDS, Vm
from one_provider_mad.timestamps import Timestamp


async def to_destroy(vm: Vm, *, deadline: float) -> AsyncIterator[list[Instance]]:
    """Yield lists of the VM's instances that must still be terminated; end once all are gone for certain.

    The caller terminates all instances of a list before it asks for the next list. The end is recorded in the journal.

    Args:
        vm: the VM, with or without the id of its instance.
        deadline: loop time after which an uncertainty raises CannotTell.

    Raises:
        NotOurs: the instance that the VM names is not this VM's.
        CannotTell: an instance may exist that the cloud does not list.
    """
    gone: set[DeployId] = set()
    while instances := await _left(vm, gone, deadline):
        yield instances
        gone.update(instance.deploy_id for instance in instances)
    vm.cloud.knowledge.shown -= {*gone, vm.deploy_id}
    try:
        await vm.budget.gone(vm.identity, gone)
    except BudgetError as error:
        vm.warn(str(error))  # a listing shows it later
    try:
        await _forget(vm, gone)
    except JournalError as error:
        # A journal that cannot be written (a full disk) is no reason to keep an instance and its bill.
        vm.warn(str(error))


async def _left(vm: Vm, gone: set[DeployId], deadline: float) -> list[Instance]:
    """Return the instances that must still be terminated; adds ids seen terminated to `gone`."""
    if vm.deploy_id not in gone:
        named = await _named(vm)
        if named is not None and named.state is not InstanceState.TERMINATED:
            return [named]
        if named is not None:
            gone.add(named.deploy_id)
    while True:
        for attempt in await vm.unsettled(gone):
            vm.wait_for(f"the cloud's answer to VM {vm.number}'s create")
            await vm.cloud.create_under_way(attempt.token)
        looked_at = vm.now()
        try:
            every = await every_instance(vm)
        except ProviderError as error:
            if vm.deploy_id in gone and not await vm.unsettled(gone):
                return []  # the cloud has shown the VM's only instance terminated
            raise CannotTell(f"{_doubt(vm)}: {error}") from error
        gone |= {instance.deploy_id for instance in every if instance.state is InstanceState.TERMINATED}
        if left := [instance for instance in every if instance.deploy_id not in gone]:
            return left
        unsettled = await vm.unsettled(gone)
        if not any(vm.is_young(attempt, looked_at) for attempt in unsettled):
            # A complete lookup found no instance, after the grace of every attempt.
            return await _resolve(vm, unsettled, gone, looked_at)
        await _wait_for_certainty(vm, unsettled, deadline)


async def _named(vm: Vm) -> Instance | None:
    if not vm.deploy_id:
        return None
    try:
        instance = await vm.cloud.lookup_one(vm.deploy_id)
    except ProviderError as error:
        raise CannotTell(f"cannot tell whether instance {vm.deploy_id} still exists: {error}") from error
    if instance is not None:
        await check_named(vm, instance)
    return instance


async def _resolve(vm: Vm, attempts: list[Attempt], gone: set[DeployId], looked_at: Timestamp) -> list[Instance]:
    """Look up attempts by id whose tags no lookup shows; close those without an instance, return the instances.

    Open attempts have no instance, after their grace. Created ones may be unlisted, and are never terminated unseen,
    since the id in the answer may be another VM's: the next request or a debt looks for them.

    Raises:
        CannotTell: the cloud answered a create within UNLISTED_SECONDS, and does not show the instance.
    """
    made = {attempt.deploy_id for attempt in attempts if attempt.state is AttemptState.CREATED}
    try:
        shown = await vm.cloud.lookup(made) if made else {}
    except ProviderError as error:
        raise CannotTell(f"{_doubt(vm)}: {error}") from error
    left: list[Instance] = []
    for attempt in attempts:
        instance = shown.get(attempt.deploy_id)
        if attempt.state is AttemptState.OPEN:
            await vm.close(attempt, AttemptState.GONE, "not found after the grace")
        elif instance is None and attempt.age(looked_at) < UNLISTED_SECONDS:
            raise CannotTell(f"{_doubt(vm)}: the cloud has made instance {attempt.deploy_id} and does not show it")
        elif instance is None:
            reason = "the cloud has made it, and did not show it when it was to be destroyed"
            await vm.record_debt(attempt.deploy_id, reason, identity=attempt.identity, token=attempt.token)
        elif await _is_made(vm, instance, has_another=bool(gone)):
            left.append(instance)
        else:
            await vm.close(attempt, AttemptState.GONE, "its answer named another VM's instance")
    return left


async def _is_made(vm: Vm, instance: Instance, *, has_another: bool) -> bool:
    """True when the instance that a create's answer named is the VM's by its tags.

    Raises:
        NotOurs: it is another VM's, and no other instance of this VM has been seen.
    """
    try:
        await check_made(vm, instance)
    except NotOurs:
        if not has_another:
            raise
        return False
    return True


async def _wait_for_certainty(vm: Vm, unsettled: list[Attempt], deadline: float) -> None:
    now, provider = vm.now(), vm.cloud.provider
    age = min(attempt.age(now) for attempt in unsettled)
    seconds = max(0.0, provider.visibility_grace - age)
    if asyncio.get_running_loop().time() + seconds > deadline:
        raise CannotTell(
            f"cannot tell whether VM {vm.number}'s instance still exists: wait {seconds:.0f} s and try again"
        )
    vm.wait_for(f"the cloud to show whether VM {vm.number} has an instance")
    await asyncio.sleep(min(seconds, provider.watch_interval))


def _doubt(vm: Vm) -> str:
    return f"cannot tell whether VM {vm.number}'s instance still exists"


async def _forget(vm: Vm, gone: set[DeployId]) -> None:
    """Record that all instances of the VM are gone: none is parked any more, and their attempts are closed."""
    for deploy_id in {*gone, vm.deploy_id}:
        await vm.journal.unpark(deploy_id)
    for attempt in await vm.attempts():
        if attempt.state is AttemptState.CREATED and attempt.deploy_id in gone:
            await vm.close(attempt, AttemptState.GONE, "terminated")
