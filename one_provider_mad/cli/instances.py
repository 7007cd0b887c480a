"""`one-provider instances`: lists this owner's instances in the cloud, and debts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from one_provider_mad.cli.asked_cloud import Cloud, ask
from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.names import complete_name
from one_provider_mad.cli.tables import show_table
from one_provider_mad.domain import Instance, InstanceState
from one_provider_mad.journal.reader import read_debts
from one_provider_mad.journal.records import Debt
from one_provider_mad.listings import by_id

Entry = Mapping[str, Any]
"""One instance, or a debt without an instance, as in JSON."""

_COLUMNS = {"VM": "vm_id", "DEPLOY ID": "deploy_id", "STATE": "state", "NAME": "name", "CREATED": "created_at"}
_FOREIGN_COLUMNS = {**_COLUMNS, "OWNER": "owner"}


@click.command("instances", short_help="List this owner's instances, and debts.")
@click.argument("name", shell_complete=complete_name)
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
@click.option("--all", "is_all", is_flag=True, help="Include other owners' and terminated instances.")
def command(name: str, is_json: bool, is_all: bool) -> None:
    """List the instances in the cloud of NAME.

    Debts follow: instances that must be terminated and could not be, yet.
    """
    entries = collect(name, os.environ, is_all=is_all, is_quiet=is_json)
    if is_json:
        click.echo(json.dumps(entries, indent=2))
        return
    _show([entry for entry in entries if entry["state"] != _DEBT], is_all=is_all)
    for line in _debts([entry for entry in entries if entry["debt"]]):
        click.echo(line)


_DEBT = "debt"
"""The state shown for a debt whose instance the cloud does not list."""


def collect(name: str, environ: Mapping[str, str], *, is_all: bool, is_quiet: bool = True) -> list[Entry]:
    """Return the instances in the cloud of NAME, and the debts in its journal.

    Args:
        name: NAME, as in oned's ARGUMENTS.
        environ: environment variables, for OpenNebula's directories.
        is_all: include terminated instances, and those of other owners or without tags, which have no `vm_id`.
        is_quiet: show no progress.

    Raises:
        MadError: the configuration, the cloud or the journal cannot be read.
    """

    async def list_them(cloud: Cloud) -> list[Entry]:
        instances = by_id(await cloud.provider.list_instances()).values()
        debts = read_debts(cloud.places.journal(cloud.configuration))
        return list(_entries(instances, debts, owner=cloud.configuration.settings.owner, is_all=is_all))

    return ask(name, environ, list_them, is_quiet=is_quiet)


def _entries(instances: Iterable[Instance], debts: Sequence[Debt], *, owner: str, is_all: bool) -> Iterator[Entry]:
    owed = {debt.deploy_id: debt for debt in debts if debt.deploy_id}
    shown = set()
    for instance in instances:
        is_ours = instance.identity is not None and instance.identity.owner == owner
        is_owed = instance.deploy_id in owed
        if is_all or is_owed or (is_ours and instance.state is not InstanceState.TERMINATED):
            shown.add(instance.deploy_id)
            yield {**_entry(instance, is_ours=is_ours), **_debt(owed.get(instance.deploy_id))}
    yield from (_lone_debt(debt) for debt in debts if debt.deploy_id not in shown)


def _entry(instance: Instance, *, is_ours: bool) -> dict[str, Any]:
    who = instance.identity
    return {
        "vm_id": who.vm_id if who is not None and is_ours else None,
        "deploy_id": instance.deploy_id,
        "state": instance.state.value,
        "name": instance.name,
        "owner": who.owner if who is not None else None,
        "stime": who.stime if who is not None else None,
        "seq": who.seq if who is not None else None,
        "host_id": who.host_id if who is not None else None,
        "created_at": instance.created_at or None,
    }


def _lone_debt(debt: Debt) -> Entry:
    who = debt.identity
    return {
        "vm_id": who.vm_id,
        "deploy_id": debt.deploy_id or None,
        "state": _DEBT,
        "name": "",
        "owner": who.owner,
        "stime": who.stime,
        "seq": who.seq,
        "host_id": who.host_id,
        "created_at": None,
        **_debt(debt),
    }


def _debt(debt: Debt | None) -> dict[str, Any]:
    if debt is None:
        return {"debt": False}
    why = {"reason": debt.reason, "since": debt.since, "tries": debt.tries, "last_error": debt.last_error}
    return {"debt": True, **why}


# Text


def _show(entries: Sequence[Entry], *, is_all: bool) -> None:
    if not entries:
        click.echo("no instances")
        return
    columns = _FOREIGN_COLUMNS if is_all else _COLUMNS
    show_table(list(columns), [[_cell(key, entry[key]) for key in columns.values()] for entry in entries])


def _cell(key: str, value: object) -> str:
    if value is None:
        return "-"
    return _moment(value) if key == "created_at" and isinstance(value, float) else str(value)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _debts(entries: Sequence[Entry]) -> Iterator[str]:
    if entries:
        yield ""
        yield click.style("debts (pending terminations)", fg="yellow")
    for entry in entries:
        what = printable(entry["deploy_id"] or "an instance tagged for the VM")
        failed = f"; tried {entry['tries']} times: {entry['last_error']}" if entry["tries"] else ""
        text = f"VM {entry['vm_id']}, {what}, since {_moment(entry['since'])}: {entry['reason']}{failed}"
        yield f"  {printable(text)}"
