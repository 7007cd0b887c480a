"""Wraps long lines between words on a terminal; output to a pipe or file keeps one line for each entry."""

from __future__ import annotations

import shutil
import sys
from textwrap import wrap


def wrapped(text: str, *, first: str = "", further: int) -> str:
    """Return a text in lines as wide as the terminal; unchanged where stdout is no terminal.

    A word longer than a line, such as a path, stays whole, so that it can be copied.

    Args:
        text: without colours, whose characters would count.
        first: indentation of the first line.
        further: blanks before each further line; fewer on a narrow terminal.
    """
    if not sys.stdout.isatty():
        return first + text
    width = shutil.get_terminal_size().columns
    lines = wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=" " * min(further, width // 4),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)
