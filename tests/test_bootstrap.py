"""Set up `.venv` for a project without dependencies, so that nothing is downloaded."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.waiting import HANG

BOOTSTRAP = Path(__file__).parent.parent / "tools" / "bootstrap.py"
BASE = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tiny"
version = "1"
"""

BACKEND = '''
"""Pretends to be setuptools, which would have to be downloaded."""
import pathlib
import zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    assert config_settings == {"editable_mode": "compat"}
    if pathlib.Path("broken").exists():
        raise RuntimeError("broken")
    info = "tiny-1.dist-info"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, "tiny-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("tiny.pth", f"{pathlib.Path.cwd()}\\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "tiny.pth,,\\n")
    return "tiny-1-py3-none-any.whl"
'''


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", BOOTSTRAP)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bootstrap", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "a checkout"
    (root / "one_provider_mad").mkdir(parents=True)
    (root / "one_provider_mad" / "__init__.py").touch()
    (root / "requirements").mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    return root


@pytest.fixture
def environment(bootstrap: ModuleType, checkout: Path) -> Any:
    """A finished environment of this Python, with nothing in it."""
    environment = bootstrap.Environment(checkout)
    environment.create(str(BASE))
    environment.mark()
    (checkout / ".venv" / "of-the-first").touch()
    return environment


@pytest.fixture
def debian_python(tmp_path: Path) -> Path:
    """A Python as installed by Debian's python3 and python3-pip: no ensurepip, and externally managed."""
    place = subprocess.run([BASE, "-c", "import pip; print(pip.__path__[0])"], capture_output=True, text=True)
    if place.returncode:
        pytest.skip(f"{BASE} has no pip to lend")
    standard = Path(sysconfig.get_path("stdlib"))
    library = tmp_path / "debian" / "lib" / standard.name
    library.mkdir(parents=True)
    for entry in standard.iterdir():
        if entry.name not in {"ensurepip", "site-packages", "dist-packages"}:
            (library / entry.name).symlink_to(entry)
    for packages in (library / "site-packages", library / "dist-packages"):
        packages.mkdir()
        (packages / "pip").symlink_to(place.stdout.strip())
    (library / "EXTERNALLY-MANAGED").unlink(missing_ok=True)
    (library / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=hands off\n")
    python = tmp_path / "debian" / "bin" / "python3"
    python.parent.mkdir()
    shutil.copy(BASE, python)
    return python


def lock(checkout: Path, name: str, package: str) -> None:
    """Publish a package with one module in the checkout's folder of wheels, and lock it in a file of requirements/."""
    wheels = checkout / "wheels"
    wheels.mkdir(exist_ok=True)
    wheel = wheels / f"{package}-1-py3-none-any.whl"
    info = f"{package}-1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{package}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    hashed = f"{package}==1 --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n"
    (checkout / "requirements" / name).write_text(hashed)


def set_up(python: Path, checkout: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": (checkout / "wheels").as_uri(),
        "PIP_NO_INDEX": "1",
    }
    command: list[Path | str] = [python, BOOTSTRAP, *options, checkout]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANG)


def imports(checkout: Path, module: str) -> bool:
    return subprocess.run([checkout / ".venv/bin/python", "-I", "-c", f"import {module}"]).returncode == 0


@pytest.mark.soak  # runs pip ten times, which takes as many seconds of CPU time
def test_the_set_up_works_with_a_python_without_ensurepip(debian_python: Path, checkout: Path) -> None:
    absent = subprocess.run([debian_python, "-c", "import ensurepip"], capture_output=True, text=True)
    assert "No module named 'ensurepip'" in absent.stderr
    lock(checkout, "runtime.txt", "needed_by_drivers")
    lock(checkout, "dev.txt", "needed_by_tests")

    (checkout / "broken").touch()
    failed = set_up(debian_python, checkout)
    assert failed.returncode == 1
    assert failed.stderr.endswith("make: a package could not be installed, see above; the next make tries again\n")
    assert "the project itself" in failed.stdout.splitlines()[-1]
    assert "not done" in failed.stdout.splitlines()[-1]
    (checkout / "broken").unlink()
    (checkout / ".venv" / "left-behind").touch()

    done = set_up(debian_python, checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (checkout / ".venv" / "left-behind").exists(), "an interrupted set-up is built anew"
    found = subprocess.run(
        [checkout / ".venv/bin/python", "-I", "-c", "import one_provider_mad; print(one_provider_mad.__cached__)"],
        capture_output=True,
        text=True,
    )
    assert Path(found.stdout.strip()).is_file(), "it can be imported, and is compiled"
    assert imports(checkout, "needed_by_drivers")
    assert not imports(checkout, "needed_by_tests")

    again = set_up(debian_python, checkout)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    (checkout / ".venv" / "still-there").touch()
    assert set_up(debian_python, checkout, "--dev").returncode == 0
    assert imports(checkout, "needed_by_tests")
    assert (checkout / ".venv" / "still-there").exists(), "what tests and lint need is added"

    (checkout / "requirements" / "runtime.txt").write_text(f"needed_by_drivers==1 --hash=sha256:{'0' * 64}\n")
    forged = set_up(debian_python, checkout)
    assert forged.returncode == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in forged.stderr
    assert (checkout / ".venv" / "still-there").exists(), "the environment from before is back"


@pytest.mark.parametrize(
    ("own", "outside", "has_ensurepip", "expected"),
    [
        pytest.param("pip 23.2.1 from x", "pip 23.0.1 from y", True, "own", id="own-pip"),
        pytest.param(None, "pip 23.0.1 from y", False, "outside --python", id="debian-12"),
        pytest.param(None, "pip 22.3 from y", True, "outside --python", id="first-pip-with-the-option"),
        pytest.param(None, "pip 22.0.2 from y", True, "own", id="old-pip-but-ensurepip"),
        pytest.param(None, "pip 22.0.2 from y", False, "own after --target", id="old-pip-alone"),
        pytest.param(None, None, True, "own", id="ensurepip-alone"),
    ],
)
def test_the_cheapest_available_pip_is_used(
    bootstrap: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    *,
    own: str | None,
    outside: str | None,
    has_ensurepip: bool,
    expected: str,
) -> None:
    environment = bootstrap.Environment(Path("/nowhere"))
    own_python = str(environment.python)
    ran: list[list[str]] = []

    def ask(command: list[str]) -> str | None:
        """Pretends to run a command."""
        if command[-1] == "--version":
            return own if command[0] == own_python else outside
        if command[-1] == "ensurepip":
            return "" if has_ensurepip else None
        return "/nowhere/site-packages"

    monkeypatch.setattr(bootstrap, "_ask", ask)
    monkeypatch.setattr(bootstrap, "_install", ran.append)
    pip = environment._pip()
    kind = "outside --python" if pip[-2:] == ["--python", own_python] else "own"
    assert kind + (" after --target" if ran else "") == expected


def test_without_any_pip_the_error_names_the_package_to_install(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "_ask", lambda command: None)
    with pytest.raises(bootstrap.SetupError, match="there is no pip; on Debian it is in python3-pip"):
        bootstrap.Environment(Path("/nowhere"))._pip()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param("", {}, id="none"),
        pytest.param(
            "global.index-url='https://pypi.example.com/simple'\n:env:.cert='/etc/ca.pem'\nglobal.timeout='60'",
            {"UV_DEFAULT_INDEX": "https://pypi.example.com/simple", "SSL_CERT_FILE": "/etc/ca.pem"},
            id="an-index-of-the-company",
        ),
        pytest.param(":env:.no-index='1'\n:env:.find-links='/wheels'", None, id="wheels-on-disk"),
        pytest.param("global.trusted-host='pypi.example.com'", None, id="an-index-without-a-certificate"),
    ],
)
def test_uv_is_given_the_settings_of_pip_or_is_not_used(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, *, settings: str, expected: dict[str, str] | None
) -> None:
    monkeypatch.setattr(bootstrap, "_ask", lambda command: settings)
    assert bootstrap._settings_for_uv(["pip"]) == expected


def test_pip_installs_what_uv_could_not(
    bootstrap: ModuleType,
    environment: Any,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lock(checkout, "runtime.txt", "needed_by_drivers")
    by_pip: list[str] = []
    monkeypatch.setattr(environment, "_pip", lambda: ["pip"])
    monkeypatch.setattr(bootstrap, "_install", lambda command, **settings: by_pip.extend(command))
    environment.install(bootstrap.RUNTIME, bootstrap.Tools(checkout, uv=checkout / "of-another-processor"))
    assert "uv failed, pip takes over: " in capsys.readouterr().out
    assert by_pip[:2] == ["pip", "install"]
    assert "--require-hashes" in by_pip
    assert by_pip[-3:-1] == ["-r", str(checkout / "requirements" / "runtime.txt")]


def test_a_finished_environment_is_left_as_it_is(environment: Any, checkout: Path) -> None:
    done = set_up(BASE, checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (checkout / ".venv" / "of-the-first").exists()


def test_an_environment_of_another_python_stays_unless_that_is_named(
    bootstrap: ModuleType,
    environment: Any,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = f"Python {sys.version_info.major}.{sys.version_info.minor} ({sys.base_prefix})"
    monkeypatch.setattr(bootstrap, "_this_python", lambda: bootstrap.Base("3.99", "/opt", "/opt/bin/python3.99"))
    bootstrap.set_up(checkout)
    assert capsys.readouterr().out == (
        f"Note: .venv was made by {ours}, which stays in use; REPLACE=1 makes it anew with Python 3.99 (/opt)\n"
    )
    with pytest.raises(bootstrap.SetupError) as refusal:
        bootstrap.set_up(checkout, named=True)
    assert str(refusal.value) == (
        f".venv was made by {ours}, and Python 3.99 (/opt) is asked for; with REPLACE=1 it is made anew"
    )
    assert (checkout / ".venv" / "of-the-first").exists()


@pytest.fixture(params=["by-its-path", "through-a-link"])
def running(request: pytest.FixtureRequest, environment: Any, tmp_path: Path) -> Iterator[int]:
    """A process that runs from the environment, as the drivers do; its id."""
    script = tmp_path / "one_vmm_provider"
    script.write_text("print('started', flush=True)\ninput()\n")
    python = str(environment.python)
    if request.param == "through-a-link":
        python = str(environment.root / "one_provider_mad" / ".." / ".venv" / "bin" / "python")
    process = subprocess.Popen([python, "-I", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    yield process.pid
    process.stdin.close()
    process.stdout.close()
    process.wait(HANG)


def test_an_environment_that_a_process_runs_from_is_not_replaced(running: int, checkout: Path) -> None:
    lock(checkout, "runtime.txt", "needed_by_drivers")
    refused = set_up(BASE, checkout)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"make: .venv has to be made anew, and one_vmm_provider (process {running}) runs from it; end that first"
        " (a driver: stop OpenNebula), or REPLACE=1 makes it anew all the same\n"
    )
    assert (checkout / ".venv" / "of-the-first").exists()


def test_a_process_that_has_loaded_a_library_of_the_environment_runs_from_it(
    bootstrap: ModuleType, environment: Any
) -> None:
    library = Path(
        subprocess.check_output([BASE, "-c", "import _decimal; print(_decimal.__file__)"], text=True).strip()
    )
    copy = environment.packages() / library.name
    shutil.copy(library, copy)
    load = f"import ctypes; ctypes.CDLL({str(copy)!r}); print('started', flush=True); input()"
    process = subprocess.Popen([BASE, "-c", load], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        assert list(bootstrap.processes_of(environment.folder)) == [process.pid]
        assert process.stdin
        process.stdin.close()
    assert bootstrap.processes_of(environment.folder) == {}


def test_the_earlier_environment_comes_back_after_an_error_and_goes_after_success(
    bootstrap: ModuleType, environment: Any
) -> None:
    mark = environment.folder / "of-the-first"
    with pytest.raises(bootstrap.SetupError, match="cannot make an environment"), environment.replaced():
        environment.create("/nowhere/python3")
    assert mark.exists()

    with environment.replaced():
        environment.create(str(BASE))
        environment.mark()
    assert not mark.exists()
    assert environment.is_finished()
    assert not environment.earlier.exists()


def test_the_earlier_environment_comes_back_at_the_next_start_after_a_kill(environment: Any, checkout: Path) -> None:
    environment.folder.rename(environment.earlier)
    environment.create(str(BASE))
    done = set_up(BASE, checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (checkout / ".venv" / "of-the-first").exists()
    assert not environment.earlier.exists()


@pytest.mark.parametrize(
    ("change", "is_finished"),
    [
        pytest.param({}, True, id="same"),
        pytest.param({"inputs": "other"}, False, id="other-packages"),
        pytest.param({"root": "/elsewhere"}, False, id="moved-checkout"),
    ],
)
def test_an_environment_is_finished_only_if_complete_and_of_this_checkout(
    environment: Any, *, change: dict[str, str], is_finished: bool
) -> None:
    environment.stamp.write_text(json.dumps(environment.wanted() | change))
    assert environment.is_finished() is is_finished
    environment.unfinished.touch()
    assert not environment.is_finished(), "it was interrupted"


@pytest.mark.parametrize(
    ("marked", "works"),
    [
        pytest.param(f"{sys.version_info.major}.{sys.version_info.minor}", True, id="same"),
        pytest.param(f"{sys.version_info.major}.{sys.version_info.minor}.0 /usr", True, id="marked-by-0.1.0"),
        pytest.param("3.1", False, id="the-distribution-has-another-python-now"),
    ],
)
def test_an_environment_works_only_with_the_python_that_it_was_made_of(
    environment: Any, *, marked: str, works: bool
) -> None:
    environment.stamp.write_text(json.dumps(environment.wanted() | {"python": marked}))
    assert bool(environment.base()) is works


@pytest.mark.parametrize(
    ("after", "changes"),
    [
        pytest.param(PYPROJECT.replace('version = "1"', 'version = "2"'), True, id="the-project"),
        pytest.param(PYPROJECT + "[tool.ruff]\n", False, id="a-tool"),
    ],
)
def test_only_changes_that_concern_packages_make_an_environment_stale(
    bootstrap: ModuleType, checkout: Path, *, after: str, changes: bool
) -> None:
    wanted = bootstrap.Environment(checkout).wanted()
    (checkout / "pyproject.toml").write_text(after)
    assert (bootstrap.Environment(checkout).wanted() != wanted) is changes


def test_a_step_is_printed_with_its_seconds_when_it_has_ended(
    bootstrap: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with bootstrap.Steps().step("compiling"):
        assert capsys.readouterr().out.startswith("  compiling ...")
    assert capsys.readouterr().out.strip().endswith(" s")
