"""Powers off VMs when max_per_month of `[budget]` is reached, in the action driver of the leading front-end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from one_provider_mad.actions.engine import Engine, EngineSource
from one_provider_mad.budget.admission import Limited
from one_provider_mad.budget.months import month_of
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.errors import MadError, ProviderError, SettingsError
from one_provider_mad.idle.confirming import OpenNebula, OperatorLog, confirmed
from one_provider_mad.idle.rules import Machine
from one_provider_mad.idle.savings import difference
from one_provider_mad.over_budget import rules
from one_provider_mad.over_budget.rules import Reach, Target, Warned
from one_provider_mad.protocol.messages import Severity
from one_provider_mad.providers.interface import PriceSource

log = structlog.get_logger()

PERIOD = 60.0
"""Seconds between two checks."""

_CHECK_SECONDS = 5.0
"""Longest pause in seconds until the configuration is read again, so that an edit takes effect."""


class Watcher:
    """Warns VMs whose limit is nearly reached, and has OpenNebula power them off once it is.

    Args:
        engines: the cloud and the budget.
        opennebula: the local OpenNebula.
        name: NAME, the driver of the VMs.
        write_log: writes to a VM's log, without a VM to oned.log.
        is_busy: true while an action of a VM is open.
        clock: seconds since the epoch.
        learn_release: receives OpenNebula's release before anything is logged.
        core_is_up: set once OpenNebula has started and answers.
    """

    def __init__(
        self,
        engines: EngineSource,
        opennebula: OpenNebula,
        *,
        name: str,
        write_log: OperatorLog,
        is_busy: Callable[[VmId], bool],
        clock: Callable[[], float],
        learn_release: Callable[[tuple[int, ...]], None],
        core_is_up: asyncio.Event,
    ) -> None:
        self._engines = engines
        self._opennebula = opennebula
        self._name = name
        self._write_log = write_log
        self._is_busy = is_busy
        self._clock = clock
        self._learn_release: Callable[[tuple[int, ...]], None] | None = learn_release
        self._core_is_up = core_is_up
        self._checked_at = -1e12
        self._warned: dict[VmId, Warned] = {}
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Check for as long as the driver runs; return at once without credentials."""
        try:
            await self._opennebula.open()
        except SettingsError as error:
            log.warning("VMs are not powered off at a limit of [budget]", reason=str(error))
            return
        await self._core_is_up.wait()
        while True:
            await self.check_if_due()
            await asyncio.sleep(_CHECK_SECONDS)

    async def check_if_due(self) -> None:
        """Check once a minute while `at_limit` is `poweroff`. A check that fails is one line in the log."""
        try:
            engine = await self._engines.current()
            is_wanted = engine.configuration.settings.budget.at_limit == "poweroff"
            if not 0 <= self._clock() - self._checked_at < PERIOD - 0.5:
                self._checked_at = self._clock()
                await self._check(engine, is_wanted=is_wanted)
        except MadError as error:
            log.info("limits of a month not looked at", reason=str(error))
        except Exception:
            log.exception("looking at the limits of a month failed unexpectedly")

    async def _check(self, engine: Engine, *, is_wanted: bool) -> None:
        """Check all limits once, if this front-end leads. Raises MadError."""
        reaches = await self._reaches(engine) if is_wanted else []
        if not (reaches or self._warned) or engine.cloud is None or not await self._opennebula.may_act():
            return
        if self._learn_release is not None:
            self._learn_release(await self._opennebula.release())
            self._learn_release = None
        machines = await self._opennebula.running(self._name)
        worth = await self._worth(engine) if reaches else frozenset()
        targets = rules.targets(machines.values(), reaches, worth=worth)
        self._tell(reaches, targets, machines)
        self._call_off(machines, {target.machine.vm_id for target in targets})
        for target in targets:
            await self._handle(target)

    async def _reaches(self, engine: Engine) -> list[Reach]:
        """Return the limits that are reached, or will be within the hour. Raises BudgetError."""
        if not isinstance(engine.budget, Limited):
            return []
        now = self._clock()
        month = month_of(now)
        uses = await engine.budget.month_uses()
        return [reach for use in uses if (reach := rules.reached(use, now=now, month=month)) is not None]

    async def _worth(self, engine: Engine) -> frozenset[DeployId]:
        """Return the running instances of ours that are known to cost less while they are stopped.

        Raises:
            ProviderError: the cloud does not list them, or does not tell prices.
        """
        assert engine.cloud is not None  # noqa: S101 - `_check` has seen to it
        provider = engine.cloud.provider
        if not isinstance(provider, PriceSource):
            return frozenset()
        owner = engine.configuration.settings.owner
        listed = await engine.cloud.for_action(Waiting()).list_instances()
        ours = [each for each in listed if each.identity is not None and each.identity.owner == owner]
        await provider.read_prices(ours)
        return frozenset(each.deploy_id for each in ours if _is_worth_it(provider, each))

    def _tell(self, reaches: list[Reach], targets: list[Target], machines: Mapping[VmId, Machine]) -> None:
        """Tell the operator of each limit once when it is foreseen, and once when it is reached."""
        told, now = {}, self._clock()
        for reach in reaches:
            key, is_reached = reach.use.table, "reached" if reach.at <= now else "foreseen"
            told[key] = is_reached
            if self._told.get(key) == is_reached:
                continue
            count = sum(target.machine.deploy_id in reach.use.deploy_ids for target in targets)
            left = sum(each.deploy_id in reach.use.deploy_ids for each in machines.values()) - count
            sentence = rules.outlook(reach, count=count, left=left, now=now)
            log.warning("limit of a month", table=key, reason=sentence)
            self._write_log(Severity.WARNING, sentence)
        self._told = told

    def _call_off(self, machines: Mapping[VmId, Machine], wanted: set[VmId]) -> None:
        """Tell the VMs that are not to be powered off any more."""
        for vm_id in self._warned.keys() - wanted:
            if vm_id in machines and rules.known(machines[vm_id], self._warned) is not None:
                self._write_log(
                    Severity.INFO, "the VM is not powered off: no limit of the month is near any more", vm_id
                )
            del self._warned[vm_id]

    async def _handle(self, target: Target) -> None:
        """Warn a VM, or have OpenNebula power it off; a failure concerns this VM alone."""
        machine, now = target.machine, self._clock()
        if rules.known(machine, self._warned) is None:
            self._warned[machine.vm_id] = Warned(stime=machine.stime, deploy_id=machine.deploy_id, at=now)
            self._write_log(Severity.WARNING, rules.warning(target, now=now), machine.vm_id)
        elif rules.is_due(target, self._warned, now=now):
            try:
                await self._power_off(target)
            except ProviderError as error:
                log.info("VM not powered off", vm=machine.vm_id, reason=str(error))

    async def _power_off(self, target: Target) -> None:
        """Have OpenNebula power off a VM if it still runs as listed. Raises ProviderError."""
        machine = target.machine
        if await confirmed(self._opennebula, machine, name=self._name, is_busy=self._is_busy) is None:
            return
        log.warning("VM is powered off at a limit", vm=machine.vm_id, table=target.reach.use.table)
        await self._opennebula.power_off(machine.vm_id)
        del self._warned[machine.vm_id]
        self._write_log(Severity.WARNING, rules.powered_off(target), machine.vm_id)


def _is_worth_it(provider: PriceSource, instance: Instance) -> bool:
    running = provider.price_of(instance, state=InstanceState.RUNNING)
    return difference(running, provider.price_of(instance, state=InstanceState.STOPPED)).is_worth_it
