"""`one-provider journal accept`: confirm that a driver's credentials, or its machine, are others on purpose."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import click

from one_provider_mad.journal import forget_fact
from one_provider_mad.orphans.reconciler import MACHINE
from one_provider_mad.settings import Places, load


@click.group("journal", short_help="Look after a driver's journal.")
def command() -> None:
    """Look after the journal of a NAME: what a crash must not forget."""


@command.command("accept", short_help="Accept another account or region, or this machine.")
@click.argument("name")
def accept(name: str) -> None:
    """Accept whatever account and region the configuration of NAME leads to from now on, and this machine.

    A driver refuses every action when its credentials lead elsewhere than before, since in another account all its
    instances look as if they were gone. It terminates no orphan when its journal was written on another machine, since
    a copy of a front-end knows nothing of what the original has done since.
    """
    for sentence in accept_here(name, os.environ):
        click.echo(sentence)


def accept_here(name: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Forget the recorded account and machine, so that the driver records its own; yields what was done, in sentences.

    Raises:
        MadError: the configuration or the journal cannot be used.
    """
    places = Places.from_environment(environ)
    path = places.journal(load(name, places))
    before = forget_fact(path, "account")
    if before is None:
        yield f"{path} has no account recorded: the next action records the one it finds"
    else:
        yield f"{path} no longer insists on {before}: the next action records the account it finds"
    if forget_fact(path, MACHINE) is not None:
        yield f"{path} no longer insists on the machine it was written on"
