"""What tasks share that may have OpenNebula power off a VM: their start, and the last look at the VM."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

import structlog

from one_provider_mad.actions.engine import EngineSource
from one_provider_mad.domain import VmId
from one_provider_mad.errors import SettingsError
from one_provider_mad.idle.rules import Machine
from one_provider_mad.protocol.messages import Severity

log = structlog.get_logger()

_CHECK_SECONDS = 5.0
"""Longest pause in seconds until the configuration is read again, so that an edit takes effect."""


class OpenNebula(Protocol):
    """What is asked of the local OpenNebula (idle/core.py)."""

    async def open(self) -> None:
        """Read the credentials. Raises SettingsError where there are none."""

    async def may_act(self) -> bool:
        """True when this front-end has no peers, or leads them."""

    async def release(self) -> tuple[int, ...]:
        """Return the release of OpenNebula as numbers."""

    async def running(self, name: str, /) -> Mapping[VmId, Machine]:
        """Return the running VMs of a driver, by ID."""

    async def machine(self, vm_id: VmId, name: str, /) -> Machine | None:
        """Return a VM of a driver if it runs."""

    async def power_off(self, vm_id: VmId, /) -> None:
        """Ask OpenNebula to power off a VM."""


class OperatorLog(Protocol):
    """Writes a line to the log of a VM."""

    def __call__(self, severity: Severity, text: str, vm_id: VmId | None = None, /) -> None:
        """Write a line."""


Client = TypeVar("Client", bound=OpenNebula)


class VmTask(Generic[Client]):
    """A task that looks after running VMs while the driver runs.

    Args:
        engines: the cloud, the journal and the budget.
        opennebula: the local OpenNebula.
        name: NAME, the driver of the VMs.
        write_log: writes to a VM's log, without a VM to oned.log.
        is_busy: true while an action of a VM is open.
        clock: seconds since the epoch.
        learn_release: receives OpenNebula's release before anything is logged.
        core_is_up: set once OpenNebula has started and answers.

    Attributes:
        unable: the log event for a task that has no credentials.
    """

    unable = ""

    def __init__(
        self,
        engines: EngineSource,
        opennebula: Client,
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
        self._forget()

    def _forget(self) -> None:
        """Set what the task remembers to its beginning."""

    async def run(self) -> None:
        """Check for as long as the driver runs; return at once without credentials."""
        try:
            await self._opennebula.open()
        except SettingsError as error:
            log.warning(self.unable, reason=str(error))
            return
        await self._core_is_up.wait()
        while True:
            await self.check_if_due()
            await asyncio.sleep(_CHECK_SECONDS)

    async def check_if_due(self) -> None:
        """Check if a check is due by the configuration, which is read each time. Never raises."""
        raise NotImplementedError

    async def _begin_to_log(self) -> None:
        """Learn the release, by which lines are written. Raises ProviderError."""
        if self._learn_release is not None:
            self._learn_release(await self._opennebula.release())
            self._learn_release = None

    async def _confirmed(self, listed: Machine) -> Machine | None:
        """Return a VM as it is now; None if another front-end leads, an action is open, or the VM has changed.

        Raises:
            ProviderError: OpenNebula did not answer.
        """
        if self._is_busy(listed.vm_id):
            return None
        latest = await self._opennebula.machine(listed.vm_id, self._name)
        if latest is None or (latest.stime, latest.deploy_id) != (listed.stime, listed.deploy_id):
            return None
        is_free = await self._opennebula.may_act() and not self._is_busy(listed.vm_id)
        return latest if is_free else None
