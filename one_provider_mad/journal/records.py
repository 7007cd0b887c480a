"""The values that the journal holds; neither files nor SQL, so that pure code may import them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from hashlib import sha256
from typing import Any

import msgspec

from one_provider_mad.domain import DeployId, Identity, Value, VmId
from one_provider_mad.processes import Process
from one_provider_mad.protocol.dialect import Dialect
from one_provider_mad.timestamps import Timestamp


class AttemptState(Enum):
    """Progress of an attempt to create an instance."""

    OPEN = "open"
    """The create was sent or is about to be: the instance may exist."""

    CREATED = "created"
    """The cloud answered with an id."""

    REFUSED = "refused"
    """The cloud certainly created nothing."""

    GONE = "gone"
    """Its instance is terminated, or certainly was never created."""


class Attempt(Value, frozen=True, kw_only=True):
    """One attempt to create an instance.

    Attributes:
        token: create token (idempotency token): a hash of identity and number.
        identity: owner, VM ID, STIME and SEQ of the VM that the instance is for.
        number: 1 for the first attempt of this identity.
        parameters: the exact parameters of the create call.
        state: its progress.
        deploy_id: the id that the cloud answered, "" until then.
        sent_at: time at which the create was last sent, seconds since the epoch.
        answered_at: time of the cloud's answer, or of giving up on it; 0 until then. The grace counts from this time.
        detail: reason for the states REFUSED and GONE, for a person.
        latest: the later of `sent_at` and `answered_at`, also on the steady clock; None when that time is not known.
        specification: what a resume compares with the VM (actions/instance_spec.py); "" in an attempt read from the
            file: saving it leaves the recorded specification unchanged.
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
    latest: Timestamp | None = None
    specification: str = ""

    @classmethod
    def new(cls, identity: Identity, number: int, parameters: Mapping[str, Any], *, specification: str = "") -> Attempt:
        """Return an attempt about to be sent. Same identity and number, same token: 64 hexadecimal characters."""
        text = f"{identity.owner}\0{identity.vm_id}\0{identity.stime}\0{identity.seq}\0{number}"
        return cls(
            token=sha256(text.encode()).hexdigest(),
            identity=identity,
            number=number,
            # In the form in which the file returns them, so that the first sending and every later one are equal.
            parameters=json.loads(json.dumps(parameters)),
            state=AttemptState.OPEN,
            specification=specification,
        )

    def sent(self, now: Timestamp) -> Attempt:
        """Return a copy of the attempt as sent at this time."""
        return msgspec.structs.replace(self, sent_at=now.at, latest=now)

    def answered(self, now: Timestamp) -> Attempt:
        """Return a copy of the attempt as answered, or given up on, at this time."""
        return msgspec.structs.replace(self, answered_at=now.at, latest=now)

    def age(self, now: Timestamp) -> float:
        """Return the seconds from the last sending or answer, the later of the two, to `now`."""
        return now.since(self.latest or Timestamp(at=max(self.sent_at, self.answered_at)))


ORPHAN = "orphan ("
"""Prefix of the reason in a debt that the search for orphans recorded, that is, without a request of OpenNebula's."""


class Debt(Value, frozen=True, kw_only=True):
    """An instance that must be terminated and could not be, yet.

    Attributes:
        id: number of the debt.
        deploy_id: the instance, "" when only its identity is known.
        token: token of the attempt that created it, "" when none is known.
        identity: owner, VM ID, STIME and SEQ of the VM that the instance was created for.
        reason: why it must be terminated.
        since: time at which it was recorded, seconds since the epoch.
        tries: number of failed tries to terminate it.
        last_error: error of the last try.
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
        """True for a debt by the search for orphans: its instance is terminated only if it still is an orphan."""
        return self.reason.startswith(ORPHAN)


class OpenRequest(Value, frozen=True, kw_only=True):
    """A request that was not answered yet.

    Attributes:
        id: number of the record.
        action: the action's word; DRIVER_CANCEL for an action that was cancelled and has not ended.
        vm_id: the VM's number.
        dialect: OpenNebula's, when it sent the request.
        payload: base64 as in oned's line; b"" where the request need not be carried out again.
        opened_at: time of its arrival, seconds since the epoch.
        writer: the process that accepted it.
        takers: number of processes that have taken it over.
    """

    id: int
    action: str
    vm_id: VmId
    dialect: Dialect
    payload: bytes
    opened_at: float
    writer: Process
    takers: int = 0


class Writer(Value, frozen=True, kw_only=True):
    """A process that wrote the journal.

    Attributes:
        process: the process.
        parent: the process that started it.
        seen_at: time of its last sign of life, seconds since the epoch.
    """

    process: Process
    parent: Process
    seen_at: float


class Answered(Value, frozen=True, kw_only=True):
    """The latest action of a VM that was answered.

    Attributes:
        action: the action's word.
        at: time of the answer, seconds since the epoch.
        has_ended: the action has terminated the VM's instance, so that a listing may lack it.
    """

    action: str
    at: float
    has_ended: bool = False


class Refusal(Value, frozen=True, kw_only=True):
    """A create that the cloud refused for lack of capacity or because of a limit.

    Attributes:
        at: time of the refusal, seconds since the epoch.
        text: the cloud's message.
        vm_id: the VM of the create.
        is_limit: the create exceeded a limit of the account; else the cloud lacked capacity.
        is_general: the limit holds for every VM of this cloud.
        room: the kind of instance, as in `Shortage`; a later create of it ends the refusal. "" when there is none.
    """

    at: float
    text: str
    vm_id: VmId
    is_limit: bool
    is_general: bool
    room: str = ""


ANY_ROOM = "*"
"""`room` of a shortage of the whole cloud."""


class Shortage(Value, frozen=True, kw_only=True):
    """A kind of instance of which the cloud refused another one.

    Attributes:
        room: type, place and market, in the provider's words (providers/interface.py, RoomSource); ANY_ROOM when the
            cloud has room for no instance.
        at: time of the refusal, seconds since the epoch.
        text: the cloud's message.
        is_limit: it exceeded a limit of the account; else the cloud lacked capacity.
    """

    room: str
    at: float
    text: str
    is_limit: bool = False


class Recreation(Value, frozen=True, kw_only=True):
    """A VM that may be recreated: its create was refused for want of room, or its cloud took its instance back.

    Attributes:
        vm_id: the VM's number.
        stime: STIME of the VM.
        seq: HISTORY/SEQ of the refused create, or of the instance that was taken back.
        at: time of that, seconds since the epoch.
        reason: the cloud's message.
        is_interrupted: the cloud has taken an instance of the VM back: the next one is better one that it does not.
        tries: how often in a row the VM was recreated without running in between.
        recreated_seq: HISTORY/SEQ that was recreated last, -1 for none.
        recreated_at: time at which a process undertook that, seconds since the epoch; 0 when it has failed.
    """

    vm_id: VmId
    stime: int
    seq: int
    at: float
    reason: str
    is_interrupted: bool = False
    tries: int = 0
    recreated_seq: int = -1
    recreated_at: float = 0.0

    def is_undertaken(self, now: float) -> bool:
        """True when a process has undertaken to recreate the VM, and may still be at it."""
        return self.recreated_seq == self.seq and 0 <= now - self.recreated_at < UNDERTAKEN_SECONDS


UNDERTAKEN_SECONDS = 60.0
"""Seconds after which a process that has undertaken to recreate a VM counts as failed, if the VM is as before."""


class Outline(Value, frozen=True, kw_only=True):
    """The action driver's current work, by which the information driver judges what a listing shows.

    Attributes:
        unanswered: VMs with unanswered requests, by the process that took them.
        answered: the latest action of each VM answered within the last hour; those answered at once may be absent.
        attempts: attempts that are open or have created an instance, sent or answered since the given time.
        parked: instances that are stopped for an undeploy or a stop.
        owed: ids of the instances that must be terminated for debts; "" for a debt without an id.
        refusal: the latest create refused for lack of capacity or because of a limit, None for none.
        shortages: the kinds of instances that were refused, and not created since; also those of long ago.
        caution: why the journal may hold more than this release reads: a later one has upgraded it; "" else.
    """

    unanswered: Mapping[Process, frozenset[VmId]] = {}
    answered: Mapping[VmId, Answered] = {}
    attempts: tuple[Attempt, ...] = ()
    parked: frozenset[DeployId] = frozenset()
    owed: frozenset[DeployId] = frozenset()
    refusal: Refusal | None = None
    shortages: tuple[Shortage, ...] = ()
    caution: str = ""
