"""Adopt the instance whose tags name exactly the VM, and deal with other instances of its number (decision 14).

Instances from before a recreate, and duplicates by our own creates, become debts; all others are left alone.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

import msgspec

from one_provider_mad.domain import DeployId, Identity, Instance
from one_provider_mad.errors import AmbiguousInstance, CannotTell
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.ownership.debt_scope import covers_instance
from one_provider_mad.ownership.duplicates import sort_duplicates
from one_provider_mad.ownership.vm import Vm, listed
from one_provider_mad.protocol.vmm import deploy_id_problem

LOOKS_APART = 5.0
"""Fewest seconds between the first and the last lookup for the instance of an unanswered create, in a cloud without
create tokens: it may still be carrying out that create, and a second one would buy a second instance."""


async def adopt_tagged(vm: Vm) -> DeployId | None:
    """Adopt the live instance with exactly this identity; None when the cloud lists none.

    Raises:
        AmbiguousInstance: several have this identity, and not all by our own creates; or the tags of one are damaged.
    """
    matches = await live_matches(vm)
    if len(matches) > 1:
        return await settle_duplicates(vm, matches)
    if not matches:
        return None
    await _note_answer(vm, matches[0].deploy_id)
    return matches[0].deploy_id


async def _note_answer(vm: Vm, deploy_id: DeployId) -> None:
    """Record an instance that was found by its tags as the answer to the VM's unanswered create.

    Monitoring reports a vanished instance as missing only when the journal has its id (monitor/attribution.py).
    """
    attempts = await vm.own_attempts()
    unanswered_ones = [each for each in attempts if each.state is AttemptState.OPEN]
    if unanswered_ones and all(each.deploy_id != deploy_id for each in attempts):
        answered = msgspec.structs.replace(unanswered_ones[-1], state=AttemptState.CREATED, deploy_id=deploy_id)
        await vm.journal.save_attempt(answered.answered(vm.now()))


async def live_matches(vm: Vm) -> list[Instance]:
    """Return live instances of exactly this identity; those from before a recreate become debts."""
    debts = [debt for debt in await vm.journal.debts() if debt.identity.vm_id == vm.identity.vm_id]
    attempts = await vm.attempts() if debts else []
    matches: list[Instance] = []
    for instance in await vm.cloud.find(vm.identity.vm_id):
        if instance.state.is_gone:
            continue
        if instance.identity is None:
            raise AmbiguousInstance(
                f"instance {instance.deploy_id} has damaged tags of VM {vm.number}: mend them, or terminate it"
            )
        if any(covers_instance(debt, instance, attempts) for debt in debts):
            continue
        match _relation(instance.identity, vm.identity):
            case "ours":
                if problem := deploy_id_problem(instance.deploy_id):
                    await record_debt_by_tags(vm, problem, identity=instance.identity)
                matches.append(instance)
            case "leftover":
                await record_debt_of_leftover(vm, instance)
            case relation:
                vm.warn_once(f"instance {instance.deploy_id} is of {relation} VM {vm.number}: it is left alone")
    return matches


def _relation(identity: Identity, own: Identity) -> str:
    if identity.stime != own.stime:
        return "another"
    if identity.seq == own.seq:
        return "ours"
    return "leftover" if identity.seq < own.seq else "a later life of"


async def settle_duplicates(vm: Vm, matches: list[Instance]) -> DeployId:
    """Return the instance that the VM keeps of several, the oldest; the others become debts (duplicates.py).

    Raises:
        AmbiguousInstance: our own creates cannot have made all of them.
    """
    is_repeatable = vm.cloud.provider.is_create_repeatable
    found = None if is_repeatable else sort_duplicates(matches, await vm.own_attempts(), now=vm.now())
    if found is None:
        raise AmbiguousInstance(f"{listed(matches)} are both VM {vm.number}'s: terminate one in the cloud")
    for attempt in found.attempts:
        await vm.journal.save_attempt(attempt)
    for duplicate in found.others:
        reason = f"a duplicate of {found.kept.deploy_id}, made by a create whose answer was lost"
        vm.warn_once(f"instance {duplicate.deploy_id} is {reason}; it will be terminated")
        await vm.record_debt(duplicate.deploy_id, reason)
    return found.kept.deploy_id


async def record_debt_of_leftover(vm: Vm, instance: Instance) -> None:
    """Record a debt for an instance that is left over from before a recreate of its VM."""
    vm.warn_once(f"instance {instance.deploy_id} is left over from before a recreate: it will be terminated")
    await vm.record_debt(instance.deploy_id, "left over from before a recreate", identity=instance.identity)


async def record_debt_by_tags(vm: Vm, problem: str, *, identity: Identity, token: str = "") -> NoReturn:
    """Record a debt for a new instance whose id OpenNebula cannot keep; it is found by its tags.

    Args:
        vm: the VM.
        problem: why the id cannot be used.
        identity: of the instance.
        token: create token of its attempt, "" for any create of this life of the VM.

    Raises:
        CannotTell: always; its sentence becomes the DEPLOY's FAILURE.
    """
    sentence = f"the cloud has answered with an unusable id: {problem}"
    await vm.record_debt(DeployId(""), sentence, identity=identity, token=token)
    raise CannotTell(f"{sentence}; the instance is looked for by its tags, and terminated")


async def await_listing(vm: Vm, attempt: Attempt, *, is_given_up: bool = True) -> DeployId | None:
    """Return the id of an unanswered create's instance; None after two lookups and the grace without finding it.

    Args:
        vm: the VM.
        attempt: the unanswered create.
        is_given_up: close the attempt when nothing is found, so that a new one may be opened.
    """
    loop = asyncio.get_running_loop()
    look_until = loop.time() + (0.0 if vm.cloud.provider.is_create_repeatable else LOOKS_APART)
    while True:
        looked_at, is_apart = vm.now(), loop.time() >= look_until
        if own := await adopt_tagged(vm):
            return own
        if is_apart and not vm.is_young(attempt, looked_at):
            if is_given_up:
                await vm.close(attempt, AttemptState.GONE, "not found after the grace")
            return None
        vm.wait_for(f"the cloud to show whether VM {vm.number} has an instance")
        await asyncio.sleep(vm.cloud.provider.watch_interval)
