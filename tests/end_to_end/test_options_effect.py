"""Effects of `-t`, `-p` and `-w`, lanes, POLLs answered together, and DRIVER_CANCEL."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import Console, configure
from tests.end_to_end.oned import Driver, Place
from tests.waiting import until


def created(driver: Driver, vm_ids: Iterable[int]) -> dict[int, str]:
    """Deploy these VMs at once, and return their deploy ids."""
    wanted = list(vm_ids)
    driver.write(b"".join(oned_requests.deploy(vm_id) for vm_id in wanted))
    answers = [driver.next_line().split(" ") for _ in wanted]
    assert {(action, result) for action, result, *_ in answers} == {("DEPLOY", "SUCCESS")}
    return {int(vm_id): deploy_id for _, _, vm_id, deploy_id in answers}


def heads(lines: Iterable[str]) -> list[str]:
    """Action, result and VM of each line."""
    return [" ".join(line.split(" ")[:3]) for line in lines]


STOPS_ON_COMMAND = {"boot_time": 0, "stop_time": 600, "watch_interval": 0.05}
"""Settings of a cloud whose instances stop only when Console.complete is called, however slow the machine is."""

LOOKUPS = ["list_instances", "describe", "find"]


def stopping(place: Place) -> int:
    """The number of instances that are about to stop, and so of actions that run."""
    return sum(entry["state"] == "stopping" for entry in place.instances())


def lookups(place: Place) -> int:
    """The number of LOOKUPS calls since the fault `late_answers` hits them."""
    return place.hits("late_answers")


REBOOTS_HANG = 'hangs = { calls = ["reboot"] }'
"""A fault: a reboot never returns."""


# Number of actions at once


def test_t_option_limits_how_many_actions_run_at_once(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 3 simulated")
    ids = created(one, range(9))
    place.simulate(**STOPS_ON_COMMAND)
    one.write(b"".join(oned_requests.power_off(vm_id, ids[vm_id]) for vm_id in ids))
    for _ in range(3):
        until(lambda: stopping(place) == 3)
        assert one.is_quiet()
        assert stopping(place) == 3, "a fourth action would have begun"
        Console(place).complete()
        assert [one.next_line().split(" ")[:2] for _ in range(3)] == [["SHUTDOWN", "SUCCESS"]] * 3


def test_actions_of_vms_on_one_host_run_side_by_side_with_or_without_the_p_option(
    driver: StartDriver, place: Place
) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 15 -r 0 -p simulated")
    ids = created(one, range(15))
    place.simulate(**STOPS_ON_COMMAND)
    one.write(b"".join(oned_requests.power_off(vm_id, ids[vm_id], host="remote_provider") for vm_id in ids))
    until(lambda: stopping(place) == 15)
    Console(place).complete()
    assert sorted(one.next_line() for _ in ids) == sorted(f"SHUTDOWN SUCCESS {vm_id} -" for vm_id in ids)


def test_actions_of_a_vm_run_in_order_of_arrival_beside_those_of_other_vms(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0.02, stop_time=0.02, destroy_time=0.02, watch_interval=0.01, jitter=0.03)
    one = driver()
    one.write(b"".join(oned_requests.deploy(vm_id) for vm_id in range(10)))
    one.write(b"".join(oned_requests.reboot(vm_id, "") for vm_id in range(10)))
    one.write(b"".join(oned_requests.line("RESET", vm_id) for vm_id in range(10)))
    lines = [one.next_line() for _ in range(30)]
    for vm_id in range(10):
        own = [line for line in lines if line.split(" ")[2] == str(vm_id)]
        assert heads(own) == [f"{action} SUCCESS {vm_id}" for action in ("DEPLOY", "REBOOT", "RESET")]
    assert lines != sorted(lines, key=lambda line: int(line.split(" ")[2])), "VMs overtake each other"


def test_deploy_repeated_while_open_is_answered_once_with_one_instance(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=3600)
    one = driver()
    one.send(oned_requests.deploy(7))
    until(place.instances)
    one.send(oned_requests.deploy(7))
    one.wait_for(lambda line: line.startswith("LOG I 7 DEPLOY came while DEPLOY was unanswered"))
    Console(place).complete()
    result, deploy_id = one.reply("DEPLOY", 7).split(" ")
    assert result == "SUCCESS"
    assert one.is_quiet()
    assert [entry["deploy_id"] for entry in place.instances(is_all=True)] == [deploy_id]


# POLLs


def test_action_is_carried_out_before_waiting_polls(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 1 simulated")
    ids = created(one, range(8))
    place.simulate(boot_time=0, latency=0.15)
    assert one.ask(oned_requests.reboot(7, ids[7])) == "SUCCESS -"
    polls = [oned_requests.poll(vm_id, ids[vm_id]) for vm_id in range(1, 6)]
    one.write(b"".join([oned_requests.reboot(0, ids[0]), *polls, oned_requests.reboot(6, ids[6])]))
    found = heads(one.next_line() for _ in range(7))
    assert found == ["REBOOT SUCCESS 0", "REBOOT SUCCESS 6", *(f"POLL SUCCESS {vm_id}" for vm_id in range(1, 6))]


def test_poll_is_answered_after_the_open_action_of_its_vm(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0, stop_time=0.2)
    one = driver()
    deploy_id = created(one, [7])[7]
    one.write(oned_requests.power_off(7, deploy_id) + oned_requests.poll(7, deploy_id))
    assert one.next_line() == "SHUTDOWN SUCCESS 7 -"
    assert one.next_line().startswith("POLL SUCCESS 7 STATE=d")


def test_poll_replies_no_state_if_an_action_arrives_during_its_listing(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    deploy_id = created(one, [7])[7]
    place.simulate('hangs = { calls = ["describe"] }', boot_time=0)
    one.send(oned_requests.poll(7, deploy_id))
    until(lambda: place.hits("hangs"))
    place.simulate(boot_time=0)
    one.send(oned_requests.power_off(7, deploy_id))
    assert one.next_line() == "POLL SUCCESS 7 STATE=-"
    assert one.next_line() == "SHUTDOWN SUCCESS 7 -"
    assert one.is_quiet()


def test_a_thousand_polls_are_answered_from_few_listings(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 50 simulated")
    ids = created(one, range(100))
    one.leave()
    configure(place, faults={"late_answers": {"calls": LOOKUPS, "seconds": 0.2}})
    two = driver("-t 2 simulated")
    assert two.ask(oned_requests.poll(0, ids[0])).startswith("SUCCESS STATE=a")
    wanted = [vm_id for _ in range(10) for vm_id in ids]
    random.Random(1).shuffle(wanted)
    two.write(b"".join(oned_requests.poll(vm_id, ids[vm_id]) for vm_id in wanted))
    lines = [two.next_line() for _ in wanted]
    assert lookups(place) < 50
    assert sorted(heads(lines)) == sorted(f"POLL SUCCESS {vm_id}" for vm_id in wanted)


def test_polls_of_missing_instances_are_looked_up_together(driver: StartDriver, place: Place) -> None:
    configure(place)
    one = driver()
    ids = created(one, [0])
    configure(place, faults={"late_answers": {"calls": LOOKUPS, "seconds": 0.2}})
    one.write(
        b"".join(oned_requests.poll(vm_id, f"sim-{vm_id}") for vm_id in range(1, 21)) + oned_requests.poll(0, ids[0])
    )
    lines = [one.next_line() for _ in range(21)]
    assert sorted(heads(lines)) == sorted(["POLL SUCCESS 0", *(f"POLL FAILURE {vm_id}" for vm_id in range(1, 21))])
    assert lookups(place) < 10


# DRIVER_CANCEL


def test_driver_cancel_ends_waiting_and_running_actions_without_a_reply(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 1 simulated")
    ids = created(one, [1, 2])
    place.simulate(REBOOTS_HANG, boot_time=0)
    one.write(oned_requests.reboot(1, ids[1]) + oned_requests.reboot(2, ids[2]) + oned_requests.poll(2, ids[2]))
    until(lambda: place.hits("hangs"))
    one.write(oned_requests.driver_cancel(2, release="5.10") + oned_requests.driver_cancel(1, release="7.4"))
    assert one.next_line() == "LOG I 2 Driver command for 2 cancelled"
    assert one.next_line() == "LOG I 1 Driver command for 1 cancelled"
    place.simulate(boot_time=0)
    one.write(oned_requests.reboot(2, ids[2]) + oned_requests.reboot(1, ids[1]))
    assert one.next_line() == "REBOOT SUCCESS 2 -"
    assert one.next_line() == "REBOOT SUCCESS 1 -"
    assert one.is_quiet()


def test_driver_cancel_without_an_open_action_does_nothing(driver: StartDriver) -> None:
    one = driver()
    one.send(oned_requests.driver_cancel(4711))
    assert one.is_quiet()
    assert created(one, [4711])


def is_debt_paid(place: Place, vm_id: int) -> bool:
    """True once the debt of this VM is paid: its instance is terminated, or was never created."""
    return any(event["event"] == "debt paid" and event["vm"] == vm_id for event in place.events())


@pytest.mark.parametrize(
    ("settings", "is_visible"),
    [
        pytest.param({"latency": 0.15, "boot_time": 60}, False, id="during-the-create"),
        pytest.param({"boot_time": 60}, True, id="booting"),
        pytest.param({"boot_time": 60, "listing_lag": 0.3}, False, id="hidden-by-listing-lag"),
    ],
)
def test_cancelled_deploy_leaves_no_instance_with_or_without_a_cleanup(
    driver: StartDriver, place: Place, settings: dict[str, float], *, is_visible: bool
) -> None:
    place.simulate(**settings, destroy_time=0)
    one = driver()
    one.write(oned_requests.deploy(7) + oned_requests.deploy(8))
    until(lambda: place.has_attempts(2) and (not is_visible or len(place.instances()) == 2))
    one.write(oned_requests.driver_cancel(7) + oned_requests.driver_cancel(8) + oned_requests.cleanup(8))
    assert one.next_line() == "LOG I 7 Driver command for 7 cancelled"
    assert one.next_line() == "LOG I 8 Driver command for 8 cancelled"
    assert one.next_line() == "CLEANUP SUCCESS 8 -"
    assert {entry["state"] for entry in place.instances() if entry["vm_id"] == 8} <= {"debt", "terminated"}
    until(lambda: is_debt_paid(place, 7) and is_debt_paid(place, 8))
    assert place.instances() == []
    assert len(place.instances(is_all=True)) <= 2
    place.simulate(boot_time=0)
    ids = created(one, [7, 8])
    assert {entry["deploy_id"] for entry in place.instances()} == set(ids.values()), "the VMs can be deployed again"


def test_deploy_right_after_a_cancelled_one_keeps_its_instance(driver: StartDriver, place: Place) -> None:
    place.simulate(latency=0.15, boot_time=3600, destroy_time=0)
    one = driver()
    one.send(oned_requests.deploy(7))
    until(place.has_attempts)
    one.write(oned_requests.driver_cancel(7) + oned_requests.deploy(7))
    assert one.next_line() == "LOG I 7 Driver command for 7 cancelled"
    until(lambda: is_answered_once_instances_boot(place))
    result, deploy_id = one.reply("DEPLOY", 7).split(" ")
    assert result == "SUCCESS"
    until(lambda: is_debt_paid(place, 7))
    assert [(entry["deploy_id"], entry["state"]) for entry in place.instances()] == [(deploy_id, "running")]


def is_answered_once_instances_boot(place: Place) -> bool:
    """Complete the boot of the instances that exist; true once no action is open."""
    if (place.var / "simulated.db").exists():
        Console(place).complete()
    return not place.unanswered()


# Deadlines


def test_deploy_that_exceeds_w_names_the_awaited_state(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=3600, watch_interval=3600)  # the deadline comes before the second state check
    one = driver("-w 1 simulated")
    reply = one.ask(oned_requests.deploy(7))
    [entry] = place.instances()
    assert reply == f"FAILURE gave up after 1 s waiting for {entry['deploy_id']} to be running (it is pending)"


def test_actions_fail_after_w_seconds_if_the_cloud_does_not_answer(driver: StartDriver, place: Place) -> None:
    place.simulate(latency=3600)
    one = driver("-w 1 simulated")
    one.write(
        oned_requests.reboot(1, "sim-x", release="5.10")
        + oned_requests.terminate(2, "sim-x")
        + oned_requests.cleanup(3)
        + oned_requests.poll(4, "sim-x")
    )
    lines = [one.next_line() for _ in range(4)]
    assert sorted(heads(lines)) == ["CLEANUP FAILURE 3", "POLL SUCCESS 4", "REBOOT FAILURE 1", "SHUTDOWN FAILURE 2"]
    assert all("gave up after 1 s waiting for " in line for line in lines if " FAILURE " in line)
    assert "POLL SUCCESS 4 STATE=-" in lines


def test_deploy_repeated_after_its_deadline_replies_the_same_instance(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=3600)
    one = driver("-w 2 simulated")
    assert one.ask(oned_requests.deploy(7)).startswith("FAILURE gave up after 2 s waiting for sim-")
    [entry] = place.instances()
    Console(place).complete()
    assert one.ask(oned_requests.deploy(7)) == f"SUCCESS {entry['deploy_id']}"
    assert len(place.instances(is_all=True)) == 1


def test_deploy_repeated_after_an_unanswered_create_yields_exactly_one_instance(
    driver: StartDriver, place: Place
) -> None:
    place.simulate('late_answers = { calls = ["create"], seconds = 3600 }', boot_time=0)
    one = driver("-w 2 simulated")
    assert one.ask(oned_requests.deploy(7)) == "FAILURE gave up after 2 s waiting for the cloud's answer to create"
    place.simulate(boot_time=0)
    result, deploy_id = one.ask(oned_requests.deploy(7)).split(" ", 1)
    assert result == "SUCCESS"
    assert [entry["deploy_id"] for entry in place.instances(is_all=True)] == [deploy_id]


def test_instance_of_a_failed_cleanup_is_terminated_later(driver: StartDriver, place: Place) -> None:
    deploy_id = Console(place).run(vm_id=7)
    place.simulate('hangs = { calls = ["destroy"] }')
    one = driver("-w 0.2 simulated")
    assert one.ask(oned_requests.cleanup(7, deploy_id)).startswith("FAILURE ")
    place.simulate(boot_time=0, destroy_time=0)
    until(lambda: place.instances() == [])


def test_deadline_of_an_action_does_not_include_its_wait_for_a_turn(driver: StartDriver, place: Place) -> None:
    ids = dict(enumerate(Console(place).run_many(range(6))))
    place.simulate(stop_time=3600)
    one = driver("-t 2 -w 3 simulated")
    one.write(
        b"".join(oned_requests.power_off(n, ids[n]) if n < 2 else oned_requests.reboot(n, ids[n]) for n in range(6))
    )
    lines = [one.next_line() for _ in range(6)]
    assert sorted(heads(lines)) == sorted(
        ["SHUTDOWN FAILURE 0", "SHUTDOWN FAILURE 1", *(f"REBOOT SUCCESS {n}" for n in range(2, 6))]
    ), "the deadline counts from the start of an action"
