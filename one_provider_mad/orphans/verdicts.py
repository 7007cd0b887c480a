"""Decide how each instance with our tags relates to the VMs of the local OpenNebula; a doubtful one is UNKNOWN."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum

from one_provider_mad.domain import DeployId, Identity, Instance, OwnedVm, Value, VmId, VmOwner

DONE_STATE = 6
"""VM/STATE of a VM that was terminated, DONE (OpenNebula include/VirtualMachine.h, VmState)."""


class VmDocument(Value, frozen=True, kw_only=True):
    """A VM as the local OpenNebula has it.

    Attributes:
        vm_id: its number.
        state: VM/STATE.
        stime: VM/STIME, when this VM was created, seconds since the epoch.
        etime: VM/ETIME, when it ended; 0 until then.
        deploy_id: VM/DEPLOY_ID, "" for none.
        hosts: HID of its history records, the latest last; only the latest where the VM was read from the pool.
        drivers: VM_MAD of the same records; "" where the release does not name it.
        host_names: HOSTNAME of the same records.
        lcm_state: VM/LCM_STATE.
        name: NAME.
        owner: its user and group.
    """

    vm_id: VmId
    state: int
    stime: int
    etime: int = 0
    deploy_id: DeployId = DeployId("")
    hosts: tuple[int, ...] = ()
    drivers: tuple[str, ...] = ()
    host_names: tuple[str, ...] = ()
    lcm_state: int = 0
    name: str = ""
    owner: VmOwner = VmOwner()

    @property
    def owned_vm(self) -> OwnedVm:
        """Return the VM's user, group and name."""
        return OwnedVm(vm_id=self.vm_id, stime=self.stime, owner=self.owner, name=self.name)

    @property
    def host_id(self) -> int:
        """HID of the VM's latest history record, -1 for none."""
        return self.hosts[-1] if self.hosts else -1

    def driver_on(self, host_id: int) -> str:
        """Return VM_MAD of the VM's latest history record on this host, "" for none."""
        return dict(zip(self.hosts, self.drivers, strict=False)).get(host_id, "")

    def has_left(self, host_id: int) -> bool:
        """Return True when the VM was on this host, and on one of another driver after that."""
        here = self.driver_on(host_id)
        return bool(here and self.drivers[-1] and here != self.drivers[-1])

    @property
    def whereabouts(self) -> str:
        """Return the VM's state and its latest host, for a sentence."""
        state = _STATE_NAMES.get(self.state, f"in state {self.state}")
        name = self.host_names[-1] if self.host_names else ""
        driver = self.drivers[-1] if self.drivers else ""
        return f"{state} on host {name or self.host_id}" + (f" of driver {driver}" if driver else "")

    @property
    def is_on_host(self) -> bool:
        """True for a VM on its host without an open action: POWEROFF, or ACTIVE with LCM_STATE RUNNING or UNKNOWN."""
        return self.state == _POWEROFF or (self.state == _ACTIVE and self.lcm_state in _AT_REST)

    @property
    def is_at_rest(self) -> bool:
        """True for a VM that no action is under way for: `is_on_host`, or SUSPENDED, STOPPED or UNDEPLOYED."""
        return self.is_on_host or self.state in _KEPT

    @property
    def is_without(self) -> bool:
        """True for a VM without an instance, or about to get or lose one, even if the VM has a DEPLOY_ID."""
        return self.state in _WITHOUT or (self.state == _ACTIVE and self.lcm_state in _COMES_OR_GOES)


_ACTIVE, _POWEROFF = 3, 8
_NAMES = "INIT PENDING HOLD ACTIVE STOPPED SUSPENDED DONE FAILED POWEROFF UNDEPLOYED"
_STATE_NAMES = dict(enumerate(_NAMES.split()))
"""VM/STATE by number (OpenNebula include/VirtualMachine.h, VmState)."""
_KEPT = frozenset({4, 5, 9})
_WITHOUT = frozenset({0, 1, 2, 6, 7})
_COMES_OR_GOES = frozenset({1, 2, 11, 12, 13, 14, 15, 23, 36, 39, 40})
"""LCM_STATEs in which an instance is created or ends: PROLOG, BOOT, EPILOG, SHUTDOWN, CANCEL, CLEANUP, FAILURE."""
_AT_REST = frozenset({3, 16})
"""LCM_STATEs RUNNING and UNKNOWN, in which no action is under way (include/VirtualMachine.h)."""


class Verdict(Enum):
    """How an instance relates to the VMs of the local OpenNebula."""

    CURRENT = "current"
    """The instance of an existing VM."""

    ELSEWHERE = "elsewhere"
    """Its VM exists, with another instance on another host."""

    MOVED = "moved"
    """Its VM was migrated to a host of another driver, and still has this DEPLOY_ID."""

    DONE = "done"
    """Its VM is DONE."""

    LEFTOVER = "leftover"
    """It is left over from before a recreate of its VM."""

    DUPLICATE = "twin"
    """A duplicate with the same identity: OpenNebula names the other one. The value is the word that --json prints."""

    UNKNOWN = "unknown"
    """Its relation cannot be decided; it is never terminated as an orphan."""

    @property
    def is_orphan(self) -> bool:
        """True for a verdict by which no VM of OpenNebula needs the instance."""
        return self in (Verdict.DONE, Verdict.LEFTOVER, Verdict.DUPLICATE)


class Finding(Value, frozen=True, kw_only=True):
    """The verdict on one instance.

    Attributes:
        deploy_id: the instance.
        identity: from its tags.
        verdict: the relation.
        evidence: reason for the verdict, as a sentence for the log.
        is_busy: an action of its VM is under way, so that no relation was looked for.
        is_alone: no other live instance carries the same identity.
        named: DEPLOY_ID of the VM, "" for none or where OpenNebula was not asked.
        has_left: its VM was on a host of another driver after it was on the instance's.
        ended_at: when its VM became DONE, seconds since the epoch; 0 for other verdicts.
        created_at: when the cloud created it, seconds since the epoch; 0 when the cloud does not say.
    """

    deploy_id: DeployId
    identity: Identity
    verdict: Verdict
    evidence: str
    is_busy: bool = False
    is_alone: bool = True
    has_left: bool = False
    named: DeployId = DeployId("")
    ended_at: float = 0.0
    created_at: float = 0.0


def suspects(instances: Iterable[Instance], living: Mapping[VmId, VmDocument], *, owner: str) -> list[Instance]:
    """Return live instances of this owner that are not the DEPLOY_ID of a living VM on the same host."""
    return [
        each
        for each in instances
        if each.identity is not None
        and each.identity.owner == owner
        and not each.state.is_gone
        and not _is_at_home(each, living.get(each.identity.vm_id))
    ]


def judge(
    instances: Collection[Instance], documents: Mapping[VmId, VmDocument | None], *, owner: str, busy: Collection[VmId]
) -> list[Finding]:
    """Return a finding on each live instance of this owner.

    Args:
        instances: a complete listing.
        documents: the VMs by ID; None where OpenNebula has no such VM; no entry where it did not answer.
        owner: owner in the tags of our instances.
        busy: VMs with an unanswered request.
    """
    ours: dict[VmId, list[Instance]] = {}
    for each in instances:
        if each.identity is not None and each.identity.owner == owner and not each.state.is_gone:
            ours.setdefault(each.identity.vm_id, []).append(each)
    return [
        _found(each, some, *_verdict(each, some, documents, busy), document=documents.get(vm_id), busy=busy)
        for vm_id, some in ours.items()
        for each in some
    ]


def _verdict(
    instance: Instance,
    siblings: list[Instance],
    documents: Mapping[VmId, VmDocument | None],
    busy: Collection[VmId],
) -> tuple[Verdict, str]:
    who = instance.identity
    assert who is not None  # noqa: S101 - only tagged instances get here
    vm = documents.get(who.vm_id)
    if who.vm_id not in documents:
        return Verdict.UNKNOWN, f"OpenNebula could not be asked about VM {who.vm_id}"
    if vm is None:
        return Verdict.UNKNOWN, f"OpenNebula has no VM {who.vm_id}"
    if vm.stime != who.stime or not who.stime:
        return Verdict.UNKNOWN, f"VM {vm.vm_id} of OpenNebula began at {vm.stime}, the instance's at {who.stime}"
    if who.vm_id in busy:
        return Verdict.UNKNOWN, f"an action of VM {vm.vm_id} is under way"
    if vm.state == DONE_STATE:
        if not vm.etime:
            return Verdict.UNKNOWN, f"VM {vm.vm_id} is DONE, and OpenNebula does not say since when"
        if who.host_id not in vm.hosts:
            return Verdict.UNKNOWN, f"VM {vm.vm_id} of OpenNebula never was on host {who.host_id}, the instance's"
        return Verdict.DONE, f"VM {vm.vm_id} (STIME {vm.stime}) is DONE since {_shown(vm.etime)}{_last_host(who, vm)}"
    if _is_named_by(vm, instance):
        if vm.has_left(who.host_id):
            return Verdict.MOVED, f"VM {vm.vm_id} has this DEPLOY_ID and is {vm.whereabouts}"
        return Verdict.CURRENT, f"VM {vm.vm_id} has this DEPLOY_ID"
    return _beside(who, vm, siblings)


def _beside(who: Identity, vm: VmDocument, siblings: list[Instance]) -> tuple[Verdict, str]:
    """Judge an instance whose VM exists with another DEPLOY_ID."""
    if not vm.deploy_id:
        return Verdict.UNKNOWN, f"VM {vm.vm_id} has no DEPLOY_ID"
    named = next((each for each in siblings if each.deploy_id == vm.deploy_id), None)
    its = named.identity if named is not None else None
    if its is None or not who.is_same_life(its):
        if vm.host_id != who.host_id:
            return Verdict.ELSEWHERE, f"VM {vm.vm_id} is {vm.whereabouts}, with DEPLOY_ID {vm.deploy_id}"
        return Verdict.UNKNOWN, f"VM {vm.vm_id} is {vm.deploy_id}, which the cloud does not show as its instance"
    if who.seq < its.seq:
        return Verdict.LEFTOVER, f"VM {vm.vm_id} is {vm.deploy_id} (SEQ {its.seq}), this one is of SEQ {who.seq}"
    if who.seq == its.seq:
        return Verdict.DUPLICATE, f"VM {vm.vm_id} is {vm.deploy_id}, of the same SEQ {who.seq}"
    return Verdict.UNKNOWN, f"VM {vm.vm_id} is {vm.deploy_id} (SEQ {its.seq}), this one is newer: SEQ {who.seq}"


def _last_host(who: Identity, vm: VmDocument) -> str:
    return f", it ended {vm.whereabouts.partition(' ')[2]}" if vm.has_left(who.host_id) else ""


def _shown(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _is_at_home(instance: Instance, vm: VmDocument | None) -> bool:
    who = instance.identity
    is_elsewhere = vm is not None and who is not None and who.host_id >= 0 and vm.host_id != who.host_id
    return _is_named_by(vm, instance) and not is_elsewhere


def _is_named_by(vm: VmDocument | None, instance: Instance) -> bool:
    who = instance.identity
    return (
        vm is not None
        and who is not None
        and vm.state != DONE_STATE
        and vm.stime == who.stime
        and vm.deploy_id == instance.deploy_id
    )


def _found(
    instance: Instance,
    siblings: list[Instance],
    verdict: Verdict,
    evidence: str,
    *,
    document: VmDocument | None,
    busy: Collection[VmId],
) -> Finding:
    who = instance.identity
    assert who is not None  # noqa: S101 - only tagged instances get here
    alike = [each for each in siblings if who.is_same_life(each.identity) and _seq(each) == who.seq]
    return Finding(
        deploy_id=instance.deploy_id,
        identity=who,
        is_busy=who.vm_id in busy,
        is_alone=len(alike) == 1,
        has_left=document is not None and document.has_left(who.host_id),
        verdict=verdict,
        evidence=evidence,
        named=document.deploy_id if document is not None else DeployId(""),
        ended_at=float(document.etime) if document is not None else 0.0,
        created_at=instance.created_at,
    )


def _seq(instance: Instance) -> int | None:
    return instance.identity.seq if instance.identity is not None else None


class Rules(Value, frozen=True, kw_only=True):
    """Limits within which orphans may be terminated.

    Attributes:
        grace: fewest seconds since the end of the orphan's VM, and since its own creation.
        at_most: most orphans that are being terminated at a time.
    """

    grace: float
    at_most: int


class Sighting(Value, frozen=True, kw_only=True):
    """The number of searches in a row that gave an instance the same verdict.

    Attributes:
        finding: the verdict.
        count: complete searches in a row with this verdict.
        since: time of the first of them, seconds since the epoch.
    """

    finding: Finding
    count: int
    since: float


def seen_again(
    before: Mapping[DeployId, Sighting], findings: Iterable[Finding], *, now: float
) -> dict[DeployId, Sighting]:
    """Return the sightings after one more search: a finding as before counts one more, any other counts one."""
    sightings = {}
    for finding in findings:
        was = before.get(finding.deploy_id)
        is_same = was is not None and (was.finding.verdict, was.finding.identity) == (finding.verdict, finding.identity)
        count, since = (was.count + 1, was.since) if was is not None and is_same else (1, now)
        sightings[finding.deploy_id] = Sighting(finding=finding, count=count, since=since)
    return sightings


def to_destroy(
    sightings: Iterable[Sighting], *, made: Mapping[DeployId, float], rules: Rules, now: float
) -> list[Sighting]:
    """Return the orphans that may be terminated now, those found first before others.

    Args:
        sightings: all findings.
        made: when each instance was created by this driver, seconds since the epoch; others have no entry.
        rules: the limits.
        now: seconds since the epoch.
    """
    due = [
        each
        for each in sightings
        if each.finding.verdict.is_orphan
        and each.count >= _LOOKS
        and each.finding.deploy_id in made
        and now - max(each.finding.ended_at, each.finding.created_at, made[each.finding.deploy_id]) >= rules.grace
    ]
    return sorted(due, key=lambda each: (each.since, each.finding.deploy_id))[: rules.at_most]


_LOOKS = 2
"""Complete searches in a row that must give the same verdict before an orphan is terminated."""
