"""Writes tables: ruled and coloured on a terminal, plain columns elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from one_provider_mad.cli.decode import printable


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to stdout.

    Args:
        head: names of the columns.
        rows: cells; control characters in them are escaped.
    """
    clean = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _ruled(head, clean)
        return
    widths = [max(len(row[column]) for row in [head, *clean]) for column in range(len(head))]
    for row in [head, *clean]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _ruled(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    for name in head:
        table.add_column(name, overflow="fold")  # an id must stay whole to be copied
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
