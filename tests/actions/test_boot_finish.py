"""Steps that need a running instance are done after its boot, and a failed one never costs a running instance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from one_provider_mad.actions.intents import Intent
from one_provider_mad.actions.lifecycle import perform_intent
from one_provider_mad.domain import DeployId, InstanceState, VmRequest
from one_provider_mad.errors import BadParameter, ProviderError, ProviderUnavailable, Throttled
from tests.actions.fakes import FakeCloud, World, a_desk, a_world, identity_of, request_of

pytestmark = pytest.mark.looptime


class AddressedCloud(FakeCloud):
    """A cloud whose instances get an address once they run."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[tuple[DeployId, InstanceState, str]] = []
        self.errors: list[ProviderError] = []

    async def finish_boot(self, deploy_id: DeployId, request: VmRequest) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.finished.append((deploy_id, self.state(deploy_id), request.name))


@pytest.fixture
async def cloud() -> AddressedCloud:
    return AddressedCloud()


@pytest.fixture
async def world(tmp_path: Path, cloud: AddressedCloud) -> AsyncIterator[World]:
    async with a_world(tmp_path, cloud) as world:
        world.set_cloud(retries=1)
        yield world


async def created(world: World) -> str:
    return await perform_intent(world.work(request_of(name="web")), Intent.CREATE)


async def test_finish_boot_is_called_on_a_new_instance_once_it_runs(world: World, cloud: AddressedCloud) -> None:
    assert await created(world) == "i-1"
    assert cloud.finished == [("i-1", InstanceState.RUNNING, "web")]


async def test_finish_boot_is_called_on_an_adopted_instance(world: World, cloud: AddressedCloud) -> None:
    """As after a crash between the boot and `finish_boot`."""
    deploy_id = cloud.add(identity_of(), InstanceState.STOPPED)
    assert await created(world) == deploy_id
    assert cloud.finished == [(deploy_id, InstanceState.RUNNING, "web")]


async def test_failed_finish_boot_is_a_warning_and_the_instance_stays(world: World, cloud: AddressedCloud) -> None:
    cloud.errors = [BadParameter("there is no such address")]
    assert await created(world) == "i-1"
    assert cloud.state(DeployId("i-1")) is InstanceState.RUNNING
    assert world.warnings == ["instance i-1 runs, but not everything is done: there is no such address"]


async def test_finish_boot_is_retried_after_transient_errors(world: World, cloud: AddressedCloud) -> None:
    cloud.errors = [Throttled("slow down"), ProviderUnavailable("no answer")]
    assert await created(world) == "i-1"
    assert [deploy_id for deploy_id, *_ in cloud.finished] == ["i-1"]
    assert world.warnings == []


async def test_a_start_does_not_call_finish_boot(world: World, cloud: AddressedCloud) -> None:
    deploy_id = cloud.add(identity_of(), InstanceState.STOPPED)
    await perform_intent(world.work(request_of(deploy_id=deploy_id)), Intent.START)
    assert cloud.finished == []


@pytest.mark.parametrize("boot_time", [5.0, 590.0], ids=["soon", "late"])
@pytest.mark.parametrize("how", ["throttled", "unanswered"])
async def test_a_deploy_succeeds_although_finish_boot_runs_out_of_time(
    world: World, cloud: AddressedCloud, how: str, boot_time: float
) -> None:
    """The instance would run, and be paid for, behind a VM in BOOT_FAILURE."""
    cloud.boot_time = boot_time

    async def finish_boot(_deploy_id: DeployId, _request: VmRequest) -> None:
        if how == "throttled":
            raise Throttled("Request limit exceeded")
        await asyncio.Event().wait()

    cloud.finish_boot = finish_boot  # type: ignore[method-assign, assignment]
    async with a_desk(world) as desk:
        assert await desk.answer("DEPLOY") == "SUCCESS i-1"
    assert [line for line in desk.logs() if "instance i-1 runs, but not everything is done" in line]
