"""oned up to 5.10 and the real information driver over real pipes: one MONITOR, one reply."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.end_to_end import wire
from tests.end_to_end.monitored import TAKES, Console, Monitored, configure, hold, monitored
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


def asked(driver: Monitored, host_id: int = 3) -> Line:
    """The one answer to MONITOR."""
    driver.send(monitor(host_id, f"cloud-{host_id}"))
    line = driver.next()
    assert (line.word, line.host_id) == ("MONITOR", host_id)
    return line


def answer(driver: Monitored, matches: Callable[[Line], bool]) -> Line:
    """The first answer that is like this."""

    def look() -> Line | None:
        line = asked(driver)
        return line if matches(line) else None

    found = until(look)
    assert found is not None
    return found


def polls(line: Line) -> dict[int, str]:
    """POLL's letter of each VM."""
    found = {int(vm["ID"]): vm["POLL"] for vm in vectors(line.values, "VM")}
    return {vm_id: poll.partition("STATE=")[2][:1] for vm_id, poll in found.items() if vm_id >= 0}


def report(driver: Monitored, **wanted: str) -> dict[int, str]:
    """The first answer that says so much of `vm<number>`."""
    goal = {int(name.removeprefix("vm")): letter for name, letter in wanted.items()}
    return polls(answer(driver, lambda line: goal.items() <= polls(line).items()))


def test_a_monitor_is_answered_with_the_host_and_its_vms(one: Monitored, console: Console) -> None:
    console.run(vm_id=7)
    console.run(vm_id=8, host_id=4)
    line = asked(one)
    assert line.status == "SUCCESS"
    assert plain(line.values, "HYPERVISOR") == "simulated"
    assert plain(line.values, "VM_POLL") == "YES"
    assert plain(line.values, "PROVIDER_ERROR") == "-"
    assert polls(line) == {7: "a"}
    assert polls(asked(one, 4)) == {8: "a"}


def test_what_the_console_does_shows_in_the_next_answer(one: Monitored, console: Console) -> None:
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
    assert polls(asked(one)) == {7: "-"}, "said once, and neither left out, which would power the VM off"


def test_wild_instances_come_with_their_state(one: Monitored, console: Console) -> None:
    deploy_id = console.run(name="web server")
    [wild] = vectors(asked(one).values, "VM")
    assert (wild["ID"], wild["DEPLOY_ID"], wild["VM_NAME"]) == ("-1", deploy_id, "web server")
    assert wild["POLL"].startswith("STATE=a")
    assert f'IMPORT_VM_ID="{deploy_id}"' in unpacked(wild["IMPORT_TEMPLATE"])


def test_while_the_cloud_cannot_be_asked_every_vm_is_named_and_nothing_said(
    one: Monitored, place: Place, console: Console
) -> None:
    console.run_many([7, 8])
    report(one, vm7="a", vm8="a")
    configure(place, faults={"outage": True})
    failing = answer(one, lambda line: plain(line.values, "PROVIDER_ERROR") != "-")
    assert (failing.status, polls(failing)) == ("SUCCESS", {7: "-", 8: "-"})
    configure(place)
    report(one, vm7="a", vm8="a")


def test_while_nobody_knows_which_vms_there_are_nothing_at_all_is_said(place: Place, console: Console) -> None:
    console.run(vm_id=7)
    configure(place, faults={"outage": True})
    with monitored(place, is_legacy=True) as one:
        line = asked(one)
        assert (line.status, line.text) == ("SUCCESS", ""), "two reports without it would power the VM off"


def test_a_wrong_configuration_takes_nothing_down(place: Place, console: Console) -> None:
    console.run(vm_id=7)
    place.configure("provider = ")
    with monitored(place, is_legacy=True) as one:
        assert (asked(one).status, one.lines[-1].text) == ("SUCCESS", "")
        configure(place)
        report(one, vm7="a")


def test_an_operator_may_want_the_host_in_error(place: Place) -> None:
    configure(place, monitor={"host_error_after": 0.2}, faults={"outage": True})
    with monitored(place, is_legacy=True) as one:
        assert asked(one).status == "SUCCESS"
        assert "did not answer list_instances" in answer(one, lambda line: line.status == "FAILURE").text


def test_every_monitor_of_many_is_answered_once(place: Place, console: Console) -> None:
    configure(place, latency=0.2, monitor={"min_list_interval": 3600})
    console.run_many(range(20), host_id=5)
    with monitored(place, is_legacy=True) as one:
        for host_id in range(15):
            one.send(monitor(host_id))
        answers = one.rest_so_far(15)
        console.run(vm_id=20, host_id=20)
        for host_id in range(15, 30):
            one.send(monitor(host_id))
        answers += one.rest_so_far(15)
        assert sorted(line.host_id for line in answers) == list(range(30))
        assert [len(polls(line)) for line in answers if line.host_id == 5] == [20]
        assert [polls(line) for line in answers if line.host_id == 20] == [{}], "from one listing, not thirty"
        one.send(stopmonitor(3))
        assert (one.next().word, one.lines[-1].status) == ("STOPMONITOR", "SUCCESS")


def test_a_vm_with_an_action_under_way_is_named_and_nothing_said(place: Place, console: Console) -> None:
    configure(place, **TAKES)  # type: ignore[arg-type]
    with Driver(place) as actions, monitored(place, is_legacy=True) as one:
        actions.send(wire.deploy(7, host_id=3, release="5.10"))
        until(lambda: [instance.state.value for instance in console.instances()] == ["pending"])
        hold(actions)  # between what it does and its reply
        console.complete()
        assert [instance.state.value for instance in console.instances()] == ["running"]
        assert place.unanswered() == ["DEPLOY"]
        assert [polls(asked(one)) for _ in range(3)] == [{7: "-"}] * 3
        actions.process.send_signal(signal.SIGCONT)
        actions.reply("DEPLOY", 7)
        report(one, vm7="a")


def test_the_core_lets_go_and_the_driver_ends_without_waiting_for_a_call(place: Place) -> None:
    configure(place, latency=300)
    with monitored(place, is_legacy=True) as one:
        one.send(monitor(3))
        assert one.driver.drop(seconds=20) == 0


def test_a_person_with_a_pipe_gets_an_answer(place: Place) -> None:
    configure(place)
    with monitored(place, is_legacy=True, init=False) as one:
        one.send(monitor(3))
        assert one.driver.finalize() == 0
        assert [line.split(" ")[:3] for line in one.driver.rest()] == [["MONITOR", "SUCCESS", "3"]]
