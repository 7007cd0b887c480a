"""Looks up facts of images and snapshots. Their volumes and sizes never change, so each is asked for once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from one_provider_mad.domain import whole_number
from one_provider_mad.errors import BadParameter, PermissionDenied, ProviderError
from one_provider_mad.mappings import Guest, guest_named
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.instances import read_tags
from one_provider_mad.providers.ec2.launch import Launch
from one_provider_mad.providers.ec2.launch_disks import NO_DISKS, ImageDisks
from one_provider_mad.providers.ec2.query import numbered
from one_provider_mad.providers.ec2.volume_facts import VolumeFacts, read_facts
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

GUEST_TAG = "PROVIDER_GUEST"
"""Tag of an image of the account's own with the program that reads the context, as in `[images]`."""

_TAG_SECONDS = 60.0
"""Seconds for which a tag that was read counts; an operator may set it between two tries."""


def read_image_disks(root: Element) -> ImageDisks:
    """Return the volumes of the first image of a DescribeImages answer."""
    device = text_of(root.find(".//rootDeviceName"))
    sizes = {
        text_of(item.find("deviceName")): whole_number(text_of(element_at(item, "ebs/volumeSize"))) or 0
        for item in elements_at(root, "imagesSet/item/blockDeviceMapping/item")
    }
    return ImageDisks(
        root_device=device,
        root_size=sizes.get(device, 0),
        devices=tuple(sizes),
        volumes=tuple(_volumes(root)),
        platform=text_of(root.find(".//platformDetails")),
        architecture=text_of(root.find(".//architecture")),
    )


def _volumes(root: Element) -> Iterator[tuple[str, VolumeFacts]]:
    """Yield device and facts of each EBS volume; an AMI may map instance stores, too."""
    for item in elements_at(root, "imagesSet/item/blockDeviceMapping/item"):
        if (ebs := item.find("ebs")) is not None:
            yield text_of(item.find("deviceName")), read_facts(ebs, size="volumeSize")


class ImageLookup:
    """Images and snapshots of one region.

    Args:
        client: the connection to EC2.
        clock: seconds.
    """

    def __init__(self, client: Client, *, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._guests: dict[str, tuple[float, Guest]] = {}
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
        found = await self._learnt(image)
        if launch.root_volume and not found.root_device:
            raise BadParameter(f"AMI {image} has no root volume: remove VOLUMESIZE and the like")
        return found

    async def _learnt(self, image: str) -> ImageDisks:
        if image not in self._images:
            self._images[image] = await self._client.call("DescribeImages", {"ImageId.1": image}, read=read_image_disks)
        return self._images[image]

    async def learn(self, image: str, snapshots: tuple[str, ...]) -> None:
        """Look up an image and snapshots, as far as EC2 tells, so that `known` has what a price depends on."""
        with suppress(ProviderError):
            await self._learnt(image)
        with suppress(ProviderError):
            await self.sizes_of(snapshots)

    def known(self, image: str) -> ImageDisks | None:
        """Return the volumes of an image that was looked up; None for any other."""
        return self._images.get(image)

    @property
    def snapshots(self) -> Mapping[str, int]:
        """Return the GiB of each snapshot that was looked up."""
        return self._snapshots

    async def read_guest(self, image: str) -> None:
        """Read the tag that names the image's guest, unless that was done within the last minute."""
        if image in self._guests and self._clock() < self._guests[image][0] + _TAG_SECONDS:
            return
        try:
            guest = await self._client.call("DescribeImages", {"ImageId.1": image}, read=_read_guest)
        except (PermissionDenied, BadParameter):
            guest = "auto"  # if the image cannot be used, the create says so
        self._guests[image] = self._clock(), guest

    def guest_of(self, image: str) -> Guest:
        """Return the guest that the image's tag names, as it was last read; `auto` for none."""
        return self._guests[image][1] if image in self._guests else "auto"

    async def sizes_of(self, snapshots: tuple[str, ...]) -> Mapping[str, int]:
        """Return the GiB of these snapshots. Raises BadParameter for one that EC2 does not have."""
        if missing := [each for each in snapshots if each not in self._snapshots]:
            self._snapshots |= await self._client.call(
                "DescribeSnapshots", numbered("SnapshotId", missing), read=_read_sizes
            )
        return {each: self._snapshots.get(each, 0) for each in snapshots}


def _read_guest(root: Element) -> Guest:
    tags = read_tags(elements_at(root, "imagesSet/item/tagSet/item"))
    return guest_named(tags.get(GUEST_TAG, "")) or "auto"


def _read_sizes(root: Element) -> dict[str, int]:
    return {
        text_of(item.find("snapshotId")): whole_number(text_of(item.find("volumeSize"))) or 0
        for item in elements_at(root, "snapshotSet/item")
    }
