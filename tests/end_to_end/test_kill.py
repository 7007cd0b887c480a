"""kill -9 at any point of a deploy creates no second instance and loses none (decisions 12, 13, 16 and 17).

A driver is killed when the journal or the cloud shows that a deploy has reached a certain point. The point of the kill
is then derived from copies of the journal and the cloud, as the dead process left them, and from its output; it is
printed and not asserted. Copies, because opening the files themselves would do the next process's recovery.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from enum import Enum
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from one_provider_mad.domain import Identity, Instance, Template, VmId
from one_provider_mad.journal.reader import read_debts
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.providers.simulated.cloud import Cloud
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from tests import oned_lines
from tests.end_to_end.oned import Driver, Place, replies
from tests.waiting import HANG, until

SEED = 20260101
OWNER = "kill-test"
VM = VmId(7)
VMS = (VM, VmId(8), VmId(9), VmId(10))
"""Each is deployed when the one before has reached a point, so that one kill hits each at a different point."""

TIME_SCALE = 60
"""A minute of listing lag takes a second."""

BOOTS_FOR_LONG = TIME_SCALE * HANG
"""A boot that does not end before the test goes on."""

QUICKLY = 0.0005
"""Seconds between two checks for a point that lasts milliseconds."""

# It has no instance type: the one that a new attempt takes depends on the settings.
NO_TYPE = Template(values={"CPU": ("1",), "MEMORY": ("256",)})


def deploy(vm_id: VmId = VM) -> bytes:
    return oned_lines.line("DEPLOY", vm_id, template=NO_TYPE)


def cancel(vm_id: VmId = VM) -> bytes:
    return oned_lines.line("DRIVER_CANCEL", vm_id)


def cleanup(vm_id: VmId = VM) -> bytes:
    return oned_lines.line("CLEANUP", vm_id, template=NO_TYPE)


def simulated(*, lag: float = 0, latency: float = 0.06, boot_time: float = 8, more: str = "") -> str:
    """A configuration; lag and boot time in the cloud's seconds, of which 60 pass in one."""
    grace = lag / TIME_SCALE + 0.6
    return (
        f'provider = "simulated"\nowner = "{OWNER}"\n[simulated]\ntime_scale = {TIME_SCALE}\nlisting_lag = {lag}\n'
        f"latency = {latency}\nboot_time = {boot_time}\nvisibility_grace = {grace}\nwatch_interval = 0.02\n{more}"
    )


def shutdown(vm_id: VmId, deploy_id: str) -> bytes:
    return oned_lines.line("SHUTDOWN", vm_id, template=NO_TYPE, deploy_id=deploy_id)


OTHER_SIZES = "[simulated.instance_types]\nsmall_256mb = { cpu = 4, memory = 512 }\ntiny = { cpu = 1, memory = 256 }\n"
ANOTHER_IMAGE = 'images = ["another"]\n'


def capacity_for(count: int) -> str:
    return f"max_instances = {count}\n[simulated.capacity]\nsmall_256mb = {count}\n"


class Story(NamedTuple):
    """The settings before the kill, and those of the next process."""

    before: str
    after: str


STORIES = {
    "nothing-edited": Story(simulated(), simulated()),
    "a-minute-of-lag-and-a-faster-cloud": Story(simulated(lag=60), simulated(lag=60, latency=0.02, boot_time=3)),
    "half-a-minute-of-lag-and-other-sizes": Story(simulated(lag=30), simulated(lag=30, more=OTHER_SIZES)),
    "a-minute-of-lag-and-no-capacity-for-more": Story(
        simulated(lag=60), simulated(lag=60, latency=0.1, boot_time=12, more=capacity_for(len(VMS)))
    ),
}


# The point of a kill


class Landed(Enum):
    """How far a deploy had come when the driver was killed."""

    UNREAD = "sent, not journaled"
    JOURNALED = "journaled, no attempt"
    OPEN = "attempt journaled, nothing created"
    UNRECORDED = "created, id not recorded"
    WAITING = "id recorded, not answered"
    ANSWERED = "reply written"


INSIDE = (Landed.JOURNALED, Landed.OPEN, Landed.UNRECORDED, Landed.WAITING)
"""Points after the request was journaled and before its reply was written."""

POINTS = (Landed.UNREAD, *INSIDE)
"""The points at which drivers are killed."""


def has_reached(point: Landed, journal: Path, vm_id: VmId, made: Callable[[], Collection[VmId]]) -> bool:
    """True once the deploy of a running driver has reached a point; `made` returns the VMs that have an instance."""
    if point is Landed.UNREAD:
        return True
    known = [state for state, _ in attempts(journal, vm_id)]
    if point is Landed.JOURNALED:
        return bool(known or open_actions(journal, vm_id))
    if point is Landed.UNRECORDED:
        return AttemptState.CREATED in known or (bool(known) and vm_id in made())
    return bool(known) if point is Landed.OPEN else AttemptState.CREATED in known


class Remains(NamedTuple):
    """The journal, instances and replies of one VM that a dead process left."""

    vm_id: VmId
    open_actions: Sequence[str]
    attempts: Sequence[tuple[AttemptState, Mapping[str, Any]]]
    instances: Sequence[Instance]
    written: Sequence[str]

    @property
    def landed(self) -> Landed:
        """The point that the deploy had reached."""
        if "DEPLOY" in self.written:
            return Landed.ANSWERED
        states = [state for state, _ in self.attempts]
        if AttemptState.CREATED in states:
            return Landed.WAITING
        if self.instances:
            return Landed.UNRECORDED
        if states:
            return Landed.OPEN
        return Landed.JOURNALED if self.open_actions else Landed.UNREAD

    @property
    def instance_types(self) -> set[str]:
        """The instance types of the attempts."""
        return {parameters["type"] for _, parameters in self.attempts}


def journal_of(place: Place) -> Path:
    return place.var / "one_provider_mad_simulated.journal"


def copied(path: Path, to: Path) -> Path:
    """Copy an SQLite file with its write-ahead log."""
    to.mkdir(exist_ok=True)
    for part in path.parent.glob(f"{path.name}*"):
        if not part.name.endswith("-shm"):
            shutil.copy(part, to)
    return to / path.name


def remains_of(driver: Driver) -> list[Remains]:
    """Read what a killed driver left of each VM, from copies of its files."""
    place = driver.place
    written = [line.split(" ") for line in replies(driver.rest())]
    scratch = place.root / f"remains-of-{driver.process.pid}"
    journal = copied(journal_of(place), scratch)
    cloud = copied(place.var / "simulated.db", scratch)
    made = instances(cloud) if cloud.exists() else []
    return [
        Remains(
            vm_id=vm_id,
            open_actions=open_actions(journal, vm_id),
            attempts=attempts(journal, vm_id),
            instances=[each for each in made if each.identity is not None and each.identity.vm_id == vm_id],
            written=[words[0] for words in written if words[2] == str(vm_id)],
        )
        for vm_id in VMS
    ]


def rows(journal: Path, query: str, vm_id: VmId) -> list[Any]:
    """The rows of a query about one VM in a journal; none before its tables exist."""
    if not journal.exists():
        return []
    with closing(sqlite3.connect(journal, timeout=HANG)) as db:
        is_made = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'attempts'").fetchone()
        return db.execute(query, (vm_id,)).fetchall() if is_made else []


def open_actions(journal: Path, vm_id: VmId) -> list[str]:
    """The actions of a VM's journaled and unanswered requests."""
    return [row[0] for row in rows(journal, "SELECT action FROM requests WHERE vm_id = ? ORDER BY opened_at", vm_id)]


def attempts(journal: Path, vm_id: VmId) -> list[tuple[AttemptState, Mapping[str, Any]]]:
    """State and parameters of every attempt of a VM."""
    found = rows(journal, "SELECT state, parameters FROM attempts WHERE vm_id = ?", vm_id)
    return [(AttemptState(state), json.loads(parameters)) for state, parameters in found]


def instances(path: Path) -> list[Instance]:
    """Every instance, also those that the listing lag still hides: the cloud as of ten seconds from now."""

    async def list_all() -> list[Instance]:
        cloud = Cloud(path, SimulatedSettings(), clock=lambda: time.time() + 10)
        await cloud.open()
        try:
            return list(await cloud.list_instances())
        finally:
            await cloud.close()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(list_all())


def in_cloud(place: Place) -> list[Instance]:
    return instances(place.var / "simulated.db")


def owners_of_instances(place: Place) -> set[VmId]:
    return {instance.identity.vm_id for instance in in_cloud(place) if instance.identity is not None}


def alive(place: Place) -> list[Instance]:
    return [instance for instance in in_cloud(place) if not instance.state.is_gone]


# Killing


def run_on(driver: Driver, seconds: float) -> None:
    """Let the driver run for as many seconds; fails if it ends."""
    with pytest.raises(subprocess.TimeoutExpired):
        driver.process.wait(max(0.0, seconds))


class Killer:
    """Kills drivers during deploys: one kill in five at each of POINTS.

    Args:
        root: directory in which every kill gets an OpenNebula of its own.
        name: of the story; gives the order of the points, together with the test and the seed.
        test: name for the order of the points.
    """

    def __init__(self, root: Path, name: str, test: str) -> None:
        self.name = f"{test}, {name}"
        self.story = STORIES[name]
        self.random = random.Random(f"{SEED} {self.name}")
        self.landed: Counter[Landed] = Counter()
        self._root = root
        self._count = 0
        self._points = cycle(self.random.sample(POINTS, len(POINTS)))

    def place(self) -> Place:
        """A new OpenNebula with the settings before the kill."""
        self._count += 1
        place = Place(self._root / str(self._count))
        place.configure(self.story.before)
        return place

    def kills(self, count: int) -> Iterator[tuple[Place, list[Remains]]]:
        """Kill as many drivers; yields each OpenNebula and its remains before the next kill."""
        for _ in range(count):
            place = self.place()
            remains = self._kill(place)
            self.landed.update(each.landed for each in remains)
            place.configure(self.story.after)
            yield place, remains
        print_points(f"{self.name}, seed {SEED}", self.landed, count=self._count)

    def _kill(self, place: Place) -> list[Remains]:
        with Driver(place) as driver:
            for vm_id in VMS:
                driver.send(deploy(vm_id))
                point = next(self._points) if vm_id == VMS[-1] else self.random.choice(INSIDE)
                self.wait_for(point, place, vm_id)
            driver.kill()
            return remains_of(driver)

    def wait_for(self, point: Landed, place: Place, vm_id: VmId) -> None:
        """Return when the deploy of this VM has reached a point."""
        until(partial(has_reached, point, journal_of(place), vm_id, partial(owners_of_instances, place)), pause=QUICKLY)


def amounts(few: int, many: int) -> pytest.MarkDecorator:
    """Run with a few kills, and with many in the soak."""
    return pytest.mark.parametrize(
        "count", [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.soak)]
    )


IN_SOAK_ONLY = pytest.param("nothing-edited", marks=pytest.mark.soak)
"""The story without a lag, where the one with a lag covers it."""


def print_points(name: str, landed: Counter[Landed], *, count: int) -> None:
    """Print the points of the kills; conftest.py shows them at the end of the run."""
    figures = ", ".join(f"{landed[where]} {where.value}" for where in Landed if where in landed)
    print(f"\n{name}, {count} kills: {figures}")  # noqa: T201


@contextmanager
def next_driver(place: Place) -> Iterator[Driver]:
    """The process that oned starts after the kill; fails if it writes a further reply at its end."""
    with Driver(place) as driver:
        yield driver
        assert driver.finalize() == 0
        assert replies(driver.rest()) == []


def answers(driver: Driver, action: str, vm_ids: Sequence[VmId]) -> dict[VmId, str]:
    """The infos of the replies to one action of these VMs; fails at a FAILURE and at any other reply."""
    found: dict[VmId, str] = {}
    while len(found) < len(vm_ids):
        line = driver.wait_for(lambda line: not line.startswith("LOG "))
        word, result, number, info = line.split(" ", 3)
        assert (word, result) == (action, "SUCCESS"), line
        assert int(number) in set(vm_ids) - set(found), line
        found[VmId(int(number))] = info
    return found


def assert_exactly_one_each(place: Place, deploy_ids: Mapping[VmId, str], remains: Sequence[Remains]) -> None:
    """Assert that each VM ever had one instance: the replied one, which is not terminated and fully tagged."""
    made = in_cloud(place)
    assert sorted(instance.deploy_id for instance in made) == sorted(deploy_ids.values())
    for instance in made:
        assert not instance.state.is_gone
        assert instance.identity is not None
        vm_id = instance.identity.vm_id
        assert instance.identity == Identity(owner=OWNER, vm_id=vm_id, stime=oned_lines.STIME, seq=0, host_id=0)
        assert deploy_ids[vm_id] == instance.deploy_id
        types = next(each.instance_types for each in remains if each.vm_id == vm_id)
        assert not types or types == {instance.attributes["SIM_INSTANCE_TYPE"]}


def wait_until_all_is_terminated(place: Place) -> None:
    """Return when every instance is terminated and no debt is left; fails if one is untagged."""
    until(lambda: not alive(place) and not read_debts(journal_of(place)))
    assert all(instance.identity is not None for instance in in_cloud(place))


# The request is repeated


@amounts(2, 13)
@pytest.mark.parametrize("name", STORIES)
def test_deploy_repeated_after_a_kill_yields_exactly_one_instance(tmp_path: Path, name: str, count: int) -> None:
    for place, remains in Killer(tmp_path, name, "again").kills(count):
        with next_driver(place) as driver:
            driver.write(b"".join(map(deploy, VMS)))
            deploy_ids = answers(driver, "DEPLOY", VMS)
        assert_exactly_one_each(place, deploy_ids, remains)


@amounts(1, 13)
@pytest.mark.parametrize("name", [IN_SOAK_ONLY, "a-minute-of-lag-and-a-faster-cloud"])
def test_deploy_repeated_while_the_next_process_recovers_it_is_answered_once(
    tmp_path: Path, name: str, count: int
) -> None:
    for place, remains in Killer(tmp_path, name, "again, late").kills(count):
        with next_driver(place) as driver:
            if any(each.open_actions for each in remains):
                until(partial(is_logged, place, "request taken over"))
            driver.write(b"".join(map(deploy, VMS)))
            deploy_ids = answers(driver, "DEPLOY", VMS)
        assert_exactly_one_each(place, deploy_ids, remains)


def is_logged(place: Place, words: str) -> bool:
    return words in place.log()


@amounts(1, 13)
@pytest.mark.parametrize("name", ["half-a-minute-of-lag-and-other-sizes"])
def test_deploy_whose_recovery_is_killed_too_yields_exactly_one_instance(tmp_path: Path, name: str, count: int) -> None:
    killer = Killer(tmp_path, name, "killed twice")
    for place, remains in killer.kills(count):
        with Driver(place) as driver:
            if any(each.open_actions for each in remains):
                until(partial(is_logged, place, "request taken over"))
            run_on(driver, 0.3 * killer.random.random())
            driver.kill()
        with next_driver(place) as driver:
            driver.write(b"".join(map(deploy, VMS)))
            deploy_ids = answers(driver, "DEPLOY", VMS)
        assert_exactly_one_each(place, deploy_ids, remains)


# The request is not repeated


@amounts(1, 13)
@pytest.mark.parametrize("name", ["nothing-edited", "half-a-minute-of-lag-and-other-sizes"])
def test_next_process_answers_journaled_deploys_without_a_repeated_request(
    tmp_path: Path, name: str, count: int
) -> None:
    for place, remains in Killer(tmp_path, name, "not repeated").kills(count):
        with next_driver(place) as driver:
            deploy_ids = answers(driver, "DEPLOY", [each.vm_id for each in remains if each.open_actions])
        for each in remains:
            if not each.open_actions and each.landed is Landed.ANSWERED:
                deploy_ids[each.vm_id] = each.instances[0].deploy_id
        assert_exactly_one_each(place, deploy_ids, remains)


# The VM is deleted


@amounts(1, 13)
@pytest.mark.parametrize("with_cancel", [True, False], ids=["cancel-and-cleanup", "cleanup-only"])
@pytest.mark.parametrize("name", [IN_SOAK_ONLY, "a-minute-of-lag-and-a-faster-cloud"])
def test_cleanup_after_a_kill_leaves_no_instance(tmp_path: Path, name: str, *, with_cancel: bool, count: int) -> None:
    for place, _ in Killer(tmp_path, name, f"deleted, {with_cancel}").kills(count):
        with next_driver(place) as driver:
            for vm_id in VMS:
                driver.write((cancel(vm_id) if with_cancel else b"") + cleanup(vm_id))
            answers(driver, "CLEANUP", VMS)
            wait_until_all_is_terminated(place)
        wait_until_all_is_terminated(place)


@amounts(1, 13)
@pytest.mark.parametrize("name", ["nothing-edited", "half-a-minute-of-lag-and-other-sizes"])
def test_cleanup_interrupted_by_a_kill_leaves_no_instance(tmp_path: Path, name: str, count: int) -> None:
    killer = Killer(tmp_path, name, "deletion")
    landed: Counter[str] = Counter()
    for _ in range(count):
        place = killer.place()
        remains = kill_during_deletion(place, killer)
        place.configure(killer.story.after)
        answered = {each.vm_id for each in remains if "CLEANUP" in each.written}
        journaled = {each.vm_id for each in remains if "CLEANUP" in each.open_actions}
        landed.update(answered=len(answered - journaled), journaled=len(journaled))
        landed["unread"] += len(VMS) - len(answered | journaled)
        with next_driver(place) as driver:
            for vm_id in VMS:
                if vm_id not in answered | journaled:
                    driver.write(cancel(vm_id) + cleanup(vm_id))
            answers(driver, "CLEANUP", [vm_id for vm_id in VMS if vm_id in journaled or vm_id not in answered])
            wait_until_all_is_terminated(place)
        wait_until_all_is_terminated(place)
    print(f"\n{killer.name}, seed {SEED}, the CLEANUP was {dict(landed)}")  # noqa: T201 - shown by conftest.py


@amounts(1, 13)
@pytest.mark.parametrize("name", ["half-a-minute-of-lag-and-other-sizes"])
def test_next_process_completes_a_terminate_interrupted_by_a_kill(tmp_path: Path, name: str, count: int) -> None:
    killer = Killer(tmp_path, name, "termination")
    for _ in range(count):
        place = killer.place()
        with Driver(place) as driver:
            driver.write(b"".join(map(deploy, VMS)))
            deploy_ids = answers(driver, "DEPLOY", VMS)
            until(partial(is_all_answered, place))
            lines = {vm_id: shutdown(vm_id, deploy_id) for vm_id, deploy_id in deploy_ids.items()}
            driver.write(b"".join(lines.values()))
            run_on(driver, 0.3 * killer.random.random())
            driver.kill()
            remains = remains_of(driver)
        place.configure(killer.story.after)
        open_ones = [each.vm_id for each in remains if each.open_actions]
        unread = [each.vm_id for each in remains if not each.open_actions and "SHUTDOWN" not in each.written]
        with next_driver(place) as driver:
            driver.write(b"".join(lines[vm_id] for vm_id in unread))
            answers(driver, "SHUTDOWN", open_ones + unread)
        assert not alive(place)


def is_all_answered(place: Place) -> bool:
    return not any(open_actions(journal_of(place), vm_id) for vm_id in VMS)


def kill_during_deletion(place: Place, killer: Killer) -> list[Remains]:
    """Delete the VMs one by one during their deploys, and kill the driver once the last CLEANUP is journaled."""
    last = VMS[-1]
    with Driver(place) as driver:
        driver.write(b"".join(map(deploy, VMS)))
        killer.wait_for(killer.random.choice(INSIDE), place, VMS[0])
        for vm_id in VMS:
            run_on(driver, 0.1 * killer.random.random())
            driver.write(cancel(vm_id) + cleanup(vm_id))
        until(
            lambda: "CLEANUP" in open_actions(journal_of(place), last) or b"CLEANUP SUCCESS %d " % last in driver.raw,
            pause=QUICKLY,
        )
        driver.kill()
        return remains_of(driver)


def never_ending(insert: str) -> str:
    """A script that makes the journal's driver wait for ever in these inserts."""
    return (
        "CREATE TABLE many AS SELECT a.name FROM pragma_function_list a, pragma_function_list b;"
        f"CREATE TRIGGER slow BEFORE INSERT ON {insert} BEGIN SELECT count(*) FROM many a, many b, many c; END;"
    )


AS_BEFORE = "DROP TRIGGER slow; DROP TABLE many;"


def kill_after_cancel(root: Path) -> Place:
    """Cancel a deploy while its instance boots; kill once the journal has DRIVER_CANCEL, but no debt yet."""
    place = Place(root)
    place.configure(simulated(lag=30, boot_time=BOOTS_FOR_LONG))
    with Driver(place) as driver:
        driver.send(deploy())
        until(lambda: AttemptState.CREATED in dict(attempts(journal_of(place), VM)))
        change_journal(place, never_ending("debts"))
        driver.send(cancel())
        until(lambda: open_actions(journal_of(place), VM) == ["DRIVER_CANCEL"])
        driver.kill()
        remains = remains_of(driver)[0]
        assert len(remains.instances) == 1
    assert not read_debts(journal_of(place))
    print_points("cancelled", Counter([remains.landed]), count=1)
    change_journal(place, AS_BEFORE)
    place.configure(simulated(lag=30))
    return place


def change_journal(place: Place, script: str) -> None:
    with closing(sqlite3.connect(journal_of(place), timeout=HANG)) as db:
        db.executescript(script)


def test_deploy_cancelled_before_a_kill_is_terminated_and_never_answered(tmp_path: Path) -> None:
    place = kill_after_cancel(tmp_path)
    with next_driver(place):
        wait_until_all_is_terminated(place)


def test_new_deploy_after_a_cancelled_one_keeps_the_instance_it_replied(tmp_path: Path) -> None:
    place = kill_after_cancel(tmp_path)
    with next_driver(place) as driver:
        driver.send(deploy())
        deploy_ids = answers(driver, "DEPLOY", [VM])
        until(lambda: not read_debts(journal_of(place)))
    assert [instance.deploy_id for instance in alive(place)] == [deploy_ids[VM]]


# Killed between the create and its record


def kill_between_creation_and_record(root: Path) -> tuple[Place, Remains]:
    """Kill once the instance exists; the journal cannot record its id, since that insert never ends."""
    place = Place(root)
    place.configure(simulated(lag=60))
    with Driver(place) as driver:
        other = oned_lines.line("REBOOT", VMS[1], deploy_id="sim-nowhere")
        assert driver.ask(other).startswith("FAILURE"), "its record shows that the journal exists"
        change_journal(place, never_ending(f"attempts WHEN NEW.state = '{AttemptState.CREATED.value}'"))
        driver.send(deploy())
        until(partial(in_cloud, place))
        driver.kill()
        remains = remains_of(driver)[0]
    change_journal(place, AS_BEFORE)
    assert remains.landed is Landed.UNRECORDED
    return place, remains


EDITS = {
    "no-edit": "",
    "other-sizes": OTHER_SIZES,
    "no-capacity-for-a-second": capacity_for(1),
    "another-image": ANOTHER_IMAGE,
}


@pytest.mark.parametrize("edit", EDITS)
def test_repeated_deploy_adopts_a_hidden_instance_whose_id_was_not_recorded(tmp_path: Path, edit: str) -> None:
    place, remains = kill_between_creation_and_record(tmp_path)
    place.configure(simulated(lag=60, more=EDITS[edit]))
    with next_driver(place) as driver:
        driver.send(deploy())
        deploy_ids = answers(driver, "DEPLOY", [VM])
    assert_exactly_one_each(place, deploy_ids, [remains])


@pytest.mark.parametrize("edit", ["no-edit", "another-image"])
def test_cleanup_terminates_a_hidden_instance_whose_id_was_not_recorded(tmp_path: Path, edit: str) -> None:
    place, _ = kill_between_creation_and_record(tmp_path)
    place.configure(simulated(lag=60, more=EDITS[edit]))
    with next_driver(place) as driver:
        driver.write(cancel() + cleanup())
        answers(driver, "CLEANUP", [VM])
        wait_until_all_is_terminated(place)
    wait_until_all_is_terminated(place)
