"""The offers of a region: images, instance types, zones and regions."""

from __future__ import annotations

import asyncio

from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2.answers import Answer, moment
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal
from one_provider_mad.lab.ec2.resources import ROOT_DEVICE, ROOT_SIZE, Resources
from one_provider_mad.providers.ec2.built_in import built_in_types
from one_provider_mad.providers.interface import InstanceType as Known
from one_provider_mad.providers.simulated.settings import InstanceType

EC2_TYPES = {
    "t3.nano": InstanceType(cpu=2, memory=512, price=0.0052),
    "t3.micro": InstanceType(cpu=2, memory=1024, price=0.0104),
    "t3.small": InstanceType(cpu=2, memory=2048, price=0.0208),
    "t3.medium": InstanceType(cpu=2, memory=4096, price=0.0416),
    "t3.large": InstanceType(cpu=2, memory=8192, price=0.0832),
    "t3a.small": InstanceType(cpu=2, memory=2048, price=0.0188),
    "t3a.medium": InstanceType(cpu=2, memory=4096, price=0.0376),
    "m5.large": InstanceType(cpu=2, memory=8192, price=0.096),
}
"""Some of EC2's types at the prices of us-east-1, for `instance_types` of a simulated cloud that has none of them."""


_ROOT_VOLUME = {"volumeSize": ROOT_SIZE, "deleteOnTermination": True, "volumeType": "gp3"}


class Offers:
    """The offers for one account.

    Args:
        resources: the account.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def images(self, form: Form) -> Answer:
        """Carry out DescribeImages: those of the settings, or any requested one if all exist."""
        known = self._resources.settings.offer.images
        asked = forms.listed(form, "ImageId") or forms.filters(form).get("image-id", [])
        for each in asked:
            if not each.startswith("ami-"):
                raise Refusal("InvalidAMIID.Malformed", f'Invalid id: "{each[:80]}" (expecting "ami-...")')
            if known and each not in known:
                raise Refusal("InvalidAMIID.NotFound", f"The image id '[{each[:80]}]' does not exist")
        return {"imagesSet": [self._image(each) for each in asked or known]}

    def _image(self, image_id: str) -> Answer:
        return {
            "imageId": image_id,
            "imageLocation": f"amazon/{image_id}",
            "imageState": "available",
            "imageOwnerId": self._resources.number,
            "creationDate": moment(0),
            "isPublic": True,
            "architecture": "x86_64",
            "platformDetails": "Linux/UNIX",
            "imageType": "machine",
            "name": image_id,
            "rootDeviceType": "ebs",
            "rootDeviceName": ROOT_DEVICE,
            "blockDeviceMapping": [{"deviceName": ROOT_DEVICE, "ebs": _ROOT_VOLUME}],
            "virtualizationType": "hvm",
            "hypervisor": "xen",
        }

    async def instance_types(self, form: Form) -> Answer:
        """Carry out DescribeInstanceTypes."""
        types = self._resources.settings.offer.types
        asked = forms.listed(form, "InstanceType")
        for each in asked:
            if each not in types:
                text = f"The following supplied instance types do not exist: [{each[:80]}]"
                raise Refusal("InvalidInstanceType", text)
        wanted = forms.matching(
            [each for each in sorted(types) if each in asked or not asked],
            forms.filters(form),
            tags=lambda _: {},
            fields={"instance-type": str},
        )
        known = await asyncio.to_thread(built_in_types)
        page, more = forms.Page.of(form).cut(list(enumerate(wanted, 1)), lambda numbered: numbered[0])
        return {
            "instanceTypeSet": [
                {
                    "instanceType": name,
                    **_facts(known.get(name)),
                    "hypervisor": "nitro",
                    "vCpuInfo": {"defaultVCpus": max(1, int(types[name].cpu))},
                    "memoryInfo": {"sizeInMiB": types[name].memory},
                    "hibernationSupported": True,
                }
                for _, name in page
            ],
            **more,
        }

    async def zones(self, form: Form) -> Answer:
        """Carry out DescribeAvailabilityZones: three of them."""
        region = self._resources.region
        names = [f"{region}{letter}" for letter in "abc"]
        asked = forms.listed(form, "ZoneName")
        return {
            "availabilityZoneInfo": [
                {"zoneName": name, "zoneId": f"{region}-az{at}", "zoneState": "available", "regionName": region}
                for at, name in enumerate(names, 1)
                if name in asked or not asked
            ]
        }

    async def regions(self, form: Form) -> Answer:  # noqa: ARG002 - there is one
        """Carry out DescribeRegions: the served one."""
        region = self._resources.region
        return {"regionInfo": [{"regionName": region, "optInStatus": "opt-in-not-required"}]}


def _facts(known: Known | None) -> Answer:
    """Return what a type is besides its size: EC2's own facts for a type of EC2's, else a machine of today."""
    if known is None:
        return {"currentGeneration": True, "processorInfo": {"supportedArchitectures": ["x86_64"]}}
    maker, _, model = known.gpu.partition(" ")
    gpu = {"name": model, "manufacturer": maker, "count": known.gpus}
    return {
        "currentGeneration": known.is_current,
        "processorInfo": {"supportedArchitectures": list(known.architectures)},
        **({"gpuInfo": {"gpus": [gpu]}} if known.gpus else {}),
    }
