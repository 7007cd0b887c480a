"""Builds `.venv` at the root: the project itself, what it imports, and the tools that check it.

Needs a Python with the venv module and any pip, and works where ensurepip is missing (Debian keeps it in
python3-venv) and where the system's packages may not be touched (PEP 668): nothing is installed outside `.venv`.
Called again it costs nothing; after an interruption it begins anew.
"""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INPUTS = ("pyproject.toml", "setup.cfg", "tools/bootstrap.py")
NO_PIP = (0, 0)
PIP_WITH_PYTHON_OPTION = (22, 3)
CLEARED = ("PIP_NO_COMPILE", "PIP_PREFIX", "PIP_TARGET", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH")
"""Settings of a person's own that would lead pip, or what it starts, elsewhere."""
SETTINGS = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_USER": "0",
}


class SetupError(Exception):
    """The set-up cannot go on; the sentence says what to do."""


class Environment:
    """The virtual environment of one checkout.

    Args:
        root: the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.python = self.folder / "bin" / "python"
        self.stamp = self.folder / "set-up.json"
        self.unfinished = self.folder / "unfinished"

    def wanted(self) -> dict[str, str]:
        """What a finished environment is marked with; another root, Python or pyproject.toml makes it stale."""
        digest = hashlib.sha256()
        for name in INPUTS:
            path = self.root / name
            digest.update(path.read_bytes() if path.exists() else b"")
        return {"root": str(self.root), "python": _describe_python(), "inputs": digest.hexdigest()}

    def found(self) -> dict[str, str]:
        """The mark of the last finished set-up; {} when there is none."""
        try:
            return dict(json.loads(self.stamp.read_text()))
        except (OSError, ValueError):
            return {}

    def is_usable(self) -> bool:
        """True when what is there can be completed; false when it has to be built anew."""
        if self.unfinished.exists() or not os.access(self.python, os.X_OK):
            return False
        found, wanted = self.found(), self.wanted()
        if found:
            return all(found.get(name) == wanted[name] for name in ("root", "python"))
        asked = _ask([str(self.python), "-c", f"import sys; print({_DESCRIPTION})"])
        return asked == wanted["python"]

    def create(self) -> None:
        """Make it empty, without pip."""
        try:
            import venv
        except ImportError:
            message = "this Python has no venv module; on Debian it is in libpython3-stdlib"
            raise SetupError(message) from None
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.unfinished.touch()
        venv.EnvBuilder(with_pip=False, symlinks=True).create(self.folder)

    def install(self) -> None:
        """Install the project in place, with everything it names, and compile it to bytecode."""
        self.unfinished.touch()
        # "compat" puts the root on the path by a plain .pth; setuptools' own import hook costs each start 10 ms.
        editable = ["--config-settings", "editable_mode=compat", "--editable", f"{self.root}[dev]"]
        _run([*self._pip(), "install", "-qq", *editable])
        self.compile()
        self.stamp.write_text(json.dumps(self.wanted(), indent=1))
        self.unfinished.unlink()

    def compile(self) -> None:
        """Compile what is not compiled: the user that runs the driver later may not write here."""
        compileall.compile_dir(self.root / "one_provider_mad", quiet=2)

    def _pip(self) -> list[str]:
        """A pip that installs into this environment, in the order of what it costs."""
        own = [str(self.python), "-m", "pip"]
        if _pip_version(own) > NO_PIP:
            return own
        outside = next((pip for pip in _outside_pips() if _pip_version(pip) > NO_PIP), None)
        if outside and _pip_version(outside) >= PIP_WITH_PYTHON_OPTION:
            return [*outside, "--python", str(self.python)]
        if _ask([str(self.python), "-m", "ensurepip"]) is not None:
            return own
        if outside:
            packages = _ask([str(self.python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
            _run([*outside, "install", "-qq", "--target", str(packages), "pip"])
            return own
        raise SetupError("there is no pip; on Debian it is in python3-pip")


_DESCRIPTION = "f'{sys.version.split()[0]} {sys.base_prefix}'"


def _describe_python() -> str:
    return f"{sys.version.split()[0]} {sys.base_prefix}"


def _outside_pips() -> Iterator[list[str]]:
    yield [sys.executable, "-m", "pip"]
    for name in ("python3", "pip3", "pip"):
        if path := shutil.which(name):
            yield [path, "-m", "pip"] if name == "python3" else [path]


def _pip_version(pip: list[str]) -> tuple[int, int]:
    """The version of this pip; NO_PIP when it does not run."""
    match = re.match(r"pip (\d+)\.(\d+)", _ask([*pip, "--version"]) or "")
    return (int(match[1]), int(match[2])) if match else NO_PIP


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in CLEARED} | SETTINGS


def _ask(command: list[str]) -> str | None:
    """What the command prints; None when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _run(command: list[str]) -> None:
    if subprocess.run(command, env=_environment(), check=False).returncode:
        raise SetupError("a package could not be installed, see above; the next make tries again")


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Wait until no other set-up of this checkout runs."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def set_up(root: Path) -> None:
    """Bring the environment of this checkout up to date, if it is not."""
    environment = Environment(root)
    with _alone(root):
        if environment.found() == environment.wanted() and os.access(environment.python, os.X_OK):
            environment.compile()
            return
        print("Setting up .venv (once, about a minute)", flush=True)
        if not environment.is_usable():
            environment.create()
        environment.install()
        _tell_if_private(environment.python)


def _tell_if_private(python: Path) -> None:
    """OpenNebula starts the drivers as its own user; a Python in a user's home is often closed to others."""
    real = Path(os.path.realpath(python))
    for path in (real, *real.parents):
        if not path.stat().st_mode & 0o001:
            print(f"Note: {path} is closed to other users, so OpenNebula's own cannot start the drivers from here")
            return


def main(argv: list[str]) -> int:
    """Set up the checkout this file is in, or the one that is named."""
    root = Path(argv[0] if argv else Path(__file__).parent.parent).resolve()
    if Path(sys.prefix) == root / ".venv":  # activated: what may be removed must not be what runs
        python = os.path.realpath(sys.executable)
        os.execv(python, [python, __file__, str(root)])
    try:
        set_up(root)
    except SetupError as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
