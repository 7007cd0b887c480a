"""`one-provider orphans`: what the action driver has found that is paid for and belongs to no VM."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

import click
import msgspec

from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.tables import show_table
from one_provider_mad.errors import SettingsError
from one_provider_mad.journal.reader import read_debts, read_fact, read_writers
from one_provider_mad.orphans.reconciler import ORPHANS
from one_provider_mad.orphans.timetable import TROUBLE, Trouble
from one_provider_mad.settings import Places, load

Entry = Mapping[str, Any]

_COLUMNS = {"VM": "vm_id", "DEPLOY ID": "deploy_id", "WHAT": "verdict", "LOOKS": "looks", "WHY": "evidence"}

_MINUTE = 60
"""A look may take a while."""


@click.command("orphans", short_help="List instances that no VM needs, as the driver has found them.")
@click.argument("name")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(name: str, is_json: bool) -> None:
    """List what the action driver of NAME has found that is paid for and belongs to no VM for certain.

    The driver looks every few minutes, when it may ask the local OpenNebula; what it does about it is said by
    [orphans] in the configuration. Nothing is asked or changed here.
    """
    found = collect(name, os.environ)
    if is_json:
        click.echo(json.dumps(found, indent=2))
        return
    _show(found)


def collect(name: str, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """What the journal of NAME has of the last look.

    Returns:
        `looked_at` (seconds since the epoch, None for never), `policy`, `interval` (seconds), `is_running` (a driver of
        this journal runs on this machine), `trouble` (when and why the latest try failed, and the seconds until the
        next; None unless it was later than the last look), and `orphans`: one entry an instance, with what it is, why,
        in how many looks in a row, and whether it is being terminated (`is_owed`); `parts`: volumes, snapshots and
        addresses that belong to nothing; `parts_problem`: why these are not known, "" for nothing.

    Raises:
        MadError: the configuration or the journal cannot be read.
    """
    places = Places.from_environment(environ)
    configuration = load(name, places)
    if configuration.settings.provider == "scripts":
        raise SettingsError(f"{name} is served by scripts, which cannot tell what its cloud has")
    path = places.journal(configuration)
    text = read_fact(path, ORPHANS)
    found = json.loads(text) if text else {"at": None, "orphans": [], "parts": []}
    owed = {debt.deploy_id for debt in read_debts(path)}
    trouble = read_fact(path, TROUBLE)
    is_over = trouble is None or msgspec.json.decode(trouble, type=Trouble).at < (found["at"] or 0.0)
    return {
        "looked_at": found["at"],
        "policy": configuration.settings.orphans.policy,
        "interval": configuration.settings.orphans.interval,
        "orphans": [{**entry, "is_owed": entry["deploy_id"] in owed} for entry in found["orphans"]],
        "parts": found["parts"],
        "parts_problem": found.get("parts_problem", ""),
        "is_running": any(writer.process.is_alive() for writer in read_writers(path)),
        "trouble": None if is_over or trouble is None else json.loads(trouble),
    }


def _show(found: Mapping[str, Any]) -> None:
    looked_at, entries = found["looked_at"], found["orphans"]
    if looked_at is None:
        click.echo(printable(f"The driver has not looked yet. Next look: {_outlook(found)}"))
        return
    if entries:
        rows = sorted(entries, key=lambda each: (each["vm_id"], each["deploy_id"]))
        show_table(list(_COLUMNS), [[_cell(entry, key) for key in _COLUMNS.values()] for entry in rows])
    for part in found["parts"]:
        of = f" of VM {part['vm_id']}" if part["vm_id"] is not None else ""
        click.echo(printable(f"{part['kind']} {part['id']}{of} belongs to nothing: {part['detail']}"))
    if found["parts_problem"]:
        problem = f"Volumes, snapshots and addresses could not be looked at: {found['parts_problem']}"
        click.echo(printable(problem))
    strange = "1 instance belongs" if len(entries) == 1 else f"{len(entries)} instances belong"
    count = f"{strange} to no VM for certain" if entries else "Every instance belongs to a VM"
    ago = max(0, round(time.time() - looked_at))
    click.echo(f"{count}, as of {ago} s ago; policy: {found['policy']}.")
    click.echo(printable(f"Next look: {_outlook(found)}"))


def _outlook(found: Mapping[str, Any]) -> str:
    """When the driver looks next, or why it does not."""
    now, trouble = time.time(), found["trouble"]
    if not found["is_running"]:
        return "when OpenNebula starts the driver, which does not run."
    if trouble is not None and trouble["retry"] is None:
        return f"none before the driver is started again: {trouble['reason']}"
    if trouble is not None:
        ago, left = max(0, round(now - trouble["at"])), max(0, round(trouble["at"] + trouble["retry"] - now))
        return f"in {left} s; the one {ago} s ago failed: {trouble['reason']}"
    if found["looked_at"] is None:
        return "when OpenNebula has started and answers."
    left = round(found["looked_at"] + found["interval"] - now)
    if left < -_MINUTE:
        return f"overdue by {-left} s: it is under way still, or the driver's log says why not (one-provider tail)."
    return f"in {max(0, left)} s."


def _cell(entry: Entry, key: str) -> str:
    return f"{entry[key]}, being terminated" if key == "verdict" and entry["is_owed"] else str(entry[key])
