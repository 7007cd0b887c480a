"""The process as oned starts it: INIT, descriptors, signals, its directories, and a reader that stalls."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import sqlite3
import stat
import subprocess
import sys
import venv
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import PAGE, StartDriver, read_in_time
from tests.end_to_end import oned_requests
from tests.end_to_end.oned import PROGRAM, ROOT, Driver, Place
from tests.waiting import until

ONE_READ = 31
"""Bytes that 6.0 and later read in answer to INIT, with one read (OpenNebula include/Driver.h, start_driver)."""


# INIT


@pytest.mark.parametrize(
    ("arguments", "reply"),
    [
        pytest.param(["-t", "15", "-r", "0", "simulated"], "SUCCESS sim-", id="split"),
        pytest.param("--colour -z9 -t many -r -w simulated", "SUCCESS sim-", id="unknown-options"),
        pytest.param(None, "FAILURE ARGUMENTS name no provider ('')", id="absent"),
        pytest.param("-t 15 'simulated'", "FAILURE ARGUMENTS name no provider (", id="quoted-name"),
    ],
)
def test_init_reply_comes_alone_and_actions_are_answered_with_any_arguments(
    driver: StartDriver, arguments: str | Sequence[str] | None, reply: str
) -> None:
    one = driver(arguments)
    one.silence(0.2)
    assert bytes(one.raw) == b"INIT SUCCESS\n"
    assert one.ask(oned_requests.deploy(7)).startswith(reply)


def test_init_reply_comes_alone_with_an_invalid_configuration(driver: StartDriver, place: Place) -> None:
    place.configure("nonsense")
    one = driver()
    one.silence(0.5)
    assert bytes(one.raw) == b"INIT SUCCESS\n"
    assert one.ask(oned_requests.deploy(7)).startswith("FAILURE simulated.toml is not TOML: ")


def test_every_line_is_one_write(place: Place) -> None:
    """A pipe in packet mode returns the bytes of one write with each read."""
    place.simulate(boot_time=0)
    (place.var / "one_vmm_provider_simulated.log").mkdir()  # makes the driver warn at its start
    end, other_end = os.pipe2(os.O_DIRECT)
    try:
        with Driver(place, "-x simulated", stdout=other_end, init=False) as one:
            one.send("INIT")
            assert read_in_time(end, ONE_READ) == b"INIT SUCCESS\n"
            assert not select.select([end], [], [], 0.3)[0], "nothing may follow before the next request"
            one.write(
                oned_requests.deploy(7)
                + oned_requests.unknown(8)
                + oned_requests.poll(9, "sim-x")
                + oned_requests.driver_cancel(4)
            )
            packets = [read_in_time(end, 65536) for _ in range(4)]
            assert all(packet.count(b"\n") == 1 and packet.endswith(b"\n") for packet in packets)
            heads = {packet.split(b" ")[0] for packet in packets}
            assert heads == {b"LOG", b"FROBNICATE", b"POLL", b"DEPLOY"}
    finally:
        os.close(end)
        os.close(other_end)


def test_warnings_at_start_are_written_after_the_first_request(driver: StartDriver, place: Place) -> None:
    (place.var / "one_vmm_provider_simulated.log").mkdir()
    one = driver()
    one.silence(0.5)
    one.send(oned_requests.unknown(1))
    log = place.var / "one_vmm_provider_simulated.log"
    assert one.next_line() == f"LOG W -1 there is no driver log: Is a directory ({log})"
    assert one.next_line() == "FROBNICATE FAILURE 1 Action FROBNICATE not supported"


def test_requests_without_init_are_answered(driver: StartDriver) -> None:
    one = driver(init=False)
    one.send(oned_requests.deploy(7))
    assert one.next_line().startswith("DEPLOY SUCCESS 7 sim-")


def test_requests_in_the_same_write_as_init_and_further_inits_are_answered(driver: StartDriver) -> None:
    one = driver(init=False)
    one.write(b"INIT\n" + b"".join(oned_requests.deploy(vm_id) for vm_id in range(20)))
    assert one.next_line() == "INIT SUCCESS"
    found = [one.next_line().split(" ") for _ in range(20)]
    assert sorted(int(vm_id) for action, result, vm_id, _ in found if (action, result) == ("DEPLOY", "SUCCESS")) == [
        *range(20)
    ]
    for vm_id in (20, 21):
        one.send("INIT")
        assert one.next_line() == "INIT SUCCESS"
        assert one.created(oned_requests.deploy(vm_id))


# The process


def descriptors_of(pid: int) -> dict[int, str]:
    """The open descriptors, without those that are closed while they are read."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            continue
    return found


def test_driver_closes_inherited_descriptors_and_its_files_are_private(driver: StartDriver, place: Place) -> None:
    one = driver()
    one.created(oned_requests.deploy(7))
    for name in ("simulated.db", "one_provider_mad_simulated.journal"):
        assert stat.S_IMODE((place.var / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((place.var / "one_vmm_provider_simulated.log").stat().st_mode) & 0o007 == 0
    found = descriptors_of(one.process.pid)
    assert found.pop(2) == "/dev/null"
    assert found.pop(0).startswith("pipe:")
    assert found.pop(1).startswith("pipe:")
    own = re.compile(rf"anon_inode:\[(eventpoll|eventfd)\]|socket:\[\d+\]|{re.escape(str(place.var))}(/.+)?")
    assert [target for target in found.values() if not own.fullmatch(target)] == []
    assert "/dev/null" not in found.values(), "the descriptor that oned has leaked is closed"


KEPT = {".log", ".configured", ".journal", ".journal-journal", ".db", ".db-shm", ".db-wal"}
"""Suffixes of the driver's files in the var directory."""


def test_no_output_for_stderr_gets_into_a_file_of_the_driver(driver: StartDriver, place: Place) -> None:
    """A file that was opened as fd 2 would contain the output."""
    place.simulate(boot_time=0)
    one = driver()
    deploy_id = one.created(oned_requests.deploy(7))
    one.send(b"\xff\x00 nonsense")
    assert one.next_line().startswith("LOG E ")
    assert one.ask(oned_requests.terminate(7, deploy_id)) == "SUCCESS -"
    assert one.drop() == 0
    for entry in (place.var / "one_vmm_provider_simulated.log").read_text().splitlines():
        assert "event" in json.loads(entry)
    for name in ("simulated.db", "one_provider_mad_simulated.journal"):
        with closing(sqlite3.connect(place.var / name)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert {path.suffix for path in place.var.iterdir()} <= KEPT


def test_driver_unblocks_signals_and_leaves_its_pipes_blocking(driver: StartDriver) -> None:
    one = driver()
    one.created(oned_requests.deploy(7))
    status = Path(f"/proc/{one.process.pid}/status").read_text()
    assert re.search(r"^SigBlk:\s*0+$", status, re.MULTILINE)
    for stream in (one.process.stdin, one.process.stdout):
        assert stream is not None
        assert not fcntl.fcntl(stream, fcntl.F_GETFL) & os.O_NONBLOCK
    for descriptor in (0, 1):
        flags = Path(f"/proc/{one.process.pid}/fdinfo/{descriptor}").read_text()
        match = re.search(r"^flags:\s*(\d+)$", flags, re.MULTILINE)
        assert match is not None
        assert not int(match[1], 8) & os.O_NONBLOCK, "oned shares the open file description"


# Where it is started


def test_driver_runs_through_a_symlink_and_from_any_working_directory(
    driver: StartDriver, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "mads").mkdir()
    link = tmp_path / "mads" / "one_vmm_provider"
    link.symlink_to(PROGRAM)
    assert driver(program=link, cwd=Path("/proc")).created(oned_requests.deploy(7))
    assert (place.var / "simulated.db").exists()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The bin directory of an installation from a copy of the sources, with its dependencies."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("bin", "one_provider_mad"):
        shutil.copytree(ROOT / name, source / name)
    prefix = tmp_path / "installed"
    venv.create(prefix, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"), "install", "-qq"]
    [packages] = prefix.glob("lib/python3*/site-packages")
    [dependencies] = {str(Path(path)) for path in sys.path if path.endswith("site-packages")}
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    subprocess.run([*pip, "--no-index", "--no-deps", "--no-build-isolation", source], check=True)
    return prefix / "bin"


def test_driver_runs_as_an_installed_package(driver: StartDriver, place: Place, installed: Path) -> None:
    one = driver(program=installed / "one_vmm_provider")
    deploy_id = one.created(oned_requests.deploy(7))
    assert one.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a ")
    assert one.finalize() == 0
    command = [str(installed / "one-provider"), "instances", "simulated", "--json"]
    shown = subprocess.run(command, env={"ONE_LOCATION": str(place.root)}, capture_output=True, check=True)
    assert [entry["deploy_id"] for entry in json.loads(shown.stdout)] == [deploy_id]
    [packages] = installed.parent.glob("lib/python3*/site-packages/one_provider_mad")
    assert (packages / "py.typed").exists()


NO_OPENNEBULA = pytest.mark.skipif(
    os.access("/var/lib/one", os.W_OK), reason="the driver would write into the directories of a real OpenNebula"
)


@NO_OPENNEBULA
@pytest.mark.parametrize(
    ("environ", "state"),
    [
        pytest.param({"HOME": "{tmp}/home"}, "{tmp}/home/.local/state/one_provider_mad", id="home"),
        pytest.param({"HOME": None, "TMPDIR": "{tmp}/t"}, "{tmp}/t/one_provider_mad-{uid}", id="no-home"),
    ],
)
def test_files_are_in_a_private_directory_of_the_user_without_an_opennebula(
    place: Place, tmp_path: Path, environ: dict[str, str | None], state: str
) -> None:
    (tmp_path / "t").mkdir()
    fill = {"tmp": tmp_path, "uid": os.getuid()}
    there = {name: value and value.format(**fill) for name, value in environ.items()}
    there |= {"ONE_LOCATION": None, "ONE_PROVIDER_MAD_CONF": str(place.conf)}
    with Driver(place, environ=there, cwd=Path("/proc")) as one:
        deploy_id = one.created(oned_requests.deploy(7))
    with Driver(place, environ=there, cwd=Path("/proc")) as two:
        assert two.ask(oned_requests.poll(7, deploy_id)).startswith("SUCCESS STATE=a "), "the cloud is still there"
    folder = Path(state.format(**fill))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "simulated.db").exists()
    assert list(place.var.iterdir()) == []


@NO_OPENNEBULA
def test_temporary_directory_that_others_can_write_is_not_used(place: Place, tmp_path: Path) -> None:
    squatted = tmp_path / f"one_provider_mad-{os.getuid()}"
    squatted.mkdir(mode=0o777)
    squatted.chmod(0o777)
    environ = {"HOME": None, "TMPDIR": str(tmp_path), "ONE_LOCATION": None, "ONE_PROVIDER_MAD_CONF": str(place.conf)}
    with Driver(place, environ=environ) as one:
        one.created(oned_requests.deploy(7))
    assert list(squatted.iterdir()) == []
    assert list(tmp_path.glob("one_provider_mad-*/simulated.db"))


# A reader that stalls


def test_stdin_is_read_while_stdout_is_full_and_no_reply_is_lost(stalled: Driver) -> None:
    line = b"FROBNICATE  %d " + b"A" * 2000 + b"\n"
    count = 4000
    stalled.write(b"".join(line % vm_id for vm_id in range(count)))  # 8 MB, more than any pipe holds
    stalled.write(oned_requests.deploy(7_000_000))
    until(stalled.place.instances)
    stalled.begin_reading()
    found = [stalled.next_line() for _ in range(count + 1)]
    assert found[:count] == [f"FROBNICATE FAILURE {vm_id} Action FROBNICATE not supported" for vm_id in range(count)]
    assert found[count].startswith("DEPLOY SUCCESS 7000000 sim-")


def test_unread_log_lines_are_dropped_oldest_first_and_counted(stalled: Driver) -> None:
    count = 5000
    stalled.write(b"".join(b"NONSENSE-%d\n" % number for number in range(count)) + oned_requests.unknown(1))
    until(lambda: f"NONSENSE-{count - 1} " in stalled.place.log())
    until(lambda: "FROBNICATE" in stalled.place.log())
    stalled.begin_reading()
    stalled.reply("FROBNICATE", 1)
    assert stalled.ask(oned_requests.unknown(2))
    lines = stalled.lines
    numbers = [int(match[1]) for line in lines if (match := re.search(r"NONSENSE-(\d+) ", line))]
    dropped_lines = [line for line in lines if "log lines were dropped because OpenNebula did not read them" in line]
    dropped = sum(int(line.split(" ")[3]) for line in dropped_lines)
    assert 0 < len(numbers) <= 2000 + PAGE // 50 + 1, "the number of kept lines is limited"
    assert dropped + len(numbers) == count, "every dropped line is counted"
    assert numbers == sorted(numbers)
    assert numbers[-1] == count - 1, "the oldest went first"
    assert Counter(line.split(" ")[0] for line in lines)["FROBNICATE"] == 2


def test_actions_are_carried_out_while_stdout_is_full(stalled: Driver) -> None:
    stalled.write(b"".join(oned_requests.deploy(vm_id) for vm_id in range(200)))
    until(lambda: len(stalled.place.instances()) == 200, pause=0.1)
    stalled.begin_reading()
    found = {stalled.next_line().split(" ")[2] for _ in range(200)}
    assert found == {str(vm_id) for vm_id in range(200)}


def test_stdin_is_read_when_stdout_is_full_again(stalled: Driver) -> None:
    """The last line fills the pipe, and the count of dropped lines is still to be written."""
    assert stalled.process.stdout is not None
    stalled.write(b"".join(b"NONSENSE-%d\n" % number for number in range(5000)))
    stalled.write(oned_requests.line("DISKSNAPSHOTCREATE", 2**31 - 1, deploy_id="x" * 4000, operand={"DISK_ID": "0"}))
    until(lambda: any(event.get("action") == "DISKSNAPSHOTCREATE" for event in stalled.place.events()))
    seen = b""
    while b"NONSENSE-4999 " not in seen:
        seen = seen[-100:] + read_in_time(stalled.process.stdout.fileno(), PAGE)
    stalled.write(oned_requests.deploy(7))
    until(stalled.place.instances)
