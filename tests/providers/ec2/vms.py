"""VMs with a section for EC2, and the create calls for them."""

from __future__ import annotations

from one_provider_mad.domain import DeployId, InstanceState, Template, VmId, VmRequest
from one_provider_mad.providers.ec2.provider import Ec2Provider
from one_provider_mad.providers.interface import CreateCall
from one_provider_mad.testing.conformance import reach
from tests.providers.ec2.conftest import OWNER

SECTION = {"AMI": "ami-0abc", "INSTANCETYPE": "t3.small"}


def a_vm(number: int = 7, *, seq: int = 0, **attributes: str) -> VmRequest:
    template = Template(values={"PUBLIC_CLOUD": ({**SECTION, **attributes},)})
    return VmRequest(vm_id=VmId(number), name=f"vm-{number}", stime=5, seq=seq, host_id=3, user_template=template)


def a_call(provider: Ec2Provider, request: VmRequest, *, token: str = "", at: int = 0) -> CreateCall:
    return CreateCall(
        identity=request.identity(owner=OWNER),
        token=token or f"token-{request.vm_id}",
        parameters=provider.plan(request).alternatives[at],
    )


async def launched(provider: Ec2Provider, request: VmRequest | None = None) -> DeployId:
    deploy_id = await provider.create(a_call(provider, request or a_vm()))
    await reach(provider, deploy_id, InstanceState.RUNNING)
    return deploy_id
