"""A partner's OpenNebula as a provider: every action becomes a call of the partner's API.

There is no idempotency token: `is_create_repeatable` is False, and the VM of an unanswered create is found by its
tags, which are part of the create.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

import msgspec

from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, OwnedVm, VmId, VmRequest, whole_number
from one_provider_mad.errors import (
    BadParameter,
    NotReached,
    NotSupported,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
)
from one_provider_mad.pricing.values import Price
from one_provider_mad.providers.interface import (
    Capacity,
    CheckResult,
    CloudImage,
    CloudNetwork,
    CreateCall,
    CreatePlan,
    ImportHints,
    LoginPlace,
    Parameters,
    ProviderContext,
    ProviderFactory,
    Size,
)
from one_provider_mad.providers.opennebula import capacity, catalogue
from one_provider_mad.providers.opennebula.checks import Checks
from one_provider_mad.providers.opennebula.costs import COSTS, number
from one_provider_mad.providers.opennebula.devices import Devices
from one_provider_mad.providers.opennebula.launch import (
    KNOWN_ATTRIBUTES,
    SIZE,
    Launch,
    merged_context,
    merged_disks,
    plan_launch,
    tags_of,
    wanted_tags,
    write_attributes,
    write_extra,
    write_identity,
    write_whole,
)
from one_provider_mad.providers.opennebula.listing import Listing
from one_provider_mad.providers.opennebula.machine import (
    ADDRESS,
    ADDRESSES,
    DISK_SIZE,
    FACT,
    UPSTREAM_ATTRIBUTE,
    ListedVm,
    deploy_id_of,
    number_of,
)
from one_provider_mad.providers.opennebula.prices import Prices, kind_of
from one_provider_mad.providers.opennebula.remote import TERMINATE, Remote, known_number
from one_provider_mad.providers.opennebula.settings import OpenNebulaSettings
from one_provider_mad.providers.opennebula.templates import Templates
from one_provider_mad.providers.public_cloud import read_section
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

_MYSELF = -1

_ONEADMIN = "0"
"""Number of the group oneadmin."""

_KEEP_OWNER = -1
"""Owner in `one.vm.chown` that leaves the owner unchanged."""

_MERGE = 1
"""Mode of `one.vm.update` that adds attributes, and replaces those of the same name."""

_STOPPED = frozenset({InstanceState.STOPPING, InstanceState.STOPPED, InstanceState.SUSPENDING, InstanceState.SUSPENDED})
_STARTED = frozenset({InstanceState.RUNNING, InstanceState.PENDING})
_GONE = frozenset({InstanceState.TERMINATING, InstanceState.TERMINATED})


class OpenNebulaProvider(Devices):
    """A client of one partner OpenNebula.

    Args:
        context: names and directories.
        settings: the table `[opennebula]`.
    """

    name: str = "opennebula"
    is_create_repeatable: bool = False
    attribute_names: Collection[str] = (ADDRESS, ADDRESSES, f"{FACT}{DISK_SIZE}", *(f"{FACT}{name}" for name in COSTS))
    changeable_attributes: Collection[str] = frozenset({*SIZE, "TAGS", "NAME", "GROUP"})

    def __init__(self, context: ProviderContext, settings: OpenNebulaSettings) -> None:
        super().__init__(Remote(settings), context)
        self.visibility_grace: float = settings.visibility_grace
        self.watch_interval: float = settings.watch_interval
        self._settings = settings
        self._hypervisor = context.hypervisor
        self._warn = context.warn
        self._client = self._remote.client
        self._listing = Listing(self._remote, owner=context.owner, warn=context.warn)
        self._prices = Prices(self._remote, context.prices, warn=context.warn)
        self._templates = Templates(self._client, page_size=settings.page_size)

    async def open(self) -> None:
        """Read the credentials and ask the partner for its release."""
        await self._remote.open()
        await self._remote.version()

    async def close(self) -> None:
        """Close all connections."""
        await self._listing.close()
        await self._remote.close()

    async def account(self) -> str:
        """Return the remote user by name and number, the first front-end's URL, and the zone if it is known."""
        user = _user(await self._myself())
        zone = await self._zone()
        return f"{user} at {self._settings.endpoints[0]}" + (f", zone {zone}" if zone else "")

    async def _myself(self) -> Element:
        user = await self._client.read("one.user.info", _MYSELF, False, read=_whole)  # noqa: FBT003 - as the API has it
        groups = {text_of(each).strip() for each in elements_at(user, "GROUPS/ID")}
        self._remote.user_id = 0 if _ONEADMIN in groups else whole_number(text_of(user.find("ID")).strip()) or 0
        return user

    async def _zone(self) -> str:
        """Return the zone's name and number; "" if the user may not see it, or in a federation that does not tell."""
        endpoints = self._settings.endpoints
        try:
            return await self._client.read("one.zonepool.info", read=lambda pool: _zone(pool, endpoints))
        except (PermissionDenied, NotSupported):
            return ""

    def plan(self, request: VmRequest) -> CreatePlan:
        """Return one alternative: the remote template of the PUBLIC_CLOUD section or of the configuration."""
        section = read_section(request, hypervisor=self._hypervisor)
        launch, warnings = plan_launch(request, section, self._settings, self._context)
        parameters: Parameters = msgspec.json.decode(msgspec.json.encode(launch))
        unknown = section.unknown(KNOWN_ATTRIBUTES, cloud=self.name)
        return CreatePlan(alternatives=(parameters,), warnings=(*section.warnings, *unknown, *warnings))

    async def create(self, call: CreateCall) -> DeployId:
        """Instantiate the template, or allocate from the text; the tags are in the same call."""
        launch = _launch(call.parameters)
        number = await (self._allocate(launch, call) if launch.text else self._instantiate(launch, call))
        self._listing.remember(number, call.identity)
        if launch.group:
            await self._give_to_group(number, launch.group)
        return deploy_id_of(number)

    async def _instantiate(self, launch: Launch, call: CreateCall) -> int:
        try:
            template = await self._templates.number(launch.template)
            context: Mapping[str, str] = launch.context
            if launch.is_context_merged and context:
                context = merged_context(await self._templates.context(template), context)
            disks = await self._disks(launch, template)
            is_new = await self._remote.version() >= TERMINATE
        except ProviderUnavailable as error:
            raise NotReached(f"nothing was created: {error}") from error
        persistent = (False,) if is_new else ()  # an argument since 5.0

        async def send(several: Sequence[Mapping[str, str]]) -> int:
            extra = write_extra(launch, call.identity, context, several)
            return _number(
                await self._client.call(
                    "one.template.instantiate",
                    template,
                    launch.name,
                    launch.hold,
                    extra,
                    *persistent,
                    is_repeatable=False,
                )
            )

        try:
            return await send(disks)
        except PermissionDenied as error:
            if not disks:
                raise
            # VM_RESTRICTED_ATTR of the partner may have an attribute of DISK.
            self._warn(f"VM {call.identity.vm_id} has only the disks of its remote template: {error}")
            return await send(())

    async def _disks(self, launch: Launch, template: int) -> list[dict[str, str]]:
        """Return the DISKs to send with the create; none if those of the remote template serve."""
        if not launch.disks and not launch.root_size:
            return []
        sizes = await self._templates.disk_sizes(template) if launch.root_size else []
        return merged_disks(launch, await self._templates.disks(template), sizes)

    async def _allocate(self, launch: Launch, call: CreateCall) -> int:
        text = write_whole(launch, call.identity)
        return _number(await self._client.call("one.vm.allocate", text, launch.hold, is_repeatable=False))

    async def _give_to_group(self, number: int, group: str) -> None:
        """Give the remote VM to its group; a failure is only a warning, since the VM exists by now."""
        try:
            await self._client.call("one.vm.chown", number, _KEEP_OWNER, await self._group(group))
        except ProviderError as error:
            self._warn(f"instance {deploy_id_of(number)} stays in the remote user's own group, not {group}: {error}")

    async def _group(self, group: str) -> int:
        if (number := whole_number(group)) is not None:
            return number
        found = await self._client.read("one.grouppool.info", read=lambda pool: _group_number(pool, group))
        if found is None:
            raise BadParameter(f"the partner has no group {group!r} that the remote user can see")
        return found

    async def start(self, deploy_id: DeployId) -> None:
        """Resume a VM that is off, suspended or lost; release one that is on hold."""
        number = known_number(deploy_id)
        seen = await self._remote.look_up(number)
        if seen.state.word == "HOLD":
            await self._remote.act(number, "release", is_done=_is(_STARTED))
        elif seen.instance.state not in _STARTED:
            await self._remote.act(number, "resume", is_done=_is(_STARTED))

    async def stop(self, deploy_id: DeployId, *, hard: bool) -> None:
        """Power a VM off; a hard stop also ends a soft one that hangs, if the release can."""
        action = "poweroff-hard" if hard else "poweroff"
        await self._remote.act(known_number(deploy_id), action, is_done=_is(_STOPPED))

    async def reboot(self, deploy_id: DeployId, *, hard: bool) -> None:
        """Reboot a running VM."""
        number = known_number(deploy_id)
        await self._remote.act(number, "reboot-hard" if hard else "reboot", is_done=lambda _: False)

    async def park(self, deploy_id: DeployId, *, hard: bool, keeps_memory: bool) -> None:
        """Undeploy a VM, or stop it with its memory: either frees the partner's host."""
        action = "stop" if keeps_memory else "undeploy-hard" if hard else "undeploy"
        await self._remote.act(known_number(deploy_id), action, is_done=_is(_STOPPED))

    async def shut_down(self, deploy_id: DeployId) -> None:
        """Terminate a VM softly, unless the settings say otherwise."""
        if self._settings.terminate == "hard":
            await self.destroy(deploy_id)
            return
        await self._end(known_number(deploy_id), "terminate", "shutdown")

    async def destroy(self, deploy_id: DeployId) -> None:
        """Terminate a VM without asking its guest; ends a soft termination that hangs, if the release can."""
        await self._end(known_number(deploy_id), "terminate-hard", "delete")

    async def _end(self, number: int, action: str, before_5: str) -> None:
        is_new = await self._remote.version() >= TERMINATE
        await self._remote.act(number, action if is_new else before_5, is_done=_is(_GONE))

    async def retag(self, deploy_id: DeployId, identity: Identity) -> None:
        """Replace the identity in the VM's USER_TEMPLATE in one call."""
        number = known_number(deploy_id)
        await self._client.call("one.vm.update", number, write_identity(identity), _MERGE)
        self._listing.remember(number, identity)

    def wanted_tags(self, vm: OwnedVm) -> Mapping[str, str]:
        """Return the tags of `[tags]` for a VM as attributes of the remote VM."""
        return wanted_tags(vm, self._context)

    async def write_tags(self, deploy_id: DeployId, tags: Mapping[str, str]) -> None:
        """Replace these attributes of the remote VM's USER_TEMPLATE."""
        await self._client.call("one.vm.update", known_number(deploy_id), write_attributes(tags), _MERGE)

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these VMs: those with near numbers in one call, the others one by one."""
        numbers = {number for each in deploy_ids if (number := number_of(each)) is not None}
        found = await self._listing.by_number(numbers)
        return {seen.instance.deploy_id: seen.instance for seen in found.values()}

    async def find(self, *, owner: str, vm_id: VmId) -> Sequence[Instance]:
        """Return every VM with tags of this owner and VM; of terminated ones those listed or made by this process.

        Not every database can search by attribute (src/rm/RequestManagerPoolInfoFilter.cc), so all VMs are listed, once
        for all callers at a time.
        """
        return [seen.instance for seen in await self._listing.tagged(owner=owner, vm_id=vm_id)]

    async def list_instances(self) -> Sequence[Instance]:
        """Return every VM that `visible` of the settings includes, but not the many terminated ones."""
        return [seen.instance for seen in (await self._listing.everything()).vms.values()]

    def upstream_vm_id(self, instance: Instance) -> VmId | None:
        """Return the VM in the tag of upstream's driver, if `adopt_upstream` is set and no tag is ours."""
        number = whole_number(instance.attributes.get(UPSTREAM_ATTRIBUTE, ""))
        if not self._settings.adopt_upstream or instance.identity is not None or number is None or number < 0:
            return None
        return VmId(number)

    async def check(self) -> Sequence[CheckResult]:
        """Check release, clock, default template, free quotas, and whether hosts are visible."""
        return await Checks(self._remote, self._templates).run()

    async def images(self, match: str) -> Sequence[CloudImage]:
        """Return the templates that the remote user may use."""
        return await catalogue.images(self._client, match, page_size=self._settings.page_size)

    async def networks(self) -> Sequence[CloudNetwork]:
        """Return the virtual networks that the remote user may use."""
        return await catalogue.networks(self._client, page_size=self._settings.page_size)

    async def obstacles(self, deploy_id: DeployId, *, has_key: bool | None) -> Sequence[CheckResult]:
        """Check state, address and key of the remote VM."""
        machine = await self._remote.machine(known_number(deploy_id))
        return list(catalogue.obstacles(machine, has_key=has_key))

    async def login_place(self, deploy_id: DeployId) -> LoginPlace:
        """Return the address of the remote VM."""
        return LoginPlace(address=catalogue.address_of(await self._remote.machine(known_number(deploy_id))))

    # Edited sections

    def section_of(self, request: VmRequest) -> Mapping[str, str]:
        """Return the attributes of the VM's own section."""
        return read_section(request, hypervisor=self._hypervisor).known(KNOWN_ATTRIBUTES)

    async def resize(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Set CPU, VCPU and MEMORY of the remote VM, each from PUBLIC_CLOUD, else from the VM's template.

        Raises:
            BadParameter: no value comes from the VM's template.
        """
        await self._set_size(known_number(deploy_id), self._wanted_size(request))

    def _wanted_size(self, request: VmRequest) -> dict[str, str]:
        """Return CPU, VCPU and MEMORY after a resize. Raises BadParameter."""
        section = read_section(request, hypervisor=self._hypervisor)
        if self._settings.capacity_from == "template" or all(section.text(name) for name in SIZE):
            raise BadParameter(
                "the VM's own size has no effect (capacity_from, or its PUBLIC_CLOUD section has another):"
                " set CPU, VCPU and MEMORY in PUBLIC_CLOUD"
            )
        return {name: section.text(name) or request.template.text(name).strip() for name in SIZE}

    async def reconfigure(self, deploy_id: DeployId, request: VmRequest, name: str) -> None:
        """Apply an edited size, tags, name or group.

        Raises:
            BadParameter: it counts at a create only, or its value is not valid.
        """
        number, section = known_number(deploy_id), read_section(request, hypervisor=self._hypervisor)
        value = section.text(name)
        if name in SIZE and (value or self._settings.capacity_from == "vm"):
            await self._set_size(number, {name: value or request.template.text(name).strip()})
        elif name == "TAGS" and (tags := tags_of(section)):
            of_bill = self.wanted_tags(request.owned_vm)
            await self.write_tags(deploy_id, {name: text for name, text in tags.items() if name not in of_bill})
        elif name == "NAME" and value:
            await self._client.call("one.vm.rename", number, value)
        elif name == "GROUP" and value:
            await self._client.call("one.vm.chown", number, _KEEP_OWNER, await self._group(value))
        else:
            raise BadParameter(f"{name} counts only when the remote VM is created, or is gone from the section")

    # Prices

    async def read_prices(self, instances: Collection[Instance]) -> None:  # noqa: ARG002 their costs are in the listing
        """Read the partner's DEFAULT_COST, and the costs and disks of its templates."""
        await self._prices.read()

    def price_of(self, instance: Instance, *, state: InstanceState | None = None) -> Price:
        """Return what a remote VM costs in its state, or in another one: POWEROFF, not UNDEPLOYED."""
        return self._prices.of_instance(instance, state)

    def kind_of(self, instance: Instance) -> tuple[str, str]:
        """Return the remote template, `template-7`, and the market."""
        return kind_of(instance)

    def type_of_create(self, parameters: Parameters) -> str:
        """Return the remote template as the VM names it: `template-7`, or its name; "" for a template as text."""
        template = _launch(parameters).template
        return f"template-{template}" if whole_number(template) is not None else template

    def price_of_create(self, parameters: Parameters) -> Price:
        """Return what the remote VM will cost while it runs."""
        return self._prices.of_launch(_launch(parameters))

    def price_of_disk(self, disk: Mapping[str, str]) -> Price:
        """Return what a DISK of its SIZE costs by DEFAULT_COST; a remote VM may have another DISK_COST."""
        return self._prices.of_disk(number(disk.get("SIZE", "")))

    def price_of_resize(self, instance: Instance, request: VmRequest) -> Price:
        """Return what the remote VM will cost while it runs. Raises BadParameter where a resize has no effect."""
        return self._prices.of_size(instance, self._wanted_size(request))

    def disk_size(self, parameters: Parameters) -> float | None:
        """Return the GiB of all disks; None when unknown."""
        size = self._prices.disk_size(_launch(parameters))
        return None if size is None else size / 1024

    def usual_price(self, types: Collection[str]) -> Price:  # noqa: ARG002 a partner has none
        """Return what a VM of the default template costs, else of the cheapest one, without disks."""
        return self._prices.usual(self._settings.template)

    # Monitoring

    def instance_sizes(self) -> Mapping[str, Size]:
        """Return none: a remote VM has the size that its template asks for."""
        return {}

    async def capacity(self) -> Capacity | None:
        """Return the tightest quotas of the remote user and its group, else the capacity of all visible hosts."""
        user = await self._myself()
        try:
            group: Element | None = await self._client.read("one.group.info", _MYSELF, read=_whole)
        except PermissionDenied:
            group = None
        hosts: capacity.Share | None = None
        if not capacity.is_limited(user, group):
            with suppress(PermissionDenied):
                hosts = await self._client.read("one.hostpool.info", read=capacity.hosts_share)
        return capacity.free_capacity(user, group, hosts)

    def listing_warnings(self) -> Sequence[str]:
        """Return warnings for remote VMs of ours that the partner gave to another of its users."""
        return self._listing.warnings()

    def import_hints(self, instance: Instance) -> ImportHints:
        """Return the template values of a VM that imports the remote VM, from its attributes."""
        return capacity.import_hints(instance)


class OpenNebulaFactory:
    """Makes providers for the table `[opennebula]`."""

    settings_type: type[msgspec.Struct] = OpenNebulaSettings
    costs_money: bool = True
    resizes_live: bool = True

    def __call__(self, context: ProviderContext, settings: OpenNebulaSettings) -> OpenNebulaProvider:
        """Build a provider; nothing is read or sent before `open`."""
        return OpenNebulaProvider(context, settings)


factory: ProviderFactory = OpenNebulaFactory()


def _launch(parameters: Parameters) -> Launch:
    """Return the parameters of a create, typed."""
    try:
        return msgspec.convert(parameters, Launch)
    except msgspec.ValidationError as error:
        raise BadParameter(f"the create parameters are not valid for a partner OpenNebula: {error}") from error


def _is(states: frozenset[InstanceState]) -> Callable[[ListedVm], bool]:
    return lambda seen: seen.instance.state in states


def _whole(document: Element) -> Element:
    return document


def _number(result: object) -> int:
    """Return the new VM's number."""
    if isinstance(result, bool) or not isinstance(result, int):
        raise ProviderUnavailable(f"the partner has answered a create with {result!r} instead of a number")
    return result


def _user(user: Element) -> str:
    return f"{text_of(user.find('NAME'))} ({text_of(user.find('ID'))})"


def _zone(pool: Element, endpoints: Sequence[str]) -> str:
    zones = {zone: text_of(element_at(zone, "TEMPLATE/ENDPOINT")).strip() for zone in pool.iterfind("ZONE")}
    ours = [zone for zone, endpoint in zones.items() if len(zones) == 1 or endpoint in endpoints]
    return f"{text_of(ours[0].find('NAME'))} ({text_of(ours[0].find('ID'))})" if len(ours) == 1 else ""


def _group_number(pool: Element, name: str) -> int | None:
    for group in pool.iterfind("GROUP"):
        if text_of(group.find("NAME")) == name:
            return whole_number(text_of(group.find("ID")).strip())
    return None
