"""The simulated cloud as a provider: a VM's template becomes parameters, an operand becomes a change."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from one_provider_mad.billing_tags import rendered
from one_provider_mad.domain import (
    DeployId,
    Identity,
    Instance,
    InstanceState,
    OwnedVm,
    SnapshotId,
    Template,
    VmId,
    VmRequest,
)
from one_provider_mad.errors import BadParameter, InstanceNotFound
from one_provider_mad.guest.choice import choose
from one_provider_mad.guest.user_data import user_data_for
from one_provider_mad.pricing.selection import AUTO, unknown_price_remark
from one_provider_mad.pricing.values import ON_DEMAND, Price, cheapest
from one_provider_mad.providers.interface import (
    Attached,
    Capacity,
    CheckResult,
    CloudImage,
    CloudNetwork,
    CreateCall,
    CreatePlan,
    ImportHints,
    InstanceType,
    Interruption,
    LoginPlace,
    Parameters,
    ProviderContext,
    ProviderFactory,
    Size,
    TypeWish,
)
from one_provider_mad.providers.mapped_images import mapped_image, root_disk
from one_provider_mad.providers.mapped_networks import leased_address, mapped_network
from one_provider_mad.providers.public_cloud import Section, read_section
from one_provider_mad.providers.simulated import capacity, operator_tools, prices
from one_provider_mad.providers.simulated.cloud import Cloud, Launch
from one_provider_mad.providers.simulated.guest_console import console_text
from one_provider_mad.providers.simulated.hardware import ADDRESS, PASSING_FACTS, SUBNET, Disk, Hardware
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from one_provider_mad.providers.simulated.table import INTERRUPTION, INTERRUPTION_SINCE
from one_provider_mad.providers.simulated.traffic import Traffic
from one_provider_mad.providers.type_wishes import (
    FILTERS,
    check_sizes,
    chosen,
    figure,
    filters_without_auto,
    first_choices,
    is_auto,
    number,
    wish_of,
)

TYPE = "PROVIDER_INSTANCE_TYPE"
"""Attribute with the names of the types to try, or `auto` for the cheapest that holds the VM."""

KNOWN_ATTRIBUTES = (
    *("TYPE", "HOST", "CLOUD", "NAME", "TAGS"),
    *("PROVIDER_IMAGE_ID", TYPE, "SPOT", "GUEST", "INTERRUPTED", *FILTERS),
)
"""All attributes of a PUBLIC_CLOUD section for this cloud."""

DEFAULT_IMAGE = "default"
"""The image of a VM that names none, in a cloud where every image exists."""

LONGEST_TOKEN = 64


class SimulatedProvider:
    """A client of the simulated cloud, with every optional capability.

    Args:
        context: names and directories.
        settings: the table `[simulated]`.
        clock: seconds since the epoch.
    """

    name: str = "simulated"
    is_create_repeatable: bool = True
    attribute_names: Collection[str] = (*PASSING_FACTS, INTERRUPTION, INTERRUPTION_SINCE)
    changeable_attributes: Collection[str] = frozenset({"PROVIDER_INSTANCE_TYPE"})

    def __init__(
        self, context: ProviderContext, settings: SimulatedSettings, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = Path(settings.database or context.state_directory / f"{context.name}.db")
        self.visibility_grace: float = settings.grace
        self.shortage_memory: float = settings.shortage_memory
        self.watch_interval: float = settings.watch_interval
        self.cloud = Cloud(self._path, settings, clock=clock)
        self._traffic = Traffic(settings, crashes=Path(f"{self._path}.crashes"), clock=clock, warn=context.warn)
        self._context = context
        self._hypervisor = context.hypervisor
        self._settings = settings
        self._offer = settings.offer
        self._prices = prices.Prices(settings, context.prices)

    async def open(self) -> None:
        """Open the database. Raises AuthenticationRefused when its account has another key."""
        await self.cloud.open()

    async def close(self) -> None:
        """Finish pending calls and close the database."""
        await self.cloud.close()

    async def account(self) -> str:
        """Return account and region from the settings."""
        return await self._traffic.call("account", self._credentials)

    async def _credentials(self) -> str:
        return f"{self._settings.account}/{self._settings.region}"

    def plan(self, request: VmRequest) -> CreatePlan:
        """Return one alternative for each type in PROVIDER_INSTANCE_TYPE, or the smallest type for CPU and MEMORY.

        With auto these are the cheapest types that hold the VM.
        """
        section = read_section(request, hypervisor=self._hypervisor)
        context, warnings = self._told(request, section)
        types, remarks = self._types(request, section)
        return CreatePlan(
            alternatives=tuple(self._parameters(request, section, name, context) for name in types),
            warnings=(*section.warnings, *section.unknown(KNOWN_ATTRIBUTES, cloud=self.name), *remarks, *warnings),
        )

    def chooses_type(self, request: VmRequest) -> bool:
        """Return True for PROVIDER_INSTANCE_TYPE=auto."""
        return is_auto(_names(read_section(request, hypervisor=self._hypervisor)), attribute=TYPE)

    def choice_attributes(self) -> Mapping[str, str]:
        """Return PROVIDER_INSTANCE_TYPE=auto."""
        return {TYPE: AUTO}

    def wish_of(self, request: VmRequest) -> TypeWish:
        """Return what the VM asks of its type."""
        section = read_section(request, hypervisor=self._hypervisor)
        return wish_of(request, section, permitted=self._context.permitted_types)

    def is_usual_type(self, kind: InstanceType) -> bool:
        """Return True: all types of this cloud are usual, but those with GPUs for VMs that ask for none."""
        return kind.is_current

    async def create(self, call: CreateCall) -> DeployId:
        """Create instance, tags and token in one transaction."""
        return await self._traffic.call("create", partial(self._create, call))

    async def _create(self, call: CreateCall) -> DeployId:
        if not (0 < len(call.token) <= LONGEST_TOKEN and call.token.isascii()):
            raise BadParameter(f"an idempotency token has 1 to {LONGEST_TOKEN} ASCII characters, not {call.token!r}")
        return await self.cloud.launch(_launch(call.parameters), tags=call.identity.tags(), token=call.token)

    async def start(self, deploy_id: DeployId) -> None:
        """Start a stopped or suspended instance."""
        await self._traffic.call("start", partial(self.cloud.start, deploy_id))

    async def stop(self, deploy_id: DeployId, *, hard: bool) -> None:
        """Stop a running instance; a hard stop takes no time, and ends a soft one early."""
        await self._traffic.call("stop", partial(self.cloud.stop, deploy_id, hard=hard))

    async def reboot(self, deploy_id: DeployId, *, hard: bool) -> None:  # noqa: ARG002 the cloud knows one kind
        """Reboot a running instance; soft and hard are the same here."""
        await self._traffic.call("reboot", partial(self.cloud.reboot, deploy_id))

    async def destroy(self, deploy_id: DeployId) -> None:
        """Terminate the instance."""
        await self._traffic.call("destroy", partial(self.cloud.terminate, deploy_id, reason="terminated on request"))

    async def retag(self, deploy_id: DeployId, identity: Identity) -> None:
        """Replace the instance's identity tags by those of `identity`."""
        await self._traffic.call("retag", partial(self.cloud.retag, deploy_id, identity.tags()))

    def wanted_tags(self, vm: OwnedVm) -> Mapping[str, str]:
        """Return the tags of `[tags]`: this cloud takes every text."""
        return rendered(self._context.tags, vm, owner=self._context.owner)

    async def write_tags(self, deploy_id: DeployId, tags: Mapping[str, str]) -> None:
        """Replace these tags; an empty one is removed."""
        await self._traffic.call("write_tags", partial(self.cloud.write_tags, deploy_id, tags))

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances in one query."""
        found = await self._list("describe", partial(self.cloud.describe, deploy_ids))
        return {instance.deploy_id: instance for instance in found}

    async def find(self, *, owner: str, vm_id: VmId) -> Sequence[Instance]:
        """Return every instance tagged with this owner and VM."""
        return await self._list("find", partial(self.cloud.find, owner=owner, vm_id=vm_id))

    async def list_instances(self) -> Sequence[Instance]:
        """Return every instance."""
        return await self._list("list_instances", self.cloud.list_instances)

    def instance_sizes(self) -> Mapping[str, Size]:
        """Return every instance type."""
        return capacity.sizes(self._settings)

    async def capacity(self) -> Capacity | None:
        """Return the limits of the settings, without a call to the cloud."""
        return capacity.limits(self._settings)

    def usual_rooms(self, types: Collection[str]) -> Collection[str]:
        """Return the types of `[capacity]`, else all: a VM without a wish may get any of them, as its size demands."""
        return types or self._offer.types.keys()

    def room_of(self, request: VmRequest, parameters: Parameters) -> str:  # noqa: ARG002 the type is all
        """Return the instance type."""
        return str(parameters["type"])

    async def read_prices(self, instances: Collection[Instance]) -> None:
        """Read nothing: the settings have all prices."""

    def price_of(self, instance: Instance, *, state: InstanceState | None = None) -> Price:
        """Return what an instance costs in its state, or in another one."""
        return self._prices.of_instance(instance, state or instance.state)

    def kind_of(self, instance: Instance) -> tuple[str, str]:
        """Return the instance's type and market."""
        return prices.kind_of(instance)

    def type_of_create(self, parameters: Parameters) -> str:
        """Return the instance type."""
        return _launch(parameters).type

    def price_of_create(self, parameters: Parameters) -> Price:
        """Return what the instance will cost while it runs."""
        return self._prices.of_launch(_launch(parameters))

    def price_of_disk(self, disk: Mapping[str, str]) -> Price:
        """Return what a disk of its SIZE costs."""
        return self._prices.of_disk(_disk(disk).size)

    def price_of_resize(self, instance: Instance, request: VmRequest) -> Price:
        """Return what the instance will cost with the type that `resize` gives it."""
        facts = {**instance.attributes, "SIM_INSTANCE_TYPE": self._resized(request)[0]}
        return self._prices.of_instance(msgspec.structs.replace(instance, attributes=facts), InstanceState.RUNNING)

    def disk_size(self, parameters: Parameters) -> float | None:
        """Return the GiB of all disks."""
        return sum(disk.size for disk in _launch(parameters).disks.values()) / prices.MIB_PER_GIB

    async def read_types(self) -> None:
        """Read nothing: the settings have all types."""

    def instance_types(self) -> Mapping[str, InstanceType]:
        """Return every instance type."""
        return prices.instance_types(self._settings)

    def price_of_type(self, name: str, *, market: str) -> Price:
        """Return what a running instance of a type costs, without disks and address."""
        return self._prices.of_type(name, market)

    def usual_price(self, types: Collection[str]) -> Price:
        """Return the price of the cheapest of these types, or of all."""
        names = types or self._offer.types
        return cheapest(self._prices.of_type(name, ON_DEMAND) for name in names)

    async def check(self) -> Sequence[CheckResult]:
        """Check the database, and how many instances the limits still allow."""
        return list(capacity.check(self._settings, self._path, await self.list_instances()))

    def import_hints(self, instance: Instance) -> ImportHints:
        """Return the template values of a VM that imports the instance, from its attributes."""
        return capacity.import_hints(instance)

    def interruption(self, instance: Instance) -> Interruption | None:
        """Return how the cloud took back an instance; None for one that it did not."""
        since = instance.attributes.get(INTERRUPTION_SINCE)
        if not since or not instance.state.is_gone:
            return None
        return Interruption(reason=instance.reason, at=datetime.fromisoformat(since).timestamp())

    def lasting(self, alternatives: Sequence[Parameters]) -> Sequence[Parameters]:
        """Return all alternatives: any instance may be taken back, by order alone (`Cloud.interrupt`)."""
        return alternatives

    async def suspend(self, deploy_id: DeployId) -> None:
        """Suspend a running instance."""
        await self._traffic.call("suspend", partial(self.cloud.suspend, deploy_id))

    async def create_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> SnapshotId:
        """Take a snapshot of the disks; its id follows from SNAPSHOT_ID, so a repeated call makes no second one."""
        snapshot_id = SnapshotId(f"snap-{_needed(snapshot, 'SNAPSHOT_ID')}")
        await self._rework("create_snapshot", deploy_id, lambda hardware: hardware.take_snapshot(snapshot_id))
        return snapshot_id

    async def revert_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> None:
        """Revert the disks to a snapshot."""
        snapshot_id = _needed(snapshot, "HYPERVISOR_ID")
        await self._rework("revert_snapshot", deploy_id, lambda hardware: hardware.revert_snapshot(snapshot_id))

    async def delete_snapshot(self, deploy_id: DeployId, snapshot: Mapping[str, str]) -> None:
        """Delete a snapshot."""
        snapshot_id = _needed(snapshot, "HYPERVISOR_ID")
        await self._rework("delete_snapshot", deploy_id, lambda hardware: hardware.delete_snapshot(snapshot_id))

    async def attach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Add a disk."""
        disk_id = _needed(disk, "DISK_ID")
        await self._rework("attach_disk", deploy_id, lambda hardware: hardware.attach_disk(disk_id, _disk(disk)))

    async def detach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Remove a disk."""
        disk_id = _needed(disk, "DISK_ID")
        await self._rework("detach_disk", deploy_id, lambda hardware: hardware.detach_disk(disk_id))

    async def create_disk_snapshot(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Take a snapshot of one disk."""
        disk_id = _needed(disk, "DISK_ID")
        await self._rework("create_disk_snapshot", deploy_id, lambda hardware: hardware.snapshot_disk(disk_id))

    async def revert_disk_snapshot(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Revert one disk to its latest snapshot."""
        disk_id = _needed(disk, "DISK_ID")
        await self._rework("revert_disk_snapshot", deploy_id, lambda hardware: hardware.revert_disk(disk_id))

    async def resize_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Enlarge a disk."""
        disk_id, size = _needed(disk, "DISK_ID"), int(number(_needed(disk, "SIZE"), name="SIZE"))
        await self._rework("resize_disk", deploy_id, lambda hardware: hardware.resize_disk(disk_id, size))

    async def attach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Add an interface."""
        nic_id = _needed(nic, "NIC_ID")
        await self._rework("attach_nic", deploy_id, lambda hardware: hardware.attach_nic(nic_id, self._nic(nic)))

    async def detach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Remove an interface."""
        nic_id = _needed(nic, "NIC_ID")
        await self._rework("detach_nic", deploy_id, lambda hardware: hardware.detach_nic(nic_id))

    async def resize(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Set the CPU and MEMORY of the request's template, and the smallest type that is as large."""
        kind, cpu, memory = self._resized(request)
        await self._traffic.call("resize", partial(self.cloud.resize, deploy_id, kind, cpu=cpu, memory=memory))

    async def attached(self, deploy_id: DeployId) -> Attached:
        """Return all disks and interfaces of the instance: in this cloud all are made for VMs."""
        facts = (await self.describe([deploy_id]))[deploy_id].attributes
        disks = [each.partition(":")[0] for each in facts.get("SIM_DISKS", "").split(",")]
        return Attached(
            disks=frozenset(filter(None, disks)), nics=frozenset(filter(None, facts.get("SIM_NICS", "").split(",")))
        )

    def section_of(self, request: VmRequest) -> Mapping[str, str]:
        """Return the attributes of the VM's own section."""
        return read_section(request, hypervisor=self._hypervisor).known(KNOWN_ATTRIBUTES)

    async def reconfigure(self, deploy_id: DeployId, request: VmRequest, name: str) -> None:
        """Give a stopped instance the first type in the section."""
        if name not in self.changeable_attributes:
            raise BadParameter(f"{name} counts only when an instance is created: recreate the VM")
        kind = self._types(request, read_section(request, hypervisor=self._hypervisor))[0][0]
        await self._traffic.call("resize", partial(self.cloud.change_type, deploy_id, kind))

    async def update_context(self, deploy_id: DeployId, request: VmRequest) -> Sequence[str]:
        """Replace the context."""
        context, warnings = self._told(request, read_section(request, hypervisor=self._hypervisor))
        await self._rework("update_context", deploy_id, lambda hardware: hardware.update_context(context))
        return warnings

    async def update_security_group(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Apply the group's present rules."""
        group_id = request.security_group_id
        rules = request.template.vectors("SECURITY_GROUP_RULE")
        count = sum(rule.get("SECURITY_GROUP_ID") == group_id for rule in rules)
        await self._rework("update_security_group", deploy_id, lambda hardware: hardware.apply_rules(group_id, count))

    async def update_nic(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Give the network's interfaces their present attributes."""
        network_id = request.virtual_network_id
        nics = [nic for nic in request.template.vectors("NIC") if nic.get("NETWORK_ID") == network_id]
        await self._rework("update_nic", deploy_id, lambda hardware: hardware.update_nics(_by_id(nics, "NIC_ID")))

    async def images(self, match: str) -> Sequence[CloudImage]:
        """Return the images of the settings, or the one of VMs that name none."""
        return operator_tools.images(self._offer.images or (DEFAULT_IMAGE,), match)

    async def networks(self) -> Sequence[CloudNetwork]:
        """Return one network, which any VM may name."""
        return operator_tools.networks()

    async def obstacles(self, deploy_id: DeployId, *, has_key: bool | None) -> Sequence[CheckResult]:
        """Check the instance's state, and the VM's key."""
        return list(operator_tools.obstacles(await self._one(deploy_id), has_key=has_key))

    async def login_place(self, deploy_id: DeployId) -> LoginPlace:
        """Return no address: there is nothing to log in to."""
        await self._one(deploy_id)
        return LoginPlace()

    async def console_text(self, deploy_id: DeployId) -> str:
        """Return what a guest with cloud-init would write, once the instance runs."""
        return console_text(await self._one(deploy_id), await self.cloud.user_data(deploy_id))

    async def _one(self, deploy_id: DeployId) -> Instance:
        found = (await self.describe([deploy_id])).get(deploy_id)
        if found is None:
            raise InstanceNotFound(f"instance {deploy_id} does not exist")
        return found

    async def _list(self, name: str, send: Callable[[], Awaitable[Sequence[Instance]]]) -> Sequence[Instance]:
        return self._traffic.shown(name, await self._traffic.call(name, send))

    async def _rework(self, name: str, deploy_id: DeployId, change: Callable[[Hardware], Hardware]) -> None:
        await self._traffic.call(name, partial(self.cloud.rework, deploy_id, change))

    def _resized(self, request: VmRequest) -> tuple[str, float, int]:
        """Return type, cores and MiB of an instance after a resize."""
        template = request.template
        cpu, memory = max(figure(template, "CPU"), figure(template, "VCPU")), _memory(request)
        return self._offer.smallest(cpu=cpu, memory=memory), cpu, int(memory)

    def _types(self, request: VmRequest, section: Section) -> tuple[Sequence[str], tuple[str, ...]]:
        """Return the types to try, each once, in order, and sentences about them for the VM's log."""
        names, types = _names(section), self.instance_types()
        if is_auto(names, attribute=TYPE):
            markets = (_market(section) or ON_DEMAND,)
            wish = wish_of(request, section, permitted=self._context.permitted_types)
            found = chosen(types, wish, self._price, markets=markets, usual=self.is_usual_type, cloud=self.name)
            remark = unknown_price_remark(found)
            return [each.type.name for each in first_choices(found)], ((remark,) if remark else ())
        remarks = check_sizes(request, names, types, mode=self._context.size_check)
        asked = names or [self._offer.smallest(cpu=figure(request.template, "CPU"), memory=_memory(request))]
        return asked, (*filters_without_auto(section), *remarks)

    def _price(self, name: str, market: str) -> Price:
        return self.price_of_type(name, market=market)

    def _told(self, request: VmRequest, section: Section) -> tuple[str, tuple[str, ...]]:
        """Return the context that the instance shows, and sentences about attributes without effect in a real guest."""
        program = choose(
            request,
            in_section=section.text("GUEST"),
            is_cloud_init=None,
            image=mapped_image(root_disk(request), self._context).guest,
            settings=self._context.mappings.context,
        )
        if program == "unset":
            return _context(request.template), ()
        made = user_data_for(request, program, limit=sys.maxsize)
        return made.data.decode(errors="backslashreplace"), made.warnings

    def _parameters(self, request: VmRequest, section: Section, type_name: str, context: str) -> Parameters:
        size = self._offer.size(type_name)
        mapped = mapped_image(root_disk(request), self._context).image
        image = section.text("PROVIDER_IMAGE_ID") or mapped or (self._offer.images or (DEFAULT_IMAGE,))[0]
        self._offer.check_image(image)
        disks = _by_id(request.template.vectors("DISK"), "DISK_ID")
        nics = _by_id(request.template.vectors("NIC"), "NIC_ID")
        launch = Launch(
            type=type_name,
            image=image,
            name=section.text("NAME") or request.name or f"one-{request.vm_id}",
            cpu=size.cpu,
            memory=size.memory,
            tags={**section.tags, **self.wanted_tags(request.owned_vm)},
            context=context,
            disks={disk_id: _disk(disk) for disk_id, disk in disks.items()},
            nics={nic_id: self._nic(nic) for nic_id, nic in nics.items()},
            market=_market(section),
        )
        parameters: dict[str, object] = msgspec.json.decode(msgspec.json.encode(launch))
        if not launch.market:
            del parameters["market"]  # releases without a spot market read this, too
        return parameters

    def _nic(self, nic: Mapping[str, str]) -> dict[str, str]:
        """Return a NIC with the subnet of its mapped network, and the leased address where it is asked for."""
        network = mapped_network(nic, self._context)
        if network is None or not network.subnets:
            return dict(nic)
        address = leased_address(nic) if network.addresses == "opennebula" else ""
        return {**nic, SUBNET: network.subnets[0], **({ADDRESS: address} if address else {})}


class SimulatedFactory:
    """Makes providers for the table `[simulated]`."""

    settings_type: type[msgspec.Struct] = SimulatedSettings
    costs_money: bool = False
    resizes_live: bool = True

    def __call__(self, context: ProviderContext, settings: SimulatedSettings) -> SimulatedProvider:
        """Build a provider; the file is not touched before `open`."""
        return SimulatedProvider(context, settings)


factory: ProviderFactory = SimulatedFactory()


def _launch(parameters: Parameters) -> Launch:
    """Return the parameters of a create, typed."""
    try:
        return msgspec.convert(parameters, Launch)
    except msgspec.ValidationError as error:
        raise BadParameter(f"the create parameters are not valid for the simulated cloud: {error}") from error


def _market(section: Section) -> Literal["", "spot"]:
    """Return the market that SPOT=YES or NO asks for."""
    wish = section.text("SPOT", "NO").upper()
    if wish not in ("YES", "NO"):
        raise BadParameter(f"SPOT={wish[:40]} of the PUBLIC_CLOUD section is neither YES nor NO")
    return "spot" if wish == "YES" else ""


def _needed(operand: Mapping[str, str], name: str) -> str:
    value = operand.get(name, "")
    if not value:
        raise BadParameter(f"{name} is missing: nothing was done")
    return value


def _names(section: Section) -> list[str]:
    """Return the types that the section names, each once, in order."""
    return list(dict.fromkeys(filter(None, (name.strip() for name in section.text(TYPE).split(",")))))


def _memory(request: VmRequest) -> float:
    return figure(request.template, "MEMORY")


def _disk(disk: Mapping[str, str]) -> Disk:
    return Disk(size=int(number(disk.get("SIZE") or "0", name="SIZE")), target=disk.get("TARGET", ""))


def _by_id(operands: Sequence[Mapping[str, str]], name: str) -> dict[str, Mapping[str, str]]:
    return {operand[name]: operand for operand in operands if operand.get(name)}


def _context(template: Template) -> str:
    """Return CONTEXT as lines for a shell, and for upstream's context scripts."""
    return "\n".join(
        f"{name}={shlex.quote(value)}" for vector in template.vectors("CONTEXT") for name, value in vector.items()
    )
