"""Start the programs of bin/ from a checkout, through symlinks, as copies, and as oned starts drivers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from one_provider_mad import __version__
from tests.waiting import HANG, until

ROOT = Path(__file__).parent.parent
DRIVER, TOOL = ROOT / "bin" / "one_vmm_provider", ROOT / "bin" / "one-provider"
REPORTER = ROOT / "bin" / "one_im_provider"
VERSION = f"one-provider-mad {__version__}\n"
ARGUMENTS = "-t 15 -r 0 simulated"
BARE = {"PATH": "/usr/bin:/bin"}


def output_of(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=BARE, cwd=cwd, timeout=HANG)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("program", [DRIVER, REPORTER, TOOL], ids=lambda path: path.name)
def test_each_program_runs_from_a_checkout(program: Path, tmp_path: Path) -> None:
    assert output_of(program, "--version") == VERSION
    assert output_of(f"./{program.name}", "--version", cwd=program.parent) == VERSION
    assert output_of("sh", program.name, "--version", cwd=program.parent) == VERSION
    assert output_of(sys.executable, program, "--version", cwd=tmp_path) == VERSION


@pytest.mark.parametrize("program", [DRIVER, REPORTER, TOOL], ids=lambda path: path.name)
def test_each_program_runs_through_symlinks(program: Path, tmp_path: Path) -> None:
    (tmp_path / "mads").mkdir()
    link = tmp_path / "mads" / program.name
    link.symlink_to(program)
    (tmp_path / "again").symlink_to(link)
    (tmp_path / "folder").symlink_to(program.parent)
    assert output_of(link, "--version") == VERSION
    assert output_of(tmp_path / "again", "--version") == VERSION
    assert output_of(tmp_path / "folder" / program.name, "--version") == VERSION
    assert output_of(sys.executable, link, "--version") == VERSION


def test_a_copied_program_runs_no_other_python(tmp_path: Path) -> None:
    """Another Python on PATH may have an older release, or lack the libraries."""
    (tmp_path / "mads").mkdir()
    copy = shutil.copy(DRIVER, tmp_path / "mads")
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([copy, "--version"], capture_output=True, text=True, env=environ, timeout=HANG)
    sentence = "cannot start: no environment is beside it; link to the program instead of copying it"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{copy} {sentence}\n")
    command = [sys.executable, "-I", copy, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=HANG)
    sentence = f"{sys.executable} runs in {sys.prefix}, not in {tmp_path}/.venv: is pyvenv.cfg there?"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{copy} cannot start: {sentence}\n")


@pytest.mark.parametrize("variable", ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONUSERBASE"])
def test_no_variable_of_python_leads_a_program_elsewhere(variable: str, tmp_path: Path) -> None:
    (tmp_path / "one_provider_mad.py").write_text("raise SystemExit('another package')")
    environ = {**BARE, variable: str(tmp_path)}
    done = subprocess.run([DRIVER, "--version"], capture_output=True, text=True, env=environ, timeout=HANG)
    assert (done.stdout, done.stderr) == (VERSION, "")


def test_a_wheel_installs_the_programs_of_bin(tmp_path: Path) -> None:
    sources, environment = tmp_path / "sources", tmp_path / "environment"
    for name in ("bin", "one_provider_mad"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, sources)
    pip, alone = [sys.executable, "-m", "pip", "-qq"], ("--no-deps", "--no-index")
    output_of(*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", tmp_path, sources)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    output_of(*pip, "--python", python, "install", *alone, "--no-compile", wheel)
    (site,) = environment.glob("lib/python3*/site-packages")
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (tmp_path / "mads").mkdir()
    for program in (DRIVER, REPORTER, TOOL):
        link = tmp_path / "mads" / program.name
        link.symlink_to(environment / "bin" / program.name)
        assert link.read_text() == program.read_text()
        assert output_of(link, "--version") == VERSION
    python.unlink()
    done = subprocess.run(
        [tmp_path / "mads" / DRIVER.name, ARGUMENTS],
        input="INIT\nDEPLOY  7 PFZN\nFINALIZE\n",
        capture_output=True,
        text=True,
        env=BARE,
        timeout=HANG,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("INIT SUCCESS\n")
    assert "DEPLOY FAILURE 7 the driver cannot start: " in done.stdout


def test_the_three_programs_differ_in_what_they_start_alone() -> None:
    texts = [path.read_text().splitlines() for path in (DRIVER, REPORTER, TOOL)]
    for lines in zip(*texts, strict=True):
        assert len(set(lines)) == 1 or lines[0].strip().startswith(("from one_provider_mad", "one_vmm_provider()"))


@contextmanager
def started_as_by_oned(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """The driver with fd 2 closed, all signals blocked, a leaked socket, no HOME, and a folder it cannot write to."""
    (folder / "var").mkdir()
    leaked = socket.socket()
    with (
        leaked,
        subprocess.Popen(
            ["env", "--block-signal", "sh", "-c", 'exec "$@" 2>&- 9</dev/null', "sh", DRIVER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**BARE, "ONE_LOCATION": str(folder)},
            cwd="/proc",
            pass_fds=[leaked.fileno()],
            bufsize=0,
        ) as driver,
    ):
        try:
            yield driver, leaked
        finally:
            driver.kill()


def answer_to(driver: subprocess.Popen[bytes], line: bytes) -> bytes:
    """Send a line, and return the one that answers it."""
    assert driver.stdin
    assert driver.stdout
    driver.stdin.write(line)
    return driver.stdout.readline()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def descriptors_of(pid: int) -> dict[int, str]:
    """The open descriptors, without those that are closed meanwhile."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            continue
    return found


def test_a_driver_started_by_oned_closes_leaked_descriptors_and_unblocks_signals(tmp_path: Path) -> None:
    with started_as_by_oned(tmp_path, ARGUMENTS) as (driver, leaked):
        assert answer_to(driver, b"INIT\n") == b"INIT SUCCESS\n"
        command = Path(f"/proc/{driver.pid}/cmdline").read_bytes().split(b"\0")
        assert command[-2:] == [ARGUMENTS.encode(), b""], "the arguments are passed on unchanged"
        open_ones = descriptors_of(driver.pid)
        assert open_ones[2] == "/dev/null"
        assert f"socket:[{os.fstat(leaked.fileno()).st_ino}]" not in open_ones.values()
        assert open_ones.get(9) != "/dev/null"
        # All signals are blocked for a moment while a thread starts.
        until(lambda: int(status_of(driver.pid)["SigBlk"], 16) == 0)
        assert driver.stdin
        driver.stdin.write(b"FINALIZE\n")
        assert driver.stdout
        assert driver.stdout.read() == b"", "INIT SUCCESS was the only line"
        assert driver.wait(HANG) == 0


@pytest.mark.parametrize(
    "arguments", [[], [""], ["-t", "15", "-r", "0", "simulated"], ["--nonsense"]], ids=["none", "empty", "split", "odd"]
)
def test_init_succeeds_with_any_arguments(arguments: list[str], tmp_path: Path) -> None:
    with started_as_by_oned(tmp_path, *arguments) as (driver, _):
        assert answer_to(driver, b"INIT\n") == b"INIT SUCCESS\n"
        assert driver.stdin
        driver.stdin.close()
        assert driver.wait(HANG) == 0


def test_a_driver_started_with_blocked_signals_receives_sigterm(tmp_path: Path) -> None:
    with started_as_by_oned(tmp_path, ARGUMENTS) as (driver, _):
        assert answer_to(driver, b"INIT\n") == b"INIT SUCCESS\n"
        driver.send_signal(signal.SIGTERM)
        assert driver.stdin
        driver.stdin.close()
        assert driver.wait(HANG) == 0
