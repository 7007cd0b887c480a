"""`one-provider`, the operator's tool: its commands and exit codes.

Every command has a module of its own, imported only when it is called. An error is one sentence on stderr, and an exit
code for scripts; with --json stdout holds JSON and nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from one_provider_mad import __version__
from one_provider_mad.errors import MadError
from one_provider_mad.masking import masked

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

_CODES = """\
Exit codes: 0 success; 1 failure; 2 wrong usage; 3 a check failed (check, purge, reach, upgrade); 130 interrupted."""

COMMANDS: Mapping[str, str] = {
    "check": "one_provider_mad.cli.check",
    "completion": "one_provider_mad.cli.completion",
    "config": "one_provider_mad.cli.config",
    "console": "one_provider_mad.cli.console",
    "cost": "one_provider_mad.cli.cost",
    "decode": "one_provider_mad.cli.decode",
    "encode": "one_provider_mad.cli.encode",
    "images": "one_provider_mad.cli.images",
    "install": "one_provider_mad.cli.install",
    "instances": "one_provider_mad.cli.instances",
    "journal": "one_provider_mad.cli.journal",
    "keep-place": "one_provider_mad.cli.keep_place",
    "networks": "one_provider_mad.cli.networks",
    "oned-conf": "one_provider_mad.cli.oned_conf",
    "orphans": "one_provider_mad.cli.orphans",
    "purge": "one_provider_mad.cli.purge",
    "reach": "one_provider_mad.cli.reach",
    "recreate": "one_provider_mad.cli.recreate",
    "tail": "one_provider_mad.cli.tail",
    "template": "one_provider_mad.cli.template",
    "types": "one_provider_mad.cli.instance_types",
    "upgrade": "one_provider_mad.cli.upgrade",
}
"""For each command, the module that defines it as `command`."""

FURTHER_COMMANDS = "one_provider_mad.commands"
"""Entry point group of further commands, such as `demo`, which no module here imports."""


class _Program(click.Group):
    """A group that imports a command when it is called, and reports every failure in one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *_further_commands(), *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = import_module(COMMANDS[cmd_name]).command
            return command
        further = _further_commands().get(cmd_name)
        return super().get_command(ctx, cmd_name) if further is None else further.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not (ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name)):
            # click looks for similar commands among the imported ones, and there are none yet.
            similar = get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"Did you mean {similar[0]!r}?" if similar else f"{ctx.command_path} --help lists them."
            raise click.UsageError(f"No such command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _end_quietly()
        except (click.UsageError, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:  # noqa: BLE001 - an operator gets a sentence, no traceback
            sys.exit(_complain(f"{ctx.command_path} {ctx.invoked_subcommand or ''}".rstrip(), error))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        prog_name = prog_name or "one-provider"
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            _end_quietly()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(MISUSED)
        except click.Abort:
            sys.exit(INTERRUPTED)
        except click.ClickException as error:
            sys.exit(_complain(prog_name, error))
        sys.exit(code if isinstance(code, int) else 0)


@click.group("one-provider", cls=_Program, epilog=_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="one-provider-mad", message="%(prog)s %(version)s")
def main() -> None:
    """Try out, inspect and check the drivers that present a cloud as an OpenNebula host."""


def _further_commands() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # slow to import, and needed by few commands

    return {each.name: each for each in entry_points(group=FURTHER_COMMANDS)}


def _complain(prog_name: str, error: Exception) -> int:
    """Write an error to stderr as one sentence, and return the exit code for it."""
    place, code = prog_name, FAILED
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        place = context.command_path if context is not None else prog_name
        sentence, code = error.format_message(), error.exit_code
    elif isinstance(error, MadError | OSError):
        sentence = str(error)
    else:
        sentence = f"stopped by an unexpected {type(error).__name__}: {error}"
    click.echo(f"{place}: {masked(' '.join(sentence.split()))}", err=True)
    return code


def _end_quietly() -> NoReturn:
    """Exit with 0 after the reader of stdout has closed it; buffered output is dropped."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    sys.exit(0)


if __name__ == "__main__":
    main()
