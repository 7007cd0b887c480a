"""Every action that a release sends: its one reply, and the state of the cloud afterwards."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from one_provider_mad.domain import Template
from one_provider_mad.providers.simulated.cloud import Cloud, Launch
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import ROOT, Driver, Place, aside
from tests.oned_lines import ACTIONS, RELEASES, STIME, Release
from tests.waiting import until

AT_ONCE = {"boot_time": 0, "stop_time": 0, "suspend_time": 0, "destroy_time": 0}
"""Settings of a simulated cloud that completes every call at once."""

_numbers = itertools.count(1000)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """One driver for all tests that do not change its settings; each test uses a VM of its own."""
    place = Place(tmp_path_factory.mktemp("served"))
    place.simulate(**AT_ONCE)
    with Driver(place) as driver:
        yield driver
        assert "unexpected" not in place.log()


@pytest.fixture
def vm_id() -> int:
    """The number of a VM that no other test uses."""
    return next(_numbers)


def state_of(driver: Driver, vm_id: int) -> str:
    """The states of this VM's instances in the cloud, without terminated ones."""
    return " ".join(entry["state"] for entry in driver.place.instances() if entry["vm_id"] == vm_id)


def only_line_after(driver: Driver, line: bytes) -> str:
    """The one line that the driver writes for a request; fails if it writes more."""
    driver.send(line)
    found = driver.next_line()
    assert driver.is_quiet()
    return found


# Every action of every release


class Case(NamedTuple):
    """An action on a running instance.

    Attributes:
        action: its word.
        reply: pattern of its reply, from SUCCESS or FAILURE on.
        before: requests that come before it: action, LCM_STATE, operand.
        operand: attributes of the disk, NIC or snapshot that it is about.
    """

    action: str
    reply: str
    before: tuple[tuple[str, str, Mapping[str, str]], ...] = ()
    operand: Mapping[str, str] = {}


DISK = {"DISK_ID": "0"}
SNAPSHOT_TAKEN = (("SNAPSHOTCREATE", "", {"SNAPSHOT_ID": "3"}),)
SNAPSHOT = {"SNAPSHOT_ID": "3", "HYPERVISOR_ID": "snap-3"}
NO_MIGRATION = "FAILURE migration is not supported: use onevm undeploy and deploy, within one cloud"
POLL_REPLY = r"SUCCESS STATE=a (USED)?CPU=[\d.]+ (USED)?MEMORY=\d+ NETRX=\d+ NETTX=\d+ SIM_INSTANCE_TYPE=.*"

CASES = [
    Case("DEPLOY", "SUCCESS sim-[0-9a-f]+"),
    Case("SHUTDOWN", "SUCCESS -"),
    Case("CANCEL", "SUCCESS -"),
    Case("SAVE", "SUCCESS -"),
    Case("RESTORE", "SUCCESS -", before=(("SAVE", "SAVE_SUSPEND", {}),)),
    Case("MIGRATE", NO_MIGRATION),
    Case("REBOOT", "SUCCESS -"),
    Case("RESET", "SUCCESS -"),
    Case("POLL", POLL_REPLY),
    Case("CLEANUP", "SUCCESS -"),
    Case("ATTACHDISK", "SUCCESS -", operand={"DISK_ID": "1", "SIZE": "1024", "TARGET": "vdb"}),
    Case("DETACHDISK", "SUCCESS -", operand=DISK),
    Case("ATTACHNIC", "SUCCESS -", operand={"NIC_ID": "0", "NETWORK": "cloud", "MAC": "02:00:0a:00:00:05"}),
    Case("DETACHNIC", "SUCCESS -", operand={"NIC_ID": "0"}),
    Case("SNAPSHOTCREATE", "SUCCESS snap-3", operand={"SNAPSHOT_ID": "3"}),
    Case("SNAPSHOTREVERT", "SUCCESS -", before=SNAPSHOT_TAKEN, operand=SNAPSHOT),
    Case("SNAPSHOTDELETE", "SUCCESS -", before=SNAPSHOT_TAKEN, operand=SNAPSHOT),
    Case("DISKSNAPSHOTCREATE", "SUCCESS -", operand=DISK),
    Case("DISKSNAPSHOTREVERT", "SUCCESS -", before=(("DISKSNAPSHOTCREATE", "", DISK),), operand=DISK),
    Case("RESIZE", "SUCCESS -", operand={"CPU": "2", "VCPU": "2", "MEMORY": "2048"}),
    Case("RESIZEDISK", "SUCCESS -", operand={"DISK_ID": "0", "SIZE": "20480"}),
    Case("UPDATECONF", "SUCCESS -", operand={"SSH_PUBLIC_KEY": "ssh-rsa AAAA"}),
    Case("UPDATESG", "SUCCESS 101", operand={"SECURITY_GROUP_ID": "101"}),
    Case("UPDATENIC", "SUCCESS 7", operand={"VIRTUAL_NETWORK_ID": "7"}),
    Case("BACKUP", "FAILURE provider simulated does not support backups"),
    Case("BACKUPCANCEL", "FAILURE provider simulated does not support backups"),
    Case("EXEC", "FAILURE provider simulated does not support commands inside the VM", operand={"COMMAND": "date"}),
    Case("EXEC_CANCEL", "FAILURE provider simulated does not support commands inside the VM"),
]
ONLY_4_14: tuple[Release, ...] = ("5.10",)
"""DISKSNAPSHOTREVERT was sent by 4.14 alone, whose lines have one blank."""


def test_every_action_of_the_protocol_has_a_case() -> None:
    assert {case.action for case in CASES} == set(ACTIONS) - {"DRIVER_CANCEL"}


@pytest.mark.parametrize(
    ("case", "release"),
    [
        pytest.param(case, release, id=f"{case.action}-{release}")
        for case in CASES
        for release in ACTIONS[case.action].releases or ONLY_4_14
    ],
)
def test_every_action_gets_exactly_one_reply_in_the_form_of_its_release(
    served: Driver, vm_id: int, case: Case, release: Release
) -> None:
    template = Template(values={**oned_requests.asking_for("medium_1gb").values, "DISK": ({"SIZE": "10240"},)})
    deploy_id = ""
    if case.action != "DEPLOY":
        deploy_id = served.created(oned_requests.deploy(vm_id, release=release, template=template))
    for action, lcm_state, operand in case.before:
        line = oned_requests.line(action, vm_id, lcm_state, release=release, deploy_id=deploy_id, operand=operand)
        assert served.ask(line).startswith("SUCCESS ")
    line = oned_requests.line(
        case.action, vm_id, release=release, deploy_id=deploy_id, operand=case.operand, template=template
    )
    served.send(line)
    if release == "5.10" and case.action in ("DEPLOY", "RESTORE", "SAVE"):
        # A POLL reply tells the attributes that an instance has from now on (actions/unrequested_poll.py).
        assert re.fullmatch(rf"POLL SUCCESS {vm_id} STATE=- .+", served.next_line())
    found = served.next_line()
    assert served.is_quiet()
    assert re.fullmatch(f"{case.action} (SUCCESS|FAILURE) {vm_id} .+", found)
    assert re.fullmatch(case.reply, found.replace(f" {vm_id} ", " ").removeprefix(f"{case.action} "))


class Step(NamedTuple):
    """One action of a VM, and the state of its instance afterwards."""

    action: str
    lcm_state: str
    seq: int
    state: str


LIFE = [
    Step("DEPLOY", "BOOT", 0, "running"),
    Step("SHUTDOWN", "SHUTDOWN_POWEROFF", 0, "stopped"),
    Step("DEPLOY", "BOOT_POWEROFF", 1, "running"),
    Step("REBOOT", "RUNNING", 1, "running"),
    Step("SAVE", "SAVE_SUSPEND", 1, "suspended"),
    Step("RESTORE", "BOOT_SUSPENDED", 2, "running"),
    Step("SAVE", "SAVE_STOP", 2, "stopped"),
    Step("RESTORE", "BOOT_STOPPED", 3, "running"),
    Step("SHUTDOWN", "SHUTDOWN_UNDEPLOY", 3, "stopped"),
    Step("DEPLOY", "BOOT_UNDEPLOY", 4, "running"),
    Step("CANCEL", "SHUTDOWN_POWEROFF", 4, "stopped"),
    Step("DEPLOY", "BOOT_UNKNOWN", 5, "running"),
    Step("CANCEL", "SHUTDOWN_UNDEPLOY", 5, "stopped"),
    Step("DEPLOY", "BOOT_POWEROFF", 6, "running"),
    Step("RESET", "RUNNING", 6, "running"),
    Step("SHUTDOWN", "SHUTDOWN", 6, ""),
]


@pytest.mark.parametrize("release", RELEASES)
def test_vm_keeps_one_instance_and_one_deploy_id_through_its_whole_life(
    served: Driver, vm_id: int, release: Release
) -> None:
    deploy_id = ""
    for step in LIFE:
        line = oned_requests.line(
            step.action, vm_id, step.lcm_state, release=release, deploy_id=deploy_id, seq=step.seq
        )
        result, payload = served.ask(line).split(" ", 1)
        assert result == "SUCCESS", (step, payload)
        if step.action == "DEPLOY":
            deploy_id = deploy_id or payload
        assert payload == (deploy_id if step.action == "DEPLOY" else "-"), step
        assert state_of(served, vm_id) == step.state, step
    everything = [entry["deploy_id"] for entry in served.place.instances(is_all=True) if entry["vm_id"] == vm_id]
    assert everything == [deploy_id], "the VM never had another instance"


def test_one_provider_instances_shows_the_instance_that_the_driver_created(driver: StartDriver, place: Place) -> None:
    deploy_id = driver().created(oned_requests.deploy(7))
    command = [str(ROOT / "bin" / "one-provider"), "instances", "simulated", "--json"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "ONE_LOCATION": str(place.root)}, capture_output=True)
    assert done.stderr == b""
    [entry] = json.loads(done.stdout)
    assert (entry["vm_id"], entry["deploy_id"], entry["state"]) == (7, deploy_id, "running")
    assert [entry] == place.instances()


# Meaning of an action in its LCM_STATE


@pytest.mark.parametrize(
    ("action", "lcm_state", "release", "state"),
    [
        pytest.param("SHUTDOWN", "SHUTDOWN", "7.4", "", id="terminate"),
        pytest.param("SHUTDOWN", "SHUTDOWN_POWEROFF", "7.4", "stopped", id="poweroff"),
        pytest.param("SHUTDOWN", "SHUTDOWN_UNDEPLOY", "7.4", "stopped", id="undeploy"),
        pytest.param("CANCEL", "SHUTDOWN", "7.4", "", id="terminate-hard"),
        pytest.param("CANCEL", "CANCEL", "4.4", "", id="terminate-hard-in-4.4"),
        pytest.param("CANCEL", "SHUTDOWN_POWEROFF", "7.4", "stopped", id="poweroff-hard"),
        pytest.param("CANCEL", "SHUTDOWN_UNDEPLOY", "7.4", "stopped", id="undeploy-hard"),
        pytest.param("SAVE", "SAVE_SUSPEND", "7.4", "suspended", id="suspend"),
        pytest.param("SAVE", "SAVE_STOP", "7.4", "stopped", id="stop"),
    ],
)
def test_lcm_state_decides_whether_an_action_stops_suspends_or_terminates(
    served: Driver, vm_id: int, action: str, lcm_state: str, release: Release, state: str
) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id, release=release))
    line = oned_requests.line(action, vm_id, lcm_state, release=release, deploy_id=deploy_id)
    assert served.ask(line) == "SUCCESS -"
    assert state_of(served, vm_id) == state
    assert served.ask(line) == "SUCCESS -", "a repeated request succeeds"
    assert state_of(served, vm_id) == state


@pytest.mark.parametrize(
    ("action", "lcm_state", "sentence"),
    [
        ("SHUTDOWN", "RUNNING", "SHUTDOWN has no meaning in LCM_STATE 3 (RUNNING), nothing was done"),
        ("CANCEL", "BOOT", "CANCEL has no meaning in LCM_STATE 2 (BOOT), nothing was done"),
        ("SAVE", "SHUTDOWN", "SAVE has no meaning in LCM_STATE 12 (SHUTDOWN), nothing was done"),
        ("RESTORE", "BOOT", "RESTORE has no meaning in LCM_STATE 2 (BOOT), nothing was done"),
        ("DEPLOY", "RUNNING", "DEPLOY has no meaning in LCM_STATE 3 (RUNNING), nothing was done"),
        ("SHUTDOWN", "SAVE_MIGRATE", NO_MIGRATION.removeprefix("FAILURE ")),
        ("CANCEL", "SAVE_MIGRATE", NO_MIGRATION.removeprefix("FAILURE ")),
        ("SAVE", "SAVE_MIGRATE", NO_MIGRATION.removeprefix("FAILURE ")),
    ],
)
def test_action_in_an_lcm_state_without_meaning_fails_and_changes_nothing(
    served: Driver, vm_id: int, action: str, lcm_state: str, sentence: str
) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id))
    assert served.ask(oned_requests.line(action, vm_id, lcm_state, deploy_id=deploy_id)) == f"FAILURE {sentence}"
    assert state_of(served, vm_id) == "running"


def test_shutdown_in_an_unknown_lcm_state_fails_and_changes_nothing(served: Driver, vm_id: int) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id))
    line = oned_requests.line("SHUTDOWN", vm_id, deploy_id=deploy_id, lcm_state=99)
    assert served.ask(line) == "FAILURE SHUTDOWN has no meaning in LCM_STATE 99 (unknown), nothing was done"
    assert state_of(served, vm_id) == "running"


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("lcm_state", ["BOOT_POWEROFF", "BOOT_UNDEPLOY", "BOOT_UNKNOWN"])
def test_deploy_of_a_stopped_vm_starts_its_instance_and_replies_the_same_id(
    served: Driver, vm_id: int, lcm_state: str, release: Release
) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id, release=release))
    assert served.ask(oned_requests.power_off(vm_id, deploy_id, release=release)) == "SUCCESS -"
    line = oned_requests.line("DEPLOY", vm_id, lcm_state, release=release, deploy_id=deploy_id, seq=1)
    assert b"<DEPLOY_ID/>" in oned_requests.document(line), "oned leaves the top-level DEPLOY_ID empty"
    assert served.ask(line) == f"SUCCESS {deploy_id}"
    assert served.ask(line) == f"SUCCESS {deploy_id}"
    assert state_of(served, vm_id) == "running"


@pytest.mark.parametrize("deploy_id", ["", "-", "one-1"], ids=["empty", "dash", "placeholder"])
def test_resume_without_an_existing_instance_fails_and_creates_nothing(
    served: Driver, vm_id: int, deploy_id: str
) -> None:
    assert served.ask(oned_requests.resume(vm_id, deploy_id)) == f"FAILURE VM {vm_id} has no instance"
    reply = served.ask(oned_requests.resume(vm_id, "sim-0123456789ab"))
    assert reply == f"FAILURE instance sim-0123456789ab of VM {vm_id} does not exist"
    assert state_of(served, vm_id) == ""


def test_resume_finds_the_instance_by_tags_if_oned_sends_a_placeholder_id(served: Driver, vm_id: int) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id))
    assert served.ask(oned_requests.power_off(vm_id, deploy_id)) == "SUCCESS -"
    assert served.ask(oned_requests.resume(vm_id, f"one-{vm_id}")) == f"SUCCESS {deploy_id}"


def test_resume_of_a_terminated_instance_fails(served: Driver, vm_id: int) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id))
    assert served.ask(oned_requests.terminate(vm_id, deploy_id)) == "SUCCESS -"
    reply = served.ask(oned_requests.resume(vm_id, deploy_id))
    assert reply.startswith(
        f"FAILURE instance {deploy_id} is terminated for good: onevm recover --recreate makes a new"
    )


def test_deploy_without_lcm_state_creates_only_if_it_has_no_deploy_id(served: Driver, vm_id: int) -> None:
    deploy_id = served.created(oned_requests.without("LCM_STATE", "DEPLOY", vm_id))
    assert state_of(served, vm_id) == "running"
    sentence = "FAILURE the request has no LCM_STATE, and without it DEPLOY has no certain meaning"
    assert served.ask(oned_requests.without("LCM_STATE", "DEPLOY", vm_id, deploy_id=deploy_id)) == sentence


@pytest.mark.parametrize("action", ["SHUTDOWN", "CANCEL", "SAVE", "RESTORE"])
def test_actions_other_than_deploy_fail_without_an_lcm_state_and_change_nothing(
    served: Driver, vm_id: int, action: str
) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id))
    reply = served.ask(oned_requests.without("LCM_STATE", action, vm_id, deploy_id=deploy_id))
    assert reply == f"FAILURE the request has no LCM_STATE, and without it {action} has no certain meaning"
    assert state_of(served, vm_id) == "running"


@pytest.mark.parametrize("lcm_state", ["CLEANUP_RESUBMIT", "CLEANUP_DELETE", "LCM_INIT"])
@pytest.mark.parametrize("has_deploy_id", [True, False], ids=["deploy-id", "no-deploy-id"])
def test_cleanup_terminates_the_instance_with_or_without_its_deploy_id(
    served: Driver, vm_id: int, lcm_state: str, *, has_deploy_id: bool
) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id))
    line = oned_requests.line("CLEANUP", vm_id, lcm_state, deploy_id=deploy_id if has_deploy_id else "")
    assert served.ask(line) == "SUCCESS -"
    assert state_of(served, vm_id) == ""
    assert served.ask(line) == "SUCCESS -", "a repeated CLEANUP succeeds"


def test_cleanup_of_a_vm_without_an_instance_succeeds(served: Driver, vm_id: int) -> None:
    assert served.ask(oned_requests.cleanup(vm_id)) == "SUCCESS -"


def test_recreated_vm_gets_a_new_instance_and_the_old_one_is_terminated(served: Driver, vm_id: int) -> None:
    old = served.created(oned_requests.deploy(vm_id))
    new = served.created(oned_requests.deploy(vm_id, deploy_id=old, seq=1))
    assert new != old

    def left() -> list[str]:
        return [entry["deploy_id"] for entry in served.place.instances() if entry["vm_id"] == vm_id]

    until(lambda: left() == [new])


def test_repeated_deploy_replies_the_same_instance(served: Driver, vm_id: int) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id))
    assert served.ask(oned_requests.deploy(vm_id)) == f"SUCCESS {deploy_id}"
    assert served.ask(oned_requests.line("DEPLOY", vm_id, "BOOT_FAILURE")) == f"SUCCESS {deploy_id}"
    assert state_of(served, vm_id) == "running"


# Instances of other VMs and owners


class Victim(NamedTuple):
    """An instance that belongs to another VM than the one whose requests name it."""

    deploy_id: str
    requesting_vm: int
    stime: int


OWNERS = ["another-vm", "earlier-vm-of-that-number", "another-owner", "untagged"]


def launch_in_the_console(place: Place) -> str:
    """An untagged instance, as a person launches it in the cloud's console."""

    async def launch() -> str:
        cloud = Cloud(place.var / "simulated.db", SimulatedSettings(boot_time=0), clock=time.time)
        await cloud.open()
        try:
            return await cloud.launch(Launch(type="small_256mb", image="x"), tags={})
        finally:
            await cloud.close()

    return aside(lambda: asyncio.run(launch()))


@pytest.fixture(scope="module")
def victims(served: Driver) -> Mapping[str, Victim]:
    """A running instance of each of OWNERS."""
    place, (one, two, three) = served.place, (next(_numbers) for _ in range(3))
    database = place.var / "simulated.db"
    text = f'provider = "simulated"\nowner = "another-owner"\n[simulated]\ndatabase = "{database}"\nboot_time = 0\n'
    place.configure(text, name="other")
    with Driver(place, "-t 15 -r 0 other") as other:
        foreign = other.created(oned_requests.deploy(three))
    found = [
        Victim(served.created(oned_requests.deploy(one)), next(_numbers), STIME),
        Victim(served.created(oned_requests.deploy(two)), two, STIME + 1),
        Victim(foreign, three, STIME),
        Victim(launch_in_the_console(place), next(_numbers), STIME),
    ]
    return dict(zip(OWNERS, found, strict=True))


def rows(place: Place, deploy_id: str) -> list[Any]:
    """All columns of an instance in the cloud's database."""
    with closing(sqlite3.connect(place.var / "simulated.db")) as db:
        return db.execute("SELECT * FROM instance WHERE id = ?", (deploy_id,)).fetchall()


ACTIONS_ON_AN_INSTANCE: list[tuple[str, str, Mapping[str, str]]] = [
    ("SHUTDOWN", "SHUTDOWN", {}),
    ("SHUTDOWN", "SHUTDOWN_POWEROFF", {}),
    ("SHUTDOWN", "SHUTDOWN_UNDEPLOY", {}),
    ("CANCEL", "SHUTDOWN", {}),
    ("CANCEL", "SHUTDOWN_POWEROFF", {}),
    ("CANCEL", "SHUTDOWN_UNDEPLOY", {}),
    ("SAVE", "SAVE_SUSPEND", {}),
    ("SAVE", "SAVE_STOP", {}),
    ("CLEANUP", "CLEANUP_DELETE", {}),
    ("CLEANUP", "LCM_INIT", {}),
    ("DEPLOY", "BOOT", {}),
    ("DEPLOY", "BOOT_POWEROFF", {}),
    ("RESTORE", "BOOT_SUSPENDED", {}),
    ("RESET", "RUNNING", {}),
    ("ATTACHDISK", "", {"SIZE": "1"}),
    ("DETACHDISK", "", {"DISK_ID": "0"}),
    ("ATTACHNIC", "", {}),
    ("DETACHNIC", "", {}),
    ("SNAPSHOTCREATE", "", {}),
    ("SNAPSHOTREVERT", "", {"SNAPSHOT_ID": "0", "HYPERVISOR_ID": "snap-0"}),
    ("SNAPSHOTDELETE", "", {"SNAPSHOT_ID": "0", "HYPERVISOR_ID": "snap-0"}),
    ("DISKSNAPSHOTCREATE", "", {"DISK_ID": "0"}),
    ("RESIZE", "", {"MEMORY": "512"}),
    ("RESIZEDISK", "", {"DISK_ID": "0", "SIZE": "2"}),
    ("UPDATECONF", "", {"KEY": "value"}),
    ("UPDATESG", "", {"SECURITY_GROUP_ID": "1"}),
    ("UPDATENIC", "", {"VIRTUAL_NETWORK_ID": "1"}),
]


@pytest.mark.parametrize("owner", OWNERS)
def test_no_action_changes_an_instance_of_another_vm_or_owner(
    served: Driver, victims: Mapping[str, Victim], owner: str
) -> None:
    victim = victims[owner]
    before = rows(served.place, victim.deploy_id)
    for action, lcm_state, operand in ACTIONS_ON_AN_INSTANCE:
        line = oned_requests.line(
            action, victim.requesting_vm, lcm_state, deploy_id=victim.deploy_id, stime=victim.stime, operand=operand
        )
        reply = served.ask(line)
        assert reply.startswith("FAILURE "), (action, lcm_state)
        assert f"instance {victim.deploy_id} " in reply, (action, lcm_state)
        assert rows(served.place, victim.deploy_id) == before, (action, lcm_state)
    assert not [entry for entry in served.place.instances() if entry["debt"]], "nor is a termination pending"


@pytest.mark.parametrize("owner", OWNERS[:3])
def test_poll_of_an_instance_of_another_vm_or_owner_reports_no_state(
    served: Driver, victims: Mapping[str, Victim], owner: str
) -> None:
    victim = victims[owner]
    reply = served.ask(oned_requests.poll(victim.requesting_vm, victim.deploy_id, stime=victim.stime))
    assert reply == (f"FAILURE instance {victim.deploy_id} is not VM {victim.requesting_vm}'s, so no state is reported")


@pytest.mark.parametrize("is_allowed", [True, False], ids=["allowed", "refused"])
def test_deploy_imports_an_untagged_instance_only_if_allow_import_is_set(
    driver: StartDriver, place: Place, *, is_allowed: bool
) -> None:
    path = place.simulate(**AT_ONCE)
    path.write_text(f"{path.read_text()}\n[policy]\nallow_import = {str(is_allowed).lower()}\n")
    wild, one = launch_in_the_console(place), driver()
    reply = one.ask(oned_requests.deploy(7, deploy_id=wild))
    if is_allowed:
        assert reply == f"SUCCESS {wild}"
        assert one.ask(oned_requests.terminate(7, wild)) == "SUCCESS -"
    else:
        assert reply.startswith(f"FAILURE instance {wild} has no tags of ours")
    assert [entry["vm_id"] for entry in place.instances(is_all=True)] == [7 if is_allowed else None]


# POLL


def poll_values(reply: str) -> dict[str, str]:
    """The values of a successful POLL reply, by name."""
    result, _, payload = reply.partition(" ")
    assert result == "SUCCESS", payload
    return dict(re.findall(r'([A-Z_]+)=("[^"]*"|\S+)', payload))


def test_poll_reply_up_to_4_12_has_unquoted_values_and_usedcpu(served: Driver, vm_id: int) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id, release="4.4"))
    reply = served.ask(oned_requests.poll(vm_id, deploy_id, release="4.4"))
    words = reply.removeprefix("SUCCESS ").split(" ")
    assert all(re.fullmatch(r"[A-Z_]+=[^\s\"=]+", word) for word in words), (
        "oned ignores the whole reply if one value is malformed"
    )
    found = dict(word.split("=") for word in words)
    assert (found["STATE"], found["SIM_INSTANCE_TYPE"]) == ("a", "small_256mb")
    assert found["USEDCPU"].isdigit()
    assert found["USEDMEMORY"].isdigit()
    assert not {"CPU", "MEMORY"} & found.keys()


def test_poll_reply_from_4_14_on_has_quoted_values_and_cpu(served: Driver, vm_id: int) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id, release="5.10"))
    found = poll_values(served.ask(oned_requests.poll(vm_id, deploy_id)))
    assert (found["STATE"], found["SIM_INSTANCE_TYPE"]) == ("a", '"small_256mb"')
    assert float(found["CPU"]) >= 0
    assert 0 < int(found["MEMORY"]) <= 256 * 1024, "KiB"
    assert not {"USEDCPU", "USEDMEMORY"} & found.keys()


@pytest.mark.parametrize(
    ("action", "lcm_state", "letter"),
    [("SHUTDOWN", "SHUTDOWN_POWEROFF", "d"), ("SAVE", "SAVE_SUSPEND", "p"), ("REBOOT", "RUNNING", "a")],
)
@pytest.mark.parametrize("release", ["4.4", "5.10"])
def test_poll_reply_has_the_letter_of_the_instance_state(
    served: Driver, vm_id: int, action: str, lcm_state: str, letter: str, release: Release
) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id, release=release))
    assert served.ask(oned_requests.line(action, vm_id, lcm_state, release=release, deploy_id=deploy_id)) == "SUCCESS -"
    assert poll_values(served.ask(oned_requests.poll(vm_id, deploy_id, release=release)))["STATE"] == letter


def test_poll_of_a_terminated_or_unknown_instance_fails_with_the_reason(served: Driver, vm_id: int) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id))
    assert served.ask(oned_requests.terminate(vm_id, deploy_id)) == "SUCCESS -"
    gone = f"FAILURE instance {deploy_id} is terminated for good: onevm recover --recreate makes a new one"
    assert served.ask(oned_requests.poll(vm_id, deploy_id)) == gone
    assert served.ask(oned_requests.poll(vm_id, "sim-nowhere")) == (
        f"FAILURE instance sim-nowhere of VM {vm_id} does not exist"
    )


def test_poll_finds_the_instance_by_tags_if_oned_sends_a_placeholder_id(served: Driver, vm_id: int) -> None:
    served.created(oned_requests.deploy(vm_id))
    assert poll_values(served.ask(oned_requests.poll(vm_id, f"one-{vm_id}")))["STATE"] == "a"


def test_poll_of_a_booting_instance_replies_a_dash_as_state(driver: StartDriver, place: Place) -> None:
    place.simulate(boot_time=60)
    driver("simulated").send(oned_requests.deploy(7))
    until(place.instances)
    [entry] = place.instances()
    with Driver(place, "simulated", init=False) as by_hand:  # in the first one a POLL waits for the deploy
        assert poll_values(by_hand.ask(oned_requests.poll(7, entry["deploy_id"])))["STATE"] == "-"


# Failures


@pytest.mark.parametrize(("action", "first"), [("UPDATESG", "101"), ("UPDATENIC", "7")])
def test_updatesg_and_updatenic_reply_the_security_group_or_network_id_first(
    served: Driver, vm_id: int, action: str, first: str
) -> None:
    operand = {"UPDATESG": {"SECURITY_GROUP_ID": "101"}, "UPDATENIC": {"VIRTUAL_NETWORK_ID": "7"}}[action]
    deploy_id = served.created(oned_requests.deploy(vm_id))
    assert served.ask(oned_requests.line(action, vm_id, deploy_id=deploy_id, operand=operand)) == f"SUCCESS {first}"
    reply = served.ask(oned_requests.line(action, vm_id + 10_000, deploy_id="sim-nowhere", operand=operand))
    assert reply == f"FAILURE {first} instance sim-nowhere of VM {vm_id + 10_000} does not exist"


@pytest.mark.parametrize("release", RELEASES)
def test_failed_reboot_is_also_logged_for_the_vm_where_oned_drops_the_reply(
    served: Driver, vm_id: int, release: Release
) -> None:
    sentence = f"instance sim-nowhere of VM {vm_id} does not exist"
    line = oned_requests.reboot(vm_id, "sim-nowhere", release=release)
    if release == "7.4":
        served.send(line)
        assert served.next_line() == f"LOG E {vm_id} REBOOT: {sentence}"
        assert served.next_line() == f"REBOOT FAILURE {vm_id} {sentence}"
    else:
        assert only_line_after(served, line) == f"REBOOT FAILURE {vm_id} {sentence}"


def test_reboot_with_an_unreadable_payload_is_also_logged_for_the_vm(served: Driver, vm_id: int) -> None:
    served.send(oned_requests.with_payload("REBOOT", vm_id, b"%%%"))
    assert served.next_line().startswith(f"LOG E {vm_id} REBOOT: payload is not base64")
    assert served.next_line().startswith(f"REBOOT FAILURE {vm_id} payload is not base64")


@pytest.mark.parametrize("release", RELEASES)
def test_unknown_action_fails_and_lower_case_action_is_accepted(served: Driver, vm_id: int, release: Release) -> None:
    assert served.ask(oned_requests.unknown(vm_id, release=release)) == "FAILURE Action FROBNICATE not supported"
    assert served.ask(f"LOG {vm_id} x") == "FAILURE Action LOG not supported"
    lower = oned_requests.deploy(vm_id, release=release).replace(b"DEPLOY", b"deploy")
    served.send(lower)
    assert served.reply("DEPLOY", vm_id).startswith("SUCCESS ")


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        pytest.param(b"", "the request has no payload", id="empty"),
        pytest.param(b"%%%", "payload is not base64: ", id="not-base64"),
        pytest.param(b"PFZN", "payload is not the XML of a driver message: ", id="truncated"),
        pytest.param(b"/////w==", "payload is not UTF-8: ", id="not-utf-8"),
    ],
)
@pytest.mark.parametrize("action", ["DEPLOY", "POLL", "CLEANUP"])
def test_action_with_an_unreadable_payload_fails_with_the_reason(
    served: Driver, vm_id: int, action: str, payload: bytes, sentence: str
) -> None:
    found = only_line_after(served, oned_requests.with_payload(action, vm_id, payload))
    assert found.startswith(f"{action} FAILURE {vm_id} {sentence}")


def test_action_fails_if_payload_and_line_name_different_vms(served: Driver, vm_id: int) -> None:
    line = oned_requests.deploy(vm_id).replace(f"  {vm_id} ".encode(), f"  {vm_id + 10_000} ".encode())
    assert served.ask(line) == f"FAILURE the message is about VM {vm_id}, the line about VM {vm_id + 10_000}"


@pytest.mark.parametrize(
    "line", [b"DEPLOY", b"DEPLOY x29 abc", b"DEPLOY  -1 abc", b"DEPLOY 2147483648 abc", b"\xff\x00 \xfe", b"", b"   "]
)
def test_line_without_a_vm_id_is_logged_and_not_answered(served: Driver, line: bytes) -> None:
    found = only_line_after(served, line)
    assert re.fullmatch(r"LOG E -1? ignored a line that is no request: .+", found)


def test_general_log_line_has_the_id_that_the_release_expects(driver: StartDriver) -> None:
    one = driver()
    one.send("DEPLOY  x29 abc")
    assert one.next_line().startswith("LOG E -1 ")
    assert one.ask(oned_requests.unknown(1, release="5.10"))
    one.send("DEPLOY x29 abc")
    assert one.next_line().startswith("LOG E - ")


def test_line_without_an_id_does_not_change_the_detected_release(driver: StartDriver) -> None:
    """6.0 and later read the id `-` as VM 0."""
    one = driver()
    assert one.ask(oned_requests.unknown(1, release="7.4"))
    for _ in range(2):
        one.send("NONSENSE")
        assert one.next_line().startswith("LOG E -1 ")


@pytest.mark.parametrize("action", ["DEPLOY", "POLL"])
def test_request_line_of_two_megabytes_is_answered_once(served: Driver, vm_id: int, action: str) -> None:
    large = Template(values={**oned_requests.asking_for().values, "CONTEXT": ({"BLOB": "x" * 1_500_000},)})
    deploy_id = served.created(oned_requests.deploy(vm_id, template=large))
    line = oned_requests.line(action, vm_id, release="5.10", deploy_id=deploy_id, template=large)
    assert len(line) > 2_000_000
    assert served.ask(line).startswith("SUCCESS ")
    assert served.is_quiet()


def test_request_line_above_16_mib_fails_and_the_next_one_is_carried_out(served: Driver, vm_id: int) -> None:
    served.send(f"DEPLOY  {vm_id} ".encode() + b"A" * (17 * 1024 * 1024))
    assert served.reply("DEPLOY", vm_id) == "FAILURE the request line is longer than 16777216 bytes"
    assert served.created(oned_requests.deploy(vm_id))


# Templates


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        pytest.param(
            oned_requests.asking_for("huge"),
            "instance type huge is not known to the simulated cloud, ",
            id="unknown-type",
        ),
        pytest.param(
            oned_requests.asking_for("", TAGS="ONE_PROVIDER_OWNER=me"),
            "TAGS of the PUBLIC_CLOUD section has the tag ONE_PROVIDER_OWNER: ",
            id="reserved-tag",
        ),
        pytest.param(
            oned_requests.asking_for("", ONE_PROVIDER_VM_ID="8"),
            "the PUBLIC_CLOUD section has the attribute ONE_PROVIDER_VM_ID: ",
            id="reserved-attribute",
        ),
    ],
)
def test_deploy_of_an_invalid_template_fails_and_creates_nothing(
    served: Driver, vm_id: int, template: Template, sentence: str
) -> None:
    assert served.ask(oned_requests.deploy(vm_id, template=template)).startswith(f"FAILURE {sentence}")
    assert state_of(served, vm_id) == ""


def test_the_attribute_clienttoken_and_unknown_attributes_are_ignored_with_a_warning(
    served: Driver, vm_id: int
) -> None:
    line = oned_requests.deploy(vm_id, template=oned_requests.asking_for("", CLIENTTOKEN="mine", COLOUR="red"))
    served.send(line)
    warnings = {served.next_line(), served.next_line()}
    assert {warning.partition(" is ")[0] for warning in warnings} == {
        f"LOG W {vm_id} PUBLIC_CLOUD attribute CLIENTTOKEN",
        f"LOG W {vm_id} PUBLIC_CLOUD attribute COLOUR",
    }
    assert served.reply("DEPLOY", vm_id).startswith("SUCCESS ")


def test_deploy_takes_the_next_instance_type_if_one_is_full_and_fails_at_the_quota(
    driver: StartDriver, place: Place
) -> None:
    path = place.simulate(max_instances=2, **AT_ONCE)
    path.write_text(f'{path.read_text()}\n[simulated.capacity]\nxlarge_16gb = 0\n[policy]\nsize_check = "off"\n')
    one = driver()
    full = "the simulated cloud has room for 0 instances of type xlarge_16gb and is full"
    assert one.ask(oned_requests.deploy(1, template=oned_requests.asking_for("xlarge_16gb"))) == f"FAILURE {full}"
    one.send(oned_requests.deploy(1, template=oned_requests.asking_for("xlarge_16gb,large_8gb")))
    assert one.next_line() == f"LOG W 1 {full}"
    deploy_id = one.reply("DEPLOY", 1).removeprefix("SUCCESS ")
    assert poll_values(one.ask(oned_requests.poll(1, deploy_id)))["SIM_INSTANCE_TYPE"] == '"large_8gb"'
    one.created(oned_requests.deploy(2))
    assert one.ask(oned_requests.deploy(3)) == (
        "FAILURE the simulated account may have 2 instances and has them, terminate one first"
    )
    assert one.ask(oned_requests.terminate(1, deploy_id)) == "SUCCESS -"
    one.created(oned_requests.deploy(3))


def test_auto_takes_the_cheapest_type_that_holds_the_vm_and_the_next_cheapest_if_that_is_full(
    driver: StartDriver, place: Place
) -> None:
    path = place.simulate(**AT_ONCE)
    dear = "\n[simulated.instance_types]\nsmall_256mb = { cpu = 1, memory = 256, price = 0.5 }\n"
    path.write_text(f"{path.read_text()}{dear}[simulated.capacity]\nsmall_512mb = 0\n")
    one, auto = driver(), oned_requests.asking_for("auto")
    one.send(oned_requests.deploy(1, template=auto))
    assert one.next_line() == "LOG W 1 the simulated cloud has room for 0 instances of type small_512mb and is full"
    deploy_id = one.reply("DEPLOY", 1).removeprefix("SUCCESS ")
    assert poll_values(one.ask(oned_requests.poll(1, deploy_id)))["SIM_INSTANCE_TYPE"] == '"medium_1gb"'


@pytest.mark.parametrize("mode", ["warn", "refuse"])
def test_a_named_type_that_is_far_larger_than_the_template_is_warned_of_or_refused(
    driver: StartDriver, place: Place, mode: str
) -> None:
    path = place.simulate(**AT_ONCE)
    path.write_text(f'{path.read_text()}\n[policy]\nsize_check = "{mode}"\n')
    sentence = (
        "instance type large_8gb has 4 cores and 8192 MiB, more than 4 times MEMORY=256 of the template, which quotas"
        " and the host's room count: set MEMORY=8192, or name a smaller type, or auto"
    )
    one = driver()
    one.send(oned_requests.deploy(1, template=oned_requests.asking_for("large_8gb")))
    if mode == "refuse":
        assert one.reply("DEPLOY", 1) == f"FAILURE {sentence} (policy.size_check)"
        assert place.instances(is_all=True) == []
    else:
        assert one.next_line() == f"LOG W 1 {sentence}"
        assert one.reply("DEPLOY", 1).startswith("SUCCESS ")


def test_a_forbidden_attribute_fails_the_deploy_and_creates_nothing(driver: StartDriver, place: Place) -> None:
    path: Path = place.simulate(**AT_ONCE)
    path.write_text(f'{path.read_text()}\n[policy]\nforbidden_attributes = ["tags"]\n')
    reply = driver().ask(oned_requests.deploy(7, template=oned_requests.asking_for("", TAGS="a=b")))
    assert reply == "FAILURE PUBLIC_CLOUD may not set TAGS here: remove it from the template"
    assert place.instances(is_all=True) == []


def test_without_section_refuse_fails_new_vms_without_a_section_of_this_cloud(
    driver: StartDriver, place: Place
) -> None:
    path: Path = place.simulate(**AT_ONCE)
    one, ordinary = driver(), Template(values={"CPU": ("1",), "MEMORY": ("256",)})
    deploy_id = one.created(oned_requests.deploy(1, template=ordinary))
    path.write_text(f'{path.read_text()}\n[policy]\nwithout_section = "refuse"\n')
    assert one.ask(oned_requests.deploy(2, template=ordinary)) == (
        'FAILURE the template has no PUBLIC_CLOUD section with TYPE="simulated": add one, or place the VM on another'
        " host (policy.without_section)"
    )
    one.created(oned_requests.deploy(3))
    assert one.ask(oned_requests.deploy(1, template=ordinary)) == f"SUCCESS {deploy_id}"
    assert {entry["vm_id"] for entry in place.instances(is_all=True)} == {1, 3}


def test_host_id_tag_is_updated_when_a_vm_starts_on_another_host(served: Driver, vm_id: int) -> None:
    deploy_id = served.created(oned_requests.deploy(vm_id, host_id=0))
    assert served.ask(oned_requests.line("SHUTDOWN", vm_id, "SHUTDOWN_UNDEPLOY", deploy_id=deploy_id)) == "SUCCESS -"
    assert served.ask(oned_requests.resume(vm_id, deploy_id, host="remote2", host_id=5)) == f"SUCCESS {deploy_id}"
    [entry] = [entry for entry in served.place.instances() if entry["vm_id"] == vm_id]
    assert (entry["host_id"], entry["seq"]) == (5, 0)
