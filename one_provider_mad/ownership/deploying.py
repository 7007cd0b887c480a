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
"""Starts an instance and does the last steps of its boot; returns once it runs, raises WrongState when it will not."""


async def instance_for_deploy(
    vm: Vm, order: Order, *, bring_up: BringUp, may_import: bool, leads_since: Timestamp | None = None
) -> DeployId:
    """Return the id of the VM's instance once it runs; it is adopted, or created where the VM certainly has none.

    One that ends for lack of capacity gives way to the next alternative, like a create that is refused for it.

    Args:
        vm: the VM.
        order: the request from which a new instance is created.
        bring_up: starts an instance.
        may_import: an instance without our tags that the VM names may be adopted.
        leads_since: when this front-end began to lead or to run; None once creates of an earlier leader have ended.

    Raises:
        AmbiguousInstance: several instances have exactly the VM's tags.
        NotOurs: the instance that the VM names, or that the cloud's answer names, is not this VM's.
        RequestRefused: the VM has no instance, and none may be created for it.
        ProviderError: the cloud refused, or its answer is uncertain; the attempt is in the journal.
        WrongState: the VM's instance will not run.
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
    """Return the id of the instance that an earlier deploy of the VM made, once it runs; nothing is created.

    Args:
        vm: the VM, whose deploy no process carries out any more.
        bring_up: starts an instance.
        may_import: an instance without our tags that the VM names may be adopted.

    Raises:
        InstanceNotFound: the cloud lists no instance, and has had the time in which it lists every new one.
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
