"""Short constructors of instances, listings and activities, for tests of reported states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, Usage, VmId
from one_provider_mad.journal.records import Answered, Attempt, AttemptState
from one_provider_mad.monitor.activity import Activity
from one_provider_mad.monitor.inference import Inference, InferredVm, Listing, Memory, Rules, infer_states

OWNER = "harbour"
NOW = 1_800_000_000.0
"""Beginning of a test's first listing, in seconds since the epoch."""

RULES = Rules(owner=OWNER)
IDLE = Activity()


def identity_of(
    vm_id: int, *, host_id: int = 3, seq: int = 0, stime: int = 1_760_000_000, owner: str = OWNER
) -> Identity:
    return Identity(owner=owner, vm_id=VmId(vm_id), stime=stime, seq=seq, host_id=host_id)


def instance_of(
    vm_id: int, state: InstanceState = InstanceState.RUNNING, *, deploy_id: str = "", **tags: Any
) -> Instance:
    """The instance of a VM, called i-<VM> unless it has another id."""
    return Instance(
        deploy_id=DeployId(deploy_id or f"i-{vm_id}"),
        state=state,
        raw_state=state.value,
        identity=identity_of(vm_id, **tags),
        usage=Usage(cpu=50.0, memory=1024) if state is InstanceState.RUNNING else None,
    )


def wild(deploy_id: str, state: InstanceState = InstanceState.RUNNING) -> Instance:
    """An instance without tags."""
    return Instance(deploy_id=DeployId(deploy_id), state=state, raw_state=state.value, name=f"name of {deploy_id}")


def listing_of(*instances: Instance, after: float = 0.0) -> Listing:
    """A complete listing that began so many seconds after the first."""
    return Listing(began_at=NOW + after, instances=instances)


def busy_with(*vm_ids: int) -> Activity:
    return Activity(busy=frozenset(map(VmId, vm_ids)))


def answered(vm_id: int, action: str, *, after: float, has_failed: bool = False) -> Activity:
    """An action of a VM was answered so many seconds after the first listing began."""
    has_ended = action in ("SHUTDOWN", "CANCEL", "CLEANUP") and not has_failed
    return Activity(answered={VmId(vm_id): Answered(action=action, at=NOW + after, has_ended=has_ended)})


def attempt_of(vm_id: int, state: AttemptState, *, after: float, deploy_id: str = "", **identity: Any) -> Attempt:
    """An attempt to create that was sent so many seconds after the first listing began."""
    return Attempt(
        token=f"token-{vm_id}",
        identity=identity_of(vm_id, **identity),
        number=1,
        parameters={},
        state=state,
        deploy_id=DeployId(deploy_id),
        sent_at=NOW + after,
    )


def words(inference: Inference, host_id: int = 3) -> dict[int, str]:
    """The reported states of a host's VMs; those that a report of all VMs leaves out are in brackets."""
    return {
        vm.state.vm_id: vm.state.state.value if vm.is_listed else f"({vm.state.state.value})"
        for vm in inference.hosts.get(host_id, ())
    }


def all_vms(inference: Inference) -> list[InferredVm]:
    return [vm for vms in inference.hosts.values() for vm in vms]


def through(
    steps: Iterable[tuple[Listing, Activity]], *, rules: Rules = RULES, memory: Memory | None = None
) -> Inference:
    """Infer the states from each listing in turn, with the memory of the one before; return the last inference."""
    memory = memory or Memory()
    inference = Inference(memory=memory)
    for listing, activity in steps:
        inference = infer_states(memory, listing, activity, rules)
        memory = inference.memory
    return inference


def seen_then(
    *later: tuple[Listing, Activity], first: Iterable[Instance] = (), rules: Rules = RULES
) -> Mapping[int, str]:
    """The reported states after these listings, the first of which has these instances."""
    return words(through([(listing_of(*first), IDLE), *later], rules=rules))
