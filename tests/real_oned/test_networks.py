"""`onevnet create` of a real OpenNebula takes the networks that `one-provider networks` prints."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from one_provider_mad.cli.networks import text_of, titles_of
from one_provider_mad.providers.ec2.catalogue import usable_ranges
from one_provider_mad.providers.interface import CloudNetwork
from tests.real_oned.world import SIMULATED, running
from tests.real_oned.zone import Zone
from tests.waiting import until

pytestmark = [pytest.mark.oned, pytest.mark.timeout(300)]

READY = "1"
"""STATE of a network whose creation is over (include/VirtualNetwork.h); before 6.0 networks have none."""


def pool(zone: Zone) -> ET.Element:
    """Every virtual network."""
    return zone.document("one.vnpool.info", -2, -1, -1)


def test_onevnet_creates_the_printed_networks_with_every_range(tmp_path: Path) -> None:
    installed = Path(os.environ.get("ONE") or "/no/OpenNebula")
    if not (installed / "bin" / "oned").exists():
        pytest.skip("no OpenNebula: make test-oned ONE=/opt/one-7.4.0 names the directory of an installed one")
    blocks = {"subnet-a": IPv4Network("10.0.1.0/24"), "subnet-b": IPv4Network("10.4.0.0/16")}
    networks = [
        CloudNetwork(
            network_id=number,
            name='public "x"',
            ranges=tuple(usable_ranges(block)),
            gateway=str(block[1]),
            mask=str(block.netmask),
            security_groups=("sg-1",),
            public_address=True,
        )
        for number, block in blocks.items()
    ]
    titles = titles_of(networks, name="aws")
    zone = Zone(installed, tmp_path / "one", clouds={"simulated": "simulated"})
    zone.place.configure(SIMULATED)
    with running(zone):
        for network in networks:
            file = tmp_path / f"{network.network_id}.txt"
            file.write_text(f"# {network.network_id}: as printed\n{text_of(network, titles)}")
            zone.run(f"onevnet create {file}")
        until(lambda: all(each.findtext("STATE", READY) == READY for each in pool(zone)), seconds=30)
        found = {each.findtext("NAME"): each for each in pool(zone)}
        for network in networks:
            made = found[titles[network.network_id]]
            ranges = [(each.findtext("IP"), each.findtext("SIZE")) for each in made.iterfind("AR_POOL/AR")]
            assert ranges == [(each.first, str(each.size)) for each in network.ranges]
            values = {name: made.findtext(f"TEMPLATE/{name}") for name in ("PROVIDER_SUBNET", "PROVIDER_ADDRESSES")}
            assert values == {"PROVIDER_SUBNET": network.network_id, "PROVIDER_ADDRESSES": "opennebula"}
