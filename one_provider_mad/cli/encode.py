"""`one-provider encode`: writes one line as oned of a given release sends it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import click

from one_provider_mad.actions.intents import LCM_STATES
from one_provider_mad.cli.driver_message import (
    DEFAULT_HOST,
    DEFAULT_STIME,
    DEFAULT_TYPE,
    Details,
    default_template,
    wire_line,
)
from one_provider_mad.cli.names import complete_name, vm_ids_of
from one_provider_mad.cli.releases import ReleaseChoice
from one_provider_mad.cli.template_file import file_source_of
from one_provider_mad.cli.verbs import CONTROLS, LCM_NUMBERS, RELEASES, VERBS, Release, latest_release, taken_as
from one_provider_mad.domain import Template

_OPERAND = re.compile(r"(?P<key>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)", re.DOTALL)


_HELP = """\
Write the line that oned sends for ACTION, ready to be piped into a driver.

\b
  one-provider encode DEPLOY --vm-id 7 | one_vmm_provider "-t 15 -r 0 simulated"
  one-provider encode SHUTDOWN --vm-id 7 --deploy-id sim-1 --lcm-state SHUTDOWN_POWEROFF
  one-provider encode ATTACHDISK --vm-id 7 --deploy-id sim-1 --operand SIZE=1024

"""
_ACTIONS = f"The actions are {', '.join((*CONTROLS, *VERBS))}."


def _complete_action(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [action for action in (*CONTROLS, *VERBS) if action.startswith(incomplete.upper())]


def _complete_lcm_state(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [state for state in LCM_NUMBERS if state.startswith(incomplete.upper())]


def _complete_vm_id(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return vm_ids_of(ctx.params.get("cloud") or DEFAULT_TYPE, incomplete)


@click.command("encode", help=_HELP + _ACTIONS, short_help="Write one line as oned sends it.")
@click.argument("action", shell_complete=_complete_action)
@click.argument("vm", type=int, required=False, metavar="[VM_ID]", shell_complete=_complete_vm_id)
@click.option("--vm-id", type=int, metavar="N", shell_complete=_complete_vm_id, help="The VM's number.")
@click.option(
    "--template",
    "file",
    type=click.Path(),
    metavar="FILE",
    help="The VM's template, in OpenNebula's syntax; - reads stdin.",
)
@click.option(
    "--type",
    "cloud",
    metavar="NAME",
    shell_complete=complete_name,
    help=f"TYPE in the built-in template ({DEFAULT_TYPE}).",
)
@click.option(
    "--release", type=ReleaseChoice(RELEASES, taken_as), help="OpenNebula release (the newest that sends ACTION)."
)
@click.option(
    "--lcm-state",
    metavar="N|NAME",
    shell_complete=_complete_lcm_state,
    help="The VM's LCM_STATE (the most frequent one for ACTION).",
)
@click.option("--deploy-id", default="", metavar="ID", help="The cloud's id of the instance (empty).")
@click.option("--name", default="", metavar="NAME", help="The VM's name (NAME in the template, else one-N).")
@click.option("--host", default=DEFAULT_HOST, metavar="NAME", show_default=True, help="The OpenNebula host.")
@click.option("--host-id", type=int, default=0, metavar="N", show_default=True, help="Its number.")
@click.option("--stime", type=int, default=DEFAULT_STIME, metavar="SECONDS", show_default=True, help="The VM's STIME.")
@click.option("--seq", type=int, default=0, metavar="N", show_default=True, help="Number of the history record.")
@click.option("--operand", "operands", multiple=True, metavar="KEY=VALUE", help="Operand of ACTION; may be repeated.")
@click.option("--snapshot-id", type=int, metavar="N", help="OpenNebula's number of the snapshot (SNAPSHOT_ID).")
@click.option("--hypervisor-id", metavar="ID", help="The cloud's id of the snapshot (HYPERVISOR_ID).")
def command(
    action: str,
    vm: int | None,
    vm_id: int | None,
    file: str | None,
    cloud: str | None,
    release: Release | None,
    lcm_state: str | None,
    deploy_id: str,
    name: str,
    host: str,
    host_id: int,
    stime: int,
    seq: int,
    operands: tuple[str, ...],
    snapshot_id: int | None,
    hypervisor_id: str | None,
) -> None:
    """Write the line that oned sends for ACTION, ready to be piped into a driver."""
    word = action.upper()
    if word in CONTROLS:
        click.echo(wire_line(word), nl=False)
        return
    if word not in VERBS and vm is None and vm_id is None:
        raise click.UsageError(f"no release of OpenNebula sends {word}. {_actions(word)}")
    number = _vm_id(word, vm, vm_id)
    whose = release or latest_release(word)
    details: Details = {
        "template": _template(file, cloud),
        "host": host,
        "host_id": host_id,
        "deploy_id": deploy_id,
        "name": name,
        "stime": stime,
        "seq": seq,
        "operand": _operand(operands, snapshot_id, hypervisor_id),
    }
    if lcm_state is not None:
        details["lcm_state"] = _lcm_state(lcm_state)
    try:
        line = wire_line(word, vm_id=number, release=whose, **details)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _note_oddities(word, whose)
    click.echo(line, nl=False)


def _vm_id(action: str, vm: int | None, vm_id: int | None) -> int:
    if vm is not None and vm_id is not None and vm != vm_id:
        raise click.UsageError(f"two VMs are named, {vm} and {vm_id}")
    number = vm if vm_id is None else vm_id
    if number is None:
        raise click.UsageError(f"{action} needs a VM: name it with --vm-id N")
    return number


def _template(file: str | None, cloud: str | None) -> Template:
    if file is None:
        return default_template(cloud or DEFAULT_TYPE)
    if cloud is not None:
        raise click.UsageError("--type belongs to the built-in template: with --template, write TYPE into the file")
    return file_source_of(file).template


def _lcm_state(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10:
        number = int(text)
        if number not in LCM_STATES:
            _note(f"no release has an LCM_STATE {number}")
        return number
    name = text.upper().replace("-", "_")
    if name not in LCM_NUMBERS:
        close = difflib.get_close_matches(name, LCM_NUMBERS, n=1) or ["SHUTDOWN_POWEROFF"]
        raise click.UsageError(f"there is no LCM_STATE {text!r}; expected a number or a name such as {close[0]}")
    return LCM_NUMBERS[name]


def _operand(operands: Sequence[str], snapshot_id: int | None, hypervisor_id: str | None) -> dict[str, str]:
    named = {} if snapshot_id is None else {"SNAPSHOT_ID": str(snapshot_id)}
    if hypervisor_id is not None:
        named["HYPERVISOR_ID"] = hypervisor_id
    for text in operands:
        match = _OPERAND.fullmatch(text)
        if match is None:
            raise click.UsageError(f"--operand expects KEY=VALUE, got {text!r}")
        named[match["key"].upper()] = match["value"]
    return named


def _note_oddities(action: str, release: Release) -> None:
    verb = VERBS.get(action)
    if verb is None:
        _note(f"no release of OpenNebula sends {action}. {_actions(action)}")
    elif release not in verb.releases:
        _note(f"{action} is not sent by OpenNebula {release}, only by {' and '.join(verb.releases) or '4.14'}")


def _actions(action: str) -> str:
    """Return the action most like a mistyped one as a question, and the names of all actions."""
    close = difflib.get_close_matches(action, (*CONTROLS, *VERBS), n=1)
    return (f"Did you mean {close[0]}? " if close else "") + _ACTIONS


def _note(sentence: str) -> None:
    click.echo(f"note: {sentence}", err=True)
