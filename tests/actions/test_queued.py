from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from one_provider_mad.actions import queued
from one_provider_mad.domain import Template
from one_provider_mad.protocol.messages import Request
from one_provider_mad.protocol.payload import read_payload
from tests.actions.fakes import Desk, a_desk, a_world, identity_of, pass_time, until

pytestmark = pytest.mark.looptime


class Busy(NamedTuple):
    """A driver with `-t 1`, busy until VM 1's create is answered; `parsed` lists the actions of all parsed messages."""

    desk: Desk
    is_answered: asyncio.Event
    parsed: list[str]


@pytest.fixture
async def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Busy]:
    parsed: list[str] = []

    def note(request: Request) -> object:
        parsed.append(request.action.value)
        return read_payload(request)

    monkeypatch.setattr(queued, "read_payload", note)
    async with a_world(tmp_path) as world, a_desk(world, threads=1) as desk:
        world.set_cloud(call_timeout=10_000)
        is_answered = asyncio.Event()
        world.provider.before["create"].append(is_answered)
        desk.ask("DEPLOY", 1)
        await until(lambda: world.provider.count("create") == 1)
        parsed.clear()
        yield Busy(desk, is_answered, parsed)


def with_script(size: int) -> Template:
    return Template(values={"CPU": ("1",), "CONTEXT": ({"START_SCRIPT": "x" * size},)})


@pytest.mark.parametrize(
    ("action", "size", "is_parsed"),
    [
        pytest.param("DEPLOY", 5_000, True, id="an-ordinary-deploy"),
        pytest.param("DEPLOY", 50_000, False, id="a-larger-deploy"),
        pytest.param("DEPLOY", 500_000, False, id="a-large-deploy"),
        pytest.param("REBOOT", 50_000, True, id="reboot-with-a-larger-message"),
        pytest.param("REBOOT", 500_000, False, id="reboot-with-a-large-message"),
    ],
)
async def test_a_large_message_is_parsed_when_its_turn_comes(
    busy: Busy, action: str, size: int, *, is_parsed: bool
) -> None:
    desk = busy.desk
    deploy_id = "" if action == "DEPLOY" else desk.world.provider.add(identity_of())
    desk.ask(action, deploy_id=deploy_id, template=with_script(size))
    await pass_time(30)
    assert bool(busy.parsed) is is_parsed
    busy.is_answered.set()
    await desk.settled()
    assert busy.parsed == [action]
    assert (await desk.reply(action)).startswith("SUCCESS")


async def test_large_deploys_beyond_the_memory_budget_are_refused_and_other_requests_are_not(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued, "BUDGET", 1_000_000)
    desk = busy.desk
    desk.ask("DEPLOY", 2, template=with_script(600_000))
    desk.ask("DEPLOY", 3, template=with_script(600_000))
    [refusal] = desk.replies()
    assert refusal == (
        "DEPLOY FAILURE 3 too much waits already: requests of 0 MB are not answered yet, and this one has 0.8 MB;"
        " ask again later, or give the VM a smaller template"
    )
    group = {"SECURITY_GROUP_ID": "104"}
    desk.ask("CLEANUP", 4, template=with_script(600_000))
    desk.ask("UPDATESG", 5, template=with_script(600_000), operand=group)
    desk.ask("DEPLOY", 6)
    assert len(desk.replies()) == 1, "CLEANUP and UPDATESG are always accepted, and the small DEPLOY fits"
    busy.is_answered.set()
    await desk.settled()
    assert sorted(reply.split()[2] for reply in desk.replies()) == ["1", "2", "3", "4", "5", "6"]
    assert desk.dispatcher._backlog.held == 0
    assert (await desk.answer("DEPLOY", 3, template=with_script(600_000))).startswith("SUCCESS")


@pytest.mark.parametrize("how", ["cancelled", "dropped", "unreadable"])
async def test_a_request_that_is_not_carried_out_frees_its_memory_budget(busy: Busy, how: str) -> None:
    desk = busy.desk
    before = desk.dispatcher._backlog.held
    if how == "unreadable":
        desk.write(b"DEPLOY  7 " + b"A" * 400_000)
    else:
        desk.ask("DEPLOY", template=with_script(300_000))
    assert desk.dispatcher._backlog.held > before + 300_000
    desk.ask("DRIVER_CANCEL" if how == "cancelled" else "CLEANUP")
    assert how == "unreadable" or desk.dispatcher._backlog.held < before + 100_000
    busy.is_answered.set()
    await desk.settled()
    assert desk.dispatcher._backlog.held == 0
