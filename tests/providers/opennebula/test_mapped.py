"""Images and networks of a VM at home become template, disks and interfaces at a partner."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.domain import DeployId, InstanceState, Template, VmRequest
from one_provider_mad.mappings import ImageMapping, Mappings, NetworkMapping
from one_provider_mad.providers.interface import Attached
from one_provider_mad.providers.opennebula.provider import OpenNebulaProvider
from one_provider_mad.testing.conformance import a_call, reach
from tests.providers.opennebula.partner_provider import a_vm, connect
from tests.xmlrpc.partner import Partner

Open = Callable[..., Awaitable[OpenNebulaProvider]]

MAPPINGS = Mappings(
    images={"debian-12": ImageMapping(image="debian", smallest_disk=3), "data": ImageMapping(image="41")},
    networks={
        "private": NetworkMapping(subnet="us/internal", security_groups=("100",), addresses="opennebula"),
        "public": NetworkMapping(subnet="4"),
    },
)

ROOT = {"DISK_ID": "0", "IMAGE": "debian-12", "IMAGE_ID": "7", "SIZE": "2252", "TYPE": "FILE"}
SCRATCH = {"DISK_ID": "1", "TYPE": "fs", "FORMAT": "raw", "SIZE": "512", "TARGET": "vdb"}
DATA = {"DISK_ID": "2", "IMAGE": "data", "IMAGE_ID": "8", "SIZE": "100", "TYPE": "FILE"}
RESCUE = {"DISK_ID": "3", "IMAGE": "rescue", "IMAGE_ID": "9", "SIZE": "100", "TYPE": "CDROM"}

PRIVATE = {"NIC_ID": "0", "NETWORK": "private", "NETWORK_ID": "3", "IP": "10.0.0.7", "MODEL": "virtio"}
PUBLIC = {"NIC_ID": "1", "NETWORK": "public", "NETWORK_ID": "5", "IP": "192.168.1.9"}


@pytest.fixture
def partner() -> Iterator[Partner]:
    with Partner(delay=0.002) as partner:
        partner.templates[9] = ("debian", 'CPU=1\nMEMORY=256\nDISK=[ IMAGE="debian", IMAGE_UNAME="them" ]')
        yield partner


@pytest.fixture
async def opened(tmp_path: Path, partner: Partner) -> AsyncIterator[Open]:
    """Opens providers on the partner, and closes them in the end."""
    async with AsyncExitStack() as stack:

        async def opened(**options: Any) -> OpenNebulaProvider:
            provider = connect(partner, tmp_path, **{"mappings": MAPPINGS, **options})
            stack.push_async_callback(provider.close)
            await provider.open()
            return provider

        yield opened


def vm(*disks: Mapping[str, str], nics: tuple[Mapping[str, str], ...] = (), **section: str) -> VmRequest:
    request = a_vm(23, asking={"TEMPLATE_ID": "", **section})
    values = {**request.template.values, "DISK": disks, "NIC": nics}
    return msgspec.structs.replace(request, template=Template(values=values))


async def launch(provider: OpenNebulaProvider, request: VmRequest) -> DeployId:
    deploy_id = await provider.create(a_call(provider, request))
    await reach(provider, deploy_id, InstanceState.RUNNING)
    return deploy_id


def parts(partner: Partner, kind: str) -> list[dict[str, str]]:
    """The remote VM's disks or interfaces without the numbers that the partner gives."""
    own = (f"{kind}_ID", "TARGET")
    return [{k: v for k, v in each.items() if k not in own} for each in partner.vms[0].sections(kind)]


async def test_an_image_stands_for_a_remote_template_and_its_disk_grows(partner: Partner, opened: Open) -> None:
    provider = await opened()
    request = vm({**ROOT, "SIZE": "10240"})
    await launch(provider, request)
    assert partner.vms[0].template["TEMPLATE_ID"] == ["9"]
    assert parts(partner, "DISK") == [{"IMAGE": "debian", "IMAGE_UNAME": "them", "SIZE": "10240"}]
    assert provider.plan(request).warnings == ()


async def test_the_section_comes_before_the_image(partner: Partner, opened: Open) -> None:
    provider = await opened()
    await launch(provider, vm(ROOT, TEMPLATE_NAME="ubuntu server"))
    assert partner.vms[0].template["TEMPLATE_ID"] == ["7"]


async def test_a_disk_that_is_large_enough_is_not_sent(partner: Partner, opened: Open) -> None:
    provider = await opened(mappings=Mappings(images={"7": ImageMapping(image="9")}))
    await launch(provider, vm({**ROOT, "SIZE": "2048"}))
    assert parts(partner, "DISK") == [{"IMAGE": "debian", "IMAGE_UNAME": "them"}]


async def test_further_disks_are_made_beside_the_templates_and_known_by_disk_id(partner: Partner, opened: Open) -> None:
    provider = await opened()
    request = vm(ROOT, SCRATCH, DATA, RESCUE)
    deploy_id = await launch(provider, request)
    assert parts(partner, "DISK") == [
        {"IMAGE": "debian", "IMAGE_UNAME": "them", "SIZE": "3072"},
        {"TYPE": "fs", "SIZE": "512", "FORMAT": "raw", "ONE_PROVIDER_DISK_ID": "1"},
        {"IMAGE_ID": "41", "ONE_PROVIDER_DISK_ID": "2"},
    ]
    assert await provider.attached(deploy_id) == Attached(disks=frozenset({"1", "2"}))
    (warning,) = provider.plan(request).warnings
    assert warning.startswith("the remote VM is made without the template's disks (3): ")


async def test_a_partner_that_restricts_disks_makes_the_vm_with_the_templates_own(
    partner: Partner, opened: Open
) -> None:
    partner.restricted.add("SIZE")
    warned: list[str] = []
    provider = await opened(warn=warned.append)
    await launch(provider, vm(ROOT, SCRATCH))
    assert parts(partner, "DISK") == [{"IMAGE": "debian", "IMAGE_UNAME": "them"}]
    assert len(partner.vms) == 1
    (sentence,) = warned
    assert sentence.startswith("VM 23 has only the disks of its remote template: ")
    assert "restricted attribute DISK/SIZE" in sentence


async def test_nics_are_interfaces_of_the_mapped_networks_in_their_order(partner: Partner, opened: Open) -> None:
    provider = await opened()
    request = vm(ROOT, nics=(PRIVATE, PUBLIC))
    deploy_id = await launch(provider, request)
    first, second = partner.vms[0].sections("NIC")
    wanted = {"NETWORK": "internal", "NETWORK_UNAME": "us", "IP": "10.0.0.7", "SECURITY_GROUPS": "100"}
    assert wanted.items() <= first.items()
    assert second["NETWORK_ID"] == "4"
    assert await provider.attached(deploy_id) == Attached(nics=frozenset({"0", "1"}))
    assert provider.plan(request).warnings == (
        "the leased address 192.168.1.9 of interface 1 is not used: the partner chooses the address",
    )


async def test_networks_of_the_section_come_before_mapped_ones(partner: Partner, opened: Open) -> None:
    provider = await opened()
    await launch(provider, vm(ROOT, nics=(PRIVATE,), NETWORKS="lan"))
    assert [each["NETWORK"] for each in partner.vms[0].sections("NIC")] == ["lan"]


async def test_an_attached_nic_and_disk_follow_the_tables(partner: Partner, opened: Open) -> None:
    provider = await opened()
    deploy_id = await launch(provider, vm(ROOT))
    await provider.attach_nic(deploy_id, {**PRIVATE, "NIC_ID": "4"})
    await provider.attach_disk(deploy_id, {**DATA, "DISK_ID": "5"})
    (nic,) = partner.vms[0].sections("NIC")
    assert (nic["NETWORK"], nic["IP"], nic["ONE_PROVIDER_NIC_ID"]) == ("internal", "10.0.0.7", "4")
    assert partner.vms[0].sections("DISK")[-1]["IMAGE_ID"] == "41"


async def test_template_disks_off_leaves_the_remote_templates_disks(partner: Partner, opened: Open) -> None:
    provider = await opened(template_disks=False)
    request = vm({**ROOT, "SIZE": "10240"}, SCRATCH, DATA)
    await launch(provider, request)
    assert parts(partner, "DISK") == [{"IMAGE": "debian", "IMAGE_UNAME": "them"}]
    (warning,) = provider.plan(request).warnings
    assert warning.startswith("the remote VM is made without the template's disks (1, 2): ")
