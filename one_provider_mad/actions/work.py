"""The request, the cloud and the journal of one action, and how the action reports."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import msgspec

from one_provider_mad.actions.shared_lookups import SharedLookups
from one_provider_mad.budget.admission import UNLIMITED, Budget
from one_provider_mad.calls.cloud import Cloud
from one_provider_mad.domain import EarlierHost, Value, VmId, VmRequest
from one_provider_mad.errors import JournalError
from one_provider_mad.journal.writer import Journal
from one_provider_mad.mappings import Mappings
from one_provider_mad.ownership.creating import Complete, as_sent
from one_provider_mad.ownership.vm import Vm
from one_provider_mad.settings import Policy
from one_provider_mad.timestamps import Timestamp

FindEarlierHost = Callable[[VmId], Awaitable[EarlierHost | None]]
"""Returns the host of another driver that has the disk of an undeployed or stopped VM; None for none, or where the core
does not say."""


async def no_earlier_host(_: VmId) -> EarlierHost | None:
    """Return None, for a driver that cannot ask the core."""
    return None


class Work(Value, frozen=True, kw_only=True):
    """The request, the cloud and the journal of one action, and how it reports.

    Attributes:
        cloud: the provider, with time limits and retries for its calls.
        journal: requests, attempts, debts and imports.
        policy: `[policy]` of the configuration file.
        mappings: the configuration's images and networks.
        budget: admits what adds to the costs, before its call.
        request: the VM, as the core sent it: some attributes may be encrypted.
        deadline: loop time by which the action must be done; infinity for none.
        clock: seconds since the epoch.
        warn: writes a sentence to the VM's log.
        inform: the same, without the mark of a warning.
        is_stale: true once oned has sent a newer request for the VM, and awaits no answer to this one.
        required_type: TYPE of the section that a VM must have before an instance is created for it; "" for none.
        requested_at: when an earlier process got the request, seconds since the epoch; infinity for this process's.
        lookups: the lookups that all REBOOTs and RESETs share.
        leads_since: when this front-end began to lead or to run; None once creates of an earlier leader have ended.
        complete: completes the request, for calls that send its attributes to the cloud.
        earlier_host: asks the core for the host of another driver that has the VM's disk.
    """

    cloud: Cloud
    journal: Journal
    policy: Policy
    mappings: Mappings = Mappings()
    budget: Budget = UNLIMITED
    request: VmRequest
    deadline: float
    clock: Callable[[], float]
    warn: Callable[[str], None]
    inform: Callable[[str], None] = lambda _: None
    is_stale: Callable[[], bool] = lambda: False
    required_type: str = ""
    requested_at: float = math.inf
    lookups: SharedLookups = msgspec.field(default_factory=SharedLookups)
    leads_since: Timestamp | None = None
    complete: Complete = as_sent
    earlier_host: FindEarlierHost = no_earlier_host

    @property
    def vm(self) -> Vm:
        """Return the VM in the form that the functions of ownership/ take."""
        return Vm(
            identity=self.request.identity(owner=self.cloud.owner),
            deploy_id=self.request.deploy_id,
            cloud=self.cloud,
            journal=self.journal,
            clock=self.clock,
            budget=self.budget,
            user=self.request.owner,
            warn=self.warn,
        )

    async def warn_if_unwritten(self, writing: Awaitable[None]) -> None:
        """Await a write to the journal; its failure (a full disk) is a warning, since the instance costs money."""
        try:
            await writing
        except JournalError as error:
            self.warn(str(error))
