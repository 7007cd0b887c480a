"""The operator's commands on a partner: its templates, its networks, and what a login to a remote VM needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId
from one_provider_mad.errors import InstanceNotFound
from one_provider_mad.providers.interface import (
    CloudNetwork,
    CloudRange,
    ConsoleSource,
    CreateCall,
    ImageCatalogue,
    NetworkCatalogue,
    Reachability,
)
from one_provider_mad.providers.opennebula.provider import OpenNebulaProvider
from one_provider_mad.testing.conformance import OWNER
from tests.providers.opennebula.partner_provider import a_vm, connect
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


async def made(provider: OpenNebulaProvider, *, context: dict[str, str] | None = None) -> DeployId:
    request = a_vm(1, context=context)
    call = CreateCall(
        identity=request.identity(owner=OWNER), token="t", parameters=provider.plan(request).alternatives[0]
    )
    return await provider.create(call)


async def test_reach_looks_at_state_address_and_key_of_the_remote_vm(partner: Partner, tmp_path: Path) -> None:
    provider = connect(partner, tmp_path)
    assert isinstance(provider, Reachability)
    assert not isinstance(provider, ConsoleSource)
    await provider.open()
    deploy_id = await made(provider, context={"SSH_PUBLIC_KEY": "ssh-ed25519 AAAA one@here"})
    results = {each.what: each for each in await provider.obstacles(deploy_id, has_key=True)}
    assert results.keys() == {"instance", "address", "key"}
    assert results["instance"].is_well in (True, None), "it may be starting still"
    assert results["address"].is_well is False
    assert results["key"].is_well is True
    assert (await provider.login_place(deploy_id)).address == ""
    (vm,) = partner.vms.values()
    vm.template["NIC"] = [{"NIC_ID": "0", "IP": "192.0.2.11"}]
    assert {each.what: each.is_well for each in await provider.obstacles(deploy_id, has_key=True)}["address"] is True
    assert (await provider.login_place(deploy_id)).address == "192.0.2.11"
    with pytest.raises(InstanceNotFound):
        await provider.obstacles(DeployId("opennebula-hybrid-99"), has_key=None)
    await provider.close()


async def test_reach_names_a_key_that_has_not_reached_the_remote_vm(partner: Partner, tmp_path: Path) -> None:
    provider = connect(partner, tmp_path)
    await provider.open()
    deploy_id = await made(provider)
    results = {each.what: each for each in await provider.obstacles(deploy_id, has_key=True)}
    assert results["key"].is_well is False
    assert results["key"].found.endswith(", though that of the VM at home has")
    await provider.close()
