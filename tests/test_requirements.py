"""What is locked in requirements/: exact, checked by hashes, from no particular index, and as pyproject.toml asks."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = ("runtime.txt", "dev.txt", "build.txt", "release.txt", "uv.txt")
EXTRAS = PROJECT["project"]["optional-dependencies"]
PYTHONS = ("3.11", "3.12", "3.13")


def locked(name: str) -> dict[str, Requirement]:
    """The packages of a file, by name."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = [line.split("--hash")[0] for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = [Requirement(line) for line in lines]
    assert found
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def version_of(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "tools")
    spec = importlib.util.spec_from_file_location("lock", ROOT / "tools" / "lock.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lock", module)
    monkeypatch.delitem(sys.modules, "bootstrap", raising=False)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FILES)
def test_each_locked_package_has_one_version_and_hashes(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert text.startswith("# Renewed by `make lock`"), "the first line says how"
    for entry in re.split(r"(?m)^(?=[a-z])", text)[1:]:
        assert "==" in entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry


@pytest.mark.parametrize("name", FILES)
def test_no_index_and_no_path_of_a_machine_is_in_a_lock(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert not re.findall(r"(?m)://|index-url|find-links|trusted-host|^-|(?<![\w./])/[a-z]", text)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        pytest.param("runtime.txt", PROJECT["project"]["dependencies"], id="drivers"),
        pytest.param("runtime.txt", EXTRAS["ec2"] + EXTRAS["metrics"], id="extras"),
        pytest.param("dev.txt", PROJECT["dependency-groups"]["dev"], id="tests-and-lint"),
        pytest.param("release.txt", PROJECT["dependency-groups"]["release"], id="release"),
        pytest.param("build.txt", PROJECT["build-system"]["requires"], id="build"),
    ],
)
def test_locked_versions_satisfy_the_project(name: str, wanted: list[str]) -> None:
    packages = locked(name)
    for requirement in map(Requirement, wanted):
        version = version_of(packages[canonicalize_name(requirement.name)])
        assert requirement.specifier.contains(version), f"{requirement} and {version}: run make lock"


@pytest.mark.parametrize("name", ["dev.txt", "build.txt"])
def test_tests_run_with_the_versions_that_the_drivers_run_with(name: str) -> None:
    runtime, other = locked("runtime.txt"), locked(name)
    assert [
        str(other[each]) for each in runtime.keys() & other.keys() if other[each].specifier != runtime[each].specifier
    ] == []


def test_the_locked_set_is_complete_for_each_python(lock: ModuleType) -> None:
    assert lock.PYTHONS == PYTHONS
    supported = {f"Programming Language :: Python :: {version}" for version in PYTHONS}
    assert supported == {each for each in PROJECT["project"]["classifiers"] if "Python :: 3." in each}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("", "a==1 \\\n    --hash=sha256:0\n", ["a 1 (new)"], id="new"),
        pytest.param("a==1\n", "", ["a 1 (no longer needed)"], id="removed"),
        pytest.param("a==1\nb==2\n", "a==1.1 \\\nb==2\n", ["a 1 -> 1.1"], id="changed"),
        pytest.param("a==1\n", "# comment\na==1 ; python_version < '3.13'\n", [], id="unchanged"),
        pytest.param(
            "a==1\n",
            "a==1 ; python_version < '3.12'\na==2 ; python_version >= '3.12'\n",
            ["a 1 -> 1 and 2"],
            id="it-differs-between-pythons",
        ),
    ],
)
def test_what_changed_is_told_by_old_and_new_version(
    lock: ModuleType, *, old: str, new: str, expected: list[str]
) -> None:
    assert lock.changes(old, new) == expected


def test_the_copy_for_the_oldest_versions_has_the_sources_and_nothing_made(
    lock: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, copy = tmp_path / "checkout", tmp_path / "copy"
    for name in ("tests/test_it.py", ".git/HEAD", ".venv/set-up.json", "build/oldest/README", ".ci/run"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("new")
    monkeypatch.setattr(lock, "ROOT", root)
    for name in (".venv/bin/python", "tests/test_of_yesterday.py"):
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    lock.copy_checkout(copy)
    files = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert files == [".ci/run", ".venv/bin/python", "tests/test_it.py"]
