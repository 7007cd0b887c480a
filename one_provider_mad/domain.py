"""The values shared by the protocol, the actions and the providers: identity, instance, template, request."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NewType

import msgspec

VmId = NewType("VmId", int)
DeployId = NewType("DeployId", str)
SnapshotId = NewType("SnapshotId", str)

TAG_SCHEMA = "1"
"""Version of the form of our tags, written as a tag of its own (decision 11)."""

TAG_PREFIX = "ONE_PROVIDER_"
"""Prefix of our tags' names; of upper case and underscores only, as every cloud and OpenNebula accept them."""


_MOST_DIGITS = 18
"""Digits of a number that always fits 64 bits, as SQLite and XML-RPC need; a longer one is refused."""


def whole_number(text: str) -> int | None:
    """Return a whole number from a cloud, OpenNebula or a file; None for other text, and beyond 18 digits.

    Python's int() also accepts digits of other scripts, blanks and underscores, and raises from 4,301 digits on.
    """
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS else None


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base class of all values: immutable, compared by content."""


# gc=False: values refer to no cycle, and a garbage collection over 10,000 of them would stop the loop for 50 ms.


class Identity(Value, frozen=True, kw_only=True, gc=False):
    """The VM that an instance belongs to, of one OpenNebula, in one of its lives, as its tags say (decision 11).

    Attributes:
        owner: the OpenNebula, as `owner` in the configuration.
        vm_id: the VM's number.
        stime: the VM's STIME (seconds since the epoch, 0 where the request had none), constant for its whole life.
        seq: HISTORY/SEQ of the create (0 where the request had none). It grows with every resume and recreate.
        host_id: number of its OpenNebula host (-1 where the request had none); rewritten when the VM moves.
    """

    owner: str
    vm_id: VmId
    stime: int
    seq: int
    host_id: int

    def is_same_life(self, other: Identity | None) -> bool:
        """True for the same owner, VM ID and STIME (the same life of the VM); SEQ and host may differ."""
        return (
            other is not None and self.owner == other.owner and self.vm_id == other.vm_id and self.stime == other.stime
        )

    def tags(self) -> dict[str, str]:
        """Return the tags that hold this identity in a cloud."""
        return {
            "ONE_PROVIDER_SCHEMA": TAG_SCHEMA,
            "ONE_PROVIDER_OWNER": self.owner,
            "ONE_PROVIDER_VM_ID": str(self.vm_id),
            "ONE_PROVIDER_STIME": str(self.stime),
            "ONE_PROVIDER_SEQ": str(self.seq),
            "ONE_PROVIDER_HOST_ID": str(self.host_id),
        }

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Identity | None:
        """Return the identity in tags; None when it is missing, incomplete or unreadable."""
        owner = tags.get("ONE_PROVIDER_OWNER")
        vm_id = whole_number(tags.get("ONE_PROVIDER_VM_ID", ""))
        stime = whole_number(tags.get("ONE_PROVIDER_STIME", ""))
        seq = whole_number(tags.get("ONE_PROVIDER_SEQ", ""))
        host_id = whole_number(tags.get("ONE_PROVIDER_HOST_ID", ""))
        if owner is None or vm_id is None or stime is None or seq is None or host_id is None:
            return None
        return cls(owner=owner, vm_id=VmId(vm_id), stime=stime, seq=seq, host_id=host_id)


class InstanceState(Enum):
    """The state of a cloud instance; every adapter maps its cloud's states to these."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    UNKNOWN = "unknown"

    @property
    def is_gone(self) -> bool:
        """Return True when the instance is terminated or terminating."""
        return self in (InstanceState.TERMINATING, InstanceState.TERMINATED)


class Usage(Value, frozen=True, kw_only=True, gc=False):
    """The monitored figures of one instance.

    Attributes:
        cpu: percent, 100 is one whole core; None when unknown, which OpenNebula gets as 0.
        memory: KiB in use.
        net_rx: bytes received since the instance was created.
        net_tx: bytes sent since the instance was created.
    """

    cpu: float | None = None
    memory: int = 0
    net_rx: int = 0
    net_tx: int = 0


class Instance(Value, frozen=True, kw_only=True, gc=False):
    """One instance as a cloud lists it.

    Attributes:
        deploy_id: its id in the cloud, which OpenNebula stores as DEPLOY_ID.
        state: its state, mapped from the cloud's.
        raw_state: the cloud's own word.
        identity: its VM, read from its tags; None without a complete identity of ours.
        name: its name in the cloud, for people.
        created_at: its creation time by the cloud, seconds since the epoch, 0 when unknown.
        state_since: time since which it is in its present state, by the cloud's own words, seconds since the epoch; 0
            when the cloud does not tell.
        reason: the cloud's reason for this state, "" for none; with UNKNOWN it means that the instance failed for good.
        usage: its monitored figures, None when there are none.
        attributes: further facts for monitoring, names `[A-Z_][A-Z0-9_]*` (addresses, type, image...).
    """

    deploy_id: DeployId
    state: InstanceState
    raw_state: str
    identity: Identity | None = None
    name: str = ""
    created_at: float = 0.0
    state_since: float = 0.0
    reason: str = ""
    usage: Usage | None = None
    attributes: Mapping[str, str] = {}


class Template(Value, frozen=True, kw_only=True):
    """An OpenNebula template: names in upper case, each with one or more values; a vector is a flat mapping.

    Attributes:
        values: all values of each name, in the order of the document.
    """

    values: Mapping[str, tuple[str | Mapping[str, str], ...]] = {}

    def text(self, name: str, default: str = "") -> str:
        """Return the first plain value of `name`, or the default."""
        return next((value for value in self.values.get(name, ()) if isinstance(value, str)), default)

    def vectors(self, name: str) -> tuple[Mapping[str, str], ...]:
        """Return all vector values of `name`, in the order of the document."""
        return tuple(value for value in self.values.get(name, ()) if not isinstance(value, str))


class EarlierHost(Value, frozen=True, kw_only=True):
    """The host on which a VM was undeployed or stopped, of another driver than its present one's.

    Attributes:
        name: HISTORY/HOSTNAME.
        driver: HISTORY/VM_MAD, NAME of the driver.
        datastore_id: HISTORY/DS_ID, the system datastore; -1 for none, as up to 6.10 in a cloud.
    """

    name: str
    driver: str
    datastore_id: int = -1


class VmOwner(Value, frozen=True, kw_only=True, gc=False):
    """The user and the group of a VM in OpenNebula.

    Attributes:
        user_id: UID, -1 when unknown.
        user: UNAME, "" when unknown.
        group_id: GID, -1 when unknown.
        group: GNAME, "" when unknown.
    """

    user_id: int = -1
    user: str = ""
    group_id: int = -1
    group: str = ""


class OwnedVm(Value, frozen=True, kw_only=True, gc=False):
    """A VM's user, group and name in OpenNebula, as last heard.

    Attributes:
        vm_id: the VM's number.
        stime: STIME of the VM.
        owner: its user and group.
        name: its name.
    """

    vm_id: VmId
    stime: int
    owner: VmOwner
    name: str = ""


class VmRequest(Value, frozen=True, kw_only=True):
    """The VM, and its host, in one of oned's requests.

    Attributes:
        vm_id: the VM's number, from the line.
        name: the VM's name ("" when the request had none).
        owner: its user and group in OpenNebula.
        host: name of the OpenNebula host.
        host_id: HISTORY/HID, -1 when absent.
        deploy_id: the top-level DEPLOY_ID, else VM/DEPLOY_ID; "" for empty, `-` and oned's placeholder `one-<n>`.
        state: VM/STATE, None when absent.
        lcm_state: VM/LCM_STATE when the request was sent, None when absent.
        stime: VM/STIME, 0 when absent.
        seq: HISTORY/SEQ, 0 when absent.
        is_legacy_poll: True for releases whose POLL answer has `K=V` tokens without quotes (up to 4.12).
        template: VM/TEMPLATE; empty unless the action needs it.
        user_template: VM/USER_TEMPLATE; empty unless the action needs it.
        operand: the DISK, NIC, SNAPSHOT... of the action (its flag is YES), flat.
        security_group_id: SECURITY_GROUP_ID of UPDATESG, else "".
        virtual_network_id: VIRTUAL_NETWORK_ID of UPDATENIC, else "".
    """

    vm_id: VmId
    name: str = ""
    owner: VmOwner = VmOwner()
    host: str = ""
    host_id: int = -1
    deploy_id: DeployId = DeployId("")
    state: int | None = None
    lcm_state: int | None = None
    stime: int = 0
    seq: int = 0
    is_legacy_poll: bool = False
    template: Template = Template()
    user_template: Template = Template()
    operand: Mapping[str, str] = {}
    security_group_id: str = ""
    virtual_network_id: str = ""

    @property
    def owned_vm(self) -> OwnedVm:
        """Return the VM's user, group and name."""
        return OwnedVm(vm_id=self.vm_id, stime=self.stime, owner=self.owner, name=self.name)

    def identity(self, *, owner: str) -> Identity:
        """Return the identity of an instance created for this request."""
        return Identity(owner=owner, vm_id=self.vm_id, stime=self.stime, seq=self.seq, host_id=self.host_id)
