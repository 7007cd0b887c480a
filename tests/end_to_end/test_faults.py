"""The action driver on a cloud with faults: each kind of fault that can be configured, and all of them at once.

The tests read the cloud with a client of their own, which has no faults.
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
from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import Console
from tests.end_to_end.oned import OWNER, Driver, Place, aside, replies
from tests.waiting import HANG, until

QUICK = "boot_time = 0\nstop_time = 0\nsuspend_time = 0\ndestroy_time = 0\nwatch_interval = 0.01\n"


def set_faults(place: Place, *faults: str, more: str = "", head: str = "") -> None:
    """Write the configuration of a fast simulated cloud with these faults."""
    table = "\n".join(["[simulated.faults]", *faults, ""])
    place.configure(f'provider = "simulated"\nowner = "{OWNER}"\n{head}[simulated]\n{QUICK}{more}{table}')


def in_cloud(place: Place) -> list[Instance]:
    """Every instance that was ever created."""

    async def list_all() -> list[Instance]:
        cloud = Cloud(place.var / "simulated.db", SimulatedSettings(), clock=lambda: time.time() + 10)
        await cloud.open()
        try:
            return list(await cloud.list_instances())
        finally:
            await cloud.close()

    return aside(lambda: asyncio.run(list_all()))


def alive(place: Place) -> list[str]:
    """The ids of instances that are not terminated."""
    return [instance.deploy_id for instance in in_cloud(place) if not instance.state.is_gone]


def reboots(place: Place) -> list[str]:
    """The number of reboots of each instance."""
    return [instance.attributes["SIM_REBOOTS"] for instance in in_cloud(place)]


def ask_all(driver: Driver, lines: Sequence[bytes]) -> list[str]:
    """Send all requests at once; returns their replies in order of arrival, without LOG lines."""
    driver.write(b"".join(lines))
    return [driver.wait_for(lambda line: not line.startswith("LOG ")) for _ in lines]


def results(lines: Iterable[str]) -> list[str]:
    """SUCCESS or FAILURE of each VM in order."""
    return [line.split(" ")[1] for line in sorted(lines, key=lambda line: int(line.split(" ")[2]))]


@pytest.fixture
def start(driver: StartDriver, place: Place) -> StartDriver:
    """Start drivers on a cloud without faults."""
    set_faults(place)
    return driver


# Throttling


def test_throttled_calls_are_sent_again_later_and_succeed_without_using_up_retries(
    start: StartDriver, place: Place
) -> None:
    one = start("-t 50 -r 0 -w 20 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    set_faults(place, "calls_a_second = 20")
    begun = time.monotonic()
    lines = ask_all(
        one, [oned_requests.reboot(7, deploy_id)] * 10 + [oned_requests.deploy(vm_id) for vm_id in range(10, 16)]
    )
    assert time.monotonic() - begun >= 1, "of 28 calls at 20 a second the last 8 wait for a second"
    assert not [line for line in lines if " SUCCESS " not in line]
    assert [instance.attributes["SIM_REBOOTS"] for instance in in_cloud(place)] == ["10"] + ["0"] * 6


def test_throttled_call_is_given_up_at_the_deadline_of_its_action(start: StartDriver, place: Place) -> None:
    ids = dict(enumerate(Console(place).run_many(range(7, 11)), start=7))
    set_faults(place, "calls_a_second = 2")
    one = start("-t 50 -r 5 -w 0.5 simulated")
    lines = ask_all(one, [oned_requests.reboot(vm_id, deploy_id, release="5.10") for vm_id, deploy_id in ids.items()])
    failures = [line for line in lines if line.startswith("REBOOT FAILURE")]
    assert failures, "5 calls at 2 a second do not fit into half a second"
    given_up = re.compile("gave up after 0.5 s waiting for the cloud's answer to (describe|reboot)$")
    assert all(given_up.search(line) for line in failures)
    assert 4 - len(failures) <= reboots(place).count("1") < 4


# Transient errors


@pytest.mark.parametrize(
    ("retries", "begins"),
    [
        pytest.param(2, "SUCCESS -", id="as-many-retries-as-errors"),
        pytest.param(0, "FAILURE simulated did not answer reboot, by order of `transient`", id="no-retry"),
    ],
)
def test_call_with_a_transient_error_is_sent_again_as_often_as_retries_allow(
    start: StartDriver, place: Place, retries: int, begins: str
) -> None:
    one = start(f"-r {retries} simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    set_faults(place, 'transient = { calls = ["reboot"], times = 2 }')
    assert one.ask(oned_requests.reboot(7, deploy_id)).startswith(begins)
    assert reboots(place) == ["1" if begins == "SUCCESS -" else "0"]
    assert place.hits("transient") == min(retries + 1, 2)


def test_same_fault_seed_makes_the_same_calls_fail(start: StartDriver, place: Place) -> None:
    one = start("-t 1 -r 0 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    runs = []
    for seed in (7, 7, 8):
        set_faults(place, f"seed = {seed}", 'transient = { calls = ["reboot"], rate = 0.5 }')
        runs.append(results(ask_all(one, [oned_requests.reboot(7, deploy_id)] * 40)))
        set_faults(place)
        assert one.ask(oned_requests.reboot(7, deploy_id)) == "SUCCESS -"
    assert runs[0] == runs[1] != runs[2]
    assert 8 < runs[0].count("FAILURE") < 32


# Permanent errors


def test_deploy_that_the_cloud_refuses_fails_without_a_retry_and_may_be_repeated(
    start: StartDriver, place: Place
) -> None:
    one = start("-r 5 simulated")
    for count, error in enumerate(("PermissionDenied", "QuotaExceeded"), start=1):
        set_faults(place, f'permanent = {{ calls = ["create"], error = "{error}" }}')
        assert one.ask(oned_requests.deploy(7)).startswith(
            "FAILURE simulated refused create, by order of `permanent`"
        ), error
        assert place.hits("permanent") == count, error
    assert in_cloud(place) == []
    set_faults(place)
    deploy_id = one.created(oned_requests.deploy(7))
    assert alive(place) == [deploy_id]


# Lost responses


@pytest.mark.parametrize(
    ("retries", "lag"),
    [
        pytest.param(0, 0, id="repeated-by-oned"),
        pytest.param(0, 0.15, id="repeated-by-oned-while-hidden"),
        pytest.param(1, 0, id="retried-by-the-driver"),
    ],
)
def test_repeated_create_after_a_lost_response_yields_exactly_one_instance(
    start: StartDriver, place: Place, retries: int, lag: float
) -> None:
    set_faults(place, 'lost_answers = { calls = ["create"], times = 1 }', more=f"listing_lag = {lag}\n")
    one = start(f"-r {retries} simulated")
    answer = one.ask(oned_requests.deploy(7))
    if not retries:
        assert answer.startswith("FAILURE simulated did not answer create, by order of `lost_answers`")
        answer = one.ask(oned_requests.deploy(7))
    result, deploy_id = answer.split(" ", 1)
    assert result == "SUCCESS"
    assert [instance.deploy_id for instance in in_cloud(place)] == [deploy_id]
    assert place.hits("lost_answers") == 1


def test_cleanup_terminates_the_instance_of_a_create_whose_response_was_lost(start: StartDriver, place: Place) -> None:
    set_faults(place, 'lost_answers = { calls = ["create"] }', more="listing_lag = 0.15\n")
    one = start("-r 0 simulated")
    assert one.ask(oned_requests.deploy(7)).startswith("FAILURE ")
    assert one.ask(oned_requests.cleanup(7)) == "SUCCESS -"
    assert len(in_cloud(place)) == 1
    assert alive(place) == []


def test_terminate_succeeds_if_the_response_of_destroy_is_lost_once(start: StartDriver, place: Place) -> None:
    one = start("-r 0 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    set_faults(place, 'lost_answers = { calls = ["destroy"], times = 1 }')
    assert one.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
    assert alive(place) == []


def test_poweroff_succeeds_if_the_response_of_stop_is_lost_once(start: StartDriver, place: Place) -> None:
    one = start("-r 0 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    set_faults(place, 'lost_answers = { calls = ["stop"], times = 1 }')
    assert one.ask(oned_requests.power_off(7, deploy_id)) == "SUCCESS -"
    assert one.ask(oned_requests.resume(7, deploy_id)) == f"SUCCESS {deploy_id}"


# Calls that hang


def test_action_with_a_hanging_call_fails_at_its_deadline_and_names_the_call(start: StartDriver, place: Place) -> None:
    one = start("-r 0 -w 2 simulated")
    ids = {vm_id: one.created(oned_requests.deploy(vm_id)) for vm_id in (1, 2)}
    set_faults(place, 'hangs = { calls = ["reboot", "destroy", "create"] }', head="call_timeout = 3\n")
    lines = [
        oned_requests.reboot(1, ids[1], release="5.10"),
        oned_requests.terminate(2, ids[2]),
        oned_requests.deploy(3),
    ]
    gave_up = "gave up after 2 s waiting for the cloud's answer to"
    assert sorted(ask_all(one, lines)) == [
        f"DEPLOY FAILURE 3 {gave_up} create",
        f"REBOOT FAILURE 1 {gave_up} reboot",
        f"SHUTDOWN FAILURE 2 {gave_up} terminate",
    ]
    set_faults(place, 'hangs = { calls = ["describe", "find"] }')
    assert sorted(ask_all(one, [oned_requests.poll(1, ids[1]), oned_requests.deploy(4)])) == [
        f"DEPLOY FAILURE 4 {gave_up} find by tags",
        "POLL SUCCESS 1 STATE=-",
    ]
    assert sorted(alive(place)) == sorted(ids.values())
    set_faults(place)
    lines += [oned_requests.poll(1, ids[1]), oned_requests.deploy(4)]
    assert not [line for line in ask_all(one, lines) if " SUCCESS " not in line]
    assert len(in_cloud(place)) == 4


def test_hanging_call_is_repeated_after_call_timeout(start: StartDriver, place: Place) -> None:
    one = start("-r 1 -w 60 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    set_faults(place, 'hangs = { calls = ["reboot"], times = 1 }', head="call_timeout = 1\n")
    assert one.ask(oned_requests.reboot(7, deploy_id)) == "SUCCESS -"
    set_faults(place, 'hangs = { calls = ["reboot"] }', head="call_timeout = 1\n")
    assert one.ask(oned_requests.reboot(7, deploy_id)) == "FAILURE simulated did not answer reboot within 1 s"
    assert reboots(place) == ["1"]


def test_hanging_call_of_one_vm_does_not_delay_another_vm(start: StartDriver, place: Place) -> None:
    one = start("-t 15 -w 3600 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    set_faults(place, 'hangs = { calls = ["stop"] }', head="call_timeout = 3600\n")
    one.send(oned_requests.power_off(7, deploy_id))
    until(partial(place.hits, "hangs"))
    assert one.ask(oned_requests.deploy(8)).startswith("SUCCESS ")
    assert not [line for line in one.lines if line.startswith("SHUTDOWN ")], "the stop still hangs"
    one.send(oned_requests.driver_cancel(7))
    one.wait_for(lambda line: "cancelled" in line)
    assert one.ask(oned_requests.reboot(7, deploy_id)) == "SUCCESS -", "the cancelled request frees the VM's lane"


# No capacity


def test_deploy_names_the_instance_type_that_has_no_capacity(start: StartDriver, place: Place) -> None:
    set_faults(place, 'no_capacity = ["medium_1gb", "large_4gb"]')
    one = start("-r 2 simulated")
    answer = one.ask(oned_requests.deploy(7, template=oned_requests.asking_for("medium_1gb")))
    assert answer == "FAILURE the simulated cloud has no room for instances of type medium_1gb just now"
    deploy_id = one.created(oned_requests.deploy(7, template=oned_requests.asking_for("large_4gb, small_512mb")))
    [instance] = in_cloud(place)
    assert (instance.deploy_id, instance.attributes["SIM_INSTANCE_TYPE"]) == (deploy_id, "small_512mb")


# Outages


def test_requests_sent_during_an_outage_are_carried_out_after_it(start: StartDriver, place: Place) -> None:
    one = start("-r 0 simulated")
    ids = {vm_id: one.created(oned_requests.deploy(vm_id)) for vm_id in (6, 7)}
    set_faults(place, "outage = true")
    one.write(
        b"".join([oned_requests.power_off(6, ids[6]), oned_requests.terminate(7, ids[7]), oned_requests.deploy(8)])
    )
    polls = [oned_requests.poll(9, "sim-unknown"), oned_requests.poll(10, "sim-unknown")]
    assert sorted(ask_all(one, polls)) == ["POLL SUCCESS 10 STATE=-", "POLL SUCCESS 9 STATE=-"]
    set_faults(place)
    lines = [one.wait_for(lambda line: not line.startswith("LOG ")) for _ in range(3)]
    assert results(lines) == ["SUCCESS"] * 3
    [created] = [line.split(" ")[3] for line in lines if line.startswith("DEPLOY ")]
    assert sorted(alive(place)) == sorted([ids[6], created])


def test_driver_started_during_an_outage_serves_requests_after_it(start: StartDriver, place: Place) -> None:
    set_faults(place, "outage = true", 'transient = { calls = ["account"] }')
    one = start("-r 0 -w 2 simulated")
    assert one.ask(oned_requests.deploy(7)).startswith(
        "FAILURE simulated did not answer account, by order of `transient`"
    )
    set_faults(place, "outage = true")
    assert one.ask(oned_requests.deploy(7)).startswith(
        "FAILURE gave up after 2 s waiting for find by tags: simulated did not"
    )
    set_faults(place)
    deploy_id = one.created(oned_requests.deploy(7))
    assert alive(place) == [deploy_id]


def test_instance_of_a_cleanup_that_failed_in_an_outage_is_terminated_after_it(
    start: StartDriver, place: Place
) -> None:
    one = start("-r 0 -w 2 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    set_faults(place, "outage = true")
    answer = one.ask(oned_requests.cleanup(7, deploy_id))
    assert answer.startswith(
        "FAILURE gave up after 2 s waiting for describe: simulated did not answer describe: an out"
    )
    assert alive(place) == [deploy_id]
    set_faults(place)
    one.leave()
    start()
    until(lambda: not alive(place))


def test_outage_begins_and_ends_at_its_configured_times(start: StartDriver, place: Place) -> None:
    one = start("-r 0 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    now, hour = datetime.now().astimezone(), timedelta(hours=1)
    set_outage(place, now + hour, now + 2 * hour)
    assert one.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a")
    begin = datetime.now().astimezone() + timedelta(seconds=0.2)
    set_outage(place, begin, begin + hour)
    until(lambda: one.ask(oned_requests.poll(7, deploy_id)) == "SUCCESS STATE=-")
    assert begin <= datetime.now().astimezone()
    end = datetime.now().astimezone() + timedelta(seconds=0.2)
    set_outage(place, end - hour, end)
    until(lambda: one.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a"))
    assert end <= datetime.now().astimezone()


def set_outage(place: Place, begin: datetime, end: datetime) -> None:
    set_faults(place, f"outages = [{{ from = {begin:%H:%M:%S.%f}, to = {end:%H:%M:%S.%f} }}]")


# Incomplete listings


def test_polls_reply_no_state_if_a_page_of_the_listing_failed(start: StartDriver, place: Place) -> None:
    one = start("-r 0 simulated")
    ids = {vm_id: one.created(oned_requests.deploy(vm_id)) for vm_id in (1, 2, 3)}
    set_faults(place, "broken_listings = {}")
    lines = ask_all(
        one, [*(oned_requests.poll(vm_id, ids[vm_id]) for vm_id in ids), oned_requests.poll(9, "sim-unknown")]
    )
    assert all(line.endswith(" STATE=-") for line in lines)


def test_listing_page_that_fails_once_is_requested_again(start: StartDriver, place: Place) -> None:
    one = start("-r 1 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    set_faults(place, "broken_listings = { times = 1 }")
    assert one.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a")
    assert place.hits("broken_listings") == 1


@pytest.mark.parametrize("listing", ["find", "list_instances"])
def test_instance_that_a_lookup_by_id_omits_is_not_gone_while_a_listing_is_incomplete(
    start: StartDriver, place: Place, listing: str
) -> None:
    one = start("-r 0 -w 2 simulated")
    ids = [one.created(oned_requests.deploy(vm_id)) for vm_id in range(2)]
    set_faults(place, 'unseen = { calls = ["describe"] }', f'broken_listings = {{ calls = ["{listing}"] }}')
    count = 1 if listing == "find" else 2
    lines = ask_all(one, [oned_requests.poll(vm_id, ids[vm_id]) for vm_id in range(count)])
    assert all(line.endswith(" STATE=-") for line in lines)
    answer = one.ask(oned_requests.terminate(0, ids[0]))
    if listing == "find":
        assert answer.startswith("FAILURE gave up after 2 s waiting for find by tags: simulated answered find in part")
        assert alive(place) == ids
    else:
        assert answer == "SUCCESS -"
        assert alive(place) == ids[1:]


def test_instances_that_a_lookup_by_id_omits_are_found_by_tags(start: StartDriver, place: Place) -> None:
    one = start("-t 15 -r 0 simulated")
    ids = {vm_id: one.created(oned_requests.deploy(vm_id)) for vm_id in range(20)}
    set_faults(place, 'unseen = { share = 0.5, calls = ["describe"] }')
    lines = ask_all(one, [oned_requests.poll(vm_id, deploy_id) for vm_id, deploy_id in ids.items()])
    assert all("SUCCESS" in line and "STATE=a" in line for line in lines)
    lines = ask_all(one, [oned_requests.terminate(vm_id, deploy_id) for vm_id, deploy_id in ids.items()])
    set_faults(place)
    assert results(lines) == ["SUCCESS"] * 20
    assert alive(place) == []


def test_repeated_deploy_creates_no_second_instance_while_the_first_is_hidden(start: StartDriver, place: Place) -> None:
    one = start("-r 0 -w 2 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    set_faults(place, "unseen = {}")
    assert one.ask(oned_requests.deploy(7)).startswith("FAILURE ")
    assert [instance.deploy_id for instance in in_cloud(place)] == [deploy_id]
    set_faults(place)
    assert one.ask(oned_requests.deploy(7)) == f"SUCCESS {deploy_id}"


def wait_for_the_visibility_grace(place: Place) -> None:
    """Return when an instance that the cloud does not show may count as gone."""
    until(lambda: time.time() > in_cloud(place)[-1].created_at + 0.3)


def test_deploy_creates_no_second_instance_while_a_first_is_hidden_beyond_the_visibility_grace(
    start: StartDriver, place: Place
) -> None:
    one = start("-r 0 -w 2 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    wait_for_the_visibility_grace(place)
    set_faults(place, "unseen = {}")
    one.ask(oned_requests.deploy(7))
    assert alive(place) == [deploy_id]


@pytest.mark.parametrize("action", [oned_requests.cleanup, oned_requests.terminate], ids=["cleanup", "terminate"])
def test_search_sent_within_the_visibility_grace_proves_no_absence_even_if_answered_late(
    start: StartDriver, place: Place, action: Callable[[int, str], bytes]
) -> None:
    lag = "listing_lag = 0.3\n"
    set_faults(place, 'lost_answers = { calls = ["create"] }', more=lag)
    one = start("-r 0 -w 5 simulated")
    assert one.ask(oned_requests.deploy(7)).startswith("FAILURE ")
    set_faults(place, 'late_answers = { calls = ["find"], seconds = 0.6, times = 1 }', more=lag)
    answer = one.ask(action(7, ""))
    assert place.hits("late_answers") == 1
    assert (answer, alive(place)) == ("SUCCESS -", [])


def test_terminate_of_a_hidden_instance_terminates_it_or_fails(start: StartDriver, place: Place) -> None:
    one = start("-r 0 -w 2 simulated")
    deploy_id = one.created(oned_requests.deploy(7))
    wait_for_the_visibility_grace(place)
    set_faults(place, "unseen = {}")
    answer = one.ask(oned_requests.terminate(7, deploy_id))
    assert answer.startswith("FAILURE cannot tell") or alive(place) == []


def test_polls_do_not_report_instances_gone_that_all_vanish_at_once(start: StartDriver, place: Place) -> None:
    one = start("-t 15 -r 0 simulated")
    ids = {vm_id: one.created(oned_requests.deploy(vm_id)) for vm_id in range(10)}
    wait_for_the_visibility_grace(place)
    polls = [oned_requests.poll(vm_id, deploy_id) for vm_id, deploy_id in ids.items()]
    assert all("STATE=a" in line for line in ask_all(one, polls))
    set_faults(place, "unseen = {}")
    lines = ask_all(one, polls)
    set_faults(place)
    assert not [line for line in lines if "does not exist" in line or "STATE=d" in line]


# Crashes


def assert_crashed(driver: Driver) -> None:
    """Assert that the driver has killed itself, and wrote whole lines only."""
    assert driver.process.wait(HANG) == -signal.SIGKILL
    driver.rest()
    assert driver.raw.endswith(b"\n")


@pytest.mark.parametrize("point", ["before-create", "after-create", "after-describe"])
def test_repeated_deploy_after_a_crash_yields_exactly_one_instance(
    start: StartDriver, place: Place, point: str
) -> None:
    set_faults(place, f'crash = {{ at = "{point}" }}')
    one = start()
    one.send(oned_requests.deploy(7))
    assert_crashed(one)
    assert replies(one.lines) == []
    deploy_id = start().created(oned_requests.deploy(7))
    assert [instance.deploy_id for instance in in_cloud(place)] == [deploy_id]
    assert (place.var / "simulated.db.crashes").read_text() == f"{point}\n"


@pytest.mark.parametrize("point", ["after-resize", "before-attach_disk", "after-start"])
def test_resume_after_a_crash_applies_what_changed_in_the_template_while_the_vm_was_off(
    start: StartDriver, place: Place, point: str
) -> None:
    one = start()
    deploy_id = one.created(oned_requests.deploy(7))
    assert one.ask(oned_requests.power_off(7, deploy_id)) == "SUCCESS -"
    set_faults(place, f'crash = {{ at = "{point}" }}')
    asked = oned_lines.bursting_template().values
    larger = Template(values={**asked, "MEMORY": ("1024",), "DISK": ({"DISK_ID": "3", "SIZE": "512"},)})
    one.send(oned_requests.resume(7, deploy_id, template=larger))
    assert_crashed(one)
    assert start().reply("DEPLOY", 7) == f"SUCCESS {deploy_id}"
    [instance] = in_cloud(place)
    assert instance.state is InstanceState.RUNNING
    assert (instance.attributes["SIM_MEMORY"], instance.attributes["SIM_DISKS"]) == ("1024", "3:512")


def test_next_process_completes_an_interrupted_deploy_and_terminate(start: StartDriver, place: Place) -> None:
    one = start()
    old = one.created(oned_requests.deploy(7))
    set_faults(place, 'hangs = { calls = ["destroy"] }', 'crash = { at = "after-create" }')
    one.send(oned_requests.terminate(7, old))
    until(partial(place.hits, "hangs"))
    one.send(oned_requests.deploy(8))
    assert_crashed(one)
    assert len(alive(place)) == 2
    set_faults(place, 'crash = { at = "after-create" }')
    two = start()
    answers = sorted(two.next_line() for _ in range(2))
    [new] = alive(place)
    assert answers == [f"DEPLOY SUCCESS 8 {new}", "SHUTDOWN SUCCESS 7 -"]
    assert len(in_cloud(place)) == 2


def test_request_replaced_by_a_newer_one_is_not_answered_after_a_second_crash(start: StartDriver, place: Place) -> None:
    set_faults(place, 'crash = { at = "before-create", times = 2 }', more="latency = 0.15\n")
    one = start()
    one.send(oned_requests.deploy(7))
    assert_crashed(one)
    two = start()
    until(lambda: "request taken over" in place.log())
    two.send(oned_requests.deploy(7))
    assert_crashed(two)
    assert replies(two.lines) == []
    three = start()
    deploy_id = three.reply("DEPLOY", 7).removeprefix("SUCCESS ")
    assert alive(place) == [deploy_id]
    assert three.finalize() == 0
    assert replies(three.rest()) == []


# All faults at once


ALL_FAULTS = (
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
TWO_TYPES = Template(
    values={
        "CPU": ("1",),
        "MEMORY": ("256",),
        "PUBLIC_CLOUD": ({"TYPE": "simulated", "PROVIDER_INSTANCE_TYPE": "medium_1gb, small_256mb"},),
    }
)


def test_after_many_faults_every_request_was_answered_once_and_every_vm_has_one_instance(
    start: StartDriver, place: Place
) -> None:
    vm_ids = range(30)
    set_faults(place, *ALL_FAULTS, more="listing_lag = 0.1\n", head="call_timeout = 0.1\n")
    one = start("-t 30 -r 1 -w 0.8 simulated")
    deploys = [oned_requests.deploy(vm_id, template=TWO_TYPES) for vm_id in vm_ids]
    replied = deploy_ids(ask_all(one, deploys))
    requests = [make(vm_id, replied[vm_id]) for vm_id in replied for make in (oned_requests.poll, oned_requests.reboot)]
    random.Random(1).shuffle(requests)
    assert not [line for line in ask_all(one, requests) if "does not exist" in line]
    faults = ("transient", "permanent", "lost_answers", "hangs", "broken_listings")

    def has_hit_all() -> bool:
        if all(place.hits(fault) for fault in faults):
            return True
        for vm_id, deploy_id in deploy_ids(ask_all(one, deploys)).items():
            assert replied.setdefault(vm_id, deploy_id) == deploy_id
        return False

    until(has_hit_all)

    set_faults(place)
    final: dict[int, str] = {}

    def all_deployed() -> bool:
        """Ask until each deploy was quick enough for `-w`."""
        final.update(deploy_ids(ask_all(one, deploys)))
        return len(final) == len(vm_ids)

    until(all_deployed)
    assert {vm_id: final[vm_id] for vm_id in replied} == replied, "a repeated DEPLOY replies the same id"
    assert sorted(instance.deploy_id for instance in in_cloud(place)) == sorted(final.values()), (
        "every instance belongs to a VM"
    )

    set_faults(place, *ALL_FAULTS, head="call_timeout = 0.1\n")
    cleanups = [oned_requests.cleanup(vm_id, deploy_id) for vm_id, deploy_id in final.items()]
    lines = ask_all(one, cleanups)
    left = set(alive(place))
    assert not [line for line in lines if " SUCCESS " in line and final[int(line.split(" ")[2])] in left]
    set_faults(place)
    until(lambda: results(ask_all(one, cleanups)) == ["SUCCESS"] * len(vm_ids))
    assert alive(place) == []
    assert one.finalize() == 0
    assert replies(one.rest()) == [], "every request was answered once"


def deploy_ids(lines: Iterable[str]) -> dict[int, str]:
    """The deploy ids of the successful replies, by VM."""
    words = (line.split(" ") for line in lines if " SUCCESS " in line)
    return dict(sorted((int(vm_id), deploy_id) for _, _, vm_id, deploy_id in words))
