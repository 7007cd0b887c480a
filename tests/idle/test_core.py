"""Reading VMs, their wishes and their figures, from documents of several releases."""

from __future__ import annotations

import pytest
from lxml import etree

from one_provider_mad.idle.core import read_figure, read_machine
from one_provider_mad.idle.rules import Attribute, Figure


def vm(*, state: int = 3, lcm_state: int = 3, vm_mad: str = "sim", asks: str = "", figures: str = "") -> etree._Element:
    return etree.fromstring(
        f"<VM><ID>7</ID><GID>101</GID><STATE>{state}</STATE><LCM_STATE>{lcm_state}</LCM_STATE><STIME>10</STIME>"
        f"<DEPLOY_ID>i-7</DEPLOY_ID><LAST_POLL>50</LAST_POLL>{figures}<USER_TEMPLATE>{asks}</USER_TEMPLATE>"
        "<HISTORY_RECORDS><HISTORY><VM_MAD>home</VM_MAD><RSTIME>20</RSTIME></HISTORY>"
        f"<HISTORY><VM_MAD>{vm_mad}</VM_MAD><RSTIME>30</RSTIME></HISTORY></HISTORY_RECORDS></VM>"
    )


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        pytest.param("", None, id="nothing"),
        pytest.param("<PROVIDER_IDLE><![CDATA[YES]]></PROVIDER_IDLE>", "YES", id="word"),
        pytest.param("<PROVIDER_IDLE><CPU> 2 </CPU></PROVIDER_IDLE>", {"CPU": "2"}, id="vector"),
    ],
)
def test_a_running_vm_is_read_with_its_wish(text: str, asked: Attribute | None) -> None:
    machine = read_machine(vm(asks=text), name="sim")
    assert machine is not None
    assert (machine.vm_id, machine.group_id, machine.deploy_id, machine.started_at) == (7, 101, "i-7", 30.0)
    assert machine.asked == asked


@pytest.mark.parametrize("changes", [{"state": 8}, {"lcm_state": 18}, {"vm_mad": "ec2"}])
def test_a_vm_of_another_driver_or_that_does_not_run_is_left_out(changes: dict[str, object]) -> None:
    assert read_machine(vm(**changes), name="sim") is None  # type: ignore[arg-type]


def test_a_vm_without_a_host_is_left_out() -> None:
    assert read_machine(etree.fromstring("<VM><ID>7</ID></VM>"), name="sim") is None


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        pytest.param("<MONITORING><CPU>0.5</CPU></MONITORING>", (50, 0.5), id="up to 5.10"),
        pytest.param("<MONITORING><CPU>0</CPU><MEMORY>9</MEMORY></MONITORING>", (50, 0.0), id="no CPU used"),
        pytest.param("<MONITORING><CPU>0</CPU><MEMORY>0</MEMORY></MONITORING>", (50, None), id="all 0"),
        pytest.param("<MONITORING><MEMORY>9</MEMORY></MONITORING>", (50, None), id="no CPU"),
        pytest.param("<MONITORING><CPU>x</CPU><MEMORY>9</MEMORY></MONITORING>", (50, None), id="no number"),
        pytest.param(
            "<MONITORING><CPU>0.0</CPU><MEMORY>9</MEMORY><PROVIDER_CPU_UNKNOWN>YES</PROVIDER_CPU_UNKNOWN></MONITORING>",
            (50, None),
            id="not told by the cloud",
        ),
        pytest.param("<MONITORING/>", (50, None), id="nothing"),
        pytest.param("", (50, None), id="no element"),
    ],
)
def test_a_figure_is_read_from_a_vm(text: str, figure: tuple[float, float | None]) -> None:
    assert read_figure(vm(figures=text)) == Figure(*figure)


def test_a_figure_is_read_from_an_entry_of_monitord() -> None:
    entry = "<MONITORING><CPU>1.5</CPU><ID>7</ID><TIMESTAMP>60</TIMESTAMP></MONITORING>"
    assert read_figure(etree.fromstring(entry)) == Figure(60.0, 1.5)
