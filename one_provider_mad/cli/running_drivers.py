"""Finds the drivers that run on this machine, and the release that each of them was started from, in /proc."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from one_provider_mad.domain import Value
from one_provider_mad.options import parse_arguments
from one_provider_mad.settings import Places

PROGRAMS = ("one_vmm_provider", "one_im_provider")

_VERSION = re.compile(r'^__version__ = "([^"]+)"', re.MULTILINE)

_START_SECONDS = 5.0
"""Seconds by which a file may seem younger than a process that was started from it: times of processes are rounded."""

_DIRECTORIES = ("ONE_LOCATION", "ONE_PROVIDER_MAD_CONF")

_LOG_BYTES = 4_194_304
"""Bytes at the end of a driver's log in which its start is looked for."""


class RunningDriver(Value, frozen=True, kw_only=True):
    """A driver's process.

    Attributes:
        program: `one_vmm_provider` or `one_im_provider`.
        name: its NAME.
        pid: its process id.
        since: when it was started, seconds since the epoch.
        folder: the folder with its code; "" if it cannot be told.
        release: the release that it was started from; "" if it cannot be told.
        is_replaced: the folder is gone, or has files that are younger than the process: modules that it imports from
            now on may not fit those that it has.
    """

    program: str
    name: str
    pid: int
    since: float
    folder: str
    release: str
    is_replaced: bool


def running_drivers(environ: Mapping[str, str]) -> Iterator[RunningDriver]:
    """Yield the drivers that run here, of every NAME and user, and of the OpenNebula that the environment names."""
    places = Places.from_environment(environ)
    ours = [environ.get(name, "") for name in _DIRECTORIES]
    for entry in sorted(Path("/proc").iterdir(), key=lambda path: path.name.zfill(9)):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError, ValueError):  # it has ended
                yield from (driver for driver in _driver(entry, places) if _directories(entry) in (ours, None))


def _directories(entry: Path) -> list[str] | None:
    """Return the values of a process's variables that name its OpenNebula; None for another user's process.

    Raises:
        OSError: the process has ended.
    """
    try:
        content = (entry / "environ").read_bytes().decode(errors="replace")
    except PermissionError:
        return None
    values = dict(pair.split("=", 1) for pair in content.split("\0") if "=" in pair)
    return [values.get(name, "") for name in _DIRECTORIES]


def _driver(entry: Path, places: Places) -> Iterator[RunningDriver]:
    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    found = _program_word(words)
    if found is None or "python" not in os.path.basename(os.readlink(entry / "exe")):
        return
    place, program = found
    since = _started(entry)
    name = parse_arguments(words[place + 1 :]).name
    package = _package(Path(program), Path(words[0]))
    code = package / "__init__.py" if package is not None else None
    is_there = code is not None and code.exists()
    # The folder of a package's release keeps its content, but its files get another ctime when dpkg removes another of
    # their hard links (decision 34).
    is_kept = (Path(words[0]).parent.parent / "RELEASE").exists()
    is_replaced = code is not None and (not is_there or (not is_kept and code.stat().st_ctime > since + _START_SECONDS))
    release = _logged_release(places.log / f"{Path(program).name}_{name}.log", int(entry.name))
    if not release and code is not None and is_there and not is_replaced:
        version = _VERSION.search(code.read_text())
        release = version[1] if version else ""
    yield RunningDriver(
        program=Path(program).name,
        name=name,
        pid=int(entry.name),
        since=since,
        folder=str(package or ""),
        release=release,
        is_replaced=is_replaced,
    )


def _program_word(words: Sequence[str]) -> tuple[int, str] | None:
    """Return the place and the program of the word that starts a driver: its path, or Python code that imports it."""
    for place, word in enumerate(words[:4]):
        if Path(word).name in PROGRAMS:
            return place, word
        if words[place - 1] == "-c" and "one_provider_mad.programs" in word:
            return next(((place, program) for program in PROGRAMS if f"import {program}" in word), None)
    return None


def _package(program: Path, python: Path) -> Path | None:
    """Return the folder of the modules of a program: beside its `bin`, or where its Python has packages installed."""
    roots = [Path(os.path.realpath(program)).parent.parent, program.parent.parent] if program.is_absolute() else []
    for root in (*roots, python.parent.parent):
        for found in (root / "one_provider_mad", *root.glob("lib/python3*/site-packages/one_provider_mad")):
            if (found / "__init__.py").exists():
                return found
    root = (program if program.is_absolute() else python).parent.parent
    return root / "one_provider_mad" if not root.exists() else None


def _started(entry: Path) -> float:
    """Return the start of a process, seconds since the epoch (proc(5), field 22 of stat, and btime)."""
    content = (entry / "stat").read_bytes()
    ticks = int(content[content.rindex(b")") + 2 :].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")


def _logged_release(log: Path, pid: int) -> str:
    """Return the release that a driver has logged at its start, "" for none."""
    found = ""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_BYTES))
        for line in file:
            if b'"started"' in line:
                with suppress(ValueError):
                    event = json.loads(line)
                    if event.get("event") == "started" and event.get("pid") == pid:
                        found = str(event.get("release", ""))
    return found
