"""Builds the packages of this tree and of 0.1.0 once, and gives each module a fresh root of each suite.

BUILT names a folder for the packages: those that it has are tested, and not built.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.packages.debian_root import Root, unpacked

BUILD = Path(__file__).parents[2] / "packaging" / "build.py"
OLD = "744286b"
"""The commit that is 0.1.0."""

TARGETS = {"bookworm": "deb12", "trixie": "deb13"}


class Packages(NamedTuple):
    """The packages for one distribution: 0.1.0's, and this tree's."""

    old: Path
    new: Path


def build(folder: Path, *arguments: str) -> Path:
    """Build one package, compressed less, unless the folder has it; return its path."""
    folder.mkdir(exist_ok=True, parents=True)
    if there := list(folder.glob("*")):
        return there[0]
    command = [sys.executable, str(BUILD), "--quick", "--out", str(folder), *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Path(printed.split("  ")[0])


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Packages]:
    folder = Path(os.environ.get("BUILT") or tmp_path_factory.mktemp("packages"))

    def packages_for(target: str) -> Packages:
        old = build(folder / target / "old", "--rev", OLD, target)
        return Packages(old=old, new=build(folder / target / "new", target))

    return packages_for


@pytest.fixture(scope="module", params=list(TARGETS))
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def roots() -> Path:
    """The folder that keeps the archives of fresh roots."""
    return Path(os.environ.get("ROOTS", "dist/roots")).resolve()


@pytest.fixture(scope="module")
def packages(suite: str, built: Callable[[str], Packages]) -> Packages:
    return built(TARGETS[suite])


@pytest.fixture(scope="module")
def root(suite: str, roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    with unpacked(suite, tmp_path_factory.mktemp(suite), roots) as fresh:
        yield fresh
