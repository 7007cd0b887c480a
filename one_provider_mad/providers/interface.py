"""What a cloud must offer to be driven from OpenNebula. Read this page first.

A cloud that can tag and list its instances is a `Provider`. An ability of some clouds only is an optional capability,
a small protocol of its own. The driver checks for it with `isinstance`; for a provider without its methods the driver
refuses the action, with the same sentence for all clouds.

A directory of action scripts is a `VerbatimDriver`: it carries out an action as it was sent. The driver's
intents, adoption, shared calls and retries do not apply to it.

Rules for every provider method:
- It raises only kinds of `ProviderError` (errors.py); the driver logs any other exception as a defect.
- It makes one attempt. The driver does retries, pacing and deadlines; any await may be cancelled.
- After a crash any call may be repeated.
- It returns when the cloud has accepted the call; the driver waits for the resulting state (`describe`).
- A listing has each instance once: one with two different rows for the same id counts as failed (listings.py).
  An answer that is not the requested document is an error, never an empty listing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from one_provider_mad.domain import (
    DeployId,
    Identity,
    Instance,
    InstanceState,
    OwnedVm,
    SnapshotId,
    Usage,
    Value,
    VmId,
    VmOwner,
    VmRequest,
)
from one_provider_mad.mappings import Guest, Mappings
from one_provider_mad.pricing.settings import PriceSettings, SizeCheck
from one_provider_mad.pricing.values import Price
from one_provider_mad.protocol.dialect import Dialect

Parameters = Mapping[str, Any]
"""The exact parameters of a create, in the cloud's words; they must survive JSON unchanged."""


class CreatePlan(Value, frozen=True, kw_only=True):
    """How a VM could be created.

    Attributes:
        alternatives: parameters to try in this order; the next one only after the cloud definitely had no capacity.
        warnings: sentences for the VM's log (an unknown attribute, an ignored idempotency token).
    """

    alternatives: tuple[Parameters, ...]
    warnings: tuple[str, ...] = ()


class CreateCall(Value, frozen=True, kw_only=True):
    """One call to create an instance, as the journal holds it; it is repeated with exactly these values.

    Attributes:
        identity: its tags travel inside the create call itself.
        token: idempotency token, at most 64 ASCII characters.
        parameters: one alternative of the plan.
    """

    identity: Identity
    token: str
    parameters: Parameters


class Arguments(Value, frozen=True, kw_only=True):
    """The options in ARGUMENTS of VM_MAD that concern scripts; only a `VerbatimDriver` needs them.

    Attributes:
        local_actions: `-l`, as it was written; None for upstream's own list.
        timeout: `-w`, seconds a script may run; None for no limit.
        proxy: `--proxy`, "" for none.
    """

    local_actions: str | None = None
    timeout: float | None = None
    proxy: str = ""


class ProviderContext(Value, frozen=True, kw_only=True):
    """A provider's names, directories and arguments.

    Attributes:
        name: NAME from oned's ARGUMENTS.
        hypervisor: the HYPERVISOR that the host reports, and the TYPE of its PUBLIC_CLOUD sections.
        owner: the OpenNebula that the instances belong to, as their tags say.
        state_directory: OpenNebula's var directory; a provider may keep files there.
        system_directory: OpenNebula's etc directory.
        arguments: for drivers that run scripts.
        mappings: what the cloud has for OpenNebula's images, networks, context and security groups.
        prices: the table `[prices]`, which wins over the cloud's own prices.
        tags: the table `[tags]` (billing_tags.py).
        permitted_types: `allowed_types` of `[budget]`: patterns of the types that any VM may get; None for all.
        max_spot_price: returns the least `max_spot_price` of `[budget]` for a VM of this owner, None for none.
        size_check: what becomes of a VM whose template names an instance type of another size, as in `[policy]`.
        warn: sends the operator one sentence (the driver's own log, and oned.log or monitor.log).
    """

    name: str
    hypervisor: str
    owner: str
    state_directory: Path
    system_directory: Path = Path("/etc/one")
    arguments: Arguments = Arguments()
    mappings: Mappings = Mappings()
    prices: PriceSettings = PriceSettings()
    tags: Mapping[str, str] = {}
    permitted_types: tuple[str, ...] | None = None
    max_spot_price: Callable[[VmOwner], float | None] = lambda _: None
    size_check: SizeCheck = "off"
    warn: Callable[[str], None]


class Provider(Protocol):
    """A cloud with instances that carry our tags."""

    name: str
    """The cloud as messages call it: `simulated`, `ec2`..."""

    is_create_repeatable: bool
    """True: the cloud honours idempotency tokens, so the same create again yields the same instance."""

    visibility_grace: float
    """Seconds after a create's answer, or else its last sending, for which the cloud may not list the instance.

    Later a complete lookup that finds nothing proves that there is no instance. An instance that was listed before
    counts as missing after as many seconds without being listed."""

    watch_interval: float
    """Seconds between two lookups while the driver waits for an instance's state."""

    async def open(self) -> None:
        """Open connections and files. Called once, before any other method."""

    async def close(self) -> None:
        """Close connections and files. Called once, last."""

    async def account(self) -> str:
        """Return the account and region of the credentials, one short stable text."""

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
        """Look up these instances in as few calls as the cloud allows. Ids unknown to the cloud are absent."""

    async def find(self, *, owner: str, vm_id: VmId) -> Sequence[Instance]:
        """Return every instance with tags of this owner and VM, gone ones included. Raises rather than omit any."""

    async def list_instances(self) -> Sequence[Instance]:
        """Return every instance of the account and region, tagged or not. Raises rather than omit any."""


@runtime_checkable
class ImageReader(Protocol):
    """Has to read facts of a VM's image before `plan`, which calls nothing."""

    async def read_image(self, request: VmRequest) -> None:
        """Read what `plan` needs to know of the image; a fact that the cloud does not tell counts as unknown."""


@runtime_checkable
class CreateTrial(Protocol):
    """Can ask the cloud whether it would carry out a create, which then makes nothing."""

    async def try_create(self, call: CreateCall) -> None:
        """Ask the cloud; return if it would create the instance. Raises what `create` raises of the cloud's refusal."""


@runtime_checkable
class Suspendable(Protocol):
    """Can suspend an instance, so that it does not run and keeps its memory."""

    async def suspend(self, deploy_id: DeployId) -> None:
        """Suspend a running instance; `start` resumes it. Suspended already is fine."""


@runtime_checkable
class SoftTerminate(Protocol):
    """Can ask the guest to shut down before an instance ends; `destroy` then ends it in any case."""

    async def shut_down(self, deploy_id: DeployId) -> None:
        """Let the guest shut down, and terminate the instance then. Terminated already is fine."""


@runtime_checkable
class Parkable(Protocol):
    """Has a state for instances of VMs that leave their host (`onevm undeploy`, `onevm stop`)."""

    async def park(self, deploy_id: DeployId, *, hard: bool, keeps_memory: bool) -> None:
        """Stop a running instance and free its host, keeping its disks; `start` brings it back.

        Parked already is fine.

        Args:
            deploy_id: the instance.
            hard: do not wait for the guest.
            keeps_memory: keep the guest's memory, so that it continues where it was (`onevm stop`).
        """


@runtime_checkable
class UpstreamTags(Protocol):
    """Recognizes the instances of upstream's own driver in the same cloud."""

    def upstream_vm_id(self, instance: Instance) -> VmId | None:
        """Return the VM in upstream's tags; None unless the operator accepts them and there are no tags of ours.

        Pure, no I/O.
        """


@runtime_checkable
class Snapshots(Protocol):
    """Can take snapshots of a whole instance."""

    async def create_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> SnapshotId:
        """Take a snapshot (`SNAPSHOT_ID`, `NAME`) and return its id in the cloud, one word."""

    async def revert_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> None:
        """Revert the instance to snapshot `HYPERVISOR_ID`."""

    async def delete_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> None:
        """Delete snapshot `HYPERVISOR_ID`. Gone already is fine."""


@runtime_checkable
class DiskHotplug(Protocol):
    """Can attach and detach disks of an existing instance."""

    async def attach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Attach a disk (`DISK_ID`, `SIZE` in MB, `TARGET`...). The same DISK_ID again is fine."""

    async def detach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Detach `DISK_ID`. Not attached is fine."""


@runtime_checkable
class DiskSnapshots(Protocol):
    """Can take snapshots of one disk."""

    async def create_disk_snapshot(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Take a snapshot of `DISK_ID`."""

    async def revert_disk_snapshot(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Revert `DISK_ID` to its latest snapshot (only 4.14 sends this)."""


@runtime_checkable
class DiskResize(Protocol):
    """Can enlarge disks."""

    async def resize_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Enlarge `DISK_ID` to `SIZE` MB."""


@runtime_checkable
class NicHotplug(Protocol):
    """Can attach and detach network interfaces."""

    async def attach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Attach an interface (`NIC_ID`, `NETWORK`, `MAC`...). The same NIC_ID again is fine."""

    async def detach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Detach `NIC_ID`. Not attached is fine."""


@runtime_checkable
class Resizable(Protocol):
    """Can change the size of an instance."""

    async def resize(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Give the instance the CPU, VCPU and MEMORY (MB) of the request's template."""


@runtime_checkable
class ContextUpdate(Protocol):
    """Can change the context of an instance."""

    async def update_context(self, deploy_id: DeployId, request: VmRequest) -> Sequence[str]:
        """Give the instance the request's CONTEXT.

        Returns:
            Sentences for the VM's log about what the guest will not get.
        """


class Attached(Value, frozen=True, kw_only=True):
    """The numbers of the disks and interfaces of an instance that were made for its VM.

    Attributes:
        disks: DISK_IDs.
        nics: NIC_IDs.
    """

    disks: frozenset[str] = frozenset()
    nics: frozenset[str] = frozenset()


@runtime_checkable
class DeviceListing(Protocol):
    """Can list the disks and interfaces that were made for a VM; a resume detaches no others."""

    async def attached(self, deploy_id: DeployId) -> Attached:
        """Return the disks and interfaces with our tags, whether they were made with the instance or attached later.

        Never those of an image or of a cloud's template, nor one that an instance always has, as its root volume.
        """


@runtime_checkable
class Reconfigurable(Protocol):
    """Can apply an edited PUBLIC_CLOUD section to a stopped instance when its VM is resumed."""

    changeable_attributes: Collection[str]
    """Attributes of PUBLIC_CLOUD that `reconfigure` can apply; all others have an effect at the create only."""

    def section_of(self, request: VmRequest) -> Mapping[str, str]:
        """Return the attributes of the VM's own section, without the configuration's defaults. Raises BadParameter."""

    async def reconfigure(self, deploy_id: DeployId, request: VmRequest, name: str) -> None:
        """Apply the attribute `name` as it is now, or its default if it is gone, to a stopped instance."""


@runtime_checkable
class NetworkRules(Protocol):
    """Can change the security groups of a running instance."""

    async def update_security_group(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Apply the present rules of the group `security_group_id` to the instance.

        Also called when a NIC has got that group or has lost it (`onevm sg-attach`, `sg-detach`).
        """


@runtime_checkable
class NicUpdates(Protocol):
    """Can change attributes of a running instance's interfaces."""

    async def update_nic(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Apply the present attributes of the VM's NICs in the network `virtual_network_id`."""


@runtime_checkable
class SharedGroups(Protocol):
    """Has OpenNebula's security groups as groups of the cloud, which several instances share."""

    async def prepare_nic(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Make the security groups of the NIC that `attach_nic` is about to attach, `operand`; the same again is fine.

        `attach_nic` gets the NIC alone, and the rules are in the VM's document.
        """

    async def prepare_start(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Apply the present rules to a stopped instance: OpenNebula changes those of a VM that is off without a call.

        An error is written to the VM's log; the instance is started all the same.
        """

    def group_warnings(self, request: VmRequest) -> Sequence[str]:
        """Return sentences for the VM's log about rules that the cloud cannot have. Pure, no I/O."""


@runtime_checkable
class UnusedRemoval(Protocol):
    """Has resources that are removed once no instance uses them, and made again when one is needed."""

    async def remove_unused(self, *, owner: str) -> None:
        """Remove such resources with this owner's tags; called with every search for orphans."""


class Size(Value, frozen=True, kw_only=True):
    """The size of an instance type, or of a whole cloud.

    Attributes:
        cpu: cores.
        memory: MiB.
    """

    cpu: float
    memory: int


class Capacity(Value, frozen=True, kw_only=True):
    """The capacity of an account.

    Attributes:
        cpu: cores, free and in use; None for no limit.
        memory: MiB, free and in use; None for no limit.
        used: the part of both in use by all users; None to count the instances of a listing.
        most: limit of instances, not counting those that are being terminated; None for no limit, or where `left` is
            given.
        left: how many more instances may be created now.
    """

    cpu: float | None = None
    memory: int | None = None
    used: Size | None = None
    most: int | None = None
    left: int | None = None


@runtime_checkable
class CapacitySource(Protocol):
    """Can report the capacity of the cloud; `[capacity]` of the configuration comes first."""

    def instance_sizes(self) -> Mapping[str, Size]:
        """Return the sizes of the instance types by name, as far as they are known without asking the cloud."""

    async def capacity(self) -> Capacity | Size | None:
        """Return the capacity of the whole account, in use and free; None when there is no limit.

        Called every minute, and at once after the cloud refused a create for lack of capacity or by a limit. Until the
        first answer no capacity is reported to the scheduler.
        """


@runtime_checkable
class RoomSource(Protocol):
    """Knows which kinds of instances VMs usually get: while all of those are refused, its host shows no free capacity.

    A kind is one text, a room: an instance type and whatever else it depends on whether the cloud has one left.
    """

    shortage_memory: float
    """Seconds for which a refusal for lack of capacity counts."""

    def usual_rooms(self, types: Collection[str]) -> Collection[str]:
        """Return the rooms of VMs without special wishes; none where the configuration names none. Pure, no I/O.

        Args:
            types: the instance types in `[capacity]`; without any, those of the provider's defaults count.
        """

    def room_of(self, request: VmRequest, parameters: Parameters) -> str:
        """Return the room of one alternative of a VM's plan, "" if it depends on a special wish. Pure, no I/O."""


@runtime_checkable
class WarningSource(Protocol):
    """Can report problems in the cloud before an action fails of them."""

    def listing_warnings(self) -> Sequence[str]:
        """Return sentences for PROVIDER_WARNING of the hosts, from the latest listing; the worst first. No I/O."""


@runtime_checkable
class SizedInstances(Protocol):
    """Knows the capacity that an instance takes of the cloud, whether its guest uses it or not."""

    def size_of(self, instance: Instance) -> Size | None:
        """Return the capacity that a live instance takes; None, which counts as none, for an unknown size. Pure."""


@runtime_checkable
class Billable(Protocol):
    """Has tags of its own, by which its bill can be split: those of `[tags]` (`ProviderContext.tags`).

    They are part of the create call: `plan` puts those of `wanted_tags` into the parameters, over a user's own.
    """

    def wanted_tags(self, vm: OwnedVm) -> Mapping[str, str]:
        """Return the tags of `[tags]` for a VM, in names and texts that the cloud takes. Pure; never raises."""

    async def write_tags(self, deploy_id: DeployId, tags: Mapping[str, str]) -> None:
        """Write these tags over those of the same name, of the instance and of its volumes; "" empties one.

        Other tags stay.
        """


@runtime_checkable
class PriceSource(Protocol):
    """Knows what its instances cost, in units of currency an hour (pricing/values.py).

    All prices follow `[prices]` of the configuration (`ProviderContext.prices`); pricing/book.py computes them. None of
    these functions but `read_prices` asks the cloud, and all prices are unknown until it has been called.
    """

    async def read_prices(self, instances: Collection[Instance]) -> None:
        """Read what prices depend on: lists, at most once a day; disks of instances, every few minutes.

        Called periodically, and before a create whose price matters; the provider decides what is old enough to be
        asked for again. It keeps lists in its state directory, so that a new process need not ask. A list that cannot
        be read, as for want of a right, leaves prices as they are or unknown, and is warned of once; only an error that
        concerns the instances is raised.

        Args:
            instances: the latest listing; none before a create.
        """

    def price_of(self, instance: Instance, *, state: InstanceState | None = None) -> Price:
        """Return what an instance costs in its state, or would cost in another one. Pure.

        It is called for every instance of every listing: the same `Price` object is returned while nothing changes.
        An instance that is terminated costs nothing.
        """

    def kind_of(self, instance: Instance) -> tuple[str, str]:
        """Return the instance's type and its market (pricing/values.py, ON_DEMAND or SPOT), "" for an unknown type."""

    def type_of_create(self, parameters: Parameters) -> str:
        """Return the instance type of one alternative of a plan, "" when it is unknown. Pure."""

    def price_of_create(self, parameters: Parameters) -> Price:
        """Return what the instance of one alternative of a plan will cost while it runs, disks included. Pure."""

    def price_of_disk(self, disk: Mapping[str, str]) -> Price:
        """Return what a DISK costs that is attached or enlarged to its SIZE (MB). Pure."""

    def price_of_resize(self, instance: Instance, request: VmRequest) -> Price:
        """Return what the instance will cost while it runs with the CPU, VCPU and MEMORY of the request. Pure."""

    def disk_size(self, parameters: Parameters) -> float | None:
        """Return the GiB of all disks of one alternative of a plan; None when unknown. Pure."""


@runtime_checkable
class UsualPrice(Protocol):
    """Knows what an instance usually costs, by which `priority = "price"` of `[monitor]` ranks several clouds."""

    def usual_price(self, types: Collection[str]) -> Price:
        """Return what an instance for a VM without special wishes costs an hour, without disks and addresses. Pure.

        It is the cheapest of these types on demand. A type without a known price does not count.

        Args:
            types: the instance types in `[capacity]`; without any, those of the provider's defaults count, and without
                defaults all.
        """


class InstanceType(Value, frozen=True, kw_only=True):
    """An instance type of the cloud.

    Attributes:
        name: its name in the cloud.
        cpu: virtual CPUs.
        memory: MiB.
        gpus: number of GPUs.
        gpu: maker and model of the GPU, `NVIDIA T4`; "" for none.
        architectures: those of the machines, `x86_64`, `arm64`.
        family: the part of its name that other sizes share, `m5`; "" when the cloud has no families.
        is_current: False: the cloud advises against it, as against EC2's previous generations.
    """

    name: str
    cpu: float
    memory: int
    gpus: int = 0
    gpu: str = ""
    architectures: tuple[str, ...] = ("x86_64",)
    family: str = ""
    is_current: bool = True


@runtime_checkable
class TypeSource(Protocol):
    """Knows the instance types of the cloud, so that the cheapest that fits a VM can be chosen."""

    async def read_types(self) -> None:
        """Read the types that the account may use, at most once a day, before `instance_types` or `plan` is called.

        Without the right to read them, those of a table that ships with the provider count. Never raises for that.
        """

    def instance_types(self) -> Mapping[str, InstanceType]:
        """Return the types by name, as far as they are known. Pure."""

    def price_of_type(self, name: str, *, market: str) -> Price:
        """Return what a running instance of a type costs an hour, without disks and addresses. Pure.

        Args:
            name: the type.
            market: pricing/values.py, ON_DEMAND or SPOT.
        """


class TypeWish(Value, frozen=True, kw_only=True):
    """What a VM asks of its instance type.

    Attributes:
        cpu: cores, the larger of CPU and VCPU.
        memory: MiB.
        gpus: least number of GPUs.
        gpu: words in maker and model of the GPU, in any case; "" for any.
        architecture: of the machine, as `InstanceType.architectures` has it; "" for any.
        allowed: patterns of types and families, with `*`; none for all usual types.
        excluded: patterns of types and families that are never taken.
        permitted: patterns of the types that an administrator permits at all; None for no such limit.
    """

    cpu: float = 0.0
    memory: float = 0.0
    gpus: int = 0
    gpu: str = ""
    architecture: str = ""
    allowed: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    permitted: tuple[str, ...] | None = None

    @property
    def text(self) -> str:
        """Return what is asked, for a sentence: `4 cores, 16384 MiB and 1 GPU T4 for arm64`."""
        parts = [f"{self.cpu:g} cores", f"{self.memory:g} MiB", *self._gpu_text()]
        system = f" for {self.architecture}" if self.architecture else ""
        return f"{', '.join(parts[:-1])} and {parts[-1]}{system}"

    def _gpu_text(self) -> Iterator[str]:
        if self.gpus:
            yield f"{self.gpus} {'GPU' if self.gpus == 1 else 'GPUs'}{f' {self.gpu}' if self.gpu else ''}"


@runtime_checkable
class TypeChooser(Protocol):
    """Can leave the choice of a VM's instance type to prices; `plan` then has the cheapest type first.

    Its provider is a `TypeSource`. Types and prices are read before `plan` of such a VM.
    """

    def chooses_type(self, request: VmRequest) -> bool:
        """Return True when the VM leaves its type to the driver. Pure, no I/O. Raises BadParameter as `plan`."""

    def choice_attributes(self) -> Mapping[str, str]:
        """Return the attributes of a PUBLIC_CLOUD section that leave the type to the driver; none if defaults do."""

    def wish_of(self, request: VmRequest) -> TypeWish:
        """Return what the VM asks of its type, by template, section and defaults. Pure. Raises BadParameter."""

    def is_usual_type(self, kind: InstanceType) -> bool:
        """Return True for a type that may be chosen although no pattern of the VM names it. Pure."""


class ImportHints(Value, frozen=True, kw_only=True):
    """The template values of a VM that imports an instance.

    Attributes:
        size: the instance's size.
        public_cloud: attributes of its PUBLIC_CLOUD section, without TYPE.
    """

    size: Size
    public_cloud: Mapping[str, str] = {}


@runtime_checkable
class ImportSource(Protocol):
    """Can describe an instance that was created without this driver."""

    def import_hints(self, instance: Instance) -> ImportHints:
        """Return template values from a listed instance. Pure, no I/O."""


class Figures(Value, frozen=True, kw_only=True):
    """Measurements of one instance, and the events that the cloud has announced for it.

    Attributes:
        usage: in the units of `Usage`, counters since the instance was created; None while there is none.
        attributes: further attributes for monitoring; they replace the listing's (`DISKRDBYTES`, a scheduled event...).
    """

    usage: Usage | None = None
    attributes: Mapping[str, str] = {}


@runtime_checkable
class FigureSource(Protocol):
    """Can measure instances, but slowly or for money, so it is called apart from the listings."""

    @property
    def figures_period(self) -> float:
        """Return the seconds between two calls of `figures`; it may change with each listing."""

    async def figures(self, instances: Collection[Instance]) -> Mapping[DeployId, Figures]:
        """Return figures of `instances`, which are the whole latest listing: figures of others may be dropped.

        There is one call at a time. An error is logged, and the figures from before are still reported.
        """


@runtime_checkable
class NamedAttributes(Protocol):
    """Declares which attributes its instances may have.

    OpenNebula keeps showing an attribute that is no longer reported until a driver reports it empty. This process does
    so for all that it has reported; for those of an earlier release or another front-end only if they are named here.
    """

    attribute_names: Collection[str]
    """Names of the `attributes` of instances and figures; there may be more."""


@runtime_checkable
class BootFinisher(Protocol):
    """Has work to do once a new instance runs (associate an address...)."""

    async def finish_boot(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Do the work that the VM's template requires. Called again after a crash, and for an adopted instance.

        An error is written to the VM's log; the instance keeps running.
        """


@runtime_checkable
class ShortageSource(Protocol):
    """Can say whether an accepted instance failed to run for lack of capacity."""

    def lacked_capacity(self, instance: Instance, parameters: Parameters) -> bool:
        """Return True when the instance ended, or failed for good, for lack of capacity.

        Then the plan's next alternative is tried. No I/O. A provider may remember the shortage.

        Args:
            instance: as the cloud shows it.
            parameters: of its create.
        """


class Interruption(Value, frozen=True, kw_only=True):
    """The end of an instance that its cloud took back, such as a spot instance.

    Attributes:
        reason: the cloud's reason, for a person.
        at: when the cloud decided it, seconds since the epoch; 0 when unknown.
    """

    reason: str
    at: float = 0.0


@runtime_checkable
class InterruptionSource(Protocol):
    """A cloud that takes instances back when it needs their room, such as EC2's spot instances."""

    def interruption(self, instance: Instance) -> Interruption | None:
        """Return how the cloud took back an instance; None for one that runs, or ended otherwise. No I/O."""

    def lasting(self, alternatives: Sequence[Parameters]) -> Sequence[Parameters]:
        """Return the alternatives that the cloud will not take back; all where each may be taken back. No I/O."""


class CloudImage(Value, frozen=True, kw_only=True):
    """An image of the cloud, for the operator who writes `[images]`.

    Attributes:
        image_id: the value of `image` in `[images]`.
        name: its name in the cloud.
        publisher: who has made it, in a word or two.
        created_at: seconds since the epoch, 0 when unknown.
        architecture: the cloud's word, "" when unknown.
        user: the user to log in as, "" when unknown.
        guest: the program in it that reads the context.
        smallest_disk: GiB of its root volume, 0 when unknown.
        note: a sentence on its context, "" for none.
    """

    image_id: str
    name: str
    publisher: str
    created_at: float = 0.0
    architecture: str = ""
    user: str = ""
    guest: Guest = "auto"
    smallest_disk: int = 0
    note: str = ""


@runtime_checkable
class ImageCatalogue(Protocol):
    """Can list the images for `[images]`."""

    async def images(self, match: str) -> Sequence[CloudImage]:
        """Return the images whose id, name or publisher contains `match` in any case, "" for all; the newest first.

        Of a publisher's successive images with one name but for date and version only the newest.
        """


class CloudRange(Value, frozen=True, kw_only=True):
    """Successive IPv4 addresses.

    Attributes:
        first: the first of them.
        size: their number.
    """

    first: str
    size: int


class CloudNetwork(Value, frozen=True, kw_only=True):
    """A subnet or network of the cloud, for the operator who makes a virtual network that mirrors it.

    Attributes:
        network_id: the value of `subnet` in `[networks]`.
        name: its name in the cloud, "" for none.
        place: where it is, for a person.
        ranges: the addresses that an instance may have; none for a network without IPv4.
        gateway: its router's address, "" for none.
        mask: its netmask, "" for none.
        security_groups: ids of the groups that interfaces in it get by default.
        public_address: whether interfaces in it get a public address by default; None when unknown.
    """

    network_id: str
    name: str = ""
    place: str = ""
    ranges: tuple[CloudRange, ...] = ()
    gateway: str = ""
    mask: str = ""
    security_groups: tuple[str, ...] = ()
    public_address: bool | None = None


@runtime_checkable
class NetworkCatalogue(Protocol):
    """Can list the networks for `[networks]`."""

    async def networks(self) -> Sequence[CloudNetwork]:
        """Return the networks of the account, without the addresses that the cloud keeps for itself."""


class UnusedResource(Value, frozen=True, kw_only=True):
    """A volume, snapshot, address or security group that no instance uses.

    Attributes:
        part_id: the cloud's id of it.
        kind: `volume`, `snapshot`, `address`, `security group`.
        identity: the VM in its tags; None when they name the owner only.
        detail: its size and the like, for a person.
        price: what it costs; None where the provider knows no prices.
    """

    part_id: str
    kind: str
    identity: Identity | None = None
    detail: str = ""
    price: Price | None = None


@runtime_checkable
class UnusedResourceSource(Protocol):
    """Can list the volumes, addresses and the like that have outlived their instance."""

    async def unused_resources(self, *, owner: str) -> Sequence[UnusedResource]:
        """Return every resource with this owner's tags that no instance uses. Raises rather than omit any."""


class CheckResult(Value, frozen=True, kw_only=True):
    """The result of one check, of a provider or of `one-provider check` itself; for a person.

    Attributes:
        what: the subject, in a word or two.
        is_well: True, False, or None for a warning.
        found: the finding, as a sentence.
        remedy: the action to take, "" when all is well.
    """

    what: str
    is_well: bool | None
    found: str
    remedy: str = ""


@runtime_checkable
class SelfChecking(Protocol):
    """Can check, without changing anything, whether it is able to do its work."""

    async def check(self) -> Sequence[CheckResult]:
        """Check clock, rights (by dry runs), defaults and free quotas. A failed check is a result, not an error."""


class LoginPlace(Value, frozen=True, kw_only=True):
    """Where one logs in to an instance.

    Attributes:
        address: its public address, else its private one; "" for none.
        user: the user to log in as, "" when unknown.
        port: 22 for SSH, 3389 for Windows' remote desktop.
    """

    address: str = ""
    user: str = ""
    port: int = 22


@runtime_checkable
class Reachability(Protocol):
    """Can say why one cannot log in to an instance."""

    async def obstacles(self, deploy_id: DeployId, *, has_key: bool | None) -> Sequence[CheckResult]:
        """Check everything between a person and the instance's login. A failed check is a result, not an error.

        Args:
            deploy_id: the instance.
            has_key: whether the VM's CONTEXT has a key or a password; None when unknown, as where it has USER_DATA.

        Raises:
            InstanceNotFound: there is no such instance.
        """

    async def login_place(self, deploy_id: DeployId) -> LoginPlace:
        """Return address, user and port. Raises InstanceNotFound."""


@runtime_checkable
class ConsoleSource(Protocol):
    """Can show the text on an instance's console."""

    async def console_text(self, deploy_id: DeployId) -> str:
        """Return the latest text, as the guest wrote it, terminal control sequences included; "" while there is none.

        Raises InstanceNotFound.
        """


@runtime_checkable
class ScreenSource(Protocol):
    """Can take a picture of an instance's console."""

    async def screenshot(self, deploy_id: DeployId) -> bytes:
        """Return a JPEG of the console of a running instance. Raises InstanceNotFound, WrongState."""


@runtime_checkable
class PasswordSource(Protocol):
    """Has a password for the administrator of a Windows instance, encrypted for the instance's key pair."""

    async def encrypted_password(self, deploy_id: DeployId) -> bytes:
        """Return the password, encrypted with the key pair's RSA key as of PKCS #1 v1.5; empty while there is none.

        Raises InstanceNotFound.
        """


class ProviderFactory(Protocol):
    """Builds one kind of provider, for the registry or an entry point `one_provider_mad.providers`."""

    settings_type: type[msgspec.Struct]
    """Type of the provider's own table; it should forbid unknown keys."""

    def __call__(self, context: ProviderContext, settings: Any) -> Provider | VerbatimDriver:
        """Build the provider. No I/O here; that is for `open`."""


@runtime_checkable
class Priced(Protocol):
    """A factory that says whether instances cost money; those of a factory without this attribute do."""

    costs_money: bool
    """True: an instance is created only for a VM that asks for this cloud (`policy.without_section`)."""


@runtime_checkable
class LiveResizing(Protocol):
    """A factory that says whether running instances can be resized; of others they cannot."""

    resizes_live: bool
    """True: OpenNebula may resize a running VM (LIVE_RESIZE of VM_MAD); else it must be off."""


class VerbatimRequest(Value, frozen=True, kw_only=True):
    """One action exactly as oned sent it.

    Attributes:
        action: the action's word.
        request: the values read from the message.
        message: the decoded XML document, as it came.
        dialect: OpenNebula's, which tells 5.12 and earlier releases from 6.0 and later ones.
    """

    action: str
    request: VmRequest
    message: bytes
    dialect: Dialect


@runtime_checkable
class VerbatimDriver(Protocol):
    """Carries out each action as oned sent it, without regard to intents, tags or listings."""

    name: str

    async def open(self) -> None:
        """Read files and prepare for actions. Called once, before any other method."""

    async def close(self) -> None:
        """End all running actions and their processes. Called once, last."""

    @property
    def is_busy(self) -> bool:
        """True while an action runs: the driver must not be closed for new settings then."""

    async def perform(self, request: VerbatimRequest, log: Callable[[str, str], None]) -> str:
        """Carry out the action and return the reply's payload. `log("I", text)` writes to the VM log (I, W, E or D).

        Any await may be cancelled, and nothing may be left running after it. Raises MadError with the sentence for the
        core.
        """
