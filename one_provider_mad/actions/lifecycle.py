"""Carry out DEPLOY, SHUTDOWN, CANCEL, SAVE, RESTORE and CLEANUP by their intents, and REBOOT and RESET."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from one_provider_mad.actions.elsewhere import explained, host_with_disk
from one_provider_mad.actions.intents import LCM_STATES, Intent
from one_provider_mad.actions.policy import check_attributes, check_section
from one_provider_mad.actions.recreating import gone_for_good
from one_provider_mad.actions.resuming import Resumption, wanted_spec
from one_provider_mad.actions.terminating import destroy
from one_provider_mad.actions.work import Work
from one_provider_mad.budget.admission import UNLIMITED
from one_provider_mad.domain import DeployId, Instance, InstanceState, VmRequest
from one_provider_mad.errors import (
    BudgetError,
    InstanceNotFound,
    MadError,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    WrongState,
)
from one_provider_mad.ownership.creating import Order
from one_provider_mad.ownership.deploying import instance_for_deploy
from one_provider_mad.ownership.locating import locate
from one_provider_mad.providers.interface import BootFinisher, Parkable, SharedGroups, Suspendable

_FINISH_SECONDS = 60.0
"""Seconds after which a DEPLOY succeeds without the provider's last steps for its running instance."""

RUNNING = frozenset({InstanceState.RUNNING})
STOPPED = frozenset({InstanceState.STOPPED, InstanceState.SUSPENDED})


async def perform_intent(work: Work, intent: Intent, *, is_soft: bool = False) -> str:
    """Carry out an intent; return the reply's payload. `is_soft`: a terminate may wait for the guest to shut down."""
    if is_soft and intent is Intent.DESTROY:
        return await destroy(work, is_soft=True)
    return await _PERFORM[intent](work)


async def create(work: Work) -> str:
    """Adopt the VM's instance, or create it where the VM certainly has none; return its id once it runs.

    The mark of a refusal (journal/recreations.py) is deleted unless the cloud lacks room again: `onevm recover --retry`
    repeats a deploy within one life, and may fail for another reason than the first time.
    """
    try:
        deploy_id = await _created(work)
    except (NoCapacity, QuotaExceeded):
        raise
    except MadError:
        await work.warn_if_unwritten(work.journal.forget_recreation(work.request.vm_id))
        raise
    await work.warn_if_unwritten(work.journal.forget_recreation(work.request.vm_id))
    return deploy_id


async def _created(work: Work) -> str:
    check_attributes(work.policy, work.request)
    order = Order(
        request=work.request,
        specification=wanted_spec(work.cloud, work.request).written(),
        check=partial(
            check_section,
            work.required_type,
            work.request,
            cloud=work.cloud.provider.name,
            mappings=work.mappings,
        ),
        complete=work.complete,
    )
    deploy_id = await instance_for_deploy(
        work.vm,
        order,
        bring_up=partial(bring_up, work),
        may_import=work.policy.allow_import,
        leads_since=work.leads_since,
    )
    await resumption_of(work).note_baseline(deploy_id)
    return deploy_id


def resumption_of(work: Work) -> Resumption:
    """Return the `Resumption` of the VM, which brings its stopped instance up to date."""
    return Resumption(
        cloud=work.cloud,
        journal=work.journal,
        policy=work.policy,
        request=work.request,
        warn=work.warn,
        inform=work.inform,
        budget=work.budget,
        complete=work.complete,
    )


async def bring_up(work: Work, instance: Instance) -> None:
    """Start the VM's instance if it is stopped, and do the provider's last steps; return once it runs.

    Raises:
        WrongState: the instance will not run.
    """
    if instance.state is not InstanceState.RUNNING:
        # An adopted instance, which was stopped meanwhile.
        async with work.budget.starting(instance, work.request):
            await work.cloud.call("start", partial(work.cloud.provider.start, instance.deploy_id))
            await work.cloud.watch(instance.deploy_id, RUNNING, goal="running")
    await _finish_boot(work, instance.deploy_id)


async def _finish_boot(work: Work, deploy_id: DeployId) -> None:
    """Do the provider's last steps for a running instance; failures go to the VM's log, as with upstream's drivers.

    If they failed the deploy, its instance would run all the same, unmonitored, and the next deploy would fail alike.
    """
    provider = work.cloud.provider
    if not isinstance(provider, BootFinisher):
        return
    left = work.deadline - asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(_FINISH_SECONDS, max(0.0, left / 2))):
            await work.cloud.call("finish boot", partial(provider.finish_boot, deploy_id, work.request))
    except (ProviderError, TimeoutError) as error:
        reason = str(error) or "the cloud did not answer in time"
        work.warn(f"instance {deploy_id} runs, but not everything is done: {reason}")


async def start(work: Work) -> str:
    """Start the VM's stopped or suspended instance; never create one. Return its id once it runs."""
    try:
        instance = await locate(work.vm)
    except InstanceNotFound as error:
        raise await explained(work, error) from error
    provider, deploy_id = work.cloud.provider, instance.deploy_id
    if instance.state.is_gone:
        raise WrongState(gone_for_good(instance, lcm_state=work.request.lcm_state))
    if instance.state in (InstanceState.STOPPING, InstanceState.SUSPENDING):
        instance = await work.cloud.watch(deploy_id, STOPPED, goal="stopped")
    await work.warn_if_unwritten(work.journal.sync())
    await move_to_host(work, instance)
    await resumption_of(work).carry_out(instance)
    if instance.state in (InstanceState.RUNNING, InstanceState.PENDING):
        await work.journal.unpark(deploy_id)
    else:
        async with work.budget.starting(await _resized(work, instance), work.request):
            await _prepare_start(work, deploy_id)
            await work.cloud.call("start", partial(provider.start, deploy_id))
            await work.journal.unpark(deploy_id)
            await work.cloud.watch(deploy_id, RUNNING, goal="running")
    if instance.state is InstanceState.PENDING:
        await work.cloud.watch(deploy_id, RUNNING, goal="running")
    return deploy_id


async def _resized(work: Work, instance: Instance) -> Instance:
    """Return the instance as the cloud shows it after a resize; the same where nobody counts what it costs."""
    if work.budget is UNLIMITED:
        return instance
    return await work.cloud.lookup_one(instance.deploy_id) or instance


async def _prepare_start(work: Work, deploy_id: DeployId) -> None:
    """Apply the present rules of the VM's security groups; a failure goes to the VM's log."""
    provider = work.cloud.provider
    if not isinstance(provider, SharedGroups):
        return
    try:
        await work.cloud.call("update security groups", partial(provider.prepare_start, deploy_id, work.request))
    except ProviderError as error:
        work.warn(f"the security groups of instance {deploy_id} are as they were when it was stopped: {error}")


async def move_to_host(work: Work, instance: Instance) -> None:
    """Write the VM's present host into the instance's tags, by which monitoring assigns instances to hosts."""
    identity, host_id = instance.identity, work.request.host_id
    if identity is not None and host_id >= 0 and identity.host_id != host_id:
        moved = msgspec.structs.replace(identity, host_id=host_id)
        await work.cloud.call("retag", lambda: work.cloud.provider.retag(instance.deploy_id, moved))


async def stop(work: Work, *, is_hard: bool = False, is_parked: bool = False) -> str:
    """Stop the VM's instance; `is_parked`: record it as parked, since its VM is on no host afterwards."""
    provider = work.cloud.provider
    try:
        instance = await _alive(work)
    except InstanceNotFound:
        if not is_parked or (host := await host_with_disk(work)) is None:
            raise
        work.warn(f"VM {work.request.vm_id} has no instance in this cloud, its disk is on host {host.name}")
        return "-"
    await resumption_of(work).note_baseline(instance.deploy_id)
    if is_parked and instance.state not in STOPPED:
        # Clear the mark of an earlier undeploy: if this one fails, the VM stays on its host. Of a stopped instance it
        # is kept: the undeploy may have been answered, and then no failure of this one is seen any more.
        await work.warn_if_unwritten(work.journal.unpark(instance.deploy_id))
    if instance.state is InstanceState.PENDING:
        instance = await work.cloud.watch(instance.deploy_id, RUNNING | STOPPED, goal="running")
    await work.warn_if_unwritten(work.journal.sync())
    is_hanging = is_hard and instance.state is InstanceState.STOPPING
    if is_hanging or instance.state in (InstanceState.RUNNING, InstanceState.UNKNOWN):
        if is_parked and isinstance(provider, Parkable):
            send = partial(provider.park, hard=is_hard, keeps_memory=_keeps_memory(work.request))
            await work.cloud.call("park", partial(send, instance.deploy_id))
        else:
            await work.cloud.call("stop", partial(provider.stop, instance.deploy_id, hard=is_hard))
    await _release_price(work, await work.cloud.watch(instance.deploy_id, STOPPED, goal="stopped"))
    if is_parked and not work.is_stale():
        await work.journal.park(instance.deploy_id, work.request.vm_id)
    elif not is_parked:
        await work.warn_if_unwritten(be_on_host(work, instance.deploy_id))
    return "-"


async def be_on_host(work: Work, deploy_id: DeployId) -> None:
    """Unpark an instance whose undeploy or stop has failed, since its VM stays on its host."""
    if deploy_id in await work.journal.parked():
        await work.journal.unpark(deploy_id)


def _keeps_memory(request: VmRequest) -> bool:
    """True for `onevm stop`, which keeps the guest's memory; an undeploy shuts the guest down."""
    return LCM_STATES.get(request.lcm_state or 0) == "SAVE_STOP"


async def suspend(work: Work) -> str:
    """Suspend the VM's instance; a cloud that cannot keep memory stops it."""
    provider = work.cloud.provider
    if not isinstance(provider, Suspendable):
        return await stop(work)
    instance = await _alive(work)
    await resumption_of(work).note_baseline(instance.deploy_id)
    if instance.state is InstanceState.PENDING:
        instance = await work.cloud.watch(instance.deploy_id, RUNNING | STOPPED, goal="running")
    await work.warn_if_unwritten(work.journal.sync())
    if instance.state in (InstanceState.RUNNING, InstanceState.UNKNOWN):
        await work.cloud.call("suspend", partial(provider.suspend, instance.deploy_id))
    await _release_price(work, await work.cloud.watch(instance.deploy_id, STOPPED, goal="suspended"))
    await work.warn_if_unwritten(be_on_host(work, instance.deploy_id))
    return "-"


async def _release_price(work: Work, stopped: Instance) -> None:
    """Let the budget count the instance as a stopped one at once, also for the other NAMEs that share it."""
    try:
        await work.budget.stopped(stopped)
    except BudgetError as error:
        work.warn(str(error))  # a listing lowers it later


async def _alive(work: Work) -> Instance:
    instance = await locate(work.vm)
    if instance.state.is_gone:
        raise WrongState(gone_for_good(instance))
    return instance


async def reboot(work: Work, *, is_hard: bool) -> str:
    """Reboot the VM's instance, after a lookup of its tags that all waiting REBOOTs and RESETs share."""
    instance = await locate(work.vm, lookup_one=partial(work.lookups.lookup_one, work.cloud))
    await work.cloud.call("reboot", lambda: work.cloud.provider.reboot(instance.deploy_id, hard=is_hard))
    return "-"


_PERFORM: dict[Intent, Callable[[Work], Awaitable[str]]] = {
    Intent.CREATE: create,
    Intent.START: start,
    Intent.STOP: stop,
    Intent.STOP_HARD: partial(stop, is_hard=True),
    Intent.PARK: partial(stop, is_parked=True),
    Intent.PARK_HARD: partial(stop, is_hard=True, is_parked=True),
    Intent.SUSPEND: suspend,
    Intent.DESTROY: destroy,
}
