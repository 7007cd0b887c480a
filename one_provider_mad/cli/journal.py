"""`one-provider journal accept`: confirm that a driver's credentials lead to another account on purpose."""

from __future__ import annotations

import os
from collections.abc import Mapping

import click

from one_provider_mad.journal import forget_fact
from one_provider_mad.settings import Places, load


@click.group("journal", short_help="Look after a driver's journal.")
def command() -> None:
    """Look after the journal of a NAME: what a crash must not forget."""


@command.command("accept", short_help="Accept another account or region.")
@click.argument("name")
def accept(name: str) -> None:
    """Accept whatever account and region the configuration of NAME leads to from now on.

    A driver refuses every action when its credentials lead elsewhere than before, since in another account all its
    instances look as if they were gone.
    """
    click.echo(accept_account(name, os.environ))


def accept_account(name: str, environ: Mapping[str, str]) -> str:
    """Forget the recorded account, so that the next action records its own; returns what was done, as a sentence.

    Raises:
        MadError: the configuration or the journal cannot be used.
    """
    places = Places.from_environment(environ)
    path = places.journal(load(name, places))
    before = forget_fact(path, "account")
    if before is None:
        return f"{path} has no account recorded: the next action records the one it finds"
    return f"{path} no longer insists on {before}: the next action records the account it finds"
