"""`one-provider upgrade --check`: says for each NAME what this release makes of its files, and what must be done first.

It runs from the next release's folder before the upgrade, or from the installed release. It changes nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from one_provider_mad import __version__
from one_provider_mad.actions.table import CREATES_OR_DESTROYS
from one_provider_mad.cli.check import NOT_WELL, result_entry, show_result
from one_provider_mad.cli.driver_arguments import Section, sections
from one_provider_mad.cli.journal_show import request_entry
from one_provider_mad.cli.names import check_name, complete_name
from one_provider_mad.cli.quiet import no_logs
from one_provider_mad.cli.running_drivers import RunningDriver, running_drivers
from one_provider_mad.cli.state_files import VersionedFile, journal_of, versioned_files
from one_provider_mad.cli.unknown_settings import UnknownLine, describe, load_without_unknown
from one_provider_mad.domain import Value
from one_provider_mad.errors import JournalError, SettingsError
from one_provider_mad.journal.reader import read_debts, read_open_requests
from one_provider_mad.journal.records import Debt, OpenRequest
from one_provider_mad.providers.interface import CheckResult
from one_provider_mad.settings import Places, known_names

_GOING_BACK = '"Going back to an earlier release" in docs/troubleshooting.md'

_MOST_NAMED = 5
"""Most requests or debts that a sentence names."""


class Findings(Value, frozen=True, kw_only=True):
    """All that concerns the upgrade of one NAME.

    Attributes:
        name: NAME.
        is_verbatim: its actions are scripts, of which none is carried out again by another process.
        fault: why its configuration cannot be used, "" if it can.
        path: its configuration file, "" without one.
        files: the files with a version.
        unknown: the settings that this release does not know.
        sections: the sections of OpenNebula's configuration that start its drivers.
        requests: requests that are not answered yet.
        debts: pending terminations.
        journal_fault: why these two cannot be read, "" if they can.
        drivers: the running drivers.
    """

    name: str
    is_verbatim: bool = False
    fault: str = ""
    path: str = ""
    files: tuple[VersionedFile, ...] = ()
    unknown: tuple[UnknownLine, ...] = ()
    sections: tuple[Section, ...] = ()
    requests: tuple[OpenRequest, ...] = ()
    debts: tuple[Debt, ...] = ()
    journal_fault: str = ""
    drivers: tuple[RunningDriver, ...] = ()


@click.command("upgrade", short_help="Check what an upgrade to this release meets.")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_name)
@click.option(
    "--check", is_flag=True, required=True, expose_value=False, help="The only thing it does: packages upgrade."
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(names: Sequence[str], is_json: bool) -> None:
    """Check, for each NAME or for all, what this release makes of the files of the installed one.

    Run it from the next release's folder before the upgrade, or from the installed release at any time. It shows the
    versions of all files, settings and ARGUMENTS that this release does not know, requests in flight, pending
    terminations, the running drivers with their releases, and the way back. Nothing is changed. Exit code 3 when
    something must be done first.
    """
    for name in names:
        check_name(name)
    with no_logs():
        everything = collect(names, os.environ)
    is_ready = all(result.is_well is not False for found in everything for result in results(found))
    if is_json:
        shown = {"release": __version__, "is_ready": is_ready, "names": [entry(found) for found in everything]}
        click.echo(json.dumps(shown, indent=2))
    else:
        _show(everything, is_ready=is_ready)
    if not is_ready:
        raise SystemExit(NOT_WELL)


def _show(everything: Sequence[Findings], *, is_ready: bool) -> None:
    click.echo(f"release {__version__}")
    for found in everything:
        click.echo(f"\n{found.name}")
        for result in results(found):
            show_result(result)
    if not everything:
        click.echo("no NAME is configured here")
    click.echo(f"\n{'the upgrade may be done now' if is_ready else 'something must be done first, see ✗'}")


def collect(names: Sequence[str], environ: Mapping[str, str]) -> list[Findings]:
    """Return the findings on these NAMEs; on all NAMEs of this OpenNebula if none is given."""
    places = Places.from_environment(environ)
    drivers, written = list(running_drivers(environ)), list(sections(places))
    wanted = names or sorted(
        {*known_names(places), *(each.name for each in drivers if each.name), *(each.name for each in written)} - {""}
    )
    return [_collect(name, places, drivers, written) for name in wanted]


def _collect(name: str, places: Places, drivers: Sequence[RunningDriver], written: Sequence[Section]) -> Findings:
    configuration, unknown, fault = None, [], ""
    try:
        configuration, paths = load_without_unknown(name, places)
        unknown = describe(configuration, paths)
    except SettingsError as error:
        fault = str(error)
    journal = journal_of(name, configuration, places)
    requests: list[OpenRequest] = []
    debts: list[Debt] = []
    journal_fault = ""
    try:
        requests, debts = read_open_requests(journal), read_debts(journal)
    except JournalError as error:
        journal_fault = str(error)
    return Findings(
        name=name,
        is_verbatim=configuration is not None and configuration.settings.provider == "scripts",
        fault=fault,
        path=str(configuration.path) if configuration is not None and configuration.path is not None else "",
        files=tuple(versioned_files(name, configuration, places)),
        unknown=tuple(unknown),
        sections=tuple(each for each in written if each.name == name),
        requests=tuple(requests),
        debts=tuple(debts),
        journal_fault=journal_fault,
        drivers=tuple(each for each in drivers if each.name == name),
    )


# Results


def results(found: Findings) -> Iterator[CheckResult]:
    """Yield what there is to say: False where something must be done before the upgrade, None for a note."""
    for file in found.files:
        yield _version(file)
    if found.journal_fault:
        yield CheckResult(what="journal", is_well=False, found=found.journal_fault, remedy="see one-provider check")
    yield from _settings(found)
    yield from _arguments(found)
    if not found.journal_fault:
        yield _requests(found)
    if found.debts:
        remedy = "they stay in the journal, and the next driver goes on with them"
        listed = _listed(
            [f"{each.deploy_id or 'an unknown instance'} of VM {each.identity.vm_id}" for each in found.debts]
        )
        yield CheckResult(what="debts", is_well=None, found=f"{len(found.debts)} to terminate: {listed}", remedy=remedy)
    for driver in found.drivers:
        yield _driver(driver)
    yield _way_back(found)


def _version(file: VersionedFile) -> CheckResult:
    if file.version is None:
        return CheckResult(what=file.what, is_well=False, found=file.trouble, remedy="see one-provider check")
    where = f"{file.path}: version {file.version}"
    if file.version > file.written:
        return CheckResult(
            what=file.what,
            is_well=False,
            found=f"{where}, of a later release: this one, {__version__}, writes versions up to {file.written}",
            remedy=f"stay with that release, or see {_GOING_BACK}",
        )
    if file.version == file.written:
        return CheckResult(what=file.what, is_well=True, found=f"{where}, which stays")
    becomes = f"{where}, which the first driver of {__version__} upgrades to {file.written}"
    return CheckResult(what=file.what, is_well=True, found=becomes)


def _settings(found: Findings) -> Iterator[CheckResult]:
    if found.fault:
        yield CheckResult(
            what="settings", is_well=False, found=found.fault, remedy="correct the file, no restart is needed"
        )
    elif not found.unknown:
        yield CheckResult(
            what="settings", is_well=True, found=f"{found.path or 'no file'}: {__version__} knows all of them"
        )
    for each in found.unknown:
        is_for_reports = each.key.split(".")[0] in ("capacity", "monitor")
        effect = "no VM would be reported missing" if is_for_reports else "all actions would fail"
        other = f"write {each.alike} if that is meant; else " if each.alike else ""
        yield CheckResult(
            what="settings",
            is_well=False,
            found=f"{found.path}, line {each.line}: {each.key} is no setting of {__version__}: {effect}",
            remedy=f"{other}put a # before it",
        )


def _arguments(found: Findings) -> Iterator[CheckResult]:
    for each in found.sections:
        where = f"{each.path}, line {each.line}, {each.kind}"
        for warning in each.warnings:
            remedy = f"correct ARGUMENTS, and restart OpenNebula: {__version__} goes on without it"
            yield CheckResult(what="ARGUMENTS", is_well=None, found=f"{where}: {warning}", remedy=remedy)
        if not each.warnings:
            yield CheckResult(what="ARGUMENTS", is_well=True, found=f"{where}: {each.arguments}")


def _requests(found: Findings) -> CheckResult:
    if not found.requests:
        return CheckResult(what="requests", is_well=True, found="none is in flight")
    lost = [each for each in found.requests if found.is_verbatim or not _is_repeated(each)]
    text = (
        f"{len(found.requests)} in flight: {_listed([f'{each.action} of VM {each.vm_id}' for each in found.requests])}"
    )
    if not lost:
        remedy = "the next driver carries them out again, or settles them by what the cloud shows"
        return CheckResult(what="requests", is_well=None, found=text, remedy=remedy)
    names = _listed(sorted({each.action for each in lost}))
    remedy = f"wait for {names}, which would fail when the driver is restarted: one-provider journal {found.name}"
    return CheckResult(what="requests", is_well=False, found=text, remedy=remedy)


def _is_repeated(request: OpenRequest) -> bool:
    return request.action in {action.value for action in CREATES_OR_DESTROYS} or request.action == "DRIVER_CANCEL"


def _driver(driver: RunningDriver) -> CheckResult:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(driver.since))
    where = driver.folder or "folder unknown"
    text = f"process {driver.pid}, since {since}, release {driver.release or 'unknown'}, {where}"
    if driver.is_replaced:
        return CheckResult(
            what=driver.program,
            is_well=False,
            found=f"{text}: its files were replaced or removed since",
            remedy="restart OpenNebula now: modules that it imports from now on may not fit",
        )
    if driver.release == __version__:
        return CheckResult(what=driver.program, is_well=True, found=text)
    remedy = f"after the upgrade it runs on until OpenNebula is restarted; {__version__} begins then"
    return CheckResult(what=driver.program, is_well=None, found=text, remedy=remedy)


def _way_back(found: Findings) -> CheckResult:
    changed = [each for each in found.files if each.version is not None and each.version < each.written]
    if changed:
        what = " and ".join(each.what for each in changed)
        text = f"an earlier release refuses the upgraded {what}, and reports meanwhile: see {_GOING_BACK}"
        return CheckResult(what="way back", is_well=None, found=text)
    text = "install the earlier release again: no file changes its version"
    return CheckResult(what="way back", is_well=True, found=text)


def _listed(parts: Sequence[str]) -> str:
    more = len(parts) - _MOST_NAMED
    return ", ".join(parts[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# JSON


def entry(found: Findings) -> Mapping[str, Any]:
    """Return the findings for --json; times in seconds since the epoch."""
    return {
        "name": found.name,
        "files": [
            {"what": each.what, "path": str(each.path), "version": each.version, "becomes": each.written}
            for each in found.files
        ],
        "unknown_settings": [
            {"path": found.path, "line": each.line, "key": each.key, "alike": each.alike or None}
            for each in found.unknown
        ],
        "arguments": [
            {
                "path": str(each.path),
                "line": each.line,
                "section": each.kind,
                "arguments": each.arguments,
                "warnings": each.warnings,
            }
            for each in found.sections
        ],
        "requests": [request_entry(each) for each in found.requests],
        "debts": [
            {
                "vm_id": each.identity.vm_id,
                "deploy_id": each.deploy_id or None,
                "since": each.since,
                "reason": each.reason,
            }
            for each in found.debts
        ],
        "drivers": [
            {
                "program": each.program,
                "pid": each.pid,
                "since": each.since,
                "folder": each.folder or None,
                "release": each.release or None,
                "is_replaced": each.is_replaced,
            }
            for each in found.drivers
        ],
        "checks": [result_entry(each) for each in results(found)],
    }
