"""Converts the NICs of a VM to the network interfaces that an instance is launched with; no I/O.

RunInstances tags all interfaces alike, so one tag says which NIC_ID each device index is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from one_provider_mad.domain import TAG_PREFIX, Value, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.attributes import words
from one_provider_mad.providers.ec2.group_rules import group_numbers
from one_provider_mad.providers.ec2.query import numbered
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.mapped_networks import (
    MappedNetwork,
    leased_address,
    left_out,
    mapped_network,
    network_name,
    plain_nics,
    unused_leases,
)
from one_provider_mad.providers.public_cloud import Section

NICS_TAG = f"{TAG_PREFIX}NICS"
"""Tag of all interfaces of a launch: `0=0 1=2`, device index and NIC_ID of each."""


class LaunchInterface(Value, frozen=True, kw_only=True):
    """An interface that is made with the instance and ends with it.

    Attributes:
        nic: the VM's NIC.
        network: what the cloud has for its network; the first one's as the PUBLIC_CLOUD section changes it.
        address: private address to ask for, "" for any.
        groups: numbers of OpenNebula's security groups for it, instead of those of `network`, where there are any; None
            where OpenNebula's do not count.
    """

    nic: Mapping[str, str]
    network: MappedNetwork
    address: str = ""
    groups: tuple[str, ...] | None = None


def mapped_section(
    request: VmRequest, own: Mapping[str, str], defaults: Mapping[str, str], context: ProviderContext
) -> dict[str, str]:
    """Return the attributes of PUBLIC_CLOUD that the network of the VM's first interface stands for.

    Args:
        request: the VM.
        own: the VM's own section, which comes first; a leased address counts in the network's own subnet only.
        defaults: `[ec2.defaults]`.
        context: the cloud's tables.

    Raises:
        BadParameter: OpenNebula chooses the addresses, and the network has no subnet or several.
    """
    made = _included(request, own, defaults, context)
    if not made:
        return {}
    nic, network = made[0]
    section = {"SUBNETID": ",".join(network.subnets), "SECURITYGROUPIDS": ",".join(network.security_groups)}
    if not own.get("SUBNETID"):
        section["PRIVATEIP"] = asked_address(nic, network)
    return {name: text for name, text in section.items() if text}


def launch_interfaces(
    request: VmRequest,
    section: Section,
    own: Mapping[str, str],
    defaults: Mapping[str, str],
    context: ProviderContext,
) -> tuple[LaunchInterface, ...]:
    """Return the interfaces to make with the instance, in the order of the NICs; none where no network is mapped.

    Args:
        request: the VM.
        section: its section, completed by the first network and the defaults; it counts for the first interface.
        own: the VM's own section.
        defaults: `[ec2.defaults]`.
        context: the cloud's tables.

    Raises:
        BadParameter: a network's addresses or subnets contradict each other.
    """
    made = _included(request, own, defaults, context)
    if not made:
        return ()
    nic, network = made[0]
    has_own_groups = bool(own.get("SECURITYGROUPIDS") or own.get("SECURITYGROUPS"))
    groups = None if has_own_groups else mirrored_numbers(nic, network, context)
    first = MappedNetwork(
        subnets=words(section.text("SUBNETID")),
        security_groups=() if groups else words(section.text("SECURITYGROUPIDS")),
        public_address=network.public_address,
    )
    return (
        LaunchInterface(nic=nic, network=first, address=section.text("PRIVATEIP"), groups=groups),
        *(_further(nic, network, defaults, context) for nic, network in made[1:]),
    )


def _further(
    nic: Mapping[str, str], network: MappedNetwork, defaults: Mapping[str, str], context: ProviderContext
) -> LaunchInterface:
    groups = mirrored_numbers(nic, network, context)
    network = MappedNetwork(
        subnets=network.subnets or words(defaults.get("SUBNETID", "")),
        security_groups=() if groups else network.security_groups or words(defaults.get("SECURITYGROUPIDS", "")),
        public_address=network.public_address,
        addresses=network.addresses,
    )
    return LaunchInterface(nic=nic, network=network, address=asked_address(nic, network), groups=groups)


def mirrored_numbers(
    nic: Mapping[str, str], network: MappedNetwork, context: ProviderContext
) -> tuple[str, ...] | None:
    """Return the numbers of a NIC's security groups that EC2 is to have; None where they do not count.

    They count with `mirror = true` in [security_groups], unless its network names groups of EC2.
    """
    if not context.mappings.security_groups.mirror or network.security_groups:
        return None
    return group_numbers(nic)


def _included(
    request: VmRequest, own: Mapping[str, str], defaults: Mapping[str, str], context: ProviderContext
) -> list[tuple[Mapping[str, str], MappedNetwork]]:
    """Return the NICs that become interfaces: mapped ones, and the first one if section or defaults have a subnet."""
    networks = [(nic, mapped_network(nic, context)) for nic in plain_nics(request)]
    if not any(network for _, network in networks):
        return []
    if not networks[0][1] and (own.get("SUBNETID") or defaults.get("SUBNETID")):
        networks[0] = (networks[0][0], MappedNetwork())
    return [(nic, network) for nic, network in networks if network]


def asked_address(nic: Mapping[str, str], network: MappedNetwork) -> str:
    """Return the leased address if the cloud is asked for it, else "".

    Raises:
        BadParameter: the network has no subnet or several, and an address lies in one.
    """
    if network.addresses != "opennebula" or not leased_address(nic):
        return ""
    if len(network.subnets) != 1:
        many = f"it has {len(network.subnets)}" if network.subnets else "it has none"
        raise BadParameter(
            f'network {network_name(nic)}: addresses = "opennebula" needs one subnet of EC2 in [networks], and {many}'
        )
    return leased_address(nic)


def interface_parameters(interfaces: Sequence[LaunchInterface]) -> dict[str, str]:
    """Return the NetworkInterface parameters of RunInstances without the subnets."""
    call: dict[str, str] = {}
    for at, each in enumerate(interfaces):
        prefix = f"NetworkInterface.{at + 1}"
        call[f"{prefix}.DeviceIndex"] = str(at)
        call[f"{prefix}.DeleteOnTermination"] = "true"
        call |= numbered(f"{prefix}.SecurityGroupId", each.network.security_groups)
        if each.address:
            call[f"{prefix}.PrivateIpAddress"] = each.address
        if len(interfaces) == 1 and each.network.public_address is not None:
            call[f"{prefix}.AssociatePublicIpAddress"] = "true" if each.network.public_address else "false"
    return call


def interface_places(interfaces: Sequence[LaunchInterface]) -> list[dict[str, str]]:
    """Return the subnets of all interfaces for each alternative: with several per network, the first go together.

    Raises:
        BadParameter: two networks have several subnets, and not as many.
    """
    counts = {len(each.network.subnets) for each in interfaces if len(each.network.subnets) > 1}
    if len(counts) > 1:
        named = ", ".join(f"{network_name(each.nic)}: {len(each.network.subnets)}" for each in interfaces)
        raise BadParameter(
            f"the VM's networks have different numbers of subnets ({named}): name as many for each, in the same order"
            " of zones"
        )
    return [
        {
            f"NetworkInterface.{number}.SubnetId": subnets[min(at, len(subnets) - 1)]
            for number, each in enumerate(interfaces, 1)
            if (subnets := each.network.subnets)
        }
        for at in range(max(counts, default=1))
    ]


def nic_warnings(request: VmRequest, interfaces: Sequence[LaunchInterface]) -> Iterator[str]:
    """Yield sentences for NICs that are not made, and for addresses that are not used; nothing without interfaces."""
    if not interfaces:
        return
    yield from left_out(request, made=[each.nic for each in interfaces])
    yield from unused_leases([(each.nic, each.address) for each in interfaces], chooser="EC2")
    if len(interfaces) > 1 and any(each.network.public_address for each in interfaces):
        yield "the instance gets no public address: EC2 gives one only to an instance with one interface, use ELASTICIP"


def other_groups(interfaces: Sequence[LaunchInterface]) -> Iterator[str]:
    """Yield a sentence for each interface whose groups of OpenNebula's do not count, since others are named."""
    for each in interfaces:
        if each.groups is None and (numbers := group_numbers(each.nic)):
            yield (
                f"security group {', '.join(numbers)} of interface {each.nic.get('NIC_ID', '')} is not in EC2:"
                " PUBLIC_CLOUD or the network names other groups"
            )


def refused_address(call: Mapping[str, str], sentence: str) -> str:
    """Return a sentence with the remedy for EC2's refusal of a private address; "" for a refusal of anything else.

    Args:
        call: the parameters of RunInstances or CreateNetworkInterface.
        sentence: EC2's, which names the address (`Address 10.0.0.9 does not fall within the subnet's address range`,
            `Address 10.0.0.9 is in use`).
    """
    for name, address in call.items():
        if name.endswith("PrivateIpAddress") and re.search(rf"(?<![0-9.]){re.escape(address)}(?![0-9.])", sentence):
            subnet = call.get(name.removesuffix("PrivateIpAddress") + "SubnetId", "the subnet")
            return (
                f"{subnet} of EC2 cannot give the instance the address {address}: take it out of the ranges of"
                f" OpenNebula's network, or of PRIVATEIP ({sentence})"
            )
    return ""


def launched_nic(tags: Mapping[str, str], index: int) -> str:
    """Return the NIC_ID that the launch made the interface at a device index for, "" for none."""
    for item in tags.get(NICS_TAG, "").split():
        at, _, nic_id = item.partition("=")
        if at == str(index):
            return nic_id
    return ""
