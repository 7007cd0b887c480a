"""Works on many instances in batches, so that other tasks are not kept waiting.

Not in a thread: a computing thread gives the interpreter up only every five milliseconds (`sys.getswitchinterval`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

BATCH = 500
"""Items in one batch, which takes a millisecond at most."""


async def in_batches(items: Sequence[_Item], work: Callable[[Sequence[_Item]], Iterable[_Found]]) -> list[_Found]:
    """Return the results of `work` for all items, in order; other tasks run between two batches."""
    found: list[_Found] = []
    for at in range(0, len(items), BATCH):
        if at:
            await asyncio.sleep(0)
        found += work(items[at : at + BATCH])
    return found
