"""Renews requirements/: the newest versions that pyproject.toml admits, exact and with hashes; prints what changed.

runtime.txt has what the drivers need, with the extras ec2 and metrics; dev.txt what tests and lint need beside it;
build.txt what builds the project; release.txt the tools of `make release`; uv.txt uv itself, which resolves here and
installs in `make setup`. Each is one set for all supported Pythons, with environment markers where they differ, and
has wheels for them on both processors.

`--oldest FOLDER` copies the checkout to FOLDER, and locks there the oldest versions that pyproject.toml admits.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bootstrap import BUILD, DEV, RUNTIME, UV, Environment, SetupError, Tools

ROOT = Path(__file__).parent.parent
INDEX = "https://pypi.org/simple"
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")
"""What Debian 12, EL 9 and Ubuntu 22.04, and all newer ones, can load."""
HEADER = "# Renewed by `make lock`, which takes the newest versions that pyproject.toml admits; do not edit.\n"
RELEASE = "requirements/release.txt"
FILES = (RUNTIME, DEV, BUILD, RELEASE, UV)
WHEELS = ("--only-binary", ":all:", "--no-binary", "forbiddenfruit")  # which is published as its source alone
MADE = (".git", ".venv*", ".*_cache", ".hypothesis", ".coverage*", "__pycache__", "*.egg-info", "build", "dist")
EXTRAS = ("--extra", "ec2", "--extra", "metrics")


def versions_of(text: str) -> dict[str, str]:
    """The locked version of each package of a requirements file; both, where it differs between Pythons."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", text):
        found.setdefault(name.lower(), []).append(version)
    return {name: " and ".join(dict.fromkeys(versions)) for name, versions in found.items()}


def changes(old: str, new: str) -> list[str]:
    """A line for each package that was added, removed or changed between two requirements files."""
    before, after = versions_of(old), versions_of(new)
    lines = []
    for name in sorted(before | after):
        if name not in before:
            lines.append(f"{name} {after[name]} (new)")
        elif name not in after:
            lines.append(f"{name} {before[name]} (no longer needed)")
        elif before[name] != after[name]:
            lines.append(f"{name} {before[name]} -> {after[name]}")
    return lines


class Lock:
    """Writes the files of requirements/ in one checkout.

    Args:
        root: the checkout.
        tools: where uv is.
        resolution: "highest", or "lowest-direct" for the oldest versions that pyproject.toml admits.
    """

    def __init__(self, root: Path, tools: Tools, resolution: str = "highest") -> None:
        self.root = root
        self.tools = tools
        self.resolution = resolution

    def write(self) -> None:
        """Write all files, or after an error none.

        Raises:
            SetupError: pyproject.toml admits no set, or a Python or processor gets not all of it as wheels.
        """
        earlier = {name: _text(self.root / name) for name in FILES}
        (self.root / "requirements").mkdir(exist_ok=True)
        try:
            self._compile(RUNTIME, "pyproject.toml", *EXTRAS, "--resolution", self.resolution)
            self._compile(DEV, "--group", "dev", "--constraints", RUNTIME)
            self._compile(BUILD, "-", text="setuptools")
            self._compile(RELEASE, "--group", "release")
            self._compile(UV, "-", text="uv")
            if self.resolution == "highest":
                self._check_wheels()
        except BaseException:
            for name, text in earlier.items():
                (self.root / name).write_text(text)
            raise

    def _check_wheels(self) -> None:
        for name in FILES:
            for python in PYTHONS:
                for platform in PLATFORMS:
                    with tempfile.TemporaryDirectory() as folder:
                        where = ["--target", folder, "--python-version", python, "--python-platform", platform]
                        hashed = ["--no-deps", "--require-hashes", *WHEELS, "-r", name]
                        self._uv("install", "--dry-run", *where, *hashed)

    def _compile(self, name: str, *arguments: str, text: str = "") -> None:
        kept = ["--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
        resolved = ["--universal", "--python-version", PYTHONS[0], "--upgrade", *WHEELS]
        path = self.root / name
        self._uv("compile", *arguments, *kept, *resolved, "--output-file", name, text=text)
        path.write_text(HEADER + path.read_text().replace("-r -", "make lock"))

    def _uv(self, command: str, *arguments: str, text: str = "") -> None:
        """Run uv on PyPI alone: no setting or index of this machine decides what others install."""
        uv = [str(self.tools.uv), "pip", command, "-q", "--no-config", "--default-index", INDEX, *arguments]
        own = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
        settings = own | self.tools.settings | {"UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "1"}
        done = subprocess.run(uv, cwd=self.root, input=text, capture_output=True, text=True, check=False, env=settings)
        if done.returncode:
            raise SetupError(f"uv pip {command} {' '.join(arguments)} failed", done.stderr)


def copy_checkout(target: Path) -> None:
    """Copy this checkout, without what was made in it; an environment that is in the copy stays."""
    for path in target.iterdir() if target.exists() else ():
        if path.is_dir() and path.name != ".venv":
            shutil.rmtree(path)
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*MADE), dirs_exist_ok=True)


def main(argv: list[str]) -> int:
    """Renew the files and print what changed, or write the oldest versions into a copy."""
    parser = argparse.ArgumentParser(prog="lock.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--oldest", metavar="FOLDER", type=Path, help="copy the checkout, with the oldest versions")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="one-provider-mad-") as folder:
        environment = Environment(ROOT, Path(folder) / "environment")
        try:
            environment.create(sys.executable)
            tools = environment.fetch_tools(Path(folder) / "tools")
            if not tools.uv:
                raise SetupError(
                    "uv cannot be had from this machine's index for Python packages, and nothing else locks"
                )
            if arguments.oldest:
                copy_checkout(arguments.oldest)
                Lock(arguments.oldest, tools, "lowest-direct").write()
                return 0
            earlier = {name: _text(ROOT / name) for name in FILES}
            Lock(ROOT, tools).write()
        except SetupError as error:
            print(error.output, f"make: {error}", sep="\n", file=sys.stderr)
            return 1
    for name, text in earlier.items():
        print(f"{name}: {'; '.join(changes(text, _text(ROOT / name))) or 'unchanged'}")
    return 0


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
