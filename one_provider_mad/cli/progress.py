"""Shows on a terminal that something is under way; whoever else reads sees nothing of it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext


def progress(text: str, *, is_wanted: bool = True) -> AbstractContextManager[object]:
    """Show this, moving, until it is left."""
    if not (is_wanted and sys.stdout.isatty()):
        return nullcontext()
    from rich.console import Console

    return Console().status(text)
