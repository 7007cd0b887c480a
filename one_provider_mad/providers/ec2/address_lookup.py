"""Public IPv4 addresses of instances and subnets, each of which costs; read beside the sweeps for prices."""

from __future__ import annotations

from collections.abc import Mapping

from one_provider_mad.domain import Value
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.safe_xml import Element, elements_at, text_of


class Addresses(Value, frozen=True, kw_only=True):
    """The public IPv4 addresses that stay while an instance is stopped.

    Attributes:
        elastic: number of the elastic addresses by instance.
        free: elastic addresses that Amazon does not charge for, since the account brought them (BYOIP).
        own: every elastic address that is associated.
    """

    elastic: Mapping[str, int] = {}
    free: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()


def read_addresses(root: Element) -> Addresses:
    """Return the associated addresses of a DescribeAddresses answer."""
    elastic: dict[str, int] = {}
    free, own = set(), set()
    for item in elements_at(root, "addressesSet/item"):
        instance_id, address = text_of(item.find("instanceId")), text_of(item.find("publicIp"))
        if not instance_id:
            continue
        own.add(address)
        if is_free(item):
            free.add(address)
        else:
            elastic[instance_id] = elastic.get(instance_id, 0) + 1
    return Addresses(elastic=elastic, free=frozenset(free), own=frozenset(own))


def is_free(item: Element) -> bool:
    """Return True for an address from a pool of the account's own (API_Address, publicIpv4Pool)."""
    return text_of(item.find("publicIpv4Pool")) not in ("", "amazon")


async def addresses_of(client: Client) -> Addresses:
    """Return the elastic addresses of the account's instances.

    Raises:
        ProviderError: EC2 refused, or did not answer.
    """
    return await client.call("DescribeAddresses", read=read_addresses)


class Subnet(Value, frozen=True, kw_only=True):
    """What the price of a new instance in a subnet depends on.

    Attributes:
        zone: its availability zone.
        gives_address: an instance in it gets a public IPv4 address unless the create says otherwise.
    """

    zone: str = ""
    gives_address: bool = True


DEFAULT_SUBNET = Subnet()
"""EC2's default subnet, and one of which nothing is known: it may give an address, which costs."""


def read_subnets(root: Element) -> dict[str, Subnet]:
    """Return the subnets of a DescribeSubnets answer by id."""
    return {
        text_of(item.find("subnetId")): Subnet(
            zone=text_of(item.find("availabilityZone")),
            gives_address=text_of(item.find("mapPublicIpOnLaunch")) == "true",
        )
        for item in elements_at(root, "subnetSet/item")
    }


async def subnets_of(client: Client) -> Mapping[str, Subnet]:
    """Return the region's subnets.

    Raises:
        ProviderError: EC2 refused, or did not answer.
    """
    pages = client.pages("DescribeSubnets", {"MaxResults": "1000"}, read=read_subnets)
    return {subnet_id: subnet async for page in pages for subnet_id, subnet in page.items()}
