"""Two drivers share a budget: what runs never exceeds it, and nothing that fits is refused, also after kill -9."""

from __future__ import annotations

import random
import sqlite3
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from one_provider_mad.domain import InstanceState, Template
from one_provider_mad.providers.simulated.table import TRANSITIONS
from tests import oned_lines
from tests.end_to_end.killed_driver import KilledDriver
from tests.end_to_end.oned import PROGRAM, Driver, Place
from tests.waiting import HANG

SEED = 20261201
NAMES = ("one", "two")
LIMIT = 5
"""Instances that the shared budget admits."""

TINY = Template(values={"CPU": ("1",), "MEMORY": ("256",)})
"""Of the type small_256mb, which costs 0.005 USD an hour."""

BUDGETS = {
    "instances": f"max_instances = {LIMIT}",
    "hour": f"max_per_hour = {0.005 * LIMIT}",
}

CLOUD = """
provider = "simulated"
owner = "one-test"
[budget]
{budget}
share = "team"
[simulated]
database = "{database}"
account = "{name}"
latency = 0.02
boot_time = 0.05
visibility_grace = 0.5
[simulated.prices]
disk = 0
address = 0
"""


def configured(root: Path, budget: str) -> Place:
    place = Place(root)
    for name in NAMES:
        database = place.var / f"{name}.db"
        place.configure(CLOUD.format(name=name, budget=budget, database=database), name=name)
    return place


def deploy(vm_id: int) -> bytes:
    return oned_lines.line("DEPLOY", vm_id, template=TINY)


def cleanup(vm_id: int) -> bytes:
    return oned_lines.line("CLEANUP", vm_id, template=TINY)


class Clouds:
    """The true number of instances in both clouds, terminating ones included; from their files."""

    def __init__(self, place: Place) -> None:
        self._paths = [place.var / f"{name}.db" for name in NAMES]
        self.most = 0

    def count(self) -> int:
        found = sum(map(self._count, self._paths))
        self.most = max(self.most, found)
        return found

    def _count(self, path: Path) -> int:
        if not path.exists():
            return 0
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=HANG)) as db:
            try:
                rows = db.execute("SELECT transition, ends_at FROM instance").fetchall()
            except sqlite3.OperationalError:
                return 0  # its driver is creating it
        now = time.time()
        return sum(
            not (TRANSITIONS[transition][1] is InstanceState.TERMINATED and ends_at <= now)
            for transition, ends_at in rows
        )


class Run:
    """Two drivers, and what they have answered."""

    def __init__(self, place: Place) -> None:
        self.drivers = {name: KilledDriver(place, f"-t 15 -r 0 {name}", program=PROGRAM) for name in NAMES}
        self.place = place
        self.most = LIMIT
        self.clouds = Clouds(place)
        self.open: dict[tuple[str, int], str] = {}
        self.replies: list[tuple[str, str, int, str]] = []

    def send(self, name: str, vm_id: int, line: bytes) -> None:
        self.drivers[name].send(line)
        self.open[name, vm_id] = line.split(b" ")[0].decode()

    def hear(self) -> None:
        for name, driver in self.drivers.items():
            for line in driver.hear():
                self._take(name, line)
        assert self.clouds.count() <= self.most

    def _take(self, name: str, line: str) -> None:
        words = line.split(" ", 3)
        if words[0] in ("DEPLOY", "CLEANUP"):
            self.replies.append((words[0], words[1], int(words[2]), words[3]))
            if self.open.get((name, int(words[2]))) == words[0]:
                del self.open[name, int(words[2])]

    def kill(self, name: str) -> None:
        while not self.drivers[name].ready_at:  # before, the program is still starting its interpreter
            self.hear()
        for line in self.drivers[name].kill():
            self._take(name, line)

    def edit(self, name: str, text: str) -> None:
        """Edit the configuration of a running driver, atomically as an editor does."""
        path = self.place.conf / f"{name}.toml"
        new = path.with_suffix(".new")
        new.write_text(text)
        new.chmod(0o600)
        new.replace(path)

    def settle(self, seconds: float = HANG) -> bool:
        """Return True once all requests are answered, False after so many seconds."""
        deadline = time.monotonic() + seconds
        while self.open and time.monotonic() < deadline:
            self.hear()
        return not self.open


def _leave(driver: KilledDriver) -> None:
    driver.driver.leave()


@contextmanager
def running(place: Place) -> Iterator[Run]:
    with ExitStack() as stack:
        run = Run(place)
        for driver in run.drivers.values():
            stack.callback(_leave, driver)
        yield run


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())
@pytest.mark.parametrize("steps", [pytest.param(40, id="few"), pytest.param(400, id="many", marks=pytest.mark.soak)])
def test_two_names_killed_at_random_never_exceed_their_budget_and_refuse_nothing_that_fits(
    tmp_path: Path, budget: str, steps: int
) -> None:
    place = configured(tmp_path, budget)
    chance = random.Random(f"{SEED} {budget}")
    vms: list[tuple[str, int]] = []
    every: set[tuple[str, int]] = set()
    with running(place) as run:
        for step in range(steps):
            match chance.choice(("deploy", "deploy", "burst", "clean", "kill")):
                case "kill":
                    run.kill(chance.choice(NAMES))
                case "clean" if vms:
                    name, vm_id = vms.pop(chance.randrange(len(vms)))
                    run.send(name, vm_id, cleanup(vm_id))
                case "burst":
                    new = [(chance.choice(NAMES), 1000 * (step + 1) + each) for each in range(8)]
                    for name, vm_id in new:
                        run.send(name, vm_id, deploy(vm_id))
                    vms += new
                case _:
                    name = chance.choice(NAMES)
                    run.send(name, step, deploy(step))
                    vms.append((name, step))
            every.update(vms)
            run.settle(chance.choice((0.0, 0.02, 0.2)))
        run.settle(3)
        for name, vm_id in sorted(every):  # a request that a killed driver had not read is lost
            run.send(name, vm_id, cleanup(vm_id))
        assert run.settle(), run.open
        filled(run)


UNSTEADY = """
instance_types = {{ tiny = {{ cpu = 1, memory = 256, price = {price} }} }}
[simulated.prices]
disk = 0
address = 0
[simulated.faults]
lost_answers = {{ calls = ["create", "destroy"], rate = {rate} }}
"""


def unsteady(place: Place, name: str, *, price: float, rate: float) -> str:
    """The configuration of a cloud that loses answers, with one type of this price."""
    text = CLOUD.format(name=name, budget=BUDGETS["hour"], database=place.var / f"{name}.db")
    return text.partition("[simulated.prices]")[0] + UNSTEADY.format(price=price, rate=rate)


@pytest.mark.parametrize("steps", [pytest.param(18, id="few"), pytest.param(300, id="many", marks=pytest.mark.soak)])
def test_two_names_that_lose_answers_and_change_prices_never_run_more_than_the_lowest_price_admits(
    tmp_path: Path, steps: int
) -> None:
    place = configured(tmp_path, BUDGETS["hour"])
    chance = random.Random(SEED)
    every: set[tuple[str, int]] = set()
    for name in NAMES:
        place.configure(unsteady(place, name, price=0.005, rate=0.5), name=name)
    with running(place) as run:
        for step in range(steps):
            name = chance.choice(NAMES)
            match chance.choice(("deploy", "deploy", "deploy", "clean", "clean", "kill", "edit")):
                case "kill":
                    run.kill(name)
                case "edit":
                    price = chance.choice((0.005, 0.0025))
                    run.most = LIMIT if price == 0.005 and run.most == LIMIT else 2 * LIMIT
                    for each in NAMES:
                        run.edit(each, unsteady(place, each, price=price, rate=0.5))
                case "clean" if every:
                    of, vm_id = chance.choice(sorted(every))
                    run.send(of, vm_id, cleanup(vm_id))
                case _:
                    for vm_id in range(100 * step, 100 * step + 3):
                        every.add((name, vm_id))
                        run.send(name, vm_id, deploy(vm_id))
            run.settle(chance.choice((0.1, 0.3, 1.0)))
        for each in NAMES:
            run.edit(each, unsteady(place, each, price=0.005, rate=0.0))
        run.settle(3)
        for name, vm_id in sorted(every):
            run.send(name, vm_id, cleanup(vm_id))
        assert run.settle(), run.open
        assert any(event.get("fault") == "lost_answers" for name in NAMES for event in place.events(name))
        filled(run)


def filled(run: Run) -> None:
    """Check that of more creates than fit exactly as many succeed as fit, once nothing is left."""
    run.replies.clear()
    for vm_id in range(900_000, 900_000 + LIMIT + 3):
        run.send(NAMES[vm_id % 2], vm_id, deploy(vm_id))
    assert run.settle(), run.open
    results = [result for action, result, _, _ in run.replies if action == "DEPLOY"]
    assert sorted(results) == ["FAILURE"] * 3 + ["SUCCESS"] * LIMIT, run.replies
    assert run.clouds.count() == LIMIT


def test_two_hundred_deploys_at_once_do_not_overshoot_together(tmp_path: Path) -> None:
    place = configured(tmp_path, BUDGETS["hour"])
    with Driver(place, "-t 200 -r 0 one") as driver:
        for vm_id in range(200):
            driver.send(deploy(vm_id))
        replies = [driver.wait_for(lambda line: line.startswith("DEPLOY ")) for _ in range(200)]
    made = [line for line in replies if line.startswith("DEPLOY SUCCESS")]
    assert len(made) == LIMIT
    journal = place.var / "one_provider_mad_one.journal"
    with closing(sqlite3.connect(journal)) as db:  # no VM is recreated for it, and the host has room as before
        assert not db.execute("SELECT vm_id FROM recreations").fetchall()
        assert not db.execute("SELECT name FROM facts WHERE name = 'refusal'").fetchall()
    refused = next(line for line in replies if line.startswith("DEPLOY FAILURE"))
    assert refused.split(" ", 3)[3] == (
        "max_per_hour of the shared budget team is 0.0250 USD, 0.0250 USD is in use, and an instance small_256mb would"
        " add 0.0050 USD; an administrator may change budget.max_per_hour in one.toml"
    )


TWO_TYPES = Template(
    values={
        "CPU": ("1",),
        "MEMORY": ("256",),
        "PUBLIC_CLOUD": ({"TYPE": "one", "PROVIDER_INSTANCE_TYPE": "large_4gb, small_256mb"},),
    }
)


def alone(root: Path, budget: str) -> Place:
    """An OpenNebula with one NAME, `one`, and its own budget."""
    place = Place(root)
    text = CLOUD.format(name="one", budget=budget, database=place.var / "one.db")
    place.configure(text.replace('share = "team"', "") + '[policy]\nsize_check = "off"\n', name="one")
    return place


def test_an_alternative_that_would_exceed_is_skipped_for_a_cheaper_one_and_the_log_says_so(tmp_path: Path) -> None:
    place = alone(tmp_path, "max_per_hour = 0.03")
    with Driver(place, "-t 15 -r 0 one") as driver:
        driver.created(oned_lines.line("DEPLOY", 1, template=TWO_TYPES))
    with closing(sqlite3.connect(place.var / "one.db")) as db:
        assert [row[0] for row in db.execute("SELECT type FROM instance")] == ["small_256mb"]
    told = [event["text"] for event in place.events("one") if event["event"].startswith("log line")]
    assert told[-1:] == [
        (
            "a cheaper alternative was created: max_per_hour of one is 0.0300 USD, 0.0000 USD is in use, and an"
            " instance large_4gb would add 0.0600 USD; an administrator may change budget.max_per_hour in one.toml"
        )
    ]


def test_a_start_that_would_exceed_is_refused_and_the_instance_stays_stopped(tmp_path: Path) -> None:
    place = alone(tmp_path, "max_per_hour = 0.005")
    with Driver(place, "-t 15 -r 0 one") as driver:
        stopped = driver.created(deploy(1))
        off = oned_lines.line(
            "SHUTDOWN", 1, template=TINY, deploy_id=stopped, lcm_state=oned_lines.LCM_STATES["SHUTDOWN_POWEROFF"]
        )
        assert driver.ask(off).startswith("SUCCESS")
        assert driver.ask(deploy(2)).startswith("SUCCESS"), "a stopped instance costs nothing here"
        resume = oned_lines.line(
            "DEPLOY", 1, template=TINY, deploy_id=stopped, lcm_state=oned_lines.LCM_STATES["BOOT_POWEROFF"]
        )
        assert driver.ask(resume) == (
            f"FAILURE max_per_hour of one is 0.0050 USD, 0.0050 USD is in use, and starting instance {stopped}"
            " would add 0.0050 USD; an administrator may change budget.max_per_hour in one.toml"
        )


def test_resizes_and_disks_that_would_exceed_are_refused_and_what_fits_is_made(tmp_path: Path) -> None:
    place = alone(tmp_path, "max_per_hour = 0.025\nmax_disk_gb = 2")
    with Driver(place, "-t 15 -r 0 one") as driver:
        deploy_id = driver.created(deploy(1))

        def ask(action: str, **operand: str) -> str:
            return driver.ask(oned_lines.line(action, 1, template=TINY, deploy_id=deploy_id, operand=operand))

        assert ask("RESIZE", CPU="1", VCPU="1", MEMORY="1024") == "SUCCESS -"
        assert ask("RESIZE", CPU="2", VCPU="2", MEMORY="2048") == (
            f"FAILURE max_per_hour of one is 0.0250 USD, 0.0200 USD is in use, and resizing instance {deploy_id} would"
            " add 0.0200 USD; an administrator may change budget.max_per_hour in one.toml"
        )
        assert ask("ATTACHDISK", DISK_ID="1", SIZE="3072", TARGET="vdb") == (
            f"FAILURE max_disk_gb of one is 2 GiB, 0 GiB is in use, and disk 1 of instance {deploy_id} would add 3 GiB;"
            " an administrator may change budget.max_disk_gb in one.toml"
        )
        assert ask("ATTACHDISK", DISK_ID="1", SIZE="1024", TARGET="vdb") == "SUCCESS -"
        assert ask("RESIZEDISK", DISK_ID="1", SIZE="3072") == (
            f"FAILURE max_disk_gb of one is 2 GiB, 1 GiB is in use, and disk 1 of instance {deploy_id} would add 2 GiB;"
            " an administrator may change budget.max_disk_gb in one.toml"
        )
        assert ask("RESIZEDISK", DISK_ID="1", SIZE="2048") == "SUCCESS -"
    with closing(sqlite3.connect(place.var / "one.db")) as db:
        assert [row[0] for row in db.execute("SELECT type FROM instance")] == ["medium_1gb"]


def new(vm_id: int, user: str, group: str = "students") -> bytes:
    """A deploy of a VM of this user and group."""
    text = oned_lines.document("DEPLOY", vm_id, template=TINY).decode()
    names = f"<UNAME>{user}</UNAME><GNAME>{group}</GNAME>"
    owned = text.replace("<UNAME>oneadmin</UNAME><GNAME>oneadmin</GNAME>", names, 1)  # the datastore comes later
    return oned_lines.head("DEPLOY", vm_id, "7.4") + b64encode(owned.encode()) + b"\n"


def refused(driver: Driver, *lines: bytes) -> set[str]:
    """Send requests at once, whose refusals share a listing, and return the texts of their failures."""
    for each in lines:
        driver.send(each)
    replies = [driver.wait_for(lambda line: line.startswith("DEPLOY ")) for _ in lines]
    return {line.split(" ", 3)[3] for line in replies if line.startswith("DEPLOY FAILURE")}


def test_users_and_groups_have_limits_of_their_own_which_count_instances_that_only_a_listing_shows(
    tmp_path: Path,
) -> None:
    place = alone(
        tmp_path,
        "max_instances = 9\n[budget.users.ada]\nmax_instances = 1\n[budget.groups.students]\nmax_instances = 2",
    )

    of_ada = (
        "max_instances of user ada is 1, 1 exist, and an instance small_256mb would add 1; an administrator may"
        " change budget.users.ada.max_instances in one.toml"
    )
    of_students = (
        "max_instances of group students is 2, 2 exist, and an instance small_256mb would add 1; an"
        " administrator may change budget.groups.students.max_instances in one.toml"
    )
    with Driver(place, "-t 15 -r 0 one") as driver:
        driver.created(new(1, "ada"))
        driver.created(new(3, "bob"))
        assert refused(driver, new(2, "ada", "staff"), new(4, "cleo")) == {of_ada, of_students}
        driver.created(new(5, "cleo", "staff"))
    (place.var / "one_provider_mad_one.budget").unlink()
    with Driver(place, "-t 15 -r 0 one") as driver:
        assert refused(driver, new(6, "ada", "staff"), new(7, "bob")) == {of_ada, of_students}
        driver.created(new(8, "bob", "staff"))


def test_a_stop_frees_its_price_at_once_for_another_name_that_shares_the_budget(tmp_path: Path) -> None:
    place = configured(tmp_path, "max_per_hour = 0.005")
    with Driver(place, "-t 15 -r 0 one") as one, Driver(place, "-t 15 -r 0 two") as two:
        deploy_id = one.created(deploy(1))
        assert two.ask(deploy(2)).startswith("FAILURE max_per_hour of the shared budget team is")
        off = oned_lines.line(
            "SHUTDOWN", 1, template=TINY, deploy_id=deploy_id, lcm_state=oned_lines.LCM_STATES["SHUTDOWN_POWEROFF"]
        )
        assert one.ask(off).startswith("SUCCESS")
        two.created(deploy(3))


def test_a_broken_file_refuses_creates_with_one_sentence_and_stops_and_ends_go_on(tmp_path: Path) -> None:
    place = alone(tmp_path, "max_instances = 5")
    path = place.var / "one_provider_mad_one.budget"
    with Driver(place, "-t 15 -r 0 one") as driver:
        made = driver.created(deploy(1))
    path.write_bytes(b"no database" * 1000)
    with Driver(place, "-t 15 -r 0 one") as driver:
        assert driver.ask(deploy(2)) == (
            "FAILURE the file of the budget cannot be used: file is not a database: remove it, and it is made again"
            f" from the cloud and the ledger ({path})"
        )
        off = oned_lines.line(
            "SHUTDOWN", 1, template=TINY, deploy_id=made, lcm_state=oned_lines.LCM_STATES["SHUTDOWN_POWEROFF"]
        )
        assert driver.ask(off).startswith("SUCCESS")
        assert driver.ask(cleanup(1)).startswith("SUCCESS")
        path.unlink()
        assert driver.ask(deploy(2)).startswith("SUCCESS")
    assert Clouds(place).count() == 1
