"""EC2 passes the conformance suite."""

# mypy: disable-error-code="type-abstract"
# The suite passes capabilities, which are protocols, as arguments for isinstance.

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest

from one_provider_mad.domain import DeployId, InstanceState, Template, VmId, VmRequest
from one_provider_mad.errors import BadParameter, WrongState
from one_provider_mad.mappings import ContextSettings, Mappings
from one_provider_mad.providers.interface import (
    ContextUpdate,
    DiskSnapshots,
    NetworkRules,
    NicUpdates,
    Provider,
    Resizable,
    Snapshots,
    Suspendable,
)
from one_provider_mad.testing.conformance import CloudUnderTest, OwnedCloudConformance, describe_one
from tests.providers.ec2.conftest import make
from tests.providers.ec2.faulty_endpoint import FaultyEc2


@dataclass
class Ec2Console:
    """Another user in the cloud's own console."""

    ec2: FaultyEc2

    async def launch(self) -> DeployId:
        answer = self.ec2.account.act("RunInstances", {"InstanceType": "t3.small", "ImageId": "ami-0foreign"})
        return DeployId(answer["instancesSet"][0]["instanceId"])

    async def terminate(self, deploy_id: DeployId) -> None:
        self.ec2.account.act("TerminateInstances", {"InstanceId.1": deploy_id})


LACKS: dict[type, str] = {
    Suspendable: "EC2 hibernates only instances that were made for it: SAVE stops them",
    Snapshots: "EC2 cannot put all volumes of an instance back",
    DiskSnapshots: "EC2 cannot put a volume back",
    NicUpdates: "EC2 limits no interface's bandwidth",
}


class TestEc2Conforms(OwnedCloudConformance):
    @pytest.fixture
    def cloud(self, ec2: FaultyEc2) -> CloudUnderTest:
        return CloudUnderTest(
            connect=partial(make, ec2.url, mappings=Mappings(context=ContextSettings(guest="auto"))),
            console=Ec2Console(ec2),
            section={"AMI": "ami-0abc", "INSTANCETYPE": "t3.small"},
            other_section={"INSTANCETYPE": "t3.large"},
            unknown_deploy_id=DeployId("i-0ffffffffffffffff"),
            lacks=LACKS,
        )

    async def test_instance_can_be_resized_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        """EC2 changes the type of stopped instances only; for a running one it is refused with the reason."""
        resizable = self.capable(cloud, provider, Resizable)
        larger = VmRequest(vm_id=VmId(1), template=Template(values={"CPU": ("2",), "MEMORY": ("8192",)}))
        with pytest.raises(WrongState, match=r"is running: EC2 changes the type of stopped ones only, to t3\.large"):
            await resizable.resize(running, larger)
        await self.stopped(provider, running)
        for _ in range(2):
            await resizable.resize(running, larger)
        instance = await describe_one(provider, running)
        assert instance is not None
        assert instance.attributes["AWS_INSTANCE_TYPE"] == "t3.large"
        assert instance.state is InstanceState.STOPPED

    async def test_context_can_be_updated_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        """EC2 changes user data of stopped instances only; for a running one it is refused with the reason."""
        updating = self.capable(cloud, provider, ContextUpdate)
        context = Template(values={"CONTEXT": ({"SSH_PUBLIC_KEY": "ssh-rsa AAAA"},)})
        request = VmRequest(vm_id=VmId(1), template=context)
        with pytest.raises(WrongState, match=r"is running: EC2 changes user data of stopped ones only: it is when"):
            await updating.update_context(running, request)
        await self.stopped(provider, running)
        for _ in range(2):
            await updating.update_context(running, request)

    async def test_security_groups_can_be_updated_repeatedly(
        self, cloud: CloudUnderTest, provider: Provider, running: DeployId
    ) -> None:
        """Without `mirror = true` they are refused with the reason; test_groups.py has them with it."""
        rules = self.capable(cloud, provider, NetworkRules)
        request = VmRequest(vm_id=VmId(1), security_group_id="7")
        with pytest.raises(BadParameter, match=r"group 7 is not in EC2: \[security_groups\] has no mirror = true"):
            await rules.update_security_group(running, request)
