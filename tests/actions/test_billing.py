"""The owner of a VM is recorded with each request, and the tags of `[tags]` follow it."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from one_provider_mad.domain import DeployId, OwnedVm, VmOwner
from one_provider_mad.errors import JournalError, PermissionDenied
from one_provider_mad.journal.reader import owners, read_owned_vms
from one_provider_mad.journal.writer import Journal
from tests import oned_lines
from tests.actions.fakes import STIME, Desk, FakeCloud, World, a_desk, a_world, identity_of

pytestmark = pytest.mark.looptime

ADMIN = VmOwner(user_id=0, user="oneadmin", group_id=0, group="oneadmin")
ADA = VmOwner(user_id=3, user="ada", group_id=101, group="students")


class BillableCloud(FakeCloud):
    """Pretends to be a cloud with tags.

    Attributes:
        tags: those that were written after the create.
        refusal: raised when tags are written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, str]] = []
        self.refusal: Exception | None = None

    def wanted_tags(self, vm: OwnedVm) -> Mapping[str, str]:
        return {"who": vm.owner.user}

    async def write_tags(self, deploy_id: DeployId, tags: Mapping[str, str]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.tags.append((deploy_id, tags["who"]))


@pytest.fixture
def cloud() -> BillableCloud:
    return BillableCloud()


@pytest.fixture
async def world(tmp_path: Path, cloud: BillableCloud) -> AsyncIterator[World]:
    async with a_world(tmp_path, provider=cloud) as world:
        yield world


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    async with a_desk(world) as desk:
        yield desk


def of_ada(line: bytes) -> bytes:
    """Return the line with a VM of ada's."""
    head, _, payload = line.rstrip(b"\n").rpartition(b" ")
    whole = b64decode(payload).decode()
    before, vm, after = whole.partition("<VM>")
    names = {"UID": "3", "GID": "101", "UNAME": "ada", "GNAME": "students"}
    for name, text in names.items():
        after = re.sub(rf"<{name}>[^<]*</{name}>", f"<{name}>{text}</{name}>", after, count=1)
    return head + b" " + b64encode((before + vm + after).encode()) + b"\n"


async def act(desk: Desk, action: str, *, is_adas: bool = False, **details: Any) -> None:
    line = oned_lines.line(action, 7, **{"stime": STIME, "host_id": 3, **details})
    desk.tell(of_ada(line) if is_adas else line)
    await desk.settled()


async def test_each_request_records_whose_the_vm_is(desk: Desk, world: World) -> None:
    await act(desk, "DEPLOY")
    await world.journal.debts()
    assert owners(world.journal.path) == {(7, STIME): ADMIN}
    assert read_owned_vms(world.journal.path)[0].name
    await act(desk, "REBOOT", is_adas=True, deploy_id="i-1")
    await world.journal.debts()
    assert owners(world.journal.path) == {(7, STIME): ADA}


async def test_nothing_is_written_after_a_create_or_for_the_same_owner(desk: Desk, cloud: BillableCloud) -> None:
    await act(desk, "DEPLOY")
    await act(desk, "REBOOT", deploy_id="i-1")
    assert cloud.tags == []


async def test_the_next_action_after_a_change_of_owner_corrects_the_tags(desk: Desk, cloud: BillableCloud) -> None:
    await act(desk, "DEPLOY")
    await act(desk, "REBOOT", is_adas=True, deploy_id="i-1")
    await act(desk, "REBOOT", is_adas=True, deploy_id="i-1")
    assert cloud.tags == [("i-1", "ada")]


async def test_an_adopted_instance_gets_the_tags_of_its_vm(desk: Desk, cloud: BillableCloud) -> None:
    cloud.add(identity_of(7), deploy_id="i-9")
    await act(desk, "DEPLOY")
    assert desk.replies("DEPLOY") == ["DEPLOY SUCCESS 7 i-9"]
    assert cloud.tags == [("i-9", "oneadmin")]


@pytest.mark.parametrize("error", [PermissionDenied("not allowed"), ZeroDivisionError()], ids=["refusal", "defect"])
async def test_a_correction_that_fails_fails_no_action(desk: Desk, cloud: BillableCloud, error: Exception) -> None:
    await act(desk, "DEPLOY")
    cloud.refusal = error
    await act(desk, "REBOOT", is_adas=True, deploy_id="i-1")
    assert desk.replies("REBOOT")[0].startswith("REBOOT SUCCESS 7")


async def test_tags_that_cannot_be_recorded_fail_no_deploy(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr(Journal, "note_cloud_tags", full)
    await act(desk, "DEPLOY")
    assert desk.replies("DEPLOY") == ["DEPLOY SUCCESS 7 i-1"]


async def test_a_termination_corrects_nothing(desk: Desk, cloud: BillableCloud) -> None:
    await act(desk, "DEPLOY")
    await act(desk, "SHUTDOWN", is_adas=True, deploy_id="i-1")
    assert cloud.tags == []
