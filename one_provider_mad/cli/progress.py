"""Shows progress on a terminal; output to a pipe or file does not contain it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext


def progress(text: str, *, is_wanted: bool = True) -> AbstractContextManager[object]:
    """Return a context in which the text and a spinner are shown, on a terminal only."""
    if not (is_wanted and sys.stdout.isatty()):
        return nullcontext()
    from rich.console import Console

    return Console().status(text)
