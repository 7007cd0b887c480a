"""How to go over many instances without keeping anybody waiting.

Not in a thread: one that computes gives the interpreter up every five milliseconds only (`sys.getswitchinterval`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

PIECE = 500
"""Items that are worked on at a time: that takes a millisecond at most."""


async def by_pieces(items: Sequence[_Item], work: Callable[[Sequence[_Item]], Iterable[_Found]]) -> list[_Found]:
    """What work finds in each piece, in order; between two pieces everybody else has a turn."""
    found: list[_Found] = []
    for at in range(0, len(items), PIECE):
        if at:
            await asyncio.sleep(0)
        found += work(items[at : at + PIECE])
    return found
