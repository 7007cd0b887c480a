"""Lists the images and subnets of an account, for the operator who writes `[images]` and `[networks]`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from ipaddress import IPv4Network
from typing import NamedTuple

from one_provider_mad.errors import PermissionDenied
from one_provider_mad.mappings import Guest, guest_named
from one_provider_mad.providers.ec2.client import Client
from one_provider_mad.providers.ec2.image_disks import GUEST_TAG
from one_provider_mad.providers.ec2.instances import read_tags
from one_provider_mad.providers.ec2.query import filtered, numbered
from one_provider_mad.providers.interface import CloudImage, CloudNetwork, CloudRange
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

_PAGE = {"MaxResults": "1000"}
"""The largest page of DescribeImages, DescribeSubnets and DescribeSecurityGroups."""

KEPT_AT_BEGIN, KEPT_AT_END = 4, 1
"""Addresses at both ends of a subnet that EC2 keeps for itself: network, router, DNS, future use; and the broadcast
address (docs.aws.amazon.com, Amazon VPC User Guide, "Subnet CIDR blocks")."""

RANGE_SIZE = 4096
"""Most addresses in one range: onevnet shows and changes each range as a whole."""

USER_TAG = "PROVIDER_USER"
"""Tag of an image of the account's own with the user to log in as."""


class Publisher(NamedTuple):
    """A maker of images.

    Attributes:
        account: number of its AWS account.
        name: for a person.
        user: the user that its images let log in.
        names: patterns of the names of its images for servers.
        guest: the program in its images that reads user data.
        note: a sentence on that.
    """

    account: str
    name: str
    user: str
    names: tuple[str, ...]
    guest: Guest = "cloud-init"
    note: str = ""


PUBLISHERS = (
    Publisher("136693071363", "Debian", "admin", ("debian-*",)),
    Publisher("099720109477", "Ubuntu", "ubuntu", ("ubuntu/images/hvm-ssd*/ubuntu-*-server-*",)),
    Publisher("764336703387", "AlmaLinux", "ec2-user", ("AlmaLinux OS *",)),
    Publisher("137112412989", "Amazon Linux", "ec2-user", ("al2023-ami-2023.*", "amzn2-ami-hvm-2.0.*-gp2")),
    Publisher(
        "801119661308",
        "Windows",
        "Administrator",
        ("Windows_Server-*-English-Full-Base-*", "Windows_Server-*-English-Core-Base-*"),
        guest="none",
        note="EC2Launch reads no CONTEXT: one-provider console --password shows the password of Administrator",
    ),
)
"""Accounts and names: kubernetes/kops, docs/operations/images.md (Debian, Ubuntu, Amazon Linux);
AlmaLinux/cloud-images, almalinux_9_ami.pkr.hcl, with its user; Amazon's own images of Windows. Users:
docs.aws.amazon.com, Amazon EC2 User Guide, "Manage system users on your Linux instance"."""

_DATED = re.compile(r"[-_. ]?(?:\d+\.)*20\d\d[-.]?\d\d[-.]?\d\d(?:[-.]\d+)*")
"""The date in an image's name, with the version before and the number of the build after it."""

_WILD, _ESCAPED = re.compile(r"([*?\\])"), r"\\\1"
"""Finds the characters that have a meaning in a filter's value, and escapes them ("Filter EC2 resources")."""

_ALMA = re.compile(r"(AlmaLinux OS \d+)[\d.]*")


async def images(client: Client, match: str) -> list[CloudImage]:
    """Return the newest image of each of the publishers' families, and all that the account has or is given.

    Deprecated images are left out by EC2 itself (API_DescribeImages, IncludeDeprecated).

    Raises:
        ProviderError: a page was refused or not answered.
    """
    patterns = [pattern for publisher in PUBLISHERS for pattern in publisher.names]
    if match:
        words = {match, match.lower(), match.capitalize()}  # EC2 distinguishes them
        patterns += [f"*{_WILD.sub(_ESCAPED, word)}*" for word in sorted(words)]
    usable = {"state": ["available"]}
    accounts = [publisher.account for publisher in PUBLISHERS]
    servers = {**usable, "root-device-type": ["ebs"], "name": patterns}
    published = await _all(client, numbered("Owner", accounts), filtered(servers))
    own = await _all(client, numbered("Owner", ["self"]), filtered(usable))
    found = [*newest_of_families(published), *own]
    wanted = match.casefold()
    kept = [each for each in found if wanted in f"{each.image_id}\n{each.name}\n{each.publisher}".casefold()]
    return sorted(kept, key=lambda each: (-each.created_at, each.image_id))


async def _all(client: Client, *requested: Mapping[str, str]) -> list[CloudImage]:
    form = {name: value for part in requested for name, value in part.items()} | _PAGE
    return [image async for page in client.pages("DescribeImages", form, read=read_images) for image in page]


def newest_of_families(found: Iterable[CloudImage]) -> Iterator[CloudImage]:
    """Yield the newest image of each family: one publisher, architecture, and name but for date and version."""
    newest: dict[tuple[str, str, str], CloudImage] = {}
    for image in found:
        key = (image.publisher, image.architecture, family(image.name))
        if key not in newest or newest[key].created_at < image.created_at:
            newest[key] = image
    yield from newest.values()


def family(name: str) -> str:
    """Return an image's name without date and version; of AlmaLinux the major version stays."""
    if match := _ALMA.match(name):
        return match[1] + name[match.end() :]
    return _DATED.sub("", name)


def read_images(root: Element) -> list[CloudImage]:
    """Return the images in an answer to DescribeImages."""
    return [_image(item) for item in elements_at(root, "imagesSet/item")]


def _image(item: Element) -> CloudImage:
    account = text_of(item.find("imageOwnerId"))
    publisher = next((each for each in PUBLISHERS if each.account == account), None)
    tag_set = item.find("tagSet")
    tags = read_tags(tag_set) if tag_set is not None else {}
    guest: Guest = publisher.guest if publisher else guest_named(tags.get(GUEST_TAG, "")) or "auto"
    return CloudImage(
        image_id=text_of(item.find("imageId")),
        name=text_of(item.find("name")),
        publisher=publisher.name if publisher else f"account {account}",
        created_at=_seconds(text_of(item.find("creationDate"))),
        architecture=text_of(item.find("architecture")),
        user=publisher.user if publisher else tags.get(USER_TAG, ""),
        guest=guest,
        smallest_disk=_root_size(item),
        note=publisher.note if publisher else "",
    )


def _root_size(item: Element) -> int:
    device = text_of(item.find("rootDeviceName"))
    for mapping in elements_at(item, "blockDeviceMapping/item"):
        if text_of(mapping.find("deviceName")) == device:
            size = text_of(element_at(mapping, "ebs/volumeSize"))
            return int(size) if size.isdecimal() else 0
    return 0


def _seconds(moment: str) -> float:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return 0.0


# Networks


async def networks(client: Client) -> list[CloudNetwork]:
    """Return the subnets of the region, by VPC and address.

    Raises:
        ProviderError: a page was refused or not answered.
    """
    pages = client.pages("DescribeSubnets", _PAGE, read=lambda root: list(elements_at(root, "subnetSet/item")))
    subnets = [item async for page in pages for item in page]
    vpcs = await _names_of_vpcs(client)
    groups = await _default_groups(client)
    found = [_network(item, vpcs, groups) for item in subnets]
    return sorted(found, key=lambda each: (each.place, each.gateway, each.network_id))


async def _names_of_vpcs(client: Client) -> dict[str, str]:
    """Return the VPCs' names; none without the right to list VPCs, since they are only shown."""

    def read(root: Element) -> dict[str, str]:
        return {text_of(item.find("vpcId")): _name(item) for item in elements_at(root, "vpcSet/item")}

    found: dict[str, str] = {}
    try:
        async for page in client.pages("DescribeVpcs", _PAGE, read=read):
            found |= page
    except PermissionDenied:
        return {}
    return found


async def _default_groups(client: Client) -> dict[str, str]:
    """Return the default security group of each VPC; none without the right to list groups."""

    def read(root: Element) -> dict[str, str]:
        items = elements_at(root, "securityGroupInfo/item")
        return {text_of(item.find("vpcId")): text_of(item.find("groupId")) for item in items}

    found: dict[str, str] = {}
    requested = {**filtered({"group-name": ["default"]}), **_PAGE}
    try:
        async for page in client.pages("DescribeSecurityGroups", requested, read=read):
            found |= page
    except PermissionDenied:
        return {}
    return found


def _name(item: Element) -> str:
    tag_set = item.find("tagSet")
    return read_tags(tag_set).get("Name", "") if tag_set is not None else ""


def _network(item: Element, vpcs: Mapping[str, str], groups: Mapping[str, str]) -> CloudNetwork:
    vpc, cidr = text_of(item.find("vpcId")), text_of(item.find("cidrBlock"))
    zone = text_of(item.find("availabilityZone"))
    is_public = text_of(item.find("mapPublicIpOnLaunch"))
    block = IPv4Network(cidr) if cidr else None
    named = f"{vpc} ({vpcs[vpc]})" if vpcs.get(vpc) else vpc
    return CloudNetwork(
        network_id=text_of(item.find("subnetId")),
        name=_name(item),
        place=f"{named}, {zone}, {cidr or 'IPv6 only'}",
        ranges=tuple(usable_ranges(block)) if block else (),
        gateway=str(block[1]) if block else "",
        mask=str(block.netmask) if block else "",
        security_groups=(groups[vpc],) if vpc in groups else (),
        public_address=is_public == "true" if is_public else None,
    )


def usable_ranges(block: IPv4Network) -> Sequence[CloudRange]:
    """Return the addresses of a subnet without those that EC2 keeps, in ranges of at most RANGE_SIZE."""
    begin, end = KEPT_AT_BEGIN, block.num_addresses - KEPT_AT_END
    return [CloudRange(first=str(block[at]), size=min(RANGE_SIZE, end - at)) for at in range(begin, end, RANGE_SIZE)]
