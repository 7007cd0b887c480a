"""The search for orphans learns whose each VM is, and corrects the tags of `[tags]`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest

from one_provider_mad.domain import DeployId, OwnedVm, VmOwner
from one_provider_mad.errors import BadParameter, MadError, PermissionDenied
from one_provider_mad.journal.reader import owners
from one_provider_mad.orphans import billing
from tests.actions.fakes import STIME, FakeCloud, World, a_world
from tests.orphans.reconciler_setup import FrontEnd

ADA = VmOwner(user_id=3, user="ada", group_id=101, group="students")
GRACE = VmOwner(user_id=4, user="grace", group_id=102, group="navy")


class BillableCloud(FakeCloud):
    """Pretends to be a cloud with tags.

    Attributes:
        tags: those of each instance.
        refusals: raised by the next writes of tags.
        full: instances that take no further tag.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, str] = {}
        self.refusals: list[MadError] = []
        self.full: set[str] = set()

    def wanted_tags(self, vm: OwnedVm) -> Mapping[str, str]:
        return {"who": vm.owner.user}

    async def write_tags(self, deploy_id: DeployId, tags: Mapping[str, str]) -> None:
        if self.refusals:
            raise self.refusals.pop()
        if deploy_id in self.full:
            raise BadParameter("EC2: the tag limit is reached (CreateTags, TagLimitExceeded)")
        self.tags[deploy_id] = tags["who"]


@pytest.fixture
async def world(tmp_path: object) -> AsyncIterator[World]:
    async with a_world(tmp_path, provider=BillableCloud()) as world:  # type: ignore[arg-type]
        yield world


@pytest.fixture
async def front(world: World) -> FrontEnd:
    front = FrontEnd(world)
    for vm_id in (7, 8):
        await front.create(f"i-{vm_id}", vm_id=vm_id)
        front.opennebula.vm(vm_id, f"i-{vm_id}", owner=ADA, name="web")
    return front


def tags_of(front: FrontEnd) -> dict[str, str]:
    assert isinstance(front.cloud, BillableCloud)
    return front.cloud.tags


async def test_owners_are_learned_and_tags_follow_them(front: FrontEnd) -> None:
    await front.look()
    assert owners(front.world.journal.path) == {(7, STIME): ADA, (8, STIME): ADA}
    assert tags_of(front) == {"i-7": "ada", "i-8": "ada"}
    front.opennebula.vm(8, "i-8", owner=GRACE)
    await front.look()
    await front.world.journal.debts()
    assert owners(front.world.journal.path)[8, STIME] == GRACE
    assert tags_of(front) == {"i-7": "ada", "i-8": "grace"}


async def test_a_vm_that_names_another_instance_changes_no_tags(front: FrontEnd) -> None:
    front.opennebula.vm(8, "i-9", owner=ADA)
    front.opennebula.vm(7, "i-7", owner=ADA, stime=STIME + 1)
    await front.look()
    assert tags_of(front) == {}


async def test_a_front_end_that_does_not_lead_writes_no_tags(front: FrontEnd) -> None:
    front.opennebula.leads = False
    await front.look()
    assert tags_of(front) == {}


async def test_a_missing_right_is_told_once_and_does_not_stop_the_search(front: FrontEnd) -> None:
    assert isinstance(front.cloud, BillableCloud)
    front.cloud.refusals = [PermissionDenied("EC2: CreateTags is not allowed")] * 2
    await front.look(2)
    told = [each for each in front.warnings if "tags" in each]
    assert told == ["tags of [tags] are not corrected: EC2: CreateTags is not allowed"]
    await front.look()
    assert tags_of(front) == {"i-7": "ada", "i-8": "ada"}


async def test_one_search_corrects_a_limited_number(front: FrontEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(billing, "_MOST", 1)
    await front.look()
    assert len(tags_of(front)) == 1
    await front.look()
    assert len(tags_of(front)) == 2


async def test_an_instance_that_takes_no_tags_does_not_keep_others_from_theirs(
    front: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(billing, "_MOST", 1)
    assert isinstance(front.cloud, BillableCloud)
    for full in ("i-7", "i-8"):
        front.cloud.tags.clear()
        front.cloud.full = {full}
        front.opennebula.vm(7, "i-7", owner=GRACE if full == "i-7" else ADA)
        front.opennebula.vm(8, "i-8", owner=GRACE if full == "i-7" else ADA)
        await front.look(3)
        assert tags_of(front).keys() == {"i-7", "i-8"} - {full}


async def test_a_cloud_that_refuses_all_tags_is_not_asked_for_each_instance(front: FrontEnd) -> None:
    for vm_id in range(20, 40):
        await front.create(f"i-{vm_id}", vm_id=vm_id)
        front.opennebula.vm(vm_id, f"i-{vm_id}", owner=ADA)
    assert isinstance(front.cloud, BillableCloud)
    front.cloud.refusals = [PermissionDenied("EC2: CreateTags is not allowed") for _ in range(20)]
    await front.look()
    assert len(front.cloud.refusals) > 10
