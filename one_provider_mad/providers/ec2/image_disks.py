"""Looks up the volumes of images and the sizes of snapshots: they never change, so each is asked for once."""

from __future__ import annotations

from collections.abc import Mapping

from one_provider_mad.domain import whole_number
from one_provider_mad.errors import BadParameter
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.launch import Launch
from one_provider_mad.providers.ec2.launch_disks import NO_DISKS, ImageDisks
from one_provider_mad.providers.ec2.query import numbered
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of


def read_image_disks(root: Element) -> ImageDisks:
    """Return the volumes of the first image of a DescribeImages answer."""
    device = text_of(root.find(".//rootDeviceName"))
    sizes = {
        text_of(item.find("deviceName")): whole_number(text_of(element_at(item, "ebs/volumeSize"))) or 0
        for item in elements_at(root, "imagesSet/item/blockDeviceMapping/item")
    }
    return ImageDisks(root_device=device, root_size=sizes.get(device, 0), devices=tuple(sizes))


class ImageLookup:
    """Images and snapshots of one region.

    Args:
        client: the connection to EC2.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._images: dict[str, ImageDisks] = {}
        self._snapshots: dict[str, int] = {}

    async def disks_of(self, launch: Launch) -> ImageDisks:
        """Return the volumes of the image, if the create depends on them: so a repeated create is the same call.

        Raises:
            BadParameter: the section has attributes for the root volume, and the image has none.
        """
        if not launch.needs_image:
            return NO_DISKS
        image = launch.parameters.get("ImageId", "")
        if image not in self._images:
            self._images[image] = await self._client.call("DescribeImages", {"ImageId.1": image}, read=read_image_disks)
        found = self._images[image]
        if launch.root_volume and not found.root_device:
            raise BadParameter(f"AMI {image} has no root volume: remove VOLUMESIZE and the like")
        return found

    async def sizes_of(self, snapshots: tuple[str, ...]) -> Mapping[str, int]:
        """Return the GiB of these snapshots. Raises BadParameter for one that EC2 does not have."""
        if missing := [each for each in snapshots if each not in self._snapshots]:
            self._snapshots |= await self._client.call(
                "DescribeSnapshots", numbered("SnapshotId", missing), read=_read_sizes
            )
        return {each: self._snapshots.get(each, 0) for each in snapshots}


def _read_sizes(root: Element) -> dict[str, int]:
    return {
        text_of(item.find("snapshotId")): whole_number(text_of(item.find("volumeSize"))) or 0
        for item in elements_at(root, "snapshotSet/item")
    }
