"""Actions on volumes, as in docs.aws.amazon.com, "Amazon EC2 API Reference"; each is one transaction."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping

from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.errors import InstanceNotFound
from one_provider_mad.lab.ec2 import forms
from one_provider_mad.lab.ec2 import resources as accounts
from one_provider_mad.lab.ec2.answers import Answer, moment, tag_set
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal, invalid, not_found
from one_provider_mad.lab.ec2.resources import Resources, Volume, put_volume
from one_provider_mad.providers.simulated import table

MOST_GIB = 65536


class Volumes:
    """Volumes of one account.

    Args:
        resources: the account.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def create(self, form: Form) -> Answer:
        """Carry out CreateVolume, or the earlier volume with the same token."""
        asked = table.encode({name: text for name, text in sorted(form.items()) if name not in ("Action", "Version")})
        token, size = form.get("ClientToken", ""), forms.number(form, "Size", 0)
        if not 1 <= size <= MOST_GIB:
            raise invalid("Size", form.get("Size", ""))
        zone = forms.value(form, "AvailabilityZone")
        if not zone.startswith(self._resources.region):
            raise Refusal("InvalidZone.NotFound", f"The zone '{zone[:80]}' does not exist.")

        def operation(db: sqlite3.Connection) -> Answer:
            now = self._resources.clock()
            line = db.execute("SELECT * FROM ec2_volume WHERE token = ? AND token <> ''", (token,)).fetchone()
            if line is not None:
                before = Volume._make(line)
                if before.asked != asked:
                    text = "Arguments on this idempotent request are inconsistent with those of the one before"
                    raise Refusal("IdempotentParameterMismatch", text)
                return shown(before, now)
            made = Volume(
                number=0,
                id=f"vol-{os.urandom(9).hex()[:17]}",
                size=size,
                kind=form.get("VolumeType", "gp2"),
                zone=zone,
                encrypted=forms.is_true(form, "Encrypted"),
                tags=table.encode(forms.specified(form, "volume")),
                token=token,
                asked=asked,
                created_at=now,
                ready_at=now + self._resources.real(self._resources.settings.boot_time),
                instance_id="",
                device="",
                attached_at=0.0,
                ends_with_instance=False,
                is_launched=False,
                deleted_at=None,
            )
            put_volume(db, made)
            return shown(made, now)

        return await self._resources.write(operation)

    async def describe(self, form: Form) -> Answer:
        """Carry out DescribeVolumes."""
        page = forms.Page.of(form, named="VolumeId")
        now = self._resources.clock()
        found = await self._resources.read(lambda db: accounts.volumes(db, now))
        if ids := forms.listed(form, "VolumeId"):
            for each in set(ids) - {volume.id for volume in found}:
                raise Refusal("InvalidVolume.NotFound", f"The volume '{each[:80]}' does not exist.")
            found = [volume for volume in found if volume.id in ids]
        wanted = forms.matching(
            found,
            forms.filters(form),
            tags=lambda volume: table.decode_tags(volume.tags),
            fields={
                "volume-id": lambda volume: volume.id,
                "status": lambda volume: volume.state(now),
                "availability-zone": lambda volume: volume.zone,
                "volume-type": lambda volume: volume.kind,
                "size": lambda volume: str(volume.size),
                "attachment.instance-id": lambda volume: volume.instance_id,
                "attachment.device": lambda volume: volume.device,
            },
        )
        volumes, more = page.cut(wanted, lambda volume: volume.number)
        return {"volumeSet": [shown(volume, now) for volume in volumes], **more}

    async def snapshots(self, form: Form) -> Answer:
        """Carry out DescribeSnapshots: requested ones all exist, and the account has none of its own."""
        asked = forms.listed(form, "SnapshotId")
        for each in asked:
            if not each.startswith("snap-"):
                raise Refusal("InvalidSnapshotID.Malformed", f'Invalid id: "{each[:80]}" (expecting "snap-...")')
        return {
            "snapshotSet": [
                {"snapshotId": each, "volumeSize": accounts.ROOT_SIZE, "status": "completed", "tagSet": []}
                for each in asked
            ]
        }

    async def attach(self, form: Form) -> Answer:
        """Carry out AttachVolume; the volume outlives the instance unless DeleteOnTermination is set later."""
        volume_id, device = forms.value(form, "VolumeId"), forms.value(form, "Device")
        instance_id = forms.value(form, "InstanceId")
        accounts.check_id(instance_id)

        def operation(db: sqlite3.Connection) -> Answer:
            now = self._resources.clock()
            volume = accounts.volume(db, volume_id, now)
            instance = self._instance(db, instance_id, now)
            if (state := volume.state(now)) != "available":
                code = "VolumeInUse" if state == "in-use" else "IncorrectState"
                raise Refusal(code, f"{volume_id} is {state}")
            zone = self._zone_of(instance)
            if zone != volume.zone:
                text = f"The volume '{volume_id}' is not in the same availability zone as instance '{instance_id}'"
                raise Refusal("InvalidVolume.ZoneMismatch", text)
            if device in {each.device for each in accounts.attached(db, table.encode([instance_id]))}:
                text = f"Invalid value '{device[:40]}' for unixDevice. Attachment point {device[:40]} is already in use"
                raise Refusal("InvalidParameterValue", text)
            placed = volume._replace(instance_id=instance_id, device=device, attached_at=now, ends_with_instance=False)
            put_volume(db, placed)
            return attachment(placed, "attaching")

        return await self._resources.write(operation)

    def _instance(self, db: sqlite3.Connection, instance_id: str, now: float) -> table.Row:
        try:
            row = table.load(db, DeployId(instance_id), now)
        except InstanceNotFound:
            raise not_found(instance_id) from None
        if row.visible_at > now:
            raise not_found(instance_id)
        if row.state_at(now) not in (InstanceState.RUNNING, InstanceState.STOPPED):
            raise Refusal("IncorrectState", f"Instance '{instance_id}' is not 'running'.")
        return row

    def _zone_of(self, instance: table.Row) -> str:
        details: Mapping[str, str] = table.decode_hardware(instance.hardware).details
        return forms.zone_of(details, self._resources.zone)

    async def detach(self, form: Form) -> Answer:
        """Carry out DetachVolume."""
        volume_id = forms.value(form, "VolumeId")

        def operation(db: sqlite3.Connection) -> Answer:
            now = self._resources.clock()
            volume = accounts.volume(db, volume_id, now)
            is_there = all(
                form.get(name, text) == text
                for name, text in (("InstanceId", volume.instance_id), ("Device", volume.device))
            )
            if not volume.instance_id or not is_there:
                raise Refusal("IncorrectState", f"Volume '{volume_id}' is in the '{volume.state(now)}' state.")
            if volume.device == accounts.ROOT_DEVICE and self._is_running(db, volume.instance_id, now):
                raise Refusal("OperationNotPermitted", f"Unable to detach root volume '{volume_id}'")
            put_volume(db, volume._replace(instance_id="", device="", ends_with_instance=False))
            return attachment(volume, "detaching")

        return await self._resources.write(operation)

    def _is_running(self, db: sqlite3.Connection, instance_id: str, now: float) -> bool:
        return table.load(db, DeployId(instance_id), now).state_at(now) is not InstanceState.STOPPED

    async def delete(self, form: Form) -> Answer:
        """Carry out DeleteVolume."""
        volume_id = forms.value(form, "VolumeId")

        def operation(db: sqlite3.Connection) -> Answer:
            now = self._resources.clock()
            volume = accounts.volume(db, volume_id, now)
            if volume.instance_id:
                raise Refusal("VolumeInUse", f"Volume {volume_id} is currently attached to {volume.instance_id}")
            if (state := volume.state(now)) != "available":
                raise Refusal("IncorrectState", f"Volume {volume_id} is {state}")
            put_volume(db, volume._replace(deleted_at=now))
            return {"return": True}

        return await self._resources.write(operation)

    async def modify(self, form: Form) -> Answer:
        """Carry out ModifyVolume: grows at once."""
        volume_id = forms.value(form, "VolumeId")

        def operation(db: sqlite3.Connection) -> Answer:
            volume = accounts.volume(db, volume_id, self._resources.clock())
            size = forms.number(form, "Size", volume.size)
            if not volume.size <= size <= MOST_GIB:
                raise Refusal("InvalidParameterValue", f"New size cannot be smaller than existing size {volume.size}")
            put_volume(db, volume._replace(size=size, kind=form.get("VolumeType", volume.kind)))
            return {
                "volumeModification": {
                    "volumeId": volume_id,
                    "modificationState": "completed",
                    "originalSize": volume.size,
                    "targetSize": size,
                    "progress": 100,
                }
            }

        return await self._resources.write(operation)


def shown(volume: Volume, now: float) -> Answer:
    """Return a `Volume` element."""
    return {
        "volumeId": volume.id,
        "size": volume.size,
        "snapshotId": "",
        "availabilityZone": volume.zone,
        "status": volume.state(now),
        "createTime": moment(volume.created_at),
        "attachmentSet": [attachment(volume, "attached")] if volume.instance_id else [],
        "tagSet": tag_set(table.decode_tags(volume.tags)),
        "volumeType": volume.kind,
        **_speed(volume),
        "encrypted": bool(volume.encrypted),
        "multiAttachEnabled": False,
    }


_USUAL_SPEED = {"gp3": {"Iops": "3000", "Throughput": "125"}, "gp2": {"Iops": "100"}}
"""IOPS and MiB/s of volumes whose create names none (docs.aws.amazon.com, API_CreateVolume)."""


def _speed(volume: Volume) -> Answer:
    """Return the elements for IOPS and throughput."""
    asked = {**_USUAL_SPEED.get(volume.kind, {}), **table.decode_tags(volume.asked)}
    return {name.lower(): asked[name] for name in ("Iops", "Throughput") if name in asked}


def attachment(volume: Volume, status: str) -> Answer:
    """Return a `VolumeAttachment` element."""
    return {
        "volumeId": volume.id,
        "instanceId": volume.instance_id,
        "device": volume.device,
        "status": status,
        "attachTime": moment(volume.attached_at),
        "deleteOnTermination": bool(volume.ends_with_instance),
    }
