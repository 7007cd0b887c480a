"""Carry out DEPLOY, SHUTDOWN, CANCEL, SAVE, RESTORE and CLEANUP by their intents, and REBOOT and RESET."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from one_provider_mad.actions.intents import LCM_STATES, Intent
from one_provider_mad.actions.policy import check_attributes, check_section
from one_provider_mad.actions.recreating import gone_for_good
from one_provider_mad.actions.resuming import Resumption, wanted_spec
from one_provider_mad.actions.shared_lookups import SharedLookups
from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, Instance, InstanceState, Value, VmRequest
from one_provider_mad.errors import InstanceNotFound, JournalError, ProviderError, WrongState
from one_provider_mad.journal.writer import Journal
from one_provider_mad.ownership.creating import Order
from one_provider_mad.ownership.deploying import instance_for_deploy
from one_provider_mad.ownership.destroying import to_destroy
from one_provider_mad.ownership.locating import locate
from one_provider_mad.ownership.vm import Vm
from one_provider_mad.providers.interface import BootFinisher, Parkable, SoftTerminate, Suspendable
from one_provider_mad.settings import Policy
from one_provider_mad.timestamps import Timestamp

_FINISH_SECONDS = 60.0
"""Seconds after which a DEPLOY succeeds without the provider's last steps for its running instance."""

_GUESTS_SECONDS = 120.0
"""Seconds for a guest to shut down: a terminate requested again after them ends the instance by force."""

_SURE = 2
_SURELY_FAILED = 10
"""Lookups in a row that must show that an instance will not end; more where it was never shown as ending."""

RUNNING = frozenset({InstanceState.RUNNING})
STOPPED = frozenset({InstanceState.STOPPED, InstanceState.SUSPENDED})
_TERMINATED = frozenset({InstanceState.TERMINATED})


class Work(Value, frozen=True, kw_only=True):
    """The request, the cloud and the journal of one action, and how it reports.

    Attributes:
        cloud: the provider, with time limits and retries for its calls.
        journal: requests, attempts, debts and imports.
        policy: `[policy]` of the configuration file.
        request: the VM.
        deadline: loop time by which the action must be done; infinity for none.
        clock: seconds since the epoch.
        warn: writes a sentence to the VM's log.
        inform: the same, without the mark of a warning.
        is_stale: true once oned has sent a newer request for the VM, and awaits no answer to this one.
        required_type: TYPE of the section that a VM must have before an instance is created for it; "" for none.
        requested_at: when an earlier process got the request, seconds since the epoch; infinity for this process's.
        lookups: the lookups that all REBOOTs and RESETs share.
        leads_since: when this front-end began to lead or to run; None once creates of an earlier leader have ended.
    """

    cloud: Cloud
    journal: Journal
    policy: Policy
    request: VmRequest
    deadline: float
    clock: Callable[[], float]
    warn: Callable[[str], None]
    inform: Callable[[str], None] = lambda _: None
    is_stale: Callable[[], bool] = lambda: False
    required_type: str = ""
    requested_at: float = math.inf
    lookups: SharedLookups = msgspec.field(default_factory=SharedLookups)
    leads_since: Timestamp | None = None

    @property
    def vm(self) -> Vm:
        """Return the VM in the form that the functions of ownership/ take."""
        return Vm(
            identity=self.request.identity(owner=self.cloud.owner),
            deploy_id=self.request.deploy_id,
            cloud=self.cloud,
            journal=self.journal,
            clock=self.clock,
            warn=self.warn,
        )


async def perform_intent(work: Work, intent: Intent, *, is_soft: bool = False) -> str:
    """Carry out an intent; return the reply's payload. `is_soft`: a terminate may wait for the guest to shut down."""
    if is_soft and intent is Intent.DESTROY:
        return await destroy(work, is_soft=True)
    return await _PERFORM[intent](work)


async def create(work: Work) -> str:
    """Adopt the VM's instance, or create it where the VM certainly has none; return its id once it runs."""
    check_attributes(work.policy, work.request)
    order = Order(
        request=work.request,
        specification=wanted_spec(work.cloud, work.request).written(),
        check=partial(check_section, work.required_type, work.request, cloud=work.cloud.provider.name),
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
    )


async def bring_up(work: Work, instance: Instance) -> None:
    """Start the VM's instance if it is stopped, and do the provider's last steps; return once it runs.

    Raises:
        WrongState: the instance will not run.
    """
    if instance.state is not InstanceState.RUNNING:
        # An adopted instance, which was stopped meanwhile.
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
    instance = await locate(work.vm)
    provider, deploy_id = work.cloud.provider, instance.deploy_id
    if instance.state.is_gone:
        raise WrongState(gone_for_good(instance, lcm_state=work.request.lcm_state))
    if instance.state in (InstanceState.STOPPING, InstanceState.SUSPENDING):
        instance = await work.cloud.watch(deploy_id, STOPPED, goal="stopped")
    await _note(work, work.journal.sync())
    await move_to_host(work, instance)
    await resumption_of(work).carry_out(instance)
    if instance.state not in (InstanceState.RUNNING, InstanceState.PENDING):
        await work.cloud.call("start", partial(provider.start, deploy_id))
    await work.journal.unpark(deploy_id)
    if instance.state is not InstanceState.RUNNING:
        await work.cloud.watch(deploy_id, RUNNING, goal="running")
    return deploy_id


async def move_to_host(work: Work, instance: Instance) -> None:
    """Write the VM's present host into the instance's tags, by which monitoring assigns instances to hosts."""
    identity, host_id = instance.identity, work.request.host_id
    if identity is not None and host_id >= 0 and identity.host_id != host_id:
        moved = msgspec.structs.replace(identity, host_id=host_id)
        await work.cloud.call("retag", lambda: work.cloud.provider.retag(instance.deploy_id, moved))


async def stop(work: Work, *, is_hard: bool = False, is_parked: bool = False) -> str:
    """Stop the VM's instance; `is_parked`: record it as parked, since its VM is on no host afterwards."""
    provider = work.cloud.provider
    instance = await _alive(work)
    await resumption_of(work).note_baseline(instance.deploy_id)
    if is_parked and instance.state not in STOPPED:
        # Clear the mark of an earlier undeploy: if this one fails, the VM stays on its host. Of a stopped instance it
        # is kept: the undeploy may have been answered, and then no failure of this one is seen any more.
        await _note(work, work.journal.unpark(instance.deploy_id))
    if instance.state is InstanceState.PENDING:
        instance = await work.cloud.watch(instance.deploy_id, RUNNING | STOPPED, goal="running")
    await _note(work, work.journal.sync())
    is_hanging = is_hard and instance.state is InstanceState.STOPPING
    if is_hanging or instance.state in (InstanceState.RUNNING, InstanceState.UNKNOWN):
        if is_parked and isinstance(provider, Parkable):
            send = partial(provider.park, hard=is_hard, keeps_memory=_keeps_memory(work.request))
            await work.cloud.call("park", partial(send, instance.deploy_id))
        else:
            await work.cloud.call("stop", partial(provider.stop, instance.deploy_id, hard=is_hard))
    await work.cloud.watch(instance.deploy_id, STOPPED, goal="stopped")
    if is_parked and not work.is_stale():
        await work.journal.park(instance.deploy_id, work.request.vm_id)
    elif not is_parked:
        await _note(work, be_on_host(work, instance.deploy_id))
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
    await _note(work, work.journal.sync())
    if instance.state in (InstanceState.RUNNING, InstanceState.UNKNOWN):
        await work.cloud.call("suspend", partial(provider.suspend, instance.deploy_id))
    await work.cloud.watch(instance.deploy_id, STOPPED, goal="suspended")
    await _note(work, be_on_host(work, instance.deploy_id))
    return "-"


async def _alive(work: Work) -> Instance:
    instance = await locate(work.vm)
    if instance.state.is_gone:
        raise WrongState(gone_for_good(instance))
    return instance


async def destroy(work: Work, *, is_soft: bool = False) -> str:
    """Terminate all instances of the VM; return once each is terminated, or is certainly not in the cloud any more."""
    await _note(work, work.journal.sync())
    async for instances in to_destroy(work.vm, deadline=work.deadline):
        asked = {each.deploy_id for each in instances if is_soft and await _is_guests_turn(work, each.deploy_id)}
        for instance in instances:
            await terminate(work.cloud, instance, is_soft=instance.deploy_id in asked)
            if instance.deploy_id in asked:
                await _note(work, work.journal.note_soft_end(instance.deploy_id, Timestamp.now(work.clock)))
        for instance in instances:
            if instance.deploy_id in asked:
                await _ended_by_guest(work, instance.deploy_id)
            else:
                await terminated(work.cloud, instance.deploy_id)
    return "-"


async def _is_guests_turn(work: Work, deploy_id: DeployId) -> bool:
    """True when a soft terminate may wait for the guest to shut down: no earlier request has waited in vain."""
    if not isinstance(work.cloud.provider, SoftTerminate):
        return False
    try:
        before = await work.journal.soft_end(deploy_id)
    except JournalError as error:
        work.warn(str(error))
        return True
    if before is None:
        return True
    first, is_refused = before
    if first.at >= work.requested_at:
        return True  # this very request asked the guest, before the driver's process ended
    return not is_refused and Timestamp.now(work.clock).since(first) < _GUESTS_SECONDS


async def _ended_by_guest(work: Work, deploy_id: DeployId) -> None:
    """Return once an instance, whose guest was asked to shut down, is terminated.

    Raises:
        WrongState: the instance still runs, or it has failed to end.
    """
    try:
        await terminated(work.cloud, deploy_id, cause="its guest did not shut down; ask again to end it")
    except WrongState:
        await _note(work, work.journal.refuse_soft_end(deploy_id))
        raise


async def _note(work: Work, writing: Awaitable[None]) -> None:
    """Await a write to the journal; its failure (a full disk) is a warning, since the instance costs money."""
    try:
        await writing
    except JournalError as error:
        work.warn(str(error))


def needs_asking(cloud: Cloud, instance: Instance, *, is_soft: bool = False) -> bool:
    """True when a terminate must be sent: a hard one also while a guest may still refuse an earlier soft one."""
    can_wait = isinstance(cloud.provider, SoftTerminate)
    is_finished = is_soft or not can_wait or instance.state is InstanceState.TERMINATED
    return not (instance.state.is_gone and is_finished)


async def terminate(cloud: Cloud, instance: Instance, *, is_soft: bool = False) -> None:
    """Send a terminate, unless the instance is ending already and no guest can delay that."""
    provider = cloud.provider
    if not needs_asking(cloud, instance, is_soft=is_soft):
        return
    end = provider.shut_down if is_soft and isinstance(provider, SoftTerminate) else provider.destroy
    try:
        await cloud.call("terminate", partial(end, instance.deploy_id))
    except InstanceNotFound:
        return  # it ended between the lookup and the call


async def terminated(cloud: Cloud, deploy_id: DeployId, *, cause: str = "the cloud did not end it") -> None:
    """Return once the cloud shows an instance terminated, or does not know it any more.

    Args:
        cloud: where it is.
        deploy_id: the instance, for which a terminate was sent.
        cause: why the instance still runs, for the error's sentence.

    Raises:
        WrongState: the instance runs again after it was ending, or it has failed to end.
    """
    try:
        await cloud.watch(deploy_id, _TERMINATED, goal="terminated", check=_will_end(cloud, cause))
    except InstanceNotFound:
        return


def _will_end(cloud: Cloud, cause: str) -> Callable[[Instance], None]:
    """Return a check for `watch` that fails once lookups in a row show that the instance will not end.

    One lookup may be outdated. An instance that had failed before the terminate may be shown as failed until the cloud
    begins to end it. Where no guest is asked, no instance runs again: a lookup that shows one running is outdated.
    """
    can_come_back = isinstance(cloud.provider, SoftTerminate)
    was_leaving, running, failed = False, 0, 0

    def check(instance: Instance) -> None:
        nonlocal was_leaving, running, failed
        if not can_come_back:
            return
        was_leaving = was_leaving or instance.state.is_gone
        running = running + 1 if was_leaving and instance.state is InstanceState.RUNNING else 0
        failed = failed + 1 if instance.state is InstanceState.UNKNOWN and instance.reason else 0
        if running == _SURE:
            raise WrongState(f"instance {instance.deploy_id} runs on: {cause}")
        if failed == (_SURE if was_leaving else _SURELY_FAILED):
            raise WrongState(f"instance {instance.deploy_id} is {instance.raw_state}: {instance.reason}")

    return check


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
