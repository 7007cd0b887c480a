"""Send an attempt to create an instance, for the first time or again, and find the instance it has created.

An attempt is in the journal before its create is sent, and its answer is before any action gets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial

import msgspec

from one_provider_mad.calls.waiting import SettingsReplaced
from one_provider_mad.domain import DeployId
from one_provider_mad.errors import (
    AuthenticationRefused,
    BudgetError,
    CannotTell,
    MadError,
    NotReached,
    PermissionDenied,
    ProviderError,
    Throttled,
    TokenMismatch,
    TokenSpent,
)
from one_provider_mad.journal.records import Attempt, AttemptState
from one_provider_mad.ownership.duplicates import unanswered
from one_provider_mad.ownership.tagged import (
    adopt_tagged,
    await_listing,
    live_matches,
    record_debt_by_tags,
    settle_duplicates,
)
from one_provider_mad.ownership.vm import Vm, unlisted
from one_provider_mad.protocol.vmm import deploy_id_problem
from one_provider_mad.providers.interface import CreateCall


async def send_new(vm: Vm, attempt: Attempt) -> DeployId:
    """Send an attempt for the first time; in a cloud without create tokens, also look for duplicates."""
    if vm.cloud.provider.is_create_repeatable:
        return await _send(vm, attempt)
    try:
        deploy_id = await _send(vm, attempt)
    except ProviderError as error:
        if not error.definite and (own := await _made_by(vm, attempt)):
            return own
        raise
    return await _without_duplicate(vm, deploy_id)


async def _made_by(vm: Vm, attempt: Attempt) -> DeployId | None:
    """Find the instance of a create whose answer was lost, without sending the create again (the next request does)."""
    try:
        for each in await vm.own_attempts():
            if each.token == attempt.token:
                return await await_listing(vm, each, is_given_up=False)
    except ProviderError as error:
        vm.warn(f"cannot look for the instance of the unanswered create: {error}")
    return None


async def _without_duplicate(vm: Vm, deploy_id: DeployId) -> DeployId:
    """Look for duplicates by earlier unanswered creates; return the instance that the VM keeps of them."""
    attempts = await vm.own_attempts()
    if not unanswered(attempts):
        return deploy_id
    try:
        matches = {instance.deploy_id: instance for instance in await live_matches(vm)}
        if matches.keys() <= {deploy_id}:
            return deploy_id
        if deploy_id not in matches:
            shown = await vm.cloud.lookup_one(deploy_id)
            if shown is not None and not vm.is_named_by(shown):
                return deploy_id  # its tags name another VM: the caller refuses it
            made = next(unlisted(each) for each in attempts if each.deploy_id == deploy_id)
            matches[deploy_id] = shown or msgspec.structs.replace(made, created_at=vm.clock())
    except ProviderError as error:
        vm.warn(f"cannot look for a second instance of an earlier create: {error}")
        return deploy_id
    alive = [instance for instance in matches.values() if not instance.state.is_gone]
    return await settle_duplicates(vm, alive) if len(alive) > 1 else alive[0].deploy_id


async def repeat_unlisted(vm: Vm, attempt: Attempt) -> DeployId | None:
    """Repeat the create of an instance that the cloud does not list: a token's answer is certain, a listing is not."""
    doubt = f"instance {attempt.deploy_id} was made for VM {vm.number} and is not listed: look for it in the cloud"
    if not vm.cloud.provider.is_create_repeatable:
        raise CannotTell(doubt)
    try:
        return await _send(vm, attempt, is_repeat=True)
    except TokenSpent:
        return None
    except ProviderError as error:
        raise CannotTell(f"{doubt} ({error})") from error


async def repeat_unanswered(vm: Vm, attempt: Attempt) -> DeployId | None:
    """Send an unanswered create once more, unchanged: by its token the cloud creates no second instance."""
    if not vm.cloud.provider.is_create_repeatable:
        return await await_listing(vm, attempt)
    try:
        return await _send(vm, attempt, is_repeat=True)
    except TokenSpent:
        return None
    except (AuthenticationRefused, NotReached, PermissionDenied, Throttled):
        raise
    except ProviderError as error:
        if not error.definite:
            raise
        # The refusal concerns this try only: an earlier one may have made an instance that is not listed yet.
        vm.warn(f"{error}: looking for the instance of the earlier attempt")
        return await await_listing(vm, attempt)


async def _send(vm: Vm, attempt: Attempt, *, is_repeat: bool = False) -> DeployId:
    """Send an attempt, for the first time or unchanged once more; return the id of its instance.

    Raises:
        BudgetExceeded: a limit of `[budget]` does not admit it; nothing was sent.
        TokenSpent: the token's instance is gone; the attempt is closed.
        ProviderError: the cloud refused, or its answer is uncertain.
    """
    await vm.budget.admit_create(attempt.token, identity=attempt.identity, owner=vm.user, parameters=attempt.parameters)
    try:
        before, attempt = attempt, attempt.sent(vm.now())
        await vm.journal.save_attempt(attempt)
    except BaseException:  # the create was not sent, now: an earlier one may have made an unlisted instance
        await _told(vm, vm.budget.created(attempt.token, "") if is_repeat else vm.budget.release(attempt.token))
        raise
    return await _send_recorded(vm, attempt, before, is_repeat=is_repeat)


async def _note_unmade(vm: Vm, token: str, error: MadError | SettingsReplaced, *, is_repeat: bool) -> None:
    """Tell the budget of a create without effect; if it was sent before, its instance may be unlisted."""
    is_open = is_repeat or isinstance(error, TokenMismatch)
    is_free = isinstance(error, TokenSpent) or not is_open
    await _told(vm, vm.budget.release(token) if is_free else vm.budget.created(token, ""))


async def _told(vm: Vm, telling: Awaitable[None]) -> None:
    """Tell the budget the fate of a create; its failure is a warning, since the create counts until it is known."""
    try:
        await telling
    except BudgetError as error:
        vm.warn(str(error))


async def _send_recorded(vm: Vm, attempt: Attempt, before: Attempt, *, is_repeat: bool) -> DeployId:
    call = CreateCall(identity=attempt.identity, token=attempt.token, parameters=attempt.parameters)
    try:
        unmade = partial(_note_unmade, vm, attempt.token, is_repeat=is_repeat)
        return await vm.cloud.create(call, record=partial(_record, vm, attempt), unmade=unmade)
    except TokenMismatch as error:
        return await _settle_mismatch(vm, attempt, error)
    except TokenSpent as error:
        await vm.close(attempt, AttemptState.GONE, str(error))
        raise
    except ProviderError as error:
        if error.definite and is_repeat:
            await _restore(vm, before)
        elif error.definite:
            await vm.close(attempt, AttemptState.REFUSED, str(error))
        raise


async def _restore(vm: Vm, before: Attempt) -> None:
    """Record an attempt as it was before a repeated create that was refused: the first one may have succeeded."""
    if all(each.state is AttemptState.OPEN for each in await _latest(vm, before)):
        await vm.journal.save_attempt(before)


async def _record(vm: Vm, attempt: Attempt, deploy_id: DeployId | None) -> None:
    """Record a create's answer, None for an uncertain one: the grace for the cloud to list its instance starts now."""
    now = vm.now()
    await _told(vm, vm.budget.created(attempt.token, deploy_id or ""))
    latest = await _latest(vm, attempt)
    is_given_up = any(each.state is AttemptState.GONE for each in latest)
    if deploy_id is None:
        # Tags may have shown its instance meanwhile: an uncertain answer does not overwrite that.
        if not is_given_up and all(each.state is AttemptState.OPEN for each in latest):
            await vm.journal.save_attempt(attempt.answered(now))
        return
    if problem := deploy_id_problem(deploy_id):
        await vm.journal.save_attempt(attempt.answered(now))
        await record_debt_by_tags(vm, problem, identity=attempt.identity, token=attempt.token)
    answered = msgspec.structs.replace(attempt.answered(now), state=AttemptState.CREATED, deploy_id=deploy_id)
    await vm.journal.save_attempt(answered)
    if is_given_up:
        # OpenNebula got the answer meanwhile that there is no instance.
        reason = "its create was answered after the VM was given up"
        await vm.record_debt(deploy_id, reason, identity=attempt.identity, token=attempt.token)


async def _latest(vm: Vm, attempt: Attempt) -> list[Attempt]:
    """Return the attempt as the journal has it now, as a list; an empty list when the journal lacks it."""
    return [each for each in await vm.attempts() if each.token == attempt.token]


async def _settle_mismatch(vm: Vm, attempt: Attempt, error: TokenMismatch) -> DeployId:
    """Find the instance of a create token that was sent before with other parameters; no other is created before."""
    while True:
        looked_at = vm.now()
        if own := await adopt_tagged(vm):
            await _told(vm, vm.budget.created(attempt.token, own))
            return own
        if not vm.is_young(attempt, looked_at):
            break
        vm.wait_for(f"the instance of an earlier attempt for VM {vm.number} to be visible")
        await asyncio.sleep(vm.cloud.provider.watch_interval)
    await vm.close(attempt, AttemptState.REFUSED, str(error))
    raise error
