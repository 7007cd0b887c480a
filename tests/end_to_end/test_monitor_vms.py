"""Reports after changes in the cloud's console or in OpenNebula: each row of the table in docs/monitoring.md."""

from __future__ import annotations

import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import pytest

from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import TAKES, Console, Monitored, configure, hold, monitored, states
from tests.end_to_end.oned import ROOT, Driver, Place
from tests.monitor.decoder import plain, vectors
from tests.waiting import HANG, until

_Test = TypeVar("_Test", bound=Callable[..., Any])

ROWS: set[str] = set()
"""First cells of the table that have a test."""

SYNCED = {"sync_period": 0.1}
"""A `[monitor]` that reports all VMs ten times a second."""

IN_TRANSITION = {"running": "pending", "stopped": "stopping", "terminated": "terminating"}
"""The state of an instance between a call and the state that it leads to."""


def row(*cells: str) -> Callable[[_Test], _Test]:
    """Mark a test as the proof of these rows of the table."""
    ROWS.update(cells)
    return lambda test: test


@pytest.fixture
def console(place: Place) -> Console:
    return Console(place)


@pytest.fixture
def one(place: Place) -> Iterator[Monitored]:
    """An information driver that reports all VMs of host 3 ten times a second."""
    configure(place, monitor=SYNCED)
    with monitored(place) as driver:
        driver.start()
        yield driver


def next_warning(driver: Monitored) -> str:
    """The next PROVIDER_WARNING."""
    found = driver.wait(lambda line: line.word == "SYSTEM_HOST" and plain(line.values, "PROVIDER_WARNING") != "-")
    return plain(found.values, "PROVIDER_WARNING")


# In the console


@row("stops an instance in the console", "starts a stopped instance in the console")
def test_instance_stopped_in_the_console_is_reported_poweroff_until_it_starts(one: Monitored, console: Console) -> None:
    deploy_id = console.run(vm_id=7)
    one.sync(vm7="RUNNING")
    console.stop(deploy_id)
    one.sync(vm7="POWEROFF")
    console.start(deploy_id)
    one.sync(vm7="RUNNING")


@row("suspends an instance in the console")
def test_instance_suspended_in_the_console_is_reported_suspended(one: Monitored, console: Console) -> None:
    deploy_id = console.run(vm_id=7)
    one.sync(vm7="RUNNING")
    console.suspend(deploy_id)
    one.sync(vm7="SUSPENDED")


def test_report_between_syncs_has_only_the_changed_vm(place: Place, console: Console) -> None:
    configure(place, monitor={"sync_period": 1.5})
    first, _ = console.run_many([7, 8])
    with monitored(place) as one:
        one.start()
        one.sync(vm7="RUNNING", vm8="RUNNING")
        console.stop(first)
        assert one.change(vm7="POWEROFF") == {7: "POWEROFF"}
        console.start(first)
        assert one.change(vm7="RUNNING") == {7: "RUNNING"}
        one.sync(vm7="RUNNING")


@row("terminates an instance in the console")
def test_terminated_instance_is_reported_failure_once_and_then_left_out(place: Place, console: Console) -> None:
    configure(place, monitor={"sync_period": 0.8})
    deploy_id = console.run(vm_id=7)
    with monitored(place) as one:
        one.start()
        one.sync(vm7="RUNNING")
        console.terminate(deploy_id)
        one.change(vm7="FAILURE")
        line = one.wait(lambda line: line.word == "STATE_VM" and "SYNC_STATE" in line.values)
        assert (states(line), line.values["MISSING_STATE"]) == ({}, ["UNKNOWN"])


@row('terminates an instance in the console, with `missing_state = "POWEROFF"`')
def test_terminated_instance_is_reported_poweroff_if_missing_state_is_poweroff(place: Place, console: Console) -> None:
    configure(place, monitor={"sync_period": 0.8, "missing_state": "POWEROFF"})
    deploy_id = console.run(vm_id=7)
    with monitored(place) as one:
        one.start()
        one.sync(vm7="RUNNING")
        console.terminate(deploy_id)
        one.change(vm7="POWEROFF")
        line = one.wait(lambda line: line.word == "STATE_VM" and "SYNC_STATE" in line.values)
        assert (states(line), line.values["MISSING_STATE"]) == ({}, ["POWEROFF"])


def forget(place: Place, *deploy_ids: str) -> None:
    """Delete these instances from the cloud's database."""
    with closing(sqlite3.connect(place.var / "simulated.db", timeout=HANG)) as db, db:
        db.executemany("DELETE FROM instance WHERE id = ?", [(deploy_id,) for deploy_id in deploy_ids])


@row("makes an instance disappear without a trace")
def test_unlisted_instance_is_reported_unknown_and_then_left_out(
    one: Monitored, place: Place, console: Console
) -> None:
    one.sync()
    gone, _ = console.run_many([7, 8])
    one.sync(vm7="RUNNING", vm8="RUNNING")
    forget(place, gone)
    one.sync(vm7="UNKNOWN", vm8="RUNNING")
    reported = [one.sync() for _ in range(4)]
    assert reported[-1] == {8: "RUNNING"}
    assert {words.get(7, "left out") for words in reported} <= {"UNKNOWN", "left out"}


@row("makes more than half of all disappear at once")
def test_vms_stay_unknown_with_a_warning_if_most_instances_vanish_at_once(
    one: Monitored, place: Place, console: Console
) -> None:
    deploy_ids = console.run_many(range(10))
    one.sync(vm0="RUNNING", vm9="RUNNING")
    forget(place, *deploy_ids[:8])
    assert next_warning(one).startswith("8 instances vanished at once")
    expected = {number: "UNKNOWN" if number < 8 else "RUNNING" for number in range(10)}
    assert [one.sync() for _ in range(6)] == [expected] * 6


@row("starts an instance without tags")
def test_untagged_instance_is_reported_as_wild_and_not_as_vm(one: Monitored, console: Console) -> None:
    one.sync()
    deploy_id = console.run()
    line = one.wait(lambda line: line.word == "SYSTEM_HOST" and "VM" in line.values)
    assert [wild["DEPLOY_ID"] for wild in vectors(line.values, "VM")] == [deploy_id]
    assert one.sync() == {}, "a sync that named it would make it a zombie"


@row("removes the tags of a VM's instance")
def test_instance_that_loses_its_tags_is_still_reported_as_its_vm(one: Monitored, console: Console) -> None:
    deploy_id = console.run(vm_id=7)
    one.sync(vm7="RUNNING")
    console.drop_tags(deploy_id)
    assert next_warning(one) == f"instance {deploy_id} has lost its tags, it was VM 7's"
    assert one.sync() == {7: "RUNNING"}


@row("starts a second instance with a VM's tags")
def test_of_two_instances_of_a_vm_the_one_with_the_higher_seq_is_reported(one: Monitored, console: Console) -> None:
    console.run(vm_id=7, seq=1)
    one.sync(vm7="RUNNING")
    older = console.run(vm_id=7, seq=0)
    assert older in next_warning(one)
    console.stop(older)
    assert [one.sync() for _ in range(3)] == [{7: "RUNNING"}] * 3


# In OpenNebula: both drivers on one cloud


class Pair:
    """The action driver and the information driver of one NAME, with host 3 monitored; the requests are about VM 7."""

    def __init__(self, place: Place, actions: Driver, reports: Monitored) -> None:
        self.place = place
        self.console = Console(place)
        self.actions = actions
        self.reports = reports

    def during(self, request: bytes, state: str) -> tuple[str, list[dict[int, str]]]:
        """Send a request, and stop the action driver between its call and its reply.

        Args:
            request: the line.
            state: of the instance once the driver is stopped.

        Returns:
            The reply, and the reports of all VMs that came before it.
        """
        word, vm_id = request.split()[0].decode(), int(request.split()[1])
        self.begin(request, state)
        hold(self.actions)
        self.console.complete()
        assert state in self._states()
        assert self.place.unanswered() == [word]
        self.reports.catch_up()
        reports = [self.reports.sync() for _ in range(5)][1:]
        self.actions.process.send_signal(signal.SIGCONT)
        return self.actions.reply(word, vm_id), reports

    def deploy(self) -> str:
        """Deploy VM 7, and return its id."""
        self.begin(oned_requests.deploy(7, host_id=3), "running")
        self.console.complete()
        return self.actions.reply("DEPLOY", 7).removeprefix("SUCCESS ")

    def begin(self, request: bytes, state: str) -> None:
        """Send a request, and return when its call has taken effect."""
        self.actions.send(request)
        until(lambda: IN_TRANSITION[state] in self._states())

    def _states(self) -> list[str]:
        return [instance.state.value for instance in self.console.instances()]


@pytest.fixture
def pair(place: Place) -> Iterator[Pair]:
    """Both drivers on a cloud whose instances change state only when the test completes it."""
    monitor = {"state_period": 0.05, "sync_period": 0.05, "missing_state": "POWEROFF"}
    configure(place, monitor=monitor, **TAKES)  # type: ignore[arg-type]
    with Driver(place) as actions, monitored(place) as reports:
        reports.start()
        reports.sync()
        yield Pair(place, actions, reports)


def test_host_of_a_full_cloud_has_no_free_cpu_until_an_instance_is_created(place: Place) -> None:
    configure(place, faults={"full": "NoCapacity"})
    with Driver(place) as actions, monitored(place) as reports:
        reports.start()
        reports.system(TOTALCPU="100000", PROVIDER_WARNING="-")
        answer = actions.ask(oned_requests.deploy(7, host_id=3))
        assert answer.startswith("FAILURE the simulated cloud is full just now")
        closed = reports.system(TOTALCPU="0", TOTALMEMORY="0")
        assert "the cloud has no room for another instance" in plain(closed, "PROVIDER_WARNING")
        configure(place)
        actions.created(oned_requests.deploy(8, host_id=3))
        reports.system(TOTALCPU="100000", PROVIDER_WARNING="-")


def is_always(vm_id: int, word: str, reports: list[dict[int, str]]) -> bool:
    """True if each report names the VM in this state."""
    return {report.get(vm_id) for report in reports} == {word}


@row("deploys a VM", "powers a VM off", "resumes a VM")
def test_vm_is_reported_unknown_until_its_action_is_answered(pair: Pair) -> None:
    reply, reports = pair.during(oned_requests.deploy(7, host_id=3), "running")
    deploy_id = reply.removeprefix("SUCCESS ")
    assert is_always(7, "UNKNOWN", reports), "the instance runs, but DEPLOY is not answered yet"
    pair.reports.sync(vm7="RUNNING")
    reply, reports = pair.during(oned_requests.power_off(7, deploy_id, host_id=3), "stopped")
    assert (reply, is_always(7, "UNKNOWN", reports)) == ("SUCCESS -", True)
    pair.reports.sync(vm7="POWEROFF")
    reply, reports = pair.during(oned_requests.resume(7, deploy_id, host_id=3), "running")
    assert (reply, is_always(7, "UNKNOWN", reports)) == (f"SUCCESS {deploy_id}", True)
    pair.reports.sync(vm7="RUNNING")


@row("terminates a VM")
def test_terminated_vm_is_reported_unknown_until_the_reply_and_then_left_out(pair: Pair) -> None:
    deploy_id = pair.deploy()
    pair.reports.sync(vm7="RUNNING")
    reply, reports = pair.during(oned_requests.terminate(7, deploy_id, host_id=3), "terminated")
    assert reply == "SUCCESS -"
    assert is_always(7, "UNKNOWN", reports), (
        "oned takes a VM that is left out for powered off, and would complete the SHUTDOWN"
    )
    pair.reports.wait(lambda line: line.word == "STATE_VM" and states(line) == {})
    assert not [line for line in pair.reports.lines if "FAILURE" in line.text]


@row(
    "undeploys or stops a VM",
    "starts the instance of an undeployed VM in the console",
    "deploys an undeployed VM again",
)
def test_undeployed_vm_is_left_out_of_reports_even_if_its_instance_runs(pair: Pair, console: Console) -> None:
    deploy_id = pair.deploy()
    undeploy = oned_requests.line("SHUTDOWN", 7, "SHUTDOWN_UNDEPLOY", deploy_id=deploy_id, host_id=3)
    reply, reports = pair.during(undeploy, "stopped")
    assert (reply, is_always(7, "UNKNOWN", reports)) == ("SUCCESS -", True)
    pair.reports.wait(lambda line: line.word == "STATE_VM" and states(line) == {})
    console.start(deploy_id)
    assert next_warning(pair.reports) == f"instance {deploy_id} runs, and VM 7 is stopped or undeployed in OpenNebula"
    assert pair.reports.sync() == {}
    console.stop(deploy_id)
    again = oned_requests.line("DEPLOY", 7, "BOOT_UNDEPLOY", deploy_id=deploy_id, host_id=3, seq=1)
    reply, reports = pair.during(again, "running")
    assert (reply, is_always(7, "UNKNOWN", reports)) == (f"SUCCESS {deploy_id}", True)
    pair.reports.sync(vm7="RUNNING")


@row("reboots a VM")
def test_reboot_never_reports_the_vm_in_another_state_than_running(pair: Pair) -> None:
    deploy_id = pair.deploy()
    pair.reports.sync(vm7="RUNNING")
    before = len(pair.reports.lines)
    assert pair.actions.ask(oned_requests.reboot(7, deploy_id, host_id=3)) == "SUCCESS -"
    pair.reports.sync()
    pair.reports.sync(vm7="RUNNING")
    reported = [states(line)[7] for line in pair.reports.lines[before:] if line.word == "STATE_VM"]
    assert set(reported) <= {"RUNNING", "UNKNOWN"}


@row("terminates a VM that is powered off")
def test_instance_of_a_vm_terminated_while_off_is_still_reported(pair: Pair) -> None:
    deploy_id = pair.deploy()
    pair.begin(oned_requests.power_off(7, deploy_id, host_id=3), "stopped")
    pair.console.complete()
    assert pair.actions.reply("SHUTDOWN", 7) == "SUCCESS -"
    pair.reports.sync(vm7="POWEROFF")
    assert pair.reports.sync() == {7: "POWEROFF"}, "OpenNebula sends no request for it, so it is still reported"


@row("kills the action driver during an action")
def test_vm_stays_unknown_after_its_action_driver_is_killed_until_the_next_one_replies(pair: Pair) -> None:
    deploy_id = pair.deploy()
    pair.reports.sync(vm7="RUNNING")
    pair.begin(oned_requests.power_off(7, deploy_id, host_id=3), "stopped")
    pair.actions.kill()
    pair.console.complete()
    assert pair.place.unanswered() == ["SHUTDOWN"]
    pair.reports.catch_up()
    assert [pair.reports.sync()[7] for _ in range(5)] == ["UNKNOWN"] * 5
    with Driver(pair.place) as successor:
        assert successor.reply("SHUTDOWN", 7) == "SUCCESS -"
        pair.reports.sync(vm7="POWEROFF")


# The cloud


@row("cuts the cloud off", "restores the cloud")
def test_vm_states_are_reported_only_after_an_outage_has_ended(one: Monitored, place: Place, console: Console) -> None:
    deploy_id = console.run(vm_id=7)
    one.sync(vm7="RUNNING")
    configure(place, monitor=SYNCED, faults={"outage": True})
    one.wait(lambda line: line.word == "SYSTEM_HOST" and plain(line.values, "PROVIDER_ERROR") != "-")
    console.stop(deploy_id)
    configure(place, monitor=SYNCED)
    before = len(one.lines)
    assert one.sync() == {7: "POWEROFF"}
    words = [line.word for line in one.lines[before:] if line.word not in {"MONITOR_HOST", "LOG"}]
    assert words == ["SYSTEM_HOST", "STATE_VM"]


def test_every_row_of_the_monitoring_page_has_a_test() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    table = text.partition("| a person… |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    assert {cell for cell in rows if not cell.startswith("---")} == ROWS
