"""Find VMs whose instances were terminated outside OpenNebula, and say in their logs how to recreate them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from one_provider_mad.actions.recreating import recreate_from
from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.orphans.verdicts import VmDocument

_STATES = {8: "POWEROFF", 5: "SUSPENDED"}
"""VM/STATE of the states from which some releases cannot recreate a VM (include/VirtualMachine.h, VmState)."""


class EndedInstances:
    """Remembers the instances seen alive, and the terminated ones that were logged, for the driver's life."""

    def __init__(self) -> None:
        self._alive: set[DeployId] = set()
        self._logged: set[DeployId] = set()

    async def not_yet_logged(
        self, cloud: Cloud, instances: Collection[Instance], living: Mapping[VmId, VmDocument]
    ) -> dict[VmId, Instance]:
        """Return, by VM, the terminated instance of each VM at rest for which `note_logged` was not called yet.

        Args:
            cloud: looks up by id instances that the listing omits since they are terminated.
            instances: a complete listing.
            living: every VM that is not DONE.

        Raises:
            ProviderError: the cloud does not answer.
        """
        owned = [vm for vm in living.values() if vm.is_at_rest and vm.deploy_id and vm.deploy_id not in self._logged]
        shown = {each.deploy_id: each for each in instances}
        unlisted = [vm.deploy_id for vm in owned if vm.deploy_id in self._alive and vm.deploy_id not in shown]
        if unlisted:
            shown.update(await cloud.lookup(unlisted))
        self._remember(instances, living.values())
        return {
            vm.vm_id: instance
            for vm in owned
            if (instance := shown.get(vm.deploy_id)) is not None
            and instance.state is InstanceState.TERMINATED
            and _is_of(instance, vm, owner=cloud.owner)
        }

    def note_logged(self, deploy_id: DeployId) -> None:
        """Note that the termination of this instance was logged in its VM's log."""
        self._logged.add(deploy_id)

    def _remember(self, instances: Iterable[Instance], living: Iterable[VmDocument]) -> None:
        named = {vm.deploy_id for vm in living}
        self._alive = {each.deploy_id for each in instances if not each.state.is_gone} | (self._alive & named)
        self._logged &= named


def _is_of(instance: Instance, vm: VmDocument, *, owner: str) -> bool:
    who = instance.identity
    return who is not None and (who.owner, who.vm_id, who.stime) == (owner, vm.vm_id, vm.stime)


def sentence_for(vm: VmDocument, instance: Instance, *, release: tuple[int, ...] | None) -> str:
    """Return the message for the VM's log; `release` is OpenNebula's, None when unknown."""
    because = f" ({instance.reason})" if instance.reason else ""
    remedy = recreate_from(_STATES.get(vm.state, ""), release=release)
    return f"instance {instance.deploy_id} is {instance.raw_state} for good{because}: {remedy}"
