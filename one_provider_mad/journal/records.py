"""The values that the journal holds: no file and no SQL, so that pure code may name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from hashlib import sha256
from typing import Any

import msgspec

from one_provider_mad.domain import DeployId, Identity, Value, VmId
from one_provider_mad.moments import Moment
from one_provider_mad.processes import Process


class AttemptState(Enum):
    """How far an attempt to create has come."""

    OPEN = "open"
    """Sent or about to be: the instance may exist."""

    CREATED = "created"
    """The cloud answered with an id."""

    REFUSED = "refused"
    """The cloud certainly made nothing."""

    GONE = "gone"
    """Its instance is terminated, or certainly never came to be."""


class Attempt(Value, frozen=True, kw_only=True):
    """One attempt to create an instance.

    Attributes:
        token: idempotency token, a hash of identity and number.
        identity: whose the instance is to be.
        number: 1 for the first attempt of this identity.
        parameters: exactly what the call sends.
        state: how far it has come.
        deploy_id: the id that the cloud answered, "" until then.
        sent_at: when it was last sent, seconds since the epoch.
        answered_at: when it was answered, or given up on, by the cloud; 0 until then. The grace counts from here.
        detail: why it was refused or is gone.
        latest: the later of the two, on a clock that nobody sets; None when only the wall's is known.
        asked: what the VM asked for, as a resume compares it; "" in one that was read, which changes nothing of it.
    """

    token: str
    identity: Identity
    number: int
    parameters: Mapping[str, Any]
    state: AttemptState
    deploy_id: DeployId = DeployId("")
    sent_at: float = 0.0
    answered_at: float = 0.0
    detail: str = ""
    latest: Moment | None = None
    asked: str = ""

    @classmethod
    def new(cls, identity: Identity, number: int, parameters: Mapping[str, Any], *, asked: str = "") -> Attempt:
        """An attempt about to be sent. Same identity and number, same token: 64 hexadecimal characters."""
        text = f"{identity.owner}\0{identity.vm_id}\0{identity.stime}\0{identity.seq}\0{number}"
        return cls(
            token=sha256(text.encode()).hexdigest(),
            identity=identity,
            number=number,
            # As they will come back from the file: the first sending and every later one are the same call.
            parameters=json.loads(json.dumps(parameters)),
            state=AttemptState.OPEN,
            asked=asked,
        )

    def sent(self, now: Moment) -> Attempt:
        """The attempt, sent at this moment."""
        return msgspec.structs.replace(self, sent_at=now.at, latest=now)

    def answered(self, now: Moment) -> Attempt:
        """The attempt, answered or given up on at this moment."""
        return msgspec.structs.replace(self, answered_at=now.at, latest=now)

    def age(self, now: Moment) -> float:
        """Seconds at that moment since it was last sent or answered, whichever is later."""
        return now.since(self.latest or Moment(at=max(self.sent_at, self.answered_at)))


ORPHAN = "orphan ("
"""How the reason of a debt begins that the look for orphans has noted, and that no request has asked for."""


class Debt(Value, frozen=True, kw_only=True):
    """An instance that must be destroyed and could not be, yet.

    Attributes:
        id: number of the debt.
        deploy_id: the instance, "" when only its identity is known.
        token: the attempt it came from, "" when none is known.
        identity: whose it was.
        reason: why it must go.
        since: seconds since the epoch.
        tries: how often it was tried.
        last_error: what went wrong last.
    """

    id: int = 0
    deploy_id: DeployId
    token: str = ""
    identity: Identity
    reason: str
    since: float
    tries: int = 0
    last_error: str = ""

    @property
    def is_orphan(self) -> bool:
        """True when only the look for orphans says that it must go: it has to be one still when it is terminated."""
        return self.reason.startswith(ORPHAN)


class OpenRequest(Value, frozen=True, kw_only=True):
    """A request that was not answered yet.

    Attributes:
        id: number of the record.
        action: the action's word; DRIVER_CANCEL for whatever was called off and is not over.
        vm_id: the VM's number.
        is_two_blank: form of the line.
        payload: base64 as it came; b"" where the request need not be carried out again.
        opened_at: seconds since the epoch.
        writer: the process that took it.
        takers: how many processes have taken it over.
    """

    id: int
    action: str
    vm_id: VmId
    is_two_blank: bool
    payload: bytes
    opened_at: float
    writer: Process
    takers: int = 0


class Writer(Value, frozen=True, kw_only=True):
    """A process that wrote the journal.

    Attributes:
        process: the process.
        parent: who had started it.
        seen_at: when it last showed a sign of life, seconds since the epoch.
    """

    process: Process
    parent: Process
    seen_at: float


class Answered(Value, frozen=True, kw_only=True):
    """The action of a VM that was answered last.

    Attributes:
        action: its word.
        at: when, seconds since the epoch.
        has_ended: it has succeeded, and the VM's instance was to be destroyed: that it is gone is no surprise.
    """

    action: str
    at: float
    has_ended: bool = False


class Refusal(Value, frozen=True, kw_only=True):
    """A create that the cloud has refused for want of room, or by a limit.

    Attributes:
        at: when, seconds since the epoch.
        text: what the cloud said.
        vm_id: for which VM.
        is_limit: a limit of the account was reached; else there was no room just then.
        is_general: the limit holds for every VM of this cloud.
    """

    at: float
    text: str
    vm_id: VmId
    is_limit: bool
    is_general: bool


class Outline(Value, frozen=True, kw_only=True):
    """What the action driver is doing, for those who report on its instances.

    Attributes:
        unanswered: VMs with unanswered requests, by the process that took them.
        answered: by VM, what was answered within the last hour; what was answered at once need not be here.
        attempts: attempts to create that are open or have made something, sent or answered since the time asked for.
        parked: instances that are stopped for an undeploy or a stop.
        owed: instances that must be destroyed and could not be, yet; "" among them for one without an id.
        refusal: the latest create that was refused for want of room or by a limit, None for none.
    """

    unanswered: Mapping[Process, frozenset[VmId]] = {}
    answered: Mapping[VmId, Answered] = {}
    attempts: tuple[Attempt, ...] = ()
    parked: frozenset[DeployId] = frozenset()
    owed: frozenset[DeployId] = frozenset()
    refusal: Refusal | None = None
