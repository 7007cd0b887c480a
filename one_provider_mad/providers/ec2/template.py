"""Makes a VM's RunInstances call from upstream's PUBLIC_CLOUD attributes and some more; no I/O.

Names and meanings are upstream's (src/vmm_mad/remotes/ec2/ec2_driver.rb); parameters are those of docs.aws.amazon.com,
API_RunInstances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from one_provider_mad.domain import Template, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.mappings import Guest
from one_provider_mad.pricing.book import listed_price
from one_provider_mad.pricing.values import ON_DEMAND, SPOT
from one_provider_mad.providers.ec2.attributes import (
    HISTORIC,
    KNOWN_ATTRIBUTES,
    PREFERRED,
    PRIVILEGED,
    check_interrupted,
    check_tags,
    flag,
    is_spot,
    words,
)
from one_provider_mad.providers.ec2.billing import wanted_tags, with_billing
from one_provider_mad.providers.ec2.combinations import check_combinations
from one_provider_mad.providers.ec2.context import InstanceUserData, user_data_of
from one_provider_mad.providers.ec2.group_rules import mirrored_groups, rule_warnings
from one_provider_mad.providers.ec2.launch import Launch
from one_provider_mad.providers.ec2.launch_disks import disk_warnings, further_volumes, root_size
from one_provider_mad.providers.ec2.launch_interfaces import (
    LaunchInterface,
    interface_parameters,
    interface_places,
    launch_interfaces,
    mapped_section,
    nic_warnings,
    other_groups,
)
from one_provider_mad.providers.ec2.query import numbered
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.ec2.spot_limits import SpotLimits, check_limits, max_price, spot_warnings
from one_provider_mad.providers.ec2.type_choice import NO_OFFERS, Offers, TypesToTry, types_to_try
from one_provider_mad.providers.ec2.volumes import device_mappings, root_volume
from one_provider_mad.providers.interface import CreatePlan, Parameters, ProviderContext
from one_provider_mad.providers.mapped_images import image_name, mapped_image, root_disk
from one_provider_mad.providers.public_cloud import (
    SECTION,
    Section,
    disks_not_made,
    nics_not_made,
    parse_tags,
    read_section,
)

OLD_SECTION = "EC2"
"""The section of OpenNebula 4.x, older than PUBLIC_CLOUD."""

MOST_ALTERNATIVES = 50
"""Most alternatives of one create; a VM with more, which might wait for hours, is refused."""

_PLAIN = {
    "AMI": "ImageId",
    "AKI": "KernelId",
    "RAMDISK": "RamdiskId",
    "KEYPAIR": "KeyName",
    "PLACEMENTGROUP": "Placement.GroupName",
    "TENANCY": "Placement.Tenancy",
}
"""Attributes with the same value as their parameter."""


def read_checked_section(request: VmRequest, settings: Ec2Settings, context: ProviderContext) -> Section:
    """Return the section that counts, completed by what stands for the VM's image and network, then by the defaults.

    Raises:
        BadParameter: the choice between sections is not clear, or the section holds our tags.
    """
    section = read_section(_modern(request), hypervisor=context.hypervisor)
    own = section.attributes
    mapped = mapped_section(request, own, settings.defaults, context)
    if image := mapped_image(root_disk(request), context).image:
        mapped["AMI"] = image
    # Groups by id replace groups by name: EC2 takes only one kind.
    defaults = {
        name: text
        for name, text in settings.defaults.items()
        if name != "SECURITYGROUPS" or "SECURITYGROUPIDS" not in mapped
    }
    return msgspec.structs.replace(
        section,
        attributes={**defaults, **mapped, **own},
        tags=section.tags if "TAGS" in own else parse_tags(settings.defaults.get("TAGS", "")),
    )


def own_attributes(request: VmRequest, *, hypervisor: str) -> Mapping[str, str]:
    """Return the attributes of the instance in the section that counts, without defaults.

    Raises:
        BadParameter: the choice between sections is not clear, or the section holds our tags.
    """
    return read_section(_modern(request), hypervisor=hypervisor).known(KNOWN_ATTRIBUTES)


def _modern(request: VmRequest) -> VmRequest:
    """Return the request with the section `EC2=[...]` of 4.x as PUBLIC_CLOUD, unless it has a PUBLIC_CLOUD."""
    templates = (request.user_template, request.template)
    old = next((each.vectors(OLD_SECTION) for each in templates if each.vectors(OLD_SECTION)), ())
    if not old or any(each.vectors(SECTION) for each in templates):
        return request
    values = {**request.user_template.values, SECTION: old}
    return msgspec.structs.replace(request, user_template=Template(values=values))


def plan(
    request: VmRequest,
    settings: Ec2Settings,
    context: ProviderContext,
    *,
    guest_of: Callable[[str], Guest] = lambda _: "auto",
    offers_of: Callable[[Section], Offers] = lambda _: NO_OFFERS,
) -> CreatePlan:
    """Return every way to create this VM, the preferred one first.

    Args:
        request: the VM.
        settings: the table `[ec2]`.
        context: the configuration's tables.
        guest_of: what the tag of an AMI says of its guest.
        offers_of: the types to choose from for a section.

    Raises:
        BadParameter: with the sentence for the user.
    """
    section = read_checked_section(request, settings, context)
    check_combinations(section.attributes, defaults=settings.defaults)
    interfaces = interfaces_of(request, settings, context)
    markets, places = _markets(section), _places(section, interfaces)
    limits, offers = spot_limits_of(request, section, settings, context), offers_of(section)
    types = types_to_try(
        request,
        section,
        offers,
        markets=tuple(markets),
        most=MOST_ALTERNATIVES // len(places),
        mode=context.size_check,
    )
    groups = [number for each in interfaces for number in each.groups or ()]
    data = user_data_of(request, section, context, by_tag=guest_of(section.text("AMI")))
    fixed = {
        **_named(request, section),
        **_network(section, interfaces),
        **device_mappings(section.text("BLOCKDEVICEMAPPING")),
        **({"UserData": data.encoded} if data.encoded else {}),
        **_from_configuration(settings, has_one_context=data.program == "one-context"),
    }
    root = root_volume(section)
    tags = with_billing(tags_of(request, section, settings), wanted_tags(request.owned_vm, context))
    launch = Launch(
        parameters=fixed,
        tags=tags,
        root_volume=root,
        root_disk=root_disk(request).get("DISK_ID", ""),
        least_root=root_size(request, context) if settings.template_disks and "VolumeSize" not in root else 0,
        volumes=further_volumes(request, context) if settings.template_disks else (),
        nics=tuple(each.nic.get("NIC_ID", "") for each in interfaces),
        groups=mirrored_groups(request, groups),
        nic_groups=tuple(each.groups or () for each in interfaces) if groups else (),
    )
    return CreatePlan(
        alternatives=tuple(
            _encoded(msgspec.structs.replace(launch, parameters={**fixed, **chosen}))
            for chosen in _choices(types, _Markets(markets, limits, offers.on_demand), places)
        ),
        warnings=(
            *section.warnings,
            *_warnings(section),
            *types.warnings,
            *spot_warnings(limits, [kind for market, kind in types.pairs if market == SPOT], offers.on_demand),
            *_disk_warnings(request, settings, context),
            *_nic_warnings(request, interfaces),
            *data.warnings,
            *_of_metadata(data, settings),
            *rule_warnings(request, groups),
            *(other_groups(interfaces) if context.mappings.security_groups.mirror else ()),
        ),
    )


def interfaces_of(request: VmRequest, settings: Ec2Settings, context: ProviderContext) -> tuple[LaunchInterface, ...]:
    """Return the interfaces that the VM's NICs are in EC2; none where no network is mapped. Raises BadParameter."""
    section = read_checked_section(request, settings, context)
    own = read_section(_modern(request), hypervisor=context.hypervisor).attributes
    return launch_interfaces(request, section, own, settings.defaults, context)


def _encoded(launch: Launch) -> Parameters:
    parameters: Parameters = msgspec.to_builtins(launch)
    return parameters


def _named(request: VmRequest, section: Section) -> dict[str, str]:
    if not section.text("AMI"):
        disk = root_disk(request)
        unmapped = f", nor [images] for image {image_name(disk)}" if disk else ""
        raise BadParameter(f"the {SECTION} section names no AMI, and [ec2.defaults] has none either{unmapped}")
    named = {parameter: section.text(name) for name, parameter in _PLAIN.items() if section.text(name)}
    if text := section.text("EBS_OPTIMIZED"):
        named["EbsOptimized"] = "true" if flag("EBS_OPTIMIZED", text) else "false"
    return named


def _network(section: Section, interfaces: tuple[LaunchInterface, ...]) -> dict[str, str]:
    """Return security groups and private address, of the instance or of each of its interfaces."""
    if interfaces:
        if section.text("SECURITYGROUPS") and not interfaces[0].groups:
            raise BadParameter("SECURITYGROUPS and [networks] exclude each other: name ids in SECURITYGROUPIDS")
        return interface_parameters(interfaces)
    address = section.text("PRIVATEIP")
    return {
        **({"PrivateIpAddress": address} if address else {}),
        **numbered("SecurityGroup", words(section.text("SECURITYGROUPS"))),
        **numbered("SecurityGroupId", words(section.text("SECURITYGROUPIDS"))),
    }


def _from_configuration(settings: Ec2Settings, *, has_one_context: bool) -> dict[str, str]:
    """Return the parameters that end users may not set."""
    is_optional = settings.imdsv2 == "optional" or (settings.imdsv2 == "one-context" and has_one_context)
    fixed = {
        "MetadataOptions.HttpTokens": "optional" if is_optional else "required",
        "MetadataOptions.HttpPutResponseHopLimit": str(settings.metadata_hop_limit),
    }
    if profile := settings.instance_profile:
        fixed[f"IamInstanceProfile.{'Arn' if profile.startswith('arn:') else 'Name'}"] = profile
    return fixed


# Alternatives


class _Markets(NamedTuple):
    """The markets to try, and what limits the price of a spot instance.

    Attributes:
        parameters: of each market, without MaxPrice.
        limits: on the price of a spot instance.
        on_demand: returns the price of a type on demand; None when unknown.
    """

    parameters: Mapping[str, Mapping[str, str]]
    limits: SpotLimits
    on_demand: Callable[[str], float | None]

    def of(self, market: str, kind: str) -> dict[str, str]:
        """Return the parameters of a type in a market."""
        cap = max_price(self.limits, self.on_demand(kind)) if market == SPOT else ""
        return {**self.parameters[market], **({"InstanceMarketOptions.SpotOptions.MaxPrice": cap} if cap else {})}


def _choices(types: TypesToTry, markets: _Markets, places: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return every combination in its order of trial: a type is tried in each subnet or zone before the next type."""
    choices = [
        {**markets.of(market, kind), "InstanceType": kind, **place} for market, kind in types.pairs for place in places
    ]
    if len(choices) > MOST_ALTERNATIVES:
        raise BadParameter(
            f"INSTANCETYPE, SUBNETID and AVAILABILITYZONE allow {len(choices)} combinations, name {MOST_ALTERNATIVES}"
            " at most"
        )
    return choices


def _places(section: Section, interfaces: tuple[LaunchInterface, ...]) -> list[dict[str, str]]:
    subnets, zones = words(section.text("SUBNETID")), words(section.text("AVAILABILITYZONE"))
    if subnets and len(zones) > 1:
        raise BadParameter("SUBNETID and several AVAILABILITYZONEs exclude each other: a subnet lies in one zone")
    if len(subnets) > 1 and section.text("PRIVATEIP"):
        raise BadParameter("PRIVATEIP and several SUBNETIDs exclude each other: an address lies in one subnet")
    zone = {"Placement.AvailabilityZone": zones[0]} if subnets and zones else {}
    if any(each.network.subnets for each in interfaces):
        return [{**place, **zone} for place in interface_places(interfaces)]
    return (
        [{"SubnetId": subnet, **zone} for subnet in subnets]
        or [{"Placement.AvailabilityZone": zone} for zone in zones]
        or [{}]
    )


def _markets(section: Section) -> dict[str, dict[str, str]]:
    """Return the parameters of each market to try, without MaxPrice: on demand, spot, or spot first."""
    wish = section.text("SPOT").upper()
    check_interrupted(section.text("INTERRUPTED"))
    if not is_spot(wish, section.text("SPOTPRICE")):
        return {ON_DEMAND: {}}
    spot = {
        "InstanceMarketOptions.MarketType": "spot",
        # A persistent request would replace an instance that was terminated.
        "InstanceMarketOptions.SpotOptions.SpotInstanceType": "one-time",
        "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior": "terminate",
    }
    return {SPOT: spot, ON_DEMAND: {}} if wish == PREFERRED else {SPOT: spot}


def spot_limits_of(request: VmRequest, section: Section, settings: Ec2Settings, context: ProviderContext) -> SpotLimits:
    """Return the limits on the price of the VM's spot instance; none for one on demand.

    Raises:
        BadParameter: SPOTPRICE is no price, or is more than the configuration allows.
    """
    requested = section.text("SPOTPRICE")
    if not is_spot(section.text("SPOT"), requested):
        return SpotLimits()
    budget = listed_price(context.max_spot_price(request.owner), context.prices)
    limits = SpotLimits(requested=requested, configured=settings.max_spot_price, budget=budget)
    check_limits(limits)
    return limits


# Tags


def tags_of(request: VmRequest, section: Section, settings: Ec2Settings) -> dict[str, str]:
    """Return the tags of the VM's instance without its identity. Raises BadParameter."""
    name = request.name or f"one-{request.vm_id}"
    tags = {"Name": name[:256], **section.tags, **settings.tags}
    check_tags(tags)
    return tags


# Warnings for the VM's log


def _warnings(section: Section) -> tuple[str, ...]:
    handled = {*HISTORIC, *PRIVILEGED}
    remaining = {name: value for name, value in section.attributes.items() if name not in handled}
    return (
        *(
            f"{SECTION} attribute {name} is ignored: {HISTORIC[name]}"
            for name in section.attributes
            if name in HISTORIC
        ),
        *(
            f"{SECTION} attribute {name} is ignored: only instance_profile of the configuration gives privileges"
            for name in section.attributes
            if name in PRIVILEGED
        ),
        *msgspec.structs.replace(section, attributes=remaining).unknown(KNOWN_ATTRIBUTES, cloud="ec2"),
    )


def _disk_warnings(request: VmRequest, settings: Ec2Settings, context: ProviderContext) -> Iterator[str]:
    if settings.template_disks:
        return disk_warnings(request, context)
    instead = "it has those of its AMI and BLOCKDEVICEMAPPING, and empty ones are attached later with onevm disk-attach"
    return disks_not_made(request.template.vectors("DISK"), made="the instance", instead=instead)


def _nic_warnings(request: VmRequest, interfaces: tuple[LaunchInterface, ...]) -> Iterator[str]:
    if interfaces:
        return nic_warnings(request, interfaces)
    instead = (
        "it has one in its SUBNETID, or else in EC2's default subnet; map their networks in [networks] of the"
        " configuration to have them made"
    )
    return nics_not_made(request, made="the instance", instead=instead)


_REFUSED_METADATA = (
    "one-context in the guest reads user data without a session token, which the instance refuses: set"
    ' imdsv2 = "one-context" in [ec2] of the configuration'
)


def _of_metadata(data: InstanceUserData, settings: Ec2Settings) -> tuple[str, ...]:
    if data.program == "one-context" and data.encoded and settings.imdsv2 == "required":
        return (_REFUSED_METADATA,)
    return ()
