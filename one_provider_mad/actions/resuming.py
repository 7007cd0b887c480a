"""Bring a stopped instance up to date when its VM is resumed: size, disks, interfaces, context (decision 29).

The core sends nothing for a VM in POWEROFF or UNDEPLOYED that is resized, gets a disk or loses one, or is edited, and
shows it as done (OpenNebula src/dm/DispatchManagerActions.cc). So the journal keeps what the instance was given, and
a resume compares it with the VM. Each difference is carried out, or reported in the VM's log and tried again by the
next resume. The specification is written before and after each step, and each may be repeated: the next resume
completes one that was interrupted, even after further edits of the VM.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from one_provider_mad.actions.capabilities import CAPABILITIES
from one_provider_mad.actions.instance_spec import (
    Change,
    InstanceSpec,
    changes,
    read_spec,
    removal,
    spec_of,
    with_begun,
    with_finished,
)
from one_provider_mad.actions.policy import check_change, check_sections
from one_provider_mad.actions.spending import spending
from one_provider_mad.budget.admission import UNLIMITED, Budget
from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, Instance, InstanceState, Value, VmRequest
from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    BudgetExceeded,
    JournalError,
    MadError,
    NotSupported,
    ProviderError,
    RequestRefused,
)
from one_provider_mad.journal.writer import Journal
from one_provider_mad.ownership.creating import Complete, as_sent
from one_provider_mad.protocol.messages import Action
from one_provider_mad.providers.interface import Attached, DeviceListing, Reconfigurable
from one_provider_mad.settings import Policy

_ATTACHES = frozenset({Action.ATTACHDISK, Action.ATTACHNIC})

_RECREATE = "only a new instance gets it (onevm recover --recreate)"


class Resumption(Value, frozen=True, kw_only=True):
    """Records the specification of a VM's instance, and brings a stopped instance up to that of the VM.

    Attributes:
        cloud: where the instance is.
        journal: has the specification of the instance.
        policy: `[policy]`, with the attributes that end users may not set.
        request: the VM.
        warn: writes failures to the VM's log.
        inform: writes successes to the VM's log.
        budget: admits what adds to the costs.
        complete: completes the request for calls that send its context or section.
    """

    cloud: Cloud
    journal: Journal
    policy: Policy
    request: VmRequest
    warn: Callable[[str], None]
    inform: Callable[[str], None]
    budget: Budget = UNLIMITED
    complete: Complete = as_sent

    async def note_baseline(self, deploy_id: DeployId) -> None:
        """Record the VM's present specification where there is none yet; an error is only logged in the VM's log.

        There is none for an instance of an earlier release or another front-end, or one that a person imported.
        """
        if not self.request.template.values:
            return
        try:
            if await self._recorded(deploy_id) is None:
                await self._record(deploy_id, self._wanted())
        except JournalError as error:
            self.warn(str(error))

    async def note_begun(self, action: Action, deploy_id: DeployId) -> None:
        """Record that an action begins to attach or detach a device of a live instance.

        If the attach fails, OpenNebula removes the device from the VM, though the instance may have it: then the next
        resume detaches it.
        """
        if action in _ATTACHES:
            await self._note(deploy_id, lambda before: with_begun(before, action, self.request.operand))

    async def note_action(self, action: Action, deploy_id: DeployId) -> None:
        """Record a finished action's change; if the journal fails, the next resume carries the change out again."""
        await self._note(
            deploy_id, lambda before: with_finished(before, action, self.request.operand, self.request.template)
        )

    async def _note(self, deploy_id: DeployId, change: Callable[[InstanceSpec], InstanceSpec]) -> None:
        """Change the recorded specification, if there is one; a failing journal is a warning in the VM's log."""
        try:
            if (before := await self._recorded(deploy_id)) is not None:
                await self._record_other(deploy_id, before, change(before))
        except JournalError as error:
            self.warn(str(error))

    async def carry_out(self, instance: Instance) -> None:
        """Bring a stopped instance, which is started next, up to the VM's present specification.

        Raises:
            ProviderError: the cloud does not answer now; the next resume tries again.
            JournalError: the journal cannot be read or written.
        """
        if not self.request.template.values:
            return
        before = await self._recorded(instance.deploy_id) or await self._begin(instance)
        wanted = self._wanted()
        todo = list(changes(before, self.request))
        if instance.state is not InstanceState.STOPPED:
            self._warn_of_waiting(instance, [each.what for each in todo] + self._waiting_names(before, wanted))
            return
        # New interfaces come last: they get the present security groups of the section.
        first = [each for each in todo if each.action is not Action.ATTACHNIC]
        now = await self._change(instance, before, first)
        now = await self._change_section(instance.deploy_id, now, wanted)
        await self._change(instance, now, [each for each in todo if each not in first])

    # The specification in the journal

    async def recorded(self, deploy_id: DeployId) -> InstanceSpec | None:
        """Return the recorded specification; None without one, and while the journal cannot be read."""
        try:
            return await self._recorded(deploy_id)
        except JournalError:
            return None

    async def _recorded(self, deploy_id: DeployId) -> InstanceSpec | None:
        return read_spec(await self.journal.specification(deploy_id, owner=self.cloud.owner, vm_id=self.request.vm_id))

    async def _record(self, deploy_id: DeployId, spec: InstanceSpec) -> None:
        await self.journal.note_specification(deploy_id, spec.written(), vm_id=self.request.vm_id)

    async def _record_other(self, deploy_id: DeployId, before: InstanceSpec, now: InstanceSpec) -> None:
        if now != before:
            await self._record(deploy_id, now)

    def _wanted(self) -> InstanceSpec:
        return wanted_spec(self.cloud, self.request)

    async def _begin(self, instance: Instance) -> InstanceSpec:
        """Record the first specification of an instance: the VM's present one; detach our devices that the VM lacks."""
        deploy_id, provider = instance.deploy_id, self.cloud.provider
        self.warn(
            f"the journal has no specification of instance {deploy_id}: the instance stays as it is, and changes from"
            " now on are carried out when the VM is resumed"
        )
        has = self._wanted()
        if isinstance(provider, DeviceListing) and instance.state is InstanceState.STOPPED:
            attached = await self._attached(provider, deploy_id)
            strays = [removal("DISK_ID", key) for key in sorted(attached.disks) if key not in has.disks]
            strays += [removal("NIC_ID", key) for key in sorted(attached.nics) if key not in has.nics]
            for stray in strays:
                has = with_begun(has, stray.action, stray.operand)
        await self._record(deploy_id, has)
        return has

    async def _attached(self, provider: DeviceListing, deploy_id: DeployId) -> Attached:
        try:
            return await self.cloud.call("list devices", lambda: provider.attached(deploy_id))
        except ProviderError as error:
            if _may_pass(error):
                raise
            self.warn(f"cannot list the left-over disks and interfaces of instance {deploy_id}: {error}")
            return Attached()

    def _waiting_names(self, before: InstanceSpec, wanted: InstanceSpec) -> list[str]:
        provider = self.cloud.provider
        changeable = provider.changeable_attributes if isinstance(provider, Reconfigurable) else ()
        return [f"changing {name}" for name in _edited(before, wanted) if name in changeable]

    def _warn_of_waiting(self, instance: Instance, what: list[str]) -> None:
        if what:
            self.warn(
                f"{', '.join(what)}: not carried out while instance {instance.deploy_id} is {instance.raw_state};"
                " power the VM off and resume it"
            )

    # Carrying out

    async def _change(self, instance: Instance, spec: InstanceSpec, todo: list[Change]) -> InstanceSpec:
        """Carry out the changes that do not wait for a removal; return the specification that the instance has then."""
        for change in todo:
            if not change.waits_for_removal(spec):  # a disk takes the number of one that could not be detached
                spec = await self._change_one(instance, spec, change)
        return spec

    async def _change_one(self, instance: Instance, spec: InstanceSpec, change: Change) -> InstanceSpec:
        """Carry out one change that the budget admits; one that it does not leaves the instance as it is.

        So does one of which the provider says already when it is asked for the price that it has no effect.
        """
        request, operand = self.request, change.operand
        try:
            async with spending(self.budget, change.action, instance, request, operand=operand, spec=spec):
                return await self._change_admitted(instance.deploy_id, spec, change)
        except (BudgetExceeded, BadParameter) as error:
            self._warn_of_refusal(instance.deploy_id, change.what, error)
            return spec

    async def _change_admitted(self, deploy_id: DeployId, spec: InstanceSpec, change: Change) -> InstanceSpec:
        """Carry out one change, and record the result before the next, since the VM may be edited after a crash."""
        capability, provider = CAPABILITIES[change.action], self.cloud.provider
        if not isinstance(provider, capability.protocol):
            self._warn_of_refusal(deploy_id, change.what, NotSupported(provider.name, capability.what))
            return spec
        try:
            check_change(self.policy, change.action, msgspec.structs.replace(self.request, operand=change.operand))
        except MadError as error:
            self.warn(f"{error}; {change.what}, asked for while the VM was off, was refused for instance {deploy_id}")
            return spec
        method: Callable[[DeployId, Any], Awaitable[Any]] = getattr(provider, capability.method)
        subject: Any = change.operand if capability.operand else self.request
        if change.action is Action.UPDATECONF:
            try:
                subject = await self.complete(self.request)
            except RequestRefused as error:
                self._warn_of_refusal(deploy_id, change.what, error)
                return spec
        doubt = with_begun(spec, change.action, change.operand)
        await self._record_other(deploy_id, spec, doubt)
        if await self._is_done(deploy_id, change.what, partial(method, deploy_id, subject), change.action.value):
            now = with_finished(spec, change.action, change.operand, self.request.template)
        else:
            now = doubt if change.action in _ATTACHES else spec
        await self._record_other(deploy_id, doubt, now)
        return now

    async def _change_section(self, deploy_id: DeployId, spec: InstanceSpec, wanted: InstanceSpec) -> InstanceSpec:
        """Carry out edits of the PUBLIC_CLOUD section; return the specification that the instance has then."""
        provider, names = self.cloud.provider, _edited(spec, wanted)
        if not names or not isinstance(provider, Reconfigurable):
            return spec
        try:
            check_sections(self.policy, self.request)
        except MadError as error:
            self.warn(f"{error}; instance {deploy_id} keeps what it has")
            return spec
        if fixed := [name for name in names if name not in provider.changeable_attributes]:
            self.warn(
                f"PUBLIC_CLOUD {', '.join(fixed)} was edited, and instance {deploy_id} keeps what it has: {_RECREATE}"
            )
        if not (changed := [name for name in names if name not in fixed]):
            return spec
        section = dict(spec.section)
        try:
            request = await self.complete(self.request)
        except RequestRefused as error:
            self._warn_of_refusal(deploy_id, f"changing {', '.join(changed)}", error)
            return spec
        for name in changed:
            send = partial(provider.reconfigure, deploy_id, request, name)
            if await self._is_done(deploy_id, f"changing {name}", send, "reconfigure"):
                section.pop(name, None)
                section.update({name: wanted.section[name]} if name in wanted.section else {})
        now = msgspec.structs.replace(spec, section=section)
        await self._record_other(deploy_id, spec, now)
        return now

    async def _is_done(
        self, deploy_id: DeployId, what: str, send: Callable[[], Awaitable[Any]], operation: str
    ) -> bool:
        """Send one change to the cloud, and log the result in the VM's log; False when the cloud refused it.

        Args:
            deploy_id: the instance.
            what: description for the VM's log.
            send: sends the call, once.
            operation: name of the call in messages and metrics.

        Raises:
            ProviderError: the outcome is unknown, or the cloud does not answer now.
        """
        try:
            result = await self.cloud.call(operation, send)
        except ProviderError as error:
            if _may_pass(error):
                raise
            self._warn_of_refusal(deploy_id, what, error)
            return False
        self.inform(f"{what}: carried out on instance {deploy_id}, as asked for while the VM was off")
        if operation == Action.UPDATECONF.value:
            for sentence in result or ():  # entry points of release 0.1 return None
                self.warn(sentence)
        return True

    def _warn_of_refusal(self, deploy_id: DeployId, what: str, error: MadError) -> None:
        self.warn(f"{what}, asked for while the VM was off, was refused for instance {deploy_id}: {error}")


def wanted_spec(cloud: Cloud, request: VmRequest) -> InstanceSpec:
    """Return the specification that a VM's template asks of this cloud; an unreadable section counts as empty."""
    section: Mapping[str, str] = {}
    if isinstance(cloud.provider, Reconfigurable):
        try:
            section = cloud.provider.section_of(request)
        except ProviderError:
            section = {}
    return spec_of(request, section)


def _may_pass(error: ProviderError) -> bool:
    """True for an error that may pass: it fails the resume, so that a person tries again."""
    return error.retryable or not error.definite or isinstance(error, AuthenticationRefused)


def _edited(before: InstanceSpec, wanted: InstanceSpec) -> list[str]:
    names = sorted({*before.section, *wanted.section})
    return [name for name in names if before.section.get(name) != wanted.section.get(name)]
