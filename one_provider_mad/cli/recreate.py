"""`one-provider recreate`: recreates a VM that its cloud had no room for, or whose instance its cloud took back.

OpenNebula's hooks call it, too (cli/install_hook.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import syslog

import click

from one_provider_mad.cli.recreation import Outcome, recreate
from one_provider_mad.domain import VmId
from one_provider_mad.errors import MadError
from one_provider_mad.masking import masked

_MOST_ERRORS, _ERROR_PAUSE = 10, 30.0
"""How often, and after how many seconds, the hook is called again when OpenNebula, journal or cloud cannot be asked."""


@click.command("recreate", short_help="Recreate a VM that its cloud refused or took back.")
@click.argument("vm_id", type=click.IntRange(min=0))
@click.option("--dry-run", "is_dry", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--hook", "is_hook", is_flag=True, help="As OpenNebula's hook: with pauses, and again after an error.")
@click.option("--tries", type=click.IntRange(min=0), default=0, help="How often the hook has met an error before.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(vm_id: int, is_dry: bool, is_hook: bool, tries: int, is_json: bool) -> int:
    """Recreate the VM with this ID, so that OpenNebula's scheduler places it anew.

    Only a VM in BOOT_FAILURE that its cloud refused for want of room or by a quota, three times in a row at most, and,
    where [spot] or the VM's template wants that, one whose instance its cloud took back. No other VM is touched.
    """
    if is_hook and not is_dry:
        outcome = _as_hook(VmId(vm_id), tries)
    else:
        outcome = recreate(VmId(vm_id), os.environ, is_dry=is_dry, is_paced=is_hook)
    if is_json:
        click.echo(json.dumps({"vm_id": vm_id, "is_recreated": outcome.is_recreated, "sentence": outcome.sentence}))
    else:
        click.echo(outcome.sentence)
    return 0 if outcome.is_recreated or is_hook else 1


def _as_hook(vm_id: VmId, tries: int) -> Outcome:
    """Recreate the VM, or have the command called again after a pause; never keep the hook manager waiting.

    Args:
        vm_id: the VM.
        tries: how often the command was called again for an error.

    Raises:
        MadError: as `recreate`, too often.
    """
    try:
        outcome = recreate(vm_id, os.environ, is_paced=True)
    except (MadError, click.ClickException) as error:
        reason = error.format_message() if isinstance(error, click.ClickException) else str(error)
        if tries >= _MOST_ERRORS:
            _log(f"VM {vm_id} was not recreated: {reason}")
            raise
        outcome = Outcome(
            sentence=f"VM {vm_id} is looked at again in {_ERROR_PAUSE:.0f} s: {reason}", wait=_ERROR_PAUSE
        )
        tries += 1
    _log(outcome.sentence)
    if outcome.wait:
        _call_again(vm_id, tries, wait=outcome.wait)
    return outcome


def _log(sentence: str) -> None:
    """Write a sentence to the system's log, as `one-provider`: a later call has no other place."""
    syslog.openlog("one-provider")
    syslog.syslog(masked(sentence))


def _call_again(vm_id: VmId, tries: int, *, wait: float) -> None:
    """Have the hook called again after a pause.

    A shell waits, which takes little memory: OpenNebula runs ten hooks at a time, of which none may sleep.
    """
    again = [os.path.abspath(sys.argv[0]), "recreate", str(vm_id), "--hook", "--tries", str(tries)]
    subprocess.Popen(  # noqa: S603 - this very program
        ["/bin/sh", "-c", 'sleep "$1"; shift; exec "$@"', "sh", f"{wait:.0f}", *again],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
