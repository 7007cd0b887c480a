"""`one-provider networks`: prints virtual networks that mirror the cloud's, and their lines for the configuration."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence

import click
import msgspec

from one_provider_mad.cli.asked_cloud import Cloud, ask
from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.names import complete_name
from one_provider_mad.providers.interface import CloudNetwork, NetworkCatalogue
from one_provider_mad.template_text.exact_writer import attribute, vector

MOST_CALLS = 3
"""Slow calls for which the command waits; most pages take a second or two."""

_NOT_IN_NAMES = re.compile(r"[^\w.-]+", re.ASCII)

_BRIDGE = "none"
"""OpenNebula demands a BRIDGE from networks of the driver dummy (src/vnm/VirtualNetwork.cc, parse_phydev_vlans), which
makes none."""


@click.command("networks", short_help="Print virtual networks that mirror the cloud's.")
@click.argument("name", shell_complete=complete_name)
@click.option("--only", default="", metavar="ID", help="Only this network's template, for onevnet create.")
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
def command(name: str, only: str, is_json: bool) -> None:
    """Print a template of a virtual network for each subnet of the cloud of NAME.

    Its ranges are the subnet's, without the addresses that the cloud keeps for itself, and ask the cloud for the leased
    address. The lines for the table [networks] of the configuration follow, which say the same for networks without
    these attributes.
    """

    async def list_them(cloud: Cloud) -> Sequence[CloudNetwork]:
        if not isinstance(cloud.provider, NetworkCatalogue):
            raise cloud.lacks("a list of its networks")
        return await cloud.provider.networks()

    found = ask(name, os.environ, list_them, calls=MOST_CALLS, is_quiet=is_json or bool(only))
    titles = titles_of(found, name=name)
    if only:
        found = [network for network in found if network.network_id == only]
        if not found:
            raise click.ClickException(f"the cloud of {name} has no network {only}")
    if is_json:
        entries = [{**msgspec.to_builtins(each), "template": text_of(each, titles)} for each in found]
        click.echo(json.dumps(entries, indent=2))
        return
    if not found:
        click.echo("no networks")
        return
    for network in found:
        click.echo(f"# {printable(_described(network))}")
        click.echo(text_of(network, titles) or "# no IPv4 addresses, so OpenNebula can lease none\n")
    if not only:
        click.echo(f"# for {name}.toml, for networks without the attributes PROVIDER_… above")
        for line in sections(found, titles):
            click.echo(line)


def _described(network: CloudNetwork) -> str:
    addresses = {True: "; interfaces get public addresses", False: "; no public addresses", None: ""}
    named = f"{network.network_id} {network.name}".strip()
    return f"{named}: {network.place}{addresses[network.public_address]}"


def titles_of(found: Sequence[CloudNetwork], *, name: str) -> Mapping[str, str]:
    """Return a name in OpenNebula for each network, by its id: NAME and its own name, with its id if others have it."""
    plain = {each.network_id: _NOT_IN_NAMES.sub("-", each.name or each.network_id).strip("-") for each in found}
    taken = list(plain.values())
    return {
        number: f"{name}-{text}" if taken.count(text) == 1 else f"{name}-{text}-{number}"
        for number, text in plain.items()
    }


def text_of(network: CloudNetwork, titles: Mapping[str, str]) -> str:
    """Return the template of a virtual network, as onevnet create takes it; "" for a network without IPv4."""
    if not network.ranges:
        return ""
    values = {
        "NAME": titles[network.network_id],
        "VN_MAD": "dummy",
        "BRIDGE": _BRIDGE,
        "GATEWAY": network.gateway,
        "NETWORK_MASK": network.mask,
        "PROVIDER_SUBNET": network.network_id,
        "PROVIDER_ADDRESSES": "opennebula",
        "PROVIDER_SECURITY_GROUPS": ",".join(network.security_groups),
    }
    lines = [attribute(key, value) for key, value in values.items() if value]
    ranges = [vector("AR", {"TYPE": "IP4", "IP": each.first, "SIZE": str(each.size)}) for each in network.ranges]
    return "\n".join([*lines, *ranges, ""])


def sections(found: Sequence[CloudNetwork], titles: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the configuration, as TOML."""
    for network in found:
        yield ""
        yield f"[networks.{json.dumps(titles[network.network_id])}]"
        yield f"subnet = {json.dumps(network.network_id)}"
        if network.security_groups:
            yield f"security_groups = {json.dumps(list(network.security_groups))}"
        yield f'addresses = "{"opennebula" if network.ranges else "cloud"}"'
