"""The plain values that travel between the wire, the actions and the providers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NewType

import msgspec

VmId = NewType("VmId", int)
DeployId = NewType("DeployId", str)
SnapshotId = NewType("SnapshotId", str)

TAG_SCHEMA = "1"
"""Version of the tags below; it travels with them (design, decision 11)."""

TAG_PREFIX = "ONE_PROVIDER_"
"""Every tag of ours begins so. Upper case and underscores only: any cloud, and OpenNebula, can hold such names."""


_MOST_DIGITS = 18
"""What 64 bits hold for certain, and with them SQLite and XML-RPC."""


def whole_number(text: str) -> int | None:
    """Read a whole number of a cloud, of OpenNebula or of a file; None for anything else, and beyond 18 digits.

    Python's int() also takes digits of other scripts, blanks and underscores, and raises from 4,301 digits on.
    """
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS else None


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all values: immutable, compared by content."""


# gc=False: these hold nothing that could lead back to them, and a collection that looks through 10,000 of them would
# hold the loop up for 50 ms.


class Identity(Value, frozen=True, kw_only=True, gc=False):
    """Whose an instance is: the VM of one OpenNebula, in one of its lives (decision 11).

    Attributes:
        owner: the installation, as `owner` in the configuration.
        vm_id: the VM's number.
        stime: the VM's own STIME (seconds since the epoch, 0 where the request had none); a VM keeps it all its life.
        seq: HISTORY/SEQ of the create (0 where the request had none). It grows with every resume and recreate.
        host_id: number of the OpenNebula host it runs on (-1 where the request had none); rewritten when it moves.
    """

    owner: str
    vm_id: VmId
    stime: int
    seq: int
    host_id: int

    def is_same_life(self, other: Identity | None) -> bool:
        """True when both are of the same VM in the same of its number's lives, whatever the SEQ and the host."""
        return (
            other is not None and self.owner == other.owner and self.vm_id == other.vm_id and self.stime == other.stime
        )

    def tags(self) -> dict[str, str]:
        """The tags that carry this identity in a cloud."""
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
        """Read an identity back from tags; None when they carry none, or not a whole and readable one."""
        owner = tags.get("ONE_PROVIDER_OWNER")
        vm_id = whole_number(tags.get("ONE_PROVIDER_VM_ID", ""))
        stime = whole_number(tags.get("ONE_PROVIDER_STIME", ""))
        seq = whole_number(tags.get("ONE_PROVIDER_SEQ", ""))
        host_id = whole_number(tags.get("ONE_PROVIDER_HOST_ID", ""))
        if owner is None or vm_id is None or stime is None or seq is None or host_id is None:
            return None
        return cls(owner=owner, vm_id=VmId(vm_id), stime=stime, seq=seq, host_id=host_id)


class InstanceState(Enum):
    """What a cloud instance is doing, in words that every adapter maps its own words to."""

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
        """True when the instance is terminated for good or on its way there."""
        return self in (InstanceState.TERMINATING, InstanceState.TERMINATED)


class Usage(Value, frozen=True, kw_only=True, gc=False):
    """Figures of one instance.

    Attributes:
        cpu: percent, 100 is one whole core.
        memory: KiB in use.
        net_rx: bytes received since the instance was created.
        net_tx: bytes sent since the instance was created.
    """

    cpu: float = 0.0
    memory: int = 0
    net_rx: int = 0
    net_tx: int = 0


class Instance(Value, frozen=True, kw_only=True, gc=False):
    """One instance as a cloud shows it.

    Attributes:
        deploy_id: the cloud's id of it; what OpenNebula keeps as DEPLOY_ID.
        state: our word for its state.
        raw_state: the cloud's own word.
        identity: whose it is, read from its tags; None when it carries no whole identity of ours.
        name: the cloud's name of it, for people.
        created_at: seconds since the epoch, 0 when the cloud does not tell.
        reason: why it is in this state, if the cloud says so; with UNKNOWN it means that it failed for good.
        usage: figures, None when there are none.
        attributes: further facts for monitoring, names `[A-Z_][A-Z0-9_]*` (addresses, type, image...).
    """

    deploy_id: DeployId
    state: InstanceState
    raw_state: str
    identity: Identity | None = None
    name: str = ""
    created_at: float = 0.0
    reason: str = ""
    usage: Usage | None = None
    attributes: Mapping[str, str] = {}


class Template(Value, frozen=True, kw_only=True):
    """An OpenNebula template: names in upper case, each with one or more values; a vector is a flat mapping.

    Attributes:
        values: name to all its values in the order of the document.
    """

    values: Mapping[str, tuple[str | Mapping[str, str], ...]] = {}

    def text(self, name: str, default: str = "") -> str:
        """First plain value of `name`, or the default."""
        return next((value for value in self.values.get(name, ()) if isinstance(value, str)), default)

    def vectors(self, name: str) -> tuple[Mapping[str, str], ...]:
        """All vector values of `name` in document order."""
        return tuple(value for value in self.values.get(name, ()) if not isinstance(value, str))


class VmRequest(Value, frozen=True, kw_only=True):
    """What one request of the core says about its VM and where it is to run.

    Attributes:
        vm_id: the VM's number, from the line.
        name: the VM's name ("" when the request had none).
        host: name of the OpenNebula host.
        host_id: HISTORY/HID, -1 when absent.
        deploy_id: the top-level DEPLOY_ID, else VM/DEPLOY_ID; "" for empty, `-` and oned's placeholder `one-<n>`.
        state: VM/STATE, None when absent.
        lcm_state: VM/LCM_STATE at the moment of sending, None when absent.
        stime: VM/STIME, 0 when absent.
        seq: HISTORY/SEQ, 0 when absent.
        is_legacy_poll: true for releases whose POLL speaks `K=V` tokens without quotes (up to 4.12).
        template: VM/TEMPLATE; empty unless the action needs it.
        user_template: VM/USER_TEMPLATE; empty unless the action needs it.
        operand: the DISK, NIC, SNAPSHOT... that the action is about (its flag is YES), flat.
        security_group_id: SECURITY_GROUP_ID of UPDATESG, else "".
        virtual_network_id: VIRTUAL_NETWORK_ID of UPDATENIC, else "".
    """

    vm_id: VmId
    name: str = ""
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

    def identity(self, *, owner: str) -> Identity:
        """The identity that an instance created for this request carries."""
        return Identity(owner=owner, vm_id=self.vm_id, stime=self.stime, seq=self.seq, host_id=self.host_id)
