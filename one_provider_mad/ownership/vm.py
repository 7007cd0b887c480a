"""A VM whose instance is looked for, and its records in the journal."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from one_provider_mad.budget.admission import UNLIMITED, Budget
from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, Value, VmId, VmOwner
from one_provider_mad.journal.records import Attempt, AttemptState, Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.timestamps import Timestamp

UNSETTLED = (AttemptState.OPEN, AttemptState.CREATED)
"""States of attempts whose instance exists, or may exist."""

UNLISTED_SECONDS = 3600.0
"""Seconds after its create's answer before an instance that the cloud does not list counts as gone: clouds list new
instances within minutes, and terminated ones for an hour."""


class Vm(Value, frozen=True, kw_only=True):
    """A VM, with the cloud and the journal in which its instance is looked for.

    Attributes:
        identity: owner, VM ID, STIME and SEQ, as in the tags of its instance.
        deploy_id: the instance that OpenNebula names as its own, "" for none.
        cloud: the cloud of its instance.
        journal: attempts, debts and imports.
        clock: seconds since the epoch.
        budget: admits creates.
        user: the VM's user and group.
        warn: writes a sentence to the VM's log.
        warned: warnings that the VM's log has already, so that further lookups do not repeat them.
    """

    identity: Identity
    deploy_id: DeployId
    cloud: Cloud
    journal: Journal
    clock: Callable[[], float]
    budget: Budget = UNLIMITED
    user: VmOwner = VmOwner()
    warn: Callable[[str], None] = lambda _: None
    warned: set[str] = msgspec.field(default_factory=set)

    @property
    def number(self) -> VmId:
        """Its ID in OpenNebula."""
        return self.identity.vm_id

    def now(self) -> Timestamp:
        """Return the present time."""
        return Timestamp.now(self.clock)

    def warn_once(self, text: str) -> None:
        """Write a warning to the VM's log, unless the action has written the same before."""
        if text not in self.warned:
            self.warned.add(text)
            self.warn(text)

    def wait_for(self, reason: str) -> None:
        """Note what the action waits for, for the sentence of a missed deadline."""
        self.cloud.waiting.reason = reason

    def is_named_by(self, instance: Instance) -> bool:
        """True when the instance's tags name this owner, this VM ID and this STIME (the VM's life), with any SEQ."""
        return self.identity.is_same_life(instance.identity)

    # The journal

    async def attempts(self) -> list[Attempt]:
        """Return every attempt in the journal for this VM and STIME, with any SEQ, oldest first."""
        identity = self.identity
        attempts = await self.journal.attempts(owner=identity.owner, vm_id=identity.vm_id)
        return [attempt for attempt in attempts if identity.is_same_life(attempt.identity)]

    async def own_attempts(self) -> list[Attempt]:
        """Return every attempt in the journal for exactly this VM, STIME and SEQ, oldest first."""
        return [attempt for attempt in await self.attempts() if attempt.identity.seq == self.identity.seq]

    async def unsettled(self, gone: set[DeployId]) -> list[Attempt]:
        """Return the attempts of `attempts` whose instance exists, or may exist, and is not in `gone`."""
        return [each for each in await self.attempts() if each.state in UNSETTLED and each.deploy_id not in gone]

    async def close(self, attempt: Attempt, state: AttemptState, detail: str) -> None:
        """Record the final state of an attempt, with the reason for a person."""
        await self.journal.save_attempt(msgspec.structs.replace(attempt, state=state, detail=detail))

    async def is_imported(self, deploy_id: DeployId) -> bool:
        """True when the journal has the instance as an import of exactly this VM."""
        return await self.journal.imported_for(deploy_id) == (self.identity.vm_id, self.identity.stime)

    async def record_debt(
        self, deploy_id: DeployId, reason: str, *, identity: Identity | None = None, token: str = ""
    ) -> None:
        """Record a debt for an instance of this VM.

        Args:
            deploy_id: the instance, "" where only its tags lead to it.
            reason: why it is to be terminated, for a person.
            identity: in its tags, if not the VM's.
            token: token of the create that made the instance, "" for any.
        """
        debt = Debt(
            deploy_id=deploy_id, token=token, identity=identity or self.identity, reason=reason, since=self.clock()
        )
        await self.journal.add_debt(debt)

    def is_young(self, attempt: Attempt, looked_at: Timestamp) -> bool:
        """True when a lookup, begun at `looked_at`, may lack the attempt's instance: its grace had not passed.

        The grace counts from the last time when the attempt was sent or answered, to the begin of the lookup.
        """
        return attempt.age(looked_at) < self.cloud.provider.visibility_grace


def unlisted(attempt: Attempt) -> Instance:
    """Return a placeholder for an attempt's instance that was certainly created, and that the cloud does not list."""
    return Instance(
        deploy_id=attempt.deploy_id, state=InstanceState.UNKNOWN, raw_state="not listed", identity=attempt.identity
    )


def listed(instances: list[Instance]) -> str:
    """Return the instances' ids, joined for a message."""
    return " and ".join(sorted(instance.deploy_id for instance in instances))
