"""Cleans the text of a console for a terminal: removes control sequences and invisible characters."""

from __future__ import annotations

import re
from collections.abc import Sequence

from one_provider_mad.characters import BREAKS, HIDDEN
from one_provider_mad.masking import masked

_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
"""A terminal control sequence (ECMA-48, 5.3 to 5.6): one that begins with CSI, a string such as a window's title, or a
short one."""


def console_lines(text: str) -> Sequence[str]:
    """Return the lines as a terminal would leave them, without colours; empty lines at the end are left out.

    Of a line that was written over, as by a progress bar, the last text counts. Known secrets are masked.
    """
    lines = [_line(each) for each in _SEQUENCE.sub("", text).replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _line(text: str) -> str:
    last = next((part for part in reversed(text.split("\r")) if part.strip()), "")
    return masked(HIDDEN.sub("", BREAKS.sub("", last.expandtabs()))).rstrip()
