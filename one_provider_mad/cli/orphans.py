"""`one-provider orphans`: lists the orphans that the action driver has found."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import msgspec

from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.names import complete_name
from one_provider_mad.cli.orphan_costs import price_text, together
from one_provider_mad.cli.tables import show_table
from one_provider_mad.errors import SettingsError
from one_provider_mad.journal.reader import read_debts, read_fact, read_writers
from one_provider_mad.orphans.reconciler import ORPHANS
from one_provider_mad.orphans.timetable import TROUBLE, Trouble
from one_provider_mad.settings import Places, load

Entry = Mapping[str, Any]

_COLUMNS = {
    "VM": "vm_id",
    "DEPLOY ID": "deploy_id",
    "VERDICT": "verdict",
    "PRICE/H": "price",
    "SEARCHES": "looks",
    "EVIDENCE": "evidence",
}

_MINUTE = 60
"""Seconds after its due time from which the next search is shown as overdue."""


@click.command("orphans", short_help="List orphans: instances that no VM needs any more.")
@click.argument("name", shell_complete=complete_name)
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(name: str, is_json: bool) -> None:
    """List the orphans that the action driver of NAME has found: instances that cost money and belong to no VM.

    The driver searches every few minutes, if it may ask the local OpenNebula; [orphans] in the configuration tells
    whether it terminates them. This command reads the journal only, and changes nothing.
    """
    found = collect(name, os.environ)
    if is_json:
        click.echo(json.dumps(found, indent=2))
        return
    _show(found)


def collect(name: str, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the result of the last search, from the journal of NAME.

    Returns:
        `looked_at` (time of the last search, seconds since the epoch, None for never), `policy`, `interval` (seconds),
        `is_running` (a driver of this journal runs on this machine), `trouble` (time and reason of the latest failed
        search, and the seconds until the next; None if a later search succeeded), and `orphans`: one entry
        an instance, with its verdict, the evidence, the number of searches in a row that found the instance, whether
        it is being terminated (`is_owed`), and whether it was not judged since an action of its VM is under way
        (`is_busy`); `parts`: volumes, snapshots and addresses that no instance uses; `parked`: instances of VMs that
        are undeployed or stopped. Each of these has its `price` (`amount` in units of `currency` an hour, None when a
        part is unknown, `known`, `text`), None where the provider knows no prices;
        `parts_problem`: the reason why these are unknown, "" for none.

    Raises:
        MadError: the configuration or the journal cannot be read.
    """
    places = Places.from_environment(environ)
    configuration = load(name, places)
    if configuration.settings.provider == "scripts":
        raise SettingsError(f"{name} is served by scripts, which cannot list the cloud's instances")
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
        "orphans": [
            {"price": None, **entry, "is_owed": entry["deploy_id"] in owed, "is_busy": entry.get("is_busy", False)}
            for entry in found["orphans"]
        ],
        "parts": [{"price": None, **part} for part in found["parts"]],
        "parked": found.get("parked", []),
        "parts_problem": found.get("parts_problem", ""),
        "is_running": any(writer.process.is_alive() for writer in read_writers(path)),
        "trouble": None if is_over or trouble is None else json.loads(trouble),
    }


def _show(found: Mapping[str, Any]) -> None:
    looked_at = found["looked_at"]
    entries = [each for each in found["orphans"] if not each["is_busy"]]
    busy = sorted({each["vm_id"] for each in found["orphans"] if each["is_busy"]})
    if looked_at is None:
        click.echo(printable(f"The driver has not searched yet. Next search: {_outlook(found)}"))
        return
    if entries:
        rows = sorted(entries, key=lambda each: (each["vm_id"], each["deploy_id"]))
        show_table(list(_COLUMNS), [[_cell(entry, key) for key in _COLUMNS.values()] for entry in rows])
    for part in found["parts"]:
        of = f" of VM {part['vm_id']}" if part["vm_id"] is not None else ""
        costs = f", {price_text(part)} an hour" if part["price"] else ""
        click.echo(printable(f"{part['kind']} {part['id']}{of} is not in use: {part['detail']}{costs}"))
    if found["parts_problem"]:
        problem = f"Volumes, snapshots and addresses could not be listed: {found['parts_problem']}"
        click.echo(printable(problem))
    some = "1 possible orphan" if len(entries) == 1 else f"{len(entries)} possible orphans"
    count = some if entries else "Every instance belongs to a VM"
    ago = max(0, round(time.time() - looked_at))
    click.echo(f"{count}, as of {ago} s ago; policy: {found['policy']}.")
    for sentence in _costs(entries, found["parts"], found["parked"]):
        click.echo(printable(sentence))
    if busy:
        click.echo(f"Not judged, since an action is under way: VM {', '.join(map(str, busy))}.")
    click.echo(printable(f"Next search: {_outlook(found)}"))


def _costs(entries: Sequence[Entry], parts: Sequence[Entry], parked: Sequence[Entry]) -> Iterator[str]:
    """Yield what the orphans, the unused parts and the parked instances cost; nothing for none, or without prices."""
    for what, some in (("They cost", entries), ("What is not in use costs", parts), (_PARKED, parked)):
        if any(each["price"] for each in some):
            yield f"{what} {together(some)}."


_PARKED = "Instances of undeployed and stopped VMs cost"


def _outlook(found: Mapping[str, Any]) -> str:
    """Return when the next search is due, or why none is."""
    now, trouble = time.time(), found["trouble"]
    if not found["is_running"]:
        return "when OpenNebula starts the driver, which is not running."
    if trouble is not None and trouble["retry"] is None:
        return f"none until the driver is restarted: {trouble['reason']}"
    if trouble is not None:
        ago, left = max(0, round(now - trouble["at"])), max(0, round(trouble["at"] + trouble["retry"] - now))
        return f"in {left} s; the last one, {ago} s ago, failed: {trouble['reason']}"
    if found["looked_at"] is None:
        return "when OpenNebula has started and answers."
    left = round(found["looked_at"] + found["interval"] - now)
    if left < -_MINUTE:
        return f"overdue by {-left} s: it is still under way, or the driver's log has the reason (one-provider tail)."
    return f"in {max(0, left)} s."


def _cell(entry: Entry, key: str) -> str:
    if key == "price":
        return price_text(entry)
    return f"{entry[key]}, being terminated" if key == "verdict" and entry["is_owed"] else str(entry[key])
