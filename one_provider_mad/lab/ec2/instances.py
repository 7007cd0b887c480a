"""Actions on instances: RunInstances and the like, as in docs.aws.amazon.com, "Amazon EC2 API Reference"."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from one_provider_mad.domain import DeployId, InstanceState
from one_provider_mad.errors import BadParameter, NoCapacity, ProviderError, QuotaExceeded
from one_provider_mad.lab.ec2 import forms, interfaces, shown
from one_provider_mad.lab.ec2.answers import Answer
from one_provider_mad.lab.ec2.forms import Form
from one_provider_mad.lab.ec2.refusals import Refusal, invalid
from one_provider_mad.lab.ec2.resources import (
    ROOT_DEVICE,
    ROOT_SIZE,
    InstancesView,
    Resources,
    Volume,
    put_volume,
)
from one_provider_mad.providers.simulated import table
from one_provider_mad.providers.simulated.cloud import Extras, Launch
from one_provider_mad.providers.simulated.hardware import Hardware
from one_provider_mad.providers.simulated.traffic import Traffic

LONGEST_TOKEN = 64
MOST_AT_ONCE = 100
"""Limit of instances in one call; in EC2 the account's limit counts there."""

_EBS = re.compile(r"BlockDeviceMapping\.(\d+)\.DeviceName")


class Instances:
    """Instances of one account.

    Args:
        resources: the account.
        traffic: faults for listings.
    """

    def __init__(self, resources: Resources, traffic: Traffic) -> None:
        self._resources = resources
        self._cloud = resources.cloud
        self._traffic = traffic

    # Creating

    async def run(self, form: Form) -> Answer:
        """Carry out RunInstances: at least MinCount and at most MaxCount, or the earlier ones with the same token."""
        least, most = forms.number(form, "MinCount", 1), forms.number(form, "MaxCount", 1)
        if not 1 <= least <= most <= MOST_AT_ONCE:
            raise invalid("MaxCount", str(most))
        launch = self._launch(form)
        details = {name: text for name, text in form.items() if name not in ("Action", "Version")}
        token = form.get("ClientToken", "")
        if len(token) > LONGEST_TOKEN or not token.isascii():
            raise invalid("ClientToken", token)
        made: list[DeployId] = []
        for at in range(most):
            extras = Extras(details=details, new_id=new_instance_id, add=partial(self._add_parts, form))
            one = f"{token}/{at}" if token and at else token
            try:
                made.append(await self._cloud.launch(launch, tags={}, token=one, extras=extras))
            except (NoCapacity, QuotaExceeded):
                if len(made) >= least:
                    break
                await asyncio.gather(*map(self._cloud.terminate, made))
                raise
            except BadParameter as error:
                raise self._what_is_not_on_offer(form, error) from error
        found = await self._resources.read(lambda db: _just_made(db, made, self._resources.clock()))
        return {
            "reservationId": shown.reservation(made[0]),
            "ownerId": self._resources.number,
            "groupSet": [],
            "instancesSet": [shown.instance(row, found, self._resources) for row in found.rows],
        }

    def _launch(self, form: Form) -> Launch:
        image, kind = forms.value(form, "ImageId"), form.get("InstanceType", "")
        if not re.fullmatch(r"ami-[0-9a-z]+", image):
            raise Refusal("InvalidAMIID.Malformed", f'Invalid id: "{image[:80]}" (expecting "ami-...")')
        if not kind:
            raise Refusal("MissingParameter", "The request must contain the parameter InstanceType")
        size = self._resources.settings.offer.types.get(kind)
        tags = forms.specified(form, "instance")
        return Launch(
            type=kind,
            image=image,
            name=tags.get("Name", ""),
            # The token is looked up first; only then a type that is not offered is refused.
            cpu=size.cpu if size else 0,
            memory=size.memory if size else 0,
            tags=tags,
        )

    def _what_is_not_on_offer(self, form: Form, error: ProviderError) -> Refusal:
        images = self._resources.settings.offer.images
        if images and form["ImageId"] not in images:
            return Refusal("InvalidAMIID.NotFound", f"The image id '[{form['ImageId']}]' does not exist")
        return Refusal("InvalidParameterValue", f"Invalid value '{form['InstanceType']}' for InstanceType: {error}")

    def _add_parts(self, form: Form, db: sqlite3.Connection, deploy_id: DeployId) -> None:
        interfaces.launch(db, form, deploy_id, self._resources.clock())
        self._add_volumes(form, db, deploy_id)

    def _add_volumes(self, form: Form, db: sqlite3.Connection, deploy_id: DeployId) -> None:
        """Add the root volume and those of the form's mappings."""
        mappings = {ROOT_DEVICE: {}, **_mappings(form)}
        now = self._resources.clock()
        for device, ebs in mappings.items():
            if "NoDevice" in ebs or "VirtualName" in ebs:
                continue
            size = forms.number(ebs, "Ebs.VolumeSize", ROOT_SIZE)
            if size < ROOT_SIZE and (device == ROOT_DEVICE or "Ebs.SnapshotId" in ebs):
                text = f"Volume of size {size}GB is smaller than its snapshot, expect size >= {ROOT_SIZE}GB"
                raise Refusal("InvalidBlockDeviceMapping", text)
            volume = Volume(
                number=0,
                id=f"vol-{os.urandom(9).hex()[:17]}",
                size=size,
                kind=ebs.get("Ebs.VolumeType", "gp3"),
                zone=shown.zone(form, self._resources),
                encrypted=forms.is_true(ebs, "Ebs.Encrypted"),
                tags=table.encode(forms.specified(form, "volume")),
                token="",
                asked=table.encode({name.removeprefix("Ebs."): text for name, text in sorted(ebs.items())}),
                created_at=now,
                ready_at=now,
                instance_id=deploy_id,
                device=device,
                attached_at=now,
                ends_with_instance=ebs.get("Ebs.DeleteOnTermination", "true") != "false",
                is_launched=True,
                deleted_at=None,
            )
            put_volume(db, volume)

    # Lookups

    async def describe(self, form: Form) -> Answer:
        """Carry out DescribeInstances."""
        page = forms.Page.of(form, named="InstanceId")
        view = await self.read_named(form)
        wanted = forms.matching(
            view.rows, forms.filters(form), tags=shown.tags, fields=shown.fields(view, self._resources)
        )
        rows, more = page.cut(wanted, lambda row: row.number)
        return {
            "reservationSet": [
                {
                    "reservationId": shown.reservation(row.id),
                    "ownerId": self._resources.number,
                    "groupSet": [],
                    "instancesSet": [shown.instance(row, view, self._resources)],
                }
                for row in rows
            ],
            **more,
        }

    async def read_named(self, form: Form) -> InstancesView:
        """Return all instances of a listing, without those that faults hide.

        Raises:
            Refusal: a requested instance is not known.
        """
        name, view = await self._found(form)
        hidden = self._traffic.shown(name, [table.view(row, view.now) for row in view.rows])
        if len(hidden) == len(view.rows):
            return view
        ids = {instance.deploy_id for instance in hidden}
        return view._replace(rows=[row for row in view.rows if row.id in ids])

    async def _found(self, form: Form) -> tuple[str, InstancesView]:
        filters = forms.filters(form)
        if ids := forms.listed(form, "InstanceId"):
            return "describe", await self._resources.named(ids)
        if ids := filters.get("instance-id", []):
            return "describe", await self._resources.view(table.LIST_THESE, ids=table.encode(ids))
        owner, vm_id = (filters.get(f"tag:ONE_PROVIDER_{name}", []) for name in ("OWNER", "VM_ID"))
        if len(owner) == len(vm_id) == 1 and not {"*", "?"} & {*owner[0], *vm_id[0]}:
            return "find", await self._resources.view(table.LIST_TAGGED, owner=owner[0], vm_id=vm_id[0])
        return "list_instances", await self._resources.view()

    # Changing

    async def start(self, form: Form) -> Answer:
        """Carry out StartInstances."""
        allowed = (InstanceState.STOPPED, InstanceState.SUSPENDED, InstanceState.PENDING, InstanceState.RUNNING)
        return await self._change(form, allowed, "started", self._cloud.start)

    async def stop(self, form: Form) -> Answer:
        """Carry out StopInstances; with Hibernate, instances launched for it are suspended."""
        is_hard, is_hibernating = forms.is_true(form, "Force"), forms.is_true(form, "Hibernate")
        for row in (await self._resources.named(forms.needed_list(form, "InstanceId"))).rows:
            details = shown.details(row)
            if details.get("InstanceMarketOptions.MarketType") == "spot":
                text = f"You can't stop the Spot Instance '{row.id}' because it is associated with a one-time request."
                raise Refusal("UnsupportedOperation", text)
            if is_hibernating and not forms.is_true(details, "HibernationOptions.Configured"):
                text = "Hibernation is not configured for this instance"
                raise Refusal("UnsupportedHibernationConfiguration", text)
        allowed = (InstanceState.RUNNING, InstanceState.STOPPING, InstanceState.STOPPED, InstanceState.SUSPENDED)
        send = self._cloud.suspend if is_hibernating else partial(self._cloud.stop, hard=is_hard)
        return await self._change(form, allowed, "stopped", send)

    async def terminate(self, form: Form) -> Answer:
        """Carry out TerminateInstances, in any state."""
        return await self._change(form, tuple(InstanceState), "terminated", self._terminate)

    async def _terminate(self, deploy_id: DeployId) -> None:
        await self._cloud.terminate(deploy_id, reason="User initiated")

    async def reboot(self, form: Form) -> Answer:
        """Carry out RebootInstances."""
        ids = forms.needed_list(form, "InstanceId")
        await self._resources.named(ids)
        await asyncio.gather(*(self._cloud.reboot(DeployId(each)) for each in ids))
        return {"return": True}

    async def _change(
        self,
        form: Form,
        allowed: Sequence[InstanceState],
        what: str,
        send: Callable[[DeployId], Awaitable[None]],
    ) -> Answer:
        """Change all named instances or none."""
        ids = forms.needed_list(form, "InstanceId")
        before = await self._resources.named(ids)
        for row in before.rows:
            if (state := row.state_at(before.now)) not in allowed:
                text = f"The instance '{row.id}' is not in a state from which it can be {what}: {shown.word(state)}"
                raise Refusal("IncorrectInstanceState", text)
        await asyncio.gather(*(send(DeployId(row.id)) for row in before.rows))
        after = await self._resources.view(table.LIST_THESE, ids=table.encode(ids))
        states = {row.id: row.state_at(after.now) for row in after.rows}
        return {
            "instancesSet": [
                {
                    "instanceId": row.id,
                    "currentState": shown.state(states.get(row.id, InstanceState.TERMINATED)),
                    "previousState": shown.state(row.state_at(before.now)),
                }
                for row in before.rows
            ]
        }

    async def modify(self, form: Form) -> Answer:
        """Carry out ModifyInstanceAttribute; on a running instance only for groups and DeleteOnTermination."""
        instance_id = forms.value(form, "InstanceId")
        view = await self._resources.named([instance_id])
        kind = form.get("InstanceType.Value") or (form.get("Value") if form.get("Attribute") == "instanceType" else "")
        mappings, details = _mappings(form), _details(form)
        if not kind and not mappings and not details:
            raise Refusal("InvalidParameterCombination", "No attributes specified.")
        if (kind or "UserData" in details) and view.rows[0].state_at(view.now) is not InstanceState.STOPPED:
            raise Refusal("IncorrectInstanceState", f"The instance '{instance_id}' is not in the 'stopped' state.")
        if kind:
            await self._cloud.change_type(DeployId(instance_id), kind)
        if details:
            await self._cloud.rework(DeployId(instance_id), partial(_with_details, details=details))
        volumes = {volume.device: volume for volume in view.volumes.get(instance_id, ())}
        for device, ebs in mappings.items():
            if device not in volumes:
                raise Refusal("InvalidInstanceAttributeValue", f"No device is currently mapped at {device}")
            is_ending = ebs.get("Ebs.DeleteOnTermination", "true") != "false"
            changed = volumes[device]._replace(ends_with_instance=is_ending)
            await self._resources.write(partial(put_volume, volume=changed))
        return {"return": True}

    async def attribute(self, form: Form) -> Answer:
        """Carry out DescribeInstanceAttribute: the type and the user data."""
        instance_id, name = forms.value(form, "InstanceId"), forms.value(form, "Attribute")
        row = (await self._resources.named([instance_id])).rows[0]
        values = {"instanceType": row.type, "userData": shown.details(row).get("UserData", "")}
        if name not in values:
            raise invalid("Attribute", name)
        return {"instanceId": instance_id, name: {"value": values[name]} if values[name] else {}}


def new_instance_id() -> str:
    """Return an id in EC2's form: 17 hexadecimal digits."""
    return f"i-{os.urandom(9).hex()[:17]}"


def _mappings(form: Form) -> dict[str, dict[str, str]]:
    """Return the form's values by device."""
    found = {}
    for name, device in form.items():
        if match := _EBS.fullmatch(name):
            prefix = f"BlockDeviceMapping.{match[1]}."
            found[device] = {key.removeprefix(prefix): text for key, text in form.items() if key.startswith(prefix)}
    return found


def _details(form: Form) -> dict[str, str]:
    """Return the values that are kept as they came: user data, security groups, bandwidth."""
    said = {
        name.removesuffix(".Value"): text
        for name, text in form.items()
        if name in ("UserData.Value", "EbsOptimized.Value")
    }
    groups = {f"SecurityGroupId.{at}": group for at, group in enumerate(forms.listed(form, "GroupId"), 1)}
    return {**said, **groups}


def _with_details(hardware: Hardware, *, details: Form) -> Hardware:
    has_groups = any(name.startswith("SecurityGroupId.") for name in details)
    kept = {
        name: text for name, text in hardware.details.items() if not (has_groups and name.startswith("SecurityGroup"))
    }
    return msgspec.structs.replace(hardware, details={**kept, **details})


def _just_made(db: sqlite3.Connection, ids: Sequence[DeployId], now: float) -> InstancesView:
    """Return the instances of a create, which other calls cannot see yet."""
    rows = [table.load(db, each, now) for each in ids]
    return InstancesView(now=now, rows=rows, volumes={}, addresses={})
