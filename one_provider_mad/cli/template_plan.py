"""Asks the driver's own code, and with --dry-run the cloud, what a DEPLOY of a template's VM would do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from one_provider_mad.actions.policy import check_attributes, check_section
from one_provider_mad.cli.asked_cloud import Cloud
from one_provider_mad.cli.driver_message import wire_line
from one_provider_mad.domain import Identity, Template, VmRequest
from one_provider_mad.errors import MadError
from one_provider_mad.front_end.burst_template import Remark
from one_provider_mad.ownership.creating import Order, planned
from one_provider_mad.protocol.messages import Malformed, Request
from one_provider_mad.protocol.payload import read_payload
from one_provider_mad.protocol.vmm import parse_line
from one_provider_mad.providers.interface import (
    CapacitySource,
    CreateCall,
    CreatePlan,
    CreateTrial,
    Parameters,
    Provider,
    ProviderContext,
    Size,
)
from one_provider_mad.providers.mapped_images import image_name, mapped_image
from one_provider_mad.providers.mapped_networks import mapped_network
from one_provider_mad.providers.registry import costs_money
from one_provider_mad.settings import Configuration, Places

_LONGEST = 300
"""Characters of a parameter that are shown; user data may have thousands."""


class Outlook(NamedTuple):
    """What a DEPLOY would do.

    Attributes:
        plan: the calls to create the instance; None when it is refused.
        refusal: why it is refused, "" when it is not.
        answer: the cloud's own, "" when it was not asked.
    """

    plan: CreatePlan | None = None
    refusal: str = ""
    answer: str = ""


async def outlook_of(cloud: Cloud, template: Template) -> Outlook:
    """Return what a DEPLOY to an open cloud would do, and what the cloud says to it where it has a dry run."""
    provider, configuration = cloud.provider, cloud.configuration
    try:
        order = _order(provider, configuration, template)
        plan = await planned(order, provider, call=_at_once)
    except MadError as error:
        return Outlook(refusal=str(error))
    if not isinstance(provider, CreateTrial):
        return Outlook(plan)
    identity = order.request.identity(owner=configuration.settings.owner)
    return Outlook(plan, answer=await _tried(provider, identity, plan.alternatives[0]))


def offline_outlook_of(provider: Provider, configuration: Configuration, template: Template) -> Outlook:
    """Return what a DEPLOY would do, as far as that is known without asking the cloud."""
    try:
        order = _order(provider, configuration, template)
        order.check()
        return Outlook(provider.plan(order.request))
    except MadError as error:
        return Outlook(refusal=str(error))


async def _at_once(_what: str, send: Callable[[], Awaitable[None]], /) -> None:
    await send()


async def _tried(provider: CreateTrial, identity: Identity, parameters: Parameters) -> str:
    try:
        await provider.try_create(CreateCall(identity=identity, token="dry-run", parameters=parameters))  # noqa: S106
    except MadError as error:
        return f"refused: {error}"
    return "it would create the instance"


def _order(provider: Provider, configuration: Configuration, template: Template) -> Order:
    settings, request = configuration.settings, request_of(template, configuration.name)
    check_attributes(settings.policy, request)
    needs_section = settings.policy.needs_section(costs_money=costs_money(configuration))
    check = partial(
        check_section,
        settings.hypervisor if needs_section else "",
        request,
        cloud=provider.name,
        mappings=settings.mappings,
    )
    return Order(request=request, check=check)


def request_of(template: Template, name: str) -> VmRequest:
    """Return the request that a DEPLOY of the template's first VM on a host of NAME brings to the driver."""
    line = wire_line("DEPLOY", vm_id=0, template=template, host=name, name="one-0")
    read = parse_line(line.removesuffix(b"\n"))
    found = read_payload(read) if isinstance(read, Request) else read
    if isinstance(found, tuple):
        return found[0]
    raise ValueError(found.reason if isinstance(found, Malformed) else "a DEPLOY is a request")


# What the template's devices are in the cloud


def context_of(configuration: Configuration, places: Places) -> ProviderContext:
    """Return a provider's names and mappings, as the driver gives them to it."""
    settings = configuration.settings
    return ProviderContext(
        name=configuration.name,
        hypervisor=settings.hypervisor,
        owner=settings.owner,
        state_directory=places.var,
        mappings=settings.mappings,
        prices=settings.prices,
        tags=settings.tags,
        permitted_types=settings.budget.allowed_types,
        max_spot_price=settings.budget.least_spot_price,
        size_check=settings.policy.size_check,
        warn=lambda _: None,
    )


def device_remarks(template: Template, context: ProviderContext, *, has_devices: bool) -> Iterator[Remark]:
    """Yield a remark for each image and network of the template: what it is in the cloud, or where to write that.

    Args:
        template: its DISKs and NICs completed.
        context: the cloud's names and mappings.
        has_devices: the images and networks were found in OpenNebula, so that their own attributes are known.
    """
    unknown = "" if has_devices else "; attributes of its own in OpenNebula are not known here"
    for number, disk in enumerate(template.vectors("DISK")):
        if image := image_name(disk):
            yield _device(f"disk {number}, image {image}", disk, context, unknown)
    for number, nic in enumerate(template.vectors("NIC")):
        if network := nic.get("NETWORK") or nic.get("NETWORK_ID", ""):
            yield _nic(f"NIC {number}, network {network}", nic, context, unknown)


def _device(what: str, disk: Mapping[str, str], context: ProviderContext, unknown: str) -> Remark:
    try:
        found = mapped_image(disk, context).image
    except MadError as error:
        return Remark(what=what, text=str(error))
    if found:
        source = "[images]" if context.mappings.image_for(disk) else "PROVIDER_IMAGE of the image"
        return Remark(what=what, text=f"is {found} in {context.name}, by {source}")
    name = disk.get("IMAGE") or disk.get("IMAGE_ID", "")
    return Remark(
        what=what,
        text=f'has nothing in {context.name}: write [images."{name}"] into {context.name}.toml, or PROVIDER_IMAGE into'
        f" the image{unknown}",
    )


def _nic(what: str, nic: Mapping[str, str], context: ProviderContext, unknown: str) -> Remark:
    try:
        found = mapped_network(nic, context)
    except MadError as error:
        return Remark(what=what, text=str(error))
    if found is not None:
        subnet = ", ".join(found.subnets) or "the default subnet"
        source = "[networks]" if context.mappings.network_for(nic) else "PROVIDER_SUBNET of the network"
        return Remark(what=what, text=f"is {subnet} in {context.name}, by {source}")
    name = nic.get("NETWORK") or nic.get("NETWORK_ID", "")
    return Remark(
        what=what,
        text=f'has nothing in {context.name}, so its instance is in the default one: write [networks."{name}"] into'
        f" {context.name}.toml, or PROVIDER_SUBNET into the network{unknown}",
    )


# Sizes


def size_remarks(template: Template, plan: CreatePlan, provider: Provider) -> Iterator[Remark]:
    """Yield a remark where the instance type of the plan is smaller than the VM, or the VM reserves less of a core."""
    sizes = provider.instance_sizes() if isinstance(provider, CapacitySource) else {}
    kind = next((text for text in _texts(plan.alternatives[0]) if text in sizes), "")
    asked = _number(template.text("VCPU")) or _number(template.text("CPU"))
    if not kind or any(f"instance type {kind} has" in each for each in plan.warnings):
        return  # or size_check of [policy] has said it
    size = sizes[kind]
    if asked > size.cpu or _number(template.text("MEMORY")) > size.memory:
        yield Remark(
            what="CPU, MEMORY",
            text=f"the type {kind} has {_shown(size)}, the template asks for {asked:g} cores and"
            f" {template.text('MEMORY')} MB: the guest gets the type's",
        )
    reserved = _number(template.text("CPU"))
    if 0 < reserved < size.cpu:
        yield Remark(
            what="CPU",
            text=f"CPU={template.text('CPU')} counts for the host's room and for quotas, and the type {kind} has"
            f" {size.cpu:g} cores",
        )


def _shown(size: Size) -> str:
    return f"{size.cpu:g} cores and {size.memory} MiB"


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in the parameters of a create."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def shown_parameters(parameters: Parameters, prefix: str = "") -> Iterator[str]:
    """Yield the parameters of a create as lines, long values shortened."""
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            yield from shown_parameters(value, f"{prefix}{name}.")
        elif value not in ("", [], (), 0):
            yield f"{prefix}{name} = {str(value)[:_LONGEST]}"
