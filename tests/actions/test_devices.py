from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.actions.capabilities import CAPABILITIES
from one_provider_mad.actions.devices import perform_capability
from one_provider_mad.actions.intents import Intent
from one_provider_mad.actions.lifecycle import perform_intent
from one_provider_mad.domain import DeployId, InstanceState, VmRequest
from one_provider_mad.errors import (
    InstanceNotFound,
    NotOurs,
    NotSupported,
    PermissionDenied,
    ProviderUnavailable,
    RequestRefused,
)
from one_provider_mad.protocol.messages import Action
from one_provider_mad.providers import interface
from tests.actions.fakes import AbleCloud, World, a_world, identity_of, request_of

pytestmark = pytest.mark.looptime

# From the interface, by OpenNebula's action: the provider's method, its argument, the words of the refusal.
OPERAND, REQUEST = "operand", "request"
EVERY = [
    ("ATTACHDISK", "attach_disk", OPERAND, "attaching disks"),
    ("DETACHDISK", "detach_disk", OPERAND, "detaching disks"),
    ("ATTACHNIC", "attach_nic", OPERAND, "attaching interfaces"),
    ("DETACHNIC", "detach_nic", OPERAND, "detaching interfaces"),
    ("SNAPSHOTCREATE", "create_snapshot", OPERAND, "snapshots"),
    ("SNAPSHOTREVERT", "revert_snapshot", OPERAND, "snapshots"),
    ("SNAPSHOTDELETE", "delete_snapshot", OPERAND, "snapshots"),
    ("DISKSNAPSHOTCREATE", "create_disk_snapshot", OPERAND, "disk snapshots"),
    ("DISKSNAPSHOTREVERT", "revert_disk_snapshot", OPERAND, "disk snapshots"),
    ("RESIZEDISK", "resize_disk", OPERAND, "resizing disks"),
    ("RESIZE", "resize", REQUEST, "resizing a live VM"),
    ("UPDATECONF", "update_context", REQUEST, "changing the context of a live VM"),
    ("UPDATESG", "update_security_group", REQUEST, "updating security groups"),
    ("UPDATENIC", "update_nic", REQUEST, "updating networks"),
]
OPERANDS = {word: "SNAPSHOT" if "SNAPSHOT" in word and "DISK" not in word else word[6:] for word, *_ in EVERY}
OPERANDS |= {"RESIZEDISK": "DISK", "DISKSNAPSHOTCREATE": "DISK", "DISKSNAPSHOTREVERT": "DISK"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path, AbleCloud()) as world:
        yield world


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as world:
        yield world


async def perform(world: World, word: str, **fields: Any) -> str:
    fields = {"operand": {"DISK_ID": "1", "NIC_ID": "2", "SNAPSHOT_ID": "3"}, **fields}
    return await perform_capability(world.work(request_of(**fields)), Action(word))


def test_the_table_of_capabilities_has_every_optional_device_action() -> None:
    assert {action.value for action in CAPABILITIES} == {word for word, *_ in EVERY}


@pytest.mark.parametrize(("word", "method", "subject"), [row[:3] for row in EVERY])
async def test_each_device_action_calls_its_provider_method_on_the_vms_instance(
    world: World, word: str, method: str, subject: str
) -> None:
    deploy_id = world.provider.add(identity_of())
    answer = await perform(world, word, deploy_id=deploy_id)
    [(made_on, handed_on)] = [detail for name, detail in world.provider.calls if name == method]
    assert made_on == deploy_id
    assert handed_on == ({"DISK_ID": "1", "NIC_ID": "2", "SNAPSHOT_ID": "3"} if subject is OPERAND else handed_on)
    if subject is REQUEST:
        assert handed_on.vm_id == 7
    assert answer == ("snap-1" if word == "SNAPSHOTCREATE" else "-")


async def test_what_a_changed_context_does_not_give_the_guest_is_told(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    world.provider.without_effect = ("CONTEXT attribute FILES has no effect in the guest",)
    assert await perform(world, "UPDATECONF", deploy_id=deploy_id) == "-"
    assert world.warnings == list(world.provider.without_effect)


@pytest.mark.parametrize(("word", "what"), [(word, what) for word, _, _, what in EVERY])
async def test_a_device_action_that_the_cloud_does_not_support_is_refused_without_a_call(
    plain: World, word: str, what: str
) -> None:
    plain.provider.add(identity_of())
    with pytest.raises(NotSupported) as caught:
        await perform(plain, word)
    assert str(caught.value) == f"provider fake does not support {what}"
    assert plain.provider.calls == []


@pytest.mark.parametrize("word", [word for word, _, subject, _ in EVERY if subject is OPERAND])
async def test_a_device_action_is_refused_if_its_message_marks_no_device(world: World, word: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        await perform(world, word, operand={})
    assert str(caught.value) == f"the message marks no {OPERANDS[word]} for {word}: nothing was done"
    assert world.provider.calls == []


@pytest.mark.parametrize("word", [word for word, *_ in EVERY])
async def test_a_device_action_never_changes_another_vms_instance(world: World, word: str) -> None:
    deploy_id = world.provider.add(identity_of(8))
    with pytest.raises(NotOurs):
        await perform(world, word, deploy_id=deploy_id)
    assert {name for name, _ in world.provider.calls} == {"describe"}


class GroupedCloud(AbleCloud):
    """Pretends to be a cloud with OpenNebula's security groups."""

    async def prepare_nic(self, deploy_id: DeployId, request: VmRequest) -> None:
        await self._travel("prepare_nic", (deploy_id, request))

    async def prepare_start(self, deploy_id: DeployId, request: VmRequest) -> None:
        await self._travel("prepare_start", (deploy_id, request))

    def group_warnings(self, request: VmRequest) -> Sequence[str]:
        return (f"a rule of VM {request.vm_id} is left out",)


async def test_groups_are_prepared_before_a_nic_is_attached_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    async with a_world(tmp_path, GroupedCloud()) as world:
        world.provider.add(identity_of())
        await perform(world, "ATTACHNIC")
        await perform(world, "UPDATESG")
        await perform(world, "DETACHNIC")
        assert [name for name, _ in world.provider.calls if name not in ("find", "describe")] == [
            *("prepare_nic", "attach_nic", "update_security_group", "detach_nic")
        ]
        assert world.warnings == ["a rule of VM 7 is left out"] * 2


async def test_groups_are_prepared_before_a_start_which_their_failure_does_not_stop(tmp_path: Path) -> None:
    async with a_world(tmp_path, GroupedCloud()) as world:
        deploy_id = world.provider.add(identity_of(), InstanceState.STOPPED)
        world.provider.always["prepare_start"] = PermissionDenied("no permission for RevokeSecurityGroupIngress")
        assert await perform_intent(world.work(request_of(deploy_id=deploy_id)), Intent.START) == deploy_id
        names = [name for name, _ in world.provider.calls]
        assert names.index("prepare_start") < names.index("start")
        (warning,) = world.warnings
        start = f"the security groups of instance {deploy_id} are as they were when it was stopped: "
        assert warning == f"{start}no permission for RevokeSecurityGroupIngress"


async def test_a_device_action_on_a_missing_instance_fails(world: World) -> None:
    with pytest.raises(InstanceNotFound):
        await perform(world, "ATTACHDISK", deploy_id="i-404")


@pytest.mark.parametrize(
    ("word", "method", "times"),
    [
        pytest.param("ATTACHDISK", "attach_disk", 3, id="repeatable"),
        pytest.param("SNAPSHOTCREATE", "create_snapshot", 1, id="not-repeatable"),
    ],
)
async def test_an_unanswered_attach_is_retried_but_a_snapshot_is_not(
    world: World, word: str, method: str, times: int
) -> None:
    world.set_cloud(retries=2)
    world.provider.always[method] = ProviderUnavailable("able did not answer")
    deploy_id = world.provider.add(identity_of())
    with pytest.raises(ProviderUnavailable):
        await perform(world, word, deploy_id=deploy_id)
    assert world.provider.count(method) == times


NOT_DEVICES = (
    *("VerbatimDriver", "Suspendable", "SoftTerminate", "Parkable", "UpstreamTags", "BootFinisher"),
    *("CapacitySource", "ImportSource", "FigureSource", "UnusedResourceSource", "SelfChecking", "SizedInstances"),
    *(
        "ShortageSource",
        "InterruptionSource",
        "RoomSource",
        "Priced",
        "WarningSource",
        "NamedAttributes",
        "CreateTrial",
    ),
    *("PriceSource", "TypeSource", "TypeChooser", "UsualPrice"),
    *("DeviceListing", "Reconfigurable", "LiveResizing", "ImageReader", "SharedGroups", "UnusedRemoval", "Billable"),
    *("ImageCatalogue", "NetworkCatalogue", "Reachability", "ConsoleSource", "ScreenSource", "PasswordSource"),
)


def test_the_table_of_capabilities_covers_every_optional_protocol_of_providers() -> None:
    optional = {
        value
        for name, value in vars(interface).items()
        if getattr(value, "_is_runtime_protocol", False) and name not in NOT_DEVICES
    }
    assert {capability.protocol for capability in CAPABILITIES.values()} == optional
