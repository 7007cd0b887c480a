"""Debts: instances that could not be terminated; each is retried until the cloud shows it terminated (decision 17)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import msgspec
import structlog

from one_provider_mad.actions.engine import Engine, EngineSource
from one_provider_mad.actions.intents import Intent, intent_of
from one_provider_mad.actions.lanes import Job, Lanes
from one_provider_mad.actions.leading import Lead
from one_provider_mad.actions.terminating import needs_asking, terminate, terminated
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import DeployId, Instance, VmId, VmRequest
from one_provider_mad.errors import (
    CannotTell,
    DeadlineExceeded,
    JournalError,
    MadError,
    ProviderError,
    RequestRefused,
    SettingsError,
    WrongAccount,
)
from one_provider_mad.journal.records import Debt
from one_provider_mad.metrics import Recorder
from one_provider_mad.ownership.debt_instances import debt_instances
from one_provider_mad.ownership.vm import UNSETTLED, Vm
from one_provider_mad.protocol.messages import Action, Malformed, Request, Severity
from one_provider_mad.protocol.payload import read_payload
from one_provider_mad.tasks import is_cancelled

log = structlog.get_logger()

_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 300.0
"""Longest pause in seconds between two tries of one debt; the pauses double until then."""

_AT_ONCE = 2
"""Most debts that are tried at the same time: each try takes one of the places that requests need more."""

_TRY_TIMEOUT = 300.0
"""Seconds after which one try of a debt is cancelled; the cloud carries out a terminate call that it has got."""

_DEBT_AFTER = (ProviderError, CannotTell, DeadlineExceeded, SettingsError, JournalError, WrongAccount)
"""Errors of a failed terminate after which a debt is recorded. After any other the instance is not ours."""


class Debts:
    """Records debts, and pays them: terminates their instances.

    Args:
        engines: the cloud and the journal.
        write_log: writes to a VM's log.
        lead: while another front-end leads, no debt is paid here (decision 21).
        clock: seconds since the epoch.

    Attributes:
        confirm: called right before an instance is terminated for a debt; an error stops this try.
    """

    def __init__(
        self,
        engines: EngineSource,
        *,
        write_log: Callable[[Severity, str, VmId], None],
        lead: Lead,
        clock: Callable[[], float],
    ) -> None:
        self._engines = engines
        self._write_log = write_log
        self._clock = clock
        self._due: dict[int, float] = {}
        self._under_way: set[int] = set()
        self._lead = lead
        self.confirm: Confirm = confirm_all_but_orphans

    # Recording

    async def note_failure(
        self, action: Action, content: VmRequest | None, error: MadError, *, since: float | None = None
    ) -> None:
        """Record the debts of a failed terminate that oned will not send again; `since`: when oned requested it."""
        if content is None or not isinstance(error, _DEBT_AFTER):
            return
        if not _means(action, content, Intent.DESTROY):
            return
        reason = f"{action.value} failed: {error}"
        if content.deploy_id:
            await self._add(content, reason, deploy_id=content.deploy_id, token="", since=since)
        # And any other instance of this VM, such as that of an unanswered create.
        await self._add(content, reason, deploy_id=DeployId(""), token="", since=since)

    async def record_cancelled_deploy(self, action: Action, content: VmRequest | None) -> None:
        """Record a debt for each create of a cancelled deploy: its instance, even a later one, must be terminated."""
        if content is None or not _means(action, content, Intent.CREATE):
            return
        journal, identity = self._engines.journal, content.identity(owner=self._engines.owner)
        if journal is None:
            return  # then nothing was sent
        try:
            attempts = await journal.attempts(owner=identity.owner, vm_id=identity.vm_id)
        except JournalError as error:
            log.warning("attempts of a cancelled deploy not read", vm=content.vm_id, error=str(error))
            await self._add(content, "its deploy was cancelled", deploy_id=DeployId(""), token="")
            return
        for attempt in attempts:
            is_same = identity.is_same_life(attempt.identity) and attempt.identity.seq == content.seq
            if is_same and attempt.state in UNSETTLED:
                await self._add(content, "its deploy was cancelled", deploy_id=attempt.deploy_id, token=attempt.token)

    async def forget_called_off(self, request: Request) -> None:
        """Record debts of a deploy that DRIVER_CANCEL cancelled in an earlier process, where it did not."""
        read = read_payload(msgspec.structs.replace(request, action=Action.DEPLOY))
        if not isinstance(read, Malformed):
            await self.record_cancelled_deploy(Action.DEPLOY, read[0])

    async def _add(
        self, request: VmRequest, reason: str, *, deploy_id: DeployId, token: str, since: float | None = None
    ) -> None:
        debt = Debt(
            deploy_id=deploy_id,
            token=token,
            identity=request.identity(owner=self._engines.owner),
            reason=reason,
            since=self._clock() if since is None else since,
        )
        try:
            if self._engines.journal is None:
                raise JournalError("there is no journal to note it in")
            await self._engines.journal.add_debt(debt)
        except JournalError as error:
            text = f"an instance of this VM may be left in the cloud, terminate it there: {error}"
            self._write_log(Severity.ERROR, text, request.vm_id)

    # Paying

    async def pay_for_ever(self, lanes: Lanes) -> None:
        """Try each debt when it is due, in its VM's lane, for as long as the driver runs."""
        while True:
            await self._engines.is_journal_open.wait()
            journal = self._engines.journal
            if journal is None or self._engines.is_verbatim:
                return
            journal.has_new_debt.clear()
            try:
                debts = [] if self._lead.is_elsewhere else await journal.debts()
            except JournalError as error:
                log.warning("debts not read", error=str(error))
                debts = []
            now = asyncio.get_running_loop().time()
            for debt in debts:
                is_due = debt.id not in self._under_way and self._due.setdefault(debt.id, now) <= now
                if is_due and lanes.is_busy(debt.identity.vm_id):
                    self._postpone(debt, _FIRST_PAUSE)
                elif is_due and len(self._under_way) < _AT_ONCE:
                    self._under_way.add(debt.id)
                    name = f"debt vm {debt.identity.vm_id}"
                    lanes.submit(Job(debt.identity.vm_id, name, partial(self._try, debt), is_background=True))
            if len(self._under_way) < _AT_ONCE:
                await self._pause([self._due[debt.id] - now for debt in debts if debt.id not in self._under_way])
            else:
                await self._pause([])  # the end of a try wakes it

    def retry_all_now(self) -> None:
        """Try every debt at once that may be paid now, without waiting for the end of its pause."""
        if self._engines.journal is not None:
            self._engines.journal.has_new_debt.set()

    async def measure(self, recorder: Recorder) -> None:
        """Record how many debts there are."""
        if self._engines.journal is not None:
            with suppress(JournalError):
                recorder.owed(len(await self._engines.journal.debts()))

    async def _pause(self, waits: list[float]) -> None:
        """Wait until the next debt is due or a new one is recorded."""
        journal = self._engines.journal
        if journal is None:
            return
        try:
            async with asyncio.timeout(max(0.05, min(waits, default=_LONGEST_PAUSE))):
                await journal.has_new_debt.wait()
        except TimeoutError:
            return

    async def _try(self, debt: Debt, _job: Job) -> None:
        """Try to pay one debt, once. Every error is recorded with the debt, and none but a cancellation is raised."""
        tries = debt.tries + 1
        try:
            engine = await self._engines.current()
            async with asyncio.timeout(_TRY_TIMEOUT):
                await pay(engine, debt, clock=self._clock, confirm=self._confirm)
            await engine.journal.pay_debt(debt)
            log.info("debt paid", debt=debt.id, vm=debt.identity.vm_id, instance=debt.deploy_id)
        except (MadError, TimeoutError) as error:
            self._postpone(debt, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tries, 10)))
            log.warning("debt not paid", debt=debt.id, vm=debt.identity.vm_id, error=str(error) or "out of time")
            await self._note_try(debt, str(error) or "out of time")
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            self._postpone(debt, _LONGEST_PAUSE)
            log.exception("debt failed unexpectedly", debt=debt.id)
            await self._note_try(debt, f"internal error ({type(error).__name__})")
        finally:
            self._under_way.discard(debt.id)
            self.retry_all_now()

    async def _confirm(self, debt: Debt, instance: Instance) -> None:
        await self.confirm(debt, instance)
        if self._lead.is_elsewhere:
            raise CannotTell("another front-end leads, and terminates instances")

    def _postpone(self, debt: Debt, seconds: float) -> None:
        self._due[debt.id] = asyncio.get_running_loop().time() + seconds

    async def _note_try(self, debt: Debt, error: str) -> None:
        try:
            if self._engines.journal is not None:
                await self._engines.journal.note_try(debt, error)
        except JournalError as failure:
            log.warning("debt's try not noted", debt=debt.id, error=str(failure))


def _means(action: Action, request: VmRequest, intent: Intent) -> bool:
    try:
        return intent_of(action, request.lcm_state, has_deploy_id=bool(request.deploy_id)) is intent
    except (RequestRefused, KeyError):
        return False


Confirm = Callable[[Debt, Instance], Awaitable[None]]
"""Called right before an instance is terminated for a debt; raises MadError when it must not be terminated now."""


async def confirm_all_but_orphans(debt: Debt, _instance: Instance) -> None:
    """Raise CannotTell for an orphan's debt, since OpenNebula must be asked about its VM first; accept any other."""
    if debt.is_orphan:
        raise CannotTell("the local OpenNebula has to be asked first whether it is an orphan still")


async def pay(
    engine: Engine, debt: Debt, *, clock: Callable[[], float], confirm: Confirm = confirm_all_but_orphans
) -> None:
    """Terminate the instances of a debt; return once each is terminated, or certainly absent.

    Args:
        engine: the cloud and the journal.
        debt: the debt.
        clock: seconds since the epoch.
        confirm: called right before an instance is terminated.

    Raises:
        MadError: this try failed; a later one may succeed.
    """
    if engine.cloud is None:
        raise SettingsError("the configuration names a directory of scripts, which knows no debts")
    owner = debt.identity.owner or engine.cloud.owner
    if owner != engine.cloud.owner:
        raise SettingsError(f"the instance belongs to owner {owner}, and this driver serves {engine.cloud.owner} now")
    debt = msgspec.structs.replace(debt, identity=msgspec.structs.replace(debt.identity, owner=owner))
    cloud = engine.cloud.for_action(Waiting())  # with SHORT patience: other jobs have its place between its tries
    vm = Vm(identity=debt.identity, deploy_id=debt.deploy_id, cloud=cloud, journal=engine.journal, clock=clock)
    async for instance in debt_instances(vm, debt):
        if needs_asking(cloud, instance):
            await confirm(debt, instance)
        await terminate(cloud, instance)
        await terminated(cloud, instance.deploy_id)
        await engine.journal.unpark(instance.deploy_id)
