"""`one-provider journal`: what a driver's journal holds, and how to confirm another account or machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping

import click

from one_provider_mad.cli import journal_show
from one_provider_mad.journal.upkeep import forget_fact
from one_provider_mad.orphans.reconciler import MACHINE
from one_provider_mad.settings import Places, load


class _NameOrCommand(click.Group):
    """`journal NAME` is `journal show NAME`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_name = bool(args) and not args[0].startswith("-") and args[0] not in self.commands
        return super().parse_args(ctx, ["show", *args] if is_name else args)


@click.group("journal", cls=_NameOrCommand, short_help="Show a driver's journal, or accept another account.")
def command() -> None:
    """Show the journal of a NAME, `one-provider journal NAME`: what a crash must not forget."""


@command.command("show", short_help="Show what is open, owed and attempted.")
@click.argument("name")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def show(name: str, is_json: bool) -> None:
    """Show requests without an answer, debts, and attempts to create."""
    found = journal_show.collect(name, os.environ)
    if is_json:
        click.echo(json.dumps(found, indent=2))
    else:
        journal_show.show(found)


@command.command("accept", short_help="Accept another account or region, or this machine.")
@click.argument("name")
@click.option("--json", "is_json", is_flag=True, help="One JSON array of sentences.")
def accept(name: str, is_json: bool) -> None:
    """Accept whatever account and region the configuration of NAME leads to from now on, and this machine.

    A driver refuses every action when its credentials lead elsewhere than before, since in another account all its
    instances look as if they were gone. It terminates no orphan, and nothing that is owed from before, when its journal
    was written on another machine, since a copy of a front-end knows nothing of what the original has done since.
    """
    sentences = list(accept_here(name, os.environ))
    click.echo(json.dumps(sentences, indent=2) if is_json else "\n".join(sentences))


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
        yield (
            f"{path} no longer insists on the machine it was written on: from now on instances are terminated by what"
            " the OpenNebula on this one says, so see that the other one runs no more"
        )
