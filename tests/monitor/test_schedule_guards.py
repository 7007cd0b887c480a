"""Conditions that keep reports from being wrong: one test for each that no other test proves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from one_provider_mad.domain import DeployId, InstanceState, VmId
from one_provider_mad.errors import ProviderUnavailable
from one_provider_mad.monitor.attribution import KnownInstance
from one_provider_mad.monitor.changes import Changes
from one_provider_mad.monitor.inference import InferredVm, Memory
from one_provider_mad.monitor.schedule import Due
from one_provider_mad.monitor.sender import Sender
from one_provider_mad.protocol.im import parse_line
from one_provider_mad.protocol.im_messages import Era, Monitor, StartMonitor, StopMonitor
from one_provider_mad.protocol.reports import VmState, VmWord
from tests.actions.fakes import pass_time
from tests.monitor.decoder import plain, start_monitor, vectors
from tests.monitor.virtual_driver import VirtualDriver

pytestmark = pytest.mark.looptime


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[VirtualDriver]:
    """A running driver on a fake cloud, in virtual time."""
    driver = VirtualDriver(tmp_path)
    yield driver
    await driver.handler.stop()


OUTAGE = ProviderUnavailable("no answer")


# Changes


def seen(*vms: tuple[int, VmWord]) -> list[InferredVm]:
    return [
        InferredVm(state=VmState(vm_id=VmId(vm_id), deploy_id=DeployId(f"i-{vm_id}"), state=word))
        for vm_id, word in vms
    ]


def test_a_change_to_unknown_is_not_reported_and_a_change_from_unknown_is() -> None:
    changes = Changes()
    assert [
        state.vm_id for state in changes.states_to_report(seen((7, VmWord.RUNNING), (8, VmWord.UNKNOWN)), {}, now=1)
    ] == [7]
    changes.note_full_report(seen((7, VmWord.UNKNOWN)), {}, now=2)
    assert [state.state for state in changes.states_to_report(seen((7, VmWord.RUNNING)), {}, now=3)] == [VmWord.RUNNING]


# Periods


def test_periods_that_passed_during_a_delay_are_not_made_up_for() -> None:
    due = Due(0.0)
    assert due.take(100.0, 10.0)
    assert sum(due.take(100.0 + tick, 10.0) for tick in range(9)) <= 1


# States


async def test_a_missing_vm_is_left_out_of_a_report_of_all_vms(one: VirtualDriver) -> None:
    one.set(missing_after=1)
    one.add(7)
    gone = one.add(8)
    one.start(STATE_VM=5, SYNC_STATE_VM=20)
    await pass_time(1)
    del one.cloud.instances[gone]
    await pass_time(25)
    assert [said for _, said in one.syncs()] == [{7: "RUNNING", 8: "RUNNING"}, {7: "RUNNING"}]


async def test_no_figures_are_sent_of_a_terminating_instance(one: VirtualDriver) -> None:
    one.add(7)
    one.add(8)
    one.start(MONITOR_VM=10)
    await pass_time(5)
    one.set_state(8, InstanceState.TERMINATING)
    await pass_time(10)
    said = [sorted(int(vm["ID"]) for vm in vectors(line.values, "VM")) for line in one.lines("MONITOR_VM")]
    assert (said[0], said[-1]) == ([7, 8], [7])


# The host


async def test_a_host_put_into_error_by_listings_for_other_hosts_recovers_with_its_own_next_listing(
    one: VirtualDriver,
) -> None:
    """Sweeps serve all hosts, so a host with long periods is put into ERROR by listings of the others."""
    one.set(host_error_after=60)
    one.start(3, STATE_VM=5)
    one.start(4, STATE_VM=500, SYSTEM_HOST=200, SYNC_STATE_VM=6000)
    await pass_time(1)
    one.cloud.always["list"] = OUTAGE
    await pass_time(300)
    assert [line.text for line in one.lines("MONITOR_HOST", 4) if line.status == "FAILURE"] == ["no answer"]
    del one.cloud.always["list"]
    await pass_time(220)
    begun = one.times("SYSTEM_HOST", 4)[0]
    assert [round(at - begun) for at in one.times("SYSTEM_HOST", 4)] == [0, 0, 500]
    assert [round(at - begun) for at, _ in one.syncs(4)] == [0, 500]


async def test_a_host_started_during_an_outage_gets_provider_error_at_once(one: VirtualDriver) -> None:
    one.cloud.always["list"] = OUTAGE
    one.start(3)
    await pass_time(10)
    one.start(4)
    await pass_time(1)
    assert plain(one.lines("SYSTEM_HOST", 4)[0].values, "PROVIDER_ERROR") == "no answer"


async def test_resuming_does_not_replace_a_newer_start_monitor(one: VirtualDriver) -> None:
    one.start(3, BEACON_HOST=7)
    before = parse_line(start_monitor(3, "cloud-3", BEACON_HOST=77).rstrip())
    assert isinstance(before, StartMonitor)
    one.handler.resume([before])
    await pass_time(1)
    assert [request.periods.beacon_host for request in one.handler.hosts] == [7]


@pytest.mark.parametrize("is_known", [True, False], ids=["monitored-already", "new"])
async def test_an_unreadable_start_monitor_sets_provider_error_and_monitoring_continues(
    one: VirtualDriver, *, is_known: bool
) -> None:
    one.add(7)
    if is_known:
        one.start(3, BEACON_HOST=7)
        await pass_time(1)
    one.tell(b"START_MONITOR - 3 0 !!!\n")
    await pass_time(1)
    assert [request.periods.beacon_host for request in one.handler.hosts] == [7 if is_known else 30]
    assert {line.status for _, line in one.said if line.word != "LOG"} == {"SUCCESS"}
    assert plain(one.lines("SYSTEM_HOST")[-1].values, "PROVIDER_ERROR").startswith("payload is not base64")
    assert one.syncs()[-1][1] == {7: "RUNNING"}


# Up to 5.10


def letters(one: VirtualDriver) -> dict[int, str]:
    """The letters of the VMs in the last report, by VM id."""
    values = one.lines("MONITOR")[-1].values
    return {int(vm["ID"]): vm["POLL"].partition("STATE=")[2][:1] for vm in vectors(values, "VM") if vm["ID"] != "-1"}


async def asked(one: VirtualDriver) -> dict[int, str]:
    await pass_time(10)
    one.ask()
    await pass_time(1)
    return letters(one)


async def test_before_the_first_listing_a_legacy_report_is_empty(one: VirtualDriver) -> None:
    """In a report without VMs every VM would be missing, and the second one would power them off."""
    one.cloud.always["list"] = OUTAGE
    one.ask()
    await pass_time(1)
    assert [(line.status, line.text) for line in one.lines("MONITOR")] == [("SUCCESS", "")]


async def test_a_vm_has_the_letter_e_once_it_is_missing_and_a_dash_before(one: VirtualDriver) -> None:
    one.set(missing_after=2)
    one.add(7)
    gone = one.add(8)
    assert await asked(one) == {7: "a", 8: "a"}
    del one.cloud.instances[gone]
    assert await asked(one) == {7: "a", 8: "-"}
    assert await asked(one) == {7: "a", 8: "e"}
    assert await asked(one) == {7: "a", 8: "-"}
    one.cloud.always["list"] = OUTAGE
    assert await asked(one) == {7: "-", 8: "-"}


async def test_the_letter_e_of_a_missing_vm_is_sent_once_and_rarely_again(one: VirtualDriver) -> None:
    """Each `e` is a line in the VM's log; oned ignores it while it changes the VM, so it is repeated."""
    one.set(missing_after=1)
    gone = one.add(8)
    await asked(one)
    del one.cloud.instances[gone]
    said = [(await asked(one))[8] for _ in range(200)]
    assert said[:2] == ["e", "-"]
    assert 2 <= said.count("e") <= 1 + 200 * 10 // 900 + 1


async def test_with_missing_state_poweroff_a_missing_vm_is_left_out_of_legacy_reports(one: VirtualDriver) -> None:
    one.set(missing_after=1, missing_state="POWEROFF")
    gone = one.add(8)
    await asked(one)
    del one.cloud.instances[gone]
    assert [await asked(one) for _ in range(2)] == [{}, {}]


async def test_up_to_4_12_a_missing_vm_is_left_out_of_reports(one: VirtualDriver) -> None:
    """There an `e` is a FAILED VM for ever, and a VM that is left out is UNKNOWN."""
    one.set(missing_after=1, is_before_4_14=True)
    gone = one.add(8)
    await asked(one)
    del one.cloud.instances[gone]
    assert [await asked(one) for _ in range(2)] == [{}, {}]


async def test_during_an_outage_a_legacy_report_has_only_vms_listed_before_on_this_host(one: VirtualDriver) -> None:
    known = [
        KnownInstance(vm_id=VmId(7), host_id=3, deploy_id=DeployId("i-7"), misses=2),
        KnownInstance(vm_id=VmId(8), host_id=3, deploy_id=DeployId("i-8"), misses=3, missing_since=1.0),
        KnownInstance(vm_id=VmId(9), host_id=4, deploy_id=DeployId("i-9")),
    ]
    one.sweeper.memory = Memory(vms={each.vm_id: each for each in known}, listed_at=1.0)
    one.cloud.always["list"] = OUTAGE
    assert await asked(one) == {7: "-", 8: "-"}
    one.set(missing_state="POWEROFF")
    assert await asked(one) == {7: "-"}


async def test_a_legacy_report_fails_only_once_an_outage_has_lasted_host_error_after(one: VirtualDriver) -> None:
    one.set(host_error_after=30)
    one.cloud.always["list"] = OUTAGE
    for _ in range(6):
        one.ask()
        await pass_time(10)
    assert [line.status for line in one.lines("MONITOR")] == ["SUCCESS"] * 3 + ["FAILURE"] * 3


class OddProbes:
    """Pretends to be probes with a defect."""

    async def answer(self, request: Monitor) -> str:
        raise KeyError("HYPERVISOR")

    async def report(self, request: StartMonitor, sender: Sender, on_reported: Callable[[], None]) -> None:
        raise KeyError("HYPERVISOR")

    def forget(self, host_id: int) -> None:
        raise KeyError("HYPERVISOR")


async def test_an_exception_in_probes_fails_the_report_unless_another_front_end_leads(one: VirtualDriver) -> None:
    one.source.probe_source = OddProbes()
    with capture_logs():
        for is_silent in (False, True):
            one.handler.set_silent(is_silent=is_silent)
            one.ask()
            await pass_time(1)
        one.handler.accept(StopMonitor(host_id=3, era=Era.LEGACY))
    (_, stopped) = one.said[-1]
    assert (stopped.word, stopped.status, stopped.text.split(",")[0]) == (
        "STOPMONITOR",
        "FAILURE",
        "internal error (KeyError)",
    )
    said = [(line.status, line.text.split(",")[0]) for line in one.lines("MONITOR")]
    assert said == [("FAILURE", "internal error (KeyError)"), ("SUCCESS", "")]
