"""What the driver keeps of one of oned's requests, from its acceptance to its answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from one_provider_mad.actions.lanes import Job
from one_provider_mad.actions.queued import Content
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import Value, VmId, VmRequest
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.protocol.messages import Action


class Recovered:
    """A request that an earlier process left; `is_superseded` is set when a newer request for its VM replaces it."""

    __slots__ = ("action", "is_superseded", "requested_at")

    def __init__(self, action: Action, requested_at: float) -> None:
        self.action = action
        self.requested_at = requested_at
        self.is_superseded = False


class Progress:
    """Progress of a request since it was accepted.

    Attributes:
        replaced_by: the newer request that is answered for both; None while there is none.
        follows: an unanswered request that runs before it: its success may be the answer to both.
        succeeded: the payload of its success, None before.
        is_finished: no answer to it can follow: it was answered, or the newer request is answered instead.
        is_abandoned: another front-end has begun to lead, and answers the request by what the cloud shows.
    """

    __slots__ = ("follows", "is_abandoned", "is_finished", "replaced_by", "succeeded")

    def __init__(self) -> None:
        self.is_abandoned = False
        self.is_finished = False
        self.replaced_by: Action | None = None
        self.follows: Accepted | None = None
        self.succeeded: str | None = None


class Accepted(Value, frozen=True, kw_only=True):
    """A request that will be answered, unless a newer one for its VM replaces it.

    Attributes:
        action: the request's verb.
        vm_id: the VM.
        dialect: form of lines in the release of OpenNebula that sent it.
        content: its message, parsed or not yet.
        waiting: what its action waits for, and which errors of the cloud it waits out.
        number: its record in the journal, 0 for none.
        is_after_cancel: DRIVER_CANCEL for this VM came just before.
        recovered: set when an earlier process left it; its `is_superseded` means that it gets no answer any more.
        progress: its progress since then.
        is_settled: it is not carried out, but answered by what the cloud shows.
    """

    action: Action
    vm_id: VmId
    dialect: Dialect
    content: Content
    waiting: Waiting
    number: int = 0
    is_after_cancel: bool = False
    recovered: Recovered | None = None
    progress: Progress = msgspec.field(default_factory=Progress)
    is_settled: bool = False

    @property
    def known(self) -> VmRequest | None:
        """Return the parsed message; None while it is not parsed yet, or cannot be parsed."""
        return self.content.known

    @property
    def is_replaced(self) -> bool:
        """True when this driver sends no answer: a newer request of the VM replaces it, or another front-end does."""
        progress = self.progress
        is_superseded = self.recovered is not None and self.recovered.is_superseded
        return progress.replaced_by is not None or progress.is_abandoned or is_superseded

    @property
    def is_last_end(self) -> bool:
        """True for a request to terminate an instance that oned never sends again, even after a failure."""
        return self.action is Action.CLEANUP or (self.action is Action.CANCEL and self.is_after_cancel)


class RequestJob(Job):
    """The job in a VM's lane that carries out one of oned's requests.

    Args:
        accepted: the request.
        work: carries the request out and answers it.
        host: its OpenNebula host, where each host has an extra place (`actions/turns.py`); else None.
    """

    __slots__ = ("accepted",)

    def __init__(
        self, accepted: Accepted, work: Callable[[Job], Coroutine[Any, Any, None]], *, host: str | None = None
    ) -> None:
        name = f"{accepted.action.value.lower()} vm {accepted.vm_id}"
        super().__init__(accepted.vm_id, name, work, number=accepted.number, host=host)
        self.accepted = accepted
