"""DEPLOY in BOOT: adopt the instance this VM has, or create exactly one (decisions 12 and 14).

The order makes it safe. First look for an instance by tags, then in the journal; then repeat creates that were sent and
not answered; only when all of these were definitely refused or are gone, open a new attempt. An attempt is on disk
before the cloud hears of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

import msgspec

from one_provider_mad.actions.debt_scope import is_about, is_owed
from one_provider_mad.actions.duplicates import sort_duplicates, unanswered
from one_provider_mad.actions.finding import Finder, listed, unlisted
from one_provider_mad.actions.resuming import wanted_spec
from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import DeployId, Identity, Instance, Value, VmRequest
from one_provider_mad.errors import (
    AmbiguousInstance,
    AuthenticationRefused,
    CannotTell,
    InstanceNotFound,
    JournalError,
    NoCapacity,
    NotOurs,
    NotReached,
    PermissionDenied,
    ProviderError,
    QuotaExceeded,
    Throttled,
    TokenMismatch,
    TokenSpent,
    WrongState,
)
from one_provider_mad.journal.records import Attempt, AttemptState, Debt, Refusal
from one_provider_mad.journal.writer import Journal
from one_provider_mad.protocol.vmm import deploy_id_problem
from one_provider_mad.providers.interface import CreateCall, Parameters, ShortageTeller
from one_provider_mad.timestamps import Timestamp

LOOKS_APART = 5.0
"""Seconds between the first and the last lookup for the instance of an unanswered create, in a cloud without tokens:
an overloaded cloud may still be working on it, and a second create would buy a second instance."""

_UNSETTLED = (AttemptState.OPEN, AttemptState.CREATED)

_MOST_SPENT = 10
"""Most attempts in a row whose tokens a cloud may call spent: a recreate spends one, and no more are known."""


class Adoption(Value, frozen=True, kw_only=True):
    """Brings a VM to exactly one instance.

    Attributes:
        cloud: where the instance is, or will be.
        journal: attempts and debts.
        finder: attributes instances to VMs.
        clock: seconds since the epoch.
        warn: writes a sentence to the VM's log.
        may_import: an untagged instance that the request names may be taken over.
        leads_since: when this front-end began to lead or to run, if just now: an earlier leader may have sent creates
            that this journal lacks. None when that is long ago.
        check_new: raises RequestRefused for a VM for which no further attempt may be opened.
        told: sentences that the VM's log has already; further lookups do not repeat them.
        short: alternatives for which there was no capacity, with the cloud's answer.
    """

    cloud: Cloud
    journal: Journal
    finder: Finder
    clock: Callable[[], float]
    warn: Callable[[str], None]
    may_import: bool
    leads_since: Timestamp | None = None
    check_new: Callable[[VmRequest], None] = lambda _: None
    told: set[str] = msgspec.field(default_factory=set)
    short: list[tuple[Parameters, NoCapacity]] = msgspec.field(default_factory=list)

    async def adopt_or_create(self, request: VmRequest) -> DeployId:
        """Return the id of the VM's instance, which may still be on its way to running.

        Raises:
            AmbiguousInstance: two instances match in full.
            NotOurs: the request names an instance that is not this VM's.
            RequestRefused: it has no instance, and none may be created for it.
            ProviderError: the cloud refused, or its answer is uncertain; the attempt is in the journal.
        """
        if request.deploy_id and (named := await self._adopt_named(request)):
            return named
        if own := await self._adopt_tagged(request):
            return own
        await self._presume_attempt(request)
        if own := await self._adopt_journaled(request):
            return own
        return await self._create(request)

    async def adopt(self, request: VmRequest) -> DeployId | None:
        """Return the id of the instance of an earlier deploy, here or on another front-end; creates nothing.

        Returns:
            None once the cloud would list such an instance, and lists none.

        Raises:
            CannotTell: the journal has an instance that the cloud does not list.
            MadError: as `adopt_or_create`.
        """
        if request.deploy_id and (named := await self._adopt_named(request)):
            return named
        begun = self.finder.now()
        grace = self.cloud.provider.visibility_grace
        if not self.cloud.provider.is_create_repeatable:
            grace = max(grace, LOOKS_APART)
        while True:
            looked_at = self.finder.now()
            if own := await self._adopt_tagged(request):
                return own
            attempts = await self._unsettled(request)
            if own := await self._first_shown(attempts):
                return own
            is_young = any(self.finder.is_young(each, looked_at) for each in attempts)
            if not is_young and looked_at.since(begun) >= grace:
                await self._give_up(attempts)
                return None
            self.cloud.waiting.reason = f"the cloud to show whether VM {request.vm_id} has an instance"
            await asyncio.sleep(self.cloud.provider.watch_interval)

    async def _unsettled(self, request: VmRequest) -> list[Attempt]:
        """Return attempts whose instance exists, or may, and has no debt."""
        debts = await self.journal.debts()
        return [
            attempt
            for attempt in await self._attempts(request)
            if attempt.state in _UNSETTLED and not any(is_about(debt, attempt) for debt in debts)
        ]

    async def _first_shown(self, attempts: list[Attempt]) -> DeployId | None:
        """Return the first instance of these attempts that the cloud lists alive."""
        for attempt in attempts:
            if attempt.state is AttemptState.CREATED:
                instance = await self.cloud.look_at(attempt.deploy_id)
                if instance is not None and not instance.state.is_gone:
                    return attempt.deploy_id
        return None

    async def _give_up(self, attempts: list[Attempt]) -> None:
        """Close attempts without an instance, once the cloud was asked for long enough."""
        for attempt in attempts:
            if attempt.state is AttemptState.CREATED and await self.cloud.look_at(attempt.deploy_id) is None:
                raise CannotTell(f"instance {attempt.deploy_id} was made and is not listed: look for it in the cloud")
            await self.finder.close_attempt(attempt, AttemptState.GONE, "not found after the grace")

    # Adopting

    async def _presume_attempt(self, request: VmRequest) -> None:
        """Record a presumed attempt: another front-end may have sent a create and died.

        It is needed without tokens only, and looked for like any unanswered create, once more after our own
        (duplicates.py).
        """
        since = self.leads_since
        if since is None or self.cloud.provider.is_create_repeatable or await self._attempts(request):
            return
        presumed = Attempt.new(request.identity(owner=self.cloud.owner), 1, {}).sent(since)
        detail = "another front-end may have sent it"
        await self.journal.save_attempt(msgspec.structs.replace(presumed, detail=detail))

    async def _adopt_named(self, request: VmRequest) -> DeployId | None:
        """Adopt the instance that a DEPLOY in BOOT names: an import, a retry, or the leftover of a recreate."""
        deploy_id = request.deploy_id
        instance = await self.cloud.look_at(deploy_id)
        if instance is None or instance.state.is_gone:
            if instance is not None and self.finder.is_ours(instance, request):
                return None
            if any(attempt.deploy_id == deploy_id for attempt in await self.finder.attempts(request)):
                return None  # ours once, and gone by now
            if await self.finder.is_imported(deploy_id, request):
                return None
            if instance is not None and self.finder.upstream_vm_id(instance) == request.vm_id:
                return None
            raise InstanceNotFound(f"instance {deploy_id}, which the VM names as its own, does not exist")
        if instance.identity is None:
            if await self.finder.take_over_upstreams(instance, request):
                return deploy_id
            return await self._import(instance, request)
        await self.finder.check_ownership(instance, request)
        if instance.identity.seq == request.seq:
            return deploy_id
        if instance.identity.seq < request.seq:
            await self._leave_behind(instance)
            return None
        raise NotOurs(f"instance {deploy_id} is of a later life of VM {request.vm_id} (SEQ {instance.identity.seq})")

    async def _import(self, instance: Instance, request: VmRequest) -> DeployId:
        if not self.may_import:
            raise NotOurs(
                f"instance {instance.deploy_id} has no tags of ours: set policy.allow_import to let VMs adopt it"
            )
        has_begun_before = await self.finder.is_imported(instance.deploy_id, request)
        await self.finder.claim(instance.deploy_id, request)
        is_untouched = not has_begun_before
        identity = request.identity(owner=self.cloud.owner)

        async def retag() -> None:
            nonlocal is_untouched
            was_untouched, is_untouched = is_untouched, False
            try:
                await self.cloud.provider.retag(instance.deploy_id, identity)
            except ProviderError as error:
                is_untouched = was_untouched and error.definite
                raise

        try:
            await self.cloud.call("retag", retag)
        except ProviderError:
            if is_untouched:
                await self.journal.forget_import(instance.deploy_id, vm_id=request.vm_id, stime=request.stime)
            raise
        return instance.deploy_id

    async def _adopt_tagged(self, request: VmRequest) -> DeployId | None:
        """Adopt the live instance with exactly this identity."""
        matches = await self._matches(request)
        if len(matches) > 1:
            return await self._one_of(matches, request)
        if not matches:
            return None
        await self._note_answer(matches[0].deploy_id, request)
        return matches[0].deploy_id

    async def _note_answer(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Record the instance that the tags show as the answer to an unanswered create.

        Monitoring misses a new instance, like any other, only if the journal names it (monitor/attribution.py).
        """
        attempts = await self._attempts(request)
        unanswered_ones = [each for each in attempts if each.state is AttemptState.OPEN]
        if unanswered_ones and all(each.deploy_id != deploy_id for each in attempts):
            answered = msgspec.structs.replace(unanswered_ones[-1], state=AttemptState.CREATED, deploy_id=deploy_id)
            await self.journal.save_attempt(answered.answered(self.finder.now()))

    async def _matches(self, request: VmRequest) -> list[Instance]:
        """Return live instances of this life; leftovers become debts, and all others are left alone."""
        debts = [debt for debt in await self.journal.debts() if debt.identity.vm_id == request.vm_id]
        attempts = await self.finder.attempts(request) if debts else []
        matches: list[Instance] = []
        for instance in await self.cloud.find(request.vm_id):
            if instance.state.is_gone:
                continue
            if instance.identity is None:
                raise AmbiguousInstance(
                    f"instance {instance.deploy_id} has damaged tags of VM {request.vm_id}: mend them, or terminate it"
                )
            if any(is_owed(debt, instance, attempts) for debt in debts):
                continue
            match self._relation(instance.identity, request):
                case "ours":
                    if problem := deploy_id_problem(instance.deploy_id):
                        await self._owe_nameless(instance.identity, problem)
                    matches.append(instance)
                case "leftover":
                    await self._leave_behind(instance)
                case relation:
                    self._tell(f"instance {instance.deploy_id} is of {relation} VM {request.vm_id}: it is left alone")
        return matches

    async def _one_of(self, matches: list[Instance], request: VmRequest) -> DeployId:
        """Return the duplicate that stays, where our own attempts without tokens explain all of them.

        Raises:
            AmbiguousInstance: they do not explain all.
        """
        is_repeatable = self.cloud.provider.is_create_repeatable
        found = (
            None if is_repeatable else sort_duplicates(matches, await self._attempts(request), now=self.finder.now())
        )
        if found is None:
            raise AmbiguousInstance(f"{listed(matches)} are both VM {request.vm_id}'s: terminate one in the cloud")
        for attempt in found.attempts:
            await self.journal.save_attempt(attempt)
        for duplicate in found.owed:
            reason = f"a duplicate of {found.stays.deploy_id}, made by a create whose answer was lost"
            self._tell(f"instance {duplicate.deploy_id} is {reason}; it will be terminated")
            identity = request.identity(owner=self.cloud.owner)
            await self.journal.add_debt(
                Debt(deploy_id=duplicate.deploy_id, identity=identity, reason=reason, since=self.clock())
            )
        return found.stays.deploy_id

    def _tell(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            self.warn(text)

    @staticmethod
    def _relation(identity: Identity, request: VmRequest) -> str:
        if identity.stime != request.stime:
            return "another"
        if identity.seq == request.seq:
            return "ours"
        return "leftover" if identity.seq < request.seq else "a later life of"

    async def _owe_nameless(self, identity: Identity, problem: str, *, token: str = "") -> NoReturn:
        """Record a debt for an instance with an unusable id; its tags lead to it.

        Args:
            identity: of the instance.
            problem: what is wrong with the id.
            token: of the create with this answer, "" for any create of this life of the VM.

        Raises:
            CannotTell: always; the sentence is the DEPLOY's failure.
        """
        sentence = f"the cloud has answered with an unusable id: {problem}"
        debt = Debt(deploy_id=DeployId(""), token=token, identity=identity, reason=sentence, since=self.clock())
        await self.journal.add_debt(debt)
        raise CannotTell(f"{sentence}; the instance is looked for by its tags, and terminated")

    async def _leave_behind(self, instance: Instance) -> None:
        """Record a debt for the leftover of a recreate, which costs money until it is terminated."""
        assert instance.identity is not None  # noqa: S101 - only tagged instances get here
        self._tell(f"instance {instance.deploy_id} is left over from before a recreate: it will be terminated")
        await self.journal.add_debt(
            Debt(
                deploy_id=instance.deploy_id,
                identity=instance.identity,
                reason="left over from before a recreate",
                since=self.clock(),
            )
        )

    async def _adopt_journaled(self, request: VmRequest) -> DeployId | None:
        """Adopt the instance that the journal has for exactly this identity, and that the cloud does not list (yet)."""
        debts = await self.journal.debts()
        for attempt in await self._attempts(request):
            if any(is_about(debt, attempt) for debt in debts):
                continue
            if attempt.state is AttemptState.CREATED:
                if own := await self._adopt_created(attempt, request):
                    return own
            elif attempt.state is AttemptState.OPEN and (own := await self._repeat(attempt, request)):
                return own
        return None

    async def _adopt_created(self, attempt: Attempt, request: VmRequest) -> DeployId | None:
        looked_at = self.finder.now()
        instance = await self.cloud.look_at(attempt.deploy_id)
        if instance is None and not self.finder.is_young(attempt, looked_at):
            return await self._ask_again(attempt, request)
        if instance is None or not instance.state.is_gone:
            return attempt.deploy_id  # listed, or the create was answered with this id and the cloud will list it
        await self.finder.close_attempt(attempt, AttemptState.GONE, "terminated")
        return None

    async def _ask_again(self, attempt: Attempt, request: VmRequest) -> DeployId | None:
        """Repeat the create of an unlisted instance: a repeated create is authoritative, a listing is not."""
        doubt = (
            f"instance {attempt.deploy_id} was made for VM {request.vm_id} and is not listed: look for it in the cloud"
        )
        if not self.cloud.provider.is_create_repeatable:
            raise CannotTell(doubt)
        try:
            return await self._send(attempt, request, is_repeat=True)
        except TokenSpent:
            return None
        except ProviderError as error:
            raise CannotTell(f"{doubt} ({error})") from error

    async def _repeat(self, attempt: Attempt, request: VmRequest) -> DeployId | None:
        """Repeat an unanswered create unchanged; its token makes that safe."""
        if not self.cloud.provider.is_create_repeatable:
            return await self._wait_for_duplicate(attempt, request)
        try:
            return await self._send(attempt, request, is_repeat=True)
        except TokenSpent:
            return None
        except (AuthenticationRefused, NotReached, PermissionDenied, Throttled):
            raise
        except ProviderError as error:
            if not error.definite:
                raise
            # The refusal concerns this try only: an earlier one may have made an instance that is not listed yet.
            self.warn(f"{error}: looking for the instance of the earlier attempt")
            return await self._wait_for_duplicate(attempt, request)

    async def _wait_for_duplicate(
        self, attempt: Attempt, request: VmRequest, *, is_given_up: bool = True
    ) -> DeployId | None:
        """Look for the instance of an unanswered create until the grace has passed, and twice at least.

        Args:
            attempt: the unanswered one.
            request: the VM.
            is_given_up: close the attempt when nothing is found, so that a new one may be opened.
        """
        loop = asyncio.get_running_loop()
        look_until = loop.time() + (0.0 if self.cloud.provider.is_create_repeatable else LOOKS_APART)
        while True:
            looked_at, is_apart = self.finder.now(), loop.time() >= look_until
            if own := await self._adopt_tagged(request):
                return own
            if is_apart and not self.finder.is_young(attempt, looked_at):
                if is_given_up:
                    await self.finder.close_attempt(attempt, AttemptState.GONE, "not found after the grace")
                return None
            self.cloud.waiting.reason = f"the cloud to show whether VM {request.vm_id} has an instance"
            await asyncio.sleep(self.cloud.provider.watch_interval)

    # Creating

    async def _create(self, request: VmRequest) -> DeployId:
        """Open attempts until one is answered; each alternative once, and again when its token was spent."""
        self.check_new(request)
        plan = self.cloud.provider.plan(request)
        for warning in plan.warnings:
            self._tell(warning)
        for parameters in plan.alternatives:
            attempt = await self._open(request, parameters)
            if any(attempt.parameters == short for short, _ in self.short):
                continue
            try:
                return await self._create_so(attempt, request)
            except NoCapacity as error:
                self._note_short(attempt, error)
            except QuotaExceeded as error:
                await self._note_refusal(request, error)
                raise
        await self._note_refusal(request, self.short[-1][1])
        raise self.short.pop()[1]  # a plan has an alternative; popped, as the error's traceback keeps this frame

    async def _note_refusal(self, request: VmRequest, error: NoCapacity | QuotaExceeded) -> None:
        """Note the refusal for the information driver, so that the scheduler places nothing more without capacity."""
        refusal = Refusal(
            at=self.clock(),
            text=str(error),
            vm_id=request.vm_id,
            is_limit=isinstance(error, QuotaExceeded),
            is_general=isinstance(error, QuotaExceeded) and error.is_general,
        )
        with suppress(JournalError):  # the cloud's answer matters more to the VM
            await self.journal.note_refusal(refusal)

    def _note_short(self, attempt: Attempt, error: NoCapacity) -> None:
        self.short.append((attempt.parameters, error.with_traceback(None)))
        self.warn(f"{error}")

    async def fall_back(self, deploy_id: DeployId, request: VmRequest, error: WrongState) -> None:
        """Give up an instance that never ran for lack of capacity, so that the next alternative is tried.

        Args:
            deploy_id: the instance.
            request: the VM.
            error: what became of it.

        Raises:
            WrongState: the same error, of an instance that failed for any other reason. A retry adopts it while it
                exists; once it is gone its token is spent, and a retry is a new attempt.
        """
        instance = await self.cloud.look_at(deploy_id)
        made = [attempt for attempt in await self.finder.attempts(request) if attempt.deploy_id == deploy_id]
        short = [attempt for attempt in made if instance is not None and self._lacked_room(instance, attempt)]
        for attempt in short:
            await self._owe_short(attempt, error)
        if instance is None or instance.state.is_gone:
            for attempt in made:
                await self.finder.close_attempt(attempt, AttemptState.GONE, "ended before it ran")
        if not short:
            raise error

    def _lacked_room(self, instance: Instance, attempt: Attempt) -> bool:
        provider = self.cloud.provider
        return isinstance(provider, ShortageTeller) and provider.lacked_room(instance, attempt.parameters)

    async def _owe_short(self, attempt: Attempt, error: WrongState) -> None:
        """Record a debt for an instance that never ran."""
        debt = Debt(
            deploy_id=attempt.deploy_id,
            token=attempt.token,
            identity=attempt.identity,
            reason=f"there was no room for it: {error}",
            since=self.clock(),
        )
        await self.journal.add_debt(debt)
        self._note_short(attempt, NoCapacity(f"{error}"))

    async def _create_so(self, attempt: Attempt, request: VmRequest) -> DeployId:
        """Send an attempt, and new ones while their tokens are spent, _MOST_SPENT at most."""
        for _ in range(_MOST_SPENT):
            try:
                return await self._send_new(attempt, request)
            except TokenSpent as error:
                self.warn(f"{error}: a new attempt is made")
            attempt = await self._open(request, attempt.parameters)
        return await self._send_new(attempt, request)

    async def _send_new(self, attempt: Attempt, request: VmRequest) -> DeployId:
        """Send an attempt for the first time; without tokens, look for the instances of unanswered ones."""
        if self.cloud.provider.is_create_repeatable:
            return await self._send(attempt, request)
        try:
            deploy_id = await self._send(attempt, request)
        except ProviderError as error:
            if not error.definite and (own := await self._made_by(attempt, request)):
                return own
            raise
        return await self._without_duplicate(deploy_id, request)

    async def _made_by(self, attempt: Attempt, request: VmRequest) -> DeployId | None:
        """Find the instance of a create whose response was lost; only the next request sends the create again."""
        try:
            for each in await self._attempts(request):
                if each.token == attempt.token:
                    return await self._wait_for_duplicate(each, request, is_given_up=False)
        except ProviderError as error:
            self.warn(f"cannot look for the instance of the unanswered create: {error}")
        return None

    async def _without_duplicate(self, deploy_id: DeployId, request: VmRequest) -> DeployId:
        """Look for a second instance, of an earlier unanswered create; the younger one becomes a debt."""
        attempts = await self._attempts(request)
        if not unanswered(attempts):
            return deploy_id
        try:
            matches = {instance.deploy_id: instance for instance in await self._matches(request)}
            if matches.keys() <= {deploy_id}:
                return deploy_id
            if deploy_id not in matches:
                shown = await self.cloud.look_at(deploy_id)
                if shown is not None and not self.finder.is_ours(shown, request):
                    return deploy_id  # by its tags another VM's: the caller refuses it
                made = next(unlisted(each) for each in attempts if each.deploy_id == deploy_id)
                matches[deploy_id] = shown or msgspec.structs.replace(made, created_at=self.clock())
        except ProviderError as error:
            self.warn(f"cannot look for a second instance of an earlier create: {error}")
            return deploy_id
        alive = [instance for instance in matches.values() if not instance.state.is_gone]
        return await self._one_of(alive, request) if len(alive) > 1 else alive[0].deploy_id

    async def _attempts(self, request: VmRequest) -> list[Attempt]:
        return [attempt for attempt in await self.finder.attempts(request) if attempt.identity.seq == request.seq]

    async def _open(self, request: VmRequest, parameters: Parameters) -> Attempt:
        number = 1 + max((attempt.number for attempt in await self._attempts(request)), default=0)
        asked = wanted_spec(self.cloud, request).written()
        return Attempt.new(request.identity(owner=self.cloud.owner), number, parameters, asked=asked)

    async def _send(self, attempt: Attempt, request: VmRequest, *, is_repeat: bool = False) -> DeployId:
        before, attempt = attempt, attempt.sent(self.finder.now())
        await self.journal.save_attempt(attempt)
        call = CreateCall(identity=attempt.identity, token=attempt.token, parameters=attempt.parameters)
        try:
            return await self.cloud.create(call, record=partial(self._record, attempt))
        except TokenMismatch as error:
            return await self._settle_mismatch(attempt, request, error)
        except TokenSpent as error:
            await self.finder.close_attempt(attempt, AttemptState.GONE, str(error))
            raise
        except ProviderError as error:
            if error.definite and is_repeat:
                await self._restore(before)
            elif error.definite:
                await self.finder.close_attempt(attempt, AttemptState.REFUSED, str(error))
            raise

    async def _restore(self, before: Attempt) -> None:
        """Restore an attempt after a refused retry, which does not invalidate the first try or later findings."""
        latest = [each for each in await self.finder.attempts_of(before.identity) if each.token == before.token]
        if all(each.state is AttemptState.OPEN for each in latest):
            await self.journal.save_attempt(before)

    async def _record(self, attempt: Attempt, deploy_id: DeployId | None) -> None:
        """Record that the create was answered, or is in doubt: the grace for the cloud to list it starts now."""
        now = self.finder.now()
        latest = [each for each in await self.finder.attempts_of(attempt.identity) if each.token == attempt.token]
        is_given_up = any(each.state is AttemptState.GONE for each in latest)
        if deploy_id is None:
            # Tags may have shown its instance meanwhile; an answer that never comes takes nothing back.
            if not is_given_up and all(each.state is AttemptState.OPEN for each in latest):
                await self.journal.save_attempt(attempt.answered(now))
            return
        if problem := deploy_id_problem(deploy_id):
            await self.journal.save_attempt(attempt.answered(now))
            await self._owe_nameless(attempt.identity, problem, token=attempt.token)
        await self.journal.save_attempt(
            msgspec.structs.replace(attempt.answered(now), state=AttemptState.CREATED, deploy_id=deploy_id)
        )
        if is_given_up:
            # OpenNebula was told meanwhile that there is no instance.
            reason = "its create was answered after the VM was given up"
            debt = Debt(
                deploy_id=deploy_id, token=attempt.token, identity=attempt.identity, reason=reason, since=now.at
            )
            await self.journal.add_debt(debt)

    async def _settle_mismatch(self, attempt: Attempt, request: VmRequest, error: TokenMismatch) -> DeployId:
        """Find the instance that the token has made and the journal lacks, before anything else is created."""
        while True:
            looked_at = self.finder.now()
            if own := await self._adopt_tagged(request):
                return own
            if not self.finder.is_young(attempt, looked_at):
                break
            self.cloud.waiting.reason = f"the instance of an earlier attempt for VM {request.vm_id} to be visible"
            await asyncio.sleep(self.cloud.provider.watch_interval)
        await self.finder.close_attempt(attempt, AttemptState.REFUSED, str(error))
        raise error
