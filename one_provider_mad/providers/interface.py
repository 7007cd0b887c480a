"""What a cloud must offer to be driven from OpenNebula: the page to read first.

A cloud of our own kind is a `Provider`: intents, tags, listing. What only some clouds can do is an optional
capability, a small protocol of its own that the core finds by asking the object (`isinstance`); a provider that
cannot do a thing simply lacks the methods, and the core answers with one uniform sentence.

A directory of action scripts is a `VerbatimDriver`: it performs a verb as it was sent, with none of the core's
intents, adoption, coalescing or retries around it.

Rules for every provider method:
- It raises only kinds of `ProviderError` (errors.py); anything else counts as a defect and is logged as one.
- It makes one attempt. Retries, pacing and deadlines are the core's; cancellation may strike at any await.
- After a crash any call may be repeated.
- It returns when the cloud has accepted the call; waiting for the resulting state is the core's work (`describe`).
- What it lists has each instance once: a listing that shows an id twice, and differently, counts as failed
  (listings.py). An answer that is not the document that was asked for is no listing, and never an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from one_provider_mad.domain import DeployId, Identity, Instance, SnapshotId, Usage, Value, VmId, VmRequest

Parameters = Mapping[str, Any]
"""Exactly what a create sends to the cloud, in the cloud's words; must survive JSON unchanged."""


class CreatePlan(Value, frozen=True, kw_only=True):
    """How a VM could be created.

    Attributes:
        alternatives: parameters to try in this order; the next one only after the cloud definitely had no room.
        warnings: sentences for the VM's log (an attribute nobody knows, a token that is ignored).
    """

    alternatives: tuple[Parameters, ...]
    warnings: tuple[str, ...] = ()


class CreateCall(Value, frozen=True, kw_only=True):
    """One journaled create; repeated exactly as it is.

    Attributes:
        identity: its tags travel inside the create call itself.
        token: idempotency token, at most 64 ASCII characters.
        parameters: one alternative of the plan.
    """

    identity: Identity
    token: str
    parameters: Parameters


class Arguments(Value, frozen=True, kw_only=True):
    """What ARGUMENTS of VM_MAD say about scripts; a cloud of our own kind has no use for it.

    Attributes:
        local_actions: `-l`, as it was written; None for upstream's own list.
        timeout: `-w`, seconds a script may run; None for as long as it likes.
        proxy: `--proxy`, "" for none.
    """

    local_actions: str | None = None
    timeout: float | None = None
    proxy: str = ""


class ProviderContext(Value, frozen=True, kw_only=True):
    """What a provider is told about its place.

    Attributes:
        name: NAME from oned's ARGUMENTS.
        hypervisor: HYPERVISOR reported, and the TYPE that its PUBLIC_CLOUD sections carry.
        owner: whose instances these are.
        state_directory: OpenNebula's var directory, where it may keep files of its own.
        system_directory: OpenNebula's etc directory.
        arguments: for drivers that run scripts.
        warn: tells the operator one sentence (the driver's own log, and oned.log or monitor.log).
    """

    name: str
    hypervisor: str
    owner: str
    state_directory: Path
    system_directory: Path = Path("/etc/one")
    arguments: Arguments = Arguments()
    warn: Callable[[str], None]


class Provider(Protocol):
    """A cloud whose instances carry our tags."""

    name: str
    """The cloud as messages call it: `simulated`, `ec2`..."""

    is_create_repeatable: bool
    """The cloud honours idempotency tokens: the same create again yields the same instance."""

    visibility_grace: float
    """Seconds after a create was answered (or, unanswered, was last sent) within which the cloud may not show it yet.

    Once it has passed, a complete lookup that finds nothing means that there is nothing. An instance that was listed
    before counts as missing after as many seconds without a trace of it."""

    watch_interval: float
    """Seconds between two looks while the core waits for a state."""

    async def open(self) -> None:
        """Get ready (connections, files). Called once, before anything else."""

    async def close(self) -> None:
        """Let go of everything. Called once, last."""

    async def account(self) -> str:
        """The account and region the credentials lead to, one short stable text."""

    def plan(self, request: VmRequest) -> CreatePlan:
        """Turn a VM into create parameters. Pure, no I/O. Raises BadParameter with the sentence for the user."""

    async def create(self, call: CreateCall) -> DeployId:
        """Create the instance with its identity tags, and return its id.

        The same token and parameters again: the same id. Raises NoCapacity, QuotaExceeded, BadParameter,
        TokenSpent, TokenMismatch...
        """

    async def start(self, deploy_id: DeployId) -> None:
        """Start a stopped (or, where the cloud suspends, suspended) instance. Running already is fine."""

    async def stop(self, deploy_id: DeployId, *, hard: bool) -> None:
        """Stop a running instance, keeping its disks. Stopped already is fine."""

    async def reboot(self, deploy_id: DeployId, *, hard: bool) -> None:
        """Reboot a running instance."""

    async def destroy(self, deploy_id: DeployId) -> None:
        """Terminate the instance and release what was allocated for it. Terminated already is fine."""

    async def retag(self, deploy_id: DeployId, identity: Identity) -> None:
        """Make the instance carry exactly this identity (an import, or a start on another host)."""

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        """Look at these instances in as few calls as the cloud allows. Ids that the cloud does not know are absent."""

    async def find(self, *, owner: str, vm_id: VmId) -> Sequence[Instance]:
        """Every instance whose tags name this owner and VM, gone ones included. Raises rather than return half."""

    async def list_instances(self) -> Sequence[Instance]:
        """Every instance of the account and region, tagged or not. Raises rather than return half."""


@runtime_checkable
class Suspendable(Protocol):
    """Keeps an instance's memory while it does not run."""

    async def suspend(self, deploy_id: DeployId) -> None:
        """Suspend a running instance; `start` resumes it. Suspended already is fine."""


@runtime_checkable
class SoftTerminate(Protocol):
    """Can ask the guest before an instance ends; `destroy` then ends it whatever the guest does."""

    async def shut_down(self, deploy_id: DeployId) -> None:
        """Let the guest shut down, and terminate the instance then. Terminated already is fine."""


@runtime_checkable
class Parkable(Protocol):
    """Has a state for instances whose VM leaves its host, as undeploy and stop mean it."""

    async def park(self, deploy_id: DeployId, *, hard: bool, keeps_memory: bool) -> None:
        """Stop a running instance and give its place up, keeping its disks; `start` brings it back.

        Parked already is fine.

        Args:
            deploy_id: the instance.
            hard: do not wait for the guest.
            keeps_memory: what the guest was doing is to go on afterwards (`onevm stop`).
        """


@runtime_checkable
class UpstreamTags(Protocol):
    """Knows the instances that upstream's own driver made in the same cloud."""

    def upstream_vm_id(self, instance: Instance) -> VmId | None:
        """The VM that upstream's tags name; None unless the operator lets them count and there are no tags of ours.

        Pure, no I/O.
        """


@runtime_checkable
class Snapshots(Protocol):
    """Snapshots of a whole instance."""

    async def create_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> SnapshotId:
        """Take one (`SNAPSHOT_ID`, `NAME`) and return the cloud's id of it, one word."""

    async def revert_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> None:
        """Go back to `HYPERVISOR_ID`."""

    async def delete_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> None:
        """Delete `HYPERVISOR_ID`. Gone already is fine."""


@runtime_checkable
class DiskHotplug(Protocol):
    """Disks that come and go while the instance exists."""

    async def attach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Attach a disk (`DISK_ID`, `SIZE` in MB, `TARGET`...). The same DISK_ID again is fine."""

    async def detach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Detach `DISK_ID`. Not attached is fine."""


@runtime_checkable
class DiskSnapshots(Protocol):
    """Snapshots of one disk."""

    async def create_disk_snapshot(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Take a snapshot of `DISK_ID`."""

    async def revert_disk_snapshot(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Put `DISK_ID` back to its latest snapshot (4.14 only asks for this)."""


@runtime_checkable
class DiskResize(Protocol):
    """Disks that grow."""

    async def resize_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Make `DISK_ID` `SIZE` MB large."""


@runtime_checkable
class NicHotplug(Protocol):
    """Network interfaces that come and go."""

    async def attach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Attach an interface (`NIC_ID`, `NETWORK`, `MAC`...). The same NIC_ID again is fine."""

    async def detach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Detach `NIC_ID`. Not attached is fine."""


@runtime_checkable
class Resizable(Protocol):
    """Instances that change their size."""

    async def resize(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Give the instance the CPU, VCPU and MEMORY (MB) of the request's template."""


@runtime_checkable
class ContextUpdate(Protocol):
    """Instances whose context can be changed."""

    async def update_context(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Hand the request's CONTEXT to the instance."""


class Attached(Value, frozen=True, kw_only=True):
    """What an instance has that was made for its VM's disks and interfaces, by their numbers.

    Attributes:
        disks: DISK_IDs.
        nics: NIC_IDs.
    """

    disks: frozenset[str] = frozenset()
    nics: frozenset[str] = frozenset()


@runtime_checkable
class DeviceListing(Protocol):
    """Can tell which disks and interfaces were made for a VM: only those are ever removed unasked."""

    async def attached(self, deploy_id: DeployId) -> Attached:
        """What carries tags of ours; never what came with an image, a template of the cloud's, or from elsewhere."""


@runtime_checkable
class Reconfigurable(Protocol):
    """Stopped instances whose PUBLIC_CLOUD section counts anew when their VM is resumed."""

    changeable_attributes: Collection[str]
    """Attributes of the section that `reconfigure` carries out; any other counts at the create only."""

    def section_of(self, request: VmRequest) -> Mapping[str, str]:
        """Attributes of the section that counts, the configuration's defaults left out. Pure. Raises BadParameter."""

    async def reconfigure(self, deploy_id: DeployId, request: VmRequest, name: str) -> None:
        """Give a stopped instance what the attribute says by now, or the default when it is gone. May be repeated."""


@runtime_checkable
class NetworkRules(Protocol):
    """Security groups and network attributes that can be changed on a live instance."""

    async def update_security_group(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Apply the rules of `security_group_id`."""

    async def update_nic(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Apply the attributes of the NICs in `virtual_network_id`."""


class Size(Value, frozen=True, kw_only=True):
    """How large something is: an instance type, or a whole cloud.

    Attributes:
        cpu: cores.
        memory: MiB.
    """

    cpu: float
    memory: int


class Room(Value, frozen=True, kw_only=True):
    """How much room an account has.

    Attributes:
        cpu: cores, those in use included; None when nothing limits them.
        memory: MiB, what is in use included; None when nothing limits it.
        used: how much of both is in use, whoever uses it; None for what the instances of a listing take.
        most: instances that may exist, those on their way out left aside; None when nothing limits their number, or
            when `left` says it.
        left: how many more instances may be made than there are when this is asked.
    """

    cpu: float | None = None
    memory: int | None = None
    used: Size | None = None
    most: int | None = None
    left: int | None = None


@runtime_checkable
class CapacitySource(Protocol):
    """Knows how much room there is; what `[capacity]` says comes first."""

    def instance_sizes(self) -> Mapping[str, Size]:
        """Size of each instance type by name, as far as it is known without asking the cloud."""

    async def capacity(self) -> Room | Size | None:
        """Room of the whole account, what is in use included; None when nobody set a limit.

        Asked every minute, and at once after the cloud has refused a create for want of room or by a limit. While it
        was never answered, nothing is promised to the scheduler.
        """


@runtime_checkable
class TroubleTeller(Protocol):
    """Knows of something in the cloud that an operator should see before an action fails."""

    def troubles(self) -> Sequence[str]:
        """Sentences for PROVIDER_WARNING of the hosts, as of the latest listing; the most important first. No I/O."""


@runtime_checkable
class SizedInstances(Protocol):
    """Instances take the room of their type, whatever they use of it."""

    def size_of(self, instance: Instance) -> Size | None:
        """What a live instance takes of the room; None, which counts as nothing, where nobody knows. Pure, no I/O."""


class ImportHints(Value, frozen=True, kw_only=True):
    """What a VM would ask for that is to take over an instance.

    Attributes:
        size: the instance's.
        public_cloud: attributes of its PUBLIC_CLOUD section, without TYPE.
    """

    size: Size
    public_cloud: Mapping[str, str] = {}


@runtime_checkable
class ImportSource(Protocol):
    """Can tell what an instance that nobody created through us is made of."""

    def import_hints(self, instance: Instance) -> ImportHints:
        """Read it from a listed instance. Pure, no I/O."""


class Figures(Value, frozen=True, kw_only=True):
    """What is measured of one instance, and what lies ahead of it.

    Attributes:
        usage: in the units of `Usage`, counters since the instance was created; None while nothing is known.
        attributes: further facts for monitoring, over those of the listing (`DISKRDBYTES`, an event that is due...).
    """

    usage: Usage | None = None
    attributes: Mapping[str, str] = {}


@runtime_checkable
class FigureSource(Protocol):
    """Knows more of instances than a listing shows, but slowly, or for money: asked beside the listings."""

    figures_period: float
    """Seconds between two questions."""

    async def figures(self, instances: Collection[Instance]) -> Mapping[DeployId, Figures]:
        """What is known of these instances by now, all that the latest listing has; of those left out nothing is.

        Nobody asks twice at a time. What it raises is told, and what was known before goes on being reported.
        """


@runtime_checkable
class NamedAttributes(Protocol):
    """Tells beforehand which attributes its instances may have.

    OpenNebula goes on showing an attribute that is reported no more, until it is taken back. What this process has
    reported is taken back anyway; what an earlier release or another front-end has reported only if it is named here.
    """

    attribute_names: Collection[str]
    """Names of `attributes` of instances and figures; there may be more."""


@runtime_checkable
class BootFinisher(Protocol):
    """Has something left to do once a new instance runs (an address...)."""

    async def finish_boot(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Do it; often there is nothing. Asked again after a crash, or of an instance that was taken over.

        What it raises is told in the VM's log: the instance runs, and stays.
        """


@runtime_checkable
class ShortageTeller(Protocol):
    """Tells of an instance that was accepted, and did not come to run, whether there was no room for it."""

    def lacked_room(self, instance: Instance, parameters: Parameters) -> bool:
        """True when it ended, or failed for good, for want of room: then the plan's next alternative is tried.

        No I/O. A provider may remember what was short.

        Args:
            instance: as the cloud shows it.
            parameters: of its create.
        """


class LoosePart(Value, frozen=True, kw_only=True):
    """Something that costs money without an instance that uses it.

    Attributes:
        part_id: the cloud's id of it.
        kind: `volume`, `snapshot`, `address`.
        identity: whose it is, by its tags; None when they name the owner only.
        detail: how large it is and the like, for a person.
    """

    part_id: str
    kind: str
    identity: Identity | None = None
    detail: str = ""


@runtime_checkable
class LooseParts(Protocol):
    """Makes things beside instances, which may be left over."""

    async def loose_parts(self, *, owner: str) -> Sequence[LoosePart]:
        """Everything that carries this owner's tags and that no instance uses. Raises rather than return half."""


class SelfCheck(Value, frozen=True, kw_only=True):
    """One thing that a provider has checked for a person.

    Attributes:
        what: what was looked at, in a word or two.
        is_well: True, False, or None for what only may be wrong.
        found: what was seen.
        remedy: what to do, "" where all is well.
    """

    what: str
    is_well: bool | None
    found: str
    remedy: str = ""


@runtime_checkable
class SelfChecking(Protocol):
    """Can tell, without changing anything, whether it would be able to do its work."""

    async def check(self) -> Sequence[SelfCheck]:
        """Clock, rights (by dry runs), defaults, limits left. What goes wrong is a finding, not an error."""


class ProviderFactory(Protocol):
    """What the registry, or an entry point `one_provider_mad.providers`, yields for a kind of provider."""

    settings_type: type[msgspec.Struct]
    """Type of the table that is named after the provider; unknown keys are refused by declaring it so."""

    def __call__(self, context: ProviderContext, settings: Any) -> Provider | VerbatimDriver:
        """Build the provider. No I/O here; that is `open`'s."""


@runtime_checkable
class Priced(Protocol):
    """A factory that says whether its clouds' instances cost money; those of any other do."""

    costs_money: bool
    """True: an instance is created only for a VM that asks for this cloud (`policy.without_section`)."""


@runtime_checkable
class LiveResizing(Protocol):
    """A factory that says whether its clouds resize instances that run; those of any other do not."""

    resizes_live: bool
    """True: OpenNebula may ask for it (LIVE_RESIZE of VM_MAD); else a VM is resized while it is off."""


class VerbatimRequest(Value, frozen=True, kw_only=True):
    """One action exactly as the core sent it.

    Attributes:
        action: the action's word.
        request: what was read from the message.
        message: the decoded XML document, as it came.
        is_two_blank: the line's form, which tells releases up to 5.12 from 6.0 and later.
    """

    action: str
    request: VmRequest
    message: bytes
    is_two_blank: bool


@runtime_checkable
class VerbatimDriver(Protocol):
    """Performs verbs as they were sent."""

    name: str

    async def open(self) -> None:
        """Get ready. Called once, before anything else."""

    async def close(self) -> None:
        """Let go of everything, children included. Called once, last."""

    @property
    def is_busy(self) -> bool:
        """True while a verb is being carried out: then it must not be closed for new settings' sake."""

    async def perform(self, request: VerbatimRequest, log: Callable[[str, str], None]) -> str:
        """Carry the verb out and return the reply's payload. `log("I", text)` writes to the VM log (I, W, E or D).

        Cancellation may strike at any await, and nothing may be left running after it. Raises MadError with the
        sentence for the core.
        """
