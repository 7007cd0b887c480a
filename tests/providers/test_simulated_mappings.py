"""Images and networks of a VM in the simulated cloud, as its instances show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from one_provider_mad.domain import InstanceState, Template, VmId, VmRequest
from one_provider_mad.mappings import ImageMapping, Mappings, NetworkMapping
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.simulated.provider import SimulatedProvider
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from one_provider_mad.testing.conformance import a_call, describe_one, reach

MAPPINGS = Mappings(
    images={"debian-12": ImageMapping(image="img-debian-12")},
    networks={
        "private": NetworkMapping(subnet="net-a,net-b", addresses="opennebula"),
        "public": NetworkMapping(subnet="net-p"),
    },
)


def a_vm(**section: str) -> VmRequest:
    values: dict[str, Any] = {
        "CPU": ("1",),
        "MEMORY": ("128",),
        "DISK": ({"DISK_ID": "0", "IMAGE": "debian-12", "IMAGE_ID": "7", "SIZE": "2048"},),
        "NIC": (
            {"NIC_ID": "0", "NETWORK": "private", "IP": "10.0.0.7"},
            {"NIC_ID": "1", "NETWORK": "public", "IP": "192.168.1.9"},
            {"NIC_ID": "2", "NETWORK": "lab"},
        ),
    }
    user_template = Template(values={"PUBLIC_CLOUD": (section,)} if section else {})
    return VmRequest(vm_id=VmId(7), stime=5, template=Template(values=values), user_template=user_template)


async def test_an_instance_shows_the_mapped_image_and_networks(tmp_path: Path) -> None:
    context = ProviderContext(
        name="cloud", hypervisor="cloud", owner="tests", state_directory=tmp_path, mappings=MAPPINGS, warn=print
    )
    provider = SimulatedProvider(context, msgspec.convert({"boot_time": 0.004}, SimulatedSettings))
    await provider.open()
    try:
        deploy_id = await provider.create(a_call(provider, a_vm()))
        await reach(provider, deploy_id, InstanceState.RUNNING)
        await provider.attach_nic(deploy_id, {"NIC_ID": "4", "NETWORK": "public", "IP": "192.168.1.10"})
        instance = await describe_one(provider, deploy_id)
        assert instance is not None
        assert instance.attributes["SIM_IMAGE_ID"] == "img-debian-12"
        assert instance.attributes["SIM_NETWORKS"] == "0:net-a:10.0.0.7,1:net-p,4:net-p"
        assert instance.attributes["SIM_NICS"] == "0,1,2,4"
        own = provider.plan(a_vm(TYPE="cloud", PROVIDER_IMAGE_ID="img-own")).alternatives
        assert own[0]["image"] == "img-own"
    finally:
        await provider.close()
