"""Bring a VM to exactly one instance: the one it has, or a new one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from one_provider_mad.domain import DeployId, Instance
from one_provider_mad.errors import InstanceNotFound, WrongState
from one_provider_mad.ownership.adoption import adopt, adopt_shown
from one_provider_mad.ownership.checks import verified
from one_provider_mad.ownership.creating import Creation, Order, give_up
from one_provider_mad.ownership.vm import Vm
from one_provider_mad.timestamps import Timestamp

BringUp = Callable[[Instance], Awaitable[None]]
"""Returns once an instance of the VM, running or stopped, runs and is finished; raises WrongState when it will not."""


async def instance_for_deploy(
    vm: Vm, order: Order, *, bring_up: BringUp, may_import: bool, leads_since: Timestamp | None = None
) -> DeployId:
    """Return the id of the VM's instance once it runs; it is adopted, or created where the VM certainly has none.

    One that ends for lack of capacity gives way to the next alternative, like a create that is refused for it.

    Args:
        vm: the VM.
        order: what a new instance is created from.
        bring_up: lets an instance run.
        may_import: an untagged instance that the VM names may be taken over.
        leads_since: when this front-end began to lead or to run, if just now; None when that is long ago.

    Raises:
        AmbiguousInstance: two instances match in full.
        NotOurs: the instance that the VM names, or that the cloud's answer names, is not this VM's.
        RequestRefused: it has no instance, and none may be created for it.
        ProviderError: the cloud refused, or its answer is uncertain; the attempt is in the journal.
        WrongState: its instance will not run.
    """
    creation = Creation(vm=vm, order=order)
    while True:
        deploy_id = await adopt(vm, may_import=may_import, leads_since=leads_since) or await creation.create()
        try:
            await bring_up(await verified(vm, deploy_id))
        except WrongState as error:
            await creation.fall_back(deploy_id, error)
        else:
            return deploy_id


async def instance_of_earlier_deploy(vm: Vm, *, bring_up: BringUp, may_import: bool) -> DeployId:
    """Return the id of the VM's instance once it runs; nothing is created.

    Args:
        vm: the VM, whose deploy no process carries out any more.
        bring_up: lets an instance run.
        may_import: an untagged instance that the VM names may be taken over.

    Raises:
        InstanceNotFound: the cloud would list its instance by now, and lists none.
        CannotTell: the journal has an instance that the cloud does not list.
        MadError: as `instance_for_deploy`.
    """
    deploy_id = await adopt_shown(vm, may_import=may_import)
    if deploy_id is None:
        raise InstanceNotFound(
            "no instance was made before the driver or OpenNebula ended: deploy again with onevm recover --retry"
        )
    try:
        await bring_up(await verified(vm, deploy_id))
    except WrongState as error:
        await give_up(vm, deploy_id, error)
        raise
    return deploy_id
