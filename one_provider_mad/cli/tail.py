"""`one-provider tail`: shows the drivers' logs as text, for all VMs or one."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import click

from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.names import complete_name, complete_vm_id
from one_provider_mad.cli.wrapping import wrapped
from one_provider_mad.domain import Value
from one_provider_mad.errors import SettingsError
from one_provider_mad.settings import Places, did_you_mean

PROGRAMS = ("one_vmm_provider", "one_im_provider")

_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}
_LEVELS = ("debug", "info", "warning", "error")
_CHECK_SECONDS = 0.2

_TO_VM = 16
"""Characters before the VM in a line; the further lines of a wrapped entry begin there."""

_FIRST = ("event", "level", "timestamp", "vm")
"""Keys with a fixed place in a line; the others follow as `key=value`."""


class Wanted(Value, frozen=True, kw_only=True):
    """Selects log entries by VM and level.

    Attributes:
        vm_id: entries of this VM only; None for all.
        level: entries of this level and of worse ones.
    """

    vm_id: int | None = None
    level: str = "info"

    def has(self, entry: Mapping[str, Any]) -> bool:
        """Return True for a selected entry."""
        is_its = self.vm_id is None or entry.get("vm") == self.vm_id
        level = entry.get("level")
        return is_its and (level not in _LEVELS or _LEVELS.index(str(level)) >= _LEVELS.index(self.level))


@click.command("tail", short_help="Show a driver's log as text.")
@click.argument("name", shell_complete=complete_name)
@click.option("--vm", "vm_id", type=int, shell_complete=complete_vm_id, help="Entries of this VM only.")
@click.option(
    "--level",
    type=click.Choice(_LEVELS),
    default="info",
    show_default=True,
    help="Entries of this level and of worse ones.",
)
@click.option(
    "-n", "--lines", "count", type=click.IntRange(0), default=20, show_default=True, help="Number of past entries."
)
@click.option("-f", "--follow", "is_following", is_flag=True, help="Keep showing new entries.")
@click.option("--im", "is_im", is_flag=True, help="The information driver's log instead of the action driver's.")
@click.option("--json", "is_json", is_flag=True, help="Entries as in the log, one JSON object a line.")
def command(
    name: str, vm_id: int | None, level: str, count: int, is_following: bool, is_im: bool, is_json: bool
) -> None:
    """Show the log of a driver of NAME as text."""
    path = log_of(name, PROGRAMS[is_im], os.environ)
    wanted = Wanted(vm_id=vm_id, level=level)
    show = json.dumps if is_json else written
    with ExitStack() as stack:
        file = stack.enter_context(_opened(path if path.exists() else _latest_rotated(path)))
        last: deque[Mapping[str, Any]] = deque(maxlen=count)
        begun = ""
        for line in file:
            if is_following and not line.endswith("\n"):
                begun = line
            elif (entry := _entry(line)) and wanted.has(entry):
                last.append(entry)
        for entry in last:
            click.echo(show(entry))
        if is_following:
            for entry in _following(path, file, begun, stack):
                if wanted.has(entry):
                    click.echo(show(entry))


def log_of(name: str, program: str, environ: Mapping[str, str]) -> Path:
    """Return the path of a driver's log; after a rotation the driver creates it with its next entry.

    Raises:
        SettingsError: the driver has never written a log here.
    """
    places = Places.from_environment(environ)
    path = places.log / f"{program}_{name}.log"
    if not path.is_file() and not _rotated(path):
        raise SettingsError(
            f"there is no log of {program} for {name} yet: the running driver writes it, on its machine ({path})"
            f"{did_you_mean(name, places)}"
        )
    return path


def _rotated(path: Path) -> list[Path]:
    """Return the rotated files of a log that are not compressed: logrotate leaves the latest one as it is."""
    return [each for each in path.parent.glob(f"{path.name}[-.]*") if each.suffix != ".gz"]


def _latest_rotated(path: Path) -> Path:
    return max(_rotated(path), key=lambda each: each.stat().st_mtime)


def written(entry: Mapping[str, Any]) -> str:
    """Return an entry as one line: time, VM, event, and everything else as `key=value`; wrapped on a terminal."""
    level = str(entry.get("level", ""))
    rest = " ".join(f"{key}={_short(value)}" for key, value in entry.items() if key not in _FIRST)
    vm = f"VM {entry['vm']}" if entry.get("vm") is not None else "-"
    text = printable(f"{_clock(str(entry.get('timestamp', '')))}  {vm:<8} {entry.get('event', '')}  {rest}".rstrip())
    text = wrapped(text, further=_TO_VM)
    return click.style(text, fg=_COLOURS[level]) if level in _COLOURS else text


def _clock(timestamp: str) -> str:
    try:
        moment = datetime.fromisoformat(timestamp).astimezone()
    except ValueError:
        return timestamp
    return moment.strftime("%m-%d %H:%M:%S")


def _short(value: object) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value)


def _entry(line: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {"event": line.strip()} if line.strip() else {}
    return entry if isinstance(entry, dict) else {"event": line.strip()}


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8", errors="replace")


def _following(path: Path, file: TextIO, begun: str, stack: ExitStack) -> Iterator[Mapping[str, Any]]:
    """Yield new log entries without end, also after logrotate has replaced or emptied the file.

    Args:
        path: the log.
        file: the open log, read to its end.
        begun: the beginning of an entry, whose line is not complete yet.
        stack: closes the log files that are opened later.
    """
    rest, is_rotated = begun, False
    while True:
        *whole, rest = (rest + file.read()).split("\n")
        yield from filter(None, map(_entry, whole))
        if whole:
            continue
        if is_rotated:
            # Another file has the log's name, and this one was read to its end: no driver writes into it any more.
            yield from filter(None, [_entry(rest)])
            file, rest = stack.enter_context(_opened(path)), ""
        else:
            time.sleep(_CHECK_SECONDS)
        is_rotated = _is_rotated(path, file)


def _is_rotated(path: Path, file: TextIO) -> bool:
    """Return True if another file has the log's name now; if this one was emptied, go back to its beginning."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return False  # logrotate has moved the file away and not created the new one yet
    if now.st_ino != os.fstat(file.fileno()).st_ino:
        return True
    if now.st_size < file.tell():
        file.seek(0)
    return False
