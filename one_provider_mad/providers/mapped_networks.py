"""The cloud's subnet for each NIC of a VM: by `[networks]`, or else by attributes that the network hands on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from one_provider_mad.domain import Value, VmRequest
from one_provider_mad.errors import BadParameter
from one_provider_mad.mappings import Addresses
from one_provider_mad.providers.inherited import NETWORK_ATTRIBUTES, inherited
from one_provider_mad.providers.interface import ProviderContext

_FLAGS = {"YES": True, "TRUE": True, "1": True, "NO": False, "FALSE": False, "0": False, "": None}


class MappedNetwork(Value, frozen=True, kw_only=True):
    """What the cloud has for the network of a NIC.

    Attributes:
        subnets: the cloud's subnets or networks to try, in this order; empty: its default one.
        security_groups: ids of the interface's security groups; empty: the cloud's default.
        public_address: whether the interface gets a public address; None: as the subnet says.
        addresses: `opennebula` when the cloud is asked for the leased address, else `cloud`.
    """

    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    public_address: bool | None = None
    addresses: Addresses = "cloud"


def mapped_network(nic: Mapping[str, str], context: ProviderContext) -> MappedNetwork | None:
    """Return what the cloud has for the network of a NIC; None when nothing is known for this network.

    Each attribute comes from `[networks]`, or else from the network's own PROVIDER_ attribute, as it is in the NIC.
    Where there is an entry only its `addresses` counts, since a network's owner may not choose the cloud's addresses.

    Raises:
        BadParameter: PROVIDER_PUBLIC_ADDRESS or PROVIDER_ADDRESSES of the network has no valid value.
    """
    entry = context.mappings.network_for(nic)
    if entry is None and not any(inherited(nic, name, context) for name in NETWORK_ATTRIBUTES):
        return None
    subnets = _words(inherited(nic, "PROVIDER_SUBNET", context))
    groups = _words(inherited(nic, "PROVIDER_SECURITY_GROUPS", context))
    is_public = _public_address(nic, context)
    if entry is None:
        return MappedNetwork(
            subnets=subnets, security_groups=groups, public_address=is_public, addresses=_addresses(nic, context)
        )
    return MappedNetwork(
        subnets=_words(entry.subnet) or subnets,
        security_groups=entry.security_groups or groups,
        public_address=is_public if entry.public_address is None else entry.public_address,
        addresses=entry.addresses,
    )


def plain_nics(request: VmRequest) -> Sequence[Mapping[str, str]]:
    """Return the VM's NICs that may become interfaces of an instance, in their order."""
    return [nic for nic in request.template.vectors("NIC") if not is_external(nic)]


def other_nics(request: VmRequest) -> Sequence[Mapping[str, str]]:
    """Return the VM's NICs that exist at home only: aliases, PCI devices, and those marked EXTERNAL."""
    template = request.template
    pci = [each for each in template.vectors("PCI") if each.get("NIC_ID")]
    external = [nic for nic in template.vectors("NIC") if is_external(nic)]
    return [*external, *template.vectors("NIC_ALIAS"), *pci]


def is_external(nic: Mapping[str, str]) -> bool:
    """Return True for a NIC or alias whose address OpenNebula only takes note of (EXTERNAL=YES)."""
    return nic.get("EXTERNAL", "").upper() == "YES"


def leased_address(nic: Mapping[str, str]) -> str:
    """Return the IPv4 address that OpenNebula leased for a NIC, "" for none."""
    return nic.get("IP", "").strip()


def network_name(nic: Mapping[str, str]) -> str:
    """Return the network of a NIC for messages, as `private (3)`."""
    name, number = nic.get("NETWORK", ""), nic.get("NETWORK_ID", "")
    return f"{name} ({number})" if name and number else name or number


def left_out(request: VmRequest, *, made: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield a sentence for the VM's log for each NIC that is not among those made."""
    for nic in other_nics(request):
        what = "EXTERNAL" if is_external(nic) else "a PCI device" if "VENDOR" in nic or "CLASS" in nic else "an alias"
        yield f"interface {nic.get('NIC_ID', '')} is not made: it is {what}, which exists at home only"
    for nic in plain_nics(request):
        if nic not in made:
            yield (
                f"interface {nic.get('NIC_ID', '')} is not made: nothing stands for network {network_name(nic)} in"
                " [networks] of the configuration"
            )


def unused_leases(asked: Sequence[tuple[Mapping[str, str], str]], *, chooser: str) -> Iterator[str]:
    """Yield one sentence for the VM's log about all leased addresses that the cloud is not asked for.

    Args:
        asked: the NICs that are made, each with the address that is asked for, "" for any.
        chooser: who chooses the others, `EC2`.
    """
    unused = [
        f"{leased_address(nic)} of interface {nic.get('NIC_ID', '')}"
        for nic, address in asked
        if leased_address(nic) not in ("", address)
    ]
    if unused:
        yield f"the leased address {', '.join(unused)} is not used: {chooser} chooses the address"


def _public_address(nic: Mapping[str, str], context: ProviderContext) -> bool | None:
    given = inherited(nic, "PROVIDER_PUBLIC_ADDRESS", context)
    if given.upper() not in _FLAGS:
        raise BadParameter(
            f"PROVIDER_PUBLIC_ADDRESS={given[:40]} of network {network_name(nic)} is neither YES nor NO: correct the"
            " network"
        )
    return _FLAGS[given.upper()]


def _addresses(nic: Mapping[str, str], context: ProviderContext) -> Addresses:
    match given := inherited(nic, "PROVIDER_ADDRESSES", context).lower():
        case "" | "cloud":
            return "cloud"
        case "opennebula":
            return "opennebula"
        case _:
            raise BadParameter(
                f"PROVIDER_ADDRESSES={given[:40]} of network {network_name(nic)} is neither cloud nor opennebula:"
                " correct the network"
            )


def _words(text: str) -> tuple[str, ...]:
    """Return the items of a comma list, each once, in order."""
    return tuple(dict.fromkeys(filter(None, (item.strip() for item in text.split(",")))))
