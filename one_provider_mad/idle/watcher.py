"""Watches for VMs that nobody uses, in the action driver of the leading front-end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import msgspec
import structlog

from one_provider_mad.actions.engine import Engine
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import VmId
from one_provider_mad.errors import MadError, ProviderError
from one_provider_mad.idle import tasks
from one_provider_mad.idle.rules import (
    ASK,
    Attribute,
    Due,
    Figure,
    Judgement,
    Limits,
    Machine,
    UnreadableError,
    Watched,
    first_seen,
    judge,
    limits_of,
    with_figures,
)
from one_provider_mad.idle.savings import Saving, saving_of
from one_provider_mad.idle.settings import IdleSettings
from one_provider_mad.idle.tasks import VmTask
from one_provider_mad.journal.writer import Journal
from one_provider_mad.protocol.messages import Severity

log = structlog.get_logger()

IDLE = "idle"
"""Name of the journal's fact that holds what is known of the watched VMs, as JSON."""

_decode = msgspec.json.Decoder(dict[str, Watched]).decode


class OpenNebula(tasks.OpenNebula, Protocol):
    """What is asked of the local OpenNebula (idle/core.py)."""

    async def latest(self) -> Mapping[VmId, Figure]:
        """Return the latest figure of each VM, by ID, where the VMs themselves do not have it."""

    async def groups(self) -> Mapping[int, Attribute]:
        """Return PROVIDER_IDLE of the groups that have it, by number."""

    async def figures(self, vm_id: VmId, /) -> list[Figure]:
        """Return the figures of a VM that OpenNebula keeps."""

    async def note(self, vm_id: VmId, text: str, /) -> None:
        """Set PROVIDER_IDLE_WARNING of a VM."""


class _Case(NamedTuple):
    """A VM with all that its check needs."""

    engine: Engine
    settings: IdleSettings
    machine: Machine
    limits: Limits
    now: float


class Watcher(VmTask[OpenNebula]):
    """Warns VMs that nobody uses, and has OpenNebula power them off."""

    unable = "idle VMs are not looked for"

    def _forget(self) -> None:
        self._not_understood: set[tuple[VmId, str]] = set()

    async def check_if_due(self) -> None:
        """Check if a check is due by `[idle]`, which is read each time. A check that fails is one line in the log."""
        try:
            engine = await self._engines.current()
            settings = engine.configuration.settings.idle
            elapsed = self._clock() - self._checked_at
            if settings.action != "off" and not 0 <= elapsed < settings.interval - 0.5:
                self._checked_at = self._clock()
                await self.check(engine, settings)
        except MadError as error:
            log.info("idle VMs not looked for", reason=str(error))
        except Exception:
            log.exception("looking for idle VMs failed unexpectedly")

    async def check(self, engine: Engine, settings: IdleSettings) -> None:
        """Check all running VMs once, if this front-end leads.

        Raises:
            MadError: OpenNebula or the journal did not answer.
        """
        if engine.cloud is None or not await self._opennebula.may_act():
            return
        await self._begin_to_log()
        machines = await self._opennebula.running(self._name)
        groups = await self._opennebula.groups()
        limits = {machine.vm_id: self._limits(machine, groups, settings) for machine in machines.values()}
        latest = await self._opennebula.latest() if any(limits.values()) else {}
        before, after = await _read(engine.journal), {}
        for vm_id, machine in machines.items():
            of_vm = limits[vm_id]
            if of_vm is None:
                await self._drop_old_warning(machine)
                continue
            measured = msgspec.structs.replace(machine, figure=latest.get(vm_id, machine.figure))
            case = _Case(engine, settings, measured, of_vm, self._clock())
            kept = await self._checked(case, before.get(str(vm_id)))
            if kept is not None:
                after[str(vm_id)] = kept
        if after != before:
            await engine.journal.set_fact(IDLE, msgspec.json.encode(after).decode())

    def _limits(self, machine: Machine, groups: Mapping[int, Attribute], settings: IdleSettings) -> Limits | None:
        """Return the figures that count for a VM; None, and a line in its log, if its attribute is not understood."""
        try:
            return limits_of(machine.asked, groups.get(machine.group_id), settings)
        except UnreadableError as error:
            if (machine.vm_id, str(error)) not in self._not_understood:
                self._not_understood.add((machine.vm_id, str(error)))
                self._write_log(Severity.WARNING, f"the VM is not watched for idleness: {error}", machine.vm_id)
            return None

    async def _checked(self, case: _Case, before: Watched | None) -> Watched | None:
        """Check one VM, and return what is known of it then; None once it is powered off."""
        machine = case.machine
        if before is None or before.stime != machine.stime:
            before = first_seen(machine, now=case.now)
        watched = with_figures(before, [machine.figure], cpu=case.limits.cpu)
        try:
            return await self._carried_out(case, watched)
        except ProviderError as error:
            log.info("idle VM not handled", vm=machine.vm_id, reason=str(error))
            return watched

    async def _carried_out(self, case: _Case, watched: Watched) -> Watched | None:
        """Do what is due for a VM. Raises ProviderError."""
        judgement = judge(watched, case.limits, now=case.now)
        if judgement.due in (Due.WARN, Due.POWEROFF):  # a use between two checks counts, too
            figures = await self._opennebula.figures(case.machine.vm_id)
            watched = with_figures(watched, figures, cpu=case.limits.cpu)
            judgement = judge(watched, case.limits, now=case.now)
        match judgement.due:
            case Due.WARN:
                await self._warn(case, judgement)
                return msgspec.structs.replace(watched, warned_at=case.now)
            case Due.CLEAR:
                self._write_log(Severity.INFO, "the VM is not idle any more, its warning is over", case.machine.vm_id)
                await self._opennebula.note(case.machine.vm_id, "")
                return msgspec.structs.replace(watched, warned_at=0.0)
            case Due.POWEROFF if case.settings.action == "poweroff":
                return None if await self._powered_off(case, judgement) else watched
        if not watched.warned_at:
            await self._drop_old_warning(case.machine)
        return watched

    async def _drop_old_warning(self, machine: Machine) -> None:
        """Remove the warning of an earlier run, or of a VM that does not ask any more."""
        if machine.warning:
            try:
                await self._opennebula.note(machine.vm_id, "")
            except ProviderError as error:
                log.info("old warning not removed", vm=machine.vm_id, reason=str(error))

    async def _warn(self, case: _Case, judgement: Judgement) -> None:
        """Warn a VM, in its log and its attributes."""
        vm_id = case.machine.vm_id
        sentence = f"the VM {judgement.reason}: {await self._outlook(case, judgement)}"
        log.warning("idle VM", vm=vm_id, reason=sentence)
        await self._opennebula.note(vm_id, sentence)
        self._write_log(Severity.WARNING, sentence, vm_id)

    async def _outlook(self, case: _Case, judgement: Judgement) -> str:
        """Return the part of a warning that says what follows."""
        if case.settings.action != "poweroff":
            return "power it off if nobody needs it"
        saving = await self._saving(case)
        if not saving.is_worth_it:
            why = "a stopped instance costs as much" if saving.amount is not None else "its price is not known"
            return f"it is not powered off, since {why}; terminate it if nobody needs it"
        at = datetime.fromtimestamp(judgement.off_at, tz=UTC)
        return (
            f"it is powered off at {at:%Y-%m-%d %H:%M} UTC, which saves {saving.text} an hour;"
            f" to prevent that set {ASK}=NO: onevm update {case.machine.vm_id}"
        )

    async def _saving(self, case: _Case) -> Saving:
        assert case.engine.cloud is not None  # noqa: S101 - `check` has seen to it
        return await saving_of(case.engine.cloud.for_action(Waiting()), case.machine.deploy_id)

    async def _powered_off(self, case: _Case, judgement: Judgement) -> bool:
        """Have OpenNebula power off a VM, if that saves money and the VM still runs idle; return True if it does."""
        vm_id = case.machine.vm_id
        if self._is_busy(vm_id) or not (await self._saving(case)).is_worth_it:
            return False
        latest = await self._confirmed(case.machine)
        if latest is None or latest.asked != case.machine.asked:
            return False
        sentence = f"powered off, since the VM {judgement.reason}; onevm resume {vm_id} starts it again"
        log.warning("idle VM is powered off", vm=vm_id, reason=judgement.reason)
        await self._opennebula.power_off(vm_id)
        self._write_log(Severity.WARNING, sentence, vm_id)
        await self._opennebula.note(vm_id, sentence)
        return True


async def _read(journal: Journal) -> dict[str, Watched]:
    """Return what is known of the watched VMs, by number; nothing that another release has written in another form."""
    text = await journal.fact(IDLE)
    try:
        return _decode(text) if text else {}
    except msgspec.MsgspecError:
        return {}
