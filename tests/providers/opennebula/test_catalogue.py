"""The operator's commands on a partner: its templates, its networks, and what a login to a remote VM needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.providers.interface import (
    CloudNetwork,
    CloudRange,
    ImageCatalogue,
    NetworkCatalogue,
)
from tests.providers.opennebula.partner_provider import connect
from tests.xmlrpc.partner import RELEASES, Partner, Release


@pytest.fixture(params=RELEASES)
def partner(request: pytest.FixtureRequest) -> Iterator[Partner]:
    release: Release = request.param
    with Partner(release) as served:
        yield served


async def test_images_are_the_partners_templates_and_match_in_any_case(partner: Partner, tmp_path: Path) -> None:
    provider = connect(partner, tmp_path)
    assert isinstance(provider, ImageCatalogue)
    await provider.open()
    everything = await provider.images("")
    assert [(each.image_id, each.name, each.guest) for each in everything] == [
        ("0", "small", "one-context"),
        ("3", "with key", "one-context"),
        ("7", "ubuntu server", "one-context"),
    ]
    assert [each.image_id for each in await provider.images("UBUNTU")] == ["7"]
    await provider.close()


async def test_networks_are_the_partners_with_ipv4_ranges_alone(partner: Partner, tmp_path: Path) -> None:
    provider = connect(partner, tmp_path)
    assert isinstance(provider, NetworkCatalogue)
    await provider.open()
    lan, dmz = await provider.networks()
    assert lan == CloudNetwork(
        network_id="0",
        name="lan",
        place="of oneadmin",
        ranges=(CloudRange(first="192.0.2.10", size=20),),
        gateway="192.0.2.1",
        mask="255.255.255.0",
    )
    assert (dmz.network_id, dmz.name) == ("1", "dmz")
    await provider.close()
