"""Derives the state of each host's VMs from a listing of the cloud (decision 18); calls nothing, reads no clock.

Three things are kept apart. An instance in a complete listing has a state. An instance that is not in it is missing
only after several such listings, and not at all when too many vanish at once. And a VM that an action is changing is
UNKNOWN, since any other report would complete that action in OpenNebula before its reply. In doubt a VM is reported as
UNKNOWN, which changes nothing; a VM that a report of all VMs leaves out is lost, however young it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from one_provider_mad.domain import DeployId, Instance, InstanceState, Value, VmId
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.monitor.activity import Activity
from one_provider_mad.monitor.attribution import (
    KnownInstance,
    attribute_instances,
    generation_of,
    latest_attempts,
    latest_time,
    with_created,
)
from one_provider_mad.protocol.reports import VmState, VmWord

WORDS: dict[InstanceState, VmWord] = {
    InstanceState.PENDING: VmWord.UNKNOWN,
    InstanceState.RUNNING: VmWord.RUNNING,
    InstanceState.STOPPING: VmWord.UNKNOWN,
    InstanceState.STOPPED: VmWord.POWEROFF,
    InstanceState.SUSPENDING: VmWord.UNKNOWN,
    InstanceState.SUSPENDED: VmWord.SUSPENDED,
    InstanceState.TERMINATING: VmWord.UNKNOWN,
    InstanceState.UNKNOWN: VmWord.UNKNOWN,
}
"""The state that is reported for a VM, by the state of its instance. Transitions are UNKNOWN: POWEROFF in mid-reboot
would power the VM off. A terminated instance has no entry, it is missing for certain."""

_FORGET_SECONDS = 3600.0
"""Seconds for which a missing instance is remembered, to recognise it if it comes back without its tags; then it is
forgotten, and no longer reported."""

_LONGEST_GAP = 300.0
"""Most seconds between two listings that count towards `unusual_hold`; a longer pause prolongs the hold by the rest,
since an outage proves nothing about instances."""


class Rules(Value, frozen=True, kw_only=True):
    """Settings of the inference; MonitorSettings explains them.

    Attributes:
        owner: the owner that the tags of our instances name.
        grace: seconds for which the cloud may omit an existing instance, after a create or at any time.
        missing_word: the state of a missing VM: UNKNOWN or POWEROFF.
        missing_after: number of complete listings in a row without its instance after which a VM is missing.
        unusual_share: share of all known instances that may vanish at once.
        unusual_count: smallest number of vanished instances that counts as unusual.
        unusual_hold: seconds for which VMs are held when an unusual number of instances has vanished.
        may_miss: False while a listing or the journal may hold more than this release reads: then no VM is missing for
            its absence from listings, and no report of all VMs is sent.
    """

    owner: str
    grace: float = 0.0
    missing_word: VmWord = VmWord.UNKNOWN
    missing_after: int = 3
    unusual_share: float = 0.5
    unusual_count: int = 5
    unusual_hold: float = 1800.0
    may_miss: bool = True


class Listing(Value, frozen=True, kw_only=True):
    """A complete listing of the cloud.

    Attributes:
        began_at: when it was requested, seconds since the epoch; it may lack later changes.
        instances: every instance in the account and region, those found only by their ids included.
        not_looked_up: known instances that the listing lacks and that could not be looked up by id.
        upstreams: for each instance with tags of upstream's driver only, its VM.
        hosts: numbers of the monitored hosts.
    """

    began_at: float
    instances: Sequence[Instance]
    not_looked_up: frozenset[DeployId] = frozenset()
    upstreams: Mapping[DeployId, VmId] = {}
    hosts: frozenset[int] = frozenset()


class Memory(Value, frozen=True, kw_only=True):
    """What earlier listings have shown; the next inference starts from it.

    Attributes:
        vms: the known instance of each VM, by the VM's number.
        listed_at: when the latest listing began, seconds since the epoch; 0 before the first.
        held_since: since when the VM that is held longest is held; 0 while no VM is held.
    """

    vms: Mapping[VmId, KnownInstance] = {}
    listed_at: float = 0.0
    held_since: float = 0.0


class InferredVm(Value, frozen=True, kw_only=True):
    """The inferred state of one VM of a host.

    Attributes:
        state: the VM's number, its instance's id, and the state to report.
        is_listed: whether a report of all VMs names the VM; OpenNebula takes a VM that such a report leaves out for
            missing.
        instance: the VM's instance, None if the listing lacks it.
    """

    state: VmState
    is_listed: bool = True
    instance: Instance | None = None


class Inference(Value, frozen=True, kw_only=True):
    """The states of all VMs as inferred from a listing.

    Attributes:
        memory: for the inference of the next listing.
        hosts: for each host's number its VMs, in the order of their numbers.
        unsynced: hosts for which a report of all VMs has to wait: a create there has not returned an instance yet, or a
            VM's host is unknown.
        wilds: live instances without tags of ours.
        held: VMs that are held since too many instances vanished at once (glossary: held).
        anomalies: for each instance that an operator should look into, the reason.
    """

    memory: Memory
    hosts: Mapping[int, Sequence[InferredVm]] = {}
    unsynced: frozenset[int] = frozenset()
    wilds: Sequence[Instance] = ()
    held: frozenset[VmId] = frozenset()
    anomalies: Mapping[DeployId, str] = {}


def earliest_unlisted_create(memory: Memory, listing: Listing, *, grace: float) -> float:
    """Return the time of the earliest create whose instance earlier listings may lack, in seconds since the epoch.

    Before a first listing that is 0: all journaled creates then show how many instances that listing lacks.
    """
    return min(listing.began_at, memory.listed_at) - grace if memory.listed_at else 0.0


def with_clock_set_back(memory: Memory, by: float) -> Memory:
    """Return the memory with its times moved back, after the clock was set back by `by` seconds.

    So holds end when they would have, and later events do not seem older than earlier listings. A clock that was set
    ahead is treated like an outage: `_LONGEST_GAP`.
    """
    vms = {
        vm_id: msgspec.structs.replace(
            known,
            made_at=_earlier(known.made_at, by),
            seen_at=_earlier(known.seen_at, by),
            missed_since=_earlier(known.missed_since, by),
            missing_since=_earlier(known.missing_since, by),
            held_since=_earlier(known.held_since, by),
        )
        for vm_id, known in memory.vms.items()
    }
    return Memory(vms=vms, listed_at=_earlier(memory.listed_at, by), held_since=_earlier(memory.held_since, by))


def _earlier(moment: float, by: float) -> float:
    return max(moment - by, 1.0) if moment else 0.0


def infer_states(memory: Memory, listing: Listing, activity: Activity, rules: Rules) -> Inference:
    """Infer the VMs' states from a listing. A listing may be used again after further actions; its misses count once.

    Args:
        memory: the memory that the last inference returned.
        listing: a complete listing, not older than the one before.
        activity: what the action driver is doing, read after the listing was complete.
        rules: the settings.
    """
    return _Inferrer(memory, listing, activity, rules).infer_states()


class _Inferrer:
    def __init__(self, memory: Memory, listing: Listing, activity: Activity, rules: Rules) -> None:
        self._memory = memory
        self._listing = listing
        self._activity = activity
        self._rules = rules
        self._hosts: dict[int, list[InferredVm]] = {}
        self._unsynced: set[int] = set()
        # Instances that were created since the last listing are not known yet, even if the grace has passed.
        unseen_since = earliest_unlisted_create(memory, listing, grace=rules.grace)
        self._attempts = latest_attempts(
            attempt
            for attempt in activity.attempts
            if attempt.identity.owner == rules.owner
            and activity.is_sent_or_answered_since(attempt, unseen_since)
            and not activity.has_ended_since(attempt.identity.vm_id, since=latest_time(attempt), slack=0)
        )
        self._known = with_created(memory.vms, self._attempts.values())
        created = {attempt.deploy_id for attempt in activity.attempts if attempt.deploy_id}
        self._attribution = attribute_instances(
            listing.instances,
            self._known,
            owner=rules.owner,
            created=created,
            upstreams=listing.upstreams,
            hosts=listing.hosts,
        )
        self._anomalies = self._without_changed(self._attribution.anomalies)
        for vm_id in self._attribution.without_host:
            self._known.pop(vm_id, None)  # recorded while one host was monitored, which need not be the VM's
        self._pending = self._find_pending()

    def _without_changed(self, anomalies: Mapping[DeployId, str]) -> dict[DeployId, str]:
        """Return the anomalies without those of VMs that an action has changed since the listing began."""
        if not anomalies:
            return {}
        listed = (each for each in self._listing.instances if each.deploy_id in anomalies)
        changed = {each.deploy_id for each in listed if each.identity and self._is_changed(each.identity.vm_id)}
        return {deploy_id: what for deploy_id, what in anomalies.items() if deploy_id not in changed}

    def infer_states(self) -> Inference:
        ours = self._attribution.ours
        absent = [known for vm_id, known in self._known.items() if vm_id not in ours]
        held = self._hold(absent)
        for vm_id, (instance, host_id) in ours.items():
            self._infer_present(vm_id, instance, host_id)
        for known in absent:
            self._infer_absent(known, is_held=known.vm_id in held)
        self._name_without_host()
        for vms in self._hosts.values():
            vms.sort(key=lambda vm: vm.state.vm_id)
        held_since = min((self._known[vm_id].held_since for vm_id in held), default=0.0)
        return Inference(
            memory=Memory(vms=self._known, listed_at=self._listing.began_at, held_since=held_since),
            hosts=self._hosts,
            unsynced=frozenset(self._unsynced) if self._rules.may_miss else self._listing.hosts,
            wilds=self._attribution.wilds,
            held=held,
            anomalies=self._anomalies,
        )

    def _visible_from(self, began_at: float) -> float:
        """Return the time such that a listing that began at `began_at` has every instance created before it."""
        return began_at - self._rules.grace

    def _find_pending(self) -> frozenset[VmId]:
        """Return VMs with a create that has not returned an id yet, and add their hosts to the unsynced ones."""
        pending: set[VmId] = set()
        since = self._visible_from(self._listing.began_at)
        for vm_id, attempt in self._attempts.items():
            if attempt.state is not AttemptState.OPEN or not self._activity.is_sent_or_answered_since(attempt, since):
                continue
            shown = self._attribution.ours.get(vm_id)
            identity = shown[0].identity if shown and not shown[0].state.is_gone else None
            if identity is None or generation_of(identity) < generation_of(attempt.identity):
                pending.add(vm_id)
                self._unsynced.add(attempt.identity.host_id)
        return frozenset(pending)

    # Listed instances

    def _infer_present(self, vm_id: VmId, instance: Instance, host_id: int) -> None:
        deploy_id, state = instance.deploy_id, instance.state
        before = self._known.get(vm_id)
        if self._is_parked(vm_id, deploy_id):
            self._known[vm_id] = _known_from(instance, vm_id, host_id, before, is_parked=True)
            if state is InstanceState.RUNNING and not self._is_changed(vm_id):
                self._anomalies[deploy_id] = f"runs, and VM {vm_id} is stopped or undeployed in OpenNebula"
            return
        is_unsure = vm_id in self._activity.busy or vm_id in self._pending
        if state.is_gone and not is_unsure:
            has_others = vm_id in self._attribution.with_others
            if before is None and not has_others:
                return  # it was gone before the first listing
            if before is not None and (self._is_explained(before) or (self._is_forgotten(before) and not has_others)):
                del self._known[vm_id]  # an action ended it, or it is forgotten
                return
            if state is InstanceState.TERMINATED and before is not None and not has_others:
                self._infer_terminated(before, instance, host_id)
                return
            is_unsure = has_others
        if before is None or not _is_unchanged(before, instance, host_id):
            self._known[vm_id] = _known_from(instance, vm_id, host_id, before)
        is_unsure = is_unsure or self._is_changed(vm_id) or self._activity.is_given_up(vm_id, deploy_id)
        word = VmWord.UNKNOWN if is_unsure else WORDS.get(state, VmWord.UNKNOWN)
        self._add(host_id, vm_id, deploy_id, word, instance=instance)

    def _name_without_host(self) -> None:
        """Report each VM of unknown host on every host as UNKNOWN; such a state leaves a VM as it is.

        No report of all VMs is sent meanwhile: one that names the VM makes it a zombie on a host where it is not, and
        one that leaves it out makes it missing on the host where it is.
        """
        for vm_id, instance in self._attribution.without_host.items():
            for host_id in self._listing.hosts:
                self._add(host_id, vm_id, instance.deploy_id, VmWord.UNKNOWN)
                self._unsynced.add(host_id)

    def _is_changed(self, vm_id: VmId) -> bool:
        """True when an action may have changed the VM since the listing began, so that the listing may be outdated."""
        attempt, began_at = self._attempts.get(vm_id), self._listing.began_at
        is_young = attempt is not None and self._activity.is_sent_or_answered_since(attempt, began_at)
        return is_young or self._activity.is_answered_since(vm_id, began_at)

    def _infer_terminated(self, before: KnownInstance, instance: Instance, host_id: int) -> None:
        """Report a VM as missing at once, since the cloud itself reports its instance as terminated."""
        self._known[before.vm_id] = msgspec.structs.replace(
            before,
            host_id=host_id,
            deploy_id=instance.deploy_id,
            misses=max(before.misses, self._rules.missing_after),
            missing_since=before.missing_since or self._listing.began_at,
            seen_at=before.seen_at or self._memory.listed_at,
            held_since=0.0,
            is_terminated=True,
            is_parked=False,
        )
        self._add_missing(host_id, before.vm_id, instance.deploy_id, instance=instance)

    # Instances that are not listed

    def _hold(self, absent: Iterable[KnownInstance]) -> frozenset[VmId]:
        """Return the absent VMs to hold: those held already, and all that vanished now if they are unusually many."""
        began_at, rules = self._listing.began_at, self._rules
        lost = [known for known in absent if self._is_lost(known)]
        if not lost:
            return frozenset()
        # Absent VMs with an open action count neither as lost nor as listed: their instances may rightly be gone.
        shown = sum(
            not self._is_parked(vm_id, each.deploy_id) and not each.state.is_gone
            for vm_id, (each, _) in self._attribution.ours.items()
        )
        is_unusual = len(lost) >= rules.unusual_count and len(lost) > rules.unusual_share * (len(lost) + shown)
        is_fresh = any(not known.misses and not known.held_since for known in lost)
        pause = max(0.0, began_at - (self._memory.listed_at or began_at) - _LONGEST_GAP)
        held: set[VmId] = set()
        for known in lost:
            since = known.held_since and known.held_since + pause
            if not since and is_unusual and is_fresh and known.misses < rules.missing_after:
                since = began_at
            if since and began_at - since < rules.unusual_hold:
                held.add(known.vm_id)
            if since != known.held_since:
                self._known[known.vm_id] = msgspec.structs.replace(known, held_since=since)
        return frozenset(held)

    def _is_lost(self, known: KnownInstance) -> bool:
        """True when the VM's instance vanished lately and no action, lag or lookup failure can be the reason."""
        return not (
            self._is_parked(known.vm_id, known.deploy_id)
            or known.is_terminated
            or known.deploy_id in self._listing.not_looked_up
            or known.vm_id in self._activity.busy
            or known.vm_id in self._pending
            or self._is_young(known)
            or self._is_explained(known)
            or self._is_long_missing(known)
        )

    def _is_long_missing(self, known: KnownInstance) -> bool:
        since = known.missing_since
        return bool(since) and self._listing.began_at - since > self._rules.unusual_hold

    def _infer_absent(self, known: KnownInstance, *, is_held: bool) -> None:
        vm_id = known.vm_id
        known = self._known[vm_id]
        if self._is_parked(vm_id, known.deploy_id):
            self._known[vm_id] = _without_misses(known, is_parked=True)
            return
        is_unsure = vm_id in self._activity.busy or vm_id in self._pending or self._is_young(known)
        if not is_unsure and (
            self._is_explained(known) or (self._is_forgotten(known) and vm_id not in self._attribution.with_others)
        ):
            del self._known[vm_id]
            return
        if is_unsure or known.is_parked or self._activity.is_answered_since(vm_id, self._memory.listed_at):
            known = _without_misses(known)  # misses from before an action prove nothing about the instance after it
        is_unsure = is_unsure or is_held or known.deploy_id in self._listing.not_looked_up
        if self._rules.may_miss and not is_unsure:
            known = self._missed(known)
        self._known[vm_id] = known
        if known.misses >= self._rules.missing_after:
            self._add_missing(known.host_id, vm_id, known.deploy_id)
        else:
            self._add(known.host_id, vm_id, known.deploy_id, VmWord.UNKNOWN)

    def _missed(self, known: KnownInstance) -> KnownInstance:
        """Return the known instance with one miss more, unless this listing was counted already.

        The miss that makes the VM missing counts only once `grace` has passed since the first: listings may lag behind.
        """
        began_at = self._listing.began_at
        if began_at == self._memory.listed_at:
            return known
        missed_since = known.missed_since or began_at
        misses = known.misses + 1
        if began_at - missed_since < self._rules.grace:
            misses = min(misses, self._rules.missing_after - 1)
        return msgspec.structs.replace(
            known,
            misses=misses,
            missed_since=missed_since,
            missing_since=known.missing_since or (began_at if misses >= self._rules.missing_after else 0.0),
            seen_at=known.seen_at or self._memory.listed_at,
        )

    # Explanations

    def _is_explained(self, known: KnownInstance) -> bool:
        """True when an action has ended the instance since a listing last had it."""
        seen_at = known.seen_at or self._memory.listed_at
        ended = self._activity.has_ended_since(known.vm_id, since=seen_at)
        return ended and self._activity.has_ended_since(known.vm_id, since=known.made_at, slack=0)

    def _is_forgotten(self, known: KnownInstance) -> bool:
        since = known.missing_since
        is_missing = known.misses >= self._rules.missing_after and bool(since)
        return is_missing and self._listing.began_at - since > _FORGET_SECONDS

    def _is_young(self, known: KnownInstance) -> bool:
        """True while the cloud may not list the instance yet, since its create is recent.

        OpenNebula takes a VM that a report of all VMs leaves out for missing, however young it is (its 30 s of patience
        cover only VMs that are named; src/im/InformationManager.cc).
        """
        attempt = self._attempts.get(known.vm_id)
        return (
            attempt is not None
            and attempt.deploy_id == known.deploy_id
            and self._activity.is_sent_or_answered_since(attempt, self._visible_from(self._listing.began_at))
        )

    def _is_parked(self, vm_id: VmId, deploy_id: DeployId) -> bool:
        """True for a stopped instance whose VM is on no host; a host's report that names the VM makes it a zombie."""
        return deploy_id in self._activity.parked and vm_id not in self._activity.busy

    # Reporting

    def _add(
        self, host_id: int, vm_id: VmId, deploy_id: DeployId, word: VmWord, *, instance: Instance | None = None
    ) -> None:
        state = VmState(vm_id=vm_id, deploy_id=deploy_id, state=word)
        self._hosts.setdefault(host_id, []).append(InferredVm(state=state, instance=instance))

    def _add_missing(self, host_id: int, vm_id: VmId, deploy_id: DeployId, *, instance: Instance | None = None) -> None:
        """Add a VM that a report of all VMs leaves out. Between those, FAILURE is sent: oned makes the VM UNKNOWN."""
        word = VmWord.POWEROFF if self._rules.missing_word is VmWord.POWEROFF else VmWord.FAILURE
        state = VmState(vm_id=vm_id, deploy_id=deploy_id, state=word)
        self._hosts.setdefault(host_id, []).append(InferredVm(state=state, is_listed=False, instance=instance))


def _known_from(
    instance: Instance, vm_id: VmId, host_id: int, before: KnownInstance | None, *, is_parked: bool = False
) -> KnownInstance:
    """Return what a listing shows of an instance, with what is known of it already."""
    same = before if before is not None and before.deploy_id == instance.deploy_id else None
    generation = generation_of(instance.identity) if instance.identity is not None else (-1, -1)
    stime, seq = max(generation, same.generation) if same is not None else generation
    return KnownInstance(
        vm_id=vm_id,
        host_id=host_id,
        deploy_id=instance.deploy_id,
        stime=stime,
        seq=seq,
        made_at=same.made_at if same is not None else 0.0,
        is_parked=is_parked,
    )


def _is_unchanged(known: KnownInstance, instance: Instance, host_id: int) -> bool:
    """True when a listed instance adds nothing to what is known of it, which is the usual case."""
    is_missed = known.misses or known.missed_since or known.seen_at
    is_undisturbed = not (is_missed or known.held_since or known.is_parked or known.is_terminated)
    has_tags = instance.identity is None or generation_of(instance.identity) <= known.generation
    return is_undisturbed and has_tags and (known.deploy_id, known.host_id) == (instance.deploy_id, host_id)


def _without_misses(known: KnownInstance, *, is_parked: bool = False) -> KnownInstance:
    """Return the known instance with its misses set to none."""
    return msgspec.structs.replace(
        known, misses=0, missed_since=0.0, missing_since=0.0, is_terminated=False, is_parked=is_parked
    )
