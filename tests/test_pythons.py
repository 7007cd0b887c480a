"""tools/pythons.py, with shell scripts that answer as Pythons do."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "pythons.py"


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pythons", TOOL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def install(folder: Path, name: str, answer: str) -> Path:
    """Write a program that prints the answer as a Python would, or fails without one."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / name
    python.write_text(f"#!/bin/sh\necho '{answer}'\n" if answer else "#!/bin/sh\nexit 127\n")
    python.chmod(0o755)
    return python


def test_pythons_of_path_and_pyenv_are_listed_newest_first(tool: ModuleType, tmp_path: Path) -> None:
    debian = install(tmp_path / "usr", "python3.11", "3 11 2 cpython /usr")
    middle = install(tmp_path / "pyenv/versions/3.12.1/bin", "python3.12", "3 12 1 cpython /pyenv/3.12.1")
    newest = install(tmp_path / "pyenv/versions/3.13.10/bin", "python3.13", "3 13 10 cpython /pyenv/3.13.10")
    older = install(tmp_path / "pyenv/versions/3.13.9/bin", "python3.13", "3 13 9 cpython /pyenv/3.13.9")

    assert tool.find_pythons(str(tmp_path / "usr"), tmp_path / "pyenv") == [newest, older, middle, debian]


def test_pythons_that_cannot_run_the_project_are_left_out(tool: ModuleType, tmp_path: Path) -> None:
    install(tmp_path / "usr", "python3.10", "3 10 13 cpython /usr")
    install(tmp_path / "usr", "python3.12", "3 12 0 pypy /usr")
    install(tmp_path / "usr", "python3.13", "")
    (tmp_path / "usr" / "python3.14").symlink_to("removed")

    assert tool.find_pythons(str(tmp_path / "usr"), tmp_path / "pyenv") == []


def test_one_installation_under_two_paths_is_listed_once(tool: ModuleType, tmp_path: Path) -> None:
    first = install(tmp_path / "usr", "python3.11", "3 11 2 cpython /usr")
    install(tmp_path / "bin", "python3.11", "3 11 2 cpython /usr")
    install(tmp_path / "pyenv/shims", "python3.11", "3 11 7 cpython /pyenv/3.11.7")

    path = os.pathsep.join(str(tmp_path / folder) for folder in ("usr", "bin", "pyenv/shims"))
    assert tool.find_pythons(path, tmp_path / "pyenv") == [first]
