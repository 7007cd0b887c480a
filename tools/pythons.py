"""Prints the Pythons of this machine that can run the project, one path a line, the newest first.

Looks on PATH, where Debian and python.org's installer put them, and in pyenv's folder, whose versions are on PATH only
when they are selected. Two paths that lead to one version of one installation are printed once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST = (3, 11)
_DESCRIBE = "import sys; print(*sys.version_info[:3], sys.implementation.name, sys.base_prefix)"

Version = tuple[int, int, int]


def find_pythons(path: str, pyenv: Path) -> list[Path]:
    """Return one interpreter for each installed version, the newest first.

    Args:
        path: PATH.
        pyenv: pyenv's folder, which need not exist.
    """
    found: dict[tuple[Version, str], Path] = {}
    for candidate in _candidates(path, pyenv):
        if described := _describe(candidate):
            found.setdefault(described, candidate)
    return [found[key] for key in sorted(found, reverse=True)]


def _candidates(path: str, pyenv: Path) -> Iterator[Path]:
    folders = [Path(folder) for folder in path.split(os.pathsep) if folder]
    for folder in [*folders, *sorted(pyenv.glob("versions/*/bin"))]:
        if folder != pyenv / "shims":  # each shim runs the selected version, which is in the versions folder too
            yield from sorted(folder.glob("python3.[0-9][0-9]"))


def _describe(python: Path) -> tuple[Version, str] | None:
    """Return the version and the installation of a Python; None if it does not run, or cannot run the project."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _DESCRIBE], capture_output=True, text=True, timeout=20, check=True, env={}
        )
        major, minor, micro, implementation, prefix = done.stdout.strip().split(" ", 4)
        version = (int(major), int(minor), int(micro))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return (version, prefix) if implementation == "cpython" and version >= OLDEST else None


def main() -> int:
    """Print the interpreters; 1 if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    pythons = find_pythons(os.environ.get("PATH", os.defpath), pyenv)
    for python in pythons:
        print(python)
    if not pythons:
        print("make: Python 3.11 or newer is needed, and none is on PATH or in pyenv's folder", file=sys.stderr)
    return 0 if pythons else 1


if __name__ == "__main__":
    sys.exit(main())
