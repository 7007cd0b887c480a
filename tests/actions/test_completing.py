"""Requests are completed with what the core knows right before their attributes are sent to the cloud."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from one_provider_mad.domain import Template, VmRequest
from one_provider_mad.errors import PermissionDenied, RequestRefused
from one_provider_mad.masking import keep_vm_secret
from tests.actions.fakes import FakeScripts, World, a_desk

pytestmark = pytest.mark.looptime

PASSWORD = "correct horse/battery"


class Core:
    """Knows the password of VM 7, or refuses to tell it."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.refusal = ""

    async def complete(self, request: VmRequest) -> VmRequest:
        self.asked.append(request.vm_id)
        if self.refusal:
            raise RequestRefused(self.refusal)
        if request.vm_id != 7:
            return request
        keep_vm_secret(PASSWORD)
        return msgspec.structs.replace(request, template=Template(values={"CONTEXT": ({"PASSWORD": PASSWORD},)}))


async def test_failure_that_repeats_a_vms_secret_masks_it_in_this_vms_lines_alone(world: World) -> None:
    core = Core()
    world.provider.always["create"] = PermissionDenied(f"user data {PASSWORD} is refused")
    async with a_desk(world, threads=1, complete=core.complete) as desk:
        assert await desk.answer("DEPLOY", 7) == "FAILURE user data *** is refused"
        assert await desk.answer("DEPLOY", 8) == f"FAILURE user data {PASSWORD} is refused"
    assert core.asked == [7, 8]


async def test_request_is_completed_for_a_create_and_no_other_action_of_an_unchanged_vm(world: World) -> None:
    core = Core()
    async with a_desk(world, complete=core.complete) as desk:
        assert await desk.answer("DEPLOY", lcm_state=2) == "SUCCESS i-1"
        assert core.asked == [7]
        core.refusal = "the core does not tell it"
        life = [("SHUTDOWN", 18, 0), ("DEPLOY", 20, 1), ("REBOOT", 3, 1), ("SAVE", 6, 1), ("RESTORE", 21, 2)]
        for action, lcm_state, seq in [*life, ("SHUTDOWN", 12, 2)]:
            answer = await desk.answer(action, lcm_state=lcm_state, deploy_id="i-1", seq=seq)
            assert answer.startswith("SUCCESS"), (action, answer)
    assert core.asked == [7]


async def test_request_that_cannot_be_completed_fails_before_a_create(world: World) -> None:
    core = Core()
    core.refusal = "the core does not tell it"
    async with a_desk(world, complete=core.complete) as desk:
        assert await desk.answer("DEPLOY") == "FAILURE the core does not tell it"
    assert world.provider.count("create") == 0
    assert await world.attempts() == []


async def test_scripts_get_what_the_core_sent(world: World) -> None:
    core = Core()
    async with a_desk(world, verbatim=FakeScripts(), complete=core.complete) as desk:
        await desk.answer("DEPLOY")
    assert core.asked == []


async def test_deadline_passed_while_the_core_is_awaited_names_it(world: World) -> None:
    async def never(request: VmRequest) -> VmRequest:
        await asyncio.get_running_loop().create_future()
        return request

    async with a_desk(world, timeout=60, complete=never) as desk:
        assert (await desk.answer("DEPLOY")).startswith("FAILURE gave up after 60 s waiting for the local OpenNebula")
