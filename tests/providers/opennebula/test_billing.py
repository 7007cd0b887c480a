"""The tags of `[tags]` at a partner's: attributes of the remote VM, with the create and corrected."""

from __future__ import annotations

from pathlib import Path

import msgspec

from one_provider_mad.domain import VmOwner
from one_provider_mad.providers.opennebula.machine import number_of
from one_provider_mad.testing.conformance import a_call
from tests.providers.opennebula.partner_provider import a_vm, connect
from tests.xmlrpc.partner import Partner

TAGS = {"cost-center": "{group}", "who": 'the "{user}" \\'}
ADA = VmOwner(user_id=3, user="ada", group_id=101, group="students")


async def test_tags_are_attributes_from_the_create_on_and_are_replaced(tmp_path: Path) -> None:
    with Partner() as partner:
        provider = connect(partner, tmp_path, tags=TAGS)
        await provider.open()
        request = msgspec.structs.replace(a_vm(TAGS="who=me,mine=yes"), owner=ADA)
        deploy_id = await provider.create(a_call(provider, request))
        vm = partner.vms[number_of(deploy_id) or 0]
        names = ("TAG_COST_CENTER", "TAG_WHO", "TAG_MINE")
        assert [vm.user_template[name] for name in names] == [["students"], ['the "ada" _'], ["yes"]]
        await provider.write_tags(deploy_id, {"TAG_COST_CENTER": "navy", "TAG_WHO": ""})
        assert [vm.user_template.get(name) for name in names] == [["navy"], [""], ["yes"]]
        await provider.reconfigure(deploy_id, request, "TAGS")
        assert [vm.user_template.get(name) for name in names] == [["navy"], [""], ["yes"]], "no user replaces them"
        await provider.close()
