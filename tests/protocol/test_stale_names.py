"""Attributes that OpenNebula still shows and that no longer apply are removed, by reporting them empty."""

from __future__ import annotations

import pytest

from one_provider_mad.domain import DeployId, Usage, VmId
from one_provider_mad.protocol.poll import format_poll
from one_provider_mad.protocol.reports import HostReport, LegacyVm, VmFigures, legacy_report, vm_figures
from one_provider_mad.protocol.stale_names import StaleNames
from tests.monitor.decoder import read_template, unpacked, vectors

VM = VmId(7)
ADDRESS = {"AWS_PUBLIC_IP_ADDRESS": "203.0.113.9", "AWS_VPC_ID": "vpc-1"}
STOPPED = {"AWS_VPC_ID": "vpc-1", "AWS_STATE_REASON": "Client.UserInitiatedShutdown"}


def test_a_vanished_attribute_is_stale_until_its_removal_has_been_reported() -> None:
    names = StaleNames()
    assert names.of(VM, ADDRESS, None) == ()
    names.reported(VM, ADDRESS, Usage())
    assert names.of(VM, STOPPED, None) == ("CPU", "MEMORY", "NETRX", "NETTX", "AWS_PUBLIC_IP_ADDRESS")
    assert names.of(VM, STOPPED, Usage()) == ("AWS_PUBLIC_IP_ADDRESS",), "its removal was not reported yet"
    names.reported(VM, STOPPED, None)
    assert names.of(VM, STOPPED, None) == ()
    assert names.of(VM, ADDRESS, Usage()) == ("AWS_STATE_REASON",)


def test_for_a_vm_not_reported_yet_all_attribute_names_ever_reported_are_stale() -> None:
    names = StaleNames({"AWS_SPOT_INTERRUPTION"})
    names.expect(["AWS_STATE_REASON"])
    names.reported(VmId(8), ADDRESS, None)
    ever = {"AWS_SPOT_INTERRUPTION", "AWS_STATE_REASON", *ADDRESS}
    assert set(names.of(VM, {}, None)) == names.names == ever
    names.reported(VmId(8), ADDRESS, Usage())
    assert set(names.of(VM, {}, Usage())) == ever
    assert set(names.of(VM, {}, None)) == names.names == {*ever, "CPU", "MEMORY", "NETRX", "NETTX"}


def test_attributes_another_front_end_may_have_reported_become_stale_again() -> None:
    names = StaleNames()
    names.reported(VM, ADDRESS, None)
    names.reported(VM, STOPPED, None)
    names.forget()
    assert "AWS_PUBLIC_IP_ADDRESS" in names.of(VM, STOPPED, None)


def test_a_stale_attribute_is_reported_as_an_empty_vector() -> None:
    vm = VmFigures(vm_id=VM, deploy_id=DeployId("i-7"), attributes=STOPPED, stale=("CPU", "AWS_PUBLIC_IP_ADDRESS"))
    (text,) = vm_figures([vm])
    (found,) = vectors(read_template(text.text), "VM")
    assert read_template(unpacked(found["MONITOR"])) == {
        **{name: [value] for name, value in STOPPED.items()},
        "CPU": [{}],
        "AWS_PUBLIC_IP_ADDRESS": [{}],
    }


def test_a_legacy_report_removes_stale_attributes_from_4_14_on() -> None:
    vm = LegacyVm(vm_id=VM, deploy_id=DeployId("i-7"), state_letter="a", stale=("CPU", "AWS_PUBLIC_IP_ADDRESS"))
    report = HostReport(hypervisor="ec2")
    (found,) = vectors(read_template(legacy_report(report, [vm])), "VM")
    assert found["POLL"] == "STATE=a CPU=[] AWS_PUBLIC_IP_ADDRESS=[]"
    (found,) = vectors(read_template(legacy_report(report, [vm], is_before_4_14=True)), "VM")
    assert found["POLL"] == "STATE=a"


@pytest.mark.parametrize(("is_legacy", "info"), [(False, "STATE=a NOTE=[]"), (True, "STATE=a")])
def test_a_poll_answer_empties_stale_attributes_from_4_14_on(is_legacy: bool, info: str) -> None:  # noqa: FBT001
    assert format_poll("a", None, {}, stale=["NOTE"], is_legacy=is_legacy) == info


def test_attributes_of_opennebula_or_of_the_same_report_are_never_removed() -> None:
    stale = ["VCPU", "STATE", "ID", "USED_BY", "note", "NOTE", "CPU", "not a name"]
    assert format_poll("a", Usage(), {"Note": "x"}, stale=stale, is_legacy=False).split()[-1] == 'NOTE="x"'
