"""Writes the man pages: those of `one-provider` from its commands, and those of the drivers from man/.

`python tools/manual.py build/man` writes them, dated by SOURCE_DATE_EPOCH or the last commit, so that the same sources
give the same files. click-man is not used: it does not see commands that are imported on demand, escapes nothing, and
knows no exit codes, files or environment.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from one_provider_mad import __version__
from one_provider_mad.cli.main import main as program

ROOT = Path(__file__).parent.parent
BY_HAND = ROOT / "man"

ENVIRONMENT = {
    "ONE_LOCATION": "OpenNebula's directory, where it is not installed system-wide.",
    "ONE_PROVIDER_MAD_CONF": "Directory of the configuration files, instead of the one under FILES.",
    "ONE_XMLRPC": "URL of the local oned. Default: the port and address that oned has written into its var directory.",
    "ONE_AUTH": "File with the user and password for the local oned. Default: ~/.one/one_auth.",
}

FILES = {
    "/etc/one/one_provider_mad/NAME.toml": "The settings of NAME; with ONE_LOCATION in $ONE_LOCATION/etc.",
    "/var/lib/one/one_provider_mad_NAME.journal": "The journal of NAME; with ONE_LOCATION in $ONE_LOCATION/var.",
    "/var/log/one/one_vmm_provider_NAME.log": "The action driver's log; with ONE_LOCATION in $ONE_LOCATION/var.",
    "/var/log/one/one_im_provider_NAME.log": "The information driver's log, likewise.",
}

DRIVERS = ("one_vmm_provider", "one_im_provider")


def pages(date: str) -> dict[str, str]:
    """All pages by the name of their file."""
    written = {f"{_name(context)}.1": _page(context, date) for context in _contexts(program, "one-provider", None)}
    by_hand = {
        path.name: path.read_text().replace("@DATE@", date).replace("@VERSION@", __version__)
        for path in sorted(BY_HAND.glob("*.1"))
    }
    return written | by_hand


def _contexts(command: click.Command, name: str, parent: click.Context | None) -> Iterator[click.Context]:
    """The context of a command, and of each command in it."""
    context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    yield context
    for child, inner in _children(context):
        yield from _contexts(inner, child, context)


def _children(context: click.Context) -> list[tuple[str, click.Command]]:
    group = context.command
    if not isinstance(group, click.Group):
        return []
    found = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return [(name, command) for name, command in found if command is not None and not command.hidden]


def _name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(context: click.Context, date: str) -> str:
    command, name = context.command, _name(context)
    usage = " ".join(command.collect_usage_pieces(context))
    summary = command.short_help or (command.help or "").partition("\n")[0]
    lines = [
        f'.TH {_roff(name.upper())} 1 "{date}" "one\\-provider\\-mad {__version__}" "one\\-provider\\-mad"',
        ".nh",  # names are searched for, and copied
        ".SH NAME",
        f"{_roff(name)} \\- {_roff(summary[:1].lower() + summary[1:].rstrip('.'))}",
        ".SH SYNOPSIS",
        f"{_bold(context.command_path)} {_roff(usage)}",
        ".SH DESCRIPTION",
        *_paragraphs(inspect.cleandoc(command.help or "")),
        ".SH OPTIONS",
        *_list(_options(context)),
    ]
    children = {f"{name}-{child}": inner.get_short_help_str(200) for child, inner in _children(context)}
    if children:
        lines += [".SH COMMANDS", *_list({f"{page}(1)": text for page, text in children.items()})]
    if context.parent:
        lines += [".SH SEE ALSO", f"{_bold('one-provider')}(1), which has the exit status, environment and files"]
        return "\n".join(lines) + "\n"
    codes = (program.epilog or "").strip().removeprefix("Exit codes: ").rstrip(".").split("; ")
    lines += [".SH EXIT STATUS", *_list(dict(code.split(" ", 1) for code in codes))]
    lines += [".SH ENVIRONMENT", *_list(ENVIRONMENT), ".SH FILES", *_list(FILES)]
    lines += [".SH SEE ALSO", ", ".join(f"{_bold(each)}(1)" for each in DRIVERS)]
    return "\n".join(lines) + "\n"


def _options(context: click.Context) -> dict[str, str]:
    """The help of each option by its names, as --help prints them."""
    options = [each for each in context.command.get_params(context) if isinstance(each, click.Option)]
    return dict(record for option in options if (record := option.get_help_record(context)) is not None)


def _list(entries: dict[str, str]) -> Iterator[str]:
    for term, text in entries.items():
        yield from (".TP", _bold(term), _roff(text))


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text; a backspace marks one that keeps its lines (click, "Preventing Rewrapping")."""
    for number, paragraph in enumerate(text.split("\n\n")):
        lines = [line for line in paragraph.strip("\n").split("\n") if line != "\b"]
        if number:
            yield ".PP"
        if "\b" in paragraph:
            yield from (".RS 4", ".nf", *(_roff(line.strip()) for line in lines), ".fi", ".RE")
        else:
            yield _roff(" ".join(lines))


_ESCAPED = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})


def _roff(text: str) -> str:
    """A text as roff shows it letter by letter (groff_char(7), groff_man_style(7))."""
    shown = text.translate(_ESCAPED)
    return rf"\&{shown}" if shown.startswith(".") else shown


def _bold(text: str) -> str:
    return rf"\fB{_roff(text)}\fR"


def _date() -> str:
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    if seconds is None:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d}"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file, page in pages(_date()).items():
        (folder / file).write_text(page)
    print(f"{len(list(folder.glob('*.1')))} pages in {folder}: man -l {folder}/one-provider.1")
