"""The images of well-known publishers, as DescribeImages lists them for their accounts' numbers."""

from __future__ import annotations

from typing import NamedTuple

from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2.answers import Answer, tag_set
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.offers import Offers
from one_provider_mad.lab.ec2.resources import Resources


class PublicImage(NamedTuple):
    """An image of another account, or of this one.

    Attributes:
        id: the AMI.
        owner: number of its account; "self" for the served one.
        name: as its publisher names it.
        created: ISO 8601.
        size: GiB of its root volume.
        architecture: EC2's word.
        platform: `windows`, or "".
        tags: of an own image.
    """

    id: str
    owner: str
    name: str
    created: str
    size: int = 8
    architecture: str = "x86_64"
    platform: str = ""
    tags: tuple[tuple[str, str], ...] = ()


_DEBIAN, _UBUNTU, _ALMA, _AMAZON, _WINDOWS = (
    "136693071363",
    "099720109477",
    "764336703387",
    "137112412989",
    "801119661308",
)

PUBLIC_IMAGES = (
    PublicImage("ami-0de0000000000012a", _DEBIAN, "debian-12-amd64-20250428-2096", "2025-04-28T06:00:00.000Z"),
    PublicImage("ami-0de0000000000012b", _DEBIAN, "debian-12-amd64-20250814-2204", "2025-08-14T06:00:00.000Z"),
    PublicImage("ami-0de0000000000013a", _DEBIAN, "debian-13-amd64-20250814-2204", "2025-08-14T06:05:00.000Z"),
    PublicImage(
        "ami-0de0000000000013b",
        _DEBIAN,
        "debian-13-arm64-20250814-2204",
        "2025-08-14T06:06:00.000Z",
        architecture="arm64",
    ),
    PublicImage(
        "ami-0bb0000000002404a",
        _UBUNTU,
        "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20250530",
        "2025-05-30T05:00:00.000Z",
    ),
    PublicImage(
        "ami-0bb0000000002404b",
        _UBUNTU,
        "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20250821.1",
        "2025-08-21T05:00:00.000Z",
    ),
    PublicImage("ami-0a100000000000095", _ALMA, "AlmaLinux OS 9.5.20241120 x86_64", "2024-11-20T09:00:00.000Z", 10),
    PublicImage("ami-0a100000000000096", _ALMA, "AlmaLinux OS 9.6.20250522 x86_64", "2025-05-22T09:00:00.000Z", 10),
    PublicImage("ami-0a100000000000100", _ALMA, "AlmaLinux OS 10.0.20250528 x86_64", "2025-05-28T09:00:00.000Z", 10),
    PublicImage(
        "ami-0a200000000002023",
        _AMAZON,
        "al2023-ami-2023.8.20250818.0-kernel-6.1-x86_64",
        "2025-08-18T01:00:00.000Z",
    ),
    PublicImage(
        "ami-0ff00000000002022",
        _WINDOWS,
        "Windows_Server-2022-English-Full-Base-2025.08.13",
        "2025-08-13T08:00:00.000Z",
        30,
        platform="windows",
    ),
    PublicImage(
        "ami-0ff00000000002023",
        _WINDOWS,
        "Windows_Server-2022-French-Full-Base-2025.08.13",
        "2025-08-13T08:01:00.000Z",
        30,
        platform="windows",
    ),
)
"""Names in their publishers' forms; the ids are made up."""


PLATFORMS = {image.id: image.platform for image in PUBLIC_IMAGES if image.platform}
"""The platform of instances of these images; others are Linux, for which EC2 has no word."""


def platform_details(platform: str) -> str:
    """Return EC2's name of the operating system by which an instance is charged."""
    return "Windows" if platform == "windows" else "Linux/UNIX"


class PublicImages:
    """DescribeImages, with the images of other accounts.

    Args:
        resources: the account.
        offers: answers calls that name no owner.

    Attributes:
        known: every image with an owner.
    """

    def __init__(self, resources: Resources, offers: Offers) -> None:
        self._resources = resources
        self._offers = offers
        self.known: list[PublicImage] = list(PUBLIC_IMAGES)

    async def describe(self, form: Form) -> Answer:
        """Carry out DescribeImages: by owner, or by id, as far as an image is known here."""
        owners, ids = forms.listed(form, "Owner"), forms.listed(form, "ImageId")
        named = [image for image in self.known if image.id in ids]
        if not owners and len(named) < max(1, len(ids)):
            return await self._offers.images(form)
        found = [image for image in self.known if image.owner in owners] if owners else named
        wanted = forms.matching(
            found,
            forms.filters(form),
            tags=lambda image: dict(image.tags),
            fields={
                "image-id": lambda image: image.id,
                "name": lambda image: image.name,
                "state": lambda _: "available",
                "root-device-type": lambda _: "ebs",
                "image-type": lambda _: "machine",
                "architecture": lambda image: image.architecture,
                "platform": lambda image: image.platform,
            },
        )
        numbers = {image.id: number for number, image in enumerate(self.known, 1)}
        page, more = forms.Page.of(form, named="ImageId").cut(wanted, lambda image: numbers[image.id])
        return {"imagesSet": [self._shown(image) for image in page], **more}

    def _shown(self, image: PublicImage) -> Answer:
        owner = self._resources.number if image.owner == "self" else image.owner
        device = "/dev/sda1" if image.platform else "/dev/xvda"
        ebs = {"volumeSize": image.size, "deleteOnTermination": True, "volumeType": "gp3", "encrypted": False}
        return {
            "imageId": image.id,
            "imageLocation": f"{owner}/{image.name}",
            "imageState": "available",
            "imageOwnerId": owner,
            "creationDate": image.created,
            "isPublic": image.owner != "self",
            "architecture": image.architecture,
            **({"platform": image.platform} if image.platform else {}),
            "platformDetails": platform_details(image.platform),
            "imageType": "machine",
            "name": image.name,
            "rootDeviceType": "ebs",
            "rootDeviceName": device,
            "blockDeviceMapping": [{"deviceName": device, "ebs": ebs}],
            "virtualizationType": "hvm",
            "hypervisor": "xen",
            **({"tagSet": tag_set(dict(image.tags))} if image.tags else {}),
        }
