"""Take over VMs that OpenNebula's own driver deployed, if the settings accept its tag."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.actions.debts import pay
from one_provider_mad.domain import DeployId, Identity, Instance, InstanceState, VmId
from one_provider_mad.errors import PermissionDenied
from tests.actions.fakes import STIME, Desk, FakeCloud, World, a_desk, a_world, identity_of

pytestmark = pytest.mark.looptime


class UpstreamsCloud(FakeCloud):
    """Pretends to be a cloud in which upstream's driver has made instances; `one_id` holds its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.one_id: dict[DeployId, int] = {}
        self.does_count = True

    def upstream_vm_id(self, instance: Instance) -> VmId | None:
        number = self.one_id.get(instance.deploy_id)
        return VmId(number) if self.does_count and number is not None and instance.identity is None else None

    def deploy_as_upstream(self, vm_id: int = 7, state: InstanceState = InstanceState.RUNNING) -> DeployId:
        deploy_id = self.add(None, state)
        self.one_id[deploy_id] = vm_id
        return deploy_id


@pytest.fixture
async def cloud() -> UpstreamsCloud:
    return UpstreamsCloud()


@pytest.fixture
async def world(tmp_path: Path, cloud: UpstreamsCloud) -> AsyncIterator[World]:
    async with a_world(tmp_path, cloud) as world:
        yield world


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    async with a_desk(world) as desk:
        yield desk


def changes(cloud: FakeCloud) -> list[str]:
    return [name for name, _ in cloud.calls if name not in ("describe", "find", "list")]


BY_NAME: list[Any] = [
    pytest.param("SHUTDOWN", {"lcm_state": 18}, "stop", InstanceState.STOPPED, id="power-off"),
    pytest.param("DEPLOY", {"lcm_state": 20}, "start", InstanceState.RUNNING, id="resume"),
    pytest.param("RESET", {"lcm_state": 3}, "reboot hard", InstanceState.RUNNING, id="reset"),
    pytest.param("SHUTDOWN", {"lcm_state": 12}, "destroy", InstanceState.TERMINATED, id="terminate"),
    pytest.param("CLEANUP", {"lcm_state": 23}, "destroy", InstanceState.TERMINATED, id="delete"),
]


@pytest.mark.parametrize(("action", "details", "call", "state"), BY_NAME)
async def test_the_first_request_that_names_an_upstream_instance_tags_it(
    desk: Desk, cloud: UpstreamsCloud, action: str, details: dict[str, Any], call: str, state: InstanceState
) -> None:
    is_start = call == "start"
    deploy_id = cloud.deploy_as_upstream(state=InstanceState.STOPPED if is_start else InstanceState.RUNNING)
    reply = await desk.answer(action, deploy_id=deploy_id, seq=2, **details)
    assert reply == f"SUCCESS {deploy_id if is_start else '-'}"
    assert changes(cloud) == ["retag", call]
    assert cloud.identity(deploy_id) == identity_of(seq=2)
    assert cloud.state(deploy_id) is state


async def test_a_tagged_upstream_instance_is_recognised_by_its_tags_in_later_requests(
    desk: Desk, cloud: UpstreamsCloud
) -> None:
    """It is tagged once; a restarted driver recognises it by the tags, even without the journal."""
    deploy_id = cloud.deploy_as_upstream()
    assert (await desk.answer("POLL", deploy_id=deploy_id)).startswith("SUCCESS STATE=a")
    assert await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=18) == "SUCCESS -"
    cloud.does_count = False
    assert await desk.answer("DEPLOY", deploy_id=deploy_id, lcm_state=20, seq=1) == f"SUCCESS {deploy_id}"
    assert await desk.answer("SHUTDOWN", lcm_state=12, seq=1) == "SUCCESS -", "also without its id"
    assert changes(cloud) == ["retag", "stop", "start", "destroy"]


async def test_an_upstream_instance_is_journaled_as_imported_before_it_is_tagged(
    world: World, desk: Desk, cloud: UpstreamsCloud
) -> None:
    """Orphan handling leaves instances alone that the journal lists as imported."""
    deploy_id = cloud.deploy_as_upstream()
    cloud.before["retag"].append(PermissionDenied("tags may not be written"))
    reply = await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=18)
    assert reply == "FAILURE tags may not be written"
    assert await world.journal.imported_for(deploy_id) == (7, STIME)
    assert await world.attempts() == []
    assert await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=18) == "SUCCESS -"
    assert cloud.identity(deploy_id) == identity_of()


async def test_a_deploy_that_names_an_upstream_instance_adopts_it(desk: Desk, cloud: UpstreamsCloud) -> None:
    deploy_id = cloud.deploy_as_upstream()
    assert await desk.answer("DEPLOY", deploy_id=deploy_id, lcm_state=2) == f"SUCCESS {deploy_id}"
    assert cloud.identity(deploy_id) == identity_of()
    assert await desk.answer("DEPLOY", deploy_id=deploy_id, lcm_state=2) == f"SUCCESS {deploy_id}"
    assert changes(cloud) == ["retag"]


@pytest.mark.parametrize("is_shown", [True, False], ids=["terminated", "forgotten"])
async def test_a_deploy_that_names_a_terminated_upstream_instance_creates_another(
    world: World, desk: Desk, cloud: UpstreamsCloud, *, is_shown: bool
) -> None:
    deploy_id = cloud.deploy_as_upstream(state=InstanceState.TERMINATED)
    if not is_shown:
        await world.journal.record_import(deploy_id, vm_id=VmId(7), stime=STIME)
        del cloud.instances[deploy_id]
    reply = await desk.answer("DEPLOY", deploy_id=deploy_id, lcm_state=2)
    assert reply.startswith("SUCCESS i-")
    assert reply != f"SUCCESS {deploy_id}"


async def test_terminate_of_a_terminated_upstream_instance_succeeds_without_a_call(
    desk: Desk, cloud: UpstreamsCloud
) -> None:
    deploy_id = cloud.deploy_as_upstream(state=InstanceState.TERMINATED)
    assert await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=12) == "SUCCESS -"
    assert changes(cloud) == []


REFUSED: list[Any] = [
    pytest.param(8, None, "i-1 is VM 8's by upstream's tag: it is left alone", id="another-vm"),
    pytest.param(7, identity_of(8), "i-1 belongs to VM 8: it is left alone", id="tagged-for-another-vm"),
    pytest.param(7, identity_of(owner="quay"), "i-1 belongs to owner quay: it is left alone", id="another-owner"),
    pytest.param(7, identity_of(stime=1), "i-1 belongs to an earlier VM 7: it is left alone", id="earlier-life"),
    pytest.param(None, None, "i-1 has no tags of ours", id="no-tag"),
]


@pytest.mark.parametrize(("action", "lcm_state"), [("SHUTDOWN", 12), ("SHUTDOWN", 18), ("DEPLOY", 2), ("CLEANUP", 23)])
@pytest.mark.parametrize(("one_id", "tags", "sentence"), REFUSED)
async def test_an_upstream_instance_of_another_vm_or_owner_is_refused(
    desk: Desk,
    cloud: UpstreamsCloud,
    action: str,
    lcm_state: int,
    one_id: int | None,
    tags: Identity | None,
    sentence: str,
) -> None:
    deploy_id = cloud.add(tags)
    if one_id is not None:
        cloud.one_id[deploy_id] = one_id
    reply = await desk.answer(action, deploy_id=deploy_id, lcm_state=lcm_state)
    assert reply.startswith(f"FAILURE instance {sentence}")
    assert (changes(cloud), cloud.identity(deploy_id)) == ([], tags)


async def test_an_upstream_instance_is_refused_if_the_settings_do_not_accept_its_tag(
    desk: Desk, cloud: UpstreamsCloud
) -> None:
    cloud.does_count = False
    deploy_id = cloud.deploy_as_upstream()
    for action, lcm_state in (("SHUTDOWN", 12), ("DEPLOY", 2), ("CLEANUP", 23)):
        reply = await desk.answer(action, deploy_id=deploy_id, lcm_state=lcm_state)
        assert reply.startswith(f"FAILURE instance {deploy_id} has no tags of ours"), action
    assert changes(cloud) == []


async def test_an_upstream_instance_adopted_by_an_earlier_vm_of_the_same_id_is_refused(
    world: World, desk: Desk, cloud: UpstreamsCloud
) -> None:
    deploy_id = cloud.deploy_as_upstream()
    await world.journal.record_import(deploy_id, vm_id=VmId(7), stime=STIME - 1)
    reply = await desk.answer("SHUTDOWN", deploy_id=deploy_id, lcm_state=12)
    assert reply == f"FAILURE instance {deploy_id} was taken over by another VM before: it is left alone"
    assert changes(cloud) == []


async def test_a_request_without_deploy_id_does_not_find_an_upstream_instance(
    desk: Desk, cloud: UpstreamsCloud
) -> None:
    """Upstream's tag holds only the VM id: the VM may belong to another OpenNebula in the same account."""
    deploy_id = cloud.deploy_as_upstream()
    assert await desk.answer("CLEANUP", lcm_state=23) == "SUCCESS -"
    assert cloud.state(deploy_id) is InstanceState.RUNNING


async def test_a_debt_for_an_upstream_instance_that_could_not_be_tagged_is_paid(
    world: World, desk: Desk, cloud: UpstreamsCloud
) -> None:
    deploy_id = cloud.deploy_as_upstream()
    cloud.always["retag"] = PermissionDenied("tags may not be written")
    reply = await desk.answer("CLEANUP", deploy_id=deploy_id, lcm_state=23)
    assert reply == "FAILURE tags may not be written"
    for debt in await world.journal.debts():
        await pay(world.engine(), debt, clock=world.clock)
    assert cloud.state(deploy_id) is InstanceState.TERMINATED
