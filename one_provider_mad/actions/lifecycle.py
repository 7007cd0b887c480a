"""DEPLOY, SHUTDOWN, CANCEL, SAVE, RESTORE, CLEANUP, REBOOT and RESET, by intent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from one_provider_mad.actions.intents import LCM_STATES, Intent
from one_provider_mad.actions.looks import SharedLooks
from one_provider_mad.actions.policy import check_attributes, check_section
from one_provider_mad.actions.recreating import gone_for_good
from one_provider_mad.actions.resuming import Resumption, wanted_spec
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
"""Time limit of the last steps for a running instance, throttled or not: its DEPLOY waits for them."""

_GUESTS_SECONDS = 120.0
"""Time for a guest to shut down, before a repeated request ends its instance by force."""

_SURE = 2
_SURELY_FAILED = 10
"""Lookups in a row that have to agree."""

RUNNING = frozenset({InstanceState.RUNNING})
STOPPED = frozenset({InstanceState.STOPPED, InstanceState.SUSPENDED})
_TERMINATED = frozenset({InstanceState.TERMINATED})


class Work(Value, frozen=True, kw_only=True):
    """Everything that an action works with.

    Attributes:
        cloud: the provider, with bounded and retried calls.
        journal: requests, attempts, debts and imports.
        policy: what end users may do.
        request: the VM.
        deadline: loop time by which the action must be done; infinity for none.
        clock: seconds since the epoch.
        warn: writes a sentence to the VM's log.
        inform: the same, for successes.
        is_stale: true once the core has sent a newer request for the VM, and waits for this one no longer.
        required_type: TYPE of the section that a VM must have before an instance is created for it; "" for none.
        asked_at: when an earlier process got the request, seconds since the epoch; infinity for a request of this one.
        looks: lookups that all reboots share.
        leads_since: when this front-end began to lead or to run, if just now; None when that is long ago.
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
    asked_at: float = math.inf
    looks: SharedLooks = msgspec.field(default_factory=SharedLooks)
    leads_since: Timestamp | None = None

    @property
    def vm(self) -> Vm:
        """Return the VM, for the questions whose answers are in ownership/."""
        return Vm(
            identity=self.request.identity(owner=self.cloud.owner),
            deploy_id=self.request.deploy_id,
            cloud=self.cloud,
            journal=self.journal,
            clock=self.clock,
            warn=self.warn,
        )


async def perform_intent(work: Work, intent: Intent, *, is_soft: bool = False) -> str:
    """Carry out an intent, and return the reply's payload; `is_soft`: an end may wait for the guest."""
    if is_soft and intent is Intent.DESTROY:
        return await destroy(work, is_soft=True)
    return await _PERFORM[intent](work)


async def create(work: Work) -> str:
    """Create the VM's instance, or adopt the one it has; return its id once it runs."""
    check_attributes(work.policy, work.request)
    order = Order(
        request=work.request,
        asked=wanted_spec(work.cloud, work.request).written(),
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
    """Return the object that records and compares the requests of the VM's instance."""
    return Resumption(
        cloud=work.cloud,
        journal=work.journal,
        policy=work.policy,
        request=work.request,
        warn=work.warn,
        inform=work.inform,
    )


async def bring_up(work: Work, instance: Instance) -> None:
    """Return once an instance of the VM, running or stopped, runs and is finished.

    Raises:
        WrongState: it will not run.
    """
    if instance.state is not InstanceState.RUNNING:
        # An adopted instance, which was stopped meanwhile.
        await work.cloud.call("start", partial(work.cloud.provider.start, instance.deploy_id))
        await work.cloud.watch(instance.deploy_id, RUNNING, goal="running")
    await _finish_boot(work, instance.deploy_id)


async def _finish_boot(work: Work, deploy_id: DeployId) -> None:
    """Do the last steps for a running instance; failures go to the VM's log, as with upstream's drivers.

    After a failed deploy the instance would run all the same, unseen, and the next deploy would fail the same way.
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
    """Write the VM's host into the tags, by which monitoring assigns instances to hosts."""
    identity, host_id = instance.identity, work.request.host_id
    if identity is not None and host_id >= 0 and identity.host_id != host_id:
        moved = msgspec.structs.replace(identity, host_id=host_id)
        await work.cloud.call("retag", lambda: work.cloud.provider.retag(instance.deploy_id, moved))


async def stop(work: Work, *, is_hard: bool = False, is_parked: bool = False) -> str:
    """Stop the VM's instance, keeping it; a parked one is recorded as being on no host."""
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
    """Clear the parked mark of a failed undeploy: only the VM of an undeploy or a stop is on no host."""
    if deploy_id in await work.journal.parked():
        await work.journal.unpark(deploy_id)


def _keeps_memory(request: VmRequest) -> bool:
    """True for `onevm stop`, which saves what the guest is doing; an undeploy shuts it down."""
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
    """Terminate all instances of this VM; gone for certain is success."""
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
    """True when a soft end may wait for the guest: it has not refused, nor had its time before this request."""
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
    if first.at >= work.asked_at:
        return True  # this very request asked the guest, before the driver's end cut it short
    return not is_refused and Timestamp.now(work.clock).since(first) < _GUESTS_SECONDS


async def _ended_by_guest(work: Work, deploy_id: DeployId) -> None:
    """Return once an instance is terminated whose guest was asked to shut down.

    Raises:
        WrongState: it runs on, or its end has failed.
    """
    try:
        await terminated(work.cloud, deploy_id, whose="its guest did not shut down; ask again to end it")
    except WrongState:
        await _note(work, work.journal.refuse_soft_end(deploy_id))
        raise


async def _note(work: Work, writing: Awaitable[None]) -> None:
    """Await a write; a journal that cannot be written (a full disk) is no reason to keep an instance and its bill."""
    try:
        await writing
    except JournalError as error:
        work.warn(str(error))


def needs_asking(cloud: Cloud, instance: Instance, *, is_soft: bool = False) -> bool:
    """True when an instance has to be asked to end: a hard end also repeats a soft one, which a guest may refuse."""
    can_wait = isinstance(cloud.provider, SoftTerminate)
    is_over = is_soft or not can_wait or instance.state is InstanceState.TERMINATED
    return not (instance.state.is_gone and is_over)


async def terminate(cloud: Cloud, instance: Instance, *, is_soft: bool = False) -> None:
    """Request an instance's end; one that is ending needs no request, unless its guest may delay it."""
    provider = cloud.provider
    if not needs_asking(cloud, instance, is_soft=is_soft):
        return
    end = provider.shut_down if is_soft and isinstance(provider, SoftTerminate) else provider.destroy
    try:
        await cloud.call("terminate", partial(end, instance.deploy_id))
    except InstanceNotFound:
        return  # it ended between the lookup and the call


async def terminated(cloud: Cloud, deploy_id: DeployId, *, whose: str = "the cloud did not end it") -> None:
    """Return once an instance is seen terminated, or the cloud has forgotten it.

    Args:
        cloud: where it is.
        deploy_id: the instance, whose end was asked for.
        whose: why an instance runs on, for the sentence.

    Raises:
        WrongState: it was on its way out and runs again, or its end has failed.
    """
    try:
        await cloud.watch(deploy_id, _TERMINATED, goal="terminated", check=_will_end(cloud, whose))
    except InstanceNotFound:
        return


def _will_end(cloud: Cloud, whose: str) -> Callable[[Instance], None]:
    """Return a check that fails for an instance that will not end after all: twice, for one lookup may be outdated.

    An instance that had failed before its end was requested may be shown so until the cloud begins the end. Where no
    guest is asked, no instance comes back, and what looks so is an outdated answer.
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
            raise WrongState(f"instance {instance.deploy_id} runs on: {whose}")
        if failed == (_SURE if was_leaving else _SURELY_FAILED):
            raise WrongState(f"instance {instance.deploy_id} is {instance.raw_state}: {instance.reason}")

    return check


async def reboot(work: Work, *, is_hard: bool) -> str:
    """Reboot the VM's instance; one lookup reads the tags for all waiting reboots."""
    instance = await locate(work.vm, look_at=partial(work.looks.look_at, work.cloud))
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
