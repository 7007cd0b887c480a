"""Changes that EC2 makes to a stopped instance: its type, user data, security groups and the like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from one_provider_mad.domain import DeployId, Instance, InstanceState, VmRequest
from one_provider_mad.errors import BadParameter, PermissionDenied, WrongState
from one_provider_mad.pricing.values import ON_DEMAND
from one_provider_mad.providers.ec2 import sizes, template
from one_provider_mad.providers.ec2.attributes import flag, words
from one_provider_mad.providers.ec2.billing import wanted_tags, with_billing
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.context import depends_on_tag, user_data_of
from one_provider_mad.providers.ec2.disks import Disks
from one_provider_mad.providers.ec2.image_disks import ImageLookup
from one_provider_mad.providers.ec2.query import numbered, pairs
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.ec2.type_choice import NO_OFFERS, Offers, chooses_type, types_to_try
from one_provider_mad.providers.interface import ProviderContext, Size
from one_provider_mad.providers.public_cloud import Section
from one_provider_mad.providers.type_wishes import template_size


class Changes:
    """Changes instances of VMs that are off.

    Args:
        client: the connection to EC2.
        disks: looks up an instance with its volumes.
        images: looks up what the tags of an image say.
        settings: the table `[ec2]`.
        context: the cloud's tables, and the TYPE of the sections that count.
        known: sizes of the known types.
        read_offers: reads the types to choose from, and their prices.
    """

    def __init__(
        self,
        client: Client,
        disks: Disks,
        images: ImageLookup,
        settings: Ec2Settings,
        *,
        context: ProviderContext,
        known: Mapping[str, Size],
        read_offers: Callable[[Section], Awaitable[Offers]],
    ) -> None:
        self._client = client
        self._disks = disks
        self._images = images
        self._settings = settings
        self._context = context
        self._known = known
        self._read_offers = read_offers
        self._of_attribute: dict[str, Callable[[DeployId, VmRequest], Awaitable[object]]] = {
            "INSTANCETYPE": self._set_listed_type,
            "SECURITYGROUPIDS": self._set_groups,
            "EBS_OPTIMIZED": self._set_bandwidth,
            "USERDATA": self.set_user_data,
            "CLOUD_INIT": self.set_user_data,
            "GUEST": self.set_user_data,
            "TAGS": self._set_tags,
            "ELASTICIP": self.associate_address,
        }
        self.attributes = frozenset(self._of_attribute)

    async def apply(self, deploy_id: DeployId, request: VmRequest, name: str) -> None:
        """Apply the attribute `name` of the PUBLIC_CLOUD section to a stopped instance.

        Raises:
            BadParameter: the attribute cannot be changed, or its value is not valid.
            WrongState: the instance is not stopped.
        """
        if name not in self._of_attribute:
            raise BadParameter(f"{name} counts only when an instance is created: recreate the VM")
        await self._of_attribute[name](deploy_id, request)

    async def resize(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Give an instance the smallest type of its family with at least the VM's CPU and MEMORY.

        Raises:
            BadParameter: the family has none so large.
            WrongState: the instance is not stopped.
        """
        instance = await self._instance(deploy_id)
        wanted = self.resized_type(instance, request)
        if wanted != instance.attributes.get("AWS_INSTANCE_TYPE", ""):
            await self._set_type(instance, wanted)

    def resized_type(self, instance: Instance, request: VmRequest) -> str:
        """Return the type that `resize` gives an instance. Raises BadParameter."""
        now, size = instance.attributes.get("AWS_INSTANCE_TYPE", ""), template_size(request)
        return sizes.resized(now, self._known, cpu=size.cores, memory=size.memory)

    async def _set_listed_type(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Give the instance the first type in INSTANCETYPE, unless it has one of them; with auto the cheapest."""
        instance, section = await self._instance(deploy_id), self._section(request)
        section = _with_image(section, instance.attributes.get("AWS_IMAGE_ID", ""))
        offers = await self._read_offers(section) if chooses_type(section) else NO_OFFERS
        mode = self._context.size_check
        tried = types_to_try(request, section, offers, markets=(ON_DEMAND,), most=1, mode=mode)
        kinds = [kind for _, kind in tried.pairs]
        if instance.attributes.get("AWS_INSTANCE_TYPE", "") not in kinds:
            await self._set_type(instance, kinds[0])

    async def _set_type(self, instance: Instance, wanted: str) -> None:
        _check_stopped(instance, "the type", f", to {wanted}")
        await self._modify(instance.deploy_id, {"InstanceType.Value": wanted})

    async def set_user_data(self, deploy_id: DeployId, request: VmRequest) -> Sequence[str]:
        """Set USERDATA, or else CONTEXT; the guest reads it when it boots.

        Returns:
            Sentences for the VM's log about what the guest will not get.

        Raises:
            BadParameter: it is not valid, or too large.
            WrongState: the instance is not stopped.
        """
        instance, section = await self._instance(deploy_id), self._section(request)
        _check_stopped(instance, "user data", ": it is when the VM is resumed from a power off")
        image = instance.attributes.get("AWS_IMAGE_ID", "")
        if depends_on_tag(request, section, self._context):
            await self._images.read_guest(image)
        data = user_data_of(request, section, self._context, by_tag=self._images.guest_of(image))
        await self._modify(deploy_id, {"UserData.Value": data.encoded})
        return data.warnings

    async def _set_groups(self, deploy_id: DeployId, request: VmRequest) -> None:
        groups = words(self._section(request).text("SECURITYGROUPIDS"))
        if not groups:
            raise BadParameter(
                "the PUBLIC_CLOUD section names no SECURITYGROUPIDS: set it, an instance needs one at least"
            )
        await self._modify(deploy_id, numbered("GroupId", groups))

    async def _set_bandwidth(self, deploy_id: DeployId, request: VmRequest) -> None:
        is_optimized = flag("EBS_OPTIMIZED", self._section(request).text("EBS_OPTIMIZED", "NO"))
        await self._modify(deploy_id, {"EbsOptimized.Value": "true" if is_optimized else "false"})

    async def _set_tags(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Add the section's tags; tags that were removed from the section stay, since their names are not recorded."""
        tags = with_billing(
            template.tags_of(request, self._section(request), self._settings),
            wanted_tags(request.owned_vm, self._context),
        )
        await self._create_tags([deploy_id], tags)

    async def write_tags(self, deploy_id: DeployId, tags: Mapping[str, str]) -> None:
        """Write tags of an instance, and of its volumes where they are ours to tag."""
        details = await self._disks.details(deploy_id)
        await self._create_tags([deploy_id], tags)
        if volumes := [each.volume_id for each in details.volumes]:
            with suppress(PermissionDenied):  # those of an imported instance lack the tag that our policy demands
                await self._create_tags(volumes, tags)

    async def _create_tags(self, resources: Sequence[str], tags: Mapping[str, str]) -> None:
        requested = {**numbered("ResourceId", resources), **pairs("Tag", tags)}
        await self._client.call("CreateTags", requested, read=lambda _: None)

    async def associate_address(self, deploy_id: DeployId, request: VmRequest) -> None:
        """Associate the ELASTICIP of the section with the instance; the same again is fine.

        Raises:
            BadParameter: the account has no such address, or the section has none.
        """
        address = self._section(request).text("ELASTICIP")
        if not address:
            raise BadParameter("ELASTICIP is gone from the PUBLIC_CLOUD section: disassociate the address in EC2")
        which = {"AllocationId" if address.startswith("eipalloc-") else "PublicIp": address}
        interfaces = (await self._disks.details(deploy_id)).interfaces
        # EC2 takes an instance's id only for one with one interface (docs.aws.amazon.com, API_AssociateAddress).
        to = {"NetworkInterfaceId": interfaces[0]} if len(interfaces) > 1 else {"InstanceId": deploy_id}
        # Not from another instance: that VM would lose its connection.
        requested = {**which, **to, "AllowReassociation": "false"}
        await self._client.call("AssociateAddress", requested, read=lambda _: None)

    def _section(self, request: VmRequest) -> Section:
        return template.read_checked_section(request, self._settings, self._context)

    async def _instance(self, deploy_id: DeployId) -> Instance:
        return (await self._disks.details(deploy_id)).instance

    async def _modify(self, deploy_id: DeployId, attributes: Mapping[str, str]) -> None:
        requested = {"InstanceId": deploy_id, **attributes}
        await self._client.call("ModifyInstanceAttribute", requested, read=lambda _: None)


def _with_image(section: Section, image: str) -> Section:
    """Return the section with the AMI of the instance, which a later edit of the section does not change."""
    return msgspec.structs.replace(section, attributes={**section.attributes, "AMI": image})


def _check_stopped(instance: Instance, what: str, remedy: str) -> None:
    if instance.state is not InstanceState.STOPPED:
        raise WrongState(
            f"instance {instance.deploy_id} is {instance.raw_state}: EC2 changes {what} of stopped ones only{remedy}"
        )
