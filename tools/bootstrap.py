"""Builds `.venv` at the root: the locked packages that the drivers need, and the project itself, in place.

With `--dev` also the locked packages of tests and lint. Each package is checked against its hash in requirements/.
Needs a Python with the venv module and any pip, and works where ensurepip is missing (Debian keeps it in python3-venv)
and where the system's packages may not be touched (PEP 668): nothing is installed outside `.venv`. uv, if pip gets it,
installs the packages in a third of the time; else pip does.

Called again it costs nothing. An environment that works is replaced only when its packages have changed, and never
while a process runs from it, unless `--replace` asks for it; until the new one is complete, the earlier one is kept in
`.venv.old`, which comes back after an error or an interruption.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RUNTIME = "requirements/runtime.txt"
DEV = "requirements/dev.txt"
BUILD = "requirements/build.txt"
UV = "requirements/uv.txt"
INPUTS = (RUNTIME, BUILD, "setup.cfg", "tools/bootstrap.py")
PROJECT_TABLES = ("build-system", "project")
"""The tables of pyproject.toml that decide what is installed; the others configure tools."""

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
    "UV_LINK_MODE": "copy",  # a linked file would be shared with uv's cache, which a chown of .venv would change
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_SYSTEM_CERTS": "1",  # as pip does: a company's certificate authority is known to the system
}
UV_NAMES = {"cert": "SSL_CERT_FILE", "index-url": "UV_DEFAULT_INDEX", "proxy": "ALL_PROXY"}
"""pip's settings that uv must be given, since it does not read them."""
FOR_PIP_ALONE = ("client-cert", "keyring-provider", "no-index", "trusted-host")
"""pip's settings under which pip installs the packages itself."""
RARELY_IMPORTED = r"/pygments/(formatters|lexers|styles)/"
"""Files that rich loads to color source code, which no command prints: a third of the time that compiling takes."""


class SetupError(Exception):
    """The set-up cannot go on; the sentence says what to do.

    Attributes:
        output: the output of the failed command.
    """

    def __init__(self, sentence: str, output: str = "") -> None:
        super().__init__(sentence)
        self.output = output


class CommandError(Exception):
    """A command failed; the text is its output."""


class Steps:
    """Prints each step with its seconds; on a terminal they count up while the step lasts."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def seconds(self) -> float:
        """The seconds since the first step began."""
        return time.monotonic() - self.started

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Print the text, and the seconds when the block has ended."""
        line = f"  {text} ".ljust(58, ".")
        print(line, end="", flush=True)
        started, ended = time.monotonic(), threading.Event()

        def count() -> None:
            while not ended.wait(1):
                print(f"\r{line}{time.monotonic() - started:6.0f} s  ", end="", flush=True)

        counter = threading.Thread(target=count, daemon=True)
        if is_terminal := sys.stdout.isatty():
            counter.start()
        outcome = " not done"
        try:
            yield
            outcome = f"{time.monotonic() - started:6.1f} s"
        finally:
            ended.set()
            if is_terminal:
                counter.join()
                print(f"\r{line}", end="")
            print(outcome, flush=True)


@dataclass(frozen=True)
class Base:
    """An installed Python, of which an environment can be made.

    Attributes:
        version: "3.13"; an update of the last number leaves environments working.
        prefix: the folder it is installed in.
        executable: its path.
    """

    version: str
    prefix: str
    executable: str

    def __str__(self) -> str:
        return f"Python {self.version} ({self.prefix})"


@dataclass(frozen=True)
class Tools:
    """What installs packages.

    Attributes:
        folder: has setuptools, which builds the project.
        uv: the program; None where it cannot be had.
        settings: environment variables for uv.
    """

    folder: Path
    uv: Path | None = None
    settings: dict[str, str] = field(default_factory=dict)


class Environment:
    """The virtual environment of one checkout.

    Args:
        root: the checkout.
        folder: the environment; `.venv` in the checkout when not given.
    """

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        self.root = root
        self.folder = folder or root / ".venv"
        self.earlier = self.folder.with_name(f"{self.folder.name}.old")
        self.python = self.folder / "bin" / "python"
        self.stamp = self.folder / "set-up.json"
        self.dev_stamp = self.folder / "set-up-dev.json"
        self.unfinished = self.folder / "unfinished"

    def wanted(self) -> dict[str, str]:
        """What a finished environment is marked with; another root or other packages make it stale."""
        digest = hashlib.sha256()
        for name in INPUTS:
            path = self.root / name
            digest.update(path.read_bytes() if path.exists() else b"")
        tables = tomllib.loads((self.root / "pyproject.toml").read_text())
        digest.update(json.dumps([tables.get(name) for name in PROJECT_TABLES]).encode())
        return {"root": str(self.root), "inputs": digest.hexdigest()}

    def wanted_dev(self) -> dict[str, str]:
        """What an environment with the packages of tests and lint is marked with beside that."""
        path = self.root / DEV
        return {"inputs": hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()}

    def base(self) -> Base | None:
        """The Python this environment was made of; None if it is not complete or does not run."""
        marked = _read(self.stamp).get("python")
        if self.unfinished.exists() or not os.access(self.python, os.X_OK):
            return None
        asked = _ask([str(self.python), "-c", _DESCRIBE])
        base = Base(*asked.split("\n")) if asked and asked.count("\n") == 2 else None
        # Debian's next release has another Python at the same path: then the packages are in no folder of its own.
        return base if base and (marked is None or f"{marked}.".startswith(f"{base.version}.")) else None

    def is_finished(self) -> bool:
        """True when nothing has to be installed: neither the packages nor the checkout's path have changed."""
        found = _read(self.stamp)
        return (
            not self.unfinished.exists()
            and os.access(self.python, os.X_OK)
            and {name: found.get(name) for name in ("root", "inputs")} == self.wanted()
        )

    def is_finished_dev(self) -> bool:
        """True when the packages of tests and lint are there too."""
        return _read(self.dev_stamp) == self.wanted_dev()

    def mark(self) -> None:
        """Note that it is finished."""
        python = self.packages().parent.name.removeprefix("python")
        self.stamp.write_text(json.dumps(self.wanted() | {"python": python}, indent=1))
        self.unfinished.unlink()

    def mark_dev(self) -> None:
        """Note that the packages of tests and lint are there too."""
        self.dev_stamp.write_text(json.dumps(self.wanted_dev(), indent=1))

    def put_back(self) -> None:
        """Undo a replacement that did not come to its end."""
        if self.earlier.exists():
            if self.unfinished.exists() or not self.stamp.exists():
                shutil.rmtree(self.folder, ignore_errors=True)
                self.earlier.rename(self.folder)
            else:
                shutil.rmtree(self.earlier)

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Make room for a new environment; the earlier one comes back if the block fails, and is removed if not."""
        if self.base():
            self.folder.rename(self.earlier)
        elif self.folder.exists():
            shutil.rmtree(self.folder)
        try:
            yield
        finally:
            self.put_back()

    def create(self, base: str) -> None:
        """Make it empty, without pip, of the Python with this path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.unfinished.touch()
        try:
            _run([base, "-m", "venv", "--without-pip", str(self.folder)])
        except CommandError as error:
            message = f"{base} cannot make an environment, see above; on Debian that takes libpython3-stdlib"
            raise SetupError(message, str(error)) from None

    def fetch_tools(self, folder: Path) -> Tools:
        """Fetch what installs packages into a folder; without uv where it cannot be had."""
        pip = self._pip()
        install = [*pip, "install", "-q", "--no-deps", "--no-compile", "--require-hashes", "--target", str(folder)]
        build, uv = self._files(BUILD), self._files(UV)
        settings = _settings_for_uv(pip)
        if settings is not None and uv:
            try:
                _run([*install, "--only-binary", ":all:", *uv, *build])
            except CommandError:  # this machine's index has no uv, or none for this processor
                shutil.rmtree(folder, ignore_errors=True)
            else:
                return Tools(folder, folder / "bin" / "uv", settings)
        if build:
            _install([*install, *build])
        return Tools(folder)

    def install(self, name: str, tools: Tools, *options: str) -> None:
        """Install the packages of a file of requirements/, each checked against its hash."""
        files = self._files(name)
        if not files:
            return
        wanted = ["install", "-q", "--no-deps", "--require-hashes", *options, *files]
        path = {"PYTHONPATH": str(tools.folder)}
        if tools.uv:
            try:
                _run([str(tools.uv), "pip", *wanted, "--python", str(self.python)], **tools.settings, **path)
            except CommandError as error:
                print(f"\n  uv failed, pip takes over: {str(error).strip()}", flush=True)
            else:
                return
        _install([*self._pip(), *wanted, "--no-compile"], **path)

    def install_project(self, tools: Tools) -> None:
        """Install the project itself, in place."""
        # "compat" puts the root on the path by a plain .pth; setuptools' own import hook costs each start 10 ms.
        editable = ["--config-settings", "editable_mode=compat", "--editable", str(self.root)]
        install = ["install", "-q", "--no-deps", "--no-build-isolation", *editable]
        uv = [str(tools.uv), "pip", *install, "--python", str(self.python)]
        _install(uv if tools.uv else [*self._pip(), *install], **tools.settings, PYTHONPATH=str(tools.folder))

    def compile(self, *folders: Path, processes: int = 1) -> None:
        """Compile what is not compiled: the user that runs the drivers later may not write here.

        Args:
            folders: where the files are.
            processes: how many compile at once; 0 for one a core.
        """
        options = ["-q", "-j", str(processes), "-x", RARELY_IMPORTED]
        _ask([str(self.python), "-m", "compileall", *options, *map(str, folders)])

    def packages(self) -> Path:
        """The folder of its packages."""
        return next((self.folder / "lib").glob("python3*/site-packages"))

    def megabytes(self) -> int:
        """What its files take on the disk."""
        return sum(path.lstat().st_blocks for path in self.folder.rglob("*")) * 512 // 1_000_000

    def _files(self, name: str) -> list[str]:
        """The options that name this file, if it exists."""
        path = self.root / name
        return ["-r", str(path)] if path.exists() else []

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
            _install([*outside, "install", "-qq", "--target", str(packages), "pip"])
            return own
        raise SetupError("there is no pip; on Debian it is in python3-pip")


_DESCRIBE = "import sys; print(*sys.version_info[:2], sep='.'); print(sys.base_prefix); print(sys._base_executable)"


def _this_python() -> Base:
    return Base(f"{sys.version_info.major}.{sys.version_info.minor}", sys.base_prefix, sys.executable)


def _outside_pips() -> Iterator[list[str]]:
    yield [sys.executable, "-m", "pip"]
    for name in ("python3", "pip3", "pip"):
        if path := shutil.which(name):
            yield [path, "-m", "pip"] if name == "python3" else [path]


def _settings_for_uv(pip: list[str]) -> dict[str, str] | None:
    """The settings of pip in uv's names; None if pip has settings that uv does not know."""
    lines = (_ask([*pip, "config", "list"]) or "").splitlines()
    pairs = [re.fullmatch(r"[^=]*\.([a-z-]+)='?(.*?)'?", line) for line in lines]
    found = {pair[1]: pair[2] for pair in pairs if pair and pair[2]}
    if any(name in found for name in FOR_PIP_ALONE):
        return None
    return {UV_NAMES[name]: value for name, value in found.items() if name in UV_NAMES}


def _pip_version(pip: list[str]) -> tuple[int, int]:
    """The version of this pip; NO_PIP when it does not run."""
    match = re.match(r"pip (\d+)\.(\d+)", _ask([*pip, "--version"]) or "")
    return (int(match[1]), int(match[2])) if match else NO_PIP


def processes_of(folder: Path) -> dict[int, str]:
    """Return the processes that run from this environment: their names, by process id.

    A process is one of them if its program, the Python that it was started with or a library that it has loaded lies
    in the folder. Of other users' processes only root sees libraries.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            words = _bytes(entry / "cmdline").decode(errors="replace").split("\0")
            started = os.path.normpath(os.path.join(_link(entry / "cwd"), words[0]))
            inside = f"{folder}{os.sep}"
            if (
                started.startswith(inside)
                or _link(entry / "exe").startswith(inside)
                or inside.encode() in _bytes(entry / "maps")
            ):
                script = next((word for word in words[1:] if not word.startswith("-")), words[0])
                found[int(entry.name)] = os.path.basename(script) or words[0]
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _read(path: Path) -> dict[str, str]:
    """The mark of a finished set-up; {} when there is none."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in CLEARED} | SETTINGS


def _ask(command: list[str]) -> str | None:
    """What the command prints; None when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _run(command: list[str], **settings: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=_environment() | settings, check=False)
    except OSError as error:
        raise CommandError(str(error)) from None
    if done.returncode:
        raise CommandError((done.stdout + done.stderr).strip())


def _install(command: list[str], **settings: str) -> None:
    try:
        _run(command, **settings)
    except CommandError as error:
        message = "a package could not be installed, see above; the next make tries again"
        raise SetupError(message, str(error)) from None


def _count(path: Path) -> int:
    """The number of packages that a file of requirements/ locks."""
    return len(re.findall(r"(?m)^[A-Za-z0-9]", path.read_text())) if path.exists() else 0


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Wait until no other set-up of this checkout runs."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def set_up(root: Path, *, dev: bool = False, replace: bool = False, named: bool = False) -> None:
    """Bring the environment of this checkout up to date, if it is not.

    Args:
        root: the checkout.
        dev: also what tests and lint need.
        replace: make the environment anew in any case.
        named: a person named the Python this runs with; else an environment of another one stays in use.

    Raises:
        SetupError: it cannot be brought up to date; one that worked still works.
    """
    environment = Environment(root)
    with _alone(root):
        environment.put_back()
        this, base = _this_python(), environment.base()
        python = this if replace or base is None else base
        if (python.version, python.prefix) != (this.version, this.prefix):
            if named:
                raise SetupError(f".venv was made by {base}, and {this} is asked for; with REPLACE=1 it is made anew")
            print(f"Note: .venv was made by {base}, which stays in use; REPLACE=1 makes it anew with {this}")
        if replace or base is None or not environment.is_finished():
            _make(environment, python, dev=dev, replace=replace)
        elif dev and not environment.is_finished_dev():
            print("Adding what tests and lint need to .venv (once)", flush=True)
            _fill(environment, Steps(), runtime=False, dev=True)
        else:
            environment.compile(root / "one_provider_mad")


def _make(environment: Environment, python: Base, *, dev: bool, replace: bool) -> None:
    """Make the environment anew; only if asked while a process runs from it."""
    processes = processes_of(environment.folder)
    names = ", ".join(f"{name} (process {number})" for number, name in sorted(processes.items()))
    if processes and not replace:
        raise SetupError(
            f".venv has to be made anew, and {names} runs from it; end that first (a driver: stop OpenNebula),"
            " or REPLACE=1 makes it anew all the same"
        )
    print(f"Setting up .venv (once), with {python}", flush=True)
    steps = Steps()
    with environment.replaced():
        with steps.step("an empty environment"):
            environment.create(python.executable)
        _fill(environment, steps, runtime=True, dev=dev)
    if processes:
        print(f"Note: {names} still runs from the earlier .venv: start it anew")
    _tell_if_private(environment.python)


def _fill(environment: Environment, steps: Steps, *, runtime: bool, dev: bool) -> None:
    """Install what is wanted, and mark it as installed."""
    root = environment.root
    with tempfile.TemporaryDirectory(prefix="one-provider-mad-") as name:
        with steps.step("what installs packages"):
            tools = environment.fetch_tools(Path(name) / "tools")
        if runtime:
            with steps.step(f"what the drivers need: {_count(root / RUNTIME)} packages"):
                environment.install(RUNTIME, tools)
            with steps.step("the project itself"):
                environment.install_project(tools)
            with steps.step("compiling"):
                environment.compile(environment.packages(), root / "one_provider_mad", processes=0)
            environment.mark()
        if dev:
            with steps.step(f"what tests and lint need: {_count(root / DEV)} packages"):
                environment.install(DEV, tools, "--no-build-isolation")  # one is a source, built by setuptools
            environment.mark_dev()
    print(f"Done in {steps.seconds():.0f} s; .venv has {environment.megabytes()} MB", flush=True)


def _tell_if_private(python: Path) -> None:
    """OpenNebula starts the drivers as its own user; a Python in a user's home is often closed to others."""
    real = Path(os.path.realpath(python))
    for path in (real, *real.parents):
        if not path.stat().st_mode & 0o001:
            print(
                f"Note: {path} is closed to other users: demo and tests work, but OpenNebula's user cannot start the"
                " drivers; make setup REPLACE=1 PYTHON=... takes a Python that all users can run"
            )
            return


def main(argv: list[str]) -> int:
    """Set up the checkout this file is in, or the one that is named."""
    parser = argparse.ArgumentParser(prog="bootstrap.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dev", action="store_true", help="also what tests and lint need")
    parser.add_argument("--replace", action="store_true", help="make the environment anew in any case")
    parser.add_argument("--named", action="store_true", help="an environment of another Python will not do")
    parser.add_argument("root", nargs="?", default=Path(__file__).parent.parent, type=Path)
    arguments = parser.parse_args(argv)
    root = arguments.root.resolve()
    if Path(sys.prefix) == root / ".venv":  # activated: what may be removed must not be what runs
        python = os.path.realpath(sys.executable)
        os.execv(python, [python, __file__, *argv])
    try:
        set_up(root, dev=arguments.dev, replace=arguments.replace, named=arguments.named)
    except SetupError as error:
        print(*filter(None, [error.output]), f"make: {error}", sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
