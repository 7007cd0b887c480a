"""A driver whose own Python cannot run it: it stays, says the cause, fails actions, and leaves VMs and hosts alone."""

from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_provider_mad import __version__
from one_provider_mad.cannot_start import answer_instead
from tests.waiting import HANG

ROOT = Path(__file__).parent.parent
VERSION = f"one-provider-mad {__version__}\n"
USER = 4711
"""A user without a name, who owns nothing."""


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A copy of this checkout, without an environment, that all users may enter."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        root.chmod(0o755)
        shutil.copytree(ROOT / "bin", root / "bin")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "one_provider_mad", root / "one_provider_mad", ignore=ignored)
        (root / "Makefile").touch()
        (root / "var").mkdir()
        (root / "var").chmod(0o777)
        yield root


def give_environment(checkout: Path) -> None:
    """Give a copy the environment of this checkout, whose .pth names this checkout, as after a move."""
    (checkout / ".venv").symlink_to(ROOT / ".venv")


class Started:
    """A program of a copy, started with pipes.

    Args:
        checkout: the copy.
        program: its name.
        user: who runs it, None for the user that runs the tests.
    """

    def __init__(self, checkout: Path, program: str = "one_vmm_provider", *, user: int | None = None) -> None:
        self._log = checkout / "var" / f"{program}_cloud.log"
        self.process = subprocess.Popen(
            [checkout / "bin" / program, "-t 15 -r 0 cloud"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "ONE_LOCATION": str(checkout)},
            cwd="/",
            user=user,
        )

    def answers_to(self, *lines: str) -> list[str]:
        """Send INIT, these lines and FINALIZE, and return what it has written when it ends, without INIT's answer."""
        written, _ = self.process.communicate("".join(f"{line}\n" for line in ("INIT", *lines, "FINALIZE")), HANG)
        assert self.process.returncode == 0
        first, *rest = written.splitlines()
        assert first == "INIT SUCCESS"
        return rest

    def logged(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


def test_a_driver_without_environment_fails_actions_and_says_the_cause(checkout: Path) -> None:
    driver = Started(checkout)
    sentence = f"the driver cannot start: {checkout}/.venv does not exist: make -C {checkout} setup"
    assert driver.answers_to("DEPLOY  7 PFZN", "SHUTDOWN  8 PFZN", "nonsense", "", "RESIZE 9") == [
        f"LOG E -1 {sentence}",
        f"DEPLOY FAILURE 7 {sentence}",
        f"SHUTDOWN FAILURE 8 {sentence}",
        f"RESIZE FAILURE 9 {sentence}",
    ]
    if os.geteuid() != 0:  # root creates no log that OpenNebula's user could not write
        (entry,) = driver.logged()
        assert (entry["level"], entry["event"], entry["error"]) == ("error", "cannot start", sentence)


def test_polls_are_not_answered_as_a_failure_would_put_the_vm_into_unknown(checkout: Path) -> None:
    (line,) = Started(checkout).answers_to("POLL 7 PFZN", "POLL 8 PFZN")
    assert line.startswith("LOG E - the driver cannot start: ")


def test_log_lines_have_the_form_that_the_release_reads(checkout: Path) -> None:
    first, _ = Started(checkout).answers_to("DEPLOY 7 PFZN")
    assert first.startswith("LOG E - ")
    first, _ = Started(checkout).answers_to("DEPLOY - 7 PFZN")
    assert first.startswith("LOG E -1 ")


def test_the_information_driver_leaves_hosts_alone_and_says_the_cause(checkout: Path) -> None:
    sentence = f"the driver cannot start: {checkout}/.venv does not exist: make -C {checkout} setup"
    reporter = Started(checkout, "one_im_provider")
    assert reporter.answers_to("MONITOR 0 host /var/lib/one/datastores 1") == [f"LOG E -1 {sentence}"]
    (line,) = Started(checkout, "one_im_provider").answers_to("START_MONITOR - 0 0 eJw=")
    *words, _, payload = line.split(" ")
    assert words == ["LOG", "E", "-1"]
    assert zlib.decompress(base64.b64decode(payload)).decode() == sentence


def test_an_interpreter_that_was_removed_is_named(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = checkout / ".venv" / "bin" / "python"
    python.symlink_to("python3")
    python.with_name("python3").symlink_to("/usr/bin/../removed/python3.11")
    _, answer = Started(checkout).answers_to("DEPLOY  7 PFZN")
    assert f": /usr/removed does not exist, and {python} leads there: make -C {checkout} setup REPLACE=1" in answer


def test_a_python_that_lacks_a_library_is_named_with_the_loaders_sentence(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = checkout / ".venv" / "bin" / "python"
    missing = "error while loading shared libraries: libpython3.11.so.1.0: cannot open shared object file"
    python.write_text(f'#!/bin/sh\necho "$0: {missing}" >&2\nexit 127\n')
    python.chmod(0o755)
    said, answer = Started(checkout).answers_to("DEPLOY  7 PFZN")
    sentence = f"the driver cannot start: {python} cannot be run ({missing}): make -C {checkout} setup REPLACE=1"
    assert said.startswith(f"LOG E -1 {sentence}")
    assert answer.startswith(f"DEPLOY FAILURE 7 {sentence}")


def test_the_one_folder_that_is_closed_is_named(checkout: Path) -> None:
    closed = checkout / "home" / "closed"
    (closed / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", closed / "bin" / "python3")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = checkout / ".venv" / "bin" / "python"
    python.symlink_to("../../home/closed/bin/python3")
    closed.chmod(0o600)
    driver = Started(checkout, user=USER if os.geteuid() == 0 else None)
    _, answer = driver.answers_to("DEPLOY  7 PFZN")
    user = USER if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    assert f" the driver cannot start: {closed} is closed to {user}, and {python} leads there: " in answer
    (entry,) = driver.logged()
    assert entry["error"] in answer
    closed.chmod(0o700)


def test_a_person_gets_the_cause_on_stderr(checkout: Path) -> None:
    arguments = {"one_vmm_provider": "--version", "one_im_provider": "--help", "one-provider": "check"}
    for program, argument in arguments.items():
        done = subprocess.run([checkout / "bin" / program, argument], capture_output=True, text=True, timeout=HANG)
        sentence = f"{program}: {checkout}/.venv does not exist: make -C {checkout} setup\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


def test_the_program_starts_once_its_environment_is_there(checkout: Path) -> None:
    driver = Started(checkout)
    assert driver.process.stdin
    assert driver.process.stdout
    driver.process.stdin.write("INIT\n")
    driver.process.stdin.flush()
    assert driver.process.stdout.readline() == "INIT SUCCESS\n"
    give_environment(checkout)
    assert driver.process.stdout.read() == "", "the end of its output tells oned to start it again"
    assert driver.process.wait(HANG) == -9
    driver.process.communicate()


def test_a_moved_checkout_runs_its_own_package(checkout: Path) -> None:
    give_environment(checkout)
    (checkout / "one_provider_mad" / "__init__.py").write_text('"""Moved."""\n\n__version__ = "9.9.9"\n')
    for program in ("one_vmm_provider", "one_im_provider", "one-provider"):
        done = subprocess.run([checkout / "bin" / program, "--version"], capture_output=True, text=True, timeout=HANG)
        assert (done.stdout, done.stderr) == ("one-provider-mad 9.9.9\n", "")


def test_an_interpreter_outside_the_environment_is_refused(checkout: Path) -> None:
    python = os.path.realpath(sys.executable)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(python)  # pyvenv.cfg is missing
    for command in ([], [python, "-I"]):
        done = subprocess.run(
            [*command, checkout / "bin" / "one-provider", "--version"], capture_output=True, text=True, timeout=HANG
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert f", not in {checkout}/.venv: is pyvenv.cfg there?\n" in done.stderr


@pytest.mark.parametrize("module", ["programs", "daemon", "actions/dispatcher", "live_provider"])
def test_a_module_that_cannot_be_imported_is_named_and_fails_each_action(checkout: Path, module: str) -> None:
    give_environment(checkout)
    (checkout / "one_provider_mad" / f"{module}.py").write_text("import library_of_tomorrow\n")
    answers = Started(checkout).answers_to("DEPLOY  7 PFZN", "POLL 8 PFZN", "SHUTDOWN  9 PFZN")
    assert [line.split(" ")[:3] for line in answers] == [
        ["LOG", "E", "-1"],
        ["DEPLOY", "FAILURE", "7"],
        ["SHUTDOWN", "FAILURE", "9"],
    ]
    assert all("No module named 'library_of_tomorrow'" in line for line in answers)
    done = subprocess.run(
        [checkout / "bin" / "one_vmm_provider", "--version"], capture_output=True, text=True, timeout=HANG
    )
    assert (done.returncode, done.stdout) == (1, ""), "a version proves that the program can start"
    assert "No module named 'library_of_tomorrow'" in done.stderr


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(
            ModuleNotFoundError("No module named 'lxml'"),
            f"No module named 'lxml'; is it installed for {sys.executable}?",
            id="module-not-found",
        ),
        pytest.param(PermissionError("closed"), f"PermissionError: closed ({sys.executable})", id="closed-file"),
    ],
)
def test_the_script_takes_over_with_what_was_read_and_answered(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    replaced: list[list[str]] = []

    def execv(_program: str, arguments: list[str]) -> None:
        replaced.append(arguments)
        raise SystemExit

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "bin" / "one_vmm_provider"), "-t 15 cloud"])
    with pytest.raises(SystemExit):
        answer_instead(error, is_initialised=True, requests=["DEPLOY  7", "SAVE  8"])
    program, script = ROOT / "bin" / "one_vmm_provider", ROOT / "one_provider_mad" / "cannot_start.sh"
    assert replaced == [["sh", str(script), str(program), "INIT", reason, "DEPLOY  7\nSAVE  8", "-t 15 cloud"]]


def test_a_package_runs_the_environment_whose_folder_it_is_in(checkout: Path) -> None:
    """As in a package: release/bin/one_vmm_provider beside release/bin/python, reached by a link."""
    release = checkout / "release"
    libraries = release / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    libraries.parent.mkdir(parents=True)
    libraries.mkdir()
    for library in Path(sysconfig.get_path("purelib")).iterdir():
        if library.suffix != ".pth":
            (libraries / library.name).symlink_to(library)
    (checkout / "bin").rename(release / "bin")
    (checkout / "one_provider_mad").rename(libraries / "one_provider_mad")
    shutil.copy(ROOT / ".venv" / "pyvenv.cfg", release)
    python = release / "bin" / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    (checkout / "mads").mkdir()
    for program in ("one_vmm_provider", "one_im_provider"):
        (checkout / "mads" / program).symlink_to(f"../release/bin/{program}")
        done = subprocess.run([checkout / "mads" / program, "--version"], capture_output=True, text=True, timeout=HANG)
        assert (done.stdout, done.stderr) == (VERSION, "")
    python.unlink()
    python.symlink_to("/usr/removed/python3.11")
    done = subprocess.run([checkout / "mads" / program, "--version"], capture_output=True, text=True, timeout=HANG)
    remedy = "install one-provider-mad again, with a Python that all users can run"
    assert done.stderr == f"{program}: /usr/removed does not exist, and {python} leads there: {remedy}\n"


def test_no_python_of_the_system_runs_a_copied_program(checkout: Path) -> None:
    """A program copied to /usr/bin finds /usr/bin/python beside it."""
    (checkout / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    done = subprocess.run(
        [checkout / "bin" / "one-provider", "--version"], capture_output=True, text=True, timeout=HANG
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f", not in {checkout}/.venv: is pyvenv.cfg there?\n" in done.stderr


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A Python that is no environment, with the package and the programs in it, as in a container."""
    version = f"python3.{sys.version_info.minor}"
    library = tmp_path / "lib" / version
    library.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), tmp_path / "bin" / version)
    (tmp_path / "bin" / "python").symlink_to(version)
    standard = Path(sysconfig.get_path("stdlib"))
    for path in (*standard.iterdir(), *standard.parent.glob("libpython*")):
        if not path.name.endswith("-packages"):
            (tmp_path / path.relative_to(standard.parent.parent)).symlink_to(path)
    ask = [str(tmp_path / "bin" / "python"), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, capture_output=True, text=True, timeout=HANG).stdout.strip())
    assert site.is_relative_to(tmp_path)
    site.mkdir(parents=True)
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if each.suffix != ".pth":
            (site / each.name).symlink_to(each)
    shutil.copytree(ROOT / "one_provider_mad", site / "one_provider_mad", ignore=shutil.ignore_patterns("__pycache__"))
    for program in (ROOT / "bin").iterdir():
        shutil.copy(program, tmp_path / "bin")
    return tmp_path


def test_a_python_without_environment_runs_the_package_that_is_installed_in_it(installed: Path) -> None:
    for program in ("one_vmm_provider", "one_im_provider", "one-provider"):
        done = subprocess.run([installed / "bin" / program, "--version"], capture_output=True, text=True, timeout=HANG)
        assert (done.stdout, done.stderr) == (VERSION, "")


def test_programs_without_a_python_beside_them_name_the_way_to_install_them(tmp_path: Path) -> None:
    """As after `pip install --user`, or with Debian's pip as root: the Python is in /usr/bin."""
    shutil.copytree(ROOT / "bin", tmp_path / "bin")
    package = tmp_path / "lib" / "python3.11" / "dist-packages" / "one_provider_mad"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "one_provider_mad" / "cannot_start.sh", package)
    done = subprocess.run([tmp_path / "bin" / "one-provider", "check"], capture_output=True, text=True, timeout=HANG)
    remedy = "install one-provider-mad in an environment, with python3 -m venv or pipx"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"one-provider: no Python is in {tmp_path}/bin: {remedy}\n"
