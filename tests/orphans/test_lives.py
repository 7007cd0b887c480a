"""Real drivers beside an OpenNebula that ends VMs without a request, as it does with a VM in POWEROFF."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest

from one_provider_mad.cli.journal import accept_here
from one_provider_mad.journal.reader import read_fact
from one_provider_mad.journal.records import ORPHAN
from one_provider_mad.orphans.machine import MACHINE
from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import monitored
from tests.end_to_end.oned import OWNER, Driver, Place
from tests.orphans.local_oned import DONE, FOLLOWER, LEADER, POWEROFF, LocalOned, OwnVm
from tests.waiting import until

Run = Callable[..., Driver]

STIME = 1_760_000_000
"""STIME of every VM in the lines that the tests send."""


@pytest.fixture
def opennebula() -> Iterator[LocalOned]:
    with LocalOned() as opennebula:
        yield opennebula


def configure(place: Place, policy: str = "terminate-done", *, boot_time: float = 0.05, **orphans: Any) -> None:
    settings = {"policy": policy, "interval": 1, "grace": 0, **orphans}
    lines = [f"{key} = {value!r}" for key, value in settings.items()]
    cloud = ['provider = "simulated"', f'owner = "{OWNER}"', "[simulated]", f"boot_time = {boot_time}"]
    quick = [
        "stop_time = 0.05",
        "watch_interval = 0.02",
        "[monitor]",
        "state_period = 0.1",
        "sync_period = 0.1",
        "min_list_interval = 0.05",
    ]
    place.configure("\n".join([*cloud, *quick, "[orphans]", *lines, ""]))


def just_now() -> int:
    return int(time.time()) - 5


def alive(place: Place) -> set[int]:
    """The VMs that have a live instance."""
    return {entry["vm_id"] for entry in place.instances()}


def add_debts(place: Place, debts: Mapping[int, tuple[str, str, int]]) -> None:
    """Write debts to the journal: for each VM the instance, the reason, and the time."""
    columns = "vm_id, deploy_id, reason, since, owner, stime, token, seq, host_id, tries, last_error"
    with closing(sqlite3.connect(place.var / "one_provider_mad_simulated.journal")) as db:
        for number, debt in debts.items():
            db.execute(
                f"INSERT INTO debts ({columns}) VALUES (?, ?, ?, ?, ?, ?, '', 0, 0, 0, '')",
                (number, *debt, OWNER, STIME),
            )
        db.commit()


def wait_for_checks(place: Place, opennebula: LocalOned) -> None:
    """Wait until three more checks have begun: the consequences of two are complete by then."""
    asked = opennebula.count("one.vmpool.info")
    until(lambda: opennebula.count("one.vmpool.info") >= asked + 3)
    assert "unexpected" not in place.log()


def test_instances_of_silently_ended_vms_are_terminated_and_doubtful_ones_stay(
    place: Place, driver: Run, opennebula: LocalOned
) -> None:
    """VMs terminated while powered off or suspended, and one that is not DONE; VMs missing or with another STIME after
    a restored backup; a VM of another cluster; and OpenNebula is unreachable for a while."""
    configure(place)
    for number in range(7, 13):
        opennebula.own[number] = OwnVm(number, STIME, hosts=[0])
    environ = opennebula.environ(place.root)
    one = driver(environ=environ)
    with monitored(place, environ=environ) as core:
        core.start(0)
        ids = {number: one.created(oned_requests.deploy(number)) for number in opennebula.own}
        for number, deploy_id in ids.items():
            opennebula.own[number].deploy_id = deploy_id
        assert core.sync(0, vm7="RUNNING", vm12="RUNNING")
        one.ask(oned_requests.line("SAVE", 9, "SAVE_SUSPEND", deploy_id=ids[9]))
        for number in (7, 8, 10, 11, 12):
            one.ask(oned_requests.power_off(number, ids[number]))
            opennebula.own[number].state = POWEROFF
        assert core.sync(0, vm7="POWEROFF", vm8="POWEROFF")

        opennebula.own[7].end(just_now())
        opennebula.own[9].end(just_now())
        opennebula.own[10] = OwnVm(10, STIME + 1, ids[10], DONE, just_now(), [0])
        del opennebula.own[11]
        opennebula.own[12] = OwnVm(12, STIME, "i-of-another-cluster", DONE, just_now(), [0])
        until(lambda: alive(place) == {8, 10, 11, 12})
        until(lambda: {7, 9}.isdisjoint(core.sync(0)))

        opennebula.order("http-500", times=1_000_000)
        until(lambda: "orphans not looked for" in place.log())
        opennebula.own[8].end(just_now())
        opennebula.faults.clear()
        until(lambda: alive(place) == {10, 11, 12})
    one.finalize()
    said = [line for line in [*one.lines, *one.rest()] if "as an orphan" in line]
    assert len(said) == 3
    assert f"LOG W -1 instance {ids[7]} is terminated as an orphan: VM 7 (STIME {STIME}) is DONE since" in "\n".join(
        said
    )


def test_a_copied_front_end_pays_only_its_own_debts_until_the_journal_is_accepted(
    place: Place, driver: Run, opennebula: LocalOned
) -> None:
    """The original was killed during a deploy and had debts, one for a VM whose id is in use again; debts recorded by
    the copy itself are paid."""
    configure(place, boot_time=0.5)
    environ = opennebula.environ(place.root)
    opennebula.own = {number: OwnVm(number, STIME, hosts=[0]) for number in (5, 6, 7, 8)}
    one = driver(environ=environ)
    owed = {number: one.created(oned_requests.deploy(number)) for number in (5, 6, 7)}
    one.ask(oned_requests.power_off(7, owed[7]))
    until(lambda: opennebula.count("one.vmpool.info"))
    one.send(oned_requests.deploy(8))
    until(lambda: alive(place) == {5, 6, 7, 8} and place.unanswered() == ["DEPLOY"])
    one.kill()
    with closing(sqlite3.connect(place.var / "one_provider_mad_simulated.journal")) as db:
        changed = db.execute("UPDATE facts SET value = 'the original' WHERE name = 'machine'")
        assert changed.rowcount == 1
        db.execute(
            "UPDATE attempts SET state = 'open', deploy_id = '' WHERE vm_id = 8"
        )  # it was killed before it recorded the answer
        db.commit()
    later = int(time.time()) + 3600
    debts = {
        5: (owed[5], "CLEANUP failed", later),
        6: (owed[6], "CLEANUP failed", 1),
        7: (owed[7], f"{ORPHAN}done): DONE", later),
    }
    add_debts(place, debts)
    opennebula.own[7] = OwnVm(7, STIME + 1, owed[7], DONE, just_now(), [0])
    opennebula.own[8].end(just_now())
    two = driver(environ=environ)
    until(lambda: "the journal comes from another machine" in place.log())
    assert two.reply("DEPLOY", 8).startswith("SUCCESS ")
    wait_for_checks(place, opennebula)
    until(lambda: alive(place) == {6, 7, 8})
    until(lambda: '"error":"the journal comes from another machine"' in place.log())  # of VM 7
    assert alive(place) == {6, 7, 8}
    assert "instances of earlier debts are not terminated: the journal comes from another machine" in place.log()
    list(accept_here("simulated", {"ONE_LOCATION": str(place.root)}))
    until(lambda: 8 not in alive(place))
    two.finalize()
    assert "LOG W -1 instances of earlier debts are not" in "\n".join([*two.lines, *two.rest()]), "no request has come"


def test_a_follower_terminates_neither_orphans_nor_debts(place: Place, driver: Run, opennebula: LocalOned) -> None:
    """The leader handles both, and the instance of a debt may be in use by its VM again."""
    configure(place)
    front_end = opennebula.front_ends[0]
    front_end.state = LEADER
    one = driver(environ=opennebula.environ(place.root))
    deploy_id = one.created(oned_requests.deploy(7))
    one.ask(oned_requests.power_off(7, deploy_id))
    until(lambda: '"LEADER"' in place.log())
    front_end.state = FOLLOWER
    until(lambda: '"FOLLOWER"' in place.log())
    opennebula.know(place.instances()[0]).end(just_now())
    asked = len(front_end.calls)
    until(lambda: front_end.calls[asked:].count("one.vmpool.info") >= 3)
    assert [entry["debt"] for entry in place.instances()] == [False]
    front_end.state = LEADER
    until(lambda: not place.instances())

    kept = one.created(oned_requests.deploy(8))
    opennebula.know(place.instances()[0], state=POWEROFF)
    one.kill()
    add_debts(place, {8: (kept, "its deploy was cancelled", 1)})
    two = driver(environ=opennebula.environ(place.root))
    until(lambda: "debt withdrawn" in place.log())
    assert alive(place) == {8}
    two.finalize()
    assert f"LOG W -1 instance {kept} is not terminated any more: VM 8 uses it again" in [*two.lines, *two.rest()]


def test_without_credentials_one_warning_is_logged_and_actions_work(place: Place, driver: Run) -> None:
    configure(place)
    one = driver(environ={"HOME": str(place.root), "ONE_AUTH": None, "ONE_XMLRPC": None})
    deploy_id = one.created(oned_requests.deploy(7))
    until(lambda: "orphans are not looked for" in place.log())
    assert one.ask(oned_requests.power_off(7, deploy_id)) == "SUCCESS -"
    assert one.ask(oned_requests.resume(7, deploy_id)) == f"SUCCESS {deploy_id}"
    until(lambda: read_fact(place.var / "one_provider_mad_simulated.journal", MACHINE))  # a copy of it may come later
    assert one.finalize() == 0
    assert not [line for line in [*one.lines, *one.rest()] if line.startswith("LOG ")]
    (warning,) = [entry for entry in place.events() if entry["level"] == "warning"]
    assert warning["event"] == "orphans are not looked for, leadership is not checked"
    assert warning["reason"].startswith("one_auth does not exist: write user:password into ")
