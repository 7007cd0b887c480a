"""An account of a cloud like EC2, for tests: what it knows, and what each action of the Query API does to it.

Written from docs.aws.amazon.com, "Amazon EC2 API Reference": API_RunInstances and its fellows, "Ensuring idempotency",
"Eventual consistency". Nothing runs in the background; a state is worked out from the time at which it was entered.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Form = Mapping[str, str]
Answer = dict[str, Any]

NUMBER = "123456789012"


class Refusal(Exception):
    """An error that the API answers."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


@dataclass
class Instance:
    """One instance; `state` is where it goes, `ready_at` when it is there."""

    id: str
    token: str
    asked: dict[str, str]
    tags: dict[str, str]
    kind: str
    zone: str
    launched_at: float
    state: str
    ready_at: float
    reboots: int = 0
    forced: bool = False
    address: str = ""
    devices: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)

    ON_THE_WAY: ClassVar = {"running": "pending", "stopped": "stopping", "terminated": "shutting-down"}
    CODES: ClassVar = {
        "pending": 0,
        "running": 16,
        "shutting-down": 32,
        "terminated": 48,
        "stopping": 64,
        "stopped": 80,
    }

    @property
    def word(self) -> str:
        return self.state if time.time() >= self.ready_at else self.ON_THE_WAY[self.state]

    def shown(self) -> Answer:
        word = self.word
        return {
            "instanceId": self.id,
            "imageId": self.asked["ImageId"],
            "instanceState": {"code": str(self.CODES[word]), "name": word},
            "privateDnsName": "ip-10-0-0-5.internal",
            "dnsName": "ec2-203-0-113-9.example.com",
            "reason": "",
            "keyName": self.asked.get("KeyName", ""),
            "instanceType": self.kind,
            "launchTime": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(self.launched_at)),
            "placement": {"availabilityZone": self.zone, "tenancy": "default"},
            "subnetId": self.asked.get("SubnetId", "subnet-0default"),
            "vpcId": "vpc-0a",
            "privateIpAddress": "10.0.0.5",
            "ipAddress": self.address or "203.0.113.9",
            "groupSet": [{"groupId": "sg-1", "groupName": "web"}, {"groupId": "sg-2", "groupName": "db"}],
            "stateReason": {"code": "Client.Ordered", "message": f"{word} by order"},
            "blockDeviceMapping": [
                {"deviceName": name, "ebs": {"volumeId": volume, "status": "attached"}}
                for name, volume in self.devices.items()
            ],
            "clientToken": self.token,
            "tagSet": [{"key": key, "value": value} for key, value in self.tags.items()],
        }


@dataclass
class Volume:
    """One EBS volume."""

    id: str
    size: int
    zone: str
    token: str
    tags: dict[str, str]
    ready_at: float
    state: str = "available"
    instance_id: str = ""
    device: str = ""

    def shown(self) -> Answer:
        is_ready = time.time() >= self.ready_at
        attached = {"volumeId": self.id, "instanceId": self.instance_id, "device": self.device, "status": "attached"}
        return {
            "volumeId": self.id,
            "size": str(self.size),
            "availabilityZone": self.zone,
            "status": self.state if is_ready else "creating",
            "attachmentSet": [attached] if self.instance_id else [],
            "tagSet": [{"key": key, "value": value} for key, value in self.tags.items()],
        }


@dataclass
class Account:
    """The account.

    Attributes:
        boot, stop, end: seconds that a transition takes.
        lag: seconds for which a new instance is not known, neither to lookups nor to calls that name it.
        short: (type, zone or subnet or "") without room.
        answers_spent_tokens: as EC2 did until January 2025: a used token shows its instance, even a terminated one.
        calls: every action that was accepted as signed, with its form.
    """

    boot: float = 0.02
    stop: float = 0.02
    end: float = 0.02
    lag: float = 0.0
    short: set[tuple[str, str]] = field(default_factory=set)
    answers_spent_tokens: bool = False
    instances: dict[str, Instance] = field(default_factory=dict)
    volumes: dict[str, Volume] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def act(self, action: str, form: Form) -> Answer:
        """Carry out one action and return what its answer holds."""
        handler: Callable[[Form], Answer] | None = getattr(self, f"_{action}", None)
        if handler is None:
            raise Refusal("InvalidAction", f"The action {action} is not valid for this web service.")
        return handler(form)

    def count(self, action: str) -> int:
        return sum(name == action for name, _ in self.calls)

    @property
    def alive(self) -> list[Instance]:
        return [each for each in self.instances.values() if each.state != "terminated"]

    # Who

    def _GetCallerIdentity(self, _: Form) -> Answer:  # noqa: N802 - the action's name
        arn = f"arn:aws:iam::{NUMBER}:user/opennebula"
        return {"GetCallerIdentityResult": {"Arn": arn, "UserId": "AIDA", "Account": NUMBER}}

    # Instances

    def _RunInstances(self, form: Form) -> Answer:  # noqa: N802
        token, kind = form.get("ClientToken", ""), form["InstanceType"]
        asked = {name: value for name, value in form.items() if name not in ("Action", "Version")}
        if token and (before := next((each for each in self.instances.values() if each.token == token), None)):
            if before.asked != asked:
                raise Refusal("IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent")
            if before.word in ("shutting-down", "terminated") and not self.answers_spent_tokens:
                raise Refusal("IdempotentInstanceTerminated", "The client token is associated with a terminated one")
            return {"reservationId": "r-1", "instancesSet": [before.shown()]}
        zone = form.get("Placement.AvailabilityZone", "eu-west-1a")
        place = form.get("SubnetId") or form.get("Placement.AvailabilityZone", "")
        if {(kind, place), (kind, "")} & self.short:
            text = f"We currently do not have sufficient {kind} capacity in the Availability Zone you requested"
            raise Refusal("InsufficientInstanceCapacity", text, status=500)
        if not form.get("ImageId", "").startswith("ami-"):
            raise Refusal("InvalidAMIID.Malformed", f'Invalid id: "{form.get("ImageId")}" (expecting "ami-...")')
        now = time.time()
        made = Instance(
            id=f"i-{next(self._numbers):017x}",
            token=token,
            asked=asked,
            tags=specified(form, "instance"),
            kind=kind,
            zone=zone,
            launched_at=now,
            state="running",
            ready_at=now + self.boot,
            devices={"/dev/xvda": "vol-0root"},
        )
        self.instances[made.id] = made
        return {"reservationId": "r-1", "instancesSet": [made.shown()]}

    def _DescribeInstances(self, form: Form) -> Answer:  # noqa: N802
        if named := numbered(form, "InstanceId"):
            for each in named:
                self.named(each)
        shown = [each for each in self.instances.values() if self._is_visible(each)]
        for name, values in filters(form).items():
            shown = [each for each in shown if matches(name, values, each.id, each.tags)]
        page, token = paged(shown, form)
        items = [{"reservationId": "r-1", "instancesSet": [each.shown()]} for each in page]
        return {"reservationSet": items, **token}

    def _is_visible(self, instance: Instance) -> bool:
        return time.time() >= instance.launched_at + self.lag

    def named(self, instance_id: str) -> Instance:
        found = self.instances.get(instance_id)
        if not instance_id.startswith("i-"):
            raise Refusal("InvalidInstanceID.Malformed", f'Invalid id: "{instance_id}"')
        if found is None or not self._is_visible(found):
            raise Refusal("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
        return found

    def _change(self, form: Form, to: str, *, sources: tuple[str, ...], seconds: float) -> Answer:
        changed = []
        for instance in [self.named(each) for each in numbered(form, "InstanceId")]:
            before = instance.word
            if before not in sources:
                text = f"The instance '{instance.id}' is not in a state from which it can be {to}."
                raise Refusal("IncorrectInstanceState", text)
            if instance.state != to:
                instance.state, instance.ready_at = to, time.time() + seconds
            elif form.get("Force") == "true":
                instance.ready_at = 0.0
            changed.append(
                {
                    "instanceId": instance.id,
                    "currentState": {"code": "0", "name": instance.word},
                    "previousState": {"code": "0", "name": before},
                }
            )
        return {"instancesSet": changed}

    def _StartInstances(self, form: Form) -> Answer:  # noqa: N802
        return self._change(form, "running", sources=("stopped", "pending", "running"), seconds=self.boot)

    def _StopInstances(self, form: Form) -> Answer:  # noqa: N802
        for each in numbered(form, "InstanceId"):
            self.named(each).forced |= form.get("Force") == "true"
        return self._change(form, "stopped", sources=("running", "stopping", "stopped"), seconds=self.stop)

    def _TerminateInstances(self, form: Form) -> Answer:  # noqa: N802
        answer = self._change(form, "terminated", sources=tuple(Instance.CODES), seconds=self.end)
        for each in numbered(form, "InstanceId"):
            for volume in self.volumes.values():
                if volume.instance_id == each and volume.device not in self.instances[each].kept:
                    volume.state = "deleted"
        return answer

    def _RebootInstances(self, form: Form) -> Answer:  # noqa: N802
        for each in numbered(form, "InstanceId"):
            if self.named(each).word != "running":
                raise Refusal(
                    "IncorrectState", f"The instance '{each}' is not in a state from which it can be rebooted"
                )
            self.named(each).reboots += 1
        return {"return": "true"}

    def _CreateTags(self, form: Form) -> Answer:  # noqa: N802
        for each in numbered(form, "ResourceId"):
            self.named(each).tags.update(pairs(form, "Tag"))
        return {"return": "true"}

    def _ModifyInstanceAttribute(self, form: Form) -> Answer:  # noqa: N802
        instance = self.named(form["InstanceId"])
        if kind := form.get("InstanceType.Value"):
            if instance.word != "stopped":
                raise Refusal("IncorrectInstanceState", f"The instance '{instance.id}' is not in the 'stopped' state.")
            instance.kind = kind
        if device := form.get("BlockDeviceMapping.1.DeviceName"):
            is_kept = form["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "false"
            (instance.kept.add if is_kept else instance.kept.discard)(device)
        return {"return": "true"}

    def _DescribeImages(self, form: Form) -> Answer:  # noqa: N802
        images = [{"imageId": each, "rootDeviceName": "/dev/xvda"} for each in numbered(form, "ImageId")]
        return {"imagesSet": images}

    def _AssociateAddress(self, form: Form) -> Answer:  # noqa: N802
        if self.named(form["InstanceId"]).word != "running":
            raise Refusal("IncorrectInstanceState", f"The instance '{form['InstanceId']}' is not running")
        self.named(form["InstanceId"]).address = form.get("PublicIp") or form["AllocationId"]
        return {"return": "true", "associationId": "eipassoc-1"}

    # Volumes

    def _CreateVolume(self, form: Form) -> Answer:  # noqa: N802
        token = form.get("ClientToken", "")
        made = next((each for each in self.volumes.values() if token and each.token == token), None)
        if made is None:
            made = Volume(
                id=f"vol-{next(self._numbers):017x}",
                size=int(form["Size"]),
                zone=form["AvailabilityZone"],
                token=token,
                tags=specified(form, "volume"),
                ready_at=time.time() + self.boot,
            )
            self.volumes[made.id] = made
        return made.shown()

    def _DescribeVolumes(self, form: Form) -> Answer:  # noqa: N802
        shown = [each for each in self.volumes.values() if each.state != "deleted"]
        for name, values in filters(form).items():
            shown = [each for each in shown if matches(name, values, each.id, each.tags)]
        page, token = paged(shown, form)
        answers = [each.shown() for each in page]
        for attached in (each for answer in answers for each in answer["attachmentSet"]):
            is_kept = attached["device"] in self.instances[attached["instanceId"]].kept
            attached["deleteOnTermination"] = "false" if is_kept else "true"
        return {"volumeSet": answers, **token}

    def _volume(self, form: Form, *states: str) -> Volume:
        found = self.volumes.get(form["VolumeId"])
        if found is None or found.state == "deleted":
            raise Refusal("InvalidVolume.NotFound", f"The volume '{form['VolumeId']}' does not exist.")
        if found.shown()["status"] not in states:
            raise Refusal("IncorrectState", f"{found.id} is {found.shown()['status']}")
        return found

    def _AttachVolume(self, form: Form) -> Answer:  # noqa: N802
        volume, instance = self._volume(form, "available"), self.named(form["InstanceId"])
        if volume.zone != instance.zone:
            raise Refusal("InvalidVolume.ZoneMismatch", "The volume is not in the same availability zone")
        if form["Device"] in instance.devices:
            raise Refusal("InvalidParameterValue", f"Invalid value '{form['Device']}': already in use")
        instance.devices[form["Device"]] = volume.id
        instance.kept.add(form["Device"])
        volume.state, volume.instance_id, volume.device = "in-use", instance.id, form["Device"]
        return {"volumeId": volume.id, "status": "attaching"}

    def _DetachVolume(self, form: Form) -> Answer:  # noqa: N802
        volume = self._volume(form, "in-use")
        self.instances[volume.instance_id].devices.pop(volume.device)
        volume.state, volume.instance_id, volume.device = "available", "", ""
        return {"volumeId": volume.id, "status": "detaching"}

    def _DeleteVolume(self, form: Form) -> Answer:  # noqa: N802
        self._volume(form, "available").state = "deleted"
        return {"return": "true"}

    def _ModifyVolume(self, form: Form) -> Answer:  # noqa: N802
        volume = self._volume(form, "available", "in-use")
        volume.size = int(form["Size"])
        return {"volumeModification": {"volumeId": volume.id, "targetSize": form["Size"]}}


# How the Query API writes things


def numbered(form: Form, name: str) -> list[str]:
    found: list[str] = []
    while (value := form.get(f"{name}.{len(found) + 1}")) is not None:
        found.append(value)
    return found


def pairs(form: Form, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    while (key := form.get(f"{name}.{len(found) + 1}.Key")) is not None:
        found[key] = form[f"{name}.{len(found) + 1}.Value"]
    return found


def specified(form: Form, resource: str) -> dict[str, str]:
    at = [name.split(".")[1] for name, value in form.items() if name.endswith(".ResourceType") and value == resource]
    return pairs(form, f"TagSpecification.{at[0]}.Tag") if at else {}


def filters(form: Form) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    while (name := form.get(f"Filter.{len(found) + 1}.Name")) is not None:
        found[name] = numbered(form, f"Filter.{len(found) + 1}.Value")
    if sum(map(len, found.values())) > 200:
        raise Refusal("FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200.")
    return found


def matches(name: str, values: list[str], number: str, tags: Mapping[str, str]) -> bool:
    if name.startswith("tag:"):
        return tags.get(name.removeprefix("tag:")) in values
    if name in ("instance-id", "volume-id"):
        return number in values
    raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")


def paged(shown: list[Any], form: Form) -> tuple[list[Any], dict[str, str]]:
    if "MaxResults" not in form:
        return shown, {}
    size, begin = int(form["MaxResults"]), int(form.get("NextToken", "0"))
    if not 5 <= size <= 1000:
        raise Refusal("InvalidParameterValue", "MaxResults is not between 5 and 1000")
    if numbered(form, "InstanceId"):
        raise Refusal("InvalidParameterCombination", "The parameter instancesSet cannot be used with maxResults")
    rest = len(shown) > begin + size
    return shown[begin : begin + size], {"nextToken": str(begin + size)} if rest else {}
