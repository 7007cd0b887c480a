"""Check again that an instance is an orphan: before it becomes a debt, and before it is terminated.

Days may lie between the two, for example while the cloud refuses to terminate. Meanwhile OpenNebula may be restored
from a backup, the journal copied to another machine, the front-end lose the lead, or the configuration change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

import structlog

from one_provider_mad.actions.engine import Engine, EngineSource
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import DeployId, VmId
from one_provider_mad.errors import CannotTell
from one_provider_mad.journal.records import Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.orphans.machine import note_machine
from one_provider_mad.orphans.termination_rules import created_by_us_at, may_be_in_use
from one_provider_mad.orphans.verdicts import Finding, VmDocument, judge

log = structlog.get_logger()


class VmSource(Protocol):
    """What the check asks the local OpenNebula (orphans/documents.py)."""

    async def may_act(self) -> bool:
        """True when this front-end has no peers, or leads them."""

    async def documents(self, vm_ids: Collection[VmId]) -> Mapping[VmId, VmDocument | None]:
        """Return these VMs by ID, also DONE ones."""


class Revalidation:
    """Checks again whether a single instance is still an orphan.

    Args:
        engines: the cloud and the journal.
        opennebula: the local OpenNebula.
        machine: returns the identity of this machine; it is called in a thread.
    """

    def __init__(self, engines: EngineSource, opennebula: VmSource, *, machine: Callable[[], str]) -> None:
        self._engines = engines
        self._opennebula = opennebula
        self._machine = machine

    async def is_this_machine(self, journal: Journal) -> bool:
        """True when the journal was begun on this machine; by a copied journal no orphan is terminated."""
        return await note_machine(journal, await asyncio.to_thread(self._machine))

    async def created_here(self, journal: Journal, findings: Iterable[Finding]) -> dict[DeployId, float]:
        """Return when each found instance was created, by id, for those that this driver created and did not import."""
        made: dict[DeployId, float] = {}
        for each in findings:
            if await journal.imported_for(each.deploy_id) is not None:
                continue
            who = each.identity
            moment = created_by_us_at(each, await journal.attempts(owner=who.owner, vm_id=who.vm_id))
            if moment is not None:
                made[each.deploy_id] = moment
        return made

    async def unanswered(self, journal: Journal) -> set[VmId]:
        """Return the VMs with an unanswered request, of this process or of an earlier one that still runs."""
        return {request.vm_id for request in await journal.open_requests()}

    async def seen(self, engine: Engine, vm_id: VmId, deploy_id: DeployId) -> Finding | None:
        """Judge an instance after reading its VM and the VM's instances again; None when the instance is gone.

        Raises:
            ProviderError: the cloud did not answer.
        """
        assert engine.cloud is not None  # noqa: S101 - the callers have checked it
        cloud = engine.cloud.for_action(Waiting())
        documents = await self._opennebula.documents([vm_id])
        instances = await cloud.find(vm_id)
        busy = await self.unanswered(engine.journal)
        findings = judge(instances, documents, owner=cloud.owner, busy=busy)
        return next((each for each in findings if each.deploy_id == deploy_id), None)

    async def confirm(self, debt: Debt) -> None:
        """Return when the instance of an orphan's debt is still an orphan and may be terminated here, else raise.

        The caller runs in the lane of the VM, so that actions of this process wait.

        Raises:
            MadError: the instance is no orphan, or that cannot be decided now.
        """
        engine = await self._engines.current()
        if engine.cloud is None or engine.configuration.settings.orphans.policy != "terminate-done":
            raise CannotTell("the configuration no longer lets orphans be terminated")
        if not await self.is_this_machine(engine.journal):
            raise CannotTell("the journal comes from another machine")
        if not await self._opennebula.may_act():
            raise CannotTell("another front-end leads")
        found = await self.seen(engine, debt.identity.vm_id, debt.deploy_id)
        if found is None:
            raise CannotTell(f"the cloud does not list instance {debt.deploy_id} now")
        if not found.verdict.is_orphan:
            raise CannotTell(f"instance {debt.deploy_id} may not be an orphan: {found.evidence}")
        if not await self.created_here(engine.journal, [found]):
            raise CannotTell(f"the journal has no create of instance {debt.deploy_id}")
        log.info("orphan confirmed", deploy_id=debt.deploy_id, verdict=found.verdict.value, evidence=found.evidence)

    async def refuse_needed(self, debt: Debt, deploy_id: DeployId) -> None:
        """Raise if a VM uses the instance of an old debt, since another front-end may have led and adopted it.

        Raises:
            MadError: a VM uses the instance, or that cannot be decided now.
        """
        vm_id = debt.identity.vm_id
        documents = await self._opennebula.documents([vm_id])
        if vm_id not in documents:
            raise CannotTell(f"OpenNebula could not be asked whether VM {vm_id} needs instance {deploy_id} again")
        if may_be_in_use(documents[vm_id], debt, deploy_id):
            raise CannotTell(f"VM {vm_id} of OpenNebula uses instance {deploy_id} again")
