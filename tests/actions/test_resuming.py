"""Changes made in OpenNebula while a VM is off are applied to its instance when it is resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.actions.capabilities import CAPABILITIES
from one_provider_mad.actions.devices import perform_capability
from one_provider_mad.actions.intents import Intent
from one_provider_mad.actions.lifecycle import perform_intent
from one_provider_mad.budget.admission import Admission, Unlimited
from one_provider_mad.domain import DeployId, Instance, InstanceState, Template, VmRequest
from one_provider_mad.errors import BadParameter, ProviderUnavailable, RequestRefused
from one_provider_mad.protocol.messages import Action
from one_provider_mad.providers.interface import Attached
from one_provider_mad.settings import Policy
from tests.actions.fakes import AbleCloud, FakeCloud, World, a_world, identity_of, request_of

pytestmark = pytest.mark.looptime

METHODS = {capability.method for capability in CAPABILITIES.values()} | {"reconfigure", "attached"}


class ChangingCloud(AbleCloud):
    """A fake cloud that can change some PUBLIC_CLOUD attributes, and reports the devices that the driver attached."""

    changeable_attributes: Collection[str] = frozenset({"KIND"})

    def __init__(self) -> None:
        super().__init__()
        self.devices = Attached()

    async def attached(self, deploy_id: DeployId) -> Attached:
        await self._travel("attached", deploy_id)
        return self.devices

    def section_of(self, request: VmRequest) -> Mapping[str, str]:
        return next(iter(request.user_template.vectors("PUBLIC_CLOUD")), {})

    async def reconfigure(self, deploy_id: DeployId, request: VmRequest, name: str) -> None:
        await self._travel("reconfigure", (deploy_id, name))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path, ChangingCloud()) as world:
        yield world


DISK, NIC = {"DISK_ID": "0", "SIZE": "1024"}, {"NIC_ID": "0", "MAC": "02:00:00:00:00:01"}
CONTEXT = {"SSH_PUBLIC_KEY": "ssh-rsa A", "TARGET": "hda"}


def a_vm(*, section: Mapping[str, str] | None = None, **values: Any) -> dict[str, Template]:
    """Templates of a VM, with other values where some are given."""
    given = {"CPU": "1", "MEMORY": "2048", "DISK": (DISK,), "NIC": (NIC,), "CONTEXT": (CONTEXT,), **values}
    written = {name: value if isinstance(value, tuple) else (value,) for name, value in given.items()}
    return {
        "template": Template(values=written),
        "user_template": Template(values={"PUBLIC_CLOUD": (section or {"KIND": "small", "IMAGE": "alma"},)}),
    }


async def perform(world: World, intent: Intent, **fields: Any) -> str:
    async with asyncio.timeout(600):
        return await perform_intent(world.work(request_of(**fields)), intent)


async def off(world: World, **vm: Any) -> DeployId:
    """A VM that was deployed and powered off."""
    deploy_id = DeployId(await perform(world, Intent.CREATE, **a_vm(**vm)))
    await perform(world, Intent.STOP, deploy_id=deploy_id, **a_vm(**vm))
    world.provider.calls.clear()
    return deploy_id


def done(world: World) -> list[tuple[str, Any]]:
    """The changes made to the instance, and its start, as pairs of method and operand."""
    found = []
    for name, detail in world.provider.calls:
        if name in METHODS | {"start"}:
            found.append((name, detail[1] if isinstance(detail, tuple) else ""))
    return [(name, "" if isinstance(subject, VmRequest) else subject) for name, subject in found]


NEW_DISK = {"DISK_ID": "1", "SIZE": "512"}
NEW_NIC = {"NIC_ID": "1", "MAC": "02:00:00:00:00:02"}

CHANGES = [
    pytest.param({"MEMORY": "4096"}, [("resize", "")], id="more-memory"),
    pytest.param({"VCPU": "2"}, [("resize", "")], id="first-vcpu-value"),
    pytest.param({"DISK": (DISK, NEW_DISK)}, [("attach_disk", NEW_DISK)], id="added-disk"),
    pytest.param({"DISK": ()}, [("detach_disk", {"DISK_ID": "0"})], id="removed-disk"),
    pytest.param({"DISK": ({**DISK, "SIZE": "2048"},)}, [("resize_disk", {**DISK, "SIZE": "2048"})], id="larger-disk"),
    pytest.param(
        {"DISK": ({**DISK, "SIZE": "512"},)},
        [("detach_disk", {"DISK_ID": "0"}), ("attach_disk", {**DISK, "SIZE": "512"})],
        id="replaced-disk-of-the-same-id",
    ),
    pytest.param({"NIC": (NIC, NEW_NIC)}, [("attach_nic", NEW_NIC)], id="added-nic"),
    pytest.param({"NIC": (), "NIC_ALIAS": ()}, [("detach_nic", {"NIC_ID": "0"})], id="removed-nic"),
    pytest.param(
        {"NIC": ({**NIC, "MAC": "02:00:00:00:00:09"},)},
        [("detach_nic", {"NIC_ID": "0"}), ("attach_nic", {**NIC, "MAC": "02:00:00:00:00:09"})],
        id="replaced-nic-of-the-same-id",
    ),
    pytest.param({"CONTEXT": ({"SSH_PUBLIC_KEY": "ssh-rsa B"},)}, [("update_context", "")], id="another-context"),
    pytest.param({"CONTEXT": ({**CONTEXT, "TARGET": "hdb"},)}, [], id="target-of-the-context-disk"),
    pytest.param(
        {"section": {"KIND": "large", "IMAGE": "alma"}}, [("reconfigure", "KIND")], id="public-cloud-attribute"
    ),
    pytest.param({"CPU": "1.0"}, [], id="same-value-in-another-notation"),
    pytest.param({}, [], id="nothing"),
]


@pytest.mark.parametrize(("edited", "calls"), CHANGES)
async def test_changes_made_while_the_vm_was_off_are_applied_once_before_the_start(
    world: World, edited: dict[str, Any], calls: list[tuple[str, Any]]
) -> None:
    deploy_id = await off(world)
    for expected in ([*calls, ("start", "")], [("start", "")]):
        assert await perform(world, Intent.START, deploy_id=deploy_id, seq=1, **a_vm(**edited)) == deploy_id
        assert done(world) == expected
        await perform(world, Intent.STOP, deploy_id=deploy_id, **a_vm(**edited))
        world.provider.calls.clear()
    assert world.warnings == []


async def test_what_a_changed_context_does_not_give_the_guest_is_told(world: World) -> None:
    deploy_id = await off(world)
    world.provider.without_effect = ("CONTEXT attribute FILES has no effect in the guest",)
    edited = a_vm(CONTEXT=({"SSH_PUBLIC_KEY": "ssh-rsa B", "FILES": "/x"},))
    await perform(world, Intent.START, deploy_id=deploy_id, seq=1, **edited)
    assert world.warnings == list(world.provider.without_effect)


async def test_an_unsupported_change_is_a_warning_at_each_resume_and_the_vm_starts(tmp_path: Path) -> None:
    async with a_world(tmp_path, FakeCloud()) as world:
        deploy_id = await off(world)
        for _ in range(2):
            await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(MEMORY="4096"))
            assert world.warnings == [
                (
                    "resizing to CPU=1 MEMORY=4096, asked for while the VM was off, was refused for instance i-1:"
                    " provider fake does not support resizing a live VM"
                )
            ]
            world.warnings.clear()
            await perform(world, Intent.STOP, deploy_id=deploy_id, **a_vm(MEMORY="4096"))


async def test_a_refused_change_is_retried_by_the_next_resume_and_the_others_are_applied(world: World) -> None:
    deploy_id = await off(world)
    world.provider.before["resize"].append(BadParameter("no type is so large"))
    edited = a_vm(MEMORY="4096", DISK=(DISK, NEW_DISK))
    await perform(world, Intent.START, deploy_id=deploy_id, **edited)
    assert [name for name, _ in done(world)] == ["resize", "attach_disk", "start"]
    assert world.warnings == [
        (
            "resizing to CPU=1 MEMORY=4096, asked for while the VM was off, was refused for instance i-1: no type is so"
            " large"
        )
    ]
    await perform(world, Intent.STOP, deploy_id=deploy_id, **edited)
    world.provider.calls.clear()
    await perform(world, Intent.START, deploy_id=deploy_id, **edited)
    assert [name for name, _ in done(world)] == ["resize", "start"]


class Priceless(Unlimited):
    """A budget whose provider refuses to tell the price of a resize that has no effect."""

    def resizing(self, _instance: Instance, _request: VmRequest, /) -> Admission:
        raise BadParameter("the VM's own size has no effect")


async def test_a_resize_without_a_price_since_it_has_no_effect_does_not_prevent_the_start(world: World) -> None:
    deploy_id = await off(world)
    fields: dict[str, Any] = {"deploy_id": deploy_id, "seq": 1, **a_vm(MEMORY="4096")}
    request = request_of(**fields)
    work = msgspec.structs.replace(world.work(request), budget=Priceless())
    assert await perform_intent(work, Intent.START) == deploy_id
    assert done(world) == [("start", "")]
    assert any("the VM's own size has no effect" in each for each in world.warnings)


async def test_an_unanswered_change_fails_the_resume_and_the_next_one_repeats_it(world: World) -> None:
    deploy_id = await off(world)
    world.provider.before["attach_disk"].append(ProviderUnavailable("able did not answer"))
    edited = a_vm(MEMORY="4096", DISK=(DISK, NEW_DISK))
    with pytest.raises(ProviderUnavailable):
        await perform(world, Intent.START, deploy_id=deploy_id, **edited)
    assert world.provider.state(deploy_id) is InstanceState.STOPPED
    world.provider.calls.clear()
    await perform(world, Intent.START, deploy_id=deploy_id, **edited)
    assert [name for name, _ in done(world)] == ["attach_disk", "start"]


@pytest.mark.parametrize("struck", ["attach_disk", "start"])
async def test_an_interrupted_resume_is_completed_by_the_next_one(world: World, struck: str) -> None:
    deploy_id = await off(world)
    edited = a_vm(MEMORY="4096", DISK=(DISK, NEW_DISK))
    world.provider.before[struck].append(asyncio.Event())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await perform(world, Intent.START, deploy_id=deploy_id, **edited)
    assert await perform(world, Intent.START, deploy_id=deploy_id, **edited) == deploy_id
    made = {name for name, _ in done(world)}
    assert made == {"resize", "attach_disk", "start"}
    assert world.provider.state(deploy_id) is InstanceState.RUNNING


LOST = ProviderUnavailable("able did not answer")


async def cut_short(world: World, deploy_id: DeployId, struck: str, **edited: Any) -> None:
    """Let a resume fail at this call; the VM stays off."""
    world.provider.before[struck].append(LOST)
    with pytest.raises(ProviderUnavailable):
        await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(**edited))
    world.provider.calls.clear()


@pytest.mark.parametrize("struck", ["attach_disk", "reconfigure"])
async def test_a_disk_of_an_interrupted_resume_is_detached_if_the_vm_no_longer_has_it(
    world: World, struck: str
) -> None:
    """Otherwise its volume would cost money, unnoticed, until the VM is terminated."""
    deploy_id = await off(world)
    section = {"KIND": "large", "IMAGE": "alma"}
    await cut_short(world, deploy_id, struck, DISK=(DISK, NEW_DISK), section=section)
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(section=section))
    assert done(world) == [("detach_disk", {"DISK_ID": "1"}), ("reconfigure", "KIND"), ("start", "")]
    await perform(world, Intent.STOP, deploy_id=deploy_id, **a_vm(section=section))
    world.provider.calls.clear()
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(section=section))
    assert done(world) == [("start", "")], "it is detached only once"


@pytest.mark.parametrize("struck", ["attach_nic", "start"])
async def test_a_nic_of_an_interrupted_resume_is_detached_if_the_vm_no_longer_has_it(world: World, struck: str) -> None:
    deploy_id = await off(world)
    await cut_short(world, deploy_id, struck, NIC=(NIC, NEW_NIC))
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm())
    assert done(world) == [("detach_nic", {"NIC_ID": "1"}), ("start", "")]


@pytest.mark.parametrize("struck", ["detach_disk", "resize"])
async def test_a_disk_is_attached_if_an_interrupted_resume_detached_one_with_the_same_id(
    world: World, struck: str
) -> None:
    """OpenNebula reuses disk ids: the new disk looks like the old one, and the instance has neither."""
    deploy_id = await off(world)
    await cut_short(world, deploy_id, struck, DISK=(), MEMORY="4096")
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(MEMORY="4096"))
    assert done(world) == [("resize", ""), ("attach_disk", DISK), ("start", "")]


@pytest.mark.parametrize("error", [LOST, BadParameter("it is attached, and cannot be made to end with the instance")])
async def test_a_disk_that_failed_to_attach_to_a_running_vm_is_detached_by_the_next_resume(
    world: World, error: Exception
) -> None:
    """OpenNebula removes the disk from the VM then, but the instance may have it."""
    deploy_id = await off(world)
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm())
    world.provider.before["attach_disk"].append(error)
    fields: dict[str, Any] = {"deploy_id": deploy_id, "operand": NEW_DISK, **a_vm(DISK=(DISK, NEW_DISK))}
    work = world.work(request_of(**fields))
    with pytest.raises(type(error)):
        await perform_capability(work, Action.ATTACHDISK)
    for calls in ([("detach_disk", {"DISK_ID": "1"})], []):
        await perform(world, Intent.STOP, deploy_id=deploy_id, **a_vm())
        world.provider.calls.clear()
        await perform(world, Intent.START, deploy_id=deploy_id, **a_vm())
        assert done(world) == [*calls, ("start", "")]


async def test_a_disk_is_attached_only_after_the_old_one_of_the_same_id_is_detached(world: World) -> None:
    deploy_id = await off(world)
    world.provider.before["detach_disk"].append(BadParameter("it is in use"))
    edited = a_vm(DISK=({**DISK, "SIZE": "512"},))
    for calls in (["detach_disk", "start"], ["detach_disk", "attach_disk", "start"]):
        await perform(world, Intent.START, deploy_id=deploy_id, **edited)
        assert [name for name, _ in done(world)] == calls
        await perform(world, Intent.STOP, deploy_id=deploy_id, **edited)
        world.provider.calls.clear()


async def test_nics_are_attached_after_resizing_and_reconfiguring(world: World) -> None:
    deploy_id = await off(world)
    edited = a_vm(section={"KIND": "large", "IMAGE": "alma"}, MEMORY="4096", NIC=(NIC, NEW_NIC))
    await perform(world, Intent.START, deploy_id=deploy_id, **edited)
    assert [name for name, _ in done(world)] == ["resize", "reconfigure", "attach_nic", "start"]


async def test_an_edited_attribute_that_needs_a_new_instance_is_a_warning_until_it_is_reverted(world: World) -> None:
    deploy_id = await off(world)
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(section={"KIND": "small", "IMAGE": "debian"}))
    assert world.warnings == [
        (
            "PUBLIC_CLOUD IMAGE was edited, and instance i-1 keeps what it has: only a new instance gets it"
            " (onevm recover --recreate)"
        )
    ]
    world.warnings.clear()
    await perform(world, Intent.STOP, deploy_id=deploy_id, **a_vm())
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm())
    assert world.warnings == []


async def test_the_core_is_not_asked_for_an_edit_that_changes_nothing(world: World) -> None:
    asked: list[int] = []

    async def refuse(request: VmRequest) -> VmRequest:
        asked.append(request.vm_id)
        raise RequestRefused("the core does not answer")

    deploy_id = await off(world)
    for section, expected in (({"KIND": "small", "IMAGE": "debian"}, 0), ({"KIND": "large", "IMAGE": "debian"}, 1)):
        vm: dict[str, Any] = {"deploy_id": deploy_id, **a_vm(section=section)}
        work = world.work(request_of(**vm))
        await perform_intent(msgspec.structs.replace(work, complete=refuse), Intent.START)
        assert len(asked) == expected
        await perform(world, Intent.STOP, **vm)
    assert world.warnings[-1] == (
        "changing KIND, asked for while the VM was off, was refused for instance i-1: the core does not answer"
    )


async def test_an_edited_attribute_that_the_policy_forbids_is_not_applied(world: World) -> None:
    deploy_id = await off(world, section={"IMAGE": "alma"})
    world.policy = Policy(forbidden_attributes=("KIND",))
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(section={"IMAGE": "alma", "KIND": "large"}))
    assert done(world) == [("start", "")]
    assert world.warnings == [
        "PUBLIC_CLOUD may not set KIND here: remove it from the template; instance i-1 keeps what it has"
    ]


@pytest.mark.parametrize("state", [InstanceState.SUSPENDED, InstanceState.RUNNING])
async def test_changes_are_not_applied_to_an_instance_that_is_not_stopped(world: World, state: InstanceState) -> None:
    deploy_id = await off(world)
    world.provider.instances[deploy_id].state = state
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(MEMORY="4096"))
    assert "resize" not in [name for name, _ in done(world)]
    assert world.warnings == [
        (
            f"resizing to CPU=1 MEMORY=4096: not carried out while instance i-1 is {state.value}; power the VM off and"
            " resume it"
        )
    ]


@pytest.mark.parametrize(
    ("action", "edited"),
    [
        pytest.param(Action.RESIZE, {"MEMORY": "4096"}, id="size"),
        pytest.param(Action.UPDATECONF, {"CONTEXT": ({"SSH_PUBLIC_KEY": "ssh-rsa B"},)}, id="context"),
        pytest.param(Action.ATTACHDISK, {"DISK": (DISK, NEW_DISK)}, id="disk"),
        pytest.param(Action.ATTACHNIC, {"NIC": (NIC, NEW_NIC)}, id="interface"),
    ],
)
async def test_a_change_made_while_the_vm_ran_is_not_repeated_at_its_resume(
    world: World, action: Action, edited: dict[str, Any]
) -> None:
    deploy_id = await off(world)
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm())
    operand: Any = {Action.ATTACHDISK: NEW_DISK, Action.ATTACHNIC: NEW_NIC}.get(action, {})
    fields: dict[str, Any] = {"deploy_id": deploy_id, "operand": operand, **a_vm(**edited)}
    await perform_capability(world.work(request_of(**fields)), action)
    await perform(world, Intent.STOP, deploy_id=deploy_id, **a_vm(**edited))
    world.provider.calls.clear()
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(**edited))
    assert done(world) == [("start", "")]


async def test_a_disk_attached_under_a_reused_id_while_the_vm_was_off_is_attached(world: World) -> None:
    """OpenNebula reuses the ids of detached disks."""
    deploy_id = await off(world)
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm())
    work = world.work(request_of(deploy_id=deploy_id, operand=DISK))
    await perform_capability(work, Action.DETACHDISK)
    await perform(world, Intent.STOP, deploy_id=deploy_id, **a_vm(DISK=()))
    world.provider.calls.clear()
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm())
    assert done(world) == [("attach_disk", DISK), ("start", "")]


async def test_powering_off_an_instance_without_a_record_of_its_template_records_the_current_one(world: World) -> None:
    deploy_id = world.provider.add(identity_of())
    await perform(world, Intent.STOP, deploy_id=deploy_id, **a_vm())
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(MEMORY="4096"))
    assert [name for name, _ in done(world)] == ["resize", "start"]
    assert world.warnings == []


async def test_only_tagged_devices_are_detached_from_an_instance_without_a_record_of_its_template(world: World) -> None:
    assert isinstance(world.provider, ChangingCloud)
    deploy_id = world.provider.add(identity_of(), InstanceState.STOPPED)
    world.provider.devices = Attached(disks=frozenset({"0", "5"}), nics=frozenset({"3"}))
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(MEMORY="4096", DISK=(DISK, NEW_DISK)))
    assert done(world) == [
        ("attached", ""),
        ("detach_disk", {"DISK_ID": "5"}),
        ("detach_nic", {"NIC_ID": "3"}),
        ("start", ""),
    ]
    assert world.warnings == [
        (
            "the journal has no specification of instance i-1: the instance stays as it is, and changes from now on are"
            " carried out when the VM is resumed"
        )
    ]
    await perform(world, Intent.STOP, deploy_id=deploy_id, **a_vm(MEMORY="4096", DISK=(DISK, NEW_DISK)))
    world.provider.calls.clear()
    await perform(world, Intent.START, deploy_id=deploy_id, **a_vm(MEMORY="8192", DISK=(DISK, NEW_DISK)))
    assert [name for name, _ in done(world)] == ["resize", "start"]


async def test_a_resume_compares_with_the_template_of_the_create_and_not_with_a_later_edit(world: World) -> None:
    """The first create was not answered, so it is repeated as it was sent, without the edit."""
    world.provider.after["create"].append(ProviderUnavailable("the answer was lost"))
    with pytest.raises(ProviderUnavailable):
        await perform(world, Intent.CREATE, **a_vm())
    edited = a_vm(MEMORY="4096")
    deploy_id = await perform(world, Intent.CREATE, **edited)
    assert deploy_id == "i-1"
    await perform(world, Intent.STOP, deploy_id=deploy_id, **edited)
    await perform(world, Intent.START, deploy_id=deploy_id, **edited)
    assert [name for name, _ in done(world)] == ["resize", "start"]
