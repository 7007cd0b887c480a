"""Find orphans: compare the cloud with the local OpenNebula at the interval of `[orphans]`, in the action driver.

Nothing is terminated here: an orphan becomes a debt, and debts are paid in the lane of their VM, after another check of
the tags (actions/debts.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from one_provider_mad.actions.engine import Engine, EngineSource
from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import DeployId, Identity, Instance, VmId
from one_provider_mad.errors import JournalError, MadError, ProviderError, SettingsError
from one_provider_mad.journal.records import ORPHAN, Debt
from one_provider_mad.journal.writer import Journal
from one_provider_mad.orphans.billing import TagKeeper
from one_provider_mad.orphans.ended import EndedInstances, sentence_for
from one_provider_mad.orphans.machine import MACHINE
from one_provider_mad.orphans.prices import price_entry, prices_of
from one_provider_mad.orphans.revalidation import Revalidation
from one_provider_mad.orphans.termination_rules import is_back, is_in_use, is_vm_alive, is_vm_gone
from one_provider_mad.orphans.timetable import CHECK_SECONDS, TROUBLE, Timetable, Trouble
from one_provider_mad.orphans.verdicts import (
    Finding,
    Rules,
    Sighting,
    Verdict,
    VmDocument,
    judge,
    seen_again,
    suspects,
    to_destroy,
)
from one_provider_mad.pricing.values import Price
from one_provider_mad.protocol.messages import Severity
from one_provider_mad.providers.interface import UnusedRemoval, UnusedResource, UnusedResourceSource
from one_provider_mad.settings import OrphanPolicy

log = structlog.get_logger()

__all__ = ["MACHINE", "ORPHANS", "OpenNebula", "Reconciler"]

ORPHANS = "orphans"
"""Name of the journal's fact that holds the findings of the latest search for orphans, as JSON."""

_MARK_SECONDS = 60.0
"""Seconds after an instance was parked before its VM's document may unpark it: oned may not have read the reply yet."""

_NO_HOST = -2
"""Host ID that no VM has, for a VM on no host: -1 is the host ID in the identity of a request without one."""

_PATIENCE = 4
"""Failed searches in a row after which oned.log gets a warning: OpenNebula answers later than its drivers start."""


class OpenNebula(Protocol):
    """What the search asks the local OpenNebula (orphans/documents.py)."""

    async def open(self) -> None:
        """Read the credentials. Raises SettingsError where there are none."""

    async def may_act(self) -> bool:
        """True when this front-end has no peers, or leads them."""

    async def release(self) -> tuple[int, ...]:
        """Return the release of OpenNebula as numbers."""

    async def living(self) -> Mapping[VmId, VmDocument]:
        """Return every VM that is not DONE, by ID."""

    async def documents(self, vm_ids: Collection[VmId]) -> Mapping[VmId, VmDocument | None]:
        """Return these VMs by ID, also DONE ones."""


class OperatorLog(Protocol):
    """Writes a line to oned.log, or to the log of a VM."""

    def __call__(self, severity: Severity, text: str, vm_id: VmId | None = None, /) -> None:
        """Write a line; without a VM to oned.log."""


class Reconciler:
    """Finds orphans, reports them, and schedules their termination where the configuration says so.

    Args:
        engines: the cloud and the journal.
        opennebula: the local OpenNebula.
        write_log: writes to oned.log, or to a VM's log.
        is_busy: true while an action of a VM is open.
        clock: seconds since the epoch.
        machine: returns the identity of this machine; it is called in a thread.
        learn_release: receives OpenNebula's release before anything is logged.
        core_is_up: set once OpenNebula has started and answers.

    Attributes:
        revalidation: checks an instance again before it is terminated.
    """

    def __init__(
        self,
        engines: EngineSource,
        opennebula: OpenNebula,
        *,
        write_log: OperatorLog,
        is_busy: Callable[[VmId], bool],
        clock: Callable[[], float],
        machine: Callable[[], str],
        learn_release: Callable[[tuple[int, ...]], None],
        core_is_up: asyncio.Event,
    ) -> None:
        self._core_is_up = core_is_up
        self._engines = engines
        self._opennebula = opennebula
        self._write_log = write_log
        self._is_busy = is_busy
        self._clock = clock
        self._begun_at = clock()
        self.revalidation = Revalidation(engines, opennebula, machine=machine)
        self._sightings: dict[DeployId, Sighting] = {}
        self._reported: dict[DeployId, Verdict] = {}
        self._ended = EndedInstances()
        self._release: tuple[int, ...] | None = None
        self._warned: set[str] = set()
        self._tags = TagKeeper(may_act=opennebula.may_act, warn=self._warn)
        self._timetable = Timetable(clock)
        self._remembered: Sequence[Mapping[str, Any]] = ()
        self._interval = OrphanPolicy().interval
        self._parts_reported = 0
        self._is_removal_problem_reported = False
        self._is_parts_problem_reported = False
        self._learn_release: Callable[[tuple[int, ...]], None] | None = learn_release

    async def run(self) -> None:
        """Search for orphans for as long as the driver runs; return at once without credentials or with `scripts`."""
        await self._engines.is_journal_open.wait()
        if self._engines.is_verbatim:
            return
        await self.take_up()
        try:
            await self._opennebula.open()
        except SettingsError as error:
            log.warning("orphans are not looked for", reason=str(error))
            await self._note(Trouble(at=self._clock(), reason=str(error), retry=None))
            return
        await self._core_is_up.wait()
        while True:
            pause = await self.search_if_due()
            await asyncio.sleep(pause)

    async def search_if_due(self) -> float:
        """Search for orphans if a search is due; return the seconds until the next call.

        The configuration is read each time, so an edited interval counts within seconds.
        """
        try:
            engine = await self._engines.current()
            self._interval = engine.configuration.settings.orphans.interval
            if self._timetable.seconds_left(self._interval) <= 0:
                await self._know_release()
                await self.search(engine)
                self._timetable.note_search()
            return min(CHECK_SECONDS, self._timetable.seconds_left(self._interval))
        except MadError as error:
            log.info("orphans not looked for", reason=str(error))
            reason = str(error)
        except Exception as error:
            log.exception("looking for orphans failed unexpectedly")
            reason = f"internal error ({type(error).__name__}), the driver's log has the details"
        return await self.note_failure(reason)

    async def _know_release(self) -> None:
        """Learn OpenNebula's release, on which the form of LOG lines depends."""
        if self._learn_release is not None:
            with suppress(ProviderError):  # then OpenNebula is asked again next time
                self._release = await self._opennebula.release()
                self._learn_release(self._release)
                self._learn_release = None

    async def take_up(self) -> None:
        """Record this machine in a journal without one, and load the findings of an earlier process."""
        if self._engines.journal is None:
            return
        try:
            # Also where there are no credentials: the front-end may be copied later.
            await self.revalidation.is_this_machine(self._engines.journal)
            found, trouble = await self._last_found(self._engines.journal)
        except JournalError as error:
            log.info("machine not noted yet", reason=str(error))  # the first check does it
            return
        self._timetable = Timetable(self._clock, searched_at=found["at"])
        if found["at"] is not None and (trouble is None or trouble.at < found["at"]):
            self._remembered = found["orphans"]

    @staticmethod
    async def _last_found(journal: Journal) -> tuple[Mapping[str, Any], Trouble | None]:
        """Return the findings of the latest complete search of any process, and the failure of a later one."""
        found, trouble = await journal.fact(ORPHANS), await journal.fact(TROUBLE)
        return (
            json.loads(found) if found else {"at": None, "orphans": []},
            msgspec.json.decode(trouble, type=Trouble) if trouble else None,
        )

    async def note_failure(self, reason: str) -> float:
        """Note a failed search: count findings from zero again; return the seconds until the next search."""
        self._sightings, self._remembered = {}, ()
        self._timetable.failed()
        if self._timetable.failures == _PATIENCE:
            self._warn(f"orphans are not looked for: {reason}")
        pause = self._timetable.retry(self._interval)
        await self._note(Trouble(at=self._clock(), reason=reason, retry=pause))
        return pause

    async def _note(self, trouble: Trouble) -> None:
        """Record why the search failed, for `one-provider orphans`."""
        if self._engines.journal is not None:
            with suppress(JournalError):
                await self._engines.journal.set_fact(TROUBLE, msgspec.json.encode(trouble).decode())

    async def search(self, engine: Engine) -> list[Finding]:
        """Search for orphans once: list instances, compare them with VMs, report orphans, record their debts.

        Raises:
            MadError: the cloud or OpenNebula did not answer, or not completely.
        """
        if engine.cloud is None:
            return []
        cloud, policy = engine.cloud.for_action(Waiting()), engine.configuration.settings.orphans
        await self.revalidation.is_this_machine(engine.journal)
        read_at = self._clock()
        living = await self._opennebula.living()
        await self._free_parked(engine.journal, living, read_at)
        instances = await cloud.list_instances()
        await self._log_ended(cloud, instances, living)
        findings = await self._findings(instances, living, engine.journal, owner=cloud.owner)
        now = self._clock()
        self._sightings.update(_sighting(each, owner=cloud.owner) for each in self._remembered)
        self._remembered = ()
        self._sightings = seen_again(self._sightings, findings, now=now)
        await self._withdraw(engine.journal, living, policy)
        await self._tags.keep(cloud, engine.journal, instances, living)
        parts, problem = await self._parts_or_problem(cloud, living)
        await self._publish(engine.journal, parts, problem, await self._costs(cloud, engine.journal, instances))
        self._log_news(parts)
        if policy.policy == "terminate-done":
            await self._destroy(engine, policy, now)
        return findings

    async def _findings(
        self, instances: list[Instance], living: Mapping[VmId, VmDocument], journal: Journal, *, owner: str
    ) -> list[Finding]:
        """Return the findings on instances that no living VM names, by VMs that were read after the listing."""
        doubtful = suspects(instances, living, owner=owner)
        vm_ids = {each.identity.vm_id for each in doubtful if each.identity is not None}
        documents = await self._opennebula.documents(vm_ids)
        beside = [each for each in instances if each.identity is not None and each.identity.vm_id in vm_ids]
        busy = await self._busy(journal, vm_ids)
        found = judge(beside, documents, owner=owner, busy=busy)
        return [each for each in found if each.verdict is not Verdict.CURRENT]

    async def _free_parked(self, journal: Journal, living: Mapping[VmId, VmDocument], read_at: float) -> None:
        """Unpark instances of VMs that a person or another front-end has put on a host again.

        Reports leave a parked instance out, so that its VM would become UNKNOWN or POWEROFF (monitor/inference.py).
        """
        for deploy_id, (vm_id, since) in (await journal.parked_since()).items():
            vm = living.get(vm_id)
            is_old = since < read_at - _MARK_SECONDS
            if vm is not None and is_old and vm.is_on_host and vm.deploy_id == deploy_id and not self._is_busy(vm_id):
                log.warning("VM is on its host again", vm=vm_id, deploy_id=deploy_id)
                await journal.unpark(deploy_id)

    async def _busy(self, journal: Journal, vm_ids: Collection[VmId]) -> set[VmId]:
        """Return those of the VMs with an unanswered request, of this process or of an earlier one that still runs."""
        unanswered = await self.revalidation.unanswered(journal) if vm_ids else set()
        return {vm_id for vm_id in vm_ids if vm_id in unanswered or self._is_busy(vm_id)}

    # Reporting

    async def _log_ended(self, cloud: Cloud, instances: list[Instance], living: Mapping[VmId, VmDocument]) -> None:
        """Log in the log of each VM whose instance was terminated outside OpenNebula how to recreate the VM."""
        ended = await self._ended.not_yet_logged(cloud, instances, living)
        if not ended:
            return
        documents = await self._opennebula.documents(ended.keys())  # an action may have ended it since
        for vm_id, instance in ended.items():
            vm = documents.get(vm_id)
            is_lost = vm is not None and vm.is_at_rest and vm.deploy_id == instance.deploy_id
            if vm is None or not is_lost or self._is_busy(vm_id):
                continue
            sentence = sentence_for(vm, instance, release=self._release)
            log.warning("instance ended without OpenNebula", vm=vm_id, reason=sentence)
            self._write_log(Severity.ERROR, sentence, vm_id)
            self._ended.note_logged(instance.deploy_id)

    async def _parts_or_problem(
        self, cloud: Cloud, living: Mapping[VmId, VmDocument]
    ) -> tuple[list[UnusedResource], str]:
        """Return unused volumes, snapshots and addresses, or why they are unknown: that must not stop the search."""
        await self._remove_unused(cloud)
        try:
            parts = await self._parts(cloud, living)
        except ProviderError as error:
            if not error.retryable and not self._is_parts_problem_reported:
                self._is_parts_problem_reported = True
                self._warn(f"unused volumes, snapshots and addresses are not looked for: {error}")
            return [], str(error)
        self._is_parts_problem_reported = False
        return parts, ""

    async def _remove_unused(self, cloud: Cloud) -> None:
        """Have the provider remove what it makes again when it is needed; what is left is listed as unused."""
        provider = cloud.provider
        if not isinstance(provider, UnusedRemoval):
            return
        try:
            await cloud.call("list", partial(provider.remove_unused, owner=cloud.owner))
        except ProviderError as error:
            if not error.retryable and not self._is_removal_problem_reported:
                self._is_removal_problem_reported = True
                self._warn(f"unused resources are not removed: {error}")
        else:
            self._is_removal_problem_reported = False

    async def _parts(self, cloud: Cloud, living: Mapping[VmId, VmDocument]) -> list[UnusedResource]:
        """Return volumes, snapshots and addresses that no instance and no VM uses; they are only reported."""
        provider = cloud.provider
        if not isinstance(provider, UnusedResourceSource):
            return []
        found = await cloud.call("list", lambda: provider.unused_resources(owner=cloud.owner))
        loose = [part for part in found if part.identity is None or not is_vm_alive(part.identity, living)]
        # Not every user sees every VM in the pool, so these are read one by one.
        documents = await self._opennebula.documents({part.identity.vm_id for part in loose if part.identity})
        return [part for part in loose if part.identity is None or is_vm_gone(part.identity, documents)]

    async def _costs(self, cloud: Cloud, journal: Journal, instances: Sequence[Instance]) -> _Costs:
        """Return what the found instances cost, and the parked ones of living VMs with what those cost."""
        alive = {each.deploy_id for each in instances if not each.state.is_gone}
        parked = {
            deploy_id: vm_id
            for deploy_id, (vm_id, _) in (await journal.parked_since()).items()
            if deploy_id in alive and deploy_id not in self._sightings
        }
        return _Costs(await prices_of(cloud, instances, {*self._sightings, *parked}), parked)

    async def _publish(self, journal: Journal, parts: list[UnusedResource], problem: str, costs: _Costs) -> None:
        """Record the findings for `one-provider orphans`."""
        found = {
            "at": self._clock(),
            "orphans": [
                {**_entry(each), "price": price_entry(costs.prices.get(each.finding.deploy_id))}
                for each in self._sightings.values()
            ],
            "parts": [_part_entry(each) for each in parts],
            "parts_problem": problem,
            "parked": [
                {"deploy_id": deploy_id, "vm_id": vm_id, "price": price_entry(costs.prices.get(deploy_id))}
                for deploy_id, vm_id in costs.parked.items()
            ],
        }
        await journal.set_fact(ORPHANS, json.dumps(found))

    def _log_news(self, parts: list[UnusedResource]) -> None:
        """Log each finding once, when two searches agree on it; of unused volumes and the like only the number."""
        if parts and len(parts) != self._parts_reported:
            self._write_log(
                Severity.WARNING, f"unused volumes, snapshots or addresses of this OpenNebula: {len(parts)}"
            )
        self._parts_reported = len(parts)
        settled = {
            id_: each.finding
            for id_, each in self._sightings.items()
            if each.count > 1 and not each.finding.is_busy  # a slow action is no anomaly
        }
        for deploy_id, finding in settled.items():
            if self._reported.get(deploy_id) is finding.verdict:
                continue
            word = "is an orphan" if finding.verdict.is_orphan else "belongs to no VM for certain"
            log.warning(
                "orphan" if finding.verdict.is_orphan else "instance anomaly",
                deploy_id=deploy_id,
                vm=finding.identity.vm_id,
                verdict=finding.verdict.value,
                evidence=finding.evidence,
            )
            self._write_log(Severity.WARNING, f"instance {deploy_id} {word}: {finding.evidence}")
        # After a failed search the count starts from zero, but nothing is logged again.
        known = {id_: verdict for id_, verdict in self._reported.items() if id_ in self._sightings}
        self._reported = known | {id_: finding.verdict for id_, finding in settled.items()}

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            self._warn(sentence)

    def _warn(self, sentence: str) -> None:
        log.warning("orphans", reason=sentence)
        self._write_log(Severity.WARNING, sentence)

    # Terminating

    async def _destroy(self, engine: Engine, policy: OrphanPolicy, now: float) -> None:
        orphans = [each for each in self._sightings.values() if each.finding.verdict.is_orphan]
        if not orphans:
            return
        if not await self.revalidation.is_this_machine(engine.journal):
            self._warn_once(
                "no orphan is terminated: the journal comes from another machine (a restored or cloned front-end?);"
                f" if this one has taken its place, run one-provider journal accept {engine.configuration.name}"
            )
            return
        owed = {debt.deploy_id for debt in await engine.journal.debts()}
        made = await self.revalidation.created_here(engine.journal, [each.finding for each in orphans])
        rules = Rules(grace=policy.grace, at_most=policy.at_most)
        due = to_destroy(
            [each for each in orphans if each.finding.deploy_id not in owed], made=made, rules=rules, now=now
        )
        for each in due:
            # Right before: this front-end may not lead any more, and the finding may have changed.
            if not await self._opennebula.may_act():
                log.info("orphans are left to the front-end that leads")
                return
            if (finding := await self._judge_again(engine, each.finding)) is not None:
                await self._add_debt(engine.journal, finding)

    async def _judge_again(self, engine: Engine, before: Finding) -> Finding | None:
        """Return the finding of a new look at the VM and its instances; None when it differs from the one before."""
        vm_id = before.identity.vm_id
        try:
            found = await self.revalidation.seen(engine, vm_id, before.deploy_id)
        except ProviderError as error:
            log.info("orphan not confirmed", deploy_id=before.deploy_id, reason=str(error))
            return None
        if found is None or self._is_busy(vm_id):
            return None
        return found if (found.verdict, found.identity) == (before.verdict, before.identity) else None

    async def _add_debt(self, journal: Journal, finding: Finding) -> None:
        """Record the debt that terminates an orphan, and log it."""
        await journal.add_debt(
            Debt(
                deploy_id=finding.deploy_id,
                identity=finding.identity,
                reason=f"{ORPHAN}{finding.verdict.value}): {finding.evidence}",
                since=self._clock(),
            )
        )
        log.warning(
            "orphan is terminated",
            deploy_id=finding.deploy_id,
            vm=finding.identity.vm_id,
            stime=finding.identity.stime,
            seq=finding.identity.seq,
            verdict=finding.verdict.value,
            evidence=finding.evidence,
        )
        self._write_log(
            Severity.WARNING, f"instance {finding.deploy_id} is terminated as an orphan: {finding.evidence}"
        )

    async def _withdraw(self, journal: Journal, living: Mapping[VmId, VmDocument], policy: OrphanPolicy) -> None:
        """Delete unpaid debts for orphans whose VM exists again, or that `[orphans]` no longer lets terminate.

        A debt may last for days, for example while the cloud refuses to terminate. Meanwhile OpenNebula may have been
        restored from a backup, or another front-end may have led and adopted the instance.
        """
        for debt in await journal.debts():
            vm = living.get(debt.identity.vm_id)
            if debt.is_orphan:
                is_off = policy.policy != "terminate-done" or is_back(debt, vm)
            else:
                is_off = debt.since < self._begun_at and is_in_use(vm, debt, debt.deploy_id)
            if not is_off:
                continue
            await journal.pay_debt(debt)
            log.warning("debt withdrawn", reason=debt.reason, deploy_id=debt.deploy_id, vm=debt.identity.vm_id)
            word = " as an orphan" if debt.is_orphan else f": VM {debt.identity.vm_id} uses it again"
            self._write_log(Severity.WARNING, f"instance {debt.deploy_id} is not terminated any more{word}")


class _Costs(NamedTuple):
    """What instances cost.

    Attributes:
        prices: of those that a search names, by id.
        parked: the VM of each instance that is stopped for an undeploy or a stop.
    """

    prices: Mapping[DeployId, Price]
    parked: Mapping[DeployId, VmId]


def _part_entry(part: UnusedResource) -> dict[str, object]:
    vm_id = part.identity.vm_id if part.identity is not None else None
    entry = {"id": part.part_id, "kind": part.kind, "vm_id": vm_id, "detail": part.detail}
    return {**entry, "price": price_entry(part.price)}


def _entry(sighting: Sighting) -> dict[str, object]:
    finding = sighting.finding
    return {
        "deploy_id": finding.deploy_id,
        "vm_id": finding.identity.vm_id,
        "stime": finding.identity.stime,
        "seq": finding.identity.seq,
        "host_id": finding.identity.host_id,
        "verdict": finding.verdict.value,
        "evidence": finding.evidence,
        "is_busy": finding.is_busy,
        "since": sighting.since,
        "looks": sighting.count,
        "created_at": finding.created_at or None,
    }


def _sighting(entry: Mapping[str, Any], *, owner: str) -> tuple[DeployId, Sighting]:
    """Parse a sighting of an earlier process; one of an older release equals no finding, so counting starts again."""
    deploy_id = DeployId(entry["deploy_id"])
    identity = Identity(
        owner=owner,
        vm_id=VmId(entry["vm_id"]),
        stime=entry["stime"],
        seq=entry["seq"],
        host_id=entry.get("host_id", _NO_HOST),
    )
    finding = Finding(
        deploy_id=deploy_id, identity=identity, verdict=Verdict(entry["verdict"]), evidence=entry["evidence"]
    )
    return deploy_id, Sighting(finding=finding, count=entry["looks"], since=entry["since"])
