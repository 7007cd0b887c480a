"""Find the instance of a VM: the same way for every action, and never another VM's (decisions 14 to 16)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, VmId, VmRequest
from one_provider_mad.errors import AmbiguousInstance, CannotTell, InstanceNotFound, NotOurs, ProviderError
from one_provider_mad.journal.records import Attempt, AttemptState, Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.providers.interface import UpstreamTags
from one_provider_mad.timestamps import Timestamp

UNLISTED_SECONDS = 3600.0
"""How long an instance that was created and is not listed is not called gone: clouds list new instances within
minutes, and terminated ones for an hour."""

LookAt = Callable[[DeployId], Awaitable[Instance | None]]
"""Looks up one instance; None when the cloud does not know it."""


class Finder:
    """Finds the instances of VMs.

    Args:
        cloud: where to look.
        journal: creates and imports.
        clock: seconds since the epoch.
    """

    def __init__(self, cloud: Cloud, journal: Journal, clock: Callable[[], float]) -> None:
        self._cloud = cloud
        self._journal = journal
        self._clock = clock

    def now(self) -> Timestamp:
        """Return the present time."""
        return Timestamp.now(self._clock)

    async def locate(self, request: VmRequest, *, look_at: LookAt | None = None) -> Instance:
        """Return the one instance of this VM: by id, else by tags, else by the journal.

        Args:
            request: the VM.
            look_at: looks up the instance that the request names; by default the cloud does.

        Raises:
            NotOurs: the instance that the request names belongs to another VM, or to none.
            AmbiguousInstance: several are this VM's.
            InstanceNotFound: there is none.
        """
        if request.deploy_id:
            instance = await (look_at or self._cloud.look_at)(request.deploy_id)
            if instance is not None:
                await self.check_ownership(instance, request)
                return instance
        while True:
            looked_at = self.now()
            alive = await self.alive(request)
            if len(alive) > 1:
                raise AmbiguousInstance(
                    f"{listed(alive)} are all VM {request.vm_id}'s: terminate all but one in the cloud"
                )
            if alive:
                return alive[0]
            if not await self._may_still_appear(request, looked_at):
                raise InstanceNotFound(missing(request))
            self._cloud.waiting.reason = f"the new instance of VM {request.vm_id} to be visible"
            await asyncio.sleep(self._cloud.provider.watch_interval)

    async def check_ownership(self, instance: Instance, request: VmRequest) -> None:
        """Refuse an instance that does not belong to exactly this VM.

        Raises:
            NotOurs: its tags name another VM, or none.
        """
        if self.is_ours(instance, request):
            return
        if instance.identity is None:
            if await self.take_over_upstreams(instance, request):
                return
            if await self.is_imported(instance.deploy_id, request):
                return
        raise NotOurs(f"instance {instance.deploy_id} {self._whose(instance, request)}")

    async def check_made(self, instance: Instance, request: VmRequest) -> None:
        """Refuse an instance that a create's answer names, unless its tags name this VM.

        Raises:
            NotOurs: its tags name another VM, or none.
        """
        is_untagged = instance.identity is None
        if self.is_ours(instance, request) or (is_untagged and await self.is_imported(instance.deploy_id, request)):
            return
        raise NotOurs(
            f"instance {instance.deploy_id}, which the cloud's answer calls VM {request.vm_id}'s,"
            f" {self._whose(instance, request)}"
        )

    def _whose(self, instance: Instance, request: VmRequest) -> str:
        identity = instance.identity
        if identity is None:
            return "has no tags of ours: it is left alone"
        if identity.owner != self._cloud.owner:
            return f"belongs to owner {identity.owner}: it is left alone"
        if identity.vm_id != request.vm_id:
            return f"belongs to VM {identity.vm_id}: it is left alone"
        return f"belongs to an earlier VM {identity.vm_id}: it is left alone"

    async def take_over_upstreams(self, instance: Instance, request: VmRequest) -> bool:
        """Give our tags to an instance that upstream's driver made for this VM; False without upstream's tags.

        The request has to name the instance: upstream's tag alone may belong to another OpenNebula in the account.
        The journal records it first, as an import, so that only a request ever terminates it.

        Raises:
            NotOurs: upstream's tags name another VM, or another VM of this ID has adopted it before.
        """
        vm_id = self.upstream_vm_id(instance)
        if vm_id is None:
            return False
        deploy_id = instance.deploy_id
        if vm_id != request.vm_id:
            raise NotOurs(f"instance {deploy_id} is VM {vm_id}'s by upstream's tag: it is left alone")
        if instance.state.is_gone:
            if await self._journal.imported_for(deploy_id) not in (None, (request.vm_id, request.stime)):
                raise NotOurs(f"instance {deploy_id} was taken over by another VM before: it is left alone")
            return True
        await self.claim(deploy_id, request)
        identity = request.identity(owner=self._cloud.owner)
        await self._cloud.call("retag", lambda: self._cloud.provider.retag(deploy_id, identity))
        return True

    async def claim(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Record that this VM adopts an untagged instance, before the cloud hears of it.

        Raises:
            NotOurs: another VM has claimed it.
        """
        claimed = await self._journal.record_import(deploy_id, vm_id=request.vm_id, stime=request.stime)
        if claimed != (request.vm_id, request.stime):
            raise NotOurs(f"instance {deploy_id} was taken over by another VM before: it is left alone")

    async def is_imported(self, deploy_id: DeployId, request: VmRequest) -> bool:
        """True when the journal says that exactly this VM has adopted the instance."""
        return await self._journal.imported_for(deploy_id) == (request.vm_id, request.stime)

    def upstream_vm_id(self, instance: Instance) -> VmId | None:
        """Return the VM in upstream's tags, where those count and there are none of ours."""
        provider = self._cloud.provider
        if instance.identity is not None or not isinstance(provider, UpstreamTags):
            return None
        return provider.upstream_vm_id(instance)

    def is_ours(self, instance: Instance, request: VmRequest) -> bool:
        """True when the tags name this owner, this VM and this life of the VM's number."""
        return request.identity(owner=self._cloud.owner).is_same_life(instance.identity)

    async def alive(self, request: VmRequest) -> list[Instance]:
        """Return every live instance of this VM."""
        return [instance for instance in await self._every(request) if not instance.state.is_gone]

    async def _every(self, request: VmRequest) -> list[Instance]:
        """Return every instance of this VM: by a complete lookup of tags, and by the ids in the journal."""
        found = {
            instance.deploy_id: instance
            for instance in await self._cloud.find(request.vm_id)
            if self.is_ours(instance, request)
        }
        known = [
            attempt.deploy_id
            for attempt in await self.attempts(request)
            if attempt.state is AttemptState.CREATED and attempt.deploy_id not in found
        ]
        if known:
            looked = await self._cloud.look(known)
            found.update((id_, looked[id_]) for id_ in known if id_ in looked and self.is_ours(looked[id_], request))
        return list(found.values())

    async def attempts(self, request: VmRequest) -> list[Attempt]:
        """Return every journaled attempt of this life of the VM, oldest first."""
        return await self.attempts_of(request.identity(owner=self._cloud.owner))

    async def attempts_of(self, identity: Identity) -> list[Attempt]:
        """Return every journaled attempt of this life, for any SEQ, oldest first."""
        attempts = await self._journal.attempts(owner=identity.owner, vm_id=identity.vm_id)
        return [attempt for attempt in attempts if identity.is_same_life(attempt.identity)]

    async def _may_still_appear(self, request: VmRequest, looked_at: Timestamp) -> bool:
        """True when the cloud may have omitted, at that time, an instance that it had just created."""
        return any(
            attempt.state in (AttemptState.OPEN, AttemptState.CREATED) and self.is_young(attempt, looked_at)
            for attempt in await self.attempts(request)
        )

    def is_young(self, attempt: Attempt, looked_at: Timestamp) -> bool:
        """True when a lookup that began at that time was within the grace after the attempt was last sent or answered.

        The lookup's beginning counts: a late answer shows the state at that time.
        """
        return attempt.age(looked_at) < self._cloud.provider.visibility_grace

    async def to_destroy(self, request: VmRequest, *, gone: set[DeployId], deadline: float) -> list[Instance]:
        """Return the instances that are left to terminate; an empty list means gone for certain (decision 16).

        Args:
            request: the VM, with or without the id of its instance.
            gone: ids already seen terminated; added to.
            deadline: loop time by which it has to be certain.

        Raises:
            NotOurs: the named instance is not this VM's.
            CannotTell: an instance may exist that the cloud does not list.
        """
        if request.deploy_id not in gone:
            named = await self._named(request)
            if named is not None and named.state is not InstanceState.TERMINATED:
                return [named]
            if named is not None:
                gone.add(named.deploy_id)
        while True:
            for attempt in await self._unresolved(request, gone):
                self._cloud.waiting.reason = f"the cloud's answer to VM {request.vm_id}'s create"
                await self._cloud.create_under_way(attempt.token)
            looked_at = self.now()
            try:
                every = await self._every(request)
            except ProviderError as error:
                if request.deploy_id in gone and not await self._unresolved(request, gone):
                    return []  # the cloud has shown that it is terminated
                raise CannotTell(f"cannot tell whether VM {request.vm_id}'s instance still exists: {error}") from error
            gone |= {instance.deploy_id for instance in every if instance.state is InstanceState.TERMINATED}
            if left := [instance for instance in every if instance.deploy_id not in gone]:
                return left
            unresolved = await self._unresolved(request, gone)
            if not any(self.is_young(attempt, looked_at) for attempt in unresolved):
                # A complete lookup found nothing and the grace has passed.
                return await self._resolve(request, unresolved, gone, looked_at)
            await self._wait_for_certainty(request, unresolved, deadline)

    async def _resolve(
        self, request: VmRequest, attempts: list[Attempt], gone: set[DeployId], looked_at: Timestamp
    ) -> list[Instance]:
        """Settle attempts that no lookup by tags shows; return what is left to terminate.

        Open attempts made nothing. Created ones may still be unlisted, and are never terminated unseen, since the id
        may be another VM's: the repeated request or a debt looks for them.

        Raises:
            CannotTell: the cloud has created an instance lately and does not list it.
        """
        made = {attempt.deploy_id for attempt in attempts if attempt.state is AttemptState.CREATED}
        doubt = f"cannot tell whether VM {request.vm_id}'s instance still exists"
        try:
            shown = await self._cloud.look(made) if made else {}
        except ProviderError as error:
            raise CannotTell(f"{doubt}: {error}") from error
        left: list[Instance] = []
        for attempt in attempts:
            instance = shown.get(attempt.deploy_id)
            if attempt.state is AttemptState.OPEN:
                await self.close_attempt(attempt, AttemptState.GONE, "not found after the grace")
            elif instance is None and attempt.age(looked_at) < UNLISTED_SECONDS:
                raise CannotTell(f"{doubt}: the cloud has made instance {attempt.deploy_id} and does not show it")
            elif instance is None:
                await self._owe_unlisted(attempt)
            elif await self._is_made(instance, request, has_another=bool(gone)):
                left.append(instance)
            else:
                await self.close_attempt(attempt, AttemptState.GONE, "its answer named another VM's instance")
        return left

    async def _is_made(self, instance: Instance, request: VmRequest, *, has_another: bool) -> bool:
        """True when the instance that a create's answer has named is the VM's.

        Raises:
            NotOurs: it is not, and no other instance of the VM has been seen either.
        """
        try:
            await self.check_made(instance, request)
        except NotOurs:
            if not has_another:
                raise
            return False
        return True

    async def _owe_unlisted(self, attempt: Attempt) -> None:
        reason = "the cloud has made it, and did not show it when it was to be destroyed"
        await self._journal.add_debt(
            Debt(
                deploy_id=attempt.deploy_id,
                token=attempt.token,
                identity=attempt.identity,
                reason=reason,
                since=self._clock(),
            )
        )

    async def _unresolved(self, request: VmRequest, gone: set[DeployId]) -> list[Attempt]:
        """Return attempts whose instance exists, or may."""
        return [
            attempt
            for attempt in await self.attempts(request)
            if attempt.state in (AttemptState.OPEN, AttemptState.CREATED) and attempt.deploy_id not in gone
        ]

    async def _named(self, request: VmRequest) -> Instance | None:
        if not request.deploy_id:
            return None
        try:
            instance = await self._cloud.look_at(request.deploy_id)
        except ProviderError as error:
            raise CannotTell(f"cannot tell whether instance {request.deploy_id} still exists: {error}") from error
        if instance is not None:
            await self.check_ownership(instance, request)
        return instance

    async def close_attempt(self, attempt: Attempt, state: AttemptState, detail: str) -> None:
        """Record how an attempt ended."""
        await self._journal.save_attempt(msgspec.structs.replace(attempt, state=state, detail=detail))

    async def _wait_for_certainty(self, request: VmRequest, unsettled: list[Attempt], deadline: float) -> None:
        now = self.now()
        age = min(attempt.age(now) for attempt in unsettled)
        seconds = max(0.0, self._cloud.provider.visibility_grace - age)
        if asyncio.get_running_loop().time() + seconds > deadline:
            raise CannotTell(
                f"cannot tell whether VM {request.vm_id}'s instance still exists: wait {seconds:.0f} s and try again"
            )
        self._cloud.waiting.reason = f"the cloud to show whether VM {request.vm_id} has an instance"
        await asyncio.sleep(min(seconds, self._cloud.provider.watch_interval))


def listed(instances: list[Instance]) -> str:
    """Return their ids, for a sentence."""
    return " and ".join(sorted(instance.deploy_id for instance in instances))


def unlisted(attempt: Attempt) -> Instance:
    """Return a placeholder for an instance that was certainly created, and that the cloud does not list."""
    return Instance(
        deploy_id=attempt.deploy_id, state=InstanceState.UNKNOWN, raw_state="not listed", identity=attempt.identity
    )


def missing(request: VmRequest) -> str:
    """Return the sentence for a VM whose instance does not exist."""
    if request.deploy_id:
        return f"instance {request.deploy_id} of VM {request.vm_id} does not exist"
    return f"VM {request.vm_id} has no instance"
