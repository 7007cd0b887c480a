from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from one_provider_mad.cli.install import Step, carry_out
from one_provider_mad.database import Database
from one_provider_mad.errors import JournalError, SettingsError
from one_provider_mad.file_owner import folder, make_directory, make_link, open_file, replace_file
from one_provider_mad.journal.reader import read_fact
from one_provider_mad.journal.upkeep import forget_fact
from one_provider_mad.journal.writer import Journal
from one_provider_mad.logs import LogFile
from one_provider_mad.metrics_file import InUseError, Textfile
from one_provider_mad.monitor.state import State, StateFile
from one_provider_mad.processes import Process
from one_provider_mad.providers.simulated.faults import Faults
from one_provider_mad.providers.simulated.settings import Crash, FaultSettings
from one_provider_mad.scripting.leftovers import Leftovers
from one_provider_mad.settings import Configuration, Places, Settings, SettingsSource

USER = (4711, 4712)
"""OpenNebula's user and group, whose directories root works in."""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be made to write where a user may not")


@pytest.fixture
def var(tmp_path: Path) -> Path:
    """OpenNebula's var directory, owned by its user if the test runs as root."""
    var = tmp_path / "var"
    var.mkdir()
    if os.geteuid() == 0:
        os.chown(var, *USER)
    return var


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A directory of root's, outside the user's."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return elsewhere


def plant(link: Path, target: Path) -> None:
    """Put a link there as OpenNebula's user can."""
    link.symlink_to(target)
    os.chown(link, *USER, follow_symlinks=False)


def owner(path: Path) -> tuple[int, int]:
    status = path.stat(follow_symlinks=False)
    return status.st_uid, status.st_gid


def close(descriptor: int) -> None:
    os.close(descriptor)


# All code that creates files


def remember_configuration(file: Path) -> None:
    name = file.name.removeprefix("one_provider_mad_").removesuffix(".configured")
    places = Places(conf=file.parent, var=file.parent, log=file.parent)
    source = SettingsSource(name, places, check=lambda _: None, warn=lambda _: None)
    configuration = Configuration(name=name, path=file, settings=Settings(provider="simulated"), table={})
    source.put_in_force(configuration)


def open_journal(file: Path) -> None:
    async def open_and_close() -> None:
        journal = Journal(file, clock=lambda: 0.0, on_lost=lambda _: None)
        await journal.open()
        await journal.close()

    asyncio.run(open_and_close())


def prepare_cloud(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS instances (id TEXT)")


def open_cloud(file: Path) -> None:
    async def open_and_close() -> None:
        database = Database(
            file,
            pragmas=("journal_mode = WAL",),
            prepare=prepare_cloud,
            unusable=lambda error: JournalError(str(error)),
        )
        await database.open()
        await database.close()

    asyncio.run(open_and_close())


def count_a_crash(file: Path) -> None:
    crash = Crash(at="before-create", times=1)
    faults = Faults(FaultSettings(crash=crash), crashes=file, clock=lambda: 0.0, warn=lambda _: None)
    faults._may_crash(crash)


def save_state(file: Path) -> None:
    StateFile(file.with_name(file.name.removesuffix(".new"))).save(State(parent=Process(pid=1, start="1")))


def write_metrics(file: Path) -> None:
    text = Textfile(file.with_name("x.prom"))
    with suppress(InUseError):
        text.write(lambda: b"figure 1\n")
    text._release()


def log_a_line(file: Path) -> None:
    log = LogFile(file)
    log.reopen()
    log.write("line\n")
    os.close(log._descriptor)


PLACES = [
    pytest.param("one_provider_mad_x.configured", remember_configuration, id="mark-of-the-configuration"),
    pytest.param("x.log", log_a_line, id="log"),
    pytest.param("x.journal", open_journal, id="journal"),
    pytest.param("x.journal-journal", lambda file: open_journal(file.with_name("x.journal")), id="journal-of-sqlite"),
    pytest.param("x.db", open_cloud, id="simulated-cloud"),
    pytest.param("x.db-wal", lambda file: open_cloud(file.with_name("x.db")), id="log-of-sqlite"),
    pytest.param("x.crashes", count_a_crash, id="crashes"),
    pytest.param("x.state.new", save_state, id="state"),
    pytest.param(".x.prom.lock", write_metrics, id="lock-of-the-metrics"),
    pytest.param(".x.prom.new", write_metrics, id="metrics"),
    pytest.param("7", lambda file: Leftovers(file.parent).note(7, "mark"), id="script-that-runs"),
    pytest.param("x", lambda file: close(open_file(file, os.O_WRONLY)), id="any-file"),
]

Make = Callable[[Path], None]


@only_root
@pytest.mark.parametrize(("name", "make"), PLACES)
def test_root_does_not_follow_a_users_link_in_place_of_a_file(
    var: Path, elsewhere: Path, name: str, make: Make
) -> None:
    plant(var / name, elsewhere / "victim")
    with suppress(OSError, JournalError):
        make(var / name)
    assert list(elsewhere.iterdir()) == []


@only_root
@pytest.mark.parametrize(("name", "make"), PLACES)
def test_root_does_not_write_through_a_hard_link_to_its_own_file(
    var: Path, elsewhere: Path, name: str, make: Make
) -> None:
    victim = elsewhere / "victim"
    victim.write_bytes(b"\xd9\xd5\x05\xf9 precious")  # as a journal of SQLite begins
    (var / name).hardlink_to(victim)
    with suppress(OSError, JournalError):
        make(var / name)
    assert (victim.read_bytes(), owner(victim)) == (b"\xd9\xd5\x05\xf9 precious", (0, 0))


@only_root
@pytest.mark.parametrize(("name", "make"), PLACES)
def test_root_does_not_follow_a_users_link_to_a_directory_of_root(
    var: Path, elsewhere: Path, name: str, make: Make
) -> None:
    plant(var / "below", elsewhere)
    with suppress(OSError, JournalError):
        make(var / "below" / name)
    assert list(elsewhere.iterdir()) == []


@only_root
@pytest.mark.parametrize(("name", "make"), PLACES)
def test_files_created_by_root_belong_to_the_directorys_owner(var: Path, name: str, make: Make) -> None:
    make(var / name)
    assert {owner(path) for path in var.iterdir()} == {USER}


@only_root
def test_install_as_root_does_not_follow_a_users_link(var: Path, elsewhere: Path) -> None:
    plant(var / "conf", elsewhere)
    for step in (Step(path=var / "conf" / "x.toml", text="a"), Step(path=var / "conf" / "x", target="/bin/true")):
        with pytest.raises(SettingsError, match="conf is a link of user 4711 to a directory of another user"):
            carry_out(step, var)
    assert list(elsewhere.iterdir()) == []


@only_root
def test_ending_leftover_scripts_does_not_remove_files_through_a_users_link(var: Path, elsewhere: Path) -> None:
    (elsewhere / "7").write_text("precious")
    plant(var / "scripts", elsewhere)
    assert Leftovers(var / "scripts").end() == 0
    assert (elsewhere / "7").read_text() == "precious"


@only_root
def test_reading_a_journal_through_a_users_link_raises_journal_error(var: Path, elsewhere: Path) -> None:
    plant(var / "x.journal", elsewhere / "victim")
    (elsewhere / "victim").touch()
    for look in (read_fact, forget_fact):
        with pytest.raises(JournalError, match="it is a link in a directory of another user, and root does not "):
            look(var / "x.journal", "account")


@only_root
def test_a_users_link_to_that_users_own_directory_is_followed(var: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    os.chown(disk, *USER)
    plant(var / "logs", disk)
    log_a_line(var / "logs" / "x.log")
    assert (disk / "x.log").read_text() == "line\n"


@only_root
def test_a_link_in_a_directory_of_roots_own_is_followed(elsewhere: Path) -> None:
    (elsewhere / "x.log").symlink_to(elsewhere / "y.log")
    log_a_line(elsewhere / "x.log")
    assert (elsewhere / "y.log").read_text() == "line\n"


@only_root
def test_directories_created_by_root_belong_to_the_parents_owner(var: Path) -> None:
    make_directory(var / "a" / "b", 0o700)
    assert [(owner(path), stat.S_IMODE(path.stat().st_mode)) for path in (var / "a", var / "a" / "b")] == [
        (USER, 0o700)
    ] * 2


@only_root
def test_a_new_directory_is_left_to_root_if_it_has_files_before_its_owner_is_set(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may create a file in it first; the search for files leaves no descriptor open."""
    mkdir = os.mkdir

    def make_filled(name: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        (var / name / "file").touch()

    monkeypatch.setattr(os, "mkdir", make_filled)
    make_directory(var / "a", 0o700)
    assert owner(var / "a") == (0, 0)


@only_root
def test_root_does_not_block_on_a_fifo_in_place_of_a_file(var: Path) -> None:
    os.mkfifo(var / "x.log")
    with pytest.raises(OSError, match="it is not a file in a directory of another user"):
        open_file(var / "x.log", os.O_WRONLY)


@only_root
def test_a_circle_of_links_raises(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="Too many levels"):
        make_directory(tmp_path / "a" / "c")


# Independent of the user


def test_replace_file_replaces_a_file_atomically(var: Path) -> None:
    replace_file(var / "x", b"one", beside="x.new", mode=0o644)
    (var / "x.new").write_text("left by a driver that was killed")
    replace_file(var / "x", b"two", beside="x.new", is_lasting=True)
    assert ((var / "x").read_bytes(), stat.S_IMODE((var / "x").stat().st_mode)) == (b"two", 0o600)
    assert not (var / "x.new").exists()
    (var / "y").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(var / "y", b"three", beside="y.new")
    assert sorted(path.name for path in var.iterdir()) == ["x", "y"]


def test_make_link_does_not_replace_an_existing_file(var: Path) -> None:
    make_link(var / "x", "target")
    with pytest.raises(FileExistsError):
        make_link(var / "x", "other")
    assert os.readlink(var / "x") == "target"


def test_a_path_through_a_file_raises(var: Path) -> None:
    (var / "x").touch()
    with pytest.raises(NotADirectoryError):
        open_file(var / "x" / "y", os.O_WRONLY)


def test_folder_creates_a_private_directory_and_yields_its_descriptor(var: Path) -> None:
    with folder(var / "scripts") as descriptor:
        (var / "scripts" / "7").touch()
        assert os.listdir(descriptor) == ["7"]  # noqa: PTH208 - a descriptor is no path
    assert stat.S_IMODE((var / "scripts").stat().st_mode) == 0o700
