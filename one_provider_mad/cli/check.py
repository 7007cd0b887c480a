"""`one-provider check`: tests whether NAME works here, one check after the other, with a remedy for each fault."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import click
import msgspec

from one_provider_mad.cli.core_user import CoreUser
from one_provider_mad.cli.decode import printable
from one_provider_mad.cli.home_checks import home_results
from one_provider_mad.cli.image_datastores import check_image_datastores
from one_provider_mad.cli.install_hook import check_recreate_hooks
from one_provider_mad.cli.keep_place_hooks import check_hooks
from one_provider_mad.cli.names import complete_name
from one_provider_mad.cli.orphan_checks import check_orphans
from one_provider_mad.cli.progress import progress
from one_provider_mad.cli.quiet import no_logs
from one_provider_mad.cli.scheduler_checks import check_scheduler
from one_provider_mad.cli.startable import Obstacle, obstacle_in_files, obstacle_to
from one_provider_mad.cli.system_datastores import check_system_datastores
from one_provider_mad.cli.wrapping import wrapped
from one_provider_mad.core_values import may_decrypt
from one_provider_mad.errors import AuthenticationRefused, MadError, PermissionDenied, SettingsError
from one_provider_mad.journal.reader import read_debts, read_fact, read_open_requests
from one_provider_mad.journal.upkeep import try_to_write
from one_provider_mad.listings import by_id
from one_provider_mad.live_provider import ACCOUNT
from one_provider_mad.masking import masked
from one_provider_mad.monitor.settings import read_tables
from one_provider_mad.orphans.documents import LocalOpenNebula
from one_provider_mad.orphans.machine import machine
from one_provider_mad.orphans.reconciler import MACHINE
from one_provider_mad.providers.interface import CheckResult, Provider, SelfChecking, SharedGroups, VerbatimDriver
from one_provider_mad.providers.registry import build
from one_provider_mad.settings import Configuration, Places, load
from one_provider_mad.xmlrpc.local import LocalCore
from one_provider_mad.xmlrpc.local_endpoint import local_endpoint

NOT_WELL = 3
"""Exit code when a check failed (cli/main.py lists all exit codes)."""

_LONG_AGO = 3600.0
"""Seconds after which a pending termination (debt) is reported as a fault: until then the driver is likely to
succeed."""

_SCRIPTS = ("deploy", "shutdown", "cancel")
"""Scripts without which a directory can neither create nor end a VM."""


@click.command("check", short_help="Check configuration, credentials, rights and limits.")
@click.argument("name", shell_complete=complete_name)
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
def command(name: str, is_json: bool) -> None:
    """Check whether the drivers of NAME work here: files, credentials, the cloud, the journal, OpenNebula.

    Rights are tested with dry runs, and a test entry in the journal is removed again. Exit code 3 when a check fails.
    """
    with no_logs():
        results = asyncio.run(_shown(name, os.environ, is_json=is_json))
    if is_json:
        click.echo(json.dumps([result_entry(each) for each in results], indent=2))
    if any(each.is_well is False for each in results):
        raise SystemExit(NOT_WELL)


async def _shown(name: str, environ: Mapping[str, str], *, is_json: bool) -> list[CheckResult]:
    results: list[CheckResult] = []
    with progress(f"checking {name}", is_wanted=not is_json):
        async for result in run_checks(name, environ):
            shown = msgspec.structs.replace(result, found=masked(result.found))  # a cloud's error may repeat secrets
            results.append(shown)
            if not is_json:
                show_result(shown)
    return results


def show_result(result: CheckResult) -> None:
    """Write a result to stdout, its remedy on a line of its own."""
    mark, colour = {True: ("✓", "green"), False: ("✗", "red"), None: ("!", "yellow")}[result.is_well]
    text = wrapped(printable(f"{mark} {result.what}: {result.found}"), further=2)
    click.echo(click.style(mark, fg=colour) + text.removeprefix(mark))
    if result.remedy:
        click.echo(wrapped(printable(result.remedy), first="    ", further=4))


def result_entry(result: CheckResult) -> Mapping[str, object]:
    """Return a result for --json."""
    return {"what": result.what, "is_well": result.is_well, "found": result.found, "remedy": result.remedy}


async def run_checks(name: str, environ: Mapping[str, str]) -> AsyncIterator[CheckResult]:
    """Run the checks one after the other, and yield their results; a check that depends on a failed one is left out."""
    places, warnings = Places.from_environment(environ), list[str]()
    user = CoreUser.of(environ)
    if user is None or not user.can_be_tried():
        yield _untried(name, user, environ)
        user = None
    else:
        environ = {**environ, "HOME": user.home}
    try:
        configuration = load(name, places)
        read_tables(configuration)
        provider = build(configuration, places, warnings.append)
    except SettingsError as error:
        remedy = "correct the file, no restart is needed; one-provider install writes a first one"
        yield CheckResult(what="configuration", is_well=False, found=str(error), remedy=remedy)
        return
    kind = configuration.settings.provider
    yield CheckResult(what="configuration", is_well=True, found=f"{configuration.path or 'no file'}, provider {kind}")
    metrics = _metrics(configuration.settings.metrics.textfile_directory, user)
    files = (*_permissions(configuration, places, user), *_folders(places, user), *metrics)
    for result in (*files, *_programs(environ, user)):
        yield result
    if isinstance(provider, VerbatimDriver):
        yield _scripts(places.scripts(name))
    else:
        async for result in _cloud(provider, configuration, places):
            yield result
    for sentence in warnings:
        yield CheckResult(what="note", is_well=None, found=sentence)
    for result in _journal(configuration, places):
        yield result
    for result in check_orphans(name, configuration.settings.orphans.policy, places.journal(configuration)):
        yield result
    for result in check_scheduler(name, places):
        yield result
    opennebula = await _opennebula(environ)
    yield opennebula
    if opennebula.is_well and not isinstance(provider, VerbatimDriver):
        used = {each.datastore for each in configuration.settings.images.values() if each.datastore}
        datastores = await _datastores(name, environ, used=used, remotes=places.var / "remotes")
        for result in (*datastores, *await home_results(name, environ, places), await _decryption(environ)):
            yield result


def _untried(name: str, user: CoreUser | None, environ: Mapping[str, str]) -> CheckResult:
    """Return a warning that nothing was tried as OpenNebula's user."""
    owner = "oneadmin" if user is None else user.name
    found = "there is no OpenNebula here; a self-contained one needs ONE_LOCATION"
    if user is not None:
        found = f"what OpenNebula's user, {owner}, may read, write and run was not tested"
    handing_on = "-E -H " if "ONE_LOCATION" in environ else ""  # that variable, and not the caller's HOME
    remedy = f"run this as root, or as that user: sudo -u {owner} {handing_on}one-provider check {name}"
    return CheckResult(what="user", is_well=None, found=found, remedy=remedy)


def _permissions(configuration: Configuration, places: Places, user: CoreUser | None) -> Iterator[CheckResult]:
    """Yield a fault for each file that others may change, or that OpenNebula's user cannot use."""
    journal = places.journal(configuration)
    files = [path for path in (configuration.path, journal) if path is not None and path.exists()]
    wrong = [result for path in files for result in _wrong_file(path, places.var, user, is_journal=path == journal)]
    if files and not wrong:
        modes = ", ".join(f"{path.name} {stat.filemode(path.stat().st_mode)}" for path in files)
        yield CheckResult(what="permissions", is_well=True, found=modes)
    yield from wrong


def _wrong_file(path: Path, var: Path, user: CoreUser | None, *, is_journal: bool) -> Iterator[CheckResult]:
    status = path.stat()
    mode = stat.filemode(status.st_mode)
    if is_journal and status.st_mode & 0o077:
        yield CheckResult(what="permissions", is_well=False, found=f"{path} is {mode}", remedy=f"chmod 600 {path}")
    if not is_journal and status.st_mode & 0o022:
        found = f"{path} is {mode}: others may change it"
        yield CheckResult(what="permissions", is_well=False, found=found, remedy=f"chmod go-w {path}")
    if user is None:
        return
    closed = user.first_closed(path, "-w" if is_journal else "-r")
    if closed is not None and closed != path.resolve():
        found = f"{closed} is closed to OpenNebula's user, {user.name}, and {path} is in it"
        remedy = f"chgrp {user.gid} {closed} && chmod g+x {closed}"
        yield CheckResult(what="permissions", is_well=False, found=found, remedy=remedy)
    elif is_journal and status.st_uid == user.uid and not status.st_mode & stat.S_IWUSR:
        found = f"{path} is {mode}: OpenNebula's user, {user.name}, cannot write it"
        yield CheckResult(what="permissions", is_well=False, found=found, remedy=f"chmod 600 {path}")
    elif closed is not None or (is_journal and user.uid not in (status.st_uid, 0)):
        found = f"{path} is {mode} and belongs to user {status.st_uid}: OpenNebula's user, {user.name}, cannot use it"
        yield CheckResult(what="permissions", is_well=False, found=found, remedy=f"chown --reference={var} {path}")


def _folders(places: Places, user: CoreUser | None) -> Iterator[CheckResult]:
    for what, path, is_needed in (("state", places.var, True), ("logs", places.log, False)):
        if _may_write(path, user):
            yield CheckResult(what=what, is_well=True, found=f"{path} can be written")
            continue
        owner = "oneadmin" if user is None else user.name
        remedy = f"create the directory, and let OpenNebula's user write there: chown {owner} {path}"
        lost = "" if is_needed else ": the driver works without a log"
        is_well = False if is_needed else None
        yield CheckResult(what=what, is_well=is_well, found=f"{path} cannot be written{lost}", remedy=remedy)


def _metrics(name: str, user: CoreUser | None) -> Iterator[CheckResult]:
    """Check the table [metrics] if it is set; a fault is only a warning, since the drivers work without metrics."""
    if not name:
        return
    directory, remedy = Path(name), ""
    if find_spec("prometheus_client") is None:
        found = f"prometheus-client is not installed for {sys.executable}"
        remedy = "pip install 'one-provider-mad[metrics]', or remove [metrics] from the configuration"
    elif not directory.is_dir() or not _may_write(directory, user):
        found = f"{directory} cannot be written: the driver works without metrics"
        remedy = "create the directory, and let OpenNebula's user write there"
    elif ~(mode := directory.stat().st_mode) & (stat.S_IROTH | stat.S_IXOTH):
        found = f"{directory} is {stat.filemode(mode)}: node_exporter can read it only as a member of its group"
        remedy = f"chmod o+rx {directory}, unless node_exporter is in that group"
    else:
        found = f"{directory} can be written"
    yield CheckResult(what="metrics", is_well=None if remedy else True, found=found, remedy=remedy)


def _may_write(directory: Path, user: CoreUser | None) -> bool:
    """Return whether OpenNebula's user may create files in a directory; with None whether this process may."""
    if user is None:
        return os.access(directory, os.W_OK | os.X_OK)
    return user.first_closed(directory, "-w") is None and user.first_closed(directory, "-x") is None


def _scripts(folder: Path) -> CheckResult:
    missing = [name for name in _SCRIPTS if not os.access(folder / name, os.X_OK)]
    if not missing:
        return CheckResult(what="scripts", is_well=True, found=f"served from {folder}")
    found = f"{', '.join(missing)} cannot be run in {folder}"
    return CheckResult(
        what="scripts", is_well=None, found=found, remedy="put these scripts there, and make them executable"
    )


def _programs(environ: Mapping[str, str], user: CoreUser | None) -> Iterator[CheckResult]:
    """Start both drivers as OpenNebula's user, and look for files of the package that it may not read."""
    location = environ.get("ONE_LOCATION")
    folder = Path(location) / "lib" / "mads" if location else Path("/usr/lib/one/mads")
    for program in (folder / "one_vmm_provider", folder / "one_im_provider"):
        if not os.path.lexists(program):
            remedy = "run one-provider install, unless EXECUTABLE names another path"
            yield CheckResult(what=program.name, is_well=None, found=f"is not in {folder}", remedy=remedy)
        elif user is None:
            yield CheckResult(what=program.name, is_well=None, found=f"{program} was not started")
        else:
            yield _result(program.name, obstacle_to(program, user, environ), good=f"{program}")
    if user is not None:
        yield _result("package", obstacle_in_files(user), good=f"{user.name} can read all files")


def _result(what: str, obstacle: Obstacle | None, *, good: str) -> CheckResult:
    if obstacle is None:
        return CheckResult(what=what, is_well=True, found=good)
    is_well = False if obstacle.is_fatal else None
    return CheckResult(what=what, is_well=is_well, found=obstacle.found, remedy=obstacle.remedy)


async def _cloud(provider: Provider, configuration: Configuration, places: Places) -> AsyncIterator[CheckResult]:
    if configuration.settings.security_groups.mirror and not isinstance(provider, SharedGroups):
        found = f"mirror = true has no effect: {provider.name} has no groups of OpenNebula's, rules do not arrive there"
        remedy = "remove it from [security_groups], and set the rules in the cloud"
        yield CheckResult(what="security groups", is_well=None, found=found, remedy=remedy)
    patience, begun = configuration.settings.call_timeout, time.monotonic()
    try:
        async with asyncio.timeout(patience):
            await provider.open()
            account = await provider.account()
        found = f"account {account}, answered in {time.monotonic() - begun:.1f} s"
        yield CheckResult(what="credentials", is_well=True, found=found)
        for result in _account(account, configuration, places):
            yield result
        async with asyncio.timeout(patience):
            yield await _listing(provider, owner=configuration.settings.owner)
        if isinstance(provider, SelfChecking):
            async with asyncio.timeout(patience):
                results = await provider.check()
            for result in results:
                yield result
    except TimeoutError:
        remedy = "check the endpoint and the network, or raise call_timeout"
        yield CheckResult(what="endpoint", is_well=False, found=f"no answer within {patience:g} s", remedy=remedy)
    except MadError as error:
        yield _failed(error)
    finally:
        await provider.close()


def _account(account: str, configuration: Configuration, places: Places) -> Iterator[CheckResult]:
    """Yield a fault if the credentials' account is not the journal's: the driver then refuses every action."""
    recorded = _recorded(places.journal(configuration), ACCOUNT)
    if recorded not in (None, account):
        remedy = f"restore the credentials; if {account} is meant, run one-provider journal accept {configuration.name}"
        yield CheckResult(
            what="account",
            is_well=False,
            found=f"the credentials belong to {account}, the journal to {recorded}",
            remedy=remedy,
        )


def _recorded(journal: Path, name: str) -> str | None:
    try:
        return read_fact(journal, name)
    except MadError:
        return None  # _journal yields a fault for it


async def _listing(provider: Provider, *, owner: str) -> CheckResult:
    instances = [each for each in by_id(await provider.list_instances()).values() if not each.state.is_gone]
    ours = sum(each.identity is not None and each.identity.owner == owner for each in instances)
    return CheckResult(what="listing", is_well=True, found=f"{_count(len(instances), 'instance')}, {ours} of them ours")


def _failed(error: MadError) -> CheckResult:
    """Return a fault for a failed call to the cloud: of the credentials, the rights or the endpoint."""
    if isinstance(error, AuthenticationRefused | SettingsError):
        return CheckResult(
            what="credentials",
            is_well=False,
            found=str(error),
            remedy="correct the credentials: until then all actions fail",
        )
    if isinstance(error, PermissionDenied):
        return CheckResult(what="rights", is_well=False, found=str(error), remedy="allow the account that call")
    remedy = "check the endpoint and the network; until it answers all actions fail"
    return CheckResult(what="endpoint", is_well=False, found=str(error), remedy=remedy)


def _journal(configuration: Configuration, places: Places) -> Iterator[CheckResult]:
    path = places.journal(configuration)
    try:
        debts, requests = read_debts(path), read_open_requests(path)
        recorded = read_fact(path, MACHINE)
        if not path.exists() and places.mark(configuration.name).exists():
            yield _lost_journal(path, configuration.name)
            return
        try_to_write(path)
    except MadError as error:
        remedy = (
            f"make room, and let OpenNebula's user write the journal: until then all actions but POLL fail; {_DAMAGED}"
        )
        yield CheckResult(what="journal", is_well=False, found=str(error), remedy=remedy)
        return
    dead = [each for each in requests if not each.writer.is_alive()]
    held = f"{_count(len(requests), 'request')} open, {_count(len(debts), 'debt')}"
    yield CheckResult(what="journal", is_well=True, found=f"{path}: {held}")
    if dead:
        remedy = f"start the driver, which answers them; see them with one-provider journal {configuration.name}"
        yield CheckResult(
            what="requests",
            is_well=None,
            found=f"{_count(len(dead), 'request')} not answered by a driver that has ended",
            remedy=remedy,
        )
    if old := [each for each in debts if time.time() - each.since > _LONG_AGO]:
        remedy = f"one-provider journal {configuration.name} shows the reason; or terminate the instances in the cloud"
        found = f"{_count(len(old), 'termination')} pending for over an hour"
        yield CheckResult(what="debts", is_well=False, found=found, remedy=remedy)
    if recorded not in (None, machine()):
        remedy = f"if this machine replaces that one for good, run one-provider journal accept {configuration.name}"
        yield CheckResult(
            what="machine", is_well=None, found="the journal was written on another machine", remedy=remedy
        )


_DAMAGED = "move a damaged journal away only if no VM is in a transient state"


def _lost_journal(path: Path, name: str) -> CheckResult:
    return CheckResult(
        what="journal",
        is_well=False,
        found=f"{path} is missing, although {name} had one",
        remedy="a running driver restores it whole at its next request; else put the file back, or list the cloud's"
        f" instances: one-provider instances {name}",
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


async def _datastores(
    name: str, environ: Mapping[str, str], *, used: Collection[str], remotes: Path
) -> list[CheckResult]:
    """Check whether OpenNebula has the datastores that it needs to deploy and end the cloud's VMs."""
    core = LocalCore(environ)
    try:
        return [
            *await asyncio.to_thread(check_system_datastores, core, name, remotes=remotes),
            *await asyncio.to_thread(check_image_datastores, core, name, used=used, remotes=remotes),
            *await asyncio.to_thread(check_recreate_hooks, core, remotes.parent),
            *await asyncio.to_thread(check_hooks, core),
        ]
    except MadError as error:
        remedy = "run this as oneadmin: from 7.0 on the cloud's cluster needs one with TM_MAD=one_provider"
        return [CheckResult(what="system datastore", is_well=None, found=str(error), remedy=remedy)]


async def _decryption(environ: Mapping[str, str]) -> CheckResult:
    """Check whether the local oned decrypts for the drivers what it encrypts of VMs, such as CONTEXT/PASSWORD."""
    what = "encrypted attributes"
    try:
        user, is_allowed = await asyncio.to_thread(may_decrypt, LocalCore(environ))
    except MadError as error:
        return CheckResult(what=what, is_well=None, found=str(error), remedy="run this as oneadmin")
    if is_allowed:
        return CheckResult(what=what, is_well=True, found=f"OpenNebula decrypts them for {user}, the user in ONE_AUTH")
    return CheckResult(
        what=what,
        is_well=None,
        found=f"OpenNebula does not decrypt them for {user}, the user in ONE_AUTH: a VM with a PASSWORD in CONTEXT, or"
        " with TOKEN = YES, is not deployed",
        remedy=f"oneuser addgroup {user} oneadmin",
    )


async def _opennebula(environ: Mapping[str, str]) -> CheckResult:
    """Check access to the local oned, which the drivers ask for orphans and for which front-end leads."""
    opennebula = LocalOpenNebula(environ)
    where = ""
    try:
        endpoint = local_endpoint(environ)
        where = f"{endpoint.url} ({endpoint.source})"
        await opennebula.open()
        leads = await opennebula.may_act()
    except MadError as error:
        remedy = (
            "set ONE_AUTH and ONE_XMLRPC: without oned the drivers search no orphans"
            " and do not know which front-end leads"
        )
        asked = "; its endpoint would be" if isinstance(error, SettingsError) else ", asked at"
        found = f"{error}{asked} {where}" if where else str(error)
        return CheckResult(what="OpenNebula", is_well=None, found=found, remedy=remedy)
    finally:
        await opennebula.close()
    part = "this front-end leads or is alone" if leads else "another front-end leads"
    return CheckResult(what="OpenNebula", is_well=True, found=f"{where} answers: {part}")
