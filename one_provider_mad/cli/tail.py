"""`one-provider tail`: the drivers' logs, readable, for all VMs or one."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from one_provider_mad.cli.decode import printable
from one_provider_mad.domain import Value
from one_provider_mad.errors import SettingsError
from one_provider_mad.settings import Places

PROGRAMS = ("one_vmm_provider", "one_im_provider")

_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}
_LEVELS = ("debug", "info", "warning", "error")
_LOOK_SECONDS = 0.2

_FIRST = ("event", "level", "timestamp", "vm")
"""What has a place of its own in a line; the rest follows as `key=value`."""


class Wanted(Value, frozen=True, kw_only=True):
    """Which entries to show.

    Attributes:
        vm_id: of this VM only; None for all.
        level: this one and worse.
    """

    vm_id: int | None = None
    level: str = "info"

    def has(self, entry: Mapping[str, Any]) -> bool:
        """True for an entry that is to be shown."""
        is_its = self.vm_id is None or entry.get("vm") == self.vm_id
        level = entry.get("level")
        return is_its and (level not in _LEVELS or _LEVELS.index(str(level)) >= _LEVELS.index(self.level))


@click.command("tail", short_help="Show the drivers' logs, readable.")
@click.argument("name")
@click.option("--vm", "vm_id", type=int, help="Entries of this VM only.")
@click.option("--level", type=click.Choice(_LEVELS), default="info", show_default=True, help="This one and worse.")
@click.option(
    "-n", "--lines", "count", type=click.IntRange(0), default=20, show_default=True, help="How many to begin with."
)
@click.option("-f", "--follow", "is_following", is_flag=True, help="Go on with what is written from now on.")
@click.option("--im", "is_im", is_flag=True, help="The information driver's log instead of the action driver's.")
@click.option("--json", "is_json", is_flag=True, help="Entries as they stand in the log, one JSON object a line.")
def command(
    name: str, vm_id: int | None, level: str, count: int, is_following: bool, is_im: bool, is_json: bool
) -> None:
    """Show the log of the driver of NAME, for people."""
    path = log_of(name, PROGRAMS[is_im], os.environ)
    wanted = Wanted(vm_id=vm_id, level=level)
    show = json.dumps if is_json else written
    with path.open(encoding="utf-8", errors="replace") as file:
        last: deque[Mapping[str, Any]] = deque(maxlen=count)
        last.extend(entry for entry in _entries(file) if wanted.has(entry))
    for entry in last:
        click.echo(show(entry))
    if is_following:
        for entry in _following(path):
            if wanted.has(entry):
                click.echo(show(entry))


def log_of(name: str, program: str, environ: Mapping[str, str]) -> Path:
    """Where the log of a driver is.

    Raises:
        SettingsError: there is none.
    """
    path = Places.from_environment(environ).log / f"{program}_{name}.log"
    if not path.is_file():
        raise SettingsError(
            f"there is no log of {program} for {name} yet: it is written where the driver runs ({path})"
        )
    return path


def written(entry: Mapping[str, Any]) -> str:
    """One entry as one line: time, VM, what happened, and everything else as `key=value`."""
    level = str(entry.get("level", ""))
    rest = " ".join(f"{key}={_short(value)}" for key, value in entry.items() if key not in _FIRST)
    vm = f"VM {entry['vm']}" if entry.get("vm") is not None else "-"
    text = printable(f"{_clock(str(entry.get('timestamp', '')))}  {vm:<8} {entry.get('event', '')}  {rest}".rstrip())
    return click.style(text, fg=_COLOURS[level]) if level in _COLOURS else text


def _clock(timestamp: str) -> str:
    try:
        moment = datetime.fromisoformat(timestamp).astimezone()
    except ValueError:
        return timestamp
    return moment.strftime("%m-%d %H:%M:%S")


def _short(value: object) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value)


def _entries(lines: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    for line in lines:
        if entry := _entry(line):
            yield entry


def _entry(line: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {"event": line.strip()} if line.strip() else {}
    return entry if isinstance(entry, dict) else {"event": line.strip()}


def _following(path: Path) -> Iterator[Mapping[str, Any]]:
    """What is appended from now on; logrotate may put another file in its place."""
    file, rest = path.open(encoding="utf-8", errors="replace"), ""
    try:
        file.seek(0, os.SEEK_END)
        while True:
            *whole, rest = (rest + file.read()).split("\n")
            yield from _entries(iter(whole))
            if whole:
                continue
            time.sleep(_LOOK_SECONDS)
            if path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
    finally:
        file.close()
