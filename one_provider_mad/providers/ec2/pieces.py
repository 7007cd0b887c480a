"""Works on many instances piece by piece, so that other tasks are not kept waiting.

Not in a thread: a computing thread gives the interpreter up only every five milliseconds (`sys.getswitchinterval`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

PIECE = 500
"""Items in one piece, which takes a millisecond at most."""


async def by_pieces(items: Sequence[_Item], work: Callable[[Sequence[_Item]], Iterable[_Found]]) -> list[_Found]:
    """Return the results of `work` for all pieces, in order; other tasks run between two pieces."""
    found: list[_Found] = []
    for at in range(0, len(items), PIECE):
        if at:
            await asyncio.sleep(0)
        found += work(items[at : at + PIECE])
    return found
