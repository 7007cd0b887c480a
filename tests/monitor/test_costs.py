"""What is reported of a VM besides its cloud's own attributes."""

from __future__ import annotations

import base64
import re
import time

import pytest
from lxml import etree

from one_provider_mad.domain import DeployId, Instance, InstanceState, Usage, VmId
from one_provider_mad.idle.core import read_figure
from one_provider_mad.monitor.costs import CostWatch, with_costs
from one_provider_mad.protocol.reports import HostReport, LegacyVm, VmFigures, legacy_report, vm_figures

KIB = 1024


def reported(usage: Usage | None, *, is_legacy: bool) -> str:
    """The text that OpenNebula gets of one VM."""
    instance = Instance(deploy_id=DeployId("i-7"), state=InstanceState.RUNNING, raw_state="running", usage=usage)
    attributes = with_costs(instance, CostWatch(time.monotonic, time.time), is_legacy=is_legacy)
    if is_legacy:
        vm = LegacyVm(
            vm_id=VmId(7), deploy_id=DeployId("i-7"), state_letter="a", usage=instance.usage, attributes=attributes
        )
        return legacy_report(HostReport(hypervisor="ec2"), [vm])
    figures = VmFigures(vm_id=VmId(7), deploy_id=DeployId("i-7"), usage=instance.usage, attributes=attributes)
    [message] = vm_figures([figures])
    found = re.search(r'MONITOR="([^"]*)"', message.text)
    assert found is not None
    return base64.b64decode(found[1]).decode()


@pytest.mark.parametrize("is_legacy", [False, True], ids=["since 6.0", "up to 5.10"])
@pytest.mark.parametrize(
    ("usage", "cpu"),
    [
        pytest.param(Usage(memory=KIB), None, id="only memory, as EC2 without CloudWatch"),
        pytest.param(Usage(cpu=0.0, memory=KIB), 0.0, id="nothing used"),
        pytest.param(Usage(cpu=150.5, memory=KIB), 150.5, id="used"),
    ],
)
def test_a_cpu_that_the_cloud_does_not_tell_is_none_for_idleness(
    usage: Usage, cpu: float | None, *, is_legacy: bool
) -> None:
    text = reported(usage, is_legacy=is_legacy)
    pairs = re.findall(r"\b([A-Z_]+)=\"?([\w.]+)", text)
    monitoring = "".join(f"<{name}>{value}</{name}>" for name, value in pairs)
    assert "CPU=" in text, "OpenNebula gets a figure as before"
    assert read_figure(etree.fromstring(f"<VM><MONITORING>{monitoring}</MONITORING></VM>")).cpu == cpu
