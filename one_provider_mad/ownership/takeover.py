"""Adopt an instance without our tags for the VM that names it: one of upstream's driver, or an imported one."""

from __future__ import annotations

from one_provider_mad.domain import DeployId, Instance, VmId
from one_provider_mad.errors import NotOurs, ProviderError
from one_provider_mad.ownership.vm import Vm
from one_provider_mad.providers.interface import UpstreamTags


async def take_over_upstreams(vm: Vm, instance: Instance) -> bool:
    """Give our tags to an instance that upstream's driver made for this VM; False when it has no tags of upstream's.

    The VM must name the instance: upstream's tag alone may be that of another OpenNebula in the account. The journal
    records it first, as an import, so that it is terminated only when oned requests it.

    Raises:
        NotOurs: upstream's tags name another VM, or another VM of this ID has adopted it before.
    """
    vm_id = upstream_vm_id(vm, instance)
    if vm_id is None:
        return False
    deploy_id, identity = instance.deploy_id, vm.identity
    if vm_id != identity.vm_id:
        raise NotOurs(f"instance {deploy_id} is VM {vm_id}'s by upstream's tag: it is left alone")
    if instance.state.is_gone:
        if await vm.journal.imported_for(deploy_id) not in (None, (identity.vm_id, identity.stime)):
            raise _taken(deploy_id)
        return True
    await _claim(vm, deploy_id)
    await vm.cloud.call("retag", lambda: vm.cloud.provider.retag(deploy_id, identity))
    return True


async def take_over(vm: Vm, instance: Instance, *, may_import: bool) -> None:
    """Give our tags to an instance without any, where `policy.allow_import` or a tag of upstream's allows it.

    Raises:
        NotOurs: the adoption is not allowed, or another VM has adopted the instance before.
    """
    deploy_id = instance.deploy_id
    if not may_import:
        raise NotOurs(f"instance {deploy_id} has no tags of ours: set policy.allow_import to let VMs adopt it")
    has_begun_before = await vm.is_imported(deploy_id)
    await _claim(vm, deploy_id)
    is_untouched = not has_begun_before

    async def retag() -> None:
        nonlocal is_untouched
        was_untouched, is_untouched = is_untouched, False
        try:
            await vm.cloud.provider.retag(deploy_id, vm.identity)
        except ProviderError as error:
            is_untouched = was_untouched and error.definite
            raise

    try:
        await vm.cloud.call("retag", retag)
    except ProviderError:
        if is_untouched:
            await vm.journal.forget_import(deploy_id, vm_id=vm.identity.vm_id, stime=vm.identity.stime)
        raise


async def _claim(vm: Vm, deploy_id: DeployId) -> None:
    """Record in the journal that this VM adopts an untagged instance, before its tags are written.

    Raises:
        NotOurs: another VM has adopted the instance before.
    """
    vm_id, stime = vm.identity.vm_id, vm.identity.stime
    if await vm.journal.record_import(deploy_id, vm_id=vm_id, stime=stime) != (vm_id, stime):
        raise _taken(deploy_id)


def _taken(deploy_id: DeployId) -> NotOurs:
    return NotOurs(f"instance {deploy_id} was taken over by another VM before: it is left alone")


def upstream_vm_id(vm: Vm, instance: Instance) -> VmId | None:
    """Return the VM's ID in upstream's tags, where the provider knows those and the instance has none of ours."""
    provider = vm.cloud.provider
    if instance.identity is not None or not isinstance(provider, UpstreamTags):
        return None
    return provider.upstream_vm_id(instance)
