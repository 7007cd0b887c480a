"""The times of reports about hosts, in virtual time, with a fake cloud."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest

from one_provider_mad.domain import DeployId, InstanceState, VmId
from one_provider_mad.errors import ProviderUnavailable, SettingsError, Throttled
from one_provider_mad.monitor.attribution import KnownInstance
from one_provider_mad.monitor.inference import Memory
from one_provider_mad.monitor.sender import Sender
from one_provider_mad.protocol import reports
from one_provider_mad.protocol.im import parse_line
from one_provider_mad.protocol.im_messages import Kind, Monitor, StartMonitor
from tests.actions.fakes import pass_time
from tests.monitor.decoder import Line, plain, start_monitor, unpacked, vectors
from tests.monitor.virtual_driver import VirtualDriver

pytestmark = pytest.mark.looptime

Make = Callable[..., VirtualDriver]


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes drivers, which are closed in the end."""
    made: list[VirtualDriver] = []

    def make(**options: Any) -> VirtualDriver:
        made.append(VirtualDriver(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        await one.handler.stop()


async def test_each_kind_of_report_is_sent_at_its_period(driver: Make) -> None:
    one = driver()
    one.add(7)
    one.start(BEACON_HOST=30, SYSTEM_HOST=600, STATE_VM=5, SYNC_STATE_VM=180, MONITOR_VM=60)
    await pass_time(601)
    assert [round(at) for at in one.times("SYSTEM_HOST")] == [0, 0, 600], (
        "at once, after the first listing, and at its period"
    )
    assert [round(at) for at in one.times("MONITOR_HOST")][2:] == [30 * n for n in range(1, 21)]
    assert [(round(at), said) for at, said in one.syncs()] == [(180 * n, {7: "RUNNING"}) for n in range(4)]
    assert [round(at) for at in one.times("MONITOR_VM")] == [60 * n for n in range(11)]
    assert one.changes() == [], "nothing has changed"


async def test_configured_periods_replace_those_of_start_monitor(driver: Make) -> None:
    one = driver(heartbeat=7, sync_period=20)
    one.start(BEACON_HOST=600, SYNC_STATE_VM=600)
    await pass_time(61)
    assert len(one.times("MONITOR_HOST")) == 1 + 1 + 8
    assert [round(at) for at, _ in one.syncs()] == [0, 20, 40, 60]


async def test_a_changed_period_applies_without_a_restart(driver: Make) -> None:
    one = driver(heartbeat=600)
    one.start()
    await pass_time(10)
    one.set(heartbeat=2)
    before = len(one.times("MONITOR_HOST"))
    await pass_time(21)
    assert len(one.times("MONITOR_HOST")) - before >= 8


async def test_a_changed_period_applies_within_seconds_even_if_all_were_an_hour(driver: Make) -> None:
    one = driver(heartbeat=3600, system_period=3600, state_period=3600)
    one.start()
    await pass_time(12)
    one.set(state_period=10)
    before = len(one.cloud.calls)
    await pass_time(26)
    assert len(one.cloud.calls) - before == 2


async def test_a_changed_state_is_reported_when_listed_and_again_after_half_a_minute(driver: Make) -> None:
    """In between OpenNebula 7.4 would only write into the VM's log that it has ignored it."""
    one = driver()
    one.add(7)
    one.add(8)
    one.start(STATE_VM=5, SYNC_STATE_VM=60)
    await pass_time(11)
    one.set_state(7, InstanceState.STOPPED)
    await pass_time(80)
    assert [(round(at), said) for at, said in one.changes()] == [(at, {7: "POWEROFF"}) for at in (15, 50)]
    assert [said for _, said in one.syncs()] == [{7: "RUNNING", 8: "RUNNING"}, {7: "POWEROFF", 8: "RUNNING"}]


async def test_a_listing_that_hangs_does_not_delay_heartbeats(driver: Make) -> None:
    one = driver()
    one.cloud.always["list"] = asyncio.Event()
    one.start(BEACON_HOST=30, STATE_VM=5)
    await pass_time(181)
    beats = one.times("MONITOR_HOST")
    assert [round(at) for at in beats if round(at) % 30 == 0] == [
        0,
        30,
        60,
        *([60] if beats.count(60) else []),
        90,
        120,
        150,
        180,
    ]
    assert not one.times("STATE_VM")


async def test_listings_never_overlap(driver: Make) -> None:
    one = driver(min_list_interval=0)
    now, most = 0, 0
    listed = one.cloud.list_instances

    async def slow_list() -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await pass_time(12)
        now -= 1
        return await listed()

    one.cloud.list_instances = slow_list  # type: ignore[method-assign]
    for host_id in range(5):
        one.start(host_id, STATE_VM=5)
    await pass_time(121)
    assert most == 1
    assert 9 <= one.cloud.count("list") <= 11, "one after the other, for five hosts"


async def test_hosts_and_periods_that_are_due_together_share_a_listing(driver: Make) -> None:
    one = driver()
    for host_id in range(10):
        one.add(host_id, host_id=host_id)
        one.start(host_id, STATE_VM=5, SYNC_STATE_VM=5, MONITOR_VM=5)
    await pass_time(101)
    assert one.cloud.count("list") == 21
    assert all(len(one.syncs(host_id)) == 21 for host_id in range(10))


async def test_the_cloud_is_not_listed_more_often_than_min_list_interval(driver: Make) -> None:
    one = driver(min_list_interval=60)
    one.add(7)
    one.start(STATE_VM=5, SYNC_STATE_VM=5)
    await pass_time(121)
    assert one.cloud.count("list") == 3
    assert len(one.syncs()) == 25, "reports continue from the last listing"


async def test_a_cloud_that_does_not_answer_is_listed_less_and_less_often(driver: Make) -> None:
    one = driver()
    one.cloud.always["list"] = ProviderUnavailable("no answer")
    one.start(STATE_VM=5)
    await pass_time(200)
    asked = one.cloud.count("list")
    assert 8 <= asked <= 11, "after 5, 10, 20 and then every 30 seconds"
    assert len(one.lines("SYSTEM_HOST")) == 2, "once without and once with the error"
    assert plain(one.lines("SYSTEM_HOST")[-1].values, "PROVIDER_ERROR") == "no answer"


@pytest.mark.parametrize(("asked", "given"), [(20, 20), (9999, 30)])
async def test_a_throttled_listing_is_repeated_after_retry_after_or_thirty_seconds_at_most(
    driver: Make, asked: float, given: float
) -> None:
    one = driver()
    one.cloud.before["list"].append(Throttled("slow down", retry_after=asked))
    one.start(STATE_VM=5)
    await pass_time(given - 1)
    assert one.cloud.count("list") == 1
    await pass_time(10)
    assert one.cloud.count("list") >= 2
    assert len(one.syncs()) == 1


async def test_after_an_outage_system_host_and_all_vms_are_reported_again(driver: Make) -> None:
    one = driver()
    one.add(7)
    one.start(STATE_VM=5, SYNC_STATE_VM=600, SYSTEM_HOST=6000)
    await pass_time(11)
    one.cloud.always["list"] = ProviderUnavailable("no answer")
    await pass_time(100)
    del one.cloud.always["list"]
    before = len(one.said)
    await pass_time(60)
    after = [line.word for _, line in one.said[before:] if line.word != "MONITOR_HOST"]
    assert after[:2] == ["SYSTEM_HOST", "STATE_VM"]
    assert [said for _, said in one.syncs()] == [{7: "RUNNING"}] * 2
    assert {line.status for _, line in one.said} == {"SUCCESS"}, "the host was never put into ERROR"


async def test_an_outage_fails_the_host_once_after_host_error_after_until_a_listing_succeeds(driver: Make) -> None:
    one = driver(host_error_after=60, heartbeat=10)
    one.start(STATE_VM=5, SYSTEM_HOST=20)
    await pass_time(1)
    one.cloud.always["list"] = ProviderUnavailable("no answer")
    await pass_time(200)
    failures = [(at, line.text) for at, line in one.said if line.status == "FAILURE"]
    assert [text for _, text in failures] == ["no answer"]
    assert 60 <= failures[0][0] <= 100
    assert max(one.times("SYSTEM_HOST")) < failures[0][0], "SYSTEM_HOST would lift the host out of ERROR"
    assert max(one.times("MONITOR_HOST")) > 180, "heartbeats continue"
    del one.cloud.always["list"]
    await pass_time(60)
    assert max(one.times("SYSTEM_HOST")) > 200


async def test_unusable_settings_are_reported_in_provider_error_until_they_are_corrected(driver: Make) -> None:
    one = driver()
    one.source.error = SettingsError("fake.toml: owner is missing")
    one.start(STATE_VM=5)
    await pass_time(20)
    assert plain(one.lines("SYSTEM_HOST")[-1].values, "PROVIDER_ERROR") == "fake.toml: owner is missing"
    one.source.error = None
    await pass_time(6)
    assert plain(one.lines("SYSTEM_HOST")[-1].values, "PROVIDER_ERROR") == "-"
    assert len(one.syncs()) == 1


async def test_figures_are_sent_for_two_hundred_vms_at_a_time_with_pauses(driver: Make) -> None:
    one = driver()
    for number in range(1100):
        one.add(number)
    one.start(MONITOR_VM=30)
    await pass_time(20)
    assert [len(vectors(line.values, "VM")) for line in one.lines("MONITOR_VM")] == [200] * 5 + [100]
    times = one.times("MONITOR_VM")
    assert all(later - earlier >= 0.49 for earlier, later in pairwise(times))


async def test_figures_of_two_hosts_are_sent_with_a_pause_between_them(driver: Make) -> None:
    one = driver()
    for number in range(800):
        one.add(number, host_id=3 + number % 2)
    one.start(3, MONITOR_VM=30)
    one.start(4, MONITOR_VM=30)
    await pass_time(20)
    times = sorted([*one.times("MONITOR_VM", 3), *one.times("MONITOR_VM", 4)])
    assert len(times) == 4
    assert all(later - earlier >= 0.49 for earlier, later in pairwise(times))


async def test_figures_of_two_thousand_vms_are_sent_within_a_short_period(driver: Make) -> None:
    one = driver()
    for number in range(2000):
        one.add(number)
    one.start(MONITOR_VM=2)
    await pass_time(2)
    assert len(one.lines("MONITOR_VM")) >= 10


async def test_figures_are_sent_only_of_listed_live_instances(driver: Make) -> None:
    one = driver(missing_after=1)
    one.add(7)
    one.add(8)
    one.add(9, InstanceState.TERMINATED)
    one.start(MONITOR_VM=10)
    await pass_time(5)
    del one.cloud.instances["i-8"]  # type: ignore[arg-type]
    await pass_time(20)
    said = [sorted(int(vm["ID"]) for vm in vectors(line.values, "VM")) for line in one.lines("MONITOR_VM")]
    assert said[0] == [7, 8]
    assert said[-1] == [7]


async def test_a_second_start_monitor_replaces_the_first_schedule(driver: Make) -> None:
    one = driver()
    one.start(BEACON_HOST=10)
    await pass_time(5)
    one.start(BEACON_HOST=20)
    await pass_time(100)
    beats = [at for at in one.times("MONITOR_HOST") if at > 6]
    assert [round(later - earlier) for earlier, later in pairwise(beats)] == [20] * (len(beats) - 1)


async def test_a_stopped_host_gets_no_more_messages(driver: Make) -> None:
    one = driver()
    one.start(3)
    one.start(4)
    await pass_time(20)
    one.stop(3)
    before = len(one.said)
    await pass_time(100)
    assert {line.host_id for _, line in one.said[before:]} == {4}
    assert [request.host_id for request in one.handler.hosts] == [4]


async def test_timestamps_never_go_backwards_when_the_clock_jumps(driver: Make) -> None:
    jumps = iter([100.0, 50.0, 20.0, 130.0, 7.0] * 99)
    one = driver(clock=lambda: next(jumps))
    one.start(BEACON_HOST=1)
    await pass_time(20)
    stamps = [line.timestamp or 0 for _, line in one.said]
    assert stamps == sorted(stamps)
    assert stamps[-1] == 130


async def test_changing_wild_instances_are_reported_about_every_half_minute(driver: Make) -> None:
    one = driver()
    one.start(BEACON_HOST=30, STATE_VM=5, SYSTEM_HOST=6000)
    for number in range(60):
        one.cloud.add(deploy_id=f"i-{number}")
        await pass_time(5)
    counts = [len(vectors(line.values, "VM")) for line in one.lines("SYSTEM_HOST")]
    assert 10 <= len(counts) <= 14
    assert counts[-1] >= 54


class FakeProbes:
    """Pretends to be probes: one message for each host, and one answer."""

    async def answer(self, request: Monitor) -> str:
        return f'HYPERVISOR="probed-{request.host_id}"\n'

    async def report(self, request: StartMonitor, sender: Sender, on_reported: Callable[[], None]) -> None:
        sender.send(Kind.SYSTEM_HOST, request.host_id, 'HYPERVISOR="probed"\n')
        on_reported()
        await asyncio.Event().wait()

    def forget(self, host_id: int) -> None:
        del host_id


async def test_probes_replace_sweeps_as_soon_as_they_are_configured(driver: Make) -> None:
    one = driver()
    one.source.error = SettingsError("fake.toml is not TOML")
    one.start(STATE_VM=5)
    await pass_time(11)
    one.source.probe_source = FakeProbes()
    await pass_time(11)
    last = one.said[-1][1]
    assert (last.word, last.text, last.timestamp is not None and last.timestamp > 0) == (
        "SYSTEM_HOST",
        'HYPERVISOR="probed"\n',
        True,
    )
    one.ask(5)
    await pass_time(1)
    assert one.said[-1][1].text == 'HYPERVISOR="probed-5"\n'
    assert one.cloud.count("list") == 0


# While output is not read


async def test_while_output_is_not_read_at_most_one_report_of_each_kind_waits(driver: Make) -> None:
    one = driver(min_list_interval=0)
    one.add(7)
    one.start(BEACON_HOST=1, SYSTEM_HOST=2, STATE_VM=1, SYNC_STATE_VM=2, MONITOR_VM=1)
    await pass_time(10.5)
    one.is_read, before = False, len(one.said)
    await pass_time(300)
    waiting = one.said[before:]
    assert sorted(line.word for _, line in waiting) == ["MONITOR_HOST", "MONITOR_VM", "STATE_VM", "SYSTEM_HOST"]
    one.set_state(7, InstanceState.STOPPED)
    one.is_read = True
    one.read()
    await pass_time(4)
    fresh = one.said[before + len(waiting) :]
    assert {line.word for _, line in fresh} == {"MONITOR_HOST", "MONITOR_VM", "STATE_VM", "SYSTEM_HOST"}
    assert one.syncs()[-1][1] == {7: "POWEROFF"}, "the present state, and no earlier one"


async def test_a_recovery_is_reported_once_output_is_read_again(driver: Make) -> None:
    one = driver(min_list_interval=0)
    one.start(BEACON_HOST=10, SYSTEM_HOST=600, STATE_VM=1)
    await pass_time(1)
    one.is_read = False
    one.source.error = SettingsError("no such region")
    await pass_time(10)
    one.source.error = None
    await pass_time(60)
    assert "no such region" in one.lines("SYSTEM_HOST")[-1].text
    one.is_read = True
    one.read()
    await pass_time(2)
    assert "no such region" not in one.lines("SYSTEM_HOST")[-1].text


# After a restart


def asked(host_id: int) -> StartMonitor:
    request = parse_line(start_monitor(host_id, f"cloud-{host_id}").rstrip())
    assert isinstance(request, StartMonitor)
    return request


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
async def test_reports_of_a_host_continue_seconds_after_an_exception(
    driver: Make, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(_report: object) -> NoReturn:
        raise error

    one = driver()
    one.add(7)
    with monkeypatch.context() as broken:
        broken.setattr(reports, "host_monitor", fail)
        one.start()
        await pass_time(1)
        assert one.lines("MONITOR_HOST") == []
    await pass_time(10)
    assert one.lines("MONITOR_HOST")
    assert one.syncs()[-1][1] == {7: "RUNNING"}


async def test_while_another_front_end_leads_nothing_is_reported_or_listed(driver: Make) -> None:
    one = driver()
    one.add(7)
    one.start(SYNC_STATE_VM=1000)
    await pass_time(10)
    one.handler.set_silent(is_silent=True)
    said, listed = len(one.said), one.cloud.count("list_instances")
    await pass_time(600)
    one.start(4)
    await pass_time(600)
    assert [line.word for _, line in one.said[said:]] == ["START_MONITOR"]
    assert one.cloud.count("list_instances") == listed
    one.ask(5)
    await pass_time(1)
    assert one.lines("MONITOR", 5)[-1].text == "", "oned ignores that"
    one.handler.set_silent(is_silent=False)
    said = len(one.said)
    await pass_time(2)
    assert {line.word for _, line in one.said[said:] if line.host_id == 3} >= {"SYSTEM_HOST", "MONITOR_HOST"}
    at, all_vms = one.syncs(3)[-1]
    assert at > 1210
    assert all_vms == {7: "RUNNING"}
    assert one.syncs(4)


async def test_a_host_stopped_before_hosts_are_resumed_is_not_resumed(driver: Make) -> None:
    one = driver()
    one.stop(3)
    one.handler.resume([asked(3), asked(4)])
    await pass_time(1)
    assert [request.host_id for request in one.handler.hosts] == [4]
    assert one.times("SYSTEM_HOST", 3) == []


async def test_a_host_stopped_and_started_before_hosts_are_resumed_stays_monitored(driver: Make) -> None:
    one = driver()
    one.stop(3)
    one.start(3)
    one.handler.resume([asked(3)])
    assert [request.host_id for request in one.handler.hosts] == [3]


async def test_during_an_outage_a_vm_with_a_parked_instance_is_left_out_of_reports(driver: Make) -> None:
    one = driver()
    known = [
        KnownInstance(vm_id=VmId(vm_id), host_id=3, deploy_id=DeployId(f"i-{vm_id}"), is_parked=vm_id == 8)
        for vm_id in (7, 8)
    ]
    one.sweeper.memory = Memory(vms={each.vm_id: each for each in known}, listed_at=1.0)
    one.source.error = SettingsError("no such region")
    one.ask()
    await pass_time(1)
    [reply] = one.lines("MONITOR")
    assert [vm["ID"] for vm in vectors(reply.values, "VM")] == ["7"]


# Addresses


async def test_a_new_address_is_reported_with_the_listing_that_shows_it(driver: Make) -> None:
    one = driver()
    one.add(7)
    one.add(8)
    one.start(STATE_VM=5, MONITOR_VM=600)
    await pass_time(11)
    one.cloud.instances[DeployId("i-7")].attributes = {"AWS_PUBLIC_IP_ADDRESS": "203.0.113.9"}
    await pass_time(30)
    assert [round(at) for at in one.times("MONITOR_VM")] == [0, 15]
    assert [vms_of(line) for line in one.lines("MONITOR_VM")] == [["7", "8"], ["7"]]


async def test_an_attribute_that_is_no_address_waits_for_its_period(driver: Make) -> None:
    one = driver()
    one.add(7)
    one.start(STATE_VM=5, MONITOR_VM=60)
    await pass_time(11)
    one.cloud.instances[DeployId("i-7")].attributes = {"AWS_STATE_REASON": "pending"}
    await pass_time(51)
    assert [round(at) for at in one.times("MONITOR_VM")] == [0, 60]


async def test_a_new_address_comes_before_queued_lines_and_no_older_one_after_it(driver: Make) -> None:
    one = driver(vm_period=600, min_list_interval=1)
    for vm_id in range(1000):
        one.add(vm_id)
        one.cloud.instances[DeployId(f"i-{vm_id}")].attributes = {"AWS_PUBLIC_IP_ADDRESS": "198.51.100.1"}
    one.start(STATE_VM=1)
    while not one.times("MONITOR_VM"):  # a thread writes it, which no virtual clock hurries
        await pass_time(0.01)
    one.cloud.instances[DeployId("i-999")].attributes = {"AWS_PUBLIC_IP_ADDRESS": "203.0.113.9"}
    await pass_time(60)
    said = [vm for line in one.lines("MONITOR_VM") for vm in vectors(line.values, "VM")]
    assert {vm["ID"] for vm in said} == {str(vm_id) for vm_id in range(1000)}
    assert ["203.0.113.9" in unpacked(vm["MONITOR"]) for vm in said if vm["ID"] == "999"] == [True]


def vms_of(line: Line) -> list[str]:
    """The numbers of the VMs in a MONITOR_VM."""
    return [vm["ID"] for vm in vectors(line.values, "VM")]
