"""monitord (5.12 and later) and the real information driver over real pipes: hosts, periods, failures, restarts.

Reports of VMs are in test_monitor_vms.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import Console, configure, monitored
from tests.end_to_end.oned import Driver, Place
from tests.monitor.decoder import Line, plain, start_monitor, stop_monitor, unpacked, vectors
from tests.waiting import until
from tests.xmlrpc.partner import FrontEnd, Partner


@pytest.fixture
def console(place: Place) -> Console:
    return Console(place)


# Starting


def test_start_monitor_reports_the_host_before_its_vms(place: Place, console: Console) -> None:
    configure(place)
    console.run(vm_id=7)
    with monitored(place) as one:
        one.start()
        first, *_ = one.next_lines(1)
        assert (first.word, first.status, first.host_id) == ("SYSTEM_HOST", "SUCCESS", 3)
        assert plain(first.values, "HYPERVISOR") == "simulated"
        assert plain(first.values, "PROVIDER_ERROR") == "-"
        assert one.sync() == {7: "RUNNING"}
        words = [line.word for line in one.lines]
        assert words.index("SYSTEM_HOST") < words.index("MONITOR_HOST") < words.index("STATE_VM")
        one.message("MONITOR_VM")


def test_host_is_reported_while_the_first_listing_is_pending(place: Place) -> None:
    configure(place, monitor={"heartbeat": 0.2}, latency=3600)
    with monitored(place) as one:
        one.start()
        assert [one.next().word for _ in range(5)] == ["SYSTEM_HOST", *["MONITOR_HOST"] * 4]


def test_second_start_monitor_replaces_the_periods_of_the_first(place: Place, console: Console) -> None:
    configure(place, monitor={"state_period": 60, "vm_period": 60})
    console.run(vm_id=7)
    with monitored(place) as one:
        one.start(BEACON_HOST=600)
        one.sync(vm7="RUNNING")
        one.start(BEACON_HOST=1)
        assert one.next().word == "SYSTEM_HOST"
        one.sync(vm7="RUNNING")
        one.message("MONITOR_HOST")  # one at once, the next after the new period
        one.message("MONITOR_HOST")


def test_periods_are_read_from_start_monitor(place: Place, console: Console) -> None:
    place.configure('provider = "simulated"\nowner = "one-test"\n[simulated]\nboot_time = 0\n')
    with monitored(place) as one:
        one.start(BEACON_HOST=600, SYSTEM_HOST=600, STATE_VM=600, SYNC_STATE_VM=600, MONITOR_VM=600)
        one.message("STATE_VM")
        one.driver.silence(0.5)


def test_each_host_is_reported_with_its_own_vms(place: Place, console: Console) -> None:
    configure(place, monitor={"sync_period": 0.1})
    console.run(vm_id=7, host_id=3)
    console.run(vm_id=8, host_id=4)
    with monitored(place) as one:
        one.start(3)
        one.start(4)
        assert one.sync(3) == {7: "RUNNING"}
        assert one.sync(4) == {8: "RUNNING"}
        one.send(stop_monitor(3))
        one.message("STOP_MONITOR", 3)
        assert {line.host_id for line in one.next_lines(12)} == {4}, "host 4 is still monitored"
        one.start(5)
        assert one.sync(5) == {}


def test_information_driver_answers_an_unknown_request_and_serves_the_next_one(place: Place) -> None:
    configure(place)
    with monitored(place) as one:
        one.send(b"FROBNICATE - 3 0 \n")
        assert (one.next().status, one.lines[-1].word) == ("FAILURE", "FROBNICATE")
        one.start()
        one.sync()


def test_start_monitor_with_an_unreadable_payload_monitors_with_usual_periods(place: Place) -> None:
    """A FAILURE would put the host into ERROR, where a hook may recreate all its VMs."""
    configure(place)
    with monitored(place) as one:
        one.send(b"START_MONITOR - 3 0 !!!\n")
        answer, log = one.next(), one.next()
        assert (answer.word, answer.status) == ("START_MONITOR", "SUCCESS")
        assert (log.word, log.status) == ("LOG", "E")
        assert log.text.startswith("host 3 is monitored with the shipped periods: payload is not base64")
        assert plain(one.system(), "PROVIDER_ERROR").startswith("payload is not base64")
        assert one.sync() == {}
        one.start()
        assert plain(one.system(), "PROVIDER_ERROR") == "-"
        one.send(b"START_MONITOR - 3 0 !!!\n")
        assert one.wait(lambda line: line.word == "LOG").text.startswith("host 3 is monitored as before: payload is")
        assert plain(one.system(), "PROVIDER_ERROR").startswith("payload is not base64")
        one.sync()
        assert "FAILURE" not in {line.status for line in one.lines}


def test_stop_monitor_of_an_unmonitored_host_is_answered(place: Place) -> None:
    configure(place)
    with monitored(place) as one:
        one.send(stop_monitor(9))
        assert one.next().word == "STOP_MONITOR"


# The host


def test_host_capacity_is_read_from_the_configuration(place: Place) -> None:
    configure(place, capacity={"cpu": 8, "memory": 1024})
    with monitored(place) as one:
        one.start()
        values = one.next().values
        assert (plain(values, "TOTALCPU"), plain(values, "TOTALMEMORY")) == ("800", str(1024 * 1024))


def test_host_capacity_is_that_of_configured_instance_types_or_else_the_cloud_quota(place: Place) -> None:
    configure(place, capacity={"instance_types": {"medium_1gb": 2, "large_8gb": 3, "large_unknown": 9}})
    with monitored(place) as one:
        one.start()
        one.system(TOTALCPU="1400", TOTALMEMORY=str((2 + 24) * 1024 * 1024))
        assert "the cloud has no large_unknown" in one.log()
        configure(place, max_instances=3)
        one.system(TOTALCPU="2400", TOTALMEMORY=str(3 * 16384 * 1024))


def test_host_reports_cpu_and_memory_used_by_its_instances(place: Place, console: Console) -> None:
    configure(place, monitor={"heartbeat": 0.1}, capacity={"cpu": 2, "memory": 1024})
    console.run(vm_id=7)
    with monitored(place) as one:
        one.start()
        used = one.wait(lambda line: line.word == "MONITOR_HOST" and plain(line.values, "USEDMEMORY") != "0").values
        assert int(plain(used, "USEDMEMORY")) + int(plain(used, "FREEMEMORY")) == 1024 * 1024
        assert int(plain(used, "USEDCPU")) + int(plain(used, "FREECPU")) == 200


def test_wild_instances_are_reported_with_an_import_template_until_they_are_imported(
    place: Place, console: Console
) -> None:
    configure(place)
    with monitored(place) as one:
        one.start()
        one.sync()
        deploy_id = console.run(name="web server")
        values = one.wait(lambda line: line.word == "SYSTEM_HOST" and "VM" in line.values).values
        [wild] = vectors(values, "VM")
        assert (wild["ID"], wild["DEPLOY_ID"], wild["VM_NAME"]) == ("-1", deploy_id, "web server")
        template = unpacked(wild["IMPORT_TEMPLATE"])
        assert f'DEPLOY_ID="{deploy_id}"' in template
        assert 'MEMORY="256"' in template
        assert 'PROVIDER_INSTANCE_TYPE="small_256mb"' in template
        before = len(one.lines)
        console.tag(deploy_id, vm_id=9)
        one.change(vm9="RUNNING")
        # The first costs of the host are sent at once, so that the report may come before the VM's state.
        if not any(line.word == "SYSTEM_HOST" and "VM" not in line.values for line in one.lines[before:]):
            one.wait(lambda line: line.word == "SYSTEM_HOST" and "VM" not in line.values)


def test_wild_instances_are_not_reported_if_report_wilds_is_false(place: Place, console: Console) -> None:
    configure(place, monitor={"report_wilds": False})
    console.run()
    with monitored(place) as one:
        one.start()
        one.sync()
        assert not [line for line in one.lines if line.word == "SYSTEM_HOST" and "VM" in line.values]


# Outages and configuration errors


def test_cloud_outage_is_reported_on_the_host_and_changes_no_vm(place: Place, console: Console) -> None:
    configure(place, monitor={"heartbeat": 0.1, "sync_period": 0.1})
    deploy_id = console.run(vm_id=7)
    with monitored(place) as one:
        one.start()
        one.sync(vm7="RUNNING")
        configure(place, monitor={"heartbeat": 0.1, "sync_period": 0.1}, faults={"outage": True})
        failing = one.wait(lambda line: line.word == "SYSTEM_HOST" and plain(line.values, "PROVIDER_ERROR") != "-")
        assert "did not answer list_instances" in plain(failing.values, "PROVIDER_ERROR")
        console.stop(deploy_id)
        during = one.next_lines(8)
        assert {(line.word, line.status) for line in during} == {("MONITOR_HOST", "SUCCESS")}, "heartbeats continue"
        configure(place, monitor={"heartbeat": 0.1, "sync_period": 0.1})
        one.system(PROVIDER_ERROR="-")
        assert one.sync() == {7: "POWEROFF"}


def test_incomplete_listing_reports_no_vm_states(place: Place, console: Console) -> None:
    configure(place, faults={"broken_listings": {"times": 3}})
    console.run_many(range(4))
    with monitored(place) as one:
        one.start()
        one.wait(lambda line: line.word == "SYSTEM_HOST" and "in part" in plain(line.values, "PROVIDER_ERROR"))
        assert not [line for line in one.lines if line.word == "STATE_VM"]
        assert set(one.sync()) == {0, 1, 2, 3}


def test_host_error_after_reports_a_lasting_outage_as_host_failure(place: Place) -> None:
    monitor = {"heartbeat": 0.2, "host_error_after": 0.5}
    configure(place, monitor=monitor, faults={"outage": True})
    with monitored(place) as one:
        one.start()
        failure = one.wait(lambda line: (line.word, line.status) == ("MONITOR_HOST", "FAILURE"))
        assert "did not answer list_instances" in failure.text
        one.start()
        assert "SYSTEM_HOST" not in [line.word for line in one.next_lines(5)], "SYSTEM_HOST would end the ERROR state"
        configure(place, monitor=monitor)
        one.system(PROVIDER_ERROR="-")
        one.sync()


INVALID = {
    'provider = "unknown"\nowner = "one-test"\n': "there is no provider",
    'provider = "simulated"\nowner = "one-test"\n[monitor]\nheartbeat = "often"\n': "monitor.heartbeat: expected",
    'provider = "simulated"\nowner = "one-test"\n[capacity]\ncpu = "many"\n': "capacity.cpu: expected",
}
"""Configurations, and the beginning of the error that each gives."""


def test_configuration_error_is_reported_on_the_host_and_corrected_without_a_restart(
    place: Place, console: Console
) -> None:
    place.configure(next(iter(INVALID)))
    console.run(vm_id=7)
    with monitored(place) as one:
        one.start(STATE_VM=1)
        for text, sentence in INVALID.items():
            place.configure(text)
            one.wait(has_error(sentence))
        configure(place)
        one.sync(vm7="RUNNING")
        assert not [line for line in one.lines if line.status == "FAILURE"]


def has_error(sentence: str) -> Callable[[Line], bool]:
    """A condition that holds for a SYSTEM_HOST whose PROVIDER_ERROR has this sentence."""
    return lambda line: line.word == "SYSTEM_HOST" and sentence in plain(line.values, "PROVIDER_ERROR")


def test_no_vm_is_reported_with_credentials_of_another_account(place: Place, console: Console) -> None:
    configure(place)
    with Driver(place) as actions:
        actions.created(oned_requests.deploy(7, host_id=3))
    configure(place, region="elsewhere")
    with monitored(place) as one:
        one.start()
        failing = one.wait(lambda line: line.word == "SYSTEM_HOST" and plain(line.values, "PROVIDER_ERROR") != "-")
        assert plain(failing.values, "PROVIDER_ERROR").startswith(
            "credentials now belong to account simulated/elsewhere"
        )
        assert "STATE_VM" not in [line.word for line in one.lines], "every VM would be missing there"


def test_monitoring_continues_with_the_previous_settings_after_an_invalid_edit(place: Place, console: Console) -> None:
    configure(place, monitor={"sync_period": 0.1})
    console.run(vm_id=7)
    with monitored(place) as one:
        one.start()
        one.sync(vm7="RUNNING")
        place.configure("provider = ")
        warning = one.wait(lambda line: line.word == "LOG")
        assert "the settings from before stay in force" in warning.text
        one.sync(vm7="RUNNING")


# Death and restart


def test_killed_information_driver_resumes_its_hosts_for_the_same_monitord(place: Place, console: Console) -> None:
    configure(place)
    console.run(vm_id=7)
    with monitored(place) as first:
        first.start(3)
        first.sync(3)  # first, since it comes once
        first.start(4)
        until(lambda: len(state_file(place)["hosts"]) == 2 and state_file(place)["memory"]["vms"])
        first.driver.kill()
    with monitored(place) as second:
        wanted = {(word, host_id) for word in ("SYSTEM_HOST", "STATE_VM") for host_id in (3, 4)}
        second.wait(lambda _: {(line.word, line.host_id) for line in second.lines} >= wanted)
        assert second.lines[0].word == "SYSTEM_HOST"
        assert min(line.timestamp or 0 for line in second.lines) >= max(line.timestamp or 0 for line in first.lines)


def state_file(place: Place) -> Any:
    """The content of the state file."""
    path = place.var / "one_im_provider_simulated.state"
    return json.loads(path.read_text()) if path.exists() else {"hosts": [], "memory": {"vms": {}}}


def test_hosts_are_not_resumed_for_another_monitord(place: Place) -> None:
    configure(place)
    with monitored(place) as first:
        first.start(3)
        first.sync(3)
        until(lambda: state_file(place)["hosts"])
        first.driver.kill()
    path = place.var / "one_im_provider_simulated.state"
    state = json.loads(path.read_text())
    state["parent"]["pid"] += 1
    path.write_text(json.dumps(state))
    with monitored(place) as second:
        second.driver.silence(1.5)
        second.start(4)
        assert {line.host_id for line in second.next_lines(5)} == {4}


def test_unreadable_state_file_gives_one_warning(place: Place) -> None:
    configure(place)
    (place.var / "one_im_provider_simulated.state").write_bytes(b"{")
    with monitored(place) as one:
        one.start()
        one.sync()
        assert one.log().count("the saved monitoring state") == 1


def test_timestamps_never_go_backwards(place: Place) -> None:
    configure(place)
    ahead = int(time.time()) + 3600
    with monitored(place) as first:
        first.start()
        first.sync()
        until(lambda: state_file(place)["hosts"])
        first.driver.kill()
    path = place.var / "one_im_provider_simulated.state"
    path.write_text(json.dumps({**json.loads(path.read_text()), "timestamp": ahead}))
    with monitored(place) as second:
        second.sync()
        assert {line.timestamp for line in second.lines} == {ahead}, "as if the clock had been set back by an hour"


# The end


def test_information_driver_ends_at_once_during_a_call_when_the_pipes_close(place: Place) -> None:
    configure(place, latency=3600)
    with monitored(place) as one:
        one.start()
        assert one.driver.drop() == 0


def test_start_monitor_from_a_pipe_prints_one_round_of_reports(place: Place, console: Console) -> None:
    configure(place)
    console.run(vm_id=7)
    with monitored(place, init=False) as one:
        one.send(start_monitor(3))
        assert one.driver.finalize() == 0
        words = {line.split(" ")[0] for line in one.driver.rest()}
        assert {"START_MONITOR", "SYSTEM_HOST", "MONITOR_HOST", "STATE_VM"} <= words
    assert not (place.var / "one_im_provider_simulated.state").exists(), (
        "the state file of a driver in service is not touched"
    )


def test_no_line_is_written_between_init_and_the_first_request(place: Place) -> None:
    place.configure("provider = ")
    with monitored(place) as one:
        one.driver.silence(0.5)


# Several front-ends

FOLLOWER, LEADER = 2, 3
"""src/raft/RaftManager.h, State."""


def access_to(front_end: FrontEnd, place: Place) -> dict[str, str]:
    """Environment that names the XML-RPC endpoint and the credentials, as for OpenNebula's command line tools."""
    auth = place.root / "one_auth"
    auth.write_text("oneadmin:secret\n")
    auth.chmod(0o600)
    return {"ONE_XMLRPC": front_end.url, "ONE_AUTH": str(auth)}


def test_follower_sends_no_reports_and_resumes_as_leader(place: Place) -> None:
    """monitord of a follower would forward reports to an oned that has newer states (decision 21)."""
    configure(place)
    with Partner() as opennebula:
        # The driver gives up hosts that OpenNebula lacks when this front-end leads again.
        opennebula.hosts, opennebula.im_mad = {3: 2}, "simulated"
        (front_end,) = opennebula.front_ends
        front_end.state = LEADER
        with monitored(place, environ=access_to(front_end, place)) as one:
            one.start()
            one.sync()
            until(lambda: '"LEADER"' in one.log())  # the role is read before the change
            front_end.state = FOLLOWER
            until(lambda: '"FOLLOWER"' in one.log())
            one.start(4)
            one.send(stop_monitor(4))
            assert one.next().word == "STOP_MONITOR", "neither host 4 nor host 3 is reported"
            front_end.state = LEADER
            assert one.next().word == "SYSTEM_HOST"
            one.sync()


def test_raft_status_of_a_solo_opennebula_is_read_once(place: Place) -> None:
    configure(place)
    with Partner() as opennebula:
        (front_end,) = opennebula.front_ends
        with monitored(place, environ=access_to(front_end, place)) as one:
            one.start()
            until(lambda: '"SOLO"' in one.log())
            one.sync()
            assert front_end.calls.count("one.zone.raftstatus") == 1
