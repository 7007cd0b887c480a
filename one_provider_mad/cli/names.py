"""NAMEs and VM ids on the command line: checks, and what a shell completes them with.

A shell shows all that a completion prints in the middle of the line that a person types. So a completion prints no
error, and creates no file: what cannot be read has no completions.
"""

from __future__ import annotations

import os
from contextlib import suppress

import click

from one_provider_mad.errors import SettingsError
from one_provider_mad.settings import EMBEDDED, NAME, Places, known_names, load


def check_name(name: str) -> None:
    """Raise SettingsError for an invalid NAME."""
    if not NAME.fullmatch(name):
        raise SettingsError(f"{name!r} is no NAME: use up to 64 letters, digits and `_.-`, and do not begin with `.-`")


def complete_name(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the NAMEs known here that begin with a text."""
    return names_that_begin(incomplete)


def names_that_begin(incomplete: str) -> list[str]:
    """Return the NAMEs known here that begin with a text, and `simulated`, which needs no file."""
    with suppress(Exception):
        places = Places.from_environment(os.environ, may_create=False)
        return sorted(name for name in {EMBEDDED, *known_names(places)} if name.startswith(incomplete))
    return []


def complete_vm_id(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the VMs in the journal of the command's NAME whose number begins with a text."""
    # Behind an option that still lacks its value click has not assigned the arguments before it to their parameters.
    name = ctx.params.get("name") or next(iter(ctx.args), "")
    return vm_ids_of(name, incomplete)


def vm_ids_of(name: str, incomplete: str) -> list[str]:
    """Return the VMs in the journal of NAME whose number begins with a text."""
    from one_provider_mad.journal.reader import read_vm_ids  # sqlite3 is not needed for a NAME

    with suppress(Exception):
        places = Places.from_environment(os.environ, may_create=False)
        known = read_vm_ids(places.journal(load(name, places)))
        return [str(vm_id) for vm_id in known if str(vm_id).startswith(incomplete)]
    return []
