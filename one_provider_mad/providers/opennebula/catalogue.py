"""What the operator's commands show of a partner: its templates, its networks, and what a login to a VM needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import AddressValueError, IPv4Address

from one_provider_mad.domain import InstanceState, whole_number
from one_provider_mad.guest.reading import KEYS, SECRET
from one_provider_mad.providers.interface import CheckResult, CloudImage, CloudNetwork, CloudRange
from one_provider_mad.providers.opennebula.machine import Machine
from one_provider_mad.safe_xml import Element, elements_at, text_of
from one_provider_mad.xmlrpc.client import Client
from one_provider_mad.xmlrpc.pool import read_pool

_ALL = -2
"""Flag of pools for everything that the user may use (src/rm/RequestManagerPoolInfoFilter.h, ALL)."""

_IPV4 = ("IP4", "IP4_6", "IP4_6_STATIC")


async def images(client: Client, match: str, *, page_size: int) -> list[CloudImage]:
    """Return the templates that the remote user may use, newest first: a VM there is made from a template.

    Raises:
        ProviderError: a page was refused or not answered.
    """
    found = await read_pool(client, "one.templatepool.info", before=(_ALL,), page_size=page_size, read_row=_image)
    wanted = match.casefold()
    kept = [each for each in found.values() if wanted in f"{each.image_id}\n{each.name}\n{each.publisher}".casefold()]
    return sorted(kept, key=lambda each: (-each.created_at, int(each.image_id)))


def _image(template: Element) -> CloudImage:
    return CloudImage(
        image_id=text_of(template.find("ID")).strip(),
        name=text_of(template.find("NAME")),
        publisher=text_of(template.find("UNAME")) or "the partner",
        created_at=float(whole_number(text_of(template.find("REGTIME")).strip()) or 0),
        guest="one-context",
        note="a template of the partner, whose guest reads CONTEXT as at home",
    )


async def networks(client: Client, *, page_size: int) -> list[CloudNetwork]:
    """Return the virtual networks that the remote user may use.

    Raises:
        ProviderError: a page was refused or not answered.
    """
    found = await read_pool(client, "one.vnpool.info", before=(_ALL,), page_size=page_size, read_row=_network)
    return [found[number] for number in sorted(found)]


def _network(network: Element) -> CloudNetwork:
    values = {child.tag: text_of(child) for child in network.iterfind("TEMPLATE/*") if not len(child)}
    return CloudNetwork(
        network_id=text_of(network.find("ID")).strip(),
        name=text_of(network.find("NAME")),
        place=f"of {text_of(network.find('UNAME')) or 'the partner'}",
        ranges=tuple(_ranges(network)),
        gateway=values.get("GATEWAY", ""),
        mask=values.get("NETWORK_MASK", ""),
    )


def _ranges(network: Element) -> Iterator[CloudRange]:
    for each in elements_at(network, "AR_POOL/AR"):
        size, first = whole_number(text_of(each.find("SIZE")).strip()), text_of(each.find("IP")).strip()
        try:
            IPv4Address(first)
        except AddressValueError:
            continue
        if size and size > 0 and text_of(each.find("TYPE")).strip() in _IPV4:
            yield CloudRange(first=first, size=size)


def address_of(machine: Machine) -> str:
    """Return the address of a remote VM's first interface that has one, "" for none."""
    return next((ip for nic in machine.nics if (ip := nic.get("EXTERNAL_IP") or nic.get("IP") or nic.get("IP6"))), "")


def obstacles(machine: Machine, *, has_key: bool | None) -> Iterator[CheckResult]:
    """Yield what a login to a remote VM needs; its security groups and routes are the partner's."""
    instance = machine.seen.instance
    found = f"{instance.deploy_id} is {instance.raw_state}"
    if instance.state is InstanceState.RUNNING:
        yield CheckResult(what="instance", is_well=True, found=found)
    elif instance.state is InstanceState.PENDING:
        yield CheckResult(what="instance", is_well=None, found=found, remedy="wait until it runs")
    else:
        remedy = "start it: onevm resume"
        yield CheckResult(what="instance", is_well=False, found=f"{found}: {machine.error}".rstrip(": "), remedy=remedy)
    if address := address_of(machine):
        yield CheckResult(
            what="address", is_well=True, found=f"{address}; whether you reach it is the partner's network"
        )
    else:
        remedy = "name a network of the partner in [networks], or a remote template with a NIC"
        yield CheckResult(what="address", is_well=False, found="the remote VM has none", remedy=remedy)
    yield _key(machine.sections.get("CONTEXT", ()), has_key=has_key)


def _key(contexts: tuple[Mapping[str, str], ...], *, has_key: bool | None) -> CheckResult:
    if any(context.get(name, "").strip() for context in contexts for name in (*KEYS, *SECRET)):
        return CheckResult(what="key", is_well=True, found="the remote VM's CONTEXT has a key or a password")
    at_home = {True: ", though that of the VM at home has", False: "", None: ""}[has_key]
    found = f"the remote VM's CONTEXT has neither a key nor a password{at_home}"
    remedy = (
        "set SSH_PUBLIC_KEY in CONTEXT of the remote template, then onevm recover --recreate; or in that of the"
        " template here, and make a new VM"
    )
    return CheckResult(what="key", is_well=False, found=found, remedy=remedy)
