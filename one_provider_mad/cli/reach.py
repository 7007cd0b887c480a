"""`one-provider reach`: says why one cannot log in to a VM's instance, and what to do."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import click

from one_provider_mad.cli.asked_cloud import Cloud, NoInstance, ask
from one_provider_mad.cli.check import NOT_WELL, result_entry, show_result
from one_provider_mad.cli.console_lines import console_lines
from one_provider_mad.cli.names import complete_name, complete_vm_id
from one_provider_mad.cli.progress import progress
from one_provider_mad.errors import MadError, ProviderError
from one_provider_mad.guest.reading import GIVEN, KEYS, SECRET
from one_provider_mad.providers.interface import CheckResult, ConsoleSource, LoginPlace, Reachability
from one_provider_mad.safe_xml import element_at, text_of
from one_provider_mad.xmlrpc.local import LocalCore

_MOST_CALLS = 3
"""Slow calls of one run for which the command waits; most take a tenth of a second."""

_SHOWN_LINES = 8
"""Lines of the console's end that are shown."""

_TRY_SECONDS = 10.0

_RDP = 3389
"""Port of Windows' remote desktop, whose server waits for the client's first words."""

_LONGEST_BANNER = 255
"""Bytes of SSH's first line (RFC 4253, section 4.2)."""

_BROKEN = re.compile(r"Kernel panic|[Ee]mergency (mode|shell)|Give root password for|grub rescue|\(initramfs\)")
"""Finds the texts of Linux guests that do not start."""


class Found(NamedTuple):
    """The result of the checks.

    Attributes:
        deploy_id: the instance, "" for none.
        results: findings, in the order in which they are to be read.
        place: address, user and port of the login.
        console: last lines of the console.
    """

    deploy_id: str
    results: list[CheckResult]
    place: LoginPlace
    console: Sequence[str]


@click.command("reach", short_help="Say why one cannot log in to a VM, and what to do.")
@click.argument("name", shell_complete=complete_name)
@click.option(
    "--vm", "vm_id", type=click.IntRange(min=0), required=True, shell_complete=complete_vm_id, help="The VM's number."
)
@click.option("--try", "is_tried", is_flag=True, help="Also connect to the login's port from this machine.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(name: str, vm_id: int, is_tried: bool, is_json: bool) -> None:
    """Check everything between you and a login to VM in the cloud of NAME; nothing is changed.

    State, status checks, public address, route, rules, keys, and the end of the console. Exit code 3 when something
    stands in the way.
    """
    has_key = key_in_context(vm_id, os.environ)
    found = ask(
        name, os.environ, lambda cloud: _look(cloud, vm_id, has_key=has_key), calls=_MOST_CALLS, is_quiet=is_json
    )
    if is_tried:
        with progress(f"connecting to {found.place.address}", is_wanted=not is_json):
            found.results.append(asyncio.run(_tried(found.place)))
    if is_json:
        entry = {
            "vm_id": vm_id,
            "deploy_id": found.deploy_id or None,
            "login": {"address": found.place.address, "user": found.place.user, "port": found.place.port},
            "results": [result_entry(each) for each in found.results],
            "console": found.console,
        }
        click.echo(json.dumps(entry, indent=2))
    else:
        _show(found, name=name, vm_id=vm_id)
    if any(each.is_well is False for each in found.results):
        raise SystemExit(NOT_WELL)


async def _look(cloud: Cloud, vm_id: int, *, has_key: bool | None) -> Found:
    provider = cloud.provider
    if not isinstance(provider, Reachability):
        raise cloud.lacks("checks of a login")
    try:
        deploy_id = (await cloud.instance_of(vm_id)).deploy_id
    except NoInstance as error:
        found, _, remedy = error.message.partition(": ")
        return Found("", [CheckResult(what="instance", is_well=False, found=found, remedy=remedy)], LoginPlace(), [])
    results = list(await provider.obstacles(deploy_id, has_key=has_key))
    place, console = await provider.login_place(deploy_id), list[str]()
    if isinstance(provider, ConsoleSource):
        try:
            console = list(console_lines(await provider.console_text(deploy_id)))[-_SHOWN_LINES:]
        except ProviderError as error:
            remedy = "allow that call to see the console here"
            results.append(CheckResult(what="console", is_well=None, found=str(error), remedy=remedy))
        else:
            is_stopped = any(each.what == "instance" and each.is_well is False for each in results)
            results.append(_console(console, is_stopped=is_stopped))
    return Found(deploy_id, results, place, console)


def _console(lines: Sequence[str], *, is_stopped: bool) -> CheckResult:
    """Return what the end of the console says of the guest's start."""
    if not lines:
        found = "no text yet"
        return CheckResult(what="console", is_well=None, found=found, remedy="wait some minutes after the start")
    broken = next((line for line in lines if _BROKEN.search(line)), "")
    if broken:
        remedy = "the guest did not start: another image, or repair its volume from another VM"
        return CheckResult(what="console", is_well=False, found=broken.strip(), remedy=remedy)
    if is_stopped:
        found, remedy = "its end is below, from before the instance stopped", "look there for why, if nobody stopped it"
        return CheckResult(what="console", is_well=None, found=found, remedy=remedy)
    if any(line.rstrip().endswith("login:") for line in lines):
        return CheckResult(what="console", is_well=True, found="the guest waits for a login")
    return CheckResult(what="console", is_well=True, found="no known fault in its end, which is below")


def key_in_context(vm_id: int, environ: Mapping[str, str]) -> bool | None:
    """Return whether the VM's CONTEXT has a key or a password.

    None if that is not known: the local OpenNebula cannot be asked, or USER_DATA may hold a key.
    """
    try:
        document = LocalCore(environ).document("one.vm.info", vm_id)
    except MadError:
        return None
    context = element_at(document, "TEMPLATE/CONTEXT")
    if context is None:
        return False
    given = {each.tag for each in context if text_of(each).strip()}
    if given & {*KEYS, *SECRET}:
        return True
    return None if given & set(GIVEN) else False


async def _tried(place: LoginPlace) -> CheckResult:
    """Connect to the login's port, and read SSH's first line."""
    what = f"port {place.port}"
    if not place.address:
        return CheckResult(what=what, is_well=False, found="there is no address to connect to", remedy="see above")
    try:
        async with asyncio.timeout(_TRY_SECONDS):
            reader, writer = await asyncio.open_connection(place.address, place.port)
            try:
                banner = b"" if place.port == _RDP else await reader.read(_LONGEST_BANNER)
            finally:
                writer.close()
    except TimeoutError:
        found = f"{place.address} did not answer within {_TRY_SECONDS:g} s: a rule, a route or a firewall drops packets"
        return CheckResult(what=what, is_well=False, found=found, remedy="see the crosses above, and your own firewall")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        remedy = "refused: no server listens, see the console; else see the crosses above"
        return CheckResult(what=what, is_well=False, found=f"{place.address}: {reason}", remedy=remedy)
    said = banner.splitlines()[0].decode("ascii", "replace") if banner else "accepts connections"
    return CheckResult(what=what, is_well=True, found=f"{place.address}: {said}")


def _show(found: Found, *, name: str, vm_id: int) -> None:
    for result in found.results:
        show_result(result)
    if found.console:
        click.echo("")
        click.echo(f"the end of its console (one-provider console {name} --vm {vm_id} has all of it):")
        for line in found.console:
            click.echo(f"    {line}")
    is_up = all(each.is_well is not False for each in found.results if each.what == "instance")
    if found.place.address and is_up:
        click.echo("")
        click.echo(login_line(found.place))


def login_line(place: LoginPlace) -> str:
    """Return how one logs in, as a command where there is one."""
    user = place.user or "USER"
    if place.port == _RDP:
        return f"log in: by remote desktop to {place.address}, as {place.user or 'Administrator'}"
    return f"log in: ssh {user}@{place.address}"
