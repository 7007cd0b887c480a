"""`one-provider purge --check`: says which files of the drivers may be deleted with the packages, and which may not.

A journal that names instances which may still run, and cost money, stays; with it stays the configuration file, since
its owner and credentials are needed to find them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from one_provider_mad.cli.check import NOT_WELL
from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.names import check_name, complete_name
from one_provider_mad.cli.quiet import no_logs
from one_provider_mad.cli.running_drivers import PROGRAMS, running_drivers
from one_provider_mad.cli.state_files import (
    budget_of,
    embedded_cloud,
    is_embedded_cloud,
    journal_of,
    ledger_of,
    monitoring_state,
)
from one_provider_mad.cli.unknown_settings import load_without_unknown
from one_provider_mad.domain import Value
from one_provider_mad.errors import JournalError, SettingsError
from one_provider_mad.journal.reader import read_attempts, read_debts, read_fact, read_live_imports, read_open_requests
from one_provider_mad.journal.records import AttemptState
from one_provider_mad.live_provider import ACCOUNT
from one_provider_mad.settings import Configuration, Places, known_names


class Trace(Value, frozen=True, kw_only=True):
    """An instance that may exist, by the journal.

    Attributes:
        what: `debt`, `instance`, `imported instance`, `create without an answer` or `request without an answer`.
        vm_id: number of its VM.
        deploy_id: its id in the cloud, "" if it is not known.
        since: time of the record, seconds since the epoch; 0 if it is not recorded.
        text: the reason of a debt, the action of a request; "" else.
    """

    what: str
    vm_id: int
    deploy_id: str
    since: float
    text: str = ""


class Remains(Value, frozen=True, kw_only=True):
    """The files of one NAME.

    Attributes:
        name: NAME.
        where: the provider and the account in the journal.
        journal: path of the journal.
        traces: the instances that may exist.
        fault: why all must stay although no instance is known: the journal cannot be read, or a driver runs; "" else.
        removable: files and folders that may be deleted.
        kept: files that must stay.
        ledgers: what its instances have cost; a purge keeps these files, and nothing needs them.
    """

    name: str
    where: str
    journal: Path
    traces: tuple[Trace, ...]
    fault: str
    removable: tuple[Path, ...]
    kept: tuple[Path, ...]
    ledgers: tuple[Path, ...] = ()


@click.command("purge", short_help="Check which files may be deleted for good.")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_name)
@click.option(
    "--check", is_flag=True, required=True, expose_value=False, help="The only thing it does: packages purge."
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(names: Sequence[str], is_json: bool) -> None:
    """Check, for each NAME or for all, which files of the drivers may be deleted.

    Nothing is deleted. A journal that names pending terminations, or instances that may still exist, must stay, and the
    output says what and where they are. A purge keeps the ledger, the only record of costs. Exit code 3 when files must
    stay.
    """
    for name in names:
        check_name(name)
    with no_logs():
        places = Places.from_environment(os.environ)
        served = {each.name: each.pid for each in running_drivers(os.environ)}
        everything = [remains_of(name, places, served.get(name)) for name in names or sorted(known_names(places))]
    if is_json:
        click.echo(json.dumps([_entry(each) for each in everything], indent=2))
    else:
        for each in everything:
            _show(each)
    if any(each.kept for each in everything):
        raise SystemExit(NOT_WELL)


def remains_of(name: str, places: Places, pid: int | None = None) -> Remains:
    """Return the files of a NAME, and the instances in its journal that may exist.

    Args:
        name: NAME.
        places: the directories.
        pid: a driver that still runs; None for none.
    """
    configuration: Configuration | None = None
    with suppress(SettingsError):  # a NAME that was configured may have a journal all the same
        configuration = load_without_unknown(name, places)[0]
    journal = journal_of(name, configuration, places)
    traces: list[Trace] = []
    account, fault = None, f"process {pid} still serves it: stop OpenNebula first" if pid is not None else ""
    try:
        traces, account = list(_traces(journal)), read_fact(journal, ACCOUNT)
    except JournalError as error:
        fault = str(error)
    kind = configuration.settings.provider if configuration is not None else "unknown provider"
    is_kept = bool(traces or fault)
    state = [path for path in _state(name, configuration, places, journal) if path.exists()]
    output = [path for path in (*_logs(name, places), *_metrics(name, configuration)) if path.exists()]
    return Remains(
        name=name,
        where=f"{kind}, account {account or 'not recorded'}",
        journal=journal,
        traces=tuple(traces),
        fault=fault,
        removable=(*(() if is_kept else state), *(() if pid is not None else output)),
        kept=(*(state if is_kept else ()), *(output if pid is not None else ())),
        ledgers=tuple(path for path in _ledgers(name, configuration, places) if path.exists()),
    )


def _state(name: str, configuration: Configuration | None, places: Places, journal: Path) -> Iterator[Path]:
    cloud = embedded_cloud(name, configuration, places)
    yield from (journal, Path(f"{journal}-journal"), places.conf / f"{name}.toml", places.mark(name))
    yield from (monitoring_state(name, places), Path(f"{monitoring_state(name, places)}.new"))
    yield from (places.var / f"one_provider_mad_{name}.{kind}" for kind in ("scripts", "probes", "prices", "types"))
    budget = budget_of(name, configuration, places)
    yield from (budget, Path(f"{budget}-journal"), Path(f"{ledger_of(name, configuration, places)}.lock"))
    if cloud is not None and is_embedded_cloud(cloud):
        yield from (Path(f"{cloud}{suffix}") for suffix in ("", "-wal", "-shm", ".crashes"))


def _ledgers(name: str, configuration: Configuration | None, places: Places) -> Iterator[Path]:
    ledger = ledger_of(name, configuration, places)
    yield from (ledger, Path(f"{ledger}-journal"))
    yield from sorted(ledger.parent.glob(f"{ledger.name}.broken-*"))


def _logs(name: str, places: Places) -> Iterator[Path]:
    for program in PROGRAMS:
        yield from sorted(places.log.glob(f"{program}_{name}.log*"))


def _metrics(name: str, configuration: Configuration | None) -> Iterator[Path]:
    directory = configuration.settings.metrics.textfile_directory if configuration is not None else ""
    if directory:
        for program in PROGRAMS:
            yield Path(directory) / f"{program}_{name}.prom"


def _traces(journal: Path) -> Iterator[Trace]:
    """Yield the instances in the journal that may exist. Raises JournalError."""
    debts = read_debts(journal)
    for debt in debts:
        yield Trace(
            what="debt", vm_id=debt.identity.vm_id, deploy_id=debt.deploy_id, since=debt.since, text=debt.reason
        )
    owed = {debt.deploy_id for debt in debts}
    for deploy_id, vm_id in read_live_imports(journal):
        if deploy_id not in owed:
            yield Trace(what="imported instance", vm_id=vm_id, deploy_id=deploy_id, since=0.0)
    for attempt in read_attempts(journal):
        who, at = attempt.identity.vm_id, attempt.sent_at
        if attempt.state is AttemptState.OPEN:
            yield Trace(what="create without an answer", vm_id=who, deploy_id="", since=at)
        elif attempt.state is AttemptState.CREATED and attempt.deploy_id not in owed:
            yield Trace(what="instance", vm_id=who, deploy_id=attempt.deploy_id, since=at)
    for request in read_open_requests(journal):
        yield Trace(
            what="request without an answer",
            vm_id=request.vm_id,
            deploy_id="",
            since=request.opened_at,
            text=request.action,
        )


def _show(remains: Remains) -> None:
    click.echo(f"{remains.name}: {remains.where}")
    for each in remains.traces:
        since = time.strftime(", since %Y-%m-%d %H:%M:%S", time.localtime(each.since)) if each.since else ""
        text = f": {each.text}" if each.text else ""
        click.echo(printable(f"  {each.what}: {each.deploy_id or 'no id'} of VM {each.vm_id}{since}{text}"))
    if remains.fault:
        click.echo(f"  {remains.fault}")
    for path in remains.kept:
        click.echo(f"  must stay: {path}")
    for path in remains.removable:
        click.echo(f"  may be deleted: {path}")
    for path in remains.ledgers:
        click.echo(f"  only record of costs, kept by a purge: {path}")
    if remains.traces:
        click.echo("  terminate these in OpenNebula or in the cloud, then run this again")


def _entry(remains: Remains) -> Mapping[str, Any]:
    return {
        "name": remains.name,
        "where": remains.where,
        "journal": str(remains.journal),
        "fault": remains.fault or None,
        "traces": [
            {
                "what": each.what,
                "vm_id": each.vm_id,
                "deploy_id": each.deploy_id or None,
                "since": each.since,
                "text": each.text or None,
            }
            for each in remains.traces
        ],
        "removable": [str(path) for path in remains.removable],
        "kept": [str(path) for path in remains.kept],
        "ledgers": [str(path) for path in remains.ledgers],
    }
