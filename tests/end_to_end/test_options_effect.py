"""What runs when: `-t`, `-p` and `-w`, lanes, POLLs together, and what DRIVER_CANCEL leaves behind."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

import pytest

from tests.conftest import StartDriver
from tests.end_to_end import wire
from tests.end_to_end.oned import Driver, Place
from tests.waiting import until


def created(driver: Driver, vm_ids: Iterable[int]) -> dict[int, str]:
    """Deploy these VMs all at once, and return their deploy ids."""
    wanted = list(vm_ids)
    driver.write(b"".join(wire.deploy(vm_id) for vm_id in wanted))
    answers = [driver.next_line().split(" ") for _ in wanted]
    assert {(action, result) for action, result, *_ in answers} == {("DEPLOY", "SUCCESS")}
    return {int(vm_id): deploy_id for _, _, vm_id, deploy_id in answers}


def answered(driver: Driver, count: int) -> list[tuple[float, str]]:
    """The next lines, each with the second it came in."""
    return [(time.monotonic(), line) for line in (driver.next_line() for _ in range(count))]


def heads(lines: Iterable[str]) -> list[str]:
    """Action, result and VM of each line."""
    return [" ".join(line.split(" ")[:3]) for line in lines]


# How many at once


def test_as_many_actions_run_at_once_as_the_option_says(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 3 simulated")
    ids = created(one, range(9))
    place.simulate(boot_time=0, latency=0.25)
    assert one.ask(wire.reboot(0, ids[0])) == "SUCCESS -", "the new latency counts"
    begun = time.monotonic()
    one.write(b"".join(wire.reboot(vm_id, ids[vm_id], host="remote_provider") for vm_id in ids))
    moments = [moment - begun for moment, _ in answered(one, 9)]
    assert all(later - sooner > 0.2 for sooner, later in zip(moments, moments[3:], strict=False)), "never four"
    assert moments[-1] < 0.25 * 6, "a look and three rounds: two at once would take a look and five"


def test_p_changes_nothing_since_vms_of_one_host_run_side_by_side_anyway(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 15 -r 0 -p simulated")
    ids = created(one, range(15))
    place.simulate(boot_time=0, latency=0.4)
    assert one.ask(wire.reboot(0, ids[0])) == "SUCCESS -"
    begun = time.monotonic()
    one.write(b"".join(wire.reboot(vm_id, ids[vm_id], host="remote_provider") for vm_id in ids))
    lines = [line for _, line in answered(one, 15)]
    assert time.monotonic() - begun < 0.4 * 3, "a look and one round: two rounds would take longer"
    assert sorted(lines) == sorted(f"REBOOT SUCCESS {vm_id} -" for vm_id in range(15))


def test_the_actions_of_a_vm_are_carried_out_in_the_order_they_came(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0.02, stop_time=0.02, destroy_time=0.02, watch_interval=0.01, jitter=0.03)
    one = driver()
    one.write(b"".join(wire.deploy(vm_id) for vm_id in range(10)))
    one.write(b"".join(wire.reboot(vm_id, "") for vm_id in range(10)))
    one.write(b"".join(wire.line("RESET", vm_id) for vm_id in range(10)))
    lines = [line for _, line in answered(one, 30)]
    for vm_id in range(10):
        own = [line for line in lines if line.split(" ")[2] == str(vm_id)]
        assert heads(own) == [f"{action} SUCCESS {vm_id}" for action in ("DEPLOY", "REBOOT", "RESET")]
    assert lines != sorted(lines, key=lambda line: int(line.split(" ")[2])), "VMs overtake each other"


def test_a_deploy_that_comes_twice_is_answered_once_with_one_instance(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0.3)
    one = driver()
    one.send(wire.deploy(7))
    until(place.instances)
    one.send(wire.deploy(7))
    result, deploy_id = one.reply("DEPLOY", 7).split(" ")
    assert result == "SUCCESS"
    assert one.is_quiet()
    assert [entry["deploy_id"] for entry in place.instances(is_all=True)] == [deploy_id]


# POLLs


def test_an_action_overtakes_the_polls_that_wait(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 1 simulated")
    ids = created(one, range(8))
    place.simulate(boot_time=0, latency=0.15)
    assert one.ask(wire.reboot(7, ids[7])) == "SUCCESS -"
    polls = [wire.poll(vm_id, ids[vm_id]) for vm_id in range(1, 6)]
    one.write(b"".join([wire.reboot(0, ids[0]), *polls, wire.reboot(6, ids[6])]))
    found = heads(line for _, line in answered(one, 7))
    assert found == ["REBOOT SUCCESS 0", "REBOOT SUCCESS 6", *(f"POLL SUCCESS {vm_id}" for vm_id in range(1, 6))]


def test_a_poll_waits_for_the_actions_of_its_vm(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0, stop_time=0.2)
    one = driver()
    deploy_id = created(one, [7])[7]
    one.write(wire.power_off(7, deploy_id) + wire.poll(7, deploy_id))
    assert one.next_line() == "SHUTDOWN SUCCESS 7 -"
    assert one.next_line().startswith("POLL SUCCESS 7 STATE=d")


def test_a_poll_that_an_action_overtakes_tells_nothing_old(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver()
    deploy_id = created(one, [7])[7]
    place.simulate(boot_time=0, latency=0.15)
    assert one.ask(wire.reboot(7, deploy_id)) == "SUCCESS -"
    one.write(wire.poll(7, deploy_id))
    assert one.ask(wire.unknown(8)), "by now the cloud is being asked"
    one.write(wire.power_off(7, deploy_id))
    assert one.next_line() == "POLL SUCCESS 7 STATE=-"
    assert one.next_line() == "SHUTDOWN SUCCESS 7 -"
    assert one.is_quiet()


def test_a_thousand_polls_are_one_look_at_the_cloud(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 50 simulated")
    ids = created(one, range(100))
    one.leave()
    place.simulate(boot_time=0, latency=0.2)
    two = driver("-t 2 simulated")
    assert two.ask(wire.poll(0, ids[0])).startswith("SUCCESS STATE=a")
    wanted = [vm_id for _ in range(10) for vm_id in ids]
    random.Random(1).shuffle(wanted)
    begun = time.monotonic()
    two.write(b"".join(wire.poll(vm_id, ids[vm_id]) for vm_id in wanted))
    lines = [line for _, line in answered(two, 1000)]
    assert time.monotonic() - begun < 2
    assert sorted(heads(lines)) == sorted(f"POLL SUCCESS {vm_id}" for vm_id in wanted)


def test_polls_of_vanished_instances_hold_up_nobody(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0, latency=0.2)
    one = driver()
    ids = created(one, [0])
    begun = time.monotonic()
    one.write(b"".join(wire.poll(vm_id, f"sim-{vm_id}") for vm_id in range(1, 21)) + wire.poll(0, ids[0]))
    lines = [line for _, line in answered(one, 21)]
    assert sorted(heads(lines)) == sorted(["POLL SUCCESS 0", *(f"POLL FAILURE {vm_id}" for vm_id in range(1, 21))])
    assert time.monotonic() - begun < 2, "twenty looks one after the other take four seconds"


# DRIVER_CANCEL


def test_an_action_that_waits_or_runs_is_called_off_without_an_answer(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 1 simulated")
    ids = created(one, [1, 2])
    place.simulate(boot_time=0, latency=0.2)
    assert one.ask(wire.reboot(1, ids[1])) == "SUCCESS -"
    one.write(wire.reboot(1, ids[1]) + wire.reboot(2, ids[2]) + wire.poll(2, ids[2]))
    one.write(wire.driver_cancel(2, release="5.10") + wire.driver_cancel(1, release="7.4"))
    assert one.next_line() == "LOG I 2 Driver command for 2 cancelled"
    assert one.next_line() == "LOG I 1 Driver command for 1 cancelled"
    one.write(wire.reboot(2, ids[2]) + wire.reboot(1, ids[1]))
    assert one.next_line() == "REBOOT SUCCESS 2 -"
    assert one.next_line() == "REBOOT SUCCESS 1 -"
    assert one.is_quiet()


def test_calling_off_what_is_not_there_is_no_news(driver: StartDriver) -> None:
    one = driver()
    one.send(wire.driver_cancel(4711))
    assert one.is_quiet()
    assert created(one, [4711])


def has_paid(place: Place, vm_id: int) -> bool:
    """True when what this VM owed to the cloud is terminated for certain, or certainly never came to be."""
    return any(event["event"] == "debt paid" and event["vm"] == vm_id for event in place.events())


@pytest.mark.parametrize(
    ("settings", "is_visible"),
    [
        pytest.param({"latency": 0.15, "boot_time": 60}, False, id="create-on-its-way"),
        pytest.param({"boot_time": 60}, True, id="booting"),
        pytest.param({"boot_time": 60, "listing_lag": 0.3}, False, id="not-visible-yet"),
    ],
)
def test_a_deploy_that_was_called_off_leaves_nothing_with_or_without_a_cleanup(
    driver: StartDriver, place: Place, settings: dict[str, float], *, is_visible: bool
) -> None:
    place.simulate(**settings, destroy_time=0)
    one = driver()
    one.write(wire.deploy(7) + wire.deploy(8))
    until(lambda: place.has_attempts(2) and (not is_visible or len(place.instances()) == 2))
    one.write(wire.driver_cancel(7) + wire.driver_cancel(8) + wire.cleanup(8))
    assert one.next_line() == "LOG I 7 Driver command for 7 cancelled"
    assert one.next_line() == "LOG I 8 Driver command for 8 cancelled"
    assert one.next_line() == "CLEANUP SUCCESS 8 -"
    assert {entry["state"] for entry in place.instances() if entry["vm_id"] == 8} <= {"debt", "terminated"}
    until(lambda: has_paid(place, 7) and has_paid(place, 8), seconds=15)
    assert place.instances() == []
    assert len(place.instances(is_all=True)) <= 2
    place.simulate(boot_time=0)
    ids = created(one, [7, 8])
    assert {entry["deploy_id"] for entry in place.instances()} == set(ids.values()), "they can be deployed anew"


def test_a_deploy_at_once_after_a_cancelled_one_gets_an_instance_that_stays(driver: StartDriver, place: Place) -> None:
    place.simulate(latency=0.15, boot_time=0.1, destroy_time=0)
    one = driver()
    one.send(wire.deploy(7))
    until(place.has_attempts)
    one.write(wire.driver_cancel(7) + wire.deploy(7))
    assert one.next_line() == "LOG I 7 Driver command for 7 cancelled"
    result, deploy_id = one.reply("DEPLOY", 7).split(" ")
    assert result == "SUCCESS"
    until(lambda: has_paid(place, 7), seconds=15)
    assert [(entry["deploy_id"], entry["state"]) for entry in place.instances()] == [(deploy_id, "running")]


# Deadlines


def test_a_deadline_says_what_was_waited_for(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=30, watch_interval=20)  # looked at once: the deadline comes between two looks
    one = driver("-w 1 simulated")
    begun = time.monotonic()
    reply = one.ask(wire.deploy(7))
    assert 0.9 < time.monotonic() - begun < 5
    [entry] = place.instances()
    assert reply == f"FAILURE gave up after 1 s waiting for {entry['deploy_id']} to be running (it is pending)"


def test_a_cloud_that_does_not_answer_is_given_up(driver: StartDriver, place: Place) -> None:
    place.simulate()
    one = driver("-w 1 simulated")
    assert one.ask(wire.cleanup(0)) == "SUCCESS -"
    place.simulate(latency=60)
    one.write(
        wire.reboot(1, "sim-x", release="5.10") + wire.terminate(2, "sim-x") + wire.cleanup(3) + wire.poll(4, "sim-x")
    )
    lines = [one.next_line() for _ in range(4)]
    assert sorted(heads(lines)) == ["CLEANUP FAILURE 3", "POLL SUCCESS 4", "REBOOT FAILURE 1", "SHUTDOWN FAILURE 2"]
    assert all("gave up after 1 s waiting for " in line for line in lines if " FAILURE " in line)
    assert "POLL SUCCESS 4 STATE=-" in lines


def test_a_deploy_that_ran_out_of_time_is_taken_up_by_the_next_one(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=1)
    one = driver("-w 0.5 simulated")
    assert one.ask(wire.deploy(7)).startswith("FAILURE gave up after 0.5 s waiting for sim-")
    [entry] = place.instances()
    until(lambda: place.instances()[0]["state"] == "running")
    assert one.ask(wire.deploy(7)) == f"SUCCESS {entry['deploy_id']}"
    assert len(place.instances(is_all=True)) == 1


def test_a_deploy_whose_create_was_not_answered_in_time_has_one_instance_in_the_end(
    driver: StartDriver, place: Place
) -> None:
    place.simulate()
    one = driver("-w 1.2 simulated")
    assert one.ask(wire.cleanup(6)) == "SUCCESS -"
    place.simulate(boot_time=0, latency=0.5)
    assert one.ask(wire.deploy(7)).startswith("FAILURE gave up after 1.2 s waiting for ")
    place.simulate(boot_time=0)
    result, deploy_id = one.ask(wire.deploy(7)).split(" ", 1)
    assert result == "SUCCESS"
    assert [entry["deploy_id"] for entry in place.instances(is_all=True)] == [deploy_id]


def test_a_failed_cleanup_is_made_good_later(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-w 0.2 simulated")
    deploy_id = created(one, [7])[7]
    place.simulate(boot_time=0, latency=0.25)
    assert one.ask(wire.cleanup(7, deploy_id)).startswith("FAILURE ")
    place.simulate(boot_time=0, destroy_time=0)
    until(lambda: place.instances() == [], seconds=15)


def test_deadlines_of_some_do_not_end_others(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=0)
    one = driver("-t 2 -w 1 simulated")
    ids = created(one, range(6))
    place.simulate(boot_time=0, stop_time=30)
    one.write(b"".join(wire.power_off(n, ids[n]) if n < 2 else wire.reboot(n, ids[n]) for n in range(6)))
    lines = [line for _, line in answered(one, 6)]
    assert sorted(heads(lines)) == sorted(
        ["SHUTDOWN FAILURE 0", "SHUTDOWN FAILURE 1", *(f"REBOOT SUCCESS {n}" for n in range(2, 6))]
    ), "an action's time begins when it does, not while it waits for others"
