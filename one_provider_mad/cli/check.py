"""`one-provider check`: whether NAME would work, point by point, and for each that does not, what to do."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import click

from one_provider_mad.domain import Value
from one_provider_mad.errors import MadError, SettingsError
from one_provider_mad.journal import read_debts, read_fact, read_open_requests
from one_provider_mad.monitor.settings import read_tables
from one_provider_mad.orphans.documents import LocalOpenNebula
from one_provider_mad.orphans.machine import machine
from one_provider_mad.orphans.reconciler import MACHINE
from one_provider_mad.providers.interface import Provider, SelfChecking, VerbatimDriver
from one_provider_mad.providers.registry import build
from one_provider_mad.settings import Configuration, Places, load

_LONG_AGO = 3600.0
"""Seconds after which a debt is nothing that passes by itself."""


class Point(Value, frozen=True, kw_only=True):
    """One thing that was checked.

    Attributes:
        what: what was looked at, in a word or two.
        is_well: True, False, or None for what only may be wrong.
        found: what was seen.
        remedy: what to do, "" where all is well.
    """

    what: str
    is_well: bool | None
    found: str
    remedy: str = ""


@click.command("check", short_help="Check configuration, credentials, rights and limits.")
@click.argument("name")
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
def command(name: str, is_json: bool) -> None:
    """Check whether the drivers of NAME would work here: files, credentials, the cloud, the journal, OpenNebula.

    Nothing is changed or made; rights are tried with dry runs. Exit code 1 when something is wrong.
    """
    points = asyncio.run(_shown(name, os.environ, is_json=is_json))
    if is_json:
        click.echo(json.dumps([_entry(each) for each in points], indent=2))
    if any(each.is_well is False for each in points):
        raise SystemExit(1)


async def _shown(name: str, environ: Mapping[str, str], *, is_json: bool) -> list[Point]:
    points = []
    async for point in points_of(name, environ):
        points.append(point)
        if not is_json:
            _show(point)
    return points


def _show(point: Point) -> None:
    mark, colour = {True: ("✓", "green"), False: ("✗", "red"), None: ("!", "yellow")}[point.is_well]
    click.echo(f"{click.style(mark, fg=colour)} {point.what}: {point.found}")
    if point.remedy:
        click.echo(f"    {point.remedy}")


def _entry(point: Point) -> Mapping[str, object]:
    return {"what": point.what, "is_well": point.is_well, "found": point.found, "remedy": point.remedy}


async def points_of(name: str, environ: Mapping[str, str]) -> AsyncIterator[Point]:
    """Check one thing after the other; what depends on one that is wrong is left out."""
    places = Places.from_environment(environ)
    try:
        configuration = load(name, places)
        read_tables(configuration)
        provider = build(configuration, places, lambda _: None)
    except SettingsError as error:
        yield Point(what="configuration", is_well=False, found=str(error), remedy="mend it; no restart is needed")
        return
    kind = configuration.settings.provider
    yield Point(what="configuration", is_well=True, found=f"{configuration.path or 'none'}, provider {kind}")
    for point in (_folder("state", places.var), _folder("logs", places.log), *_programs(environ)):
        yield point
    if isinstance(provider, VerbatimDriver):
        yield Point(what="scripts", is_well=True, found=f"served from {places.scripts(name)}")
    else:
        async for point in _cloud(provider, configuration, places):
            yield point
    for point in _journal(configuration, places):
        yield point
    yield await _opennebula(environ)


def _folder(what: str, path: Path) -> Point:
    if os.access(path, os.W_OK | os.X_OK):
        return Point(what=what, is_well=True, found=f"{path} can be written")
    remedy = f"make it, or run this as the user that runs OpenNebula: sudo -u oneadmin one-provider check ({path})"
    return Point(what=what, is_well=False, found=f"{path} cannot be written", remedy=remedy)


def _programs(environ: Mapping[str, str]) -> Iterator[Point]:
    location = environ.get("ONE_LOCATION")
    folder = Path(location) / "lib" / "mads" if location else Path("/usr/lib/one/mads")
    for program in ("one_vmm_provider", "one_im_provider"):
        is_there = os.access(folder / program, os.X_OK)
        yield Point(
            what=program,
            is_well=True if is_there else None,
            found=f"{folder / program}" if is_there else f"is not in {folder}",
            remedy="" if is_there else "run one-provider install, unless EXECUTABLE names another path",
        )


async def _cloud(provider: Provider, configuration: Configuration, places: Places) -> AsyncIterator[Point]:
    patience = configuration.settings.call_timeout
    begun = time.monotonic()
    try:
        async with asyncio.timeout(patience):
            await provider.open()
            account = await provider.account()
        took = time.monotonic() - begun
        yield Point(what="credentials", is_well=True, found=f"lead to {account}, in {took:.1f} s")
        recorded = read_fact(places.journal(configuration), "account")
        if recorded not in (None, account):
            remedy = f"if that is meant, run one-provider journal accept {configuration.name}"
            yield Point(what="account", is_well=False, found=f"was {recorded} before", remedy=remedy)
        async with asyncio.timeout(patience):
            instances = await provider.list_instances()
        ours = sum(
            each.identity is not None and each.identity.owner == configuration.settings.owner and not each.state.is_gone
            for each in instances
        )
        yield Point(what="listing", is_well=True, found=f"{len(instances)} instances, {ours} of them ours")
        if isinstance(provider, SelfChecking):
            for finding in await provider.check():
                yield Point(what=finding.what, is_well=finding.is_well, found=finding.found, remedy=finding.remedy)
    except TimeoutError:
        remedy = "look at the endpoint and the network, or raise call_timeout"
        yield Point(what="cloud", is_well=False, found=f"no answer within {patience:g} s", remedy=remedy)
    except MadError as error:
        yield Point(what="cloud", is_well=False, found=str(error), remedy="until that is mended every action fails so")
    finally:
        await provider.close()


def _journal(configuration: Configuration, places: Places) -> Iterator[Point]:
    path = places.journal(configuration)
    try:
        debts, requests = read_debts(path), read_open_requests(path)
        recorded = read_fact(path, MACHINE)
    except MadError as error:
        yield Point(what="journal", is_well=False, found=str(error), remedy="move it away only if no VM is running")
        return
    dead = [each for each in requests if not each.writer.is_alive()]
    yield Point(what="journal", is_well=True, found=f"{path}: {len(requests)} requests open, {len(debts)} debts")
    if dead:
        remedy = f"start the driver, which deals with them: one-provider journal {configuration.name}"
        yield Point(what="requests", is_well=None, found=f"{len(dead)} left open by a driver that ended", remedy=remedy)
    if old := [each for each in debts if time.time() - each.since > _LONG_AGO]:
        remedy = f"see why, and terminate them in the cloud: one-provider journal {configuration.name}"
        yield Point(
            what="debts", is_well=False, found=f"{len(old)} instances not terminated for an hour", remedy=remedy
        )
    if recorded not in (None, machine()):
        remedy = f"if this one has taken its place, run one-provider journal accept {configuration.name}"
        yield Point(what="machine", is_well=None, found="the journal was written on another one", remedy=remedy)


async def _opennebula(environ: Mapping[str, str]) -> Point:
    """Access to the local oned: without it there is no look for orphans, and nobody asks which front-end leads."""
    opennebula = LocalOpenNebula(environ)
    try:
        await opennebula.open()
        leads = await opennebula.may_act()
    except MadError as error:
        remedy = "orphans are not looked for, and nobody asks which front-end leads: set ONE_AUTH and ONE_XMLRPC"
        return Point(what="OpenNebula", is_well=None, found=str(error), remedy=remedy)
    finally:
        await opennebula.close()
    part = "has no peers, or leads them" if leads else "another front-end leads"
    return Point(what="OpenNebula", is_well=True, found=f"{opennebula.endpoint} answers: {part}")
