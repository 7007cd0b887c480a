"""PURE: what EC2 says of its instances, as values.

Elements are those of docs.aws.amazon.com, API_Instance; attributes for monitoring have upstream's names
(src/vmm_mad/remotes/ec2/ec2_driver.rb, EC2_INFO).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from one_provider_mad.documents import Element, element_at, elements_at, text_of
from one_provider_mad.domain import TAG_PREFIX, DeployId, Identity, Instance, InstanceState, Usage, Value
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.providers.ec2.states import state_of
from one_provider_mad.providers.interface import Size

UPSTREAM_TAG = "ONE_ID"
"""Upstream's tag; its value is the VM's number."""

UPSTREAM_ATTRIBUTE = "AWS_ONE_ID"
"""Where a listed instance shows upstream's tag, if it has no whole identity of ours."""

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
"""Element to attribute, where the text is the value."""

ZONE = "AWS_AVAILABILITY_ZONE"
SECURITY_GROUPS = "AWS_SECURITY_GROUPS"
VOLUMES = "AWS_VOLUMES"
STATE_REASON = "AWS_STATE_REASON"
LISTED_NAMES = (*ATTRIBUTES.values(), ZONE, SECURITY_GROUPS, VOLUMES, STATE_REASON, UPSTREAM_ATTRIBUTE)
"""Every attribute that a listed instance may have."""

NO_SIZES: Mapping[str, Size] = {}

_HOLDS_MEMORY = frozenset({InstanceState.PENDING, InstanceState.RUNNING})
"""States whose instances upstream counted as using the host's room."""


class Volume(Value, frozen=True, kw_only=True):
    """A volume that an instance has.

    Attributes:
        device: `/dev/sdf`.
        volume_id: EC2's id of it.
    """

    device: str
    volume_id: str


class Details(Value, frozen=True, kw_only=True):
    """What only changes to an instance need to know.

    Attributes:
        instance: as every listing shows it.
        zone: availability zone.
        volumes: what is attached.
    """

    instance: Instance
    zone: str
    volumes: tuple[Volume, ...]


def read_instances(root: Element, *, sizes: Mapping[str, Size] = NO_SIZES) -> list[Instance]:
    """Every instance of a DescribeInstances answer; with the memory of its type as in use while it runs."""
    return [_instance(item, sizes) for item in _listed(root)]


def _listed(root: Element) -> Iterator[Element]:
    if root.find("reservationSet") is None:
        raise ProviderUnavailable("EC2: the answer to DescribeInstances has no list, which is not an empty one")
    return elements_at(root, "reservationSet/item/instancesSet/item")


def read_details(root: Element) -> list[Details]:
    """The same with what is attached."""
    return [
        Details(
            instance=_instance(item),
            zone=text_of(element_at(item, "placement/availabilityZone")),
            volumes=tuple(
                Volume(device=device, volume_id=volume_id)
                for device, volume_id in _attached(item.find("blockDeviceMapping"))
            ),
        )
        for item in _listed(root)
    ]


def read_launched(root: Element) -> list[Instance]:
    """The instances of a RunInstances answer."""
    return [_instance(item) for item in elements_at(root, "instancesSet/item")]


def read_changed(root: Element) -> dict[str, str]:
    """Id and present state of what StartInstances, StopInstances and TerminateInstances speak of."""
    return {
        text_of(item.find("instanceId")): text_of(element_at(item, "currentState/name"))
        for item in elements_at(root, "instancesSet/item")
    }


def read_tags(items: Iterable[Element]) -> dict[str, str]:
    """A `tagSet`.

    Raises:
        ProviderUnavailable: a tag is in it twice, and differently: whose the resource is nobody can tell.
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
    if zone := _text_in(parts.get("placement"), "availabilityZone"):
        attributes[ZONE] = zone
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
    return Instance(
        deploy_id=DeployId(text_of(parts.get("instanceId"))),
        state=state,
        raw_state=raw_state,
        identity=identity,
        name=tags.get("Name", ""),
        # The latest start, in fact: EC2 keeps no other moment for an instance as such.
        created_at=_seconds(text_of(parts.get("launchTime"))),
        reason=_text_in(parts.get("stateReason"), "message") or text_of(parts.get("reason")),
        usage=Usage(memory=1024 * size.memory) if size else None,
        attributes=attributes,
    )


def _attached(mapping: Element | None) -> Iterator[tuple[str, str]]:
    """Device and volume of each that is attached. `mapping` is a blockDeviceMapping."""
    for parts in map(_parts, mapping if mapping is not None else ()):
        yield text_of(parts.get("deviceName")), _text_in(parts.get("ebs"), "volumeId")


def _parts(element: Element) -> dict[str, Element]:
    """The children by name, in a quarter of the time that `find` takes: a listing has tens of thousands of elements."""
    return {str(child.tag): child for child in element}


def _text_in(element: Element | None, name: str) -> str:
    return text_of(_parts(element).get(name)) if element is not None else ""


def _seconds(moment: str) -> float:
    """ISO 8601 to seconds since the epoch; 0 for what is none."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return 0.0
