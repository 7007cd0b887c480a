"""Set up `.venv` for a project without dependencies, so that nothing is downloaded."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

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
optional-dependencies = { dev = [] }
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
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\nProvides-Extra: dev\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "tiny.pth,,\\n")
    return "tiny-1-py3-none-any.whl"
'''


@pytest.fixture
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", BOOTSTRAP)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "a checkout"
    (root / "one_provider_mad").mkdir(parents=True)
    (root / "one_provider_mad" / "__init__.py").touch()
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    return root


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


def set_up(python: Path, checkout: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    command = [python, BOOTSTRAP, checkout]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANG)


@pytest.mark.soak  # installs all packages once more, which takes four seconds of CPU time
def test_the_set_up_works_with_a_python_without_ensurepip(debian_python: Path, checkout: Path) -> None:
    absent = subprocess.run([debian_python, "-c", "import ensurepip"], capture_output=True, text=True)
    assert "No module named 'ensurepip'" in absent.stderr

    (checkout / "broken").touch()
    failed = set_up(debian_python, checkout)
    assert failed.returncode == 1
    assert failed.stderr.endswith("make: a package could not be installed, see above; the next make tries again\n")
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

    again = set_up(debian_python, checkout)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


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
    monkeypatch.setattr(bootstrap, "_run", ran.append)
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
    ("change", "is_usable"),
    [
        pytest.param({}, True, id="same"),
        pytest.param({"inputs": "other"}, True, id="another-list-of-packages"),
        pytest.param({"root": "/elsewhere"}, False, id="moved-checkout"),
        pytest.param({"python": "3.10.1 /usr"}, False, id="another-python"),
    ],
)
def test_an_environment_is_usable_only_if_complete_and_of_this_checkout_and_python(
    bootstrap: ModuleType, checkout: Path, *, change: dict[str, str], is_usable: bool
) -> None:
    environment = bootstrap.Environment(checkout)
    assert not environment.is_usable(), "there is none yet"
    environment.python.parent.mkdir(parents=True)
    environment.python.symlink_to(BASE)
    environment.stamp.write_text(json.dumps(environment.wanted() | change))
    assert environment.is_usable() is is_usable
    environment.unfinished.touch()
    assert not environment.is_usable(), "it was interrupted"


def test_changed_requirements_change_the_wanted_environment(bootstrap: ModuleType, checkout: Path) -> None:
    before = bootstrap.Environment(checkout).wanted()
    (checkout / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    assert bootstrap.Environment(checkout).wanted() != before
