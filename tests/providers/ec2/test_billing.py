"""The tags of `[tags]` in a cloud like EC2: with the create, and corrected, for the instance and its volumes."""

from __future__ import annotations

import msgspec

from one_provider_mad.domain import VmOwner
from tests.providers.ec2.conftest import Open
from tests.providers.ec2.faulty_endpoint import FaultyEc2
from tests.providers.ec2.vms import a_vm, launched

TAGS = {"cost": "{group}", "who": "{user}"}
ADA = VmOwner(user_id=3, user="ada", group_id=101, group="students")


def tags_in(ec2: FaultyEc2) -> dict[str, dict[str, str]]:
    """Return the tags of `[tags]` of every resource, by kind."""
    found: dict[str, dict[str, str]] = {}
    for each in ec2.account.act("DescribeTags", {})["tagSet"]:
        if each["key"] in TAGS:
            found.setdefault(each["resourceType"], {})[each["key"]] = each["value"]
    return found


async def test_instance_and_volumes_have_the_tags_from_the_create_on(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(billing_tags=TAGS)
    request = msgspec.structs.replace(a_vm(TAGS="cost=mine"), owner=ADA)
    deploy_id = await launched(provider, request)
    wanted = {"cost": "students", "who": "ada"}
    found = tags_in(ec2)
    assert (found["instance"], found["volume"]) == (wanted, wanted)
    await provider.write_tags(deploy_id, {"cost": "navy", "who": ""})
    found = tags_in(ec2)
    assert found["instance"] == found["volume"] == {"cost": "navy", "who": ""}


async def test_an_edit_of_tags_in_the_section_leaves_those_of_the_operator(ec2: FaultyEc2, connect: Open) -> None:
    provider = await connect(billing_tags=TAGS)
    deploy_id = await launched(provider, msgspec.structs.replace(a_vm(), owner=ADA))
    await provider.stop(deploy_id, hard=True)
    edited = msgspec.structs.replace(a_vm(TAGS="cost=mine"), owner=ADA)
    await provider.reconfigure(deploy_id, edited, "TAGS")
    assert tags_in(ec2)["instance"]["cost"] == "students"
