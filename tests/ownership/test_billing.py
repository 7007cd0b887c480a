"""The tags of `[tags]` follow the user, group and name of an instance's VM, in the simulated cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from one_provider_mad.calls.cloud import SharedCloud
from one_provider_mad.calls.waiting import Waiting
from one_provider_mad.domain import DeployId, OwnedVm, Template, VmId, VmOwner, VmRequest
from one_provider_mad.journal import writer
from one_provider_mad.journal.schema import PRAGMAS
from one_provider_mad.journal.writer import Journal
from one_provider_mad.ownership.billing import correct, corrections, note_created
from one_provider_mad.providers.simulated.provider import SimulatedProvider
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from one_provider_mad.testing.conformance import a_call
from tests.providers.contexts import a_context

ADA = VmOwner(user_id=3, user="ada", group_id=101, group="students")
GRACE = VmOwner(user_id=4, user="grace", group_id=102, group="navy")
WHO = {"who": "{user}", "cost": "{group}: {name}"}


class Site:
    """A simulated cloud and a journal."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder = folder
        self.journal = journal

    async def open(self, tags: Mapping[str, str]) -> SimulatedProvider:
        """Open the cloud with this table `[tags]`."""
        context = msgspec.structs.replace(a_context(), state_directory=self.folder, tags=tags)
        provider = SimulatedProvider(context, SimulatedSettings(boot_time=0.0))
        await provider.open()
        self.cloud = SharedCloud(provider, owner="tests", retries=0, call_timeout=5.0).for_action(Waiting())
        self.provider = provider
        return provider

    async def tags(self, deploy_id: DeployId) -> dict[str, str]:
        """Return an instance's tags without those of its identity."""
        found = await self.provider.cloud.tags(deploy_id)
        return {name: text for name, text in found.items() if not name.startswith("ONE_PROVIDER_")}

    async def correct(self, deploy_id: DeployId, vm: OwnedVm, **options: Any) -> int:
        """Correct what is to be corrected; return how many instances that were."""
        found = await corrections(self.cloud, self.journal, {deploy_id: vm}, **options)
        for each in found:
            await correct(self.cloud, self.journal, each)
        return len(found)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(writer, "PRAGMAS", PRAGMAS[:1])
    journal = Journal(tmp_path / "x.journal", clock=lambda: 1e9, on_lost=pytest.fail)
    await journal.open()
    site = Site(tmp_path, journal)
    await site.open(WHO)
    yield site
    await site.provider.close()
    await journal.close()


def a_request(owner: VmOwner = ADA, *, name: str = "web") -> VmRequest:
    own = {"TYPE": "ec2", "TAGS": "who=me,mine=yes"}
    section = Template(values={"PUBLIC_CLOUD": (own,), "CPU": ("1",), "MEMORY": ("256",)})
    return VmRequest(vm_id=VmId(7), name=name, owner=owner, stime=5, template=section, user_template=section)


async def created(site: Site, request: VmRequest) -> DeployId:
    deploy_id = await site.provider.create(a_call(site.provider, request))
    await note_created(site.cloud, site.journal, deploy_id, request.owned_vm)
    return deploy_id


async def test_tags_are_part_of_the_create_and_replace_a_users_own(site: Site) -> None:
    deploy_id = await created(site, a_request())
    assert await site.tags(deploy_id) == {"who": "ada", "cost": "students: web", "mine": "yes"}
    assert await site.correct(deploy_id, a_request().owned_vm) == 0


async def test_tags_follow_a_new_owner_and_name_once(site: Site) -> None:
    deploy_id = await created(site, a_request())
    later = a_request(GRACE, name="mail").owned_vm
    assert await site.correct(deploy_id, later) == 1
    assert await site.tags(deploy_id) == {"who": "grace", "cost": "navy: mail", "mine": "yes"}
    assert await site.correct(deploy_id, later) == 0
    assert await site.correct(deploy_id, later, is_forced=True) == 1


async def test_an_instance_without_record_gets_its_tags(site: Site) -> None:
    deploy_id = await site.provider.create(a_call(site.provider, a_request(VmOwner())))
    assert await site.correct(deploy_id, a_request(VmOwner()).owned_vm) == 0, "nothing is known to write"
    assert await site.correct(deploy_id, a_request().owned_vm) == 1
    assert (await site.tags(deploy_id))["who"] == "ada"


async def test_tags_taken_out_of_the_table_are_emptied(site: Site) -> None:
    deploy_id = await created(site, a_request())
    await site.provider.close()
    await site.open({"who": "{user}"})
    assert await site.correct(deploy_id, a_request().owned_vm) == 1
    assert await site.tags(deploy_id) == {"who": "ada", "mine": "yes"}
    await site.provider.close()
    await site.open({})
    assert await site.correct(deploy_id, a_request().owned_vm) == 1
    assert await site.correct(deploy_id, a_request().owned_vm) == 0
    assert await site.tags(deploy_id) == {"mine": "yes"}
