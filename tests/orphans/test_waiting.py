"""Parse the local OpenNebula's answers about waiting VMs, in the documents of several releases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from lxml import etree

from one_provider_mad.actions.settling import WaitingVm
from one_provider_mad.domain import VmId
from one_provider_mad.errors import InstanceNotFound, NotSupported, PermissionDenied, ProviderError, ProviderUnavailable
from one_provider_mad.orphans.waiting import WaitingVms
from one_provider_mad.safe_xml import Element
from one_provider_mad.xmlrpc.envelope import read_document
from one_provider_mad.xmlrpc.local import LocalCore
from tests.xmlrpc.partner import Partner

BOOT, RUNNING = 2, 3


def vm(vm_id: int, *, lcm_state: int = BOOT, driver: str = "<VM_MAD>ec2</VM_MAD>", older: str = "") -> str:
    return (
        f"<VM><ID>{vm_id}</ID><STATE>3</STATE><LCM_STATE>{lcm_state}</LCM_STATE><STIME>1795975451</STIME>"
        f"<HISTORY_RECORDS>{older}<HISTORY><SEQ>1</SEQ><HOSTNAME>cloud</HOSTNAME><HID>3</HID>{driver}"
        "<ACTION>0</ACTION></HISTORY></HISTORY_RECORDS></VM>"
    )


class FakeLocalCore:
    """Pretends to be OpenNebula's API: answers by method, and by VM for one.vm.info."""

    def __init__(self) -> None:
        self.answers: dict[tuple[object, ...], str | ProviderError] = {}

    def document(self, method: str, *arguments: object) -> Element:
        answer = self.answers[method, *(arguments if method == "one.vm.info" else ())]
        if isinstance(answer, ProviderError):
            raise answer
        return read_document(method, answer)


@pytest.fixture
def core() -> FakeLocalCore:
    return FakeLocalCore()


@pytest.fixture
def vms(core: FakeLocalCore) -> WaitingVms:
    return WaitingVms(cast("LocalCore", core))


@pytest.fixture
def partner() -> Iterator[Partner]:
    with Partner() as partner:
        yield partner


@pytest.fixture
def environ(partner: Partner, tmp_path: Path) -> dict[str, str]:
    auth = tmp_path / "one_auth"
    auth.write_text("oneadmin:secret\n")
    auth.chmod(0o600)
    return {"ONE_XMLRPC": partner.front_ends[0].url, "ONE_AUTH": str(auth)}


async def test_vms_in_states_that_wait_for_the_driver_are_found(core: FakeLocalCore, vms: WaitingVms) -> None:
    core.answers["one.vmpool.info",] = f"<VM_POOL>{vm(7)}{vm(8, lcm_state=RUNNING)}</VM_POOL>"
    waiting = WaitingVm(vm_id=VmId(7), lcm_state=BOOT, stime=1795975451, seq=1, driver="ec2")
    assert await vms.waiting() == {7: waiting}


async def test_the_driver_is_read_from_each_vm_if_the_pool_of_5_10_lacks_it(
    core: FakeLocalCore, vms: WaitingVms
) -> None:
    core.answers["one.vmpool.info",] = f"<VM_POOL>{vm(7, driver='')}{vm(8, driver='')}{vm(9, driver='')}</VM_POOL>"
    core.answers["one.vm.info", 7] = vm(7)
    core.answers["one.vm.info", 8] = vm(8, lcm_state=RUNNING)
    core.answers["one.vm.info", 9] = InstanceNotFound("gone meanwhile")
    assert {vm_id: found.driver for vm_id, found in (await vms.waiting()).items()} == {7: "ec2"}


async def test_a_vm_without_history_is_left_out_and_others_are_found(core: FakeLocalCore, vms: WaitingVms) -> None:
    odd = "<VM><ID>8</ID><STATE>3</STATE><LCM_STATE>2</LCM_STATE><STIME>1</STIME><HISTORY_RECORDS/></VM>"
    core.answers["one.vmpool.info",] = f"<VM_POOL>{odd}{vm(7)}</VM_POOL>"
    assert (await vms.waiting()).keys() == {7}


async def test_the_document_of_a_waiting_vm_has_its_host_and_the_action_of_the_previous_record(
    core: FakeLocalCore, vms: WaitingVms
) -> None:
    core.answers["one.vm.info", 7] = vm(7, older="<HISTORY><SEQ>0</SEQ><ACTION>21</ACTION></HISTORY>")
    found = await vms.waiting_document(VmId(7))
    assert found is not None
    assert (found.host, found.closed_by, found.vm.seq) == ("cloud", 21, 1)
    assert etree.fromstring(found.document).findtext("ID") == "7"


@pytest.mark.parametrize("root", ["OPENNEBULA_CONFIGURATION", "TEMPLATE"])
async def test_driver_names_are_the_vm_mads_with_this_executable_and_argument(
    core: FakeLocalCore, vms: WaitingVms, root: str
) -> None:
    def mad(name: str, arguments: str, program: str = "/usr/lib/one/mads/one_vmm_provider") -> str:
        return (
            f"<VM_MAD><NAME>{name}</NAME><ARGUMENTS>{arguments}</ARGUMENTS><EXECUTABLE>{program}</EXECUTABLE></VM_MAD>"
        )

    sections = mad("cloud", "-t 15 -r 0 ec2") + mad("other", "-t 15 azure") + mad("kvm", "-t 15 ec2", "one_vmm_exec")
    core.answers["one.system.config",] = f"<{root}>{sections}</{root}>"
    assert set(await vms.driver_names("ec2")) == {"cloud"}
    assert set(await vms.driver_names("nothing")) == {"nothing"}


@pytest.mark.parametrize("refusal", [PermissionDenied("admins only"), NotSupported("opennebula", "it")])
async def test_the_drivers_name_is_used_if_oned_does_not_return_its_configuration(
    core: FakeLocalCore, vms: WaitingVms, refusal: ProviderError
) -> None:
    core.answers["one.system.config",] = refusal
    assert set(await vms.driver_names("ec2")) == {"ec2"}


@pytest.mark.parametrize(("state", "leads"), [(0, True), (1, False), (2, False), (3, True)])
async def test_may_act_is_true_for_a_leader_or_a_front_end_alone(
    partner: Partner, environ: dict[str, str], state: int, *, leads: bool
) -> None:
    partner.front_ends[0].state = state
    assert await WaitingVms(LocalCore(environ)).may_act() is leads


async def test_may_act_fails_for_an_unknown_raft_state(partner: Partner, environ: dict[str, str]) -> None:
    """Then settling is repeated; a plain False would end it until the next change of leader."""
    partner.front_ends[0].state = 9
    with pytest.raises(ProviderUnavailable, match="has an unknown STATE"):
        await WaitingVms(LocalCore(environ)).may_act()
