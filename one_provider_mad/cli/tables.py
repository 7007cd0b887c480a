"""Writes tables: ruled and coloured on a terminal, plain columns elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from one_provider_mad.cli.decode import printable

_LEAST_WIDTH = 12
"""Characters that every other column keeps on a narrow terminal, if its cells have as many."""

_RULES = 3
"""Characters around a cell."""


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
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *clean])
    click.echo("\n".join(lines))


def _ruled(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    console = Console()
    whole = _whole_columns(head, rows, width=console.width)
    for place, name in enumerate(head):
        table.add_column(name, overflow="fold", no_wrap=place in whole)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _whole_columns(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> set[int]:
    """Return the columns to be kept whole: the first, since ids are copied, and short ones while there is room."""
    longest = [max(map(len, cells)) for cells in zip(head, *rows, strict=True)]
    room = width - _RULES * len(head) - 1 - sum(min(length, _LEAST_WIDTH) for length in longest)
    whole = set()
    for place in sorted(range(len(head)), key=lambda place: (place > 0, longest[place])):
        needed = max(longest[place] - _LEAST_WIDTH, 0)
        if needed <= room:
            room -= needed
            whole.add(place)
    return whole
