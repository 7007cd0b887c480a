"""oned up to 5.10 and the real information driver over real pipes: one MONITOR, one reply."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import TAKES, Console, Monitored, configure, hold, monitored
from tests.end_to_end.oned import Driver, Place
from tests.monitor.decoder import Line, monitor, plain, stopmonitor, unpacked, vectors
from tests.waiting import until


@pytest.fixture
def console(place: Place) -> Console:
    return Console(place)


@pytest.fixture
def one(place: Place) -> Iterator[Monitored]:
    configure(place)
    with monitored(place, is_legacy=True) as driver:
        yield driver


def ask(driver: Monitored, host_id: int = 3) -> Line:
    """Send MONITOR and return the one reply."""
    driver.send(monitor(host_id, f"cloud-{host_id}"))
    line = driver.next()
    assert (line.word, line.host_id) == ("MONITOR", host_id)
    return line


def wait_for_answer(driver: Monitored, matches: Callable[[Line], bool]) -> Line:
    """Send MONITOR until a reply matches."""

    def next_match() -> Line | None:
        line = ask(driver)
        return line if matches(line) else None

    found = until(next_match)
    assert found is not None
    return found


def polls(line: Line) -> dict[int, str]:
    """The state letter of each VM."""
    found = {int(vm["ID"]): vm["POLL"] for vm in vectors(line.values, "VM")}
    return {vm_id: poll.partition("STATE=")[2][:1] for vm_id, poll in found.items() if vm_id >= 0}


def report(driver: Monitored, **wanted: str) -> dict[int, str]:
    """Send MONITOR until the reply has these letters of `vm<number>`."""
    goal = {int(name.removeprefix("vm")): letter for name, letter in wanted.items()}
    return polls(wait_for_answer(driver, lambda line: goal.items() <= polls(line).items()))


def test_monitor_is_answered_with_the_host_and_its_vms(one: Monitored, console: Console) -> None:
    console.run(vm_id=7)
    console.run(vm_id=8, host_id=4)
    line = ask(one)
    assert line.status == "SUCCESS"
    assert plain(line.values, "HYPERVISOR") == "simulated"
    assert plain(line.values, "VM_POLL") == "YES"
    assert plain(line.values, "PROVIDER_ERROR") == "-"
    assert polls(line) == {7: "a"}
    assert polls(ask(one, 4)) == {8: "a"}


def test_reply_to_monitor_shows_changes_made_in_the_cloud_console(one: Monitored, console: Console) -> None:
    deploy_id = console.run(vm_id=7)
    report(one, vm7="a")
    console.stop(deploy_id)
    report(one, vm7="d")
    console.start(deploy_id)
    report(one, vm7="a")
    console.suspend(deploy_id)
    report(one, vm7="p")
    console.terminate(deploy_id)
    report(one, vm7="e")
    assert polls(ask(one)) == {7: "-"}, "reported once; left out, oned would power the VM off"


def test_reply_to_monitor_has_wild_instances_with_state_and_import_template(one: Monitored, console: Console) -> None:
    deploy_id = console.run(name="web server")
    [wild] = vectors(ask(one).values, "VM")
    assert (wild["ID"], wild["DEPLOY_ID"], wild["VM_NAME"]) == ("-1", deploy_id, "web server")
    assert wild["POLL"].startswith("STATE=a")
    assert f'IMPORT_VM_ID="{deploy_id}"' in unpacked(wild["IMPORT_TEMPLATE"])


def test_reply_to_monitor_in_an_outage_names_every_vm_without_a_state(
    one: Monitored, place: Place, console: Console
) -> None:
    console.run_many([7, 8])
    report(one, vm7="a", vm8="a")
    configure(place, faults={"outage": True})
    failing = wait_for_answer(one, lambda line: plain(line.values, "PROVIDER_ERROR") != "-")
    assert (failing.status, polls(failing)) == ("SUCCESS", {7: "-", 8: "-"})
    configure(place)
    report(one, vm7="a", vm8="a")


def test_reply_to_monitor_is_empty_if_no_listing_succeeded_yet(place: Place, console: Console) -> None:
    console.run(vm_id=7)
    configure(place, faults={"outage": True})
    with monitored(place, is_legacy=True) as one:
        line = ask(one)
        assert (line.status, line.text) == ("SUCCESS", ""), "oned powers a VM off that two reports lack"


def test_monitor_is_answered_with_an_empty_text_while_the_configuration_is_invalid(
    place: Place, console: Console
) -> None:
    console.run(vm_id=7)
    place.configure("provider = ")
    with monitored(place, is_legacy=True) as one:
        assert (ask(one).status, one.lines[-1].text) == ("SUCCESS", "")
        configure(place)
        report(one, vm7="a")


def test_host_error_after_reports_a_lasting_outage_as_host_failure(place: Place) -> None:
    configure(place, monitor={"host_error_after": 0.2}, faults={"outage": True})
    with monitored(place, is_legacy=True) as one:
        assert ask(one).status == "SUCCESS"
        assert "did not answer list_instances" in wait_for_answer(one, lambda line: line.status == "FAILURE").text


def test_monitors_of_many_hosts_are_answered_once_each_from_one_listing(place: Place, console: Console) -> None:
    configure(place, latency=0.2, monitor={"min_list_interval": 3600})
    console.run_many(range(20), host_id=5)
    with monitored(place, is_legacy=True) as one:
        for host_id in range(15):
            one.send(monitor(host_id))
        answers = one.next_lines(15)
        console.run(vm_id=20, host_id=20)
        for host_id in range(15, 30):
            one.send(monitor(host_id))
        answers += one.next_lines(15)
        assert sorted(line.host_id for line in answers) == list(range(30))
        assert [len(polls(line)) for line in answers if line.host_id == 5] == [20]
        assert [polls(line) for line in answers if line.host_id == 20] == [{}], "all 30 replies come from one listing"
        one.send(stopmonitor(3))
        assert (one.next().word, one.lines[-1].status) == ("STOPMONITOR", "SUCCESS")


def test_reply_to_monitor_names_a_vm_with_an_open_action_without_a_state(place: Place, console: Console) -> None:
    configure(place, **TAKES)  # type: ignore[arg-type]
    with Driver(place) as actions, monitored(place, is_legacy=True) as one:
        actions.send(oned_requests.deploy(7, host_id=3, release="5.10"))
        until(lambda: [instance.state.value for instance in console.instances()] == ["pending"])
        hold(actions)  # between its call and its reply
        console.complete()
        assert [instance.state.value for instance in console.instances()] == ["running"]
        assert place.unanswered() == ["DEPLOY"]
        assert [polls(ask(one)) for _ in range(3)] == [{7: "-"}] * 3
        actions.process.send_signal(signal.SIGCONT)
        actions.reply("DEPLOY", 7)
        report(one, vm7="a")


def test_information_driver_ends_at_once_during_a_call_when_the_pipes_close(place: Place) -> None:
    configure(place, latency=300)
    with monitored(place, is_legacy=True) as one:
        one.send(monitor(3))
        assert one.driver.drop() == 0


def test_monitor_from_a_pipe_is_answered(place: Place) -> None:
    configure(place)
    with monitored(place, is_legacy=True, init=False) as one:
        one.send(monitor(3))
        assert one.driver.finalize() == 0
        assert [line.split(" ")[:3] for line in one.driver.rest()] == [["MONITOR", "SUCCESS", "3"]]
