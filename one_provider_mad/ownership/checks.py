"""Refuse an instance that a tag, the journal or OpenNebula led to, unless its tags name the VM (decisions 14 to 16)."""

from __future__ import annotations

import asyncio

from one_provider_mad.domain import DeployId, Instance, InstanceState
from one_provider_mad.errors import NotOurs
from one_provider_mad.ownership.takeover import take_over_upstreams
from one_provider_mad.ownership.vm import Vm

_UP_OR_STOPPED = frozenset({InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.SUSPENDED})


async def check_named(vm: Vm, instance: Instance) -> None:
    """Refuse the instance that OpenNebula names as the VM's, unless it belongs to exactly this VM.

    Raises:
        NotOurs: its tags name another VM, or none.
    """
    if vm.is_named_by(instance):
        return
    if instance.identity is None:
        if await take_over_upstreams(vm, instance):
            return
        if await vm.is_imported(instance.deploy_id):
            return
    raise NotOurs(f"instance {instance.deploy_id} {_whose(vm, instance)}")


async def check_made(vm: Vm, instance: Instance) -> None:
    """Refuse the instance that the answer to the VM's create names, unless its tags name this VM.

    Raises:
        NotOurs: its tags name another VM, or none.
    """
    if vm.is_named_by(instance) or (instance.identity is None and await vm.is_imported(instance.deploy_id)):
        return
    raise NotOurs(
        f"instance {instance.deploy_id}, which the cloud's answer calls VM {vm.number}'s, {_whose(vm, instance)}"
    )


def _whose(vm: Vm, instance: Instance) -> str:
    identity = instance.identity
    if identity is None:
        return "has no tags of ours: it is left alone"
    if identity.owner != vm.identity.owner:
        return f"belongs to owner {identity.owner}: it is left alone"
    if identity.vm_id != vm.identity.vm_id:
        return f"belongs to VM {identity.vm_id}: it is left alone"
    return f"belongs to an earlier VM {identity.vm_id}: it is left alone"


async def verified(vm: Vm, deploy_id: DeployId) -> Instance:
    """Return the instance that a create's answer or the journal names, once it runs or is stopped, and is the VM's.

    Raises:
        NotOurs: the instance belongs to another VM, or to none.
        WrongState: the instance ended, or the cloud says why it will not run.
    """
    provider = vm.cloud.provider
    instance = await vm.cloud.watch(deploy_id, _UP_OR_STOPPED, goal="running", grace=provider.visibility_grace)
    await check_made(vm, await _tagged(vm, instance))
    return instance


async def _tagged(vm: Vm, instance: Instance) -> Instance:
    """Return the instance once the cloud shows its tags, which for a new one may take a little longer."""
    loop, provider = asyncio.get_running_loop(), vm.cloud.provider
    tagged_by = loop.time() + provider.visibility_grace
    while instance.identity is None and not await vm.is_imported(instance.deploy_id):
        if loop.time() >= tagged_by:
            break
        vm.wait_for(f"the tags of {instance.deploy_id} to be visible")
        await asyncio.sleep(provider.watch_interval)
        instance = await vm.cloud.lookup_one(instance.deploy_id) or instance
    return instance
