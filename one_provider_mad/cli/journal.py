"""`one-provider journal`: shows a driver's journal, and accepts another account or machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping

import click
from click.shell_completion import CompletionItem

from one_provider_mad.cli import journal_show
from one_provider_mad.cli.names import complete_name, names_that_begin
from one_provider_mad.journal.upkeep import forget_fact
from one_provider_mad.live_provider import ACCOUNT
from one_provider_mad.orphans.reconciler import MACHINE
from one_provider_mad.settings import Places, load


class _NameOrCommand(click.Group):
    """A command group that runs `journal NAME` as `journal show NAME`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Before a second word the first is a command, perhaps a mistyped one, for which click suggests another.
        words = [each for each in args if not each.startswith("-")]
        is_name = len(words) == 1 and words[0] == args[0] and words[0] not in self.commands
        return super().parse_args(ctx, ["show", *args] if is_name else args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [*map(CompletionItem, names_that_begin(incomplete)), *super().shell_complete(ctx, incomplete)]


@click.group("journal", cls=_NameOrCommand, short_help="Show a driver's journal, or accept another account.")
def command() -> None:
    """Show the journal of a NAME, `one-provider journal NAME`, or accept another account or machine."""


@command.command("show", short_help="Show open requests, debts and attempts.")
@click.argument("name", shell_complete=complete_name)
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def show(name: str, is_json: bool) -> None:
    """Show unanswered requests, debts, and attempts to create."""
    found = journal_show.collect(name, os.environ)
    if is_json:
        click.echo(json.dumps(found, indent=2))
    else:
        journal_show.show(found)


@command.command("accept", short_help="Accept another account or region, or this machine.")
@click.argument("name", shell_complete=complete_name)
@click.option("--json", "is_json", is_flag=True, help="One JSON array of sentences.")
def accept(name: str, is_json: bool) -> None:
    """Accept the account and region of NAME's current credentials, and this machine.

    A driver refuses every action when its credentials belong to another account or region than before, since all its
    instances seem to be gone there. When its journal was written on another machine, it terminates no orphan and no
    earlier debt, since a copy of a front-end does not know what the original has done since.
    """
    sentences = list(accept_here(name, os.environ))
    click.echo(json.dumps(sentences, indent=2) if is_json else "\n".join(sentences))


def accept_here(name: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Delete the recorded account and machine, so that the driver records the present ones; yield a sentence for each.

    Raises:
        MadError: the configuration or the journal cannot be used.
    """
    places = Places.from_environment(environ)
    path = places.journal(load(name, places))
    before = forget_fact(path, ACCOUNT)
    if before is None:
        yield f"{path} has no account recorded: the next action records the credentials' account"
    else:
        yield f"{path} no longer insists on {before}: the next action records the credentials' account"
    if forget_fact(path, MACHINE) is not None:
        yield (
            f"{path} no longer insists on the machine that wrote it: from now on the OpenNebula on this machine decides"
            " which instances are terminated, so make sure that the other one is off"
        )
