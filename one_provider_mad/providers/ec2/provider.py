"""Amazon EC2 as a provider: each method makes one call; the driver does all waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial

import msgspec

from one_provider_mad.domain import (
    TAG_PREFIX,
    DeployId,
    Identity,
    Instance,
    InstanceState,
    OwnedVm,
    VmId,
    VmRequest,
    whole_number,
)
from one_provider_mad.errors import (
    BadParameter,
    NoCapacity,
    NotReached,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    TokenSpent,
    WrongState,
)
from one_provider_mad.listings import by_id
from one_provider_mad.pricing.book import PriceBook
from one_provider_mad.pricing.selection import AUTO
from one_provider_mad.pricing.values import ON_DEMAND, UNKNOWN, Price, cheapest
from one_provider_mad.providers.ec2 import billing, catalogue, console, reach, rooms, sizes, template, type_choice
from one_provider_mad.providers.ec2.attributes import words
from one_provider_mad.providers.ec2.changes import Changes
from one_provider_mad.providers.ec2.checks import Checks
from one_provider_mad.providers.ec2.client import MOST_VALUES, Client, read_account
from one_provider_mad.providers.ec2.cloudwatch import DISK_NAMES, CloudWatch
from one_provider_mad.providers.ec2.context import depends_on_tag
from one_provider_mad.providers.ec2.disks import Disks
from one_provider_mad.providers.ec2.gathered import Gathered, grouped
from one_provider_mad.providers.ec2.group_rules import group_numbers, rule_warnings
from one_provider_mad.providers.ec2.groups import Groups
from one_provider_mad.providers.ec2.image_disks import ImageLookup
from one_provider_mad.providers.ec2.instances import (
    LISTED_NAMES,
    STATE_REASON,
    UPSTREAM_ATTRIBUTE,
    read_changed,
    read_instances,
    read_launched,
)
from one_provider_mad.providers.ec2.interfaces import Interfaces
from one_provider_mad.providers.ec2.launch import SPOT, Launch, read_launch, run_instances
from one_provider_mad.providers.ec2.launch_disks import NO_DISKS, further_volumes
from one_provider_mad.providers.ec2.launch_interfaces import refused_address
from one_provider_mad.providers.ec2.listed_prices import ListedPrices
from one_provider_mad.providers.ec2.notices import NOTICE_NAMES, Notices, is_taken_back
from one_provider_mad.providers.ec2.prices import Prices, kind_of
from one_provider_mad.providers.ec2.query import filtered, numbered, pairs
from one_provider_mad.providers.ec2.refusals import is_shortage
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.ec2.shortages import Shortages
from one_provider_mad.providers.ec2.states import STATES, state_of
from one_provider_mad.providers.ec2.type_choice import Offers
from one_provider_mad.providers.ec2.types import Types
from one_provider_mad.providers.ec2.unused_resources import unused_resources
from one_provider_mad.providers.ec2.volume_facts import VolumeFacts
from one_provider_mad.providers.ec2.volumes import volume_size
from one_provider_mad.providers.ec2.watch import Watch
from one_provider_mad.providers.interface import (
    Attached,
    CheckResult,
    CloudImage,
    CloudNetwork,
    CreateCall,
    CreatePlan,
    Figures,
    ImportHints,
    InstanceType,
    Interruption,
    LoginPlace,
    Parameters,
    ProviderContext,
    ProviderFactory,
    Size,
    TypeWish,
    UnusedResource,
)
from one_provider_mad.providers.mapped_images import mapped_image
from one_provider_mad.providers.mapped_networks import plain_nics
from one_provider_mad.providers.public_cloud import Section
from one_provider_mad.providers.type_wishes import wish_of

_MOST_UNKNOWN_STATES = 1000
"""Most undocumented states remembered as warned of; then all are forgotten, and warned of again."""

LONGEST_TOKEN = 64


class Ec2Provider:
    """One account in one region.

    Args:
        context: names and directories.
        settings: the table `[ec2]`.
    """

    name: str = "ec2"
    attribute_names: Collection[str] = frozenset((*LISTED_NAMES, *NOTICE_NAMES, *DISK_NAMES))

    def __init__(self, context: ProviderContext, settings: Ec2Settings) -> None:
        self.is_create_repeatable: bool = settings.client_tokens
        self.visibility_grace: float = settings.visibility_grace
        self.watch_interval: float = settings.watch_interval
        self._context = context
        self._settings = settings
        self._client = Client(settings, warn=context.warn)
        self._images = ImageLookup(self._client, clock=time.monotonic)
        self._disks = Disks(self._client, self._images, context, settings)
        self._groups = Groups(self._client, context, settings)
        self._interfaces = Interfaces(self._client, self._disks, self._groups, context, settings)
        self._shortages = Shortages(memory=settings.shortage_memory, clock=time.monotonic)
        self.shortage_memory: float = settings.shortage_memory
        named = context.state_directory / f"one_provider_mad_{context.name}"
        self._types = Types(
            self._client, settings, path=named.with_name(f"{named.name}.types"), clock=time.time, warn=context.warn
        )
        self._sizes = self._types.sizes
        listed = ListedPrices(
            self._client, settings, path=named.with_name(f"{named.name}.prices"), clock=time.time, warn=context.warn
        )
        book = PriceBook(context.prices, listed.unit)
        self._prices = Prices(self._client, listed, book, self._images, warn=context.warn)
        self._changes = Changes(
            self._client,
            self._disks,
            self._images,
            settings,
            context=context,
            known=self._sizes,
            read_offers=self._read_offers,
        )
        self.changeable_attributes: Collection[str] = self._changes.attributes
        self._watch = Watch(
            cloudwatch=CloudWatch(self._client, self._sizes, with_disks=settings.cloudwatch_disks, clock=time.time)
            if settings.cloudwatch
            else None,
            cloudwatch_period=settings.cloudwatch_period,
            notices=Notices(self._client, warn=context.warn) if settings.events else None,
            notices_period=settings.events_period,
            interruptions_period=settings.interruptions_period,
            is_ours=self._is_ours,
            clock=time.monotonic,
            warn=context.warn,
        )
        # The owner's is a filter value, too.
        self._found = Gathered(self._find, name="instances of VMs", most=MOST_VALUES - 1)
        self._pages = 1
        self._unknown_states: set[str] = set()
        # With figures from CloudWatch a listing has none: its zeros would set OpenNebula's counters back.
        self._read = partial(read_instances, sizes={} if settings.cloudwatch else self._sizes)

    async def open(self) -> None:
        """Load the HTTP library and the table of types; the credentials are found at the first call."""
        await asyncio.to_thread(self._types.load)
        await self._client.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def account(self) -> str:
        """Return the account's number, from STS, and the region."""
        if number := self._settings.account:
            return f"{number}/{self._settings.region}"
        number = await self._client.call("GetCallerIdentity", read=read_account)
        if not number:
            raise ProviderUnavailable("EC2: the answer to GetCallerIdentity names no account")
        self._client.account = number
        return f"{number}/{self._settings.region}"

    # Creating

    async def read_image(self, request: VmRequest) -> None:
        """Read the AMI's tag PROVIDER_GUEST, where neither the template nor `[images]` names its guest.

        Where prices are used, or decide the type, read its volumes, its operating system and its architecture, too.
        """
        section = template.read_checked_section(request, self._settings, self._context)
        if section.text("AMI") and depends_on_tag(request, section, self._context):
            await self._images.read_guest(section.text("AMI"))
        if template.spot_limits_of(request, section, self._settings, self._context).depend_on_price:
            with suppress(ProviderError):  # the plan says that the price is unknown
                await self.read_prices(())
        if section.text("AMI"):
            volumes = further_volumes(request, self._context) if self._settings.template_disks else ()
            await self._prices.learn_image(
                section.text("AMI"), tuple(dict.fromkeys(each.snapshot for each in volumes if each.snapshot))
            )

    def plan(self, request: VmRequest) -> CreatePlan:
        """Return one alternative for each market, type and place; those with a recent shortage last."""
        guest_of, offers_of = self._images.guest_of, self._offers
        planned = template.plan(request, self._settings, self._context, guest_of=guest_of, offers_of=offers_of)
        return msgspec.structs.replace(planned, alternatives=self._shortages.ordered(planned.alternatives))

    def chooses_type(self, request: VmRequest) -> bool:
        """Return True for INSTANCETYPE=auto, in the VM's section or in the defaults."""
        return type_choice.chooses_type(template.read_checked_section(request, self._settings, self._context))

    def choice_attributes(self) -> Mapping[str, str]:
        """Return INSTANCETYPE=auto; nothing where the defaults name types."""
        return {} if self._settings.defaults.get(type_choice.ATTRIBUTE) else {type_choice.ATTRIBUTE: AUTO}

    def wish_of(self, request: VmRequest) -> TypeWish:
        """Return what the VM asks of its type; the architecture is its image's, if that was read."""
        section = template.read_checked_section(request, self._settings, self._context)
        permitted = self._context.permitted_types
        return wish_of(request, section, image_architecture=self._offers(section).architecture, permitted=permitted)

    def is_usual_type(self, kind: InstanceType) -> bool:
        """Return True for recent types of the standard families, and of those with GPUs; not for bare metal."""
        return type_choice.is_usual_type(kind)

    def _offers(self, section: Section) -> Offers:
        """Return the types to choose from, with prices for the operating system of the VM's AMI, in its only zone."""
        known = self._images.known(section.text("AMI")) or NO_DISKS
        zones, subnets = words(section.text("AVAILABILITYZONE")), words(section.text("SUBNETID"))
        zones = zones or tuple(map(self._prices.zone_of, subnets))
        zone = zones[0] if len(zones) == 1 else ""
        return Offers(
            types=self.instance_types(),
            price_of=lambda name, market: self._prices.of_type(name, market=market, platform=known.platform, zone=zone),
            on_demand=partial(self._prices.on_demand, platform=known.platform),
            architecture=known.architecture,
            permitted=self._context.permitted_types,
        )

    async def _read_offers(self, section: Section) -> Offers:
        await self.read_types()
        if image := section.text("AMI"):
            await self._prices.learn_image(image, ())
        await self.read_prices(())
        return self._offers(section)

    async def _default_types(self) -> tuple[tuple[str, ...], tuple[CheckResult, ...]]:
        """Return the types of the defaults, for auto the cheapest that holds a small VM; and why there is none."""
        request = type_choice.small_vm(self._context.hypervisor)
        section = template.read_checked_section(request, self._settings, self._context)
        names = words(section.text(type_choice.ATTRIBUTE))
        try:
            if type_choice.chooses_type(section):
                choice = type_choice.choice_of(request, section, await self._read_offers(section))
                names = (choice.candidates[0].type.name,)
        except BadParameter as error:
            remedy = "correct [ec2.defaults]"
            return (), (CheckResult(what="default type", is_well=False, found=str(error), remedy=remedy),)
        return names, ()

    async def create(self, call: CreateCall) -> DeployId:
        """Run exactly one instance, tagged in the call itself.

        Raises:
            TokenSpent: the token's instance is terminated already.
            NotReached: image or snapshots could not be looked up, so nothing was sent.
        """
        if not (0 < len(call.token) <= LONGEST_TOKEN and call.token.isascii()):
            raise BadParameter(f"an idempotency token has 1 to {LONGEST_TOKEN} ASCII characters, not {call.token!r}")
        launch = read_launch(call.parameters)
        requested = await self._requested(launch, call)
        try:
            made = await self._run(launch, requested)
        except (NoCapacity, QuotaExceeded) as error:
            # Spot instances have a quota of their own, so an on-demand alternative may have room.
            if isinstance(error, QuotaExceeded) and launch.place.market != SPOT:
                is_standard = sizes.is_standard(launch.parameters.get("InstanceType", ""))
                raise QuotaExceeded(str(error), is_general=error.is_general and is_standard) from error
            self._shortages.note(launch.place)
            raise NoCapacity(f"{launch.place}: {error}") from error
        except (BadParameter, WrongState) as error:
            if sentence := refused_address(requested, str(error)):
                raise type(error)(sentence) from error
            raise
        self._shortages.forget(launch.place)
        if len(made) != 1 or not made[0].deploy_id:
            raise ProviderUnavailable(f"EC2: the answer to RunInstances names {len(made)} instances instead of one")
        if made[0].state.is_gone and not self.lacked_capacity(made[0], call.parameters):
            # EC2 until January 2025, and compatible clouds, return the token's instance in any state.
            raise TokenSpent(f"the token belongs to instance {made[0].deploy_id}, which is {made[0].raw_state}")
        return made[0].deploy_id

    async def try_create(self, call: CreateCall) -> None:
        """Send RunInstances with DryRun=true, without security groups that would have to be made first."""
        requested = await self._requested(read_launch(call.parameters), call)
        try:
            await self._client.call("RunInstances", {**requested, "DryRun": "true"}, read=lambda _: None)
        except ProviderError as error:
            if "DryRunOperation" not in str(error):
                raise

    async def _requested(self, launch: Launch, call: CreateCall) -> dict[str, str]:
        """Return the parameters of RunInstances. Raises NotReached."""
        try:
            image, snapshots = await self._images.disks_of(launch), await self._images.sizes_of(launch.snapshots)
        except NotReached:
            raise
        except ProviderUnavailable as error:
            raise NotReached(f"nothing was created: {error}") from error
        return run_instances(launch, identity=call.identity, token=call.token, image=image, snapshots=snapshots)

    async def _run(self, launch: Launch, requested: Mapping[str, str]) -> list[Instance]:
        if not launch.groups:
            return await self._client.call("RunInstances", requested, read=read_launched)

        async def run() -> list[Instance]:
            # A group has the same id again: none that an instance has can be deleted.
            groups = await self._put_groups(launch)
            return await self._client.call("RunInstances", {**requested, **groups}, read=read_launched)

        return await self._groups.retried(run)

    async def _put_groups(self, launch: Launch) -> dict[str, str]:
        """Make OpenNebula's security groups of a launch in the VPCs of its interfaces, and return their parameters."""
        call: dict[str, str] = {}
        for number, wanted in enumerate(launch.nic_groups, 1):
            prefix = f"NetworkInterface.{number}"
            vpc = await self._groups.vpc_of(launch.parameters.get(f"{prefix}.SubnetId", ""))
            ids = await self._groups.put([each for each in launch.groups if each.number in wanted], vpc)
            call |= numbered(f"{prefix}.SecurityGroupId", list(ids.values()))
        return call

    def lacked_capacity(self, instance: Instance, parameters: Parameters) -> bool:
        """Return True when EC2 accepted the instance and ended it for lack of capacity; remember the shortage then."""
        if not (instance.state.is_gone and is_shortage(instance.attributes.get(STATE_REASON, ""))):
            return False
        self._shortages.note(read_launch(parameters).place)
        return True

    def usual_rooms(self, types: Collection[str]) -> Collection[str]:
        """Return each usual type in each usual place and market."""
        defaults, networks = self._settings.defaults, self._context.mappings.networks
        return rooms.usual_rooms(types, defaults=defaults, networks=networks)

    def room_of(self, request: VmRequest, parameters: Parameters) -> str:
        """Return type, place and market of a create, "" if its VM has special wishes."""
        own = template.own_attributes(request, hypervisor=self._context.hypervisor)
        defaults, networks = self._settings.defaults, self._context.mappings.networks
        return rooms.room_of(parameters, own=own, defaults=defaults, networks=networks)

    async def finish_boot(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Associate the ELASTICIP of the section with the running instance; the same again is fine.

        Raises:
            BadParameter: the account has no such address.
        """
        section = template.read_checked_section(request, self._settings, self._context)
        if section.text("ELASTICIP"):
            await self._changes.associate_address(deploy_id, request)

    def interruption(self, instance: Instance) -> Interruption | None:
        """Return why EC2 took back a spot instance; None for one that it did not."""
        return Interruption(reason=instance.reason) if is_taken_back(instance) else None

    def lasting(self, alternatives: Sequence[Parameters]) -> Sequence[Parameters]:
        """Return the alternatives on demand; all where each is a spot instance."""
        return [each for each in alternatives if read_launch(each).place.market != SPOT] or alternatives

    # Changing

    async def start(self, deploy_id: DeployId) -> None:
        """Start a stopped instance; EC2 accepts a running one."""
        await self._change("StartInstances", deploy_id)

    async def stop(self, deploy_id: DeployId, *, hard: bool) -> None:
        """Stop a running instance; a hard stop does not wait for the guest to shut down."""
        await self._change("StopInstances", deploy_id, {"Force": "true"} if hard else {})

    async def reboot(self, deploy_id: DeployId, *, hard: bool) -> None:  # noqa: ARG002 - EC2 knows one kind
        """Reboot a running instance; EC2 makes it a hard one when the guest does not react."""
        await self._client.call("RebootInstances", {"InstanceId.1": deploy_id}, read=lambda _: None)

    async def destroy(self, deploy_id: DeployId) -> None:
        """Terminate the instance; its volumes and interfaces go with it, unless the VM's section keeps volumes."""
        for parts, release_all in (("volumes", self._disks.release_all), ("interfaces", self._interfaces.release_all)):
            try:
                failures = await release_all(deploy_id)
            except (PermissionDenied, BadParameter) as error:
                # The instance costs more than what cannot be looked for.
                failures = [str(error)]
            for failure in failures:
                self._context.warn(f"{parts} of instance {deploy_id} may outlive it: {failure}")
        await self._client.call("TerminateInstances", {"InstanceId.1": deploy_id}, read=lambda _: None)

    async def _change(self, action: str, deploy_id: DeployId, options: Mapping[str, str] | None = None) -> None:
        requested = {"InstanceId.1": deploy_id, **(options or {})}
        word = (await self._client.call(action, requested, read=read_changed)).get(deploy_id, "")
        if state_of(word).is_gone:
            raise WrongState(f"instance {deploy_id} is {word}")

    async def retag(self, deploy_id: DeployId, identity: Identity) -> None:
        """Write all tags of an identity over the instance's present ones; the user's own tags stay."""
        requested = {"ResourceId.1": deploy_id, **pairs("Tag", identity.tags())}
        await self._client.call("CreateTags", requested, read=lambda _: None)

    def wanted_tags(self, vm: OwnedVm) -> Mapping[str, str]:
        """Return the tags of `[tags]` for a VM, as EC2 takes them."""
        return billing.wanted_tags(vm, self._context)

    async def write_tags(self, deploy_id: DeployId, tags: Mapping[str, str]) -> None:
        """Write tags of the instance and its volumes."""
        await self._changes.write_tags(deploy_id, tags)

    # Lookups

    async def describe(self, deploy_ids: Collection[DeployId]) -> Mapping[DeployId, Instance]:
        """Look up these instances by filter: a call with ids would be refused for a single unknown one.

        For many ids all instances of this owner are listed, if that takes fewer calls.
        """
        left = set(deploy_ids)
        found: dict[DeployId, Instance] = {}
        if len(left) > MOST_VALUES * self._pages:
            owned = {f"tag:{TAG_PREFIX}OWNER": [self._context.owner]}
            every = by_id(await self._list(owned))
            found = {each: every[each] for each in every if each in left}
            left -= found.keys()
        wanted = sorted(left)
        for at in range(0, len(wanted), MOST_VALUES):
            found |= by_id(await self._list({"instance-id": wanted[at : at + MOST_VALUES]}))
        return found

    async def find(self, *, owner: str, vm_id: VmId) -> Sequence[Instance]:
        """Return every instance tagged with this owner and VM; VMs that ask at the same time share a call."""
        if owner == self._context.owner:
            found = await self._found.ask(vm_id)
            if None not in found:
                return found.get(vm_id, [])
        # The one with damaged tags may be this VM's.
        return await self._list({f"tag:{TAG_PREFIX}OWNER": [owner], f"tag:{TAG_PREFIX}VM_ID": [str(vm_id)]})

    async def _find(self, vm_ids: Collection[VmId]) -> Mapping[VmId | None, list[Instance]]:
        """Return the instances tagged with these VMs, by VM, and under None those with damaged tags."""
        tags = {f"tag:{TAG_PREFIX}OWNER": [self._context.owner], f"tag:{TAG_PREFIX}VM_ID": [*map(str, sorted(vm_ids))]}
        return grouped(await self._list(tags), lambda each: each.identity.vm_id if each.identity else None)

    async def list_instances(self) -> Sequence[Instance]:
        """Return every instance of the account in the region."""
        found = await self._list({})
        self._watch.expect_spot(found)
        return found

    async def _list(self, filters: Mapping[str, Sequence[str]]) -> list[Instance]:
        requested = {**filtered(filters), "MaxResults": str(self._settings.page_size)}
        found: list[Instance] = []
        pages = 0
        async for page in self._client.pages("DescribeInstances", requested, read=self._read):
            found += page
            pages += 1
        if "instance-id" not in filters and f"tag:{TAG_PREFIX}VM_ID" not in filters:
            self._pages = pages
        self._warn_of_unknown_states(found)
        return found

    def _warn_of_unknown_states(self, instances: Sequence[Instance]) -> None:
        for instance in instances:
            if (
                instance.state is InstanceState.UNKNOWN
                and instance.raw_state not in self._unknown_states | STATES.keys()
            ):
                if len(self._unknown_states) >= _MOST_UNKNOWN_STATES:
                    self._unknown_states.clear()  # better a warning twice than endless memory
                self._unknown_states.add(instance.raw_state)
                self._context.warn(
                    f"EC2 says that instance {instance.deploy_id} is {instance.raw_state[:40]!r}, a state that is not"
                    " documented: it counts as unknown"
                )

    def upstream_vm_id(self, instance: Instance) -> VmId | None:
        """Return the VM of upstream's tag ONE_ID, if `adopt_upstream` is set and there is no tag of ours."""
        number = whole_number(instance.attributes.get(UPSTREAM_ATTRIBUTE, ""))
        if not self._settings.adopt_upstream or instance.identity is not None or number is None or number < 0:
            return None
        return VmId(number)

    def _is_ours(self, instance: Instance) -> bool:
        identity = instance.identity
        return self.upstream_vm_id(instance) is not None if identity is None else identity.owner == self._context.owner

    # Capabilities

    async def check(self) -> Sequence[CheckResult]:
        """Check clock, rights and defaults; dry runs use an instance of ours, if there is one."""
        owned = {f"tag:{TAG_PREFIX}OWNER": [self._context.owner]}
        ours = next((each.deploy_id for each in await self._list(owned) if not each.state.is_gone), "")
        types, obstacles = await self._default_types()
        checks = Checks(
            self._client,
            self._settings,
            owner=self._context.owner,
            mappings=self._context.mappings,
            types=types,
            instance=ours,
        )
        return [*await checks.run(), *obstacles]

    @property
    def figures_period(self) -> float:
        """Return the seconds between two calls of `figures`: few while there are spot instances."""
        return self._watch.period

    async def figures(self, instances: Collection[Instance]) -> Mapping[DeployId, Figures]:
        """Return CloudWatch's figures and EC2's plans for our instances; a failure of either is a warning."""
        return await self._watch.figures(instances)

    def instance_sizes(self) -> Mapping[str, Size]:
        """Return the size of every known type."""
        return self._sizes

    async def capacity(self) -> Size | None:
        """Return None: EC2's API has no limit to offer; `[capacity]` of the configuration may."""
        return None

    def size_of(self, instance: Instance) -> Size | None:
        """Return the size of the instance's type while it runs or starts, as upstream's driver counted."""
        if instance.state not in (InstanceState.PENDING, InstanceState.RUNNING):
            return None
        return self._sizes.get(instance.attributes.get("AWS_INSTANCE_TYPE", ""))

    def import_hints(self, instance: Instance) -> ImportHints:
        """Return the template values of a VM that imports the instance, from its attributes."""
        return sizes.import_hints(instance, self._sizes)

    async def attach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Attach an EBS volume, made for this disk and deleted with the instance."""
        await self._disks.attach(deploy_id, disk)

    async def detach_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Detach the disk's volume and delete it."""
        await self._disks.detach(deploy_id, disk)

    async def resize_disk(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Enlarge the disk's volume."""
        await self._disks.resize(deploy_id, disk)

    async def attached(self, deploy_id: DeployId) -> Attached:
        """Return the DISK_IDs and NIC_IDs of the volumes and interfaces that were made for the instance."""
        disks, nics = await self._disks.made_for(deploy_id), await self._interfaces.made_for(deploy_id)
        return Attached(disks=disks, nics=nics)

    async def attach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Attach a network interface, made for this NIC and deleted with the instance."""
        await self._interfaces.attach(deploy_id, nic)

    async def detach_nic(self, deploy_id: DeployId, nic: Mapping[str, str]) -> None:
        """Detach the NIC's network interface and delete it."""
        await self._interfaces.detach(deploy_id, nic)

    async def prepare_nic(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Make the security groups of the NIC that is about to be attached."""
        await self._interfaces.prepare(deploy_id, request)

    async def prepare_start(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Apply the present rules of all groups of a stopped instance's NICs."""
        if self._context.mappings.security_groups.mirror:
            await self._set_groups(deploy_id, request)

    async def update_security_group(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Apply the present rules of all groups of the VM's NICs, and which NIC has which.

        Raises:
            BadParameter: OpenNebula's groups are not those of this VM's interfaces.
        """
        await self._disks.details(deploy_id)
        number = request.security_group_id
        if not self._context.mappings.security_groups.mirror:
            raise BadParameter(f"security group {number} is not in EC2: [security_groups] has no mirror = true")
        if not await self._set_groups(deploy_id, request):
            raise BadParameter(
                f"security group {number} is not in EC2: PUBLIC_CLOUD or [networks] names other groups for the VM's"
                " interfaces, or they were not made from NICs"
            )

    async def _set_groups(self, deploy_id: DeployId, request: VmRequest) -> bool:
        planned = template.interfaces_of(request, self._settings, self._context)
        return await self._interfaces.set_groups(deploy_id, request, planned)

    def group_warnings(self, request: VmRequest) -> Sequence[str]:
        """Return sentences for the rules of the VM's security groups that EC2 cannot have."""
        if not self._context.mappings.security_groups.mirror:
            return ()
        return tuple(rule_warnings(request, {number for nic in plain_nics(request) for number in group_numbers(nic)}))

    async def remove_unused(self, *, owner: str) -> None:  # noqa: ARG002 - that of the context
        """Delete the security groups of ours that no interface has; they are made again when they are needed."""
        if self._context.mappings.security_groups.mirror:
            await self._groups.remove_unused()

    async def resize(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Give a stopped instance the smallest type of its family with at least the VM's CPU and MEMORY."""
        await self._changes.resize(deploy_id, request)

    async def update_context(self, deploy_id: DeployId, request: VmRequest) -> Sequence[str]:
        """Replace the user data of a stopped instance."""
        return await self._changes.set_user_data(deploy_id, request)

    async def unused_resources(self, *, owner: str) -> Sequence[UnusedResource]:
        """Return every volume, snapshot and address with this owner's tags, and group of ours, without an instance."""
        groups = await self._groups.unused() if self._context.mappings.security_groups.mirror else []
        return [*await unused_resources(self._client, self._prices, owner=owner), *groups]

    def section_of(self, request: VmRequest) -> Mapping[str, str]:
        """Return the attributes of the VM's own section."""
        return template.own_attributes(request, hypervisor=self._context.hypervisor)

    async def reconfigure(self, deploy_id: DeployId, request: VmRequest, name: str) -> None:
        """Apply an edited attribute to a stopped instance."""
        await self._changes.apply(deploy_id, request, name)

    # Prices and types

    async def read_prices(self, instances: Collection[Instance]) -> None:
        """Read price list and spot prices when they are due, and the volumes of instances."""
        await self._prices.read([each for each in instances if not each.state.is_gone])

    def price_of(self, instance: Instance, *, state: InstanceState | None = None) -> Price:
        """Return what an instance costs in a state; stopped it costs its volumes and elastic addresses."""
        return self._prices.of(instance, state=state)

    def kind_of(self, instance: Instance) -> tuple[str, str]:
        """Return type and market of an instance."""
        return kind_of(instance)

    def type_of_create(self, parameters: Parameters) -> str:
        """Return the instance type of one alternative."""
        return read_launch(parameters).parameters.get("InstanceType", "")

    def price_of_create(self, parameters: Parameters) -> Price:
        """Return what a new instance will cost; unknown before `read_image` has looked up its AMI."""
        return self._prices.of_create(parameters)

    def price_of_disk(self, disk: Mapping[str, str]) -> Price:
        """Return what the volume of a DISK costs; unknown for one without a size."""
        try:
            size = max(volume_size(disk), mapped_image(disk, self._context).smallest_disk)
        except BadParameter:
            return UNKNOWN
        return self._prices.of_volume(VolumeFacts(kind="gp3", size=size))

    def price_of_resize(self, instance: Instance, request: VmRequest) -> Price:
        """Return what an instance will cost with the type that a resize gives it; unknown where there is none."""
        try:
            return self._prices.of_resized(instance, self._changes.resized_type(instance, request))
        except BadParameter:
            return UNKNOWN

    def disk_size(self, parameters: Parameters) -> float | None:
        """Return the GiB of all volumes of a new instance, those of its AMI included."""
        return self._prices.disk_size(parameters)

    async def read_types(self) -> None:
        """Read the region's types, once a day."""
        await self._types.read()

    def instance_types(self) -> Mapping[str, InstanceType]:
        """Return the types of the region; those of the release's table while EC2 has not told."""
        return self._types.offered

    def price_of_type(self, name: str, *, market: str) -> Price:
        """Return what a running instance of a type costs under Linux; on the spot market in the dearest zone."""
        return self._prices.of_type(name, market=market)

    def usual_price(self, types: Collection[str]) -> Price:
        """Return the price of the cheapest of these types, else of those in the defaults, else of the region's."""
        by_default = [name for name in words(self._settings.defaults.get("INSTANCETYPE", "")) if name.lower() != "auto"]
        names = types or by_default or self._types.offered
        return cheapest(self._prices.of_type(name, market=ON_DEMAND) for name in names)

    # For the operator's commands

    async def images(self, match: str) -> Sequence[CloudImage]:
        """Return the newest images of well-known publishers, and the account's own."""
        return await catalogue.images(self._client, match)

    async def networks(self) -> Sequence[CloudNetwork]:
        """Return the region's subnets; without groups where mirrored ones take their place."""
        found = await catalogue.networks(self._client)
        if not self._context.mappings.security_groups.mirror:
            return found
        return [msgspec.structs.replace(each, security_groups=()) for each in found]

    async def obstacles(self, deploy_id: DeployId, *, has_key: bool | None) -> Sequence[CheckResult]:
        """Check state, addresses, routes, rules and keys of an instance."""
        return await reach.Obstacles(self._client, await reach.look(self._client, deploy_id)).run(has_key=has_key)

    async def login_place(self, deploy_id: DeployId) -> LoginPlace:
        """Return address, user and port; the user of an image in `[images]` comes from there."""
        return await reach.login_place(self._client, deploy_id, self._context.mappings.images.values())

    async def console_text(self, deploy_id: DeployId) -> str:
        """Return the console's text, at most 64 KB."""
        return await console.console_text(self._client, deploy_id)

    async def screenshot(self, deploy_id: DeployId) -> bytes:
        """Return a JPEG of a running instance's screen."""
        return await console.screenshot(self._client, deploy_id)

    async def encrypted_password(self, deploy_id: DeployId) -> bytes:
        """Return the encrypted password of a Windows instance."""
        return await console.encrypted_password(self._client, deploy_id)


class Ec2Factory:
    """Makes providers for the table `[ec2]`."""

    settings_type: type[msgspec.Struct] = Ec2Settings
    costs_money: bool = True

    def __call__(self, context: ProviderContext, settings: Ec2Settings) -> Ec2Provider:
        """Build a provider; nothing is loaded or sent before `open`."""
        return Ec2Provider(context, settings)


factory: ProviderFactory = Ec2Factory()
