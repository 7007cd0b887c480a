"""A partner OpenNebula of two releases passes the conformance suite."""

# mypy: disable-error-code="type-abstract"
from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from one_provider_mad.domain import DeployId, InstanceState, Template, VmId, VmRequest
from one_provider_mad.errors import WrongState
from one_provider_mad.providers.interface import (
    ContextUpdate,
    DiskHotplug,
    DiskSnapshots,
    NetworkRules,
    NicUpdates,
    Provider,
    Resizable,
    TypeSource,
)
from one_provider_mad.testing.conformance import OWNER, CloudUnderTest, OwnedCloudConformance, a_call, reach
from tests.providers.opennebula.partner_provider import connect
from tests.xmlrpc.partner import Partner


class PartnerConsole:
    """A user of the partner's, who does not set our tags."""

    def __init__(self, partner: Partner) -> None:
        self._partner = partner

    async def launch(self) -> DeployId:
        user = self._partner.users["oneadmin:secret"]
        return DeployId(f"opennebula-hybrid-{self._partner.do_template_instantiate(user, 0, 'theirs', False, '')}")  # noqa: FBT003

    async def terminate(self, deploy_id: DeployId) -> None:
        vm = self._partner.vms[int(deploy_id.rpartition("-")[2])]
        vm.go((6, 0), delay=0)


class PartnerConformance(OwnedCloudConformance):
    release: str = "7.4.0"

    @pytest.fixture
    def partner(self) -> Iterator[Partner]:
        with Partner(self.release, delay=0.002) as partner:  # type: ignore[arg-type]
            yield partner

    @pytest.fixture
    def cloud(self, partner: Partner, tmp_path: Path) -> CloudUnderTest:
        return CloudUnderTest(
            connect=lambda: connect(partner, tmp_path),
            console=PartnerConsole(partner),
            section={"TYPE": "opennebula", "TEMPLATE_ID": "0"},
            other_section={"TYPE": "opennebula", "TEMPLATE_ID": "0", "MEMORY": "512"},
            unknown_deploy_id=DeployId("opennebula-hybrid-99999"),
            lacks={
                TypeSource: "a remote VM has the size that its template asks for",
                NetworkRules: "security groups of the partner are the partner's",
                NicUpdates: "networks of the partner are the partner's",
            },
        )

    async def test_disk_snapshot_can_be_created_and_reverted(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        """OpenNebula reverts a disk only while its VM is off."""
        snapshots = self.capable(cloud, provider, DiskSnapshots)
        disk = {"DISK_ID": "5", "SIZE": "1024", "TARGET": "vdf"}
        await self.capable(cloud, provider, DiskHotplug).attach_disk(running, disk)
        await snapshots.create_disk_snapshot(running, disk)
        with pytest.raises(WrongState):
            await snapshots.revert_disk_snapshot(running, disk)
        await self.stopped(provider, running)
        await snapshots.revert_disk_snapshot(running, disk)
        await snapshots.revert_disk_snapshot(running, disk)


class TestOpenNebula7Conforms(PartnerConformance):
    release = "7.4.0"


class TestOpenNebula5Conforms(PartnerConformance):
    """5.10 changes neither size nor context of a VM that runs."""

    release = "5.10.5"

    async def test_instance_can_be_resized_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        resizable = self.capable(cloud, provider, Resizable)
        larger = VmRequest(vm_id=VmId(1), template=Template(values={"CPU": ("2",), "MEMORY": ("2048",)}))
        with pytest.raises(WrongState):
            await resizable.resize(running, larger)
        await self.stopped(provider, running)
        for _ in range(2):
            await resizable.resize(running, larger)

    async def test_context_can_be_updated_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        updating = self.capable(cloud, provider, ContextUpdate)
        context: Mapping[str, str] = {"SSH_PUBLIC_KEY": "ssh-rsa AAAA"}
        request = VmRequest(vm_id=VmId(1), template=Template(values={"CONTEXT": (context,)}))
        with pytest.raises(WrongState):
            await updating.update_context(running, request)
        await self.stopped(provider, running)
        for _ in range(2):
            await updating.update_context(running, request)


async def test_an_instance_created_by_one_provider_is_found_by_another(tmp_path: Path) -> None:
    with Partner() as partner:
        first, second = connect(partner, tmp_path), connect(partner, tmp_path)
        await asyncio.gather(first.open(), second.open())
        request = VmRequest(
            vm_id=VmId(4),
            stime=7,
            user_template=Template(values={"PUBLIC_CLOUD": ({"TEMPLATE_NAME": "ubuntu server"},)}),
        )
        deploy_id = await first.create(a_call(first, request))
        await reach(second, deploy_id, InstanceState.RUNNING)
        assert [each.deploy_id for each in await second.find(owner=OWNER, vm_id=VmId(4))] == [deploy_id]
        await asyncio.gather(first.close(), second.close())
