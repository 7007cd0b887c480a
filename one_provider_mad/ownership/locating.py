"""Find the one instance of a VM, for every action that neither creates nor terminates (decisions 14 to 16)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from one_provider_mad.domain import DeployId, Instance, VmId
from one_provider_mad.errors import AmbiguousInstance, InstanceNotFound
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.ownership.checks import check_named
from one_provider_mad.ownership.vm import Vm, listed

LookupOne = Callable[[DeployId], Awaitable[Instance | None]]
"""Looks up an instance by its id; None when the cloud does not know the id."""


async def locate(vm: Vm, *, lookup_one: LookupOne | None = None) -> Instance:
    """Return the VM's one instance: by the id that the VM names, else by tags, else by the journal.

    Args:
        vm: the VM.
        lookup_one: looks up the instance that the VM names; by default the cloud does.

    Raises:
        NotOurs: the instance that the VM names belongs to another VM, or to none.
        AmbiguousInstance: several live instances have the VM's tags.
        InstanceNotFound: the VM has no instance.
    """
    if vm.deploy_id:
        instance = await (lookup_one or vm.cloud.lookup_one)(vm.deploy_id)
        if instance is not None:
            await check_named(vm, instance)
            return instance
    while True:
        looked_at = vm.now()
        alive = [instance for instance in await every_instance(vm) if not instance.state.is_gone]
        if len(alive) > 1:
            raise AmbiguousInstance(f"{listed(alive)} are all VM {vm.number}'s: terminate all but one in the cloud")
        if alive:
            return alive[0]
        # The cloud may have omitted an instance that it had just created.
        if not any(vm.is_young(attempt, looked_at) for attempt in await vm.unsettled(set())):
            raise InstanceNotFound(missing(vm.identity.vm_id, vm.deploy_id))
        vm.wait_for(f"the new instance of VM {vm.number} to be visible")
        await asyncio.sleep(vm.cloud.provider.watch_interval)


async def every_instance(vm: Vm) -> list[Instance]:
    """Return every instance of the VM, found by a complete lookup of tags and by the ids in the journal."""
    found = {
        instance.deploy_id: instance for instance in await vm.cloud.find(vm.identity.vm_id) if vm.is_named_by(instance)
    }
    known = [
        attempt.deploy_id
        for attempt in await vm.attempts()
        if attempt.state is AttemptState.CREATED and attempt.deploy_id not in found
    ]
    if known:
        looked = await vm.cloud.lookup(known)
        found.update((id_, looked[id_]) for id_ in known if id_ in looked and vm.is_named_by(looked[id_]))
    return list(found.values())


def missing(vm_id: VmId, deploy_id: DeployId) -> str:
    """Return the message for a VM without an instance; `deploy_id`: the id that the VM names, "" for none."""
    return f"instance {deploy_id} of VM {vm_id} does not exist" if deploy_id else f"VM {vm_id} has no instance"
