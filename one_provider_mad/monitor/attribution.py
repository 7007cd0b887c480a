"""Decides which listed instance belongs to which VM, by its tags, earlier listings and recent creates; calls nothing.

A VM has one instance at a time, though a listing may show several with its tags: a leftover of a recreate that could
not be terminated, the terminated one before it, or a copy that was made in the console, with its tags. The instance of
the VM's latest generation counts (glossary), also while the cloud does not list it yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from one_provider_mad.domain import DeployId, Identity, Instance, Value, VmId
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.protocol.vmm import shown_deploy_id


class KnownInstance(Value, frozen=True, kw_only=True):
    """What earlier listings and creates have shown of one VM's instance.

    Attributes:
        vm_id: the VM's ID.
        host_id: the OpenNebula host that the instance's tags name.
        deploy_id: the instance's id.
        stime: STIME of the VM when the instance was created, -1 when unknown.
        seq: SEQ of that create, -1 when unknown.
        made_at: when it was created, seconds since the epoch; 0 when unknown.
        misses: number of complete listings in a row that lacked the instance.
        missed_since: when the first of these listings began; 0 for none.
        missing_since: when the listing began after which the VM counts as missing; 0 while it does not.
        seen_at: when the last listing began that had the instance; 0 if the latest one has it.
        held_since: since when the VM is held (glossary: held); kept until a listing has its instance again.
        is_terminated: the cloud itself reports the instance as terminated.
        is_parked: the instance is stopped since its VM was undeployed or stopped and so is on no host.
    """

    vm_id: VmId
    host_id: int
    deploy_id: DeployId
    stime: int = -1
    seq: int = -1
    made_at: float = 0.0
    misses: int = 0
    missed_since: float = 0.0
    missing_since: float = 0.0
    seen_at: float = 0.0
    held_since: float = 0.0
    is_terminated: bool = False
    is_parked: bool = False

    @property
    def generation(self) -> tuple[int, int]:
        """The instance's generation as (STIME, SEQ); of a VM's instances the one with the greatest is the latest."""
        return self.stime, self.seq


class Attribution(Value, frozen=True, kw_only=True):
    """Which instances of a listing belong to which VM.

    Attributes:
        ours: for each VM with an instance in the listing, that instance and the number of the VM's host.
        with_others: VMs that have a further live instance: one of an earlier generation, or a copy.
        without_host: for each VM whose host is unknown, its instance.
        wilds: live instances without tags of ours.
        anomalies: for each instance that an operator should look into, the reason.
    """

    ours: Mapping[VmId, tuple[Instance, int]]
    with_others: frozenset[VmId]
    without_host: Mapping[VmId, Instance]
    wilds: list[Instance]
    anomalies: dict[DeployId, str]


def latest_attempts(attempts: Iterable[Attempt]) -> dict[VmId, Attempt]:
    """Return for each VM its last create, of its latest generation."""
    latest: dict[VmId, Attempt] = {}
    for attempt in attempts:
        before = latest.get(attempt.identity.vm_id)
        if before is None or _order(attempt) > _order(before):
            latest[attempt.identity.vm_id] = attempt
    return latest


def with_created(known: Mapping[VmId, KnownInstance], attempts: Iterable[Attempt]) -> dict[VmId, KnownInstance]:
    """Return the known instances and those of later successful creates, which no listing may have yet."""
    found = dict(known)
    for attempt in attempts:
        who, before = attempt.identity, found.get(attempt.identity.vm_id)
        if attempt.state is not AttemptState.CREATED or (
            before is not None and (before.deploy_id == attempt.deploy_id or before.generation > generation_of(who))
        ):
            continue
        found[who.vm_id] = KnownInstance(
            vm_id=who.vm_id,
            host_id=who.host_id,
            deploy_id=attempt.deploy_id,
            stime=who.stime,
            seq=who.seq,
            made_at=latest_time(attempt),
        )
    return found


def attribute_instances(
    instances: Iterable[Instance],
    known: Mapping[VmId, KnownInstance],
    *,
    owner: str,
    created: Collection[DeployId],
    upstreams: Mapping[DeployId, VmId] = {},
    hosts: Collection[int] = (),
) -> Attribution:
    """Attribute each listed instance to a VM, or count it as wild.

    Args:
        instances: a complete listing.
        known: the known instance of each VM; only an instance of a later generation replaces it.
        owner: the owner that the tags of our instances name; instances of other owners are left out.
        created: instances of recent creates: one without tags yet is not wild.
        upstreams: for each instance with tags of upstream's driver only, its VM; these tags name no host.
        hosts: numbers of the monitored hosts: if there is just one, an instance without a host belongs there.
    """
    candidates: dict[VmId, list[Instance]] = {}
    wilds: list[Instance] = []
    anomalies: dict[DeployId, str] = {}
    by_deploy_id = {each.deploy_id: each for each in known.values()}
    for instance in instances:
        identity = instance.identity
        if identity is not None:
            if identity.owner == owner:
                candidates.setdefault(identity.vm_id, []).append(instance)
        elif (vm_id := upstreams.get(instance.deploy_id)) is not None:
            candidates.setdefault(vm_id, []).append(instance)
        elif (its := by_deploy_id.get(instance.deploy_id)) is not None:
            anomalies[instance.deploy_id] = f"has lost its tags, it was VM {its.vm_id}'s"
            candidates.setdefault(its.vm_id, []).append(instance)
        elif not instance.state.is_gone and instance.deploy_id not in created:
            wilds.append(instance)
    chosen: dict[VmId, Instance] = {}
    with_others: set[VmId] = set()
    for vm_id, some in candidates.items():
        best = _best(some, known.get(vm_id))
        if best is not None:
            chosen[vm_id] = best
        for other in some:
            if other is not best and not other.state.is_gone:
                own = best.deploy_id if best is not None else known[vm_id].deploy_id
                anomalies[other.deploy_id] = f"is a second live instance of VM {vm_id}, beside {shown_deploy_id(own)}"
                with_others.add(vm_id)
    without_host = _without_host(chosen, upstreams) if upstreams and len(hosts) != 1 else {}
    for vm_id, instance in without_host.items():
        anomalies[instance.deploy_id] = (
            f"is VM {vm_id}'s by upstream's tag, which names no host: power it off and on once"
        )
    only_host = next(iter(hosts), -1)
    return Attribution(
        ours={
            vm_id: (instance, _host_of(instance, known.get(vm_id), upstreams, only_host))
            for vm_id, instance in chosen.items()
            if vm_id not in without_host
        },
        with_others=frozenset(with_others),
        without_host=without_host,
        wilds=wilds,
        anomalies=anomalies,
    )


def _without_host(chosen: Mapping[VmId, Instance], upstreams: Mapping[DeployId, VmId]) -> dict[VmId, Instance]:
    return {
        vm_id: instance
        for vm_id, instance in chosen.items()
        if instance.deploy_id in upstreams and not instance.state.is_gone
    }


def _host_of(instance: Instance, known: KnownInstance | None, upstreams: Collection[DeployId], only_host: int) -> int:
    if instance.identity is not None:
        return instance.identity.host_id
    return only_host if known is None or instance.deploy_id in upstreams else known.host_id


def _best(candidates: list[Instance], known: KnownInstance | None) -> Instance | None:
    if len(candidates) == 1 and (known is None or known.deploy_id == candidates[0].deploy_id):
        return candidates[0]  # the usual case, decided quickly
    return _choose(candidates, known)


def _choose(candidates: list[Instance], known: KnownInstance | None) -> Instance | None:
    """Return the VM's instance: one of the latest generation, there the known one, else a live one, else the newest."""
    own = [
        each
        for each in candidates
        if known is None or each.deploy_id == known.deploy_id or _generation_of_instance(each) > known.generation
    ]
    return max(own, key=lambda each: _rank(each, known), default=None)


def _rank(instance: Instance, known: KnownInstance | None) -> tuple[tuple[int, int], bool, bool, float]:
    is_known = known is not None and instance.deploy_id == known.deploy_id
    generation = _generation_of_instance(instance)
    if known is not None and is_known:
        generation = max(generation, known.generation)
    return generation, is_known, not instance.state.is_gone, instance.created_at


def generation_of(identity: Identity) -> tuple[int, int]:
    """The instance's generation as (STIME, SEQ); of a VM's instances the one with the greatest is the latest."""
    return identity.stime, identity.seq


def latest_time(attempt: Attempt) -> float:
    """Return when the create was answered, or sent if there is no answer yet."""
    return max(attempt.sent_at, attempt.answered_at)


def _generation_of_instance(instance: Instance) -> tuple[int, int]:
    return (-1, -1) if instance.identity is None else generation_of(instance.identity)


def _order(attempt: Attempt) -> tuple[tuple[int, int], int]:
    return generation_of(attempt.identity), attempt.number
