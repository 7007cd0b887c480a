"""Powers off VMs when max_per_month of `[budget]` is reached, in the action driver of the leading front-end."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from one_provider_mad.actions.engine import Engine
from one_provider_mad.budget.admission import Limited
from one_provider_mad.budget.months import month_of
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import DeployId, Instance, InstanceState, VmId
from one_provider_mad.errors import MadError, ProviderError
from one_provider_mad.idle.rules import Machine
from one_provider_mad.idle.savings import difference
from one_provider_mad.idle.tasks import OpenNebula, VmTask
from one_provider_mad.over_budget import rules
from one_provider_mad.over_budget.rules import Reach, Target, Warned
from one_provider_mad.protocol.messages import Severity
from one_provider_mad.providers.interface import PriceSource

log = structlog.get_logger()

PERIOD = 60.0
"""Seconds between two checks."""


class Watcher(VmTask[OpenNebula]):
    """Warns VMs whose limit is nearly reached, and has OpenNebula power them off once it is."""

    unable = "VMs beyond a limit of the month are not looked for"

    def _forget(self) -> None:
        self._warned: dict[VmId, Warned] = {}
        self._told: dict[str, str] = {}

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
        await self._begin_to_log()
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
        if await self._confirmed(machine) is None:
            return
        log.warning("VM is powered off at a limit", vm=machine.vm_id, table=target.reach.use.table)
        await self._opennebula.power_off(machine.vm_id)
        del self._warned[machine.vm_id]
        self._write_log(Severity.WARNING, rules.powered_off(target), machine.vm_id)


def _is_worth_it(provider: PriceSource, instance: Instance) -> bool:
    running = provider.price_of(instance, state=InstanceState.RUNNING)
    return difference(running, provider.price_of(instance, state=InstanceState.STOPPED)).is_worth_it
