"""Another release is installed under running drivers, and an earlier one meets files of a later one.

Each release has a folder of its own, as the packages keep it, and a link leads to the installed one.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from one_provider_mad.journal.schema import VERSION
from tests.conftest import StartDriver
from tests.end_to_end import oned_requests
from tests.end_to_end.information_driver import Console, Monitored, configure, monitored, states
from tests.end_to_end.oned import ROOT, Driver, Place, replies
from tests.waiting import HANG, until

VMS = range(1, 9)

THROUGH_A_LINK = """#!{python} -I
import sys
sys.path.insert(0, {link!r})
from one_provider_mad.programs import {program}
{program}()
"""


class Releases:
    """The folders of several releases, and the link to the installed one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.current = root / "current"

    def unpack(self, release: str) -> Path:
        """Make the folder of a release: this code with another version."""
        folder = self._root / release
        package = folder / "one_provider_mad"
        shutil.copytree(ROOT / "one_provider_mad", package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "bin", folder / "bin")
        (folder / ".venv").symlink_to(ROOT / ".venv")
        (package / "__init__.py").write_text(f'"""A release."""\n\n__version__ = "{release}"\n')
        return folder

    def unpack_incompatible(self, release: str) -> Path:
        """Make the folder of a release in which no module fits those of another: none can be imported."""
        folder = self.unpack(release)
        for module in folder.rglob("one_provider_mad/**/*.py"):
            module.write_text(f"raise ImportError('a module of {release}')\n")
        return folder

    def install(self, release: str) -> None:
        """Lead the link to another release, at once, as dpkg and ln -sfn with a rename do."""
        fresh = self._root / "fresh"
        fresh.symlink_to(release)
        fresh.replace(self.current)

    def program(self, name: str) -> Path:
        """The program of the installed release."""
        return self.current / "bin" / name

    def wrapper(self, name: str) -> Path:
        """A wrapper that finds the modules through the link."""
        path = self._root / f"wrapper_{name}"
        python = ROOT / ".venv" / "bin" / "python"
        path.write_text(THROUGH_A_LINK.format(python=python, link=str(self.current), program=name))
        path.chmod(0o755)
        return path


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path)


def started_releases(place: Place) -> list[str]:
    """The releases that the action drivers' log says were started, in order."""
    return [event["release"] for event in place.events() if event["event"] == "started"]


def in_flight(driver: Driver, place: Place) -> None:
    """Send a DEPLOY for each VM, and return while all of them are unanswered and in the journal."""
    for vm_id in VMS:
        driver.send(oned_requests.deploy(vm_id))
    until(lambda: len(place.unanswered()) == len(VMS))
    until(lambda: place.has_attempts(len(VMS)))


def assert_each_is_answered_once(before: Driver, after: Driver, place: Place) -> None:
    for _ in range(len(VMS) - len(replies(before.lines))):
        after.wait_for(lambda line: line.startswith("DEPLOY "))
    until(lambda: not place.unanswered())
    assert after.is_quiet()  # nothing else was written
    answers = [line.split(" ", 3) for line in [*replies(before.lines), *replies(after.lines)][:-1]]
    assert Counter((action, result, int(vm_id)) for action, result, vm_id, _ in answers) == Counter(
        ("DEPLOY", "SUCCESS", vm_id) for vm_id in VMS
    )
    assert {each["deploy_id"] for each in place.instances()} == {answer[3] for answer in answers}
    assert len(place.instances()) == len(VMS)


# Requests in flight


def upgraded_with_requests_in_flight(place: Place, driver: StartDriver, releases: Releases) -> Driver:
    """Return a driver of 0.1.0 that has requests in flight while 0.2.0 is installed."""
    for release in ("0.1.0", "0.2.0"):
        releases.unpack(release)
    releases.install("0.1.0")
    place.simulate(boot_time=1.0, latency=0.05)
    before = driver(program=releases.program("one_vmm_provider"))
    in_flight(before, place)
    releases.install("0.2.0")
    return before


@pytest.mark.parametrize("end", ["kill -9", "reload"])
def test_next_release_answers_each_request_in_flight_once(
    place: Place, driver: StartDriver, releases: Releases, end: str
) -> None:
    before = upgraded_with_requests_in_flight(place, driver, releases)
    if end == "kill -9":
        before.kill()
        before.rest()
    else:
        before.drop()  # oned closes the pipes of a driver that it reloads, and kills it a second later
    after = driver(program=releases.program("one_vmm_provider"))
    assert_each_is_answered_once(before, after, place)
    assert started_releases(place) == ["0.1.0", "0.2.0"]


def test_requests_are_answered_once_when_the_earlier_release_still_runs_as_the_next_one_starts(
    place: Place, driver: StartDriver, releases: Releases
) -> None:
    """Up to 5.12 oned does not kill a driver that it reloads: both run for a while."""
    before = upgraded_with_requests_in_flight(place, driver, releases)
    after = driver(program=releases.program("one_vmm_provider"))
    until(lambda: started_releases(place) == ["0.1.0", "0.2.0"])
    before.finalize()
    before.rest()
    assert_each_is_answered_once(before, after, place)


# Modules that are imported late


@pytest.mark.parametrize("is_wrapped", [False, True], ids=["program", "wrapper-through-the-link"])
def test_running_driver_stays_in_its_release_after_the_next_one_is_installed(
    place: Place, driver: StartDriver, releases: Releases, *, is_wrapped: bool
) -> None:
    releases.unpack("0.1.0")
    releases.unpack_incompatible("0.2.0")
    releases.install("0.1.0")
    place.configure("nonsense")
    program = releases.wrapper("one_vmm_provider") if is_wrapped else releases.program("one_vmm_provider")
    one = driver("-t 15 -r 2 simulated", program=program)
    assert one.ask(oned_requests.deploy(1)).startswith("FAILURE simulated.toml is not TOML")
    releases.install("0.2.0")
    # The provider's modules were not imported until now, nor what a retry, an outage and a debt need.
    place.simulate('transient = { calls = ["create"], times = 1 }', 'permanent = { calls = ["destroy"], times = 1 }')
    deploy_id = one.created(oned_requests.deploy(2))
    assert one.ask(oned_requests.reboot(2, deploy_id)) == "SUCCESS -"
    assert one.ask(oned_requests.poll(2, deploy_id)).startswith("SUCCESS STATE=")
    assert one.ask(oned_requests.cleanup(2, deploy_id)).startswith("FAILURE ")
    until(lambda: not place.instances())  # the debt was paid
    assert started_releases(place) == ["0.1.0"]


def test_never_configured_driver_imports_another_kind_of_cloud_from_its_own_release(
    place: Place, driver: StartDriver, releases: Releases
) -> None:
    releases.unpack("0.1.0")
    releases.unpack_incompatible("0.2.0")
    releases.install("0.1.0")
    one = driver("-t 15 -r 0 partner", program=releases.wrapper("one_vmm_provider"))
    assert one.ask(oned_requests.deploy(1)).startswith("FAILURE partner.toml does not exist")
    releases.install("0.2.0")
    place.configure(
        f'provider = "opennebula"\nowner = "one-test"\n[opennebula]\ncredentials_file = "{place.root}/auth"\n',
        name="partner",
    )
    # Opening this provider imports aiohttp, and then needs the file.
    assert f"{place.root}/auth" in one.ask(oned_requests.deploy(2))
    assert "a module of" not in place.log("partner")


def test_running_information_driver_stays_in_its_release_after_the_next_one_is_installed(
    place: Place, releases: Releases
) -> None:
    releases.unpack("0.1.0")
    releases.unpack_incompatible("0.2.0")
    releases.install("0.1.0")
    path = configure(place)
    text = path.read_text()
    path.write_text("nonsense")
    one = Monitored(place, program=releases.wrapper("one_im_provider"))
    try:
        one.start()
        until(lambda: "PROVIDER_ERROR" in one.system())
        releases.install("0.2.0")
        path.write_text(text)
        console = Console(place)
        console.run(vm_id=7)
        one.sync(vm7="RUNNING")
    finally:
        one.driver.leave()
    assert "a module of" not in one.log()


# Files of a later release


def journal(place: Place) -> Path:
    return place.var / "one_provider_mad_simulated.journal"


def note_in_journal(place: Place, *statements: str) -> None:
    with closing(sqlite3.connect(journal(place))) as db, db:
        for statement in statements:
            db.execute(statement)


def upgrade_journal(place: Place) -> str:
    """Upgrade the journal as a later release does; returns the sentence about it."""
    note_in_journal(
        place, "CREATE TABLE later (x)", "ALTER TABLE requests ADD COLUMN later", f"PRAGMA user_version = {VERSION + 1}"
    )
    return f"a later release has upgraded it to version {VERSION + 1}, and this release writes versions up to {VERSION}"


def add_setting(place: Place) -> str:
    """Add a setting of a later release; returns the sentence about it."""
    path = place.conf / "simulated.toml"
    path.write_text(path.read_text().replace("[simulated]\n", '[simulated]\nregions = ["north"]\n'))
    return "simulated.toml: simulated.regions is no setting of this release; check the spelling"


later_files = pytest.mark.parametrize("meet", [upgrade_journal, add_setting], ids=["journal", "setting"])


@later_files
def test_earlier_release_fails_each_action_with_the_reason_and_changes_nothing(
    place: Place, driver: StartDriver, meet: Callable[[Place], str]
) -> None:
    place.simulate(boot_time=0, destroy_time=0, stop_time=0)
    later = driver()
    deploy_id = later.created(oned_requests.deploy(7))
    assert later.finalize() == 0
    sentence = meet(place)
    before = place.instances_in_cloud()
    one = driver("-t 15 -r 2 simulated")
    changing = [
        oned_requests.deploy(8),
        oned_requests.terminate(7, deploy_id),
        oned_requests.power_off(7, deploy_id),
        oned_requests.reboot(7, deploy_id),
        oned_requests.resume(7, deploy_id),
        oned_requests.cleanup(7, deploy_id),
        oned_requests.line("CANCEL", 7, deploy_id=deploy_id),
    ]
    for line in changing:
        reply = one.ask(line)
        assert reply.startswith("FAILURE ")
        assert sentence in reply
    one.send(oned_requests.driver_cancel(7))
    assert one.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a ")
    assert one.ask(oned_requests.poll(9, "sim-nowhere")) == "SUCCESS STATE=-"
    warnings = [text for text in one.lines if text.startswith("LOG W") and sentence in text]
    assert len(warnings) == 1
    assert place.instances_in_cloud() == before


def test_later_release_goes_on_where_it_was_after_an_earlier_one_has_run(place: Place, driver: StartDriver) -> None:
    place.simulate(boot_time=0, destroy_time=0)
    later = driver()
    deploy_id = later.created(oned_requests.deploy(7))
    assert later.finalize() == 0
    upgrade_journal(place)
    before = journal(place).read_bytes()
    one = driver()
    assert one.ask(oned_requests.terminate(7, deploy_id)).startswith("FAILURE ")
    assert one.finalize() == 0
    assert journal(place).read_bytes() == before
    note_in_journal(place, f"PRAGMA user_version = {VERSION}")  # the test's later release is this one
    later = driver()
    assert later.ask(oned_requests.terminate(7, deploy_id)).startswith("SUCCESS")


def test_earlier_release_goes_on_in_force_as_soon_as_the_setting_is_removed(place: Place, driver: StartDriver) -> None:
    place.simulate(boot_time=0)
    path = place.conf / "simulated.toml"
    good = path.read_text()
    add_setting(place)
    one = driver()
    assert one.ask(oned_requests.deploy(7)).startswith("FAILURE ")
    path.write_text(good)
    one.created(oned_requests.deploy(7))


def test_requests_of_a_later_release_are_answered_with_the_unknown_setting(place: Place, driver: StartDriver) -> None:
    place.simulate(boot_time=600)
    later = driver()
    later.send(oned_requests.deploy(7))
    until(place.unanswered)
    until(place.has_attempts)
    later.kill()
    later.rest()
    sentence = add_setting(place)
    one = driver()
    assert one.reply("DEPLOY", 7).startswith(f"FAILURE {sentence}")


def last_states(one: Monitored) -> dict[int, str]:
    """The latest state of each VM that was reported so far."""
    one.catch_up()
    return {vm_id: word for line in one.lines if line.word == "STATE_VM" for vm_id, word in states(line).items()}


@later_files
def test_earlier_release_goes_on_reporting(place: Place, driver: StartDriver, meet: Callable[[Place], str]) -> None:
    configure(place, capacity={"cpu": 8, "memory": 4096})
    actions = driver()
    deploy_id = actions.created(oned_requests.deploy(7, host_id=3))
    gone = actions.created(oned_requests.deploy(8, host_id=3))
    assert actions.finalize() == 0
    sentence = meet(place)
    with monitored(place) as one:
        one.start()
        warned = one.wait(lambda line: line.word == "SYSTEM_HOST" and sentence in line.text)
        assert warned.values["PROVIDER_ERROR"] == ["-"]
        assert warned.values["TOTALCPU"] == ["800"]
        until(lambda: last_states(one) == {7: "RUNNING", 8: "RUNNING"})
        Console(place).stop(deploy_id)
        until(lambda: last_states(one)[7] == "POWEROFF")
        with closing(sqlite3.connect(place.var / "simulated.db", timeout=HANG)) as db, db:
            db.execute("DELETE FROM instance WHERE id = ?", (gone,))
        # Three listings without it would make it missing.
        until(lambda: one.log().count("instances that a listing lacks were looked up") > 5)
        assert last_states(one)[8] in ("RUNNING", "UNKNOWN")
        assert not [line for line in one.lines if line.word == "STATE_VM" and "SYNC_STATE" in line.values]
        assert sentence in one.log()


def test_host_of_a_later_journal_that_cannot_be_read_shows_the_reason(place: Place, driver: StartDriver) -> None:
    configure(place, capacity={"cpu": 8, "memory": 4096})
    actions = driver()
    actions.created(oned_requests.deploy(7, host_id=3))
    assert actions.finalize() == 0
    sentence = upgrade_journal(place)
    note_in_journal(place, "ALTER TABLE attempts RENAME TO creates")
    with monitored(place) as one:
        one.start()
        shown = one.wait(lambda line: line.word == "SYSTEM_HOST" and sentence in line.text)
        assert sentence in shown.values["PROVIDER_ERROR"][0]
        assert shown.values["TOTALCPU"] == ["800"]
