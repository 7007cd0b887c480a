"""Writes instances as EC2's answers have them; no I/O (docs.aws.amazon.com, API_Instance, API_InstanceStatus)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from one_provider_mad.domain import InstanceState
from one_provider_mad.lab.ec2.answers import Answer, moment, tag_set
from one_provider_mad.lab.ec2.forms import is_true, listed, structures, zone_of
from one_provider_mad.lab.ec2.public_images import PLATFORMS, platform_details
from one_provider_mad.lab.ec2.resources import ROOT_DEVICE, Event, InstancesView, Resources, Volume
from one_provider_mad.providers.simulated import table

WORDS: Mapping[InstanceState, str] = {
    InstanceState.PENDING: "pending",
    InstanceState.RUNNING: "running",
    InstanceState.STOPPING: "stopping",
    InstanceState.STOPPED: "stopped",
    # EC2's word for a hibernated instance is the one for a stopped instance.
    InstanceState.SUSPENDING: "stopping",
    InstanceState.SUSPENDED: "stopped",
    InstanceState.TERMINATING: "shutting-down",
    InstanceState.TERMINATED: "terminated",
}

CODES: Mapping[str, int] = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}

_REASONS = {
    "stopping": ("Client.UserInitiatedShutdown", "User initiated shutdown"),
    "stopped": ("Client.UserInitiatedShutdown", "User initiated shutdown"),
    "shutting-down": ("Client.UserInitiatedShutdown", "User initiated shutdown"),
    "terminated": ("Client.UserInitiatedShutdown", "User initiated shutdown"),
}

_SERVERS_REASONS = {
    "Server.InsufficientInstanceCapacity": "There was insufficient capacity available to satisfy the launch request.",
    "Server.SpotInstanceTermination": "Spot instance termination",
}
"""Reasons for which EC2 itself ends an instance (API_StateReason), as in the instance's row."""


def _transition(row: table.Row, named: str, resources: Resources) -> str:
    """Return who has ended or stopped the instance, and when that was asked for."""
    who = row.reason if row.reason in _SERVERS_REASONS else "User initiated"
    durations = resources.settings
    lasts = durations.stop_time if named.startswith("stop") else durations.destroy_time
    asked_at = max(row.created_at, row.ends_at - resources.real(lasts))
    return f"{who} ({time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(asked_at))} GMT)"


def word(state: InstanceState) -> str:
    """Return EC2's word for a state."""
    return WORDS[state]


def state(state: InstanceState) -> Answer:
    """Return code and word of a state."""
    return {"code": CODES[WORDS[state]], "name": WORDS[state]}


def reservation(instance_id: str) -> str:
    """Return the reservation's id of an instance; in this cloud each instance has a reservation of its own."""
    return f"r-{instance_id.partition('-')[2]}"


def details(row: table.Row) -> Mapping[str, str]:
    """Return the parameters of the instance's RunInstances; none for an instance made through another API."""
    return table.decode_hardware(row.hardware).details


def tags(row: table.Row) -> Mapping[str, str]:
    """Return the tags of an instance, identity tags and the user's own."""
    return table.decode_tags(row.tags)


def spot_request(row: table.Row) -> str:
    """Return the id of a spot instance's request."""
    return f"sir-{row.number:08x}"


def zone(form: Mapping[str, str], resources: Resources) -> str:
    """Return the availability zone of an instance."""
    return zone_of(form, resources.zone)


def public_ip(row: table.Row, view: InstancesView) -> str:
    """Return the instance's public address, "" while there is none.

    198.18.0.0/15 is not routed (RFC 2544).
    """
    if address := view.addresses.get(row.id):
        return address.public_ip
    if word(row.state_at(view.now)) not in ("pending", "running"):
        return ""
    interfaces = structures(details(row), "NetworkInterface")
    if len(interfaces) > 1 or any(
        "AssociatePublicIpAddress" in each and not is_true(each, "AssociatePublicIpAddress") for each in interfaces
    ):
        return ""
    return f"198.{18 + (row.number >> 16 & 1)}.{row.number >> 8 & 255}.{row.number & 255}"


def private_ip(row: table.Row) -> str:
    """Return the private address."""
    given = details(row).get("PrivateIpAddress") or details(row).get("NetworkInterface.1.PrivateIpAddress")
    return given or f"10.{row.number >> 16 & 255}.{row.number >> 8 & 255}.{row.number & 255}"


def instance(row: table.Row, view: InstancesView, resources: Resources) -> Answer:
    """Return an `Instance` element."""
    asked, by_now = details(row), row.state_at(view.now)
    named = word(by_now)
    optional: Answer = {"platform": PLATFORMS[row.image]} if row.image in PLATFORMS else {}
    if key := asked.get("KeyName"):
        optional["keyName"] = key
    if asked.get("InstanceMarketOptions.MarketType") == "spot":
        optional |= {"instanceLifecycle": "spot", "spotInstanceRequestId": spot_request(row)}
    if profile := asked.get("IamInstanceProfile.Name") or asked.get("IamInstanceProfile.Arn"):
        arn = f"arn:aws:iam::{resources.number}:instance-profile/{profile.rpartition('/')[2]}"
        optional["iamInstanceProfile"] = {"arn": arn, "id": "AIPA00000000000000000"}
    if named in _REASONS:
        code, message = (
            (row.reason, _SERVERS_REASONS[row.reason]) if row.reason in _SERVERS_REASONS else _REASONS[named]
        )
        optional["stateReason"] = {"code": code, "message": f"{code}: {message}"}
    return {
        "instanceId": row.id,
        "imageId": row.image,
        "instanceState": state(by_now),
        "reason": _transition(row, named, resources) if named in _REASONS else "",
        "amiLaunchIndex": 0,
        "productCodes": [],
        "instanceType": row.type,
        "launchTime": moment(_launched_at(row, resources)),
        "placement": {
            "availabilityZone": zone(asked, resources),
            "groupName": asked.get("Placement.GroupName", ""),
            "tenancy": asked.get("Placement.Tenancy", "default"),
        },
        "monitoring": {"state": "disabled"},
        **(_network(row, view, resources, asked) if named != "terminated" else {"privateDnsName": "", "dnsName": ""}),
        "architecture": "x86_64",
        "rootDeviceType": "ebs",
        "rootDeviceName": ROOT_DEVICE,
        "blockDeviceMapping": [_mapping(volume) for volume in view.volumes.get(row.id, ())],
        "virtualizationType": "hvm",
        "clientToken": asked.get("ClientToken", ""),
        "tagSet": tag_set(tags(row)),
        "hypervisor": "xen",
        "cpuOptions": _cpu_options(row),
        "ebsOptimized": asked.get("EbsOptimized", "false"),
        "hibernationOptions": {"configured": asked.get("HibernationOptions.Configured", "false")},
        "platformDetails": platform_details(PLATFORMS.get(row.image, "")),
        **optional,
    }


def _cpu_options(row: table.Row) -> Answer:
    cores = max(1, int(table.decode_hardware(row.hardware).cpu))
    threads = 1 if cores % 2 else 2
    return {"coreCount": cores // threads, "threadsPerCore": threads}


def _launched_at(row: table.Row, resources: Resources) -> float:
    """Return the time of the latest start, as far as the instance's row holds it."""
    if row.transition != InstanceState.PENDING.value:
        return row.created_at
    return max(row.created_at, row.ends_at - resources.real(resources.settings.boot_time))


def _network(row: table.Row, view: InstancesView, resources: Resources, asked: Mapping[str, str]) -> Answer:
    private, public = private_ip(row), public_ip(row, view)
    first = next((groups for _, index, groups in view.interfaces.get(row.id, ()) if index == 0), "")
    ids = listed(asked, "SecurityGroupId") or [each for each in first.split(",") if each != "sg-default" and each]
    names = listed(asked, "SecurityGroup")
    groups = [(each, each) for each in ids] + [(f"sg-{each}", each) for each in names] or [("sg-default", "default")]
    name = f"ec2-{public.replace('.', '-')}.{resources.region}.compute.example.com" if public else ""
    return {
        "privateDnsName": f"ip-{private.replace('.', '-')}.{resources.region}.compute.internal",
        "dnsName": name,
        "subnetId": asked.get("SubnetId") or asked.get("NetworkInterface.1.SubnetId", "subnet-default"),
        "vpcId": "vpc-default",
        "privateIpAddress": private,
        **({"ipAddress": public} if public else {}),
        "sourceDestCheck": True,
        "networkInterfaceSet": [
            {"networkInterfaceId": interface_id, "attachment": {"deviceIndex": index, "status": "attached"}}
            for interface_id, index, _ in view.interfaces.get(row.id, ())
        ],
        "groupSet": [{"groupId": group, "groupName": name} for group, name in groups],
    }


def _mapping(volume: Volume) -> Answer:
    return {
        "deviceName": volume.device,
        "ebs": {
            "volumeId": volume.id,
            "status": "attached",
            "attachTime": moment(volume.attached_at),
            "deleteOnTermination": bool(volume.ends_with_instance),
        },
    }


def fields(view: InstancesView, resources: Resources) -> Mapping[str, Callable[[table.Row], str]]:
    """Return the filters of DescribeInstances besides tags, each with the function for an instance's value."""
    return {
        "instance-id": lambda row: row.id,
        "instance-state-name": lambda row: word(row.state_at(view.now)),
        "instance-state-code": lambda row: str(CODES[word(row.state_at(view.now))]),
        "instance-type": lambda row: row.type,
        "image-id": lambda row: row.image,
        "availability-zone": lambda row: zone(details(row), resources),
        "client-token": lambda row: details(row).get("ClientToken", ""),
        "instance-lifecycle": lambda row: details(row).get("InstanceMarketOptions.MarketType", ""),
        "ip-address": lambda row: public_ip(row, view),
        "key-name": lambda row: details(row).get("KeyName", ""),
        "private-ip-address": private_ip,
        "subnet-id": lambda row: details(row).get("SubnetId", "subnet-default"),
    }


def status(row: table.Row, now: float, planned: Sequence[Event], resources: Resources) -> Answer:
    """Return an `InstanceStatus` element."""
    by_now = row.state_at(now)
    health = "ok" if by_now is InstanceState.RUNNING else "not-applicable"
    reached = [{"name": "reachability", "status": "passed"}] if health == "ok" else []
    return {
        "instanceId": row.id,
        "availabilityZone": zone(details(row), resources),
        **(
            {
                "eventsSet": [
                    {
                        "instanceEventId": f"instance-event-{event.number:017x}",
                        "code": event.code,
                        "description": event.description,
                        "notBefore": moment(event.not_before),
                    }
                    for event in planned
                ]
            }
            if planned
            else {}
        ),
        "instanceState": state(by_now),
        "systemStatus": {"status": health, "details": reached},
        "instanceStatus": {"status": health, "details": reached},
    }
