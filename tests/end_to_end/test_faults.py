"""What the daemon makes of a cloud that misbehaves: each fault that can be ordered, and a storm of them all.

The cloud is looked at from beside the driver, by a client without faults.
"""

from __future__ import annotations

import asyncio
import random
import re
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial

import pytest

from one_provider_mad.domain import Instance, InstanceState, Template
from one_provider_mad.providers.simulated.cloud import Cloud
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests import oned_lines
from tests.conftest import StartDriver
from tests.end_to_end import wire
from tests.end_to_end.oned import OWNER, Driver, Place, aside, replies
from tests.waiting import until

QUICK = "boot_time = 0\nstop_time = 0\nsuspend_time = 0\ndestroy_time = 0\nwatch_interval = 0.01\n"


def order(place: Place, *faults: str, more: str = "", head: str = "") -> None:
    """Write the configuration of a quick cloud with these faults, as an operator writes them."""
    table = "\n".join(["[simulated.faults]", *faults, ""])
    place.configure(f'provider = "simulated"\nowner = "{OWNER}"\n{head}[simulated]\n{QUICK}{more}{table}')


def in_cloud(place: Place) -> list[Instance]:
    """Every instance that there ever was."""

    async def look() -> list[Instance]:
        cloud = Cloud(place.var / "simulated.db", SimulatedSettings(), clock=lambda: time.time() + 10)
        await cloud.open()
        try:
            return list(await cloud.list_instances())
        finally:
            await cloud.close()

    return aside(lambda: asyncio.run(look()))


def alive(place: Place) -> list[str]:
    """The ids of the instances that live."""
    return [instance.deploy_id for instance in in_cloud(place) if not instance.state.is_gone]


def reboots(place: Place) -> list[str]:
    """How often each instance was rebooted."""
    return [instance.attributes["SIM_REBOOTS"] for instance in in_cloud(place)]


def hits(place: Place, fault: str) -> int:
    """How many calls a fault has hit so far."""
    return sum(event.get("fault") == fault for event in place.events())


def asked_all(driver: Driver, lines: Sequence[bytes]) -> list[str]:
    """Send all at once; the answers as they come, LOG lines left out."""
    driver.write(b"".join(lines))
    return [driver.wait_for(lambda line: not line.startswith("LOG ")) for _ in lines]


def results(lines: Iterable[str]) -> list[str]:
    """SUCCESS or FAILURE of each VM in order."""
    return [line.split(" ")[1] for line in sorted(lines, key=lambda line: int(line.split(" ")[2]))]


@pytest.fixture
def start(driver: StartDriver, place: Place) -> StartDriver:
    """Starts drivers on a cloud that is well until something is ordered."""
    order(place)
    return driver


# Throttling


def test_throttled_calls_are_paced_and_need_no_retries(start: StartDriver, place: Place) -> None:
    one = start("-t 50 -r 0 -w 20 simulated")
    deploy_id = one.created(wire.deploy(7))
    order(place, "calls_a_second = 20")
    begun = time.monotonic()
    lines = asked_all(one, [wire.reboot(7, deploy_id)] * 10 + [wire.deploy(vm_id) for vm_id in range(10, 16)])
    assert 1 <= time.monotonic() - begun < 6, "28 calls at 20 a second take until the second second begins"
    assert not [line for line in lines if " SUCCESS " not in line]
    assert [instance.attributes["SIM_REBOOTS"] for instance in in_cloud(place)] == ["10"] + ["0"] * 6


def test_pacing_ends_at_the_deadline(start: StartDriver, place: Place) -> None:
    one = start("-t 50 -r 5 -w 0.5 simulated")
    ids = {vm_id: one.created(wire.deploy(vm_id)) for vm_id in range(7, 11)}
    order(place, "calls_a_second = 2")
    lines = asked_all(one, [wire.reboot(vm_id, deploy_id, release="5.10") for vm_id, deploy_id in ids.items()])
    failures = [line for line in lines if line.startswith("REBOOT FAILURE")]
    assert failures, "a look and four reboots do not fit into half a second, which has one begin of a second at most"
    given_up = re.compile("gave up after 0.5 s waiting for the cloud's answer to (describe|reboot)$")
    assert all(given_up.search(line) for line in failures)
    assert reboots(place).count("1") == 4 - len(failures)


# Errors that pass


@pytest.mark.parametrize(
    ("retries", "begins"),
    [
        pytest.param(2, "SUCCESS -", id="as-many-retries-as-errors"),
        pytest.param(0, "FAILURE simulated did not answer reboot, by order of `transient`", id="no-retry"),
    ],
)
def test_a_call_that_fails_for_a_passing_reason_is_sent_again(
    start: StartDriver, place: Place, retries: int, begins: str
) -> None:
    one = start(f"-r {retries} simulated")
    deploy_id = one.created(wire.deploy(7))
    order(place, 'transient = { calls = ["reboot"], times = 2 }')
    assert one.ask(wire.reboot(7, deploy_id)).startswith(begins)
    assert reboots(place) == ["1" if begins == "SUCCESS -" else "0"]
    assert hits(place, "transient") == min(retries + 1, 2)


def test_with_a_seed_the_same_calls_fail_every_time(start: StartDriver, place: Place) -> None:
    one = start("-t 1 -r 0 simulated")
    deploy_id = one.created(wire.deploy(7))
    runs = []
    for seed in (7, 7, 8):
        order(place, f"seed = {seed}", 'transient = { calls = ["reboot"], rate = 0.5 }')
        runs.append(results(asked_all(one, [wire.reboot(7, deploy_id)] * 40)))
        order(place)
        assert one.ask(wire.reboot(7, deploy_id)) == "SUCCESS -"
    assert runs[0] == runs[1] != runs[2]
    assert 8 < runs[0].count("FAILURE") < 32


# Errors that stay


@pytest.mark.parametrize("error", ["PermissionDenied", "QuotaExceeded"])
def test_a_refusal_is_told_at_once_and_leaves_the_vm_free(start: StartDriver, place: Place, error: str) -> None:
    order(place, f'permanent = {{ calls = ["create"], error = "{error}" }}')
    one = start("-r 5 simulated")
    assert one.ask(wire.deploy(7)).startswith("FAILURE simulated refused create, by order of `permanent`")
    assert hits(place, "permanent") == 1
    assert in_cloud(place) == []
    order(place)
    deploy_id = one.created(wire.deploy(7))
    assert alive(place) == [deploy_id]


# Lost answers


@pytest.mark.parametrize(
    ("retries", "lag"),
    [
        pytest.param(0, 0, id="asked-for-again"),
        pytest.param(0, 0.15, id="asked-for-again-while-it-is-hidden"),
        pytest.param(1, 0, id="sent-again"),
    ],
)
def test_a_create_whose_answer_is_lost_has_one_instance_in_the_end(
    start: StartDriver, place: Place, retries: int, lag: float
) -> None:
    order(place, 'lost_answers = { calls = ["create"], times = 1 }', more=f"listing_lag = {lag}\n")
    one = start(f"-r {retries} simulated")
    answer = one.ask(wire.deploy(7))
    if not retries:
        assert answer.startswith("FAILURE simulated did not answer create, by order of `lost_answers`")
        answer = one.ask(wire.deploy(7))
    result, deploy_id = answer.split(" ", 1)
    assert result == "SUCCESS"
    assert [instance.deploy_id for instance in in_cloud(place)] == [deploy_id]
    assert hits(place, "lost_answers") == 1


def test_a_create_whose_answer_is_lost_is_destroyed_by_the_cleanup(start: StartDriver, place: Place) -> None:
    order(place, 'lost_answers = { calls = ["create"] }', more="listing_lag = 0.15\n")
    one = start("-r 0 simulated")
    assert one.ask(wire.deploy(7)).startswith("FAILURE ")
    assert one.ask(wire.cleanup(7)) == "SUCCESS -"
    assert len(in_cloud(place)) == 1
    assert alive(place) == []


def test_a_destroy_whose_answer_is_lost_is_asked_for_again(start: StartDriver, place: Place) -> None:
    one = start("-r 0 simulated")
    deploy_id = one.created(wire.deploy(7))
    order(place, 'lost_answers = { calls = ["destroy"], times = 1 }')
    assert one.ask(wire.terminate(7, deploy_id)) == "SUCCESS -"
    assert alive(place) == []


def test_a_stop_whose_answer_is_lost_is_no_news_to_a_retry(start: StartDriver, place: Place) -> None:
    one = start("-r 0 simulated")
    deploy_id = one.created(wire.deploy(7))
    order(place, 'lost_answers = { calls = ["stop"], times = 1 }')
    assert one.ask(wire.power_off(7, deploy_id)) == "SUCCESS -"
    assert one.ask(wire.resume(7, deploy_id)) == f"SUCCESS {deploy_id}"


# Calls that hang


def test_calls_that_hang_are_given_up_with_their_names(start: StartDriver, place: Place) -> None:
    one = start("-r 0 -w 0.4 simulated")
    ids = {vm_id: one.created(wire.deploy(vm_id)) for vm_id in (1, 2)}
    order(place, 'hangs = { calls = ["reboot", "destroy", "create"] }', head="call_timeout = 0.5\n")
    lines = [wire.reboot(1, ids[1], release="5.10"), wire.terminate(2, ids[2]), wire.deploy(3)]
    gave_up = "gave up after 0.4 s waiting for the cloud's answer to"
    assert sorted(asked_all(one, lines)) == [
        f"DEPLOY FAILURE 3 {gave_up} create",
        f"REBOOT FAILURE 1 {gave_up} reboot",
        f"SHUTDOWN FAILURE 2 {gave_up} terminate",
    ]
    order(place, 'hangs = { calls = ["describe", "find"] }')
    assert sorted(asked_all(one, [wire.poll(1, ids[1]), wire.deploy(4)])) == [
        f"DEPLOY FAILURE 4 {gave_up} find by tags",
        "POLL SUCCESS 1 STATE=-",
    ]
    assert sorted(alive(place)) == sorted(ids.values())
    order(place)
    lines += [wire.poll(1, ids[1]), wire.deploy(4)]
    assert not [line for line in asked_all(one, lines) if " SUCCESS " not in line]
    assert len(in_cloud(place)) == 4


def test_a_call_that_hangs_counts_as_unanswered_after_its_own_time(start: StartDriver, place: Place) -> None:
    one = start("-r 1 -w 5 simulated")
    deploy_id = one.created(wire.deploy(7))
    order(place, 'hangs = { calls = ["reboot"], times = 1 }', head="call_timeout = 0.1\n")
    assert one.ask(wire.reboot(7, deploy_id)) == "SUCCESS -"
    order(place, 'hangs = { calls = ["reboot"] }', head="call_timeout = 0.1\n")
    assert one.ask(wire.reboot(7, deploy_id)) == "FAILURE simulated did not answer reboot within 0.1 s"
    assert reboots(place) == ["1"]


def test_calls_that_hang_hold_up_nobody_else(start: StartDriver, place: Place) -> None:
    one = start("-t 15 -w 5 simulated")
    deploy_id = one.created(wire.deploy(7))
    order(place, 'hangs = { calls = ["stop"] }')
    one.send(wire.power_off(7, deploy_id))
    until(partial(hits, place, "hangs"))
    begun = time.monotonic()
    assert one.ask(wire.deploy(8)).startswith("SUCCESS ")
    assert time.monotonic() - begun < 3
    one.send(wire.driver_cancel(7))
    one.wait_for(lambda line: "cancelled" in line)
    assert one.ask(wire.reboot(7, deploy_id)) == "SUCCESS -", "the lane is free again"


# No room


def test_a_type_without_room_is_named(start: StartDriver, place: Place) -> None:
    order(place, 'no_capacity = ["medium_1gb", "large_4gb"]')
    one = start("-r 2 simulated")
    answer = one.ask(wire.deploy(7, template=wire.asking_for("medium_1gb")))
    assert answer == "FAILURE the simulated cloud has no room for instances of type medium_1gb just now"
    deploy_id = one.created(wire.deploy(7, template=wire.asking_for("large_4gb, small_512mb")))
    [instance] = in_cloud(place)
    assert (instance.deploy_id, instance.attributes["SIM_INSTANCE_TYPE"]) == (deploy_id, "small_512mb")


# Outages


def test_what_is_asked_for_in_an_outage_is_carried_out_after_it(start: StartDriver, place: Place) -> None:
    one = start("-r 0 simulated")
    ids = {vm_id: one.created(wire.deploy(vm_id)) for vm_id in (6, 7)}
    order(place, "outage = true")
    one.write(b"".join([wire.power_off(6, ids[6]), wire.terminate(7, ids[7]), wire.deploy(8)]))
    polls = [wire.poll(9, "sim-unknown"), wire.poll(10, "sim-unknown")]
    assert sorted(asked_all(one, polls)) == ["POLL SUCCESS 10 STATE=-", "POLL SUCCESS 9 STATE=-"]
    order(place)
    lines = [one.wait_for(lambda line: not line.startswith("LOG ")) for _ in range(3)]
    assert results(lines) == ["SUCCESS"] * 3
    [created] = [line.split(" ")[3] for line in lines if line.startswith("DEPLOY ")]
    assert sorted(alive(place)) == sorted([ids[6], created])


def test_a_driver_that_is_started_in_an_outage_recovers(start: StartDriver, place: Place) -> None:
    order(place, "outage = true", 'transient = { calls = ["account"] }')
    one = start("-r 0 -w 1 simulated")
    assert one.ask(wire.deploy(7)).startswith("FAILURE simulated did not answer account, by order of `transient`")
    order(place, "outage = true")
    assert one.ask(wire.deploy(7)).startswith("FAILURE gave up after 1 s waiting for find by tags: simulated did not")
    order(place)
    deploy_id = one.created(wire.deploy(7))
    assert alive(place) == [deploy_id]


def test_what_could_not_be_destroyed_in_an_outage_is_destroyed_after_it(start: StartDriver, place: Place) -> None:
    one = start("-r 0 -w 1 simulated")
    deploy_id = one.created(wire.deploy(7))
    order(place, "outage = true")
    answer = one.ask(wire.cleanup(7, deploy_id))
    assert answer.startswith(
        "FAILURE gave up after 1 s waiting for describe: simulated did not answer describe: an out"
    )
    assert alive(place) == [deploy_id]
    order(place)
    one.leave()
    start()
    until(lambda: not alive(place))


def test_an_outage_begins_and_ends_by_the_clock(start: StartDriver, place: Place) -> None:
    one = start("-r 0 simulated")
    deploy_id = one.created(wire.deploy(7))
    begin = datetime.now().astimezone() + timedelta(seconds=0.2)
    end = begin + timedelta(seconds=0.3)
    order(place, f"outages = [{{ from = {begin:%H:%M:%S.%f}, to = {end:%H:%M:%S.%f} }}]")
    assert one.ask(wire.poll(7, deploy_id)).startswith("SUCCESS STATE=a")
    until(lambda: polled(one, deploy_id, "SUCCESS STATE=-"))
    assert begin <= datetime.now().astimezone()
    until(lambda: polled(one, deploy_id, "SUCCESS STATE=a"))
    assert end <= datetime.now().astimezone()


def polled(driver: Driver, deploy_id: str, wanted: str) -> str:
    """The answer to a POLL, if it is of this kind."""
    answer = driver.ask(wire.poll(7, deploy_id))
    return answer if answer.startswith(wanted) else ""


# Listings in part


def test_a_listing_of_which_a_page_failed_says_nothing_about_anybody(start: StartDriver, place: Place) -> None:
    one = start("-r 0 simulated")
    ids = {vm_id: one.created(wire.deploy(vm_id)) for vm_id in (1, 2, 3)}
    order(place, "broken_listings = {}")
    lines = asked_all(one, [*(wire.poll(vm_id, ids[vm_id]) for vm_id in ids), wire.poll(9, "sim-unknown")])
    assert all(line.endswith(" STATE=-") for line in lines)


def test_a_page_that_fails_once_is_asked_for_again(start: StartDriver, place: Place) -> None:
    one = start("-r 1 simulated")
    deploy_id = one.created(wire.deploy(7))
    order(place, "broken_listings = { times = 1 }")
    assert one.ask(wire.poll(7, deploy_id)).startswith("SUCCESS STATE=a")
    assert hits(place, "broken_listings") == 1


@pytest.mark.parametrize("listing", ["find", "list_instances"])
def test_a_missing_id_and_a_broken_search_by_tags_are_not_gone(start: StartDriver, place: Place, listing: str) -> None:
    one = start("-r 0 -w 1 simulated")
    ids = [one.created(wire.deploy(vm_id)) for vm_id in range(2)]
    order(place, 'unseen = { calls = ["describe"] }', f'broken_listings = {{ calls = ["{listing}"] }}')
    count = 1 if listing == "find" else 2
    lines = asked_all(one, [wire.poll(vm_id, ids[vm_id]) for vm_id in range(count)])
    assert all(line.endswith(" STATE=-") for line in lines)
    answer = one.ask(wire.terminate(0, ids[0]))
    if listing == "find":
        assert answer.startswith("FAILURE gave up after 1 s waiting for find by tags: simulated answered find in part")
        assert alive(place) == ids
    else:
        assert answer == "SUCCESS -"
        assert alive(place) == ids[1:]


def test_instances_that_are_left_out_by_id_are_found_by_their_tags(start: StartDriver, place: Place) -> None:
    one = start("-t 15 -r 0 simulated")
    ids = {vm_id: one.created(wire.deploy(vm_id)) for vm_id in range(20)}
    order(place, 'unseen = { share = 0.5, calls = ["describe"] }')
    lines = asked_all(one, [wire.poll(vm_id, deploy_id) for vm_id, deploy_id in ids.items()])
    assert all("SUCCESS" in line and "STATE=a" in line for line in lines)
    lines = asked_all(one, [wire.terminate(vm_id, deploy_id) for vm_id, deploy_id in ids.items()])
    order(place)
    assert results(lines) == ["SUCCESS"] * 20
    assert alive(place) == []


def test_a_deploy_of_an_instance_that_is_left_out_everywhere_makes_no_second_one(
    start: StartDriver, place: Place
) -> None:
    one = start("-r 0 -w 0.5 simulated")
    deploy_id = one.created(wire.deploy(7))
    order(place, "unseen = {}")
    assert one.ask(wire.deploy(7)).startswith("FAILURE ")
    assert [instance.deploy_id for instance in in_cloud(place)] == [deploy_id]
    order(place)
    assert one.ask(wire.deploy(7)) == f"SUCCESS {deploy_id}"


def past_the_grace_of_all(place: Place) -> None:
    """From now on the driver takes for gone what the cloud does not show."""
    until(lambda: time.time() > in_cloud(place)[-1].created_at + 0.3)


def test_a_later_deploy_of_an_instance_that_is_left_out_makes_no_second_one_either(
    start: StartDriver, place: Place
) -> None:
    one = start("-r 0 -w 2 simulated")
    deploy_id = one.created(wire.deploy(7))
    past_the_grace_of_all(place)
    order(place, "unseen = {}")
    one.ask(wire.deploy(7))
    assert alive(place) == [deploy_id]


@pytest.mark.parametrize("action", [wire.cleanup, wire.terminate], ids=["cleanup", "terminate"])
def test_a_search_that_began_too_early_proves_nothing_however_late_its_answer(
    start: StartDriver, place: Place, action: Callable[[int, str], bytes]
) -> None:
    lag = "listing_lag = 0.3\n"
    order(place, 'lost_answers = { calls = ["create"] }', more=lag)
    one = start("-r 0 -w 5 simulated")
    assert one.ask(wire.deploy(7)).startswith("FAILURE ")
    order(place, 'late_answers = { calls = ["find"], seconds = 0.6, times = 1 }', more=lag)
    answer = one.ask(action(7, ""))
    assert hits(place, "late_answers") == 1
    assert (answer, alive(place)) == ("SUCCESS -", [])


def test_an_instance_that_is_left_out_everywhere_is_destroyed_all_the_same(start: StartDriver, place: Place) -> None:
    one = start("-r 0 -w 2 simulated")
    deploy_id = one.created(wire.deploy(7))
    past_the_grace_of_all(place)
    order(place, "unseen = {}")
    answer = one.ask(wire.terminate(7, deploy_id))
    assert answer.startswith("FAILURE cannot tell") or alive(place) == []


def test_instances_that_vanish_all_at_once_are_not_said_to_be_gone(start: StartDriver, place: Place) -> None:
    one = start("-t 15 -r 0 simulated")
    ids = {vm_id: one.created(wire.deploy(vm_id)) for vm_id in range(10)}
    past_the_grace_of_all(place)
    polls = [wire.poll(vm_id, deploy_id) for vm_id, deploy_id in ids.items()]
    assert all("STATE=a" in line for line in asked_all(one, polls))
    order(place, "unseen = {}")
    lines = asked_all(one, polls)
    order(place)
    assert not [line for line in lines if "does not exist" in line or "STATE=d" in line]


# Crashes


def crashed(driver: Driver) -> None:
    """The driver has killed itself, without half a line."""
    assert driver.process.wait(10) == -signal.SIGKILL
    driver.rest()
    assert driver.raw.endswith(b"\n")


@pytest.mark.parametrize("point", ["before-create", "after-create", "after-describe"])
def test_a_deploy_that_crashes_anywhere_has_one_instance_when_it_is_asked_for_again(
    start: StartDriver, place: Place, point: str
) -> None:
    order(place, f'crash = {{ at = "{point}" }}')
    one = start()
    one.send(wire.deploy(7))
    crashed(one)
    assert replies(one.lines) == []
    deploy_id = start().created(wire.deploy(7))
    assert [instance.deploy_id for instance in in_cloud(place)] == [deploy_id]
    assert (place.var / "simulated.db.crashes").read_text() == f"{point}\n"


@pytest.mark.parametrize("point", ["after-resize", "before-attach_disk", "after-start"])
def test_a_resume_that_crashes_anywhere_gives_the_instance_what_changed_while_its_vm_was_off(
    start: StartDriver, place: Place, point: str
) -> None:
    one = start()
    deploy_id = one.created(wire.deploy(7))
    assert one.ask(wire.power_off(7, deploy_id)) == "SUCCESS -"
    order(place, f'crash = {{ at = "{point}" }}')
    asked = oned_lines.bursting_template().values
    larger = Template(values={**asked, "MEMORY": ("1024",), "DISK": ({"DISK_ID": "3", "SIZE": "512"},)})
    one.send(wire.resume(7, deploy_id, template=larger))
    crashed(one)
    assert start().reply("DEPLOY", 7) == f"SUCCESS {deploy_id}"
    [instance] = in_cloud(place)
    assert instance.state is InstanceState.RUNNING
    assert (instance.attributes["SIM_MEMORY"], instance.attributes["SIM_DISKS"]) == ("1024", "3:512")


def test_what_was_being_created_and_destroyed_is_completed_by_the_next_process(
    start: StartDriver, place: Place
) -> None:
    one = start()
    old = one.created(wire.deploy(7))
    order(place, 'hangs = { calls = ["destroy"] }', 'crash = { at = "after-create" }')
    one.send(wire.terminate(7, old))
    until(partial(hits, place, "hangs"))
    one.send(wire.deploy(8))
    crashed(one)
    assert len(alive(place)) == 2
    order(place, 'crash = { at = "after-create" }')
    two = start()
    answers = sorted(two.next_line() for _ in range(2))
    [new] = alive(place)
    assert answers == [f"DEPLOY SUCCESS 8 {new}", "SHUTDOWN SUCCESS 7 -"]
    assert len(in_cloud(place)) == 2


def test_a_request_that_a_newer_one_replaced_is_not_answered_after_another_crash(
    start: StartDriver, place: Place
) -> None:
    order(place, 'crash = { at = "before-create", times = 2 }', more="latency = 0.15\n")
    one = start()
    one.send(wire.deploy(7))
    crashed(one)
    two = start()
    until(lambda: "request taken over" in place.log())
    two.send(wire.deploy(7))
    crashed(two)
    assert replies(two.lines) == []
    three = start()
    deploy_id = three.reply("DEPLOY", 7).removeprefix("SUCCESS ")
    assert alive(place) == [deploy_id]
    assert three.finalize() == 0
    assert replies(three.rest()) == []


# A storm of all


STORM = (
    "seed = 20260101",
    "calls_a_second = 500",
    "transient = { rate = 0.15 }",
    'permanent = { rate = 0.3, calls = ["create", "stop"], error = "QuotaExceeded" }',
    "lost_answers = { rate = 0.15 }",
    'hangs = { rate = 0.1, calls = ["create", "destroy", "describe", "find"] }',
    "broken_listings = { rate = 0.1 }",
    'unseen = { share = 0.2, calls = ["describe"] }',
    'no_capacity = ["medium_1gb"]',
)
CHOOSY = Template(
    values={
        "CPU": ("1",),
        "MEMORY": ("256",),
        "PUBLIC_CLOUD": ({"TYPE": "simulated", "PROVIDER_INSTANCE_TYPE": "medium_1gb, small_256mb"},),
    }
)


def test_after_a_storm_every_vm_has_had_its_answers_and_one_instance(start: StartDriver, place: Place) -> None:
    vm_ids = range(30)
    order(place, *STORM, more="listing_lag = 0.1\n", head="call_timeout = 0.1\n")
    one = start("-t 30 -r 1 -w 0.8 simulated")
    deploys = [wire.deploy(vm_id, template=CHOOSY) for vm_id in vm_ids]
    told = deploy_ids(asked_all(one, deploys))
    requests = [make(vm_id, told[vm_id]) for vm_id in told for make in (wire.poll, wire.reboot)]
    random.Random(1).shuffle(requests)
    assert not [line for line in asked_all(one, requests) if "does not exist" in line]
    faults = ("transient", "permanent", "lost_answers", "hangs", "broken_listings")

    def has_stormed() -> bool:
        if all(hits(place, fault) for fault in faults):
            return True
        for vm_id, deploy_id in deploy_ids(asked_all(one, deploys)).items():
            assert told.setdefault(vm_id, deploy_id) == deploy_id
        return False

    until(has_stormed, seconds=30)

    order(place)
    final = deploy_ids(asked_all(one, deploys))
    assert list(final) == list(vm_ids)
    assert {vm_id: final[vm_id] for vm_id in told} == told, "what was answered stays"
    assert sorted(instance.deploy_id for instance in in_cloud(place)) == sorted(final.values()), "none in vain"

    order(place, *STORM, head="call_timeout = 0.1\n")
    cleanups = [wire.cleanup(vm_id, deploy_id) for vm_id, deploy_id in final.items()]
    lines = asked_all(one, cleanups)
    left = set(alive(place))
    assert not [line for line in lines if " SUCCESS " in line and final[int(line.split(" ")[2])] in left]
    order(place)
    assert results(asked_all(one, cleanups)) == ["SUCCESS"] * len(vm_ids)
    assert alive(place) == []
    assert one.finalize() == 0
    assert replies(one.rest()) == [], "exactly one answer each"


def deploy_ids(lines: Iterable[str]) -> dict[int, str]:
    """What the successful ones of these answers say, by VM."""
    words = (line.split(" ") for line in lines if " SUCCESS " in line)
    return dict(sorted((int(vm_id), deploy_id) for _, _, vm_id, deploy_id in words))
