"""Converts the instances in EC2's answers to values; no I/O.

Elements are those of docs.aws.amazon.com, API_Instance; attributes for monitoring have upstream's names
(src/vmm_mad/remotes/ec2/ec2_driver.rb, EC2_INFO).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from one_provider_mad.domain import TAG_PREFIX, DeployId, Identity, Instance, InstanceState, Usage, Value, whole_number
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.providers.ec2.states import state_of
from one_provider_mad.providers.interface import Size
from one_provider_mad.safe_xml import Element, element_at, elements_at, text_of

UPSTREAM_TAG = "ONE_ID"
"""Upstream's tag with the VM's number."""

UPSTREAM_ATTRIBUTE = "AWS_ONE_ID"
"""Attribute with the value of upstream's tag, for an instance without a whole identity of ours."""

ATTRIBUTES = {
    "dnsName": "AWS_PUBLIC_DNS_NAME",
    "privateDnsName": "AWS_PRIVATE_DNS_NAME",
    "keyName": "AWS_KEY_NAME",
    "platform": "AWS_PLATFORM",
    "vpcId": "AWS_VPC_ID",
    "privateIpAddress": "AWS_PRIVATE_IP_ADDRESS",
    "ipAddress": "AWS_PUBLIC_IP_ADDRESS",
    "subnetId": "AWS_SUBNET_ID",
    "instanceType": "AWS_INSTANCE_TYPE",
    "imageId": "AWS_IMAGE_ID",
    "instanceLifecycle": "AWS_INSTANCE_LIFECYCLE",
}
"""Element to attribute, for elements whose text is the value."""

ZONE = "AWS_AVAILABILITY_ZONE"
SECURITY_GROUPS = "AWS_SECURITY_GROUPS"
VOLUMES = "AWS_VOLUMES"
PLATFORM = "AWS_PLATFORM_DETAILS"
"""Attribute with EC2's name of the operating system by which an instance is charged, for all but plain Linux."""

TENANCY = "AWS_TENANCY"
"""Attribute with `dedicated` or `host`, for an instance on hardware of its own."""

STATE_REASON = "AWS_STATE_REASON"
LISTED_NAMES = (
    *ATTRIBUTES.values(),
    *(ZONE, SECURITY_GROUPS, VOLUMES, PLATFORM, TENANCY, STATE_REASON, UPSTREAM_ATTRIBUTE),
)
"""Every attribute that a listed instance may have."""

NO_SIZES: Mapping[str, Size] = {}

_HOLDS_MEMORY = frozenset({InstanceState.PENDING, InstanceState.RUNNING})
"""States in which an instance uses the memory of its type, as upstream's driver counted."""


class Volume(Value, frozen=True, kw_only=True):
    """A volume attached to an instance.

    Attributes:
        device: `/dev/sdf`.
        volume_id: EC2's id.
    """

    device: str
    volume_id: str


class Details(Value, frozen=True, kw_only=True):
    """An instance with the details that changes to it need.

    Attributes:
        instance: as in every listing.
        zone: availability zone.
        volumes: attached volumes.
        interfaces: EC2's ids of the network interfaces, in the order of their device indexes.
    """

    instance: Instance
    zone: str
    volumes: tuple[Volume, ...]
    interfaces: tuple[str, ...] = ()


def read_instances(root: Element, *, sizes: Mapping[str, Size] = NO_SIZES) -> list[Instance]:
    """Return every instance of a DescribeInstances answer; a running one uses the memory of its type."""
    return [_instance(item, sizes) for item in _listed(root)]


def _listed(root: Element) -> Iterator[Element]:
    if root.find("reservationSet") is None:
        raise ProviderUnavailable("EC2: the answer to DescribeInstances has no list, not even an empty one")
    return elements_at(root, "reservationSet/item/instancesSet/item")


def read_details(root: Element) -> list[Details]:
    """Return every instance of a DescribeInstances answer, with zone and volumes."""
    return [
        Details(
            instance=_instance(item),
            zone=text_of(element_at(item, "placement/availabilityZone")),
            volumes=tuple(
                Volume(device=device, volume_id=volume_id)
                for device, volume_id in _attached(item.find("blockDeviceMapping"))
            ),
            interfaces=_interfaces(item),
        )
        for item in _listed(root)
    ]


def _interfaces(item: Element) -> tuple[str, ...]:
    found = [
        (text_of(element_at(each, "attachment/deviceIndex")), text_of(each.find("networkInterfaceId")))
        for each in elements_at(item, "networkInterfaceSet/item")
    ]
    return tuple(interface_id for _, interface_id in sorted((whole_number(at) or 0, each) for at, each in found))


def read_launched(root: Element) -> list[Instance]:
    """Return the instances of a RunInstances answer."""
    return [_instance(item) for item in elements_at(root, "instancesSet/item")]


def read_changed(root: Element) -> dict[str, str]:
    """Return ids and present states in an answer to StartInstances, StopInstances or TerminateInstances."""
    return {
        text_of(item.find("instanceId")): text_of(element_at(item, "currentState/name"))
        for item in elements_at(root, "instancesSet/item")
    }


def read_tags(items: Iterable[Element]) -> dict[str, str]:
    """Return the tags of a `tagSet`.

    Raises:
        ProviderUnavailable: a tag is in it twice with different values, so that the owner is not certain.
    """
    fields = [{child.tag: child.text or "" for child in item} for item in items]  # half the time of two searches
    pairs = [(each.get("key", ""), each.get("value", "")) for each in fields]
    tags = dict(pairs)
    if len(tags) < len(pairs) and any(tags[key] != value for key, value in pairs):
        raise ProviderUnavailable("EC2: the answer contradicts itself: a tag is in it twice, and differently")
    return tags


def _instance(item: Element, sizes: Mapping[str, Size] = NO_SIZES) -> Instance:
    parts = _parts(item)
    tags = read_tags(parts["tagSet"]) if "tagSet" in parts else {}
    raw_state = _text_in(parts.get("instanceState"), "name")
    identity = Identity.from_tags(tags)
    attributes = {name: text for tag, name in ATTRIBUTES.items() if (text := text_of(parts.get(tag)))}
    placement = _parts(parts["placement"]) if "placement" in parts else {}
    if zone := text_of(placement.get("availabilityZone")):
        attributes[ZONE] = zone
    if (tenancy := text_of(placement.get("tenancy"))) not in ("", "default"):
        attributes[TENANCY] = tenancy
    if (platform := text_of(parts.get("platformDetails"))) not in ("", "Linux/UNIX"):
        attributes[PLATFORM] = platform
    if groups := ",".join(text_of(group.find("groupId")) for group in parts.get("groupSet", ())):
        attributes[SECURITY_GROUPS] = groups
    if volumes := ",".join(map(":".join, _attached(parts.get("blockDeviceMapping")))):
        attributes[VOLUMES] = volumes
    if UPSTREAM_TAG in tags and not any(key.startswith(TAG_PREFIX) for key in tags):
        attributes[UPSTREAM_ATTRIBUTE] = tags[UPSTREAM_TAG]
    state = state_of(raw_state)
    if state is not InstanceState.RUNNING and (code := _text_in(parts.get("stateReason"), "code")):
        attributes[STATE_REASON] = code
    size = sizes.get(attributes.get("AWS_INSTANCE_TYPE", "")) if state in _HOLDS_MEMORY else None
    launched_at, reason = _seconds(text_of(parts.get("launchTime"))), text_of(parts.get("reason"))
    return Instance(
        deploy_id=DeployId(text_of(parts.get("instanceId"))),
        state=state,
        raw_state=raw_state,
        identity=identity,
        name=tags.get("Name", ""),
        # This is the latest start: EC2 keeps no other timestamp of an instance itself.
        created_at=launched_at,
        state_since=launched_at if state in _HOLDS_MEMORY else _transition(reason),
        reason=_text_in(parts.get("stateReason"), "message") or reason,
        usage=Usage(memory=1024 * size.memory) if size else None,
        attributes=attributes,
    )


def _attached(mapping: Element | None) -> Iterator[tuple[str, str]]:
    """Yield device and volume id of each attached volume. `mapping` is a blockDeviceMapping."""
    for parts in map(_parts, mapping if mapping is not None else ()):
        yield text_of(parts.get("deviceName")), _text_in(parts.get("ebs"), "volumeId")


def _parts(element: Element) -> dict[str, Element]:
    """Return the children by name, in a quarter of `find`'s time: a listing has tens of thousands of elements."""
    return {str(child.tag): child for child in element}


def _text_in(element: Element | None, name: str) -> str:
    return text_of(_parts(element).get(name)) if element is not None else ""


_WHEN = re.compile(r"\((\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.\d+)?(?: GMT|Z)\)$")
"""The time at the end of a state transition reason, `User initiated (2026-12-01 09:30:00 GMT)`."""


def _transition(reason: str) -> float:
    """Return when an instance was stopped or terminated, seconds since the epoch; 0 where EC2 names no time."""
    found = _WHEN.search(reason)
    return _seconds(f"{found[1]}+00:00") if found else 0.0


def _seconds(moment: str) -> float:
    """Convert ISO 8601 to seconds since the epoch; 0 for any other text."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return 0.0
