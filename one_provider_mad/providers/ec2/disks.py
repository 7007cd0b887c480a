"""Disk hotplug with EBS volumes: each is made for one DISK_ID of one instance, tagged so, and deleted with it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Collection, Mapping
from contextlib import suppress
from urllib.parse import urlencode

from one_provider_mad.domain import TAG_PREFIX, DeployId, Value, whole_number
from one_provider_mad.errors import (
    AuthenticationRefused,
    BadParameter,
    InstanceNotFound,
    ProviderError,
    ProviderUnavailable,
    WrongState,
)
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.gathered import Gathered, grouped
from one_provider_mad.providers.ec2.image_disks import ImageLookup
from one_provider_mad.providers.ec2.instances import Details, read_details, read_tags
from one_provider_mad.providers.ec2.launch_disks import DISKS_TAG, SNAPSHOT, launched_disk
from one_provider_mad.providers.ec2.query import filtered, pairs, tagged
from one_provider_mad.providers.ec2.settings import Ec2Settings
from one_provider_mad.providers.ec2.volumes import device_for, volume_size
from one_provider_mad.providers.interface import ProviderContext
from one_provider_mad.providers.mapped_images import mapped_image
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

INSTANCE_TAG = f"{TAG_PREFIX}INSTANCE"
DISK_TAG = f"{TAG_PREFIX}DISK_ID"
"""Tags of a volume made for a disk, besides those of its instance."""

_GONE = frozenset({"deleting", "deleted", "error"})

_PAUSE = 1.0
"""Longest pause in seconds between two lookups of a volume; a new one takes some seconds."""

_LEAVING = 20.0
"""Seconds that a terminate waits at most for volumes that are being created or detached."""

_UNSEEN = 30.0
"""Seconds after which a new volume that is not listed counts as deleted; another is made with a new create token."""


_MOST_UNSEEN = 3
"""Most volumes made in a row while none of them is listed, so that late listings do not buy many volumes."""


class EbsVolume(Value, frozen=True, kw_only=True):
    """One volume.

    Attributes:
        volume_id: EC2's id.
        state: `creating`, `available`, `in-use`, `deleting`, `deleted` or `error`.
        size: GiB.
        instance_id: instance that it is attached to or is being detached from, "" for none.
        attachment: `attaching`, `attached`, `detaching`..., "" for none.
        device: device name at the instance.
        ends_with_instance: it is deleted with its instance.
        disk_id: DISK_ID of its disk, "" for none.
        is_root: it is the root volume, made with the instance.
        is_tagged: it has the tags of one disk, and not only that of its launch.
        made_for: instance in its tags, "" for none.
    """

    volume_id: str
    state: str
    size: int
    instance_id: str = ""
    attachment: str = ""
    device: str = ""
    ends_with_instance: bool = False
    disk_id: str = ""
    is_root: bool = False
    is_tagged: bool = False
    made_for: str = ""


def read_volumes(root: Element) -> list[EbsVolume]:
    """Return every volume of a DescribeVolumes answer."""
    if root.find("volumeSet") is None:
        raise ProviderUnavailable("EC2: the answer to DescribeVolumes has no list, not even an empty one")
    return [_volume(item) for item in elements_at(root, "volumeSet/item")]


def _volume(item: Element) -> EbsVolume:
    tags = read_tags(elements_at(item, "tagSet/item"))
    device = text_of(element_at(item, "attachmentSet/item/device"))
    launched = launched_disk(tags, device) if DISK_TAG not in tags else None
    return EbsVolume(
        volume_id=text_of(item.find("volumeId")),
        state=text_of(item.find("status")),
        size=_gib(text_of(item.find("size"))),
        instance_id=text_of(element_at(item, "attachmentSet/item/instanceId")),
        attachment=text_of(element_at(item, "attachmentSet/item/status")),
        device=device,
        ends_with_instance=text_of(element_at(item, "attachmentSet/item/deleteOnTermination")) == "true",
        disk_id=launched.disk_id if launched else tags.get(DISK_TAG, ""),
        is_root=launched is not None and launched.is_root,
        is_tagged=DISK_TAG in tags,
        made_for=tags.get(INSTANCE_TAG, ""),
    )


class Disks:
    """The volumes of instances.

    Args:
        client: the connection to the cloud.
        images: looks up the sizes of snapshots.
        context: the cloud's tables.
        settings: the table `[ec2]`.
    """

    def __init__(self, client: Client, images: ImageLookup, context: ProviderContext, settings: Ec2Settings) -> None:
        self._client = client
        self._images = images
        self._context = context
        self._tags = settings.tags
        self._pause = min(settings.watch_interval, _PAUSE)
        self._generations: dict[tuple[str, str], int] = {}
        self._tagged = Gathered(self._tagged_volumes, name="volumes of instances")

    async def attach(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Make a volume for the disk, unless there is one, and attach it, unless it is attached.

        Raises:
            BadParameter: no snapshot stands for the disk's image, or the disk has no size.
            WrongState: the instance is gone.
        """
        disk_id, mapped = _disk_id(disk), mapped_image(disk, self._context)
        if (disk.get("IMAGE_ID") or disk.get("SOURCE")) and not mapped.image.startswith(SNAPSHOT):
            raise BadParameter(
                f"disk {disk_id} is an image, and no snapshot stands for it in [images]: attach a volatile disk"
            )
        snapshots = await self._images.sizes_of((mapped.image,) if mapped.image else ())
        size = max(volume_size(disk), mapped.smallest_disk, *snapshots.values(), 1)
        details = await self.details(deploy_id)
        volume = await self._find(deploy_id, disk_id)
        if volume is not None and not volume.attachment and volume.size != size:
            await self._delete(deploy_id, disk_id, volume)  # of an earlier disk with this number, whose attach failed
            volume = None
        volume = volume or await self._make(details, disk_id, size=size, snapshot=mapped.image)
        if volume.instance_id != deploy_id or volume.attachment not in ("attaching", "attached"):
            volume = await self._settled(volume.volume_id)
            device = device_for(disk, [each.device for each in details.volumes])
            call = {"VolumeId": volume.volume_id, "InstanceId": deploy_id, "Device": device}
            try:
                await self._client.call("AttachVolume", call, read=lambda _: None)
            except ProviderError as error:
                if error.definite and not error.is_paced:
                    await self._give_up(deploy_id, disk_id, volume)
                raise
        await self._end_with_instance(deploy_id, volume.volume_id)

    async def _give_up(self, deploy_id: DeployId, disk_id: str, volume: EbsVolume) -> None:
        """Delete a volume that was not attached, since OpenNebula forgets the disk; EC2 deletes no attached volume."""
        with suppress(ProviderError):
            await self._delete(deploy_id, disk_id, volume)

    async def _delete(self, deploy_id: DeployId, disk_id: str, volume: EbsVolume) -> None:
        await self._client.call("DeleteVolume", {"VolumeId": volume.volume_id}, read=lambda _: None)
        key = (deploy_id, disk_id)
        self._generations[key] = self._generations.get(key, 0) + 1

    async def detach(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Detach the disk's volume and delete it, as OpenNebula deletes a volatile disk; no volume is fine."""
        disk_id = _disk_id(disk)
        volume = await self._find(deploy_id, disk_id)
        if volume is None:
            await self.details(deploy_id)
            return
        if volume.is_root:
            raise BadParameter(f"disk {disk_id} is the root volume of instance {deploy_id}, which cannot be detached")
        if not volume.is_tagged:
            await self._tag(deploy_id, volume)
        if volume.attachment in ("attaching", "attached", "busy"):
            call = {"VolumeId": volume.volume_id, "InstanceId": volume.instance_id}
            await self._client.call("DetachVolume", call, read=lambda _: None)
        await self._delete(deploy_id, disk_id, await self._settled(volume.volume_id))

    async def resize(self, deploy_id: DeployId, disk: Mapping[str, str]) -> None:
        """Enlarge the disk's volume; nothing to do for a root volume that its AMI has made larger already.

        Raises:
            BadParameter: the instance has no such volume, or it would shrink.
        """
        disk_id, size = _disk_id(disk), volume_size(disk)
        volume = await self._find(deploy_id, disk_id)
        if volume is None:
            await self.details(deploy_id)
            raise BadParameter(f"instance {deploy_id} has no volume for disk {disk_id}: only attached ones can grow")
        if size < volume.size and not volume.is_root:
            raise BadParameter(f"disk {disk_id} has {volume.size} GiB and cannot shrink to {size} GiB")
        if size > volume.size:
            call = {"VolumeId": volume.volume_id, "Size": str(size)}
            await self._client.call("ModifyVolume", call, read=lambda _: None)

    async def made_for(self, deploy_id: DeployId) -> frozenset[str]:
        """Return the DISK_IDs of all volumes made for an instance, attached or not, without its root volume."""
        volumes = await self._all_of(deploy_id)
        return frozenset(
            each.disk_id for each in volumes if each.disk_id and not each.is_root and each.state not in _GONE
        )

    async def release_all(self, deploy_id: DeployId) -> list[str]:
        """Make sure that no volume made for an instance outlives it; called just before it is terminated.

        There is work only after an attach or detach that was cut short. Instances that end at the same time share the
        call that looks for their volumes.

        Returns:
            A sentence for each volume that could not be released; the instance, which costs more, is terminated all
            the same.

        Raises:
            ProviderError: a later call may succeed.
        """
        volumes = (await self._tagged.ask(deploy_id)).get(deploy_id, [])
        return await release_each({each.volume_id: self._release(deploy_id, each) for each in volumes})

    async def _release(self, deploy_id: DeployId, volume: EbsVolume) -> None:
        if volume.state in _GONE or (volume.attachment and volume.ends_with_instance):
            return
        if volume.attachment in ("attaching", "attached", "busy"):
            await self._flag(deploy_id, volume.device)
            return
        try:
            async with asyncio.timeout(_LEAVING):
                volume = await self._settled(volume.volume_id)
        except TimeoutError as error:
            raise WrongState(f"it has been {volume.attachment or volume.state} for a long time") from error
        await self._client.call("DeleteVolume", {"VolumeId": volume.volume_id}, read=lambda _: None)

    async def details(self, deploy_id: DeployId) -> Details:
        """Return the instance with its volumes.

        Raises:
            InstanceNotFound: EC2 does not know the instance.
            WrongState: the instance is gone.
        """
        requested = filtered({"instance-id": [deploy_id]})
        found = await self._client.call("DescribeInstances", requested, read=read_details)
        if not found:
            raise InstanceNotFound(f"EC2 does not know instance {deploy_id}")
        if found[0].instance.state.is_gone:
            raise WrongState(f"instance {deploy_id} is {found[0].instance.raw_state}")
        return found[0]

    async def _find(self, deploy_id: DeployId, disk_id: str) -> EbsVolume | None:
        found = [each for each in await self._all_of(deploy_id) if each.disk_id == disk_id]
        alive = sorted((each for each in found if each.state not in _GONE), key=lambda each: each.volume_id)
        return next((each for each in alive if each.attachment), alive[0] if alive else None)

    async def _all_of(self, deploy_id: DeployId) -> list[EbsVolume]:
        """Return the volumes made for disks of an instance: those with its tag, and those of its launch."""
        tagged = (await self._tagged_volumes({deploy_id})).get(deploy_id, [])
        launched = await self._volumes({"attachment.instance-id": [deploy_id], "tag-key": [DISKS_TAG]})
        return [*tagged, *(each for each in launched if each.disk_id and not each.is_tagged)]

    async def _tag(self, deploy_id: DeployId, volume: EbsVolume) -> None:
        """Give a volume of the launch the tags of its disk, by which it is still known when it is detached."""
        tags = {INSTANCE_TAG: deploy_id, DISK_TAG: volume.disk_id}
        await self._client.call(
            "CreateTags", {"ResourceId.1": volume.volume_id, **pairs("Tag", tags)}, read=lambda _: None
        )

    async def _tagged_volumes(self, deploy_ids: Collection[DeployId]) -> Mapping[str, list[EbsVolume]]:
        """Return the volumes with the tags of a disk of these instances, by instance."""
        volumes = await self._volumes({f"tag:{INSTANCE_TAG}": sorted(deploy_ids)})
        return grouped(volumes, lambda each: each.made_for)

    async def _volumes(self, filters: Mapping[str, list[str]]) -> list[EbsVolume]:
        pages = self._client.pages("DescribeVolumes", filtered(filters), read=read_volumes)
        return [volume async for page in pages for volume in page]

    async def _make(self, details: Details, disk_id: str, *, size: int, snapshot: str) -> EbsVolume:
        """Create the volume; if a token's volume was deleted, take the next token.

        Raises:
            ProviderUnavailable: new volumes are not listed, so no more of them are made.
        """
        instance = details.instance
        owner = instance.identity.tags() if instance.identity else {}
        tags = {**self._tags, **owner, INSTANCE_TAG: instance.deploy_id, DISK_TAG: disk_id}
        key = (instance.deploy_id, disk_id)
        for _ in range(_MOST_UNSEEN):
            generation = self._generations.get(key, 0)
            call = {
                "AvailabilityZone": details.zone,
                "Size": str(size),
                "VolumeType": "gp3",
                **({"SnapshotId": snapshot} if snapshot else {}),
                **tagged("TagSpecification.1", "volume", tags),
            }
            # A hash of all parameters: the same token with other parameters would be a mismatch for ever.
            call["ClientToken"] = hashlib.sha256(f"{generation} {urlencode(call)}".encode()).hexdigest()
            volume_id = await self._client.call("CreateVolume", call, read=lambda root: text_of(root.find("volumeId")))
            if volume := await self._listed(volume_id):
                return volume
            self._generations[key] = generation + 1
        raise ProviderUnavailable(f"EC2: volumes made for disk {disk_id} of {instance.deploy_id} are not listed")

    async def _listed(self, volume_id: str) -> EbsVolume | None:
        """Return the volume once it is listed; None for a deleted one."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + _UNSEEN
        while True:
            found = await self._volumes({"volume-id": [volume_id]})
            if found:
                return None if found[0].state in _GONE else found[0]
            if loop.time() > patience:
                return None
            await asyncio.sleep(self._pause)

    async def _settled(self, volume_id: str) -> EbsVolume:
        """Return the volume once it is attached to nothing and available."""
        while True:
            volume = await self._listed(volume_id)
            if volume is None:
                raise ProviderUnavailable(f"EC2: volume {volume_id} is no longer listed, so the change failed")
            if volume.state == "available":
                return volume
            await asyncio.sleep(self._pause)

    async def _end_with_instance(self, deploy_id: DeployId, volume_id: str) -> None:
        """Have the volume deleted with its instance, or it would cost for ever."""
        for volume in (await self.details(deploy_id)).volumes:
            if volume.volume_id == volume_id:
                await self._flag(deploy_id, volume.device)

    async def _flag(self, deploy_id: DeployId, device: str) -> None:
        call = {
            "InstanceId": deploy_id,
            "BlockDeviceMapping.1.DeviceName": device,
            "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
        }
        await self._client.call("ModifyInstanceAttribute", call, read=lambda _: None)


async def release_each(releases: Mapping[str, Awaitable[None]]) -> list[str]:
    """Await the release of each part of an instance that is about to end.

    Args:
        releases: by the part's id.

    Returns:
        A sentence for each with which that did not work.

    Raises:
        ProviderError: a release may succeed when it is tried again.
    """
    outcomes = await asyncio.gather(*releases.values(), return_exceptions=True)
    failures = []
    for part, error in zip(releases, outcomes, strict=True):
        if error is None:
            continue
        is_final = isinstance(error, ProviderError) and error.definite and not error.is_paced
        if not is_final or isinstance(error, AuthenticationRefused):
            raise error
        failures.append(f"{part}: {error}")
    return failures


def _gib(text: str) -> int:
    return whole_number(text) or 0


def _disk_id(disk: Mapping[str, str]) -> str:
    disk_id = disk.get("DISK_ID", "")
    if not disk_id:
        raise BadParameter("DISK_ID is missing: nothing was done")
    return disk_id
