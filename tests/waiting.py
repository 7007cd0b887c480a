"""Waits for conditions that a test checks, never for time to pass: the only file here that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")

HANG = 60.0
"""Seconds after which a wait has hung: many times what it takes beside twenty busy processes, and no test's subject."""


def until(look: Callable[[], _Found], *, seconds: float = HANG, pause: float = 0.02) -> _Found:
    """Call `look` until it returns a true value, and return that; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s, last seen: {found!r}"
        time.sleep(pause)
    return found
