"""What a cloud has for the images, networks, context and security groups of OpenNebula's templates, by configuration.

The tables `[images]`, `[networks]`, `[context]` and `[security_groups]` name them in the cloud's own words. End users
write templates and, in most OpenNebulas, images and networks; only the operator writes these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar, get_args

from msgspec import Meta, Struct

from one_provider_mad.domain import Value

Guest = Literal["auto", "cloud-init", "one-context", "cloudbase-init", "none"]
"""The program in a guest that reads its context: `auto` is what is known of the image, else cloud-init. cloudbase-init
is cloud-init's counterpart on Windows."""

Addresses = Literal["cloud", "opennebula"]
"""Who chooses the addresses of a network's interfaces."""

_VOLATILE = frozenset({"FS", "SWAP"})
"""TYPE of disks without an image, in upper case (OpenNebula src/image/ImagePool.cc, acquire_disk). For a disk with an
image the core replaces TYPE, IMAGE_ID and DATASTORE_ID of the template (Image::disk_attribute)."""

_Mapping = TypeVar("_Mapping")


def is_volatile(disk: Mapping[str, str]) -> bool:
    """Return True for a DISK without an image."""
    return disk.get("TYPE", "").upper() in _VOLATILE


def guest_named(text: str) -> Guest | None:
    """Return the guest of this name, in upper or lower case; None for another word."""
    return next((guest for guest in get_args(Guest) if guest == text.strip().lower()), None)


class ImageMapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in the cloud for one of OpenNebula's images, which the table names by NAME or number."""

    image: str
    """The cloud's image, as its PUBLIC_CLOUD attribute for images takes it: an AMI. For an image that is attached as a
    further disk: a snapshot."""

    datastore: str = ""
    """Name or number of the datastore that the image must lie in. A VM whose first disk is such an image asks for this
    cloud even without a PUBLIC_CLOUD section. Empty: any datastore, and then the VM needs the section, since every user
    may give an image this name."""

    guest: Guest = "auto"
    """The program in the image that reads the context."""

    user: str = ""
    """User to log in as, shown for the VM; empty: the image's own is not known."""

    smallest_disk: Annotated[int, Meta(ge=0)] = 0
    """GiB that the cloud's image needs for its root volume, if that is more than the template's SIZE."""


class NetworkMapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in the cloud for one of OpenNebula's virtual networks, which the table names by NAME or number."""

    subnet: str = ""
    """The cloud's subnet or network; empty: its default one. EC2 tries several, with commas between, one by one."""

    security_groups: tuple[str, ...] = ()
    """Ids of the cloud's security groups for interfaces in this network; empty: the cloud's default."""

    public_address: bool | None = None
    """Whether an interface gets a public address; unset: as the subnet says."""

    addresses: Addresses = "cloud"
    """`opennebula` asks the cloud for the address that OpenNebula has leased, so its ranges must lie in the subnet
    (`one-provider networks` prints such networks); `cloud` lets the cloud choose."""


class ContextSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a VM's CONTEXT reaches its guest."""

    guest: Guest | None = None
    """The program in guests that reads the context, where neither template nor image says so: `cloud-init`,
    `one-context`, `cloudbase-init` on Windows, `none` to send no context; `auto` is cloud-init unless the cloud's image
    says otherwise. Unset: lines as in release 0.1, which hardly any guest reads."""


class SecurityGroupSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenNebula's own security groups in the cloud."""

    mirror: bool = False
    """Make OpenNebula's security groups of a VM's interfaces groups of the cloud, and keep their rules the same; needs
    further rights."""


class Mappings(Value, frozen=True, kw_only=True):
    """The four tables of one configuration.

    Attributes:
        images: by NAME or number of OpenNebula's image.
        networks: by NAME or number of OpenNebula's virtual network.
        context: how a VM's CONTEXT reaches its guest.
        security_groups: OpenNebula's own.
    """

    images: Mapping[str, ImageMapping] = {}
    networks: Mapping[str, NetworkMapping] = {}
    context: ContextSettings = ContextSettings()
    security_groups: SecurityGroupSettings = SecurityGroupSettings()

    def image_for(self, disk: Mapping[str, str]) -> ImageMapping | None:
        """Return what `[images]` has for the image of a DISK; None for nothing, and for a disk without an image.

        An entry counts for its `datastore` only. One by number comes before one by NAME.
        """
        if is_volatile(disk):
            return None
        found = _named(self.images, number=disk.get("IMAGE_ID", ""), name=disk.get("IMAGE", ""))
        return next((each for each in found if _lies_in(disk, each.datastore)), None)

    def network_for(self, nic: Mapping[str, str]) -> NetworkMapping | None:
        """Return what `[networks]` has for the network of a NIC, None for nothing; a number comes before a NAME."""
        found = _named(self.networks, number=nic.get("NETWORK_ID", ""), name=nic.get("NETWORK", ""))
        return next(iter(found), None)

    def asks_for_cloud(self, disk: Mapping[str, str]) -> bool:
        """Return True for a first DISK whose image `[images]` maps in a datastore of its own.

        Users cannot claim that: the core writes the image and its datastore into the DISK, and the operator decides who
        may create images in this datastore.
        """
        found = self.image_for(disk)
        return found is not None and bool(found.datastore)


def _named(table: Mapping[str, _Mapping], *, number: str, name: str) -> list[_Mapping]:
    """Return the entries by number and by NAME, in this order; a key of digits is a number, never a NAME."""
    by_number = [table[number]] if _is_number(number) and number in table else []
    by_name = [table[name]] if not _is_number(name) and name in table else []
    return by_number + by_name


def _lies_in(disk: Mapping[str, str], datastore: str) -> bool:
    return not datastore or disk.get("DATASTORE_ID" if _is_number(datastore) else "DATASTORE") == datastore


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
