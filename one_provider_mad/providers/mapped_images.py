"""The cloud's image for each DISK of a VM: by `[images]`, or else by attributes that the image hands on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from one_provider_mad.domain import Value, VmRequest, whole_number
from one_provider_mad.errors import BadParameter
from one_provider_mad.mappings import Guest, guest_named, is_volatile
from one_provider_mad.providers.inherited import inherited
from one_provider_mad.providers.interface import ProviderContext


class MappedImage(Value, frozen=True, kw_only=True):
    """What the cloud has for the image of a DISK.

    Attributes:
        image: the cloud's image or snapshot, "" when nothing is known for this image.
        guest: program in the guest that reads the context; `auto` when neither configuration nor image says so.
        user: user to log in as, "" when it is not known.
        smallest_disk: GiB that the root volume has at least, 0 for no such bound.
    """

    image: str = ""
    guest: Guest = "auto"
    user: str = ""
    smallest_disk: int = 0


def mapped_image(disk: Mapping[str, str], context: ProviderContext) -> MappedImage:
    """Return what the cloud has for the image of a DISK; an empty value for a volatile disk.

    Each attribute comes from `[images]`, or else from the image's own PROVIDER_ attribute, which arrives in the DISK.

    Raises:
        BadParameter: PROVIDER_GUEST or PROVIDER_SMALLEST_DISK of the image has no valid value.
    """
    if is_volatile(disk):
        return MappedImage()
    entry = context.mappings.image_for(disk)
    guest, smallest = _guest(disk, context), _smallest_disk(disk, context)
    user = inherited(disk, "PROVIDER_USER", context)
    if entry is None:
        image = inherited(disk, "PROVIDER_IMAGE", context)
        return MappedImage(image=image, guest=guest, user=user, smallest_disk=smallest)
    return MappedImage(
        image=entry.image,
        guest=entry.guest if entry.guest != "auto" else guest,
        user=entry.user or user,
        smallest_disk=entry.smallest_disk or smallest,
    )


def root_disk(request: VmRequest) -> Mapping[str, str]:
    """Return the VM's first DISK if it has an image, from which the instance boots; else an empty mapping.

    A CD-ROM in front, to install from, is no such disk: clouds have no place for it.
    """
    disks = request.template.vectors("DISK")
    return disks[0] if disks and not is_volatile(disks[0]) and not is_cdrom(disks[0]) else {}


def further_disks(request: VmRequest) -> Sequence[Mapping[str, str]]:
    """Return the VM's DISKs besides the one from which the instance boots, in their order."""
    disks = request.template.vectors("DISK")
    return disks[1:] if root_disk(request) else disks


def is_cdrom(disk: Mapping[str, str]) -> bool:
    """Return True for a DISK with an image of the type CDROM (`CDROM`, `RBD_CDROM`...)."""
    return "CDROM" in disk.get("TYPE", "").upper()


def image_name(disk: Mapping[str, str]) -> str:
    """Return the image of a DISK for messages, as `debian-12 (7)`."""
    name, number = disk.get("IMAGE", ""), disk.get("IMAGE_ID", "")
    return f"{name} ({number})" if name and number else name or number


def _guest(disk: Mapping[str, str], context: ProviderContext) -> Guest:
    given = inherited(disk, "PROVIDER_GUEST", context).lower()
    if (guest := guest_named(given or "auto")) is not None:
        return guest
    known = ", ".join(get_args(Guest))
    raise BadParameter(f"PROVIDER_GUEST={given[:40]} of image {image_name(disk)} is none of {known}: correct the image")


def _smallest_disk(disk: Mapping[str, str], context: ProviderContext) -> int:
    given = inherited(disk, "PROVIDER_SMALLEST_DISK", context)
    size = whole_number(given or "0")
    if size is None or size < 0:
        raise BadParameter(
            f"PROVIDER_SMALLEST_DISK={given[:40]} of image {image_name(disk)} is not a number of GiB: correct the image"
        )
    return size
